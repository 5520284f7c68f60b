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

__all__ = ["HIDDEN", "Text", "Value", "attribute_sizes", "number_dtype", "plain_value", "read_attribute"]

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
    stored = _stored_type(attribute.get_type().encode())
    if stored is None:
        return None
    length = stored.length
    # To ask for the shape takes as long as to read, and nobody needs that of a single text.
    shape = () if length is not None and size == length > 1 else attribute.shape
    values = np.zeros((0,) if shape is None else shape, stored.dtype)
    if values.size:
        attribute.read(values, mtype=stored.memory)
    if stored.encoding is None:
        value: np.generic | npt.NDArray[Any] = values[()]
        return value
    items = values.reshape(-1).tolist() if shape != () else [values.item()]
    if stored.ends_at_zero:
        items = [item.partition(b"\0")[0] for item in items]
    return Text(tuple(items), shape, length, stored.encoding)


def plain_value(value: Any) -> object:  # Any: h5py gives whatever the file holds
    """Return a value that can be pickled, as netCDF4-python has it: text decoded, numbers in native byte order."""
    if isinstance(value, Text):
        errors = "surrogateescape" if value.length is None else "replace"
        texts = [item.decode("utf-8", errors) for item in value.items]
        return "" if value.shape is None else texts[0] if len(texts) == 1 else texts
    if isinstance(value, h5py.Empty):
        return "" if value.dtype.kind in "SUO" else np.zeros(0, value.dtype.newbyteorder("="))
    if not isinstance(value, np.ndarray):
        return _item(value)
    if value.dtype.hasobject or value.dtype.kind == "S":
        items = [_item(item) for item in value.ravel().tolist()]
        return items[0] if len(items) == 1 else items
    native = value.astype(value.dtype.newbyteorder("="), copy=False)
    return native.reshape(-1)[0] if native.size == 1 else native


def _item(value: Any) -> object:  # Any: h5py gives whatever the file holds
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, (h5py.Reference, h5py.RegionReference)):
        return "<reference>"
    record = value.item() if isinstance(value, np.void) and value.dtype.names else value
    return tuple(_item(item) for item in record) if isinstance(record, tuple) else record


def number_dtype(stored: Any) -> np.dtype[Any] | None:  # Any: h5py's low level is untyped
    """Return NumPy's type for numbers of an HDF5 type; None if they are no plain numbers."""
    found = _stored_type(stored.encode())
    return found.dtype if found is not None and found.encoding is None else None


@dataclass(frozen=True, slots=True)
class _StoredType:
    """How values of an HDF5 type are read."""

    dtype: np.dtype[Any]
    memory: Any  # Any: h5py's low level is untyped
    """HDF5's type for what NumPy is given."""
    length: int | None = None
    """Bytes of a text of fixed length."""
    encoding: str | None = None
    """None of numbers."""
    ends_at_zero: bool = False


@lru_cache(maxsize=1024)
def _stored_type(encoded: bytes) -> _StoredType | None:
    # h5py takes longer to find NumPy's type than to read the values, and a file has few types.
    stored = h5t.decode(encoded)
    if isinstance(stored, h5t.TypeStringID):
        return _text_type(stored)
    if not isinstance(stored, (h5t.TypeIntegerID, h5t.TypeFloatID)):
        return None
    try:
        dtype = stored.dtype
    except TypeError:
        return None
    return _StoredType(dtype, h5t.py_create(dtype)) if dtype.kind in "iuf" else None


def _text_type(stored: Any) -> _StoredType | None:  # Any: h5py's low level is untyped
    encoding = "utf-8" if stored.get_cset() == h5t.CSET_UTF8 else "ascii"
    if stored.is_variable_str():
        return _StoredType(h5py.string_dtype(), h5t.PYTHON_OBJECT, None, encoding)
    length, padding = stored.get_size(), stored.get_strpad()
    if padding not in (h5t.STR_NULLTERM, h5t.STR_NULLPAD):
        return None
    # Read as it is stored, or the library would convert each text.
    return _StoredType(np.dtype(f"S{length}"), stored, length, encoding, padding == h5t.STR_NULLTERM)
