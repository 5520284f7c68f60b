"""Selections: outer indexing as NumPy and netCDF4-python do it, and what of each chunk is wanted."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from activestore.core.selection import ChunkParts, Points, Selection, Slice, region_index, region_shape
from activestore.errors import SelectionError
from tests.expected import indices, outer

SHAPES = st.lists(st.integers(0, 9), max_size=4).map(tuple)


def positions(selection: Selection) -> list[list[int]]:
    return [list(along) for along in selection.positions]


@given(data=st.data(), shape=SHAPES)
def test_picks_what_numpy_picks(data: st.DataObject, shape: tuple[int, ...]) -> None:
    numbers = np.ma.MaskedArray(np.arange(np.prod(shape, dtype=int)).reshape(shape))
    selection, picked = Selection.whole(shape), numbers
    for _ in range(data.draw(st.integers(0, 3))):
        key = data.draw(indices(picked.shape))
        selection, picked = selection[key], outer(picked, key)
    assert selection.shape == picked.shape
    whole = numbers.data[np.ix_(*[np.array(along, np.int64) for along in selection.positions])] if shape else numbers.data
    np.testing.assert_array_equal(whole.reshape(picked.shape), picked.data)


@given(data=st.data(), length=st.integers(1, 40), chunk=st.integers(1, 45))
def test_chunk_parts_cover_the_selection_once(data: st.DataObject, length: int, chunk: int) -> None:
    selection = Selection.whole((length,))
    for _ in range(data.draw(st.integers(0, 2))):
        selection = selection[data.draw(indices(selection.shape))] if selection.shape else selection
    along = selection.positions[0]
    parts = ChunkParts(along, chunk)
    found: dict[int, int] = {}
    for i in range(len(parts)):
        part = parts[i]
        assert part.chunk == parts.chunks[i]
        assert part.chunk * chunk < length
        inside = list(range(*part.inside)) if isinstance(part.inside, Slice) else list(part.inside.at)
        places = np.arange(len(along))[part.outside] if isinstance(part.outside, slice) else part.outside
        assert len(inside) == len(places) > 0
        assert all(0 <= at < chunk for at in inside)
        for place, at in zip(places, inside, strict=True):
            assert int(place) not in found
            found[int(place)] = part.chunk * chunk + at
    assert [found[place] for place in range(len(along))] == list(along)
    assert list(parts.chunks) == sorted(set(parts.chunks.tolist()))


@given(data=st.data(), lengths=st.lists(st.integers(1, 6), min_size=1, max_size=3))
def test_a_region_has_the_shape_of_what_it_picks(data: st.DataObject, lengths: list[int]) -> None:
    def part(length: int) -> Slice | Points:
        if data.draw(st.booleans()):
            return Points(tuple(data.draw(st.lists(st.integers(0, length - 1), min_size=1, max_size=4))))
        start = data.draw(st.integers(0, length - 1))
        return Slice(start, data.draw(st.integers(start + 1, length)), data.draw(st.integers(1, 3)))

    region = tuple(part(length) for length in lengths)
    assert np.zeros(lengths)[region_index(region)].shape == region_shape(region)


def test_lists_become_slices_where_they_are_regular() -> None:
    assert Selection.whole((9,))[[1, 4, 7]].positions == (range(1, 8, 3),)
    assert Selection.whole((9,))[[7, 4, 1]].positions == (range(7, 0, -3),)
    assert Selection.whole((9,))[[4, 4]].positions == ((4, 4),)
    assert Selection.whole((9,))[np.arange(9) % 2 == 0].positions == (range(0, 9, 2),)
    assert Selection.whole((9,))[[]].positions == (range(0),)


def test_an_integer_drops_its_dimension() -> None:
    selection = Selection.whole((4, 5, 6))[1, ..., -1]
    assert (selection.shape, selection.kept) == ((5,), (1,))
    assert positions(selection) == [[1], [0, 1, 2, 3, 4], [5]]


@pytest.mark.parametrize(
    ("key", "said"),
    [
        (4, "axis 0: position 4 is outside its 4 positions"),
        (-5, "axis 0: position -5 is outside its 4 positions"),
        ((0, [0, 5]), "axis 1: position 5 is outside its 5 positions"),
        ((0, 0, 0), "3 indices were given for 2 dimensions"),
        ((..., 0, ...), "one '...' only"),
        (1.0, "axis 0: 1.0 is neither an integer, a slice, a mask nor a list of integers"),
        (slice(0, 1.5), "axis 0: 0:1.5 is not a slice of integers"),
        (slice(None, None, 0), "axis 0: ::0 is not a slice of integers"),
        ([0.5, 1.0], "neither an integer"),
        ("time", "neither an integer"),
        (None, "cannot add dimensions"),
        ((np.ones(3, bool),), "a mask of the shape (3,) was given for 4 positions"),
        (np.ones((4, 5), bool), "a mask of the shape (4, 5) was given for 4 positions"),
        (np.zeros((2, 2), int), "neither an integer"),
        ({"time": 0}, "neither an integer"),
        ((0, True), "a mask of the shape () was given for 5 positions"),
    ],
)
def test_what_does_not_fit_is_refused(key: Any, said: str) -> None:
    with pytest.raises(SelectionError) as caught:
        Selection.whole((4, 5))[key]
    assert said in str(caught.value)
    assert isinstance(caught.value, IndexError)


def test_a_position_outside_an_earlier_selection_is_refused() -> None:
    with pytest.raises(SelectionError, match="position 2 is outside its 2 positions"):
        Selection.whole((10,))[3:5][2]
