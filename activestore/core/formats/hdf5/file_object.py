"""What file objects that the HDF5 library reads through have in common."""

from __future__ import annotations

import io

__all__ = ["RandomAccessFile"]


class RandomAccessFile(io.RawIOBase):
    """A read-only file object, as the HDF5 library takes one; whoever derives from it reads and seeks."""

    _at = 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return the position."""
        return self._at
