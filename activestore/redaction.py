"""What must not be seen: options without their secrets, and addresses without the password in them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

__all__ = ["Secret", "public_address", "secret_name", "secrets_hidden", "without_secrets"]

_SECRET = re.compile(
    r"key|secret|token|passw|passphrase|passcode|^pass$|pwd|auth|cred|sas|account|cookie|header|user|session|login"
    r"|signature|^sig$|bearer|jwt|conn(ection)?_?str",
    re.IGNORECASE,
)
"""What the name of an option says if its value is nobody's business."""
_USER = re.compile(r"(?<=://)[^/\s]*@")
"""User and password of an address."""
_HIDDEN = "***"


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
    if "://" not in address:
        return address
    return re.split(r"[?#]", _USER.sub("", address), maxsplit=1)[0]
