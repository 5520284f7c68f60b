"""The engine beside xarray's own, over real files; indexing; pickling."""

import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from activestore.errors import ConfigurationError, GroupNotFoundError, JoinError, SourceError, SourceNotFoundError
from tests.corpus import corpus_files, file_id
from tests.web_stand_in import WebStandIn

TAS = "docs/tas.nc"
# xarray warns of what it finds odd in real files, with any engine.
pytestmark = pytest.mark.filterwarnings("ignore::xarray.SerializationWarning", "ignore::UserWarning", "ignore::FutureWarning")


def own_engine(path):
    """Return the engine of xarray's own that the file is compared with."""
    return "netcdf4" if path.read_bytes()[:3] == b"CDF" else "h5netcdf"


@pytest.mark.corpus
@pytest.mark.parametrize("path", corpus_files(), ids=file_id)
def test_every_file_is_as_xarray_opens_it(path):
    with xr.open_dataset(path, engine=own_engine(path)) as theirs, xr.open_dataset(path, engine="activestore") as ours:
        xr.testing.assert_identical(ours, theirs)
        for name in theirs.variables:
            assert ours[name].dtype == theirs[name].dtype
            assert ours[name].encoding.get("units") == theirs[name].encoding.get("units")


@pytest.mark.parametrize(
    "pick",
    [
        lambda tas: tas,
        lambda tas: tas[3],
        lambda tas: tas[3, 4, 5],
        lambda tas: tas[::-2, 3:9, ::5],
        lambda tas: tas[[3, 1, 1], :, [0, 35]],
        lambda tas: tas[0:0],
        lambda tas: tas[::-1][5:10],
        lambda tas: tas.sel(time="2001", lat=slice(-30, 30)).isel(lon=slice(None, None, -1)),
        lambda tas: tas.sel(lat=[11, -44], lon=120, method="nearest"),
        lambda tas: tas.isel(time=xr.DataArray([0, 5, 7], dims="point"), lat=xr.DataArray([1, 2, 3], dims="point")),
        lambda tas: tas.isel(time=xr.DataArray([[0, 5], [7, 23]], dims=("a", "b"))),
        lambda tas: tas.transpose("lon", "time", "lat")[2:5],
        lambda tas: tas[np.arange(24) % 3 == 0],
    ],
)
def test_indexing(pick):
    with xr.open_dataset(TAS, engine="h5netcdf") as theirs, xr.open_dataset(TAS, engine="activestore") as ours:
        xr.testing.assert_identical(pick(ours.tas).load(), pick(theirs.tas).load())


@pytest.mark.parametrize("empty", [slice(2, 2, -1), slice(5, 10, -2), slice(-1, 0), []])
def test_nothing_is_read_of_an_empty_selection(empty):
    """Of an empty slice that goes backwards, xarray's own engines raise IndexError."""
    tas = xr.open_dataset(TAS, engine="activestore", cache=False).tas
    for pick in (
        lambda tas: tas[:, empty],
        lambda tas: tas[::-2, empty, [3, 1]],
        lambda tas: tas[:, empty, xr.DataArray([3, 1], dims="point")],
        lambda tas: tas.isel(lat=empty).transpose("lon", "lat", "time"),
    ):
        xr.testing.assert_identical(pick(tas).load(), pick(tas.copy().load()))


def test_undecoded():
    with xr.open_dataset(TAS, engine="h5netcdf", decode_cf=False) as theirs:
        ours = xr.open_dataset(TAS, engine="activestore", decode_cf=False)
        xr.testing.assert_identical(ours, theirs)
        assert ours.tas.max() == np.float32(1e20)


def test_opening_reads_no_chunk(monkeypatch):
    from activestore.backends.posix import PosixBackend

    ds = xr.open_dataset(TAS, engine="activestore")
    monkeypatch.setattr(PosixBackend, "reduce_chunks", lambda *_: pytest.fail("a chunk was read"))
    assert ds.tas.isel(time=slice(3)).sel(lat=slice(-30, 30)).shape == (3, 6, 36)
    assert "tas" in repr(ds)


def test_pickled_array_works_in_another_process():
    ds = xr.open_dataset(TAS, engine="activestore")
    data = pickle.dumps(ds.tas.isel(time=slice(0, 12)))
    program = "import pickle, sys; print(repr(pickle.loads(sys.stdin.buffer.read()).mean('time').values.tobytes().hex()))"
    done = subprocess.run([sys.executable, "-c", program], input=data, capture_output=True, check=True)
    assert done.stdout.decode().strip().strip("'") == ds.tas[:12].mean("time").values.tobytes().hex()


def test_pickle_holds_no_secret():
    ds = xr.open_dataset("memory://tas.nc", engine="activestore", storage_options=remembered())
    assert b"hunter2" not in pickle.dumps(ds)


@pytest.mark.parametrize("password", ["swordfish", "sword fish", "sword/fish"])
def test_a_password_in_an_address_is_nowhere_in_a_dataset(password):
    with WebStandIn() as web:
        web.files["/a.nc"] = web.files["/b.nc"] = Path(TAS).read_bytes()
        address = f"http://me:{password}@{web.address}/a.nc?code=swordfish"
        ds = xr.open_dataset(address, engine="activestore")
        mean = ds.tas.active.mean()
        for text in (repr(ds), repr(ds.tas.variable._data), str(ds.encoding), str(ds.tas.encoding), str(mean.attrs)):
            assert "sword" not in text
        assert b"sword" not in pickle.dumps(ds)
        assert b"sword" not in pickle.dumps(ds.chunk().tas)
        with pytest.raises(JoinError, match=r"/a\.nc and") as caught:
            xr.open_dataset([address, address.replace("/a.nc", "/b.nc")], engine="activestore")
        assert "sword" not in str(caught.value)


def remembered():
    """Put the sample into fsspec's memory, and return options with a secret in them."""
    import fsspec

    fsspec.filesystem("memory").put(TAS, "/tas.nc")
    return {"password": "hunter2"}


def test_groups(tmp_path):
    path = tmp_path / "groups.nc"
    inner = xr.Dataset({"a": ("x", np.arange(5.0))}, attrs={"title": "inner"})
    inner.to_netcdf(path, group="outer/inner", engine="netcdf4")
    xr.testing.assert_identical(xr.open_dataset(path, engine="activestore", group="outer/inner"), inner)
    assert not xr.open_dataset(path, engine="activestore").variables
    with pytest.raises(GroupNotFoundError, match="no group 'nowhere'; there are: outer, outer/inner") as caught:
        xr.open_dataset(path, engine="activestore", group="nowhere")
    assert isinstance(caught.value, OSError)
    with pytest.raises(ConfigurationError, match="must be a string, as 'outer/inner', not 7"):
        xr.open_dataset(path, engine="activestore", group=7)


def test_a_backend_that_does_not_exist_is_told_when_the_file_is_opened():
    with pytest.raises(ConfigurationError, match="'nope'"):
        xr.open_dataset("docs/tas.nc", engine="activestore", backend="nope")


def test_text_and_truth_values(tmp_path):
    path = tmp_path / "text.nc"
    made = xr.Dataset(
        {
            "name": ("x", np.array(["Oslo", "Roma", ""], object)),
            "fixed": ("x", np.array([b"ab", b"cd", b"ef"])),
            "flag": ("x", np.array([True, False, True])),
            "n": ("x", np.array([1, 2, 3], "i8")),
        }
    )
    made.to_netcdf(path, engine="h5netcdf")
    with xr.open_dataset(path, engine="h5netcdf") as theirs:
        xr.testing.assert_identical(xr.open_dataset(path, engine="activestore"), theirs)
        picked = xr.open_dataset(path, engine="activestore").isel(x=[2, 0])
        xr.testing.assert_identical(picked.load(), theirs.isel(x=[2, 0]))


def test_bad_input(tmp_path):
    with pytest.raises(SourceNotFoundError, match="no such file"):
        xr.open_dataset(tmp_path / "none.nc", engine="activestore")
    (tmp_path / "text.nc").write_text("this is not netCDF")
    with pytest.raises(SourceError, match="is neither netCDF nor HDF5"):
        xr.open_dataset(tmp_path / "text.nc", engine="activestore")
    with open(TAS, "rb") as file, pytest.raises(SourceError, match="opens paths and addresses, not a BufferedReader"):
        xr.open_dataset(file, engine="activestore")


def test_a_file_that_changes_is_noticed(tmp_path):
    path = tmp_path / "a.nc"
    xr.Dataset({"a": ("x", np.arange(5.0))}).to_netcdf(path, engine="h5netcdf")
    ds = xr.open_dataset(path, engine="activestore")
    path.unlink()
    xr.Dataset({"a": ("x", np.arange(6.0))}).to_netcdf(path, engine="h5netcdf")
    with pytest.raises(SourceError, match="has changed"):
        ds.a.load()


@pytest.mark.parametrize("load", [lambda ds: ds.load(), lambda ds: ds.tas.values, lambda ds: ds.tas.mean()])
def test_what_was_loaded_before_is_reduced_in_memory(load, monkeypatch):
    from activestore.backends.posix import PosixBackend

    ds = xr.open_dataset(TAS, engine="activestore")
    load(ds)
    monkeypatch.setattr(PosixBackend, "reduce_chunks", lambda *_: pytest.fail("a chunk was read"))
    ds.tas[3] = 999
    theirs = xr.open_dataset(TAS, engine="h5netcdf").load()
    theirs.tas[3] = 999
    part, whole = ds.tas[2:9], theirs.tas[2:9]
    xr.testing.assert_identical(part.active.mean("time"), whole.mean("time"))
    xr.testing.assert_identical(part.active.ptp("lat"), whole.max("lat") - whole.min("lat"))
    xr.testing.assert_identical(part.active.groupby("time.month").max("time"), whole.groupby("time.month").max("time"))
    xr.testing.assert_identical(part.active.where("> 280").count("lon"), whole.where(whole > 280).count("lon"))
    weights = theirs.lat + 100
    xr.testing.assert_identical(part.active.weighted(weights).std("lat"), whole.weighted(weights).std("lat"))
    assert part.active.argmax(["time", "lat", "lon"])["time"] == whole.argmax(["time", "lat", "lon"])["time"]


def test_reprs():
    tas = xr.open_dataset(TAS, engine="activestore").tas
    assert repr(tas.active.where("> 280")) == "<reductions near the data of 'tas' (time: 24, lat: 18, lon: 36) where > 280>"
    assert "in groups: 12 along 'time'" in repr(tas.active.groupby("time.month"))
    assert "weights along 'lat'" in repr(tas.active.weighted(tas.lat))


def test_plots():
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    shown = []
    for engine in ("activestore", "h5netcdf"):
        with xr.open_dataset(TAS, engine=engine) as dataset:
            mesh = dataset.tas.isel(time=0).plot()
            shown.append(np.ma.filled(mesh.get_array(), np.nan))
            mesh.figure.clear()
    assert np.isfinite(shown[0]).any()
    np.testing.assert_array_equal(*shown)
