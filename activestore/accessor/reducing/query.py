"""A `DataArray` to be reduced where its data are: from xarray's words to a run of the engine, and back to a `DataArray`."""

from __future__ import annotations

import math
import warnings
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from activestore.accessor.arrays.decoding import DefaultFill
from activestore.accessor.obstacles import InMemoryError, OnlyXarrayError
from activestore.accessor.reducing.cluster import executor_here
from activestore.accessor.reducing.grouping import Grouping, coords_along
from activestore.accessor.reducing.methods import Dims, named
from activestore.accessor.reducing.rules import Method, finished
from activestore.accessor.tracing.variable import Traced, is_of_dask, trace
from activestore.core.conditions import Condition, parse_condition, unsatisfied
from activestore.core.groups import Groups
from activestore.core.reductions import NO_DIFFERENCE, READ, Reduction, find_reduction
from activestore.errors import (
    ActivestoreError,
    FallbackWarning,
    NotNumericError,
    ReductionError,
    SelectionError,
    UntraceableError,
)
from activestore.results.explanation import Explanation

__all__ = ["NO_GROUPS", "Answer", "Query", "called"]

_SUMS = frozenset({"sum", "mean"})
_REASON = 1e30
"""What no quantity is as large as; netCDF's default fill values of floats are, however they are packed."""
_FLAT = "_activestore_flat"
"""Name of a dimension that stands for several."""
_NEVER = 1 << 40
"""More values than any group has."""
NO_GROUPS = Grouping({}, {}, lambda array: array)


@dataclass(frozen=True, slots=True)
class Answer:
    """What the engine says of a query."""

    values: Mapping[str, Any]  # Any: a number or a masked array
    """What each reduction gives, masked where nothing is valid."""
    count: npt.NDArray[np.int64]
    """How many values are valid under each cell."""
    total: npt.NDArray[np.int64]
    """How many there are, missing ones included; broadcasts against `count`."""
    dims: tuple[Hashable, ...]
    """The array's dimensions that the values still have, in their order; those of groups keep their names."""


@dataclass(frozen=True, slots=True)
class Query:
    """An array, and the condition that its values have to satisfy to count."""

    array: xr.DataArray
    """The array; it stays where it is."""
    condition: str | None = None
    """"> 298.15", say; None where all values count."""

    def __str__(self) -> str:
        """Return name and shape of the array, and the condition."""
        shape = ", ".join(f"{dim}: {size}" for dim, size in self.array.sizes.items())
        return f"{self.array.name!r} ({shape})" + ("" if self.condition is None else f" where {self.condition}")

    def named(self, dim: Dims) -> tuple[Hashable, ...]:
        """Return the dimensions that `dim` names, in the array's order; None is all of them.

        Raises:
            SelectionError: The array has no such dimension.
        """
        return named(dim, self.array.dims)

    def apart(self, dim: Dims) -> Query:
        """Return the same with a name of its own for each dimension, if all of them or none are reduced along `dim`.

        Raises:
            SelectionError: Some are, and two have one name.
        """
        array = self.array
        if len(set(array.dims)) == array.ndim:
            return self
        if dim is not None and dim is not ... and self.named(dim):
            raise SelectionError(_repeated(array))
        variable = array.variable
        data = xr.Variable(range(array.ndim), variable._data, variable.attrs, variable.encoding, fastpath=True)
        coords = {name: coord.variable for name, coord in array.coords.items() if not coord.dims}
        return replace(self, array=xr.DataArray(data, coords, name=array.name))

    def traced(self) -> Traced:
        """Return where the values come from: file, variable and selection.

        Raises:
            OnlyXarrayError: They are those of a file, and only xarray can read them.
            InMemoryError: They are in memory.
            UntraceableError: That cannot be told for certain.
        """
        name = "the array" if self.array.name is None else repr(self.array.name)
        if self.condition is not None and self.array.dtype.kind == "b":
            raise OnlyXarrayError(f"{name}: its values are true or false, of which xarray's where makes objects")
        try:
            return trace(self.array.variable)
        except OnlyXarrayError as error:
            raise OnlyXarrayError(f"{name}: {error}, so it has to be read before it can be reduced") from None
        except UntraceableError as error:
            raise type(error)(
                f"{name}: {error}, so it cannot be reduced where the data are; open the file with xr.open_dataset(path, "
                "engine='activestore'), reduce with .active first and compute afterwards, as in ds.t.active.mean() - 273.15, "
                "or leave out .active"
            ) from None

    def located(self) -> Traced | xr.DataArray:
        """Return where the values come from; where xarray has to reduce them, the array instead, as the condition leaves it.

        Raises:
            UntraceableError: It cannot be told for certain where they come from.
            NotNumericError: Only xarray can read them, and fails.

        Warns:
            FallbackWarning: Only xarray can read them.
        """
        if len(set(self.array.dims)) < self.array.ndim:
            raise SelectionError(_repeated(self.array))
        if self.is_here:
            return self.loaded()
        try:
            return self.traced()
        except InMemoryError:
            # What was computed of a file's values has lost this mark. Text is always read when it is decoded.
            persisted = is_of_dask(self.array.variable) and "source" in self.array.variable.encoding
            if not persisted and self.array.dtype.kind in "biufcmM":
                raise
            return self.chosen(self.array)
        except OnlyXarrayError as error:
            warnings.warn(str(error), FallbackWarning, stacklevel=5)
            return self.chosen(self._read())

    def _read(self) -> xr.DataArray:
        """Return the array with its values, as xarray reads them.

        Raises:
            NotNumericError: Its attributes are such that xarray cannot make numbers of what is stored.
        """
        try:
            return self.array.compute()
        except ActivestoreError:
            raise
        except (ArithmeticError, TypeError, ValueError) as error:
            raise NotNumericError(f"{self}: xarray makes no numbers of what is stored, with its attributes ({error})") from None

    def explain(
        self, reduction: str | tuple[str, ...], dims: tuple[Hashable, ...], grouping: Grouping = NO_GROUPS
    ) -> Explanation:
        """Return what the engine would do."""
        traced = self.traced()
        return traced.active.explain(reduction, self._axes(traced, dims), **self._parts(traced, grouping))

    def answer(
        self,
        reductions: Reduction | tuple[Reduction, ...],
        dims: tuple[Hashable, ...],
        grouping: Grouping = NO_GROUPS,
        traced: Traced | None = None,
    ) -> Answer:
        """Return what the engine finds, `dims` being reduced: near the data, in one pass; `traced` if that is known."""
        traced = self.traced() if traced is None else traced
        cluster = executor_here() if is_of_dask(self.array.variable) else None
        active = traced.active
        if cluster is not None:
            active = active.with_options(executor=cluster.executor, workers=cluster.workers)
        wanted = reductions if isinstance(reductions, tuple) else (reductions,)
        axes, parts, default = self._axes(traced, dims), self._parts(traced, grouping), traced.default
        if default is None:
            result = active.run(wanted, axes, **parts)
        else:
            extreme = READ if wanted == (READ,) else find_reduction(default.extreme)
            is_told = any(_tells(one, default) for one in wanted)
            result = active.run(wanted if is_told or extreme in wanted else (*wanted, extreme), axes, **parts)
            if is_told and _may_have(default, result.values, result.count):
                self._warn_of_fills(default, active.run(extreme, axes, **parts).values[extreme.name])
            elif not is_told:
                self._warn_of_fills(default, result.values[extreme.name])
        names = [self.array.dims[traced.axes.index(axis)] for axis in range(self.array.ndim)]
        kept = tuple(name for name in names if name not in dims or name in grouping.labels)
        values = {one.name: result.values[one.name] for one in wanted}
        return Answer(values, np.asarray(result.count), self._total(dims, kept, grouping), kept)

    def _warn_of_fills(self, default: DefaultFill, values: Any) -> None:  # Any: a number or a masked array
        """Say once that netCDF's default fill value is among the values, if it is."""
        if np.any(np.ma.filled(values == default.value, False)):
            warnings.warn(
                f"{self}: netCDF's default fill value, {default.value!r}, is among the values and counts as a number, as in "
                f"xarray: the file has no _FillValue; leave it out with .active.where('!= {default.value!r}')",
                UserWarning,
                stacklevel=6,
            )

    def _axes(self, traced: Traced, dims: tuple[Hashable, ...]) -> tuple[int, ...]:
        return tuple(traced.axes[self.array.dims.index(dim)] for dim in dims)

    def _parts(self, traced: Traced, grouping: Grouping) -> dict[str, Any]:  # Any: keyword arguments of many types
        axis = dict(zip(self.array.dims, traced.axes, strict=True))
        by = {axis[dim]: Groups(labels, grouping.counts[dim]) for dim, labels in grouping.labels.items()}
        given = {"by": by or None, "where": self.condition}
        return {name: value for name, value in given.items() if value is not None}

    def _total(self, dims: tuple[Hashable, ...], kept: tuple[Hashable, ...], grouping: Grouping) -> npt.NDArray[np.int64]:
        """Return how many values lie under each cell, missing ones included."""
        whole = math.prod(self.array.sizes[dim] for dim in dims if dim not in grouping.labels)
        total = np.full((1,) * len(kept), whole, np.int64)
        for dim, labels in grouping.labels.items():
            members = np.bincount(labels[labels >= 0], minlength=grouping.counts[dim])
            total = total * members.reshape([-1 if one == dim else 1 for one in kept])
        return total

    def reduced(self, method: Method, dim: Dims, keep_attrs: bool | None, grouping: Grouping = NO_GROUPS) -> xr.DataArray:
        """Return what xarray's method gives, of the whole or of each group.

        Raises:
            SelectionError: The array has no such dimension.
        """
        dims = self.named(dim)
        # Of a single value xarray takes the mean, but leaves it as it is along nothing.
        place = None if self.array.ndim == 0 and (dim is None or dim is ...) else dims
        traced = self.located()
        if isinstance(traced, xr.DataArray):
            return self._reduced_here(traced, method, place, keep_attrs, grouping)
        if place == () and not grouping.labels:
            method = _along_nothing(method)
        mould = self._mould(method, place, keep_attrs, grouping)
        answer = self.answer(method.reduction, dims, grouping, traced)
        kind = self.chosen(self._small(NO_GROUPS)).dtype.kind
        (value,) = answer.values.values()
        order = _order(mould.dims, answer.dims)
        values = np.transpose(finished(method, value, answer.count, answer.total, kind), order)
        if grouping.labels:
            count, total = np.transpose(answer.count, order), np.transpose(answer.total, order)
            values = self._as_grouped(values, count, total, method, mould, grouping, place)
        found = self.assembled(mould, values, {*dims, *grouping.labels})
        if not grouping.windows:
            return found
        coords = grouping.regroup(xr.Dataset(coords=self.array.coords)).mean().coords
        return found.assign_coords({name: coord for name, coord in coords.items() if name not in found.coords})

    def _reduced_here(
        self,
        array: xr.DataArray,
        method: Method,
        place: tuple[Hashable, ...] | None,
        keep_attrs: bool | None,
        grouping: Grouping,
    ) -> xr.DataArray:
        """Return what xarray gives of the array in memory.

        Raises:
            NotNumericError: It holds text, or whatever else cannot be reduced so.
        """
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of nothing that is valid, where Dask computes
                return called(grouping.regroup(array), method, place, keep_attrs, windows=grouping.windows).load()
        except (TypeError, ValueError) as error:
            if array.dtype.kind in "biuf" or isinstance(error, ActivestoreError):
                raise
            raise NotNumericError(f"{self}: holds {array.dtype}, of which there is no {method.name} ({error})") from None

    def _as_grouped(
        self,
        values: npt.NDArray[Any],
        count: npt.NDArray[np.int64],
        total: npt.NDArray[np.int64],
        method: Method,
        mould: xr.DataArray,
        grouping: Grouping,
        place: tuple[Hashable, ...] | None,
    ) -> npt.NDArray[Any]:
        """Return `values` with what xarray gives groups of few values or none, with flox and without."""
        if method.name == "sum" and self._counts_all(method, place, grouping):
            values = np.where(count < (method.min_count or 0), np.nan, values)
        if not np.all(total):
            values = np.where(total == 0, mould.values, values)
        nothing = (count == 0) & (total > 0)
        if method.name in ("all", "any", "count", "sum") and np.any(nothing):
            empty = self._mould(method, place, None, grouping, valid=False)
            values = np.where(nothing, empty.values, values)
        if grouping.windows and method.name == "any":
            # What pads the last windows is true.
            padded = called(grouping.regroup(self._small(grouping)), method, None, None, windows=True)
            values = np.logical_or(values, padded.values)
        return values

    def _counts_all(self, method: Method, place: tuple[Hashable, ...] | None, grouping: Grouping) -> bool:
        """Return whether xarray, with flox, counts the values of a group even where it looks for no missing ones."""
        if method.min_count is None or grouping.windows:
            return False
        never = self._mould(replace(method, min_count=_NEVER), place, None, grouping)
        return bool(never.dtype.kind == "f" and np.all(np.isnan(never.values)))

    def positions(self, method: Method, dims: tuple[Hashable, ...], keep_attrs: bool | None) -> xr.DataArray:
        """Return where the least or greatest values are, counted in C order of `dims` where these are several.

        Raises:
            SelectionError: The dimensions are in another order than the file's, so that another of equal values is the first.
        """
        located = self.located()
        if isinstance(located, Traced):
            axes = self._axes(located, dims)
            if list(axes) != sorted(axes):
                raise SelectionError(
                    f"{method.name} finds the first of equal values in the order of the file, in which {dims} are not; "
                    "transpose the array back, or leave out .active"
                )
            return self.reduced(method, dims if self.array.ndim else None, keep_attrs)
        options = {} if keep_attrs is None else {"keep_attrs": keep_attrs}
        here = located.compute()
        flat = here.stack({_FLAT: dims}, create_index=False) if dims else here.expand_dims(_FLAT)
        found = getattr(flat, method.name)(_FLAT, skipna=method.skipna, **options)
        return self.assembled(found.drop_vars([name for name in found.coords if name not in found.dims]), found.values, {*dims})

    def assembled(self, mould: xr.DataArray, values: npt.NDArray[Any], dims: set[Hashable]) -> xr.DataArray:
        """Return `values` as a `DataArray` like `mould`, with the coordinates of the array that `dims` do not concern."""
        lost = [name for name, coord in self.array.coords.items() if dims.intersection(coord.dims)]
        kept = self.array.drop_vars(lost).coords
        variable = xr.Variable(mould.dims, values.astype(mould.dtype, copy=False), mould.attrs)
        found = xr.DataArray(variable, coords=kept, name=mould.name)
        return found.assign_coords({name: coord for name, coord in mould.coords.items() if name not in kept})

    def _mould(
        self,
        method: Method,
        place: tuple[Hashable, ...] | None,
        keep_attrs: bool | None,
        grouping: Grouping,
        *,
        valid: bool = True,
    ) -> xr.DataArray:
        """Return what xarray gives for a small array of the same kind: type, name, attributes, order of dimensions."""
        small = self.chosen(self._small(grouping))
        small = small if valid else small.where(np.zeros(small.shape, bool))
        return called(grouping.regroup(small), method, place, keep_attrs, windows=grouping.windows)

    def _small(self, grouping: Grouping) -> xr.DataArray:
        """Return zeros in place of the array: one along each dimension, all along those that are grouped."""
        array = self.array
        shape = tuple(array.sizes[dim] if dim in grouping.labels else 1 for dim in array.dims)
        coords = coords_along(array, grouping.labels)
        return xr.DataArray(np.zeros(shape, array.dtype), coords, array.dims, name=array.name, attrs=array.attrs)

    @property
    def is_here(self) -> bool:
        """Whether there is nothing to be read: no values at all, or values of a file that were loaded before."""
        variable = self.array.variable
        # What was computed of a file's values has lost this mark.
        return not self.array.size or (variable._in_memory and "source" in variable.encoding)

    def loaded(self) -> xr.DataArray:
        """Return the array, which is here, as the condition leaves it."""
        array = self.array
        # xarray fails to read some empty selections.
        return self.chosen(array if array.size else array.copy(data=np.zeros(array.shape, array.dtype)))

    def chosen(self, array: xr.DataArray) -> xr.DataArray:
        """Return an array in memory as the condition leaves it: integers become floats."""
        if self.condition is None:
            return array
        values, condition = array.data, parse_condition(self.condition)
        if is_of_dask(array.variable):
            good = values.map_blocks(_satisfied, condition, dtype=bool, meta=np.empty((0,) * array.ndim, bool))
        else:
            good = _satisfied(np.asarray(values), condition)
        return array.where(good)


def _satisfied(values: npt.NDArray[Any], condition: Condition) -> npt.NDArray[np.bool_]:
    bad = unsatisfied(values, condition)
    return np.ones(values.shape, bool) if bad is None else ~bad


def called(
    grouped: Any,
    method: Method,
    dims: tuple[Hashable, ...] | None,
    keep_attrs: bool | None,
    *,
    windows: bool,  # Any: xarray's groups
) -> xr.DataArray:
    """Return the result of xarray's own method."""
    place = () if windows else (None if dims is None else list(dims),)
    if method.name == "ptp":
        least, greatest = (
            called(grouped, replace(method, name=name), dims, keep_attrs, windows=windows) for name in ("min", "max")
        )
        if greatest.dtype.kind == "b":
            raise ReductionError(NO_DIFFERENCE)
        return greatest.copy(data=greatest.values - least.values)
    options = method.keywords | ({} if keep_attrs is None else {"keep_attrs": keep_attrs})
    if windows:
        options.pop("ddof", None)  # xarray's windows do not take it, and it changes neither type nor name
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of moments of a single value
        found: xr.DataArray = getattr(grouped, method.of_xarray)(*place, **options)
    return found


def _repeated(array: xr.DataArray) -> str:
    """Return what is said of an array of which two dimensions have one name."""
    name = next(name for name in array.dims if array.dims.count(name) > 1)
    return (
        f"{array.name!r} has several dimensions that are called {name!r}, so that xarray reduces all dimensions or none; "
        "leave out dim, or reduce it with activestore.Active, which takes numbers of dimensions"
    )


def _along_nothing(method: Method) -> Method:
    """Return the method that gives what xarray does along no dimension: it leaves what is summed or averaged as it is."""
    if method.name == "mean":
        # A mean is a double, which large integers are not.
        return replace(method, name="max")
    return replace(method, min_count=1) if method.name == "sum" else method


def _order(dims: tuple[Hashable, ...], old: tuple[Hashable, ...]) -> list[int]:
    """Return where each of xarray's dimensions is among the engine's; a new name stands for that of the groups."""
    missing = [dim for dim in old if dim not in dims]
    return [old.index(dim) if dim in old else old.index(missing[0]) for dim in dims]


def _tells(reduction: Reduction, default: DefaultFill) -> bool:
    """Return whether a result is beyond all reason where a default fill value is among the values: that of floats is."""
    return abs(default.value) > _REASON and reduction.name in _SUMS and reduction == find_reduction(reduction.name)


def _may_have(default: DefaultFill, values: Mapping[str, Any], count: Any) -> bool:  # Any: numbers or masked arrays
    """Return whether a result is as large as one default fill value among `count` values makes it, or half as large."""
    least = abs(default.value) / (2 * np.maximum(count, 1))
    return any(bool(np.any(np.ma.filled(np.abs(values[name]) >= least, False))) for name in _SUMS.intersection(values))
