"""What the operator of a server decides."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["ServerSettings"]

_MIB = 1 << 20


def _processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """What may be read, how much at once, and who may ask; the defaults are safe ones."""

    roots: tuple[Path, ...] = ()
    """Folders whose files may be read."""
    origins: tuple[str, ...] = ()
    """Addresses below which objects may be read: "https://store.example" or "https://store.example/bucket"."""
    v1: bool = False
    """Whether the protocol's first version is spoken as well."""
    token: str | None = field(default=None, repr=False)
    """What clients have to show; None where anybody may ask."""
    workers: int = field(default_factory=_processors)
    """Chunks that are computed at once."""
    readers: int = 32
    """Reads from origins under way at once."""
    client_connections: int | None = None
    """Connections that one client address may have open; None for a quarter of all."""
    queue: int = 1000
    """Requests that wait at most; those beyond are answered with 429."""
    memory: int | None = None
    """Bytes of chunks, stored and decoded, that are at work at once; None for 64 MiB for each worker, and 128 MiB at least."""
    largest_request: int = 8 * _MIB
    """Bytes that a request may have."""
    largest_chunk: int = 256 * _MIB
    """Bytes that a chunk may have, stored or decoded."""
    most_tasks: int = 4096
    """Chunks that one request may ask for."""
    cache: int = 0
    """Bytes of stored chunks that are kept; 0 for none."""
    connect_timeout: float = 5.0
    """Seconds to wait for a connection to an origin."""
    read_timeout: float = 60.0
    """Seconds to wait for the next bytes of an origin, or of a request."""
    verify: bool | str = True
    """Whether the TLS certificates of origins are verified; a path names a file of the authorities that are trusted."""

    @property
    def chunk_memory(self) -> int:
        """Bytes of chunks that are at work at once: half of it for reading, half for computing."""
        return max(128, 64 * self.workers) * _MIB if self.memory is None else self.memory
