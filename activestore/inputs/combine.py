"""How files lie one after the other: along which dimension, and in which order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from activestore.core.formats.read import read_variable
from activestore.core.plan import normalize_axes
from activestore.core.source import ReadableSource
from activestore.core.threads import concurrently
from activestore.core.variable import Variable
from activestore.errors import JoinError, NotNumericError, VariableNotFoundError
from activestore.inputs.concatenation import Joint, check_units
from activestore.inputs.part import Part, reads_at_once, values_of

__all__ = ["arranged"]

_LONGEST = 1 << 20
"""Positions of a coordinate that is compared although files are not joined along it."""
_AS_THEY_ARE = "to join them as they are, give Active.concatenate one Active of each"


@dataclass(frozen=True, slots=True, eq=False)
class _Coordinate:
    """The numbers along one dimension of a file."""

    values: npt.NDArray[Any]
    """NaN where they are missing."""
    units: str
    calendar: str
    bounds: tuple[str, ...] = ()
    """Names of the variables that are in the same units without saying so."""

    @property
    def counts_time(self) -> bool:
        """Whether they are times since a date."""
        return " since " in self.units

    @property
    def told(self) -> str:
        """Units and calendar, for people."""
        return f"{self.units!r} ({self.calendar})" if self.counts_time else repr(self.units)

    def shown(self) -> list[str]:
        """Return the numbers, with what times count from."""
        return [f"{one} {self.units}" if self.counts_time else str(one) for one in self.values.tolist()]

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
        if other != axis and other not in unequal and parts[0].variable.shape[other] <= _LONGEST:
            _check_equal(found.along(other), parts, names, other, axis)
    _check_same_units(parts, found.along(axis))
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


def _check_same_units(parts: Sequence[Part], along: Sequence[_Coordinate | None]) -> None:
    """Refuse a variable that the files have in different units, of its own or of the coordinate whose bounds it holds.

    Raises:
        JoinError: It is one.
    """
    name, files = parts[0].variable.name, [part.source.uri for part in parts]
    check_units(name, files, [part.variable.attrs.get("units") for part in parts])
    known = [one for one in along if one is not None]
    if any(name.rpartition("/")[2] in one.bounds for one in known) and len(known) == len(parts):
        check_units(name, files, [one.told for one in known])


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
    while True:
        try:
            variable = read_variable(part.source, f"{group}/{name}".strip("/"))
        except NotNumericError:
            return None
        except VariableNotFoundError:
            if not group:
                return None
            group = group.rpartition("/")[0]
            continue
        if variable.shape != (length,):
            return None
        return _read_coordinate(part.source, variable)


def _read_coordinate(source: ReadableSource, variable: Variable) -> _Coordinate:
    read, attrs = values_of(source, variable), variable.attrs
    values = np.ma.filled(read.astype(np.float64), np.nan) if np.ma.is_masked(read) else read.data
    calendar = str(attrs.get("calendar", "standard")).lower()
    bounds = tuple(str(attrs[key]) for key in ("bounds", "climatology") if key in attrs)
    return _Coordinate(values, str(attrs.get("units", "")).strip(), _CALENDARS.get(calendar, calendar), bounds)


_CALENDARS: Mapping[str, str] = {"gregorian": "standard", "365_day": "noleap", "366_day": "all_leap"}
"""Calendars of two names."""


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
    """Return the files in the order of their coordinates.

    Raises:
        JoinError: They cannot be joined, or were listed in another order.
    """
    joint = Joint(name, [part.source.uri for part in parts], _AS_THEY_ARE)
    values = _comparable(along, joint)
    order = joint.order(values, lambda i: [] if (one := along[i]) is None else one.shown())
    if not listed:
        return [parts[i] for i in order]
    lengths = [1 if one is None else len(one) for one in values]
    filled = [i for i in order if lengths[i]]
    backwards = values[0] is not None and max(lengths) < 2
    if sorted(filled) not in (filled, filled[::-1] if backwards else filled):
        first = next(i for i, j in zip(sorted(filled), filled, strict=True) if i != j)
        raise JoinError(
            f"{parts[first].source.uri}: is not where it belongs along {name!r}; list the files in order (the first is "
            f"{parts[filled[0]].source.uri}), or give a pattern, whose files are sorted; {_AS_THEY_ARE}"
        )
    return list(parts)


def _comparable(along: Sequence[_Coordinate | None], joint: Joint) -> list[npt.NDArray[Any] | None]:
    """Return the coordinates in the same units, times as microseconds of one reference.

    Raises:
        JoinError: Their units or calendars differ so that they cannot be compared.
    """
    known = {i: one for i, one in enumerate(along) if one is not None}
    coded = {(one.units, one.calendar if one.counts_time else "") for one in known.values()}
    if len(coded) < 2:
        return [None if one is None else one.values for one in along]
    begin, first = next(iter(known.items()))
    for i, one in known.items():
        times = one.counts_time and first.counts_time and _is_one_line({one.calendar, first.calendar})
        if not times and one.told != first.told:
            differ = f"{joint.name!r} is in {first.told} and {one.told}, which cannot be compared"
            raise joint.refused(joint.files[begin], joint.files[i], because=differ)
    return [None if one is None else _microseconds(one, joint, joint.files[i]) for i, one in enumerate(along)]


def _is_one_line(calendars: set[str]) -> bool:
    """Return whether the same number is the same instant in calendars."""
    return len(calendars) == 1 or calendars == {"standard", "proleptic_gregorian"}


def _microseconds(one: _Coordinate, joint: Joint, file: str) -> npt.NDArray[Any]:
    """Return times counted from one reference, exactly.

    Raises:
        JoinError: They are none, or nothing installed here knows them.
    """
    try:
        import cftime  # noqa: PLC0415  # optional
    except ImportError:
        raise joint.refused(
            *joint.files[:2], because=f"{joint.name!r} counts from different dates, which needs cftime: pip install cftime"
        ) from None
    if not len(one.values):
        return one.values
    try:
        dates = cftime.num2date(one.values, one.units, one.calendar)
        return np.asarray(cftime.date2num(dates, "microseconds since 2000-01-01", one.calendar))
    except (ValueError, OverflowError) as error:
        raise joint.refused(file, because=f"{joint.name!r} is in {one.told}, which are no times ({error})") from None
