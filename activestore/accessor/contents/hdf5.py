"""What xarray is told of a netCDF-4 file, from one pass over its metadata: the words of xarray's own engine "h5netcdf"."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from activestore.core.formats.hdf5.attributes import Text, Value
from activestore.core.formats.hdf5.group import Outline, read_group
from activestore.sources.open import Source

__all__ = ["Described", "Description", "describe"]

_DEFLATE, _SHUFFLE, _FLETCHER32, _LZF = 1, 2, 3, 32000
_PLUGINS = {307: "bzip2", 32004: "blosc", 32015: "zstd"}
"""Filters that h5netcdf has a name for, and finds."""
_OWN_FILTERS = 256
"""Below this number, filters are HDF5's own; those that are not named above have settings that h5py makes words of."""
_NEVER_DECODED = ("_FillValue", "missing_value")


@dataclass(frozen=True, slots=True)
class Described:
    """A variable as xarray is told of it, without values."""

    dims: tuple[str, ...]
    """Names of the dimensions."""
    shape: tuple[int, ...]
    """Their lengths."""
    dtype: np.dtype[Any]
    """Type of the values before decoding."""
    attrs: Mapping[str, Any]  # Any: text, numbers, arrays
    """Attributes."""
    encoding: Mapping[str, Any]  # Any: xarray's own
    """How it is stored."""
    values: npt.NDArray[Any] | None
    """The values before decoding, where they are known already."""
    outline: Outline
    """What the file tells of it."""


@dataclass(frozen=True, slots=True)
class Description:
    """A group as xarray is told of it."""

    variables: Mapping[str, Described]
    """Variables in the order of the file."""
    attrs: Mapping[str, Any]  # Any: text, numbers, arrays
    """Attributes of the group."""
    unlimited: frozenset[str]
    """Names of the unlimited dimensions."""


class _UncertainError(Exception):
    """Something for which h5netcdf has rules of its own."""


def describe(
    source: Source, group: str | None, *, only: Collection[str] | None = None, unnamed: bool = False
) -> Description | None:
    """Return what a group of an HDF5 file has, None if only h5netcdf knows for certain what xarray would tell of it.

    Of the attributes, those named in `only` are enough, if any are named. Only if `unnamed`, dimensions may lack a name.

    Raises:
        SourceError: The file is damaged, or not HDF5.
    """
    found = read_group(source, group or "", only=only, unnamed=unnamed)
    if found is None:
        return None
    try:
        variables = {name: _described(one, source.uri) for name, one in found.variables.items()}
        return Description(variables, _attributes(found.attrs), found.unlimited)
    except (_UncertainError, UnicodeDecodeError):
        return None


def _described(outline: Outline, uri: str) -> Described:
    dtype = outline.dtype
    encoding: dict[str, Any] = {
        "dtype": str if h5py.check_string_dtype(dtype) and dtype.kind == "O" else dtype
    }  # Any: see above
    chunks = outline.chunks if outline.shape else None
    if chunks:
        encoding |= {
            "contiguous": False,
            "chunksizes": chunks,
            "preferred_chunks": dict(zip(outline.dims, chunks, strict=True)),
        }
    else:
        encoding |= {"contiguous": True, "chunksizes": None}
    encoding |= _filters(dict(outline.filters)) | {"source": uri, "original_shape": outline.shape}
    return Described(outline.dims, outline.shape, dtype, _attributes(outline.attrs), encoding, outline.values, outline)


def _filters(filters: Mapping[int, tuple[int, ...]]) -> dict[str, Any]:  # Any: xarray's own
    """Return what xarray notes of the filters of a variable."""
    if any(code < _OWN_FILTERS and code not in (_DEFLATE, _SHUFFLE, _FLETCHER32) for code in filters):
        raise _UncertainError
    noted: dict[str, Any] = {"zlib": False, "szip": False, "bzip2": False, "blosc": False, "zstd": False}  # Any: see above
    noted |= {"shuffle": _SHUFFLE in filters, "fletcher32": _FLETCHER32 in filters}
    if _DEFLATE in filters:
        noted |= {"zlib": True, "complevel": filters[_DEFLATE][0]}
    for code, settings in filters.items():
        if code in _PLUGINS:
            noted |= {_PLUGINS[code]: True} | ({"complevel": settings[0]} if settings else {})
    if _DEFLATE in filters:
        # A second time, as xarray does: a plugin beside it may have written its own level.
        noted["complevel"] = filters[_DEFLATE][0]
    elif any(code >= _OWN_FILTERS for code in filters):
        noted |= {"compression": "lzf" if _LZF in filters else "unknown", "compression_opts": None}
    return noted


def _attributes(stored: Mapping[str, Value]) -> dict[str, Any]:  # Any: text, numbers, arrays
    return {name: _attribute(name, value) for name, value in stored.items()}


def _attribute(name: str, value: Value) -> Any:  # Any: text, numbers, arrays
    if isinstance(value, Text):
        return _text(name, value)
    return value[0] if isinstance(value, np.ndarray) and len(value) == 1 else value


def _text(name: str, text: Text) -> Any:  # Any: str, bytes, or a list of them
    """Return text as h5netcdf and xarray do: decoded, unless it is one byte long and marks missing values."""
    if text.shape is None and text.length != 1:
        raise _UncertainError
    if len(text.shape or ()) > 1:
        raise _UncertainError
    if text.length == 1:
        found: list[Any] = [np.bytes_(item) if text.shape == () else item for item in text.items or (b"",)]
        if len(found) == 1 and name not in _NEVER_DECODED:
            found = [found[0].decode()]
    else:
        encoding = "utf-8" if text.length is None else text.encoding
        found = [item.decode(encoding, "surrogateescape") for item in text.items]
    return found[0] if len(found) == 1 else found
