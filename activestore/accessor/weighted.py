"""Weighted reductions: what the weights do not vary along is reduced near the data, the rest is contracted here."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from activestore.accessor.methods import Dims
from activestore.accessor.query import Query
from activestore.core.reductions import READ, find_reduction
from activestore.errors import SelectionError

__all__ = ["WeightedArray"]

_BLOCK = 32 << 20
"""Bytes, in double precision, of what is contracted here at a time."""

Array = npt.NDArray[Any]


class WeightedArray:
    """Weighted reductions of a `DataArray`, which give what `da.weighted(weights)` gives."""

    def __init__(self, query: Query, weights: xr.DataArray) -> None:
        """Weight the array of `query`.

        Raises:
            SelectionError: The weights are none for this array.
        """
        self._query, self._weights = query, _checked(query.array, weights)

    def __repr__(self) -> str:
        return f"<weighted reductions near the data of {self._query}, weights along {', '.join(map(repr, self._weights.dims))}>"

    def mean(self, dim: Dims = None, *, skipna: bool | None = None, keep_attrs: bool | None = None) -> xr.DataArray:
        """Return the weighted mean along `dim`; missing where the weights of valid values add up to 0."""
        return self._reduced("mean", dim, skipna, keep_attrs)

    def sum(self, dim: Dims = None, *, skipna: bool | None = None, keep_attrs: bool | None = None) -> xr.DataArray:
        """Return the weighted sum along `dim`."""
        return self._reduced("sum", dim, skipna, keep_attrs)

    def sum_of_squares(self, dim: Dims = None, *, skipna: bool | None = None, keep_attrs: bool | None = None) -> xr.DataArray:
        """Return the weighted sum of squared deviations from the weighted mean along `dim`."""
        return self._reduced("sum_of_squares", dim, skipna, keep_attrs)

    def sum_of_weights(self, dim: Dims = None, *, keep_attrs: bool | None = None) -> xr.DataArray:
        """Return the sum of the weights of valid values along `dim`."""
        return self._reduced("sum_of_weights", dim, None, keep_attrs)

    def var(self, dim: Dims = None, *, skipna: bool | None = None, keep_attrs: bool | None = None) -> xr.DataArray:
        """Return the weighted variance along `dim`."""
        return self._reduced("var", dim, skipna, keep_attrs)

    def std(self, dim: Dims = None, *, skipna: bool | None = None, keep_attrs: bool | None = None) -> xr.DataArray:
        """Return the weighted standard deviation along `dim`."""
        return self._reduced("std", dim, skipna, keep_attrs)

    def _reduced(self, method: str, dim: Dims, skipna: bool | None, keep_attrs: bool | None) -> xr.DataArray:
        query, dims = self._query, self._query.named(dim)
        if query.is_here:
            return _called(query.chosen(query.array), self._weights, method, dims, skipna, keep_attrs)
        mould = self._mould(method, dims, skipna, keep_attrs)
        parts = [self._contracted(part, method, dims, skipna) for part in self._blocks(dims)]
        kept = tuple(name for name in query.array.dims if name not in dims)
        whole = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=kept.index(self._block_dim(dims)))
        return query.assembled(mould, np.transpose(whole, [kept.index(name) for name in mould.dims]), set(dims))

    def _mould(self, method: str, dims: tuple[Hashable, ...], skipna: bool | None, keep_attrs: bool | None) -> xr.DataArray:
        """Return what xarray gives for a single value of the same kind: type, name, attributes, order of dimensions."""
        array, weights = self._query.array, self._weights
        small = xr.DataArray(np.zeros((1,) * array.ndim, array.dtype), dims=array.dims, name=array.name, attrs=array.attrs)
        ones = xr.DataArray(np.ones((1,) * weights.ndim, weights.dtype), dims=weights.dims)
        return _called(self._query.chosen(small), ones, method, dims, skipna, keep_attrs)

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

    def _contracted(self, query: Query, method: str, dims: tuple[Hashable, ...], skipna: bool | None) -> Array:
        """Return the result for a part of the array, its dimensions in the array's order."""
        state = _state(query, self._near(dims), moments=method in ("sum_of_squares", "var", "std"))
        axes = tuple(state.dims.index(dim) for dim in dims if dim in self._weights.dims)
        weights = _along(self._weights, state.dims)
        with np.errstate(all="ignore"):
            found = _finished(method, state, weights, axes)
        if method != "sum_of_weights" and skipna is False:
            complete = np.all(state.count == state.total, axis=axes)
            found = np.where(complete, found, np.nan)
        kept = [dim for i, dim in enumerate(state.dims) if i not in axes]
        return np.transpose(found, [kept.index(dim) for dim in query.array.dims if dim in kept])


def _called(  # what xarray's methods take
    array: xr.DataArray,
    weights: xr.DataArray,
    method: str,
    dims: tuple[Hashable, ...],
    skipna: bool | None,
    keep_attrs: bool | None,
) -> xr.DataArray:
    """Return the result of xarray's own method."""
    given = {"keep_attrs": keep_attrs} if method == "sum_of_weights" else {"skipna": skipna, "keep_attrs": keep_attrs}
    options = {name: value for name, value in given.items() if value is not None}
    found: xr.DataArray = getattr(array.weighted(weights), method)(list(dims), **options)
    return found


@dataclass(frozen=True, slots=True)
class _State:
    """What is known of the values under each cell that the weights are the same for."""

    count: Array
    """How many are valid."""
    total: Array
    """How many there are."""
    sum: Array
    """Their sum."""
    squares: Array
    """The sum of their squared deviations from their mean."""
    dims: tuple[Hashable, ...]
    """The dimensions that are left."""


def _state(query: Query, dims: tuple[Hashable, ...], *, moments: bool) -> _State:
    wanted = ("mean", "var") if moments else ("sum",)
    answer = query.answer(tuple(map(find_reduction, wanted)) if dims else READ, dims)
    found = {name: np.ma.filled(value, 0) for name, value in answer.values.items()}
    count = answer.count.astype(np.float64)
    if not dims:
        # The values themselves: each is a sum, and its own mean.
        return _State(count, answer.total, np.where(count, found["read"], 0), np.zeros(()), answer.dims)
    if not moments:
        return _State(count, answer.total, found["sum"], np.zeros(()), answer.dims)
    return _State(count, answer.total, found["mean"] * count, found["var"] * count, answer.dims)


def _finished(method: str, state: _State, weights: Array, axes: tuple[int, ...]) -> Array:
    of_weights = np.sum(weights * state.count, axis=axes, keepdims=True, dtype="f8")
    of_weights = np.where(of_weights == 0, np.nan, of_weights)
    if method == "sum_of_weights":
        return np.asarray(np.squeeze(of_weights, axis=axes))
    total = np.sum(weights * state.sum, axis=axes, keepdims=True, dtype="f8")
    if method in ("sum", "mean"):
        return np.asarray(np.squeeze(total if method == "sum" else total / of_weights, axis=axes))
    deviation = np.where(state.count > 0, state.sum / state.count - total / of_weights, 0)
    squares = weights * (state.squares + state.count * np.square(deviation))
    total = np.nansum(squares, axis=axes, keepdims=True)
    if method != "sum_of_squares":
        total = np.sqrt(total / of_weights) if method == "std" else total / of_weights
    return np.asarray(np.squeeze(total, axis=axes))


def _along(weights: xr.DataArray, dims: tuple[Hashable, ...]) -> Array:
    """Return the weights as an array that broadcasts against one of the dimensions `dims`."""
    ordered = weights.transpose(*[dim for dim in dims if dim in weights.dims])
    return np.asarray(ordered.values).reshape([ordered.sizes.get(dim, 1) for dim in dims])


def _checked(array: xr.DataArray, weights: xr.DataArray) -> xr.DataArray:
    """Return the weights in memory.

    Raises:
        SelectionError: They are not weights for this array.
    """
    if not isinstance(weights, xr.DataArray):
        raise SelectionError(f"weights are a DataArray, as in xarray; this is a {type(weights).__name__}")
    strange = [dim for dim in weights.dims if dim not in array.dims]
    if strange:
        raise SelectionError(f"the weights have the dimension {strange[0]!r}, the array has {array.dims}")
    weights = weights.load()
    try:
        xr.align(array.coords.to_dataset(), weights, join="exact", copy=False)
    except ValueError as error:
        raise SelectionError(f"the weights are not for the same coordinates as the array: {error}") from error
    if any(weights.sizes[dim] != array.sizes[dim] for dim in weights.dims):
        raise SelectionError(f"the weights have the lengths {dict(weights.sizes)}, the array has {dict(array.sizes)}")
    if bool(weights.isnull().any()):
        raise SelectionError("weights cannot be missing; fill them, with weights.fillna(0) say")
    return weights
