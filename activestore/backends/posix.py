"""The local backend: chunks are read from the source and reduced by NumPy, here."""

from __future__ import annotations

import threading
from contextlib import ExitStack
from typing import Any

import h5py
import numpy as np

from activestore.core.backend import BackendRecord, Capabilities
from activestore.core.hdf5 import find_dataset, load_plugins, open_hdf5
from activestore.core.kernel import decode_pieces, fill_chunk, reduce_chunk, reduce_values, wanted_part
from activestore.core.task import Array, ChunkPartial, ChunkTask
from activestore.core.variable import ReadableSource
from activestore.errors import CorruptChunkError, UnsupportedError
from activestore.hookspecs import hookimpl

__all__ = ["PosixBackend", "activestore_backends"]


class PosixBackend:
    """Reads the chunks of one source and reduces them in the calling thread.

    What no decoder for raw bytes is installed for is read through the HDF5 library, one chunk at a time.
    """

    name = "posix"
    capabilities = Capabilities(through_hdf5=True, joins=True)

    def __init__(self, source: ReadableSource) -> None:
        """Reduce chunks of `source`."""
        self._source = source
        self._lock = threading.Lock()
        self._open_files = ExitStack()
        self._file: h5py.File | None = None

    def __reduce__(self) -> tuple[Any, ...]:  # Any: pickle's own contract
        return type(self), (self._source,)

    def reduce_chunk(self, task: ChunkTask) -> ChunkPartial:
        """Return the partial result of one chunk.

        Raises:
            CorruptChunkError: The chunk is damaged or cut off.
            UnsupportedError: Nothing installed can undo one of its filters.
            SourceError: The source cannot be read.
        """
        if task.offset is None:
            return reduce_values(fill_chunk(task), task)
        if task.through_hdf5:
            return reduce_values(self._through_hdf5(task), task)
        if task.inline is not None:
            return reduce_chunk(task.inline[task.offset : task.offset + task.size], task)
        if task.pieces is not None:
            return reduce_values(decode_pieces(self._source.read_ranges(task.pieces), task), task)
        (raw,) = self._source.read_ranges([(task.offset, task.size)])
        return reduce_chunk(raw, task)

    def _through_hdf5(self, task: ChunkTask) -> Array:
        whole = np.zeros(task.shape, task.template.dtype)
        with self._lock:
            if self._file is None:
                load_plugins()
                self._file = self._open_files.enter_context(open_hdf5(self._source))
            dataset = find_dataset(self._file, self._source.uri, task.template.variable)
            stops = zip(task.origin, task.shape, dataset.shape, strict=True)
            box = tuple(slice(start, min(start + n, end)) for start, n, end in stops)
            try:
                read = dataset[box]
            except (OSError, RuntimeError) as error:
                raise _hdf5_error(task, error) from error
        # h5py makes truth values of an enumeration of FALSE and TRUE, however wide; all else has the stored bytes.
        viewed = read.ndim and read.dtype.kind != "b"
        stored = np.ascontiguousarray(read).view(whole.dtype) if viewed else np.asarray(read, whole.dtype)
        whole[tuple(slice(0, n) for n in stored.shape)] = stored
        return wanted_part(whole, task)

    def close(self) -> None:
        """Close the file that was opened for the HDF5 library, if any."""
        with self._lock:
            self._file = None
            self._open_files.close()


def _hdf5_error(task: ChunkTask, error: Exception) -> CorruptChunkError | UnsupportedError:
    names = ", ".join(codec.id for codec in task.codecs)
    missing = [c for c in task.codecs if not h5py.h5z.filter_avail(c.filter_id)]
    if missing:
        named = " and ".join(repr(codec.id) for codec in missing)
        return UnsupportedError(
            f"{task.describe()}: nothing installed can undo the filter {named}; "
            "pip install 'activestore[codecs]', or the HDF5 plugin of that filter"
        )
    return CorruptChunkError(f"{task.describe()}: the HDF5 library cannot read it through {names or 'its layout'}: {error}")


@hookimpl
def activestore_backends() -> list[BackendRecord]:
    """Register the local backend."""
    return [
        BackendRecord(name="posix", open=PosixBackend, description="reads each chunk and reduces it with NumPy in this process")
    ]
