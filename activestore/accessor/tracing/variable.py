"""Where the values of an xarray variable come from: file, variable and selection."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr
from xarray.backends import BackendArray
from xarray.core import indexing

from activestore.accessor.arrays.decoding import DefaultFill, as_truth, decoded, default_fill
from activestore.accessor.arrays.joined import JoinedArray
from activestore.accessor.arrays.stored import StoredArray
from activestore.accessor.obstacles import InMemoryError, OnlyXarrayError
from activestore.active import Active
from activestore.core.formats.zarr.keys import is_of_objects
from activestore.errors import NotNumericError, UntraceableError

__all__ = ["Traced", "is_of_dask", "trace"]

# xarray's wrappers that leave values as they are; their classes are private, and have moved between modules before.
_TRANSPARENT = frozenset(
    {"MemoryCachedArray", "CopyOnWriteArray", "ImplicitToExplicitIndexingAdapter", "NativeEndiannessArray"}
)
# Drivers of HDF5 that do not read the file that they name: a copy of it in memory, or an object of Python's.
_ELSEWHERE = frozenset({"core", "fileobj"})

Positions = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class Traced:
    """Where the values of an xarray variable come from."""

    active: Active
    """The variable in its file, with the selection and with xarray's way of decoding."""
    axes: tuple[int, ...]
    """Which dimension of `active` each dimension of the xarray variable is."""
    default: DefaultFill | None = None
    """netCDF's default fill value, if that counts as a number."""

    def chunk_of(self, dim: int) -> int:
        """Return the length of a chunk along a dimension of the xarray variable."""
        return self.active.chunks[self.axes[dim]]


def trace(variable: xr.Variable) -> Traced:
    """Return where the values of `variable` come from; nothing is read.

    Raises:
        OnlyXarrayError: They are those of a file, and only xarray can read them.
        UntraceableError: That cannot be told for certain.
    """
    # Any: xarray's arrays are private; and `data` would read them.
    array: Any = variable._data
    found = _of_dask(array) if is_of_dask(variable) else _traced(array, (), variable.shape)
    return _checked(found, variable)


def _checked(traced: Traced, variable: xr.Variable) -> Traced:
    """Return what was found, if its shape and type are those of the variable: else it was misunderstood.

    Raises:
        UntraceableError: They are not.
    """
    found = tuple(traced.active.shape[axis] for axis in traced.axes), traced.active.dtype.newbyteorder("=")
    wanted = variable.shape, variable.dtype.newbyteorder("=")
    if found != wanted:
        raise UntraceableError(f"it has the shape and type {wanted}, and {found} in the file")
    return traced


def is_of_dask(variable: xr.Variable) -> bool:
    """Return whether a variable is backed by a Dask array."""
    return hasattr(variable._data, "__dask_graph__")


def _of_dask(array: Any) -> Traced:  # Any: a Dask array, whose package is optional
    """Return where the values of a Dask array come from: parts of files, one after the other along a dimension.

    Raises:
        UntraceableError: That cannot be told for certain.
    """
    from activestore.accessor.tracing import dask_graph  # noqa: PLC0415  # needs Dask, which is optional

    found = dask_graph.trace(array)
    parts, defaults = [], []
    for piece in found.pieces:
        whole = _traced(piece.leaf, (), piece.leaf.shape)
        if whole.axes != tuple(range(len(piece.leaf.shape))):
            raise UntraceableError("its dimensions were in another order when it was cut into chunks")
        parts.append(whole.active[piece.key])
        defaults.append(whole.default)
    active = parts[0] if found.dim is None else Active.concatenate(parts, found.dim)
    return Traced(active, tuple(range(array.ndim)), _shared(defaults))


def _traced(array: Any, outer: tuple[Any, ...], shape: tuple[int, ...]) -> Traced:  # Any: xarray's arrays and functions
    """Return where the values of a lazy array come from, `outer` being what is done to them, step by step.

    Raises:
        UntraceableError: That cannot be told for certain.
    """
    steps: list[Any] = []
    key = None
    while True:
        kind = type(array).__name__
        if kind == "_ElementwiseFunctionArray":
            steps.append(array.func)
        elif kind == "BoolTypeArray":
            steps.append(as_truth)
        elif kind in ("LazilyIndexedArray", "LazilyVectorizedIndexedArray"):
            if key is not None:
                raise UntraceableError("it is indexed in two steps")
            key = array.key
        elif kind not in _TRANSPARENT:
            break
        array = array.array
    active, default = _opened(array, (*steps[::-1], *outer))
    return replace(_selected(active, key, shape), default=default)


def _opened(
    leaf: Any,  # Any: whatever lies beneath xarray's wrappers
    steps: tuple[Any, ...],  # Any: functions of xarray's
) -> tuple[Active, DefaultFill | None]:
    """Return the variable that a leaf reads, with what xarray makes of the stored numbers by `steps`, and `Traced.default`.

    Raises:
        OnlyXarrayError: Only xarray can read the leaf, or make its values.
        InMemoryError: The leaf is in memory.
        UntraceableError: The leaf reads no file.
    """
    if isinstance(leaf, StoredArray):
        active = leaf.active()
        # A Zarr store has no default fill values.
        default = None if is_of_objects(leaf.file.source) else default_fill(active.attrs, leaf.dtype, steps)
        return decoded(active, leaf.dtype, steps), default
    if isinstance(leaf, JoinedArray):
        parts = [_traced(part, steps, part.shape) for part in leaf.parts]
        if any(part.axes != tuple(range(len(leaf.shape))) for part in parts):
            raise UntraceableError("its files have dimensions in another order")
        return Active.concatenate([part.active for part in parts], leaf.axis), _shared([part.default for part in parts])
    kind = type(leaf).__name__
    if kind in ("H5NetCDFArrayWrapper", "NetCDF4ArrayWrapper"):
        store = leaf.datastore
        name = "/".join(part for part in (str(store._group or "").strip("/"), leaf.variable_name) if part)
        address = _address(store)
        try:
            active = Active(address, name)
        except NotNumericError as error:
            raise OnlyXarrayError(str(error)) from error
        if active.shape != leaf.shape:
            raise UntraceableError(f"{active.name!r} has the shape {leaf.shape} there, and {active.shape} in the file")
        dtype = np.dtype(leaf.dtype.str)
        return decoded(active, dtype, steps), default_fill(active.attrs, dtype, steps)
    if isinstance(leaf, np.ndarray) or kind == "NumpyIndexingAdapter":
        if steps:
            raise OnlyXarrayError("it decodes values that are in memory already")
        raise InMemoryError
    if isinstance(leaf, BackendArray):
        raise OnlyXarrayError(f"its values come from a {kind}, which only xarray reads")
    raise UntraceableError(f"its values come from a {kind}")


def _shared(defaults: list[DefaultFill | None]) -> DefaultFill | None:
    """Return the default fill value that counts as a number in one of several files: they are packed alike, or not at all."""
    return next((one for one in defaults if one is not None), None)


def _address(store: Any) -> str:  # Any: a store of xarray's, untyped
    """Return the path of the file that a store of xarray's has open.

    Raises:
        UntraceableError: It was opened from a file object, or from bytes; or the path is that of another file now.
    """
    opened = store.ds
    path = store._filename
    root = getattr(opened, "_root", None)
    driver = getattr(getattr(root, "_h5file", None), "driver", None)
    if not isinstance(path, str) or not path or path.startswith("<") or driver in _ELSEWHERE:
        raise UntraceableError("the file was opened from an object, not by its path")
    if "://" not in path and os.path.exists(path) and not _is_open(path):
        raise UntraceableError(f"{path} is another file than that which is open, or was read into memory whole")
    return path


def _is_open(path: str) -> bool:
    """Return whether this process has the file at `path` open; True where the system does not tell."""
    descriptors = next((folder for folder in ("/proc/self/fd", "/dev/fd") if os.path.isdir(folder)), None)
    if descriptors is None:
        return True
    status = os.stat(path)
    wanted = status.st_dev, status.st_ino
    for one in os.listdir(descriptors):
        try:
            found = os.fstat(int(one))
        except OSError:
            continue  # that of the folder itself, which is closed by now
        if (found.st_dev, found.st_ino) == wanted:
            return True
    return False


def _selected(active: Active, key: indexing.ExplicitIndexer | None, shape: tuple[int, ...]) -> Traced:
    """Return the part of a variable that xarray has selected.

    Raises:
        UntraceableError: It is not one selection for each dimension.
    """
    if key is None:
        return Traced(active, tuple(range(active.ndim)))
    if not isinstance(key, indexing.VectorizedIndexer):
        found = active[tuple(key.tuple)]
        return Traced(found, tuple(range(found.ndim)))
    vectors = [_aligned(np.asarray(positions), len(shape)) for positions in key.tuple]
    owners = _owners(vectors, shape)
    index: list[Any] = [int(one.flat[0]) if one.size else [] for one in vectors]
    for axis, owner in enumerate(owners):
        index[owner] = _vector(vectors[owner], axis, shape[axis])
    kept = sorted(owners)
    return Traced(active[tuple(index)], tuple(kept.index(owner) for owner in owners))


def _aligned(positions: Positions, ndim: int) -> Positions:
    """Return positions with the dimensions of the result that they lack in front, as NumPy adds them.

    Raises:
        UntraceableError: They have more than the result.
    """
    if positions.ndim > ndim:
        raise UntraceableError("single points of it are selected")
    return positions.reshape((1,) * (ndim - positions.ndim) + positions.shape)


def _vector(positions: Positions, axis: int, length: int) -> Positions:
    """Return the positions along a dimension of the result; they do not vary along the others."""
    first = tuple(slice(None) if one == axis else slice(min(n, 1)) for one, n in enumerate(positions.shape))
    return np.broadcast_to(positions[first].reshape(-1), (length,))


def _owners(vectors: list[Positions], shape: tuple[int, ...]) -> list[int]:
    """Return, for each dimension of the result, which dimension of the file it runs along: they may be transposed.

    Raises:
        UntraceableError: The positions of two dimensions belong together: single points are selected.
    """
    found: dict[int, int] = {}
    single = []
    for dim, positions in enumerate(vectors):
        along = [axis for axis in range(len(shape)) if _varies(positions, axis)]
        if len(along) > 1 or (along and along[0] in found):
            raise UntraceableError("single points of it are selected")
        if along:
            found[along[0]] = dim
        else:
            single.append(dim)
    for axis in range(len(shape)):
        if axis not in found:
            # One position, once or repeated: it does not matter whose.
            if not single:
                raise UntraceableError("a dimension was added to it")
            found[axis] = single.pop(0)
    return [found[axis] for axis in range(len(shape))]


def _varies(positions: Positions, axis: int) -> bool:
    """Return whether positions are not all the same along a dimension; if there are none, whether it has none."""
    length = positions.shape[axis]
    if length == 1 or not positions.size:
        return bool(length != 1)
    return not bool(np.all(positions == positions.take([0], axis=axis)))
