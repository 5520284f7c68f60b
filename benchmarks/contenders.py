"""What is compared: activestore, its peers, each used in the fastest way it offers, and what the machine itself allows."""

import contextlib
import io
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from benchmarks.data import series_point

__all__ = ["CONTENDERS", "OURS", "Contender", "Operation", "compressed_chunks", "inflate"]

OURS = "activestore"
_FILL = 1e20

Operation = Callable[[Any], Any]
"""Takes what `Contender.setup` gives for the path of a file, gives numbers."""


@dataclass(frozen=True, slots=True)
class Contender:
    """One way to reduce a variable."""

    package: str
    """What has to be installed; its version is told."""
    modules: tuple[str, ...]
    """Imported before the time is taken."""
    operations: Mapping[str, Operation]
    """What it can do: "mean", "std", "several", "map", "series"; or what a family of its own is asked for."""
    setup: Callable[[str], Any] = field(default=lambda path: path)
    """Done before the time is taken."""
    is_bound: bool = False
    """Whether it is only a part of the work, which nobody can be faster than."""


def _ours(path: str):
    from activestore import Active

    return Active(path, "tas")


def _ours_series(path: str):
    tas = _ours(path)
    lat, lon = series_point(tas.shape)
    return tas[:, lat, lon].read().filled(float("nan"))


OURS_OPERATIONS = {
    "mean": lambda path: _ours(path).mean(),
    "std": lambda path: _ours(path).std(),
    "several": lambda path: list(_ours(path).reduce(("min", "max", "mean")).values()),
    "map": lambda path: _ours(path).mean(axis="time").filled(float("nan")),
    "series": _ours_series,
}


def _xarray(engine: str, **options: Any) -> dict[str, Operation]:
    """Return the operations of xarray with an engine, loaded as a whole, or in chunks by dask's threads."""

    def opened(path):
        import xarray as xr

        return xr.open_dataset(path, engine=engine, **options)

    def reduced(method: str, *arguments: str) -> Operation:
        def operation(path):
            with opened(path) as dataset:
                return getattr(dataset.tas, method)(*arguments).compute().values

        return operation

    def several(path):
        with opened(path) as dataset:
            # Loaded once; with dask the three reductions share one pass.
            tas = dataset.tas if options else dataset.tas.load()
            return dataset.assign(a=tas.min(), b=tas.max(), c=tas.mean())[["a", "b", "c"]].compute().to_array().values

    def series(path):
        with opened(path) as dataset:
            lat, lon = series_point(dataset.tas.shape)
            return dataset.tas[:, lat, lon].values

    return {
        "mean": reduced("mean"),
        "std": reduced("std"),
        "several": several,
        "map": reduced("mean", "time"),
        "series": series,
    }


def _netcdf4(of: Callable[[Any], Any]) -> Operation:
    """Return an operation on the variable of netCDF4-python; masked arrays, reduced in float64."""

    def operation(path):
        import netCDF4

        with netCDF4.Dataset(path) as file:
            return of(file["tas"])

    return operation


def _masked_several(variable):
    values = variable[:]
    return [values.min(), values.max(), values.mean(dtype="f8")]


def _masked_series(variable):
    lat, lon = series_point(variable.shape)
    return variable[:, lat, lon].filled(float("nan"))


NETCDF4_OPERATIONS = {
    "mean": _netcdf4(lambda variable: variable[:].mean(dtype="f8")),
    "std": _netcdf4(lambda variable: variable[:].std(dtype="f8")),
    "several": _netcdf4(_masked_several),
    "map": _netcdf4(lambda variable: variable[:].mean(axis=0, dtype="f8").filled(float("nan"))),
    "series": _netcdf4(_masked_series),
}


def _hidefix(reduced: Callable[[Any, Any], Any]) -> Operation:
    """Return an operation on hidefix's own array (faster than its xarray engine), fill values made NaN by hidefix."""

    def operation(path):
        import hidefix
        import numpy as np

        dataset = hidefix.Index(path).dataset("tas")
        values = dataset[:, :, :]
        dataset.apply_fill_value(np.float32(_FILL), np.float32(np.nan), values)
        return reduced(np, values)

    return operation


def _hidefix_series(path):
    import hidefix
    import netCDF4
    import numpy as np

    # It does not tell a shape; its own xarray engine asks netCDF4-python too.
    with netCDF4.Dataset(path) as file:
        lat, lon = series_point(file["tas"].shape)
    dataset = hidefix.Index(path).dataset("tas")
    values = np.asarray(dataset[:, lat, lon])
    dataset.apply_fill_value(np.float32(_FILL), np.float32(np.nan), values)
    return values


HIDEFIX_OPERATIONS = {
    "mean": _hidefix(lambda np, values: np.nanmean(values, dtype="f8")),
    "std": _hidefix(lambda np, values: np.nanstd(values, dtype="f8")),
    "several": _hidefix(lambda np, values: [np.nanmin(values), np.nanmax(values), np.nanmean(values, dtype="f8")]),
    "map": _hidefix(lambda np, values: np.nanmean(values, axis=0, dtype="f8")),
    "series": _hidefix_series,
}


def _pyactivestorage(of: Callable[[Callable[[], Any]], Any]) -> Operation:
    """Return an operation on PyActiveStorage with its own thread pool; it prints a line per chunk, which is swallowed."""

    def operation(path):
        from activestorage.active import Active

        with contextlib.redirect_stdout(io.StringIO()):
            return of(lambda: Active(path, "tas"))

    return operation


def _pyactivestorage_series(opened):
    import pyfive

    active = opened()
    with pyfive.File(active.uri) as file:
        lat, lon = series_point(file["tas"].shape)
    return active[:, lat : lat + 1, lon : lon + 1].ravel().filled(float("nan"))


PYACTIVESTORAGE_OPERATIONS = {
    "mean": _pyactivestorage(lambda opened: opened().mean()[:]),
    "several": _pyactivestorage(lambda opened: [opened().min()[:], opened().max()[:], opened().mean()[:]]),
    "map": _pyactivestorage(lambda opened: opened().mean(axis=(0,))[:][0].filled(float("nan"))),
    "series": _pyactivestorage(_pyactivestorage_series),
}


def _chunk_places(path: str) -> list[tuple[int, int]]:
    """Return offset and size of every chunk, as the HDF5 library tells them."""
    import h5py

    places: list[tuple[int, int]] = []
    with h5py.File(path, "r") as file:
        file["tas"].id.chunk_iter(lambda chunk: places.append((chunk.byte_offset, chunk.size)))
        return places


def compressed_chunks(path: str):
    """Return the stored bytes of every chunk, in memory, and the size of a whole one."""
    import h5py
    import numpy as np

    with h5py.File(path, "r") as file, open(path, "rb") as raw:
        size = int(np.prod(file["tas"].chunks)) * 4
        chunks = [os.pread(raw.fileno(), length, offset) for offset, length in _chunk_places(path)]
    # glibc keeps freed blocks for the next one once it has seen a larger one freed: without page faults it is faster.
    np.empty(31 << 20, np.uint8)
    return chunks, size


def inflate(given):
    from concurrent.futures import ThreadPoolExecutor

    import deflate

    chunks, size = given
    with ThreadPoolExecutor(_processors()) as pool:
        return sum(pool.map(lambda chunk: len(deflate.zlib_decompress(chunk, size)), chunks))


def _read(given):
    """Read every chunk into a buffer of each thread, so that no page has to be faulted in."""
    import threading
    from concurrent.futures import ThreadPoolExecutor

    path, places = given
    buffers = threading.local()
    with open(path, "rb") as raw, ThreadPoolExecutor(_processors()) as pool:

        def one(place: tuple[int, int]) -> int:
            if not hasattr(buffers, "bytes"):
                buffers.bytes = memoryview(bytearray(max(size for _, size in places)))
            return os.preadv(raw.fileno(), [buffers.bytes[: place[1]]], place[0])

        return sum(pool.map(one, places))


def _processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


CONTENDERS: dict[str, Contender] = {
    OURS: Contender("activestore", ("activestore",), OURS_OPERATIONS),
    "xarray + netCDF4": Contender("xarray", ("xarray", "netCDF4"), _xarray("netcdf4")),
    "xarray + h5netcdf": Contender("h5netcdf", ("xarray", "h5netcdf"), _xarray("h5netcdf")),
    "xarray + dask": Contender("dask", ("xarray", "netCDF4", "dask.array"), _xarray("netcdf4", chunks={})),
    "netCDF4 + NumPy": Contender("netCDF4", ("netCDF4", "numpy"), NETCDF4_OPERATIONS),
    "hidefix": Contender("hidefix", ("hidefix", "netCDF4", "numpy"), HIDEFIX_OPERATIONS),
    "PyActiveStorage": Contender("PyActiveStorage", ("activestorage.active",), PYACTIVESTORAGE_OPERATIONS),
    "(inflate alone)": Contender("deflate", ("deflate", "h5py"), {"inflate": inflate}, compressed_chunks, is_bound=True),
    "(read alone)": Contender("h5py", ("h5py",), {"read": _read}, lambda path: (path, _chunk_places(path)), is_bound=True),
}
"""Everybody, in the order of the tables."""
