"""The suite for plugin authors: the local backend passes it, on a disk and on a source like those far away; bad ones do not."""

import dataclasses
import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from activestore import Active, Capabilities
from activestore.backends.posix import PosixBackend
from activestore.core.task import ChunkPartial
from activestore.errors import BackendError
from activestore.sources.open import open_source
from activestore.testing.cases import CASES, damages
from activestore.testing.conformance import BackendTests
from activestore.testing.reference import Request
from tests.test_docs import blocks_of, write


class TestOnADisk(BackendTests):
    @pytest.fixture
    def publish(self):
        return lambda path: (str(path), {"backend": "posix"})


class TestThroughFsspec(BackendTests):
    """The same files, read as those of stores that only fsspec reaches are."""

    @pytest.fixture
    def publish(self):
        return lambda path: (f"local://{path}", {"backend": "posix"})


class Limited(PosixBackend):
    """A plugin's backend, given as an object, that can do little and gives some of it back."""

    name = "limited"
    capabilities = Capabilities(
        components=frozenset({"min", "max"}), dtypes=frozenset({"f4", "f8", "i4"}), codecs=frozenset({"zlib", "shuffle"})
    )

    def refusal(self, task):
        return "the last rows" if task.chunk[:1] == (2,) and task.template.dtype == "<i4" else None

    def reduce_chunk(self, task):
        if task.chunk[1:2] == (1,) and task.template.dtype == "<f4":
            raise BackendError(f"{task.describe()}: not today", reason="not today")
        return super().reduce_chunk(task)


class TestAPluginThatCanDoLittle(BackendTests):
    @pytest.fixture
    def publish(self):
        return lambda path: (str(path), {"backend": Limited(open_source(path))})


class Bad(PosixBackend):
    """A backend that computes everything, and something wrongly."""

    name = "bad"
    capabilities = Capabilities()

    def reduce_chunk(self, task):
        good = super().reduce_chunk(task)
        states = {name: tuple(map(self.spoilt, state)) for name, state in good.states.items()}
        return ChunkPartial(good.sequence, states, self.count(good.count, task))

    def spoilt(self, array):
        return array

    def count(self, count, task):  # noqa: ARG002
        return count


class ForgetsMissing(Bad):
    def reduce_chunk(self, task):
        template = dataclasses.replace(task.template, missing=type(task.template.missing)())
        return super().reduce_chunk(dataclasses.replace(task, template=template))


class AddsInSinglePrecision(Bad):
    def spoilt(self, array):
        return array.astype("f4").astype(array.dtype) if array.dtype == "f8" else array


class CountsOneTooMany(Bad):
    def count(self, count, task):
        return count + (task.chunk[-1] == 1)


class IgnoresChecksums(Bad):
    def reduce_chunk(self, task):
        codecs = tuple(codec for codec in task.codecs if codec.id != "fletcher32")
        cut = 4 * (len(task.codecs) - len(codecs))
        return super().reduce_chunk(dataclasses.replace(task, codecs=codecs, size=task.size - cut))


class TakesDamageForZeros(Bad):
    def reduce_chunk(self, task):
        try:
            return super().reduce_chunk(task)
        except ValueError:
            return super().reduce_chunk(dataclasses.replace(task, offset=None, size=0))


class Swaps(Bad):
    def spoilt(self, array):
        return np.flip(array)


class Suite(BackendTests):
    """The suite as an object, for one test of it at a time."""

    def __init__(self, backend, folder):
        self._backend, self._folder = backend, Path(folder)

    def opened_with(self, what):
        path = self._folder / "x.nc"
        what.write(path)
        return Active(path, "x", backend=self._backend(open_source(str(path))))


DAMAGES = {damage.name: damage for damage in damages()}


@pytest.mark.parametrize(
    ("bad", "case"),
    [
        (ForgetsMissing, "a fill value"),
        (ForgetsMissing, "valid_min of zero"),
        (ForgetsMissing, "packed, with a fill value"),
        (AddsInSinglePrecision, "type f4"),
        (CountsOneTooMany, "all missing"),
        (CountsOneTooMany, "type i1"),
        (Swaps, "three dimensions"),
    ],
)
def test_wrong_numbers_are_noticed(tmp_path, bad, case):
    suite = Suite(bad, tmp_path)
    with pytest.raises(AssertionError, match=r"NumPy has"):
        suite.test_numbers_are_those_of_numpy(suite.opened_with, case)
    Suite(Bad, tmp_path).test_numbers_are_those_of_numpy(Suite(Bad, tmp_path).opened_with, case)


@pytest.mark.parametrize(
    ("bad", "damage"),
    [
        (IgnoresChecksums, "a bit flipped under a checksum"),
        (TakesDamageForZeros, "deflated bytes overwritten"),
        (TakesDamageForZeros, "fewer numbers than a chunk has"),
    ],
)
def test_damage_that_is_passed_over_is_noticed(tmp_path, bad, damage):
    suite = Suite(bad, tmp_path)
    with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"):
        suite.test_a_damaged_chunk_is_an_error(suite.opened_with, DAMAGES[damage])


def test_sums_are_held_to_what_the_backend_promises(tmp_path):
    suite = Suite(AddsInSinglePrecision, tmp_path)
    active, case = suite.opened_with(CASES["type f4"]), CASES["type f4"]
    suite.sum_tolerance = lambda _stored: 1e-6
    suite.check(active, case, Request((...,), 0), ("sum",))
    suite.sum_tolerance = lambda _stored: 1e-9
    with pytest.raises(AssertionError, match="NumPy has"):
        suite.check(active, case, Request((...,), 0), ("sum",))


def test_every_test_of_the_suite_says_what_it_is_for():
    tests = {name: one for name, one in vars(BackendTests).items() if name.startswith("test_")}
    assert len(tests) > 25
    assert all(inspect.getdoc(one) for one in tests.values())


def test_the_plugin_of_the_documentation_passes(tmp_path):
    for block in blocks_of("docs/backends.md"):
        if block.title is not None:
            write(block, tmp_path)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    # netCDF4 names a folder of filters there that belong to its own HDF5 library.
    environment.pop("HDF5_PLUGIN_PATH", None)
    chosen = "not numpy or missing or contiguous or chunk"
    command = [sys.executable, "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider", "-k", chosen, "test_mystore.py"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr
    assert int(re.search(r"(\d+) passed", done.stdout)[1]) > 200
