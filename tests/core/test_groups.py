"""Groups of positions: each is reduced as if it had been selected by itself, whatever file, groups and selection."""

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from activestore import Active, Groups
from activestore.core import grouped
from activestore.errors import SumOverflowError
from activestore.source import open_source
from tests.expected import Request, check, fits, magnitude, outer, requests
from tests.generated import Recipe, recipes
from tests.test_properties import NAMED, OneByOne, cut, opened

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
                    # Each sum is one of the terms of a smaller one: where the whole fits, every group does.
                    assert not fits(values, Request((), None, request.axes, keepdims=True, skipna=True), name)
                    continue
                check_groups(name, found.value, values, request, by, magnitude(recipe, active))
                if name == "count":
                    assert np.array_equal(found.count, found.value)
        one_by_one.close()
        grouped._found_runs.cache_clear()
