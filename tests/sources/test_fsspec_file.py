"""Files wherever fsspec reaches: every layout in memory, chained addresses, versions, secrets and errors."""

import logging
import pickle
import tempfile
import threading
import time
import traceback
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fsspec
import h5py
import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from hypothesis import given, settings
from hypothesis import strategies as st

from activestore import Active
from activestore.cli import main as cli
from activestore.core.reductions import REDUCTIONS
from activestore.errors import ActivestoreError, SourceError, SourceNotFoundError, SumOverflowError, UnsupportedError
from activestore.sources.fsspec_file import FsspecSource
from activestore.sources.open import open_source
from tests import generated
from tests.generated import NAME, Recipe, recipes
from tests.web_stand_in import WebStandIn

CONTENT = np.random.default_rng(0).bytes(300_000)


@pytest.fixture
def memory():
    """fsspec's file system in memory, empty."""
    files = fsspec.filesystem("memory")
    yield files
    files.store.clear()
    files.pseudo_dirs[:] = [""]


@pytest.fixture
def x_file(chunked_file, memory):
    """The bytes of a file with `x(6, 8)`, also at memory://folder/x.h5."""
    content = chunked_file.read_bytes()
    memory.pipe_file("/folder/x.h5", content)
    return content


def test_ranges_versions_and_pickles(memory):
    memory.pipe_file("/a", CONTENT)
    source = open_source("memory://a")
    assert isinstance(source, FsspecSource)
    assert (source.uri, source.size, source.is_remote, repr(source)) == (
        "memory://a",
        300_000,
        True,
        "FsspecSource('memory://a')",
    )
    ranges = [(250_000, 100), (70_000, 10), (3, 0), (70_100, 1000), (299_990, 50), (400_000, 5), (70_000, 10), (-9, 5)]
    wanted = [CONTENT[at : at + size] if at >= 0 else b"" for at, size in ranges]
    assert source.read_ranges(ranges) == wanted == pickle.loads(pickle.dumps(source)).read_ranges(ranges)
    assert source.read_ranges([]) == []
    assert source.current_version() == source.version
    source.abandon()
    time.sleep(0.01)
    memory.pipe_file("/a", CONTENT[::-1])
    assert source.current_version() != source.version
    memory.rm("/a")
    for read in (source.current_version, lambda: source.read_ranges([(0, 5)]), lambda: pickle.loads(pickle.dumps(source)).size):
        with pytest.raises(SourceNotFoundError, match="memory://a: no such file; check the path"):
            read()


def as_bytes(result):
    return [(np.ma.getdata(value).tobytes(), np.ma.getmaskarray(value).tobytes()) for value in result.values.values()]


@settings(max_examples=settings().max_examples)
@given(recipe=recipes(), data=st.data())
def test_whatever_the_file_the_numbers_are_those_of_the_local_one(recipe: Recipe, data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "a.nc")
        generated.write(recipe, path)
        fsspec.filesystem("memory").pipe_file("/a.nc", path.read_bytes())
        local, remote = Active(path, NAME), Active("memory://a.nc", NAME)
        part = tuple(slice(*sorted(data.draw(st.lists(st.integers(0, 7), min_size=2, max_size=2)))) for _ in local.shape)
        axis = data.draw(st.sampled_from([None, *range(local.ndim)]))
        for selected in (np.s_[...], part):
            for name in REDUCTIONS:
                try:
                    wanted = as_bytes(local[selected].run(name, axis))
                except SumOverflowError:
                    with pytest.raises(SumOverflowError):
                        remote[selected].run(name, axis)
                else:
                    assert as_bytes(remote[selected].run(name, axis)) == wanted, name


def test_chained_addresses(x_file, tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("folder/x.h5", x_file)
    caches = {"simplecache": {"cache_storage": str(tmp_path / "one")}, "filecache": {"cache_storage": str(tmp_path / "two")}}
    for uri, options in (
        ("simplecache::memory://folder/x.h5", {"simplecache": caches["simplecache"]}),
        ("filecache::memory://folder/x.h5", {"filecache": caches["filecache"]}),
        (f"zip://folder/x.h5::{(tmp_path / 'a.zip').as_uri()}", None),
        (f"simplecache::zip://folder/x.h5::file://{tmp_path / 'a.zip'}", None),
    ):
        active = Active(uri, "x", storage_options=options)
        assert (active.sum(), active[1:, ::2].max()) == (1128, 46)
        assert pickle.loads(pickle.dumps(active)).sum() == 1128
    assert list((tmp_path / "one").iterdir())


def test_two_colons_in_the_name_of_a_local_file(tmp_path, monkeypatch, chunked_file):
    monkeypatch.chdir(tmp_path)
    Path("run::1.h5").write_bytes(chunked_file.read_bytes())
    assert Active("run::1.h5", "x").sum() == 1128
    with pytest.raises(ActivestoreError, match=r"run::2\.h5"):
        open_source("run::2.h5")


@pytest.mark.parametrize(
    ("uri", "kind", "message"),
    [
        ("memory://no.nc", SourceNotFoundError, r"memory://no\.nc: no such file; check the path"),
        ("memory://folder", SourceError, "memory://folder: is not a file; name a netCDF or HDF5 file"),
        ("nosuch://bucket/a.nc", UnsupportedError, "nosuch://bucket/a.nc: cannot be opened: Protocol not known: nosuch"),
        ("simplecache::nosuch://a.nc", UnsupportedError, "Protocol not known"),
        ("gs://bucket/a.nc", UnsupportedError, "gs://bucket/a.nc: cannot be opened: .*[Ii]nstall gcsfs"),
        ("abfs://container@account/a.nc", UnsupportedError, "adlfs"),
        ("zip://a.nc::file:///no/such.zip", SourceNotFoundError, "no such file"),
        ("ftp://127.0.0.1:1/a.nc", SourceError, "refused"),
        ("memory://", ActivestoreError, "memory://"),
    ],
)
def test_what_cannot_be_opened_is_one_line(x_file, capsys, uri, kind, message):
    with pytest.raises(kind, match=message) as caught:
        open_source(uri)
    assert "\n" not in str(caught.value)
    assert cli.main(["inspect", uri]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("activestore: error: ")
    assert printed.err.count("\n") == 1


@pytest.mark.parametrize(
    "error", [PermissionError("no"), OSError("broken"), RuntimeError("odd"), KeyError("x"), EOFError(), TimeoutError()]
)
def test_whatever_a_file_system_raises_is_ours(x_file, monkeypatch, error):
    source = open_source("memory://folder/x.h5")

    def fail(*_, **__):
        raise error

    monkeypatch.setattr(MemoryFileSystem, "cat_file", fail)
    with pytest.raises(SourceError, match=r"memory://folder/x\.h5: ") as caught:
        source.read_ranges([(0, 5)])
    assert "\n" not in str(caught.value)
    with pytest.raises(SourceError, match=r"memory://folder/x\.h5: "):
        Active("memory://folder/x.h5", "x")


def test_a_file_that_has_shrunk(memory, x_file):
    active = Active("memory://folder/x.h5", "x")
    time.sleep(0.01)
    memory.pipe_file("/folder/x.h5", x_file[:-300])
    with pytest.raises(SourceError, match="has changed since it was opened"):
        active.sum()


def test_file_systems_that_are_not_asynchronous_are_asked_one_thing_at_a_time(memory, monkeypatch):
    memory.pipe_file("/a", CONTENT)
    source, under_way, most = open_source("memory://a"), 0, 0
    whole = MemoryFileSystem.cat_file

    def counted(*arguments, **options):
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        time.sleep(0.001)
        under_way -= 1
        return whole(*arguments, **options)

    monkeypatch.setattr(MemoryFileSystem, "cat_file", counted)
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(lambda at: source.read_ranges([(at, 9)]) == [CONTENT[at : at + 9]], range(50))) == {True}
    assert most == 1


def test_metadata_are_kept_while_it_is_open(memory, x_file, monkeypatch):
    active, asked = Active("memory://folder/x.h5", "x"), []
    active.plan("mean")
    whole = MemoryFileSystem.cat_file
    monkeypatch.setattr(MemoryFileSystem, "cat_file", lambda *a, **k: asked.append(a) or whole(*a, **k))
    for _ in range(3):
        active.plan("mean")
    assert asked == []


def test_many_threads_share_one(x_file):
    active = Active("memory://folder/x.h5", "x")
    with ThreadPoolExecutor(8) as pool:
        assert {future.result() for future in [pool.submit(active.sum) for _ in range(40)]} == {1128}
    assert [one for one in threading.enumerate() if one.name.startswith("activestore")] == []


def test_secrets_appear_nowhere(x_file, caplog, monkeypatch):
    caplog.set_level(logging.DEBUG, "activestore")
    options = {"key": "hunter2", "client_kwargs": {"password": "hunter2", "region": "here"}, "nested": [{"token": "hunter2"}]}
    told = []

    def fails(_files, path, **_):
        raise OSError(path)

    for uri in (
        "memory://me:hunter2@folder/x.h5?sig=hunter2",
        "simplecache::memory://me:hunter2@folder/x.h5",
        "memory://folder/x.h5",
    ):
        for _ in range(2):
            try:
                source = open_source(uri, {} if uri.startswith("simple") else options)
                told += [repr(source), source.uri, pickle.dumps(source).decode("latin-1"), source.version]
                source.read_ranges([(0, 5)])
            except ActivestoreError as error:
                told += list(errors(error))
            monkeypatch.setattr(MemoryFileSystem, "cat_file", fails)
        monkeypatch.undo()
    assert len(told) >= 9
    assert not [text for text in told if "hunter2" in text]
    assert "hunter2" not in caplog.text


@pytest.mark.parametrize("login", ["me:hunter2", "me:hunter 2", "me:hunter%2"])
def test_fsspec_logs_no_secrets_of_ours(chunked_file, caplog, login):
    caplog.set_level(logging.DEBUG)
    with WebStandIn() as web:
        web.files["/x.h5"] = chunked_file.read_bytes()
        for start in ("", "simplecache::"):
            address = f"{start}http://{login}@{web.address}/x.h5?code=hunter2"
            source = open_source(address, {"block_size": 1000} if not start else {})
            assert isinstance(source, FsspecSource)
            assert source.read_ranges([(0, 4)]) == [b"\x89HDF"]
            assert b"hunter" not in pickle.dumps(source)
        assert any(record.name == "fsspec.http" for record in caplog.records)
        assert [record for record in caplog.records if "hunter" in record.getMessage()] == []
        others = logging.getLogger("fsspec.http")
        others.debug("http://others/a?code=1")
        assert "http://others/a?code=1" in caplog.text


def errors(error):
    """Yield what Python prints of an error and its causes."""
    while error is not None:
        yield from traceback.format_exception_only(error)
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def test_an_address_is_kept_as_it_is_but_for_its_secrets():
    from activestore.network.redaction import kept_address as kept

    for uri in (
        "memory://folder/a b#c.nc",
        "abfs://container@account.dfs.core.windows.net/a.nc",
        "s3://bucket/a@b?key=c#d.nc",
        "https://host/a.nc?page=1&part=2#mode=bytes",
        "zip://a.nc::simplecache::https://host/a.zip",
        "sftp://me@host/a.nc",
        "/local/me:you@here/a.nc",
    ):
        assert kept(uri) == uri
    assert kept("ftp://me:hunter2@host/a@b.nc") == "ftp://me@host/a@b.nc"
    assert kept("https://me:hunter2@host/a.nc?sig=x") == "https://host/a.nc"
    assert kept("zip://a.nc::https://me:hunter2@host/a.zip?page=1&token=x") == "zip://a.nc::https://host/a.zip?page=1"


def test_nothing_else_is_imported_for_other_file_systems():
    """A file system of fsspec's own needs neither an HTTP client nor what S3 needs."""
    import subprocess
    import sys

    program = (
        "import sys, importlib.abc\n"
        "class Refuse(importlib.abc.MetaPathFinder):\n"
        "    def find_spec(self, name, path, target=None):\n"
        "        if name.split('.')[0] in {'urllib3', 'botocore', 's3fs', 'aiohttp'}:\n"
        "            raise ImportError(name, name=name)\n"
        "sys.meta_path.insert(0, Refuse())\n"
        "import fsspec\n"
        "from activestore.sources.open import open_source\n"
        "fsspec.filesystem('memory').pipe_file('/a', b'abc')\n"
        "print(open_source('memory://a').read_ranges([(1, 5)]))\n"
        "for uri in ('https://host/a.nc', 's3://bucket/a.nc'):\n"
        "    try:\n"
        "        open_source(uri)\n"
        "    except NotImplementedError as error:\n"
        "        print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == [
        "[b'bc']",
        "https://host/a.nc: needs urllib3: pip install '.[http]' in a clone of activestore",
        "s3://bucket/a.nc: needs botocore: pip install '.[s3]' in a clone of activestore",
    ], done.stderr


def test_every_layout(memory, tmp_path):
    with h5py.File(tmp_path / "a.h5", "w", userblock_size=512) as file:
        file.create_dataset("chunked", data=np.arange(1000), chunks=(7,))
        file["contiguous"] = np.arange(200_000)
        file.create_dataset("unwritten", (50,), "f4", chunks=(5,), fillvalue=3)
        file.create_dataset("packed/through HDF5", data=np.arange(5000, dtype="i4"), chunks=(500,), scaleoffset=0)
        file["scalar"] = 4.0
    memory.pipe_file("/a.h5", (tmp_path / "a.h5").read_bytes())
    for name in ("chunked", "contiguous", "unwritten", "packed/through HDF5", "scalar"):
        local, remote = Active(tmp_path / "a.h5", name), Active("memory://a.h5", name)
        assert as_bytes(remote.run(("sum", "min", "max"))) == as_bytes(local.run(("sum", "min", "max")))
        assert remote.run("sum").report.where == local.run("sum").report.where


def test_the_picture_of_a_part_says_nothing_of_chunks_that_were_not_looked_up(memory, tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("x", data=np.arange(4000.0), chunks=(4,))
    memory.pipe_file("/a.h5", (tmp_path / "a.h5").read_bytes())
    assert "never written" not in Active(tmp_path / "a.h5", "x")[:100]._repr_html_()
    assert "never written" not in Active("memory://a.h5", "x")[:100]._repr_html_()
