"""xarray's doors to `activestore`: the engine "activestore" of `open_dataset`, and the accessors `.active`."""

from __future__ import annotations

import xarray as xr

from activestore.accessor.engine import ActivestoreEntrypoint
from activestore.accessor.reducing.data_array import ActiveArray, GroupedArray
from activestore.accessor.reducing.dataset import ActiveDataset, GroupedDataset, WeightedDataset
from activestore.accessor.reducing.weighted import WeightedArray

__all__ = [
    "ActiveArray",
    "ActiveDataset",
    "ActivestoreEntrypoint",
    "GroupedArray",
    "GroupedDataset",
    "WeightedArray",
    "WeightedDataset",
]

xr.register_dataarray_accessor("active")(ActiveArray)  # type: ignore[no-untyped-call]  # xarray's own
xr.register_dataset_accessor("active")(ActiveDataset)  # type: ignore[no-untyped-call]  # xarray's own
