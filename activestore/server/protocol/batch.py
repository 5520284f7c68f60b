"""The extension: many chunks in one request, read together, each answered by a frame of its own."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from activestore.core.kernel import reduce_stored
from activestore.core.packing import unpacked_dtype
from activestore.core.selection import region_shape
from activestore.core.task import ChunkTask
from activestore.core.wire.encode import answer_bytes, failure_to_bytes, numbers_bytes, partial_to_bytes, tasks_from_json
from activestore.errors import ActivestoreError, CorruptChunkError, UnsupportedError, WireError
from activestore.server.errors import RequestError
from activestore.server.location import Login, Place
from activestore.server.protocol.json_slices import loads
from activestore.server.reading.reader import read_size
from activestore.server.settings import ServerSettings

__all__ = ["Batch", "Group", "computed", "failed", "parse_batch"]

_GROUP_BYTES = 4 << 20
"""Bytes that are read and computed together: enough to make a read worth its while, few enough to flow."""
_GROUP_TASKS = 256
_MOST_BYTES = 1 << 30
"""Bytes that one request may have read, decoded or answered, of all chunks together: seconds of work, not hours."""
_FOR_HEADERS = 16 << 10
"""Bytes that a frame has beside its numbers, at most."""
_FOR_HEADER = 256
"""Bytes that it mostly has."""


@dataclass(frozen=True, slots=True)
class Batch:
    """What one request asks for."""

    place: Place
    """The object."""
    tasks: tuple[ChunkTask, ...]
    """What is wanted of its chunks, in the order of the answer."""
    groups: tuple[Group, ...]
    """The tasks in runs that are read and computed together."""


@dataclass(frozen=True, slots=True)
class Group:
    """Tasks that are read and computed together, and the memory that this takes."""

    tasks: tuple[ChunkTask, ...]
    """The tasks, in the order of the answer."""
    ranges: tuple[tuple[int, int], ...]
    """Offset and size of all the bytes that they need."""
    read: int
    """Bytes that are read for them."""
    answered: int
    """Bytes of their frames, if none fails."""
    working: int
    """Bytes that it takes to compute them: the frames of all, also joined, and the work on one chunk."""


def parse_batch(body: bytes, login: Login | None, settings: ServerSettings) -> Batch:
    """Return what a request asks for.

    Raises:
        RequestError: It is not understood, or asks for too much.
    """
    try:
        given = loads(body)
    except ValueError as error:
        raise _invalid(str(error)) from None
    if not isinstance(given, dict) or set(given) != {"source", "tasks"}:
        raise _invalid("it has to be a map of 'source' and 'tasks'")
    try:
        tasks = tasks_from_json(given["tasks"], largest_chunk=settings.largest_chunk, most_tasks=settings.most_tasks)
    except WireError as error:
        raise _invalid(f"tasks: {error}") from None
    place, costs = _place(given["source"], login), _costs(tasks)
    _check_amount([cost.largest for cost in costs], settings.largest_chunk)
    return Batch(place, tuple(tasks), tuple(_grouped(tasks, costs)))


def _check_amount(sizes: Sequence[int], largest_chunk: int) -> None:
    """Refuse what keeps the server busy for long: a short request can ask for very much.

    Raises:
        RequestError: There is too much to do.
    """
    if max(sizes) > largest_chunk + _FOR_HEADERS:
        raise _invalid(f"tasks: the pieces of one lie further apart than the {largest_chunk} bytes that are read at once")
    most = max(_MOST_BYTES, largest_chunk + _FOR_HEADERS)
    if sum(sizes) > most:
        raise RequestError(413, f"the chunks come to {sum(sizes)} bytes, and may come to {most}; ask for fewer at once")


def _place(given: Any, login: Login | None) -> Place:  # Any: JSON of a caller
    if not isinstance(given, dict) or not {"interface_type", "url"} <= set(given) <= {"interface_type", "url", "region"}:
        raise _invalid("source has to be a map of 'interface_type', 'url' and, for S3, 'region'")
    for name, value in given.items():
        if not isinstance(value, str) or not value or len(value) > 8192:
            raise _invalid(f"source: {name} has to be a text")
    return Place(given["interface_type"], given["url"], login, given.get("region", "us-east-1"))


def _invalid(what: str) -> RequestError:
    return RequestError(400, "request data is not valid", (what,))


@dataclass(frozen=True, slots=True)
class _Cost:
    """What a task takes."""

    largest: int
    """Bytes in the form in which it is largest: as read, decoded, selected or answered."""
    numbers: int
    """Bytes of the numbers of its answer."""
    frame: int
    """Bytes of its frame, at most."""
    working: int
    """Bytes that it takes to decode it, to reduce what is wanted of it, and to write the answer."""


def _costs(tasks: Sequence[ChunkTask]) -> list[_Cost]:
    """Return what each task takes; most are alike, and worked out once."""
    known: dict[tuple[object, ...], _Cost] = {}
    found = []
    for task in tasks:
        form = (task.shape, task.region, tuple(task.group_counts.items()))
        cost = known.get(form)
        if cost is None:
            cost = known[form] = _cost(task)
        # Chunks can be stored in far more bytes than they have.
        read = task.size if task.pieces is None else read_size(task.ranges)
        found.append(cost if read <= cost.largest else replace(cost, largest=read))
    return found


def _cost(task: ChunkTask) -> _Cost:
    packing, dtype = task.template.packing, np.dtype(task.template.dtype)
    width = dtype.itemsize if packing is None else max(dtype.itemsize, unpacked_dtype(dtype, packing).itemsize)
    # Listed positions repeat: there may be more of them than the chunk has cells.
    cells, frame = math.prod(region_shape(task.region)), answer_bytes(task)
    # Decoding holds a chunk twice; of the wanted numbers there is a copy while they are unpacked, and then deviations in
    # double precision, or positions, of which there are two.
    # Of groups that lie apart there is a copy of what belongs together, and the positions of each; conditions are masks.
    apart = cells * (width + 1) + sum(64 * sum(grouping.lengths) for grouping in task.groups)
    working = 2 * task.nbytes + cells * (2 * width + 16 + 2 * (task.template.condition is not None)) + frame
    working += apart if task.groups else 0
    return _Cost(max(task.nbytes, cells * dtype.itemsize, frame), numbers_bytes(task), frame, working)


def _grouped(tasks: Sequence[ChunkTask], costs: Sequence[_Cost]) -> Iterator[Group]:
    """Yield the tasks in runs that are read and computed together."""
    start, nbytes = 0, 0
    for end, cost in enumerate(costs):
        if end > start and (nbytes + cost.largest > _GROUP_BYTES or end - start >= _GROUP_TASKS):
            yield _group(tasks[start:end], costs[start:end])
            start, nbytes = end, 0
        nbytes += cost.largest
    yield _group(tasks[start:], costs[start:])


def _group(tasks: Sequence[ChunkTask], costs: Sequence[_Cost]) -> Group:
    ranges = tuple(one for task in tasks for one in task.ranges)
    answered = sum(cost.numbers + _FOR_HEADER for cost in costs)
    working = 2 * sum(cost.frame for cost in costs) + max(cost.working for cost in costs)
    return Group(tuple(tasks), ranges, read_size(ranges), answered, working)


def computed(tasks: Sequence[ChunkTask], raw: Sequence[bytes]) -> bytes:
    """Return the frames of tasks, given the bytes of their ranges; a chunk that fails has a frame that says so."""
    left = iter(raw)
    return b"".join([_frame(task, [next(left) for _ in task.ranges]) for task in tasks])


_KINDS: tuple[tuple[type[ActivestoreError], str], ...] = (
    (CorruptChunkError, "corrupt"),
    (UnsupportedError, "unsupported"),
)


def _frame(task: ChunkTask, raw: list[bytes]) -> bytes:
    try:
        return partial_to_bytes(reduce_stored(raw, task))
    except (CorruptChunkError, UnsupportedError) as error:
        kind = next(kind for of, kind in _KINDS if isinstance(error, of))
        # Who asked knows which chunk it is, and of which file.
        return failure_to_bytes(task.sequence, kind, str(error).removeprefix(f"{task.describe()}: "))


def failed(tasks: Iterable[ChunkTask], error: RequestError) -> bytes:
    """Return the frames of tasks whose bytes cannot be read."""
    return b"".join([failure_to_bytes(task.sequence, error.kind, str(error)) for task in tasks])
