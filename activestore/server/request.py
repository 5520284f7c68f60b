"""What a request of Reductionist's protocol asks for, v2 and v1: read strictly, with everything checked that can be.

Source: Reductionist's API, releases 0.11 and 0.13 (https://github.com/stackhpc/reductionist-rs, docs/api.md).
"""

from __future__ import annotations

import itertools
import json
import math
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn, TypeVar
from urllib.parse import quote, urlsplit

import numpy as np

from activestore.core.missing import Missing
from activestore.server.failures import RequestError
from activestore.server.place import Login, Place

__all__ = ["DTYPES", "OPERATIONS", "ReduceRequest", "parse_v1", "parse_v2"]

OPERATIONS = ("count", "max", "min", "select", "sum")
"""The protocol's operations."""
DTYPES = ("float32", "float64", "int32", "int64", "uint32", "uint64")
"""The protocol's types of numbers."""
COMPRESSIONS = {"blosc2": "blosc2-chunk", "gzip": "gzip", "zlib": "zlib"}
"""The protocol's names of compressors, and what the codecs here call them."""

MOST_DIMENSIONS = 32
MOST_FILTERS = 16
MOST_MISSING = 1000
_LONGEST_NUMBER = 1000
_I64, _U64 = 1 << 63, 1 << 64

_INTERFACES = ("s3", "http", "https", "file")
_HOST = re.compile(r"([A-Za-z0-9._~-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]*)?")
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
        activestore.server.failures.RequestError: request data is not valid shape: a length must be 1 or more, not 0
    """
    fields = _fields(operation, body, _V2)
    interface = _one_of(_INTERFACES)(fields.get("interface_type"), "interface_type")
    place = Place(interface, _address(fields.get("url"), "url", file=interface == "file"), login)
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
    source = _address(fields.get("source"), "source", file=False)
    if urlsplit(source).query:
        raise _invalid("source", "it has a query; give scheme, host and port")
    bucket, key = (_text(fields.get(name), name) for name in ("bucket", "object"))
    place = Place("s3", f"{source.rstrip('/')}/{_escaped(bucket, 'bucket', '')}/{_escaped(key, 'object', '/')}", login)
    return _request(operation, place, fields, largest_chunk)


def _request(operation: str, place: Place, fields: dict[str, object], largest_chunk: int) -> ReduceRequest:
    dtype = _one_of(DTYPES)(fields.get("dtype"), "dtype")
    shape = _optional(_shape, fields, "shape")
    request = ReduceRequest(
        operation=operation,
        place=place,
        dtype=dtype,
        byte_order=_optional(_one_of(("little", "big")), fields, "byte_order") or sys.byteorder,
        offset=_optional(_unsigned, fields, "offset") or 0,
        size=_optional(_size, fields, "size"),
        shape=shape,
        axis=_optional(_axis, fields, "axis"),
        order=_optional(_one_of(("C", "F")), fields, "order") or "C",
        selection=_optional(_selection, fields, "selection"),
        compression=_optional(_compression, fields, "compression"),
        filters=_optional(_filters, fields, "filters") or (),
        missing=Missing() if fields.get("missing") is None else _missing(fields["missing"], dtype),
        uncached=_flag(fields, "option_disable_chunk_cache"),
        shape_as_bytes=_flag(fields, "option_shape_as_bytes"),
        count_as_bytes=_flag(fields, "option_count_as_bytes"),
    )
    _check_sizes(request, largest_chunk)
    _check_axes(request)
    return request


def _check_sizes(request: ReduceRequest, largest_chunk: int) -> None:
    """Check what the request says of sizes, in numbers that do not overflow and before memory is taken."""
    size, nbytes, itemsize = request.size, request.nbytes, request.itemsize
    if nbytes is not None and nbytes > largest_chunk:
        raise _invalid("shape", f"the chunk has more bytes than the {largest_chunk} that this server takes")
    if size is not None and size > largest_chunk:
        raise _invalid("size", f"{size} bytes are more than the {largest_chunk} that this server takes")
    if request.offset + (size or 0) >= _I64:
        raise _invalid("offset", "offset and size lie beyond every object")
    if size is None or request.compression is not None:
        return
    if nbytes is not None and size != nbytes:
        raise _invalid("size", f"it is {size}, where shape and dtype make {nbytes} bytes and compression is not given")
    if size % itemsize:
        raise _invalid("size", f"{size} is not a multiple of the {itemsize} bytes of the dtype {request.dtype}")


def _check_axes(request: ReduceRequest) -> None:
    """Check that axis and selection go with the shape."""
    shape, axis, selection = request.shape, request.axis, request.selection
    if shape is None:
        for name, given in (("selection", selection), ("axis", axis)):
            if given is not None:
                raise _invalid(name, "it needs shape to be given")
        return
    if selection is not None and len(selection) != len(shape):
        raise _invalid("selection", f"it has {len(selection)} slices where shape has {len(shape)} lengths")
    if axis is None:
        return
    if any(one >= len(shape) for one in axis):
        raise _invalid("axis", f"an axis must be less than {len(shape)}, the number of lengths in shape")
    if any(one >= other for one, other in itertools.pairwise(axis)):
        raise _invalid("axis", "axes must be ascending, each given once")


def _invalid(field: str, what: str) -> RequestError:
    return RequestError(400, "request data is not valid", (f"{field}: {what}",))


# ---- JSON ----


def _fields(operation: str, body: bytes, known: set[str]) -> dict[str, object]:
    """Return the fields of the body, all of them known.

    Raises:
        RequestError: 404 for an operation that there is not; 400 where the body is something else.
    """
    if operation not in OPERATIONS:
        shown = "".join(char if char.isascii() and char.isprintable() else "?" for char in operation[:40])
        raise RequestError(404, f"unsupported operation {shown}")
    try:
        found = json.loads(
            body.decode(), object_pairs_hook=_object, parse_int=_integer, parse_float=_float, parse_constant=_constant
        )
    except (ValueError, RecursionError) as error:
        where = f" ({error.msg} at byte {error.pos})" if isinstance(error, json.JSONDecodeError) else ""
        raise _invalid("body", f"it is not JSON{where}") from error
    if not isinstance(found, dict):
        raise _invalid("body", "it is not a JSON object")
    for name in found:
        if name not in known:
            raise _invalid("body", f"unknown field {_shown(name)}, expected one of {', '.join(sorted(known))}")
    return found


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found: dict[str, object] = {}
    for name, value in pairs:
        if name in found:
            raise _invalid("body", f"duplicate field {_shown(name)}")
        found[name] = value
    return found


def _integer(text: str) -> int | float:
    """Return a JSON integer; what fits neither 64-bit type is a float to the protocol, and so is -0."""
    if text == "-0" or len(text) > 20:
        return _float(text)
    number = int(text)
    return number if -_I64 <= number < _U64 else float(number)


def _float(text: str) -> float:
    number = float(text) if len(text) <= _LONGEST_NUMBER else math.inf
    if math.isinf(number):
        raise _invalid("body", f"number out of range: {_shown(text)}")
    return number


def _constant(text: str) -> NoReturn:
    raise _invalid("body", f"{text} is not JSON")


def _shown(value: object) -> str:
    """Return a value for a message: printable, and not long."""
    text = ascii(value if isinstance(value, (str, int, float, type(None))) else type(value).__name__)
    return text if len(text) <= 60 else f"{text[:57]}..."


# ---- values of fields ----

Value = TypeVar("Value")
_Read = Callable[[object, str], Value]


def _optional(read: _Read[Value], fields: dict[str, object], name: str) -> Value | None:
    return None if fields.get(name) is None else read(fields[name], name)


def _one_of(names: tuple[str, ...]) -> _Read[str]:
    def read(value: object, field: str) -> str:
        if value is None:
            raise _invalid(field, "missing field")
        if not isinstance(value, str) or value not in names:
            raise _invalid(field, f"it must be one of {', '.join(names)}, not {_shown(value)}")
        return value

    return read


def _text(value: object, field: str) -> str:
    if value is None:
        raise _invalid(field, "missing field")
    if not isinstance(value, str) or not value:
        # What is in it may be a secret.
        raise _invalid(field, "it must be a text that is not empty")
    return value


def _escaped(text: str, field: str, safe: str) -> str:
    try:
        return quote(text, safe=safe)
    except UnicodeEncodeError as error:
        raise _invalid(field, "it is not Unicode") from error


def _address(value: object, field: str, *, file: bool) -> str:
    """Return an address in ASCII, without a fragment."""
    text = _text(value, field)
    if any(char < " " or char == "\x7f" for char in text):
        raise _invalid(field, "it has control characters")
    text = _escaped(text, field, "".join(map(chr, range(33, 127)))).partition("#")[0]
    try:
        parts = urlsplit(text)
        port_fits = parts.port is None or parts.port > 0
    except ValueError as error:
        raise _invalid(field, "it is not an address") from error
    if file:
        if parts.scheme != "file" or parts.netloc or not parts.path.startswith("/"):
            raise _invalid(field, "it must be file:///path")
        return text
    if "@" in parts.netloc:
        raise _invalid(field, "it has a login in it; send that in the header Authorization")
    if parts.scheme not in ("http", "https") or not port_fits or not _HOST.fullmatch(parts.netloc):
        raise _invalid(field, "it must be http://host or https://host and what follows")
    return text


def _whole(value: object, field: str, *, least: int, most: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise _invalid(field, f"it must be an integer from {least} to {most}, not {_shown(value)}")
    return value


def _unsigned(value: object, field: str) -> int:
    return _whole(value, field, least=0, most=_U64 - 1)


def _size(value: object, field: str) -> int:
    return _whole(value, field, least=1, most=_U64 - 1)


def _list(value: object, field: str, most: int) -> list[object]:
    if not isinstance(value, list):
        raise _invalid(field, f"it must be a list, not {_shown(value)}")
    if len(value) > most:
        raise _invalid(field, f"it has {len(value)} items, and may have {most}")
    return value


def _shape(value: object, field: str) -> tuple[int, ...]:
    lengths = tuple(_unsigned(length, field) for length in _list(value, field, MOST_DIMENSIONS))
    if not lengths:
        raise _invalid(field, "it is empty; leave it out for numbers without dimensions")
    if 0 in lengths:
        raise _invalid(field, "a length must be 1 or more, not 0")
    return lengths


def _axis(value: object, field: str) -> tuple[int, ...]:
    if not isinstance(value, list):
        return (_unsigned(value, field),)
    return tuple(_unsigned(axis, field) for axis in _list(value, field, MOST_DIMENSIONS))


def _selection(value: object, field: str) -> tuple[tuple[int, int, int], ...]:
    slices = tuple(_slice(one, field) for one in _list(value, field, MOST_DIMENSIONS))
    if not slices:
        raise _invalid(field, "it is empty; leave it out for everything")
    return slices


def _slice(value: object, field: str) -> tuple[int, int, int]:
    if isinstance(value, dict):
        if set(value) != {"start", "end", "stride"}:
            raise _invalid(field, "a slice has start, end and stride, and nothing else")
        value = [value["start"], value["end"], value["stride"]]
    if not isinstance(value, list) or len(value) != 3:
        raise _invalid(field, "a slice is [start, end, stride]")
    start, end, stride = (_whole(number, field, least=-_I64, most=_I64 - 1) for number in value)
    if stride == 0:
        raise _invalid(field, "a stride must not be 0")
    return start, end, stride


def _flag(fields: dict[str, object], name: str) -> bool:
    value = fields.get(name)
    if value is not None and not isinstance(value, bool):
        raise _invalid(name, f"it must be true or false, not {_shown(value)}")
    return bool(value)


def _tagged(value: object, field: str) -> dict[str, object]:
    """Return an object that names a codec by its id; what else it says, a level for instance, is for the writer."""
    if not isinstance(value, dict) or "id" not in value:
        raise _invalid(field, 'it must be an object with an id: {"id": …}')
    return value


def _compression(value: object, field: str) -> str:
    return _one_of(tuple(COMPRESSIONS))(_tagged(value, field)["id"], field)


def _filters(value: object, field: str) -> tuple[int, ...]:
    sizes = []
    for one in _list(value, field, MOST_FILTERS):
        said = _tagged(one, field)
        _one_of(("shuffle", "shuffle_simd"))(said["id"], field)
        sizes.append(_whole(said.get("element_size"), f"{field}: element_size", least=1, most=_U64 - 1))
    return tuple(sizes)


# ---- missing values ----


def _missing(value: object, dtype: str) -> Missing:
    forms = ("missing_value", "missing_values", "valid_min", "valid_max", "valid_range")
    if not isinstance(value, dict) or len(value) != 1 or next(iter(value)) not in forms:
        raise _invalid("missing", f"it must be an object with exactly one of {', '.join(forms)}")
    ((form, given),) = value.items()
    field = f"missing: {form}"
    if form == "missing_values":
        numbers = [_number(one, dtype, field) for one in _list(given, field, MOST_MISSING)]
        return Missing(values=tuple(dict.fromkeys(numbers)))
    if form == "valid_range":
        if not isinstance(given, list) or len(given) != 2:
            raise _invalid(field, "it must be [min, max]")
        least, most = (_number(one, dtype, field) for one in given)
        if least >= most:
            raise _invalid(field, f"its min must be less than its max in {dtype}")
        return Missing(valid_min=least, valid_max=most)
    number = _number(given, dtype, field)
    if form == "missing_value":
        return Missing(values=(number,))
    return Missing(valid_min=number) if form == "valid_min" else Missing(valid_max=number)


def _number(value: object, dtype: str, field: str) -> float:
    """Return a JSON number as the type holds it."""
    kind = np.dtype(dtype)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise _invalid(field, f"it must be a number, not {_shown(value)}")
    if kind.kind == "f":
        with np.errstate(over="ignore"):
            number = float(kind.type(float(value)))
        if math.isinf(number):
            raise _invalid(field, f"{_shown(value)} does not fit {dtype}")
        return number
    limits = np.iinfo(kind)
    if not isinstance(value, int) or not limits.min <= value <= limits.max:
        raise _invalid(field, f"{_shown(value)} is not a number of the type {dtype}")
    return value
