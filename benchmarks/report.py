"""Tables of what was measured, and whether the targets are met."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = [
    "Target",
    "best",
    "failure",
    "fastest_peer",
    "line_table",
    "peak",
    "plain_table",
    "reduction_table",
    "serving_table",
    "verdicts",
]

_RIGHT = 1e-6
"""Relative error up to which a number is right: single precision has 6e-8."""

Runs = Sequence[Mapping[str, Any]]
"""What the rounds gave for one contender."""


@dataclass(frozen=True, slots=True)
class Target:
    """Something that should hold."""

    text: str
    got: float | None
    """None where it could not be measured."""
    limit: float
    unit: str
    at_least: bool = False
    """Whether larger is better."""


def best(runs: Runs) -> float | None:
    """Return the shortest time, None if no run succeeded."""
    return min((run["seconds"] for run in runs if "seconds" in run), default=None)


def failure(runs: Runs) -> str | None:
    """Return why a run failed, if one did."""
    return next((run["failed"] for run in runs if "failed" in run), None)


def reduction_table(runs: Mapping[str, Runs], *, ours: str, bounds: Sequence[str]) -> list[str]:
    """Return the lines of a table of contenders that compute the same."""
    peer = fastest_peer(runs, ours=ours, bounds=bounds)
    fastest = best(runs[peer]) if peer else None
    rows = [("", "best s", "median s", "CPU s", "speed", "peak MB", "value", "rel. error")]
    for name, of_name in runs.items():
        reason = failure(of_name)
        if reason is not None:
            rows.append((_labelled(name, of_name), f"failed: {reason}"))
            continue
        bound = name in bounds
        rows.append(
            (
                _labelled(name, of_name),
                *_times(of_name),
                "" if bound or fastest is None else f"{fastest / (best(of_name) or 1):.2f}x",
                "" if bound else f"{_peak(of_name):.0f}",
                "" if bound else f"{of_name[0]['value']:.9g}",
                "" if bound else _correctness(of_name),
            )
        )
    return [*_aligned(rows), "  speed: how many times as fast as the fastest peer (best of each)"]


def line_table(runs: Mapping[str, Runs], *, ours: str, bound: str) -> list[str]:
    """Return the lines of a table of what was done over a slow line."""
    our_time = best(runs.get(ours, []))
    rows = [
        (
            "",
            "best s",
            "median s",
            "CPU s",
            f"{ours} is",
            "MB moved",
            "requests",
            "rounds",
            "open at once",
            "value",
            "rel. error",
        )
    ]
    for name, of_name in runs.items():
        reason = failure(of_name)
        if reason is not None:
            rows.append((_labelled(name, of_name), f"failed: {reason}"))
            continue
        most = [max(run[what] for run in of_name) for what in ("moved", "requests", "rounds", "connections")]
        ratio = "" if our_time is None or name == ours else f"{(best(of_name) or 0) / our_time:.2f}x"
        rows.append(
            (
                _labelled(name, of_name) if name != bound else name,
                *_times(of_name),
                ratio,
                f"{most[0] / 1e6:.2f}",
                str(most[1]),
                str(most[2]),
                str(most[3]),
                f"{of_name[0]['value']:.9g}",
                _correctness(of_name) if name != bound else "",
            )
        )
    return [*_aligned(rows), f"  {ours} is: how many times as fast as this one (best of each); MB moved: both ways"]


def plain_table(runs: Mapping[str, Runs]) -> list[str]:
    """Return the lines of a table of times and memory."""
    rows = [("", "best s", "median s", "CPU s", "peak MB")]
    for name, of_name in runs.items():
        reason = failure(of_name)
        if reason is not None:
            rows.append((name, f"failed: {reason}"))
        else:
            rows.append((name, *_times(of_name), f"{_peak(of_name):.0f}"))
    return _aligned(rows)


def serving_table(runs: Mapping[str, Runs], *, peer: str) -> list[str]:
    """Return the lines of a table of servers that answer the same requests."""
    rows = [("", "chunks/s", f"as fast as {peer}", "median ms", "worst ms", "client CPU s", "rel. error")]
    theirs = best(runs.get(peer, []))
    for name, of_name in runs.items():
        reason, fastest = failure(of_name), best(of_name)
        if reason is not None or fastest is None:
            rows.append((name, f"failed: {reason}"))
            continue
        rows.append(
            (
                name,
                f"{of_name[0]['chunks'] / fastest:.0f}",
                "" if theirs is None else f"{theirs / fastest:.2f}x",
                f"{1000 * statistics.median(run['median'] for run in of_name):.1f}",
                f"{1000 * max(run['worst'] for run in of_name):.1f}",
                f"{statistics.median(run['processor'] for run in of_name):.3f}",
                _correctness(of_name),
            )
        )
    return _aligned(rows)


def fastest_peer(runs: Mapping[str, Runs], *, ours: str, bounds: Sequence[str]) -> str | None:
    """Return who else has the best time, right or wrong."""
    times = {name: best(of_name) for name, of_name in runs.items() if name != ours and name not in bounds}
    return min((name for name, time in times.items() if time is not None), key=lambda name: times[name] or 0, default=None)


def peak(runs: Runs) -> float | None:
    """Return the highest peak of memory in megabytes, None if no run succeeded."""
    return max((run["peak"] for run in runs if "peak" in run), default=None)


def verdicts(targets: Sequence[Target]) -> list[str]:
    """Return a line for each target: met or not."""
    lines = []
    for target in targets:
        bound = f"{'>=' if target.at_least else '<='} {target.limit:g} {target.unit}"
        if target.got is None:
            lines.append(f"  target {target.text} {bound}: not measured")
            continue
        met = target.got >= target.limit if target.at_least else target.got <= target.limit
        lines.append(f"  target {target.text} {bound}: {target.got:.3g} {target.unit}, {'met' if met else 'NOT MET'}")
    return lines


def _times(runs: Runs) -> tuple[str, str, str]:
    seconds = [run["seconds"] for run in runs]
    processor = statistics.median(run["processor"] for run in runs)
    return f"{min(seconds):.3f}", f"{statistics.median(seconds):.3f}", f"{processor:.3f}"


def _peak(runs: Runs) -> float:
    return peak(runs) or 0.0


def _labelled(name: str, runs: Runs) -> str:
    version = next((run["version"] for run in runs if run.get("version")), "")
    return f"{name} {version}".strip()


def _correctness(runs: Runs) -> str:
    errors = [run["error"] for run in runs]
    if None in errors:
        return "WRONG: other values are missing"
    return f"{max(errors):.1e}" if max(errors) <= _RIGHT else f"{max(errors):.1e} WRONG"


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the rows with their columns aligned: the first to the left, the others to the right."""
    whole = [row for row in rows if len(row) == len(rows[0])]
    widths = [max(len(row[i]) for row in whole) for i in range(len(rows[0]))]
    widths[0] = max(len(row[0]) for row in rows)
    lines = []
    for row in rows:
        cells = [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)] if row in whole else row[1:]
        lines.append("  ".join(["", row[0].ljust(widths[0]), *cells]).rstrip())
    return lines
