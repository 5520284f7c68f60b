"""Series of files as climate models write them: made once, the same numbers every time, kept below `benchmarks/data`.

What should come of reducing them, and of the large file of `benchmarks.data`, is computed here too: by NumPy, in float64.
"""

import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import data

__all__ = ["Series", "daily", "grid_reference", "make", "many", "missing"]

_VERSION = 1
"""Raise it when the numbers change: files of another version are made anew."""
_MONTHS = (31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
"""Days of the months of the calendar "noleap"."""
_ATTRIBUTES = 40
"""How many attributes a file has, as many as those of CMIP6."""


@dataclass(frozen=True, slots=True)
class Series:
    """Size and place of files that follow each other in time."""

    folder: Path
    """Holds the files and nothing else of their kind."""
    files: int
    days: int
    """Days in each file; a chunk is a day."""
    lat: int
    lon: int

    @property
    def pattern(self) -> str:
        """What matches the files."""
        return str(self.folder / "tas_day_*.nc")

    @property
    def shape(self) -> tuple[int, int, int]:
        """Lengths of time, lat and lon of all files together."""
        return self.files * self.days, self.lat, self.lon

    @property
    def reference(self) -> Path:
        """The numbers that everybody should find."""
        return self.folder / "reference.npz"

    def path(self, number: int) -> Path:
        """Return the path of a file; by name they are in order."""
        return self.folder / f"tas_day_MODEL_historical_r1i1p1f1_gn_{number:04}.nc"


def daily(folder: Path, *, tiny: bool) -> Series:
    """Return 20 years of daily means, a file a year."""
    if tiny:
        return Series(folder / f"v{_VERSION}-small-daily", 3, 40, 6, 8)
    return Series(folder / f"v{_VERSION}-daily", 20, 365, 96, 192)


def many(folder: Path, *, tiny: bool) -> Series:
    """Return 200 small files."""
    if tiny:
        return Series(folder / f"v{_VERSION}-small-many", 5, 12, 4, 6)
    return Series(folder / f"v{_VERSION}-many", 200, 12, 18, 36)


def grid_reference(grid: data.Grid) -> Path:
    """Return where the numbers are that everybody should find in the compressed file of a grid."""
    return grid.folder / f"v{_VERSION}-{grid.name}-datasets.npz"


def missing(folder: Path, *, tiny: bool) -> bool:
    """Return whether something has yet to be made."""
    grid = (data.small if tiny else data.large)(folder)
    made = (daily(folder, tiny=tiny).folder, many(folder, tiny=tiny).folder, grid_reference(grid))
    return not all(path.exists() for path in made)


def make(folder: Path, *, tiny: bool) -> None:
    """Write the series, and the numbers to be found, that are not there; the files of the grid are."""
    import numpy as np

    for series in (daily(folder, tiny=tiny), many(folder, tiny=tiny)):
        if not series.folder.exists():
            _make_series(series)
    grid = (data.small if tiny else data.large)(folder)
    if not grid_reference(grid).exists():
        # As `benchmarks.data` writes them: in days since 1950-01-01.
        days = (np.arange(grid.shape[0]) * 30.4375 + 15) * 86400
        times = np.datetime64("1950-01-01T00:00:00") + days.astype("timedelta64[s]")
        months = times.astype("datetime64[M]").astype(int) % 12
        _write_reference(grid_reference(grid), lambda: _steps([grid.deflated]), months, np.linspace(-90, 90, grid.shape[1]))


def _make_series(series: Series) -> None:
    import numpy as np

    unfinished = Series(series.folder.with_suffix(".unfinished"), series.files, series.days, series.lat, series.lon)
    shutil.rmtree(unfinished.folder, ignore_errors=True)
    unfinished.folder.mkdir(parents=True)
    steps = data.fields(series.shape, steps_per_year=365)
    for number in range(series.files):
        values = np.stack([next(steps) for _ in range(series.days)])
        # A block that is never observed, and one that is missing in every third file.
        values[:, series.lat // 4 : series.lat // 3, series.lon // 5 : series.lon // 3] = data.FILL
        if number % 3 == 0:
            values[series.days // 3 : series.days // 2, series.lat // 2 :, series.lon * 2 // 3 :] = data.FILL
        _write(unfinished.path(number), values, number * series.days)
    paths = [unfinished.path(number) for number in range(series.files)]
    months = np.repeat(np.arange(12), _MONTHS)[np.arange(series.shape[0]) % 365]
    _write_reference(unfinished.reference, lambda: _steps(paths), months, _centres(-90, 90, series.lat))
    unfinished.folder.rename(series.folder)


def _centres(first: float, last: float, cells: int) -> Any:
    import numpy as np

    return first + (np.arange(cells) + 0.5) * (last - first) / cells


def _write(path: Path, values: Any, first_day: int) -> None:
    """Write a file as CMIP6 has them: bounds, a scalar coordinate, many attributes, a chunk for each day."""
    import netCDF4
    import numpy as np

    days, lats, lons = values.shape
    with netCDF4.Dataset(path, "w") as file:
        file.setncatts(
            {f"attribute_{i:02}": f"what it says of the model and of the run, number {i}" for i in range(_ATTRIBUTES)}
        )
        for name, length in (("time", None), ("lat", lats), ("lon", lons), ("bnds", 2)):
            file.createDimension(name, length)
        time = first_day + np.arange(days) + 0.5
        _write_axis(file, "time", time, 0.5, {"units": "days since 1850-01-01", "calendar": "noleap", "standard_name": "time"})
        lat, lon = _centres(-90, 90, lats), _centres(0, 360, lons)
        _write_axis(file, "lat", lat, 90 / lats, {"units": "degrees_north", "standard_name": "latitude"})
        _write_axis(file, "lon", lon, 180 / lons, {"units": "degrees_east", "standard_name": "longitude"})
        height = file.createVariable("height", "f8", ())
        height[...], height.units, height.standard_name = 2.0, "m", "height"
        tas = file.createVariable(
            "tas",
            "f4",
            ("time", "lat", "lon"),
            chunksizes=(1, lats, lons),
            fill_value=np.float32(data.FILL),
            compression="zlib",
            complevel=1,
            shuffle=True,
        )
        tas.setncatts({"standard_name": "air_temperature", "units": "K", "cell_methods": "area: time: mean"})
        tas.setncatts({"missing_value": np.float32(data.FILL), "coordinates": "height", "cell_measures": "area: areacella"})
        tas.set_auto_mask(False)
        tas[:] = values


def _write_axis(file: Any, name: str, centres: Any, half: float, attributes: dict[str, str]) -> None:
    """Write a coordinate and its bounds."""
    import numpy as np

    axis = file.createVariable(name, "f8", (name,))
    axis.setncatts(attributes | {"bounds": f"{name}_bnds", "axis": {"time": "T", "lat": "Y", "lon": "X"}[name]})
    axis[:] = centres
    file.createVariable(f"{name}_bnds", "f8", (name, "bnds"))[:] = np.stack([centres - half, centres + half], 1)


def _steps(paths: Iterable[Path]) -> Iterator[Any]:
    """Yield the field of each time in float64, NaN where nothing is known."""
    import h5py
    import numpy as np

    for path in paths:
        with h5py.File(path) as file:
            tas = file["tas"]
            for first in range(0, tas.shape[0], 61):
                slab = tas[first : first + 61]
                yield from np.where(slab == np.float32(data.FILL), np.nan, slab.astype("f8"))


def _write_reference(path: Path, steps: Callable[[], Iterator[Any]], months: Any, lat: Any) -> None:
    """Write the mean, the mean of each month of the year (0 to 11) and the means weighted by area.

    In two passes: the second adds up what the values differ by from the means of the first.
    """
    import numpy as np

    shape = next(steps()).shape
    weights = np.broadcast_to(np.cos(np.deg2rad(lat))[:, None], shape)
    mean, climatology, weighted = 0.0, np.zeros((12, *shape)), np.empty(len(months))
    for _ in range(2):
        rest, count = 0.0, 0
        rests, counts = np.zeros_like(climatology), np.zeros(climatology.shape, int)
        for i, (field, month) in enumerate(zip(steps(), months, strict=True)):
            valid = ~np.isnan(field)
            rest += float(np.sum(field - mean, where=valid))
            count += int(valid.sum())
            rests[month] += np.where(valid, field - climatology[month], 0)
            counts[month] += valid
            weighted[i] = np.sum(weights * field, where=valid) / np.sum(weights, where=valid)
        mean += rest / count
        climatology += rests / np.maximum(counts, 1)
    climatology[counts == 0] = np.nan
    present = np.isin(np.arange(12), months)
    # What is read of an opened series: its lengths, and the days from its first time to its last.
    opened = np.array([len(months), *shape, len(months) - 1], "f8")
    np.savez(path, mean=mean, climatology=climatology[present], weighted=weighted, open=opened)
