"""Finding out, in one round trip, which protocol a server speaks and whether it is one of this package, which can do more."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

from activestore.core.threads import concurrently
from activestore.reductionist.client import Server

__all__ = ["Extension", "ask", "discover", "extension_of"]


@dataclass(frozen=True, slots=True)
class Extension:
    """What a server of this package can do, as it says itself."""

    version: str
    """Release of the package that it runs."""
    path: str
    """Where requests for many chunks go, below its address."""
    components: frozenset[str]
    """Names of the components that it computes."""
    dtypes: frozenset[str]
    """NumPy types that it computes with, without byte order."""
    codecs: frozenset[str]
    """Codecs that it undoes."""
    interface_types: frozenset[str]
    """Kinds of origins that it reads."""
    most_tasks: int
    """How many tasks a request may have."""
    workers: int
    """How many chunks it computes at once."""
    chunk_bytes: int
    """Bytes that a chunk may have, stored or decoded, and an answer."""
    request_bytes: int
    """Bytes that a request may have."""
    features: frozenset[str] = frozenset()
    """What tasks may have besides; the first releases say nothing of it."""


def discover(server: Server) -> tuple[str, Extension | None]:
    """Return the protocol that a server speaks, "v1" or "v2", and what more it can do; None for other servers.

    Raises:
        BackendUnavailableError: It does not answer, or is no Reductionist server.
    """
    known = server.known()
    if known is None or known.schema is None:
        return ask(server)
    return known.version, extension_of(known.schema)


def ask(server: Server) -> tuple[str, Extension | None]:
    """Return the same, whatever was found out a moment ago.

    Raises:
        BackendUnavailableError: It does not answer, or is no Reductionist server.
    """
    version, schema = concurrently(lambda one: one(), (server.probe, server.schema), 2, abandon=server.abandon)
    server.remember(version, schema)
    return version, extension_of(schema)


_PATH = re.compile(r"(/[A-Za-z0-9_.-]{1,64}){1,8}")
_NAME = re.compile(r"[A-Za-z0-9_.+-]{1,40}")
_MOST_NAMES = 256


def extension_of(schema: str) -> Extension | None:
    """Return what a server's own words mean; None where they are not those of a server of this package, or make no sense.

    Examples:
        >>> extension_of("Hello, world!") is None
        True
    """
    try:
        said = json.loads(schema)
        if said["server"] != "activestore":
            return None
        extension, limits = said["extension"], said["limits"]
        return Extension(
            version=_matching(_NAME, said["version"]),
            path=_matching(_PATH, extension["path"]),
            components=_names(extension["components"]),
            dtypes=_names(extension["dtypes"]),
            codecs=_names(extension["codecs"]),
            interface_types=_names(extension["interface_types"]),
            most_tasks=_count(extension["most_tasks"]),
            workers=_count(limits["workers"]),
            chunk_bytes=_count(limits["chunk_bytes"]),
            request_bytes=_count(limits["request_bytes"]),
            features=_names(extension.get("features", [])),
        )
    # What comes from outside can be wrong in as many ways as there are types.
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None


def _matching(pattern: re.Pattern[str], given: object) -> str:
    if not isinstance(given, str) or pattern.fullmatch(given) is None or "/.." in given:
        raise ValueError(given)
    return given


def _names(given: object) -> frozenset[str]:
    if not isinstance(given, list) or len(given) > _MOST_NAMES:
        raise ValueError(given)
    return frozenset(_matching(_NAME, one) for one in given)


def _count(given: object) -> int:
    """Return a whole number from 1 up; what is larger than any use has no effect."""
    if type(given) is not int or given < 1:
        raise ValueError(given)
    return min(given, 1 << 40)
