"""How close a result of `.active` has to be to xarray's own, and the comparison."""

import warnings

import numpy as np
import xarray as xr

__all__ = ["Reference", "assert_like", "assert_reduction", "assert_values", "rounding", "units_in_the_last_place"]

EXACT = ("any", "all", "argmax", "argmin", "count", "max", "min", "ptp")


def rounding(method, cells, magnitude, dtype):
    """Return how far two results of one reduction of `cells` numbers may be apart if their sums are kept in `dtype`.

    Adding up n numbers one by one, none larger than M, is off by n * eps * (n * M) at most, so that their mean is off by
    n * eps * M. A standard deviation, which is no larger than M, inherits that of the mean; a variance, no larger than M * M,
    twice that, times M. Unpacking and the last steps add a few eps.
    """
    if method in EXACT or not np.isfinite(magnitude):
        return 0.0
    off = (cells + 8) * float(np.finfo(dtype).eps) / 2 * magnitude
    return {"sum": off * max(cells, 1), "var": 2 * off * magnitude}.get(method, off)


def assert_like(found, wanted, what=""):
    """Assert that two arrays agree in all but the values: type, name, dimensions, coordinates, attributes."""
    assert isinstance(found, xr.DataArray), what
    assert (found.dims, found.shape, found.name) == (wanted.dims, wanted.shape, wanted.name), what
    assert found.dtype == wanted.dtype, f"{what}: {found.dtype} is not {wanted.dtype}"
    assert set(found.coords) == set(wanted.coords), what
    for name, coord in wanted.coords.items():
        assert found.coords[name].variable.identical(coord.variable), f"{what}: {name}"
    assert set(found.indexes) == set(wanted.indexes), what
    assert xr.Variable((), 0, found.attrs).identical(xr.Variable((), 0, wanted.attrs)), what


def assert_values(found, wanted, off, what=""):
    """Assert that values are the same, or `off` apart at most; NaN where NaN is wanted."""
    found, wanted = np.asarray(found), np.asarray(wanted)
    with np.errstate(all="ignore"):
        same = (found == wanted) | ((found != found) & (wanted != wanted))
        if not np.all(same):
            same |= np.abs(found.astype("f8") - wanted.astype("f8")) <= off
    assert np.all(same), f"{what}: {found[~same][:5]} is not {wanted[~same][:5]}, give or take {np.max(off)}"


def units_in_the_last_place(values, dtype):
    """Return the distance of each number to the next one of the type."""
    with np.errstate(all="ignore"):
        return np.nan_to_num(np.abs(np.spacing(np.asarray(values).astype(dtype))).astype("f8"))


class Reference:
    """An array in memory, or groups of it along a dimension, and what xarray makes of them."""

    def __init__(self, array, groups=None):
        self.array, self.groups = array, groups
        self.floating = array.dtype.kind == "f"
        self.wide = array.astype("f8") if self.floating and array.dtype != "f8" else array
        sizes = np.abs(array.values.astype("f8"))
        self.magnitude = float(np.max(sizes, where=np.isfinite(sizes), initial=0))

    def reduced(self, array, method, dim, **options):
        """Return what xarray's method gives of the array in some type."""
        return getattr(array if self.groups is None else array.groupby(self.groups), method)(dim, **options)

    def assert_reduction(self, found, method, dim, **options):
        """Assert that `found` is what xarray's method gives.

        Its sums are in 64 bits, xarray's own in the type of the values. So it has to be what xarray gives of the values in
        64 bits, cast to the type of the result: to 2 units in the last place, and the rounding of 64 bits. And what xarray
        gives as it is: to the rounding of that type.
        """
        array = self.array
        what = f"{method}({dim!r}, {options}) of {array.name} {dict(array.sizes)} {array.dtype}"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # NumPy's, of moments of nothing
            wanted = self.reduced(array, method, dim, **options)
            assert_like(found, wanted, what)
            if method in EXACT or wanted.dtype.kind != "f":
                assert_values(found, wanted, 0, what)
                return
            wide = wanted if self.wide is array else self.reduced(self.wide, method, dim, **options)
        cells = int(np.prod([array.sizes[one] for one in array.dims if one not in wanted.dims], dtype=object))
        with np.errstate(all="ignore"):
            cast = wide.values.astype(found.dtype)
        ulps = 2 * units_in_the_last_place(cast, found.dtype)
        assert_values(found, cast, ulps + rounding(method, cells, self.magnitude, "f8"), f"{what} in 64 bits")
        own = array.dtype if self.floating else np.dtype("f8")
        power = 2 if method in ("std", "var") else 1
        if own == "f8" or cells * self.magnitude**power < float(np.finfo(own).max):
            # Beyond, xarray's own sums may have grown out of the type.
            assert_values(found, wanted, ulps + rounding(method, cells, self.magnitude, own), what)


def assert_reduction(found, array, method, dim, **options):
    """Assert that `found` is what xarray's method gives of `array`, as `Reference` says."""
    Reference(array).assert_reduction(found, method, dim, **options)
