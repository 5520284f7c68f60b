"""Filters of Zarr arrays that NumPy undoes: differences, scaled numbers, other types, turned axes, checksums.

Parameters of a filter are whole numbers, as everywhere in a task: types and floating-point numbers are written as such.

Source: numcodecs (delta, fixedscaleoffset, quantize, crc32, adler32) and the Zarr specification 3 (transpose, crc32c).
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Sequence

import numpy as np

from activestore.core.codecs.checksums import crc32c

__all__ = [
    "AT_END",
    "AT_START",
    "cast_size",
    "float_bits",
    "type_numbers",
    "undo_cast",
    "undo_delta",
    "undo_scale",
    "undo_transpose",
    "verified",
]

_Buffer = bytes | bytearray | memoryview
AT_START, AT_END = 0, 1
"""Where a checksum stands."""


def type_numbers(dtype: np.dtype[np.generic]) -> tuple[int, int, int]:
    """Return a type of numbers as three whole numbers.

    Examples:
        >>> type_numbers(np.dtype("<f4"))
        (60, 102, 4)
    """
    return ord(dtype.str[0]), ord(dtype.kind), dtype.itemsize


def _type(numbers: Sequence[int]) -> np.dtype[np.generic]:
    order, kind, size = numbers
    return np.dtype(f"{chr(order)}{chr(kind)}{size}")


def float_bits(number: float) -> int:
    """Return the 64 bits of a floating-point number as a whole number."""
    return int.from_bytes(struct.pack("<d", number), "little")


def _float(bits: int) -> float:
    (number,) = struct.unpack("<d", bits.to_bytes(8, "little"))
    return float(number)


def cast_size(values: Sequence[int], nbytes: int) -> int:
    """Return how many bytes a filter makes of `nbytes`, given its parameters: types before and after it come first."""
    return nbytes // values[2] * values[5]


def undo_delta(raw: _Buffer, values: Sequence[int]) -> _Buffer:
    """Return the numbers whose differences `raw` are."""
    differences = np.frombuffer(raw, _type(values[3:6]))
    numbers = np.empty(len(differences), _type(values[:3]))
    with np.errstate(all="ignore"):
        np.cumsum(differences, out=numbers)
    return numbers.data.cast("B")


def undo_scale(raw: _Buffer, values: Sequence[int]) -> _Buffer:
    """Return the numbers that were stored as `(number - offset) * scale`."""
    stored, scale, offset = np.frombuffer(raw, _type(values[3:6])), _float(values[6]), _float(values[7])
    with np.errstate(all="ignore"):
        return ((stored / scale) + offset).astype(_type(values[:3])).data.cast("B")


def undo_cast(raw: _Buffer, values: Sequence[int]) -> _Buffer:
    """Return the numbers in the type that they had."""
    with np.errstate(all="ignore"):
        return np.frombuffer(raw, _type(values[3:6])).astype(_type(values[:3])).data.cast("B")


def undo_transpose(raw: _Buffer, values: Sequence[int]) -> _Buffer:
    """Return the numbers in C order; the parameters are the bytes of one, the order of the axes, and the lengths."""
    itemsize, ndim = values[0], len(values) // 2
    order, shape = values[1 : ndim + 1], values[ndim + 1 :]
    stored = np.frombuffer(raw, f"V{itemsize}").reshape([shape[axis] for axis in order])
    return stored.transpose(np.argsort(order)).tobytes()


_CHECKSUMS: dict[str, Callable[[_Buffer], int]] = {"crc32": zlib.crc32, "adler32": zlib.adler32, "crc32c": crc32c}


def verified(name: str, raw: _Buffer, values: Sequence[int]) -> _Buffer:
    """Return the bytes without their checksum.

    Raises:
        ValueError: It is not that of the bytes.
    """
    view = memoryview(raw).cast("B")
    if len(view) < 4:
        raise ValueError("it is too short for a checksum")
    data, stored = (view[4:], view[:4]) if values == (AT_START,) else (view[:-4], view[-4:])
    if _CHECKSUMS[name](data) != int.from_bytes(stored, "little"):
        raise ValueError("the checksum is not that of the bytes")
    return data
