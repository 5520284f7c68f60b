"""The client of a server of this package against a stand-in: the same bits as here, whatever goes wrong on the way."""

import json
import math
import os
import pickle
import tempfile
import threading
import time
import warnings
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from activestore import Active
from activestore.backends.reductionist import activestore_backends
from activestore.core.backend import BackendOptions, BatchBackend, InterruptibleBackend, SelectiveBackend
from activestore.core.packing import Packing
from activestore.core.reductions import REDUCTIONS, Reduction
from activestore.core.task import ChunkPartial
from activestore.core.wire.encode import failure_to_bytes
from activestore.errors import (
    BackendError,
    BackendUnavailableError,
    ConfigurationError,
    CorruptChunkError,
    FallbackWarning,
    ReductionistError,
    SumOverflowError,
)
from activestore.network.location import Origin
from activestore.reductionist import client as reductionist_client
from activestore.reductionist.backend import ReductionistBackend
from activestore.reductionist.batch_backend import ExtensionBackend, open_backend
from activestore.reductionist.options import ServerOptions, without_token
from activestore.reductionist.probe import Extension, extension_of
from activestore.sources.open import LocalSource
from activestore.testing.conformance import BackendTests
from tests import generated
from tests.core.test_groups import by_of, groupings
from tests.expected import requests
from tests.generated import NAME, Recipe, recipes
from tests.reductionist.extension_stand_in import REDUCE, SCHEMA, ExtensionStandIn, error, schema
from tests.reductionist.test_backend import Placed, v2

SECRET = "sesame-open"  # noqa: S105  # the tests' own
EVERY = tuple(REDUCTIONS)
MANY = settings().max_examples * 2


@pytest.fixture(autouse=True)
def nothing_probed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reductionist_client, "_PROBED", {})
    monkeypatch.setattr(reductionist_client, "_FIRST_PAUSE", 0.001)


@pytest.fixture
def server() -> Iterator[ExtensionStandIn]:
    with ExtensionStandIn().running() as running:
        yield running


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file with 16 chunks of 6 x 40 numbers, and others that are special."""
    numbers = np.random.default_rng(1).normal(280, 10, (24, 160))
    with h5py.File(tmp_path / "a b.h5", "w") as file:
        file.create_dataset("x", data=numbers.astype("f4"), chunks=(6, 40), compression="gzip", shuffle=True)
        packed = file.create_dataset("packed", data=(numbers * 10).astype("i2"), chunks=(6, 40), fletcher32=True)
        packed.attrs.update(scale_factor=np.float32(0.1), missing_value=np.array([2800, 2801], "i2"))
        file.create_dataset("holes", (24, 160), "f8", chunks=(6, 40), fillvalue=3.0)[:7] = numbers[:7]
        file.create_dataset("large", data=np.full((8, 4), 2**62), chunks=(2, 4))
        file.create_dataset("many", data=np.arange(4800.0).reshape(400, 12), chunks=(1, 12))
        file.create_dataset("even", data=np.ones((40, 600), "f4"), chunks=(10, 600), compression="gzip")
    return tmp_path / "a b.h5"


def there(path: Path, variable: str, server: ExtensionStandIn, options: dict[str, Any] | None = None, **changes: Any) -> Active:
    return Active(path, variable, backend="reductionist", server=server.url, backend_options=options or {}, **changes)


def bits(result: Any) -> Any:
    """All there is of a result."""
    if isinstance(result, dict):
        return {name: bits(one) for name, one in result.items()}
    return np.ma.getdata(result).tobytes(), np.ma.getmaskarray(result).tobytes(), np.asarray(result).dtype


@contextmanager
def quiet() -> Iterator[None]:
    """Do not warn of what is computed here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FallbackWarning)
        yield


class TestTheSameBits:
    @pytest.mark.parametrize("variable", ["x", "packed", "holes", "many"])
    @pytest.mark.parametrize("axis", [None, 0, 1, (0, 1)])
    @pytest.mark.parametrize("key", [(), np.s_[3:20:2, ::-3], np.s_[[4, 1, 1], 5]])
    def test_every_reduction(self, variable: str, axis: Any, key: Any, path: Path, server: ExtensionStandIn) -> None:
        here = Active(path, variable)[key]
        if len(here.shape) == 1 and axis not in (None, 0):
            return
        found, right = there(path, variable, server)[key].run(EVERY, axis), here.run(EVERY, axis)
        assert bits(found.values) == bits(right.values)
        assert bits(found.count) == bits(right.count)
        assert set(found.report.where) <= {"reductionist", "fill value"}

    @pytest.mark.parametrize("variable", ["x", "packed", "holes", "many"])
    @pytest.mark.parametrize("labels", [np.arange(24) // 4, np.arange(24) % 5, np.arange(24) * 7 % 4 - 1])
    def test_groups_and_conditions(self, variable: str, labels: Any, path: Path, server: ExtensionStandIn) -> None:
        here, there_ = Active(path, variable)[-24:], there(path, variable, server)[-24:]
        names = tuple(name for name in EVERY if not name.startswith("arg"))
        for options in ({"by": {0: labels}}, {"where": "> 275 and != 280"}, {"by": {0: labels}, "where": "> 275.5"}):
            found, right = there_.run(names, 0, **options), here.run(names, 0, **options)
            assert bits(found.values) == bits(right.values)
            assert bits(found.count) == bits(right.count)
            assert set(found.report.where) <= {"reductionist", "fill value"}

    def test_an_older_server_is_not_asked_for_what_it_does_not_know(self, path: Path, server: ExtensionStandIn) -> None:
        del server.says["extension"]["features"]
        here, away = Active(path, "x"), there(path, "x", server)
        halves = np.arange(24) // 3
        with pytest.warns(FallbackWarning, match="several groups in a chunk"):
            assert bits(away.reduce("mean", 0, by={0: halves})) == bits(here.reduce("mean", 0, by={0: halves}))
        with pytest.warns(FallbackWarning, match="a condition on the values"):
            assert bits(away.reduce("mean", 0, where="> 280")) == bits(here.reduce("mean", 0, where="> 280"))
        assert server.batches == []
        # One group in a chunk is a reduction like any other.
        quarters = np.arange(24) // 6
        found = away.run("mean", 0, by={0: quarters})
        assert bits(found.values) == bits(here.run("mean", 0, by={0: quarters}).values)
        assert found.report.where == {"reductionist": 16}
        assert all("grouped" not in batch["tasks"] for batch in server.batches)

    def test_an_older_server_does_not_unpack_in_a_type(self, path: Path, server: ExtensionStandIn) -> None:
        def typed(active: Active) -> Active:
            packing = Packing(0.5, "<f4", None, "<f8", "<f4")
            stored = active.variable
            return active.with_decoding(dtype=stored.dtype, missing=stored.missing, packing=packing)

        here, away = typed(Active(path, "packed")), typed(there(path, "packed", server))
        right = bits(here.reduce("min", 0))
        found = away.run("min", 0)
        assert bits(found.value) == right
        assert found.report.where == {"reductionist": 16}
        server.says["extension"]["features"] = ["groups"]
        reductionist_client._PROBED.clear()
        with pytest.warns(FallbackWarning, match="unpacking in a type of its own"):
            assert bits(typed(there(path, "packed", server)).reduce("min", 0)) == right

    @settings(max_examples=MANY)
    @given(recipe=recipes(), data=st.data())
    def test_of_generated_files(self, recipe: Recipe, data: st.DataObject) -> None:
        with tempfile.TemporaryDirectory() as folder, ExtensionStandIn().running() as server:
            file = Path(folder, "a.nc")
            generated.write(recipe, file)
            here = Active(file, NAME)
            request = data.draw(requests(here))
            away = there(file, NAME, server)
            for key in request.keys:
                here, away = here[key], away[key]
            for name in data.draw(st.lists(st.sampled_from(EVERY), min_size=1, max_size=4, unique=True)):
                options = {"keepdims": request.keepdims, "skipna": request.skipna}
                options["where"] = data.draw(st.sampled_from([None, None, "> 0", "<= 2.5 and != 1"]))
                if not name.startswith("arg") and data.draw(st.booleans()):
                    options["by"] = by_of(data.draw(groupings(here.shape, request.axes)), here)
                try:
                    right = here.run(name, request.axis, **options)
                except SumOverflowError:
                    with pytest.raises(SumOverflowError), quiet():
                        away.run(name, request.axis, **options)
                    continue
                with quiet():
                    found = away.run(name, request.axis, **options)
                assert bits(found.values) == bits(right.values)
                assert bits(found.count) == bits(right.count)
                assert all(why in LOCAL or why.startswith("the codec") for why in found.report.reasons)
            with quiet():
                assert bits(away.read()) == bits(here.read())

    def test_reading_a_part(self, path: Path, server: ExtensionStandIn) -> None:
        found = there(path, "x", server)[3:9, 17]
        assert bits(found.read()) == bits(Active(path, "x")[3:9, 17].read())
        assert len(server.batches) == 1

    def test_a_reduction_of_ones_own_is_computed_here(self, path: Path, server: ExtensionStandIn) -> None:
        own = Reduction.from_functions(
            "sum",
            chunk=lambda values, axis: values.sum(axis=axis, keepdims=True),
            combine=np.add,
            finalize=lambda state, _: state,
        )
        with pytest.warns(FallbackWarning, match="16 of 16 .* the component 'own sum'"):
            assert there(path, "x", server).reduce(own) == Active(path, "x").reduce(own)
        assert not server.batches

    def test_an_answer_larger_than_the_chunk(self, path: Path, server: ExtensionStandIn) -> None:
        with pytest.warns(FallbackWarning, match="4 of 4 .* an answer larger than the chunk"):
            there(path, "even", server).read()

    def test_filters_that_the_server_does_not_have(self, path: Path, server: ExtensionStandIn) -> None:
        server.says = schema(codecs=["shuffle"], dtypes=["f4", "f8"], components=["sum", "min"])
        with pytest.warns(FallbackWarning, match="the codec 'zlib'"):
            assert there(path, "x", server).mean() == Active(path, "x").mean()
        with pytest.warns(FallbackWarning, match="the component 'max'"):
            there(path, "holes", server).max()
        with pytest.warns(FallbackWarning, match="the type i2"):
            there(path, "packed", server).min()
        assert not server.batches

    def test_sums_that_overflow(self, path: Path, server: ExtensionStandIn) -> None:
        with pytest.raises(SumOverflowError):
            there(path, "large", server).sum()
        with pytest.raises(SumOverflowError):
            there(path, "large", server, fallback="error").sum()

    def test_an_older_server_that_cannot_tell_a_sum_beyond_64_bits(self, path: Path, server: ExtensionStandIn) -> None:
        server.spoil = lambda frames: b"".join(failure_to_bytes(i, "overflow", "too large") for i in range(len(frames)))
        with pytest.warns(FallbackWarning, match="a sum that does not fit into 64 bits"), pytest.raises(SumOverflowError):
            there(path, "large", server).sum()
        with pytest.raises(BackendError, match="does not fit into 64 bits"):
            there(path, "large", server, fallback="error").sum()

    def test_damaged_bytes_are_the_true_error(self, path: Path, server: ExtensionStandIn) -> None:
        with h5py.File(path) as file:
            info = file["x"].id.get_chunk_info(5)
        damaged = bytearray(path.read_bytes())
        damaged[info.byte_offset + 20 : info.byte_offset + 40] = bytes(20)
        path.write_bytes(bytes(damaged))
        with pytest.raises(CorruptChunkError, match=rf"offset {info.byte_offset}"):
            there(path, "x", server).max()
        with pytest.raises(ReductionistError, match=rf"offset {info.byte_offset}.*the server finds damaged"):
            there(path, "x", server, fallback="error").max()
        assert there(path, "x", server)[12:].max() == Active(path, "x")[12:].max()

    def test_in_other_processes(self, path: Path, server: ExtensionStandIn, process_pool: ProcessPoolExecutor) -> None:
        found = there(path, "x", server, executor=process_pool).run(("argmin", "std"), 0)
        assert found.report.where == {"reductionist": 16}
        assert bits(found.values) == bits(Active(path, "x").reduce(("argmin", "std"), 0))


LOCAL = {
    "a chunk that only the HDF5 library can read",
    "data among the metadata",
    "an answer larger than the chunk",
}
"""Why chunks of generated files are computed here."""


class TestRequests:
    def test_one_request(self, path: Path, server: ExtensionStandIn) -> None:
        report = there(path, "x", server).run("mean").report
        assert server.paths.count(SCHEMA) == server.paths.count("/v2/_probe") == server.paths.count(REDUCE) == 1
        (asked,) = server.batches
        assert asked["source"] == {"interface_type": "file", "url": path.as_uri()}
        assert asked["tasks"]["components"] == ["sum"]
        assert (report.where, report.backend) == ({"reductionist": 16}, "reductionist")
        assert 0 < report.bytes_moved < 16 * 150

    def test_chunks_that_were_never_written_are_not_asked_for(self, path: Path, server: ExtensionStandIn) -> None:
        assert there(path, "holes", server).run("max").report.where == {"reductionist": 8, "fill value": 8}
        assert [len(asked["tasks"]["tasks"]["sequence"]) for asked in server.batches] == [8]

    def test_small_chunks_are_asked_for_together(self, path: Path, server: ExtensionStandIn) -> None:
        assert there(path, "many", server).run("sum").report.where == {"reductionist": 400}
        (asked,) = server.batches
        assert asked["tasks"]["tasks"]["pieces"] == 400
        assert len(json.dumps(asked, separators=(",", ":"))) < 2000

    def test_batches_are_as_large_as_the_server_takes(self, path: Path, server: ExtensionStandIn) -> None:
        server.says = schema(most_tasks=5)
        there(path, "x", server).mean()
        assert sorted(len(asked["tasks"]["tasks"]["sequence"]) for asked in server.batches) == [1, 5, 5, 5]

    def test_requests_are_as_large_as_the_server_takes(self, path: Path, server: ExtensionStandIn) -> None:
        server.says = schema(request_bytes=700)
        found = there(path, "x", server).run("mean")
        assert found.values["mean"] == Active(path, "x").mean()
        assert max(len(json.dumps(asked, separators=(",", ":"))) for asked in server.batches) <= 700
        assert len(server.batches) > 1

    def test_requests_that_are_never_small_enough(self, path: Path, server: ExtensionStandIn) -> None:
        server.says = schema(request_bytes=100)
        with pytest.warns(FallbackWarning, match="16 of 16 .* a request larger than the server takes"):
            there(path, "x", server).mean()
        assert not server.batches

    def test_chunks_that_are_too_large(self, path: Path, server: ExtensionStandIn) -> None:
        server.says = schema(chunk_bytes=500)
        with pytest.warns(FallbackWarning, match="a chunk larger than the server takes"):
            there(path, "x", server).mean()

    def test_what_the_server_knows_is_remembered(self, path: Path, server: ExtensionStandIn) -> None:
        for _ in range(3):
            there(path, "x", server).max()
        assert server.paths.count(SCHEMA) == server.paths.count("/v2/_probe") == 1

    def test_a_store_login_and_a_token(self, path: Path, server: ExtensionStandIn) -> None:
        url = "https://store.example/bucket/a%20b.h5"
        server.files = {url: str(path)}
        origin = Origin("s3", url, "key", SECRET, "temporary credentials with a session token", "session", "eu-west-2")
        away = Active(
            Placed(str(path), origin), "x", backend="reductionist", server=server.url, backend_options={"token": "letmein"}
        )
        assert away.max() == Active(path, "x").max()
        (asked,) = server.batches
        assert asked["source"] == {"interface_type": "s3", "url": url, "region": "eu-west-2"}
        headers = next(headers for path, _, headers in server.requests if path == REDUCE)
        assert headers["Authorization"].startswith("Basic ")
        assert headers["X-Activestore-Session-Token"] == "session"
        assert {headers.get("X-Activestore-Token") for _, _, headers in server.requests} == {"letmein"}
        assert all("Authorization" not in headers for path, _, headers in server.requests if path != REDUCE)

    def test_a_file_for_the_server(self, path: Path, server: ExtensionStandIn) -> None:
        server.files = {"file:///srv/data/bucket/a%20b.h5": str(path)}
        origin = Origin("https", "https://store.example/bucket/a%20b.h5?sig=1", "key", SECRET)
        source = Placed(str(path), origin)
        options = {"endpoint_url": "file:///srv/data/"}
        away = Active(source, "x", backend="reductionist", server=server.url, backend_options=options)
        assert away.max() == Active(path, "x").max()
        assert SECRET not in repr(server.requests)
        assert all("Authorization" not in headers for _, _, headers in server.requests)
        with pytest.raises(ConfigurationError, match="endpoint_url"):
            ServerOptions.parse({"endpoint_url": "file://elsewhere/srv"})
        with v2(path).running() as plain:
            away = Active(source, "x", backend="reductionist", server=plain.url, backend_options=options)
            with pytest.raises(BackendUnavailableError, match="a server cannot reach it"):
                away.max()

    def test_obstacles(self, path: Path, server: ExtensionStandIn) -> None:
        origin = Origin("https", "https://store.example/a.h5", obstacle="headers of your own")
        away = Active(Placed(str(path), origin), "x", backend="reductionist", server=server.url)
        with pytest.warns(FallbackWarning, match="headers of your own"):
            away.max()
        server.says = schema(interface_types=["s3"])
        reductionist_client._PROBED.clear()
        with pytest.warns(FallbackWarning, match="reached by 'file'"):
            there(path, "x", server).max()


class TestDiscovery:
    @pytest.mark.parametrize(
        "says",
        [
            (200, {}, b"Hello, world!"),
            (200, {"Content-Type": "text/html"}, b"<html>"),
            (404, {}, b""),
            (404, {}, json.dumps(schema()).encode()),
            (301, {"Location": "/elsewhere"}, b""),
            (401, {}, b""),
            (200, {}, b"[" * 60_000),
            (200, {}, b"\xff\xfe"),
            (200, {}, b"1" * 100_000),
            {},
            {"server": "activestore"},
            schema() | {"server": "reductionist"},
            schema() | {"version": "<b>1</b>"},
            schema() | {"version": "1" * 99},
            schema() | {"extension": None},
            schema() | {"limits": {"workers": 1}},
            schema(path="activestore/v1/reduce"),
            schema(path="http://evil.example/"),
            schema(path="/a/../b"),
            schema(path="//evil.example/x"),
            schema(components="sum"),
            schema(components=["sum"] * 999),
            schema(components=[1]),
            schema(dtypes=["<f4\n"]),
            schema(most_tasks=0),
            schema(most_tasks=True),
            schema(most_tasks="many"),
            schema(workers=-1),
            schema(workers=1.5),
            schema(chunk_bytes=math.inf),
            schema(request_bytes=None),
        ],
    )
    def test_anything_else_is_plain_reductionist(self, says: Any, path: Path, server: ExtensionStandIn) -> None:
        server.says = says
        backend = open_backend(Placed(str(path), Origin("http", "http://store.example/x")), BackendOptions(server.url))
        backend.close()
        assert isinstance(backend, ReductionistBackend)
        assert (backend.capabilities.batch, backend._dialect.version) == (1, "v2")

    def test_what_is_usable(self) -> None:
        found = extension_of(json.dumps(schema(workers=10**30)))
        assert isinstance(found, Extension)
        assert (found.version, found.path, found.most_tasks, found.workers) == ("0.1.0", REDUCE, 4096, 1 << 40)
        assert pickle.loads(pickle.dumps(found)) == found

    @pytest.mark.parametrize(("workers", "calls"), [(1, 4), (2, 4), (8, 16), (1000, 64)])
    def test_how_much_it_is_asked_at_once(self, workers: int, calls: int, path: Path, server: ExtensionStandIn) -> None:
        server.says = schema(workers=workers)
        backend = open_backend(LocalSource(str(path)), BackendOptions(server.url))
        backend.close()
        assert isinstance(backend, ExtensionBackend)
        assert isinstance(backend, SelectiveBackend)
        assert isinstance(backend, BatchBackend)
        assert isinstance(backend, InterruptibleBackend)
        can = backend.capabilities
        assert (can.workers, can.batch, can.batch_bytes, can.joins) == (calls, 1024, 16 << 20, True)

    @pytest.mark.parametrize("options", [{"extension": False}, {"version": "v2"}])
    def test_it_can_be_left_alone(self, options: Any, path: Path, server: ExtensionStandIn) -> None:
        source = Placed(str(path), Origin("http", "http://store.example/x"))
        backend = open_backend(source, BackendOptions(server.url, options))
        backend.close()
        assert isinstance(backend, ReductionistBackend)
        assert SCHEMA not in server.paths
        with pytest.raises(BackendUnavailableError, match="a server cannot reach it; copy it"):
            there(path, "x", server, options).mean()

    def test_a_file_and_a_plain_server(self, path: Path) -> None:
        with v2(path).running() as plain, pytest.raises(BackendUnavailableError, match="a server cannot reach it; copy it"):
            Active(path, "x", backend="reductionist", server=plain.url).mean()

    def test_check(self, server: ExtensionStandIn) -> None:
        (record,) = activestore_backends()
        assert record.check is not None
        assert record.check(server.url, {}) == "answers as an activestore server 0.1.0 (v2, extension)"
        assert record.check(server.url, {"extension": False}) == "answers as a Reductionist server (v2)"
        server.says = (200, {}, b"Hello, world!")
        assert record.check(server.url, {}) == "answers as a Reductionist server (v2)"
        server.probed = error(401, "this server wants a token")
        with pytest.raises(BackendUnavailableError, match=r"token .* backend_options"):
            record.check(server.url, {})

    def test_both_are_asked_at_the_same_time(self, path: Path) -> None:
        both = threading.Barrier(2, timeout=10)

        class Slow(ExtensionStandIn):
            def answer(self, path: str, body: bytes, headers: Any) -> Any:
                if path in (SCHEMA, "/v2/_probe"):
                    both.wait()
                return super().answer(path, body, headers)

        with Slow().running() as slow:
            assert there(path, "x", slow).max() == Active(path, "x").max()


class TestFaults:
    @pytest.mark.parametrize(
        "spoil",
        [
            lambda frames: b"".join(frames)[:-1],
            lambda frames: b"".join(frames[:-1]),
            lambda frames: b"".join(frames[1:]),
            lambda frames: b"".join(frames[::-1]),
            lambda frames: b"".join(frames) + b"\0",
            lambda frames: b"".join(frames).replace(b'"<f4"', b'"<f8"'),
            lambda frames: b"".join(frames).replace(b'"max"', b'"min"'),
            lambda frames: b"".join(frames).replace(b'"sequence":3,', b'"sequence":9,'),
            lambda frames: b"{}",  # noqa: ARG005
            lambda frames: b"",  # noqa: ARG005
            lambda frames: b"".join(frames) + bytes(1 << 20),
        ],
    )
    def test_damage_is_never_a_number(self, spoil: Any, path: Path, server: ExtensionStandIn) -> None:
        server.spoil = spoil
        away = there(path, "x", server)
        with pytest.warns(FallbackWarning, match="16 of 16 .* (a damaged answer|larger than it may be)"):
            assert away.max() == Active(path, "x").max()
        with pytest.raises(ReductionistError, match=r"chunk \(0, 0\).* and 15 more.*(damaged|more than)"):
            away.with_options(fallback="error").max()

    def test_an_answer_of_another_kind(self, path: Path, server: ExtensionStandIn) -> None:
        server.kind = "text/html"
        with pytest.warns(FallbackWarning, match="a damaged answer"):
            assert there(path, "x", server).max() == Active(path, "x").max()

    def test_some_chunks_fail(self, path: Path, server: ExtensionStandIn) -> None:
        told = f"no luck with {SECRET} at http://u:{SECRET}@store.example/x?sig=1"
        server.spoil = lambda frames: b"".join([*frames[:3], failure_to_bytes(3, "origin", told), *frames[4:]])
        away = there(path, "x", server, {"token": SECRET})
        with pytest.warns(FallbackWarning, match="1 of 16 .* cannot read the object"):
            found = away.run("max")
        assert found.report.where == {"reductionist": 15, "local fallback": 1}
        assert found.values["max"] == Active(path, "x").max()
        with pytest.raises(ReductionistError, match="no luck with") as caught:
            away.with_options(fallback="error").max()
        assert SECRET not in f"{caught.value} {caught.value.reason} {caught.value.__dict__}"
        assert "sig=" not in str(caught.value)

    @pytest.mark.parametrize("status", [429, 500, 502, 503, 504, None])
    def test_what_is_tried_again(self, status: int | None, path: Path, server: ExtensionStandIn) -> None:
        bad = iter([True, True])
        server.refuse = lambda *_: (None if status is None else error(status, "busy")) if next(bad, False) else False
        assert there(path, "x", server).run("max").report.where == {"reductionist": 16}
        assert len(server.batches) == 3

    def test_the_server_says_when_to_come_back(self, path: Path, server: ExtensionStandIn) -> None:
        times: list[float] = []

        def refuse(*_: Any) -> Any:
            times.append(time.monotonic())
            return error(429, "busy", Retry_After="1") if len(times) == 1 else False

        server.refuse = refuse
        assert there(path, "x", server).max() == Active(path, "x").max()
        assert 1 <= times[1] - times[0] < 3

    def test_a_batch_that_is_too_large_is_halved(self, path: Path, server: ExtensionStandIn) -> None:
        def refuse(asked: Any, _: Any) -> Any:
            return error(413, "too large") if len(asked["tasks"]["tasks"]["sequence"]) > 3 else False

        server.refuse = refuse
        found = there(path, "x", server, workers=1).run("max")
        assert found.report.where == {"reductionist": 16}
        assert bits(found.values["max"]) == bits(Active(path, "x").max())
        server.refuse = lambda *_: error(400, "request data is not valid", "tasks are too many: 9, where 1 are allowed")
        with pytest.warns(FallbackWarning, match="a request larger than the server takes"):
            assert there(path, "x", server).max() == Active(path, "x").max()

    def test_half_of_a_batch_fails(self, path: Path, server: ExtensionStandIn) -> None:
        def refuse(asked: Any, _: Any) -> Any:
            steps = asked["tasks"]["tasks"]["sequence"]
            return error(413, "too large") if len(steps) > 8 else error(400, "odd") if steps[0] == 0 else False

        server.refuse = refuse
        with pytest.warns(FallbackWarning, match="8 of 16 .* the server answers 400: odd"):
            assert there(path, "x", server).max() == Active(path, "x").max()

    @pytest.mark.parametrize(
        ("answer", "said"),
        [
            (error(401, "this server wants a token", WWW_Authenticate="Bearer"), "set token in backend_options"),
            (error(401, "error retrieving object from S3 storage", "AccessDenied"), "set user and password in storage_options"),
            (error(403, "file:///x: this server may not read from there; allow it with --root"), "--root$"),
            (error(404, "gone"), "answers 404: gone$"),
        ],
    )
    def test_what_is_not_tried_again(self, answer: Any, said: str, path: Path, server: ExtensionStandIn) -> None:
        server.refuse = lambda *_: answer
        with pytest.raises(ReductionistError, match=said):
            there(path, "x", server, fallback="error").max()
        assert len(server.batches) == 1
        with pytest.warns(FallbackWarning, match=f"16 of 16 .* the server answers {answer[0]}"):
            assert there(path, "x", server).max() == Active(path, "x").max()

    def test_the_server_goes_in_mid_run(self, path: Path, server: ExtensionStandIn) -> None:
        server.says = schema(most_tasks=2)
        server.refuse = lambda *_: None if len(server.batches) > 3 else False
        with pytest.warns(FallbackWarning, match="10 of 16 .* does not answer any more"):
            found = there(path, "x", server, {"retries": 1}, workers=1).run("max")
        assert found.values["max"] == Active(path, "x").max()
        assert found.report.where == {"reductionist": 6, "local fallback": 10}
        assert len(server.batches) < 20

    def test_a_server_that_stalls(self, path: Path, server: ExtensionStandIn) -> None:
        done = threading.Event()
        server.refuse = lambda *_: done.wait(20) and False
        started = time.monotonic()
        with pytest.warns(FallbackWarning, match="no answer within 0.2 s"):
            there(path, "x", server, {"read_timeout": 0.2}).max()
        done.set()
        assert time.monotonic() - started < 3

    def test_requests_are_broken_off(self, path: Path, server: ExtensionStandIn) -> None:
        asked, done = threading.Event(), threading.Event()

        def refuse(*_: Any) -> Any:
            asked.set()
            done.wait(20)
            return False

        server.refuse = refuse
        backend = open_backend(LocalSource(str(path)), BackendOptions(server.url))
        assert isinstance(backend, ExtensionBackend)
        tasks = list(Active(path, "x").plan("max").tasks())
        failures: list[BackendError] = []

        def reduce() -> None:
            try:
                backend.reduce_chunks(tasks)
            except BackendError as failure:
                failures.append(failure)

        thread = threading.Thread(target=reduce)
        thread.start()
        assert asked.wait(10)
        started = time.monotonic()
        backend.abandon()
        thread.join(10)
        assert failures
        assert time.monotonic() - started < 2
        done.set()
        assert isinstance(backend.reduce_chunk(tasks[0]), ChunkPartial)
        backend.close()


class TestSecrets:
    def test_a_token_is_seen_nowhere(self, path: Path, server: ExtensionStandIn, monkeypatch: pytest.MonkeyPatch) -> None:
        backend = open_backend(LocalSource(str(path)), BackendOptions(server.url, {"token": SECRET}))
        assert SECRET not in f"{backend!r} {backend._server!r} {ServerOptions(token=SECRET)!r}"  # type: ignore[attr-defined]
        assert SECRET.encode() not in pickle.dumps(backend)
        # By the name of its variable, it goes along.
        monkeypatch.setenv("STORE_TOKEN", SECRET)
        raw = pickle.dumps(backend)
        assert SECRET.encode() not in raw
        again = pickle.loads(raw)
        task = next(Active(path, "x").plan("max").tasks())
        again.reduce_chunk(task)
        assert server.requests[-1][2]["X-Activestore-Token"] == SECRET
        again.close()
        backend.close()

    def test_a_token_that_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("STORE_TOKEN", SECRET)
        assert ServerOptions.parse({"token": {"env": "STORE_TOKEN"}}).token == SECRET
        named = BackendOptions(options={"token": {"env": "STORE_TOKEN"}})
        assert without_token(named).options == named.options
        monkeypatch.delenv("STORE_TOKEN")
        with pytest.raises(ConfigurationError, match="STORE_TOKEN is not set"):
            ServerOptions.parse({"token": {"env": "STORE_TOKEN"}})

    @pytest.mark.parametrize("token", ["", "a\nb", "ü", 5, True, b"x"])
    def test_a_token_that_is_none(self, token: Any) -> None:
        with pytest.raises(ConfigurationError, match="token: give the text") as caught:
            ServerOptions.parse({"token": token})
        assert repr(token) not in str(caught.value)

    def test_an_origin_does_not_show_its_token(self) -> None:
        assert SECRET not in repr(Origin("s3", "https://store.example/b/k", "key", SECRET, None, SECRET, "r"))


def test_a_local_file_is_told_by_its_address(tmp_path: Path) -> None:
    (tmp_path / "ä #?.nc").write_bytes(b"1234")
    origin = LocalSource(os.path.relpath(tmp_path / "ä #?.nc")).origin
    assert (origin.interface_type, origin.url) == ("file", (tmp_path / "ä #?.nc").as_uri())
    assert "#" not in origin.url


class TestConformance(BackendTests):
    """The suite for plugin authors."""

    @pytest.fixture
    def publish(self, server: ExtensionStandIn) -> Any:
        return lambda path: (str(path), {"backend": "reductionist", "server": server.url})
