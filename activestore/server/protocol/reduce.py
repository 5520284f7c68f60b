"""What a request of the protocol comes to, given the stored bytes: the protocol's order and identities, our kernel's numbers.

Source: Reductionist's API, release 0.13 (https://github.com/stackhpc/reductionist-rs, docs/api.md).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from activestore.core.codecs.decode import Buffer, Codec, decodable, decode_unsized
from activestore.core.kernel import decode_chunk, reduce_values
from activestore.core.missing import MANY
from activestore.core.reductions import find_reduction
from activestore.core.selection import Slice
from activestore.core.task import Array, ChunkPartial, ChunkTask, TaskTemplate
from activestore.errors import CorruptChunkError, SumOverflowError, UnsupportedError, to_install
from activestore.server.errors import RequestError
from activestore.server.protocol.request import COMPRESSIONS, ReduceRequest

__all__ = ["Answer", "answered_bytes", "memory", "reduced"]


_FOR_COUNT, _FOR_HEADERS = 22, 4096
"""Bytes that a count may have, as text, and all that is neither numbers nor counts."""


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """What a request comes to."""

    values: Array
    """The numbers in native byte order, of the protocol's type: their bytes, one after the other, are those to be sent."""
    shape: tuple[int, ...]
    """Lengths of the dimensions that are left."""
    count: npt.NDArray[np.int64]
    """How many numbers are valid under each; flat. Of "select" one number, for all."""


@dataclass(frozen=True, slots=True)
class _Layout:
    """A chunk with its dimensions in the order of memory, the last one running fastest."""

    shape: tuple[int, ...]
    ranges: tuple[range, ...]
    """The wanted positions along each dimension."""
    axes: tuple[int, ...]
    """The dimensions that are counted over, ascending."""

    @property
    def selected(self) -> tuple[int, ...]:
        """Shape of the selection."""
        return tuple(map(len, self.ranges))

    @property
    def kept(self) -> tuple[int, ...]:
        """Lengths of the dimensions that are left."""
        return tuple(length for axis, length in enumerate(self.selected) if axis not in self.axes)


def memory(request: ReduceRequest, *, largest_chunk: int) -> int:
    """Return how many bytes it takes at most to read, decode and reduce what is asked for, and to write the answer.

    Parameters:
        request: What is asked for.
        largest_chunk: Bytes that a chunk may have, stored or decoded.
    """
    stored = largest_chunk if request.size is None else request.size
    decoded = largest_chunk if request.nbytes is None else request.nbytes
    layout = _layout(request, request.shape or (decoded // request.itemsize,))
    cells = math.prod(layout.selected)
    unsized = request.shape is None and request.compression is not None
    decoding = decoded * ((request.compression is not None) + bool(request.filters) + unsized)
    # A copy with numbers in the place of what is missing, and where that is; sums of large integers are made of their halves.
    exact = 16 if request.operation == "sum" and request.dtype in ("int64", "uint64") else 0
    listed = 9 + request.itemsize if len(request.missing.values) > MANY else 0
    reducing = (decoded if request.compression or request.filters else 0) + cells * (request.itemsize + 2 + max(exact, listed))
    answered = cells if request.operation == "select" else math.prod(layout.kept)
    # Numbers and counts, cast, as Python's, and as bytes that grow while they are written.
    return stored + max(decoding, reducing) + answered * (4 * request.itemsize + 80) + 65536


def answered_bytes(request: ReduceRequest, *, largest_chunk: int) -> int:
    """Return how many bytes the answer to what is asked for has at most; parameters as for `memory`."""
    layout = _layout(request, request.shape or (largest_chunk // request.itemsize,))
    if request.operation == "select":
        return math.prod(layout.selected) * request.itemsize + _FOR_HEADERS
    return math.prod(layout.kept) * (request.itemsize + _FOR_COUNT) + _FOR_HEADERS


def reduced(request: ReduceRequest, raw: bytes, *, largest_chunk: int) -> Answer:
    """Return what a request comes to.

    Parameters:
        request: What is asked for.
        raw: The bytes as stored: `request.size` of them, or all to the end of the object.
        largest_chunk: Bytes that a chunk may have, stored or decoded.

    Raises:
        RequestError: 400 where the bytes cannot be decoded, are not as many as the request says, or where a sum of integers
            does not fit its type.
    """
    if request.size is not None and len(raw) != request.size:
        raise _failure(f"the object ends after {len(raw)} of the {request.size} bytes asked for")
    codecs = _codecs(request)
    try:
        data: Buffer = raw
        shape = request.shape
        if shape is None:
            data, codecs = decode_unsized(raw, codecs, largest_chunk), ()
            shape = (_length(data, request),)
        layout = _layout(request, shape)
        task = _task(request, layout, codecs, len(data))
        values = decode_chunk(data, task)
        # Regions run forwards.
        values = values[tuple(slice(None, None, -1 if one.step < 0 else 1) for one in layout.ranges)]
        return _answer(request, layout, values, reduce_values(values, task))
    except (CorruptChunkError, UnsupportedError) as error:
        # The kernel says of which file, variable and chunk it is; a request has no names for them.
        raise _failure(str(error.__context__ if isinstance(error.__context__, type(error)) else error)) from None
    except SumOverflowError:
        raise _overflow(request.dtype) from None


def _failure(why: str) -> RequestError:
    return RequestError(400, "failed to decode the chunk", (why,), "chunk")


def _overflow(dtype: str) -> RequestError:
    return RequestError(400, f"the sum does not fit {dtype}: reduce fewer axes", kind="chunk")


def _codecs(request: ReduceRequest) -> tuple[Codec, ...]:
    """Return the pipeline in the writer's order: in the protocol, a compressor always comes last."""
    codecs = tuple(Codec("shuffle", 2, (size,)) for size in request.filters)
    if request.compression is not None:
        codecs += (Codec(COMPRESSIONS[request.compression], 0),)
    if not decodable(codecs):
        advice = f"its operator can add it: {to_install('codecs')}"
        raise RequestError(400, f"compression: this server does not have {request.compression}; {advice}")
    return codecs


def _length(data: Buffer, request: ReduceRequest) -> int:
    """Return how many numbers there are where nobody says it."""
    if len(data) % request.itemsize:
        raise _failure(f"{len(data)} is not a multiple of the {request.itemsize} bytes of the dtype {request.dtype}")
    return len(data) // request.itemsize


def _layout(request: ReduceRequest, shape: tuple[int, ...]) -> _Layout:
    slices = request.selection or tuple((0, length, 1) for length in shape)
    ranges = tuple(range(length)[slice(*one)] for length, one in zip(shape, slices, strict=True))
    everything = request.axis is None or request.operation == "select"
    axes = tuple(range(len(shape))) if everything else request.axis or ()
    if request.order == "F":
        return _Layout(shape[::-1], ranges[::-1], tuple(len(shape) - 1 - axis for axis in reversed(axes)))
    return _Layout(shape, ranges, axes)


def _task(request: ReduceRequest, layout: _Layout, codecs: tuple[Codec, ...], size: int) -> ChunkTask:
    """Return the request as a task of the kernel; of an empty selection, and where nothing is reduced, only the count."""
    counted = request.operation in ("select", "count") or not layout.axes or 0 in layout.selected
    dtype = np.dtype(request.dtype)
    template = TaskTemplate(
        uri="request",
        variable=request.dtype,
        dtype=dtype.newbyteorder("<" if request.byte_order == "little" else ">").str,
        missing=request.missing,
        skipna=False,
        packing=None,
        axes=layout.axes,
        components=() if counted else find_reduction(request.operation).components,
        accumulator=f"{dtype.kind}8",
        fill=bytes(dtype.itemsize),
        selected=layout.selected,
    )
    return ChunkTask(
        template=template,
        sequence=0,
        chunk=(0,) * len(layout.shape),
        origin=(0,) * len(layout.shape),
        shape=layout.shape,
        extent=None,
        offset=request.offset,
        size=size,
        pieces=None,
        codecs=codecs,
        through_hdf5=False,
        inline=None,
        region=tuple(map(_forwards, layout.ranges)),
        placement=tuple(slice(0, length) for length in layout.selected),
        first=True,
    )


def _forwards(wanted: range) -> Slice:
    if not wanted:
        return Slice(0, 0, 1)
    ascending = wanted if wanted.step > 0 else wanted[::-1]
    return Slice(ascending[0], ascending[-1] + 1, ascending.step)


def _answer(request: ReduceRequest, layout: _Layout, values: Array, partial: ChunkPartial) -> Answer:
    """Return the kernel's result in the order and the shape of the protocol's answers."""
    backwards = request.order == "F"
    shape = layout.kept[::-1] if backwards else layout.kept
    count = partial.count.astype(np.int64)
    if request.operation == "select":
        # Numbers that are not reduced are sent in the order of memory, whatever the shape says.
        selected = layout.selected[::-1] if backwards else layout.selected
        return Answer(np.ascontiguousarray(values).reshape(selected), selected, count.reshape(1))
    if request.operation != "count" and not layout.axes:
        return Answer(np.ascontiguousarray(values).reshape(shape), shape, count.reshape(-1))
    numbers = _numbers(request, partial, count)
    if backwards:
        numbers, count = numbers.T, count.T
    return Answer(np.ascontiguousarray(numbers).reshape(shape), shape, count.reshape(-1))


def _numbers(request: ReduceRequest, partial: ChunkPartial, count: npt.NDArray[np.int64]) -> Array:
    """Return sum, minimum, maximum or count in the protocol's type, with its identity where nothing is valid."""
    if request.operation == "count":
        return count
    dtype = np.dtype(request.dtype)
    if not partial.states:
        return np.full(count.shape, _identity(request.operation, dtype), dtype)
    state = find_reduction(request.operation).finalize(partial.states, count)
    if dtype.kind != "f" and state.size:
        limits = np.iinfo(dtype)
        if state.max() > limits.max or state.min() < limits.min:
            raise _overflow(request.dtype)
    with np.errstate(over="ignore"):
        numbers: Array = state.astype(dtype)
    numbers[count == 0] = _identity(request.operation, dtype)
    return numbers


def _identity(operation: str, dtype: np.dtype[Any]) -> Any:  # Any: a number of that type
    """Return what the protocol answers where nothing is valid: of floats, the least and the greatest that are finite."""
    if operation == "sum":
        return 0
    limits = np.finfo(dtype) if dtype.kind == "f" else np.iinfo(dtype)
    return limits.min if operation == "max" else limits.max
