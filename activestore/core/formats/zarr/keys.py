"""Stores of named objects, as the chunks of Zarr arrays are kept: what the engine asks of them, and how chunks are named.

Such a store is a source like any other: an offset stands for an object and a place in it, so that plans, backends and
kernel need not know. Only the store itself makes such offsets, and undoes them when it reads.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol, TypeGuard

import numpy as np
import numpy.typing as npt

from activestore.core.source import ReadableSource
from activestore.core.variable import ChunkTable, contiguous_table, grid_shape, unwritten_table
from activestore.errors import CorruptChunkError

__all__ = ["ChunkKeys", "ObjectIndex", "ObjectSource", "Places", "WholeIndex", "is_of_objects", "placed_table"]


@dataclass(frozen=True, slots=True)
class ChunkKeys:
    """The keys of the objects that an array's chunks are in.

    Examples:
        >>> keys = ChunkKeys("tas/c/", "/", (2, 3), "tas/c", room=1 << 20)
        >>> keys.key(5), keys.position("1/2"), keys.position("2/0"), keys.position("zarr.json")
        ('tas/c/1/2', 5, None, None)
    """

    prefix: str
    """What stands before the numbers of the chunk: "tas/", "tas/c/"."""
    separator: str
    """What stands between them: "." or "/"."""
    grid: tuple[int, ...]
    """How many chunks lie along each dimension."""
    scalar: str
    """The key of the one chunk of an array without dimensions."""
    room: int
    """Bytes that none of the objects has: they are larger only if they are damaged."""
    shared: bool = False
    """Whether an object holds many chunks, which are read one by one."""

    @property
    def count(self) -> int:
        """How many chunks there can be."""
        return math.prod(self.grid)

    def key(self, position: int) -> str:
        """Return the key of the chunk at a position in the grid, counted in C order."""
        if not self.grid:
            return self.scalar
        numbers: list[str] = []
        for length in reversed(self.grid):
            position, number = divmod(position, length)
            numbers.append(str(number))
        return self.prefix + self.separator.join(reversed(numbers))

    def position(self, name: str) -> int | None:
        """Return the position of the chunk with the key `prefix + name`, None if it is no chunk of the grid."""
        numbers = name.split(self.separator)
        if len(numbers) != len(self.grid):
            return None
        position = 0
        for number, length in zip(numbers, self.grid, strict=True):
            # As writers have them: other spellings of a number ("01") are other objects.
            if not (number.isascii() and number.isdigit() and len(number) < 20 and str(int(number)) == number):
                return None
            if int(number) >= length:
                return None
            position = position * length + int(number)
        return position


class Places(NamedTuple):
    """Where objects are, in columns."""

    position: npt.NDArray[np.int64]
    """Position in the grid of each object that is there, ascending."""
    offset: npt.NDArray[np.int64]
    """Where each begins."""
    size: npt.NDArray[np.int64]
    """Bytes of each."""

    @classmethod
    def of(cls, rows: Iterable[tuple[int, int, int]]) -> Places:
        """Return the columns of rows (position, offset, size)."""
        columns = np.array(sorted(rows), np.int64).reshape(-1, 3)
        return cls(*(np.ascontiguousarray(columns[:, i]) for i in range(3)))


class ObjectSource(ReadableSource, Protocol):
    """A source that is a store of objects."""

    def read_object(self, key: str) -> bytes | None:
        """Return a whole object of metadata, None if there is none of that key."""

    def folders(self, key: str) -> list[str]:
        """Return the names of the folders directly in the folder `key`, "" for the root; sorted."""

    def place_chunks(self, keys: ChunkKeys, wanted: npt.NDArray[np.int64] | None) -> Places:
        """Return where the objects of chunks are: at least of those `wanted`, ascending positions; of all for None."""


def is_of_objects(source: ReadableSource) -> TypeGuard[ObjectSource]:
    """Return whether a source is a store of objects; one that was pickled is opened for that."""
    # Since Python 3.12, isinstance does not find what such a source has only once it is open.
    return hasattr(source, "place_chunks")


@dataclass(frozen=True, slots=True)
class ObjectIndex:
    """The chunk index of an array each of whose chunks is an object."""

    keys: ChunkKeys
    """Their keys."""

    def read(self, source: ReadableSource, wanted: npt.NDArray[np.int64] | None) -> ChunkTable:
        """Return the table of the chunks `wanted`; of all for None."""
        assert is_of_objects(source)  # noqa: S101  # nothing else has such variables
        places = source.place_chunks(self.keys, wanted)
        return placed_table(self.keys.grid, places, partial=wanted is not None)


@dataclass(frozen=True, slots=True)
class WholeIndex:
    """The index of an array whose numbers are in one object as they are: it is cut into pieces."""

    keys: ChunkKeys
    """The key of the object."""
    shape: tuple[int, ...]
    """Lengths of the array."""
    piece_shape: tuple[int, ...]
    """Lengths of a piece."""
    itemsize: int
    """Bytes of a number."""

    def read(self, source: ReadableSource, wanted: npt.NDArray[np.int64] | None) -> ChunkTable:  # noqa: ARG002  # one is all
        """Return the table of all pieces.

        Raises:
            CorruptChunkError: The object has another size than the array.
        """
        assert is_of_objects(source)  # noqa: S101  # nothing else has such variables
        places = source.place_chunks(self.keys, None)
        if not len(places.position):
            return unwritten_table(grid_shape(self.shape, self.piece_shape))
        size, nbytes = int(places.size[0]), math.prod(self.shape) * self.itemsize
        if size != nbytes:
            what = f"{self.keys.key(0)} has {size} bytes where the array has {nbytes}"
            raise CorruptChunkError(f"{source.uri}: {what}; is it cut off or damaged?")
        return contiguous_table(self.shape, self.piece_shape, itemsize=self.itemsize, start=int(places.offset[0]))


def placed_table(grid: tuple[int, ...], places: Places, *, partial: bool) -> ChunkTable:
    """Return the table of chunks that lie at `places`."""
    table = replace(unwritten_table(grid), partial=partial)
    masks = np.zeros(len(places.position), np.uint32)
    return replace(table, index=places.position, offset=places.offset, size=places.size, filter_mask=masks)
