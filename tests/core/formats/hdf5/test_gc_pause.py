"""Garbage collection while the HDF5 library reads through Python."""

import gc
import threading
from pathlib import Path

import h5py
import numpy as np
import pytest

from activestore import Active
from activestore.core.formats.hdf5.file import read_hdf5
from activestore.core.formats.hdf5.gc_pause import held_back
from activestore.sources.metadata_view import MetadataView, data_file
from activestore.sources.open import LocalSource

xr = pytest.importorskip("xarray")
LONG = 20
"""Seconds after which threads are taken to wait for each other."""


class Elsewhere:
    """A file whose bytes are fetched by another thread, which allocates so much that garbage is collected there."""

    is_remote = True

    def __init__(self, path: Path) -> None:
        self._file = LocalSource(str(path))
        self.uri, self.size, self.version = self._file.uri, self._file.size, self._file.version
        self.stuck: list[threading.Thread] = []

    def metadata(self):
        return MetadataView(self, {}).metadata()

    def current_version(self):
        return self.version

    def abandon(self):
        pass

    def for_hdf5(self):
        return data_file(self.size, self.read_ranges)

    def read_ranges(self, ranges):
        found = []

        def fetch():
            kept = [[[]] for _ in range(200_000)]
            found.extend(self._file.read_ranges(ranges))
            kept.clear()

        thread = threading.Thread(target=fetch, daemon=True)
        thread.start()
        thread.join(LONG)
        if thread.is_alive():
            self.stuck.append(thread)
            raise OSError("the thread that fetches waits for the HDF5 library")
        return found


@pytest.fixture
def garbage(tmp_path):
    """Makes garbage that has an object of h5py's in a cycle; collected only when somebody allocates."""
    with h5py.File(tmp_path / "garbage.h5", "w") as file:
        for i in range(10):
            file[f"x{i}"] = np.arange(3)

    def make():
        with h5py.File(tmp_path / "garbage.h5") as file:
            for name in file:
                cycle = [file[name]]
                cycle.append(cycle)

    gc.collect()
    return make


@pytest.fixture
def source(tmp_path):
    # Chunks that only the HDF5 library reads, and text, which xarray's own store reads.
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_dataset("x", data=np.arange(400, dtype="f4").reshape(20, 20), chunks=(10, 20), compression="lzf")
        file["text"] = ["a", "b"]
    return Elsewhere(tmp_path / "x.h5")


def test_metadata(source, garbage):
    garbage()
    assert read_hdf5(source.metadata().__enter__(), lambda file: file["x"].shape) == (20, 20)
    assert source.stuck == []


def test_chunks_through_hdf5(source, garbage, monkeypatch):
    active = Active(source, "x")
    monkeypatch.setattr("activestore.backends.posix.load_plugins", garbage)
    assert active.sum() == np.arange(400).sum()
    assert source.stuck == []


def test_xarray(source, garbage, monkeypatch):
    monkeypatch.setattr("activestore.inputs.open.open_source", lambda *_: source)
    monkeypatch.setattr("activestore.accessor.contents.files.load_plugins", garbage)
    dataset = xr.open_dataset("here", engine="activestore")
    assert dataset["text"].values.tolist() == ["a", "b"]
    assert source.stuck == []


def test_the_collector_is_as_it_was():
    for enabled in (True, False):
        (gc.enable if enabled else gc.disable)()
        try:
            with held_back(needed=False):
                assert gc.isenabled() is enabled
            with held_back(needed=True):
                assert not gc.isenabled()
                with held_back(needed=True):
                    assert not gc.isenabled()
                assert not gc.isenabled()
            assert gc.isenabled() is enabled
        finally:
            gc.enable()


def test_one_that_is_under_way_is_waited_for():
    begun, proceed, entered = threading.Event(), threading.Event(), threading.Event()

    class Slow:
        def __del__(self):
            begun.set()
            proceed.wait(LONG)

    def collect():
        slow = Slow()
        slow.itself = slow
        del slow
        gc.collect()

    def enter():
        with held_back(needed=True):
            entered.set()

    with held_back(needed=True):
        pass
    collecting, entering = threading.Thread(target=collect), threading.Thread(target=enter)
    collecting.start()
    assert begun.wait(LONG)
    entering.start()
    assert not entered.wait(0.2)
    proceed.set()
    collecting.join(LONG)
    assert entered.wait(LONG)
    entering.join(LONG)
