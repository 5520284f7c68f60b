"""The description of one Zarr array: `.zarray` and `.zattrs` of format 2, `zarr.json` of format 3.

Source: the Zarr specifications 2 and 3; xarray's conventions for names of dimensions and fill values.
"""

from __future__ import annotations

import base64
import binascii
import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from activestore.core.codecs.decode import MAX_CHUNK_BYTES
from activestore.core.formats.zarr.codecs import Pipeline, read_pipeline_v2, read_pipeline_v3
from activestore.core.formats.zarr.keys import ChunkKeys
from activestore.errors import SourceError, UnsupportedError

__all__ = ["ArrayDocument", "ZarrArray", "describe", "numeric_array"]

_TYPES_V3 = {
    **{f"{kind}{8 * size}": f"<{kind[0]}{size}" for kind in ("int", "uint", "float") for size in (1, 2, 4, 8)},
    "bool": "|b1",
}
del _TYPES_V3["float8"]
_MOST_DIMENSIONS = 32
"""NumPy's limit for positions in a grid."""
_MOST_CHUNKS = 1 << 31
"""Chunks of a variable; a damaged store may claim any number."""
_DIMENSIONS = "_ARRAY_DIMENSIONS"


@dataclass(frozen=True, slots=True)
class ArrayDocument:
    """An array as its store describes it, of whatever type."""

    name: str
    """Its path in the store."""
    format: int
    """2 or 3."""
    document: Mapping[str, object]
    """`.zarray`, or `zarr.json`."""
    shape: tuple[int, ...]
    """Lengths of the dimensions."""
    dims: tuple[str, ...]
    """Names of the dimensions."""
    dtype: np.dtype[np.generic] | None
    """Type of the numbers, or truth values; None where they are neither."""
    type_name: str
    """What the store calls the type."""
    attrs: Mapping[str, object]
    """The attributes, without those that name the dimensions."""


@dataclass(frozen=True, slots=True)
class ZarrArray:
    """What is needed, beside the description, to read the numbers."""

    pipeline: Pipeline
    """What was done to them."""
    chunk_shape: tuple[int, ...]
    """Lengths of a chunk."""
    object_shape: tuple[int, ...]
    """Lengths of what one object holds: a chunk, or a shard of many."""
    keys: ChunkKeys
    """The keys of the objects."""
    fill: bytes
    """The stored number of cells that were never written."""
    fill_value: int | float | None
    """That number, None where the store names none."""
    contiguous: bool = False
    """Whether there is one chunk, with the numbers as they are, so that parts of it can be read."""


def describe(uri: str, name: str, document: object, attrs: object, *, version: int) -> ArrayDocument:
    """Return what the documents of an array say of it.

    Parameters:
        uri: The store, for messages.
        name: The path of the array.
        document: What its `.zarray` or `zarr.json` holds.
        attrs: What its `.zattrs` holds, or the attributes in its `zarr.json`.
        version: 2 or 3: the format.

    Raises:
        SourceError: They are damaged.
    """
    if not isinstance(document, Mapping) or not isinstance(attrs, Mapping):
        raise _damaged(uri, name, TypeError("no JSON object"))
    if document.get("zarr_format") != version:
        raise _damaged(uri, name, ValueError(f"the format is {document.get('zarr_format')!r}"))
    try:
        shape = _lengths(document["shape"], "the shape")
        given = document["dtype"] if version == 2 else document["data_type"]
        dtype = _dtype_v2(given) if version == 2 else _dtype_v3(given)
        dims = _dims(shape, document, attrs)
    except (ValueError, TypeError, KeyError, OverflowError) as error:
        raise _damaged(uri, name, error) from None
    hidden = (_DIMENSIONS, "_NCZARR_ARRAY", "_nczarr_array", "_NCZARR_ATTR", "_nczarr_attr")
    kept = {str(key): value for key, value in attrs.items() if key not in hidden}
    return ArrayDocument(name, version, document, shape, dims, dtype, _type_name(given), kept)


def numeric_array(uri: str, array: ArrayDocument, dtype: np.dtype[np.generic]) -> ZarrArray:
    """Return what is needed to read the numbers of an array.

    Raises:
        UnsupportedError: It has a codec or a layout that nothing here reads.
        SourceError: Its description is damaged.
    """
    try:
        found = _numeric_v2(array, dtype) if array.format == 2 else _numeric_v3(array, dtype)
        return _as_a_whole(found) if _is_whole(array, found) else _checked_size(found)
    except UnsupportedError as error:
        raise UnsupportedError(f"{uri}: {array.name!r} has {error}; read it with the zarr package") from None
    except (ValueError, TypeError, KeyError, OverflowError, struct.error) as error:
        raise _damaged(uri, array.name, error) from None


def _is_whole(array: ArrayDocument, found: ZarrArray) -> bool:
    """Return whether there is one chunk, with the numbers as they are, so that parts of it can be read."""
    plain = not found.pipeline.codecs and found.pipeline.sharding is None
    return plain and array.shape == found.chunk_shape != () and 0 not in array.shape


def _as_a_whole(found: ZarrArray) -> ZarrArray:
    return replace(found, contiguous=True, keys=replace(found.keys, shared=True))


def _checked_size(found: ZarrArray) -> ZarrArray:
    if math.prod(found.chunk_shape) * found.pipeline.dtype.itemsize > MAX_CHUNK_BYTES:
        raise UnsupportedError(f"chunks of the shape {found.chunk_shape}, more than 4 GiB each")
    return found


def _damaged(uri: str, name: str, error: Exception) -> SourceError:
    said = f"{error} is missing" if isinstance(error, KeyError) else str(error)
    return SourceError(f"{uri}: the metadata of {name!r} cannot be read ({said}); is it damaged?")


def _numeric_v2(array: ArrayDocument, dtype: np.dtype[np.generic]) -> ZarrArray:
    document = array.document
    if "order" not in document:
        # Every array has one: where it was damaged, it cannot be told which.
        raise KeyError("order")
    chunk_shape = _chunk_shape(document["chunks"], array.shape)
    separator = document.get("dimension_separator", ".")
    keys = _keys(array, chunk_shape, "", separator, "0")
    fill = document["fill_value"]
    return ZarrArray(read_pipeline_v2(document, dtype, chunk_shape), chunk_shape, chunk_shape, keys, *_fill(fill, dtype))


def _numeric_v3(array: ArrayDocument, dtype: np.dtype[np.generic]) -> ZarrArray:
    document = array.document
    if document.get("storage_transformers"):
        raise UnsupportedError("storage transformers")
    grid, encoding = _named(document["chunk_grid"]), _named(document["chunk_key_encoding"])
    if grid[0] != "regular":
        raise UnsupportedError(f"a chunk grid of the kind {grid[0]!r}")
    if encoding[0] not in ("default", "v2"):
        raise UnsupportedError(f"chunk keys of the kind {encoding[0]!r}")
    object_shape = _chunk_shape(grid[1]["chunk_shape"], array.shape)
    plain = encoding[0] == "v2"
    separator = encoding[1].get("separator", "." if plain else "/")
    pipeline = read_pipeline_v3(document["codecs"], dtype, object_shape)
    lead, scalar = ("", "0") if plain else (f"c{separator}", "c")
    keys = _keys(array, object_shape, lead, separator, scalar, shared=pipeline.sharding is not None)
    chunk_shape = object_shape if pipeline.sharding is None else pipeline.sharding.chunk_shape
    _chunk_shape(list(chunk_shape), array.shape)
    return ZarrArray(pipeline, chunk_shape, object_shape, keys, *_fill(document["fill_value"], pipeline.dtype))


def _keys(
    array: ArrayDocument, object_shape: tuple[int, ...], lead: str, separator: object, scalar: str, shared: bool = False
) -> ChunkKeys:
    if separator not in (".", "/"):
        raise ValueError(f"the numbers in chunk keys are separated by {separator!r}")
    grid = tuple(-(-length // chunk) for length, chunk in zip(array.shape, object_shape, strict=True))
    folder = f"{array.name}/" if array.name else ""
    nbytes = math.prod(object_shape) * (array.dtype.itemsize if array.dtype is not None else 1)
    # Filters may widen the numbers, compressors add a little.
    return ChunkKeys(folder + lead, str(separator), grid, folder + scalar, 32 * nbytes + (1 << 20), shared)


def _chunk_shape(given: object, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the lengths of a chunk.

    Raises:
        UnsupportedError: There are too many.
    """
    chunks = _lengths(given, "the shape of chunks")
    if len(chunks) != len(shape):
        raise ValueError(f"chunks of the shape {chunks} are in an array of the shape {shape}")
    # Some writers have chunks of the length 0 where the dimension is empty.
    chunks = tuple(1 if length == chunk == 0 else chunk for length, chunk in zip(shape, chunks, strict=True))
    if 0 in chunks:
        raise ValueError(f"chunks have the shape {chunks}")
    count = math.prod(-(-length // chunk) for length, chunk in zip(shape, chunks, strict=True))
    if count > _MOST_CHUNKS:
        raise UnsupportedError(f"{count} chunks, more than the {_MOST_CHUNKS} that are read")
    return chunks


def _lengths(given: object, what: str) -> tuple[int, ...]:
    if not isinstance(given, (list, tuple)) or not all(type(length) is int and 0 <= length < 1 << 62 for length in given):
        raise ValueError(f"{what} is {str(given)[:60]!r}")
    if len(given) > _MOST_DIMENSIONS:
        raise ValueError(f"{what} has {len(given)} dimensions")
    return tuple(given)


def _named(given: object) -> tuple[str, Mapping[str, object]]:
    """Return name and configuration of something that may be extended."""
    if isinstance(given, str):
        return given, {}
    if not isinstance(given, Mapping) or not isinstance(given.get("configuration", {}), Mapping):
        raise TypeError(f"a name and a configuration were expected, not {str(given)[:60]!r}")
    return str(given.get("name")), given.get("configuration", {})


def _dims(shape: Sequence[int], document: Mapping[str, object], attrs: Mapping[str, object]) -> tuple[str, ...]:
    """Return the names of the dimensions: format 3's own, xarray's attribute, or NCZarr's."""
    names = document.get("dimension_names") or attrs.get(_DIMENSIONS)
    own = attrs.get("_nczarr_array") or attrs.get("_NCZARR_ARRAY") or document.get("_NCZARR_ARRAY")
    if names is None and isinstance(own, Mapping):
        references = own.get("dimrefs") or own.get("dimension_references")
        names = [str(one).rpartition("/")[2] for one in references] if isinstance(references, list) else None
    if not isinstance(names, (list, tuple)) or len(names) != len(shape):
        names = [None] * len(shape)
    return tuple(name if isinstance(name, str) else f"dim_{dim}" for dim, name in enumerate(names))


def _type_name(given: object) -> str:
    if isinstance(given, Mapping):
        given = given.get("name")
    return given if isinstance(given, str) else "records"


def _dtype_v2(given: object) -> np.dtype[np.generic] | None:
    """Return a type of numbers, or that of truth values; None for any other."""
    if not isinstance(given, str):
        return None
    dtype = np.dtype(given)
    return dtype if dtype.kind in "biuf" and dtype.itemsize <= 8 else None


def _dtype_v3(given: object) -> np.dtype[np.generic] | None:
    found = _TYPES_V3.get(given) if isinstance(given, str) else None
    return None if found is None else np.dtype(found)


def _fill(given: object, dtype: np.dtype[np.generic]) -> tuple[bytes, int | float | None]:
    """Return the bytes and the number of a fill value; zero where there is none.

    Raises:
        ValueError: The type has no such number.
    """
    if given is None:
        return bytes(dtype.itemsize), None
    if isinstance(given, str):
        return _fill_of_text(given, dtype)
    if not isinstance(given, (int, float)):
        raise TypeError(f"the fill value is {str(given)[:60]!r}")
    if dtype.kind == "f":
        with np.errstate(all="ignore"):
            number = np.array(float(given), dtype)
    else:
        if given != given or given in (math.inf, -math.inf) or int(given) != given:
            raise ValueError(f"the fill value of integers is {given}")
        number = np.array(int(given), dtype)
    return number.tobytes(), number.item()


def _fill_of_text(text: str, dtype: np.dtype[np.generic]) -> tuple[bytes, int | float | None]:
    """Return the bytes and the number of a fill value that is written as text: "NaN", "-Infinity", "0x7fc00000", base64."""
    if dtype.kind == "f" and text in ("NaN", "Infinity", "-Infinity"):
        number = np.array(float(text), dtype)
        return number.tobytes(), number.item()
    if text.startswith("0x") and len(text) == 2 + 2 * dtype.itemsize:
        # Format 3 writes the bytes of a number the highest first.
        stored = bytes.fromhex(text[2:])
        raw = np.frombuffer(stored, dtype.newbyteorder(">")).astype(dtype)
        exact = stored if dtype.str[0] == ">" else stored[::-1]
        return exact, raw[0].item()
    try:
        stored = base64.standard_b64decode(text)
    except binascii.Error:
        stored = b""
    if len(stored) != dtype.itemsize:
        raise ValueError(f"the fill value is {text[:60]!r}")
    return stored, np.frombuffer(stored, dtype)[0].item()
