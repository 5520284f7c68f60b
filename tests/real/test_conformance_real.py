"""Both backends pass the suite for plugin authors on real servers, and agree with each other on made-up files."""

import itertools
import os
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from activestore import Active
from activestore.core.reductions import REDUCTIONS
from activestore.errors import FallbackWarning
from activestore.testing.conformance import BackendTests
from tests import generated
from tests.expected import EXACT, Request, cells_of, fits, magnitude, requests, same
from tests.generated import NAME, Recipe, recipes

pytestmark = pytest.mark.real

EXAMPLES = settings().max_examples * 3 // 5


def copied(path: Path, folder: Path) -> str:
    """Copy a file into a server's folder under its own name, and return the name."""
    if not (folder / path.name).exists() or (folder / path.name).read_bytes() != path.read_bytes():
        shutil.copy(path, folder / path.name)
    return path.name


@pytest.fixture
def in_s3(s3_store, monkeypatch):
    """Puts a file into the S3 store: its address, and the options to read it with."""
    # Other processes get no credentials from this one.
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3_store.key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3_store.secret)
    options = {"key": s3_store.key, "secret": s3_store.secret, "endpoint_url": s3_store.url}
    return lambda path: (f"s3://{s3_store.bucket}/{copied(path, s3_store.folder)}", {"storage_options": options})


@pytest.fixture
def on_the_web(web_server):
    """Puts a file behind the web server."""
    return lambda path: (f"{web_server.url}/{copied(path, web_server.folder)}", {})


class TestPosixOnS3(BackendTests):
    @pytest.fixture
    def publish(self, in_s3):
        return with_options(in_s3, backend="posix")


class TestPosixOnTheWeb(BackendTests):
    @pytest.fixture
    def publish(self, on_the_web):
        return with_options(on_the_web, backend="posix")


class TestReductionistOnS3(BackendTests):
    @pytest.fixture
    def publish(self, in_s3, reductionist):
        return with_options(in_s3, backend="reductionist", server=reductionist.url)

    def sum_tolerance(self, stored):
        return 1e-6 if stored.str[1:] == "f4" else 1e-12


class TestReductionistOnTheWeb(TestReductionistOnS3):
    # How numbers come about does not depend on where the server reads the chunks.
    test_every_selection_along_every_axis = None

    @pytest.fixture
    def publish(self, on_the_web, reductionist):
        return with_options(on_the_web, backend="reductionist", server=reductionist.url)


def with_options(put, **options):
    def publish(path):
        uri, own = put(path)
        return uri, {**own, **options}

    return publish


class Everywhere:
    """A made-up file on a disk, in the S3 store and behind the web server."""

    def __init__(self, s3_store, web_server, server):
        self._s3_store, self._web_server, self._server, self._number = s3_store, web_server, server, itertools.count()

    def opened(self, recipe: Recipe) -> tuple[Active, dict[str, Active]]:
        name = f"made-up-{os.getpid()}-{next(self._number)}.nc"
        path = self._s3_store.folder / name
        generated.write(recipe, path)
        shutil.copy(path, self._web_server.folder / name)
        options = {"key": self._s3_store.key, "secret": self._s3_store.secret, "endpoint_url": self._s3_store.url}
        far = {
            "S3": Active(f"s3://{self._s3_store.bucket}/{name}", NAME, server=self._server, storage_options=options),
            "HTTP": Active(f"{self._web_server.url}/{name}", NAME, server=self._server),
        }
        return Active(path, NAME, backend="posix"), far


@pytest.fixture(scope="module")
def everywhere(s3_store, web_server, reductionist):
    return Everywhere(s3_store, web_server, reductionist.url)


def cut(active: Active, request: Request) -> Active:
    for key in request.keys:
        active = active[key]
    return active


def check_like_local(name: str, found: Any, local: Any, part: Active, request: Request, scale: float) -> None:
    """Compare with what the local backend gives: exactly, but for sums and what is made of them."""
    assert np.shape(found) == np.shape(local)
    assert found is local is np.ma.masked or found.dtype == local.dtype
    cells = cells_of(part.read(), request)
    flat = [np.ma.asanyarray(one).reshape(-1) if np.ndim(one) else [one] for one in (found, local)]
    for here, there, row, valid in zip(*flat, cells.values, cells.valid, strict=True):
        with np.errstate(all="ignore"):
            off = 0.0 if name in EXACT else allowed(name, row[valid].astype("f8"), scale, stored=part.variable.dtype)
        assert same(here, None if there is np.ma.masked else there, off), f"{name}: {here!r}, locally {there!r}"


def allowed(name: str, row: np.ndarray, scale: float, *, stored: np.dtype) -> float:
    """How far a result may be off: sums and means of float32 by 1e-6 of the mean of |x|, all else in the last digits."""
    relative = 1e-6 if stored.str[1:] == "f4" and name in {"sum", "mean"} else 1e-12
    size = max(float(np.mean(np.abs(row))) if len(row) else 0.0, scale)
    return relative * size * (len(row) if name == "sum" else 1 + size if name == "var" else 1)


@settings(max_examples=EXAMPLES)
@given(recipe=recipes(), data=st.data())
def test_every_reduction_through_a_server_is_that_of_the_local_backend(
    everywhere: Everywhere, recipe: Recipe, data: st.DataObject
) -> None:
    near, far = everywhere.opened(recipe)
    request = data.draw(requests(near))
    part, scale = cut(near, request), magnitude(recipe, near)
    options = {"keepdims": request.keepdims, "skipna": request.skipna}
    for name in REDUCTIONS:
        if not fits(part.read(), request, name):
            continue
        local = part.run(name, request.axis, **options)
        for active in far.values():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FallbackWarning)
                found = cut(active, request).run(name, request.axis, **options)
            check_like_local(name, found.value, local.value, part, request, scale)
            np.testing.assert_array_equal(found.count, local.count)
            assert sum(found.report.where.values()) == found.report.chunks == local.report.chunks
