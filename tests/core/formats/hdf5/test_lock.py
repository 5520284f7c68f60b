"""The turn in the HDF5 library: threads that open and close the same file do not take memory from each other."""

import os
import signal
import subprocess
import sys
import threading
import time

import h5py
import numpy as np
import pytest
import xarray as xr

from activestore import Active
from activestore.core.formats.hdf5.lock import hdf5_turn
from tests.process.test_forking import in_child

# In a process of its own: what goes wrong ends it.
THREADS = """
import sys
from concurrent.futures import ThreadPoolExecutor

import h5py
import numpy as np
import xarray as xr

from activestore import Active

path = sys.argv[1]


def engine(_):
    with xr.open_dataset(path, engine="activestore") as dataset:
        return dataset.name.values.tolist()[-1]


def tree(_):
    return xr.open_datatree(path, engine="activestore")["sub"].label.values.tolist()[-1]


def active(_):
    return Active(path, "v").mean(), Active(path, "v").attrs["notes"]


def lists(_):
    return Active(path, "packed", backend="posix")[3:].sum()


def user(_):
    # One thread of the user's own, beside ours.
    with h5py.File(path) as file:
        return [file["name"][-1], *file["v"].attrs["notes"], file["name"].chunks]


work = [engine, active, tree, engine, lists, active]
with ThreadPoolExecutor(5) as pool:
    theirs = pool.submit(lambda: [user(i) for i in range(90)])
    ours = [pool.submit(work[i % len(work)], i) for i in range(150)]
    found = [one.result() for one in ours]
    assert len(theirs.result()) == 90
assert all(found[i] == found[i % len(work)] for i in range(len(found))), found
print("well")
"""


@pytest.fixture
def path(tmp_path):
    """A file with text of varying length in variables and attributes, and numbers that only the library decodes."""
    path = tmp_path / "stations.nc"
    names = np.array([f"station {i}" for i in range(10)], dtype=object)
    dataset = xr.Dataset({"v": ("station", np.arange(10.0)), "name": ("station", names)})
    dataset.v.attrs["notes"] = ["one", "two"]
    dataset.to_netcdf(path, engine="h5netcdf")
    xr.Dataset({"label": ("x", names)}).to_netcdf(path, group="sub", mode="a", engine="h5netcdf")
    with h5py.File(path, "a") as file:
        packed = file.create_dataset("packed", data=np.arange(10), chunks=(2,), compression="lzf")
        packed.dims[0].attach_scale(file["station"])
    return path


def test_threads_that_open_one_file_with_text(path):
    environment = {**os.environ, "ACTIVESTORE_CACHE": "off"}
    ended = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-W", "ignore", "-c", THREADS, str(path)],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
        timeout=300,
    )
    assert (ended.returncode, ended.stdout) == (0, "well\n"), ended.stderr[-3000:]


def test_the_library_is_had_by_one_thread_at_a_time(path):
    during = []

    def use_h5py():
        with h5py.File(path) as file:
            during.append((file["v"][1], time.monotonic()))

    with hdf5_turn(through_python=False):
        threads = [threading.Thread(target=work) for work in (use_h5py, lambda: during.append((Active(path, "v")[1].sum(), 0)))]
        for thread in threads:
            thread.start()
        time.sleep(0.2)
        assert not during, "while another thread has its turn, nobody opens a file"
        # The thread itself may.
        assert Active(path, "v").sum() == 45
    for thread in threads:
        thread.join(30)
    assert [value for value, _ in during] == [1, 1]


def test_who_waits_for_the_turn_is_interrupted_by_ctrl_c(path):
    has_it, may_end = threading.Event(), threading.Event()

    def hold():
        with hdf5_turn(through_python=False):
            has_it.set()
            may_end.wait(30)

    def press():
        time.sleep(0.1)
        os.kill(os.getpid(), signal.SIGINT)

    threads = [threading.Thread(target=hold), threading.Thread(target=press)]
    threads[0].start()
    has_it.wait(30)
    threads[1].start()
    try:
        with pytest.raises(KeyboardInterrupt):
            Active(path, "v")
        assert not may_end.is_set()
    finally:
        may_end.set()
        for thread in threads:
            thread.join(30)
    assert Active(path, "v").sum() == 45


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_child_that_is_forked_while_another_thread_has_the_turn(path):
    has_it = threading.Event()

    def hold():
        with hdf5_turn(through_python=False):
            has_it.set()
            time.sleep(0.3)

    thread = threading.Thread(target=hold)
    thread.start()
    has_it.wait(30)
    assert in_child(lambda: float(Active(path, "v").sum())) == 45
    thread.join(30)
    # And in a child that is forked by the thread that has it.
    with hdf5_turn(through_python=False):
        assert in_child(lambda: float(Active(path, "v").sum())) == 45
    assert Active(path, "v").sum() == 45
