"""What of a command line must not be seen: neither in a message nor in the history of a file that it wrote."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Sequence

from activestore.cli.arguments import options_of
from activestore.network.redaction import kept_address, secret_parts, secrets_hidden

__all__ = ["message_without_secrets", "shown_command"]

_TAKE_OPTIONS = ("--storage-option", "--backend-option")
"""Flags after which NAME=VALUE stands."""


def shown_command(given: Sequence[str]) -> str:
    """Return a command line that worked, as it may be kept: without the secrets of its addresses and options.

    Examples:
        >>> shown_command(["reduce", "https://me:hunter2@store.example/a b.nc", "tas", "--storage-option", "token=hunter2"])
        "activestore reduce 'https://store.example/a b.nc' tas --storage-option 'token=***'"
    """
    return shlex.join(["activestore", *_shown(given)])


def _shown(given: Sequence[str]) -> Iterator[str]:
    flag = ""
    for text in given:
        name, equals, value = text.partition("=")
        if flag in _TAKE_OPTIONS:
            yield _shown_option(text)
        elif equals and name in _TAKE_OPTIONS:
            yield f"{name}={_shown_option(value)}"
        else:
            before, address = _parted(text)
            yield before + kept_address(address)
        flag = text


def _shown_option(text: str) -> str:
    options = options_of([text], "") or {}
    hidden = secrets_hidden(options)
    if hidden == options:
        return text
    ((name, value),) = hidden.items()
    return f"{name}={value if isinstance(value, str) else json.dumps(value)}"


def message_without_secrets(message: str, given: Sequence[str]) -> str:
    """Return a message without what of the addresses on the command line must not be seen, wherever they were given.

    Examples:
        >>> message_without_secrets("no backend 'https://me:a/b@c.example'", ["--backend=https://me:a/b@c.example"])
        "no backend 'https://c.example'"
    """
    found = {secret for text in given for secret in secret_parts(_parted(text)[1])}
    for secret in sorted(found, key=len, reverse=True):
        for written in (secret, repr(secret)[1:-1]):
            message = message.replace(written, "")
    return message


def _parted(text: str) -> tuple[str, str]:
    """Return what stands before an address, as `--server=` does, and the address."""
    before, equals, _ = text.partition("://")[0].rpartition("=")
    start = len(before) + len(equals)
    return text[:start], text[start:]
