"""`Active` as its users meet it."""

import pickle
import warnings

import h5netcdf
import h5py
import numpy as np
import pytest

import activestore
from activestore import Active, Reduction
from activestore.core.reductions import READ
from activestore.errors import ReductionError
from activestore.testing.datasets import write_sample


@pytest.fixture
def path(tmp_path):
    write_sample(tmp_path / "tas.nc")
    return tmp_path / "tas.nc"


@pytest.fixture
def whole(path):
    with h5netcdf.File(path) as file:
        return np.ma.masked_equal(file["tas"][...], np.float32(1e20))


@pytest.fixture
def tas(path):
    return Active(path, "tas")


def test_public_names_exist_and_are_documented():
    for name in activestore.__all__:
        assert getattr(activestore, name) is not None
        if name not in ("REDUCTIONS", "__version__", "hookimpl"):
            assert getattr(activestore, name).__doc__


def test_describes_itself(tas, path, whole):
    assert (tas.shape, tas.ndim, tas.size, len(tas)) == (whole.shape, 3, whole.size, 24)
    assert tas.dims == ("time", "lat", "lon")
    assert tas.dtype == np.dtype("f4")
    assert tas.chunks == (12, 18, 36)
    assert tas.name == "tas"
    assert tas.attrs["units"] == "K"
    assert repr(tas) == f"<Active 'tas' (time: 24, lat: 18, lon: 36) float32 of {path}>"
    assert "a selection" in repr(tas[1:])


def test_is_immutable(tas):
    before = tas.shape
    part = tas[2:5, 3]
    assert (tas.shape, part.shape, part.dims, part.chunks) == (before, (3, 36), ("time", "lon"), (12, 36))
    with pytest.raises(AttributeError):
        tas.shape = (1,)
    with pytest.raises(TypeError):
        tas.attrs["units"] = "degC"


def test_selections_compose_lazily(tas, whole):
    part = tas[::2][3:9, ..., [5, 1, 1]][::-1, 2:10:3]
    expected = whole[::2][3:9][..., [5, 1, 1]][::-1, 2:10:3]
    np.testing.assert_array_equal(part.read(), expected)
    np.testing.assert_allclose(part.mean(axis=("lat", "lon")), expected.mean(axis=(1, 2), dtype="f8"), rtol=1e-12)


def test_iterates_over_the_first_dimension(tas, whole):
    np.testing.assert_array_equal([row.max() for row in tas[:3]], whole[:3].max(axis=(1, 2)))


def test_asarray_marks_missing_values_with_nan(tas, whole):
    np.testing.assert_array_equal(np.asarray(tas), whole.filled(np.nan))
    assert np.asarray(tas[0, 5], dtype="f8").dtype == np.dtype("f8")
    with pytest.raises(ValueError, match="copy"):
        np.array(tas, copy=False)


@pytest.mark.parametrize("name", ["count", "sum", "mean", "min", "max", "ptp", "var", "std", "any", "all", "argmin", "argmax"])
@pytest.mark.parametrize("axis", [None, "time", ("lat", "lon"), -1])
def test_methods_give_what_run_gives(tas, name, axis):
    if name.startswith("arg") and axis is not None:
        axis = "time"
    method = getattr(tas, name)(axis=axis, keepdims=True)
    result = tas.run(name, axis, keepdims=True)
    np.testing.assert_array_equal(np.ma.filled(method, 0), np.ma.filled(result.value, 0))
    assert np.ndim(method) == 3


def test_several_reductions_decode_each_chunk_once(tas, whole):
    result = tas.run(("min", "max", "mean", "std"), axis="time")
    assert result.report.chunks == 2
    assert result.report.bytes_read == tas.explain().stored_bytes
    assert list(result.values) == ["min", "max", "mean", "std"]
    assert result.dims == ("lat", "lon")
    np.testing.assert_array_equal(result.value["max"], whole.max(axis=0))
    np.testing.assert_allclose(result.value["std"], whole.astype("f8").std(axis=0), rtol=1e-12)
    assert result.values["mean"].mask[0, :3].all()
    assert result.count[0, 0] == 0


def test_ddof(tas, whole):
    np.testing.assert_allclose(tas.var(ddof=1), whole.astype("f8").var(ddof=1), rtol=1e-12)
    np.testing.assert_allclose(tas.std("lat", ddof=2), whole.astype("f8").std(axis=1, ddof=2), rtol=1e-12)
    with pytest.raises(ReductionError, match="ddof='one'"):
        tas.std(ddof="one")


def _squares(values, axis):
    return (values.astype("f8") ** 2).sum(axis=axis, keepdims=True).filled(0)


def _root_mean(state, count):
    return np.sqrt(state / count)


def test_a_reduction_of_ones_own(tas, whole):
    rms = Reduction.from_functions("rms", chunk=_squares, combine=np.add, finalize=_root_mean)
    expected = np.sqrt((whole.astype("f8") ** 2).mean(axis=0))
    found = tas.reduce((rms, "mean"), axis="time")
    np.testing.assert_allclose(found["rms"], expected, rtol=1e-12)
    assert found["rms"].mask[0, :3].all()
    assert pickle.loads(pickle.dumps(rms)).name == "rms"


@pytest.mark.parametrize(
    ("given", "message"), [("median", "no reduction 'median'"), ((), "at least one"), (("min", "min"), "once")]
)
def test_what_is_no_reduction(tas, given, message):
    with pytest.raises(ReductionError, match=message):
        tas.reduce(given)


def test_pickles_with_its_selection(tas):
    part = tas.with_options(workers=3)[2:4, :, 1]
    again = pickle.loads(pickle.dumps(part))
    assert again.shape == part.shape
    assert again.mean() == part.mean()


def test_options_are_kept(tas):
    assert tas.with_options(workers=3)[1:].run("count").report.workers == 3
    assert tas.run("count").report.workers >= 1


def test_progress_counts_every_chunk(tas, capsys):
    pytest.importorskip("tqdm")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert tas.with_options(progress=True).count() > 0
    assert "2/2" in capsys.readouterr().err


def test_prints_nothing(tas, capsys):
    tas.mean()
    tas.explain()
    assert capsys.readouterr() == ("", "")


def test_explains_without_reading(tas, path, monkeypatch):
    monkeypatch.setattr("activestore.sources.open.LocalSource.read_ranges", lambda *_: pytest.fail("it read"))
    plan = tas[:12, 3:5].explain(("mean", "max"), "time")
    assert (plan.chunks, plan.chunks_of_variable, dict(plan.where)) == (1, 2, {"posix": 1})
    assert plan.stored_bytes == plan.bytes_to_move > 0
    for words in ("mean, max of 'tas'", "12 x 2 x 36 = 864 numbers", "1 of 2 touched", "shuffle + zlib", str(path)):
        assert words in repr(plan)


def test_notebook_pictures(tas):
    for thing in (tas, tas.explain("mean"), tas.run("mean", "time")):
        html = thing._repr_html_()
        assert "<svg" in html
        assert "tas" in html


def test_a_result_reads_well(tas):
    text = repr(tas.run(("min", "mean"), "time"))
    for words in ("min", "mean", "(18, 36) float64", "count", "2 by posix", "at once"):
        assert words in text


def test_a_scalar_has_no_length(tas):
    with pytest.raises(TypeError):
        len(tas[0, 0, 0])
    assert tas[0, 5, 5].mean() == tas[0, 5, 5].read()


@pytest.mark.parametrize("missing", [0, 1])
def test_the_count_of_what_is_read_says_what_is_missing(tmp_path, missing):
    numbers = np.arange(12, dtype="f4").reshape(3, 4)
    numbers.flat[:missing] = np.nan
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["x"] = numbers
    result = Active(tmp_path / "a.h5", "x").run(READ, ())
    assert result.count.dtype == np.int64
    np.testing.assert_array_equal(result.count, ~np.isnan(numbers))
    assert np.ma.count_masked(result.value) == missing
