"""Weighted reductions: what the weights do not vary along is reduced near the data, the rest is contracted here."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Generic

import numpy as np
import numpy.typing as npt
import xarray as xr

from activestore.accessor.reducing.methods import Dims, Reduced
from activestore.accessor.reducing.query import Query
from activestore.core.reductions import READ, ROUGH, SPREAD, WRAPPED, Reduction
from activestore.errors import SelectionError, SumOverflowError

__all__ = ["WeightedArray", "WeightedReductions", "called_weighted", "checked_weights"]

_BLOCK = 32 << 20
"""Bytes, in double precision, of what is contracted here at a time."""

_MOMENTS = ("sum_of_squares", "var", "std")
"""Methods that need how far values are from their mean."""
_MOST_HERE = 1 << 30
"""Bytes, in double precision, of values that are read because some are infinite."""

Array = npt.NDArray[Any]


class WeightedReductions(Generic[Reduced]):
    """Weighted reductions near the data, which give what xarray's methods of the same names give."""

    def mean(self, dim: Dims = None, *, skipna: bool | None = None, keep_attrs: bool | None = None) -> Reduced:
        """Return the weighted mean along `dim`; missing where the weights of valid values add up to 0."""
        return self._reduced("mean", dim, skipna, keep_attrs)

    def sum(self, dim: Dims = None, *, skipna: bool | None = None, keep_attrs: bool | None = None) -> Reduced:
        """Return the weighted sum along `dim`."""
        return self._reduced("sum", dim, skipna, keep_attrs)

    def sum_of_squares(self, dim: Dims = None, *, skipna: bool | None = None, keep_attrs: bool | None = None) -> Reduced:
        """Return the weighted sum of squared deviations from the weighted mean along `dim`."""
        return self._reduced("sum_of_squares", dim, skipna, keep_attrs)

    def sum_of_weights(self, dim: Dims = None, *, keep_attrs: bool | None = None) -> Reduced:
        """Return the sum of the weights of valid values along `dim`."""
        return self._reduced("sum_of_weights", dim, None, keep_attrs)

    def var(self, dim: Dims = None, *, skipna: bool | None = None, keep_attrs: bool | None = None) -> Reduced:
        """Return the weighted variance along `dim`."""
        return self._reduced("var", dim, skipna, keep_attrs)

    def std(self, dim: Dims = None, *, skipna: bool | None = None, keep_attrs: bool | None = None) -> Reduced:
        """Return the weighted standard deviation along `dim`."""
        return self._reduced("std", dim, skipna, keep_attrs)

    def _reduced(self, method: str, dim: Dims, skipna: bool | None, keep_attrs: bool | None) -> Reduced:
        raise NotImplementedError


class WeightedArray(WeightedReductions[xr.DataArray]):
    """Weighted reductions of a `DataArray`, which give what `da.weighted(weights)` gives."""

    def __init__(self, query: Query, weights: xr.DataArray) -> None:
        """Weight the array of `query`.

        Raises:
            SelectionError: The weights are none for this array.
        """
        self._query, self._weights = query, checked_weights(query.array, weights)

    def __repr__(self) -> str:
        return f"<weighted reductions near the data of {self._query}, weights along {', '.join(map(repr, self._weights.dims))}>"

    def _reduced(self, method: str, dim: Dims, skipna: bool | None, keep_attrs: bool | None) -> xr.DataArray:
        query, dims = self._query, self._query.named(dim)
        located = query.located()
        if isinstance(located, xr.DataArray):
            here: xr.DataArray = called_weighted(located.weighted(self._weights), method, dims, skipna, keep_attrs).load()
            return here
        mould = self._mould(method, dims, skipna, keep_attrs)
        parts = [self._contracted(part, method, dims, skipna, mould.dtype) for part in self._blocks(dims)]
        kept = tuple(name for name in query.array.dims if name not in dims)
        values: Array = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=kept.index(self._block_dim(dims)))
        found = query.assembled(mould, np.transpose(values, [kept.index(name) for name in mould.dims]), set(dims))
        return _with_coords(found, query.array, self._weights)

    def _mould(self, method: str, dims: tuple[Hashable, ...], skipna: bool | None, keep_attrs: bool | None) -> xr.DataArray:
        """Return what xarray gives for a single value of the same kind: type, name, attributes, order of dimensions."""
        array, weights = self._query.array, self._weights
        small = xr.DataArray(np.zeros((1,) * array.ndim, array.dtype), dims=array.dims, name=array.name, attrs=array.attrs)
        ones = xr.DataArray(np.ones((1,) * weights.ndim, weights.dtype), dims=weights.dims)
        found: xr.DataArray = called_weighted(self._query.chosen(small).weighted(ones), method, dims, skipna, keep_attrs)
        return found

    def _near(self, dims: tuple[Hashable, ...]) -> tuple[Hashable, ...]:
        """Return the dimensions that can be reduced near the data: those along which the weights do not vary."""
        return tuple(dim for dim in dims if dim not in self._weights.dims)

    def _block_dim(self, dims: tuple[Hashable, ...]) -> Hashable | None:
        """Return the dimension along which the array is taken block by block; None where there is none."""
        sizes = self._query.array.sizes
        others = [dim for dim in sizes if dim not in dims and dim not in self._weights.dims]
        return max(others, key=lambda dim: sizes[dim]) if others else None

    def _blocks(self, dims: tuple[Hashable, ...]) -> Iterator[Query]:
        """Yield the array in parts that are not too large for what is left to be contracted here."""
        query, dim = self._query, self._block_dim(dims)
        if dim is None or query.array.sizes[dim] == 0:
            yield query
            return
        length = query.array.sizes[dim]
        left = [size for name, size in query.array.sizes.items() if name not in self._near(dims) and name != dim]
        fitting = max(1, _BLOCK // (8 * max(1, int(np.prod(left, dtype=object)))))
        chunk = query.traced().chunk_of(query.array.dims.index(dim))
        step = max(fitting // chunk, 1) * chunk
        for first in range(0, length, step):
            part = query.array if step >= length else query.array.isel({dim: slice(first, first + step)})
            yield Query(part, query.condition)

    def _contracted(
        self, query: Query, method: str, dims: tuple[Hashable, ...], skipna: bool | None, dtype: np.dtype[Any]
    ) -> Array:
        """Return the result for a part of the array, its dimensions in the array's order."""
        wanted = SPREAD if method in _MOMENTS else WRAPPED if method == "sum" and dtype.kind in "iu" else (ROUGH,)
        state = _state(query, self._near(dims), wanted)
        if wanted is SPREAD and not np.all(np.isfinite(state.of["mean"])):
            return self._value_by_value(query, method, dims, skipna)
        axes = tuple(state.dims.index(dim) for dim in dims if dim in self._weights.dims)
        weights = _along(self._weights, state.dims)
        with np.errstate(all="ignore"):
            found = _finished(method, state, weights, axes, dtype, skipna)
        if method != "sum_of_weights" and skipna is False:
            complete = np.all(state.count == state.total, axis=axes)
            found = np.where(complete, found, np.nan)
        kept = [dim for i, dim in enumerate(state.dims) if i not in axes]
        return np.transpose(found, [kept.index(dim) for dim in query.array.dims if dim in kept])

    def _value_by_value(self, query: Query, method: str, dims: tuple[Hashable, ...], skipna: bool | None) -> Array:
        """Return the result for a part of the array in which values are infinite: how far each is from the mean counts.

        Raises:
            SelectionError: It is too large to be read.
        """
        array = query.array
        if array.size * 8 > _MOST_HERE:
            raise SelectionError(
                f"{query}: has infinite values, whose {method} takes reading all of it; select less, or leave them out with "
                ".active.where('< 1e300 and > -1e300')"
            )
        loaded = query.chosen(array.compute())
        found = called_weighted(loaded.weighted(self._weights), method, dims, skipna, None)
        return np.asarray(found.transpose(*[dim for dim in array.dims if dim in found.dims]).values)


def called_weighted(
    weighted: Any,  # Any: an array or a dataset that xarray has weighted
    method: str,
    dims: Iterable[Hashable] | None,
    skipna: bool | None,
    keep_attrs: bool | None,
) -> Any:  # Any: an array or a dataset
    """Return the result of xarray's own method."""
    given = {"keep_attrs": keep_attrs} if method == "sum_of_weights" else {"skipna": skipna, "keep_attrs": keep_attrs}
    options = {name: value for name, value in given.items() if value is not None}
    return getattr(weighted, method)(None if dims is None else list(dims), **options)


@dataclass(frozen=True, slots=True)
class _State:
    """What is known of the values under each cell that the weights are the same for."""

    count: Array
    """How many are valid."""
    total: Array
    """How many there are."""
    of: Mapping[str, Array]
    """What the reductions that were asked for make of them."""
    dims: tuple[Hashable, ...]
    """The dimensions that are left."""


def _state(query: Query, dims: tuple[Hashable, ...], wanted: tuple[Reduction, ...]) -> _State:
    answer = query.answer(wanted if dims else READ, dims)
    found: dict[str, Array] = {name: np.ma.filled(value, 0) for name, value in answer.values.items()}
    count = answer.count.astype(np.float64)
    if not dims:
        # The values themselves: each is a sum, and its own mean.
        values = np.where(count, found["read"], 0)
        found = {"sum": values, "rough": values, "mean": values, "rest": np.zeros(()), "squares": np.zeros(())}
    return _State(count, answer.total, found, answer.dims)


def _finished(
    method: str, state: _State, weights: Array, axes: tuple[int, ...], dtype: np.dtype[Any], skipna: bool | None
) -> Array:
    """Return the result, whose type will be `dtype`."""
    of_weights = np.sum(weights * state.count, axis=axes, keepdims=True, dtype="f8")
    of_weights = np.where(of_weights == 0, np.nan, of_weights)
    if method == "sum_of_weights":
        return np.asarray(np.squeeze(of_weights, axis=axes))
    if method == "sum" and dtype.kind in "iu":
        return np.asarray(np.squeeze(_exact_sum(state, weights, axes, dtype), axis=axes))
    # Not in the type of the numbers, which xarray's own sums of integers overflow.
    weights = weights.astype("f8")
    if method not in _MOMENTS:
        total = np.sum(weights * state.of["rough"], axis=axes, keepdims=True)
        return np.asarray(np.squeeze(total if method == "sum" else total / of_weights, axis=axes))
    squares = weights * _squares(state, weights / of_weights, axes)
    total = (np.sum if skipna is False else np.nansum)(squares, axis=axes, keepdims=True)
    if method != "sum_of_squares":
        total = np.sqrt(total / of_weights) if method == "std" else total / of_weights
    return np.asarray(np.squeeze(total, axis=axes))


def _squares(state: _State, shares: Array, axes: tuple[int, ...]) -> Array:
    """Return the sum of squared deviations from the weighted mean, under each cell; `shares` are weights that add up to 1.

    The weighted mean is rounded, and then mended by what the means differ from it.
    """
    mean, rest = state.of["mean"], state.of["rest"]
    rounded = np.sum(shares * state.count * mean, axis=axes, keepdims=True)
    deviation = np.where(state.count > 0, (mean - rounded) + rest, 0)
    off = np.sum(shares * state.count * deviation, axis=axes, keepdims=True)
    return np.asarray(state.of["squares"] + state.count * np.square(deviation - off))


def _exact_sum(state: _State, weights: Array, axes: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """Return the sum of weighted integers, as one of `dtype`.

    Raises:
        SumOverflowError: It does not fit.
    """
    wide = np.dtype("u8") if dtype.kind == "u" else np.dtype("i8")
    rough = np.sum(weights.astype("f8") * state.of["rough"], axis=axes, keepdims=True)
    # What overflows on the way there comes right in the end: 64 bits count in a circle.
    total: Array = np.sum(weights.astype(wide) * state.of["sum"].astype(wide), axis=axes, keepdims=True)
    rounds = np.rint((rough - total) / 2.0**64)
    if np.any((rounds != 0) | (total < np.iinfo(dtype).min) | (total > np.iinfo(dtype).max)):
        raise SumOverflowError(f"a sum of weighted integers does not fit into {dtype}; give weights that are floats")
    return total.astype(dtype)


def _with_coords(found: xr.DataArray, array: xr.DataArray, weights: xr.DataArray) -> xr.DataArray:
    """Return a result with the coordinates that xarray's arithmetic gives it: those of both, without what contradicts."""
    common = [name for name in weights.coords if name in found.coords]
    clash = [name for name in common if not _is_equal(found.coords[name].variable, weights.coords[name].variable)]
    more = {
        name: coord.variable
        for name, coord in weights.coords.items()
        if name not in array.coords and set(coord.dims) <= set(found.dims)
    }
    return found.drop_vars(clash).assign_coords(more)


def _is_equal(one: xr.Variable, other: xr.Variable) -> bool:
    return bool(one.broadcast_equals(other))  # type: ignore[no-untyped-call]  # xarray's own


def _along(weights: xr.DataArray, dims: tuple[Hashable, ...]) -> Array:
    """Return the weights as an array that broadcasts against one of the dimensions `dims`."""
    ordered = weights.transpose(*[dim for dim in dims if dim in weights.dims])
    return np.asarray(ordered.values).reshape([ordered.sizes.get(dim, 1) for dim in dims])


def checked_weights(array: xr.DataArray | xr.Dataset, weights: xr.DataArray) -> xr.DataArray:
    """Return the weights in memory.

    Raises:
        SelectionError: They are not weights for this array, or this dataset.
    """
    if not isinstance(weights, xr.DataArray):
        raise SelectionError(f"weights are a DataArray, as in xarray; this is a {type(weights).__name__}")
    strange = [dim for dim in weights.dims if dim not in array.sizes]
    if strange:
        raise SelectionError(f"the weights have the dimension {strange[0]!r}, the data have {tuple(array.sizes)}")
    if weights.dtype.kind not in "biuf":
        raise SelectionError(f"weights are numbers, not {weights.dtype}")
    weights = weights.compute()
    try:
        xr.align(array.coords.to_dataset(), weights, join="exact", copy=False)
    except ValueError as error:
        raise SelectionError(f"the weights are not for the same coordinates as the data: {error}") from None
    if any(weights.sizes[dim] != array.sizes[dim] for dim in weights.dims):
        raise SelectionError(f"the weights have the lengths {dict(weights.sizes)}, the data have {dict(array.sizes)}")
    if bool(weights.isnull().any()):
        raise SelectionError("weights cannot be missing; fill them, with weights.fillna(0) say")
    if not np.all(np.isfinite(weights.values)):
        raise SelectionError("weights cannot be infinite")
    return weights
