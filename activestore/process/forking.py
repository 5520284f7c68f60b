"""What a forked child must not take over from its parent.

A fork copies the memory, and of the threads the one that forks: what the others held at that moment (locks, connections,
places in a queue) is never given back in the child. And what the copy has open is the parent's as well: two processes
that read from one connection take each other's answers. So whatever is open, waited for or locked is registered here when
it is made, and begins anew in a child before anything else runs there.
"""

from __future__ import annotations

import ctypes
import os
import threading
from types import TracebackType
from typing import Protocol
from weakref import WeakSet

__all__ = ["Lock", "Renewable", "keep_unused", "renew_after_fork"]


class Renewable(Protocol):
    """Something that holds what a child must not share."""

    def renew(self) -> None:
        """Let go of what was taken over and begin anew: called in a child that was just forked, in its only thread.

        Nothing here may wait, send anything, or close a connection in the way that tells the other end of it.
        """


_KNOWN: WeakSet[Renewable] = WeakSet()


def renew_after_fork(owner: Renewable) -> None:
    """Have `owner.renew()` called in each child that is forked from now on, as long as `owner` is in use."""
    _KNOWN.add(owner)


def keep_unused(inherited: object) -> None:
    """Keep what belongs to the parent as it is, even when this process ends: to be taken down would reach the parent's."""
    # Whatever referred to it by name would let go of it in the end.
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(inherited))


def _renew_all() -> None:
    for owner in list(_KNOWN):
        owner.renew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_all)


class Lock:
    """A lock for `with` blocks, which nobody holds in a child that was just forked.

    Examples:
        >>> with Lock():
        ...     pass
    """

    __slots__ = ("__weakref__", "_lock")

    def __init__(self) -> None:
        """Make one that is free."""
        self._lock = threading.Lock()
        renew_after_fork(self)

    def renew(self) -> None:
        """Make it free: whoever held it is not in this process."""
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._lock.release()
