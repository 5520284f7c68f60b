"""Arrays that xarray reads lazily: the stored numbers of a variable, through the parallel reader."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt

from activestore.accessor.arrays.decoding import decoded
from activestore.accessor.arrays.lazy import LazyArray
from activestore.accessor.arrays.overwrite_guard import watch
from activestore.active import Active
from activestore.core.formats.hdf5.group import Outline, outlined_variable
from activestore.inputs.open import workers_of
from activestore.network.concurrency_limit import at_most
from activestore.network.redaction import without_secrets
from activestore.process.forking import Lock
from activestore.sources.open import Source

__all__ = ["StoredArray", "StoredFile"]


class StoredFile:
    """A file as it was opened: its source, and the options that every variable of it is read and reduced with."""

    __slots__ = ("__weakref__", "_source", "is_closed", "options")

    def __init__(self, source: Source, options: Mapping[str, Any]) -> None:  # Any: keyword arguments of many types
        """Read from `source`; `options` are keyword arguments of `Active`."""
        self._source, self.options = source, options
        self.is_closed = False
        """Whether the user has closed what was opened; it can still be read."""
        watch(self)

    def __reduce__(self) -> tuple[Any, ...]:  # Any: pickle's own contract
        return type(self), (self._source, without_secrets(self.options))

    def __repr__(self) -> str:
        return f"StoredFile({self.uri!r})"

    @property
    def source(self) -> Source:
        """Where the bytes are."""
        return self._source

    @property
    def uri(self) -> str:
        """The address."""
        return self._source.uri

    def close(self) -> None:
        """Let the file be written over by what does not read it."""
        self.is_closed = True

    @contextmanager
    def metadata(self) -> Iterator[Source]:
        """Give the source for reading metadata, and text, with no more requests at once than the user wants."""
        with at_most(workers_of(self.source, self.options)), self.source.metadata() as kept:
            yield kept

    def active(self, name: str, outline: Outline | None = None) -> Active:
        """Return the variable `name`; what is known of it already is not read again."""
        known = None if outline is None else outlined_variable(outline, self.source, name)
        return Active(self.source, name, **self.options) if known is None else Active.of(self.source, known, **self.options)


class StoredArray(LazyArray):
    """The stored numbers of a variable, neither masked nor unpacked: decoding is xarray's.

    No file is held open, and it may be pickled; it is opened, by the variable's name, when numbers are first asked for.
    """

    def __init__(
        self,
        file: StoredFile,
        name: str,
        *,
        shape: tuple[int, ...],
        dtype: np.dtype[Any],
        outline: Outline | None = None,
    ) -> None:
        """Stand for the variable `name` of `file`, whose shape and type are known, and more if there is an `outline`."""
        self.file, self.name = file, name
        self._outline = outline
        self.shape, self.dtype = shape, dtype
        self._active: Active | None = None
        self._lock = Lock()

    def __reduce__(self) -> tuple[Any, ...]:  # Any: pickle's own contract
        return _stored_array, (self.file, self.name, self.shape, self.dtype)

    def __repr__(self) -> str:
        return f"<StoredArray {self.name!r} {self.shape} {self.dtype} of {self.file.uri}>"

    def active(self) -> Active:
        """Return the variable as `Active` opens it, with netCDF4-python's rules."""
        with self._lock:
            if self._active is None:
                self._active = self.file.active(self.name, self._outline)
            return self._active

    def stored(self) -> Active:
        """Return the variable with its stored numbers as values."""
        return decoded(self.active(), self.dtype, ())

    def _read(self, key: tuple[Any, ...]) -> npt.NDArray[Any]:
        values = np.asarray(self.stored()[key].read().data)
        return values if self.dtype.metadata is None else values.view(self.dtype.newbyteorder("="))


def _stored_array(file: StoredFile, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> StoredArray:
    return StoredArray(file, name, shape=shape, dtype=dtype)
