"""What a run gives back: values, the count behind them, and a report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from activestore.core.joined_plan import JoinedPlan
from activestore.core.plan import Plan
from activestore.core.source import ReadableSource
from activestore.results.html import chunk_grid_svg, page

__all__ = ["Report", "Result"]


@dataclass(frozen=True, slots=True)
class Report:
    """How a result was obtained."""

    source: str
    """Address of the source."""
    variable: str
    """Name of the variable."""
    backend: str
    """The backend that was asked."""
    chunks: int
    """Chunks that were touched."""
    where: Mapping[str, int]
    """How many chunks were computed by what: a backend's name, "fill value", "local fallback", …"""
    bytes_read: int
    """Bytes of stored chunks that were read for it, here or by a server."""
    bytes_moved: int
    """Bytes that came to this process: the chunks that it computed itself, and the answers of a server."""
    cells: int
    """Numbers that were looked at."""
    seconds: float
    """How long the run took, by the clock."""
    workers: int
    """How many chunks were computed at once: threads, or work that an executor was given at a time."""
    reasons: Mapping[str, int] = field(default_factory=dict)
    """Why chunks were not computed by the backend that was asked, and how many."""

    def __str__(self) -> str:
        """Return it as a few lines."""
        where = ", ".join(f"{count} by {what}" for what, count in self.where.items()) or "none"
        came = "" if self.bytes_moved == self.bytes_read else f"; {self.bytes_moved:,} bytes came here"
        lines = [
            f"{self.variable} of {self.source}",
            f"  chunks   {self.chunks:,}: {where}",
            f"  read     {self.bytes_read:,} bytes for {self.cells:,} numbers{came}",
            f"  time     {self.seconds:.3f} s, {self.workers} at once",
        ]
        lines += [f"  note     {count} chunks not by {self.backend}: {reason}" for reason, count in self.reasons.items()]
        return "\n".join(lines)


@dataclass(frozen=True, slots=True, repr=False)
class Result:
    """A result, the count behind it, and how it was obtained."""

    values: Mapping[str, Any]
    """What each reduction gives: a NumPy number or a masked array; `numpy.ma.masked` where nothing was valid."""
    count: Any
    """How many values are valid under each cell of the result."""
    dims: tuple[str, ...]
    """Names of the result's dimensions."""
    report: Report
    """How it was obtained."""
    plan: Plan | JoinedPlan
    """The plan that was carried out."""
    source: ReadableSource = field(repr=False)
    """The source, still open: `Active(result.source, name)` reads its other variables."""
    sources: tuple[ReadableSource, ...] = field(repr=False)
    """All sources of the variable, in the order in which they are joined, whether the result is of them or not."""

    @property
    def value(self) -> Any:  # Any: a number or an array
        """The result of the one reduction that was asked for; of several, a mapping by name."""
        return next(iter(self.values.values())) if len(self.values) == 1 else self.values

    def __repr__(self) -> str:
        rows = [f"{name:8} {_shown(value)}" for name, value in self.values.items()]
        return "\n".join(["Result", *(f"  {row}" for row in rows), f"  count    {_shown(self.count)}", *_indented(self.report)])

    def _repr_html_(self) -> str:
        return page(repr(self), chunk_grid_svg(self.plan))


def _indented(report: Report) -> list[str]:
    return [f"  {line}" for line in str(report).splitlines()]


_MOST_SHOWN = 6
"""Numbers of an array that are all shown; of a larger one, the first and the last two along each dimension are."""


def _shown(value: Any) -> str:  # Any: a number or an array
    if np.ndim(value) == 0:
        return str(value)
    array = np.asanyarray(value)
    text = np.array2string(
        _texts(array) if np.ma.is_masked(array) else np.asarray(array),
        threshold=_MOST_SHOWN if array.size <= _MOST_SHOWN else 0,
        edgeitems=2,
        separator=", ",
        formatter={"object": str},
    ).replace("\n", " ")
    return f"{array.shape} {array.dtype} {text}"


def _texts(array: np.ma.MaskedArray[Any, Any]) -> npt.NDArray[np.object_]:
    """Return what numbers look like, masked ones as NumPy shows them; of long dimensions only some, more than are shown."""
    # NumPy formats masked arrays as if they were not.
    for axis, length in enumerate(array.shape if array.size > _MOST_SHOWN else ()):
        if length > 5:
            array = array[(slice(None),) * axis + ([0, 1, 2, length - 2, length - 1],)]
    pairs = zip(array.data.reshape(-1), np.ma.getmaskarray(array).reshape(-1).tolist(), strict=True)
    texts = ["--" if masked else np.array2string(np.asarray(number)) for number, masked in pairs]
    found = np.empty(len(texts), object)
    found[:] = texts
    return found.reshape(array.shape)
