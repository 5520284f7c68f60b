"""Where runs on Dask-backed arrays are computed: where Dask itself would, on a cluster if there is a client of one."""

from __future__ import annotations

import sys
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from weakref import WeakSet

from activestore.process.forking import renew_after_fork

__all__ = ["Cluster", "executor_here"]


@dataclass(frozen=True, slots=True, eq=False)
class Cluster:
    """A cluster that computes chunks."""

    executor: Executor
    """Takes batches of chunks, and is left open after a run."""
    workers: int
    """How many threads its workers have, and so how many batches are computed at once."""


class _Inherited:
    """The clients that a forked child has from its parent, whose threads are not there: who waits for one waits for ever."""

    def __init__(self) -> None:
        self._clients: WeakSet[Any] = WeakSet()  # Any: untyped, and optional
        renew_after_fork(self)

    def __contains__(self, client: object) -> bool:
        return client in self._clients

    def renew(self) -> None:
        """Remember the client that there is at the fork."""
        distributed: Any = sys.modules.get("distributed")  # Any: untyped, and optional
        if distributed is not None:
            with suppress(ValueError):
                self._clients.add(distributed.default_client())


_inherited = _Inherited()


def executor_here() -> Cluster | None:
    """Return the cluster of the `distributed.Client` that is active here; None where threads of our own are to compute.

    They are where there is no client, or only that of a process from which this one was forked; where Dask is set to another
    scheduler; inside of a task of a worker (which would wait for others, and they for it); and where a client cannot be waited
    for. No client is made, and `distributed` is not imported.

    Examples:
        >>> executor_here() is None
        True
    """
    distributed: Any = sys.modules.get("distributed")  # Any: untyped, and optional
    if distributed is None or _is_in_worker(distributed) or _has_other_scheduler():
        return None
    try:
        client = distributed.default_client()
    except ValueError:
        return None
    if client in _inherited or client.status != "running" or client.asynchronous:
        return None
    # The same batch is never to be taken for one that was computed before, whose result is still there.
    executor: Executor = client.get_executor(pure=False)
    # A cluster that grows when there is work may have no worker yet.
    return Cluster(executor, max(1, sum(client.nthreads().values())))


def _is_in_worker(distributed: Any) -> bool:  # Any: untyped, and optional
    try:
        distributed.get_worker()
    except ValueError:
        return False
    return True


def _has_other_scheduler() -> bool:
    """Return whether the user has set Dask to compute elsewhere than with a client."""
    import dask  # noqa: PLC0415  # optional; distributed has imported it

    scheduler = dask.config.get("scheduler", None)
    return isinstance(scheduler, str) and scheduler not in ("dask.distributed", "distributed")
