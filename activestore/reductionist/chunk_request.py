"""What a Reductionist server is asked about one chunk, and what is made of its answers."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np
import numpy.typing as npt

from activestore.core.kernel import reduce_values
from activestore.core.reductions import SUM
from activestore.core.selection import Slice, region_shape
from activestore.core.task import ChunkPartial, ChunkTask, ChunkValues, Component, State
from activestore.errors import BackendError, ReductionistError
from activestore.network.location import Origin
from activestore.reductionist.answer import Expected, Reply
from activestore.reductionist.client import Server, ServerLostError
from activestore.reductionist.request import body, is_about_a_field, largest_valid, missing_text, selected_bytes
from activestore.reductionist.summation import FLOAT32_TERMS, Split, split

__all__ = ["ChunkWork", "Dialect"]

_ORDER = {"f": ("sum", "min", "max"), "i": ("min", "max", "sum")}
"""What is asked first: a sum of floats tells of NaN, which min and max answer with a lost connection; the range of integers
tells how many of them a sum can have."""
_NAN = "NaN among the numbers"


@dataclass(slots=True)
class Dialect:
    """How one server is spoken to; what an old release does not understand is found out by the first request."""

    version: str
    """"v1" or "v2"."""
    uncached: bool = False
    """Whether requests ask for the chunk itself, not one that was kept."""
    takes_axes: bool = True
    """Whether requests name axes; the first releases had none."""
    saw_nan: bool = False
    """Whether min or max met NaN: then a sum is asked first."""

    @property
    def options(self) -> dict[str, object]:
        """Fields that go with every request."""
        return {"option_disable_chunk_cache": True} if self.uncached else {}

    def place(self, origin: Origin) -> dict[str, object]:
        """Return the fields that say where the object is."""
        if self.version == "v2":
            return {"interface_type": origin.interface_type, "url": origin.url}
        parts = urlsplit(origin.url)
        bucket, _, key = parts.path.removeprefix("/").partition("/")
        return {"source": f"{parts.scheme}://{parts.netloc}", "bucket": unquote(bucket), "object": unquote(key)}

    def worded(self, cut: Split) -> Split:
        """Return the axes as this version takes them: v1 has to be left one that it does not reduce."""
        if self.version == "v2":
            return cut
        return Split(
            shape=(1, *cut.shape),
            region=(Slice(0, 1, 1), *cut.region),
            axes=tuple(axis + 1 for axis in cut.axes),
            left=tuple(axis + 1 for axis in cut.left),
            answer=(1, *cut.answer),
        )

    def learns(self, error: ReductionistError, asked: bytes) -> bool:
        """Return whether an error says that a field is unknown which can be done without; it is not sent any more then."""
        said = " ".join((error.message, *error.caused_by))
        if not is_about_a_field(error):
            return False
        if "option_disable_chunk_cache" in said and b'"option_disable_chunk_cache"' in asked:
            self.uncached = False
            return True
        if "`axis`" in said and b'"axis"' in asked:
            self.takes_axes = False
            return True
        return False


@dataclass(slots=True)
class ChunkWork:
    """The work on one chunk, and the bytes that came for it."""

    task: ChunkTask
    server: Server
    dialect: Dialect
    fields: dict[str, object]
    moved: int = 0
    _replies: dict[str, tuple[Reply, Split]] = field(default_factory=dict)

    def selected(self) -> ChunkPartial:
        """Return the partial result of the wanted part, which is cut out by the server and reduced here."""
        task = self.task
        region = tuple(part for part in task.region if isinstance(part, Slice)) or (Slice(0, 1, 1),)
        shape = region_shape(region)
        reply = self._ask("select", Split(task.shape or (1,), region, (), (), shape), counts=1)
        return reduce_values(reply.values.reshape(region_shape(task.region)), task)

    def reduced(self) -> ChunkPartial:
        """Return the partial result that the server computed.

        Raises:
            BackendError: What it answers cannot be relied on.
        """
        template = self.task.template
        wanted = {component.name: component for component in template.components}
        floats = self._kind == "f"
        if floats and "sum" not in wanted and (self.dialect.saw_nan or not wanted):
            self._count_by_sum()
        if not wanted and not floats:
            self._replies["count"] = self._reduce("count", self._everything)
        for name in _ORDER["f" if floats else "i"]:
            if name in wanted:
                cut = self._cut_for_sum() if name == "sum" else self._everything
                if cut is None:
                    return self.selected()
                self._replies[name] = self._reduce(name, cut)
        states: dict[str, State] = {}
        counts = []
        for name, (reply, cut) in self._replies.items():
            cells = self._cells(reply, cut)
            counts.append(cells.count.sum(axis=cut.left, keepdims=True).reshape(self._kept))
            if name in wanted:
                states[name] = _folded(wanted[name], cells, self._kept)
        if any(not np.array_equal(count, counts[0]) for count in counts):
            raise ReductionistError(
                f"{self.task.describe()}: the server counts differently each time; does somebody write to the object?",
                reason="counts that do not agree",
            )
        return ChunkPartial(self.task.sequence, states, counts[0])

    @property
    def _kind(self) -> str:
        return np.dtype(self.task.template.dtype).kind

    @property
    def _kept(self) -> tuple[int, ...]:
        """The shape of the states: reduced dimensions have the length 1."""
        axes = self.task.template.axes
        return tuple(1 if axis in axes else n for axis, n in enumerate(region_shape(self.task.region)))

    @property
    def _everything(self) -> Split:
        """The chunk with all its axes reduced that are to be: what min, max and count have no reason not to do."""
        return split(self.task.shape, self.task.region, self.task.template.axes)

    def _count_by_sum(self) -> None:
        """Ask for the count of floats in a way that tells of NaN: a count alone would leave them out."""
        self._replies["count"] = self._reduce("sum", self._everything)

    def _cut_for_sum(self) -> Split | None:
        """Return the chunk cut so that its sums are right; None if the wanted part itself is smaller then.

        Raises:
            BackendError: The chunk itself is smaller then.
        """
        task = self.task
        if self._kind == "f":
            terms = FLOAT32_TERMS if task.template.dtype.endswith("4") else None
            return split(task.shape, task.region, task.template.axes, terms=terms)
        dtype = np.dtype(task.template.dtype)
        most = int(np.iinfo(dtype).max) // max(1, self._largest())
        cut = split(task.shape, task.region, task.template.axes, product=most)
        answer, selected = cut.cells * (dtype.itemsize + 1), selected_bytes(task)
        if answer < min(task.size, selected):
            return cut
        if selected < task.size:
            return None
        raise self._unreliable("a sum of integers that could overflow")

    def _largest(self) -> int:
        """Return what no valid integer of the chunk exceeds in size."""
        known = largest_valid(self.task.template.missing)
        if known is not None:
            return known
        found = 0
        for name in ("max", "min") if self._kind == "i" else ("max",):
            every = split(self.task.shape, self.task.region, tuple(range(len(self.task.shape))))
            reply = self._replies[name][0] if name in self._replies else self._ask(name, every, counts=1)
            valid = reply.values[reply.count.reshape(reply.values.shape) > 0]
            if valid.size:
                found = max(found, abs(int(valid.max())), abs(int(valid.min())))
        return found

    def _reduce(self, name: str, cut: Split) -> tuple[Reply, Split]:
        """Return the server's answer to a reduction, once it can be relied on, and how its axes were cut.

        Raises:
            BackendError: It cannot.
        """
        fragile = self._kind == "f" and name in ("min", "max")
        try:
            reply = self._ask(name, cut, counts=cut.cells, of_lost=1 if fragile else None)
        except (ServerLostError, ReductionistError) as error:
            if not fragile or (isinstance(error, ReductionistError) and error.status != 502):
                raise
            self.dialect.saw_nan = True
            raise self._unreliable("the connection is lost under min or max: NaN, probably") from None
        valid = reply.values[reply.count.reshape(reply.values.shape) > 0]
        if self._kind == "f":
            self._check_floats(name, valid)
        return reply, cut

    def _check_floats(self, name: str, valid: npt.NDArray[Any]) -> None:
        if np.isnan(valid).any():
            raise self._unreliable(_NAN)
        limits = np.finfo(valid.dtype)
        if name == "sum" and SUM in self.task.template.components and np.isinf(valid).any():
            raise self._unreliable("an infinite sum")
        # A server begins with these numbers, so that infinities do not count for it.
        if (name == "min" and (valid == limits.max).any()) or (name == "max" and (valid == limits.min).any()):
            raise self._unreliable("infinities among the numbers")

    def _ask(self, name: str, cut: Split, *, counts: int, of_lost: int | None = None) -> Reply:
        """Return the server's answer to one request; a field that it does not know is left out for good."""
        template, dialect = self.task.template, self.dialect
        takes_axes, selects = dialect.takes_axes, name == "select"
        if not takes_axes and not selects and (name == "sum" or cut.cells > 1):
            raise self._unreliable("a server so old that it has no axes")
        worded = dialect.worded(cut) if takes_axes else cut
        expected = Expected(
            dtype="int64" if name == "count" else str(self.fields["dtype"]),
            shape=worded.answer if takes_axes or selects else (),
            counts=counts,
            most=cut.cells if selects else cut.reduced,
        )
        asked = body(
            dialect.options | self.fields,
            worded,
            axes=None if selects or not takes_axes else worded.axes,
            missing=None if selects else missing_text(template.missing, template.dtype),
        )
        try:
            reply = self.server.ask(f"/{dialect.version}/{name}", asked, expected, of_lost=of_lost, where=self.task.describe())
        except ReductionistError as error:
            if not dialect.learns(error, asked):
                raise
            return self._ask(name, cut, counts=counts, of_lost=of_lost)
        self.moved += reply.moved
        return replace(reply, values=reply.values.reshape(cut.answer))

    def _cells(self, reply: Reply, cut: Split) -> ChunkValues:
        """Return the answer as a chunk of its own, to be reduced along what the server left."""
        count = reply.count.reshape(cut.answer)
        empty = count == 0
        return ChunkValues(
            values=reply.values,
            invalid=empty if empty.any() else None,
            axes=cut.left,
            count=count,
            accumulator=self.task.template.accumulator,
            placement=(),
            selected=(),
        )

    def _unreliable(self, reason: str) -> BackendError:
        return BackendError(f"{self.task.describe()}: computed locally because of {reason}", reason=reason)


def _folded(component: Component, cells: ChunkValues, shape: tuple[int, ...]) -> State:
    """Return the state that `component` makes of partial results: sums are summed, of the least the least is taken."""
    with np.errstate(all="ignore"):
        return tuple(np.asarray(part).reshape(shape) for part in component.chunk(cells))
