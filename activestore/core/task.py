"""The two values that travel: the task that goes to a chunk, and the partial result that comes back."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from activestore.core.codecs.decode import Codec
from activestore.core.conditions import Condition
from activestore.core.missing import Missing
from activestore.core.packing import Packing
from activestore.core.selection import Region

__all__ = [
    "UNWRITTEN",
    "Array",
    "ChunkPartial",
    "ChunkTask",
    "ChunkValues",
    "Component",
    "Grouping",
    "Placement",
    "State",
    "TaskTemplate",
]

Array = npt.NDArray[Any]
"""An array of any type of numbers."""

Placement = tuple[slice | tuple[int, ...], ...]
"""Where a partial belongs in the result: positions along each dimension."""


UNWRITTEN = (-1, 0)
"""Offset and size of a small chunk that was never written, among others that were: it is full of the fill value."""

State = tuple[Array, ...]
"""What a component knows of a part of the data; reduced dimensions have the length 1."""


@dataclass(slots=True)
class ChunkValues:
    """The wanted numbers of one chunk, as components see them."""

    values: Array
    """The numbers, in native byte order, with the dimensions of the variable."""
    invalid: npt.NDArray[np.bool_] | None
    """Where they are missing; None where they nowhere are. What `values` holds there means nothing."""
    axes: tuple[int, ...]
    """The dimensions to be reduced."""
    count: npt.NDArray[np.int64]
    """How many values are valid under each cell of the result."""
    accumulator: str
    """NumPy type that sums are kept in."""
    placement: Placement
    """Where the numbers lie in the selection."""
    selected: tuple[int, ...]
    """Shape of the selection."""

    def filled(self, number: float) -> Array:
        """Return the values with `number` wherever they are missing, in place."""
        if self.invalid is not None:
            if not self.values.flags.writeable:
                self.values = self.values.copy()
            np.copyto(self.values, self.values.dtype.type(number), where=self.invalid)
        return self.values

    def linear_positions(self) -> npt.NDArray[np.int64]:
        """Return the position of each value in the reduced part of the selection, counted in C order."""
        total = np.zeros((1,) * self.values.ndim, np.int64)
        stride = 1
        for axis in reversed(self.axes):
            length, part = self.selected[axis], self.placement[axis]
            # Not all of the positions: there may be far more of them than this chunk has.
            along = np.arange(*part.indices(length), dtype=np.int64) if isinstance(part, slice) else np.array(part, np.int64)
            shape = [1] * self.values.ndim
            shape[axis] = len(along)
            total = total + along.reshape(shape) * stride
            stride *= length
        return total


@dataclass(frozen=True, slots=True)
class Component:
    """One thing to be known of the data, and how it is found chunk by chunk."""

    name: str
    """"sum", "min", "max", "moments", …"""
    chunk: Callable[[ChunkValues], State]
    """Makes the state of one chunk."""
    combine: Callable[[State, State, npt.NDArray[np.int64], npt.NDArray[np.int64]], State]
    """Joins the states of two parts, given how many values are valid in each."""
    unpack: Callable[[State, Packing, npt.NDArray[np.int64]], State] | None
    """Makes the state of the values from that of the stored numbers; None where only unpacked numbers will do."""
    ufunc: np.ufunc | None = None
    """What joins two states of floats, or of truth values, number by number; None where `combine` needs to know more."""


@dataclass(frozen=True, slots=True)
class TaskTemplate:
    """What all tasks of a run have in common; plain values."""

    uri: str
    """Address of the source."""
    variable: str
    """Full name of the variable."""
    dtype: str
    """NumPy type of the stored numbers, byte order first: "<f4"."""
    missing: Missing
    """Which stored numbers are missing."""
    skipna: bool
    """Whether NaN is missing."""
    packing: Packing | None
    """Set where the kernel has to unpack the numbers; None where components are unpacked afterwards."""
    axes: tuple[int, ...]
    """Dimensions of the variable that are reduced, ascending."""
    components: tuple[Component, ...]
    """The wanted components; a backend elsewhere is sent their names."""
    accumulator: str
    """NumPy type that sums are kept in: "f8", "i8" or "u8"."""
    fill: bytes
    """The stored number of cells that were never written."""
    selected: tuple[int, ...]
    """Shape of the selection, dropped dimensions included."""
    condition: Condition | None = None
    """What values have to satisfy, as they are unpacked, or they count as missing; None for nothing."""
    value_dtype: str | None = None
    """NumPy type that the numbers, unpacked, are turned into before they are reduced; None where they keep theirs."""


@dataclass(frozen=True, slots=True)
class Grouping:
    """How the wanted positions of a chunk fall into groups along one of the reduced dimensions.

    Groups are numbered from 0 among those that the chunk has, in the order in which the result has them.
    """

    axis: int
    """The dimension."""
    labels: tuple[int, ...]
    """The group of each run of positions; every group of the chunk is among them."""
    lengths: tuple[int, ...]
    """How many positions each run has."""
    at: slice | tuple[int, ...]
    """Which groups of the result these are: who computes the task need not know."""

    @property
    def count(self) -> int:
        """How many groups the chunk has."""
        return max(self.labels) + 1


@dataclass(frozen=True, slots=True, repr=False)
class ChunkTask:
    """One chunk's work: numbers, strings and tuples, and no credentials."""

    template: TaskTemplate
    """What it shares with the other tasks of the run."""
    sequence: int
    """Its place in grid order: partials are combined in this order."""
    chunk: tuple[int, ...]
    """Position of the chunk in the grid."""
    origin: tuple[int, ...]
    """Position of the chunk's first cell in the variable."""
    shape: tuple[int, ...]
    """Shape of the chunk as stored."""
    extent: tuple[int, ...] | None
    """How far along each dimension the chunk holds data, the rest being fill; None where it is full."""
    offset: int | None
    """Where its bytes begin; None where it was never written, -1 where only the HDF5 library knows."""
    size: int
    """Bytes as stored."""
    pieces: tuple[tuple[int, int], ...] | None
    """Offset and size of each of the small chunks that are read together, one after the other along the first dimension, those
    that were never written being `UNWRITTEN`; `chunk` is that of the first, `offset` that of the first that was written, `size`
    that of all. None where the task is one chunk."""
    codecs: tuple[Codec, ...]
    """What was done to the bytes, in the writer's order; skipped filters are left out."""
    through_hdf5: bool
    """Whether only the HDF5 library can read it."""
    inline: bytes | None
    """The bytes themselves, where the file keeps them among its metadata."""
    region: Region
    """The wanted part of the chunk."""
    placement: Placement
    """Where that part lies in the selection."""
    first: bool
    """Whether it is the first chunk, in grid order, of the cells of the result that it reaches; false with groups."""
    groups: tuple[Grouping, ...] = ()
    """How the wanted part falls into groups, along each dimension that has some, in the order of the dimensions."""
    file: int = 0
    """Which of the files of a joined plan it is of."""

    def __repr__(self) -> str:
        return f"<ChunkTask {self.sequence}: {self.describe()}>"

    def describe(self, piece: int = 0) -> str:
        """Return what a message says of this chunk, or of one of the small chunks: file, variable, chunk and offset."""
        offset, size = (self.offset, self.size) if self.pieces is None else self.pieces[piece]
        chunk = (self.chunk[0] + piece, *self.chunk[1:]) if piece else self.chunk
        where = "" if offset is None or offset < 0 else f" (offset {offset}, {size} bytes)"
        return f"{self.template.uri}: variable {self.template.variable!r}, chunk {chunk}{where}"

    @property
    def chunks(self) -> int:
        """How many chunks it stands for."""
        return 1 if self.pieces is None else len(self.pieces)

    @property
    def ranges(self) -> tuple[tuple[int, int], ...]:
        """Offset and size of the stored bytes of each of its chunks; none where none can be decoded as they are."""
        if self.offset is None or self.through_hdf5 or self.inline is not None:
            return ()
        if self.pieces is None:
            return ((self.offset, self.size),)
        return tuple(piece for piece in self.pieces if piece != UNWRITTEN) if UNWRITTEN in self.pieces else self.pieces

    @property
    def unwritten(self) -> int:
        """How many of its chunks were never written."""
        return int(self.offset is None) if self.pieces is None else self.pieces.count(UNWRITTEN)

    @property
    def group_counts(self) -> dict[int, int]:
        """How many groups the wanted part has along each dimension that has some; all other reduced ones are one group."""
        return {grouping.axis: grouping.count for grouping in self.groups}

    @property
    def nbytes(self) -> int:
        """Bytes of the decoded chunk."""
        return math.prod(self.shape) * np.dtype(self.template.dtype).itemsize


@dataclass(frozen=True, slots=True, eq=False)
class ChunkPartial:
    """What a chunk's task gives back: components, never a final result.

    Reduced dimensions have the length 1; those with groups have one place for each group of the chunk.
    """

    sequence: int
    """The task's place in grid order."""
    states: Mapping[str, State]
    """Each component's state."""
    count: npt.NDArray[np.int64]
    """How many values are valid under each cell."""
    moved: int = 0
    """Bytes of the answer, where it came over a network."""
