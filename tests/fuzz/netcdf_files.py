"""netCDF files as netCDF4-python and SciPy write them."""

import math
import warnings
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import netCDF4
import numpy as np
from scipy.io import netcdf_file

from tests.fuzz import attributes, values
from tests.fuzz.case import NAME, File
from tests.fuzz.values import base_type

__all__ = ["drawn_by_netcdf4", "drawn_by_scipy", "masked", "name_of", "write_by_netcdf4", "write_by_scipy"]

_CLASSIC = ("NETCDF3_CLASSIC", "NETCDF3_64BIT_OFFSET", "NETCDF3_64BIT_DATA", "NETCDF4_CLASSIC")
_COMPRESSIONS = ("zlib", "zlib", "zstd", "bzip2", "blosc_lz", "blosc_zstd", "szip")


def drawn_by_netcdf4(random: Random, shape: tuple[int, ...], dtype: str | None = None) -> File:
    """Return a file of that shape with features of any kind."""
    options: dict[str, Any] = {"format": random.choice(["NETCDF4"] * 6 + list(_CLASSIC))}
    narrow = options["format"] in _CLASSIC and options["format"] != "NETCDF3_64BIT_DATA"
    types = attributes.CLASSIC_TYPES if narrow else attributes.TYPES
    if dtype is None or dtype[1:] not in types:
        dtype = random.choice("<<>") + random.choice(types)
        if options["format"] == "NETCDF4" and random.random() < 0.08:
            dtype = "enum:u1"
    base, palette, seed = base_type(dtype), random.choice(list(values.PALETTES)), random.randrange(1000)
    records = options["format"] in _CLASSIC
    options["grows"] = tuple((at == 0 or not records) and n > 0 and random.random() < 0.3 for at, n in enumerate(shape))
    if options["format"].startswith("NETCDF4") and shape and math.prod(shape):
        _draw_storage(random, shape, options, base)
    _draw_contents(random, shape, options, values.palette(palette, base, seed))
    attrs = attributes.drawn(random, base, values.palette(palette, base, seed), types=types)
    if dtype.startswith("enum:"):
        attrs = {name: given for name, given in attrs.items() if name in attributes.MISSING}
    attrs.pop("_FillValue", None)  # the library takes it as a fill value only
    if dtype[0] == ">" and not records:
        attrs.pop("_Unsigned", None)  # netCDF4-python then swaps the bytes of missing values
    return File("netCDF4", dtype, shape, palette, seed, options, attrs)


def _draw_contents(random: Random, shape: tuple[int, ...], options: dict[str, Any], near: list[np.generic]) -> None:
    if random.random() < 0.4:
        options["fill"] = random.choice([False, *(number.item() for number in near[:3])])
    if random.random() < 0.25 and options.get("fill") is not False and math.prod(shape):
        options["written"] = values.bounds(random, shape)
    if random.random() < 0.2 and options["format"] == "NETCDF4":
        options["group"] = random.choice(["g", "outer/inner"])
    if random.random() < 0.3 and shape:
        options["neighbours"] = tuple(random.choices(attributes.CLASSIC_TYPES, k=random.randint(1, 2)))
    if len(shape) == 2 and shape[0] == shape[1] and random.random() < 0.5:
        options["repeated"] = True


def _draw_storage(random: Random, shape: tuple[int, ...], options: dict[str, Any], base: np.dtype) -> None:
    if random.random() < 0.25 and not any(options["grows"]):
        options["contiguous"] = True
        return
    options["chunks"] = tuple(random.randint(1, n) for n in shape)
    if random.random() < 0.6:
        options["compression"] = random.choice(_COMPRESSIONS)
    for name in ("shuffle", "fletcher32"):
        if random.random() < 0.3:
            options[name] = True
    if base.kind == "f" and random.random() < 0.15:
        options["least_significant_digit" if random.random() < 0.5 else "significant_digits"] = random.randint(1, 4)


def name_of(file: File) -> str:
    """Return the variable's name, with its groups."""
    return "/".join([*filter(None, [file.options.get("group")]), NAME])


def write_by_netcdf4(file: File, folder: Path) -> Path:
    """Write the file."""
    path, options, base = folder / "a.nc", file.options, base_type(file.dtype)
    numbers = values.numbers(file.values, base, file.shape, file.seed)
    with netCDF4.Dataset(path, "w", format=options.get("format", "NETCDF4")) as root:
        group = root.createGroup(options["group"]) if "group" in options else root
        dims = tuple("d0" if "repeated" in options else f"d{i}" for i in range(len(file.shape)))
        grows = options.get("grows", [False] * len(dims))
        for name, length, unlimited in dict(zip(dims, zip(dims, file.shape, grows, strict=True), strict=True)).values():
            group.createDimension(name, None if unlimited else length)
        others = options.get("neighbours", ())
        for i, kind in enumerate(others[:1]):
            group.createVariable(f"before{i}", kind, dims[:1])[...] = np.arange(file.shape[0]) % 7
        kind = base if root.data_model in ("NETCDF4", "NETCDF4_CLASSIC") else base.newbyteorder("=")
        if file.dtype.startswith("enum:"):
            kind = group.createEnumType(base, "kinds", {f"v{i}": i for i in range(int(np.iinfo(base).max) + 1)})
        fill = options.get("fill")
        fill = fill if fill is None or fill is False else values.held(fill, base.newbyteorder("="))
        variable = group.createVariable(NAME, kind, dims, fill_value=fill, **_keywords(file))
        for i, kind in enumerate(others[1:]):
            group.createVariable(f"behind{i}", kind, dims[:1])[...] = np.arange(file.shape[0]) % 5
        variable.set_auto_maskandscale(False)
        for name, given in file.attrs.items():
            variable.setncattr(name, attributes.as_numpy(given))
        where = tuple(slice(*bounds) for bounds in _written(file))
        if numbers[where].size:
            variable[where] = numbers[where]
    return path


def _written(file: File) -> Iterator[tuple[int, int]]:
    """Yield bounds of what is written; up to the end where that makes the length."""
    every = [(0, n) for n in file.shape]
    grows = file.options.get("grows", [False] * len(every))
    for (first, last), (_, n), unlimited in zip(file.options.get("written", every), every, grows, strict=True):
        # Of the others some too, or nothing at all is written.
        yield (min(first, n - 1), n) if unlimited else (min(first, max(n - 1, 0)), max(last, min(first + 1, n)))


def _keywords(file: File) -> dict[str, Any]:
    """Return what `createVariable` takes."""
    options = file.options
    found = {
        name: options[name]
        for name in ("compression", "fletcher32", "contiguous", "least_significant_digit")
        if name in options
    }
    found |= {name: options[name] for name in ("significant_digits",) if name in options}
    if found.get("compression", "zlib") == "zlib":
        found["shuffle"] = "shuffle" in options
    if "chunks" in options:
        found["chunksizes"] = options["chunks"]
    if options.get("format", "NETCDF4").startswith("NETCDF4") and file.dtype[0] in "<>":
        found["endian"] = "little" if file.dtype[0] == "<" else "big"
    return found


def drawn_by_scipy(random: Random, shape: tuple[int, ...], dtype: str | None = None) -> File:
    """Return a file of that shape as SciPy writes it."""
    if dtype is None or dtype[1:] not in attributes.CLASSIC_TYPES:
        dtype = ">" + random.choice(attributes.CLASSIC_TYPES)
    dtype, palette, seed = ">" + dtype[1:], random.choice(list(values.PALETTES)), random.randrange(1000)
    base = np.dtype(dtype)
    options: dict[str, Any] = {
        "version": random.choice([1, 2]),
        "record": bool(shape) and shape[0] > 0 and random.random() < 0.5,
    }
    if shape and random.random() < 0.4:
        options["neighbours"] = tuple(random.choice(attributes.CLASSIC_TYPES) for _ in range(random.randint(1, 2)))
    attrs = attributes.drawn(random, base, values.palette(palette, base, seed), types=attributes.CLASSIC_TYPES)
    return File("scipy", dtype, shape, palette, seed, options, attrs)


def write_by_scipy(file: File, folder: Path) -> Path:
    """Write the file."""
    path, numbers = folder / "a.nc", values.numbers(file.values, np.dtype(file.dtype), file.shape, file.seed)
    target = netcdf_file(path, "w", version=file.options.get("version", 1))
    dims = tuple(f"d{i}" for i in range(len(file.shape)))
    for i, (name, length) in enumerate(zip(dims, file.shape, strict=True)):
        target.createDimension(name, None if file.options.get("record") and i == 0 else length)
    others = file.options.get("neighbours", ())
    for i, kind in enumerate(others[:1]):
        target.createVariable(f"before{i}", np.dtype(kind), dims[:1])[: file.shape[0]] = np.arange(file.shape[0]) % 7
    variable = target.createVariable(NAME, np.dtype(file.dtype).newbyteorder("="), dims)
    for i, kind in enumerate(others[1:]):
        target.createVariable(f"behind{i}", np.dtype(kind), dims[:1])[: file.shape[0]] = np.arange(file.shape[0]) % 5
    if file.options.get("record"):
        variable[: file.shape[0]] = numbers
    else:
        variable.data[...] = numbers
    for name, given in file.attrs.items():
        value = attributes.as_numpy(given)
        setattr(variable, name, value.encode() if isinstance(value, str) else value)
    target.close()
    return path


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
