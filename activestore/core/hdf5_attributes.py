"""Attributes of HDF5 objects, read with few calls of the HDF5 library.

h5py's own mapping of attributes opens each of them several times, which takes most of the time that reading the
metadata of a small netCDF-4 file does.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
from h5py import h5, h5a, h5p, h5t

__all__ = ["HIDDEN", "Text", "Value", "attribute_sizes", "number_types", "read_attribute"]

HIDDEN = frozenset(
    {
        b"CLASS",
        b"DIMENSION_LIST",
        b"NAME",
        b"REFERENCE_LIST",
        b"_NCProperties",
        b"_Netcdf4Coordinates",
        b"_Netcdf4Dimid",
        b"_nc3_strict",
    }
)
"""Names of the attributes by which HDF5 and netCDF-4 keep their own books."""


@dataclass(frozen=True, slots=True)
class Text:
    """Text of an attribute, as it is stored."""

    items: tuple[bytes, ...]
    """The texts, without what pads them."""
    shape: tuple[int, ...] | None
    """Shape of the attribute, None for nothing at all (a null dataspace); () for any single text of fixed length above 1."""
    length: int | None
    """Bytes that each text has room for, None if their lengths vary."""
    encoding: str
    """What the file says the bytes are: "ascii" or "utf-8"."""


Value = Text | np.generic | npt.NDArray[Any]
"""Text, or a number or an array of numbers in the byte order of the file."""


def attribute_sizes(owner: Any, creation: Any) -> dict[bytes, int]:  # Any: h5py's low level is untyped
    """Return the names of the attributes of an object, in the order that h5py lists them in, and how many bytes each takes.

    Parameters:
        owner: Identifier of a group or dataset.
        creation: Its property list of creation.
    """
    found: dict[bytes, int] = {}

    def visit(name: bytes, info: Any) -> None:  # Any: h5py's AttrInfo
        found[name] = info.data_size

    tracked = creation.get_attr_creation_order() & h5p.CRT_ORDER_TRACKED
    h5a.iterate(owner, visit, index_type=h5.INDEX_CRT_ORDER if tracked else h5.INDEX_NAME, info=True)
    return found


def read_attribute(owner: Any, name: bytes, size: int) -> Value | None:  # Any: h5py's low level is untyped
    """Return one attribute; None if it is neither numbers nor plain text, and h5py has to be asked.

    Parameters:
        owner: Identifier of a group or dataset.
        name: Name of the attribute.
        size: Bytes that it takes, from `attribute_sizes`.
    """
    attribute = h5a.open(owner, name)
    stored = attribute.get_type()
    if isinstance(stored, h5t.TypeStringID):
        return _text(attribute, stored, size)
    types = number_types(stored)
    if types is None:
        return None
    dtype, memory = types
    shape = attribute.shape
    if shape is None:
        return np.zeros(0, dtype)
    numbers = np.zeros(shape, dtype)
    if numbers.size:
        attribute.read(numbers, mtype=memory)
    value: np.generic | npt.NDArray[Any] = numbers[()]
    return value


def number_types(stored: Any) -> tuple[np.dtype[Any], Any] | None:  # Any: h5py's low level is untyped
    """Return NumPy's type for numbers of an HDF5 type, and HDF5's name of that; None if they are no plain numbers."""
    if not isinstance(stored, (h5t.TypeIntegerID, h5t.TypeFloatID)):
        return None
    return _number_types(stored.encode())


@lru_cache(maxsize=128)
def _number_types(encoded: bytes) -> tuple[np.dtype[Any], Any] | None:  # Any: h5py's low level is untyped
    # h5py takes longer to find NumPy's type than to read the numbers, and a file has few types.
    try:
        dtype = h5t.decode(encoded).dtype
        return (dtype, h5t.py_create(dtype)) if dtype.kind in "iuf" else None
    except TypeError:
        return None


def _text(attribute: Any, stored: Any, size: int) -> Text | None:  # Any: h5py's low level is untyped
    encoding = "utf-8" if stored.get_cset() == h5t.CSET_UTF8 else "ascii"
    if stored.is_variable_str():
        return _varying_text(attribute, encoding)
    length, padding = stored.get_size(), stored.get_strpad()
    if padding not in (h5t.STR_NULLTERM, h5t.STR_NULLPAD):
        return None
    # To ask for the shape takes as long as to read, and nobody needs that of a single text.
    shape = () if size == length > 1 else attribute.shape
    if shape is None:
        return Text((), None, length, encoding)
    texts = np.zeros(shape, f"S{length}")
    if texts.size:
        # As the type of the file, or the library would convert each text.
        attribute.read(texts, mtype=stored)
    items = texts.reshape(-1).tolist()
    if padding == h5t.STR_NULLTERM:
        items = [item.partition(b"\0")[0] for item in items]
    return Text(tuple(items), shape, length, encoding)


def _varying_text(attribute: Any, encoding: str) -> Text:  # Any: h5py's low level is untyped
    shape = attribute.shape
    if shape is None:
        return Text((), None, None, encoding)
    texts = np.zeros(shape, h5py.string_dtype())
    if texts.size:
        attribute.read(texts, mtype=h5t.PYTHON_OBJECT)
    return Text(tuple(texts.reshape(-1).tolist()), shape, None, encoding)
