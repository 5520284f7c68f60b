"""The code that runs next to the data: the bytes of one chunk in, its partial result out."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from activestore.core.codecs.decode import Buffer, Decoder
from activestore.core.conditions import unsatisfied
from activestore.core.group_kernel import assembled_states, blocks, placed
from activestore.core.missing import mask
from activestore.core.packing import makes_nan, unpack
from activestore.core.selection import region_index, region_shape
from activestore.core.task import UNWRITTEN, Array, ChunkPartial, ChunkTask, ChunkValues, State, TaskTemplate
from activestore.errors import CorruptChunkError, UnsupportedError

__all__ = ["decode_chunk", "decode_pieces", "fill_chunk", "reduce_chunk", "reduce_stored", "reduce_values"]

_SHORT = 16
"""Neighbouring numbers up to which a loop over them, begun anew for each cell, takes longer than to lay them apart first."""
_FEW = 4096
"""Numbers of which that saves nothing."""


def reduce_chunk(raw: Buffer, task: ChunkTask) -> ChunkPartial:
    """Return the partial result of one chunk.

    Parameters:
        raw: The bytes of the chunk as stored, `task.size` of them.
        task: What is wanted of it.

    Raises:
        CorruptChunkError: The bytes are damaged or cut off; it names file, variable, chunk and offset.
        UnsupportedError: A filter that cannot be undone here.
    """
    return reduce_values(decode_chunk(raw, task), task)


def reduce_stored(raw: Sequence[Buffer], task: ChunkTask) -> ChunkPartial:
    """Return the partial result of a task, given the bytes of each of its `ranges`.

    Raises:
        CorruptChunkError: The bytes are damaged or cut off; it names file, variable, chunk and offset.
        UnsupportedError: A filter that cannot be undone here.
    """
    if task.offset is None:
        return reduce_values(fill_chunk(task), task)
    return reduce_chunk(raw[0], task) if task.pieces is None else reduce_values(decode_pieces(raw, task), task)


def decode_chunk(raw: Buffer, task: ChunkTask) -> Array:
    """Return the stored numbers of the wanted part of a chunk, in native byte order.

    Raises:
        CorruptChunkError: The bytes are damaged or cut off.
        UnsupportedError: A filter that cannot be undone here.
    """
    _check_size(raw, task.size, task)
    try:
        return _wanted(_decoder(task, task.nbytes)(raw), task)
    except CorruptChunkError as error:
        raise CorruptChunkError(f"{task.describe()}: {error}") from None


def decode_pieces(raw: Sequence[Buffer], task: ChunkTask) -> Array:
    """Return what `decode_chunk` returns, of a task of several small chunks; `raw` are the bytes of each that was written.

    Raises:
        CorruptChunkError: The bytes of one are damaged or cut off.
        UnsupportedError: A filter that cannot be undone here.
    """
    pieces = task.pieces or ()
    nbytes = task.nbytes // len(pieces)
    # Arrays that may be written to: missing values are then replaced in place.
    if not task.codecs and len(raw) == len(pieces) and task.size == task.nbytes and set(map(len, raw)) == {nbytes}:
        return _wanted(bytearray().join(raw), task)
    decoded = np.empty((len(pieces), nbytes), np.uint8)
    decoder = _decoder(task, nbytes)
    if UNWRITTEN in pieces:
        decoded.reshape(-1).view(task.template.dtype)[...] = np.frombuffer(task.template.fill, task.template.dtype)
    written = [(i, size) for i, (offset, size) in enumerate(pieces) if offset >= 0]
    for one, (i, size) in zip(raw, written, strict=True):
        _check_size(one, size, task, i)
        try:
            decoder.into(one, decoded[i])
        except CorruptChunkError as error:
            raise CorruptChunkError(f"{task.describe(i)}: {error}") from None
    return _wanted(decoded.data, task)


def _decoder(task: ChunkTask, nbytes: int) -> Decoder:
    """Return what decodes the stored chunks of a task, each of `nbytes` bytes when decoded."""
    try:
        return Decoder(task.codecs, nbytes)
    except UnsupportedError as error:
        raise UnsupportedError(f"{task.describe()}: {error}") from None


def _check_size(raw: Buffer, size: int, task: ChunkTask, piece: int = 0) -> None:
    """Refuse a chunk that is not as long as it is stored."""
    if len(raw) != size:
        raise CorruptChunkError(f"{task.describe(piece)}: the file ends after {len(raw)} bytes of it; it is cut off")


def _wanted(decoded: Buffer, task: ChunkTask) -> Array:
    return wanted_part(np.frombuffer(decoded, task.template.dtype).reshape(task.shape), task)


def wanted_part(values: Array, task: ChunkTask) -> Array:
    """Return the wanted part of the whole chunk `values`, in native byte order."""
    if task.extent is not None and any(n < length for n, length in zip(task.extent, task.shape, strict=True)):
        whole = np.full(task.shape, np.frombuffer(task.template.fill, values.dtype)[0])
        stored = tuple(slice(0, n) for n in task.extent)
        whole[stored] = values[stored]
        values = whole
    part: Array = values[region_index(task.region)] if task.region else values
    return part if part.dtype.isnative else part.astype(part.dtype.newbyteorder("="))


def fill_chunk(task: ChunkTask) -> Array:
    """Return the stored numbers of the wanted part of a chunk that was never written: the fill value, as a view."""
    dtype = np.dtype(task.template.dtype)
    fill = np.frombuffer(task.template.fill, dtype).astype(dtype.newbyteorder("="))
    return np.broadcast_to(fill[0], region_shape(task.region))


def reduce_values(values: Array, task: ChunkTask) -> ChunkPartial:
    """Return the partial result of the stored numbers `values`, which are the wanted part of a chunk."""
    template = task.template
    values, invalid = _valid(_laid_out(values, template.axes), template)
    if any(grouping.count > 1 for grouping in task.groups):
        states, count = _grouped(values, invalid, task)
    else:
        states, count = _states(_chunk_values(values, invalid, template.axes, task), template)
    return ChunkPartial(task.sequence, states, count)


def _laid_out(values: Array, axes: tuple[int, ...]) -> Array:
    """Return the same array, in another order in memory where NumPy would reduce a few numbers at a time.

    Its loops run along the last dimensions, up to where reduced ones meet others: if these are short, they go first.
    """
    last, dims = values.ndim - 1 in axes, range(values.ndim)
    first = next((dim + 1 for dim in reversed(dims) if (dim in axes) != last), 0)
    if not first or values.size < _FEW or not 1 < math.prod(values.shape[first:]) <= _SHORT:
        return values
    apart = np.ascontiguousarray(values.transpose(*dims[first:], *dims[:first]))
    return apart.transpose(*dims[len(dims) - first :], *dims[: len(dims) - first])


def _valid(values: Array, template: TaskTemplate) -> tuple[Array, npt.NDArray[np.bool_] | None]:
    """Return stored numbers, unpacked if that is to be done here, and where they are missing or fail the condition."""
    invalid = mask(values, template.missing, skipna=template.skipna)
    if template.packing is not None:
        with np.errstate(all="ignore"):
            values = unpack(values, template.packing)
        if template.skipna and makes_nan(np.dtype(template.dtype), template.packing):
            made = np.isnan(values)
            invalid = made if invalid is None else np.logical_or(invalid, made, out=made)
    if template.value_dtype is not None:
        values = values.astype(template.value_dtype)
    if template.condition is not None:
        outside = unsatisfied(values, template.condition)
        invalid = outside if invalid is None else invalid if outside is None else np.logical_or(invalid, outside, out=outside)
    return values, invalid


def _chunk_values(values: Array, invalid: npt.NDArray[np.bool_] | None, axes: tuple[int, ...], task: ChunkTask) -> ChunkValues:
    """Return values as components see them."""
    return ChunkValues(
        values=values,
        invalid=invalid,
        axes=axes,
        count=_count(values.shape, invalid, axes),
        accumulator=task.template.accumulator,
        placement=task.placement,
        selected=task.template.selected,
    )


def _states(cells: ChunkValues, template: TaskTemplate) -> tuple[dict[str, State], npt.NDArray[np.int64]]:
    with np.errstate(all="ignore"):
        return {component.name: component.chunk(cells) for component in template.components}, cells.count


def _grouped(
    values: Array, invalid: npt.NDArray[np.bool_] | None, task: ChunkTask
) -> tuple[dict[str, State], npt.NDArray[np.int64]]:
    """Return states and counts of each group of a chunk."""
    template = task.template
    states, counts = [], []
    for block in blocks(values.shape, template.axes, task.groups):
        missing = None if invalid is None else block.cut(invalid)
        found, count = _states(_chunk_values(block.cut(values), missing, block.axes, task), template)
        states.append((block.where, {name: tuple(one.reshape(block.answer) for one in state) for name, state in found.items()}))
        if missing is not None:
            counts.append((block.where, count.reshape(block.answer)))
    groups = task.group_counts
    shape = tuple(groups.get(axis, 1) if axis in template.axes else length for axis, length in enumerate(values.shape))
    return assembled_states(shape, states), placed(shape, counts) if counts else _count_of_all(values.shape, shape, task)


def _count_of_all(lengths: tuple[int, ...], shape: tuple[int, ...], task: ChunkTask) -> npt.NDArray[np.int64]:
    """Return how many values each cell of groups has where none is missing: one number for all cells of a group."""
    grouped = {grouping.axis: np.bincount(np.repeat(grouping.labels, grouping.lengths)) for grouping in task.groups}
    count = np.full((1,) * len(shape), 1, np.int64)
    for axis in task.template.axes:
        members = grouped.get(axis, np.array([lengths[axis]]))
        count = count * members.reshape([-1 if one == axis else 1 for one in range(len(shape))])
    return np.broadcast_to(count, shape)


def _count(shape: tuple[int, ...], invalid: npt.NDArray[np.bool_] | None, axes: tuple[int, ...]) -> npt.NDArray[np.int64]:
    """Return how many values are valid under each cell; 0 or 1, in single bytes, where nothing is reduced."""
    under = tuple(1 if axis in axes else length for axis, length in enumerate(shape))
    dtype = np.dtype(np.int64 if axes else np.uint8)
    every = math.prod(shape[axis] for axis in axes)
    if invalid is None:
        # One number for all cells: whole fields of counts take longer to write and to add up than some chunks to reduce.
        return np.broadcast_to(np.array(every, dtype), under)
    if not axes:
        return (~invalid).view(dtype)
    if len(axes) == len(shape):
        # Several times faster than a sum, as are sums in the type that truth values have.
        return np.full(under, every - np.count_nonzero(invalid), dtype)
    few = invalid.view(np.uint8) if every <= np.iinfo(np.uint8).max else invalid
    lost = np.add.reduce(few, axis=axes, dtype=few.dtype if few is not invalid else dtype, keepdims=True)
    return np.subtract(every, lost, dtype=dtype)
