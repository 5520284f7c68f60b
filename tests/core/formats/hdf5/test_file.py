"""What is read of HDF5 files: links, layouts, types and attributes, against h5py, netCDF4-python and the bytes themselves."""

import contextlib
import tempfile
import zlib
from pathlib import Path

import h5py
import netCDF4
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from activestore import Active
from activestore.core.formats.read import variable_names
from activestore.errors import ActivestoreError, NotNumericError, UnsupportedError, VariableNotFoundError
from activestore.sources.open import open_source


@pytest.fixture
def path(tmp_path):
    return tmp_path / "a.h5"


def test_links_are_variables_too(path):
    with h5py.File(path, "w") as file:
        file["b/x"] = np.arange(3.0)
        file["a"] = file["b/x"]
        file["c"] = h5py.SoftLink("/b")
        file["nowhere"] = h5py.SoftLink("/no/such")
        file["b/up"] = file["/"]
    assert variable_names(open_source(path)) == ["a", "b/x", "c/x"]
    for name in ("a", "b/x", "c/x", "b/up/b/x", "/b/x"):
        assert Active(path, name).sum() == 3
    with pytest.raises(VariableNotFoundError, match="'nowhere' is a link to /no/such, which is not there"):
        Active(path, "nowhere")


def test_a_link_into_another_file_is_refused(tmp_path, path):
    with h5py.File(tmp_path / "other.h5", "w") as other:
        other["x"] = np.arange(3.0)
    with h5py.File(path, "w") as file:
        file["x"] = h5py.ExternalLink("other.h5", "/x")
        file["gone"] = h5py.ExternalLink("missing.h5", "/x")
        file["y"] = np.arange(3.0)
    with pytest.raises(UnsupportedError, match=r"'x' is a link into .*other\.h5; open that file instead"):
        Active(path, "x")
    with pytest.raises(VariableNotFoundError, match=r"'gone' is a link to /x of missing\.h5, which is not there"):
        Active(path, "gone")
    assert variable_names(open_source(path)) == ["y"]


X = np.arange(7 * 11 * 3, dtype="f4").reshape(7, 11, 3)


def from_bytes(path, name="x"):
    """Return the numbers of a variable, read with plain `open` where its chunk table says, and the fill value elsewhere."""
    variable = Active(path, name).variable
    content = path.read_bytes()
    fill = np.frombuffer(variable.fill, variable.dtype)[0]
    found = np.full(variable.extent, fill, variable.dtype)
    table = variable.table
    for index, offset, size in zip(table.index, table.offset, table.size, strict=True):
        cell = np.unravel_index(index, table.grid) if table.grid else ()
        where = tuple(slice(at * n, (at + 1) * n) for at, n in zip(cell, variable.chunk_shape, strict=True))
        stored = content[offset : offset + size]
        if variable.codecs:
            stored = zlib.decompress(stored)
        inside = found[where].shape
        shape = inside if variable.clipped else variable.chunk_shape
        found[where] = np.frombuffer(stored, variable.dtype).reshape(shape)[tuple(map(slice, inside))]
    return found


@pytest.mark.parametrize("userblock", [0, 512, 1024, 4096])
@pytest.mark.parametrize(
    "libver", ["earliest", "v108", "v110", "v112", "v114", "latest", ("earliest", "v108"), ("v108", "v110")]
)
def test_contiguous_and_chunked_numbers_are_where_the_table_says(path, libver, userblock):
    layouts = {
        "contiguous": {},
        "fixed": {"chunks": (2, 3, 3)},
        "growing": {"chunks": (2, 3, 3), "maxshape": (None, 11, 3)},
        "growing twice": {"chunks": (2, 3, 3), "maxshape": (None, None, 3)},
        "one chunk": {"chunks": (7, 11, 3)},
        "one growing chunk": {"chunks": (9, 12, 3), "maxshape": (9, 12, 3)},
        "compressed": {"chunks": (2, 3, 3), "compression": "gzip"},
        "compressed, growing": {"chunks": (2, 3, 3), "compression": "gzip", "maxshape": (None, 11, 3)},
        "one compressed chunk": {"chunks": (7, 11, 3), "compression": "gzip"},
    }
    with h5py.File(path, "w", libver=libver, userblock_size=userblock) as file:
        for name, options in layouts.items():
            file.create_dataset(name, data=X, **options)
    for name, options in layouts.items():
        assert Active(path, name).variable.layout == ("chunked" if options else "contiguous")
        assert np.array_equal(from_bytes(path, name), X), name
        assert np.array_equal(Active(path, name).read(), X), name


def test_pieces_of_a_large_contiguous_variable(path):
    numbers = np.arange(3 * 700_001, dtype=">f8").reshape(3, -1)
    with h5py.File(path, "w", userblock_size=512) as file:
        file["x"] = numbers
    variable = Active(path, "x").variable
    assert len(variable.table) == 3
    assert np.array_equal(from_bytes(path), numbers)


def write_low(file, name, stored, numbers, *, layout=h5py.h5d.CONTIGUOUS, chunks=None, nbit=False, memory=None):
    """Write numbers in any of HDF5's types, which h5py's own interface does not offer."""
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plist.set_layout(layout)
    if chunks is not None:
        plist.set_chunk(chunks)
    if nbit:
        plist.set_filter(h5py.h5z.FILTER_NBIT)
    numbers = np.asarray(numbers)
    space = h5py.h5s.create_simple(numbers.shape) if numbers.ndim else h5py.h5s.create(h5py.h5s.SCALAR)
    dataset = h5py.h5d.create(file.id, name.encode(), stored, space, dcpl=plist)
    dataset.write(h5py.h5s.ALL, h5py.h5s.ALL, numbers, mtype=memory)


@pytest.mark.parametrize("dtype", ["f4", ">f8", "i2", ">u4", "i1"])
@pytest.mark.parametrize("shape", [(), (4,), (2, 3)])
def test_compact(path, dtype, shape):
    numbers = np.arange(np.prod(shape, dtype=int), dtype=dtype).reshape(shape)
    with h5py.File(path, "w") as file:
        write_low(file, "x", h5py.h5t.py_create(np.dtype(dtype)), numbers, layout=h5py.h5d.COMPACT)
    ours = Active(path, "x")
    assert ours.variable.layout == "compact"
    assert ours.variable.table.inline == numbers.tobytes()
    assert np.array_equal(ours.read(), numbers)
    assert ours.max() == numbers.max()


def test_external_storage_and_virtual_datasets_have_no_offsets(tmp_path, path):
    numbers = np.arange(3_000_000, dtype="f8").reshape(3, -1)
    with h5py.File(tmp_path / "source.h5", "w") as source:
        source["y"] = numbers
    layout = h5py.VirtualLayout(numbers.shape, "f8")
    layout[...] = h5py.VirtualSource("source.h5", "y", numbers.shape)[...]
    with h5py.File(path, "w") as file:
        file.create_virtual_dataset("virtual", layout)
        places = [(str(tmp_path / "1.bin"), 0, 9_000_000), (str(tmp_path / "2.bin"), 10, h5py.h5f.UNLIMITED)]
        file.create_dataset("external", data=numbers, external=places)
    for name in ("virtual", "external"):
        ours = Active(path, name)
        assert ours.variable.layout == name
        assert len(ours.variable.table) == 3
        assert set(ours.variable.table.offset.tolist()) == {-1}
        assert ours.sum() == numbers.sum()
        assert np.array_equal(ours[1:, ::-70_000].read(), numbers[1:, ::-70_000])


@pytest.mark.parametrize("options", [{}, {"fillvalue": 7.5}, {"chunks": (2, 3, 3)}, {"chunks": (2, 3, 3), "fillvalue": 7.5}])
def test_what_was_never_written_is_the_fill_value(path, options):
    with h5py.File(path, "w") as file:
        file.create_dataset("x", X.shape, "f4", **options)
    ours = Active(path, "x")
    assert len(ours.variable.table) == 0
    assert ours.min() == ours.max() == options.get("fillvalue", 0)
    assert ours.run("sum").report.where == {"fill value": len(ours.plan("sum"))}


@pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0), (2, 0, 4)])
@pytest.mark.parametrize("options", [{}, {"chunks": 2, "maxshape": None}])
def test_dimensions_of_no_length(path, shape, options):
    with h5py.File(path, "w") as file:
        file.create_dataset("x", shape, "f4", **{name: (value,) * len(shape) for name, value in options.items()})
    ours = Active(path, "x")
    assert (ours.shape, ours.count(), ours.read().shape) == (shape, 0, shape)


@pytest.mark.parametrize("libver", ["earliest", "latest"])
def test_a_variable_that_shrank_and_grew_again(path, libver):
    with h5py.File(path, "w", libver=libver) as file:
        x = file.create_dataset("x", data=np.arange(77.0).reshape(7, 11), chunks=(2, 3), maxshape=(None, None), fillvalue=-5)
        x.resize((3, 5))
        x.resize((9, 8))
        wanted = x[...]
        y = file.create_dataset("y", data=wanted, chunks=(2, 3), maxshape=(None, None))
        y.resize((0, 8))
        y.resize((2, 8))
    assert np.array_equal(from_bytes(path), wanted)
    assert np.array_equal(Active(path, "x").read(), wanted)
    assert Active(path, "y").max() == 0


def enumeration(base, **members):
    stored = h5py.h5t.enum_create(base)
    for name, number in members.items():
        stored.enum_insert(name.encode(), number)
    return stored


BASES = {"i1": "STD_I8LE", "u1": "STD_U8LE", "<i2": "STD_I16LE", ">i2": "STD_I16BE", "<i4": "STD_I32LE", ">u8": "STD_U64BE"}


@pytest.mark.parametrize("dtype", BASES)
@pytest.mark.parametrize("members", [{"FALSE": 0, "TRUE": 1}, {"clear": 0, "cloudy": 1}], ids=["bool", "enum"])
@pytest.mark.parametrize("layout", [h5py.h5d.CONTIGUOUS, h5py.h5d.COMPACT, h5py.h5d.CHUNKED])
def test_an_enumeration_is_its_integers(path, dtype, members, layout):
    numbers = np.array([1, 0, 1, 1], dtype)
    stored = enumeration(getattr(h5py.h5t, BASES[dtype]), **members)
    with h5py.File(path, "w") as file:
        chunks = (3,) if layout == h5py.h5d.CHUNKED else None
        write_low(file, "x", stored, numbers, layout=layout, chunks=chunks, memory=stored)
    ours = Active(path, "x")
    assert ours.variable.dtype == np.dtype(dtype)
    assert np.array_equal(ours.read(), numbers)
    assert ours.sum() == 3
    with netCDF4.Dataset(path) as dataset:
        assert np.array_equal(ours.read(), dataset["x"][...])


def test_truth_values(path):
    with h5py.File(path, "w") as file:
        file["x"] = [True, False, True]
        file.create_dataset("filled", (4,), bool, chunks=(2,), fillvalue=True)
    assert (Active(path, "x").dtype, Active(path, "x").sum()) == (np.dtype("i1"), 2)
    assert Active(path, "filled").sum() == 4


def narrow(template, *, precision, offset=0):
    stored = template.copy()
    stored.set_precision(precision)
    stored.set_offset(offset)
    return stored


def floating(*, size, exponent, mantissa, bias):
    """Return a type for floating-point numbers with the sign first, then exponent and mantissa of so many bits."""
    stored = h5py.h5t.IEEE_F32LE.copy()
    stored.set_fields(exponent + mantissa, mantissa, exponent, 0, mantissa)
    stored.set_size(size)
    stored.set_ebias(bias)
    return stored


ODD_TYPES = {
    "12 bits in 2 bytes": (narrow(h5py.h5t.STD_I16LE, precision=12, offset=3), [-5, 7, 2047, -2048]),
    "20 bits in 4 bytes": (narrow(h5py.h5t.STD_I32BE, precision=20), [-5, 7, 2**19 - 1, -(2**19)]),
    "3 bits in a byte": (narrow(h5py.h5t.STD_U8LE, precision=3), [5, 7, 0, 1]),
    "bfloat16": (floating(size=2, exponent=8, mantissa=7, bias=127), [1.5, -2.0, 0.0, 96.0]),
    "24 bits": (floating(size=3, exponent=8, mantissa=15, bias=127), [1.5, -2.0, 0.0, 96.0]),
    "another bias": (floating(size=4, exponent=8, mantissa=23, bias=100), [1.5, -2.0, 0.0, 96.0]),
}


@pytest.mark.parametrize("layout", ["contiguous", "compact", "chunked", "nbit"])
@pytest.mark.parametrize("kind", ODD_TYPES)
def test_number_formats_that_numpy_lacks_are_read_through_the_library(path, kind, layout):
    stored, numbers = ODD_TYPES[kind]
    if layout == "nbit" and "bits in" not in kind:
        pytest.skip("the filter is for integers here")
    kinds = {"contiguous": h5py.h5d.CONTIGUOUS, "compact": h5py.h5d.COMPACT}
    numbers = np.array(numbers, "f8" if isinstance(numbers[0], float) else "i8")
    with h5py.File(path, "w") as file:
        where = kinds.get(layout, h5py.h5d.CHUNKED)
        chunks = (3,) if where == h5py.h5d.CHUNKED else None
        write_low(file, "x", stored, numbers, layout=where, chunks=chunks, nbit=layout == "nbit")
    ours = Active(path, "x")
    assert np.array_equal(ours.read(), numbers)
    assert ours[1:3].sum() == numbers[1:3].sum()
    assert set(ours.run("sum").report.where) == {"posix through HDF5"}


@pytest.mark.parametrize("bits", [8, 16, 32, 64])
@pytest.mark.parametrize("order", ["LE", "BE"])
def test_bit_fields_are_unsigned_integers(path, bits, order):
    stored = getattr(h5py.h5t, f"STD_B{bits}{order}")
    numbers = np.array([5, 7, 2**bits - 2], f"{'<' if order == 'LE' else '>'}u{bits // 8}")
    with h5py.File(path, "w") as file:
        write_low(file, "x", stored, numbers, memory=stored)
    assert np.array_equal(Active(path, "x").read(), numbers)
    assert Active(path, "x").run("max").report.where == {"posix": 1}


@pytest.mark.parametrize("dtype", ["<f2", ">f2"])
def test_half_precision(path, dtype):
    """NetCDF has no such type; the numbers are NumPy's, the sums are kept in 64 bits."""
    numbers = np.array([1.5, np.nan, 60000, 60000, -0.0], dtype)
    with h5py.File(path, "w") as file:
        file["x"] = numbers
        file["filled"] = numbers
        file["filled"].attrs["_FillValue"] = np.float16(1.5)
    ours = Active(path, "x")
    assert (ours.dtype, ours.max().dtype) == (np.dtype("f2"), np.dtype("f2"))
    assert (ours.sum(), ours.max(), ours.count()) == (120001.5, 60000, 4)
    assert Active(path, "filled").count() == 3


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (["a", "b"], "holds text"),
        (np.array([b"a", b"b"]), "holds text"),
        (np.zeros(3, [("a", "i4")]), "holds values of the type"),
        (np.zeros(3, "c8"), "holds values of the type complex64"),
        (np.zeros(3, "V4"), "holds values of the type"),
        (np.zeros(3, h5py.opaque_dtype("M8[s]")), "holds values of the type datetime64"),
        (np.zeros(3, "g"), "holds values of the type"),
        (h5py.Empty("f4"), "holds nothing at all"),
    ],
)
def test_what_is_no_number_is_said_to_be_none(path, value, message):
    with h5py.File(path, "w") as file:
        file.create_dataset("x", data=value)
    with pytest.raises(NotNumericError, match=message):
        Active(path, "x")


@pytest.mark.parametrize("dtype", [h5py.vlen_dtype("i4"), h5py.ref_dtype])
def test_lists_and_references_are_no_numbers(path, dtype):
    with h5py.File(path, "w") as file:
        file.create_dataset("x", (3,), dtype)
    with pytest.raises(NotNumericError, match="holds lists or references"):
        Active(path, "x")


def test_integers_of_three_bytes_are_no_numbers_of_numpy(path):
    stored = h5py.h5t.STD_I32LE.copy()
    stored.set_size(3)
    with h5py.File(path, "w") as file:
        write_low(file, "x", stored, np.array([-5, 7], "i4"))
    with pytest.raises(NotNumericError, match="a type that NumPy does not have"):
        Active(path, "x")


def test_chunks_above_the_limit_are_refused(path):
    with h5py.File(path, "w", libver="latest") as file:
        try:
            file.create_dataset("x", (2**31, 4), "u1", chunks=(2**31, 3))
        except ValueError:
            pytest.skip("this HDF5 library cannot make such chunks")
    with pytest.raises(UnsupportedError, match="more than 4 GiB each"):
        Active(path, "x")


@pytest.fixture(scope="module")
def damageable(tmp_path_factory):
    """The bytes of a small file that has no checksums: old format, user block, contiguous, chunked and compressed."""
    path = tmp_path_factory.mktemp("damage") / "good.h5"
    with h5py.File(path, "w", libver="earliest", userblock_size=512) as file:
        x = file.create_dataset(
            "x", data=np.arange(60.0).reshape(6, 10), chunks=(2, 5), compression="gzip", maxshape=(None, 10)
        )
        # Text of variable length and dimension scales lie in a heap in which the HDF5 library itself can go round in circles.
        x.attrs["units"] = np.bytes_(b"K")
        x.attrs["_FillValue"] = 3.0
        file["group/y"] = np.arange(6, dtype="i2")
        file.create_dataset("z", data=np.arange(60.0), chunks=(20,), compression="lzf")
    return path.read_bytes()


extremes = st.sampled_from([b"\xff" * 8, bytes(8), b"\x7f" + bytes(7)])
patches = st.tuples(st.integers(0, 2**20), st.one_of(st.binary(min_size=1, max_size=4), extremes))


@settings(derandomize=True)  # what a random byte makes of the HDF5 library itself is not for a test run to find out
@given(damage=st.lists(patches, min_size=1, max_size=6))
def test_damage_is_an_error_of_ours_or_a_number(damageable, damage):
    content = bytearray(damageable)
    for position, patch in damage:
        at = position % len(content)
        content[at : at + len(patch)] = patch[: len(content) - at]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "bad.h5")
        path.write_bytes(content)
        for name in ("x", "group/y", "z"):
            with contextlib.suppress(ActivestoreError):
                ours = Active(path, name)[..., :10]
                if ours.size < 10_000:
                    ours.run(("sum", "max"))
                    ours.read()
        with contextlib.suppress(ActivestoreError):
            variable_names(open_source(path))


def test_a_file_that_is_cut_off_is_an_error_at_every_length(tmp_path, damageable):
    for length in range(0, len(damageable), 37):
        path = tmp_path / f"{length}.h5"
        path.write_bytes(damageable[:length])
        with pytest.raises(ActivestoreError, match=path.name):
            Active(path, "x").read()


def test_truth_values_of_several_bytes_through_the_library(path):
    stored = enumeration(h5py.h5t.STD_I32LE, FALSE=0, TRUE=1)
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plist.set_chunk((4,))
    plist.set_filter(h5py.h5z.FILTER_LZF, h5py.h5z.FLAG_OPTIONAL, (0,))
    with h5py.File(path, "w") as file:
        dataset = h5py.h5d.create(file.id, b"x", stored, h5py.h5s.create_simple((8,)), dcpl=plist)
        dataset.write(h5py.h5s.ALL, h5py.h5s.ALL, np.ones(8, "i4"), mtype=stored)
    assert Active(path, "x").sum() == 8


def test_of_several_scales_the_last_counts_as_for_netcdf(tmp_path):
    path = tmp_path / "scales.nc"
    with h5py.File(path, "w") as file:
        file["a"] = np.zeros(3)
        for name in ("first", "last"):
            file[name] = np.arange(3)
            file[name].make_scale()
            file["a"].dims[0].attach_scale(file[name])
    with netCDF4.Dataset(path) as file:
        assert file["a"].dimensions == Active(path, "a").dims == ("last",)
