"""Settings: how runs are carried out."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, field, fields
from typing import Any

from activestore.core.backend import Backend, BackendOptions
from activestore.core.dispatch import Fallback
from activestore.errors import ConfigurationError
from activestore.redaction import without_secrets

__all__ = ["Settings", "resolve"]

_LOCAL = "posix"


@dataclass(frozen=True, slots=True)
class Settings:
    """How runs are carried out; checked when it is made. A pickle of it holds no secrets.

    Raises:
        ConfigurationError: A setting is not understood.

    Examples:
        >>> Settings(backend="posix", workers=0)
        Traceback (most recent call last):
        ...
        activestore.errors.ConfigurationError: workers=0: give a whole number from 1 up
    """

    backend: str | Backend = _LOCAL
    """Who computes the chunks: a backend by name, or one itself."""
    server: str | None = None
    """Address of the server that computes, for backends that have one."""
    backend_options: Mapping[str, object] = field(default_factory=dict, repr=False)
    """Options of the backend's own."""
    workers: int | None = None
    """How many batches of chunks are computed at once; None leaves it to the backend."""
    executor: Executor | None = None
    """Where they are computed; None for threads of our own."""
    fallback: Fallback = "local"
    """What happens to a chunk that the backend cannot do."""
    progress: bool = False
    """Whether a progress bar is shown."""

    def __post_init__(self) -> None:
        if self.workers is not None and (
            isinstance(self.workers, bool) or not isinstance(self.workers, int) or self.workers < 1
        ):
            raise ConfigurationError(f"workers={self.workers!r}: give a whole number from 1 up")
        if self.fallback not in ("local", "error"):
            raise ConfigurationError(f"fallback={self.fallback!r}: give 'local' or 'error'")
        if self.executor is not None and not isinstance(self.executor, Executor):
            raise ConfigurationError(f"executor={self.executor!r} is not a concurrent.futures.Executor")
        if not isinstance(self.backend, (str, Backend)):
            raise ConfigurationError(f"backend={self.backend!r} is neither a name nor a backend")
        if self.server is not None and not isinstance(self.server, str):
            raise ConfigurationError(f"server={self.server!r} is not an address")
        if not isinstance(self.backend_options, Mapping):
            raise ConfigurationError("backend_options is not a mapping from names to values")

    def __reduce__(self) -> tuple[Any, ...]:  # Any: pickle's own contract
        values = {one.name: getattr(self, one.name) for one in fields(self)}
        return _restored, (values | {"backend_options": without_secrets(self.backend_options)},)

    @property
    def for_backend(self) -> BackendOptions:
        """What the backend is opened with."""
        return BackendOptions(self.server, self.backend_options, self.workers)


def _restored(values: dict[str, Any]) -> Settings:  # Any: fields of many types
    return Settings(**values)


def resolve(uri: str, given: Mapping[str, Any]) -> tuple[Settings, dict[str, object]]:  # Any: keyword arguments of many types
    """Return the settings for a source, and the storage options that it is opened with.

    Parameters:
        uri: Address of the source.
        given: Keyword arguments by name, None where the user gave nothing; `storage_options` among them.

    Raises:
        ConfigurationError: A setting is not understood.
    """
    values = {name: value for name, value in given.items() if value is not None}
    storage_options = values.pop("storage_options", {})
    if not isinstance(storage_options, Mapping):
        raise ConfigurationError("storage_options is not a mapping from names to values")
    if "server" in values and "backend" not in values:
        values["backend"] = "reductionist"
    return Settings(**values), dict(storage_options)
