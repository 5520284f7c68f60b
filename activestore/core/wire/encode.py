"""The form in which tasks and partial results travel: tasks as JSON, partial results as frames of bytes.

`tasks_to_json` is what goes out; `tasks_from_json` makes tasks of it at the other end, believing nothing. What comes back is
a frame for each task, its partial result (`partial_to_bytes`) or its failure; `frames_from_bytes` believes nothing either.

The JSON has what all tasks share, and the rest in columns: an int that all tasks have, or a list of one for each. Parts that
many tasks have in common (shapes, regions) are tables, `{"of": [each once], "at": a column of positions in it}`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

import numpy as np

from activestore.core.missing import Missing
from activestore.core.packing import TRUTH, makes_nan
from activestore.core.reductions import is_known
from activestore.core.selection import Points, Slice
from activestore.core.task import ChunkTask, TaskTemplate
from activestore.core.wire.frames import (
    POSITIONED,
    answer_bytes,
    failure_to_bytes,
    frames_from_bytes,
    numbers_bytes,
    partial_to_bytes,
)
from activestore.core.wire.groups import condition_to_json, grouped_axes, runs_to_json
from activestore.core.wire.json import LONGEST_NAME, MOST_MISSING
from activestore.core.wire.tasks import MOST_PIECES, MOST_POINTS, tasks_from_json
from activestore.errors import BackendRefusedError, WireError

__all__ = [
    "FEATURES",
    "POSITIONED",
    "answer_bytes",
    "failure_to_bytes",
    "frames_from_bytes",
    "numbers_bytes",
    "obstacle",
    "partial_to_bytes",
    "tasks_from_json",
    "tasks_to_json",
]


FEATURES = ("conditions", "groups", "moments.rest", "packing.dtype", "pieces.unwritten", "truth")
"""What tasks may have, or partial results, that the first release of the extension did not know."""


def obstacle(task: ChunkTask, features: Collection[str] = FEATURES) -> str | None:
    """Return why a task cannot travel to where `features` are known, None if it can."""
    template = task.template
    rounded = any(component.name == "moments" for component in template.components)
    holed = task.pieces is not None and task.unwritten > 0
    for component in template.components:
        if not is_known(component):
            return f"the component {component.name!r}, which is the user's own"
    obstacles = (
        *_of_packing(template, features),
        (rounded and "moments.rest" not in features, "the component 'moments', whose mean the server rounds"),
        (holed and "pieces.unwritten" not in features, "small chunks of which some were never written"),
        (len(template.missing.values) > MOST_MISSING, f"more than {MOST_MISSING} missing values"),
        (template.value_dtype is not None, "numbers of another type than those of other files"),
        (task.through_hdf5 or (task.offset is not None and task.offset < 0), "a chunk that only the HDF5 library can read"),
        (task.inline is not None, "data among the metadata"),
        (task.offset is None or task.size <= 0, "a chunk without bytes"),
    )
    return next((reason for stands, reason in obstacles if stands), None)


def _of_packing(template: TaskTemplate, features: Collection[str]) -> tuple[tuple[bool, str], ...]:
    packing = template.packing
    if packing is None:
        return ()
    return (
        (packing == TRUTH and "truth" not in features, "truth values"),
        (packing.dtype is not None and "packing.dtype" not in features, "unpacking in a type of its own"),
        (makes_nan(np.dtype(template.dtype), packing), "unpacking that makes NaN of numbers"),
    )


def tasks_to_json(tasks: Sequence[ChunkTask]) -> dict[str, object]:
    """Return tasks of one run as what `json.dumps` takes.

    Raises:
        BackendRefusedError: One cannot travel: a component of the user's own, data of its own, or the HDF5 library is needed.
        WireError: They are none, or of different runs, or have too many listed positions for one request.

    Examples:
        >>> from activestore import Active
        >>> said = tasks_to_json(list(Active("docs/tas.nc", "tas").plan("mean").tasks()))
        >>> said["components"], said["tasks"]["shape"]
        (['sum'], {'of': [[12, 18, 36]]})
    """
    if not tasks:
        raise WireError("there are no tasks to be sent")
    template = tasks[0].template
    for task in tasks:
        reason = obstacle(task)
        if reason is not None:
            raise BackendRefusedError(f"{task.describe()}: cannot be sent elsewhere: {reason}", reason=reason)
        if task.template is not template and task.template != template:
            raise WireError("tasks that are sent together belong to one run")
    grouped = grouped_axes(tasks)
    said = _shared(template) | ({"grouped": grouped} if grouped else {})
    return said | {"tasks": _columns(tasks, template, grouped)}


def _shared(template: TaskTemplate) -> dict[str, object]:
    """Return what all tasks of a run have in common."""
    missing, packing = template.missing, template.packing
    said: dict[str, object] = {
        "variable": template.variable[:LONGEST_NAME],
        "dtype": template.dtype,
        "skipna": template.skipna,
        "axes": list(template.axes),
        "components": [component.name for component in template.components],
        "accumulator": template.accumulator,
        "fill": template.fill.hex(),
        "selected": list(template.selected),
    }
    if missing != Missing():
        said["missing"] = {
            "values": [_number(value) for value in missing.values],
            "valid_min": _number(missing.valid_min),
            "valid_max": _number(missing.valid_max),
        }
    if packing is not None:
        said["packing"] = {
            "scale": _factor(packing.scale),
            "scale_dtype": packing.scale_dtype,
            "offset": _factor(packing.offset),
            "offset_dtype": packing.offset_dtype,
        } | ({} if packing.dtype is None else {"dtype": np.dtype(packing.dtype).newbyteorder("<").str})
    if template.condition is not None:
        said["condition"] = condition_to_json(template.condition)
    return said


def _number(value: float | None) -> float | str | None:
    """Return a number as JSON has it: what is not finite as text."""
    if value is None or math.isfinite(value):
        return value
    return "NaN" if value != value else "Infinity" if value > 0 else "-Infinity"


def _factor(value: float | None) -> float | str | None:
    """Return a scale or an offset as JSON has it: an integer as a float, as first releases had it, where that is exact."""
    return float(value) if isinstance(value, int) and float(value) == value else _number(value)


def _columns(tasks: Sequence[ChunkTask], template: TaskTemplate, grouped: Sequence[int]) -> dict[str, object]:
    """Return what each task has of its own.

    Raises:
        WireError: It is too much for one request.
    """
    dims = range(len(template.selected))
    ranges = _ranges(tasks)
    said: dict[str, object] = {
        "sequence": _steps(task.sequence for task in tasks),
        "chunk": [_column([task.chunk[dim] for task in tasks]) for dim in dims],
        "shape": _table([task.shape for task in tasks], list),
        # From the end of one to the beginning of the next: they are short, as chunks mostly lie one behind the other.
        "gap": _column([at - end for (at, _), end in zip(ranges, [0, *(at + size for at, size in ranges)], strict=False)]),
        "size": _column([size for _, size in ranges]),
        "codecs": _table([task.codecs for task in tasks], _pipeline),
        "region": [_table([task.region[dim] for task in tasks], _part) for dim in dims],
    }
    extents = [_extent(task) for task in tasks]
    if any(extent is not None for extent in extents):
        said["extent"] = _table(extents, lambda extent: extent and list(extent))
    if any(task.pieces is not None for task in tasks):
        said["pieces"] = _column([len(task.pieces or ()) for task in tasks])
    if any(component.name in POSITIONED for component in template.components):
        said["placement"] = [_table([_hashed(task.placement[axis]) for task in tasks], _where) for axis in template.axes]
    if grouped:
        said["groups"] = [_table([_runs(task, axis) for task in tasks], runs_to_json) for axis in grouped]
    listed = sum(len(part.at) for task in tasks for part in task.region if isinstance(part, Points))
    listed += sum(len(grouping.labels) for task in tasks for grouping in task.groups)
    if len(ranges) > MOST_PIECES or (listed > MOST_POINTS and _points(said) > MOST_POINTS):
        raise WireError("too many chunks or listed positions for one request; ask for fewer at a time")
    return said


def _ranges(tasks: Sequence[ChunkTask]) -> list[tuple[int, int]]:
    """Return offset and size of each stored chunk; one that was never written begins where the one before it ends."""
    found, end = [], 0
    for task in tasks:
        for offset, size in task.ranges if task.pieces is None else task.pieces:
            found.append((offset, size) if offset >= 0 else (end, 0))
            end = sum(found[-1])
    return found


def _points(said: dict[str, Any]) -> int:  # Any: JSON
    """Return how many listed positions, and runs of groups, the tables have."""
    tables = [*said["region"], *said.get("placement", ()), *said.get("groups", ())]
    entries = [entry for table in tables for entry in table["of"] if isinstance(entry, dict)]
    return sum(len(entry["points"] if "points" in entry else entry["labels"]) for entry in entries)


def _runs(task: ChunkTask, axis: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return labels and lengths of the groups along a dimension."""
    return next((grouping.labels, grouping.lengths) for grouping in task.groups if grouping.axis == axis)


def _extent(task: ChunkTask) -> tuple[int, ...] | None:
    """Return how far a chunk holds data, None where it is full."""
    if task.extent is None or all(n >= length for n, length in zip(task.extent, task.shape, strict=True)):
        return None
    return tuple(min(n, length) for n, length in zip(task.extent, task.shape, strict=True))


def _steps(numbers: Iterable[int]) -> list[int]:
    """Return the first number, then how much larger each is than the one before."""
    steps, last = [], 0
    for number in numbers:
        steps.append(number - last)
        last = number
    return steps


def _column(numbers: list[int]) -> int | list[int]:
    return numbers[0] if numbers.count(numbers[0]) == len(numbers) else numbers


def _table(items: Sequence[Any], say: Callable[[Any], object]) -> dict[str, object]:  # Any: parts of tasks
    """Return parts that tasks have in common, each said once, and which of them each task has."""
    known: dict[Any, int] = {}
    at = [known.setdefault(item, len(known)) for item in items]
    return {"of": [say(item) for item in known]} | ({"at": at} if len(known) > 1 else {})


def _pipeline(codecs: Sequence[Any]) -> list[object]:
    return [{"id": codec.id, "filter": codec.filter_id, "values": list(codec.values)} for codec in codecs]


def _part(part: Slice | Points) -> object:
    return list(part) if isinstance(part, Slice) else {"points": list(part.at)}


def _hashed(where: slice | tuple[int, ...]) -> tuple[str, tuple[int | None, ...]]:
    """Return positions in the selection as what can be looked up: slices cannot, in older Pythons."""
    return ("slice", (where.start, where.stop, where.step)) if isinstance(where, slice) else ("points", where)


def _where(where: tuple[str, tuple[int | None, ...]]) -> object:
    return list(where[1]) if where[0] == "slice" else {"points": list(where[1])}
