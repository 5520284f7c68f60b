"""What was opened from many files and written again holds the values that were read, however each file stores them."""

import netCDF4
import numpy as np
import pytest
import xarray as xr

from activestore import Active

PACKED = {"dtype": "i2", "scale_factor": 0.002, "_FillValue": -32768}
JAN, FEB = np.linspace(0, 100, 31), np.linspace(500, 600, 29)
WAYS = {
    "offsets": ({**PACKED, "add_offset": 50.0}, {**PACKED, "add_offset": 550.0}),
    "scales": ({**PACKED, "scale_factor": 0.005, "add_offset": 50.0}, {**PACKED, "scale_factor": 0.02, "add_offset": 50.0}),
    "fill values": ({**PACKED, "scale_factor": 0.05}, {**PACKED, "scale_factor": 0.05, "_FillValue": 32767}),
    "only the first is packed": ({**PACKED, "add_offset": 50.0}, {"dtype": "f8", "_FillValue": np.nan}),
    "only the second is packed": ({"dtype": "f4", "_FillValue": -999.0}, {**PACKED, "add_offset": 550.0}),
    "integers of other sizes": ({"dtype": "i1", "_FillValue": -1}, {"dtype": "i4", "_FillValue": -1}),
    "unsigned or not": ({"dtype": "u1", "_FillValue": 255}, {"dtype": "i4", "_FillValue": -1}),
    "floats of other sizes": ({"dtype": "f4", "_FillValue": -999.0}, {"dtype": "f8", "_FillValue": -999.0}),
}


def written(folder, first, second, *, values=(JAN, FEB), times=("2000-01-01", "2000-02-01"), time=({}, {}), **more):
    """Write two files and return their paths."""
    paths = [folder / "a.nc", folder / "b.nc"]
    for path, coding, own, start, coded in zip(paths, (first, second), values, times, time, strict=True):
        days = np.datetime64(start, "ns") + np.arange(len(own)) * np.timedelta64(1, "D")
        made = xr.Dataset({"v": ("time", np.where(np.arange(len(own)) == 3, np.nan, own), more)}, {"time": days})
        made.to_netcdf(path, encoding={"v": coding, "time": coded}, engine="h5netcdf")
    return paths


@pytest.fixture(params=WAYS)
def series(request, tmp_path):
    return written(tmp_path, *WAYS[request.param])


def opened(paths, **options):
    with pytest.warns(UserWarning, match=r"a\.nc and 1 more store numbers in different ways: 'v' \("):
        return xr.open_dataset(paths, engine="activestore", **options)


def wanted(paths):
    """Return what xarray reads of each file by itself."""
    return np.concatenate([xr.load_dataset(path, engine="h5netcdf").v.values for path in paths])


@pytest.mark.parametrize("engine", ["netcdf4", "h5netcdf", "scipy"])
def test_to_netcdf(series, tmp_path, engine):
    opened(series).to_netcdf(tmp_path / "both.nc", engine=engine)
    with xr.open_dataset(tmp_path / "both.nc", engine="netcdf4") as both:
        np.testing.assert_array_equal(both.v, wanted(series))
    np.testing.assert_array_equal(Active(tmp_path / "both.nc", "v"), wanted(series))


@pytest.mark.parametrize("options", [{}, {"chunks": {}}, {"chunks": {"time": 10}}])
def test_to_zarr(series, tmp_path, options):
    opened(series, **options).to_zarr(tmp_path / "both.zarr", zarr_format=2)
    both = xr.open_dataset(tmp_path / "both.zarr", engine="zarr")
    np.testing.assert_array_equal(both.v, wanted(series))


def test_what_all_have_in_common_is_kept(tmp_path, recwarn):
    coding = {**PACKED, "add_offset": 300.0, "scale_factor": 0.02, "zlib": True}
    ours = xr.open_dataset(written(tmp_path, coding, coding), engine="activestore")
    assert not recwarn
    assert {key: ours.v.encoding[key] for key in coding} == {**coding, "dtype": np.dtype("i2")}
    ours.to_netcdf(tmp_path / "both.nc")
    with netCDF4.Dataset(tmp_path / "both.nc") as both:
        both.set_auto_maskandscale(False)
        assert both["v"].dtype == "i2"
    np.testing.assert_allclose(xr.load_dataset(tmp_path / "both.nc").v, np.where(np.isnan(ours.v), np.nan, ours.v))


def test_what_is_left_out_is_named(tmp_path):
    with pytest.warns(
        UserWarning, match=r"a\.nc and 1 more store .*: 'v' \(_FillValue, add_offset, dtype, scale_factor\); what is"
    ):
        ours = xr.open_dataset(written(tmp_path, *WAYS["only the first is packed"]), engine="activestore")
    assert not {"scale_factor", "add_offset", "_FillValue"} & ours.v.encoding.keys()
    assert ours.v.encoding["dtype"] == "f8"


@pytest.mark.parametrize("ways", ["offsets", None])
def test_limits_of_stored_numbers_are_left_out(tmp_path, ways):
    """They would be limits of the values that are written."""
    codings = WAYS[ways] if ways else ({"dtype": "f8"}, {"dtype": "f8"})
    paths = written(tmp_path, *codings)
    for path, limits in zip(paths, ([-30000, 30000], [400, 700]), strict=True):
        with netCDF4.Dataset(path, "a") as file:
            file["v"].valid_range = np.array(limits, "i2" if ways else "f8")
    ours = opened(paths)
    assert "valid_range" not in ours.v.attrs
    ours.to_netcdf(tmp_path / "both.nc")
    assert Active(tmp_path / "both.nc", "v").count() == 58
    assert Active(tmp_path / "both.nc", "v").max() == ours.v.max().item()


HOURS = {"units": "hours since 2000-02-01 00:30:00", "dtype": "i4"}
TIMES = {
    "sub-daily after daily": ({"units": "days since 2000-01-01", "dtype": "i8"}, HOURS),
    "small integers": ({"units": "days since 2000-01-01", "dtype": "i2"}, {"units": "seconds since 1970-01-01", "dtype": "i8"}),
    "other calendars": (
        {"units": "days since 2000-01-01", "dtype": "f4", "calendar": "standard"},
        {**HOURS, "calendar": "proleptic_gregorian"},
    ),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("way", TIMES)
@pytest.mark.parametrize("to", ["to_netcdf", "to_zarr"])
def test_times(tmp_path, way, to):
    paths = written(tmp_path, {}, {}, times=("2000-01-01", "2000-02-01T00:30"), time=TIMES[way])
    ours = xr.open_dataset(paths, engine="activestore")
    options = {"zarr_format": 2} if to == "to_zarr" else {}
    getattr(ours, to)(tmp_path / "both", **options)
    both = xr.load_dataset(tmp_path / "both", engine="zarr" if to == "to_zarr" else "netcdf4")
    starts = np.array(["2000-01-01", "2000-02-01T00:30"], "M8[ns]")
    days = [start + np.arange(n) * np.timedelta64(1, "D") for start, n in zip(starts, (31, 29), strict=True)]
    np.testing.assert_array_equal(both.time, np.concatenate(days))


def test_texts_of_other_widths(tmp_path):
    words = [["ab", "c"], ["longer", "longest", ""]]
    for name, own, start in zip("ab", words, (0, 5), strict=True):
        with netCDF4.Dataset(tmp_path / f"{name}.nc", "w") as file:
            file.createDimension("time", None)
            file.createDimension("strlen", max(map(len, own)))
            file.createVariable("time", "f8", ("time",))[:] = np.arange(len(own)) + start
            letters = netCDF4.stringtochar(np.array(own, f"S{max(map(len, own))}"))
            file.createVariable("word", "S1", ("time", "strlen"))[:] = letters
            file.createVariable("title", "S1", ("strlen",))[:] = letters[0]
    ours = xr.open_dataset([tmp_path / "a.nc", tmp_path / "b.nc"], engine="activestore")
    assert ours.word.values.tolist() == [b"ab", b"c", b"longer", b"longest", b""]
    assert ours.title.item() == b"ab"
    ours.to_netcdf(tmp_path / "both.nc")
    assert xr.load_dataset(tmp_path / "both.nc").word.values.tolist() == ours.word.values.tolist()


def test_texts_of_one_letter(tmp_path):
    for name, letter, start in zip("ab", ("xy", ("pq", "r")), (0, 5), strict=True):
        made = xr.Dataset({"w": ("t", np.array(list(letter), "S"))}, {"t": np.arange(len(letter)) + start})
        made.to_netcdf(tmp_path / f"{name}.nc", encoding={"w": {"char_dim_name": "n"}}, engine="netcdf4")
    ours = xr.open_dataset([tmp_path / "a.nc", tmp_path / "b.nc"], engine="activestore")
    assert ours.w.values.tolist() == [b"x", b"y", b"pq", b"r"]
