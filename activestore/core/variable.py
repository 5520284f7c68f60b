"""What is known of a variable before any of its data are read: type, dimensions, attributes, and where its chunks lie."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from activestore.core.codecs.decode import Codec
from activestore.core.missing import Missing
from activestore.core.packing import Packing, unpacked_dtype
from activestore.core.source import ReadableSource
from activestore.errors import VariableNotFoundError

__all__ = [
    "ChunkIndex",
    "ChunkTable",
    "Variable",
    "contiguous_chunk_shape",
    "contiguous_table",
    "grid_shape",
    "unplaced_table",
    "unwritten_table",
]

CONTIGUOUS_PIECE = 8 << 20
"""Bytes of a virtual chunk of a contiguous variable."""

Layout = Literal["chunked", "contiguous", "compact", "virtual", "external"]


class ChunkIndex(Protocol):
    """The index of a variable's chunks, before it is read."""

    def read(self, source: ReadableSource, wanted: npt.NDArray[np.int64] | None) -> ChunkTable:
        """Return the table of the chunks `wanted`, ascending positions in the grid counted in C order; None is all."""


@dataclass(frozen=True, slots=True, eq=False)
class ChunkTable:
    """Where the allocated chunks of a variable lie, in columns; a chunk that is not in it was never written."""

    grid: tuple[int, ...]
    """How many chunks lie along each dimension."""
    index: npt.NDArray[np.int64]
    """Position of each chunk in the grid, counted in C order; ascending."""
    offset: npt.NDArray[np.int64]
    """Byte offset of each chunk in the source."""
    size: npt.NDArray[np.int64]
    """Bytes of each chunk as stored."""
    filter_mask: npt.NDArray[np.uint32]
    """Bit i is set where filter i of the pipeline was skipped for the chunk."""
    inline: bytes | None = None
    """The data themselves, where the file keeps them among its metadata (compact layout); `offset` counts in it."""
    unread: ChunkIndex | None = None
    """Where the columns are still to be read from: `locate` reads those that a selection needs. None if they are here."""
    partial: bool = False
    """Whether only the chunks of one selection are here: of others it says nothing."""

    def __len__(self) -> int:
        return len(self.index)

    @property
    def placed(self) -> bool:
        """Whether the chunks have offsets; if not, only the HDF5 library finds them."""
        return not len(self.offset) or bool(self.offset[0] >= 0)

    def lookup(self, linear: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Return the row of each chunk given by its position in the grid, -1 where it was never written."""
        if self.unread is not None:
            raise ValueError("the chunk index has not been read: locate the chunks first")
        if len(self.index) == math.prod(self.grid):
            return linear
        if not len(self.index):
            return np.full(linear.shape, -1, np.int64)
        rows = np.minimum(np.searchsorted(self.index, linear), len(self.index) - 1)
        return np.where(self.index[rows] == linear, rows, -1)


@dataclass(frozen=True, slots=True, eq=False)
class Variable:
    """A variable as its file describes it; plain values, no open file."""

    uri: str
    """The address of the source."""
    version: str
    """The source's version when this was read."""
    name: str
    """The full name, groups first: "group/var"."""
    shape: tuple[int, ...]
    """Lengths of the dimensions."""
    dims: tuple[str, ...]
    """Names of the dimensions."""
    dtype: np.dtype[np.generic]
    """Type of the stored numbers, with their byte order (unsigned where `_Unsigned` says so)."""
    attrs: Mapping[str, object]
    """The attributes as their author wrote them."""
    layout: Layout
    """How HDF5 or netCDF lays the numbers out."""
    chunk_shape: tuple[int, ...]
    """Lengths of a chunk; for a contiguous layout, of the pieces that it is cut into."""
    codecs: tuple[Codec, ...]
    """The filter pipeline, in the order in which a writer applies it."""
    extent: tuple[int, ...]
    """Lengths that are stored; shorter than `shape` where an unlimited dimension has grown without the variable."""
    fill: bytes
    """The stored number that unwritten cells have."""
    missing: Missing
    """Which stored numbers are missing values."""
    packing: Packing | None
    """How stored numbers become values; None where they are the values."""
    table: ChunkTable
    """Where the chunks are."""

    @property
    def clipped(self) -> bool:
        """Whether the pieces at the edge hold only what is inside the variable (chunks proper are always whole)."""
        return self.layout != "chunked"

    @property
    def value_dtype(self) -> np.dtype[np.generic]:
        """Type of the values, unpacked and in native byte order."""
        return unpacked_dtype(self.dtype, self.packing)

    @property
    def nbytes(self) -> int:
        """Bytes of the stored numbers when decoded."""
        return math.prod(self.shape) * self.dtype.itemsize


def grid_shape(shape: Sequence[int], chunk_shape: Sequence[int]) -> tuple[int, ...]:
    """Return how many chunks of `chunk_shape` cover `shape` along each dimension.

    Examples:
        >>> grid_shape((10, 4), (4, 4))
        (3, 1)
    """
    return tuple(-(-length // chunk) for length, chunk in zip(shape, chunk_shape, strict=True))


def contiguous_chunk_shape(shape: Sequence[int], itemsize: int, *, piece: int = CONTIGUOUS_PIECE) -> tuple[int, ...]:
    """Return the shape of the pieces of about `piece` bytes, each contiguous, that cut a contiguous array.

    Examples:
        >>> contiguous_chunk_shape((732, 361, 720), 4)
        (8, 361, 720)
    """
    chunk = [1] * len(shape)
    nbytes = itemsize
    for dim in reversed(range(len(shape))):
        chunk[dim] = max(1, min(shape[dim], piece // nbytes))
        nbytes *= max(1, shape[dim])
        if chunk[dim] < shape[dim]:
            break
    return tuple(chunk)


def contiguous_table(
    shape: Sequence[int], chunk_shape: Sequence[int], *, itemsize: int, start: int, inline: bytes | None = None
) -> ChunkTable:
    """Return the table of the pieces of a contiguous array whose first byte is at `start`."""
    grid = grid_shape(shape, chunk_shape)
    if 0 in shape:
        return unwritten_table(grid)
    index = np.arange(math.prod(grid), dtype=np.int64)
    stride, offset = itemsize, np.full(len(index), start, np.int64)
    size = np.full(len(index), itemsize, np.int64)
    cells = np.unravel_index(index, grid) if grid else ()
    for dim in reversed(range(len(grid))):
        first = cells[dim].astype(np.int64) * chunk_shape[dim]
        offset += first * stride
        size *= np.minimum(chunk_shape[dim], shape[dim] - first)
        stride *= shape[dim]
    return ChunkTable(grid, index, offset, size, np.zeros(len(index), np.uint32), inline)


def unwritten_table(grid: tuple[int, ...]) -> ChunkTable:
    """Return the table of a variable of which nothing was written."""
    none = np.zeros(0, np.int64)
    return ChunkTable(grid, none, none, none, np.zeros(0, np.uint32))


def unplaced_table(grid: tuple[int, ...]) -> ChunkTable:
    """Return the table of chunks that only the HDF5 library finds: all are there, and none has an offset or a size."""
    index = np.arange(math.prod(grid), dtype=np.int64)
    return ChunkTable(grid, index, np.full(len(index), -1, np.int64), np.zeros_like(index), np.zeros(len(index), np.uint32))


def no_such_variable(uri: str, name: str, names: Sequence[str]) -> VariableNotFoundError:
    """Return the error for a variable that `uri` does not have, with the names that are near or all there are."""
    lower = {known.lower(): known for known in names}
    near = [lower[match] for match in difflib.get_close_matches(name.lower(), list(lower), n=3, cutoff=0.5)]
    near += [known for known in names if known.split("/")[-1] == name.rsplit("/", maxsplit=1)[-1] and known not in near]
    if near:
        advice = f"did you mean {' or '.join(map(repr, near))}?"
    else:
        listed = ", ".join(names[:12]) + (", …" if len(names) > 12 else "")
        advice = f"it has: {listed}" if names else "it has no variables"
    return VariableNotFoundError(f"{uri}: no variable {name!r}; {advice}")
