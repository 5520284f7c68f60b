"""Classic files: CDF-1, CDF-2 and CDF-5, to the byte; cut off and damaged ones."""

import contextlib
import struct
import tempfile
import tracemalloc
from pathlib import Path

import netCDF4
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from activestore import Active
from activestore.core.formats.classic import is_classic
from activestore.core.formats.read import variable_names
from activestore.errors import ActivestoreError, NotNumericError, SourceError
from activestore.sources.open import open_source

FORMATS = {"NETCDF3_CLASSIC": b"CDF\x01", "NETCDF3_64BIT_OFFSET": b"CDF\x02", "NETCDF3_64BIT_DATA": b"CDF\x05"}
OLD_TYPES = ("i1", "i2", "i4", "f4", "f8")
TYPES = (*OLD_TYPES, "u1", "u2", "u4", "i8", "u8")

formats = pytest.mark.parametrize("model", FORMATS)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "a.nc"


def types_of(model):
    return TYPES if model == "NETCDF3_64BIT_DATA" else OLD_TYPES


def assert_as_netcdf4(path):
    """Assert that shapes and values are netCDF4-python's, and that the pieces hold exactly their bytes."""
    content = path.read_bytes()
    with netCDF4.Dataset(path) as dataset:
        for name, theirs in dataset.variables.items():
            if theirs.dtype.kind == "S":
                continue
            ours = Active(path, name)
            values = np.ma.MaskedArray(theirs[...])
            assert (ours.shape, ours.dims, ours.dtype) == (theirs.shape, theirs.dimensions, values.dtype)
            read = ours.read()
            assert np.array_equal(np.ma.getmaskarray(read), np.ma.getmaskarray(values)), name
            assert np.array_equal(read.compressed(), values.compressed()), name
            theirs.set_auto_mask(False)
            table = ours.variable.table
            stored = b"".join(content[at : at + n] for at, n in zip(table.offset, table.size, strict=True))
            assert stored == theirs[...].astype(ours.variable.dtype).tobytes(), name


def test_signatures():
    assert [is_classic(b"CDF" + bytes([version])) for version in range(7)] == [False, True, True, False, False, True, False]
    assert not is_classic(b"CDF")
    assert not is_classic(b"")


@formats
@pytest.mark.parametrize("filled", [True, False])
def test_every_type(path, model, filled):
    with netCDF4.Dataset(path, "w", format=model) as dataset:
        dataset.set_fill_on() if filled else dataset.set_fill_off()
        dataset.createDimension("time")
        dataset.createDimension("x", 3)
        for dtype in types_of(model):
            limits = np.iinfo(dtype) if dtype[0] != "f" else np.finfo(dtype)
            numbers = np.array([limits.min, 1, limits.max], dtype)
            dataset.createVariable(f"scalar_{dtype}", dtype)[...] = 7
            dataset.createVariable(f"fixed_{dtype}", dtype, ("x",))[:] = numbers
            dataset.createVariable(f"record_{dtype}", dtype, ("time", "x"))[:5] = np.tile(numbers, (5, 1))
        dataset.createVariable("text", "S1", ("x",))
    assert path.read_bytes()[:4] == FORMATS[model]
    assert_as_netcdf4(path)
    with pytest.raises(NotNumericError, match="'text' holds text"):
        Active(path, "text")


@formats
@pytest.mark.parametrize("dtypes", [("i1",), ("i2",), ("i1", "i2"), ("i1", "f8"), ("i2", "i2", "i1"), ("f4",), ("i4", "i1")])
@pytest.mark.parametrize("records", [0, 1, 4])
def test_records_are_padded_unless_they_are_of_one_variable(path, model, dtypes, records):
    with netCDF4.Dataset(path, "w", format=model) as dataset:
        dataset.createDimension("time")
        dataset.createDimension("x", 3)
        dataset.createVariable("fixed", "f4", ("x",))[:] = 1
        for i, dtype in enumerate(dtypes):
            variable = dataset.createVariable(f"v{i}", dtype, ("time", "x"))
            if records:
                variable[:records] = np.arange(3 * records).reshape(-1, 3) + 10 * i
    assert_as_netcdf4(path)
    sizes = [3 * np.dtype(dtype).itemsize for dtype in dtypes]
    stride = sizes[0] if len(sizes) == 1 else sum(-(-size // 4) * 4 for size in sizes)
    for i in range(len(dtypes)):
        places = [Active(path, f"v{i}")[row].plan("sum").tasks() for row in range(records)]
        offsets = [next(tasks).offset for tasks in places]
        assert np.diff(offsets).tolist() == [stride] * max(0, records - 1)


@formats
def test_a_lone_record_variable_is_contiguous(path, model):
    with netCDF4.Dataset(path, "w", format=model) as dataset:
        dataset.createDimension("time")
        dataset.createDimension("x", 3)
        dataset.createVariable("v", "i1", ("time", "x"))[:1000] = np.arange(3000).reshape(-1, 3) % 100
    assert len(Active(path, "v").plan("sum")) == 1
    assert_as_netcdf4(path)


@formats
def test_records_of_several_dimensions(path, model):
    with netCDF4.Dataset(path, "w", format=model) as dataset:
        for name, length in {"time": None, "y": 3, "x": 5}.items():
            dataset.createDimension(name, length)
        for dtype in types_of(model):
            shape = (4, 3, 5)
            dataset.createVariable(dtype, dtype, ("time", "y", "x"))[:] = np.arange(60).reshape(shape)
        dataset.createVariable("time", "f8", ("time",))[:] = np.arange(4)
    assert_as_netcdf4(path)
    assert Active(path, "i2").mean(axis=("time", "x")).tolist() == [24.5, 29.5, 34.5]
    assert Active(path, "i2")[::-2, 1, [4, 0]].read().tolist() == [[54, 50], [24, 20]]


def patched(path, at, data):
    content = bytearray(path.read_bytes())
    content[at : at + len(data)] = data
    path.write_bytes(content)


@formats
@pytest.mark.parametrize("missing", [0, 1, 100])
def test_a_streamed_file_has_as_many_records_as_are_complete(path, model, missing):
    """The header of a streamed file has all ones where the number of records belongs."""
    with netCDF4.Dataset(path, "w", format=model) as dataset:
        dataset.createDimension("time")
        dataset.createDimension("x", 20)
        dataset.createVariable("a", "i1", ("time", "x"))[:5] = np.arange(100).reshape(5, 20)
        dataset.createVariable("b", "i2", ("time",))[:] = np.arange(5)
    whole = path.read_bytes()
    last = Active(path, "b")[4].plan("sum").tasks()
    end = next(last).offset + 2
    path.write_bytes(whole[: end - missing])
    patched(path, 4, b"\xff" * (8 if model == "NETCDF3_64BIT_DATA" else 4))
    complete = {0: 5, 1: 4, 100: 0}[missing]
    assert Active(path, "a").shape == (complete, 20)
    assert Active(path, "b").read().tolist() == list(range(complete))
    assert np.array_equal(Active(path, "a").read(), np.arange(100).reshape(5, 20)[:complete])


def test_a_streamed_file_without_record_variables(path):
    with netCDF4.Dataset(path, "w", format="NETCDF3_CLASSIC") as dataset:
        dataset.createDimension("x", 3)
        dataset.createVariable("v", "i2", ("x",))[:] = [1, 2, 3]
    patched(path, 4, b"\xff" * 4)
    assert Active(path, "v").sum() == 6


@formats
def test_names_and_attributes(path, model):
    with netCDF4.Dataset(path, "w", format=model) as dataset:
        dataset.createDimension("größe", 2)
        dataset.createDimension("a b", 3)
        variable = dataset.createVariable("température (°C)", "f4", ("größe", "a b"))
        variable[:] = 1
        variable.units = "°C"
        variable.nothing = ""
    ours = Active(path, "température (°C)")
    assert ours.dims == ("größe", "a b")
    assert dict(ours.attrs) == {"units": "°C", "nothing": ""}
    assert ours.sum(axis="größe").tolist() == [2, 2, 2]
    assert variable_names(open_source(path)) == ["température (°C)"]


@formats
def test_the_unlimited_dimension_has_no_length_yet(path, model):
    with netCDF4.Dataset(path, "w", format=model) as dataset:
        dataset.createDimension("time")
        dataset.createDimension("x", 3)
        dataset.createVariable("v", "f4", ("time", "x"))
        dataset.createVariable("w", "i1", ("time",))
    for name, shape in {"v": (0, 3), "w": (0,)}.items():
        ours = Active(path, name)
        assert (ours.shape, ours.count(), ours.mean()) == (shape, 0, np.ma.masked)
    assert Active(path, "v").count(axis="time").tolist() == [0, 0, 0]


def header(*, version=1, records=0, dims=(), variables=()):
    """Return the bytes of a header: dims as (name, length), variables as (name, dimensions, type, offset)."""
    wide = version == 5
    number = ">Q" if wide else ">I"

    def packed(value):
        return struct.pack(number, value)

    def named(name):
        text = name.encode()
        return packed(len(text)) + text + bytes(-len(text) % 4)

    def listed(tag, items):
        return struct.pack(">I", tag if items else 0) + packed(len(items)) + b"".join(items)

    none = listed(0, [])
    entries = [
        named(name)
        + packed(len(used))
        + b"".join(packed(dim) for dim in used)
        + none
        + struct.pack(">I", kind)
        + packed(0)
        + struct.pack(">I" if version == 1 else ">Q", offset)
        for name, used, kind, offset in variables
    ]
    sizes = [named(name) + packed(length) for name, length in dims]
    return b"CDF" + bytes([version]) + packed(records) + listed(0x0A, sizes) + none + listed(0x0B, entries)


@pytest.mark.parametrize("version", [1, 2, 5])
def test_the_size_of_a_variable_is_not_taken_from_the_header(path, version):
    """It is redundant and, for variables above 4 GiB, wrong; here it is 0."""
    start = header(version=version, dims=[("x", 3)], variables=[("v", [0], 3, 200)])
    path.write_bytes(start.ljust(200, b"\0") + np.array([1, 2, 3], ">i2").tobytes())
    assert Active(path, "v").read().tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            header(dims=[("x", 2**32 - 1)], variables=[("v", [0, 0], 6, 100)]),
            "ends at byte 147573952520956936300, the file at 84",
        ),
        (header(version=5, dims=[("x", 2**40)], variables=[("v", [0, 0], 6, 100)]), "ends at byte .*cut off"),
        (
            header(version=5, dims=[("x", 2**63)], variables=[("v", [0], 6, 100)]),
            "a dimension of the length 922337203685",
        ),
        (header(version=5, dims=[("x", 4)], variables=[("v", [0], 6, 2**64 - 1)]), "ends at byte"),
        (header(records=2**31, dims=[("t", 0)], variables=[("v", [0], 1, 100)]), "ends at byte 2147483748"),
        (header(version=5, records=2**63, dims=[("t", 0)], variables=[("v", [0], 1, 2**63)]), "ends at byte"),
        (header(dims=[("x", 3)], variables=[("v", [1], 3, 100)]), "header is damaged: list index out of range"),
        (header(dims=[("x", 3)], variables=[("v", [0], 99, 100)]), "header is damaged: 99"),
        (
            header(records=6, dims=[("t", 0), ("x", 5)], variables=[("v", [0, 0], 6, 100)]),
            "unlimited dimension not as its first",
        ),
        (
            header(records=6, dims=[("t", 0), ("x", 5)], variables=[("v", [1, 0], 6, 100)]),
            "unlimited dimension not as its first",
        ),
        (header(dims=[("x", 3)], variables=[("v", [0], 3, 100)])[:-1], "header is cut off after 79 bytes"),
        (b"CDF\x01" + bytes(4) + struct.pack(">II", 0x0B, 1), "a list is marked 0xb where 0xa belongs"),
        (b"CDF\x01" + bytes(4) + struct.pack(">II", 0, 1), "a list is marked 0x0 where 0xa belongs"),
        (b"CDF\x01" + bytes(4) + struct.pack(">IIII", 0x0A, 2**32 - 1, 1, 1), "header is damaged|header is cut off"),
        (b"CDF\x05" + bytes(8) + struct.pack(">IQQ", 0x0A, 1, 2**63), "an item of 9223372036854775808 bytes"),
        (b"CDF\x01" + bytes(4) + struct.pack(">III4s", 0x0A, 1, 4, b"\xff\xfe\xfd\xfc") + bytes(100), "codec can't decode"),
    ],
)
def test_headers_that_promise_too_much_or_make_no_sense(path, content, message):
    path.write_bytes(content)
    tracemalloc.start()
    try:
        with pytest.raises(SourceError, match=message):
            Active(path, "v")
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("length", [2**40, 2**60, 2**62])
def test_a_huge_dimension_beside_an_empty_one(path, length):
    path.write_bytes(header(version=5, dims=[("t", 0), ("x", length)], variables=[("v", [0, 1], 6, 2**64 - 1)]))
    assert Active(path, "v").shape == (0, length)
    assert Active(path, "v").count() == 0


@pytest.fixture(scope="module", params=FORMATS)
def whole(request, tmp_path_factory):
    """The bytes of a small file with everything in it."""
    path = tmp_path_factory.mktemp("classic") / "good.nc"
    with netCDF4.Dataset(path, "w", format=request.param) as dataset:
        dataset.createDimension("time")
        dataset.createDimension("x", 3)
        dataset.title = "a title"
        fixed = dataset.createVariable("fixed", "f8", ("x",))
        fixed[:] = [1, 2, 3]
        fixed.valid_range = np.array([0.0, 9.0])
        record = dataset.createVariable("record", "i1", ("time", "x"))
        record[:] = np.arange(12).reshape(4, 3)
        record.units = "m"
        dataset.createVariable("other", "i4", ("time",))[:] = np.arange(4)
    return path.read_bytes()


NAMES = ("fixed", "record", "other")


def test_a_file_that_is_cut_off_is_an_error_at_every_length(whole, path):
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(SourceError, match=r"cut off|is neither netCDF nor HDF5"):
            [Active(path, name).read() for name in NAMES]
    path.write_bytes(whole)
    assert [Active(path, name).sum() for name in NAMES] == [6, 66, 6]


extremes = st.sampled_from([b"\xff" * 8, bytes(8), b"\x7f" * 4])
patches = st.tuples(st.integers(0, 2**20), st.one_of(st.binary(min_size=1, max_size=4), extremes))


@settings(max_examples=300)
@given(damage=st.lists(patches, min_size=1, max_size=6))
def test_damage_is_an_error_of_ours_or_a_number(whole, damage):
    content = bytearray(whole)
    for position, patch in damage:
        at = 4 + position % (len(content) - 4)
        content[at : at + len(patch)] = patch[: len(content) - at]
    tracemalloc.start()
    try:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "bad.nc")
            path.write_bytes(content)
            for name in NAMES:
                with contextlib.suppress(ActivestoreError):
                    ours = Active(path, name)
                    ours.read()
                    ours.run(("sum", "max", "std"))
            with contextlib.suppress(ActivestoreError):
                variable_names(open_source(path))
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()
