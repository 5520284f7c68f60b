"""What compressed bytes claim to decode to: read and checked before a library, which believes it, takes memory for it."""

from __future__ import annotations

__all__ = ["blosc2_sizes", "check_blosc2_frame", "zstd_size"]

_MOST_FRAME_CHUNKS = 4096
"""HDF5's filter writes one chunk to a frame."""
_MOST_BLOSC2 = (1 << 31) - 33
"""Bytes of the largest Blosc2 chunk."""


def zstd_size(head: bytes) -> int | None:
    """Return the size that a zstd frame claims to decode to, None if it does not say.

    Source: RFC 8878, 3.1.1.1 (frame header).
    """
    if len(head) < 6 or head[:4] != b"\x28\xb5\x2f\xfd":
        raise ValueError("it does not start as a zstd frame")
    single, kind = head[4] >> 5 & 1, head[4] >> 6
    width = (single, 2, 4, 8)[kind]
    start = 6 - single + (0, 1, 2, 4)[head[4] & 3]
    return int.from_bytes(head[start : start + width], "little") + 256 * (kind == 1) if width else None


def check_blosc2_frame(data: bytes, size: int) -> int:
    """Check what the frame of a chunk of `size` bytes claims, and return how many bytes its parts, filled up, may have.

    Source: C-Blosc2, README_CFRAME_FORMAT.rst (header).
    """
    if len(data) < 0x3E or data[2:10] != b"b2frame\0":
        raise ValueError("it does not start as a Blosc2 frame")
    nbytes, chunk = (int.from_bytes(data[at:end], "big", signed=True) for at, end in ((0x1E, 0x26), (0x3A, 0x3E)))
    most = 4 * size + 65536
    if not size <= nbytes <= most:
        raise ValueError(f"it claims {nbytes} bytes")
    # Chunks of the size 0 have sizes of their own, which HDF5's filter does not write.
    if not 0 < chunk <= most or nbytes // chunk > _MOST_FRAME_CHUNKS:
        raise ValueError(f"it claims chunks of {chunk} bytes")
    return most


def blosc2_sizes(raw: bytes | bytearray | memoryview) -> tuple[int, int]:
    """Return how many bytes a Blosc2 chunk claims to decode to, and to be stored in.

    Source: C-Blosc2, README_CHUNK_FORMAT.rst (header).
    """
    head = bytes(memoryview(raw)[:32])
    nbytes, stored = int.from_bytes(head[4:8], "little"), int.from_bytes(head[12:16], "little")
    if len(head) < 32 or not 32 <= stored <= len(raw):
        raise ValueError("the compressed data are cut off")
    # Both flags of the older shuffles say that the header is the longer one of Blosc2, of which the library reads 32 bytes;
    # the code 6 names a codec that is loaded as a plugin, and bit 3 of the last byte says that the data are elsewhere.
    if head[2] & 5 != 5 or head[2] >> 5 == 6 or head[31] & 8:
        raise ValueError("it is not a whole Blosc2 chunk of one of the library's own codecs")
    if not 0 < nbytes <= _MOST_BLOSC2:
        raise ValueError(f"it claims {nbytes} bytes")
    return nbytes, stored
