"""From partial results to the result: combined in grid order as they come, finalized once."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from activestore.core.joined_plan import JoinedPlan
from activestore.core.plan import Plan
from activestore.core.reductions import SUM, Reduction, finalized, unpack_states, with_carry
from activestore.core.task import Array, ChunkPartial, ChunkTask, Component, State
from activestore.errors import BackendError

__all__ = ["Aggregator"]

_MOST_NARROW = 1 << 31
"""Integers of 32 bits, so many of which can be added up in 64 bits whatever they are."""


class Aggregator:
    """Takes the partial results of a plan in grid order and makes the result."""

    def __init__(self, plan: Plan | JoinedPlan) -> None:
        """Prepare for the partials of `plan`; arrays are made when the first one comes."""
        self._plan = plan
        axes = plan.template.axes
        self._shape = plan.request.result_shape
        self._axes = frozenset(axes)
        # Counts are small numbers, mostly: in few bytes, they take less time to add up than in eight.
        under = math.prod(plan.template.selected[axis] for axis in axes)
        self._count: npt.NDArray[Any] = np.zeros(self._shape, np.min_scalar_type(under))
        self._states: dict[str, State] = {}
        self._carries = _may_overflow(plan)
        # A cell of a group may be reached first by any chunk: which of them were is kept for each.
        self._reached = np.zeros(self._shape, bool) if plan.request.groups else None

    def add(self, task: ChunkTask, partial: ChunkPartial) -> None:
        """Combine one partial with what there is.

        Raises:
            BackendError: It is not of the shape that its task asks for.
        """
        partial = self._plan.in_common(task, partial)
        where = self._index(task)
        if partial.count.shape != self._count[where].shape:
            shapes = f"{partial.count.shape}, not {self._count[where].shape}"
            raise BackendError(f"{task.describe()}: the backend gives a partial result of the shape {shapes}")
        if self._carries:
            partial = dataclasses.replace(partial, states={**partial.states, "sum": with_carry(partial.states["sum"])})
        if not self._states:
            self._states = {
                name: tuple(np.zeros(self._shape, array.dtype) for array in state) for name, state in partial.states.items()
            }
        reached, count = self._reached_before(task, where), _in_type(partial.count, self._count.dtype)
        if reached is False:
            for name, state in partial.states.items():
                for total, part in zip(self._states[name], state, strict=True):
                    total[where] = part
            self._count[where] = count
            return
        with np.errstate(all="ignore"):
            for component in self._plan.template.components:
                self._combine(component, where, partial, reached)
        self._count[where] += count

    def _reached_before(self, task: ChunkTask, where: Any) -> npt.NDArray[np.bool_] | bool:  # Any: what indexes an array
        """Return whether there is something already in the cells that a task reaches: in all, in none, or in which of them."""
        if self._reached is None:
            return not task.first
        before: npt.NDArray[np.bool_] = self._reached[where]
        if before.all():
            return True
        found = before.copy() if before.any() else False
        self._reached[where] = True
        return found

    def _combine(
        self,
        component: Component,
        where: Any,  # Any: what indexes an array
        partial: ChunkPartial,
        reached: npt.NDArray[np.bool_] | bool,
    ) -> None:
        """Join what there is of one component with a partial, where anything is there; elsewhere the partial is all."""
        totals, parts = self._states[component.name], partial.states[component.name]
        views = [total[where] for total in totals]
        in_place = reached is True and len(totals) == 1 and all(isinstance(one, slice) for one in where)
        if component.ufunc is not None and in_place:
            component.ufunc(views[0], parts[0], out=views[0])
            return
        joined = component.combine(tuple(views), parts, self._count[where], partial.count)
        for total, both, part in zip(totals, joined, parts, strict=True):
            total[where] = both if reached is True else np.where(reached, both, part)

    def _index(self, task: ChunkTask) -> Any:  # Any: what indexes a NumPy array
        items = [slice(0, 1) if axis in self._axes else part for axis, part in enumerate(task.placement)]
        for grouping in task.groups:
            items[grouping.axis] = grouping.at
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
        grouped = {groups.axis for groups in request.groups}
        drop += [] if keepdims else [dim for dim in request.axes if dim not in drop and dim not in grouped]
        states = self._states or _empty_states(self._plan)
        variable = request.variable
        packing = None if self._plan.template.packing is not None else variable.packing
        count = self._counted()
        found = {}
        for reduction in request.reductions:
            unpacked: Mapping[str, State] = states
            if packing is not None:
                unpacked = unpack_states(reduction.components, states, packing, count)
            found[reduction.name] = self._finalized(reduction, unpacked, count, tuple(drop))
        return found, _scalar(np.squeeze(count, axis=tuple(drop)))

    def _counted(self) -> npt.NDArray[np.int64]:
        if self._count.size > 1 and self._count.min() == self._count.max():
            # Nothing is missing, mostly: an array of the same number throughout could be larger than all that was read.
            return np.broadcast_to(np.int64(self._count.flat[0]), self._shape)
        return self._count.astype(np.int64)

    def _finalized(
        self, reduction: Reduction, states: Mapping[str, State], count: npt.NDArray[np.int64], drop: tuple[int, ...]
    ) -> Any:  # Any: a number or an array
        array: Array = np.zeros(self._shape)
        # A user's own reduction says what its states are only where there are chunks.
        if all(component.name in states for component in reduction.components):
            with np.errstate(all="ignore"):
                array = finalized(reduction, states, count)
        array = np.squeeze(array.reshape(self._shape), axis=drop)
        if reduction.name == "count":
            return _scalar(array)
        everywhere = bool(self._count.all())
        if array.ndim == 0:
            return array[()] if everywhere else np.ma.masked
        return np.ma.MaskedArray(array, mask=np.ma.nomask if everywhere else np.squeeze(self._count == 0, axis=drop))


def _in_type(count: npt.NDArray[Any], dtype: np.dtype[Any]) -> Any:  # Any: a number or an array
    """Return counts in a type that holds them: one number where one is all there is, which takes much less time to add."""
    same = count.size > 1 and not any(count.strides)
    return dtype.type(count.flat[0]) if same else count.astype(dtype, copy=False)


def _may_overflow(plan: Plan | JoinedPlan) -> bool:
    """Return whether sums of integers may leave 64 bits: on their way, or in the end."""
    template = plan.template
    if template.accumulator == "f8" or SUM not in template.components:
        return False
    cells = math.prod(template.selected[axis] for axis in template.axes)
    return plan.request.variable.value_dtype.itemsize == 8 or cells > _MOST_NARROW


def _scalar(array: Array) -> Any:  # Any: a number or an array
    return array[()] if array.ndim == 0 else array


def _empty_states(plan: Plan | JoinedPlan) -> dict[str, State]:
    """Return the known components' states of a plan without tasks: an empty selection, or a variable without cells."""
    shape = plan.request.result_shape
    stored = np.dtype(plan.template.dtype).newbyteorder("=")
    value = plan.request.variable.value_dtype if plan.template.packing is not None else stored
    state: State = (np.zeros(shape, value), np.zeros(shape, np.int64))
    moments: State = (np.zeros(shape), np.zeros(shape), np.zeros(shape))
    known = dict.fromkeys(("min", "max", "argmin", "argmax", "values"), state)
    known |= {"sum": (np.zeros(shape, plan.template.accumulator),), "moments": moments}
    known |= {"any": (np.zeros(shape, bool),), "all": (np.zeros(shape, bool),)}
    return {component.name: known[component.name] for component in plan.template.components if component.name in known}
