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
    from activestore.sources.open import open_source

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


def write_times(path, times, *, units="days since 2000-01-01", calendar="standard", lat=(10.0, 20.0), shape=None, **attrs):
    """Write a file with the variable "tas" (time, lat), each number of which tells its time."""
    with netCDF4.Dataset(path, "w") as file:
        file.createDimension("time", None)
        file.createDimension("lat", len(lat))
        time = file.createVariable("time", "f8", ("time",))
        time[:] = times
        time.setncatts({"units": units, "calendar": calendar})
        file.createVariable("lat", "f8", ("lat",))[:] = lat
        tas = file.createVariable("tas", "f4", ("time", "lat"))
        tas.setncatts(attrs)
        tas[:] = np.arange(len(times) * len(lat)).reshape(len(times), len(lat)) + 1000 * float(Path(path).stem[-1])
    return path


@pytest.fixture
def folder(tmp_path):
    """Three files whose names are not in the order of their times, and something else."""
    write_times(tmp_path / "tas_1.nc", [20, 21], units="days since 2000-01-01")
    write_times(tmp_path / "tas_2.nc", [10, 11, 12], units="days since 2000-01-01")
    write_times(tmp_path / "tas_3.nc", [24], units="hours since 2000-02-01")
    (tmp_path / "README.txt").write_text("no file of data")
    return tmp_path


def numbers(folder, *names):
    found = []
    for name in names:
        with netCDF4.Dataset(folder / f"tas_{name}.nc") as file:
            found.append(file["tas"][:])
    return np.ma.concatenate(found)


@pytest.mark.parametrize("what", ["tas_*.nc", "tas_[0-9].nc", "", "**/tas_?.nc"])
def test_files_of_a_pattern_or_folder_are_sorted_by_time(folder, what):
    active = Active(folder / what, "tas")
    assert active.files == tuple(str(folder / f"tas_{name}.nc") for name in (2, 1, 3))
    np.testing.assert_array_equal(active.read(), numbers(folder, 2, 1, 3))
    assert active.dims == ("time", "lat")


def test_a_list_keeps_its_order_and_has_to_be_in_order(folder):
    files = [folder / f"tas_{name}.nc" for name in (2, 1, 3)]
    np.testing.assert_array_equal(Active(files, "tas").read(), numbers(folder, 2, 1, 3))
    np.testing.assert_array_equal(Active(tuple(map(str, files)), "tas", dim="time").read(), numbers(folder, 2, 1, 3))
    with pytest.raises(JoinError, match=r"tas_1\.nc: is not where it belongs along 'time'.*the first is .*tas_2\.nc"):
        Active(sorted(files), "tas")
    as_they_are = Active.concatenate([Active(file, "tas") for file in sorted(files)], "time")
    np.testing.assert_array_equal(as_they_are.read(), numbers(folder, 1, 2, 3))


def test_open_sources_and_single_files(folder):
    from activestore.sources.open import open_source

    files = [folder / f"tas_{name}.nc" for name in (2, 1)]
    np.testing.assert_array_equal(Active([open_source(file) for file in files], "tas").read(), numbers(folder, 2, 1))
    one = Active([files[0]], "tas")
    assert one.files == (str(files[0]),)
    assert repr(Active(folder / "tas_1*", "tas")) == repr(Active(files[1], "tas"))
    assert one.variable.table.offset.size


def test_a_name_that_looks_like_a_pattern_is_a_name(tmp_path):
    path = write_times(tmp_path / "tas_[1]?0.nc", [1])
    assert Active(path, "tas").files == (str(path),)


def test_times_that_fall_and_files_of_one_time(tmp_path):
    for name, times in {1: [3, 2], 2: [9, 7], 3: [5, 4]}.items():
        write_times(tmp_path / f"tas_{name}.nc", times)
    assert [file[-4] for file in Active(tmp_path, "tas").files] == ["2", "3", "1"]
    for name in (1, 2, 3):
        write_times(tmp_path / f"tas_{name}.nc", [10 - name])
    assert [file[-4] for file in Active(tmp_path, "tas").files] == ["3", "2", "1"]
    falling = Active([tmp_path / f"tas_{name}.nc" for name in (1, 2, 3)], "tas")
    assert [file[-4] for file in falling.files] == ["1", "2", "3"]


@pytest.mark.parametrize(("calendar", "units"), [("noleap", "days since 2001-01-01"), ("360_day", "days since 2000-12-30")])
def test_times_of_other_units_or_calendars(tmp_path, calendar, units):
    write_times(tmp_path / "tas_1.nc", [400, 401], calendar=calendar)
    write_times(tmp_path / "tas_2.nc", [0, 1], units=units, calendar=calendar)
    order = [file[-4] for file in Active(tmp_path, "tas", dim="time").files]
    # 400 days after 2000 began are later than 2001 began.
    assert order == ["2", "1"]


def test_files_without_coordinates_are_joined_by_name(tmp_path):
    for name, length in {"c": 2, "a": 3, "b": 0}.items():
        with netCDF4.Dataset(tmp_path / f"{name}.nc", "w") as file:
            file.createDimension("t", None)
            file.createDimension("y", 2)
            file.createVariable("v", "i4", ("t", "y"))[:] = np.full((length, 2), ord(name))
    found = Active(tmp_path, "v")
    assert found.read()[:, 0].tolist() == [97, 97, 97, 99, 99]
    alike = [tmp_path / "a.nc", tmp_path / "a.nc"]
    with pytest.raises(JoinError, match=r"it cannot be told along which dimension .* say dim= one of 't', 'y'"):
        Active(alike, "v")
    assert Active(alike, "v", dim="y").shape == (3, 4)


def test_coordinates_that_overlap_are_refused(folder):
    write_times(folder / "tas_4.nc", [21, 22])
    with pytest.raises(JoinError, match=r"tas_1\.nc and .*tas_4\.nc: overlap along 'time'"):
        Active(folder, "tas")
    write_times(folder / "tas_4.nc", [40, 39, 50])
    with pytest.raises(JoinError, match="'time' rises in places and falls in others"):
        Active(folder, "tas")


def test_other_dimensions_have_to_be_the_same(folder):
    write_times(folder / "tas_4.nc", [90], lat=(10.0, 30.0))
    with pytest.raises(JoinError, match=r"tas_4\.nc: have other coordinates along 'lat'"):
        Active(folder, "tas")
    write_times(folder / "tas_4.nc", [90], lat=(10.0, 20.0, 30.0))
    with pytest.raises(JoinError, match=r"tas_4\.nc: differ in the lengths of 'time' and 'lat'"):
        Active([folder / "tas_1.nc", folder / "tas_4.nc"], "tas")
    with pytest.raises(JoinError, match=r"the dimension 'lat' has the lengths 2 and 3"):
        Active([folder / "tas_1.nc", folder / "tas_4.nc"], "tas", dim="time")
    with pytest.raises(SelectionError, match="no axis 'level'"):
        Active(folder / "tas_[12].nc", "tas", dim="level")
    with pytest.raises(SelectionError, match="no axis 'level'"):
        Active(folder / "tas_1.nc", "tas", dim="level")


def test_what_is_missing_is_named(folder):
    from activestore.errors import SourceNotFoundError, VariableNotFoundError

    with netCDF4.Dataset(folder / "tas_9.nc", "w") as file:
        file.createDimension("time", 1)
        file.createVariable("ta", "f4", ("time",))
    with pytest.raises(VariableNotFoundError, match=r"tas_9\.nc: no variable 'tas'; did you mean 'ta'"):
        Active(folder, "tas")
    with pytest.raises(JoinError, match="the list is empty"):
        Active([], "tas")
    with pytest.raises(SourceNotFoundError, match="no file matches this pattern"):
        Active(folder / "pr_*.nc", "pr")
    with pytest.raises(SourceNotFoundError, match=r"has no files directly in it that end in \.nc"):
        Active(folder.parent, "tas")
    with pytest.raises(SourceNotFoundError, match=r"tas_8\.nc: no such file"):
        Active([folder / "tas_1.nc", folder / "tas_8.nc"], "tas")
    active = Active(folder / "tas_[12].nc", "tas")
    (folder / "tas_1.nc").unlink()
    with pytest.raises(SourceNotFoundError, match=r"tas_1\.nc: no such file"):
        active.sum()


def test_groups_and_conditions_hold_for_all_files(paths):
    active, values = joined(paths), series.reference(paths, 0)
    labels = np.array([2, 0, 0, 1, -1, 2, 2, 1, 0, 3, 3, 3, 0, 1])
    found = active.run(("mean", "max", "count"), ("a", "c"), by={"a": labels}, where="> -3.25 and < 60")
    for group in range(4):
        part = np.ma.masked_outside(values[labels == group], -3.2499, 59.9999).astype("f8")
        np.testing.assert_allclose(found.values["mean"][group], part.mean(axis=(0, 2)), rtol=1e-12)
        np.testing.assert_array_equal(found.values["max"][group], part.max(axis=(0, 2)))
        np.testing.assert_array_equal(found.values["count"][group], part.count(axis=(0, 2)))


def test_the_command_line_takes_patterns(folder, capsys):
    from activestore.cli.main import main

    assert main(["reduce", str(folder / "tas_*.nc"), "tas", "--op", "count", "--axis", "time"]) == 0
    assert "6" in capsys.readouterr().out
    assert main(["reduce", str(folder), "tas", "--dim", "time", "-o", str(folder / "mean.nc"), "--axis", "time"]) == 0
    with netCDF4.Dataset(folder / "mean.nc") as file:
        np.testing.assert_allclose(file["tas"][:], numbers(folder, 2, 1, 3).astype("f8").mean(axis=0))
        assert file["lat"][:].tolist() == [10, 20]
    assert main(["reduce", str(folder / "tas_*.nc"), "tas", "-o", str(folder / "tas_2.nc"), "--overwrite"]) == 2
    assert "is the file that is read" in capsys.readouterr().err
    assert main(["inspect", str(folder / "tas_*.nc")]) == 2
    assert "are 3 files; inspect one of them, such as" in capsys.readouterr().err
    assert main(["inspect", str(folder / "tas_2*")]) == 0


@pytest.mark.parametrize(("first", "second"), [("i4", "f8"), ("f8", "i4"), ("i2", "f4"), ("i8", "f4"), ("u1", "i8")])
def test_conditions_hold_for_files_of_different_types(tmp_path, first, second):
    paths = [tmp_path / "a.nc", tmp_path / "b.nc"]
    for path, dtype in zip(paths, (first, second), strict=True):
        series.write(Member(length=5, dtype=dtype, seed=1), path)
    values = series.reference(paths, 0)
    chosen = np.ma.masked_where(np.ma.getmaskarray(values) | (values.data <= 20), values.data)
    for axis in ((0,), (), (0, 1, 2)):
        found = joined(paths).reduce(("sum", "mean", "var", "min", "count"), axis, where="> 20")
        np.testing.assert_array_equal(found["count"], chosen.count(axis=axis))
        for name in ("sum", "mean", "var", "min"):
            wanted = getattr(chosen, name)(axis=axis) if axis else chosen * (name != "var")
            np.testing.assert_allclose(np.ma.filled(found[name], -1), np.ma.filled(wanted, -1), rtol=1e-12, err_msg=name)


def test_files_elsewhere_are_listed_by_fsspec(folder):
    import fsspec

    files = fsspec.filesystem("memory")
    for path in folder.glob("tas_*.nc"):
        files.pipe(f"/run1/{path.name}", path.read_bytes())
    try:
        for address in ("memory://run1/tas_*.nc", "memory://run1/"):
            active = Active(address, "tas")
            np.testing.assert_array_equal(active.read(), numbers(folder, 2, 1, 3))
            np.testing.assert_array_equal(pickle.loads(pickle.dumps(active)).read(), active.read())
        with pytest.raises(SourceError, match="no file matches this pattern"):
            Active("memory://run1/pr*.nc", "tas")
    finally:
        files.rm("/run1", recursive=True)


def test_routes_are_chosen_for_each_file(folder, monkeypatch):
    config = folder / "config.toml"
    config.write_text(f'[[route]]\nmatch = "{folder}/tas_2.nc"\nbackend = "reductionist"\nserver = "http://127.0.0.1:9"\n')
    monkeypatch.setenv("ACTIVESTORE_CONFIG", str(config))
    active = Active(folder, "tas")
    assert [part.settings.backend for part in active._parts.each] == ["reductionist", "posix", "posix"]
    assert {part.settings.backend for part in active.with_options(backend="posix")._parts.each} == {"posix"}


SERIES_OF_MANY = """
import resource, sys
from pathlib import Path
import numpy as np
resource.setrlimit(resource.RLIMIT_NOFILE, (400, 400))
from activestore import Active
from activestore.errors import SourceError
folder = Path(sys.argv[1])
active = Active(folder, "v", workers=3)
assert len(active.files) == 1500, len(active.files)
assert active.sum() == sum(range(1500)) * 2
assert active.read()[:, 0].tolist() == list(range(1500))
del active
again = Active(folder, "v")
(folder / "1499.nc").write_bytes((folder / "0000.nc").read_bytes())
try:
    again.sum()
except SourceError as error:
    assert "1499.nc: has changed" in str(error), error
else:
    raise AssertionError
print("done")
"""


def test_more_files_than_a_process_may_have_open(tmp_path):
    import subprocess
    import sys

    with netCDF4.Dataset(tmp_path / "one", "w", format="NETCDF3_CLASSIC") as file:
        file.createDimension("t", None)
        file.createDimension("y", 2)
        file.createVariable("v", "i4", ("t", "y"))[:] = np.full((1, 2), 123456789)
    content, mark = (tmp_path / "one").read_bytes(), (123456789).to_bytes(4, "big")
    (tmp_path / "one").unlink()
    for i in range(1500):
        (tmp_path / f"{i:04}.nc").write_bytes(content.replace(mark, i.to_bytes(4, "big")))
    # Without coordinates, and all of one length: the dimension has to be named.
    program = SERIES_OF_MANY.replace('Active(folder, "v"', 'Active(folder, "v", dim="t"')
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.stdout == "done\n", done.stderr


def real_series():
    """Return the files of the corpus that are parts of one series, by what their names have in common."""
    import re

    from tests.corpus import corpus_files

    found: dict[tuple[Path, str], list[Path]] = {}
    for path in corpus_files():
        match = re.fullmatch(r"(.+)_\d{4,14}-\d{4,14}\.nc", path.name)
        if match:
            found.setdefault((path.parent, match[1]), []).append(path)
    return [files for files in found.values() if len(files) > 1]


@pytest.mark.parametrize("files", real_series(), ids=lambda files: files[0].name)
def test_series_of_the_corpus(files):
    name = files[0].name.split("_")[0]
    values = []
    for path in files:
        with netCDF4.Dataset(path) as file:
            if name not in file.variables:
                pytest.skip(f"no variable {name!r}")
            values.append(file[name][...])
    wanted = np.ma.concatenate(values).astype("f8")
    active = Active(list(reversed(files))[::-1], name)
    pattern = str(files[0].parent / f"{files[0].name.rpartition('_')[0]}_*.nc")
    assert Active(pattern, name).files == active.files
    assert active.shape == wanted.shape
    for axis in (None, 0, (1, 2)):
        np.testing.assert_allclose(np.ma.filled(active.mean(axis), 0), np.ma.filled(wanted.mean(axis), 0), rtol=1e-12)
        np.testing.assert_array_equal(np.ma.filled(active.max(axis), 0), np.ma.filled(wanted.max(axis), 0))


def test_a_joint_dimension_of_one_file_is_refused(folder):
    path = folder / "tas_1.nc"
    for one in (path, str(path), Active(path, "tas").sources[0]):
        with pytest.raises(ConfigurationError, match="is the dimension along which several files are joined, and this is one"):
            Active(one, "tas", dim="time")
    # A program that lists files may find one.
    for some in ([path], folder / "tas_1*"):
        assert Active(some, "tas", dim="time").shape == (2, 2)
        with pytest.raises(SelectionError, match="no axis 'level'"):
            Active(some, "tas", dim="level")
