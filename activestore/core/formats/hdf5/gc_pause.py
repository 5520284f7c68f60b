"""Garbage collection, held back while the HDF5 library reads through Python.

h5py lets one thread at a time into the HDF5 library, and freeing one of its objects waits for that turn as well. Python
collects garbage in whatever thread happens to allocate: in one that fetches the bytes for which the thread in the library
waits, the two would wait for each other for ever.
"""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from activestore.process.forking import renew_after_fork

__all__ = ["held_back"]

_LONGEST_WAIT = 5.0
"""Seconds after which a collection that is under way is taken to wait for this very thread."""


class _Collector:
    """Switches the collector off for as long as one thread or several need that."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._was_enabled = False
        self._collecting: int | None = None
        renew_after_fork(self)

    def renew(self) -> None:
        """Let it go on in a forked child: the threads that needed it to be off are not there."""
        self._lock = threading.Lock()
        self._collecting = None
        if self._users and self._was_enabled:
            gc.enable()
        self._users = 0

    def hold(self) -> None:
        """Begin no collection from now on, and return when none is under way in another thread."""
        with self._lock:
            if self._note not in gc.callbacks:
                gc.callbacks.append(self._note)
            self._users += 1
            if self._users == 1:
                self._was_enabled = gc.isenabled()
                gc.disable()
        until = time.monotonic() + _LONGEST_WAIT
        while self._collecting not in (None, threading.get_ident()) and time.monotonic() < until:
            time.sleep(0.001)

    def release(self) -> None:
        """Let it go on once nobody needs it to be off."""
        with self._lock:
            self._users = max(0, self._users - 1)
            if not self._users and self._was_enabled:
                gc.enable()

    def _note(self, phase: str, _info: Mapping[str, int]) -> None:
        # Called in the middle of whatever allocates: nothing here may wait.
        self._collecting = threading.get_ident() if phase == "start" else None


_collector = _Collector()


@contextmanager
def held_back(*, needed: bool) -> Iterator[None]:
    """Hold garbage collection back, in all threads, for the length of a `with` block.

    Parameters:
        needed: Whether the HDF5 library reads through Python there; if not, nothing is held back.

    Examples:
        >>> import gc
        >>> with held_back(needed=True):
        ...     gc.isenabled()
        False
        >>> gc.isenabled()
        True
    """
    if not needed:
        yield
        return
    _collector.hold()
    try:
        yield
    finally:
        _collector.release()
