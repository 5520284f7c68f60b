"""How a Reductionist server is talked to: the options of the backend, and the address of the server."""

from __future__ import annotations

import difflib
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any
from urllib.parse import urlsplit

from activestore.core.backend import BackendOptions
from activestore.errors import ConfigurationError
from activestore.network.redaction import public_address, secret_name, secret_parts

__all__ = ["ServerOptions", "server_address", "without_token"]


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """How a server is talked to: the backend's options.

    Raises:
        ConfigurationError: One is not understood.
    """

    verify: bool | str = True
    """Whether its TLS certificate is verified; a path names a file of the authorities that are trusted."""
    connect_timeout: float = 5.0
    """Seconds to wait for a connection."""
    read_timeout: float = 300.0
    """Seconds to wait for the next bytes of an answer: a busy server lets requests wait."""
    retries: int = 4
    """How many times a request is sent again after a lost connection or an answer of 429, 500, 502, 503 or 504."""
    endpoint_url: str | None = None
    """Address of the store as the server sees it, where that is not the client's; "file:///…" names a folder that has its
    objects as files."""
    disable_chunk_cache: bool = False
    """Whether the server is told not to answer from the chunks that it has kept."""
    version: str | None = None
    """"v1" or "v2", the protocol that is spoken, and nothing beyond it; None to find out."""
    extension: bool = True
    """Whether a server of this package is sent many chunks at once, and any reduction."""
    token: str | None = field(default=None, repr=False)
    """What the server itself wants to be shown; the login of the store is another matter."""

    @classmethod
    def parse(cls, given: Mapping[str, object]) -> ServerOptions:
        """Return the options of a mapping.

        Raises:
            ConfigurationError: One is not understood.

        Examples:
            >>> ServerOptions.parse({"retry": 1})
            Traceback (most recent call last):
            ...
            activestore.errors.ConfigurationError: the backend 'reductionist' has no option 'retry'; did you mean 'retries'?
        """
        known = [one.name for one in fields(cls)]
        for name in given:
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                advice = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(known)}"
                raise ConfigurationError(f"the backend 'reductionist' has no option {name!r}; {advice}")
        values: dict[str, Any] = dict(given)
        if isinstance(values.get("verify"), os.PathLike):
            values["verify"] = os.fspath(values["verify"])
        variable = secret_name(values.get("token"))
        if variable is not None:
            values["token"] = os.environ.get(variable)
            if not values["token"]:
                raise ConfigurationError(f"token: the environment variable {variable} is not set")
        return cls(**values)

    def __post_init__(self) -> None:
        for name in ("connect_timeout", "read_timeout"):
            seconds = getattr(self, name)
            if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not 0 < seconds < math.inf:
                raise ConfigurationError(f"{name}={seconds!r}: give a number of seconds above 0")
        if isinstance(self.retries, bool) or not isinstance(self.retries, int) or self.retries < 0:
            raise ConfigurationError(f"retries={self.retries!r}: give a whole number from 0 up")
        if not isinstance(self.verify, (bool, str)):
            raise ConfigurationError(f"verify={self.verify!r}: give True, False or the path of a file of authorities")
        for name in ("disable_chunk_cache", "extension"):
            if not isinstance(getattr(self, name), bool):
                raise ConfigurationError(f"{name}={getattr(self, name)!r}: give True or False")
        token = self.token
        if token is not None and not (isinstance(token, str) and token and token.isascii() and token.isprintable()):
            raise ConfigurationError("token: give the text that the server wants to be shown")
        if self.version not in (None, "v1", "v2"):
            raise ConfigurationError(f"version={self.version!r}: give 'v1' or 'v2', or leave it out")
        if self.endpoint_url is not None:
            _address("endpoint_url", self.endpoint_url, folders=True)


def without_token(options: BackendOptions) -> BackendOptions:
    """Return options that may be kept: a token that is in the environment by the name of its variable, no other.

    Examples:
        >>> without_token(BackendOptions(options={"token": "hunter2", "retries": 2})).options
        {'retries': 2}
    """
    token = options.options.get("token")
    kept = {name: value for name, value in options.options.items() if name != "token"}
    variable = secret_name(token) or next((name for name, value in os.environ.items() if value == token), None)
    return replace(options, options=kept if variable is None else {**kept, "token": {"env": variable}})


def server_address(server: str | None) -> str:
    """Return the address of a server, without a slash at its end.

    Raises:
        ConfigurationError: There is none, or it is not one.

    Examples:
        >>> server_address("https://reduce.example/api/")
        'https://reduce.example/api'
    """
    if not server:
        raise ConfigurationError("the backend 'reductionist' needs the address of a server: server='https://…'")
    return _address("server", server).rstrip("/")


def _address(name: str, given: object, *, folders: bool = False) -> str:
    try:
        parts = urlsplit(given) if isinstance(given, str) else urlsplit("")
        _ = parts.port
    except ValueError:
        parts = urlsplit("")  # brackets without an end, or a port that is no number
    if folders and isinstance(given, str) and parts.scheme == "file" and not parts.netloc and parts.path.startswith("/"):
        return given
    if isinstance(given, str) and secret_parts(given):
        raise ConfigurationError(f"{name}={public_address(given)!r}: give it without a login; that of the store is sent")
    if not isinstance(given, str) or parts.scheme not in ("http", "https") or not parts.hostname:
        shown = public_address(given) if isinstance(given, str) else given
        raise ConfigurationError(f"{name}={shown!r}: give an address that begins with http:// or https://")
    return given
