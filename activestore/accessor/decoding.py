"""How xarray makes values of the stored numbers of a variable, in the terms of the engine."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from activestore.active import Active
from activestore.core.missing import Missing
from activestore.core.packing import Packing
from activestore.errors import UntraceableError

__all__ = ["decoded"]

_EXACT_IN_F4, _EXACT_IN_F8 = 1 << 24, 1 << 53
"""Integers up to here are different floats if they are different."""


def decoded(active: Active, stored: np.dtype[Any], steps: Sequence[Any]) -> Active:  # Any: functions of xarray's
    """Return the variable with its values made as xarray makes them.

    Parameters:
        active: The variable.
        stored: Type of its stored numbers.
        steps: The functions that xarray applies to them, one after the other.

    Raises:
        UntraceableError: One of them is none that the engine knows.
    """
    decoding = _Decoding(stored)
    for step in steps:
        decoding.add(step)
    return active.with_decoding(dtype=decoding.stored, missing=Missing(decoding.missing), packing=decoding.packing)


@dataclass(slots=True)
class _Decoding:
    """How xarray makes values of stored numbers, step by step."""

    stored: np.dtype[Any]
    missing: tuple[float, ...] = ()
    packing: Packing | None = None
    done: tuple[str, ...] = ()
    """The names of the steps so far."""

    def add(self, function: Any) -> None:  # Any: a partial of one of xarray's functions
        """Take one more step.

        Raises:
            UntraceableError: It is none that the engine can take.
        """
        name = getattr(getattr(function, "func", function), "__name__", repr(function))
        known: dict[str, Callable[..., None]] = {
            "asarray": self._reinterpret,
            "_apply_mask": self._mask,
            "_scale_offset_decoding": self._scale,
        }
        if not isinstance(function, functools.partial) or name not in known or function.args:
            raise UntraceableError(f"its values are made by {name}, which only xarray can do")
        if self.done and list(known).index(name) <= list(known).index(self.done[-1]):
            raise UntraceableError("it was decoded more than once")
        self.done += (name,)
        known[name](**function.keywords)

    def _reinterpret(self, *, dtype: np.dtype[Any]) -> None:
        """Take signed numbers for unsigned ones, or the other way round."""
        if np.dtype(dtype).itemsize != self.stored.itemsize:
            raise UntraceableError(f"its values are converted to {dtype}")
        self.stored = np.dtype(dtype)

    def _mask(self, *, encoded_fill_values: set[Any], decoded_fill_value: Any, dtype: Any) -> None:  # Any: scalars
        made = np.dtype(dtype)
        if made.kind != "f" or not math.isnan(decoded_fill_value):
            raise UntraceableError(f"its values are of the type {made} and have missing ones")
        self.missing = tuple(
            dict.fromkeys(one for value in encoded_fill_values for one in _stored_as(value, self.stored, made))
        )
        if made != self.stored.newbyteorder("="):
            self.packing = Packing(None, "<f8", None, "<f8", made.str)

    def _scale(self, *, scale_factor: Any, add_offset: Any, dtype: Any) -> None:  # Any: scalars
        made = np.dtype(dtype)
        if self.packing is not None and self.packing.dtype != made.str:
            raise UntraceableError(f"its values are computed in two types, {self.packing.dtype} and {made.str}")
        scale, offset = (_plain(value, made) for value in (scale_factor, add_offset))
        self.packing = Packing(*scale, *offset, made.str)


def _plain(value: Any, made: np.dtype[Any]) -> tuple[float | None, str]:  # Any: a scalar of Python's or NumPy's
    """Return a number and its type; Python's numbers take the type that they meet."""
    if value is None:
        return None, "<f8"
    if not isinstance(value, (int, float, np.number)) or isinstance(value, np.complexfloating) or not math.isfinite(value):
        raise UntraceableError(f"its scale or offset is {value!r}")
    dtype = value.dtype if isinstance(value, np.generic) else made
    number = int(value) if dtype.kind in "iu" else float(value)
    return number, dtype.newbyteorder("<").str


def _stored_as(value: Any, stored: np.dtype[Any], made: np.dtype[Any]) -> list[float]:  # Any: a scalar
    """Return the stored numbers that xarray takes for the missing value `value`, after it has made `made` of them."""
    kind = stored.newbyteorder("=").type
    limit = _EXACT_IN_F4 if made.itemsize == 4 else _EXACT_IN_F8
    if stored.kind in "iu":
        info = np.iinfo(kind)
        # NumPy's least integer has no absolute value of its own type.
        if max(abs(int(info.min)), int(info.max)) > limit and abs(float(value)) >= limit:
            raise UntraceableError(f"its missing value {value} is not exact in the type {made}")
        return [int(value)] if value == int(value) and info.min <= value <= info.max else []
    if made.itemsize < stored.itemsize:
        raise UntraceableError(f"its missing value {value} is not exact in the type {made}")
    weak = made.type(value) if isinstance(value, (int, float)) and not isinstance(value, np.generic) else value
    with np.errstate(all="ignore"):
        candidate = kind(weak)
    return [float(candidate)] if np.float64(candidate) == np.float64(weak) else []
