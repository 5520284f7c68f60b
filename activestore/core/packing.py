"""Numbers stored as `(value - add_offset) / scale_factor`, and the way back.

Source: CF conventions 8.1, with the arithmetic (types included) of netCDF4-python, or that of xarray
(`xarray.coding.variables`) where the packing says in which type values are computed.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from activestore.core.missing import numbers_of

__all__ = ["TRUTH", "Packing", "makes_nan", "read_packing", "unpack", "unpacked_dtype", "unpacks_afterwards"]


@dataclass(frozen=True, slots=True)
class Packing:
    """How stored numbers become values: `stored * scale + offset`."""

    scale: float | None
    """`scale_factor`, exact: an int where the attribute is an integer; None where the variable has none."""
    scale_dtype: str
    """NumPy type of the `scale_factor` attribute: it takes part in the result's type."""
    offset: float | None
    """`add_offset`, exact: an int where the attribute is an integer; None where the variable has none."""
    offset_dtype: str
    """NumPy type of the `add_offset` attribute."""
    dtype: str | None = None
    """The type in which values are computed: stored numbers are converted to it first, as xarray does. None: NumPy's
    promotion decides, as in netCDF4-python."""


TRUTH = Packing(None, "<f8", None, "<f8", "|b1")
"""How truth values are stored: as integers, of which 0 is false and any other true."""


def read_packing(attrs: Mapping[str, object]) -> Packing | None:
    """Return the packing that `attrs` describe, or None if the stored numbers are the values.

    Where one of the two attributes is not a number, both are ignored, as netCDF4-python does.

    Examples:
        >>> read_packing({"scale_factor": np.float32(0.5)})
        Packing(scale=0.5, scale_dtype='<f4', offset=None, offset_dtype='<f8', dtype=None)
        >>> read_packing({}) is None
        True
    """
    given = attrs.get("scale_factor"), attrs.get("add_offset")
    scale, offset = (_number(value) for value in given)
    if any(value is not None and number is None for value, number in zip(given, (scale, offset), strict=True)):
        return None
    # One of the two alone, if it changes nothing, does not even change the type.
    if offset is None and scale == 1:
        scale = None
    if scale is None and offset == 0:
        offset = None
    if scale is None and offset is None:
        return None
    return Packing(*_plain(scale), *_plain(offset))


def _plain(number: np.generic | None) -> tuple[float | None, str]:
    if number is None:
        return None, "<f8"
    return int(number) if number.dtype.kind in "iu" else float(number), number.dtype.newbyteorder("<").str


def _number(value: object) -> np.generic | None:
    found = numbers_of(value)
    return found[0] if found is not None and found.size == 1 else None


def unpack(stored: npt.NDArray[Any], packing: Packing) -> npt.NDArray[Any]:
    """Return the values of `stored`, in the type and with the rounding that netCDF4-python gives, or xarray (`Packing.dtype`).

    Examples:
        >>> packing = read_packing({"scale_factor": np.float64(0.5), "add_offset": np.float64(10)})
        >>> unpack(np.array([0, 1, 2], "i2"), packing)
        array([10. , 10.5, 11. ])
    """
    scale = None if packing.scale is None else np.dtype(packing.scale_dtype).type(packing.scale)
    offset = None if packing.offset is None else np.dtype(packing.offset_dtype).type(packing.offset)
    values: npt.NDArray[Any] = stored
    if packing.dtype is not None:
        return _unpacked_as(stored, unpacked_dtype(stored.dtype, packing), scale, offset)
    if scale is not None and offset is not None and scale == 1 and offset == 0:
        return stored.astype(scale.dtype)
    if scale is not None:
        # NumPy makes scalars of arrays without dimensions, which nothing can be written to.
        values = np.asarray(values * scale)
    if offset is None:
        return values
    own = scale is not None and np.result_type(values, offset) == values.dtype
    return np.asarray(np.add(values, offset, out=values if own else None))


def _unpacked_as(
    stored: npt.NDArray[Any], dtype: np.dtype[np.generic], scale: np.generic | None, offset: np.generic | None
) -> npt.NDArray[Any]:
    """Return the values computed in `dtype`; each step is rounded to it, whatever the types of scale and offset."""
    values = stored.astype(dtype)
    if scale is not None:
        values *= scale
    if offset is not None:
        values += offset
    return values


def makes_nan(dtype: np.dtype[np.generic], packing: Packing) -> bool:
    """Return whether unpacking can make NaN of stored numbers of the type `dtype` that are none.

    Examples:
        >>> makes_nan(np.dtype("i2"), read_packing({"scale_factor": np.float32(np.inf)}))
        True
        >>> makes_nan(np.dtype("i2"), read_packing({"scale_factor": np.float32(0.1)}))
        False
    """
    scale = 1.0 if packing.scale is None else packing.scale
    offset = 0.0 if packing.offset is None else packing.offset
    # Infinite numbers times zero are none.
    return not math.isfinite(scale) or not math.isfinite(offset) or (scale == 0 and dtype.kind == "f")


def unpacks_afterwards(dtype: np.dtype[np.generic], packing: Packing) -> bool:
    """Return whether what is found of numbers stored as `dtype` may be unpacked in place of the numbers.

    Every step of unpacking has to give double precision. What is found must neither overflow nor vanish where the values do
    not: doubles may be of any size, other numbers are not so large or small that a scale or an offset of a common size
    makes it happen.

    Examples:
        >>> unpacks_afterwards(np.dtype("i2"), read_packing({"scale_factor": np.float32(0.1)}))
        False
        >>> unpacks_afterwards(np.dtype("i2"), read_packing({"scale_factor": np.float64(0.1)}))
        True
        >>> unpacks_afterwards(np.dtype("f8"), read_packing({"scale_factor": np.float64(0.1)}))
        False
    """
    if dtype.newbyteorder("=") == np.dtype("f8") or not _is_common(packing):
        return False
    if packing.dtype is not None:
        return unpacked_dtype(dtype, packing) == np.dtype("f8")
    steps = [packing] if packing.scale is None else [packing, dataclasses.replace(packing, offset=None)]
    return all(unpacked_dtype(dtype, step) == np.dtype("f8") for step in steps)


def _is_common(packing: Packing) -> bool:
    """Return whether scale and offset are of a size that no sum of numbers makes overflow or vanish; NaN is of none."""
    scale, offset = packing.scale, packing.offset
    return (scale is None or 1e-100 < abs(scale) < 1e100) and (offset is None or abs(offset) < 1e100)


def unpacked_dtype(dtype: np.dtype[np.generic], packing: Packing | None) -> np.dtype[np.generic]:
    """Return the type of the values that are stored as `dtype`, in native byte order."""
    native = dtype.newbyteorder("=")
    if packing is None:
        return native
    if packing.dtype is not None:
        return np.dtype(packing.dtype).newbyteorder("=")
    with np.errstate(all="ignore"):
        return unpack(np.zeros(1, native), packing).dtype
