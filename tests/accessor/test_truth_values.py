"""Truth values and enumerations: whatever the engine opens is reduced, and nothing that cannot be keeps the rest from it."""

import contextlib
import warnings

import h5py
import netCDF4
import numpy as np
import pandas as pd
import pytest
import xarray as xr
import zarr

import activestore.accessor  # noqa: F401  # registers .active for files that other engines opened
from activestore import Active
from activestore.errors import FallbackWarning, ReductionError, UntraceableError
from activestore.server.settings import ServerSettings
from tests.accessor.beside_xarray import assert_like
from tests.server.running import running

pytestmark = pytest.mark.filterwarnings(
    "ignore::xarray.SerializationWarning",
    "ignore::zarr.errors.UnstableSpecificationWarning",
    "ignore:Behaviour of argmin/argmax:FutureWarning",
    "ignore:Consolidated metadata",
    "ignore:Object at",
)
METHODS = ("count", "sum", "mean", "min", "max", "std", "var", "any", "all")
SHAPE = (6, 4, 5)
MASK = np.random.default_rng(0).random(SHAPE) > 0.6
MASK[1], MASK[2] = True, False


def dataset():
    coords = {"time": pd.date_range("2001-01-30", periods=6), "y": np.arange(4.0), "k": ("time", [0, 0, 1, 1, 2, 2])}
    values = np.arange(MASK.size, dtype="f4").reshape(SHAPE)
    return xr.Dataset({"mask": (("time", "y", "x"), MASK), "v": (("time", "y", "x"), values)}, coords)


def of_netcdf(path, form="NETCDF4"):
    chunks = {"chunksizes": (2, 3, 5), "zlib": True} if form == "NETCDF4" else {}
    dataset().to_netcdf(path, engine="netcdf4", format=form, encoding={"mask": chunks})
    return path


def of_zarr(path, zarr_format):
    dataset().to_zarr(path, zarr_format=zarr_format, consolidated=False, encoding={"mask": {"chunks": (2, 3, 5)}})
    return path


def of_h5py(path):
    with h5py.File(path, "w") as file:
        for dim, length in (("time", 6), ("y", 4), ("x", 5)):
            file[dim] = np.arange(float(length))
            file[dim].make_scale(dim)
        file.create_dataset("mask", data=MASK, chunks=(2, 3, 5), compression="gzip")
        file["v"] = dataset().v.values
        for name in ("mask", "v"):
            for axis, dim in enumerate(("time", "y", "x")):
                file[name].dims[axis].attach_scale(file[dim])
    return path


def of_enumeration(path, **options):
    with netCDF4.Dataset(path, "w") as file:
        for dim, length in (("time", 6), ("y", 4), ("x", 5)):
            file.createDimension(dim, length)
        kind = file.createEnumType("u1", "cloud_t", {"clear": 0, "cloudy": 1, "thick": 3, "missing": 255})
        made = file.createVariable("mask", kind, ("time", "y", "x"), chunksizes=(2, 3, 5), zlib=True, **options)
        made[:] = np.where(MASK, np.resize([1, 3], SHAPE), np.resize([0, 0, 255], SHAPE)).astype("u1")
        file.createVariable("v", "f4", ("time", "y", "x"))[:] = dataset().v.values
    return path


def of_zarrs_own(path, zarr_format):
    """As zarr-python writes it, by default with a fill value, which format 2 takes for a missing one."""
    root = zarr.open_group(path, mode="w", zarr_format=zarr_format)
    names = {"dimension_names": ("time", "y", "x")} if zarr_format == 3 else {}
    array = root.create_array("mask", shape=SHAPE, chunks=(2, 3, 5), dtype=bool, **names)
    array[:] = MASK
    if zarr_format == 2:
        array.attrs["_ARRAY_DIMENSIONS"] = ["time", "y", "x"]
    return path


FORMS = {
    "netCDF-4": (of_netcdf, ("activestore", "h5netcdf", "netcdf4")),
    "netCDF classic": (lambda path: of_netcdf(path, "NETCDF3_64BIT"), ("activestore", "netcdf4")),
    "h5py": (of_h5py, ("activestore", "h5netcdf")),
    "enumeration": (of_enumeration, ("activestore", "h5netcdf", "netcdf4")),
    "enumeration, filled": (lambda path: of_enumeration(path, fill_value=255), ("activestore", "h5netcdf", "netcdf4")),
    "Zarr 2": (lambda path: of_zarr(path, 2), ("activestore",)),
    "Zarr 3": (lambda path: of_zarr(path, 3), ("activestore",)),
    "zarr-python 3": (lambda path: of_zarrs_own(path, 3), ("activestore",)),
}


@pytest.fixture(params=FORMS)
def stored(request, tmp_path):
    """A file, the engines that open it, and what xarray's own make of it."""
    make, engines = FORMS[request.param]
    path = make(str(tmp_path / "a"))
    own = engines[-1] if len(engines) > 1 else "zarr"
    with xr.open_dataset(path, engine=own, **({"consolidated": False} if own == "zarr" else {})) as theirs:
        yield path, engines, theirs.load()


def assert_same(found, wanted, what=""):
    assert_like(found, wanted, what)
    np.testing.assert_allclose(found, wanted, rtol=1e-6, err_msg=str(what))


@pytest.fixture(autouse=True)
def _near_the_data():
    """Nothing is to be read first, unless a test says so."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", FallbackWarning)
        yield


def test_as_xarray_has_them(stored):
    path, engines, theirs = stored
    for engine in engines:
        with xr.open_dataset(path, engine=engine, cache=False) as ds:
            assert ds.mask.dtype == theirs.mask.dtype
            xr.testing.assert_identical(ds.mask.compute(), theirs.mask)
            for dim in (None, "time", ["y", "x"], []):
                for method in METHODS:
                    assert_same(getattr(ds.mask.active, method)(dim), getattr(theirs.mask, method)(dim), (engine, method, dim))
            if theirs.mask.dtype == bool:
                xr.testing.assert_identical(ds.mask.active.argmax("y"), theirs.mask.argmax("y"))
                single = {"time": 1, "y": 2, "x": 3}
                xr.testing.assert_identical(ds.mask.isel(single).active.argmax(), theirs.mask.isel(single).argmax())
                xr.testing.assert_identical((~ds.mask).compute(), ~theirs.mask)
                if "v" in ds:
                    assert_same(ds.v.where(~ds.mask).sum(), theirs.v.where(~theirs.mask).sum())


def test_whole_datasets(stored):
    path, engines, theirs = stored
    for engine in engines:
        with xr.open_dataset(path, engine=engine, cache=False) as ds:
            found, wanted = ds.active.mean("time"), theirs.mean("time")
            assert set(found.data_vars) == set(wanted.data_vars)
            for name in wanted.data_vars:
                assert_same(found[name], wanted[name], (engine, name))


@pytest.mark.parametrize("flox", [True, False])
@pytest.mark.parametrize("form", ["netCDF-4", "Zarr 3"])
def test_groups_windows_and_weights(tmp_path, form, flox):
    path = FORMS[form][0](str(tmp_path / "a"))
    weights = xr.DataArray([1.0, 2, 3, 4], dims="y")
    with xr.open_dataset(path, engine="activestore", cache=False) as ds, xr.set_options(use_flox=flox):
        near, loaded = ds.mask.active, ds.mask.compute()
        for method in ("count", "sum", "mean", "max", "any", "all"):
            for make in (
                lambda one: one.groupby("k"),
                lambda one: one.resample(time="1MS"),
                lambda one: one.coarsen(y=2, x=5),
            ):
                assert_same(getattr(make(near), method)(), getattr(make(loaded), method)(), (method, make))
        for method in ("mean", "sum", "std", "sum_of_weights"):
            found = getattr(near.weighted(weights), method)(["y", "x"])
            assert_same(found, getattr(loaded.weighted(weights), method)(["y", "x"]), method)


def test_what_has_no_answer(tmp_path):
    with xr.open_dataset(of_netcdf(str(tmp_path / "a")), engine="activestore", cache=False) as ds:
        with pytest.raises(ReductionError, match="truth values have no difference"):
            ds.mask.active.ptp()
        with pytest.warns(FallbackWarning, match="xarray's where makes objects"):
            found = ds.mask.active.where("> 0").count()
        assert found == MASK.sum()


def test_missing_truth_values_are_as_in_xarray(tmp_path):
    """Format 2's fill value is a missing one: xarray makes objects of the values."""
    path = of_zarrs_own(str(tmp_path / "a"), 2)
    wanted = xr.open_dataset(path, engine="zarr", consolidated=False).mask.load()
    found = xr.open_dataset(path, engine="activestore").mask
    with pytest.warns(FallbackWarning, match="'mask': .* has to be read"):
        assert found.active.count().item() == wanted.count().item() == MASK.sum()
    xr.testing.assert_identical(found.compute(), wanted)
    assert Active(path, "mask").count() == MASK.sum()


@pytest.mark.parametrize(
    "make", [lambda path: of_zarr(path, 2), lambda path: of_zarr(path, 3), lambda path: of_zarrs_own(path, 3)]
)
def test_zarr_through_active(tmp_path, make):
    active = Active(make(str(tmp_path / "a")), "mask")
    assert active.dtype == bool
    assert (~active.read() == ~MASK).all()
    found = active.reduce(("sum", "mean", "min", "max", "any", "argmax", "std", "count"), axis=("time", "x"))
    for name, value in found.items():
        if name == "argmax":
            wanted = np.moveaxis(MASK, 1, 0).reshape(4, -1).argmax(axis=1)
        else:
            wanted = np.full(4, 30) if name == "count" else getattr(MASK, name)(axis=(0, 2))
        np.testing.assert_allclose(value, wanted, err_msg=name)
        assert value.dtype == wanted.dtype, name
    assert active.run("count", where="> 0.5").value == MASK.sum()
    assert active[:, ::2].sum() == MASK[:, ::2].sum()
    assert active.run("sum", "time", by={"time": [0, 0, 1, 1, 2, 2]}, where="== 0").count.sum() == (~MASK).sum()
    with pytest.raises(ReductionError, match="no difference"):
        active.ptp()


def test_truth_values_are_reduced_by_a_server(tmp_path):
    path = of_netcdf(str(tmp_path / "a.nc"))
    with running(ServerSettings(roots=(tmp_path,))) as server:
        options = {"backend": "reductionist", "server": server.url, "fallback": "error"}
        with xr.open_dataset(path, engine="activestore", cache=False, **options) as ds:
            for method in METHODS:
                assert_same(getattr(ds.mask.active, method)("time"), getattr(ds.mask.compute(), method)("time"), method)


def test_one_variable_never_keeps_the_others_from_being_reduced(tmp_path):
    """It is named and left out; where there are no others, it is an error."""
    path = of_netcdf(str(tmp_path / "a.nc"))
    large = xr.Dataset({"large": ("time", np.full(6, 2**62)), "v": ("time", np.arange(6.0))})
    large.to_netcdf(tmp_path / "large.nc", engine="netcdf4")
    with xr.open_dataset(path, engine="activestore", cache=False) as ds:
        both = ds.assign(computed=ds.v.chunk() - 1)
        for reduce in (
            lambda one: one.active.mean("time"),
            lambda one: one.active.groupby("k").mean("time"),
            lambda one: one.active.weighted(xr.DataArray([1.0, 2, 3, 4], dims="y")).mean(),
        ):
            with pytest.warns(UserWarning, match="'computed' is left out: the Dask graph computes: sub"):
                found = reduce(both)
            assert set(found.data_vars) == {"mask", "v"}
            xr.testing.assert_identical(found, reduce(ds))
            with pytest.raises(UntraceableError, match="'computed': the Dask graph computes: sub"):
                reduce(both[["computed"]])
    with xr.open_dataset(tmp_path / "large.nc", engine="activestore") as ds:
        with pytest.warns(UserWarning, match="'large' is left out: .*64 bits"):
            found = ds.active.sum()
        assert found.v == 15
        assert "large" not in found


def test_records_and_lists_of_numbers_are_left_out(tmp_path):
    """xarray fails at them, and then at the dataset: without them, it is reduced as if they were not there."""
    path = tmp_path / "a.nc"
    with h5py.File(path, "w") as file:
        for dim, length in (("time", 4), ("y", 2)):
            file[dim] = np.arange(float(length))
            file[dim].make_scale(dim)
        odd = np.zeros(4, [("a", "f4"), ("b", "i2")])
        for name, values in (("v", np.arange(4.0)), ("records", odd), ("raw", odd["a"].view("V4")), ("text", [b"abc"] * 4)):
            file[name] = values
            file[name].dims[0].attach_scale(file["time"])
        file["field"] = np.arange(2.0)
        file["field"].dims[0].attach_scale(file["y"])
    with xr.open_dataset(path, engine="activestore", cache=False) as ds:
        plain = ds[["v", "field"]]
        weights = xr.DataArray([1.0, 2, 3, 4], dims="time")
        for reduce in (
            lambda one: one.active.max("time"),
            lambda one: one.active.max(),
            lambda one: one.active.groupby(xr.DataArray([0, 0, 1, 1], dims="time", name="k")).max("time"),
            lambda one: one.active.coarsen(time=2).max(),
            lambda one: one.active.weighted(weights).mean("time"),
        ):
            with warnings.catch_warnings(record=True) as told:
                warnings.simplefilter("always")
                found = reduce(ds)
            for name in ("records", "raw"):
                assert any(f"'{name}' is left out: " in str(one.message) for one in told), name
                assert name not in found
            xr.testing.assert_identical(found[["v", "field"]], reduce(plain))
        with pytest.raises(TypeError):
            ds[["records"]].active.max()


def test_what_only_xarray_reads(tmp_path):
    """Complex and long numbers are read first, beside others that are reduced where they are."""
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["waves"] = np.array([1 + 2j, 3, 4])
        file["v"] = np.array([1.0, 2, 6])
        file["long"] = np.array([1, 2, 6], np.longdouble)
    with contextlib.ExitStack() as stack:
        for filtered in ("ignore:The .phony_dims", "ignore:.*phony"):
            stack.enter_context(warnings.catch_warnings())
            warnings.filterwarnings(*filtered.split(":", 1))
        ds = stack.enter_context(xr.open_dataset(path, engine="activestore", cache=False))
        loaded = ds.compute()
        for name in ("waves", "long"):
            with pytest.warns(FallbackWarning, match=f"'{name}': .* has to be read"):
                assert ds[name].active.mean() == loaded[name].mean()
        with pytest.warns(FallbackWarning):
            xr.testing.assert_allclose(ds.active.mean(), loaded.mean())


@pytest.mark.parametrize("engine", ["scipy", "zarr"])
def test_engines_that_only_xarray_reads_with(tmp_path, engine):
    path = str(tmp_path / "a")
    small = dataset().drop_vars("time")
    if engine == "zarr":
        small.to_zarr(path, zarr_format=3, consolidated=False)
    else:
        small.to_netcdf(path, engine="scipy")
    options = {"consolidated": False} if engine == "zarr" else {}
    with xr.open_dataset(path, engine=engine, cache=False, **options) as ds:
        with pytest.warns(FallbackWarning, match="only xarray reads"):
            found = ds.mask.active.mean("time")
        xr.testing.assert_identical(found, small.mask.mean("time"))
        with pytest.warns(FallbackWarning, match="only xarray reads"):
            found = ds.active.groupby("k").max()
        xr.testing.assert_identical(found, ds.compute().groupby("k").max())


def test_position_of_a_single_value_that_is_read_first(tmp_path):
    """A fill value makes objects of truth values, which only xarray decodes."""
    group = zarr.open_group(tmp_path / "a.zarr", mode="w", zarr_format=2)
    array = group.create_array("x", shape=(3,), chunks=(2,), dtype="bool", fill_value=False)
    array[...] = [True, False, True]
    array.attrs["_ARRAY_DIMENSIONS"] = ["d"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ds = xr.open_dataset(tmp_path / "a.zarr", engine="activestore")
        xr.testing.assert_identical(ds.x[0].active.argmax(), ds.x[0].compute().argmax())
        with pytest.raises(ValueError, match="All-NaN"):
            ds.x[1].active.argmax()
