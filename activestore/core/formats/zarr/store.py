"""Zarr stores of the formats 2 and 3, and whatever else has their metadata: variables, groups, and where chunks are.

Source: the Zarr specifications 2 and 3, with consolidated metadata as zarr-python writes them.
"""

from __future__ import annotations

import base64
import dataclasses
import json
import struct
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from activestore.core.codecs.decode import decodable
from activestore.core.formats.zarr.array_metadata import ArrayDocument, ZarrArray, describe, numeric_array
from activestore.core.formats.zarr.keys import ObjectIndex, ObjectSource, WholeIndex
from activestore.core.formats.zarr.shards import ShardIndex
from activestore.core.missing import is_unsigned, numbers_of, read_named_missing
from activestore.core.packing import TRUTH, read_packing
from activestore.core.variable import (
    ChunkIndex,
    Variable,
    contiguous_chunk_shape,
    grid_shape,
    no_such_variable,
    unwritten_table,
)
from activestore.errors import NotNumericError, SourceError, UnsupportedError

__all__ = ["Group", "OtherArray", "group_of", "read_variable", "variable_names"]

_DEEPEST = 32
_MOST_NODES = 100_000
"""Groups and arrays of a store without consolidated metadata that are looked at."""

_Document = Mapping[str, Any]  # Any: what JSON has


@dataclass(frozen=True, slots=True)
class OtherArray:
    """An array that cannot be reduced: of text or times, say, or behind a filter that nothing here undoes."""

    name: str
    """Its path in the store."""
    shape: tuple[int, ...]
    """Lengths of the dimensions."""
    dims: tuple[str, ...]
    """Names of the dimensions."""
    dtype: np.dtype[np.generic] | None
    """Type of the numbers; None where they are none."""
    type_name: str
    """What the store calls the type: "<U8", "string", "|O"."""
    attrs: Mapping[str, object]
    """The attributes."""
    reason: str
    """Why it cannot be reduced."""


@dataclass(frozen=True, slots=True)
class Group:
    """A group of a store."""

    attrs: Mapping[str, object]
    """Its attributes."""
    variables: Mapping[str, Variable | OtherArray]
    """The arrays directly in it, by their names without the group's."""
    groups: tuple[str, ...]
    """Names of the groups directly in it."""


def variable_names(source: ObjectSource) -> list[str]:
    """Return the paths of all arrays of a store, sorted: "group/var"."""
    return sorted(name for name, is_array in _nodes(source, "", depth=_DEEPEST) if is_array)


def global_attributes(source: ObjectSource) -> dict[str, object]:
    """Return the attributes of a store's root group; none where the store is one array."""
    return _Documents(source).group("") or {}


def group_of(source: ObjectSource, group: str = "") -> Group:
    """Return a group of a store: its attributes, and all arrays directly in it, of whatever type.

    Parameters:
        source: The store.
        group: Path of the group; "" for the root.

    Raises:
        VariableNotFoundError: There is no such group.
        SourceError: The store is damaged.
    """
    folder = group.strip("/")
    if not _is_plain(folder):
        raise no_such_variable(source.uri, group, [])
    documents = _Documents(source)
    head = documents.group(folder)
    if head is None:
        raise no_such_variable(source.uri, group, [])
    variables: dict[str, Variable | OtherArray] = {}
    groups = []
    for name, is_array in sorted(_nodes(source, folder, depth=1)):
        if is_array and (found := documents.array(name)) is not None:
            variables[name.rpartition("/")[2]] = _variable_or_other(source, found)
        elif name != folder:
            groups.append(name.rpartition("/")[2])
    return Group(head, variables, tuple(groups))


def _variable_or_other(source: ObjectSource, array: ArrayDocument) -> Variable | OtherArray:
    try:
        return _variable(source, array)
    except (NotNumericError, UnsupportedError) as error:
        return OtherArray(array.name, array.shape, array.dims, array.dtype, array.type_name, array.attrs, str(error))


def read_variable(source: ObjectSource, name: str) -> Variable:
    """Return the variable at the path `name` of a store.

    Raises:
        VariableNotFoundError: There is none of that name; the message has the names that are near.
        NotNumericError: It holds text, times or records.
        UnsupportedError: It has a filter that nothing here undoes.
        SourceError: The store is damaged.
    """
    path = name.strip("/")
    array = _Documents(source).array(path) if _is_plain(path) else None
    if array is None:
        raise no_such_variable(source.uri, name, variable_names(source))
    return _variable(source, array)


def _is_plain(path: str) -> bool:
    """Return whether a path stays inside of the store."""
    return not path or not ({"", ".", ".."} & set(path.split("/")) or "\\" in path or "\0" in path)


def _variable(source: ObjectSource, array: ArrayDocument) -> Variable:
    dtype = array.dtype
    if dtype is None:
        what = f"values of the type {array.type_name!r}"
        raise NotNumericError(
            f"{source.uri}: {array.name!r} holds {what}, not numbers that can be reduced; choose a numeric variable"
        )
    # Truth values are single bytes.
    numeric = numeric_array(source.uri, array, np.dtype("|i1") if dtype.kind == "b" else dtype)
    stored, codecs = numeric.pipeline.dtype, numeric.pipeline.codecs
    if not decodable(codecs):
        names = ", ".join(codec.id for codec in codecs)
        raise UnsupportedError(f"{source.uri}: {array.name!r} has the filters {names}, which cannot be undone together here")
    attrs = _with_fill(array, numeric.fill_value)
    packing = read_packing(_with_double_factors(attrs))
    missing = read_named_missing(_typed(attrs, stored), stored)
    if is_unsigned(attrs, stored):
        stored = np.dtype(stored.str.replace("i", "u"))
    whole = numeric.contiguous
    chunk_shape = contiguous_chunk_shape(array.shape, stored.itemsize) if whole else numeric.chunk_shape
    return Variable(
        uri=source.uri,
        version=source.version,
        name=array.name,
        shape=array.shape,
        dims=array.dims,
        dtype=stored,
        attrs=attrs,
        layout="contiguous" if whole else "chunked",
        chunk_shape=chunk_shape,
        codecs=codecs,
        extent=array.shape,
        fill=numeric.fill,
        missing=missing,
        packing=TRUTH if packing is None and dtype.kind == "b" else packing,
        table=dataclasses.replace(unwritten_table(grid_shape(array.shape, chunk_shape)), unread=_index(array, numeric)),
    )


def _index(array: ArrayDocument, numeric: ZarrArray) -> ChunkIndex:
    if numeric.contiguous:
        itemsize = numeric.pipeline.dtype.itemsize
        return WholeIndex(numeric.keys, array.shape, contiguous_chunk_shape(array.shape, itemsize), itemsize)
    if numeric.pipeline.sharding is None:
        return ObjectIndex(numeric.keys)
    return ShardIndex(numeric.keys, numeric.pipeline.sharding, array.shape, numeric.object_shape)


def _with_fill(array: ArrayDocument, fill_value: float | None) -> dict[str, object]:
    """Return the attributes with `_FillValue` as xarray has it: format 2's fill value is one, format 3 encodes it."""
    attrs = dict(array.attrs)
    given = attrs.get("_FillValue")
    if isinstance(given, str) and array.dtype is not None and array.dtype.kind == "f":
        # Text that is no number counts for nothing, as everywhere.
        with suppress(struct.error, ValueError):
            (attrs["_FillValue"],) = struct.unpack("<d", base64.standard_b64decode(given))
    if array.format == 2 and fill_value is not None:
        is_truth = array.dtype is not None and array.dtype.kind == "b"
        attrs["_FillValue"] = np.bool_(fill_value) if is_truth else fill_value
    return attrs


def _typed(attrs: Mapping[str, object], dtype: np.dtype[np.generic]) -> dict[str, object]:
    """Return the attributes with numbers in the type of the stored ones, if these are floats: JSON has one type for all."""
    if dtype.kind != "f":
        return {name: int(value) if isinstance(value, np.bool_) else value for name, value in attrs.items()}
    typed = dict(attrs)
    for name in ("_FillValue", "missing_value", "valid_min", "valid_max", "valid_range"):
        array = numbers_of(typed.get(name))
        if array is not None:
            with np.errstate(all="ignore"):
                typed[name] = array.astype(dtype.newbyteorder("="))
    return typed


def _with_double_factors(attrs: Mapping[str, object]) -> dict[str, object]:
    """Return the attributes with scale and offset as doubles: writers of JSON leave out the point of a whole number."""
    given = {name: numbers_of(attrs.get(name)) for name in ("scale_factor", "add_offset")}
    return {**attrs, **{name: value.astype("f8") for name, value in given.items() if value is not None}}


class _Documents:
    """The JSON documents of a store: out of its consolidated metadata where it has them."""

    def __init__(self, source: ObjectSource) -> None:
        self._source = source
        self.consolidated = _consolidated(source)

    def _document(self, key: str) -> _Document | None:
        if self.consolidated is not None:
            return self.consolidated.get(key)
        data = self._source.read_object(key)
        return None if data is None else _parsed_named(self._source, key, data)

    def array(self, path: str) -> ArrayDocument | None:
        """Return the array at a path, None if there is none."""
        at = f"{path}/" if path else ""
        newer = self._document(f"{at}zarr.json")
        if newer is not None:
            if newer.get("node_type") != "array":
                return None
            return describe(self._source.uri, path, newer, newer.get("attributes", {}), version=3)
        older = self._document(f"{at}.zarray")
        if older is None:
            return None
        return describe(self._source.uri, path, older, self._document(f"{at}.zattrs") or {}, version=2)

    def group(self, path: str) -> dict[str, object] | None:
        """Return the attributes of the group at a path, None if there is none."""
        at = f"{path}/" if path else ""
        newer = self._document(f"{at}zarr.json")
        if newer is not None:
            attributes = newer.get("attributes", {})
            is_group = newer.get("node_type") == "group" and isinstance(attributes, Mapping)
            return dict(attributes) if is_group else None
        if self._document(f"{at}.zgroup") is None:
            return None
        return {key: value for key, value in (self._document(f"{at}.zattrs") or {}).items() if not key.startswith("_NCZARR")}


def _consolidated(source: ObjectSource) -> _Document | None:
    """Return all documents of a store by their keys, None if they are not kept together."""
    data = source.read_object("zarr.json")
    if data is not None:
        root = _parsed_named(source, "zarr.json", data)
        inside = root.get("consolidated_metadata")
        found = inside.get("metadata") if isinstance(inside, Mapping) else None
        if not isinstance(found, Mapping):
            return None
        own = {f"{path}/zarr.json": node for path, node in found.items() if isinstance(node, Mapping)}
        return {"zarr.json": root, **own}
    data = source.read_object(".zmetadata")
    if data is None:
        return None
    found = _parsed_named(source, ".zmetadata", data).get("metadata")
    if not isinstance(found, Mapping):
        raise SourceError(f"{source.uri}: .zmetadata holds no metadata; is it damaged?")
    return {key: node for key, node in found.items() if isinstance(node, Mapping)}


def _parsed_named(source: ObjectSource, key: str, data: bytes) -> _Document:
    try:
        return _parsed(data)
    except (ValueError, RecursionError) as error:
        raise SourceError(f"{source.uri}: {key} cannot be read ({error}); is it damaged?") from None


@lru_cache(maxsize=64)
def _parsed(data: bytes) -> _Document:
    """Return a JSON object; callers share it, and leave it as it is."""
    found = json.loads(data)
    if not isinstance(found, dict):
        raise ValueError("it is no JSON object")  # noqa: TRY004  # of the data, not of the caller
    return found


def _nodes(source: ObjectSource, folder: str, *, depth: int) -> Iterator[tuple[str, bool]]:
    """Yield the path of each node at and below a folder, up to `depth` levels down, and whether it is an array."""
    documents = _Documents(source)
    if documents.consolidated is not None:
        yield from _listed_nodes(documents.consolidated, folder, depth)
        return
    yield from _walked_nodes(source, documents, folder, depth)


def _listed_nodes(consolidated: _Document, folder: str, depth: int) -> Iterator[tuple[str, bool]]:
    prefix = f"{folder}/" if folder else ""
    for key, document in consolidated.items():
        path, _, last = key.rpartition("/")
        below = path.removeprefix(prefix).split("/") if path != folder else []
        if not (path == folder or path.startswith(prefix)) or len(below) > depth or not _is_plain(path):
            continue
        if last == "zarr.json":
            yield path, document.get("node_type") == "array"
        elif last in (".zarray", ".zgroup"):
            yield path, last == ".zarray"


def _walked_nodes(source: ObjectSource, documents: _Documents, folder: str, depth: int) -> Iterator[tuple[str, bool]]:
    level, seen = [folder], 0
    for left in range(depth, -1, -1):
        below: list[str] = []
        for path in level:
            seen += 1
            if seen > _MOST_NODES:
                raise SourceError(f"{source.uri}: has more than {_MOST_NODES} groups and arrays; name the variable")
            if documents.array(path) is not None:
                yield path, True
            elif documents.group(path) is not None:
                yield path, False
                below += [f"{path}/{name}" if path else name for name in source.folders(path)] if left else []
        level = below
