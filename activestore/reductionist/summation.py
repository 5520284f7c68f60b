"""How the axes of a chunk are cut so that a Reductionist server's sums are right.

A server keeps a sum in the type of the variable and adds up one listed axis after the other, number by number. It takes any
shape with the right number of cells, so that a long axis can be sent as several short ones: that bounds the rounding of
float32 sums, and what is left unreduced keeps sums of integers from wrapping around. It is faster as well.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

from activestore.core.selection import Points, Region, Slice, region_shape

__all__ = ["FLOAT32_TERMS", "Split", "split"]

FLOAT32_TERMS = 16
"""Roundings of half a unit in the last place that a float32 sum may go through: 16 x 2^-24 is less than 1e-6."""


_START = 8
"""What the first factor is made to be, if it can."""


@dataclass(frozen=True, slots=True)
class Split:
    """A chunk as the server is told of it: the same cells in the same order, on other axes."""

    shape: tuple[int, ...]
    """Lengths of the axes; their product is that of the chunk's."""
    region: tuple[Slice, ...]
    """The wanted positions along each."""
    axes: tuple[int, ...]
    """Those that the server reduces, ascending."""
    left: tuple[int, ...]
    """Among the axes of the answer, those that are then reduced here."""
    answer: tuple[int, ...]
    """Lengths of the axes of the answer."""

    @property
    def cells(self) -> int:
        """How many numbers the answer has."""
        return math.prod(self.answer)

    @property
    def whole(self) -> bool:
        """Whether all of the chunk is wanted."""
        return all(part == (0, length, 1) for part, length in zip(self.region, self.shape, strict=True))

    @property
    def reduced(self) -> int:
        """How many numbers each number of the answer is made of."""
        return math.prod(region_shape(tuple(self.region[axis] for axis in self.axes)))


@dataclass(slots=True)
class _Piece:
    """A run of axes that are reduced whole, or one axis of another kind."""

    length: int
    part: Slice
    reduced: bool
    factors: list[int]
    """What the server may reduce one by one; empty where nothing is reduced."""


@lru_cache(maxsize=4096)
def split(
    shape: tuple[int, ...], region: Region, axes: tuple[int, ...], *, terms: int | None = None, product: int | None = None
) -> Split:
    """Return how to reduce `axes` of the part `region` of a chunk, with as small an answer as the limits allow.

    Neighbouring axes that are reduced whole are one run of cells, which is cut into the prime factors of its length; of an
    axis that is wanted from `start` to `stop`, the part that divides both is cut off the same way. The server reduces as many
    of these factors as the limits allow, the others come back and are reduced here. A sum over axes of the lengths n1, n2, …,
    each added up naively, is wrong by at most (n1 - 1) + (n2 - 1) + … roundings.

    Parameters:
        shape: Shape of the chunk.
        region: The wanted part of it; no `Points`.
        axes: The dimensions to be reduced.
        terms: What the sum of n - 1 over the axes that the server reduces may be; None for no limit.
        product: What the product of their n may be; None for no limit.

    Examples:
        >>> split((8, 6), (Slice(0, 8, 1), Slice(0, 6, 1)), (0, 1), terms=16).shape
        (8, 3, 2)
        >>> found = split((8, 6), (Slice(2, 6, 1), Slice(0, 6, 1)), (0, 1), terms=3)
        >>> found.shape, found.region[0], found.axes, found.answer
        ((4, 2, 2, 3), Slice(start=1, stop=3, step=1), (0, 1, 2), (3,))
    """
    pieces = _pieces(shape, region, axes)
    _choose(pieces, terms=math.inf if terms is None else terms, product=math.inf if product is None else product)
    lengths: list[int] = []
    parts: list[Slice] = []
    reduced: list[int] = []
    left: list[int] = []
    answer: list[int] = []
    for piece in pieces:
        for length, part, done in _axes_of(piece):
            if done:
                reduced.append(len(lengths))
            else:
                left += [len(answer)] if piece.reduced else []
                answer += region_shape((part,))
            lengths.append(length)
            parts.append(Slice(*part))
    if not lengths:
        return Split((1,), (Slice(0, 1, 1),), (0,), (), ())
    return Split(tuple(lengths), tuple(parts), tuple(reduced), tuple(left), tuple(answer))


def _pieces(shape: tuple[int, ...], region: Region, axes: tuple[int, ...]) -> list[_Piece]:
    """Return the axes in order, those that are reduced whole joined to runs."""
    pieces: list[_Piece] = []
    run: _Piece | None = None
    for axis, (length, part) in enumerate(zip(shape, region, strict=True)):
        if isinstance(part, Points):
            raise TypeError("listed positions cannot be sent")
        if axis not in axes:
            pieces.append(_Piece(length, part, reduced=False, factors=[]))
            run = None
            continue
        inner = math.gcd(length, part.start, part.stop) if part.step == 1 else 1
        if inner != length:
            outer = Slice(part.start // inner, part.stop // inner, part.step)
            pieces.append(_Piece(length // inner, outer, reduced=True, factors=list(region_shape((outer,)))))
            run = None
        if run is None:
            run = _Piece(1, Slice(0, 1, 1), reduced=True, factors=[])
            pieces.append(run)
        run.length *= inner
        run.part = Slice(0, run.length, 1)
    for piece in pieces:
        if piece.reduced and piece.part == (0, piece.length, 1):
            piece.factors = _prime_factors(piece.length)
    return pieces


def _choose(pieces: list[_Piece], *, terms: float, product: float) -> None:
    """Keep, of each piece's factors, those that the server reduces: the small ones first, as they give most for a rounding.

    The server's first step, over all cells, takes a third less with a factor of 8 than with one of 3, so that small factors
    are joined to that at the start.
    """
    first = next((piece for piece in pieces if piece.factors), None)
    if first is not None and first.part == (0, first.length, 1):
        first.factors = _with_a_larger_start(first.factors, min(_START, terms + 1, product))
    starts = [(0, first.factors[0], pieces.index(first))] if first is not None else []
    others = [(factor, factor, i) for i, piece in enumerate(pieces) for factor in piece.factors[piece is first :]]
    taken: list[list[int]] = [[] for _ in pieces]
    spent, under = 0, 1
    for _, factor, i in sorted(starts + others):
        if spent + factor - 1 <= terms and under * factor <= product:
            taken[i].append(factor)
            spent, under = spent + factor - 1, under * factor
    for piece, factors in zip(pieces, taken, strict=True):
        # Large factors first: what is left for the later ones to be done on is then small.
        piece.factors = sorted(factors, reverse=True)


def _with_a_larger_start(factors: list[int], most: float) -> list[int]:
    """Return ascending factors with the first of them multiplied while they make no more than `most`."""
    start, rest = factors[0], factors[1:]
    while rest and start * rest[0] <= most:
        start *= rest.pop(0)
    return [start, *rest]


def _axes_of(piece: _Piece) -> list[tuple[int, Slice, bool]]:
    """Return length, wanted part and whether the server reduces it, of each axis that a piece is sent as."""
    if not piece.reduced or piece.part != (0, piece.length, 1):
        return [(piece.length, piece.part, bool(piece.factors))]
    rest = piece.length // math.prod(piece.factors)
    found = [(factor, Slice(0, factor, 1), True) for factor in piece.factors]
    return [*found, (rest, Slice(0, rest, 1), False)] if rest > 1 else found


def _prime_factors(number: int) -> list[int]:
    found, factor = [], 2
    while factor * factor <= number:
        while number % factor == 0:
            found.append(factor)
            number //= factor
        factor += 1
    return [*found, number] if number > 1 else found
