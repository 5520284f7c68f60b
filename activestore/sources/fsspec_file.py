"""Files wherever fsspec reaches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, BinaryIO

from activestore.core.lazy_pickle import source_later
from activestore.errors import SourceError, SourceNotFoundError
from activestore.network.byte_ranges import clipped_ranges, cut_ranges, merged_ranges
from activestore.network.redaction import public_address
from activestore.process.forking import Lock
from activestore.sources.fsspec_errors import named_errors
from activestore.sources.fsspec_location import FsspecPlace
from activestore.sources.metadata_view import MetadataView, data_file

__all__ = ["FsspecSource"]


class FsspecSource:
    """Anything else that fsspec reads; picklable, without secrets."""

    is_remote = True

    def __init__(self, uri: str, options: Mapping[str, Any], reopen: tuple[Any, ...]) -> None:  # Any: options of many types
        """Open the file at `uri`.

        Raises:
            SourceNotFoundError: There is nothing there.
            SourceError: It cannot be reached.
            UnsupportedError: fsspec does not know such addresses, or lacks the package for them.
        """
        self._uri, self._address, self._reopen = public_address(uri), uri, reopen
        self._place = FsspecPlace(uri, options)
        # File systems that are not asynchronous keep one connection, or one open file, for all.
        alone = not self._files.async_impl
        self._turn: AbstractContextManager[Any] = Lock() if alone else nullcontext()  # Any: what is not used
        self._size, self._version = self._status()
        self._view = MetadataView(self, {})

    def __repr__(self) -> str:
        return f"FsspecSource({self._uri!r})"

    @property
    def _files(self) -> Any:  # Any: fsspec is untyped
        return self._place.files

    @property
    def _path(self) -> str:
        return self._place.path

    def __reduce__(self) -> tuple[Any, ...]:  # Any: pickle's own contract
        return source_later(self.uri, (_reopened, (self._reopen, self._version)), is_remote=True)

    @property
    def uri(self) -> str:
        """The address, without user and password."""
        return self._uri

    @property
    def size(self) -> int:
        """Bytes in the file when it was opened."""
        return self._size

    @property
    def version(self) -> str:
        """What fsspec tells of its version when it was opened: ETag, time of modification, and size."""
        return self._version

    @contextmanager
    def metadata(self) -> Iterator[MetadataView]:
        """Give a view of it that keeps what is read."""
        yield self._view

    def current_version(self) -> str:
        """Return the version that the file has now.

        Raises:
            SourceError: It cannot be reached.
        """
        return self._status()[1]

    def _status(self) -> tuple[int, str]:
        with self._turn, named_errors(self._address):
            self._files.invalidate_cache(self._files._parent(self._path))
            info = self._place.info(self._path)
        if info.get("type") == "directory" or info.get("size") is None:
            raise SourceNotFoundError(f"{self._uri}: is not a file; name a netCDF or HDF5 file")
        marks = [
            str(info[name]) for name in ("ETag", "etag", "mtime", "LastModified", "last_modified", "created") if info.get(name)
        ]
        return int(info["size"]), " ".join([*marks, str(info["size"])])

    def read_ranges(self, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """Return the bytes of each (offset, size), fewer only at the end; ranges that nearly touch are asked for together.

        Raises:
            SourceError: They cannot be read.
        """
        clipped = clipped_ranges(ranges, self._size)
        merged = merged_ranges(clipped)
        starts, ends = [start for start, _ in merged], [start + length for start, length in merged]
        with self._turn, named_errors(self._address):
            found = [_given(one) for one in self._place.cat_ranges([self._path] * len(merged), starts, ends)]
        return cut_ranges(clipped, dict(zip(starts, found, strict=True)))

    def abandon(self) -> None:
        """Do nothing: fsspec has no means to break off a read."""

    def for_hdf5(self) -> BinaryIO:
        """Return a file object for the HDF5 library."""
        return data_file(self._size, self.read_ranges)


def _reopened(reopen: tuple[Any, ...], version: str) -> Any:  # Any: pickle's own contract; another source without the secrets
    """Open a file again.

    Raises:
        SourceError: It cannot be opened, or has changed.
    """
    function, arguments = reopen
    source = function(*arguments)
    if isinstance(source, FsspecSource) and source.version != version:
        raise SourceError(f"{source.uri}: has changed since it was opened; make a new Active of it")
    return source


def _given(answer: bytes | Exception) -> bytes:
    if isinstance(answer, Exception):
        raise answer
    return answer
