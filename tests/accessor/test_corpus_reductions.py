"""Every numeric data variable of 341 real files, whole and in parts that labels select, beside xarray's own reductions."""

import zlib

import numpy as np
import pytest
import xarray as xr

from tests.accessor.beside_xarray import Reference
from tests.corpus import corpus_files, file_id

# xarray warns of what it finds odd in real files, with any engine.
pytestmark = [
    pytest.mark.corpus,
    pytest.mark.filterwarnings("ignore::xarray.SerializationWarning", "ignore::UserWarning", "ignore::FutureWarning"),
]

METHODS = ("mean", "min", "max", "std", "count")


def opened(path):
    """Return a file twice: its values where they are, and in memory."""
    # Without xarray's cache the second does not load the values of the first.
    lazy = xr.open_dataset(path, engine="activestore", cache=False)
    return lazy, lazy.copy().load()


def numeric(dataset):
    return [name for name, array in dataset.data_vars.items() if array.dtype.kind in "iuf"]


def of_labels(rng, array, dim):
    """Return a selection along one dimension, by its labels where it has any, as the name of a method and its arguments."""
    length = array.sizes[dim]
    first, last = sorted(rng.integers(0, length, 2).tolist())
    by_position = [
        slice(first, last + 1),
        slice(last, None if first == 0 else first - 1, -1),
        slice(None, None, int(rng.integers(1, 4))),
        rng.integers(-length, length, int(rng.integers(1, 5))).tolist(),
        int(rng.integers(-length, length)),
    ]
    if dim not in array.indexes or not array.indexes[dim].is_unique:
        return "isel", {dim: by_position[rng.integers(5)]}, {}
    labels = array[dim].values
    if labels.dtype.kind in "mMO":
        year = str(array[dim].dt.year.values[first]) if labels.dtype.kind != "m" else labels[first]
        by_label = [year, slice(labels[first], labels[last]), slice(year, None), [labels[last], labels[first]], labels[first]]
        if not array.indexes[dim].is_monotonic_increasing:
            by_label = by_label[3:]
        return "sel", {dim: by_label[rng.integers(len(by_label))]}, {}
    if labels.dtype.kind in "iuf" and rng.random() < 0.4:
        wanted = labels[first] + 0.3 * (labels[last] - labels[first])
        return "sel", {dim: [[wanted, labels[last]], wanted][rng.integers(2)]}, {"method": "nearest"}
    by_label = [slice(labels[first], labels[last]), [labels[last], labels[first]], labels[first]]
    if array.indexes[dim].is_monotonic_increasing and labels.dtype.kind in "iuf":
        by_label += [slice(None, labels[last] + 1e-3), slice(labels[first] - 0.5, labels[last] + 0.5)]
    return "sel", {dim: by_label[rng.integers(len(by_label))]}, {}


def selections(rng, array):
    """Return two lists of selections, each of some of the dimensions."""
    chosen = []
    for _ in range(2 if array.ndim else 0):
        dims = [dim for dim in array.dims if rng.random() < 0.7] or [array.dims[0]]
        chosen.append([of_labels(rng, array, dim) for dim in dims])
    return chosen


def assert_reductions(lazy, loaded, dims):
    reference = Reference(loaded)
    for dim in dims:
        for method in METHODS:
            reference.assert_reduction(getattr(lazy.active, method)(dim), method, dim)


@pytest.mark.parametrize("path", corpus_files(), ids=file_id)
def test_reductions(path):
    lazy, loaded = opened(path)
    for name in numeric(lazy):
        assert_reductions(lazy[name], loaded[name], (None, *loaded[name].dims))
        rng = np.random.default_rng(zlib.crc32(f"{file_id(path)}:{name}".encode()))
        for steps in selections(rng, loaded[name]):
            part, expected = lazy[name], loaded[name]
            for method, labels, options in steps:
                part, expected = (getattr(one, method)(labels, **options) for one in (part, expected))
            dims = (None, *expected.dims)
            assert_reductions(part, expected, [dims[rng.integers(len(dims))]])
