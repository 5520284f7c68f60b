"""Variables of many small chunks, as satellite products have them: maps of few numbers a cell, and chunks never written."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.contenders import OURS, Contender, Operation
from benchmarks.report import Runs, Target, best, peak

__all__ = ["CASES", "CONTENDERS", "PEER", "Case", "Files", "files_of", "make", "targets"]

PEER = "h5py + NumPy"
_VERSION = 1
"""Raise it when the numbers change: files of another version are made anew."""
_LIMIT = 1.5
"""How many times as fast as h5py and NumPy it should be."""
_MOST_MEMORY = 400
"""Megabytes: a map of double precision, its sums and its counts, and some chunks at work."""


@dataclass(frozen=True, slots=True)
class Case:
    """What is done with which variable; all are in one file."""

    title: str
    operation: str
    """The name of the variable, too."""


CASES = {
    "maps-uint8": Case("map: mean over 12 steps in chunks of 2, deflate 4", "uint8"),
    "maps-float32": Case("map: mean over 12 steps in chunks of 2, shuffle + deflate 4", "float32"),
    "gaps": Case("sum of very many small chunks, one of which was never written", "gaps"),
}
"""Cases by name."""


@dataclass(frozen=True, slots=True)
class Files:
    """The file that is measured, and what should be found."""

    path: Path
    shape: tuple[int, int, int]
    """Lengths of the two maps' variables."""
    chunks: tuple[int, int, int]
    long: int
    """Length of the variable of very many chunks, each of 20 numbers."""

    @property
    def reference(self) -> Path:
        return self.path.with_suffix(".npz")


def files_of(folder: Path, *, tiny: bool) -> Files:
    """Return the file below `folder`."""
    path = folder / f"v{_VERSION}-{'small' if tiny else 'large'}-small-chunks.h5"
    if tiny:
        return Files(path, (32, 60, 12), (16, 30, 2), 2_000)
    return Files(path, (2160, 4320, 12), (135, 270, 2), 2_000_000)


def make(files: Files) -> None:
    """Write the file if it is not there."""
    import h5py
    import numpy as np

    if files.reference.exists():
        return
    files.path.parent.mkdir(exist_ok=True)
    wanted: dict[str, Any] = {}
    with h5py.File(files.path, "w") as file:
        for name, options in {"uint8": {}, "float32": {"shuffle": True}}.items():
            dataset = file.create_dataset(
                name, files.shape, name, chunks=files.chunks, compression="gzip", compression_opts=4, **options
            )
            wanted[name] = np.empty(files.shape[:2])
            for rows, values in _bands(files):
                dataset[rows] = values.astype(name)
                wanted[name][rows] = values.astype(name).mean(axis=2, dtype="f8")
        long = file.create_dataset("gaps", (files.long,), "f4", chunks=(20,))
        long[20:] = np.arange(20, files.long) % 1000
        wanted["gaps"] = (np.arange(20, files.long) % 1000).sum(dtype="f8")
    np.savez(files.reference, **wanted)


def _bands(files: Files):
    """Yield rows of a map and their values: waves, a season and some noise."""
    import numpy as np

    random = np.random.default_rng(1)
    rows, columns, steps = files.shape
    y, x = np.linspace(0, 9, rows)[:, None, None], np.linspace(0, 12, columns)[None, :, None]
    for first in range(0, rows, files.chunks[0]):
        band = slice(first, min(first + files.chunks[0], rows))
        waves = 100 + 50 * np.sin(y[band] + np.arange(steps)) * np.cos(x)
        yield band, (waves + random.normal(0, 2, waves.shape)).clip(0, 255).round(1)


def _ours(name: str) -> Operation:
    def operation(path: str) -> Any:
        from activestore import Active

        variable = Active(path, name)
        return variable.sum() if name == "gaps" else variable.mean(axis=2)

    return operation


def _h5py(name: str) -> Operation:
    def operation(path: str) -> Any:
        import h5py

        with h5py.File(path) as file:
            values = file[name][...]
        return values.sum(dtype="f8") if name == "gaps" else values.mean(axis=2, dtype="f8")

    return operation


def _operations(of: Callable[[str], Operation]) -> dict[str, Operation]:
    return {case.operation: of(case.operation) for case in CASES.values()}


CONTENDERS: dict[str, Contender] = {
    OURS: Contender("activestore", ("activestore",), _operations(_ours)),
    PEER: Contender("h5py", ("h5py", "numpy"), _operations(_h5py)),
}
"""Everybody, in the order of the tables."""


def targets(runs: Mapping[str, Runs]) -> list[Target]:
    """Return what should hold."""
    ours, theirs = best(runs.get(OURS, [])), best(runs.get(PEER, []))
    speed = theirs / ours if ours and theirs else None
    return [
        Target(f"speed beside {PEER}", speed, _LIMIT, "x", at_least=True),
        Target("peak memory", peak(runs.get(OURS, [])), _MOST_MEMORY, "MB"),
    ]
