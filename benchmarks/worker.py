"""One measurement in a process of its own: `python -m benchmarks.worker WHAT …` prints a line of JSON."""

import glob
import importlib
import json
import os
import resource
import sys
import time
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

__all__ = ["main"]


def main(arguments: list[str]) -> None:
    """Do what the arguments say and print what was measured, or why it failed."""
    what, *rest = arguments
    warnings.simplefilter("ignore")
    try:
        found = _TASKS[what](*rest)
    except BaseException as error:  # noqa: BLE001  # whatever stops a peer is told in its row
        found = {"failed": f"{type(error).__name__}: {error}".splitlines()[0]}
    # Behind a line break: a peer may have printed half a line.
    sys.stdout.write(f"\n{json.dumps(found)}\n")
    sys.stdout.flush()


def _make(grid: str, folder: str) -> dict[str, Any]:
    from benchmarks import data

    data.make({"large": data.large, "small": data.small}[grid](Path(folder)))
    return {}


def _make_series(size: str, folder: str) -> dict[str, Any]:
    from benchmarks import series

    series.make(Path(folder), tiny=size == "small")
    return {}


def _make_small_chunks(size: str, folder: str) -> dict[str, Any]:
    from benchmarks import small_chunks

    small_chunks.make(small_chunks.files_of(Path(folder), tiny=size == "small"))
    return {}


def _reduce(family: str, name: str, operation: str, path: str, warm_up: str, reference: str) -> dict[str, Any]:
    """Time one operation of one contender: imports, lazy imports (by a tiny file) and the page cache are warm.

    `family` is the module with the contenders; `path` and `warm_up` match one file or several.
    """
    contender = importlib.import_module(f"benchmarks.{family}").CONTENDERS[name]
    for module in contender.modules:
        importlib.import_module(module)
    run = contender.operations[operation]
    run(contender.setup(warm_up))
    for one in glob.glob(path):
        _read_once(one)
    given = contender.setup(path)
    before = peak_megabytes()
    value, seconds, processor = _timed(lambda: run(given))
    found = {"seconds": seconds, "processor": processor, "peak": peak_megabytes(), "before": before}
    if contender.is_bound:
        return found
    return found | {"version": version(contender.package)} | _compared(value, operation, reference)


def _timed(work: Callable[[], Any]) -> tuple[Any, float, float]:
    """Return what `work` gives, and its seconds by the clock and of the processors."""
    processor, started = time.process_time(), time.perf_counter()
    value = work()
    seconds = time.perf_counter() - started
    return value, seconds, time.process_time() - processor


def _read_once(path: str) -> None:
    """Bring the file into the page cache."""
    buffer = bytearray(1 << 20)
    with open(path, "rb", buffering=0) as file:
        while file.readinto(buffer):
            pass


def peak_megabytes() -> float:
    """Return the most memory that this process has held.

    `ru_maxrss` may hold what the parent had when it started this process; the kernel's own line does not.
    """
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def _compared(value: Any, operation: str, reference: str) -> dict[str, Any]:
    """Return how far numbers are from the reference: the largest relative error, infinite where the missing ones differ."""
    import numpy as np

    got = np.asarray(value, "f8").squeeze()
    expected = np.load(reference)[operation]
    same = got.shape == expected.shape and bool(np.array_equal(np.isnan(got), np.isnan(expected)))
    error = float(np.nanmax(np.abs(got / expected - 1))) if same else float("inf")
    shown = float(got) if got.ndim == 0 else float(np.nanmean(got))
    return {"value": shown, "error": error if np.isfinite(error) else None}


def _plan(again: str, path: str) -> dict[str, Any]:
    """Time `Active(…)[…].explain()` of a variable with very many chunks, cold, or once more in the same process."""
    from activestore import Active

    def explained():
        tas = Active(path, "x")
        return tas[tas.shape[0] // 10 :, ::3].explain("mean").chunks

    for _ in range(int(again)):
        explained()
    chunks, seconds, processor = _timed(explained)
    return {"seconds": seconds, "processor": processor, "peak": peak_megabytes(), "chunks": chunks}


def _plan_only(path: str) -> dict[str, Any]:
    """Time a second plan of an open variable."""
    from activestore import Active

    tas = Active(path, "x")
    tas[::2].explain("mean")
    explanation, seconds, processor = _timed(lambda: tas[tas.shape[0] // 10 :, ::3].explain("mean"))
    return {"seconds": seconds, "processor": processor, "peak": peak_megabytes(), "chunks": explanation.chunks}


def _index(name: str, path: str) -> dict[str, Any]:
    """Time how a peer finds all chunks of a variable."""
    importlib.import_module({"pyfive": "pyfive", "hidefix": "hidefix", "h5py": "h5py"}[name])
    chunks, seconds, processor = _timed(lambda: _INDEXES[name](path))
    return {"seconds": seconds, "processor": processor, "peak": peak_megabytes(), "chunks": chunks}


def _index_h5py(path: str) -> int:
    import h5py

    places: list[tuple[int, int]] = []
    with h5py.File(path, "r") as file:
        file["x"].id.chunk_iter(lambda chunk: places.append((chunk.byte_offset, chunk.size)))
    return len(places)


def _index_hidefix(path: str) -> None:
    import hidefix

    hidefix.Index(path).dataset("x")


def _index_pyfive(path: str) -> int:
    import pyfive

    with pyfive.File(path) as file:
        return int(file["x"].id.get_num_chunks())


def _line(name: str, place: str, wanted: str) -> dict[str, Any]:
    """Time one contender over a slow line."""
    from benchmarks import line

    value, seconds, processor = line.run(name, place)
    found = {"seconds": seconds, "processor": processor, "peak": peak_megabytes(), "value": float(value)}
    return found | {
        "version": version({**line.CONTENDERS, **line.INDEXERS}[name][0]),
        "error": abs(float(value) / float(wanted) - 1),
    }


def _serving(case: str, who: str, place: str) -> dict[str, Any]:
    """Time one server."""
    from benchmarks import serving

    return serving.measured(case, who, place)


_INDEXES: dict[str, Callable[[str], Any]] = {"h5py": _index_h5py, "hidefix": _index_hidefix, "pyfive": _index_pyfive}

_TASKS: dict[str, Callable[..., dict[str, Any]]] = {
    "make": _make,
    "make-series": _make_series,
    "make-small-chunks": _make_small_chunks,
    "reduce": _reduce,
    "plan": _plan,
    "plan-only": _plan_only,
    "index": _index,
    "line": _line,
    "serving": _serving,
}

if __name__ == "__main__":
    main(sys.argv[1:])
    # Peers may leave threads behind that never end.
    os._exit(0)
