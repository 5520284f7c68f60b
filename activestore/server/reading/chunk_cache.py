"""A cache of stored bytes, as they were read from their origins."""

from __future__ import annotations

import hashlib
import os
import threading
from collections import OrderedDict

from activestore.server.location import Place

__all__ = ["ChunkCache"]

_KEPT_BESIDE = 256
"""Bytes that an entry takes beside its data."""
_LARGEST_SHARE = 4
"""The part of the cache that one entry may take is one of so many."""
_KEY = os.urandom(32)
"""Makes the names of entries useless to whoever sees them: addresses and logins can be guessed, this cannot."""


class ChunkCache:
    """Keeps the bytes that were used last; used from many threads at once, and holds no secrets.

    Examples:
        >>> cache, place = ChunkCache(1 << 20), Place("http", "http://store.example/a.nc")
        >>> cache.put(place, '"v1"', 100, 4, b"data")
        >>> cache.get(place, '"v1"', 100, 4), cache.get(place, '"v2"', 100, 4), cache.hits, cache.misses
        (b'data', None, 1, 1)
    """

    def __init__(self, most: int) -> None:
        """Keep no more than `most` bytes."""
        self._most = most
        self._entries: OrderedDict[bytes, bytes] = OrderedDict()
        self._lock = threading.Lock()
        self._nbytes = self._hits = self._misses = 0

    def __repr__(self) -> str:
        return f"ChunkCache({self._most}, entries={len(self._entries)}, nbytes={self._nbytes})"

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def nbytes(self) -> int:
        """Bytes that are kept, with what it takes to find them."""
        return self._nbytes

    @property
    def hits(self) -> int:
        """How often something was found."""
        return self._hits

    @property
    def misses(self) -> int:
        """How often nothing was."""
        return self._misses

    def get(self, place: Place, version: str, offset: int, size: int) -> bytes | None:
        """Return stored bytes that were read from this place with this login; None if they are not kept."""
        key = _key(place, version, offset, size)
        with self._lock:
            found = self._entries.get(key) if version else None
            if found is None:
                self._misses += 1
                return None
            self._entries.move_to_end(key)
            self._hits += 1
            return found

    def put(self, place: Place, version: str, offset: int, size: int, data: bytes) -> None:
        """Keep stored bytes; not those of an object whose changes nothing would tell, nor what would drive out all else.

        Parameters:
            place: The object, and who may read it.
            version: Its version, "" if the origin gives none.
            offset: Where the bytes begin.
            size: How many were asked for.
            data: The bytes.
        """
        taken = len(data) + _KEPT_BESIDE
        if not version or taken > self._most // _LARGEST_SHARE:
            return
        key = _key(place, version, offset, size)
        with self._lock:
            self._forget(self._entries.pop(key, None))
            self._entries[key] = data
            self._nbytes += taken
            while self._nbytes > self._most:
                self._forget(self._entries.popitem(last=False)[1])

    def _forget(self, data: bytes | None) -> None:
        if data is not None:
            self._nbytes -= len(data) + _KEPT_BESIDE


def _key(place: Place, version: str, offset: int, size: int) -> bytes:
    """Return the name of an entry: a digest, so that neither logins nor signed addresses are kept."""
    login = None if place.login is None else (place.login.user, place.login.password, place.login.session_token)
    named = ascii((place.interface_type, place.url, place.region, login, version, offset, size))
    return hashlib.blake2b(named.encode("ascii"), digest_size=32, key=_KEY).digest()
