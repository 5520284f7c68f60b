"""The local source: ranges of bytes, the end of the file, threads, pickles and versions."""

import gc
import os
import pickle
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import h5py
import numpy as np
import pytest
import xarray as xr

from activestore import Active
from activestore.errors import ConfigurationError, SourceError, SourceNotFoundError, UnsupportedError
from activestore.export.netcdf import write_netcdf
from activestore.sources.open import LocalSource, open_source

CONTENT = bytes(range(256)) * 40


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "a.nc"
    path.write_bytes(CONTENT)
    return path


def test_ranges_come_in_the_order_in_which_they_were_asked_for(path):
    source = open_source(path)
    ranges = [(5000, 300), (0, 4), (0, 4), (10_239, 1), (3, 0), (100, 10_140)]
    assert source.read_ranges(ranges) == [CONTENT[offset : offset + size] for offset, size in ranges]
    assert source.read_ranges([]) == []


@pytest.mark.parametrize(
    ("offset", "size"), [(10_200, 100), (10_239, 2), (10_240, 5), (10_241, 5), (0, 1 << 62), (1 << 62, 1 << 62), (1 << 70, 5)]
)
def test_the_end_of_the_file_gives_fewer_bytes(path, offset, size):
    assert open_source(path).read_ranges([(offset, size)]) == [CONTENT[offset : offset + size]]


def test_a_path_in_one_s_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "data").mkdir()
    for number in range(2):
        with h5py.File(tmp_path / "data" / f"{number}.nc", "w") as file:
            file["t"] = [2.0 * number, 2 * number + 1]
            file["t"].make_scale("t")
            file["x"] = [2.0 * number, 2 * number + 1]
            file["x"].dims[0].attach_scale(file["t"])
    for given in ("~/data/1.nc", Path("~/data/1.nc")):
        assert open_source(given).uri == str(tmp_path / "data" / "1.nc")
        assert Active(given, "x").sum() == 5
        assert xr.open_dataset(given, engine="activestore").x.active.sum() == 5
    for given in ("~/data", "~/data/*.nc", ["~/data/0.nc", Path("~/data/1.nc")]):
        assert Active(given, "x").sum() == 6
        assert xr.open_dataset(given, engine="activestore").x.active.sum() == 6
    write_netcdf(Active("~/data/1.nc", "x").run("sum"), "~/out.nc")
    assert Active(tmp_path / "out.nc", "x").sum() == 5
    # What is there by that very name goes before.
    monkeypatch.chdir(tmp_path)
    (tmp_path / "~").mkdir()
    (tmp_path / "~" / "a").write_bytes(CONTENT)
    assert open_source("~/a").size == len(CONTENT)


def test_a_negative_offset_is_an_error(path):
    with pytest.raises(SourceError, match=r"a\.nc"):
        open_source(path).read_ranges([(0, 4), (-8, 4)])


def test_a_short_read_is_gone_on_with(path, monkeypatch):
    """An operating system may give fewer bytes than were asked for, at once or after a signal."""
    whole = os.pread
    monkeypatch.setattr(os, "pread", lambda descriptor, size, offset: whole(descriptor, min(size, 7), offset))
    assert open_source(path).read_ranges([(13, 500), (10_230, 100)]) == [CONTENT[13:513], CONTENT[10_230:]]


def test_a_file_that_has_shrunk_gives_what_is_left(path):
    source = open_source(path)
    os.truncate(path, 100)
    assert source.read_ranges([(50, 100), (200, 10)]) == [CONTENT[50:100], b""]


def test_what_was_appended_later_is_not_seen(path):
    source = open_source(path)
    with path.open("ab") as file:
        file.write(b"more")
    assert (source.size, source.read_ranges([(10_230, 100)])) == (10_240, [CONTENT[10_230:]])


def test_many_threads_read_at_once(path):
    source = open_source(path)

    def read(seed):
        numbers = np.random.default_rng(seed).integers(0, 10_240, (200, 2)).tolist()
        return all(source.read_ranges([(at, n)]) == [CONTENT[at : at + n]] for at, n in numbers)

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(read, range(64)))


def test_pickles_as_the_same_file_wherever_it_is_opened(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    source = open_source("a.nc")
    assert (source.uri, repr(source)) == ("a.nc", "LocalSource('a.nc')")
    packed = pickle.dumps(source)
    assert CONTENT[:64] not in packed
    monkeypatch.chdir("/")
    copy = pickle.loads(packed)
    assert (copy.size, copy.version, copy.read_ranges([(3, 5)])) == (source.size, source.version, [CONTENT[3:8]])
    path.unlink()
    with pytest.raises(SourceNotFoundError, match="no such file"):
        pickle.loads(packed).size  # noqa: B018


def test_the_version_is_that_of_the_bytes(path, tmp_path):
    source = open_source(path)
    assert source.current_version() == source.version == open_source(path).version
    for change in (
        lambda: path.write_bytes(CONTENT[:-1]),
        lambda: os.utime(path, ns=(0, 1)),
        lambda: (tmp_path / "other").write_bytes(CONTENT) and os.replace(tmp_path / "other", path),
    ):
        before = source.current_version()
        change()
        assert source.current_version() not in (before, source.version)
    path.unlink()
    with pytest.raises(SourceNotFoundError):
        source.current_version()


def test_a_file_that_was_replaced_is_still_the_old_one_to_who_has_it_open(path, tmp_path):
    source = open_source(path)
    (tmp_path / "other").write_bytes(b"other")
    os.replace(tmp_path / "other", path)
    assert source.read_ranges([(0, 5)]) == [CONTENT[:5]]
    assert source.current_version() != source.version


def test_a_run_refuses_a_file_that_has_changed_since(tmp_path):
    path = tmp_path / "x.h5"
    for number in (1.0, 2.0):
        with h5py.File(path, "w") as file:
            file["x"] = np.full(10, number)
        if number == 1:
            ours = Active(path, "x")
            packed = pickle.dumps(ours)
            assert ours.sum() == 10
    os.utime(path, ns=(0, 1))
    for stale in (ours, pickle.loads(packed)):
        with pytest.raises(SourceError, match="has changed since it was opened"):
            stale.sum()
    assert Active(path, "x").sum() == 20


def test_addresses(path, tmp_path):
    strange = tmp_path / "a b#c?d%20é.nc"
    strange.write_bytes(b"strange")
    for uri in (strange, str(strange), os.fsencode(strange), strange.as_uri()):
        assert open_source(uri).read_ranges([(0, 99)]) == [b"strange"]
    assert (open_source(path).for_hdf5(), open_source(path).is_remote) == (str(path), False)
    assert open_source(path.as_uri().replace("file:", "FILE:")).uri == str(path)
    assert open_source(f"local://{path}").read_ranges([(3, 5)]) == [CONTENT[3:8]]
    with pytest.raises(UnsupportedError, match=r"nosuch://bucket/a\.nc: cannot be opened: Protocol not known"):
        open_source("nosuch://bucket/a.nc")


@pytest.mark.parametrize("scheme", ["file", "local", "FILE"])
def test_an_address_of_a_file_is_read_whole(path, tmp_path, monkeypatch, scheme):
    """No part of it is dropped, so that no other file is read: it may be relative, at home, or have any sign in its name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "folder").mkdir()
    for name in ("a.nc", "a#b.nc", "a?b.nc", "a%20b.nc", "100%.nc", "localhost.nc"):
        (tmp_path / "folder" / name).write_bytes(name.encode())
        for place in (f"{tmp_path}/folder/{name}", f"localhost{tmp_path}/folder/{name}", f"~/folder/{name}", f"folder/{name}"):
            assert open_source(f"{scheme}://{place}").read_ranges([(0, 99)]) == [name.encode()]
    with pytest.raises(SourceNotFoundError, match=r"elsewhere/a\.nc: no such file"):
        open_source(f"{scheme}://elsewhere/a.nc")


@pytest.mark.parametrize(
    "address", ["https://store.example/a.nc", "s3://bucket/a.nc", "memory://a.nc", "https://store.example/a.zarr"]
)
@pytest.mark.parametrize(
    "options",
    [
        {"headers": "hunter2"},
        {"client_kwargs": 3},
        {"client_kwargs": {"headers": "hunter2"}},
        {"target_options": ["hunter2"]},
        {"remote_options": "hunter2"},
        {"anon": "False"},
    ],
)
def test_options_of_another_kind_are_refused(address, options):
    with pytest.raises(ConfigurationError, match=r"storage_options \w+: give (a mapping|true or false)") as refused:
        open_source(address, options)
    assert "hunter2" not in str(refused.value)


def test_what_cannot_be_opened(path, tmp_path):
    with pytest.raises(SourceNotFoundError, match="no such file; check the path"):
        open_source(tmp_path / "missing.nc")
    with pytest.raises(SourceError, match=r"a\.nc/b\.nc"):
        open_source(path / "b.nc")
    with pytest.raises(SourceError, match="is not a regular file"):
        open_source(tmp_path)
    with pytest.raises(SourceError, match="null byte"):
        open_source("a\0b.nc")
    with pytest.raises(SourceError, match="too long"):
        open_source("a" * 5000)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes here")
def test_a_pipe_is_refused_rather_than_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(SourceError, match="is not a regular file"):
        open_source(tmp_path / "pipe")


@pytest.mark.skipif(sys.platform != "linux", reason="counts the open files of Linux")
def test_the_file_is_closed_with_its_source(path, tmp_path):
    def opened():
        gc.collect()
        return sorted(link for link in map(os.path.realpath, Path("/proc/self/fd").iterdir()) if str(tmp_path) in link)

    source = LocalSource(str(path))
    assert opened() == [str(path)]
    del source
    with pytest.raises(SourceError):
        LocalSource(str(tmp_path))
    assert opened() == []
