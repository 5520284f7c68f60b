"""The demonstration: reduce a real file, draw what comes out, and check it against another library."""

from __future__ import annotations

import calendar
import glob
import importlib.util
import math
import os
import shlex
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import h5py
import numpy as np

from activestore.active import Active
from activestore.cli.output import variables_table
from activestore.core.formats.read import read_variable, variable_names
from activestore.errors import NotNumericError
from activestore.sources.open import open_source
from activestore.testing.datasets import write_sample

__all__ = ["bars", "run", "sparkline"]

_BLOCKS = "▁▂▃▄▅▆▇█"
_PERIOD = 15 * 12
"""Months that are one period of a picture."""
_SAMPLE_AGAIN = "from activestore.testing.datasets import write_sample; write_sample('tas.nc')"


@dataclass(frozen=True, slots=True)
class _Example:
    """What the demonstration runs on."""

    path: str
    """The file."""
    variable: str
    """The variable to reduce."""
    origin: str
    """What the file is, for people."""
    named: str
    """How the commands that are shown name the file."""


def run() -> bool:
    """Print the demonstration, and return whether another library finds the same numbers."""
    with _example() as example:
        print(example.origin)
        print(f"  {example.path}\n")
        _show_file(example)
        tas = Active(example.path, example.variable)
        print("\n2. What a mean over everything would do (nothing is read for this)\n")
        print(tas.explain("mean"))
        same = _show_statistics(tas)
        _show_pictures(tas)
        _show_commands(example, tas)
        return same


@contextmanager
def _example() -> Iterator[_Example]:
    """Give the largest CMIP6 file of the sample package if that is installed, or else a file written for the purpose."""
    # Importing the package would import iris, which is slow and may be absent; its files are all that is needed.
    spec = importlib.util.find_spec("esmvaltool_sample_data")
    folders = [] if spec is None else spec.submodule_search_locations or []
    paths = [path for folder in folders for path in glob.glob(f"{glob.escape(folder)}/**/ta_Amon_*.nc", recursive=True)]
    if paths:
        path = max(paths, key=os.path.getsize)
        origin = "A real file: 165 years of a CMIP6 model near the North Pole, from the package ESMValTool_sample_data."
        yield _Example(path, "ta", origin, path)
        return
    with tempfile.TemporaryDirectory(prefix="activestore-demo-") as folder:
        path = os.path.join(folder, "tas.nc")
        write_sample(path)
        origin = "A small file made by a formula (pip install ESMValTool_sample_data for real ones), removed at the end."
        yield _Example(path, "tas", origin, "tas.nc")


def _show_file(example: _Example) -> None:
    print("1. What the file holds\n")
    source = open_source(example.path)
    found = []
    for name in variable_names(source):
        try:
            found.append(read_variable(source, name))
        except NotNumericError:
            continue
    print(variables_table(found))


def _show_statistics(tas: Active) -> bool:
    print("\n3. Statistics of all numbers, in one pass over the chunks\n")
    result = tas.run(("mean", "min", "max"))
    units = tas.attrs.get("units", "")
    for name, value in result.values.items():
        print(f"  {name:5} {value:.6f} {units}")
    print(f"  count {result.count:,} valid of {tas.size:,}")
    print(f"\n{result.report}\n")
    started = time.perf_counter()
    library, whole = _whole_array(tas)
    expected = {"mean": whole.mean(dtype="f8"), "min": whole.min(), "max": whole.max()}
    seconds = time.perf_counter() - started
    same = whole.count() == result.count and all(
        math.isclose(result.values[name], value, rel_tol=1e-12) for name, value in expected.items()
    )
    verdict = "the same numbers" if same else f"OTHER NUMBERS: {expected}, count {whole.count()}"
    print(f"  checked: {library} reads the whole array and NumPy reduces it, in {seconds:.3f} s: {verdict}")
    return same


def _whole_array(tas: Active) -> tuple[str, np.ma.MaskedArray[Any, Any]]:
    """Return what another library reads of the variable, and the name of that library."""
    path, name = tas.variable.uri, tas.name
    if importlib.util.find_spec("netCDF4") is not None:
        import netCDF4  # noqa: PLC0415  # optional: h5py is enough

        with netCDF4.Dataset(path) as dataset:
            return "netCDF4", np.ma.asanyarray(dataset[name][...])
    with h5py.File(path) as file:
        dataset = file[name]
        fills = np.append(
            [dataset.attrs[key] for key in ("_FillValue", "missing_value") if key in dataset.attrs], dataset.fillvalue
        )
        return "h5py", np.ma.masked_where(np.isin(dataset[...], fills), dataset[...])


def _show_pictures(tas: Active) -> None:
    """Draw the year at the northernmost row of the lowest level, then the latitudes, or the years if there are few of those."""
    part = tas[:, 0] if "plev" in tas.dims else tas
    units = str(tas.attrs.get("units", ""))
    latitudes = _coordinate(tas, "lat")
    print(
        f"\n4. The mean of every January, February, … at {latitudes[-1]:.1f}° north{_level(tas)}: 12 selections with a step\n"
    )
    year = np.array([float(part[month::12, -1].mean()) for month in range(12)])
    print(bars(list(calendar.month_abbr)[1:], year, units))
    if len(latitudes) > 4:
        print(f"\n5. The mean over time and longitude{_level(tas)}, by latitude\n")
        means = np.ma.filled(part.mean(axis=("time", "lon")), np.nan)
        print(bars([f"{latitude:6.1f}°" for latitude in latitudes], means, units))
        return
    edges = range(0, len(part) + 1, _PERIOD)
    series = [float(part[first:last].mean()) for first, last in pairwise(edges)]
    print(f"\n5. The mean of {len(series)} periods of {_PERIOD // 12} years, one after the other{_level(tas)}\n")
    print(f"  {sparkline(series)}  from {series[0]:.2f} to {series[-1]:.2f} {units}")


def _level(tas: Active) -> str:
    return f", {_coordinate(tas, 'plev')[0] / 100:.0f} hPa" if "plev" in tas.dims else ""


def _coordinate(tas: Active, name: str) -> np.ma.MaskedArray[Any, Any]:
    return Active(tas.variable.uri, name).read()


def bars(labels: list[str], values: np.ndarray[Any, Any], units: str, *, width: int = 40) -> str:
    """Return a bar for each value, from just below the least to the greatest.

    Examples:
        >>> print(bars(["N", "S"], np.array([10.0, 20.0]), "K", width=10))
          N ▌           10.00 K
          S ██████████  20.00 K
    """
    least, most = float(np.nanmin(values)), float(np.nanmax(values))
    base = least - (most - least) / (2 * width - 1) if most > least else least - 1
    lines = []
    for label, value in zip(labels, values.tolist(), strict=True):
        halves = 0 if math.isnan(value) else round((value - base) / (most - base) * 2 * width)
        bar = "█" * (halves // 2) + "▌" * (halves % 2)
        lines.append(f"  {label} {bar:{width}}  {value:.2f} {units}")
    return "\n".join(lines)


def sparkline(values: list[float]) -> str:
    """Return a line of blocks, as high as the values.

    Examples:
        >>> sparkline([1.0, 4.0, 2.0, 8.0])
        '▁▄▂█'
    """
    least, most = min(values), max(values)
    span = most - least or 1.0
    return "".join(_BLOCKS[round((value - least) / span * (len(_BLOCKS) - 1))] for value in values)


def _show_commands(example: _Example, tas: Active) -> None:
    print("\n6. The same by yourself\n")
    if example.named != example.path:
        print(f'  python -c "{_SAMPLE_AGAIN}"')
    print(f"  FILE={shlex.quote(example.named)}")
    print(f'  activestore inspect "$FILE" {tas.name}')
    print(f'  activestore reduce "$FILE" {tas.name} --op mean,min,max')
    print(f'  activestore reduce "$FILE" {tas.name} --axis time --select time=6::12 -o julys.nc\n')
    print("  from activestore import Active")
    print(f"  Active({example.named!r}, {tas.name!r})[6::12].mean(axis='time')")
