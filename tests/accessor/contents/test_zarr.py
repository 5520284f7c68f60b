"""Zarr stores in the engine, beside xarray's own engine for them."""

import json
from pathlib import Path

import pytest
import xarray as xr

from tests.references import references_of

TAS = "docs/tas.nc"
ENCODINGS = {
    "as it is": {},
    "packed": {"dtype": "int16", "scale_factor": 0.01, "add_offset": 280.0, "_FillValue": -32768},
    "unsigned": {"dtype": "int16", "_Unsigned": "true", "scale_factor": 0.01, "add_offset": 0.0, "_FillValue": -1},
}


@pytest.fixture(params=[2, 3])
def zarr_format(request):
    return request.param


@pytest.fixture(params=ENCODINGS)
def store(request, tmp_path, zarr_format):
    with xr.open_dataset(TAS) as dataset:
        plain = dataset.drop_encoding()
        plain.tas.encoding = {"chunks": (5, 7, 36), **ENCODINGS[request.param]}
        plain.to_zarr(tmp_path / "tas.zarr", zarr_format=zarr_format, consolidated=zarr_format == 2)
    return tmp_path / "tas.zarr"


def test_as_xarray_opens_it(store, zarr_format):
    theirs = xr.open_zarr(store, chunks=None, consolidated=zarr_format == 2)
    ours = xr.open_dataset(store, engine="activestore")
    assert ours.tas.dtype == theirs.tas.dtype
    xr.testing.assert_identical(ours, theirs)


def test_reductions(store, zarr_format):
    theirs = xr.open_zarr(store, chunks=None, consolidated=zarr_format == 2).load()
    ours = xr.open_dataset(store, engine="activestore")
    for name in ("count", "mean", "max", "std"):
        xr.testing.assert_allclose(getattr(ours.active, name)("time"), getattr(theirs, name)("time"), rtol=1e-6)
    part = ours.tas.sel(lat=slice(-30, 30)).active.groupby("time.season").mean("time")
    xr.testing.assert_allclose(part, theirs.tas.sel(lat=slice(-30, 30)).groupby("time.season").mean("time"), rtol=1e-6)


def test_text_is_left_out_with_a_warning(tmp_path):
    made = xr.Dataset({"a": ("x", [1.0, 2.0]), "name": ("x", ["Oslo", "Roma"])})
    made.to_zarr(tmp_path / "text.zarr", zarr_format=2, consolidated=False)
    with pytest.warns(UserWarning, match="'name' is left out"):
        ours = xr.open_dataset(tmp_path / "text.zarr", engine="activestore")
    assert ours.a.active.sum() == 3


def test_kerchunk_references(tmp_path):
    (tmp_path / "tas.json").write_text(json.dumps(references_of(Path(TAS))))
    ours = xr.open_dataset(tmp_path / "tas.json", engine="activestore")
    with xr.open_dataset(TAS, engine="h5netcdf") as theirs:
        xr.testing.assert_allclose(ours.active.mean("time"), theirs.load().mean("time"), rtol=1e-6)
        xr.testing.assert_equal(ours.load(), theirs)
