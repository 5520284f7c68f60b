"""JSON that came from elsewhere: values that are what they must be, or an error that says what they are."""

from __future__ import annotations

from typing import Any, NoReturn

from activestore.errors import WireError

__all__ = [
    "LARGEST",
    "LONGEST_NAME",
    "MOST_MISSING",
    "items",
    "mapping",
    "one_of",
    "refuse",
    "shown",
    "text",
    "whole",
    "wholes",
]

LARGEST = 2**63 - 1
"""The largest whole number that is taken."""
LONGEST_NAME = 1024
"""Characters that a name may have."""
MOST_MISSING = 256
"""Missing values that tasks may have."""


def refuse(name: str, what: str) -> NoReturn:
    """Raise the error that says what is wrong with `name`."""
    raise WireError(f"{name} {what}")


def shown(given: object) -> str:
    """Return what a message says of a value that may be huge, or deep."""
    if isinstance(given, str):
        return repr(given[:40])
    if isinstance(given, bool | float | None) or (isinstance(given, int) and given.bit_length() < 128):
        return repr(given)
    return "a very long number" if isinstance(given, int) else f"a {type(given).__name__}"


def mapping(given: object, name: str, *, needs: frozenset[str], may: set[str]) -> dict[str, Any]:  # Any: JSON
    """Return an object that has all keys that it needs, and none that is not known."""
    if not isinstance(given, dict):
        refuse(name, f"is {shown(given)}; it must be an object")
    missing, odd = needs - given.keys(), given.keys() - needs - may
    if missing:
        refuse(name, f"lacks {min(missing)!r}")
    if odd:
        refuse(name, f"has {shown(min(odd))}, which is not known")
    return given


def items(given: object, name: str, *, least: int = 0, most: int) -> list[Any]:  # Any: JSON
    """Return a list of `least` to `most` items."""
    if not isinstance(given, list):
        refuse(name, f"is {shown(given)}; it must be a list")
    if not least <= len(given) <= most:
        refuse(name, f"has {len(given)} items; it must have {least if least == most else f'{least} to {most}'}")
    return given


def whole(given: object, name: str, *, least: int = 0, most: int = LARGEST) -> int:
    """Return a whole number."""
    if type(given) is not int or not least <= given <= most:
        refuse(name, f"is {shown(given)}; it must be a whole number from {least} to {most}")
    return given


def wholes(
    given: object, name: str, *, count: int | None = None, longest: int = 0, least: int = 0, most: int = LARGEST
) -> tuple[int, ...]:
    """Return a list of `count` whole numbers, or of up to `longest`."""
    found = items(given, name, least=count or 0, most=longest if count is None else count)
    if not set(map(type, found)) <= {int} or (found and not least <= min(found) <= max(found) <= most):
        for item in found:
            whole(item, f"a number of {name}", least=least, most=most)
    return tuple(found)


def text(given: object, name: str) -> str:
    """Return text that is not long."""
    if not isinstance(given, str) or len(given) > LONGEST_NAME:
        refuse(name, f"is {shown(given)}; it must be text of up to {LONGEST_NAME} characters")
    return given


def one_of(given: object, name: str, known: tuple[str, ...]) -> str:
    """Return one of the names that are known."""
    if not isinstance(given, str) or given not in known:
        refuse(name, f"is {shown(given)}; there are {', '.join(known)}")
    return given
