"""The outline of a group, read in one pass, and the variables that are made of it."""

import dataclasses
import tempfile
from pathlib import Path

import h5py
import netCDF4
import numpy as np
import pytest
from hypothesis import given

from activestore.core.formats.hdf5.attributes import Text
from activestore.core.formats.hdf5.chunk_btree import read_layout
from activestore.core.formats.hdf5.group import outlined_variable, read_group
from activestore.core.formats.read import is_classic, read_variable
from activestore.errors import SourceError
from activestore.sources.open import open_source
from tests.corpus import corpus_files, file_id
from tests.generated import recipes, write


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


def same_variables(path):
    """Check that what is made of outlines is what is read by name, and return how many were made."""
    source, made = open_source(path), 0
    group = None if is_classic(source) else read_group(source)
    for name, outline in {} if group is None else group.variables.items():
        one = outlined_variable(outline, source, name)
        if one is None:
            continue
        other = read_variable(source, name)
        for field in dataclasses.fields(one):
            if field.name != "table":
                assert repr(getattr(one, field.name)) == repr(getattr(other, field.name)), (name, field.name)
        for field in dataclasses.fields(one.table):
            np.testing.assert_array_equal(getattr(one.table, field.name), getattr(other.table, field.name))
        made += 1
    return made


@pytest.mark.parametrize("path", corpus_files(), ids=file_id)
def test_variables_of_real_files(path):
    made = same_variables(path)
    with h5py.File(path) if h5py.is_hdf5(path) else pytest.skip("is no HDF5 file") as file:
        wide = [node for node in file.values() if node.ndim > 1 and node.chunks and node.dtype.kind in "iuf"]
    assert made >= len(wide)


@given(recipes(("netCDF-4",)))
def test_variables_of_any_file(recipe):
    with tempfile.TemporaryDirectory() as folder:
        write(recipe, Path(folder) / "x.nc")
        same_variables(Path(folder) / "x.nc")


def test_what_only_the_library_finds(tmp_path):
    with netCDF4.Dataset(tmp_path / "a.nc", "w") as file:
        file.createDimension("x", 6)
        for name, layout in [("chunked", {"chunksizes": (4,)}), ("contiguous", {"contiguous": True}), ("text", {})]:
            file.createVariable(name, "S1" if name == "text" else "i2", ("x",), **layout)
    source = open_source(tmp_path / "a.nc")
    outlines = read_group(source).variables
    made = {name for name, outline in outlines.items() if outlined_variable(outline, source, name) is not None}
    assert made == {"chunked"}


def test_an_index_that_is_elsewhere(path):
    source = open_source(path)
    outline = read_group(source).variables["time_bnds"]
    for address in (source.size - 8, source.size + 1000, 0):
        storage = dataclasses.replace(outline.storage, address=address)
        assert outlined_variable(dataclasses.replace(outline, storage=storage), source, "time_bnds") is None


def test_an_index_that_is_damaged(path):
    source = open_source(path)
    outline = read_group(source).variables["time_bnds"]
    root = read_layout(source, outline.storage.address, base=0).root
    whole = bytearray(path.read_bytes())
    whole[root : root + 4] = b"EERT"
    path.write_bytes(whole)
    with pytest.raises(SourceError, match="damaged"):
        outlined_variable(outline, open_source(path), "time_bnds")


def test_only_some_attributes(path):
    source = open_source(path)
    outline = read_group(source, only=("units",)).variables["time"]
    assert outlined_variable(outline, source, "time").attrs == {"units": "days since 2000-01-01"}
