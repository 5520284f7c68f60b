"""Results as netCDF files: values, coordinates and attributes, read back with netCDF4."""

import os
from pathlib import Path

import h5netcdf
import h5py
import netCDF4
import numpy as np
import pytest

from activestore import Active, Reduction
from activestore.errors import ConfigurationError, SourceError, UnsupportedError
from activestore.export.netcdf import write_netcdf
from activestore.results.cf_attributes import result_units
from tests.corpus import corpus_files

RNG = np.random.default_rng(20010101)


@pytest.fixture
def source(tmp_path):
    """A file with bounds, packed and missing numbers, an auxiliary coordinate, a grid mapping, text and a group."""
    path = tmp_path / "source.nc"
    with netCDF4.Dataset(path, "w") as file:
        file.institution, file.history, file.tracking_id = "a model", "2001: made", "hdl:1"
        for name, length in (("time", None), ("lat", 4), ("lon", 5), ("bnds", 2), ("nchar", 3)):
            file.createDimension(name, length)
        time = file.createVariable("time", "f8", ("time",))
        time.setncatts({"units": "days since 2001-01-01", "calendar": "noleap", "bounds": "time_bnds", "axis": "T"})
        time[:] = np.arange(6) * 30 + 15
        file.createVariable("time_bnds", "f8", ("time", "bnds"))[:] = np.arange(6)[:, None] * 30 + [0, 30]
        lat = file.createVariable("lat", "f4", ("lat",))
        lat.setncatts({"units": "degrees_north", "standard_name": "latitude"})
        lat[:] = [60, 30, -30, -60]
        file.createVariable("lon", "i4", ("lon",))[:] = [0, 72, 144, 216, 288]
        file.createVariable("height", "f8", ())[...] = 2.0
        area = file.createVariable("area", "f8", ("lat", "lon"))
        area.units = "m2"
        area[:] = np.arange(20).reshape(4, 5)
        file.createVariable("label", "S1", ("lat", "nchar"))
        file.createVariable("crs", "i4", ()).setncatts({"grid_mapping_name": "latitude_longitude"})
        tas = file.createVariable("tas", "f4", ("time", "lat", "lon"), fill_value=1e20, chunksizes=(2, 4, 5), zlib=True)
        tas.setncatts(
            {
                "units": "K",
                "standard_name": "air_temperature",
                "long_name": "temperature",
                "cell_methods": "area: mean",
                "coordinates": "height area label",
                "grid_mapping": "crs",
                "cell_measures": "area: areacella",
                "valid_range": np.array([0, 400], "f4"),
                "missing_value": np.float32(1e20),
            }
        )
        values = np.ma.masked_greater(RNG.uniform(200, 300, (6, 4, 5)).astype("f4"), 290)
        values[:, 0, 0] = np.ma.masked
        tas[:] = values
        packed = file.createVariable("packed", "i2", ("time", "lat"), fill_value=-999)
        packed.setncatts({"scale_factor": 0.5, "add_offset": 10.0, "units": "degC", "flag_values": np.array([1], "i2")})
        packed.set_auto_scale(False)
        packed[:] = RNG.integers(-100, 100, (6, 4))
        deep = file.createGroup("deep").createVariable("salt", "f8", ("time", "lat"))
        deep[:] = RNG.uniform(30, 40, (6, 4))
    return path


def written(source, name, reduction, axis=None, part=(), *, to="result.nc", **options):
    """Return the path of a written result and the NumPy array of the selected part."""
    path = source.parent / to
    write_netcdf(Active(source, name)[part].run(reduction, axis, **options), path)
    with netCDF4.Dataset(source) as file:
        return path, file[name][...][part]


def test_map_keeps_values_coordinates_and_attributes(source):
    path, tas = written(source, "tas", "mean", "time")
    with netCDF4.Dataset(path) as file:
        got = file["tas"]
        assert got.dimensions == ("lat", "lon")
        np.testing.assert_allclose(got[...].filled(-1), tas.astype("f8").mean(axis=0).filled(-1), rtol=1e-14)
        assert got[...].mask[0, 0]
        assert got.getncattr("_FillValue") == np.float32(1e20)
        assert got.units == "K"
        assert got.standard_name == "air_temperature"
        assert got.cell_methods == "area: mean time: mean"
        assert set(got.coordinates.split()) == {"height", "area", "time"}
        assert got.grid_mapping == "crs"
        assert {"valid_range", "missing_value", "cell_measures"}.isdisjoint(got.ncattrs())
        np.testing.assert_array_equal(file["lat"][:], [60, 30, -30, -60])
        assert file["lat"].units == "degrees_north"
        np.testing.assert_array_equal(file["area"][:], np.arange(20).reshape(4, 5))
        assert file["height"][...] == 2.0
        assert file["crs"].grid_mapping_name == "latitude_longitude"
        assert "label" not in file.variables


def test_reduced_dimension_leaves_a_scalar_coordinate_with_bounds(source):
    path, _ = written(source, "tas", "mean", "time", np.s_[1:4])
    with netCDF4.Dataset(path) as file:
        assert file["time"].dimensions == ()
        assert file["time"][...] == 75.0
        assert file["time"].units == "days since 2001-01-01"
        assert file["time"].calendar == "noleap"
        assert file["time"].bounds == "time_bnds"
        np.testing.assert_array_equal(file["time_bnds"][:], [30, 120])


def test_coordinate_without_bounds_gets_those_of_its_values(source):
    path, _ = written(source, "tas", "mean", ("lat", "lon"))
    with netCDF4.Dataset(path) as file:
        np.testing.assert_array_equal(file["lat_bnds"][:], [-60, 60])
        assert file["lat"].dtype == "f4"
        assert file["lon"][...] == 144.0
        assert file["tas"].cell_methods == "area: mean lat: lon: mean"
        np.testing.assert_array_equal(file["time"][:], np.arange(6) * 30 + 15)
        np.testing.assert_array_equal(file["time_bnds"][:], np.arange(6)[:, None] * 30 + [0, 30])
        assert "area" not in file.variables


def test_keepdims_keeps_coordinates_of_length_one(source):
    path, tas = written(source, "tas", "max", "time", keepdims=True)
    with netCDF4.Dataset(path) as file:
        assert file["tas"].dimensions == ("time", "lat", "lon")
        np.testing.assert_array_equal(file["tas"][...].filled(-1), tas.max(axis=0, keepdims=True).filled(-1))
        assert file["time"].dimensions == ("time",)
        assert file["time_bnds"].shape == (1, 2)


def test_selection_cuts_coordinates_too(source):
    path, _ = written(source, "tas", "min", "lon", np.s_[::-2, [3, 0], 1:])
    with netCDF4.Dataset(source) as file:
        expected = file["tas"][...][::-2][:, [3, 0]][:, :, 1:].min(axis=2)
    with netCDF4.Dataset(path) as file:
        np.testing.assert_array_equal(file["tas"][...].filled(-1), expected.filled(-1))
        np.testing.assert_array_equal(file["time"][:], [165, 105, 45])
        np.testing.assert_array_equal(file["time_bnds"][:], [[150, 180], [90, 120], [30, 60]])
        np.testing.assert_array_equal(file["lat"][:], [-60, 60])
        assert file["tas"].dtype == "f4"


def test_indexed_dimension_becomes_a_scalar_coordinate(source):
    path, _ = written(source, "tas", "mean", "lon", np.s_[2, -1])
    with netCDF4.Dataset(path) as file:
        assert file["time"][...] == 75.0
        np.testing.assert_array_equal(file["time_bnds"][:], [60, 90])
        assert file["lat"][...] == -60
        assert "bounds" not in file["lat"].ncattrs()
        assert {"time", "lat", "lon", "height"} == set(file["tas"].coordinates.split())
        assert file["tas"].cell_methods == "area: mean lon: mean"


def test_several_reductions_share_coordinates(source):
    names = ("mean", "min", "max", "ptp", "var", "std", "sum", "count", "any", "all", "argmin", "argmax")
    path, _ = written(source, "tas", names, "time")
    result = Active(source, "tas").run(names, "time")
    with netCDF4.Dataset(path) as file:
        for name in names:
            got = file[f"tas_{name}"]
            np.testing.assert_array_equal(np.ma.filled(got[...], 0), np.ma.filled(result.values[name], 0).astype(got.dtype))
            np.testing.assert_array_equal(np.ma.getmaskarray(got[...]), np.ma.getmaskarray(result.values[name]))
            assert got.units == result_units(name, "K")
        assert file["tas_std"].cell_methods == "area: mean time: standard_deviation"
        assert file["tas_ptp"].cell_methods == "area: mean time: range"
        assert file["tas_std"].units_metadata == "temperature: difference"
        assert file["tas_count"].standard_name == "number_of_observations"
        assert "_FillValue" not in file["tas_count"].ncattrs()
        assert "cell_methods" not in file["tas_argmin"].ncattrs()
        assert file["tas_any"].flag_meanings == "false true"
        assert file["tas_any"].dtype == "i1"


def test_packed_numbers_are_written_unpacked(source):
    path, packed = written(source, "packed", ("mean", "var"), "time")
    with netCDF4.Dataset(path) as file:
        np.testing.assert_allclose(file["packed_mean"][:], packed.mean(axis=0), rtol=1e-14)
        assert {"scale_factor", "add_offset", "flag_values"}.isdisjoint(file["packed_mean"].ncattrs())
        assert file["packed_mean"].getncattr("_FillValue") == np.float32(9.969209968386869e36)
        assert file["packed_var"].units == "K2"


def test_scalar_and_wholly_masked_results(source):
    path, tas = written(source, "tas", ("mean", "max"))
    with netCDF4.Dataset(path) as file:
        assert file["tas_mean"].dimensions == ()
        assert file["tas_max"][...] == tas.max()
    path, _ = written(source, "tas", ("mean", "argmax"), None, np.s_[:, 0, 0], to="masked.nc")
    with netCDF4.Dataset(path) as file:
        assert file["tas_mean"][...].mask
        assert file["tas_argmax"][...].mask


def test_variable_of_a_group_finds_coordinates_above_it(source):
    path, salt = written(source, "deep/salt", "mean", "time")
    with netCDF4.Dataset(path) as file:
        np.testing.assert_allclose(file["salt"][:], salt.mean(axis=0), rtol=1e-14)
        np.testing.assert_array_equal(file["lat"][:], [60, 30, -30, -60])


def test_coordinate_can_be_reduced_itself(source):
    path, _ = written(source, "time", "mean")
    with netCDF4.Dataset(path) as file:
        assert file["time_mean"][...] == 90.0
        assert file["time"].bounds == "time_bnds"


def test_history_and_global_attributes(source):
    path, _ = written(source, "tas", "mean", "time")
    with netCDF4.Dataset(path) as file:
        first, second = file.history.splitlines()
        assert "activestore" in first
        assert first.endswith(f"mean over time of tas in {source}")
        assert second == "2001: made"
        assert file.institution == "a model"
        assert file.Conventions.startswith("CF-1.")
        assert "tracking_id" not in file.ncattrs()


def test_no_fill_value_is_a_valid_number(tmp_path):
    source = tmp_path / "bytes.nc"
    with netCDF4.Dataset(source, "w") as file:
        file.createDimension("x", 257)
        file.createDimension("y", 2)
        values = np.zeros((257, 2), "u1")
        values[:, 0] = values[:, 1] = np.append(np.arange(256), 7)
        variable = file.createVariable("v", "u1", ("x", "y"), fill_value=7)
        variable.set_auto_mask(False)
        variable[:] = values
        whole = file.createVariable("w", "u2", ("x", "y"), fill_value=0)
        whole[:] = 65535
    for name, reduction in (("v", "max"), ("w", "max"), ("v", "sum"), ("v", "count"), ("v", "all")):
        result = Active(source, name).run(reduction, "y")
        write_netcdf(result, tmp_path / "out.nc", overwrite=True)
        with netCDF4.Dataset(tmp_path / "out.nc") as file:
            got = file[name][...]
        np.testing.assert_array_equal(np.ma.getmaskarray(got), np.ma.getmaskarray(result.value))
        np.testing.assert_array_equal(np.ma.filled(got, 0), np.ma.filled(result.value, 0))


def test_not_a_number_stays_what_it_is(tmp_path):
    source = tmp_path / "nan.h5"
    with h5py.File(source, "w") as file:
        file["x"] = np.array([[1.0, np.nan], [2.0, 3.0]])
    write_netcdf(Active(source, "x").run("mean", 0, skipna=False), tmp_path / "out.nc")
    with netCDF4.Dataset(tmp_path / "out.nc") as file:
        got = file["x"][...]
        assert not np.ma.is_masked(got)
        np.testing.assert_array_equal(got, [1.5, np.nan])


def test_plain_hdf5_and_repeated_dimensions(tmp_path):
    source = tmp_path / "plain.h5"
    with h5netcdf.File(source, "w") as file:
        file.dimensions = {"x": 3}
        file.create_variable("x", ("x",), "f8", data=np.arange(3.0))
        file.create_variable("covariance", ("x", "x", "x"), "f8", data=np.arange(27.0).reshape(3, 3, 3))
    with h5py.File(source, "a") as file:
        file.attrs["CLASS"] = "GROUP"
    write_netcdf(Active(source, "covariance")[:2].run("sum", 2), tmp_path / "out.nc")
    with netCDF4.Dataset(tmp_path / "out.nc") as file:
        assert file["covariance"].dimensions == ("x", "x_2")
        np.testing.assert_array_equal(file["covariance"][:], np.arange(27.0).reshape(3, 3, 3).sum(axis=2)[:2])
        np.testing.assert_array_equal(file["x"][:], [0, 1])


def test_netcdf_classic_source(tmp_path):
    source = tmp_path / "classic.nc"
    with netCDF4.Dataset(source, "w", format="NETCDF3_CLASSIC") as file:
        file.createDimension("t", None)
        file.createVariable("t", "f8", ("t",))[:] = [1, 2, 4]
        file.createVariable("v", "i4", ("t",))[:] = [10, 20, 40]
    write_netcdf(Active(source, "v")[1:].run(("max", "mean"), ()), tmp_path / "out.nc")
    with netCDF4.Dataset(tmp_path / "out.nc") as file:
        np.testing.assert_array_equal(file["v_max"][:], [20, 40])
        np.testing.assert_array_equal(file["t"][:], [2, 4])
        assert "cell_methods" not in file["v_max"].ncattrs()


def test_own_reduction_has_no_units_that_might_be_wrong(source):
    own = Reduction.from_functions(
        "power", chunk=lambda v, axis: (v**2).sum(axis=axis, keepdims=True), combine=np.add, finalize=lambda state, _: state
    )
    path, tas = written(source, "tas", own, "time")
    with netCDF4.Dataset(path) as file:
        np.testing.assert_allclose(file["tas"][1:], (tas**2).sum(axis=0)[1:], rtol=1e-5)
        assert "units" not in file["tas"].ncattrs()


def test_complex_results_have_no_place(source):
    own = Reduction.from_functions(
        "wave", chunk=lambda v, axis: v.sum(axis=axis, keepdims=True), combine=np.add, finalize=lambda state, _: state * 1j
    )
    with pytest.raises(UnsupportedError, match="complex"):
        written(source, "tas", own, "time")
    assert sorted(os.listdir(source.parent)) == ["source.nc"]


@pytest.mark.parametrize("case", ["source", "link", "exists", "folder", "no folder", "device"])
def test_places_that_are_refused(source, case):
    result = Active(source, "tas").run("mean")
    folder = source.parent
    (folder / "old.nc").write_bytes(b"old")
    (folder / "link.nc").symlink_to(source)
    before = source.read_bytes()
    places = {
        "source": (source, True, "is the file that is read"),
        "link": (folder / "link.nc", True, "is the file that is read"),
        "exists": (folder / "old.nc", False, "exists already"),
        "folder": (folder, True, "not a regular file"),
        "no folder": (folder / "none" / "a.nc", False, "there is no folder"),
        "device": (os.devnull, True, "not a regular file"),
    }
    path, overwrite, message = places[case]
    with pytest.raises(ConfigurationError, match=message):
        write_netcdf(result, path, overwrite=overwrite)
    assert source.read_bytes() == before
    assert (folder / "old.nc").read_bytes() == b"old"


@pytest.mark.parametrize("there", [True, False])
def test_what_a_link_leads_to_is_replaced(source, tmp_path, there):
    result, (link, old) = Active(source, "tas").run("mean"), (source.parent / "link.nc", tmp_path / "old.nc")
    link.symlink_to(old)
    if there:
        old.write_bytes(b"old")
    with pytest.raises(ConfigurationError, match="exists already"):
        write_netcdf(result, link)
    write_netcdf(result, link, overwrite=True)
    assert link.is_symlink()
    assert Active(old, "tas").mean() == result.value


def test_overwrite_replaces_whole_files_only(source, monkeypatch):
    result = Active(source, "tas").run("mean")
    old = source.parent / "old.nc"
    old.write_bytes(b"old")

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(h5netcdf.File, "create_variable", full)
        with pytest.raises(SourceError, match="No space left"):
            write_netcdf(result, old, overwrite=True)
    assert old.read_bytes() == b"old"
    assert sorted(os.listdir(source.parent)) == ["old.nc", "source.nc"]
    write_netcdf(result, old, overwrite=True)
    assert sorted(os.listdir(source.parent)) == ["old.nc", "source.nc"]
    with netCDF4.Dataset(old) as file:
        assert file["tas"][...] == pytest.approx(float(result.value))
    umask = os.umask(0)
    os.umask(umask)
    assert old.stat().st_mode & 0o777 == 0o666 & ~umask


def test_xarray_opens_results(source):
    xarray = pytest.importorskip("xarray")
    path, tas = written(source, "tas", ("mean", "count"), "time")
    with xarray.open_dataset(path, decode_times=False) as dataset:
        np.testing.assert_allclose(dataset.tas_mean, tas.astype("f8").mean(axis=0).filled(np.nan), rtol=1e-14)
        assert dataset.tas_count.dtype == "i8"
        assert set(dataset.tas_mean.coords) == {"lat", "lon", "time", "height", "area"}


@pytest.mark.parametrize("path", corpus_files()[:: max(1, len(corpus_files()) // 8)], ids=lambda path: path.name)
def test_real_files(path, tmp_path):
    """Every eighth part of the corpus: the largest variable, its first dimension reduced."""
    with netCDF4.Dataset(path) as file:
        numeric = [v for v in file.variables.values() if v.dtype is not str and v.dtype.kind in "iuf"]
        variable = max(numeric, key=lambda v: v.size)
        values, name, dims = variable[...], variable.name, variable.dimensions
    write_netcdf(Active(path, name).run(("max", "count"), 0), tmp_path / "out.nc")
    with netCDF4.Dataset(tmp_path / "out.nc") as file:
        np.testing.assert_array_equal(file[f"{name}_max"][...].filled(0), np.ma.filled(values.max(axis=0), 0))
        np.testing.assert_array_equal(file[f"{name}_count"][...], np.ma.count(values, axis=0))
        assert file[f"{name}_max"].dimensions == dims[1:]


def test_groups_keep_their_dimension_and_conditions_are_told(tmp_path):
    tas = Active("docs/tas.nc", "tas")
    result = tas.run("mean", ("time", "lat"), by={"time": np.arange(24) // 12}, where="> 280")
    write_netcdf(result, tmp_path / "years.nc")
    with netCDF4.Dataset(tmp_path / "years.nc") as file:
        assert file["tas"].dimensions == ("time", "lon")
        np.testing.assert_allclose(file["tas"][...], result.value)
        assert file["tas"].cell_methods == "time: lat: mean (comment: values > 280)"
        # Where the groups lie is not known here.
        assert "time" not in file.variables
        assert "lon" in file.variables


def test_no_part_of_what_is_read_is_written_over(source, tmp_path):
    """Neither a file that the selection does not touch, nor references, nor what they name, nor a chunk of a store."""
    import json
    import shutil

    import xarray as xr

    from tests.references import references_of

    second = shutil.copy(source, tmp_path / "second.nc")
    with netCDF4.Dataset(second, "a") as file:
        file["time"][:] += 1000
    references = tmp_path / "refs.json"
    references.write_text(json.dumps(references_of(source)))
    xr.Dataset({"v": (("y", "x"), np.ones((4, 2)))}).to_zarr(tmp_path / "a.zarr", zarr_format=2)
    joined = Active([source, second], "packed", dim="time")
    results = {
        second: joined[:2].run("mean"),
        source: Active(references, "packed").run("mean"),
        references: Active(references, "packed").run("mean"),
        tmp_path / "a.zarr" / "v" / "0.0": Active(tmp_path / "a.zarr", "v").run("mean"),
        tmp_path / "a.zarr" / "v" / "9.9": Active(tmp_path / "a.zarr", "v").run("mean"),
        os.path.relpath(source): Active(source, "packed").run("mean"),
    }
    for path, result in results.items():
        before = Path(path).read_bytes() if os.path.exists(path) else None
        with pytest.raises(ConfigurationError, match="is the file that is read, or part of it"):
            write_netcdf(result, path, overwrite=True)
        assert (Path(path).read_bytes() if os.path.exists(path) else None) == before
