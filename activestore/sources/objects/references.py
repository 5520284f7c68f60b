"""Kerchunk's references: where the chunks of a Zarr array lie in other files, read from JSON or from a folder of Parquet files.

Source: Kerchunk's reference specification, versions 0 and 1; fsspec's LazyReferenceMapper (the Parquet layout).
"""

from __future__ import annotations

import base64
import binascii
import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from activestore.core.formats.zarr.keys import ChunkKeys
from activestore.core.source import ReadableSource
from activestore.errors import SourceError, UnsupportedError, to_install
from activestore.sources.objects.zarr import MAX_METADATA, ObjectStore, ZarrSource

__all__ = ["JsonReferences", "ParquetReferences", "Reference", "References", "is_parquet", "read_json", "read_parquet"]

_MOST_ROWS = 10_000_000
"""Rows of a Parquet file; Kerchunk writes 10,000 or 100,000."""
_FILES_KEPT = 16
_PART = 8 << 20
"""Bytes that are asked for at a time."""
_METADATA_NAMES = (".zarray", ".zgroup", ".zattrs", ".zmetadata", "zarr.json")
_TEMPLATE = re.compile(r"{{\s*(\w+)\s*}}")


class Reference(NamedTuple):
    """A stretch of a file."""

    url: str
    """Its address."""
    offset: int
    """Where it begins."""
    size: int | None
    """Bytes; None for the whole file."""


class References(Protocol):
    """What is asked of references, in whichever form they are kept."""

    def document(self, key: str) -> bytes | None:
        """Return an object of metadata, None if there is none of that key."""

    def folders(self, folder: str) -> list[str]:
        """Return the names of the folders directly in a folder, sorted."""

    def chunks(self, keys: ChunkKeys, wanted: npt.NDArray[np.int64] | None) -> Iterator[tuple[int, Reference | bytes]]:
        """Yield position and place, or the bytes themselves, of each of the chunks `wanted` that is there; of all for None."""


def read_json(file: ReadableSource) -> JsonReferences:
    """Return the references that a JSON file holds.

    Raises:
        SourceError: It is damaged, too large, or something else.
        UnsupportedError: It has generated references, or templates that compute.
    """
    if file.size > MAX_METADATA:
        raise SourceError(f"{file.uri}: has {file.size} bytes, more than the {MAX_METADATA} of any references")
    with file.metadata() as kept:
        parts = [(at, min(_PART, file.size - at)) for at in range(0, file.size, _PART)]
        return JsonReferences(b"".join(kept.read_ranges(parts)), file.uri)


def read_parquet(folder: ZarrSource) -> ParquetReferences:
    """Return the references of a folder of Parquet files.

    Raises:
        SourceError: They are damaged.
    """
    return ParquetReferences(folder.read_object(".zmetadata") or b"", folder.objects)


def is_parquet(document: bytes) -> bool:
    """Return whether a `.zmetadata` is that of references in Parquet files."""
    if b'"record_size"' not in document:
        return False
    try:
        return "record_size" in json.loads(document)
    except (ValueError, RecursionError):
        return False


class JsonReferences:
    """References of a JSON document."""

    def __init__(self, data: bytes, uri: str) -> None:
        """Parse the document.

        Parameters:
            data: Its bytes.
            uri: Its address, for messages.

        Raises:
            SourceError: It is damaged, or something else.
            UnsupportedError: It has generated references, or templates that compute.
        """
        self._uri = uri
        try:
            document = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise SourceError(
                f"{uri}: is neither netCDF nor HDF5, and as JSON cannot be read ({error}); is it cut off?"
            ) from None
        refs = document.get("refs") if isinstance(document, dict) else None
        templates: object = {}
        if isinstance(refs, dict):
            if document.get("gen"):
                raise UnsupportedError(f"{uri}: has generated references ('gen'); write them out with kerchunk")
            templates = document.get("templates") or {}
        elif isinstance(document, dict) and any(key.rpartition("/")[2] in _METADATA_NAMES for key in document):
            refs = document
        else:
            raise SourceError(f"{uri}: is JSON, and holds no Kerchunk references; name a netCDF or HDF5 file")
        self._refs: Mapping[str, Any] = refs  # Any: what JSON has
        self._templates = _checked_templates(templates, uri)
        self._urls: dict[str, str] = {}

    def document(self, key: str) -> bytes | None:
        """Return an object of metadata, None if there is none of that key.

        Raises:
            UnsupportedError: It is in a file of its own.
            SourceError: It is damaged.
        """
        if key not in self._refs:
            return None
        found = self._reference(key, self._refs[key])
        if isinstance(found, Reference):
            raise UnsupportedError(f"{self._uri}: {key} is not among the references, but in {found.url}")
        return found

    def folders(self, folder: str) -> list[str]:
        """Return the names of the folders directly in a folder, sorted."""
        prefix = f"{folder}/" if folder else ""
        found = set()
        for key in self._refs:
            if key.startswith(prefix):
                first, slash, _ = key[len(prefix) :].partition("/")
                if slash and first:
                    found.add(first)
        return sorted(found)

    def chunks(self, keys: ChunkKeys, wanted: npt.NDArray[np.int64] | None) -> Iterator[tuple[int, Reference | bytes]]:
        """Yield position and place, or the bytes themselves, of each of the chunks `wanted` that is there; of all for None.

        Raises:
            SourceError: A reference is damaged.
        """
        if keys.grid and wanted is None and keys.count > 4 * len(self._refs):
            for key, given in self._refs.items():
                if key.startswith(keys.prefix) and (position := keys.position(key[len(keys.prefix) :])) is not None:
                    yield position, self._reference(key, given)
            return
        for position in range(keys.count) if wanted is None else wanted.tolist():
            key = keys.key(position)
            if key in self._refs:
                yield position, self._reference(key, self._refs[key])

    def _reference(self, key: str, given: object) -> Reference | bytes:
        if isinstance(given, str):
            return _inline(given, self._uri, key)
        if isinstance(given, dict):
            return json.dumps(given).encode()
        if isinstance(given, list) and len(given) in (1, 3) and isinstance(given[0], str):
            offset, size = given[1:] if len(given) == 3 else (0, None)
            if type(offset) is int and offset >= 0 and (size is None or (type(size) is int and size >= 0)):
                return Reference(self._url(given[0]), offset, size)
        raise SourceError(f"{self._uri}: the reference {key!r} is damaged: {str(given)[:80]}")

    def _url(self, given: str) -> str:
        if "{{" not in given:
            return given
        if given not in self._urls:
            url = _TEMPLATE.sub(lambda found: self._templates.get(found[1], found[0]), given)
            if "{{" in url:
                raise UnsupportedError(f"{self._uri}: the template in {given[:80]!r} is none of those that are defined")
            self._urls[given] = url
        return self._urls[given]


def _checked_templates(given: object, uri: str) -> dict[str, str]:
    if not isinstance(given, dict) or not all(isinstance(text, str) for text in given.values()):
        raise SourceError(f"{uri}: the templates are damaged")
    for name, text in given.items():
        if "{{" in text or "{%" in text:
            raise UnsupportedError(f"{uri}: the template {name!r} computes; write the references out with kerchunk")
    return given


def _inline(text: str, uri: str, key: str) -> bytes:
    """Return bytes that stand among the references."""
    if not text.startswith("base64:"):
        return text.encode()
    try:
        return base64.b64decode(text[7:], validate=True)
    except (binascii.Error, ValueError) as error:
        raise SourceError(f"{uri}: the reference {key!r} is damaged: {error}") from None


class ParquetReferences:
    """References in Parquet files, each of so many rows, which are read when they are needed."""

    def __init__(self, data: bytes, store: ObjectStore) -> None:
        """Parse `.zmetadata`, whose bytes are `data`.

        Raises:
            SourceError: It is damaged.
        """
        self._store = store
        self._kept: dict[str, dict[str, Any]] = {}  # Any: arrays of several types
        try:
            document = json.loads(data)
            self._rows, self._documents = document["record_size"], document["metadata"]
        except (ValueError, RecursionError, LookupError, TypeError) as error:
            raise SourceError(f"{store.uri}: .zmetadata cannot be read ({error}); is it damaged?") from None
        if type(self._rows) is not int or not 0 < self._rows <= _MOST_ROWS or not isinstance(self._documents, dict):
            raise SourceError(f"{store.uri}: .zmetadata claims {str(self._rows)[:40]} references a file; is it damaged?")

    def document(self, key: str) -> bytes | None:
        """Return an object of metadata, None if there is none of that key."""
        found = self._documents.get(key)
        return None if found is None else json.dumps(found).encode()

    def folders(self, folder: str) -> list[str]:
        """Return the names of the folders directly in a folder, sorted."""
        prefix = f"{folder}/" if folder else ""
        below = (key[len(prefix) :].split("/") for key in self._documents if key.startswith(prefix))
        return sorted({parts[0] for parts in below if len(parts) > 1 and parts[0]})

    def chunks(self, keys: ChunkKeys, wanted: npt.NDArray[np.int64] | None) -> Iterator[tuple[int, Reference | bytes]]:
        """Yield position and place, or the bytes themselves, of each of the chunks `wanted` that is there; of all for None.

        Raises:
            SourceError: A file is damaged.
            UnsupportedError: fastparquet is not installed.
        """
        field = keys.prefix.rstrip("/")
        positions = np.arange(keys.count, dtype=np.int64) if wanted is None else wanted
        numbers = np.unique(positions // self._rows).tolist()
        for first in range(0, len(numbers), _FILES_KEPT):
            some = numbers[first : first + _FILES_KEPT]
            files = self._columns([f"{field}/refs.{number}.parq" for number in some])
            for number, columns in zip(some, files, strict=True):
                own = positions[positions // self._rows == number]
                for position, row in zip(own.tolist(), (own % self._rows).tolist(), strict=True):
                    found = None if columns is None else self._row(columns, row, f"{field}, chunk {position}")
                    if found is not None:
                        yield position, found

    def _row(self, columns: Mapping[str, Sequence[Any]], row: int, what: str) -> Reference | bytes | None:
        if row >= len(columns["path"]):
            return None
        raw, url = columns["raw"][row], columns["path"][row]
        if isinstance(raw, bytes):
            return raw
        if isinstance(raw, str):
            return raw.encode()
        if not isinstance(url, str):
            return None
        offset, size = int(columns["offset"][row]), int(columns["size"][row])
        if offset < 0 or size < 0:
            raise SourceError(f"{self._store.uri}: the reference of {what} is damaged: offset {offset}, {size} bytes")
        return Reference(url, offset, size) if offset or size else Reference(url, 0, None)

    def _columns(self, keys: Sequence[str]) -> Sequence[Mapping[str, Sequence[Any]] | None]:
        """Return the columns of each file; None for one that is not there: no reference of it was ever written."""
        missing = [key for key in keys if key not in self._kept]
        parts = [(key, 0, size) for key, size in zip(missing, self._store.sizes(missing), strict=True) if size is not None]
        for key, _, size in parts:
            if size > MAX_METADATA:
                raise SourceError(f"{self._store.uri}: {key} has {size} bytes, more than the {MAX_METADATA} of any metadata")
        for (key, _, _), data in zip(parts, self._store.read(parts), strict=True):
            self._kept[key] = _parquet_columns(data, f"{self._store.uri}: {key}", self._rows)
        found = [self._kept.get(key) for key in keys]
        for key in list(self._kept)[:-_FILES_KEPT]:
            del self._kept[key]
        return found


def _checked_count(rows: int, most: int) -> int:
    if rows > most:
        raise ValueError(f"it claims {rows} references, not {most}")
    return rows


def _parquet_columns(data: bytes, what: str, most: int) -> dict[str, Any]:
    """Return the columns of a Parquet file of references as arrays; those that are missing are empty of values.

    Raises:
        UnsupportedError: fastparquet is not installed.
        SourceError: The file is damaged.
    """
    try:
        import fastparquet  # noqa: PLC0415  # optional, and slow to import
    except ImportError as error:
        raise UnsupportedError(f"{what}: needs {error.name}: {to_install('kerchunk')}") from None
    names = ("path", "offset", "size", "raw")
    try:
        file = fastparquet.ParquetFile(io.BytesIO(data))
        rows = _checked_count(file.count(), most)
        there = [name for name in names if name in file.columns]
        frame = file.to_pandas(columns=there)
        found = {name: frame[name].to_numpy(dtype=object) for name in there}
    except Exception as error:  # noqa: BLE001  # whatever damaged bytes lead to
        raise SourceError(f"{what}: cannot be read ({type(error).__name__}: {str(error)[:80]}); is it damaged?") from None
    none = np.full(rows, None, object)
    return {name: found.get(name, np.zeros(rows, np.int64) if name in ("offset", "size") else none) for name in names}
