"""Where the numbers of a lazy array are: parts of other arrays, one after the other; indexed and joined without reading."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt

from activestore.errors import UntraceableError

__all__ = ["Piece", "Pieces", "Positions", "indexed", "joined", "joined_grid", "whole"]

Positions = range | tuple[int, ...]
"""Positions along a dimension, in the order in which they are wanted; not negative."""
_Part = int | slice | npt.NDArray[np.int64]
_EMPTY = slice(0, 0)


@dataclass(frozen=True, slots=True, eq=False)
class Piece:
    """A part of an array: one index for each of its dimensions, that hold for each other as in outer indexing."""

    leaf: Any  # Any: whatever xarray or Dask reads from
    """The array that is read: it has a `shape` and a `dtype`."""
    index: tuple[int | Positions, ...]
    """What of each dimension of `leaf`: one position, which drops the dimension, or several."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Lengths of the dimensions that are kept."""
        return tuple(len(one) for one in self.index if not isinstance(one, int))

    @property
    def key(self) -> tuple[int | slice | list[int], ...]:
        """The index as arrays take it: integers, slices and lists.

        Examples:
            >>> Piece(np.zeros((4, 5, 6)), (2, range(4, -1, -2), (5, 0, 1))).key
            (2, slice(4, None, -2), [5, 0, 1])
        """
        return tuple(
            one if isinstance(one, int) else _as_slice(one) if isinstance(one, range) else list(one) for one in self.index
        )

    def at(self, parts: Sequence[_Part]) -> Piece:
        """Return what `parts`, one for each dimension that is kept, select of it."""
        left = iter(parts)
        return Piece(self.leaf, tuple(one if isinstance(one, int) else _taken(one, next(left)) for one in self.index))

    def dim(self, axis: int) -> int:
        """Return which dimension of `leaf` is the dimension `axis` of the piece."""
        return [dim for dim, one in enumerate(self.index) if not isinstance(one, int)][axis]


@dataclass(frozen=True, slots=True, eq=False)
class Pieces:
    """An array as pieces of other arrays, that lie one after the other along one of its dimensions."""

    pieces: tuple[Piece, ...]
    """At least one; each has the dimensions of the array."""
    dim: int | None
    """The dimension of the array along which they lie; None if there is one piece only."""
    shape: tuple[int, ...]
    """Lengths of the dimensions of the array."""

    @property
    def lengths(self) -> tuple[int, ...]:
        """How long each piece is along `dim`."""
        return () if self.dim is None else tuple(piece.shape[self.dim] for piece in self.pieces)


def whole(leaf: Any) -> Pieces:  # Any: as in Piece
    """Return all of an array.

    Examples:
        >>> whole(np.zeros((2, 3))).pieces[0].index
        (range(0, 2), range(0, 3))
    """
    shape = tuple(int(length) for length in leaf.shape)
    return Pieces((Piece(leaf, tuple(map(range, shape))),), None, shape)


def indexed(array: Pieces, key: Any) -> Pieces:  # Any: whatever is an index
    """Return what `array[key]` is, if it is the same in NumPy's indexing and in outer indexing.

    Raises:
        UntraceableError: It is not, or adds dimensions, or does not fit.

    Examples:
        >>> part = indexed(whole(np.zeros((9, 5))), (slice(8, None, -3), [4, 0]))
        >>> part.shape, part.pieces[0].key
        ((3, 2), (slice(8, 1, -3), slice(4, None, -4)))
    """
    parts = _parts(key, array.shape)
    try:
        if array.dim is None:
            piece = array.pieces[0].at(parts)
            return Pieces((piece,), None, piece.shape)
        chosen = _chosen(array.lengths, parts[array.dim])
        pieces = tuple(array.pieces[i].at([*parts[: array.dim], part, *parts[array.dim + 1 :]]) for i, part in chosen)
    except (IndexError, TypeError, ValueError):
        raise UntraceableError(f"the index {key!r} does not fit the shape {array.shape}") from None
    dropped = sum(isinstance(part, int) for part in parts[: array.dim])
    return _side_by_side(pieces, array.dim - dropped)


def joined(arrays: Sequence[Pieces], axis: int) -> Pieces:
    """Return arrays one after the other along a dimension; what are neighbours in the same array becomes one piece.

    Raises:
        UntraceableError: The pieces then lie along more than one dimension, or the arrays do not fit together.
    """
    if len(arrays) == 1:
        return arrays[0]
    others = {array.shape[:axis] + array.shape[axis + 1 :] for array in arrays}
    if len(others) != 1:
        raise UntraceableError(f"blocks of different shapes lie side by side: {sorted(others)}")
    arrays = [array for array in arrays if array.shape[axis]] or arrays[:1]
    if all(array.dim in (None, axis) for array in arrays):
        return _side_by_side(_merged(list(chain.from_iterable(array.pieces for array in arrays)), axis), axis)
    if len({(array.dim, array.lengths) for array in arrays}) == 1:
        columns = [_merged(column, axis) for column in zip(*(array.pieces for array in arrays), strict=True)]
        if arrays[0].dim is not None and all(len(column) == 1 for column in columns):
            return _side_by_side(tuple(column[0] for column in columns), arrays[0].dim)
    raise UntraceableError("it is put together from several arrays along more than one dimension")


def joined_grid(grid: Any, axis: int = 0) -> Pieces:  # Any: lists of lists of … of arrays, as deep as these have dimensions
    """Return the array whose blocks are in nested lists, as `numpy.block` does.

    Raises:
        UntraceableError: As `joined` does; or the lists are not as deep as the blocks have dimensions.
    """
    if isinstance(grid, Pieces):
        if len(grid.shape) != axis:
            raise UntraceableError("a dimension is added")
        return grid
    return joined([joined_grid(one, axis + 1) for one in grid], axis)


def _side_by_side(pieces: tuple[Piece, ...], dim: int) -> Pieces:
    shape = pieces[0].shape
    if len(pieces) == 1:
        return Pieces(pieces, None, shape)
    length = sum(piece.shape[dim] for piece in pieces)
    return Pieces(pieces, dim, (*shape[:dim], length, *shape[dim + 1 :]))


def _merged(pieces: Sequence[Piece], axis: int) -> tuple[Piece, ...]:
    """Return the pieces, with those neighbours made one that differ along `axis` only."""
    runs: list[list[Piece]] = []
    dim = -1
    for piece in pieces:
        if runs and _are_neighbours(runs[-1][0], piece, dim):
            runs[-1].append(piece)
        else:
            runs.append([piece])
            dim = piece.dim(axis)
    return tuple(_one_of(run, axis) for run in runs)


def _are_neighbours(one: Piece, other: Piece, dim: int) -> bool:
    return (
        one.leaf is other.leaf
        and not isinstance(other.index[dim], int)
        and one.index[:dim] == other.index[:dim]
        and one.index[dim + 1 :] == other.index[dim + 1 :]
    )


def _one_of(run: list[Piece], axis: int) -> Piece:
    first = run[0]
    if len(run) == 1:
        return first
    dim = first.dim(axis)
    along = _end_to_end([one for piece in run if not isinstance(one := piece.index[dim], int)])
    return Piece(first.leaf, (*first.index[:dim], along, *first.index[dim + 1 :]))


def _end_to_end(parts: Sequence[Positions]) -> Positions:
    """Return positions one after the other; a range if they are one."""
    start = step = last = None
    for part in parts:
        if not isinstance(part, range):
            break
        if not part:
            continue
        steps = {part.step} if len(part) > 1 else set()
        if last is not None:
            steps |= {part[0] - last} | ({step} if step is not None else set())
        if len(steps) > 1 or 0 in steps:
            break
        start = part[0] if start is None else start
        step, last = next(iter(steps), None), part[-1]
    else:
        return range(0) if start is None or last is None else _range(start, last, step or 1)
    return _positions(np.concatenate([np.array(part, np.int64) for part in parts]))


def _range(first: int, last: int, step: int) -> range:
    return range(first, last + (1 if step > 0 else -1), step)


def _positions(found: npt.NDArray[np.int64]) -> Positions:
    """Return positions as a range if they are one, for there may be many."""
    if not found.size:
        return range(0)
    first, last = int(found[0]), int(found[-1])
    step = int(found[1]) - first if found.size > 1 else 1
    if step and (found.size < 3 or bool((np.diff(found) == step).all())):
        return _range(first, last, step)
    return tuple(found.tolist())


def _as_slice(positions: range) -> slice:
    if not positions:
        return _EMPTY
    stop = positions[-1] + (1 if positions.step > 0 else -1)
    return slice(positions.start, stop if stop >= 0 else None, positions.step)


def _taken(base: Positions, part: _Part) -> int | Positions:
    if isinstance(part, (int, slice)):
        return base[part]
    return _listed(base, part.tobytes())


@lru_cache(4096)  # one list is taken from many blocks that differ along other dimensions only
def _listed(base: Positions, part: bytes) -> Positions:
    return _positions(np.array(base, np.int64)[np.frombuffer(part, np.int64)])


def _parts(key: Any, shape: tuple[int, ...]) -> list[_Part]:  # Any: whatever is an index
    """Return the part that an index takes of each dimension."""
    given = list(key) if isinstance(key, tuple) else [key]
    if len(given) == len(shape) and all(type(one) is slice for one in given):
        return given
    if any(one is None for one in given):
        raise UntraceableError("a dimension is added")
    dots = [i for i, one in enumerate(given) if one is Ellipsis]
    missing = len(shape) - (len(given) - len(dots))
    if missing < 0 or len(dots) > 1:
        raise UntraceableError(f"the index {key!r} does not fit the shape {shape}")
    at = dots[0] if dots else len(given)
    given[at : at + 1] = [slice(None)] * missing
    parts = [_part(one, length) for one, length in zip(given, shape, strict=True)]
    lists = sum(isinstance(part, np.ndarray) for part in parts)
    if lists > 1 or (lists and any(isinstance(part, int) for part in parts)):
        raise UntraceableError(f"the index {key!r} has several lists, which NumPy takes for points")
    return parts


def _part(one: Any, length: int) -> _Part:  # Any: whatever is an index
    if isinstance(one, slice):
        return one
    if isinstance(one, (list, np.ndarray)) and np.ndim(one) == 1:
        found = np.asarray(one)
        if found.dtype.kind == "b" and len(found) == length:
            return np.nonzero(found)[0]
        if found.dtype.kind in "iu" or not found.size:
            return found.astype(np.int64)
    elif not isinstance(one, (bool, np.bool_)):
        try:
            return operator.index(one)
        except TypeError:
            pass
    raise UntraceableError(f"it is indexed by {type(one).__name__}")


def _chosen(lengths: tuple[int, ...], part: _Part) -> list[tuple[int, _Part]]:
    """Return which pieces, and what of each, an index takes of pieces of these lengths."""
    ends = np.cumsum(lengths)
    positions = np.arange(ends[-1])[part]
    owners = np.searchsorted(ends, positions, side="right")
    within = positions - (ends - np.array(lengths))[owners]
    if isinstance(part, int):
        return [(int(owners), int(within))]
    if not positions.size:
        return [(0, _EMPTY)]
    starts = [0, *(np.flatnonzero(np.diff(owners)) + 1).tolist()]
    return [(int(owners[start]), one) for start, one in zip(starts, np.split(within, starts[1:]), strict=True)]
