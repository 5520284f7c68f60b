"""What users of xarray do with a dataset: climatologies, means weighted by area, opening many files; ours beside every peer.

Each operation begins with opening. A peer has the options with which it is fastest.
"""

import glob
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import data, series
from benchmarks.contenders import OURS, Contender, Operation, compressed_chunks, inflate
from benchmarks.report import Runs, Target, best, fastest_peer, peak

__all__ = ["BOUNDS", "CASES", "CONTENDERS", "Case", "Files", "files_of", "remarks", "targets"]

BOUND = "(inflate alone)"
_NOTHING_READ = "(nothing read)"
"""xarray opens a file and is done: what any of its users has in memory before the first number."""
BOUNDS: Mapping[str, str] = {BOUND: "inflate", _NOTHING_READ: "nothing"}
"""What nobody can be faster or smaller than, and what each is asked for."""
_LIMIT = 3
"""How many times as fast as the fastest peer it should be, and how many times as little memory it should take."""
_TUNED = {"data_vars": "minimal", "coords": "minimal", "compat": "override", "join": "override"}
_NESTED = {"combine": "nested", "concat_dim": "time", **_TUNED}
"""How `open_mfdataset` opens files that are known to fit."""
_NOT_FOR_HIDEFIX = ("height", "time_bnds", "lat_bnds", "lon_bnds")
"""It fails at scalars, and at bounds."""
_TUNED_OPENING = "xarray, tuned"


@dataclass(frozen=True, slots=True)
class Case:
    """What is done with which files."""

    title: str
    operation: str
    files: str
    """"grid", one large file; "daily", a series of files; "many", a longer one of small files."""


CASES = {
    f"{files}-{operation}": Case(f"{what}, {of}", operation, files)
    for files, of in {"grid": "one file of 3-D chunks", "daily": "a series of files, a chunk a day"}.items()
    for operation, what in {
        "mean": "open, mean of everything",
        "climatology": "open, mean of each month of the year",
        "weighted": "open, time series of means weighted by area",
    }.items()
} | {"open-200": Case("open many small files as one dataset", "open", "many")}
"""Cases by name."""


@dataclass(frozen=True, slots=True)
class Files:
    """The files of a case."""

    pattern: str
    """Matches them."""
    warm_up: str
    """Matches tiny ones of the same kind."""
    reference: Path
    shape: tuple[int, int, int]
    """Lengths of time, lat and lon of all together."""

    @property
    def size(self) -> int:
        """Bytes of all numbers."""
        return 4 * self.shape[0] * self.shape[1] * self.shape[2]

    @property
    def title(self) -> str:
        """How many they are, and how large."""
        paths = glob.glob(self.pattern)
        stored = sum(Path(path).stat().st_size for path in paths)
        shape = " x ".join(map(str, self.shape))
        return f"files: {len(paths)}, {shape} float32, {self.size / 1e6:.0f} MB, {stored / 1e6:.0f} MB stored"


def files_of(case: Case, folder: Path, *, tiny: bool) -> Files:
    """Return the files of a case below `folder`."""
    if case.files == "grid":
        grid, small = (data.small if tiny else data.large)(folder), data.small(folder)
        return Files(str(grid.deflated), str(small.deflated), series.grid_reference(grid), grid.shape)
    of = {"daily": series.daily, "many": series.many}[case.files]
    whole = of(folder, tiny=tiny)
    return Files(whole.pattern, of(folder, tiny=True).pattern, whole.reference, whole.shape)


def _mean(tas: Any, door: Any) -> Any:
    return door.mean()


def _climatology(tas: Any, door: Any) -> Any:
    return door.groupby("time.month").mean("time")


def _weighted(tas: Any, door: Any) -> Any:
    import numpy as np

    return door.weighted(np.cos(np.deg2rad(tas.lat))).mean(("lat", "lon"))


def _operations(opened: Callable[[str], Any], door: Callable[[Any], Any] = lambda tas: tas, *, flox: bool = False):
    """Return the operations on what `opened` gives, each through `door`: the array itself, or our accessor."""

    def operation(reduced: Callable[[Any, Any], Any]) -> Operation:
        def run(pattern: str) -> Any:
            import xarray as xr

            with xr.set_options(use_flox=flox):
                tas = opened(pattern)
                return reduced(tas, door(tas)).compute().values

        return run

    found = {"mean": operation(_mean), "climatology": operation(_climatology), "weighted": operation(_weighted)}
    # Groups are all that flox changes.
    return {"climatology": found["climatology"]} if flox else found


def _ours(pattern: str) -> Any:
    return _opened_by_us(pattern).tas


def _loaded(engine: str) -> Callable[[str], Any]:
    """Return what loads an array as a whole: of several files, one after the other."""

    def opened(pattern: str) -> Any:
        import xarray as xr

        left_out = {"drop_variables": _NOT_FOR_HIDEFIX} if engine == "hidefix" else {}
        parts = [xr.open_dataset(path, engine=engine, **left_out).tas.load() for path in sorted(glob.glob(pattern))]
        if len(parts) == 1:
            return parts[0]
        return xr.concat(parts, "time", coords="minimal", compat="override", join="override")

    return opened


def _in_dask(days: int | None) -> Callable[[str], Any]:
    """Return what opens files in chunks of Dask's: those that are stored, or of so many whole fields."""

    def opened(pattern: str) -> Any:
        import xarray as xr

        paths, chunks = sorted(glob.glob(pattern)), {} if days is None else {"time": days}
        if len(paths) == 1:
            return xr.open_dataset(paths[0], engine="netcdf4", chunks=chunks).tas
        return xr.open_mfdataset(paths, engine="netcdf4", chunks=chunks, **_NESTED).tas

    return opened


def _opening(opened: Callable[[str], Any]) -> Mapping[str, Operation]:
    """Return the operation that opens files, which tells the lengths and how many days there are between the ends."""

    def run(pattern: str) -> Any:
        dataset = opened(pattern)
        first, last = dataset.time.values[[0, -1]]
        return [*(dataset.sizes[dim] for dim in ("time", "lat", "lon")), (last - first).days]

    return {"open": run}


def _opened_by_us(pattern: str) -> Any:
    import xarray as xr

    return xr.open_dataset(sorted(glob.glob(pattern)), engine="activestore")


def _opened_by_xarray(**options: Any) -> Callable[[str], Any]:
    def opened(pattern: str) -> Any:
        import xarray as xr

        return xr.open_mfdataset(sorted(glob.glob(pattern)), parallel=False, **options)

    return opened


def _open_one(pattern: str) -> None:
    import xarray as xr

    xr.open_dataset(min(glob.glob(pattern)), engine="netcdf4").close()


def _all_chunks(pattern: str) -> Any:
    found = [compressed_chunks(path) for path in sorted(glob.glob(pattern))]
    return [chunk for chunks, _ in found for chunk in chunks], found[0][1]


_IN_MEMORY = ("xarray", "netCDF4", "cftime")
_DASK = (*_IN_MEMORY, "dask.array")
_TOGETHER = {"stored chunks": None, "large chunks": 365}
"""How many fields are together in a chunk of Dask's."""

CONTENDERS: dict[str, Contender] = {
    OURS: Contender(
        "activestore",
        ("xarray", "cftime", "activestore.accessor"),
        {**_operations(_ours, lambda tas: tas.active), **_opening(_opened_by_us)},
    ),
    "xarray": Contender("xarray", _DASK, {**_operations(_loaded("netcdf4")), **_opening(_opened_by_xarray())}),
    "xarray + h5netcdf": Contender("h5netcdf", (*_DASK, "h5netcdf"), _opening(_opened_by_xarray(engine="h5netcdf"))),
    _TUNED_OPENING: Contender("xarray", _DASK, _opening(_opened_by_xarray(**_NESTED))),
    "xarray + flox": Contender("flox", (*_IN_MEMORY, "flox.xarray"), _operations(_loaded("netcdf4"), flox=True)),
    "xarray + hidefix": Contender("hidefix", (*_IN_MEMORY, "hidefix"), _operations(_loaded("hidefix"))),
    "xarray + hidefix + flox": Contender(
        "hidefix", (*_IN_MEMORY, "hidefix", "flox.xarray"), _operations(_loaded("hidefix"), flox=True)
    ),
    **{f"xarray + dask, {name}": Contender("dask", _DASK, _operations(_in_dask(days))) for name, days in _TOGETHER.items()},
    **{
        f"xarray + dask + flox, {name}": Contender("flox", (*_DASK, "flox.xarray"), _operations(_in_dask(days), flox=True))
        for name, days in _TOGETHER.items()
    },
    BOUND: Contender("deflate", ("deflate", "h5py"), {"inflate": inflate}, _all_chunks, is_bound=True),
    _NOTHING_READ: Contender("xarray", _IN_MEMORY, {"nothing": _open_one}, is_bound=True),
}
"""Everybody, in the order of the tables."""


def targets(case: Case, runs: Mapping[str, Runs]) -> list[Target]:
    """Return what should hold of a case, beside xarray as its users have it: alone, with Dask, with flox."""
    ours, theirs = runs.get(OURS, []), _of_fastest(runs)
    speed = Target(
        "speed beside the fastest of xarray, Dask and flox", _ratio(best(theirs), best(ours)), _LIMIT, "x", at_least=True
    )
    if case.operation == "open":
        return [speed]
    return [speed, Target("memory of that one beside ours", _ratio(peak(theirs), peak(ours)), _LIMIT, "x", at_least=True)]


def _of_fastest(runs: Mapping[str, Runs]) -> Runs:
    """Return what the fastest peer gave, of those that the targets name."""
    peer = _fastest({name: of_name for name, of_name in runs.items() if "hidefix" not in name})
    return runs[peer] if peer else []


def _fastest(runs: Mapping[str, Runs]) -> str | None:
    return fastest_peer(runs, ours=OURS, bounds=(*BOUNDS, _TUNED_OPENING))


def _ratio(theirs: float | None, ours: float | None) -> float | None:
    return theirs / ours if theirs and ours else None


def remarks(case: Case, runs: Mapping[str, Runs]) -> list[str]:
    """Return lines on what no target is for."""
    ours = runs.get(OURS, [])
    if case.operation == "open":
        tuned = _ratio(best(runs.get(_TUNED_OPENING, [])), best(ours))
        told = "who is told that the files fit and does not look"
        return [] if tuned is None else [f"  speed beside {_TUNED_OPENING!r}, {told}: {tuned:.2f}x"]
    lines = []
    peer = _fastest({name: of_name for name, of_name in runs.items() if "hidefix" in name})
    speed, memory = (_ratio(of(runs.get(peer or "", [])), of(ours)) for of in (best, peak))
    if speed is not None and memory is not None:
        lines.append(
            f"  beside {peer!r}, which decodes outside of Python and holds everything: {speed:.2f}x, memory {memory:.2f}x"
        )
    times, floor = _ratio(best(ours), best(runs.get(BOUND, []))), peak(runs.get(_NOTHING_READ, []))
    if times is not None:
        lines.append(f"  ours takes {times:.2f} times as long as inflating alone")
    if floor is not None:
        more = {name: f"{held - floor:.0f} MB" for name in runs if (held := peak(runs[name])) and name not in BOUNDS}
        lines.append(
            f"  xarray that has read nothing holds {floor:.0f} MB; besides: {', '.join(f'{n} {mb}' for n, mb in more.items())}"
        )
    before = max((run["before"] for run in ours if "before" in run), default=None)
    theirs = peak(_of_fastest(runs))
    if before is not None and theirs is not None:
        lines.append(
            f"  ours holds {before:.0f} MB before these files, after a tiny one; a third of theirs is {theirs / 3:.0f} MB"
        )
    return lines
