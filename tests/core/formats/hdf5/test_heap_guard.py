"""Damaged heaps, in which the HDF5 library would go round for ever; and what else it must not read by itself."""

import fcntl
import io
import json
import os
import struct
import subprocess
import sys
from itertools import pairwise

import h5py
import netCDF4
import numpy as np
import pytest
import xarray as xr

from activestore import Active
from activestore.core.formats.hdf5.heap_guard import GuardedFile, is_endless
from activestore.errors import SourceError, UnsupportedError

FORM = struct.Struct("<H6xQ")
# In a process of its own, which can be ended: the library holds on to everything while it goes round.
CHILD = """
import json, sys
import fsspec
import numpy as np
import xarray as xr
from activestore import Active
from activestore.core.formats.read import variable_names
from activestore.errors import ActivestoreError
from activestore.sources.open import open_source

path, spots = sys.argv[1], json.loads(sys.argv[2])
content = open(path, "rb").read()
remote = fsspec.filesystem("memory")
tally = {"error": 0, "right": 0}
doors = [
    lambda: Active(path, "v").mean(),
    lambda: Active("memory://heap.nc", "v").mean(),
    lambda: xr.open_dataset(path, engine="activestore")["v"].values.mean(),
    lambda: xr.open_datatree(path, engine="activestore")["v"].values.mean(),
    lambda: "v" in variable_names(open_source(path)) and 3,
    lambda: xr.open_dataset(path, engine="activestore")["name"].values.tolist() and 3,
]
for at, bit in spots:
    changed = bytearray(content)
    changed[at] ^= 1 << bit
    open(path, "wb").write(changed)
    remote.pipe("/heap.nc", bytes(changed))
    for door in doors:
        # Text that was changed may be no text, and a variable whose scale is not found is left out.
        try:
            assert door() == 3, (at, bit)
            tally["right"] += 1
        except (ActivestoreError, UnicodeDecodeError, KeyError):
            tally["error"] += 1
print(json.dumps(tally))
"""


def with_netcdf4(path):
    with netCDF4.Dataset(path, "w") as file:
        file.createDimension("x", 4)
        file.createVariable("v", "f8", ("x",))[:] = [1, 2, 3, 6]
        file["v"].setncattr_string("note", "text of varying length")
        file.createVariable("name", str, ("x",))[:] = np.array(["a", "bb", "ccc", "dddd"], dtype=object)


def with_xarray(path):
    names = np.array(["a", "bb", "ccc", "dddd"], dtype=object)
    dataset = xr.Dataset({"v": ("x", [1.0, 2, 3, 6]), "name": ("x", names)}, attrs={"title": "heaps"})
    dataset.v.attrs["note"] = ["one", "two"]
    dataset.to_netcdf(path, engine="h5netcdf")


def with_h5py(path):
    """The newer format, and attributes that are so many that they are kept in a heap of their own."""
    with h5py.File(path, "w", libver="latest") as file:
        file["v"] = [1.0, 2, 3, 6]
        file["name"] = np.array(["a", "bb", "ccc", "dddd"], dtype=object)
        for i in range(20):
            file["v"].attrs[f"note {i}"] = f"text {i}" * i


def heaps(content):
    """Return where the collections of the global heap are."""
    found, at = [], content.find(b"GCOL")
    while at >= 0:
        found.append(at)
        at = content.find(b"GCOL", at + 1)
    return found


def sizes(content, heap):
    """Return where the sizes of a collection's objects are."""
    found, at = [], heap + 16
    while at + 16 <= heap + int.from_bytes(content[heap + 8 : heap + 16], "little"):
        number, size = FORM.unpack_from(content, at)
        found.append(at + 8)
        at += size if number == 0 else 16 + -(-size // 8) * 8
    return found


@pytest.mark.parametrize("write", [with_netcdf4, with_xarray, with_h5py])
def test_any_changed_bit_in_the_sizes_of_a_heap_ends(tmp_path, write):
    path = tmp_path / "a.nc"
    write(path)
    content = path.read_bytes()
    spots = [(at, bit) for heap in heaps(content)[:3] for at in sizes(content, heap)[:4] for bit in (3, 5, 7)]
    spots += [(at + 1, bit) for heap in heaps(content)[:3] for at in sizes(content, heap)[:2] for bit in (0, 2)]
    environment = {**os.environ, "ACTIVESTORE_CACHE": "off"}
    child = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", CHILD, str(path), json.dumps(spots)],
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
        env=environment,
    )
    assert child.returncode == 0, child.stderr[-2000:]
    tally = json.loads(child.stdout)
    assert tally["error"] > 0
    assert sum(tally.values()) == 6 * len(spots)


def collection(*objects, size=4096):
    """Return a collection of objects, each a number and a size, and the free space behind them."""
    body = b"".join(FORM.pack(number, length) + bytes(-(-length // 8) * 8) for number, length in objects)
    rest = size - 16 - len(body)
    return (b"GCOL\x01\0\0\0" + struct.pack("<Q", size) + body + FORM.pack(0, rest)).ljust(size, b"\0")


@pytest.mark.parametrize(
    ("objects", "wanted"),
    [
        ([], False),
        ([(1, 5), (2, 0), (3, 100)], False),
        ([(1, 5), (0, 0)], True),
        ([(1, 2**64 - 16)], True),
        ([(1, 2**64 - 20)], True),
        ([(1, 2**64 - 100)], True),
        ([(0, 2**64 - 32)], True),
    ],
)
def test_what_comes_to_no_end(objects, wanted):
    made = collection(*[one for one in objects if one[1] < 2**60])
    if any(length >= 2**60 for _, length in objects):
        made = made[:16] + FORM.pack(*objects[0]) + made[32:]
    assert is_endless(lambda at, size: made[at : at + size], FORM) is wanted


@pytest.mark.parametrize(
    "pieces", [[0, 200, 4200], [0, 103, 4200], [0, 100, 101, 102, 103, 104, 107, 4200], [0, 99, 106, 4200]]
)
def test_a_heap_that_is_read_in_pieces(pieces):
    """The library reads of a heap only what it has not read with what lies before it."""
    for endless in (False, True):
        content = bytes(100) + collection(*([(0, 0)] if endless else [(1, 5)])) + bytes(4)
        file = GuardedFile(io.BytesIO(b"\x89HDF\r\n\x1a\n\0\0\0\0\0\x08\x08\0" + content[16:]), "a.h5")

        def read(file=file):
            for start, end in pairwise(pieces):
                file.seek(start)
                room = bytearray(end - start)
                file.readinto(room)

        if endless:
            for _ in range(2):
                with pytest.raises(SourceError, match=r"a\.h5: is damaged: .* offset 100"):
                    read()
        else:
            read()


def test_text_that_looks_like_a_heap(tmp_path):
    path = tmp_path / "a.h5"
    words = ["GCOL", "GCOL\x01", "a GCOL\x01GCOL"]
    with h5py.File(path, "w") as file:
        file["v"] = [1.0, 2, 3]
        file["v"].attrs["note"] = words
        file["name"] = np.array(words, dtype=object)
    assert Active(path, "v").attrs["note"] == words
    assert xr.open_dataset(path, engine="activestore").name.values.tolist() == words


@pytest.mark.parametrize("width", [4, 8])
def test_files_of_other_widths(tmp_path, width):
    path = tmp_path / "a.h5"
    plist = h5py.h5p.create(h5py.h5p.FILE_CREATE)
    plist.set_sizes(8, width)
    with h5py.File(h5py.h5f.create(str(path).encode(), fcpl=plist)) as file:
        file["v"] = [1.0, 2, 3]
        file["v"].attrs["note"] = "text of varying length"
    assert Active(path, "v").attrs["note"] == "text of varying length"
    content = bytearray(path.read_bytes())
    (heap,) = heaps(content)
    content[heap + 16 : heap + 32] = bytes(16)
    path.write_bytes(content)
    assert Active(path, "v").attrs["note"] == "<unreadable>"
    assert Active(path, "v").sum() == 6


def test_a_file_that_another_program_writes(tmp_path, monkeypatch):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["v"] = [1.0, 2, 3]
    with path.open("rb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(SourceError, match="lock"):
            Active(path, "v")
        monkeypatch.setenv("HDF5_USE_FILE_LOCKING", "FALSE")
        assert Active(path, "v").sum() == 6
    monkeypatch.delenv("HDF5_USE_FILE_LOCKING")
    # As is one that another program reads.
    with path.open("rb") as other:
        fcntl.flock(other, fcntl.LOCK_SH)
        assert Active(path, "v").sum() == 6


@pytest.fixture
def linked(tmp_path):
    """A file with numbers that are in others: virtual, external, linked."""
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["x"], file["y"] = np.arange(4.0), np.arange(4.0) * 100
    (tmp_path / "raw").write_bytes(np.arange(7.0, 11.0).tobytes())
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        for name, place in (("x", "other.h5"), ("own", ".")):
            layout = h5py.VirtualLayout((4,), "f8")
            layout[:] = h5py.VirtualSource(place, "y", (4,))
            file.create_virtual_dataset(name, layout, fillvalue=-5)
        file["y"] = np.arange(4.0) + 1000
        file.create_dataset("raw", (4,), "f8", external=[(str(tmp_path / "raw"), 0, h5py.h5f.UNLIMITED)])
        file["link"] = h5py.ExternalLink("other.h5", "/y")
        file["to link"] = h5py.SoftLink("/link")
        file["group"] = h5py.ExternalLink("other.h5", "/")
        file["nowhere"] = h5py.ExternalLink("missing.h5", "/x")
    return path


def test_numbers_in_other_files_beside_a_local_one(linked):
    assert Active(linked, "x").read().tolist() == [0, 100, 200, 300]
    assert Active(linked, "own").read().tolist() == [1000, 1001, 1002, 1003]
    assert Active(linked, "raw").read().tolist() == [7, 8, 9, 10]
    with pytest.warns(UserWarning, match="is left out") as said:
        dataset = xr.open_dataset(linked, engine="activestore")
    assert ["'nowhere'" in str(one.message) for one in said] == [True]
    with dataset:
        assert dataset.x.values.tolist() == [0, 100, 200, 300]
        assert dataset.raw.active.sum() == 34
    for name in ("link", "to link", "group/y"):
        with pytest.raises(UnsupportedError, match=r"is a link into .*other\.h5"):
            Active(linked, name)
