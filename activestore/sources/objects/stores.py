"""Objects by their keys, in a folder of a disk or wherever fsspec reaches."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from activestore.core.threads import concurrently
from activestore.errors import SourceError, SourceNotFoundError, map_errors
from activestore.network.byte_ranges import cut_ranges, merged_ranges
from activestore.network.redaction import public_address
from activestore.process.descriptors import with_room
from activestore.sources.fsspec_errors import named_errors
from activestore.sources.fsspec_location import FsspecPlace

__all__ = ["FsspecObjects", "LocalObjects"]

_AT_ONCE = 64
"""Requests under way at once that ask whether an object is there."""
_MARKS = ("ETag", "etag", "mtime", "LastModified", "last_modified", "created")

Part = tuple[str, int, int]
"""Key, offset and size."""


class LocalObjects:
    """Files below a folder of a disk."""

    is_remote = False

    def __init__(self, path: str) -> None:
        """Name the folder; it is not looked at."""
        self._root, self.uri = os.path.abspath(path), path

    @property
    def root(self) -> str:
        """The folder, whatever the working directory is."""
        return self._root

    def _path(self, key: str) -> str:
        return os.path.join(self._root, *key.split("/"))

    def status(self, key: str) -> tuple[int, str] | None:
        """Return size, and a mark of time of modification and size; None if there is no such file.

        Raises:
            SourceError: It is no file, or a link that leads nowhere.
        """
        path = self._path(key)
        with map_errors(f"{self.uri}: {key}"):
            try:
                found = os.stat(path)
            except (FileNotFoundError, NotADirectoryError):
                if os.path.islink(path):
                    raise SourceError(f"{self.uri}: {key} is a link that leads nowhere; fetch what it stands for") from None
                return None
        if not stat.S_ISREG(found.st_mode):
            if stat.S_ISDIR(found.st_mode):
                return None
            raise self._not_regular(key)
        return found.st_size, f"{found.st_mtime_ns}-{found.st_size}"

    def _not_regular(self, key: str) -> SourceError:
        return SourceError(f"{self.uri}: {key} is not a regular file")

    def sizes(self, keys: Sequence[str]) -> list[int | None]:
        """Return the size of each file, None where it is not there."""
        found = (self.status(key) for key in keys)
        return [None if status is None else status[0] for status in found]

    def listed(self, folder: str) -> Iterator[tuple[str, int]]:
        """Yield the key, counted from the folder, and the size of all files in and below it; links to folders are not followed.

        Raises:
            SourceError: The disk does not tell.
        """
        return self._below(self._path(folder), "", folder)

    def _below(self, path: str, prefix: str, folder: str) -> Iterator[tuple[str, int]]:
        with map_errors(self.uri):
            try:
                entries = with_room(lambda: os.scandir(path))
            except (FileNotFoundError, NotADirectoryError):
                return
            with entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=not prefix):
                        yield from self._below(entry.path, f"{prefix}{entry.name}/", folder)
                    elif (found := self._size(entry, f"{folder}{prefix}{entry.name}")) is not None:
                        yield prefix + entry.name, found

    def _size(self, entry: os.DirEntry[str], key: str) -> int | None:
        if entry.is_file(follow_symlinks=False):
            return entry.stat().st_size
        found = self.status(key)
        return None if found is None else found[0]

    def folders(self, folder: str) -> list[str]:
        """Return the names of the folders directly in a folder, sorted."""
        with map_errors(self.uri):
            try:
                with with_room(lambda: os.scandir(self._path(folder) if folder else self._root)) as entries:
                    return sorted(entry.name for entry in entries if entry.is_dir())
            except (FileNotFoundError, NotADirectoryError):
                return []

    def read(self, parts: Sequence[Part]) -> list[bytes]:
        """Return the bytes of parts of files, fewer where a file ends.

        Raises:
            SourceError: The disk does not give them.
        """
        return [self._read(*part) for part in parts]

    def _read(self, key: str, offset: int, size: int) -> bytes:
        with map_errors(f"{self.uri}: {key}"):
            # A pipe would have to be waited for.
            flags = os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0)
            descriptor = with_room(lambda: os.open(self._path(key), flags))
            try:
                status = os.fstat(descriptor)
                if not stat.S_ISREG(status.st_mode):
                    raise self._not_regular(key)
                left = max(0, min(size, status.st_size - offset))
                data = os.pread(descriptor, left, offset)
                while len(data) < left:
                    more = os.pread(descriptor, left - len(data), offset + len(data))
                    if not more:
                        break
                    data += more
                return data
            finally:
                os.close(descriptor)


class FsspecObjects:
    """Objects below an address that fsspec reads."""

    is_remote = True

    def __init__(self, uri: str, options: Mapping[str, Any]) -> None:  # Any: options of many types
        """Name the store; nothing is asked of it.

        Raises:
            UnsupportedError: fsspec does not know such addresses, or lacks the package for them.
        """
        self.uri, self._address = public_address(uri), uri
        # What others write meanwhile has to be seen.
        self._place = FsspecPlace(uri, {"use_listings_cache": False, **options})
        self._root = self._place.path.rstrip("/")
        # A web server's pages are no list of what there is.
        self._lists = uri.partition("://")[0].lower() not in ("http", "https")

    @property
    def _files(self) -> Any:  # Any: fsspec is untyped
        return self._place.files

    def _path(self, key: str) -> str:
        return f"{self._root}/{key}" if key else self._root

    def status(self, key: str) -> tuple[int, str] | None:
        """Return size, and a mark of what fsspec tells of the version; None if there is no such object.

        Raises:
            SourceError: It cannot be reached.
        """
        with named_errors(self._address):
            try:
                info = self._place.info(self._path(key))
            except FileNotFoundError:
                return None
        if info.get("type") == "directory":
            return None
        if info.get("size") is None:
            raise SourceError(f"{self.uri}: the server does not tell how large {key} is; copy the store here")
        marks = [str(info[name]) for name in _MARKS if info.get(name)]
        return int(info["size"]), " ".join([*marks, str(info["size"])])

    def sizes(self, keys: Sequence[str]) -> list[int | None]:
        """Return the size of each object, None where it is not there; many are asked for at once."""
        found = concurrently(self.status, keys, _AT_ONCE if self._files.async_impl else 1)
        return [None if status is None else status[0] for status in found]

    def listed(self, folder: str) -> Iterator[tuple[str, int]] | None:
        """Yield the key, counted from the folder, and the size of all objects below it; None if it cannot list.

        Raises:
            SourceError: It cannot be reached.
        """
        if not self._lists:
            return None
        path = self._path(folder).rstrip("/")
        with named_errors(self._address):
            try:
                self._files.invalidate_cache(path)
                found = self._files.find(path, detail=True)
            except FileNotFoundError:
                found = {}
        start = len(path) + 1
        return ((name[start:], int(info["size"])) for name, info in found.items() if info.get("size") is not None)

    def folders(self, folder: str) -> list[str]:
        """Return the names of the folders directly in a folder, sorted.

        Raises:
            SourceError: It cannot be reached, or not be listed.
        """
        if not self._lists:
            raise SourceError(f"{self.uri}: cannot be listed, and has no consolidated metadata; name the variable")
        with named_errors(self._address):
            try:
                found = self._files.ls(self._path(folder), detail=True)
            except FileNotFoundError:
                return []
        return sorted(info["name"].rstrip("/").rpartition("/")[2] for info in found if info.get("type") == "directory")

    def read(self, parts: Sequence[Part]) -> list[bytes]:
        """Return the bytes of parts of objects, fewer where an object ends; parts that nearly touch are asked for together.

        Raises:
            SourceError: They cannot be read.
        """
        by_key: dict[str, list[tuple[int, int]]] = {}
        for key, offset, size in parts:
            by_key.setdefault(key, []).append((offset, size))
        requests = [(key, start, length) for key, ranges in by_key.items() for start, length in merged_ranges(ranges)]
        paths, starts = [self._path(key) for key, _, _ in requests], [start for _, start, _ in requests]
        ends = [start + length for _, start, length in requests]
        with named_errors(self._address):
            answers: list[Any] = self._place.cat_ranges(paths, starts, ends) if requests else []
            for (key, _, _), answer in zip(requests, answers, strict=True):
                if isinstance(answer, FileNotFoundError):
                    raise SourceNotFoundError(f"{self.uri}: {key} is gone; make a new Active of it")
                if isinstance(answer, Exception):
                    raise answer
        known: dict[str, dict[int, bytes]] = {}
        for (key, start, _), answer in zip(requests, answers, strict=True):
            known.setdefault(key, {})[start] = answer
        cut = {key: iter(cut_ranges(ranges, known.get(key, {}))) for key, ranges in by_key.items()}
        return [next(cut[key]) for key, _, _ in parts]
