"""What xarray makes of missing values: from the engine's answers, which leave them out, to xarray's own results."""

from __future__ import annotations

import numbers
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from activestore.core.reductions import Reduction, find_reduction, variance
from activestore.errors import ReductionError

__all__ = ["Method", "finished"]

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class Method:
    """One of xarray's methods, with its options."""

    name: str
    """"mean", "std", …"""
    skipna: bool | None = None
    """Whether missing values are left out; None: where the type has them."""
    min_count: int | None = None
    """How many valid values a sum needs to be valid."""
    ddof: float = 0
    """What is taken from the count in the divisor of a variance."""

    def __post_init__(self) -> None:
        """Refuse options that make no sense.

        Raises:
            ReductionError: One of them is of another type, or negative.
        """
        if self.skipna is not None and not isinstance(self.skipna, (bool, np.bool_)):
            raise ReductionError(f"{self.name}: skipna is True, False or None, not {self.skipna!r}")
        if self.min_count is not None and not (_is_number(self.min_count, numbers.Integral) and self.min_count >= 0):
            raise ReductionError(f"{self.name}: min_count is a whole number from 0 up, or None, not {self.min_count!r}")
        if not _is_number(self.ddof, numbers.Real):
            raise ReductionError(f"{self.name}: ddof is a number, not {self.ddof!r}")

    @property
    def reduction(self) -> Reduction:
        """What the engine has to compute for it."""
        return variance(self.ddof, name=self.name) if self.name in ("var", "std") else find_reduction(self.name)

    @property
    def of_xarray(self) -> str:
        """The method of xarray whose results have the type, name and attributes of this one's."""
        return {"ptp": "max", "argmin": "count", "argmax": "count"}.get(self.name, self.name)

    def fewest(self, kind: str) -> int:
        """Return how many valid values a sum of values of a kind needs: xarray counts only where it looks for missing ones."""
        looks = self.skipna is not False if kind == "f" else bool(self.skipna)
        return self.min_count if looks and self.min_count is not None else 0

    @property
    def keywords(self) -> dict[str, Any]:
        """The options, for xarray's own method."""
        given: dict[str, Any] = {"min_count": self.min_count}
        if self.of_xarray not in ("count", "any", "all"):
            given["skipna"] = self.skipna
        if self.name in ("var", "std"):
            given["ddof"] = self.ddof
        return {name: value for name, value in given.items() if value is not None}


def _is_number(given: object, kind: type) -> bool:
    return isinstance(given, kind) and not isinstance(given, bool)


def finished(method: Method, value: Any, count: Array, total: Array, kind: str) -> Array:  # Any: a number or masked array
    """Return what xarray's method gives, where the engine gives `value`.

    Parameters:
        method: The method.
        value: The engine's answer, masked where nothing is valid.
        count: How many values are valid under each cell.
        total: How many there are, missing ones included; broadcasts against `count`.
        kind: NumPy's letter for the kind of the values: only floats, "f", can be missing.

    Raises:
        ReductionError: There is no position of the least or greatest, for nothing is valid.
    """
    valid = np.ma.getdata(value)
    rule = _RULES.get(method.name)
    if rule is not None:
        return rule(np.asarray(valid), count, total)
    lost = count == 0 if kind == "f" else np.zeros(np.shape(count), bool)
    if method.name == "sum":
        lost = count < method.fewest(kind)
        valid = np.where(count == 0, 0, valid)
    if method.skipna is False and kind == "f":
        lost = lost | (count < total)
    return np.asarray(np.where(lost, np.nan, valid) if np.any(lost) else valid)


def _count(value: Array, count: Array, total: Array) -> Array:
    return value


def _any(value: Array, count: Array, total: Array) -> Array:
    # To NumPy, which xarray asks, NaN is true.
    return np.asarray(((count > 0) & value.astype(bool)) | (count < total))


def _all(value: Array, count: Array, total: Array) -> Array:
    return np.asarray((count == 0) | value.astype(bool))


def _position(value: Array, count: Array, total: Array) -> Array:
    if np.any(count == 0):
        raise ReductionError(
            "All-NaN slice encountered: where nothing is valid there is no position; select what is valid first"
        )
    return value


_RULES: dict[str, Callable[[Array, Array, Array], Array]] = {
    "count": _count,
    "any": _any,
    "all": _all,
    "argmin": _position,
    "argmax": _position,
}
