"""The Reductionist backend against stand-ins: what is asked, what is believed, and what becomes of failures."""

import base64
import itertools
import json
import math
import pickle
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cbor2
import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from activestore import Active
from activestore.backends.reductionist import activestore_backends
from activestore.core.backend import BackendOptions
from activestore.core.missing import Missing
from activestore.core.selection import Slice, region_index, region_shape
from activestore.errors import (
    BackendError,
    BackendRefusedError,
    BackendUnavailableError,
    ConfigurationError,
    FallbackWarning,
    ReductionistError,
)
from activestore.network.location import Origin
from activestore.reductionist import client as reductionist_client
from activestore.reductionist.backend import ReductionistBackend
from activestore.reductionist.client import ServerOptions, server_address
from activestore.reductionist.request import _serde_reads, json_number, missing_text
from activestore.reductionist.summation import FLOAT32_TERMS, split
from activestore.sources.open import LocalSource
from tests.reductionist.reductionist_v1 import Answer, StandIn, computed, error, v1

SECRET = "sesame-open"  # noqa: S105  # the tests' own
QUICK = {"retries": 0, "read_timeout": 5}


class Placed(LocalSource):
    """A local file that a server can reach as well, or so it says."""

    def __init__(self, path: str, origin: Origin) -> None:
        super().__init__(path)
        self.origin = origin

    def __reduce__(self) -> Any:
        return type(self), (self.uri, self.origin)


@pytest.fixture(autouse=True)
def nothing_probed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reductionist_client, "_PROBED", {})
    monkeypatch.setattr(reductionist_client, "_FIRST_PAUSE", 0.001)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file with 4 chunks of 6 x 40 numbers, of several types."""
    (tmp_path / "bucket").mkdir()
    numbers = np.random.default_rng(1).normal(280, 10, (12, 80))
    with h5py.File(tmp_path / "bucket" / "a b.h5", "w") as file:
        for kind in ("f4", "f8", "i4", "u4", "i8", "u8", ">f4", ">i8"):
            scale = 1 if "f" in kind else 1e13 if "8" in kind else 1e6
            file.create_dataset(kind, data=(scale * numbers).astype(kind), chunks=(6, 40), compression="gzip", shuffle=True)
        file.create_dataset("masked", data=numbers.round().astype("f4"), chunks=(6, 40)).attrs["missing_value"] = np.float32(
            280
        )
        spoilt = numbers.astype("f4")
        spoilt[0, 0] = np.nan
        file.create_dataset("nan", data=spoilt, chunks=(6, 40))
        file.create_dataset("contiguous", data=numbers)
    return tmp_path / "bucket" / "a b.h5"


def placed(path: Path, **changes: Any) -> Placed:
    fields = {"interface_type": "s3", "url": "http://store.example/bucket/a%20b.h5", "user": "key", "password": SECRET}
    return Placed(str(path), Origin(**fields | changes))


def active(path: Path, variable: str, server: str, options: dict[str, Any] | None = None, **origin: Any) -> Active:
    return Active(placed(path, **origin), variable, backend="reductionist", server=server, backend_options=options or {})


def v2(path: Path, spoil: Callable[[str, Any, dict[str, Any]], Any] | None = None) -> StandIn:
    """A v2 server of NumPy on one file; `spoil` changes its answer before it is sent, or returns another."""
    stored = path.read_bytes()

    def answer(url: str, fields: Any, headers: Any) -> Answer:
        operation = url.removeprefix("/v2/")
        if operation not in ("count", "min", "max", "sum", "select"):
            return error(404, f"unsupported operation {operation}")
        values, count = computed(operation, fields, stored)
        said = {
            "bytes": values.tobytes(),
            "dtype": "int64" if operation == "count" else fields["dtype"],
            "byte_order": "little",
            "shape": list(values.shape),
            "count": count.ravel().tolist(),
        }
        changed = said if spoil is None else spoil(operation, fields, said)
        if isinstance(changed, dict):
            return 200, {"Content-Type": "application/cbor"}, cbor2.dumps(changed)
        return changed

    return StandIn(answer)


def pieces() -> st.SearchStrategy[tuple[tuple[int, ...], tuple[Slice, ...], tuple[int, ...]]]:
    """Shapes, regions and axes."""

    @st.composite
    def draw_all(draw: st.DrawFn) -> Any:
        shape = tuple(draw(st.lists(st.sampled_from([1, 2, 3, 4, 5, 6, 7, 8, 12, 17, 24]), min_size=0, max_size=4)))
        region = []
        for length in shape:
            start = draw(st.one_of(st.just(0), st.integers(0, length - 1)))
            stop = draw(st.one_of(st.just(length), st.integers(start + 1, length)))
            region.append(Slice(start, stop, draw(st.sampled_from([1, 1, 1, 2, 5]))))
        axes = tuple(axis for axis in range(len(shape)) if draw(st.booleans()))
        return shape, tuple(region), axes

    return draw_all()


class TestSplit:
    @given(pieces(), st.one_of(st.none(), st.integers(0, 20)), st.one_of(st.none(), st.integers(0, 300)))
    def test_the_same_cells_within_the_limits(self, piece: Any, terms: int | None, product: int | None) -> None:
        shape, region, axes = piece
        cut = split(shape, region, axes, terms=terms, product=product)
        assert math.prod(cut.shape) == math.prod(shape)
        assert len(cut.shape) == len(cut.region) >= 1
        assert list(cut.axes) == sorted(set(cut.axes))
        lengths = region_shape(tuple(cut.region[axis] for axis in cut.axes))
        assert terms is None or sum(n - 1 for n in lengths) <= terms
        assert product is None or math.prod(lengths) <= max(1, product)
        numbers = np.arange(math.prod(shape)).reshape(shape)
        there = numbers.reshape(cut.shape)[region_index(cut.region)].sum(axis=cut.axes)
        assert there.shape == cut.answer
        assert cut.cells == there.size
        here = there.sum(axis=cut.left, keepdims=True)
        right = numbers[region_index(region)].sum(axis=axes, keepdims=True)
        assert np.array_equal(here.reshape(right.shape), right)
        if terms is None and product is None:
            assert cut.cells == right.size

    @pytest.mark.parametrize(
        ("shape", "most"), [((10, 480, 640), 750), ((4_000_000,), 3200), ((40, 40, 41), 210), ((2**22,), 1024)]
    )
    def test_answers_are_small(self, shape: tuple[int, ...], most: int) -> None:
        whole = tuple(Slice(0, n, 1) for n in shape)
        cut = split(shape, whole, tuple(range(len(shape))), terms=FLOAT32_TERMS)
        assert cut.cells <= most
        assert cut.shape[0] > 2

    def test_a_prime_length_stays_whole(self) -> None:
        assert split((99991,), (Slice(0, 99991, 1),), (0,), terms=FLOAT32_TERMS).cells == 99991


class TestMissing:
    @pytest.mark.parametrize(
        ("missing", "dtype", "text"),
        [
            (Missing(), "f4", None),
            (Missing(values=(math.nan,)), "f8", None),
            (Missing(values=(0,)), "i4", '{"missing_value": 0}'),
            (Missing(values=(-1, 2**64)), "i8", '{"missing_value": -1}'),
            (Missing(values=(2**64 - 2,)), "u8", '{"missing_value": 18446744073709551614}'),
            (Missing(values=(1.0, math.nan, 2.0)), "f4", '{"missing_values": [1.0, 2.0]}'),
            (Missing(valid_min=0), "i4", '{"valid_min": 0}'),
            (Missing(valid_max=0), "i4", '{"valid_max": 0}'),
            (Missing(valid_min=0.0), ">f8", '{"valid_min": 0.0}'),
            (Missing(valid_min=-1, valid_max=1, values=(-5, 7)), "i8", '{"valid_range": [-1, 1]}'),
            (Missing(valid_min=0.0, values=(-1.0,)), "f4", '{"valid_min": 0.0}'),
        ],
    )
    def test_forms(self, missing: Missing, dtype: str, text: str | None) -> None:
        assert missing_text(missing, dtype) == text

    @pytest.mark.parametrize(
        ("missing", "said"),
        [
            (Missing(values=(0.5,), valid_min=0.0), "missing values and a valid range together"),
            (Missing(values=(9.0,), valid_min=0.0), "missing values and a valid range together"),
            (Missing(values=(math.inf,)), "an infinite missing value"),
            (Missing(valid_min=1.0, valid_max=1.0), "a valid range that is empty or a single number"),
            (Missing(valid_min=2.0, valid_max=1.0), "a valid range that is empty or a single number"),
        ],
    )
    def test_what_cannot_be_said(self, missing: Missing, said: str) -> None:
        with pytest.raises(BackendRefusedError) as caught:
            missing_text(missing, "f8")
        assert caught.value.reason == said

    @given(st.floats(allow_nan=False, allow_infinity=False))
    def test_numbers_are_read_as_they_are(self, number: float) -> None:
        try:
            text = json_number(number)
        except BackendRefusedError as refused:
            assert "would read wrongly" in refused.reason  # noqa: PT017  # rare, and no harm
            return
        assert json.loads(text) == number
        assert _serde_reads(text) == number

    def test_the_default_fill_value_can_be_said(self) -> None:
        assert float(json_number(9.969209968386869e36)) == 9.969209968386869e36


SELECTIONS = [(), (slice(2, 11),), (slice(None), slice(3, 70, 5)), (4,), (slice(None), slice(40, 80))]


class TestV1:
    """The last releases with v1 cannot be built any more: a stand-in answers."""

    @pytest.mark.parametrize("kind", ["f4", "f8", "i4", "u4", "i8", "u8", ">f4", ">i8", "masked", "contiguous"])
    def test_the_same_as_local(self, kind: str, path: Path) -> None:
        with v1(path.parents[1]).running() as server:
            for key, axis in itertools.product(SELECTIONS, (None, 0, -1)):
                there, here = active(path, kind, server.url)[key], Active(path, kind)[key]
                found, right = there.run(("sum", "min", "max", "count"), axis), here.run(("sum", "min", "max", "count"), axis)
                assert set(found.report.where) == {"reductionist"}
                assert np.array_equal(found.count, right.count)
                for name, value in right.values.items():
                    np.testing.assert_allclose(np.ma.filled(found.values[name]), np.ma.filled(value), rtol=1e-6)

    def test_axes_are_always_named(self, path: Path) -> None:
        with v1(path.parents[1]).running() as server:
            active(path, "f4", server.url).mean()
        asked = [fields for url, fields, _ in server.requests if url == "/v1/sum"]
        assert len(asked) == 4
        assert all(fields["shape"][0] == 1 and 0 < len(fields["axis"]) < len(fields["shape"]) for fields in asked)
        assert {(fields["source"], fields["bucket"], fields["object"]) for fields in asked} == {
            ("http://store.example", "bucket", "a b.h5")
        }

    def test_a_release_without_axes_does_what_it_can(self, path: Path) -> None:
        with v1(path.parents[1], axes=False).running() as server:
            there = active(path, "i4", server.url, {"disable_chunk_cache": True})
            found = there.run(("min", "max"))
            assert found.values == Active(path, "i4").reduce(("min", "max"))
            assert found.report.where == {"reductionist": 4}
            assert there.count() == 960
            assert np.array_equal(there[:, 3].read(), Active(path, "i4")[:, 3].read())
            for reduction, axis in (("sum", None), ("min", 0)):
                with pytest.warns(FallbackWarning, match="a server so old that it has no axes"):
                    assert np.array_equal(there.reduce(reduction, axis), Active(path, "i4").reduce(reduction, axis))

    def test_objects_outside_s3_are_left_alone(self, path: Path) -> None:
        with v1(path.parents[1]).running() as server, pytest.warns(FallbackWarning, match="an object outside S3"):
            assert active(path, "i4", server.url, interface_type="http").count() == 960
        assert [url for url, _, _ in server.requests] == ["/v2/_probe", "/v1/_probe"]


class TestRequests:
    def test_one_request(self, path: Path) -> None:
        with v2(path).running() as server:
            active(path, ">f4", server.url)[:6, 10:40].max(axis=1)
        (asked,) = [fields for url, fields, _ in server.requests if url == "/v2/max"]
        with h5py.File(path) as file:
            info = file[">f4"].id.get_chunk_info(0)
        assert asked.pop("missing").keys() == {"missing_value"}
        assert asked == {
            "interface_type": "s3",
            "url": "http://store.example/bucket/a%20b.h5",
            "dtype": "float32",
            "byte_order": "big",
            "offset": info.byte_offset,
            "size": info.size,
            "compression": {"id": "zlib"},
            "filters": [{"id": "shuffle", "element_size": 4}],
            "shape": [6, 4, 5, 2],
            "selection": [[0, 6, 1], [1, 4, 1], [0, 5, 1], [0, 2, 1]],
            "axis": [1, 2, 3],
        }
        login = base64.b64encode(f"key:{SECRET}".encode()).decode()
        assert [headers.get("Authorization") for _, _, headers in server.requests] == [None, f"Basic {login}"]

    def test_the_store_as_the_server_sees_it(self, path: Path) -> None:
        with v2(path).running() as server:
            active(path, "f4", server.url, {"endpoint_url": "https://inside:9000"}).max()
            active(path, "f4", server.url, {"endpoint_url": "https://inside"}, interface_type="http").max()
        asked = [(fields["interface_type"], fields["url"]) for url, fields, _ in server.requests if url == "/v2/max"]
        assert set(asked) == {("s3", "https://inside:9000/bucket/a%20b.h5"), ("https", "https://inside/bucket/a%20b.h5")}

    def test_a_field_that_the_server_does_not_know(self, path: Path) -> None:
        def spoil(_: str, fields: Any, said: Any) -> Any:
            old = error(400, "request data is not valid", "unknown field `option_disable_chunk_cache`, expected one of …")
            return old if "option_disable_chunk_cache" in fields else said

        with v2(path, spoil).running() as server:
            found = active(path, "f4", server.url, {"disable_chunk_cache": True}).run("max")
            assert found.report.where == {"reductionist": 4}

    def test_the_cache_is_not_asked_about_otherwise(self, path: Path) -> None:
        with v2(path).running() as server:
            active(path, "f4", server.url).max()
            active(path, "f4", server.url, {"disable_chunk_cache": True}).max()
        asked = [fields.get("option_disable_chunk_cache") for url, fields, _ in server.requests if url == "/v2/max"]
        assert asked == [None] * 4 + [True] * 4

    def test_what_there_is_to_move_decides(self, path: Path) -> None:
        with v2(path).running() as server:
            there = active(path, "f4", server.url)
            assert there[0, :3].run("std").report.where == {"reductionist": 1}
            with pytest.warns(FallbackWarning, match="the component 'moments', which needs the whole chunk"):
                there.std()
            assert there[3:5, 7:9].run("mean", ()).report.where == {"reductionist": 1}
            with pytest.warns(FallbackWarning, match="an answer larger than the chunk"):
                there.max(axis=())
        assert {url for url, _, _ in server.requests} == {"/v2/_probe", "/v2/select"}

    def test_a_server_is_probed_once(self, path: Path) -> None:
        with v2(path).running() as server:
            for _ in range(3):
                active(path, "f4", server.url).max()
            active(path, "f4", server.url, {"version": "v2"}).max()
        assert [url for url, _, _ in server.requests].count("/v2/_probe") == 1

    def test_an_obstacle_is_said(self, path: Path) -> None:
        with v2(path).running() as server, pytest.warns(FallbackWarning, match="4 of 4 chunks .* temporary credentials"):
            active(path, "f4", server.url, obstacle="temporary credentials with a session token").max()

    def test_a_valid_range_bounds_integer_sums(self, path: Path) -> None:
        with h5py.File(path, "r+") as file:
            file["i4"].attrs["valid_range"] = np.array([0, 10**9], "i4")
        with v2(path).running() as server:
            assert active(path, "i4", server.url).sum() == Active(path, "i4").sum()
            assert active(path, "u8", server.url).sum() == Active(path, "u8").sum()
        assert [url for url, _, _ in server.requests].count("/v2/sum") == 8
        assert [url for url, _, _ in server.requests].count("/v2/max") == 4
        assert not [url for url, _, _ in server.requests if url == "/v2/min"]


def changed(**changes: Any) -> Callable[..., Any]:
    return lambda _, __, said: said | changes


def sent(*headers: str, body: bytes = b"{}", status: int = 200) -> Callable[..., Any]:
    kinds = {"Content-Type": headers[0]} if headers else {}
    return lambda *_: (status, kinds, body)


class TestAnswers:
    @pytest.mark.parametrize(
        "spoil",
        [
            sent("text/html"),
            sent(),
            sent("application/cbor", body=b""),
            sent("application/cbor", body=b"\xa1"),
            sent("application/cbor", body=b"\x80"),
            sent("application/cbor", body=b"\x9b" + b"\xff" * 8),
            sent("application/cbor", body=bytes(60_000)),
            changed(bytes=b"123"),
            changed(bytes=None),
            changed(dtype="float64"),
            changed(byte_order="middle"),
            changed(shape=[1]),
            changed(shape=None),
            changed(count=[]),
            changed(count=[1, 2]),
            changed(count=[-1]),
            changed(count=[10**6]),
            changed(count=[2**70]),
            changed(count=[1.5]),
            changed(count=None),
        ],
    )
    def test_nonsense_is_never_a_number(self, spoil: Any, path: Path) -> None:
        with v2(path, spoil).running() as server:
            there = active(path, "f4", server.url)
            with pytest.warns(FallbackWarning, match="a damaged answer|larger than it may be"):
                assert there.max() == Active(path, "f4").max()
            with pytest.raises(ReductionistError, match=r"chunk \(0, 0\).*(damaged|more than)"):
                there.with_options(fallback="error").max()

    @pytest.mark.parametrize(
        ("spoilt", "names", "reason"),
        [
            ({"bytes": np.float32(np.nan).tobytes()}, "min", "NaN among the numbers"),
            ({"bytes": np.finfo("f4").max.tobytes()}, "min", "infinities among the numbers"),
            ({"bytes": np.finfo("f4").min.tobytes()}, "max", "infinities among the numbers"),
        ],
    )
    def test_numbers_that_cannot_be_relied_on(self, spoilt: Any, names: str, reason: str, path: Path) -> None:
        with v2(path, changed(**spoilt)).running() as server, pytest.warns(FallbackWarning, match=reason):
            assert active(path, "f4", server.url).reduce(names) == Active(path, "f4").reduce(names)

    def test_counts_that_differ(self, path: Path) -> None:
        def spoil(operation: str, _: Any, said: Any) -> Any:
            return said | {"count": [n - (operation == "max") for n in said["count"]]}

        with v2(path, spoil).running() as server, pytest.warns(FallbackWarning, match="counts that do not agree"):
            active(path, "f4", server.url).reduce(("min", "max"))

    @pytest.mark.parametrize("proxied", [False, True])
    def test_nan_under_min_is_met_once(self, proxied: bool, path: Path) -> None:
        def spoil(operation: str, _: Any, said: Any) -> Any:
            if operation == "min" and np.isnan(np.frombuffer(said["bytes"], "f4")).any():
                return (502, {}, b"bad gateway") if proxied else None
            return said

        with v2(path, spoil).running() as server:
            there = active(path, "nan", server.url)
            with pytest.warns(FallbackWarning, match="1 of 4 .* the connection is lost under min or max: NaN, probably"):
                assert there.min() == Active(path, "nan").min()
            assert [url for url, _, _ in server.requests].count("/v2/min") == 5
            with pytest.warns(FallbackWarning, match="1 of 4 .* NaN among the numbers"):
                assert there.reduce(("min", "mean")) == pytest.approx(Active(path, "nan").reduce(("min", "mean")), rel=1e-6)
            with pytest.warns(FallbackWarning, match="1 of 4 .* NaN among the numbers"):
                assert there.count() == 959


class TestFailures:
    @pytest.mark.parametrize("status", [500, 502, 503, 504])
    def test_what_is_tried_again(self, status: int, path: Path) -> None:
        bad = iter([True, True] + [False] * 20)
        spoil = lambda _, __, said: error(status, "busy") if next(bad) else said  # noqa: E731
        with v2(path, spoil).running() as server:
            assert active(path, "f8", server.url)[:6, :40].run("sum").report.where == {"reductionist": 1}
        assert len(server.requests) == 4

    @pytest.mark.parametrize(
        ("status", "message", "causes", "said"),
        [
            (401, "error retrieving object from S3 storage", ["InvalidAccessKeyId"], "set key and secret in storage_options"),
            (400, "error retrieving object from S3 storage", ["service error", "NoSuchKey: gone"], "set endpoint_url"),
            (404, "error receiving object metadata from S3 storage", [], "set key and secret in storage_options"),
            (400, "request data is not valid", ["odd"], r"answers 400: request data is not valid \(odd\)"),
            (405, "", [], "answers 405: no message"),
        ],
    )
    def test_what_is_not_tried_again(self, status: int, message: str, causes: list[str], said: str, path: Path) -> None:
        with v2(path, lambda *_: error(status, message, *causes)).running() as server:
            there = active(path, "f8", server.url)
            with pytest.raises(ReductionistError, match=said) as caught:
                there[:6, :40].with_options(fallback="error").sum()
            assert len(server.requests) == 2
            assert (caught.value.status, caught.value.caused_by) == (status, tuple(causes))
            assert str(path) in str(caught.value)
            with pytest.warns(FallbackWarning, match=f"the server answers {status}"):
                assert there.sum() == Active(path, "f8").sum()

    def test_credentials_that_are_refused_are_not_tried_on_every_chunk(self, path: Path) -> None:
        with v2(path, lambda *_: error(401, "access denied")).running() as server, pytest.warns(FallbackWarning):
            active(path, "f8", server.url).with_options(workers=1).sum()
        assert len(server.requests) == 2

    def test_secrets_are_seen_nowhere(self, path: Path) -> None:
        told = f"no luck with key:{SECRET} at http://u:{SECRET}@store.example/bucket?sig=abc"
        with v2(path, lambda *_: error(400, told, told)).running() as server:
            there = active(path, "f8", server.url)
            with pytest.raises(ReductionistError) as caught:
                there.with_options(fallback="error").sum()
            backend = ReductionistBackend(placed(path), BackendOptions(server.url))
            seen = f"{caught.value} {caught.value.reason} {caught.value.__dict__} {backend!r} {backend._server!r}"
            backend.close()
        assert "no luck with" in seen
        assert SECRET not in seen
        assert "sig=" not in seen

    def test_a_pickle_takes_the_password_from_the_source(self, path: Path) -> None:
        class Forgetful(Placed):
            def __reduce__(self) -> Any:
                return placed, (path,)

        with v2(path).running() as server:
            backend = ReductionistBackend(Forgetful(str(path), placed(path).origin), BackendOptions(server.url))
            raw = pickle.dumps(backend)
            assert SECRET.encode() not in raw
            again = pickle.loads(raw)
            task = next(Active(path, "f8").plan("sum").tasks())
            assert again.reduce_chunk(task).states["sum"] == backend.reduce_chunk(task).states["sum"]
            assert [url for url, _, _ in server.requests].count("/v2/_probe") == 1
            backend.close()
            again.close()

    def test_a_server_that_dies(self, path: Path) -> None:
        with h5py.File(path, "r+") as file:
            file.create_dataset("many", data=np.ones((400, 50)), chunks=(1, 50))
        with v2(path).running() as server:
            there = active(path, "many", server.url, QUICK).with_options(workers=2)
            there[0].sum()
            server.answer = lambda *_: None
            with pytest.warns(FallbackWarning, match="the server does not answer any more"):
                assert there.sum() == 20_000
        assert len(server.requests) < 20

    def test_waiting_requests_are_broken_off(self, path: Path) -> None:
        asked, done = threading.Event(), threading.Event()

        def spoil(_: str, __: Any, said: Any) -> Any:
            asked.set()
            done.wait(20)
            return said

        with v2(path, spoil).running() as server:
            backend = ReductionistBackend(placed(path), BackendOptions(server.url))
            task = next(Active(path, "f8").plan("sum").tasks())
            failures: list[BackendError] = []

            def reduce() -> None:
                try:
                    backend.reduce_chunk(task)
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
            assert backend.reduce_chunk(task).count == 240
            backend.close()

    def test_a_server_that_stalls(self, path: Path) -> None:
        done = threading.Event()
        with v2(path, lambda *_: done.wait(20)).running() as server:
            started = time.monotonic()
            with pytest.warns(FallbackWarning, match="no answer within 0.2 s"):
                active(path, "f8", server.url, {"read_timeout": 0.2}).sum()
            assert time.monotonic() - started < 2
            done.set()


class TestOpening:
    @pytest.mark.parametrize(
        ("answer", "said"),
        [
            ((404, {}, b""), "answers, but is not a Reductionist server; check the address"),
            ((404, {}, b'{"errors": []}'), "is not a Reductionist server"),
            ((200, {}, b"hello"), r"is not a Reductionist server \(200\)"),
            ((405, {}, b""), r"is not a Reductionist server \(405\)"),
            ((401, {}, b""), r"refuses this client \(401\)"),
            ((403, {}, b""), r"refuses this client \(403\)"),
            ((503, {}, b""), "answers 503.*try again later"),
            ((301, {"Location": "https://there.example/?t=1"}, b""), "redirects to https://there.example/; give that address"),
            ((400, {}, b"plain HTTP request to HTTPS port"), "is it an https:// server"),
            (None, "the connection was lost .*is it an https:// server"),
        ],
    )
    def test_not_a_server(self, answer: Any, said: str, path: Path) -> None:
        with StandIn(lambda *_: answer).running() as server:
            with pytest.raises(BackendUnavailableError, match=said) as caught:
                active(path, "f4", server.url, QUICK).mean()
            assert "\n" not in str(caught.value)
            (record,) = activestore_backends()
            with pytest.raises(BackendUnavailableError, match=said):
                record.check(server.url, QUICK)

    def test_nothing_listens(self, path: Path) -> None:
        with v2(path).running() as server:
            pass
        with pytest.raises(BackendUnavailableError, match="nothing listens there"):
            active(path, "f4", server.url).mean()

    def test_a_plain_server_for_https(self, path: Path) -> None:
        with v2(path).running() as server, pytest.raises(BackendUnavailableError, match="is it a plain http:// server"):
            active(path, "f4", server.url.replace("http:", "https:")).mean()

    @pytest.mark.parametrize("axes", [True, False])
    def test_check(self, axes: bool, path: Path) -> None:
        (record,) = activestore_backends()
        assert record.available() is None
        with v2(path).running() as new, v1(path, axes=axes).running() as old:
            assert record.check(new.url, {}) == "answers as a Reductionist server (v2)"
            assert record.check(old.url + "/", {}) == "answers as a Reductionist server (v1)"

    def test_a_local_file(self, path: Path) -> None:
        with pytest.raises(BackendUnavailableError, match="a server cannot reach it; copy it to a store"):
            Active(path, "f4", server="http://127.0.0.1:1").mean()

    @pytest.mark.parametrize(
        "server",
        [
            *(None, "", "reduce.example:8080", "ftp://reduce.example", "https://", "http://me:hunter@there", "http://[there"),
            *(
                "http://me:hun/ter@there",
                "http://me:hun?ter@there",
                "http://there/?code=hunter",
                "http://me:hunter\u2100@there",
            ),
        ],
    )
    def test_no_address(self, server: Any) -> None:
        with pytest.raises(ConfigurationError, match=r"server=|backend 'reductionist' needs") as caught:
            server_address(server)
        assert "hun" not in str(caught.value)

    @pytest.mark.parametrize(
        ("options", "said"),
        [
            ({"retry": 1}, "no option 'retry'; did you mean 'retries'"),
            ({"zzz": 1}, "no option 'zzz'; it has verify, connect_timeout"),
            ({"retries": -1}, "retries=-1"),
            ({"retries": True}, "retries=True"),
            ({"read_timeout": 0}, "read_timeout=0"),
            ({"connect_timeout": "5"}, "connect_timeout='5'"),
            ({"verify": 1.5}, "verify=1.5"),
            ({"version": "v3"}, "version='v3'"),
            ({"endpoint_url": "store:9000"}, "endpoint_url='store:9000'"),
            ({"disable_chunk_cache": "yes"}, "disable_chunk_cache='yes'"),
        ],
    )
    def test_options_that_are_not_understood(self, options: dict[str, Any], said: str, path: Path) -> None:
        with pytest.raises(ConfigurationError, match=said):
            ServerOptions.parse(options)
        with pytest.raises(ConfigurationError, match=said):
            active(path, "f4", "http://127.0.0.1:1", options).mean()

    def test_options_as_they_are_written(self, tmp_path: Path) -> None:
        assert ServerOptions.parse({"verify": tmp_path, "read_timeout": 9}).verify == str(tmp_path)

    def test_no_verification_is_warned_of(self, path: Path) -> None:
        with v2(path).running() as server, warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            active(path, "f8", server.url, {"verify": False}).sum()
        assert any("not verified" in str(one.message) for one in caught)

    def test_importing_the_package_imports_nothing_optional(self) -> None:
        code = "import sys, activestore; print(sorted({'cbor2', 'urllib3', 'ssl'} & set(sys.modules)))"
        assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"

    def test_what_is_missing_is_named(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "cbor2" else name)
        with pytest.raises(BackendUnavailableError, match=r"cbor2 not installed: pip install '.\[reductionist\]'"):
            active(path, "f4", "http://127.0.0.1:1").mean()


class TestGroups:
    """A server that knows no groups is asked for each by itself, where they are few."""

    @pytest.mark.parametrize("variable", ["f4", ">f4", "f8", "i4", "u4", "masked", "contiguous"])
    @pytest.mark.parametrize("axis", [1, (0, 1)])
    def test_one_request_for_each(self, variable: str, axis: Any, path: Path) -> None:
        by = {1: np.arange(80) // 25 * 2}
        with v2(path).running() as server:
            here = Active(path, variable).run(("mean", "min", "max", "count"), axis, by=by)
            found = active(path, variable, server.url).run(("mean", "min", "max", "count"), axis, by=by)
        assert found.report.where == {"reductionist": here.report.chunks}
        assert found.count.tolist() == here.count.tolist()
        assert (found.count[..., 1] == 0).all()
        for name in ("min", "max", "count"):
            assert found.values[name].tolist() == here.values[name].tolist()
            assert found.values[name].dtype == here.values[name].dtype
        np.testing.assert_allclose(found.values["mean"], here.values["mean"], rtol=1e-6)
        np.testing.assert_array_equal(np.ma.getmaskarray(found.values["mean"]), np.ma.getmaskarray(here.values["mean"]))

    def test_turns_and_steps(self, path: Path) -> None:
        by = {0: np.arange(6) % 3, 1: np.arange(40) // 20}
        with v2(path).running() as server:
            here = Active(path, "f8")[::-2, 1::2].reduce("max", by=by)
            found = active(path, "f8", server.url)[::-2, 1::2].run("max", by=by)
        assert found.value.shape == (3, 2)
        assert found.value.tolist() == here.tolist()
        assert found.report.where == {"reductionist": 4}

    def test_one_group_in_a_chunk_is_nothing_special(self, path: Path) -> None:
        halves = np.arange(12) // 6
        with v2(path).running() as server:
            found = active(path, "f8", server.url).run("mean", by={0: halves})
        assert found.report.where == {"reductionist": 4}
        np.testing.assert_allclose(found.value, Active(path, "f8").reduce("mean", by={0: halves}), rtol=1e-12)

    def test_what_is_cut_out_there_is_grouped_here(self, path: Path) -> None:
        by = {0: [0, 3, 1, 0, 2, 1]}
        with v2(path).running() as server:
            found = active(path, "f8", server.url)[:6, 3:5].run("std", 0, by=by)
        assert found.report.where == {"reductionist": 1}
        np.testing.assert_array_equal(found.value, Active(path, "f8")[:6, 3:5].reduce("std", 0, by=by))

    @pytest.mark.parametrize("labels", [np.arange(80) // 2, np.arange(80) ** 2 % 7])
    def test_many_groups_or_odd_ones_are_computed_here(self, labels: Any, path: Path) -> None:
        with v2(path).running() as server, pytest.warns(FallbackWarning, match="several groups in a chunk"):
            found = active(path, "f8", server.url).run("mean", by={1: labels})
        assert found.report.where == {"local fallback": 4}
        assert found.value.tolist() == Active(path, "f8").reduce("mean", by={1: labels}).tolist()

    def test_conditions_are_left_to_others(self, path: Path) -> None:
        with v2(path).running() as server, pytest.warns(FallbackWarning, match="a condition on the values"):
            found = active(path, "f8", server.url).run("mean", where="> 280")
        assert found.value == Active(path, "f8").reduce("mean", where="> 280")
        with pytest.raises(BackendRefusedError, match="a condition on the values"), v2(path).running() as server:
            active(path, "f8", server.url).with_options(fallback="error").run("mean", where="> 280")
