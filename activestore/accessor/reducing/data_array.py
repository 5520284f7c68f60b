"""The accessor of `DataArray`: `da.active.mean("time")`."""

from __future__ import annotations

from collections.abc import Hashable

import numpy as np
import xarray as xr

from activestore.accessor.reducing.grouping import Groupable, Grouping
from activestore.accessor.reducing.methods import Dims, Reductions
from activestore.accessor.reducing.query import Query
from activestore.accessor.reducing.rules import Method
from activestore.accessor.reducing.weighted import WeightedArray
from activestore.core.conditions import parse_condition
from activestore.errors import SelectionError
from activestore.results.explanation import Explanation

__all__ = ["ActiveArray", "GroupedArray"]


class ActiveArray(Reductions[xr.DataArray], Groupable["GroupedArray"]):
    """Reductions of a `DataArray` where its data are: `da.active.mean("time")` gives what `da.mean("time")` gives.

    Examples:
        >>> import xarray as xr
        >>> tas = xr.open_dataset("docs/tas.nc", engine="activestore").tas
        >>> dict(tas.sel(time="2001", lat=slice(-30, 30)).active.mean(["lat", "lon"]).sizes)
        {'time': 12}
    """

    def __init__(self, array: xr.DataArray, *, condition: str | None = None) -> None:
        """Reduce `array`; where its values come from is found when a reduction is asked for."""
        self._query = Query(array, condition)

    def __repr__(self) -> str:
        return f"<reductions near the data of {self._query}>"

    def where(self, condition: str) -> ActiveArray:
        """Return the reductions of those values that satisfy a condition, as `da.where(da > 298.15)` has them.

        Parameters:
            condition: A comparison of the values with a number, "> 298.15", or several: ">= 273.15 and < 300".

        Raises:
            SelectionError: It is no condition.

        Examples:
            The largest number of months above 25 °C:

            >>> import xarray as xr
            >>> tas = xr.open_dataset("docs/tas.nc", engine="activestore").tas
            >>> tas.active.where("> 298.15").count("time").max().item()
            24
        """
        before = self._query.condition
        found = str(parse_condition(condition))
        return ActiveArray(self._query.array, condition=found if before is None else f"{before} and {found}")

    def argmin(
        self, dim: Dims = None, *, skipna: bool | None = None, keep_attrs: bool | None = None
    ) -> xr.DataArray | dict[Hashable, xr.DataArray]:
        """Return where along `dim` the least value first is; of several dimensions, the position along each."""
        return self._position(Method("argmin", skipna), dim, keep_attrs)

    def argmax(
        self, dim: Dims = None, *, skipna: bool | None = None, keep_attrs: bool | None = None
    ) -> xr.DataArray | dict[Hashable, xr.DataArray]:
        """Return where along `dim` the greatest value first is; of several dimensions, the position along each."""
        return self._position(Method("argmax", skipna), dim, keep_attrs)

    def ptp(self, dim: Dims = None, *, skipna: bool | None = None, keep_attrs: bool | None = None) -> xr.DataArray:
        """Return the greatest value less the least along `dim`."""
        return self._reduced(Method("ptp", skipna), dim, keep_attrs)

    def weighted(self, weights: xr.DataArray) -> WeightedArray:
        """Return the weighted reductions, as `da.weighted(weights)` has them.

        Parameters:
            weights: Weights along some of the dimensions, without missing values.

        Examples:
            >>> import numpy as np
            >>> import xarray as xr
            >>> tas = xr.open_dataset("docs/tas.nc", engine="activestore").tas
            >>> print(f"{tas.active.weighted(np.cos(np.deg2rad(tas.lat))).mean().item():.1f} K")
            287.7 K
        """
        return WeightedArray(self._query, weights)

    def explain(self, reduction: str | tuple[str, ...] = "mean", dim: Dims = None) -> Explanation:
        """Return what a reduction would do, without reading any data: chunks touched, bytes, and what runs where.

        Examples:
            >>> import xarray as xr
            >>> xr.open_dataset("docs/tas.nc", engine="activestore").tas[:12].active.explain("mean").chunks
            1
        """
        query = self._query.apart(dim)
        return query.explain(reduction, query.named(dim))

    def _whole(self) -> xr.DataArray:
        return self._query.array

    def _in_groups(self, grouping: Grouping) -> GroupedArray:
        return GroupedArray(self._query, grouping)

    def _reduced(self, method: Method, dim: Dims, keep_attrs: bool | None) -> xr.DataArray:
        query = self._query.apart(dim)
        found = query.reduced(method, dim, keep_attrs)
        if not found.ndim or query is self._query:
            return found
        # Nothing was reduced.
        own = self._query.array
        return xr.DataArray(xr.Variable(own.dims, found.values, found.attrs), own.coords, name=found.name)

    def _position(self, method: Method, dim: Dims, keep_attrs: bool | None) -> xr.DataArray | dict[Hashable, xr.DataArray]:
        query = self._query.apart(dim)
        array, dims = query.array, query.named(dim)
        if isinstance(dim, (list, tuple)):
            dims = tuple(dict.fromkeys(dim))  # in this order are the positions counted
        # Where a condition does not hold, there is NaN, whatever the type was before.
        if method.skipna is False and (array.dtype.kind == "f" or query.condition is not None):
            raise SelectionError(f"{method.name} finds no NaN; leave out skipna=False, or leave out .active")
        if array.ndim and not dims:
            raise SelectionError(f"{method.name} of no dimension; name one of {', '.join(map(repr, array.dims))}")
        if not array.size:
            raise SelectionError(f"{method.name} of nothing: the lengths are {dict(array.sizes)}; select something")
        found = query.positions(method, dims, keep_attrs)
        if dim is None or isinstance(dim, str) or dim in array.dims:
            return found
        along = np.unravel_index(found.values, [array.sizes[name] for name in dims])
        return {name: found.copy(data=one) for name, one in zip(dims, along, strict=True)}


class GroupedArray(Reductions[xr.DataArray]):
    """Reductions of groups of positions along a dimension; the groups take the dimension's place in the results."""

    def __init__(self, query: Query, grouping: Grouping) -> None:
        """Reduce the groups of a query."""
        self._query, self._grouping = query, grouping

    def __repr__(self) -> str:
        return f"<reductions near the data of {self._query}, in groups: {self._grouping}>"

    def explain(self, reduction: str | tuple[str, ...] = "mean", dim: Dims = None) -> Explanation:
        """Return what a reduction would do, without reading any data."""
        return self._query.explain(reduction, self._dims(dim), self._grouping)

    def _reduced(self, method: Method, dim: Dims, keep_attrs: bool | None) -> xr.DataArray:
        return self._query.reduced(method, self._dims(dim), keep_attrs, self._grouping)

    def _dims(self, dim: Dims) -> tuple[Hashable, ...]:
        return self._grouping.reduced(dim, self._query.array.dims)
