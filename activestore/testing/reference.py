"""What NumPy makes of whole arrays in 64 bits, cell by cell, and how far a result may be from it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["CONDITIONS", "GROUPS", "Request", "all_requests", "compare", "cut", "requests", "satisfying"]

_Masked = np.ma.MaskedArray[Any, Any]
_Key = tuple[Any, ...]
_Axis = int | tuple[int, ...] | None


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked of a variable."""

    key: _Key
    """The index; lists and masks each index their own dimension."""
    axis: _Axis
    """Dimensions of the selection that are reduced."""
    keepdims: bool = False
    """Whether they stay, with the length 1."""
    skipna: bool = True
    """Whether NaN is missing."""


def _keys(shape: tuple[int, ...]) -> list[_Key]:
    """Return an index of every kind, those that touch the edges of chunks among them."""
    if not shape:
        return [(), (Ellipsis,)]
    if 0 in shape:
        return [(Ellipsis,), (slice(None, None, -1),)]
    first, last = shape[0], shape[-1]
    several: tuple[_Key, ...] = (
        (Ellipsis,),
        (slice(1, None), *[slice(0, -1)] * (len(shape) - 1)),
        (slice(None, None, 2),) * len(shape),
        (Ellipsis, slice(None, None, -1)),
        (slice(-1, None, -3),),
        (first // 2,),
        (Ellipsis, -1),
        ([first - 1, 0, first // 2],),
        (Ellipsis, np.arange(last) % 3 != 1),
        (slice(0, 0),),
        (Ellipsis, np.zeros(last, bool)),
        (0,) * len(shape),
    )
    return [*several, ([0, first - 1], *[slice(None)] * (len(shape) - 2), [last - 1, 0])] if len(shape) > 1 else [*several]


def _axes(ndim: int) -> list[_Axis]:
    """Return every way to name dimensions to be reduced that makes a difference."""
    if not ndim:
        return [None, ()]
    pairs: list[_Axis] = [(0, -1), (-1, *range(ndim - 1))] if ndim > 1 else []
    return [None, *range(ndim), -1, *pairs, ()]


def requests(values: _Masked, number: int) -> Iterator[Request]:
    """Yield requests for one of many cases: every axis, and every third kind of selection; its `number` says which."""
    axes = _axes(values.ndim) if values.size <= 1000 else [None]
    for i, axis in enumerate(axes):
        yield Request((Ellipsis,), axis, keepdims=i % 2 == 1)
    if values.dtype.kind == "f":
        yield Request((Ellipsis,), None, skipna=False)
        yield Request((Ellipsis,), axes[min(1, len(axes) - 1)], skipna=False)
    for i, key in enumerate(_keys(values.shape)[1 + number % 3 :: 3], number):
        left = _axes(cut(values, key).ndim) if values.size <= 1000 else [None]
        yield Request(key, left[i % len(left)], keepdims=i % 3 == 1, skipna=i % 4 != 3)


def all_requests(values: _Masked) -> Iterator[Request]:
    """Yield every selection along every axis."""
    for key in _keys(values.shape):
        for axis in _axes(cut(values, key).ndim):
            yield Request(key, axis)


GROUPS: Mapping[str, Callable[[int], list[int]]] = {
    "runs": lambda length: [at // 2 for at in range(length)],
    "turns": lambda length: [at % 3 for at in range(length)],
    "all in one": lambda length: [1] * length,
    "any order, some left out": lambda length: [at * 7 % 5 - 1 for at in range(length)],
}
"""Groups of every kind for so many positions: the label of each."""

CONDITIONS: Mapping[str, Callable[[_Masked], npt.NDArray[np.bool_]]] = {
    "> 2": lambda values: values.data > 2,
    ">= -1.5 and < 4": lambda values: (values.data >= -1.5) & (values.data < 4),
    "!= 3": lambda values: (values.data < 3) | (values.data > 3),
    "== 1e300": lambda values: np.zeros(values.shape, bool),
}
"""Conditions, and where values satisfy them."""


def satisfying(values: _Masked, condition: str) -> _Masked:
    """Return the values with those masked that do not satisfy one of `CONDITIONS`."""
    return np.ma.MaskedArray(values.data, mask=np.ma.getmaskarray(values) | ~CONDITIONS[condition](values))


def cut(values: _Masked, key: _Key) -> _Masked:
    """Return the selected part, every list and mask indexing its own dimension."""
    items = list(key)
    if any(item is Ellipsis for item in items):
        at = next(i for i, item in enumerate(items) if item is Ellipsis)
        items[at : at + 1] = [slice(None)] * (values.ndim - len(items) + 1)
    data, mask = values.data, np.ma.getmaskarray(values)
    for dim in reversed(range(len(items))):
        item = (*[slice(None)] * dim, items[dim])
        data, mask = data[item], mask[item]
    return np.ma.MaskedArray(data, mask=mask)


def compare(name: str, found: Any, values: _Masked, request: Request, *, tolerance: float) -> None:  # Any: number or array
    """Compare a result with NumPy's.

    Parameters:
        name: The reduction.
        found: What was computed for it.
        values: The selected values.
        request: What was asked of them.
        tolerance: How far sums and means may be from NumPy's, relative to the sum, or the mean, of the absolute values.

    Raises:
        AssertionError: They differ; the message has both.
    """
    rows, valid, shape = _cells(values, request)
    if np.shape(found) != shape:
        raise AssertionError(f"{name}, {request}: the shape is {np.shape(found)}, NumPy has {shape}")
    kind = None if found is np.ma.masked else np.asanyarray(found).dtype
    if kind is not None and kind != _dtype(name, values.dtype):
        raise AssertionError(f"{name}, {request}: the type is {kind}, it has to be {_dtype(name, values.dtype)}")
    flat = [found] if shape == () else list(np.ma.asanyarray(found).reshape(-1))
    for at, (row, good) in enumerate(zip(rows, valid, strict=True)):
        with np.errstate(all="ignore"):
            wanted, off = _expected(name, row, good), _allowed(name, row[good], tolerance)
        if not _same(flat[at], wanted, off):
            raise AssertionError(f"{name}, {request}: cell {at} is {flat[at]!r}, NumPy has {wanted!r} (give or take {off:.3g})")


def _cells(values: _Masked, request: Request) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_], tuple[int, ...]]:
    """Return what lies under each cell of the result, a row each in C order; where it is valid; and the result's shape."""
    ndim, given = values.ndim, request.axis
    named = tuple(range(ndim)) if given is None else given if isinstance(given, tuple) else (given,)
    axes = sorted(axis % ndim for axis in named)
    mask = np.ma.getmaskarray(values)
    if request.skipna and values.dtype.kind == "f":
        mask = mask | np.isnan(values.data)
    kept = [axis for axis in range(ndim) if axis not in axes]
    rows = int(np.prod([values.shape[axis] for axis in kept], dtype=int))
    width = int(np.prod([values.shape[axis] for axis in axes], dtype=int))
    shape = tuple(1 if axis in axes else n for axis, n in enumerate(values.shape) if request.keepdims or axis in kept)
    order = (*kept, *axes)
    return values.data.transpose(order).reshape(rows, width), ~mask.transpose(order).reshape(rows, width), shape


_OF_VALUES: Mapping[str, Callable[[npt.NDArray[Any]], Any]] = {
    "min": np.min,
    "max": np.max,
    "any": np.any,
    "all": np.all,
    # Python's integers have room for every sum and difference.
    "sum": lambda row: row.astype(object).sum() if row.dtype.kind in "iu" else row.astype("f8").sum(),
    "ptp": lambda row: int(row.max()) - int(row.min()) if row.dtype.kind in "iu" else row.max() - row.min(),
    "mean": lambda row: row.astype("f8").mean(),
    "var": lambda row: row.astype("f8").var(),
    "std": lambda row: row.astype("f8").std(),
}


def _expected(name: str, row: npt.NDArray[Any], good: npt.NDArray[np.bool_]) -> Any:  # Any: a number, None for masked
    if name == "count":
        return int(good.sum())
    if not good.any():
        return None
    if name in ("argmin", "argmax"):
        return int(np.flatnonzero(good)[getattr(np, name)(row[good])])
    return _OF_VALUES[name](row[good])


def _allowed(name: str, row: npt.NDArray[Any], tolerance: float) -> float:
    """Return how far a reduction of these values may be off: relative to what is added, since terms may cancel."""
    if name not in ("sum", "mean", "var", "std") or not len(row) or not np.isfinite(row.astype("f8")).all():
        return 0.0
    wide = np.abs(row.astype("f8"))
    if name in ("sum", "mean"):
        return float(tolerance * (wide.sum() if name == "sum" else wide.mean()))
    size, spread = float(wide.max()), float(row.astype("f8").std())
    if name == "std":
        return tolerance * (spread + size) if spread else 1e-15 * size
    return tolerance * spread * (spread + size) + (1e-15 * size) ** 2


def _dtype(name: str, values: np.dtype[Any]) -> np.dtype[Any]:
    wide = np.dtype("f8" if values.kind == "f" else f"{values.kind}8")
    kinds: dict[str, Any] = dict.fromkeys(("count", "argmin", "argmax"), "i8")
    kinds |= {"min": values, "max": values, "any": "?", "all": "?", "sum": wide}
    kinds["ptp"] = "i8" if values.kind == "i" else values
    found: np.dtype[Any] = np.dtype(kinds.get(name, "f8"))
    return found


def _same(found: Any, wanted: Any, off: float) -> bool:  # Any: numbers of any type, None for masked
    if wanted is None or found is np.ma.masked:
        return wanted is None and found is np.ma.masked
    if isinstance(wanted, (int, np.integer)) and isinstance(found, np.integer):
        return abs(int(found) - int(wanted)) <= off
    here, there = float(found), float(wanted)
    return here == there or (here != here and there != there) or abs(here - there) <= off < np.inf
