"""A failing case without all that it does not need."""

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from tests.fuzz.case import Ask, Case, File

__all__ = ["kind_of", "shrunk"]

_SIMPLER = {"values": ("two", "small"), "dtype": ("<f8", "<i4"), "seed": (0,)}
_PER_DIMENSION = ("chunks", "grows", "written", "before", "shards", "names")


def kind_of(fault: str) -> str:
    """Return what faults of one kind have in common: door, and error or reduction."""
    return ":".join(fault.split(":")[:2])


def shrunk(case: Case, fails: Callable[[Case], str | None], *, seconds: float) -> Case:
    """Return the smallest case found that fails alike.

    Parameters:
        case: One that fails.
        fails: Returns the kind of a case's fault, None if there is none.
        seconds: When to be content with what there is.
    """
    end, kind = time.monotonic() + seconds, fails(case)
    smaller = True
    while smaller and kind is not None:
        smaller = False
        for candidate in _candidates(case):
            if time.monotonic() > end:
                return case
            if fails(candidate) == kind:
                case, smaller = candidate, True
                break
    return case


def _candidates(case: Case) -> Iterator[Case]:
    """Yield cases with one feature less, the large ones first."""
    for name, least in (("asks", 1), ("files", 1), ("damage", 1)):
        parts = getattr(case, name)
        for at in range(len(parts) if len(parts) > least else 0):
            yield replace(case, **{name: parts[:at] + parts[at + 1 :]})
    for at, ask in enumerate(case.asks):
        yield from (replace(case, asks=(*case.asks[:at], one, *case.asks[at + 1 :])) for one in _smaller_asks(ask))
    for at, file in enumerate(case.files):
        yield from (replace(case, files=(*case.files[:at], one, *case.files[at + 1 :])) for one in _smaller_files(file))
    if not any(ask.keys or ask.by or ask.axis for ask in case.asks):
        for dim in range(len(case.files[0].shape)):
            if all(file.shape[dim : dim + 1] for file in case.files) and (dim or len(case.files) == 1):
                yield replace(case, files=tuple(_without_dimension(file, dim) for file in case.files))


def _smaller_asks(ask: Ask) -> Iterator[Ask]:
    for name, usual in (("keys", ()), ("by", {}), ("where", None), ("axis", None), ("keepdims", False), ("skipna", True)):
        if getattr(ask, name) != usual:
            yield replace(ask, **{name: usual})
    if len(ask.names) > 1:
        yield from (replace(ask, names=(name,)) for name in ask.names)
    for at, key in enumerate(ask.keys):
        yield replace(ask, keys=(*ask.keys[:at], *ask.keys[at + 1 :]))
        for dim, item in enumerate(key):
            if item != slice(None):
                plain = (*key[:dim], slice(None), *key[dim + 1 :])
                yield replace(ask, keys=(*ask.keys[:at], plain, *ask.keys[at + 1 :]))


def _smaller_files(file: File) -> Iterator[File]:
    for name in file.attrs:
        yield replace(file, attrs={other: given for other, given in file.attrs.items() if other != name})
    for name, value in file.options.items():
        yield replace(file, options={other: given for other, given in file.options.items() if other != name})
        for part in value if name in {"filters", "masks", "codecs"} else ():
            yield replace(file, options=file.options | {name: _without(value, part)})
    for name, simpler in _SIMPLER.items():
        yield from (replace(file, **{name: value}) for value in simpler if getattr(file, name) not in simpler)
    for dim, length in enumerate(file.shape):
        if length > 1:
            yield replace(file, shape=(*file.shape[:dim], length - 1, *file.shape[dim + 1 :]))


def _without(parts: Any, part: Any) -> Any:
    return (
        {key: value for key, value in parts.items() if key != part}
        if isinstance(parts, dict)
        else tuple(p for p in parts if p != part)
    )


def _without_dimension(file: File, dim: int) -> File:
    def less(parts: tuple[Any, ...]) -> tuple[Any, ...]:
        return parts[:dim] + parts[dim + 1 :]

    options = {
        name: less(given) if name in _PER_DIMENSION else given for name, given in file.options.items() if name != "transpose"
    }
    return replace(file, shape=less(file.shape), options=options)
