"""Nothing that xarray writes takes the place of what is still to be read."""

import contextlib
import copy
import os
import pickle

import numpy as np
import pytest
import xarray as xr

from activestore.accessor.arrays import overwrite_guard as guard
from activestore.errors import SourceError

VALUES = np.arange(4000.0).reshape(4, 1000)


@pytest.fixture
def path(tmp_path, monkeypatch):
    """A file, in the working directory, which is the home directory too."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    made(VALUES).to_netcdf(tmp_path / "a.nc", engine="h5netcdf")
    return tmp_path / "a.nc"


def made(values, start=0):
    times = ("time", np.arange(start, start + len(values)), {"units": "days since 2000-01-01"})
    return xr.Dataset({"v": (("time", "x"), values)}, {"time": times})


def opened(path, **options):
    found = xr.open_dataset(path, engine="activestore", **options)
    found.attrs["history"] = "edited"
    return found


def linked(path, how):
    how(path, path.parent / "other.nc")
    return path.parent / "other.nc"


def by_file_object(ds, path):
    with open(path, "r+b") as file:
        ds.to_netcdf(file, engine="h5netcdf")


def late(ds, path):
    ds.chunk({"time": 2}).to_netcdf(path, compute=False).compute()


FILE_DOORS = {
    "a path": lambda ds, path: ds.to_netcdf(path),
    "netcdf4": lambda ds, path: ds.to_netcdf(path, engine="netcdf4"),
    "h5netcdf": lambda ds, path: ds.to_netcdf(path, engine="h5netcdf"),
    "scipy": lambda ds, path: ds.to_netcdf(path, engine="scipy"),
    "another format": lambda ds, path: ds.to_netcdf(path, format="NETCDF3_64BIT"),
    "mode a": lambda ds, path: ds.to_netcdf(path, mode="a"),
    "mode a, given by place": lambda ds, path: ds.to_netcdf(path, "a"),
    "a group of it": lambda ds, path: ds.to_netcdf(path, mode="a", group="other"),
    "text": lambda ds, path: ds.to_netcdf(str(path)),
    "bytes": lambda ds, path: ds.to_netcdf(bytes(path), engine="h5netcdf"),
    "relative": lambda ds, path: ds.to_netcdf(path.name),
    "round about": lambda ds, path: ds.to_netcdf(f"./../{path.parent.name}/{path.name}"),
    "at home": lambda ds, path: ds.to_netcdf(f"~/{path.name}"),
    "a symbolic link": lambda ds, path: ds.to_netcdf(linked(path, os.symlink)),
    "a hard link": lambda ds, path: ds.to_netcdf(linked(path, os.link)),
    "a file object": by_file_object,
    "an array": lambda ds, path: ds.v.to_netcdf(path),
    "many files": lambda ds, path: xr.save_mfdataset([ds[["time"]], ds], ["new.nc", path]),
    "in Dask": lambda ds, path: ds.chunk({"time": 1}).to_netcdf(path),
    "in Dask, later": late,
    "a tree": lambda ds, path: xr.DataTree.from_dict({"/": ds[["time"]], "/deep": ds}).to_netcdf(path),
    "what was computed of it": lambda ds, path: ds.mean("x").to_netcdf(path),
    "a part": lambda ds, path: ds.isel(x=slice(5)).to_netcdf(path),
    "a copy": lambda ds, path: ds.copy(deep=True).to_netcdf(path),
    "what was pickled": lambda ds, path: pickle.loads(pickle.dumps(ds)).to_netcdf(path),
    "something else": lambda _, path: made(VALUES[:1]).to_netcdf(path),
    "a Zarr store": lambda ds, path: ds.to_zarr(path, mode="w", zarr_format=2),
    "a Zarr store around it": lambda ds, path: ds.to_zarr(path.parent, mode="w", zarr_format=2),
}


@pytest.mark.parametrize("door", FILE_DOORS)
def test_a_file_that_is_open(path, door):
    ours = opened(path)
    with pytest.raises(SourceError, match=r": is open, and what is still to be read of it .* would be lost; write to another"):
        FILE_DOORS[door](ours, path)
    np.testing.assert_array_equal(xr.load_dataset(path, engine="h5netcdf").v, VALUES)
    np.testing.assert_array_equal(ours.v, VALUES)


@pytest.mark.parametrize(
    "kind",
    ["classic", "joined", "in Dask", "a tree", "references", "one variable", "a copy alone", "closed", "local://", "cached"],
)
def test_however_it_is_open(path, tmp_path, kind):
    if kind == "classic":
        made(VALUES).to_netcdf(path, format="NETCDF3_CLASSIC")
    first = path
    if kind == "joined":
        first = tmp_path / "0.nc"
        made(VALUES, 10).to_netcdf(first)
    if kind == "references":
        first = tmp_path / "refs.json"
        first.write_text(references_to(path))
    given = [first, path] if kind == "joined" else first
    ours = xr.open_datatree(path, engine="activestore")["/"].to_dataset() if kind == "a tree" else opened(given)
    if kind in ("local://", "cached"):
        ours = opened(f"local://{path}" if kind == "local://" else f"simplecache::local://{path}")
    if kind == "in Dask":
        ours = opened(path, chunks={})
    if kind == "one variable":
        ours = ours.v.to_dataset(name="w")
    if kind == "a copy alone":
        ours = copy.deepcopy(ours)
    if kind == "closed":
        ours.close()
    with pytest.raises(SourceError, match="is open, and what is still to be read"):
        ours.to_netcdf(path)
    np.testing.assert_array_equal(xr.load_dataset(path).v, VALUES)


def references_to(path):
    import json

    from kerchunk.hdf import SingleHdf5ToZarr

    return json.dumps(SingleHdf5ToZarr(str(path), inline_threshold=0).translate())


def test_what_is_allowed(path, tmp_path):
    """Another file, its place taken at once; what was loaded and closed; and what was closed, by what does not read it."""
    ours = opened(path)
    ours.to_netcdf(tmp_path / "new.nc")
    os.replace(tmp_path / "new.nc", path)
    again = opened(path)
    assert again.attrs["history"] == "edited"
    np.testing.assert_array_equal(again.v, VALUES)
    again = opened(path)
    again.load().close()
    again.to_netcdf(path)
    del ours, again
    with opened(path) as ours:
        mean = ours.v.active.mean("x").to_dataset(name="mean")
    mean.to_netcdf(path, mode="a")
    np.testing.assert_array_equal(xr.load_dataset(path)["mean"], VALUES.mean(axis=1))
    with contextlib.closing(opened(path)) as ours:
        assert ours.v.shape == VALUES.shape
    made(VALUES[:1]).to_netcdf(path)
    assert xr.load_dataset(path).v.shape == (1, 1000)


def test_what_is_gone_is_no_hindrance(path):
    ours = opened(path)
    assert ours.v.shape == VALUES.shape
    del ours
    made(VALUES[:1]).to_netcdf(path)


def test_a_file_that_took_the_place_of_what_is_open(path, tmp_path):
    ours = opened(path)
    made(VALUES[:2]).to_netcdf(tmp_path / "new.nc")
    os.replace(tmp_path / "new.nc", path)
    made(VALUES[:3]).to_netcdf(path)
    assert ours.v.shape == VALUES.shape


def fsmap(store):
    import fsspec

    return fsspec.get_mapper(str(store))


def local_store(store):
    from zarr.storage import LocalStore

    return LocalStore(store)


STORE_DOORS = {
    "a path": lambda ds, store: ds.to_zarr(store, mode="w"),
    "text": lambda ds, store: ds.to_zarr(f"{store}/", mode="w"),
    "at home": lambda ds, store: ds.to_zarr(f"~/{store.name}", mode="w"),
    "an address": lambda ds, store: ds.to_zarr(f"file://{store}", mode="w"),
    "fsspec's other address": lambda ds, store: ds.to_zarr(f"local://{store}", mode="w"),
    "a store": lambda ds, store: ds.to_zarr(local_store(store), mode="w"),
    "a mapping": lambda ds, store: ds.to_zarr(fsmap(store), mode="w"),
    "mode a": lambda ds, store: ds.to_zarr(store, mode="a"),
    "a region": lambda ds, store: ds.drop_vars("time").to_zarr(store, region={"time": slice(0, 4), "x": slice(0, 1000)}),
    "appended": lambda ds, store: ds.to_zarr(store, append_dim="time"),
    "the folder around it": lambda ds, store: ds.to_zarr(store.parent, mode="w"),
    "a link": lambda ds, store: ds.to_zarr(linked(store, os.symlink), mode="w"),
    "in Dask, later": lambda ds, store: ds.chunk({"time": 2}).to_zarr(store, mode="w", compute=False).compute(),
    "a tree": lambda ds, store: xr.DataTree.from_dict({"/": ds}).to_zarr(store, mode="w"),
    "an array": lambda ds, store: ds.v.to_zarr(store, mode="w"),
    "an array of it as a group": lambda ds, store: ds.to_zarr(store, mode="w", group="v"),
    "a chunk of it": lambda ds, store: ds.to_netcdf(store / "v" / "0.0"),
}


@pytest.fixture
def store(path):
    made(VALUES).to_zarr(path.parent / "a.zarr", zarr_format=2)
    return path.parent / "a.zarr"


@pytest.mark.parametrize("door", STORE_DOORS)
def test_a_store_that_is_open(store, door):
    ours = opened(store)
    before = {file: file.read_bytes() for file in store.rglob("*") if file.is_file()}
    with pytest.raises(SourceError, match="is open, and what is still to be read of it"):
        STORE_DOORS[door](ours, store)
    assert before == {file: file.read_bytes() for file in store.rglob("*") if file.is_file()}
    np.testing.assert_array_equal(ours.v, VALUES)


def test_a_group_of_a_store(store):
    ours = opened(store)
    ours.to_zarr(store, group="new", mode="w", zarr_format=2)
    inner = opened(store, group="new")
    with pytest.raises(SourceError, match="is open, and what is still to be read of it"):
        inner.to_zarr(store, group="new", mode="w")
    np.testing.assert_array_equal(inner.v, VALUES)
    np.testing.assert_array_equal(opened(store).v, VALUES)


def test_stores_elsewhere(store):
    import fsspec

    memory = fsspec.filesystem("memory")
    try:
        memory.put(str(store), "/guarded.zarr", recursive=True)
        ours = opened("memory://guarded.zarr")
        for target in ("memory://guarded.zarr", "memory:///guarded.zarr/", fsmap("memory://guarded.zarr")):
            with pytest.raises(SourceError, match="is open, and what is still to be read of it"):
                ours.to_zarr(target, mode="w")
        ours.to_zarr("memory://other.zarr", mode="w", zarr_format=2)
        np.testing.assert_array_equal(ours.v, VALUES)
    finally:
        memory.rm("/guarded.zarr", recursive=True)
        if memory.exists("/other.zarr"):
            memory.rm("/other.zarr", recursive=True)


def test_every_writer_of_xarray_is_guarded(path):
    assert opened(path).v.shape == VALUES.shape
    assert {one.__name__ for one in guard._GUARDED} >= {"to_netcdf", "to_zarr"}
