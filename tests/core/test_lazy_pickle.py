"""What was pickled is opened when values are asked for, not where it is unpickled, and is still what it was."""

import json
import os
import pickle
import shutil
import subprocess
import sys
import threading

import h5py
import numpy as np
import pytest
import xarray as xr

from activestore import Active
from activestore.core.lazy_pickle import Later
from activestore.errors import ActivestoreError, SourceError, SourceNotFoundError, UntraceableError
from activestore.sources.open import open_source
from tests.accessor.reducing.test_cluster import Recording
from tests.web_stand_in import Reply, WebStandIn

DATA = np.arange(4000.0).reshape(40, 100)


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    """The login of S3 is the environment's, and nothing is kept from one opening to the next."""
    monkeypatch.setenv("ACTIVESTORE_CACHE", "off")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "KEYID")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2")


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "a.nc"
    xr.Dataset({"v": (("t", "x"), DATA)}).to_netcdf(path, encoding={"v": {"chunksizes": (10, 50)}})
    return path


@pytest.fixture
def web(path):
    """A web server, and S3 store, with a file, references to it, and a Zarr store."""
    with h5py.File(path) as file:
        chunk = file["v"].id.get_chunk_info(0)
    with WebStandIn() as server:
        server.files["/b/a.nc"] = path.read_bytes()
        array = {"shape": [10, 50], "chunks": [10, 50], "dtype": "<f8", "compressor": None, "filters": None, "fill_value": 0}
        said = {
            ".zattrs": "{}",
            ".zgroup": '{"zarr_format": 2}',
            "v/.zarray": json.dumps({**array, "zarr_format": 2, "order": "C"}),
        }
        said["v/.zattrs"] = '{"_ARRAY_DIMENSIONS": ["t", "x"]}'
        names = {f"/b/z.zarr/{key}": text.encode() for key, text in said.items()}
        server.files |= names | {"/b/z.zarr/v/0.0": DATA[:10, :50].tobytes()}
        metadata = {key: json.loads(text) for key, text in said.items()}
        server.files["/b/z.zarr/.zmetadata"] = json.dumps({"zarr_consolidated_format": 1, "metadata": metadata}).encode()
        place = [f"{server.url}/b/a.nc", chunk.byte_offset, chunk.size]
        server.files["/b/refs.json"] = json.dumps({"version": 1, "refs": said | {"v/0.0": place}}).encode()
        yield server


SOURCES = {
    "http": ("{url}/b/a.nc", {}),
    "s3": ("s3://b/a.nc", {"endpoint_url": "{url}"}),
    "fsspec": ("{url}/b/a.nc", {"block_size": 1000}),
    "zarr": ("{url}/b/z.zarr", {}),
    "kerchunk": ("{url}/b/refs.json", {}),
}


def address_of(web, kind):
    address, options = SOURCES[kind]
    return address.format(url=web.url), {key: web.url if value == "{url}" else value for key, value in options.items()}


WAYS = {
    "source": (open_source, lambda source: len(source.current_version())),
    "Active": (lambda uri, options: Active(uri, "v", storage_options=options), lambda active: active.sum()),
    "selection": (lambda uri, options: Active(uri, "v", storage_options=options)[2:5], lambda active: active.sum()),
    "dataset": (
        lambda uri, options: xr.open_dataset(uri, engine="activestore", storage_options=options),
        lambda ds: ds.v.sum().item(),
    ),
    "reduced": (
        lambda uri, options: xr.open_dataset(uri, engine="activestore", storage_options=options),
        lambda ds: ds.v.active.sum().item(),
    ),
    "Dask": (
        lambda uri, options: xr.open_dataset(uri, engine="activestore", storage_options=options, chunks={}),
        lambda ds: ds.v.sum().compute(scheduler="synchronous").item(),
    ),
}


@pytest.mark.parametrize("kind", SOURCES)
def test_nothing_is_asked_by_unpickling(web, kind):
    uri, options = address_of(web, kind)
    for make, value in WAYS.values():
        made = make(uri, options)
        packed, expected, asked = pickle.dumps(made), value(made), len(web.requests)
        again = pickle.loads(packed)
        assert pickle.loads(pickle.dumps(again)) is not None
        assert type(repr(again)) is str or isinstance(again, xr.Dataset)
        assert len(web.requests) == asked
        assert value(again) == expected == value(pickle.loads(pickle.dumps(again)))
        assert len(web.requests) > asked


@pytest.mark.parametrize("kind", SOURCES)
def test_tasks_are_unpickled_without_asking(web, kind):
    uri, options = address_of(web, kind)
    executor = Recording()
    active = Active(uri, "v", storage_options=options)
    expected = active.sum()
    assert active.with_options(executor=executor).sum() == expected
    asked = len(web.requests)
    for packed in executor.pickled:
        function, args, _ = pickle.loads(packed)
        assert len(web.requests) == asked
        assert [done.partial.count.sum() for done in function(*args)]
    assert len(web.requests) > asked


def test_joined_files_are_unpickled_without_asking(web):
    uri, options = address_of(web, "http")
    ds = xr.concat([xr.open_dataset(uri, engine="activestore", storage_options=options) for _ in range(2)], "run")
    several = Active.concatenate([Active(uri, "v", storage_options=options)] * 2, 0)
    packed, asked = pickle.dumps((ds.v.isel(run=0), several)), len(web.requests)
    again = pickle.loads(packed)
    assert len(web.requests) == asked
    assert again[0].sum() == DATA.sum()
    assert again[1].sum() == 2 * DATA.sum()


@pytest.mark.parametrize("kind", SOURCES)
def test_a_refused_login_is_an_error_of_ours_when_values_are_asked_for(web, kind):
    uri, options = address_of(web, kind)
    # The version of a Zarr store is that of what was read of it; and what fsspec is refused over HTTP, it calls not there.
    ways = list(WAYS.values())[kind == "zarr" :]
    packed = [(pickle.dumps(make(uri, options)), value) for make, value in ways]
    web.rule = lambda _: Reply(403)
    for one, value in packed:
        again = pickle.loads(one)
        for _ in range(2):
            with pytest.raises(ActivestoreError, match=r"denied|403|[Ff]orbidden|opened again|has changed|no variable 'v'"):
                value(again)
    # What could not be opened is opened as soon as it can be; what is called not there has been opened.
    web.rule = lambda _: None
    whole = value(pickle.loads(one))
    if kind != "zarr":
        assert value(again) == whole


def test_the_error_names_the_process_and_what_it_lacks(web):
    source = pickle.loads(pickle.dumps(open_source(*address_of(web, "s3"))))
    web.rule = lambda _: Reply(403)
    with pytest.raises(SourceError, match=rf"opened again by process {os.getpid()} on .+; secrets are not sent"):
        source.read_ranges([(0, 8)])


@pytest.mark.parametrize("kind", ["http", "s3", "fsspec"])
def test_another_version_is_refused(web, kind):
    """And not read as if it were the one that was pickled, whose shape and chunks others may be."""
    uri, options = address_of(web, kind)
    packed = [(pickle.dumps(make(uri, options)), value) for make, value in WAYS.values()]
    web.files["/b/a.nc"] = web.files["/b/a.nc"].replace(DATA[0, :2].tobytes(), DATA[0, 1::-1].tobytes())
    web.headers["Last-Modified"] = "Thu, 02 Jan 2020 00:00:00 GMT"
    for one, value in packed:
        again = pickle.loads(one)
        with pytest.raises(SourceError, match="has changed since it was opened"):
            value(again)


def test_another_version_of_a_local_file_is_refused(path):
    packed = [(pickle.dumps(make(str(path), {})), value) for make, value in WAYS.values()]
    os.utime(path, ns=(0, 0))
    for one, value in packed:
        with pytest.raises(SourceError, match=r"a\.nc: has changed since it was opened"):
            value(pickle.loads(one))
    path.unlink()
    for one, value in packed:
        with pytest.raises(SourceNotFoundError, match="no such file"):
            value(pickle.loads(one))


@pytest.mark.parametrize("length", [20, 40])
def test_another_version_of_a_zarr_store_is_refused(tmp_path, length):
    store = str(tmp_path / "a.zarr")
    xr.Dataset({"v": (("t", "x"), DATA[:20])}).to_zarr(store, consolidated=False)
    packed = [(pickle.dumps(make(store, {})), value) for make, value in list(WAYS.values())[1:]]
    shutil.rmtree(store)
    xr.Dataset({"v": (("t", "x"), DATA[:length], {"units": "m"})}).to_zarr(store, consolidated=False)
    for one, value in packed:
        with pytest.raises((SourceError, UntraceableError), match=r"has changed since it was opened|has the shape"):
            value(pickle.loads(one))


def test_the_same_version_of_another_server_of_a_balancer_is_read(web):
    """Each of them has ETags of its own."""
    uri, options = address_of(web, "http")
    turn = iter(range(10**6))

    def either(request):
        web.headers["ETag"] = f'"{len(web.files[request.path])}-{next(turn) % 2}"'

    web.rule = either
    active = Active(uri, "v", storage_options=options)
    packed = [pickle.dumps(active) for _ in range(2)]
    assert [pickle.loads(one).sum() for one in packed] == [DATA.sum()] * 2
    web.files["/b/a.nc"] += b" "
    with pytest.raises(SourceError, match="has changed since it was opened"):
        pickle.loads(packed[0]).sum()


def test_a_process_without_a_network_unpickles(web):
    """All that a scheduler does with it."""
    packed = [pickle.dumps(make(*address_of(web, kind))) for kind in SOURCES for make, _ in WAYS.values()]
    executor = Recording()
    Active(address_of(web, "s3")[0], "v", storage_options=address_of(web, "s3")[1], executor=executor).sum()
    program = (
        "import pickle, socket, sys\n"
        "def refused(*_): raise RuntimeError('a connection is opened')\n"
        "socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = refused\n"
        "print(len([pickle.loads(one) for one in pickle.load(sys.stdin.buffer)]))\n"
    )
    login = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
    environ = {name: value for name, value in os.environ.items() if name not in login}
    said = pickle.dumps(packed + executor.pickled)
    done = subprocess.run(
        [sys.executable, "-c", program], input=said, capture_output=True, check=True, env=environ, timeout=120
    )
    assert int(done.stdout) == len(packed + executor.pickled)


def total(given):
    return float(given.sum())


def denied(packed):
    """Take the login away and ask for values."""
    os.environ["AWS_ACCESS_KEY_ID"] = "NOBODY"
    return total(pickle.loads(packed))


def test_a_pool_of_processes_gets_the_error(web, process_pool):
    uri, options = address_of(web, "s3")
    web.rule = lambda request: None if "Credential=KEYID/" in request.headers.get("Authorization", "") else Reply(403)
    active = Active(uri, "v", storage_options={**options, "key": "KEYID", "secret": "hunter2"})
    with pytest.raises(SourceError, match="access is denied"):
        process_pool.submit(denied, pickle.dumps(active)).result(60)
    # The processes are as good as before.
    assert process_pool.submit(total, DATA).result(60) == DATA.sum()
    with pytest.raises(SourceError, match="access is denied"):
        list(process_pool.map(denied, [pickle.dumps(active)] * 2, timeout=60))


def test_many_threads_open_it_once(web):
    source = pickle.loads(pickle.dumps(open_source(*address_of(web, "http"))))
    asked, found = len(web.requests), []
    threads = [threading.Thread(target=lambda: found.append(source.size)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [len(web.files["/b/a.nc"])] * 8
    assert len(web.requests) == asked + 1


class Slotted:
    """What a plugin's backend may be: nothing is said of how it is pickled."""

    __slots__ = ("state",)

    def __init__(self, state):
        self.state = state


class Plain(Slotted):
    """The same, with attributes of its own."""


def test_whatever_can_be_pickled_is_made_of_its_parts():
    plain = Plain([1])
    plain.more = {"a": 2}
    for given in (Slotted("s"), plain):
        later = pickle.loads(pickle.dumps(Later.of(given)))
        assert later.made is None
        made = later.get()
        assert (type(made), made.state, getattr(made, "more", None)) == (type(given), given.state, getattr(given, "more", None))
        assert later.get() is made is later.made
