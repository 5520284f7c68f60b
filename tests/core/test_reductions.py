"""Components and reductions, each alone: parts that combine give what the whole gives."""

import math
import threading
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from activestore import Active
from activestore.core.packing import Packing
from activestore.core.reductions import (
    ALL,
    ANY,
    ARGMAX,
    ARGMIN,
    MAX,
    MIN,
    MOMENTS,
    REDUCTIONS,
    SUM,
    Reduction,
    find_reduction,
    stored_component,
    variance,
)
from activestore.core.task import ChunkValues, Component, State
from activestore.errors import ReductionError, SumOverflowError

GAP = -9
"""What stands for a missing value."""


def cells(numbers: np.ndarray, *, start: int = 0, total: int | None = None, accumulator: str = "f8") -> ChunkValues:
    """Return the numbers as a chunk of one dimension that begins at `start` of a selection of `total` numbers."""
    invalid = numbers == GAP
    count = np.array([len(numbers) - np.count_nonzero(invalid)])
    return ChunkValues(
        values=numbers.copy(),
        invalid=invalid if invalid.any() else None,
        axes=(0,),
        count=count,
        accumulator=accumulator,
        placement=(slice(start, start + len(numbers), 1),),
        selected=(len(numbers) if total is None else total,),
    )


def in_parts(component: Component, parts: list[np.ndarray], accumulator: str = "f8") -> tuple[State, np.ndarray]:
    """Return state and count of the parts, combined from left to right."""
    total, start = sum(len(part) for part in parts), 0
    state, count = None, None
    for part in parts:
        chunk = cells(part, start=start, total=total, accumulator=accumulator)
        start += len(part)
        with np.errstate(all="ignore"):
            found = component.chunk(chunk)
            state = found if state is None else component.combine(state, found, count, chunk.count)
        count = chunk.count if count is None else count + chunk.count
    assert state is not None
    assert count is not None
    return state, count


INTEGERS = st.lists(st.integers(-9, 9), min_size=1, max_size=6).map(lambda part: np.array(part, "i4"))
FLOATS = st.lists(
    st.one_of(st.integers(-9, 9), st.floats(-1e6, 1e6), st.sampled_from([math.nan, math.inf, -math.inf])),
    min_size=1,
    max_size=6,
).map(lambda part: np.array(part, "f8"))
PARTS = st.one_of(st.lists(INTEGERS, min_size=1, max_size=4), st.lists(FLOATS, min_size=1, max_size=4))


@given(parts=PARTS)
@pytest.mark.parametrize("component", [MIN, MAX, ANY, ALL, ARGMIN, ARGMAX], ids=lambda component: component.name)
def test_parts_combine_to_what_numpy_says_of_the_whole(component: Component, parts: list[np.ndarray]) -> None:
    whole = np.concatenate(parts)
    valid = whole != GAP
    state, count = in_parts(component, parts)
    assert count == np.count_nonzero(valid)
    if not count[0]:
        return
    wanted = getattr(np, component.name)(whole[valid])
    if component.name.startswith("arg"):
        np.testing.assert_array_equal(state[1], [np.flatnonzero(valid)[wanted]])
    else:
        np.testing.assert_array_equal(state[0], [wanted])


@given(parts=PARTS)
def test_sums_and_moments_of_parts_combine(parts: list[np.ndarray]) -> None:
    whole = np.concatenate(parts)
    whole = whole[whole != GAP].astype("f8")
    (total,), count = in_parts(SUM, parts)
    (mean, squares, _), _ = in_parts(MOMENTS, parts)
    if not count[0]:
        return
    with np.errstate(all="ignore"):
        size = np.abs(whole).max()
        # Relative to |x|, which is what is rounded, and not to results that may cancel.
        np.testing.assert_allclose(total[0], whole.sum(), rtol=0, atol=1e-12 * size * len(whole))
        if np.isfinite(size):
            np.testing.assert_allclose(mean[0], whole.mean(), rtol=0, atol=1e-12 * size)
            np.testing.assert_allclose(
                squares[0] / count[0], whole.var(), rtol=1e-12, atol=1e-14 * size * (whole.std() + 1e-15 * size)
            )


@pytest.mark.parametrize(
    ("mean", "std"), [(1e9, 1e-3), (-1e9, 1e-4), (1e6, 1e-3), (273.15, 1e-6), (0, 1), (1e15, 3), (1e160, 1e140)]
)
@pytest.mark.parametrize("size", [1, 7, 100, 1000])
def test_a_variance_keeps_its_digits_however_far_from_zero_and_in_how_many_parts(mean: float, std: float, size: int) -> None:
    numbers = mean + np.random.default_rng(0).standard_normal(3000) * std
    (_, squares, _), count = in_parts(MOMENTS, np.split(numbers, range(size, 3000, size)))
    wide = numbers.astype(np.longdouble) - np.longdouble(numbers[0])
    wanted = float(((wide - wide.mean()) ** 2).mean())
    assert squares[0] / count[0] == pytest.approx(wanted, rel=3e-14, abs=0)


def test_single_precision_is_summed_in_double() -> None:
    numbers = np.full(1 << 20, 0.1, "f4")
    (total,), _ = in_parts(SUM, [numbers])
    assert total[0] == pytest.approx(numbers.astype("f8").sum(), rel=1e-15)


def summed(parts: list[np.ndarray], dtype: str) -> int:
    """Return the sum of the parts, as the reduction gives it."""
    state, count = in_parts(SUM, parts, accumulator=dtype)
    (total,) = REDUCTIONS["sum"].finalize({"sum": state}, count)
    assert total.dtype == dtype
    return int(total)


@pytest.mark.parametrize(
    ("dtype", "parts"),
    [
        ("i8", [[2**63 - 1], [1]]),
        ("i8", [[2**63 - 1, 1]]),
        ("i8", [[-(2**63)], [-1]]),
        ("i8", [[-(2**62)] * 3]),
        ("i8", [[2**62] * 4]),
        ("i8", [[2**62] * 4, [2**62] * 4, [-1]]),
        ("u8", [[2**64 - 1], [1]]),
        ("u8", [[2**64 - 1, 2]]),
        ("u8", [[2**63, 2**63]]),
        ("u8", [[2**63], [2**63], [2**63], [2**63]]),
    ],
)
def test_a_sum_that_64_bits_cannot_hold_is_an_error(dtype: str, parts: list[list[int]]) -> None:
    with pytest.raises(SumOverflowError, match="does not fit into 64 bits; ask for the mean"):
        summed([np.array(part, dtype) for part in parts], dtype)


@given(numbers=st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=8), size=st.integers(1, 4))
@pytest.mark.parametrize("dtype", ["i8", "u8"])
def test_integer_sums_are_exact_or_do_not_fit(dtype: str, numbers: list[int], size: int) -> None:
    numbers = [number if dtype == "i8" else number + 2**63 for number in numbers if number != GAP] or [0]
    parts = [np.array(numbers[i : i + size], dtype) for i in range(0, len(numbers), size)]
    limits = np.iinfo(dtype)
    if limits.min <= sum(numbers) <= limits.max:
        assert summed(parts, dtype) == sum(numbers)
    else:
        with pytest.raises(SumOverflowError):
            summed(parts, dtype)
    state, count = in_parts(SUM, parts, accumulator=dtype)
    # The mean is a float: it fits, whether the sum does or not.
    assert REDUCTIONS["mean"].finalize({"sum": state}, count)[0] == pytest.approx(sum(numbers) / len(numbers), rel=1e-15)


def test_a_range_that_64_bits_cannot_hold_is_an_error() -> None:
    states = {"min": (np.array([-(2**63)]),), "max": (np.array([1]),)}
    with pytest.raises(SumOverflowError, match="ask for min and max"):
        REDUCTIONS["ptp"].finalize(states, np.array([2]))
    narrow = {"min": (np.array([-128], "i1"),), "max": (np.array([127], "i1"),)}
    assert REDUCTIONS["ptp"].finalize(narrow, np.array([2])) == 255


def test_a_negative_scale_mirrors_only_what_can_be_unpacked_afterwards() -> None:
    packing = Packing(scale=-1.0, scale_dtype="<f8", offset=None, offset_dtype="<f8")
    assert stored_component(MIN, packing) is MAX
    assert stored_component(MAX, packing) is MIN
    assert stored_component(SUM, packing) is SUM
    assert stored_component(ARGMIN, packing) is ARGMIN
    assert stored_component(MIN, None) is MIN


def test_degrees_of_freedom() -> None:
    states = {"moments": (np.array([2.0]), np.array([6.0]), np.array([0.0]))}
    assert variance(1).finalize(states, np.array([4])) == 2
    assert variance(1, name="std").finalize(states, np.array([4])) == math.sqrt(2)
    assert np.isnan(variance(4).finalize(states, np.array([4])))


@pytest.mark.parametrize("ddof", ["1", None, True, [1]])
def test_degrees_of_freedom_are_a_number(ddof: Any) -> None:
    with pytest.raises(ReductionError, match="does not take ddof="):
        variance(ddof)


def test_a_name_that_is_no_reduction() -> None:
    with pytest.raises(ReductionError, match="no reduction 'median'; there are all, any, argmax") as caught:
        find_reduction("median")
    assert isinstance(caught.value, ValueError)


def test_a_reduction_of_ones_own_of_nothing_is_masked(chunked_file: Any) -> None:
    own = Reduction.from_functions(
        "own",
        chunk=lambda values, axis: (values.sum(axis=axis, keepdims=True),) * 3,
        combine=np.add,
        finalize=lambda state, count: state[2] / count,
    )
    empty = Active(chunked_file, "x")[3:3]
    assert empty.reduce(own) is np.ma.masked
    along = empty.reduce((own, "max"), axis=0)
    assert along["own"].mask.all()
    assert along["own"].shape == along["max"].shape == (8,)


@pytest.mark.parametrize("component", [MIN, MAX, SUM])
def test_a_nan_that_is_no_missing_value_makes_the_result_nan(component: Component) -> None:
    assert np.isnan(component.chunk(cells(np.array([1.0, math.nan, 2.0])))[0]).all()


@pytest.mark.parametrize("dtype", ["i8", "u8"])
def test_sums_of_integers_near_their_limits_are_exact_or_an_error(dtype):
    random, info, seen = np.random.default_rng(4), np.iinfo(dtype), set()
    for _ in range(500):
        shape = tuple(random.integers(1, 6, 2))
        most = int(random.choice([1 << 33, 1 << 61, info.max]))
        values = random.integers(max(info.min, -most), most, shape, dtype)
        expected = values.astype(object).sum(axis=0, keepdims=True)
        fits = expected.max() <= info.max and expected.min() >= info.min
        seen.add(fits)
        cells = ChunkValues(values, None, (0,), np.full((1, shape[1]), shape[0]), dtype, (), ())
        total, carry = SUM.chunk(cells)
        assert total.dtype == dtype
        assert (total.astype(object) + carry.astype(object) * 2**64 == expected).all()
        if fits:
            assert (REDUCTIONS["sum"].finalize({"sum": (total, carry)}, cells.count).astype(object) == expected).all()
        else:
            with pytest.raises(SumOverflowError):
                REDUCTIONS["sum"].finalize({"sum": (total, carry)}, cells.count)
    assert seen == {True, False}


def test_positions_along_a_long_dimension_take_no_more_room_than_the_chunk():
    import tracemalloc

    values = np.arange(1000.0)
    start = 10**12
    cells = ChunkValues(values, None, (0,), np.array([1000]), "f8", (slice(start, start + 2000, 2),), (10**13,))
    tracemalloc.start()
    try:
        _, place = ARGMAX.chunk(cells)
        assert tracemalloc.get_traced_memory()[1] < 1e6
    finally:
        tracemalloc.stop()
    assert place.tolist() == [start + 1998]


def _writes(values: np.ma.MaskedArray, axis: tuple[int, ...]) -> Any:
    values -= 273.15
    values[values < 0] = np.ma.masked
    return values.sum(axis=axis, keepdims=True).filled(0), values.count(axis=axis, keepdims=True)


def _adds_in_place(a: Any, b: Any) -> Any:
    for left, right in zip(a, b, strict=True):
        np.add(left, right, out=left)
        right[...] = -1
    return a


def _divides_in_place(state: Any, count: Any) -> Any:
    state[0][...] = state[0] / np.maximum(state[1], 1)
    count[...] = 0
    return state[0]


@pytest.mark.parametrize("chunks", [(5, 4), (12, 10)])
@pytest.mark.parametrize("packing", [{}, {"scale_factor": np.float64(0.5)}])
@pytest.mark.parametrize("axis", [None, 0, (), "groups"])
def test_what_functions_of_ones_own_get_is_theirs_to_write_to(
    chunks: tuple[int, int], packing: dict[str, Any], axis: Any, tmp_path: Path
) -> None:
    numbers = np.random.default_rng(0).normal(560 if packing else 280, 10, (12, 10))
    numbers[2, 3] = numbers[7] = np.nan
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for name, options in {"stored": {}, "deflated": {"compression": "gzip"}}.items():
            file.create_dataset(name, data=numbers, chunks=chunks, **options).attrs.update(packing)
    own = Reduction.from_functions("sum", chunk=_writes, combine=_adds_in_place, finalize=_divides_in_place)
    others = ("mean", "min", "std", "argmax", "count") if axis != "groups" else ("mean", "min", "std", "count")
    options = {"axis": axis} if axis != "groups" else {"axis": 0, "by": {0: np.arange(12) % 3}}
    for name in ("stored", "deflated"):
        active = Active(tmp_path / "a.h5", name)
        alone, beside = active.run(others, **options), active.run((own, *others), **options)
        values = np.ma.masked_invalid(numbers * packing.get("scale_factor", 1)) - 273.15
        for other in others:
            assert np.array_equal(np.ma.filled(beside.values[other], -1), np.ma.filled(alone.values[other], -1)), other
        assert np.array_equal(beside.count, alone.count)
        if axis in (None, 0):
            wanted = np.ma.masked_less(values, 0).mean(axis=axis)
            np.testing.assert_allclose(beside.values["sum"], wanted, rtol=1e-12)


@pytest.mark.parametrize("axis", [None, 0])
def test_a_function_of_ones_own_may_fill_the_same_array_for_each_chunk(axis: int | None, tmp_path: Path) -> None:
    numbers = np.random.default_rng(0).normal(size=(40, 6))
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("v", data=numbers, chunks=(7, 4), compression="gzip")
    kept = threading.local()

    def total(values: np.ma.MaskedArray, axis: tuple[int, ...]) -> Any:
        found = values.sum(axis=axis, keepdims=True)
        scratch = kept.__dict__.setdefault(str(found.shape), np.zeros(found.shape))
        scratch[...] = found
        return scratch

    own = Reduction.from_functions("total", chunk=total, combine=np.add, finalize=lambda state, _: state)
    for workers in (1, 2):
        found = Active(tmp_path / "a.h5", "v").with_options(workers=workers).reduce(own, axis=axis)
        np.testing.assert_allclose(found, numbers.sum(axis=axis), rtol=1e-12)


def test_a_result_of_states_of_ours_may_be_written_to() -> None:
    def halved(states: Any, count: Any) -> Any:
        states["sum"][0][...] /= 2
        count[...] = 7
        return states["sum"][0]

    half = Reduction("half", REDUCTIONS["sum"].components, halved)
    tas = Active("docs/tas.nc", "tas")
    for names in ((half, "mean", "sum"), ("mean", "sum", half)):
        together = tas.run(names, axis="time")
        for name in ("mean", "sum"):
            assert np.ma.allequal(together.values[name], tas.reduce(name, axis="time"))
        assert np.ma.allequal(together.values["half"], together.values["sum"] / 2)
        assert np.array_equal(together.count, tas.run("count", axis="time").count)


def test_a_reduction_of_ones_own_may_have_the_name_of_one_of_ours() -> None:
    own = Reduction.from_functions(
        "sum",
        chunk=lambda values, axis: values.count(axis=axis, keepdims=True),
        combine=np.add,
        finalize=lambda state, _: state,
    )
    tas = Active("docs/tas.nc", "tas")
    assert tas.reduce((own, "mean")) == {"sum": tas.count(), "mean": tas.mean()}


def test_attributes_that_are_written_to_stay_as_they_are(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("x", data=np.arange(3)).attrs["flags"] = np.array([1, 2, 3])
    active = Active(tmp_path / "a.h5", "x")
    active.attrs["flags"][...] = 0
    assert active.attrs["flags"].tolist() == [1, 2, 3]
