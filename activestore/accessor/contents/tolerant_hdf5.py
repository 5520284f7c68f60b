"""HDF5 files as h5netcdf opens them, without what it fails at: one odd variable is left out, and spoils no other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import h5netcdf
import h5py
import numpy as np
from h5netcdf.core import _netcdf_dimension_but_not_variable, _unlabeled_dimension_mix

from activestore.core.formats.hdf5.file import dangling_link

__all__ = ["ODDITIES", "TolerantFile"]

ODDITIES = (AttributeError, LookupError, TypeError, ValueError)
"""What h5py, h5netcdf and xarray raise where something is not as they expect; of damage, the HDF5 library tells otherwise."""
_NAMED_TYPES = (h5py.h5t.ENUM, h5py.h5t.VLEN, h5py.h5t.COMPOUND)
"""Types of their own that a netCDF file can have, and h5netcdf knows."""


class _Members(h5py.Group):  # type: ignore[misc]  # h5py is untyped
    """A group of which those members are listed that h5netcdf can take."""

    def __init__(self, group: h5py.Group, left_out: dict[str, str]) -> None:
        """List the members of `group`; the others are noted in `left_out`, by their full names, with the reason."""
        super().__init__(group.id)
        self._left_out = left_out

    def __iter__(self) -> Iterator[str]:
        for name in super().__iter__():
            reason = _obstacle(self, name)
            if reason is None:
                yield name
            elif reason:
                self._left_out[f"{self.name}/{name}".strip("/")] = reason


def _obstacle(group: h5py.Group, name: str | bytes) -> str | None:
    """Return why a member is left out; "" if nobody would miss it, None if it is not."""
    if not isinstance(name, str):
        return "its name is no text"
    leads = dangling_link(group, name)
    if leads is not None:
        return f"it is a link to {leads}, which is not there"
    node = group[name]
    if isinstance(node, h5py.Datatype):
        return None if node.id.get_class() in _NAMED_TYPES else ""
    if isinstance(node, h5py.Dataset):
        return _obstacle_of_dataset(node)
    above = [group.file[path] for path in _paths(group.name)]
    return f"it is the group {above[above.index(node)].name!r}, which it is in" if node in above else None


def _paths(path: str) -> list[str]:
    """Return the paths of a group and of those above it."""
    parts = path.strip("/").split("/")
    return ["/", *("/".join(parts[:end]) for end in range(1, len(parts) + 1) if path != "/")]


def _obstacle_of_dataset(dataset: h5py.Dataset) -> str | None:
    if dataset.shape is None:
        return "it holds nothing (a null dataspace)"
    try:
        dtype = dataset.dtype
    except (KeyError, TypeError) as error:
        return f"NumPy has no such type ({error})"
    if dtype.subdtype is not None:
        return "each of its items is an array"
    try:
        named = np.size(dataset.attrs.get("_Netcdf4Coordinates", 0))
        if dataset.attrs.get("CLASS") == b"DIMENSION_SCALE" and named != dataset.ndim:
            raise ValueError(f"it is the scale of a dimension, and has {dataset.ndim}, of which {named} can be named")
        _unlabeled_dimension_mix(dataset)
        _netcdf_dimension_but_not_variable(dataset)
    except ODDITIES as error:
        return f"its dimensions are none that xarray can have ({error}); open it with Active"
    return None


class _Tolerant:
    """What files and groups that are opened like this have in common."""

    @property
    def _group_cls(self) -> type[_TolerantGroup]:
        return _TolerantGroup

    @property
    def _variable_cls(self) -> type[_TolerantVariable]:
        return _TolerantVariable

    @property
    def _h5group(self) -> _Members:
        return _Members(super()._h5group, self._root.left_out)  # type: ignore[misc, attr-defined]

    @property
    def attrs(self) -> dict[str, Any]:  # Any: text, numbers, arrays
        """The attributes of the group."""
        return _readable(super().attrs)  # type: ignore[misc]


class _TolerantVariable(h5netcdf.Variable):  # type: ignore[misc]  # h5netcdf is untyped
    @property
    def attrs(self) -> dict[str, Any]:  # Any: text, numbers, arrays
        """The attributes of the variable."""
        return _readable(super().attrs)


class _TolerantGroup(_Tolerant, h5netcdf.Group):  # type: ignore[misc]  # h5netcdf is untyped
    pass


class TolerantFile(_Tolerant, h5netcdf.File):  # type: ignore[misc]  # h5netcdf is untyped
    """A file that h5netcdf has opened, without those members that it fails at."""

    def __init__(self, *args: Any, **options: Any) -> None:  # Any: h5netcdf's own
        """Open it as h5netcdf does."""
        self.left_out: dict[str, str] = {}
        """Full names of members that were left out so far, and why."""
        self._writable = False  # asked for when it is closed, even if it could not be opened
        super().__init__(*args, **options)


def _readable(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Return attributes without those that h5netcdf makes nothing of, as references."""
    found = {}
    for name in attributes:
        try:
            found[name] = attributes[name]
        except ODDITIES:
            continue
    return found
