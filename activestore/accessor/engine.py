"""The engine "activestore" of `xarray.open_dataset`."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar

import xarray as xr
from xarray.backends import BackendEntrypoint, StoreBackendEntrypoint

from activestore.accessor.arrays.stored import StoredFile
from activestore.accessor.contents.combined import CODING, checked_dim, join_contents
from activestore.accessor.contents.contents import Contents
from activestore.accessor.contents.files import read_contents, read_groups
from activestore.config import resolve
from activestore.core.backend import Backend
from activestore.core.dispatch import Fallback
from activestore.core.threads import concurrently
from activestore.errors import ConfigurationError, SourceError
from activestore.inputs.open import open_address, workers_of
from activestore.inputs.part import METADATA_READS
from activestore.inputs.paths import files_of, is_local
from activestore.network.concurrency_limit import at_most
from activestore.network.redaction import public_address

__all__ = ["ActivestoreEntrypoint"]


class ActivestoreEntrypoint(BackendEntrypoint):
    """Opens netCDF and HDF5 files for xarray: lazily, with a parallel reader, ready for `.active`.

    Examples:
        >>> import xarray as xr
        >>> ds = xr.open_dataset("docs/tas.nc", engine="activestore")
        >>> print(f"{ds.tas.sel(lat=slice(-30, 30)).active.mean().item():.2f}")
        295.89
    """

    description = "Open netCDF and HDF5 files, local or in object stores, and reduce them where the data are (.active)"
    open_dataset_parameters: ClassVar[tuple[str, ...] | None] = None
    supports_groups: ClassVar[bool] = True

    def open_dataset(  # noqa: PLR0913  # xarray's own options, and those of `Active`
        self,
        filename_or_obj: Any,  # Any: xarray passes on whatever it was given
        *,
        drop_variables: str | Iterable[str] | None = None,
        mask_and_scale: bool | Mapping[str, bool] = True,
        decode_times: Any = True,  # Any: xarray's coders
        concat_characters: bool | Mapping[str, bool] = True,
        decode_coords: Any = True,  # Any: xarray's own words
        use_cftime: bool | Mapping[str, bool] | None = None,
        decode_timedelta: Any = None,  # Any: xarray's coders
        group: str | None = None,
        concat_dim: str | None = None,
        backend: str | Backend | None = None,
        server: str | None = None,
        storage_options: Mapping[str, object] | None = None,
        backend_options: Mapping[str, object] | None = None,
        workers: int | None = None,
        fallback: Fallback | None = None,
    ) -> xr.Dataset:
        """Return a file, or a group of it, as a lazy Dataset.

        Parameters:
            filename_or_obj: Path or address of a netCDF or HDF5 file; or of several that are one dataset: a list of them, a
                pattern ("tas_*.nc"), or a folder.
            drop_variables: Names of variables to leave out.
            mask_and_scale: As for `xarray.open_dataset`, which explains this and the other decoding options.
            decode_times: See there.
            concat_characters: See there.
            decode_coords: See there.
            use_cftime: See there.
            decode_timedelta: See there.
            group: Name of a group, "outer/inner".
            concat_dim: The dimension along which several files are joined; by default the one in which they differ.
            backend: Who computes reductions by `.active`, as for `Active`.
            server: Address of the server that computes, as for `Active`.
            storage_options: How the store is reached, as for `Active`.
            backend_options: Options of the backend, as for `Active`.
            workers: How many chunks are read or computed at once, as for `Active`.
            fallback: What happens to chunks that the backend cannot do, as for `Active`.

        Raises:
            SourceNotFoundError: There is no such file.
            SourceError: It is neither netCDF nor HDF5, or damaged.
            GroupNotFoundError: There is no such group.
            JoinError: Several files do not fit together.
            ConfigurationError: An option is not understood.
        """
        given = {
            "backend": backend,
            "server": server,
            "backend_options": backend_options,
            "workers": workers,
            "fallback": fallback,
        }
        options = {name: value for name, value in given.items() if value is not None}
        decoders = {
            "mask_and_scale": mask_and_scale,
            "decode_times": decode_times,
            "concat_characters": concat_characters,
            "use_cftime": use_cftime,
            "decode_timedelta": decode_timedelta,
        }
        addresses = _addresses(filename_or_obj, lambda one: resolve(one, {**options, "storage_options": storage_options})[1])
        dropped = {drop_variables} if isinstance(drop_variables, str) else set(drop_variables or ())
        # The HDF5 library does one thing at a time: threads help only where each read waits for a network.
        at_once = 1 if all(map(is_local, addresses)) else METADATA_READS

        files = _Files()

        def read(number: int, only: tuple[str, ...] | None = None) -> Contents:
            return read_contents(files.opened(addresses[number], options, storage_options), group, only=only).without(dropped)

        def decode(contents: Contents) -> dict[str, xr.Variable]:
            variables, _, _ = xr.conventions.decode_cf_variables(contents.get_variables(), {}, decode_coords=False, **decoders)
            return dict(variables)

        with at_most(workers_of(addresses[0], options)):
            if len(addresses) == 1:
                whole = read(0)
                _check_dim(concat_dim, filename_or_obj, addresses[0], whole)
            else:
                contents = concurrently(lambda number: read(number, CODING), range(len(addresses)), at_once)
                whole = join_contents(contents, list(map(public_address, addresses)), dim=concat_dim, decode=decode, whole=read)
        dataset = _decoded(whole, addresses[0], {"decode_coords": decode_coords, **decoders})
        dataset.encoding["source"] = public_address(addresses[0])
        dataset.set_close(files.close)
        return dataset

    def open_datatree(
        self,
        filename_or_obj: Any,  # Any: as for `open_dataset`
        *,
        drop_variables: str | Iterable[str] | None = None,
        **options: Any,
    ) -> xr.DataTree:
        """Return a file, or a group of it with all that is below, as a tree of lazy Datasets.

        Parameters:
            filename_or_obj: Path or address of a netCDF or HDF5 file.
            drop_variables: Names of variables to leave out.
            **options: As for `open_dataset`.

        Raises:
            ActivestoreError: As from `open_dataset`.
        """
        groups = self.open_groups_as_dict(filename_or_obj, drop_variables=drop_variables, **options)
        tree = xr.DataTree.from_dict(groups)
        for name, dataset in groups.items():
            tree[name].set_close(dataset._close)
        return tree

    def open_groups_as_dict(
        self,
        filename_or_obj: Any,  # Any: as for `open_dataset`
        *,
        drop_variables: str | Iterable[str] | None = None,
        **options: Any,
    ) -> dict[str, xr.Dataset]:
        """Return the groups of a file as lazy Datasets, by name: "/", "/outer", "/outer/inner".

        Parameters:
            filename_or_obj: Path or address of a netCDF or HDF5 file.
            drop_variables: Names of variables to leave out.
            **options: As for `open_dataset`. Seen from a `group` that is given, the names are ".", "inner".

        Raises:
            ActivestoreError: As from `open_dataset`.
        """
        group, storage_options = options.pop("group", None), options.pop("storage_options", None)
        given = {name: options.pop(name, None) for name in _ACTIVE_OPTIONS}
        own = {name: value for name, value in given.items() if value is not None}
        addresses = _addresses(filename_or_obj, lambda one: resolve(one, {**own, "storage_options": storage_options})[1])
        if len(addresses) != 1:
            raise ConfigurationError(f"a tree is opened from one file, not from {len(addresses)}; open the same group of all")
        files, groups = _Files(), {}
        file = files.opened(addresses[0], own, storage_options)
        for name, contents in read_groups(file, group).items():
            groups[name] = _decoded(contents, addresses[0], {"drop_variables": drop_variables, **options})
            groups[name].encoding["source"] = public_address(addresses[0])
            groups[name].set_close(files.close)
        return groups

    def guess_can_open(self, filename_or_obj: Any) -> bool:  # noqa: ARG002  # Any: see above
        """Return False: the engine is there for who asks for it by name."""
        return False


def _check_dim(dim: str | None, given: object, address: str, contents: Contents) -> None:
    """Refuse a dimension along which files are joined where one file is named, or where the one that there is lacks it.

    Raises:
        ConfigurationError: One file was named.
        JoinError: It lacks the dimension.
    """
    if dim is not None and isinstance(given, (str, os.PathLike)) and os.fsdecode(given) == address:
        raise ConfigurationError(f"concat_dim={dim!r} is the dimension along which several files are joined, and this is one")
    if dim is not None:
        checked_dim([contents], [address], dim)


_ODD = (ArithmeticError, AttributeError, TypeError, ValueError)
"""What xarray raises of attributes that make no sense."""


def _decoded(contents: Contents, uri: str, options: Mapping[str, Any]) -> xr.Dataset:  # Any: xarray's coders, and its own words
    """Return what a file has as xarray decodes it, without variables whose attributes make it fail.

    Warns:
        UserWarning: There are some; it names each.
    """
    try:
        dataset: xr.Dataset = StoreBackendEntrypoint().open_dataset(contents, **options)
    except _ODD:
        odd = _undecodable(contents, options)
        if not odd:
            raise
        for name, cause in odd.items():
            warnings.warn(
                f"{public_address(uri)}: {name!r} is left out: its attributes cannot be decoded ({cause}); "
                "give decode_cf=False to have it as it is stored",
                UserWarning,
                stacklevel=5,
            )
        dataset = StoreBackendEntrypoint().open_dataset(contents.without(odd), **options)
    return dataset


def _undecodable(contents: Contents, options: Mapping[str, Any]) -> dict[str, Exception]:  # Any: see above
    """Return the variables that xarray can neither mask nor unpack, or of which it cannot tell the coordinates, and why."""
    found: dict[str, Exception] = {}
    mask_and_scale, with_coordinates = options.get("mask_and_scale", True), options.get("decode_coords", True)
    for name, variable in contents.get_variables().items():
        wanted = mask_and_scale.get(name, True) if isinstance(mask_and_scale, Mapping) else mask_and_scale
        try:
            xr.conventions.decode_cf_variable(
                name, variable, concat_characters=False, mask_and_scale=wanted, decode_times=False, decode_timedelta=False
            )
        except _ODD as error:
            found[name] = error
        if with_coordinates and not isinstance(variable.attrs.get("coordinates", ""), str):
            found[name] = TypeError("its coordinates are no text")
    return found


_ACTIVE_OPTIONS = ("backend", "server", "backend_options", "workers", "fallback")


def _addresses(given: object, reached: Callable[[str], Mapping[str, Any]]) -> list[str]:  # Any: options of many types
    """Return the addresses of the files to open.

    Raises:
        SourceError: They are no addresses.
        SourceNotFoundError: Nothing matches a pattern, or a folder has no files.
    """
    several = list(given) if isinstance(given, (list, tuple)) else [given]
    for one in several:
        if not isinstance(one, (str, os.PathLike)):
            raise SourceError(
                f"the engine 'activestore' opens paths and addresses, not a {type(one).__name__}; "
                "give it the path of the file, or its address (s3://…, https://…)"
            )
    paths = [os.fsdecode(one) for one in several if isinstance(one, (str, os.PathLike))]
    found = files_of(paths if isinstance(given, (list, tuple)) else paths[0], reached)
    return [os.fsdecode(one) for one in found if isinstance(one, (str, os.PathLike))]


class _Files:
    """The files that a dataset was opened from, as long as it is not closed; in another process, none."""

    def __init__(self) -> None:
        """Begin with none."""
        self._files: list[StoredFile] = []

    def __reduce__(self) -> tuple[Any, ...]:  # Any: pickle's own contract
        return type(self), ()

    def opened(
        self,
        uri: str,
        options: Mapping[str, Any],  # Any: keyword arguments of many types
        storage_options: Mapping[str, object] | None,
    ) -> StoredFile:
        """Return the file at an address."""
        _, source = open_address(uri, {**options, "storage_options": storage_options})
        file = StoredFile(source, options)
        self._files.append(file)
        return file

    def close(self) -> None:
        """Say of all that they are closed."""
        while self._files:
            self._files.pop().close()
