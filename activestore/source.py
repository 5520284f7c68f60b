"""Sources of bytes: a local file, read at many places at once."""

from __future__ import annotations

import os
import stat
import weakref
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import unquote, urlsplit

from activestore.core.variable import ReadableSource
from activestore.errors import SourceError, UnsupportedError, map_errors

__all__ = ["LocalSource", "Source", "open_source"]

Source = ReadableSource
"""What a source offers: `uri`, `size`, `version`, `read_ranges`, `for_hdf5`."""


class LocalSource:
    """A file on a disk; safe to read from many threads, and picklable (it opens the file anew)."""

    def __init__(self, path: str) -> None:
        """Open the file at `path`.

        Raises:
            SourceNotFoundError: There is none.
            SourceError: It cannot be opened.
        """
        self._path = os.path.abspath(path)
        self._uri = path
        with map_errors(path):
            # Before it is opened: a pipe would have to be waited for.
            if not stat.S_ISREG(_status(self._path).st_mode):
                raise SourceError(f"{path}: is not a regular file; name a netCDF or HDF5 file")
            self._descriptor = os.open(self._path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
            weakref.finalize(self, os.close, self._descriptor)
            status = os.fstat(self._descriptor)
        self._size = status.st_size
        self._version = _version(status)

    def __repr__(self) -> str:
        return f"LocalSource({self._uri!r})"

    def __reduce__(self) -> tuple[Any, ...]:  # Any: pickle's own contract
        return type(self), (self._path,)

    @property
    def uri(self) -> str:
        """The path as it was given."""
        return self._uri

    @property
    def size(self) -> int:
        """Bytes in the file when it was opened."""
        return self._size

    @property
    def version(self) -> str:
        """Modification time in nanoseconds, and size, when the file was opened."""
        return self._version

    @property
    def is_remote(self) -> bool:
        """False: a read takes next to no time to begin."""
        return False

    @property
    def metadata(self) -> LocalSource:
        """The source itself: the operating system keeps what was read."""
        return self

    def current_version(self) -> str:
        """Return the version that the file at this path has now.

        Raises:
            SourceNotFoundError: It is gone.
        """
        with map_errors(self._uri):
            return _version(os.stat(self._path))

    def read_ranges(self, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """Return the bytes of each (offset, size); fewer only where the file ends.

        Raises:
            SourceError: The disk does not give them.
        """
        with map_errors(self._uri):
            return [self._read(offset, size) for offset, size in ranges]

    def _read(self, offset: int, size: int) -> bytes:
        size = max(0, min(size, self._size - offset))
        data = os.pread(self._descriptor, size, offset) if size else b""
        while len(data) < size:
            more = os.pread(self._descriptor, size - len(data), offset + len(data))
            if not more:
                break
            data += more
        return data

    def for_hdf5(self) -> str:
        """Return the path."""
        return self._path


def _status(path: str) -> os.stat_result:
    try:
        return os.stat(path)
    except ValueError as error:
        raise SourceError(f"{path!r}: no file can have this name ({error})") from error


def _version(status: os.stat_result) -> str:
    return f"{status.st_mtime_ns}-{status.st_size}-{status.st_ino}"


def open_source(uri: str | os.PathLike[str], storage_options: Mapping[str, object] | None = None) -> Source:
    """Return the source at `uri`: the path of a local file, or a `file://` address.

    Raises:
        SourceNotFoundError: There is nothing there.
        SourceError: It cannot be opened.
        UnsupportedError: The address is not one of a local file.

    Examples:
        >>> open_source("no/such/file.nc")
        Traceback (most recent call last):
        ...
        activestore.errors.SourceNotFoundError: no/such/file.nc: no such file; check the path
    """
    text = os.fsdecode(uri)
    scheme, colon, _ = text.partition("://")
    if not colon:
        return LocalSource(text)
    if scheme != "file":
        raise UnsupportedError(f"{text}: addresses of the kind {scheme}:// cannot be read yet; copy the file to a local disk")
    return LocalSource(unquote(urlsplit(text).path))
