"""Requests of the protocol, drawn at random: what a writer makes of the numbers, and what NumPy makes of the request.

Written from Reductionist's API document, for tests with and without the real server.
"""

import gzip
import sys
import zlib
from dataclasses import dataclass
from typing import Any

import blosc2
import numpy as np
from hypothesis import strategies as st

OPERATIONS = ["count", "max", "min", "select", "sum"]
DTYPES = ["int32", "int64", "uint32", "uint64", "float32", "float64"]
LARGEST = 1 << 20


@dataclass(frozen=True)
class Asked:
    """A request, and what it is about."""

    operation: str
    fields: dict[str, Any]
    numbers: np.ndarray
    """The whole chunk, with the dimensions that the request says it has."""
    stored: bytes
    """The object, with what lies before and behind the chunk's bytes."""

    def body(self, url: str = "http://store.example/bucket/key") -> dict[str, Any]:
        """Return the JSON of the request."""
        return {"interface_type": "s3", "url": url, **self.fields}

    @property
    def raw(self) -> bytes:
        """What an origin gives for offset and size."""
        offset, size = self.fields.get("offset") or 0, self.fields.get("size")
        return self.stored[offset : None if size is None else offset + size]


@dataclass(frozen=True)
class Expected:
    """What NumPy makes of a request."""

    raw: bytes
    """The numbers as sent; of a sum, those of `sums` cast."""
    dtype: str
    shape: tuple[int, ...]
    count: list[int]
    sums: np.ndarray | None = None
    """Sums in twice the accuracy, of Python's integers where they are of integers."""
    sizes: np.ndarray | None = None
    """Sums of |v|."""


def shuffled(data: bytes, size: int) -> bytes:
    """Return the bytes of equal rank of each element together; what is left over stays at the end, as HDF5 leaves it."""
    whole = len(data) // size * size
    return np.frombuffer(data[:whole], np.uint8).reshape(-1, size).T.tobytes() + data[whole:]


COMPRESS = {
    None: lambda data: data,
    "zlib": lambda data: zlib.compress(data, 1),
    "gzip": lambda data: gzip.compress(data, 1),
    "blosc2": lambda data: blosc2.compress2(data, typesize=4),
}


def written(numbers: np.ndarray, fields: dict[str, Any]) -> bytes:
    """Return what a writer makes of the numbers."""
    swap = (fields.get("byte_order") or sys.byteorder) != sys.byteorder
    data = (numbers.byteswap() if swap else numbers).tobytes(fields.get("order") or "C")
    for one in fields.get("filters") or ():
        data = shuffled(data, one["element_size"])
    return COMPRESS[(fields.get("compression") or {"id": None})["id"]](data)


def invalid(numbers: np.ndarray, missing: dict[str, Any] | None) -> np.ndarray:
    """Return where numbers are missing."""
    ((form, given),) = (missing or {"missing_values": []}).items()
    kind = numbers.dtype.type
    if form in ("missing_value", "missing_values"):
        values = given if form == "missing_values" else [given]
        return np.any([numbers == kind(value) for value in values] or np.zeros((1, *numbers.shape), bool), axis=0)
    least = given if form == "valid_min" else given[0] if form == "valid_range" else None
    most = given if form == "valid_max" else given[1] if form == "valid_range" else None
    found = np.zeros(numbers.shape, bool)
    found |= numbers < kind(least) if least is not None else False
    found |= numbers > kind(most) if most is not None else False
    return found


def expected(asked: Asked) -> Expected:
    """Return what NumPy makes of the request."""
    fields, dtype = asked.fields, asked.numbers.dtype
    order = fields.get("order") or "C"
    slices = fields.get("selection") or [[0, length, 1] for length in asked.numbers.shape]
    slices = [tuple(one.values()) if isinstance(one, dict) else one for one in slices]
    part = asked.numbers[tuple(slice(*one) for one in slices)]
    lost = invalid(part, fields.get("missing"))
    axis = fields.get("axis")
    axes = tuple(range(part.ndim)) if axis is None else (axis,) if isinstance(axis, int) else tuple(axis)
    if asked.operation == "select":
        return Expected(part.tobytes(order), dtype.name, part.shape, [int((~lost).sum())])
    if asked.operation == "count":
        count = (~lost).sum(axis=axes, dtype="i8")
        return Expected(count.tobytes(), "int64", count.shape, count.ravel().tolist())
    if not axes:
        return Expected(part.tobytes(order), dtype.name, part.shape, (~lost).astype("i8").ravel(order).tolist())
    count = (~lost).sum(axis=axes, dtype="i8")
    limits = np.finfo(dtype) if dtype.kind == "f" else np.iinfo(dtype)
    counts = count.ravel().tolist()
    if asked.operation == "sum":
        exact = part.astype(np.longdouble if dtype.kind == "f" else object)
        sums = np.asarray(np.sum(np.where(lost, 0, exact), axis=axes))
        sizes = np.asarray(np.sum(np.where(lost, 0, abs(exact)), axis=axes))
        with np.errstate(over="ignore"):
            return Expected(sums.astype(dtype).tobytes(), dtype.name, count.shape, counts, sums, sizes)
    # Where every number is missing the answer is an identity, and an infinite one is not used.
    least = asked.operation == "min"
    filled = np.where(lost, (np.inf if least else -np.inf) if dtype.kind == "f" else limits.max if least else limits.min, part)
    empty = limits.max if least else limits.min
    filled = filled.astype(dtype)
    reduce = np.minimum.reduce if least else np.maximum.reduce
    found = reduce(filled, axis=axes, initial=filled.dtype.type((np.inf if least else -np.inf) if dtype.kind == "f" else empty))
    found = np.where(count == 0, dtype.type(empty), found).astype(dtype)
    return Expected(found.tobytes(), dtype.name, found.shape, counts)


# ---- strategies ----


def single_numbers(dtype: str, *, odd: bool) -> st.SearchStrategy[Any]:
    """Numbers of the type that few of them do not make a sum of that overflows; `odd` for those that are special."""
    if dtype.startswith("uint"):
        return st.integers(0, 1000) | st.sampled_from([0, 1, 2, 7])
    if dtype.startswith("int"):
        return st.integers(-1000, 1000) | st.sampled_from([0, -1, 2, 7])
    width = int(dtype[-2:])
    usual = st.floats(-1e4, 1e4, width=width) | st.sampled_from([0.0, -1.5, 2.0, 7.25, -0.0])
    return usual | st.sampled_from([np.nan, np.inf, -np.inf]) if odd else usual


def positions(length: int) -> st.SearchStrategy[list[int]]:
    """Start, end and stride along a dimension, most of them near it."""
    at = st.integers(-length - 2, length + 2) | st.sampled_from([0, length, -length - 1, 10**6, -(10**6)])
    stride = st.sampled_from([1, 1, 1, 2, 3, -1, -2, 100, -100])
    return st.tuples(at, at, stride).map(list) | st.just([0, length, 1])


@st.composite
def missing_forms(draw: st.DrawFn, numbers: np.ndarray, *, odd: bool) -> dict[str, Any]:
    """One of the forms in which a request says what is missing, often with numbers that there are."""
    there = [value for value in numbers.ravel()[:8].tolist() if np.isfinite(value)]
    one = single_numbers(numbers.dtype.name, odd=False) | (st.sampled_from(there) if there else st.nothing())
    form = draw(st.sampled_from(["missing_value", "missing_values", "valid_min", "valid_max", "valid_range"]))
    if form == "missing_values":
        return {form: draw(st.lists(one, max_size=4))}
    if form != "valid_range":
        return {form: draw(one)}
    least, most = sorted((draw(one), draw(one)))
    return {form: [least, most if most > least else least + 1]}


@st.composite
def asked(draw: st.DrawFn, *, odd: bool = False) -> Asked:
    """A valid request, with every field there or not; `odd` puts NaN and infinities among the numbers."""
    dtype = draw(st.sampled_from(DTYPES))
    shape = draw(st.lists(st.integers(1, 6), min_size=1, max_size=4))
    pool = draw(st.lists(single_numbers(dtype, odd=odd), min_size=1, max_size=12))
    rng = np.random.default_rng(draw(st.integers(0, 1 << 30)))
    numbers = rng.choice(np.array(pool, dtype), size=shape)
    fields: dict[str, Any] = {"dtype": dtype}

    def maybe(name: str, values: st.SearchStrategy[Any]) -> None:
        how = draw(st.sampled_from(["given", "given", "left out", "null"]))
        if how != "left out":
            fields[name] = draw(values) if how == "given" else None

    maybe("byte_order", st.sampled_from(["little", "big"]))
    maybe("order", st.sampled_from(["C", "F"]))
    maybe("compression", st.sampled_from([{"id": one} for one in COMPRESS if one]))
    sizes = [size for size in (1, 2, 4, 8) if numbers.nbytes % size == 0]
    shuffle = st.fixed_dictionaries({"id": st.just("shuffle"), "element_size": st.sampled_from(sizes)})
    maybe("filters", st.lists(shuffle, max_size=2))
    maybe("missing", missing_forms(numbers, odd=odd))
    for option in ("option_disable_chunk_cache", "option_shape_as_bytes", "option_count_as_bytes"):
        maybe(option, st.booleans())
    if draw(st.integers(0, 5)):
        fields["shape"] = shape
        maybe("selection", st.tuples(*map(positions, shape)).map(list))
        if fields.get("selection") and draw(st.booleans()):
            fields["selection"] = [dict(zip(("start", "end", "stride"), one, strict=True)) for one in fields["selection"]]
        axes = st.sets(st.integers(0, len(shape) - 1)).map(sorted)
        maybe("axis", axes | st.integers(0, len(shape) - 1))
    else:
        numbers = numbers.ravel()
    return Asked(draw(st.sampled_from(OPERATIONS)), fields, numbers, _placed(draw, fields, written(numbers, fields)))


def _placed(draw: st.DrawFn, fields: dict[str, Any], chunk: bytes) -> bytes:
    """Return the object, and set offset and size in the request."""
    before = draw(st.sampled_from([0, 0, 1, 8, 37]))
    if before or draw(st.booleans()):
        fields["offset"] = before
    if not draw(st.integers(0, 3)):
        return bytes(before) + chunk
    fields["size"] = len(chunk)
    return bytes(before) + chunk + bytes(draw(st.integers(0, 9)))
