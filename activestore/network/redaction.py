"""What must not be seen: options without their secrets, and addresses without the password in them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import unquote

__all__ = [
    "Secret",
    "kept_address",
    "public_address",
    "secret_name",
    "secret_parts",
    "secrets_hidden",
    "split_login",
    "without_secrets",
]

_SECRET = re.compile(
    r"key|secret|token|passw|passphrase|passcode|^pass$|pwd|auth|cred|sas|account|cookie|header|user|session|login"
    r"|signature|^sig$|bearer|jwt|conn(ection)?_?str|^code$|^params$|^query",
    re.IGNORECASE,
)
"""What the name of an option says if its value is nobody's business."""
_HIDDEN = "***"
_OF_S3, _OF_WEB = frozenset({"s3", "s3a"}), frozenset({"http", "https"})
_NAMES_A_FILE = frozenset(
    {
        *("alt", "dataset", "download", "file", "filename", "format", "id", "mode", "name", "page", "part", "path", "raw"),
        *("variable", "version", "versionid"),
    }
)
"""Names in a query that say what is read; all others may be, or stand for, secrets."""


class Secret(str):
    """Text from where secrets are kept: whatever the name of its option, it is one."""

    __slots__ = ()


def secret_name(value: object) -> str | None:
    """Return the environment variable that an option of the form `{"env": name}` names in place of a secret.

    Examples:
        >>> secret_name({"env": "STORE_SECRET"}), secret_name("hunter2"), secret_name({"env": "A", "more": 1})
        ('STORE_SECRET', None, None)
    """
    if type(value) is dict and set(value) == {"env"} and isinstance(value["env"], str) and value["env"]:
        return value["env"]
    return None


def without_secrets(options: Mapping[str, object]) -> dict[str, object]:
    """Return the options without those that are secret, or whose name says so, at any depth; a secret's name may stay.

    Examples:
        >>> without_secrets({"anon": False, "key": "K", "client_kwargs": {"region_name": "r", "aws_session_token": "T"}})
        {'anon': False, 'client_kwargs': {'region_name': 'r'}}
        >>> without_secrets({"key": "K", "secret": {"env": "STORE_SECRET"}})
        {'secret': {'env': 'STORE_SECRET'}}
    """
    return {name: _public(value, without_secrets) for name, value in options.items() if not _is_secret(name, value)}


def secrets_hidden(options: Mapping[str, object]) -> dict[str, object]:
    """Return the options with a mark in the place of each secret, to be shown.

    Examples:
        >>> secrets_hidden({"anon": False, "key": "K", "secret": {"env": "STORE_SECRET"}})
        {'anon': False, 'key': '***', 'secret': {'env': 'STORE_SECRET'}}
    """
    return {name: _HIDDEN if _is_secret(name, value) else _public(value, secrets_hidden) for name, value in options.items()}


def _is_secret(name: object, value: object) -> bool:
    return isinstance(value, Secret) or (_SECRET.search(str(name)) is not None and secret_name(value) is None)


def _public(value: object, of_options: Any) -> object:  # Any: a function of options
    if secret_name(value) is not None:
        return value
    if isinstance(value, Mapping):
        return of_options(value)
    if isinstance(value, (list, tuple)):
        shown = [_public(one, of_options) for one in value if not isinstance(one, Secret)]
        return shown if isinstance(value, list) else tuple(shown)
    return public_address(value) if isinstance(value, str) else value


def public_address(address: str) -> str:
    """Return an address without user, password and query, which can hold a signature.

    Examples:
        >>> public_address("https://me:secret@store.example/a.nc?sig=x"), public_address("/data/a.nc")
        ('https://store.example/a.nc', '/data/a.nc')
        >>> public_address("simplecache::https://me:secret@store.example/a.nc")
        'simplecache::https://store.example/a.nc'
    """
    return "::".join(map(_shown, _links(address))) if "://" in address else address


def _shown(link: str) -> str:
    found = _parsed(link)
    if found is None:
        return link
    # What cannot be told apart is not shown.
    place, mark = (found.place.rpartition("@")[2], f"{_HIDDEN}@") if found.doubtful else (found.place, "")
    return f"{found.scheme}://{mark}{place[: _end(place, '?#')]}"


def kept_address(address: str) -> str:
    """Return an address that may be kept: without the passwords in it, and of its query only what says what is read.

    Examples:
        >>> kept_address("https://me:secret@store.example/a.nc?part=1&X-Amz-Signature=x")
        'https://store.example/a.nc?part=1'
        >>> kept_address("abfs://container@account.example/a.nc"), kept_address("s3://bucket/a@b?key=c")
        ('abfs://container@account.example/a.nc', 's3://bucket/a@b?key=c')
    """
    return "::".join(map(_kept, _links(address))) if "://" in address else address


def _kept(link: str) -> str:
    found = _parsed(link)
    if found is None:
        return link
    if found.doubtful and found.login is not None:
        return _shown(link)
    if found.scheme.lower() in _OF_S3:
        return f"{found.scheme}://{found.place}"
    user = found.login.partition(":")[0] + "@" if found.login and found.scheme.lower() not in _OF_WEB else ""
    place, question, query = found.place.partition("?")
    if not question and found.scheme.lower() in _OF_WEB:
        place, _, query = found.place.partition("#")
    query, _, fragment = query.partition("#") if question else ("", "", query)
    return f"{found.scheme}://{user}{place}{_harmless('?', query)}{_harmless('#', fragment)}"


def _harmless(mark: str, query: str) -> str:
    # Some servers take a semicolon for the other sign.
    kept = [one for one in re.split("[&;]", query) if unquote(one.partition("=")[0]).lower() in _NAMES_A_FILE]
    return mark + "&".join(kept) if kept else ""


def secret_parts(address: str) -> list[str]:
    """Return what of an address must not be seen, as it stands there: logins with the sign after them, queries with theirs.

    Examples:
        >>> secret_parts("zip://a.nc::https://me:secret@store.example/b.zip?sig=x"), secret_parts("s3://bucket/a?b")
        (['me:secret@', '?sig=x'], [])
    """
    parts = []
    for found in filter(None, map(_parsed, _links(address) if "://" in address else ())):
        # A user without a password is none, but for what a web server may take for a token.
        if found.login and (":" in found.login or found.scheme.lower() in _OF_WEB):
            parts.append(f"{found.login}@")
        if found.doubtful:
            parts.append(found.place[: found.place.rfind("@") + 1])
        begin = _end(found.place, "?#" if found.scheme.lower() in _OF_WEB else "?")
        if found.place[begin:] and found.scheme.lower() not in _OF_S3:
            parts.append(found.place[begin:])
    return parts


def split_login(address: str) -> tuple[str | None, str]:
    """Return user and password as they stand in an address, None without any, and the address without them.

    Examples:
        >>> split_login("https://me:a/b@store.example/a.nc"), split_login("https://store.example/a@b.nc")
        (('me:a/b', 'https://store.example/a.nc'), (None, 'https://store.example/a@b.nc'))
    """
    found = _parsed(address)
    if found is None or found.login is None or found.doubtful:
        return None, address
    return found.login, f"{found.scheme}://{found.place}"


class _Address(NamedTuple):
    """The parts of an address."""

    scheme: str
    """As it stands there."""
    login: str | None
    """User and password, as they stand there."""
    place: str
    """All that follows: host, path, query, fragment."""
    doubtful: bool
    """Whether more of it may be the password."""


def _parsed(link: str) -> _Address | None:
    """Return the parts of an address of one scheme; None if it has none.

    A login ends with the last @ before the path. But who writes a password as it is may have /, ? and # in it: what would be
    the host is none then.
    """
    scheme, colon, rest = link.partition("://")
    if not colon:
        return None
    end = _end(rest, "/?#")
    host, tail = rest[:end], rest[end:]
    login, at, host = host.rpartition("@")
    name, colon, port = host.rpartition(":")
    is_port = not colon or (scheme.lower() not in _OF_S3 and port.isdecimal())
    if not at and not is_port and "@" in tail and not host.startswith("arn:"):
        login, _, place = rest.rpartition("@")
        return _Address(scheme, login, place, rest.count("@") > 1)
    # A host without dots may be the start of a password, if what follows can be the host and a path.
    has_password = ":" in login if at else bool(colon)
    is_host = is_port and ("." in host or host.startswith("[") or name.lower() == "localhost" or host.lower() == "localhost")
    doubtful = has_password and not is_host and "@" in tail[: tail.rfind("/") + 1]
    return _Address(scheme, login if at else None, host + tail, doubtful)


def _end(text: str, marks: str) -> int:
    """Return where the first of some marks stands; where the text ends if none does."""
    return min(at if (at := text.find(mark)) >= 0 else len(text) for mark in marks)


def _links(address: str) -> list[str]:
    """Return the addresses that are chained by fsspec's two colons, which passwords and numbers of hosts can have in them."""
    links: list[str] = []
    for part in address.split("::"):
        is_link = "://" in part or part.replace("_", "").replace("-", "").isalnum()
        if links and not is_link:
            links[-1] += f"::{part}"
        else:
            links.append(part)
    return links
