"""How many files and connections this process may have open, and how many of those are ours that are only kept to be faster.

What is kept open is at most half of what the system allows and others leave. Should it allow none more all the same, what is
kept is let go of, and what failed is tried again.
"""

from __future__ import annotations

import errno
import os
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol, TypeVar
from weakref import WeakValueDictionary

from activestore.process.forking import Lock

__all__ = ["FULL", "Holder", "is_full", "kept", "let_go", "released", "with_room"]

_Found = TypeVar("_Found")
FULL = "too many files and connections are open in this process; close some, or raise the limit (ulimit -n)"
"""What messages say where nothing helps."""
_MOST_KEPT = 4096
"""Files and connections that are kept open where the system allows any number."""
_NO_LIMIT_KNOWN = 512
_MEASURED_EACH = 16
"""How many may be kept more, or fewer, before it is measured anew what others have open."""


class Holder(Protocol):
    """Something that keeps files or connections open which it can open again."""

    def let_go(self) -> bool:
        """Close what is not in use at the moment, and say so to `released`; return whether nothing is open any more."""


class _Count:
    """What is kept open."""

    def __init__(self) -> None:
        self.lock = Lock()
        self.holders: WeakValueDictionary[int, Holder] = WeakValueDictionary()
        # One for each that is kept. No lock is needed to take one away, in the midst of anything, when garbage is collected.
        self.each: deque[None] = deque()
        self.most = 0
        self.measured_at: int | None = None

    @property
    def kept(self) -> int:
        """How many are kept."""
        return len(self.each)

    def allowed(self) -> int:
        """Return how many may be kept; measured now and then, as it takes as long as to open a file or two."""
        if self.measured_at is None or abs(self.kept - self.measured_at) >= _MEASURED_EACH:
            self.measured_at = self.kept
            others = max(0, _open_here() - self.kept)
            self.most = min(_MOST_KEPT, max(1, (_limit() - others) // 2))
        return self.most


_count = _Count()


def kept(holder: Holder) -> None:
    """Take note that `holder` keeps one more open; the first that were kept are let go of if these are too many."""
    with _count.lock:
        _count.each.append(None)
        _count.holders[id(holder)] = holder
        allowed = _count.allowed()
    if _count.kept > allowed:
        # Some more, or each further one would make another wait.
        let_go(_count.kept - allowed + allowed // 8)


def released() -> None:
    """Take note that one is not kept open any more."""
    with suppress(IndexError):
        _count.each.pop()


def let_go(number: int | None = None) -> None:
    """Let go of so many that are kept open, or of all."""
    with _count.lock:
        end = 0 if number is None else _count.kept - number
        holders = list(_count.holders.values())
    for holder in holders:
        if _count.kept <= end:
            return
        if holder.let_go():
            with _count.lock:
                _count.holders.pop(id(holder), None)


def is_full(error: BaseException | None) -> bool:
    """Return whether an error comes from too many that are open."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
            return True
        error = error.__cause__ or error.__context__
    return False


def with_room(function: Callable[[], _Found]) -> _Found:
    """Return what a function gives that opens something; if too much is open, what is kept is let go of before.

    Raises:
        OSError: Too much is open without that.
    """
    try:
        return function()
    except OSError as error:
        if not is_full(error):
            raise
    let_go()
    return function()


def _limit() -> int:
    try:
        import resource  # noqa: PLC0415  # not on all systems
    except ImportError:
        return _NO_LIMIT_KNOWN
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return 2 * _MOST_KEPT if limit == resource.RLIM_INFINITY else limit


def _open_here() -> int:
    """Return how many this process has open; as many as are known to be kept where the system does not tell."""
    for folder in ("/proc/self/fd", "/dev/fd"):
        try:
            return len(os.listdir(folder))
        except OSError:
            continue
    return _count.kept
