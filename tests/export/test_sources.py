"""Results written as netCDF files, whatever they are of: every kind of source beside NumPy, and coordinates and attributes."""

import json
import shutil

import fsspec
import netCDF4
import numpy as np
import pytest
import xarray as xr
from kerchunk.df import refs_to_dataframe

from activestore import Active
from activestore.cli import main as cli
from activestore.export.netcdf import write_netcdf
from tests.references import references_of
from tests.web_stand_in import WebStandIn

pytestmark = pytest.mark.filterwarnings("ignore")  # zarr warns of what format 3 has no specification of, and Kerchunk of much
REDUCTIONS = ("count", "sum", "mean", "min", "max", "std", "argmax", "any")
LENGTHS = {"time": 6, "lat": 4, "lon": 5}


def made(dtype="f4", start=0, length=6):
    """Return a dataset with bounds, an auxiliary coordinate, a scalar one, a grid mapping, and missing numbers."""
    rng = np.random.default_rng(7 + start)
    time = np.arange(start, start + length) * 30.0 + 15
    values = rng.integers(0, 120, (length, 4, 5)).astype(dtype)
    units = {"units": "days since 2001-01-01", "calendar": "noleap", "bounds": "time_bnds"}
    attrs = {"units": "K", "long_name": "temperature", "coordinates": "area height", "grid_mapping": "crs"}
    found = xr.Dataset(
        {
            "v": (("time", "lat", "lon"), values, attrs),
            "time_bnds": (("time", "nv"), np.stack([time - 15, time + 15], axis=1)),
            "crs": ((), np.int32(0), {"grid_mapping_name": "latitude_longitude", "semi_major_axis": 6378137.0}),
            "area": (("lat", "lon"), rng.uniform(1, 2, (4, 5)), {"units": "m2"}),
            "height": ((), 2.0, {"units": "m"}),
        },
        {
            "time": ("time", time, units),
            "lat": ("lat", [60.0, 30, -30, -60], {"units": "degrees_north"}),
            "lon": ("lon", np.arange(5) * 72, {"units": "degrees_east"}),
        },
        {"title": "a model", "history": "2001: made"},
    )
    for name in found.variables:
        found[name].encoding["_FillValue"] = None
    found.v.encoding["_FillValue"] = np.dtype(dtype).type(7)
    return found


def netcdf(folder, form, dtype):
    made(dtype).to_netcdf(folder / "a.nc", format=form, unlimited_dims=["time"])
    return folder / "a.nc"


def zarr_store(folder, dtype, **options):
    found = made(dtype)
    for name in found.variables:
        if name != "v":
            found[name].encoding.clear()
    found.v.encoding.update({"chunks": (2, 4, 5), **({"shards": (4, 4, 5)} if options.pop("sharded", False) else {})})
    found.to_zarr(folder / "a.zarr", **options)
    return folder / "a.zarr"


def references(folder, dtype, form="NETCDF4"):
    (folder / "refs.json").write_text(json.dumps(references_of(netcdf(folder, form, dtype))))
    return folder / "refs.json"


def in_parquet(folder, dtype):
    refs_to_dataframe(references_of(netcdf(folder, "NETCDF4", dtype)), str(folder / "refs.parq"), record_size=10)
    return folder / "refs.parq"


def joined(folder, dtype, *, sooner=0):
    """Write three files, the times of the later ones counted from another date, so many days before."""
    for i, (start, stop) in enumerate([(0, 2), (2, 5), (5, 6)]):
        part = made(dtype).isel(time=slice(start, stop))
        if i and sooner:
            attrs = {**part.time.attrs, "units": "days since 2000-01-01"}
            part = part.assign_coords(time=("time", part.time.values + sooner, attrs))
            part["time_bnds"] = part.time_bnds + sooner
        for name in part.variables:
            part[name].encoding.setdefault("_FillValue", None)
        part.to_netcdf(folder / f"part{i}.nc")
    return str(folder / "part*.nc")


SOURCES = {
    "netCDF-4": lambda folder, dtype: netcdf(folder, "NETCDF4", dtype),
    "netCDF-4 classic": lambda folder, dtype: netcdf(folder, "NETCDF4_CLASSIC", dtype),
    "classic": lambda folder, dtype: netcdf(folder, "NETCDF3_64BIT", dtype),
    "Zarr 2": lambda folder, dtype: zarr_store(folder, dtype, zarr_format=2),
    "Zarr 2, not consolidated": lambda folder, dtype: zarr_store(folder, dtype, zarr_format=2, consolidated=False),
    "Zarr 3": lambda folder, dtype: zarr_store(folder, dtype, zarr_format=3, consolidated=False),
    "Zarr 3, sharded": lambda folder, dtype: zarr_store(folder, dtype, zarr_format=3, consolidated=False, sharded=True),
    "references": references,
    "references of a classic file": lambda folder, dtype: references(folder, dtype, "NETCDF3_64BIT"),
    "references in Parquet": in_parquet,
    "joined": joined,
    "joined, counting from two dates": lambda folder, dtype: joined(folder, dtype, sooner=365),
}


def check(active, folder, values, reduction, axis, part):
    """Write a reduction, and compare what is read with NumPy; `values` are masked where they are missing."""
    path = folder / "out.nc"
    write_netcdf(active[part].run(reduction, axis), path, overwrite=True)
    axes = tuple(list(LENGTHS).index(one) for one in axis)
    wanted = {
        "count": lambda cells: cells.count(axis=axes),
        "sum": lambda cells: cells.astype("f8" if cells.dtype.kind == "f" else "i8").sum(axis=axes),
        "mean": lambda cells: cells.astype("f8").mean(axis=axes),
        "std": lambda cells: cells.astype("f8").std(axis=axes),
        "argmax": lambda cells: cells.argmax(axis=axes[0]),
        "any": lambda cells: (cells != 0).any(axis=axes),
    }.get(reduction, lambda cells: getattr(cells, reduction)(axis=axes))(values[part])
    with netCDF4.Dataset(path) as file:
        name = next(one for one in ("v", f"v_{reduction}") if one in file.variables)
        np.testing.assert_allclose(np.ma.filled(file[name][...], 0), np.ma.filled(wanted, 0), rtol=1e-6)
        if reduction != "argmax":
            np.testing.assert_array_equal(np.ma.getmaskarray(file[name][...]), np.ma.getmaskarray(wanted))
        for dim in set(LENGTHS) - set(axis):
            own = part[list(LENGTHS).index(dim)]
            np.testing.assert_allclose(file[dim][:], made()[dim].values[own])
            assert file[dim].units == made()[dim].units
    return path


OTHER_TYPES = [("netCDF-4", "i2"), ("Zarr 3", "f8"), ("references", "i2"), ("joined", "f8")]


@pytest.mark.parametrize(("kind", "dtype"), [*((kind, "f4") for kind in SOURCES), *OTHER_TYPES])
def test_every_source(tmp_path, kind, dtype):
    active = Active(SOURCES[kind](tmp_path, dtype), "v")
    values = np.ma.masked_equal(made(dtype).v.values, 7)
    for reduction in REDUCTIONS:
        check(active, tmp_path, values, reduction, ("time",), np.s_[:, :, :])
    path = check(active, tmp_path, values, "mean", ("lat", "lon"), np.s_[::2, 1:, :])
    with netCDF4.Dataset(path) as file:
        np.testing.assert_array_equal(file["time_bnds"][:], made().time_bnds.values[::2])
        assert (file["time"].bounds, file["time"].calendar) == ("time_bnds", "noleap")
        assert file["crs"].grid_mapping_name == "latitude_longitude"
        # Kerchunk turns numbers of classic files' attributes into text.
        assert float(file["crs"].semi_major_axis) == 6378137.0
        assert file["height"][...] == 2
        assert set(file["v"].coordinates.split()) == {"height", "lat", "lon"}
        assert (file.title, file["v"].cell_methods, file["v"].units) == ("a model", "lat: lon: mean", "K")
        assert file.history.endswith("2001: made")
        np.testing.assert_array_equal(file["lat_bnds"][:], [-60, 30])
    path = check(active, tmp_path, values, "max", ("time", "lat"), np.s_[1:, ::-1, [4, 0]])
    with netCDF4.Dataset(path) as file:
        np.testing.assert_array_equal(file["time_bnds"][:], [30, 180])
        assert file["time"][...] == 105


@pytest.mark.parametrize("kind", ["netCDF-4", "Zarr 2", "references"])
def test_sources_elsewhere(tmp_path, kind):
    path = SOURCES[kind](tmp_path, "f4")
    values = np.ma.masked_equal(made("f4").v.values, 7)
    memory = fsspec.filesystem("memory")
    try:
        memory.put(str(path), f"/out/{path.name}", recursive=True)
        active = Active(f"memory://out/{path.name}", "v")
        if kind != "references":
            check(active, tmp_path, values, "mean", ("time",), np.s_[:, :, :])
            check(active, tmp_path, values, "max", ("lat",), np.s_[2:, :, :])
    finally:
        memory.rm("/out", recursive=True)
    if kind == "netCDF-4":
        with WebStandIn() as web:
            web.files["/a.nc"] = path.read_bytes()
            check(Active(f"{web.url}/a.nc", "v"), tmp_path, values, "sum", ("time",), np.s_[:, :, :])


@pytest.mark.parametrize("sooner", [0, 365])
def test_times_of_joined_files(tmp_path, sooner):
    """They go with what is written, in the units of the first file, in the order of the selection."""
    active = Active(joined(tmp_path, "f4", sooner=sooner), "v")
    for part in (np.s_[:], np.s_[::-1], [5, 0, 3, 3], np.s_[2:4], 4):
        write_netcdf(active[part].run("mean", ("lat", "lon")), tmp_path / "out.nc", overwrite=True)
        first = 2 if part == np.s_[2:4] or part == 4 else 0
        with netCDF4.Dataset(tmp_path / "out.nc") as file:
            dates = netCDF4.num2date(file["time"][...], file["time"].units, "noleap")
            assert file["time"].units == ("days since 2000-01-01" if first and sooner else "days since 2001-01-01")
            assert file["time_bnds"].shape == (*np.shape(dates), 2)
        wanted = netCDF4.num2date(made().time.values[part], "days since 2001-01-01", "noleap")
        assert np.all(dates == wanted)


EDGES = {
    "int64 with its ends and its default": np.array([np.iinfo("i8").min, np.iinfo("i8").max, -9223372036854775806, 5], "i8"),
    "uint64 with its ends and its default": np.array([0, 18446744073709551615, 18446744073709551614, 2**63], "u8"),
    "int32": np.array([-(2**31), 2**31 - 1, -2147483647, 1], "i4"),
    "doubles": np.array([9.969209968386869e36, np.finfo("f8").max, np.finfo("f8").min, 1.0]),
    "singles": np.array([9.969209968386869e36, np.finfo("f4").max, np.finfo("f4").min, 1e20], "f4"),
    "infinite": np.array([np.inf, -np.inf, 9.969209968386869e36, 1e20]),
}


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("form", ["HDF5", "Zarr"])
@pytest.mark.parametrize("name", EDGES)
def test_numbers_at_the_edges_keep_their_type(tmp_path, name, form, masked):
    """No valid number is taken for a missing one, nor turned into another."""
    values, missing = EDGES[name], EDGES[name].dtype.type(3)
    cells = np.stack([values, np.full_like(values, missing)])
    if masked:
        cells = np.append(cells, [[missing], [missing]], axis=1)
    made_of = xr.Dataset({"v": (("y", "x"), cells, {"_FillValue": missing})})
    encoding = {"v": {"chunks": cells.shape}}
    if form == "Zarr":
        made_of.to_zarr(tmp_path / "a", zarr_format=2, encoding=encoding)
    else:
        made_of.to_netcdf(tmp_path / "a", engine="h5netcdf")
    result = Active(tmp_path / "a", "v").run(("max", "min"), "y")
    write_netcdf(result, tmp_path / "out.nc")
    with netCDF4.Dataset(tmp_path / "out.nc") as file:
        for reduction in ("max", "min"):
            found = file[f"v_{reduction}"][...]
            assert found.dtype == values.dtype
            np.testing.assert_array_equal(found[: len(values)], values)
            assert not np.ma.is_masked(found[: len(values)])
            assert np.ma.getmaskarray(found)[len(values) :].all()


@pytest.mark.parametrize("kind", ["Zarr 2", "Zarr 3, sharded", "references", "references in Parquet", "classic", "joined"])
def test_the_command_line_writes_all(tmp_path, capsys, kind):
    command = [
        "reduce",
        str(SOURCES[kind](tmp_path, "f4")),
        "v",
        "--axis",
        "time",
        "--op",
        "mean,max",
        "-o",
        str(tmp_path / "o.nc"),
    ]
    assert cli.main(command) == 0
    assert "o.nc: written" in capsys.readouterr().out
    with netCDF4.Dataset(tmp_path / "o.nc") as file:
        wanted = np.ma.masked_equal(made("f4").v.values, 7)
        np.testing.assert_array_equal(file["v_max"][...], wanted.max(axis=0))
        np.testing.assert_allclose(file["v_mean"][...], wanted.mean(axis=0), rtol=1e-6)


def test_odd_neighbours_are_left_out(tmp_path):
    """Text, and what nothing here decodes, beside an array of a store."""
    found = xr.Dataset({"v": (("y", "x"), np.ones((3, 2)), {"coordinates": "name odd"})}, {"x": [1.0, 2]})
    found["name"] = ("y", np.array(["a", "b", "c"], "S3"))
    found.to_zarr(tmp_path / "a.zarr", zarr_format=2, consolidated=False)
    shutil.copytree(tmp_path / "a.zarr" / "x", tmp_path / "a.zarr" / "odd")
    document = json.loads((tmp_path / "a.zarr" / "odd" / ".zarray").read_text())
    (tmp_path / "a.zarr" / "odd" / ".zarray").write_text(json.dumps({**document, "compressor": {"id": "nobody knows"}}))
    write_netcdf(Active(tmp_path / "a.zarr", "v").run("mean", "y"), tmp_path / "out.nc")
    with netCDF4.Dataset(tmp_path / "out.nc") as file:
        assert set(file.variables) == {"v", "x"}
        assert file["v"][...].tolist() == [1, 1]
