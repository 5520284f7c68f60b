"""What tasks of a run have in common, where it came from elsewhere: made of JSON of which nothing is believed."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np

from activestore.core.missing import Missing
from activestore.core.packing import Packing, unpacked_dtype
from activestore.core.reductions import COMPONENTS, widest
from activestore.core.task import TaskTemplate
from activestore.core.wire.frames import POSITIONED
from activestore.core.wire.groups import condition_from_json
from activestore.core.wire.json import LARGEST, MOST_MISSING, items, mapping, one_of, refuse, shown, text, wholes
from activestore.errors import WireError

__all__ = ["DTYPES", "template_from_json"]

DTYPES = ("i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8")
"""NumPy types of the numbers that can be reduced, without byte order."""
_MOST_DIMS = 32
_COMPUTED = ("<f2", "<f4", "<f8", "|b1")
"""Types in which values may be computed."""
_SHARED = frozenset({"variable", "dtype", "skipna", "axes", "components", "accumulator", "fill", "selected", "tasks"})


def _dtype(given: object, name: str, orders: str = "<>") -> np.dtype[Any]:
    return np.dtype(
        one_of(given, name, tuple(f"{'|' if kind[1] == '1' else order}{kind}" for order in orders for kind in DTYPES))
    )


def _ascending(given: object, name: str, *, most: int) -> tuple[int, ...]:
    """Return dimensions, of which there are `most`, in ascending order."""
    axes = wholes(given, name, longest=most, most=most - 1)
    if any(a >= b for a, b in itertools.pairwise(axes)):
        refuse(name, "are not in ascending order")
    return axes


def template_from_json(said: object, uri: str) -> tuple[TaskTemplate, tuple[int, ...], object]:
    """Return what tasks have in common, the dimensions along which they have groups, and the JSON of what each has of its own.

    Parameters:
        said: What `json.loads` made of tasks.
        uri: What messages call the source.

    Raises:
        WireError: Anything is not what it must be; the message says what.
    """
    given = mapping(said, "the tasks", needs=_SHARED, may={"missing", "packing", "condition", "grouped"})
    template = _template(given, uri)
    grouped = _ascending(given.get("grouped", []), "grouped", most=len(template.selected))
    if not set(grouped) <= set(template.axes):
        refuse("grouped", "has dimensions that are not reduced")
    if grouped and any(component.name in POSITIONED for component in template.components):
        refuse("grouped", "goes with components that groups have none of")
    return template, grouped, given["tasks"]


def _template(given: dict[str, Any], uri: str) -> TaskTemplate:
    dtype = _dtype(given["dtype"], "dtype")
    selected = wholes(given["selected"], "selected", longest=_MOST_DIMS, least=1)
    axes = _ascending(given["axes"], "axes", most=len(selected))
    if math.prod(selected) > LARGEST:
        refuse("selected", "has more numbers than can be counted")
    names = [
        one_of(name, "a component", tuple(COMPONENTS))
        for name in items(given["components"], "components", most=len(COMPONENTS))
    ]
    if len(set(names)) < len(names):
        refuse("components", "has one twice")
    if "values" in names and axes:
        refuse("components", "has 'values', of which nothing is reduced")
    if type(given["skipna"]) is not bool:
        refuse("skipna", f"is {shown(given['skipna'])}; it must be true or false")
    packing = None if "packing" not in given else _packing(given["packing"])
    return TaskTemplate(
        uri=uri,
        variable=text(given["variable"], "variable"),
        dtype=dtype.str,
        missing=Missing() if "missing" not in given else _missing(given["missing"], dtype),
        skipna=given["skipna"],
        packing=packing,
        axes=axes,
        components=tuple(COMPONENTS[name] for name in names),
        accumulator=_accumulator(given["accumulator"], dtype, packing),
        fill=_fill(given["fill"], dtype),
        selected=selected,
        condition=None if "condition" not in given else condition_from_json(given["condition"]),
    )


def _fill(given: object, dtype: np.dtype[Any]) -> bytes:
    digits = text(given, "fill")
    try:
        fill = bytes.fromhex(digits)
    except ValueError:
        raise WireError("fill is not hexadecimal") from None
    if len(fill) != dtype.itemsize:
        refuse("fill", f"has {len(fill)} bytes where the type has {dtype.itemsize}")
    return fill


def _accumulator(given: object, dtype: np.dtype[Any], packing: Packing | None) -> str:
    with np.errstate(all="ignore"):
        value = unpacked_dtype(dtype, packing)
    return one_of(given, "accumulator", ("f8",) if value.kind == "f" else ("f8", widest(value)))


def _number(given: object, name: str, dtype: np.dtype[Any]) -> float:
    """Return a number that `dtype` holds exactly; text stands for what JSON has no numbers for."""
    known = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        if type(given) is int and limits.min <= given <= limits.max:
            return given
    elif isinstance(given, str) and given in known:
        return known[given]
    elif type(given) is float and math.isfinite(given):
        with np.errstate(all="ignore"):
            held = float(dtype.type(given))
        if held == given:
            return given
    raise WireError(f"{name} is {shown(given)}, which the type {dtype.str!r} does not have")


def _missing(given: object, dtype: np.dtype[Any]) -> Missing:
    fields = mapping(given, "missing", needs=frozenset({"values", "valid_min", "valid_max"}), may=set())
    values = items(fields["values"], "missing.values", most=MOST_MISSING)
    limits = (
        None if fields[name] is None else _number(fields[name], f"missing.{name}", dtype) for name in ("valid_min", "valid_max")
    )
    return Missing(tuple(_number(value, "a missing value", dtype) for value in values), *limits)


def _packing(given: object) -> Packing:
    fields = mapping(given, "packing", needs=frozenset({"scale", "scale_dtype", "offset", "offset_dtype"}), may={"dtype"})
    found: list[Any] = []  # Any: numbers and names of types
    for name in ("scale", "offset"):
        dtype = _dtype(fields[f"{name}_dtype"], f"packing.{name}_dtype", "<")
        found += [_factor(fields[name], f"packing.{name}", dtype), dtype.str]
    found.append(None if "dtype" not in fields else one_of(fields["dtype"], "packing.dtype", _COMPUTED))
    return Packing(*found)


def _factor(given: object, name: str, dtype: np.dtype[Any]) -> float | None:
    """Return a scale or an offset; an integer comes as a float where that is exact."""
    if given is None:
        return None
    whole = int(given) if dtype.kind != "f" and type(given) is float and given.is_integer() else given
    return _number(whole, name, dtype)
