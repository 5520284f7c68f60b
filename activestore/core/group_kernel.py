"""The kernel of groups: a chunk cut into blocks, each of which is reduced by a few calls of NumPy however many groups it has.

Along a dimension, all groups of the same size form one block if their positions are spaced evenly: then they are a view of the
chunk with one dimension more. If not, they are copied side by side, or reduced one by one where they are large.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from activestore.core.selection import Slice
from activestore.core.task import Array, ChunkTask, Grouping, State

__all__ = ["Block", "assembled", "assembled_states", "blocks", "group_tasks", "placed"]

_LONGEST_KEPT = 4096
"""Positions along a dimension whose groups are kept for the next chunk."""
_MOST = 1 << 62
_SHORT = 32
"""Positions of a group along the last dimension up to which it pays to copy a block, so that they are not that any more."""
_LARGE = 1 << 14
"""Numbers of a group from which a call of NumPy for it alone costs little."""

Answer = tuple[dict[str, State], npt.NDArray[np.int64]]
"""Components' states, and counts."""


@dataclass(frozen=True, slots=True, eq=False)
class _Run:
    """Groups of one size along one dimension."""

    groups: slice | npt.NDArray[np.int64]
    """Their numbers."""
    members: slice | npt.NDArray[np.int64]
    """All of their positions."""
    count: int
    """How many groups they are."""
    size: int
    """How many positions each has."""
    groups_first: bool
    """Whether the positions of a group lie side by side among `members`; if not, the groups take turns."""


def _runs(labels: tuple[int, ...], lengths: tuple[int, ...], *, apart: int) -> tuple[_Run, ...]:
    """Return the groups along a dimension; those that chunks have in common are worked out once, if they are not long."""
    find = _found_runs if sum(lengths) <= _LONGEST_KEPT else _found_runs.__wrapped__
    return find(labels, lengths, apart=apart)


@lru_cache(maxsize=256)
def _found_runs(labels: tuple[int, ...], lengths: tuple[int, ...], *, apart: int) -> tuple[_Run, ...]:
    """Return the groups along a dimension, those of one size together.

    Parameters:
        labels: The group of each run of positions.
        lengths: How many positions each has.
        apart: Size from which groups are better reduced one by one than copied side by side.
    """
    of_position = np.repeat(np.array(labels, np.int64), np.array(lengths, np.int64))
    order = np.argsort(of_position, kind="stable")
    sizes = np.bincount(of_position)
    starts = np.cumsum(sizes) - sizes
    found: list[_Run] = []
    for size in np.unique(sizes).tolist():
        groups = np.flatnonzero(sizes == size)
        members = order[starts[groups][:, None] + np.arange(size)]
        # In the order of their positions: a reversed selection meets the groups from the last to the first.
        rows = np.argsort(members[:, 0])
        found += _runs_of_one_size(groups[rows], members[rows], apart=size >= apart)
    return tuple(found)


def _runs_of_one_size(groups: npt.NDArray[np.int64], members: npt.NDArray[np.int64], *, apart: bool) -> Iterator[_Run]:
    """Yield groups of one size, whose positions are the rows of `members`: all together, or one by one."""
    count, size = members.shape
    numbers = _as_slice(groups)
    for matrix, groups_first in ((members, True), (members.T, False)):
        places = _as_slice(matrix.reshape(-1))
        if isinstance(places, slice) and places.step > 0:
            yield _Run(numbers, places, count, size, groups_first)
            return
    if not apart:
        yield _Run(numbers, members.reshape(-1), count, size, groups_first=True)
        return
    for group, row in zip(groups.tolist(), members, strict=True):
        yield _Run(slice(group, group + 1), _as_slice(row), 1, size, groups_first=True)


def _as_slice(numbers: npt.NDArray[np.int64]) -> slice | npt.NDArray[np.int64]:
    """Return numbers as a slice if they are evenly spaced."""
    first, last = int(numbers[0]), int(numbers[-1])
    step = int(numbers[1]) - first if len(numbers) > 1 else 1
    if step == 0 or last != first + step * (len(numbers) - 1) or bool(np.any(np.diff(numbers) != step)):
        return numbers
    return slice(first, last + 1 if step > 0 else last - 1 if last else None, step)


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """A part of a chunk that holds whole groups, as many along each dimension; it may have dimensions more than the chunk."""

    runs: tuple[tuple[int, _Run], ...]
    """The dimensions that are cut, and the groups along each."""
    shape: tuple[int, ...]
    """Its lengths: a dimension of several groups has become two."""
    axes: tuple[int, ...]
    """The dimensions of the block that are reduced."""
    answer: tuple[int, ...]
    """Lengths of its states, with the chunk's dimensions."""
    where: Any  # Any: what indexes an array
    """Where these lie among the states of the chunk."""
    members_first: bool = False
    """Whether the last dimension of `shape`, the positions of small groups, is moved to the front of the block."""

    def cut(self, array: Array) -> Array:
        """Return the block of an array of the chunk's shape: a view where it can be."""
        index: list[slice] = [slice(None)] * array.ndim
        for axis, run in self.runs:
            if isinstance(run.members, slice):
                index[axis] = run.members
        array = array[tuple(index)]
        for axis, run in self.runs:
            if not isinstance(run.members, slice):
                array = np.take(array, run.members, axis)
        array = array.reshape(self.shape)
        # NumPy reduces row by row: of rows of a few numbers, most of the time would go into getting from one to the next.
        return np.ascontiguousarray(np.moveaxis(array, -1, 0)) if self.members_first else array


def blocks(shape: tuple[int, ...], axes: Sequence[int], groups: Sequence[Grouping]) -> Iterator[Block]:
    """Yield the blocks of a chunk's wanted part; together they hold each of its groups once.

    Parameters:
        shape: Shape of that part.
        axes: Its dimensions that are reduced, ascending, those with groups among them.
        groups: The groups along these.

    Examples:
        >>> rows = Grouping(0, (0, 1, 2), (2, 2, 1), slice(0, 3))
        >>> [(block.shape, block.axes, block.answer) for block in blocks((5, 3), (0, 1), [rows])]
        [((1, 3), (0, 1), (1, 1)), ((2, 2, 3), (1, 2), (2, 1))]
    """
    along = []
    for grouping in groups:
        others = math.prod(shape) // shape[grouping.axis]
        for other in groups:
            others = others if other is grouping else max(1, others // other.count)
        along.append([(grouping.axis, run) for run in _runs(grouping.labels, grouping.lengths, apart=-(-_LARGE // others))])
    for runs in itertools.product(*along):
        yield _block(shape, axes, runs)


def _block(shape: tuple[int, ...], axes: Sequence[int], runs: tuple[tuple[int, _Run], ...]) -> Block:
    lengths: list[int] = []
    reduced: list[int] = []
    answer: list[int] = []
    where: list[Any] = []  # Any: what indexes an array
    cut = dict(runs)
    for axis, length in enumerate(shape):
        run = cut.get(axis)
        answer.append(1 if axis in axes else length)
        where.append(slice(None))
        if run is None:
            reduced += [len(lengths)] if axis in axes else []
            lengths.append(length)
            continue
        answer[axis], where[axis] = run.count, run.groups
        if run.count == 1:
            reduced.append(len(lengths))
            lengths.append(run.size)
        else:
            reduced.append(len(lengths) + run.groups_first)
            lengths += [run.count, run.size] if run.groups_first else [run.size, run.count]
    last = len(lengths) - 1
    short = last in reduced and len(lengths) > len(shape) and lengths[last] < _SHORT and cut.get(len(shape) - 1) is not None
    axes = (0, *[axis + 1 for axis in reduced if axis != last]) if short else tuple(reduced)
    return Block(runs, tuple(lengths), axes, tuple(answer), _index(where, answer), members_first=short)


def _index(where: list[Any], lengths: list[int]) -> Any:  # Any: what indexes an array
    if all(isinstance(one, slice) for one in where):
        return tuple(where)
    return np.ix_(
        *[
            one if not isinstance(one, slice) else np.arange(n) if one.start is None else np.arange(*one.indices(_MOST))
            for one, n in zip(where, lengths, strict=True)
        ]
    )


def group_tasks(task: ChunkTask, most: int) -> list[tuple[Any, ChunkTask]] | None:  # Any: what indexes an array
    """Return a task for each group of one, and where its states belong among those of the whole; positions are not kept.

    None if there are more than `most`, or one whose positions are not spaced evenly.
    """
    if math.prod(task.group_counts.values()) > most:
        return None
    choices = []
    for grouping in task.groups:
        part, of_position = task.region[grouping.axis], np.repeat(grouping.labels, grouping.lengths)
        members = [_as_slice(np.flatnonzero(of_position == group)) for group in range(grouping.count)]
        if not isinstance(part, Slice) or not all(isinstance(one, slice) for one in members):
            return None
        choices.append([(grouping.axis, group, _within(part, one)) for group, one in enumerate(members)])  # type: ignore[arg-type]
    found = []
    for chosen in itertools.product(*choices):
        region, where = list(task.region), [slice(None)] * len(task.region)
        for axis, group, inside in chosen:
            region[axis], where[axis] = inside, slice(group, group + 1)
        found.append((tuple(where), replace(task, region=tuple(region), groups=())))
    return found


def _within(part: Slice, chosen: slice) -> Slice:
    """Return the positions `chosen`, ascending, among those of a part of a chunk."""
    numbers = range(part.start, part.stop, part.step)[chosen]
    return Slice(numbers.start, numbers[-1] + 1, numbers.step if len(numbers) > 1 else 1)


def assembled(shape: tuple[int, ...], parts: Sequence[tuple[Any, Answer]]) -> Answer:  # Any: what indexes an array
    """Return states and counts of a chunk, given those of its parts and where each belongs.

    Parameters:
        shape: Shape of the states of the whole.
        parts: What indexes them, and the states and counts that belong there, for every part.
    """
    states = assembled_states(shape, [(where, states) for where, (states, _) in parts])
    return states, placed(shape, [(where, count) for where, (_, count) in parts])


def assembled_states(
    shape: tuple[int, ...],
    parts: Sequence[tuple[Any, dict[str, State]]],  # Any: what indexes an array
) -> dict[str, State]:
    """Return the states of a chunk, as `assembled` does."""
    return {
        name: tuple(placed(shape, [(where, states[name][i]) for where, states in parts]) for i in range(len(state)))
        for name, state in parts[0][1].items()
    }


def placed(shape: tuple[int, ...], parts: Sequence[tuple[Any, Array]]) -> Array:  # Any: what indexes an array
    """Return the array of which each of the parts is where it belongs."""
    where, array = parts[0]
    if len(parts) == 1 and all(isinstance(one, slice) and one.step in (None, 1) for one in where):
        return array
    whole = np.empty(shape, np.result_type(*{array.dtype for _, array in parts}))
    for where, array in parts:
        whole[where] = array
    return whole
