"""Chunk indexes of which bits were changed: the right numbers or an error, never others that the HDF5 library does not give."""

import random
import struct
from collections import Counter
from typing import Any

import h5py
import numpy as np
import pytest

from activestore import Active
from activestore.errors import ActivestoreError
from activestore.sources.open import LocalSource

INDEXES: dict[str, tuple[Any, tuple[int, ...], tuple[int, ...], tuple[int | None, ...] | None]] = {
    "a leaf": ("earliest", (16,), (4,), None),
    "two levels": ("earliest", (200,), (1,), None),
    "two dimensions": ("earliest", (30, 20), (3, 4), (None, 20)),
    "fixed array": ("latest", (40,), (4,), None),
    "extensible array": ("latest", (200,), (4,), (None,)),
    "B-tree of version 2": ("latest", (30, 20), (3, 4), (None, None)),
}
_SIGNATURES = (b"TREE\x01", b"FAHD", b"FADB", b"EAHD", b"EAIB", b"EADB", b"EASB", b"BTHD", b"BTIN", b"BTLF")
_KEYS = (..., np.s_[2:9:3])


class Remote(LocalSource):
    """A local file of which only those branches of an index are read that a selection needs."""

    is_remote = True


def written(path, kind, *, filtered):
    """Write the numbers "x", and return them, the bytes of the file, and where the bytes of its index are."""
    libver, shape, chunks, maxshape = INDEXES[kind]
    numbers = np.arange(1.0, 1 + np.prod(shape)).reshape(shape)
    options = {"compression": "gzip"} if filtered else {}
    with h5py.File(path, "w", libver=libver) as file:
        file.create_dataset("x", data=numbers, chunks=chunks, maxshape=maxshape, fillvalue=-1.0, **options)
    content, is_data, spots = path.read_bytes(), set(), []
    with h5py.File(path) as file:
        file["x"].id.chunk_iter(lambda chunk: is_data.update(range(chunk.byte_offset, chunk.byte_offset + chunk.size)))
    for signature in _SIGNATURES:
        at = content.find(signature)
        while at >= 0:
            used = struct.unpack_from("<H", content, at + 6)[0]
            width = 24 + (used + 1) * 8 * (len(shape) + 3) if signature.startswith(b"TREE") else 400
            spots += [spot for spot in range(at, min(at + width, len(content))) if spot not in is_data]
            at = content.find(signature, at + 1)
    return numbers, content, spots


def damaged(content, spots, choose):
    """Return the bytes with one to three of the spots changed."""
    changed = bytearray(content)
    for _ in range(choose.choice([1, 1, 1, 2, 3])):
        at = choose.choice(spots)
        kind = choose.random()
        if kind < 0.6:
            changed[at] ^= 1 << choose.randrange(8)
        elif kind < 0.8:
            changed[at] = choose.randrange(256)
        else:
            word = choose.choice([b"\xff" * 8, bytes(8), struct.pack("<Q", choose.randrange(len(content)))])
            changed[at : at + 8] = word[: len(changed[at : at + 8])]
    return bytes(changed)


def found(read):
    """Return what is read, or the error."""
    try:
        return np.ma.filled(read(), -1.0)
    except Exception as error:  # noqa: BLE001  # which one is looked at below
        return error


def library(path, key):
    with h5py.File(path) as file:
        return file["x"][...][key]


@pytest.mark.parametrize("kind", INDEXES)
@pytest.mark.parametrize("filtered", [False, True], ids=["raw", "compressed"])
def test_what_is_read_of_a_damaged_index(tmp_path, kind, filtered):
    path, tally = tmp_path / "a.h5", Counter()
    numbers, content, spots = written(path, kind, filtered=filtered)
    for seed in range(30):
        choose = random.Random(f"{kind} {filtered} {seed}")  # noqa: S311  # no secret
        path.write_bytes(damaged(content, spots, choose))
        for key in _KEYS:
            theirs = found(lambda key=key: library(path, key))
            for source in (path, Remote(path)):
                ours = found(lambda source=source, key=key: Active(source, "x")[key].read())
                if isinstance(ours, Exception):
                    assert isinstance(ours, ActivestoreError), f"seed {seed}: {ours!r}"
                    tally["error"] += 1
                elif np.array_equal(ours, numbers[key]):
                    tally["right"] += 1
                else:
                    # Byte by byte: of some bytes NaN is made.
                    assert np.asarray(ours).tobytes() == np.asarray(theirs).tobytes(), f"seed {seed}, {key}"
                    tally["wrong, as the library"] += 1
    assert tally["error"] > 25
    # Where no checksum is, an address can be that of other bytes.
    assert tally["wrong, as the library"] <= 6
