"""The version 1 B-tree that indexes the chunks of nearly every netCDF-4 file, read level by level.

The HDF5 library hands chunks out one by one; here all nodes of a level are read together and decoded by NumPy, which
is several times faster for a large variable and needs few rounds of requests for a remote one.

Source: HDF5 File Format Specification 3.0, III.A.1 (B-tree), IV.A.1 (object headers), IV.A.2.i (data layout).
"""

from __future__ import annotations

import dataclasses
import struct
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from activestore.core.variable import ChunkTable, ReadableSource, grid_shape, unwritten_table
from activestore.errors import SourceError

__all__ = ["UNDEFINED", "BTree", "ChunkLayout", "read_btree", "read_layout"]

UNDEFINED = 0xFFFFFFFFFFFFFFFF
"""The address of what is nowhere."""
_HEADER = 24
_ENTRIES = 64
"""Children of a node with the library's default of K = 32; a node with more is read again."""
_BATCH = 2048
"""Nodes decoded at a time, which bounds the memory."""
_MAX_MESSAGES = 100_000
_LAYOUT, _CONTINUATION = 0x08, 0x10
_CHUNKED, _BARE_EDGES = 2, 0x01


@dataclasses.dataclass(frozen=True, slots=True)
class ChunkLayout:
    """What the layout message of a chunked dataset says and the HDF5 library does not tell."""

    root: int | None
    """Address of the version 1 B-tree that has its chunks, None if it has another index."""
    bare_edges: bool
    """Whether chunks that reach beyond the dataset are stored without any filter (H5D_CHUNK_DONT_FILTER_PARTIAL_CHUNKS)."""


def read_layout(source: ReadableSource, header: int, *, base: int) -> ChunkLayout | None:
    """Return the layout of the chunked dataset whose object header is at `header`, None if it is of a version not known here.

    Parameters:
        source: The file.
        header: Address of the object header, as the HDF5 library gives it.
        base: Bytes of the user block, which all addresses count from.
    """
    for kind, body in _messages(source, header + base, base):
        if kind == _LAYOUT:
            return _layout(body)
    return None


def _layout(body: bytes) -> ChunkLayout | None:
    """Return what a layout message says, None if it is of a version not known here, or not of chunks."""
    version, first, second = body[:3]
    if version in (1, 2) and second == _CHUNKED:
        return ChunkLayout(int.from_bytes(body[8:16], "little"), bare_edges=False)
    if version == 3 and first == _CHUNKED:
        return ChunkLayout(int.from_bytes(body[3:11], "little"), bare_edges=False)
    if version in (4, 5) and first == _CHUNKED:
        return ChunkLayout(None, bare_edges=bool(second & _BARE_EDGES))
    return None


def _messages(source: ReadableSource, position: int, base: int) -> Iterator[tuple[int, bytes]]:
    """Yield type and body of every message of an object header, continuation blocks included."""
    (start,) = source.read_ranges([(position, 512)])
    if start[:4] == b"OHDR":
        yield from _messages_v2(source, position, start, base)
    elif start[:1] == b"\x01":
        count, size = struct.unpack_from("<H", start, 2)[0], struct.unpack_from("<I", start, 8)[0]
        yield from _messages_v1(source, (position + 16, size), min(count, _MAX_MESSAGES), base)


def _messages_v1(source: ReadableSource, block: tuple[int, int], count: int, base: int) -> Iterator[tuple[int, bytes]]:
    blocks = [block]
    while blocks and count > 0:
        (data,) = source.read_ranges([blocks.pop(0)])
        position = 0
        while position + 8 <= len(data) and count > 0:
            kind, size = struct.unpack_from("<HH", data, position)
            body = data[position + 8 : position + 8 + size]
            position, count = position + 8 + size, count - 1
            if kind == _CONTINUATION and len(body) >= 16:
                address, length = struct.unpack_from("<QQ", body)
                blocks.append((address + base, length))
            yield kind, body


def _messages_v2(source: ReadableSource, position: int, start: bytes, base: int) -> Iterator[tuple[int, bytes]]:
    flags = start[5]
    head = 6 + (16 if flags & 0x20 else 0) + (4 if flags & 0x10 else 0)
    width = 1 << (flags & 3)
    size = int.from_bytes(start[head : head + width], "little")
    prefix = 6 if flags & 4 else 4
    blocks, seen = [(position + head + width, size)], 0
    while blocks and seen < _MAX_MESSAGES:
        (data,) = source.read_ranges([blocks.pop(0)])
        at = 4 if data[:4] == b"OCHK" else 0
        while at + prefix <= len(data):
            kind, length = data[at], int.from_bytes(data[at + 1 : at + 3], "little")
            body = data[at + prefix : at + prefix + length]
            at, seen = at + prefix + length, seen + 1
            if kind == _CONTINUATION and len(body) >= 16:
                address, total = struct.unpack_from("<QQ", body)
                blocks.append((address + base, total - 4))
            yield kind, body


@dataclasses.dataclass(frozen=True, slots=True)
class BTree:
    """The chunk index of one variable, before it is read; the fields are the parameters of `read_btree`."""

    root: int
    base: int
    extent: tuple[int, ...]
    shape: tuple[int, ...]
    chunk_shape: tuple[int, ...]

    def read(self, source: ReadableSource, wanted: npt.NDArray[np.int64] | None) -> ChunkTable:
        """Return the table of the chunks `wanted`; of all for None.

        Raises:
            SourceError: The index is damaged.
        """
        return read_btree(
            source,
            self.root,
            base=self.base,
            extent=self.extent,
            shape=self.shape,
            chunk_shape=self.chunk_shape,
            wanted=wanted,
        )


def read_btree(
    source: ReadableSource,
    root: int,
    *,
    base: int,
    extent: tuple[int, ...],
    shape: tuple[int, ...],
    chunk_shape: tuple[int, ...],
    wanted: npt.NDArray[np.int64] | None = None,
) -> ChunkTable:
    """Return the chunk table that the B-tree at `root` holds.

    Parameters:
        source: The file.
        root: Address of the root node; the "undefined" address means that nothing was ever written.
        base: Bytes of the user block.
        extent: Lengths of the dataset; chunks outside it are left out.
        shape: Lengths of the variable, whose grid the table is for.
        chunk_shape: Lengths of a chunk.
        wanted: Positions in the grid, ascending, of the chunks that count: only branches that can hold them are read.
            None for all.

    Raises:
        SourceError: The index is damaged.
    """
    columns: list[tuple[npt.NDArray[np.int64], ...]] = []
    if root != UNDEFINED:
        level = np.array([root + base], np.int64)
        depth: int | None = None
        while depth is None or depth >= 0:
            children: list[npt.NDArray[np.int64]] = []
            for first in range(0, len(level), _BATCH):
                depth, rows, address = _read_nodes(source, level[first : first + _BATCH], len(shape), depth)
                if depth:
                    children.append(address[_branches(rows, shape, chunk_shape, wanted)] + base)
                else:
                    columns.append(_leaf_columns(rows, address + base, shape, extent, chunk_shape))
            if depth == 0 or not children:
                break
            level = np.concatenate(children)
            depth = (depth or 0) - 1
            if len(level) * _HEADER > source.size:
                raise SourceError(f"{source.uri}: the chunk index is damaged: it names more nodes than the file can hold")
    table = _table(columns, grid_shape(shape, chunk_shape), source.uri)
    return table if wanted is None else dataclasses.replace(table, partial=True)


def _branches(
    rows: npt.NDArray[np.void],
    shape: tuple[int, ...],
    chunk_shape: tuple[int, ...],
    wanted: npt.NDArray[np.int64] | None,
) -> npt.NDArray[np.bool_]:
    """Return which children of inner nodes can hold a wanted chunk: each has the chunks from its key up to the next one's."""
    every = np.ones(len(rows), bool)
    starts = rows["start"][:, : len(shape)]
    if wanted is None or np.any(starts >= np.array(shape, np.uint64)):
        # What lies outside a dataset that has shrunk has no position in the grid.
        return every
    starts = starts.astype(np.int64)
    first = np.ravel_multi_index(tuple((starts // np.array(chunk_shape)).T), grid_shape(shape, chunk_shape)).astype(np.int64)
    if np.any(first[1:] < first[:-1]):
        return every
    before = np.searchsorted(wanted, first)
    return np.asarray(np.append(before[1:], len(wanted)) > before)


def _table(columns: list[tuple[npt.NDArray[np.int64], ...]], grid: tuple[int, ...], uri: str) -> ChunkTable:
    if not columns:
        return unwritten_table(grid)
    index, offset, size, masks = (np.concatenate(parts) for parts in zip(*columns, strict=True))
    if np.any(index[1:] <= index[:-1]):
        order = np.argsort(index, kind="stable")
        index, offset, size, masks = index[order], offset[order], size[order], masks[order]
        if np.any(index[1:] == index[:-1]):
            raise SourceError(f"{uri}: the chunk index is damaged: it holds a chunk twice")
    return ChunkTable(grid, index, offset, size, masks.astype(np.uint32))


def _read_nodes(
    source: ReadableSource, addresses: npt.NDArray[np.int64], ndim: int, depth: int | None
) -> tuple[int, npt.NDArray[np.void], npt.NDArray[np.int64]]:
    """Return the level of these nodes, their keys and the addresses of their children."""
    entry = np.dtype([("size", "<u4"), ("mask", "<u4"), ("start", "<u8", (ndim,)), ("element", "<u8"), ("child", "<u8")])
    length = _HEADER + _ENTRIES * entry.itemsize
    nodes = source.read_ranges([(address, length) for address in addresses.tolist()])
    found, parts = depth, []
    for address, node in zip(addresses.tolist(), nodes, strict=True):
        used = int.from_bytes(node[6:8], "little")
        if node[:5] != b"TREE\x01" or len(node) < _HEADER or (found is not None and node[5] != found):
            raise SourceError(f"{source.uri}: the chunk index is damaged: no chunk node at offset {address}")
        found = node[5]
        needed = _HEADER + used * entry.itemsize
        whole = node if needed <= len(node) else source.read_ranges([(address, needed)])[0]
        if len(whole) < needed:
            raise SourceError(f"{source.uri}: the chunk index is cut off at offset {address}")
        parts.append(whole[_HEADER:needed])
    rows = np.frombuffer(b"".join(parts), entry)
    return found or 0, rows, rows["child"].astype(np.int64)


def _leaf_columns(
    rows: npt.NDArray[np.void],
    address: npt.NDArray[np.int64],
    shape: tuple[int, ...],
    extent: tuple[int, ...],
    chunk_shape: tuple[int, ...],
) -> tuple[npt.NDArray[np.int64], ...]:
    """Return position in the grid, address, size and mask of the chunks of leaf nodes."""
    grid = grid_shape(shape, chunk_shape)
    index = np.zeros(len(rows), np.int64)
    inside = np.ones(len(rows), bool)
    for dim, (cells, chunk) in enumerate(zip(grid, chunk_shape, strict=True)):
        start = rows["start"][:, dim]
        inside &= start < extent[dim]
        index = index * cells + start.astype(np.int64) // chunk
    columns = (index, address, rows["size"].astype(np.int64), rows["mask"].astype(np.int64))
    return columns if inside.all() else tuple(column[inside] for column in columns)
