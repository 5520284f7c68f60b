"""A Dask cluster computes what threads here would, to the last bit."""

import gc
import os
import pickle
import subprocess
import sys
import threading
import time
from concurrent.futures import Executor, Future
from pathlib import Path

import dask
import distributed
import h5py
import numpy as np
import pytest
import xarray as xr

from activestore import Active
from activestore.accessor.reducing.cluster import executor_here
from activestore.errors import SourceError
from tests.web_stand_in import Reply, WebStandIn

DATA = np.random.default_rng(1).normal(size=(96, 64, 128)).astype("f4")


@pytest.fixture(scope="module")
def cluster():
    options = {
        "n_workers": 2,
        "threads_per_worker": 1,
        "processes": True,
        "dashboard_address": "127.0.0.1:0",
        "host": "127.0.0.1",
    }
    with (
        dask.config.set({"distributed.worker.profile.enabled": False}),
        distributed.LocalCluster(silence_logs=50, **options) as local,
    ):
        yield local


@pytest.fixture
def client(cluster):
    with distributed.Client(cluster) as one:
        yield one


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("cluster") / "x.nc"
    with h5py.File(path, "w") as file:
        file.create_dataset("x", data=DATA, chunks=(4, 16, 32), compression="gzip", shuffle=True)
        file.create_dataset("tiny", data=DATA[:, :, :64], chunks=(4, 8, 16))
        file.create_dataset("contiguous", data=DATA)
        file.create_dataset("scalar", data=np.float32(3))
    return str(path)


class Recording(Executor):
    """Runs everything at once in the calling thread, after it was pickled there and back, and keeps what it was given."""

    def __init__(self):
        self.sent, self.pickled = [], []

    def submit(self, function, /, *args, **kwargs):
        self.sent.append(args)
        self.pickled.append(pickle.dumps((function, args, kwargs)))
        again, args, kwargs = pickle.loads(self.pickled[-1])
        future = Future()
        future.set_result(pickle.loads(pickle.dumps(again(*args, **kwargs))))
        return future


def bits(result):
    return {name: np.ma.getdata(value).tobytes() for name, value in result.values.items()}


@pytest.mark.parametrize("name", ["x", "tiny", "contiguous", "scalar"])
def test_the_same_bits_as_threads_here(client, path, name):
    whole = Active(path, name)
    part = whole[3:, ::-2, [5, 1, 60]] if whole.ndim else whole
    for active in (whole, part):
        for axis in (None, 0)[: 1 + bool(active.ndim)]:
            reductions = ("mean", "std", "max", "argmin")
            there = active.with_options(executor=client.get_executor(pure=False), workers=2).run(reductions, axis)
            here = active.run(reductions, axis)
            assert bits(there) == bits(here)
            assert there.count.tobytes() == here.count.tobytes()


def test_where_the_client_is(client, path):
    here = executor_here()
    assert here.workers == 2
    active = Active(path, "x").with_options(executor=here.executor, workers=here.workers)
    assert active.mean() == Active(path, "x").mean()
    # Twice the same is computed twice, and its result not looked for among the old ones.
    assert active.mean() == active.mean()
    assert executor_here().executor is not None


def test_errors_come_back(client, path, tmp_path):
    with h5py.File(path) as file:
        offset = file["x"].id.get_chunk_info(100).byte_offset
    damaged = tmp_path / "damaged.nc"
    content = bytearray(Path(path).read_bytes())
    content[offset : offset + 40] = b"\xff" * 40
    damaged.write_bytes(content)
    from activestore.errors import CorruptChunkError

    with pytest.raises(CorruptChunkError, match=r"damaged\.nc: variable 'x', chunk"):
        Active(damaged, "x", executor=client.get_executor(pure=False)).mean()


def test_no_client():
    assert executor_here() is None


def test_another_scheduler_is_wanted(client):
    for scheduler in ("threads", "synchronous", "processes"):
        with dask.config.set(scheduler=scheduler):
            assert executor_here() is None
    assert executor_here() is not None


def test_inside_of_a_worker(client):
    def found():
        from activestore.accessor.reducing.cluster import executor_here

        # A client that is active there would be found otherwise.
        client = distributed.get_client()
        with client.as_current():
            return executor_here() is None, distributed.default_client() is client

    assert client.submit(found, pure=False).result() == (True, True)


def test_a_closed_client(cluster):
    with distributed.Client(cluster):
        assert executor_here() is not None
    assert executor_here() is None


def test_from_another_thread(client):
    found = []
    thread = threading.Thread(target=lambda: found.append(executor_here()))
    thread.start()
    thread.join()
    assert found[0].workers == 2


def test_distributed_is_not_imported():
    program = (
        "import sys\n"
        "from activestore.accessor.reducing.cluster import executor_here\n"
        "print(executor_here(), 'distributed' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "None False\n"


# Workers and scheduler have logins of their own, or none


@pytest.fixture
def guarded(client, path, monkeypatch):
    """An address in a store that lets in one key only, which this process, and so the scheduler, has not in its environment."""
    monkeypatch.setenv("ACTIVESTORE_CACHE", "off")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name, raising=False)
    client.run(set_environment, NO_LOGIN)
    with WebStandIn() as web:
        web.files["/b/x.nc"] = Path(path).read_bytes()
        web.rule = lambda request: None if "Credential=GOOD/" in request.headers.get("Authorization", "") else Reply(403)
        yield {"endpoint_url": web.url, "key": "GOOD", "secret": "hunter2"}


def first_values(ds):
    return ds.x[:8].values


def wait_until_forgotten(client):
    """Until then the cluster keeps what has failed, as its future may still be asked."""
    end = time.monotonic() + 2
    while client.run_on_scheduler(has_failed) and time.monotonic() < end:
        gc.collect()
        time.sleep(0.05)


def has_failed(dask_scheduler):
    return any(task.state == "erred" for task in dask_scheduler.tasks.values())


def set_environment(values):
    os.environ.update(values)


NO_LOGIN = {"AWS_ACCESS_KEY_ID": "NOBODY", "AWS_SECRET_ACCESS_KEY": "nothing", "ACTIVESTORE_CACHE": "off"}
COMPUTED = {
    "active": lambda ds: ds.x.active.mean(),
    "several": lambda ds: ds[["x", "tiny"]].active.max().x,
    "Dask": lambda ds: ds.x.mean().compute(),
    "load": lambda ds: ds.x[:8].load(),
    "persist": lambda ds: ds.x[:8].persist().compute(),
    "chunk": lambda ds: ds.x.chunk({"phony_dim_0": 48}).mean().compute(),
    "a task of one's own": lambda ds: distributed.default_client().submit(first_values, ds, pure=False).result(60),
}


@pytest.mark.parametrize("way", COMPUTED)
def test_only_workers_need_a_login(client, guarded, way):
    chunks = None if way.startswith("a task") else {}
    ds = xr.open_dataset("s3://b/x.nc", engine="activestore", storage_options=guarded, chunks=chunks)
    with dask.config.set(scheduler="synchronous"):
        expected = np.asarray(ds.x[:8] if way.startswith("a task") else COMPUTED[way](ds))
    with pytest.raises(SourceError, match=r"access is denied .*opened again by process \d+ on .*secrets are not sent"):
        COMPUTED[way](ds)
    wait_until_forgotten(client)
    client.run(set_environment, {"AWS_ACCESS_KEY_ID": "GOOD"})
    np.testing.assert_array_equal(np.asarray(COMPUTED[way](ds)), expected)


# What goes to an executor


@pytest.mark.parametrize("name", ["x", "tiny", "contiguous"])
def test_batches_are_worth_the_way(path, name):
    """At least 1 MiB of decoded chunks each but for the last, and no more than a few."""
    executor = Recording()
    result = Active(path, name, executor=executor).run("mean")
    assert bits(result) == bits(Active(path, name).run("mean"))
    sizes = [sum(task.nbytes for task in tasks) for (tasks,) in executor.sent]
    assert len(sizes) > 1 or name != "x"
    assert all(1 << 20 <= size <= 12 << 20 for size in sizes[:-1])
    assert sum(task.chunks for (tasks,) in executor.sent for task in tasks) == result.report.chunks


def test_threads_here_get_small_batches_still(path, monkeypatch):
    from activestore.core import dispatch

    sizes, call = [], dispatch._Runner.__call__

    def counted(self, tasks):
        sizes.append(len(tasks))
        return call(self, tasks)

    monkeypatch.setattr(dispatch._Runner, "__call__", counted)
    Active(path, "tiny", workers=2).mean()
    assert max(sizes) <= 64


def test_what_is_sent_grows_with_the_batch_and_not_with_the_file(tmp_path):
    sent = []
    for length in (64, 1024):
        with h5py.File(tmp_path / f"{length}.nc", "w") as file:
            file.create_dataset("x", shape=(length, 288, 288), dtype="f4", chunks=(1, 288, 288), fillvalue=1)
            file["x"][:64] = 1
        executor = Recording()
        Active(tmp_path / f"{length}.nc", "x", executor=executor)[:64].sum()
        sent.append([len(one) for one in executor.pickled])
    assert len(sent[0]) == len(sent[1])
    assert all(abs(few - many) < 64 for few, many in zip(*sent, strict=True))
    assert max(sent[0]) < 16_000


def test_calls_hold_no_more_than_the_backend_takes(path):
    """However many chunks go to a worker together."""
    from activestore import Capabilities
    from activestore.backends.posix import PosixBackend
    from activestore.errors import BackendError
    from activestore.sources.open import open_source

    class Batches:
        name = "batches"
        capabilities = Capabilities(batch=5, workers=2)

        def __init__(self, path):
            self.calls = []
            self._posix = PosixBackend(open_source(path))

        def reduce_chunk(self, task):
            raise AssertionError(f"{task} is not in a batch")

        def reduce_chunks(self, tasks):
            self.calls.append(len(tasks))
            if len(self.calls) == 3:
                raise BackendError("the third failed", reason="the third failed")
            if len(self.calls) == 5:
                tasks = tasks[:-1]
            return self._posix.reduce_chunks(tasks)

        def close(self):
            pass

    class Direct(Recording):
        def submit(self, function, /, *args):
            self.sent.append(args)
            future = Future()
            future.set_result(function(*args))
            return future

    executor, backend = Direct(), Batches(path)
    with pytest.warns(UserWarning, match="the third failed; batches gave 4 answers to 5 chunks"):
        result = Active(path, "x", backend=backend, executor=executor).run("mean")
    assert bits(result) == bits(Active(path, "x").run("mean"))
    assert max(len(tasks) for (tasks,) in executor.sent) > 5 >= max(backend.calls)
    assert result.report.where == {"batches": result.report.chunks - 10, "local fallback": 10}


def test_no_secret_is_sent(path):
    """Neither the source's nor the backend's."""
    from activestore.sources.open import open_source

    memory = pytest.importorskip("fsspec").filesystem("memory")
    memory.pipe("/secrets/x.nc", Path(path).read_bytes())
    options = {
        "token": "hunter-token",
        "password": "hunter-password",
        "client_kwargs": {"headers": {"Authorization": "hunter-head"}},
    }
    source = open_source("memory://secrets/x.nc", options)
    executor = Recording()
    try:
        result = Active(source, "x", executor=executor, storage_options=None).run("mean")
    finally:
        memory.rm("/secrets", recursive=True)
    assert bits(result) == bits(Active(path, "x").run("mean"))
    assert executor.pickled
    assert not [one for one in executor.pickled if b"hunter" in one]
