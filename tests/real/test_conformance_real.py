"""Each backend passes the suite for plugin authors on real servers, and they agree with each other on made-up files."""

import itertools
import os
import shutil
import warnings
from collections import Counter
from dataclasses import replace
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
from tests.expected import EXACT, Request, cells_of, fits, magnitude, requests
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


@pytest.fixture
def as_files(web_server):
    """Puts a file where a server on the same machine reads it."""
    return lambda path: (str(web_server.folder / copied(path, web_server.folder)), {})


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


class TestEmbeddedOnS3(BackendTests):
    # It computes with the kernel: no further from NumPy's sums than this process is.
    @pytest.fixture
    def publish(self, in_s3, embedded):
        return with_options(in_s3, backend="reductionist", server=embedded.url)


class TestEmbeddedOnTheWeb(BackendTests):
    # How numbers come about does not depend on where the server reads the chunks.
    test_every_selection_along_every_axis = None

    @pytest.fixture
    def publish(self, on_the_web, embedded):
        return with_options(on_the_web, backend="reductionist", server=embedded.url)


class TestEmbeddedOnFiles(BackendTests):
    # How numbers come about does not depend on where the server reads the chunks.
    test_every_selection_along_every_axis = None

    @pytest.fixture
    def publish(self, as_files, embedded):
        return with_options(as_files, backend="reductionist", server=embedded.url)


class TestEmbeddedByTheProtocolOnS3(TestReductionistOnS3):
    @pytest.fixture
    def publish(self, in_s3, embedded):
        return with_options(in_s3, backend="reductionist", server=embedded.url, backend_options={"extension": False})


class TestEmbeddedByTheProtocolOnTheWeb(TestReductionistOnTheWeb):
    @pytest.fixture
    def publish(self, on_the_web, embedded):
        return with_options(on_the_web, backend="reductionist", server=embedded.url, backend_options={"extension": False})


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
    np.testing.assert_array_equal(np.ma.getmaskarray(found), np.ma.getmaskarray(local))
    if found is np.ma.masked:
        return
    assert found.dtype == local.dtype
    here, there = (np.ma.filled(one, 0).astype("f8").reshape(-1) for one in (found, local))
    off = np.zeros(len(here)) if name in EXACT else allowed(name, part, request, scale)
    with np.errstate(all="ignore"):
        good = (here == there) | (np.isnan(here) & np.isnan(there)) | (np.abs(here - there) <= off)
    assert good.all(), f"{name}: {here[~good]}, locally {there[~good]}, give or take {off[~good]}"


def allowed(name: str, part: Active, request: Request, scale: float) -> np.ndarray:
    """How far results may be off: sums and means of float32 by 1e-6 of the mean of |x|, all else in the last digits."""
    cells = cells_of(part.read(), request)
    sizes = np.where(cells.valid, np.abs(cells.values.astype("f8")), 0)
    with np.errstate(all="ignore"):
        size = np.maximum(sizes.sum(axis=1) / np.maximum(cells.valid.sum(axis=1), 1), scale)
    if name in {"sum", "mean"}:
        terms = cells.valid.sum(axis=1) if name == "sum" else 1
        return (1e-6 if part.variable.dtype.str[1:] == "f4" else 1e-12) * size * terms
    largest = np.maximum(sizes.max(axis=1, initial=0), scale)
    return 1e-12 * (largest**2 if name == "var" else largest)


def within_reach(recipe: Recipe) -> Recipe:
    """Return a recipe of a like file that the protocol has words for, of chunks with more bytes than an answer."""
    order, kind, size = recipe.dtype[0], recipe.dtype[1], int(recipe.dtype[2])
    filters = recipe.filters
    if filters not in {"none", "gzip", "shuffle gzip", "shuffle gzip fletcher32", "zlib", "shuffle zlib"}:
        filters = "shuffle gzip" if recipe.container.startswith("HDF5") else "shuffle zlib"
    filters = filters if recipe.chunks is not None else "none"
    times = {0: 1, 1: 40, 2: 7, 3: 4}[len(recipe.shape)]
    return replace(
        recipe,
        dtype=f"{'<' if order == '|' else order}{kind}{max(4, size)}",
        filters=filters,
        shape=tuple(n * times for n in recipe.shape),
        chunks=recipe.chunks and tuple(n * times for n in recipe.chunks),
        written=recipe.written and tuple((first * times, last * times) for first, last in recipe.written),
        compact=False,
    )


def test_every_reduction_through_a_server_is_that_of_the_local_backend(everywhere: Everywhere) -> None:
    where: Counter[str] = Counter()

    @settings(max_examples=EXAMPLES // 3)
    @given(recipe=recipes(), data=st.data())
    def whatever_the_file(recipe: Recipe, data: st.DataObject) -> None:
        near, far = everywhere.opened(recipe)
        request = data.draw(requests(near))
        for active in far.values():
            compared(recipe, request, near, active)

    @settings(max_examples=EXAMPLES)
    @given(recipe=recipes().map(within_reach), data=st.data())
    def where_the_server_can_do_it(recipe: Recipe, data: st.DataObject) -> None:
        near, far = everywhere.opened(recipe)
        request = data.draw(requests(near).filter(is_slices_and_reduces))
        for active in far.values():
            where.update(compared(recipe, request, near, active))

    whatever_the_file()
    where_the_server_can_do_it()
    assert where["reductionist"] > 10 * EXAMPLES, where


def is_slices_and_reduces(request: Request) -> bool:
    """Whether there is something to be reduced, and no position listed: that the protocol cannot do."""
    listed = any(isinstance(item, (list, np.ndarray)) for key in request.keys for item in key)
    return not listed and (not request.keys or bool(request.axes))


def compared(recipe: Recipe, request: Request, near: Active, far: Active) -> Counter[str]:
    """Compare every reduction of one part, and return how many chunks were computed by what."""
    part, scale, where = cut(near, request), magnitude(recipe, near), Counter[str]()
    options = {"keepdims": request.keepdims, "skipna": request.skipna}
    for name in REDUCTIONS:
        if not fits(part.read(), request, name):
            continue
        local = part.run(name, request.axis, **options)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FallbackWarning)
            found = cut(far, request).run(name, request.axis, **options)
        check_like_local(name, found.value, local.value, part, request, scale)
        np.testing.assert_array_equal(found.count, local.count)
        assert sum(found.report.where.values()) == found.report.chunks == local.report.chunks
        where.update(found.report.where)
    return where
