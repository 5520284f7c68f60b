"""Those who write the files, by name, and what netCDF4-python makes of what they wrote."""

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from tests.fuzz import attributes, hdf5_files, netcdf_files, zarr_files
from tests.fuzz.case import File
from tests.fuzz.netcdf_files import masked

__all__ = ["WRITERS", "Writer"]


@dataclass(frozen=True)
class Writer:
    """One way to write files."""

    drawn: Callable[[Random, tuple[int, ...], str | None], File]
    """Returns a file of a shape (and a type, if it can) with features of any kind."""
    write: Callable[[File, Path], Path]
    """Writes it into a folder; returns its path."""
    masked: Callable[[File, Path, Path], np.ma.MaskedArray]
    """Returns the values, as netCDF4-python has them; takes the file, its path, and a folder to write to."""
    others: Callable[[File, Path, Path], Iterator[np.ma.MaskedArray]]
    """Yields what others read of a damaged file, attributes too; takes what `masked` takes."""
    engine: str
    """Xarray's engine that reads it."""


def _hdf5_masked(file: File, path: Path, folder: Path) -> np.ma.MaskedArray:
    numbers = hdf5_files.stored(path)
    # netCDF has no such types; wider ones hold the same numbers.
    wider = {np.dtype("f2"): np.dtype("f4"), np.dtype("?"): np.dtype("i1")}.get(numbers.dtype, numbers.dtype)
    hdf5_files.plain_copy(file, numbers.astype(wider), folder / "plain.h5")
    found = masked(folder / "plain.h5")
    return found.astype(numbers.dtype) if numbers.dtype == np.dtype("f2") else found


def _netcdf_masked(file: File, path: Path, folder: Path) -> np.ma.MaskedArray:
    return masked(path, netcdf_files.name_of(file))


def _zarr_masked(file: File, path: Path, folder: Path) -> np.ma.MaskedArray:
    fill = file.options.get("fill") if file.writer == "zarr 2" else None
    return zarr_files.masked_by_json(_json(file), zarr_files.stored(path), folder / "plain.nc", fill=fill)


def _json(file: File) -> dict[str, Any]:
    return {name: attributes.as_json(given) for name, given in file.attrs.items()}


def _references_drawn(random: Random, shape: tuple[int, ...], dtype: str | None = None) -> File:
    """Return a file that Kerchunk can translate: what it knows of HDF5's filters, and no more."""
    while True:
        file = netcdf_files.drawn_by_netcdf4(random, shape, dtype)
        known = file.options.get("compression", "zlib") in ("zlib", "zstd") and "fletcher32" not in file.options
        known = known and file.options["format"] != "NETCDF3_64BIT_DATA"
        if known and not {"group", "repeated"} & set(file.options) and math.prod(shape) and file.dtype[0] in "<>":
            return replace(file, writer="Kerchunk")


def _write_references(file: File, folder: Path) -> Path:
    return zarr_files.write_references(netcdf_files.write_by_netcdf4(file, folder), folder)


def _references_masked(file: File, path: Path, folder: Path) -> np.ma.MaskedArray:
    return zarr_files.references_as_they_are(path, folder / "plain.nc")


def _read_by_others(file: File, path: Path, folder: Path) -> Iterator[np.ma.MaskedArray]:
    name = netcdf_files.name_of(file)
    readings = [
        lambda: masked(path, name),
        lambda: hdf5_files.as_it_is(path, name, folder / "left.h5"),
        lambda: zarr_files.as_it_is(path, folder / "left.nc"),
        lambda: WRITERS[file.writer].masked(file, path, folder),
    ]
    for read in readings:
        with contextlib.suppress(Exception):
            yield read()


WRITERS: Mapping[str, Writer] = {
    "h5py": Writer(hdf5_files.drawn, hdf5_files.write, _hdf5_masked, _read_by_others, "h5netcdf"),
    "netCDF4": Writer(netcdf_files.drawn_by_netcdf4, netcdf_files.write_by_netcdf4, _netcdf_masked, _read_by_others, "netcdf4"),
    "scipy": Writer(netcdf_files.drawn_by_scipy, netcdf_files.write_by_scipy, _netcdf_masked, _read_by_others, "netcdf4"),
    "zarr 2": Writer(zarr_files.drawn_v2, zarr_files.write_v2, _zarr_masked, _read_by_others, "zarr"),
    "zarr 3": Writer(zarr_files.drawn_v3, zarr_files.write_v3, _zarr_masked, _read_by_others, "zarr"),
    "Kerchunk": Writer(_references_drawn, _write_references, _references_masked, _read_by_others, "kerchunk"),
}
"""Those who write, by name."""
