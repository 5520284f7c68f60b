"""netCDF's default fill values, which xarray takes for numbers: the values are xarray's, and a warning says what to do."""

import warnings

import netCDF4
import numpy as np
import pytest
import xarray as xr

import activestore.accessor  # noqa: F401  # registers .active for files that other engines opened
from activestore import Active

pytestmark = pytest.mark.filterwarnings("ignore:The specified chunks separate:UserWarning")
WARNS = r"default fill value, {}, is among the values .* \.active\.where\('!= {}'\)"
DTYPES = ("i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8")


def write(path, dtype, *, fill=True, form="NETCDF4", **attrs):
    """Write numbers of which two were left out, if `fill`; they are in three chunks, and only one has those."""
    values = np.arange(1, 13).reshape(6, 2).astype(dtype)
    with netCDF4.Dataset(path, "w", format=form) as file:
        file.createDimension("t", 6)
        file.createDimension("x", 2)
        variable = file.createVariable("v", dtype, ("t", "x"), **({"chunksizes": (2, 2)} if form == "NETCDF4" else {}))
        variable.set_auto_maskandscale(False)
        variable.setncatts(attrs)
        variable[:] = values
        if fill:
            variable[2, :] = netCDF4.default_fillvals[dtype]
    return path


def opened(path, engine="activestore", **options):
    return xr.open_dataset(path, engine=engine, cache=False, **options)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("engine", ["activestore", "h5netcdf", "netcdf4"])
def test_they_count_and_are_told(tmp_path, dtype, engine):
    path, fill = write(tmp_path / "a.nc", dtype), netCDF4.default_fillvals[dtype]
    with opened(path, engine) as ds:
        loaded = ds.v.compute()
        number = repr(np.dtype(dtype).type(fill).item()).replace("+", r"\+")
        for method in ("count", "mean", "min", "max", "std", "any"):
            for dim in (None, "t", "x"):
                with pytest.warns(UserWarning, match=WARNS.format(number, number)) as told:
                    found = getattr(ds.v.active, method)(dim)
                assert len(told) == 1
                wanted = getattr(loaded.astype("f8") if method in ("mean", "std") else loaded, method)(dim)
                xr.testing.assert_allclose(found, wanted, rtol=1e-6)
        with pytest.warns(UserWarning, match="default fill value"):
            ds.active.max("x")
        with pytest.warns(UserWarning, match="default fill value"):
            ds.v.active.groupby(xr.DataArray([0, 0, 1, 1, 2, 2], dims="t", name="k")).mean()
        # What is not reduced, or left out as is advised, is not told of.
        assert ds.v[3:].active.count() == 6
        remedy = f"!= {np.dtype(dtype).type(fill).item()!r}"
        assert Active(path, "v").mean() == 6.7
        assert ds.v.active.where(remedy).mean() == np.float64(6.7).astype(ds.v.where(ds.v < 0).dtype)
        assert ds.v.active.where(remedy).count("t").values.tolist() == [5, 5]


@pytest.mark.parametrize("form", ["NETCDF3_CLASSIC", "NETCDF3_64BIT_DATA"])
def test_classic_files(tmp_path, form):
    with opened(write(tmp_path / "a.nc", "f4", form=form)) as ds, pytest.warns(UserWarning, match="default fill value"):
        assert ds.v.active.max() > 9e36


@pytest.mark.parametrize("scale", [np.float32(0.5), np.float64(-2), np.float32(-0.1)])
def test_packed_numbers(tmp_path, scale):
    with opened(write(tmp_path / "a.nc", "i2", scale_factor=scale, add_offset=scale)) as ds:
        with pytest.warns(UserWarning, match="default fill value") as told:
            found = ds.v.active.mean()
        xr.testing.assert_allclose(found, ds.v.compute().mean())
        remedy = str(told[0].message).partition("where('")[2].partition("')")[0]
        assert ds.v.active.where(remedy).count() == 10


def test_many_files_and_dask(tmp_path):
    paths = [write(tmp_path / f"{number}.nc", "f4", fill=number == 1) for number in range(3)]
    with opened(paths, concat_dim="t") as ds, pytest.warns(UserWarning, match="default fill value"):
        ds.v.active.max("t")
    with opened(paths[1], chunks={"t": 3}) as ds, pytest.warns(UserWarning, match="default fill value"):
        ds.v.active.max("t")


UNTOLD = {
    "none are there": {"dtype": "f4", "fill": False},
    "named as missing": {"dtype": "f4", "missing_value": np.float32(netCDF4.default_fillvals["f4"])},
    "of one byte": {"dtype": "i1"},
    "unsigned": {"dtype": "i2", "_Unsigned": "true"},
}


@pytest.mark.parametrize("case", UNTOLD)
def test_nothing_is_told_otherwise(tmp_path, case):
    with opened(write(tmp_path / "a.nc", **UNTOLD[case])) as ds, warnings.catch_warnings():
        warnings.simplefilter("error")
        xr.testing.assert_identical(ds.v.active.count("t"), ds.v.compute().count("t"))
        xr.testing.assert_identical(ds.v.active.max("t"), ds.v.compute().max("t"))


@pytest.mark.parametrize(
    ("dtype", "method", "asked"),
    [("f4", "mean", ["mean"]), ("f8", "sum", ["sum"]), ("f8", "std", ["std", "max"]), ("i4", "sum", ["sum", "min"])],
)
def test_nothing_more_is_asked_where_the_result_tells(tmp_path, monkeypatch, dtype, method, asked):
    seen, run = [], Active.run

    def noting(self, reductions, *more, **options):
        seen.append([one.name for one in reductions])
        return run(self, reductions, *more, **options)

    with opened(write(tmp_path / "a.nc", dtype, fill=False)) as ds:
        wanted = getattr(ds.v.compute(), method)()
        monkeypatch.setattr(Active, "run", noting)
        xr.testing.assert_allclose(getattr(ds.v.active, method)(), wanted)
    assert seen == [asked]


@pytest.mark.parametrize("method", ["sum", "mean", "std", "var", "min", "max"])
def test_cells_without_other_values_are_told_too(tmp_path, method):
    with opened(write(tmp_path / "a.nc", "f4")) as ds:
        with pytest.warns(UserWarning, match="default fill value"):
            getattr(ds.v.active, method)("x")
        with pytest.warns(UserWarning, match="default fill value"):
            getattr(ds.v[2:3].active, method)("t")


def test_large_values_are_no_fill_values(tmp_path):
    with opened(write(tmp_path / "a.nc", "f8", fill=False)) as ds:
        large = ds.assign(v=ds.v * 1e36)
    large.v.encoding.clear()
    large.to_netcdf(tmp_path / "large.nc", encoding={"v": {"_FillValue": None}})
    with opened(tmp_path / "large.nc") as ds, warnings.catch_warnings():
        warnings.simplefilter("error")
        xr.testing.assert_allclose(ds.v.active.sum(), large.v.sum())
