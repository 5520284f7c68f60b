"""Threads: pools that leave nothing running, and an amount of memory that threads share."""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager
from contextvars import copy_context
from typing import TypeVar

from activestore.network.concurrency_limit import current_limit
from activestore.process.forking import renew_after_fork

__all__ = ["Budget", "concurrently", "default_workers", "thread_pool"]

_Item = TypeVar("_Item")
_Found = TypeVar("_Found")
_pools = itertools.count()


def concurrently(
    function: Callable[[_Item], _Found], items: Sequence[_Item], workers: int, *, abandon: Callable[[], object] = lambda: None
) -> list[_Found]:
    """Return what `function` makes of each item, several at once; if one fails, `abandon` is called to end the others.

    Examples:
        >>> concurrently(abs, [-1, 2], 2)
        [1, 2]
    """
    limit = current_limit()
    # Who waits for the others to be done need not be there at all.
    workers = workers if limit is None else min(workers, int(limit.most))
    if min(len(items), workers) <= 1:
        return [function(item) for item in items]
    with thread_pool(min(workers, len(items))) as pool:
        try:
            futures = [pool.submit(copy_context().run, function, item) for item in items]
            # Those that have failed first: the others may wait for long.
            for future in wait(futures, return_when=FIRST_EXCEPTION).done:
                future.result()
            return [future.result() for future in futures]
        except BaseException:
            abandon()
            pool.shutdown(wait=False, cancel_futures=True)
            raise


@contextmanager
def thread_pool(workers: int) -> Iterator[ThreadPoolExecutor]:
    """Give a pool of threads, none of which is at work any more when the `with` block is left."""
    prefix = f"activestore-{next(_pools)}"
    try:
        with ThreadPoolExecutor(workers, thread_name_prefix=prefix) as pool:
            yield pool
    finally:
        # A pool that Ctrl-C interrupts while it starts a thread does not know of that thread.
        for thread in threading.enumerate():
            if thread.name.startswith(f"{prefix}_") and thread.is_alive():
                thread.join()


class Budget:
    """An amount of memory that threads share: who needs more than is left waits until others are done.

    Examples:
        >>> budget = Budget(100)
        >>> with budget.of(70), budget.of(30):
        ...     pass
    """

    def __init__(self, nbytes: int) -> None:
        """Share `nbytes`."""
        self._total = nbytes
        self.renew()
        renew_after_fork(self)

    def renew(self) -> None:
        """Begin anew in a forked child, where nobody holds any."""
        self._left = self._total
        self._changed = threading.Condition()

    @contextmanager
    def of(self, nbytes: int) -> Iterator[None]:
        """Hold `nbytes` for the length of a `with` block; what is more than there is altogether waits to be alone."""
        nbytes = min(nbytes, self._total)
        with self._changed:
            self._changed.wait_for(lambda: self._left >= nbytes)
            self._left -= nbytes
        try:
            yield
        finally:
            with self._changed:
                self._left += nbytes
                self._changed.notify_all()


def default_workers() -> int:
    """Return how many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
