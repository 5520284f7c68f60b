"""Arrays of many files, one after the other along a dimension, that xarray reads lazily."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from xarray.core import indexing

from activestore.accessor.arrays.lazy import LazyArray
from activestore.accessor.arrays.stored import StoredArray
from activestore.active import Active

__all__ = ["JoinedArray"]


class JoinedArray(LazyArray):
    """Lazy arrays joined along an axis; stored numbers of many files are read in one pass."""

    def __init__(self, parts: Sequence[Any], axis: int) -> None:  # Any: xarray's lazy arrays
        """Join `parts`, which have the same lengths but along `axis`."""
        self.parts, self.axis = tuple(map(indexing.as_indexable, parts)), axis
        lengths = list(parts[0].shape)
        lengths[axis] = sum(part.shape[axis] for part in parts)
        self.shape, self.dtype = tuple(lengths), np.result_type(*(part.dtype for part in parts))

    def __reduce__(self) -> tuple[Any, ...]:  # Any: pickle's own contract
        return type(self), (self.parts, self.axis)

    def __repr__(self) -> str:
        return f"<JoinedArray {self.shape} {self.dtype} of {len(self.parts)} files>"

    def _read(self, key: tuple[Any, ...]) -> npt.NDArray[Any]:
        """Return what `key`, an index for each dimension, selects; files before and after what it touches stay closed."""
        positions = np.arange(self.shape[self.axis])[key[self.axis]]
        ends = np.cumsum([part.shape[self.axis] for part in self.parts])
        owners = np.searchsorted(ends, np.atleast_1d(positions), side="right")
        first, last = (int(owners.min()), int(owners.max())) if owners.size else (0, 0)
        parts = self.parts[first : last + 1]
        inside = (*key[: self.axis], positions - (ends[first - 1] if first else 0), *key[self.axis + 1 :])
        leaves = [_stored_leaf(part) for part in parts]
        if None in leaves:
            return self._decoded(parts, inside)
        joined = Active.concatenate([leaf.stored() for leaf in leaves if leaf is not None], self.axis)
        return np.asarray(joined[inside].read().data)

    def _decoded(self, parts: Sequence[Any], key: tuple[Any, ...]) -> npt.NDArray[Any]:  # Any: xarray's lazy arrays
        """Return what `key` selects of parts that xarray decodes, each on its own."""
        outer = [np.arange(length)[item] for length, item in zip(self.shape, key, strict=True)]
        outer[self.axis] = key[self.axis]
        listed = [np.atleast_1d(item) for item in outer]
        found = np.empty([len(item) for item in listed], self.dtype)
        at, begin = listed[self.axis], 0
        for part in parts:
            here = np.flatnonzero((at >= begin) & (at < begin + part.shape[self.axis]))
            if here.size:
                index = (*listed[: self.axis], at[here] - begin, *listed[self.axis + 1 :])
                values = part.oindex[indexing.OuterIndexer(index)].get_duck_array()
                found[(slice(None),) * self.axis + (here,)] = values
            begin += part.shape[self.axis]
        return found[tuple(slice(None) if np.ndim(item) else 0 for item in outer)]


def _stored_leaf(part: Any) -> StoredArray | None:  # Any: xarray's lazy arrays
    """Return the stored array that a part is the whole of, None where xarray makes values of it."""
    whole = isinstance(part, indexing.LazilyIndexedArray) and all(item == slice(None) for item in part.key.tuple)
    return part.array if whole and isinstance(part.array, StoredArray) else None
