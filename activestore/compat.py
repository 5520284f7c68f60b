"""`Active` with the interface of PyActiveStorage 0.8, for its users and for cf-python; `activestore.Active` computes."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import NoneType
from typing import Any, Self
from urllib.parse import quote

import numpy as np
from fsspec import AbstractFileSystem

from activestore.active import Active as StoredVariable
from activestore.core.plan import normalize_axes
from activestore.errors import ConfigurationError, ReductionError, SelectionError, SourceNotFoundError
from activestore.network.redaction import kept_address, without_secrets

__all__ = ["Active", "DatasetError", "DatasetNotFoundError"]

_METHODS: dict[str, Callable[..., Any]] = {  # Any: numbers or arrays
    "min": np.ma.min,
    "max": np.ma.max,
    "mean": np.ma.mean,
    "sum": np.ma.sum,
    "count": np.ma.count,
}
_REMOTE = 2
"""The `_version` that lets a server compute."""


class DatasetError(ConfigurationError, TypeError):
    """What was given as a dataset is none, or an open one whose file or variable cannot be told for certain."""


class DatasetNotFoundError(SourceNotFoundError, ValueError):
    """There is no such local file."""


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a variable is."""

    address: str
    variable: str | None
    options: Mapping[str, object] = field(default_factory=dict, repr=False)
    """How an open file is reached, if its store told."""


class Active:
    """A variable that gives, when it is indexed, its data or a reduction of them; arguments are those of PyActiveStorage.

    Indexing changes nothing: the same index gives the same result again, until `method`, `components` or another attribute
    is set. `mean`, `min` and the like give an object of their own and leave this one as it is.

    Missing values, packed numbers and overflow are treated as `activestore.Active` does, NaN as NumPy does: it is a value.

    Attributes:
        interface_type: "s3", "https" or None, as it was given.
        storage_options: How the store is reached, as it was given. A pickle has them without secrets.
        active_storage_url: Address of the Reductionist server, if there is one.
        option_disable_chunk_cache: Whether the server is to read every chunk anew.

    Examples:
        >>> active = Active("docs/tas.nc", "tas", axis=(1, 2))
        >>> active.mean()[0:12].shape
        (12, 1, 1)
        >>> active.method = "sum"
        >>> active.components = True
        >>> parts = active[0:12]
        >>> sorted(parts), parts["n"].shape, parts["sum"].shape
        (['n', 'sum'], (12, 1, 1), (12, 1, 1))
    """

    def __init__(
        self,
        dataset: Any,  # Any: an address, or an open dataset of one of four packages
        ncvar: str | None = None,
        axis: int | str | tuple[int | str, ...] | list[int | str] | None = None,
        interface_type: str | None = None,
        max_threads: int | None = None,
        storage_options: Mapping[str, object] | None = None,
        active_storage_url: str | None = None,
        option_disable_chunk_cache: bool = False,
    ) -> None:
        """Take the arguments; the file is opened when the object is first indexed.

        Parameters:
            dataset: Path or address of a file; or an open variable of pyfive, h5py, h5netcdf or netCDF4; or an open file or
                group of these, with the variable's name. An open dataset is only asked for its file's name.
            ncvar: Name of the variable, with its groups; not needed with an open variable.
            axis: Dimensions to reduce, by number or name; None for all of them.
            interface_type: "s3" if an address without "s3://" is one in S3. It is known without where `storage_options`
                have an `endpoint_url`.
            max_threads: How many chunks are computed at once; left to `activestore` if it is not given.
            storage_options: How the store is reached, as fsspec takes it; `username` and `password` for HTTP. Those of an
                open dataset's own store, if not given.
            active_storage_url: Address of a Reductionist server. With one, `_version` is 2 from the start.
            option_disable_chunk_cache: Whether the server is to read every chunk anew.

        Raises:
            DatasetError: The dataset is none, or one that cannot be found again.
            DatasetNotFoundError: There is no such local file.
            ConfigurationError: There is no `ncvar`, or an argument is not understood.
        """
        if interface_type not in (None, "", "s3", "http", "https"):
            raise ConfigurationError(f"interface_type={interface_type!r}: give 's3', 'https' or None")
        if not isinstance(storage_options, (Mapping, NoneType)):
            raise ConfigurationError("storage_options is not a mapping from names to values")
        place = _find(dataset, ncvar)
        if place.variable is None:
            raise ConfigurationError("give ncvar, the name of a variable")
        self.interface_type = interface_type
        self.storage_options = dict(place.options if storage_options is None else storage_options)
        self.active_storage_url = active_storage_url
        self.option_disable_chunk_cache = option_disable_chunk_cache
        self.uri = _with_scheme(place.address, interface_type, self.storage_options)
        if "://" not in self.uri and not os.path.isfile(self.uri):
            raise DatasetNotFoundError(f"{self.uri}: no such file; check the path, or write s3://bucket/key")
        self.ncvar: str = place.variable
        self._axis = _axes(axis)
        self._version = 1 if active_storage_url is None else _REMOTE
        self._components = False
        self._method: str | None = None
        self._max_threads = max_threads
        # Shared with the objects that `mean` and the like give, so that they need not open the file again.
        self._opened: dict[tuple[object, ...], StoredVariable] = {}

    def __getstate__(self) -> dict[str, Any]:  # Any: pickle's own contract
        return self.__dict__ | {
            "uri": kept_address(self.uri),
            "storage_options": without_secrets(self.storage_options),
            "_opened": {},
        }

    @property
    def method(self) -> Callable[..., Any] | None:  # Any: numbers or arrays
        """What indexing computes: NumPy's function for it, None for the data themselves.

        Set it to "min", "max", "mean", "sum", "count" or None.
        """
        return None if self._method is None else _METHODS.get(self._method)

    @method.setter
    def method(self, value: str | None) -> None:
        if value is not None and value not in _METHODS:
            raise ReductionError(f"no method {value!r} here; there are {', '.join(_METHODS)}; activestore.Active has more")
        self._method = value

    @property
    def components(self) -> bool:
        """Whether indexing gives a dictionary from which results of several parts can be put together.

        It has the counts of valid values as "n", and the reduction by its name; of the mean, "sum".
        """
        return self._components

    @components.setter
    def components(self, value: object) -> None:
        self._components = bool(value)

    def min(self, axis: Any = None) -> Self:  # Any: as for __init__
        """Return an object that gives the least value along `axis` when it is indexed."""
        return self._reducing("min", axis)

    def max(self, axis: Any = None) -> Self:  # Any: as for __init__
        """Return an object that gives the greatest value along `axis` when it is indexed."""
        return self._reducing("max", axis)

    def mean(self, axis: Any = None) -> Self:  # Any: as for __init__
        """Return an object that gives the mean along `axis` when it is indexed."""
        return self._reducing("mean", axis)

    def sum(self, axis: Any = None) -> Self:  # Any: as for __init__
        """Return an object that gives the sum along `axis` when it is indexed."""
        return self._reducing("sum", axis)

    def count(self, axis: Any = None) -> Self:  # Any: as for __init__
        """Return an object that gives the number of valid values along `axis` when it is indexed."""
        return self._reducing("count", axis)

    def _reducing(self, method: str, axis: Any) -> Self:  # Any: as for __init__
        copy = object.__new__(type(self))
        copy.__dict__.update(self.__dict__)
        copy._method, copy._axis = method, self._axis if axis is None else _axes(axis)
        return copy

    def __getitem__(self, index: Any) -> Any:  # Any: what NumPy takes as an index; an array, or a dictionary of them
        """Return the data that `index` selects, or what `method` makes of them.

        Parameters:
            index: Slices of any step, `...`, boolean masks and integer lists, each for its own dimension. Integers too,
                if there is no method.

        Returns:
            A masked array: the data, or their reduction with reduced dimensions kept at the length 1. With `components` a
            dictionary of such arrays.

        Raises:
            SelectionError: The index does not fit, or it drops a dimension although there is a method.
            ReductionError: There is no such axis, or there are components but no method.
            ConfigurationError: There is no such `_version`.

        Errors and warnings of the run are those of `activestore.Active.run`.
        """
        if self._version not in (0, 1, _REMOTE):
            raise ConfigurationError(f"Version {self._version} not supported")
        if self._method is None and self._components:
            raise ReductionError("components are those of a reduction; set method, or components=False")
        whole = self._variable()
        part = whole[index]
        if self._method is None:
            return part.read()
        if part.ndim < whole.ndim:
            raise SelectionError("the index drops a dimension, which a reduction has to keep; write 3:4 in place of 3")
        try:
            axes = normalize_axes(self._axis, part.dims)
        except SelectionError as error:
            raise ReductionError(str(error)) from None
        name = "sum" if self._components and self._method == "mean" else self._method
        result = part.run(name, axes, keepdims=True, skipna=False)
        if not self._components:
            return _masked(result.value)
        return {name: _masked(result.value), "n": _masked(result.count)}

    def _variable(self) -> StoredVariable:
        """Return the variable, opened once for each way of computing."""
        remote, workers = self._version == _REMOTE, _whole(self._max_threads)
        way = (self.ncvar, remote, self.active_storage_url, self.option_disable_chunk_cache, workers)
        if way not in self._opened:
            options: dict[str, Any] = {"workers": workers}  # Any: options of many types
            if not remote:
                options["backend"] = "posix"
            elif self.active_storage_url is not None:
                options |= {"backend": "reductionist", "server": self.active_storage_url}
            if remote and self.option_disable_chunk_cache:
                options["backend_options"] = {"disable_chunk_cache": True}
            address, options["storage_options"] = _with_credentials(self.uri, self.storage_options)
            self._opened[way] = StoredVariable(address, self.ncvar, **options)
        return self._opened[way]


def _axes(axis: Any) -> tuple[Any, ...] | None:  # Any: as for Active; parts of it
    return axis if axis is None else (axis,) if isinstance(axis, (int, np.integer, str)) else tuple(axis)


def _masked(value: Any) -> np.ma.MaskedArray[Any, Any]:  # Any: a number or an array
    """Return a masked array, whose mask is an array too."""
    return np.ma.MaskedArray(np.ma.getdata(value), mask=np.ma.getmaskarray(value))


def _whole(threads: Any) -> int | None:  # Any: whatever is a number
    if threads is None or int(threads) == threads:
        return threads if threads is None else int(threads)
    raise ConfigurationError(f"max_threads={threads!r}: give a whole number from 1 up")


def _with_scheme(address: str, interface_type: str | None, options: Mapping[str, Any]) -> str:  # Any: options of many types
    """Return the address, with "s3://" before a "bucket/key"."""
    endpoint = options.get("endpoint_url") or (options.get("client_kwargs") or {}).get("endpoint_url")
    if "://" in address or (interface_type != "s3" and (endpoint is None or os.path.isabs(address))):
        return address
    return "s3://" + address.lstrip("/")


def _with_credentials(address: str, options: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:  # Any: options of many types
    """Return address and options with the user and password of an HTTP server where `activestore.Active` takes them."""
    scheme, _, rest = address.partition("://")
    left = dict(options)
    if scheme not in ("http", "https"):
        return address, left
    user, password = left.pop("username", None), left.pop("password", None)
    if not user or not password:
        return address, left
    return f"{scheme}://{quote(user, safe='')}:{quote(password, safe='')}@{rest}", left


def _find(dataset: Any, ncvar: str | None) -> _Place:  # Any: an address, or an open dataset of one of four packages
    """Return where a variable is.

    Raises:
        DatasetError: It cannot be told for certain.
    """
    if isinstance(dataset, (str, os.PathLike)):
        return _Place(os.fspath(dataset), ncvar)
    package, kind = type(dataset).__module__.partition(".")[0], type(dataset).__name__
    finders = {"pyfive": _find_pyfive, "h5py": _find_h5py, "h5netcdf": _find_h5netcdf, "netCDF4": _find_netcdf4}
    if package not in finders or kind not in ("Dataset", "Variable", "File", "Group"):
        raise DatasetError(
            f"a {type(dataset).__name__} is not a dataset: give a path or an address, or an open variable or file of pyfive, "
            "h5py, h5netcdf or netCDF4"
        )
    try:
        return finders[package](dataset, ncvar)
    except (AttributeError, LookupError, OSError, RuntimeError, TypeError, ValueError) as error:
        if isinstance(error, DatasetError):
            raise
        raise DatasetError(
            f"the {package} {kind} does not tell its file ({error}); give the file's address and ncvar"
        ) from None


def _inside(group: str, ncvar: str | None) -> str | None:
    return None if ncvar is None else posixpath.join(group, ncvar).lstrip("/")


def _local(path: object, *, variable: str | None) -> _Place:
    """Return the place of a variable in a local file that is open.

    Raises:
        DatasetError: There is no file of that name (now).
    """
    if not isinstance(path, (str, bytes, os.PathLike)) or not os.path.isfile(path):
        raise DatasetError(f"the dataset's file, {path!r}, is not a local file; give the file's address and ncvar")
    return _Place(os.fsdecode(path), variable)


def _find_h5py(dataset: Any, ncvar: str | None) -> _Place:  # Any: h5py is not typed
    if not dataset or dataset.name is None:
        raise DatasetError(f"{dataset!r} has no name in an open file; give the file's address and ncvar")
    file = dataset.file
    if file.driver not in ("sec2", "stdio") or file.mode != "r":
        raise DatasetError(
            f"{file!r} is open for writing, or through a file object (driver {file.driver!r}), and may hold what no file "
            "has; give a file's address and ncvar"
        )
    is_variable = type(dataset).__name__ == "Dataset"
    return _local(file.filename, variable=dataset.name.lstrip("/") if is_variable else _inside(dataset.name, ncvar))


def _find_h5netcdf(dataset: Any, ncvar: str | None) -> _Place:  # Any: h5netcdf is not typed
    # The legacy API's `Dataset` is a file.
    below = dataset._h5ds if type(dataset).__name__ == "Variable" else dataset._h5group
    return _find(below, ncvar)


def _find_netcdf4(dataset: Any, ncvar: str | None) -> _Place:  # Any: netCDF4 is optional
    if type(dataset).__name__ == "Variable":
        dataset, ncvar = dataset.group(), dataset.name
    return _local(dataset.filepath(), variable=_inside(dataset.path, ncvar))


def _find_pyfive(dataset: Any, ncvar: str | None) -> _Place:  # Any: pyfive is optional
    is_variable = type(dataset).__name__ == "Dataset"
    variable = dataset.name.lstrip("/") if is_variable else _inside(dataset.name, ncvar)
    if is_variable and dataset.id.posix:
        return _local(dataset.id._filename, variable=variable)
    stream = dataset.id._fh if is_variable else dataset.file._fh
    while hasattr(stream, "fh"):
        stream = stream.fh
    store, path = getattr(stream, "fs", None), getattr(stream, "path", None)
    if isinstance(store, AbstractFileSystem) and isinstance(path, str):
        return _Place(store.unstrip_protocol(path), variable, dict(store.storage_options))
    return _local(getattr(stream, "name", None), variable=variable)
