"""Forked children: they use nothing that their parent has open, give the right numbers, and leave the parent alone.

Each child is forked while threads of the parent read from the same source.
"""

import contextlib
import gc
import json
import os
import pickle
import select
import signal
import ssl
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import h5py
import numpy as np
import pytest

from activestore import Active
from activestore.accessor.reducing import cluster
from activestore.backends.posix import PosixBackend
from activestore.core.backend import BackendOptions
from activestore.core.formats.hdf5 import gc_pause as collection
from activestore.core.threads import Budget
from activestore.network.http_client import Client, HttpOptions
from activestore.network.location import Origin
from activestore.process import forking
from activestore.reductionist.backend import ReductionistBackend
from activestore.sources.open import LocalSource, open_source
from activestore.sources.s3 import find_object
from tests.real.servers import certificates
from tests.reductionist.reductionist_v1 import v1
from tests.web_stand_in import Reply, WebStandIn

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork"),
    # Newer Pythons warn of forks where there are threads, which is what these tests are about.
    pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning"),
]
# Quarters, so that a server that sums in 32 bits gives the same means.
NUMBERS = np.round(np.random.default_rng(0).normal(1120, 40, (24, 20, 30))).astype("f4") / 4
MEANS = NUMBERS.mean(axis=(1, 2), dtype="f8")


def in_child(function: Callable[[], Any], *, seconds: float = 60) -> Any:
    """Return what a function gives in a forked child; a child that hangs is ended, and fails the test."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            found = pickle.dumps(function())
        except BaseException as error:  # noqa: BLE001  # to be seen by the parent
            found = pickle.dumps(f"{type(error).__name__}: {error}")
        os.write(writing, found)
        os._exit(0)
    os.close(writing)
    try:
        if not select.select([reading], [], [], seconds)[0]:
            os.kill(child, signal.SIGKILL)
            pytest.fail("the child hangs")
        return pickle.loads(os.read(reading, 1 << 16))
    finally:
        os.close(reading)
        os.waitpid(child, 0)


@contextlib.contextmanager
def reading(read: Callable[[], Any]) -> Iterator[None]:
    """Read from two threads for the length of a `with` block; an error there is one here."""
    stop, wrong = threading.Event(), []

    def read_on() -> None:
        while not stop.is_set():
            try:
                read()
            except BaseException as error:  # noqa: BLE001  # to be seen outside of the thread
                wrong.append(error)
                return

    threads = [threading.Thread(target=read_on) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert wrong == []


def check(active: Active, *, children: int = 2) -> None:
    """Fork during reads; compare the means of the children, and of the parent during that and afterwards."""

    def means() -> list[float]:
        return active.mean(axis=(1, 2)).tolist()

    def read() -> None:
        np.testing.assert_allclose(means(), MEANS, rtol=1e-12)

    with reading(read):
        for _ in range(children):
            time.sleep(0.02)
            found = in_child(means)
            assert isinstance(found, list), found
            np.testing.assert_allclose(found, MEANS, rtol=1e-12)
    read()


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.lower().endswith("_proxy") or name.startswith("AWS_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("fork") / "bucket" / "a.nc"
    path.parent.mkdir()
    with h5py.File(path, "w") as file:
        file.create_dataset("v", data=NUMBERS, chunks=(1, 20, 30), compression="gzip", shuffle=True)
        # Its pieces have no place in the file: they are read through the HDF5 library.
        layout = h5py.VirtualLayout(NUMBERS.shape, "f4")
        layout[:] = h5py.VirtualSource(file["v"])
        file.create_virtual_dataset("through_hdf5", layout)
    return path


@pytest.fixture
def web(path: Path) -> Iterator[WebStandIn]:
    with WebStandIn() as server:
        server.files["/a.nc"] = server.files["/bucket/a.nc"] = path.read_bytes()
        server.rule = lambda request: None if request.range is None else delayed(server, request)
        yield server


def delayed(server: WebStandIn, request: Any) -> Reply:
    """Answer after a moment, so that forks fall into requests."""
    usual = server.usual(request)
    return Reply(usual.status, usual.headers, usual.body, after=0.002)


@pytest.mark.parametrize("variable", ["v", "through_hdf5"])
def test_a_local_file(path, variable):
    check(Active(path, variable))


@pytest.mark.parametrize("variable", ["v", "through_hdf5"])
def test_http(web, variable):
    check(Active(f"{web.url}/a.nc", variable))


def test_http_without_an_index_cache(web, monkeypatch):
    monkeypatch.setenv("ACTIVESTORE_CACHE", "off")
    check(Active(f"{web.url}/a.nc", "v"))


def test_https(tmp_path, path):
    made = certificates(tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(made.cert_file, made.key_file)
    with WebStandIn(context=context) as server:
        server.files["/a.nc"] = path.read_bytes()
        check(Active(f"{server.url}/a.nc", "v", storage_options={"verify": str(made.ca_file)}))


def test_s3(web):
    options = {"key": "K", "secret": "S", "endpoint_url": web.url}
    check(Active("s3://bucket/a.nc", "v", storage_options=options))


def test_s3_credentials_that_are_renewed_behind_a_lock(web, monkeypatch, tmp_path):
    script = tmp_path / "login.py"
    script.write_text(
        "import json\n"
        "print(json.dumps({'Version': 1, 'AccessKeyId': 'K', 'SecretAccessKey': 'S', 'SessionToken': 'T',\n"
        "                  'Expiration': '2099-01-01T00:00:00Z'}))\n"
    )
    (tmp_path / "config").write_text(f"[default]\ncredential_process = {sys.executable} {script}\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    target = find_object("s3://bucket/a.nc", {"endpoint_url": web.url})
    # Another thread renews them while this one forks.
    with target._credentials._refresh_lock:
        found = in_child(lambda: sorted(target.headers("GET")))
    assert found == sorted(target.headers("GET"))
    assert "Authorization" in found


@pytest.mark.parametrize("kind", ["http", "s3", "memory", "zip", "simplecache"])
def test_fsspec(web, path, tmp_path, kind):
    content = path.read_bytes()
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a.nc", content)
    memory = fsspec.filesystem("memory")
    memory.pipe_file("/fork/a.nc", content)
    s3 = {"key": "K", "secret": "S", "endpoint_url": web.url, "config_kwargs": {"s3": {"addressing_style": "path"}}}
    uri, options = {
        # Options that only fsspec understands make it read.
        "http": (f"{web.url}/a.nc", {"block_size": 1 << 20}),
        "s3": ("s3://bucket/a.nc", s3),
        "memory": ("memory://fork/a.nc", {}),
        "zip": (f"zip://a.nc::file://{tmp_path}/a.zip", {}),
        "simplecache": (f"simplecache::{web.url}/a.nc", {"simplecache": {"cache_storage": str(tmp_path / "kept")}}),
    }[kind]
    active = Active(uri, "v", storage_options=options)
    assert type(active._source).__name__ == "FsspecSource"
    check(active)
    memory.rm("/fork", recursive=True)


@pytest.mark.parametrize("where", ["local", "http"])
def test_zarr(web, tmp_path, where):
    zarr = pytest.importorskip("zarr")
    root = tmp_path / "a.zarr"
    zarr.create_array(root / "v", data=NUMBERS, chunks=(1, 20, 30), zarr_format=2)
    for file in root.rglob("*"):
        if file.is_file():
            web.files[f"/{file.relative_to(tmp_path)}"] = file.read_bytes()
    check(Active(str(root / "v") if where == "local" else f"{web.url}/a.zarr/v", ""))


def test_references(web, tmp_path):
    variable = Active(f"{web.url}/a.nc", "v").variable
    places = zip(variable.table.offset.tolist(), variable.table.size.tolist(), strict=True)
    found = {f"v/{i}.0.0": [f"{web.url}/a.nc", *place] for i, place in enumerate(places)}
    array = {
        "zarr_format": 2,
        "shape": NUMBERS.shape,
        "chunks": (1, 20, 30),
        "dtype": "<f4",
        "order": "C",
        "fill_value": 0,
        "compressor": {"id": "zlib", "level": 4},
        "filters": [{"id": "shuffle", "elementsize": 4}],
    }
    refs = {".zgroup": '{"zarr_format": 2}', "v/.zarray": json.dumps(array), "v/.zattrs": "{}", **found}
    (tmp_path / "a.json").write_text(json.dumps({"version": 1, "refs": refs}))
    check(Active(tmp_path / "a.json", "v"))


class Placed(LocalSource):
    """A local file that a server can reach as well, or so it says."""

    def __init__(self, path: str, origin: Origin) -> None:
        super().__init__(path)
        self.origin = origin


def test_a_reductionist_that_was_opened_before_the_fork(path):
    with v1(path.parents[1]).running() as server:
        source = Placed(str(path), Origin("s3", f"{server.url}/bucket/a.nc", "K", "S"))
        backend = ReductionistBackend(source, BackendOptions(server=server.url))
        check(Active(source, "v", backend=backend))
        backend.close()


def test_a_local_backend_that_was_opened_before_the_fork(path):
    source = open_source(path)
    backend = PosixBackend(source)
    check(Active(source, "through_hdf5", backend=backend))
    backend.close()


def test_a_child_s_child(web):
    active = Active(f"{web.url}/a.nc", "v")
    assert active.mean() == pytest.approx(NUMBERS.mean(dtype="f8"))
    assert in_child(lambda: (float(active.mean()), in_child(lambda: float(active.mean())))) == (active.mean(),) * 2


# The mechanism


def test_what_is_held_at_the_fork_is_free_in_the_child():
    lock, budget = forking.Lock(), Budget(10)

    def take() -> str:
        with lock, budget.of(10):
            return "taken"

    with lock, budget.of(10):
        assert in_child(take, seconds=10) == "taken"
    assert take() == "taken"


def test_a_client_all_of_whose_places_are_taken(web):
    client = Client(HttpOptions(connections=2))
    with client._slots, client._slots, client._lock, client._live._lock:
        url = f"{web.url}/a.nc"
        assert in_child(lambda: client.request("HEAD", url, most=0).status, seconds=10) == 200


def test_a_child_ends_no_connection_of_its_parent(web):
    client, url = Client(HttpOptions(connections=2)), f"{web.url}/a.nc"
    assert client.request("HEAD", url, most=0).status == 200

    def end() -> None:
        client.abandon()
        client.request("HEAD", url, most=0)
        client.close()
        gc.collect()

    in_child(end)
    assert client.request("HEAD", url, most=0).status == 200
    assert web.connections == 2  # the parent's, which is still good, and the child's


def test_collection_goes_on_in_a_child():
    def collects() -> tuple[bool, bool]:
        with collection.held_back(needed=True):
            held = gc.isenabled()
        return held, gc.isenabled()

    with collection.held_back(needed=True):
        assert in_child(lambda: (gc.isenabled(), *collects()), seconds=4) == (True, False, True)
    assert collects() == (False, True)


def test_whatever_is_forgotten_is_not_kept_for_forks():
    lock = forking.Lock()
    assert lock in forking._KNOWN
    before = len(forking._KNOWN)
    del lock
    assert len(forking._KNOWN) == before - 1


def test_a_dask_client_of_the_parent_is_not_waited_for(monkeypatch):
    class Client:
        status, asynchronous = "running", False

        def get_executor(self, **_: bool) -> object:
            return object()

        def nthreads(self) -> dict[str, int]:
            return {"worker": 2}

    client = Client()

    class Distributed:
        default_client = staticmethod(lambda: client)

        @staticmethod
        def get_worker() -> None:
            raise ValueError

    monkeypatch.setitem(sys.modules, "distributed", Distributed)
    assert cluster.executor_here().workers == 2
    assert in_child(lambda: cluster.executor_here() is None) is True
    assert cluster.executor_here().workers == 2


@pytest.mark.parametrize("options", ["{}", "{'block_size': 1 << 20}"])
def test_a_child_that_ends_as_python_does_leaves_the_parent_alone(web, options):
    """It runs what is to be run at the end of a process, with what it has of its parent's."""
    program = (
        "import gc, os, sys\n"
        "from activestore import Active\n"
        f"active = Active({f'{web.url}/a.nc'!r}, 'v', storage_options={options})\n"
        "before = float(active.mean())\n"
        "if not os.fork():\n"
        "    del active; gc.collect()\n"
        "    sys.exit()\n"
        "os.wait()\n"
        "print(before == float(active.mean()))\n"
    )
    command = [sys.executable, "-W", "ignore", "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.stderr) == ("True\n", "")
