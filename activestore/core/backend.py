"""What a backend is: read this to write one.

A backend computes components of chunks where their bytes are. What it cannot do it declares as data, in its
`Capabilities`; the engine then computes those chunks locally and says so in the report.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from activestore.core.selection import Points, Slice
from activestore.core.source import ReadableSource
from activestore.core.task import ChunkPartial, ChunkTask
from activestore.errors import BackendError

__all__ = [
    "Backend",
    "BackendOptions",
    "BackendRecord",
    "BatchBackend",
    "Capabilities",
    "InterruptibleBackend",
    "SelectiveBackend",
    "refusal",
    "refusal_of",
]


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a backend can do with a chunk; the default is what the kernel in this package can do."""

    components: frozenset[str] | None = None
    """Names of the components that it computes ("sum", "min", …); None for all, a user's own among them."""
    dtypes: frozenset[str] | None = None
    """NumPy types of the stored numbers, without byte order ("f4", "i2"); None for all."""
    codecs: frozenset[str] | None = None
    """Codecs that it undoes ("zlib", "shuffle"); None for all that are decoded from raw bytes."""
    steps: bool = True
    """Whether a region may have a step other than 1."""
    points: bool = True
    """Whether a region may list its positions."""
    unpacks: bool = True
    """Whether it unpacks numbers (`scale_factor`, `add_offset`), or turns them into another type, before it reduces them."""
    extents: bool = True
    """Whether it can treat the end of a chunk as unwritten."""
    groups: bool = True
    """Whether it can reduce several groups of positions apart (`ChunkTask.groups`); one alone is a reduction like any other."""
    conditions: bool = True
    """Whether it can leave out values that do not satisfy a condition (`TaskTemplate.condition`)."""
    small_chunk: int = 0
    """Decoded bytes of a chunk up to which it is read, and computed together with its neighbours, rather than asked for."""
    joins: bool = False
    """Whether it does that itself: takes tasks of several small chunks (`ChunkTask.pieces`). If not, they are done locally."""
    through_hdf5: bool = False
    """Whether it can read chunks that only the HDF5 library can decode."""
    workers: int | None = None
    """How many calls are under way at once where the user does not say; None, for one that computes here, is as many as
    there are processors."""
    batch: int = 1
    """How many tasks it takes in one call; if more than one, it is a `BatchBackend`."""
    batch_bytes: int = 4 << 20
    """Decoded bytes of the chunks of one call: no more tasks are added to it once it has so many."""


@runtime_checkable
class Backend(Protocol):
    """Computes the components of chunks; used from many threads at once, and pickled for other processes."""

    @property
    def name(self) -> str:
        """The name in reports and messages."""

    @property
    def capabilities(self) -> Capabilities:
        """What it can do."""

    def reduce_chunk(self, task: ChunkTask) -> ChunkPartial:
        """Return the partial result of one chunk.

        Raises:
            BackendError: It could not; the engine may compute the chunk locally instead.
            CorruptChunkError: The chunk's bytes are damaged.
        """

    def close(self) -> None:
        """Let go of what it holds; called once, when a run has ended."""


@runtime_checkable
class SelectiveBackend(Backend, Protocol):
    """A backend that has to look at a task to know whether it can do it: its capabilities do not say it all."""

    def refusal(self, task: ChunkTask) -> str | None:
        """Return why it cannot do `task`, None if it can; nothing is read or asked for this."""


@runtime_checkable
class BatchBackend(Backend, Protocol):
    """A backend that does several tasks in one call."""

    def reduce_chunks(self, tasks: Sequence[ChunkTask]) -> Sequence[ChunkPartial | BackendError]:
        """Return, for each task, its partial result, or why it could not be done.

        Raises:
            BackendError: None of them could be done.
            CorruptChunkError: The bytes of one are damaged.
        """


@runtime_checkable
class InterruptibleBackend(Backend, Protocol):
    """A backend whose calls can be broken off: they may wait long for a network."""

    def abandon(self) -> None:
        """Make the calls that are under way end soon, with an error; a run was stopped or has failed."""


@dataclass(frozen=True, slots=True)
class BackendOptions:
    """What a backend is opened with, besides the source."""

    server: str | None = field(default=None, repr=False)
    """Address of the server that computes, for backends that have one."""
    options: Mapping[str, object] = field(default_factory=dict, repr=False)
    """Options of the backend's own."""
    workers: int | None = None
    """How many calls the user wants under way at once; None if the user does not say."""


@dataclass(frozen=True, slots=True)
class BackendRecord:
    """What a plugin registers: a name, and how to open the backend for a source."""

    name: str
    """What users write: `Active(…, backend="name")`."""
    open: Callable[[ReadableSource, BackendOptions], Backend]
    """Returns the backend for one source; called once a run."""
    description: str
    """One line for `activestore backends`."""
    available: Callable[[], str | None] = lambda: None
    """Returns why it cannot be used here (a missing package, say), None if it can."""
    check: Callable[[str, Mapping[str, object]], str] | None = None
    """Asks the server at an address, given options of the backend's own, whether it answers, and returns one line on what it
    is; raises a `BackendUnavailableError` that says what to try. None for backends without a server."""


def refusal_of(backend: Backend) -> Callable[[ChunkTask], str | None]:
    """Return the function that says why `backend` cannot do a task, None if it can."""
    if not isinstance(backend, SelectiveBackend):
        return lambda task: refusal(task, backend.capabilities)
    return lambda task: refusal(task, backend.capabilities) or backend.refusal(task)


def refusal(task: ChunkTask, capabilities: Capabilities) -> str | None:
    """Return why a backend with these capabilities cannot do `task`, None if it can.

    Examples:
        >>> from activestore import Active
        >>> task = next(Active("docs/tas.nc", "tas").plan("mean").tasks())
        >>> refusal(task, Capabilities()) is None
        True
        >>> refusal(task, Capabilities(dtypes=frozenset({"f8"})))
        'the type f4'
    """
    template = task.template
    dtype = template.dtype.lstrip("<>=|")
    if capabilities.dtypes is not None and dtype not in capabilities.dtypes:
        return f"the type {dtype}"
    if capabilities.components is not None:
        for component in template.components:
            if component.name not in capabilities.components:
                return f"the component {component.name!r}"
    if capabilities.codecs is not None:
        for codec in task.codecs:
            if codec.id not in capabilities.codecs:
                return f"the codec {codec.id!r}"
    demands = (
        (template.packing is not None, capabilities.unpacks, "unpacking before reducing"),
        (template.value_dtype is not None, capabilities.unpacks, "numbers of another type than those of other files"),
        (task.extent is not None, capabilities.extents, "a chunk that ends early"),
        (any(isinstance(part, Points) for part in task.region), capabilities.points, "listed positions"),
        (any(isinstance(p, Slice) and p.step != 1 for p in task.region), capabilities.steps, "a step in the selection"),
        (template.condition is not None, capabilities.conditions, "a condition on the values"),
        (any(grouping.count > 1 for grouping in task.groups), capabilities.groups, "several groups in a chunk"),
        (task.through_hdf5, capabilities.through_hdf5, "a chunk that only the HDF5 library can read"),
        (task.pieces is not None, capabilities.joins, "small chunks, which are read together"),
        (task.inline is not None, capabilities.through_hdf5, "data among the metadata"),
    )
    return next((what for needed, offered, what in demands if needed and not offered), None)
