"""Zarr stores: whatever zarr and xarray write is reduced as they read it; damage is an error, never a number."""

import json
import os
import pickle
import shutil
import tempfile
import time
import warnings
from dataclasses import dataclass
from pathlib import Path

import fsspec
import numcodecs
import numpy as np
import pytest
import xarray as xr
import zarr
from hypothesis import given
from hypothesis import strategies as st
from zarr.codecs import numcodecs as numcodecs_v3

from activestore import Active
from activestore.core.codecs.checksums import crc32c
from activestore.core.formats.read import variable_names
from activestore.core.formats.zarr.store import OtherArray, group_of
from activestore.errors import (
    BackendUnavailableError,
    CorruptChunkError,
    NotNumericError,
    SourceError,
    SourceNotFoundError,
    UnsupportedError,
    VariableNotFoundError,
)
from activestore.sources.objects.zarr import ZarrSource
from activestore.sources.open import open_source
from tests.corpus import corpus_files, file_id
from tests.web_stand_in import WebStandIn

pytestmark = pytest.mark.filterwarnings("ignore")  # zarr and xarray warn of what format 3 has no specification of

DTYPES = ["|b1", "|i1", "|u1", "<i2", ">i2", "<u2", "<i4", ">i4", "<u4", "<i8", ">u8", "<f2", "<f4", ">f4", "<f8", ">f8"]


@dataclass(frozen=True)
class Recipe:
    """A store with one array."""

    zarr_format: int
    dtype: str
    shape: tuple[int, ...]
    chunks: tuple[int, ...]
    shards: tuple[int, ...] | None
    compressor: str
    filters: tuple[str, ...]
    separator: str
    order: str
    fill: object
    written: tuple[slice, ...]
    group: str
    consolidated: bool
    seed: int


def compressors(zarr_format: int) -> dict[str, object]:
    if zarr_format == 2:
        return {
            "none": None,
            "zlib": numcodecs.Zlib(3),
            "gzip": numcodecs.GZip(3),
            "bz2": numcodecs.BZ2(3),
            "zstd": numcodecs.Zstd(3),
            "zstd checked": numcodecs.Zstd(1, checksum=True),
            "lz4": numcodecs.LZ4(),
            "lzma": numcodecs.LZMA(),
            "blosc": numcodecs.Blosc("lz4", 5, numcodecs.Blosc.SHUFFLE),
            "blosc bits": numcodecs.Blosc("zstd", 5, numcodecs.Blosc.BITSHUFFLE),
        }
    return {
        "none": None,
        "zlib": numcodecs_v3.Zlib(level=3),
        "gzip": zarr.codecs.GzipCodec(level=3),
        "bz2": numcodecs_v3.BZ2(level=3),
        "zstd": zarr.codecs.ZstdCodec(level=3),
        "zstd checked": zarr.codecs.ZstdCodec(level=1, checksum=True),
        "lz4": numcodecs_v3.LZ4(),
        "lzma": numcodecs_v3.LZMA(),
        "blosc": zarr.codecs.BloscCodec(cname="lz4", shuffle="shuffle"),
        "blosc bits": zarr.codecs.BloscCodec(cname="zstd", shuffle="bitshuffle"),
    }


def filter_of(name: str, dtype: np.dtype, zarr_format: int) -> object:
    code, width = dtype.str, dtype.itemsize
    older = {
        "shuffle": lambda: numcodecs.Shuffle(width),
        "delta": lambda: numcodecs.Delta(code),
        "fixedscaleoffset": lambda: numcodecs.FixedScaleOffset(offset=5.0, scale=10.0, dtype=code, astype="<i4"),
        "quantize": lambda: numcodecs.Quantize(2, code, "<f4"),
        "bitround": lambda: numcodecs.BitRound(5),
        "crc32": numcodecs.CRC32,
        "crc32 end": lambda: numcodecs.CRC32(location="end"),
        "adler32": numcodecs.Adler32,
        "fletcher32": numcodecs.Fletcher32,
    }
    newer = {
        "shuffle": lambda: numcodecs_v3.Shuffle(elementsize=width),
        "delta": lambda: numcodecs_v3.Delta(dtype=code),
        "fixedscaleoffset": lambda: numcodecs_v3.FixedScaleOffset(offset=5.0, scale=10.0, dtype=code, astype="<i4"),
        "quantize": lambda: numcodecs_v3.Quantize(digits=2, dtype=code),
        "bitround": lambda: numcodecs_v3.BitRound(keepbits=5),
        "crc32": numcodecs_v3.CRC32,
        "adler32": numcodecs_v3.Adler32,
        "fletcher32": numcodecs_v3.Fletcher32,
        "crc32c": zarr.codecs.Crc32cCodec,
    }
    return (older if zarr_format == 2 else newer)[name]()


def possible_filters(dtype: np.dtype, zarr_format: int) -> list[str]:
    checksums = ["crc32", "adler32", "fletcher32", *(["crc32 end"] if zarr_format == 2 else ["crc32c"])]
    found = ["shuffle", *checksums]
    if zarr_format == 3 and dtype.str[0] == ">":
        return found  # zarr itself misreads filters of such numbers
    if dtype.kind in "iu":
        found.append("delta")
    if dtype.kind == "f" and dtype.itemsize > 2:
        found += ["fixedscaleoffset", *(["bitround"] if dtype.str[0] == "<" else [])]
    if dtype.str == "<f8" and zarr_format == 2:
        found.append("quantize")
    return found


@st.composite
def recipes(draw: st.DrawFn) -> Recipe:
    zarr_format = draw(st.sampled_from([2, 3]))
    dtype = np.dtype(draw(st.sampled_from(DTYPES)))
    shape = tuple(draw(st.lists(st.integers(0, 9), max_size=3)))
    chunks = tuple(draw(st.integers(1, max(1, length + 1))) for length in shape)
    shards = None
    if zarr_format == 3 and shape and draw(st.booleans()):  # zarr cannot write shards without dimensions
        shards = tuple(chunk * draw(st.integers(1, 3)) for chunk in chunks)
    written = tuple(slice(*sorted(draw(st.tuples(st.integers(0, length), st.integers(0, length))))) for length in shape)
    possible = possible_filters(dtype, zarr_format)
    filters = draw(st.lists(st.sampled_from(possible), max_size=2, unique=True)) if dtype.kind != "b" else []
    fills = [0, 1, None, *(["nan", "inf", "-inf", 2.5] if dtype.kind == "f" else [7])]
    return Recipe(
        zarr_format=zarr_format,
        dtype=dtype.str,
        shape=shape,
        chunks=chunks,
        shards=shards,
        compressor=draw(st.sampled_from(sorted(compressors(2)))),
        # zarr's shuffle wants whole numbers, which it has before a checksum is added.
        filters=tuple(sorted(filters, key=lambda name: name not in ("shuffle", "bitround"))),
        separator=draw(st.sampled_from([".", "/"])),
        order=draw(st.sampled_from(["C", "F"])),
        fill=draw(st.sampled_from(fills)),
        written=written,
        group=draw(st.sampled_from(["", "deep/er"])),
        consolidated=draw(st.booleans()),
        seed=draw(st.integers(0, 5)),
    )


BYTES_FILTERS = ("shuffle", "crc32", "crc32 end", "adler32", "fletcher32", "crc32c")


def write(recipe: Recipe, path: str) -> zarr.Array:
    """Write the store with the zarr package, and return its array "x"."""
    dtype, zarr_format = np.dtype(recipe.dtype), recipe.zarr_format
    root = zarr.open_group(path, mode="w", zarr_format=zarr_format)
    where = root.require_group(recipe.group) if recipe.group else root
    steps = [(name, filter_of(name, dtype, zarr_format)) for name in recipe.filters]
    compressor = compressors(zarr_format)[recipe.compressor]
    fill = None if recipe.fill is None else np.array(float(recipe.fill), dtype)[()]
    given = {"name": "x", "shape": recipe.shape, "dtype": dtype, "fill_value": fill, "overwrite": True}
    encoding = {"name": "v2" if zarr_format == 2 else "default", "separator": recipe.separator}
    if zarr_format == 2:
        filters = [step for name, step in steps if name not in BYTES_FILTERS] + [
            step for name, step in steps if name in BYTES_FILTERS
        ]
        array = where.create_array(
            **given,
            chunks=recipe.chunks,
            filters=filters,
            compressors=compressor,
            order=recipe.order,
            chunk_key_encoding=encoding,
        )
    else:
        axes = tuple(range(len(recipe.shape)))
        # zarr's delta makes one dimension of all, which zarr then cannot turn.
        turns = recipe.order == "F" and axes and "delta" not in recipe.filters
        turned = [zarr.codecs.TransposeCodec(order=axes[::-1])] if turns else []
        serializer = zarr.codecs.BytesCodec(
            endian=("big" if recipe.dtype[0] == ">" else "little") if dtype.itemsize > 1 else None
        )
        array = where.create_array(
            **given,
            chunks=recipe.chunks,
            shards=recipe.shards,
            filters=[step for name, step in steps if name not in BYTES_FILTERS] + turned,
            serializer=serializer,
            compressors=[step for name, step in steps if name in BYTES_FILTERS] + ([] if compressor is None else [compressor]),
            chunk_key_encoding=encoding,
        )
    random = np.random.default_rng(recipe.seed)
    numbers = np.asarray(random.integers(0, 100, recipe.shape)).astype(dtype)
    array[recipe.written] = numbers[recipe.written]
    if recipe.consolidated:
        zarr.consolidate_metadata(path)
    return array


def expected(array: zarr.Array, recipe: Recipe) -> np.ma.MaskedArray:
    """What zarr reads, masked as xarray masks it."""
    values = np.asarray(array[...])
    missing = np.isnan(values) if values.dtype.kind == "f" else np.zeros(values.shape, bool)
    if recipe.zarr_format == 2 and recipe.fill is not None:
        missing |= values == np.array(float(recipe.fill), array.dtype).astype(values.dtype)
    return np.ma.MaskedArray(values, missing)


def same(found: np.ma.MaskedArray, wanted: np.ma.MaskedArray, context: object) -> None:
    assert found.shape == wanted.shape, context
    assert found.dtype == wanted.dtype.newbyteorder("="), context
    gone = np.isnan(found.filled(0)) if found.dtype.kind == "f" else np.zeros(found.shape, bool)
    np.testing.assert_array_equal(np.ma.getmaskarray(found) | gone, np.ma.getmaskarray(wanted), err_msg=str(context))
    there = ~np.ma.getmaskarray(wanted)
    np.testing.assert_array_equal(np.ma.getdata(found)[there], np.ma.getdata(wanted)[there], err_msg=str(context))


def check(active: Active, wanted: np.ma.MaskedArray, data: st.DataObject, context: object) -> None:
    """Compare numbers and reductions of the whole, and of a part."""
    same(active.read(), wanted, context)
    part = tuple(slice(*sorted(data.draw(st.tuples(st.integers(0, n), st.integers(0, n))))) for n in wanted.shape)
    for selected in ((), part):
        some, true = active[selected], wanted[selected] if selected else wanted
        assert some.count() == np.ma.count(true), context
        if np.ma.count(true) and np.isfinite(valid := np.ma.compressed(true)).all():
            assert some.min() == valid.min(), context
            assert some.max() == valid.max(), context
            total = valid.astype("f8" if valid.dtype.kind == "f" else "i8").sum()
            assert some.sum() == pytest.approx(total, rel=1e-12), context


@given(recipe=recipes(), data=st.data())
def test_whatever_zarr_writes_is_read_as_zarr_reads_it(recipe: Recipe, data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/a.zarr"
        wanted = expected(write(recipe, path), recipe)
        name = f"{recipe.group}/x" if recipe.group else "x"
        active = Active(path, name)
        assert active.variable.shape == recipe.shape
        assert active.variable.chunk_shape == recipe.chunks or active.variable.layout == "contiguous"
        check(active, wanted, data, recipe)
        assert variable_names(open_source(path)) == [name]
        memory = fsspec.filesystem("memory")
        memory.put(path, "/a.zarr", recursive=True)
        try:
            check(Active("memory://a.zarr", name), wanted, data, recipe)
        finally:
            memory.store.clear()
            memory.pseudo_dirs[:] = [""]


# What lies where


def numbers(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(280, 10, shape).astype("f4")


@pytest.fixture(params=[2, 3])
def store(request, tmp_path) -> Path:
    """A store with `x(6, 8)` in four chunks, one of them not written, and a text variable beside it."""
    path = tmp_path / "a.zarr"
    root = zarr.open_group(path, mode="w", zarr_format=request.param, attributes={"title": "a store"})
    x = root.create_array("x", shape=(6, 8), chunks=(3, 4), dtype="f4", fill_value=-1, attributes={"units": "K"})
    x[:, :4] = np.arange(24).reshape(6, 4)
    x[:3] = np.arange(24).reshape(3, 8)
    root.create_array("names", data=np.array(["a", "bc"]))
    root.create_group("inner").create_array("y", data=np.arange(5), chunks=(2,))
    return path


@pytest.fixture
def memory():
    """fsspec's file system in memory, empty."""
    files = fsspec.filesystem("memory")
    files.store.clear()
    files.pseudo_dirs[:] = [""]
    yield files
    files.store.clear()
    files.pseudo_dirs[:] = [""]


def chunk_path(store: Path, *cell: int) -> Path:
    name = ".".join(map(str, cell)) if (store / ".zgroup").exists() else Path("c", *map(str, cell))
    return store / "x" / name


def test_groups_and_names(store):
    source = open_source(store)
    assert isinstance(source, ZarrSource)
    assert variable_names(source) == ["inner/y", "names", "x"]
    root, inner = group_of(source), group_of(source, "inner")
    assert root.attrs == {"title": "a store"}
    assert (set(root.variables), root.groups, set(inner.variables)) == ({"x", "names"}, ("inner",), {"y"})
    names = root.variables["names"]
    assert isinstance(names, OtherArray)
    assert (names.shape, names.dims, names.dtype) == ((2,), ("dim_0",), None)
    assert root.variables["x"].attrs["units"] == "K"
    with pytest.raises(NotNumericError, match="'names' holds values of the type"):
        Active(store, "names")
    with pytest.raises(VariableNotFoundError, match=r"no variable 'y'; did you mean 'inner/y'"):
        Active(store, "y")
    with pytest.raises(VariableNotFoundError):
        group_of(source, "elsewhere")
    for name in ("../a.zarr/x", "inner/../x", "x/.", "a\\b", "inner//y"):
        with pytest.raises(VariableNotFoundError):
            Active(store, name)
    assert Active(store / "x", "").count() == Active(store, "x").count()
    assert variable_names(open_source(store / "x")) == [""]


def test_consolidated_metadata_are_read_once(store):
    before = {name: Active(store, name).sum() for name in ("x", "inner/y")}
    zarr.consolidate_metadata(store)
    for path in (store / "inner" / "y").iterdir():
        if path.name.startswith((".z", "zarr")):
            path.unlink()
    assert {name: Active(store, name).sum() for name in before} == before
    assert variable_names(open_source(store)) == ["inner/y", "names", "x"]
    assert set(group_of(open_source(store), "inner").variables) == {"y"}
    assert group_of(open_source(store)).groups == ("inner",)


def test_a_selection_touches_its_chunks_only(store):
    active = Active(store, "x")[:3]
    result = active.run("sum")
    assert (result.value, result.report.where) == (np.arange(24).sum(), {"posix": 2})
    assert "2 of 4 touched" in str(active.explain())
    chunk_path(store, 1, 0).write_bytes(b"damaged")
    assert Active(store, "x")[:3].sum() == np.arange(24).sum()
    last = Active(store, "x")[3:, 4:].run("count", skipna=False)
    assert last.report.where == {"fill value": 1}
    # Format 2's fill value is a missing one, as xarray has it.
    assert last.value == (0 if (store / ".zgroup").exists() else 12)


def test_damaged_chunks(store):
    whole = Active(store, "x").variable  # located: with sizes
    chunk = chunk_path(store, 0, 0)
    data = chunk.read_bytes()
    chunk.write_bytes(data[:-3])
    with pytest.raises(CorruptChunkError, match=r"variable 'x', chunk \(0, 0\)"):
        Active(store, "x").sum()
    located = Active(store, "x")
    source = located._source
    source.place_chunks(whole.table.unread.keys if whole.table.unread else located._variable.table.unread.keys, None)
    for size in (len(data), len(data) + 5):
        chunk.write_bytes(data + bytes(size - len(data)))
        with pytest.raises(SourceError, match="changed since it was located"):
            located.sum()
    chunk.write_bytes(data)
    for broken in (b"", b"\0" * len(data), data[::-1]):
        chunk.write_bytes(broken)
        with pytest.raises(CorruptChunkError):
            Active(store, "x").sum()
    chunk.unlink()
    chunk.mkdir()
    (chunk / "inside").write_bytes(data)
    assert Active(store, "x")[0, 0].count() == (0 if (store / ".zgroup").exists() else 1)


def test_a_chunk_that_goes_while_it_is_needed(store):
    active = Active(store, "x")
    active._source.place_chunks(active._variable.table.unread.keys, None)
    chunk_path(store, 0, 0).unlink()
    with pytest.raises(SourceNotFoundError, match="no such file"):
        active.sum()


def test_links(store, tmp_path):
    chunk, elsewhere = chunk_path(store, 0, 0), tmp_path / "elsewhere"
    total = Active(store, "x").sum()
    chunk.rename(elsewhere)
    chunk.symlink_to(elsewhere)
    assert Active(store, "x").sum() == total
    elsewhere.unlink()
    for selected in (np.s_[...], np.s_[0, 0]):
        with pytest.raises(SourceError, match="is a link that leads nowhere"):
            Active(store, "x")[selected].sum()
    chunk.unlink()
    os.mkfifo(chunk)
    with pytest.raises(SourceError, match="is not a regular file"):
        Active(store, "x").sum()
    (tmp_path / "link.zarr").symlink_to(store)
    chunk.unlink()
    assert Active(tmp_path / "link.zarr", "inner/y").sum() == 10


def test_a_change_of_the_metadata_is_noticed(store):
    active = Active(store, "x")
    assert active.count() == active.count()
    time.sleep(0.01)
    zarr.open_array(store / "x", mode="r+").resize((9, 8))
    with pytest.raises(SourceError, match="has changed since it was opened"):
        active.sum()
    assert Active(store, "x").shape == (9, 8)


def test_pickles_and_processes(store, process_pool):
    active = Active(store, "x")
    total = active.sum()
    assert pickle.loads(pickle.dumps(active))[:3].sum() == np.arange(24).sum()
    assert active.with_options(executor=process_pool).sum() == total
    assert pickle.loads(pickle.dumps(active._source)).read_object("nothing") is None


def test_secrets_stay_at_home(store, memory):
    memory.put(str(store), "/a.zarr", recursive=True)
    active = Active("memory://a.zarr", "x", storage_options={"token": "hunter2-token"})
    assert b"hunter2" not in pickle.dumps(active)
    assert "hunter2" not in repr(active._source)
    assert pickle.loads(pickle.dumps(active)).sum() == Active(store, "x").sum()


def test_what_is_not_a_store(tmp_path):
    with pytest.raises(SourceError, match="is not a regular file, and as a folder no Zarr store"):
        open_source(tmp_path)
    with pytest.raises(SourceNotFoundError, match="no such file"):
        open_source(tmp_path / "no.zarr")
    with pytest.raises(SourceNotFoundError):
        open_source("memory://no.zarr")


def test_a_server_elsewhere_cannot_take_the_chunks(store):
    source = open_source(store)
    assert "object of its own" in source.origin.obstacle
    with pytest.raises(UnsupportedError, match="the HDF5 library cannot read"):
        source.for_hdf5()
    with pytest.raises(BackendUnavailableError):
        Active(store, "x", backend="reductionist", server="http://127.0.0.1:1").sum()
    with pytest.raises(SourceError, match="nothing has the offset"):
        source.read_ranges([(12345, 1)])


def test_stores_behind_a_web_server(store):
    zarr.consolidate_metadata(store)
    with WebStandIn() as server:
        for path in store.rglob("*"):
            if path.is_file():
                server.files[f"/a.zarr/{path.relative_to(store).as_posix()}"] = path.read_bytes()
        uri = f"{server.url}/a.zarr"
        for name in variable_names(open_source(store)):
            if name == "names":
                continue
            here, there = Active(store, name), Active(uri, name)
            for selected in (np.s_[...], np.s_[2], np.s_[3:]):
                assert here[selected].count() == there[selected].count()
                assert here[selected].sum() == there[selected].sum() or here[selected].count() == 0
        assert variable_names(open_source(uri)) == variable_names(open_source(store))


# Documents that are damaged, or absurd


def changed(path: Path, **changes: object) -> None:
    """Change fields of a JSON document; None takes one out."""
    document = json.loads(path.read_text())
    document |= changes
    path.write_text(json.dumps({key: value for key, value in document.items() if value != "gone"}))


def document_of(store: Path) -> Path:
    return store / "x" / (".zarray" if (store / ".zgroup").exists() else "zarr.json")


@pytest.mark.parametrize(
    ("field", "value", "error", "message"),
    [
        ("shape", [6, -8], SourceError, "the shape is"),
        ("shape", [6, 2**63], SourceError, "the shape is"),
        ("shape", [6, True], SourceError, "the shape is"),
        ("shape", "gone", SourceError, "'shape' is missing"),
        ("shape", [6, 8, 1], SourceError, "chunks of the shape"),
        ("shape", [2**40, 2**40], UnsupportedError, "chunks, more than"),
        ("zarr_format", 1, SourceError, "the format is 1"),
        ("fill_value", "what", SourceError, "the fill value is 'what'"),
        ("fill_value", {}, SourceError, "the fill value is"),
    ],
)
def test_damaged_documents(store, field, value, error, message):
    changed(document_of(store), **{field: value})
    with pytest.raises(error, match=message):
        Active(store, "x").sum()


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "{}" * 2, "[" * 100_000, '{"zarr_format": '])
def test_documents_that_are_no_documents(store, text):
    document_of(store).write_text(text)
    with pytest.raises(SourceError):
        Active(store, "x")


@pytest.mark.parametrize(
    ("zarr_format", "changes", "error", "message"),
    [
        (2, {"chunks": [0, 4]}, SourceError, "chunks have the shape"),
        (2, {"chunks": [2**20, 2**20]}, UnsupportedError, "more than 4 GiB each"),
        (2, {"order": "K"}, SourceError, "the order is 'K'"),
        (2, {"dimension_separator": "../"}, SourceError, "separated by"),
        (2, {"dtype": "<q7"}, SourceError, "cannot be read"),
        (2, {"dtype": [["a", "<i4"]]}, NotNumericError, "'records'"),
        (2, {"dtype": "<c8"}, NotNumericError, "<c8"),
        (2, {"dtype": "<M8[ns]"}, NotNumericError, "M8"),
        (2, {"dtype": "|O"}, NotNumericError, "O"),
        (2, {"compressor": {"id": "pcodec"}}, UnsupportedError, "has the filter 'pcodec', which nothing here undoes"),
        (2, {"compressor": "zlib"}, None, ""),
        (2, {"compressor": 3}, SourceError, "a codec is 3"),
        (2, {"filters": {"id": "zlib"}}, SourceError, "a list was expected"),
        (2, {"filters": [{"id": "packbits"}]}, UnsupportedError, "packbits"),
        (2, {"filters": [{"id": "delta", "dtype": "<c8"}]}, UnsupportedError, "complex"),
        (2, {"filters": [{"id": "delta", "dtype": 3}]}, SourceError, "for the type 3"),
        (2, {"filters": [{"id": "shuffle", "elementsize": 0}]}, SourceError, "numbers of 0 bytes"),
        (2, {"filters": [{"id": "crc32", "location": "middle"}]}, SourceError, "is at 'middle'"),
        (2, {"filters": [{"id": "fixedscaleoffset", "scale": "a"}]}, SourceError, "has the number 'a'"),
        (2, {"filters": [{"id": "zlib"}], "compressor": {"id": "zlib"}}, UnsupportedError, "cannot be undone together"),
        (2, {"compressor": {"id": "lzma", "format": 3}}, UnsupportedError, "raw format"),
        (3, {"data_type": {"name": "numpy.datetime64"}}, NotNumericError, "numpy.datetime64"),
        (3, {"data_type": "complex64"}, NotNumericError, "complex64"),
        (3, {"chunk_grid": {"name": "rectangular", "configuration": {}}}, UnsupportedError, "rectangular"),
        (3, {"chunk_grid": 3}, SourceError, "a name and a configuration"),
        (3, {"chunk_key_encoding": {"name": "hashed"}}, UnsupportedError, "hashed"),
        (3, {"chunk_key_encoding": {"name": "v2", "configuration": {"separator": ".."}}}, SourceError, "separated by"),
        (3, {"codecs": []}, UnsupportedError, "none at all"),
        (3, {"codecs": [{"name": "vlen-utf8"}]}, UnsupportedError, "vlen-utf8"),
        (3, {"codecs": [{"name": "transpose", "configuration": {"order": [0, 0]}}, "bytes"]}, SourceError, "turned to"),
        (3, {"codecs": [{"name": "bytes"}, {"name": "mystery"}]}, UnsupportedError, "'mystery'"),
        (3, {"codecs": [{"name": "sharding_indexed"}, {"name": "gzip"}]}, UnsupportedError, "inside of other codecs"),
        (3, {"codecs": [{"name": "sharding_indexed", "configuration": {"chunk_shape": [2, 4]}}]}, SourceError, "no multiple"),
        (3, {"storage_transformers": [{"name": "x"}]}, UnsupportedError, "storage transformers"),
        (3, {"attributes": 3}, SourceError, "no JSON object"),
    ],
)
def test_what_one_format_may_claim(tmp_path, zarr_format, changes, error, message):
    path = tmp_path / "a.zarr"
    root = zarr.open_group(path, mode="w", zarr_format=zarr_format)
    root.create_array("x", shape=(6, 8), chunks=(3, 4), dtype="f4")
    changed(path / "x" / (".zarray" if zarr_format == 2 else "zarr.json"), **changes)
    if error is None:
        assert Active(path, "x").count() == 0
        return
    with pytest.raises(error, match=message):
        Active(path, "x").count()


def test_an_object_of_metadata_that_is_too_large(store, monkeypatch):
    monkeypatch.setattr("activestore.sources.objects.zarr.MAX_METADATA", 10)
    with pytest.raises(SourceError, match="more than the 10 of any metadata"):
        Active(store, "x")


def test_a_chunk_that_is_larger_than_any(store):
    with chunk_path(store, 0, 0).open("r+b") as file:
        file.truncate(1 << 30)
    with pytest.raises(CorruptChunkError, match="more than any chunk"):
        Active(store, "x").sum()


def test_one_chunk_of_plain_numbers_is_read_in_parts(tmp_path):
    path, values = tmp_path / "a.zarr", numbers(3000, 1000)
    array = zarr.open_array(path, mode="w", shape=values.shape, chunks=values.shape, dtype="f4", zarr_format=2, compressor=None)
    array[:] = values
    active = Active(path, "")
    assert (active.variable.layout, len(active.plan("mean"))) == ("contiguous", 2)
    assert active[100:200].run("max").report.bytes_read == 400_000
    assert np.array_equal(active[2990:, ::7].read(), values[2990:, ::7])
    assert active.mean() == pytest.approx(values.mean(dtype="f8"), rel=1e-12)
    with (path / "0.0").open("r+b") as file:
        file.truncate(11_000_000)
    with pytest.raises(CorruptChunkError, match="has 11000000 bytes where the array has 12000000"):
        Active(path, "").sum()
    (path / "0.0").unlink()
    assert Active(path, "").run("count", skipna=False).report.where == {"fill value": 2}


def test_what_expands_to_more_than_the_chunk(tmp_path):
    for compressor in (
        numcodecs.Zlib(9),
        numcodecs.GZip(9),
        numcodecs.BZ2(9),
        numcodecs.LZMA(),
        numcodecs.Zstd(9),
        numcodecs.LZ4(),
    ):
        path = tmp_path / "a.zarr"
        array = zarr.open_array(path, mode="w", shape=(8,), chunks=(8,), dtype="f4", zarr_format=2, compressor=compressor)
        array[:] = 1
        (path / "0").write_bytes(compressor.encode(bytes(1 << 20)))
        with pytest.raises(CorruptChunkError):
            Active(path, "").sum()
        shutil.rmtree(path)


# Shards


@pytest.mark.parametrize("location", ["start", "end"])
def test_damaged_shards(tmp_path, location):
    path = tmp_path / "a.zarr"
    codec = zarr.codecs.ShardingCodec(chunk_shape=(2, 2), index_location=location)
    array = zarr.create_array(path, shape=(5, 7), chunks=(4, 4), dtype="f8", serializer=codec, filters=[], compressors=[])
    array[:3] = np.arange(21).reshape(3, 7)
    wanted = float(array[...].sum())
    assert Active(path, "").sum() == wanted
    assert Active(path, "")[2:3, 5:].run("sum").value == 39
    shard = path / "c" / "0" / "0"
    data = shard.read_bytes()
    at = 0 if location == "start" else len(data) - 68
    for broken, message in (
        (data[:10], "shorter than its index"),
        (data[:at] + bytes(16) + data[at + 16 :], "checksum of its index"),
        (b"", "shorter than its index"),
    ):
        shard.write_bytes(broken)
        with pytest.raises(SourceError, match=message):
            Active(path, "").sum()
    index = np.frombuffer(data[at : at + 64], "<u8").copy()
    index[0], index[1] = len(data) - 3, 10
    forged = index.tobytes() + crc32c(index.tobytes()).to_bytes(4, "little")
    shard.write_bytes(data[:at] + forged + data[at + 68 :])
    with pytest.raises(SourceError, match="a chunk lies outside of it"):
        Active(path, "").sum()
    index[0], index[1] = 2**64 - 3, 10
    forged = index.tobytes() + crc32c(index.tobytes()).to_bytes(4, "little")
    shard.write_bytes(data[:at] + forged + data[at + 68 :])
    with pytest.raises(SourceError, match="a chunk lies outside of it"):
        Active(path, "").sum()


# What others write


def test_dimensions_and_attributes_of_xarray(tmp_path):
    for zarr_format in (2, 3):
        values = numbers(4, 3)
        values[1, 1] = np.nan
        stored = xr.Dataset(
            {
                "t": (("time", "lat"), values, {"units": "K"}),
                "packed": (("time", "lat"), values),
                "marked": (("lat",), np.array([1, -9, 3], "i2"), {"missing_value": -9}),
                "filled": (("lat",), np.array([1.5, 1e20, 3], "f4")),
            }
        )
        encoding = {
            "packed": {"dtype": "i2", "scale_factor": 0.5, "add_offset": 250.0, "_FillValue": -32768},
            "filled": {"_FillValue": np.float32(1e20)},
        }
        path = tmp_path / f"{zarr_format}.zarr"
        stored.to_zarr(path, zarr_format=zarr_format, encoding=encoding)
        with xr.open_dataset(path, engine="zarr") as read:
            for name in stored.data_vars:
                active = Active(path, name)
                assert active.dims == stored[name].dims
                np.testing.assert_allclose(np.asarray(active), read[name].values, rtol=1e-6)
                assert active.count() == read[name].count()
        assert Active(path, "t").attrs["units"] == "K"
        # Text that is no number counts for nothing.
        text = zarr.open_array(path / "text", mode="w", shape=(2,), dtype="f8", zarr_format=zarr_format, fill_value=None)
        text[:] = [1.5, 2]
        for odd in ("é", "none", "", "AAAA"):
            text.attrs.put({"_FillValue": odd})
            assert Active(path / "text", "").sum() == 3.5
        # Whole numbers in JSON are no integers: values are doubles, as xarray has them.
        plain = zarr.open_array(path / "whole", mode="w", shape=(2,), dtype="i8", zarr_format=zarr_format, fill_value=None)
        plain[:] = [-1, 2**62]
        for factors in ({"scale_factor": 4}, {"add_offset": -3}, {"scale_factor": [4], "add_offset": -3}):
            plain.attrs.put(factors)
            found = Active(path / "whole", "")
            assert found.dtype == "f8"
            scale, offset = np.ravel(factors.get("scale_factor", 1))[0], factors.get("add_offset", 0)
            assert found.max() == 2.0**62 * scale + offset
            assert found.min() == -scale + offset
        # netCDF's default fill values mean nothing here.
        zarr.open_array(path / "plain", mode="w", shape=(2,), dtype="i2", zarr_format=zarr_format, fill_value=None)[:] = -32767
        assert Active(path / "plain", "").min() == -32767


def test_dimensions_of_nczarr(tmp_path):
    zarr.open_array(tmp_path / "a.zarr", mode="w", shape=(2, 3), dtype="i2", zarr_format=2)[:] = 1
    (tmp_path / "a.zarr" / ".zattrs").write_text(json.dumps({"_nczarr_array": {"dimrefs": ["/y", "/g/x"]}}))
    active = Active(tmp_path / "a.zarr", "")
    assert (active.dims, dict(active.attrs), active.sum()) == (("y", "x"), {"_FillValue": 0}, 6)


@pytest.mark.corpus
@pytest.mark.parametrize("path", corpus_files()[::7], ids=file_id)
def test_real_files_as_stores(path, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            dataset = xr.open_dataset(path, decode_times=False, mask_and_scale=False).load()
        except ValueError:
            pytest.skip("xarray cannot read it")
    for zarr_format in (2, 3):
        for variable in dataset.variables.values():
            variable.encoding.clear()
        store = tmp_path / f"{zarr_format}.zarr"
        dataset.to_zarr(store, zarr_format=zarr_format)
        for name, variable in dataset.variables.items():
            if variable.dtype.kind not in "iuf":
                continue
            active = Active(store, str(name))
            masked = np.ma.masked_invalid(variable.values) if variable.dtype.kind == "f" else np.ma.array(variable.values)
            for attribute in ("_FillValue", "missing_value"):
                if attribute in variable.attrs:
                    masked = np.ma.masked_equal(masked, variable.attrs[attribute])
            assert active.dims == variable.dims
            if not {"scale_factor", "add_offset", "valid_min", "valid_max", "valid_range", "_Unsigned"} & set(variable.attrs):
                same(active.read(), masked, name)
