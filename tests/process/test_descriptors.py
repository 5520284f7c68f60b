"""More files and connections than a process may have open."""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import h5py
import numpy as np
import pytest
import xarray as xr

from activestore import Active
from activestore.errors import SourceError
from activestore.process import descriptors
from activestore.sources.objects.stores import LocalObjects
from activestore.sources.open import open_source
from tests.web_stand_in import WebStandIn

resource = pytest.importorskip("resource", reason="this system does not tell how many files may be open")
FILES = 60


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files that follow each other in time."""
    folder = tmp_path_factory.mktemp("many")
    for number in range(FILES):
        with h5py.File(folder / f"{number:03}.nc", "w") as file:
            file["time"] = np.array([2.0 * number, 2 * number + 1])
            file["time"].make_scale("time")
            file["time"].attrs["units"] = "days since 2000-01-01"
            for name, data in (("v", np.array([number, number + 1], "f4")), ("through_hdf5", np.array([number] * 2, ">f4"))):
                options = {"chunks": (1,), "compression": "lzf"} if name == "through_hdf5" else {}
                variable = file.create_dataset(name, data=data, **options)
                variable.dims[0].attach_scale(file["time"])
    return folder


def open_now() -> int:
    return len(os.listdir("/proc/self/fd" if os.path.isdir("/proc/self/fd") else "/dev/fd"))


@contextmanager
def room_for(more: int) -> Iterator[None]:
    """Allow this process so many more open files than it has."""
    descriptors.let_go()
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    descriptors._count.measured_at = None
    resource.setrlimit(resource.RLIMIT_NOFILE, (open_now() + more, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
        descriptors._count.measured_at = None


@contextmanager
def all_taken() -> Iterator[None]:
    """Let others open all that is left."""
    with ExitStack() as taken:
        while (descriptor := _opened()) is not None:
            taken.callback(os.close, descriptor)
        yield


def _opened() -> int | None:
    try:
        return os.open(os.devnull, os.O_RDONLY)
    except OSError:
        return None


WANTED = float(np.mean([[n, n + 1] for n in range(FILES)]))


@pytest.mark.parametrize("variable", ["v", "through_hdf5"])
def test_more_files_than_may_be_open(folder, variable):
    wanted = WANTED if variable == "v" else WANTED - 0.5
    # A few for what opens files besides: modules, the HDF5 library in several threads.
    with room_for(30):
        active = Active(sorted(folder.glob("*.nc")), variable)
        assert active.mean() == wanted
        assert active.with_options(workers=1).mean() == wanted
        assert active[::3].count() == FILES * 2 / 3


def test_more_files_than_may_be_open_for_xarray(folder):
    with room_for(30):
        ds = xr.open_dataset(sorted(map(str, folder.glob("*.nc"))), engine="activestore")
        assert ds.sizes["time"] == 2 * FILES
        assert ds.v.active.mean().item() == WANTED
        assert ds.v.values.mean() == WANTED
        assert [xr.open_dataset(path, engine="activestore").v.values[0] for path in sorted(folder.glob("*.nc"))] == list(
            range(FILES)
        )


def test_what_is_kept_makes_room_for_others(folder):
    sources = [open_source(path) for path in sorted(folder.glob("*.nc"))[:8]]
    content = [Path(source.uri).read_bytes()[:100] for source in sources]
    with room_for(20):
        sources = [open_source(source.uri) for source in sources]
        kept = [source._file._descriptor is not None for source in sources]
        assert all(kept)
        with all_taken():
            assert open_source(folder / "010.nc").read_ranges([(0, 4)]) == [b"\x89HDF"]
            assert [source.read_ranges([(0, 100)])[0] for source in sources] == content
            with h5py.File(folder / "012.nc"):  # by others: there is room now
                pass
    assert [source.read_ranges([(0, 100)])[0] for source in sources] == content


@pytest.mark.parametrize(
    "opening",
    [
        lambda folder: open_source(folder / "010.nc"),
        lambda folder: Active(open_source(folder / "010.nc"), "v"),
        lambda folder: LocalObjects(str(folder)).read([("010.nc", 0, 4)]),
        lambda folder: list(LocalObjects(str(folder)).listed("")),
        lambda folder: xr.open_dataset(folder / "010.nc", engine="activestore"),
    ],
)
def test_what_is_said_where_nothing_helps(folder, opening):
    Active(folder / "010.nc", "v").mean()  # imports what it needs
    xr.open_dataset(folder / "010.nc", engine="activestore").load()
    with room_for(8):
        descriptors.let_go()
        with (
            all_taken(),
            pytest.raises(SourceError, match=r"too many files and connections are open .*raise the limit \(ulimit -n\)"),
        ):
            opening(folder)


def test_a_file_that_is_being_read_stays_open(folder):
    source = open_source(folder / "000.nc")
    with source._file.opened() as (descriptor, _):
        assert source._file.let_go() is False
        assert os.fstat(descriptor).st_size == source.size
    assert source._file.let_go() is True
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)
    assert source._file.let_go() is True
    assert source.read_ranges([(0, 4)]) == [b"\x89HDF"]


def test_a_file_that_was_let_go_of_and_replaced_is_another(tmp_path, folder):
    path = tmp_path / "a.nc"
    path.write_bytes((folder / "000.nc").read_bytes())
    source = open_source(path)
    descriptors.let_go()
    (tmp_path / "b.nc").write_bytes((folder / "001.nc").read_bytes())
    os.replace(tmp_path / "b.nc", path)
    with pytest.raises(SourceError, match="has changed since it was opened"):
        source.read_ranges([(0, 4)])


def test_more_web_files_than_connections_may_be_open(folder, monkeypatch):
    monkeypatch.setenv("ACTIVESTORE_CACHE", "off")
    with WebStandIn() as web:
        names = sorted(path.name for path in folder.glob("*.nc"))
        web.files |= {f"/{name}": (folder / name).read_bytes() for name in names}
        # The server is in this process, and has one for each of ours.
        with room_for(60):
            active = Active([f"{web.url}/{name}" for name in names], "v")
            assert active.mean() == WANTED
            assert active.mean() == WANTED
            assert web.open < 45


def test_connections_make_room_for_others_and_are_counted(folder):
    with WebStandIn() as web:
        web.files["/a"] = (folder / "000.nc").read_bytes()
        descriptors.let_go()
        before = descriptors._count.kept
        source = open_source(f"{web.url}/a")
        assert descriptors._count.kept == before + 1
        descriptors.let_go()
        assert descriptors._count.kept == before
        assert source._read((0, 4)) == b"\x89HDF"
        assert (web.connections, descriptors._count.kept) == (2, before + 1)
        source._client.close()
        assert descriptors._count.kept == before


def test_the_count_goes_down_with_whatever_is_forgotten(folder):
    before = descriptors._count.kept
    sources = [open_source(path) for path in sorted(folder.glob("*.nc"))[:5]]
    assert descriptors._count.kept == before + 5
    sources.clear()
    assert descriptors._count.kept == before


@pytest.mark.parametrize(("limit", "others", "allowed"), [(256, 56, 100), (1024, 24, 500), (1 << 20, 50, 4096), (20, 30, 1)])
def test_how_many_are_kept(monkeypatch, limit, others, allowed):
    count = descriptors._Count()
    monkeypatch.setattr(descriptors, "_limit", lambda: limit)
    monkeypatch.setattr(descriptors, "_open_here", lambda: others + count.kept)
    assert count.allowed() == allowed


def test_errors_that_are_of_that_kind():
    full = OSError(24, "Too many open files")
    wrapped = SourceError("it")
    wrapped.__cause__ = full
    assert descriptors.is_full(full)
    assert descriptors.is_full(wrapped)
    assert not descriptors.is_full(FileNotFoundError(2, "no such file"))
    assert not descriptors.is_full(None)
