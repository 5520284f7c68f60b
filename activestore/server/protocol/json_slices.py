"""JSON in slices: a large text is read a little at a time, as Python's own reader lets no other thread have a turn."""

from __future__ import annotations

import json
import re
from json.decoder import scanstring  # type: ignore[attr-defined]  # it is there, and public
from typing import Any, NoReturn

__all__ = ["loads", "memory"]

_AT_ONCE = 64 << 10
"""Bytes of a text that is read in one go: a few milliseconds."""
_MOST_PARTS = 1 << 18
"""Lists, maps and quotes that a large text may have: more than any request needs."""
_MOST_NUMBERS = 1 << 21
"""Numbers that it may have: twice the listed positions, and the stored chunks, that a request may name."""
_DEEPEST = 64
"""Lists and maps within each other that it may have."""
_NEXT = re.compile(r"[ \t\n\r]*(.?)", re.DOTALL)
"""The next sign that is no blank."""
_ITEM = r'(?:[^][{}",]{1,64}|[ \t\n\r]*\[[^][{}"]{0,256}\][ \t\n\r]*)'
_RUN = re.compile(f"{_ITEM}(?:,{_ITEM}){{0,1023}},")
"""Numbers and their like, and short lists of them, each with a comma behind it: what is read at once."""
_SCALAR = re.compile(r'[^][{}",:\s]{1,1000}(?![^][{}",:\s])')
"""One of them."""


_BYTES = {b",": 48, b"[": 112, b"{": 208, b'"': 32}
"""Bytes that go with each of these signs in what is read, at most."""


def memory(body: bytes) -> int:
    """Return how many bytes it takes to read a text, at most, beside its own."""
    return 2 * len(body) + sum(nbytes * body.count(sign) for sign, nbytes in _BYTES.items())


def loads(body: bytes) -> object:
    """Return what `json.loads` makes of a text in UTF-8, of which NaN and infinities are no part.

    Raises:
        ValueError: It is no JSON, or of more parts than any request has; the message says which.

    Examples:
        >>> loads(b'{"points": [1, 2, 3]}')
        {'points': [1, 2, 3]}
        >>> loads(b"[" * 100_000)
        Traceback (most recent call last):
        ...
        ValueError: it is no JSON: ...
    """
    if len(body) <= _AT_ONCE:
        try:
            return json.loads(body.decode(), parse_constant=_no_constant)
        except (ValueError, RecursionError) as error:
            # Not as the cause: it has the text.
            raise ValueError(f"it is no JSON: {type(error).__name__}") from None
    if sum(map(body.count, (b"[", b"{", b'"'))) > _MOST_PARTS or body.count(b",") > _MOST_NUMBERS:
        raise ValueError("it has more parts than any request")
    try:
        text = body.decode()
    except UnicodeDecodeError:
        raise ValueError("it is no JSON: it is not in UTF-8") from None
    found, end = _value(text, *_next(text, 0), 0)
    if _next(text, end)[1]:
        _refuse("something follows it")
    return found


def _no_constant(name: str) -> NoReturn:
    raise ValueError(name)


_DECODER = json.JSONDecoder(parse_constant=_no_constant)


def _refuse(what: str) -> NoReturn:
    raise ValueError(f"it is no JSON: {what}")


def _next(text: str, at: int) -> tuple[int, str]:
    """Return the position of the next sign that is no blank, and the sign: "" at the end."""
    found = _NEXT.match(text, at)
    return (at, "") if found is None else (found.start(1), found[1])


def _value(text: str, at: int, sign: str, depth: int) -> tuple[object, int]:
    """Return the value that begins at a position, with a sign, and the position behind it."""
    if depth > _DEEPEST:
        _refuse("it is too deep")
    if sign == "[":
        return _list(text, at + 1, depth + 1)
    if sign == "{":
        return _map(text, at + 1, depth + 1)
    if sign == '"':
        return _string(text, at)
    scalar = _SCALAR.match(text, at)
    if scalar is None:
        _refuse("a value is missing, or too long")
    return _read(scalar[0]), scalar.end()


def _read(text: str) -> Any:  # Any: JSON
    try:
        return _DECODER.decode(text)
    except ValueError as error:
        raise ValueError(f"it is no JSON: {type(error).__name__}") from None


def _string(text: str, at: int) -> tuple[str, int]:
    try:
        found: tuple[str, int] = scanstring(text, at + 1, True)
    except ValueError:
        raise ValueError("it is no JSON: a text does not end") from None
    return found


def _list(text: str, at: int, depth: int) -> tuple[list[object], int]:
    found: list[object] = []
    at, sign = _next(text, at)
    if sign == "]":
        return found, at + 1
    while True:
        while (run := _RUN.match(text, at)) is not None:
            found += _read(f"[{run[0][:-1]}]")
            at = run.end()
        value, at = _value(text, *_next(text, at), depth)
        found.append(value)
        at, sign = _next(text, at)
        at += 1
        if sign == "]":
            return found, at
        if sign != ",":
            _refuse("a list does not end")


def _map(text: str, at: int, depth: int) -> tuple[dict[str, object], int]:
    found: dict[str, object] = {}
    at, sign = _next(text, at)
    if sign == "}":
        return found, at + 1
    while True:
        if sign != '"':
            _refuse("a map has something else than a name")
        name, at = _string(text, at)
        at, sign = _next(text, at)
        if sign != ":":
            _refuse("a name has no value")
        found[name], at = _value(text, *_next(text, at + 1), depth)
        at, sign = _next(text, at)
        if sign == "}":
            return found, at + 1
        if sign != ",":
            _refuse("a map does not end")
        at, sign = _next(text, at + 1)
