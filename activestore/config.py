"""Settings: how runs are carried out."""

from __future__ import annotations

from concurrent.futures import Executor
from dataclasses import dataclass

from activestore.core.backend import Backend
from activestore.core.dispatch import Fallback
from activestore.errors import ConfigurationError

__all__ = ["Settings"]


@dataclass(frozen=True, slots=True)
class Settings:
    """How runs are carried out; checked when it is made.

    Raises:
        ConfigurationError: A setting is not understood.

    Examples:
        >>> Settings(backend="posix", workers=0)
        Traceback (most recent call last):
        ...
        activestore.errors.ConfigurationError: workers=0: give a whole number from 1 up
    """

    backend: str | Backend
    """Who computes the chunks: a backend by name, or one itself."""
    workers: int
    """How many batches of chunks are computed at once."""
    executor: Executor | None = None
    """Where they are computed; None for threads of our own."""
    fallback: Fallback = "local"
    """What happens to a chunk that the backend cannot do."""
    progress: bool = False
    """Whether a progress bar is shown."""

    def __post_init__(self) -> None:
        if isinstance(self.workers, bool) or not isinstance(self.workers, int) or self.workers < 1:
            raise ConfigurationError(f"workers={self.workers!r}: give a whole number from 1 up")
        if self.fallback not in ("local", "error"):
            raise ConfigurationError(f"fallback={self.fallback!r}: give 'local' or 'error'")
        if self.executor is not None and not isinstance(self.executor, Executor):
            raise ConfigurationError(f"executor={self.executor!r} is not a concurrent.futures.Executor")
        if not isinstance(self.backend, (str, Backend)):
            raise ConfigurationError(f"backend={self.backend!r} is neither a name nor a backend")
