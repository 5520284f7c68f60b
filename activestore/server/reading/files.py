"""Files that a server reads: those below the folders that its operator allowed."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote_to_bytes

from activestore.errors import ConfigurationError
from activestore.server.errors import RequestError
from activestore.server.location import Place
from activestore.server.reading.addresses import check_text

__all__ = ["AllowedFolders"]

_NOTHING_THERE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG})
_FOLDER = getattr(os, "O_PATH", 0) | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_CLOEXEC", 0)
_FILE = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0) | getattr(os, "O_CLOEXEC", 0)
_NO_LINK = getattr(os, "O_NOFOLLOW", 0)
_LARGEST_READ = 1 << 30
"""Bytes that the system is asked for at once: it gives no more than 2 GiB."""

Parts = tuple[str, ...]


class AllowedFolders:
    """The folders whose files may be read."""

    def __init__(self, folders: Sequence[Path]) -> None:
        """Take the folders.

        Raises:
            ConfigurationError: One is no folder, or this system cannot tell what is below one.
        """
        if folders and os.open not in os.supports_dir_fd:
            raise ConfigurationError("files cannot be served on this system; serve objects of an S3 store or of a web server")
        for folder in folders:
            if not os.path.isdir(folder):
                raise ConfigurationError(f"{folder}: is no folder; name one whose files may be read")
        self._real = tuple(dict.fromkeys(_parts(os.path.realpath(folder)) for folder in folders))
        self._named = tuple(dict.fromkeys((*(_parts(os.path.abspath(folder)) for folder in folders), *self._real)))

    def __bool__(self) -> bool:
        return bool(self._real)

    def check(self, place: Place) -> None:
        """Do nothing if the path of a file leads below a folder that may be read; the file system is not asked.

        Raises:
            RequestError: It does not, or the address is none.
        """
        self._named_parts(place)

    def find(self, place: Place) -> tuple[int, str, float]:
        """Return size and version of a file, and when it was changed, in seconds.

        Raises:
            RequestError: There is none, or it may not be read.
        """
        with self._opened(place) as descriptor:
            found = os.fstat(descriptor)
            return found.st_size, _version(found), found.st_ctime

    def read(self, place: Place, ranges: Sequence[tuple[int, int]], *, version: str | None = None) -> list[bytes]:
        """Return the bytes of each (offset, size) of one version of a file, fewer only at the end.

        Raises:
            RequestError: There is none, it may not be read, or it has changed.
        """
        with self._opened(place) as descriptor:
            before = os.fstat(descriptor)
            found = [_read(descriptor, offset, min(size, before.st_size - offset)) for offset, size in ranges]
            if _content(os.fstat(descriptor)) != _content(before) or (version and _version(before) != version):
                raise RequestError(409, f"{place.url}: has changed", kind="origin")
            return found

    def _named_parts(self, place: Place) -> Parts:
        parts = _path_parts(place.url)
        if not any(_is_below(parts, folder) for folder in self._named):
            raise _outside(place)
        return parts

    @contextmanager
    def _opened(self, place: Place) -> Iterator[int]:
        """Give a descriptor of a file for the length of a `with` block."""
        named = self._named_parts(place)
        with _as_request_errors(place):
            real = _parts(os.path.realpath("/" + "/".join(named)))
            folder = next((one for one in self._real if _is_below(real, one)), None)
            # A link that leads out of a folder says nothing of what is there.
            if folder is None:
                raise _outside(place)
            descriptor = _open_file(folder, real[len(folder) :], place)
            try:
                yield descriptor
            finally:
                os.close(descriptor)


def _open_file(folder: Parts, parts: Parts, place: Place) -> int:
    """Return the descriptor of a regular file, which is where it was found: no link is followed that came since then."""
    # Opening some devices and pipes has effects of its own, so they are told apart before.
    above = os.open("/" + "/".join(folder), _FOLDER)
    try:
        for part in parts[:-1]:
            below = os.open(part, _FOLDER | _NO_LINK, dir_fd=above)
            os.close(above)
            above = below
        if not parts or not stat.S_ISREG(os.stat(parts[-1], dir_fd=above, follow_symlinks=False).st_mode):
            raise _irregular(place)
        descriptor = os.open(parts[-1], _FILE | _NO_LINK, dir_fd=above)
    finally:
        os.close(above)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise _irregular(place)
    return descriptor


def _read(descriptor: int, offset: int, size: int) -> bytes:
    parts = []
    while size > 0 and (part := os.pread(descriptor, min(size, _LARGEST_READ), offset)):
        parts.append(part)
        offset, size = offset + len(part), size - len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _version(found: os.stat_result) -> str:
    # The time of modification can be set, that of any change cannot.
    return f"{found.st_mtime_ns:x}-{found.st_ctime_ns:x}-{found.st_size:x}-{found.st_ino:x}"


def _content(found: os.stat_result) -> tuple[int, int]:
    """Return what changes with the bytes of an open file: not its other times, which change when its name does."""
    return found.st_mtime_ns, found.st_size


def _path_parts(url: str) -> Parts:
    """Return the parts of the path that an address names.

    Raises:
        RequestError: It names none.
    """
    try:
        check_text(url)
    except ValueError as error:
        raise RequestError(400, f"url cannot be read: {error}") from None
    if not url.lower().startswith("file:///") or "?" in url or "#" in url:
        raise RequestError(400, "url cannot be read: it has to be file:///path, with no host, query or fragment in it")
    return _parts(os.fsdecode(unquote_to_bytes(url[len("file://") :])))


def _parts(path: str) -> Parts:
    return tuple(part for part in path.split("/") if part)


def _is_below(parts: Parts, folder: Parts) -> bool:
    return parts[: len(folder)] == folder


@contextmanager
def _as_request_errors(place: Place) -> Iterator[None]:
    """Translate the operating system's errors."""
    try:
        yield
    except OSError as error:
        if error.errno in _NOTHING_THERE:
            raise RequestError(
                400, f"{place.url}: there is no such file", ("NoSuchKey: there is no such file",), kind="origin"
            ) from None
        if isinstance(error, PermissionError):
            raise RequestError(403, f"{place.url}: this server has no right to read it", kind="forbidden") from None
        reason = os.strerror(error.errno) if error.errno else "it cannot be read"
        raise RequestError(502, f"{place.url}: {reason}", kind="origin") from None


def _outside(place: Place) -> RequestError:
    return RequestError(
        403,
        f"{place.url}: this server may not read files from there; its operator can allow a folder with --root FOLDER",
        kind="forbidden",
    )


def _irregular(place: Place) -> RequestError:
    return RequestError(400, f"{place.url}: is no regular file", kind="origin")
