"""What creation properties and filter pipelines make of the bytes of a dataset, each beside what the HDF5 library reads.

Listed after the HDF5 File Format Specification: IV.A.2.f (fill value), IV.A.2.i (data layout), IV.A.2.l (filter pipeline),
III.A.1 and VIII (filter masks of chunks).
"""

import ctypes
import itertools
import warnings
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import fsspec
import h5py
import hdf5plugin
import numpy as np
import pytest
import xarray as xr
from h5py import h5d, h5p, h5s, h5t, h5z

from activestore import Active
from activestore.core.codecs.decode import Codec, decodable, decode
from activestore.errors import ActivestoreError, CorruptChunkError, FallbackWarning
from activestore.server.settings import ServerSettings
from tests.server.running import running

Step = Callable[[Any], None]
NUMBERS = np.random.default_rng(1).integers(-500, 500, (11, 13)).astype("i4")
CHUNK = (4, 5)
FILTERS: dict[str, Step] = {
    "shuffle": lambda plist: plist.set_shuffle(),
    "deflate": lambda plist: plist.set_deflate(3),
    "fletcher32": lambda plist: plist.set_fletcher32(),
    "lzf": lambda plist: plist.set_filter(h5z.FILTER_LZF, h5z.FLAG_OPTIONAL, ()),
    "nbit": lambda plist: plist.set_filter(h5z.FILTER_NBIT, 0, ()),
    "scaleoffset": lambda plist: plist.set_scaleoffset(h5z.SO_INT, 0),
    "zstd": lambda plist: plist.set_filter(hdf5plugin.Zstd.filter_id, 0, ()),
}
INDEXES: dict[str, tuple[Any, tuple[int | None, ...] | None]] = {
    "fixed array": ("latest", None),
    "fixed array under an old header": ("earliest", None),
    "fixed array with room": ("v110", (20, 20)),
    "extensible array": ("latest", (None, 13)),
    "extensible array along another dimension": ("v110", (11, None)),
    "B-tree of version 2": ("latest", (None, None)),
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a.h5"


def hdf5_library() -> ctypes.CDLL:
    """The library that h5py has loaded; some of its functions have no name in h5py."""
    maps = Path("/proc/self/maps")
    lines = maps.read_text().splitlines() if maps.exists() else []
    found = [
        line.split()[-1] for line in lines if "libhdf5" in line and "libhdf5_hl" not in line and "netcdf4" not in line.lower()
    ]
    if not found:
        pytest.skip("where h5py's HDF5 library is can be told on Linux only")
    return ctypes.CDLL(found[0])


def bare_edges(plist: Any) -> None:
    """Have chunks at the edge stored without filters (H5D_CHUNK_DONT_FILTER_PARTIAL_CHUNKS)."""
    set_options = hdf5_library().H5Pset_chunk_opts
    set_options.argtypes = (ctypes.c_int64, ctypes.c_uint)
    assert set_options(plist.id, 2) >= 0


def undefined_fill(plist: Any) -> None:
    """Say that there is no number for what is never written."""
    set_fill = hdf5_library().H5Pset_fill_value
    set_fill.argtypes = (ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p)
    assert set_fill(plist.id, h5t.NATIVE_INT32.id, None) >= 0


def write(
    path: Path,
    *steps: Step,
    numbers: np.ndarray | None = NUMBERS,
    shape: tuple[int, ...] = NUMBERS.shape,
    chunk: tuple[int, ...] | None = CHUNK,
    libver: Any = "latest",
    maxshape: tuple[int | None, ...] | None = None,
    stored: Any = h5t.STD_I32LE,
) -> None:
    """Write the dataset "x" with the given steps to its creation properties."""
    with h5py.File(path, "w", libver=libver) as file:
        plist = h5p.create(h5p.DATASET_CREATE)
        if chunk is not None:
            plist.set_chunk(chunk)
        for step in steps:
            step(plist)
        most = None if maxshape is None else tuple(h5s.UNLIMITED if n is None else n for n in maxshape)
        dataset = h5d.create(file.id, b"x", stored, h5s.create_simple(shape, most), dcpl=plist)
        if numbers is not None:
            dataset.write(h5s.ALL, h5s.ALL, np.ascontiguousarray(numbers))


def library(path: Path) -> np.ndarray:
    with h5py.File(path) as file:
        found: np.ndarray = file["x"][...]
        return found


def check(path: Path) -> None:
    """Compare what we read of "x", and sums of it, with what the library reads."""
    wanted = library(path)
    ours = Active(path, "x")
    assert np.array_equal(ours.read(), wanted)
    assert np.array_equal(ours.sum(axis=0), wanted.sum(axis=0, dtype="i8"))
    assert np.array_equal(ours[-2:, 3:].max(axis=1), wanted[-2:, 3:].max(axis=1))


@pytest.mark.parametrize("index", INDEXES)
@pytest.mark.parametrize(
    "filters", [("shuffle",), ("deflate",), ("shuffle", "deflate", "fletcher32"), ("nbit",), ("lzf",)], ids="+".join
)
def test_chunks_at_the_edge_without_filters(path: Path, index: str, filters: Sequence[str]) -> None:
    libver, maxshape = INDEXES[index]
    write(path, bare_edges, *(FILTERS[name] for name in filters), libver=libver, maxshape=maxshape)
    check(path)
    along = {dim for dim, most in enumerate(maxshape or ()) if most is None}
    with h5py.File(path, "r+") as file:
        # What was at the edge is no longer, and the other way round.
        file["x"].resize([14 if dim in along else n for dim, n in enumerate(NUMBERS.shape)])
    check(path)
    with h5py.File(path, "r+") as file:
        file["x"].resize([10 if dim in along else n for dim, n in enumerate(NUMBERS.shape)])
    check(path)


@pytest.mark.parametrize("filters", [("shuffle",), ("deflate", "fletcher32")], ids="+".join)
def test_a_single_chunk_larger_than_the_dataset(path: Path, filters: Sequence[str]) -> None:
    write(path, bare_edges, *(FILTERS[name] for name in filters), numbers=NUMBERS[:3, :4], shape=(3, 4), maxshape=CHUNK)
    check(path)


def test_chunks_at_the_edge_without_filters_and_addresses_of_other_widths(path: Path) -> None:
    plist = h5p.create(h5p.FILE_CREATE)
    plist.set_sizes(4, 4)
    with h5py.File(h5py.h5f.create(str(path).encode(), fcpl=plist)) as file:
        own = h5p.create(h5p.DATASET_CREATE)
        own.set_chunk(CHUNK)
        own.set_shuffle()
        bare_edges(own)
        dataset = h5d.create(file.id, b"x", h5t.STD_I32LE, h5s.create_simple(NUMBERS.shape), dcpl=own)
        dataset.write(h5s.ALL, h5s.ALL, NUMBERS)
    check(path)


def test_chunks_at_the_edge_through_every_door(path: Path) -> None:
    write(path, bare_edges, FILTERS["shuffle"], FILTERS["deflate"], maxshape=(None, None))
    total = int(NUMBERS.sum(dtype="i8"))
    address = "memory://edges/a.h5"
    with fsspec.open(address, "wb") as file:
        file.write(path.read_bytes())
    assert Active(address, "x").sum() == total
    with xr.open_dataset(path, engine="activestore") as ds:
        assert ds.x.active.sum().item() == total
        assert np.array_equal(ds.x.values, NUMBERS)
    with running(ServerSettings(roots=(path.parent,))) as server, warnings.catch_warnings():
        warnings.simplefilter("error", FallbackWarning)
        result = Active(path, "x", backend="reductionist", server=server.url).run("sum")
        assert (result.value, set(result.report.where)) == (total, {"reductionist"})


def encoded(mask: int) -> bytes:
    """A chunk of the number 3 through those of shuffle, deflate and fletcher32 that the mask does not skip."""
    raw = np.full(CHUNK, 3, "<i4").tobytes()
    if not mask & 1:
        raw = np.frombuffer(raw, "u1").reshape(-1, 4).T.tobytes()
    if not mask & 2:
        raw = zlib.compress(raw)
    if not mask & 4:
        with h5py.File("checksum", "w", driver="core", backing_store=False) as file:
            own = file.create_dataset("x", data=np.frombuffer(raw, "u1"), chunks=(len(raw),), fletcher32=True)
            _, raw = own.id.read_direct_chunk((0,))
    return raw


@pytest.mark.parametrize("mask", range(8))
@pytest.mark.parametrize("unused", [0, 0xFFFFFFF8], ids=["", "bits of no filter"])
@pytest.mark.parametrize("libver", ["earliest", "latest"])
def test_masks_of_several_filters(path: Path, libver: str, mask: int, unused: int) -> None:
    write(path, *(FILTERS[name] for name in ("shuffle", "deflate", "fletcher32")), libver=libver)
    with h5py.File(path, "r+") as file:
        for start in ((4, 5), (8, 10)):
            file["x"].id.write_direct_chunk(start, encoded(mask), filter_mask=mask | unused)
    assert (library(path)[4:8, 5:10] == 3).all()
    check(path)


@pytest.mark.parametrize("filters", [(), ("shuffle", "fletcher32")], ids="+".join)
def test_no_mask_makes_numbers_of_another_format_those_of_numpy(path: Path, filters: Sequence[str]) -> None:
    twelve_bits = h5t.STD_I16LE.copy()
    twelve_bits.set_precision(12)
    twelve_bits.set_offset(3)
    write(path, *(FILTERS[name] for name in filters), stored=twelve_bits, libver="earliest")
    with h5py.File(path, "r+") as file:
        file["x"].id.write_direct_chunk((4, 5), np.full(CHUNK, 24, "<i2").tobytes(), filter_mask=0xFFFFFFFF)
    assert (library(path)[4:8, 5:10] == 3).all()
    check(path)


ORDERS = [
    *itertools.permutations(("shuffle", "deflate", "fletcher32")),
    *itertools.permutations(("shuffle", "zstd"), 2),
    ("deflate", "deflate"),
    ("shuffle", "shuffle"),
    ("fletcher32", "fletcher32"),
    ("scaleoffset", "deflate"),
    ("deflate", "shuffle", "lzf"),
    ("nbit", "shuffle", "fletcher32"),
]


@pytest.mark.parametrize("filters", ORDERS, ids="+".join)
def test_filters_in_any_order(path: Path, filters: Sequence[str]) -> None:
    write(path, *(FILTERS[name] for name in filters), libver="earliest")
    check(path)


def test_a_shuffle_of_another_width_than_the_numbers(path: Path) -> None:
    write(path, FILTERS["shuffle"], libver="earliest")
    # The library sets the width when it writes; other writers may choose it: the filter's parameter is rewritten.
    before = (2).to_bytes(2, "little") + (8).to_bytes(2, "little") + bytes((1, 0, 1, 0)) + b"shuffle\0"
    content = path.read_bytes()
    assert content.count(before + (4).to_bytes(4, "little")) == 1
    for width in (1, 2, 3, 7, 80, 81, 2**32 - 1):
        path.write_bytes(content.replace(before + (4).to_bytes(4, "little"), before + width.to_bytes(4, "little")))
        check(path)
    path.write_bytes(content.replace(before + (4).to_bytes(4, "little"), before + bytes(4)))
    with pytest.raises(OSError, match=r"filter returned failure|shuffle"):
        library(path)
    with pytest.raises(ActivestoreError):
        Active(path, "x").sum()


@pytest.mark.parametrize("values", [(), (0,), (4, 4)])
def test_a_shuffle_whose_parameters_the_library_refuses(values: tuple[int, ...]) -> None:
    assert not decodable((Codec("shuffle", 2, values),))


@pytest.mark.parametrize("size", [1, 2, 3, 4, 719, 720, 721, 1441])
def test_checksums_of_the_first_releases(path: Path, size: int) -> None:
    # HDF5 before 1.6.3 swapped the two bytes of each half of a checksum, and the library accepts that for ever.
    numbers = np.random.default_rng(size).integers(0, 256, size).astype("u1")
    with h5py.File(path, "w") as file:
        dataset = file.create_dataset("x", data=numbers, chunks=(size,), fletcher32=True)
        _, raw = dataset.id.read_direct_chunk((0,))
        old = raw[:-4] + bytes((raw[-3], raw[-4], raw[-1], raw[-2]))
        dataset.id.write_direct_chunk((0,), old)
    assert np.array_equal(library(path), numbers)
    assert np.array_equal(Active(path, "x").read(), numbers)
    other = old[:-4] + bytes((old[-1] ^ 1, *old[-3:]))
    with pytest.raises(CorruptChunkError, match="checksum"):
        decode(other, (Codec("fletcher32", 3),), size)


TIMES = {"when allocated": h5d.FILL_TIME_ALLOC, "never": h5d.FILL_TIME_NEVER, "if set": h5d.FILL_TIME_IFSET}
FILLS: dict[str, Step] = {
    "default": lambda _: None,
    "own": lambda plist: plist.set_fill_value(np.array(7, "i4")),
    "undefined": undefined_fill,
}


@pytest.mark.parametrize("chunk", [None, CHUNK], ids=["contiguous", "chunked"])
@pytest.mark.parametrize("time", TIMES)
@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize("early", [False, True])
def test_what_was_never_written(path: Path, chunk: tuple[int, ...] | None, time: str, fill: str, early: bool) -> None:
    def settings(plist: Any) -> None:
        plist.set_fill_time(TIMES[time])
        plist.set_alloc_time(h5d.ALLOC_TIME_EARLY if early else h5d.ALLOC_TIME_LATE)

    if (fill, time) == ("undefined", "when allocated"):
        pytest.skip("the library makes no such dataset")
    write(path, settings, FILLS[fill], numbers=None, chunk=chunk, libver="earliest")
    try:
        library(path)
    except OSError:
        with pytest.raises(ActivestoreError, match="HDF5 library cannot read it"):
            Active(path, "x").sum()
    else:
        check(path)


@pytest.mark.parametrize("name", ["H5T_VAX_F32_g", "H5T_VAX_F64_g", "H5T_UNIX_D32LE_g"])
def test_types_that_numpy_lacks_are_no_damage(path: Path, name: str) -> None:
    made = hdf5_library().H5Dcreate2
    made.argtypes, made.restype = (ctypes.c_int64, ctypes.c_char_p, *[ctypes.c_int64] * 5), ctypes.c_int64
    with h5py.File(path, "w") as file:
        kind = ctypes.c_int64.in_dll(hdf5_library(), name).value
        assert made(file.id.id, b"x", kind, h5s.create_simple((3,)).id, 0, 0, 0) >= 0
    with pytest.raises(ActivestoreError, match="a type that NumPy does not have"):
        Active(path, "x")
