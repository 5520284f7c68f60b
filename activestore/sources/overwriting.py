"""Whether what is written somewhere would change what a source reads."""

from __future__ import annotations

import os
from collections.abc import Iterator

from activestore.core.formats.read import locate, read_variable, variable_names
from activestore.core.lazy_pickle import LaterSource
from activestore.core.source import ReadableSource
from activestore.errors import ActivestoreError
from activestore.sources.objects.kerchunk import KerchunkSource
from activestore.sources.objects.stores import LocalObjects
from activestore.sources.objects.zarr import ZarrSource
from activestore.sources.open import LocalSource, local_path

__all__ = ["is_changed_by_file", "is_changed_by_store"]

_OTHER_NAMES = {"s3a": "s3", "gcs": "gs", "abfss": "abfs"}
"""Protocols of two names."""


def is_changed_by_file(source: ReadableSource, target: str | int) -> bool:
    """Return whether a file that is written at an address, or to a descriptor, changes what a source reads.

    Raises:
        SourceError: The source was unpickled, and cannot be opened.
    """
    if isinstance(target, int):
        return any(isinstance(one, LocalSource) and one.is_of(target) for one in _read_by(source))
    return any(_same_or_inside(target, one) for one in _read_by(source))


def is_changed_by_store(source: ReadableSource, target: str) -> bool:
    """Return whether a Zarr store, or a group of one, that is written at an address changes what a source reads.

    A new group does not.
    """
    return any(
        _same_or_inside(_address(one), target) or (_same_or_inside(target, one) and not _is_new(target))
        for one in _read_by(source)
    )


def _read_by(source: ReadableSource) -> Iterator[ReadableSource | str]:
    """Yield the source, or the files that it has its bytes from: open ones, or their addresses."""
    source = source.opened if isinstance(source, LaterSource) else source
    if not isinstance(source, KerchunkSource):
        yield source
        return
    yield from _read_by(source.file)
    try:
        names = variable_names(source)
    except ActivestoreError:
        return
    for name in names:
        try:
            locate(read_variable(source, name), source)
        except ActivestoreError:
            continue
    yield from source.targets


def _address(place: ReadableSource | str) -> str:
    if isinstance(place, str):
        return place
    if isinstance(place, ZarrSource) and isinstance(place.objects, LocalObjects):
        return place.objects.root
    return place.for_hdf5() if isinstance(place, LocalSource) else place.uri


def _same_or_inside(target: str, place: ReadableSource | str) -> bool:
    """Return whether a target is a place, whatever name it has there, or lies in it."""
    path, own = local_path(target), local_path(_address(place))
    if path is not None and isinstance(place, LocalSource):
        return place.is_of(path)
    # Hard links, and systems for which two spellings are one.
    if path is not None and own is not None and os.path.exists(path) and os.path.exists(own) and os.path.samefile(path, own):
        return True
    return any((one + "/").startswith(other + "/") for one in _names(target) for other in _names(_address(place)))


def _names(address: str) -> list[str]:
    """Return the canonical names of what an address leads to: several where addresses are chained."""
    found = []
    for part in address.split("::"):
        path = local_path(part)
        if path is not None:
            found.append(f"file://{os.path.realpath(path)}")
        elif "://" in part:
            protocol, _, rest = part.partition("://")
            found.append(f"{_OTHER_NAMES.get(protocol.lower(), protocol.lower())}://{rest.strip('/')}")
    return found


def _is_new(target: str) -> bool:
    path = local_path(target)
    return path is not None and not os.path.exists(path)
