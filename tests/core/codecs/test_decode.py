"""Decoding: what writers really write, bytes that are not what they claim to be, and flipped bits."""

import bz2
import gzip
import struct
import tracemalloc
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
from activestore.core.codecs import decode as codecs
from activestore.core.codecs.decode import Codec, Decoder, decodable, decode, decoder_names, hdf5_codec, present
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
    "gzip": gzip.compress,
    "blosc2-chunk": lambda data: blosc2.compress2(data, typesize=1) if data else bytes(32),
}
IDS = {"zlib": 1, "shuffle": 2, "fletcher32": 3, "bzip2": 307, "zstd": 32015, "lz4": 32004, "blosc": 32001, "blosc2": 32026}
IDS |= {"gzip": 0, "blosc2-chunk": 0}


def decoded(name: str, raw: bytes, size: int = len(DATA)) -> bytes:
    return bytes(decode(raw, (Codec(name, IDS[name]),), size))


@pytest.fixture
def without_deflate(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without libdeflate, as where nothing but the standard library and NumPy is installed."""
    monkeypatch.setattr(codecs, "_libdeflate", lambda: None)


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


@pytest.mark.parametrize(("name", "compress"), [("zlib", zlib.compress), ("gzip", gzip.compress)])
@pytest.mark.usefixtures("without_deflate")
def test_the_standard_library_alone_inflates(name: str, compress: Callable[[bytes], bytes]) -> None:
    assert decoded(name, compress(DATA)) == DATA
    for damaged in (compress(DATA)[:-1], compress(DATA[:-1]), compress(DATA + b"x"), b"", b"x" * 30):
        with pytest.raises(CorruptChunkError, match=name):
            decoded(name, damaged)


@pytest.mark.parametrize(("name", "compress"), [("zlib", zlib.compress), ("gzip", gzip.compress)])
@pytest.mark.usefixtures("without_deflate")
def test_the_standard_library_alone_checks_the_checksum(name: str, compress: Callable[[bytes], bytes]) -> None:
    raw = bytearray(compress(DATA))
    raw[-5 if name == "gzip" else -1] ^= 1
    with pytest.raises(CorruptChunkError, match=name):
        decoded(name, bytes(raw))


def test_a_zstd_frame_without_its_size() -> None:
    assert decoded("zstd", zstd_without_size(DATA)) == DATA
    with pytest.raises(CorruptChunkError, match="expected to decompress 200, got 150"):
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


@pytest.mark.parametrize("width", [1, 2, 3, 4, 8, 16, 255, 256, 257, 500, 512])
@pytest.mark.parametrize("size", [1, 7, 64, 65, 1000, 1024])
@pytest.mark.parametrize("vectorised", [True, False])
def test_unshuffle(width: int, size: int, vectorised: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not vectorised:
        monkeypatch.setattr(codecs, "_blosc2_unshuffle", lambda: None)
    data = np.random.default_rng(0).bytes(size)
    whole = size // width * width
    shuffled = np.frombuffer(data[:whole], np.uint8).reshape(-1, width).T.tobytes() + data[whole:]
    pipeline = (Codec("shuffle", 2, (width,)),)
    assert bytes(decode(shuffled, pipeline, size)) == data
    rows = np.zeros((3, size), np.uint8)
    for row, raw in zip(rows, (shuffled, bytearray(shuffled), memoryview(shuffled)), strict=True):
        Decoder(pipeline, size).into(raw, row)
    assert rows.tobytes() == 3 * data


@pytest.mark.parametrize("names", [(), ("zlib",), ("shuffle",), ("shuffle", "zlib"), ("zlib", "fletcher32"), ("fletcher32",)])
def test_decoding_into_an_array(names: tuple[str, ...]) -> None:
    encoders = ENCODERS | {"shuffle": lambda data: np.frombuffer(data, np.uint8).reshape(-1, 4).T.tobytes()}
    raw = DATA
    for name in names:
        raw = encoders[name](raw)
    pipeline = tuple(Codec(name, IDS[name], (4,) if name == "shuffle" else ()) for name in names)
    decoder, rows = Decoder(pipeline, len(DATA)), np.zeros((2, len(DATA)), np.uint8)
    decoder.into(raw, rows[1])
    assert (bytes(rows[0]), bytes(rows[1])) == (bytes(len(DATA)), DATA)
    for damaged in (raw[:-1], raw[: len(raw) // 2], b""):
        with pytest.raises(CorruptChunkError):
            decoder.into(damaged, rows[0])
    assert bytes(rows[0]) == bytes(len(DATA)), "nothing is written of what is damaged"


@pytest.mark.parametrize("width", [201, 1 << 32, 1 << 62, (1 << 64) - 1])
def test_shuffled_numbers_wider_than_the_chunk(width: int) -> None:
    pipeline, row = (Codec("shuffle", 2, (width,)),), np.zeros(len(DATA), np.uint8)
    Decoder(pipeline, len(DATA)).into(DATA, row)
    assert bytes(decode(DATA, pipeline, len(DATA))) == bytes(row) == DATA


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


@pytest.mark.parametrize("alone", [False, True])
def test_of_gzip_the_first_member_counts(alone: bool, request: pytest.FixtureRequest) -> None:
    if alone:
        request.getfixturevalue("without_deflate")
    assert decoded("gzip", gzip.compress(DATA) + gzip.compress(b"more")) == DATA
    assert decoded("gzip", gzip.compress(DATA) + b"what follows") == DATA
    assert decoded("gzip", gzip.compress(b"") + gzip.compress(DATA), 0) == b""
    # What the last four bytes say of the size is not believed.
    with pytest.raises(CorruptChunkError, match="gzip"):
        decoded("gzip", gzip.compress(DATA)[:-4] + b"\xff\xff\xff\xff")


def test_a_blosc2_chunk_that_is_not_what_the_library_takes() -> None:
    raw = blosc2.compress2(bytes(range(250)) * 100, typesize=1)
    for at, value in [(2, raw[2] & ~5), (2, raw[2] & 31 | 6 << 5), (31, 8), (4, 0), (7, 0x80), (7, 0x7F)]:
        damaged = raw[:at] + bytes([value]) + raw[at + 1 :]
        with pytest.raises(CorruptChunkError, match="blosc2-chunk cannot decode it"):
            decoded("blosc2-chunk", damaged, 25000)
    assert decoded("blosc2-chunk", raw + b"what follows", 25000) == bytes(range(250)) * 100
    # "Never written": what the memory held before does not come out.
    unwritten = blosc2.compress2(bytes(100000), typesize=1)
    assert not any(decoded("blosc2-chunk", unwritten[:31] + b"\x40", 100000))


def test_a_blosc2_frame_with_a_part_that_was_never_written() -> None:
    frame = blosc2.SChunk(chunksize=200, cparams={"typesize": 1})
    frame.fill_special(200, blosc2.SpecialValue.UNINIT)
    with pytest.raises(CorruptChunkError, match="never written"):
        decoded("blosc2", frame.to_cframe())
    frame = blosc2.SChunk(chunksize=200, cparams={"typesize": 1})
    frame.fill_special(200, blosc2.SpecialValue.ZERO)
    assert decoded("blosc2", frame.to_cframe()) == bytes(200)


FRAME = blosc2.SChunk(data=DATA, cparams={"typesize": 1}).to_cframe()
ARRAY = blosc2.asarray(np.arange(200, dtype="u1").reshape(10, 20), chunks=(10, 20), blocks=(10, 20)).to_cframe()


@pytest.mark.parametrize("frame", [FRAME, ARRAY], ids=["plain", "array"])
@pytest.mark.parametrize(
    ("at", "kind", "value"),
    [(0x1E, ">q", 1 << 40), (0x1E, ">q", -1), (0x1E, ">q", 199), (0x3A, ">i", 0), (0x3A, ">i", -5), (0x3A, ">i", 1 << 30)],
)
def test_a_blosc2_frame_that_claims_too_much(frame: bytes, at: int, kind: str, value: int) -> None:
    damaged = bytearray(frame)
    struct.pack_into(kind, damaged, at, value)
    with pytest.raises(CorruptChunkError, match="it claims"):
        decoded("blosc2", bytes(damaged))


def test_a_blosc2_frame_of_very_many_chunks() -> None:
    frame = bytearray(blosc2.SChunk(data=bytes(60000), cparams={"typesize": 1}).to_cframe())
    struct.pack_into(">i", frame, 0x3A, 1)
    with pytest.raises(CorruptChunkError, match="it claims chunks of 1 bytes"):
        decoded("blosc2", bytes(frame), 60000)


def test_a_blosc2_array_of_another_shape_than_its_chunk() -> None:
    # The shape is written (as MessagePack, 0xd3 before each length) in the array's own part of the frame.
    huge = ARRAY.replace(b"\xd3" + (10).to_bytes(8, "big"), b"\xd3" + (10 << 40).to_bytes(8, "big"))
    assert huge != ARRAY
    with pytest.raises(CorruptChunkError, match="blosc2"):
        decoded("blosc2", huge)
    assert decoded("blosc2", ARRAY) == bytes(range(200))


def zstd_bomb(blocks: int) -> bytes:
    """Return a zstd frame without its size whose blocks each repeat one byte 128 KiB times."""
    last, repeat = 1, (128 << 10) << 3 | 1 << 1
    frame = b"\x28\xb5\x2f\xfd\x00\x58" + (repeat.to_bytes(3, "little") + b"x") * (blocks - 1)
    return frame + (repeat | last).to_bytes(3, "little") + b"x"


MUCH = 64 << 20
BOMBS = {
    "zlib": lambda: zlib.compress(bytes(MUCH)),
    "gzip": lambda: gzip.compress(bytes(MUCH), 1),
    "bzip2": lambda: bz2.compress(bytes(MUCH)),
    "zstd": lambda: zstd_bomb(MUCH >> 17),
    "lz4": lambda: lz4_filter(bytes(MUCH), MUCH),
    "blosc": lambda: ENCODERS["blosc"](bytes(MUCH)),
    "blosc2": lambda: ENCODERS["blosc2"](bytes(MUCH)),
    "blosc2-chunk": lambda: ENCODERS["blosc2-chunk"](bytes(MUCH)),
}


def peak(name: str, raw: bytes, size: int) -> int:
    """Return how much memory it takes to find that a stream is not one of `size` bytes."""
    tracemalloc.start()
    try:
        with pytest.raises(CorruptChunkError, match=name):
            decoded(name, raw, size)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", BOMBS)
@pytest.mark.parametrize("alone", [False, True])
def test_a_bomb_takes_no_more_memory_than_the_chunk_and_its_own_bytes(
    name: str, alone: bool, request: pytest.FixtureRequest
) -> None:
    if alone:
        request.getfixturevalue("without_deflate")
    raw, size = BOMBS[name](), 1 << 20
    with pytest.raises(CorruptChunkError, match=name):
        decoded(name, raw, 100)  # what is imported on the way is none of the chunk's
    assert peak(name, raw, size) < 4 * (size + len(raw))


def test_many_small_blocks_of_lz4_take_no_memory_of_their_own() -> None:
    data = np.random.default_rng(3).bytes(20_000)
    raw = lz4_filter(data, 1)[:-1]
    peak("lz4", raw[:100], len(data))
    assert peak("lz4", raw, len(data)) < len(raw)


class TestWithoutTheSize:
    @pytest.mark.parametrize("name", ["zlib", "gzip", "blosc2-chunk"])
    def test_compressors(self, name: str) -> None:
        raw = ENCODERS[name](DATA)
        for most in (200, 201, 1 << 20):
            assert bytes(codecs.decode_unsized(raw, (Codec(name, 0),), most)) == DATA
            assert bytes(codecs.decode_unsized(raw + b"what follows", (Codec(name, 0),), most)) == DATA
        for most, damaged in [(199, raw), (200, raw[:-1]), (200, raw[:3]), (200, b""), (200, b"x" * 40)]:
            with pytest.raises(CorruptChunkError, match=f"{name} cannot decode it|more than the 199 bytes"):
                codecs.decode_unsized(damaged, (Codec(name, 0),), most)

    def test_nothing_and_shuffles(self) -> None:
        shuffle = Codec("shuffle", 2, (4,))
        shuffled = np.frombuffer(DATA, np.uint8).reshape(-1, 4).T.tobytes()
        assert codecs.decode_unsized(DATA, (), 200) == DATA
        with pytest.raises(CorruptChunkError, match="more than the 199 bytes"):
            codecs.decode_unsized(DATA, (), 199)
        assert bytes(codecs.decode_unsized(shuffled, (shuffle,), 500)) == DATA
        assert bytes(codecs.decode_unsized(zlib.compress(shuffled), (shuffle, Codec("zlib", 1)), 500)) == DATA

    def test_others_need_it(self) -> None:
        for pipeline in [(Codec("zstd", 32015),), (Codec("zlib", 1), Codec("gzip", 0))]:
            with pytest.raises(UnsupportedError, match="cannot be decoded here without the chunk's size"):
                codecs.decode_unsized(b"", pipeline, 100)

    @pytest.mark.parametrize("name", ["zlib", "gzip", "blosc2-chunk"])
    def test_a_bomb(self, name: str) -> None:
        raw, most = BOMBS[name](), 1 << 20
        tracemalloc.start()
        with pytest.raises(CorruptChunkError, match="more than the"):
            codecs.decode_unsized(raw, (Codec(name, 0),), most)
        assert tracemalloc.get_traced_memory()[1] < 4 * (most + len(raw))
        tracemalloc.stop()


def test_what_is_decoded_here() -> None:
    of_zarr = ("lz4-block", "lzma", "delta", "fixedscaleoffset", "cast", "transpose", "crc32", "adler32", "crc32c")
    assert decoder_names() == dict.fromkeys([*IDS, *of_zarr], True)


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


def test_pipelines_that_were_looked_up_are_not_kept_for_good() -> None:
    # A server is asked about whatever its clients make up.
    for width in range(1, 5000):
        assert decodable((Codec("shuffle", 2, (width,)),))
    assert decodable.cache_info().currsize <= 1024
