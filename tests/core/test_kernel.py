"""One chunk in, one partial out: what would run in a store, compared with NumPy on that chunk."""

import dataclasses
import math
from pathlib import Path
from unittest import mock

import h5py
import numpy as np
import pytest

from activestore import Active
from activestore.core import kernel
from activestore.core.kernel import reduce_chunk
from activestore.errors import CorruptChunkError

DATA = np.ma.masked_less(np.random.default_rng(3).normal(size=(6, 5, 4)).astype("f4"), -1)


@pytest.fixture
def active(tmp_path):
    with h5py.File(tmp_path / "x.nc", "w") as file:
        dataset = file.create_dataset("x", data=DATA.filled(9e9), chunks=DATA.shape, compression="gzip", shuffle=True)
        dataset.attrs["_FillValue"] = np.float32(9e9)
    return Active(tmp_path / "x.nc", "x")


def task_and_bytes(active, names, axis, key=()):
    (task,) = active[key].plan(names, axis).tasks()
    (raw,) = active._source.read_ranges([(task.offset, task.size)])
    return task, raw


@pytest.mark.parametrize("axis", [None, 0, (0, 2), ()])
@pytest.mark.parametrize("key", [(), np.s_[1:5, ::2, [3, 0, 2]]])
def test_components_are_those_of_the_wanted_part(active, axis, key):
    task, raw = task_and_bytes(active, ("sum", "min", "max", "var"), axis, key)
    partial = reduce_chunk(raw, task)
    part = DATA[key] if key == () else DATA[1:5, ::2][..., [3, 0, 2]]
    axes = (0, 1, 2) if axis is None else axis
    valid = part.count(axis=axes, keepdims=True) if axes != () else (~np.ma.getmaskarray(part)).astype(int)
    np.testing.assert_array_equal(partial.count, valid)
    some = valid > 0
    wide = part.astype("f8")
    reference = {
        "sum": np.ma.filled(np.add.reduce(wide.filled(0), axis=axes, keepdims=True), 0),
        "min": np.minimum.reduce(part.filled(np.inf), axis=axes, keepdims=True),
        "max": np.maximum.reduce(part.filled(-np.inf), axis=axes, keepdims=True),
    }
    for name, expected in reference.items():
        np.testing.assert_allclose(partial.states[name][0][some], expected[some], rtol=1e-12)
    squares = partial.states["moments"][1]
    deviation = (wide - reference["sum"] / np.maximum(valid, 1)).filled(0)
    np.testing.assert_allclose(squares, np.square(deviation).sum(axis=axes, keepdims=True), rtol=1e-12, atol=1e-12)


def test_bytes_that_are_cut_off_name_the_chunk(active):
    task, raw = task_and_bytes(active, "sum", None)
    with pytest.raises(CorruptChunkError, match=rf"'x', chunk \(0, 0, 0\) \(offset {task.offset}, .*ends after 10 bytes"):
        reduce_chunk(raw[:10], task)


def test_damaged_bytes_name_the_codec(active):
    task, raw = task_and_bytes(active, "sum", None)
    with pytest.raises(CorruptChunkError, match="zlib cannot decode it"):
        reduce_chunk(bytes(len(raw)), task)


def test_cells_behind_the_extent_are_fill(active):
    task, raw = task_and_bytes(active, "count", 0)
    short = dataclasses.replace(
        task, extent=(4, 9, 9), template=dataclasses.replace(task.template, fill=np.float32(9e9).tobytes())
    )
    np.testing.assert_array_equal(reduce_chunk(raw, short).count[0], DATA[:4].count(axis=0))


def test_the_task_holds_plain_values_only(active):
    task, _ = task_and_bytes(active, "mean", 0, np.s_[:, [0, 3, 1]])
    plain = (int, str, bool, bytes, tuple, slice, type(None))
    for field in dataclasses.fields(task):
        if field.name not in ("template", "codecs"):
            assert isinstance(getattr(task, field.name), plain), field.name


@pytest.mark.parametrize("chunks", [(20, 30, 2), (7, 30, 3), (40, 1, 4), (20, 60, 1)])
@pytest.mark.parametrize("dtype", ["u1", "f4", "i8"])
def test_short_last_dimensions(chunks: tuple[int, ...], dtype: str, tmp_path: Path) -> None:
    # The numbers of these chunks are laid out in another order first.
    numbers = np.random.default_rng(0).integers(0, 100, (40, 60, 4)).astype(dtype)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        dataset = file.create_dataset("v", data=numbers, chunks=chunks, compression="gzip")
        dataset.attrs["_FillValue"] = numbers.dtype.type(3)
    active, values = Active(tmp_path / "a.h5", "v"), np.ma.masked_equal(numbers, 3)
    assert math.prod(chunks) < kernel._FEW
    with mock.patch.object(kernel, "_FEW", 1):
        for axis in (None, 0, 1, 2, (0, 2), (1, 2), (0, 1)):
            found = active.run(("sum", "mean", "min", "max", "std", "any", "all"), axis)
            for name, given in found.values.items():
                wanted = getattr(values.astype("f8") if name in ("std", "mean") else values, name)(axis=axis)
                np.testing.assert_allclose(given, wanted, rtol=1e-12, err_msg=f"{name} {axis}")
            assert np.array_equal(found.count, values.count(axis=axis))
        for axis in (0, 1, 2):
            assert np.array_equal(active.argmin(axis), np.ma.argmin(values, axis=axis, fill_value=101))
        groups = active.reduce(("sum", "max"), (0, 2), by={0: np.arange(40) % 3})
        for group in range(3):
            assert np.array_equal(groups["sum"][group], values[group::3].sum(axis=(0, 2)))
            assert np.array_equal(groups["max"][group], values[group::3].max(axis=(0, 2)))
        assert np.array_equal(active[::3, 5:50:2, 1:3].sum(2), values[::3, 5:50:2, 1:3].sum(axis=2))
