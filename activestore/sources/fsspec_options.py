"""Options of fsspec's file systems: a name that is nearly one of theirs is refused, as most ignore what they do not know."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

import fsspec

from activestore.errors import ConfigurationError

__all__ = ["check_options"]

_OF_ALL = frozenset(
    {
        "asynchronous",
        "batch_size",
        "listings_expiry_time",
        "loop",
        "max_paths",
        "remote_options",
        "remote_protocol",
        "skip_instance_cache",
        "target_options",
        "target_protocol",
        "use_listings_cache",
    }
)
"""What the classes take without naming it, or is ours."""
_OF_HTTP = frozenset(
    {
        "allow_redirects",
        "auth",
        "cookies",
        "headers",
        "max_redirects",
        "params",
        "proxy",
        "proxy_auth",
        "ssl",
        "timeout",
        "verify",
    }
)
_MORE = {"http": _OF_HTTP, "https": _OF_HTTP, "s3": frozenset({"profile"}), "s3a": frozenset({"profile"})}
"""What they pass on."""
_OF_S3_CLIENT = frozenset(
    {
        "api_version",
        "aws_access_key_id",
        "aws_secret_access_key",
        "aws_session_token",
        "config",
        "endpoint_url",
        "region_name",
        "use_ssl",
        "verify",
    }
)


def check_options(uri: str, options: Mapping[str, Any]) -> None:  # Any: options of many types
    """Do nothing unless the name of an option is nearly that of one that the file system of an address has.

    Raises:
        ConfigurationError: It is; the message has the name that is near.
    """
    first, *others = [part.partition("://")[0] for part in uri.split("::")]
    own = {name: value for name, value in options.items() if name not in (first, *others)}
    _check(own, _known(first), "storage_options")
    if first in ("s3", "s3a"):
        _check(_mapping(own.get("client_kwargs")), _OF_S3_CLIENT, "storage_options: client_kwargs", cutoff=0.5)
    for protocol in (first, *others):
        _check(_mapping(options.get(protocol)), _known(protocol), f"storage_options: {protocol}")


def _mapping(value: object) -> Mapping[str, Any]:  # Any: options of many types
    return value if isinstance(value, Mapping) else {}


def _check(given: Iterable[str], known: frozenset[str], where: str, *, cutoff: float = 0.75) -> None:
    for name in given:
        near = difflib.get_close_matches(str(name), known, n=1, cutoff=cutoff) if known and name not in known else ()
        if near:
            raise ConfigurationError(f"{where}: there is no option {name!r}; did you mean {near[0]!r}?")


@lru_cache
def _known(protocol: str) -> frozenset[str]:
    """Return the options of a file system; none if it is not there to be asked."""
    try:
        found = fsspec.get_filesystem_class(protocol)
    except (ImportError, ValueError):
        return frozenset()
    named = {
        name
        for one in found.__mro__
        if "__init__" in vars(one) and one is not object
        for name, parameter in inspect.signature(one.__init__).parameters.items()
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    }
    return frozenset(named - {"self"}) | _OF_ALL | _MORE.get(protocol, frozenset())
