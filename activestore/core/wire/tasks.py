"""Tasks that came from elsewhere: made of JSON of which nothing is believed."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import numpy as np

from activestore.core.codecs.decode import Codec, decoder_names, hdf5_codec
from activestore.core.selection import Points, Region, Slice
from activestore.core.task import UNWRITTEN, ChunkTask, Grouping, Placement, TaskTemplate
from activestore.core.wire.frames import POSITIONED, numbers_of_part
from activestore.core.wire.groups import Runs, runs_from_json
from activestore.core.wire.json import LARGEST, items, mapping, one_of, refuse, whole, wholes
from activestore.core.wire.template import template_from_json

__all__ = ["MOST_PIECES", "MOST_POINTS", "tasks_from_json"]

MOST_POINTS = 1 << 20
"""Listed positions that one request may have."""
MOST_PIECES = 1 << 18
"""Stored chunks that one request may name."""
_MOST_FILTERS = 32
_MOST_VALUES = 64
_OWN = frozenset({"sequence", "chunk", "shape", "gap", "size", "codecs", "region"})

_Item = TypeVar("_Item")


def tasks_from_json(given: object, *, largest_chunk: int, most_tasks: int, uri: str = "object") -> list[ChunkTask]:
    """Return the tasks that `tasks_to_json` wrote.

    Parameters:
        given: What `json.loads` made of it.
        largest_chunk: Bytes that a chunk may have, as stored and decoded, and the answer to a task.
        most_tasks: How many tasks there may be.
        uri: What messages call the source.

    Raises:
        WireError: Anything is not what it must be; the message says what.
    """
    template, grouped, rest = template_from_json(given, uri)
    own = mapping(rest, "tasks", needs=_OWN, may={"extent", "pieces", "placement", "groups"})
    if any(component.name in POSITIONED for component in template.components) != ("placement" in own):
        refuse("placement", "is there where a component needs positions, and only there")
    sequence = _sequence(own["sequence"], most_tasks)
    columns = _Columns(own, template, grouped, len(sequence)).all()
    forms: dict[tuple[Any, ...], _Form] = {}  # Any: parts of tasks
    tasks = []
    for number, (chunk, shape, extent, ranges, codecs, *parts) in zip(sequence, zip(*columns, strict=True), strict=True):
        key = shape, extent, len(ranges.pieces or ()), *parts
        form = forms.get(key) or forms.setdefault(key, _form(template, *key, largest=largest_chunk))
        size = sum(size for _, size in ranges.of)
        if size > largest_chunk:
            refuse("a chunk", f"has {size} bytes as stored; {largest_chunk} are allowed")
        tasks.append(
            ChunkTask(
                template=template,
                sequence=number,
                chunk=chunk,
                origin=(0,) * len(shape),
                shape=shape,
                extent=extent,
                offset=next(offset for offset, size in ranges.of if size),
                size=size,
                pieces=ranges.pieces,
                codecs=codecs,
                through_hdf5=False,
                inline=None,
                region=form.region,
                placement=form.placement,
                first=False,
                groups=form.groups,
            )
        )
    return tasks


def _sequence(given: object, most: int) -> list[int]:
    """Return the tasks' places in grid order."""
    if isinstance(given, list) and len(given) > most:
        refuse("tasks", f"are too many: {len(given)}, where {most} are allowed")
    steps = wholes(given, "sequence", longest=most)
    if not steps or 0 in steps[1:]:
        refuse("sequence", "has no task, or one twice")
    found = list(itertools.accumulate(steps))
    whole(found[-1], "sequence")
    return found


@dataclass(frozen=True, slots=True, eq=False)
class _Part:
    """What is wanted along one dimension."""

    inside: Slice | Points
    length: int
    end: int
    """The position behind the last one."""


@dataclass(frozen=True, slots=True, eq=False)
class _Where:
    """Where that lies in the selection."""

    axis: int
    positions: slice | tuple[int, ...]
    length: int


class _Ranges(NamedTuple):
    """What a task reads."""

    of: tuple[tuple[int, int], ...]
    """Offset and size of each stored chunk."""
    joined: bool
    """Whether they are small chunks that are read together."""

    @property
    def pieces(self) -> tuple[tuple[int, int], ...] | None:
        """The same as tasks have it: None where the task is one chunk."""
        return self.of if self.joined else None


@dataclass(slots=True)
class _Columns:
    """What the tasks have of their own, by task."""

    given: dict[str, Any]  # Any: JSON
    template: TaskTemplate
    grouped: tuple[int, ...]
    count: int
    points: int = 0
    """Listed positions, and runs of groups, so far."""

    def all(self) -> list[list[Any]]:  # Any: parts of tasks
        """Return the columns: chunk, shape, extent, ranges, codecs, region, placement, groups."""
        given, dims = self.given, len(self.template.selected)
        chunk = [self._column(one, "chunk") for one in items(given["chunk"], "chunk", least=dims, most=dims)]
        regions = [self._table(one, "region", self._part) for one in items(given["region"], "region", least=dims, most=dims)]
        extents = self._table(given["extent"], "extent", self._extent) if "extent" in given else [None] * self.count
        return [
            list(zip(*chunk, strict=True)) if dims else [()] * self.count,
            self._table(given["shape"], "shape", lambda one: wholes(one, "shape", count=dims, least=1)),
            extents,
            self._ranges(),
            self._table(given["codecs"], "codecs", _pipeline),
            list(zip(*regions, strict=True)) if dims else [()] * self.count,
            self._placements(),
            self._groups(),
        ]

    def _column(self, given: object, name: str, *, count: int | None = None, least: int = 0, most: int = LARGEST) -> list[int]:
        count = self.count if count is None else count
        if not isinstance(given, list):
            return [whole(given, name, least=least, most=most)] * count
        return list(wholes(given, name, count=count, least=least, most=most))

    def _table(self, given: object, name: str, make: Callable[[object], _Item]) -> list[_Item]:
        fields = mapping(given, name, needs=frozenset({"of"}), may={"at"})
        entries = [make(one) for one in items(fields["of"], name, least=1, most=self.count)]
        return [entries[at] for at in self._column(fields.get("at", 0), f"{name}.at", most=len(entries) - 1)]

    def _ranges(self) -> list[_Ranges]:
        pieces = self._column(self.given.get("pieces", 0), "pieces", most=MOST_PIECES)
        counts = [n or 1 for n in pieces]
        total = sum(counts)
        if total > MOST_PIECES:
            refuse("pieces", f"has {total} stored chunks; ask for {MOST_PIECES} at most")
        gaps = self._column(self.given["gap"], "gap", count=total, least=-LARGEST)
        sizes = self._column(self.given["size"], "size", count=total)
        ends = list(itertools.accumulate(gap + size for gap, size in zip(gaps, sizes, strict=True)))
        ranges = [(end - size, size) for end, size in zip(ends, sizes, strict=True)]
        if max(ends) > LARGEST or min(ranges)[0] < 0:
            refuse("gap", "leads to an offset that is negative, or too large")
        left = iter(one if one[1] else UNWRITTEN for one in ranges)
        found = [_Ranges(tuple(itertools.islice(left, n or 1)), joined=n > 0) for n in pieces]
        if any(one.of.count(UNWRITTEN) == len(one.of) for one in found):
            refuse("size", "is 0 of all chunks of a task")
        return found

    def _extent(self, given: object) -> tuple[int, ...] | None:
        return None if given is None else wholes(given, "extent", count=len(self.template.selected))

    def _listed(self, given: object, name: str) -> tuple[int, ...]:
        fields = mapping(given, name, needs=frozenset({"points"}), may=set())
        points = wholes(fields["points"], name, longest=MOST_POINTS - self.points)
        if not points:
            refuse(name, "has no positions")
        self.points += len(points)
        return points

    def _part(self, given: object) -> _Part:
        if not isinstance(given, list):
            points = self._listed(given, "region")
            return _Part(Points(points), len(points), max(points) + 1)
        start, stop, step = wholes(given, "region", count=3)
        if start >= stop or step < 1:
            refuse("region", f"has {[start, stop, step]}, which is empty")
        return _Part(Slice(start, stop, step), -(-(stop - start) // step), stop)

    def _placements(self) -> list[tuple[_Where, ...]]:
        """Return where the wanted parts lie along the reduced dimensions."""
        axes = self.template.axes if "placement" in self.given else ()
        given = items(self.given.get("placement", []), "placement", least=len(axes), most=len(axes))
        tables = [
            self._table(one, "placement", lambda entry, axis=axis: self._where(entry, axis))  # type: ignore[misc]
            for one, axis in zip(given, axes, strict=True)
        ]
        return list(zip(*tables, strict=True)) if tables else [()] * self.count

    def _where(self, given: object, axis: int) -> _Where:
        length = self.template.selected[axis]
        if not isinstance(given, list):
            points = self._listed(given, "placement")
            if max(points) >= length:
                refuse("placement", f"has positions outside of the {length} that are selected")
            return _Where(axis, points, len(points))
        start, stop, step = items(given, "placement", least=3, most=3)
        start, step = whole(start, "placement", most=length - 1), whole(step, "placement", least=-LARGEST)
        stop = None if stop is None and step < 0 else whole(stop, "placement", most=length)
        if step == 0:
            refuse("placement", "has a step of 0")
        where = slice(start, stop, step)
        return _Where(axis, where, len(range(*where.indices(length))))

    def _groups(self) -> list[tuple[Runs, ...]]:
        """Return how the wanted parts fall into groups along the dimensions that have some."""
        given = items(self.given.get("groups", []), "groups", least=len(self.grouped), most=len(self.grouped))
        tables = [
            self._table(one, "groups", lambda entry, axis=axis: self._runs(entry, axis))  # type: ignore[misc]
            for one, axis in zip(given, self.grouped, strict=True)
        ]
        return list(zip(*tables, strict=True)) if tables else [()] * self.count

    def _runs(self, given: object, axis: int) -> Runs:
        runs = runs_from_json(given, axis, most=MOST_POINTS - self.points)
        self.points += len(runs.grouping.labels)
        return runs


def _pipeline(given: object) -> tuple[Codec, ...]:
    found = []
    for one in items(given, "codecs", most=_MOST_FILTERS):
        fields = mapping(one, "a codec", needs=frozenset({"id", "filter", "values"}), may=set())
        name = one_of(fields["id"], "a codec", tuple(decoder_names()))
        values = wholes(fields["values"], "values of a codec", longest=_MOST_VALUES, most=2**32 - 1)
        codec = hdf5_codec(whole(fields["filter"], "filter of a codec", most=2**32 - 1), values)
        if codec.id != name:
            refuse("a codec", f"is {name!r}, which is not HDF5's filter {codec.filter_id}")
        found.append(codec)
    return tuple(found)


@dataclass(frozen=True, slots=True)
class _Form:
    """What tasks of one form have in common."""

    region: Region
    placement: Placement
    groups: tuple[Grouping, ...]


def _form(
    template: TaskTemplate,
    shape: tuple[int, ...],
    extent: tuple[int, ...] | None,
    pieces: int,
    parts: tuple[_Part, ...],
    where: tuple[_Where, ...],
    runs: tuple[Runs, ...],
    *,
    largest: int,
) -> _Form:
    """Return region, placement and groups of tasks of this form.

    Raises:
        WireError: Its parts do not fit each other, or are too large.
    """
    itemsize = np.dtype(template.dtype).itemsize
    lengths = tuple(part.length for part in parts)
    counts = {one.grouping.axis: one.count for one in runs}
    # Listed positions may repeat: what is wanted of a chunk may be larger than the chunk.
    nbytes = max(math.prod(shape) * itemsize, math.prod(lengths) * itemsize, numbers_of_part(template, lengths, counts))
    if nbytes > largest:
        refuse("a task", f"has {nbytes} bytes to decode, select or answer; {largest} are allowed")
    if pieces and (not shape or shape[0] % pieces):
        refuse("pieces", "do not make up the shape of their task")
    if any(part.end > n for part, n in zip(parts, shape, strict=True)):
        refuse("a region", "reaches out of its chunk")
    if extent is not None and any(held > n for held, n in zip(extent, shape, strict=True)):
        refuse("extent", "is larger than its chunk")
    if any(n > most for n, most in zip(lengths, template.selected, strict=True)):
        refuse("a region", "is larger than the selection")
    for one in runs:
        if one.length != lengths[one.grouping.axis]:
            refuse("groups", f"have {one.length} positions for {lengths[one.grouping.axis]}")
    placement: list[slice | tuple[int, ...]] = [slice(0, n, 1) for n in lengths]
    for place in where:
        if place.length != lengths[place.axis]:
            refuse("placement", f"has {place.length} positions for {lengths[place.axis]}")
        placement[place.axis] = place.positions
    return _Form(tuple(part.inside for part in parts), tuple(placement), tuple(one.grouping for one in runs))
