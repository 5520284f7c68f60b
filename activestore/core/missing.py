"""Which stored values mean that nothing was measured there.

Source: CF conventions 2.5.1 and the netCDF attribute conventions, as netCDF4-python applies them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["MANY", "Missing", "is_unsigned", "mask", "numbers_of", "read_missing", "read_named_missing"]

MANY = 8
"""How many missing values are compared with one by one."""

_DEFAULT_FILL: dict[str, float] = {
    "i1": -127,
    "u1": 255,
    "i2": -32767,
    "u2": 65535,
    "i4": -2147483647,
    "u4": 4294967295,
    "i8": -9223372036854775806,
    "u8": 18446744073709551614,
    "f4": 9.969209968386869e36,
    "f8": 9.969209968386869e36,
}


@dataclass(frozen=True, slots=True)
class Missing:
    """The stored values that count as missing; the record is plain and travels with a task."""

    values: tuple[float, ...] = ()
    """Exact values that are missing (`_FillValue`, `missing_value`); NaN among them stands for every NaN."""
    valid_min: float | None = None
    """Values below it are missing."""
    valid_max: float | None = None
    """Values above it are missing."""


_NOTHING = Missing()


def mask(array: npt.NDArray[Any], missing: Missing, *, skipna: bool) -> npt.NDArray[np.bool_] | None:
    """Return where `array` is missing, or None if it is nowhere missing.

    Parameters:
        array: Stored values, of any shape and in native byte order.
        missing: What counts as missing.
        skipna: Whether NaN is missing even where no attribute says so.

    Examples:
        >>> mask(np.array([1, -9, 3]), Missing(values=(-9,)), skipna=True)
        array([False,  True, False])
    """
    may_be_nan = array.dtype.kind == "f" and (skipna or any(value != value for value in missing.values))
    if not array.size or (missing == _NOTHING and not may_be_nan):
        return None
    # Passes for the range take less time than those that find each missing value: most chunks have none.
    highest = array.max()
    has_nan = bool(highest != highest)
    if not has_nan and not _may_be_missing(array, highest, missing):
        return None
    found: npt.NDArray[np.bool_] | None = None
    exact = [value for value in missing.values if value == value]
    if len(exact) > MANY:
        found = _among(array, exact)
    else:
        for value in exact:
            found = _either(found, array == array.dtype.type(value))
    if missing.valid_min is not None:
        found = _either(found, array < array.dtype.type(missing.valid_min))
    if missing.valid_max is not None:
        found = _either(found, array > array.dtype.type(missing.valid_max))
    if may_be_nan and has_nan:
        found = _either(found, np.isnan(array))
    return found if found is not None and found.any() else None


def _among(array: npt.NDArray[Any], values: list[float]) -> npt.NDArray[np.bool_]:
    """Return where `array` is one of many values: looking each up takes less time than comparing with all."""
    listed = np.unique(np.array(values, array.dtype))
    # NumPy makes scalars of arrays without dimensions, which nothing can be written to.
    place = np.asarray(np.searchsorted(listed, array))
    np.minimum(place, len(listed) - 1, out=place)
    return np.asarray(listed[place] == array)


def _may_be_missing(array: npt.NDArray[Any], highest: Any, missing: Missing) -> bool:  # Any: a scalar of NumPy's
    """Return whether the range of numbers, `highest` the largest of them, leaves room for missing ones."""
    if highest in missing.values:
        return True
    if missing.valid_max is not None and highest > missing.valid_max:
        return True
    if missing.valid_min is None and not any(value <= highest for value in missing.values):
        return False
    lowest = array.min()
    if missing.valid_min is not None and lowest < missing.valid_min:
        return True
    return any(lowest <= value <= highest for value in missing.values)


def _either(found: npt.NDArray[np.bool_] | None, more: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    # NumPy compares arrays without dimensions to scalars, which nothing can be written to.
    return np.asarray(more) if found is None else np.logical_or(found, more, out=found)


def read_missing(attrs: Mapping[str, object], dtype: np.dtype[np.generic], *, filled: bool) -> Missing:
    """Return what `attrs` of a variable of the stored type `dtype` call missing.

    An attribute that the stored type cannot hold exactly is ignored, as netCDF4-python does; `_Unsigned`
    reinterprets the attributes together with the data.

    Parameters:
        attrs: The variable's attributes.
        dtype: The type as stored, before `_Unsigned`.
        filled: Whether the writer had filling on; without `_FillValue`, one-byte types have a default fill
            value only then.

    Examples:
        >>> read_missing({"_FillValue": np.float32(1e20)}, np.dtype("f4"), filled=True).values
        (1.0000000200408773e+20,)
        >>> read_missing({}, np.dtype("i2"), filled=True).values
        (-32767,)
    """
    missing, native = read_named_missing(attrs, dtype), dtype.newbyteorder("=")
    # The default fill values of signed types are negative: none of the numbers that `_Unsigned` makes equals one.
    if (
        is_unsigned(attrs, dtype)
        or not (filled or native.itemsize > 1)
        or _as_stored(attrs.get("_FillValue"), native) is not None
    ):
        return missing
    default = _DEFAULT_FILL.get(native.str[1:])
    values = [] if default is None else _numbers(np.array([default], native))
    return dataclasses.replace(missing, values=tuple(dict.fromkeys([*missing.values, *values])))


def read_named_missing(attrs: Mapping[str, object], dtype: np.dtype[np.generic]) -> Missing:
    """Return what `read_missing` returns, of a format that has no default fill values.

    Examples:
        >>> read_named_missing({"missing_value": -9}, np.dtype("i2")).values
        (-9,)
    """
    native = dtype.newbyteorder("=")
    stored = {name: _as_stored(attrs.get(name), native) for name in _ATTRIBUTES}
    if is_unsigned(attrs, dtype):
        view = native.str.replace("i", "u")
        stored = {name: None if array is None else array.view(view) for name, array in stored.items()}
    values = _numbers(stored["missing_value"]) + _numbers(stored["_FillValue"])
    span = _numbers(stored["valid_range"])
    if len(span) != 2:
        span = [(_numbers(stored[name]) or [None])[0] for name in ("valid_min", "valid_max")]
    return Missing(values=tuple(dict.fromkeys(values)), valid_min=span[0], valid_max=span[1])


def _numbers(array: npt.NDArray[Any] | None) -> list[Any]:  # Any: Python's numbers
    return [] if array is None else array.tolist()


_ATTRIBUTES = ("missing_value", "_FillValue", "valid_range", "valid_min", "valid_max")


def is_unsigned(attrs: Mapping[str, object], dtype: np.dtype[np.generic]) -> bool:
    """Return whether `_Unsigned` says that the signed stored integers are unsigned ones."""
    given = attrs.get("_Unsigned")
    return dtype.kind == "i" and isinstance(given, str) and given in ("true", "True")


def numbers_of(value: object) -> npt.NDArray[Any] | None:
    """Return the numbers that an attribute holds, as a flat array; None of text, nothing, and lists of several lengths.

    Examples:
        >>> numbers_of([[1, 2], [3, 4]]), numbers_of("-999"), numbers_of([[1], [2, 3]])
        (array([1, 2, 3, 4]), None, None)
    """
    try:
        given = np.asarray(value).ravel()
    except (TypeError, ValueError):
        return None
    return given if given.size and given.dtype.kind in "iuf" else None


def _as_stored(value: object, dtype: np.dtype[np.generic]) -> npt.NDArray[np.generic] | None:
    """Return the attribute as a flat array of the stored type, or None if it is absent or would change."""
    given = numbers_of(value)
    if given is None:
        return None
    with np.errstate(all="ignore"):
        cast = given.astype(dtype)
        same = (given == cast) | ((given != given) & (cast != cast))
    return cast if bool(np.all(same)) else None
