"""The outline of a group, read in one pass."""

import h5py
import netCDF4
import numpy as np
import pytest

from activestore.core.hdf5_attributes import Text
from activestore.core.hdf5_group import read_group
from activestore.errors import SourceError
from activestore.source import open_source


@pytest.fixture
def path(tmp_path):
    with netCDF4.Dataset(tmp_path / "a.nc", "w") as file:
        file.createDimension("time", None)
        file.createDimension("bnds", 2)
        file.createVariable("time", "f8", ("time",), chunksizes=(4,))[:] = np.arange(3)
        file.createVariable("time_bnds", "f8", ("time", "bnds"), zlib=True, complevel=2, chunksizes=(1, 2))[:] = np.zeros(
            (5, 2)
        )
        file["time"].setncatts({"units": "days since 2000-01-01", "axis": "T", "n": np.int16(3)})
        file.title = "é"
        inner = file.createGroup("inner")
        inner.createVariable("longer", "i2", ("time",))[:] = np.zeros(8)
    return tmp_path / "a.nc"


def test_group(path):
    found = read_group(open_source(path))
    assert list(found.variables) == ["time", "time_bnds"]
    assert (dict(found.dims), found.unlimited) == ({"time": 8, "bnds": 2}, {"time"})
    bounds = found.variables["time_bnds"]
    assert (bounds.dims, bounds.shape, bounds.dtype, bounds.chunks) == (("time", "bnds"), (8, 2), np.dtype("<f8"), (1, 2))
    assert bounds.filters == ((2, (8,)), (1, (2,)))
    assert found.attrs == {"title": Text(("é".encode(),), (1,), None, "utf-8")}
    time = found.variables["time"].attrs
    assert time["units"].items == (b"days since 2000-01-01",)
    assert time["axis"] == Text((b"T",), (), 1, "ascii")
    assert (time["n"].dtype, time["n"].tolist()) == (np.int16, [3])


def test_subgroup(path):
    found = read_group(open_source(path), "inner")
    assert (list(found.variables), dict(found.dims)) == (["longer"], {})
    assert (found.variables["longer"].dims, found.variables["longer"].shape) == (("time",), (8,))


@pytest.mark.parametrize("group", ["nowhere", "time", "inner/longer", "inner/../inner", "./inner", "inner//inner"])
def test_what_is_no_group(path, group):
    assert read_group(open_source(path), group) is None


def test_a_dimension_whose_name_a_subgroup_has_again(path):
    """Of two dimensions of one name, h5netcdf takes the nearer, whichever is meant."""
    with netCDF4.Dataset(path, "a") as file:
        inner = file["inner"].createGroup("inmost")
        inner.createVariable("along_the_outer", "i2", ("time",))
        inner.createDimension("time", 4)
    assert read_group(open_source(path), "inner/inmost") is None


def test_damage(path):
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(SourceError, match="cut off or damaged"):
        read_group(open_source(path))


def test_damaged_headers(path):
    """They have checksums: of what was changed nothing is told."""
    whole = bytearray(path.read_bytes())
    with h5py.File(path) as file:
        low, high = h5py.h5g.get_objinfo(file["time_bnds"].id, b".").objno
    rng = np.random.default_rng(0)
    for position in rng.integers(0, 400, 100):
        damaged = whole.copy()
        damaged[low + (high << 32) + position] ^= int(rng.integers(1, 256))
        path.write_bytes(damaged)
        assert read_group(open_source(path)) is None
