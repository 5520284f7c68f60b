"""What xarray is told of a Zarr store, or of Kerchunk references."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import xarray as xr
from xarray.core import indexing

from activestore.accessor.arrays.stored import StoredArray, StoredFile
from activestore.accessor.contents.contents import Contents
from activestore.core.formats.zarr.keys import ObjectSource
from activestore.core.formats.zarr.store import group_of
from activestore.core.missing import is_unsigned
from activestore.core.packing import TRUTH
from activestore.core.variable import Variable

__all__ = ["zarr_contents"]


def zarr_contents(file: StoredFile, source: ObjectSource, group: str | None) -> Contents:
    """Return what a group of a Zarr store has.

    Raises:
        VariableNotFoundError: There is no such group.
        SourceError: The store is damaged.

    Warns:
        UserWarning: An array of text, or one that nothing here decodes, is left out.
    """
    found = group_of(source, group or "")
    variables = {}
    for name, array in found.variables.items():
        if isinstance(array, Variable):
            variables[name] = _variable(file, array)
        else:
            warnings.warn(f"{source.uri}: {name!r} is left out: {array.reason}", UserWarning, stacklevel=2)
    return Contents(variables, found.attrs, {})


def _variable(file: StoredFile, array: Variable) -> xr.Variable:
    stored = np.dtype(array.dtype.str.replace("u", "i")) if is_unsigned(array.attrs, _signed(array)) else array.dtype
    dtype = array.value_dtype if array.packing == TRUTH else stored
    data = indexing.LazilyIndexedArray(StoredArray(file, array.name, shape=array.shape, dtype=dtype))
    chunks = dict(zip(array.dims, array.chunk_shape, strict=True))
    encoding: dict[str, Any] = {"chunks": array.chunk_shape, "preferred_chunks": chunks, "source": file.source.uri}
    return xr.Variable(array.dims, data, dict(array.attrs), encoding, fastpath=True)


def _signed(array: Variable) -> np.dtype[np.generic]:
    return np.dtype(array.dtype.str.replace("u", "i"))
