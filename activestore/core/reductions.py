"""Reductions: what is computed of each chunk, how two such answers combine, and what is made of them at the end.

A reduction is made of components. A component has a state (one or more arrays): `chunk` makes it from the values of one
chunk, `combine` joins the states of two parts, and `Reduction.finalize` turns the joined states into the result.

Source for the moments: Chan, Golub and LeVeque, Updating formulae and a pairwise algorithm for computing sample
variances, 1979.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from activestore.core.packing import Packing, unpack
from activestore.core.task import Array, ChunkValues, Component, State, TaskTemplate
from activestore.errors import ReductionError, SumOverflowError

__all__ = [
    "COMPONENTS",
    "NO_DIFFERENCE",
    "READ",
    "REDUCTIONS",
    "ROUGH",
    "SPREAD",
    "WRAPPED",
    "Reduction",
    "finalized",
    "find_reduction",
    "is_known",
    "states_as",
    "stored_component",
    "unpack_states",
    "variance",
    "widest",
    "with_carry",
]

Counts = npt.NDArray[np.int64]
NO_DIFFERENCE = "truth values have no difference; ask for min and max"
"""What is said of the difference between the greatest and the least of truth values, which NumPy does not have either."""


@dataclass(frozen=True, slots=True)
class Reduction:
    """A reduction by name: its components, and what is made of their states.

    Examples:
        A reduction of one's own, the mean of the squares:

        >>> def squares(values, axis):
        ...     return (values.astype("f8") ** 2).sum(axis=axis, keepdims=True)
        >>> mean_square = Reduction.from_functions(
        ...     "mean_square", chunk=squares, combine=np.add, finalize=lambda state, count: state / count
        ... )
        >>> mean_square.name
        'mean_square'
    """

    name: str
    """The name that results and reports have."""
    components: tuple[Component, ...]
    """What has to be computed of every chunk."""
    finalize: Callable[[Mapping[str, State], Counts], Array]
    """Makes the result of the components' states and the count of valid values."""

    @classmethod
    def from_functions(
        cls,
        name: str,
        *,
        chunk: Callable[[np.ma.MaskedArray[Any, Any], tuple[int, ...]], Any],
        combine: Callable[[Any, Any], Any],
        finalize: Callable[[Any, Counts], Any],
    ) -> Reduction:
        """Return a reduction made of the user's own three functions, which run where the local backend runs.

        What they get is theirs: they may write to it, and nothing else changes.

        Parameters:
            name: What results call it.
            chunk: Takes the values of one chunk (a masked array, unpacked) and the axes to be reduced; gives the state:
                an array with these axes kept at length 1, or a tuple of such arrays.
            combine: Takes the states of two parts, gives the state of both together. Parts without a valid value
                are left out.
            finalize: Takes the state of the whole and the count of valid values (int64, same shape), gives the result;
                where the count is 0 it is masked.
        """
        # Not just its name, which one of ours may have, computed in the same pass or by a backend that knows only that one.
        own = f"own {name}"
        component = Component(
            name=own, chunk=partial(_custom_chunk, chunk), combine=partial(_custom_combine, combine), unpack=None
        )
        return cls(name, (component,), partial(_custom_finalize, own, finalize))


def _custom_chunk(function: Callable[..., Any], cells: ChunkValues) -> State:  # Any: the user's own state
    # A copy, as other reductions of the same pass see the same numbers.
    invalid = np.ma.nomask if cells.invalid is None else cells.invalid.copy()
    state = function(np.ma.MaskedArray(cells.values.copy(), mask=invalid), cells.axes)
    parts = state if isinstance(state, tuple) else (state,)
    # Another copy, as the function may fill the same array for the next chunk.
    return tuple(np.array(np.ma.getdata(part)).reshape(cells.count.shape) for part in parts)


def _custom_combine(function: Callable[..., Any], a: State, b: State, na: Counts, nb: Counts) -> State:
    left, right = (tuple(part.copy() for part in state) for state in (a, b))
    with np.errstate(all="ignore"):
        joined = function(left[0], right[0]) if len(a) == 1 else function(left, right)
    parts = joined if isinstance(joined, tuple) else (joined,)
    return tuple(np.where(na == 0, y, np.where(nb == 0, x, both)) for x, y, both in zip(a, b, parts, strict=True))


def _custom_finalize(name: str, function: Callable[..., Any], states: Mapping[str, State], count: Counts) -> Array:
    state = states[name]
    return np.asarray(function(state[0] if len(state) == 1 else state, count))


def _sum_chunk(cells: ChunkValues) -> State:
    values = cells.filled(0)
    if cells.accumulator != "f8" and values.dtype.itemsize == 8:
        return _exact_sum(values, cells.axes, np.dtype(cells.accumulator))
    return (np.add.reduce(values, axis=cells.axes, dtype=cells.accumulator, keepdims=True),)


def _exact_sum(values: Array, axes: tuple[int, ...], dtype: np.dtype[Any]) -> State:
    """Return the sum of 64-bit integers: what 64 bits hold of it, and how many times 2**64 are to be added to that."""
    limits = np.iinfo(dtype)
    cells = int(np.prod([values.shape[axis] for axis in axes], dtype=object))
    if int(values.max()) * cells <= limits.max and int(values.min()) * cells >= limits.min:
        return with_carry((np.asarray(np.add.reduce(values, axis=axes, dtype=dtype, keepdims=True)),))
    # The upper and the lower halves of the numbers are summed apart, where there is room for what is carried over.
    high = np.add.reduce(values >> 32, axis=axes, dtype=dtype, keepdims=True)
    low = np.add.reduce(values & 0xFFFFFFFF, axis=axes, dtype="u8", keepdims=True)
    high = high + (low >> 32).astype(dtype)
    total = np.asarray((high << 32) | (low & 0xFFFFFFFF).astype(dtype))
    # Without the 32 bits that have gone into the total, sign included, the rest is what went beyond.
    return total, np.asarray((high >> 32) - (total >> 63 if dtype.kind == "i" else 0)).astype(np.int64)


def with_carry(state: State) -> State:
    """Return the state of a sum of integers with how many times 2**64 are to be added: 0 where that is not told.

    Examples:
        >>> with_carry((np.array([7]),))
        (array([7]), array([0]))
    """
    return state if len(state) > 1 else (state[0], np.broadcast_to(np.int64(0), state[0].shape))


def _sum_combine(a: State, b: State, na: Counts, nb: Counts) -> State:
    total = a[0] + b[0]
    if len(a) == 1:
        return (total,)
    if total.dtype.kind == "u":
        return total, a[1] + b[1] + (total < a[0])
    # Two numbers of the same sign whose sum has the other one.
    beyond = ((a[0] ^ total) & (b[0] ^ total)) < 0
    return total, a[1] + b[1] + np.where(beyond, np.sign(b[0]), 0)


def _sum_unpack(state: State, packing: Packing, count: Counts) -> State:
    scale = 1.0 if packing.scale is None else float(packing.scale)
    offset = 0.0 if packing.offset is None else float(packing.offset)
    return (state[0] * scale + offset * count,)


def widest(dtype: np.dtype[Any]) -> str:
    """Return the name of the type of 64 bits that numbers are summed in exactly; truth values count as integers.

    Examples:
        >>> widest(np.dtype("u2")), widest(np.dtype(bool))
        ('u8', 'i8')
    """
    return "i8" if dtype.kind == "b" else f"{dtype.kind}8"


def _least(dtype: np.dtype[Any]) -> Any:  # Any: a number of that type
    if dtype.kind == "b":
        return False
    return -np.inf if dtype.kind == "f" else np.iinfo(dtype).min


def _greatest(dtype: np.dtype[Any]) -> Any:  # Any: a number of that type
    if dtype.kind == "b":
        return True
    return np.inf if dtype.kind == "f" else np.iinfo(dtype).max


def _min_chunk(cells: ChunkValues) -> State:
    return (np.minimum.reduce(cells.filled(_greatest(cells.values.dtype)), axis=cells.axes, keepdims=True),)


def _min_combine(a: State, b: State, na: Counts, nb: Counts) -> State:
    return (np.minimum(a[0], b[0]),)


def _max_chunk(cells: ChunkValues) -> State:
    return (np.maximum.reduce(cells.filled(_least(cells.values.dtype)), axis=cells.axes, keepdims=True),)


def _max_combine(a: State, b: State, na: Counts, nb: Counts) -> State:
    return (np.maximum(a[0], b[0]),)


def _value_unpack(state: State, packing: Packing, count: Counts) -> State:
    return (unpack(state[0], packing),)


def _moments_chunk(cells: ChunkValues) -> State:
    """Return mean, sum of squared deviations from it, and what the mean's rounding left out, by two passes.

    The second pass finds how far the first one's mean is off: squares and mean are mended by that.
    """
    count = np.maximum(cells.count, 1)
    mean = np.add.reduce(cells.filled(0), axis=cells.axes, dtype="f8", keepdims=True) / count
    deviation = np.asarray(np.subtract(cells.values, mean, dtype="f8"))
    if cells.invalid is not None:
        np.copyto(deviation, 0, where=cells.invalid)
    off = np.add.reduce(deviation, axis=cells.axes, keepdims=True) / count
    squares = np.add.reduce(np.square(deviation, out=deviation), axis=cells.axes, keepdims=True)
    mean, rest = _exact_pair(mean, off)
    return mean, np.maximum(squares - off * off * count, 0), rest


def _exact_pair(a: Array, b: Array) -> tuple[Array, Array]:
    """Return the sum of two numbers, and what its rounding left out (Knuth, The Art of Computer Programming 2, 4.2.2)."""
    total = a + b
    of_b = total - a
    return total, (a - (total - of_b)) + (b - of_b)


def _moments_combine(a: State, b: State, na: Counts, nb: Counts) -> State:
    # Means that are rounded to doubles would be as far apart as that, however little the values differ.
    total = np.maximum(na + nb, 1)
    delta = np.where((na == 0) | (nb == 0), 0, (b[0] - a[0]) + (b[2] - a[2]))
    mean, rest = _exact_pair(a[0], delta * (nb / total))
    squares = a[1] + b[1] + delta * delta * (na * (nb / total))
    return np.where(na == 0, b[0], mean), squares, np.where(na == 0, b[2], a[2] + rest)


def _any_chunk(cells: ChunkValues) -> State:
    return (np.logical_or.reduce(cells.filled(0) != 0, axis=cells.axes, keepdims=True),)


def _any_combine(a: State, b: State, na: Counts, nb: Counts) -> State:
    return (a[0] | b[0],)


def _all_chunk(cells: ChunkValues) -> State:
    return (np.logical_and.reduce(cells.filled(1) != 0, axis=cells.axes, keepdims=True),)


def _all_combine(a: State, b: State, na: Counts, nb: Counts) -> State:
    return (a[0] & b[0],)


def _argmin_chunk(cells: ChunkValues) -> State:
    return _first_extreme(cells, _min_chunk(cells)[0])


def _argmax_chunk(cells: ChunkValues) -> State:
    return _first_extreme(cells, _max_chunk(cells)[0])


def _first_extreme(cells: ChunkValues, extreme: Array) -> State:
    """Return the extreme values, and where in the reduced part of the selection (C order) each first appears."""
    found = cells.values == extreme
    if cells.values.dtype.kind == "f":
        found |= np.isnan(extreme) & np.isnan(cells.values)
    if cells.invalid is not None:
        found &= ~cells.invalid
    place = np.where(found, cells.linear_positions(), np.iinfo(np.int64).max)
    return extreme, np.minimum.reduce(place, axis=cells.axes, keepdims=True)


def _arg_combine(better: Callable[[Array, Array], Any], a: State, b: State, na: Counts, nb: Counts) -> State:
    nan_a, nan_b = a[0] != a[0], b[0] != b[0]
    wins = np.where(nan_a | nan_b, nan_b & ~nan_a, better(b[0], a[0]))
    ties = (a[0] == b[0]) | (nan_a & nan_b)
    wins = (wins | (ties & (b[1] < a[1])) | (na == 0)) & (nb != 0)
    return np.where(wins, b[0], a[0]), np.where(wins, b[1], a[1])


def _values_chunk(cells: ChunkValues) -> State:
    return (cells.values,)


SUM = Component("sum", _sum_chunk, _sum_combine, _sum_unpack, np.add)
MIN = Component("min", _min_chunk, _min_combine, _value_unpack, np.minimum)
MAX = Component("max", _max_chunk, _max_combine, _value_unpack, np.maximum)
# Each value is rounded when it is unpacked: a variance is that of the numbers that come of it.
MOMENTS = Component("moments", _moments_chunk, _moments_combine, None)
ANY = Component("any", _any_chunk, _any_combine, None, np.logical_or)
ALL = Component("all", _all_chunk, _all_combine, None, np.logical_and)
# Numbers that differ as stored can be equal when unpacked, and then the first of them counts.
ARGMIN = Component("argmin", _argmin_chunk, partial(_arg_combine, np.less), None)
ARGMAX = Component("argmax", _argmax_chunk, partial(_arg_combine, np.greater), None)

VALUES = Component("values", _values_chunk, _sum_combine, None)

COMPONENTS = {component.name: component for component in (SUM, MIN, MAX, MOMENTS, ANY, ALL, ARGMIN, ARGMAX, VALUES)}
"""Every component that has a name of its own: what tasks that travel can ask for."""


def is_known(component: Component) -> bool:
    """Return whether a component is one of `COMPONENTS`, or a copy of it that another process made; not a user's own."""
    known = COMPONENTS.get(component.name)
    return known is not None and known.chunk is component.chunk


_MIRROR = {"min": MAX, "max": MIN}


def stored_component(component: Component, packing: Packing | None) -> Component:
    """Return the component to compute on stored numbers: a negative scale swaps least and greatest."""
    negative = packing is not None and packing.scale is not None and packing.scale < 0
    return _MIRROR.get(component.name, component) if negative else component


def unpack_states(
    components: Sequence[Component], states: Mapping[str, State], packing: Packing, count: Counts
) -> dict[str, State]:
    """Return the states that `components` would have on the values, given those computed on the stored numbers."""
    found = {}
    for component in components:
        stored = stored_component(component, packing)
        if component.unpack is not None:
            found[component.name] = component.unpack(states[stored.name], packing, count)
    return found


def states_as(states: Mapping[str, State], template: TaskTemplate, count: Counts) -> dict[str, State]:
    """Return the states that values have when turned into the wider types of `template`, where these can be told."""
    found = dict(states)
    value, accumulator = np.dtype(template.dtype).newbyteorder("="), np.dtype(template.accumulator)
    for component in template.components:
        name, state = component.name, found[component.name]
        if not is_known(component):
            continue
        if name == "sum":
            found[name] = (state[0].astype(accumulator, copy=False), *state[1:])
        elif name in ("min", "max"):
            # Where there is no value, the state is the extreme of the narrower type.
            none = _greatest(value) if name == "min" else _least(value)
            found[name] = (np.where(count == 0, np.asarray(none, value), state[0].astype(value, copy=False)),)
        elif name in ("values", "argmin", "argmax"):
            found[name] = (state[0].astype(value, copy=False), *state[1:])
    return found


def _sum(states: Mapping[str, State], count: Counts) -> Array:
    total, *carry = states["sum"]
    if carry and bool(np.any(carry[0][count > 0])):
        raise SumOverflowError("the sum of these integers does not fit into 64 bits; ask for the mean, or sum fewer axes")
    return total


def _only(name: str, position: int, states: Mapping[str, State], count: Counts) -> Array:
    return states[name][position]


def _count(states: Mapping[str, State], count: Counts) -> Array:
    return count.astype(np.int64)


def _rough(states: Mapping[str, State], count: Counts) -> Array:
    total, *carry = states["sum"]
    return np.asarray(total + carry[0] * 2.0**64 if carry else total, "f8")


def _mean(states: Mapping[str, State], count: Counts) -> Array:
    total, *carry = states["sum"]
    return np.asarray((total + carry[0] * 2.0**64 if carry else total) / count)


def _ptp(states: Mapping[str, State], count: Counts) -> Array:
    least, greatest = states["min"][0], states["max"][0]
    if least.dtype.kind == "b":
        raise ReductionError(NO_DIFFERENCE)
    if least.dtype.kind != "i":
        return np.asarray(greatest - least)
    wide = greatest.astype("i8") - least.astype("i8")
    if bool(np.any((wide < 0) & (count > 0))):
        raise SumOverflowError("the difference of these integers does not fit into 64 bits; ask for min and max")
    return np.asarray(wide)


def _variance(ddof: float, states: Mapping[str, State], count: Counts) -> Array:
    freedom = count - ddof
    return np.asarray(np.where(freedom > 0, states["moments"][1] / np.where(freedom > 0, freedom, 1), np.nan))


def _deviation(ddof: float, states: Mapping[str, State], count: Counts) -> Array:
    return np.asarray(np.sqrt(_variance(ddof, states, count)))


_FINALIZERS: tuple[object, ...] = (_sum, _only, _count, _rough, _mean, _ptp, _variance, _deviation)


def finalized(reduction: Reduction, states: Mapping[str, State], count: Counts) -> Array:
    """Return what a reduction makes of states; a function that is not one of these here gets copies, which it may write to."""
    function = getattr(reduction.finalize, "func", reduction.finalize)
    if all(function is not one for one in _FINALIZERS):
        names = [component.name for component in reduction.components]
        states = {name: tuple(part.copy() for part in states[name]) for name in names}
        count = count.copy()
    return np.asarray(reduction.finalize(states, count))


def variance(ddof: float = 0, *, name: str = "var") -> Reduction:
    """Return the reduction "var" or "std" with `ddof` taken from the count in the divisor.

    The relative error of a variance is at most about 1e-16 for each chunk that it is made of, and as much for each doubling of
    the numbers in a chunk, however far the numbers are from zero.

    Raises:
        ReductionError: `ddof` is not a number, or `name` is neither "var" nor "std".

    Examples:
        >>> variance(1, name="std").name
        'std'
    """
    if name not in ("var", "std") or isinstance(ddof, bool) or not isinstance(ddof, (int, float, np.integer, np.floating)):
        raise ReductionError(f"{name} does not take ddof={ddof!r}; give a number, as NumPy does")
    return Reduction(name, (MOMENTS,), partial(_variance if name == "var" else _deviation, ddof))


REDUCTIONS: dict[str, Reduction] = {
    "count": Reduction("count", (), _count),
    "sum": Reduction("sum", (SUM,), _sum),
    "mean": Reduction("mean", (SUM,), _mean),
    "min": Reduction("min", (MIN,), partial(_only, "min", 0)),
    "max": Reduction("max", (MAX,), partial(_only, "max", 0)),
    "ptp": Reduction("ptp", (MIN, MAX), _ptp),
    "var": variance(),
    "std": variance(name="std"),
    "any": Reduction("any", (ANY,), partial(_only, "any", 0)),
    "all": Reduction("all", (ALL,), partial(_only, "all", 0)),
    "argmin": Reduction("argmin", (ARGMIN,), partial(_only, "argmin", 1)),
    "argmax": Reduction("argmax", (ARGMAX,), partial(_only, "argmax", 1)),
}
"""Every reduction that has a name of its own."""

ROUGH = Reduction("rough", (SUM,), _rough)
"""The sum in double precision, of integers too."""

WRAPPED = (Reduction("sum", (SUM,), partial(_only, "sum", 0)), ROUGH)
"""Sums of integers that need not fit into 64 bits: modulo 2**64, and about how large they are."""

SPREAD = tuple(Reduction(name, (MOMENTS,), partial(_only, "moments", i)) for i, name in enumerate(("mean", "squares", "rest")))
"""What the moments are made of: the mean, the sum of squared deviations from it, and what the mean's rounding left out."""

READ = Reduction("read", (VALUES,), partial(_only, "values", 0))
"""The values themselves: what nothing is reduced of."""


def find_reduction(given: str | Reduction) -> Reduction:
    """Return the reduction called `given`, or `given` itself.

    Raises:
        ReductionError: There is none of that name.

    Examples:
        >>> find_reduction("median")
        Traceback (most recent call last):
        ...
        activestore.errors.ReductionError: no reduction 'median'; there are all, any, argmax, argmin, count, ...
    """
    if isinstance(given, Reduction):
        return given
    if not isinstance(given, str) or given not in REDUCTIONS:
        raise ReductionError(f"no reduction {given!r}; there are {', '.join(sorted(REDUCTIONS))}, or a Reduction of your own")
    return REDUCTIONS[given]
