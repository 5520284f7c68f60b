"""The files that are measured: made once, the same numbers every time, kept below `benchmarks/data`."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["DATA", "FILL", "Grid", "fields", "large", "make", "missing", "series_point", "small"]

DATA = Path(__file__).parent / "data"
"""Where the files are kept by default."""
_VERSION = 1
"""Raise it when the numbers change: files of another version are made anew."""
FILL = 1e20
_KEPT_BITS = 13
"""Mantissa bits that are kept, as a climate centre rounds before it archives."""
_WAVES, _SHORTEST_WAVE = 300, 300
"""How many waves make the field, and how often the shortest goes around the globe: they set how well it compresses."""


@dataclass(frozen=True, slots=True)
class Grid:
    """Size and place of the files."""

    folder: Path
    name: str
    shape: tuple[int, int, int]
    """Lengths of time, lat and lon."""
    chunks: tuple[int, int, int]
    fine_shape: tuple[int, int, int]
    """Shape of the variable with very many chunks, each of the shape (1, 1, last)."""

    @property
    def deflated(self) -> Path:
        return self._path("deflate.nc")

    @property
    def raw(self) -> Path:
        return self._path("raw.nc")

    @property
    def fine(self) -> Path:
        return self._path("fine.h5")

    @property
    def reference(self) -> Path:
        return self._path("reference.npz")

    def _path(self, ending: str) -> Path:
        return self.folder / f"v{_VERSION}-{self.name}-{ending}"


def large(folder: Path) -> Grid:
    """Return the grid that is measured: 60 years of monthly means at half a degree, and a million chunks."""
    return Grid(folder, "large", (732, 361, 720), (61, 91, 180), (1000, 1000, 4))


def small(folder: Path) -> Grid:
    """Return a tiny grid, to warm up and to try the harness."""
    return Grid(folder, "small", (24, 37, 72), (6, 10, 18), (20, 20, 4))


def series_point(shape: tuple[int, int, int]) -> tuple[int, int]:
    """Return the lat and lon of the point whose time series is read."""
    return shape[1] * 2 // 3, shape[2] // 3


def missing(grid: Grid) -> bool:
    """Return whether a file has yet to be made."""
    return not all(path.exists() for path in (grid.deflated, grid.raw, grid.fine, grid.reference))


def make(grid: Grid) -> None:
    """Write all files of `grid` that are not there."""
    import numpy as np

    grid.folder.mkdir(exist_ok=True)
    if not grid.fine.exists():
        _write_fine(grid)
    if not missing(grid):
        return
    values = np.empty(grid.shape, "f4")
    for step, field in enumerate(fields(grid.shape)):
        values[step] = field
    # A block that is never observed, and one that is missing for a while.
    time, lat, lon = grid.shape
    values[:, lat // 4 : lat // 3, lon // 5 : lon // 3] = FILL
    values[time // 3 : time // 2, lat // 2 : lat * 3 // 5, lon * 2 // 3 :] = FILL
    for path, deflated in ((grid.deflated, True), (grid.raw, False)):
        _write(path, values, grid, deflated=deflated)
    _write_reference(values, grid)


def fields(shape: tuple[int, int, int], *, steps_per_year: int = 12) -> Iterator[Any]:
    """Yield, step by step, waves of many scales on a season and a warm equator, rounded."""
    import numpy as np

    steps, lats, lons = shape
    random = np.random.default_rng(1)
    zonal = np.exp(random.uniform(0, np.log(_SHORTEST_WAVE), _WAVES)).round()
    meridional = np.exp(random.uniform(0, np.log(_SHORTEST_WAVE / 2), _WAVES))
    # Red: the longer the wave, the higher.
    height = 8 / np.hypot(zonal, meridional)
    speed = random.normal(0, 0.15, _WAVES) * np.sqrt(zonal)
    phase, offset = random.uniform(0, 2 * np.pi, (2, _WAVES))
    lat, lon = np.deg2rad(np.linspace(-90, 90, lats))[:, None], np.arange(lons) * 2 * np.pi / lons
    along_lat = np.sqrt(np.clip(np.cos(lat), 0, 1)) * np.cos(lat * meridional + offset) * height
    along_lon = np.vstack([np.cos(lon * zonal[:, None]), np.sin(lon * zonal[:, None])]).astype("f4")
    for step in range(steps):
        angle = speed * step + phase
        waves = np.hstack([along_lat * np.cos(angle), -along_lat * np.sin(angle)]).astype("f4") @ along_lon
        season = -14 * np.sin(2 * np.pi * step / steps_per_year) * np.sin(lat)
        yield _rounded((250 + 45 * np.cos(lat) ** 2 + season + waves).astype("f4"))


def _rounded(values):
    """Return float32 numbers with the mantissa rounded to the bits that are kept, in place."""
    import numpy as np

    dropped = 23 - _KEPT_BITS
    bits = values.view(np.uint32)
    bits += np.uint32(1 << (dropped - 1))
    bits &= np.uint32(0xFFFFFFFF ^ ((1 << dropped) - 1))
    return values


def _write(path: Path, values, grid: Grid, *, deflated: bool) -> None:
    """Write a netCDF-4 file with coordinates."""
    import netCDF4
    import numpy as np

    unfinished = path.with_suffix(".unfinished")
    with netCDF4.Dataset(unfinished, "w") as file:
        lengths = dict(zip(("time", "lat", "lon"), grid.shape, strict=True))
        axes = {
            "time": (np.arange(grid.shape[0]) * 30.4375 + 15, "days since 1950-01-01"),
            "lat": (np.linspace(-90, 90, grid.shape[1]), "degrees_north"),
            "lon": (np.arange(grid.shape[2]) * 360 / grid.shape[2], "degrees_east"),
        }
        for name, (numbers, units) in axes.items():
            file.createDimension(name, lengths[name])
            axis = file.createVariable(name, "f8", (name,))
            axis[:], axis.units = numbers, units
        filters = {"compression": "zlib", "complevel": 4, "shuffle": True} if deflated else {}
        tas = file.createVariable("tas", "f4", tuple(lengths), chunksizes=grid.chunks, fill_value=np.float32(FILL), **filters)
        tas.standard_name, tas.units = "air_temperature", "K"
        tas.set_auto_mask(False)
        for first in range(0, grid.shape[0], grid.chunks[0]):
            tas[first : first + grid.chunks[0]] = values[first : first + grid.chunks[0]]
    unfinished.rename(path)


def _write_reference(values, grid: Grid) -> None:
    """Write what every contender should obtain, computed in float64 in two passes."""
    import numpy as np

    valid = values != np.float32(FILL)
    count = int(np.count_nonzero(valid))
    mean = sum(float(np.sum(slab, where=ok, dtype="f8")) for slab, ok in zip(values, valid, strict=True)) / count
    square = sum(float(np.sum((slab.astype("f8") - mean) ** 2, where=ok)) for slab, ok in zip(values, valid, strict=True))
    under = np.count_nonzero(valid, axis=0)
    with np.errstate(invalid="ignore"):
        over_time = np.sum(values, axis=0, where=valid, dtype="f8") / under
    lat, lon = series_point(grid.shape)
    series = np.where(valid[:, lat, lon], values[:, lat, lon].astype("f8"), np.nan)
    smallest, largest = values.min(), values.max(where=valid, initial=-np.inf)
    np.savez(
        grid.reference,
        mean=mean,
        std=np.sqrt(square / count),
        several=np.array([smallest, largest, mean], "f8"),
        map=over_time,
        series=series,
    )


def _write_fine(grid: Grid) -> None:
    """Write a variable of very many small chunks, each stored directly, without the cost of a filter."""
    import h5py
    import numpy as np

    unfinished = grid.fine.with_suffix(".unfinished")
    rows, columns, last = grid.fine_shape
    with h5py.File(unfinished, "w") as file:
        dataset = file.create_dataset("x", grid.fine_shape, "f4", chunks=(1, 1, last))
        chunk = np.arange(last, dtype="f4").tobytes()
        for row in range(rows):
            for column in range(columns):
                dataset.id.write_direct_chunk((row, column, 0), chunk)
    unfinished.rename(grid.fine)
