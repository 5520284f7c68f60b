"""The accessor beside xarray: every decoding, every option, all kinds of coordinates, whole datasets."""

import contextlib
import itertools

import h5py
import netCDF4
import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

import activestore.accessor  # noqa: F401  # registers .active for files that other engines opened
from activestore import Active
from activestore.errors import (
    FallbackWarning,
    NotNumericError,
    ReductionError,
    SelectionError,
    SumOverflowError,
    UntraceableError,
)
from tests.accessor.beside_xarray import Reference, assert_like, assert_reduction, assert_values

# xarray warns of attributes, and NumPy of sums beyond a type; with any engine.
pytestmark = pytest.mark.filterwarnings(
    "ignore::xarray.SerializationWarning",
    "ignore::RuntimeWarning",
    "ignore:The .phony_dims",
    "ignore:.*netCDF's default fill value:UserWarning",
)

TAS = "docs/tas.nc"
ENGINES = ("activestore", "h5netcdf", "netcdf4")
METHODS = ("count", "sum", "mean", "min", "max", "std", "var", "any", "all")
SHAPE, DIMS, CHUNKS = (4, 3, 5), ("t", "y", "x"), (3, 2, 3)


def f4(*numbers):
    return np.array(numbers, "f4") if len(numbers) > 1 else np.float32(numbers[0])


def f8(*numbers):
    return np.array(numbers, "f8") if len(numbers) > 1 else np.float64(numbers[0])


def numbers(dtype, special=(), seed=0):
    """Return stored numbers of a type, among them its limits and those that are `special`."""
    dtype, rng = np.dtype(dtype), np.random.default_rng(seed)
    if dtype.kind == "f":
        made = rng.normal(0, 100, SHAPE).astype(dtype)
        made[0, 0, :2] = np.nan, 0
    else:
        info = np.iinfo(dtype)
        limit = min(int(info.max), 1000) // 2
        made = rng.integers(0 if dtype.kind == "u" else -limit, limit, SHAPE).astype(dtype)
        made[0, 0, :2] = (info.min, info.max) if dtype.itemsize < 8 else (info.min // 4, info.max // 4)
    for one in np.ravel(np.array(special, dtype)):
        made[rng.random(SHAPE) < 0.2] = one
        made[2, 1] = one
    return made


def write(path, stored, attrs, *, fill=None, group=None, form="NETCDF4"):
    """Write stored numbers as they are, and attributes of any type."""
    with netCDF4.Dataset(path, "w", format=form) as file:
        place = file if group is None else file.createGroup(group)
        for dim, length in zip(DIMS, SHAPE, strict=True):
            place.createDimension(dim, length)
            if dim != "x":
                place.createVariable(dim, "f8", (dim,))[:] = np.arange(length) * 10.0
        endian = {">": "big", "<": "little"}.get(stored.dtype.str[0], "native")
        layout = {"chunksizes": CHUNKS, "endian": endian} if form == "NETCDF4" else {}
        made = place.createVariable("v", stored.dtype, DIMS, fill_value=fill, **layout)
        made.set_auto_maskandscale(False)
        made[:] = stored
        made.setncatts({"units": "K", "long_name": "a variable"} | attrs)
    return path


@contextlib.contextmanager
def opened(path, engine="activestore", *, own="h5netcdf", **options):
    """Open a file twice: lazily, and in memory with an engine of xarray's own."""
    with xr.open_dataset(path, engine=own, **options) as theirs, xr.open_dataset(path, engine=engine, **options) as ds:
        yield ds, theirs.load()


def subsets(dims):
    return [None, *(list(some) for n in range(1, len(dims) + 1) for some in itertools.combinations(dims, n))]


def assert_reductions(lazy, loaded, methods=METHODS, dims=None):
    reference = Reference(loaded)
    for dim in subsets(loaded.dims) if dims is None else dims:
        for method in methods:
            reference.assert_reduction(getattr(lazy.active, method)(dim), method, dim)


DECODINGS = {
    **{f"plain {dtype}": (dtype, {}, None) for dtype in ("i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8")},
    **{f"big-endian {dtype}": (dtype, {}, None) for dtype in (">i2", ">u4", ">f4", ">f8")},
    **{f"filled {dtype}": (dtype, {}, 7) for dtype in ("i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8")},
    "big-endian, filled": (">i2", {}, 7),
    "big-endian, packed": (">i2", {"scale_factor": f4(0.1), "add_offset": f4(3)}, 7),
    "large fill of i8": ("i8", {}, -(2**62) - 1),
    "fill at the limit of i8": ("i8", {}, -(2**63)),
    "default fill": ("f4", {}, netCDF4.default_fillvals["f4"]),
    "NaN as fill": ("f4", {}, np.nan),
    "NaN as fill, packed": ("f4", {"scale_factor": f8(0.1)}, np.nan),
    "missing_value": ("f4", {"missing_value": f4(7)}, None),
    "missing_value of f8 in f4": ("f4", {"missing_value": f8(1e20)}, None),
    "missing_value of f8 in f4, exact": ("f4", {"missing_value": f8(7)}, None),
    "missing_value of f4 in f8": ("f8", {"missing_value": f4(1e20)}, None),
    "missing_value of NaN in f4": ("f4", {"missing_value": f4(np.nan)}, None),
    "missing_value of NaN in i4": ("i4", {"missing_value": f4(np.nan)}, None),
    "missing_value of a fraction in i4": ("i4", {"missing_value": f8(7.5)}, None),
    "missing_value beyond i1": ("i1", {"missing_value": np.int32(1000)}, None),
    "missing_value beyond u1, negative": ("u1", {"missing_value": np.int16(-1)}, None),
    "missing_value of i4 in f4": ("f4", {"missing_value": np.int32(7)}, None),
    "missing_value of i4 in f4, inexact": ("f4", {"missing_value": np.int32(2**24 + 1)}, None),
    "missing_value twice": ("i2", {"missing_value": np.array([7, 8], "i2")}, None),
    "both, equal": ("i2", {"missing_value": np.int16(7)}, 7),
    "both, different": ("i2", {"missing_value": np.int16(9)}, 7),
    "both, different, f4": ("f4", {"missing_value": f4(9)}, 7),
    "both, one NaN": ("f4", {"missing_value": f4(np.nan)}, 7),
    "both, f8 in f4": ("f4", {"missing_value": f8(1e20)}, f4(1e20)),
    "packed f4 f4": ("i2", {"scale_factor": f4(0.1), "add_offset": f4(273.15)}, 7),
    "packed f8 f8": ("i2", {"scale_factor": f8(0.1), "add_offset": f8(273.15)}, 7),
    "packed f4 f8": ("i2", {"scale_factor": f4(0.1), "add_offset": f8(273.15)}, 7),
    "packed f8 f4": ("i2", {"scale_factor": f8(0.1), "add_offset": f4(273.15)}, 7),
    "packed f4 f4, unfilled": ("i2", {"scale_factor": f4(0.1), "add_offset": f4(273.15)}, None),
    "packed f8 f8, unfilled": ("i2", {"scale_factor": f8(0.1), "add_offset": f8(273.15)}, None),
    "packed f4 f8, unfilled": ("i2", {"scale_factor": f4(0.1), "add_offset": f8(273.15)}, None),
    "packed, negative": ("i2", {"scale_factor": f4(-0.1), "add_offset": f4(273.15)}, 7),
    "packed, negative f8": ("u1", {"scale_factor": f8(-0.1)}, 7),
    "packed, scale of 0": ("i2", {"scale_factor": f4(0), "add_offset": f4(3)}, 7),
    "packed, scale of 1": ("i2", {"scale_factor": f4(1)}, 7),
    "packed, only scale f4": ("i2", {"scale_factor": f4(0.1)}, 7),
    "packed, only scale f8": ("i2", {"scale_factor": f8(0.1)}, None),
    "packed, only offset f4": ("i2", {"add_offset": f4(0.1)}, 7),
    "packed, only offset f8": ("i2", {"add_offset": f8(0.1)}, None),
    "packed, offset of 0": ("i2", {"add_offset": f4(0)}, None),
    "packed i1": ("i1", {"scale_factor": f4(0.1), "add_offset": f4(273.15)}, 7),
    "packed i4 f4": ("i4", {"scale_factor": f4(0.1), "add_offset": f4(273.15)}, 7),
    "packed i4 f4, only scale": ("i4", {"scale_factor": f4(0.1)}, 7),
    "packed i4 f8": ("i4", {"scale_factor": f8(1e-5), "add_offset": f8(-3)}, 7),
    "packed i8 f8": ("i8", {"scale_factor": f8(1e-5)}, 7),
    "packed u8 f8": ("u8", {"scale_factor": f8(1e-5)}, None),
    "packed f4 of f4": ("f4", {"scale_factor": f4(0.1), "add_offset": f4(3)}, 7),
    "packed f4 of f8": ("f4", {"scale_factor": f8(0.1), "add_offset": f8(3)}, 7),
    "packed f8 of f4": ("f8", {"scale_factor": f4(0.1), "add_offset": f4(3)}, None),
    "packed f8 of f4, filled": ("f8", {"scale_factor": f4(0.1), "add_offset": f4(3)}, 0.1),
    "packed f8 of f4, filled exactly": ("f8", {"scale_factor": f4(0.1), "add_offset": f4(3)}, 7),
    "packed by an integer": ("i2", {"scale_factor": np.int16(3)}, None),
    "packed by an integer, overflowing": ("i2", {"scale_factor": np.int16(300)}, None),
    "packed by integers of two kinds": ("i1", {"scale_factor": np.int32(3), "add_offset": np.int64(100)}, None),
    "packed by NaN": ("i2", {"scale_factor": f4(np.nan)}, 7),
    "packed by an infinity": ("i2", {"scale_factor": f4(np.inf)}, 7),
    "offset by an infinity": ("i2", {"scale_factor": f4(1), "add_offset": f4(-np.inf)}, 7),
    "packed beyond f4": ("i2", {"scale_factor": f4(1e38)}, 7),
    "unsigned i1": ("i1", {"_Unsigned": "true"}, None),
    "unsigned i1, filled": ("i1", {"_Unsigned": "true"}, -1),
    "unsigned i2, packed": ("i2", {"_Unsigned": "true", "scale_factor": f4(0.1), "add_offset": f4(3)}, -1),
    "unsigned i4, filled": ("i4", {"_Unsigned": "true"}, -1),
    "unsigned i8, filled": ("i8", {"_Unsigned": "true"}, -1),
    "unsigned of missing_value": ("i1", {"_Unsigned": "true", "missing_value": np.int8(-1)}, None),
    "signed u1": ("u1", {"_Unsigned": "false"}, None),
    "signed u1, filled": ("u1", {"_Unsigned": "false"}, 7),
    "signed u2, packed": ("u2", {"_Unsigned": "false", "scale_factor": f8(0.5)}, 7),
    "unsigned, of neither word": ("i1", {"_Unsigned": "yes"}, None),
    "unsigned, big-endian": (">i2", {"_Unsigned": "true"}, -1),
    "valid_range": ("i2", {"valid_range": np.array([-10, 10], "i2")}, None),
    "valid_min, valid_max": ("f4", {"valid_min": f4(-10), "valid_max": f4(10)}, 7),
    "truth values": ("i1", {"dtype": "bool"}, None),
}
READ_FIRST = {"packed f8 of f4, filled exactly"}
"""What only xarray can decode."""


@pytest.mark.parametrize(
    ("form", "engine"),
    [*(("NETCDF4", engine) for engine in ENGINES), ("NETCDF3_64BIT_DATA", "activestore"), ("NETCDF3_64BIT_DATA", "netcdf4")],
)
@pytest.mark.parametrize("name", DECODINGS)
def test_every_decoding(tmp_path, form, engine, name):
    dtype, attrs, fill = DECODINGS[name]
    # All numbers of a classic file are big-endian.
    dtype = dtype if form == "NETCDF4" else dtype.lstrip(">")
    special = [one for one in np.ravel([fill, *np.ravel(attrs.get("missing_value", []))]) if one is not None and one == one]
    kept = [one for one in special if np.dtype(dtype).kind == "f" or (one == int(one) and fits(int(one), dtype))]
    path = write(tmp_path / "a.nc", numbers(dtype, kept), attrs, fill=fill, form=form)
    with opened(path, engine, own="h5netcdf" if form == "NETCDF4" else "netcdf4") as (ds, theirs):
        with xr.open_dataset(path, engine=engine) as again:
            xr.testing.assert_identical(again.load(), theirs)
            assert again.v.dtype == theirs.v.dtype == ds.v.dtype
        if name in READ_FIRST:
            with pytest.warns(FallbackWarning, match="'v': .* not exact .*, so it has to be read before"):
                found = ds.v.active.max()
            xr.testing.assert_identical(found, theirs.v.max())
            with pytest.raises(UntraceableError, match="has to be read"):
                ds.v.active.explain("max")
            return
        assert_reductions(ds.v, theirs.v, dims=[None, "t", ["t", "x"]] if engine == "activestore" else ["t"])
        part = {"t": slice(None, None, -2), "x": [3, 0]}
        assert_reductions(ds.v.isel(part), theirs.v.isel(part), methods=("mean", "max"), dims=[None])


def fits(number, dtype):
    return np.iinfo(dtype).min <= number <= np.iinfo(dtype).max


def test_half_precision(tmp_path):
    """netCDF has no such type, HDF5 has; sums of it are kept in 64 bits."""
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["v"] = numbers("f2")
    with opened(path) as (ds, theirs):
        assert theirs.v.dtype == "f2"
        assert_reductions(ds.v, theirs.v, methods=("count", "min", "max", "mean", "any", "all"))


def test_sum_that_does_not_fit_is_refused(tmp_path):
    """xarray would give a wrong number."""
    path = write(tmp_path / "a.nc", np.full(SHAPE, 2**62, "i8"), {})
    with opened(path) as (ds, theirs):
        with pytest.raises(SumOverflowError):
            ds.v.active.sum()
        assert_reduction(ds.v.active.mean(), theirs.v, "mean", None)


@pytest.mark.parametrize("options", [{"mask_and_scale": False}, {"decode_cf": False}, {"decode_times": False}])
@pytest.mark.parametrize("name", ["packed f4 f4", "filled f4", "unsigned i2, packed", "NaN as fill"])
def test_undecoded(tmp_path, options, name):
    dtype, attrs, fill = DECODINGS[name]
    path = write(tmp_path / "a.nc", numbers(dtype, [fill]), attrs, fill=fill)
    with opened(path, **options) as (ds, theirs):
        assert_reductions(ds.v, theirs.v)


@pytest.fixture(scope="module")
def gaps(tmp_path_factory):
    """A file with missing values: alone, whole rows, everything along some dimensions."""
    path = tmp_path_factory.mktemp("gaps") / "a.nc"
    stored = numbers("f4", [1e20])
    stored[1] = 1e20
    stored[:, 2] = np.nan
    return write(path, stored, {}, fill=np.float32(1e20))


@pytest.mark.parametrize("skipna", [None, True, False])
@pytest.mark.parametrize("method", ["sum", "mean", "min", "max", "std", "var"])
def test_skipna(gaps, method, skipna):
    with opened(gaps) as (ds, theirs):
        for part in ({}, {"t": 1}, {"y": slice(2)}, {"y": slice(2), "t": [0, 3]}):
            lazy, loaded = ds.v.isel(part), theirs.v.isel(part)
            for dim in subsets(loaded.dims):
                assert_reduction(getattr(lazy.active, method)(dim, skipna=skipna), loaded, method, dim, skipna=skipna)


@pytest.mark.parametrize("dtype", ["f4", "i2"])
@pytest.mark.parametrize("skipna", [None, True, False])
@pytest.mark.parametrize("min_count", [None, 0, 1, 3, 12, 100])
def test_min_count(tmp_path, gaps, dtype, skipna, min_count):
    path = gaps if dtype == "f4" else write(tmp_path / "a.nc", numbers("i2"), {})
    options = {"skipna": skipna, "min_count": min_count}
    with opened(path) as (ds, theirs):
        for dim in subsets(DIMS):
            assert_reduction(ds.v.active.sum(dim, **options), theirs.v, "sum", dim, **options)


@pytest.mark.parametrize("dtype", ["f4", "i2"])
@pytest.mark.parametrize("skipna", [None, False])
@pytest.mark.parametrize("ddof", [0, 1, 2, 4, 7])
def test_ddof(tmp_path, gaps, dtype, skipna, ddof):
    path = gaps if dtype == "f4" else write(tmp_path / "a.nc", numbers("i2"), {})
    with opened(path) as (ds, theirs):
        for method, dim in itertools.product(("var", "std"), (None, "t", ["t", "y"])):
            options = {"skipna": skipna, "ddof": ddof}
            if ddof >= 4 and dim == "t" and (skipna is False or dtype == "i2"):
                # NumPy divides by nothing, and xarray lets it unless it looks for missing values.
                assert np.isnan(getattr(ds.v.active, method)(dim, **options)).all()
                continue
            assert_reduction(getattr(ds.v.active, method)(dim, **options), theirs.v, method, dim, **options)


@pytest.mark.parametrize("option", [True, False, "default"])
@pytest.mark.parametrize("given", [True, False, None])
def test_keep_attrs(gaps, option, given):
    with opened(gaps) as (ds, theirs), xr.set_options(keep_attrs=option):
        for method in METHODS:
            found = getattr(ds.v.active, method)("t", keep_attrs=given)
            assert_reduction(found, theirs.v, method, "t", **({} if given is None else {"keep_attrs": given}))
        found = ds.v[3:, :2].active.argmax("x", keep_attrs=given)
        assert_like(found, theirs.v[3:, :2].argmax("x", **({} if given is None else {"keep_attrs": given})))


@pytest.mark.parametrize("dim", ["t", ["t"], ("x", "t"), {"t", "y"}, ..., None, ["t", "t"], [], ()])
def test_ways_to_name_dimensions(gaps, dim):
    with opened(gaps) as (ds, theirs):
        for method in ("sum", "max", "count", "mean"):
            try:
                wanted = getattr(theirs.v, method)(dim)
            except ValueError:
                assert dim == ["t", "t"]
                wanted = getattr(theirs.v, method)("t")
            found = getattr(ds.v.active, method)(dim)
            assert_like(found, wanted)
            assert_values(found, wanted, 1e-2)


def test_unknown_dimensions(gaps):
    with opened(gaps) as (ds, _):
        for dim in ("z", ["t", "z"], 0, ("t", 1)):
            with pytest.raises(SelectionError, match=r"no dimension .*; the dimensions are 't', 'y', 'x'"):
                ds.v.active.mean(dim)
            with pytest.raises(SelectionError, match="no dimension"):
                ds.active.mean(dim)
        for method in ("median", "cumsum", "quantile", "prod", "first"):
            with pytest.raises(AttributeError, match=r"leave out \.active"):
                getattr(ds.v.active, method)


@pytest.mark.parametrize("method", ["argmin", "argmax"])
@pytest.mark.parametrize("dtype", ["i2", "f4", "packed"])
def test_positions(tmp_path, method, dtype):
    attrs = {"scale_factor": f4(-0.5)} if dtype == "packed" else {}
    stored = (numbers("i2") % 4).astype("i2" if dtype == "packed" else dtype)
    if dtype == "f4":
        stored[1, :2, 2:4] = np.nan
    path = write(tmp_path / "a.nc", stored, attrs)
    with opened(path) as (ds, theirs):
        for pick in (lambda v: v, lambda v: v[::-1, :, [3, 0, 1]], lambda v: v[0], lambda v: v.T):
            lazy, loaded = pick(ds.v), pick(theirs.v)
            for dim in loaded.dims:
                assert_positions(getattr(lazy.active, method)(dim), getattr(loaded, method)(dim))
            for dims in (loaded.dims, ..., list(loaded.dims)[:1], list(loaded.dims)[::-1], list(loaded.dims)[:2]):
                wanted = getattr(loaded, method)(dims)
                if list(wanted) != sorted(wanted, key=DIMS.index):
                    with pytest.raises(SelectionError, match="in the order of the file"):
                        getattr(lazy.active, method)(dims)
                    found = getattr(lazy.copy().load().active, method)(dims)
                else:
                    found = getattr(lazy.active, method)(dims)
                assert set(found) == set(wanted)
                for name in wanted:
                    assert_positions(found[name], wanted[name])


def assert_positions(found, wanted):
    assert_like(found, wanted)
    assert_values(found, wanted, 0)


def test_position_of_nothing(gaps):
    with opened(gaps) as (ds, theirs):
        with pytest.raises(ReductionError, match="All-NaN slice"):
            ds.v.active.argmin("t")
        with pytest.raises(ValueError, match="All-NaN slice"):
            theirs.v.argmin("t")
        with pytest.raises(SelectionError, match="of nothing"):
            ds.v[:0].active.argmin("t")
        with pytest.raises(SelectionError, match="argmin of no dimension; name one of 't', 'y', 'x'"):
            ds.v.active.argmin([])


def test_positions_of_nan_where_a_condition_does_not_hold(tmp_path):
    path = tmp_path / "a.nc"
    xr.Dataset({"v": ("a", np.array([5, 1, 9], "i4"))}).to_netcdf(path, engine="h5netcdf")
    with opened(path) as (ds, theirs):
        assert theirs.v.where(theirs.v > 2).argmin("a", skipna=False) == 1
        with pytest.raises(SelectionError, match="argmin finds no NaN"):
            ds.v.active.where("> 2").argmin("a", skipna=False)
        assert_reduction(ds.v.active.where("> 2").argmin("a"), theirs.v.where(theirs.v > 2), "argmin", "a")
        assert ds.v.active.argmin("a", skipna=False) == theirs.v.argmin("a", skipna=False)


NOTHING = (slice(0), slice(2, 2, -1), slice(1, 3, -2), slice(-1, 0), [])


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("pick", [*({"t": one} for one in NOTHING), {"t": slice(1, 3, -1), "x": slice(0)}, {"x": []}], ids=str)
def test_nothing_selected(gaps, pick, engine):
    with opened(gaps, engine) as (ds, theirs):
        lazy, loaded = ds.v.isel(pick), theirs.v.isel(pick)
        for dim in (None, "t", "x", ["t", "x"]):
            for method in ("count", "sum", "mean", "std", "any", "all"):
                assert_reduction(getattr(lazy.active, method)(dim), loaded, method, dim)
        xr.testing.assert_identical(lazy.active.weighted(loaded.y).mean("y"), loaded.weighted(loaded.y).mean("y"))


@pytest.mark.parametrize("engine", ENGINES)
def test_nothing_selected_of_a_dataset(tmp_path, engine):
    """Some variables are reduced near the data, xarray is asked for the others."""
    made = xr.Dataset({"v": (("t", "x"), np.ones((3, 4))), "k": ("t", np.arange(3)), "name": ("t", list("abc"))})
    made.to_netcdf(tmp_path / "a.nc", engine="netcdf4")
    for empty in NOTHING:
        with opened(tmp_path / "a.nc", engine) as (ds, theirs):
            lazy, loaded = ds.isel(t=empty), theirs.isel(t=empty)
            for dim in ("x", []):
                xr.testing.assert_identical(lazy.active.count(dim), loaded.count(dim))
            xr.testing.assert_identical(lazy.drop_vars("name").active.mean("x"), loaded.drop_vars("name").mean("x"))


@pytest.mark.parametrize("dims", [lambda: np.array(["t", "x"]), lambda: (one for one in ("t", "x")), {"t": 1, "x": 2}.keys])
def test_names_of_dimensions(gaps, dims):
    with opened(gaps) as (ds, theirs):
        assert_reduction(ds.v.active.mean(dims()), theirs.v, "mean", ["t", "x"])
        assert_reduction(ds.active.mean(dims()).v, theirs.v, "mean", ["t", "x"])


def test_dimension_of_no_length(tmp_path):
    path = tmp_path / "a.nc"
    xr.Dataset({"v": (("a", "b"), np.zeros((0, 3), "f4"))}).to_netcdf(path, engine="h5netcdf")
    with opened(path) as (ds, theirs):
        for dim in (None, "a", "b"):
            assert_reduction(ds.v.active.sum(dim), theirs.v, "sum", dim)
            assert_reduction(ds.active.count(dim).v, theirs.v, "count", dim)


@pytest.mark.parametrize("value", [np.float32(2.5), np.int16(3), np.uint8(3), np.float64(np.nan)])
def test_scalars(tmp_path, value):
    path = tmp_path / "a.nc"
    xr.Dataset({"v": ((), value)}).to_netcdf(path, engine="h5netcdf", encoding={"v": {"_FillValue": None}})
    with opened(path) as (ds, theirs):
        for method in METHODS:
            assert_reduction(getattr(ds.v.active, method)(), theirs.v, method, None)
            assert_reduction(getattr(ds.v.active, method)(...), theirs.v, method, ...)
            # Along nothing, xarray leaves it as it is.
            assert_reduction(getattr(ds.v.active, method)([]), theirs.v, method, [])
            assert getattr(ds.v.active, method)([]).dtype == getattr(theirs.v, method)([]).dtype


def test_integers_along_nothing_are_left_as_they_are(tmp_path):
    path, stored = tmp_path / "a.nc", np.array([2**63 - 1, 2**53 + 1, -(2**63)])
    xr.Dataset({"v": ("a", stored)}).to_netcdf(path, engine="h5netcdf")
    with opened(path) as (ds, theirs):
        for method in ("sum", "mean", "min", "max"):
            assert_reduction(getattr(ds.v.active, method)([]), theirs.v, method, [])
            np.testing.assert_array_equal(getattr(ds.v.active, method)([]), stored)


def test_truth(tmp_path):
    stored = np.array([[0, 0, 0], [0, 1, 0], [1, 2, 3], [np.nan, 0, 0], [np.nan, 1, 2], [np.nan] * 3], "f4")
    path = tmp_path / "a.nc"
    xr.Dataset({"v": (("a", "b"), stored)}).to_netcdf(path, engine="h5netcdf")
    with opened(path) as (ds, theirs):
        assert_reductions(ds.v, theirs.v, methods=("any", "all"))


COORDINATES = {
    "renamed": lambda ds: ds.rename(v="w", t="time", x="lon").w,
    "swapped": lambda ds: ds.assign_coords(n=("t", np.arange(4))).swap_dims(t="n").v,
    "transposed": lambda ds: ds.v.transpose("x", "t", "y"),
    "multi-index": lambda ds: (
        ds.assign_coords(year=("t", [1, 1, 2, 2]), month=("t", [1, 7, 1, 7])).set_index(t=["year", "month"]).v
    ),
    "curvilinear": lambda ds: ds.assign_coords(lat=(("y", "x"), np.ones((3, 5))), lon=(("y", "x"), np.zeros((3, 5)))).v,
    "scalar": lambda ds: ds.assign_coords(height=2.0, name="surface").v,
    "selected to a scalar": lambda ds: ds.v.isel(t=2),
    "without": lambda ds: ds.v.drop_vars(["t", "y"]),
    "two along one": lambda ds: ds.assign_coords(month=("t", [1, 2, 3, 4]), name=("x", list("abcde"))).v,
    "times": lambda ds: ds.assign_coords(when=("t", np.arange(4).astype("M8[D]").astype("M8[ns]"))).v,
    "lazy": lambda ds: ds.set_coords("v").assign(w=ds.v * 0).v,
    "without a name": lambda ds: ds.v.rename(None),
    "name that is no string": lambda ds: ds.v.rename(3),
    "same name as a dimension's coordinate": lambda ds: ds.v.rename("z").assign_coords(v=("x", np.arange(5))),
    "length 1": lambda ds: ds.v[:1, :, :1],
}


@pytest.mark.parametrize("pick", COORDINATES.values(), ids=COORDINATES)
def test_coordinates(gaps, pick):
    with opened(gaps) as (ds, theirs):
        lazy, loaded = pick(ds), pick(theirs)
        assert_reductions(lazy, loaded, methods=("mean", "max", "count"))


def test_groups_of_a_file(tmp_path):
    path = write(tmp_path / "a.nc", numbers("i2", [7]), {"scale_factor": f4(0.5)}, fill=7, group="inner/deep")
    for engine in ENGINES:
        with opened(path, engine, group="inner/deep") as (ds, theirs):
            assert_reductions(ds.v, theirs.v, dims=[None, "t"])


CONDITIONS = {
    "> 10": lambda v: v > 10,
    ">= 0 and < 50": lambda v: (v >= 0) & (v < 50),
    "!= 0": lambda v: v != 0,
    "> 1e9": lambda v: v > 1e9,
}


@pytest.mark.parametrize("name", ["plain f4", "filled i2", "packed f4 f4", "packed, negative", "plain i4", "plain u1"])
@pytest.mark.parametrize("condition", CONDITIONS)
def test_conditions(tmp_path, name, condition):
    dtype, attrs, fill = DECODINGS[name]
    path = write(tmp_path / "a.nc", numbers(dtype, [] if fill is None else [fill]), attrs, fill=fill)
    with opened(path) as (ds, theirs):
        wanted = theirs.v.where(CONDITIONS[condition](theirs.v))
        lazy = ds.v.active.where(condition)
        reference = Reference(wanted)
        for dim in (None, "t", ["t", "x"], ["y"]):
            for method in METHODS:
                reference.assert_reduction(getattr(lazy, method)(dim), method, dim)
        for options in ({"skipna": False}, {"min_count": 3}):
            reference.assert_reduction(lazy.sum("t", **options), "sum", "t", **options)


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """A dataset of all kinds of variables."""
    path = tmp_path_factory.mktemp("mixed") / "a.nc"
    rng = np.random.default_rng(0)
    dataset = xr.Dataset(
        {
            "z": (("t", "y", "x"), rng.normal(280, 10, (6, 3, 4)).astype("f4"), {"units": "K"}),
            "when": (("t",), np.arange(6).astype("M8[D]").astype("M8[ns]")),
            "n": (("t", "x"), rng.integers(0, 9, (6, 4)).astype("i2")),
            "a": (("y",), np.array([1.0, np.nan, 3.0]), {"long_name": "only y"}),
            "text": (("x",), np.array(list("abcd"), object)),
            "flag": (("t",), np.array([True, False] * 3)),
            "one": ((), np.int32(5)),
            "since": (("t",), np.arange(6).astype("m8[D]").astype("m8[ns]")),
            "m": (("t", "y"), np.full((6, 3), np.nan, "f8")),
        },
        coords={"y": [10.0, 20, 30], "x": ("x", [1, 2, 3, 4], {"axis": "X"}), "area": (("y", "x"), np.ones((3, 4)))},
        attrs={"title": "all kinds"},
    )
    dataset.to_netcdf(path, engine="h5netcdf", encoding={"since": {"units": "days", "dtype": "i4"}})
    return path


@pytest.mark.parametrize("dim", [None, "t", ["t", "x"], "y", ..., {"y", "x"}, []])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("keep_attrs", [None, True, False])
def test_datasets(mixed, method, dim, keep_attrs):
    options = {} if keep_attrs is None else {"keep_attrs": keep_attrs}
    with opened(mixed, decode_timedelta=True) as (ds, theirs):
        for pick in (lambda one: one, lambda one: one.isel(t=slice(1, 4)), lambda one: one[["z", "n", "a"]]):
            try:
                wanted = getattr(pick(theirs), method)(dim, **options)
                found = getattr(pick(ds).active, method)(dim, **options)
            except (TypeError, ValueError):
                # There are reductions that times do not have: for xarray, nothing has them then.
                with pytest.warns(UserWarning, match="is left out: "):
                    found = getattr(pick(ds).active, method)(dim, **options)
                assert {"z", "n", "a", "one", "m"} <= set(found.data_vars)
                wanted = getattr(pick(theirs)[list(found.data_vars)], method)(dim, **options)
            assert list(found.data_vars) == list(wanted.data_vars)
            assert set(found.coords) == set(wanted.coords)
            assert found.attrs == wanted.attrs
            for name in wanted.variables:
                assert_like(found[name], wanted[name], f"{name} {method} {dim}")
                if wanted[name].dtype.kind == "f":
                    np.testing.assert_allclose(found[name], wanted[name], rtol=1e-5)
                else:
                    assert found[name].identical(wanted[name])


def test_what_only_xarray_decodes_is_read_first(mixed):
    with opened(mixed, decode_timedelta=True) as (ds, theirs):
        for name in ("when", "since"):
            with pytest.warns(FallbackWarning, match=rf"'{name}': .*has to be read"):
                xr.testing.assert_identical(ds[name].active.count(), theirs[name].count())
        with pytest.warns(FallbackWarning):
            xr.testing.assert_identical(ds.when.active.max("t"), theirs.when.max("t"))
        xr.testing.assert_identical(ds.text.active.count(), theirs.text.count())
        with pytest.raises(NotNumericError, match=r"'text' .* no mean"):
            ds.text.active.mean()


SOURCES = (
    "plain i2",
    "plain u1",
    "plain f4",
    "plain f8",
    "filled i4",
    "filled f4",
    "packed f4 f4",
    "packed f8 f8",
    "packed, negative",
    "unsigned i2, packed",
    "both, different",
    "big-endian, packed",
)


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """Every decoding of a few in a file of its own, lazily and in memory."""
    folder = tmp_path_factory.mktemp("sources")
    made = {}
    for number, name in enumerate(SOURCES):
        dtype, attrs, fill = DECODINGS[name]
        path = write(folder / f"{number}.nc", numbers(dtype, [] if fill is None else [fill]), attrs, fill=fill)
        lazy = xr.open_dataset(path, engine="activestore", cache=False)
        made[name] = lazy.v, lazy.v.copy().load()
    return made


@given(st.data())
def test_any_selection_of_any_decoding(sources, data):
    lazy, loaded = sources[data.draw(st.sampled_from(SOURCES))]
    lengths = dict(zip(DIMS, SHAPE, strict=True))
    key = {}
    for dim in data.draw(st.sets(st.sampled_from(DIMS))):
        position = st.integers(-lengths[dim], lengths[dim] - 1)
        bound, step = st.one_of(st.none(), position), st.sampled_from([None, 1, 2, -1, -2])
        key[dim] = data.draw(st.one_of(position, st.lists(position, max_size=4), st.builds(slice, bound, bound, step)))
    lazy, loaded = lazy.isel(key), loaded.isel(key)
    if loaded.ndim:
        order = data.draw(st.permutations(loaded.dims))
        lazy, loaded = lazy.transpose(*order), loaded.transpose(*order)
    dim = data.draw(
        st.one_of(st.none(), st.lists(st.sampled_from(loaded.dims), unique=True, min_size=1) if loaded.dims else st.none())
    )
    method = data.draw(st.sampled_from(METHODS))
    options = {"skipna": data.draw(st.booleans())} if method not in ("count", "any", "all") and data.draw(st.booleans()) else {}
    if not loaded.size and method in ("min", "max"):
        return  # which xarray refuses, in words of NumPy's
    assert_reduction(getattr(lazy.active, method)(dim, **options), loaded, method, dim, **options)


@pytest.mark.parametrize(
    ("call", "error", "told"),
    [
        (lambda tas: tas.active.mean("time", skipna="yes"), ReductionError, "mean: skipna is True, False or None, not 'yes'"),
        (lambda tas: tas.active.sum(min_count=-1), ReductionError, "sum: min_count is a whole number from 0 up, or None"),
        (lambda tas: tas.active.sum(min_count=True), ReductionError, "sum: min_count is a whole number from 0 up, or None"),
        (lambda tas: tas.active.std(ddof="a"), ReductionError, "std: ddof is a number, not 'a'"),
        (lambda tas: tas.active.groupby("time.moon").mean(), SelectionError, "'time.moon' is no coordinate, or part of one"),
        (lambda tas: tas.active.groupby("zz").mean(), SelectionError, "'zz' is no coordinate, or part of one"),
        (lambda tas: tas.active.resample(lat="1YS").mean(), SelectionError, "xarray cannot make these groups"),
        (lambda tas: tas.active.resample(time="7 bananas").mean(), SelectionError, "xarray cannot make these groups"),
        (lambda tas: tas.astype(str).active.mean(), NotNumericError, "'tas' (time: 24, lat: 18, lon: 36): holds <U"),
    ],
)  # fmt: skip
def test_options_that_make_no_sense_are_errors_of_ours(call, error, told):
    with xr.open_dataset("docs/tas.nc", engine="activestore") as dataset, pytest.raises(error) as caught:
        call(dataset["tas"])
    assert str(caught.value).startswith(told), caught.value


def test_numbers_of_numpy_are_options_too():
    with xr.open_dataset("docs/tas.nc", engine="activestore") as dataset:
        tas = dataset["tas"]
        found = tas.active.std("time", ddof=np.int64(1), skipna=np.True_), tas.active.sum("time", min_count=np.int8(2))
        xr.testing.assert_allclose(found[0], tas.std("time", ddof=1))
        xr.testing.assert_allclose(found[1], tas.sum("time", min_count=2))


@pytest.mark.filterwarnings("ignore:Duplicate dimension names:UserWarning", "ignore:Behaviour of argmin:FutureWarning")
@pytest.mark.parametrize("engine", ENGINES)
def test_two_dimensions_of_one_name(tmp_path, engine):
    """xarray reduces all dimensions of such an array, or none; and a dataset with one of them likewise."""
    with netCDF4.Dataset(tmp_path / "a.nc", "w") as file:
        for dim, length in (("t", 2), ("x", 3)):
            file.createDimension(dim, length)
        file.createVariable("cov", "f8", ("t", "x", "x"))[:] = np.arange(18.0).reshape(2, 3, 3)
        file.createVariable("v", "f8", ("t",))[:] = [1.0, 2]
    with opened(tmp_path / "a.nc", engine, own="netcdf4", cache=False) as (ds, theirs):
        for method in (*METHODS, "argmax"):
            for dim in (None, ..., []) if method != "argmax" else (None,):
                xr.testing.assert_allclose(getattr(ds.cov.active, method)(dim), getattr(theirs.cov, method)(dim))
                xr.testing.assert_allclose(getattr(ds.cov[1].active, method)(dim), getattr(theirs.cov[1], method)(dim))
        xr.testing.assert_identical(ds.active.mean(), theirs.mean())
        assert ds.cov.active.where("> 3").count() == 14
        assert ds.cov.active.explain("mean").chunks == 1
        assert set(ds.active.explain("mean")) == {"cov", "v"}
        for reduce in (
            lambda cov: cov.mean("t"),
            lambda cov: cov.mean("x"),
            lambda cov: cov.groupby("t").mean(),
            lambda cov: cov.weighted(xr.DataArray([1.0, 2], dims="t")).mean(),
        ):
            with pytest.raises(SelectionError, match="'cov' has several dimensions that are called 'x'"):
                reduce(ds.cov.active)
        with pytest.warns(UserWarning, match="'cov' is left out: .* called 'x'"):
            found = ds.active.mean("t")
        assert found.v == 1.5
        assert "cov" not in found
    active = Active(tmp_path / "a.nc", "cov")
    assert active.mean(axis=("t", 1)).tolist() == active.mean(axis=(0, 1)).tolist() == [7.5, 8.5, 9.5]
    with pytest.raises(SelectionError, match=r"several dimensions are called 'x'; give their numbers: 't' \(0\), 'x' \(1\)"):
        active.mean(axis="x")
