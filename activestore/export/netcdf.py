"""Writing a result as a netCDF-4 file, with the coordinates that are left and the attributes that CF asks for.

Source: CF conventions 1.11: 5.7 (scalar coordinates), 7.1 (bounds).
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import h5netcdf
import numpy as np
import numpy.typing as npt

import activestore
from activestore.core.formats.read import global_attributes
from activestore.core.missing import read_missing
from activestore.core.plan import ReductionRequest
from activestore.core.source import ReadableSource
from activestore.core.variable import Variable
from activestore.errors import ConfigurationError, UnsupportedError, map_errors_of_writing
from activestore.export.coordinates import Field, Neighbours, Values, last
from activestore.results.cf_attributes import reduced_attributes
from activestore.results.result import Result
from activestore.sources.overwriting import is_changed_by_file

__all__ = ["check_output", "write_netcdf"]

_OF_ONE_FILE = frozenset({"creation_date", "history", "tracking_id"})
_RESERVED = frozenset({"CLASS", "DIMENSION_LIST", "NAME", "REFERENCE_LIST", "_NCProperties", "_nc3_strict"})
"""Attributes that HDF5 and netCDF-C write for themselves."""


def check_output(path: str | os.PathLike[str], sources: Sequence[ReadableSource], *, overwrite: bool) -> None:
    """Make sure that a result of `sources` may be written to `path`.

    Raises:
        ConfigurationError: It is one of them, or a folder, or exists already, or lies in no folder.
    """
    text = os.path.expanduser(path)
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
        >>> from activestore import Active
        >>> result = Active("docs/tas.nc", "tas").run("mean", axis="time")
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_netcdf(result, folder + "/mean.nc")
        ...     Active(folder + "/mean.nc", "tas").attrs["cell_methods"]
        'time: mean'
    """
    check_output(path, result.sources, overwrite=overwrite)
    fields = Neighbours(result).fields()
    fields += [_reduced(result, name, fields) for name in result.values]
    attrs = _global_attributes(result, history or _description(result))
    # A link stays one: what it leads to is replaced.
    with _replaced(os.path.realpath(os.path.expanduser(path)), overwrite=overwrite) as temporary:
        _write(temporary, fields, attrs)


def _reduced(result: Result, reduction: str, neighbours: Sequence[Field]) -> Field:
    """Return the variable that holds what one reduction gave."""
    request = result.plan.request
    variable = request.variable
    base, taken = last(variable.name), {field.name for field in neighbours} | set(variable.dims)
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
    return Field(name, _remaining_dims(result), values, attrs, fill)


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


def _is_coordinate(field: Field, fields: Sequence[Field], request: ReductionRequest) -> bool:
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


def _filled(field: Field) -> tuple[npt.NDArray[Any], np.generic | None]:
    """Return the numbers to write, in a wider type if need be, and a fill value that is no valid one; None for none."""
    values = field.values
    valid = np.unique(values.compressed())
    default = read_missing({}, values.dtype, filled=True).values[0]
    if field.fill is None and not np.ma.is_masked(values) and default not in valid:
        return values.data, None
    number = _unused(valid, (default if field.fill is None else field.fill, default))
    if number is None:
        # Every number of one or two bytes is valid.
        return _filled(replace(field, values=np.ma.asanyarray(values.astype(f"i{2 * values.itemsize}"))))
    return values.filled(number), number


def _unused(valid: npt.NDArray[Any], preferred: Sequence[float]) -> np.generic | None:
    """Return a number that is not among valid ones, which are sorted, of their type; None where all are valid."""
    dtype = valid.dtype
    limits = np.finfo(dtype) if dtype.kind == "f" else np.iinfo(dtype)
    for candidate in (*preferred, limits.min, limits.max):
        number: np.generic = dtype.type(candidate)
        if number not in valid:
            return number
    after = np.nextafter(valid[:-1], valid[1:]) if dtype.kind == "f" else valid[:-1] + dtype.type(1)
    free = np.flatnonzero(after < valid[1:])
    return after[free[-1]] if free.size else None


def _description(result: Result) -> str:
    request = result.plan.request
    axes = ", ".join(request.variable.dims[axis] for axis in request.axes) or "nothing"
    return f"{', '.join(result.values)} over {axes} of {request.variable.name} in {request.variable.uri}"


def _global_attributes(result: Result, history: str) -> dict[str, object]:
    """Return the attributes of the source as a whole, and the new history."""
    found = dict(global_attributes(result.source))
    old = found.get("history")
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    line = f"{now} activestore {activestore.__version__}: {history}".encode(errors="replace").decode()
    kept = {key: value for key, value in found.items() if key not in _OF_ONE_FILE | _RESERVED}
    return {**kept, "Conventions": "CF-1.11", "history": f"{line}\n{old}" if isinstance(old, str) else line}


def _writable(value: object) -> object:
    """Return an attribute in a form that netCDF-4 has; None where it has none."""
    if isinstance(value, str):
        return value if value != "<unreadable>" and "\0" not in value else None
    if isinstance(value, list) and value and all(isinstance(item, str) for item in value):
        return value
    # Those of Zarr are of JSON: numbers of Python's, and lists of them.
    if isinstance(value, (bool, int, float)) or (
        isinstance(value, list) and all(isinstance(item, (int, float)) for item in value)
    ):
        value = np.asarray(value)
    if isinstance(value, np.ndarray | np.generic) and value.dtype.kind == "b":
        value = value.astype(np.int8)
    return value if isinstance(value, np.ndarray | np.generic) and value.dtype.kind in "iuf" and value.size else None


@contextmanager
def _replaced(path: str, *, overwrite: bool) -> Iterator[str]:
    """Give the name of a new file in the same folder, which takes the place of `path` when the block ends well."""
    temporary = os.path.join(os.path.dirname(path), f".activestore-{secrets.token_hex(8)}.part")
    with map_errors_of_writing(path):
        try:
            yield temporary
            if not overwrite and os.path.lexists(path):
                raise ConfigurationError(f"{path}: has appeared meanwhile; give another name, or overwrite it on purpose")
            os.replace(temporary, path)
        finally:
            if os.path.lexists(temporary):
                os.remove(temporary)


def _write(path: str, fields: Sequence[Field], attrs: Mapping[str, object]) -> None:
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
        written = _writable(value)
        if written is not None and key not in _RESERVED:
            target[key] = written
