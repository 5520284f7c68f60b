"""Pictures for notebooks: the chunk grid as SVG, with the touched chunks coloured."""

from __future__ import annotations

import html
import math
import re
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from activestore.core.joined_plan import JoinedPlan
from activestore.core.plan import Plan

__all__ = ["chunk_grid_svg", "page"]

_MOST_CELLS = 24
"""Cells drawn along a dimension; what has more chunks is drawn with several chunks to a cell."""
_LOOKED_UP = 200_000
"""Chunks of a partly written variable beyond which it takes too long to find the cells where nothing was written."""
_LONGEST, _SHORTEST, _CELL = 150.0, 30.0, 4.0
"""Pixels of a face's longest and shortest side, and the least that a cell gets."""
_DEPTH = (0.62, -0.5)
"""Pixels right and down for each pixel of the third dimension, which goes away from the reader."""
_FONT, _LETTER, _LINE, _GAP = 11, 6.4, 15, 6
"""Pixels: size of the letters, about the width of one, from line to line, and between things."""
_TOUCHED, _FILL_VALUE = "#2b8cc4", "#d9822b"
"""Colours that stand out on white and on black."""
_OPACITY = {1: 0.4, 2: 0.6, 3: 0.8, 4: 1.0}
"""How strongly a cell is coloured where up to a third, two thirds, nearly all or all of its chunks are touched."""
_NEVER_TOUCHED, _NEVER_UNTOUCHED = -1, -2
"""Marks of cells without a written chunk, touched and untouched."""
_NOT_XML = "[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]"

Point = tuple[float, float]


def page(text: str, picture: str) -> str:
    """Return HTML with `picture` beside `text`.

    Parameters:
        text: Plain text; it is escaped.
        picture: HTML or SVG of our own.

    Examples:
        >>> "&lt;Active" in page("<Active>", "<svg></svg>")
        True
    """
    return (
        '<div style="display:flex;flex-wrap:wrap;gap:1.5em;align-items:flex-start">'
        f'{picture}<pre style="margin:0;overflow-x:auto">{_escaped(text)}</pre></div>'
    )


def chunk_grid_svg(plan: Plan | JoinedPlan) -> str:
    """Return an SVG drawing of the variable's chunk grid with the chunks that `plan` touches coloured.

    The last three dimensions are drawn, as the faces of a box; others are told in words. A cell of a face stands for all
    chunks behind it, and of a large grid for several side by side: the more of them are touched, the stronger its colour.
    Cells where nothing was ever written have a colour of their own. The size is bounded, whatever the number of chunks.
    Of several files the first that is touched is drawn.

    Examples:
        >>> from activestore import Active
        >>> chunk_grid_svg(Active("docs/tas.nc", "tas")[:6].plan("mean")).count('class="face"')
        3
    """
    files, chunks, plan = plan.files, len(plan), plan.plans[0]
    axes = _axes(plan)
    written = _Written(plan, axes)
    faces = _faces(axes[-3:])
    labels = _labels(axes[-3:], faces)
    corners = [corner for face in faces for corner in face.corners]
    left = min([0.0, *(label.left for label in labels)]) - _GAP
    top = min(y for _, y in corners) - _GAP
    captions, below = _captions(plan, axes, written), max(label.y for label in labels) + 1.3 * _LINE
    captions += [f"the first of {files:,} files, {chunks:,} chunks touched in all"] if files > 1 else []
    labels += [_Label(caption, left + _GAP, below + i * _LINE, "start") for i, caption in enumerate(captions)]
    width = max([x for x, _ in corners] + [label.right for label in labels]) + _GAP - left
    height = labels[-1].y + _GAP - top
    title = _escaped(f"Chunk grid of {plan.request.variable.name}: {'; '.join(captions)}")
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" aria-label="{title}" width="{width:.0f}" height="{height:.0f}" '
        f'viewBox="{left:.0f} {top:.0f} {width:.0f} {height:.0f}" font-family="sans-serif" font-size="{_FONT}" '
        f'style="flex:none;max-width:100%"><title>{title}</title>'
        f"{''.join(face.svg(written) for face in faces)}{''.join(label.svg() for label in labels)}</svg>"
    )


@dataclass(frozen=True, slots=True)
class _Axis:
    """One dimension of the chunk grid, as it is drawn."""

    name: str
    length: int
    chunks: int
    cells: int
    """How many cells stand for the chunks."""
    share: npt.NDArray[np.float64]
    """Of each cell, how much of its chunks is touched along this dimension."""
    touched: int
    """Chunks touched along this dimension."""

    def cell_of(self, chunk: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        return chunk * self.cells // max(1, self.chunks)


def _axes(plan: Plan) -> list[_Axis]:
    variable = plan.variable
    along = zip(variable.dims, variable.shape, variable.table.grid, plan.touched(), strict=True)
    return [_axis(name, length, chunks, touched) for name, length, chunks, touched in along]


def _axis(name: str, length: int, chunks: int, touched: npt.NDArray[np.int64]) -> _Axis:
    cells = min(chunks, _MOST_CELLS)
    bounds = -(-np.arange(cells + 1, dtype=np.int64) * chunks // max(1, cells))
    counts = np.bincount(touched * cells // max(1, chunks), minlength=cells)
    return _Axis(name, length, chunks, cells, counts / np.diff(bounds), len(touched))


_NO_AXIS = _axis("", 1, 1, np.zeros(1, np.int64))


class _Written:
    """Which cells have a written chunk behind them."""

    def __init__(self, plan: Plan, axes: list[_Axis]) -> None:
        table = plan.variable.table
        self._axes = axes
        # Of a partial table, the chunks that were not looked up are not known to be missing.
        self.complete = table.partial or len(table) == math.prod(table.grid)
        self.known = self.complete or len(table) <= _LOOKED_UP
        self._cells: list[npt.NDArray[np.int64]] = []
        if self.known and not self.complete:
            chunks = np.unravel_index(table.index, table.grid) if table.grid else ()
            self._cells = [axis.cell_of(chunk.astype(np.int64)) for axis, chunk in zip(axes, chunks, strict=True)]

    def on(self, rows: _Axis, columns: _Axis) -> npt.NDArray[np.bool_]:
        """Return where, on the face of these two dimensions, something was written."""
        if self.complete or not self._cells:
            return np.full((rows.cells, columns.cells), self.complete or not self.known)
        found = np.zeros((rows.cells, columns.cells), bool)
        found[self._along(rows), self._along(columns)] = True
        return found

    def _along(self, axis: _Axis) -> npt.NDArray[np.int64] | int:
        return next((cells for known, cells in zip(self._axes, self._cells, strict=True) if known is axis), 0)


@dataclass(frozen=True, slots=True)
class _Face:
    """One face of the box: a parallelogram of cells."""

    rows: _Axis
    columns: _Axis
    origin: Point
    """Where the first cell of the first row begins, in pixels."""
    down: Point
    """The side along which the rows lie."""
    across: Point
    """The side along which the columns lie."""
    behind: float
    """How much of what lies behind each cell is touched."""

    @property
    def corners(self) -> list[Point]:
        (x, y), (dx, dy), (ax, ay) = self.origin, self.down, self.across
        return [(x, y), (x + dx, y + dy), (x + ax, y + ay), (x + dx + ax, y + dy + ay)]

    def svg(self, written: _Written) -> str:
        columns = [side / max(1, self.columns.cells) for side in self.across]
        rows = [side / max(1, self.rows.cells) for side in self.down]
        matrix = " ".join(f"{value:.6g}" for value in (*columns, *rows, *self.origin))
        return (
            f'<g class="face"><title>{_escaped(self._hint())}</title>'
            f'<g transform="matrix({matrix})">{self._cells(written)}</g>'
            f'<path d="{self._lines()}" fill="none" stroke="currentColor" stroke-width="0.6" stroke-opacity="0.7"/></g>'
        )

    def _hint(self) -> str:
        axes = [axis for axis in (self.rows, self.columns) if axis is not _NO_AXIS]
        chunks = [-(-axis.chunks // max(1, axis.cells)) for axis in axes]
        names = " x ".join(axis.name for axis in axes) or "scalar"
        return names if max([1, *chunks]) == 1 else f"{names}: a cell is up to {' x '.join(map(str, chunks))} chunks"

    def _cells(self, written: _Written) -> str:
        """Return one path for each kind of cell, a run of like cells in a row being one rectangle."""
        share = np.outer(self.rows.share, self.columns.share) * self.behind
        kind = np.where(share >= 1, 4, np.where(share > 0, 1 + (share * 3).astype(np.int64).clip(0, 2), 0))
        unwritten = ~written.on(self.rows, self.columns)
        kind = np.where(unwritten, np.where(share > 0, _NEVER_TOUCHED, _NEVER_UNTOUCHED), kind)
        paths = []
        for mark in np.unique(kind[kind != 0]).tolist():
            runs = "".join(
                f"M{start} {row}h{stop - start}v1H{start}z"
                for row, line in enumerate(kind == mark)
                for start, stop in _runs(line)
            )
            paths.append(f'<path {_STYLES[mark]} d="{runs}"/>')
        return "".join(paths)

    def _lines(self) -> str:
        (x, y), (dx, dy), (ax, ay) = self.origin, self.down, self.across
        rows = [i / max(1, self.rows.cells) for i in range(max(1, self.rows.cells) + 1)]
        columns = [i / max(1, self.columns.cells) for i in range(max(1, self.columns.cells) + 1)]
        along = [f"M{x + t * dx:.1f} {y + t * dy:.1f}l{ax:.1f} {ay:.1f}" for t in rows]
        return "".join(along + [f"M{x + t * ax:.1f} {y + t * ay:.1f}l{dx:.1f} {dy:.1f}" for t in columns])


_STYLES = {
    **{level: f'class="touched" fill="{_TOUCHED}" fill-opacity="{opacity}"' for level, opacity in _OPACITY.items()},
    _NEVER_TOUCHED: f'class="touched unwritten" fill="{_FILL_VALUE}" fill-opacity="0.6"',
    _NEVER_UNTOUCHED: 'class="unwritten" fill="currentColor" fill-opacity="0.15"',
}


def _runs(line: npt.NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Return start and stop of each run of true values."""
    changes = np.flatnonzero(np.diff(line.astype(np.int8), prepend=0, append=0)).tolist()
    return list(zip(changes[::2], changes[1::2], strict=True))


@dataclass(frozen=True, slots=True)
class _Label:
    """A line of text."""

    text: str
    x: float
    y: float
    anchor: str
    """"start", "middle" or "end": what of the line is at `x`."""
    hint: str = ""
    """What is shown under the pointer."""

    @property
    def left(self) -> float:
        return self.x - _LETTER * len(self.text) * {"start": 0.0, "middle": 0.5, "end": 1.0}[self.anchor]

    @property
    def right(self) -> float:
        return self.left + _LETTER * len(self.text)

    def svg(self) -> str:
        hint = f"<title>{_escaped(self.hint)}</title>" if self.hint else ""
        return (
            f'<text x="{self.x:.1f}" y="{self.y:.1f}" text-anchor="{self.anchor}" fill="currentColor">'
            f"{_escaped(self.text)}{hint}</text>"
        )


def _faces(axes: list[_Axis]) -> list[_Face]:
    """Return the faces that up to three dimensions have, the front one first."""
    rows, columns = [_NO_AXIS, _NO_AXIS, *axes][-2:]
    longest = max([1, *(axis.length for axis in axes)])
    across, down = (_pixels(columns, longest), 0.0), (0.0, _pixels(rows, longest))
    if len(axes) < 3:
        return [_Face(rows, columns, (0.0, 0.0), down, across, 1.0)]
    depth = _pixels(axes[0], longest)
    away = (depth * _DEPTH[0], depth * _DEPTH[1])
    behind = [axis.touched / max(1, axis.chunks) for axis in axes]
    return [
        _Face(rows, columns, (0.0, 0.0), down, across, behind[0]),
        _Face(axes[0], columns, (0.0, 0.0), away, across, behind[1]),
        _Face(rows, axes[0], across, down, away, behind[2]),
    ]


def _pixels(axis: _Axis, longest: int) -> float:
    """Return the length of a side: it grows with the root of the dimension's, so that short ones can be seen."""
    return max(_SHORTEST, _CELL * axis.cells, 0.0 if axis is _NO_AXIS else _LONGEST * math.sqrt(axis.length / longest))


def _labels(axes: list[_Axis], faces: list[_Face]) -> list[_Label]:
    """Return the names and lengths of up to three dimensions, each beside its side of the front face or the box."""
    (width, _), (_, height) = faces[0].across, faces[0].down
    names = [f"{_shortened(axis.name)} {axis.length:,}" for axis in axes]
    hints = [f"{axis.name}: {axis.length:,} long, {axis.touched:,} of {axis.chunks:,} chunks touched" for axis in axes]
    labels = [_Label(names[-1] if axes else "scalar", width / 2, height + _LINE, "middle", hints[-1] if axes else "")]
    if len(axes) > 1:
        labels.append(_Label(names[-2], -_GAP, height / 2 + _FONT / 3, "end", hints[-2]))
    if len(axes) > 2:
        away = faces[1].down
        labels.append(_Label(names[-3], width + away[0] / 2 + _GAP, height + away[1] / 2 + _FONT, "start", hints[-3]))
    return labels


def _captions(plan: Plan, axes: list[_Axis], written: _Written) -> list[str]:
    """Return what is said below the picture."""
    total, touched = math.prod(axis.chunks for axis in axes), len(plan)
    lines = [f"{touched:,} of {total:,} chunk{'' if total == 1 else 's'} touched"]
    if not written.complete:
        lines.append(f"{total - len(plan.variable.table):,} never written: orange where touched, else grey")
    others = [
        f"not drawn: {_shortened(axis.name)} {axis.length:,}, {axis.touched:,} of {axis.chunks:,} chunks touched"
        for axis in axes[:-3]
    ]
    return lines + others


def _shortened(name: str) -> str:
    return name if len(name) <= 24 else f"{name[:23]}…"


def _escaped(text: str) -> str:
    """Return text that HTML and XML accept: names in files may hold anything."""
    return html.escape(re.sub(_NOT_XML, "\ufffd", text))
