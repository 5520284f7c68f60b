"""The extension: many chunks in one request, read together, each answered by a frame of its own."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from activestore.core.kernel import reduce_stored
from activestore.core.task import ChunkTask
from activestore.core.wire import answer_bytes, failure_to_bytes, partial_to_bytes, tasks_from_json
from activestore.errors import CorruptChunkError, SumOverflowError, UnsupportedError, WireError
from activestore.server.failures import RequestError
from activestore.server.place import Login, Place
from activestore.server.settings import ServerSettings

__all__ = ["Batch", "computed", "failed", "groups", "parse_batch", "working_bytes"]

_GROUP_BYTES = 4 << 20
"""Decoded bytes that are read and computed together: enough to make a read worth its while, few enough to flow."""
_GROUP_TASKS = 256


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
    return Batch(_place(given["source"], login), tuple(tasks))


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
        if group and (nbytes + task.nbytes > _GROUP_BYTES or len(group) >= _GROUP_TASKS):
            yield group
            group, nbytes = [], 0
        group.append(task)
        nbytes += task.nbytes
    if group:
        yield group


def working_bytes(tasks: Sequence[ChunkTask]) -> int:
    """Return how much memory computing these takes: the answers of all, and the working space of one chunk."""
    # Decoding holds a chunk twice, and deviations are float64.
    return sum(map(answer_bytes, tasks)) + max(2 * task.nbytes + 16 * _cells(task) for task in tasks)


def _cells(task: ChunkTask) -> int:
    return task.nbytes // max(1, int(task.template.dtype[2:]))


def computed(tasks: Sequence[ChunkTask], raw: Sequence[bytes]) -> bytes:
    """Return the frames of tasks, given the bytes of their ranges; a chunk that fails has a frame that says so."""
    left = iter(raw)
    return b"".join([_frame(task, [next(left) for _ in task.ranges]) for task in tasks])


def _frame(task: ChunkTask, raw: list[bytes]) -> bytes:
    try:
        return partial_to_bytes(reduce_stored(raw, task))
    except CorruptChunkError as error:
        return failure_to_bytes(task.sequence, "corrupt", str(error))
    except UnsupportedError as error:
        return failure_to_bytes(task.sequence, "unsupported", str(error))
    except SumOverflowError as error:
        return failure_to_bytes(task.sequence, "overflow", str(error))


def failed(tasks: Iterable[ChunkTask], error: RequestError) -> bytes:
    """Return the frames of tasks whose bytes cannot be read."""
    return b"".join([failure_to_bytes(task.sequence, error.kind, str(error)) for task in tasks])
