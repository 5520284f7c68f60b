"""Running plans: order, bounds, cancelling, fallback."""

import io
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor

import h5py
import numpy as np
import pytest

from activestore import Active, Capabilities
from activestore.backends.posix import PosixBackend
from activestore.core import dispatch
from activestore.core.threads import Budget, concurrently
from activestore.errors import BackendError, BackendRefusedError, CorruptChunkError, FallbackWarning
from activestore.sources.open import LocalSource, open_source

DATA = np.random.default_rng(1).normal(size=(40, 30, 20)).astype("f4")


@pytest.fixture
def path(tmp_path):
    with h5py.File(tmp_path / "x.nc", "w") as file:
        file.create_dataset("x", data=DATA, chunks=(4, 7, 9), compression="gzip", shuffle=True)
    return str(tmp_path / "x.nc")


class Wrapped:
    """A backend that does what the local one does, and what a test adds to it."""

    name = "wrapped"
    capabilities = Capabilities()

    def __init__(self, path, before=lambda _task: None):
        self._posix = PosixBackend(open_source(path))
        self._before = before
        self.closed = 0

    def reduce_chunk(self, task):
        self._before(task)
        return self._posix.reduce_chunk(task)

    def close(self):
        self.closed += 1


class Recording(Executor):
    """Runs everything at once in the calling thread, and keeps count."""

    def __init__(self):
        self.submitted = 0

    def submit(self, function, /, *args, **kwargs):
        self.submitted += 1
        future = Future()
        future.set_result(function(*args, **kwargs))
        return future


@pytest.mark.parametrize("axis", [None, 0, (1, 2), (0, 2)])
def test_same_bits_whatever_the_order_of_completion(path, axis):
    jitter = np.random.default_rng(0)
    shaky = Wrapped(path, before=lambda _task: time.sleep(float(jitter.random()) * 0.002))
    names = ("sum", "mean", "std", "argmax")
    alone = Active(path, "x", workers=1).reduce(names, axis)
    for workers in (2, 7):
        many = Active(path, "x", workers=workers, backend=shaky).reduce(names, axis)
        for name in names:
            assert np.asarray(alone[name]).tobytes() == np.asarray(many[name]).tobytes()


def spawned(workers):
    return ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"))


@pytest.mark.parametrize("pool", [ThreadPoolExecutor, spawned])
def test_any_executor(path, pool):
    expected = Active(path, "x").run(("mean", "var", "max"), axis=0)
    with pool(2) as executor:
        found = Active(path, "x", executor=executor).run(("mean", "var", "max"), axis=0)
        assert executor.submit(int).result() == 0, "it is left open"
    for name, value in expected.values.items():
        np.testing.assert_array_equal(found.values[name], value)


def test_an_executor_of_ones_own(path):
    executor = Recording()
    assert Active(path, "x", executor=executor).count() == DATA.size
    assert executor.submitted >= 1


def test_window_of_outstanding_work_is_bounded(path, monkeypatch):
    monkeypatch.setattr(dispatch, "_BATCH_TASKS", 1)
    monkeypatch.setattr(dispatch, "_LEAST_SENT", 0)
    outstanding, most = set(), 0

    class Slow(ThreadPoolExecutor):
        def submit(self, function, /, *args, **kwargs):
            nonlocal most
            future = super().submit(function, *args, **kwargs)
            outstanding.add(future)
            most = max(most, len(outstanding))
            return future

    class Counting(dispatch.Aggregator):
        def add(self, task, partial):
            outstanding.pop()
            super().add(task, partial)

    monkeypatch.setattr("activestore.active.Aggregator", Counting)
    with Slow(2) as pool:
        assert Active(path, "x", executor=pool, workers=2).count() == DATA.size
    assert 0 < most <= 2 * 3


def test_no_thread_is_left_behind(path):
    before = threading.active_count()
    Active(path, "x", workers=4).mean()
    assert threading.active_count() == before


def test_an_error_stops_the_run_and_its_threads(path):
    started = []

    def fail(task):
        started.append(task.sequence)
        if task.sequence == 3:
            raise CorruptChunkError("chunk three is damaged")
        time.sleep(0.001)

    before = threading.active_count()
    with pytest.raises(CorruptChunkError, match="chunk three"):
        Active(path, "x", backend=Wrapped(path, fail), workers=2).mean()
    assert threading.active_count() == before


def test_many_threads_share_one_active(path):
    active = Active(path, "x", workers=2)
    expected = DATA.mean(axis=0, dtype="f8")
    with ThreadPoolExecutor(8) as pool:
        for future in [pool.submit(active.mean, 0) for _ in range(24)]:
            np.testing.assert_allclose(future.result(), expected, rtol=1e-12)


def test_what_the_backend_cannot_do_is_done_locally_and_reported(path):
    class OnlySums(Wrapped):
        capabilities = Capabilities(components=frozenset({"sum"}))

    with pytest.warns(FallbackWarning, match="not by wrapped: the component 'max'"):
        result = Active(path, "x", backend=OnlySums(path)).run(("mean", "max"))
    assert result.values["max"] == DATA.max()
    assert result.report.where == {"local fallback": result.report.chunks}
    assert result.report.reasons == {"the component 'max'": result.report.chunks}
    assert "not by wrapped: the component 'max'" in str(result.report)


def test_fallback_error_refuses_before_any_read(path):
    class OnlySums(Wrapped):
        capabilities = Capabilities(components=frozenset({"sum"}))

    touched = []
    with pytest.raises(BackendRefusedError, match="component 'max'"):
        Active(path, "x", backend=OnlySums(path, touched.append), fallback="error").max()
    assert touched == []


def test_a_failing_backend_is_replaced_chunk_by_chunk(path):
    def fail(task):
        if task.sequence % 2:
            raise BackendError("the store said no")

    with pytest.warns(FallbackWarning, match="the store said no"):
        result = Active(path, "x", backend=Wrapped(path, fail)).run("sum")
    np.testing.assert_allclose(result.value, DATA.sum(dtype="f8"), rtol=1e-12)
    assert result.report.where["local fallback"] == result.report.chunks // 2
    assert result.report.reasons == {"the store said no": result.report.chunks // 2}


@pytest.mark.parametrize("refuses", [True, False])
def test_what_is_left_of_a_batch_is_read_together(path, monkeypatch, refuses):
    """From a source over a network: otherwise each chunk would cost a round trip."""

    class Batches(Wrapped):
        capabilities = Capabilities(batch=64, workers=2, components=frozenset() if refuses else None)

        def reduce_chunks(self, tasks):
            return [BackendError("no", reason="no") if task.sequence % 4 else self.reduce_chunk(task) for task in tasks]

    together, reduce_chunks = [], PosixBackend.reduce_chunks

    def counted(self, tasks):
        together.append(len(tasks))
        return reduce_chunks(self, tasks)

    backend = Batches(path)
    monkeypatch.setattr("activestore.backends.posix._ON_DISK", Capabilities(workers=2, batch=64))
    active = Active(path, "x", backend=backend)
    # What the wrapped backend does itself is not counted.
    backend._posix.reduce_chunks = lambda tasks: reduce_chunks(backend._posix, tasks)
    monkeypatch.setattr(PosixBackend, "reduce_chunks", counted)
    with pytest.warns(FallbackWarning):
        result = active.run(("sum", "argmax"))
    np.testing.assert_allclose(result.values["sum"], DATA.sum(dtype="f8"), rtol=1e-12)
    assert result.values["argmax"] == DATA.argmax()
    left = result.report.where["local fallback"]
    assert sum(together) == left == result.report.chunks - (0 if refuses else -(-result.report.chunks // 4))
    assert len(together) <= -(-result.report.chunks // 64)


def test_a_failing_backend_is_an_error_if_there_is_no_fallback(path):
    def fail(task):
        raise BackendError("the store said no")

    with pytest.raises(BackendError, match="the store said no"):
        Active(path, "x", backend=Wrapped(path, fail), fallback="error").sum()


def test_a_backend_that_was_given_is_left_open(path):
    backend = Wrapped(path)
    Active(path, "x", backend=backend).sum()
    assert backend.closed == 0


class Interrupted:
    """Work of two threads, of which the pool did not take note of the second: Ctrl-C came while it was started."""

    def __init__(self, monkeypatch):
        self.begun, self.ended, self._is_at_work = [], [], threading.Event()
        started, start = [], threading.Thread.start

        def interrupted(thread):
            start(thread)
            started.append(thread)
            if len(started) == 2:
                assert self._is_at_work.wait(10)
                raise KeyboardInterrupt

        monkeypatch.setattr(threading.Thread, "start", interrupted)

    def work(self, _item):
        self.begun.append(threading.current_thread())
        if len({*self.begun}) == 1:
            assert self._is_at_work.wait(10)
        else:
            self._is_at_work.set()
            time.sleep(0.5)
        self.ended.append(threading.current_thread())

    def check(self):
        assert len(self.begun) == len(self.ended) == len({*self.begun}) == 2
        assert not any(thread.is_alive() for thread in self.begun)


def test_no_chunk_is_under_way_when_ctrl_c_came_while_a_thread_was_started(path, monkeypatch):
    interrupted = Interrupted(monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        Active(path, "x", backend=Wrapped(path, interrupted.work), workers=4).mean()
    interrupted.check()


def test_concurrently_leaves_no_thread_that_ctrl_c_met_while_it_was_started(monkeypatch):
    interrupted = Interrupted(monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        concurrently(interrupted.work, range(4), 4)
    interrupted.check()


@pytest.mark.skipif(not hasattr(signal, "SIGINT") or os.name == "nt", reason="needs POSIX signals")
def test_ctrl_c_stops_at_once_and_leaves_no_thread(path):
    program = f"""
import threading, time, sys
from tests_backend import SleepingBackend
from activestore import Active
print("ready", flush=True)
started = time.perf_counter()
try:
    Active({path!r}, "x", backend=SleepingBackend({path!r}), workers=4).mean()
except KeyboardInterrupt:
    under_way = SleepingBackend.under_way
    # A thread that was being started may have yet to find out that there is nothing to do.
    while threading.active_count() > 1 and time.perf_counter() < started + 4:
        time.sleep(0.01)
    print("stopped", under_way, threading.active_count(), flush=True)
"""
    folder = os.path.dirname(path)
    with open(os.path.join(folder, "tests_backend.py"), "w", encoding="utf-8") as file:
        file.write(
            "import time\n"
            "from activestore import Capabilities\n"
            "from activestore.backends.posix import PosixBackend\n"
            "from activestore.sources.open import open_source\n"
            "class SleepingBackend:\n"
            "    name = 'sleeping'\n"
            "    capabilities = Capabilities()\n"
            "    under_way = 0\n"
            "    def __init__(self, path): self.posix = PosixBackend(open_source(path))\n"
            "    def reduce_chunk(self, task):\n"
            "        SleepingBackend.under_way += 1\n"
            "        time.sleep(0.2)\n"
            "        SleepingBackend.under_way -= 1\n"
            "        return self.posix.reduce_chunk(task)\n"
            "    def close(self): pass\n"
        )
    environment = {**os.environ, "PYTHONPATH": folder}
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout.readline() == "ready\n"
        time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=5)
    assert out == "stopped 0 1\n"


# What sources and backends share


def test_concurrently_keeps_the_order_and_the_bound():
    under_way, most, lock = 0, 0, threading.Lock()

    def work(item):
        nonlocal under_way, most
        with lock:
            under_way += 1
            most = max(most, under_way)
        time.sleep(0.002 * (item % 3))
        with lock:
            under_way -= 1
        return -item

    assert concurrently(work, range(40), 5) == [-item for item in range(40)]
    assert 1 < most <= 5
    assert concurrently(work, [], 5) == []


def test_concurrently_needs_no_thread_for_one():
    assert concurrently(lambda _: threading.current_thread(), [1], 5) == [threading.current_thread()]


@pytest.mark.parametrize("failing", [0, 7, 19])
def test_concurrently_abandons_the_others_when_one_fails(failing):
    ended, abandoned, begun = threading.Event(), [], []

    def work(item):
        begun.append(item)
        if item == failing:
            raise CorruptChunkError(f"item {item}")
        # The others wait until they are abandoned, as requests to a server that stalls do.
        if item > failing and not ended.wait(10):
            raise AssertionError("was not abandoned")

    def abandon():
        abandoned.append(True)
        ended.set()

    before = threading.active_count()
    started = time.perf_counter()
    with pytest.raises(CorruptChunkError, match=f"item {failing}"):
        concurrently(work, range(40), 4, abandon=abandon)
    assert time.perf_counter() - started < 5
    assert abandoned == [True]
    assert len(begun) <= failing + 1 + 2 * 4
    assert threading.active_count() == before


def test_concurrently_does_not_wait_for_the_first_when_another_fails():
    ended = threading.Event()

    def work(item):
        if item == 1:
            raise CorruptChunkError("item 1")
        if not ended.wait(3):
            raise AssertionError("was not abandoned")

    started = time.perf_counter()
    with pytest.raises(CorruptChunkError, match="item 1"):
        concurrently(work, range(4), 4, abandon=ended.set)
    assert time.perf_counter() - started < 2


def test_a_budget_is_not_exceeded_and_all_get_their_turn():
    budget, lock = Budget(100), threading.Lock()
    held = most = done = 0

    def work(nbytes):
        nonlocal held, most, done
        with budget.of(nbytes):
            with lock:
                held += min(nbytes, 100)
                most = max(most, held)
            time.sleep(0.001)
            with lock:
                held -= min(nbytes, 100)
                done += 1

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(work, [7, 60, 100, 1, 250, 33, 0, 12] * 20))
    assert (held, done) == (0, 160)
    assert 60 < most <= 100


def test_a_budget_is_given_back_after_an_error():
    budget = Budget(10)
    for _ in range(3):
        with pytest.raises(KeyError), budget.of(10):
            raise KeyError
    with budget.of(4), budget.of(6):
        pass


def test_what_needs_more_than_there_is_waits_to_be_alone():
    budget, order = Budget(10), []
    first = threading.Event()

    def large():
        first.wait(5)
        with budget.of(1000):
            order.append("large")

    thread = threading.Thread(target=large)
    thread.start()
    with budget.of(1):
        first.set()
        time.sleep(0.05)
        order.append("small")
    thread.join(5)
    assert order == ["small", "large"]


def test_chunks_at_work_stay_within_the_budget(path, monkeypatch):
    """A source that counts the bytes that were asked of it and not yet reduced."""
    from activestore.backends import posix

    monkeypatch.setattr(posix, "_MEMORY", 20_000)
    held = most = 0
    lock = threading.Lock()
    reduced = posix.reduce_stored

    class Remote(LocalSource):
        is_remote = True

        def for_hdf5(self):
            return io.BytesIO(super().read_ranges([(0, self.size)])[0])

        def read_ranges(self, ranges):
            nonlocal held, most
            found = super().read_ranges(ranges)
            if threading.current_thread() is not threading.main_thread():
                with lock:
                    held += sum(map(len, found))
                    most = max(most, held)
                time.sleep(0.001)
            return found

    def reduce(raw, task):
        nonlocal held
        partial = reduced(raw, task)
        with lock:
            held -= sum(map(len, raw))
        return partial

    monkeypatch.setattr(posix, "reduce_stored", reduce)
    monkeypatch.setattr("activestore.inputs.open.open_source", lambda path, _: Remote(path))
    monkeypatch.setattr(posix, "_OVER_NETWORK", Capabilities(through_hdf5=True, workers=16, batch=4))
    result = Active(path, "x").run("sum")
    np.testing.assert_allclose(result.value, DATA.sum(dtype="f8"), rtol=1e-12)
    assert result.report.workers == 16
    assert held == 0
    assert 0 < most <= 20_000


def test_a_run_that_fails_abandons_what_waits(path):
    """With a backend that can be broken off, nothing is waited for."""
    ended, abandoned = threading.Event(), []

    class Waiting(Wrapped):
        def reduce_chunk(self, task):
            if task.sequence == 5:
                raise CorruptChunkError("chunk five is damaged")
            if task.sequence > 5 and not ended.wait(10):
                raise AssertionError("was not abandoned")
            return super().reduce_chunk(task)

        def abandon(self):
            abandoned.append(True)
            ended.set()

    started = time.perf_counter()
    with pytest.raises(CorruptChunkError, match="chunk five"):
        Active(path, "x", backend=Waiting(path), workers=3).mean()
    assert time.perf_counter() - started < 5
    assert abandoned == [True]
