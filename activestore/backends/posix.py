"""The local backend: chunks are read from the source and reduced by NumPy, here."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import h5py
import numpy as np

from activestore.core.backend import BackendOptions, BackendRecord, Capabilities
from activestore.core.formats.hdf5.file import find_dataset, hdf5_file, load_plugins
from activestore.core.formats.hdf5.lock import hdf5_turn
from activestore.core.kernel import reduce_chunk, reduce_stored, reduce_values, wanted_part
from activestore.core.source import ReadableSource
from activestore.core.task import Array, ChunkPartial, ChunkTask
from activestore.core.threads import Budget
from activestore.errors import ActivestoreError, CorruptChunkError, UnsupportedError, to_install
from activestore.hookspecs import hookimpl
from activestore.process.forking import keep_unused, renew_after_fork

__all__ = ["PosixBackend", "activestore_backends"]

_MEMORY = 192 << 20
"""Bytes, stored and decoded, of the chunks of a remote source that are at work at once."""
_ON_DISK = Capabilities(through_hdf5=True, joins=True, small_chunk=256 << 10)
# Over a network, what one thread asks for together another cannot ask for meanwhile.
_OVER_NETWORK = replace(_ON_DISK, workers=16, batch=64, small_chunk=16 << 10)


class PosixBackend:
    """Reads the chunks of one source and reduces them in the calling thread.

    What no decoder for raw bytes is installed for is read through the HDF5 library, one chunk at a time.
    """

    name = "posix"

    def __init__(self, source: ReadableSource, options: BackendOptions | None = None) -> None:  # noqa: ARG002  # it has none
        """Reduce chunks of `source`; the backend has no options."""
        self._source = source
        self._memory = Budget(_MEMORY)
        self._lock = threading.Lock()
        self._file: h5py.File | None = None
        renew_after_fork(self)

    def renew(self) -> None:
        """Open the file anew in a forked child: what the HDF5 library has open is the parent's."""
        self._lock = threading.Lock()
        keep_unused(self._file)
        self._file = None

    def __reduce__(self) -> tuple[Any, ...]:  # Any: pickle's own contract
        return type(self), (self._source,)

    @property
    def capabilities(self) -> Capabilities:
        """What the kernel can do; chunks that come over a network are asked for several at a time."""
        return _OVER_NETWORK if self._source.is_remote else _ON_DISK

    def reduce_chunks(self, tasks: Sequence[ChunkTask]) -> list[ChunkPartial]:
        """Return the partial results of several chunks, whose bytes are asked for together.

        Raises:
            CorruptChunkError: A chunk is damaged or cut off.
            UnsupportedError: Nothing installed can undo one of its filters.
            SourceError: The source cannot be read.
        """
        ranges = [task.ranges for task in tasks]
        with self._memory.of(sum(task.size + task.nbytes for task in tasks)):
            read = iter(self._source.read_ranges([one for own in ranges for one in own]))
            return [self._reduced(task, [next(read) for _ in own]) for task, own in zip(tasks, ranges, strict=True)]

    def reduce_chunk(self, task: ChunkTask) -> ChunkPartial:
        """Return the partial result of one chunk.

        Raises:
            CorruptChunkError: The chunk is damaged or cut off.
            UnsupportedError: Nothing installed can undo one of its filters.
            SourceError: The source cannot be read.
        """
        (partial,) = self.reduce_chunks((task,))
        return partial

    def _reduced(self, task: ChunkTask, raw: list[bytes]) -> ChunkPartial:
        """Return the partial result of a chunk whose stored bytes are `raw`, in as many parts as it has ranges."""
        if task.through_hdf5 and task.offset is not None:
            return reduce_values(self._through_hdf5(task), task)
        if task.inline is not None and task.offset is not None:
            return reduce_chunk(task.inline[task.offset : task.offset + task.size], task)
        return reduce_stored(raw, task)

    def _through_hdf5(self, task: ChunkTask) -> Array:
        whole = np.zeros(task.shape, task.template.dtype)
        load_plugins()
        with self._lock, hdf5_turn(through_python=self._source.is_remote):
            if self._file is None:
                self._file = hdf5_file(self._source)
            dataset = find_dataset(self._file, self._source.uri, task.template.variable)
            stops = zip(task.origin, task.shape, dataset.shape, strict=True)
            box = tuple(slice(start, min(start + n, end)) for start, n, end in stops)
            try:
                read = dataset[box]
            except ActivestoreError:
                raise
            except (OSError, RuntimeError) as error:
                raise _hdf5_error(task, error) from None
        # h5py makes truth values of an enumeration of FALSE and TRUE, however wide; all else has the stored bytes.
        viewed = read.ndim and read.dtype.kind != "b"
        stored = np.ascontiguousarray(read).view(whole.dtype) if viewed else np.asarray(read, whole.dtype)
        whole[tuple(slice(0, n) for n in stored.shape)] = stored
        return wanted_part(whole, task)

    def abandon(self) -> None:
        """Break off the reads that are under way."""
        self._source.abandon()

    def close(self) -> None:
        """Close the file that was opened for the HDF5 library, if any."""
        with self._lock, hdf5_turn(through_python=self._source.is_remote):
            if self._file is not None:
                self._file.close()
            self._file = None


def _hdf5_error(task: ChunkTask, error: Exception) -> CorruptChunkError | UnsupportedError:
    names = ", ".join(codec.id for codec in task.codecs)
    missing = [c for c in task.codecs if not h5py.h5z.filter_avail(c.filter_id)]
    if missing:
        named = " and ".join(repr(codec.id) for codec in missing)
        return UnsupportedError(
            f"{task.describe()}: nothing installed can undo the filter {named}; "
            f"{to_install('codecs')}, or the HDF5 plugin of that filter"
        )
    return CorruptChunkError(f"{task.describe()}: the HDF5 library cannot read it through {names or 'its layout'}: {error}")


@hookimpl
def activestore_backends() -> list[BackendRecord]:
    """Register the local backend."""
    return [
        BackendRecord(name="posix", open=PosixBackend, description="reads each chunk and reduces it with NumPy in this process")
    ]
