"""Groups and conditions as they travel: written as JSON, and made of JSON of which nothing is believed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from activestore.core.conditions import MOST_TERMS, OPERATORS, Condition
from activestore.core.task import ChunkTask, Grouping
from activestore.core.wire.json import items, mapping, one_of, refuse, shown, wholes

__all__ = ["Runs", "condition_from_json", "condition_to_json", "grouped_axes", "runs_from_json", "runs_to_json"]

_LARGEST = 2**64


@dataclass(frozen=True, slots=True, eq=False)
class Runs:
    """The groups along one dimension, as tasks have them in common."""

    grouping: Grouping
    count: int
    """How many groups there are."""
    length: int
    """How many positions they have together."""


def grouped_axes(tasks: Sequence[ChunkTask]) -> list[int]:
    """Return the dimensions along which a task has several groups; one group alone need not be told."""
    return sorted({grouping.axis for task in tasks for grouping in task.groups if grouping.count > 1})


def runs_to_json(runs: tuple[tuple[int, ...], tuple[int, ...]]) -> dict[str, object]:
    """Return labels and lengths of runs as JSON has them."""
    labels, lengths = runs
    same = lengths.count(lengths[0]) == len(lengths)
    return {"labels": list(labels), "lengths": lengths[0] if same else list(lengths)}


def runs_from_json(given: object, axis: int, *, most: int) -> Runs:
    """Return the groups that a task has along a dimension.

    Parameters:
        given: Their JSON.
        axis: The dimension.
        most: How many runs there may be.

    Raises:
        WireError: They are none.

    Examples:
        >>> runs_from_json({"labels": [0, 1, 0], "lengths": 2}, 0, most=9).count
        2
    """
    fields = mapping(given, "groups", needs=frozenset({"labels", "lengths"}), may=set())
    labels = wholes(fields["labels"], "labels of groups", longest=most)
    if not labels:
        refuse("groups", "have no labels")
    told = fields["lengths"]
    lengths = wholes(told if isinstance(told, list) else [told], "lengths of groups", longest=len(labels), least=1)
    if not isinstance(told, list):
        lengths *= len(labels)
    if len(lengths) != len(labels):
        refuse("groups", f"have {len(lengths)} lengths for {len(labels)} labels")
    count = max(labels) + 1
    if count > len(labels) or len(set(labels)) < count:
        refuse("groups", "have no positions for some of their labels")
    return Runs(Grouping(axis, labels, lengths, slice(0, count)), count, sum(lengths))


def condition_to_json(condition: Condition) -> list[list[object]]:
    """Return a condition as JSON has it."""
    return [[name, number if math.isfinite(number) else f"{'-' * (number < 0)}Infinity"] for name, number in condition.terms]


def condition_from_json(given: object) -> Condition:
    """Return the condition that JSON stands for.

    Raises:
        WireError: It is none.

    Examples:
        >>> str(condition_from_json([[">", 298.15], ["<", "Infinity"]]))
        '> 298.15 and < inf'
    """
    terms = []
    for term in items(given, "condition", least=1, most=MOST_TERMS):
        name, number = items(term, "a term of the condition", least=2, most=2)
        terms.append((one_of(name, "an operator", tuple(OPERATORS)), _threshold(number)))
    return Condition(tuple(terms))


def _threshold(given: Any) -> float:  # Any: JSON
    known = {"Infinity": math.inf, "-Infinity": -math.inf}
    if isinstance(given, str) and given in known:
        return known[given]
    if type(given) is int and abs(given) <= _LARGEST:
        return given
    if type(given) is not float or not math.isfinite(given):
        refuse("a number of the condition", f"is {shown(given)}; it must be a number")
    return given
