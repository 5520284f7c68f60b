"""The chunk index of sharded Zarr arrays: each shard, an object of many chunks, says where they are in it.

Source: the Zarr specification 3, codec `sharding_indexed`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from activestore.core.codecs.checksums import crc32c
from activestore.core.formats.zarr.codecs import Sharding
from activestore.core.formats.zarr.keys import ChunkKeys, Places, is_of_objects, placed_table
from activestore.core.source import ReadableSource
from activestore.core.variable import ChunkTable, grid_shape
from activestore.errors import SourceError

__all__ = ["ShardIndex"]

_ABSENT = np.uint64(0xFFFFFFFFFFFFFFFF)
_MOST_INDEX_BYTES = 256 << 20
_BATCH_BYTES = 64 << 20
"""Bytes of shard indexes that are read at a time."""

_Rows = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class ShardIndex:
    """The indexes of all shards of an array, before they are read."""

    keys: ChunkKeys
    """The keys of the shards."""
    sharding: Sharding
    """Where each shard has its index, and in which form."""
    shape: tuple[int, ...]
    """Lengths of the array."""
    shard_shape: tuple[int, ...]
    """Lengths of a shard."""

    @property
    def inside(self) -> tuple[int, ...]:
        """How many chunks a shard has along each dimension."""
        return tuple(shard // chunk for shard, chunk in zip(self.shard_shape, self.sharding.chunk_shape, strict=True))

    @property
    def index_bytes(self) -> int:
        """Bytes of the index of a shard."""
        return 16 * math.prod(self.inside) + 4 * self.sharding.index_checked

    def read(self, source: ReadableSource, wanted: npt.NDArray[np.int64] | None) -> ChunkTable:
        """Return the table of the chunks `wanted`, or of all, as the indexes of their shards tell it.

        Raises:
            SourceError: An index is damaged.
        """
        assert is_of_objects(source)  # noqa: S101  # nothing else has such variables
        grid = grid_shape(self.shape, self.sharding.chunk_shape)
        if self.index_bytes > _MOST_INDEX_BYTES:
            raise SourceError(f"{source.uri}: the index of a shard of {self.keys.prefix!r} has {self.index_bytes} bytes")
        shards = None if wanted is None else self._shards_of(wanted, grid)
        places = source.place_chunks(self.keys, shards)
        batch = max(1, _BATCH_BYTES // self.index_bytes)
        found = [
            self._chunks(source, Places(*(c[at : at + batch] for c in places)), grid) for at in range(0, len(places[0]), batch)
        ]
        rows = np.concatenate(found) if found else np.zeros((3, 0), np.int64).T
        rows = rows[np.argsort(rows[:, 0], kind="stable")]
        columns = Places(*(np.ascontiguousarray(rows[:, i]) for i in range(3)))
        return placed_table(grid, columns, partial=wanted is not None)

    def _shards_of(self, wanted: npt.NDArray[np.int64], grid: tuple[int, ...]) -> npt.NDArray[np.int64]:
        """Return the positions of the shards that hold these chunks."""
        if not grid:
            return np.zeros(1, np.int64)
        cells = np.unravel_index(wanted, grid)
        owners = tuple(cell // count for cell, count in zip(cells, self.inside, strict=True))
        return np.unique(np.ravel_multi_index(owners, self.keys.grid)).astype(np.int64)

    def _chunks(self, source: ReadableSource, places: Places, grid: tuple[int, ...]) -> _Rows:
        """Return rows (position, offset, size) of the chunks in these shards."""
        nbytes = self.index_bytes
        starts = places.offset + (places.size - nbytes if self.sharding.index_at_end else 0)
        short = places.size < nbytes
        if short.any():
            raise self._damaged(source, int(places.position[short][0]), "it is shorter than its index")
        read = source.read_ranges([(start, nbytes) for start in starts.tolist()])
        for shard, data in zip(places.position.tolist(), read, strict=True):
            if len(data) != nbytes:
                raise self._damaged(source, shard, "its index is cut off")
            if self.sharding.index_checked and crc32c(data[:-4]) != int.from_bytes(data[-4:], "little"):
                raise self._damaged(source, shard, "the checksum of its index is wrong")
        entries = b"".join(data[: nbytes - 4 * self.sharding.index_checked] for data in read)
        table = np.frombuffer(entries, f"{self.sharding.index_order}u8").reshape(len(read), -1, 2).astype(np.uint64)
        there = (table[..., 0] != _ABSENT) | (table[..., 1] != _ABSENT)
        ends = table[..., 0] + table[..., 1]
        bad = there & ((ends > places.size[:, None].astype(np.uint64)) | (ends < table[..., 0]))
        if bad.any():
            raise self._damaged(source, int(places.position[np.flatnonzero(bad.any(axis=1))[0]]), "a chunk lies outside of it")
        return self._rows(places, table, there, grid)

    def _rows(
        self, places: Places, table: npt.NDArray[np.uint64], there: npt.NDArray[np.bool_], grid: tuple[int, ...]
    ) -> _Rows:
        which, within = np.nonzero(there)
        position = np.zeros(len(which), np.int64)
        inside_grid = np.ones(len(which), bool)
        shards = np.unravel_index(places.position[which], self.keys.grid) if grid else ()
        cells = np.unravel_index(within, self.inside) if grid else ()
        for dim, length in enumerate(grid):
            at = shards[dim] * self.inside[dim] + cells[dim]
            # Shards at the edge have room for chunks behind it.
            inside_grid &= at < length
            position = position * length + at
        chosen = table[which, within].astype(np.int64)
        rows = np.stack([position, places.offset[which] + chosen[:, 0], chosen[:, 1]], axis=1)
        return rows[inside_grid]

    def _damaged(self, source: ReadableSource, shard: int, what: str) -> SourceError:
        return SourceError(f"{source.uri}: the shard {self.keys.key(shard)!r} is damaged: {what}")
