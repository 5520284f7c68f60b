"""Filters and compressors of Zarr arrays as codecs: formats 2 and 3, and numcodecs' own by whatever name.

Source: numcodecs' configurations; the Zarr specification 3 and its codecs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from activestore.core.codecs.array_filters import AT_END, AT_START, float_bits, type_numbers
from activestore.core.codecs.decode import Codec
from activestore.errors import UnsupportedError

__all__ = ["Pipeline", "Sharding", "codec_name", "read_pipeline_v2", "read_pipeline_v3"]

_COMPRESSORS = {"zlib": 1, "bz2": 307, "zstd": 32015, "blosc": 32001, "gzip": 0, "lzma": 0, "lz4": 0}
_OTHER_NAMES = {"bz2": "bzip2", "lz4": "lz4-block"}
_MOST_CODECS = 32


@dataclass(frozen=True, slots=True)
class Sharding:
    """Many chunks in one object, behind or before an index."""

    chunk_shape: tuple[int, ...]
    """Lengths of a chunk."""
    index_at_end: bool
    """Whether the index is the last thing in the object; the first, if not."""
    index_order: str
    """Byte order of the index, as NumPy has it."""
    index_checked: bool
    """Whether a CRC-32C follows the index."""


@dataclass(frozen=True, slots=True)
class Pipeline:
    """What was done to the numbers of a chunk."""

    dtype: np.dtype[np.generic]
    """The numbers' type, with the byte order in which they are stored."""
    codecs: tuple[Codec, ...]
    """What was done to them, in the writer's order."""
    sharding: Sharding | None
    """How chunks share objects; None where each has one of its own."""


def codec_name(given: object) -> str:
    """Return the name of a codec, in whichever format it is described.

    Examples:
        >>> codec_name({"id": "zlib"}), codec_name({"name": "numcodecs.delta"}), codec_name("bytes")
        ('zlib', 'delta', 'bytes')
    """
    if isinstance(given, Mapping):
        given = given.get("name", given.get("id"))
    if not isinstance(given, str):
        raise TypeError(f"a codec is {given!r}")
    return given.removeprefix("numcodecs.")


def read_pipeline_v2(document: Mapping[str, object], dtype: np.dtype[np.generic], chunk_shape: tuple[int, ...]) -> Pipeline:
    """Return what a `.zarray` says was done to its chunks.

    Raises:
        UnsupportedError: It has a filter that nothing here undoes.
        ValueError, TypeError, KeyError: It is damaged.
    """
    order, filters, compressor = document.get("order", "C"), document.get("filters"), document.get("compressor")
    if order not in ("C", "F"):
        raise ValueError(f"the order is {order!r}")
    steps = [*_listed(filters or []), *([] if compressor is None else [compressor])]
    axes = tuple(reversed(range(len(chunk_shape)))) if order == "F" else tuple(range(len(chunk_shape)))
    codecs = _turned(axes, dtype.itemsize, chunk_shape)
    return Pipeline(dtype, (*codecs, *_codecs(steps, dtype)), None)


def read_pipeline_v3(given: object, dtype: np.dtype[np.generic], chunk_shape: tuple[int, ...]) -> Pipeline:
    """Return what the `codecs` of a `zarr.json` do to a chunk; with sharding, what is done to the chunks in a shard.

    Raises:
        UnsupportedError: It has a codec that nothing here undoes.
        ValueError, TypeError, KeyError: It is damaged.
    """
    steps = _listed(given)
    names = [codec_name(step) for step in steps]
    if "sharding_indexed" in names:
        if names != ["sharding_indexed"]:
            raise UnsupportedError(f"shards inside of other codecs ({', '.join(names)})")
        return _sharded(_configuration(steps[0]), dtype, chunk_shape)
    at = names.index("bytes") if "bytes" in names else len(names)
    if at == len(names):
        raise UnsupportedError(f"the codecs {', '.join(names) or 'none at all'}, which make no plain bytes of numbers")
    codecs: list[Codec] = []
    shape, stored = chunk_shape, dtype
    for step, name in zip(steps[:at], names[:at], strict=True):
        if name == "transpose":
            axes = _axes(_configuration(step).get("order"), len(shape))
            codecs += _turned(axes, stored.itemsize, shape)
            shape = tuple(shape[axis] for axis in axes)
        else:
            codecs += _codecs([step], stored)
            stored = np.dtype(f"{stored.str[0]}{_after(codecs[-1:], stored).str[1:]}")
    big = _configuration(steps[at]).get("endian", "little") == "big"
    codecs = [_in_order(codec, big=big) for codec in codecs]
    ordered = dtype.newbyteorder(">" if big else "<")
    return Pipeline(ordered, (*codecs, *_codecs(steps[at + 1 :], np.dtype("u1"))), None)


def _after(codecs: Sequence[Codec], dtype: np.dtype[np.generic]) -> np.dtype[np.generic]:
    """Return the type that the numbers have behind these codecs."""
    for codec in codecs:
        if codec.id in ("delta", "fixedscaleoffset", "cast"):
            dtype = np.dtype(f"{chr(codec.values[3])}{chr(codec.values[4])}{codec.values[5]}")
    return dtype


def _in_order(codec: Codec, *, big: bool) -> Codec:
    """Return a codec of numbers with the types in the byte order in which the last of them are stored."""
    if codec.id not in ("delta", "fixedscaleoffset", "cast"):
        return codec
    order = ord(">" if big else "<")
    return Codec(codec.id, codec.filter_id, (order, *codec.values[1:3], order, *codec.values[4:]))


def _sharded(given: Mapping[str, object], dtype: np.dtype[np.generic], shard_shape: tuple[int, ...]) -> Pipeline:
    shape = tuple(_listed(given.get("chunk_shape")))
    numbers = tuple(length for length in shape if type(length) is int and length > 0)
    if len(numbers) != len(shard_shape) or len(shape) != len(shard_shape):
        raise ValueError(f"chunks of the shape {shape} are in shards of the shape {shard_shape}")
    if any(shard % chunk for shard, chunk in zip(shard_shape, numbers, strict=True)):
        raise ValueError(f"shards of the shape {shard_shape} are no multiple of their chunks of {numbers}")
    inner = read_pipeline_v3(given.get("codecs"), dtype, numbers)
    if inner.sharding is not None:
        raise UnsupportedError("shards inside of shards")
    index = _listed(given.get("index_codecs", [{"name": "bytes"}, {"name": "crc32c"}]))
    names = [codec_name(step) for step in index]
    if names not in (["bytes"], ["bytes", "crc32c"]):
        raise UnsupportedError(f"a shard index behind the codecs {', '.join(names)}")
    location = given.get("index_location", "end")
    if location not in ("start", "end"):
        raise ValueError(f"the index of shards is at {location!r}")
    order = ">" if _configuration(index[0]).get("endian", "little") == "big" else "<"
    return Pipeline(inner.dtype, inner.codecs, Sharding(numbers, location == "end", order, len(names) == 2))


def _codecs(steps: Sequence[object], dtype: np.dtype[np.generic]) -> tuple[Codec, ...]:
    """Return the codecs of these steps, which are applied to numbers of the type `dtype`, or to bytes."""
    found: list[Codec] = []
    for step in steps:
        found += _codec(codec_name(step), _configuration(step), dtype)
    return tuple(found)


def _codec(name: str, given: Mapping[str, object], dtype: np.dtype[np.generic]) -> list[Codec]:
    if name in _COMPRESSORS:
        if name == "lzma" and (given.get("format", 1) not in (1, 2) or given.get("filters")):
            raise UnsupportedError("the filter 'lzma' in its raw format")
        return [Codec(_OTHER_NAMES.get(name, name), _COMPRESSORS[name])]
    if name == "shuffle":
        width = given.get("elementsize", 4)
        if type(width) is not int or not 0 < width < 256:
            raise ValueError(f"the filter 'shuffle' is for numbers of {width!r} bytes")
        return [Codec("shuffle", 2, (width,))]
    if name == "fletcher32":
        return [Codec("fletcher32", 3)]
    if name in ("crc32", "adler32", "crc32c"):
        return [Codec(name, 0, (_place(name, given),))]
    if name == "bitround":
        # What it does is done: some bits are zero.
        return []
    if name == "astype":
        name, given = "quantize", {"dtype": given.get("decode_dtype"), "astype": given.get("encode_dtype")}
    if name in ("delta", "fixedscaleoffset", "quantize"):
        return _of_numbers(name, given, dtype)
    raise UnsupportedError(f"the filter {name!r}, which nothing here undoes")


def _place(name: str, given: Mapping[str, object]) -> int:
    """Return where a checksum stands."""
    place = given.get("location", "end" if name == "crc32c" else "start")
    if place not in ("start", "end"):
        raise ValueError(f"the checksum {name!r} is at {place!r}")
    return AT_END if place == "end" else AT_START


def _of_numbers(name: str, given: Mapping[str, object], dtype: np.dtype[np.generic]) -> list[Codec]:
    """Return the codec of a filter that makes other numbers of numbers."""
    before = _number_type(given.get("dtype", dtype.str), dtype)
    after = _number_type(given.get("astype", before.str), before)
    types = (*type_numbers(before), *type_numbers(after))
    if name == "delta":
        return [Codec("delta", 0, types)]
    if name == "quantize":
        return [] if before == after else [Codec("cast", 0, types)]
    scale, offset = (_finite(given.get(key, default)) for key, default in (("scale", 1), ("offset", 0)))
    return [Codec("fixedscaleoffset", 0, (*types, float_bits(scale), float_bits(offset)))]


def _number_type(given: object, like: np.dtype[np.generic]) -> np.dtype[np.generic]:
    """Return a type of numbers; byte order and all, as NumPy or as Zarr 3 name it."""
    if not isinstance(given, str):
        raise TypeError(f"a filter is for the type {given!r}")
    dtype = np.dtype(given)
    if dtype.kind not in "iuf" or dtype.itemsize > 8:
        raise UnsupportedError(f"a filter of numbers of the type {dtype}")
    return dtype if given[0] in "<>|=" else dtype.newbyteorder(">" if like.str[0] == ">" else "<")


def _finite(given: object) -> float:
    if isinstance(given, bool) or not isinstance(given, (int, float)) or not math.isfinite(given):
        raise ValueError(f"the filter 'fixedscaleoffset' has the number {given!r}")
    return float(given)


def _turned(axes: tuple[int, ...], itemsize: int, shape: tuple[int, ...]) -> list[Codec]:
    """Return the codec of axes in another order; none if it is the same."""
    if axes == tuple(range(len(shape))):
        return []
    return [Codec("transpose", 0, (itemsize, *axes, *shape))]


def _axes(given: object, ndim: int) -> tuple[int, ...]:
    if given == "C":
        return tuple(range(ndim))
    if given == "F":
        return tuple(reversed(range(ndim)))
    axes = tuple(_listed(given))
    if any(type(axis) is not int for axis in axes) or sorted(axes) != list(range(ndim)):  # type: ignore[type-var]
        raise ValueError(f"the axes are turned to {given!r}")
    return axes  # type: ignore[return-value]  # they are numbers


def _configuration(given: object) -> Mapping[str, object]:
    """Return the parameters of a codec: beside its id in format 2, apart from its name in format 3."""
    if not isinstance(given, Mapping):
        return {}
    inside = given.get("configuration", {}) if "name" in given else given
    if not isinstance(inside, Mapping):
        raise TypeError(f"a codec is configured by {inside!r}")
    return inside


def _listed(given: object) -> list[object]:
    if not isinstance(given, (list, tuple)) or len(given) > _MOST_CODECS:
        raise TypeError(f"a list was expected, not {str(given)[:60]!r}")
    return list(given)
