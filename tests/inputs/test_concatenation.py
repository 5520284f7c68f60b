"""What may be joined: one rule, whichever door the files come through."""

from pathlib import Path

import netCDF4
import numpy as np
import pytest
import xarray as xr

from activestore import Active
from activestore.errors import JoinError

DAYS = "days since 2000-01-01"


def write(path, times, *, units=DAYS, calendar="standard", dtype="f8", form="NETCDF4", **attrs):
    """Write a file whose numbers are its times, as days of the year 2000; None leaves the coordinate away."""
    known = times is not None
    with netCDF4.Dataset(path, "w", format=form) as file:
        file.createDimension("time", None)
        file.createDimension("x", 2)
        if known:
            time = file.createVariable("time", dtype, ("time",), fill_value=-999)
            time.setncatts({"units": units, "calendar": calendar} if units else {})
            time[:] = times
        values = file.createVariable("v", "f8", ("time", "x"))
        values.setncatts(attrs)
        length = len(times) if known else 3
        values[:] = np.arange(float(length))[:, None] + [100 * int(path.stem[-1]), 0]


DOORS = {
    "Active, a pattern": lambda files: Active(str(files[0].parent / "f*.nc"), "v", dim="time"),
    "Active, a list": lambda files: Active(files, "v", dim="time"),
    "engine, a pattern": lambda files: xr.open_dataset(files[0].parent / "f*.nc", engine="activestore", concat_dim="time").v,
    "engine, a list": lambda files: xr.open_dataset(files, engine="activestore", concat_dim="time").v,
    "engine, in Dask": lambda files: xr.open_dataset(files, engine="activestore", concat_dim="time", chunks={}).v,
}


def opened(door, addresses):
    """Open addresses by the door that takes them as they are."""
    if door.startswith("Active"):
        return Active(addresses, "v", dim="time")
    return xr.open_dataset(addresses, engine="activestore", concat_dim="time")


pytestmark = pytest.mark.parametrize("door", DOORS)

NAN = float("nan")
REFUSED = {
    "the end of one is the start of the next": ([[0, 1, 2], [2, 3]], "f0.nc and .*f1.nc.* overlap along 'time'"),
    "one lies within the other": ([[0, 9], [4, 5]], "f0.nc and .*f1.nc.* overlap along 'time'"),
    "interleaved": ([[0, 2, 4], [1, 3, 5]], "f0.nc and .*f1.nc.* overlap along 'time'"),
    "the third overlaps the first": ([[0, 9], [10, 11], [8, 9]], r"f0.nc and .*f2.nc.* overlap along 'time'"),
    "one time each, the same": ([[3], [3]], "f0.nc and .*f1.nc.* overlap along 'time'"),
    "one time within another file": ([[0, 1, 2], [1]], "f0.nc and .*f1.nc.* overlap along 'time'"),
    "unsorted, and a month in both": ([[15, 75, 45], [75, 105]], "f0.nc: 'time' rises in places and falls in others"),
    "unsorted, and no month in both": ([[15, 75, 45], [85, 105]], "f0.nc: 'time' rises in places and falls in others"),
    "unsorted in the second": ([[1, 2], [85, 105, 95]], "f1.nc: 'time' rises in places and falls in others"),
    "a time twice in one": ([[0, 1, 1, 2], [3, 4]], "f0.nc: 'time' has .* twice, at the positions 1 and 2"),
    "the first time twice": ([[0, 0, 1], [3, 4]], "f0.nc: 'time' has .* twice, at the positions 0 and 1"),
    "a time twice in one that falls": ([[9, 8, 8], [4, 3]], "f0.nc: 'time' has .* twice, at the positions 1 and 2"),
    "one rises, one falls": ([[0, 1, 2], [9, 8]], "'time' rises in places and falls in others"),
    "falling, and overlapping": ([[9, 8, 7], [7, 6]], "f0.nc and .*f1.nc.* overlap along 'time'"),
    "not a number": ([[0, NAN, 2], [3, 4]], "f0.nc: 'time' has no value at the position 1"),
    "not a number at the end": ([[0, 1], [3, NAN]], "f1.nc: 'time' has no value at the position 1"),
    "never written": ([[0, 1], [3, -999]], "f1.nc: 'time' has no value at the position 1"),
    "all of them never written": ([[-999, -999], [-999]], "f0.nc: 'time' has no value at the position 0"),
    "none in one": ([[0, 1], None], "f1.nc: has no (coordinate|variable) 'time', which .*f0.nc has"),
}


def given(folder, series, **options):
    files = [Path(folder, f"f{i}.nc") for i in range(len(series))]
    for file, times in zip(files, series, strict=True):
        write(file, times, **options)
    return files


@pytest.mark.parametrize("case", REFUSED)
def test_refused(tmp_path, door, case):
    series, why = REFUSED[case]
    with pytest.raises(JoinError, match=why):
        DOORS[door](given(tmp_path, series))


@pytest.mark.parametrize("units", ["hours since 2000-01-01", "days since 1999-12-31"])
@pytest.mark.parametrize("case", ["the end of one is the start of the next", "unsorted, and no month in both"])
def test_refused_whatever_times_count_from(tmp_path, door, case, units):
    files = given(tmp_path, REFUSED[case][0])
    times = np.array(REFUSED[case][0][-1])
    write(files[-1], times * 24 if "hours" in units else times + 1, units=units)
    with pytest.raises(JoinError, match=REFUSED[case][1]):
        DOORS[door](files)


def test_the_same_instants_in_other_units_and_calendars(tmp_path, door):
    """A tenth of a day is no round number, neither of days nor of hours since another date."""
    files = given(tmp_path, [[0.1, 1.1], [1.1, 2.1]])
    write(files[1], (np.array([1.1, 2.1]) + 36524) * 24, units="hours since 1900-01-01", calendar="proleptic_gregorian")
    with pytest.raises(JoinError, match=r"f0.nc and .*f1.nc.* overlap along 'time'"):
        DOORS[door](files)


@pytest.mark.parametrize(("calendar", "units"), [("noleap", DAYS), ("360_day", DAYS), ("standard", "hPa")])
def test_what_cannot_be_compared(tmp_path, door, calendar, units):
    files = given(tmp_path, [[0, 1], [5, 6]])
    write(files[1], [5, 6], calendar=calendar, units=units)
    with pytest.raises(JoinError, match=r"cannot be compared|is in .*days since.* and hPa|is in no units and hPa"):
        DOORS[door](files)


JOINED = {
    "in order": [[0, 1, 2], [3, 4]],
    "a gap": [[0, 1, 2], [30, 31]],
    "falling": [[9, 8], [7, 6, 5]],
    "one time each": [[0], [1], [5]],
    "one falls, the others have one time": [[9, 8], [5], [4]],
    "none in the last": [[0, 1], [4], []],
}


@pytest.mark.parametrize("form", ["NETCDF4", "NETCDF3_CLASSIC"])
@pytest.mark.parametrize("case", JOINED)
def test_joined(tmp_path, door, case, form):
    files = given(tmp_path, JOINED[case], form=form)
    joined = DOORS[door](files)
    wanted = np.concatenate([np.arange(len(times)) + 100 * i for i, times in enumerate(JOINED[case])])
    np.testing.assert_array_equal(np.asarray(joined)[:, 0], wanted)
    total = joined.sum() if isinstance(joined, Active) else joined.active.sum().item()
    assert total == wanted.sum() + np.asarray(joined)[:, 1].sum()


def test_a_variable_in_other_units(tmp_path, door):
    files = given(tmp_path, [[0, 1], [2, 3], [4]])
    for number, units in enumerate(["K", "K ", "degC"]):
        write(files[number], [2 * number, 2 * number + 1])
        with netCDF4.Dataset(files[number], "a") as file:
            file["v"].units = units
    with pytest.raises(JoinError, match=r"f0\.nc and .*f2\.nc: 'v' is in K and degC; only what has the same units"):
        DOORS[door](files)
    files[2].unlink()
    assert np.asarray(DOORS[door](files[:2])).shape == (4, 2)


def test_bounds_that_count_from_other_dates(tmp_path, door):
    files = given(tmp_path, [[0, 1], [2, 3]])
    write(files[1], [1, 2], units="days since 2000-01-02")
    for file, first in zip(files, (0, 1), strict=True):
        with netCDF4.Dataset(file, "a") as dataset:
            dataset["time"].bounds = "time_bnds"
            dataset.createVariable("time_bnds", "f8", ("time", "x"))[:] = [[first, first + 1], [first + 1, first + 2]]
    if door.startswith("Active"):
        with pytest.raises(JoinError, match=r"'time_bnds' is in 'days since 2000-01-01'.* and 'days since 2000-01-02'"):
            Active(files, "time_bnds")
    else:
        bounds = DOORS[door](files).to_dataset(name="v").time
        found = xr.open_dataset(files, engine="activestore").time_bnds
        np.testing.assert_array_equal(found[:, 0], np.datetime64("2000-01-01") + np.arange(4).astype("m8[D]"))
        assert bounds.size == 4


def test_a_climatology_that_counts_from_other_dates(tmp_path, door):
    files = given(tmp_path, [[0, 1], [2, 3]])
    write(files[1], [1, 2], units="days since 2000-01-02")
    for file in files:
        with netCDF4.Dataset(file, "a") as dataset:
            dataset["time"].climatology = "clim"
            dataset.createVariable("clim", "f8", ("time", "x"))[:] = 1
    if door.startswith("Active"):
        with pytest.raises(JoinError, match=r"'clim' is in 'days since 2000-01-01'.* and 'days since 2000-01-02'"):
            Active(files, "clim")
    else:
        with pytest.raises(JoinError, match=r"'clim' counts from different dates in the files.*give drop_variables='clim'"):
            DOORS[door](files)
        assert xr.open_dataset(files, engine="activestore", drop_variables="clim").v.shape == (4, 2)


def test_zarr_stores(tmp_path, door):
    series = [[15, 75, 45], [85, 105]]
    stores = [str(tmp_path / f"{i}.zarr") for i in range(2)]
    for store, times in zip(stores, series, strict=True):
        made = xr.Dataset({"v": (("time", "x"), np.ones((len(times), 2)))}, {"time": ("time", times, {"units": DAYS})})
        made.to_zarr(store, zarr_format=2)
    with pytest.raises(JoinError, match=r"0.zarr: 'time' rises in places and falls in others"):
        opened(door, stores)


def test_files_elsewhere(tmp_path, door):
    import fsspec

    files = given(tmp_path, [[0, 1], [2, 3]])
    with netCDF4.Dataset(files[0], "a") as file:
        file.createVariable("x", "f8", ("x",))[:] = [0, 1]
    with netCDF4.Dataset(files[1], "a") as file:
        file.createVariable("x", "f8", ("x",))[:] = [0, 2]
    memory = fsspec.filesystem("memory")
    addresses = [f"memory://rule/{file.name}" for file in files]
    for file, address in zip(files, addresses, strict=True):
        memory.pipe(address, file.read_bytes())
    try:
        with pytest.raises(JoinError, match=r"f1\.nc: (have other coordinates along|its coordinate) 'x'"):
            opened(door, addresses)
    finally:
        memory.rm("/rule", recursive=True)
