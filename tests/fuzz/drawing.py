"""Cases, made up from a seed and a number: the same ones always."""

import math
from dataclasses import replace
from random import Random
from typing import Any

import numpy as np

from activestore.core.reductions import REDUCTIONS
from tests.expected import outer
from tests.fuzz.case import Ask, Case, Damage, File
from tests.fuzz.doors import ACCESSORS
from tests.fuzz.mutator import DAMAGES
from tests.fuzz.oracle import as_index
from tests.fuzz.writers import WRITERS

__all__ = ["drawn"]

NAMES = tuple(REDUCTIONS)
DOORS = ("active",) * 8 + ("accessor",) * 5 + ("accessor of another engine",) * 2 + ("server",) * 3 + ("command line",)
CONDITIONS = ("> 2", ">= -1.5 and < 4", "!= 3", "== 1", "< 9007199254740993", "<= 273.15", "> 1e300", "!= 0 and != 1")
_ALONE = ("group", "neighbours", "repeated")
"""Options of files that are not joined: all files of a series have the same variables in the same place."""
_JOINABLE = ("h5py", "netCDF4", "scipy")


def drawn(seed: int, number: int) -> Case:
    """Return case `number` of a seed."""
    random = Random(f"{seed}:{number}")  # noqa: S311  # the same choices at every run
    shape = tuple(random.randint(0 if random.random() < 0.04 else 1, 7) for _ in range(random.choice([0, 1, 1, 2, 2, 2, 3])))
    if random.random() < 0.06:
        shape = (random.randint(60, 600),)
    first = WRITERS[random.choice(list(WRITERS))].drawn(random, shape, None)
    if random.random() < 0.15 and first.options.get("layout") != "external":  # whose paths are in the file
        ask = Ask("active", ("sum", "min", "max"), axis=tuple(random.sample(range(len(shape)), random.randint(0, len(shape)))))
        return Case((first,), (ask,), tuple(_damages(random)))
    files: tuple[File, ...] = (first,)
    if shape and first.writer in _JOINABLE and random.random() < 0.2:
        first = replace(first, options={name: value for name, value in first.options.items() if name not in _ALONE})
        files = (first, *(_other(random, first) for _ in range(random.randint(1, 2))))
    whole = (sum(file.shape[0] for file in files), *shape[1:]) if shape else shape
    return Case(files, tuple(_fitting(_ask(random, whole), files) for _ in range(random.randint(1, 4))))


def _fitting(ask: Ask, files: tuple[File, ...]) -> Ask:
    """Return the same through a door that has a way for it."""
    if ask.door == "command line":
        keys = tuple(tuple(_positions(item) for item in key) for key in ask.keys)
        possible = len(keys) < 2 and not ask.by
        return replace(ask, keys=keys) if possible else replace(ask, door="active")
    if "repeated" in files[0].options and ask.door in ACCESSORS:
        return replace(ask, door="active")
    if ask.door == ACCESSORS[1] and (len(files) > 1 or files[0].writer not in _JOINABLE):
        return replace(ask, door=ACCESSORS[0])
    return ask


def _positions(item: Any) -> Any:
    """Return a mask as a list of positions."""
    if isinstance(item, list) and item and isinstance(item[0], bool):
        return [at for at, chosen in enumerate(item) if chosen]
    return item


def _other(random: Random, first: File) -> File:
    """Return another file that fits behind the first one."""
    shape = (random.randint(1, 5), *first.shape[1:])
    writer = first.writer if first.writer == "h5py" else random.choice(_JOINABLE[1:])
    dtype = first.dtype if random.random() < 0.6 and first.dtype[0] in "<>" else None
    file = WRITERS[writer].drawn(random, shape, dtype)
    return replace(file, options={name: value for name, value in file.options.items() if name not in _ALONE})


def _damages(random: Random) -> list[Damage]:
    return [
        Damage(random.choice(DAMAGES), random.random(), random.random(), random.choice([1, 1, 2, 8, 64]), random.random())
        for _ in range(random.choice([1, 1, 1, 2, 5]))
    ]


def _ask(random: Random, shape: tuple[int, ...]) -> Ask:
    keys: list[tuple[Any, ...]] = []
    left = shape
    for _ in range(random.choice([0, 1, 1, 2])):
        keys.append(tuple(_item(random, length) for length in left))
        left = outer(np.ma.zeros(left), as_index(keys[-1])).shape
    axes = tuple(random.sample(range(len(left)), random.randint(0, len(left))))
    ask = Ask(
        random.choice(DOORS),
        tuple(random.sample(NAMES, random.choice([1, 2, 3, len(NAMES)]))),
        tuple(keys),
        None if random.random() < 0.4 else tuple(axis - len(left) * random.randint(0, 1) for axis in axes),
        random.random() < 0.2,
        random.random() < 0.8,
    )
    if random.random() < 0.2:
        ask = replace(ask, where=random.choice(CONDITIONS))
    if left and math.prod(left) and random.random() < 0.2:
        ask = _grouped(random, ask, left)
    return ask


def _grouped(random: Random, ask: Ask, shape: tuple[int, ...]) -> Ask:
    """Return the same in groups along some of the dimensions."""
    along = random.sample(range(len(shape)), random.randint(1, min(2, len(shape))))
    by = {axis: tuple(random.randint(-1 if random.random() < 0.3 else 0, 3) for _ in range(shape[axis])) for axis in along}
    by = {axis: labels if max(labels) >= 0 else (0,) * len(labels) for axis, labels in by.items()}
    axis = None if ask.axis is None else tuple({one % len(shape) for one in ask.axis} | set(by))
    names = tuple(name for name in ask.names if not name.startswith("arg")) or ("mean",)
    return replace(ask, by=by, axis=axis, names=names)


def _item(random: Random, length: int) -> Any:
    """Return the index of one dimension."""
    kind = random.choice(["all", "slice", "slice", "integer", "list", "mask"] if length else ["all", "slice"])
    if kind == "all":
        return slice(None)
    if kind == "slice":
        first, last = (random.choice([None, random.randint(-length - 2, length + 2)]) for _ in range(2))
        return slice(first, last, random.choice([None, None, -3, -2, -1, 1, 2, 3, 9]))
    if kind == "integer":
        return random.randint(-length, length - 1)
    if kind == "list":
        return [random.randint(-length, length - 1) for _ in range(random.randint(0, 5))]
    return [random.random() < 0.5 for _ in range(length)]
