"""Kerchunk references of files, as Kerchunk makes them."""

from __future__ import annotations

import warnings
from pathlib import Path

from kerchunk.hdf import SingleHdf5ToZarr
from kerchunk.netCDF3 import NetCDF3ToZarr

from activestore.core.formats.hdf5.gc_pause import held_back
from activestore.core.formats.read import is_classic
from activestore.sources.open import LocalSource

__all__ = ["references_of"]


def references_of(path: Path, *, inline: int = 100) -> dict[str, object]:
    """Return the references of a file; chunks of up to `inline` bytes are among them."""
    translator = NetCDF3ToZarr if is_classic(LocalSource(str(path))) else SingleHdf5ToZarr
    # Inside of the HDF5 library, Kerchunk waits for zarr's thread; garbage that is collected there waits for the library.
    with held_back(needed=True), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found: dict[str, object] = translator(str(path), inline_threshold=inline).translate()
        return found
