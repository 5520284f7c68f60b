"""The protocol through which the engine reads bytes, whatever the store."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import BinaryIO, Protocol

__all__ = ["ReadableSource"]


class ReadableSource(Protocol):
    """Where bytes are read from: all that the engine asks of a store."""

    @property
    def uri(self) -> str:
        """The address, as it is named in messages."""

    @property
    def size(self) -> int:
        """Bytes in the source."""

    @property
    def version(self) -> str:
        """A mark that changes when the bytes change (modification time, ETag)."""

    @property
    def is_remote(self) -> bool:
        """Whether each read waits for a network, so that many small ones are better asked for at once."""

    def metadata(self) -> AbstractContextManager[ReadableSource]:
        """Return the same bytes, for reading metadata in a `with` block: what is read is kept for later."""

    def current_version(self) -> str:
        """Return the version that the source has now."""

    def read_ranges(self, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """Return the bytes of each (offset, size); fewer than `size` only at the end of the source."""

    def abandon(self) -> None:
        """Make the reads that are under way end soon, with an error."""

    def for_hdf5(self) -> str | BinaryIO:
        """Return what the HDF5 library can open: a path, or a binary file object."""
