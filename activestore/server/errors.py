"""The error that every part of the server raises, and that becomes an answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

__all__ = ["FailureKind", "RequestError"]

FailureKind = Literal["request", "chunk", "origin", "forbidden", "unauthorized", "busy", "internal"]
"""What metrics count errors by: the request is wrong, the chunk's bytes are, the origin cannot be read, the operator does not
allow it, a login is missing or wrong, there is too much to do, or the server itself is at fault."""


@dataclass(eq=False)
class RequestError(Exception):
    """A request that cannot be answered as its sender would like; the message holds no secrets."""

    status: int
    """The HTTP status."""
    message: str
    """What went wrong and what to try."""
    caused_by: tuple[str, ...] = ()
    """Causes, outermost first."""
    kind: FailureKind = "request"
    """What it is counted as."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Headers of the answer, `Retry-After` say."""

    def __str__(self) -> str:
        return " ".join((self.message, *self.caused_by))
