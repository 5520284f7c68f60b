"""How files lie one after the other: along which dimension, and in which order."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from activestore.core.dispatch import concurrently
from activestore.core.metadata import read_variable
from activestore.core.plan import normalize_axes
from activestore.errors import ActivestoreError, JoinError
from activestore.parts import Part, reads_at_once, values_of

__all__ = ["arranged"]

_LONGEST = 1 << 20
"""Positions of a coordinate that is looked at."""
_AS_THEY_ARE = "to join them as they are, give Active.concatenate one Active of each"


@dataclass(frozen=True, slots=True, eq=False)
class _Coordinate:
    """The numbers along one dimension of a file."""

    values: npt.NDArray[Any]
    units: str
    calendar: str

    def same_as(self, other: _Coordinate) -> bool:
        """Return whether it is that of another file, to the last bit."""
        return (self.units, self.calendar) == (other.units, other.calendar) and np.array_equal(self.values, other.values)

    def is_near(self, other: _Coordinate) -> bool:
        """Return whether it has the numbers of another file, but for rounding."""
        return self.values.shape == other.values.shape and np.allclose(self.values, other.values, rtol=1e-6, atol=1e-6)


def arranged(parts: Sequence[Part], dim: int | str | None, *, listed: bool) -> tuple[list[Part], int]:
    """Return files in the order in which they lie along a dimension, and that dimension.

    Parameters:
        parts: Whole variables, one of each file.
        dim: The dimension; None if it is to be found.
        listed: Whether somebody has listed the files, so that their order is meant; if not, they are sorted.

    Raises:
        JoinError: They do not fit together, or the dimension or the order cannot be told.
        SelectionError: There is no such dimension.
    """
    _check_dims(parts)
    names = parts[0].variable.dims
    if not names:
        raise JoinError(
            f"{_both(*parts[:2])}: {parts[0].variable.name!r} is a scalar in them: there is nothing to join them along"
        )
    unequal = [axis for axis in range(len(names)) if len({part.variable.shape[axis] for part in parts}) > 1]
    axis = normalize_axes(dim, names)[0] if dim is not None else _only(unequal, parts, names)
    found = _Coordinates(parts)
    if axis is None:
        axis = _differing(found, parts, names)
    for other in range(len(names)):
        if other != axis and other not in unequal and not any(part.source.is_remote for part in parts):
            _check_equal(found.along(other), parts, names, other, axis)
    return _in_order(found.along(axis), parts, names[axis], listed=listed), axis


def _both(first: Part, second: Part) -> str:
    return f"{first.source.uri} and {second.source.uri}"


def _check_dims(parts: Sequence[Part]) -> None:
    for part in parts[1:]:
        own, first = part.variable.dims, parts[0].variable.dims
        if own != first:
            raise JoinError(
                f"{_both(parts[0], part)}: {part.variable.name!r} has the dimensions {first} and {own}; "
                "they have to be the same, in one order"
            )


def _only(unequal: list[int], parts: Sequence[Part], names: Sequence[str]) -> int | None:
    """Return the dimension that differs in length; None if there is none, and it has to be found by other means.

    Raises:
        JoinError: Several differ.
    """
    if len(unequal) < 2:
        return unequal[0] if unequal else (0 if len(names) == 1 else None)
    told = " and ".join(f"{names[axis]!r}" for axis in unequal)
    other = next(part for part in parts if part.variable.shape != parts[0].variable.shape)
    raise JoinError(f"{_both(parts[0], other)}: differ in the lengths of {told}; files can be joined along one dimension only")


class _Coordinates:
    """The coordinates of all files, read when they are asked for."""

    def __init__(self, parts: Sequence[Part]) -> None:
        self._parts, self._at_once = parts, reads_at_once([part.source for part in parts])
        self._known: dict[int, list[_Coordinate | None]] = {}

    def along(self, axis: int) -> list[_Coordinate | None]:
        """Return the coordinate of each file along a dimension, None where it has none."""
        if axis not in self._known:
            self._known[axis] = concurrently(partial(_coordinate, axis), self._parts, self._at_once)
        return self._known[axis]


def _coordinate(axis: int, part: Part) -> _Coordinate | None:
    name, length = part.variable.dims[axis], part.variable.shape[axis]
    group = part.variable.name.rpartition("/")[0]
    while length <= _LONGEST:
        try:
            variable = read_variable(part.source, f"{group}/{name}".strip("/"))
        except ActivestoreError:
            if not group:
                return None
            group = group.rpartition("/")[0]
            continue
        if variable.shape != (length,):
            return None
        values = values_of(part.source, variable)
        attrs = variable.attrs
        if np.ma.is_masked(values) or (values.dtype.kind == "f" and not np.isfinite(values.data).all()):
            return None
        return _Coordinate(values.data, str(attrs.get("units", "")), str(attrs.get("calendar", "standard")).lower())
    return None


def _differing(found: _Coordinates, parts: Sequence[Part], names: Sequence[str]) -> int:
    """Return the one dimension whose coordinates differ from file to file.

    Raises:
        JoinError: There is none, or more than one.
    """
    differ = []
    for axis in range(len(names)):
        first, *others = found.along(axis)
        if first is not None and any(other is not None and not first.same_as(other) for other in others):
            differ.append(axis)
    if len(differ) == 1:
        return differ[0]
    why = "the coordinates of several differ" if differ else "all have the same lengths, and no coordinates that differ"
    raise JoinError(
        f"{_both(*parts[:2])}: it cannot be told along which dimension files are joined: {why}; "
        f"say dim= one of {', '.join(map(repr, names))}"
    )


def _check_equal(
    along: Sequence[_Coordinate | None], parts: Sequence[Part], names: Sequence[str], other: int, axis: int
) -> None:
    first = along[0]
    for part, one in zip(parts, along, strict=True):
        if first is not None and one is not None and not first.is_near(one):
            raise JoinError(
                f"{_both(parts[0], part)}: have other coordinates along {names[other]!r}; "
                f"to be joined along {names[axis]!r} they have to be equal; {_AS_THEY_ARE}"
            )


def _in_order(along: Sequence[_Coordinate | None], parts: Sequence[Part], name: str, *, listed: bool) -> list[Part]:
    """Return the files in the order of their coordinates, where these can be compared; as they are where they cannot.

    Raises:
        JoinError: They overlap, or were listed in another order.
    """
    numbers = _comparable(along)
    if numbers is None:
        return list(parts)
    filled = [i for i, one in enumerate(numbers) if len(one)]
    steps = [np.diff(numbers[i]) for i in filled]
    falls = any((step < 0).any() for step in steps)
    if falls and any((step > 0).any() for step in steps):
        raise JoinError(f"{parts[0].source.uri}, …: {name!r} rises in places and falls in others; {_AS_THEY_ARE}")
    rises = [i for i in filled if len(numbers[i]) > 1]
    order = sorted(filled, key=lambda i: (numbers[i].min(), numbers[i].max()), reverse=falls)
    for before, after in pairwise(order):
        ends = (numbers[after].max(), numbers[before].min()) if falls else (numbers[before].max(), numbers[after].min())
        if ends[0] >= ends[1]:
            raise JoinError(
                f"{_both(parts[before], parts[after])}: overlap along {name!r}; select what is wanted of each, "
                "and join these parts with Active.concatenate"
            )
    if not listed:
        empty = [i for i in range(len(parts)) if not len(numbers[i])]
        return [parts[i] for i in (*order, *empty)]
    if order not in (filled, filled[::-1] if not rises else filled):
        first = next(i for i, j in zip(filled, order, strict=True) if i != j)
        raise JoinError(
            f"{parts[first].source.uri}: is not where it belongs along {name!r}; list the files in order (the first is "
            f"{parts[order[0]].source.uri}), or give a pattern, whose files are sorted; {_AS_THEY_ARE}"
        )
    return list(parts)


def _comparable(along: Sequence[_Coordinate | None]) -> list[npt.NDArray[Any]] | None:
    """Return the coordinates in the same units, times as seconds of one reference; None where that cannot be done."""
    known = [one for one in along if one is not None]
    if len(known) < len(along):
        return None
    calendars = {_CALENDARS.get(one.calendar, one.calendar) for one in known}
    if len({one.units for one in known}) == 1 and (len(calendars) == 1 or " since " not in known[0].units):
        return [one.values for one in known]
    if len(calendars) > 1:
        return None
    convert = _to_common(known[0].units, calendars.pop())
    try:
        return None if convert is None else [convert(one) for one in known]
    except (ValueError, OverflowError):
        # Units that are no times.
        return None


_CALENDARS: Mapping[str, str] = {"gregorian": "standard", "365_day": "noleap", "366_day": "all_leap"}
"""Calendars of two names."""


def _to_common(units: str, calendar: str) -> Callable[[_Coordinate], npt.NDArray[Any]] | None:
    """Return what turns times into those of other units; None where nothing installed here knows the calendars."""
    try:
        import cftime  # noqa: PLC0415  # optional
    except ImportError:
        return None

    def convert(one: _Coordinate) -> npt.NDArray[Any]:
        if not len(one.values):
            return one.values
        dates = cftime.num2date(one.values, one.units, calendar)
        return np.asarray(cftime.date2num(dates, units, calendar))

    return convert
