"""Decoding: what writers really write, bytes that are not what they claim to be, and flipped bits."""

import bz2
import zlib
from collections.abc import Callable
from pathlib import Path

import blosc2
import h5py
import hdf5plugin
import netCDF4
import numcodecs.blosc
import numcodecs.fletcher32
import numcodecs.lz4
import numcodecs.zstd
import numpy as np
import pytest

from activestore import Active
from activestore.core import codecs
from activestore.core.codecs import Codec, decodable, decode, decoder_names, hdf5_codec, present
from activestore.errors import CorruptChunkError, UnsupportedError
from tests.generated import HDF5_FILTERS

DATA = bytes(range(100)) * 2


def lz4_filter(data: bytes, block: int = 64) -> bytes:
    """Return what HDF5's LZ4 filter writes."""
    stored = len(data).to_bytes(8, "big") + block.to_bytes(4, "big")
    for start in range(0, len(data), block):
        piece = data[start : start + block]
        packed = numcodecs.lz4.compress(piece)[4:]
        packed = packed if len(packed) < len(piece) else piece
        stored += len(packed).to_bytes(4, "big") + packed
    return stored


def zstd_without_size(data: bytes) -> bytes:
    """Return a zstd frame of one raw block that does not say how long it is."""
    return b"\x28\xb5\x2f\xfd\x00\x00" + (len(data) << 3 | 1).to_bytes(3, "little") + data


ENCODERS: dict[str, Callable[[bytes], bytes]] = {
    "zlib": zlib.compress,
    "bzip2": bz2.compress,
    "zstd": lambda data: bytes(numcodecs.zstd.compress(data)),
    "lz4": lz4_filter,
    "blosc": lambda data: bytes(numcodecs.blosc.compress(data, b"lz4", 5, 1)),
    "blosc2": lambda data: blosc2.SChunk(data=data, cparams={"typesize": 1}).to_cframe(),
    "fletcher32": lambda data: bytes(numcodecs.fletcher32.Fletcher32().encode(data)) if data else bytes(4),
}
IDS = {"zlib": 1, "shuffle": 2, "fletcher32": 3, "bzip2": 307, "zstd": 32015, "lz4": 32004, "blosc": 32001, "blosc2": 32026}


def decoded(name: str, raw: bytes, size: int = len(DATA)) -> bytes:
    return bytes(decode(raw, (Codec(name, IDS[name]),), size))


@pytest.fixture
def without_deflate(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without libdeflate, as where nothing but the standard library and NumPy is installed."""
    installed = codecs._installed
    monkeypatch.setattr(codecs, "_installed", lambda module: module != "deflate" and installed(module))


@pytest.mark.parametrize("name", ENCODERS)
def test_decodes_what_was_encoded(name: str) -> None:
    assert decoded(name, ENCODERS[name](DATA)) == DATA


@pytest.mark.parametrize("name", ENCODERS)
@pytest.mark.parametrize(
    "data", [b"", DATA[:150], DATA[:-1], DATA + b"x", DATA * 9], ids=["empty", "short", "less", "more", "long"]
)
def test_a_stream_of_another_size_than_the_chunk_is_corrupt(name: str, data: bytes) -> None:
    with pytest.raises(CorruptChunkError, match=name):
        decoded(name, ENCODERS[name](data))


@pytest.mark.parametrize("name", ENCODERS)
@pytest.mark.parametrize("cut", [1, 4, 20])
def test_a_stream_that_is_cut_off_is_corrupt(name: str, cut: int) -> None:
    with pytest.raises(CorruptChunkError, match=name):
        decoded(name, ENCODERS[name](DATA)[:-cut])


@pytest.mark.usefixtures("without_deflate")
def test_the_standard_library_alone_inflates() -> None:
    assert decoded("zlib", zlib.compress(DATA)) == DATA
    for damaged in (zlib.compress(DATA)[:-1], zlib.compress(DATA[:-1]), zlib.compress(DATA + b"x"), b"", b"x" * 30):
        with pytest.raises(CorruptChunkError, match="zlib"):
            decoded("zlib", damaged)


@pytest.mark.usefixtures("without_deflate")
def test_the_standard_library_alone_checks_the_checksum() -> None:
    raw = bytearray(zlib.compress(DATA))
    raw[-1] ^= 1
    with pytest.raises(CorruptChunkError, match="zlib"):
        decoded("zlib", bytes(raw))


def test_a_zstd_frame_without_its_size() -> None:
    assert decoded("zstd", zstd_without_size(DATA)) == DATA
    with pytest.raises(CorruptChunkError, match="zstd gives 150 bytes of it where 200 were written"):
        decoded("zstd", zstd_without_size(DATA[:150]))


@pytest.mark.parametrize("size", [1, 255, 256, 257, 65791, 65792, 70000])
def test_every_width_of_a_zstd_size(size: int) -> None:
    data = bytes(size)
    assert decoded("zstd", bytes(numcodecs.zstd.compress(data)), size) == data


def test_a_block_of_lz4_that_decodes_to_less_is_corrupt() -> None:
    packed = numcodecs.lz4.compress(bytes(40))[4:]
    raw = (64).to_bytes(8, "big") + (64).to_bytes(4, "big") + len(packed).to_bytes(4, "big") + packed
    with pytest.raises(CorruptChunkError, match="lz4"):
        decoded("lz4", raw, 64)


@pytest.mark.parametrize("width", [1, 2, 3, 4, 8, 16])
@pytest.mark.parametrize("size", [1, 7, 64, 65, 1000])
@pytest.mark.parametrize("vectorised", [True, False])
def test_unshuffle(width: int, size: int, vectorised: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not vectorised:
        monkeypatch.setattr(codecs, "_blosc2_unshuffle", lambda: None)
    data = np.random.default_rng(0).bytes(size)
    whole = size // width * width
    shuffled = np.frombuffer(data[:whole], np.uint8).reshape(-1, width).T.tobytes() + data[whole:]
    assert bytes(decode(shuffled, (Codec("shuffle", 2, (width,)),), size)) == data


def test_a_checksum_before_and_behind_a_compressor() -> None:
    pipelines = {
        ("fletcher32", "zlib"): zlib.compress(ENCODERS["fletcher32"](DATA)),
        ("zlib", "fletcher32"): ENCODERS["fletcher32"](zlib.compress(DATA)),
        ("fletcher32", "zlib", "fletcher32"): ENCODERS["fletcher32"](zlib.compress(ENCODERS["fletcher32"](DATA))),
    }
    for names, raw in pipelines.items():
        assert bytes(decode(raw, tuple(Codec(name, IDS[name]) for name in names), len(DATA))) == DATA


def test_two_compressors_are_left_to_the_hdf5_library() -> None:
    two = (Codec("zlib", 1), Codec("zstd", 32015))
    assert not decodable(two)
    with pytest.raises(UnsupportedError, match=r"\['zlib', 'zstd'\] cannot be decoded"):
        decode(b"", two, 10)


def test_a_chunk_above_the_limit_of_hdf5_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="above the limit"):
        decode(b"", (), (4 << 30) + 1)


def test_an_unknown_filter_keeps_its_number_and_name() -> None:
    assert hdf5_codec(40001, (1, 2), "mystery") == Codec("mystery (HDF5 filter 40001)", 40001, (1, 2))
    assert not decodable((hdf5_codec(40001, ()),))


def test_skipped_filters_are_left_out() -> None:
    pipeline = (Codec("shuffle", 2, (4,)), Codec("zlib", 1), Codec("fletcher32", 3))
    assert present(pipeline, 0) == pipeline
    assert present(pipeline, 0b010) == (pipeline[0], pipeline[2])
    assert present(pipeline, 0b111) == ()


def test_what_is_decoded_here() -> None:
    assert decoder_names() == dict.fromkeys([*IDS], True)


NUMBERS = (np.arange(6000).reshape(60, 100) % 97).astype("i4")
NUMBERS[0, :7] = [-5, 2**31 - 1, -(2**31), 0, 1, 12345, -1]
RAW = {
    "gzip", "shuffle", "shuffle gzip", "fletcher32", "gzip fletcher32", "shuffle gzip fletcher32", "zstd", "shuffle zstd",
    "bzip2", "lz4", "blosc", "blosc zstd", "blosc zlib", "blosc2", "blosc2 zstd", "none",
}  # fmt: skip
"""Pipelines that are decoded here; the HDF5 library decodes the others."""


@pytest.mark.parametrize("filters", HDF5_FILTERS)
@pytest.mark.parametrize("dtype", ["<i4", ">i2", "<f8", "|u1"])
def test_pipelines_of_h5py(filters: str, dtype: str, tmp_path: Path) -> None:
    numbers = NUMBERS.astype(dtype)
    if "scaleoffset" in filters and dtype == "<f8":
        pytest.skip("scale-offset of floats does not give back what was written")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("x", data=numbers, chunks=(25, 60), **HDF5_FILTERS[filters])
        # As h5py writes it now, so that what it does not give back is not held against us.
        assert (file["x"][...] == numbers).all()
    result = Active(tmp_path / "a.h5", "x").run("sum")
    assert result.value == numbers.sum(dtype="i8")
    assert set(result.report.where) == {"posix" if filters in RAW else "posix through HDF5"}
    np.testing.assert_array_equal(Active(tmp_path / "a.h5", "x")[3:, ::-7].read(), numbers[3:, ::-7])


NETCDF = ["zlib", "szip", "zstd", "bzip2", "blosc_lz", "blosc_lz4", "blosc_lz4hc", "blosc_zlib", "blosc_zstd"]


@pytest.mark.parametrize("compression", NETCDF)
@pytest.mark.parametrize("checksum", [False, True])
def test_pipelines_of_netcdf(compression: str, checksum: bool, tmp_path: Path) -> None:
    with netCDF4.Dataset(tmp_path / "a.nc", "w") as file:
        file.createDimension("y", 60)
        file.createDimension("x", 100)
        # netCDF puts its checksum before the compressor, h5py behind it.
        variable = file.createVariable(
            "x", "i4", ("y", "x"), compression=compression, fletcher32=checksum, chunksizes=(30, 50), fill_value=False
        )
        variable[...] = NUMBERS
    active = Active(tmp_path / "a.nc", "x")
    np.testing.assert_array_equal(active.read().data, NUMBERS)
    names = [codec.id for codec in active.variable.codecs]
    assert ("fletcher32" in names[:2]) == checksum


def test_nbit(tmp_path: Path) -> None:
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plist.set_chunk((30,))
    plist.set_filter(h5py.h5z.FILTER_NBIT, h5py.h5z.FLAG_MANDATORY, ())
    kind = h5py.h5t.STD_I16LE.copy()
    kind.set_precision(12)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        dataset = h5py.Dataset(h5py.h5d.create(file.id, b"x", kind, h5py.h5s.create_simple((100,)), plist))
        dataset[...] = np.arange(100) - 50
    assert Active(tmp_path / "a.h5", "x").read().tolist() == list(range(-50, 50))


def flip_every_bit(path: Path, right: bytes) -> dict[str, int]:
    """Return how many flips of a bit of the first chunk gave the right number, a wrong one, or a `CorruptChunkError`."""
    with h5py.File(path) as file:
        chunk = file["x"].id.get_chunk_info(0)
    active, found = Active(path, "x", workers=1), {"right": 0, "wrong": 0, "corrupt": 0}
    (task,) = active.plan("sum").tasks()
    raw = path.read_bytes()[chunk.byte_offset : chunk.byte_offset + chunk.size]
    for bit in range(len(raw) * 8):
        damaged = bytearray(raw)
        damaged[bit // 8] ^= 1 << bit % 8
        try:
            found["right" if bytes(decode(bytes(damaged), task.codecs, task.nbytes)) == right else "wrong"] += 1
        except CorruptChunkError:
            found["corrupt"] += 1
    return found


CHECKED = {
    "gzip": {"compression": "gzip"},
    "shuffle gzip": {"compression": "gzip", "shuffle": True},
    "fletcher32": {"fletcher32": True},
    "gzip fletcher32": {"compression": "gzip", "fletcher32": True},
    "zstd fletcher32": {"fletcher32": True, **hdf5plugin.Zstd()},
    "lz4 fletcher32": {"fletcher32": True, **hdf5plugin.LZ4()},
    "blosc fletcher32": {"fletcher32": True, **hdf5plugin.Blosc()},
    "bzip2": hdf5plugin.BZip2(),
}
UNCHECKED = {
    "zstd": hdf5plugin.Zstd(),
    "lz4": hdf5plugin.LZ4(nbytes=512),
    "blosc": hdf5plugin.Blosc(cname="lz4"),
    "blosc zstd": hdf5plugin.Blosc(cname="zstd"),
    "blosc2": hdf5plugin.Blosc2(),
}


@pytest.fixture
def small() -> np.ndarray:
    return (np.arange(250) % 50).astype("i2")


@pytest.mark.parametrize("filters", CHECKED)
def test_where_there_is_a_checksum_no_flipped_bit_gives_a_wrong_number(filters: str, small: np.ndarray, tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("x", data=small, chunks=small.shape, **CHECKED[filters])
    found = flip_every_bit(tmp_path / "a.h5", small.tobytes())
    assert found["wrong"] == 0
    assert found["corrupt"] > 0


@pytest.mark.parametrize("filters", UNCHECKED)
def test_where_there_is_no_checksum_a_flipped_bit_is_an_error_or_unnoticed(
    filters: str, small: np.ndarray, tmp_path: Path
) -> None:
    # Nothing in these streams tells a damaged number from another number; but nothing breaks, and much is noticed.
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("x", data=small, chunks=small.shape, **UNCHECKED[filters])
    assert flip_every_bit(tmp_path / "a.h5", small.tobytes())["corrupt"] > 0
