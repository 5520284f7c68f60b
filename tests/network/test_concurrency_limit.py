"""How many requests are under way at once: what the user wants, and what a server can bear."""

import json
import pickle
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import netCDF4
import numpy as np
import pytest
import xarray as xr

from activestore import Active
from activestore.core.threads import concurrently
from activestore.errors import SourceError
from activestore.network import concurrency_limit as pace
from activestore.network import http_client as transport
from activestore.network.concurrency_limit import Limit, Pace, Patience, at_most, current_limit, pace_of, wished_pause, within
from activestore.network.http_client import Client, HttpOptions
from activestore.sources import fsspec_location as fsspec_place
from tests.reductionist.reductionist_v1 import v1
from tests.web_stand_in import Reply, Request, WebStandIn

NUMBERS = np.random.default_rng(0).integers(1, 100, (24, 80, 100)).astype("f4")


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "_FIRST_PAUSE", 0.001)
    monkeypatch.setattr(fsspec_place, "_FIRST_PAUSE", 0.001)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files in chunks that do not touch, and the same as a Zarr store."""
    folder = tmp_path_factory.mktemp("pace")
    (folder / "bucket").mkdir()
    for number in range(3):
        with netCDF4.Dataset(folder / "bucket" / f"{number}.nc", "w") as file:
            for name, length in zip("tyx", NUMBERS.shape, strict=True):
                file.createDimension(name, length)
            file.createVariable("t", "f8", ("t",))[:] = np.arange(24.0 * number, 24 * number + 24)
            # Chunks so large that each is asked for by itself if its neighbours are not wanted.
            file.createVariable("v", "f4", ("t", "y", "x"), chunksizes=(1, 80, 100))[:] = NUMBERS
            file.createVariable("text", str, ("t",))[:] = np.array(["x" * 9000] * 24, object)
    zarr = pytest.importorskip("zarr")
    zarr.create_array(folder / "a.zarr" / "v", data=NUMBERS, chunks=(1, 80, 100), zarr_format=2)
    variable = Active(folder / "bucket" / "0.nc", "v").variable
    places = zip(variable.table.offset.tolist(), variable.table.size.tolist(), strict=True)
    array = {"zarr_format": 2, "shape": NUMBERS.shape, "chunks": (1, 80, 100), "dtype": "<f4", "order": "C"}
    array |= {"fill_value": 0, "compressor": None, "filters": None}
    found = {f"v/{i}.0.0": ["SERVER/bucket/0.nc", *place] for i, place in enumerate(places)}
    refs = {".zgroup": '{"zarr_format": 2}', "v/.zarray": json.dumps(array), "v/.zattrs": "{}", **found}
    (folder / "a.json").write_text(json.dumps({"version": 1, "refs": refs}))
    return folder


@pytest.fixture
def web(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[WebStandIn]:
    monkeypatch.setenv("ACTIVESTORE_CACHE", "off")
    with WebStandIn() as server:
        for file in folder.rglob("*"):
            if file.is_file():
                content = file.read_bytes().replace(b"SERVER", server.url.encode())
                server.files[f"/{file.relative_to(folder)}"] = content
        server.rule = lambda request: slowly(server, request)
        yield server


def slowly(server: WebStandIn, request: Request) -> Reply:
    usual = server.usual(request)
    return Reply(usual.status, usual.headers, usual.body, after=0.01)


def at_a_time(server: WebStandIn, most: int, headers: dict[str, str] | None = None) -> list[int]:
    """Let a server refuse all requests but so many at a time; return a list that has the number of refusals."""
    refusals, lock = [0], threading.Lock()
    serving = [0]

    def rule(request: Request) -> Reply:
        with lock:
            if serving[0] >= most:
                refusals[0] += 1
                return Reply(503, headers or {})
            serving[0] += 1
        try:
            time.sleep(0.01)
            return server.usual(request)
        finally:
            with lock:
                serving[0] -= 1

    server.rule = rule
    return refusals


EVERY_OTHER = np.arange(24) % 2 == 0
"""Chunks of which each needs a request of its own."""
WANTED = NUMBERS[::2].mean(dtype="f8")


def doors(server: WebStandIn, folder: Path, options: dict[str, Any]) -> dict[str, Any]:
    """Return what reads from a server, by name."""
    s3 = {"key": "K", "secret": "S", "endpoint_url": server.url}
    addresses = [f"{server.url}/bucket/{number}.nc" for number in range(3)]

    def of(address: Any, name: str, storage_options: Any = None) -> Any:
        chosen = np.tile(EVERY_OTHER, 3) if isinstance(address, list) else EVERY_OTHER

        def mean() -> Any:
            return Active(address, name, storage_options=storage_options, **options)[chosen].mean()

        return mean

    def engine() -> Any:
        ds = xr.open_dataset(addresses[0], engine="activestore", **options)
        mean = ds.v[::2].active.mean().item()
        assert ds.text.values.tolist() == ["x" * 9000] * 24
        np.testing.assert_array_equal(ds.v.values, NUMBERS)
        return mean

    def engine_of_several() -> Any:
        ds = xr.open_dataset(addresses, engine="activestore", **options)
        return ds.v[::2].active.mean().item()

    return {
        "http": of(addresses[0], "v"),
        "s3": of("s3://bucket/0.nc", "v", s3),
        "fsspec": of(addresses[0], "v", {"block_size": 1 << 20}),
        "zarr": of(f"{server.url}/a.zarr/v", ""),
        "references": of(f"{server.url}/a.json", "v"),
        "several": of(addresses, "v"),
        "engine": engine,
        "engine of several": engine_of_several,
    }


DOORS = ("http", "s3", "fsspec", "zarr", "references", "several", "engine", "engine of several")


@pytest.mark.parametrize("door", DOORS)
def test_workers_is_how_many_requests_are_under_way(web, folder, door):
    for workers in (1, 3):
        web.most_under_way = 0
        assert doors(web, folder, {"workers": workers})[door]() == pytest.approx(WANTED)
        assert 1 <= web.most_under_way <= workers
    assert doors(web, folder, {})[door]() == pytest.approx(WANTED)
    assert web.most_under_way > 3 or door == "engine of several"


@pytest.mark.parametrize("door", DOORS)
def test_a_server_that_serves_few_at_a_time(web, folder, door):
    refusals = at_a_time(web, 2)
    assert doors(web, folder, {})[door]() == pytest.approx(WANTED)
    assert refusals[0] < 150


def test_retry_after_is_heeded_and_shared_by_all_who_ask_the_server(web, folder):
    refusals = at_a_time(web, 4, {"Retry-After": "1"})
    started = time.monotonic()
    assert Active(f"{web.url}/bucket/0.nc", "v")[EVERY_OTHER].mean() == pytest.approx(WANTED)
    assert refusals[0] > 0
    assert time.monotonic() - started > 1
    keeper, before = pace_of(web.url), refusals[0]
    assert keeper.most < 12
    # Another source begins with what was learned.
    assert Active(f"{web.url}/bucket/1.nc", "v")[EVERY_OTHER].mean() == pytest.approx(WANTED)
    assert refusals[0] - before < 12


def test_a_server_that_never_serves_is_not_waited_for(web, folder):
    web.rule = lambda _: Reply(503)
    for door in ("http", "zarr", "fsspec"):
        started = len(web.requests)
        with pytest.raises(SourceError):
            doors(web, folder, {})[door]()
        assert len(web.requests) - started <= 40


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_chunk_of_which_nobody_can_tell_is_not_unwritten(web, folder, status):
    """fsspec says of whatever goes wrong that there is no such file."""
    address = f"{web.url}/a.zarr/v"
    web.rule = lambda request: Reply(status) if request.path.endswith("v/4.0.0") else None
    with pytest.raises(SourceError):
        Active(address, "")[EVERY_OTHER].mean()
    missing = web.files.pop("/a.zarr/v/4.0.0")
    web.rule = lambda _: None
    assert Active(address, "")[4].count() == 0
    web.files["/a.zarr/v/4.0.0"] = missing
    assert Active(address, "")[EVERY_OTHER].mean() == pytest.approx(WANTED)


@pytest.mark.filterwarnings("ignore::activestore.errors.FallbackWarning")
def test_workers_is_how_many_requests_a_server_that_computes_has(folder):
    under_way, most, lock = [0], [0], threading.Lock()
    with WebStandIn() as web:
        web.files["/bucket/0.nc"] = (folder / "bucket" / "0.nc").read_bytes()
        stand_in = v1(folder)
        answer = stand_in.answer

        def counted(*arguments: Any) -> Any:
            with lock:
                under_way[0] += 1
                most[0] = max(most[0], under_way[0])
            time.sleep(0.01)
            try:
                return answer(*arguments)
            finally:
                with lock:
                    under_way[0] -= 1

        stand_in.answer = counted
        with stand_in.running() as server:
            s3 = {"key": "K", "secret": "S", "endpoint_url": web.url}
            for workers in (1, 3):
                most[0] = web.most_under_way = 0
                active = Active("s3://bucket/0.nc", "v", server=server.url, workers=workers, storage_options=s3)
                assert active[EVERY_OTHER].mean() == pytest.approx(WANTED)
                assert 1 <= most[0] <= workers
                assert web.most_under_way <= workers


# The mechanism


def test_more_are_sent_one_by_one_and_fewer_at_once():
    keeper = Pace()
    assert [keeper.begin(64), keeper.most] == [64, float("inf")]
    sent = time.monotonic()
    keeper.end(1)
    keeper.refused(sent, keeper.under_way)
    assert keeper.most == pytest.approx(0.7 * 64)
    # Of the same round: as many as the server has not refused, and no less.
    keeper.end(53)
    keeper.refused(sent, keeper.under_way)
    assert (keeper.most, keeper.under_way) == (10, 10)
    for _ in range(10):
        keeper.end()
        keeper.served()
    assert 10.9 < keeper.most < 11
    assert keeper.begin(64) == int(keeper.most)
    keeper.served(100_000)
    assert keeper.most == float("inf")


def test_one_is_always_sent():
    keeper = Pace()
    for _ in range(5):
        assert keeper.begin() == 1
        keeper.end()
        keeper.refused(time.monotonic(), 0)
    assert keeper.most == 1


def test_a_wait_that_is_broken_off(web):
    keeper = pace_of(web.url)
    keeper.most = 1
    keeper.begin()
    client = Client(HttpOptions(retries=0))
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(client.request, "GET", f"{web.url}/a", most=10)
        time.sleep(0.05)
        assert not waiting.done()
        client.abandon()
        with pytest.raises(transport.NoAnswerError, match="broken off"):
            waiting.result(timeout=10)
    assert keeper.under_way == 1
    assert web.requests == []


def test_patience_has_an_end(monkeypatch):
    keeper = Pace()
    waits = Patience(keeper, 2)
    assert [waits.again(503, {}) for _ in range(3)] == [0, 0, None]
    waits = Patience(keeper, 2)
    for _ in range(5):
        keeper.served()
        assert (waits.again(503, {}), waits.attempts) == (0, 1)
    assert [waits.again(status, {}) for status in (429, 500)] == [0, None]
    assert waits.again(429, {"Retry-After": "7"}) == 7
    assert Patience(keeper, 0).again(503, {"Retry-After": "1"}) is None
    monkeypatch.setattr(pace, "_PATIENCE", 5.0)
    waits = Patience(keeper, 2)
    assert (waits.again(503, {"Retry-After": "7"}), waits.again(503, {"Retry-After": "4"})) == (None, 4)


@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        *(("1", 1), ("0", 0), ("99999999999999", 30), ("soon", None), ("", None), ("-1", None)),
        *(("Mon, 01 Jan 2024 00:00:05 GMT", 5), ("Mon, 01 Jan 2023 00:00:05 GMT", 0), ("Mon, 01 Jan 2030 00:00:05 GMT", 30)),
    ],
)
def test_what_a_server_asks_for(said, seconds):
    assert wished_pause({"Retry-After": said, "Date": "Mon, 01 Jan 2024 00:00:00 GMT"}) == seconds


def test_a_limit_goes_with_what_is_done_in_other_threads():
    def limits(depth: int) -> Any:
        found = current_limit()
        return found if depth == 0 else concurrently(limits, [depth - 1] * 2, 4)

    with at_most(3):
        outer = current_limit()
        assert all(one is outer for two in limits(2) for one in two)
        with at_most(9):
            assert current_limit() is outer
    assert current_limit() is None
    with at_most(1):
        assert concurrently(lambda _: threading.get_ident(), range(3), 4) == [threading.get_ident()] * 3
    with within(pickle.loads(pickle.dumps(Limit(2)))) as _:
        assert current_limit().most == 2


def test_paces_are_forgotten_with_their_clients():
    before = len(pace._PACES)
    keeper = pace_of("http://store.example/a")
    assert pace_of("HTTP://store.example/b") is keeper
    assert pace_of("http://store.example:81/b") is not keeper
    del keeper
    assert len(pace._PACES) <= before
