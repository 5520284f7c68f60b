"""What all of our arrays that xarray reads lazily have in common: how they are indexed."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from xarray.backends import BackendArray
from xarray.core import indexing

__all__ = ["LazyArray"]


class LazyArray(BackendArray):
    """An array of which `_read` reads what an index for each dimension selects; xarray does what it cannot."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    support = indexing.IndexingSupport.OUTER
    """What `_read` can: an integer, a slice that goes forward or a sorted list along each dimension; with BASIC, no list."""

    def __getitem__(self, key: indexing.ExplicitIndexer) -> npt.NDArray[Any]:
        key = type(key)(tuple(map(_forward_if_empty, key.tuple, self.shape)))
        found: npt.NDArray[Any] = indexing.explicit_indexing_adapter(key, self.shape, self.support, self._read)
        return found

    def _read(self, key: tuple[Any, ...]) -> npt.NDArray[Any]:
        raise NotImplementedError


def _forward_if_empty(item: Any, length: int) -> Any:  # Any: an integer, a slice or positions
    """Return an empty slice as one that goes forward: xarray fails to turn it round."""
    return slice(0, 0) if isinstance(item, slice) and not range(*item.indices(length)) else item
