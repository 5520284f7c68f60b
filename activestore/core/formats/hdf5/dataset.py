"""How the numbers of an HDF5 dataset are stored, and the variable that they are: what chunks are found by, once it is known."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import h5py
import numpy as np

from activestore.core.codecs.decode import MAX_CHUNK_BYTES, Codec, hdf5_codec
from activestore.core.formats.hdf5.chunk_btree import UNDEFINED, BTree, ChunkLayout, read_layout
from activestore.core.missing import is_unsigned, read_missing
from activestore.core.packing import read_packing
from activestore.core.source import ReadableSource
from activestore.core.variable import ChunkTable, Layout, Variable, contiguous_chunk_shape, grid_shape, unwritten_table
from activestore.errors import UnsupportedError

__all__ = [
    "Storage",
    "chunk_layout",
    "number_type",
    "place_of",
    "read_storage",
    "read_user_block",
    "tree_table",
    "variable_of",
]

_CONVERSION = Codec("conversion of the number format", h5py.h5z.FILTER_NBIT)
"""Stands for numbers stored in a format that NumPy lacks (12 bits, say): only the HDF5 library makes others of them."""


Filling = Literal["number", "nothing", "error"]
"""What stands where nothing was ever written: the number that there is for that; what the reader's memory held, which h5py
sees to that it is 0; or none, so that the HDF5 library refuses to read it."""


@dataclass(frozen=True, slots=True)
class Storage:
    """How the numbers of a dataset are stored, as plain values."""

    dtype: np.dtype[np.generic]
    """Stored type; of an enumeration, that of its integers."""
    extent: tuple[int, ...]
    """Lengths of the dataset, which those of its dimensions may exceed."""
    limits: tuple[int, ...]
    """Lengths that it can grow to; 2**64 - 1 along an unlimited dimension."""
    layout: Layout
    """How the bytes lie in the file."""
    chunk_shape: tuple[int, ...] | None
    """Shape of a chunk, None if it is not stored in chunks."""
    codecs: tuple[Codec, ...]
    """What was done to the bytes of a chunk."""
    fill: bytes | None
    """The number that its writer chose for what is never written, None for the default."""
    filling: Filling
    """What is done about what is never written."""
    address: int
    """Where its object header is, counted from the end of the user block."""
    user_block: int | None
    """How many bytes that has; None where the addresses of the file have not the usual 8 bytes."""

    @property
    def is_as_in_numpy(self) -> bool:
        """Whether the decoded bytes are those that NumPy has for the numbers."""
        return _CONVERSION not in self.codecs


def read_storage(
    dataset: Any, creation: Any, dtype: np.dtype[np.generic], user_block: int | None
) -> Storage:  # Any: h5py's low level is untyped
    """Return how the numbers of a dataset are stored.

    Parameters:
        dataset: Identifier of the dataset.
        creation: Its property list of creation.
        dtype: Its stored type, one of plain numbers.
        user_block: That of the file, as in `Storage`.
    """
    space = dataset.get_space()
    plain, layout, fill = _is_as_in_numpy(number_type(dataset), dtype), _layout(creation), None
    if creation.fill_value_defined() == h5py.h5d.FILL_VALUE_USER_DEFINED:
        own = np.zeros((), dtype)
        creation.get_fill_value(own)
        fill = own.tobytes()
    return Storage(
        dtype=dtype,
        extent=space.get_simple_extent_dims(),
        limits=space.get_simple_extent_dims(True),
        layout=layout,
        chunk_shape=creation.get_chunk() if layout == "chunked" else None,
        codecs=_codecs(creation) if plain else (*_codecs(creation), _CONVERSION),
        fill=fill,
        filling=_filling(creation),
        address=place_of(dataset)[1],
        user_block=user_block,
    )


def variable_of(
    storage: Storage,
    source: ReadableSource,
    name: str,
    *,
    dims: tuple[str, ...],
    shape: tuple[int, ...],
    attrs: Mapping[str, object],
    table: ChunkTable,
) -> Variable:
    """Return the variable that a dataset is.

    Parameters:
        storage: How it is stored.
        source: The file that it is in.
        name: Its full name.
        dims: Names of its dimensions.
        shape: Their lengths.
        attrs: Its attributes.
        table: Where its chunks are.

    Raises:
        UnsupportedError: Its chunks are larger than any reader accepts.
    """
    stored = dtype = storage.dtype
    if is_unsigned(attrs, stored):
        dtype = np.dtype(stored.str.replace("i", "u"))
    chunk_shape = storage.chunk_shape or contiguous_chunk_shape(shape, stored.itemsize)
    if math.prod(chunk_shape) * stored.itemsize > MAX_CHUNK_BYTES:
        raise UnsupportedError(f"{source.uri}: chunks of {name!r} have the shape {chunk_shape}, more than 4 GiB each")
    return Variable(
        uri=source.uri,
        version=source.version,
        name=name,
        shape=shape,
        dims=dims,
        dtype=dtype,
        attrs=attrs,
        layout=storage.layout,
        chunk_shape=chunk_shape,
        codecs=storage.codecs,
        extent=storage.extent,
        fill=_fill(storage, lagging=shape != storage.extent),
        missing=read_missing(attrs, stored, filled=storage.fill is not None),
        packing=read_packing(attrs),
        table=table,
    )


def place_of(node: Any) -> tuple[object, int]:  # Any: h5py's low level is untyped
    """Return a mark of the file that an object is in, and the address of its header."""
    # Not h5o.get_info: it also adds up the sizes of all indexes, which takes long and goes astray in damaged ones.
    info = h5py.h5g.get_objinfo(node, b".")
    low, high = info.objno
    return info.fileno, low + (high << 32)


def number_type(dataset: Any) -> Any:  # Any: h5py's low level is untyped
    """Return HDF5's type of a dataset; of an enumeration, that of its integers."""
    stored = dataset.get_type()
    return stored.get_super() if isinstance(stored, h5py.h5t.TypeEnumID) else stored


def _is_as_in_numpy(stored: Any, dtype: np.dtype[np.generic]) -> bool:  # Any: h5py's low level is untyped
    """Return whether the stored bytes are those that NumPy has for `dtype`, without bits to spare or a format of their own."""
    orders = {"<": ("LE",), ">": ("BE",)}.get(dtype.str[0], ("LE", "BE"))
    bits = [getattr(h5py.h5t, f"STD_B{8 * dtype.itemsize}{order}") for order in orders]
    return stored in (h5py.h5t.py_create(dtype), *bits)


def _layout(plist: Any) -> Layout:  # Any: h5py's low level is untyped
    if plist.get_external_count():
        return "external"
    kinds: dict[int, Layout] = {
        h5py.h5d.CHUNKED: "chunked",
        h5py.h5d.CONTIGUOUS: "contiguous",
        h5py.h5d.COMPACT: "compact",
    }
    return kinds.get(plist.get_layout(), "virtual")


def _codecs(plist: Any) -> tuple[Codec, ...]:  # Any: h5py's low level is untyped
    filters = (plist.get_filter(i) for i in range(plist.get_nfilters()))
    return tuple(hdf5_codec(code, values, label.decode("utf-8", "replace")) for code, _, values, label in filters)


def _filling(creation: Any) -> Filling:  # Any: h5py's low level is untyped
    if creation.get_fill_time() == h5py.h5d.FILL_TIME_NEVER:
        return "nothing"
    return "error" if creation.fill_value_defined() == h5py.h5d.FILL_VALUE_UNDEFINED else "number"


def _fill(storage: Storage, *, lagging: bool) -> bytes:
    """Return the stored number that cells have which were never written; `lagging` if the variable lacks whole records."""
    if storage.fill is not None and (lagging or storage.filling == "number"):
        return storage.fill
    fill = np.zeros((), storage.dtype)
    default = read_missing({}, storage.dtype, filled=True).values
    if lagging and default:
        # HDF5 would give zeros, but these records are netCDF's, and it fills them with its own default.
        fill[...] = default[0]
    return fill.tobytes()


def read_user_block(file: Any) -> int | None:  # Any: h5py's low level is untyped
    """Return how many bytes the user block of a file has; None where its addresses have not the usual 8 bytes."""
    creation = file.get_create_plist()
    size: int = creation.get_userblock()
    return size if creation.get_sizes() == (8, 8) else None


def chunk_layout(storage: Storage, source: ReadableSource) -> ChunkLayout | None:
    """Return the layout of the chunks of a dataset; None if only the HDF5 library can find and read them."""
    if storage.user_block is None or storage.layout != "chunked" or not storage.is_as_in_numpy:
        return None
    layout = read_layout(source, storage.address, base=storage.user_block)
    # Without any chunk there is no index either, and the library refuses to read what has no value.
    nothing = layout is not None and layout.root == UNDEFINED and storage.filling == "error"
    return None if nothing else layout


def tree_table(storage: Storage, root: int, source: ReadableSource, shape: tuple[int, ...]) -> ChunkTable:
    """Return the chunk table of a dataset whose chunks a version 1 B-tree has; of a remote one, before it is read.

    Parameters:
        storage: How the dataset is stored.
        root: Address of the tree, from `chunk_layout`.
        source: The file that it is in.
        shape: Lengths of its dimensions.

    Raises:
        SourceError: The index is damaged.
    """
    chunk_shape = storage.chunk_shape or ()
    index = BTree(
        root=root,
        base=storage.user_block or 0,
        extent=storage.extent,
        limits=storage.limits,
        shape=shape,
        chunk_shape=chunk_shape,
        itemsize=storage.dtype.itemsize,
    )
    if source.is_remote:
        return dataclasses.replace(unwritten_table(grid_shape(shape, chunk_shape)), unread=index)
    return index.read(source, None)
