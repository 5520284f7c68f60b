"""Keeps xarray from writing over what is still to be read.

The engines of xarray hold files open, so that the HDF5 library refuses to empty them. Ours holds none, and a lock of its own
would be no help: libraries empty a file before they ask for its lock, and neither netCDF classic files nor Zarr stores know
any. So the functions of xarray that write ask here first.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import os
import weakref
from collections.abc import Callable
from typing import Any, Protocol

from activestore.core.source import ReadableSource
from activestore.errors import ActivestoreError, SourceError
from activestore.network.redaction import public_address
from activestore.process.forking import Lock
from activestore.sources.open import local_path
from activestore.sources.overwriting import is_changed_by_file, is_changed_by_store

__all__ = ["Reader", "watch"]

_WRITERS = ("to_netcdf", "_datatree_to_netcdf", "to_zarr", "_datatree_to_zarr")
_MODULES = ("xarray.backends.writers", "xarray.backends.api", "xarray.core.datatree_io")
"""Where releases of xarray have them, from which its methods import them when they are called."""


class Reader(Protocol):
    """What reads a file when values are asked for."""

    @property
    def source(self) -> ReadableSource:
        """Where the bytes are."""

    @property
    def uri(self) -> str:
        """Its address."""

    @property
    def is_closed(self) -> bool:
        """Whether the user has closed the dataset; values can still be asked for."""


_GUARDED: list[Callable[..., Any]] = []
_LOCK = Lock()
_READERS: weakref.WeakSet[Reader] = weakref.WeakSet()


def watch(reader: Reader) -> None:
    """Let nothing be written over what a reader reads, as long as it is there: what reads through it keeps it."""
    _guard_writers()
    _READERS.add(reader)


def _guard_writers() -> None:
    with _LOCK:
        for module in map(_imported, () if _GUARDED else _MODULES):
            for name in _WRITERS:
                function = getattr(module, name, None)
                # What one of these modules imports of another is guarded already.
                if function is not None and function not in _GUARDED:
                    guarded = _guarded(function)
                    setattr(module, name, guarded)
                    _GUARDED.append(guarded)


def _imported(name: str) -> Any:  # Any: a module of xarray's, or None
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


def _guarded(write: Callable[..., Any]) -> Callable[..., Any]:  # Any: a function of xarray's, of many parameters
    signature = inspect.signature(write)

    @functools.wraps(write)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        given = signature.bind(*args, **kwargs)
        given.apply_defaults()
        data, target = list(given.arguments.values())[:2]
        # A new store is written only where there is none.
        if given.arguments.get("mode") not in ("r", "w-"):
            _check(data, target, given.arguments.get("group"), to_store="zarr" in write.__name__)
        return write(*args, **kwargs)

    return guarded


def _check(data: Any, target: Any, group: str | None, *, to_store: bool) -> None:  # Any: a Dataset or tree, and a path or store
    """Refuse to write `data` over what is still to be read.

    Raises:
        SourceError: It would be.
    """
    place = _address_of_store(target, group) if to_store else _address_of_file(target)
    if place is None:
        return
    is_changed: Callable[[ReadableSource, Any], bool] = is_changed_by_store if to_store else is_changed_by_file
    for reader in list(_READERS):
        # In memory, nothing is left to be read of what was closed.
        if (reader.is_closed and _is_in_memory(data)) or _is_elsewhere(reader.uri, place):
            continue
        try:
            changed = is_changed(reader.source, place)
        except ActivestoreError:
            continue
        if changed:
            shown = reader.uri if isinstance(place, int) else public_address(place)
            raise SourceError(
                f"{shown}: is open, and what is still to be read of it (by engine='activestore') would be lost; write to "
                "another file and put it in its place (os.replace), or read all (.load()) and close what is open (.close())"
            )


def _is_in_memory(data: Any) -> bool:  # Any: a Dataset or a tree
    datasets = [node.variables for node in data.subtree] if hasattr(data, "subtree") else [data.variables]
    return all(variable._in_memory for variables in datasets for variable in variables.values())


def _is_elsewhere(uri: str, place: str | int) -> bool:
    """Return whether the one is on a disk and the other is not, without opening what was unpickled."""
    local = isinstance(place, int) or local_path(place) is not None
    return "::" not in uri and (local_path(uri) is not None) != local


def _address_of_file(target: Any) -> str | int | None:  # Any: a path, an address or a file object
    """Return the address of a file that is to be written, or the descriptor of one that is open; None where it is neither."""
    if isinstance(target, (str, bytes, os.PathLike)):
        return os.path.expanduser(os.fsdecode(target))
    descriptor = getattr(target, "fileno", None)
    if descriptor is not None:
        try:
            return int(descriptor())
        except OSError:
            pass
    return _address_of_object(target)


def _address_of_store(store: Any, group: str | None) -> str | None:  # Any: whatever xarray takes as a store
    given = isinstance(store, (str, bytes, os.PathLike))
    found = os.path.expanduser(os.fsdecode(store)) if given else _address_of_object(store)
    return found if found is None or not (group or "").strip("/") else f"{found.rstrip('/')}/{str(group).strip('/')}"


def _address_of_object(given: Any) -> str | None:  # Any: a store or a file of fsspec's or Zarr's
    """Return the address of an object that has a path in a file system, or a path alone; None for what is in memory."""
    inner = getattr(given, "_store", None) or getattr(given, "store", None)
    path = next((one for name in ("root", "path") if isinstance(one := getattr(given, name, None), (str, os.PathLike))), None)
    if inner is not None:
        outer = _address_of_object(inner)
        return f"{outer}/{path}" if outer is not None and path else outer
    if path is None:
        return None
    protocol = getattr(getattr(given, "fs", None), "protocol", "file")
    first = protocol if isinstance(protocol, str) else protocol[0]
    text = os.fspath(path)
    return text if first in ("file", "local") or "://" in text else f"{first}://{text}"
