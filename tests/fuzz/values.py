"""Numbers at which things go wrong: the ends of types, fill values, what is no number, what cancels."""

from collections.abc import Callable, Mapping
from random import Random

import netCDF4
import numpy as np

__all__ = ["PALETTES", "base_type", "bounds", "held", "numbers", "palette"]

DEFAULT_FILLS: Mapping[str, float] = netCDF4.default_fillvals


def _edges(dtype: np.dtype) -> list[float]:
    if dtype.kind == "b":
        return [0, 1]
    if dtype.kind == "f":
        largest = float(np.finfo(dtype).max)
        return [largest, -largest, float(np.finfo(dtype).tiny), 1e20, DEFAULT_FILLS.get(dtype.str[1:], 1e4), 0.1]
    limits, whole = np.iinfo(dtype), [2**53 + 1, -(2**53) - 1, 2**63, 2**63 - 1, 2**31, 2**24 + 1]
    return [int(limits.min), int(limits.max), int(limits.max) - 1, DEFAULT_FILLS[dtype.str[1:]], *whole, 0, 1]


PALETTES: Mapping[str, Callable[[np.dtype, Random], list[float]]] = {
    "small": lambda dtype, random: [*range(-6, 7)],
    "edges": lambda dtype, random: _edges(dtype),
    "few edges": lambda dtype, random: [0, 1, 2, random.choice(_edges(dtype))],
    "not finite": lambda dtype, random: [np.nan, np.inf, -np.inf, 0.0, 1.0, -2.5],
    "one infinity": lambda dtype, random: [random.choice([np.inf, -np.inf]), 0.0, 1.0, -2.5, 7.0],
    "some NaN": lambda dtype, random: [np.nan, 1.0, 2.0, -3.0],
    "zeros": lambda dtype, random: [0.0, -0.0],
    "denormal": lambda dtype, random: [
        k * float(np.finfo(dtype).smallest_subnormal) if dtype.kind == "f" else k for k in (1, 3)
    ],
    "near a thousand million": lambda dtype, random: [1e9 + k * 1e-3 for k in range(9)],
    "near 0 °C": lambda dtype, random: [273.15 + k * 1e-6 for k in range(9)],
    "two": lambda dtype, random: [3, -4],
    "one": lambda dtype, random: [random.choice([0, 1, 5, -1, *_edges(dtype)])],
    "tens": lambda dtype, random: [random.randint(-99, 99) for _ in range(20)],
    "kelvin": lambda dtype, random: [random.gauss(280, 30) for _ in range(40)],
}
"""What numbers are taken from, by name: at random, for a type."""


def bounds(random: Random, shape: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
    """Return where along each dimension something is written: from, and up to."""
    ends = [sorted(random.choices(range(n + 1), k=2)) for n in shape]
    return tuple((first, last) for first, last in ends)


def base_type(dtype: str) -> np.dtype:
    """Return the type of the numbers of a variable, those of an enumeration too."""
    return np.dtype(dtype.removeprefix("enum:"))


def held(value: float, dtype: np.dtype) -> np.generic:
    """Return `value` as the type can hold it; the nearest of its numbers for integers."""
    if dtype.kind in "fc":
        with np.errstate(all="ignore"):
            return dtype.type(value)
    if dtype.kind == "b":
        return np.bool_(value == value and value > 0)
    limits = np.iinfo(dtype)
    if value != value:
        return dtype.type(0)
    bounded = min(max(value, limits.min), limits.max)
    return dtype.type(int(bounded))


def palette(name: str, dtype: np.dtype, seed: int) -> list[np.generic]:
    """Return what the numbers of a file are taken from."""
    return [held(value, dtype) for value in PALETTES[name](dtype.newbyteorder("="), Random(seed))]  # noqa: S311


def numbers(name: str, dtype: np.dtype, shape: tuple[int, ...], seed: int) -> np.ndarray:
    """Return the numbers that are written, in native byte order."""
    choices = np.array(palette(name, dtype, seed), dtype.newbyteorder("="))
    return choices[np.random.default_rng(seed).integers(0, len(choices), shape)]
