"""Groups of positions, as xarray makes them: by labels, by periods of time, in windows."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from activestore.errors import SelectionError

__all__ = ["Grouping", "group_labels", "group_periods", "group_windows"]

_FEW = 24
"""Groups that xarray reduces one by one in no time."""
_OF_XARRAY = (AttributeError, IndexError, KeyError, TypeError, ValueError)
"""What xarray raises where it cannot make groups."""


@dataclass(frozen=True, slots=True)
class Grouping:
    """To which group each position along some dimensions belongs."""

    labels: Mapping[Hashable, npt.NDArray[np.int64]]
    """The number of the group of each position, by dimension; -1 where a position is in none."""
    counts: Mapping[Hashable, int]
    """How many groups there are, by dimension."""
    regroup: Callable[[xr.DataArray], Any]  # Any: xarray's GroupBy, Resample or Coarsen
    """Groups another array of the same lengths and coordinates in the same way, with xarray itself."""
    windows: bool = False
    """Whether xarray's methods take no dimensions: all that is grouped is reduced, and nothing else."""


def group_labels(array: xr.DataArray, group: Any, groupers: Mapping[str, Any]) -> Grouping:  # Any: what xarray takes
    """Return the groups of `array.groupby(group, **groupers)`.

    Raises:
        SelectionError: They are not groups of positions along one dimension.
    """
    keys = [group] if group is not None else list(groupers)
    if len(keys) != 1:
        raise SelectionError(f"groups are made along one coordinate at a time, not of {len(keys)}")
    try:
        along = array[keys[0]] if isinstance(keys[0], str) else keys[0]
    except _OF_XARRAY as error:
        known = ", ".join(repr(str(name)) for name in array.coords) or "none"
        raise SelectionError(f"{keys[0]!r} is no coordinate, or part of one, to make groups of; there are: {known}") from error
    dims = getattr(along, "dims", None)
    if dims is None or len(dims) != 1 or dims[0] not in array.dims:
        raise SelectionError(f"groups are made along one of the dimensions {array.dims}; this is {_shown(along)}")
    return _grouping(array, dims[0], lambda one: one.groupby(group, **groupers))


def group_periods(array: xr.DataArray, periods: Mapping[str, Any], options: Mapping[str, Any]) -> Grouping:  # Any: frequencies
    """Return the groups of `array.resample(time="1YS")`.

    Raises:
        SelectionError: It is not one dimension that is resampled.
    """
    if len(periods) != 1 or next(iter(periods)) not in array.dims:
        raise SelectionError(f"resample one of the dimensions {array.dims}, as in resample(time='1YS'), not {list(periods)}")
    return _grouping(array, next(iter(periods)), lambda one: one.resample(**periods, **options))


def _shown(along: Any) -> str:  # Any: what the user gave
    return f"a coordinate of {getattr(along, 'dims', type(along).__name__)}"


def _grouping(array: xr.DataArray, dim: Hashable, regroup: Callable[[xr.DataArray], Any]) -> Grouping:  # Any: see Grouping
    """Return the groups that `regroup` makes along a dimension.

    Raises:
        SelectionError: xarray cannot make them; or a position is in two of them.
    """
    length = array.sizes[dim]
    coords = {name: coord for name, coord in array.coords.items() if coord.dims == (dim,)}
    positions = xr.DataArray(np.arange(length), dims=(dim,), coords=coords, name="position")
    try:
        grouped = regroup(positions)
        # The least position of each group, in the order of the result, tells which of xarray's groups it is.
        groups = [positions.values[members] for members in grouped.groups.values()]
        # Of few groups, xarray alone finds it sooner than flox is imported.
        is_small = len(groups) <= _FEW and any(map(len, groups))
        found = grouped.reduce(np.min) if is_small else grouped.min()
        least = np.asarray(found.values, np.float64)
    except _OF_XARRAY as error:
        raise SelectionError(f"xarray cannot make these groups, or cannot tell whose they are: {error}") from error
    owner = {int(position): number for number, position in enumerate(least.tolist()) if position == position}
    labels = np.full(length, -1, np.int64)
    for inside in groups:
        if np.any(labels[inside] >= 0):
            raise SelectionError("a position is in two of the groups; reduce them one by one, or leave out .active")
        if inside.size:
            labels[inside] = owner[int(np.min(inside))]
    return Grouping({dim: labels}, {dim: len(least)}, regroup)


def group_windows(array: xr.DataArray, windows: Mapping[Any, int], options: Mapping[str, Any]) -> Grouping:  # Any: dimensions
    """Return the groups of `array.coarsen(lat=4, lon=4)`.

    Raises:
        SelectionError: A window does not fit its dimension.
    """
    labels, counts = {}, {}
    for dim, window in windows.items():
        if dim not in array.dims or isinstance(window, bool) or not isinstance(window, (int, np.integer)) or window < 1:
            raise SelectionError(f"coarsen the dimensions {array.dims} by whole numbers, not {dim!r} by {window!r}")
        labels[dim], counts[dim] = _windowed(array.sizes[dim], int(window), dim, options)
    return Grouping(labels, counts, lambda one: one.coarsen(windows, **options), windows=True)


def _windowed(length: int, window: int, dim: Hashable, options: Mapping[str, Any]) -> tuple[npt.NDArray[np.int64], int]:
    """Return the group of each position, and how many groups there are."""
    boundary, side = (_of_dim(options.get(name), dim, plain) for name, plain in (("boundary", "exact"), ("side", "left")))
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
