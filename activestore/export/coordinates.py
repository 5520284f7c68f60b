"""What lies beside a variable in its files and goes with a result of it: coordinates, their bounds, the grid mapping."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np

from activestore.active import Active
from activestore.core.formats.read import variable_names
from activestore.core.joined_plan import JoinedPlan
from activestore.core.plan import ReductionRequest
from activestore.core.selection import Positions
from activestore.core.source import ReadableSource
from activestore.errors import NotNumericError, UnsupportedError, VariableNotFoundError
from activestore.results.cf_attributes import lasting_attributes
from activestore.results.result import Result

__all__ = ["Field", "Neighbours", "Values", "last"]

Values = np.ma.MaskedArray[Any, Any]


@dataclass(frozen=True, slots=True)
class Field:
    """One variable of the file to be."""

    name: str
    dims: tuple[str, ...]
    values: Values
    attrs: Mapping[str, object]
    fill: float | None = None
    """The fill value that it should have; None where it needs one only if values are missing."""


@dataclass(frozen=True, slots=True)
class _File:
    """One of the files that a result is of."""

    source: ReadableSource
    """The file."""
    shape: tuple[int, ...]
    """Lengths of the variable's dimensions in it."""
    selected: tuple[Positions | None, ...]
    """What is selected along each of them; None where that is not the same in all files."""


@dataclass(frozen=True, slots=True)
class _Units:
    """What the numbers of a coordinate are in."""

    units: str
    calendar: str

    @classmethod
    def of(cls, attrs: Mapping[str, object]) -> _Units:
        """Return what attributes say."""
        return cls(str(attrs.get("units", "")).strip(), str(attrs.get("calendar", "standard")).lower())

    def is_comparable(self, other: _Units) -> bool:
        """Return whether numbers of the one can be written as those of the other."""
        times = " since " in self.units and " since " in other.units
        return self == other or (times and self.calendar == other.calendar and _cftime() is not None)

    def converted(self, values: Values, to: _Units) -> Values:
        """Return numbers in other units."""
        cftime = _cftime()
        if self == to or cftime is None or not values.count():
            return values
        known = ~np.ma.getmaskarray(values)
        found = np.ma.MaskedArray(np.zeros(values.shape), mask=~known)
        found[known] = cftime.date2num(cftime.num2date(values.data[known], self.units, self.calendar), to.units, to.calendar)
        return found


def _cftime() -> Any:  # Any: a module, or None
    try:
        import cftime  # noqa: PLC0415  # optional
    except ImportError:
        return None
    return cftime


@dataclass(frozen=True, slots=True)
class _Part:
    """What a result is of in another variable of its files."""

    each: tuple[Active, ...]
    """Of every file; of the first only, where the variable lacks the dimension along which files are joined."""
    units: tuple[_Units, ...]
    """What the numbers of each are in."""
    joined: str | None
    """The dimension along which they lie one after the other; None for one file."""
    places: Sequence[Positions]
    """Where those of each lie along it."""

    @property
    def attrs(self) -> Mapping[str, object]:
        """The attributes, which are those of the first file."""
        return self.each[0].attrs

    @property
    def name(self) -> str:
        """The name, with its groups."""
        return self.each[0].name

    @property
    def dims(self) -> tuple[str, ...]:
        """Names of the dimensions that are left."""
        return self.each[0].dims

    @property
    def whole_dims(self) -> tuple[str, ...]:
        """Names of all dimensions."""
        return self.each[0].variable.dims

    @property
    def ndim(self) -> int:
        """How many dimensions are left."""
        return len(self.dims)

    def read(self) -> Values:
        """Return the values, in the units of the first file."""
        found = [one.converted(active.read(), self.units[0]) for active, one in zip(self.each, self.units, strict=True)]
        if self.joined is None or len(found) == 1:
            return found[0]
        axis = self.dims.index(self.joined)
        listed = np.fromiter(chain.from_iterable(self.places), np.int64)
        values: Values = np.ma.concatenate(found, axis=axis)  # type: ignore[no-untyped-call]  # NumPy lacks the types
        return values.take(np.argsort(listed), axis=axis)


class Neighbours:
    """The variables of the source that go with the result: cut by the same selection."""

    def __init__(self, result: Result) -> None:
        """Look at the files that `result` is of."""
        self._request: ReductionRequest = result.plan.request
        self._variable = self._request.variable
        self._files = _files_of(result)
        self._names = frozenset(variable_names(self._files[0].source))
        plan = result.plan
        self._joined = self._variable.dims[plan.dim] if isinstance(plan, JoinedPlan) else None
        self._places = [one.places for one in plan.pieces] if isinstance(plan, JoinedPlan) else []
        self._keepdims = len(result.dims) == len(self._request.selection.kept)

    def fields(self) -> list[Field]:
        """Return the coordinates of every dimension, the auxiliary ones, the grid mapping, and the bounds of them all."""
        found: dict[str, Field] = {}
        for field in (*self._dimension_fields(), *self._auxiliary_fields(), *self._grid_mapping()):
            found.setdefault(field.name, field)
        return list(found.values())

    def _dimension_fields(self) -> Iterator[Field]:
        grouped = {groups.axis for groups in self._request.groups}
        for dim, name in enumerate(self._variable.dims):
            part = self._part(name)
            # Where groups lie is for those to say who made them.
            if dim in grouped or part is None or part.whole_dims != (name,) or self._variable.dims.index(name) != dim:
                continue
            if dim in self._request.axes:
                yield from self._extent(part, name)
            else:
                yield from self._with_bounds(part)

    def _auxiliary_fields(self) -> Iterator[Field]:
        reduced = {self._variable.dims[axis] for axis in self._request.axes}
        for name in str(self._variable.attrs.get("coordinates", "")).split():
            part = self._part(name)
            if part is not None and set(part.dims) <= set(self._variable.dims) - reduced:
                yield from self._with_bounds(part)

    def _grid_mapping(self) -> Iterator[Field]:
        part = self._part(str(self._variable.attrs.get("grid_mapping", "")))
        if part is not None and not part.dims:
            yield Field(last(part.name), (), part.read(), lasting_attributes(part.attrs))

    def _part(self, name: str, units_of: _Part | None = None) -> _Part | None:
        """Return the part of the variable `name` that belongs to the result.

        Parameters:
            name: A name as it is seen from the variable.
            units_of: The coordinate whose bounds it holds, which are in the same units without saying so.

        Returns:
            The part; None if there is none, or it holds text, or what nothing here reads, or it is not the same in all files.
        """
        full = self._find(name)
        if full is None:
            return None
        try:
            first = Active(self._files[0].source, full, backend="posix")
            each = [
                first,
                *(Active(one.source, full, backend="posix") for one in self._files[1:] if self._joined in first.dims),
            ]
        except (NotNumericError, UnsupportedError, VariableNotFoundError):
            return None
        cut = [self._cut(active, file) for active, file in zip(each, self._files, strict=False)]
        parts = [one for one in cut if one is not None]
        if len(parts) < len(cut) or len({one.dims for one in parts}) > 1:
            return None
        told = parts if units_of is None else units_of.each
        units = [_Units.of(one.attrs) for one in told[: len(parts)]]
        if not all(one.is_comparable(units[0]) for one in units):
            return None
        return _Part(tuple(parts), tuple(units), self._joined if len(parts) > 1 else None, self._places)

    def _cut(self, active: Active, file: _File) -> Active | None:
        """Return what the result is of in a variable of one file; None where its dimensions are others of the same name."""
        index: list[Any] = []  # Any: what indexes a variable
        for name_of_dim, length in zip(active.dims, active.shape, strict=True):
            if name_of_dim not in self._variable.dims:
                index.append(slice(None))
                continue
            dim = self._variable.dims.index(name_of_dim)
            selected = file.selected[dim]
            if length != file.shape[dim] or selected is None:
                return None
            positions = np.asarray(selected, np.int64)
            index.append(int(positions[0]) if self._request.selection.dropped[dim] else positions)
        return active[tuple(index)]

    def _find(self, name: str) -> str | None:
        """Return the full name of `name` as it is seen from the variable's group: there, or in a group above it."""
        group = self._variable.name.rpartition("/")[0]
        while name:
            candidate = f"{group}/{name.strip('/')}".strip("/")
            if candidate in self._names:
                return candidate
            if not group:
                return None
            group = group.rpartition("/")[0]
        return None

    def _bounds(self, part: _Part) -> _Part | None:
        bounds = self._part(str(part.attrs.get("bounds", "")), units_of=part)
        return bounds if bounds is not None and bounds.dims[:-1] == part.dims and bounds.ndim == part.ndim + 1 else None

    def _with_bounds(self, part: _Part) -> Iterator[Field]:
        attrs = lasting_attributes(part.attrs)
        bounds = self._bounds(part)
        if bounds is None:
            attrs.pop("bounds", None)
        else:
            attrs["bounds"] = last(bounds.name)
            yield Field(last(bounds.name), bounds.dims, bounds.read(), lasting_attributes(bounds.attrs))
        yield Field(last(part.name), part.dims, part.read(), attrs)

    def _extent(self, part: _Part, name: str) -> Iterator[Field]:
        """Yield the middle of a coordinate that was reduced, and the bounds around all of it."""
        bounds = self._bounds(part)
        cells = (part if bounds is None else bounds).read().compressed()
        cells = cells[np.isfinite(cells)]
        if not cells.size:
            return
        ends = np.array([cells.min(), cells.max()], cells.dtype if cells.dtype.kind == "f" else np.float64)
        middle = np.asarray(ends[0] + (ends[1] - ends[0]) / 2, ends.dtype)
        if self._keepdims:
            middle, ends = middle[None], ends[None]
        dims = (name,) if self._keepdims else ()
        name_of_bounds = f"{name}_bnds" if bounds is None else last(bounds.name)
        yield Field(name_of_bounds, (*dims, "bnds"), np.ma.asarray(ends), {})
        yield Field(name, dims, np.ma.asarray(middle), {**lasting_attributes(part.attrs), "bounds": name_of_bounds})


def _files_of(result: Result) -> list[_File]:
    """Return the files that a result is of, in the order of the plan."""
    plan = result.plan
    requests = [own.request for own in plan.plans]
    chosen = requests[0].selection.positions
    alike = [all(one.selection.positions[dim] == positions for one in requests) for dim, positions in enumerate(chosen)]
    if not isinstance(plan, JoinedPlan):
        return [_File(result.source, requests[0].variable.shape, chosen)]
    alike[plan.dim] = True
    return [
        _File(
            result.sources[piece.part],
            own.variable.shape,
            tuple(one if same else None for one, same in zip(own.selection.positions, alike, strict=True)),
        )
        for piece, own in zip(plan.pieces, requests, strict=True)
    ]


def last(name: str) -> str:
    """Return the name of a variable without its groups."""
    return name.rpartition("/")[2]
