"""Every numeric variable of 341 real files, against netCDF4-python (masking and scaling on) and NumPy in 64 bits."""

import warnings
import zlib
from pathlib import Path

import netCDF4
import numpy as np
import pytest

from activestore import Active
from activestore.core.formats.read import variable_names
from activestore.sources.open import open_source
from tests.corpus import corpus_files, file_id

pytestmark = pytest.mark.corpus

REDUCTIONS = ("count", "sum", "mean", "min", "max", "std")
EXACT = ("count", "min", "max")

RELATIVE = 1e-12
# Sums and means need no more: where they cancel most, in the corpus, they differ by 1e-14. The deviation of a constant is
# nothing but rounding noise, which grows with the magnitude and the length: NumPy leaves 5.1e-15 of the magnitude where it
# adds up 149 equal latitudes one by one.
OF_MAGNITUDE = {"sum": 0, "mean": 0, "std": 1e-14}


def is_numeric(variable):
    return variable.dtype is not str and variable.dtype.kind in "iuf"


def reference(variable):
    """Return values and mask of a whole variable as netCDF4-python gives them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it announces every missing_value that the type cannot hold
        values = variable[...]
    if values is np.ma.masked:
        # For a masked scalar it gives NumPy's constant, which has lost the type.
        return np.ma.MaskedArray(np.zeros((), variable.dtype), mask=True)
    return np.ma.MaskedArray(values, mask=np.ma.getmaskarray(values))


def without_nan(values):
    """Return the values with NaN masked, as `skipna` leaves it out."""
    nan = np.isnan(values.data) if values.dtype.kind == "f" else False
    return np.ma.MaskedArray(values.data, mask=np.ma.getmaskarray(values) | nan)


def reduced(values, axis):
    """Return what NumPy makes of the values, the sums in 64 bits."""
    values = np.ma.atleast_1d(values)  # its masked mean does not take a scalar
    wide = "f8" if values.dtype.kind == "f" else f"{values.dtype.kind}8"
    return {
        "count": values.count(axis=axis),
        "sum": values.sum(axis=axis, dtype=wide),
        "mean": values.mean(axis=axis, dtype="f8"),
        "min": values.min(axis=axis),
        "max": values.max(axis=axis),
        "std": values.std(axis=axis, dtype="f8"),
    }


def assert_same(got, wanted, what):
    """Assert that two results have the same shape, mask and type, and bit for bit the same values."""
    assert np.shape(got) == np.shape(wanted), what
    assert np.array_equal(np.ma.getmaskarray(got), np.ma.getmaskarray(wanted)), what
    if got is np.ma.masked or wanted is np.ma.masked:
        return
    assert got.dtype == wanted.dtype, what
    here = ~np.ma.getmaskarray(wanted)
    found, expected = np.ma.getdata(got)[here], np.ma.getdata(wanted)[here]
    assert np.array_equal(found, expected, equal_nan=expected.dtype.kind == "f"), what


def assert_close(got, wanted, *, absolute, what):
    """Assert that two results have the same shape, mask and type, and the same values to 1e-12 or to `absolute`."""
    assert np.shape(got) == np.shape(wanted), what
    assert np.array_equal(np.ma.getmaskarray(got), np.ma.getmaskarray(wanted)), what
    if got is np.ma.masked:
        return
    assert got.dtype == wanted.dtype, what
    here = ~np.ma.getmaskarray(wanted)
    found, expected, least = (np.ma.getdata(array)[here] for array in (got, wanted, absolute))
    allowed = np.maximum(RELATIVE * np.abs(expected), least)
    assert np.all(np.abs(found - expected) <= allowed), f"{what}: {found} is not {expected}"


def assert_reductions(got, values, axis, what):
    """Assert that a mapping of results is what NumPy makes of the values."""
    wanted = reduced(values, axis)
    magnitude = np.ma.maximum(np.ma.abs(wanted["min"].astype("f8")), np.ma.abs(wanted["max"].astype("f8")))
    for name, result in got.items():
        told = f"{what}, {name} over {axis}"
        if name in EXACT:
            assert_same(result, wanted[name], told)
        else:
            assert_close(result, wanted[name], absolute=OF_MAGNITUDE[name] * magnitude, what=told)


def random_key(rng, length):
    """Return an index of one dimension: a slice of any step, an integer, a mask or a list in any order."""
    if length == 0:
        return slice(None)
    start, stop = sorted(rng.integers(0, length + 1, 2).tolist())
    return [
        slice(start, stop + 1, int(rng.integers(1, 4))),
        slice(stop, start - 1 if start else None, -int(rng.integers(1, 4))),
        int(rng.integers(-length, length)),
        rng.integers(-length, length, int(rng.integers(1, 6))).tolist(),
        rng.random(length) < 0.4,
    ][rng.integers(5)]


def outer(array, keys):
    """Return what the keys select, each of its own dimension."""
    for axis in reversed(range(len(keys))):
        array = array[(slice(None),) * axis + (keys[axis],)]
    return np.asarray(array)


def assert_attribute(got, wanted, what):
    assert type(got) is type(wanted), what
    if isinstance(wanted, (np.ndarray, np.generic)):
        assert got.dtype == wanted.dtype, what
        assert np.array_equal(got, wanted, equal_nan=wanted.dtype.kind == "f"), what
    else:
        assert got == wanted, what


@pytest.fixture(params=corpus_files(), ids=file_id)
def path(request):
    return request.param


def test_corpus_is_whole():
    numeric = 0
    for file in corpus_files():
        with netCDF4.Dataset(file) as dataset:
            assert not dataset.groups
            numeric += sum(is_numeric(variable) for variable in dataset.variables.values())
    assert len(corpus_files()) == 341
    assert numeric >= 2700
    assert len({file_id(file) for file in corpus_files()}) == 341


def test_metadata(path: Path):
    source = open_source(path)
    with netCDF4.Dataset(path) as dataset:
        assert sorted(variable_names(source)) == sorted(dataset.variables)
        for name, theirs in dataset.variables.items():
            if not is_numeric(theirs):
                continue
            ours = Active(path, name)
            assert (ours.name, ours.shape, ours.dims) == (name, theirs.shape, theirs.dimensions)
            assert ours.variable.dtype.newbyteorder("=") == theirs.dtype.newbyteorder("="), name
            assert sorted(ours.attrs) == sorted(theirs.ncattrs()), name
            for key in theirs.ncattrs():
                assert_attribute(ours.attrs[key], theirs.getncattr(key), f"{name}:{key}")


def test_values(path: Path):
    with netCDF4.Dataset(path) as dataset:
        for name, theirs in dataset.variables.items():
            if is_numeric(theirs):
                assert_same(Active(path, name).read(), reference(theirs), name)


def test_reductions(path: Path):
    with netCDF4.Dataset(path) as dataset:
        for name, theirs in dataset.variables.items():
            if not is_numeric(theirs):
                continue
            ours, values = Active(path, name), without_nan(reference(theirs))
            for axis in (None, *range(ours.ndim)):
                assert_reductions(ours.reduce(REDUCTIONS, axis), values, axis, name)
            # A mean or a deviation that is asked for alone keeps its sums in another way than beside a sum.
            alone = {"mean": ours.mean(), "min": ours.min(), "std": ours.std()}
            assert_reductions(alone, values, None, f"{name}, alone")


def test_reductions_of_a_random_selection(path: Path):
    with netCDF4.Dataset(path) as dataset:
        for name, theirs in dataset.variables.items():
            if not is_numeric(theirs):
                continue
            rng = np.random.default_rng(zlib.crc32(f"{file_id(path)}:{name}".encode()))
            keys = tuple(random_key(rng, length) for length in theirs.shape)
            whole = without_nan(reference(theirs))
            part = np.ma.MaskedArray(outer(whole.data, keys), mask=outer(whole.mask, keys))
            ours = Active(path, name)[keys]
            assert ours.shape == part.shape, f"{name}{keys}"
            axes = tuple(rng.permutation(part.ndim)[: rng.integers(0, part.ndim + 1)].tolist()) if part.size else ()
            if axes:
                assert_reductions(ours.reduce(REDUCTIONS, axes), part, axes, f"{name}{keys}")
            if part.size:
                assert_reductions(ours.reduce(REDUCTIONS), part, None, f"{name}{keys}")
            else:
                assert ours.count() == 0
                assert ours.mean() is np.ma.masked
            assert_same(np.ma.MaskedArray(ours.read()), outer_read(reference(theirs), keys), f"{name}{keys}")


def outer_read(values, keys):
    return np.ma.MaskedArray(outer(values.data, keys), mask=outer(values.mask, keys))
