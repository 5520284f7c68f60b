"""What an `Active` consists of: one variable of a source, or several that are joined along a dimension."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np

from activestore.backends.posix import PosixBackend
from activestore.config import Settings
from activestore.core.aggregate import Aggregator
from activestore.core.formats.read import locate
from activestore.core.joined_plan import JoinedPlan, cut, joined_plan, joined_variable
from activestore.core.plan import Plan, ReductionRequest, plan, touched_chunks
from activestore.core.reductions import READ
from activestore.core.selection import Positions, Selection
from activestore.core.source import ReadableSource
from activestore.core.threads import concurrently, default_workers
from activestore.core.variable import Variable
from activestore.errors import ConfigurationError, JoinError, SourceError

__all__ = ["METADATA_READS", "Part", "Parts", "join", "join_parts", "reads_at_once", "values_of"]

METADATA_READS = 16
"""Files elsewhere of which metadata are read at once."""


def reads_at_once(sources: Sequence[ReadableSource]) -> int:
    """Return of how many sources metadata are read at once: those of local files take processors, not time."""
    return METADATA_READS if any(source.is_remote for source in sources) else default_workers()


@dataclass(frozen=True, slots=True)
class Part:
    """One variable, what of it is wanted, and how its chunks are computed."""

    source: ReadableSource
    """Where its bytes are."""
    variable: Variable
    """All that is known of it."""
    selection: Selection
    """What of it there is to be selected from."""
    settings: Settings
    """How runs are carried out."""

    def check_unchanged(self) -> None:
        """Make sure that the source still has the version whose metadata were read.

        Raises:
            SourceError: It has changed.
        """
        if self.source.current_version() != self.variable.version:
            raise SourceError(f"{self.source.uri}: has changed since it was opened; make a new Active of it")


@dataclass(frozen=True, slots=True)
class Parts:
    """One part, or several that lie one after the other along a dimension."""

    each: tuple[Part, ...]
    """The parts, in their order."""
    dim: int
    """The dimension of the variable along which they are joined; of no meaning for one."""
    variable: Variable
    """The joint variable; the part's own for one."""

    @classmethod
    def single(cls, source: ReadableSource, variable: Variable, settings: Settings) -> Parts:
        """Return the whole of one variable."""
        return cls((Part(source, variable, Selection.whole(variable.shape), settings),), 0, variable)

    @property
    def first(self) -> Part:
        """The first of them."""
        return self.each[0]

    @property
    def whole(self) -> Selection:
        """The selection of everything."""
        return dataclasses.replace(Selection.whole(self.variable.shape), dropped=self.first.selection.dropped)

    @property
    def files(self) -> str:
        """Where they are, for people: the first address, and how many there are."""
        return self.variable.uri

    def changed(self, changes: dict[str, object]) -> Parts:
        """Return them with other settings.

        Raises:
            ConfigurationError: A setting is not understood, or a backend of one source is to compute others.
        """
        each = tuple(dataclasses.replace(part, settings=part.settings.changed(changes)) for part in self.each)
        _check_backends(each)
        return dataclasses.replace(self, each=each)

    def cut(self, selection: Selection, dim: int) -> list[tuple[Part, Positions]]:
        """Return what a selection takes of each part, and where along `dim` of the selection that lies."""
        if self.variable is self.first.variable:
            places = range(len(selection.positions[dim]))
            return [(dataclasses.replace(self.first, selection=selection), places)]
        pieces = cut([part.selection for part in self.each], dim, selection)
        return [(dataclasses.replace(self.each[one.part], selection=one.selection), one.places) for one in pieces]

    def plan(self, request: ReductionRequest) -> tuple[Plan | JoinedPlan, tuple[Part, ...]]:
        """Return the plan of a request for the joint variable, and the part that each of its files is.

        Raises:
            SourceError: A chunk index is damaged.
        """
        if self.variable is self.first.variable:
            located = _located(dataclasses.replace(self.first, selection=request.selection))
            return plan(dataclasses.replace(request, variable=located)), self.each
        pieces = cut([part.selection for part in self.each], self.dim, request.selection)
        touched = tuple(dataclasses.replace(self.each[one.part], selection=one.selection) for one in pieces)
        variables = concurrently(_located, touched, reads_at_once([part.source for part in touched]))
        return joined_plan(request, self.dim, pieces, variables), touched


def _located(part: Part) -> Variable:
    """Return the variable with the chunks that its selection touches looked up."""
    wanted = touched_chunks(part.variable, part.selection) if part.variable.table.unread is not None else None
    return locate(part.variable, part.source, wanted)


def values_of(source: ReadableSource, variable: Variable) -> np.ma.MaskedArray[Any, Any]:
    """Return all values of a small variable, read in this thread."""
    whole = Selection.whole(variable.shape)
    work = plan(ReductionRequest(locate(variable, source), whole, (READ,), (), skipna=False))
    aggregator, backend = Aggregator(work), PosixBackend(source)
    try:
        for task in work.tasks():
            aggregator.add(task, backend.reduce_chunk(task))
    finally:
        backend.close()
    return np.ma.asanyarray(aggregator.values(keepdims=False)[0]["read"])


def join(joined: Sequence[tuple[Parts, Selection]], dim: int) -> Parts:
    """Return the parts of several selections, one after the other along a dimension of their variables.

    Raises:
        JoinError: They do not fit together.
        ConfigurationError: A backend of one source is to compute another.
    """
    return join_parts([part for parts, selection in joined for part in _in_order(parts, selection, dim)], dim)


def join_parts(given: Sequence[Part], dim: int) -> Parts:
    """Return parts one after the other along a dimension of their variables.

    Raises:
        JoinError: They do not fit together.
        ConfigurationError: A backend of one source is to compute another.
    """
    each = tuple(given)
    first = each[0]
    for part in each[1:]:
        _check_fit(first, part, dim)
    _check_backends(each)
    if len(each) == 1 and first.selection == Selection.whole(first.variable.shape):
        return Parts(each, dim, first.variable)
    variable = joined_variable([part.variable for part in each], [part.selection for part in each], dim)
    return Parts(each, dim, variable)


def _in_order(parts: Parts, selection: Selection, dim: int) -> list[Part]:
    """Return what a selection takes of the parts, cut so that it lies in the order of the selection.

    Raises:
        JoinError: The parts are joined along another dimension.
    """
    if len(parts.each) > 1 and parts.dim != dim:
        names = parts.variable.dims
        raise JoinError(
            f"{parts.files}: is joined along {names[parts.dim]!r} already, and cannot be joined along {names[dim]!r} too"
        )
    runs: list[tuple[int, Part]] = []
    for part, places in parts.cut(selection, dim):
        # Listed positions may go to and fro between the parts.
        numbered = enumerate(places)
        for _, group in groupby(numbered, key=lambda pair: pair[1] - pair[0]):
            run = list(group)
            runs.append((run[0][1], _shortened(part, dim, slice(run[0][0], run[-1][0] + 1))))
    runs = runs or [(0, part) for part, _ in parts.cut(selection, dim)]
    return [part for _, part in sorted(runs, key=lambda run: run[0])]


def _shortened(part: Part, dim: int, wanted: slice) -> Part:
    positions = part.selection.positions
    positions = (*positions[:dim], positions[dim][wanted], *positions[dim + 1 :])
    return dataclasses.replace(part, selection=dataclasses.replace(part.selection, positions=positions))


def _check_fit(first: Part, part: Part, dim: int) -> None:
    """Refuse parts that cannot lie one after the other.

    Raises:
        JoinError: Dimensions or lengths differ.
    """
    variables, both = (first.variable, part.variable), f"{first.source.uri} and {part.source.uri}"
    if variables[0].dims != variables[1].dims:
        dims = " and ".join(str(variable.dims) for variable in variables)
        raise JoinError(
            f"{both}: {part.variable.name!r} has the dimensions {dims}; they have to be the same, in the same order"
        )
    if first.selection.dropped != part.selection.dropped:
        raise JoinError(f"{both}: an integer has dropped other dimensions of one than of the other; drop them once joined")
    for axis, name in enumerate(variables[0].dims):
        lengths = [len(one.selection.positions[axis]) for one in (first, part)]
        if axis != dim and lengths[0] != lengths[1]:
            raise JoinError(
                f"{both}: the dimension {name!r} has the lengths {lengths[0]:,} and {lengths[1]:,}; "
                f"to be joined along {variables[0].dims[dim]!r} they have to be equal in all others"
            )


def _check_backends(each: Sequence[Part]) -> None:
    """Refuse a backend that is open for one source and would be given chunks of another.

    Raises:
        ConfigurationError: There is one.
    """
    sources: dict[int, int] = {}
    for part in each:
        backend = part.settings.backend
        if not isinstance(backend, str) and sources.setdefault(id(backend), id(part.source)) != id(part.source):
            raise ConfigurationError(
                f"the backend {backend.name!r} is open for one file and cannot compute several; give its name, "
                "so that it is opened for each"
            )
