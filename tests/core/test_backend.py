"""What a backend cannot do is data: each capability is looked at while planning."""

import h5py
import numpy as np
import pytest

from activestore import Active, Backend, Capabilities
from activestore.backends.posix import PosixBackend
from activestore.core.backend import refusal
from activestore.sources.open import open_source


@pytest.fixture
def active(tmp_path):
    with h5py.File(tmp_path / "x.nc", "w") as file:
        dataset = file.create_dataset("x", data=np.arange(40, dtype="i2").reshape(8, 5), chunks=(8, 5), compression="gzip")
        dataset.attrs["scale_factor"] = np.float32(0.5)
    return Active(tmp_path / "x.nc", "x")


@pytest.mark.parametrize(
    ("limits", "key", "reason"),
    [
        ({"dtypes": frozenset({"f4"})}, (), "the type i2"),
        ({"components": frozenset({"min"})}, (), "the component 'sum'"),
        ({"codecs": frozenset({"shuffle"})}, (), "the codec 'zlib'"),
        ({"unpacks": False}, (), "unpacking before reducing"),
        ({"steps": False}, np.s_[::2], "a step in the selection"),
        ({"points": False}, np.s_[[0, 1, 5]], "listed positions"),
    ],
)
def test_each_limit_has_its_reason(active, limits, key, reason):
    (task,) = active[key].plan("mean").tasks()
    assert refusal(task, Capabilities()) is None
    assert refusal(task, Capabilities(**limits)) == reason


def test_the_local_backend_is_a_backend(active):
    assert isinstance(PosixBackend(open_source(active.variable.uri)), Backend)
