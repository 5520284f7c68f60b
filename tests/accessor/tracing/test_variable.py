"""Where values come from: what is found, what is refused, and that what is changed is never mistaken for what is stored."""

import contextlib
import importlib.util
import itertools
import shutil

import h5netcdf
import h5py
import netCDF4
import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

import activestore.accessor  # noqa: F401  # registers .active for files that other engines opened
from activestore.errors import ActivestoreError, SourceError, UntraceableError
from tests.accessor.beside_xarray import assert_reduction

TAS = "docs/tas.nc"
ENGINES = ("activestore", "h5netcdf", "netcdf4")


@pytest.fixture(params=ENGINES)
def engine(request):
    return request.param


@pytest.fixture
def ds(engine):
    with xr.open_dataset(TAS, engine=engine) as dataset:
        yield dataset


def whole():
    """Return the sample in memory."""
    with xr.open_dataset(TAS, engine="h5netcdf") as dataset:
        return dataset.load()


def assert_traced(found, wanted):
    """Assert that lazy values are reduced where they are, as the same in memory are."""
    for dim in (None, *wanted.dims):
        assert_reduction(found.active.mean(dim), wanted, "mean", dim)
        assert_reduction(found.active.max(dim), wanted, "max", dim)


FOUND = {
    "all": lambda tas: tas,
    "integer": lambda tas: tas[3],
    "integers": lambda tas: tas[3, -4, 5],
    "steps": lambda tas: tas[::-2, 3:9, ::5],
    "lists": lambda tas: tas[[3, 1, 1], :, [0, -1]],
    "mask": lambda tas: tas[np.arange(24) % 3 == 0],
    "mask by label": lambda tas: tas.sel(time=tas.time.dt.month == 7),
    "labels": lambda tas: tas.sel(time="2001", lat=slice(-30, 30)).isel(lon=slice(None, None, -1)),
    "nearest": lambda tas: tas.sel(lat=[11, -44], lon=120, method="nearest"),
    "of one": lambda tas: tas[3:4, :, 5:6],
    "squeezed": lambda tas: tas[3:4, :, 5:6].squeeze(),
    "squeezed, one dimension": lambda tas: tas[3:4, :, 5:6].squeeze("lon", drop=True),
    "transposed": lambda tas: tas.transpose("lon", "time", "lat"),
    "transposed, the others": lambda tas: tas.transpose("lon", ...),
    "T": lambda tas: tas.T,
    "transposed twice": lambda tas: tas.transpose("lon", "time", "lat").transpose("lat", "lon", "time"),
    "selected, transposed": lambda tas: tas[[3, 1, 1], 4, ::-2].transpose("lon", "time"),
    "transposed, selected": lambda tas: tas.transpose("lon", "time", "lat")[2:5],
    "transposed, integer": lambda tas: tas.transpose("lon", "time", "lat")[2],
    "transposed, lists": lambda tas: tas.transpose("lon", "time", "lat")[[2, 0, 2], :, [5, 3]],
    "transposed, selected, transposed": lambda tas: tas.T[::3, [1, 5], 2:9].transpose("time", "lat", "lon")[1:, ::-1],
    "transposed, of one": lambda tas: tas[:1].transpose("lat", "time", "lon")[:, :, :1].transpose("lon", "lat", "time"),
    "vector of one dimension": lambda tas: tas.isel(time=xr.DataArray([5, 0, 7], dims="point")),
    "vectors of their own dimensions": lambda tas: tas.isel(
        time=xr.DataArray([5, 0, 7], dims="a"), lat=xr.DataArray([1, 2, 2, 3], dims="b")
    ),
    "vectors that swap the dimensions": lambda tas: tas.isel(
        time=xr.DataArray([5, 0, 7], dims="lat"), lat=xr.DataArray([1, 2, 2, 3], dims="time")
    ),
    "one vector in another's place": lambda tas: tas.isel(lon=xr.DataArray([5, 0, 7], dims="x")).transpose("x", "lat", "time"),
    "renamed": lambda tas: tas.rename(time="t", lat="y").rename("other"),
    "names of dimensions exchanged": lambda tas: tas.drop_vars(["lat", "lon"]).rename(lat="lon", lon="lat"),
    "swapped": lambda tas: tas.assign_coords(n=("time", np.arange(24))).swap_dims(time="n").sel(n=slice(3, 8)),
    "new coordinates": lambda tas: tas.assign_coords(lat=np.arange(18), lon=tas.lon[::-1].values).sel(lat=slice(3, 8)),
    "sorted": lambda tas: tas.sortby("lat", ascending=False),
    "sorted by chance": lambda tas: tas.assign_coords(lat=np.random.default_rng(1).permutation(18)).sortby("lat"),
    "without coordinates": lambda tas: tas.drop_vars(tas.coords).reset_coords(drop=True),
    "head and tail": lambda tas: tas.head(time=7).tail(lat=5).thin(lon=7),
    "reindexed, nothing new": lambda tas: tas.reindex(lat=tas.lat[::-1]),
    "loc": lambda tas: tas.loc["2001-03":"2001-07", :, 0:90],
    "shallow copy": lambda tas: tas.copy(deep=False)[4:],
    "deep copy": lambda tas: tas.copy(deep=True)[4:],
    "other attributes": lambda tas: tas.assign_attrs(units="furlong", scale_factor=3.0, _FillValue=1.0),
    "whole, through a dataset": lambda tas: tas.to_dataset(name="x").isel(time=slice(3, 9)).x,
    "dropped": lambda tas: tas.drop_isel(time=[0, 5]).drop_sel(lat=tas.lat.values[[3]]),
}


@pytest.mark.parametrize("pick", FOUND.values(), ids=FOUND)
def test_found(ds, pick):
    assert_traced(pick(ds.tas), pick(whole().tas))


CHANGED = {
    "plus": lambda tas: tas + 1,
    "minus": lambda tas: -tas,
    "compared": lambda tas: (tas > 280) * 1.0,
    "of another type": lambda tas: tas.astype("f8"),
    "of the same type": lambda tas: tas.astype("f4"),
    "rounded": lambda tas: tas.round(1),
    "function": np.sqrt,
    "points": lambda tas: tas.isel(time=xr.DataArray([0, 5, 7], dims="point"), lat=xr.DataArray([1, 2, 3], dims="point")),
    "points of two dimensions": lambda tas: tas.isel(time=xr.DataArray([[0, 5], [7, 23]], dims=("a", "b"))),
    "points, transposed": lambda tas: (
        tas.isel(time=xr.DataArray([0, 5, 7], dims="point"), lat=xr.DataArray([1, 2, 3], dims="point")).T
    ),
    "diagonal": lambda tas: tas.isel(time=xr.DataArray(np.arange(18), dims="lat"), lat=xr.DataArray(np.arange(18), dims="lat")),
    "where": lambda tas: tas.where(tas.lat > 0),
    "where, dropped": lambda tas: tas.where(tas.lat > 0, drop=True),
    "xr.where": lambda tas: xr.where(tas.lat > 0, tas, 0),
    "filled": lambda tas: tas.fillna(0),
    "clipped": lambda tas: tas.clip(270, 280),
    "reindexed, with new": lambda tas: tas.reindex(lat=np.arange(-90, 91, 10)),
    "reindexed, filled": lambda tas: tas.reindex(lat=np.arange(-90, 91, 10), fill_value=0),
    "aligned": lambda tas: xr.align(tas, xr.DataArray([1, 2], coords={"lat": [0.0, 1]}, dims="lat"), join="outer")[0],
    "concatenated": lambda tas: xr.concat([tas[:3], tas[5:]], "time"),
    "padded": lambda tas: tas.pad(lat=2),
    "rolled": lambda tas: tas.roll(lon=3),
    "shifted": lambda tas: tas.shift(time=1),
    "stacked": lambda tas: tas.stack(cell=("lat", "lon")),
    "interpolated": lambda tas: tas.interp(lat=[1.0, 2.0]) if importable("scipy") else tas + 1,
    "differences": lambda tas: tas.diff("time"),
    "running": lambda tas: tas.cumsum("time"),
    "mean of": lambda tas: tas.mean("time"),
    "windows": lambda tas: tas.rolling(time=3).construct("window"),
    "coarse": lambda tas: tas.coarsen(lat=2).construct(lat=("a", "b")),
    "in memory": lambda tas: tas.copy().load(),
    "computed": lambda tas: tas.compute(),
    "other data": lambda tas: tas.copy(data=np.zeros(tas.shape, "f4")),
    "anything like it": xr.zeros_like,
    "a coordinate": lambda tas: tas.lat,
    "made": lambda _: xr.DataArray(np.zeros(3), dims="x"),
    "inserted": lambda tas: tas.to_series().to_xarray(),
    "mapped": lambda tas: tas.groupby("time.month").map(np.abs),
    "combined": lambda tas: tas[:3].combine_first(tas[3:]),
}


def importable(name):
    return importlib.util.find_spec(name) is not None


@pytest.mark.parametrize("change", CHANGED.values(), ids=CHANGED)
def test_refused(ds, change):
    changed = change(ds.tas)
    if changed.variable._in_memory and "source" in changed.encoding:
        # Loaded, or so xarray says: then xarray reduces it.
        xr.testing.assert_identical(changed.active.mean(), changed.mean())
        return
    with pytest.raises(UntraceableError, match="so it cannot be reduced where the data are; open the file with"):
        changed.active.mean()


MAYBE = {
    "chunked": lambda tas: tas.chunk({"time": 5}) if importable("dask") else tas,
    "chunked, changed": lambda tas: tas.chunk({"time": 5}) * 2 if importable("dask") else tas,
    "chunked, transposed": lambda tas: tas.chunk({"time": 5}).T[3:] if importable("dask") else tas,
    "transposed, chunked": lambda tas: tas.T[3:].chunk({"time": 5}) if importable("dask") else tas,
    "added dimension": lambda tas: tas.expand_dims("new"),
    "added dimension of three": lambda tas: tas.expand_dims(new=3),
    "added dimension, in the middle": lambda tas: tas.expand_dims("new", axis=2),
    "added, transposed": lambda tas: tas.expand_dims("new").transpose("lat", "new", "lon", "time"),
    "added, another taken": lambda tas: tas[3].expand_dims("time"),
    "broadcast": lambda tas: tas.broadcast_like(xr.DataArray(np.zeros(2), dims="new")),
    "broadcast, in order": lambda tas: xr.broadcast(tas[0], tas.lat)[0],
    "filled forwards": lambda tas: tas.ffill("time") if importable("bottleneck") else tas,
    "concatenated from one": lambda tas: xr.concat([tas], "time"),
    "concatenated along a new one": lambda tas: xr.concat([tas[0], tas[1]], "time"),
    "shifted by nothing": lambda tas: tas.shift(time=0),
    "rolled by nothing": lambda tas: tas.roll(lon=0),
    "rolled with its coordinate": lambda tas: tas.roll(lon=3, roll_coords=True),
    "padded by nothing": lambda tas: tas.pad(lat=0),
    "reindexed like itself": lambda tas: tas.reindex_like(tas),
    "reindexed by the nearest": lambda tas: tas.reindex(lat=[1.0, 40.0, 2.0], method="nearest"),
    "merged": lambda tas: xr.merge([tas[:, :3], tas[:, :5]], join="inner", compat="override")[tas.name],
    "aligned, inner": lambda tas: xr.align(tas, tas[:, 3:5], join="inner")[0],
    "transposed, then points": lambda tas: tas.T.isel(time=xr.DataArray([0, 5], dims="p"), lat=xr.DataArray([1, 2], dims="p")),
    "a point of one": lambda tas: tas.isel(time=xr.DataArray([4], dims="p"), lat=xr.DataArray([1], dims="p")),
    "a point of one, transposed": lambda tas: tas.isel(
        time=xr.DataArray([4], dims="p"), lat=xr.DataArray([1], dims="p")
    ).transpose("lon", "p"),
    "equal points": lambda tas: tas.isel(time=xr.DataArray([4, 4], dims="p"), lat=xr.DataArray([1, 1], dims="p")),
    "points along one": lambda tas: tas.isel(time=xr.DataArray([4, 4], dims="p"), lat=xr.DataArray([1, 3], dims="p")),
    "vector and integer": lambda tas: tas.isel(time=xr.DataArray([4, 2], dims="p"), lat=3).transpose("lon", "p"),
    "points, then a point": lambda tas: tas.isel(time=xr.DataArray([0, 5, 7], dims="p"), lat=xr.DataArray([1, 2, 3], dims="p"))[
        1
    ],
    "points, then a point by list": lambda tas: (
        tas.isel(time=xr.DataArray([0, 5, 7], dims="p"), lat=xr.DataArray([1, 2, 3], dims="p"))[[1]].T
    ),
    "two steps of points": lambda tas: tas.isel(time=xr.DataArray([0, 5], dims="p")).isel(lat=xr.DataArray([1, 2], dims="p")),
    "vector of one value, twice as long": lambda tas: tas[:1].isel(time=xr.DataArray([0, 0], dims="lat2"), lat=[1, 2]),
    "as variable": lambda tas: xr.DataArray(tas.variable, name="x"),
    "in a dataset": lambda tas: tas.to_dataset(name="x").x,
}


@pytest.mark.parametrize("change", MAYBE.values(), ids=MAYBE)
def test_right_or_refused(ds, change):
    """What xarray may do lazily or in memory, as it likes, is reduced rightly or not at all."""
    changed, wanted = change(ds.tas), change(whole().tas)
    try:
        changed.active.count()
    except UntraceableError:
        return
    if changed.variable._in_memory:
        xr.testing.assert_identical(changed.active.mean(), wanted.mean())
    else:
        assert_traced(changed, wanted)


WRITTEN = {
    "item": lambda ds: ds.tas.__setitem__(0, 1),
    "all items": lambda ds: ds.tas.__setitem__(..., 1),
    "by label": lambda ds: ds.tas.loc.__setitem__({"time": "2001"}, 1),
    "by points": lambda ds: ds.tas.__setitem__(
        {"time": xr.DataArray([0, 1], dims="p"), "lat": xr.DataArray([0, 1], dims="p")}, 1
    ),
    "values": lambda ds: ds.tas.values.__setitem__(..., 0),
    "data": lambda ds: ds.tas.data.__setitem__(..., 0),
    "of the variable": lambda ds: ds.tas.variable.__setitem__(0, 1),
    "values of the variable": lambda ds: ds.tas.variable.values.__setitem__(..., 0),
    "new values": lambda ds: setattr(ds.tas, "values", np.zeros(ds.tas.shape, "f4")),
    "new data": lambda ds: setattr(ds.tas, "data", np.zeros(ds.tas.shape, "f4")),
    "new variable": lambda ds: ds.__setitem__("tas", ds.tas * 2),
    "in place": lambda ds: ds.tas.__iadd__(1),
    "read and written": lambda ds: (ds.tas.load(), ds.tas.values.__setitem__(..., 0)),
    "read through a dataset": lambda ds: (ds.load(), ds.tas.values.__setitem__(..., 0)),
    "read through a shallow copy": lambda ds: ds.copy(deep=False).tas.values.__setitem__(..., 0),
    "read through another view": lambda ds: ds.tas.rename("other").values.__setitem__(..., 0),
}


@pytest.mark.parametrize("write", WRITTEN.values(), ids=WRITTEN)
@pytest.mark.parametrize("cache", [True, False])
def test_what_is_written_counts(engine, write, cache):
    with xr.open_dataset(TAS, engine=engine, cache=cache) as ds:
        write(ds)
        try:
            found = ds.tas.active.sum()
        except UntraceableError:
            return
        # Without a cache what was changed may have been a copy, and the array is as it was.
        np.testing.assert_allclose(found, ds.tas.astype("f8").sum(), rtol=1e-6)
        for part in (ds.tas[:3], ds.tas.T, ds.tas[3]):
            np.testing.assert_allclose(part.active.sum(), part.astype("f8").sum(), rtol=1e-6)


def test_a_part_that_is_written_leaves_the_rest(ds):
    part, rest = ds.tas[:3], ds.tas[3:]
    part[:] = 1
    with pytest.raises(UntraceableError, match="in memory"):
        part.active.mean()
    assert_traced(rest, whole().tas[3:])
    ds.tas[0] = 1
    with pytest.raises(UntraceableError, match="in memory"):
        ds.tas[3:].active.mean()


def test_what_was_read_is_in_memory(ds):
    part = ds.tas[:3]
    part.values[:] = 5
    assert part.active.mean() == 5
    with pytest.raises(UntraceableError, match="its values are in memory already"):
        (part + 1).active.mean()
    # What was selected before the reading knows nothing of it.
    assert_traced(ds.tas[2:5], whole().tas[2:5])


def test_edited_encoding_changes_nothing(ds):
    tas = ds.tas
    tas.encoding |= {"scale_factor": 3.0, "add_offset": 1.0, "_FillValue": 280.0, "dtype": "i2", "source": "elsewhere.nc"}
    tas.encoding["missing_value"] = 290.0
    ds.encoding["source"] = "elsewhere.nc"
    assert_traced(tas, whole().tas)


def test_encoding_and_attributes_taken_away(ds):
    bare = ds.drop_encoding().tas.drop_attrs()
    assert_traced(bare, whole().tas.drop_attrs())


@given(st.data())
def test_any_chain_of_selections_is_right(chain_source, data):
    lazy, wanted = chain_source
    for _ in range(data.draw(st.integers(1, 4))):
        step = data.draw(st.sampled_from(["isel", "transpose", "squeeze", "rename", "vectors"]))
        if step == "transpose":
            order = data.draw(st.permutations(wanted.dims))
            lazy, wanted = lazy.transpose(*order), wanted.transpose(*order)
        elif step == "squeeze":
            lazy, wanted = lazy.squeeze(), wanted.squeeze()
        elif step == "rename" and len(wanted.dims) > 1:
            one, other = data.draw(st.permutations(wanted.dims))[:2]
            lazy, wanted = (array.drop_vars(array.coords).rename({one: other, other: one}) for array in (lazy, wanted))
        else:
            key = {dim: data.draw(items(wanted.sizes[dim])) for dim in wanted.dims if data.draw(st.booleans())}
            if step == "vectors":
                key = {
                    dim: one if np.ndim(one) != 1 else xr.DataArray(one, dims=dim + "_")
                    for dim, one in key.items()
                    if not isinstance(one, slice)
                }
            lazy, wanted = lazy.isel(key), wanted.isel(key)
    dims = data.draw(st.lists(st.sampled_from(wanted.dims), unique=True)) if wanted.dims else []
    method = data.draw(st.sampled_from(["sum", "max", "count"]))
    assert_reduction(getattr(lazy.active, method)(dims), wanted, method, dims)


def items(length):
    """Return positions along a dimension, that leave something."""
    if not length:
        return st.just(slice(None))
    position = st.integers(-length, length - 1)
    steps = st.tuples(st.integers(0, length - 1), st.integers(1, length), st.sampled_from([1, 2, -1, -3]))
    ranges = steps.map(lambda one: slice(one[0], None, one[2]) if one[2] < 0 else slice(None, one[1], one[2]))
    return st.one_of(position, ranges, st.lists(position, min_size=1, max_size=3).map(np.array))


@pytest.fixture(scope="module")
def chain_source(tmp_path_factory):
    """A small array in a file, with four dimensions, one of them of length 1; lazy and in memory."""
    path = tmp_path_factory.mktemp("chain") / "a.nc"
    values = np.arange(3 * 1 * 4 * 3, dtype="i4").reshape(3, 1, 4, 3)
    coords = {dim: (dim, np.arange(n)) for dim, n in (("a", 3), ("b", 1), ("c", 4), ("d", 3))}
    made = xr.DataArray(values, coords, ("a", "b", "c", "d"), name="v")
    made.to_netcdf(path, engine="h5netcdf", encoding={"v": {"chunksizes": (2, 1, 3, 2)}})
    return xr.open_dataset(path, engine="activestore", cache=False).v, made


def test_groups_with_variables_of_one_name(tmp_path, engine):
    path = tmp_path / "groups.nc"
    for number, group in enumerate(["", "one", "one/two", "three"]):
        made = xr.Dataset({"a": ("x", np.arange(5.0) + 100 * number)})
        made.to_netcdf(path, group=group or None, engine="netcdf4", mode="a" if number else "w")
    for number, group in enumerate([None, "one", "/one/two/", "three"]):
        with xr.open_dataset(path, engine=engine, group=group) as ds:
            assert ds.a.active.max().item() == 4 + 100 * number
    with xr.open_datatree(path, engine="netcdf4") as tree:
        assert [tree[name].ds.a.active.max().item() for name in ("/", "one", "one/two", "three")] == [4, 104, 204, 304]


def test_file_that_is_gone(tmp_path, engine):
    path = shutil.copy(TAS, tmp_path / "a.nc")
    with xr.open_dataset(path, engine=engine) as ds:
        path.unlink()
        with pytest.raises(SourceError):
            ds.tas.active.mean()


@pytest.mark.parametrize("touched", [False, True])
def test_file_that_is_another_now(tmp_path, engine, touched):
    path = shutil.copy(TAS, tmp_path / "a.nc")
    with xr.open_dataset(path, engine=engine) as ds:
        if touched:
            ds.tas.active.mean()
        changed = whole()
        changed["tas"] = changed.tas + 1
        path.unlink()
        changed.to_netcdf(path, engine="h5netcdf")
        with pytest.raises(ActivestoreError, match=r"has changed|is another file than"):
            ds.tas.active.mean()


def test_file_of_another_shape(tmp_path, engine):
    path = shutil.copy(TAS, tmp_path / "a.nc")
    with xr.open_dataset(path, engine=engine) as ds:
        path.unlink()
        whole().isel(time=slice(3)).to_netcdf(path, engine="h5netcdf")
        with pytest.raises(ActivestoreError):
            ds.tas.active.mean()


def test_relative_path_in_another_folder(tmp_path, engine, monkeypatch):
    for number, name in enumerate(("here", "there")):
        (tmp_path / name).mkdir()
        xr.Dataset({"a": ("x", np.arange(5.0) + number)}).to_netcdf(tmp_path / name / "a.nc", engine="h5netcdf")
    monkeypatch.chdir(tmp_path / "here")
    with xr.open_dataset("a.nc", engine=engine) as ds:
        monkeypatch.chdir(tmp_path / "there")
        with contextlib.suppress(ActivestoreError):
            assert ds.a.active.max().item() == 4


def test_file_objects(tmp_path):
    with (
        open(TAS, "rb") as file,
        xr.open_dataset(file, engine="h5netcdf") as ds,
        pytest.raises(UntraceableError, match="opened from an object, not by its path"),
    ):
        ds.tas.active.mean()


def test_bytes():
    with (
        open(TAS, "rb") as file,
        xr.open_dataset(file.read(), engine="h5netcdf") as ds,
        pytest.raises(UntraceableError, match="opened from an object, not by its path"),
    ):
        ds.tas.active.mean()


def test_netcdf4_file_in_memory_under_the_name_of_another(tmp_path):
    path = tmp_path / "other.nc"
    xr.Dataset({"a": ("x", np.arange(5.0) + 1)}).to_netcdf(path, engine="netcdf4")
    named = tmp_path / "named.nc"
    xr.Dataset({"a": ("x", np.arange(5.0))}).to_netcdf(named, engine="netcdf4")
    with netCDF4.Dataset(named, memory=path.read_bytes()) as file:
        ds = xr.open_dataset(xr.backends.NetCDF4DataStore(file))
        with pytest.raises(UntraceableError, match="was read into memory whole"):
            ds.a.active.max()


def test_diskless_netcdf4_file(tmp_path):
    named = tmp_path / "named.nc"
    xr.Dataset({"a": ("x", np.arange(5.0))}).to_netcdf(named, engine="netcdf4")
    with netCDF4.Dataset(named, "r+", diskless=True, persist=False) as file:
        file["a"][:] = 7
        ds = xr.open_dataset(xr.backends.NetCDF4DataStore(file))
        # The HDF5 library keeps the file locked while it has a copy that may be written.
        with pytest.raises(ActivestoreError):
            ds.a.active.max()
        assert ds.a.max() == 7


def test_hdf5_file_in_memory_under_the_name_of_another(tmp_path):
    named = tmp_path / "named.nc"
    xr.Dataset({"a": ("x", np.arange(5.0))}).to_netcdf(named, engine="h5netcdf")
    with h5py.File(named, "r+", driver="core", backing_store=False) as core, h5netcdf.File(core, "r") as file:
        core["a"][:] = 7
        ds = xr.open_dataset(xr.backends.H5NetCDFStore(file))
        with pytest.raises(UntraceableError):
            ds.a.active.max()


def packed(path):
    """Write a variable with everything that decoding knows."""
    with h5py.File(path, "w") as file:
        file["v"] = np.array([[-5, 0, 1, 99], [7, 99, 200, 40]], "i2")
        file["v"].attrs.update({"scale_factor": np.float32(0.5), "add_offset": np.float32(10), "_FillValue": np.int16(99)})
        for name, n in (("y", 2), ("x", 4)):
            file[name] = np.arange(n)
            file[name].make_scale(name)
        file["v"].dims[0].attach_scale(file["y"])
        file["v"].dims[1].attach_scale(file["x"])
    return path


DECODED = {
    "by hand": xr.decode_cf,
    "by hand, a part": lambda ds: xr.decode_cf(ds.isel(x=slice(1, None))),
    "by hand, transposed": lambda ds: xr.decode_cf(ds.transpose("x", "y")),
    "by hand, then a part": lambda ds: xr.decode_cf(ds).isel(x=slice(1, None), y=0),
    "by hand, unmasked": lambda ds: xr.decode_cf(ds, mask_and_scale=False),
    "twice": lambda ds: xr.decode_cf(xr.decode_cf(ds)),
    "twice, with more to decode": lambda ds: xr.decode_cf(
        xr.decode_cf(ds).assign(v=lambda one: one.v.assign_attrs(scale_factor=2.0, _FillValue=np.float32(10)).drop_encoding())
    ),
    "with other attributes": lambda ds: xr.decode_cf(ds.assign(v=ds.v.assign_attrs(scale_factor=2.0, _FillValue=np.int16(1)))),
    "without attributes": lambda ds: xr.decode_cf(ds.drop_attrs()),
}


@pytest.mark.filterwarnings("ignore:.*so it has to be read before it can be reduced")
@pytest.mark.parametrize("decode", DECODED.values(), ids=DECODED)
def test_decoding_by_hand_is_right_or_refused(tmp_path, engine, decode):
    path = packed(tmp_path / "packed.nc")
    with (
        xr.open_dataset(path, engine="h5netcdf", decode_cf=False) as stored,
        xr.open_dataset(path, engine=engine, decode_cf=False) as ds,
    ):
        wanted, changed = decode(stored.load()).load().v, decode(ds).v
        try:
            changed.active.count()
        except UntraceableError:
            return
        assert_traced(changed, wanted)


@pytest.mark.parametrize("choice", [True, False, {"v": False}, {"v": True}, {"x": False}])
def test_masking_and_scaling_by_variable(tmp_path, engine, choice):
    path = packed(tmp_path / "packed.nc")
    with (
        xr.open_dataset(path, engine="h5netcdf", mask_and_scale=choice) as theirs,
        xr.open_dataset(path, engine=engine, mask_and_scale=choice) as ds,
    ):
        assert_traced(ds.v, theirs.v.load())


def test_undecoded(tmp_path, engine):
    path = packed(tmp_path / "packed.nc")
    with xr.open_dataset(path, engine=engine, decode_cf=False) as ds:
        assert ds.v.active.max().item() == 200
        assert ds.v.active.count().item() == 8


def test_every_order_of_two_dimensions_of_one_length(tmp_path):
    path = tmp_path / "cube.nc"
    made = xr.Dataset({"v": (("a", "b", "c"), np.arange(27.0).reshape(3, 3, 3))})
    made.to_netcdf(path, engine="h5netcdf")
    with xr.open_dataset(path, engine="activestore", cache=False) as ds:
        for first, second in itertools.product(itertools.permutations("abc"), repeat=2):
            pick = lambda v, one=first, two=second: v.transpose(*one).isel({two[0]: [2, 0]}).transpose(*two)  # noqa: E731
            for dim in "abc":
                assert_reduction(pick(ds.v).active.max(dim), pick(made.v), "max", dim)
