"""`activestore.compat.Active` as cf-python and others drive PyActiveStorage, on a real S3 store and a real Reductionist."""

import shutil
from typing import Any

import netCDF4
import numpy as np
import pytest

from activestore.compat import Active
from activestore.testing.datasets import write_sample
from tests.real.servers import Reductionist, S3Store, WebServer

pytestmark = pytest.mark.real
NAME = "compat-tas.nc"


@pytest.fixture(scope="module")
def values(s3_store: S3Store, web_server: WebServer) -> np.ma.MaskedArray:
    """The sample's values; its file is in the store, and behind the web server."""
    write_sample(s3_store.folder / NAME)
    shutil.copy(s3_store.folder / NAME, web_server.folder / NAME)
    with netCDF4.Dataset(s3_store.folder / NAME) as file:
        return file["tas"][...]


def address(s3_store: S3Store) -> str:
    """As users of PyActiveStorage write it: the store is in the options."""
    return f"{s3_store.bucket}/{NAME}"


@pytest.mark.parametrize("axis", [None, (0,), (1, 2), (2,)])
@pytest.mark.parametrize("method", ["mean", "sum", "min", "max"])
def test_as_cf_python_does(
    s3_store: S3Store, reductionist: Reductionist, values: np.ma.MaskedArray, method: str, axis: Any
) -> None:
    a = Active(
        dataset=address(s3_store),
        ncvar="tas",
        axis=axis,
        storage_options=s3_store.storage_options,
        active_storage_url=reductionist.url,
        max_threads=100,
    )
    a.method = method
    a.components = True
    a._version = 2
    index = (slice(3, 15, 1), slice(0, 18, 1), slice(0, 36, 1))
    d = a[index]
    data, name = values[index].astype("f8"), "sum" if method == "mean" else method
    wanted = getattr(np.ma, name)(data, axis=axis, keepdims=True)
    assert set(d) == {name, "n"}
    assert np.array_equal(d["n"], data.count(axis=axis, keepdims=True))
    assert np.array_equal(d[name].mask, np.ma.getmaskarray(wanted))
    np.testing.assert_allclose(d[name].filled(0), np.ma.filled(wanted, 0), rtol=1e-6)


def test_behind_a_web_server(web_server: WebServer, reductionist: Reductionist, values: np.ma.MaskedArray) -> None:
    options = {"username": None, "password": None}
    active = Active(f"{web_server.url}/{NAME}", "tas", storage_options=options, active_storage_url=reductionist.url)
    assert active.max()[...] == values.max()


def test_without_a_server(s3_store: S3Store, web_server: WebServer, values: np.ma.MaskedArray) -> None:
    in_s3 = Active(address(s3_store), "tas", storage_options=s3_store.storage_options)
    behind_http = Active(f"{web_server.url}/{NAME}", "tas")
    for active in (in_s3, behind_http):
        assert np.ma.allequal(active.min(axis=0)[2:9], values[2:9].min(axis=0, keepdims=True))


def test_a_variable_of_pyfive_knows_its_store(s3_store: S3Store, values: np.ma.MaskedArray) -> None:
    pyfive, s3fs = pytest.importorskip("pyfive"), pytest.importorskip("s3fs")
    store = s3fs.S3FileSystem(**s3_store.storage_options)
    with store.open(address(s3_store)) as stream:
        active = Active(pyfive.File(stream)["tas"])
    assert active.uri == f"s3://{address(s3_store)}"
    assert active.max()[...] == values.max()


def test_beside_pyactivestorage(s3_store: S3Store, reductionist: Reductionist, values: np.ma.MaskedArray) -> None:
    theirs = pytest.importorskip("activestorage").Active
    found = []
    for cls in (Active, theirs):
        active = cls(
            address(s3_store),
            "tas",
            interface_type="s3",
            storage_options=s3_store.storage_options,
            active_storage_url=reductionist.url,
        )
        active._version = 2
        found.append(active.max(axis=(0, 1, 2))[3:20])
    assert found[0] == found[1] == values[3:20].max()
    assert found[0].shape == found[1].shape
