"""CRC-32C, the checksum of Zarr's `crc32c` codec and of shard indexes, by NumPy: many stretches of the bytes side by side.

Source: RFC 3720, appendix B.4 (the polynomial and test values).
"""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt

__all__ = ["crc32c"]

_POLYNOMIAL = 0x82F63B78
_ALL = 0xFFFFFFFF
_FEW = 256
"""Bytes below which a loop in Python is as fast."""

_Words = npt.NDArray[np.uint32]


def crc32c(data: bytes | bytearray | memoryview) -> int:
    """Return the CRC-32C of `data`.

    Examples:
        >>> hex(crc32c(b"123456789"))
        '0xe3069283'
    """
    octets = np.frombuffer(data, np.uint8)
    lanes = _lanes(len(octets))
    length = len(octets) // lanes
    head = octets[: lanes * length].reshape(lanes, length)
    register = np.zeros(lanes, np.uint32)
    register[0] = _ALL
    table = _table()
    for column in np.ascontiguousarray(head.T) if lanes > 1 else ():
        register = table[(register ^ column) & 0xFF] ^ (register >> np.uint32(8))
    state, rest = (_joined(register, length), octets[lanes * length :]) if lanes > 1 else (_ALL, octets)
    steps = table.tolist()
    for octet in rest.tolist():
        state = steps[(state ^ octet) & 0xFF] ^ (state >> 8)
    return state ^ _ALL


def _lanes(nbytes: int) -> int:
    """Return how many stretches to work on at once: a power of two near the square root of the bytes."""
    return 1 if nbytes < _FEW else 1 << (nbytes.bit_length() // 2)


def _joined(register: _Words, length: int) -> int:
    """Return the register after all stretches of `length` bytes, given that after each, all but the first begun at zero."""
    shift = _zeros_operator(length)
    while len(register) > 1:
        register = _applied(shift, register[0::2]) ^ register[1::2]
        # Two stretches of zeros one after the other.
        shift = _applied(shift, shift)
    return int(register[0])


@cache
def _table() -> _Words:
    """Return what a byte does to the register."""
    values = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        values = np.where(values & 1, (values >> np.uint32(1)) ^ np.uint32(_POLYNOMIAL), values >> np.uint32(1))
    return values


@cache
def _zeros_operator(length: int) -> _Words:
    """Return what `length` zero bytes make of each bit of the register; they act on each bit apart."""
    found = np.uint32(1) << np.arange(32, dtype=np.uint32)
    table = _table()
    power = table[found & 0xFF] ^ (found >> np.uint32(8))
    while length:
        if length & 1:
            found = _applied(power, found)
        power = _applied(power, power)
        length >>= 1
    return found


def _applied(operator: _Words, registers: _Words) -> _Words:
    bits = (registers[:, None] >> np.arange(32, dtype=np.uint32)) & np.uint32(1)
    result: _Words = np.bitwise_xor.reduce(np.where(bits, operator, np.uint32(0)), axis=1).astype(np.uint32)
    return result
