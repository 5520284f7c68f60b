"""Variables of several files, joined along one dimension: one plan for all of them, with a plan for each below it.

The tasks of every file have their place in the joint selection, so that one aggregator takes them all.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from activestore.core.groups import AxisGroups
from activestore.core.missing import Missing
from activestore.core.plan import Plan, ReductionRequest, Tally, plan, plan_of_file
from activestore.core.reductions import is_known, states_as, unpack_states
from activestore.core.selection import Positions, Selection, composed, regular
from activestore.core.task import ChunkPartial, ChunkTask, Component, Placement, TaskTemplate
from activestore.core.variable import Variable, grid_shape, unwritten_table

__all__ = ["JoinedPlan", "Piece", "cut", "joined_plan", "joined_variable"]


@dataclass(frozen=True, slots=True)
class Piece:
    """What a joint selection takes of one part."""

    part: int
    """Which part it is of."""
    selection: Selection
    """What is wanted of the part's variable."""
    places: Positions
    """Where that lies along the joint dimension of the selection, in the same order."""


def cut(bases: Sequence[Selection], dim: int, selection: Selection) -> list[Piece]:
    """Return what `selection` takes of each part, without the parts that it does not touch; one at least.

    Parameters:
        bases: What is joined of each part's variable.
        dim: The dimension along which they lie one after the other.
        selection: Positions among what is joined.

    Examples:
        >>> bases = [Selection.whole((3,)), Selection.whole((4,))]
        >>> [(one.part, one.selection.positions, one.places) for one in cut(bases, 0, Selection.whole((7,))[::-2])]
        [(0, (range(2, -2, -2),), range(2, 4)), (1, (range(3, -1, -2),), range(0, 2))]
    """
    ends = np.cumsum([len(base.positions[dim]) for base in bases])
    found = []
    for part, inside, places in _shares(selection.positions[dim], ends):
        chosen = (*selection.positions[:dim], inside, *selection.positions[dim + 1 :])
        positions = tuple(composed(*pair) for pair in zip(bases[part].positions, chosen, strict=True))
        found.append(Piece(part, Selection(positions, selection.dropped), places))
    return found


def _shares(positions: Positions, ends: npt.NDArray[np.int64]) -> list[tuple[int, Positions, Positions]]:
    """Return, of each part that has some of the positions: its number, these counted in it, and where they are listed."""
    at = as_array(positions)
    if not len(at):
        return [(0, range(0), range(0))]
    owner = np.searchsorted(ends, at, side="right")
    order = np.argsort(owner, kind="stable")
    bounds = np.flatnonzero(np.diff(owner[order], prepend=-1, append=len(ends)))
    found: list[tuple[int, Positions, Positions]] = []
    for first, last in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
        places, part = order[first:last], int(owner[order[first]])
        start = int(ends[part - 1]) if part else 0
        if isinstance(positions, range):
            # A range crosses each part once.
            lowest = int(places[0])
            own = positions[lowest : lowest + len(places)]
            inside: Positions = range(own.start - start, own.stop - start, own.step)
            found.append((part, inside, range(lowest, lowest + len(places))))
        else:
            found.append((part, regular(range(int(ends[part]) - start), at[places] - start), tuple(places.tolist())))
    return found


def as_array(positions: Positions) -> npt.NDArray[np.int64]:
    """Return positions as an array of NumPy's."""
    if isinstance(positions, range):
        # Much faster than item by item.
        return np.arange(positions.start, positions.stop, positions.step, dtype=np.int64)
    return np.array(positions, np.int64)


def joined_variable(variables: Sequence[Variable], bases: Sequence[Selection], dim: int) -> Variable:
    """Return the variable that several are when joined; it has the attributes of the first, and no chunk table."""
    first = variables[0]
    lengths = [len(positions) for positions in bases[0].positions]
    lengths[dim] = sum(len(base.positions[dim]) for base in bases)
    shape = tuple(lengths)
    uri = first.uri if len(variables) == 1 else f"{first.uri} … and {len(variables) - 1:,} more"
    table = dataclasses.replace(unwritten_table(grid_shape(shape, first.chunk_shape)), partial=True)
    joined = dataclasses.replace(first, uri=uri, shape=shape, extent=shape, table=table)
    if _are_alike(variables):
        return joined
    dtype = np.result_type(*{variable.value_dtype for variable in variables})
    return dataclasses.replace(joined, dtype=dtype, missing=Missing(), packing=None, fill=bytes(dtype.itemsize))


def _are_alike(variables: Sequence[Variable]) -> bool:
    """Return whether the stored numbers of all mean the same, whatever their byte order and what is missing."""
    return len({(variable.dtype.newbyteorder("="), variable.packing) for variable in variables}) == 1


@dataclass(frozen=True, slots=True, repr=False)
class JoinedPlan:
    """A plan of several files: theirs one after the other, each task with its place in the joint selection."""

    request: ReductionRequest
    """What was asked for, of the joint variable."""
    template: TaskTemplate
    """What the result is of: the joint selection, the types of the joint values."""
    dim: int
    """The dimension of the variable along which the files are joined."""
    plans: tuple[Plan, ...]
    """The plan of each file that the selection touches."""
    pieces: tuple[Piece, ...]
    """What each of them is a plan of."""
    alike: bool
    """Whether the stored numbers of all files mean the same."""
    starts: tuple[int, ...]
    """How many chunks come before those of each file."""

    @property
    def variable(self) -> Variable:
        """The joint variable."""
        return self.request.variable

    @property
    def files(self) -> int:
        """How many files are touched."""
        return len(self.plans)

    def __len__(self) -> int:
        return self.starts[-1] + len(self.plans[-1])

    def __repr__(self) -> str:
        names = ", ".join(reduction.name for reduction in self.request.reductions)
        return f"<JoinedPlan: {names} of {self.variable.name!r}, {len(self):,} chunks of {self.files:,} files>"

    def tasks(self, *, joined: int = 0) -> Iterator[ChunkTask]:
        """Yield the task of every touched chunk, file after file; `joined` as for `Plan.tasks`."""
        for file in range(self.files):
            yield from self.tasks_of(file, joined=joined)

    def tasks_of(self, file: int, *, joined: int = 0) -> Iterator[ChunkTask]:
        """Yield the tasks of one file, with their places in the joint selection."""
        places, start = self.pieces[file].places, self.starts[file]
        starts = file == 0 or self.dim not in self.template.axes
        for task in self.plans[file].tasks(joined=joined):
            yield dataclasses.replace(
                task,
                file=file,
                sequence=start + task.sequence,
                placement=_placed(task.placement, self.dim, places),
                first=starts and task.first,
            )

    def tally(self, *, joined: int = 0) -> Tally:
        """Return what the plan amounts to, without any read; `joined` as for `tasks`."""
        tallies = [plan.tally(joined=joined) for plan in self.plans]
        return Tally(
            chunks=sum(tally.chunks for tally in tallies),
            unwritten=sum(tally.unwritten for tally in tallies),
            through_hdf5=sum(tally.through_hdf5 for tally in tallies),
            bytes_to_read=sum(tally.bytes_to_read for tally in tallies),
            cells=sum(tally.cells for tally in tallies),
        )

    def in_common(self, task: ChunkTask, partial: ChunkPartial) -> ChunkPartial:
        """Return a partial result with its states as they are of the joint values: unpacked, and of the common type."""
        if self.alike:
            return partial
        own, states = self.plans[task.file], partial.states
        if own.variable.packing is not None and own.template.packing is None:
            states = unpack_states(self.template.components, states, own.variable.packing, partial.count)
        states = states_as(states, self.template, partial.count)
        return dataclasses.replace(partial, states=states)


def _placed(placement: Placement, dim: int, places: Positions) -> Placement:
    """Return where a part of one file lies in the joint selection."""
    part = placement[dim]
    if isinstance(places, tuple):
        found: slice | tuple[int, ...] = places[part] if isinstance(part, slice) else tuple(places[at] for at in part)
    elif isinstance(part, tuple):
        found = tuple(places.start + at for at in part)
    else:
        stop = places.start + (-1 if part.stop is None else part.stop)
        found = slice(places.start + part.start, stop if stop >= 0 else None, part.step)
    return (*placement[:dim], found, *placement[dim + 1 :])


def joined_plan(request: ReductionRequest, dim: int, pieces: Sequence[Piece], variables: Sequence[Variable]) -> JoinedPlan:
    """Return the plan of `request`, whose variable is a joint one.

    Parameters:
        request: What is asked for.
        dim: The dimension along which the files are joined.
        pieces: What is wanted of each file.
        variables: The variable of each of them, with its chunks located.
    """
    template = plan(request).template
    plans = tuple(_own_plan(request, template, dim, *pair) for pair in zip(pieces, variables, strict=True))
    starts = np.cumsum([0, *(len(one) for one in plans[:-1])]).tolist()
    return JoinedPlan(request, template, dim, plans, tuple(pieces), _are_alike([request.variable, *variables]), tuple(starts))


def _own_plan(request: ReductionRequest, joint: TaskTemplate, dim: int, piece: Piece, variable: Variable) -> Plan:
    """Return the plan of one file, whose partial results will be combined with those of others."""
    groups = tuple(_own_groups(one, piece.places) if one.axis == dim else one for one in request.groups)
    own = plan_of_file(dataclasses.replace(request, variable=variable, selection=piece.selection, groups=groups))
    template = dataclasses.replace(own.template, selected=joint.selected)
    value = request.variable.value_dtype
    if variable.value_dtype != value and (joint.condition is not None or any(map(_needs_values, joint.components))):
        template = dataclasses.replace(template, value_dtype=value.str)
        if value.kind == "f":
            template = dataclasses.replace(template, accumulator="f8")
    # What fits into 64 bits as a float need not fit as an integer.
    if joint.accumulator == "f8" and 8 in (variable.dtype.itemsize, variable.value_dtype.itemsize):
        template = dataclasses.replace(template, accumulator="f8")
    return dataclasses.replace(own, template=template)


def _own_groups(groups: AxisGroups, places: Positions) -> AxisGroups:
    """Return the groups of the positions that one file has."""
    return dataclasses.replace(groups, labels=groups.labels[as_array(places)])


def _needs_values(component: Component) -> bool:
    """Return whether a component can differ between numbers and what they are when turned into a wider type."""
    return component.unpack is None and not (is_known(component) and component.name in ("any", "all", "values"))
