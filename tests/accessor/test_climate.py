"""Climate reductions of real monthly and daily files, beside xarray's own, with flox and without."""

import warnings
from pathlib import Path

import flox.xarray
import numpy as np
import pytest
import xarray as xr

from tests.corpus import corpus_files, file_id

METHODS = ("count", "sum", "mean", "min", "max", "std", "var", "any", "all")
_MOST = 3_000_000
# xarray and flox warn of what they meet in real files; 1e36 overflows where they work in 32 bits.
pytestmark = pytest.mark.filterwarnings(
    "ignore::xarray.SerializationWarning", "ignore::UserWarning", "ignore::FutureWarning", "ignore::RuntimeWarning"
)


def chosen():
    """Return one file of each kind: monthly and daily, of several calendars, with dimensions of several names."""
    found: dict[tuple[str, ...], Path] = {}
    for path in corpus_files():
        if path.read_bytes()[:3] == b"CDF":
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with xr.open_dataset(path, engine="netcdf4", decode_times=False) as dataset:
                name = variable_of(dataset)
                if name is not None and "calendar" in dataset["time"].attrs:
                    kind = (str(dataset["time"].attrs["calendar"]), *map(str, dataset[name].dims), frequency(dataset))
                    found.setdefault(kind, path)
    return tuple(found.values())


def variable_of(dataset):
    """Return the name of a variable along time, of a size that xarray reduces soon."""
    for name, array in dataset.data_vars.items():
        if "time" in array.dims and array.ndim >= 3 and array.sizes["time"] >= 24 and array.size <= _MOST:
            return name
    return None


def frequency(dataset):
    time = dataset["time"].values
    return "daily" if abs(time[1] - time[0]) < 2 else "monthly"


CHOSEN = chosen()


def same(ours, theirs, what):
    """Assert that two arrays agree in all; in the values but for what 32-bit sums lose."""
    assert (ours.dims, ours.dtype, ours.name, ours.attrs) == (theirs.dims, theirs.dtype, theirs.name, theirs.attrs), what
    assert set(ours.coords) == set(theirs.coords), what
    for name in theirs.coords:
        xr.testing.assert_identical(ours[name].variable, theirs[name].variable)
    exact = theirs.dtype.kind in "iub"
    scale = 0 if exact or not np.isfinite(theirs.values).any() else float(np.nanmax(np.abs(theirs.values)))
    np.testing.assert_allclose(ours.values, theirs.values, rtol=0 if exact else 1e-6, atol=1e-6 * scale, err_msg=what)


@pytest.fixture(scope="module", params=CHOSEN, ids=file_id)
def pair(request):
    """Return a variable as our engine opens it, and the same in memory, in 64 bits: there xarray's sums are exact enough."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ours = xr.open_dataset(request.param, engine="activestore")
        with xr.open_dataset(request.param, engine="netcdf4") as theirs:
            name = variable_of(theirs)
            return ours[name], theirs[name].load()


def reduced(array, method, *arguments):
    """Return what xarray makes of an array in memory, summed in 64 bits and given back in the type that it would have."""
    wide = array.copy(data=array.values.astype("f8")) if array.dtype == np.float32 else array

    def of(group):
        return getattr(group(wide), method)(*arguments).astype(getattr(group(array), method)(*arguments).dtype)

    return of


def test_there_are_daily_and_monthly_files_and_several_calendars():
    kinds = set()
    for path in CHOSEN:
        with xr.open_dataset(path, engine="netcdf4", decode_times=False) as dataset:
            kinds |= {frequency(dataset), str(dataset["time"].attrs["calendar"])}
    assert {"daily", "monthly"} <= kinds
    assert len(kinds) >= 5


@pytest.mark.parametrize("use_flox", [True, False])
@pytest.mark.parametrize("group", ["time.month", "time.season", "time.year"])
def test_groups(pair, group, use_flox):
    ours, theirs = pair
    with xr.set_options(use_flox=use_flox), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for method in METHODS:
            got = getattr(ours.active.groupby(group), method)("time")
            same(got, reduced(theirs, method, "time")(lambda one: one.groupby(group)), f"{method} by {group}")
        got = ours.active.groupby(group).mean(...)
        same(got, reduced(theirs, "mean", ...)(lambda one: one.groupby(group)), f"mean of all by {group}")


def test_months_as_flox_alone_has_them(pair):
    ours, theirs = pair
    wide = theirs.astype("f8")
    for method in ("mean", "max", "count"):
        wanted = flox.xarray.xarray_reduce(wide, wide.time.dt.month, func=f"nan{method}" if method != "count" else method)
        got = getattr(ours.active.groupby("time.month"), method)("time")
        np.testing.assert_allclose(got.transpose(*wanted.dims).values, wanted.values, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("period", ["1YS", "QS-DEC", "5YS"])
def test_periods(pair, period):
    ours, theirs = pair
    # A hole of a year: periods without values.
    keep = np.r_[0:6, 18 : ours.sizes["time"]]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for method in ("count", "sum", "mean", "min", "std"):
            got = getattr(ours.isel(time=keep).active.resample(time=period), method)("time")
            wanted = reduced(theirs.isel(time=keep), method, "time")(lambda one: one.resample(time=period))
            same(got, wanted, f"{method} of {period}")


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("boundary", ["trim", "pad"])
def test_windows(pair, boundary, side):
    ours, theirs = pair
    windows = {theirs.dims[-1]: 4, theirs.dims[-2]: 3}
    if boundary == "trim":
        # xarray itself cannot pad the times of other calendars.
        windows["time"] = 7
    options = {"boundary": boundary, "side": side}
    for method in ("count", "sum", "mean", "max", "std"):
        got = getattr(ours.active.coarsen(windows, **options), method)()
        same(got, reduced(theirs, method)(lambda one: one.coarsen(windows, **options)), f"{method}, {boundary}, {side}")


def test_weights(pair):
    ours, theirs = pair
    random = np.random.default_rng(1)
    for dims in (theirs.dims[-2:-1], theirs.dims[-2:], ("time",)):
        shape = tuple(theirs.sizes[dim] for dim in dims)
        weights = xr.DataArray(random.uniform(0, 1, shape) * (random.random(shape) < 0.8), dims=dims)
        for method in ("mean", "sum", "std", "var", "sum_of_weights"):
            for over in (list(theirs.dims[-2:]), "time", None):
                got = getattr(ours.active.weighted(weights), method)(over)
                same(got, getattr(theirs.weighted(weights), method)(over), f"{method} over {over}, weights along {dims}")


def test_thresholds(pair):
    ours, theirs = pair
    threshold = float(theirs.quantile(0.9))
    hot = theirs.where(theirs > threshold)
    for method in ("count", "mean", "max"):
        found = ours.active.where(f"> {threshold!r}")
        same(getattr(found, method)("time"), reduced(hot, method, "time")(lambda one: one), method)
        same(
            getattr(found.groupby("time.season"), method)("time"),
            reduced(hot, method, "time")(lambda one: one.groupby("time.season")),
            f"{method} by season",
        )
