"""All that decides a case, in plain values: its repr is enough to run it again."""

from dataclasses import dataclass, field, fields
from typing import Any

__all__ = ["Ask", "Case", "Damage", "File", "script"]

NAME = "x"
"""Name of the variable in every file."""

Plain = Any
"""Numbers, text, and tuples and lists of them."""


class _Short:
    """A record whose repr leaves out what is as usual."""

    def __repr__(self) -> str:
        usual = {
            one.name: one.default if one.default_factory is dataclass_missing else one.default_factory() for one in fields(self)
        }
        given = {name: getattr(self, name) for name, default in usual.items() if getattr(self, name) != default}
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in given.items())})"


dataclass_missing = field().default_factory


@dataclass(frozen=True, repr=False)
class File(_Short):
    """A file, and who writes it."""

    writer: str
    """A key of `writers.WRITERS`."""
    dtype: str
    """NumPy type, byte order first; "enum:" before that of an enumeration."""
    shape: tuple[int, ...]
    values: str = "small"
    """A key of `values.PALETTES`."""
    seed: int = 0
    """Of the choice of values."""
    options: dict[str, Plain] = field(default_factory=dict)
    """The writer's own features; each may be left out."""
    attrs: dict[str, Plain] = field(default_factory=dict)
    """Attributes: a text, or `(type, number or tuple of numbers)`, as `attributes.as_numpy` makes them."""


@dataclass(frozen=True, repr=False)
class Ask(_Short):
    """What is asked of the variable, and through which door."""

    door: str
    """A key of `doors.DOORS`."""
    names: tuple[str, ...]
    """Reductions, computed in one pass where the door can."""
    keys: tuple[tuple[Plain, ...], ...] = ()
    """Indices, one applied to what the other gives: integers, slices, lists of positions, lists of truth values."""
    axis: tuple[int, ...] | None = None
    """Dimensions of the selection that are reduced; None for all."""
    keepdims: bool = False
    skipna: bool = True
    by: dict[int, tuple[int, ...]] = field(default_factory=dict)
    """The group of each position along some of the reduced dimensions."""
    where: str | None = None
    """A condition."""


@dataclass(frozen=True, repr=False)
class Damage(_Short):
    """One change of the bytes of a file."""

    kind: str
    """"flip", "cut", "swap", "zero" or "copy"."""
    file: float
    """Which file of a store, as a share of their number."""
    at: float
    """Where, as a share of its size."""
    size: int = 1
    """How many bits or bytes."""
    to: float = 0.0
    """The other place, where there is one."""


@dataclass(frozen=True, repr=False)
class Case(_Short):
    """One or several files that are joined along their first dimension, and what is asked of them."""

    files: tuple[File, ...]
    asks: tuple[Ask, ...]
    damage: tuple[Damage, ...] = ()


def script(case: Case, faults: tuple[str, ...], origin: str) -> str:
    """Return a program that runs the case again, and is a test as well."""
    said = "\n".join(faults).replace("\\", "\\\\").replace('"""', "'''")
    return f'''"""{origin}

{said}
"""

from math import inf, nan  # noqa: F401  # values of the case

from tests.fuzz.case import Ask, Case, Damage, File  # noqa: F401  # parts of the case
from tests.fuzz.judging import judged_alone

CASE = {case!r}


def test_case() -> None:
    assert judged_alone(CASE).faults == ()


if __name__ == "__main__":
    test_case()
'''
