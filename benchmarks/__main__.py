"""The benchmarks: every measurement in a process of its own, contenders taking turns.

This process imports nothing large, so that it neither warms anything up nor shows in anybody's memory.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks import data, datasets, line, series, serving, small_chunks
from benchmarks.contenders import CONTENDERS, OURS
from benchmarks.report import (
    Runs,
    Target,
    best,
    fastest_peer,
    line_table,
    peak,
    plain_table,
    reduction_table,
    serving_table,
    verdicts,
)

_TIMEOUT = 900
_ROOT = Path(__file__).parent.parent
_IMPORT = (
    "import time; processor, started = time.process_time(), time.perf_counter(); import {}; "
    "print(time.perf_counter() - started, time.process_time() - processor)"
)
_PEAK = "; import re; print(int(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1]) / 1024)"
_INFLATE, _READ = "(inflate alone)", "(read alone)"


@dataclass(frozen=True, slots=True)
class Reducing:
    """A case in which everybody computes the same."""

    title: str
    operation: str
    deflated: bool
    """Whether the file is the compressed one."""
    bound: tuple[str, str] | None
    """Contender and operation that nobody can be faster than."""
    peer_target: float | None = None
    """How many times as fast as the fastest peer it should be."""
    bound_target: float | None = None
    """How many times as long as the bound it may take."""


REDUCING = {
    "mean-deflate": Reducing("mean of everything, shuffle + deflate 4", "mean", True, (_INFLATE, "inflate"), 2.5, 2.0),
    "mean-raw": Reducing("mean of everything, no filters", "mean", False, (_READ, "read"), 4.0),
    "std-deflate": Reducing("std of everything, shuffle + deflate 4", "std", True, (_INFLATE, "inflate")),
    "several-deflate": Reducing("min, max and mean of everything, shuffle + deflate 4", "several", True, (_INFLATE, "inflate")),
    "map-deflate": Reducing("mean over time, shuffle + deflate 4", "map", True, (_INFLATE, "inflate")),
    "series-deflate": Reducing("time series of one point, shuffle + deflate 4", "series", True, None),
}
"""Cases by name."""
OTHERS = ("import", "plan", *small_chunks.CASES, *datasets.CASES, *line.CASES, *serving.CASES)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmarks and print a table for each."""
    options = _options(arguments)
    folder = options.data.resolve()
    grid = (data.small if options.small else data.large)(folder)
    for size in ["small"] if options.small else ["small", "large"]:
        if data.missing({"small": data.small, "large": data.large}[size](folder)):
            _progress(f"making the {size} files in {folder}")
            made = _worker("make", size, str(folder))
            if "failed" in made:
                sys.exit(f"the files cannot be made: {made['failed']}")
    print(_machine(options.rounds), flush=True)
    results: dict[str, Mapping[str, Runs]] = {}
    for name in options.only or (*REDUCING, *OTHERS):
        runs, lines = _case(name, grid, options)
        results[name] = runs
        print(f"\n{name}: {lines[0]}", *lines[1:], sep="\n", flush=True)
    if options.json:
        options.json.write_text(json.dumps({"machine": _machine(options.rounds), "results": results}, indent=1))
    return 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m benchmarks", description=__doc__.splitlines()[0])
    names = (*REDUCING, *OTHERS)
    parser.add_argument("--only", action="append", choices=names, metavar="NAME", help=f"one case; again for more: {names}")
    parser.add_argument(
        "--with", action="append", dest="contenders", metavar="TEXT", help="only contenders with this in the name"
    )
    parser.add_argument("--rounds", type=int, default=3, help="how often everybody's turn comes")
    parser.add_argument("--small", action="store_true", help="tiny files: tries the harness, measures nothing")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every single measurement there")
    parser.add_argument("--data", type=Path, default=data.DATA, metavar="FOLDER", help="where the files are kept")
    return parser.parse_args(arguments)


def _case(name: str, grid: data.Grid, options: argparse.Namespace) -> tuple[Mapping[str, Runs], list[str]]:
    """Return what was measured and what is printed of it, a title first."""
    if name == "import":
        return _importing(options.rounds)
    if name == "plan":
        return _planning(grid, options.rounds)
    if name in small_chunks.CASES:
        return _small_chunks(small_chunks.CASES[name], options)
    if name in datasets.CASES:
        return _dataset(datasets.CASES[name], options)
    if name in REDUCING:
        return _reducing(REDUCING[name], grid, options)
    return _over_a_line(line.CASES[name], options) if name in line.CASES else _serving(name, options)


def _reducing(case: Reducing, grid: data.Grid, options: argparse.Namespace) -> tuple[Mapping[str, Runs], list[str]]:
    path = grid.deflated if case.deflated else grid.raw
    warm = data.small(grid.folder)
    warm_up = warm.deflated if case.deflated else warm.raw
    wanted = options.contenders or [""]
    turns = {
        name: case.bound[1] if case.bound and name == case.bound[0] else case.operation
        for name, contender in CONTENDERS.items()
        if any(text in name for text in wanted)
        and (case.operation in contender.operations or (case.bound and name == case.bound[0]))
    }
    measurements = {
        name: ("reduce", "contenders", name, operation, str(path), str(warm_up), str(grid.reference))
        for name, operation in turns.items()
    }
    runs = _rounds(measurements, options.rounds)
    size, stored = 4 * grid.shape[0] * grid.shape[1] * grid.shape[2], path.stat().st_size
    title = f"{case.title} ({' x '.join(map(str, grid.shape))} float32, {size / 1e6:.0f} MB, {stored / 1e6:.0f} MB stored)"
    bounds = [name for name, contender in CONTENDERS.items() if contender.is_bound]
    lines = [title, *reduction_table(runs, ours=OURS, bounds=bounds), *verdicts(_targets(case, runs, bounds))]
    if case.bound and case.bound[1] == "inflate" and best(runs.get(case.bound[0], [])):
        rate = size / 1e9 / (best(runs[case.bound[0]]) or 1)
        lines.append(f"  libdeflate inflates {rate:.2f} GB/s on {_processors()} processors")
    return runs, lines


def _targets(case: Reducing, runs: Mapping[str, Runs], bounds: Sequence[str]) -> list[Target]:
    ours = best(runs.get(OURS, []))
    peer = fastest_peer(runs, ours=OURS, bounds=bounds)
    targets = []
    if case.peer_target is not None:
        theirs = best(runs[peer]) if peer else None
        speed = None if ours is None or theirs is None else theirs / ours
        targets.append(Target("speed beside the fastest peer", speed, case.peer_target, "x", at_least=True))
    if case.bound_target is not None:
        bound = best(runs.get(case.bound[0], [])) if case.bound else None
        text = f"time beside {case.bound[0]}" if case.bound else "time"
        targets.append(Target(text, ours / bound if ours and bound else None, case.bound_target, "x"))
    return [*targets, Target("peak memory", peak(runs.get(OURS, [])), 250, "MB")]


def _small_chunks(case: small_chunks.Case, options: argparse.Namespace) -> tuple[Mapping[str, Runs], list[str]]:
    """Measure what is done with variables of many small chunks, opening included."""
    folder = options.data.resolve()
    files, warm = (small_chunks.files_of(folder, tiny=tiny) for tiny in (options.small, True))
    for size in ["small"] if options.small else ["small", "large"]:
        if not small_chunks.files_of(folder, tiny=size == "small").reference.exists():
            _progress(f"making the {size} file of small chunks in {folder}")
            made = _worker("make-small-chunks", size, str(folder))
            if "failed" in made:
                return {}, [case.title, f"  not measured: {made['failed']}"]
    wanted, places = options.contenders or [""], (str(files.path), str(warm.path), str(files.reference))
    measurements = {
        name: ("reduce", "small_chunks", name, case.operation, *places)
        for name in small_chunks.CONTENDERS
        if any(text in name for text in wanted)
    }
    runs = _rounds(measurements, options.rounds)
    lines = [case.title, *reduction_table(runs, ours=OURS, bounds=()), *verdicts(small_chunks.targets(runs))]
    return runs, lines


def _dataset(case: datasets.Case, options: argparse.Namespace) -> tuple[Mapping[str, Runs], list[str]]:
    """Measure what is done with xarray, opening included."""
    folder = options.data.resolve()
    for size in ["small"] if options.small else ["small", "large"]:
        if series.missing(folder, tiny=size == "small"):
            _progress(f"making the {size} series in {folder}")
            made = _worker("make-series", size, str(folder))
            if "failed" in made:
                return {}, [case.title, f"  not measured: {made['failed']}"]
    files, wanted = datasets.files_of(case, folder, tiny=options.small), options.contenders or [""]
    bound = {} if case.operation == "open" else datasets.BOUNDS
    turns = {
        name: bound.get(name, case.operation)
        for name, contender in datasets.CONTENDERS.items()
        if any(text in name for text in wanted) and (case.operation in contender.operations or name in bound)
    }
    places = (files.pattern, files.warm_up, str(files.reference))
    measurements = {name: ("reduce", "datasets", name, operation, *places) for name, operation in turns.items()}
    runs = _rounds(measurements, options.rounds)
    table = reduction_table(runs, ours=OURS, bounds=list(datasets.BOUNDS))
    lines = [f"{case.title} ({files.title})", *table, *verdicts(datasets.targets(case, runs))]
    return runs, [*lines, *datasets.remarks(case, runs)]


def _importing(rounds: int) -> tuple[Mapping[str, Runs], list[str]]:
    """Time imports in fresh interpreters, which a worker would not be."""
    runs: dict[str, list[dict[str, Any]]] = {f"import {module}": [] for module in ("activestore", "numpy", "h5py", "xarray")}
    for _ in range(max(rounds, 5)):
        for name, of_name in runs.items():
            code = _IMPORT.format(name.removeprefix("import ")) + (
                _PEAK if Path("/proc/self/status").exists() else "; print(0)"
            )
            done = _python("-c", code)
            if done.returncode:
                of_name.append({"failed": _last_line(done.stderr)})
                continue
            seconds, processor, memory = map(float, done.stdout.split())
            of_name.append({"seconds": seconds, "processor": processor, "peak": memory})
    times = sorted(run["seconds"] for run in runs["import activestore"] if "seconds" in run)
    target = Target("import activestore, median", times[len(times) // 2] if times else None, 0.25, "s")
    return runs, ["time to import, in a fresh interpreter", *plain_table(runs), *verdicts([target])]


def _planning(grid: data.Grid, rounds: int) -> tuple[Mapping[str, Runs], list[str]]:
    path = str(grid.fine)
    measurements = {
        "activestore, cold": ("plan", "0", path),
        "activestore, the same again": ("plan", "1", path),
        "activestore, variable open": ("plan-only", path),
        "h5py, chunk_iter alone": ("index", "h5py", path),
        "hidefix, index alone": ("index", "hidefix", path),
        "pyfive, index alone": ("index", "pyfive", path),
    }
    runs = _rounds(measurements, rounds)
    cold = runs["activestore, cold"]
    chunks = grid.fine_shape[0] * grid.fine_shape[1]
    targets = [Target("cold plan", best(cold), 1, "s"), Target("peak memory", peak(cold), 200, "MB")]
    title = f"plan a selection of a variable of {chunks:,} chunks: Active(file, name)[...].explain()"
    return runs, [title, *plain_table(runs), *verdicts(targets)]


def _over_a_line(case: line.Case, options: argparse.Namespace) -> tuple[Mapping[str, Runs], list[str]]:
    """Measure a case over a slow line, with the bytes both ways as the line counts them."""
    folder = options.data.resolve()
    if line.files_missing(folder, tiny=options.small):
        _progress(f"making the files of the line in {folder}")
        line.make(folder, tiny=options.small)
    names = line.INDEXERS if case.only_index else line.CONTENDERS
    wanted_names = options.contenders or [""]
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in names if any(text in name for text in wanted_names)}
    missing = line.missing_server()
    if missing is not None:
        return runs, [case.title, f"  not measured: {missing}"]
    with line.lines(folder, case, tiny=options.small) as (place, counters):
        wanted, size = repr(line.expected(place)), Path(place.local).stat().st_size
        # The servers are warm before anybody's turn.
        for name in [OURS] if case.only_index else [line.BOUND, line.OWN]:
            _worker("line", name, line.as_json(place), wanted)
        for number in range(options.rounds):
            for name, of_name in runs.items():
                _progress(f"round {number + 1} of {options.rounds}: {name}")
                for counter in counters:
                    counter.reset_counters()
                found = _worker("line", name, line.as_json(place), wanted)
                found["moved"] = sum(counter.sent + counter.received for counter in counters)
                found["requests"] = sum(counter.requests for counter in counters)
                found["rounds"] = counters[0].rounds
                found["connections"] = sum(counter.most_open for counter in counters)
                of_name.append(found)
    _progress("")
    title = f"{case.title} (25 ms, 100 Mbit/s; {size / 1e6:.0f} MB stored)"
    return runs, [title, *line_table(runs, ours=OURS, bound=line.BOUND), *verdicts(_line_targets(case, runs, size))]


def _line_targets(case: line.Case, runs: Mapping[str, Runs], size: int) -> list[Target]:
    """Return what should hold of a case over a slow line, in a file of `size` bytes."""

    def most(what: str) -> float | None:
        return max((run[what] for run in runs.get(OURS, []) if "seconds" in run), default=None)

    ours, moved = best(runs.get(OURS, [])), most("moved")
    if case.only_index:
        return [
            Target("time", ours, 0.4, "s"),
            Target("rounds of requests", most("rounds"), 8, ""),
            Target("bytes over the line", moved and moved / 1e6, 2, "MB"),
        ]
    targets = []
    for who, limits in ((OURS, case.targets), (line.OWN, case.own_targets)):
        for peer, limit in limits.items():
            time, theirs = best(runs.get(who, [])), best(runs.get(peer, []))
            speed = theirs / time if time and theirs else None
            targets.append(Target(f"speed of {who} beside {peer}", speed, limit, "x", at_least=True))
    if case.share is not None:
        targets.append(Target("bytes over the line", moved and 100 * moved / size, 100 * case.share, "% of the file"))
    return targets


def _serving(name: str, options: argparse.Namespace) -> tuple[Mapping[str, Runs], list[str]]:
    """Measure our server beside the real Reductionist."""
    case, folder = serving.CASES[name], options.data.resolve()
    missing = line.missing_server()
    if missing is not None:
        return {one: [] for one in case.contenders}, [case.title, f"  not measured: {missing}"]
    serving.make(folder, tiny=options.small)
    with serving.servers(folder, tiny=options.small) as (place, peak_of_ours):
        turns = {who: ("serving", name, who, json.dumps(asdict(place))) for who in case.contenders}
        runs = _rounds(turns, options.rounds)
        memory = peak_of_ours()
    targets = []
    if case.target is not None:
        (who, limit), theirs = case.target, best(runs[serving.PEER])
        ours = best(runs[who])
        ratio = theirs / ours if ours and theirs else None
        targets = [Target(f"speed of {who} beside {serving.PEER}", ratio, limit, "x", at_least=True)]
    if case.most_memory is not None:
        targets.append(Target("peak memory of our server", memory, case.most_memory, "MB"))
    lines = [case.title, *serving_table(runs, peer=serving.PEER), f"  peak memory of our server: {memory:.0f} MB"]
    return runs, [*lines, *verdicts(targets)]


def _rounds(measurements: Mapping[str, Sequence[str]], rounds: int) -> dict[str, list[dict[str, Any]]]:
    """Let everybody have a turn, `rounds` times, so that a drift of the machine meets all; who fails is out."""
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in measurements}
    for number in range(rounds):
        for name, arguments in measurements.items():
            if any("failed" in run for run in runs[name]):
                continue
            _progress(f"round {number + 1} of {rounds}: {arguments[0]} {name}")
            runs[name].append(_worker(*arguments))
    _progress("")
    return runs


def _worker(*arguments: str) -> dict[str, Any]:
    """Return what one process measured."""
    try:
        done = _python("-m", "benchmarks.worker", *arguments)
    except subprocess.TimeoutExpired:
        return {"failed": f"not done after {_TIMEOUT} s"}
    try:
        found: dict[str, Any] = json.loads(_last_line(done.stdout))
    except ValueError:
        return {"failed": f"exit code {done.returncode}: {_last_line(done.stderr)}"}
    return found


def _python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], cwd=_ROOT, capture_output=True, text=True, check=False, timeout=_TIMEOUT
    )


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or [""])[-1]


def _machine(rounds: int) -> str:
    model = platform.processor() or platform.machine()
    information = Path("/proc/cpuinfo")
    if information.exists():
        models = [line for line in information.read_text().splitlines() if line.startswith("model name")]
        model = models[0].partition(":")[2].strip() if models else model
    return (
        f"{_processors()} processors ({model}), Python {platform.python_version()}, {platform.system()}; "
        f"best of {rounds} rounds, each run in a process of its own, page cache warm, imports not counted"
    )


def _processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _progress(text: str) -> None:
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\x1b[K{text}")
        sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
