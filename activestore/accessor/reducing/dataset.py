"""The accessor of `Dataset`: `ds.active.mean("time")`."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Hashable, Mapping
from contextlib import nullcontext
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
import xarray as xr

from activestore.accessor.reducing.grouping import Groupable, Grouped, Grouping
from activestore.accessor.reducing.methods import Dims, Reductions, named
from activestore.accessor.reducing.query import Query, called
from activestore.accessor.reducing.rules import Method
from activestore.accessor.reducing.weighted import WeightedArray, WeightedReductions, called_weighted, checked_weights
from activestore.errors import (
    CorruptChunkError,
    NotNumericError,
    SelectionError,
    SumOverflowError,
    UnsupportedError,
    UntraceableError,
)
from activestore.results.explanation import Explanation

__all__ = ["ActiveDataset", "GroupedDataset", "WeightedDataset"]

Variable = TypeVar("Variable")
"""A variable, or what reduces it."""
_OF_ONE = (NotNumericError, SelectionError, SumOverflowError, UnsupportedError, UntraceableError)
"""What says of one variable that it cannot be reduced, and nothing of the others."""
_OF_SOME = (*_OF_ONE, TypeError, ValueError)
"""The same, and what NumPy and xarray raise of types that they cannot reduce."""


class ActiveDataset(Reductions[xr.Dataset], Groupable["GroupedDataset"]):
    """Reductions of all variables of a `Dataset` where their data are: `ds.active.mean("time")` gives `ds.mean("time")`.

    Variables that lack the dimensions, are in memory, or hold times or text are reduced by xarray.

    Examples:
        >>> import xarray as xr
        >>> ds = xr.open_dataset("docs/tas.nc", engine="activestore")
        >>> list(ds.active.max("time").data_vars)
        ['tas']
    """

    def __init__(self, dataset: xr.Dataset) -> None:
        """Reduce the variables of `dataset`."""
        self._dataset = dataset

    def weighted(self, weights: xr.DataArray) -> WeightedDataset:
        """Return the weighted reductions, as `ds.weighted(weights)` has them.

        Parameters:
            weights: Weights along some of the dimensions, without missing values.

        Examples:
            >>> import numpy as np
            >>> import xarray as xr
            >>> ds = xr.open_dataset("docs/tas.nc", engine="activestore")
            >>> print(f"{ds.active.weighted(np.cos(np.deg2rad(ds.lat))).mean().tas.item():.1f} K")
            287.7 K
        """
        return WeightedDataset(self._dataset, weights)

    def explain(self, reduction: str | tuple[str, ...] = "mean", dim: Dims = None) -> dict[Hashable, Explanation]:
        """Return, for each variable that is reduced near its data, what a reduction would do, without reading any."""
        dims = named(dim, self._dataset.sizes)
        near = _near(self._dataset, dims)
        found = {name: Query(one).apart(_along(one, dims)) for name, one in near.items()}
        return {name: one.explain(reduction, one.named(_along(near[name], dims))) for name, one in found.items()}

    def _whole(self) -> xr.Dataset:
        return self._dataset

    def _in_groups(self, grouping: Grouping) -> GroupedDataset:
        return GroupedDataset(self._dataset, grouping)

    def _reduced(self, method: Method, dim: Dims, keep_attrs: bool | None) -> xr.Dataset:
        dims = named(dim, self._dataset.sizes)
        near = _near(self._dataset, dims)

        def of_others(others: xr.Dataset) -> Any:  # Any: what xarray's methods give is not typed
            return called(others, method, tuple(dim for dim in dims if dim in others.sizes), keep_attrs, windows=False)

        rest = _of_others(self._dataset.drop_vars(near), of_others, near)
        found = _each(near, lambda one: _reduced_along(one, dims, method, keep_attrs), rest)
        return _together(self._dataset, found, rest)


class GroupedDataset(Reductions[xr.Dataset]):
    """Reductions of groups of positions along a dimension; the groups take the dimension's place in the results."""

    def __init__(self, dataset: xr.Dataset, grouping: Grouping) -> None:
        """Reduce the groups of all variables of `dataset`; those that have none are what xarray makes of them."""
        self._dataset, self._grouping = dataset, grouping

    def __repr__(self) -> str:
        return f"<reductions near the data of {len(self._dataset.data_vars)} variables, in groups: {self._grouping}>"

    def explain(self, reduction: str | tuple[str, ...] = "mean", dim: Dims = None) -> dict[Hashable, Explanation]:
        """Return, for each variable that is reduced near its data, what a reduction would do, without reading any."""
        dims = self._grouping.reduced(dim, self._dataset.sizes)
        near = _near(self._dataset, self._grouping.labels)
        return {name: Query(one).explain(reduction, _common(one, dims), self._of(one)) for name, one in near.items()}

    def _reduced(self, method: Method, dim: Dims, keep_attrs: bool | None) -> xr.Dataset:
        dims, windows = self._grouping.reduced(dim, self._dataset.sizes), self._grouping.windows
        near = _near(self._dataset, self._grouping.labels)

        def of_others(others: xr.Dataset) -> Any:  # Any: what xarray's methods give is not typed
            along = tuple(dim for dim in dims if dim in others.sizes or dim in self._grouping.labels)
            return called(self._regrouped(others), method, along, keep_attrs, windows=windows)

        # flox counts a value as often as a dimension is long that its variable does not have.
        only_groups = set(dims) == set(self._grouping.labels)
        with nullcontext() if only_groups else xr.set_options(use_flox=False):  # type: ignore[no-untyped-call]  # xarray's own
            rest = _of_others(self._dataset.drop_vars(near), of_others, near)
            found = _each(near, lambda one: Query(one).reduced(method, _common(one, dims), keep_attrs, self._of(one)), rest)
        return _together(self._dataset, found, rest)

    def _regrouped(self, others: xr.Dataset) -> Any:  # Any: xarray's GroupBy, Resample or Coarsen
        """Return the groups of some variables: those without a coordinate cannot be made where the dimension is lost."""
        lost = [one for one in self._grouping.labels if one not in others.sizes]
        sizes = self._dataset.sizes
        return self._grouping.regroup(others.assign({f"positions along {one}": (one, np.zeros(sizes[one])) for one in lost}))

    def _of(self, array: xr.DataArray) -> Grouping:
        """Return the groups of one of the variables; xarray orders the dimensions of a dataset otherwise than of an array."""
        own = self._grouping.along(array.dims)

        def regroup(one: Grouped) -> Any:  # Any: see Grouping
            return (
                own.regroup(one)
                if isinstance(one, xr.Dataset)
                else _Only(own.regroup(one.to_dataset(name=array.name)), array.name)
            )

        return replace(own, regroup=regroup)


class _Only:
    """Groups of a dataset of one variable, whose methods give that variable."""

    def __init__(self, grouped: Any, name: Hashable) -> None:  # Any: xarray's GroupBy, Resample or Coarsen
        self._grouped, self._name = grouped, name

    def __getattr__(self, method: str) -> Callable[..., xr.DataArray]:
        of_all = getattr(self._grouped, method)
        return lambda *arguments, **options: of_all(*arguments, **options)[self._name]


class WeightedDataset(WeightedReductions[xr.Dataset]):
    """Weighted reductions of all variables of a `Dataset`, which give what `ds.weighted(weights)` gives."""

    def __init__(self, dataset: xr.Dataset, weights: xr.DataArray) -> None:
        """Weight the variables that have the dimensions of `weights`; of the others, xarray makes what it does.

        Raises:
            SelectionError: They are no weights for these variables.
        """
        self._dataset, self._weights = dataset, checked_weights(dataset, weights)
        self._arrays = {
            name: WeightedArray(Query(one), weights)
            for name, one in _near(dataset, dataset.sizes).items()
            if set(weights.dims) <= set(one.dims)
        }

    def __repr__(self) -> str:
        return f"<weighted reductions near the data of {', '.join(map(repr, self._arrays)) or 'no variable'}>"

    def _reduced(self, method: str, dim: Dims, skipna: bool | None, keep_attrs: bool | None) -> xr.Dataset:
        dims = named(dim, self._dataset.sizes)
        is_whole = set(dims) == set(self._dataset.sizes)
        near = {name: one for name, one in self._arrays.items() if is_whole or set(dims) <= set(self._dataset[name].dims)}

        def of_others(others: xr.Dataset) -> Any:  # Any: what xarray's methods give is not typed
            # What is weighted along a dimension that a variable does not have is xarray's to say, if there is such a variable.
            there = tuple(one for one in dims if others.data_vars or one in others.sizes or one in self._weights.dims)
            return called_weighted(others.weighted(self._weights), method, None if is_whole else there, skipna, keep_attrs)

        rest = _of_others(self._dataset.drop_vars(near), of_others, near)
        found = _each(near, lambda one: called_weighted(one, method, None if is_whole else dims, skipna, keep_attrs), rest)
        return _together(self._dataset, found, rest)


def _near(dataset: xr.Dataset, dims: Collection[Hashable]) -> dict[Hashable, xr.DataArray]:
    """Return the variables of which something is reduced near the data: numbers in a file, along one of the dimensions."""
    return {
        name: array
        for name, array in dataset.data_vars.items()
        if array.dtype.kind in "biuf" and not array.variable._in_memory and not set(array.dims).isdisjoint(dims)
    }


def _each(
    near: Mapping[Hashable, Variable], reduce: Callable[[Variable], xr.DataArray], rest: xr.Dataset
) -> dict[Hashable, xr.DataArray]:
    """Return what `reduce` gives of each variable, without those of which it gives nothing.

    Raises:
        ActivestoreError: There is nothing then, not even in the `rest`.

    Warns:
        UserWarning: A variable is left out; it names it.
    """
    found, failed = {}, []
    for name, one in near.items():
        try:
            found[name] = reduce(one)
        except _OF_ONE as error:
            failed.append((name, error))
    if failed and not found and not rest.data_vars:
        raise failed[0][1]
    for name, cause in failed:
        _warn_of_one(name, cause)
    return found


def _of_others(
    others: xr.Dataset,
    reduce: Callable[[xr.Dataset], Any],  # Any: what xarray's methods give is not typed
    near: Collection[Hashable],
) -> Any:
    """Return what xarray makes of the variables that are not reduced `near` the data, without those that it fails at.

    Raises:
        Exception: xarray's own, or ours, of a variable: there are no others then.

    Warns:
        UserWarning: A variable is left out; it names it.
    """
    others = _with_empty_read(others)
    try:
        return reduce(others)
    except _OF_SOME:
        failed = {name: cause for name in others.data_vars if (cause := _failure(others, name, reduce)) is not None}
        if not failed or not {*near, *others.data_vars}.difference(failed):
            raise
    found = reduce(others.drop_vars(failed))
    for name, cause in failed.items():
        _warn_of_one(name, cause)
    return found


def _failure(others: xr.Dataset, name: Hashable, reduce: Callable[[xr.Dataset], Any]) -> Exception | None:
    """Return what says of one variable that it cannot be reduced; of what holds numbers, only we know that."""
    try:
        reduce(others.drop_vars([one for one in others.data_vars if one != name]))
    except CorruptChunkError:
        raise
    except _OF_SOME as error:
        return error if others[name].dtype.kind not in "biufc" or isinstance(error, _OF_ONE) else None
    return None


def _warn_of_one(name: Hashable, cause: Exception) -> None:
    warnings.warn(f"{name!r} is left out: {str(cause).removeprefix(f'{name!r}: ')}", UserWarning, stacklevel=5)


def _with_empty_read(dataset: xr.Dataset) -> xr.Dataset:
    """Return the same with variables without values in memory: xarray fails to read some empty selections."""
    empty = {name: one for name, one in dataset.data_vars.items() if not one.size}
    return dataset.assign({name: one.copy(data=np.zeros(one.shape, one.dtype)) for name, one in empty.items()})


def _along(array: xr.DataArray, dims: tuple[Hashable, ...]) -> Dims:
    """Return those of `dims` that an array has; None for all of its own, of which two may have one name."""
    return None if set(array.dims) <= set(dims) else _common(array, dims)


def _reduced_along(array: xr.DataArray, dims: tuple[Hashable, ...], method: Method, keep_attrs: bool | None) -> xr.DataArray:
    along = _along(array, dims)
    return Query(array).apart(along).reduced(method, along, keep_attrs)


def _common(array: xr.DataArray, dims: tuple[Hashable, ...]) -> tuple[Hashable, ...]:
    return tuple(dim for dim in array.dims if dim in dims)


def _together(dataset: xr.Dataset, found: Mapping[Hashable, xr.DataArray], rest: xr.Dataset) -> xr.Dataset:
    """Return as a dataset what was reduced near the data and what xarray made of the rest, in the order of `dataset`."""
    known = {**rest.data_vars, **found}
    # A coordinate of groups takes the place of a variable of its name.
    made = {name: known[name] for name in dataset.data_vars if name in known and name not in rest.coords}
    return xr.Dataset(made, coords=rest.coords, attrs=rest.attrs)
