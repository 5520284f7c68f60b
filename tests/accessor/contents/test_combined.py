"""Many files opened as one dataset, beside `xarray.open_mfdataset`."""

import pickle

import numpy as np
import pytest
import xarray as xr

from activestore.errors import ConfigurationError, JoinError, SourceNotFoundError

pytestmark = pytest.mark.filterwarnings("ignore:.* store numbers in different ways:UserWarning")
YEARS = (2000, 2001, 2003)


def a_year(year, *, units="days since 1990-01-01", dtype="f4", scale=None, lat=(-45.0, 0.0, 45.0), days=10):
    """Return a small dataset of one year, with the encoding that it will be stored with."""
    rng = np.random.default_rng(year)
    time = xr.date_range(f"{year}-01-01", periods=days, freq="30D", calendar="noleap", use_cftime=True)
    values = rng.normal(280, 10, (days, len(lat), 4)).round(1)
    values[1, 1] = np.nan
    made = xr.Dataset(
        {"tas": (("time", "lat", "lon"), values, {"units": "K"}), "area": (("lat", "lon"), np.ones((len(lat), 4)))},
        coords={"time": time, "lat": list(lat), "lon": np.arange(4.0), "height": 2.0},
        attrs={"title": f"the year {year}"},
    )
    packing = {} if scale is None else {"scale_factor": scale, "add_offset": 250.0}
    made.tas.encoding = {"dtype": dtype, "_FillValue": -999, "chunksizes": (3, 2, 4), **packing}
    made.time.encoding = {"units": units, "dtype": "f8", "calendar": "noleap"}
    return made


def written(folder, years):
    """Write datasets, one for each year, and return their paths."""
    paths = []
    for year, dataset in years.items():
        paths.append(folder / f"tas_{year}.nc")
        dataset.to_netcdf(paths[-1], engine="h5netcdf", unlimited_dims=["time"])
    return paths


KINDS = {
    "alike": lambda _: {},
    "units of time": lambda year: {"units": f"days since {year}-01-01"},
    "packing": lambda year: {"dtype": "i2", "scale": {2000: 0.1, 2001: 0.01, 2003: 0.05}[year]},
    "types": lambda year: {"dtype": "f8" if year == 2001 else "f4"},
    "packed or not": lambda year: {"dtype": "i2", "scale": 0.01} if year == 2001 else {},
}


@pytest.fixture(params=KINDS)
def series(request, tmp_path):
    """Return the paths of a series whose files differ in one way, in a bad order, and the series as xarray opens it."""
    paths = written(tmp_path, {year: a_year(year, **KINDS[request.param](year)) for year in YEARS})
    with xr.open_mfdataset(paths, engine="h5netcdf", data_vars="minimal", coords="minimal", compat="override") as theirs:
        return [paths[1], paths[2], paths[0]], theirs.load()


def test_as_open_mfdataset(series):
    paths, theirs = series
    ours = xr.open_dataset(paths, engine="activestore")
    assert ours.tas.dtype == theirs.tas.dtype
    xr.testing.assert_identical(ours.load(), theirs)


@pytest.mark.parametrize(
    "pick",
    [
        lambda tas: tas[5:28:7],
        lambda tas: tas[::-1, 1],
        lambda tas: tas[[29, 0, 11, 11], :, [3, 0]],
        lambda tas: tas[12],
        lambda tas: tas[12, 2, 3],
        lambda tas: tas[0:0],
        lambda tas: tas.sel(time="2001"),
        lambda tas: tas.isel(time=xr.DataArray([0, 15, 29], dims="p"), lat=xr.DataArray([0, 1, 2], dims="p")),
    ],
)
def test_indexing(series, pick):
    paths, theirs = series
    xr.testing.assert_identical(pick(xr.open_dataset(paths, engine="activestore").tas).load(), pick(theirs.tas))


def same(ours, theirs):
    assert (ours.dims, ours.dtype, ours.attrs, ours.name) == (theirs.dims, theirs.dtype, theirs.attrs, theirs.name)
    xr.testing.assert_allclose(ours, theirs, rtol=1e-6)


def test_reductions(series):
    paths, theirs = series
    tas = xr.open_dataset(paths, engine="activestore").tas
    for name in ("count", "sum", "mean", "min", "max", "std", "any", "all"):
        for dim in (None, "time", ["lat", "lon"]):
            same(getattr(tas.active, name)(dim), getattr(theirs.tas, name)(dim))
    same(tas[4:25:3].active.mean("time"), theirs.tas[4:25:3].mean("time"))
    same(tas.active.groupby("time.month").mean("time"), theirs.tas.groupby("time.month").mean("time"))
    same(tas.active.resample(time="1YS").max("time"), theirs.tas.resample(time="1YS").max("time"))
    same(tas.active.where("> 280").count("time"), theirs.tas.where(theirs.tas > 280).count("time"))
    weights = np.cos(np.deg2rad(theirs.lat))
    same(tas.active.weighted(weights).mean(["lat", "lon"]), theirs.tas.weighted(weights).mean(["lat", "lon"]))


def test_one_pass(series):
    paths, theirs = series
    explained = xr.open_dataset(paths, engine="activestore").tas.active.explain("mean", "time")
    assert explained.chunks == explained.chunks_of_variable == 3 * 4 * 2
    assert explained.plan.request.selection.shape == theirs.tas.shape


def test_pickled(series):
    paths, theirs = series
    tas = pickle.loads(pickle.dumps(xr.open_dataset(paths, engine="activestore").tas))
    same(tas.active.mean("lat"), theirs.tas.mean("lat"))
    xr.testing.assert_identical(tas.load(), theirs.tas)


def test_patterns_and_folders(tmp_path):
    paths = written(tmp_path, {year: a_year(year) for year in YEARS})
    whole = xr.open_dataset(paths, engine="activestore").load()
    xr.testing.assert_identical(xr.open_dataset(tmp_path / "tas_*.nc", engine="activestore").load(), whole)
    xr.testing.assert_identical(xr.open_dataset(f"{tmp_path}/", engine="activestore").load(), whole)
    assert xr.open_dataset(tmp_path / "tas_200[01].nc", engine="activestore").sizes["time"] == 20
    with pytest.raises(SourceNotFoundError, match="no file matches this pattern"):
        xr.open_dataset(tmp_path / "pr_*.nc", engine="activestore")
    with pytest.raises(JoinError, match="the list is empty"):
        xr.open_dataset([], engine="activestore")


def test_files_that_do_not_fit(tmp_path):
    first, second = written(tmp_path, {2000: a_year(2000), 2001: a_year(2001, lat=(-40.0, 0.0, 40.0))})
    with pytest.raises(JoinError, match="differ along 'time' and 'lat'; files are joined along one dimension only"):
        xr.open_dataset([first, second], engine="activestore")
    with pytest.raises(JoinError, match=r"tas_2001.nc: its coordinate 'lat' is not that of .*tas_2000.nc"):
        xr.open_dataset([first, second], engine="activestore", concat_dim="time")
    with pytest.raises(JoinError, match="have the same coordinates, so it is not clear along which dimension"):
        xr.open_dataset([first, first], engine="activestore")
    with pytest.raises(JoinError, match=r"overlap along 'time': the one ends with 2000-.*, the other begins with 2000-"):
        xr.open_dataset([first, first], engine="activestore", concat_dim="time")
    with pytest.raises(JoinError, match="has no dimension 'member'; it has 'time', 'lat', 'lon'"):
        xr.open_dataset([first, second], engine="activestore", concat_dim="member")


def test_variables_that_do_not_fit(tmp_path):
    years = {2000: a_year(2000), 2001: a_year(2001).rename(tas="tos"), 2003: a_year(2003)}
    years[2003].tas.attrs["units"] = "degC"
    first, renamed, warmer = written(tmp_path, years)
    with pytest.raises(
        JoinError, match=r"tas_2001.nc: has no variable 'tas', which .*tas_2000.nc has; give drop_variables='tas'"
    ):
        xr.open_dataset([first, renamed], engine="activestore")
    found = xr.open_dataset([first, renamed], engine="activestore", drop_variables=["tas", "tos"])
    assert found.sizes["time"] == 20
    with pytest.raises(JoinError, match="'tas' is in K and degC"):
        xr.open_dataset([first, warmer], engine="activestore")


def test_stored_numbers_of_different_packing_cannot_be_joined(tmp_path):
    paths = written(tmp_path, {year: a_year(year, **KINDS["packing"](year)) for year in YEARS})
    with pytest.raises(JoinError, match="'tas' is packed in different ways"):
        xr.open_dataset(paths, engine="activestore", mask_and_scale=False)


def test_falling_coordinates_and_none(tmp_path):
    made = [xr.Dataset({"a": ("x", np.arange(3.0) + n)}, {"x": np.array([2, 1, 0]) + 3 * n}) for n in (0, 1)]
    for n, one in enumerate(made):
        one.to_netcdf(tmp_path / f"falling_{n}.nc")
        one.drop_vars("x").isel(x=slice(0, 3 - n)).to_netcdf(tmp_path / f"bare_{n}.nc")
    falling = xr.open_dataset([tmp_path / "falling_0.nc", tmp_path / "falling_1.nc"], engine="activestore")
    assert falling.x.values.tolist() == [5, 4, 3, 2, 1, 0]
    assert falling.a.values.tolist() == [1, 2, 3, 0, 1, 2]
    bare = xr.open_dataset([tmp_path / "bare_1.nc", tmp_path / "bare_0.nc"], engine="activestore")
    assert bare.a.values.tolist() == [1, 2, 0, 1, 2]


@pytest.mark.filterwarnings("ignore::xarray.SerializationWarning")
@pytest.mark.parametrize("calendars", [("noleap", "360_day"), ("standard", "noleap"), ("standard", "standard")])
def test_times_that_cannot_be_compared(tmp_path, calendars):
    paths = [tmp_path / "a.nc", tmp_path / "b.nc"]
    for path, calendar, year in zip(paths, calendars, (2000, 2900), strict=True):
        time = ("time", [0.0, 1.0], {"units": f"days since {year}-01-01", "calendar": calendar})
        xr.Dataset({"v": ("time", [1.0, 2.0])}, {"time": time}).to_netcdf(path, engine="h5netcdf")
    with pytest.raises(JoinError, match=r"cannot be compared: .*a.nc has .*; .*b.nc has .*; open files of one calendar"):
        xr.open_dataset(paths, engine="activestore")
    if len(set(calendars)) == 1:
        coder = xr.coders.CFDatetimeCoder(use_cftime=True)
        assert xr.open_dataset(paths, engine="activestore", decode_times=coder).v.active.sum() == 6


def test_a_joint_dimension_of_one_file(tmp_path):
    (path,) = written(tmp_path, {2000: a_year(2000)})
    with pytest.raises(ConfigurationError, match="concat_dim='time' is the dimension along which several files are joined"):
        xr.open_dataset(path, engine="activestore", concat_dim="time")
    for given in ([path], tmp_path / "tas_*.nc"):
        assert xr.open_dataset(given, engine="activestore", concat_dim="time").sizes["time"] == 10
        with pytest.raises(JoinError, match="has no dimension 'member'"):
            xr.open_dataset(given, engine="activestore", concat_dim="member")
