"""Groups, periods, windows and weights of whole datasets, beside xarray's own: variables of every kind, and real files."""

import itertools
import warnings

import numpy as np
import pytest
import xarray as xr

import activestore.accessor  # noqa: F401  # registers .active
from activestore.accessor.reducing import dataset as module
from activestore.errors import SelectionError
from tests.accessor.test_climate import CHOSEN, variable_of
from tests.corpus import file_id

pytestmark = pytest.mark.filterwarnings(
    "ignore::xarray.SerializationWarning", "ignore::UserWarning", "ignore::FutureWarning", "ignore::RuntimeWarning"
)
METHODS = ("mean", "min", "max", "sum", "count", "std", "var", "any", "all")
NEAR = {"tas", "pr", "bounds", "number"}
"""The variables along time of the dataset below."""


def numbers(*shape, dtype="f4"):
    values = np.random.default_rng(len(shape)).uniform(250, 300, shape).astype(dtype)
    values.reshape(-1)[::7] = np.nan
    return values


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """Return a file with variables along some of the dimensions, in several orders and types, and a text and a scalar."""
    times = np.datetime64("2000-01-15", "ns") + np.arange(24) * np.timedelta64(30, "D")
    variables = {
        "tas": (("lat", "time", "lon"), numbers(4, 24, 6), {"units": "K"}),
        "pr": (("time", "lat", "lon"), numbers(24, 4, 6, dtype="f8")),
        "height": (("lat", "lon"), numbers(4, 6)),
        "bounds": (("time", "side"), numbers(24, 2)),
        "number": (("time",), np.arange(24, dtype="i2")),
        "scalar": ((), 3.0),
    }
    coords = {"time": times, "lat": np.arange(4.0), "lon": np.arange(6.0), "level": ("time", np.arange(24) % 5)}
    path = tmp_path_factory.mktemp("dataset") / "a.nc"
    xr.Dataset(variables, coords, {"title": "a mixture"}).to_netcdf(path)
    return path


def pair(path):
    """Return a file lazily as our engine opens it, and in memory as xarray's own does."""
    lazy = xr.open_dataset(path, engine="activestore", cache=False)
    with xr.open_dataset(path, engine="netcdf4") as dataset:
        return lazy, dataset.load()


def assert_same(found, wanted, what):
    """Assert that two datasets agree in all but what sums of 32-bit numbers lose."""
    assert attributes(found).identical(attributes(wanted)), what
    assert list(found.data_vars) == [name for name in found.data_vars if name in wanted.data_vars], what
    assert set(found.variables) == set(wanted.variables), what
    assert set(found.indexes) == set(wanted.indexes), what
    for name, variable in wanted.variables.items():
        one = found.variables[name]
        assert (one.dims, one.dtype) == (variable.dims, variable.dtype), f"{what}: {name}"
        assert attributes(one).identical(attributes(variable)), f"{what}: {name}"
        if variable.dtype.kind != "f":
            assert one.identical(variable), f"{what}: {name}"
            continue
        values = variable.values
        scale = float(np.max(np.abs(values), where=np.isfinite(values), initial=0))
        digits = 2e-5 if values.dtype == np.float32 else 1e-12
        np.testing.assert_allclose(one.values, values, rtol=digits, atol=digits * scale, err_msg=f"{what}: {name}")


def attributes(of):
    """Return a variable with the same attributes, which may be arrays."""
    return xr.Variable((), 0, of.attrs)


KEY = xr.DataArray(np.arange(24) // 7, dims="time", name="key")
GROUPS = {
    "months": lambda one: one.groupby("time.month"),
    "seasons": lambda one: one.groupby("time.season"),
    "levels": lambda one: one.groupby("level"),
    "an array": lambda one: one.groupby(KEY),
    "years": lambda one: one.resample(time="1YS"),
    "periods without values": lambda one: one.resample(time="7D"),
}
WINDOWS = {
    "of space": lambda one: one.coarsen(lat=2, lon=3),
    "padded": lambda one: one.coarsen(lat=3, boundary="pad"),
    "of time and space": lambda one: one.coarsen({"time": 5, "lon": 6}, boundary={"time": "trim", "lon": "exact"}),
}


@pytest.mark.parametrize("use_flox", [True, False], ids=["flox", "no flox"])
@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("dim", [None, "time", ["time", "lat"], ...], ids=str)
def test_groups(path, group, dim, use_flox):
    lazy, loaded = pair(path)
    for method, keep_attrs in itertools.product(METHODS, (None, False)):
        options = {} if keep_attrs is None else {"keep_attrs": keep_attrs}
        # With flox, a value counts as often as a dimension is long that its variable does not have.
        with xr.set_options(use_flox=use_flox and dim in (None, "time")):
            wanted = getattr(GROUPS[group](loaded), method)(dim, **options)
        with xr.set_options(use_flox=use_flox):
            found = getattr(GROUPS[group](lazy.active), method)(dim, **options)
        assert_same(found, wanted, method)


@pytest.mark.parametrize("windows", WINDOWS)
def test_windows(path, windows):
    lazy, loaded = pair(path)
    for method, keep_attrs in itertools.product(METHODS, (None, False)):
        options = {} if keep_attrs is None else {"keep_attrs": keep_attrs}
        wanted = getattr(WINDOWS[windows](loaded), method)(**options)
        assert_same(getattr(WINDOWS[windows](lazy.active), method)(**options), wanted, method)


@pytest.mark.parametrize("along", [("lat",), ("time",), ("lat", "lon")], ids=str)
@pytest.mark.parametrize("dim", [None, "lat", "time", ["lat", "lon"], ["time", "lat"]], ids=str)
def test_weights(path, along, dim):
    lazy, loaded = pair(path)
    shape = [loaded.sizes[name] for name in along]
    weights = xr.DataArray(1 + np.arange(np.prod(shape)).reshape(shape) % 5, dims=along)
    for method in ("mean", "sum", "std", "var", "sum_of_weights", "sum_of_squares"):
        wanted = outcome(lambda name=method: getattr(loaded.weighted(weights), name)(dim))
        found = outcome(lambda name=method: getattr(lazy.active.weighted(weights), name)(dim))
        if isinstance(wanted, type):
            assert found is wanted, method
        else:
            assert_same(found, wanted, method)


def outcome(compute):
    """Return what is computed, or the type of the error: xarray does not weigh along what a variable does not have."""
    try:
        return compute()
    except ValueError as error:
        return type(error)


@pytest.mark.parametrize("name", CHOSEN, ids=file_id)
def test_real_files(name):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        lazy = xr.open_dataset(name, engine="activestore", cache=False)
        with xr.open_dataset(name, engine="netcdf4") as dataset:
            main = variable_of(dataset)
            loaded = dataset.load()
    # Bounds of time are times, of which xarray itself makes no groups in every calendar.
    odd = [one for one, array in loaded.data_vars.items() if array.dtype.kind not in "iuf"]
    lazy, loaded = lazy.drop_vars(odd), loaded.drop_vars(odd)
    for method in ("mean", "max", "count"):
        for of in (GROUPS["months"], GROUPS["years"], lambda one: one.coarsen(time=6, boundary="trim")):
            assert_same(getattr(of(lazy.active), method)(), getattr(of(loaded), method)(), method)
    weights = xr.DataArray(np.linspace(1, 2, loaded.sizes["time"]), dims="time")
    wanted = loaded[[main]].weighted(weights).mean("time")
    assert_same(lazy[[main]].active.weighted(weights).mean("time"), wanted, "weighted")


def test_only_what_has_no_groups_is_read(path, monkeypatch):
    lazy, _ = pair(path)
    read = set()
    called = module.called

    def noted(grouped, *arguments, **options):
        read.update(grouped._obj.data_vars if hasattr(grouped, "_obj") else ())
        return called(grouped, *arguments, **options)

    monkeypatch.setattr(module, "called", noted)
    lazy.active.groupby("time.month").mean()
    assert read == {"height", "scalar"}
    assert not any(lazy[name].variable._in_memory for name in NEAR)
    found = lazy.active.groupby("time.month").explain("mean")
    assert set(found) == NEAR
    assert "mean of 'tas'" in str(found["tas"])
    assert repr(lazy.active.groupby("time.month")).endswith("in groups: 12 along 'time'>")


def test_groups_of_a_dimension_without_coordinate(tmp_path):
    xr.Dataset({"v": (("t", "x"), numbers(24, 3)), "w": (("t",), numbers(24))}).to_netcdf(tmp_path / "a.nc")
    lazy, loaded = pair(tmp_path / "a.nc")
    key = KEY.rename({"time": "t"})
    assert_same(lazy.active.groupby(key).mean(), loaded.groupby(key).mean(), "groups")
    assert_same(lazy.active.coarsen(t=6, x=3).mean(), loaded.coarsen(t=6, x=3).mean(), "windows")
    weights = xr.DataArray(np.arange(24.0), dims="t")
    assert_same(lazy.active.weighted(weights).mean("t"), loaded.weighted(weights).mean("t"), "weights")


def test_a_variable_with_the_name_of_the_groups(path):
    lazy, loaded = (one.assign(month=one.number.astype("f8")) for one in pair(path))
    with xr.set_options(use_flox=False):
        assert_same(lazy.active.groupby("time.month").mean(), loaded.groupby("time.month").mean(), "without flox")


def test_what_cannot_be(path):
    active = pair(path)[0].active
    with pytest.raises(SelectionError, match="make 'number' one first"):
        active.groupby("number")
    with pytest.raises(SelectionError, match="no coordinate, or part of one"):
        active.groupby("time.moon")
    with pytest.raises(SelectionError, match="which has to be reduced"):
        active.groupby("time.month").mean("lat")
    with pytest.raises(SelectionError, match="no dimension 'depth'"):
        active.groupby("time.month").mean(["time", "depth"])
    with pytest.raises(SelectionError, match="resample one of the dimensions"):
        active.resample(depth="1YS")
    with pytest.raises(SelectionError, match="windows of 5 do not fit the 6 positions along 'lon'"):
        active.coarsen(lon=5)
    with pytest.raises(SelectionError, match="weights are a DataArray"):
        active.weighted(2)
    with pytest.raises(SelectionError, match="the weights have the dimension 'depth'"):
        active.weighted(xr.DataArray([1.0], dims="depth"))
    with pytest.raises(SelectionError, match="cannot be missing"):
        active.weighted(xr.DataArray([1.0, np.nan, 1, 1], dims="lat"))
