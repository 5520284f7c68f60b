"""Groups of positions, as xarray makes them: by labels, by periods of time, in windows."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt
import xarray as xr

from activestore.accessor.reducing.methods import Dims, named
from activestore.errors import SelectionError

__all__ = ["Groupable", "Grouped", "Grouping", "coords_along"]

Grouped = xr.DataArray | xr.Dataset
"""What groups are made of."""

Groups = TypeVar("Groups")
"""The reductions of groups."""

_FEW = 24
"""Groups that xarray reduces one by one in no time."""
_OF_WINDOWS = ("boundary", "side", "coord_func")
"""Keywords of xarray's `coarsen` that are no dimensions."""
_OF_PERIODS = frozenset({"skipna", "closed", "label", "offset", "origin", "restore_coord_dims"})
"""Keywords of xarray's `resample` that are no dimensions."""
_OF_XARRAY = (AttributeError, IndexError, KeyError, TypeError, ValueError)
"""What xarray raises where it cannot make groups."""


@dataclass(frozen=True, slots=True)
class Grouping:
    """To which group each position along some dimensions belongs."""

    labels: Mapping[Hashable, npt.NDArray[np.int64]]
    """The number of the group of each position, by dimension; -1 where a position is in none."""
    counts: Mapping[Hashable, int]
    """How many groups there are, by dimension."""
    regroup: Callable[[Grouped], Any]  # Any: xarray's GroupBy, Resample or Coarsen
    """Groups another array, or a dataset, of the same lengths and coordinates in the same way, with xarray itself."""
    windows: bool = False
    """Whether xarray's methods take no dimensions: all that is grouped is reduced, and nothing else."""

    def __str__(self) -> str:
        return ", ".join(f"{count} along {dim!r}" for dim, count in self.counts.items())

    def along(self, dims: Collection[Hashable]) -> Grouping:
        """Return the same of an array that has only some of the dimensions."""
        kept = [dim for dim in self.labels if dim in dims]
        return replace(self, labels={dim: self.labels[dim] for dim in kept}, counts={dim: self.counts[dim] for dim in kept})

    def reduced(self, dim: Dims, dims: Iterable[Hashable]) -> tuple[Hashable, ...]:
        """Return those of `dims` that a reduction along `dim` takes away: by default those that are grouped.

        Raises:
            SelectionError: Those that are grouped are not among them, or others are though there are windows.
        """
        grouped = tuple(self.labels)
        found = grouped if dim is None else named(dim, dims)
        missing = [one for one in grouped if one not in found]
        if missing or (self.windows and set(found) != set(grouped)):
            raise SelectionError(f"groups are along {grouped}, which has to be reduced; {dim!r} was given")
        return found


class Groupable(Generic[Groups]):
    """What can be reduced in groups of positions, as xarray makes them: an array, or a dataset."""

    def _whole(self) -> Grouped:
        raise NotImplementedError

    def _in_groups(self, grouping: Grouping) -> Groups:
        raise NotImplementedError

    def groupby(self, group: Any = None, **groupers: Any) -> Groups:  # Any: what xarray's groupby takes
        """Return the reductions of groups of positions along one dimension, as `da.groupby("time.month")` has them.

        Examples:
            >>> import xarray as xr
            >>> tas = xr.open_dataset("docs/tas.nc", engine="activestore").tas
            >>> tas.active.groupby("time.season").mean("time").season.values.tolist()
            ['DJF', 'JJA', 'MAM', 'SON']
        """
        return self._in_groups(_of_labels(self._whole(), group, groupers))

    def resample(
        self,
        indexer: Mapping[Any, Any] | None = None,
        *,
        options: Mapping[str, Any] | None = None,
        **given: Any,
    ) -> Groups:  # Any: frequencies, and what xarray's resample takes
        """Return the reductions of periods of time, as `da.resample(time="1YS")` has them.

        Parameters:
            indexer: The period by dimension; or give it as a keyword.
            options: What else xarray's method takes: `closed`, `label`, `offset`, `origin`, …; or give it as keywords.
            given: See above.

        Examples:
            >>> import xarray as xr
            >>> tas = xr.open_dataset("docs/tas.nc", engine="activestore").tas
            >>> tas.active.resample(time="1YS").max("time").time.dt.year.values.tolist()
            [2001, 2002]
            >>> tas.active.resample({"time": "1YS"}, label="right").max("time").time.dt.year.values.tolist()
            [2002, 2003]
        """
        return self._in_groups(_of_periods(self._whole(), indexer or {}, {**(options or {}), **given}))

    def coarsen(self, dim: Mapping[Any, int] | None = None, **options: Any) -> Groups:  # Any: windows and options
        """Return the reductions of windows of positions, as `da.coarsen(lat=4, lon=4)` has them.

        Parameters:
            dim: Lengths of the windows by dimension; or give them as keywords.
            options: `boundary` ("exact", "trim" or "pad"), `side` and `coord_func` as in xarray; all others are windows.

        Examples:
            >>> import xarray as xr
            >>> tas = xr.open_dataset("docs/tas.nc", engine="activestore").tas
            >>> tas.active.coarsen(lat=9, lon=9).mean().shape
            (24, 2, 4)
        """
        return self._in_groups(_of_windows(self._whole(), dim, options))


def _of_labels(array: Grouped, group: Any, groupers: Mapping[str, Any]) -> Grouping:  # Any: what xarray takes
    """Return the groups of `array.groupby(group, **groupers)`.

    Raises:
        SelectionError: They are not groups of positions along one dimension.
    """
    keys = list(group or groupers) if group is None or isinstance(group, Mapping) else [group]
    if len(keys) != 1:
        raise SelectionError(f"groups are made along one coordinate at a time, not of {len(keys)}")
    if isinstance(array, xr.Dataset) and isinstance(keys[0], str) and keys[0] in array.data_vars:
        raise SelectionError(f"groups are made along a coordinate; make {keys[0]!r} one first: ds.set_coords({keys[0]!r})")
    try:
        along = array[keys[0]] if isinstance(keys[0], str) else keys[0]
    except _OF_XARRAY:
        known = ", ".join(repr(str(name)) for name in array.coords) or "none"
        raise SelectionError(f"{keys[0]!r} is no coordinate, or part of one, to make groups of; there are: {known}") from None
    dims = getattr(along, "dims", None)
    if dims is None or len(dims) != 1 or dims[0] not in array.dims:
        raise SelectionError(f"groups are made along one of the dimensions {tuple(array.sizes)}; this is {_shown(along)}")
    return _grouping(array, dims[0], lambda one: one.groupby(group, **groupers))


def _of_periods(array: Grouped, indexer: Mapping[Any, Any], given: Mapping[str, Any]) -> Grouping:  # Any: what xarray takes
    """Return the groups of `array.resample(indexer, **given)`, where keywords are periods and options.

    Raises:
        SelectionError: It is not one dimension that is resampled.
    """
    options = {name: value for name, value in given.items() if name in _OF_PERIODS and name not in array.dims}
    periods = {**indexer, **{name: value for name, value in given.items() if name not in options}}
    if len(periods) != 1 or next(iter(periods)) not in array.dims:
        dims = tuple(array.sizes)
        raise SelectionError(f"resample one of the dimensions {dims}, as in resample(time='1YS'), not {list(periods)}")
    return _grouping(array, next(iter(periods)), lambda one: one.resample(periods, **options))


def coords_along(array: Grouped, dims: Collection[Hashable]) -> xr.Coordinates:
    """Return the coordinates along some of `dims` and no others, with the indexes that they have and none besides."""
    others = [name for name, coord in array.coords.items() if not coord.dims or not set(coord.dims) <= set(dims)]
    return array.coords.to_dataset().drop_vars(others).coords


def _shown(along: Any) -> str:  # Any: what the user gave
    return f"a coordinate of {getattr(along, 'dims', type(along).__name__)}"


def _grouping(array: Grouped, dim: Hashable, regroup: Callable[[Grouped], Any]) -> Grouping:  # Any: see Grouping
    """Return the groups that `regroup` makes along a dimension.

    Raises:
        SelectionError: xarray cannot make them; or a position is in two of them.
    """
    length = array.sizes[dim]
    coords = coords_along(array, (dim,))
    # Floats: the least position of a group without any is NaN.
    positions = xr.DataArray(np.arange(length, dtype=np.float64), dims=(dim,), coords=coords, name="position")
    try:
        grouped = regroup(positions)
        # The least position of each group, in the order of the result, tells which of xarray's groups it is.
        members, complete = _members(grouped)
        groups = [np.arange(length)[one] for one in members]
        # Of few groups, xarray alone finds it sooner than flox is imported.
        is_small = complete and len(groups) <= _FEW and any(map(len, groups))
        found = grouped.reduce(np.min) if is_small else grouped.min()
        least = np.asarray(found.values, np.float64)
    except _OF_XARRAY as error:
        raise SelectionError(f"xarray cannot make these groups, or cannot tell whose they are: {error}") from None
    owner = {int(position): number for number, position in enumerate(least.tolist()) if position == position}
    labels = np.full(length, -1, np.int64)
    for inside in groups:
        if np.any(labels[inside] >= 0):
            raise SelectionError("a position is in two of the groups; reduce them one by one, or leave out .active")
        if inside.size:
            labels[inside] = owner[int(np.min(inside))]
    return Grouping({dim: labels}, {dim: len(least)}, regroup)


def _members(grouped: Any) -> tuple[list[Any], bool]:  # Any: xarray's groups, and positions in them
    """Return the positions in each group, and whether these are all groups: some of given labels may have no positions."""
    try:
        return list(grouped.groups.values()), True
    except ValueError:
        # xarray has no mapping from labels then.
        return [one for one in grouped.encoded.group_indices if one], False


def _of_windows(
    array: Grouped, windows: Mapping[Any, int] | None, given: Mapping[str, Any]
) -> Grouping:  # Any: what xarray takes
    """Return the groups of `array.coarsen(windows, **given)`: windows, and xarray's options.

    Raises:
        SelectionError: A window does not fit its dimension.
    """
    options = {name: value for name, value in given.items() if name in _OF_WINDOWS}
    windows = {**(windows or {}), **{name: value for name, value in given.items() if name not in _OF_WINDOWS}}
    if not windows:
        raise SelectionError("name the dimensions to coarsen, as in coarsen(lat=4, lon=4)")
    labels, counts = {}, {}
    for dim, window in windows.items():
        if dim not in array.sizes or isinstance(window, bool) or not isinstance(window, (int, np.integer)) or window < 1:
            raise SelectionError(f"coarsen the dimensions {tuple(array.sizes)} by whole numbers, not {dim!r} by {window!r}")
        labels[dim], counts[dim] = _windowed(array.sizes[dim], int(window), dim, options)
    return Grouping(labels, counts, lambda one: one.coarsen(_of_dims(windows, one.sizes), **options), windows=True)


def _of_dims(windows: Mapping[Any, int], dims: Collection[Hashable]) -> dict[Any, int]:  # Any: names of dimensions
    return {dim: window for dim, window in windows.items() if dim in dims}


def _windowed(length: int, window: int, dim: Hashable, options: Mapping[str, Any]) -> tuple[npt.NDArray[np.int64], int]:
    """Return the group of each position, and how many groups there are."""
    boundary, side = (_of_dim(options.get(name), dim, plain) for name, plain in (("boundary", "exact"), ("side", "left")))
    for name, given, known in (("boundary", boundary, ("exact", "trim", "pad")), ("side", side, ("left", "right"))):
        if given not in known:
            raise SelectionError(f"coarsen: {name} is one of {', '.join(map(repr, known))}, not {given!r}")
    rest = length % window
    if boundary == "exact" and rest:
        raise SelectionError(
            f"windows of {window} do not fit the {length} positions along {dim!r}; "
            "give boundary='trim' to leave out what is over, or 'pad' to have a smaller window at the end"
        )
    position = np.arange(length, dtype=np.int64)
    if side == "right" and rest:
        position += window - rest if boundary == "pad" else -rest
    labels = position // window
    count = length // window
    if boundary == "pad":
        return labels, -(-length // window)
    return np.where((labels < 0) | (labels >= count), -1, labels), count


def _of_dim(option: Any, dim: Hashable, plain: str) -> str:  # Any: one for all dimensions, or one for each
    chosen = option.get(dim, plain) if isinstance(option, Mapping) else option
    return plain if chosen is None else str(chosen)
