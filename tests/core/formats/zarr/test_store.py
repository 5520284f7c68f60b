"""Parts of Zarr's metadata: keys of chunks, codecs, fill values, checksums and filters."""

import numcodecs
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numcodecs.abc import Codec as NumcodecsCodec

from activestore.core.codecs.checksums import crc32c
from activestore.core.codecs.decode import Codec, decode
from activestore.core.formats.zarr.array_metadata import describe, numeric_array
from activestore.core.formats.zarr.codecs import read_pipeline_v2, read_pipeline_v3
from activestore.core.formats.zarr.keys import ChunkKeys
from activestore.errors import CorruptChunkError, SourceError


@given(st.binary(max_size=2000), st.integers(0, 3000))
def test_crc32c_is_that_of_a_loop(data: bytes, more: int) -> None:
    data += bytes(range(256)) * (more // 256)
    register = 0xFFFFFFFF
    for octet in data:
        register ^= octet
        for _ in range(8):
            register = register >> 1 ^ (0x82F63B78 if register & 1 else 0)
    assert crc32c(data) == register ^ 0xFFFFFFFF


@pytest.mark.parametrize(
    ("data", "sum32"), [(bytes(32), 0x8A9136AA), (b"\xff" * 32, 0x62A8AB43), (bytes(range(32)), 0x46DD794E)]
)
def test_crc32c_of_the_standard(data: bytes, sum32: int) -> None:
    assert crc32c(data) == sum32


@given(st.lists(st.integers(1, 5), max_size=4), st.sampled_from([".", "/"]), st.data())
def test_keys_and_positions(grid: list[int], separator: str, data: st.DataObject) -> None:
    keys = ChunkKeys("a/", separator, tuple(grid), "a/0", room=1)
    cell = tuple(data.draw(st.integers(0, length - 1)) for length in grid)
    position = int(np.ravel_multi_index(cell, grid)) if grid else 0
    name = separator.join(map(str, cell)) or "0"
    assert keys.key(position) == f"a/{name}"
    if grid:
        assert keys.position(name) == position


@pytest.mark.parametrize(
    "name", ["", "1", "1.2.3", "2.0", "0.3", "01.0", "-1.0", "1.x", "1/0", "٣.0", "0.99999999999999999999999"]
)
def test_names_that_are_no_chunks(name: str) -> None:
    assert ChunkKeys("", ".", (2, 3), "0", room=1).position(name) is None


NUMCODECS = [
    numcodecs.Zlib(1), numcodecs.GZip(1), numcodecs.BZ2(1), numcodecs.LZMA(), numcodecs.LZ4(), numcodecs.Zstd(1),
    numcodecs.Blosc(), numcodecs.Shuffle(4), numcodecs.Delta("<i4"), numcodecs.Delta(">i4", ">i2"),
    numcodecs.Delta("<u4", "<i8"),
    numcodecs.FixedScaleOffset(5, 10, "<f4", "<i2"), numcodecs.FixedScaleOffset(-1.5, 0.1, ">f8", "|u1"),
    numcodecs.Quantize(3, "<f8", "<f4"), numcodecs.CRC32(), numcodecs.CRC32(location="end"), numcodecs.Adler32(),
    numcodecs.Fletcher32(), numcodecs.BitRound(3),
]  # fmt: skip


@pytest.mark.parametrize("codec", NUMCODECS, ids=repr)
def test_each_codec_of_numcodecs(codec: NumcodecsCodec) -> None:
    config = codec.get_config()
    dtype = np.dtype(config.get("dtype", "<f4"))
    numbers = np.random.default_rng(0).integers(0, 25, 600).astype(dtype)
    raw = bytes(numcodecs.compat.ensure_bytes(codec.encode(numbers.copy())))
    pipeline = read_pipeline_v2({"filters": [config]}, dtype, (600,))
    wanted = np.frombuffer(numcodecs.compat.ensure_bytes(codec.decode(raw)), dtype)
    assert np.array_equal(np.frombuffer(decode(raw, pipeline.codecs, numbers.nbytes), dtype), wanted)
    if not pipeline.codecs:
        return
    for damaged in (raw[:-1], b"", raw[:3]):
        with pytest.raises(CorruptChunkError):
            decode(damaged, pipeline.codecs, numbers.nbytes)


@pytest.mark.parametrize("name", ["crc32", "adler32", "crc32c"])
@pytest.mark.parametrize("place", ["start", "end"])
def test_checksums_are_verified(name: str, place: str) -> None:
    data = bytes(range(100))
    codec = numcodecs.get_codec({"id": name, "location": place})
    raw = bytearray(codec.encode(data))
    (own,) = read_pipeline_v2({"filters": [codec.get_config() | {"location": place}]}, np.dtype("u1"), (100,)).codecs
    assert bytes(decode(bytes(raw), (own,), 100)) == data
    for at in (0, 50, 103):
        raw[at] ^= 1
        with pytest.raises(CorruptChunkError, match="the checksum is not that of the bytes"):
            decode(bytes(raw), (own,), 100)
        raw[at] ^= 1


@given(st.permutations(range(3)), st.sampled_from(["|u1", "<i2", ">f8"]))
def test_axes_are_turned_back(order: list[int], dtype: str) -> None:
    numbers = np.arange(24).reshape(2, 3, 4).astype(dtype)
    steps = [{"name": "transpose", "configuration": {"order": order}}, {"name": "bytes", "configuration": {"endian": "little"}}]
    codecs = read_pipeline_v3(steps, np.dtype(dtype), (2, 3, 4)).codecs
    raw = numbers.transpose(order).tobytes()
    assert bytes(decode(raw, codecs, numbers.nbytes)) == numbers.tobytes()


def test_two_turns_one_after_the_other() -> None:
    numbers = np.arange(24, dtype="i4").reshape(2, 3, 4)
    steps = [{"name": "transpose", "configuration": {"order": order}} for order in ([1, 2, 0], [0, 2, 1])] + ["bytes", "crc32c"]
    codecs = read_pipeline_v3(steps, np.dtype("i4"), (2, 3, 4)).codecs
    raw = numbers.transpose(1, 2, 0).transpose(0, 2, 1).tobytes()
    raw += crc32c(raw).to_bytes(4, "little")
    assert bytes(decode(raw, codecs, numbers.nbytes)) == numbers.tobytes()


@pytest.mark.parametrize(
    ("dtype", "given_fill", "stored"),
    [
        ("<f4", "NaN", np.float32("nan").tobytes()),
        ("<f4", "-Infinity", np.float32("-inf").tobytes()),
        (">f8", 1.5, np.array(1.5, ">f8").tobytes()),
        ("<f4", "0x7fc00001", bytes.fromhex("0100c07f")),
        (">f4", "0x7fc00001", bytes.fromhex("7fc00001")),
        ("<f8", "AAAAAAAA+D8=", np.float64(1.5).tobytes()),
        ("<f4", 1e300, np.float32("inf").tobytes()),
        ("<i4", 3.0, np.int32(3).tobytes()),
        ("|b1", True, b"\1"),
        ("<i2", None, bytes(2)),
        ("<u8", 2**64 - 1, b"\xff" * 8),
    ],
)
def test_fill_values(dtype: str, given_fill: object, stored: bytes) -> None:
    document = {"zarr_format": 2, "shape": [4], "chunks": [2], "dtype": dtype, "order": "C", "fill_value": given_fill}
    described = describe("store", "x", document, {}, version=2)
    assert described.dtype is not None
    assert numeric_array("store", described, described.dtype).fill == stored


@pytest.mark.parametrize(
    ("dtype", "given_fill"),
    [
        ("<i4", 3.5),
        ("<i4", "NaN"),
        ("<i4", float("nan")),
        ("<i1", 300),
        ("<u1", -1),
        ("<f4", "3"),
        ("<f4", [1]),
        ("<f4", "0x7fc0"),
    ],
)
def test_fill_values_that_the_type_does_not_have(dtype: str, given_fill: object) -> None:
    document = {"zarr_format": 2, "shape": [4], "chunks": [2], "dtype": dtype, "order": "C", "fill_value": given_fill}
    described = describe("store", "x", document, {}, version=2)
    with pytest.raises(SourceError, match="the metadata of 'x' cannot be read"):
        numeric_array("store", described, np.dtype(dtype))


def test_no_codec_is_forgotten_by_its_size() -> None:
    """A checksum behind a compressor, and a filter that widens, give the sizes that decoding expects."""
    numbers = np.arange(10, dtype="<i2")
    steps = [numcodecs.Delta("<i2", "<i8"), numcodecs.Zlib(1), numcodecs.CRC32()]
    data = numbers.tobytes()
    for step in steps:
        data = bytes(numcodecs.compat.ensure_bytes(step.encode(np.frombuffer(data, "<i2") if step is steps[0] else data)))
    pipeline = read_pipeline_v2({"filters": [step.get_config() for step in steps]}, np.dtype("<i2"), (10,))
    assert pipeline.codecs[1:] == (Codec("zlib", 1), Codec("crc32", 0, (0,)))
    assert bytes(decode(data, pipeline.codecs, 20)) == numbers.tobytes()


@pytest.mark.parametrize("name", ["shape", "chunks", "dtype", "order", "fill_value"])
def test_what_every_array_has_must_be_there(name: str) -> None:
    document = {"shape": [4], "chunks": [2], "dtype": "<i4", "order": "F", "fill_value": 7, "compressor": None, "filters": None}
    del document[name]

    def read():
        described = describe("store", "x", {"zarr_format": 2, "oraer": "F", **document}, {}, version=2)
        return numeric_array("store", described, np.dtype("<i4"))

    with pytest.raises(SourceError, match=rf"'{name}' is missing"):
        read()
