# ruff: noqa: S101  # tests assert
"""The tests that every backend passes: subclass `BackendTests`, say how a file is published, and run pytest."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from activestore import REDUCTIONS, Active, Backend, Capabilities, Result
from activestore.core.backend import BackendOptions, BatchBackend, InterruptibleBackend, refusal_of
from activestore.core.task import ChunkPartial, ChunkTask
from activestore.errors import (
    ActivestoreError,
    BackendError,
    BackendRefusedError,
    CorruptChunkError,
    SourceNotFoundError,
    SumOverflowError,
)
from activestore.network.redaction import without_secrets
from activestore.plugins import default_plugins
from activestore.sources.open import open_source
from activestore.testing.cases import CASES, Case, Damage, damages, overflowing_case
from activestore.testing.reference import CONDITIONS, GROUPS, Request, all_requests, compare, cut, requests, satisfying

__all__ = ["BackendTests", "Publish"]

Publish = Callable[[Path], tuple[str, dict[str, Any]]]
"""Puts a file where a backend reaches it; returns its address and keyword arguments of `Active`, `backend` among them."""

_Opened = Callable[[Case | Damage], Active]

_ORDINARY = "type f8"
"""A case that a backend should do without help."""
_THOROUGH = ("three dimensions", "a fill value", "chunks never written", "contiguous", "many small chunks in a row")
_ALONE = ("a fill value", "a missing value", "contiguous")
_TOGETHER = ("sum", "mean", "min", "max")


@pytest.mark.filterwarnings("ignore::activestore.errors.FallbackWarning")
class BackendTests:
    """The contract of `activestore.Backend`, and every number that comes of it, compared with NumPy's.

    A subclass overrides the fixture `publish`, and `sum_tolerance` if its sums are not kept in 64 bits. The fixture may use
    other fixtures of yours: a server, a bucket. It is asked for by every test, for one file or two of a few kilobytes.

    Examples:
        The whole test file of a plugin, for a store that is a folder:

        >>> class TestMyStore(BackendTests):
        ...     @pytest.fixture
        ...     def publish(self, tmp_path):
        ...         def put(path):
        ...             return str(path), {"backend": "posix"}
        ...
        ...         return put

    Credentials may be among the `storage_options` that `publish` returns; the tests then look whether any of them shows.
    Pickles have none, so set those that other processes need in the environment as well.
    """

    @pytest.fixture
    def publish(self) -> Publish:
        """Return a function that puts a local file where the backend reaches it; overridden by every subclass.

        The function takes the file's path, whose name differs from those of other files, and returns its address and the
        keyword arguments of `Active`: `backend`, by name or a new one, and what it needs (`server`, `storage_options`, …).
        """
        pytest.fail("override the fixture `publish`: see the documentation of BackendTests", pytrace=False)

    def sum_tolerance(self, stored: np.dtype[Any]) -> float:  # noqa: ARG002  # it is for those who override this
        """Return how far a sum or a mean may be from NumPy's in 64 bits, relative to that of the absolute values.

        Parameters:
            stored: Type of the stored numbers.
        """
        return 1e-12

    @pytest.fixture
    def opened(self, publish: Publish, tmp_path: Path) -> _Opened:
        """Return a function that writes and publishes a case, and opens it."""

        def opened(what: Case | Damage) -> Active:
            uri, options = _published(what, publish, tmp_path)
            return Active(uri, what.variable if isinstance(what, Case) else what.case.variable, **options)

        return opened

    @pytest.fixture
    def ordinary_place(self, publish: Publish, tmp_path: Path) -> tuple[str, dict[str, Any]]:
        """Return what `publish` gives for an ordinary case, which is there in one version for the whole test."""
        return _published(CASES[_ORDINARY], publish, tmp_path)

    @pytest.fixture
    def backend(self, ordinary_place: tuple[str, dict[str, Any]]) -> Iterator[Backend]:
        """Return the backend, opened for the file of an ordinary case."""
        with _backend_of(*ordinary_place) as backend:
            yield backend

    @pytest.fixture
    def ordinary(self, ordinary_place: tuple[str, dict[str, Any]]) -> Active:
        """Return the variable of an ordinary case."""
        uri, options = ordinary_place
        return Active(uri, CASES[_ORDINARY].variable, **options)

    # What it says of itself.

    def test_it_is_a_backend(self, backend: Backend) -> None:
        """It has what the protocol asks for, under a name that reports can show."""
        assert isinstance(backend, Backend)
        assert isinstance(backend.name, str)
        assert backend.name.strip()

    def test_the_name_is_the_one_that_users_write(self, backend: Backend, publish: Publish, tmp_path: Path) -> None:
        """Reports name it as users do."""
        _, options = _published(CASES[_ORDINARY], publish, tmp_path)
        if isinstance(options["backend"], str):
            assert backend.name == options["backend"]

    def test_capabilities_are_data(self, backend: Backend) -> None:
        """What it can do is a record of plain values, the same whenever it is asked for, and travels."""
        capabilities = backend.capabilities
        assert isinstance(capabilities, Capabilities)
        assert capabilities == backend.capabilities
        assert pickle.loads(pickle.dumps(capabilities)) == capabilities  # noqa: S301  # made here
        assert capabilities.batch >= 1
        assert capabilities.workers is None or capabilities.workers >= 1
        for dtype in capabilities.dtypes or ():
            assert np.dtype(dtype).str[1:] == dtype, f"dtypes are NumPy's, without byte order; {dtype!r} is not"

    def test_batches_are_taken_if_they_are_offered(self, backend: Backend) -> None:
        """A backend that says it takes several tasks in one call has the method for it."""
        if backend.capabilities.batch > 1:
            assert isinstance(backend, BatchBackend)

    def test_it_computes_something(self, ordinary: Active) -> None:
        """Some reduction of an ordinary variable is done by it and not for it."""
        found = [ordinary.run(name).report for name in REDUCTIONS]
        assert any(set(report.where) == {report.backend} for report in found), [report.reasons for report in found]

    # Its life.

    def test_it_may_be_closed_twice(self, backend: Backend, ordinary: Active) -> None:
        """Closing is harmless, after use and again."""
        _first_partial(backend, ordinary)
        backend.close()
        backend.close()

    def test_it_may_be_closed_without_use(self, backend: Backend) -> None:
        """A run without chunks opens and closes it."""
        backend.close()

    def test_it_can_be_told_to_stop_when_nothing_is_under_way(self, backend: Backend, ordinary: Active) -> None:
        """Abandoning ends what is under way, not what comes later."""
        if not isinstance(backend, InterruptibleBackend):
            pytest.skip("its calls cannot be broken off")
        before = _first_partial(backend, ordinary)
        backend.abandon()
        assert _same_partial(before, _first_partial(backend, ordinary))

    def test_no_thread_is_left_behind(self, ordinary: Active) -> None:
        """A second run leaves no more threads than the first."""
        ordinary.run("max")
        before = {thread.name for thread in threading.enumerate()}
        ordinary.run("max")
        assert {thread.name for thread in threading.enumerate()} <= before

    def test_a_pickle_of_it_does_the_same(self, backend: Backend, ordinary: Active) -> None:
        """It travels to other processes, before and after it was used."""
        for _ in range(2):
            again: Backend = pickle.loads(pickle.dumps(backend))  # noqa: S301  # made here
            assert again.name == backend.name
            assert again.capabilities == backend.capabilities
            assert _same_partial(_first_partial(backend, ordinary), _first_partial(again, ordinary))
            again.close()

    def test_secrets_do_not_show(self, backend: Backend, publish: Publish, tmp_path: Path) -> None:
        """No credentials are in a pickle, a repr, a report, or the message of an error."""
        case = CASES[_ORDINARY]
        uri, options = _published(case, publish, tmp_path)
        secrets = list(_secrets({**options, "backend": None}))
        if not secrets:
            pytest.skip("no credentials are needed")
        active = Active(uri, case.variable, **options)
        result = active.run("max")
        with pytest.raises(SourceNotFoundError) as missing:
            Active(uri + "-absent", case.variable, **options)
        shown = [repr(active), repr(backend), repr(result), str(result.report), repr(active.explain()), str(missing.value)]
        shown += [pickle.dumps(one).decode("latin-1") for one in (active, backend, next(active.plan("max").tasks()))]
        for text in shown:
            assert not any(secret in text for secret in secrets)

    def test_an_address_with_nothing_there(self, publish: Publish, tmp_path: Path) -> None:
        """It is an error of its own kind."""
        uri, options = _published(CASES[_ORDINARY], publish, tmp_path)
        with pytest.raises(SourceNotFoundError):
            Active(uri + "-absent", "x", **options)

    # What it gives for a chunk.

    @pytest.mark.parametrize("name", _TOGETHER)
    def test_partials_have_the_form_that_is_promised(self, backend: Backend, ordinary: Active, name: str) -> None:
        """It has the task's sequence and components; all arrays have the variable's dimensions, reduced ones of length 1."""
        for axis in (None, 0, 1):
            for task in _own_tasks(backend, ordinary, name, axis):
                partial = backend.reduce_chunk(task)
                lengths = zip(task.shape, task.origin, ordinary.shape, strict=True)
                shape = tuple(
                    1 if dim in task.template.axes else min(n, whole - at) for dim, (n, at, whole) in enumerate(lengths)
                )
                assert isinstance(partial, ChunkPartial)
                assert partial.sequence == task.sequence
                assert (partial.count.shape, partial.count.dtype) == (shape, np.dtype("i8"))
                assert set(partial.states) == {component.name for component in task.template.components}
                assert all(array.shape == shape for state in partial.states.values() for array in state)
                assert partial.moved >= 0

    def test_many_threads_share_it(self, backend: Backend, ordinary: Active) -> None:
        """What eight threads get at once is what one gets."""
        tasks = _own_tasks(backend, ordinary, "max", 0) * 8
        alone = [backend.reduce_chunk(task) for task in tasks[: len(tasks) // 8]] * 8
        with ThreadPoolExecutor(8) as pool:
            together = list(pool.map(backend.reduce_chunk, tasks))
        assert all(map(_same_partial, alone, together))

    def test_several_tasks_in_one_call_are_as_good_as_one_by_one(self, backend: Backend, ordinary: Active) -> None:
        """A batch has one answer a task, in their order."""
        if not isinstance(backend, BatchBackend):
            pytest.skip("it takes one task at a time")
        tasks = _own_tasks(backend, ordinary, "max", 0)
        together = backend.reduce_chunks(tasks)
        assert len(together) == len(tasks)
        for task, partial in zip(tasks, together, strict=True):
            assert not isinstance(partial, BackendError), partial
            assert _same_partial(partial, backend.reduce_chunk(task))

    # Numbers.

    @pytest.mark.parametrize("name", CASES)
    def test_numbers_are_those_of_numpy(self, opened: _Opened, name: str) -> None:
        """Counts, extremes and positions exactly, sums within `sum_tolerance`, for every kind of file."""
        active, case = opened(CASES[name]), CASES[name]
        passes, first = _passes(active), list(CASES).index(name)
        for i, request in enumerate(requests(case.values, first)):
            for names in _turn(passes, first + i) if i else passes:
                self.check(active, case, request, names)

    @pytest.mark.parametrize("name", _THOROUGH)
    def test_every_selection_along_every_axis(self, opened: _Opened, name: str) -> None:
        """Every kind of selection, reduced along every axis and every pair of them."""
        active, case = opened(CASES[name]), CASES[name]
        passes = _passes(active)
        for i, request in enumerate(all_requests(case.values)):
            for names in _turn(passes, i):
                self.check(active, case, request, names)

    @pytest.mark.parametrize("reduction", REDUCTIONS)
    @pytest.mark.parametrize("name", _ALONE)
    def test_each_reduction_alone(self, opened: _Opened, name: str, reduction: str) -> None:
        """What is computed in one pass with others is what is computed alone."""
        active, case = opened(CASES[name]), CASES[name]
        for axis in (None, 0, -1):
            self.check(active, case, Request((slice(1, None),), axis), (reduction,))

    @pytest.mark.parametrize("where", CONDITIONS)
    @pytest.mark.parametrize("name", _ALONE)
    def test_only_values_that_satisfy_a_condition_count(self, opened: _Opened, name: str, where: str) -> None:
        """The others are as if they were missing."""
        active, case = opened(CASES[name]), CASES[name]
        wanted = satisfying(case.values, where)
        for axis in (None, 0):
            for names in _passes(active):
                result = active.run(names, axis, where=where)
                for one, found in result.values.items():
                    request = Request((), axis)
                    compare(one, found, wanted, request, tolerance=self.sum_tolerance(case.stored.dtype))
                compare("count", result.count, wanted, Request((), axis), tolerance=0)

    @pytest.mark.parametrize("kind", GROUPS)
    @pytest.mark.parametrize("name", _THOROUGH)
    def test_groups_are_reduced_apart(self, opened: _Opened, name: str, kind: str) -> None:
        """Each group along a dimension gives what its positions give by themselves."""
        active, case = opened(CASES[name]), CASES[name]
        for axis in range(active.ndim):
            labels = GROUPS[kind](active.shape[axis])
            for axes in {(axis,), tuple(range(active.ndim))}:
                for names in _passes(active):
                    self.check_groups(active, case, axes, {axis: labels}, tuple(one for one in names if one[:3] != "arg"))

    def check_groups(
        self, active: Active, case: Case, axes: tuple[int, ...], by: dict[int, list[int]], names: tuple[str, ...]
    ) -> None:
        """Compare reductions of groups along one dimension with those of each group by itself."""
        if not names:
            return
        result = active.run(names, axes, keepdims=True, by=by)
        ((axis, labels),) = by.items()
        for group in range(max(labels) + 1):
            own = (*[slice(None)] * axis, [at for at, label in enumerate(labels) if label == group])
            wanted, place = cut(case.values, (*own, Ellipsis)), (*[slice(None)] * axis, slice(group, group + 1))
            for name, found in {**result.values, "count": result.count}.items():
                tolerance = 0 if name == "count" else self.sum_tolerance(case.stored.dtype)
                compare(name, found[place], wanted, Request((), axes, keepdims=True), tolerance=tolerance)

    def check(self, active: Active, case: Case, request: Request, names: tuple[str, ...]) -> None:
        """Compare reductions of a part of a case with NumPy's, and see that the report adds up."""
        result = active[request.key].run(names, request.axis, keepdims=request.keepdims, skipna=request.skipna)
        tolerance, wanted = self.sum_tolerance(case.stored.dtype), cut(case.values, request.key)
        for name, found in result.values.items():
            compare(name, found, wanted, request, tolerance=tolerance)
        compare("count", result.count, wanted, request, tolerance=0)
        report = result.report
        assert sum(report.where.values()) == report.chunks == len(result.plan), report
        assert report.where.get("local fallback", 0) == sum(report.reasons.values()), report

    def test_a_sum_that_does_not_fit_is_an_error(self, opened: _Opened) -> None:
        """A sum of integers beyond 64 bits is never a number."""
        active = opened(overflowing_case())
        assert active.count() == active.size
        with pytest.raises(SumOverflowError):
            active.sum()

    # How it is run.

    @pytest.mark.parametrize("name", _THOROUGH)
    def test_the_number_of_workers_makes_no_difference(self, opened: _Opened, name: str) -> None:
        """Results are the same to the last bit, for one worker and for eight."""
        active = opened(CASES[name])
        for names in _passes(active):
            one, eight = (active.with_options(workers=workers).run(names, 0) for workers in (1, 8))
            assert _bits(one) == _bits(eight)

    def test_many_threads_share_one_active(self, opened: _Opened) -> None:
        """Runs at the same time do not disturb each other."""
        active = opened(CASES["a fill value"])
        alone = _bits(active.run(_TOGETHER, 0))
        with ThreadPoolExecutor(8) as pool:
            together = [pool.submit(active.run, _TOGETHER, 0) for _ in range(16)]
            assert all(_bits(one.result()) == alone for one in together)

    def test_other_processes_give_the_same(self, opened: _Opened) -> None:
        """Chunks may be sent out from other processes."""
        active = opened(CASES["a fill value"])
        here = active.run(_TOGETHER, 0)
        with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
            there = active.with_options(executor=pool).run(_TOGETHER, 0)
        assert _bits(there) == _bits(here)
        assert there.report.where == here.report.where

    @pytest.mark.parametrize("name", CASES)
    def test_explain_agrees_with_the_report(self, opened: _Opened, name: str) -> None:
        """What is said before a run is what happens, but for chunks that the backend gives back when it sees their numbers."""
        active = opened(CASES[name])
        for names in _passes(active)[::3]:
            foreseen, report = active.explain(names), active.run(names).report
            assert foreseen.chunks == report.chunks, f"{foreseen}\n{report}"
            assert foreseen.where.get("fill value", 0) == report.where.get("fill value", 0), f"{foreseen}\n{report}"
            assert foreseen.stored_bytes == report.bytes_read, f"{foreseen}\n{report}"
            given_back = sum(report.reasons.values()) - sum(foreseen.reasons.values())
            assert all(report.reasons.get(reason, 0) >= chunks for reason, chunks in foreseen.reasons.items()), report
            if not given_back:
                assert dict(foreseen.where) == dict(report.where), f"{foreseen}\n{report}"

    @pytest.mark.parametrize("name", CASES)
    def test_what_it_cannot_do_is_refused_before_any_call(
        self, opened: _Opened, backend: Backend, monkeypatch: pytest.MonkeyPatch, name: str
    ) -> None:
        """With `fallback="error"` a chunk beyond its capabilities stops a run that has not begun."""
        active, calls = opened(CASES[name]).with_options(fallback="error"), _Calls(backend, monkeypatch)
        for names in _passes(active):
            if active.explain(names).reasons:
                calls.count = 0
                with pytest.raises(BackendRefusedError):
                    active.run(names)
                assert calls.count == 0

    # Damage.

    @pytest.mark.parametrize("damage", damages(), ids=lambda damage: damage.name)
    def test_a_damaged_chunk_is_an_error(self, opened: _Opened, damage: Damage) -> None:
        """It is never a number, and never given as missing."""
        active = opened(damage)
        for name in _TOGETHER:
            with pytest.raises(CorruptChunkError, match="x"):
                active.run(name)
        assert active[3:].run("max").value == cut(damage.case.values, (slice(3, None),)).max(), "other chunks are good"

    @pytest.mark.parametrize("name", ["no codecs", "deflate", "contiguous"])
    def test_a_file_that_is_cut_off_is_an_error(self, publish: Publish, tmp_path: Path, name: str) -> None:
        """Bytes that are not there are never taken for zeros."""
        case, path = CASES[name], tmp_path / f"cut off {name}.nc"
        case.write(path)
        path.write_bytes(path.read_bytes()[:-40])
        uri, options = publish(path)
        with pytest.raises(ActivestoreError):
            Active(uri, case.variable, **options).run(_TOGETHER)


def _published(what: Case | Damage, publish: Publish, folder: Path) -> tuple[str, dict[str, Any]]:
    """Write a case, once a test, and return what `publish` gives for it."""
    wanting = what.wanting if isinstance(what, Case) else what.case.wanting
    if wanting is not None:
        pytest.skip(wanting)
    path = folder / f"{'-'.join(what.name.replace(',', '').split())}.nc"
    if not path.exists():
        what.write(path)
    uri, options = publish(path)
    if "backend" not in options:
        pytest.fail("the options that `publish` returns have to name the backend", pytrace=False)
    return uri, options


@contextmanager
def _backend_of(uri: str, options: Mapping[str, Any]) -> Iterator[Backend]:
    """Open the backend that the options name; one that is among them stays open."""
    given = options["backend"]
    if not isinstance(given, str):
        yield given
        return
    source = open_source(uri, options.get("storage_options"))
    chosen = BackendOptions(options.get("server"), options.get("backend_options") or {}, options.get("workers"))
    backend = default_plugins().open(given, source, chosen)
    yield backend
    backend.close()


def _passes(active: Active) -> list[tuple[str, ...]]:
    """Return all reductions, in as few passes as hide nothing: what needs a component that is refused goes by itself."""
    if not active.explain(tuple(REDUCTIONS)).reasons:
        return [tuple(REDUCTIONS)]
    found: dict[frozenset[str], list[str]] = {}
    for name, reduction in REDUCTIONS.items():
        refused = bool(active.explain(name).reasons)
        needs = frozenset(component.name for component in reduction.components)
        found.setdefault(frozenset({"refused"}) if refused else needs, []).append(name)
    return [tuple(names) for names in found.values()]


def _turn(passes: list[tuple[str, ...]], number: int) -> list[tuple[str, ...]]:
    """Return two of the passes, others for each number; shifted, so that requests which come in cycles meet all of them."""
    shifted, count = number + number // len(passes), len(passes)
    return list(dict.fromkeys((passes[shifted % count], passes[(shifted + count // 2) % count])))


def _own_tasks(backend: Backend, active: Active, name: str, axis: int | None) -> list[ChunkTask]:
    """Return the tasks that the backend says it can do."""
    refuses = refusal_of(backend)
    tasks = [task for task in active.plan(name, axis).tasks() if refuses(task) is None]
    if not tasks:
        pytest.skip(f"it leaves {name!r} of {active.dtype} to others")
    return tasks


def _first_partial(backend: Backend, active: Active) -> ChunkPartial:
    for name in REDUCTIONS:
        task = next(active.plan(name).tasks())
        if refusal_of(backend)(task) is None:
            return backend.reduce_chunk(task)
    pytest.fail("it can do nothing with an ordinary chunk", pytrace=False)


def _same_partial(one: ChunkPartial, other: ChunkPartial) -> bool:
    states = (np.array_equal(a, b) for name in one.states for a, b in zip(one.states[name], other.states[name], strict=True))
    return one.sequence == other.sequence and np.array_equal(one.count, other.count) and all(states)


def _bits(result: Result) -> list[tuple[bytes, bytes]]:
    return [(np.ma.getdata(value).tobytes(), np.ma.getmaskarray(value).tobytes()) for value in result.values.values()]


def _secrets(options: Mapping[str, Any]) -> Iterator[str]:
    """Yield what the options hold that nobody may see."""
    public = without_secrets(options)
    for name, value in options.items():
        if isinstance(value, Mapping):
            yield from _secrets(value)
        elif isinstance(value, str) and public.get(name) != value:
            yield value


class _Calls:
    """Counts the calls of a backend's class."""

    def __init__(self, backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        for name in ("reduce_chunk", "reduce_chunks"):
            own = getattr(type(backend), name, None)
            if own is not None:
                monkeypatch.setattr(type(backend), name, self._counting(own))

    def _counting(self, own: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any) -> Any:
            self.count += 1
            return own(*args)

        return counted
