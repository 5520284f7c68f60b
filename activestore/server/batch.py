"""The extension: many chunks in one request, read together, each answered by a frame of its own."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from activestore.core.kernel import reduce_stored
from activestore.core.packing import unpacked_dtype
from activestore.core.selection import region_shape
from activestore.core.task import ChunkTask
from activestore.core.wire import answer_bytes, failure_to_bytes, partial_to_bytes, tasks_from_json
from activestore.errors import ActivestoreError, CorruptChunkError, SumOverflowError, UnsupportedError, WireError
from activestore.server.failures import RequestError
from activestore.server.place import Login, Place
from activestore.server.reading import read_size
from activestore.server.settings import ServerSettings

__all__ = ["Batch", "computed", "failed", "groups", "parse_batch", "working_bytes"]

_GROUP_BYTES = 4 << 20
"""Bytes that are read and computed together: enough to make a read worth its while, few enough to flow."""
_GROUP_TASKS = 256
_MOST_BYTES = 1 << 30
"""Bytes that one request may have read, decoded or answered, of all chunks together: seconds of work, not hours."""
_FOR_HEADERS = 16 << 10
"""Bytes that a frame has beside its numbers, at most."""


@dataclass(frozen=True, slots=True)
class Batch:
    """What one request asks for."""

    place: Place
    """The object."""
    tasks: tuple[ChunkTask, ...]
    """What is wanted of its chunks, in the order of the answer."""


def parse_batch(body: bytes, login: Login | None, settings: ServerSettings) -> Batch:
    """Return what a request asks for.

    Raises:
        RequestError: It is not understood, or asks for too much.
    """
    try:
        given = json.loads(body, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise _invalid(f"it is no JSON: {type(error).__name__}") from error
    if not isinstance(given, dict) or set(given) != {"source", "tasks"}:
        raise _invalid("it has to be a map of 'source' and 'tasks'")
    try:
        tasks = tasks_from_json(given["tasks"], largest_chunk=settings.largest_chunk, most_tasks=settings.most_tasks)
    except WireError as error:
        raise _invalid(f"tasks: {error}") from error
    _check_amount(tasks, settings.largest_chunk)
    return Batch(_place(given["source"], login), tuple(tasks))


def _check_amount(tasks: Sequence[ChunkTask], largest_chunk: int) -> None:
    """Refuse what keeps the server busy for long: a short request can ask for very much.

    Raises:
        RequestError: There is too much to do.
    """
    sizes = list(map(_weight, tasks))
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


def _no_constant(name: str) -> None:
    raise ValueError(name)


def _invalid(what: str) -> RequestError:
    return RequestError(400, "request data is not valid", (what,))


def groups(tasks: Sequence[ChunkTask]) -> Iterator[list[ChunkTask]]:
    """Yield the tasks in runs that are read and computed together."""
    group: list[ChunkTask] = []
    nbytes = 0
    for task in tasks:
        weight = _weight(task)
        if group and (nbytes + weight > _GROUP_BYTES or len(group) >= _GROUP_TASKS):
            yield group
            group, nbytes = [], 0
        group.append(task)
        nbytes += weight
    if group:
        yield group


def _weight(task: ChunkTask) -> int:
    """Return how many bytes a task has in the form in which it is largest: as read, decoded, selected or answered."""
    # Chunks can be stored in far more bytes than they have, and listed positions repeat.
    itemsize = np.dtype(task.template.dtype).itemsize
    return max(read_size(task.ranges), task.nbytes, math.prod(region_shape(task.region)) * itemsize, answer_bytes(task))


def working_bytes(tasks: Sequence[ChunkTask]) -> int:
    """Return how much memory computing these takes: the answers of all as frames and joined, and the work on one chunk."""
    return 2 * sum(map(answer_bytes, tasks)) + max(map(_chunk_bytes, tasks))


def _chunk_bytes(task: ChunkTask) -> int:
    """Return how much memory it takes to decode a chunk, to reduce what is wanted of it, and to write the answer."""
    packing, dtype = task.template.packing, np.dtype(task.template.dtype)
    width = dtype.itemsize if packing is None else max(dtype.itemsize, unpacked_dtype(dtype, packing).itemsize)
    # Decoding holds a chunk twice; of the wanted numbers there is a copy while they are unpacked, and then deviations in
    # double precision, or positions, of which there are two.
    return 2 * task.nbytes + math.prod(region_shape(task.region)) * (2 * width + 16) + answer_bytes(task)


def computed(tasks: Sequence[ChunkTask], raw: Sequence[bytes]) -> bytes:
    """Return the frames of tasks, given the bytes of their ranges; a chunk that fails has a frame that says so."""
    left = iter(raw)
    return b"".join([_frame(task, [next(left) for _ in task.ranges]) for task in tasks])


_KINDS: tuple[tuple[type[ActivestoreError], str], ...] = (
    (CorruptChunkError, "corrupt"),
    (UnsupportedError, "unsupported"),
    (SumOverflowError, "overflow"),
)


def _frame(task: ChunkTask, raw: list[bytes]) -> bytes:
    try:
        return partial_to_bytes(reduce_stored(raw, task))
    except (CorruptChunkError, UnsupportedError, SumOverflowError) as error:
        kind = next(kind for of, kind in _KINDS if isinstance(error, of))
        # Who asked knows which chunk it is, and of which file.
        return failure_to_bytes(task.sequence, kind, str(error).removeprefix(f"{task.describe()}: "))


def failed(tasks: Iterable[ChunkTask], error: RequestError) -> bytes:
    """Return the frames of tasks whose bytes cannot be read."""
    return b"".join([failure_to_bytes(task.sequence, error.kind, str(error)) for task in tasks])
