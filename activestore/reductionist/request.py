"""What a Reductionist server is asked: which chunks it can do, and in what words.

Source: Reductionist's API, releases 0.1 to 0.13 (https://github.com/stackhpc/reductionist-rs, docs/api.md).
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache
from typing import Literal

import numpy as np

from activestore.core.codecs.decode import Codec
from activestore.core.group_kernel import group_tasks
from activestore.core.missing import Missing
from activestore.core.reductions import MAX, MIN, SUM
from activestore.core.selection import Points, Region, region_shape
from activestore.core.task import ChunkTask, Component
from activestore.errors import BackendRefusedError, ReductionistError
from activestore.reductionist.summation import FLOAT32_TERMS, Split, split

__all__ = [
    "DTYPES",
    "body",
    "chunk_fields",
    "is_about_a_field",
    "json_number",
    "largest_valid",
    "missing_text",
    "selected_bytes",
    "way",
]

DTYPES = {"i4": "int32", "i8": "int64", "u4": "uint32", "u8": "uint64", "f4": "float32", "f8": "float64"}
"""The protocol's names of the types of numbers that it has."""

_LARGEST = 4 << 30
"""Bytes from which on a server fails."""


@lru_cache(maxsize=256)
def missing_text(missing: Missing, dtype: str) -> str | None:
    """Return the JSON of the one form of missing values that the protocol has room for, None where nothing is missing.

    NaN is not in it: servers answer it with NaN, or not at all, and the chunk is then computed here.

    Raises:
        BackendRefusedError: It cannot be said; the reason says what.

    Examples:
        >>> missing_text(Missing(values=(-9,), valid_min=0, valid_max=10), "i4")
        '{"valid_range": [0, 10]}'
        >>> missing_text(Missing(values=(-9.5, 2.5)), "f4")
        '{"missing_values": [-9.5, 2.5]}'
    """
    kind = np.dtype(dtype).newbyteorder("=")
    least, most = _limit(missing.valid_min, kind), _limit(missing.valid_max, kind)
    values = [stored for stored in (_stored(value, kind) for value in missing.values) if stored is not None]
    limited = least is not None or most is not None
    if limited and any((least is None or value >= least) and (most is None or value <= most) for value in values):
        raise _refused("missing values and a valid range together")
    if least is None and most is not None:
        return f'{{"valid_max": {json_number(most)}}}'
    if most is None and least is not None:
        return f'{{"valid_min": {json_number(least)}}}'
    if least is None or most is None:
        return _values_text(values)
    if least >= most:
        raise _refused("a valid range that is empty or a single number")
    return f'{{"valid_range": [{json_number(least)}, {json_number(most)}]}}'


def _values_text(values: list[float]) -> str | None:
    texts = [json_number(value) for value in values]
    if len(texts) == 1:
        return f'{{"missing_value": {texts[0]}}}'
    return f'{{"missing_values": [{", ".join(texts)}]}}' if texts else None


def _stored(value: float, dtype: np.dtype[np.generic]) -> float | None:
    """Return a missing value as the stored type holds it, None where none of the numbers can be equal to it."""
    if value != value:
        return None
    try:
        with np.errstate(all="ignore"):
            stored: float = dtype.type(value).item()
    except OverflowError:
        return None
    if stored in (math.inf, -math.inf):
        raise _refused("an infinite missing value")
    return stored


def _limit(value: float | None, dtype: np.dtype[np.generic]) -> float | None:
    """Return a limit as the stored type holds it, None where it excludes nothing."""
    if value is None or value != value:
        return None
    stored = _stored(value, dtype)
    if stored is None:
        raise _refused("a valid range beyond the type")
    return stored


def json_number(number: float) -> str:
    """Return the JSON of a number, in digits that a server reads as this very number.

    The server's reader of numbers (serde_json) rounds twice, so that the usual digits of a float64 may give its neighbour. Of
    the many decimal fractions that stand for the same float64, one is taken that is right by its way and the exact way.

    Raises:
        BackendRefusedError: There is none.

    Examples:
        >>> json_number(-32767), json_number(0.5), json_number(9.969209968386869e36)
        ('-32767', '0.5', '9.969209968386869047e+36')
    """
    if isinstance(number, int):
        return str(number)
    if _serde_reads(repr(number)) == number:
        return repr(number)
    step = Decimal(math.ulp(number)) / 64
    for digits in (18, 17, 16):
        for i in range(64):
            text = f"{Decimal(number) + step * ((i + 1) // 2 * (-1) ** i):.{digits}e}"
            if float(text) == number and _serde_reads(text) == number:
                return text
    raise _refused("a missing value that the server would read wrongly")


_NUMBER = re.compile(r"(-?)(\d+)(?:\.(\d+))?(?:[eE]([+-]?\d+))?")
_U64 = 2**64 - 1


def _serde_reads(text: str) -> float:
    """Return what serde_json makes of a number: its digits as a float64, times or divided by a power of ten as one."""
    sign, whole, fraction, exponent = _NUMBER.fullmatch(text).groups()  # type: ignore[union-attr]  # ours are numbers
    digits, power = int(whole), int(exponent or 0)
    for digit in fraction or "":
        if digits * 10 + int(digit) > _U64:
            break
        digits, power = digits * 10 + int(digit), power - 1
    found = float(digits)
    if power < -308:
        found, power = found / 1e308, power + 308
    if power < -308:
        return 0.0
    found = found * float(f"1e{power}") if power >= 0 else found / float(f"1e{-power}")
    return -found if sign else found


def largest_valid(missing: Missing) -> int | None:
    """Return what no valid integer exceeds in size, by its valid range; None where the range does not say.

    Examples:
        >>> largest_valid(Missing(valid_min=-20, valid_max=10)), largest_valid(Missing(valid_min=0))
        (20, None)
    """
    if missing.valid_min is None or missing.valid_max is None:
        return None
    return max(abs(int(missing.valid_min)), abs(int(missing.valid_max)))


def chunk_fields(task: ChunkTask) -> dict[str, object]:
    """Return the fields of a request that say where the bytes of a chunk are, and what was done to them.

    Raises:
        BackendRefusedError: The protocol has no words for it.
    """
    dtype = np.dtype(task.template.dtype)
    compression, filters, behind = _pipeline(task.codecs, dtype.itemsize)
    size = task.size - behind
    if size <= 0 or (compression is None and size != task.nbytes):
        raise _refused("a chunk of a size that does not fit its shape")
    if max(task.size, task.nbytes) >= _LARGEST:
        raise _refused("a chunk of 4 GiB or more")
    fields: dict[str, object] = {
        "dtype": DTYPES[dtype.str[1:]],
        "byte_order": "big" if dtype.str[0] == ">" else "little",
        "offset": task.offset,
        "size": size,
    }
    if compression is not None:
        fields["compression"] = {"id": compression}
    if filters:
        fields["filters"] = [{"id": "shuffle", "element_size": size} for size in filters]
    return fields


@lru_cache(maxsize=256)
def _pipeline(codecs: tuple[Codec, ...], itemsize: int) -> tuple[str | None, tuple[int, ...], int]:
    """Return the compression, the element sizes of the shuffles before it, and the bytes of a checksum behind it."""
    left = list(codecs)
    # A checksum that was added last lies behind the chunk's bytes, and need not be sent; the store's own is relied on.
    checksum = 4 if left and left[-1].id == "fletcher32" and left.pop() else 0
    compression = "zlib" if left and left[-1].id == "zlib" and left.pop() else None
    if checksum and compression is None:
        # zlib has a checksum of its own, which the server verifies; without either, damage would become a number.
        raise _refused("a checksum that nothing there verifies")
    if any(codec.id == "fletcher32" for codec in left):
        raise _refused("fletcher32 inside the compressed bytes")
    if any(codec.id != "shuffle" for codec in left):
        raise _refused("the order of its filters")
    return compression, tuple(codec.values[0] if codec.values else itemsize for codec in left), checksum


MOST_GROUPS = 16
"""Groups of a chunk that are asked for one by one."""


@dataclass(frozen=True, slots=True)
class _Weights:
    """What the ways to compute chunks of one kind would bring back."""

    reduced: float
    """Bytes of reduced answers; infinite where there cannot be any."""
    selected: int
    """Bytes of the wanted part itself."""
    why: str
    """What is said of a chunk that has fewer bytes than either."""


def way(task: ChunkTask) -> Literal["reduce", "groups", "select"]:
    """Return how a chunk is best computed: reduced by the server, as a whole or group by group, or cut out there, reduced here.

    Raises:
        BackendRefusedError: Either would bring back more than the chunk itself.
    """
    if any(isinstance(part, Points) for part in task.region):
        raise _refused("listed positions")
    several = any(grouping.count > 1 for grouping in task.groups)
    weights = _weights_of_groups(task) if several else _weights_of(task)
    if not weights.selected:
        raise _refused("an empty selection")
    if weights.reduced < min(task.size, weights.selected):
        return "groups" if several else "reduce"
    if weights.selected < task.size:
        return "select"
    raise _refused(weights.why)


def _weights_of(task: ChunkTask) -> _Weights:
    template = task.template
    return _weights(task.shape, task.region, template.axes, template.dtype, template.components, template.missing)


def _weights_of_groups(task: ChunkTask) -> _Weights:
    """Return the same for a chunk of several groups, each of which is a request of its own."""
    tasks = group_tasks(task, MOST_GROUPS)
    if tasks is None:
        return _Weights(math.inf, selected_bytes(task), "several groups in a chunk")
    weights = [_weights_of(one) for _, one in tasks]
    return _Weights(sum(one.reduced for one in weights), selected_bytes(task), weights[0].why)


@lru_cache(maxsize=4096)
def _weights(
    shape: tuple[int, ...],
    region: Region,
    axes: tuple[int, ...],
    dtype: str,
    components: tuple[Component, ...],
    missing: Missing,
) -> _Weights:
    kind = np.dtype(dtype)
    selected = math.prod(region_shape(region)) * kind.itemsize
    others = [component.name for component in components if component not in (SUM, MIN, MAX)]
    if others:
        return _Weights(math.inf, selected, f"the component {others[0]!r}, which needs the whole chunk")
    try:
        missing_text(missing, dtype)
    except BackendRefusedError as error:
        return _Weights(math.inf, selected, error.reason)
    cells = exact = split(shape, region, axes).cells
    if SUM in components and kind.str[1:] == "f4":
        exact = split(shape, region, axes, terms=FLOAT32_TERMS).cells
    # A count is one byte at the least.
    reduced = (exact + max(0, len(components) - 1) * cells) * (kind.itemsize + 1)
    return _Weights(
        reduced, selected, "a float32 sum that would be inexact" if exact > cells else "an answer larger than the chunk"
    )


def selected_bytes(task: ChunkTask) -> int:
    """Return how many bytes the wanted part of a chunk has."""
    return math.prod(region_shape(task.region)) * np.dtype(task.template.dtype).itemsize


def is_about_a_field(error: ReductionistError) -> bool:
    """Return whether a server says that it does not know a field of the request: older ones have fewer."""
    return error.status == 400 and "unknown field" in " ".join((error.message, *error.caused_by))


def body(fields: dict[str, object], cut: Split, *, axes: tuple[int, ...] | None, missing: str | None) -> bytes:
    """Return the JSON of a request: `fields` say where the chunk is, `cut` what is wanted of it; None for fields not sent."""
    asked = {**fields, "shape": cut.shape}
    if axes is not None:
        # Where none are named, servers add up all numbers in a row.
        asked["axis"] = axes
    if not cut.whole:
        asked["selection"] = cut.region
    text = json.dumps(asked)
    # The digits of missing values are chosen: `json` would write its own.
    return (text if missing is None else f'{text[:-1]}, "missing": {missing}}}').encode()


def _refused(what: str) -> BackendRefusedError:
    return BackendRefusedError(f"a Reductionist server cannot do {what}", reason=what)
