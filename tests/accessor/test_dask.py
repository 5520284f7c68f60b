"""Dask-backed arrays, of one file and of many, whatever engine opened them; with and without a cluster."""

import numpy as np
import pytest
import xarray as xr

from activestore.errors import UntraceableError

TAS = "docs/tas.nc"
# xarray advises chunks like those of the file.
pytestmark = pytest.mark.filterwarnings("ignore:The specified chunks separate:UserWarning")


@pytest.fixture(params=["activestore", "h5netcdf", "netcdf4"])
def engine(request):
    return request.param


@pytest.fixture
def tas():
    with xr.open_dataset(TAS, engine="h5netcdf") as theirs:
        return theirs.tas.load()


def same(ours, theirs):
    assert (ours.dims, ours.dtype, ours.attrs, ours.name) == (theirs.dims, theirs.dtype, theirs.attrs, theirs.name)
    assert isinstance(ours.data, np.ndarray)
    xr.testing.assert_allclose(ours, theirs, rtol=1e-6)


@pytest.mark.parametrize("chunks", [{}, {"time": 5}, {"time": 7, "lat": 4, "lon": 36}])
def test_one_file(tas, engine, chunks):
    ours = xr.open_dataset(TAS, engine=engine, chunks=chunks).tas
    same(ours.active.mean("time"), tas.mean("time"))
    same(ours[3:20:2, ::-1, [1, 5]].active.max(["lat", "lon"]), tas[3:20:2, ::-1, [1, 5]].max(["lat", "lon"]))
    same(ours.sel(time="2001", lat=slice(-30, 30)).active.std(), tas.sel(time="2001", lat=slice(-30, 30)).std())
    same(ours.active.groupby("time.season").mean("time"), tas.groupby("time.season").mean("time"))
    weights = np.cos(np.deg2rad(tas.lat))
    same(ours.active.weighted(weights).mean(["lat", "lon"]), tas.weighted(weights).mean(["lat", "lon"]))


def test_datasets(tas, engine):
    ours = xr.open_dataset(TAS, engine=engine, chunks={"time": 6})
    with xr.open_dataset(TAS, engine="h5netcdf") as theirs:
        xr.testing.assert_allclose(ours.active.mean("time"), theirs.load().mean("time"), rtol=1e-6)


def test_many_files(tas, engine, tmp_path):
    paths = [tmp_path / f"{first:02}.nc" for first in (0, 10, 17)]
    for path, part in zip(paths, (slice(0, 10), slice(10, 17), slice(17, 24)), strict=True):
        tas[part].to_netcdf(path, engine="h5netcdf")
    with xr.open_mfdataset(paths, engine=engine) as opened:
        same(opened.tas.active.min("time"), tas.min("time"))
        same(opened.tas[5:22:3].active.mean(["time", "lon"]), tas[5:22:3].mean(["time", "lon"]))
        explained = opened.tas.active.explain("mean", "time")
        assert explained.chunks == explained.chunks_of_variable == 8


def test_what_was_persisted_is_reduced_where_it_is(engine, tas):
    ours = xr.open_dataset(TAS, engine=engine, chunks={"time": 5}).persist()
    weights = np.cos(np.deg2rad(tas.lat))
    for part in (lambda one: one, lambda one: one.sel(time="2001", lat=slice(-30, 30)), lambda one: one[::2, 3]):
        same(part(ours.tas).active.mean("time"), part(tas).mean("time"))
        same(part(ours.tas).active.groupby("time.month").max("time"), part(tas).groupby("time.month").max("time"))
        same(part(ours.tas).active.where("> 280").count(), part(tas).where(part(tas) > 280).count())
    same(ours.tas.active.weighted(weights).mean(["lat", "lon"]), tas.weighted(weights).mean(["lat", "lon"]))
    for dim, found in ours.tas.active.argmax(["time", "lat", "lon"]).items():
        same(found, tas.argmax(["time", "lat", "lon"])[dim])
    xr.testing.assert_allclose(ours.active.mean("lon").tas, tas.mean("lon"), rtol=1e-6)
    for computed in (ours.tas - 273.15, (xr.open_dataset(TAS, engine=engine, chunks={}).tas - 273.15).persist()):
        with pytest.raises(UntraceableError, match=r"in memory already|computes: sub"):
            computed.active.mean()


def test_what_is_computed_is_refused(engine):
    ours = xr.open_dataset(TAS, engine=engine, chunks={}).tas
    for computed in (ours - 273.15, ours.mean("time"), ours.where(ours > 280), ours.fillna(0), ours.rolling(time=3).mean()):
        with pytest.raises(UntraceableError, match="open the file with xr"):
            computed.active.mean()


def test_a_cluster_computes(tas, monkeypatch):
    """Batches go to the client that is active; `tests/accessor/reducing/test_cluster.py` has a real one."""
    from concurrent.futures import ThreadPoolExecutor

    from activestore.accessor.reducing import query
    from activestore.accessor.reducing.cluster import Cluster

    class Recording(ThreadPoolExecutor):
        calls = 0

        def submit(self, *arguments, **options):
            Recording.calls += 1
            return super().submit(*arguments, **options)

    with Recording(2) as pool:
        monkeypatch.setattr(query, "executor_here", lambda: Cluster(pool, 2))
        same(xr.open_dataset(TAS, engine="activestore", chunks={}).tas.active.mean("lat"), tas.mean("lat"))
        assert Recording.calls == 1
        same(xr.open_dataset(TAS, engine="activestore").tas.active.mean("lat"), tas.mean("lat"))
        assert Recording.calls == 1
