"""Groups of positions along a reduced dimension, each of which gives a number of its own: `groupby`, `resample`, `coarsen`.

A request holds the group of every selected position (`AxisGroups`), a task those of its own positions (`Grouping`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from activestore.core.selection import Selection
from activestore.core.task import Component, Grouping
from activestore.errors import ReductionError, SelectionError

__all__ = ["MOST_GROUPS", "AxisGroups", "By", "Groups", "check_groupable", "check_size", "group_selection"]

MOST_GROUPS = 1 << 24
"""Groups that a dimension may have; and cells of a result, if they are more than what was selected."""
_POSITIONED = frozenset({"argmin", "argmax", "values"})
"""Components whose states are about positions in the whole selection."""


@dataclass(frozen=True, slots=True, eq=False)
class Groups:
    """The group of each position along a dimension, where there may be more groups than the labels tell.

    Examples:
        Four groups, the last of them empty; one position is in none:

        >>> Groups([0, 0, 2, 1, -1], 4).count
        4
    """

    labels: Sequence[int] | npt.NDArray[np.integer]
    """The group of each selected position, counted from 0; -1 leaves the position out."""
    count: int | None = None
    """How many groups there are; None for one more than the greatest label. A group without positions is masked."""


_Given = Groups | Sequence[int] | npt.NDArray[np.integer]
By = Mapping[int, _Given] | Mapping[str, _Given] | Mapping[int | str, _Given]
"""The groups along dimensions, by number or name: `Groups`, or the labels alone."""


@dataclass(frozen=True, slots=True, eq=False)
class AxisGroups:
    """The groups along one dimension of a variable, as a request has them; no position is left out."""

    axis: int
    """The dimension of the variable."""
    labels: npt.NDArray[np.int64]
    """The group of each selected position."""
    count: int
    """How many groups there are."""

    def of(self, placement: slice | tuple[int, ...]) -> Grouping:
        """Return how the positions of a task, given by where they lie in the selection, fall into groups.

        Examples:
            >>> months = AxisGroups(0, np.array([0, 0, 1, 1, 1, 3, 3]), 4)
            >>> months.of(slice(1, 6))
            Grouping(axis=0, labels=(0, 1, 2), lengths=(1, 3, 1), at=(0, 1, 3))
        """
        labels = self.labels[placement if isinstance(placement, slice) else np.array(placement, np.int64)]
        first = int(labels[0])
        if len(labels) == 1 or not (labels != first).any():
            return Grouping(self.axis, (0,), (len(labels),), slice(first, first + 1))
        starts = np.flatnonzero(np.concatenate(([True], labels[1:] != labels[:-1])))
        lengths = np.diff(np.append(starts, len(labels)))
        of_runs = labels[starts].tolist()
        # Of the few runs of most tasks, Python's own collections tell this sooner than NumPy.
        present = sorted(set(of_runs))
        local = {label: number for number, label in enumerate(present)}
        return Grouping(self.axis, tuple(local[label] for label in of_runs), tuple(lengths.tolist()), _evenly(present))


def _evenly(numbers: list[int]) -> slice | tuple[int, ...]:
    """Return ascending numbers as a slice if they are evenly spaced."""
    found = range(numbers[0], numbers[-1] + 1, numbers[1] - numbers[0])
    return slice(found.start, found.stop, found.step) if list(found) == numbers else tuple(numbers)


def group_selection(
    selection: Selection, given: Mapping[int, object], dims: Sequence[str]
) -> tuple[Selection, tuple[AxisGroups, ...]]:
    """Return a selection without the positions that are in no group, and the groups of the others.

    Parameters:
        selection: What is selected.
        given: What the user gave for some of its dimensions, by number.
        dims: Their names, for messages.

    Raises:
        SelectionError: Labels are not those of the selected positions, or make no sense.

    Examples:
        >>> part, (groups,) = group_selection(Selection.whole((4, 3)), {0: [-1, 1, 0, 1]}, ("time", "lat"))
        >>> part.shape, groups.labels.tolist(), groups.count
        ((3, 3), [1, 0, 1], 2)
    """
    shape, found = selection.shape, []
    for axis in sorted(given):
        labels, count = _labels(given[axis], shape[axis], dims[axis])
        inside = labels >= 0
        if not inside.all():
            selection = selection[(*[slice(None)] * axis, inside)]
            labels = labels[inside]
        found.append(AxisGroups(selection.kept[axis], labels, count))
    return selection, tuple(found)


def _labels(given: object, length: int, name: str) -> tuple[npt.NDArray[np.int64], int]:
    """Return the labels of the `length` positions along the dimension `name`, and how many groups there are.

    Raises:
        SelectionError: They are no labels of these.
    """
    labels, count = (given.labels, given.count) if isinstance(given, Groups) else (given, None)
    try:
        array = np.asarray(labels)
    except ValueError as error:
        raise SelectionError(f"by: the labels of {name!r} are no sequence of integers ({error})") from None
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
        what = f"an array of {array.dtype} of {array.ndim} dimensions"
        raise SelectionError(f"by: the labels of {name!r} are {what}; give one integer for each position")
    if len(array) != length:
        raise SelectionError(f"by: {len(array)} labels were given for the {length} positions along {name!r}")
    least, greatest = (int(array.min()), int(array.max())) if length else (0, -1)
    if least < -1 or greatest >= MOST_GROUPS:
        raise SelectionError(
            f"by: {name!r} has a label {least if least < -1 else greatest}; they go from -1 to {MOST_GROUPS - 1}"
        )
    return array.astype(np.int64), _count(count, greatest, name)


def _count(given: object, greatest: int, name: str) -> int:
    if given is None:
        return greatest + 1
    if isinstance(given, bool) or not isinstance(given, (int, np.integer)) or not greatest < given <= MOST_GROUPS:
        raise SelectionError(
            f"by: {name!r} cannot have {given!r} groups; labels go up to {greatest}, and there may be {MOST_GROUPS} groups"
        )
    return int(given)


def check_groupable(components: Mapping[str, Component]) -> None:
    """Refuse components that groups have none of.

    Raises:
        ReductionError: There is one.
    """
    odd = sorted(_POSITIONED & components.keys())
    if odd:
        raise ReductionError(
            f"{odd[0]} cannot be taken of groups: positions are those in all of the selection; select each group instead"
        )


def check_size(groups: Sequence[AxisGroups], lengths: Sequence[int], axes: Sequence[int]) -> None:
    """Refuse a result that is larger than what it is made of, and large.

    Parameters:
        groups: The groups that are asked for.
        lengths: How many positions are selected along each dimension.
        axes: The dimensions that are reduced, those with groups among them.

    Raises:
        SelectionError: It is too large.
    """
    counts = {one.axis: one.count for one in groups}
    cells = math.prod(counts.get(axis, 1) if axis in axes else n for axis, n in enumerate(lengths))
    if cells > max(MOST_GROUPS, math.prod(lengths)):
        raise SelectionError(f"by: the result would have {cells:,} numbers, more than are selected; ask for fewer groups")
