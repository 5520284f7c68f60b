"""Unpacking: the numbers and types of netCDF4-python."""

import json
import warnings
from pathlib import Path
from typing import Any

import h5py
import netCDF4
import numpy as np
import pytest
import xarray as xr
from xarray.coding.variables import _scale_offset_decoding

import activestore.accessor  # noqa: F401  # registers .active
from activestore import Active
from activestore.core.packing import Packing, read_packing, unpack, unpacked_dtype, unpacks_afterwards
from activestore.core.wire.encode import tasks_from_json, tasks_to_json

ATTRS: dict[str, dict[str, Any]] = {
    "scale of single precision": {"scale_factor": np.float32(0.1)},
    "scale of double precision": {"scale_factor": np.float64(0.1)},
    "negative scale": {"scale_factor": np.float64(-0.25), "add_offset": np.float64(1)},
    "offset only": {"add_offset": np.float64(273.15)},
    "mixed precision": {"scale_factor": np.float32(0.1), "add_offset": np.float64(0.1)},
    "mixed precision, the other way": {"scale_factor": np.float64(0.1), "add_offset": np.float32(0.1)},
    "scale 1": {"scale_factor": np.float64(1)},
    "offset 0": {"add_offset": np.float64(0)},
    "scale 1 and offset 0": {"scale_factor": np.float32(1), "add_offset": np.float32(0)},
    "scale 1 and an offset": {"scale_factor": np.float32(1), "add_offset": np.float32(7)},
    "scale and offset 0": {"scale_factor": np.float32(0.5), "add_offset": np.float64(0)},
    "integers": {"scale_factor": np.int16(2), "add_offset": np.int32(100)},
    "an offset that is not a number": {"scale_factor": np.float64(0.5), "add_offset": "none"},
    "a scale that is not a number": {"scale_factor": "none", "add_offset": np.float64(1)},
    "a scale of NaN": {"scale_factor": np.float32(np.nan)},
    "an infinite scale": {"scale_factor": np.float64(-np.inf), "add_offset": np.float64(1)},
    "an infinite offset": {"add_offset": np.float32(np.inf)},
    "several scales": {"scale_factor": np.array([1.0, 2.0]), "add_offset": np.float64(1)},
}


@pytest.mark.parametrize("case", ATTRS)
@pytest.mark.parametrize("dtype", ["i1", "u1", "i2", "i4", "u8", "f4", "f8"])
def test_values_and_type_are_those_of_netcdf4(case: str, dtype: str, tmp_path: Path) -> None:
    stored = np.array([0, 1, 2, 100, 101], dtype)
    with netCDF4.Dataset(tmp_path / "a.nc", "w") as file:
        file.createDimension("d", len(stored))
        variable = file.createVariable("x", dtype, ("d",), fill_value=False)
        variable.set_auto_maskandscale(False)
        variable.setncatts(ATTRS[case])
        variable[...] = stored
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with netCDF4.Dataset(tmp_path / "a.nc") as file:
            wanted = file["x"][...]
    active = Active(tmp_path / "a.nc", "x")
    assert active.dtype == wanted.dtype
    np.testing.assert_array_equal(active.read(), wanted)
    # NaN is not a number, whoever made it.
    valid = wanted[~np.isnan(wanted)]
    found = active.reduce(("count", "min", "max"))
    assert found["count"] == valid.size
    if not valid.size:
        assert found["min"] is found["max"] is np.ma.masked
        return
    assert (found["min"], found["max"]) == (valid.min(), valid.max())
    assert active.min().dtype == wanted.dtype


def test_a_negative_scale_swaps_least_and_greatest(tmp_path: Path) -> None:
    with netCDF4.Dataset(tmp_path / "a.nc", "w") as file:
        file.createDimension("d", 4)
        variable = file.createVariable("x", "i2", ("d",))
        variable.set_auto_maskandscale(False)
        variable.scale_factor = np.float64(-2)
        variable[...] = np.array([1, 5, 5, 3], "i2")
    active = Active(tmp_path / "a.nc", "x")
    assert active.reduce(("min", "max", "argmin", "argmax", "ptp", "sum")) == {
        "min": -10,
        "max": -2,
        "argmin": 1,
        "argmax": 0,
        "ptp": 8,
        "sum": -28,
    }


@pytest.mark.parametrize("reduction", ["argmin", "argmax"])
def test_the_first_of_values_that_unpacking_makes_equal(reduction: str, tmp_path: Path) -> None:
    # The offset swallows the difference of the stored numbers, as it does in netCDF4-python.
    with netCDF4.Dataset(tmp_path / "a.nc", "w") as file:
        file.createDimension("d", 3)
        variable = file.createVariable("x", "i2", ("d",))
        variable.set_auto_maskandscale(False)
        variable.add_offset = np.float64(1e20)
        variable[...] = np.array([2, 3, 1], "i2")
    with netCDF4.Dataset(tmp_path / "a.nc") as file:
        wanted = getattr(np.asarray(file["x"][...]), reduction)()
    assert Active(tmp_path / "a.nc", "x").reduce(reduction) == wanted == 0


def test_an_array_without_dimensions_stays_an_array() -> None:
    packing = read_packing({"scale_factor": np.float32(2)})
    assert packing is not None
    assert isinstance(unpack(np.array(3, "i2"), packing), np.ndarray)


def test_types_follow_the_attributes() -> None:
    packing = read_packing({"scale_factor": np.float32(2)})
    assert unpacked_dtype(np.dtype(">i2"), packing) == np.dtype("f4")
    assert unpacked_dtype(np.dtype("i4"), packing) == np.dtype("f8")
    assert unpacked_dtype(np.dtype(">f8"), None) == np.dtype("f8")


def test_a_product_in_single_precision_is_rounded_to_it(tmp_path: Path) -> None:
    # 255 * 0.1 is 25.5 in single precision and 25.50000038 in double; the offset makes a double of it only then.
    with netCDF4.Dataset(tmp_path / "a.nc", "w") as file:
        file.createDimension("d", 1)
        variable = file.createVariable("x", "u1", ("d",), fill_value=False)
        variable.set_auto_maskandscale(False)
        variable.scale_factor, variable.add_offset = np.float32(0.1), np.float64(0.5)
        variable[...] = np.array([255], "u1")
    active = Active(tmp_path / "a.nc", "x")
    assert active.read().tolist() == [26.0]
    assert active.sum() == pytest.approx(26.0, rel=1e-12)


def test_integers_packed_with_an_integer_scale_are_summed_as_integers(tmp_path: Path) -> None:
    with netCDF4.Dataset(tmp_path / "a.nc", "w") as file:
        file.createDimension("d", 2)
        variable = file.createVariable("x", "i2", ("d",))
        variable.set_auto_maskandscale(False)
        variable.scale_factor = np.int16(2)
        variable[...] = np.array([3, 4], "i2")
    assert Active(tmp_path / "a.nc", "x").sum().dtype == np.int64


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_packed_integers_of_64_bits_do_not_overflow(reduction: str, tmp_path: Path) -> None:
    with netCDF4.Dataset(tmp_path / "a.nc", "w") as file:
        file.createDimension("d", 3)
        variable = file.createVariable("x", "i8", ("d",))
        variable.set_auto_maskandscale(False)
        variable.scale_factor = np.float64(0.5)
        variable[...] = np.full(3, 2**62)
    found = Active(tmp_path / "a.nc", "x").reduce(("sum", "mean"))
    assert found[reduction] == {"sum": 3 * 2.0**61, "mean": 2.0**61}[reduction]


TYPED: dict[str, dict[str, Any]] = {
    "nothing": {},
    "scale": {"scale_factor": np.float32(0.1)},
    "scale of double precision": {"scale_factor": np.float64(0.1)},
    "negative scale and an offset": {"scale_factor": np.float32(-0.25), "add_offset": np.float64(0.1)},
    "integers": {"scale_factor": np.int16(2), "add_offset": np.int32(100)},
    "scale 1 and offset 0": {"scale_factor": np.float64(1), "add_offset": np.float64(0)},
}


def typed(case: str, dtype: str) -> Packing:
    """Return a packing as xarray's coders have it: nothing is left out, and there is a type to compute in."""
    scale, offset = (TYPED[case].get(name) for name in ("scale_factor", "add_offset"))
    parts = [(None, "<f8") if one is None else (float(one), one.dtype.str) for one in (scale, offset)]
    return Packing(*parts[0], *parts[1], dtype)


@pytest.mark.parametrize("case", TYPED)
@pytest.mark.parametrize("dtype", ["f4", "<f8"])
@pytest.mark.parametrize("stored", ["i1", "u2", "i4", "i8", "f4", "f8"])
def test_values_in_one_type_are_those_of_xarray(case: str, dtype: str, stored: str) -> None:
    numbers = np.array([0, 1, 2, 100, 101], stored)
    scale, offset = (TYPED[case].get(name) for name in ("scale_factor", "add_offset"))
    wanted = _scale_offset_decoding(numbers, scale, offset, np.dtype(dtype))
    before = numbers.copy()
    found = unpack(numbers, typed(case, dtype))
    assert found.dtype == wanted.dtype == unpacked_dtype(np.dtype(stored), typed(case, dtype))
    assert found.tobytes() == wanted.tobytes()
    assert np.array_equal(numbers, before)
    scalar = unpack(numbers[3:4].reshape(()), typed(case, dtype))
    assert isinstance(scalar, np.ndarray)
    assert scalar == wanted[3]


@pytest.mark.parametrize("case", TYPED)
@pytest.mark.parametrize("dtype", ["<f4", "f8"])
@pytest.mark.parametrize("stored", ["i2", "i8", "f4"])
def test_reductions_of_values_in_one_type(case: str, dtype: str, stored: str, tmp_path: Path) -> None:
    numbers = (np.random.default_rng(0).normal(size=(6, 5)) * 1000).astype(stored)
    with netCDF4.Dataset(tmp_path / "a.nc", "w") as file:
        file.createDimension("y", 6)
        file.createDimension("x", 5)
        variable = file.createVariable("v", stored, ("y", "x"), fill_value=numbers[1, 2], chunksizes=(2, 5))
        variable.set_auto_maskandscale(False)
        variable[...] = numbers
    active = Active(tmp_path / "a.nc", "v")
    packing = typed(case, dtype)
    active = active.with_decoding(dtype=active.variable.dtype, missing=active.variable.missing, packing=packing)
    wanted = np.ma.masked_array(unpack(numbers, packing), numbers == numbers[1, 2])
    assert active.dtype == np.dtype(dtype)
    found = active.reduce(("min", "max", "sum", "mean", "std", "argmin", "count", "any"), "y")
    for name in ("min", "max", "count", "any"):
        assert np.ma.getdata(found[name]).dtype == np.asarray(getattr(wanted, name)(axis=0)).dtype
        assert np.array_equal(found[name], getattr(wanted, name)(axis=0))
    assert np.array_equal(found["argmin"], wanted.argmin(axis=0))
    for name in ("sum", "mean", "std"):
        np.testing.assert_allclose(found[name], getattr(wanted.astype("f8"), name)(axis=0), rtol=1e-12, atol=1e-9)


def test_what_may_be_unpacked_afterwards() -> None:
    scale = np.float32(0.1)
    assert unpacks_afterwards(np.dtype("i2"), Packing(float(scale), "<f4", None, "<f8", "f8"))
    assert unpacks_afterwards(np.dtype(">u8"), Packing(0.1, "<f8", -273.15, "<f8"))
    assert unpacks_afterwards(np.dtype("f4"), Packing(0.1, "<f8", None, "<f8"))
    # Only double precision, of numbers and a packing that nothing makes overflow or vanish.
    assert not unpacks_afterwards(np.dtype("i2"), Packing(0.1, "<f8", None, "<f8", "f4"))
    assert not unpacks_afterwards(np.dtype(">f8"), Packing(0.1, "<f8", None, "<f8"))
    for odd in (0.0, 1e300, -1e-300, np.inf, np.nan):
        assert not unpacks_afterwards(np.dtype("i2"), Packing(odd, "<f8", None, "<f8"))
    assert not unpacks_afterwards(np.dtype("i2"), Packing(None, "<f8", 1e308, "<f8"))


EXTREME: dict[str, tuple[str, list[float], dict[str, Any]]] = {
    "a sum that overflows as stored": ("f8", [1e308] * 10, {"scale_factor": 1e-300}),
    "squares that overflow as stored": ("f8", [1e200, 3e200, 5e200], {"scale_factor": 1e-200}),
    "squares that vanish as stored": ("f8", [1e-200, 3e-200, 5e-200], {"scale_factor": 1e150}),
    "a sum of single precision": ("f4", [1e38, -2e38, 3e38], {"scale_factor": np.float64(1e-38)}),
    "an offset many times": ("i2", [-1, -1, -1], {"scale_factor": 1e308, "add_offset": 1e308}),
    "offsets that cancel": ("f8", [-1.5e308, -1.2e308, -1.4e308], {"add_offset": 1.5e308}),
    "a scale next to nothing": ("i4", [10**9, -(10**9), 3], {"scale_factor": 1e-158}),
    "a scale of 0": ("i2", [1, 2, 3], {"scale_factor": 0.0, "add_offset": 4.0}),
    "an infinite offset": ("i2", [1, 2, 3], {"add_offset": np.inf}),
    "a scale that is NaN": ("i2", [1, 2, 3], {"scale_factor": np.nan}),
}


@pytest.mark.parametrize("case", EXTREME)
def test_packing_of_any_size(case: str, tmp_path: Path) -> None:
    dtype, stored, attrs = EXTREME[case]
    with netCDF4.Dataset(tmp_path / "a.nc", "w") as file:
        file.createDimension("d", len(stored))
        variable = file.createVariable("x", dtype, ("d",), fill_value=False, chunksizes=(1,))
        variable.set_auto_maskandscale(False)
        variable.setncatts(attrs)
        variable[...] = np.array(stored, dtype)
    with netCDF4.Dataset(tmp_path / "a.nc") as file, np.errstate(all="ignore"):
        values = np.ma.getdata(file["x"][...])
        found = Active(tmp_path / "a.nc", "x").reduce(("sum", "mean", "min", "max", "var", "std"), skipna=False)
        for name, value in found.items():
            np.testing.assert_allclose(value, getattr(values, name)(), rtol=1e-12, err_msg=name)
            alone = Active(tmp_path / "a.nc", "x").reduce(name, skipna=False)
            np.testing.assert_allclose(alone, getattr(values, name)(), rtol=1e-12, err_msg=name)


LARGE: dict[str, dict[str, Any]] = {
    "scale": {"scale_factor": np.int64(2**53 + 1)},
    "offset": {"add_offset": np.int64(2**60 + 1)},
    "both": {"scale_factor": np.int64(-1), "add_offset": np.int64(2**62 + 3)},
    "the greatest": {"add_offset": np.uint64(2**64 - 1)},
    "the greatest, and a float": {"scale_factor": np.uint64(2**64 - 1), "add_offset": 0.5},
    "the least": {"add_offset": np.int64(-(2**63))},
}


@pytest.mark.filterwarnings("ignore::activestore.errors.FallbackWarning")  # xarray makes integers of doubles, NaN and all
@pytest.mark.parametrize("case", LARGE)
@pytest.mark.parametrize("stored", ["i1", "i4", "u4", "i8", "u8", "f8"])
def test_scales_and_offsets_that_only_64_bits_hold(case: str, stored: str, tmp_path: Path) -> None:
    numbers = np.array([1, 2, 3, 100], stored)
    with netCDF4.Dataset(tmp_path / "a.nc", "w") as file:
        file.createDimension("d", len(numbers))
        variable = file.createVariable("x", stored, ("d",), fill_value=False)
        variable.set_auto_maskandscale(False)
        variable.setncatts(LARGE[case])
        variable[...] = numbers
    with netCDF4.Dataset(tmp_path / "a.nc") as file, np.errstate(all="ignore"):
        wanted = np.ma.getdata(file["x"][...])
    active = Active(tmp_path / "a.nc", "x")
    assert active.dtype == wanted.dtype
    assert active.read().tolist() == wanted.tolist()
    assert (active.min(), active.max()) == (wanted.min(), wanted.max())
    exact = wanted.astype(object).sum()
    if wanted.dtype.kind == "f":
        assert active.sum() == pytest.approx(exact, rel=1e-15)
    elif np.iinfo(wanted.dtype).min <= exact <= np.iinfo(wanted.dtype).max:
        assert active.sum() == exact
    # xarray computes in floating point, and rounds the attributes to that.
    with xr.open_dataset(tmp_path / "a.nc", engine="netcdf4") as theirs, np.errstate(all="ignore"):
        ours = xr.open_dataset(tmp_path / "a.nc", engine="activestore")
        assert ours.x.active.max().dtype == theirs.x.dtype
        assert ours.x.active.max() == theirs.x.max()
        assert ours.x.active.min() == theirs.x.min()


@pytest.mark.parametrize(
    "number", [np.int64(2**53 + 1), np.uint64(2**64 - 1), np.int16(-7), np.float32(0.1), np.float64(1e-300)]
)
def test_packing_travels_as_it_is(number: Any, tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("x", data=np.arange(4, dtype="i4"), chunks=(2,)).attrs.update(
            scale_factor=number, add_offset=number
        )
    tasks = list(Active(tmp_path / "a.h5", "x").plan("any").tasks())
    said = json.loads(json.dumps(tasks_to_json(tasks)))
    (other, _) = tasks_from_json(said, largest_chunk=1 << 20, most_tasks=2)
    assert other.template.packing == tasks[0].template.packing
    assert other.template.packing.scale == number.item()
