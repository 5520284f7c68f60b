"""netCDF-4 and HDF5 files: what the HDF5 library tells of their variables, and reading through it."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import math
import struct
from array import array
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import h5py
import numpy as np

from activestore.core.codecs import MAX_CHUNK_BYTES, Codec, hdf5_codec
from activestore.core.collection import held_back
from activestore.core.hdf5_attributes import HIDDEN, Text, attribute_sizes, read_attribute
from activestore.core.hdf5_index import BTree, btree_address
from activestore.core.hdf5_scales import DIMENSION_ONLY, NOT_COORDINATE, read_dimensions
from activestore.core.missing import is_unsigned, read_missing
from activestore.core.packing import read_packing
from activestore.core.variable import (
    ChunkTable,
    Layout,
    ReadableSource,
    Variable,
    contiguous_chunk_shape,
    contiguous_table,
    grid_shape,
    no_such_variable,
    unplaced_table,
    unwritten_table,
)
from activestore.errors import ActivestoreError, NotNumericError, SourceError, UnsupportedError

__all__ = ["DAMAGE", "find_dataset", "hdf5_file", "load_plugins", "open_hdf5", "read_variable", "variable_names"]

_CONVERSION = Codec("conversion of the number format", h5py.h5z.FILTER_NBIT)
"""Stands for numbers stored in a format that NumPy lacks (12 bits, say): only the HDF5 library makes others of them."""


@contextmanager
def open_hdf5(source: ReadableSource) -> Iterator[h5py.File]:
    """Open `source` with the HDF5 library for the length of a `with` block.

    Raises:
        SourceError: It is damaged, or not HDF5.
    """
    with held_back(needed=source.is_remote), hdf5_file(source) as file:
        yield file


def hdf5_file(source: ReadableSource) -> h5py.File:
    """Return `source` opened with the HDF5 library; whoever reads it sees to it that garbage collection is held back.

    Raises:
        SourceError: It is damaged, or not HDF5.
    """
    try:
        return h5py.File(source.for_hdf5(), "r")
    except ActivestoreError:
        raise
    except OSError as error:
        raise SourceError(f"{source.uri}: the HDF5 library cannot open it ({error}); is it cut off or damaged?") from error


DAMAGE = (ArithmeticError, LookupError, MemoryError, OSError, RuntimeError, TypeError, ValueError, struct.error)
"""What h5py and NumPy raise where metadata contradict each other."""


@contextmanager
def _damage_named(uri: str, what: str) -> Iterator[None]:
    """Turn whatever damaged metadata lead to into one error that names the file.

    Raises:
        SourceError: In place of any error that is not one of ours.
    """
    try:
        yield
    except ActivestoreError:
        raise
    except DAMAGE as error:
        raise SourceError(f"{uri}: {what} cannot be read ({error}); is it damaged?") from error


def load_plugins() -> None:
    """Let the HDF5 library use the filters of hdf5plugin, where that is installed."""
    if importlib.util.find_spec("hdf5plugin") is not None:
        importlib.import_module("hdf5plugin")


def variable_names(source: ReadableSource) -> list[str]:
    """Return the names of all variables, groups first: "group/var"."""
    with open_hdf5(source) as file, _damage_named(source.uri, "the list of variables"):
        return list(_names(file, "", (file.id,)))


def _names(group: h5py.Group, folder: str, above: tuple[object, ...]) -> Iterator[str]:
    """Yield the names of the variables in `group`, hard and soft links followed; `above` are the groups that lead to it."""
    for key in group:
        node = None if isinstance(group.get(key, getlink=True), h5py.ExternalLink) else group.get(key)
        if isinstance(node, h5py.Dataset) and not _is_dimension_only(node):
            yield folder + key.removeprefix(NOT_COORDINATE)
        elif isinstance(node, h5py.Group) and node.id not in above:
            yield from _names(node, f"{folder}{key}/", (*above, node.id))


def _is_dimension_only(dataset: h5py.Dataset) -> bool:
    name = dataset.attrs.get("NAME", b"")
    return isinstance(name, (bytes, np.bytes_)) and bytes(name).startswith(DIMENSION_ONLY)


def read_variable(source: ReadableSource, name: str) -> Variable:
    """Return the variable `name` of `source`, its chunk table included.

    Raises:
        VariableNotFoundError: There is none of that name; the message has the names that are near.
        NotNumericError: It holds text or records.
        UnsupportedError: Its chunks are larger than any reader accepts, or it is a link into another file.
        SourceError: The file is damaged.
    """
    with open_hdf5(source) as file, _damage_named(source.uri, f"the metadata of {name!r}"):
        return _variable(file, find_dataset(file, source.uri, name), source, name.strip("/"))


def find_dataset(file: h5py.File, uri: str, name: str) -> h5py.Dataset:
    """Return the dataset of the variable `name`.

    Raises:
        VariableNotFoundError: There is none of that name; the message has the names that are near.
        UnsupportedError: It is a link into another file.
    """
    folder, _, last = name.strip("/").rpartition("/")
    for candidate in (f"{folder}/{NOT_COORDINATE}{last}", f"{folder}/{last}"):
        node = file.get(candidate.strip("/")) if last else None
        if isinstance(node, h5py.Dataset) and not _is_dimension_only(node):
            if _place(node)[0] != _place(file)[0]:
                raise UnsupportedError(f"{uri}: {name!r} is a link into {node.file.filename}; open that file instead")
            return node
    raise no_such_variable(uri, name, list(_names(file, "", (file.id,))))


def _place(node: h5py.Group | h5py.Dataset) -> tuple[object, int]:
    """Return a mark of the file that an object is in, and the address of its header."""
    # Not h5o.get_info: it also adds up the sizes of all indexes, which takes long and goes astray in damaged ones.
    info = h5py.h5g.get_objinfo(node.id, b".")
    low, high = info.objno
    return info.fileno, low + (high << 32)


def _variable(file: h5py.File, dataset: h5py.Dataset, source: ReadableSource, name: str) -> Variable:
    stored = _numeric_dtype(dataset, source.uri, name)
    plist = dataset.id.get_create_plist()
    sizes = attribute_sizes(dataset.id, plist)
    attrs = _attributes(dataset, sizes)
    dims, shape = read_dimensions(file.id, dataset.id, sizes)
    layout = _layout(plist)
    user_filled = plist.fill_value_defined() == h5py.h5d.FILL_VALUE_USER_DEFINED
    plain = _is_as_in_numpy(dataset, stored)
    dtype = stored
    if is_unsigned(attrs, stored):
        dtype = np.dtype(stored.str.replace("i", "u"))
    chunk_shape = dataset.chunks or contiguous_chunk_shape(shape, stored.itemsize)
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
        layout=layout,
        chunk_shape=chunk_shape,
        codecs=_codecs(plist) if plain else (*_codecs(plist), _CONVERSION),
        extent=dataset.shape,
        fill=_fill(plist, stored, lagging=shape != dataset.shape),
        missing=read_missing(attrs, stored, filled=user_filled),
        packing=read_packing(attrs),
        table=_table(file, dataset, source, dtype=stored, plain=plain, shape=shape, chunk_shape=chunk_shape),
    )


def _numeric_dtype(dataset: h5py.Dataset, uri: str, name: str) -> np.dtype[np.generic]:
    """Return the stored type of a numeric dataset; an enumeration (h5py's truth values too) counts as its integers."""
    try:
        dtype: np.dtype[np.generic] = _number_type(dataset).dtype
    except TypeError as error:
        raise NotNumericError(f"{uri}: {name!r} holds values of a type that NumPy does not have ({error})") from error
    if dataset.shape is not None and dtype.kind in "iuf" and dtype.itemsize <= 8:
        return np.dtype(dtype.str)
    what = f"values of the type {dtype}"
    if dataset.shape is None:
        what = "nothing at all (a null dataspace)"
    elif dtype.kind in "SU" or h5py.check_string_dtype(dtype) is not None:
        what = "text"
    elif dtype.kind == "O":
        what = "lists or references"
    raise NotNumericError(f"{uri}: {name!r} holds {what}, not numbers that can be reduced; choose a numeric variable")


def _number_type(dataset: h5py.Dataset) -> Any:  # Any: h5py's low level is untyped
    """Return HDF5's type of the dataset; of an enumeration, that of its integers."""
    stored = dataset.id.get_type()
    return stored.get_super() if isinstance(stored, h5py.h5t.TypeEnumID) else stored


def _is_as_in_numpy(dataset: h5py.Dataset, dtype: np.dtype[np.generic]) -> bool:
    """Return whether the stored bytes are those that NumPy has for `dtype`, without bits to spare or a format of their own."""
    orders = {"<": ("LE",), ">": ("BE",)}.get(dtype.str[0], ("LE", "BE"))
    bits = [getattr(h5py.h5t, f"STD_B{8 * dtype.itemsize}{order}") for order in orders]
    return _number_type(dataset) in (h5py.h5t.py_create(dtype), *bits)


def _attributes(dataset: h5py.Dataset, sizes: Mapping[bytes, int]) -> dict[str, object]:
    found: dict[str, object] = {}
    for name, size in sizes.items():
        if name in HIDDEN:
            continue
        key = name.decode("utf-8", "surrogateescape")
        try:
            value = read_attribute(dataset.id, name, size)
            found[key] = _attribute(dataset.attrs[name] if value is None else value)
        except (OSError, TypeError, RuntimeError):
            found[key] = "<unreadable>"
    return found


def _attribute(value: Any) -> object:  # Any: h5py gives whatever the file holds
    """Return a value that can be pickled, as netCDF4-python has it: text decoded, numbers in native byte order."""
    if isinstance(value, Text):
        errors = "surrogateescape" if value.length is None else "replace"
        texts = [item.decode("utf-8", errors) for item in value.items]
        return "" if value.shape is None else texts[0] if len(texts) == 1 else texts
    if isinstance(value, h5py.Empty):
        return "" if value.dtype.kind in "SUO" else np.zeros(0, value.dtype.newbyteorder("="))
    if not isinstance(value, np.ndarray):
        return _item(value)
    if value.dtype.hasobject or value.dtype.kind == "S":
        items = [_item(item) for item in value.ravel().tolist()]
        return items[0] if len(items) == 1 else items
    native = value.astype(value.dtype.newbyteorder("="), copy=False)
    return native.reshape(-1)[0] if native.size == 1 else native


def _item(value: Any) -> object:  # Any: h5py gives whatever the file holds
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, (h5py.Reference, h5py.RegionReference)):
        return "<reference>"
    record = value.item() if isinstance(value, np.void) and value.dtype.names else value
    return tuple(_item(item) for item in record) if isinstance(record, tuple) else record


def _fill(plist: Any, stored: np.dtype[np.generic], *, lagging: bool) -> bytes:  # Any: h5py's low level is untyped
    """Return the stored number that cells have which were never written; `lagging` if the variable lacks whole records."""
    fill = np.zeros((), stored)
    default = read_missing({}, stored, filled=True).values
    if plist.fill_value_defined() == h5py.h5d.FILL_VALUE_USER_DEFINED:
        plist.get_fill_value(fill)
    elif lagging and default:
        # HDF5 would give zeros, but these records are netCDF's, and it fills them with its own default.
        fill[...] = default[0]
    return fill.tobytes()


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


def _table(
    file: h5py.File,
    dataset: h5py.Dataset,
    source: ReadableSource,
    *,
    dtype: np.dtype[np.generic],
    plain: bool,
    shape: tuple[int, ...],
    chunk_shape: tuple[int, ...],
) -> ChunkTable:
    layout, itemsize = _layout(dataset.id.get_create_plist()), dtype.itemsize
    if layout == "chunked":
        return _chunk_table(file, dataset, source, shape, chunk_shape)
    if layout in ("virtual", "external") or not plain:
        # Every piece is there, and has no offset: its bytes lie in other files, or are not NumPy's.
        return unplaced_table(grid_shape(shape, chunk_shape))
    if layout == "compact":
        data = np.empty(dataset.shape, dtype)
        dataset.id.read(h5py.h5s.ALL, h5py.h5s.ALL, data, dataset.id.get_type())
        return contiguous_table(shape, chunk_shape, itemsize=itemsize, start=0, inline=data.tobytes())
    # Behind a user block the library gives an offset even for what was never written.
    if dataset.id.get_space_status() != h5py.h5d.SPACE_STATUS_NOT_ALLOCATED and dataset.id.get_offset() is not None:
        return contiguous_table(shape, chunk_shape, itemsize=itemsize, start=dataset.id.get_offset())
    return unwritten_table(grid_shape(shape, chunk_shape))


def _chunk_table(
    file: h5py.File, dataset: h5py.Dataset, source: ReadableSource, shape: tuple[int, ...], chunk_shape: tuple[int, ...]
) -> ChunkTable:
    creation, root = file.id.get_create_plist(), None
    base, grid = creation.get_userblock(), grid_shape(shape, chunk_shape)
    if creation.get_sizes() == (8, 8):
        root = btree_address(source, _place(dataset)[1], base=base)
    if root is not None:
        index = BTree(root, base, dataset.shape, shape, chunk_shape)
        unread = dataclasses.replace(unwritten_table(grid), unread=index)
        return unread if source.is_remote else index.read(source, None)
    return unplaced_table(grid) if _is_misplaced(dataset) else _iterated_table(dataset, grid, chunk_shape)


def _is_misplaced(dataset: h5py.Dataset) -> bool:
    """Return whether the HDF5 library tells wrong places of the chunks.

    An extensible array, the index of a dataset with one unlimited dimension in the newer formats, keeps that dimension
    first; the library forgets this when it is asked where chunks are, though not when it reads them.
    """
    unlimited = [dim for dim, length in enumerate(dataset.maxshape) if length is None]
    return len(unlimited) == 1 and unlimited != [0]


def _iterated_table(dataset: h5py.Dataset, grid: tuple[int, ...], chunk_shape: tuple[int, ...]) -> ChunkTable:
    """Return the table as the HDF5 library hands it out, whatever the kind of index."""
    starts, places = array("q"), array("q")

    def visit(chunk: Any) -> None:  # Any: h5py's StoreInfo
        starts.extend(chunk.chunk_offset)
        places.extend((chunk.byte_offset, chunk.size, chunk.filter_mask))

    if dataset.id.get_num_chunks():
        dataset.id.chunk_iter(visit)
    cells = np.array(starts, np.int64).reshape(-1, len(grid)) // np.array(chunk_shape)
    columns = np.array(places, np.int64).reshape(-1, 3)
    index = np.ravel_multi_index(tuple(cells.T), grid).astype(np.int64) if len(cells) else np.zeros(0, np.int64)
    order = np.argsort(index, kind="stable")
    offset, size, mask = (np.ascontiguousarray(columns[order, i]) for i in range(3))
    return ChunkTable(grid, index[order], offset, size, mask.astype(np.uint32))
