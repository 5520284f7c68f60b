"""A failing case without all that it does not need."""

import re
import time
from collections.abc import Callable, Iterator
from dataclasses import MISSING, fields, is_dataclass, replace
from typing import Any

from tests.fuzz.case import Case

__all__ = ["kind_of", "shrunk"]

_SIMPLER = {"values": ("two", "small"), "dtype": ("<f8", "<i4"), "door": ("active",)}
"""What to try in place of fields that have no default, the simplest first."""


def kind_of(fault: str) -> str:
    """Return what faults of one kind have in common: door, and error with what it says, or reduction."""
    door, what, *said = fault.split(":")
    words = re.sub(r"'[^']*'|[-+\w./]*\d[-+\w./]*", "", ":".join(said))[:80] if what.endswith("Error") else ""
    return f"{door}:{what}:{words}" if words else f"{door}:{what}"


def shrunk(case: Case, kind: Callable[[Case], str | None], *, seconds: float) -> Case:
    """Return the smallest case found that fails alike.

    Parameters:
        case: One that fails.
        kind: Returns the kind of a case's fault, None if there is none.
        seconds: When to be content with what there is.
    """
    end, wanted, smaller = time.monotonic() + seconds, kind(case), True
    while smaller and wanted is not None:
        smaller = False
        for candidate in _smaller(case):
            if time.monotonic() > end:
                return case
            if candidate.files and candidate.asks and all(ask.names for ask in candidate.asks) and kind(candidate) == wanted:
                case, smaller = candidate, True
                break
    return case


def _smaller(given: Any) -> Iterator[Any]:
    """Yield what is left of a record, or of a collection, without one of its parts, or with a smaller one."""
    if is_dataclass(given):
        for one in fields(given):
            value = getattr(given, one.name)
            usual = one.default if one.default_factory is MISSING else one.default_factory()
            simpler = _SIMPLER.get(one.name, () if usual is MISSING else (usual,))
            yield from (replace(given, **{one.name: new}) for new in simpler if value not in simpler)
            yield from (replace(given, **{one.name: new}) for new in _smaller(value))
    elif isinstance(given, dict):
        for key, value in given.items():
            yield {other: kept for other, kept in given.items() if other != key}
            yield from (given | {key: new} for new in _smaller(value))
    elif isinstance(given, tuple):
        for at, part in enumerate(given):
            yield given[:at] + given[at + 1 :]
            yield from ((*given[:at], new, *given[at + 1 :]) for new in _smaller(part))
    elif isinstance(given, slice) and given != slice(None):
        yield slice(None)
    elif isinstance(given, int) and not isinstance(given, bool) and given > 1:
        yield from (given // 2, given - 1)
