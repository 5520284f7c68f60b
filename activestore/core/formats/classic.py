"""netCDF classic files: CDF-1, CDF-2 (64-bit offsets) and CDF-5 (64-bit data).

Source: the netCDF classic format specification (Unidata) and CDF-5 (PnetCDF).
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from activestore.core.missing import is_unsigned, read_missing
from activestore.core.packing import read_packing
from activestore.core.source import ReadableSource
from activestore.core.variable import (
    ChunkTable,
    Variable,
    contiguous_chunk_shape,
    contiguous_table,
    grid_shape,
    no_such_variable,
)
from activestore.errors import NotNumericError, SourceError

__all__ = ["Entry", "Header", "is_classic", "read_header", "read_text", "read_variable", "variable_names"]

_TYPES = {1: "i1", 2: "S1", 3: ">i2", 4: ">i4", 5: ">f4", 6: ">f8", 7: "u1", 8: ">u2", 9: ">u4", 10: ">i8", 11: ">u8"}
_DIMENSIONS, _VARIABLES, _ATTRIBUTES = 0x0A, 0x0B, 0x0C
_FIRST_READ = 64 << 10
_MAX_HEADER = 256 << 20
"""No header is larger; a damaged file may claim so."""
_MAX_LENGTH = 1 << 62
"""No dimension is longer; a damaged file may claim so."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A variable as the header lists it."""

    name: str
    """Its name."""
    dims: tuple[str, ...]
    """Names of its dimensions."""
    shape: tuple[int, ...]
    """Their lengths."""
    record: bool
    """Whether its first dimension is the unlimited one."""
    attrs: dict[str, object]
    """Its attributes."""
    dtype: np.dtype[np.generic]
    """Type of the stored numbers; "S1" is text."""
    begin: int
    """Offset of its first byte."""

    @property
    def record_bytes(self) -> int:
        """Bytes of one record, or of the whole where there are no records."""
        return math.prod(self.shape[1:] if self.record else self.shape) * self.dtype.itemsize


@dataclass(frozen=True, slots=True)
class Header:
    """A whole header."""

    variables: dict[str, Entry]
    """The variables, by name."""
    record_stride: int
    """Bytes from one record to the next."""
    attrs: dict[str, object]
    """The attributes of the file."""
    unlimited: str | None
    """Name of the unlimited dimension."""


class _CutOffError(Exception):
    """The header goes on behind the bytes at hand."""


class _Reader:
    """Reads the header's big-endian items one after the other."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 4
        version = data[3]
        self._count_format, self._count_width = (">Q", 8) if version == 5 else (">I", 4)
        self._offset_format, self._offset_width = (">I", 4) if version == 1 else (">Q", 8)

    def take(self, size: int) -> bytes:
        if size > _MAX_HEADER:
            raise ValueError(f"an item of {size} bytes")
        if self._at + size > len(self._data):
            raise _CutOffError
        self._at += size
        return self._data[self._at - size : self._at]

    def tag(self) -> int:
        return int.from_bytes(self.take(4), "big")

    def count(self) -> int:
        (number,) = struct.unpack(self._count_format, self.take(self._count_width))
        return int(number)

    def length(self) -> int:
        number = self.count()
        if number > _MAX_LENGTH:
            raise ValueError(f"a dimension of the length {number}")
        return number

    def records(self) -> int | None:
        """Return the number of records, None where the writer streamed the file and left it open."""
        number = self.count()
        return None if number == 256**self._count_width - 1 else number

    def offset(self) -> int:
        (number,) = struct.unpack(self._offset_format, self.take(self._offset_width))
        return int(number)

    def name(self) -> str:
        return self.padded(self.count()).decode("utf-8")

    def padded(self, size: int) -> bytes:
        data = self.take(size)
        self.take(-size % 4)
        return data

    def items(self, expected: int) -> int:
        """Return how many items the list that starts here has."""
        tag, count = self.tag(), self.count()
        if tag not in (0, expected) or (tag == 0 and count):
            raise ValueError(f"a list is marked {tag:#x} where {expected:#x} belongs")
        return count

    def attributes(self) -> dict[str, object]:
        return dict(self._attribute() for _ in range(self.items(_ATTRIBUTES)))

    def _attribute(self) -> tuple[str, object]:
        name, kind, count = self.name(), self.tag(), self.count()
        dtype = np.dtype(_TYPES[kind])
        data = self.padded(count * dtype.itemsize)
        if kind == 2:
            return name, data.decode("utf-8", "replace").replace("\0", "")
        values = np.frombuffer(data, dtype).astype(dtype.newbyteorder("="))
        return name, values[0] if len(values) == 1 else values


def is_classic(start: bytes) -> bool:
    """Return whether a file that starts with these bytes is a netCDF classic file.

    Examples:
        >>> is_classic(b"CDF" + bytes([2])), is_classic(b"CDF" + bytes([3]))
        (True, False)
    """
    return start[:3] == b"CDF" and start[3:4] in (b"\x01", b"\x02", b"\x05")


def variable_names(source: ReadableSource) -> list[str]:
    """Return the names of all variables of a classic file."""
    return list(read_header(source).variables)


def read_variable(source: ReadableSource, name: str) -> Variable:
    """Return the variable `name`: contiguous, or one piece per record where its first dimension is the unlimited one.

    Raises:
        VariableNotFoundError: There is none of that name.
        NotNumericError: It holds text.
        SourceError: The header is damaged or cut off.
    """
    header = read_header(source)
    entry = header.variables.get(name.strip("/"))
    if entry is None:
        raise no_such_variable(source.uri, name, list(header.variables))
    if entry.dtype.kind == "S":
        raise NotNumericError(f"{source.uri}: {name!r} holds text, not numbers that can be reduced; choose a numeric variable")
    missing = read_missing(entry.attrs, entry.dtype, filled=True)
    dtype = entry.dtype
    if is_unsigned(entry.attrs, dtype):
        dtype = np.dtype(dtype.str.replace("i", "u"))
    chunk_shape, table = _pieces(entry, header.record_stride, _begin(entry, header.record_stride, source))
    return Variable(
        uri=source.uri,
        version=source.version,
        name=entry.name,
        shape=entry.shape,
        dims=entry.dims,
        dtype=dtype,
        attrs=entry.attrs,
        layout="contiguous",
        chunk_shape=chunk_shape,
        codecs=(),
        extent=entry.shape,
        fill=bytes(dtype.itemsize),
        missing=missing,
        packing=read_packing(entry.attrs),
        table=table,
    )


def _begin(entry: Entry, record_stride: int, source: ReadableSource) -> int:
    """Return where the variable begins, 0 if it has no data.

    Raises:
        SourceError: It ends behind the end of the file.
    """
    if 0 in entry.shape:
        return 0
    end = entry.begin + entry.record_bytes + ((entry.shape[0] - 1) * record_stride if entry.record else 0)
    if end > source.size:
        raise SourceError(f"{source.uri}: {entry.name!r} ends at byte {end}, the file at {source.size}; is it cut off?")
    return entry.begin


def _pieces(entry: Entry, record_stride: int, begin: int) -> tuple[tuple[int, ...], ChunkTable]:
    """Return the shape of a piece, and where the pieces lie."""
    itemsize = entry.dtype.itemsize
    if entry.record and 0 not in entry.shape and entry.record_bytes != record_stride:
        chunk_shape = (1, *entry.shape[1:])
        index = np.arange(entry.shape[0], dtype=np.int64)
        size = np.full(len(index), entry.record_bytes, np.int64)
        none_skipped = np.zeros(len(index), np.uint32)
        grid = grid_shape(entry.shape, chunk_shape)
        return chunk_shape, ChunkTable(grid, index, begin + index * record_stride, size, none_skipped)
    # Without data there is one piece, or none, however long the other dimensions are.
    empty = tuple(max(1, length) for length in entry.shape)
    chunk_shape = empty if 0 in entry.shape else contiguous_chunk_shape(entry.shape, itemsize)
    return chunk_shape, contiguous_table(entry.shape, chunk_shape, itemsize=itemsize, start=begin)


def read_text(source: ReadableSource, name: str) -> npt.NDArray[np.bytes_]:
    """Return a variable of text whole, character by character (type "S1").

    Raises:
        SourceError: The header is damaged or cut off, or the file ends before the text does.
    """
    header = read_header(source)
    entry = header.variables[name]
    _, table = _pieces(entry, header.record_stride, _begin(entry, header.record_stride, source))
    parts = source.read_ranges(list(zip(table.offset.tolist(), table.size.tolist(), strict=True)))
    return np.frombuffer(b"".join(parts), "S1").reshape(entry.shape)


def read_header(source: ReadableSource) -> Header:
    """Return what the header of a classic file says.

    Raises:
        SourceError: It is damaged or cut off.
    """
    size = _FIRST_READ
    while True:
        (data,) = source.read_ranges([(0, size)])
        try:
            return _parse(data, source)
        except _CutOffError:
            if len(data) < size or size >= _MAX_HEADER:
                raise SourceError(f"{source.uri}: the netCDF header is cut off after {len(data)} bytes") from None
            size *= 8
        except (ValueError, KeyError, IndexError, OverflowError) as error:
            raise SourceError(f"{source.uri}: the netCDF header is damaged: {error}") from None


def _parse(data: bytes, source: ReadableSource) -> Header:
    reader = _Reader(data)
    records = reader.records()
    dimensions = [(reader.name(), reader.length()) for _ in range(reader.items(_DIMENSIONS))]
    attrs = reader.attributes()
    listed = [_parse_variable(reader, dimensions) for _ in range(reader.items(_VARIABLES))]
    record_sizes = [entry.record_bytes for entry in listed if entry.record]
    # A lone record variable is not padded to four bytes between its records.
    stride = record_sizes[0] if len(record_sizes) == 1 else sum(size + -size % 4 for size in record_sizes)
    if records is None:
        # Those count that are complete in every variable.
        ends = [entry.begin + entry.record_bytes for entry in listed if entry.record]
        records = max(0, (source.size - max(ends)) // stride + 1) if stride else 0
    sized = (_with_records(entry, records) if entry.record else entry for entry in listed)
    unlimited = next((name for name, length in dimensions if length == 0), None)
    return Header({entry.name: entry for entry in sized}, stride, attrs, unlimited)


def _parse_variable(reader: _Reader, dimensions: list[tuple[str, int]]) -> Entry:
    name = reader.name()
    used = [dimensions[reader.count()] for _ in range(reader.count())]
    if any(length == 0 for _, length in used[1:]):
        raise ValueError(f"{name!r} has the unlimited dimension not as its first one, and no other")
    attrs = reader.attributes()
    dtype = np.dtype(_TYPES[reader.tag()])
    reader.count()  # vsize: redundant, and wrong for what is larger than its 32 bits
    begin = reader.offset()
    return Entry(
        name=name,
        dims=tuple(dim for dim, _ in used),
        shape=tuple(length for _, length in used),
        record=bool(used) and used[0][1] == 0,
        attrs=attrs,
        dtype=dtype,
        begin=begin,
    )


def _with_records(entry: Entry, records: int) -> Entry:
    return Entry(entry.name, entry.dims, (records, *entry.shape[1:]), True, entry.attrs, entry.dtype, entry.begin)
