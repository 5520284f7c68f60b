"""What a request of Reductionist's protocol asks for, v2 and v1: read strictly, with everything checked that can be.

Source: Reductionist's API, releases 0.11 and 0.13 (https://github.com/stackhpc/reductionist-rs, docs/api.md).
"""

from __future__ import annotations

import itertools
import math
import sys
from dataclasses import dataclass
from urllib.parse import urlsplit

import numpy as np

from activestore.core.missing import Missing
from activestore.server.errors import RequestError
from activestore.server.location import Login, Place
from activestore.server.protocol.fields import (
    I64,
    U64,
    address,
    escaped,
    flag,
    invalid,
    items,
    one_of,
    optional,
    printable,
    read_object,
    shown,
    some_text,
    tagged,
    unsigned,
    whole,
)

__all__ = ["DTYPES", "OPERATIONS", "ReduceRequest", "parse_v1", "parse_v2"]

OPERATIONS = ("count", "max", "min", "select", "sum")
"""The protocol's operations."""
DTYPES = ("float32", "float64", "int32", "int64", "uint32", "uint64")
"""The protocol's types of numbers."""
COMPRESSIONS = {"blosc2": "blosc2-chunk", "gzip": "gzip", "zlib": "zlib"}
"""The protocol's names of compressors, and what the codecs here call them."""

_MOST_DIMENSIONS = 32
_MOST_FILTERS = 16
_MOST_MISSING = 1000
"""What a request may have at most: of the first, NumPy takes not many more; of the others, each costs time."""

_INTERFACES = ("s3", "http", "https", "file")
_FIELDS = {"dtype", "byte_order", "offset", "size", "shape", "axis", "order", "selection", "compression", "filters", "missing"}
_OPTIONS = {"option_disable_chunk_cache", "option_shape_as_bytes", "option_count_as_bytes"}
_V2 = {"interface_type", "url"} | _FIELDS | _OPTIONS
_V1 = {"source", "bucket", "object"} | _FIELDS


@dataclass(frozen=True, slots=True)
class ReduceRequest:
    """One request of the protocol; all of it is valid and fits together."""

    operation: str
    """"count", "max", "min", "select" or "sum"."""
    place: Place
    """Where the bytes are."""
    dtype: str
    """The protocol's name of the type, "float32"."""
    byte_order: str
    """"little" or "big"."""
    offset: int
    """Where the bytes begin in the object."""
    size: int | None
    """Bytes as stored; None for all to the end of the object."""
    shape: tuple[int, ...] | None
    """Lengths of the dimensions; None for one dimension of whatever length the bytes have."""
    axis: tuple[int, ...] | None
    """Dimensions to be reduced, ascending; None for all."""
    order: str
    """"C" or "F": which dimension is the one that runs fastest, the last or the first."""
    selection: tuple[tuple[int, int, int], ...] | None
    """Start, end and stride along each dimension, as NumPy's; None for everything."""
    compression: str | None
    """"blosc2", "gzip" or "zlib": what was done last when the bytes were written."""
    filters: tuple[int, ...]
    """Element sizes of the shuffles before that, in the writer's order."""
    missing: Missing
    """What is missing, in numbers that the type holds exactly."""
    uncached: bool
    """Whether the bytes are to be read anew."""
    shape_as_bytes: bool
    """Whether the answer's shape is wanted as bytes."""
    count_as_bytes: bool
    """Whether the answer's counts are wanted as bytes."""

    @property
    def itemsize(self) -> int:
        """Bytes of a number."""
        return np.dtype(self.dtype).itemsize

    @property
    def nbytes(self) -> int | None:
        """Bytes of the decoded chunk; None where only the chunk knows."""
        return None if self.shape is None else math.prod(self.shape) * self.itemsize


def parse_v2(operation: str, body: bytes, login: Login | None, *, largest_chunk: int) -> ReduceRequest:
    """Return what the body of a request `POST /v2/{operation}` asks for.

    Parameters:
        operation: The last part of the path.
        body: The JSON.
        login: What is passed on to the origin.
        largest_chunk: Bytes that a chunk may have, stored or decoded.

    Raises:
        RequestError: 404 for an operation that there is not, 400 for anything wrong in the body; it names the field.

    Examples:
        >>> body = b'{"interface_type": "s3", "url": "http://store/bucket/key", "dtype": "int32", "shape": [2, 3], "axis": 1}'
        >>> request = parse_v2("max", body, None, largest_chunk=1 << 20)
        >>> request.place, request.dtype, request.shape, request.axis
        (Place('s3', 'http://store/bucket/key'), 'int32', (2, 3), (1,))
        >>> parse_v2("max", body.replace(b"[2, 3]", b"[2, 0]"), None, largest_chunk=1 << 20)
        Traceback (most recent call last):
        ...
        activestore.server.errors.RequestError: request data is not valid shape: a length must be 1 or more, not 0
    """
    fields = _fields(operation, body, _V2)
    interface = one_of(_INTERFACES)(fields.get("interface_type"), "interface_type")
    place = Place(interface, address(fields.get("url"), "url", file=interface == "file"), login)
    return _request(operation, place, fields, largest_chunk)


def parse_v1(operation: str, body: bytes, login: Login | None, *, largest_chunk: int) -> ReduceRequest:
    """Return what the body of a request `POST /v1/{operation}` asks for: an S3 object by source, bucket and object.

    Parameters:
        operation: The last part of the path.
        body: The JSON.
        login: What is passed on to the origin.
        largest_chunk: Bytes that a chunk may have, stored or decoded.

    Raises:
        RequestError: 404 for an operation that there is not, 400 for anything wrong in the body; it names the field.

    Examples:
        >>> body = b'{"source": "http://store:9000", "bucket": "b", "object": "a b.nc", "dtype": "int32"}'
        >>> parse_v1("sum", body, None, largest_chunk=1 << 20).place
        Place('s3', 'http://store:9000/b/a%20b.nc')
    """
    fields = _fields(operation, body, _V1)
    source = address(fields.get("source"), "source", file=False)
    if urlsplit(source).query:
        raise invalid("source", "it has a query; give scheme, host and port")
    bucket, key = (some_text(fields.get(name), name) for name in ("bucket", "object"))
    place = Place("s3", f"{source.rstrip('/')}/{escaped(bucket, 'bucket', '')}/{escaped(key, 'object', '/')}", login)
    return _request(operation, place, fields, largest_chunk)


def _fields(operation: str, body: bytes, known: set[str]) -> dict[str, object]:
    if operation not in OPERATIONS:
        raise RequestError(404, f"unsupported operation {printable(operation)}")
    return read_object(body, known)


def _request(operation: str, place: Place, fields: dict[str, object], largest_chunk: int) -> ReduceRequest:
    dtype = one_of(DTYPES)(fields.get("dtype"), "dtype")
    shape = optional(_shape, fields, "shape")
    request = ReduceRequest(
        operation=operation,
        place=place,
        dtype=dtype,
        byte_order=optional(one_of(("little", "big")), fields, "byte_order") or sys.byteorder,
        offset=optional(unsigned, fields, "offset") or 0,
        size=optional(_size, fields, "size"),
        shape=shape,
        axis=optional(_axis, fields, "axis"),
        order=optional(one_of(("C", "F")), fields, "order") or "C",
        selection=optional(_selection, fields, "selection"),
        compression=optional(_compression, fields, "compression"),
        filters=optional(_filters, fields, "filters") or (),
        missing=Missing() if fields.get("missing") is None else _missing(fields["missing"], dtype),
        uncached=flag(fields, "option_disable_chunk_cache"),
        shape_as_bytes=flag(fields, "option_shape_as_bytes"),
        count_as_bytes=flag(fields, "option_count_as_bytes"),
    )
    _check_sizes(request, largest_chunk)
    _check_axes(request)
    return request


def _check_sizes(request: ReduceRequest, largest_chunk: int) -> None:
    """Check what the request says of sizes, in numbers that do not overflow and before memory is taken."""
    size, nbytes, itemsize = request.size, request.nbytes, request.itemsize
    if nbytes is not None and nbytes > largest_chunk:
        raise invalid("shape", f"the chunk has more bytes than the {largest_chunk} that this server takes")
    if size is not None and size > largest_chunk:
        raise invalid("size", f"{size} bytes are more than the {largest_chunk} that this server takes")
    if request.offset + (size or 0) >= I64:
        raise invalid("offset", "offset and size lie beyond every object")
    if size is None or request.compression is not None:
        return
    if nbytes is not None and size != nbytes:
        raise invalid("size", f"it is {size}, where shape and dtype make {nbytes} bytes and compression is not given")
    if size % itemsize:
        raise invalid("size", f"{size} is not a multiple of the {itemsize} bytes of the dtype {request.dtype}")


def _check_axes(request: ReduceRequest) -> None:
    """Check that axis and selection go with the shape."""
    shape, axis, selection = request.shape, request.axis, request.selection
    if shape is None:
        for name, given in (("selection", selection), ("axis", axis)):
            if given is not None:
                raise invalid(name, "it needs shape to be given")
        return
    if selection is not None and len(selection) != len(shape):
        raise invalid("selection", f"it has {len(selection)} slices where shape has {len(shape)} lengths")
    if axis is None:
        return
    if any(one >= len(shape) for one in axis):
        raise invalid("axis", f"an axis must be less than {len(shape)}, the number of lengths in shape")
    if any(one >= other for one, other in itertools.pairwise(axis)):
        raise invalid("axis", "axes must be ascending, each given once")


def _size(value: object, field: str) -> int:
    return whole(value, field, least=1, most=U64 - 1)


def _shape(value: object, field: str) -> tuple[int, ...]:
    lengths = tuple(unsigned(length, field) for length in items(value, field, _MOST_DIMENSIONS))
    if not lengths:
        raise invalid(field, "it is empty; leave it out for numbers without dimensions")
    if 0 in lengths:
        raise invalid(field, "a length must be 1 or more, not 0")
    return lengths


def _axis(value: object, field: str) -> tuple[int, ...]:
    if not isinstance(value, list):
        return (unsigned(value, field),)
    return tuple(unsigned(axis, field) for axis in items(value, field, _MOST_DIMENSIONS))


def _selection(value: object, field: str) -> tuple[tuple[int, int, int], ...]:
    slices = tuple(_slice(one, field) for one in items(value, field, _MOST_DIMENSIONS))
    if not slices:
        raise invalid(field, "it is empty; leave it out for everything")
    return slices


def _slice(value: object, field: str) -> tuple[int, int, int]:
    if isinstance(value, dict):
        if set(value) != {"start", "end", "stride"}:
            raise invalid(field, "a slice has start, end and stride, and nothing else")
        value = [value["start"], value["end"], value["stride"]]
    if not isinstance(value, list) or len(value) != 3:
        raise invalid(field, "a slice is [start, end, stride]")
    start, end, stride = (whole(number, field, least=-I64, most=I64 - 1) for number in value)
    if stride == 0:
        raise invalid(field, "a stride of 0 suits no dimension of the shape")
    return start, end, stride


def _compression(value: object, field: str) -> str:
    return one_of(tuple(COMPRESSIONS))(tagged(value, field)["id"], field)


def _filters(value: object, field: str) -> tuple[int, ...]:
    sizes = []
    for one in items(value, field, _MOST_FILTERS):
        said = tagged(one, field)
        one_of(("shuffle", "shuffle_simd"))(said["id"], field)
        sizes.append(whole(said.get("element_size"), f"{field}: element_size", least=1, most=U64 - 1))
    return tuple(sizes)


def _missing(value: object, dtype: str) -> Missing:
    forms = ("missing_value", "missing_values", "valid_min", "valid_max", "valid_range")
    if not isinstance(value, dict) or len(value) != 1 or next(iter(value)) not in forms:
        raise invalid("missing", f"it must be an object with exactly one of {', '.join(forms)}")
    ((form, given),) = value.items()
    field = f"missing: {form}"
    if form == "missing_values":
        numbers = [_number(one, dtype, field) for one in items(given, field, _MOST_MISSING)]
        return Missing(values=tuple(dict.fromkeys(numbers)))
    if form == "valid_range":
        if not isinstance(given, list) or len(given) != 2:
            raise invalid(field, "it must be [min, max]")
        least, most = (_number(one, dtype, field) for one in given)
        if least >= most:
            raise invalid(field, f"its min must be less than its max in {dtype}")
        return Missing(valid_min=least, valid_max=most)
    number = _number(given, dtype, field)
    if form == "missing_value":
        return Missing(values=(number,))
    return Missing(valid_min=number) if form == "valid_min" else Missing(valid_max=number)


def _number(value: object, dtype: str, field: str) -> float:
    """Return a JSON number as the type holds it."""
    kind = np.dtype(dtype)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise invalid(field, f"it must be a number, not {shown(value)}")
    if kind.kind == "f":
        with np.errstate(over="ignore"):
            number = float(kind.type(float(value)))
        if math.isinf(number):
            raise invalid(field, f"{shown(value)} does not fit {dtype}")
        return number
    limits = np.iinfo(kind)
    if not isinstance(value, int) or not limits.min <= value <= limits.max:
        raise invalid(field, f"{shown(value)} is not a number of the type {dtype}")
    return value
