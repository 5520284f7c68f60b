"""Plans: which chunks are touched, and how few bytes a narrow selection reads."""

import itertools
import math

import h5py
import numpy as np
import pytest

from activestore import Active
from activestore.core.plan import normalize_axes
from activestore.core.variable import contiguous_chunk_shape, contiguous_table
from activestore.errors import CorruptChunkError, SelectionError

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


@pytest.fixture
def records(tmp_path):
    """9,000 chunks of one number, shuffled and deflated, between which other data lie; and the numbers."""
    numbers = np.random.default_rng(3).normal(size=9000)
    with h5py.File(tmp_path / "records.nc", "w") as file:
        shared = {"maxshape": (None,), "chunks": (1,), "shuffle": True, "compression": "gzip"}
        dataset = file.create_dataset("x", data=numbers, **shared)
        assert dataset.id.get_num_chunks() == 9000
    return Active(tmp_path / "records.nc", "x"), numbers


def test_small_chunks_in_a_row_are_one_task(records):
    active, numbers = records
    tasks = list(active.plan("sum").tasks(joined=16 << 10))
    assert [task.chunks for task in tasks] == [4096, 4096, 808]
    assert [task.chunk for task in tasks] == [(0,), (4096,), (8192,)]
    places = [piece for task in tasks for piece in task.pieces]
    assert places == [(task.offset, task.size) for task in active.plan("sum").tasks()]
    assert sum(task.size for task in tasks) == active.variable.table.size.sum()
    result = active.run("sum")
    assert result.report.where == {"posix": 9000}
    np.testing.assert_allclose(result.value, math.fsum(numbers), rtol=1e-12)


@pytest.mark.parametrize(
    ("key", "counts"),
    [
        (slice(100, 103), [3]),
        (slice(4090, 4100), [6, 4]),
        ([7, 5, 6, 6], [3]),
        (slice(8999, 8995, -1), [4]),
        (slice(0, 30, 10), [1, 1, 1]),
        (5, [1]),
    ],
)
def test_only_the_wanted_small_chunks_are_read(records, key, counts):
    active, numbers = records
    assert [task.chunks for task in active[key].plan("sum").tasks(joined=16 << 10)] == counts
    np.testing.assert_array_equal(active[key].read(), numbers[key])
    assert active[key].run("max").value == numbers[key].max()
    assert active[key].explain("max").stored_bytes == active[key].run("max").report.bytes_read


def test_a_damaged_one_of_many_small_chunks_is_named(records):
    active, _ = records
    offset, size = (int(column[4321]) for column in (active.variable.table.offset, active.variable.table.size))
    with open(active.variable.uri, "r+b") as file:
        file.seek(offset)
        file.write(b"\xff" * size)
    with pytest.raises(CorruptChunkError, match=rf"chunk \(4321,\) \(offset {offset}, {size} bytes\)"):
        Active(active.variable.uri, "x").mean()


def test_large_chunks_are_tasks_of_their_own(chunked):
    assert all(task.pieces is None for task in chunked.plan("sum").tasks(joined=16 << 10))


@pytest.mark.parametrize(("chunks", "most"), [(20, 16), (100, 16), (256, 32), (480, 60), (2000, 64)])
def test_many_small_chunks_make_larger_tasks(tmp_path, chunks, most):
    """Of 64 KiB each: tasks have 1 MiB, or an eighth of all there is up to 4 MiB."""
    numbers = np.random.default_rng(4).normal(size=(chunks, 4)).astype("f4").repeat(4096, 1)
    with h5py.File(tmp_path / "a.nc", "w") as file:
        file.create_dataset("x", data=numbers, chunks=(1, 1 << 14), compression="gzip", compression_opts=1)
    active = Active(tmp_path / "a.nc", "x")
    tasks = list(active.plan("sum").tasks(joined=256 << 10))
    assert [task.chunks for task in tasks] == [most] * (chunks // most) + [chunks % most] * (chunks % most > 0)
    assert active[:, ::4096].max() == numbers.max()
    np.testing.assert_allclose(active.mean(), numbers.mean(dtype="f8"), rtol=1e-12)


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
