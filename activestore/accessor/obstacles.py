"""Why values of an xarray object are not reduced where they are stored, though it is known what they are."""

from __future__ import annotations

from activestore.errors import UntraceableError

__all__ = ["InMemoryError", "OnlyXarrayError"]

_IN_MEMORY = "its values are in memory already: they were read, or are what came of arithmetic, as in (ds.t - 273.15).active"


class OnlyXarrayError(UntraceableError):
    """They are those of a file, and only xarray can read them, or make values of what is stored."""


class InMemoryError(UntraceableError):
    """They are in memory already, of this process or of a cluster."""

    def __init__(self, message: str = _IN_MEMORY) -> None:
        """Say so."""
        super().__init__(message)
