"""From a request to a plan: which chunks are touched, and what is to be done with each."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from activestore.core.codecs.decode import decodable, present
from activestore.core.conditions import Condition
from activestore.core.groups import AxisGroups, check_groupable, check_size
from activestore.core.packing import Packing, unpacks_afterwards
from activestore.core.reductions import Reduction, stored_component, widest
from activestore.core.selection import ChunkParts, DimensionPart, Points, Selection, Slice
from activestore.core.task import UNWRITTEN, ChunkPartial, ChunkTask, Component, Grouping, TaskTemplate
from activestore.core.variable import ChunkTable, Variable, contiguous_table
from activestore.errors import SelectionError

__all__ = ["Plan", "ReductionRequest", "Tally", "grouped_axes", "normalize_axes", "plan", "plan_of_file", "touched_chunks"]

_BATCH = 4096
"""Chunks looked up at a time while tasks are made."""
_JOINED_CHUNKS = 4096
"""Chunks of a task that joins small ones, at most."""
_JOINED_BYTES = 1 << 20
"""Decoded bytes of such a task; more where there is much to do."""
_JOINED_MORE = 16
"""How many of the largest chunks that are joined a task may have then: its own cost is shared by so many."""
_JOINED_PARTS = 8
"""How many tasks a file is still cut into then, so that there is work for several."""
_SMALL_PIECE = 16 << 10
"""Bytes up to which pieces of a contiguous variable are read whole, several at a time."""
_SMALL_READ = 64 << 10
"""Bytes below which cutting a contiguous variable more finely saves nothing."""


@dataclass(frozen=True, slots=True)
class ReductionRequest:
    """What is asked for."""

    variable: Variable
    """The variable to be reduced."""
    selection: Selection
    """The part of it that counts."""
    reductions: tuple[Reduction, ...]
    """What is to be computed, in one pass."""
    axes: tuple[int, ...]
    """Dimensions of the variable that are reduced, ascending."""
    skipna: bool = True
    """Whether NaN is missing."""
    groups: tuple[AxisGroups, ...] = ()
    """The groups along reduced dimensions that have some, in the order of these."""
    condition: Condition | None = None
    """What values have to satisfy, or they count as missing; None for nothing."""

    @property
    def result_shape(self) -> tuple[int, ...]:
        """Lengths of the result with the variable's dimensions: 1 where one is reduced to a number."""
        counts = {one.axis: one.count for one in self.groups}
        lengths = map(len, self.selection.positions)
        return tuple(counts.get(axis, 1) if axis in self.axes else length for axis, length in enumerate(lengths))


class _Row(NamedTuple):
    """What is wanted of one row of chunks along one dimension, for all tasks in that row."""

    part: DimensionPart
    first: bool
    """Whether it is the first one that is touched."""
    grouping: Grouping | None
    """Its groups; None if the dimension has none."""


@dataclass(frozen=True, slots=True)
class Tally:
    """What a plan amounts to."""

    chunks: int
    """Chunks touched."""
    unwritten: int
    """Those among them that were never written: answered from the fill value, without a read."""
    through_hdf5: int
    """Those among them that only the HDF5 library can read."""
    bytes_to_read: int
    """Bytes to be read from the source."""
    cells: int
    """Numbers selected."""


@dataclass(frozen=True, slots=True, repr=False)
class Plan:
    """The touched chunks as a grid of their own; the task of each is made when it is asked for."""

    request: ReductionRequest
    """What was asked for."""
    variable: Variable
    """The variable; where it is contiguous, cut into pieces that suit the selection."""
    template: TaskTemplate
    """What all tasks share."""
    parts: tuple[ChunkParts, ...]
    """The touched chunks along each dimension."""

    @property
    def grid_shape(self) -> tuple[int, ...]:
        """How many chunks are touched along each dimension."""
        return tuple(len(part) for part in self.parts)

    def __len__(self) -> int:
        return math.prod(self.grid_shape)

    def __repr__(self) -> str:
        names = ", ".join(reduction.name for reduction in self.request.reductions)
        return f"<Plan: {names} of {self.variable.name!r}, {len(self):,} chunks in a grid of {self.grid_shape}>"

    @property
    def files(self) -> int:
        """How many files are touched: one."""
        return 1

    @property
    def plans(self) -> tuple[Plan, ...]:
        """The plan of each file: this one."""
        return (self,)

    def tasks_of(self, file: int, *, joined: int = 0) -> Iterator[ChunkTask]:  # noqa: ARG002  # there is one
        """Yield the tasks of a file: all."""
        return self.tasks(joined=joined)

    def in_common(self, task: ChunkTask, partial: ChunkPartial) -> ChunkPartial:  # noqa: ARG002  # for all tasks alike
        """Return a partial result as it can be combined with others: as it is."""
        return partial

    def tasks(self, *, joined: int = 0) -> Iterator[ChunkTask]:
        """Yield the task of every touched chunk, in grid order; one task for many chunks of up to `joined` decoded bytes."""
        count = self._joinable(joined)
        if count > 1:
            yield from self._joined_tasks(count)
            return
        for first in range(0, len(self), _BATCH):
            cells, rows = self._rows(first, min(first + _BATCH, len(self)))
            parts = self._row_lists(cells)
            for i, row in enumerate(rows.tolist()):
                task = self._task(first + i, tuple(part[i] for part in parts), row)
                yield _trimmed(task) if self.variable.clipped and task.offset is not None and task.offset >= 0 else task

    def tally(self, *, joined: int = 0) -> Tally:
        """Return what the plan amounts to, without any read; `joined` as for `tasks`."""
        table = self.variable.table
        odd = not table.placed or not decodable(self.variable.codecs)
        unwritten = through = nbytes = 0
        for first in range(0, len(self), 1 << 18):
            _, rows = self._rows(first, min(first + (1 << 18), len(self)))
            written = rows[rows >= 0]
            unwritten += len(rows) - len(written)
            nbytes += int(table.size[written].sum())
            if odd:
                masks = table.filter_mask[written]
                through += sum(
                    int(np.count_nonzero(masks == mask))
                    for mask in np.unique(masks).tolist()
                    if not table.placed or not decodable(present(self.variable.codecs, mask))
                )
        if self.variable.table.inline is not None:
            nbytes = 0
        elif self.variable.clipped and table.placed and len(self) <= 1 << 16:
            nbytes = sum(task.size for task in self.tasks(joined=joined))
        cells_selected = math.prod(len(positions) for positions in self.request.selection.positions)
        return Tally(len(self), unwritten, through, nbytes, cells_selected)

    def touched(self) -> tuple[npt.NDArray[np.int64], ...]:
        """Return the positions in the chunk grid that are touched, along each dimension."""
        return tuple(part.chunks for part in self.parts)

    def _rows(self, first: int, last: int) -> tuple[tuple[npt.NDArray[np.int64], ...], npt.NDArray[np.int64]]:
        """Return, of the tasks from `first` to `last`, positions among the touched chunks and rows of the table."""
        sequence = np.arange(first, last, dtype=np.int64)
        cells = np.unravel_index(sequence, self.grid_shape) if self.parts else ()
        linear = np.zeros(len(sequence), np.int64)
        for cell, part, length in zip(cells, self.parts, self.variable.table.grid, strict=True):
            linear = linear * length + part.chunks[cell]
        return cells, self.variable.table.lookup(linear)

    def _joinable(self, joined: int) -> int:
        """Return how many chunks a task may have: 1, unless they are small, alike and in a row along the first dimension."""
        variable, table = self.variable, self.variable.table
        nbytes = math.prod(variable.chunk_shape) * variable.dtype.itemsize
        if variable.clipped:
            # Of a larger piece of contiguous data, only what is wanted is read.
            joined = min(joined, _SMALL_PIECE)
        if len(self) < 2 or nbytes > joined or table.grid[0] != math.prod(table.grid):
            return 1
        touched = self.parts[0].chunks
        in_a_row = int(touched[-1] - touched[0]) + 1 == len(touched)
        whole = variable.chunk_shape[0] == 1 if variable.clipped else variable.extent == variable.shape
        raw = table.placed and table.inline is None and decodable(variable.codecs) and bool(table.size.all())
        if not (in_a_row and whole and raw):
            return 1
        most = max(_JOINED_BYTES, min(_JOINED_MORE * joined, len(self) * nbytes // _JOINED_PARTS))
        return min(_JOINED_CHUNKS, most // nbytes)

    def _joined_tasks(self, count: int) -> Iterator[ChunkTask]:
        """Yield tasks of up to `count` chunks each; of one where these were not all filtered alike."""
        length, table = self.variable.chunk_shape[0], self.variable.table
        others = tuple(self._row(dim, part[0], first=True) for dim, part in enumerate(self.parts[1:], 1))
        along, touched = ChunkParts(self.request.selection.positions[0], length * count), self.parts[0]
        sequence = 0
        for block in range(len(along)):
            part = along[block]
            chunks, inside = _narrowed(part.inside, length)
            first, last = part.chunk * count + chunks.start, part.chunk * count + chunks.stop
            rows = table.lookup(np.arange(first, last, dtype=np.int64))
            written = rows[rows >= 0]
            if len(written) and np.ptp(table.filter_mask[written]):
                for at in range(first - int(touched.chunks[0]), last - int(touched.chunks[0])):
                    row = self._row(0, touched[at], first=sequence == 0)
                    yield self._task(sequence, (row, *others), int(rows[row.part.chunk - first]))
                    sequence += 1
                continue
            row = self._row(0, DimensionPart(first, inside, part.outside), first=sequence == 0)
            task = self._task(sequence, (row, *others), int(written[0]) if len(written) else -1)
            shape = (len(rows) * length, *task.shape[1:])
            yield dataclasses.replace(task, shape=shape, pieces=_pieces(table, rows), size=int(table.size[written].sum()))
            sequence += 1

    def _row(self, dim: int, part: DimensionPart, *, first: bool) -> _Row:
        groups = next((one for one in self.request.groups if one.axis == dim), None)
        return _Row(part, first, None if groups is None else groups.of(part.outside))

    def _row_lists(self, cells: tuple[npt.NDArray[np.int64], ...]) -> list[list[_Row]]:
        """Return, along each dimension, the row that each of several tasks is in."""
        found = []
        for dim, (cell, part) in enumerate(zip(cells, self.parts, strict=True)):
            known = {at: self._row(dim, part[at], first=at == 0) for at in np.unique(cell).tolist()}
            found.append([known[at] for at in cell.tolist()])
        return found

    def _task(self, sequence: int, rows: tuple[_Row, ...], row: int) -> ChunkTask:
        variable, table = self.variable, self.variable.table
        parts = [one.part for one in rows]
        chunk = tuple(part.chunk for part in parts)
        origin = tuple(at * length for at, length in zip(chunk, variable.chunk_shape, strict=True))
        shape, extent = variable.chunk_shape, None
        if variable.clipped:
            shape = tuple(min(n, end - at) for n, end, at in zip(shape, variable.extent, origin, strict=True))
        elif variable.extent != variable.shape:
            extent = tuple(max(0, end - at) for end, at in zip(variable.extent, origin, strict=True))
        offset, size, mask = None, 0, 0
        if row >= 0:
            offset, size, mask = int(table.offset[row]), int(table.size[row]), int(table.filter_mask[row])
        codecs = present(variable.codecs, mask)
        return ChunkTask(
            template=self.template,
            sequence=sequence,
            chunk=chunk,
            origin=origin,
            shape=shape,
            extent=extent,
            offset=offset,
            size=size,
            pieces=None,
            codecs=codecs,
            through_hdf5=offset is not None and (not table.placed or not decodable(codecs)),
            inline=table.inline,
            region=tuple(part.inside for part in parts),
            placement=tuple(part.outside for part in parts),
            first=not self.request.groups and all(one.first for dim, one in enumerate(rows) if dim in self.template.axes),
            groups=tuple(one.grouping for one in rows if one.grouping is not None),
        )


def _pieces(table: ChunkTable, rows: npt.NDArray[np.int64]) -> tuple[tuple[int, int], ...]:
    """Return offset and size of chunks, given by their rows."""
    if not len(table):
        return (UNWRITTEN,) * len(rows)
    missing = rows < 0
    offset, size = np.where(missing, UNWRITTEN[0], table.offset[rows]), np.where(missing, UNWRITTEN[1], table.size[rows])
    return tuple(zip(offset.tolist(), size.tolist(), strict=True))


def _narrowed(inside: Slice | Points, length: int) -> tuple[range, Slice | Points]:
    """Return which of several chunks of `length` hold the positions `inside`, and these counted from the first of them.

    Examples:
        >>> _narrowed(Slice(5, 12, 2), 4)
        (range(1, 3), Slice(start=1, stop=8, step=2))
    """
    least, greatest = (min(inside.at), max(inside.at)) if isinstance(inside, Points) else (inside.start, inside.stop - 1)
    chunks = range(least // length, greatest // length + 1)
    before = chunks.start * length
    if isinstance(inside, Points):
        return chunks, Points(tuple(at - before for at in inside.at))
    return chunks, Slice(inside.start - before, inside.stop - before, inside.step)


def _trimmed(task: ChunkTask) -> ChunkTask:
    """Return the task of a contiguous piece with only the rows read that are wanted."""
    shape, region, origin = list(task.shape), list(task.region), list(task.origin)
    itemsize = np.dtype(task.template.dtype).itemsize
    offset, size = task.offset or 0, task.size
    for dim, part in enumerate(task.region):
        if not isinstance(part, Slice):
            break
        row = itemsize * math.prod(shape[dim + 1 :])
        offset += part.start * row
        shape[dim] = part.stop - part.start
        origin[dim] += part.start
        region[dim] = Slice(0, shape[dim], part.step)
        size = shape[dim] * row
        if shape[dim] > 1:
            break
    return dataclasses.replace(task, shape=tuple(shape), region=tuple(region), origin=tuple(origin), offset=offset, size=size)


def touched_chunks(variable: Variable, selection: Selection) -> npt.NDArray[np.int64] | None:
    """Return the positions in the chunk grid, counted in C order and ascending, that a selection touches; None for all.

    Examples:
        >>> from activestore import Active
        >>> touched_chunks(Active("docs/tas.nc", "tas").variable, Selection.whole((24, 18, 36))[12:])
        array([1])
    """
    grid = variable.table.grid
    along = [ChunkParts(*pair).chunks for pair in zip(selection.positions, variable.chunk_shape, strict=True)]
    if math.prod(map(len, along)) == math.prod(grid):
        return None
    return np.ravel_multi_index(np.ix_(*along), grid).reshape(-1).astype(np.int64) if along else None


def plan(request: ReductionRequest) -> Plan:
    """Return the plan of `request`; nothing is read.

    Raises:
        ReductionError: A reduction that cannot be taken of groups.
        SelectionError: The result would be larger than what is selected, and large.

    Examples:
        >>> from activestore import Active
        >>> len(plan(ReductionRequest(Active("docs/tas.nc", "tas").variable, Selection.whole((24, 18, 36)), (), (0, 1, 2))))
        2
    """
    if request.groups:
        check_groupable({c.name: c for reduction in request.reductions for c in reduction.components})
        check_size(request.groups, [len(positions) for positions in request.selection.positions], request.axes)
    return plan_of_file(request)


def plan_of_file(request: ReductionRequest) -> Plan:
    """Return the plan of a request that was found good, or of the part of one that a file has."""
    variable = _cut_for(request.variable, request.selection)
    components, packing = _components(request)
    template = TaskTemplate(
        uri=variable.uri,
        variable=variable.name,
        dtype=variable.dtype.str,
        missing=variable.missing,
        skipna=request.skipna,
        packing=packing,
        axes=request.axes,
        components=components,
        accumulator=_accumulator(request, unpacking=packing is not None),
        fill=variable.fill,
        selected=tuple(len(positions) for positions in request.selection.positions),
        condition=request.condition,
    )
    parts = tuple(
        ChunkParts(positions, length)
        for positions, length in zip(request.selection.positions, variable.chunk_shape, strict=True)
    )
    return Plan(request, variable, template, parts)


def _cut_for(variable: Variable, selection: Selection) -> Variable:
    """Return the variable with a contiguous layout cut so that a narrow selection reads few bytes."""
    table = variable.table
    if variable.layout != "contiguous" or len(table) == 0 or variable.chunk_shape == () or _is_record_wise(variable):
        return variable
    itemsize = variable.dtype.itemsize
    for dim in range(1, len(variable.shape)):
        row = itemsize * math.prod(variable.shape[dim:])
        positions = selection.positions[dim]
        reach = max(positions) - min(positions) + 1 if len(positions) else 0
        narrow = 2 * reach <= variable.shape[dim] and row > _SMALL_READ
        if narrow and variable.chunk_shape[dim - 1] > 1:
            chunk_shape = (1,) * dim + variable.shape[dim:]
            finer = contiguous_table(variable.shape, chunk_shape, itemsize=itemsize, start=int(table.offset[0]))
            return dataclasses.replace(variable, chunk_shape=chunk_shape, table=finer)
    return variable


def _is_record_wise(variable: Variable) -> bool:
    """Return whether the pieces are records, which other variables lie between."""
    return variable.chunk_shape[0] == 1


def _components(request: ReductionRequest) -> tuple[tuple[Component, ...], Packing | None]:
    """Return the components to compute, and the packing if the kernel has to undo it first."""
    wanted = {c.name: c for reduction in request.reductions for c in reduction.components}
    packing = request.variable.packing
    if packing is None:
        return tuple(wanted.values()), None
    linear = request.condition is None and all(component.unpack is not None for component in wanted.values())
    if not linear or not unpacks_afterwards(request.variable.dtype, packing):
        # netCDF4-python rounds each value to a narrower type, say; only unpacking before reducing gives the same numbers.
        return tuple(wanted.values()), packing
    stored = {c.name: c for c in (stored_component(component, packing) for component in wanted.values())}
    return tuple(stored.values()), None


def _accumulator(request: ReductionRequest, *, unpacking: bool) -> str:
    """Return the type to sum in: integers exactly, but where the result is a float and they could overflow."""
    dtype = request.variable.value_dtype if unpacking else request.variable.dtype
    whole = request.variable.value_dtype.kind != "f" and any(reduction.name == "sum" for reduction in request.reductions)
    return "f8" if dtype.kind == "f" or (dtype.itemsize == 8 and not whole) else widest(dtype)


def normalize_axes(axis: object, dims: Sequence[str]) -> tuple[int, ...]:
    """Return the axes that `axis` names, ascending: None is all of them, numbers may be negative, names are dimensions.

    Raises:
        SelectionError: There is no such axis, or it is named twice.

    Examples:
        >>> normalize_axes(("lon", 0), ("time", "lat", "lon"))
        (0, 2)
        >>> normalize_axes("tim", ("time", "lat"))
        Traceback (most recent call last):
        ...
        activestore.errors.SelectionError: no axis 'tim'; the dimensions are 'time' (0), 'lat' (1)
    """
    if axis is None:
        return tuple(range(len(dims)))
    items = list(axis) if isinstance(axis, (tuple, list)) else [axis]
    found = [_one_axis(item, dims) for item in items]
    if len(set(found)) < len(found):
        raise SelectionError(f"axis {axis!r} names an axis twice")
    return tuple(sorted(found))


def grouped_axes(by: Mapping[Any, object] | None, reduced: Sequence[int], dims: Sequence[str]) -> dict[int, object]:
    """Return what `by` gives for each dimension, by number.

    Raises:
        SelectionError: It is no mapping; or there is no such dimension, or it is not reduced.

    Examples:
        >>> grouped_axes({"time": [0, 1]}, (0, 1), ("time", "lat"))
        {0: [0, 1]}
    """
    if by is None:
        return {}
    if not isinstance(by, Mapping):
        raise SelectionError(f"by is a {type(by).__name__}; give a mapping from dimensions to the groups of their positions")
    axes = normalize_axes(list(by), dims)
    found = {normalize_axes(dim, dims)[0]: given for dim, given in by.items()}
    for axis in axes:
        if axis not in reduced:
            raise SelectionError(f"by has {dims[axis]!r}, which is not reduced; name it in axis as well")
    return found


def _one_axis(item: object, dims: Sequence[str]) -> int:
    if isinstance(item, str) and list(dims).count(item) == 1:
        return list(dims).index(item)
    if isinstance(item, (int, np.integer)) and not isinstance(item, bool) and -len(dims) <= item < len(dims):
        return int(item) % len(dims)
    listed = ", ".join(f"{name!r} ({i})" for i, name in enumerate(dims)) or "none: it is a scalar"
    if isinstance(item, str) and item in dims:
        raise SelectionError(f"several dimensions are called {item!r}; give their numbers: {listed}")
    raise SelectionError(f"no axis {item!r}; the dimensions are {listed}")
