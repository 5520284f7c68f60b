"""Plans: which chunks are touched, and how few bytes a narrow selection reads."""

import itertools
import math

import h5py
import numpy as np
import pytest

from activestore import Active
from activestore.core.plan import normalize_axes
from activestore.core.variable import contiguous_chunk_shape, contiguous_table
from activestore.errors import SelectionError

DATA = np.arange(60 * 50 * 400, dtype="f8").reshape(60, 50, 400)


@pytest.fixture
def raw(tmp_path):
    with h5py.File(tmp_path / "raw.nc", "w") as file:
        file["x"] = DATA
    return Active(tmp_path / "raw.nc", "x")


@pytest.fixture
def chunked(tmp_path):
    with h5py.File(tmp_path / "chunked.nc", "w") as file:
        dataset = file.create_dataset("x", DATA.shape, "f8", chunks=(16, 50, 100))
        dataset[:30] = DATA[:30]
    return Active(tmp_path / "chunked.nc", "x")


def test_tasks_come_in_grid_order_and_cover_the_selection(chunked):
    plan = chunked[5:, :, 150:].plan("sum", 0)
    tasks = list(plan.tasks())
    assert plan.grid_shape == (4, 1, 3)
    assert [task.sequence for task in tasks] == list(range(len(plan)))
    assert [task.chunk for task in tasks] == [(i, 0, j) for i in range(4) for j in range(1, 4)]
    assert [task.first for task in tasks] == [True] * 3 + [False] * 9


def test_unwritten_chunks_need_no_read(chunked):
    tally = chunked.plan("sum").tally()
    assert (tally.chunks, tally.unwritten) == (16, 8)
    result = chunked.run("sum")
    assert result.report.where == {"posix": 8, "fill value": 8}
    assert result.report.bytes_read == tally.bytes_to_read == 8 * 16 * 50 * 100 * 8
    assert result.value == DATA[:30].sum()


@pytest.mark.parametrize(
    ("key", "most"),
    [
        (np.s_[:, 7, 300], 60 * 400 * 8),
        (np.s_[10:12], 2 * 50 * 400 * 8),
        (np.s_[30, 10:20, :], 10 * 400 * 8),
        (np.s_[:, :10, :], 60 * 10 * 400 * 8),
    ],
)
def test_a_narrow_selection_of_contiguous_data_reads_little(raw, key, most):
    part = raw[key]
    result = part.run("sum")
    np.testing.assert_allclose(result.value, DATA[key].sum(), rtol=1e-12)
    assert result.report.bytes_read <= most
    assert part.explain("sum").stored_bytes == result.report.bytes_read


@pytest.mark.parametrize("shape", [(), (5,), (3, 4), (7, 5, 3), (2, 1, 9, 4), (0, 3), (3, 0)])
@pytest.mark.parametrize("piece", [1, 40, 1 << 20])
def test_pieces_of_contiguous_data_cover_every_byte_once(shape, piece):
    chunk = contiguous_chunk_shape(shape, 8, piece=piece)
    table = contiguous_table(shape, chunk, itemsize=8, start=100)
    covered = sorted(zip(table.offset.tolist(), table.size.tolist(), strict=True))
    assert sum(size for _, size in covered) == 8 * math.prod(shape)
    for (start, size), (following, _) in itertools.pairwise(covered):
        assert start + size == following
    assert all(size <= max(piece, 8) for _, size in covered)


def test_an_empty_selection_has_no_tasks(chunked):
    assert list(chunked[:0].plan("sum").tasks()) == []
    assert chunked[:0].mean() is np.ma.masked
    assert chunked[:0].count() == 0
    assert chunked[:0].max(axis=0).mask.all()
    assert chunked[:0].mean(axis=1).shape == (0, 400)


@pytest.mark.parametrize(
    ("axis", "expected"), [(None, (0, 1)), (-1, (1,)), ("lat", (0,)), (("lon", "lat"), (0, 1)), ((), ()), ([1, 0], (0, 1))]
)
def test_axes(axis, expected):
    assert normalize_axes(axis, ("lat", "lon")) == expected


@pytest.mark.parametrize("axis", [2, -3, "time", ("lat", "lat"), (0, -2), 1.0, True, ("lat", None)])
def test_bad_axes(axis):
    with pytest.raises(SelectionError, match="axis"):
        normalize_axes(axis, ("lat", "lon"))


def test_an_ambiguous_name_is_refused():
    with pytest.raises(SelectionError, match="'x'"):
        normalize_axes("x", ("x", "x"))
