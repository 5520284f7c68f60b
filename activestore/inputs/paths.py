"""Which files an address stands for: one, those that a pattern matches, or those in a folder."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from activestore.errors import ArgumentError, ConfigurationError, JoinError, SourceNotFoundError
from activestore.network.redaction import public_address
from activestore.sources.open import Source, local_path

__all__ = ["Address", "Addresses", "check_several", "files_of", "is_local"]

SUFFIXES = (".nc", ".nc3", ".nc4", ".cdf", ".netcdf", ".h5", ".hdf5", ".he5")
"""How the names of the files end that are taken from a folder."""
_PATTERN = re.compile(r"[*?[]")
_OF_STORES = frozenset({"zarr.json", ".zgroup", ".zarray", ".zmetadata"})
"""Names in a folder that is a Zarr store."""

Address = str | os.PathLike[str] | Source
"""A path, an address, or a source that is open."""
Addresses = Address | Sequence[Address]
"""One of them, or several."""


def files_of(given: Addresses, options: Callable[[str], Mapping[str, Any]]) -> list[Address]:
    """Return the files of a list, of a pattern or of a folder, sorted by name but for a list; one file is a list of itself.

    Parameters:
        given: What the user gave.
        options: Gives how the store of an address is reached, as fsspec takes it.

    Raises:
        ArgumentError: Something is given that is no file.
        JoinError: The list is empty.
        SourceNotFoundError: Nothing matches, or the folder has none.
        UnsupportedError: No installed package lists such addresses.

    Examples:
        >>> files_of("docs/ta?.nc", lambda _: {}), files_of("docs/tas.nc", lambda _: {})
        (['docs/tas.nc'], ['docs/tas.nc'])
    """
    if isinstance(given, (list, tuple)):
        if not given:
            raise JoinError("there are no files: the list is empty")
        return [_checked(one) for one in given]
    if isinstance(given, Sequence) and not isinstance(given, (str, bytes)):
        raise ConfigurationError(f"files are given as a list or a tuple, not as a {type(given).__name__}")
    if not isinstance(given, (str, bytes, os.PathLike)):
        return [_checked(given)]
    text = os.fsdecode(given)
    if not text:
        raise SourceNotFoundError("the path of the file is empty; name a netCDF or HDF5 file")
    path = local_path(text)
    if path is not None:
        return _local(path) or [given]
    scheme = text.partition("://")[0].lower()
    # A question mark begins the query of a web address, and web servers do not list.
    if scheme in ("http", "https") or "::" in text:
        return [given]
    if text.endswith("/"):
        return _remote_folder(text, options(text)) or [given]
    return (_remote_matches(text, options(text)) if _PATTERN.search(text) else []) or [given]


def _checked(given: Address) -> Address:
    """Return what may be a file.

    Raises:
        ArgumentError: It is none.
    """
    if isinstance(given, (str, bytes, os.PathLike)) or all(hasattr(given, name) for name in ("uri", "read_ranges", "metadata")):
        return given
    kind = "None" if given is None else f"of the type {type(given).__name__}"
    raise ArgumentError(f"a file is given as a path, an address, or a source that is open; this is {kind}")


def check_several(given: Addresses, files: Sequence[Address], option: str) -> None:
    """Refuse an option for several files where one was named; a list, a pattern or a folder may have one only.

    Raises:
        ConfigurationError: One was named.
    """
    if len(files) == 1 and files[0] is given:
        raise ConfigurationError(
            f"{option} is the dimension along which several files are joined, and this is one; "
            "dimensions to reduce are given as axis="
        )


def is_local(given: Address) -> bool:
    """Return whether a file is on a disk of this machine."""
    if isinstance(given, (str, bytes, os.PathLike)):
        return local_path(os.fsdecode(given)) is not None
    return not given.is_remote


def _local(path: str) -> list[Address]:
    """Return the files of a folder or pattern; none if it is neither."""
    if os.path.isdir(path):
        with os.scandir(path) as entries:
            names = [entry.name for entry in entries]
        if _OF_STORES & set(names):
            return []
        return [os.path.join(path, name) for name in _of_files(names, path)]
    if os.path.lexists(path) or not _PATTERN.search(path):
        return []
    found = sorted(one for one in glob.glob(path, recursive=True) if os.path.isfile(one))
    if not found:
        raise SourceNotFoundError(f"{path}: no file matches this pattern; check the path")
    return list(found)


def _of_files(names: Sequence[str], folder: str) -> list[str]:
    found = sorted(name for name in names if name.lower().endswith(SUFFIXES))
    if not found:
        endings = ", ".join(SUFFIXES)
        raise SourceNotFoundError(f"{folder}: has no files directly in it that end in {endings}; name a file or a pattern")
    return found


def _remote_folder(address: str, options: Mapping[str, Any]) -> list[Address]:
    """Return the files of a folder; none if it is a Zarr store."""
    import fsspec.core  # noqa: PLC0415  # slow to import

    from activestore.sources.fsspec_errors import named_errors  # noqa: PLC0415  # the same
    from activestore.sources.fsspec_options import check_options  # noqa: PLC0415  # the same

    check_options(address, options)
    with named_errors(address):
        files, path = fsspec.core.url_to_fs(address, **{"use_listings_cache": False, **options})
        entries = files.ls(path.rstrip("/"), detail=True)
    own = {entry["name"].rstrip("/").rpartition("/")[2]: entry["name"] for entry in entries if entry.get("type") == "file"}
    if _OF_STORES & own.keys():
        return []
    return [files.unstrip_protocol(own[name]) for name in _of_files(list(own), public_address(address))]


def _remote_matches(address: str, options: Mapping[str, Any]) -> list[Address]:
    """Return the files of a pattern; none if it is the name of a file."""
    import fsspec.core  # noqa: PLC0415  # slow to import

    from activestore.sources.fsspec_errors import named_errors  # noqa: PLC0415  # the same
    from activestore.sources.fsspec_options import check_options  # noqa: PLC0415  # the same

    check_options(address, options)
    with named_errors(address):
        files, path = fsspec.core.url_to_fs(address, **{"use_listings_cache": False, **options})
        if files.isfile(path):
            return []
        found = sorted(files.glob(path))
    if not found:
        raise SourceNotFoundError(f"{public_address(address)}: no file matches this pattern; check the address")
    return [files.unstrip_protocol(one) for one in found]
