"""What must not be seen: options without their secrets, and addresses without the password in them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import urlsplit, urlunsplit

__all__ = ["public_address", "without_secrets"]

_SECRET = re.compile(r"key|secret|token|passw|pwd|auth|cred|sas|account|cookie|header|user|session", re.IGNORECASE)
"""What the name of an option says if its value is nobody's business."""


def without_secrets(options: Mapping[str, object]) -> dict[str, object]:
    """Return the options without those whose name says that they are secret, at any depth.

    Examples:
        >>> without_secrets({"anon": False, "key": "K", "client_kwargs": {"region_name": "r", "aws_session_token": "T"}})
        {'anon': False, 'client_kwargs': {'region_name': 'r'}}
    """
    found: dict[str, object] = {}
    for name, value in options.items():
        if _SECRET.search(name):
            continue
        if isinstance(value, Mapping):
            found[name] = without_secrets(value)
        else:
            found[name] = public_address(value) if isinstance(value, str) else value
    return found


def public_address(address: str) -> str:
    """Return an address without user, password and query, which can hold a signature.

    Examples:
        >>> public_address("https://me:secret@store.example/a.nc?sig=x"), public_address("/data/a.nc")
        ('https://store.example/a.nc', '/data/a.nc')
    """
    if "://" not in address:
        return address
    parts = urlsplit(address)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
