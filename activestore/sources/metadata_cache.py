"""The persistent index cache: the metadata that were read of remote files, kept in the user's cache folder between runs.

There is one file for each address, so that a new version of a remote file takes the place of the old one. Its name is the
hash of the address; what it holds, numbers little-endian:

```
 8 bytes   "ASINDEX" and a byte, the version of this format
 4 bytes   length of the header
 header    JSON: "key", "uri", "size", "version", "segments": [[offset, length], …]
 segments  their bytes, one after the other
32 bytes   BLAKE2b of all that stands before
```

What is cut off, damaged or of another kind counts as absent: a wrong byte could become a wrong number. So does what another
user may have written: nothing in a file shows that it is ours, so its owner and mode have to. Nor does a failure of the cache
ever fail a run: it is logged, and the metadata are read from the remote file.
"""

from __future__ import annotations

import json
import logging
import os
import stat
import struct
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from hashlib import blake2b
from itertools import accumulate
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from activestore.network.redaction import public_address

__all__ = ["ENTRY_LIMIT", "TOTAL_LIMIT", "CacheEntry", "IndexCache", "default_cache", "usable_cache"]

ENTRY_LIMIT = 64 << 20
"""Bytes of the largest file that is kept."""
TOTAL_LIMIT = 1 << 30
"""Bytes that all files together may have, if ACTIVESTORE_CACHE_LIMIT does not say otherwise."""

_LOG = logging.getLogger(__name__)
_ADVICE = "; set ACTIVESTORE_CACHE to another folder, or to 'off'"
_MAGIC = b"ASINDEX\x01"
_LENGTH = struct.Struct("<I")
_DIGEST_BYTES = 32
_START = len(_MAGIC) + _LENGTH.size
_SUFFIX, _UNFINISHED = ".index", ".part"
_ABANDONED = 3600
"""Seconds after which an unfinished file belongs to a process that has ended."""


@dataclass(frozen=True, slots=True)
class CacheEntry:
    """What is kept of one remote file."""

    uri: str
    """Its address, without user, password and query."""
    size: int
    """Bytes in the remote file."""
    version: str
    """Its version: ETag, or time of modification."""
    segments: int
    """How many pieces of it are kept."""
    index_bytes: int
    """Bytes in these pieces."""
    disk_bytes: int
    """Bytes of the cache's file."""
    last_used: float
    """When it was last saved or found, in seconds since 1970."""


@dataclass(frozen=True, slots=True)
class IndexCache:
    """A folder of remote files' metadata; any number of threads and processes may use it at once.

    Examples:
        >>> temporary = tempfile.TemporaryDirectory()
        >>> cache = IndexCache(Path(temporary.name) / "index")
        >>> cache.save("https://store.example/tas.nc", size=4000, version="etag-1", segments={0: b"head", 96: b"node"})
        >>> cache.load("https://store.example/tas.nc", size=4000, version="etag-1")
        {0: b'head', 96: b'node'}
        >>> cache.load("https://store.example/tas.nc", size=4000, version="etag-2")
        {}
        >>> cache.clear()
        1
        >>> temporary.cleanup()
    """

    folder: Path
    """Where its files are; made when the first is kept, for this user alone."""
    limit: int = TOTAL_LIMIT
    """Bytes that all its files together may have."""

    def load(self, uri: str, *, size: int, version: str) -> dict[int, bytes]:
        """Return what is kept of a remote file, as bytes by their offset; nothing if it is of another version, or damaged.

        Parameters:
            uri: Its address, in full.
            size: Its bytes now.
            version: Its version now.
        """
        path = self._path(uri)
        try:
            data = _read(path) if self.is_safe() else None
            if data is None:
                return {}
            header, segments = _parsed(data)
        except FileNotFoundError:
            return {}
        except OSError as error:
            _warn_once(f"{self.folder}: what is kept of remote files cannot be read ({_reason(error)}){_ADVICE}")
            return {}
        except ValueError as error:
            _LOG.warning("%s: %s; the metadata are read from the remote file", path, error)
            return {}
        if (header["key"], header["size"], header["version"]) != (_key(uri), size, version):
            _LOG.debug("%s: is of another version", path)
            return {}
        # The time of modification is the time of use: that of access is not kept on many file systems.
        with suppress(OSError):
            os.utime(path)
        return segments

    def save(self, uri: str, *, size: int, version: str, segments: Mapping[int, bytes]) -> None:
        """Keep the metadata of a remote file in place of what was kept of it, and drop what was used least recently.

        Nothing is kept of a file without a version, or with more than `ENTRY_LIMIT` bytes of metadata.

        Parameters:
            uri: Its address, in full.
            size: Its bytes.
            version: Its version; "" if there is none.
            segments: All that is known of it, as bytes by their offset.
        """
        path = self._path(uri)
        if not version or not segments:
            return
        try:
            data = _packed(uri, size=size, version=version, segments=segments)
            if len(data) > ENTRY_LIMIT:
                _LOG.debug("%s: %d bytes of metadata are too many to be kept", path, len(data))
                return
            _make(self.folder)
            _write(path, data)
            self._trim()
        except FileNotFoundError:
            _LOG.debug("%s: the cache was cleared meanwhile", path)
        except OSError as error:
            _warn_once(f"{self.folder}: metadata of remote files cannot be kept ({_reason(error)}){_ADVICE}")

    def is_safe(self) -> bool:
        """Return whether nobody else can write to the folder; if somebody can, that is logged once."""
        try:
            why = _danger(self.folder)
        except OSError as error:
            _warn_once(f"{self.folder}: what is kept of remote files cannot be read ({_reason(error)}){_ADVICE}")
            return False
        if why:
            _warn_once(f"{self.folder}: no metadata of remote files are kept there, nor used: {why}{_ADVICE}")
        return not why

    def has(self, uri: str) -> bool:
        """Return whether anything is kept of a remote file, of whatever version."""
        return os.path.exists(self._path(uri))

    def entries(self, uri: str | None = None) -> list[CacheEntry]:
        """Return what is kept, the last used first.

        Parameters:
            uri: An address as it was opened, or as entries show it; None for all.
        """
        found = [entry for path in self._files(uri) if (entry := _entry(path)) is not None]
        return sorted(found, key=lambda entry: -entry.last_used)

    def clear(self, uri: str | None = None) -> int:
        """Remove what is kept, and return of how many remote files.

        Parameters:
            uri: An address as it was opened, or as entries show it; None for all.
        """
        if uri is None:
            for path, _ in self._listed(_UNFINISHED):
                _removed(path)
        return sum([_removed(path) for path in self._files(uri)])

    def _path(self, uri: str) -> Path:
        return self.folder / (_key(uri) + _SUFFIX)

    def _files(self, uri: str | None) -> list[Path]:
        """Return the files of an address; all files, damaged ones too, if it is None."""
        everything = [path for path, _ in self._listed(_SUFFIX)]
        if uri is None:
            return everything
        own = self._path(uri)
        return [path for path in everything if path == own or ((entry := _entry(path)) is not None and _names(uri, entry.uri))]

    def _listed(self, suffix: str) -> Iterator[tuple[Path, os.stat_result]]:
        """Give each file of the cache whose name ends with `suffix`."""
        try:
            names = [name for name in os.listdir(self.folder) if name.endswith(suffix)]
        except OSError:
            return
        for name in names:
            path = self.folder / name
            # Another process may have removed it meanwhile.
            with suppress(OSError):
                status = os.stat(path)
                if stat.S_ISREG(status.st_mode):
                    yield path, status

    def _trim(self) -> None:
        """Remove the files used least recently until the others are within the limit."""
        now = time.time()
        for path, status in self._listed(_UNFINISHED):
            if now - status.st_mtime > _ABANDONED:
                _removed(path)
        latest_first = sorted(self._listed(_SUFFIX), key=lambda listed: -listed[1].st_mtime_ns)
        totals = accumulate(status.st_size for _, status in latest_first)
        for (path, _), total in zip(latest_first, totals, strict=True):
            if total > self.limit:
                _removed(path)


def usable_cache() -> IndexCache | None:
    """Return the cache of `default_cache` if nobody else can write to its folder; None if there is none, or somebody can."""
    found = default_cache()
    return found if found is not None and found.is_safe() else None


def default_cache() -> IndexCache | None:
    """Return the cache in the folder ACTIVESTORE_CACHE, or else in the user's cache folder; None if it is "off".

    Examples:
        >>> from unittest.mock import patch
        >>> with patch.dict(os.environ, ACTIVESTORE_CACHE="/scratch/me/activestore"):
        ...     print(default_cache().folder.as_posix())
        /scratch/me/activestore/index
    """
    given = os.environ.get("ACTIVESTORE_CACHE", "").strip()
    if given.lower() == "off":
        return None
    folder = os.path.expanduser(given) if given else _user_folder()
    # Some users of a system have no home: no folder of this name is to be made in the current one.
    if folder.startswith("~"):
        return None
    return IndexCache(Path(os.path.abspath(folder), "index"), _limit(os.environ.get("ACTIVESTORE_CACHE_LIMIT", "").strip()))


def _user_folder() -> str:
    from platformdirs import user_cache_dir  # noqa: PLC0415  # slow to import, and not needed if a folder is given

    return user_cache_dir("activestore", appauthor=False)


@cache
def _limit(text: str) -> int:
    if not text:
        return TOTAL_LIMIT
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        _LOG.warning("ACTIVESTORE_CACHE_LIMIT=%r is no number of bytes; %d is taken", text, TOTAL_LIMIT)
        return TOTAL_LIMIT
    return int(text)


@cache
def _warn_once(message: str) -> None:
    """Log a warning that would be the same for every file that is opened."""
    _LOG.warning(message)


def _reason(error: Exception) -> str:
    return (isinstance(error, OSError) and error.strerror) or str(error)


def _key(uri: str) -> str:
    return blake2b(uri.encode("utf-8", "surrogatepass"), digest_size=20).hexdigest()


def _packed(uri: str, *, size: int, version: str, segments: Mapping[int, bytes]) -> bytes:
    """Return the bytes of a file of the cache."""
    places = sorted(offset for offset, data in segments.items() if data)
    fields = {
        "key": _key(uri),
        "uri": public_address(uri),
        "size": size,
        "version": version,
        "segments": [(offset, len(segments[offset])) for offset in places],
    }
    header = json.dumps(fields).encode()
    data = b"".join([_MAGIC, _LENGTH.pack(len(header)), header, *(segments[offset] for offset in places)])
    return data + blake2b(data, digest_size=_DIGEST_BYTES).digest()


def _names(given: str, shown: str) -> bool:
    """Return whether an address is the one that an entry shows; S3 objects are kept by the address of their HTTP requests."""
    scheme, _, place = given.partition("://")
    bucket, _, key = place.partition("/")
    if scheme not in ("s3", "s3a") or given == shown:
        return given == shown
    host, _, path = unquote(shown.partition("://")[2]).partition("/")
    return f"/{path}".endswith(f"/{bucket}/{key}") or (host.startswith(f"{bucket}.s3.") and path == key)


def _parsed(data: bytes) -> tuple[dict[str, Any], dict[int, bytes]]:  # Any: what JSON has
    """Return header and segments of a file of the cache.

    Raises:
        ValueError: It is damaged, or no such file.
    """
    end = len(data) - _DIGEST_BYTES
    if end < _START or not data.startswith(_MAGIC):
        raise ValueError("it is of another format")
    # Before anything in it is believed.
    if blake2b(memoryview(data)[:end], digest_size=_DIGEST_BYTES).digest() != data[end:]:
        raise ValueError("it is damaged")
    at = _START + _header_length(data)
    header = _header(data[_START:at])
    segments = {}
    for offset, length in header["segments"]:
        segments[offset] = data[at : at + length]
        at += length
    if at != end:
        raise ValueError("its segments have other lengths than it says")
    return header, segments


def _header_length(data: bytes) -> int:
    (length,) = _LENGTH.unpack_from(data, len(_MAGIC))
    return int(length)


_FIELDS: dict[str, type] = {"key": str, "uri": str, "size": int, "version": str, "segments": list}


def _header(data: bytes) -> dict[str, Any]:  # Any: what JSON has
    """Return the header that `data` hold.

    Raises:
        ValueError: It is none.
    """
    try:
        header = json.loads(data)
    except RecursionError:
        raise ValueError("its header is nested") from None
    if not isinstance(header, dict) or not all(isinstance(header.get(name), kind) for name, kind in _FIELDS.items()):
        raise ValueError("its header lacks fields")
    if not all(map(_is_place, header["segments"])):
        raise ValueError("its header names places that cannot be")
    return header


def _is_place(given: object) -> bool:
    return isinstance(given, list) and len(given) == 2 and all(type(number) is int and number >= 0 for number in given)


def _entry(path: Path) -> CacheEntry | None:
    """Return what the header of a file says, without checking the file; None if it has none."""
    try:
        with open(path, "rb") as file:
            status = os.fstat(file.fileno())
            start = file.read(_START)
            if len(start) < _START or not start.startswith(_MAGIC) or _header_length(start) > status.st_size:
                return None
            header = _header(file.read(_header_length(start)))
    except (OSError, ValueError):
        return None
    lengths = [length for _, length in header["segments"]]
    return CacheEntry(
        header["uri"], header["size"], header["version"], len(lengths), sum(lengths), status.st_size, status.st_mtime
    )


def _read(path: Path) -> bytes | None:
    """Return the bytes of a file; None if it is not one, as a pipe, or larger than all that are kept.

    Raises:
        ValueError: Somebody else may have written them.
    """
    flags = os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOFOLLOW", 0)
    with open(os.open(path, flags), "rb") as file:
        # Of the very file that is read, whatever there is by that name next.
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode) or status.st_size > ENTRY_LIMIT:
            return None
        why = _not_ours(status, "it")
        if why:
            raise ValueError(why)
        return file.read()


def _danger(folder: Path) -> str:
    """Return why others can write to a folder, or put another in its place; empty if they cannot, or it is not there yet.

    Raises:
        OSError: It cannot be looked at.
    """
    if not hasattr(os, "geteuid"):
        return ""
    for path in (folder, *folder.parents):
        try:
            link, status = os.lstat(path), os.stat(path)
        except (FileNotFoundError, NotADirectoryError):
            continue
        why = ""
        if path == folder:
            why = _not_ours(link, "the link") if stat.S_ISLNK(link.st_mode) else ""
            why = why or _not_ours(status, "it")
        elif status.st_mode & stat.S_IWOTH and not status.st_mode & stat.S_ISVTX:
            # Who can write to a folder with a sticky bit can still not rename what others have there.
            why = f"all users can write to {path}"
        if why:
            return why
    return ""


def _not_ours(status: os.stat_result, what: str) -> str:
    """Return why others than this user and the system's own can write to a file or folder; empty if they cannot."""
    if not hasattr(os, "geteuid"):
        return ""
    if status.st_uid not in (os.geteuid(), 0):
        return f"{what} belongs to another user ({status.st_uid})"
    if stat.S_ISLNK(status.st_mode):
        return ""
    if status.st_mode & stat.S_IWOTH:
        return f"all users can write to it (mode {stat.S_IMODE(status.st_mode):o}; chmod 700)"
    if status.st_mode & stat.S_IWGRP and not _is_own_group(status.st_gid):
        return f"a group of users can write to it (mode {stat.S_IMODE(status.st_mode):o}; chmod 700)"
    return ""


def _is_own_group(gid: int) -> bool:
    """Return whether a group is one that many systems make for each user alone."""
    import grp  # noqa: PLC0415  # not on all systems
    import pwd  # noqa: PLC0415  # the same

    try:
        group, user = grp.getgrgid(gid), pwd.getpwuid(os.geteuid())
    except KeyError:
        return False
    return group.gr_name == user.pw_name and gid == user.pw_gid and set(group.gr_mem) <= {user.pw_name}


def _make(folder: Path) -> None:
    """Make a folder, and those above that are not there, for this user alone.

    Raises:
        OSError: It cannot be made.
    """
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    for path in reversed(missing):
        path.mkdir(mode=0o700, exist_ok=True)


def _write(path: Path, data: bytes) -> None:
    """Write a file as a whole: whoever reads it sees the old bytes or the new.

    It is not forced to the disk: what a computer that stops leaves behind is found damaged, and read anew.

    Raises:
        OSError: It cannot be written.
    """
    descriptor, unfinished = tempfile.mkstemp(suffix=_UNFINISHED, dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        os.replace(unfinished, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(unfinished)
        raise


def _removed(path: Path) -> bool:
    """Remove a file, and return whether it was there and is no longer."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        return False
    except OSError as error:
        _warn_once(f"{path.parent}: files of the index cache cannot be removed ({_reason(error)})")
        return False
    return True
