"""Selections: which cells of a variable are wanted, and which part of each chunk that is. Integer arithmetic only."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from activestore.errors import SelectionError

__all__ = [
    "ChunkParts",
    "DimensionPart",
    "Points",
    "Positions",
    "Region",
    "Selection",
    "Slice",
    "composed",
    "region_index",
    "region_shape",
    "regular",
]

Positions = range | tuple[int, ...]
"""Positions along one dimension: regular, or a list in any order."""


class Slice(NamedTuple):
    """Regular positions inside a chunk: `start:stop:step` with a positive step."""

    start: int
    stop: int
    step: int


class Points(NamedTuple):
    """Listed positions inside a chunk."""

    at: tuple[int, ...]


Region = tuple[Slice | Points, ...]
"""The wanted part of one chunk: its positions along each dimension, outer-indexed."""


@dataclass(frozen=True, slots=True)
class Selection:
    """Positions along every dimension of a variable, and which dimensions an integer has dropped; composes."""

    positions: tuple[Positions, ...]
    """The wanted positions along each dimension of the variable."""
    dropped: tuple[bool, ...]
    """Dimensions indexed by an integer: they are not in the result."""

    @classmethod
    def whole(cls, shape: Sequence[int]) -> Selection:
        """Return the selection of everything.

        Examples:
            >>> Selection.whole((3, 4)).shape
            (3, 4)
        """
        return cls(tuple(range(length) for length in shape), (False,) * len(shape))

    @property
    def kept(self) -> tuple[int, ...]:
        """The dimensions of the variable that the result has."""
        return tuple(dim for dim, dropped in enumerate(self.dropped) if not dropped)

    @property
    def shape(self) -> tuple[int, ...]:
        """Lengths of the kept dimensions."""
        return tuple(len(self.positions[dim]) for dim in self.kept)

    def __getitem__(self, key: Any) -> Selection:  # Any: whatever NumPy takes as an index
        """Return the part `key` of this selection.

        Parameters:
            key: Integers, slices of any step, one Ellipsis, boolean masks and integer lists, in any mix. Lists and
                masks index each its own dimension ("outer" indexing, as netCDF4-python does).

        Raises:
            SelectionError: It does not fit the dimensions.

        Examples:
            >>> Selection.whole((10, 4))[2:8][::3, [0, 1, 3]].positions
            (range(2, 8, 3), (0, 1, 3))
        """
        kept = self.kept
        positions, dropped = list(self.positions), list(self.dropped)
        for axis, item in enumerate(_expanded(key, self.shape)):
            dim = kept[axis]
            positions[dim], dropped[dim] = _indexed(positions[dim], item, axis)
        return Selection(tuple(positions), tuple(dropped))


def _expanded(key: Any, shape: tuple[int, ...]) -> list[Any]:  # Any: whatever NumPy takes as an index
    """Return one item per dimension: Ellipsis filled in, masks of several dimensions refused."""
    items = list(key) if isinstance(key, tuple) else [key]
    ellipses = [i for i, item in enumerate(items) if item is Ellipsis]
    if len(ellipses) > 1:
        raise SelectionError("a selection can have one '...' only")
    if any(item is None for item in items):
        raise SelectionError("a selection cannot add dimensions (None, np.newaxis); reshape the result instead")
    missing = len(shape) - (len(items) - len(ellipses))
    if missing < 0:
        raise SelectionError(
            f"{len(items) - len(ellipses)} indices were given for {len(shape)} dimensions of the shape {shape}"
        )
    at = ellipses[0] if ellipses else len(items)
    return [*items[:at], *[slice(None)] * missing, *items[at + 1 :]]


def _indexed(positions: Positions, item: Any, axis: int) -> tuple[Positions, bool]:  # Any: one part of an index
    """Return the positions that `item` picks of `positions`, and whether it drops the dimension."""
    length = len(positions)
    if isinstance(item, slice):
        try:
            return positions[item], False
        except (TypeError, ValueError) as error:
            raise SelectionError(f"axis {axis}: {_shown(item)} is not a slice of integers ({error})") from None
    array = np.asarray(item)
    if array.dtype.kind == "b":
        if array.shape != (length,):
            raise SelectionError(f"axis {axis}: a mask of the shape {array.shape} was given for {length} positions")
        return regular(positions, np.flatnonzero(array)), False
    if array.ndim == 0:
        return positions[_position(item, length, axis) : _position(item, length, axis) + 1], True
    if array.ndim != 1 or (array.dtype.kind not in "iu" and array.size):
        raise SelectionError(f"axis {axis}: {item!r} is neither an integer, a slice, a mask nor a list of integers")
    chosen = array.astype(np.int64)
    outside = chosen[(chosen < -length) | (chosen >= length)]
    if outside.size:
        raise SelectionError(f"axis {axis}: position {outside[0]} is outside its {length} positions")
    return regular(positions, np.where(chosen < 0, chosen + length, chosen)), False


def _position(item: Any, length: int, axis: int) -> int:  # Any: one part of an index
    try:
        position = operator.index(item)
    except TypeError:
        raise SelectionError(f"axis {axis}: {item!r} is neither an integer, a slice, a mask nor a list of integers") from None
    if not -length <= position < length:
        raise SelectionError(f"axis {axis}: position {position} is outside its {length} positions")
    return position % length


def _shown(item: slice) -> str:
    step = "" if item.step is None else f":{item.step!r}"
    return f"{'' if item.start is None else repr(item.start)}:{'' if item.stop is None else repr(item.stop)}{step}"


def regular(positions: Positions, chosen: npt.NDArray[np.int64]) -> Positions:
    """Return the chosen positions, as a range where they are evenly spaced."""
    if isinstance(positions, range):
        found = positions.start + chosen * positions.step
    else:
        found = np.asarray(positions, np.int64)[chosen]
    if len(found) < 2:
        return range(int(found[0]), int(found[0]) + 1) if len(found) else range(0)
    step = int(found[1] - found[0])
    if step and bool(np.all(np.diff(found) == step)):
        return range(int(found[0]), int(found[-1]) + (1 if step > 0 else -1), step)
    return tuple(found.tolist())


def composed(positions: Positions, chosen: Positions) -> Positions:
    """Return the positions that those `chosen` of `positions` are.

    Examples:
        >>> composed(range(10, 20, 2), range(4, -1, -2)), composed(range(10, 20, 2), (3, 0, 0))
        (range(18, 8, -4), (16, 10, 10))
    """
    if positions == range(len(positions)):
        return chosen
    if isinstance(positions, range) and isinstance(chosen, range):
        start, step = positions.start, positions.step
        return range(start + chosen.start * step, start + chosen.stop * step, chosen.step * step)
    return regular(positions, np.array(chosen, np.int64))


class DimensionPart(NamedTuple):
    """What is wanted of one row of chunks along one dimension."""

    chunk: int
    """Position of the chunk along the dimension."""
    inside: Slice | Points
    """The wanted positions inside the chunk."""
    outside: slice | tuple[int, ...]
    """Where those lie in the selection, in the same order."""


class ChunkParts:
    """The chunks that a selection touches along one dimension, ascending, in columns; item i is a `DimensionPart`.

    Examples:
        >>> parts = ChunkParts(range(2, 9, 3), 4)
        >>> [(part.chunk, part.inside) for part in parts]
        [(0, Slice(start=2, stop=3, step=1)), (1, Slice(start=1, stop=2, step=1)), (2, Slice(start=0, stop=1, step=1))]
    """

    def __init__(self, positions: Positions, chunk_length: int) -> None:
        """Sort `positions` into chunks of `chunk_length`."""
        self._positions, self._length = positions, chunk_length
        self._order: npt.NDArray[np.int64] | None = None
        if isinstance(positions, range):
            ascending = positions if positions.step > 0 else positions[::-1]
            self.chunks, self._bounds = _cut_range(ascending, chunk_length)
            self._ascending = ascending
        else:
            owner = np.asarray(positions, np.int64) // chunk_length
            self._order = np.argsort(owner, kind="stable")
            self.chunks, first = np.unique(owner[self._order], return_index=True)
            self._bounds = np.append(first, len(owner))

    def __len__(self) -> int:
        return len(self.chunks)

    def __getitem__(self, i: int) -> DimensionPart:
        if not 0 <= i < len(self.chunks):
            raise IndexError(i)
        chunk, first, last = int(self.chunks[i]), int(self._bounds[i]), int(self._bounds[i + 1])
        origin = chunk * self._length
        if self._order is not None:
            where = self._order[first:last].tolist()
            listed = [self._positions[at] - origin for at in where]
            # A list may be regular inside of a chunk: what leaves out whole chunks, or one position in a thousand.
            return DimensionPart(chunk, _evenly(listed) or Points(tuple(listed)), _as_slice(where) or tuple(where))
        start, step = self._ascending[first] - origin, self._ascending.step if last - first > 1 else 1
        inside = Slice(start, self._ascending[last - 1] - origin + 1, step)
        if self._ascending is self._positions:
            return DimensionPart(chunk, inside, slice(first, last, 1))
        top = len(self._ascending) - 1 - first
        below = len(self._ascending) - 1 - last
        return DimensionPart(chunk, inside, slice(top, below if below >= 0 else None, -1))


def _evenly(numbers: list[int]) -> Slice | None:
    """Return numbers as a part of a chunk if they are evenly spaced and ascending."""
    step = numbers[1] - numbers[0] if len(numbers) > 1 else 1
    if step < 1 or numbers[-1] != numbers[0] + step * (len(numbers) - 1):
        return None
    return Slice(numbers[0], numbers[-1] + 1, step) if numbers == list(range(numbers[0], numbers[-1] + 1, step)) else None


def _as_slice(numbers: list[int]) -> slice | None:
    """Return the same as what indexes an array."""
    found = _evenly(numbers)
    return None if found is None else slice(*found)


def _cut_range(ascending: range, chunk_length: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return the chunks that a range touches, and the bounds of each one's run of it."""
    if not ascending:
        return np.zeros(0, np.int64), np.zeros(1, np.int64)
    start, step = ascending.start, ascending.step
    if step <= chunk_length:
        chunks = np.arange(start // chunk_length, ascending[-1] // chunk_length + 1, dtype=np.int64)
    else:
        chunks = np.unique((start + np.arange(len(ascending), dtype=np.int64) * step) // chunk_length)
    ends = -(-((chunks + 1) * chunk_length - start) // step)
    return chunks, np.concatenate(([0], np.minimum(ends, len(ascending))))


def region_shape(region: Region) -> tuple[int, ...]:
    """Return the shape of what `region` picks.

    Examples:
        >>> region_shape((Slice(0, 5, 2), Points((1, 4))))
        (3, 2)
    """
    return tuple(
        len(part.at) if isinstance(part, Points) else max(0, -(-(part.stop - part.start) // part.step)) for part in region
    )


def region_index(region: Region) -> tuple[slice | npt.NDArray[np.int64], ...]:
    """Return what indexes an array of the chunk's shape to pick `region` out of it.

    Examples:
        >>> region_index((Slice(0, 5, 2),))
        (slice(0, 5, 2),)
    """
    if not any(isinstance(part, Points) for part in region):
        return tuple(slice(*part) for part in region)
    return np.ix_(*[np.arange(*part) if isinstance(part, Slice) else np.array(part.at, np.int64) for part in region])
