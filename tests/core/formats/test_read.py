"""Names, dimensions, attributes and values of variables are those that netCDF4-python gives, whatever wrote the file."""

import pickle
import warnings

import h5netcdf
import h5py
import netCDF4
import numpy as np
import pytest

from activestore import Active
from activestore.core.formats.read import variable_names
from activestore.errors import SourceError, VariableNotFoundError
from activestore.sources.open import open_source


@pytest.fixture
def path(tmp_path):
    return tmp_path / "a.nc"


def netcdf_variables(group, folder=""):
    """Return netCDF4-python's variables by their full names."""
    found = {folder + name: variable for name, variable in group.variables.items()}
    for name, inner in group.groups.items():
        found |= netcdf_variables(inner, f"{folder}{name}/")
    return found


def assert_as_netcdf4(path):
    """Assert that every variable has netCDF4-python's dimensions, attributes and values."""
    with netCDF4.Dataset(path) as dataset:
        theirs = netcdf_variables(dataset)
        assert sorted(variable_names(open_source(path))) == sorted(theirs)
        for name, variable in theirs.items():
            ours = Active(path, name)
            assert (name, ours.dims, ours.shape) == (name, variable.dimensions, variable.shape)
            assert sorted(ours.attrs) == sorted(variable.ncattrs()), name
            for key in variable.ncattrs():
                assert_attribute(ours.attrs[key], variable.getncattr(key), f"{name}:{key}")
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # it announces attributes that it does not use
                values = np.ma.MaskedArray(variable[...])
            read = ours.read()
            assert read.dtype == values.dtype, name
            assert np.array_equal(np.ma.getmaskarray(read), np.ma.getmaskarray(values)), name
            assert np.array_equal(read.compressed(), values.compressed(), equal_nan=values.dtype.kind == "f"), name
            assert ours.count() == values.count(), name


def assert_attribute(got, wanted, what):
    assert type(got) is type(wanted), what
    if isinstance(wanted, (np.ndarray, np.generic)):
        assert got.dtype == wanted.dtype, what
        assert got.shape == wanted.shape, what
    assert np.array_equal(got, wanted), what


def fill(group, name, dims, dtype="f4", **options):
    """Add a variable to a netCDF group and number its values."""
    variable = group.createVariable(name, dtype, dims, **options)
    if variable.size:
        variable[...] = np.arange(variable.size).reshape(variable.shape)
    return variable


def test_groups_use_dimensions_of_their_parents(path):
    with netCDF4.Dataset(path, "w") as dataset:
        for name, length in {"y": 3, "x": 4}.items():
            dataset.createDimension(name, length)
        fill(dataset, "x", ("x",))
        outer = dataset.createGroup("outer")
        inner = outer.createGroup("inner")
        inner.createDimension("x", 5)
        fill(outer, "x", ("x",))
        fill(inner, "x", ("x",))
        fill(inner, "v", ("y", "x"))
        fill(outer, "v", ("y", "x"))
        outer.createDimension("local", 2)
        fill(inner, "local", ("local", "y"))
    assert Active(path, "outer/v").shape == (3, 4)
    assert Active(path, "outer/inner/v").shape == (3, 5)
    assert_as_netcdf4(path)


def test_coordinates_of_several_dimensions_and_names_of_dimensions_that_are_no_coordinates(path):
    with netCDF4.Dataset(path, "w") as dataset:
        for name, length in {"time": 2, "nv": 2, "y": 3, "x": 4}.items():
            dataset.createDimension(name, length)
        fill(dataset, "time", ("time", "nv"))
        fill(dataset, "nv", ("time",))
        fill(dataset, "y", ("x",))
        fill(dataset, "x", ("x",))
        fill(dataset, "square", ("x", "x"))
        fill(dataset, "scalar", ())
        fill(dataset.createGroup("g"), "time", ("time", "x", "nv"))
    assert "_nc4_non_coord_y" in h5_names(path)
    assert_as_netcdf4(path)


def h5_names(path):
    with h5py.File(path) as file:
        return list(file)


def test_renamed_dimensions_and_variables(path):
    with netCDF4.Dataset(path, "w") as dataset:
        for name, length in {"a": 2, "b": 3, "c": 4}.items():
            dataset.createDimension(name, length)
        fill(dataset, "a", ("a",))
        fill(dataset, "b", ("b",))
        fill(dataset, "late", ("c",))
        fill(dataset, "v", ("a", "b", "c"))
    with netCDF4.Dataset(path, "a") as dataset:
        dataset.renameDimension("a", "first")
        dataset.renameVariable("b", "second")
        dataset.renameVariable("late", "c")
    assert_as_netcdf4(path)


def test_dimensions_without_attached_scales(path):
    """What netCDF-C writes with NC_NODIMSCALE_ATTACH: the numbers of the dimensions are all there is."""
    with netCDF4.Dataset(path, "w") as dataset:
        dataset.createDimension("x", 3)
        dataset.createDimension("y", 3)
        fill(dataset, "v", ("y", "x"))
    with h5py.File(path, "a") as file:
        del file["v"].attrs["DIMENSION_LIST"], file["x"].attrs["REFERENCE_LIST"], file["y"].attrs["REFERENCE_LIST"]
    assert_as_netcdf4(path)


@pytest.mark.parametrize("model", ["NETCDF4", "NETCDF4_CLASSIC", "NETCDF3_CLASSIC"])
@pytest.mark.parametrize("dtype", ["i1", "i4", "f4"])
@pytest.mark.parametrize("options", [{}, {"fill_value": 1}, {"fill_value": False}], ids=["default", "one", "no fill"])
def test_an_unlimited_dimension_is_as_long_as_its_longest_variable(path, model, dtype, options):
    if model == "NETCDF3_CLASSIC" and options == {"fill_value": False}:
        pytest.skip("what is never written is not defined there")
    with netCDF4.Dataset(path, "w", format=model) as dataset:
        dataset.createDimension("time")
        dataset.createDimension("x", 2)
        dataset.createVariable("time", "f8", ("time",), **options)
        dataset.createVariable("long", dtype, ("time", "x"), **options)[:] = np.arange(10).reshape(5, 2)
        dataset.createVariable("short", dtype, ("time", "x"), **options)[:] = np.arange(4).reshape(2, 2)
        dataset.createVariable("empty", dtype, ("time", "x"), **options)
    assert Active(path, "short").shape == Active(path, "empty").shape == (5, 2)
    assert_as_netcdf4(path)


def test_unlimited_dimensions_in_groups(path):
    with netCDF4.Dataset(path, "w") as dataset:
        dataset.createDimension("t")
        fill(dataset, "t", ("t",))[:3] = 1
        inner = dataset.createGroup("a").createGroup("b")
        fill(inner, "v", ("t",))[:7] = 2
    assert Active(path, "t").shape == (7,)
    assert_as_netcdf4(path)


def test_a_deleted_variable_does_not_count(path):
    with h5netcdf.File(path, "w") as file:
        file.dimensions = {"t": None}
        file.resize_dimension("t", 5)
        for name in ("v", "w"):
            file.create_variable(name, ("t",), "f4", data=np.arange(5.0))
    with h5py.File(path, "a") as file:
        del file["w"]
    assert Active(path, "v").shape == (5,)
    assert_as_netcdf4(path)


def test_a_scale_that_was_deleted_names_nothing(path):
    with h5py.File(path, "w") as file:
        file["x"], file["scale"] = np.ones((2, 3)), np.arange(3.0)
        file["scale"].make_scale()
        file["x"].dims[1].attach_scale(file["scale"])
        del file["scale"]
    assert Active(path, "x").dims == ("dim_0", "dim_1")
    assert Active(path, "x").sum() == 6


def test_files_of_h5netcdf(path):
    with h5netcdf.File(path, "w") as file:
        file.dimensions = {"time": 2, "nv": 2, "y": 3, "grows": None}
        file.create_variable("time", ("time", "nv"), "f8", data=np.ones((2, 2)))
        file.create_variable("y", ("nv",), "f8", data=np.ones(2))
        file.create_variable("v", ("grows", "y"), "f8")
        file.resize_dimension("grows", 4)
        file.create_variable("g/h/z", ("grows", "y", "nv"), "f4")
    assert_as_netcdf4(path)


def test_dimensions_without_names_are_numbered(path):
    with h5py.File(path, "w") as file:
        file["x"] = np.ones((2, 3, 4))
        file["scale"] = np.arange(3.0)
        file["scale"].make_scale("a label")
        file["x"].dims[1].attach_scale(file["scale"])
    assert Active(path, "x").dims == ("dim_0", "scale", "dim_2")
    assert Active(path, "scale").dims == ("scale",)


@pytest.mark.parametrize("model", ["NETCDF4", "NETCDF3_CLASSIC", "NETCDF3_64BIT_DATA"])
def test_attributes(path, model):
    with netCDF4.Dataset(path, "w", format=model) as dataset:
        dataset.createDimension("x", 3)
        variable = fill(dataset, "v", ("x",), "i2")
        given = {
            "text": "K",
            "empty text": "",
            "unicode": "größe °",
            "one": np.float32(1.5),
            "vector": np.arange(3, dtype="i4"),
        }
        given |= {
            "byte": np.int8(-3),
            "short": np.int16(7),
            "empty vector": np.zeros(0, "f4"),
            "float": 1.5,
            "list": [1.5, 2.5],
        }
        if model != "NETCDF3_CLASSIC":
            given |= {"long": np.int64(2**60), "unsigned": np.uint16(65535)}
        if model == "NETCDF4":
            given |= {"texts": ["a", "bc", ""], "one text": ["only"]}
        for key, value in given.items():
            variable.setncattr(key, value)
    assert_as_netcdf4(path)


def test_attributes_of_other_writers(path):
    with h5py.File(path, "w") as file:
        file["x"] = np.arange(3.0)
        attrs = file["x"].attrs
        attrs["big-endian"] = np.arange(3, dtype=">f4")
        attrs["one"] = np.array([5], ">i4")
        attrs["fixed"] = np.bytes_(b"abc")
        attrs["latin"] = np.bytes_("°".encode("latin1"))
        attrs["empty"] = h5py.Empty("f4")
        attrs["empty text"] = h5py.Empty("S4")
    ours = Active(path, "x")
    with netCDF4.Dataset(path) as dataset:
        theirs = dataset["x"]
        assert sorted(ours.attrs) == sorted(theirs.ncattrs())
        for key in theirs.ncattrs():
            assert_attribute(ours.attrs[key], theirs.getncattr(key), key)


def test_attributes_that_netcdf_does_not_have_can_be_pickled(path):
    with h5py.File(path, "w") as file:
        file["x"] = np.arange(3.0)
        attrs = file["x"].attrs
        attrs["reference"] = file["x"].ref
        attrs.create("references", [file["x"].ref] * 2, dtype=h5py.ref_dtype)
        attrs.create("region", file["x"].regionref[:2], dtype=h5py.regionref_dtype)
        attrs["half"] = np.float16(2)
        attrs["flag"] = True
        attrs["table"] = np.ones((2, 2))
        lists = np.empty(2, object)
        lists[:] = [np.arange(2), np.arange(3)]
        attrs.create("lists", lists, dtype=h5py.vlen_dtype("i4"))
        records = np.array([(1, file["x"].ref)], [("a", "i4"), ("b", h5py.ref_dtype)])
        attrs.create("records", records)
    attrs = pickle.loads(pickle.dumps(Active(path, "x"))).attrs
    assert attrs["reference"] == "<reference>"
    assert attrs["references"] == ["<reference>", "<reference>"]
    assert (attrs["half"], attrs["flag"], attrs["table"].shape) == (2, True, (2, 2))


def test_names_in_other_scripts(path):
    with netCDF4.Dataset(path, "w") as dataset:
        dataset.createDimension("größe", 4)
        dataset.createDimension("a b", 3)
        fill(dataset, "größe", ("größe",))
        fill(dataset, "température (°C)", ("a b", "größe"))
    assert_as_netcdf4(path)
    assert Active(path, "température (°C)").sum(axis="größe").shape == (3,)


@pytest.mark.parametrize("userblock", [0, 512, 1024, 4096])
def test_a_file_is_known_by_its_signature(path, userblock):
    with h5py.File(path, "w", userblock_size=userblock) as file:
        file["x"] = np.arange(3.0)
    if userblock:
        with path.open("r+b") as raw:
            raw.write(b"CDF? no: a user block holds what its author likes".ljust(userblock, b"."))
    assert variable_names(open_source(path)) == ["x"]
    assert Active(path, "x").sum() == 3


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it is empty"),
        (b"C", "starts with b'C'"),
        (b"CDF\x03" + bytes(100), r"starts with b'CDF\\x03"),
        (b"<!DOCTYPE html><html>", "starts with b'<!DOCTYP'"),
        (bytes(5000), "neither netCDF nor HDF5"),
        (b"\x89HDF\r\n\x1a\n", "the HDF5 library cannot open it"),
        (b"\x89HDF\r\n\x1a\n" + bytes(5000), "the HDF5 library cannot open it"),
    ],
)
def test_what_is_neither_netcdf_nor_hdf5(path, content, message):
    path.write_bytes(content)
    source = open_source(path)
    with pytest.raises(SourceError, match=message):
        variable_names(source)
    with pytest.raises(SourceError, match=message):
        Active(path, "x")


@pytest.mark.parametrize("model", ["NETCDF4", "NETCDF3_CLASSIC"])
def test_a_name_that_is_not_there_is_answered_with_what_is_near(path, model):
    with netCDF4.Dataset(path, "w", format=model) as dataset:
        dataset.createDimension("x", 3)
        fill(dataset, "temperature", ("x",))
        fill(dataset, "tas", ("x",))
    for name, near in {"Tas": "'tas'", "temprature": "'temperature'", "?": "it has: ", "": "it has: ", "x": "it has: "}.items():
        with pytest.raises(VariableNotFoundError, match=near):
            Active(path, name)
