"""Zarr stores and Kerchunk references in an S3 store and behind a web server: the numbers are those of the disk."""

import json
import os
import pickle
import shutil

import numpy as np
import pytest
import zarr

from activestore import Active
from activestore.core.formats.read import variable_names
from activestore.errors import CorruptChunkError, SourceError, SourceNotFoundError
from activestore.sources.open import open_source
from tests.sources.objects.test_kerchunk import X, handmade

pytestmark = [pytest.mark.real, pytest.mark.filterwarnings("ignore")]


@pytest.fixture(params=[2, 3])
def store(request, tmp_path):
    """A store with `g/x`, of 48 chunks, five of them not written, and `g/shards` in format 3."""
    path = tmp_path / "a.zarr"
    group = zarr.open_group(path, mode="w", zarr_format=request.param).create_group("g")
    values = np.random.default_rng(0).normal(size=(60, 80)).astype("f4")
    values[50:, 30:] = 0
    group.create_array("x", shape=(60, 80), chunks=(10, 10), dtype="f4", fill_value=0)[:] = values
    if request.param == 3:
        group.create_array("shards", shape=(60, 80), chunks=(10, 10), shards=(30, 20), dtype="f4", fill_value=0)[:] = values
    return path


def test_stores_in_s3(store, s3_store):
    folder = store.parent.name
    shutil.copytree(store, s3_store.folder / folder / "a.zarr")
    uri, options = f"s3://{s3_store.bucket}/{folder}/a.zarr", s3_store.storage_options
    for name in variable_names(open_source(store)):
        here, there = Active(store, name), Active(uri, name, storage_options=options)
        for selected in (np.s_[...], np.s_[3:5, 70], np.s_[55:, 60:]):
            one, other = here[selected].run(("mean", "count")), there[selected].run(("mean", "count"))
            assert one.report.where == other.report.where
            assert one.values["count"] == other.values["count"]
            assert one.values["mean"] == other.values["mean"] or one.values["mean"] is np.ma.masked
    assert s3_store.secret.encode() not in pickle.dumps(there)
    assert variable_names(open_source(uri, options)) == variable_names(open_source(store))
    with pytest.raises(SourceNotFoundError):
        open_source(f"s3://{s3_store.bucket}/{folder}/nothing.zarr", options)
    chunk = next(
        path
        for path in (s3_store.folder / folder / "a.zarr" / "g" / "x").rglob("*")
        if path.name[-1].isdigit() and path.is_file()
    )
    chunk.write_bytes(chunk.read_bytes()[:-2])
    with pytest.raises((CorruptChunkError, SourceError)):
        Active(uri, "g/x", storage_options=options).sum()


def test_references_in_s3(s3_store, tmp_path):
    (s3_store.folder / "x.bin").write_bytes(b"start" + X.tobytes())
    refs = handmade(f"s3://{s3_store.bucket}/x.bin")
    (s3_store.folder / "refs.json").write_text(json.dumps(refs))
    (tmp_path / "refs.json").write_text(json.dumps(refs))
    options = s3_store.storage_options
    both = {"remote_options": options, "target_options": options}
    assert Active(f"s3://{s3_store.bucket}/refs.json", "x", storage_options=options).sum() == X.sum()
    assert Active(f"s3://{s3_store.bucket}/refs.json", "x", storage_options=both).sum() == X.sum()
    active = Active(tmp_path / "refs.json", "x", storage_options=options)
    assert active.sum() == X.sum()
    assert active._source.origin.url == f"{s3_store.url}/{s3_store.bucket}/x.bin"
    (tmp_path / "refs.json").write_text(json.dumps(handmade(f"{s3_store.bucket}/x.bin")))
    given = {"remote_options": options, "remote_protocol": "s3"}
    assert Active(tmp_path / "refs.json", "x", storage_options=given).sum() == X.sum()
    assert os.fsencode(s3_store.secret) not in pickle.dumps(active)
