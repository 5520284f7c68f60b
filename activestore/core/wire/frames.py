"""Partial results as frames of bytes: two numbers, the lengths of what follows, then a header in JSON, then the arrays' bytes.

All numbers are little-endian, whatever the machine.
"""

from __future__ import annotations

import json
import math
import struct
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from activestore.core.packing import Packing, unpacked_dtype
from activestore.core.reductions import with_carry
from activestore.core.selection import region_shape
from activestore.core.task import Array, ChunkPartial, ChunkTask, Component, State, TaskTemplate
from activestore.errors import BackendError, WireError

__all__ = [
    "POSITIONED",
    "answer_bytes",
    "failure_to_bytes",
    "frames_from_bytes",
    "numbers_bytes",
    "numbers_of_part",
    "partial_to_bytes",
]

POSITIONED = frozenset({"argmin", "argmax"})
"""Components that have to know where the numbers lie in the selection, and say where they found one."""
_LENGTHS = struct.Struct("<II")
_LONGEST_MESSAGE = 300
"""Characters of the message of a failure."""
_LONGEST_KIND = 40
_FOR_FAILURES = 4608
"""Bytes that the frame of a failure has at most: JSON takes up to twelve for a character."""
_LONGEST_HEADER = 16 << 10
_COUNTS = tuple(np.dtype(name) for name in ("u1", "u2", "u4", "u8"))
"""What counts travel as."""


@dataclass(frozen=True, slots=True)
class _Layout:
    """What the partial result of a task is made of."""

    kept: tuple[int, ...]
    """The shape of counts and states: reduced dimensions have the length 1, or a place for each group."""
    under: int
    """How many numbers are reduced to one, at most."""
    states: tuple[tuple[str, tuple[np.dtype[Any], ...]], ...]
    """Each component's name, and the types of its arrays."""
    numbers: int
    """Bytes of the arrays, at most."""


def _layout(template: TaskTemplate, lengths: tuple[int, ...], groups: Mapping[int, int]) -> _Layout:
    """Return the layout of the partial result of a wanted part of these lengths, and so many groups along dimensions."""
    kept = tuple(groups.get(axis, 1) if axis in template.axes else n for axis, n in enumerate(lengths))
    under = math.prod(lengths[axis] for axis in template.axes)
    states = _states(template.dtype, template.packing, template.accumulator, template.components)
    width = sum(kind.itemsize for _, found in states for kind in found) + _count_dtype(under).itemsize
    return _Layout(kept, under, states, math.prod(kept) * width)


@lru_cache(maxsize=64)
def _states(
    dtype: str, packing: Packing | None, accumulator: str, components: tuple[Component, ...]
) -> tuple[tuple[str, tuple[np.dtype[Any], ...]], ...]:
    """Return each component's name, and the types of the arrays that are its state."""
    with np.errstate(all="ignore"):
        value = unpacked_dtype(np.dtype(dtype), packing)
    total = np.dtype(accumulator)
    kinds = {
        "sum": (total, np.dtype("i8")) if total.kind != "f" and value.itemsize == 8 else (total,),
        "min": (value,),
        "max": (value,),
        "moments": (np.dtype("f8"), np.dtype("f8"), np.dtype("f8")),
        "any": (np.dtype(bool),),
        "all": (np.dtype(bool),),
        "argmin": (value, np.dtype("i8")),
        "argmax": (value, np.dtype("i8")),
        "values": (value,),
    }
    return tuple((component.name, kinds[component.name]) for component in components)


def _little(dtype: np.dtype[Any]) -> np.dtype[Any]:
    return dtype.newbyteorder("<")


def _count_dtype(most: int) -> np.dtype[Any]:
    """Return the smallest type that counts up to `most`."""
    return _COUNTS[(most > 0xFF) + (most > 0xFFFF) + (most > 0xFFFFFFFF)]


def numbers_bytes(task: ChunkTask) -> int:
    """Return how many bytes the numbers of a task's partial result have as they travel, at most.

    Examples:
        >>> from activestore import Active
        >>> [numbers_bytes(task) for task in Active("docs/tas.nc", "tas").plan("mean", axis="time").tasks()]
        [5832, 5832]
    """
    return numbers_of_part(task.template, region_shape(task.region), task.group_counts)


def numbers_of_part(template: TaskTemplate, lengths: tuple[int, ...], groups: Mapping[int, int]) -> int:
    """Return the same for a wanted part of these lengths, and so many groups along dimensions."""
    return _layout(template, lengths, groups).numbers


def answer_bytes(task: ChunkTask) -> int:
    """Return how many bytes the frame that answers a task has, at most: its numbers or its failure."""
    # A header names each array's component, type and lengths: a few hundred bytes, but for many dimensions.
    return numbers_bytes(task) + max(_FOR_FAILURES, 256 + 10 * (64 + 12 * len(task.shape)))


def partial_to_bytes(partial: ChunkPartial) -> bytes:
    """Return a partial result as one frame.

    Raises:
        WireError: It has 4 GiB or more.
    """
    count = _shortened(partial.count)
    arrays = [count]
    said = []
    for name, state in partial.states.items():
        found = [np.asarray(array) for array in (state if name != "sum" else _shortened_sum(state))]
        arrays += found
        said.append((name, *[(array.dtype.str, array.shape) for array in found]))
    header = f'{{"sequence":{partial.sequence},{_header((count.dtype.str, count.shape), tuple(said))}'.encode()
    body = b"".join(
        [(array if array.dtype.str[0] != ">" else array.astype(_little(array.dtype))).tobytes() for array in arrays]
    )
    if len(body) >= 1 << 32:
        raise WireError(f"a partial result of {len(body):,} bytes is too large to be sent; reduce more axes")
    return _LENGTHS.pack(len(header), len(body)) + header + body


def _shortened(count: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return counts in the smallest type that holds them; a single one where all are equal."""
    if count.size == 1:
        most = least = int(count.item())
    else:
        most, least = int(count.max()), int(count.min())
    kind = _count_dtype(most)
    return np.array(most, kind) if least == most else count.astype(kind)


def _shortened_sum(state: State) -> State:
    """Return the state of a sum without how many times 2**64 are to be added where that is 0 throughout, as it mostly is."""
    return state[:1] if len(state) > 1 and not state[1].any() else state


@lru_cache(maxsize=256)
def _header(count: tuple[str, tuple[int, ...]], states: tuple[Any, ...]) -> str:
    """Return the header of a partial result behind its sequence; `states` are names, each with types and shapes."""
    said = {name: [(dtype.replace(">", "<"), shape) for dtype, shape in arrays] for name, *arrays in states}
    return json.dumps({"count": (count[0].replace(">", "<"), count[1]), "states": said}, separators=(",", ":"))[1:]


def failure_to_bytes(sequence: int, kind: str, message: str) -> bytes:
    """Return, as one frame, why a task could not be done.

    Parameters:
        sequence: The task's place in grid order.
        kind: What went wrong, in a word: "chunk", "origin", "forbidden", "overflow", "unsupported", …
        message: What a user is told, without secrets; its beginning if it is long.

    Examples:
        >>> failure_to_bytes(3, "chunk", "it is cut off")[8:]
        b'{"sequence":3,"error":{"kind":"chunk","message":"it is cut off"}}'
    """
    failure = {"kind": kind[:_LONGEST_KIND], "message": message[:_LONGEST_MESSAGE]}
    header = json.dumps({"sequence": sequence, "error": failure}, separators=(",", ":")).encode()
    return _LENGTHS.pack(len(header), 0) + header


def frames_from_bytes(body: bytes, tasks: Sequence[ChunkTask]) -> list[ChunkPartial | BackendError]:
    """Return what the frames of an answer say of each task: its partial result, or why there is none.

    Parameters:
        body: All frames, in the order of the tasks.
        tasks: What was asked for: tasks of one run.

    Raises:
        WireError: They are damaged, cut off, out of order, or not what was asked for.
    """
    found: list[ChunkPartial | BackendError] = []
    # Most headers differ in their sequence only: the rest of each is read once.
    forms: dict[tuple[bytes, tuple[int, ...], tuple[int, ...]], _Form] = {}
    at = 0
    for task in tasks:
        if at + _LENGTHS.size > len(body):
            raise WireError(f"the answer ends before task {task.sequence}")
        of_header, of_arrays = _LENGTHS.unpack_from(body, at)
        begin, start = at + _LENGTHS.size, at + _LENGTHS.size + of_header
        beginning = b'{"sequence":%d,' % task.sequence
        if start + of_arrays > len(body) or of_header > _LONGEST_HEADER:
            raise WireError(f"the answer ends in the middle of task {task.sequence}")
        if not body.startswith(beginning, begin):
            raise WireError(f"the answer has something else where task {task.sequence} belongs")
        groups = task.group_counts
        key = body[begin + len(beginning) : start], region_shape(task.region), tuple(groups.values())
        form = forms.get(key)
        if form is None:
            header = _json(key[0], task)
            if header.keys() == {"error"} and not of_arrays:
                found.append(_failure(header["error"], task))
                at = start
                continue
            form = forms[key] = _form(header, _layout(task.template, key[1], groups), task)
        found.append(_partial(body, start, of_arrays, form, task, of_header))
        at = start + of_arrays
    if at != len(body):
        raise WireError(f"the answer has {len(body) - at} bytes too many")
    return found


@dataclass(frozen=True, slots=True)
class _Form:
    """What the numbers of a frame are."""

    layout: _Layout
    count: np.dtype[Any]
    """The type of its counts."""
    cells: int
    """How many counts it has: one for all, or one for each cell."""
    carried: bool
    """Whether sums of integers come with how many times 2**64 are to be added to them."""
    nbytes: int
    """Bytes of all numbers."""


def _json(raw: bytes, task: ChunkTask) -> dict[str, Any]:  # Any: JSON
    """Return the header of a frame, without its sequence.

    Raises:
        WireError: It is none.
    """
    try:
        header = json.loads(b"{" + raw)
    except (ValueError, RecursionError):
        raise WireError(f"the header of task {task.sequence} is not JSON") from None
    if not isinstance(header, dict):
        raise WireError(f"the header of task {task.sequence} is not one")
    return header


def _form(header: dict[str, Any], layout: _Layout, task: ChunkTask) -> _Form:
    """Return what a header says that the numbers behind it are.

    Raises:
        WireError: Not what was asked for.
    """
    states, given, shape = header.get("states"), header.get("count"), list(layout.kept)
    if header.keys() != {"count", "states"} or not isinstance(states, dict):
        raise WireError(f"the header of task {task.sequence} lacks something, or has too much")
    carried = isinstance(states.get("sum"), list) and len(states["sum"]) > 1
    kept = [(name, kinds if carried or name != "sum" else kinds[:1]) for name, kinds in layout.states]
    if list(states.items()) != [(name, [[_little(kind).str, shape] for kind in kinds]) for name, kinds in kept]:
        raise WireError(f"the states of task {task.sequence} are not those that were asked for")
    kinds = {_little(kind).str: kind for kind in _COUNTS}
    if not isinstance(given, list) or len(given) != 2 or str(given[0]) not in kinds or given[1] not in ([], shape):
        raise WireError(f"the counts of task {task.sequence} are not those that were asked for")
    count, cells = kinds[str(given[0])], math.prod(layout.kept) if given[1] else 1
    width = sum(kind.itemsize for _, kinds in kept for kind in kinds)
    return _Form(layout, count, cells, carried, cells * count.itemsize + math.prod(layout.kept) * width)


def _partial(body: bytes, start: int, nbytes: int, form: _Form, task: ChunkTask, of_header: int) -> ChunkPartial:
    """Return the partial result whose numbers begin at `start`.

    Raises:
        WireError: They cannot be right.
    """
    layout = form.layout
    if nbytes != form.nbytes:
        raise WireError(f"the numbers of task {task.sequence} have {nbytes} bytes where {form.nbytes} belong")
    counts = _native(body, form.count, form.cells, start)
    counted = np.empty(layout.kept, np.int64 if task.template.axes else np.uint8)
    counted[...] = counts[0] if form.cells == 1 else counts.reshape(layout.kept)
    if int(counts[0] if form.cells == 1 else counts.max()) > layout.under:
        raise WireError(f"task {task.sequence} counts more values than there are")
    states: dict[str, State] = {}
    at, size = start + form.cells * form.count.itemsize, math.prod(layout.kept)
    for name, kinds in layout.states:
        state: State = ()
        for kind in kinds if form.carried or name != "sum" else kinds[:1]:
            state = (*state, _native(body, kind, size, at).reshape(layout.kept))
            at += size * kind.itemsize
        states[name] = state if len(state) == len(kinds) else with_carry(state)
        if name in _LIMITED:
            _check(name, states[name][-1], counted, task)
    return ChunkPartial(task.sequence, states, counted, _LENGTHS.size + of_header + nbytes)


def _native(body: bytes, kind: np.dtype[Any], cells: int, at: int) -> Array:
    if sys.byteorder == "little":
        return np.frombuffer(body, kind, cells, at)
    return np.frombuffer(body, _little(kind), cells, at).astype(kind)


_LIMITED = POSITIONED | {"any", "all"}
"""Components whose states cannot be just any numbers."""


def _check(name: str, array: Array, count: npt.NDArray[Any], task: ChunkTask) -> None:
    """Refuse positions outside of the selection, and truth values that are neither.

    Raises:
        WireError: There is one.
    """
    template = task.template
    if name in POSITIONED:
        total = math.prod(template.selected[axis] for axis in template.axes)
        odd = bool(np.any(((array < 0) | (array >= total)) & (count > 0)))
    else:
        odd = int(array.view(np.uint8).max()) > 1
    if odd:
        raise WireError(f"the state {name!r} of task {task.sequence} has something that it cannot have")


_REASONS = {
    "request": "the server does not understand the request",
    "chunk": "bytes that the server finds damaged",
    "corrupt": "bytes that the server finds damaged",
    "origin": "the server cannot read the object",
    "forbidden": "the server may not read the object",
    "unauthorized": "the server needs another login",
    "busy": "the server has too much to do",
    "internal": "the server is at fault",
    "overflow": "a sum that does not fit into 64 bits",
    "unsupported": "a filter that the server cannot undo",
}
"""What reports say of each kind of failure."""


def _failure(given: object, task: ChunkTask) -> BackendError:
    """Return what a frame says of a failure.

    Raises:
        WireError: Nothing that makes sense.
    """
    kind, message = (given.get("kind"), given.get("message")) if isinstance(given, dict) else (None, None)
    if not isinstance(kind, str) or not isinstance(message, str):
        raise WireError(f"the failure of task {task.sequence} is not one")
    said = " ".join(message[:_LONGEST_MESSAGE].split())
    reason = _REASONS.get(kind, "the server fails in a way that is not known here")
    return BackendError(f"{task.describe()}: {reason}: {said}", reason=reason)
