"""Groups of positions: each is reduced as if it had been selected by itself, whatever file, groups and selection."""

import dataclasses
import itertools
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from activestore import REDUCTIONS, Active, Capabilities, Groups
from activestore.core import group_kernel as grouped
from activestore.core.backend import refusal
from activestore.core.group_kernel import blocks
from activestore.core.groups import MOST_GROUPS, AxisGroups
from activestore.core.selection import Slice
from activestore.core.task import Grouping
from activestore.errors import BackendError, ReductionError, SelectionError, SumOverflowError
from activestore.sources.open import open_source
from tests.expected import Request, check, magnitude, outer, parts_fit, requests
from tests.generated import Recipe, recipes
from tests.test_properties import MIDDLE, NAMED, OneByOne, cut, opened

GROUPABLE = [name for name in NAMED if not name.startswith("arg")]
MANY = settings().max_examples * 4
FEW = settings().max_examples // 2


@st.composite
def labels(draw: st.DrawFn, length: int) -> tuple[list[int], int]:
    """Draw the groups of so many positions: equal runs, unequal ones, turns, or anything; and how many there are."""
    kind = draw(st.sampled_from(["equal", "runs", "turns", "any", "one"]))
    size = draw(st.integers(1, 5))
    if kind == "equal":
        start = draw(st.integers(0, size - 1))
        found = [(at + start) // size for at in range(length)]
    elif kind == "runs":
        ends = sorted(draw(st.lists(st.integers(0, max(0, length)), max_size=4)))
        found = [sum(at >= end for end in ends) for at in range(length)]
    elif kind == "turns":
        found = [at % size for at in range(length)]
    elif kind == "one":
        found = [size] * length
    else:
        found = draw(st.lists(st.integers(-1, 4), min_size=length, max_size=length))
    if draw(st.booleans()):
        found = found[::-1]
    if draw(st.integers(0, 3)) == 0:
        found = [-1 if draw(st.booleans()) else label for label in found]
    return found, max([-1, *found]) + 1 + draw(st.sampled_from([0, 0, 0, 2]))


@st.composite
def groupings(draw: st.DrawFn, shape: tuple[int, ...], axes: tuple[int, ...]) -> dict[int, tuple[list[int], int]]:
    """Draw groups along some of the reduced dimensions."""
    chosen = draw(st.lists(st.sampled_from(axes), unique=True, min_size=1)) if axes else []
    return {axis: draw(labels(shape[axis])) for axis in chosen}


def by_of(by: dict[int, tuple[list[int], int]], active: Active) -> Any:
    return {active.dims[axis] if active.dims.count(active.dims[axis]) == 1 else axis: Groups(*by[axis]) for axis in by}


def check_groups(
    name: str, found: Any, values: np.ma.MaskedArray, request: Request, by: dict[int, tuple[list[int], int]], scale: float
) -> None:
    """Compare each group with NumPy's reduction of its positions."""
    places = {
        axis: i for i, axis in enumerate(a for a in range(values.ndim) if request.keepdims or a in by or a not in request.axes)
    }
    shape = tuple(by[a][1] if a in by else 1 if a in request.axes else values.shape[a] for a in places)
    assert np.shape(found) == shape
    whole = Request((), None, request.axes, keepdims=True, skipna=request.skipna)
    for cell in itertools.product(*[range(count) for _, count in by.values()]):
        part, index = values, [slice(None)] * len(places)
        for axis, group in zip(by, cell, strict=True):
            key = [slice(None)] * values.ndim
            key[axis] = np.flatnonzero(np.array(by[axis][0]) == group)
            part = outer(part, tuple(key))
            index[places[axis]] = slice(group, group + 1)
        kept = tuple(1 if a in request.axes else values.shape[a] for a in range(values.ndim))
        check(name, found[tuple(index)].reshape(kept), part, whole, scale)


@settings(max_examples=MANY)
@given(recipe=recipes(), data=st.data())
def test_every_group_is_reduced_as_if_it_were_alone(recipe: Recipe, data: st.DataObject) -> None:
    with opened(recipe) as (active, whole):
        request = data.draw(requests(active))
        part, values = cut(active, whole, request)
        by = data.draw(groupings(part.shape, request.axes))
        if not by:
            return
        one_by_one = OneByOne(open_source(active.variable.uri))
        large = data.draw(st.sampled_from([1, 3, 1 << 14]))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(grouped, "_LARGE", large)
            grouped._found_runs.cache_clear()
            for name in GROUPABLE:
                chosen = part if data.draw(st.booleans()) else part.with_options(backend=one_by_one)
                options = {"keepdims": request.keepdims, "skipna": request.skipna, "by": by_of(by, part)}
                try:
                    found = chosen.run(NAMED[name], request.axis, **options)
                except SumOverflowError:
                    assert not parts_fit(values, Request((), None, request.axes, keepdims=True, skipna=True), name)
                    continue
                check_groups(name, found.value, values, request, by, magnitude(recipe, active))
                if name == "count":
                    assert np.array_equal(found.count, found.value)
        one_by_one.close()
        grouped._found_runs.cache_clear()


@pytest.fixture
def active(tmp_path: Path) -> Active:
    """Numbers of 40 days on a grid of 10 x 12, some of them missing, in chunks of 6 x 4 x 12."""
    numbers = np.random.default_rng(0).normal(280, 10, (40, 10, 12)).astype("f4")
    numbers[:, 2:4, 5] = np.nan
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("x", data=numbers, chunks=(6, 4, 12), compression="gzip")
        file.create_dataset("daily", data=numbers, chunks=(1, 10, 12))
        file.create_dataset("whole", data=np.arange(400).reshape(40, 10) - 200)
        file.create_dataset("large", data=np.full((8, 4), 2**62), chunks=(3, 4))
    return Active(tmp_path / "a.h5", "x")


def bits(result: Any) -> Any:
    return [
        (np.ma.getdata(one).tobytes(), np.ma.getmaskarray(one).tobytes()) for one in (*result.values.values(), result.count)
    ]


MONTHS = np.arange(40) // 7 % 4
GROUPED = tuple(name for name in REDUCTIONS if not name.startswith("arg"))


def test_names_numbers_and_dims(active: Active) -> None:
    one = active.run("mean", 0, by={0: MONTHS})
    assert one.value.shape == (4, 10, 12)
    assert one.dims == active.dims
    assert active.run("mean", (0, 1), by={-3: MONTHS.tolist()}).dims == (active.dims[0], active.dims[2])
    assert active.run("mean", by={active.dims[1]: np.arange(10) // 5}).value.shape == (2,)
    kept = active.run("mean", keepdims=True, by={1: np.arange(10) // 5})
    assert (kept.value.shape, kept.dims) == ((1, 2, 1), active.dims)
    assert active[3].run("max", (0, 1), by={0: np.arange(10) // 5}).value.shape == (2,)


def test_coarsening_is_a_few_blocks() -> None:
    rows, columns = (
        Grouping(0, tuple(range(91)), (3, *[4] * 89, 2), slice(0, 91)),
        Grouping(1, tuple(range(180)), (4,) * 180, slice(0, 180)),
    )
    found = list(blocks((361, 720), (0, 1), (rows, columns)))
    assert sorted(block.answer for block in found) == [(1, 180), (1, 180), (89, 180)]
    assert sum(np.prod(block.shape) for block in found) == 361 * 720


def test_blocks_are_views_where_they_can_be() -> None:
    values = np.arange(24.0).reshape(12, 2)
    for labels in (tuple(range(4)), (3, 2, 1, 0)):
        (block,) = blocks(values.shape, (0,), [Grouping(0, labels, (3,) * 4, slice(0, 4))])
        assert np.shares_memory(block.cut(values), values)
    (turns,) = blocks(values.shape, (0,), [Grouping(0, (0, 1, 2) * 4, (1,) * 12, slice(0, 3))])
    assert np.shares_memory(turns.cut(values), values)
    (odd,) = blocks(values.shape, (0,), [Grouping(0, (0, 1, 1, 0, 0, 1, 0, 1), (1, 1, 1, 1, 2, 2, 2, 2), slice(0, 2))])
    assert not np.shares_memory(odd.cut(values), values)


def test_a_grouping_of_many_positions_is_small() -> None:
    days = AxisGroups(0, np.arange(60_000) // 30 % 12, 12)
    assert days.of(slice(0, 30)) == Grouping(0, (0,), (30,), slice(0, 1))
    assert len(days.of(slice(0, 3000)).labels) == 100
    assert days.of(slice(29, None, -1)) == Grouping(0, (0,), (30,), slice(0, 1))
    assert days.of((0, 40, 1)) == Grouping(0, (0, 1, 0), (1, 1, 1), slice(0, 2, 1))


def test_tasks_know_their_groups_and_no_others(active: Active) -> None:
    daily = Active(active.variable.uri, "daily")
    tasks = list(daily.plan("mean", 0, by={0: MONTHS}).tasks())
    assert [task.groups[0].at.start for task in tasks] == MONTHS.tolist()
    assert all(task.groups[0].count == 1 for task in tasks)
    assert all(refusal(task, Capabilities(groups=False)) is None for task in tasks)
    (first, *_) = active.plan("mean", 0, by={0: np.arange(40)}).tasks()
    assert refusal(first, Capabilities(groups=False)) == "several groups in a chunk"
    assert (
        refusal(next(active.plan("mean", where="> 3").tasks()), Capabilities(conditions=False)) == "a condition on the values"
    )


def test_positions_in_no_group_are_not_read(active: Active) -> None:
    labels = np.full(40, -1)
    labels[13:17] = 1
    work = active.plan("mean", by={0: labels})
    assert len(work) == 3
    assert {task.chunk[0] for task in work.tasks()} == {2}
    found = active.run("mean", by={0: labels})
    assert found.count.tolist() == [0, 4 * (10 * 12 - 2)]
    assert found.value[0] is np.ma.masked
    # What is left of a chunk is regular: nobody has to list it.
    labels = np.where(np.arange(40) % 6 < 3, 0, -1)
    assert all(task.region[0] == Slice(0, 3, 1) for task in active.plan("mean", by={0: labels}).tasks())
    nothing = active.run(("mean", "count"), by={0: Groups(np.full(40, -1), 3)})
    assert nothing.count.tolist() == [0, 0, 0]
    assert nothing.values["mean"].mask.all()


@pytest.mark.parametrize("reduction", [GROUPED, MIDDLE])
def test_the_number_of_workers_makes_no_difference(reduction: Any, active: Active) -> None:
    by = {0: MONTHS[::-1], 1: np.array([0, 3, 1, 1, 2, 0, 0, 2, 5, 5])}
    one, five = (active.with_options(workers=workers).run(reduction, (0, 1), by=by) for workers in (1, 5))
    assert bits(one) == bits(five)


def test_other_processes_give_the_same(process_pool: ProcessPoolExecutor, active: Active) -> None:
    by = {0: MONTHS}
    assert bits(active.run(GROUPED, 0, by=by)) == bits(active.with_options(executor=process_pool).run(GROUPED, 0, by=by))


def test_sums_of_integers_are_watched_in_every_group(active: Active) -> None:
    large = Active(active.variable.uri, "large")
    assert large[:, 0].run("sum", by={0: np.arange(8)}).value.tolist() == [2**62] * 8
    with pytest.raises(SumOverflowError):
        large[:, 0].run("sum", by={0: np.arange(8) % 4})
    with pytest.raises(SumOverflowError):
        large.run("sum", 1, by={1: [0, 0, 1, 2]})
    whole = Active(active.variable.uri, "whole")
    assert whole.run("sum", by={0: MONTHS}).value.tolist() == [int(whole.read()[month == MONTHS].sum()) for month in range(4)]


def test_a_least_value_above_zero_is_not_lost_where_a_group_is_met_late(active: Active) -> None:
    # No identity stands in for what was not reached yet: all values are far above 0.
    found = active.run("min", by={0: np.arange(40) // 39})
    assert found.value.tolist() == [np.nanmin(active[:39].read().data), np.nanmin(active[39].read().data)]


class OfOneGroup(OneByOne):
    """A backend that takes groups for one, and says nothing of it."""

    def reduce_chunks(self, tasks: Any) -> Any:
        return super().reduce_chunks([dataclasses.replace(task, groups=()) for task in tasks])


def test_an_answer_of_another_shape_is_no_answer(active: Active) -> None:
    with closing(OfOneGroup(open_source(active.variable.uri))) as backend, pytest.raises(BackendError, match="of the shape"):
        active.with_options(backend=backend).run("max", by={0: MONTHS})


class TestWhatIsRefused:
    @pytest.mark.parametrize(
        ("by", "told"),
        [
            ([0, 1], "by is a list; give a mapping"),
            ({"nowhere": [0]}, "no axis 'nowhere'"),
            ({7: [0]}, "no axis 7"),
            ({None: [0]}, "no axis None"),
            ({2: np.zeros(12, int)}, "which is not reduced; name it in axis"),
            ({0: MONTHS, -3: MONTHS}, "twice"),
            ({0: [0, 1]}, "2 labels were given for the 40 positions"),
            ({0: MONTHS[:, None]}, "of 2 dimensions"),
            ({0: MONTHS / 2}, "an array of float64"),
            ({0: ["a"] * 40}, "an array of <U1"),
            ({0: [[0], [1, 2]]}, "no sequence of integers"),
            ({0: 3}, "of 0 dimensions"),
            ({0: MONTHS > 2}, "an array of bool"),
            ({0: MONTHS - 2}, "has a label -2"),
            ({0: MONTHS + MOST_GROUPS}, f"they go from -1 to {MOST_GROUPS - 1}"),
            ({0: np.full(40, 2**64 - 1, "u8")}, "has a label 18446744073709551615"),
            ({0: Groups(MONTHS, 3)}, "cannot have 3 groups; labels go up to 3"),
            ({0: Groups(MONTHS, MOST_GROUPS + 1)}, "there may be"),
            ({0: Groups(MONTHS, 4.0)}, "cannot have 4.0 groups"),  # type: ignore[arg-type]
            ({0: Groups(MONTHS, True)}, "cannot have True groups"),
            ({0: Groups(MONTHS, MOST_GROUPS), 1: Groups(np.zeros(10, int), 9)}, "more than are selected"),
        ],
    )
    def test_it_is_told(self, by: Any, told: str, active: Active) -> None:
        with pytest.raises(SelectionError, match=told):
            active.plan("mean", (0, 1), by=by)

    @pytest.mark.parametrize("name", ["argmin", "argmax"])
    def test_positions_of_extremes(self, name: str, active: Active) -> None:
        with pytest.raises(ReductionError, match=f"{name} cannot be taken of groups"):
            active.plan(("mean", name), 0, by={0: MONTHS})
        assert active.reduce(name, 0, by={}).shape == (10, 12)


def test_explain_and_report_tell_of_them(active: Active) -> None:
    said = str(active.explain("mean", 0, by={0: MONTHS}, where="> 280"))
    assert f"grouped    {active.dims[0]} into 4" in said
    assert "where      > 280" in said
    result = active.run("mean", 0, by={0: np.where(MONTHS == 1, 0, -1)})
    assert result.report.cells == 12 * 120
    assert result.report.chunks == sum(result.report.where.values()) == len(result.plan)
