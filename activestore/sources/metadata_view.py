"""Remote bytes in blocks: a view for metadata, which keeps what it read, and file objects for the HDF5 library."""

from __future__ import annotations

import io
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, BinaryIO, Protocol, cast

from activestore.core.formats.hdf5.file_object import RandomAccessFile
from activestore.process.forking import Lock

__all__ = ["METADATA_BLOCK", "MetadataView", "data_file"]

METADATA_BLOCK = 64 << 10
"""Bytes of a block of metadata; the first one is read when a file is opened."""
_DATA_BLOCK, _DATA_BLOCKS = 1 << 20, 32
"""Bytes and number of blocks that are kept of what the HDF5 library reads of the data."""


def data_file(size: int, read: Callable[[Sequence[tuple[int, int]]], list[bytes]]) -> BinaryIO:
    """Return a file object of `size` bytes for the HDF5 library to read data through; the last blocks are kept."""
    return cast("BinaryIO", BlockFile(size, _DATA_BLOCK, _RecentBlocks(read).read_ranges))


class Readable(Protocol):
    """What a view of the metadata is made of."""

    @property
    def uri(self) -> str: ...
    @property
    def size(self) -> int: ...
    @property
    def version(self) -> str: ...
    def current_version(self) -> str: ...
    def read_ranges(self, ranges: Sequence[tuple[int, int]]) -> list[bytes]: ...
    def abandon(self) -> None: ...


class MetadataView:
    """A remote source for reading metadata: what was read once is kept, and found again when the file is next opened."""

    is_remote = True

    def __init__(self, source: Readable, segments: dict[int, bytes]) -> None:
        """Read from `source` what is not in `segments`, bytes by their offset."""
        self._source, self.segments = source, segments
        self.changed = False

    @property
    def uri(self) -> str:
        """The address."""
        return self._source.uri

    @property
    def size(self) -> int:
        """Bytes in the source."""
        return self._source.size

    @property
    def version(self) -> str:
        """The source's version."""
        return self._source.version

    def current_version(self) -> str:
        """Return the version that the source has now."""
        return self._source.current_version()

    @contextmanager
    def metadata(self) -> Iterator[MetadataView]:
        """Give this view."""
        yield self

    def read_ranges(self, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """Return the bytes of each (offset, size); what is not known yet is asked for at once, and kept.

        Raises:
            SourceError: The source cannot be read.
        """
        missing = [one for one in dict.fromkeys(ranges) if self._known(*one) is None]
        if missing:
            for (offset, _), data in zip(missing, self._source.read_ranges(missing), strict=True):
                if len(data) > len(self.segments.get(offset, b"")):
                    self.segments[offset] = data
                    self.changed = True
        return [found if (found := self._known(*one)) is not None else b"" for one in ranges]

    def _known(self, offset: int, size: int) -> bytes | None:
        size = max(0, min(size, self.size - offset))
        for start in (offset, offset - offset % METADATA_BLOCK):
            data = self.segments.get(start)
            if data is not None and start + len(data) >= offset + size:
                return data[offset - start : offset - start + size]
        return None if size else b""

    def abandon(self) -> None:
        """Break off the reads that are under way."""
        self._source.abandon()

    def for_hdf5(self) -> BinaryIO:
        """Return a file object of small blocks, which are kept."""
        return cast("BinaryIO", BlockFile(self.size, METADATA_BLOCK, self.read_ranges))


class BlockFile(RandomAccessFile):
    """A file object that reads whole blocks."""

    def __init__(self, size: int, block: int, read: Callable[[Sequence[tuple[int, int]]], list[bytes]]) -> None:
        """Read blocks of `block` bytes of a file of `size` bytes by `read`."""
        self._size, self._block, self._read_ranges = size, block, read

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a position and return it."""
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        return self._at

    def readinto(self, buffer: Any) -> int:  # Any: a writable buffer
        """Fill `buffer` and return how many bytes there were.

        Raises:
            SourceError: The source cannot be read.
        """
        view = memoryview(buffer).cast("B")
        end = min(self._at + len(view), self._size)
        if end <= self._at:
            return 0
        first = self._at - self._at % self._block
        blocks = [(start, min(self._block, self._size - start)) for start in range(first, end, self._block)]
        data = b"".join(self._read_ranges(blocks))[self._at - first : end - first]
        view[: len(data)] = data
        self._at += len(data)
        return len(data)


class _RecentBlocks:
    """Blocks of data that were read lately."""

    def __init__(self, read: Callable[[Sequence[tuple[int, int]]], list[bytes]]) -> None:
        self._read_ranges, self._lock = read, Lock()
        self._blocks: OrderedDict[int, bytes] = OrderedDict()

    def read_ranges(self, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        with self._lock:
            known = {offset: self._blocks[offset] for offset, _ in ranges if offset in self._blocks}
        missing = [one for one in ranges if one[0] not in known]
        known |= {offset: data for (offset, _), data in zip(missing, self._read_ranges(missing), strict=True)}
        with self._lock:
            for offset, data in known.items():
                self._blocks[offset] = data
                self._blocks.move_to_end(offset)
            while len(self._blocks) > _DATA_BLOCKS:
                self._blocks.popitem(last=False)
        return [known[offset] for offset, _ in ranges]
