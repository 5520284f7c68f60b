"""What may be joined along a dimension, and in which order: one rule, for `Active` and for the engine of xarray."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from activestore.errors import JoinError

__all__ = ["Coordinate", "Joint", "check_units"]

Coordinate = npt.NDArray[Any]
"""Numbers, times or labels along the joint dimension of one file, comparable with those of the others."""

Shown = Callable[[int], Any]  # Any: numbers, times or text, in an array or a list
"""Gives the coordinate of a file as people read it."""


@dataclass(frozen=True, slots=True)
class Joint:
    """The dimension along which files are joined, and where each of them lies on it.

    Numbers and times have to rise, or to fall, from each to the next, within every file and from one file to the next; so none
    is there twice. Labels have no order: the files keep theirs, and no label is there twice. Files without any positions come
    last. Where no file has a coordinate, all keep their order.
    """

    name: str
    """The dimension's name."""
    files: Sequence[str]
    """Addresses of the files, for messages."""
    remedy: str
    """What messages advise to do with files that do not fit."""

    def order(self, found: Sequence[Coordinate | None], shown: Shown | None = None) -> list[int]:
        """Return the numbers of the files in the order in which they are joined.

        Parameters:
            found: The coordinate of each file; None where it has none.
            shown: Gives the coordinate of a file for messages; `found` by default.

        Raises:
            JoinError: They cannot be joined.

        Examples:
            >>> Joint("time", ["b", "a"], "leave one out").order([np.array([3, 4]), np.array([1, 2])])
            [1, 0]
        """
        if all(one is None for one in found):
            return list(range(len(found)))
        known = self._all_known(found)
        filled = [i for i, one in enumerate(known) if len(one)]
        empty = [i for i, one in enumerate(known) if not len(one)]
        for i in filled:
            self._check_none_missing(self.files[i], known[i])
        if any(_is_label(known[i]) for i in filled):
            self._check_labels(known)
            return [*filled, *empty]
        try:
            return [*self._sorted(known, filled, shown or (lambda i: known[i])), *empty]
        except TypeError:
            # Times of several calendars, or some beyond what NumPy's own times reach.
            kinds = {type(known[i].flat[0]).__name__: self.files[i] for i in reversed(filled)}
            have = "; ".join(f"{file} has {kind}" for kind, file in reversed(kinds.items()))
            raise JoinError(
                f"the coordinates {self.name!r} of the files cannot be compared: {have}; open files of one calendar together, "
                "or give decode_times=xr.coders.CFDatetimeCoder(use_cftime=True)"
            ) from None

    def refused(self, *files: str, because: str) -> JoinError:
        """Return the error that says why files are not joined, and what to do."""
        return JoinError(f"{' and '.join(files)}: {because}; {self.remedy}")

    def _all_known(self, found: Sequence[Coordinate | None]) -> list[Coordinate]:
        known = [one for one in found if one is not None]
        if len(known) < len(found):
            lacks, has = (self.files[[one is None for one in found].index(state)] for state in (True, False))
            raise self.refused(lacks, because=f"has no coordinate {self.name!r}, which {has} has")
        return known

    def _check_none_missing(self, file: str, values: Coordinate) -> None:
        missing = _missing(values)
        if missing.any():
            at = int(np.argmax(missing))
            raise self.refused(file, because=f"{self.name!r} has no value at the position {at}, so its place is not known")

    def _check_labels(self, known: Sequence[Coordinate]) -> None:
        seen: dict[Any, int] = {}  # Any: whatever labels are
        for i, values in enumerate(known):
            for label in values.tolist():
                if label in seen:
                    files = dict.fromkeys((self.files[seen[label]], self.files[i]))
                    raise self.refused(*files, because=f"overlap along {self.name!r}: {label!r} is there twice")
                seen[label] = i

    def _sorted(self, known: Sequence[Coordinate], filled: Sequence[int], shown: Shown) -> list[int]:
        """Return the files that have positions in the order of these.

        Raises:
            JoinError: One rises and one falls, or two overlap.
        """
        falls = {i: self._falls(i, known[i], shown) for i in filled if len(known[i]) > 1}
        down = True in falls.values()
        against = [i for i, one in falls.items() if one is not down]
        if against:
            one, other = self.files[against[0]], next(self.files[i] for i, one in falls.items() if one)
            raise self.refused(one, other, because=f"{self.name!r} rises in places and falls in others")
        order = sorted(filled, key=lambda i: known[i][0], reverse=down)
        for before, after in pairwise(order):
            last, begin = known[before][-1], known[after][0]
            if not (begin < last if down else begin > last):
                ends = f"the one ends with {shown(before)[-1]}, the other begins with {shown(after)[0]}"
                raise self.refused(self.files[before], self.files[after], because=f"overlap along {self.name!r}: {ends}")
        return order

    def _falls(self, i: int, values: Coordinate, shown: Shown) -> bool:
        """Return whether the coordinate of a file falls.

        Raises:
            JoinError: It does neither rise nor fall.
        """
        falls = bool(values[1] < values[0])
        before, after = (values[1:], values[:-1]) if falls else (values[:-1], values[1:])
        steps = np.asarray(before < after, bool)
        if not steps.all():
            at = int(np.argmin(steps))
            one, other = shown(i)[at], shown(i)[at + 1]
            if bool(values[at] == values[at + 1]):
                raise self.refused(self.files[i], because=f"{self.name!r} has {one} twice, at the positions {at} and {at + 1}")
            because = f"{self.name!r} rises in places and falls in others: {one} comes before {other}"
            raise self.refused(self.files[i], because=because)
        return falls


def check_units(name: str, files: Sequence[str], units: Sequence[object]) -> None:
    """Refuse files that have a variable in different units; `units` are those of each file, None where it has none.

    Raises:
        JoinError: There are some.
    """
    first = _told(units[0])
    for file, one in zip(files, units, strict=True):
        if _told(one) != first:
            raise JoinError(
                f"{files[0]} and {file}: {name!r} is in {first} and {_told(one)}; only what has the same units can be joined"
            )


def _missing(values: Coordinate) -> npt.NDArray[np.bool_]:
    if values.dtype.kind in "mM":
        return np.isnat(values)
    if values.dtype.kind == "f":
        return ~np.isfinite(values)
    if values.dtype.kind == "O":
        return np.array([one is None or bool(one != one) for one in values], bool)
    return np.zeros(len(values), bool)


def _told(units: object) -> str:
    return "no units" if units is None else str(units).strip()


def _is_label(values: Coordinate) -> bool:
    return values.dtype.kind not in "iufmMO" or isinstance(values.flat[0], (str, bytes))
