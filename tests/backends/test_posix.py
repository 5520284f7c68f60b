"""The local backend, on its own."""

import pickle

import h5py
import numpy as np
import pytest

from activestore import Active
from activestore.backends.posix import PosixBackend
from activestore.sources.open import open_source

DATA = np.random.default_rng(5).normal(size=(30, 20)).round(0).astype("f4")


@pytest.fixture
def path(tmp_path):
    with h5py.File(tmp_path / "x.nc", "w") as file:
        file.create_dataset("raw", data=DATA, chunks=(10, 20), compression="gzip", fletcher32=True)
        file.create_dataset("lzf", data=DATA, chunks=(10, 20), compression="lzf")
    return str(tmp_path / "x.nc")


@pytest.mark.parametrize("name", ["raw", "lzf"])
def test_reduces_a_chunk(path, name):
    backend = PosixBackend(open_source(path))
    tasks = list(Active(path, name).plan("max").tasks())
    for task, rows in zip(tasks, np.split(DATA, 3), strict=True):
        assert backend.reduce_chunk(task).states["max"][0] == rows.max()
    backend.close()
    assert backend.reduce_chunk(tasks[0]).count == 200, "it opens again what it needs"
    backend.close()


def test_the_report_says_what_went_through_hdf5(path):
    assert Active(path, "raw").run("mean").report.where == {"posix": 3}
    assert Active(path, "lzf").run("mean").report.where == {"posix through HDF5": 3}
    assert Active(path, "lzf").explain("mean").where == {"posix through HDF5": 3}


def test_pickles(path):
    backend = PosixBackend(open_source(path))
    (task, *_) = Active(path, "lzf").plan("max").tasks()
    backend.reduce_chunk(task)
    again = pickle.loads(pickle.dumps(backend))
    assert again.reduce_chunk(task).states["max"][0] == DATA[:10].max()
    backend.close()
    again.close()
