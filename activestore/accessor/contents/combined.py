"""Many files as one dataset: variables are joined lazily along the one dimension in which the files differ."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr
from xarray.core import indexing

from activestore.accessor.arrays.joined import JoinedArray
from activestore.accessor.contents.contents import Contents
from activestore.errors import JoinError
from activestore.inputs.concatenation import Joint, check_units

__all__ = ["CODING", "checked_dim", "join_contents"]

_PACKING = ("_FillValue", "missing_value", "scale_factor", "add_offset", "_Unsigned")
_LIMITS = ("valid_min", "valid_max", "valid_range")
"""Attributes in terms of stored numbers, which xarray does not decode."""
CODING = (*_PACKING, *_LIMITS, "units", "calendar", "dtype", "_Encoding", "bounds", "climatology")
"""The attributes that say what stored numbers stand for."""
_STORED = ("dtype", "_Encoding", *_PACKING)
"""Encodings that say how numbers are stored."""
_OF_ALL = (*_STORED, "units", "calendar")
"""What of a variable's encoding has to be the same in all files, to be that of what is joined."""

_REMEDY = "leave out what does not belong, open the files apart, or give drop_variables= the name of the coordinate"

Decode = Callable[[Contents], Mapping[str, xr.Variable]]


def join_contents(
    files: Sequence[Contents], names: Sequence[str], *, dim: str | None, decode: Decode, whole: Callable[[int], Contents]
) -> Contents:
    """Return what the files have as if it were one file.

    Variables with the dimension along which the files are joined are put one after the other, in the order of the
    coordinate along it. All others, and the attributes, are those of the first file; the coordinates of the other dimensions
    have to be equal in all files.

    Parameters:
        files: What each file has; of the attributes, those in `CODING` are enough.
        names: The files' addresses, for messages.
        dim: The dimension along which they are joined; None where it is to be found.
        decode: Makes values of the stored numbers of all variables of a file, as xarray will.
        whole: Returns all that the file of that number has.

    Raises:
        JoinError: The files do not fit together.
    """
    texts = _texts_of_different_widths(files)
    files = [_with_coordinates(_with_decoded(one, texts, decode)) for one in files]
    coordinates = _coordinates(files, decode)
    along = checked_dim(files, names, dim) if dim is not None else _found_dim(coordinates, names)
    _check_equal(coordinates, names, along)
    found = [None if isinstance(one[along], int) else one[along] for one in coordinates]
    order = Joint(along, names, _REMEDY).order(found, lambda i: decode(files[i].only([along]))[along].values)
    files = [_with_coordinates(_with_decoded(whole(order[0]), texts, decode)), *(files[i] for i in order[1:])]
    names = [names[i] for i in order]
    _check_variables(files, names, along)
    _check_climatologies([one.variables for one in files], along)
    apart = _coded_differently([one.variables for one in files], along) - texts
    decoded = [decode(one.only(apart)) for one in files] if apart else []
    joined = {}
    for name, variable in files[0].variables.items():
        parts = [one[name] for one in decoded] if name in apart else [one.variables.get(name, variable) for one in files]
        joined[name] = _joined(name, parts, along, names) if along in variable.dims else variable
    _drop_encodings(joined, files, along, decoded=apart | texts, names=names)
    return Contents(joined, files[0].get_attrs(), files[0].get_encoding())


def _texts_of_different_widths(files: Sequence[Contents]) -> set[str]:
    """Return the names of texts whose letters lie along a dimension that is longer in some files than in others."""
    widths: dict[str, set[int]] = {}
    for contents in files:
        for name, one in contents.variables.items():
            if one.dtype.kind == "S" and one.dtype.itemsize == 1 and one.ndim and one.dims[-1] not in contents.variables:
                widths.setdefault(name, set()).add(one.shape[-1])
    return {name for name, found in widths.items() if len(found) > 1}


def _with_decoded(contents: Contents, names: Collection[str], decode: Decode) -> Contents:
    """Return the same with some variables decoded."""
    if not names:
        return contents
    return Contents({**contents.variables, **decode(contents.only(names))}, contents.attributes, contents.encoding)


def _drop_encodings(
    joined: Mapping[str, xr.Variable],
    files: Sequence[Contents],
    along: str,
    *,
    decoded: Collection[str],
    names: Sequence[str],
) -> None:
    """Leave out, of variables that were decoded, how the first file stores them: the numbers of others need not fit.

    Warns:
        UserWarning: Something is left out that says more than from when times are counted.
    """
    told = []
    for name in (name for name, one in joined.items() if along in one.dims):
        variables = [one.variables[name] for one in files if name in one.variables]
        limits = _LIMITS if name in decoded or len({_coding(one, _LIMITS) for one in variables}) > 1 else ()
        lost = [key for key in limits if joined[name].attrs.pop(key, None) is not None]
        if name in decoded:
            lost += [key for key in _STORED if _differs(key, variables)]
            for key in (*_OF_ALL, "char_dim_name"):
                joined[name].encoding.pop(key, None)
        if lost and joined[name].dtype.kind in "iuf":
            told.append(f"{name!r} ({', '.join(sorted(lost))})")
    if told:
        warnings.warn(
            f"{names[0]} and {len(names) - 1:,} more store numbers in different ways: {', '.join(told)}; what is written of "
            "them is not stored so, but as the values are, unless you set .encoding",
            UserWarning,
            stacklevel=2,
        )


def _differs(key: str, variables: Sequence[xr.Variable]) -> bool:
    if key == "dtype":
        return len({one.dtype for one in variables}) > 1
    return len({_coding(one, (key,)) for one in variables}) > 1


def _with_coordinates(contents: Contents) -> Contents:
    """Return the same with the coordinates of the dimensions in memory: they are looked at several times."""
    loaded = {
        name: xr.Variable(one.dims, one.values, one.attrs, one.encoding, fastpath=True) if one.dims == (name,) else one
        for name, one in contents.variables.items()
    }
    return Contents(loaded, contents.attributes, contents.encoding)


def _coordinates(files: Sequence[Contents], decode: Decode) -> list[dict[str, Any]]:  # Any: NumPy's arrays, or lengths
    """Return, for each dimension of each file, the values of its coordinate, or its length where it has none.

    What all files code alike stays as it is stored, if only units are to be told: the same numbers are the same values then,
    in the same order.
    """
    dims = dict.fromkeys(dim for one in files for dim in one.get_dimensions())
    apart = {dim for dim in dims if not _is_coded_alike([one.variables[dim] for one in files if dim in one.variables], dim)}
    found = []
    for contents in files:
        lengths = contents.get_dimensions()
        variables = {**contents.variables, **(decode(contents.only(apart)) if apart else {})}
        values = {dim: variables[dim].values for dim in lengths if dim in variables and variables[dim].dims == (dim,)}
        found.append({dim: values.get(dim, length) for dim, length in lengths.items()})
    return found


def _is_coded_alike(variables: Sequence[xr.Variable], dim: str) -> bool:
    """Return whether the numbers of coordinates may be compared as they are stored."""
    plain = all(one.dims == (dim,) and one.dtype.kind in "iuf" and not set(_PACKING) & set(one.attrs) for one in variables)
    return plain and len({(one.dtype, _coding(one, CODING)) for one in variables}) <= 1


def _is_equal(a: Any, b: Any) -> bool:  # Any: arrays or lengths
    if isinstance(a, int) or isinstance(b, int):
        return _length(a) == _length(b)
    try:
        return bool(np.array_equal(a, b, equal_nan=a.dtype.kind == "f" and b.dtype.kind == "f"))
    except TypeError:
        return False  # times of two calendars


def _length(one: Any) -> int:  # Any: an array or a length
    return one if isinstance(one, int) else len(one)


def _found_dim(coordinates: Sequence[Mapping[str, Any]], names: Sequence[str]) -> str:  # Any: arrays or lengths
    """Return the one dimension in which the files differ.

    Raises:
        JoinError: There is none, or more than one.
    """
    first = coordinates[0]
    differing = [dim for dim in first if any(dim in one and not _is_equal(first[dim], one[dim]) for one in coordinates[1:])]
    if len(differing) == 1:
        return differing[0]
    if not differing:
        raise JoinError(
            f"{names[0]} and {names[1]} have the same coordinates, so it is not clear along which dimension they are joined; "
            f"say it with concat_dim=…, one of {', '.join(map(repr, first))}"
        )
    raise JoinError(
        f"{names[0]} and the other files differ along {' and '.join(map(repr, differing))}; files are joined along one "
        "dimension only: open those on the same grid together, or select before xarray.concat"
    )


def checked_dim(files: Sequence[Contents], names: Sequence[str], dim: str) -> str:
    """Return the dimension that is given.

    Raises:
        JoinError: A file has none of that name.
    """
    for contents, name in zip(files, names, strict=True):
        if dim not in contents.get_dimensions():
            raise JoinError(f"{name}: has no dimension {dim!r}; it has {', '.join(map(repr, contents.get_dimensions()))}")
    return dim


def _check_equal(coordinates: Sequence[Mapping[str, Any]], names: Sequence[str], along: str) -> None:  # Any: see above
    first = coordinates[0]
    for one, name in zip(coordinates[1:], names[1:], strict=True):
        for dim in first:
            if dim != along and dim in one and not _is_equal(first[dim], one[dim]):
                raise JoinError(
                    f"{name}: its coordinate {dim!r} is not that of {names[0]}; only files on the same grid can be joined"
                )


def _check_variables(files: Sequence[Contents], names: Sequence[str], along: str) -> None:
    """Refuse variables along the joint dimension that only some files have, or that are not alike.

    Raises:
        JoinError: There is one.
    """
    model = {name: one.dims for name, one in files[0].variables.items() if along in one.dims}
    for contents, address in zip(files[1:], names[1:], strict=True):
        dims = {name: one.dims for name, one in contents.variables.items() if along in one.dims}
        for name in [*model, *dims]:
            if name not in dims or name not in model:
                has, lacks = (names[0], address) if name in model else (address, names[0])
                raise JoinError(f"{lacks}: has no variable {name!r}, which {has} has; give drop_variables={name!r}")
            if dims[name] != model[name]:
                raise JoinError(f"{address}: {name!r} has the dimensions {dims[name]}, in {names[0]} {model[name]}")


def _coded_differently(files: Sequence[Mapping[str, xr.Variable]], along: str) -> set[str]:
    """Return the names of variables that have to be decoded before they are joined, for the files code them differently."""
    there = [name for name, variable in files[0].items() if along in variable.dims]
    found = {name for name in there if len({(one[name].dtype, _coding(one[name], CODING)) for one in files}) > 1}
    # Bounds are in the units of what they bound, and do not say so.
    return found | {str(one[name].attrs["bounds"]) for name in found for one in files if "bounds" in one[name].attrs}


def _check_climatologies(files: Sequence[Mapping[str, xr.Variable]], along: str) -> None:
    """Refuse the bounds of a climatology whose times count from different dates: xarray reads them as they are stored.

    Raises:
        JoinError: There are some.
    """
    for name, variable in files[0].items():
        bounds = str(variable.attrs.get("climatology"))
        if (
            along in variable.dims
            and bounds in files[0]
            and len({_coding(one[name], ("units", "calendar")) for one in files}) > 1
        ):
            raise JoinError(
                f"{bounds!r} counts from different dates in the files, which xarray does not decode; "
                f"give drop_variables={bounds!r}"
            )


def _joined(name: str, parts: Sequence[xr.Variable], along: Hashable, files: Sequence[str]) -> xr.Variable:
    """Return the parts of a variable as one.

    Raises:
        JoinError: They are in different units, or packed in different ways.
    """
    check_units(name, files, [one.attrs.get("units") for one in parts])
    if len({_coding(one, _PACKING) for one in parts}) > 1:
        raise JoinError(f"{name!r} is packed in different ways in the files; leave out mask_and_scale=False")
    first, axis = parts[0], parts[0].dims.index(along)
    encoding = {key: value for key, value in first.encoding.items() if key != "original_shape"}
    if all(isinstance(one._data, np.ndarray) for one in parts):
        values: Any = np.concatenate([one.values for one in parts], axis=axis)  # Any: whatever xarray takes as values
    else:
        values = indexing.LazilyIndexedArray(JoinedArray([one._data for one in parts], axis))
    return xr.Variable(first.dims, values, first.attrs, encoding, fastpath=True)


def _coding(variable: xr.Variable, keys: Sequence[str]) -> tuple[bytes | None, ...]:
    """Return those attributes that tell how the stored numbers of a variable become values, in a form to be compared."""
    return tuple(np.asarray(variable.attrs[key]).tobytes() if key in variable.attrs else None for key in keys)
