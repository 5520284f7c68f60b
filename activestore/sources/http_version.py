"""What tells whether an object behind HTTP is still the same: its ETag, time of modification and size."""

from __future__ import annotations

from collections.abc import Callable
from email.utils import parsedate_to_datetime

from activestore.errors import ConfigurationError
from activestore.network.http_client import Answer
from activestore.process.forking import Lock

__all__ = ["WAYS", "WebVersion", "size_of"]

WAYS = ("etag", "time", "size", "none")
"""What the user can name as the version: the ETag, the time of modification with the size, the size, or nothing."""
_TIME_STEP = 2.0
"""Seconds that two times of modification have to be apart to differ for certain: they are told in whole seconds."""
_NODES_ASKED = 8
"""How many times the servers behind an address are asked for the first ETag again."""


class WebVersion:
    """The version of an object when it was opened."""

    def __init__(self, way: object, uri: str) -> None:
        """Tell versions apart in one of `WAYS`; for None by the ETag, and by time and size where there is none.

        Raises:
            ConfigurationError: There is no such way.
        """
        if way not in (None, *WAYS):
            names = ", ".join(map(repr, WAYS))
            raise ConfigurationError(f"{uri}: storage_options version={way!r}: give one of {names}, or leave it out")
        self._way = way
        self.first = ""
        """The version of the object when it was opened."""
        self.is_fresh = True
        """Whether it may have been written again without a sign of it."""
        self._stamp: tuple[str | None, int | None] = None, None
        self._nodes: dict[str, bool] = {}
        self._lock = Lock()

    @property
    def is_kept(self) -> bool:
        """Whether metadata of this version may be used another time."""
        return self._way in (None, "etag", "time") and not self.is_fresh

    @property
    def matching(self) -> dict[str, str]:
        """The header that has the server refuse other versions; only strong ETags match anything."""
        named = self._way in (None, "etag") and self.first.startswith('"') and not any(self._nodes.values())
        return {"If-Match": self.first} if named else {}

    @property
    def state(self) -> tuple[str, tuple[str | None, int | None], bool]:
        """What a pickle needs to have of it."""
        return self.first, self._stamp, self.is_fresh

    def restore(self, state: tuple[str, tuple[str | None, int | None], bool]) -> None:
        """Take the version that was pickled."""
        self.first, self._stamp, self.is_fresh = state

    def open(self, answer: Answer) -> None:
        """Take the version that an answer tells of."""
        self.first, self._stamp, self.is_fresh = self.of(answer), _stamp(answer), _is_fresh(answer)

    def of(self, answer: Answer) -> str:
        """Return the version that an answer tells of."""
        time, size = _stamp(answer)
        if self._way == "none":
            return "not looked at"
        if self._way == "size":
            return f"{size}"
        tag = _tag(answer) if self._way != "time" else ""
        return tag or f"{time or 'unknown'} {size}"

    def is_same(self, answer: Answer, ask: Callable[[], Answer]) -> bool:
        """Return whether an answer tells of the version that was opened.

        Behind one address there may be several servers, each with ETags of its own for the same file (Apache's with the inode).
        So an ETag that differs is taken for that of another server if time and size are the same, and the first ETag is given
        again, too: of a file that has changed it would not be.

        Parameters:
            answer: What the server said.
            ask: Asks it again, of any byte, over a connection that is not kept.
        """
        version = self.of(answer)
        if version == self.first:
            return True
        if not _tag(answer) or self.is_fresh or _stamp(answer) != self._stamp or self._stamp[0] is None:
            return False
        with self._lock:
            if version not in self._nodes:
                self._nodes[version] = any(self.of(ask()) == self.first for _ in range(_NODES_ASKED))
            return self._nodes[version]


def size_of(answer: Answer) -> int | None:
    """Return the size of the object that an answer tells, None if it does not."""
    total = answer.headers.get("Content-Range", "").rpartition("/")[2]
    length = answer.headers.get("Content-Length", "")
    if answer.status == 416:
        return 0
    if answer.status == 206:
        return int(total) if total.isdecimal() else None
    return int(length) if length.isdecimal() else len(answer.body)


def _stamp(answer: Answer) -> tuple[str | None, int | None]:
    return answer.headers.get("Last-Modified"), size_of(answer)


def _tag(answer: Answer) -> str:
    """Return the ETag; empty where that is all it is, as some stores have it: it would match whatever the object becomes."""
    tag = answer.headers.get("ETag", "")
    return tag if tag.strip('W/"') else ""


def _is_fresh(answer: Answer) -> bool:
    """Return whether an object was written so lately, or says so little, that it may be written again without a sign of it."""
    if "Last-Modified" not in answer.headers:
        return not _tag(answer)
    try:
        modified = parsedate_to_datetime(answer.headers["Last-Modified"])
        return (parsedate_to_datetime(answer.headers["Date"]) - modified).total_seconds() < _TIME_STEP
    except (KeyError, ValueError, TypeError):
        return False
