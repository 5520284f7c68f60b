"""What the texts on a command line stand for: selections, axes, reductions and options."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

from activestore.core.plan import normalize_axes
from activestore.core.reductions import Reduction, find_reduction, variance
from activestore.errors import ConfigurationError, ReductionError, SelectionError

__all__ = ["axes_of", "clipped", "options_of", "parse_selection", "reductions_of"]


def options_of(given: Sequence[str], flag: str) -> dict[str, object] | None:
    """Return options given as "name=value"; a value is read as JSON where it is that, as text elsewhere.

    Raises:
        ConfigurationError: There is no "=" in one.
    """
    found: dict[str, object] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not name or not equals:
            raise ConfigurationError(f"{flag} {name!r}: write it as NAME=VALUE")
        try:
            found[name] = json.loads(value)
        except ValueError:
            found[name] = value
    return found or None


def reductions_of(given: Sequence[str], ddof: float | None) -> tuple[Reduction, ...]:
    """Return the reductions that `--op` names.

    Raises:
        ReductionError: There is no such reduction, or none of them takes `--ddof`.
    """
    names = [name.strip() for text in given for name in text.split(",") if name.strip()]
    if ddof is not None and not {"var", "std"} & set(names):
        raise ReductionError(f"--ddof goes with --op var or std; the reductions are {', '.join(names)}")
    return tuple(
        variance(ddof, name=name) if ddof is not None and name in ("var", "std") else find_reduction(name) for name in names
    )


def axes_of(given: Sequence[str], dims: Sequence[str]) -> tuple[int | str, ...]:
    """Return the dimensions that `--axis` names, numbers as numbers."""
    return tuple(dimension_of(name.strip(), dims) for text in given for name in text.split(",") if name.strip())


def dimension_of(text: str, dims: Sequence[str]) -> int | str:
    """Return a dimension as it was given, a number as a number."""
    return int(text) if re.fullmatch(r"[+-]?[0-9]{1,9}", text) and text not in dims else text


_PART = re.compile(r"\s*(?P<dim>[^=,\[\]]+?)\s*=\s*(?P<positions>\[[^\[\]]*\]|[^=,\[\]]+?)\s*(?:,|$)")


def parse_selection(given: Sequence[str], dims: Sequence[str]) -> tuple[slice | int | list[int], ...]:
    """Return the index that texts such as "time=0:120,lat=[1,5,9]" stand for.

    Parameters:
        given: The texts; what they say adds up.
        dims: Names of the dimensions.

    Raises:
        SelectionError: A text is not understood, or names no dimension, or one twice.

    Examples:
        >>> parse_selection(["lat=[1,5,9]", "0=::2, lon=-1"], ("time", "lat", "lon"))
        (slice(None, None, 2), [1, 5, 9], -1)
    """
    index: list[slice | int | list[int]] = [slice(None)] * len(dims)
    seen = set()
    for text in given:
        position = 0
        while position < len(text):
            match = _PART.match(text, position)
            if match is None:
                raise SelectionError(f"--select {text!r}: {text[position:]!r} is not {_FORMS}")
            (axis,) = normalize_axes(dimension_of(match["dim"], dims), dims)
            if axis in seen:
                raise SelectionError(f"--select names the dimension {dims[axis]!r} twice")
            seen.add(axis)
            index[axis] = _positions(match["positions"])
            position = match.end()
    return tuple(index)


def clipped(selection: Sequence[slice | int | list[int]], dims: Sequence[str], shape: Sequence[int]) -> list[str]:
    """Return what is to be said of slices that go beyond the ends of their dimensions, where Python cuts them off.

    Examples:
        >>> clipped([slice(-30, 30), slice(0, 4)], ("lat", "lon"), (18, 4))
        ['lat=-30:30 goes beyond the 18 positions of the dimension, counted from 0: all 18 are taken']
    """
    found = []
    for item, name, length in zip(selection, dims, shape, strict=True):
        if not isinstance(item, slice) or item.step == 0:
            continue
        back = item.step is not None and item.step < 0
        start, stop = (length, length - 1 if back else length), (length + back, length)
        if all(bound is None or -least <= bound <= most for bound, (least, most) in ((item.start, start), (item.stop, stop))):
            continue
        taken = range(*item.indices(length))
        count = f"all {length:,}" if len(taken) == length else f"{len(taken):,}" if taken else "none"
        what = "" if not taken or len(taken) == length else f", from {taken[0]} to {taken[-1]}"
        found.append(
            f"{name}={_written(item)} goes beyond the {length:,} positions of the dimension, counted from 0: "
            f"{count} {'is' if count == '1' else 'are'} taken{what}"
        )
    return found


def _written(item: slice) -> str:
    bounds = [item.start, item.stop] if item.step is None else [item.start, item.stop, item.step]
    return ":".join("" if one is None else str(one) for one in bounds)


_FORMS = "dim=start:stop:step, dim=position or dim=[position,position,…]"


def _positions(text: str) -> slice | int | list[int]:
    """Return what one dimension is indexed by."""
    try:
        if text.startswith("["):
            return [int(item) for item in text[1:-1].split(",") if item.strip()]
        bounds = [int(item) if item.strip() else None for item in text.split(":")]
    except ValueError:
        raise SelectionError(f"--select: {text!r} does not consist of whole numbers; write {_FORMS}") from None
    if len(bounds) == 1 and bounds[0] is not None:
        return bounds[0]
    if not 2 <= len(bounds) <= 3:
        raise SelectionError(f"--select: {text!r} is no slice; write {_FORMS}")
    return slice(*bounds)
