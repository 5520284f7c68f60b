"""From partial results to the result: combined in grid order as they come, finalized once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from activestore.core.plan import Plan
from activestore.core.reductions import Reduction, unpack_states
from activestore.core.task import Array, ChunkPartial, ChunkTask, State

__all__ = ["Aggregator"]


class Aggregator:
    """Takes the partial results of a plan in grid order and makes the result."""

    def __init__(self, plan: Plan) -> None:
        """Prepare for the partials of `plan`; arrays are made when the first one comes."""
        self._plan = plan
        axes = plan.template.axes
        self._shape = tuple(1 if axis in axes else n for axis, n in enumerate(plan.template.selected))
        self._axes = frozenset(axes)
        self._count: npt.NDArray[np.int64] = np.zeros(self._shape, np.int64 if axes else np.uint8)
        self._states: dict[str, State] = {}

    def add(self, task: ChunkTask, partial: ChunkPartial) -> None:
        """Combine one partial with what there is."""
        where = self._index(task)
        if not self._states:
            self._states = {
                name: tuple(np.zeros(self._shape, array.dtype) for array in state) for name, state in partial.states.items()
            }
        if task.first:
            for name, state in partial.states.items():
                for total, part in zip(self._states[name], state, strict=True):
                    total[where] = part
            self._count[where] = partial.count
            return
        count = self._count[where]
        with np.errstate(all="ignore"):
            for component in self._plan.template.components:
                totals = self._states[component.name]
                before = tuple(total[where] for total in totals)
                joined = component.combine(before, partial.states[component.name], count, partial.count)
                for total, part in zip(totals, joined, strict=True):
                    total[where] = part
        self._count[where] = count + partial.count

    def _index(self, task: ChunkTask) -> Any:  # Any: what indexes a NumPy array
        items = [slice(0, 1) if axis in self._axes else part for axis, part in enumerate(task.placement)]
        if all(isinstance(item, slice) for item in items):
            return tuple(items)
        lengths = self._shape
        return np.ix_(
            *[np.arange(n)[item] if isinstance(item, slice) else np.array(item) for item, n in zip(items, lengths, strict=True)]
        )

    def values(self, *, keepdims: bool) -> tuple[dict[str, Any], Any]:  # Any: numbers or arrays
        """Return what each reduction gives, and the count, both without the dropped dimensions."""
        request = self._plan.request
        drop = [dim for dim, dropped in enumerate(request.selection.dropped) if dropped]
        drop += [] if keepdims else [dim for dim in request.axes if dim not in drop]
        states = self._states or _empty_states(self._plan)
        variable = request.variable
        packing = None if self._plan.template.packing is not None else variable.packing
        found = {}
        for reduction in request.reductions:
            unpacked: Mapping[str, State] = states
            if packing is not None:
                unpacked = unpack_states(reduction.components, states, packing, self._count)
            found[reduction.name] = self._finalized(reduction, unpacked, tuple(drop))
        return found, _scalar(np.squeeze(self._count.astype(np.int64), axis=tuple(drop)))

    def _finalized(
        self, reduction: Reduction, states: Mapping[str, State], drop: tuple[int, ...]
    ) -> Any:  # Any: a number or an array
        array: Array = np.zeros(self._shape)
        # A user's own reduction says what its states are only where there are chunks.
        if all(component.name in states for component in reduction.components):
            with np.errstate(all="ignore"):
                array = np.asarray(reduction.finalize(states, self._count))
        array = np.squeeze(array.reshape(self._shape), axis=drop)
        if reduction.name == "count":
            return _scalar(array)
        nothing = np.squeeze(self._count == 0, axis=drop)
        if array.ndim == 0:
            return np.ma.masked if nothing else array[()]
        return np.ma.MaskedArray(array, mask=nothing if nothing.any() else np.ma.nomask)


def _scalar(array: Array) -> Any:  # Any: a number or an array
    return array[()] if array.ndim == 0 else array


def _empty_states(plan: Plan) -> dict[str, State]:
    """Return the known components' states of a plan without tasks: an empty selection, or a variable without cells."""
    shape = tuple(1 if axis in plan.template.axes else n for axis, n in enumerate(plan.template.selected))
    stored = np.dtype(plan.template.dtype).newbyteorder("=")
    value = plan.request.variable.value_dtype if plan.template.packing is not None else stored
    state: State = (np.zeros(shape, value), np.zeros(shape, np.int64))
    moments: State = (np.zeros(shape), np.zeros(shape))
    known = dict.fromkeys(("min", "max", "argmin", "argmax", "values"), state)
    known |= {"sum": (np.zeros(shape, plan.template.accumulator),), "moments": moments}
    known |= {"any": (np.zeros(shape, bool),), "all": (np.zeros(shape, bool),)}
    return {component.name: known[component.name] for component in plan.template.components if component.name in known}
