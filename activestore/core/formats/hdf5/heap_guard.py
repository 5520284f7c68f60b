"""What the HDF5 library reads of a file, seen before it sees it: a damaged heap in which it would go round for ever.

Values of varying length, among them most text of attributes and the dimensions of variables, lie in collections of a
global heap. The library goes from one object of a collection to the next by the sizes that they say, and where one says 0,
it goes nowhere, in a loop that no signal ends. So metadata are read through here.

Source: HDF5 File Format Specification 3.0, III.E (global heap).
"""

from __future__ import annotations

import io
import os
import re
import struct
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, BinaryIO, TypeVar, cast

from activestore.core.formats.hdf5.file_object import RandomAccessFile
from activestore.core.formats.hdf5.lock import hdf5_turn
from activestore.core.source import ReadableSource
from activestore.errors import SourceError
from activestore.process.descriptors import FULL, is_full, with_room

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None  # type: ignore[assignment]

__all__ = ["GuardedFile", "cannot_open", "is_endless", "read_guarded"]

_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_COLLECTION = re.compile(rb"GCOL\x01\0\0\0")
_SEAM = 7
"""Bytes of how a collection starts that an earlier read may have ended with."""
_HEAD = 16
"""Bytes before the first object of a collection, and before the data of each."""
_FORMATS = {8: struct.Struct("<H6xQ"), 4: struct.Struct("<H6xI"), 2: struct.Struct("<H6xH")}
"""How the head of an object is read, number and size, by how many bytes the file gives to lengths."""
_AT_ONCE = 4096
"""Bytes of a collection that are looked at at once."""

_File = TypeVar("_File")
_Found = TypeVar("_Found")


def read_guarded(
    source: ReadableSource,
    opened: Callable[[str | BinaryIO], AbstractContextManager[_File]],
    work: Callable[[_File], _Found],
) -> _Found:
    """Return what `work` makes of a file that is open with the HDF5 library, which no damaged heap keeps for ever.

    Where it needs other files that a local one names, which are found by its path only, the work is done again without a guard.

    Parameters:
        source: The file.
        opened: Opens it with the HDF5 library, given its path or a file object.
        work: What is done with it; nothing of what it returns may need the open file.

    Raises:
        SourceError: It cannot be opened, or is damaged.
    """
    given = source.for_hdf5()
    with hdf5_turn(through_python=True):
        if not isinstance(given, str):
            with opened(cast("BinaryIO", GuardedFile(given, source.uri))) as file:
                return work(file)
        with _locked_file(given, source.uri) as stream:
            guarded = GuardedFile(stream, source.uri)
            try:
                with opened(cast("BinaryIO", guarded)) as file:
                    found = work(file)
            except Exception:
                if not guarded.leads_elsewhere:
                    raise
            else:
                if not guarded.leads_elsewhere:
                    return found
        with opened(given) as file:
            return work(file)


def cannot_open(uri: str, error: Exception) -> SourceError:
    """Return what the HDF5 library has against a file: another program writes to it, or it is damaged."""
    if is_full(error):
        return SourceError(f"{uri}: {FULL}")
    if isinstance(error, BlockingIOError) or "unable to lock file" in str(error):
        return SourceError(
            f"{uri}: another program has it open for writing, and has locked it; try again once it is closed, or read a copy"
        )
    if "consistency flags" in str(error):
        return SourceError(
            f"{uri}: is marked as open for writing: another program writes to it, or ended while it did; try again when it has "
            "been closed, or clear the mark with h5clear -s"
        )
    return SourceError(f"{uri}: the HDF5 library cannot open it ({error}); is it cut off or damaged?")


def _locked_file(path: str, uri: str) -> BinaryIO:
    """Return a file of this machine, open and locked as the HDF5 library has it that reads it.

    Raises:
        SourceError: It cannot be opened, or another program has it open to write.
    """
    try:
        # Unbuffered: the library has a buffer of its own.
        stream = with_room(lambda: cast("BinaryIO", open(path, "rb", buffering=0)))  # noqa: SIM115  # whoever calls closes it
    except OSError as error:
        raise cannot_open(uri, error) from None
    if fcntl is None or os.environ.get("HDF5_USE_FILE_LOCKING", "").upper() in ("FALSE", "0"):
        return stream
    try:
        fcntl.flock(stream.fileno(), fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError as error:
        stream.close()
        raise cannot_open(uri, error) from None
    except OSError:
        return stream  # a file system without locks
    return stream


class GuardedFile(RandomAccessFile):
    """A file object for the HDF5 library to open once, which refuses what that must not read."""

    def __init__(self, stream: BinaryIO, uri: str) -> None:
        """Read from `stream`, which is left open; `uri` is what messages call it."""
        self._stream, self._uri = stream, uri
        self._format = _FORMATS.get(_width_of_lengths(stream))
        self._is_open = False
        self._ends: dict[int, bytes] = {}
        self._endless: dict[int, bool] = {}
        self.leads_elsewhere = False
        """Whether the library has looked here for another file."""

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a position and return it."""
        self._at = self._stream.seek(offset, whence)
        return self._at

    def readinto(self, buffer: Any) -> int:  # Any: a writable buffer
        """Fill `buffer` and return how many bytes there were.

        Raises:
            SourceError: They are of a damaged heap, or are read for another file that this one names.
        """
        start = self._at
        if start == 0 and len(buffer) == len(_SIGNATURE):
            if self._is_open:
                # The library opens what a link names with the driver of the file that the link is in: this very object.
                self.leads_elsewhere = True
                raise SourceError(f"{self._uri}: a link in it leads to another file; open that file instead")
            self._is_open = True
        count: int = self._stream.readinto(buffer)  # type: ignore[attr-defined]
        self._at = start + count
        data = memoryview(buffer)[:count]
        if start in self._ends or _COLLECTION.search(data) is not None:
            self._check(start, data)
        last = bytes(data[-_SEAM:]) if count >= _SEAM else (self._ends.get(start, b"") + bytes(data))[-_SEAM:]
        if b"G" in last:
            self._ends[self._at] = last
        return count

    def _check(self, start: int, data: memoryview) -> None:
        """Refuse bytes of a heap collection that the library would not come to the end of."""
        before, form = self._ends.get(start, b""), self._format
        if form is None:
            return
        for one in _COLLECTION.finditer(before + bytes(data)):
            place = start - len(before) + one.start()
            if place not in self._endless:
                self._endless[place] = is_endless(partial(self._read, place), form)
            if self._endless[place]:
                raise SourceError(f"{self._uri}: is damaged: an object of its heap at offset {place} has no size")

    def _read(self, place: int, at: int, size: int) -> bytes:
        self._stream.seek(place + at)
        found = self._stream.read(size)
        self._stream.seek(self._at)
        return found


def is_endless(read: Callable[[int, int], bytes], form: struct.Struct) -> bool:
    """Return whether whoever goes through a collection of a global heap, object by object, comes to no end.

    Parameters:
        read: Returns so many of its bytes from a position on; fewer only where the file ends.
        form: How the head of an object is read.
    """
    _, size = form.unpack(read(0, form.size).ljust(form.size, b"\0"))
    at, start, part = _HEAD, 0, b""
    while at + _HEAD <= size:
        if at + _HEAD > start + len(part):
            start, part = at, read(at, _AT_ONCE)
            if len(part) < _HEAD:
                return False  # the library refuses what ends before it should
        number, length = form.unpack_from(part, at - start)
        # Number 0 is the free space, whose size includes its head. The library counts in 64 bits.
        step = (length if number == 0 else _HEAD + (length + 7 & ~7)) & 0xFFFFFFFFFFFFFFFF
        if step == 0 or step >> 63:
            return True
        at += step
    return False


def _width_of_lengths(stream: BinaryIO) -> int:
    """Return how many bytes a file gives to lengths, as its superblock says; 0 if it has none."""
    place = 0
    while True:
        stream.seek(place)
        head = stream.read(16)
        if len(head) < 16:
            return 0
        if head.startswith(_SIGNATURE):
            return head[14] if head[8] < 2 else head[10]
        # A user block is 0, 512, 1024, 2048, … bytes long.
        place = place * 2 or 512
