"""Selections, axes and options that hypothesis makes up, and what NumPy makes of them in 64 bits, cell by cell."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import strategies as st

from activestore import Active
from tests.generated import Recipe

__all__ = ["Cells", "Request", "cells_of", "check", "fits", "magnitude", "outer", "parts_fit", "requests", "same"]

EXACT = ("count", "min", "max", "any", "all", "argmin", "argmax", "ptp")
"""Reductions that must agree to the last bit; sums may be taken in another order."""


@dataclass(frozen=True)
class Request:
    """What is asked of a variable."""

    keys: tuple[Any, ...]
    """Indices, one applied to what the other gives."""
    axis: Any
    """As users write it."""
    axes: tuple[int, ...]
    """The same, in numbers from 0."""
    keepdims: bool
    skipna: bool


@st.composite
def items(draw: st.DrawFn, length: int) -> Any:
    """Draw the index of one dimension."""
    kind = draw(st.sampled_from(["all", "slice", "slice", "integer", "list", "mask"] if length else ["all", "slice", "mask"]))
    if kind == "all":
        return slice(None)
    if kind == "slice":
        bound = st.one_of(st.none(), st.integers(-length - 2, length + 2))
        return slice(draw(bound), draw(bound), draw(st.one_of(st.none(), st.sampled_from([-3, -2, -1, 1, 2, 3, 9]))))
    if kind == "integer":
        return draw(st.sampled_from([int, np.int64]))(draw(st.integers(-length, length - 1)))
    if kind == "list":
        return draw(st.lists(st.integers(-length, length - 1), max_size=5))
    return np.array(draw(st.lists(st.booleans(), min_size=length, max_size=length)), bool)


@st.composite
def indices(draw: st.DrawFn, shape: tuple[int, ...]) -> Any:
    """Draw an index of an array: an item for each dimension, or fewer and an Ellipsis."""
    key = [draw(items(length)) for length in shape]
    if key and draw(st.integers(0, 3)) == 0:
        at, left_out = draw(st.integers(0, len(key) - 1)), draw(st.integers(1, len(key)))
        key[at : at + left_out] = [Ellipsis]
    return tuple(key)


def outer(array: np.ma.MaskedArray, key: tuple[Any, ...]) -> np.ma.MaskedArray:
    """Return `array[key]`, every list and mask indexing its own dimension."""
    if Ellipsis in [item if item is Ellipsis else None for item in key]:
        at = next(i for i, item in enumerate(key) if item is Ellipsis)
        key = (*key[:at], *[slice(None)] * (array.ndim - len(key) + 1), *key[at + 1 :])
    for axis in reversed(range(len(key))):
        item = key[axis] if not isinstance(key[axis], list) else np.array(key[axis], np.int64)
        at = (slice(None),) * axis + (item,)
        # Apart, as an index that leaves one missing number would give the constant `numpy.ma.masked`.
        array = np.ma.MaskedArray(array.data[at], mask=np.ma.getmaskarray(array)[at])
    return array


@st.composite
def requests(draw: st.DrawFn, active: Active) -> Request:
    """Draw selection, axes and options that fit the variable."""
    keys, shape = [], active.shape
    for _ in range(draw(st.sampled_from([0, 1, 1, 2]))):
        keys.append(draw(indices(shape)))
        shape = outer(np.ma.zeros(shape), keys[-1]).shape
    selected = active
    for key in keys:
        selected = selected[key]
    axes = tuple(draw(st.permutations(range(len(shape)))))[: draw(st.integers(0, len(shape)))]
    spelt = [draw(st.sampled_from([axis, axis - len(shape), selected.dims[axis]])) for axis in axes]
    axis = draw(st.sampled_from([tuple(spelt), list(spelt), *(spelt if len(spelt) == 1 else [])]))
    if draw(st.integers(0, 3)) == 0:
        axis, axes = None, tuple(range(len(shape)))
    return Request(tuple(keys), axis, tuple(sorted(axes)), draw(st.booleans()), draw(st.integers(0, 3)) > 0)


@dataclass(frozen=True)
class Cells:
    """The values below each cell of a result, one row a cell."""

    values: np.ndarray
    valid: np.ndarray
    shape: tuple[int, ...]
    """Shape of the result."""


def cells_of(array: np.ma.MaskedArray, request: Request) -> Cells:
    """Return the values as rows, in C order of the reduced dimensions."""
    mask = np.ma.getmaskarray(array)
    if request.skipna and array.dtype.kind == "f":
        mask = mask | np.isnan(array.data)
    kept = [axis for axis in range(array.ndim) if axis not in request.axes]
    order = (*kept, *request.axes)
    rows = int(np.prod([array.shape[axis] for axis in kept], dtype=int))
    width = int(np.prod([array.shape[axis] for axis in request.axes], dtype=int))
    shape = tuple(1 if axis in request.axes else n for axis, n in enumerate(array.shape) if request.keepdims or axis in kept)
    return Cells(array.data.transpose(order).reshape(rows, width), ~mask.transpose(order).reshape(rows, width), shape)


def expected(name: str, row: np.ndarray, valid: np.ndarray) -> Any:
    """Return the reduction of one row by NumPy in 64 bits, None where nothing is valid."""
    if name == "count":
        return int(valid.sum())
    if not valid.any():
        return None
    values = row[valid]
    if name in {"argmin", "argmax"}:
        return int(np.flatnonzero(valid)[getattr(np, name)(values)])
    exact = values.astype(object) if values.dtype.kind in "iu" else values
    wide = values.astype("f8")
    known = {
        "sum": lambda: exact.sum() if exact.dtype == object else wide.sum(),
        "ptp": lambda: exact.max() - exact.min(),
        "mean": wide.mean,
        "var": wide.var,
        "std": wide.std,
        # Of one value, with ddof=1: NumPy gives NaN without a mask and masks it with one; here it is NaN.
        "var1": lambda: wide.var(ddof=1) if len(wide) > 1 else np.nan,
        "std1": lambda: wide.std(ddof=1) if len(wide) > 1 else np.nan,
    }
    return known.get(name, lambda: getattr(np, name)(values))()


def tolerance(name: str, row: np.ndarray, valid: np.ndarray, scale: float) -> float:
    """Return how far a result may be from NumPy's.

    1e-12, relative to the mean of |x| and not to the result: where terms cancel, both answers are rounded in proportion to
    the terms. `scale` is the largest number on the way to a value (stored * scale_factor, add_offset), which cancels alike.
    """
    if name in EXACT:
        return 0.0
    values = np.abs(row[valid].astype("f8"))
    size = max(float(values.max(initial=0)), scale)
    if not np.isfinite(size):
        size = 0.0
    if name == "sum":
        return 1e-12 * size * len(values)
    if name == "mean":
        return 1e-12 * size
    spread = float(np.std(row[valid].astype("f8"))) if len(values) else 0.0
    # var = sum(d * d) / n with d off by 1e-15 * |x|: off by 2 * d * 1e-15 * |x|, and by the square of that.
    off = 1e-12 * spread**2 + 1e-14 * size * spread + (1e-15 * size) ** 2
    return off if name.startswith("var") else max(1e-12 * spread + 1e-14 * size, np.sqrt(off) if spread == 0 else 0.0)


def same(found: Any, wanted: Any, off: float) -> bool:
    """Return whether a result is what is wanted, give or take `off`; None stands for masked."""
    if wanted is None or found is np.ma.masked:
        return wanted is None and found is np.ma.masked
    if isinstance(wanted, (int, np.integer)) and isinstance(found, np.integer):
        return int(found) == wanted
    found, wanted = float(found), float(wanted)
    if found == wanted or (found != found and wanted != wanted):
        return True
    return abs(found - wanted) <= off < np.inf


def check(name: str, found: Any, array: np.ma.MaskedArray, request: Request, scale: float) -> None:
    """Compare a result with NumPy's, cell by cell; and its type."""
    cells = cells_of(array, request)
    if cells.shape == ():
        assert found is np.ma.masked or isinstance(found, np.generic), type(found)
    else:
        assert isinstance(found, np.ndarray if name == "count" else np.ma.MaskedArray)
        assert found.shape == cells.shape
    flat = [found] if cells.shape == () else list(np.ma.asanyarray(found).reshape(-1)) if len(cells.values) else []
    assert len(flat) == len(cells.values)
    for at, (row, valid) in enumerate(zip(cells.values, cells.valid, strict=True)):
        with np.errstate(all="ignore"):
            wanted, off = expected(name, row, valid), tolerance(name, row, valid, scale)
        assert same(flat[at], wanted, off), f"{name}: cell {at} is {flat[at]!r}, NumPy has {wanted!r}, of {row[valid]!r}"
    if found is not np.ma.masked:
        check_dtype(name, found.dtype, array.dtype)


def check_dtype(name: str, found: np.dtype, values: np.dtype) -> None:
    """Compare the type of a result with what it has to be for values of the type `values`."""
    if name in {"min", "max"}:
        assert found == values
    elif name in {"count", "argmin", "argmax"}:
        assert found == np.int64
    elif name in {"any", "all"}:
        assert found == np.bool_
    elif name == "sum":
        assert found == (np.float64 if values.kind == "f" else np.int64 if values.kind == "b" else f"{values.kind}8")
    elif name != "ptp":
        assert found == np.float64


def fits(array: np.ma.MaskedArray, request: Request, name: str) -> bool:
    """Return whether the integers' sum, or their ptp, fits into 64 bits."""
    kept = {"sum": lambda exact: [exact.sum()], "ptp": lambda exact: [exact.max() - exact.min()]}
    return _all_fit(array, request, kept.get(name))


def parts_fit(array: np.ma.MaskedArray, request: Request, name: str) -> bool:
    """Return the same of whatever part of the integers."""
    known = {
        "sum": lambda exact: [exact[exact > 0].sum(), exact[exact < 0].sum()],
        "ptp": lambda exact: [exact.max() - exact.min()],
    }
    return _all_fit(array, request, known.get(name))


def _all_fit(array: np.ma.MaskedArray, request: Request, found: Any) -> bool:
    if array.dtype.kind not in "iu" or found is None:
        return True
    limits = np.iinfo(f"{array.dtype.kind}8")
    cells = cells_of(array, request)
    exact = [row[valid].astype(object) for row, valid in zip(cells.values, cells.valid, strict=True)]
    return all(limits.min <= number <= limits.max for row in exact if len(row) for number in found(row))


def magnitude(recipe: Recipe, active: Active) -> float:
    """Return the largest number that unpacking adds or makes; 0 where nothing is packed."""
    packing = active.variable.packing
    if packing is None:
        return 0.0
    stored = np.abs(np.append(recipe.numbers().astype("f8"), np.frombuffer(active.variable.fill, active.variable.dtype)))
    largest = float(np.max(stored[np.isfinite(stored)], initial=0))
    if active.variable.dtype.kind == "u":
        # `_Unsigned` turns the least number into the greatest.
        largest = max(largest, float(np.iinfo(active.variable.dtype).max))
    return largest * abs(1.0 if packing.scale is None else packing.scale) + abs(packing.offset or 0.0)
