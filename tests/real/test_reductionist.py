"""Reductions by a real Reductionist beside a real store: the same as local ones, within the documented bound."""

import itertools
import math
import shutil
import uuid
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import netCDF4
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from activestore import Active, Reduction
from activestore.errors import (
    BackendUnavailableError,
    FallbackWarning,
    ReductionistError,
    SumOverflowError,
)
from activestore.reductionist.request import json_number
from tests.expected import requests
from tests.generated import NAME, recipes, write
from tests.real.servers import Authority, Reductionist, S3Store, WebServer, run_reductionist

pytestmark = pytest.mark.real
BOUND = 1e-6
"""Relative to the mean of |v|: what the documentation promises of float32."""
RNG = np.random.default_rng(7)


class Pair:
    """A file in the store, and the same reduced by the server and here."""

    def __init__(self, store: S3Store, server: Reductionist, name: str) -> None:
        self.path, self.store, self.server = store.folder / name, store, server

    def there(self, variable: str = "x", **options: Any) -> Active:
        """The variable, reduced by the server."""
        given = {"storage_options": self.store.storage_options, "server": self.server.url, "backend": "reductionist"}
        return Active(f"s3://{self.store.bucket}/{self.path.name}", variable, **(given | options))

    def here(self, variable: str = "x") -> Active:
        """The variable, reduced here."""
        return Active(self.path, variable)

    def put(self, numbers: np.ndarray, attributes: dict[str, Any] | None = None, **layout: Any) -> "Pair":
        """Write the numbers as the variable "x" of a new object: a store without ETags dates them to the second only."""
        self.path = self.path.with_name(f"{uuid.uuid4().hex}.h5")
        with h5py.File(self.path, "w", userblock_size=layout.pop("userblock_size", 0)) as file:
            file.create_dataset("x", data=numbers, **layout).attrs.update(attributes or {})
        return self


@pytest.fixture
def pair(s3_store: S3Store, reductionist: Reductionist) -> Pair:
    """An object of the test's own."""
    return Pair(s3_store, reductionist, f"{uuid.uuid4().hex}.h5")


def same(there: Active, here: Active, names: tuple[str, ...], axis: Any = None, *, skipna: bool = True) -> dict[str, int]:
    """Check that the server's results are those from here, and return what was computed where."""
    found, right = there.run(names, axis, skipna=skipna), here.run(names, axis, skipna=skipna)
    assert np.array_equal(found.count, right.count)
    n = np.maximum(np.asarray(right.count, "f8"), 1)
    size = here.reduce(SIZE, axis, skipna=skipna)
    for name in names:
        if right.values[name] is np.ma.masked:
            assert found.values[name] is np.ma.masked
            continue
        one, other = np.ma.asarray(found.values[name]), np.ma.asarray(right.values[name])
        assert np.array_equal(np.ma.getmaskarray(one), np.ma.getmaskarray(other))
        assert one.dtype == other.dtype
        if name in ("sum", "mean"):
            bound = (BOUND if here.dtype == np.float32 else 1e-12) * np.ma.filled(size, 0) * (n if name == "sum" else 1)
            with np.errstate(invalid="ignore"):
                far = np.abs(one.astype("f8") - other.astype("f8"))
                equal = (one == other) | ((one != one) & (other != other)) | (far <= bound)
        else:
            equal = (one == other) | ((one != one) & (other != other))
        assert bool(np.ma.filled(equal, True).all()), name
    return found.report.where


SIZE = Reduction.from_functions(
    "size",
    chunk=lambda values, axes: np.abs(values.astype("f8")).filled(0).sum(axis=axes, keepdims=True),
    combine=np.add,
    finalize=lambda state, count: state / count,
)
"""The mean of |v|."""
ALL = ("sum", "mean", "min", "max", "count")


class TestGeneratedFiles:
    @settings(max_examples=60, suppress_health_check=list(HealthCheck))
    @given(st.data())
    def test_s3(self, s3_store: S3Store, reductionist: Reductionist, data: st.DataObject) -> None:
        # A new name each time: a store without ETags dates objects to the second.
        pair = Pair(s3_store, reductionist, f"{uuid.uuid4().hex}.h5")
        self.check(data, pair.path, pair.there, pair.here)

    @settings(max_examples=30, suppress_health_check=list(HealthCheck))
    @given(st.data())
    def test_http(self, web_server: WebServer, reductionist: Reductionist, data: st.DataObject) -> None:
        path = web_server.folder / f"{uuid.uuid4().hex}.h5"

        def there(variable: str) -> Active:
            return Active(f"{web_server.url}/{path.name}", variable, server=reductionist.url, backend="reductionist")

        self.check(data, path, there, lambda variable: Active(path, variable))

    @staticmethod
    def check(data: st.DataObject, path: Path, there: Callable[[str], Active], here: Callable[[str], Active]) -> None:
        write(data.draw(recipes()), path)
        request = data.draw(requests(here(NAME)))
        far, near = there(NAME), here(NAME)
        for key in request.keys:
            far, near = far[key], near[key]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FallbackWarning)
            try:
                near.run("sum", request.axis)
            except SumOverflowError:
                with pytest.raises(SumOverflowError):
                    far.run("sum", request.axis)
                return
            same(far, near, ALL, request.axis, skipna=request.skipna)


def field(shape: tuple[int, ...], kind: str = "f4") -> np.ndarray:
    return RNG.normal(288, 15, shape).astype(kind)


class TestKinds:
    @pytest.mark.parametrize("kind", ["f4", "f8", "i4", "u4", "i8", "u8", ">f4", ">f8", ">i4", ">u8"])
    @pytest.mark.parametrize("axis", [None, 0, 2, (0, 1), (0, 2), (1, 2)])
    def test_types_and_axes(self, kind: str, axis: Any, pair: Pair) -> None:
        numbers = (field((12, 30, 44), "f8") * (1 if "f" in kind else 1e11 if "8" in kind else 1e6)).astype(kind)
        pair.put(numbers, chunks=(6, 15, 22), compression="gzip", shuffle=True)
        for key in ((), (slice(2, 11), slice(None), slice(5, 40)), (slice(None, None, 5),), (3, slice(20, 4, -3))):
            there, here = pair.there()[key], pair.here()[key]
            if there.ndim == 3 or axis in (None, 0):
                assert set(same(there, here, ALL, axis)) == {"reductionist"}

    @pytest.mark.parametrize(
        "layout",
        [
            {"chunks": (6, 40), "compression": "gzip"},
            {"chunks": (6, 40), "shuffle": True},
            {"chunks": (6, 40), "compression": "gzip", "shuffle": True, "fletcher32": True},
            {"chunks": (6, 40)},
            {},
            {"chunks": (6, 40), "compression": "gzip", "shuffle": True, "userblock_size": 1024},
        ],
        ids=str,
    )
    @pytest.mark.parametrize("kind", ["f4", ">f8"])
    def test_layouts(self, layout: dict[str, Any], kind: str, pair: Pair) -> None:
        pair.put(field((12, 80), kind), **layout)
        assert set(same(pair.there(), pair.here(), ALL)) == {"reductionist"}
        assert set(same(pair.there()[:, 4:60], pair.here()[:, 4:60], ALL, 1)) == {"reductionist"}

    def test_missing_values(self, pair: Pair) -> None:
        forms: list[dict[str, Any]] = [
            {"_FillValue": 288},
            {"missing_value": [288, 289]},
            {"valid_min": 280},
            {"valid_max": 290},
            {"valid_range": [280, 290]},
            {"valid_range": [280, 290], "_FillValue": 999},
            {"_FillValue": 0},
        ]
        for attributes, kind in itertools.product(forms, ("f4", "f8", "i4", "u8")):
            numbers = np.where(field((20, 60)) > 300, 0, field((20, 60)).round()).astype(kind)
            stored = {name: np.array(value, kind) for name, value in attributes.items()}
            if not {"_FillValue", "valid_range"} & set(attributes):
                # The default fill value beside them is a second form.
                stored["_FillValue"] = stored.get("missing_value", np.array(-1 if kind != "u8" else 0, kind)).ravel()[0]
                if "valid_max" in attributes:
                    stored["_FillValue"] = np.array(999, kind)
            pair.put(numbers, stored, chunks=(10, 60))
            assert set(same(pair.there(), pair.here(), ALL)) == {"reductionist"}, (attributes, kind)
            same(pair.there(), pair.here(), ALL, 0)

    @pytest.mark.parametrize("number", [9.969209968386869e36, -1e30, 0.1, 123.456789012345678, 1.1e20, -9999.9, 5e-324])
    def test_float64_missing_values_are_read_as_they_are(self, number: float, pair: Pair) -> None:
        numbers = field((20, 60), "f8")
        numbers[3:9, 5] = number
        numbers[2, 2:4] = np.nextafter(number, 1), np.nextafter(number, -1)
        pair.put(numbers, {"_FillValue": number}, chunks=(20, 60))
        assert float(json_number(number)) == number
        assert same(pair.there(), pair.here(), ALL) == {"reductionist": 1}
        assert pair.there().count() == 1194

    def test_scalars_and_tiny_chunks_are_not_worth_a_request(self, pair: Pair) -> None:
        with h5py.File(pair.path, "w") as file:
            file["x"] = np.float32(3)
        with pytest.warns(FallbackWarning, match="an answer larger than the chunk"):
            assert pair.there().mean() == 3

    def test_an_unwritten_chunk_needs_no_request(self, pair: Pair) -> None:
        with h5py.File(pair.path, "w") as file:
            file.create_dataset("x", (4, 50), "f4", chunks=(1, 50), fillvalue=7)[1] = field((50,))
        assert same(pair.there(), pair.here(), ALL) == {"fill value": 3, "reductionist": 1}

    @pytest.mark.parametrize(("encode", "spared"), [(bytes, 0b11), (zlib.compress, 0b01)], ids=["both", "shuffle"])
    def test_filters_that_one_chunk_was_spared(self, encode: Callable[[bytes], bytes], spared: int, pair: Pair) -> None:
        numbers = field((2, 3000))
        with h5py.File(pair.path, "w") as file:
            data = file.create_dataset("x", (2, 3000), "f4", chunks=(1, 3000), compression="gzip", shuffle=True)
            data[0] = numbers[0]
            data.id.write_direct_chunk((1, 0), encode(numbers[1].tobytes()), spared)
        assert same(pair.there(), pair.here(), ALL) == {"reductionist": 2}

    def test_fletcher32_by_netcdf4_lies_inside(self, pair: Pair) -> None:
        with netCDF4.Dataset(pair.path, "w") as file:
            file.createDimension("n", 500)
            file.createVariable("x", "f4", ("n",), zlib=True, shuffle=True, fletcher32=True)[:] = field((500,))
        with pytest.warns(FallbackWarning, match="fletcher32 inside the compressed bytes"):
            assert same(pair.there(), pair.here(), ALL) == {"local fallback": 1}

    def test_what_there_is_no_word_for(self, pair: Pair) -> None:
        pair.put(field((6, 50), "i2"), chunks=(3, 50))
        with pytest.warns(FallbackWarning, match="the type i2"):
            same(pair.there(), pair.here(), ALL)
        pair.put(field((6, 50)), {"valid_min": np.float32(0)}, chunks=(3, 50))
        with pytest.warns(FallbackWarning, match="missing values and a valid range together"):
            same(pair.there(), pair.here(), ALL)
        with pytest.warns(FallbackWarning, match="listed positions"):
            same(pair.there()[[0, 2, 1]], pair.here()[[0, 2, 1]], ALL)

    def test_reading_a_small_part(self, pair: Pair) -> None:
        pair.put(field((60, 80)), chunks=(60, 80))
        found = pair.there()[3:5, 10:70:7]
        assert np.array_equal(found.read(), pair.here()[3:5, 10:70:7].read())
        report = found.run(("std", "argmax")).report
        assert report.where == {"reductionist": 1}
        assert report.bytes_moved < 300


class TestValuesThatBite:
    def test_nothing_valid(self, pair: Pair) -> None:
        numbers = np.full((4, 100), 9, "f4")
        numbers[1] = field((100,))
        pair.put(numbers, {"_FillValue": np.float32(9)}, chunks=(1, 100))
        assert same(pair.there(), pair.here(), ALL) == {"reductionist": 4}
        same(pair.there(), pair.here(), ALL, 1)
        assert pair.there()[0].max() is np.ma.masked
        assert pair.there()[0].sum() is np.ma.masked

    @pytest.mark.parametrize("skipna", [True, False])
    @pytest.mark.parametrize("name", ALL)
    def test_nan(self, name: str, skipna: bool, pair: Pair) -> None:
        numbers = field((4, 300))
        numbers[2, 7] = np.nan
        pair.put(numbers, chunks=(1, 300))
        with pytest.warns(FallbackWarning, match="1 of 4 chunks .* NaN"):
            where = same(pair.there(), pair.here(), (name,), skipna=skipna)
        assert where == {"reductionist": 3, "local fallback": 1}

    def test_nan_everywhere_does_not_end_the_server(self, pair: Pair) -> None:
        numbers = field((40, 200))
        numbers[:, ::9] = np.nan
        pair.put(numbers, chunks=(1, 200))
        with pytest.warns(FallbackWarning, match="NaN"):
            same(pair.there(), pair.here(), ("max",))
        pair.put(field((40, 200)), chunks=(1, 200))
        assert same(pair.there(), pair.here(), ALL) == {"reductionist": 40}

    @pytest.mark.parametrize("name", ["min", "max", "sum"])
    @pytest.mark.parametrize("kind", ["f4", "f8"])
    def test_infinities(self, name: str, kind: str, pair: Pair) -> None:
        for number in (np.inf, -np.inf):
            numbers = field((3, 100), kind)
            numbers[0], numbers[1, 4] = number, number
            pair.put(numbers, chunks=(1, 100))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FallbackWarning)
                same(pair.there(), pair.here(), (name,))
                same(pair.there(), pair.here(), (name,), 1)

    def test_a_float32_sum_beyond_float32(self, pair: Pair) -> None:
        pair.put(np.full((2, 100), 3e38, "f4"), chunks=(1, 100))
        with pytest.warns(FallbackWarning, match="an infinite sum"):
            same(pair.there(), pair.here(), ("sum",))
        assert pair.there().count() == 200

    @pytest.mark.parametrize("layout", [{"chunks": (1_000_000,)}, {}, {"chunks": (4_000_000,)}], ids=str)
    def test_a_constant_field(self, layout: dict[str, Any], pair: Pair) -> None:
        numbers = np.full(4_000_000, 288.15, "f4")
        pair.put(numbers, **layout)
        found = pair.there().run("mean")
        assert set(found.report.where) == {"reductionist"}
        assert abs(found.value / np.float64(np.float32(288.15)) - 1) < BOUND
        assert found.report.bytes_moved < numbers.nbytes / 100

    def test_sums_that_cancel(self, pair: Pair) -> None:
        numbers = (RNG.permutation(np.repeat([1e6, -1e6], 50_000)) + RNG.normal(0, 1, 100_000)).astype("f4")
        pair.put(numbers.reshape(10, 10_000), chunks=(5, 10_000))
        assert set(same(pair.there(), pair.here(), ALL)) == {"reductionist"}
        same(pair.there(), pair.here(), ALL, 1)

    def test_a_prime_length_is_not_summed_there(self, pair: Pair) -> None:
        pair.put(field((99_991,)), chunks=(99_991,))
        with pytest.warns(FallbackWarning, match="a float32 sum that would be inexact"):
            same(pair.there(), pair.here(), ("mean",))
        assert same(pair.there(), pair.here(), ("min", "max", "count")) == {"reductionist": 1}

    @pytest.mark.parametrize("kind", ["i4", "u4", "i8", "u8"])
    def test_integer_sums_do_not_wrap_around(self, kind: str, pair: Pair) -> None:
        limits = np.iinfo(kind)
        numbers = RNG.integers(limits.max // 40, limits.max // 20, (4, 5000), kind)
        pair.put(numbers, chunks=(2, 5000), compression="gzip")
        here, there = pair.here(), pair.there()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FallbackWarning)
            for axis in (None, 0, 1):
                if kind[1] == "4":
                    assert np.array_equal(there.sum(axis), here.sum(axis))
                np.testing.assert_allclose(there.mean(axis), numbers.astype("f8").mean(axis), rtol=1e-12)
            if kind[1] == "8":
                with pytest.raises(SumOverflowError):
                    there.sum()
            else:
                numbers[...] = RNG.integers(limits.min, limits.max, numbers.shape, kind)
                pair.put(numbers, chunks=(2, 5000))
                assert pair.there().sum() == numbers.sum(dtype=f"{kind[0]}8")

    def test_an_object_that_is_overwritten_and_the_servers_cache(
        self, s3_store: S3Store, authority: Authority, tmp_path: Path
    ) -> None:
        cached = {"REDUCTIONIST_USE_CHUNK_CACHE": "true", "REDUCTIONIST_CHUNK_CACHE_PATH": str(tmp_path / "cache")}
        (tmp_path / "cache").mkdir()
        with run_reductionist(tmp_path, authority, environment=cached) as server:
            pair = Pair(s3_store, server, "later").put(np.zeros((4, 100), "f4"), chunks=(2, 100))
            for value in (1.0, 2.0):
                with h5py.File(pair.path, "r+") as file:
                    file["x"][...] = value
                fresh = pair.there(backend_options={"disable_chunk_cache": True})
                assert fresh.mean() == value


class TestWhereItIs:
    def test_https(self, s3_store: S3Store, reductionist_https: Reductionist) -> None:
        pair = Pair(s3_store, reductionist_https, f"{uuid.uuid4().hex}.h5").put(field((4, 100)), chunks=(2, 100))
        verified = pair.there(backend_options={"verify": reductionist_https.ca_file})
        assert same(verified, pair.here(), ALL) == {"reductionist": 2}
        with pytest.raises(BackendUnavailableError, match=r"its TLS certificate is not trusted .*'verify'"):
            pair.there().mean()
        with pytest.raises(BackendUnavailableError, match="is it an https:// server"):
            pair.there(server=reductionist_https.url.replace("https:", "http:")).mean()

    def test_a_web_server(self, web_server: WebServer, pair: Pair) -> None:
        for layout in ({"chunks": (2, 100), "compression": "gzip"}, {"chunks": (2, 100)}, {}):
            pair.put(field((4, 100)), **layout)
            shutil.copy(pair.path, web_server.folder / pair.path.name)
            there = Active(f"{web_server.url}/{pair.path.name}", "x", server=pair.server.url)
            assert set(same(there, pair.here(), ALL)) == {"reductionist"}

    def test_a_web_server_with_tls(self, web_server_https: WebServer, pair: Pair) -> None:
        pair.put(field((4, 100)), chunks=(2, 100))
        shutil.copy(pair.path, web_server_https.folder / pair.path.name)
        options = {"verify": str(web_server_https.ca_file)}
        url = f"{web_server_https.url}/{pair.path.name}"
        there = Active(url, "x", server=pair.server.url, storage_options=options)
        assert set(same(there, pair.here(), ALL)) == {"reductionist"}

    @pytest.mark.parametrize("key", ["a b+c%41ü&.h5", "folder/in folder/ä.h5", "x=1;y,z'(1)*.h5"])
    def test_odd_keys(self, key: str, s3_store: S3Store, reductionist: Reductionist) -> None:
        path = s3_store.folder / uuid.uuid4().hex / key
        path.parent.mkdir(parents=True, exist_ok=True)
        with h5py.File(path, "w") as file:
            file.create_dataset("x", data=field((4, 100)), chunks=(2, 100))
        address = f"s3://{s3_store.bucket}/{path.relative_to(s3_store.folder)}"
        there = Active(address, "x", storage_options=s3_store.storage_options, server=reductionist.url)
        assert same(there, Active(path, "x"), ALL) == {"reductionist": 2}

    def test_wrong_credentials_for_the_server_alone(self, pair: Pair) -> None:
        pair.put(field((4, 100)), chunks=(2, 100))
        there = pair.there(fallback="error", backend_options={"endpoint_url": "http://127.0.0.1:9", "retries": 0})
        with pytest.raises(ReductionistError, match="set endpoint_url in backend_options"):
            there.mean()
        with pytest.warns(FallbackWarning, match="2 of 2 chunks"):
            found = pair.there(backend_options={"endpoint_url": "http://127.0.0.1:9", "retries": 0}).mean()
        assert math.isclose(found, pair.here().mean(), rel_tol=1e-6)
