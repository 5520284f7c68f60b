"""Codecs: what a writer did to the bytes of a chunk, and undoing it.

A chunk is decoded here when something installed decodes its raw bytes. The standard library and NumPy are enough for
deflate, bzip2 and shuffle; faster or further decoders are looked up and never required, so that this file can be
shipped to where the data are.
"""

from __future__ import annotations

import bz2
import ctypes
import importlib
import importlib.util
import lzma
import math
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache, lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from activestore.core.codecs import array_filters
from activestore.core.codecs.headers import blosc2_sizes, check_blosc2_frame, zstd_size
from activestore.errors import CorruptChunkError, UnsupportedError

__all__ = [
    "EVERY_FILTER",
    "MAX_CHUNK_BYTES",
    "Buffer",
    "Codec",
    "Decoder",
    "decodable",
    "decode",
    "decode_unsized",
    "decoder_names",
    "hdf5_codec",
    "present",
]

Buffer = bytes | bytearray | memoryview
"""Bytes as they travel between decoders."""

MAX_CHUNK_BYTES = 4 << 30
"""No chunk may decode to more than this: HDF5's own limit, and ours for what a damaged file may claim."""

EVERY_FILTER = 0xFFFFFFFF
"""The mask of a chunk that is stored without any filter; HDF5 allows 32."""


@dataclass(frozen=True, slots=True)
class Codec:
    """One step of a chunk's pipeline; plain values, so that it travels with a task."""

    id: str
    """The field's name of it: "zlib", "shuffle", "fletcher32", "zstd", …"""
    filter_id: int
    """HDF5's registered number of the filter; 0 for what HDF5 does not have: "gzip", "blosc2-chunk", Zarr's own filters."""
    values: tuple[int, ...] = ()
    """The filter's parameters, as HDF5 stores them."""


_NAMES = {
    1: "zlib",
    2: "shuffle",
    3: "fletcher32",
    4: "szip",
    5: "nbit",
    6: "scaleoffset",
    307: "bzip2",
    32000: "lzf",
    32001: "blosc",
    32004: "lz4",
    32008: "bitshuffle",
    32013: "zfp",
    32015: "zstd",
    32017: "sz",
    32024: "sz3",
    32026: "blosc2",
}


def hdf5_codec(filter_id: int, values: Iterable[int], name: str = "") -> Codec:
    """Return the codec of HDF5's filter `filter_id` with the parameters `values`.

    Examples:
        >>> hdf5_codec(1, (4,))
        Codec(id='zlib', filter_id=1, values=(4,))
        >>> hdf5_codec(40000, (), "mystery").id
        'mystery (HDF5 filter 40000)'
    """
    known = _NAMES.get(filter_id)
    return Codec(known or f"{name or 'unnamed'} (HDF5 filter {filter_id})", filter_id, tuple(values))


def present(codecs: tuple[Codec, ...], filter_mask: int) -> tuple[Codec, ...]:
    """Return the codecs that were really applied to a chunk: bit i of its mask says that filter i was skipped.

    Examples:
        >>> [codec.id for codec in present((Codec("shuffle", 2, (4,)), Codec("zlib", 1, (4,))), 0b10)]
        ['shuffle']
    """
    return codecs if filter_mask == 0 else tuple(c for i, c in enumerate(codecs) if not filter_mask >> i & 1)


@lru_cache(maxsize=1024)
def decodable(codecs: tuple[Codec, ...]) -> bool:
    """Return whether raw bytes of this pipeline can be decoded here, without the HDF5 library."""
    decoders = [_DECODERS.get(codec.id) for codec in codecs]
    known = all(decoder is not None and decoder.available() for decoder in decoders)
    # A shuffle that does not say how wide the numbers are is left to the HDF5 library, which refuses it.
    known = known and all(len(codec.values) == 1 and codec.values[0] > 0 for codec in codecs if codec.id == "shuffle")
    return known and sum(decoder is not None and decoder.compresses for decoder in decoders) <= 1


def decoder_names() -> dict[str, bool]:
    """Return the codecs that are decoded from raw bytes, and whether what each needs is installed."""
    return {name: decoder.available() for name, decoder in _DECODERS.items()}


def decode(raw: Buffer, codecs: tuple[Codec, ...], nbytes: int) -> Buffer:
    """Undo `codecs`, last one first, and return the `nbytes` bytes of the chunk.

    Parameters:
        raw: The bytes as stored.
        codecs: The pipeline in the order in which the writer applied it.
        nbytes: Size of the decoded chunk, in bytes.

    Raises:
        CorruptChunkError: The bytes cannot be decoded, or to another size, or a checksum is wrong.
        UnsupportedError: A codec is not decodable here.

    Examples:
        >>> bytes(decode(zlib.compress(b"abcd"), (Codec("zlib", 1, (4,)),), 4))
        b'abcd'
    """
    return Decoder(codecs, nbytes)(raw)


_Write = Callable[[Buffer, npt.NDArray[np.uint8]], None]
"""Undoes a codec and writes the bytes to an array."""


class Decoder:
    """Decodes chunks as `decode` does, many that have the same codecs and size."""

    def __init__(self, codecs: tuple[Codec, ...], nbytes: int) -> None:
        """Find out how chunks of `nbytes` bytes are decoded.

        Raises:
            UnsupportedError: A codec is not decodable here.
        """
        self._nbytes = nbytes
        self._steps = self._before = _steps(codecs, nbytes)
        self._last: _Write = _copied
        writer = _DECODERS[codecs[0].id].writer if codecs else None
        if writer is not None:
            # The step that comes last writes to where the chunk belongs, and spares a copy.
            self._before, self._last = self._steps[:-1], writer(codecs[0], nbytes)

    def __call__(self, raw: Buffer) -> Buffer:
        """Return the decoded bytes.

        Raises:
            CorruptChunkError: The bytes cannot be decoded, or to another size, or a checksum is wrong.
        """
        return _undone(raw, self._steps, self._nbytes)

    def into(self, raw: Buffer, out: npt.NDArray[np.uint8]) -> None:
        """Write the decoded bytes to `out`, which has the size of a chunk.

        Raises:
            CorruptChunkError: As above.
        """
        self._last(_undone(raw, self._before, self._nbytes), out)


def _undone(raw: Buffer, steps: tuple[_Step, ...], nbytes: int) -> Buffer:
    """Return what is left after `steps`, which has to be `nbytes` bytes."""
    for undo, codec, size in steps:
        try:
            raw = undo(raw, codec, MAX_CHUNK_BYTES if size is None else size)
        except _DECODING_ERRORS as error:
            raise CorruptChunkError(f"{codec.id} cannot decode it: {error}") from None
        if size is not None and len(raw) != size:
            raise CorruptChunkError(f"{codec.id} gives {len(raw)} bytes of it where {size} were written")
    if len(raw) != nbytes:
        raise CorruptChunkError(f"it has {len(raw)} bytes where the chunk has {nbytes}")
    return raw


def _copied(raw: Buffer, out: npt.NDArray[np.uint8]) -> None:
    out[:] = np.frombuffer(raw, np.uint8)


_Step = tuple[Callable[[Buffer, Codec, int], Buffer], Codec, int | None]
"""What undoes a codec, the codec, and how many bytes there are then, if that is known."""


@lru_cache(maxsize=1024)
def _steps(codecs: tuple[Codec, ...], nbytes: int) -> tuple[_Step, ...]:
    """Return how a chunk of `nbytes` bytes is decoded, step by step.

    Raises:
        UnsupportedError: A codec is not decodable here, or the chunk is too large.
    """
    if nbytes > MAX_CHUNK_BYTES:
        raise UnsupportedError(f"a chunk of {nbytes} bytes is above the limit of {MAX_CHUNK_BYTES}")
    if not decodable(codecs):
        raise UnsupportedError(f"the filters {[codec.id for codec in codecs]} cannot be decoded from raw bytes here")
    numbered = reversed(list(enumerate(codecs)))
    return tuple((_DECODERS[codec.id].decode, codec, _size_before(codecs[:position], nbytes)) for position, codec in numbered)


def decode_unsized(raw: Buffer, codecs: tuple[Codec, ...], most: int) -> Buffer:
    """Undo `codecs`, last one first, of a chunk of which nobody knows the size, and return at most `most` bytes.

    Parameters:
        raw: The bytes as stored.
        codecs: The pipeline in the order in which the writer applied it; of compressors "zlib", "gzip" and "blosc2-chunk".
        most: Bytes that the chunk may have; no more than one beyond are ever decoded.

    Raises:
        CorruptChunkError: The bytes cannot be decoded, or to more.
        UnsupportedError: A codec is not decodable here, or not without the size.

    Examples:
        >>> bytes(decode_unsized(zlib.compress(b"abcd"), (Codec("zlib", 1),), 100))
        b'abcd'
    """
    last = codecs[-1].id if codecs else ""
    if not decodable(codecs) or (codecs and _DECODERS[last].compresses and last not in _UNSIZED):
        raise UnsupportedError(f"the filters {[codec.id for codec in codecs]} cannot be decoded here without the chunk's size")
    if last in _UNSIZED:
        try:
            raw = _UNSIZED[last](raw, most)
        except _DECODING_ERRORS as error:
            raise CorruptChunkError(f"{last} cannot decode it: {error}") from None
        codecs = codecs[:-1]
    if len(raw) > most:
        raise CorruptChunkError(f"it has more than the {most} bytes that a chunk may have")
    return decode(raw, codecs, len(raw))


def _size_before(earlier: tuple[Codec, ...], nbytes: int) -> int | None:
    """Return how many bytes the writer gave to the codec after `earlier`; None behind a compressor."""
    if any(_DECODERS[codec.id].compresses for codec in earlier):
        return None
    for codec in earlier:
        nbytes = _DECODERS[codec.id].stored(codec, nbytes)
    return nbytes


_DECODING_ERRORS = (
    RuntimeError,
    ValueError,
    TypeError,
    OSError,
    EOFError,
    IndexError,
    MemoryError,
    OverflowError,
    SyntaxError,  # NumPy's, for the name of a type that is none
    zlib.error,
)


@dataclass(frozen=True, slots=True)
class _Decoder:
    """How one codec is undone, and whether what it needs is here."""

    decode: Callable[[Buffer, Codec, int], Buffer]
    needs: str | None = None
    compresses: bool = True
    """Whether it changes the size; the size before a second such codec is not known."""
    stored: Callable[[Codec, int], int] = lambda _, nbytes: nbytes
    """How many bytes it makes of so many, where that is known."""
    writer: Callable[[Codec, int], _Write] | None = None
    """Returns what writes so many bytes to an array; only of what does not change the size, and cannot fail."""

    def available(self) -> bool:
        """Return whether the module that it needs is installed."""
        return self.needs is None or _installed(self.needs)


@cache
def _installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


_ZLIB, _GZIP = 15, 31
"""What zlib calls the two formats around the same compressed data."""


def _inflate(raw: Buffer, codec: Codec, size: int) -> Buffer:
    return _deflated("zlib_decompress", _ZLIB, raw, size)


def _gunzip(raw: Buffer, codec: Codec, size: int) -> Buffer:
    """Undo the first member of a gzip file; what follows it is not read."""
    return _deflated("gzip_decompress", _GZIP, raw, size)


def _deflated(function: str, kind: int, raw: Buffer, size: int) -> Buffer:
    """Return what was deflated, by the function of libdeflate where it can be used, else by zlib."""
    deflate = _libdeflate()
    # Without a size, libdeflate believes what the last bytes say.
    if deflate is None or size == 0:
        return _inflate_up_to(kind, raw, size)
    try:
        inflated: Buffer = getattr(deflate, function)(raw, size)
    except deflate.DeflateError as error:
        raise ValueError(str(error) or "the compressed data are damaged") from None
    return inflated


@cache
def _libdeflate() -> Any:  # Any: the module is untyped
    """Return libdeflate, 4 times as fast as zlib and outside the GIL, where it is installed; it needs to know the size."""
    return importlib.import_module("deflate") if _installed("deflate") else None


def _inflate_up_to(kind: int, raw: Buffer, most: int) -> Buffer:
    """Return what was deflated, or the first bytes of it, one more than `most`."""
    inflater = zlib.decompressobj(kind)
    data = inflater.decompress(raw, most + 1)
    if not inflater.eof and len(data) <= most:
        raise ValueError("the compressed data are cut off")
    return data


def _bunzip(raw: Buffer, codec: Codec, size: int) -> Buffer:
    expander = bz2.BZ2Decompressor()
    data = expander.decompress(bytes(raw), size + 1)
    if not expander.eof and len(data) <= size:
        raise ValueError("the compressed data are cut off")
    return data


def _unshuffle(raw: Buffer, codec: Codec, size: int) -> Buffer:
    out = np.empty(len(raw), np.uint8)
    _unshuffler(codec, len(raw))(raw, out)
    return out.data


def _unshuffler(codec: Codec, nbytes: int) -> _Write:
    """Return what undoes the shuffle of `nbytes` bytes."""
    (width,) = codec.values
    count, fast = nbytes // width, _blosc2_unshuffle()
    if width == 1 or count == 0:
        return _copied
    if fast is None or width > _WIDEST_OF_BLOSC2 or nbytes % width or nbytes >= 1 << 31:
        return partial(_unshuffle_slowly, width, count)

    def unshuffle(raw: Buffer, out: npt.NDArray[np.uint8]) -> None:
        # ctypes finds an address in a third of NumPy's time, but only of what may be written to.
        try:
            first = _Byte.from_buffer(raw)
        except TypeError:
            first = _Byte.from_buffer(bytearray(raw))
        fast(width, nbytes, first, _Byte.from_buffer(out.data))

    return unshuffle


def _unshuffle_slowly(width: int, count: int, raw: Buffer, out: npt.NDArray[np.uint8]) -> None:
    shuffled, whole = np.frombuffer(raw, np.uint8), count * width
    # In one step: a damaged file may claim numbers of very many bytes.
    out[:whole].reshape(count, width)[...] = shuffled[:whole].reshape(width, count).T
    out[whole:] = shuffled[whole:]


_WIDEST_OF_BLOSC2 = 255
"""Bytes of a number up to which its library unshuffles; of wider ones it writes nothing."""
_Byte = ctypes.c_ubyte
"""The first byte of a buffer, for C functions."""


@cache
def _blosc2_unshuffle() -> Callable[[int, int, _Byte, _Byte], int] | None:
    """Return the vectorised unshuffle of the C-Blosc2 library, or None where blosc2 is not installed."""
    spec = importlib.util.find_spec("blosc2")
    if spec is None or spec.origin is None:
        return None
    folder = Path(spec.origin).parent / "lib"
    for path in sorted(folder.glob("*blosc2.*")):
        try:
            function = ctypes.CDLL(str(path)).blosc2_unshuffle
        except (OSError, AttributeError):
            continue
        function.argtypes = (ctypes.c_int32, ctypes.c_int32, ctypes.POINTER(_Byte), ctypes.POINTER(_Byte))
        function.restype = ctypes.c_int32
        found: Callable[[int, int, _Byte, _Byte], int] = function
        return found
    return None


def _verify_fletcher32(raw: Buffer, codec: Codec, size: int) -> Buffer:
    import numcodecs.fletcher32

    view = memoryview(raw)
    try:
        numcodecs.fletcher32.Fletcher32().decode(raw)
    except RuntimeError:
        # HDF5 before 1.6.3 swapped the bytes of each half on little-endian machines; the library accepts either.
        own, stored = bytes(numcodecs.fletcher32.Fletcher32().encode(view[:-4])[-4:]), bytes(view[-4:])
        if stored != bytes((own[1], own[0], own[3], own[2])):
            raise ValueError("the checksum is not that of the bytes") from None
    return view[:-4]


def _unzstd(raw: Buffer, codec: Codec, size: int) -> Buffer:
    import numcodecs.zstd

    claimed = zstd_size(bytes(memoryview(raw)[:18]))
    if claimed is not None and claimed != size:
        raise ValueError(f"it claims {claimed} bytes where {size} were written")
    # Given room for so many bytes, the library writes no more, whether the frame says its size or not.
    out = np.empty(size, np.uint8)
    numcodecs.zstd.decompress(raw, out)
    return out.data


def _unlz4(raw: Buffer, codec: Codec, size: int) -> Buffer:
    """Undo HDF5's LZ4 filter: total size, block size, then blocks, each behind its own size; big-endian."""
    import numcodecs.lz4

    view = memoryview(raw)
    total, block = int.from_bytes(view[:8], "big"), int.from_bytes(view[8:12], "big")
    if total != size or block == 0:
        raise ValueError(f"it claims {total} bytes in blocks of {block}")
    # One array for all: a list of small blocks would be many times as large as they are.
    out = np.empty(total, np.uint8)
    position, done = 12, 0
    while done < total:
        stored, wanted = int.from_bytes(view[position : position + 4], "big"), min(block, total - done)
        piece = view[position + 4 : position + 4 + stored]
        if len(piece) != stored or stored == 0:
            raise ValueError("the compressed data are cut off")
        room = out[done : done + wanted]
        if stored == wanted:
            # A block that did not shrink is stored as it is.
            room[:] = np.frombuffer(piece, np.uint8)
        else:
            numcodecs.lz4.decompress(wanted.to_bytes(4, "little") + piece, room)
        position, done = position + 4 + stored, done + wanted
    return out.data


def _unlz4_block(raw: Buffer, codec: Codec, size: int) -> Buffer:
    """Undo numcodecs' LZ4: the size, little-endian, and one block."""
    import numcodecs.lz4

    if int.from_bytes(memoryview(raw)[:4], "little") != size:
        raise ValueError("it claims another size than the chunk has")
    out = np.empty(size, np.uint8)
    numcodecs.lz4.decompress(raw, out)
    return out.data


def _unlzma(raw: Buffer, codec: Codec, size: int) -> Buffer:
    try:
        expander = lzma.LZMADecompressor(memlimit=_LZMA_MEMORY)
        data = expander.decompress(bytes(raw), size + 1)
    except lzma.LZMAError as error:
        raise ValueError(str(error)) from None
    if not expander.eof and len(data) <= size:
        raise ValueError("the compressed data are cut off")
    return data


_LZMA_MEMORY = 512 << 20
"""Bytes that undoing LZMA may take: what its highest level needs several times over."""


def _unblosc(raw: Buffer, codec: Codec, size: int) -> Buffer:
    import numcodecs.blosc

    head = bytes(memoryview(raw)[:16])
    if int.from_bytes(head[4:8], "little") != size:
        raise ValueError("it claims another size than the chunk has")
    # The library trusts this number, and would read behind the end of the bytes.
    if not len(head) <= int.from_bytes(head[12:16], "little") <= len(raw) or len(head) < 16:
        raise ValueError("the compressed data are cut off")
    data: Buffer = numcodecs.blosc.decompress(raw)
    return data


def _unblosc2(raw: Buffer, codec: Codec, size: int) -> Buffer:
    """Undo HDF5's Blosc2 filter: a Blosc2 frame."""
    import blosc2

    data = bytes(raw)
    most = check_blosc2_frame(data, size)
    stored = blosc2.schunk_from_cframe(data)
    if any(chunk.special == blosc2.SpecialValue.UNINIT for chunk in stored.iterchunks_info()):
        # What the memory held before would come out.
        raise ValueError("a part of it was never written")
    if "b2nd" not in stored.meta:
        if stored.nbytes != size:
            raise ValueError(f"it claims {stored.nbytes} bytes where {size} were written")
        whole: Buffer = stored[:]
        return whole
    # Stored in blocks of several dimensions: only the array view knows how they lie.
    array = blosc2.ndarray_from_cframe(data)
    if max(math.prod(array.shape), math.prod(array.ext_shape), math.prod(array.ext_chunks)) * array.dtype.itemsize > most:
        raise ValueError(f"it claims the shape {array.shape}")
    numbers: Buffer = array[...].tobytes()
    return numbers


def _unblosc2_chunk(raw: Buffer, codec: Codec, size: int) -> Buffer:
    """Undo a Blosc2 chunk as such, without a frame around it."""
    import blosc2

    nbytes, stored = blosc2_sizes(raw)
    if nbytes != size:
        raise ValueError(f"it claims {nbytes} bytes where {size} were written")
    # Zeros, as there are chunks that say of a part that it was never written: what the memory held would come out.
    out = bytearray(size)
    blosc2.decompress2(memoryview(raw)[:stored], out, nthreads=1)
    return out


def _unblosc2_chunk_up_to(raw: Buffer, most: int) -> Buffer:
    nbytes, _ = blosc2_sizes(raw)
    if nbytes > most:
        raise ValueError(f"it claims {nbytes} bytes, more than the {most} that a chunk may have")
    return _unblosc2_chunk(raw, Codec("blosc2-chunk", 0), nbytes)


def _with_checksum(codec: Codec, nbytes: int) -> int:
    return nbytes + 4


def _cast(codec: Codec, nbytes: int) -> int:
    return array_filters.cast_size(codec.values, nbytes)


def _array_filter(undo: Callable[[Buffer, tuple[int, ...]], Buffer], stored: Callable[[Codec, int], int] = _cast) -> _Decoder:
    return _Decoder(lambda raw, codec, _: undo(raw, codec.values), compresses=False, stored=stored)


def _checksum(name: str) -> _Decoder:
    return _array_filter(partial(array_filters.verified, name), _with_checksum)


_DECODERS = {
    "zlib": _Decoder(_inflate),
    "bzip2": _Decoder(_bunzip),
    "shuffle": _Decoder(_unshuffle, compresses=False, writer=_unshuffler),
    "fletcher32": _Decoder(_verify_fletcher32, needs="numcodecs", compresses=False, stored=_with_checksum),
    "zstd": _Decoder(_unzstd, needs="numcodecs"),
    "lz4": _Decoder(_unlz4, needs="numcodecs"),
    "blosc": _Decoder(_unblosc, needs="numcodecs"),
    "blosc2": _Decoder(_unblosc2, needs="blosc2"),
    "gzip": _Decoder(_gunzip),
    "blosc2-chunk": _Decoder(_unblosc2_chunk, needs="blosc2"),
    "lz4-block": _Decoder(_unlz4_block, needs="numcodecs"),
    "lzma": _Decoder(_unlzma),
    "delta": _array_filter(array_filters.undo_delta),
    "fixedscaleoffset": _array_filter(array_filters.undo_scale),
    "cast": _array_filter(array_filters.undo_cast),
    "transpose": _array_filter(array_filters.undo_transpose, lambda _, nbytes: nbytes),
    "crc32": _checksum("crc32"),
    "adler32": _checksum("adler32"),
    "crc32c": _checksum("crc32c"),
}

_UNSIZED: dict[str, Callable[[Buffer, int], Buffer]] = {
    "zlib": partial(_inflate_up_to, _ZLIB),
    "gzip": partial(_inflate_up_to, _GZIP),
    "blosc2-chunk": _unblosc2_chunk_up_to,
}
