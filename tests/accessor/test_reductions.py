"""The accessor beside xarray: every decoding, every option, all kinds of coordinates, whole datasets."""

import contextlib
import itertools

import netCDF4
import numpy as np
import pytest
import xarray as xr

import activestore.accessor  # noqa: F401  # registers .active for files that other engines opened
from activestore.errors import UntraceableError
from tests.accessor.beside_xarray import Reference

# xarray warns of attributes, and NumPy of sums beyond a type; with any engine.
pytestmark = pytest.mark.filterwarnings("ignore::xarray.SerializationWarning", "ignore::RuntimeWarning")

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


def write(path, stored, attrs, *, fill=None, group=None):
    """Write stored numbers as they are, and attributes of any type."""
    with netCDF4.Dataset(path, "w") as file:
        place = file if group is None else file.createGroup(group)
        for dim, length in zip(DIMS, SHAPE, strict=True):
            place.createDimension(dim, length)
            if dim != "x":
                place.createVariable(dim, "f8", (dim,))[:] = np.arange(length) * 10.0
        endian = {">": "big", "<": "little"}.get(stored.dtype.str[0], "native")
        made = place.createVariable("v", stored.dtype, DIMS, chunksizes=CHUNKS, endian=endian, fill_value=fill)
        made.set_auto_maskandscale(False)
        made[:] = stored
        made.setncatts({"units": "K", "long_name": "a variable"} | attrs)
    return path


@contextlib.contextmanager
def opened(path, engine="activestore", **options):
    """Open a file twice: lazily, and in memory with xarray's own engine."""
    with xr.open_dataset(path, engine="h5netcdf", **options) as theirs, xr.open_dataset(path, engine=engine, **options) as ds:
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
REFUSED = {
    "fill at the limit of i8": "is not exact in the type float64",
    "large fill of i8": "is not exact in the type float64",
    "unsigned i8, filled": "is not exact in the type float64",
    "truth values": "its values come from a BoolTypeArray",
    "packed by NaN": "scale or offset is .*nan",
    "packed by an infinity": "scale or offset is .*inf",
    "offset by an infinity": "scale or offset is .*-inf",
    "packed f8 of f4, filled": "not exact",
    "packed f8 of f4, filled exactly": "not exact",
}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", DECODINGS)
def test_every_decoding(tmp_path, engine, name):
    dtype, attrs, fill = DECODINGS[name]
    special = [one for one in np.ravel([fill, *np.ravel(attrs.get("missing_value", []))]) if one is not None and one == one]
    kept = [one for one in special if np.dtype(dtype).kind == "f" or (one == int(one) and fits(int(one), dtype))]
    path = write(tmp_path / "a.nc", numbers(dtype, kept), attrs, fill=fill)
    with opened(path, engine) as (ds, theirs):
        if name in REFUSED:
            with pytest.raises(UntraceableError, match=REFUSED[name]):
                ds.v.active.max()
            return
        assert_reductions(ds.v, theirs.v, dims=[None, "t", ["t", "x"]] if engine == "activestore" else ["t"])
        part = {"t": slice(None, None, -2), "x": [3, 0]}
        assert_reductions(ds.v.isel(part), theirs.v.isel(part), methods=("mean", "max"), dims=[None])


def fits(number, dtype):
    return np.iinfo(dtype).min <= number <= np.iinfo(dtype).max
