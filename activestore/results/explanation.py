"""What a plan would do, in figures: the answer of `Active.explain`."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass

from activestore.core.backend import Backend, refusal_of
from activestore.core.dispatch import Fallback
from activestore.core.joined_plan import JoinedPlan
from activestore.core.plan import Plan
from activestore.results.html import chunk_grid_svg, page

__all__ = ["Explanation", "explain"]

_ASKED = 10_000
"""Tasks that are looked at, one by one, whether the backend can do them; what the others need is estimated from these."""


@dataclass(frozen=True, slots=True, repr=False)
class Explanation:
    """What a reduction would do; nothing was read for it."""

    plan: Plan | JoinedPlan
    """The plan itself."""
    chunks: int
    """Chunks touched."""
    chunks_of_variable: int
    """Chunks that the variable has."""
    stored_bytes: int
    """Bytes of the touched chunks, as stored."""
    bytes_to_move: int
    """Bytes that come to this process: those of the chunks that it reduces itself."""
    where: Mapping[str, int]
    """How many chunks would be computed by what."""
    reasons: Mapping[str, int]
    """Why chunks would not be computed by the backend that was asked, and how many."""

    def __repr__(self) -> str:
        plan = self.plan
        variable = plan.request.variable
        names = ", ".join(reduction.name for reduction in plan.request.reductions)
        shape = tuple(len(positions) for positions in plan.request.selection.positions)
        axes = ", ".join(variable.dims[axis] for axis in plan.request.axes) or "none"
        codecs = " + ".join(codec.id for codec in variable.codecs) or "no codecs"
        where = ", ".join(f"{count:,} by {what}" for what, count in self.where.items()) or "nothing to do"
        numbers = f"{_times(shape)} = {math.prod(shape):,} numbers" if shape else "1 number"
        lines = [
            f"{names} of {variable.name!r} in {variable.uri}",
            *([f"  files      {plan.files:,} touched"] if isinstance(plan, JoinedPlan) else []),
            f"  selected   {numbers} ({variable.value_dtype})",
            f"  chunks     {self.chunks:,} of {self.chunks_of_variable:,} touched, each {_times(plan.variable.chunk_shape)}",
            f"  layout     {variable.layout}, {codecs}",
            f"  reduced    {axes}",
            f"  computed   {where}",
            f"  bytes      {self.stored_bytes:,} stored, {self.bytes_to_move:,} to be moved here",
        ]
        groups = ", ".join(f"{variable.dims[one.axis]} into {one.count:,}" for one in plan.request.groups)
        lines[5:5] = [f"  grouped    {groups}"] if groups else []
        lines[5:5] = [f"  where      {plan.request.condition}"] if plan.request.condition is not None else []
        lines += [f"  note       {count:,} chunks: the backend cannot do {reason}" for reason, count in self.reasons.items()]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        return page(repr(self), chunk_grid_svg(self.plan))


def _times(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) if shape else "a scalar"


def explain(
    plan: Plan | JoinedPlan,
    opened: Callable[[int], AbstractContextManager[tuple[Backend, Backend]]],
    *,
    fallback: Fallback,
) -> Explanation:
    """Return what `plan` would do, without any read; `opened` opens the backend of a file, as for `dispatch.run`."""
    where: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    stored = moved = 0
    for file, own in enumerate(plan.plans):
        with opened(file) as (backend, _):
            found = _explained(own, backend, fallback=fallback)
        where += found.where
        reasons += found.reasons
        stored, moved = stored + found.stored_bytes, moved + found.bytes_to_move
    return Explanation(
        plan=plan,
        chunks=len(plan),
        chunks_of_variable=sum(math.prod(own.variable.table.grid) for own in plan.plans),
        stored_bytes=stored,
        bytes_to_move=moved,
        where=dict(where),
        reasons=dict(reasons),
    )


@dataclass(frozen=True, slots=True)
class _OfFile:
    """What is done to the chunks of one file."""

    where: Counter[str]
    reasons: Counter[str]
    stored_bytes: int
    bytes_to_move: int


def _explained(plan: Plan, backend: Backend, *, fallback: Fallback) -> _OfFile:
    small = backend.capabilities.small_chunk
    tally = plan.tally(joined=small)
    reasons: Counter[str] = Counter()
    moved = 0
    if backend.name != "posix":
        refuses = refusal_of(backend)
        asked = list(itertools.islice(plan.tasks(joined=small), _ASKED))
        for task in asked:
            reason = None if task.offset is None else refuses(task)
            if reason is not None:
                reasons[reason] += task.chunks - task.unwritten
                moved += 0 if task.inline is not None else task.size
        seen = sum(task.chunks for task in asked)
        if seen < len(plan):
            reasons = Counter({f"{reason} (estimated)": count * len(plan) // seen for reason, count in reasons.items()})
            moved = moved * len(plan) // seen
    refused = sum(reasons.values())
    through = tally.through_hdf5 if backend.name == "posix" else 0
    what = "local fallback" if fallback == "local" else "nothing: refused"
    where = {
        backend.name: tally.chunks - tally.unwritten - refused - through,
        f"{backend.name} through HDF5": through,
        what: refused,
        "fill value": tally.unwritten,
    }
    to_move = tally.bytes_to_read if backend.name == "posix" else moved
    return _OfFile(Counter({name: count for name, count in where.items() if count}), reasons, tally.bytes_to_read, to_move)
