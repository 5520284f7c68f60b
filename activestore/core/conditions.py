"""Conditions on the values themselves: what does not satisfy them counts as missing.

A comparison has the result that NumPy gives for an array and a number of Python's: floats are compared in their own type, with
the number rounded to it. Integers are compared exactly, whatever the number.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from activestore.errors import SelectionError

__all__ = ["MOST_TERMS", "OPERATORS", "Condition", "parse_condition", "unsatisfied"]

MOST_TERMS = 16
"""Comparisons that a condition may have."""
_LONGEST = 1000
"""Characters that the text of one may have."""
_LARGEST = 2**64
"""Whole numbers beyond it are taken as floats: no integer type has them."""

_Array = npt.NDArray[Any]

OPERATORS: Mapping[str, Callable[[Any, Any], Any]] = {
    ">": operator.gt,
    ">=": operator.ge,
    "<": operator.lt,
    "<=": operator.le,
    "==": operator.eq,
    "!=": operator.ne,
}
"""The comparisons, as they are written."""


@dataclass(frozen=True, slots=True)
class Condition:
    """What values have to satisfy; the record is plain and travels with a task.

    Examples:
        >>> str(Condition(((">=", 273.15), ("<", 300))))
        '>= 273.15 and < 300'
    """

    terms: tuple[tuple[str, float], ...]
    """Comparisons, all of which have to be true: an operator and the number to the right of it."""

    def __str__(self) -> str:
        """Return it as users write it."""
        return " and ".join(f"{name} {number!r}" for name, number in self.terms)


_TERM = re.compile(r"\s*(>=|<=|==|!=|>|<)\s*([+-]?(?:\d+\.?\d*(?:[eE][+-]?\d+)?|\.\d+(?:[eE][+-]?\d+)?|inf))\s*", re.ASCII)
_FORMS = 'write "> 298.15", ">= 273.15 and < 300" or "!= 0": >, >=, <, <=, == or != and a number, joined by "and"'


def parse_condition(given: object) -> Condition:
    """Return the condition that a text stands for, or `given` itself if it is one.

    Raises:
        SelectionError: It is none; the message shows what one looks like.

    Examples:
        >>> parse_condition(">= 273.15 and < 300")
        Condition(terms=(('>=', 273.15), ('<', 300)))
        >>> parse_condition("above 0")
        Traceback (most recent call last):
        ...
        activestore.errors.SelectionError: 'above 0' is no condition: write "> 298.15", ">= 273.15 and < 300" or ...
    """
    if isinstance(given, Condition):
        return Condition(tuple(_checked(*term) for term in given.terms))
    if not isinstance(given, str) or len(given) > _LONGEST:
        raise SelectionError(f"{str(given)[:40]!r} is no condition: {_FORMS}")
    found = [_TERM.fullmatch(part) for part in re.split(r"\band\b", given)]
    terms = [match.groups() for match in found if match is not None]
    if len(terms) < len(found) or len(terms) > MOST_TERMS:
        raise SelectionError(f"{given[:80]!r} is no condition: {_FORMS}")
    return Condition(tuple(_checked(name, _number(text)) for name, text in terms))


def _number(text: str) -> float:
    return int(text) if re.fullmatch(r"[+-]?\d+", text) else float(text)


def _checked(name: str, number: float) -> tuple[str, float]:
    known = isinstance(number, (int, float, np.integer, np.floating)) and not isinstance(number, bool)
    if not isinstance(name, str) or name not in OPERATORS or not known or number != number:
        raise SelectionError(f"'{name} {number!r}' is no condition: {_FORMS}")
    number = number.item() if isinstance(number, np.generic) else number
    if isinstance(number, int) and abs(number) > _LARGEST:
        number = float(number) if abs(number) < 10**308 else math.inf if number > 0 else -math.inf
    return name, number


def unsatisfied(values: _Array, condition: Condition) -> npt.NDArray[np.bool_] | None:
    """Return where `values` do not satisfy a condition, or None if they do everywhere; NaN never does.

    Examples:
        >>> unsatisfied(np.array([1, 2, 3]), parse_condition("> 1.5"))
        array([ True, False, False])
    """
    if values.dtype.kind == "b":
        values = values.view("u1")
    compared = _whole if values.dtype.kind in "iu" else _rounded
    found: npt.NDArray[np.bool_] | None = None
    for name, number in condition.terms:
        good = compared(values, name, number)
        if isinstance(good, bool):
            if good:
                continue
            return np.ones(values.shape, bool)
        bad = np.logical_not(good, out=good)
        found = bad if found is None else np.logical_or(found, bad, out=found)
    return found if found is not None and found.any() else None


def _rounded(values: _Array, name: str, number: float) -> npt.NDArray[np.bool_]:
    """Return where floats satisfy a comparison with a number that is rounded to their type."""
    with np.errstate(all="ignore"):
        rounded = values.dtype.type(number)
        good = np.asarray(OPERATORS[name](values, rounded))
    # NaN is unequal to everything.
    return good if name != "!=" else np.logical_and(good, values == values, out=good)


def _whole(values: _Array, name: str, number: float) -> npt.NDArray[np.bool_] | bool:
    """Return where integers satisfy a comparison, true or false where they all do or none, whatever they are."""
    limits = np.iinfo(values.dtype)
    if not limits.min <= number <= limits.max:
        # All integers of the type lie on one side of it: 0 stands for them, and the sign for the number.
        return bool(OPERATORS[name](0, math.copysign(1, number)))
    below = math.floor(number)
    if below == number:
        return np.asarray(OPERATORS[name](values, values.dtype.type(below)))
    if name in ("==", "!="):
        return name == "!="
    # Between two integers: above it is above the lower one, below it is not above that.
    return np.asarray(OPERATORS[">" if name[0] == ">" else "<="](values, values.dtype.type(below)))
