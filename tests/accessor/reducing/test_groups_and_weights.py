"""Options of groups, periods, windows, weights and thresholds, of files of several calendars, beside xarray and flox."""

import functools
import itertools
import warnings

import flox.xarray
import numpy as np
import pytest
import xarray as xr
from xarray.groupers import BinGrouper, SeasonGrouper, SeasonResampler, TimeResampler, UniqueGrouper

import activestore.accessor  # noqa: F401  # registers .active
from activestore.errors import ActivestoreError, SelectionError, SumOverflowError
from tests.accessor.beside_xarray import EXACT, assert_like, assert_values, rounding, units_in_the_last_place
from tests.corpus import corpus_files

# xarray and pandas warn of calendars and of what will change; NumPy of moments of nothing.
pytestmark = pytest.mark.filterwarnings(
    "ignore::xarray.SerializationWarning",
    "ignore::UserWarning",
    "ignore::FutureWarning",
    "ignore::DeprecationWarning",
    "ignore::RuntimeWarning",
)

METHODS = ("mean", "min", "max", "std", "var", "sum", "count", "any", "all")
FILES = {
    "monthly, noleap": "ta_Amon_BCC-CSM2-MR_historical_r1i1p1f1_gn_193001-196912.nc",
    "monthly, gregorian": "ta_Amon_MPI-ESM-1-2-HAM_historical_r1i1p1f1_gn_195001-196912.nc",
    "daily, gregorian": "ta_day_ACCESS-CM2_historical_r1i1p1f1_gn_20000101-20041231.nc",
    "daily, 360_day": "ta_day_KACE-1-0-G_historical_r1i1p1f1_gr_20000101-20141230.nc",
    "with missing values": "ta_Amon_ACCESS-ESM1-5_historical_r1i1p1f1_gn_195001-201412.nc",
    "a map": "A1B_north_america.nc",
    "sea surface": "ostia_monthly.nc",
}
NAMES = {"a map": "air_temperature", "sea surface": "surface_temperature"}


@functools.cache
def opened(name):
    """Return the variable of a file, lazy and in memory."""
    path = next(path for path in corpus_files() if path.name == FILES[name])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        lazy = xr.open_dataset(path, engine="activestore", cache=False)[NAMES.get(name, "ta")]
    return lazy, lazy.copy().load()


@pytest.fixture(params=FILES)
def monthly_or_daily(request):
    return opened(request.param)


@pytest.fixture(params=[True, False], ids=["flox", "no flox"])
def _flox(request):
    with xr.set_options(use_flox=request.param):
        yield


def assert_same(found, array, compute, method):
    """Assert that `found` is what `compute` gives of the array: in all but the sums, which are those of 64 bits."""
    wanted = compute(array)
    assert_like(found, wanted, method)
    if method in EXACT:
        assert_values(found, wanted, 0, method)
        return
    wide = compute(array.astype("f8"))
    with np.errstate(all="ignore"):
        cast = wide.values.astype(found.dtype)
    sizes = np.abs(array.values.astype("f8"))
    magnitude = float(np.max(sizes, where=np.isfinite(sizes), initial=0))
    off = rounding(method, array.size, magnitude, "f8")
    assert_values(found, cast, 2 * units_in_the_last_place(cast, found.dtype) + off, method)


GROUPS = {
    "month": ("time.month", {}),
    "season": ("time.season", {}),
    "year": ("time.year", {}),
    "day of the year": ("time.dayofyear", {}),
    "seasons": (None, {"time": SeasonGrouper(["DJF", "MAM", "JJA", "SON"])}),
    "two seasons": (None, {"time": SeasonGrouper(["DJFM", "JJAS"])}),
    "years by frequency": (None, {"time": TimeResampler("YS")}),
    "seasons of each year": (None, {"time": SeasonResampler(["DJF", "MAM", "JJA", "SON"])}),
    "seasons of each year, with what is cut off": (None, {"time": SeasonResampler(["DJF", "JJA"], drop_incomplete=False)}),
    "unique": (None, {"level": UniqueGrouper()}),
    "chosen": (None, {"level": UniqueGrouper(labels=[1, 2, 4])}),
    "bins": (None, {"level": BinGrouper([0, 1, 3, 50])}),
}


def with_level(array):
    return array.assign_coords(level=("time", np.arange(array.sizes["time"]) * 7 % 5))


@pytest.mark.usefixtures("_flox")
@pytest.mark.parametrize("name", ["monthly, noleap", "daily, gregorian", "daily, 360_day", "sea surface"])
@pytest.mark.parametrize("group", GROUPS)
def test_groups(name, group):
    lazy, loaded = (with_level(one).isel(time=slice(0, 1000)) for one in opened(name))
    by, groupers = GROUPS[group]
    for method in METHODS if group in ("month", "bins", "chosen", "seasons of each year") else ("mean", "max"):
        found = getattr(lazy.active.groupby(by, **groupers), method)()
        assert_same(found, loaded, lambda one, m=method: getattr(one.groupby(by, **groupers), m)("time"), method)


@pytest.mark.parametrize("dim", ["time", ["time"], ["time", "lat"], ("lon", "time"), ..., None])
@pytest.mark.parametrize("keep_attrs", [None, True, False])
def test_dimensions_and_attributes_of_groups(dim, keep_attrs):
    lazy, loaded = opened("monthly, noleap")
    own, options = "time" if dim is None else dim, {} if keep_attrs is None else {"keep_attrs": keep_attrs}

    def compute(one, method):
        return getattr(one.groupby("time.season"), method)(own, **options)

    # With flox, keep_attrs=False takes the attributes of coordinates too; nowhere else in xarray does it.
    with xr.set_options(use_flox=keep_attrs is not False):
        for method in ("mean", "max", "count", "std"):
            found = getattr(lazy.active.groupby("time.season"), method)(dim, **options)
            assert_same(found, loaded, functools.partial(compute, method=method), method)


def test_groups_without_the_grouped_dimension_are_refused():
    lazy, _ = opened("monthly, noleap")
    with pytest.raises(SelectionError, match="which has to be reduced"):
        lazy.active.groupby("time.season").mean("lat")


@pytest.mark.parametrize(
    "pick",
    [
        lambda v: v.isel(time=slice(7, 200)),
        lambda v: v.isel(time=slice(None, None, -1)),
        lambda v: v.transpose("lon", "time", ...),
        lambda v: v.isel(time=[5, 3, 300, 4, 4, 17], lat=0),
        lambda v: v.sel(time=v.time.dt.month.isin([1, 2, 7])),
        lambda v: v.isel(time=slice(1)),
        lambda v: v.reset_coords(drop=True),
    ],
)
@pytest.mark.parametrize("group", ["time.month", "time.season"])
def test_groups_of_parts(pick, group):
    lazy, loaded = (pick(one) for one in opened("monthly, noleap"))
    for method in ("mean", "min", "count", "sum"):
        found = getattr(lazy.active.groupby(group), method)("time")
        assert_same(found, loaded, lambda one, m=method: getattr(one.groupby(group), m)("time"), method)


def test_groups_by_an_array():
    lazy, loaded = opened("a map")
    for by in (loaded.latitude > 40, xr.DataArray(np.arange(37) // 5, dims="latitude", name="band"), loaded.time.dt.year // 10):
        for method in ("mean", "max", "count"):
            found = getattr(lazy.active.groupby(by), method)()
            assert_same(found, loaded, lambda one, m=method, b=by: getattr(one.groupby(b), m)(b.dims), method)


def test_groups_in_which_a_position_is_twice_are_refused():
    lazy, _ = opened("monthly, noleap")
    for seasons in (["DJF", "JFM"], ["DJFM", "MAMJ"]):
        with pytest.raises(SelectionError):
            lazy.active.groupby(time=SeasonGrouper(seasons))


def test_labels_that_are_missing():
    lazy, loaded = opened("monthly, noleap")
    labels = xr.DataArray(np.where(np.arange(480) % 3, np.arange(480) % 4, np.nan), dims="time", name="label")
    found = lazy.active.groupby(labels).mean()
    assert_same(found, loaded, lambda one: one.groupby(labels).mean("time"), "mean")


def test_groups_that_cannot_be():
    lazy, _ = opened("a map")
    with pytest.raises(SelectionError):
        lazy.active.groupby(xr.DataArray(np.zeros((37, 49)), dims=("latitude", "longitude"), name="region"))
    with pytest.raises(SelectionError):
        lazy.active.groupby(time=UniqueGrouper(), latitude=UniqueGrouper())
    with pytest.raises((ActivestoreError, KeyError, ValueError)):
        lazy.active.groupby("nothing")


@pytest.mark.parametrize("labels", [[2, 0, 7], [7, 0], [7, 8], [1, 2, 0], [0, 0, 2]])
@pytest.mark.parametrize("dtype", ["f8", "f4", "i2", "bool"])
def test_labels_without_a_position(tmp_path, labels, dtype):
    values = (np.arange(12).reshape(6, 2) % 5).astype(dtype)
    array = xr.DataArray(values, {"k": ("t", [2, 0, 0, 2, 1, 1])}, ("t", "y"), "v")
    lazy, loaded = stored(tmp_path / "a.nc", array)
    for method in ("mean", "min", "max", "std", "sum", "count", "any", "all"):
        for ours, theirs in ((lazy.v.active, loaded.v), (lazy.active, loaded)):
            wanted = getattr(theirs.groupby(k=UniqueGrouper(labels=labels)), method)()
            for found in (ours.groupby(k=UniqueGrouper(labels=labels)), ours.groupby({"k": UniqueGrouper(labels=labels)})):
                xr.testing.assert_allclose(getattr(found, method)(), wanted)
                assert getattr(found, method)().k.identical(wanted.k)


def test_labels_without_a_position_that_xarray_refuses_without_flox(tmp_path):
    lazy, loaded = stored(tmp_path / "a.nc", xr.DataArray(np.arange(3.0), {"k": ("t", [2, 0, 0])}, ("t",), "v"))
    with xr.set_options(use_flox=False):
        with pytest.raises(ValueError, match="conflicting sizes"):
            loaded.v.groupby(k=UniqueGrouper(labels=[0, 7])).mean()
        with pytest.raises(SelectionError, match="xarray cannot make these groups"):
            lazy.v.active.groupby(k=UniqueGrouper(labels=[0, 7]))


def test_flox_itself():
    lazy, loaded = opened("monthly, noleap")
    for method in ("mean", "max", "count", "sum"):
        found = getattr(lazy.active.groupby("time.month"), method)()
        wanted = flox.xarray.xarray_reduce(loaded.astype("f8"), loaded.time.dt.month, func=method).transpose(*found.dims)
        np.testing.assert_allclose(found, wanted, rtol=2e-7)


PERIODS = ["YS", "QS-DEC", "5YS", "YE", "MS", "2MS"]


@pytest.mark.usefixtures("_flox")
@pytest.mark.parametrize("name", ["monthly, noleap", "monthly, gregorian", "daily, 360_day", "sea surface"])
@pytest.mark.parametrize("period", PERIODS)
def test_periods(name, period):
    lazy, loaded = (one.isel(time=slice(3, 700)) for one in opened(name))
    for method in METHODS if period == "QS-DEC" else ("mean", "max"):
        found = getattr(lazy.active.resample(time=period), method)()
        assert_same(found, loaded, lambda one, m=method: getattr(one.resample(time=period), m)("time"), method)


@pytest.mark.usefixtures("_flox")
@pytest.mark.parametrize("name", ["monthly, noleap", "monthly, gregorian"])
def test_periods_without_a_value(name):
    kept = np.flatnonzero((np.arange(240) // 7) % 3 == 0)
    lazy, loaded = (one.isel(time=kept) for one in opened(name))
    for period, method in itertools.product(("QS-DEC", "MS", "YS"), METHODS):
        found = getattr(lazy.active.resample(time=period), method)()
        assert_same(found, loaded, lambda one, m=method, p=period: getattr(one.resample(time=p), m)("time"), method)


@pytest.mark.usefixtures("_flox")
@pytest.mark.parametrize("method", ["any", "all", "count", "sum"])
def test_periods_without_a_value_or_a_valid_one(tmp_path, method):
    """With flox, whether any value is true is missing where none is valid, if it is missing where there is none at all."""
    times = np.datetime64("2000-01-15", "ns") + np.arange(24) * np.timedelta64(30, "D")
    values = np.random.default_rng(3).integers(-1, 2, (4, 24, 6)).astype("f4")
    values.reshape(-1)[::3] = np.nan
    values[0, :, 0] = np.nan
    array = xr.DataArray(values, coords={"time": times}, dims=("lat", "time", "lon"), name="v")
    array.to_netcdf(tmp_path / "a.nc", engine="h5netcdf")
    lazy = xr.open_dataset(tmp_path / "a.nc", engine="activestore").v
    for period, dim in itertools.product(("7D", "MS", "YS"), ("time", ...)):
        found = getattr(lazy.active.resample(time=period), method)(dim)
        xr.testing.assert_identical(found, getattr(array.resample(time=period), method)(dim))


def test_groups_that_are_all_empty(tmp_path):
    """Of a hundred days, no season is complete."""
    days = xr.date_range("2001-01-01", periods=100)
    array = xr.DataArray(np.arange(300.0).reshape(100, 3), coords={"time": days}, dims=("time", "x"), name="v")
    array.to_netcdf(tmp_path / "a.nc", engine="h5netcdf")
    found = xr.open_dataset(tmp_path / "a.nc", engine="activestore").v
    seasons = SeasonResampler(["JJAS", "DJF"])
    xr.testing.assert_identical(found.active.resample(time=seasons).mean(), found.load().resample(time=seasons).mean())


PERIOD_OPTIONS = (
    {"closed": "right"},
    {"label": "right"},
    {"closed": "right", "label": "right"},
    {"origin": "end"},
    {"offset": "36h"},
    {"restore_coord_dims": True},
)


@pytest.mark.parametrize("options", PERIOD_OPTIONS)
def test_options_of_periods_as_keywords(tmp_path, options):
    times = xr.date_range("2000-01-01T01", periods=72, freq="h")
    lazy, loaded = stored(tmp_path / "a.nc", xr.DataArray(np.arange(72.0), {"time": times}, ("time",), "v"))
    for period in ("D", "7h", "MS"):
        for ours, theirs in ((lazy.v.active, loaded.v), (lazy.active, loaded)):
            wanted = theirs.resample(time=period, **options).mean()
            xr.testing.assert_identical(ours.resample(time=period, **options).mean(), wanted)
            xr.testing.assert_identical(ours.resample({"time": period}, **options).mean(), wanted)
            xr.testing.assert_identical(ours.resample(time=period, options=options).mean(), wanted)
    with pytest.raises(SelectionError, match=r"resample one of the dimensions .* not \['time', 'clozed'\]"):
        lazy.v.active.resample(time="D", clozed="right")
    with pytest.raises(SelectionError, match="resample one of the dimensions"):
        lazy.v.active.resample(closed="right")


def test_periods_along_a_dimension_with_the_name_of_an_option(tmp_path):
    times = xr.date_range("2000-01-01", periods=9)
    lazy, loaded = stored(tmp_path / "a.nc", xr.DataArray(np.arange(9.0), {"label": times}, ("label",), "v"))
    xr.testing.assert_identical(lazy.v.active.resample(label="4D").mean(), loaded.v.resample({"label": "4D"}).mean())


@pytest.mark.parametrize("options", [{"closed": "right"}, {"label": "right"}, {"closed": "right", "label": "right"}])
def test_options_of_periods(options):
    lazy, loaded = (one.isel(time=slice(0, 400)) for one in opened("daily, gregorian"))
    for period in ("MS", "ME", "10D", "YS"):
        found = lazy.active.resample(time=period, options=options).mean()
        assert_same(found, loaded, lambda one, p=period: one.resample(time=p, **options).mean("time"), "mean")


@pytest.mark.parametrize("skipna", [None, True, False])
@pytest.mark.parametrize("min_count", [None, 1, 10])
def test_missing_values_in_groups(skipna, min_count):
    lazy, loaded = opened("sea surface")
    for use_flox in (True, False):
        with xr.set_options(use_flox=use_flox):
            for method in ("mean", "min", "std"):
                found = getattr(lazy.active.groupby("time.month"), method)(skipna=skipna)
                assert_same(
                    found, loaded, lambda one, m=method: getattr(one.groupby("time.month"), m)("time", skipna=skipna), method
                )
            options = {"skipna": skipna, "min_count": min_count}
            if skipna is False and min_count is not None:
                continue
            found = lazy.active.groupby("time.month").sum(**options)
            assert_same(found, loaded, lambda one, o=options: one.groupby("time.month").sum("time", **o), "sum")


WINDOWS = [
    ({"latitude": 4, "longitude": 7}, {"boundary": "trim"}),
    ({"latitude": 4, "longitude": 7}, {"boundary": "pad"}),
    ({"latitude": 4, "longitude": 7}, {"boundary": {"latitude": "pad", "longitude": "exact"}}),
    ({"latitude": 4, "longitude": 10}, {"boundary": "trim", "side": "right"}),
    ({"latitude": 4, "longitude": 10}, {"boundary": "pad", "side": "right"}),
    ({"latitude": 4, "longitude": 10}, {"boundary": "trim", "side": {"latitude": "left", "longitude": "right"}}),
    ({"longitude": 7}, {}),
    ({"longitude": 49, "latitude": 37, "time": 240}, {}),
    ({"time": 11}, {"boundary": "trim"}),
    ({"time": 12, "longitude": 7}, {"boundary": "exact", "coord_func": "min"}),
    ({"time": 12, "longitude": 7}, {"coord_func": {"time": "min", "longitude": "max"}}),
    ({"latitude": 1}, {}),
    ({"latitude": 50}, {"boundary": "pad"}),
    ({"latitude": 50}, {"boundary": "trim"}),
]


@pytest.mark.parametrize(("windows", "options"), WINDOWS)
def test_windows(windows, options):
    lazy, loaded = opened("a map")
    for method in METHODS:
        try:
            wanted = getattr(loaded.coarsen(windows, **options), method)()
        except ValueError:
            with pytest.raises((ActivestoreError, ValueError)):
                getattr(lazy.active.coarsen(windows, **options), method)()
            continue
        assert wanted.name == loaded.name
        found = getattr(lazy.active.coarsen(windows, **options), method)()
        assert_same(found, loaded, lambda one, m=method: getattr(one.coarsen(windows, **options), m)(), method)


def test_windows_by_keywords_of_missing_values_and_of_parts():
    lazy, loaded = opened("sea surface")
    for pick in (lambda v: v, lambda v: v[::-1, 3:15], lambda v: v.T, lambda v: v[4]):
        for method in ("mean", "max", "count", "sum"):
            found = getattr(pick(lazy).active.coarsen(latitude=3, longitude=8, boundary="trim"), method)()
            compute = lambda one, m=method, p=pick: getattr(p(one).coarsen(latitude=3, longitude=8, boundary="trim"), m)()  # noqa: E731
            wanted = compute(loaded)
            assert_like(found, wanted)
            np.testing.assert_allclose(found, compute(loaded.astype("f8")), rtol=2e-7, atol=0)


def test_windows_that_do_not_fit():
    lazy, _ = opened("a map")
    with pytest.raises(SelectionError, match="boundary='trim'"):
        lazy.active.coarsen(latitude=4).mean()
    for windows in ({"nothing": 2}, {"latitude": 0}, {"latitude": 2.5}, {"latitude": True}):
        with pytest.raises(SelectionError, match="coarsen the dimensions"):
            lazy.active.coarsen(windows).mean()


def weights_of(array, kind):
    rng = np.random.default_rng(0)
    latitude, longitude, time = "latitude", "longitude", "time"
    if kind == "latitudes":
        return np.cos(np.deg2rad(array[latitude]))
    if kind == "areas":
        return xr.DataArray(rng.random((array.sizes[latitude], array.sizes[longitude])), dims=(latitude, longitude))
    if kind == "areas, transposed, zeros":
        values = rng.integers(0, 3, (array.sizes[longitude], array.sizes[latitude]))
        return xr.DataArray(values, dims=(longitude, latitude))
    if kind == "days":
        return array[time].dt.days_in_month
    if kind == "zeros":
        return xr.zeros_like(array[latitude])
    return xr.DataArray(rng.random(array.shape), dims=array.dims)


@pytest.mark.parametrize("kind", ["latitudes", "areas", "areas, transposed, zeros", "days", "zeros", "all"])
@pytest.mark.parametrize("name", ["a map", "sea surface"])
def test_weights(name, kind):
    lazy, loaded = (one.isel(time=slice(0, 60)) for one in opened(name))
    weights = weights_of(loaded, kind)
    dims = [None, "time", "latitude", ["latitude", "longitude"], list(loaded.dims)]
    for dim, method in itertools.product(dims, ("mean", "sum", "std", "var", "sum_of_weights", "sum_of_squares")):
        for options in ({}, {"keep_attrs": True}, *([{"skipna": False}] if method == "mean" else [])):
            found = getattr(lazy.active.weighted(weights), method)(dim, **options)
            assert_weighted(found, loaded, weights, method, dim, options)


def assert_weighted(found, loaded, weights, method, dim, options):
    compute = lambda one: getattr(one.weighted(weights), method)(dim, **options)  # noqa: E731
    wanted = compute(loaded)
    what = f"{method} {dim} {options}"
    assert_like(found, wanted, what)
    wide = getattr(loaded.astype("f8").weighted(weights.astype("f8")), method)(dim, **options).values
    size = float(np.nanmax(np.abs(loaded.values.astype("f8"))))
    # Relative to what is added up: the weights of all values, none of which is negative.
    total = float((weights * xr.ones_like(loaded, dtype="f8")).sum())
    scale = {"mean": size, "std": size, "var": size**2, "sum": size * total, "sum_of_weights": total}
    scale["sum_of_squares"] = size**2 * total
    # A deviation is the root of a variance, whose noise is 1e-12 of the magnitude's square.
    off = (1e-6 if method == "std" else 1e-12) * scale[method] if wanted.dtype == "f8" else 0
    np.testing.assert_array_equal(np.isnan(found), np.isnan(wide), what)
    ulps = 4 * units_in_the_last_place(wide, found.dtype)
    if method in ("std", "var"):
        close = np.isclose(found, wide, rtol=1e-5, atol=1e-6 * scale[method], equal_nan=True)
        assert close.all(), what
    else:
        assert_values(found, wide.astype(found.dtype), ulps + off + 1e-13 * scale[method], what)


def test_weights_that_are_refused():
    lazy, loaded = opened("a map")
    latitude = loaded.latitude
    for wrong, message in (
        (latitude.where(latitude > 40), "cannot be missing"),
        (latitude[:5], "coordinates|lengths"),
        (latitude.assign_coords(latitude=latitude.values + 1), "coordinates"),
        (xr.DataArray([1, 2], dims="other"), "the data have"),
        (np.ones(37), "weights are a DataArray"),
        (latitude.where(latitude > 40, np.inf), "cannot be infinite"),
    ):
        with pytest.raises(SelectionError, match=message):
            lazy.active.weighted(wrong)


INTEGERS = {
    "i1": np.arange(-12, 12, dtype="i1").reshape(3, 2, 4),
    "i2": np.arange(24, dtype="i2").reshape(3, 2, 4) + 2**14,
    "u1": np.arange(24, dtype="u1").reshape(3, 2, 4),
    "i4": np.arange(24, dtype="i4").reshape(3, 2, 4) + 2**25,
    "i8": np.arange(24, dtype="i8").reshape(3, 2, 4) + 2**53 + 1,
    "u8": np.arange(24, dtype="u8").reshape(3, 2, 4) + 2**61,
}


@pytest.mark.parametrize("weight", [[True, False, True], [3, 0, -3], np.array([1, 0, 2], "i1"), [0.5, 1.0, 0.25]], ids=str)
@pytest.mark.parametrize("stored", INTEGERS)
def test_weighted_integers(tmp_path, stored, weight):
    """They are counted exactly, or refused, where xarray counts in their own type and wraps."""
    values = INTEGERS[stored]
    array = xr.DataArray(values, dims=("x", "y", "z"), name="v")
    array.to_netcdf(tmp_path / "a.nc", engine="h5netcdf")
    lazy = xr.open_dataset(tmp_path / "a.nc", engine="activestore", cache=False).v
    weights = xr.DataArray(weight, dims="x")
    for dim in ("x", ["x", "z"], "z"):
        axes = tuple("xyz".index(one) for one in dim)
        exact = weights.values.astype(object).reshape(3, 1, 1) * values.astype(object)
        total = exact.sum(axes)
        dtype = array.weighted(weights).sum(dim).dtype
        least, most = (-np.inf, np.inf) if dtype.kind == "f" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
        if not (np.all(total >= least) and np.all(total <= most)):
            with pytest.raises(SumOverflowError, match="give weights that are floats"):
                lazy.active.weighted(weights).sum(dim)
        else:
            found = lazy.active.weighted(weights).sum(dim)
            assert found.dtype == dtype
            off = 0 if dtype.kind in "iu" else 1e-14
            assert np.all(np.abs(found.values.astype(object) - total) <= off * np.abs(exact).sum(axes))
        of_weights = np.broadcast_to(weights.values.astype("f8").reshape(3, 1, 1), values.shape).sum(axes)
        if np.all(of_weights != 0):
            found = lazy.active.weighted(weights).mean(dim)
            np.testing.assert_allclose(
                found.values, total.astype("f8") / of_weights, rtol=float(np.finfo(found.dtype).eps) * 16
            )


def test_weighted_integers_at_the_limit_of_their_type(tmp_path):
    for dtype in ("i1", "i4", "u2", "u4"):
        most = np.iinfo(dtype).max
        array = xr.DataArray(np.array([[most - 2, 1], [2, 0]], dtype), dims=("x", "y"), name="v")
        array.to_netcdf(tmp_path / f"{dtype}.nc", engine="h5netcdf")
        lazy = xr.open_dataset(tmp_path / f"{dtype}.nc", engine="activestore", cache=False).v
        assert lazy.active.weighted(xr.DataArray([True, True], dims="x")).sum("x").values.tolist() == [most, 1]
        with pytest.raises(SumOverflowError, match="does not fit into"):
            lazy.active.weighted(xr.DataArray(np.array([1, 2], dtype), dims="x")).sum("x")


def test_coordinates_of_weights(tmp_path):
    coords = {"lat": np.arange(6.0), "height": 2.0, "zone": ("lat", np.arange(6) % 2)}
    array = xr.DataArray(np.arange(18.0).reshape(6, 3), coords, ("lat", "t"), name="v")
    array.to_netcdf(tmp_path / "a.nc", engine="h5netcdf")
    lazy = xr.open_dataset(tmp_path / "a.nc", engine="activestore", cache=False)
    for coords in (
        {"height": 9.0, "new": 7},
        {"height": 2.0, "lat": array.lat, "zone": ("lat", np.arange(6)), "kind": ("lat", np.arange(6))},
        {"zone": 3, "lat": array.lat},
    ):
        weights = xr.DataArray(np.arange(6.0), coords, "lat")
        for method, dim in itertools.product(("mean", "std", "sum_of_weights"), (["lat"], "t", None, [])):
            wanted = getattr(array.weighted(weights), method)(dim)
            found = getattr(lazy.v.active.weighted(weights), method)(dim)
            assert_like(found, wanted)
            assert_values(found, wanted, 1e-12)
            xr.testing.assert_allclose(getattr(lazy.active.weighted(weights), method)(dim).v, wanted)


THRESHOLDS = {"> 280": lambda v: v > 280, ">= 250 and < 285": lambda v: (v >= 250) & (v < 285), "> 1000": lambda v: v > 1000}


@pytest.mark.parametrize("condition", THRESHOLDS)
@pytest.mark.parametrize("name", ["a map", "sea surface", "daily, gregorian"])
def test_thresholds(name, condition):
    lazy, loaded = opened(name)
    wanted = loaded.where(THRESHOLDS[condition](loaded))
    near = lazy.active.where(condition)
    north = "latitude" if "latitude" in loaded.dims else "lat"
    for method in ("count", "mean", "max", "sum"):
        for dim in (None, "time"):
            assert_same(getattr(near, method)(dim), wanted, lambda one, m=method, d=dim: getattr(one, m)(d), method)
        found = getattr(near.groupby("time.season"), method)()
        assert_same(found, wanted, lambda one, m=method: getattr(one.groupby("time.season"), m)("time"), method)
        found = getattr(near.resample(time="5YS"), method)()
        assert_same(found, wanted, lambda one, m=method: getattr(one.resample(time="5YS"), m)("time"), method)
        found = getattr(near.coarsen({north: 2}, boundary="trim"), method)()
        assert_same(found, wanted, lambda one, m=method: getattr(one.coarsen({north: 2}, boundary="trim"), m)(), method)


def test_thresholds_of_weights():
    lazy, loaded = opened("a map")
    weights = np.cos(np.deg2rad(loaded.latitude))
    wanted = loaded.where(loaded > 280)
    for dim in (None, "time", ["latitude", "longitude"]):
        for method in ("mean", "sum", "sum_of_weights"):
            found = getattr(lazy.active.where("> 280").weighted(weights), method)(dim)
            assert_weighted(found, wanted, weights, method, dim, {})


def test_a_climatology_of_integers(tmp_path):
    path = tmp_path / "a.nc"
    times = xr.date_range("2000-01-01", periods=400, freq="D")
    made = xr.Dataset({"v": (("time", "x"), np.random.default_rng(0).integers(-9, 9, (400, 3)).astype("i2"))}, {"time": times})
    made.to_netcdf(path, engine="h5netcdf", encoding={"v": {"chunksizes": (50, 2)}})
    lazy = xr.open_dataset(path, engine="activestore", cache=False).v
    for use_flox in (True, False):
        with xr.set_options(use_flox=use_flox):
            for method in METHODS:
                found = getattr(lazy.active.groupby("time.month"), method)()
                assert_same(found, made.v, lambda one, m=method: getattr(one.groupby("time.month"), m)("time"), method)
                gaps = np.r_[0:20, 100:130]
                found = getattr(lazy[gaps].active.resample(time="MS"), method)()
                assert_same(found, made.v[gaps], lambda one, m=method: getattr(one.resample(time="MS"), m)("time"), method)
                found = getattr(lazy.active.coarsen(time=30, boundary="pad"), method)()
                assert_same(found, made.v, lambda one, m=method: getattr(one.coarsen(time=30, boundary="pad"), m)(), method)


def stored(path, array):
    """Return the array, written to a file: lazy, and in memory."""
    array.to_netcdf(path, engine="h5netcdf")
    with xr.open_dataset(path, engine="h5netcdf") as theirs:
        loaded = theirs.load()
    return xr.open_dataset(path, engine="activestore", cache=False), loaded


@pytest.mark.parametrize("skipna", [None, True, False])
def test_weights_of_infinite_values(tmp_path, skipna):
    values = np.arange(60.0).reshape(3, 4, 5)
    values[0, 1, 2], values[1, 2, 3], values[1, 2, 4], values[2, 0] = np.inf, -np.inf, np.nan, np.inf
    lazy, loaded = stored(tmp_path / "a.nc", xr.DataArray(values, dims=("a", "b", "c"), name="v"))
    for weights in (
        xr.DataArray([1.0, 2, 3], dims="a"),
        xr.DataArray([1.0, 0, 3, 1], dims="b"),
        xr.DataArray([0.0, 1, 0], dims="a"),
    ):
        for method, dim in itertools.product(("mean", "sum", "var", "std", "sum_of_squares"), ("a", ["b", "c"], None, ["c"])):
            wanted = getattr(loaded.v.weighted(weights), method)(dim, skipna=skipna)
            found = getattr(lazy.v.active.weighted(weights), method)(dim, skipna=skipna)
            assert_like(found, wanted)
            np.testing.assert_allclose(found.values, wanted.values, rtol=1e-12, err_msg=f"{method} {dim}")


def test_weights_stay_as_they_are(tmp_path):
    lazy, loaded = stored(tmp_path / "a.nc", xr.DataArray(np.arange(6.0).reshape(2, 3), dims=("a", "b"), name="v"))
    weights = xr.DataArray([1.0, 2.0], dims="a").chunk()
    xr.testing.assert_allclose(lazy.v.active.weighted(weights).mean(), loaded.v.weighted(weights.compute()).mean())
    assert weights.chunks == ((2,),)
    for wrong in ([1j, 2.0], np.array([1, 2], object), ["a", "b"]):
        with pytest.raises(SelectionError, match="weights are numbers"):
            lazy.v.active.weighted(xr.DataArray(wrong, dims="a"))


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("dtype", ["f4", "i2"])
def test_what_pads_windows_is_true(tmp_path, dtype, side):
    lazy, loaded = stored(tmp_path / "a.nc", xr.DataArray(np.zeros((3, 5), dtype), dims=("y", "x"), name="v"))
    for method, windows in itertools.product(("any", "all", "count", "sum", "max"), ({"x": 2}, {"x": 2, "y": 2}, {"x": 4})):
        wanted = getattr(loaded.coarsen(windows, boundary="pad", side=side), method)()
        xr.testing.assert_identical(getattr(lazy.v.active.coarsen(windows, boundary="pad", side=side), method)(), wanted.v)
        xr.testing.assert_identical(getattr(lazy.active.coarsen(windows, boundary="pad", side=side), method)(), wanted)
    with pytest.raises(SelectionError, match="name the dimensions to coarsen"):
        lazy.v.active.coarsen({})


def test_coordinates_of_windows(tmp_path):
    coords = {"lat": (("y", "x"), np.arange(24.0).reshape(4, 6)), "y": np.arange(4.0), "area": ("x", np.arange(6.0)), "k": 2}
    array = xr.DataArray(np.arange(24.0).reshape(4, 6), coords, ("y", "x"), name="v")
    lazy, loaded = stored(tmp_path / "a.nc", array.to_dataset())
    for windows in ({"y": 2}, {"x": 3}, {"y": 2, "x": 2}):
        for options in ({}, {"coord_func": "max"}, {"coord_func": {"lat": "min"}}):
            wanted = loaded.coarsen(windows, **options).mean()
            xr.testing.assert_identical(lazy.v.active.coarsen(windows, **options).mean(), wanted.v)
            xr.testing.assert_identical(lazy.active.coarsen(windows, **options).mean(), wanted)


@pytest.mark.usefixtures("_flox")
@pytest.mark.parametrize("skipna", [None, True, False])
@pytest.mark.parametrize("dtype", ["f8", "i4"])
def test_groups_with_fewer_values_than_a_sum_needs(tmp_path, dtype, skipna):
    """With flox, xarray counts the values of a group even where it looks for no missing ones."""
    values = np.arange(30).reshape(6, 5).astype(dtype)
    if dtype == "f8":
        values[1:3, 1], values[5] = np.nan, np.nan
    array = xr.DataArray(values, {"t": [0, 1, 1, 2, 2, 2]}, ("t", "x"), name="v")
    lazy, loaded = stored(tmp_path / "a.nc", array)
    for least, dim in itertools.product((0, 1, 2, 3, 8), ("t", ["t", "x"])):
        wanted = loaded.v.groupby("t").sum(dim, skipna=skipna, min_count=least)
        xr.testing.assert_identical(lazy.v.active.groupby("t").sum(dim, skipna=skipna, min_count=least), wanted)


def test_coordinates_without_an_index(tmp_path):
    """xarray takes each position for a group of its own there."""
    coords = {"x": [0, 1, 0, 3, 1], "y": np.arange(4)}
    array = xr.DataArray(np.arange(20.0).reshape(4, 5), coords, ("y", "x"), name="v")
    lazy, loaded = stored(tmp_path / "a.nc", array)
    lazy, loaded = lazy.drop_indexes("x"), loaded.drop_indexes("x")
    for compute in (
        lambda one: one.groupby("x").max(),
        lambda one: one.coarsen(y=2).mean(),
        lambda one: one.coarsen(x=2, boundary="trim").mean(),
        lambda one: one.groupby("y").sum(),
    ):
        # Windows of an array, in xarray, bring an index back that was dropped.
        xr.testing.assert_equal(compute(lazy.v.active), compute(loaded.v))
        xr.testing.assert_identical(compute(lazy.active), compute(loaded))


@pytest.mark.parametrize("options", [{"side": "zz"}, {"boundary": "zz"}, {"side": {"x": "middle"}}], ids=str)
def test_windows_that_are_refused(tmp_path, options):
    lazy, _ = stored(tmp_path / "a.nc", xr.DataArray(np.arange(5.0), dims="x", name="v"))
    for door in (lazy.v.active, lazy.active):
        with pytest.raises(SelectionError, match=r"coarsen: (side|boundary) is one of '.*', not '(zz|middle)'"):
            door.coarsen(x=2, **{"boundary": "trim", **options})


@pytest.mark.parametrize(("mean", "std"), [(1e9, 1e-3), (273.15, 1e-6), (0, 1)])
@pytest.mark.parametrize("dim", [None, "x", "y"])
def test_weighted_variances_of_small_chunks_far_from_zero(mean, std, dim, tmp_path):
    values = mean + np.random.default_rng(0).standard_normal((12, 500)) * std
    encoding = {"v": {"chunksizes": (2, 7)}}
    xr.Dataset({"v": (("y", "x"), values)}).to_netcdf(tmp_path / "a.nc", engine="h5netcdf", encoding=encoding)
    lazy = xr.open_dataset(tmp_path / "a.nc", engine="activestore", cache=False).v
    weights = np.random.default_rng(1).uniform(0.5, 2, 12)
    wide, share = values.astype(np.longdouble) - values[0, 0], weights.astype(np.longdouble)[:, None]
    axis = {None: (0, 1), "y": 0, "x": 1}[dim]
    total = np.broadcast_to(share, values.shape).sum(axis, keepdims=True)
    off = wide - (wide * share).sum(axis, keepdims=True) / total
    wanted = ((off**2 * share).sum(axis, keepdims=True) / total).squeeze().astype("f8")
    found = lazy.active.weighted(xr.DataArray(weights, dims="y"))
    np.testing.assert_allclose(found.var(dim), wanted, rtol=1e-13)
    np.testing.assert_allclose(found.std(dim), np.sqrt(wanted), rtol=1e-13)
    everywhere = lazy.active.weighted(xr.DataArray(np.broadcast_to(weights[:, None], values.shape), dims=("y", "x")))
    np.testing.assert_allclose(everywhere.var(dim), wanted, rtol=1e-13)


def test_weighted_sums_of_integers_that_leave_64_bits_on_their_way(tmp_path):
    most = 2**63 - 1
    numbers = np.array([[most, 1, 1], [most, 0, 0], [-most, -1, -5]])
    encoding = {"v": {"chunksizes": (1, 1)}}
    xr.Dataset({"v": (("y", "x"), numbers)}).to_netcdf(tmp_path / "a.nc", engine="h5netcdf", encoding=encoding)
    lazy = xr.open_dataset(tmp_path / "a.nc", engine="activestore", cache=False).v
    assert lazy.active.weighted(xr.DataArray([0, 1, 0], dims="y")).sum() == most
    assert lazy.active.weighted(xr.DataArray([1, 0, 1], dims="y")).sum() == -4
    assert lazy.active.weighted(xr.DataArray([1, -1, -1], dims="y")).sum("y").values.tolist() == [most, 2, 6]
    assert lazy.active.weighted(xr.DataArray([1.0, 1.0, 0.0], dims="y")).mean() == pytest.approx(most / 3)
    with pytest.raises(SumOverflowError, match="does not fit into"):
        lazy.active.weighted(xr.DataArray([1, 1, 0], dims="y")).sum()
    with pytest.raises(SumOverflowError, match="does not fit into"):
        lazy.active.weighted(xr.DataArray([1, 0, 0], dims="y")).sum()
