"""Small files of every kind, and what NumPy has of them: written and known without any of the code that is tested."""

from __future__ import annotations

import importlib
import importlib.util
import os
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

__all__ = ["CASES", "Case", "Damage", "damages", "overflowing_case"]

_Array = npt.NDArray[Any]

_SHAPE, _CHUNKS = (5, 6), (3, 4)
"""Four chunks, of which three reach over an edge."""
_TYPES = ("i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8")
_DEFLATED: Mapping[str, Any] = {"shuffle": True, "compression": "gzip", "compression_opts": 1}


@dataclass(frozen=True, slots=True)
class Case:
    """A file with one variable, and its values.

    Examples:
        >>> import tempfile
        >>> from activestore import Active
        >>> case = CASES["a fill value of zero"]
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     case.write(folder + "/x.nc")
        ...     print(Active(folder + "/x.nc", case.variable).count() == case.values.count())
        True
    """

    name: str
    """What is special about it."""
    stored: _Array
    """The stored numbers, those that were never written included."""
    chunks: tuple[int, ...] | None = _CHUNKS
    """Lengths of a chunk; None for a contiguous layout."""
    options: Mapping[str, Any] = field(default_factory=lambda: _DEFLATED)
    """What h5py's `create_dataset` takes."""
    attrs: Mapping[str, Any] = field(default_factory=dict)
    """Attributes of the variable."""
    missing: Callable[[_Array], _Array] | None = None
    """Returns where stored numbers are missing values; None where all are valid."""
    unpack: Callable[[_Array], _Array] | None = None
    """Makes values of stored numbers; None where they are the values."""
    written: tuple[slice, ...] = ()
    """What is written; the rest has the fill value of `options`."""
    skipped: tuple[tuple[int, ...], ...] = ()
    """First cells of chunks that are stored with all of their filters skipped."""
    file_options: Mapping[str, Any] = field(default_factory=dict)
    """What `h5py.File` takes."""
    variable: str = "x"
    """Name of the variable, with its groups."""
    properties: Callable[[Any], object] | None = None
    """Sets what h5py's `create_dataset` has no word for, on its low-level list of properties."""
    longer: int = 0
    """How much longer than the variable its first dimension has grown, by what another variable stored."""

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write the file."""
        if self._needs_plugin:
            importlib.import_module("hdf5plugin")
        plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        if self.properties is not None:
            self.properties(plist)
        with h5py.File(path, "w", **self.file_options) as file:
            shape = (self.stored.shape[0] - self.longer, *self.stored.shape[1:]) if self.longer else self.stored.shape
            dataset = file.create_dataset(
                self.variable, shape, self.stored.dtype, chunks=self.chunks, dcpl=plist, **self.options
            )
            for name, value in self.attrs.items():
                dataset.attrs[name] = value
            where = self.written or tuple(slice(n) for n in shape)
            if self.stored[where].size:
                dataset[where] = self.stored[where]
            for start in self.skipped:
                _write_unfiltered(dataset, self.stored, start)
            if self.longer:
                file.create_dataset("time", (self.stored.shape[0],), "f8", chunks=(4,), maxshape=(None,)).make_scale()
                dataset.dims[0].attach_scale(file["time"])

    @property
    def values(self) -> np.ma.MaskedArray[Any, Any]:
        """The values: unpacked, in native byte order, missing ones masked."""
        native = self.stored.astype(self.stored.dtype.newbyteorder("="))
        mask = np.zeros(native.shape, bool) if self.missing is None else self.missing(native)
        with np.errstate(all="ignore"):
            values = native if self.unpack is None else self.unpack(native)
        return np.ma.MaskedArray(values, mask=mask)

    @property
    def wanting(self) -> str | None:
        """Why the file cannot be written here, None if it can."""
        if self._needs_plugin and importlib.util.find_spec("hdf5plugin") is None:
            return "hdf5plugin is not installed"
        return None

    @property
    def _needs_plugin(self) -> bool:
        return isinstance(self.options.get("compression"), int)


def _write_unfiltered(dataset: h5py.Dataset, stored: _Array, start: tuple[int, ...]) -> None:
    """Store one chunk with the mask that says: every filter was skipped."""
    part = stored[tuple(slice(at, at + n) for at, n in zip(start, dataset.chunks, strict=True))]
    whole = np.zeros(dataset.chunks, stored.dtype)
    whole[tuple(slice(n) for n in part.shape)] = part
    filters = dataset.id.get_create_plist().get_nfilters()
    dataset.id.write_direct_chunk(start, whole.tobytes(), filter_mask=(1 << filters) - 1)


def _numbers(dtype: str, shape: tuple[int, ...] = _SHAPE, *, least: int = 1, most: int = 100) -> _Array:
    """Return numbers that look like measurements, the same at every call."""
    rng = np.random.default_rng(9)
    if np.dtype(dtype).kind == "f":
        return rng.normal(280, 15, shape).astype(dtype)
    return rng.integers(least, most, shape).astype(dtype)


def _with(numbers: _Array, *special: float | np.floating[Any]) -> _Array:
    """Return a copy with special numbers strewn into it, some in every chunk."""
    flat = numbers.copy().ravel()
    for at, number in enumerate(special):
        flat[at :: len(special) * 4] = number
    return flat.reshape(numbers.shape)


def _in(*values: float | np.floating[Any]) -> Callable[[_Array], _Array]:
    return lambda stored: np.isin(stored, np.array(values, stored.dtype))


def _types() -> list[Case]:
    little = [Case(f"type {dtype}", _numbers("<" + dtype)) for dtype in _TYPES]
    return little + [Case(f"big-endian {dtype}", _numbers(">" + dtype)) for dtype in ("i2", "u4", "i8", "f4", "f8")]


def _fletcher32_before_deflate(plist: Any) -> None:  # Any: h5py's low level is untyped
    plist.set_chunk(_CHUNKS)
    plist.set_fletcher32()
    plist.set_deflate(1)


def _codecs() -> list[Case]:
    pipelines: dict[str, dict[str, Any]] = {
        "no codecs": {},
        "deflate": {"compression": "gzip"},
        "shuffle": {"shuffle": True},
        "fletcher32": {"fletcher32": True},
        "deflate and fletcher32": {"compression": "gzip", "fletcher32": True},
        "shuffle, deflate and fletcher32": {**_DEFLATED, "fletcher32": True},
        "lzf": {"compression": "lzf"},
        # The numbers that hdf5plugin's filters are registered under.
        "zstd": {"compression": 32015},
        "blosc": {"compression": 32001, "compression_opts": (0, 0, 0, 0, 5, 1, 0)},
        "blosc2": {"compression": 32026, "compression_opts": (0, 0, 0, 0, 5, 1, 0)},
    }
    found = [Case(name, _numbers("<f4"), options=options) for name, options in pipelines.items()]
    found.append(Case("fletcher32 before deflate", _numbers("<f4"), options={}, properties=_fletcher32_before_deflate))
    found.append(Case("scale-offset", _numbers("<i4"), options={"scaleoffset": 0}))
    return found


def _grown(least: int) -> _Array:
    """Return numbers of which all but the first `least` rows are the fill value."""
    stored = _numbers("<i4")
    stored[least:] = -7
    return stored


def _partly_written() -> _Array:
    stored = np.full((7, 9), -7, "<i4")
    stored[1:4, 2:6] = _numbers("<i4", (7, 9))[1:4, 2:6]
    return stored


def _layouts() -> list[Case]:
    numbers = _numbers("<f4")
    filled = {**_DEFLATED, "fillvalue": -7}
    return [
        Case("contiguous", numbers, chunks=None, options={}),
        Case("contiguous, big-endian", _numbers(">i2"), chunks=None, options={}),
        Case("compact", numbers, chunks=None, options={}, properties=lambda plist: plist.set_layout(h5py.h5d.COMPACT)),
        Case("one chunk", numbers, chunks=_SHAPE),
        Case("a chunk for each number", numbers, chunks=(1, 1), options={}),
        Case("many small chunks in a row", _numbers("<f8", (60, 2)), chunks=(1, 2)),
        Case("chunks longer than the variable", numbers, chunks=(10, 10), options={**_DEFLATED, "maxshape": (None, None)}),
        Case("a user block", numbers, file_options={"userblock_size": 512}),
        Case("the latest format", numbers, file_options={"libver": "latest"}),
        Case("filters skipped", numbers, skipped=((0, 0), (3, 4))),
        Case("chunks never written", _partly_written(), options=filled, written=(slice(1, 4), slice(2, 6))),
        Case("nothing ever written", np.full(_SHAPE, -7, "<i4"), options=filled, written=(slice(0), slice(0))),
        Case(
            "unwritten chunks that are missing",
            _partly_written(),
            options=filled,
            attrs={"_FillValue": np.int32(-7)},
            missing=_in(-7),
            written=(slice(1, 4), slice(2, 6)),
        ),
        Case("a dimension that has grown", _grown(3), options={**filled, "maxshape": (None, 6)}, longer=2),
        Case("a scalar", np.array(273.5, "<f8"), chunks=None, options={}),
        Case("one dimension", _numbers("<f8", (23,)), chunks=(5,)),
        Case("three dimensions", _numbers("<i2", (4, 5, 6)), chunks=(2, 3, 4)),
        Case("four dimensions", _numbers("<f4", (2, 3, 4, 5)), chunks=(1, 2, 3, 4)),
        Case("a length of one", _numbers("<f4", (1, 9, 1)), chunks=(1, 4, 1)),
        Case("a length of zero", np.zeros((0, 4), "<f4"), chunks=(2, 4), options={"maxshape": (None, 4)}),
        Case("a group", numbers, variable="upper/lower/x"),
    ]


def _missing() -> list[Case]:
    fill, floats, ints = np.float32(1e20), _numbers("<f4"), _numbers("<i4")
    one_chunk = floats.copy()
    one_chunk[:3, :4] = fill
    return [
        Case("a fill value", _with(floats, fill), attrs={"_FillValue": fill}, missing=_in(fill)),
        Case("a fill value of zero", _with(ints, 0), attrs={"_FillValue": np.int32(0)}, missing=_in(0)),
        Case("a fill value that is NaN", _with(floats, np.nan), attrs={"_FillValue": np.float32("nan")}, missing=np.isnan),
        Case("zero is a value", _with(ints, 0, -3)),
        Case("one chunk all missing", one_chunk, attrs={"_FillValue": fill}, missing=_in(fill)),
        Case("all missing", np.full(_SHAPE, fill), attrs={"_FillValue": fill}, missing=_in(fill)),
        Case("a missing value", _with(ints, -9), attrs={"missing_value": np.int32(-9)}, missing=_in(-9)),
        Case(
            "three missing values",
            _with(ints, -9, 5, 0),
            attrs={"missing_value": np.array([-9, 5, 0], "i4")},
            missing=_in(-9, 5, 0),
        ),
        Case(
            "a fill and a missing value",
            _with(ints, -9, -8),
            attrs={"missing_value": np.int32(-9), "_FillValue": np.int32(-8)},
            missing=_in(-9, -8),
        ),
        Case("valid_min of zero", _with(ints, -3, 0), attrs={"valid_min": np.int32(0)}, missing=lambda x: x < 0),
        Case("valid_max", floats, attrs={"valid_max": np.float32(290)}, missing=lambda x: x > np.float32(290)),
        Case(
            "valid_min and valid_max",
            floats,
            attrs={"valid_min": np.float32(270), "valid_max": np.float32(290)},
            missing=lambda x: (x < 270) | (x > 290),
        ),
        Case("valid_range", ints, attrs={"valid_range": np.array([20, 80], "i4")}, missing=lambda x: (x < 20) | (x > 80)),
        Case(
            "valid_range and a fill value",
            _with(ints, 50),
            attrs={"valid_range": np.array([20, 80], "i4"), "_FillValue": np.int32(50)},
            missing=lambda x: (x < 20) | (x > 80) | (x == 50),
        ),
        Case("the default fill value of i2", _with(_numbers("<i2"), -32767), missing=_in(-32767)),
        Case("the default fill value of f4", _with(floats, 9.969209968386869e36), missing=_in(9.969209968386869e36)),
        Case("NaN", _with(floats, np.nan)),
        Case("NaN and a fill value", _with(floats, np.nan, fill), attrs={"_FillValue": fill}, missing=_in(fill)),
        Case("NaN and a valid_max", _with(floats, np.nan), attrs={"valid_max": np.float32(290)}, missing=lambda x: x > 290),
        Case("nothing but NaN", np.full(_SHAPE, np.nan, "<f8")),
        Case("infinity", _with(floats, np.inf)),
        Case("both infinities", _with(_numbers("<f8"), np.inf, -np.inf)),
        Case("infinity is missing", _with(floats, np.inf, 300), attrs={"_FillValue": np.float32("inf")}, missing=_in(np.inf)),
    ]


def _scaled(scale: Any, offset: Any) -> Callable[[_Array], _Array]:  # Any: NumPy numbers, whose types count
    return lambda stored: stored * scale + offset


def _packed() -> list[Case]:
    scale, offset, small = np.float64(0.01), np.float64(273.15), _numbers("<i2")
    both = {"scale_factor": scale, "add_offset": offset}
    unsigned = _with(_numbers("|i1"), -3, -100)
    return [
        Case("packed", small, attrs=both, unpack=_scaled(scale, offset)),
        Case("packed, in float32", small, attrs={"scale_factor": np.float32(0.5)}, unpack=lambda x: x * np.float32(0.5)),
        Case("packed, with an offset only", small, attrs={"add_offset": offset}, unpack=lambda x: x + offset),
        Case("packed, with a negative scale", small, attrs={"scale_factor": -scale}, unpack=lambda x: x * -scale),
        Case("packed, with a fill value", _with(small, -1), attrs={**both, "_FillValue": np.int16(-1)}, missing=_in(-1),
             unpack=_scaled(scale, offset)),
        Case("packed floats", _numbers("<f4"), attrs={"scale_factor": np.float64(2)}, unpack=lambda x: x * np.float64(2)),
        Case("unsigned", unsigned, attrs={"_Unsigned": "true"}, unpack=lambda x: x.view("u1")),
        Case("unsigned and packed", unsigned, attrs={"_Unsigned": "true", "scale_factor": scale},
             unpack=lambda x: x.view("u1") * scale),
    ]  # fmt: skip


def _wide() -> list[Case]:
    top = np.iinfo("i4").max
    return [
        Case("sums beyond 32 bits", _numbers("<i4", least=top - 1000, most=top)),
        Case("sums beyond 32 bits, unsigned", _numbers("<u4", least=2**32 - 1000, most=2**32 - 2)),
        Case("sums below 32 bits", -_numbers("<i4", least=top - 1000, most=top)),
        Case("numbers beyond 63 bits", np.uint64(2**57) + _numbers("<u8")),
        Case("a long sum of float32", _numbers("<f4", (60_000,)), chunks=(60_000,)),
        Case("numbers next to zero", _with(_numbers("<f4") * np.float32(1e-30), 0)),
        Case("terms that cancel", _numbers("<f8") - 280),
    ]


_ALL: Sequence[Case] = (*_types(), *_codecs(), *_layouts(), *_missing(), *_packed(), *_wide())

CASES: Mapping[str, Case] = {case.name: case for case in _ALL}
"""Every case by its name."""


def overflowing_case() -> Case:
    """Return a case whose sum does not fit into 64 bits."""
    return Case("a sum beyond 64 bits", np.full(_SHAPE, 2**62, "<i8"))


@dataclass(frozen=True, slots=True)
class Damage:
    """A file in which one chunk is damaged."""

    name: str
    """What is wrong with it."""
    case: Case
    """The file before."""
    inflict: Callable[[str], object]
    """Damages the file at a path."""

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write the damaged file."""
        self.case.write(path)
        self.inflict(os.fspath(path))


def _first_chunk(path: str) -> tuple[int, int]:
    with h5py.File(path) as file:
        chunk = file["x"].id.get_chunk_info(0)
        return chunk.byte_offset, chunk.size


def _overwrite(path: str) -> None:
    offset, size = _first_chunk(path)
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(b"\xff" * size)


def _flip_one_bit(path: str) -> None:
    offset, _ = _first_chunk(path)
    with open(path, "r+b") as file:
        file.seek(offset + 2)
        byte = file.read(1)[0]
        file.seek(offset + 2)
        file.write(bytes([byte ^ 1]))


def _flip_in_the_middle(path: str) -> None:
    offset, size = _first_chunk(path)
    with open(path, "r+b") as file:
        file.seek(offset + size // 2)
        byte = file.read(1)[0]
        file.seek(offset + size // 2)
        file.write(bytes([byte ^ 0x10]))


def _shorten(path: str) -> None:
    """Store a chunk that is whole but inflates to fewer bytes than a chunk has."""
    with h5py.File(path, "r+") as file:
        file["x"].id.write_direct_chunk((0, 0), zlib.compress(bytes(12)))


def damages() -> list[Damage]:
    """Return files with a damaged chunk: no number can come of them."""
    floats = _numbers("<f4")
    checked = Case("checked", floats, options={"fletcher32": True})
    both = Case("deflated and checked", floats, options={**_DEFLATED, "fletcher32": True})
    deflated = Case("deflated", floats, options={"compression": "gzip"})
    return [
        Damage("deflated bytes overwritten", deflated, _overwrite),
        Damage("a bit of deflated bytes flipped", deflated, _flip_in_the_middle),
        Damage("a bit flipped under a checksum", checked, _flip_one_bit),
        Damage("a bit of deflated bytes flipped under a checksum", both, _flip_in_the_middle),
        Damage("fewer numbers than a chunk has", deflated, _shorten),
    ]
