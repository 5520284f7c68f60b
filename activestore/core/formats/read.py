"""Reading the metadata of a file, whatever its format."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt

from activestore.core.formats import classic
from activestore.core.formats.hdf5 import file as hdf5
from activestore.core.formats.zarr import store as zarr
from activestore.core.formats.zarr.keys import is_of_objects
from activestore.core.source import ReadableSource
from activestore.core.variable import ChunkTable, Variable
from activestore.errors import SourceError

__all__ = ["ChunkTable", "Variable", "global_attributes", "is_classic", "locate", "read_variable", "variable_names"]

_HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"


def variable_names(source: ReadableSource) -> list[str]:
    """Return the names of all variables in `source`, groups first: "group/var".

    Raises:
        SourceError: It is neither HDF5, netCDF nor Zarr, or damaged.
    """
    with source.metadata() as kept:
        if is_of_objects(kept):
            return zarr.variable_names(kept)
        return classic.variable_names(kept) if is_classic(kept) else hdf5.variable_names(kept)


def global_attributes(source: ReadableSource) -> dict[str, object]:
    """Return the attributes of `source` as a whole: those of its root group.

    Raises:
        SourceError: It is neither HDF5, netCDF nor Zarr, or damaged.
    """
    with source.metadata() as kept:
        if is_of_objects(kept):
            return zarr.global_attributes(kept)
        return classic.read_header(kept).attrs if is_classic(kept) else hdf5.global_attributes(kept)


def read_variable(source: ReadableSource, name: str) -> Variable:
    """Return the variable `name` of `source`: all that is needed to plan reductions of it.

    Parameters:
        source: A netCDF-4, HDF5 or netCDF classic file, a Zarr store, or Kerchunk references.
        name: Name of the variable, with its groups: "group/var".

    Raises:
        VariableNotFoundError: There is none of that name; the message has the names that are near.
        NotNumericError: It holds text or records.
        SourceError: The source is neither HDF5 nor netCDF, or damaged.
    """
    with source.metadata() as kept:
        if is_of_objects(kept):
            return zarr.read_variable(kept, name)
        return classic.read_variable(kept, name) if is_classic(kept) else hdf5.read_variable(kept, name)


def locate(variable: Variable, source: ReadableSource, wanted: npt.NDArray[np.int64] | None = None) -> Variable:
    """Return the variable with its chunk table read, as far as `wanted` needs it.

    Parameters:
        variable: The variable; it is returned as it is if its chunk table has been read.
        source: Where it was read from.
        wanted: Positions of chunks in the grid, counted in C order, ascending; None for all.

    Raises:
        SourceError: The chunk index is damaged.
    """
    if variable.table.unread is None:
        return variable
    with source.metadata() as kept:
        return dataclasses.replace(variable, table=variable.table.unread.read(kept, wanted))


def is_classic(source: ReadableSource) -> bool:
    """Return whether `source` is netCDF classic, False for HDF5.

    Raises:
        SourceError: It is neither.
    """
    (start,) = source.read_ranges([(0, 8)])
    if classic.is_classic(start):
        return True
    position = 0
    while position < source.size:
        # A user block before the signature is 0, 512, 1024, 2048, … bytes long.
        if source.read_ranges([(position, 8)]) == [_HDF5_SIGNATURE]:
            return False
        position = position * 2 if position else 512
    what = "is empty" if source.size == 0 else f"starts with {start!r}"
    raise SourceError(f"{source.uri}: is neither netCDF nor HDF5 (it {what}); is it another format, or an unfinished download?")
