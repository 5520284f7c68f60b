"""Kerchunk references, in JSON and in Parquet: the numbers are those of the files that they name; none is taken on trust."""

import base64
import json
import pickle
import shutil
import sys
import time
from pathlib import Path

import fsspec
import kerchunk.df
import netCDF4
import numpy as np
import pytest
import xarray as xr

from activestore import Active
from activestore.core.formats.read import variable_names
from activestore.core.formats.zarr.keys import ChunkKeys
from activestore.core.formats.zarr.store import group_of
from activestore.errors import CorruptChunkError, SourceError, SourceNotFoundError, UnsupportedError, VariableNotFoundError
from activestore.server.settings import ServerSettings
from activestore.sources.objects.kerchunk import KerchunkSource
from activestore.sources.objects.references import JsonReferences, is_parquet
from activestore.sources.objects.zarr import ZarrSource
from activestore.sources.open import open_source
from tests.corpus import corpus_files, file_id
from tests.references import references_of
from tests.server.running import running
from tests.web_stand_in import WebStandIn

pytestmark = pytest.mark.filterwarnings("ignore")  # what kerchunk, zarr and fastparquet use is about to change

X = np.arange(48, dtype="<f4").reshape(6, 8)
ZARRAY = {"zarr_format": 2, "shape": [6, 8], "chunks": [3, 8], "dtype": "<f4", "fill_value": None, "order": "C"}


def written(folder: Path, refs: object, name: str = "refs.json") -> Path:
    path = folder / name
    path.write_text(refs if isinstance(refs, str) else json.dumps(refs))
    return path


def handmade(url: object, **more: object) -> dict[str, object]:
    """References of `x(6, 8)` in two chunks, one after the other in a file."""
    refs = {
        ".zgroup": '{"zarr_format": 2}',
        "x/.zarray": json.dumps(ZARRAY),
        "x/0.0": [url, 5, 96],
        "x/1.0": [url, 101, 96],
    }
    return {"version": 1, "refs": refs | more}


@pytest.fixture
def raw(tmp_path) -> Path:
    """A file with the numbers of `x` behind five bytes."""
    path = tmp_path / "x.bin"
    path.write_bytes(b"start" + X.tobytes())
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


# Files as Kerchunk translates them


@pytest.fixture(params=["NETCDF4", "NETCDF3_64BIT"])
def file(request, tmp_path) -> Path:
    path = tmp_path / "a.nc"
    random = np.random.default_rng(0)
    with netCDF4.Dataset(path, "w", format=request.param) as dataset:
        for name, length in (("time", None), ("lat", 13), ("lon", 7)):
            dataset.createDimension(name, length)
        options = {"zlib": True, "shuffle": True, "chunksizes": (4, 5, 7)} if request.param == "NETCDF4" else {}
        tas = dataset.createVariable("tas", "f4", ("time", "lat", "lon"), fill_value=1e20, **options)
        tas.units = "K"
        values = np.ma.masked_less(random.normal(280, 10, (25, 13, 7)), 270)
        tas[:] = values
        packed = dataset.createVariable("packed", "i2", ("time", "lat"), fill_value=-1)
        packed.scale_factor, packed.add_offset = 0.5, 100.0
        packed[:] = random.integers(100, 200, (25, 13))
        dataset.createVariable("lat", "f8", ("lat",), fill_value=False)[:] = np.arange(13)
    return path


def compared(references: Path, path: Path, names: list[str]) -> None:
    for name in names:
        there, here = Active(references, name), Active(path, name)
        assert there.dims == here.dims
        for selected in (np.s_[...], np.s_[1:3], np.s_[::2]):
            one, other = there[selected].read(), here[selected].read()
            assert np.array_equal(np.ma.getmaskarray(one), np.ma.getmaskarray(other)), name
            assert np.array_equal(one.compressed(), other.compressed()), name
            assert there[selected].count() == here[selected].count()
        assert there.mean() == here.mean(), name


@pytest.mark.parametrize("form", ["json", "parquet", "inline"])
def test_references_to_one_file(file, tmp_path, form):
    refs = references_of(file, inline=10_000 if form == "inline" else 50)
    if form == "parquet":
        path = tmp_path / "refs.parq"
        kerchunk.df.refs_to_dataframe(refs, str(path), record_size=10)
    else:
        path = written(tmp_path, refs)
    source = open_source(path)
    assert isinstance(source, KerchunkSource)
    assert variable_names(source) == ["lat", "packed", "tas"]
    compared(path, file, ["tas", "packed", "lat"])
    assert Active(path, "tas").attrs["units"] == "K"
    assert set(group_of(source).variables) == {"lat", "packed", "tas"}
    with xr.open_dataset(file, decode_times=False) as dataset:
        np.testing.assert_array_equal(np.asarray(Active(path, "tas")), dataset["tas"].values)


def test_the_older_form_and_objects_in_place_of_text(file, tmp_path):
    refs = references_of(file)["refs"]
    compared(written(tmp_path, refs), file, ["tas"])
    refs = {key: json.loads(one) if key.rpartition("/")[2].startswith(".z") else one for key, one in refs.items()}
    compared(written(tmp_path, "\n " + json.dumps(refs)), file, ["tas"])


def test_several_files_joined(tmp_path):
    parts = []
    for i in range(3):
        path = tmp_path / f"{i}.nc"
        with netCDF4.Dataset(path, "w") as dataset:
            dataset.createDimension("time", 4)
            dataset.createVariable("v", "i4", ("time",), chunksizes=(4,), zlib=True)[:] = np.arange(4) + 10 * i
        parts.append(references_of(path, inline=0)["refs"])
    joined = dict(parts[0])
    joined["v/.zarray"] = json.dumps(json.loads(joined["v/.zarray"]) | {"shape": [16]})
    joined |= {f"v/{i}": part["v/0"] for i, part in enumerate(parts)}
    path = written(tmp_path, {"version": 1, "refs": joined})
    active = Active(path, "v")
    assert active.read().tolist()[:12] == [0, 1, 2, 3, 10, 11, 12, 13, 20, 21, 22, 23]
    # The last chunk has no reference: it holds the fill value.
    assert active.run("sum").report.where == {"posix": 3, "fill value": 1}
    assert active[4:6].sum() == 21
    assert "several files" in active._source.origin.obstacle


@pytest.mark.corpus
@pytest.mark.parametrize("path", corpus_files()[::9], ids=file_id)
def test_real_files(path, tmp_path):
    refs = references_of(path)
    references = written(tmp_path, refs)
    for name in variable_names(open_source(references)):
        try:
            active, direct = Active(references, name), Active(path, name)
        except (TypeError, NotImplementedError):
            continue
        assert active.shape == direct.shape
        if {"scale_factor", "add_offset", "_Unsigned"} & set(active.attrs):
            continue
        numbers, wanted = np.ma.getdata(active.read()), np.ma.getdata(direct.read())
        assert np.array_equal(numbers, wanted, equal_nan=True), name
        # Kerchunk says nothing of netCDF's default fill values, which count in the file.
        if "_FillValue" in direct.attrs:
            assert active.count() == direct.count(), name


# Forms of references


def test_templates_whole_files_and_bytes_among_them(raw, tmp_path):
    (tmp_path / "whole.bin").write_bytes(X[3:].tobytes())
    refs = handmade("{{u}}/x.bin") | {"templates": {"u": str(tmp_path)}}
    assert Active(written(tmp_path, refs), "x").sum() == X.sum()
    refs["refs"]["x/1.0"] = ["{{ u }}/whole.bin"]
    assert Active(written(tmp_path, refs), "x").sum() == X.sum()
    refs["refs"]["x/1.0"] = "base64:" + base64.b64encode(X[3:].tobytes()).decode()
    active = Active(written(tmp_path, refs), "x")
    assert (active.sum(), active[4].sum()) == (X.sum(), X[4].sum())
    assert "among themselves" in active._source.origin.obstacle
    assert pickle.loads(pickle.dumps(active)).sum() == X.sum()
    del refs["refs"]["x/1.0"]
    assert Active(written(tmp_path, refs), "x").run("sum").report.where == {"posix": 1, "fill value": 1}


def test_sparse_references_of_a_large_grid(raw, tmp_path):
    refs = handmade(str(raw))
    refs["refs"]["x/.zarray"] = json.dumps(ZARRAY | {"shape": [3_000_000, 8]})
    active = Active(written(tmp_path, refs), "x")
    assert active.variable.table.index.tolist() == [0, 1]
    assert active[:9].run("count").report.where == {"posix": 2, "fill value": 1}


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("{", SourceError, "as JSON cannot be read"),
        ("{" * 100_000, SourceError, "as JSON cannot be read"),
        ('{"refs": ' + "[" * 100_000, SourceError, "as JSON cannot be read"),
        ('{"a": 1}', SourceError, "holds no Kerchunk references"),
        ('{"refs": 3}', SourceError, "holds no Kerchunk references"),
        ('{"refs": {}, "gen": [{}]}', UnsupportedError, "generated references"),
        ('{"refs": {}, "templates": 3}', SourceError, "templates are damaged"),
        ('{"refs": {}, "templates": {"f": "{{c}}.nc"}}', UnsupportedError, "computes"),
    ],
)
def test_documents_that_are_no_references(tmp_path, text, error, message):
    with pytest.raises(error, match=message):
        open_source(written(tmp_path, text))


@pytest.mark.parametrize(
    ("reference", "error", "message"),
    [
        (3, SourceError, "is damaged"),
        ([], SourceError, "is damaged"),
        (["x.bin", 5], SourceError, "is damaged"),
        (["x.bin", -5, 96], SourceError, "is damaged"),
        (["x.bin", 5.5, 96], SourceError, "is damaged"),
        (["x.bin", 5, True], SourceError, "is damaged"),
        ([3, 5, 96], SourceError, "is damaged"),
        (["x.bin", 1 << 44, 96], SourceError, "ends at byte"),
        (["x.bin", 0, 1 << 62], SourceError, "ends at byte"),
        (["{{v}}/x.bin", 5, 96], UnsupportedError, "none of those that are defined"),
        (["{{f(c=1)}}", 5, 96], UnsupportedError, "none of those that are defined"),
        ("base64:!", SourceError, "is damaged"),
        ("short", CorruptChunkError, "chunk"),
        (["no.bin", 5, 96], SourceNotFoundError, "no such file"),
        (["x.bin", 150, 96], CorruptChunkError, "the file ends after"),
        (["x.bin", 150, 95], CorruptChunkError, "95 bytes"),
        (["x.bin"], CorruptChunkError, "197 bytes"),
        ([".", 0, 96], SourceError, "is not a regular file"),
    ],
)
def test_damaged_references(raw, tmp_path, monkeypatch, reference, error, message):
    monkeypatch.chdir(tmp_path)
    refs = handmade("x.bin", **{"x/1.0": reference})
    active = Active(written(tmp_path, refs), "x")
    with pytest.raises(error, match=message):
        active.sum()


def test_metadata_that_are_elsewhere(raw, tmp_path):
    with pytest.raises(UnsupportedError, match="is not among the references, but in"):
        Active(written(tmp_path, handmade(str(raw), **{"x/.zarray": [str(raw)]})), "x")
    for name in ("y", "../x", "x/../x"):
        with pytest.raises(VariableNotFoundError):
            Active(written(tmp_path, handmade(str(raw))), name)


def test_references_that_are_too_large(raw, tmp_path, monkeypatch):
    path = written(tmp_path, handmade(str(raw)))
    monkeypatch.setattr("activestore.sources.objects.references.MAX_METADATA", 100)
    with pytest.raises(SourceError, match="more than the 100 of any references"):
        open_source(path)


def test_a_reference_is_not_followed_to_more_references(raw, tmp_path):
    inner = written(tmp_path, handmade(str(raw)), "inner.json")
    outer = Active(written(tmp_path, handmade(str(inner))), "x")
    assert outer.read().tobytes() == inner.read_bytes()[5:197]


# Where references may point


def test_references_from_elsewhere_name_no_files_of_this_machine(raw, tmp_path, memory):
    memory.pipe_file("/good.bin", raw.read_bytes())
    memory.pipe_file("/refs.json", json.dumps(handmade("memory://good.bin")).encode())
    assert Active("memory://refs.json", "x").sum() == X.sum()
    relative = ["../../../../etc/passwd", "/etc/passwd", "x.bin"]
    for url in [
        *relative,
        raw.as_uri(),
        f"simplecache::{raw.as_uri()}",
        f"zip://x::{raw}",
        "local://etc/passwd",
        "sftp://host/x",
    ]:
        for given in ([url, 5, 96], [url]):
            memory.pipe_file("/refs.json", json.dumps(handmade("memory://good.bin", **{"x/1.0": given})).encode())
            active = Active("memory://refs.json", "x")
            assert active[:3].sum() == X[:3].sum()
            with pytest.raises(SourceError, match="references from elsewhere must not name"):
                active.sum()


def test_headers_go_to_the_server_that_they_were_given_for(raw, tmp_path):
    with WebStandIn() as own, WebStandIn() as other:
        for server in (own, other):
            server.files["/x.bin"] = raw.read_bytes()
        options = {"headers": {"Authorization": "Bearer hunter2"}}
        for target, told in ((own, True), (other, False)):
            target.requests.clear()
            own.files["/refs.json"] = json.dumps(handmade(f"{target.url}/x.bin")).encode()
            active = Active(f"{own.url}/refs.json", "x", storage_options=options)
            assert active.sum() == X.sum()
            asked = [request for request in target.requests if request.path == "/x.bin"]
            assert asked
            assert all(("Authorization" in request.headers) == told for request in asked)
            assert b"hunter2" not in pickle.dumps(active)
        other.requests.clear()
        both = {"remote_options": options, "target_options": {}}
        assert Active(f"{own.url}/refs.json", "x", storage_options=both).sum() == X.sum()
        assert all(request.headers["Authorization"] == "Bearer hunter2" for request in other.requests)


def test_a_protocol_for_addresses_without_one(raw, tmp_path, memory):
    memory.pipe_file("/folder/x.bin", raw.read_bytes())
    path = written(tmp_path, handmade("folder/x.bin"))
    assert Active(path, "x", storage_options={"remote_protocol": "memory"}).sum() == X.sum()
    with pytest.raises(SourceNotFoundError):
        Active(path, "x").sum()


# Sources


def test_versions_pickles_and_processes(raw, tmp_path, process_pool):
    path = written(tmp_path, handmade(str(raw)))
    active = Active(path, "x")
    assert active.with_options(executor=process_pool).sum() == X.sum()
    copied = pickle.loads(pickle.dumps(active))
    assert (copied.sum(), copied[4].sum()) == (X.sum(), X[4].sum())
    assert copied._source._references is not None or variable_names(copied._source) == ["x"]
    assert repr(copied._source) == f"KerchunkSource({str(path)!r})"
    with pytest.raises(UnsupportedError, match="the HDF5 library cannot read"):
        active._source.for_hdf5()
    with pytest.raises(SourceError, match="nothing has the offset"):
        active._source.read_ranges([(9 << 44, 1)])
    time.sleep(0.01)
    written(tmp_path, handmade(str(raw)) | {"more": 1})
    with pytest.raises(SourceError, match="has changed since it was opened"):
        active.sum()


def test_pickles_have_no_signatures_of_the_files_and_the_same_numbers_for_them(raw, tmp_path):
    with WebStandIn() as web:
        web.files["/x.bin"] = raw.read_bytes()
        refs = handmade(f"{web.url}/x.bin?code=hunter2")
        refs["refs"]["x/1.0"] = [f"{web.url}/x.bin?sig=hunter2", 101, 96]
        active = Active(written(tmp_path, refs), "x")
        tasks = list(active.plan("sum").tasks())
        assert active.sum() == X.sum()
        packed = pickle.dumps((active, tasks))
        assert b"hunter2" not in packed
        copied, tasks = pickle.loads(packed)
        web.requests.clear()
        assert copied._source.read_ranges([(task.offset, task.size) for task in tasks]) == [
            raw.read_bytes()[at : at + 96] for at in (5, 101)
        ]
        assert {request.path for request in web.requests} == {"/x.bin"}
        assert copied.sum() == X.sum()


def test_a_server_that_sees_the_one_file_computes(file, tmp_path):
    path = written(tmp_path, references_of(file, inline=0))
    with running(ServerSettings(roots=(tmp_path,))) as server:
        there = Active(path, "tas", server=server.url).run("mean", ("lat", "lon"))
        here = Active(path, "tas").run("mean", ("lat", "lon"))
        assert there.report.where == {"reductionist": there.report.chunks}
        assert np.array_equal(there.value, here.value)
        # A Zarr store has no such file.
        with xr.open_dataset(file, decode_times=False) as dataset:
            dataset[["tas"]].drop_encoding().to_zarr(tmp_path / "a.zarr", zarr_format=2)
        with pytest.warns(UserWarning, match="each an object of its own"):
            result = Active(tmp_path / "a.zarr", "tas", server=server.url).run("count")
        assert set(result.report.where) <= {"local fallback", "fill value"}


# Parquet


@pytest.fixture
def parquet(raw, tmp_path) -> Path:
    refs = handmade(str(raw), **{"x/1.0": "base64:" + base64.b64encode(X[3:].tobytes()).decode()})
    path = tmp_path / "refs.parq"
    kerchunk.df.refs_to_dataframe(refs, str(path), record_size=1)
    return path


def test_parquet(parquet, memory, raw):
    assert Active(parquet, "x").sum() == X.sum()
    assert (parquet / "x" / "refs.1.parq").exists()
    assert Active(parquet, "x")[:3].sum() == X[:3].sum()
    active = pickle.loads(pickle.dumps(Active(parquet, "x")))
    assert active[4].sum() == X[4].sum()
    memory.put(str(parquet), "/refs.parq", recursive=True)
    with pytest.raises(SourceError, match="references from elsewhere must not name"):
        Active("memory://refs.parq", "x").sum()
    assert Active("memory://refs.parq", "x")[3:].sum() == X[3:].sum()
    (parquet / "x" / "refs.1.parq").unlink()
    assert Active(parquet, "x").run("sum").report.where == {"posix": 1, "fill value": 1}


def test_damaged_parquet(parquet):
    rows = parquet / "x" / "refs.0.parq"
    data = rows.read_bytes()
    for broken in (b"", data[:-9], data[: len(data) // 2], b"PAR1" * 9, bytes(len(data))):
        rows.write_bytes(broken)
        with pytest.raises(SourceError, match="cannot be read"):
            Active(parquet, "x").sum()
    rows.write_bytes(data)
    metadata = parquet / ".zmetadata"
    document = json.loads(metadata.read_text())
    for change in ({"record_size": 0}, {"record_size": 1 << 60}, {"record_size": "1"}, {"metadata": []}):
        metadata.write_text(json.dumps(document | change))
        with pytest.raises(SourceError, match="is it damaged"):
            open_source(parquet)
    metadata.write_text(json.dumps({"record_size": 1}))
    with pytest.raises(SourceError, match="cannot be read"):
        open_source(parquet)


def test_parquet_without_fastparquet(parquet, monkeypatch):
    monkeypatch.setitem(sys.modules, "fastparquet", None)
    with pytest.raises(UnsupportedError, match=r"pip install '.\[kerchunk\]'"):
        Active(parquet, "x").sum()


def test_a_zarr_store_is_no_folder_of_references(parquet, tmp_path):
    assert is_parquet((parquet / ".zmetadata").read_bytes())
    assert not is_parquet(b'{"metadata": {".zattrs": {"record_size": 3}}}')
    assert not is_parquet(b'{"record_size": ')
    shutil.copytree(parquet, tmp_path / "a.zarr")
    document = json.loads((parquet / ".zmetadata").read_text())
    (tmp_path / "a.zarr" / ".zmetadata").write_text(json.dumps({"metadata": document["metadata"]}))
    assert isinstance(open_source(tmp_path / "a.zarr"), ZarrSource)


def test_folders_of_references():
    refs = {".zgroup": "{}", "a/.zgroup": "{}", "a/b/.zarray": "{}", "a/b/0": "x", "c/.zarray": "{}", "/odd": "x"}
    found = JsonReferences(json.dumps(refs).encode(), "refs.json")
    assert (found.folders(""), found.folders("a"), found.folders("a/b"), found.folders("z")) == (["a", "c"], ["b"], [], [])
    keys = ChunkKeys("a/b/", ".", (2,), "a/b/0", room=1)
    assert list(found.chunks(keys, None)) == [(0, b"x")]
