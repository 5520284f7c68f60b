"""Opening what a run needs: the variable in a file, and the backends that compute its chunks."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager

from activestore.config import Settings, resolve
from activestore.core.backend import Backend
from activestore.core.formats.read import read_variable
from activestore.errors import ConfigurationError
from activestore.inputs.part import Part, Parts
from activestore.inputs.paths import Address
from activestore.network.concurrency_limit import at_most
from activestore.plugins import default_plugins
from activestore.sources.open import Source, open_source

__all__ = ["check_name", "open_address", "open_variable", "opened_backends", "settings_of", "workers_of"]


def open_address(address: str, given: Mapping[str, object]) -> tuple[Settings, Source]:
    """Return the source at an address, and how runs on it are carried out; `given` are the options that the user gave.

    Raises:
        ConfigurationError: An option is not understood, or no backend has the name.
        SourceError: There is nothing that can be opened.
    """
    settings, reached = resolve(address, given)
    check_name(settings.backend, settings.origins["backend"])
    with at_most(settings.workers):
        return settings, open_source(address, reached)


def workers_of(source: Address, given: Mapping[str, object]) -> int | None:
    """Return how many requests may be under way at once, None where nobody says; parameters are those of `open_variable`."""
    address = os.fsdecode(source) if isinstance(source, (str, bytes, os.PathLike)) else source.uri
    return resolve(address, given)[0].workers


def open_variable(source: Address, variable: str, given: Mapping[str, object]) -> Parts:
    """Return the variable of one file; `given` are the options that the user gave, None where nothing was given."""
    if isinstance(source, (str, bytes, os.PathLike)):
        settings, opened = open_address(os.fsdecode(source), given)
    else:
        settings, opened = settings_of(source, given), source
    with at_most(settings.workers):
        return Parts.single(opened, read_variable(opened, variable), settings)


def settings_of(source: Source, given: Mapping[str, object]) -> Settings:
    """Return how runs on a source that is open are carried out; `given` are the options that the user gave.

    Raises:
        ConfigurationError: An option is not understood, or no backend has the name.
    """
    settings = resolve(source.uri, given)[0]
    check_name(settings.backend, settings.origins["backend"])
    return settings


def check_name(backend: str | Backend, origin: str = "") -> None:
    """Refuse a name that no backend has, and say where it came from unless that is plain to see.

    Raises:
        ConfigurationError: There is none of that name.
    """
    if isinstance(backend, str):
        try:
            default_plugins().find(backend)
        except ConfigurationError as error:
            if not origin or origin.startswith("the keyword"):
                raise
            raise ConfigurationError(f"{origin}: {error}") from None


@contextmanager
def opened_backends(part: Part) -> Iterator[tuple[Backend, Backend]]:
    """Open the backend that was asked for, and the local one for what it cannot do; one that was given stays open."""
    given = part.settings.backend
    with ExitStack() as opened:
        local = default_plugins().open("posix", part.source)
        opened.callback(local.close)
        if given == local.name:
            yield local, local
        elif isinstance(given, str):
            backend = default_plugins().open(given, part.source, part.settings.for_backend)
            opened.callback(backend.close)
            yield backend, local
        else:
            yield given, local
