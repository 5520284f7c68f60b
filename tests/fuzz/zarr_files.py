"""Zarr stores as zarr-python writes them, of both formats, and references as Kerchunk makes them."""

import json
import math
import warnings
from pathlib import Path
from random import Random
from typing import Any

import netCDF4
import numcodecs
import numpy as np
import xarray as xr
import zarr
from xarray.backends.zarr import FillValueCoder
from zarr.codecs import BloscCodec, BytesCodec, Crc32cCodec, GzipCodec, TransposeCodec, ZstdCodec

from tests.fuzz import attributes, values
from tests.fuzz.case import NAME, File
from tests.fuzz.netcdf_files import masked
from tests.references import references_of

__all__ = [
    "as_it_is",
    "drawn_v2",
    "drawn_v3",
    "masked_by_json",
    "references_as_they_are",
    "stored",
    "write_references",
    "write_v2",
    "write_v3",
]

TYPES = (*attributes.TYPES, "?")
_COMPRESSORS = {
    "zlib": numcodecs.Zlib(1),
    "gzip": numcodecs.GZip(1),
    "bz2": numcodecs.BZ2(1),
    "zstd": numcodecs.Zstd(1),
    "lz4": numcodecs.LZ4(),
    "lzma": numcodecs.LZMA(),
    "blosc": numcodecs.Blosc("lz4", shuffle=numcodecs.Blosc.SHUFFLE),
    "blosc zstd": numcodecs.Blosc("zstd", shuffle=numcodecs.Blosc.BITSHUFFLE),
}
_CODECS = {"gzip": GzipCodec, "zstd": ZstdCodec, "blosc": BloscCodec, "crc32c": Crc32cCodec}
_FILTERS = ("shuffle", "delta", "crc32", "adler32", "fletcher32", "quantize", "bitround", "fixedscaleoffset")


def _drawn(writer: str, random: Random, shape: tuple[int, ...], dtype: str | None) -> File:
    if dtype is None or dtype[1:] not in TYPES:
        dtype = random.choice("<<>") + random.choice(TYPES)
    base, palette, seed = np.dtype(dtype), random.choice(list(values.PALETTES)), random.randrange(1000)
    options: dict[str, Any] = {"chunks": tuple(random.randint(1, n + 2) for n in shape)}
    if random.random() < 0.5:
        options["fill"] = random.choice([*values.palette(palette, base, seed)[:3], values.held(0, base)]).item()
    if random.random() < 0.3:
        options["separator"] = random.choice("./")
    if random.random() < 0.3 and math.prod(shape):
        options["written"] = values.bounds(random, shape)
    if random.random() < 0.3:
        options["empty_chunks"] = True
    if random.random() < 0.3:
        options["consolidated"] = True
    attrs = {} if base.kind == "b" else attributes.drawn(random, base, values.palette(palette, base, seed))
    if np.ndim(attributes.as_json(attrs.get("_FillValue", ""))):
        del attrs["_FillValue"]  # netCDF has fill values of one number only
    return File(writer, base.str, shape, palette, seed, options, attrs)


def drawn_v2(random: Random, shape: tuple[int, ...], dtype: str | None = None) -> File:
    """Return a store of format 2 with features of any kind."""
    file = _drawn("zarr 2", random, shape, dtype)
    base = np.dtype(file.dtype)
    if random.random() < 0.7:
        file.options["compressor"] = random.choice(list(_COMPRESSORS))
    if random.random() < 0.3:
        file.options["order"] = "F"
    if random.random() < 0.3 and base.kind != "b":
        lossy = {"quantize": base.kind == "f", "bitround": base.kind == "f", "fixedscaleoffset": base.kind == "f"}
        file.options["filter"] = random.choice([one for one in _FILTERS if lossy.get(one, True)])
    if "fill" in file.options:
        file.attrs.pop("_FillValue", None)  # the fill value is one, whatever the attribute says
    return file


def drawn_v3(random: Random, shape: tuple[int, ...], dtype: str | None = None) -> File:
    """Return a store of format 3 with features of any kind."""
    file = _drawn("zarr 3", random, shape, dtype)
    if shape and random.random() < 0.4:
        file.options["shards"] = tuple(chunk * random.randint(1, 3) for chunk in file.options["chunks"])
    if random.random() < 0.7:
        codecs = random.sample(["gzip", "zstd", "blosc"], 1) + ["crc32c"] * random.randint(0, 1)
        file.options["codecs"] = tuple(random.sample(codecs, len(codecs)))
    if len(shape) > 1 and random.random() < 0.3:
        file.options["transpose"] = tuple(random.sample(range(len(shape)), len(shape)))
    if random.random() < 0.5:
        file.options["names"] = tuple(f"d{i}" for i in range(len(shape)))
    return file


def _filter(name: str, base: np.dtype) -> Any:
    made = {
        "shuffle": lambda: numcodecs.Shuffle(base.itemsize),
        "delta": lambda: numcodecs.Delta(base),
        "crc32": numcodecs.CRC32,
        "adler32": numcodecs.Adler32,
        "fletcher32": numcodecs.Fletcher32,
        "quantize": lambda: numcodecs.Quantize(1, base),
        "bitround": lambda: numcodecs.BitRound(8),
        "fixedscaleoffset": lambda: numcodecs.FixedScaleOffset(2, 4, base, "i4"),
    }
    return made[name]()


def write_v2(file: File, folder: Path) -> Path:
    """Write the store."""
    base, options = np.dtype(file.dtype), file.options
    keywords = {
        "filters": [_filter(options["filter"], base)] if "filter" in options else None,
        "compressors": _COMPRESSORS[options["compressor"]] if "compressor" in options else None,
        "order": options.get("order", "C"),
        "chunk_key_encoding": {"name": "v2", "separator": options.get("separator", ".")},
    }
    attrs = {"_ARRAY_DIMENSIONS": [f"d{i}" for i in range(len(file.shape))]}
    return _write(file, folder, 2, keywords, attrs | {name: attributes.as_json(given) for name, given in file.attrs.items()})


def write_v3(file: File, folder: Path) -> Path:
    """Write the store."""
    base, options = np.dtype(file.dtype), file.options
    keywords = {
        "shards": options.get("shards"),
        "filters": [TransposeCodec(order=options["transpose"])] if "transpose" in options else None,
        "serializer": BytesCodec(endian="big" if file.dtype[0] == ">" else "little")
        if base.itemsize > 1
        else BytesCodec(endian=None),
        "compressors": [_CODECS[name]() for name in options.get("codecs", ())] or None,
        "chunk_key_encoding": {"name": "default", "separator": options.get("separator", "/")},
        "dimension_names": options.get("names"),
    }
    attrs = {name: attributes.as_json(given) for name, given in file.attrs.items()}
    if isinstance(attrs.get("_FillValue"), (int, float)):
        attrs["_FillValue"] = FillValueCoder.encode(values.held(attrs["_FillValue"], base), base.newbyteorder("="))
    return _write(file, folder, 3, keywords, attrs)


def _write(file: File, folder: Path, version: int, keywords: dict[str, Any], attrs: dict[str, Any]) -> Path:
    path, base, options = folder / "a.zarr", np.dtype(file.dtype), file.options
    numbers = values.numbers(file.values, base, file.shape, file.seed)
    fill = values.held(options["fill"], base.newbyteorder("=")) if "fill" in options else None
    chunks = options.get("chunks", tuple(max(1, n) for n in file.shape))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        group = zarr.open_group(path, mode="w", zarr_format=version)
        config = {"write_empty_chunks": options.get("empty_chunks", False)}
        more = {"fill_value": fill} if fill is not None or version == 2 else {}
        kind = base if version == 2 else base.newbyteorder("=")
        array = group.create_array(
            NAME, shape=file.shape, dtype=kind, chunks=chunks, config=config, attributes=attrs, **more, **keywords
        )
        where = tuple(slice(*bounds) for bounds in options.get("written") or [(0, n) for n in file.shape])
        if numbers[where].size:
            array[where] = numbers[where]
        if "consolidated" in options:
            zarr.consolidate_metadata(path)
    return path


def stored(path: Path) -> np.ndarray:
    """Return the stored numbers, in native byte order, as zarr-python reads them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        numbers = np.asarray(zarr.open_array(path / NAME, mode="r")[...])
    return numbers.astype(numbers.dtype.newbyteorder("="))


def as_it_is(path: Path, copy: Path) -> np.ma.MaskedArray:
    """Return what netCDF4-python makes of what zarr-python reads of a store, attributes and fill value too."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        array = zarr.open_array(path / NAME, mode="r")
        attrs = dict(array.attrs)
        fill = array.fill_value.item() if array.metadata.zarr_format == 2 and array.fill_value is not None else None
        if fill is None and isinstance(attrs.get("_FillValue"), str):
            attrs["_FillValue"] = FillValueCoder.decode(attrs["_FillValue"], array.dtype)
    return masked_by_json(attrs, stored(path), copy, fill=fill)


def references_as_they_are(path: Path, copy: Path) -> np.ma.MaskedArray:
    """Return what netCDF4-python makes of what zarr-python reads by references."""
    with xr.open_dataset(str(path), engine="kerchunk", mask_and_scale=False) as dataset:
        array = dataset[NAME].load()
    native = array.values.astype(array.dtype.newbyteorder("="))
    return masked_by_json(array.attrs, native, copy, fill=array.attrs.get("_FillValue"))


def masked_by_json(attrs: dict[str, Any], numbers: np.ndarray, copy: Path, *, fill: Any = None) -> np.ma.MaskedArray:
    """Return what netCDF4-python makes of numbers with attributes out of JSON: there are no default fill values.

    JSON has one type of number: missing values have that of the data where these are floats, factors are doubles.
    """
    attrs = dict(attrs)
    base = numbers.dtype if numbers.dtype.kind != "b" else np.dtype("i1")
    with netCDF4.Dataset(copy, "w") as target:
        for i, n in enumerate(numbers.shape):
            target.createDimension(f"d{i}", n or None)
        own = attrs.pop("_FillValue", None)
        own = fill if fill is not None else own
        own = own.item() if isinstance(own, np.generic) else own
        whole = isinstance(own, (int, float)) and (base.kind == "f" or (own == own and values.held(own, base) == own))
        # With a fill value that nothing has, there is no default one.
        held = values.held(own, base) if whole else _unused(numbers.astype(base))
        variable = target.createVariable(NAME, base, tuple(f"d{i}" for i in range(numbers.ndim)), fill_value=held)
        variable.set_auto_maskandscale(False)
        for name in (*attributes.MISSING, "scale_factor", "add_offset", "_Unsigned"):
            if name in attrs:
                variable.setncattr(name, _typed(name, attrs[name], base))
        if numbers.size:
            variable[...] = numbers.astype(base)
    return masked(copy).astype(bool) if numbers.dtype.kind == "b" else masked(copy)


def _unused(numbers: np.ndarray) -> np.generic:
    """Return a number of the type that is not among them."""
    return next(numbers.dtype.type(number) for number in range(100, -128, -1) if not np.any(numbers == number))


def _typed(name: str, given: Any, base: np.dtype) -> Any:
    if isinstance(given, str):
        return given
    if name in ("scale_factor", "add_offset"):
        return np.asarray(given, "f8")
    with np.errstate(all="ignore"):
        return np.asarray(given, base) if base.kind == "f" and name in attributes.MISSING else np.asarray(given)


def write_references(original: Path, folder: Path) -> Path:
    """Write the references of a file, as Kerchunk makes them."""
    path = folder / "refs.json"
    path.write_text(json.dumps(references_of(original)))
    return path
