"""A case, run and judged: what was found wrong, and what was exercised."""

import contextlib
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from activestore.core.reductions import REDUCTIONS
from activestore.errors import ActivestoreError
from activestore.server.settings import ServerSettings
from tests.fuzz import oracle
from tests.fuzz.attributes import MISSING
from tests.fuzz.case import Ask, Case
from tests.fuzz.doors import ACCESSORS, DOORS, Place, Unasked, beside_xarray
from tests.fuzz.mutator import damage
from tests.fuzz.refusals import refusal
from tests.fuzz.values import PALETTES
from tests.fuzz.writers import WRITERS
from tests.server.running import running

__all__ = ["KINDS", "Verdict", "judged", "judged_alone", "own_server"]

KINDS = (
    *(f"door {name}" for name in (*DOORS, *ACCESSORS)),
    *(f"writer {name}" for name in WRITERS),
    *(f"values {name}" for name in PALETTES),
    *(f"attribute {name}" for name in (*MISSING, "scale_factor", "add_offset", "_Unsigned")),
    *(f"reduction {name}" for name in REDUCTIONS),
    *(f"selection {name}" for name in ("slice", "int", "list")),
    *(f"damage of {name}" for name in WRITERS),
    *("attribute of text", "condition", "groups", "joined", "keepdims", "NaN counts"),
)
"""What a run of a minute has to have exercised."""


@dataclass
class Verdict:
    """What came of a case."""

    faults: tuple[str, ...] = ()
    counts: Counter[str] = field(default_factory=Counter)
    """How many answers of each kind were compared; and what was not."""


def written(case: Case, folder: Path, server: str) -> Place:
    """Write the files of a case, each into a folder of its own."""
    paths = []
    for number, file in enumerate(case.files):
        own = folder / str(number)
        own.mkdir(parents=True)
        paths.append(WRITERS[file.writer].write(file, own))
    return Place(case.files, tuple(paths), server)


def wanted_of(place: Place, folder: Path) -> np.ma.MaskedArray:
    """Return the values as netCDF4-python has them, those of several files one behind the other."""
    arrays = []
    for number, (file, path) in enumerate(zip(place.files, place.paths, strict=True)):
        own = folder / f"plain{number}"
        own.mkdir(exist_ok=True)
        arrays.append(WRITERS[file.writer].masked(file, path, own))
    return arrays[0] if len(arrays) == 1 else np.ma.concatenate(arrays)


def scale_of(case: Case, values: np.ma.MaskedArray) -> float:
    """Return the largest number on the way from a stored number to a value; 0 where nothing is packed."""
    given = [file.attrs[name] for file in case.files for name in ("scale_factor", "add_offset") if name in file.attrs]
    factors = [float(np.max(np.abs(one[1]), initial=1)) for one in given if isinstance(one, tuple)]
    return max(factors) + _largest(values) if factors else 0.0


def _largest(values: np.ma.MaskedArray) -> float:
    sizes = np.abs(np.ma.getdata(values).astype("f8"))
    return float(np.max(sizes, where=np.isfinite(sizes) & ~np.ma.getmaskarray(values), initial=0))


def judged(case: Case, folder: Path, server: str, pending: Callable[[Verdict], object] = id) -> Verdict:
    """Run a case in an empty folder."""
    if case.damage:
        return judged_damaged(case, folder, server, pending)
    verdict = Verdict()
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        try:
            place = written(case, folder, server)
        except Exception as error:  # noqa: BLE001  # whatever the writer cannot
            verdict.counts[f"not written: {case.files[0].writer}: {type(error).__name__}"] += 1
            return verdict
        try:
            values: np.ma.MaskedArray | None = wanted_of(place, folder)
        except Exception as error:  # noqa: BLE001  # whatever the reference cannot
            values = None
            verdict.counts[f"no reference: {case.files[0].writer}: {type(error).__name__}"] += 1
        for ask in case.asks:
            _judge(verdict, case, place, ask, values)
    return verdict


def judged_damaged(case: Case, folder: Path, server: str, pending: Callable[[Verdict], object]) -> Verdict:
    """Run a case of damage: an error of ours is right, and so is the undamaged number, or what others read of what is left.

    `pending` gets the verdict that counts if the others crash or hang.
    """
    verdict, (ask,), (file,) = Verdict(), case.asks, case.files
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        try:
            place = written(case, folder, server)
            values = wanted_of(place, folder)
            cells = oracle.cells_of(values, ask)
        except Exception as error:  # noqa: BLE001  # whatever the writer or the reference cannot
            verdict.counts[f"not damaged: {file.writer}: {type(error).__name__}"] += 1
            return verdict
        for one in case.damage:
            damage(place.paths[0], one)
        kind = f"{case.damage[0].kind} of {file.writer}"
        try:
            answer = DOORS[ask.door](place, ask)
        except ActivestoreError:
            verdict.counts.update([f"damage {kind}: refused", f"damage of {file.writer}"])
            return verdict
        except Exception as error:  # noqa: BLE001  # it has to be one of ours
            verdict.faults = (f"damaged: {type(error).__name__}: {error}",)
            return verdict
        found = list(oracle.differences(answer, cells, scale=scale_of(case, values)))
        if found:
            verdict.faults = tuple(f"damaged: {fault}" for fault in found)
            pending(verdict)
            others = list(WRITERS[file.writer].others(file, place.paths[0], folder))
            theirs = [other for other in others if other.ndim == len(file.shape)]
            if any(not list(oracle.differences(answer, oracle.cells_of(one, ask), scale=_largest(one))) for one in theirs):
                verdict.faults = ()
        answered = "the number of others" if found else "the right number"
        verdict.counts.update([f"damage {kind}: {answered}", f"damage of {file.writer}"])
    return verdict


def _judge(verdict: Verdict, case: Case, place: Place, ask: Ask, values: np.ma.MaskedArray | None) -> None:
    overflows, cells = False, None
    if values is not None:
        cells = oracle.cells_of(values, ask)
        overflows = oracle.overflows(cells, ask.names)
    try:
        if ask.door in ACCESSORS:
            faults = beside_xarray(place, ask)
        else:
            answer = DOORS[ask.door](place, ask)
            if cells is None:
                return
            faults = list(oracle.differences(answer, cells, scale=scale_of(case, values)))
    except Unasked as error:
        verdict.counts[f"unasked: {error}"] += 1
        return
    except Exception as error:  # noqa: BLE001  # ours are judged by what they say
        name = refusal(error, overflows=overflows)
        if name is not None:
            verdict.counts[f"refused: {name}"] += 1
            return
        if values is None and isinstance(error, ActivestoreError):
            return
        faults = [f"{type(error).__name__}: {error}"]
    verdict.faults += tuple(f"{ask.door}: {fault}" for fault in faults)
    verdict.counts.update(_kinds(case, ask))


def _kinds(case: Case, ask: Ask) -> Iterator[str]:
    """Yield the kinds of things that a case has."""
    yield f"door {ask.door}"
    for file in case.files:
        yield f"writer {file.writer}"
        yield f"values {file.values}"
        yield from (f"attribute {name}" for name in file.attrs)
        yield from (
            f"attribute of type {given[0]}" if isinstance(given, tuple) else "attribute of text"
            for given in file.attrs.values()
        )
        yield from (f"{file.writer} {name}" for name in file.options)
        yield from (f"filter {name}" for name in file.options.get("filters", ()))
    yield from (f"reduction {name}" for name in ask.names)
    yield from (f"selection {type(item).__name__}" for key in ask.keys for item in key)
    found = {
        "groups": ask.by,
        "condition": ask.where,
        "joined": len(case.files) > 1,
        "keepdims": ask.keepdims,
        "NaN counts": not ask.skipna,
    }
    yield from (name for name, given in found.items() if given)


@contextlib.contextmanager
def own_server(folder: Path) -> Iterator[str]:
    """Run a server that may read a folder, and give its address."""
    with running(ServerSettings(roots=(folder,))) as server:
        yield server.url


def judged_alone(case: Case) -> Verdict:
    """Run a case by itself, with a server of its own if it asks one."""
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name).resolve()
        server = stack.enter_context(own_server(folder)) if any(ask.door == "server" for ask in case.asks) else ""
        return judged(case, folder / "case", server)
