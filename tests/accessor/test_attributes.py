"""Attributes of another type, size or sign than the numbers that they are about: text, vectors, nothing, what is out of range.

Other writers' files have them all. `.active` has to give what xarray makes of the same file, `Active` what netCDF4-python does.
"""

import json
import warnings

import h5py
import netCDF4
import numpy as np
import pytest
import xarray as xr
import zarr
from xarray.core import indexing

import activestore.accessor  # noqa: F401  # registers .active for files that other engines opened
from activestore import Active
from activestore.accessor.arrays.stored import StoredArray, StoredFile
from activestore.errors import ActivestoreError
from activestore.sources.open import open_source

pytestmark = pytest.mark.filterwarnings(
    "ignore::xarray.SerializationWarning",
    "ignore::RuntimeWarning",
    "ignore::activestore.errors.FallbackWarning",
    "ignore:The .phony_dims",
    "ignore:.*netCDF's default fill value:UserWarning",
    "ignore:.* is left out. its attributes cannot be decoded:UserWarning",
)

ATTRIBUTES = ("_FillValue", "missing_value", "valid_min", "valid_max", "valid_range", "scale_factor", "add_offset", "_Unsigned")
DTYPES = ("i1", "u1", "i2", "u2", "i4", "i8", "u8", "f4", "f8")
KINDS = {
    "text of a number": "-99",
    "text of no number": "none",
    "text of nothing": "",
    "a letter": "x",
    "bytes": np.bytes_(b"-99"),
    "texts": ["-99", "none"],
    "true": "true",
    "false": "false",
    "a truth value": np.bool_(True),
    "a vector": np.array([-99, 3], "i2"),
    "a vector with NaN": np.array([-99, np.nan]),
    "a vector of one": np.array([-99], "i2"),
    "a table": np.array([[-99, 3], [1, 2]], "i4"),
    "nothing": np.zeros(0, "f4"),
    "i1": np.int8(-99),
    "u1 of the same bits": np.uint8(157),
    "i8": np.int64(-99),
    "u8, the greatest": np.uint64(2**64 - 1),
    "i8, the least": np.int64(-(2**63)),
    "i8, nearly the least": np.int64(netCDF4.default_fillvals["i8"]),
    "i8, large": np.int64(2**60 + 1),
    "f2": np.float16(3),
    "f4": np.float32(-99),
    "f8": np.float64(-99),
    "a fraction": np.float64(2.5),
    "too large for integers": np.float64(1e20),
    "of single precision": np.float32(1e20),
    "too large for f4": np.float64(1e40),
    "infinite": np.float64(np.inf),
    "negative and infinite": np.float32(-np.inf),
    "NaN": np.float64(np.nan),
    "complex": np.complex128(3),
    "a number of Python's": 3,
    "a fraction of Python's": -99.0,
    "a huge number of Python's": 10**400,
}
THROUGH_FILES = ("text of a number", "bytes", "a letter", "texts", "nothing", "a vector", "u1 of the same bits", "NaN", "f8")
"""What engines may tell in different ways."""
REDUCTIONS = ("count", "min", "max")


def numbers(dtype):
    """Return numbers that some of the attributes are about, and the limits of the type."""
    kind = np.dtype(dtype)
    if kind.kind == "f":
        return np.array([1, 2.5, 3, 0, -0.0, -99, np.nan, np.inf, -np.inf, 1e20, 157, 65437], dtype)
    info = np.iinfo(kind)
    found = [1, 2, 3, 0, -99, -1, 157, 65437, info.min, info.min + 1, info.max, info.max - 1, 2**60, 2**60 + 1, 2**60 + 600]
    return np.array([one for one in found if info.min <= one <= info.max], dtype)


def assert_like_loaded(lazy, what):
    """Assert that `.active` gives what xarray does once it has read the values, or that neither gives anything."""
    results = {}
    for name in REDUCTIONS:
        try:
            results[name] = getattr(lazy.active, name)()
        except (ActivestoreError, ArithmeticError, TypeError, ValueError) as error:
            results[name] = error
    try:
        loaded = lazy.compute()
    except (ArithmeticError, TypeError, ValueError):
        loaded = None
    if loaded is None:
        assert all(isinstance(found, Exception) for found in results.values()), f"{what}: {results}"
        return
    for name, found in results.items():
        wanted = getattr(loaded, name)()
        assert not isinstance(found, Exception), f"{what} {name}: {found!r}, wanted {wanted.item()}"
        assert found.dtype == wanted.dtype, f"{what} {name}: {found.dtype}"
        same = found.item() == wanted.item() or (found.item() != found.item() and wanted.item() != wanted.item())
        assert same, f"{what} {name}: {found.item()}, wanted {wanted.item()}"


def assert_all_like_loaded(ds, what):
    """Assert it of all variables that the engine has not left out."""
    for name, array in ds.data_vars.items():
        assert_like_loaded(array, f"{name} with {what}")


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """A file with numbers of each type, that have no attributes."""
    path = tmp_path_factory.mktemp("bare") / "a.nc"
    with h5py.File(path, "w") as file:
        for dtype in DTYPES:
            file[dtype] = numbers(dtype)
    return StoredFile(open_source(str(path)), {})


FEW = ("i2", "i8", "f4")
DECODED = {"_FillValue": DTYPES, "missing_value": FEW, "scale_factor": ("u1", *FEW, "f8"), "add_offset": FEW, "_Unsigned": FEW}
"""The attributes that xarray knows, and the types that each is tried with."""


@pytest.mark.parametrize("attribute", DECODED)
def test_what_xarray_decodes(bare, attribute):
    """Whatever an engine may tell of an attribute."""
    seen = 0
    for kind, value in KINDS.items():
        for dtype in DECODED[attribute]:
            stored = StoredArray(bare, dtype, shape=numbers(dtype).shape, dtype=np.dtype(dtype))
            variable = xr.Variable("x", indexing.LazilyIndexedArray(stored), {attribute: value})
            try:
                decoded = xr.conventions.decode_cf_variable("v", variable)
            except (ArithmeticError, TypeError, ValueError):
                continue  # nobody's engine opens it
            seen += 1
            assert_like_loaded(xr.DataArray(decoded, name="v"), f"{dtype} with {attribute} {kind}")
    assert seen > 20 * len(DECODED[attribute])


@pytest.mark.parametrize("dtype", ["i8", "u8"])
@pytest.mark.parametrize("packing", [{}, {"scale_factor": np.float32(2)}, {"scale_factor": np.float64(2)}])
def test_large_integers_that_become_one_float(tmp_path, dtype, packing):
    """xarray compares after it has made floats: all integers that are the same one are missing."""
    info = np.iinfo(dtype)
    near = [0, info.min, info.max, 2**53, 2**54, 2**60, 2**62, 2**63 - 1]
    around = sorted({at + off for at in near for off in (-2049, -1025, -513, -257, -2, -1, 0, 1, 2, 255, 511, 1023, 2049)})
    stored = np.array([one for one in around if info.min <= one <= info.max], dtype)
    for fill in stored[::8]:
        variable = xr.Variable("x", stored, {"_FillValue": fill, **packing})
        xr.Dataset({"v": variable}).to_netcdf(tmp_path / "a.nc", engine="h5netcdf")
        with xr.open_dataset(tmp_path / "a.nc", engine="activestore", cache=False) as ds:
            assert_like_loaded(ds.v, f"{dtype} filled with {fill} {packing}")


def writable(value, dtype):
    """Return an attribute as h5py writes it, None if it cannot."""
    if isinstance(value, int):
        return np.array(value, dtype)[()] if value < 100 else None
    return np.array(value, h5py.string_dtype()) if isinstance(value, list) else value


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A file for each kind of value, with a variable for each attribute and some types."""
    folder, made = tmp_path_factory.mktemp("files"), {}
    for kind, value in KINDS.items():
        if writable(value, "i2") is None or kind in ("complex", "f2"):
            continue  # netCDF has none
        path = made[kind] = folder / f"{len(made)}.nc"
        with netCDF4.Dataset(path, "w") as file:
            for dtype in FEW:
                file.createDimension(dtype, len(numbers(dtype)))
                for attribute in ATTRIBUTES:
                    variable = file.createVariable(f"{dtype} {attribute}", dtype, (dtype,), fill_value=False)
                    variable[:] = numbers(dtype)
        with h5py.File(path, "r+") as file:
            for dtype in FEW:
                for attribute in ATTRIBUTES:
                    file[f"{dtype} {attribute}"].attrs[attribute] = writable(value, dtype)
    return made


def kinds(*without):
    return [kind for kind in KINDS if kind not in ("a huge number of Python's", "complex", "f2", *without)]


@pytest.mark.parametrize("engine", ["activestore", "h5netcdf", "netcdf4"])
@pytest.mark.parametrize("kind", THROUGH_FILES)
def test_files_opened_by_xarray(files, kind, engine):
    names = [f"{dtype} {attribute}" for dtype in FEW for attribute in ATTRIBUTES]
    for name in ("i2 _FillValue", "f4 missing_value", "i2 scale_factor", "f4 add_offset", "i2 _Unsigned"):
        try:
            ds = xr.open_dataset(files[kind], engine=engine, cache=False, drop_variables=set(names) - {name})
        except (ArithmeticError, TypeError, ValueError):
            continue  # nor does xarray's own engine
        with ds:
            assert name in ds or engine == "activestore"
            assert_all_like_loaded(ds, kind)


@pytest.mark.parametrize("kind", kinds("a table", "a truth value"))
def test_files_beside_netcdf4(files, kind):
    with netCDF4.Dataset(files[kind]) as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what it ignores
        for name in file.variables:
            found = Active(files[kind], name).reduce(("count", "min", "max"))
            try:
                values = np.ma.MaskedArray(file[name][:])
            except (ArithmeticError, RuntimeError, TypeError, ValueError):
                continue  # which is no answer
            values = np.ma.MaskedArray(values.data, np.ma.getmaskarray(values) | (values.data != values.data))
            assert found["count"] == values.count(), f"{name} {kind}"
            for reduction in ("min", "max"):
                wanted = getattr(values, reduction)()
                assert (found[reduction] is np.ma.masked) == (wanted is np.ma.masked), f"{name} {kind}"
                assert wanted is np.ma.masked or found[reduction] == wanted, f"{name} {kind}"


@pytest.mark.parametrize("attribute", ATTRIBUTES)
def test_classic_files(tmp_path, attribute):
    for kind, value in KINDS.items():
        if not isinstance(value, (str, np.integer, np.floating, np.ndarray)) or np.ndim(value) > 1 or np.size(value) == 0:
            continue
        if getattr(value, "dtype", None) == np.float16:
            continue
        path = tmp_path / f"{kind}.nc"
        with netCDF4.Dataset(path, "w", format="NETCDF3_64BIT_DATA") as file:
            for dtype in FEW:
                file.createDimension(f"x_{dtype}", len(numbers(dtype)))
                variable = file.createVariable(dtype, dtype, (f"x_{dtype}",), fill_value=False)
                if attribute == "_FillValue" and (getattr(value, "dtype", None) != dtype or np.ndim(value)):
                    continue  # the library refuses it
                if attribute == "_FillValue":
                    file.renameVariable(dtype, f"bare {dtype}")
                    variable = file.createVariable(dtype, dtype, (f"x_{dtype}",), fill_value=value)
                else:
                    variable.setncattr(attribute, value)
                variable.set_auto_maskandscale(False)
                variable[:] = numbers(dtype)
        with xr.open_dataset(path, engine="activestore", cache=False) as ds:
            assert_all_like_loaded(ds, f"{attribute} {kind}")


JSON = {
    "text of a number": "-99",
    "text of no number": "none",
    "text of nothing": "",
    "true": "true",
    "a truth value": True,
    "null": None,
    "a vector": [-99, 3],
    "a vector of one": [-99],
    "ragged lists": [[-99], [3, 4]],
    "texts": ["-99", "none"],
    "text and numbers": ["none", 3],
    "nothing": [],
    "records": {"value": 3},
    "a whole number": -99,
    "a fraction": 2.5,
    "too large for f4": 1e40,
    "too large": 10**25,
}


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("kind", JSON)
def test_zarr_stores(tmp_path, zarr_format, kind):
    """JSON has one type for all numbers, and lists of any form."""
    for attribute in ATTRIBUTES:
        path = write_store(tmp_path / attribute, zarr_format, {attribute: JSON[kind], "comment": JSON["ragged lists"]})
        for dtype in ("i2", "f4"):
            assert Active(path, dtype).count() <= len(numbers(dtype))
        with xr.open_dataset(path, engine="activestore", cache=False, mask_and_scale=False) as plain:
            assert set(plain.data_vars) == {"i2", "f4", "other"}
        with xr.open_dataset(path, engine="activestore", cache=False) as ds:
            assert ds.other.active.mean().item() == 1.5
            assert_all_like_loaded(ds, f"{attribute} {kind}")


def write_store(path, zarr_format, attrs):
    """Write a store with numbers of two types that have these attributes, and one more array."""
    arrays = {dtype: (numbers(dtype), attrs) for dtype in ("i2", "f4")} | {"other": (np.array([1.0, 2.0]), {})}
    path.mkdir()
    root = {"zarr_format": zarr_format} | ({"node_type": "group", "attributes": {}} if zarr_format == 3 else {})
    (path / ("zarr.json" if zarr_format == 3 else ".zgroup")).write_text(json.dumps(root))
    for name, (values, own) in arrays.items():
        (path / name / "c").mkdir(parents=True)
        shape = list(values.shape)
        if zarr_format == 2:
            document = {"zarr_format": 2, "shape": shape, "chunks": shape, "dtype": values.dtype.str, "fill_value": None}
            document |= {"order": "C", "filters": None, "compressor": None}
            (path / name / ".zarray").write_text(json.dumps(document))
            (path / name / ".zattrs").write_text(json.dumps({"_ARRAY_DIMENSIONS": [f"x_{name}"], **own}))
            (path / name / "0").write_bytes(values.tobytes())
            continue
        document = {"zarr_format": 3, "node_type": "array", "shape": shape, "data_type": values.dtype.name, "fill_value": 0}
        document["chunk_grid"] = {"name": "regular", "configuration": {"chunk_shape": shape}}
        document["chunk_key_encoding"] = {"name": "default", "configuration": {"separator": "/"}}
        document |= {"codecs": [{"name": "bytes", "configuration": {"endian": "little"}}], "dimension_names": [f"x_{name}"]}
        (path / name / "zarr.json").write_text(json.dumps({**document, "attributes": own}))
        (path / name / "c" / "0").write_bytes(values.tobytes())
    return path


@pytest.mark.parametrize("attribute", ["scale_factor", "add_offset", "_FillValue", "missing_value"])
@pytest.mark.parametrize("value", [{"a": 1}, 10**40, [1, 2], [], "x", "NaN", None, True], ids=repr)
def test_one_variable_that_cannot_be_decoded_blocks_no_other(tmp_path, attribute, value):
    group = zarr.open_group(tmp_path / "a.zarr", mode="w", zarr_format=2)
    for name in ("odd", "v"):
        array = group.create_array(name, shape=(4, 3), chunks=(2, 3), dtype="i4", fill_value=None)
        array[...] = np.arange(12).reshape(4, 3)
        array.attrs["_ARRAY_DIMENSIONS"] = ["y", "x"]
    group["odd"].attrs[attribute] = value
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ds = xr.open_dataset(tmp_path / "a.zarr", engine="activestore")
    weights = xr.DataArray([1.0, 2, 1, 0], dims="y")
    labels = xr.DataArray([0, 1, 1, 0], dims="y", name="k")
    for reduce in (
        lambda one: one.mean(),
        lambda one: one.max("x"),
        lambda one: one.groupby(labels).mean(),
        lambda one: one.coarsen(y=2).max(),
        lambda one: one.weighted(weights).mean("y"),
    ):
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            found = reduce(ds.active)
        xr.testing.assert_allclose(found[["v"]], reduce(ds[["v"]].compute()))
        named = [str(one.message) for one in told if "'odd' is left out" in str(one.message)]
        # Of what it takes for text, xarray says nothing where it sees that before it reads.
        is_text = "odd" in ds and ds.odd.dtype.kind == "U"
        assert is_text or len(named) == ("odd" in ds and "odd" not in found)
        try:
            theirs = reduce(ds[["odd"]].compute())
        except (ArithmeticError, KeyError, TypeError, ValueError):
            theirs = None
        if theirs is None or "odd" not in theirs:
            assert "odd" not in found
        else:
            xr.testing.assert_allclose(found[["odd"]], theirs)
