"""Sources of bytes, read at many places at once: local files here, the others have modules of their own."""

from __future__ import annotations

import os
import stat
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from activestore.core.lazy_pickle import source_later
from activestore.core.source import ReadableSource
from activestore.errors import (
    ActivestoreError,
    ConfigurationError,
    SourceError,
    SourceNotFoundError,
    UnsupportedError,
    map_errors,
    to_install,
)
from activestore.network.byte_ranges import clipped_ranges, cut_ranges, merged_ranges
from activestore.network.location import Origin
from activestore.network.redaction import kept_address, public_address, without_secrets
from activestore.process.descriptors import kept, released, with_room
from activestore.process.forking import Lock

__all__ = ["LocalSource", "Source", "local_path", "open_file", "open_source"]

_STORE_NAMES = (".zarr", ".parq", ".parquet")
"""How the addresses of stores, and of folders of references, usually end."""

_MAPPINGS = frozenset({"client_kwargs", "headers", "remote_options", "target_options"})
"""Options that have names and values of their own."""

Source = ReadableSource
"""What a source offers: `uri`, `size`, `version`, `read_ranges`, `metadata`, `for_hdf5`."""


class _Descriptor:
    """An open file; it may be let go of when too many are open, and is opened anew for each read then."""

    def __init__(self, path: str) -> None:
        """Open the file at `path`."""
        self._path, self._lock = path, Lock()
        descriptor = _open(path)
        self.status = os.fstat(descriptor)
        """What was known of it when it was opened."""
        self._descriptor: int | None = descriptor
        self._users = 0
        self._finalizer = weakref.finalize(self, _close, descriptor)
        kept(self)

    @contextmanager
    def opened(self) -> Iterator[tuple[int, os.stat_result]]:
        """Give a descriptor for the length of a `with` block, and what is known of the file that it is of."""
        with self._lock:
            descriptor = self._descriptor
            self._users += descriptor is not None
        if descriptor is not None:
            try:
                yield descriptor, self.status
            finally:
                with self._lock:
                    self._users -= 1
            return
        descriptor = _open(self._path)
        try:
            yield descriptor, os.fstat(descriptor)
        finally:
            os.close(descriptor)

    def let_go(self) -> bool:
        """Close it, unless it is being read; return whether it is closed."""
        with self._lock:
            if self._users:
                return False
            self._descriptor = None
        self._finalizer()
        return True


def _open(path: str) -> int:
    # A pipe would have to be waited for.
    flags = os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0)
    return with_room(lambda: os.open(path, flags))


def _close(descriptor: int) -> None:
    os.close(descriptor)
    released()


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
            self._file = _Descriptor(self._path)
            status = self._file.status
        self._size = status.st_size
        self._version = _version(status)
        self.origin = Origin("file", Path(self._path).as_uri())
        """The file as a server that computes is told of it; it has to see the same files."""

    def __repr__(self) -> str:
        return f"LocalSource({self._uri!r})"

    def __reduce__(self) -> tuple[Any, ...]:  # Any: pickle's own contract
        return source_later(self._path, (_reopened, (self._path, self._version)), is_remote=False)

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

    def metadata(self) -> AbstractContextManager[LocalSource]:
        """Give the source itself: the operating system keeps what was read."""
        return nullcontext(self)

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
        with map_errors(self._uri), self._file.opened() as (descriptor, status):
            if _version(status) != self._version:
                raise SourceError(f"{self._uri}: has changed since it was opened; make a new Active of it")
            # An offset below 0, of a damaged file, is the system's to refuse.
            if len(ranges) < 2 or min(ranges)[0] < 0:
                return [self._read(descriptor, offset, size) for offset, size in ranges]
            # Small chunks in a row are read at once.
            clipped = clipped_ranges(ranges, self._size)
            return cut_ranges(clipped, {start: self._read(descriptor, start, n) for start, n in merged_ranges(clipped)})

    def _read(self, descriptor: int, offset: int, size: int) -> bytes:
        size = max(0, min(size, self._size - offset))
        data = os.pread(descriptor, size, offset) if size else b""
        while len(data) < size:
            more = os.pread(descriptor, size - len(data), offset + len(data))
            if not more:
                break
            data += more
        return data

    def is_of(self, place: str | int) -> bool:
        """Return whether the file at a path, or of a descriptor, is the one that was opened, whatever its name."""
        try:
            return os.path.samestat(os.stat(place), self._file.status)
        except OSError:
            return False

    def abandon(self) -> None:
        """Do nothing: reads of a disk do not wait long."""

    def for_hdf5(self) -> str:
        """Return the path."""
        return self._path


def _status(path: str) -> os.stat_result:
    try:
        return os.stat(path)
    except ValueError as error:
        raise SourceError(f"{path!r}: no file can have this name ({error})") from None


def _reopened(path: str, version: str) -> LocalSource:
    """Return the file at a path, if it is of the version that was pickled.

    Raises:
        SourceError: It cannot be opened, or has changed.
    """
    source = LocalSource(path)
    # On another machine the same file may have another inode.
    if source.version.split("-")[:2] != version.split("-")[:2]:
        raise SourceError(f"{path}: has changed since it was opened; make a new Active of it")
    return source


def _version(status: os.stat_result) -> str:
    return f"{status.st_mtime_ns}-{status.st_size}-{status.st_ino}"


def open_source(uri: str | os.PathLike[str], storage_options: Mapping[str, object] | None = None) -> Source:
    """Return the source at `uri`: a file, a Zarr store, or what Kerchunk references name.

    Parameters:
        uri: Path of a local file or Zarr store, `file://…`, `s3://bucket/key`, `http(s)://…`, or any address that fsspec reads.
        storage_options: How the store is reached, as fsspec takes it. For Kerchunk references, `remote_options` say how the
            files that they name are reached, `remote_protocol` where ("s3"), and `target_options` how they themselves are.

    Raises:
        SourceNotFoundError: There is nothing there.
        SourceError: It cannot be opened.
        UnsupportedError: The address is of a kind that nothing installed here reads.

    Examples:
        >>> open_source("no/such/file.nc")
        Traceback (most recent call last):
        ...
        activestore.errors.SourceNotFoundError: no/such/file.nc: no such file; check the path
    """
    text, options = os.fsdecode(uri), dict(storage_options or {})
    _check_kinds(text, options)
    path = local_path(text)
    if path is not None and os.path.isdir(path):
        found = _open_store(path, options)
        if found is None:
            what = "is not a regular file, and as a folder no Zarr store (it has no zarr.json, .zgroup or .zmetadata)"
            raise SourceError(f"{path}: {what}; name a file in it")
        return found
    # What is named so is asked for as a store first; what is not, only if there is no such file.
    store_first = path is None and text.rstrip("/").endswith(_STORE_NAMES)
    if store_first and (found := _open_store(text, options)) is not None:
        return found
    try:
        return _with_references(text, options)
    except SourceNotFoundError as error:
        found = None
        if not store_first and path is None:
            # What makes it impossible to look for a store says less than that there is no file.
            with suppress(ActivestoreError):
                found = _open_store(text, options)
        if found is None:
            raise error from None
        return found


def open_file(uri: str, storage_options: Mapping[str, object]) -> Source:
    """Return the file at `uri`, whatever is in it; parameters and errors are those of `open_source`."""
    _check_kinds(uri, storage_options)
    path = local_path(uri)
    if path is not None:
        return LocalSource(path)
    return _open_remote(uri, uri.partition("://")[0].lower(), dict(storage_options))


def _check_kinds(uri: str, options: Mapping[str, object]) -> None:
    """Do nothing if the options that are read here are of the kind that they have to be.

    Raises:
        ConfigurationError: One is of another; its value, which may be secret, is not shown.
    """
    for name in _MAPPINGS & options.keys():
        value = options[name]
        if value is not None and not isinstance(value, Mapping):
            raise ConfigurationError(f"{public_address(uri)}: storage_options {name}: give a mapping from names to values")
        if isinstance(value, Mapping) and name == "client_kwargs":
            _check_kinds(uri, value)
    # Any text is true, "False" too.
    if isinstance(options.get("anon"), str):
        raise ConfigurationError(f"{public_address(uri)}: storage_options anon: give true or false, and not a text")


def local_path(uri: str) -> str | None:
    """Return the path that an address is on this machine, None if it is elsewhere."""
    scheme, colon, rest = uri.partition("://")
    # A file may have two colons in its name; an address that fsspec chains has them too.
    if not colon and ("::" not in uri or os.path.exists(uri)):
        # As a shell does, but for what has such a name.
        return os.path.expanduser(uri) if uri.startswith("~") and not os.path.lexists(uri) else uri
    if scheme.lower() not in ("file", "local"):
        return None
    # The whole of what follows, as fsspec has it: what stands where a host would is the first folder of a relative path.
    path = rest[len("localhost") :] if rest.startswith("localhost/") else os.path.expanduser(rest)
    return path if os.path.lexists(path) else unquote(path)


def _with_references(uri: str, options: dict[str, Any]) -> Source:  # Any: options of many types
    """Return the file at an address, or what it names if it holds Kerchunk references."""
    given = {"remote_options", "target_options", "remote_protocol"} & set(options)
    file = open_file(uri, (options.get("target_options") or {}) if given else options)
    with file.metadata() as kept:
        (start,) = kept.read_ranges([(0, 8)])
    if not start.strip().startswith((b"{", b"\xef\xbb\xbf{")):
        return file
    from activestore.sources.objects.kerchunk import KerchunkSource, split_options  # noqa: PLC0415  # the same
    from activestore.sources.objects.references import read_json  # noqa: PLC0415  # few files are such

    own = split_options(options)[1]
    return KerchunkSource(file, (read_json,), references=read_json(file), opener=open_file, options=own)


def _open_store(uri: str, options: dict[str, Any]) -> Source | None:  # Any: options of many types
    """Return the Zarr store, or the folder of Kerchunk references, at an address; None if there is none."""
    from activestore.sources.objects.kerchunk import KerchunkSource, split_options  # noqa: PLC0415  # the same
    from activestore.sources.objects.references import is_parquet, read_parquet  # noqa: PLC0415  # slow to import
    from activestore.sources.objects.stores import FsspecObjects, LocalObjects  # noqa: PLC0415  # the same
    from activestore.sources.objects.zarr import ZarrSource  # noqa: PLC0415  # the same

    path, (reached, targets) = local_path(uri), split_options(options)
    if path is not None:
        store = ZarrSource(LocalObjects(path), (LocalObjects, (os.path.abspath(path),)))
    else:
        reopen = (FsspecObjects, (kept_address(uri), without_secrets(reached)))
        try:
            store = ZarrSource(FsspecObjects(uri, reached), reopen)
        except UnsupportedError:
            if uri.rstrip("/").endswith(_STORE_NAMES):
                raise
            return None
    if not store.is_there():
        return None
    if is_parquet(store.read_object(".zmetadata") or b""):
        return KerchunkSource(store, (read_parquet,), references=read_parquet(store), opener=open_file, options=targets)
    return store


def _open_remote(uri: str, scheme: str, options: dict[str, Any]) -> Source:  # Any: options of many types
    """Return a source elsewhere.

    Raises:
        UnsupportedError: A package that it needs is not installed.
    """
    from activestore.sources.fsspec_file import FsspecSource  # noqa: PLC0415  # slow to import

    reopen = (open_file, (kept_address(uri), without_secrets(options)))
    try:
        target = _target(uri, scheme, options)
        if target is None:
            return FsspecSource(uri, options, reopen)
        from activestore.sources.http import HttpSource  # noqa: PLC0415  # needs an optional package
    except ImportError as error:
        extra = "s3" if scheme.startswith("s3") else "http"
        raise UnsupportedError(f"{public_address(uri)}: needs {error.name}: {to_install(extra)}") from None
    return HttpSource(target, reopen)


def _target(uri: str, scheme: str, options: dict[str, Any]) -> Any:  # Any: S3Object or WebFile, whose modules come late
    """Return where to send requests for the file at `uri`; None if it is for fsspec to read.

    Raises:
        ImportError: A package that it needs is not installed.
        ConfigurationError: It is no address, or there are no credentials.
    """
    if scheme in ("s3", "s3a"):
        from activestore.sources.s3 import find_object  # noqa: PLC0415  # needs an optional package

        return find_object(uri, options)
    client = options.get("client_kwargs") or {}
    if (
        scheme in ("http", "https")
        and set(options) <= {"headers", "client_kwargs", "verify", "version"}
        and set(client) <= {"headers"}
    ):
        from activestore.sources.http import WebFile  # noqa: PLC0415  # needs an optional package

        return WebFile(uri, options)
    return None
