"""What is read of HDF5 files: links, layouts, types and attributes, against h5py, netCDF4-python and the bytes themselves."""

import h5py
import numpy as np
import pytest

from activestore import Active
from activestore.core.metadata import variable_names
from activestore.errors import UnsupportedError, VariableNotFoundError
from activestore.source import open_source


@pytest.fixture
def path(tmp_path):
    return tmp_path / "a.h5"


def test_links_are_variables_too(path):
    with h5py.File(path, "w") as file:
        file["b/x"] = np.arange(3.0)
        file["a"] = file["b/x"]
        file["c"] = h5py.SoftLink("/b")
        file["nowhere"] = h5py.SoftLink("/no/such")
        file["b/up"] = file["/"]
    assert variable_names(open_source(path)) == ["a", "b/x", "c/x"]
    for name in ("a", "b/x", "c/x", "b/up/b/x", "/b/x"):
        assert Active(path, name).sum() == 3
    with pytest.raises(VariableNotFoundError, match="no variable 'nowhere'"):
        Active(path, "nowhere")


def test_a_link_into_another_file_is_refused(tmp_path, path):
    with h5py.File(tmp_path / "other.h5", "w") as other:
        other["x"] = np.arange(3.0)
    with h5py.File(path, "w") as file:
        file["x"] = h5py.ExternalLink("other.h5", "/x")
        file["gone"] = h5py.ExternalLink("missing.h5", "/x")
        file["y"] = np.arange(3.0)
    with pytest.raises(UnsupportedError, match=r"'x' is a link into .*other\.h5; open that file instead"):
        Active(path, "x")
    with pytest.raises(VariableNotFoundError, match="no variable 'gone'; it has: y"):
        Active(path, "gone")
    assert variable_names(open_source(path)) == ["y"]
