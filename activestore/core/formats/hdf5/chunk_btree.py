"""The version 1 B-tree that indexes the chunks of nearly every netCDF-4 file, read level by level.

The HDF5 library hands chunks out one by one; here all nodes of a level are read together and decoded by NumPy, which
is several times faster for a large variable and needs few rounds of requests for a remote one.

Source: HDF5 File Format Specification 3.0, III.A.1 (B-tree), IV.A.1 (object headers), IV.A.2.i (data layout).
"""

from __future__ import annotations

import dataclasses
import struct
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from activestore.core.source import ReadableSource
from activestore.core.variable import ChunkTable, grid_shape, unwritten_table
from activestore.errors import SourceError

__all__ = ["UNDEFINED", "BTree", "ChunkLayout", "read_layout"]

UNDEFINED = 0xFFFFFFFFFFFFFFFF
"""The address of what is nowhere."""
_HEADER, _ADDRESS = 24, 8
_SIZE, _MASK = np.uint64(0xFFFFFFFF), np.uint64(32)
"""Which bits of an entry's first 8 bytes are the size of a chunk, and behind how many of them its filter mask is."""
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
    """The chunk index of one variable, before it is read."""

    root: int
    """Address of the root node; the "undefined" address means that nothing was ever written."""
    base: int
    """Bytes of the user block."""
    extent: tuple[int, ...]
    """Lengths of the dataset; chunks outside it are left out."""
    limits: tuple[int, ...]
    """Lengths that the dataset can grow to."""
    shape: tuple[int, ...]
    """Lengths of the variable, whose grid the table is for."""
    chunk_shape: tuple[int, ...]
    """Lengths of a chunk."""
    itemsize: int
    """Bytes of a number."""

    def read(self, source: ReadableSource, wanted: npt.NDArray[np.int64] | None) -> ChunkTable:
        """Return the chunk table that it holds.

        All that it says is checked: what the HDF5 library refuses, and what would lead its search past a chunk.

        Parameters:
            source: The file.
            wanted: Positions in the grid, ascending, of the chunks that count: only branches that can hold them are read.
                None for all.

        Raises:
            SourceError: The index is damaged.
        """
        if self.root == UNDEFINED:
            table = unwritten_table(grid_shape(self.shape, self.chunk_shape))
        else:
            table = self._table(self._leaves(source, wanted), source)
        return table if wanted is None else dataclasses.replace(table, partial=True)

    def _leaves(self, source: ReadableSource, wanted: npt.NDArray[np.int64] | None) -> _Children:
        """Return the children of all leaf nodes that count: the chunks."""
        level, depth = _root(self.root + self.base, len(self.shape) + 1), None
        while True:
            parts = []
            for start in range(0, len(level.address), _BATCH):
                depth, children = self._children(source, level.part(slice(start, start + _BATCH)), depth)
                parts.append(children.part(self._branches(children, wanted)) if depth else children)
            level = _joined(parts)
            if not depth or not len(level.address):
                return level
            depth -= 1
            if len(level.address) * _HEADER > source.size:
                raise _damaged(source, "it names more nodes than the file can hold")

    def _children(self, source: ReadableSource, parents: _Children, depth: int | None) -> tuple[int, _Children]:
        """Return the level of some nodes, and their children.

        Raises:
            SourceError: They are no nodes, or contradict themselves or those above.
        """
        depth, used, entries, behind = _read_nodes(source, parents.address, len(self.shape) + 3, depth)
        keys, last = self._keys(source, entries), self._keys(source, behind)
        own = used > 0
        starts, ends = (np.cumsum(used) - used)[own], (np.cumsum(used) - 1)[own]
        ascending = _before(keys[:, :-1], keys[:, 1:])
        ascending[ends[:-1]] = True
        if not (ascending.all() and _before(keys[:, ends], last[:, own]).all()):
            raise _damaged(source, "its chunks are not in order")
        child, size, file_end = entries[-1], entries[0] & _SIZE, source.size - self.base
        if np.any(child > file_end) or (depth == 0 and np.any(child + size > file_end)):
            raise _damaged(source, "it points behind the end of the file")
        # Each node has one key more than children; what follows that is a child where a node has more than it counts.
        more = (behind[0] & _SIZE > 0) & (last[-1] == 0) & (behind[-1] > 0) & (behind[-1] < file_end)
        if np.any(more & _before(last, parents.end)):
            raise _damaged(source, "a node has more children than it counts")
        first, end = keys, keys
        if depth:
            following = np.append(keys[:, 1:], last[:, -1:], axis=1)
            following[:, ends] = last[:, own]
            first = _later(keys, np.repeat(parents.first, used, axis=1))
            end = _earlier(following, np.repeat(parents.end, used, axis=1))
        elif np.any(_before(keys[:, starts], parents.first[:, own]) | ~_before(keys[:, ends], parents.end[:, own])):
            raise _damaged(source, "it has a chunk where the HDF5 library does not look for it")
        return depth, _Children(child.astype(np.int64) + self.base, size.astype(np.int64), entries[0] >> _MASK, first, end)

    def _keys(self, source: ReadableSource, entries: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
        """Return where the chunks of entries are in the grid, along each dimension."""
        keys = np.empty_like(entries[1:-1])
        for own, start, step in zip(keys, entries[1:-1], (*self.chunk_shape, self.itemsize), strict=True):
            np.floor_divide(start, np.uint64(step), out=own)
            if np.any(own * np.uint64(step) != start):
                raise _damaged(source, "a chunk starts where none can")
        return keys

    def _branches(self, children: _Children, wanted: npt.NDArray[np.int64] | None) -> npt.NDArray[np.bool_]:
        """Return which children of inner nodes can hold a wanted chunk: each has those from its first up to the next one's."""
        every, grid = np.ones(len(children.address), bool), grid_shape(self.shape, self.chunk_shape)
        first = children.first[:-1]
        if wanted is None or np.any(first >= np.array(grid, np.uint64)[:, None]):
            # What lies outside a dataset that has shrunk has no position in the grid.
            return every
        position = np.ravel_multi_index(tuple(first.astype(np.int64)), grid).astype(np.int64)
        if np.any(position[1:] < position[:-1]):
            return every
        before = np.searchsorted(wanted, position)
        return np.asarray(np.append(before[1:], len(wanted)) > before)

    def _table(self, chunks: _Children, source: ReadableSource) -> ChunkTable:
        """Return the table of these chunks, without those that lie outside the dataset.

        Raises:
            SourceError: They lie where it cannot grow to, or in the same bytes.
        """
        grid = grid_shape(self.shape, self.chunk_shape)
        *cells, element = chunks.first
        most = grid_shape(self.limits, self.chunk_shape)
        if element.any() or any(np.any(cell >= end) for cell, end in zip(cells, most, strict=True)):
            raise _damaged(source, "it has a chunk where the dataset cannot have one")
        index, inside = np.zeros(len(chunks.address), np.int64), np.ones(len(chunks.address), bool)
        for cell, length, stored in zip(cells, grid, grid_shape(self.extent, self.chunk_shape), strict=True):
            inside &= cell < stored
            index = index * length + cell.astype(np.int64)
        if not inside.all():
            index, chunks = index[inside], chunks.part(inside)
        if np.any(np.sort(chunks.address)[1:] < np.sort(chunks.address + chunks.size)[:-1]):
            raise _damaged(source, "two chunks have the same bytes")
        return ChunkTable(grid, index, chunks.address, chunks.size, chunks.mask.astype(np.uint32))


@dataclasses.dataclass(frozen=True, slots=True)
class _Children:
    """What nodes point to: other nodes, or chunks."""

    address: npt.NDArray[np.int64]
    """Where each is in the source."""
    size: npt.NDArray[np.int64]
    """Bytes of a chunk as stored."""
    mask: npt.NDArray[np.uint64]
    """Its filter mask."""
    first: npt.NDArray[np.uint64]
    """Where the first chunk that it can hold is in the grid, along each dimension, and a 0; of a chunk, where it is."""
    end: npt.NDArray[np.uint64]
    """Where the first one after that is which it cannot hold; of a chunk, where it is."""

    @property
    def columns(self) -> tuple[npt.NDArray[Any], ...]:  # Any: of several types
        """What is known of them, one array for each."""
        return self.address, self.size, self.mask, self.first, self.end

    def part(self, rows: slice | npt.NDArray[np.bool_]) -> _Children:
        """Return some of them."""
        return _Children(*(column[..., rows] for column in self.columns))


def _joined(parts: list[_Children]) -> _Children:
    return (
        parts[0]
        if len(parts) == 1
        else _Children(*(np.concatenate(columns, axis=-1) for columns in zip(*(part.columns for part in parts), strict=True)))
    )


def _root(address: int, width: int) -> _Children:
    """Return the root node as if something pointed to it."""
    start = np.zeros((width, 1), np.uint64)
    none = np.zeros(1, np.int64)
    return _Children(none + address, none, start[0], start, start + np.uint64(UNDEFINED))


def _read_nodes(
    source: ReadableSource, addresses: npt.NDArray[np.int64], columns: int, depth: int | None
) -> tuple[int, npt.NDArray[np.int64], npt.NDArray[np.uint64], npt.NDArray[np.uint64]]:
    """Return the level of these nodes, how many children each has, their entries, and what is behind the entries of each.

    An entry has so many columns of 8 bytes: size and mask of a chunk, where it starts along each dimension, the address.

    Raises:
        SourceError: They are no nodes of one level.
    """
    width = 8 * columns
    length = _HEADER + (_ENTRIES + 1) * width - _ADDRESS
    nodes = source.read_ranges([(address, length) for address in addresses.tolist()])
    found, counts, entries, behind = depth, [], [], []
    for address, node in zip(addresses.tolist(), nodes, strict=True):
        used = int.from_bytes(node[6:8], "little")
        if node[:5] != b"TREE\x01" or len(node) < _HEADER or (found is not None and node[5] != found):
            raise _damaged(source, f"no chunk node at offset {address}")
        # Only what nothing is left of has no children.
        if used == 0 and (depth is not None or node[5]):
            raise _damaged(source, f"a node without children at offset {address}")
        found, end = node[5], _HEADER + used * width
        needed = end + width - _ADDRESS
        whole = node if needed <= len(node) else source.read_ranges([(address, needed)])[0]
        if len(whole) < needed:
            raise SourceError(f"{source.uri}: the chunk index is cut off at offset {address}")
        counts.append(used)
        entries.append(whole[_HEADER:end])
        behind.append(whole[end : end + width].ljust(width, b"\0"))
    # Column by column: NumPy takes several times longer for numbers that do not lie side by side.
    rows, last = (np.frombuffer(b"".join(parts), "<u8").reshape(-1, columns).T.copy() for parts in (entries, behind))
    return found or 0, np.array(counts, np.int64), rows, last


def _damaged(source: ReadableSource, why: str) -> SourceError:
    return SourceError(f"{source.uri}: the chunk index is damaged: {why}")


def _before(one: npt.NDArray[np.uint64], other: npt.NDArray[np.uint64]) -> npt.NDArray[np.bool_]:
    """Return which positions of `one`, given along each dimension, come before those of `other` in C order."""
    found = np.zeros(one.shape[1], bool)
    for mine, its in zip(one[::-1], other[::-1], strict=True):
        found &= mine == its
        found |= mine < its
    return found


def _later(one: npt.NDArray[np.uint64], other: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    return np.where(_before(one, other), other, one)


def _earlier(one: npt.NDArray[np.uint64], other: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    return np.where(_before(one, other), one, other)
