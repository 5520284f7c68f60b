"""`activestore.compat.Active`: beside PyActiveStorage where that is right, and NumPy everywhere."""

import inspect
import io
import itertools
import pickle
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fsspec
import h5netcdf
import h5netcdf.legacyapi
import h5py
import netCDF4
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import activestore
from activestore import compat
from activestore.compat import Active, DatasetError, DatasetNotFoundError
from activestore.errors import (
    ActivestoreError,
    ConfigurationError,
    FallbackWarning,
    ReductionError,
    SelectionError,
    VariableNotFoundError,
)
from activestore.testing.datasets import write_sample
from tests import generated
from tests.expected import Request, check, fits, indices, magnitude, outer
from tests.generated import NAME, Recipe, recipes

METHODS = ("min", "max", "mean", "sum", "count")
THEIRS = ("min", "max", "mean", "sum")
INDICES = {
    "all": Ellipsis,
    "a slice": slice(2, 11),
    "part of each": (slice(6, 7), slice(0, 18, 3), slice(1, 30, 4)),
    "a list": (slice(None), [0, 1, 5, 7, 16], slice(None)),
    "a mask": (slice(None), slice(None), np.arange(36) % 5 == 1),
}
AXES = [None, *(axes for n in range(4) for axes in itertools.combinations(range(3), n)), (2, 0), (-1,)]


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with `tas(time: 24, lat: 18, lon: 36)`, missing for some longitudes at the south pole."""
    path = tmp_path_factory.mktemp("sample") / "tas.nc"
    write_sample(path)
    return path


def values_of(path: Path, name: str = "tas") -> np.ma.MaskedArray:
    """Return all values as netCDF4-python gives them."""
    with netCDF4.Dataset(path) as file:
        return np.ma.array(file[name][...])


def save(path: Path, numbers: Any, *, fill: Any = None, **options: Any) -> Path:
    """Write stored `numbers` as variable "x" in chunks of 2; upper case options are attributes, the others netCDF4's."""
    numbers = np.asarray(numbers)
    attributes = {name: options.pop(name) for name in list(options) if name in ATTRIBUTES}
    with netCDF4.Dataset(path, "w") as file:
        dims = [f"d{i}" for i in range(numbers.ndim)]
        for name, length in zip(dims, numbers.shape, strict=True):
            file.createDimension(name, length)
        options.setdefault("chunksizes", (2,) * numbers.ndim)
        variable = file.createVariable("x", numbers.dtype, dims, fill_value=fill, **options)
        variable.set_auto_maskandscale(False)
        variable.setncatts(attributes)
        variable[...] = numbers
    return path


ATTRIBUTES = {"missing_value", "valid_min", "valid_max", "valid_range", "scale_factor", "add_offset", "_Unsigned"}


def components(path: Path, method: str, axis: Any = None, **arguments: Any) -> dict[str, np.ma.MaskedArray]:
    """Return the components of the whole variable "x", as cf-python asks for them."""
    active = Active(path, "x", axis=axis, **arguments)
    active.method = method
    active.components = True
    active._version = 2
    return active[...]


class TestAgainstNumPy:
    @pytest.mark.parametrize("index", INDICES.values(), ids=INDICES)
    @pytest.mark.parametrize("method", METHODS)
    def test_every_method_and_axis(self, sample: Path, method: str, index: Any) -> None:
        data = values_of(sample)[index]
        for axis in AXES:
            active = Active(sample, "tas", axis=axis)
            active.method = method
            wanted = getattr(np.ma, method)(data.astype("f8"), axis=axis, keepdims=True)
            found = active[index]
            assert found.shape == wanted.shape
            assert np.array_equal(np.ma.getmaskarray(found), np.ma.getmaskarray(wanted))
            np.testing.assert_allclose(found.filled(0), np.ma.filled(wanted, 0), rtol=1e-13)

    def test_types(self, sample: Path) -> None:
        active = Active(sample, "tas")
        kinds = {method: active._reducing(method, None)[...].dtype for method in METHODS}
        assert kinds == {"min": "f4", "max": "f4", "mean": "f8", "sum": "f8", "count": "i8"}

    def test_components_are_what_results_are_put_together_from(self, sample: Path) -> None:
        data = values_of(sample).astype("f8")
        active = Active(sample, "tas", axis=[1, 2])
        active.method, active.components = "mean", True
        parts = [active[start : start + 5] for start in range(0, 24, 5)]
        assert {tuple(sorted(part)) for part in parts} == {("n", "sum")}
        mean = np.ma.concatenate([part["sum"] for part in parts]) / np.ma.concatenate([part["n"] for part in parts])
        np.testing.assert_allclose(mean, data.mean(axis=(1, 2), keepdims=True), rtol=1e-13)

    @pytest.mark.parametrize("version", [0, 1, 2])
    @pytest.mark.parametrize("index", [*INDICES.values(), 3, (0, slice(4), -1)], ids=str)
    def test_without_a_method_it_gives_the_data(self, sample: Path, index: Any, version: int) -> None:
        active = Active(sample, "tas")
        active._version = version
        wanted, found = values_of(sample)[index], active[index]
        assert found.dtype == wanted.dtype
        assert np.ma.allequal(found, wanted, fill_value=False) or np.array_equal(found.filled(), wanted.filled())

    @pytest.mark.parametrize("version", [0, 1, 2])
    def test_versions_agree(self, sample: Path, version: int) -> None:
        active = Active(sample, "tas", axis=0)
        active._version = version
        assert np.ma.allequal(active.max()[2:9], values_of(sample)[2:9].max(axis=0, keepdims=True))

    @settings(max_examples=settings().max_examples // 2)
    @given(st.data(), recipes())
    def test_whatever_the_file_and_the_selection(self, data: st.DataObject, recipe: Recipe) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "a.nc")
            generated.write(recipe, path)
            try:
                values = generated.reference(path, Path(folder))
            except (OverflowError, TypeError):
                return  # netCDF4-python cannot tell either
            key = tuple([item] if isinstance(item, (int, np.integer)) else item for item in data.draw(indices(values.shape)))
            axes = tuple(data.draw(st.permutations(range(values.ndim))))[: data.draw(st.integers(0, values.ndim))]
            request = Request((key,), axes, tuple(sorted(axes)), keepdims=True, skipna=False)
            selected, scale = outer(values, key), magnitude(recipe, activestore.Active(path, NAME))
            for method in METHODS:
                if values.ndim and fits(selected, request, method):
                    active = Active(path, NAME, axis=axes)
                    active.method, active.components = method, method != "mean"
                    found = active[key]
                    parts = {method: found} if method == "mean" else found | {"count": found["n"]}
                    for name in {method, "count"} & set(parts):
                        check(name, parts[name], selected, request, scale)


class TestWherePyActiveStorageIsWrong:
    def test_nothing_valid_is_masked(self, tmp_path: Path) -> None:
        path = save(tmp_path / "a.nc", np.float32([[9, 9, 9, 9], [1, 2, 9, 9]]), fill=9.0)
        for method in THEIRS:
            found = components(path, method, axis=1)
            assert found["n"].tolist() == [[0], [2]]
            assert next(iter(found.values())).mask.tolist() == [[True], [False]]
        assert Active(path, "x").mean()[0:1].tolist() == [[None]]

    @pytest.mark.parametrize(
        ("options", "valid"),
        {
            "_FillValue of 0": ({"fill": 0}, [1, 2, 3, 4, -5]),
            "valid_min of 0": ({"valid_min": 0}, [0, 1, 2, 3, 4]),
            "valid_max of 0": ({"valid_max": 0}, [0, -5]),
            "two missing values": ({"missing_value": [4, 1]}, [0, 2, 3, -5]),
            "all at once": ({"fill": 0, "missing_value": [4, -5], "valid_range": [1, 4]}, [1, 2, 3]),
        }.values(),
    )
    @pytest.mark.parametrize("dtype", ["i2", "i4", "f4", "f8"])
    def test_missing_values(self, tmp_path: Path, dtype: str, options: dict[str, Any], valid: list[int]) -> None:
        of_type = {name: np.array(value, dtype) if name != "fill" else value for name, value in options.items()}
        path = save(tmp_path / "a.nc", np.array([0, 1, 2, 3, 4, -5], dtype), **of_type)
        for method in THEIRS:
            name = "sum" if method == "mean" else method
            assert components(path, method) == {name: getattr(np, name)(valid), "n": len(valid)}
        assert Active(path, "x").mean()[...] == np.mean(valid)

    def test_default_fill_values(self, tmp_path: Path) -> None:
        path = save(tmp_path / "a.nc", np.float32([netCDF4.default_fillvals["f4"], 1, 2]))
        assert components(path, "max") == {"max": 2, "n": 2}

    def test_nan_as_fill_value(self, tmp_path: Path) -> None:
        path = save(tmp_path / "a.nc", np.float32([np.nan, 1, 2]), fill=np.nan)
        assert components(path, "sum") == {"sum": 3, "n": 2}

    def test_nan_that_no_attribute_names_is_a_value_as_in_numpy(self, tmp_path: Path) -> None:
        path = save(tmp_path / "a.nc", np.float32([np.nan, 1, 2, 3]))
        found = components(path, "max")
        assert np.isnan(found["max"])
        assert found["n"] == 4
        assert Active(path, "x").max()[1:] == 3

    def test_packing(self, tmp_path: Path) -> None:
        path = save(tmp_path / "a.nc", np.int16([1, 2, 3, 5]), scale_factor=-0.5, add_offset=10.0)
        assert components(path, "min") == {"min": 7.5, "n": 4}
        assert components(path, "sum") == {"sum": 34.5, "n": 4}
        assert Active(path, "x")[1:].tolist() == [9.0, 8.5, 7.5]

    def test_unsigned(self, tmp_path: Path) -> None:
        path = save(tmp_path / "a.nc", np.int8([-1, -2, 3]), _Unsigned="true")
        assert components(path, "max") == {"max": 255, "n": 3}

    def test_sums_of_small_integers(self, tmp_path: Path) -> None:
        for dtype in ("i1", "i2", "i4", "u1", "u2", "u4"):
            most = int(np.iinfo(dtype).max) - 1  # the greatest is a default fill value of some
            path = save(tmp_path / f"{dtype}.nc", np.full(6, most, dtype), chunksizes=(6,))
            assert components(path, "sum") == {"sum": 6 * most, "n": 6}

    def test_sums_of_many_float32(self, tmp_path: Path) -> None:
        numbers = np.full(200_000, 288.15, "f4")
        path = save(tmp_path / "a.nc", numbers, chunksizes=(2000,))
        np.testing.assert_allclose(Active(path, "x").mean()[...], numbers.astype("f8").mean(), rtol=1e-14)

    def test_unallocated_chunks(self, tmp_path: Path) -> None:
        path = tmp_path / "a.h5"
        with h5py.File(path, "w") as file:
            file.create_dataset("x", (8,), "f4", chunks=(2,), fillvalue=7)[2:4] = 1
        assert components(path, "sum") == {"sum": 44, "n": 8}

    def test_skipped_filters(self, tmp_path: Path) -> None:
        path = tmp_path / "a.h5"
        with h5py.File(path, "w") as file:
            dataset = file.create_dataset("x", data=np.arange(8, dtype="f4"), chunks=(4,), shuffle=True, compression="gzip")
            dataset.id.write_direct_chunk((4,), np.float32([9, 9, 9, 9]).tobytes(), filter_mask=3)
        assert components(path, "sum") == {"sum": 42, "n": 8}

    @pytest.mark.parametrize(
        "filters",
        [{"fletcher32": True}, {"shuffle": True}, {"compression": "lzf"}, {"compression": "gzip", "fletcher32": True}],
        ids=str,
    )
    def test_filters(self, tmp_path: Path, filters: dict[str, Any]) -> None:
        path = tmp_path / "a.h5"
        with h5py.File(path, "w") as file:
            file.create_dataset("x", data=np.arange(8, dtype="f4"), chunks=(4,), **filters)
        assert components(path, "sum") == {"sum": 28, "n": 8}

    def test_nothing_is_printed(self, sample: Path, capsys: pytest.CaptureFixture[str]) -> None:
        Active(sample, "tas").max()[...]
        assert capsys.readouterr() == ("", "")


class TestState:
    def test_a_result_stays_the_same(self, sample: Path) -> None:
        active = Active(sample, "tas")
        active.method = "sum"
        assert active[:3] == active[:3]
        assert active.method is np.ma.sum

    def test_what_one_call_sets_the_next_does_not_see(self, sample: Path) -> None:
        active = Active(sample, "tas")
        assert active.max(axis=(0, 1))[...].shape == (1, 1, 36)
        assert active.min()[...].shape == (1, 1, 1)
        assert active.method is None
        assert active[...].shape == (24, 18, 36)

    def test_an_axis_given_first_stays(self, sample: Path) -> None:
        active = Active(sample, "tas", axis=0)
        assert active.max()[...].shape == (1, 18, 36)
        assert active.max(axis="lon")[...].shape == (24, 18, 1)
        assert active.max(axis=np.array([1, 2]))[...].shape == (24, 1, 1)
        assert active.max(axis=())[...].shape == (24, 18, 36)
        assert active.min()[...].shape == (1, 18, 36)

    def test_every_way_to_name_a_method(self, sample: Path) -> None:
        active = Active(sample, "tas")
        active.components = True
        for method in METHODS:
            active.method = method
            assert active.method([3, 3]) == getattr(np, method, len)([3, 3])
            named = getattr(active, method)()
            assert named[:5] == active[:5]
            active._method = None
        assert active.method is None

    def test_the_file_is_opened_once(self, sample: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        opened = recorded(monkeypatch)
        active = Active(sample, "tas")
        assert not opened
        for start in range(3):
            active.mean()[start : start + 1]
            active[start]
        assert len(opened) == 1

    def test_another_variable(self, sample: Path) -> None:
        active = Active(sample, "tas")
        assert active.ncvar == "tas"
        active.ncvar = "lat"
        assert active.max()[...].tolist() == [85]

    def test_secrets_stay_here(self, sample: Path) -> None:
        store = {"key": "K1", "secret": "S1", "client_kwargs": {"endpoint_url": "https://me:P1@store", "region_name": "r"}}
        actives = [Active("bucket/a.nc", "x", storage_options=store), Active("https://me:P1@host/a.nc", "x")]
        for active in actives:
            assert not {"K1", "S1", "P1"} & set(repr(active).split())
            pickled = pickle.dumps(active)
            assert not [secret for secret in (b"K1", b"S1", b"P1") if secret in pickled]
        assert pickle.loads(pickle.dumps(actives[0])).storage_options["client_kwargs"]["region_name"] == "r"
        local = Active(sample, "tas", axis=0)
        local.method = "max"
        assert np.ma.allequal(pickle.loads(pickle.dumps(local))[...], local[...])


def recorded(monkeypatch: pytest.MonkeyPatch, *, remote: bool = False) -> list[SimpleNamespace]:
    """Note what `activestore.Active` is called with; with `remote`, in place of what it would do."""
    calls: list[SimpleNamespace] = []
    real = compat.StoredVariable

    def noted(source: Any, variable: str, **options: Any) -> Any:
        calls.append(SimpleNamespace(source=source, variable=variable, options=options))
        return real("docs/tas.nc", "tas") if remote else real(source, variable, **options)

    monkeypatch.setattr(compat, "StoredVariable", noted)
    return calls


ROOT = Path(__file__).parents[1]


class TestMapping:
    @pytest.fixture
    def calls(self, monkeypatch: pytest.MonkeyPatch) -> list[SimpleNamespace]:
        """What `activestore.Active` was called with; it gives a local variable, whatever it is asked for."""
        monkeypatch.chdir(ROOT)
        return recorded(monkeypatch, remote=True)

    def test_a_server(self, calls: list[SimpleNamespace]) -> None:
        secret = {"key": "K", "secret": "S"}
        active = Active(
            "s3://bucket/tas.nc",
            "tas",
            max_threads=100,
            storage_options=secret,
            active_storage_url="https://reductionist.example",
            option_disable_chunk_cache=True,
        )
        assert active._version == 2
        active.min()[...]
        (call,) = calls
        assert (call.source, call.variable) == ("s3://bucket/tas.nc", "tas")
        assert call.options == {
            "backend": "reductionist",
            "server": "https://reductionist.example",
            "workers": 100,
            "storage_options": secret,
            "backend_options": {"disable_chunk_cache": True},
        }

    @pytest.mark.parametrize("version", [0, 1])
    def test_versions_0_and_1_are_local(self, calls: list[SimpleNamespace], version: int) -> None:
        active = Active("s3://bucket/tas.nc", "tas", active_storage_url="https://server", option_disable_chunk_cache=True)
        active._version = version
        active.min()[...]
        assert calls[0].options == {"backend": "posix", "workers": None, "storage_options": {}}

    def test_without_a_server_version_1_is_local_and_2_takes_what_is_configured(self, calls: list[SimpleNamespace]) -> None:
        active = Active("s3://bucket/tas.nc", "tas")
        assert active._version == 1
        active.min()[...]
        active._version = 2
        active.min()[...]
        assert [call.options.get("backend") for call in calls] == ["posix", None]
        assert "server" not in calls[1].options

    @pytest.mark.parametrize(
        ("dataset", "interface_type", "options", "address"),
        [
            ("s3://bucket/tas.nc", None, None, "s3://bucket/tas.nc"),
            ("bucket/tas.nc", "s3", None, "s3://bucket/tas.nc"),
            ("bucket/tas.nc", None, {"client_kwargs": {"endpoint_url": "http://store"}}, "s3://bucket/tas.nc"),
            ("bucket/tas.nc", None, {"endpoint_url": "http://store"}, "s3://bucket/tas.nc"),
            ("https://host/tas.nc", None, None, "https://host/tas.nc"),
            ("http://host/tas.nc", "https", None, "http://host/tas.nc"),
        ],
    )
    def test_addresses(
        self, calls: list[SimpleNamespace], dataset: str, interface_type: Any, options: Any, address: str
    ) -> None:
        active = Active(dataset, "tas", interface_type=interface_type, storage_options=options)
        active.min()[...]
        assert active.uri == address
        assert calls[0].source == address
        assert calls[0].options["storage_options"] == (options or {})

    def test_a_local_path_stays_local_beside_options_for_s3(self, sample: Path) -> None:
        active = Active(str(sample), "tas", storage_options={"endpoint_url": "http://store"})
        assert active.max()[...] == values_of(sample).max()

    def test_users_and_passwords_of_http_servers(self, calls: list[SimpleNamespace]) -> None:
        Active("https://host/tas.nc", "tas", storage_options={"username": "me@x", "password": "a/b"}).min()[...]
        assert calls[0].source == "https://me%40x:a%2Fb@host/tas.nc"
        assert calls[0].options["storage_options"] == {}
        Active("https://host/tas.nc", "tas", storage_options={"username": None, "password": None}).min()[...]
        assert calls[1].source == "https://host/tas.nc"
        assert calls[1].options["storage_options"] == {}

    def test_threads(self, calls: list[SimpleNamespace]) -> None:
        class Constant:
            """A number as configurations hold it."""

            def __int__(self) -> int:
                return 7

            def __eq__(self, other: object) -> bool:
                return other == 7

            __hash__ = None

        for threads in (7, np.int64(7), 7.0, Constant()):
            Active("s3://bucket/tas.nc", "tas", max_threads=threads).min()[...]
        assert [type(call.options["workers"]) for call in calls] == [int] * 4
        assert {call.options["workers"] for call in calls} == {7}
        with pytest.raises(ConfigurationError, match=r"max_threads=2.5: give a whole number"):
            Active("s3://bucket/tas.nc", "tas", max_threads=2.5)[...]


class TestHowCfPythonDrivesIt:
    @pytest.mark.parametrize("axis", [None, (0,), (1, 2), (2,)])
    @pytest.mark.parametrize("method", THEIRS)
    def test_a_part_of_a_collapse(self, sample: Path, method: str, axis: Any) -> None:
        a = Active(dataset=str(sample), ncvar="tas", axis=axis, storage_options={}, active_storage_url=None, max_threads=100)
        a.method = method
        a.components = True
        a._version = 2
        index = (slice(3, 9, 1), slice(0, 18, 1), slice(0, 36, 1))
        d = a[index]
        data, name = values_of(sample)[index], "sum" if method == "mean" else method
        assert set(d) == {"n", name}
        assert np.array_equal(d["n"], data.count(axis=axis, keepdims=True))
        assert np.array_equal(np.ma.getmaskarray(d[name]), np.ma.getmaskarray(data.max(axis=axis, keepdims=True)))
        np.testing.assert_allclose(d[name], getattr(np.ma, name)(data.astype("f8"), axis=axis, keepdims=True), rtol=1e-13)

    def test_the_file_is_not_opened_before_it_is_indexed(self) -> None:
        """What fails there, cf-python computes by itself; what fails before ends its run."""
        a = Active("s3://no-such-bucket/tas.nc", "tas", active_storage_url="https://no.such.server.example")
        a.method = "sum"
        assert a._opened == {}

    def test_a_variable_of_pyfive_in_a_store(self, sample: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        pyfive = pytest.importorskip("pyfive")
        monkeypatch.chdir(ROOT)
        calls = recorded(monkeypatch, remote=True)
        store = fsspec.filesystem("memory", region="r")
        store.pipe("/bucket/tas.nc", sample.read_bytes())
        with store.open("/bucket/tas.nc") as stream:
            variable = pyfive.File(stream)["tas"]
            a = Active(dataset=variable, ncvar=None, storage_options=None, active_storage_url="http://server", max_threads=2)
            a.method = "max"
            a[...]
        assert calls[0].source == "memory:///bucket/tas.nc"
        assert calls[0].variable == "tas"
        assert calls[0].options["storage_options"] == {"region": "r"}


def in_a_group(path: Path) -> Path:
    with netCDF4.Dataset(path, "w") as file:
        group = file.createGroup("a").createGroup("b")
        group.createDimension("n", 4)
        group.createVariable("x", "f4", ("n",))[:] = [1, 2, 3, 4]
    return path


OPENERS: dict[str, Callable[[Path], Any]] = {
    "h5py": h5py.File,
    "h5netcdf": h5netcdf.File,
    "h5netcdf over pyfive": lambda path: h5netcdf.File(path, backend=pytest.importorskip("pyfive").__name__),
    "netCDF4": netCDF4.Dataset,
    "pyfive": lambda path: pytest.importorskip("pyfive").File(path),
    "pyfive over a stream": lambda path: pytest.importorskip("pyfive").File(path.open("rb")),
    "pyfive over fsspec": lambda path: pytest.importorskip("pyfive").File(fsspec.filesystem("local").open(path)),
}


class TestOpenDatasets:
    @pytest.mark.parametrize("opener", OPENERS.values(), ids=OPENERS)
    def test_variables_groups_and_files(self, tmp_path: Path, opener: Callable[[Path], Any]) -> None:
        path = in_a_group(tmp_path / "a.nc")
        file = opener(path)
        try:
            for dataset, ncvar in [
                (file["a"]["b"]["x"] if isinstance(file, h5netcdf.File) else file["a/b/x"], None),
                (file["a"], "b/x"),
                (file["a"]["b"], "x"),
                (file, "a/b/x"),
            ]:
                active = Active(dataset, ncvar)
                assert active.ncvar == "a/b/x"
                assert active.sum()[...].tolist() == [10]
        finally:
            getattr(file, "_fh", file).close()

    def test_the_legacy_interface_of_h5netcdf(self, sample: Path, tmp_path: Path) -> None:
        with h5netcdf.legacyapi.Dataset(sample) as file:
            actives = [Active(file["tas"]), Active(file, "tas")]
        assert [active.max()[...] for active in actives] == [values_of(sample).max()] * 2
        # It looks for groups in groups where they are not, and cannot read these variables itself.
        with h5netcdf.legacyapi.Dataset(in_a_group(tmp_path / "a.nc")) as file, pytest.raises(DatasetError, match="tell its"):
            Active(file["a"]["b"]["x"])

    def test_they_may_be_closed_afterwards(self, sample: Path) -> None:
        with h5py.File(sample) as file:
            active = Active(file["tas"])
        assert active.max()[...] == values_of(sample).max()

    def test_one_in_memory_is_refused(self, sample: Path) -> None:
        data = sample.read_bytes()
        refused(lambda: h5py.File(io.BytesIO(data)))
        refused(lambda: h5py.File(sample, driver="core"))
        refused(lambda: h5netcdf.File(io.BytesIO(data)))
        refused(lambda: netCDF4.Dataset("no-file.nc", memory=data))

    def test_one_in_memory_of_pyfive_is_refused(self, sample: Path) -> None:
        pyfive = pytest.importorskip("pyfive")
        refused(lambda: pyfive.File(io.BytesIO(sample.read_bytes())))

    def test_one_that_is_being_written_is_refused(self, tmp_path: Path) -> None:
        path = in_a_group(tmp_path / "a.nc")
        with h5py.File(path, "r+") as file, pytest.raises(DatasetError, match="open for writing"):
            Active(file["a/b/x"])

    @pytest.mark.parametrize("opener", [h5py.File, h5netcdf.File, netCDF4.Dataset])
    def test_a_closed_one_is_refused(self, sample: Path, opener: Callable[[Path], Any]) -> None:
        file = opener(sample)
        variable = file["tas"]
        file.close()
        for dataset in (file, variable):
            with pytest.raises(DatasetError, match=r"give the file's address|is not a local file"):
                Active(dataset, "tas")

    def test_several_files_in_one_are_refused(self, tmp_path: Path) -> None:
        for name in "ab":
            with netCDF4.Dataset(tmp_path / f"{name}.nc", "w", format="NETCDF4_CLASSIC") as file:
                file.createDimension("n", None)
                file.createVariable("x", "f4", ("n",))[:] = [1, 2]
        with netCDF4.MFDataset([tmp_path / "a.nc", tmp_path / "b.nc"]) as file:
            for dataset in (file, file.variables["x"]):
                with pytest.raises(DatasetError, match="is not a dataset"):
                    Active(dataset, "x")

    def test_one_on_a_server_is_refused(self) -> None:
        class Dataset:
            path = "/"

            def filepath(self) -> str:
                return "https://host/dodsC/tas.nc"

        Dataset.__module__ = "netCDF4"
        with pytest.raises(DatasetError, match=r"'https://host/dodsC/tas.nc', is not a local file"):
            Active(Dataset(), "tas")


def refused(opener: Callable[[], Any]) -> None:
    """Check that neither the file that this opens nor its variable counts as a dataset."""
    file = opener()
    try:
        for dataset in (file, file["tas"]):
            with pytest.raises(DatasetError, match=r"give (a|the) file's address and ncvar"):
                Active(dataset, "tas")
    finally:
        getattr(file, "_fh", file).close()


class TestBadInput:
    @pytest.mark.parametrize("dataset", [None, 3, b"tas.nc", np.arange(3), {"a": 1}], ids=repr)
    def test_no_dataset(self, dataset: Any) -> None:
        with pytest.raises(DatasetError, match="is not a dataset: give a path or an address") as caught:
            Active(dataset, "tas")
        assert isinstance(caught.value, ValueError)
        assert isinstance(caught.value, TypeError)

    @pytest.mark.parametrize("kind", [str, Path])
    def test_no_such_file(self, tmp_path: Path, kind: Callable[[Path], Any]) -> None:
        with pytest.raises(DatasetNotFoundError, match=r"no.nc: no such file; check the path") as caught:
            Active(kind(tmp_path / "no.nc"), "tas")
        assert isinstance(caught.value, ValueError)
        assert isinstance(caught.value, FileNotFoundError)
        assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)

    def test_no_variable(self, sample: Path) -> None:
        with pytest.raises(ConfigurationError, match="give ncvar"):
            Active(sample)
        with pytest.raises(VariableNotFoundError, match="did you mean 'tas'"):
            Active(sample, "tass")[...]

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"interface_type": "ActivePosix"}, "interface_type='ActivePosix': give 's3', 'https' or None"),
            ({"storage_options": "key"}, "storage_options is not a mapping"),
        ],
    )
    def test_arguments(self, sample: Path, arguments: dict[str, Any], message: str) -> None:
        with pytest.raises(ConfigurationError, match=message):
            Active(sample, "tas", **arguments)

    def test_methods_and_versions(self, sample: Path) -> None:
        active = Active(sample, "tas")
        with pytest.raises(ReductionError, match=r"no method 'cow' here; there are min, max, mean, sum, count"):
            active.method = "cow"
        active.components = True
        with pytest.raises(ReductionError, match="components are those of a reduction"):
            active[...]
        active._version = 3
        with pytest.raises(ValueError, match="Version 3 not supported"):
            active[...]

    @pytest.mark.parametrize("axis", [3, (0, -4), "height", (0, 0)])
    def test_axes(self, sample: Path, axis: Any) -> None:
        with pytest.raises(ValueError, match=r"axis") as caught:
            Active(sample, "tas", axis=axis).max()[...]
        assert isinstance(caught.value, ActivestoreError)

    @pytest.mark.parametrize("index", [0, (slice(None), -1), (slice(None), slice(None), np.int64(2))], ids=str)
    def test_a_reduction_keeps_every_dimension(self, sample: Path, index: Any) -> None:
        with pytest.raises(IndexError, match="drops a dimension, which a reduction has to keep"):
            Active(sample, "tas").max()[index]

    def test_an_index_outside(self, sample: Path) -> None:
        with pytest.raises(SelectionError):
            Active(sample, "tas")[24]


class TestBesidePyActiveStorage:
    """Their package is no part of the tests' requirements; without it these are skipped."""

    @pytest.fixture
    def theirs(self) -> Any:
        return pytest.importorskip("activestorage").Active

    def test_every_argument_by_name_and_place(self, theirs: Any) -> None:
        assert inspect.signature(Active.__init__).parameters.keys() == inspect.signature(theirs.__init__).parameters.keys()

    @pytest.mark.parametrize("index", INDICES.values(), ids=INDICES)
    @pytest.mark.parametrize("method", [*THEIRS, None])
    def test_results(self, sample: Path, theirs: Any, method: str | None, index: Any) -> None:
        for axis in AXES if method else [None]:
            for parts in (False, True) if method else (False,):
                found = [asked(cls, sample, axis, method, index, parts=parts) for cls in (Active, theirs)]
                for mine, their in zip(*map(as_parts, found), strict=True):
                    assert mine.shape == their.shape
                    assert type(mine) is type(their)
                    assert np.array_equal(mine.mask, their.mask)
                    # Theirs are sums in 32 bits.
                    np.testing.assert_allclose(mine.filled(0), their.filled(0), rtol=2e-6)

    @pytest.mark.parametrize("method", ["min", "max", "mean"])
    def test_methods_that_are_called(self, sample: Path, theirs: Any, method: str) -> None:
        found = [getattr(cls(str(sample), "tas"), method)(axis=(0, 1))[2:9] for cls in (Active, theirs)]
        assert found[0].shape == found[1].shape == (1, 1, 36)
        np.testing.assert_allclose(found[0], found[1], rtol=2e-6)

    def test_a_variable_of_pyfive(self, sample: Path, theirs: Any) -> None:
        variable = pytest.importorskip("pyfive").File(sample)["tas"]
        found = [cls(variable).max()[2:9] for cls in (Active, theirs)]
        assert found[0] == found[1]

    @pytest.mark.parametrize("arguments", [(None, "tas"), ("no.nc", "tas"), ("sample",), ("sample", "tas", (0, 3))], ids=str)
    def test_errors_are_of_a_kind(self, sample: Path, theirs: Any, arguments: tuple[Any, ...]) -> None:
        given = [str(sample) if one == "sample" else one for one in arguments]
        for cls in (Active, theirs):
            with pytest.raises(ValueError):  # noqa: PT011  # the messages differ
                cls(*given).max()[...]

    def test_a_dropped_dimension_is_an_error_of_a_kind(self, sample: Path, theirs: Any) -> None:
        for cls in (Active, theirs):
            with pytest.raises(IndexError):
                cls(str(sample), "tas").max()[0]


def asked(cls: Any, path: Path, axis: Any, method: str | None, index: Any, *, parts: bool) -> Any:
    active = cls(str(path), "tas", axis=axis)
    active.method, active.components = method, parts
    return active[index]


def as_parts(found: Any) -> list[np.ma.MaskedArray]:
    return [found[name] for name in sorted(found)] if isinstance(found, dict) else [found]


def test_a_fallback_is_told_of(sample: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A backend that refuses every chunk: the numbers are right all the same, and a warning says where they come from."""
    from activestore.backends.posix import PosixBackend
    from activestore.core.backend import Capabilities
    from activestore.sources.open import open_source

    class Refusing(PosixBackend):
        name = "refusing"
        capabilities = Capabilities(components=frozenset())

    real = compat.StoredVariable
    backend = Refusing(open_source(sample))
    monkeypatch.setattr(compat, "StoredVariable", lambda source, variable, **_: real(source, variable, backend=backend))
    active = Active(sample, "tas", active_storage_url="http://server")
    with pytest.warns(FallbackWarning, match="2 of 2 chunks were computed locally, not by refusing"):
        assert active.max()[...] == values_of(sample).max()
