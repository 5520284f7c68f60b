"""Arrays of many files, one after the other along a dimension, that xarray reads lazily."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from xarray.backends import BackendArray
from xarray.core import indexing

from activestore.accessor.stored_array import StoredArray
from activestore.active import Active

__all__ = ["JoinedArray"]


class JoinedArray(BackendArray):
    """Lazy arrays joined along an axis; stored numbers of many files are read in one pass."""

    def __init__(self, parts: Sequence[Any], axis: int) -> None:  # Any: xarray's lazy arrays
        """Join `parts`, which have the same lengths but along `axis`."""
        self.parts, self.axis = tuple(map(indexing.as_indexable, parts)), axis
        lengths = list(parts[0].shape)
        lengths[axis] = sum(part.shape[axis] for part in parts)
        self.shape, self.dtype = tuple(lengths), np.result_type(*(part.dtype for part in parts))
        self._stored: Active | None = None
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:  # Any: pickle's own contract
        return type(self), (self.parts, self.axis)

    def __repr__(self) -> str:
        return f"<JoinedArray {self.shape} {self.dtype} of {len(self.parts)} files>"

    def __getitem__(self, key: indexing.ExplicitIndexer) -> npt.NDArray[Any]:
        found: npt.NDArray[Any] = indexing.explicit_indexing_adapter(
            key, self.shape, indexing.IndexingSupport.OUTER, self._read
        )
        return found

    def _read(self, key: tuple[Any, ...]) -> npt.NDArray[Any]:
        leaves = [_stored_leaf(part) for part in self.parts]
        if None in leaves:
            return self._read_each(key)
        with self._lock:
            if self._stored is None:
                self._stored = Active.concatenate([leaf.stored() for leaf in leaves if leaf is not None], self.axis)
        return np.asarray(self._stored[key].read().data)

    def _read_each(self, key: tuple[Any, ...]) -> npt.NDArray[Any]:
        """Return what `key` selects of parts that xarray decodes, each on its own."""
        wanted = np.arange(self.shape[self.axis])[key[self.axis]]
        at = np.atleast_1d(wanted)
        outer = tuple(
            np.arange(n)[item] if i != self.axis else item for i, (n, item) in enumerate(zip(self.shape, key, strict=True))
        )
        found: npt.NDArray[Any] | None = None
        first = 0
        for part in self.parts:
            length = part.shape[self.axis]
            here = np.flatnonzero((at >= first) & (at < first + length))
            if here.size:
                index = tuple(at[here] - first if i == self.axis else np.atleast_1d(item) for i, item in enumerate(outer))
                values = np.asarray(part.oindex[indexing.OuterIndexer(index)].get_duck_array())
                if found is None:
                    shape = [np.size(item) for item in outer]
                    shape[self.axis] = len(at)
                    found = np.empty(shape, self.dtype)
                found[(slice(None),) * self.axis + (here,)] = values
            first += length
        if found is None:
            found = np.empty([len(at) if i == self.axis else np.size(item) for i, item in enumerate(outer)], self.dtype)
        kept = [np.ndim(wanted) if i == self.axis else np.ndim(item) for i, item in enumerate(outer)]
        return found[tuple(slice(None) if ndim else 0 for ndim in kept)]


def _stored_leaf(part: Any) -> StoredArray | None:  # Any: xarray's lazy arrays
    """Return the stored array that a part is the whole of, None where xarray makes values of it."""
    whole = isinstance(part, indexing.LazilyIndexedArray) and part.shape == part.array.shape
    return part.array if whole and isinstance(part.array, StoredArray) and _is_whole(part.key) else None


def _is_whole(key: indexing.ExplicitIndexer) -> bool:
    return all(isinstance(item, slice) and item.step in (None, 1) for item in key.tuple)
