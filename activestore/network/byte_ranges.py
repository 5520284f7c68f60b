"""Ranges of bytes: several that nearly touch are read as one."""

from __future__ import annotations

import sys
from bisect import bisect_right
from collections.abc import Mapping, Sequence

__all__ = ["clipped_ranges", "cut_ranges", "merged_ranges"]

_GAP = 16 << 10
"""Bytes between two ranges up to which reading them too is faster than another request."""
_LONGEST = 8 << 20
"""Bytes of a request that joins several ranges, at most."""


def clipped_ranges(ranges: Sequence[tuple[int, int]], size: int) -> list[tuple[int, int]]:
    """Return the part of each (offset, size) that a source of `size` bytes has: nothing where a damaged file points outside.

    Examples:
        >>> clipped_ranges([(90, 20), (200, 5), (-8, 5)], 100)
        [(90, 10), (200, 0), (-8, 0)]
    """
    return [
        (offset, length if 0 <= offset <= size - length else max(0, size - offset) if offset >= 0 else 0)
        for offset, length in ranges
    ]


def merged_ranges(ranges: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return the (offset, size) of as few requests as are fast for `ranges`: those that nearly touch become one.

    Examples:
        >>> merged_ranges([(100_000, 8), (20, 10), (0, 10), (5, 0)])
        [(0, 30), (100000, 8)]
    """
    merged: list[tuple[int, int]] = []
    start = end = -_GAP - 1
    for offset, size in sorted(ranges):
        if not size:
            continue
        after = offset + size
        if start <= offset <= end + _GAP and (after <= end or after - start <= _LONGEST):
            end = max(after, end)
            continue
        if end > start:
            merged.append((start, end - start))
        start, end = offset, after
    if end > start:
        merged.append((start, end - start))
    return merged


def cut_ranges(ranges: Sequence[tuple[int, int]], data: Mapping[int, bytes]) -> list[bytes]:
    """Return the bytes of each (offset, size), out of the `data` of merged ranges by their offset.

    Examples:
        >>> cut_ranges([(3, 2), (0, 1), (9, 0)], {0: b"abcdef"})
        [b'de', b'a', b'']
    """
    starts = sorted(data)
    found = []
    block, first, last = b"", 0, -1
    for offset, size in ranges:
        # Most lie where the one before lay; to find where they do takes longer than to cut them out.
        if size and not first <= offset < last:
            at = bisect_right(starts, offset)
            first, last = starts[at - 1], starts[at] if at < len(starts) else sys.maxsize
            block = data[first]
        found.append(block[offset - first : offset - first + size] if size else b"")
    return found
