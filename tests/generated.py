"""Files that hypothesis makes up: every layout, filter, type, kind of missing value and packing, in any mix.

A `Recipe` is all that decides a file's contents; its repr, which hypothesis prints for a failing example, is enough to
write the file again: `write(recipe, path)`.
"""

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin
import netCDF4
import numpy as np
from hypothesis import assume
from hypothesis import strategies as st

__all__ = ["NAME", "Recipe", "recipes", "reference", "write"]

NAME = "x"
"""Name of the variable in every generated file."""

CLASSIC = {"CDF-1": "NETCDF3_CLASSIC", "CDF-2": "NETCDF3_64BIT_OFFSET", "CDF-5": "NETCDF3_64BIT_DATA"}
CONTAINERS = ("HDF5 earliest", "HDF5 latest", "netCDF-4", *CLASSIC)
CLASSIC_TYPES = ("i1", "i2", "i4", "f4", "f8")
TYPES = ("i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8")

HDF5_FILTERS: dict[str, dict[str, Any]] = {
    "none": {},
    "gzip": {"compression": "gzip", "compression_opts": 1},
    "shuffle": {"shuffle": True},
    "shuffle gzip": {"shuffle": True, "compression": "gzip"},
    "fletcher32": {"fletcher32": True},
    "gzip fletcher32": {"compression": "gzip", "fletcher32": True},
    "shuffle gzip fletcher32": {"shuffle": True, "compression": "gzip", "fletcher32": True},
    "lzf": {"compression": "lzf"},
    "shuffle lzf fletcher32": {"shuffle": True, "compression": "lzf", "fletcher32": True},
    "szip": {"compression": "szip", "compression_opts": ("nn", 8)},
    "scaleoffset": {"scaleoffset": 0},
    "scaleoffset gzip": {"scaleoffset": 0, "compression": "gzip"},
    "zstd": hdf5plugin.Zstd(),
    "shuffle zstd": {"shuffle": True, **hdf5plugin.Zstd()},
    "bzip2": hdf5plugin.BZip2(),
    "lz4": hdf5plugin.LZ4(nbytes=16),
    "bitshuffle": hdf5plugin.Bitshuffle(),
    "bitshuffle zstd": hdf5plugin.Bitshuffle(cname="zstd"),
    "blosc": hdf5plugin.Blosc(cname="lz4"),
    "blosc zstd": hdf5plugin.Blosc(cname="zstd", shuffle=hdf5plugin.Blosc.BITSHUFFLE),
    "blosc zlib": hdf5plugin.Blosc(cname="zlib", shuffle=hdf5plugin.Blosc.NOSHUFFLE),
    "blosc2": hdf5plugin.Blosc2(),
    "blosc2 zstd": hdf5plugin.Blosc2(cname="zstd", filters=hdf5plugin.Blosc2.BITSHUFFLE),
}
"""h5py's keywords for each pipeline."""
SKIPPABLE = frozenset({"gzip", "shuffle", "shuffle gzip", "fletcher32", "gzip fletcher32", "zstd", "shuffle zstd"})
"""Pipelines whose chunks are also written with filters skipped."""
NETCDF_FILTERS: dict[str, dict[str, Any]] = {
    "none": {},
    "zlib": {"compression": "zlib", "shuffle": False},
    "shuffle zlib": {"compression": "zlib", "shuffle": True},
    "fletcher32": {"fletcher32": True},
    "shuffle zlib fletcher32": {"compression": "zlib", "shuffle": True, "fletcher32": True},
    "zstd": {"compression": "zstd"},
    "bzip2": {"compression": "bzip2"},
}
"""netCDF4-python's keywords for each pipeline."""
READABLE = frozenset({"none", "zlib", "shuffle zlib", "fletcher32", "shuffle zlib fletcher32"})
"""Those that netCDF's own HDF5 library reads wherever it was built."""


@dataclass(frozen=True, repr=False)
class Recipe:
    """All that decides the contents of a file."""

    container: str
    """"HDF5 earliest", "HDF5 latest", "netCDF-4", "CDF-1", "CDF-2" or "CDF-5"."""
    dtype: str
    """NumPy type, byte order first."""
    shape: tuple[int, ...]
    """Lengths of the dimensions."""
    values: tuple[float, ...]
    """What numbers are taken from, in turn and at random."""
    seed: int
    """Of that choice."""
    chunks: tuple[int, ...] | None = None
    """Lengths of a chunk; None for a contiguous or compact layout."""
    compact: bool = False
    """Whether the numbers lie in the object header."""
    early: bool = False
    """Whether all chunks are allocated when the variable is made: an implicit index, if nothing filters them."""
    unlimited: tuple[bool, ...] = ()
    """Which dimensions can grow."""
    room: int = 0
    """How much the other dimensions can grow."""
    filters: str = "none"
    """The pipeline, by its key in HDF5_FILTERS or NETCDF_FILTERS."""
    skipped: tuple[int, ...] = ()
    """Chunks written with all of their filters skipped, counted in grid order."""
    user_block: int = 0
    """Bytes before the HDF5 signature."""
    fill: float | bool | None = None
    """HDF5's fill value, or the `_FillValue` of a netCDF file; False turns filling off, None leaves the default."""
    written: tuple[tuple[int, int], ...] | None = None
    """Bounds along each dimension of what is written; None for all."""
    longer: int = 0
    """How many more records another variable has along the first dimension."""
    coordinate: bool = True
    """Whether that other variable is the coordinate of the dimension."""
    neighbours: tuple[str, ...] = ()
    """Types of other variables along the first dimension of a classic file: they lie between its records."""
    attrs: Mapping[str, Any] = field(default_factory=dict)
    """Attributes."""

    def __repr__(self) -> str:
        """Return it without what is as usual."""
        usual = {one.name: one.default for one in fields(self)} | {"attrs": {}}
        given = {name: getattr(self, name) for name in usual if getattr(self, name) != usual[name]}
        return f"Recipe({', '.join(f'{name}={value!r}' for name, value in given.items())})"

    def numbers(self) -> np.ndarray:
        """Return the stored numbers."""
        dtype = np.dtype(self.dtype)
        choice = np.random.default_rng(self.seed).choice(len(self.values), self.shape)
        with np.errstate(all="ignore"):
            return np.array([_held(value, dtype) for value in self.values], dtype)[choice]


def _held(value: float, dtype: np.dtype) -> Any:
    """Return `value` as the type can hold it; the nearest of its numbers for integers."""
    if dtype.kind == "f":
        with np.errstate(over="ignore"):
            return dtype.type(value)
    limits = np.iinfo(dtype)
    return dtype.type(0) if value != value else dtype.type(int(min(max(value, limits.min), limits.max)))


def write(recipe: Recipe, path: Path) -> None:
    """Write the file that `recipe` describes."""
    if recipe.container.startswith("HDF5"):
        _write_hdf5(recipe, path)
    else:
        _write_netcdf(recipe, path)


def _write_hdf5(recipe: Recipe, path: Path) -> None:
    numbers, plist = recipe.numbers(), h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    if recipe.compact:
        plist.set_layout(h5py.h5d.COMPACT)
    if recipe.early:
        plist.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    # A user block is written only to a file of its own kind: h5py wants None for no block.
    with h5py.File(path, "w", libver=recipe.container[5:], userblock_size=recipe.user_block or None) as file:
        options = dict(HDF5_FILTERS[recipe.filters])
        if recipe.chunks is not None:
            options |= {"chunks": recipe.chunks}
            options["maxshape"] = tuple(None if grows else n for n, grows in zip(recipe.shape, recipe.unlimited, strict=True))
        fill = None if recipe.fill is None or recipe.fill is False else _held(recipe.fill, numbers.dtype)
        dataset = file.create_dataset(NAME, recipe.shape, recipe.dtype, fillvalue=fill, dcpl=plist, **options)
        for name, value in recipe.attrs.items():
            dataset.attrs[name] = value
        where = _written(recipe)
        if numbers[where].size:
            dataset[where] = numbers[where]
        for position in recipe.skipped:
            _write_unfiltered(dataset, numbers, position)


def _write_unfiltered(dataset: h5py.Dataset, numbers: np.ndarray, position: int) -> None:
    """Write one chunk with the mask that says: every filter was skipped."""
    grid = tuple(-(-n // chunk) for n, chunk in zip(dataset.shape, dataset.chunks, strict=True))
    if position >= math.prod(grid):
        return
    cell = np.unravel_index(position, grid)
    start = tuple(int(at) * chunk for at, chunk in zip(cell, dataset.chunks, strict=True))
    part = numbers[tuple(slice(at, at + chunk) for at, chunk in zip(start, dataset.chunks, strict=True))]
    whole = np.zeros(dataset.chunks, numbers.dtype)
    whole[tuple(slice(0, n) for n in part.shape)] = part
    if dataset.id.get_chunk_info_by_coord(start).size == whole.nbytes:
        # The HDF5 library forgets the new mask where a chunk keeps its size, and cannot read it any more.
        return
    count = dataset.id.get_create_plist().get_nfilters()
    mask = (1 << count) - 1
    dataset.id.write_direct_chunk(start, whole.tobytes(), filter_mask=mask)
    # There may be other cases in which it forgets the mask: files that it cannot read itself are no examples.
    assume(dataset.id.get_chunk_info_by_coord(start).filter_mask == mask)


def _written(recipe: Recipe) -> tuple[slice, ...]:
    bounds = recipe.written or tuple((0, n) for n in recipe.shape)
    return tuple(slice(*bound) for bound in bounds)


def _write_netcdf(recipe: Recipe, path: Path) -> None:
    numbers, dtype = recipe.numbers(), np.dtype(recipe.dtype)
    with netCDF4.Dataset(path, "w", format=CLASSIC.get(recipe.container, "NETCDF4")) as file:
        dims = tuple(f"d{i}" for i in range(len(recipe.shape)))
        for name, length, grows in zip(dims, recipe.shape, recipe.unlimited, strict=True):
            file.createDimension(name, None if grows else length)
        options: dict[str, Any] = {} if recipe.container in CLASSIC else _netcdf_options(recipe)
        fill = recipe.fill if recipe.fill is None or recipe.fill is False else _held(recipe.fill, dtype.newbyteorder("="))
        # Neighbours before and behind it: both ends of a record are somebody else's.
        for i, other in enumerate(recipe.neighbours[:1]):
            file.createVariable(f"before{i}", other, dims[:1])[...] = np.arange(recipe.shape[0]) % 7
        # On classic formats the byte order is always big-endian, whatever is asked for.
        kind = dtype.newbyteorder("=") if recipe.container in CLASSIC else dtype
        variable = file.createVariable(NAME, kind, dims, fill_value=fill, **options)
        for i, other in enumerate(recipe.neighbours[1:]):
            file.createVariable(f"behind{i}", other, dims[:1])[...] = np.arange(recipe.shape[0]) % 5
        variable.set_auto_maskandscale(False)
        for name, value in recipe.attrs.items():
            variable.setncattr(name, value)
        where = _written(recipe)
        if numbers[where].size:
            variable[where] = numbers[where].astype(dtype.newbyteorder("="))
        if recipe.longer:
            # netCDF-4 gives all variables the length of the longest, whatever they have stored.
            longer = file.createVariable("d0" if recipe.coordinate else "longer", "i1", dims[:1])
            longer[: recipe.shape[0] + recipe.longer] = np.zeros(recipe.shape[0] + recipe.longer, "i1")


def _netcdf_options(recipe: Recipe) -> dict[str, Any]:
    options = dict(NETCDF_FILTERS[recipe.filters])
    options["endian"] = {"<": "little", ">": "big"}.get(recipe.dtype[0], "native")
    if recipe.chunks is None:
        options["contiguous"] = bool(recipe.shape)
    else:
        options["chunksizes"] = recipe.chunks
    return options if recipe.shape else {"endian": options["endian"]}


def reference(path: Path, folder: Path) -> np.ma.MaskedArray:
    """Return the values of the variable as netCDF4-python gives them, with automatic masking and scaling.

    What netCDF's own HDF5 library has no filter for is copied into a plain file first, by h5py, attributes and all: the
    rules for missing values and packing do not look at filters.
    """
    if path.read_bytes()[:3] != b"CDF" and not _netcdf_can_read(path):
        path = _plain_copy(path, folder / "plain.h5")
    # It warns of attributes that it ignores, and of attributes that overflow when it looks whether they fit.
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        with netCDF4.Dataset(path) as file:
            values, shape = file[NAME][...], file[NAME].shape
            file.set_auto_mask(False)
            dtype = file[NAME][...].dtype.newbyteorder("=")
    # A scalar that is missing comes as the constant `numpy.ma.masked`, which has a type of its own.
    return np.ma.MaskedArray(np.ma.getdata(values).reshape(shape).astype(dtype), mask=np.ma.getmaskarray(values).reshape(shape))


def _netcdf_can_read(path: Path) -> bool:
    with h5py.File(path) as file:
        plist = file[NAME].id.get_create_plist()
        codes = {plist.get_filter(i)[0] for i in range(plist.get_nfilters())}
        return codes <= {1, 2, 3, 5, 6} and file.userblock_size == 0


def _plain_copy(path: Path, copy: Path) -> Path:
    with h5py.File(path) as file, h5py.File(copy, "w") as target:
        dataset = file[NAME]
        plist = dataset.id.get_create_plist()
        user = plist.fill_value_defined() == h5py.h5d.FILL_VALUE_USER_DEFINED
        plain = target.create_dataset(
            NAME, data=dataset[...], dtype=dataset.dtype, fillvalue=dataset.fillvalue if user else None
        )
        for name in dataset.attrs:
            if name not in {"DIMENSION_LIST", "_Netcdf4Dimid", "_Netcdf4Coordinates"}:
                plain.attrs[name] = dataset.attrs[name]
    return copy


SMALL = st.integers(-6, 6)


def _specials(dtype: np.dtype) -> list[float]:
    """Return the numbers of a type at which things go wrong: its ends, default fill values, what is no number."""
    default = netCDF4.default_fillvals[dtype.str[1:]]
    if dtype.kind == "f":
        # The squares of larger ones overflow in a variance, and then the order of a sum decides what is infinite.
        largest = 3.4e38 if dtype.itemsize == 4 else 1e100
        return [math.nan, math.inf, -math.inf, 0.1, -0.0, 1e20, largest, -largest, default]
    limits = np.iinfo(dtype)
    return [int(limits.min), int(limits.max), int(limits.max) // 2 + 1, default, 100, 200]


@st.composite
def _palettes(draw: st.DrawFn, dtype: np.dtype) -> tuple[float, ...]:
    number = st.one_of(SMALL, SMALL, st.sampled_from(_specials(dtype)))
    return tuple(draw(st.lists(number, min_size=1, max_size=8)))


@st.composite
def _missing_attributes(draw: st.DrawFn, recipe: Recipe) -> dict[str, Any]:
    """Draw missing values whose numbers are those of the data, in types that may not be."""
    types = CLASSIC_TYPES if recipe.container in {"CDF-1", "CDF-2"} else TYPES
    near = st.one_of(st.sampled_from(recipe.values), SMALL)
    own = st.sampled_from([recipe.dtype[1:]] * 2 * len(types) + list(types))
    number = st.builds(lambda value, name: _held(value, np.dtype(name)), near, own)
    found: dict[str, Any] = {}
    for name in draw(st.sets(st.sampled_from(["missing_value", "valid_min", "valid_max"]))):
        found[name] = draw(number)
    if draw(st.booleans()):
        values, name = draw(st.lists(near, min_size=2, max_size=3)), draw(own)
        key = draw(st.sampled_from(["missing_value", "valid_range"]))
        found[key] = np.array([_held(value, np.dtype(name)) for value in values[: 2 if key == "valid_range" else 3]])
    if recipe.container.startswith("HDF5") and draw(st.booleans()):
        found["_FillValue"] = draw(number)
    return found


@st.composite
def _packing_attributes(draw: st.DrawFn, dtype: np.dtype) -> dict[str, Any]:
    """Draw `scale_factor` and `add_offset`, in types of their own."""
    # Integers times integers of 64 bits wrap around, in netCDF4-python as well.
    factors = [np.float32, np.float64, np.float64] + [np.int16] * (dtype.itemsize < 8)
    numbers = [0.5, 0.1, -0.25, -1.0, 1.0, 2.0, 100.0, -3.0, 273.15]
    found = {}
    for name in draw(st.sampled_from([("scale_factor",), ("add_offset",), ("scale_factor", "add_offset")])):
        factor = draw(st.sampled_from(factors))
        found[name] = factor(draw(st.sampled_from([*numbers, 0.0] if name == "add_offset" else numbers)))
    if not found.get("scale_factor", 1):
        found["scale_factor"] = np.float64(0.01)
    return found


@st.composite
def _attributes(draw: st.DrawFn, recipe: Recipe) -> dict[str, Any]:
    kind, dtype = draw(st.sampled_from(["none", "none", "missing", "packed", "both"])), np.dtype(recipe.dtype)
    found: dict[str, Any] = {}
    if kind in {"missing", "both"}:
        found |= draw(_missing_attributes(recipe))
    if kind in {"packed", "both"}:
        found |= draw(_packing_attributes(dtype))
    # netCDF4-python swaps the bytes of missing values where big-endian integers are made unsigned.
    swaps = recipe.dtype[0] == ">" and recipe.container not in CLASSIC
    if dtype.kind == "i" and not swaps and draw(st.integers(0, 3)) == 0:
        found["_Unsigned"] = draw(st.sampled_from(["true", "True", "false"]))
    return found


@st.composite
def _shapes(draw: st.DrawFn, least: int) -> tuple[int, ...]:
    ndim = draw(st.sampled_from([0, 1, 1, 2, 2, 2, 3]))
    return tuple(draw(st.one_of(st.integers(max(1, least), 7), st.integers(least, 7))) for _ in range(ndim))


@st.composite
def _bounds(draw: st.DrawFn, shape: tuple[int, ...]) -> tuple[tuple[int, int], ...] | None:
    """Draw which part is written."""
    if draw(st.integers(0, 2)):
        return None
    ends = [sorted((draw(st.integers(0, n)), draw(st.integers(0, n)))) for n in shape]
    return tuple((first, last) for first, last in ends)


@st.composite
def _hdf5_recipes(draw: st.DrawFn, container: str) -> Recipe:
    dtype = np.dtype(draw(st.sampled_from("<>")) + draw(st.sampled_from(TYPES)))
    shape = draw(_shapes(0))
    chunked = bool(shape) and draw(st.integers(0, 4)) > 0
    unlimited = tuple(chunked and draw(st.booleans()) for _ in shape)
    chunked = chunked and all(n or grows for n, grows in zip(shape, unlimited, strict=True))
    chunks, filters = None, "none"
    if chunked:
        chunks = tuple(draw(st.integers(1, n + 2 if grows else n)) for n, grows in zip(shape, unlimited, strict=True))
        filters = draw(st.sampled_from(list(HDF5_FILTERS)))
        if (filters == "szip" and math.prod(chunks) < 8) or ("scaleoffset" in filters and dtype.kind == "f"):
            filters = "none"
    values = draw(_palettes(dtype))
    return Recipe(
        container=container,
        dtype=dtype.str,
        shape=shape,
        values=values,
        seed=draw(st.integers(0, 99)),
        chunks=chunks,
        compact=not chunked and draw(st.booleans()),
        early=chunked and draw(st.booleans()),
        unlimited=unlimited if chunked else (False,) * len(shape),
        room=draw(st.sampled_from([0, 0, 3])),
        filters=filters,
        skipped=tuple(draw(st.lists(st.integers(0, 5), max_size=3, unique=True))) if filters in SKIPPABLE else (),
        user_block=draw(st.sampled_from([0, 0, 0, 512, 2048])),
        fill=draw(st.one_of(st.none(), st.sampled_from(values))),
        written=draw(_bounds(shape)),
    )


@st.composite
def _netcdf4_recipes(draw: st.DrawFn) -> Recipe:
    dtype = np.dtype(draw(st.sampled_from("<>")) + draw(st.sampled_from(TYPES)))
    shape = draw(_shapes(1))
    unlimited = tuple(draw(st.integers(0, 2)) == 0 for _ in shape)
    chunked = any(unlimited) or (bool(shape) and draw(st.integers(0, 3)) > 0)
    filters = draw(st.sampled_from(list(NETCDF_FILTERS))) if chunked else "none"
    chunks = tuple(draw(st.integers(1, n + 2 if grows else n)) for n, grows in zip(shape, unlimited, strict=True))
    values = draw(_palettes(dtype))
    fill = draw(st.one_of(st.none(), st.just(False), st.sampled_from(values)))
    # netCDF's C library places what it reads behind a variable's end wrongly along any dimension but the first.
    sure = unlimited[:1] == (True,) and sum(unlimited) == 1 and fill is not False and filters in READABLE
    return Recipe(
        container="netCDF-4",
        dtype=dtype.str,
        shape=shape,
        values=values,
        seed=draw(st.integers(0, 99)),
        chunks=chunks if chunked else None,
        unlimited=unlimited,
        filters=filters,
        fill=fill,
        # Without filling, the cells that were not written are anything.
        written=draw(_bounds(shape)) if fill is not False else None,
        longer=draw(st.integers(0, 3)) if sure else 0,
        coordinate=draw(st.booleans()),
    )


@st.composite
def _classic_recipes(draw: st.DrawFn, container: str) -> Recipe:
    types = TYPES if container == "CDF-5" else CLASSIC_TYPES
    dtype = np.dtype(">" + draw(st.sampled_from(types)))
    shape = draw(_shapes(1))
    records = bool(shape) and draw(st.booleans())
    values = draw(_palettes(dtype))
    return Recipe(
        container=container,
        dtype=dtype.str,
        shape=shape,
        values=values,
        seed=draw(st.integers(0, 99)),
        unlimited=tuple(records and dim == 0 for dim in range(len(shape))),
        fill=draw(st.one_of(st.none(), st.just(False), st.sampled_from(values))),
        written=draw(_bounds(shape)),
        longer=draw(st.integers(0, 3)) if records else 0,
        neighbours=tuple(draw(st.lists(st.sampled_from(CLASSIC_TYPES), max_size=2))) if shape else (),
    )


@st.composite
def recipes(draw: st.DrawFn, containers: tuple[str, ...] = CONTAINERS) -> Recipe:
    """Draw a recipe; every part of it shrinks on its own."""
    container = draw(st.sampled_from(containers))
    if container.startswith("HDF5"):
        recipe = draw(_hdf5_recipes(container))
    elif container == "netCDF-4":
        recipe = draw(_netcdf4_recipes())
    else:
        recipe = draw(_classic_recipes(container))
    return replace(recipe, attrs=draw(_attributes(recipe)))
