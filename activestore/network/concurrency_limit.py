"""How many requests are under way at once: as many as the user allows, and as a server can bear.

A server that answers 503 or 429 is sent fewer at once, and more again, one by one, as it serves them: additive increase,
multiplicative decrease, as TCP does it (D.-M. Chiu and R. Jain, 1989). What it is to be sent is shared by all clients of this
process.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from email.utils import parsedate_to_datetime
from typing import Any
from weakref import WeakValueDictionary

from activestore.process.forking import Lock, renew_after_fork

__all__ = ["BUSY", "Limit", "Pace", "Patience", "at_most", "current_limit", "pace_of", "wished_pause", "within"]

BUSY = frozenset({429, 503})
"""What a server answers that has too much to do."""
_PATIENCE = 60.0
"""Seconds for which a server that is busy is asked again, at most."""
_LONGEST_WISH = 30.0
"""Seconds that a server may ask for before a request is sent again."""
_EASED = 0.7
"""What is left of the requests at once when there were too many."""
_UNLIMITED = 256
"""Requests at once from which on they are not counted any more."""


class Gate:
    """Lets some requests be under way at once, and the others wait."""

    def __init__(self, most: float) -> None:
        """Let `most` be under way."""
        self.most = most
        self.renew()
        renew_after_fork(self)

    def renew(self) -> None:
        """Begin anew in a forked child, where none is under way."""
        self.under_way = 0
        self._changed = threading.Condition()

    def begin(self, wanted: int = 1, *, broken_off: Callable[[], bool] = lambda: False) -> int:
        """Wait until a request may be sent, or is broken off, and return how many of those `wanted` may: one at least."""
        with self._changed:
            self._changed.wait_for(lambda: self.under_way < max(1, int(min(self.most, 1 << 30))) or broken_off())
            taken = int(max(1, min(wanted, self.most - self.under_way)))
            self.under_way += taken
            return taken

    def end(self, taken: int = 1) -> None:
        """Let as many others in."""
        with self._changed:
            self.under_way -= taken
            self._changed.notify_all()

    def wake(self) -> None:
        """Let those that wait see whether they are broken off."""
        with self._changed:
            self._changed.notify_all()


class Limit(Gate):
    """How many requests the user wants under way at once; a pickle of it counts anew."""

    def __reduce__(self) -> tuple[Any, ...]:  # Any: pickle's own contract
        return Limit, (self.most,)


_LIMIT: ContextVar[Limit | None] = ContextVar("activestore_limit", default=None)


def current_limit() -> Limit | None:
    """Return the limit of what runs here, None if there is none."""
    return _LIMIT.get()


@contextmanager
def within(limit: Limit | None) -> Iterator[None]:
    """Send no more requests at once than `limit` has room for, for the length of a `with` block; None changes nothing."""
    if limit is None:
        yield
        return
    token = _LIMIT.set(limit)
    try:
        yield
    finally:
        _LIMIT.reset(token)


def at_most(requests: int | None) -> Any:  # Any: a context manager
    """Send no more requests at once than this, for the length of a `with` block; a limit that there is goes before.

    Examples:
        >>> with at_most(1):
        ...     current_limit().most
        1
    """
    return within(None if requests is None or _LIMIT.get() is not None else Limit(requests))


class Pace(Gate):
    """How many requests a server is sent at once: all, until it says that they are too many."""

    def __init__(self) -> None:
        """Send all."""
        super().__init__(math.inf)
        self._eased = self._served = -math.inf

    def served(self, count: int = 1) -> None:
        """Take note that the server has done what it was asked; for each round of such answers it is sent one more."""
        self._served = time.monotonic()
        if self.most == math.inf:
            return
        with self._changed:
            self.most += count / self.most
            if self.most > _UNLIMITED:
                self.most = math.inf
            self._changed.notify_all()

    def refused(self, sent: float, serving: int) -> None:
        """Take note that the server has too much to do.

        Parameters:
            sent: When the request was sent; one refusal for each round of requests says that they are too many.
            serving: How many others the server has not refused so far.
        """
        with self._changed:
            if sent > self._eased:
                self._eased = time.monotonic()
                self.most = _EASED * min(self.most, self.under_way + 1)
            self.most = max(1.0, min(self.most, serving))

    def has_served(self, since: float) -> bool:
        """Return whether the server has served anybody since then."""
        return self._served > since


class Patience:
    """How long a request is sent again that a server refuses."""

    def __init__(self, pace: Pace, retries: int) -> None:
        """Send it again, if at all, so many times while the server serves nobody else here, and for a while if it does."""
        self._pace, self._retries, self._left = pace, retries, retries
        self._until = time.monotonic() + _PATIENCE
        self._sent = time.monotonic()

    def again(self, status: int, headers: Mapping[str, str]) -> float | None:
        """Return the seconds to wait before the request is sent again, None if it is not; it has failed with this status."""
        sent, self._sent = self._sent, time.monotonic()
        if status not in BUSY:
            return self.again_unless_too_often()
        wish = wished_pause(headers)
        if self._pace.has_served(sent):
            self._left = self._retries
        if self._retries <= 0 or self._sent + (wish or 0.0) > self._until:
            return None
        if wish is None:
            return self.again_unless_too_often()
        return wish

    def again_unless_too_often(self) -> float | None:
        """Return no time to wait as long as there are retries left, and None then."""
        self._left -= 1
        return 0.0 if self._left >= 0 else None

    @property
    def attempts(self) -> int:
        """How many retries there were since the server last served anybody."""
        return self._retries - self._left


_PACES: WeakValueDictionary[str, Pace] = WeakValueDictionary()
_LOCK = Lock()


def pace_of(address: str) -> Pace:
    """Return the pace of the server at an address, which is that of all who ask it here."""
    server = "/".join(address.split("/", 3)[:3]).lower()
    with _LOCK:
        found = _PACES.get(server)
        if found is None:
            found = _PACES[server] = Pace()
        return found


def wished_pause(headers: Mapping[str, str]) -> float | None:
    """Return how many seconds a server asks to wait, no more than some; None where it does not say.

    Examples:
        >>> wished_pause({"Retry-After": "2"}), wished_pause({}), wished_pause({"Retry-After": "3600"})
        (2.0, None, 30.0)
    """
    said = headers.get("Retry-After", "").strip()
    if said.isdecimal():
        return min(float(said[:10]), _LONGEST_WISH)
    try:
        now = parsedate_to_datetime(headers["Date"])
        return min(max(0.0, (parsedate_to_datetime(said) - now).total_seconds()), _LONGEST_WISH)
    except (KeyError, ValueError, TypeError):
        return None
