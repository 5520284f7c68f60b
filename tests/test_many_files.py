"""Many files as one `Active`: the numbers are those of NumPy on the concatenated arrays of netCDF4-python."""

import pickle
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import netCDF4
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from activestore import Active
from activestore.core.reductions import REDUCTIONS, Reduction
from activestore.errors import ConfigurationError, JoinError, SelectionError, SourceError, SumOverflowError
from tests import series
from tests.expected import check, fits, outer, requests
from tests.series import NAME, Member, members

MANY = settings().max_examples * 3


@contextmanager
def written(drawn: tuple[Member, ...], axis: int = 0) -> Iterator[list[Path]]:
    """Write a series."""
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder, f"{i}.nc") for i in range(len(drawn))]
        for member, path in zip(drawn, paths, strict=True):
            series.write(member, path, axis=axis)
        yield paths


def joined(paths: list[Path], axis: int = 0) -> Active:
    return Active.concatenate([Active(path, NAME) for path in paths], axis)


@settings(max_examples=MANY)
@given(data=st.data())
def test_every_reduction_is_that_of_numpy_on_the_joined_arrays(data: st.DataObject) -> None:
    axis = data.draw(st.sampled_from([0, 0, 1, 2]))
    drawn = data.draw(members(axis=axis))
    with written(drawn, axis) as paths:
        active, values = joined(paths, axis), series.reference(paths, axis)
        assert (active.shape, active.dtype) == (values.shape, values.dtype)
        request = data.draw(requests(active))
        part, wanted = active, values
        for key in request.keys:
            part, wanted = part[key], outer(wanted, key)
        for name in REDUCTIONS:
            try:
                found = part.reduce(name, request.axis, keepdims=request.keepdims, skipna=request.skipna)
            except SumOverflowError:
                assert not fits(wanted, request, name), f"{name} fits into 64 bits"
                continue
            check(name, found, wanted, request, series.scale_of(drawn))
        read = part.read()
        mask = np.ma.getmaskarray(wanted)
        assert (read.shape, read.dtype) == (wanted.shape, wanted.dtype)
        np.testing.assert_array_equal(np.ma.getmaskarray(read), mask)
        np.testing.assert_array_equal(read.data[~mask], wanted.data[~mask])


@given(data=st.data())
def test_selections_are_joined_in_any_order_and_again(data: st.DataObject) -> None:
    drawn = data.draw(members())
    with written(drawn) as paths:
        active, values = joined(paths), series.reference(paths, 0)
        keys = data.draw(st.lists(requests(active), min_size=1, max_size=3))
        lists = [st.lists(st.integers(0, len(values) - 1), max_size=6) if len(values) else st.just([]) for _ in keys]
        chosen = [(data.draw(one), slice(None, None, data.draw(st.sampled_from([-1, 1]))), [2, 0]) for one in lists]
        again = Active.concatenate([active[key] for key in chosen], "a")
        wanted = np.ma.concatenate([outer(values, key) for key in chosen])
        assert again.shape == wanted.shape
        mask = np.ma.getmaskarray(wanted)
        np.testing.assert_array_equal(np.ma.getmaskarray(again.read()), mask)
        np.testing.assert_array_equal(again.read().data[~mask], wanted.data[~mask])


def spread(cells: np.ma.MaskedArray, axes: tuple[int, ...]) -> Any:
    return np.ma.getdata((cells.astype("f8") ** 2).filled(0).sum(axis=axes, keepdims=True))


@given(data=st.data())
def test_a_reduction_of_ones_own_gets_values_of_the_joint_type(data: st.DataObject) -> None:
    seen: set[np.dtype[Any]] = set()

    def squares(cells: np.ma.MaskedArray, axes: tuple[int, ...]) -> Any:
        seen.add(cells.dtype)
        return spread(cells, axes)

    drawn = data.draw(members())
    with written(drawn) as paths:
        active, values = joined(paths), series.reference(paths, 0)
        own = Reduction.from_functions("squares", chunk=squares, combine=np.add, finalize=lambda state, _: state)
        found = active.reduce(own, "a", skipna=False)
        if len(values):
            wanted = spread(values, (0,))[0]
            assert seen == {active.dtype}
            np.testing.assert_allclose(np.ma.filled(found, 0), np.where(values.count(axis=0), wanted, 0), rtol=1e-12)


@pytest.fixture
def paths(tmp_path):
    """Three files that differ in chunks, packing, type and format."""
    drawn = (
        Member(5, "i2", 1, chunks=(2, 2, 2), scale=0.5, offset=10.0),
        Member(3, "f4", 2, container="NETCDF3_64BIT_OFFSET"),
        Member(6, "i2", 3, scale=-0.25),
    )
    found = [tmp_path / f"{i}.nc" for i in range(3)]
    for member, path in zip(drawn, found, strict=True):
        series.write(member, path)
    return found


def test_says_what_it_is(paths):
    active = joined(paths)
    assert (active.shape, active.dims, active.ndim, active.size, len(active)) == ((14, 4, 3), ("a", "b", "c"), 3, 168, 14)
    assert active.files == tuple(map(str, paths))
    assert repr(active) == f"<Active 'x' (a: 14, b: 4, c: 3) float64 of {paths[0]} … and 2 more>"
    assert repr(active[3]) == f"<Active 'x' (b: 4, c: 3) float64 of {paths[0]} … and 2 more (a selection)>"
    assert active.attrs["scale_factor"] == 0.5
    assert active.chunks == (2, 2, 2)
    assert active.variable.shape == (14, 4, 3)
    assert "the first of 3 files" in active._repr_html_()
    assert len(list(active)) == 14


def test_one_plan_one_pass_one_report(paths):
    active = joined(paths)
    result = active.run(("min", "max", "mean"), "a")
    plan = active.plan("mean")
    assert len(plan) == result.report.chunks == sum(len(Active(path, NAME).plan("mean")) for path in paths)
    assert result.report.where == {"posix": len(plan)}
    assert result.report.source == f"{paths[0]} … and 2 more"
    assert result.report.cells == 168
    assert result.report.bytes_read == active.explain().stored_bytes
    assert [task.sequence for task in plan.tasks()] == list(range(len(plan)))
    assert sum(task.first for task in active.plan("mean").tasks()) == 1
    assert "3 touched" in repr(active.explain())
    assert "JoinedPlan: mean of 'x'" in repr(plan)


def test_an_integer_leaves_the_one_file_that_has_it(paths):
    active, values = joined(paths), series.reference(paths, 0)
    plan = active[6].plan("mean")
    assert (plan.files, {task.template.uri for task in plan.tasks()}) == (1, {str(paths[1])})
    np.testing.assert_array_equal(active[6].read(), values[6])
    assert active[6].max().dtype == values.dtype


def test_pickles(paths):
    active = joined(paths)[::-2]
    again = pickle.loads(pickle.dumps(active))
    np.testing.assert_array_equal(again.read(), active.read())
    assert next(pickle.loads(pickle.dumps(active.plan("mean"))).tasks()).placement


@pytest.mark.parametrize("options", [{"workers": 1}, {"workers": 5}, {"fallback": "error"}])
def test_options_hold_for_all(paths, options):
    active = joined(paths)
    assert active.with_options(**options).sum() == active.sum()
    assert active.with_options(**options).run("sum").report.workers == options.get("workers", active.run("sum").report.workers)


def test_a_backend_that_is_open_for_one_file_does_not_compute_others(paths):
    from activestore.backends.posix import PosixBackend
    from activestore.source import open_source

    backend = PosixBackend(open_source(paths[0]))
    with pytest.raises(ConfigurationError, match="is open for one file and cannot compute several"):
        joined(paths).with_options(backend=backend)
    with pytest.raises(ConfigurationError, match="is open for one file"):
        Active.concatenate([Active(path, NAME, backend=backend) for path in paths], 0)
    own = [Active(path, NAME, backend=PosixBackend(open_source(path))) for path in paths]
    assert Active.concatenate(own, 0).sum() == joined(paths).sum()


def test_a_file_that_has_changed_is_named(paths):
    active = joined(paths)
    series.write(Member(6, "i2", 4, scale=-0.25), paths[2])
    with pytest.raises(SourceError, match=f"{paths[2]}: has changed since it was opened"):
        active.sum()


def test_what_does_not_fit_is_refused_by_name(tmp_path, paths):
    def other(name, dims, shape):
        with netCDF4.Dataset(tmp_path / name, "w") as file:
            for dim, length in zip(dims, shape, strict=True):
                file.createDimension(dim, length)
            file.createVariable(NAME, "f4", tuple(dims))[:] = 1
        return Active(tmp_path / name, NAME)

    active = joined(paths)
    with pytest.raises(JoinError, match=r"0\.nc.* and .*short\.nc: the dimension 'c' has the lengths 3 and 2"):
        Active.concatenate([active, other("short.nc", "abc", (2, 4, 2))], "a")
    with pytest.raises(JoinError, match=r"turned\.nc: 'x' has the dimensions .*'a', 'b', 'c'.* and .*'a', 'c', 'b'"):
        Active.concatenate([active, other("turned.nc", "acb", (2, 4, 3))], "a")
    with pytest.raises(JoinError, match="an integer has dropped"):
        Active.concatenate([active[:, 0], active[:, :, 0]], "a")
    with pytest.raises(JoinError, match="joined along 'a' already"):
        Active.concatenate([active, active], "b")
    with pytest.raises(JoinError, match="empty"):
        Active.concatenate([], "a")
    with pytest.raises(SelectionError, match="no axis 'time'"):
        Active.concatenate([active], "time")
    with pytest.raises(JoinError, match="say how each is decoded"):
        active.with_decoding(dtype=active.dtype, missing=Active(paths[0], NAME).variable.missing, packing=None)
