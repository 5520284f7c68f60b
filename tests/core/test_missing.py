"""Which stored numbers are missing: the answers of netCDF4-python, of one attribute at a time."""

import warnings
from pathlib import Path
from typing import Any

import netCDF4
import numpy as np
import pytest

from activestore import Active
from activestore.core.missing import Missing, mask, read_missing

NAN = float("nan")
DEFAULT = netCDF4.default_fillvals


def netcdf_mask(path: Path) -> np.ndarray:
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        with netCDF4.Dataset(path) as file:
            return np.ma.getmaskarray(file["x"][...])


def save(path: Path, numbers: np.ndarray, *, fill: Any = None, container: str = "NETCDF4", **attrs: Any) -> Path:
    with netCDF4.Dataset(path, "w", format=container) as file:
        file.createDimension("d", len(numbers))
        variable = file.createVariable("x", numbers.dtype, ("d",), fill_value=fill)
        variable.set_auto_maskandscale(False)
        variable.setncatts(attrs)
        variable[...] = numbers
    return path


I2 = np.array([-32767, -32768, -3, -1, 0, 1, 2, 5, 32767], "i2")
F4 = np.array([NAN, -np.inf, -3, 0, 1, 2, 5, 1e20, DEFAULT["f4"], np.inf], "f4")

CASES: dict[str, tuple[np.ndarray, Any, dict[str, Any]]] = {
    "nothing set": (I2, None, {}),
    "filling off": (I2, False, {}),
    "filling off, bytes": (np.array([-127, 0, 127], "i1"), False, {}),
    "default of bytes": (np.array([-127, 0, 127], "i1"), None, {}),
    "default of unsigned bytes": (np.array([0, 254, 255], "u1"), None, {}),
    "default of u8": (np.array([0, DEFAULT["u8"], 2**64 - 1], "u8"), None, {}),
    "default of i8": (np.array([0, DEFAULT["i8"], -(2**63)], "i8"), None, {}),
    "fill value replaces the default": (I2, np.int16(1), {}),
    "fill value 0": (I2, np.int16(0), {}),
    "fill value NaN": (F4, np.float32(NAN), {}),
    "fill value infinite": (F4, np.float32(np.inf), {}),
    "one missing value, default kept": (I2, None, {"missing_value": np.int16(5)}),
    "missing value and fill value": (I2, np.int16(1), {"missing_value": np.int16(5)}),
    "several missing values": (I2, None, {"missing_value": np.array([1, 5], "i2")}),
    "missing value NaN": (F4, None, {"missing_value": np.float32(NAN)}),
    "missing values with NaN": (F4, None, {"missing_value": np.array([NAN, 2], "f4")}),
    "missing value of a wider type": (F4, None, {"missing_value": np.float64(1e20)}),
    "missing value of a wider type that fits": (F4, None, {"missing_value": np.float64(5)}),
    "missing value that the type cannot hold": (I2, None, {"missing_value": np.float64(1e20)}),
    "missing value with a fraction": (I2, None, {"missing_value": np.float64(0.5)}),
    "missing value that is text": (I2, None, {"missing_value": "5"}),
    "one of two missing values does not fit": (I2, None, {"missing_value": np.array([5, 70000], "i4")}),
    "valid_min 0": (I2, None, {"valid_min": np.int16(0)}),
    "valid_max 0": (I2, None, {"valid_max": np.int16(0)}),
    "valid_min and valid_max": (F4, None, {"valid_min": np.float32(0), "valid_max": np.float32(2)}),
    "valid_range": (I2, None, {"valid_range": np.array([-1, 2], "i2")}),
    "valid_range wins over valid_min": (I2, None, {"valid_range": np.array([-1, 2], "i2"), "valid_min": np.int16(1)}),
    "valid_range of one number": (I2, None, {"valid_range": np.int16(1), "valid_min": np.int16(0)}),
    "valid_range of three": (I2, None, {"valid_range": np.array([0, 1, 2], "i2")}),
    "valid_range that does not fit": (I2, None, {"valid_range": np.array([0, 1e9]), "valid_max": np.int16(1)}),
    "valid_min NaN": (F4, None, {"valid_min": np.float32(NAN)}),
    "unsigned": (I2, None, {"_Unsigned": "true"}),
    "unsigned with fill value": (I2, np.int16(-1), {"_Unsigned": "true"}),
    "unsigned with valid_max": (I2, None, {"_Unsigned": "True", "valid_max": np.int16(-3)}),
    "unsigned with missing value": (I2, None, {"_Unsigned": "true", "missing_value": np.int16(-3)}),
    "not unsigned": (I2, np.int16(-1), {"_Unsigned": "false", "valid_min": np.int16(-2)}),
}


@pytest.mark.parametrize("case", CASES)
def test_masks_what_netcdf4_masks(case: str, tmp_path: Path) -> None:
    numbers, fill, attrs = CASES[case]
    path = save(tmp_path / "a.nc", numbers, fill=fill, **attrs)
    assert np.ma.getmaskarray(Active(path, "x").read()).tolist() == netcdf_mask(path).tolist()


@pytest.mark.parametrize("case", [case for case in CASES if CASES[case][0].dtype.str[1:] in {"i1", "i2", "f4"}])
def test_masks_what_netcdf4_masks_in_classic_files(case: str, tmp_path: Path) -> None:
    numbers, fill, attrs = CASES[case]
    path = save(tmp_path / "a.nc", numbers, fill=fill, container="NETCDF3_CLASSIC", **attrs)
    assert np.ma.getmaskarray(Active(path, "x").read()).tolist() == netcdf_mask(path).tolist()


def test_unsigned_bytes_of_a_classic_file_have_no_default_fill_value(tmp_path: Path) -> None:
    # netCDF4-python fails here if any of them is missing: its default fill value, -127, is no unsigned byte.
    path = save(
        tmp_path / "a.nc", np.array([-127, 3], "i1"), container="NETCDF3_CLASSIC", _Unsigned="true", valid_max=np.int8(5)
    )
    read = Active(path, "x").read()
    assert read.tolist() == [None, 3]


@pytest.mark.parametrize("skipna", [True, False])
def test_nan_is_missing_if_asked_or_if_an_attribute_says_so(skipna: bool) -> None:
    array = np.array([NAN, 1.0])
    found = mask(array, Missing(), skipna=skipna)
    assert (found is not None) == skipna
    named = mask(array, Missing(values=(NAN,)), skipna=skipna)
    assert named is not None
    assert named.tolist() == [True, False]


def test_zero_is_a_number_like_others() -> None:
    missing = read_missing({"_FillValue": np.int16(0), "valid_min": np.int16(0)}, np.dtype("i2"), filled=True)
    assert missing == Missing(values=(0,), valid_min=0)


def test_the_greatest_numbers_of_64_bits_are_exact() -> None:
    missing = read_missing({"missing_value": np.uint64(2**64 - 1)}, np.dtype("u8"), filled=False)
    found = mask(np.array([2**64 - 1, 2**64 - 2], "u8"), missing, skipna=True)
    assert found is not None
    assert found.tolist() == [True, True] if DEFAULT["u8"] == 2**64 - 2 else [True, False]


def test_nothing_missing_is_none() -> None:
    assert mask(np.arange(3.0), Missing(values=(7,), valid_min=0, valid_max=9), skipna=True) is None


@pytest.mark.parametrize("dtype", ["i1", "u2", "i8", "u8", "f4", "f8"])
@pytest.mark.parametrize("number", [1, 8, 9, 300])
def test_many_missing_values_are_found_as_few_are(dtype: str, number: int) -> None:
    random = np.random.default_rng(number)
    array = random.integers(0, 100, (20, 7, 5)).astype(dtype)
    if array.dtype.kind == "f":
        array.flat[::11] = NAN
    # Python's numbers, as they are read: each is one of the type.
    values = random.integers(0, 127, number).astype(dtype).tolist()
    expected = np.isin(array, values)
    found = mask(array, Missing(values=tuple(values)), skipna=False)
    assert np.array_equal(np.zeros_like(expected) if found is None else found, expected)
    with_nan = mask(array, Missing(values=(*values, NAN)), skipna=False)
    if array.dtype.kind == "f":
        assert np.array_equal(with_nan, expected | np.isnan(array))


@pytest.mark.parametrize("stored", [105, 3])
@pytest.mark.parametrize("attrs", [{}, {"valid_max": 100.0}, {"scale_factor": 0.5, "add_offset": 1.0}])
def test_a_scalar_with_many_missing_values(stored: float, attrs: dict[str, float], tmp_path: Path) -> None:
    with netCDF4.Dataset(tmp_path / "a.nc", "w") as file:
        variable = file.createVariable("x", "f8", ())
        variable.set_auto_maskandscale(False)
        variable.setncatts({"missing_value": np.arange(100.0, 112.0), **attrs})
        variable[...] = stored
    with netCDF4.Dataset(tmp_path / "a.nc") as file:
        wanted = file["x"][...]
    for found in (Active(tmp_path / "a.nc", "x").mean(), Active(tmp_path / "a.nc", "x").reduce("max", where="< 1e9")):
        assert found is np.ma.masked if wanted is np.ma.masked else found == wanted
    assert Active(tmp_path / "a.nc", "x").count() == (stored == 3)
