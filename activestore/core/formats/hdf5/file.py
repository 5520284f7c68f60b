"""netCDF-4 and HDF5 files: what the HDF5 library tells of their variables, and reading through it."""

from __future__ import annotations

import importlib
import importlib.util
import struct
from array import array
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Any, BinaryIO, TypeVar

import h5py
import numpy as np

from activestore.core.codecs.decode import EVERY_FILTER
from activestore.core.formats.hdf5.attributes import HIDDEN, attribute_sizes, plain_value, read_attribute
from activestore.core.formats.hdf5.dataset import (
    Storage,
    chunk_layout,
    number_type,
    place_of,
    read_storage,
    read_user_block,
    tree_table,
    variable_of,
)
from activestore.core.formats.hdf5.dimension_scales import DIMENSION_ONLY, NOT_COORDINATE, read_dimensions
from activestore.core.formats.hdf5.heap_guard import cannot_open, read_guarded
from activestore.core.source import ReadableSource
from activestore.core.variable import (
    ChunkTable,
    Variable,
    contiguous_chunk_shape,
    contiguous_table,
    grid_shape,
    no_such_variable,
    unplaced_table,
    unwritten_table,
)
from activestore.errors import ActivestoreError, NotNumericError, SourceError, UnsupportedError, VariableNotFoundError
from activestore.process.descriptors import with_room

__all__ = [
    "DAMAGE",
    "damage_named",
    "dangling_link",
    "find_dataset",
    "group_names",
    "hdf5_file",
    "load_plugins",
    "read_dataset",
    "read_hdf5",
    "read_variable",
    "variable_names",
]


_Found = TypeVar("_Found")


def read_hdf5(source: ReadableSource, work: Callable[[h5py.File], _Found]) -> _Found:
    """Return what `work` makes of `source`, opened with the HDF5 library; nothing of it may need the open file.

    Raises:
        SourceError: It is damaged, or not HDF5.
    """
    return read_guarded(source, lambda given: _opened(source.uri, given), work)


def hdf5_file(source: ReadableSource) -> h5py.File:
    """Return `source` opened with the HDF5 library; whoever opens, reads or closes it has the turn in it (`hdf5_turn`).

    Raises:
        SourceError: It is damaged, or not HDF5.
    """
    return _opened(source.uri, source.for_hdf5())


def _opened(uri: str, given: str | BinaryIO) -> h5py.File:
    try:
        return with_room(lambda: h5py.File(given, "r"))
    except ActivestoreError:
        raise
    except OSError as error:
        raise cannot_open(uri, error) from None


def global_attributes(source: ReadableSource) -> dict[str, object]:
    """Return the attributes of the root group.

    Raises:
        SourceError: The file is damaged.
    """

    def work(file: h5py.File) -> dict[str, object]:
        root = file["/"]
        return _attributes(root, attribute_sizes(root.id, root.id.get_create_plist()))

    return read_hdf5(source, work)


DAMAGE = (ArithmeticError, LookupError, MemoryError, OSError, RuntimeError, TypeError, ValueError, struct.error)
"""What h5py and NumPy raise where metadata contradict each other."""


@contextmanager
def damage_named(uri: str, what: str) -> Iterator[None]:
    """Turn whatever damaged metadata lead to into one error that names the file.

    Raises:
        SourceError: In place of any error that is not one of ours.
    """
    try:
        yield
    except ActivestoreError:
        raise
    except DAMAGE as error:
        raise SourceError(f"{uri}: {what} cannot be read ({error}); is it damaged?") from None


@cache
def load_plugins() -> None:
    """Let the HDF5 library use the filters of hdf5plugin, where that is installed."""
    if importlib.util.find_spec("hdf5plugin") is not None:
        importlib.import_module("hdf5plugin")


def variable_names(source: ReadableSource) -> list[str]:
    """Return the names of all variables, groups first: "group/var"."""
    with damage_named(source.uri, "the list of variables"):
        return read_hdf5(source, lambda file: list(_names(file, "", (file.id,))))


def read_dataset(source: ReadableSource, name: str, block: tuple[slice, ...]) -> Any:  # Any: of a scalar, whatever it holds
    """Return a block of a dataset of whatever type, text of varying length as Python's.

    Parameters:
        source: The file.
        name: The dataset.
        block: A slice of each dimension; what lies beyond the end is not there.

    Raises:
        VariableNotFoundError: There is none of that name.
        UnsupportedError: It is a link into another file.
        SourceError: The file is damaged.
    """

    def work(file: h5py.File) -> Any:
        dataset = find_dataset(file, source.uri, name)
        is_text = dataset.dtype.kind == "O" and h5py.check_string_dtype(dataset.dtype) is not None
        return (dataset.asstr() if is_text else dataset)[block]

    with damage_named(source.uri, f"the values of {name!r}"):
        return read_hdf5(source, work)


def group_names(source: ReadableSource, top: str = "") -> list[str]:
    """Return the paths of a group and of all groups below it, the outer ones first; none if there is no such group."""

    def work(file: h5py.File) -> list[str]:
        group = file.get(f"/{top}")
        return list(_groups(group, top, (group.id,))) if isinstance(group, h5py.Group) else []

    with damage_named(source.uri, "the list of groups"):
        return read_hdf5(source, work)


def _is_text(name: str | bytes) -> bool:
    """Return whether the name of a member is text; h5py gives the bytes of one that is not."""
    return isinstance(name, str)


def _groups(group: h5py.Group, path: str, above: tuple[object, ...]) -> Iterator[str]:
    yield path
    for key in filter(_is_text, group):
        node = None if isinstance(group.get(key, getlink=True), h5py.ExternalLink) else _behind(group, key)
        if isinstance(node, h5py.Group) and node.id not in above:
            yield from _groups(node, f"{path}/{key}".lstrip("/"), (*above, node.id))


def _names(group: h5py.Group, folder: str, above: tuple[object, ...]) -> Iterator[str]:
    """Yield the names of the variables in `group`, hard and soft links followed; `above` are the groups that lead to it."""
    for key in filter(_is_text, group):
        node = None if isinstance(group.get(key, getlink=True), h5py.ExternalLink) else _behind(group, key)
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
    with damage_named(source.uri, f"the metadata of {name!r}"):
        return read_hdf5(source, lambda file: _variable(file, find_dataset(file, source.uri, name), source, name.strip("/")))


def find_dataset(file: h5py.File, uri: str, name: str) -> h5py.Dataset:
    """Return the dataset of the variable `name`.

    Raises:
        VariableNotFoundError: There is none of that name; the message has the names that are near.
        UnsupportedError: It is a link into another file.
    """
    folder, _, last = name.strip("/").rpartition("/")
    for candidate in (f"{folder}/{NOT_COORDINATE}{last}", f"{folder}/{last}"):
        node = _behind(file, candidate.strip("/")) if last else None
        if isinstance(node, h5py.Dataset) and not _is_dimension_only(node):
            if place_of(node.id)[0] != place_of(file.id)[0]:
                raise UnsupportedError(f"{uri}: {name!r} is a link into {node.file.filename}; open that file instead")
            return node
    leads = dangling_link(file, name.strip("/"))
    if leads is not None:
        raise VariableNotFoundError(f"{uri}: {name!r} is a link to {leads}, which is not there")
    raise no_such_variable(uri, name, list(_names(file, "", (file.id,))))


def _behind(group: h5py.Group, name: str) -> Any:  # Any: h5py is untyped
    """Return the member of a group, or what it is a link to; None if there is nothing, or a link that leads to itself."""
    try:
        return group.get(name)
    except (OSError, RuntimeError):
        if isinstance(group.get(name, getlink=True), h5py.HardLink):
            raise
        return None


def dangling_link(group: h5py.Group, name: str) -> str | None:
    """Return where a link leads behind which there is nothing; None for what is there, and for what is no link."""
    link = group.get(name, getlink=True) if name else None
    if not isinstance(link, (h5py.SoftLink, h5py.ExternalLink)) or _behind(group, name) is not None:
        return None
    return link.path if isinstance(link, h5py.SoftLink) else f"{link.path} of {link.filename}"


def _variable(file: h5py.File, dataset: h5py.Dataset, source: ReadableSource, name: str) -> Variable:
    dtype, creation = _numeric_dtype(dataset, source.uri, name), dataset.id.get_create_plist()
    storage = read_storage(dataset.id, creation, dtype, read_user_block(file.id))
    sizes = attribute_sizes(dataset.id, creation)
    attrs = _attributes(dataset, sizes)
    dims, shape = read_dimensions(file.id, dataset.id, sizes)
    table = _table(dataset, storage, source, shape)
    return variable_of(storage, source, name, dims=dims, shape=shape, attrs=attrs, table=table)


def _numeric_dtype(dataset: h5py.Dataset, uri: str, name: str) -> np.dtype[np.generic]:
    """Return the stored type of a numeric dataset; an enumeration (h5py's truth values too) counts as its integers."""
    try:
        dtype: np.dtype[np.generic] = number_type(dataset.id).dtype
    except (KeyError, TypeError) as error:
        raise NotNumericError(f"{uri}: {name!r} holds values of a type that NumPy does not have ({_word(error)})") from None
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


def _word(error: Exception) -> str:
    # h5py has no name for VAX numbers, and a KeyError says no more than which key is missing.
    return "a byte order of its own" if isinstance(error, KeyError) else str(error)


def _attributes(owner: h5py.HLObject, sizes: Mapping[bytes, int]) -> dict[str, object]:
    found: dict[str, object] = {}
    for name, size in sizes.items():
        if name in HIDDEN:
            continue
        key = name.decode("utf-8", "surrogateescape")
        try:
            value = read_attribute(owner.id, name, size)
            found[key] = plain_value(owner.attrs[name] if value is None else value)
        except (OSError, TypeError, RuntimeError):
            found[key] = "<unreadable>"
    return found


def _table(dataset: h5py.Dataset, storage: Storage, source: ReadableSource, shape: tuple[int, ...]) -> ChunkTable:
    if storage.layout == "chunked":
        return _chunk_table(dataset, storage, source, shape)
    layout, itemsize = storage.layout, storage.dtype.itemsize
    chunk_shape = contiguous_chunk_shape(shape, itemsize)
    grid = grid_shape(shape, chunk_shape)
    if layout in ("virtual", "external") or not storage.is_as_in_numpy:
        # Every piece is there, and has no offset: its bytes lie in other files, or are not NumPy's.
        return unplaced_table(grid)
    if layout == "compact":
        data = np.empty(dataset.shape, storage.dtype)
        dataset.id.read(h5py.h5s.ALL, h5py.h5s.ALL, data, dataset.id.get_type())
        return contiguous_table(shape, chunk_shape, itemsize=itemsize, start=0, inline=data.tobytes())
    # Behind a user block the library gives an offset even for what was never written.
    if dataset.id.get_space_status() != h5py.h5d.SPACE_STATUS_NOT_ALLOCATED and dataset.id.get_offset() is not None:
        return contiguous_table(shape, chunk_shape, itemsize=itemsize, start=dataset.id.get_offset())
    # What has no value is refused by the library, as by all that read through it.
    return unplaced_table(grid) if storage.filling == "error" else unwritten_table(grid)


def _chunk_table(dataset: h5py.Dataset, storage: Storage, source: ReadableSource, shape: tuple[int, ...]) -> ChunkTable:
    layout, chunk_shape = chunk_layout(storage, source), storage.chunk_shape or ()
    if layout is not None and layout.root is not None:
        return tree_table(storage, layout.root, source, shape)
    # Of a layout that cannot be read, nobody knows which chunks are filtered.
    if _is_misplaced(dataset) or (layout is None and storage.codecs):
        return unplaced_table(grid_shape(shape, chunk_shape))
    bare = storage.extent if layout is not None and layout.bare_edges else None
    table = _iterated_table(dataset, grid_shape(shape, chunk_shape), chunk_shape, bare)
    return unplaced_table(table.grid) if storage.filling == "error" and not len(table) else table


def _is_misplaced(dataset: h5py.Dataset) -> bool:
    """Return whether the HDF5 library tells wrong places of the chunks.

    An extensible array, the index of a dataset with one unlimited dimension in the newer formats, keeps that dimension
    first; the library forgets this when it is asked where chunks are, though not when it reads them.
    """
    unlimited = [dim for dim, length in enumerate(dataset.maxshape) if length is None]
    return len(unlimited) == 1 and unlimited != [0]


def _iterated_table(
    dataset: h5py.Dataset, grid: tuple[int, ...], chunk_shape: tuple[int, ...], bare: tuple[int, ...] | None
) -> ChunkTable:
    """Return the table as the HDF5 library hands it out, whatever the kind of index.

    Parameters:
        dataset: The dataset.
        grid: How many chunks lie along each dimension.
        chunk_shape: Lengths of a chunk.
        bare: Lengths of the dataset beyond which no chunk that reaches there is filtered, whatever its mask says; None if
            all are filtered.
    """
    starts, places = array("q"), array("q")

    def visit(chunk: Any) -> None:  # Any: h5py's StoreInfo
        starts.extend(chunk.chunk_offset)
        places.extend((chunk.byte_offset, chunk.size, chunk.filter_mask))

    if dataset.id.get_num_chunks():
        dataset.id.chunk_iter(visit)
    first, columns = np.array(starts, np.int64).reshape(-1, len(grid)), np.array(places, np.int64).reshape(-1, 3)
    cells = first // np.array(chunk_shape)
    if bare is not None:
        columns[np.any(first + np.array(chunk_shape) > np.array(bare), axis=1), 2] = EVERY_FILTER
    index = np.ravel_multi_index(tuple(cells.T), grid).astype(np.int64) if len(cells) else np.zeros(0, np.int64)
    order = np.argsort(index, kind="stable")
    if np.any(index[order][1:] == index[order][:-1]):
        raise ValueError("the chunk index holds a chunk twice")
    offset, size, mask = (np.ascontiguousarray(columns[order, i]) for i in range(3))
    return ChunkTable(grid, index[order], offset, size, mask.astype(np.uint32))
