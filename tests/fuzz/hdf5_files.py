"""HDF5 files as h5py writes them: every creation property, filters in any order, chunks written by hand."""

import ctypes
import math
import zlib
from pathlib import Path
from random import Random
from typing import Any

import h5py
import hdf5plugin
import numpy as np
from numcodecs.fletcher32 import Fletcher32

from tests.fuzz import attributes, values
from tests.fuzz.case import NAME, File
from tests.fuzz.netcdf_files import masked
from tests.fuzz.values import base_type

__all__ = ["as_it_is", "drawn", "plain_copy", "stored", "write"]

_OPTIONAL = 1
_NBIT, _LZF = 5, 32000
_PLUGINS = {
    "zstd": hdf5plugin.Zstd(),
    "lz4": hdf5plugin.LZ4(),
    "bzip2": hdf5plugin.BZip2(),
    "blosc": hdf5plugin.Blosc(cname="lz4"),
    "blosc2": hdf5plugin.Blosc2(),
    "bitshuffle": hdf5plugin.Bitshuffle(),
    "bitshuffle lz4": hdf5plugin.Bitshuffle(cname="lz4"),
}
_BY_HAND = ("shuffle", "deflate", "fletcher32")
"""Filters that `_encoded` has."""
_FILTERS = (*_BY_HAND * 3, "lzf", "szip", "scaleoffset", "nbit", *_PLUGINS)
_OF_BYTES = (*_BY_HAND, "lzf", "zstd", "lz4", "bzip2")
"""Filters that take any bytes; the others see numbers, and come first."""
_LAYOUTS = ("chunked",) * 6 + ("contiguous", "compact", "virtual", "external")
TYPES = (*attributes.TYPES, "f2", "?", "enum:i1", "enum:u2")


def drawn(random: Random, shape: tuple[int, ...], dtype: str | None = None) -> File:
    """Return a file of that shape with features of any kind."""
    if dtype is None:
        dtype = random.choice(TYPES)
        dtype = dtype if dtype[0] in "?e" else random.choice("<<<>") + dtype
    base, palette = base_type(dtype), random.choice(list(values.PALETTES))
    options: dict[str, Any] = {"layout": random.choice(_LAYOUTS) if shape else "contiguous"}
    options["libver"] = random.choice(["earliest", "latest", "v110"])
    if options["layout"] == "chunked" and math.prod(shape):
        _draw_chunks(random, shape, base, options)
    if random.random() < 0.4:
        options["fill"] = random.choice([0, 1, -1, 5, 100, math.nan])
    if random.random() < 0.2:
        options["fill_time"] = random.choice(["never", "alloc", "ifset"])
    if random.random() < 0.2 and options["layout"] != "virtual":
        options["alloc_time"] = random.choice(["early", "late", "incr"])
    if random.random() < 0.1:
        options["user_block"] = random.choice([512, 4096])
    if random.random() < 0.3 and math.prod(shape):
        options["written"] = values.bounds(random, shape)
    if random.random() < 0.3:
        options["fixed_text"] = True
    seed = random.randrange(1000)
    odd = base.kind == "b" or base.newbyteorder("=") == "f2"
    attrs = {} if odd else attributes.drawn(random, base, values.palette(palette, base, seed))
    if dtype.startswith("enum:"):
        # netCDF4-python unpacks no enumerations.
        attrs = {name: given for name, given in attrs.items() if name in attributes.MISSING}
    return File("h5py", dtype, shape, palette, seed, options, attrs)


def _draw_chunks(random: Random, shape: tuple[int, ...], base: np.dtype, options: dict[str, Any]) -> None:
    options["chunks"] = chunks = tuple(random.randint(1, n + 1) for n in shape)
    options["grows"] = tuple(n < chunk or random.random() < 0.3 for n, chunk in zip(shape, chunks, strict=True))
    if random.random() < 0.7:
        filters = random.sample(_FILTERS, random.choice([1, 1, 2, 2, 3, 4]))
        odd = {"scaleoffset": base.kind == "b", "szip": math.prod(chunks) < 8, "nbit": base.kind == "b"}
        filters = [one for one in filters if not odd.get(one)]
        options["filters"] = tuple(one for at, one in enumerate(filters) if one in _OF_BYTES or not at)
    if base.kind in "iu" and random.random() < 0.1 and base.itemsize > 1:
        options["precision"] = (random.randint(3, base.itemsize * 8 - 2), random.choice([0, 0, 1]))
    if any(options["grows"]) and random.random() < 0.3:
        options["before"] = tuple(
            random.randint(1, n + 4) if grows else n for n, grows in zip(shape, options["grows"], strict=True)
        )
    if random.random() < 0.25:
        options["partial_unfiltered"] = True
    filters = options.get("filters", ())
    if set(filters) <= set(_BY_HAND) and random.random() < 0.4:
        count = math.prod(-(-n // chunk) for n, chunk in zip(shape, chunks, strict=True))
        some = random.sample(range(count), min(count, random.randint(1, 3)))
        options["masks"] = {at: random.randrange(1 << len(filters)) for at in some}


def write(file: File, folder: Path) -> Path:
    """Write the file, and those that it names."""
    path, options, base = folder / "a.h5", file.options, base_type(file.dtype)
    numbers = values.numbers(file.values, base, file.shape, file.seed)
    chunked = "chunks" in options and options.get("layout") == "chunked"
    with h5py.File(path, "w", libver=options.get("libver"), userblock_size=options.get("user_block") or None) as target:
        if options.get("layout") == "virtual":
            dataset = _virtual(target, folder, file, numbers)
        else:
            shape = options.get("before", file.shape) if chunked else file.shape
            longest = tuple(
                h5py.h5s.UNLIMITED if grows else n
                for n, grows in zip(file.shape, options.get("grows", [False] * len(shape)), strict=True)
            )
            space = h5py.h5s.create_simple(shape, longest if chunked else shape) if shape else h5py.h5s.create(h5py.h5s.SCALAR)
            made = h5py.h5d.create(
                target.id, NAME.encode(), _type(file), space, dcpl=_properties(file, folder, chunked=chunked)
            )
            dataset = h5py.Dataset(made)
            where = tuple(slice(first, min(last, n)) for (first, last), n in zip(_written(file), shape, strict=True))
            if numbers[where].size:
                dataset[where] = numbers[where]
            if shape != file.shape:
                dataset.resize(file.shape)
            for position, mask in options.get("masks", {}).items() if chunked else ():
                _write_by_hand(dataset, numbers, position, mask, options.get("filters", ()))
        attributes.set_hdf5(dataset, file.attrs, fixed="fixed_text" in options)
    return path


def _written(file: File) -> tuple[tuple[int, int], ...]:
    return file.options.get("written") or tuple((0, n) for n in file.shape)


def _type(file: File) -> h5py.h5t.TypeID:
    base = base_type(file.dtype)
    if file.dtype.startswith("enum:"):
        return h5py.h5t.py_create(h5py.enum_dtype({"zero": 0, "one": 1, "most": int(np.iinfo(base).max)}, base), logical=True)
    made = h5py.h5t.py_create(base, logical=True)
    if "precision" in file.options:
        bits, offset = file.options["precision"]
        made = made.copy()
        made.set_precision(bits)
        made.set_offset(offset)
    return made


def _properties(file: File, folder: Path, *, chunked: bool) -> h5py.h5p.PropDCID:
    options, base = file.options, base_type(file.dtype)
    found = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    found.set_obj_track_times(False)  # the same bytes at every run
    if chunked:
        found.set_chunk(options["chunks"])
        for name in options.get("filters", ()):
            _add_filter(found, name, base)
        if "partial_unfiltered" in options:
            _leave_partial_chunks_unfiltered(found)
    elif options.get("layout") == "compact":
        found.set_layout(h5py.h5d.COMPACT)
    elif options.get("layout") == "external" and math.prod(file.shape):
        half = math.prod(file.shape) * base.itemsize // 2
        for name, start, size in (("one.bin", 3, half), ("two.bin", 0, h5py.h5f.UNLIMITED)):
            found.set_external(str(folder / name).encode(), start, size)
    if options.get("fill") is not None:
        found.set_fill_value(np.array(values.held(options["fill"], base)))
    if "fill_time" in options:
        found.set_fill_time(getattr(h5py.h5d, f"FILL_TIME_{options['fill_time'].upper()}"))
    if "alloc_time" in options and (chunked or options["alloc_time"] != "incr"):
        found.set_alloc_time(getattr(h5py.h5d, f"ALLOC_TIME_{options['alloc_time'].upper()}"))
    return found


def _add_filter(found: h5py.h5p.PropDCID, name: str, base: np.dtype) -> None:
    if name == "deflate":
        found.set_deflate(4)
    elif name in ("shuffle", "fletcher32"):
        getattr(found, f"set_{name}")()
    elif name == "szip":
        found.set_szip(h5py.h5z.SZIP_NN_OPTION_MASK, 8)
    elif name == "scaleoffset":
        found.set_scaleoffset(*((h5py.h5z.SO_FLOAT_DSCALE, 2) if base.kind == "f" else (h5py.h5z.SO_INT, 0)))
    elif name in ("lzf", "nbit"):
        found.set_filter(_LZF if name == "lzf" else _NBIT, _OPTIONAL)
    else:
        plugin = _PLUGINS[name]
        found.set_filter(plugin.filter_id, _OPTIONAL, plugin.filter_options)


def _leave_partial_chunks_unfiltered(found: h5py.h5p.PropDCID) -> None:
    """Set the chunk option that h5py has no function for."""
    with open("/proc/self/maps") as maps:
        library = ctypes.CDLL(next(line.split()[-1] for line in maps if "h5py.libs/libhdf5-" in line))
    library.H5Pset_chunk_opts.argtypes = [ctypes.c_int64, ctypes.c_uint]
    if library.H5Pset_chunk_opts(found.id, 2) < 0:
        raise ValueError("H5Pset_chunk_opts failed")


def _virtual(target: h5py.File, folder: Path, file: File, numbers: np.ndarray) -> h5py.Dataset:
    """Return a dataset that shows what another file has, but for what was not written."""
    dtype, where = h5py.Datatype(_type(file)).dtype, tuple(slice(*bounds) for bounds in _written(file))
    with h5py.File(folder / "source.h5", "w") as source:
        source.create_dataset("y", data=numbers, dtype=dtype)
        layout = h5py.VirtualLayout(file.shape, dtype)
        if numbers[where].size:
            layout[where] = h5py.VirtualSource("source.h5", "y", file.shape)[where]
    fill = file.options.get("fill")
    return target.create_virtual_dataset(NAME, layout, fillvalue=None if fill is None else values.held(fill, numbers.dtype))


def _write_by_hand(dataset: h5py.Dataset, numbers: np.ndarray, position: int, mask: int, filters: tuple[str, ...]) -> None:
    """Write one chunk with those filters skipped that the mask names."""
    grid = tuple(-(-n // chunk) for n, chunk in zip(dataset.shape, dataset.chunks, strict=True))
    start = tuple(int(at) * chunk for at, chunk in zip(np.unravel_index(position, grid), dataset.chunks, strict=True))
    part = numbers[tuple(slice(at, at + chunk) for at, chunk in zip(start, dataset.chunks, strict=True))]
    whole = np.zeros(dataset.chunks, numbers.dtype)
    whole[tuple(slice(0, n) for n in part.shape)] = part
    data = whole.astype(dataset.dtype).tobytes()
    for at, name in enumerate(filters):
        if not mask >> at & 1:
            data = _encoded(data, name, dataset.dtype.itemsize)
    try:
        if dataset.id.get_chunk_info_by_coord(start).size == len(data):
            # The HDF5 library forgets the new mask where a chunk keeps its size.
            return
    except (ValueError, RuntimeError):
        pass  # no such chunk yet
    dataset.id.write_direct_chunk(start, data, filter_mask=mask)


def _encoded(data: bytes, name: str, width: int) -> bytes:
    if name == "deflate":
        return zlib.compress(data, 4)
    if name == "fletcher32":
        return bytes(Fletcher32().encode(data))
    whole = len(data) // width * width
    return np.frombuffer(data[:whole], "u1").reshape(-1, width).T.tobytes() + data[whole:]


def stored(path: Path, name: str = NAME) -> np.ndarray:
    """Return the stored numbers, in native byte order, as h5py reads them."""
    with h5py.File(path) as file:
        numbers = file[name][...]
    return np.asarray(numbers).astype(numbers.dtype.newbyteorder("="))


def _created(target: h5py.File, numbers: np.ndarray, properties: h5py.h5p.PropDCID) -> h5py.Dataset:
    """Write numbers with these properties, which h5py forgets for those without dimensions."""
    space, kind = h5py.h5s.create_simple(numbers.shape) if numbers.shape else h5py.h5s.create(h5py.h5s.SCALAR), numbers.dtype
    dataset = h5py.Dataset(h5py.h5d.create(target.id, NAME.encode(), h5py.h5t.py_create(kind, logical=True), space, properties))
    if numbers.size:
        dataset[...] = numbers
    return dataset


def plain_copy(file: File, numbers: np.ndarray, copy: Path) -> None:
    """Write the numbers and attributes alone, as netCDF's own library reads them wherever it was built."""
    kind = file.options.get("fill_time")
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    if file.options.get("fill") is not None:
        properties.set_fill_value(np.array(values.held(file.options["fill"], numbers.dtype)))
    if kind is not None:
        properties.set_fill_time(getattr(h5py.h5d, f"FILL_TIME_{kind.upper()}"))
    with h5py.File(copy, "w") as target:
        dataset = _created(target, numbers, properties)
        attributes.set_hdf5(dataset, file.attrs, fixed="fixed_text" in file.options)


def as_it_is(path: Path, name: str, copy: Path) -> np.ma.MaskedArray:
    """Return what netCDF4-python makes of what h5py reads of a file, attributes and fill value too."""
    with h5py.File(path) as file, h5py.File(copy, "w") as target:
        given = file[name]
        numbers = given[...]
        properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        theirs = given.id.get_create_plist()
        if theirs.fill_value_defined() == h5py.h5d.FILL_VALUE_USER_DEFINED:
            properties.set_fill_value(np.array(given.fillvalue))
        properties.set_fill_time(theirs.get_fill_time())
        dataset = _created(target, numbers.astype(numbers.dtype.newbyteorder("=")), properties)
        for attribute in set(given.attrs) - {"DIMENSION_LIST", "_Netcdf4Dimid", "_Netcdf4Coordinates"}:
            dataset.attrs[attribute] = given.attrs[attribute]
    return masked(copy)
