"""What a result has to be: exact sums of integers, long doubles for floats, cell by cell; and how far it may be off."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from tests.expected import check_dtype, outer
from tests.fuzz.case import Ask

__all__ = ["Answer", "Cells", "cells_of", "differences", "overflows", "satisfying", "selected"]

EPS = float(np.finfo("f8").eps)
LARGEST = float(np.finfo("f8").max)
EXACT = ("count", "min", "max", "any", "all", "argmin", "argmax", "ptp")


@dataclass(frozen=True)
class Answer:
    """What a door gave."""

    values: dict[str, Any]
    """A number, `numpy.ma.masked` or an array for each reduction."""
    count: Any
    """How many values are valid under each cell."""
    typed: bool = True
    """Whether the door keeps NumPy's types."""


@dataclass(frozen=True)
class Cells:
    """The values below each cell of a result."""

    rows: list[tuple[np.ndarray, np.ndarray]]
    """Values, and which of them are valid; in C order."""
    shape: tuple[int, ...]
    dtype: np.dtype


def selected(values: np.ma.MaskedArray, ask: Ask) -> np.ma.MaskedArray:
    """Return the part of an array that is asked for."""
    for key in ask.keys:
        values = outer(values, as_index(key))
    return values


def as_index(key: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return the index with its lists of truth values as masks."""
    return tuple(np.array(one, bool) if isinstance(one, list) and one and isinstance(one[0], bool) else one for one in key)


def cells_of(values: np.ma.MaskedArray, ask: Ask) -> Cells:
    """Return what lies under each cell of the answer."""
    part = selected(values, ask)
    valid = ~np.ma.getmaskarray(part)
    if part.dtype.kind == "f" and (ask.skipna or ask.where):
        valid &= ~np.isnan(part.data)
    if ask.where is not None:
        valid &= satisfying(part.data, ask.where)
    axes = {axis % part.ndim for axis in (range(part.ndim) if ask.axis is None else ask.axis) if part.ndim}
    groups = {axis % part.ndim: np.array(labels, int) for axis, labels in ask.by.items()}
    places, shape = [], []
    for axis, length in enumerate(part.shape):
        if axis in groups:
            places.append([np.flatnonzero(groups[axis] == label) for label in range(groups[axis].max() + 1)])
        else:
            every = np.arange(length)
            places.append([every] if axis in axes else [every[at : at + 1] for at in every])
        if axis in groups or axis not in axes or ask.keepdims:
            shape.append(len(places[-1]))
    return Cells(list(_rows(part.data, valid, places)), tuple(shape), part.dtype)


def _rows(data: np.ndarray, valid: np.ndarray, places: list[list[np.ndarray]]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for combination in itertools.product(*places):
        at = np.ix_(*combination)
        yield data[at].reshape(-1), valid[at].reshape(-1)


def satisfying(data: np.ndarray, condition: str) -> np.ndarray:
    """Return where a condition holds: floats compared in their type, integers exactly."""
    found, exact = np.ones(data.shape, bool), data.astype(object) if data.dtype.kind in "iu" else data
    for comparison in condition.split(" and "):
        sign, number = comparison.split()
        given = int(number) if number.lstrip("-").isdigit() else float(number)
        compare = {
            ">": np.greater,
            ">=": np.greater_equal,
            "<": np.less,
            "<=": np.less_equal,
            "==": np.equal,
            "!=": np.not_equal,
        }
        with np.errstate(all="ignore"):
            found &= compare[sign](exact, given).astype(bool)
    return found


def _expected(name: str, row: np.ndarray, valid: np.ndarray) -> Any:
    """Return the reduction of one row, None where nothing is valid."""
    values = row[valid]
    if name == "count" or not len(values):
        return len(values) if name == "count" else None
    if name in {"argmin", "argmax"}:
        return int(np.flatnonzero(valid)[getattr(np, name)(values)])
    if name in {"min", "max", "any", "all"}:
        return getattr(np, name)(values)
    if name in {"sum", "ptp"} and values.dtype.kind in "iu":
        exact = [int(value) for value in values]
        return sum(exact) if name == "sum" else max(exact) - min(exact)
    wide = values.astype(np.longdouble)
    mean = wide.sum() / len(wide)
    variance = np.square(wide - mean).mean()
    spread = 0 if values.dtype.kind == "b" else values.max() - values.min()
    known = {"sum": wide.sum(), "mean": mean, "var": variance, "std": np.sqrt(variance), "ptp": spread}
    return float(known[name])


def _allowed(name: str, values: np.ndarray, scale: float) -> float:
    """Return how far a reduction may be from the exact one.

    Adding n numbers is off by n eps of the sum of their absolute values at most. A variance is off by as much of itself,
    and by the square of what its mean is off. `scale` is the largest number on the way from a stored number to a value.
    """
    if name in EXACT or not len(values):
        return 0.0
    wide, n = np.abs(values.astype("f8")), len(values) + 8
    mean = wide.mean() + scale
    if name in {"sum", "mean"}:
        return n * EPS * mean * (len(values) if name == "sum" else 1)
    spread = values.astype("f8").std()
    variance = 4 * n * EPS * spread**2 + np.square(n * EPS * (wide.max() + scale)) + 8 * EPS * scale * spread
    return variance if name == "var" else min(variance / spread if spread else np.inf, np.sqrt(variance))


def _may_overflow(name: str, values: np.ndarray) -> bool:
    """Return whether finite numbers are so large that the order of adding decides what is finite."""
    if name not in {"sum", "mean", "var", "std"} or not len(values):
        return False
    largest = float(np.max(np.abs(values.astype("f8"))))
    limit = LARGEST if name in {"sum", "mean"} else np.sqrt(LARGEST) / 2
    return np.isfinite(largest) and largest > limit / len(values)


def _same(found: Any, wanted: Any, off: float) -> bool:
    if wanted is None or found is np.ma.masked:
        return wanted is None and found is np.ma.masked
    if isinstance(wanted, int) and isinstance(found, (int, np.integer)):
        return int(found) == wanted
    here, there = float(found), float(wanted)
    return here == there or (here != here and there != there) or abs(here - there) <= off < np.inf


def differences(answer: Answer, cells: Cells, *, scale: float = 0.0) -> Iterator[str]:
    """Yield what is wrong with an answer: shape, type, count, or a cell of a result."""
    for name, found in {**answer.values, "the count": answer.count}.items():
        what = "count" if name == "the count" else name
        if np.shape(found) != cells.shape:
            yield f"{name}: the shape is {np.shape(found)}, not {cells.shape}"
            continue
        if answer.typed and found is not np.ma.masked:
            try:
                check_dtype(what, np.asanyarray(found).dtype, cells.dtype)
            except AssertionError:
                yield f"{name}: the type is {np.asanyarray(found).dtype} for values of {cells.dtype}"
        flat = [found] if cells.shape == () else list(np.ma.asanyarray(found).reshape(-1))
        for at, (row, valid) in enumerate(cells.rows if cells.shape == () or flat else ()):
            with np.errstate(all="ignore"):
                wanted, off = _expected(what, row, valid), _allowed(what, row[valid], scale)
                wrong = not _same(flat[at], wanted, off)
                unsure = (
                    wrong
                    and flat[at] is not np.ma.masked
                    and not np.isfinite(float(flat[at]))
                    and _may_overflow(what, row[valid])
                )
            if wrong and not unsure:
                yield f"{name}: cell {at} is {flat[at]!r}, not {wanted!r} (give or take {off:.3g}), of {row[valid]!r}"
                break


def overflows(cells: Cells, names: tuple[str, ...]) -> bool:
    """Return whether the answer does not fit into 64 bits."""
    if cells.dtype.kind not in "iu":
        return False
    for name in set(names) & {"sum", "ptp"}:
        limits = np.iinfo(cells.dtype if name == "ptp" and cells.dtype.kind == "u" else f"{cells.dtype.kind}8")
        for row, valid in cells.rows:
            wanted = _expected(name, row, valid)
            if wanted is not None and not limits.min <= wanted <= limits.max:
                return True
    return False
