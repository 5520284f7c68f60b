"""Profiles for hypothesis, and small files that many tests share."""

import os
import signal
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import count
from multiprocessing import get_context
from pathlib import Path

import h5py
import hdf5plugin  # noqa: F401  # before netCDF4: its filters take the HDF5 library that they find first
import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.internal.conjecture import providers
from hypothesis.internal.constants_ast import Constants

# Files are written to real disks: how long an example takes says nothing.
_COMMON = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow, HealthCheck.data_too_large]}
# The same examples at every run: a new one that fails belongs to who looks for it, not to whoever runs the tests next.
settings.register_profile("default", max_examples=100, derandomize=True, **_COMMON)
settings.register_profile("thorough", max_examples=2000, **_COMMON)
_profile = os.environ.get("HYPOTHESIS_PROFILE", "default")
settings.load_profile(_profile)
if _profile == "default":
    # Hypothesis mixes in constants of those of our modules that are loaded, which depends on the tests before.
    _no_constants = Constants()
    providers._get_local_constants = lambda: _no_constants

# No test writes into the user's index cache: each has a folder of its own, what runs outside of tests has none.
os.environ["ACTIVESTORE_CACHE"] = "off"
os.environ.pop("ACTIVESTORE_CACHE_LIMIT", None)
# Nor do the user's settings count.
for _name in [
    name for name in os.environ if name.startswith("ACTIVESTORE_") and name not in ("ACTIVESTORE_CACHE", "ACTIVESTORE_REAL")
]:
    del os.environ[_name]
os.environ["ACTIVESTORE_CONFIG"] = os.devnull
# What a shell starts in the background ignores Ctrl-C, and so does all that it starts; some tests press it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
_cache_numbers = count()


@pytest.fixture(autouse=True)
def own_index_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of this test's index cache; made when something is kept in it."""
    folder = tmp_path_factory.getbasetemp() / "index-caches" / str(next(_cache_numbers))
    monkeypatch.setenv("ACTIVESTORE_CACHE", str(folder))
    return folder


@pytest.fixture
def chunked_file(tmp_path: Path) -> Path:
    """A file with `x(6, 8)`, numbers from 0 to 47 as float32 in four chunks, through shuffle and deflate."""
    path = tmp_path / "chunked.h5"
    with h5py.File(path, "w") as file:
        numbers = np.arange(48, dtype="f4").reshape(6, 8)
        file.create_dataset("x", data=numbers, chunks=(3, 4), shuffle=True, compression="gzip")
    return path


@pytest.fixture(scope="module")
def process_pool() -> Iterator[ProcessPoolExecutor]:
    """Two other processes, started from nothing, as they are elsewhere than on Linux."""
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        yield pool
