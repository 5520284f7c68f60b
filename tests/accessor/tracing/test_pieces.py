"""Parts of arrays, indexed and joined without reading: as NumPy does it."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from activestore.accessor.tracing.pieces import Piece, Pieces, indexed, joined, joined_grid, whole
from activestore.errors import UntraceableError


def read(traced):
    """Return the numbers of an array in pieces."""
    parts = [outer(piece.leaf, piece.key) for piece in traced.pieces]
    assert [part.shape for part in parts] == [piece.shape for piece in traced.pieces]
    found = parts[0] if traced.dim is None else np.concatenate(parts, traced.dim)
    assert len(parts) == 1 or traced.dim is not None
    assert found.shape == traced.shape
    return found


def outer(array, key):
    """Return `array` indexed dimension by dimension, from the last, so that those dropped do not move the others."""
    for dim in reversed(range(len(key))):
        array = array[(slice(None),) * dim + (key[dim],)]
    return array


def numbers(*shape, start=0):
    return np.arange(start, start + np.prod(shape, dtype=int)).reshape(shape)


@st.composite
def keys(draw, shape):
    """Draw an index of NumPy's that is the same in outer indexing: of integers and slices, or of slices and one list."""
    bound = st.integers(-25, 25)
    slices = st.builds(slice, st.none() | bound, st.none() | bound, st.none() | st.integers(-4, 4).filter(bool))
    count = draw(st.integers(0, len(shape)))
    if draw(st.booleans()) or not count:
        key = [draw(slices | st.integers(-n, n - 1)) if n else draw(slices) for n in shape[:count]]
    else:
        key = [draw(slices) for _ in range(count)]
        at = draw(st.integers(0, count - 1))
        n = shape[at]
        positions = st.lists(st.integers(-n, n - 1), max_size=8) if n else st.just([])
        one = draw(positions | st.lists(st.booleans(), min_size=n, max_size=n))
        key[at] = np.array(one, bool if one and isinstance(one[0], bool) else int) if draw(st.booleans()) or not one else one
    if draw(st.booleans()):
        key = [Ellipsis, *key] if count == len(shape) or draw(st.booleans()) else [*key, Ellipsis]
    return tuple(key) if len(key) != 1 or draw(st.booleans()) else key[0]


def fits(array, key):
    """Return what NumPy makes of it, None where it moves dimensions or takes the index for something else."""
    try:
        return array[key]
    except (IndexError, ValueError):
        return None


@given(st.data(), st.lists(st.integers(0, 9), min_size=1, max_size=3), st.lists(st.integers(0, 6), min_size=1, max_size=3))
def test_indices_of_indices(data, shape, firsts):
    """Of arrays joined along the first dimension, too."""
    leaves = [numbers(first, *shape[1:], start=1000 * i) for i, first in enumerate([shape[0], *firsts[1:]])]
    array, traced = np.concatenate(leaves), joined([whole(leaf) for leaf in leaves], 0)
    np.testing.assert_array_equal(read(traced), array)
    for _ in range(3):
        if not array.ndim:
            break
        key = data.draw(keys(array.shape))
        expected = fits(array, key)
        if expected is None:
            with pytest.raises(UntraceableError):
                indexed(traced, key)
            break
        array, traced = expected, indexed(traced, key)
        np.testing.assert_array_equal(read(traced), array)


@given(st.data(), st.lists(st.integers(1, 9), min_size=1, max_size=3))
def test_what_is_cut_and_joined_is_one_piece_again(data, shape):
    array = numbers(*shape)
    cuts = [[0, *sorted(data.draw(st.sets(st.integers(1, n), max_size=4)) - {n}), n] for n in shape]

    def blocks(place):
        if len(place) == len(shape):
            return indexed(whole(array), tuple(slice(cuts[dim][i], cuts[dim][i + 1]) for dim, i in enumerate(place)))
        return [blocks((*place, i)) for i in range(len(cuts[len(place)]) - 1)]

    (piece,) = joined_grid(blocks(())).pieces
    assert piece.leaf is array
    assert piece.index == tuple(range(n) for n in shape)


@given(st.lists(st.lists(st.integers(0, 6), max_size=5), min_size=1, max_size=5))
@example([[1], [1]])
@example([[1], [], [3], [5, 6]])
@example([[5], [3], [1]])
def test_positions_end_to_end(parts):
    array = numbers(7)
    traced = joined([indexed(whole(array), part) for part in parts], 0)
    assert len(traced.pieces) == 1
    np.testing.assert_array_equal(read(traced), [one for part in parts for one in part])


@pytest.mark.parametrize(
    ("positions", "expected"),
    [
        ([4, 6, 8], range(4, 10, 2)),
        ([8, 6, 4, 2, 0], range(8, -1, -2)),
        ([3], range(3, 4)),
        ([], range(0)),
        ([1, 1], (1, 1)),
        ([0, 1, 3], (0, 1, 3)),
        ([-1, -2], range(9, 7, -1)),
    ],
)
def test_lists_are_ranges_where_they_can_be(positions, expected):
    assert indexed(whole(numbers(10)), positions).pieces[0].index == (expected,)


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ((slice(None), None), "dimension is added"),
        (([0, 1], [1, 2]), "several lists"),
        ((0, slice(None), [1, 2]), "several lists"),
        ((True,), "indexed by bool"),
        (([True, False],), "indexed by list"),
        ((1.0,), "indexed by float"),
        ((0, 0, 0, 0), "does not fit"),
        ((..., ...), "does not fit"),
        ((99,), "does not fit"),
        (([99],), "does not fit"),
        (("x",), "indexed by str"),
        ((np.array([[0, 1]]),), "indexed by ndarray"),
        ((slice(None, None, 0),), "does not fit"),
    ],
)
def test_other_indices_are_refused(key, message):
    with pytest.raises(UntraceableError, match=message):
        indexed(whole(numbers(4, 5, 6)), key)


def test_joined_along_two_dimensions_is_refused():
    row = joined([whole(numbers(2, 3)) for _ in range(2)], 1)
    other = joined([whole(numbers(2, 3)) for _ in range(2)], 1)
    with pytest.raises(UntraceableError, match="more than one dimension"):
        joined([row, other], 0)


def test_what_does_not_fit_together_is_refused():
    with pytest.raises(UntraceableError, match="different shapes"):
        joined([whole(numbers(2, 3)), whole(numbers(2, 4))], 0)
    with pytest.raises(UntraceableError, match="dimension is added"):
        joined_grid([[[whole(numbers(2, 3))]]])


@pytest.mark.parametrize("axis", [0, 1])
def test_pieces_of_one_array_that_are_not_neighbours_stay_apart(axis):
    """Their other dimensions differ."""
    array = numbers(4, 4)
    traced = joined([indexed(whole(array), np.s_[:2, :2]), indexed(whole(array), np.s_[2:, 2:])], axis)
    assert traced.dim == axis
    assert len(traced.pieces) == 2
    np.testing.assert_array_equal(read(traced), np.concatenate([array[:2, :2], array[2:, 2:]], axis))


def test_a_column_and_a_row_are_not_one_piece():
    """Other dimensions are dropped of each."""
    array = numbers(4, 4)
    traced = joined([indexed(whole(array), np.s_[0]), indexed(whole(array), np.s_[:, 0])], 0)
    assert len(traced.pieces) == 2
    np.testing.assert_array_equal(read(traced), np.concatenate([array[0], array[:, 0]]))


def test_keys():
    piece = Piece(numbers(9, 9, 9, 9, 9), (3, range(2, 9, 3), range(8, -1, -4), (1, 1, 0), range(5, 5)))
    assert piece.key == (3, slice(2, 9, 3), slice(8, None, -4), [1, 1, 0], slice(0, 0))
    assert piece.shape == (3, 3, 3, 0)
    assert read(Pieces((piece,), None, piece.shape)).shape == (3, 3, 3, 0)
