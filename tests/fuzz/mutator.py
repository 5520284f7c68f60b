"""Damage: bytes of files that are flipped, cut off, zeroed, swapped, or written elsewhere as well."""

from pathlib import Path

import numpy as np

from tests.fuzz.case import Damage

__all__ = ["DAMAGES", "damage"]

DAMAGES = ("flip", "flip", "flip", "cut", "swap", "zero", "copy")


def damage(path: Path, one: Damage) -> None:
    """Damage a file, or one of the files of a store."""
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    # Documents come more often than chunks: they decide what the chunks mean.
    documents = [file for file in files if file.suffix == ".json" or file.name.startswith(".z")]
    files = documents * 3 + files
    target = files[int(one.file * len(files))]
    data = bytearray(target.read_bytes())
    if data:
        target.write_bytes(_damaged(data, one))


def _damaged(data: bytearray, one: Damage) -> bytes:
    # Zeros are mostly space that nothing reads.
    places = np.flatnonzero(np.frombuffer(bytes(data), "u1")) if any(data) else np.arange(len(data))
    at, to = (int(places[int(share * len(places))]) for share in (one.at, one.to))
    size = min(one.size, len(data) - max(at, to))
    if one.kind == "flip":
        for bit in range(min(one.size, 8)):
            place = (at + bit * 7) % len(data)
            data[place] ^= 1 << (to + bit) % 8
    elif one.kind == "cut":
        del data[at:]
    elif one.kind == "zero":
        data[at : at + one.size] = bytes(len(data[at : at + one.size]))
    elif one.kind == "swap":
        data[at : at + size], data[to : to + size] = data[to : to + size], data[at : at + size]
    else:
        data[to : to + size] = data[at : at + size]
    return bytes(data)
