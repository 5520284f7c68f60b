"""The engine under threads, in other processes, copied, and under Dask."""

import copy
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor

import dask
import numpy as np
import pytest
import xarray as xr

NAMES = ["a", "b", "name", "packed"]


@pytest.fixture(scope="module", params=["NETCDF4", "NETCDF3_64BIT"])
def path(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("concurrency") / "many.nc"
    numbers = np.random.default_rng(1).normal(size=(64, 30, 40)).astype("f4")
    numbers[3, 4] = np.nan
    made = xr.Dataset(
        {
            "a": (("t", "y", "x"), numbers),
            "b": (("t", "y"), np.arange(1920).reshape(64, 30)),
            "name": ("t", np.array([f"step {i}" for i in range(64)])),
            "packed": (("t", "x"), numbers[:, 0], {}, {"scale_factor": 0.01, "dtype": "i2", "_FillValue": -999}),
        }
    )
    encoding = {"a": {"zlib": True, "chunksizes": (7, 30, 11)}} if request.param == "NETCDF4" else None
    made.to_netcdf(path, format=request.param, encoding=encoding)
    return path


@pytest.fixture
def expected(path):
    engine = "h5netcdf" if path.read_bytes()[:3] != b"CDF" else "netcdf4"
    with xr.open_dataset(path, engine=engine) as theirs:
        return theirs.load()


def test_many_threads_load_variables_of_one_dataset(path, expected):
    ds = xr.open_dataset(path, engine="activestore", cache=False)
    start = threading.Barrier(8)

    def load(number):
        start.wait()
        part = slice(number, None, 3)
        return [ds[name].isel(t=part).load() for name in NAMES]

    with ThreadPoolExecutor(8) as pool:
        for number, found in enumerate(pool.map(load, range(8))):
            for name, array in zip(NAMES, found, strict=True):
                xr.testing.assert_identical(array, expected[name].isel(t=slice(number, None, 3)))


def test_many_threads_load_one_variable_that_is_kept(path, expected):
    ds = xr.open_dataset(path, engine="activestore")
    with ThreadPoolExecutor(8) as pool:
        for found in pool.map(lambda _: ds.a.load(), range(16)):
            xr.testing.assert_identical(found, expected.a)


def test_copies(path, expected):
    ds = xr.open_dataset(path, engine="activestore")
    for made in (copy.deepcopy(ds), ds.copy(deep=True), copy.copy(ds), pickle.loads(pickle.dumps(ds))):
        xr.testing.assert_identical(made.load(), expected)


def mean_of(array):
    return array.mean("t").values


def test_other_processes(path, expected, process_pool):
    ds = xr.open_dataset(path, engine="activestore")
    parts = [ds.a[start : start + 16] for start in range(0, 64, 16)]
    for start, mean in zip(range(0, 64, 16), process_pool.map(mean_of, parts), strict=True):
        np.testing.assert_array_equal(mean, expected.a[start : start + 16].mean("t").values)


@pytest.mark.parametrize("scheduler", ["threads", "processes", "synchronous"])
@pytest.mark.parametrize("chunks", [{}, {"t": 14, "x": 22}])
def test_dask(path, expected, process_pool, scheduler, chunks):
    ds = xr.open_dataset(path, engine="activestore", chunks=chunks)
    assert ds.a.chunks is not None
    pool = {"pool": process_pool} if scheduler == "processes" else {}
    with dask.config.set(scheduler=scheduler, **pool):
        xr.testing.assert_identical(ds.compute(), expected)
        xr.testing.assert_identical(ds.a.max("t").compute(), expected.a.max("t"))


def test_dask_takes_the_chunks_of_the_file(path):
    if path.read_bytes()[:3] == b"CDF":
        pytest.skip("netCDF classic files have no chunks")
    ds = xr.open_dataset(path, engine="activestore", chunks={})
    assert ds.a.data.chunksize == (7, 30, 11)
