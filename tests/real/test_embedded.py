"""Our client with our server, beside real stores: the local backend's results to the last bit, and nobody's secrets."""

import itertools
import pickle
import re
import shutil
import time
import uuid
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import cbor2
import h5py
import hdf5plugin
import netCDF4
import numpy as np
import pytest
import urllib3
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from activestore import Active, Result, compat
from activestore.core.reductions import REDUCTIONS
from activestore.errors import (
    ActivestoreError,
    BackendError,
    BackendUnavailableError,
    CorruptChunkError,
    FallbackWarning,
    SumOverflowError,
)
from activestore.testing.datasets import write_sample
from tests.expected import Request, fits, requests
from tests.generated import NAME, Recipe, recipes, write
from tests.real.line import answered
from tests.real.servers import Authority, EmbeddedServer, S3Store, WebServer, run_embedded
from tests.real.test_reductionist import ALL, same

pytestmark = pytest.mark.real
EXAMPLES = settings().max_examples // 2
RNG = np.random.default_rng(11)


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Callable[..., EmbeddedServer]]:
    """Starts servers of the test's own, with options of its own."""
    with ExitStack() as stack:
        numbers = itertools.count()

        def start(*options: str, **more: Any) -> EmbeddedServer:
            folder = tmp_path / f"server-{next(numbers)}"
            folder.mkdir()
            return stack.enter_context(run_embedded(folder, *options, **more))

        yield start


class Places:
    """A file in the store, behind the web server and on the disk, whose chunks a server reduces."""

    def __init__(self, store: S3Store, web: WebServer, server: EmbeddedServer) -> None:
        self.store, self.web, self.server = store, web, server
        self.path = store.folder / f"{uuid.uuid4().hex}.nc"

    def opened(self, where: str, variable: str = NAME, **options: Any) -> Active:
        options = {"backend": "reductionist", "server": self.server.url} | options
        if where == "S3":
            options = {"storage_options": self.store.storage_options} | options
            return Active(f"s3://{self.store.bucket}/{self.path.name}", variable, **options)
        if where == "HTTP":
            copy = self.web.folder / self.path.name
            if not copy.exists() or copy.read_bytes() != self.path.read_bytes():
                shutil.copy(self.path, copy)
            return Active(f"{self.web.url}/{self.path.name}", variable, **options)
        return Active(self.path, variable, **options)

    def here(self, variable: str = NAME) -> Active:
        return Active(self.path, variable, backend="posix")

    def put(self, numbers: np.ndarray, attributes: dict[str, Any] | None = None, **layout: Any) -> "Places":
        """Write the numbers as a new object: a store without ETags dates them to the second only."""
        self.path = self.path.with_name(f"{uuid.uuid4().hex}.nc")
        with h5py.File(self.path, "w") as file:
            file.create_dataset(NAME, data=numbers, **layout).attrs.update(attributes or {})
        return self


WHERE = ("S3", "HTTP", "file")


@pytest.fixture
def places(s3_store: S3Store, web_server: WebServer, embedded: EmbeddedServer) -> Places:
    return Places(s3_store, web_server, embedded)


def cut(active: Active, request: Request) -> Active:
    for key in request.keys:
        active = active[key]
    return active


def check_bits(found: Result, local: Result) -> None:
    """Fail unless two results are the same to the last bit."""
    assert set(found.values) == set(local.values)
    for name, value in local.values.items():
        other = found.values[name]
        if value is np.ma.masked or other is np.ma.masked:
            assert value is other, name
            continue
        assert (np.asarray(other).dtype, np.shape(other)) == (np.asarray(value).dtype, np.shape(value)), name
        assert np.array_equal(np.ma.getmaskarray(other), np.ma.getmaskarray(value)), name
        mask = np.ma.getmaskarray(value)
        bits = [np.ma.getdata(np.ma.asarray(one))[~mask].tobytes() for one in (other, value)]
        assert bits[0] == bits[1], (name, other, value)
    assert np.array_equal(found.count, local.count)


FILTERS: dict[str, dict[str, Any]] = {
    "none": {},
    "deflate": {"compression": "gzip"},
    "shuffle, deflate, fletcher32": {"compression": "gzip", "shuffle": True, "fletcher32": True},
    "zstd": {"shuffle": True, **hdf5plugin.Zstd()},
    "bzip2": dict(hdf5plugin.BZip2()),
    "lz4": dict(hdf5plugin.LZ4(nbytes=512)),
    "blosc": dict(hdf5plugin.Blosc(cname="lz4")),
    "blosc2": dict(hdf5plugin.Blosc2(cname="zstd")),
}


class TestNumbers:
    def test_every_reduction_of_made_up_files(self, s3_store: S3Store, web_server: WebServer, embedded: EmbeddedServer) -> None:
        where: Counter[str] = Counter()

        @settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck))
        @given(recipe=recipes(), data=st.data())
        def whatever_the_file(recipe: Recipe, data: st.DataObject) -> None:
            places = Places(s3_store, web_server, embedded)
            write(recipe, places.path)
            near = places.here()
            request = data.draw(requests(near))
            part = cut(near, request)
            names = tuple(name for name in REDUCTIONS if fits(part.read(), request, name))
            for place in WHERE:
                where.update(self.compared(names, part, cut(places.opened(place), request), request))

        whatever_the_file()
        assert where["reductionist"] > where["local fallback"], where

    @staticmethod
    def compared(names: tuple[str, ...], near: Active, far: Active, request: Request) -> Counter[str]:
        options = {"keepdims": request.keepdims, "skipna": request.skipna}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FallbackWarning)
            try:
                local = near.run(names, request.axis, **options)
            except SumOverflowError:
                with pytest.raises(SumOverflowError):
                    far.run(names, request.axis, **options)
                return Counter()
            found = far.run(names, request.axis, **options)
            check_bits(found, local)
            values = far.read()
        assert values.tobytes() == near.read().tobytes() if not np.ma.isMaskedArray(values) else True
        return Counter(found.report.where)

    @pytest.mark.parametrize("filters", FILTERS.values(), ids=FILTERS)
    @pytest.mark.parametrize("where", WHERE)
    def test_all_by_the_server(self, filters: dict[str, Any], where: str, places: Places) -> None:
        numbers = RNG.normal(288, 15, (24, 60, 88)).astype("f4")
        numbers[3, 4:9] = np.nan
        numbers[5, :, 7] = 9
        places.put(numbers, {"_FillValue": np.float32(9)}, chunks=(12, 30, 44), **filters)
        far, near = places.opened(where, fallback="error"), places.here()
        parts = (np.s_[:], np.s_[2:21, :, 5:40], np.s_[::5], np.s_[3, 40:4:-3], np.s_[:, [5, 1, 59, 5]])
        for key, axis in zip(parts, (None, 0, (1, 2), -1, (0, 1)), strict=True):
            for name in REDUCTIONS:
                found = far[key].run(name, axis)
                check_bits(found, near[key].run(name, axis))
                assert set(found.report.where) == {"reductionist"}, found.report.reasons
        assert np.array_equal(far[2:4, 3].read(), near[2:4, 3].read(), equal_nan=True)

    @pytest.mark.parametrize("kind", ["i1", "u1", ">i2", "u2", "i4", ">u4", "i8", "u8", "f4", ">f8"])
    def test_all_types(self, kind: str, places: Places) -> None:
        numbers = RNG.integers(0, 100, (8, 500)).astype(kind)
        places.put(numbers, {"scale_factor": 0.01, "add_offset": -3.0} if kind == "u2" else {}, chunks=(2, 500))
        found = places.opened("S3").run(tuple(REDUCTIONS))
        check_bits(found, places.here().run(tuple(REDUCTIONS)))
        assert found.report.where == {"reductionist": 4}

    @pytest.mark.parametrize("where", ["S3", "HTTP"])
    @pytest.mark.parametrize("kind", ["f4", "f8", ">i4", "u8"])
    def test_by_the_protocol_alone(self, where: str, kind: str, places: Places) -> None:
        numbers = (RNG.normal(288, 15, (12, 30, 44)) * (1 if "f" in kind else 1e6 if "4" in kind else 1e11)).astype(kind)
        places.put(numbers, chunks=(6, 15, 22), compression="gzip", shuffle=True)
        for key, axis in itertools.product((np.s_[:], np.s_[2:11, :, 5:40], np.s_[::5]), (None, 0, (1, 2))):
            there = places.opened(where, backend_options={"extension": False})[key]
            assert set(same(there, places.here()[key], ALL, axis)) == {"reductionist"}

    def test_by_the_first_version_of_the_protocol(self, places: Places, own: Callable[..., EmbeddedServer]) -> None:
        places.server = own("--allow-origin", places.store.url, "--v1")
        places.put(RNG.normal(288, 15, (12, 600)).astype("f4"), chunks=(6, 600), compression="gzip", shuffle=True)
        there = places.opened("S3", backend_options={"version": "v1"})
        assert set(same(there, places.here(), ALL, 0)) == {"reductionist"}

    def test_a_chunk_with_wrong_bytes(self, places: Places) -> None:
        places.put(RNG.normal(288, 15, (4, 500)).astype("f4"), chunks=(1, 500), compression="gzip")
        with h5py.File(places.path, "r+") as file:
            file[NAME].id.write_direct_chunk((2, 0), b"x\x9c" + bytes(300))
        assert np.isfinite(places.opened("S3", fallback="error")[:2].mean())
        with pytest.raises(BackendError, match=r"chunk \(2, 0\)"):
            places.opened("S3", fallback="error").mean()
        with pytest.raises(CorruptChunkError, match=r"chunk \(2, 0\)"):
            places.opened("S3").mean()


class TestOtherClients:
    @pytest.fixture
    def values(self, places: Places) -> np.ma.MaskedArray:
        write_sample(places.path)
        with netCDF4.Dataset(places.path) as file:
            return file["tas"][...]

    @pytest.mark.parametrize("axis", [None, (0,), (1, 2)])
    @pytest.mark.parametrize("method", ["mean", "min", "max"])
    def test_compat(self, places: Places, values: np.ma.MaskedArray, method: str, axis: Any) -> None:
        address = f"{places.store.bucket}/{places.path.name}"
        active = compat.Active(
            address, "tas", axis=axis, storage_options=places.store.storage_options, active_storage_url=places.server.url
        )
        active.method = method
        found, data = active[3:15], values[3:15].astype("f8")
        np.testing.assert_allclose(found, getattr(np.ma, method)(data, axis=axis, keepdims=True), rtol=1e-12)

    # Of other axes it makes nothing of Reductionist's answers either, nor of the mean over the first alone.
    @pytest.mark.parametrize("axis", [(0, 1, 2), (0, 1)])
    @pytest.mark.parametrize("method", ["mean", "min", "max"])
    def test_pyactivestorage(self, places: Places, values: np.ma.MaskedArray, method: str, axis: Any) -> None:
        theirs = pytest.importorskip("activestorage").Active
        active = theirs(
            f"{places.store.bucket}/{places.path.name}",
            "tas",
            interface_type="s3",
            storage_options=places.store.storage_options,
            active_storage_url=places.server.url,
        )
        active._version = 2
        found = getattr(active, method)(axis=axis)[3:15]
        data = values[3:15].astype("f8")
        np.testing.assert_allclose(found, getattr(np.ma, method)(data, axis=axis, keepdims=True), rtol=1e-6)
        assert f'"object": "{places.store.url}/{places.store.bucket}/{places.path.name}"' in places.server.log_file.read_text()


class TestWhoMayAsk:
    TOKEN = "correct-horse-battery-staple"  # noqa: S105  # of the tests

    def test_tls(self, places: Places, own: Callable[..., EmbeddedServer], authority: Authority) -> None:
        places.put(RNG.normal(288, 15, (4, 500)).astype("f4"), chunks=(2, 500))
        places.server = own("--allow-origin", places.store.url, authority=authority)
        found = places.opened("S3", backend_options={"verify": authority.ca_file}).run(("mean", "std"))
        check_bits(found, places.here().run(("mean", "std")))
        assert found.report.where == {"reductionist": 2}
        with pytest.raises(BackendUnavailableError, match=r"its TLS certificate is not trusted .*'verify'"):
            places.opened("S3").mean()
        with pytest.raises(BackendUnavailableError, match="is it an https:// server"):
            places.opened("S3", server=places.server.url.replace("https:", "http:")).mean()

    def test_tls_of_the_origin(
        self, own: Callable[..., EmbeddedServer], web_server_https: WebServer, authority: Authority, places: Places
    ) -> None:
        places.put(RNG.normal(288, 15, (4, 500)).astype("f4"), chunks=(2, 500))
        shutil.copy(places.path, web_server_https.folder / places.path.name)
        url, options = f"{web_server_https.url}/{places.path.name}", {"verify": str(authority.ca_file)}
        trusting = own("--allow-origin", web_server_https.url, "--ca-bundle", str(authority.ca_file))
        found = Active(url, NAME, server=trusting.url, storage_options=options).run("mean")
        assert (found.value, found.report.where) == (places.here().mean(), {"reductionist": 2})
        doubting = own("--allow-origin", web_server_https.url)
        with pytest.raises(BackendError, match="certificate"):
            Active(url, NAME, server=doubting.url, storage_options=options, fallback="error").mean()

    def test_token(self, places: Places, own: Callable[..., EmbeddedServer], tmp_path: Path, caplog: Any) -> None:
        (tmp_path / "token").write_text(self.TOKEN)
        places.put(RNG.normal(288, 15, (4, 500)).astype("f4"), chunks=(2, 500))
        places.server = own("--allow-origin", places.store.url, "--token-file", str(tmp_path / "token"))
        texts = []
        for options in ({}, {"token": "wrong-" + self.TOKEN}, {"token": "another-wrong-one"}):
            for fallback in ("local", "error"):
                with pytest.raises(BackendUnavailableError, match="token") as refused:
                    places.opened("S3", fallback=fallback, backend_options=options).mean()
                texts += [str(refused.value), repr(refused.value)]
        for options in ({"token": self.TOKEN}, {"token": self.TOKEN, "extension": False}):
            right = places.opened("S3", backend_options=options)
            found = right.run("mean")
            assert found.value == pytest.approx(places.here().mean(), rel=1e-6)
            assert found.report.where == {"reductionist": 2}
            texts += [repr(right), str(right), repr(found), str(found.report), repr(found.report)]
            texts += [
                pickle.dumps(right).decode("latin-1"),
            ]
        texts += [places.server.log_file.read_text(), caplog.text]
        for text in texts:
            assert self.TOKEN not in text
            assert places.store.secret not in text

    @pytest.mark.parametrize("code", ["ExpiredToken", "InvalidAccessKeyId", "SignatureDoesNotMatch", "AccessDenied"])
    def test_a_login_that_has_expired(self, code: str, places: Places, own: Callable[..., EmbeddedServer], line: Any) -> None:
        bad = line(places.store.url, round_trip=0)
        places.server = own("--allow-origin", bad.url)
        places.put(RNG.normal(288, 15, (40, 500)).astype("f4"), chunks=(1, 500))
        options = {"endpoint_url": bad.url}
        assert places.opened("S3", backend_options=options).mean() == places.here().mean()
        bad.fail(answered(403, f"<Error><Code>{code}</Code><Message>no {places.store.secret}</Message></Error>"))
        bad.reset_counters()
        with pytest.raises(BackendError, match=r"storage_options") as refused:
            places.opened("S3", fallback="error", workers=1, backend_options=options).mean()
        assert code in str(refused.value) or "Access Denied" in str(refused.value) or "401" in str(refused.value)
        assert "\n" not in str(refused.value)
        assert bad.requests <= 4
        with pytest.warns(FallbackWarning):
            assert places.opened("S3", backend_options=options).mean() == places.here().mean()
        for text in (str(refused.value), places.server.log_file.read_text()):
            assert places.store.secret not in text

    def test_a_wrong_login(self, places: Places) -> None:
        places.put(RNG.normal(288, 15, (4, 500)).astype("f4"), chunks=(1, 500))
        wrong = places.store.storage_options | {"secret": "not-the-secret"}
        with pytest.raises(ActivestoreError, match="storage_options") as refused:
            places.opened("S3", storage_options=wrong).mean()
        assert "not-the-secret" not in str(refused.value)
        login = urllib3.make_headers(basic_auth=f"{places.store.key}:not-the-secret")
        body = {"interface_type": "s3", "url": f"{places.store.url}/{places.store.bucket}/{places.path.name}", "dtype": "int32"}
        answer = urllib3.request("POST", places.server.url + "/v2/count", json=body | {"size": 8}, headers=login, retries=False)
        assert answer.status == 401
        assert b"not-the-secret" not in answer.data
        assert "not-the-secret" not in places.server.log_file.read_text()


def metrics(server: EmbeddedServer) -> dict[str, float]:
    lines = urllib3.request("GET", server.url + "/metrics").data.decode().splitlines()
    found = (line.rpartition(" ") for line in lines if not line.startswith("#"))
    return {name: float(value) for name, _, value in found}


SETTLED = 3.1
"""Seconds after which an object has a version that can be relied on."""


class TestCache:
    """A server that keeps stored bytes, on stores with and without ETags."""

    @pytest.fixture
    def cached(self, places: Places, own: Callable[..., EmbeddedServer]) -> Places:
        roots = ("--root", str(places.store.folder), "--allow-origin", places.store.url, "--allow-origin", places.web.url)
        places.server = own(*roots, "--cache", "64MiB")
        return places.put(np.zeros((4, 1000), "f4"), chunks=(2, 1000))

    def put_by_s3(self, places: Places, numbers: np.ndarray) -> None:
        """Overwrite the object as clients of a store do, which gives it an ETag."""
        import s3fs

        path = places.path.with_name("next").with_suffix(".tmp")
        shutil.copy(places.path, path)
        with h5py.File(path, "r+") as file:
            file[NAME][...] = numbers
        store = s3fs.S3FileSystem(**places.store.storage_options)
        store.pipe_file(f"{places.store.bucket}/{places.path.name}", path.read_bytes())
        path.unlink()

    def put_in_place(self, places: Places, numbers: np.ndarray) -> None:
        with h5py.File(places.path, "r+") as file:
            file[NAME][...] = numbers

    @pytest.mark.parametrize("put", ["put_by_s3", "put_in_place"])
    @pytest.mark.parametrize("where", WHERE)
    def test_an_object_that_is_overwritten(self, cached: Places, where: str, put: str) -> None:
        for value in (1.0, 2.0, 3.0, 4.0, 5.0):
            getattr(self, put)(cached, np.full((4, 1000), value, "f4"))
            for _ in range(2):
                found = cached.opened(where, fallback="error").run(("mean", "max"))
                assert (found.values["mean"], found.values["max"]) == (value, value)

    @pytest.mark.parametrize(("where", "extension"), [*itertools.product(("S3", "HTTP"), (True, False)), ("file", True)])
    def test_hits_happen(self, cached: Places, where: str, extension: bool) -> None:
        options = {"backend_options": {"extension": extension}, "fallback": "error"}
        cached.opened(where, **options)
        time.sleep(SETTLED)
        for _ in range(3):
            assert cached.opened(where, **options).mean() == 0
            time.sleep(0.1)
        found = metrics(cached.server)
        assert found["activestore_cache_hits_total"] >= 2
        assert found["activestore_cache_bytes"] > 16_000
        assert found["activestore_origin_read_bytes_total"] < 40_000

    def test_another_login_gets_nothing_out_of_it(self, cached: Places) -> None:
        time.sleep(SETTLED)
        for _ in range(2):
            assert cached.opened("S3", fallback="error").mean() == 0
        before = metrics(cached.server)
        assert before["activestore_cache_hits_total"] >= 1
        url = f"{cached.store.url}/{cached.store.bucket}/{cached.path.name}"
        offset = next(cached.here().plan("sum").tasks()).offset
        body = {"interface_type": "s3", "url": url, "dtype": "float32", "offset": offset, "size": 8000}
        post = cached.server.url + "/v2/sum"
        logins = [{}, *(urllib3.make_headers(basic_auth=one) for one in (f"{cached.store.key}:wrong", "other:wrong"))]
        for login in logins:
            answer = urllib3.request("POST", post, json=body, headers=login, retries=False)
            assert answer.status == 401, answer.data
        right = urllib3.make_headers(basic_auth=f"{cached.store.key}:{cached.store.secret}")
        assert cbor2.loads(urllib3.request("POST", post, json=body, headers=right).data)["count"] == [2000]
        after = metrics(cached.server)
        assert after["activestore_cache_hits_total"] - before["activestore_cache_hits_total"] <= 1


LARGE_CHUNKS = 16


@pytest.fixture(scope="module")
def large(s3_store: S3Store) -> Iterator[str]:
    path = s3_store.folder / f"{uuid.uuid4().hex}.nc"
    with h5py.File(path, "w") as file:
        data = file.create_dataset(NAME, (LARGE_CHUNKS, 2048, 1024), "<f4", chunks=(1, 2048, 1024))
        for i in range(LARGE_CHUNKS):
            data[i] = np.float32(i)
    yield path.name
    path.unlink()


class TestMemory:
    """64 requests for chunks of 8 MiB at once."""

    @pytest.mark.parametrize("extension", [True, False])
    def test_it_stays_small(self, s3_store: S3Store, own: Callable[..., EmbeddedServer], large: str, extension: bool) -> None:
        server = own("--allow-origin", s3_store.url)
        address = f"s3://{s3_store.bucket}/{large}"
        options = {"storage_options": s3_store.storage_options, "server": server.url, "fallback": "error", "workers": 64}

        def one(i: int) -> Any:
            active = Active(address, NAME, backend_options={"extension": extension, "read_timeout": 300}, **options)
            return active[i % LARGE_CHUNKS : i % LARGE_CHUNKS + 2].run(("max", "mean") if extension else "max").values["max"]

        with ThreadPoolExecutor(64) as pool:
            found = list(pool.map(one, range(64)))
        assert found == [min(i % LARGE_CHUNKS + 1, LARGE_CHUNKS - 1) for i in range(64)]
        status = Path(f"/proc/{server.process.pid}/status").read_text()
        assert int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) < 300_000
        left = metrics(server)
        assert left["activestore_chunk_memory_bytes"] == 0
        assert left["activestore_requests_under_way"] == 1
