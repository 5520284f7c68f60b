"""Reading stored chunks: those that nearly touch in one request, those that are kept in none."""

from __future__ import annotations

from collections.abc import Sequence

from activestore.network.byte_ranges import cut_ranges, merged_ranges
from activestore.server.errors import RequestError
from activestore.server.location import Place
from activestore.server.metrics import Metrics
from activestore.server.reading.chunk_cache import ChunkCache
from activestore.server.reading.origins import Origins
from activestore.server.settings import ServerSettings

__all__ = ["Reader", "read_size"]

_ATTEMPTS = 2
"""How many times an object that changes while it is read is begun with."""


class Reader:
    """Reads from the origins that are allowed; used from many threads at once."""

    def __init__(self, settings: ServerSettings, metrics: Metrics) -> None:
        """Prepare to read; nothing is sent.

        Raises:
            ConfigurationError: An address or a folder is none.
        """
        self.origins = Origins(settings)
        self._cache = ChunkCache(settings.cache) if settings.cache else None
        self._metrics = metrics

    def read(self, place: Place, ranges: Sequence[tuple[int, int]], *, uncached: bool = False) -> list[bytes]:
        """Return the bytes of each (offset, size).

        Raises:
            RequestError: They cannot be read, or there are fewer.
        """
        kept = None if uncached else self._cache
        found = self._fresh(place, ranges, None) if kept is None else self._kept(place, ranges, kept)
        for (offset, size), data in zip(ranges, found, strict=True):
            if len(data) != size:
                raise RequestError(
                    400,
                    f"the object ends after {len(data)} of the {size} bytes from {offset} on; is it the right one?",
                    kind="chunk",
                )
        return found

    def read_to_end(self, place: Place, offset: int, most: int) -> bytes:
        """Return the bytes from `offset` to the end of the object.

        Raises:
            RequestError: They cannot be read, or are more than `most`.
        """
        data = self.origins.read_to_end(place, offset, most)
        self._metrics.read.inc(len(data))
        return data

    def _kept(self, place: Place, ranges: Sequence[tuple[int, int]], cache: ChunkCache) -> list[bytes]:
        """Return the bytes out of the cache where it has those of the object as it is now."""
        for attempt in range(_ATTEMPTS):
            # The origin is asked each time: it knows whether the object is still the same, and whether this caller may see it.
            stored = self.origins.find(place)
            version = stored.version
            kept_as = version if stored.settled else ""
            found = {one: cache.get(place, kept_as, *one) for one in set(ranges)}
            missing = [one for one in dict.fromkeys(ranges) if found[one] is None]
            try:
                read = self._fresh(place, missing, version or None)
            except RequestError as error:
                if error.status == 409 and attempt + 1 < _ATTEMPTS:
                    continue
                raise
            for one, data in zip(missing, read, strict=True):
                cache.put(place, kept_as, *one, data)
                found[one] = data
            self._metrics.cache_hits.inc(len(found) - len(missing))
            self._metrics.cache_misses.inc(len(missing))
            self._metrics.cache_bytes.set(cache.nbytes)
            return [found[one] or b"" for one in ranges]
        raise AssertionError("unreachable")

    def _fresh(self, place: Place, ranges: Sequence[tuple[int, int]], version: str | None) -> list[bytes]:
        if not ranges:
            return []
        merged = merged_ranges(ranges)
        read = self.origins.read(place, merged, version=version)
        self._metrics.read.inc(sum(map(len, read)))
        if len(merged) == len(ranges) == 1:
            return read
        return cut_ranges(ranges, {start: data for (start, _), data in zip(merged, read, strict=True)})

    def close(self) -> None:
        """Close all connections."""
        self.origins.close()


def read_size(ranges: Sequence[tuple[int, int]]) -> int:
    """Return how many bytes are read for these ranges."""
    return sum(size for _, size in merged_ranges(ranges))
