"""Running a plan: tasks go out to an executor in batches, partial results come back in grid order.

The window of outstanding work is bounded, so a million chunks need no million futures; partials are combined in the order
of the grid, so the result does not depend on who finished first.
"""

from __future__ import annotations

import itertools
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np

from activestore.core.aggregate import Aggregator
from activestore.core.backend import Backend, BatchBackend, InterruptibleBackend, refusal_of
from activestore.core.joined_plan import JoinedPlan
from activestore.core.lazy_pickle import Later
from activestore.core.plan import Plan
from activestore.core.task import ChunkPartial, ChunkTask
from activestore.core.threads import default_workers, thread_pool
from activestore.errors import BackendError, BackendRefusedError
from activestore.network.concurrency_limit import Limit, current_limit, within

__all__ = ["Fallback", "Outcome", "run"]

Fallback = Literal["local", "error"]
"""What happens to a chunk that the backend cannot do: computed locally, or an error before any data are read."""

LOCAL = "posix"
"""Name of the backend that computes in this process."""
_BATCH_TASKS = 64
_LARGEST_KEPT = 31 << 20
"""Just under the 32 MiB up to which glibc raises its threshold."""
_LEAST_SENT = 1 << 20
"""Decoded bytes of a batch that goes to an executor, which may have to send it far: the way must be worth it."""
_WINDOW = 3
"""Batches under way for each worker: one at work, the others ready."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of the tasks of a run."""

    where: dict[str, int]
    """How many chunks were computed by what."""
    reasons: dict[str, int]
    """Why chunks were not computed by the backend that was asked, and how many."""
    bytes_read: int
    """Bytes of stored chunks that were read, here or by a server."""
    bytes_moved: int
    """Bytes that came to this process: the chunks that it computed itself, and the answers of a server."""
    backend: str
    """The backend that was asked; several where files have different ones."""
    workers: int
    """How many batches ran at once."""


@dataclass(frozen=True, slots=True)
class _Done:
    """What comes back for one task: the partial, and why it was computed locally if it was."""

    partial: ChunkPartial
    reason: str | None


def run(
    plan: Plan | JoinedPlan,
    opened: Callable[[int], AbstractContextManager[tuple[Backend, Backend]]],
    *,
    aggregator: Aggregator,
    workers: int | None = None,
    executor: Executor | None = None,
    fallback: Fallback = "local",
    progress: Callable[[int], object] | None = None,
) -> Outcome:
    """Compute every task of `plan` and give the partial results to `aggregator`, in grid order.

    Parameters:
        plan: What is to be done.
        opened: Opens, for a file of the plan, the backend that computes what it can, and the local one for what it cannot.
            That happens when the file's turn comes; both are closed when it is over.
        aggregator: Takes the partials.
        workers: How many batches run at once; the size of the thread pool if there is no `executor`. None leaves it to the
            backend of the first file.
        executor: Any executor; it is left open. Threads of our own end with the run.
        fallback: What happens to a chunk that the backend cannot do.
        progress: Called with the number of chunks that are done, as they are.

    Raises:
        BackendRefusedError: The backend cannot do a chunk and `fallback` is "error"; nothing was read.
        ActivestoreError: Whatever stopped a chunk. No more work is begun, and none is under way any more.
    """
    stop = threading.Event() if executor is None else None
    with _Turns(opened, fallback, stop) as turns:
        if fallback == "error":
            _refuse_early(plan, turns)
        _keep_freed_memory()
        workers = workers or turns.of(0).backend.capabilities.workers or default_workers()
        tally = _Tally(aggregator, turns, progress)
        work = _work(plan, turns, 0 if executor is None else _LEAST_SENT)
        start = list(itertools.islice(work, 2))
        if executor is None and len(start) <= 1:
            for batch in start:
                tally.add(batch, turns.of(batch.file)(batch.tasks))
        elif executor is None:
            with thread_pool(workers) as pool:
                _pump(itertools.chain(start, work), turns, pool, workers, tally)
        else:
            _pump(itertools.chain(start, work), turns, executor, workers, tally)
        return tally.outcome(workers)


def _keep_freed_memory() -> None:
    """Let the C library keep what a chunk frees for the next one.

    glibc gives large blocks back to the kernel at once, until it has seen a larger one freed; having each page faulted
    in anew for every chunk takes longer than inflating it. The block below is never touched, so it costs nothing.
    """
    np.empty(_LARGEST_KEPT, np.uint8)


def _pump(work: Iterable[_Batch], turns: _Turns, executor: Executor, workers: int, tally: _Tally) -> None:
    """Keep the executor supplied, and take the results in the order in which they were sent."""
    under_way: deque[tuple[_Batch, Future[list[_Done]]]] = deque()
    try:
        for batch in work:
            if len(under_way) >= workers * _WINDOW:
                sent, future = under_way.popleft()
                tally.add(sent, future.result())
            under_way.append((batch, executor.submit(turns.of(batch.file), batch.tasks)))
        while under_way:
            sent, future = under_way.popleft()
            tally.add(sent, future.result())
    except BaseException as error:
        for _, future in under_way:
            future.cancel()
        turns.abandon(interrupted=not isinstance(error, Exception))
        raise


@dataclass(frozen=True, slots=True)
class _Batch:
    """Tasks of one file that go out together."""

    file: int
    tasks: list[ChunkTask]


def _work(plan: Plan | JoinedPlan, turns: _Turns, least_bytes: int) -> Iterator[_Batch]:
    """Yield the batches of one file after the other."""
    for file in range(plan.files):
        if len(plan.plans[file]):
            abilities = turns.of(file).backend.capabilities
            # Work that waits for a network goes out in many small parts, work for processors in few large ones.
            most = _BATCH_TASKS if abilities.workers is None else abilities.batch
            tasks = plan.tasks_of(file, joined=abilities.small_chunk)
            yield from (_Batch(file, batch) for batch in _batches(tasks, most, abilities.batch_bytes, least_bytes))


class _Turns:
    """The backends of the files whose turn it is."""

    def __init__(
        self,
        opened: Callable[[int], AbstractContextManager[tuple[Backend, Backend]]],
        fallback: Fallback,
        stop: threading.Event | None,
    ) -> None:
        self._opened, self._fallback, self._stop = opened, fallback, stop
        self._open: dict[int, tuple[_Runner, ExitStack]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with ExitStack() as closing:
            for _runner, stack in self._open.values():
                closing.push(stack)
            self._open.clear()

    def of(self, file: int) -> _Runner:
        """Return what computes the chunks of a file."""
        if file not in self._open:
            stack = ExitStack()
            backend, local = stack.enter_context(self._opened(file))
            runner = _Runner(backend, local, self._fallback, self._stop, current_limit())
            self._open[file] = (runner, stack)
        return self._open[file][0]

    def end_before(self, file: int) -> None:
        """Close the backends of all files before this one."""
        for earlier in [one for one in self._open if one < file]:
            self._open.pop(earlier)[1].close()

    def abandon(self, *, interrupted: bool) -> None:
        """Begin no more, and break off what waits."""
        if self._stop is not None:
            self._stop.set()
        for runner, _ in self._open.values():
            runner.abandon(interrupted=interrupted)


def _batches(tasks: Iterator[ChunkTask], most: int, most_bytes: int, least_bytes: int) -> Iterator[list[ChunkTask]]:
    """Yield the tasks in lists, which end as soon as their chunks have `most_bytes` decoded.

    Or once there are `most` tasks, if they have `least_bytes`.
    """
    batch: list[ChunkTask] = []
    nbytes = 0
    for task in tasks:
        batch.append(task)
        nbytes += task.nbytes
        if nbytes >= most_bytes or (len(batch) >= most and nbytes >= least_bytes):
            yield batch
            batch, nbytes = [], 0
    if batch:
        yield batch


def _refuse_early(plan: Plan | JoinedPlan, turns: _Turns) -> None:
    for file in range(plan.files):
        runner = turns.of(file)
        if runner.backend is not runner.local:
            _refuse_file(plan, file, runner.backend)
        turns.end_before(file)


def _refuse_file(plan: Plan | JoinedPlan, file: int, backend: Backend) -> None:
    refuses = refusal_of(backend)
    for task in plan.tasks_of(file, joined=backend.capabilities.small_chunk):
        reason = refuses(task)
        if reason is not None and task.offset is not None:
            raise BackendRefusedError(
                f"{task.describe()}: the backend {backend.name!r} cannot do {reason}; "
                "allow fallback='local' to compute such chunks here"
            )


@dataclass(frozen=True, slots=True)
class _Runner:
    """Computes a batch, in whatever thread or process it finds itself."""

    backend: Backend
    local: Backend
    fallback: Fallback
    stop: threading.Event | None
    """Set when the run is over before its time; none in other processes, which cannot see it."""
    limit: Limit | None
    """How many requests may be under way at once; in another process, as many again."""

    def __reduce__(self) -> tuple[Any, ...]:  # Any: pickle's own contract
        # A plugin's backend may do anything when it is made.
        local = None if self.backend is self.local else Later.of(self.local)
        return _LaterRunner, (Later.of(self.backend), local, self.fallback, self.limit)

    def __call__(self, tasks: list[ChunkTask]) -> list[_Done]:
        """Compute tasks of one file."""
        with within(self.limit):
            return self._computed(tasks)

    def _computed(self, tasks: list[ChunkTask]) -> list[_Done]:
        refuses = (lambda _: None) if self.backend is self.local else refusal_of(self.backend)
        reasons = [None if task.offset is None else refuses(task) for task in tasks]
        sent = [i for i, task in enumerate(tasks) if task.offset is not None and reasons[i] is None]
        found: list[ChunkPartial | None] = [None] * len(tasks)
        for i, answer in zip(sent, self._answers(self.backend, [tasks[i] for i in sent]), strict=False):
            if not isinstance(answer, BackendError):
                found[i] = answer
            elif self.fallback == "error":
                raise answer
            else:
                reasons[i] = answer.reason
        left = [i for i, partial in enumerate(found) if partial is None]
        for i, answer in zip(left, self._answers(self.local, [tasks[i] for i in left]), strict=False):
            if isinstance(answer, BackendError):
                raise answer
            found[i] = answer
        return [_Done(partial, reason) for partial, reason in zip(found, reasons, strict=True) if partial is not None]

    def abandon(self, *, interrupted: bool) -> None:
        """Break off what waits for a network; reads of the source, which other runs share, only if the user is waiting."""
        backends = {id(one): one for one in (self.backend, self.local) if interrupted or one is not self.local}
        for backend in backends.values():
            if isinstance(backend, InterruptibleBackend):
                backend.abandon()

    def _answers(self, backend: Backend, tasks: list[ChunkTask]) -> Iterator[ChunkPartial | BackendError]:
        """Yield what a backend makes of each task, of all together if it takes them so; less when the run is over."""
        most = backend.capabilities.batch
        if most > 1 and isinstance(backend, BatchBackend):
            for start in range(0, len(tasks), most):
                if self._is_over:
                    return
                yield from self._together(backend, tasks[start : start + most])
            return
        for task in tasks:
            if self._is_over:
                return
            try:
                yield backend.reduce_chunk(task)
            except BackendError as error:
                yield error

    def _together(self, backend: BatchBackend, tasks: list[ChunkTask]) -> Sequence[ChunkPartial | BackendError]:
        try:
            answers = backend.reduce_chunks(tasks)
        except BackendError as error:
            return [error] * len(tasks)
        # Else the answers to the next call would be taken for those to this one.
        if len(answers) != len(tasks):
            return [BackendError(f"{backend.name} gave {len(answers)} answers to {len(tasks)} chunks")] * len(tasks)
        return answers

    @property
    def _is_over(self) -> bool:
        return self.stop is not None and self.stop.is_set()


@dataclass(frozen=True, slots=True)
class _LaterRunner:
    """A runner in another process, whose backends are made when it is to compute."""

    backend: Later[Backend]
    local: Later[Backend] | None
    """None where that is the backend."""
    fallback: Fallback
    limit: Limit | None

    def __call__(self, tasks: list[ChunkTask]) -> list[_Done]:
        """Compute tasks of one file."""
        backend = self.backend.get()
        local = backend if self.local is None else self.local.get()
        return _Runner(backend, local, self.fallback, None, self.limit)(tasks)


class _Tally:
    """Feeds the aggregator and counts what was done where."""

    def __init__(self, aggregator: Aggregator, turns: _Turns, progress: Callable[[int], object] | None) -> None:
        self._aggregator, self._turns, self._progress = aggregator, turns, progress
        self._where: Counter[str] = Counter()
        self._reasons: Counter[str] = Counter()
        self._read = self._moved = 0
        # In the order in which they are met.
        self._backends = {turns.of(0).backend.name: None}

    def add(self, batch: _Batch, done: list[_Done]) -> None:
        """Take what was computed of a batch; the backends of files before its own are closed."""
        backend = self._turns.of(batch.file).backend.name
        self._backends[backend] = None
        for task, one in zip(batch.tasks, done, strict=True):
            self._aggregator.add(task, one.partial)
            written = task.chunks - task.unwritten
            for place, chunks in ((_place(task, one, backend), written), ("fill value", task.unwritten)):
                if chunks:
                    self._where[place] += chunks
            nbytes = 0 if task.inline is not None else task.size
            self._read += nbytes
            here = backend == LOCAL or one.reason is not None
            self._moved += nbytes if here else one.partial.moved
            if one.reason is not None:
                self._reasons[one.reason] += written
        if self._progress is not None:
            self._progress(sum(task.chunks for task in batch.tasks))
        self._turns.end_before(batch.file)

    def outcome(self, workers: int) -> Outcome:
        backends = ", ".join(self._backends)
        return Outcome(dict(self._where), dict(self._reasons), self._read, self._moved, backends, workers)


def _place(task: ChunkTask, done: _Done, backend: str) -> str:
    if done.reason is not None:
        return "local fallback"
    return f"{backend} through HDF5" if task.through_hdf5 else backend
