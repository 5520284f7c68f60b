"""The ways to ask: `Active`, through a server too, the command line, and the accessor for xarray beside xarray itself."""

import contextlib
import io
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

import activestore.accessor  # noqa: F401  # makes `.active`
from activestore import Active
from activestore.cli import main as cli
from activestore.errors import SumOverflowError
from tests.accessor.beside_xarray import Reference
from tests.fuzz.case import NAME, Ask, File
from tests.fuzz.netcdf_files import name_of
from tests.fuzz.oracle import EXACT, LARGEST, Answer, as_index, satisfying
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
_NO_SKIPNA = ("count", "any", "all")


def beside_xarray(place: Place, ask: Ask) -> list[str]:
    """Return how the accessor differs from xarray, on arrays that xarray's own engine has loaded.

    Raises:
        Unasked: xarray cannot.
    """
    try:
        whole = _loaded(place)
        theirs = _where(_isel(whole, ask), ask.where)
    except Exception as error:
        raise Unasked(f"xarray has no array: {type(error).__name__}") from error
    with _lazy(place, ask) as opened:
        ours = _isel(opened[NAME].rename(dict(zip(opened[NAME].dims, whole.dims, strict=True))), ask)
        if len(place.paths) > 1:
            # What files do not have in common of their attributes is left out by rules of our own.
            ours, theirs = ours.drop_attrs(), theirs.drop_attrs()
        found = [_difference(ours, theirs, ask, name) for name in ask.names]
    if all(one is None for one in found):
        raise Unasked("xarray cannot reduce it so")
    return [one for one in found if one]


def _difference(ours: xr.DataArray, theirs: xr.DataArray, ask: Ask, name: str) -> str | None:
    """Return how one reduction differs, "" if it does not; None where xarray has none."""
    every = theirs.dims if ask.by else None
    dims: Any = every if ask.axis is None else [theirs.dims[at] for at in ask.axis]
    if name.startswith("arg") and isinstance(dims, list):
        (dims,) = dims if len(dims) == 1 else (None,)  # positions along several dimensions are dictionaries
    groups = [xr.DataArray(np.array(labels), dims=theirs.dims[at], name="group") for at, labels in ask.by.items()]
    options = {} if ask.skipna or name in _NO_SKIPNA else {"skipna": False}
    reference, active = Reference(theirs, *groups[:1]), ours.active if ask.where is None else ours.active.where(ask.where)
    try:
        reference.reduced(theirs, name, dims, **options).load()  # of Dask, where references are read
    except Exception:  # noqa: BLE001  # whatever xarray cannot
        return None
    try:
        reference.assert_reduction(
            getattr(active.groupby(*groups[:1]) if groups else active, name)(dims, **options), name, dims, **options
        )
    except SumOverflowError:
        # Xarray's sums wrap around.
        if not (theirs.dtype.kind in "iu" and np.abs(theirs.values.astype(object)).sum() >= 2**63):
            raise
    except AssertionError as error:
        # Xarray's variances of groups are infinite where those of the whole are NaN.
        infinite = groups and name in {"var", "std"} and not np.isfinite(theirs.values).all()
        # The order of adding decides what is finite.
        unsure = name not in EXACT and np.square(reference.magnitude) > LARGEST / max(theirs.size, 1)
        return "" if infinite or unsure else f"{name}: {error or 'a coordinate or an attribute'} of {theirs.values!r}"
    return ""


def _where(array: xr.DataArray, condition: str | None) -> xr.DataArray:
    return array if condition is None else array.where(array.copy(data=satisfying(array.values, condition)))


def _loaded(place: Place) -> xr.DataArray:
    arrays = []
    for file, path in zip(place.files, place.paths, strict=True):
        engine = WRITERS[file.writer].engine
        with xr.open_dataset(str(path), engine=engine, **_keywords(file, engine)) as dataset:
            array = dataset.compute()[NAME]
            # References are still Dask's then, which finds another position where a number is there twice.
            arrays.append(array.copy(data=np.asarray(array.values)))
    return arrays[0] if len(arrays) == 1 else xr.concat(arrays, arrays[0].dims[0])


def _lazy(place: Place, ask: Ask) -> xr.Dataset:
    """Return the dataset whose array `.active` is to reduce."""
    engine = "activestore" if ask.door == ACCESSORS[0] else WRITERS[place.files[0].writer].engine
    paths, options = [str(path) for path in place.paths], _keywords(place.files[0], engine)
    if len(paths) > 1:
        with xr.open_dataset(paths[0], engine=engine, **options) as first:
            options["concat_dim"] = first[NAME].dims[0]
    return xr.open_dataset(paths if len(paths) > 1 else paths[0], engine=engine, **options)


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
