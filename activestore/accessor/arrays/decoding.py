"""How xarray makes values of the stored numbers of a variable, in the terms of the engine."""

from __future__ import annotations

import functools
import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from activestore.accessor.obstacles import OnlyXarrayError
from activestore.active import Active
from activestore.core.missing import Missing, mask, read_missing, read_named_missing
from activestore.core.packing import TRUTH, Packing, unpack

__all__ = ["DefaultFill", "as_truth", "decoded", "default_fill"]

_MOST_ALIKE = 1 << 12
"""How many integers that are the same float may be listed as missing."""


def as_truth(stored: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return numbers as truth values, as xarray takes those with the attribute `dtype = "bool"`."""
    return stored.astype(bool)


def decoded(active: Active, stored: np.dtype[Any], steps: Sequence[Any]) -> Active:  # Any: functions of xarray's
    """Return the variable with its values made as xarray makes them.

    Parameters:
        active: The variable.
        stored: Type of its stored numbers, as xarray is told: truth values are stored as integers of one byte.
        steps: The functions that xarray applies to them, one after the other.

    Raises:
        OnlyXarrayError: One of them is none that the engine knows.
    """
    decoding = _decoding(stored, steps)
    return active.with_decoding(dtype=decoding.stored, missing=decoding.missing, packing=decoding.packing)


@dataclass(frozen=True, slots=True)
class DefaultFill:
    """netCDF's default fill value, as xarray makes a number of it, for which others take it for missing."""

    value: float
    """The number."""
    extreme: str
    """"min" or "max": where it shows among values that are not as far out."""


def default_fill(attrs: Mapping[str, object], stored: np.dtype[Any], steps: Sequence[Any]) -> DefaultFill | None:
    """Return the default fill value of a variable with these attributes; None if there is none, or xarray masks it too.

    Parameters:
        attrs: The attributes of the variable.
        stored: Type of its stored numbers; those of one byte have no default.
        steps: The functions that xarray applies to them; the engine knows them all.
    """
    if stored.kind not in "iuf" or stored.itemsize == 1:
        return None
    decoding = _decoding(stored, steps)
    if decoding.stored.kind != stored.kind:
        return None  # read with the other sign, as `_Unsigned` says
    named, known = (read(attrs, stored) for read in (read_named_missing, partial(read_missing, filled=True)))
    default = [value for value in known.values if value not in named.values]
    numbers = np.array([*default, 0], decoding.stored.newbyteorder("="))
    if not default or mask(numbers[:1], decoding.missing, skipna=False) is not None:
        return None
    with np.errstate(all="ignore"):
        values = numbers if decoding.packing is None else unpack(numbers, decoding.packing)
    return DefaultFill(values[0].item(), "min" if values[0] < values[1] else "max") if values.dtype.kind != "b" else None


def _decoding(stored: np.dtype[Any], steps: Sequence[Any]) -> _Decoding:
    is_truth = stored.kind == "b"
    decoding = _Decoding(np.dtype("|i1") if is_truth else np.dtype(stored.str), packing=TRUTH if is_truth else None)
    for step in steps:
        decoding.add(step)
    return decoding


@dataclass(slots=True)
class _Decoding:
    """How xarray makes values of stored numbers, step by step."""

    stored: np.dtype[Any]
    missing: Missing = field(default_factory=Missing)
    packing: Packing | None = None
    done: tuple[str, ...] = ()
    """The names of the steps so far."""

    def add(self, function: Any) -> None:  # Any: a partial of one of xarray's functions
        """Take one more step.

        Raises:
            OnlyXarrayError: It is none that the engine can take.
        """
        name = getattr(getattr(function, "func", function), "__name__", repr(function))
        known: dict[str, Callable[..., None]] = {
            "asarray": self._reinterpret,
            "_apply_mask": self._mask,
            "_scale_offset_decoding": self._scale,
            "as_truth": self._truth,
        }
        arguments = function.keywords if isinstance(function, functools.partial) and not function.args else None
        if function is as_truth:
            arguments = {}
        if arguments is None or name not in known:
            raise OnlyXarrayError(f"its values are made by {name}, which only xarray can do")
        if self.done and list(known).index(name) <= list(known).index(self.done[-1]):
            raise OnlyXarrayError("it was decoded more than once")
        self.done += (name,)
        known[name](**arguments)

    def _truth(self) -> None:
        """Take numbers for truth values."""
        if self.stored.kind == "f" or self.missing != Missing() or self.packing not in (None, TRUTH):
            # NaN is true, and missing no more.
            raise OnlyXarrayError("its truth values are made of numbers that are packed, or may be missing")
        self.packing = TRUTH

    def _reinterpret(self, *, dtype: np.dtype[Any]) -> None:
        """Take signed numbers for unsigned ones, or the other way round."""
        if np.dtype(dtype).itemsize != self.stored.itemsize:
            raise OnlyXarrayError(f"its values are converted to {dtype}")
        self.stored = np.dtype(dtype)

    def _mask(self, *, encoded_fill_values: set[Any], decoded_fill_value: Any, dtype: Any) -> None:  # Any: scalars
        made = np.dtype(dtype)
        if made.kind != "f" or not math.isnan(decoded_fill_value):
            raise OnlyXarrayError(f"its values are of the type {made} and have missing ones")
        self.missing = _missing(encoded_fill_values, self.stored, made)
        if made != self.stored.newbyteorder("="):
            self.packing = Packing(None, "<f8", None, "<f8", made.str)

    def _scale(self, *, scale_factor: Any, add_offset: Any, dtype: Any) -> None:  # Any: scalars
        made = np.dtype(dtype)
        if made.kind not in "iuf" or (made.kind != "f" and self.stored.kind == "f"):
            raise OnlyXarrayError(f"its values are of the type {made}")
        if self.packing is not None and self.packing.dtype != made.str:
            raise OnlyXarrayError(f"its values are computed in two types, {self.packing.dtype} and {made.str}")
        scale, offset = (_plain(value, made) for value in (scale_factor, add_offset))
        self.packing = Packing(*scale, *offset, made.str)


def _plain(value: Any, made: np.dtype[Any]) -> tuple[float | None, str]:  # Any: a scalar of Python's or NumPy's
    """Return a number and its type; Python's numbers take the type that they meet."""
    if value is None:
        return None, "<f8"
    if isinstance(value, (bool, complex)) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise OnlyXarrayError(f"its scale or offset is {value!r}")
    dtype = value.dtype if isinstance(value, np.generic) else made
    if dtype.kind in "iu" and not np.iinfo(dtype).min <= value <= np.iinfo(dtype).max:
        raise OnlyXarrayError(f"its scale or offset is {value!r}, which {dtype} does not have")
    try:
        return int(value) if dtype.kind in "iu" else float(value), dtype.newbyteorder("<").str
    except OverflowError as error:
        raise OnlyXarrayError("its scale or offset is larger than any number") from error


def _missing(values: Iterable[Any], stored: np.dtype[Any], made: np.dtype[Any]) -> Missing:  # Any: whatever an attribute holds
    """Return the stored numbers that xarray takes for missing: those that, turned into the type `made`, are one of `values`."""
    exact: list[float] = []
    least, greatest = [], []
    for number in [one for one in (_number(value, made) for value in values) if one is not None]:
        if stored.kind == "f":
            exact += _float(number, stored, made)
            continue
        alike = _integers(number, stored, made)
        info = np.iinfo(stored)
        if len(alike) > 1 and alike[0] == info.min:
            least.append(alike[-1] + 1)
        elif len(alike) > 1 and alike[-1] == info.max:
            greatest.append(alike[0] - 1)
        elif len(alike) > _MOST_ALIKE:
            raise OnlyXarrayError(f"its missing value {number} stands for {len(alike)} integers in the type {made}")
        else:
            exact += alike
    return Missing(tuple(dict.fromkeys(exact)), max(least, default=None), min(greatest, default=None))


def _number(value: Any, made: np.dtype[Any]) -> np.floating[Any] | None:  # Any: whatever an attribute holds
    """Return the number of the type `made` that NumPy finds equal to `value`; None of text, and where there is none."""
    if isinstance(value, (complex, np.complexfloating)):
        value = value.real if value.imag == 0 else math.nan
    if not isinstance(value, (int, float, np.bool_, np.integer, np.floating)):
        return None
    try:
        # Python's numbers take the type that they meet, NumPy's may widen it.
        wanted = value if isinstance(value, np.generic) else made.type(value)
        with np.errstate(all="ignore"):
            number: np.floating[Any] = made.type(wanted)
    except OverflowError as error:
        raise OnlyXarrayError(f"its missing value {str(value)[:24]}… is larger than any number") from error
    wide = np.result_type(made, wanted.dtype)
    return number if wide.type(number) == wide.type(wanted) else None


def _float(number: np.floating[Any], stored: np.dtype[Any], made: np.dtype[Any]) -> list[float]:
    """Return the stored float that is a number of the type `made`, if there is one."""
    if made.itemsize < stored.itemsize:
        raise OnlyXarrayError(f"its missing value {number} is not exact in the type {made}")
    with np.errstate(all="ignore"):
        candidate = stored.newbyteorder("=").type(number)
    return [float(candidate)] if candidate == number else []


def _integers(number: np.floating[Any], stored: np.dtype[Any], made: np.dtype[Any]) -> range:
    """Return the stored integers that are a number of the type `made`: beyond its precision, several are the same."""
    least, greatest = int(np.iinfo(stored).min), int(np.iinfo(stored).max)
    if greatest > np.finfo(made).max:
        raise OnlyXarrayError(f"its missing value {number} is not exact in the type {made}")
    if not np.isfinite(number) or not float(number).is_integer():
        return range(0)
    near, reach = int(number), int(np.spacing(abs(number))) + 1
    around = range(max(least, near - reach), min(greatest, near + reach) + 1)

    def rounded(integer: int) -> Any:  # Any: a scalar of NumPy's
        return np.array(integer, stored).astype(made)[()]

    return around[bisect_left(around, number, key=rounded) : bisect_right(around, number, key=rounded)]
