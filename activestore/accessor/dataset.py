"""The accessor of `Dataset`: `ds.active.mean("time")`."""

from __future__ import annotations

from collections.abc import Hashable

import xarray as xr

from activestore.accessor.methods import Dims, Reductions, named
from activestore.accessor.query import Query, called
from activestore.accessor.rules import Method
from activestore.explanation import Explanation

__all__ = ["ActiveDataset"]


class ActiveDataset(Reductions[xr.Dataset]):
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

    def explain(self, reduction: str | tuple[str, ...] = "mean", dim: Dims = None) -> dict[Hashable, Explanation]:
        """Return, for each variable that is reduced near its data, what a reduction would do, without reading any."""
        dims = named(dim, self._dataset.sizes)
        near = {name: array for name, array in self._dataset.data_vars.items() if _is_near(array, dims)}
        return {name: Query(one).explain(reduction, _common(one, dims)) for name, one in near.items()}

    def _reduced(self, method: Method, dim: Dims, keep_attrs: bool | None) -> xr.Dataset:
        dims, arrays = named(dim, self._dataset.sizes), self._dataset.data_vars
        near = [name for name, array in arrays.items() if _is_near(array, dims)]
        others = self._dataset.drop_vars(near)
        rest = called(others, method, tuple(dim for dim in dims if dim in others.sizes), keep_attrs, windows=False)
        found = {name: Query(arrays[name]).reduced(method, _common(arrays[name], dims), keep_attrs) for name in near}
        made = {name: found.get(name, rest.get(name)) for name in arrays if name in found or name in rest}
        return xr.Dataset(made, coords=rest.coords, attrs=rest.attrs)


def _is_near(array: xr.DataArray, dims: tuple[Hashable, ...]) -> bool:
    """Return whether there is something to be reduced near the data: numbers in a file, along one of the dimensions."""
    return array.dtype.kind in "iuf" and bool(_common(array, dims)) and not array.variable._in_memory


def _common(array: xr.DataArray, dims: tuple[Hashable, ...]) -> tuple[Hashable, ...]:
    return tuple(dim for dim in array.dims if dim in dims)
