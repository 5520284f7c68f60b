"""Dimension scales: the datasets that HDF5 and netCDF-4 tie the dimensions of others to."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import h5py
import numpy as np
from h5py import h5a, h5d, h5g, h5i, h5r, h5s, h5t

from activestore.core.formats.hdf5.attributes import Text, attribute_sizes, read_attribute

__all__ = ["DIMENSION_ONLY", "NOT_COORDINATE", "attached_scales", "longest_attached", "read_dimensions"]

NOT_COORDINATE = "_nc4_non_coord_"
"""netCDF-C's prefix for a variable that has the name of a dimension and is not its coordinate."""
DIMENSION_ONLY = b"This is a netCDF dimension but not a netCDF variable"
"""How the attribute NAME begins of a scale that is no variable."""

_LISTS = h5py.vlen_dtype(h5py.ref_dtype)
_LISTS_IN_MEMORY = h5t.py_create(_LISTS)
_BROKEN = (LookupError, OSError, RuntimeError, TypeError, ValueError)
"""What h5py raises for a reference to what was deleted."""


def attached_scales(dataset: Any) -> list[list[Any]]:  # Any: h5py's low level and references are untyped
    """Return references to the scales of each dimension of a dataset that has the attribute DIMENSION_LIST."""
    attribute = h5a.open(dataset, b"DIMENSION_LIST")
    lists = np.zeros(attribute.shape, _LISTS)
    attribute.read(lists, mtype=_LISTS_IN_MEMORY)
    return [list(scales) for scales in lists]


def _is_scale(dataset: Any, sizes: Mapping[bytes, int]) -> bool:  # Any: h5py's low level is untyped
    """Return whether a dataset is a dimension scale, given the names and sizes of its attributes."""
    text = read_attribute(dataset, b"CLASS", sizes[b"CLASS"]) if b"CLASS" in sizes else None
    return isinstance(text, Text) and text.length is not None and text.items == (b"DIMENSION_SCALE",)


def longest_attached(file: Any, scale: Any, *, known: int = 0) -> int:  # Any: h5py's low level is untyped
    """Return the length of the longest dimension that a scale is attached to, 0 if there is none.

    Parameters:
        file: Identifier of the file.
        scale: Identifier of the scale.
        known: How many dimensions that it is attached to the caller has seen; 0 is returned if these are all.
    """
    if not h5a.exists(scale, b"REFERENCE_LIST"):
        return 0
    attribute = h5a.open(scale, b"REFERENCE_LIST")
    if attribute.shape == (known,):
        return 0
    dtype, memory = _entry_types(attribute.get_type().encode())
    entries = np.zeros(attribute.shape, dtype)
    attribute.read(entries, mtype=memory)
    longest = 0
    for reference, dimension in entries.tolist():
        try:
            longest = max(longest, h5r.dereference(reference, file).shape[dimension])
        except _BROKEN:
            continue  # a variable that was deleted leaves its reference behind
    return longest


@lru_cache(maxsize=8)
def _entry_types(encoded: bytes) -> tuple[np.dtype[Any], Any]:  # Any: h5py's low level is untyped
    """Return NumPy's type for the entries of REFERENCE_LIST, which writers differ in, and HDF5's name of that."""
    dtype = h5t.decode(encoded).dtype
    return dtype, h5t.py_create(dtype)


def read_dimensions(
    file: Any,
    dataset: Any,
    sizes: Mapping[bytes, int],  # Any: h5py's low level is untyped
) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Return names and lengths of a dataset's dimensions; an unlimited one can be longer than what this dataset has stored.

    Parameters:
        file: Identifier of the file.
        dataset: Identifier of the dataset.
        sizes: Names and sizes of its attributes.
    """
    space = dataset.get_space()
    extent, most = space.get_simple_extent_dims(), space.get_simple_extent_dims(True)
    scales = _scales(file, dataset, sizes, len(extent))
    names, lengths = [], []
    for dim, (scale, length) in enumerate(zip(scales, extent, strict=True)):
        # A scale that was unlinked has no name any more.
        path = None if scale is None else h5i.get_name(scale)
        names.append(f"dim_{dim}" if path is None else path.decode().rpartition("/")[2])
        grows = scale is not None and most[dim] == h5s.UNLIMITED
        lengths.append(max(length, *scale.shape[:1], longest_attached(file, scale)) if grows else length)
    return tuple(names), tuple(lengths)


def _scales(file: Any, dataset: Any, sizes: Mapping[bytes, int], ndim: int) -> list[Any]:  # Any: h5py's low level is untyped
    """Return the dimension scale of each dimension, None where there is none; a coordinate variable is its own."""
    if b"DIMENSION_LIST" in sizes:
        return [_scale(file, references) for references in attached_scales(dataset)]
    numbers = _numbers(dataset, b"_Netcdf4Coordinates", sizes)
    own = _is_scale(dataset, sizes)
    if own and ndim == 1 and (len(numbers) != 1 or numbers == _numbers(dataset, b"_Netcdf4Dimid", sizes)):
        return [dataset]
    numbered = _numbered_scales(file, dataset, set(numbers)) if len(numbers) == ndim else {}
    found = [numbered.get(number) for number in numbers] if numbered else [None] * ndim
    return [dataset if scale is None and dim == 0 and own else scale for dim, scale in enumerate(found)]


def _scale(file: Any, references: list[Any]) -> Any:  # Any: h5py's low level is untyped
    """Return the last scale of a dimension, as netCDF-C does; None if there is none."""
    try:
        return h5r.dereference(references[-1], file) if references else None
    except _BROKEN:
        return None  # a scale that was deleted leaves its reference behind


def _numbers(dataset: Any, name: bytes, sizes: Mapping[bytes, int]) -> list[int]:  # Any: h5py's low level is untyped
    value = read_attribute(dataset, name, sizes[name]) if name in sizes else None
    return [] if value is None or isinstance(value, Text) else [int(number) for number in np.ravel(value)]


def _numbered_scales(file: Any, dataset: Any, wanted: set[int]) -> dict[int, Any]:  # Any: h5py's low level is untyped
    """Return netCDF's dimensions by their numbers, from the group of a dataset and those above it, the nearest first."""
    found: dict[int, Any] = {}
    folder = h5i.get_name(dataset)
    while folder not in (None, b"/") and not wanted <= found.keys():
        folder = folder.rpartition(b"/")[0] or b"/"
        group = h5g.open(file, folder)
        for name in group:
            if h5g.get_objinfo(group, name, follow_link=False).type != h5g.DATASET:
                continue
            node = h5d.open(group, name)
            sizes = attribute_sizes(node, node.get_create_plist())
            # Variables that are no scales carry the number of their first dimension.
            for number in _numbers(node, b"_Netcdf4Dimid", sizes) if _is_scale(node, sizes) else []:
                found.setdefault(number, node)
    return found
