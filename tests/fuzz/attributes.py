"""Attributes of every type and length: those that say what is missing and how numbers are packed, and others."""

from random import Random
from typing import Any

import h5py
import numpy as np

from tests.fuzz import values

__all__ = ["as_json", "as_numpy", "drawn", "set_hdf5"]

INTEGERS = ("i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8")
TYPES = (*INTEGERS, "f4", "f8")
CLASSIC_TYPES = ("i1", "i2", "i4", "f4", "f8")
MISSING = ("_FillValue", "missing_value", "valid_min", "valid_max", "valid_range")
TEXTS = ("-999", "none", "", "1.0", "nan", "é", "a longer text, of more than a few letters", "3 4")
FACTORS = (0.5, 0.1, -0.25, -1.0, 1.0, 2.0, 100.0, -3.0, 273.15, 1e-3)


def drawn(random: Random, dtype: np.dtype, near: list[np.generic], *, types: tuple[str, ...] = TYPES) -> dict[str, Any]:
    """Return attributes for a variable of a type, with numbers that it may hold.

    Parameters:
        random: Where choices come from.
        dtype: The stored type.
        near: Numbers that the variable has.
        types: Those that attributes can have in the format.
    """
    found: dict[str, Any] = {}
    for name in MISSING:
        if random.random() < 0.18:
            found[name] = _missing(random, dtype, near, 2 if name == "valid_range" else 1, types)
    if random.random() < 0.3:
        for name in random.choice([("scale_factor",), ("add_offset",), ("scale_factor", "add_offset")]):
            found[name] = _factor(random, dtype, name)
    if dtype.kind == "i" and random.random() < 0.15:
        found["_Unsigned"] = random.choice(["true", "True", "false", "no"])
    if random.random() < 0.2:
        found["note"] = random.choice([random.choice(TEXTS), ("f8", (1.0, 2.5)), ("i4", 7), ("f4", ())])
    return found


def _missing(random: Random, dtype: np.dtype, near: list[np.generic], length: int, types: tuple[str, ...]) -> Any:
    chance = random.random()
    if chance < 0.12:
        return random.choice(TEXTS)
    own = dtype.str[1:] if dtype.str[1:] in types else "i1"
    kind = own if random.random() < 0.6 else random.choice(types)
    if chance < 0.2:
        length = random.choice([0, 1, 3, 10])
    pool = [*near, *range(-4, 5)]
    chosen = tuple(values.held(random.choice(pool), np.dtype(kind)).item() for _ in range(length))
    if length == 2 and random.random() < 0.8:
        chosen = tuple(sorted(chosen))
    return (kind, chosen[0] if length == 1 and random.random() < 0.8 else chosen)


def _factor(random: Random, dtype: np.dtype, name: str) -> Any:
    chance = random.random()
    if chance < 0.04:
        return random.choice(TEXTS)
    # Integers times integers of 64 bits wrap around, in netCDF4-python as well.
    kinds = ["f4", "f8", "f8", "f8"] + ["i2"] * (dtype.itemsize < 8)
    kind, number = random.choice(kinds), random.choice([*FACTORS, 0.0] if name == "add_offset" else FACTORS)
    if kind == "i2":
        number = int(number) or 1
    return (kind, (number,) if chance < 0.1 else (number, number) if chance < 0.12 else number)


def as_numpy(given: Any) -> Any:
    """Return what is handed to a writer of netCDF or HDF5."""
    if isinstance(given, str):
        return given
    kind, number = given
    return np.array(number, kind) if isinstance(number, tuple) else np.dtype(kind).type(number)


def as_json(given: Any) -> Any:
    """Return what is handed to a writer of Zarr."""
    if isinstance(given, str):
        return given
    _, number = given
    return list(number) if isinstance(number, tuple) else number


def set_hdf5(dataset: h5py.Dataset, attrs: dict[str, Any], *, fixed: bool = False) -> None:
    """Give a dataset its attributes; texts of fixed length where `fixed`."""
    for name, given in attrs.items():
        value = as_numpy(given)
        if isinstance(value, str) and fixed:
            value = np.bytes_(value.encode() or b"\0")
        dataset.attrs.create(name, value)
