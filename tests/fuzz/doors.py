"""The ways to ask: `Active`, through a server too, the command line, and the accessor for xarray beside xarray itself."""

import contextlib
import io
import json
import operator
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

import activestore.accessor  # noqa: F401  # makes `.active`
from activestore import Active, cli
from activestore.errors import SumOverflowError
from tests.accessor.beside_xarray import assert_values, rounding, units_in_the_last_place
from tests.fuzz.case import NAME, Ask, File
from tests.fuzz.netcdf_files import name_of
from tests.fuzz.oracle import EXACT, LARGEST, Answer, as_index
from tests.fuzz.writers import WRITERS

__all__ = ["ACCESSORS", "DOORS", "Place", "SaidError", "Unasked", "beside_xarray"]


@dataclass(frozen=True)
class Place:
    """Where files lie."""

    files: tuple[File, ...]
    paths: tuple[Path, ...]
    """In folders beside each other."""
    server: str
    """Address of a server that may read them."""

    @property
    def variable(self) -> str:
        """Name of the variable, with its groups."""
        return name_of(self.files[0])


class SaidError(Exception):
    """An error of the command line: what it says."""


class Unasked(Exception):  # noqa: N818  # no error of ours
    """The reference cannot answer either."""


def _through_active(place: Place, ask: Ask, **options: Any) -> Answer:
    several = len(place.paths) > 1
    source: Any = [str(path) for path in place.paths] if several else str(place.paths[0])
    active = Active(source, place.variable, dim=0 if several else None, **options)
    for key in ask.keys:
        active = active[as_index(key)]
    more = {"by": ask.by or None, "where": ask.where}
    result = active.run(ask.names, ask.axis, keepdims=ask.keepdims, skipna=ask.skipna, **more)
    return Answer(dict(result.values), result.count)


def _through_server(place: Place, ask: Ask) -> Answer:
    return _through_active(place, ask, backend="reductionist", server=place.server)


def _through_command_line(place: Place, ask: Ask) -> Answer:
    argv = ["reduce", str(place.paths[0]), place.variable, "--json", "--op", ",".join(ask.names)]
    if len(place.paths) > 1:
        argv[1] = str(place.paths[0].parent.parent / "*" / place.paths[0].name)
        argv += ["--dim", "dim_0" if place.files[0].writer == "h5py" else "d0"]
    for key in ask.keys:
        argv += [f"--select={dim}={_as_text(item)}" for dim, item in enumerate(key)]
    if ask.axis is not None:
        argv.append(f"--axis={','.join(map(str, ask.axis))}")
    argv += ["--keepdims"] * ask.keepdims + ["--no-skipna"] * (not ask.skipna)
    argv += ["--where", ask.where] if ask.where else []
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = cli.main(argv)
    if code:
        raise SaidError(err.getvalue().strip())
    record = json.loads(out.getvalue())
    shape = tuple(record["shape"])
    return Answer(
        {name: _from_json(value, shape) for name, value in record["values"].items()}, _from_json(record["count"], shape), False
    )


def _as_text(item: Any) -> str:
    if isinstance(item, slice):
        return ":".join("" if bound is None else str(bound) for bound in (item.start, item.stop, item.step))
    return f"[{','.join(map(str, item))}]" if isinstance(item, list) else str(item)


def _from_json(given: Any, shape: tuple[int, ...]) -> Any:
    """Return a number, or an array of Python's numbers in which those that are null are masked."""
    flat = [given] if not shape else given
    for _ in shape[1:]:
        flat = [one for row in flat for one in row]
    numbers = [float(one) if isinstance(one, str) else one for one in flat]
    if not shape:
        return np.ma.masked if numbers[0] is None else numbers[0]
    found = np.ma.masked_all(shape, object)
    for at, number in zip(np.ndindex(shape), numbers, strict=True):
        if number is not None:
            found[at] = number
    return found


DOORS: Mapping[str, Callable[[Place, Ask], Answer]] = {
    "active": _through_active,
    "server": _through_server,
    "command line": _through_command_line,
}
"""Doors whose values are netCDF4-python's."""
ACCESSORS = ("accessor", "accessor of another engine")
"""Doors whose values are xarray's."""
_COMPARISONS = {">": operator.gt, ">=": operator.ge, "<": operator.lt, "<=": operator.le, "==": operator.eq, "!=": operator.ne}
_NO_SKIPNA = ("count", "any", "all")


def beside_xarray(place: Place, ask: Ask) -> list[str]:
    """Return how the accessor differs from xarray, on arrays that xarray's own engine has loaded.

    Raises:
        Unasked: xarray cannot.
    """
    with warnings.catch_warnings(), np.errstate(all="ignore"), contextlib.ExitStack() as stack:
        warnings.simplefilter("ignore")  # NumPy's, of moments of nothing; xarray's, of attributes
        try:
            whole = _loaded(place)
            theirs = _isel(whole, ask)
        except Exception as error:
            raise Unasked(f"xarray has no array: {type(error).__name__}") from error
        ours = _lazy(place, ask, stack)
        ours = _isel(ours.rename(dict(zip(ours.dims, whole.dims, strict=True))), ask)
        found, asked = [], 0
        for name in ask.names:
            try:
                wanted = _Wanted(theirs, ask, name)
            except Exception:  # noqa: BLE001, S112  # whatever xarray cannot
                continue
            found += wanted.differences(ours)
            asked += 1
        if not asked:
            raise Unasked("xarray cannot reduce it so")
        return found


def _loaded(place: Place) -> xr.DataArray:
    arrays = []
    for file, path in zip(place.files, place.paths, strict=True):
        engine = WRITERS[file.writer].engine
        with xr.open_dataset(path, engine=engine, **_keywords(file, engine)) as dataset:
            arrays.append(dataset[NAME].load())
    return arrays[0] if len(arrays) == 1 else xr.concat(arrays, arrays[0].dims[0])


def _lazy(place: Place, ask: Ask, stack: contextlib.ExitStack) -> xr.DataArray:
    """Return the array that `.active` is to reduce."""
    engine = "activestore" if ask.door == "accessor" else WRITERS[place.files[0].writer].engine
    paths = [str(path) for path in place.paths]
    options = _keywords(place.files[0], engine)
    if len(paths) > 1:
        with xr.open_dataset(paths[0], engine=engine, **options) as first:
            options["concat_dim"] = first[NAME].dims[0]
    return stack.enter_context(xr.open_dataset(paths if len(paths) > 1 else paths[0], engine=engine, **options))[NAME]


def _keywords(file: File, engine: str) -> dict[str, Any]:
    found = {"h5netcdf": {"phony_dims": "sort"}, "zarr": {"consolidated": "consolidated" in file.options}}.get(engine, {})
    return found | {name: value for name, value in file.options.items() if name == "group"}


def _isel(array: xr.DataArray, ask: Ask) -> xr.DataArray:
    for key in ask.keys:
        items = [
            _within(item, length) if isinstance(item, slice) else item
            for item, length in zip(as_index(key), array.shape, strict=True)
        ]
        array = array.isel(dict(zip(array.dims, items, strict=True)))
    return array


def _within(item: slice, length: int) -> slice:
    """Return the slice with bounds inside of the dimension: xarray's lazy arrays misread some of those that are not."""
    positions = range(length)[item]
    if not positions:
        return slice(0, 0)
    return slice(positions.start, positions.stop if positions.stop >= 0 else None, positions.step)


class _Wanted:
    """What xarray makes of an array in memory."""

    def __init__(self, array: xr.DataArray, ask: Ask, name: str) -> None:
        self.array, self.ask, self.name = array, ask, name
        self.result = self._reduced(array)
        self.wide = self._reduced(array.astype("f8")) if array.dtype.kind == "f" else self.result
        sizes = np.abs(array.values.astype("f8"))
        self.magnitude = np.max(sizes, where=np.isfinite(sizes), initial=0)

    def _dims(self) -> Any:
        ask, dims = self.ask, self.array.dims
        named = list(dims) if ask.axis is None and ask.by else None if ask.axis is None else [dims[axis] for axis in ask.axis]
        if not self.name.startswith("arg") or named is None:
            return named
        if len(named) != 1:
            raise ValueError("positions along several dimensions are a dictionary")
        return named[0]

    def _called(self, arrays: Any) -> Any:
        """Return what the method gives of an array, of what `.active` has in its place, or of its groups."""
        if self.ask.by:
            if len(self.ask.by) > 1:
                raise ValueError("groups are along one dimension")
            ((axis, labels),) = self.ask.by.items()
            arrays = arrays.groupby(xr.DataArray(np.array(labels), dims=self.array.dims[axis], name="group"))
        more = {} if self.name in _NO_SKIPNA or self.ask.skipna else {"skipna": False}
        return getattr(arrays, self.name)(self._dims(), **more)

    def _reduced(self, array: xr.DataArray) -> xr.DataArray:
        if self.ask.where is not None:
            held = xr.ones_like(array, bool)
            for comparison in self.ask.where.split(" and "):
                sign, number = comparison.split()
                # An integer is compared exactly, and so NumPy does it with Python's integers.
                held &= _COMPARISONS[sign](array, int(number) if number.lstrip("-").isdigit() else float(number))
            array = array.where(held)
        return self._called(array)

    def differences(self, array: xr.DataArray) -> Iterator[str]:
        """Yield how `.active` differs for an array that is not loaded."""
        active = array.active if self.ask.where is None else array.active.where(self.ask.where)
        try:
            found, wanted = self._called(active), self.result
        except SumOverflowError:
            # Xarray's sums wrap around.
            if self.array.dtype.kind in "iu" and np.abs(self.array.values.astype(object)).sum() >= 2**63:
                return
            raise
        for what in ("dims", "shape", "dtype"):
            if getattr(found, what) != getattr(wanted, what):
                yield f"{self.name}: {what} is {getattr(found, what)}, not {getattr(wanted, what)}"
                return
        exact = self.name in EXACT or wanted.dtype.kind != "f"
        if self.magnitude ** (2 if self.name in {"var", "std"} else 1) > LARGEST / (self.array.size or 1) and not exact:
            return
        cast = wanted.values if exact else self.wide.values.astype(found.dtype)
        off = 0.0 if exact else rounding(self.name, self.array.size, self.magnitude, "f8")
        try:
            assert_values(found, cast, off if exact else off + 2 * units_in_the_last_place(cast, found.dtype), self.name)
        except AssertionError as error:
            yield f"{error} of {self.array.values!r}"
