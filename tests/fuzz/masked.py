"""Values as netCDF4-python gives them, with automatic masking and scaling."""

import warnings
from pathlib import Path

import netCDF4
import numpy as np

from tests.fuzz.case import NAME

__all__ = ["base_type", "masked"]


def base_type(dtype: str) -> np.dtype:
    """Return the type of the numbers of a variable, those of an enumeration too."""
    return np.dtype(dtype.removeprefix("enum:"))


def masked(path: Path, name: str = NAME) -> np.ma.MaskedArray:
    """Return the values as netCDF4-python gives them, with automatic masking and scaling."""
    # It warns of attributes that it ignores, and of some that overflow when it looks whether they fit.
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        with netCDF4.Dataset(path) as file:
            found, shape = file[name][...], file[name].shape
            file[name].set_auto_mask(False)
            dtype = file[name][...].dtype.newbyteorder("=")
    # A scalar that is missing comes as the constant `numpy.ma.masked`, which has a type of its own.
    return np.ma.MaskedArray(np.ma.getdata(found).reshape(shape).astype(dtype), mask=np.ma.getmaskarray(found).reshape(shape))
