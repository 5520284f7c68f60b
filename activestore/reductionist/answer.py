"""What a Reductionist server answers: numbers that are what was asked for, or an error."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass

import cbor2
import numpy as np
import numpy.typing as npt

from activestore.core.task import Array
from activestore.errors import ReductionistError
from activestore.network.http_client import Answer
from activestore.network.location import Origin
from activestore.network.redaction import public_address

__all__ = [
    "FOR_ERRORS",
    "Expected",
    "Reply",
    "cleaned",
    "decoded_v1",
    "decoded_v2",
    "failure_of",
    "is_final",
    "is_too_much",
    "server_error",
]

FOR_ERRORS = 16 << 10
"""Bytes that an answer may have beside its numbers; errors are within them."""


@dataclass(frozen=True, slots=True)
class Expected:
    """What an answer must be."""

    dtype: str
    """The protocol's name of the type."""
    shape: tuple[int, ...]
    """Lengths of its axes."""
    counts: int
    """How many counts it has."""
    most: int
    """What a count may be at most."""

    @property
    def nbytes(self) -> int:
        """Bytes that the whole answer may have: a count takes up to nine."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize + self.counts * 9 + FOR_ERRORS


@dataclass(frozen=True, slots=True, eq=False)
class Reply:
    """What a server found."""

    values: Array
    """The numbers, in native byte order."""
    count: npt.NDArray[np.int64]
    """How many values each was made of."""
    moved: int
    """Bytes of the answer."""


def server_error(body: bytes) -> tuple[str, tuple[str, ...]]:
    """Return message and causes of a server's error; the message is empty if that is none of Reductionist's."""
    try:
        error = json.loads(body)["error"]
        return str(error["message"]), tuple(str(cause) for cause in error.get("caused_by") or ())
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return "", ()


_URL = re.compile(r"https?://[^\s\"'<>()]+")


def cleaned(text: str, origin: Origin, token: str | None = None) -> str:
    """Return what a server says in one line without secrets: the login of `origin`, the server's own `token`."""
    text = _URL.sub(lambda found: public_address(found[0]), " ".join(text.split()))
    for secret in (origin.user, origin.password, origin.token, token):
        text = text.replace(secret, "***") if secret else text
    return text


def failure_of(answer: Answer, origin: Origin, where: str, token: str | None = None) -> ReductionistError:
    """Return the error for an answer that is one."""
    message, causes = server_error(answer.body)
    message = cleaned(message, origin, token)[:300] or "no message"
    causes = tuple(cleaned(cause, origin, token)[:300] for cause in causes)
    because = f" ({'; '.join(causes[-2:])})" if causes else ""
    advice = _advice(answer, " ".join((message, *causes)), origin)
    return ReductionistError(
        f"{where} answers {answer.status}: {message}{because}{advice}",
        reason=f"the server answers {answer.status}: {message}",
        status=answer.status,
        message=message,
        caused_by=causes,
    )


def _advice(answer: Answer, said: str, origin: Origin) -> str:
    status = answer.status
    if status == 401 and answer.headers.get("www-authenticate", "").lower().startswith("bearer"):
        return "; set token in backend_options to the one that this server wants"
    if status == 403 and "this server" in said:
        return ""
    if status in (401, 403) or (status == 404 and "metadata" in said):
        what = "key and secret" if origin.interface_type == "s3" else "user and password"
        return f"; set {what} in storage_options to ones that may read the object"
    if "NoSuchKey" in said or "NoSuchBucket" in said:
        return "; does the server see the same store? else set endpoint_url in backend_options to its address there"
    if "dispatch failure" in said or "error sending request" in said:
        return "; the server cannot reach the store: set endpoint_url in backend_options to the store's address as it sees it"
    return ""


def is_final(failure: ReductionistError) -> bool:
    """Return whether every other request for the same object would fail in the same way."""
    said = " ".join((failure.message, *failure.caused_by))
    return failure.status in (401, 403) or "NoSuchKey" in said or "NoSuchBucket" in said


def is_too_much(failure: ReductionistError) -> bool:
    """Return whether the server would do the same in smaller portions."""
    said = " ".join((failure.message, *failure.caused_by))
    return failure.status == 413 or (failure.status == 400 and "too many" in said)


def decoded_v2(answer: Answer, expected: Expected) -> Reply:
    """Return what an answer in CBOR says.

    Raises:
        ValueError: It is not what it must be.
    """
    kind = answer.headers.get("content-type", "")
    if not kind.startswith("application/cbor"):
        raise ValueError(f"its type is {kind[:80]!r}")
    try:
        found = cbor2.loads(answer.body)
    except Exception as error:  # noqa: BLE001  # damaged bytes make errors of many kinds
        raise ValueError(f"it is not CBOR ({type(error).__name__})") from None
    if not isinstance(found, dict):
        raise ValueError("it is not a map")  # noqa: TRY004  # nobody passed it
    said = [found.get(name) for name in ("bytes", "dtype", "byte_order", "shape", "count")]
    return _checked(*said, expected=expected, moved=len(answer.body))


def decoded_v1(answer: Answer, expected: Expected) -> Reply:
    """Return what an answer with headers says.

    Raises:
        ValueError: It is not what it must be.
    """
    kind = answer.headers.get("content-type", "")
    if not kind.startswith("application/octet-stream"):
        raise ValueError(f"its type is {kind[:80]!r}")
    dtype, order, shape, count = (
        answer.headers.get(f"x-activestorage-{name}", "") for name in ("dtype", "byte-order", "shape", "count")
    )
    counts = json.loads(count)
    # Before the axes came, the count was one number.
    counts = counts if isinstance(counts, list) else [counts]
    return _checked(answer.body, dtype, order, json.loads(shape), counts, expected=expected, moved=len(answer.body))


def _checked(
    raw: object, dtype: object, order: object, shape: object, count: object, *, expected: Expected, moved: int
) -> Reply:
    """Return an answer whose parts are what they must be.

    Raises:
        ValueError: They are not.
    """
    if dtype != expected.dtype or shape != list(expected.shape) or order not in ("little", "big"):
        raise ValueError(f"type, shape and byte order are {dtype!r}, {shape!r} and {order!r}"[:200])
    stored = np.dtype(expected.dtype).newbyteorder("<" if order == "little" else ">")
    if not isinstance(raw, bytes) or len(raw) != math.prod(expected.shape) * stored.itemsize:
        raise ValueError("it has the wrong number of bytes")
    counts = np.array(count if isinstance(count, list) else [])
    if counts.shape != (expected.counts,) or counts.dtype.kind not in "iu":
        raise ValueError("it has the wrong number of counts")
    if counts.size and (counts.min() < 0 or counts.max() > expected.most):
        raise ValueError("it counts more values than there are")
    values = np.frombuffer(raw, stored).astype(stored.newbyteorder("="), copy=False)
    return Reply(values.reshape(expected.shape), counts.astype(np.int64), moved)
