"""Writing a result as a netCDF-4 file, with the coordinates that are left and the attributes that CF asks for.

Source: CF conventions 1.11: 5.7 (scalar coordinates), 7.1 (bounds).
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import h5netcdf
import numpy as np
import numpy.typing as npt

import activestore
from activestore.active import Active
from activestore.cell_methods import lasting_attributes, reduced_attributes
from activestore.core.classic import is_classic
from activestore.core.hdf5 import open_hdf5
from activestore.core.joined import JoinedPlan
from activestore.core.metadata import variable_names
from activestore.core.missing import read_missing
from activestore.core.plan import Plan, ReductionRequest
from activestore.core.selection import Positions
from activestore.core.variable import ReadableSource, Variable
from activestore.errors import ConfigurationError, NotNumericError, UnsupportedError, map_errors
from activestore.occupied import is_changed_by_file
from activestore.result import Result

__all__ = ["check_output", "write_netcdf"]

_OF_ONE_FILE = frozenset({"creation_date", "history", "tracking_id"})
_RESERVED = frozenset({"CLASS", "DIMENSION_LIST", "NAME", "REFERENCE_LIST", "_NCProperties", "_nc3_strict"})
"""Attributes that HDF5 and netCDF-C write for themselves."""

Values = np.ma.MaskedArray[Any, Any]


@dataclass(frozen=True, slots=True)
class _Field:
    """One variable of the file to be."""

    name: str
    dims: tuple[str, ...]
    values: Values
    attrs: Mapping[str, object]
    fill: float | None = None
    """The fill value that it should have; None where it needs one only if values are missing."""


def check_output(path: str | os.PathLike[str], sources: Sequence[ReadableSource], *, overwrite: bool) -> None:
    """Make sure that a result of `sources` may be written to `path`.

    Raises:
        ConfigurationError: It is one of them, or a folder, or exists already, or lies in no folder.
    """
    text = os.fspath(path)
    folder = os.path.dirname(text) or "."
    if not os.path.isdir(folder):
        raise ConfigurationError(f"{text}: there is no folder {folder!r}; make it first")
    if os.path.exists(text) and not os.path.isfile(text):
        raise ConfigurationError(f"{text}: is not a regular file; give the name of a file to write")
    for source in sources:
        if is_changed_by_file(source, text):
            raise ConfigurationError(f"{text}: is the file that is read, or part of it; give another name for the result")
    if not os.path.lexists(text):
        return
    if not overwrite:
        raise ConfigurationError(f"{text}: exists already; give another name, or overwrite it on purpose (--overwrite)")


def write_netcdf(result: Result, path: str | os.PathLike[str], *, overwrite: bool = False, history: str | None = None) -> None:
    """Write `result` as a netCDF-4 file, whole or not at all.

    Each reduction becomes a variable, with the dimension coordinates, numeric auxiliary coordinates and bounds that are
    left. A dimension that was reduced or indexed leaves a scalar coordinate, with bounds around what was reduced.
    `cell_methods`, `units` and `_FillValue` are set; attributes of packing and of missing values are left out. Coordinates
    that hold text are not written.

    Parameters:
        result: What `Active.run` gave.
        path: The file to write; it must not exist unless `overwrite` is set, and is never the source.
        overwrite: Whether a file of that name is replaced.
        history: What the history says was done; the reductions, the variable and its source by default.

    Raises:
        ConfigurationError: `path` cannot be used.
        SourceError: The source's coordinates cannot be read, or the file cannot be written.
        UnsupportedError: The result is of a type that netCDF does not have.

    Examples:
        >>> import tempfile
        >>> result = Active("docs/tas.nc", "tas").run("mean", axis="time")
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_netcdf(result, folder + "/mean.nc")
        ...     Active(folder + "/mean.nc", "tas").attrs["cell_methods"]
        'time: mean'
    """
    check_output(path, result.sources, overwrite=overwrite)
    fields = _Neighbours(result).fields()
    fields += [_reduced(result, name, fields) for name in result.values]
    attrs = _global_attributes(result, history or _description(result))
    with _replaced(os.fspath(path), overwrite=overwrite) as temporary:
        _write(temporary, fields, attrs)


class _Neighbours:
    """The variables of the source that go with the result: cut by the same selection."""

    def __init__(self, result: Result) -> None:
        self._request: ReductionRequest = result.plan.request
        self._variable, self._source = self._request.variable, result.source
        self._names = frozenset(variable_names(result.source))
        self._selected = _selected_of_first(result.plan)
        self._keepdims = len(result.dims) == len(self._request.selection.kept)

    def fields(self) -> list[_Field]:
        """Return the coordinates of every dimension, the auxiliary ones, the grid mapping, and the bounds of them all."""
        found: dict[str, _Field] = {}
        for field in (*self._dimension_fields(), *self._auxiliary_fields(), *self._grid_mapping()):
            found.setdefault(field.name, field)
        return list(found.values())

    def _dimension_fields(self) -> Iterator[_Field]:
        grouped = {groups.axis for groups in self._request.groups}
        for dim, name in enumerate(self._variable.dims):
            part = self._part(name)
            # Where groups lie is for those to say who made them.
            if dim in grouped or part is None or part.variable.dims != (name,) or self._variable.dims.index(name) != dim:
                continue
            if dim in self._request.axes:
                yield from self._extent(part, name)
            else:
                yield from self._with_bounds(part)

    def _auxiliary_fields(self) -> Iterator[_Field]:
        reduced = {self._variable.dims[axis] for axis in self._request.axes}
        for name in str(self._variable.attrs.get("coordinates", "")).split():
            part = self._part(name)
            if part is not None and set(part.dims) <= set(self._variable.dims) - reduced:
                yield from self._with_bounds(part)

    def _grid_mapping(self) -> Iterator[_Field]:
        part = self._part(str(self._variable.attrs.get("grid_mapping", "")))
        if part is not None and not part.shape:
            yield _Field(_last(part.name), (), part.read(), lasting_attributes(part.attrs))

    def _part(self, name: str) -> Active | None:
        """Return the part of the variable `name` that belongs to the result; None if it has none, or holds text."""
        full = self._find(name)
        if full is None:
            return None
        try:
            active = Active(self._source, full, backend="posix")
        except NotNumericError:
            return None
        index: list[Any] = []  # Any: what indexes a variable
        for name_of_dim, length in zip(active.dims, active.shape, strict=True):
            if name_of_dim not in self._variable.dims:
                index.append(slice(None))
                continue
            dim = self._variable.dims.index(name_of_dim)
            whole, selected = self._selected[dim]
            if length != whole or selected is None:
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

    def _bounds(self, part: Active) -> Active | None:
        bounds = self._part(str(part.attrs.get("bounds", "")))
        return bounds if bounds is not None and bounds.dims[:-1] == part.dims and bounds.ndim == part.ndim + 1 else None

    def _with_bounds(self, part: Active) -> Iterator[_Field]:
        attrs = lasting_attributes(part.attrs)
        bounds = self._bounds(part)
        if bounds is None:
            attrs.pop("bounds", None)
        else:
            attrs["bounds"] = _last(bounds.name)
            yield _Field(_last(bounds.name), bounds.dims, bounds.read(), lasting_attributes(bounds.attrs))
        yield _Field(_last(part.name), part.dims, part.read(), attrs)

    def _extent(self, part: Active, name: str) -> Iterator[_Field]:
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
        name_of_bounds = f"{name}_bnds" if bounds is None else _last(bounds.name)
        yield _Field(name_of_bounds, (*dims, "bnds"), np.ma.asarray(ends), {})
        yield _Field(name, dims, np.ma.asarray(middle), {**lasting_attributes(part.attrs), "bounds": name_of_bounds})


def _selected_of_first(plan: Plan | JoinedPlan) -> list[tuple[int, Positions | None]]:
    """Return, along each dimension, its length in the first file, and what is selected there; None where that is not all."""
    requests = [own.request for own in plan.plans]
    shape, chosen = requests[0].variable.shape, requests[0].selection.positions
    alike = [all(one.selection.positions[dim] == positions for one in requests) for dim, positions in enumerate(chosen)]
    if isinstance(plan, JoinedPlan):
        alike[plan.dim] = False
    return [(length, positions if same else None) for length, positions, same in zip(shape, chosen, alike, strict=True)]


def _last(name: str) -> str:
    return name.rpartition("/")[2]


def _reduced(result: Result, reduction: str, neighbours: Sequence[_Field]) -> _Field:
    """Return the variable that holds what one reduction gave."""
    request = result.plan.request
    variable = request.variable
    base, taken = _last(variable.name), {field.name for field in neighbours} | set(variable.dims)
    name = base if len(result.values) == 1 and base not in taken else f"{base}_{reduction}".replace("/", "_")
    while name in taken:
        name += "_"
    attrs = reduced_attributes(request, reduction)
    scalar_or_auxiliary = [
        field.name for field in neighbours if field.dims != (field.name,) and _is_coordinate(field, neighbours, request)
    ]
    if scalar_or_auxiliary:
        attrs["coordinates"] = " ".join(scalar_or_auxiliary)
    mapping = variable.attrs.get("grid_mapping")
    if isinstance(mapping, str) and mapping in taken:
        attrs["grid_mapping"] = mapping
    values = _storable(result.values[reduction])
    fill = _preferred_fill(variable) if values.dtype.kind == "f" else None
    return _Field(name, _remaining_dims(result), values, attrs, fill)


def _preferred_fill(variable: Variable) -> float:
    """Return the variable's own fill value where it suits numbers with a fraction, netCDF's default otherwise."""
    own = variable.missing.values if variable.packing is None and variable.dtype.kind == "f" else ()
    usual = read_missing({}, np.dtype(np.float32), filled=True).values
    return next(value for value in (*own[-1:], *usual) if np.isfinite(value))


def _remaining_dims(result: Result) -> tuple[str, ...]:
    """Return the names of the result's dimensions; one that a variable has twice gets a number the second time."""
    request = result.plan.request
    dims, kept = request.variable.dims, request.selection.kept
    names = [name if name not in dims[:i] else f"{name}_{dims[: i + 1].count(name)}" for i, name in enumerate(dims)]
    keepdims = len(result.dims) == len(kept)
    reduced = set(request.axes) - {groups.axis for groups in request.groups}
    return tuple(names[dim] for dim in kept if keepdims or dim not in reduced)


def _is_coordinate(field: _Field, fields: Sequence[_Field], request: ReductionRequest) -> bool:
    """Return whether a field is neither the bounds of another one nor the grid mapping."""
    bounds = {other.attrs.get("bounds") for other in fields}
    return field.name not in bounds and field.name != request.variable.attrs.get("grid_mapping")


def _storable(value: Any) -> Values:  # Any: a number or an array
    """Return a result as an array of a type that netCDF-4 has."""
    if value is np.ma.masked:
        return np.ma.MaskedArray(np.zeros(()), mask=True)
    array: Values = np.ma.asanyarray(value)
    if array.dtype.kind not in "biuf" or array.dtype.itemsize > 8:
        raise UnsupportedError(f"netCDF has no type for {array.dtype}; make numbers of it first")
    other = {np.dtype(bool): np.int8, np.dtype(np.float16): np.float32}.get(array.dtype, array.dtype)
    return np.ma.asanyarray(array.astype(other))


def _filled(field: _Field) -> tuple[npt.NDArray[Any], np.generic | None]:
    """Return the numbers to write, in a wider type if need be, and a fill value that is no valid one; None for none."""
    values = field.values
    dtype, valid = values.dtype, values.compressed()
    default = read_missing({}, dtype, filled=True).values[0]
    if field.fill is None and not np.ma.is_masked(values) and not (valid == default).any():
        return values.data, None
    limits = np.finfo(dtype) if dtype.kind == "f" else np.iinfo(dtype)
    for candidate in (default if field.fill is None else field.fill, default, limits.min, limits.max):
        number: np.generic = dtype.type(candidate)
        if not (valid == number).any():
            return values.filled(number), number
    other = dtype.str.replace("i", "u") if dtype.kind == "i" else dtype.str.replace("u", "i")
    return _filled(replace(field, values=np.ma.asanyarray(values.astype(np.promote_types(dtype, other)))))


def _description(result: Result) -> str:
    request = result.plan.request
    axes = ", ".join(request.variable.dims[axis] for axis in request.axes) or "nothing"
    return f"{', '.join(result.values)} over {axes} of {request.variable.name} in {request.variable.uri}"


def _global_attributes(result: Result, history: str) -> dict[str, object]:
    """Return the attributes of the source as a whole (of HDF5, which is where they can be read), and the new history."""
    source = result.source
    found: dict[str, object] = {}
    old: object = None
    if not is_classic(source.read_ranges([(0, 8)])[0]):
        with open_hdf5(source) as file:
            old = _plain(file.attrs, "history")
            found = {key: _plain(file.attrs, key) for key in file.attrs if key not in _OF_ONE_FILE | _RESERVED}
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    line = f"{now} activestore {activestore.__version__}: {history}".encode(errors="replace").decode()
    return {**found, "Conventions": "CF-1.11", "history": f"{line}\n{old}" if isinstance(old, str) else line}


def _plain(attrs: Mapping[str, Any], key: str) -> object:  # Any: h5py gives whatever the file holds
    """Return an attribute as text or numbers; None if there is none, or it is neither."""
    try:
        value = attrs.get(key)
    except (OSError, TypeError, RuntimeError):
        return None
    if isinstance(value, np.ndarray) and value.size == 1:
        value = value.reshape(-1)[0]
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def _is_writable(value: object) -> bool:
    if isinstance(value, str):
        return value != "<unreadable>" and "\0" not in value
    if isinstance(value, list):
        return all(isinstance(item, str) for item in value)
    return isinstance(value, np.ndarray | np.generic) and value.dtype.kind in "iuf" and value.size > 0


@contextmanager
def _replaced(path: str, *, overwrite: bool) -> Iterator[str]:
    """Give the name of a new file in the same folder, which takes the place of `path` when the block ends well."""
    temporary = os.path.join(os.path.dirname(path), f".activestore-{secrets.token_hex(8)}.part")
    with map_errors(path):
        try:
            yield temporary
            if not overwrite and os.path.lexists(path):
                raise ConfigurationError(f"{path}: has appeared meanwhile; give another name, or overwrite it on purpose")
            os.replace(temporary, path)
        finally:
            if os.path.lexists(temporary):
                os.remove(temporary)


def _write(path: str, fields: Sequence[_Field], attrs: Mapping[str, object]) -> None:
    with h5netcdf.File(path, "x") as file:
        for field in fields:
            dims = []
            for name, length in zip(field.dims, field.values.shape, strict=True):
                known = name not in file.dimensions or file.dimensions[name].size == length
                dims.append(name if known else f"{name}_{length}")
                if dims[-1] not in file.dimensions:
                    file.dimensions[dims[-1]] = length
            data, fill = _filled(field)
            variable = file.create_variable(field.name, tuple(dims), data.dtype, data=data, fillvalue=fill)
            _write_attributes(variable.attrs, field.attrs)
        _write_attributes(file.attrs, attrs)


def _write_attributes(target: Any, attrs: Mapping[str, object]) -> None:  # Any: h5netcdf is untyped
    for key, value in attrs.items():
        if _is_writable(value):
            target[key] = value
