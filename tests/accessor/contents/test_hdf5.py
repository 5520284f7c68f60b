"""The quick road through a file's metadata beside h5netcdf's thorough one: the same variables, attributes and encodings."""

import h5py
import netCDF4
import numpy as np
import pytest
import xarray as xr

from activestore.accessor.arrays.stored import StoredFile
from activestore.accessor.contents import files as stores
from activestore.accessor.contents.hdf5 import describe
from activestore.sources.open import open_source
from tests.corpus import corpus_files, file_id

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

SAMPLE = "docs/tas.nc"


def contents(path, group=None, *, quick):
    """Return what our store has, by one road or the other."""
    with pytest.MonkeyPatch.context() as patch:
        if not quick:
            patch.setattr(stores, "describe", lambda *_, **__: None)
        return stores.read_contents(StoredFile(open_source(path), {}), group)


def typed(value):
    """Return a value with everything by which two of its kind can differ."""
    if isinstance(value, np.dtype):
        return "dtype", value.str, dict(value.metadata or {})
    if isinstance(value, np.ndarray):
        return "array", value.dtype.str, value.shape, value.tobytes()
    if isinstance(value, np.generic):
        return type(value), value.dtype.str, value.tobytes()
    if isinstance(value, dict):
        return "dict", [(key, typed(one)) for key, one in value.items()]
    if isinstance(value, (list, tuple)):
        return type(value), [typed(one) for one in value]
    return type(value), value


def reader(variable):
    """Return who reads the values; those of coordinates are there already, and are returned."""
    if len(variable.dims) == 1 and variable.dtype.kind in "iuf":
        return variable.values.tobytes()
    return type(variable._data.array)


def everything(found):
    """Return all that a store tells, in its order, with the types."""
    variables = [
        (name, one.dims, one.shape, typed(one.dtype), reader(one), typed(one.attrs), typed(one.encoding))
        for name, one in found.variables.items()
    ]
    return variables, typed(found.attributes), typed(found.encoding)


def assert_same(path, group=None):
    """Assert that the quick road is taken and tells what the thorough one does."""
    assert describe(open_source(path), group) is not None
    quick, thorough = (contents(path, group, quick=road) for road in (True, False))
    for got, wanted in zip(everything(quick)[0], everything(thorough)[0], strict=True):
        assert got == wanted
    assert everything(quick)[1:] == everything(thorough)[1:]


@pytest.mark.corpus
@pytest.mark.parametrize("path", [path for path in corpus_files() if path.read_bytes()[:3] != b"CDF"], ids=file_id)
def test_real_files(path):
    assert_same(path)


@pytest.mark.corpus
def test_most_of_the_corpus_is_of_this_format():
    assert sum(path.read_bytes()[:3] != b"CDF" for path in corpus_files()) >= 250


def test_sample():
    assert_same(SAMPLE)


NETCDF_TYPES = ("i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8")


def every_type(file):
    file.createDimension("x", 3)
    for name in NETCDF_TYPES:
        variable = file.createVariable(name, name, ("x",), fill_value=1)
        variable.setncattr("one", np.array(5, name))
        variable.setncattr("three", np.array([5, 6, 7], name))
    file.createVariable("big", ">i4", ("x",), endian="big").missing_value = np.array([1, 2], ">i4")


def text(file):
    file.createDimension("x", 3)
    file.createDimension("length", 7)
    file.createVariable("text", str, ("x",)).setncatts({"a": "b", "names": ["é", "ab"]})
    file.createVariable("letters", "S1", ("x", "length")).setncatts({"empty": "", "letter": "K", "é": "Grüße", "n": "a\nb"})
    file.setncattr_string("one", "é")
    file.setncattr_string("many", ["é", "", "long" * 30])
    file.setncattr("none", "")


def scalars_and_unlimited(file):
    file.createDimension("time", None)
    file.createDimension("other", None)
    file.createDimension("unused", 4)
    file.createVariable("height", "f8", ()).units = "m"
    file.createVariable("time", "f8", ("time",))[:] = np.arange(4)
    file.createVariable("longer", "f4", ("time", "other"), zlib=True, complevel=3)[:] = np.zeros((7, 2))
    file.createVariable("shorter", "f4", ("time", "unused"), fletcher32=True, chunksizes=(1, 2))[:] = np.zeros((2, 4))
    file.createVariable("plain", "i2", ("unused",), contiguous=True)


def collisions(file):
    file.createDimension("x", 3)
    file.createDimension("y", 2)
    file.createVariable("y", "f8", ("x",))
    file.createVariable("x", "f8", ("x", "y"))
    file.createVariable("z", "f8", ("y", "x"))


def filters(file):
    file.createDimension("x", 100)
    for name in ("zlib", "zstd", "bzip2", "blosc_lz4"):
        file.createVariable(name, "f4", ("x",), compression=name, complevel=4, shuffle=name == "zlib")
    file.createVariable("off", "f4", ("x",), zlib=True, shuffle=False, complevel=0)


def coordinates_of_text(file):
    file.createDimension("station", 3)
    file.createDimension("length", 5)
    file.createVariable("station", "S1", ("station", "length"))
    file.createVariable("x", "f8", ("station",))


@pytest.mark.parametrize("fill", [every_type, text, scalars_and_unlimited, collisions, filters, coordinates_of_text])
def test_files_of_netcdf4(tmp_path, fill):
    with netCDF4.Dataset(tmp_path / "a.nc", "w") as file:
        fill(file)
    assert_same(tmp_path / "a.nc")


def test_an_unlimited_dimension_that_a_subgroup_grows(tmp_path):
    with netCDF4.Dataset(tmp_path / "a.nc", "w") as file:
        file.createDimension("time", None)
        file.createDimension("x", 2)
        file.createVariable("time", "f8", ("time",))[:] = np.arange(3)
        file.createVariable("a", "f8", ("time", "x"))[:] = np.zeros((4, 2))
        inner = file.createGroup("outer").createGroup("inner")
        inner.createDimension("x", 5)
        inner.createVariable("b", "f8", ("time", "x"))[:] = np.zeros((9, 5))
        inner.createVariable("c", "f8", ())
        inner.title = "inner"
    for group, length in ((None, 9), ("/", 9), ("outer", None), ("outer/inner", 9), ("/outer/inner/", 9)):
        assert_same(tmp_path / "a.nc", group)
        if length:
            assert contents(tmp_path / "a.nc", group, quick=True).get_dimensions()["time"] == length


def test_files_of_h5netcdf(tmp_path):
    made = xr.Dataset(
        {
            "a": (("x", "y"), np.zeros((3, 4)), {"n": 5, "text": "é", "list": ["a", "b"], "flags": np.array([1, 2], "i1")}),
            "packed": ("x", np.zeros(3), {}, {"dtype": "i2", "scale_factor": 0.5, "_FillValue": -1, "compression": "lzf"}),
            "name": ("x", np.array(["Oslo", "Roma", ""], object)),
            "fixed": ("x", np.array([b"ab", b"cd", b"ef"])),
        },
        coords={"x": [1.0, 2, 3]},
        attrs={"title": "x", "empty": "", "version": np.float32(2)},
    )
    made.to_netcdf(tmp_path / "a.nc", engine="h5netcdf", unlimited_dims=["x"])
    assert_same(tmp_path / "a.nc")


@pytest.mark.parametrize("libver", ["earliest", "latest"])
@pytest.mark.parametrize("track_order", [True, False])
def test_attributes_of_h5py(tmp_path, libver, track_order):
    with h5py.File(tmp_path / "a.h5", "w", libver=libver, track_order=track_order) as file:
        attrs = {f"many_{i}": i for i in range(30)} | {
            "letters": np.array([b"a", b"b"]),
            "letter": np.bytes_(b"a"),
            "letter_in_list": np.array([b"a"]),
            "missing_value": np.bytes_(b"a"),
            "_FillValue": np.array([b"a"]),
            "fixed": np.bytes_(b"fixed"),
            "fixed_in_list": np.array([b"fixed"]),
            "fixed_lists": np.array([b"fixed", b"", b"x"]),
            "null": h5py.Empty("S1"),
            "nothing": h5py.Empty("f4"),
            "empty": np.zeros(0, "i4"),
            "no_texts": np.array([], h5py.string_dtype()),
            "square": np.arange(4).reshape(2, 2),
            "single": np.arange(1).reshape(1, 1),
            "row": np.arange(3).reshape(1, 3),
            "half": np.float16(2),
            "long": np.longdouble(3),
            "big": np.array([1, 2], ">f8"),
            "big_one": np.array(1, ">i2"),
            "zeroes": np.bytes_(b"a\0b"),
            "text": "é",
            "odd_text": np.array(b"\xe9", h5py.string_dtype()),
            "texts": ["é", ""],
        }
        file.attrs.update(attrs)
        file.create_dataset("b", data=np.zeros((), ">f4"), track_order=track_order).attrs.update(attrs)
        file.create_dataset("a", data=np.zeros((), "i8"))
        padded(file, "ascii", h5py.h5t.CSET_ASCII, h5py.h5t.STR_NULLTERM, "gr\xfc\xdfe\0rest".encode("latin-1"))
        padded(file, "utf8", h5py.h5t.CSET_UTF8, h5py.h5t.STR_NULLTERM, "grüße\0\0".encode())
        padded(file, "nulls", h5py.h5t.CSET_UTF8, h5py.h5t.STR_NULLPAD, "gr\0üße\0\0".encode())
    assert_same(tmp_path / "a.h5")


def padded(file, name, charset, padding, value):
    """Write text as `value`, byte by byte."""
    kind = h5py.h5t.C_S1.copy()
    kind.set_size(len(value))
    kind.set_cset(charset)
    kind.set_strpad(padding)
    attribute = h5py.h5a.create(file.id, name.encode(), kind, h5py.h5s.create(h5py.h5s.SCALAR))
    attribute.write(np.array(value, f"S{len(value)}"), mtype=kind)


def scales_of_h5py(file):
    for name, length in (("x", 3), ("y", 4), ("second", 3)):
        file[name] = np.arange(length)
        file[name].make_scale()
    file["a"] = np.zeros((3, 4))
    for dim, name in ((0, "x"), (0, "second"), (1, "y")):
        file["a"].dims[dim].attach_scale(file[name])
    file.create_dataset("t", data=np.arange(2.0), maxshape=(None,)).make_scale()
    file.create_dataset("long", data=np.zeros((5, 3)), maxshape=(None, 3))
    file["long"].dims[0].attach_scale(file["t"])
    file["long"].dims[1].attach_scale(file["x"])


def test_scales_of_h5py(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        scales_of_h5py(file)
    assert_same(tmp_path / "a.h5")


def odd(make):
    return pytest.param(make, id=make.__name__)


@odd
def no_scales(file):
    file["a"] = np.zeros((3, 4))


@odd
def truth_values(file):
    file["a"] = np.array(True)


@odd
def records(file):
    file["a"] = np.zeros((), "i4,f8")


@odd
def a_type(file):
    file["type"] = np.dtype("i4,f8")


@odd
def a_complex_attribute(file):
    file.attrs["a"] = 1j


@odd
def a_truth_value_among_the_attributes(file):
    file.create_dataset("a", data=1.0).attrs["a"] = True


@odd
def a_soft_link(file):
    file["a"] = 1.0
    file["b"] = h5py.SoftLink("/a")


@odd
def two_names(file):
    file["a"] = 1.0
    file["b"] = file["a"]


@odd
def texts_in_a_square(file):
    file.attrs["a"] = np.array([["a", "b"], ["c", "d"]], h5py.string_dtype())


@odd
def undecodable_text(file):
    file.attrs["a"] = np.bytes_(b"\xe9")


@odd
def text_padded_with_blanks(file):
    padded(file, "a", h5py.h5t.CSET_ASCII, h5py.h5t.STR_SPACEPAD, b"abc   ")


@odd
def a_dimension_of_another_length(file):
    file["x"] = np.arange(3)
    file["x"].make_scale()
    file["a"] = np.zeros(2)
    file["a"].dims[0].attach_scale(file["x"])


@odd
def scale_and_offset(file):
    file["x"] = np.arange(3)
    file["x"].make_scale()
    file.create_dataset("a", data=np.arange(3), scaleoffset=0, chunks=(3,)).dims[0].attach_scale(file["x"])


ODD = [value for value in globals().values() if isinstance(value, type(pytest.param()))]


@pytest.mark.filterwarnings("ignore::UnicodeWarning")
@pytest.mark.parametrize("make", ODD)
def test_what_is_left_to_h5netcdf(tmp_path, make):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        make(file)
    assert describe(open_source(tmp_path / "a.h5"), None) is None
    quick, thorough = (contents(tmp_path / "a.h5", quick=road) for road in (True, False))
    assert everything(quick) == everything(thorough)


def test_a_group_that_is_not_there():
    assert describe(open_source(SAMPLE), "nowhere") is None
    assert describe(open_source(SAMPLE), "tas") is None


def test_a_deleted_variable(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        scales_of_h5py(file)
        del file["long"]
    found = describe(open_source(tmp_path / "a.h5"), None)
    assert found.variables["t"].shape == (2,)


def test_h5netcdf_is_not_asked(monkeypatch):
    monkeypatch.setattr(stores, "_with_store", lambda *_: pytest.fail("the thorough road was taken"))
    assert xr.open_dataset(SAMPLE, engine="activestore").tas.shape == (24, 18, 36)
