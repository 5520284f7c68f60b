"""Zarr stores as sources: an offset stands for a chunk's object, by arithmetic, and a place in it."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, BinaryIO, Protocol

import numpy as np
import numpy.typing as npt

from activestore.core.formats.zarr.keys import ChunkKeys, Places
from activestore.core.lazy_pickle import source_later
from activestore.errors import CorruptChunkError, SourceError, UnsupportedError
from activestore.network.location import Origin
from activestore.process.forking import Lock

__all__ = ["MAX_METADATA", "ObjectStore", "ZarrSource"]

MAX_METADATA = 1 << 30
"""Bytes of an object of metadata; a damaged store may have any."""
_FEW = 256
"""Chunks that are asked for one by one, where a list of the store has to be longer."""
_ROOTS = ("zarr.json", ".zmetadata", ".zgroup", ".zarray")


class ObjectStore(Protocol):
    """What is asked of a place where objects are."""

    @property
    def uri(self) -> str:
        """The address, as it is named in messages."""

    @property
    def is_remote(self) -> bool:
        """Whether each read waits for a network."""

    def status(self, key: str) -> tuple[int, str] | None:
        """Return size and a mark of the version of an object, None if it is not there."""

    def sizes(self, keys: Sequence[str]) -> list[int | None]:
        """Return the size of each object, None where it is not there."""

    def listed(self, folder: str) -> Iterator[tuple[str, int]] | None:
        """Yield the key, counted from the folder, and the size of all objects in and below it; None if it cannot list."""

    def folders(self, folder: str) -> list[str]:
        """Return the names of the folders directly in a folder, sorted."""

    def read(self, parts: Sequence[tuple[str, int, int]]) -> list[bytes]:
        """Return the bytes of parts (key, offset, size) of objects, fewer where an object ends."""


@dataclass(frozen=True, slots=True)
class _Region:
    """A stretch of the offsets: all that an array's objects can have."""

    start: int
    keys: ChunkKeys

    @property
    def end(self) -> int:
        return self.start + self.keys.room * self.keys.count


class ZarrSource:
    """A store in Zarr's format 2 or 3; safe to read from many threads, and picklable, without secrets."""

    def __init__(self, store: ObjectStore, reopen: tuple[Any, ...]) -> None:  # Any: pickle's own contract
        """Read chunks and metadata from `store`.

        Parameters:
            store: Where the objects are.
            reopen: What gives the store again in another process: a function, and what it is called with.
        """
        self._store, self._reopen = store, reopen
        self._lock = Lock()
        self._regions: list[_Region] = []
        self._listings: dict[ChunkKeys, Places] = {}
        self._objects: dict[str, bytes | None] = {}
        self._marks: dict[str, str] = {}

    def __repr__(self) -> str:
        return f"ZarrSource({self.uri!r})"

    def __reduce__(self) -> tuple[Any, ...]:  # Any: pickle's own contract
        # The offsets that are in tasks have to mean the same there.
        make = _reopened, (self._reopen, list(self._regions), dict(self._marks))
        return source_later(self.uri, make, is_remote=self.is_remote)

    @property
    def uri(self) -> str:
        """The address of the store, without user and password."""
        return self._store.uri

    @property
    def size(self) -> int:
        """Bytes of the chunks of which a list was made, and of the metadata that were read."""
        with self._lock:
            chunks = sum(int(places.size.sum()) for places in self._listings.values())
            return chunks + sum(len(data) for data in self._objects.values() if data is not None)

    @property
    def version(self) -> str:
        """What `current_version` says as long as the metadata that were read are the same."""
        return "unchanged"

    @property
    def is_remote(self) -> bool:
        """Whether each read waits for a network."""
        return self._store.is_remote

    @property
    def origin(self) -> Origin:
        """What a server that computes cannot be told of it."""
        return Origin("zarr", self.uri, obstacle="chunks of a Zarr store, each an object of its own")

    def metadata(self) -> AbstractContextManager[ZarrSource]:
        """Give the store itself: it keeps what metadata it has read."""
        return nullcontext(self)

    def current_version(self) -> str:
        """Return the version that the store has now, as far as its metadata tell.

        Raises:
            SourceError: It cannot be reached.
        """
        for key, mark in list(self._marks.items()):
            status = self._store.status(key)
            if status is None or status[1] != mark:
                return f"{key} has changed"
        return self.version

    def read_object(self, key: str) -> bytes | None:
        """Return a whole object of metadata, None if there is none of that key.

        Raises:
            SourceError: It cannot be read, or is larger than any metadata.
        """
        with self._lock:
            if key in self._objects:
                return self._objects[key]
        status, data = self._store.status(key), None
        if status is not None:
            if status[0] > MAX_METADATA:
                raise SourceError(f"{self.uri}: {key} has {status[0]} bytes, more than the {MAX_METADATA} of any metadata")
            (data,) = self._store.read([(key, 0, status[0] + 1)])
            if len(data) != status[0]:
                raise SourceError(f"{self.uri}: {key} changes while it is read; try again")
        with self._lock:
            if status is not None:
                self._marks.setdefault(key, status[1])
            return self._objects.setdefault(key, data)

    def is_there(self) -> bool:
        """Return whether there is a Zarr store, or one array, at the address."""
        return any(self.read_object(key) is not None for key in _ROOTS)

    @property
    def objects(self) -> ObjectStore:
        """Where the objects are."""
        return self._store

    def folders(self, key: str) -> list[str]:
        """Return the names of the folders directly in the folder `key`, sorted."""
        return self._store.folders(key)

    def place_chunks(self, keys: ChunkKeys, wanted: npt.NDArray[np.int64] | None) -> Places:
        """Return where the objects of chunks are: of those `wanted` if they are few, else of all that a list of the store has.

        Raises:
            SourceError: The store cannot be reached.
            CorruptChunkError: An object is larger than any chunk.
        """
        region = self._region(keys)
        with self._lock:
            known = self._listings.get(keys)
        if known is None and (wanted is None or len(wanted) > _FEW):
            known = self._listed(region)
            if known is None and wanted is None:
                known = self._asked(region, None)
            if known is not None:
                with self._lock:
                    self._listings[keys] = known
        return self._asked(region, wanted) if known is None else known

    def _region(self, keys: ChunkKeys) -> _Region:
        """Return the offsets of an array's objects; the same ones whenever it is asked for.

        Raises:
            UnsupportedError: There are more objects than offsets.
        """
        with self._lock:
            for region in self._regions:
                if region.keys == keys:
                    return region
            region = _Region(self._regions[-1].end if self._regions else 0, keys)
            if region.end >= 1 << 63:
                raise UnsupportedError(
                    f"{self.uri}: has too many chunks for one opening; open the store anew for {keys.prefix!r}"
                )
            self._regions.append(region)
            return region

    def _listed(self, region: _Region) -> Places | None:
        folder, _, start = region.keys.prefix.rpartition("/")
        entries = self._store.listed(f"{folder}/" if folder else "")
        if entries is None:
            return None
        rows = []
        for name, size in entries:
            if not name.startswith(start):
                continue
            position = region.keys.position(name[len(start) :])
            if position is not None:
                rows.append(self._row(region, position, size))
        return Places.of(rows) if region.keys.grid else self._asked(region, None)

    def _asked(self, region: _Region, wanted: npt.NDArray[np.int64] | None) -> Places:
        positions = range(region.keys.count) if wanted is None else wanted.tolist()
        sizes = self._store.sizes([region.keys.key(position) for position in positions])
        found = zip(positions, sizes, strict=True)
        return Places.of(self._row(region, position, size) for position, size in found if size is not None)

    def _row(self, region: _Region, position: int, size: int) -> tuple[int, int, int]:
        if size > region.keys.room - 1:
            raise CorruptChunkError(
                f"{self.uri}: {region.keys.key(position)} has {size} bytes, more than any chunk; is it damaged?"
            )
        return position, region.start + position * region.keys.room, size

    def read_ranges(self, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """Return the bytes of each (offset, size), offsets as `place_chunks` gave them; fewer where an object ends.

        Raises:
            SourceError: An object cannot be read, or has another size than when the chunks were located.
        """
        parts, whole = [], []
        for offset, size in ranges:
            region = self._region_at(offset)
            position, start = divmod(offset - region.start, region.keys.room)
            # One byte more tells whether an object has grown.
            parts.append((region.keys.key(position), start, size + (not region.keys.shared)))
            whole.append(not region.keys.shared)
        found = self._store.read(parts)
        for (key, _, size), data, is_object in zip(parts, found, whole, strict=True):
            if is_object and len(data) == size:
                raise SourceError(f"{self.uri}: {key} has changed since it was located; make a new Active of it")
        return found

    def _region_at(self, offset: int) -> _Region:
        at = bisect_right(self._regions, offset, key=lambda region: region.start) - 1
        if at < 0 or offset >= self._regions[at].end:
            raise SourceError(f"{self.uri}: nothing has the offset {offset}")
        return self._regions[at]

    def abandon(self) -> None:
        """Do nothing: fsspec has no means to break off a read, and a disk does not wait long."""

    def for_hdf5(self) -> BinaryIO:
        """Refuse: there is nothing for the HDF5 library in it.

        Raises:
            UnsupportedError: Always.
        """
        raise UnsupportedError(f"{self.uri}: is a Zarr store, which the HDF5 library cannot read")


def _reopened(reopen: tuple[Any, ...], regions: list[_Region], marks: dict[str, str]) -> ZarrSource:
    function, arguments = reopen
    source = ZarrSource(function(*arguments), reopen)
    source._regions, source._marks = regions, marks
    return source
