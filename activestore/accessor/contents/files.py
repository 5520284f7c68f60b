"""What xarray is told of a file: its variables as they are stored, its attributes, its dimensions."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection
from contextlib import suppress
from typing import Any, BinaryIO, TypeVar

import h5netcdf
import h5py
import numpy as np
import numpy.typing as npt
import xarray as xr
from xarray.backends import H5NetCDFStore
from xarray.backends.file_manager import DummyFileManager
from xarray.core import indexing

from activestore.accessor.arrays.lazy import LazyArray
from activestore.accessor.arrays.stored import StoredArray, StoredFile
from activestore.accessor.contents.contents import Contents
from activestore.accessor.contents.hdf5 import Described, Description, describe
from activestore.accessor.contents.tolerant_hdf5 import ODDITIES, TolerantFile
from activestore.accessor.contents.zarr import zarr_contents
from activestore.core.formats import classic
from activestore.core.formats.hdf5.file import group_names, load_plugins, read_dataset
from activestore.core.formats.hdf5.heap_guard import cannot_open, read_guarded
from activestore.core.formats.read import is_classic
from activestore.core.formats.zarr.keys import is_of_objects
from activestore.errors import ActivestoreError, ConfigurationError, GroupNotFoundError, SourceError, UnsupportedError
from activestore.process.descriptors import with_room
from activestore.sources.open import Source

__all__ = ["read_contents", "read_groups"]

_Found = TypeVar("_Found")


def read_contents(file: StoredFile, group: str | None, *, only: Collection[str] | None = None) -> Contents:
    """Return what a group of a file has, as xarray's own engines for it would tell.

    Of the attributes, those named in `only` are enough, if any are named: the others may be missing.

    Raises:
        ConfigurationError: The group is no name.
        GroupNotFoundError: There is no such group.
        SourceError: It is neither HDF5 nor netCDF, or damaged.

    Warns:
        UserWarning: A variable that xarray makes nothing of is left out.
    """
    _check_name(group)
    with file.metadata() as kept:
        if is_of_objects(kept):
            return zarr_contents(file, kept, group)
        if is_classic(kept):
            return _classic_contents(file, kept, group)
        quick = describe(kept, group, only=only)
        if quick is not None:
            return _described_contents(file, group, quick)
        return _said(kept, {"": _with_store(kept, group, lambda store: _group_contents(file, kept, group, store))})[""]


def read_groups(file: StoredFile, group: str | None) -> dict[str, Contents]:
    """Return what each group of a file has, the outer ones first.

    Their names are xarray's: "/", "/outer", "/outer/inner"; seen from a `group` that is given ".", "inner".

    Raises:
        ConfigurationError: The group is no name.
        GroupNotFoundError: There is no such group.
        SourceError: It is neither HDF5 nor netCDF, or damaged.

    Warns:
        UserWarning: A variable that xarray makes nothing of is left out.
    """
    _check_name(group)
    with file.metadata() as kept:
        if is_of_objects(kept):
            raise SourceError(f"{kept.uri}: is a Zarr store, of which no trees are made here; open its groups one by one")
        if is_classic(kept):
            return {"." if group else "/": _classic_contents(file, kept, group)}
        top = (group or "").strip("/")

        def contents(store: Any) -> dict[str, Contents]:  # Any: xarray's store is untyped
            found = {top: _group_contents(file, kept, top, store)}
            for name in _groups(store.ds):
                own = H5NetCDFStore(store._manager, group=f"/{name}", mode="r", lock=False)
                found[name] = _group_contents(file, kept, name, own)
            return found

        found = _said(kept, _with_store(kept, top, contents))
        return {(name[len(top) :].strip("/") or "." if group else f"/{name}"): one for name, one in found.items()}


def _described_contents(file: StoredFile, group: str | None, found: Description) -> Contents:
    variables = {name: _variable(file, group, name, one) for name, one in found.variables.items()}
    return Contents(variables, found.attrs, {"unlimited_dims": set(found.unlimited)})


def _group_contents(file: StoredFile, source: Source, group: str | None, store: Any) -> Contents:  # Any: xarray's is untyped
    """Return what a group has, without what xarray makes nothing of; dimensions without a scale are called by their lengths."""
    top, left_out = (group or "").strip("/"), store.ds._root.left_out
    variables = {}
    for name, stored in store.ds.variables.items():
        try:
            variables[name] = _variable(file, group, name, store.open_store_variable(name, stored))
        except ODDITIES as error:
            left_out[f"{top}/{name}".strip("/")] = f"xarray cannot read it ({error}); open it with Active"
    here = {name: reason for name, reason in left_out.items() if name.rpartition("/")[0] == top}
    unnamed = describe(source, top, unnamed=True) if here else None
    if unnamed is not None:
        return _described_contents(file, group, unnamed)
    return Contents(variables, dict(store.get_attrs()), dict(store.get_encoding()), left_out=here)


def _said(source: Source, found: dict[str, Contents]) -> dict[str, Contents]:
    """Return the contents of groups once it is said what they lack: not before it is known that nothing is read again."""
    for contents in found.values():
        for name, reason in contents.left_out.items():
            warnings.warn(f"{source.uri}: {name!r} is left out: {reason}", UserWarning, stacklevel=4)
    return found


def _check_name(group: object) -> None:
    if group is not None and not isinstance(group, str):
        raise ConfigurationError(f"the name of a group must be a string, as 'outer/inner', not {group!r}")


def _with_store(source: Source, group: str | None, work: Callable[[Any], _Found]) -> _Found:  # Any: xarray's store is untyped
    """Return what `work` makes of an HDF5 file in xarray's own store, which knows netCDF-4's dimensions, types and attributes.

    Raises:
        GroupNotFoundError: There is no such group.
        SourceError: It cannot be read.
    """
    load_plugins()

    def with_file(file: TolerantFile) -> _Found:
        try:
            # Without xarray's lock: who has that waits for the turn that we have.
            store = H5NetCDFStore(DummyFileManager(file), group=group, mode="r", lock=False)
            _ = store.ds
        except ActivestoreError:
            raise
        except OSError:
            groups = ", ".join(group_names(source)[1:]) or "none"
            raise GroupNotFoundError(f"{source.uri}: no group {group!r}; there are: {groups}") from None
        return work(store)

    try:
        return read_guarded(source, _file, with_file)
    except ActivestoreError:
        raise
    except (*ODDITIES, OSError, RuntimeError) as error:
        raise cannot_open(source.uri, error) from None


def _file(given: str | BinaryIO) -> TolerantFile:
    return with_room(lambda: TolerantFile(given, "r", phony_dims="access", decode_vlen_strings=True))


def _groups(group: h5netcdf.Group) -> list[str]:
    return [name for one in group.groups.values() for name in (one.name.strip("/"), *_groups(one))]


def _variable(file: StoredFile, group: str | None, name: str, variable: xr.Variable | Described) -> xr.Variable:
    """Return the variable with its numbers read by us; what holds no numbers is read as xarray does."""
    encoding = {**variable.encoding, "source": file.source.uri}
    if isinstance(variable, Described) and variable.values is not None:
        return xr.Variable(variable.dims, variable.values, variable.attrs, encoding, fastpath=True)
    full = f"{group.strip('/')}/{name}" if group and group.strip("/") else name
    data: LazyArray
    if variable.dtype.kind in "biuf" and variable.dtype.itemsize <= 8:
        outline = variable.outline if isinstance(variable, Described) else None
        # Of an enumeration, its type tells what the numbers mean.
        dtype = variable.dtype if "enum" in (variable.dtype.metadata or {}) else np.dtype(variable.dtype.str)
        data = StoredArray(file, full, shape=variable.shape, dtype=dtype, outline=outline)
    else:
        data = _ThroughXarray(file, group, name, shape=variable.shape, dtype=variable.dtype)
    return xr.Variable(variable.dims, indexing.LazilyIndexedArray(data), variable.attrs, encoding, fastpath=True)


class _ThroughXarray(LazyArray):
    """Text, and whatever else is no number: the file is opened for each read."""

    def __init__(self, file: StoredFile, group: str | None, name: str, *, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self.file, self.group, self.name = file, group, name
        self.shape, self.dtype = shape, dtype

    def _read(self, key: tuple[Any, ...]) -> npt.NDArray[Any]:
        # One item of a list of lists is a list: whole dimensions are read, so that there is an array around it.
        whole = tuple(slice(one, one + 1) if isinstance(one, (int, np.integer)) else one for one in key)
        with self.file.metadata() as kept:
            found = self._of_file(kept, whole)
        return found.reshape([n for n, one in zip(found.shape, key, strict=True) if not isinstance(one, (int, np.integer))])

    def _of_file(self, source: Source, whole: tuple[Any, ...]) -> npt.NDArray[Any]:
        if self._is_text():
            with suppress(UnsupportedError):
                return self._of_dataset(source, whole)
        return _with_store(source, self.group, lambda store: self._of_store(source, store, whole))

    def _is_text(self) -> bool:
        """Return whether it is text of varying length, which needs nothing that h5netcdf knows."""
        text = h5py.check_string_dtype(self.dtype)
        return text is not None and text.length is None

    def _of_store(self, source: Source, store: Any, whole: tuple[Any, ...]) -> npt.NDArray[Any]:  # Any: xarray's is untyped
        if self.name in store.ds.variables:
            array = store.open_store_variable(self.name, store.ds.variables[self.name])._data.array
            return self._boxed(array[indexing.OuterIndexer(whole)])
        return self._of_dataset(source, whole)

    def _of_dataset(self, source: Source, whole: tuple[Any, ...]) -> npt.NDArray[Any]:
        """Return what h5py alone reads, with empty text where the dataset ends before its dimensions.

        Raises:
            UnsupportedError: It is a link into another file.
            SourceError: The dataset has changed.
        """
        positions = [np.arange(length)[index] for length, index in zip(self.shape, whole, strict=True)]
        block = tuple(slice(one.min(), one.max() + 1) if one.size else slice(0, 0) for one in positions)
        shape = tuple(one.stop - one.start for one in block)
        found = self._boxed(read_dataset(source, f"{self.group or ''}/{self.name}".strip("/"), block))
        if found.shape != shape:
            if not self._is_text():
                raise SourceError(f"{source.uri}: {self.name!r} has another shape than when it was opened; open it again")
            found = np.pad(found, [(0, n - m) for n, m in zip(shape, found.shape, strict=True)], constant_values="")
        # Each index is for its own dimension.
        at = [one - one.min() if one.size else one for one in positions]
        return found[np.ix_(*at)] if at else found

    def _boxed(self, found: Any) -> npt.NDArray[Any]:  # Any: of a scalar, whatever it holds
        if self.shape:
            return np.asarray(found)
        box: npt.NDArray[Any] = np.empty((), self.dtype)
        box[()] = found
        return box


def _classic_contents(file: StoredFile, source: Source, group: str | None) -> Contents:
    """Return what a netCDF classic file has.

    Raises:
        GroupNotFoundError: A group is asked for, which such files do not have.
    """
    if group is not None and group.strip("/"):
        raise GroupNotFoundError(f"{source.uri}: no group {group!r}; netCDF classic files have none")
    header = classic.read_header(source)
    variables = {name: _classic_variable(file, source, entry) for name, entry in header.variables.items()}
    unlimited = set() if header.unlimited is None else {header.unlimited}
    return Contents(variables, header.attrs, {"unlimited_dims": unlimited})


def _classic_variable(file: StoredFile, source: Source, entry: classic.Entry) -> xr.Variable:
    attrs, kind = dict(entry.attrs), _ClassicText if entry.dtype.kind == "S" else StoredArray
    # As netCDF4-python tells it: xarray takes a missing value for another number where the byte order is not this machine's.
    dtype = entry.dtype.newbyteorder("=")
    data = kind(file, entry.name, shape=entry.shape, dtype=dtype)
    if entry.dtype.kind == "S" and isinstance(fill := attrs.get("_FillValue"), str):
        attrs["_FillValue"] = np.bytes_(fill, "utf-8")
    encoding = {"source": file.source.uri, "original_shape": entry.shape, "dtype": dtype}
    return xr.Variable(entry.dims, indexing.LazilyIndexedArray(data), attrs, encoding, fastpath=True)


class _ClassicText(LazyArray):
    """Text in a netCDF classic file: read whole, whatever is asked of it."""

    support = indexing.IndexingSupport.BASIC

    def __init__(self, file: StoredFile, name: str, *, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self.file, self.name = file, name
        self.shape, self.dtype = shape, dtype

    def _read(self, key: tuple[Any, ...]) -> npt.NDArray[Any]:
        with self.file.metadata() as kept:
            return np.asarray(classic.read_text(kept, self.name)[key])
