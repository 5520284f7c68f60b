"""Odd files: the engine beside xarray's own, which is h5netcdf's for HDF5 and netCDF4-python's for netCDF classic."""

import h5py
import netCDF4
import numpy as np
import pytest
import xarray as xr

from activestore import Active
from activestore.errors import ConfigurationError, GroupNotFoundError, SourceError

# h5netcdf's engine says that it names dimensions where a file has none.
pytestmark = pytest.mark.filterwarnings("ignore:The 'phony_dims' kwarg:UserWarning")


def same(path, engine="h5netcdf", **options):
    """Return the dataset as we open it, once it is known to be what xarray's own engine opens."""
    with xr.open_dataset(path, engine=engine, **options) as theirs:
        ours = xr.open_dataset(path, engine="activestore", **options)
        xr.testing.assert_identical(ours.load(), theirs.load())
        assert ours.encoding["unlimited_dims"] == theirs.encoding["unlimited_dims"]
        for name in theirs.variables:
            assert ours[name].dtype == theirs[name].dtype
            assert ours[name].dtype.metadata == theirs[name].dtype.metadata
            assert {key: type(value) for key, value in ours[name].attrs.items()} == {
                key: type(value) for key, value in theirs[name].attrs.items()
            }
        return ours


@pytest.fixture
def path(tmp_path):
    return tmp_path / "odd.nc"


def half_labelled(group):
    """Write variables that have a scale along some of their dimensions, along all, and along none."""
    group["x"] = np.arange(5.0)
    group["x"].make_scale("x")
    group["a"] = np.arange(20).reshape(4, 5)
    group["a"].dims[1].attach_scale(group["x"])
    group["square"] = np.arange(80.0).reshape(4, 4, 5)
    group["square"].dims[2].attach_scale(group["x"])
    group["along"] = np.arange(5.0)
    group["along"].dims[0].attach_scale(group["x"])
    group["without"] = np.arange(4.0)
    group["letters"] = np.array([b"ab", b"cd", b"ef", b"gh"])
    group["words"] = np.array(["one", "two", "three", "four"], h5py.string_dtype())


def assert_half_labelled(ds):
    assert ds.a.dims == ("phony_dim_of_4", "x")
    assert ds.square.dims == ("phony_dim_of_4", "phony_dim_of_4_2", "x")
    assert ds.along.dims == ("x",)
    assert ds.without.dims == ds.words.dims == ("phony_dim_of_4",)
    assert ds.a.active.max("x").values.tolist() == [4, 9, 14, 19]
    assert ds.active.mean().square == 39.5
    assert ds.words.values.tolist() == ["one", "two", "three", "four"]
    assert ds.letters.values[1:3].tolist() == [b"cd", b"ef"]


class TestDimensions:
    def test_a_plain_hdf5_file_has_phony_ones(self, path):
        with h5py.File(path, "w") as file:
            file["a"] = np.arange(20).reshape(4, 5)
            file["b"] = np.arange(25.0).reshape(5, 5)
            file["deep/c"] = np.arange(7.0)
            file["scalar"] = 3.5
        assert same(path).a.dims == ("phony_dim_0", "phony_dim_1")
        assert same(path, group="deep").c.sum() == 21

    def test_some_without_a_name(self, path):
        with h5py.File(path, "w") as file:
            half_labelled(file)
        with xr.open_dataset(path, engine="activestore") as ds:
            assert_half_labelled(ds)
        assert Active(path, "a").max() == 19

    @pytest.mark.parametrize("where", ["a/b", "/"])
    def test_some_without_a_name_in_groups(self, path, where):
        with h5py.File(path, "w") as file:
            half_labelled(file.require_group(where))
            other = file.create_group("other")
            other["y"] = np.arange(2.0)
            other["y"].make_scale("y")
            other["v"] = np.arange(2.0)
            other["v"].dims[0].attach_scale(other["y"])
            file["other/deep/plain"] = np.arange(3)
        for group in (None, "other"):
            with xr.open_datatree(path, engine="activestore", group=group) as tree:
                assert tree["other" if group is None else "/"].v.active.sum() == 1
                assert tree["other/deep" if group is None else "deep"].plain.values.tolist() == [0, 1, 2]
                if group is None:
                    assert_half_labelled(tree[where].to_dataset())
        with xr.open_dataset(path, engine="activestore", group=where.strip("/") or None) as ds:
            assert_half_labelled(ds)
        with xr.open_dataset(path, engine="activestore", group="other") as ds:
            assert ds.v.dims == ("y",)
        with pytest.raises(GroupNotFoundError, match=r"no group 'nowhere'; there are: .*other"):
            xr.open_dataset(path, engine="activestore", group="nowhere")

    def test_some_without_a_name_and_more_that_is_odd(self, path):
        with h5py.File(path, "w") as file:
            half_labelled(file)
            file["records"] = np.zeros(3, [("a", "f8")])
        with pytest.warns(UserWarning, match="is left out: its dimensions are none that xarray can have") as said:
            ds = xr.open_dataset(path, engine="activestore")
        for name, one in zip(("a", "square"), said, strict=True):
            assert f"odd.nc: '{name}'" in str(one.message)
            assert name not in ds.variables
        assert ds.records.values.tolist() == [(0.0,)] * 3

    def test_enumerations_are_told_as_such(self, path):
        with netCDF4.Dataset(path, "w") as file:
            file.createDimension("x", 4)
            kind = file.createEnumType("u1", "cloud_t", {"clear": 0, "cloudy": 1})
            file.createVariable("cloud", kind, ("x",))[:] = [0, 1, 1, 0]
        with pytest.warns(UserWarning, match="fill_value 0 which IS defined in enum"):
            same(path).to_netcdf(path.with_name("written.nc"), engine="h5netcdf")
        assert same(path.with_name("written.nc")).cloud.dtype.metadata["enum"] == {"clear": 0, "cloudy": 1}

    def test_unlimited_ones_of_different_lengths(self, path):
        with netCDF4.Dataset(path, "w") as file:
            file.createDimension("time", None)
            file.createDimension("member", None)
            file.createDimension("none", None)
            file.createVariable("a", "f4", ("time", "member"))[:] = np.arange(12).reshape(3, 4)
            file.createVariable("short", "i4", ("time",))[:2] = [1, 2]
            file.createVariable("nothing", "i4", ("none",))
        ours = same(path)
        assert ours.encoding["unlimited_dims"] == {"time", "member", "none"}
        assert ours.sizes == {"time": 3, "member": 4, "none": 0}

    @pytest.mark.parametrize("form", ["NETCDF3_CLASSIC", "NETCDF3_64BIT_OFFSET", "NETCDF3_64BIT_DATA"])
    def test_records_of_a_classic_file(self, path, form):
        with netCDF4.Dataset(path, "w", format=form) as file:
            file.createDimension("time", None)
            file.createDimension("x", 3)
            file.createDimension("letters", 4)
            file.createVariable("a", "i2", ("time", "x"))[:] = np.arange(12).reshape(4, 3)
            file.createVariable("b", "i1", ("time",))[:] = [1, 2, 3, 4]
            file.createVariable("name", "S1", ("time", "letters"))[:] = netCDF4.stringtochar(
                np.array(["ab", "cdef", "", "g"], "S4")
            )
            file.createVariable("letter", "S1", ())[...] = b"q"
            file.title = "records"
        ours = same(path, engine="netcdf4")
        assert ours.encoding["unlimited_dims"] == {"time"}
        assert ours.name.values.tolist() == [b"ab", b"cdef", b"", b"g"]

    def test_names_of_two_dimensions_alike(self, path):
        with netCDF4.Dataset(path, "w") as file:
            file.createDimension("x", 3)
            file.createVariable("square", "f8", ("x", "x"))[:] = np.arange(9).reshape(3, 3)
        with pytest.warns(UserWarning, match="Duplicate dimension names"):
            theirs = xr.open_dataset(path, engine="h5netcdf")
        with pytest.warns(UserWarning, match="Duplicate dimension names"):
            ours = xr.open_dataset(path, engine="activestore")
        assert (ours.square.values == theirs.square.values).all()


class TestGroups:
    @pytest.fixture
    def deep(self, path):
        with netCDF4.Dataset(path, "w") as file:
            file.createDimension("x", 4)
            file.createVariable("x", "f8", ("x",))[:] = [1, 2, 3, 4]
            at = file
            for level in range(12):
                at = at.createGroup(f"level {level}")
                at.level = level
                at.createDimension("y", level + 1)
                at.createVariable("a", "i4", ("x", "y"))[:] = level
            file.createGroup("empty").createGroup("below")
        return path

    def test_deep_ones(self, deep):
        group = "/".join(f"level {level}" for level in range(12))
        assert same(deep, group=group).a.shape == (4, 12)

    @pytest.mark.parametrize("group", [None, "/", "level 0", "/level 0/level 1/", "empty"])
    def test_as_a_dict(self, deep, group):
        ours = xr.open_groups(deep, engine="activestore", group=group)
        theirs = xr.open_groups(deep, engine="h5netcdf", group=group)
        assert list(ours) == list(theirs)
        for name in theirs:
            xr.testing.assert_identical(ours[name].load(), theirs[name].load())
            theirs[name].close()

    def test_as_a_tree(self, path):
        made = xr.DataTree.from_dict(
            {
                "/": xr.Dataset({"a": ("x", [1.5, np.nan])}, coords={"x": [10, 20]}),
                "/one": xr.Dataset({"b": ("x", [3, 4]), "when": ("x", np.array(["2001", "2002"], "M8[ns]"))}),
                "/one/two": xr.Dataset({"name": ("z", ["p", "qr"])}, attrs={"title": "two"}),
                "/nothing": xr.Dataset(),
            }
        )
        made.to_netcdf(path)
        with xr.open_datatree(path, engine="activestore") as ours:
            xr.testing.assert_identical(ours, made)
        with xr.open_datatree(path, engine="activestore", group="one", drop_variables="when", decode_cf=False) as ours:
            theirs = xr.open_datatree(path, engine="h5netcdf", group="one", drop_variables="when", decode_cf=False)
            xr.testing.assert_identical(ours.load(), theirs.load())
            theirs.close()
        with pytest.raises(ConfigurationError, match="from one file, not from 2"):
            xr.open_datatree([path, path], engine="activestore")
        with pytest.raises(TypeError, match="unexpected keyword argument 'colour'"):
            xr.open_datatree(path, engine="activestore", colour="red")

    def test_of_a_classic_file(self, path):
        made = xr.Dataset({"a": ("x", np.arange(3.0))})
        made.to_netcdf(path, format="NETCDF3_CLASSIC")
        assert list(xr.open_groups(path, engine="activestore")) == ["/"]
        xr.testing.assert_identical(xr.open_datatree(path, engine="activestore").to_dataset(), made)


class TestTypes:
    def test_every_number_in_both_byte_orders(self, path):
        kinds = ["i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8"]
        with h5py.File(path, "w") as file:
            for kind in kinds:
                for order in "<>":
                    file[f"{kind} {'little' if order == '<' else 'big'}"] = np.arange(6).astype(order + kind)
        assert len(same(path).variables) == 22

    def test_text(self, path):
        with h5py.File(path, "w") as file:
            file["utf-8"] = np.array(["ä", "bb", ""], h5py.string_dtype())
            file["ascii"] = np.array([b"a", b"bb", b""], h5py.string_dtype("ascii"))
            file["fixed utf-8"] = np.array(["ä".encode(), b"bb", b""]).astype(h5py.string_dtype("utf-8", 4))
            file["fixed ascii"] = np.array([b"a", b"bb", b""], "S4")
            file["letters"] = np.array([[b"a", b"b"], [b"c", b""], [b"", b""]], "S1")
            file["one"] = "alone"
            file.create_dataset("empty", (0,), h5py.string_dtype())
            file.create_dataset("unwritten", (2,), h5py.string_dtype())
        same(path)
        same(path, decode_cf=False)

    def test_letters_with_an_encoding(self, path):
        words = np.array(["grün", "é", ""], "U4")
        with netCDF4.Dataset(path, "w") as file:
            file.createDimension("x", 3)
            file.createDimension("letters", 8)
            file.createVariable("word", "S1", ("x", "letters"))._Encoding = "utf-8"
            file["word"][:] = words
        assert same(path).word.values.tolist() == ["grün", "é", ""]

    def test_enumerations_and_truth_values(self, path):
        with netCDF4.Dataset(path, "w") as file:
            file.createDimension("x", 4)
            kind = file.createEnumType("u1", "kind of cloud", {"clear": 0, "cumulus": 3, "missing": 255})
            file.createVariable("cloud", kind, ("x",), fill_value=255)[:3] = [0, 3, 3]
            file.createVariable("plain", kind, ("x",))[:] = [0, 3, 3, 0]
        ours = same(path)
        assert ours.plain.encoding["dtype"].metadata["enum"] == {"clear": 0, "cumulus": 3, "missing": 255}
        with h5py.File(path, "w") as file:
            file["truth"] = np.array([True, False, True])
            file["one"] = np.True_
        assert same(path).truth.dtype == bool

    def test_complex_numbers_and_records(self, path):
        with h5py.File(path, "w") as file:
            file["c8"] = np.array([1 + 2j, 3 - 4j], "c8")
            file["c16"] = np.array([[1 + 2j], [3 - 4j]], "c16")
            file["record"] = np.array([(1, 2.5), (3, 4.5)], [("a", "i4"), ("b", "f8")])
        assert same(path).c16.dtype == "c16"

    def test_lists_of_different_lengths(self, path):
        with netCDF4.Dataset(path, "w") as file:
            file.createDimension("x", 2)
            kind = file.createVLType("i4", "list")
            variable = file.createVariable("lists", kind, ("x",))
            variable[0], variable[1] = np.array([1, 2, 3], "i4"), np.array([4], "i4")
            file.createVariable("n", "i4", ("x",))[:] = [1, 2]
        with pytest.raises(ValueError, match="while decoding variable 'lists'"):
            xr.open_dataset(path, engine="h5netcdf")
        ds = xr.open_dataset(path, engine="activestore")
        assert [one.tolist() for one in ds.lists.values] == [[1, 2, 3], [4]]
        assert same(path, drop_variables="lists").n.values.tolist() == [1, 2]

    def test_times(self, path):
        made = xr.Dataset(
            {
                "n": ("t", np.array(["2001-01-01", "NaT", "2001-01-03T06:00:00.000000001"], "M8[ns]")),
                "span": ("t", np.array([1, 2, 3], "m8[D]").astype("m8[ns]")),
                "calendar": ("t", [30, 59, 60], {"units": "days since 2000-01-01", "calendar": "360_day"}),
                "no unit": ("t", [1, 2, 3], {"units": "months"}),
            }
        )
        made.to_netcdf(path, engine="h5netcdf")
        same(path, decode_timedelta=True)
        same(path, decode_timedelta=False, decode_times=False)

    def test_attributes_of_odd_types(self, path):
        with h5py.File(path, "w") as file:
            file["x"] = np.arange(3.0)
            for name, value in ODD_ATTRIBUTES.items():
                file["x"].attrs[name] = value
                file.attrs[name] = value
        same(path)

    def test_attributes_of_a_classic_file(self, path):
        with netCDF4.Dataset(path, "w", format="NETCDF3_64BIT_DATA") as file:
            file.createDimension("x", 2)
            variable = file.createVariable("x", "f4", ("x",))
            variable[:] = [1, 2]
            for on in (file, variable):
                for kind in ("i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f4", "f8"):
                    on.setncattr(f"one {kind}", np.array(7, kind))
                    on.setncattr(f"two {kind}", np.array([7, 8], kind))
                on.setncattr("text", "grün")
                on.setncattr("no text", "")
        same(path, engine="netcdf4")


ODD_ATTRIBUTES = {
    "empty": h5py.Empty("f4"),
    "no text": "",
    "bytes": np.bytes_(b"abc"),
    "texts": np.array(["a", "bb"], h5py.string_dtype()),
    "fixed": np.array([b"a", b"bb"]),
    "truth": np.True_,
    "number": np.float32(1.5),
    "one of one": np.array([3], "i8"),
    "table": np.arange(6).reshape(2, 3),
    "complex": np.complex64(1 + 2j),
    "big": np.array([1, 2], ">i4"),
}


class TestContents:
    def test_nothing(self, path):
        with h5py.File(path, "w"):
            pass
        assert not same(path).variables
        with netCDF4.Dataset(path, "w", format="NETCDF3_CLASSIC"):
            pass
        assert not same(path, engine="netcdf4").variables

    def test_numbers_that_were_never_written(self, path):
        with netCDF4.Dataset(path, "w") as file:
            file.createDimension("x", 5)
            file.createVariable("plain", "f4", ("x",))
            file.createVariable("chunked", "i2", ("x",), chunksizes=(2,), fill_value=7)
            file.createVariable("scalar", "f8", ())
        assert np.isnan(same(path).chunked).all()

    def test_hundreds_of_variables(self, path):
        with h5py.File(path, "w", libver="latest") as file:
            for i in range(200):
                file[f"v{i:04}"] = np.full(3, i)
        ours = same(path)
        assert len(ours.variables) == 200

    @pytest.mark.parametrize(
        "filters",
        [
            {"compression": "szip"},
            {"compression": "zstd"},
            {"compression": "blosc_lz"},
            {"compression": "blosc_lz4"},
            {"compression": "blosc_zlib"},
            {"compression": "blosc_zstd"},
            {"compression": "bzip2"},
            {"compression": "zlib", "fletcher32": True},
            {"compression": "zlib", "least_significant_digit": 2},
        ],
    )
    def test_filters(self, path, filters):
        numbers = np.linspace(0, 1, 6000, dtype="f4").reshape(60, 100)
        with netCDF4.Dataset(path, "w") as file:
            file.createDimension("y", 60)
            file.createDimension("x", 100)
            file.createVariable("a", "f4", ("y", "x"), chunksizes=(25, 30), **filters)[:] = numbers
        same(path)


TEXTS = ["", "Zürich", "東京", "a" * 300, "x\ny", "station 5"]
KEYS = {
    "all": {},
    "one": {"i": 1, "j": -1},
    "a part": {"i": slice(1, 3), "j": slice(None, None, 2)},
    "backwards": {"i": slice(None, None, -1), "j": slice(2, 0, -1)},
    "a list": {"i": [2, 0, 2], "j": 1},
    "lists": {"i": [1, 0], "j": [2, 2, 0]},
    "nothing": {"i": slice(2, 2)},
    "a mask": {"i": np.array([True, False, True])},
}


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("writer", ["netCDF4", "h5netcdf", "shorter than its dimension", "in a group"])
def test_selections_of_text(path, writer, key):
    """A writer may leave a variable shorter than its unlimited dimension, which h5netcdf's engine fails at."""
    engine, group = "netcdf4" if writer.startswith("shorter") else "h5netcdf", "stations" if writer == "in a group" else None
    values = np.array([TEXTS[at % 6] for at in range(9)], object).reshape(3, 3)
    if writer == "h5netcdf":
        xr.Dataset({"name": (("i", "j"), values), "one": ((), "a word")}).to_netcdf(path, engine="h5netcdf")
    else:
        with netCDF4.Dataset(path, "w") as root:
            file = root.createGroup(group) if group else root
            file.createDimension("i", None)
            file.createDimension("j", 3)
            written = 2 if writer.startswith("shorter") else 3
            file.createVariable("name", str, ("i", "j"))[:written] = values[:written]
            file.createVariable("v", "f4", ("i",))[:] = np.arange(3)
            file.createVariable("one", str)[...] = np.array("a word", object)
    with (
        xr.open_dataset(path, engine=engine, group=group) as theirs,
        xr.open_dataset(path, engine="activestore", group=group, cache=False) as ours,
    ):
        assert ours.name.dtype == theirs.name.dtype
        xr.testing.assert_identical(ours.isel(KEYS[key]).compute(), theirs.isel(KEYS[key]).compute())


def test_text_that_is_not_unicode_is_an_error_of_ours(path):
    with h5py.File(path, "w") as file:
        text = file.create_dataset("name", (2,), h5py.string_dtype("ascii"))
        text[:] = [b"good", b"\xff\xfe"]
    with xr.open_dataset(path, engine="activestore") as ours:
        assert ours.name.shape == (2,)
        with pytest.raises((SourceError, UnicodeDecodeError)):
            ours.name.load()


def test_text_behind_a_link_into_another_file(path, tmp_path):
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file.create_dataset("name", data=np.array(TEXTS, object), dtype=h5py.string_dtype())
    with h5py.File(path, "w") as file:
        file["name"] = h5py.ExternalLink("other.h5", "name")
        file["v"] = np.arange(6.0)
    with xr.open_dataset(path, engine="activestore") as ours:
        assert ours.name[::-1].values.tolist() == TEXTS[::-1]
