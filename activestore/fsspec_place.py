"""A place that fsspec reaches: the file system, and the path on it."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

import fsspec.core
from fsspec import AbstractFileSystem

from activestore.forking import keep_unused, renew_after_fork
from activestore.fsspec_errors import named_errors
from activestore.redaction import secret_parts

__all__ = ["FsspecPlace"]


class _Finalizers:
    """What fsspec's file systems have closed at their end: in a forked child, that would close the parent's connections."""

    def __init__(self) -> None:
        renew_after_fork(self)

    def renew(self) -> None:
        """Leave the file systems that were there at the fork to the parent, however they were made."""
        # An event loop's list of connections, in the kernel, is the parent's too: to close one takes it off there.
        for finalizer in list(getattr(weakref.finalize, "_registry", ())):
            alive = finalizer.peek()
            if alive is not None and isinstance(alive[0], AbstractFileSystem):
                finalizer.detach()
                keep_unused(alive[0])


_finalizers = _Finalizers()


_LOGGERS = frozenset({"fsspec", "s3fs", "gcsfs", "adlfs", "ocifs", "webhdfs"})
"""The packages of file systems that log the addresses which they are asked for."""
_HIDDEN: dict[int, list[str]] = {}
"""What must not be seen of the addresses of the places that there are."""


def _hide_in_logs(place: FsspecPlace, secrets: list[str]) -> None:
    """Keep the secrets of an address out of what fsspec's file systems log, as long as its place is in use."""
    if secrets:
        _HIDDEN[id(place)] = secrets
        weakref.finalize(place, _HIDDEN.pop, id(place), None)
        # A filter is not asked about the records of loggers below.
        for name in list(logging.root.manager.loggerDict):
            if name.partition(".")[0] in _LOGGERS:
                logging.getLogger(name).addFilter(_without_secrets)


def _without_secrets(record: logging.LogRecord) -> bool:
    """Cut the secrets of our addresses out of a record."""
    secrets = [one for secrets in list(_HIDDEN.values()) for one in secrets]
    if not secrets:
        return True
    said = record.getMessage()
    hidden = said
    for secret in secrets:
        hidden = hidden.replace(secret, "")
    # An address may have been written anew, with other percent signs.
    plain = _plain(hidden)
    if any(_plain(secret) in plain for secret in secrets):
        hidden = "(something that has the secrets of an address in it)"
    if hidden != said:
        record.msg, record.args = hidden, ()
    # What an error says is not ours to cut.
    record.exc_info = record.exc_text = None
    return True


def _plain(text: str) -> str:
    return "".join(unquote(unquote(text)).split())


class FsspecPlace:
    """A file system of fsspec and a path on it; a forked child has a file system of its own."""

    def __init__(self, uri: str, options: Mapping[str, Any]) -> None:  # Any: options of many types
        """Find the file system of `uri`.

        Raises:
            UnsupportedError: fsspec does not know such addresses, or lacks the package for them.
        """
        self._uri, self._options = uri, options
        self._files: Any = None  # Any: fsspec is untyped
        self.path: str = self._found()
        """The path on the file system."""
        _hide_in_logs(self, secret_parts(uri))
        renew_after_fork(self)

    def _found(self) -> str:
        with named_errors(self._uri):
            self._files, path = fsspec.core.url_to_fs(self._uri, **self._options)
            return str(path)
        raise AssertionError("unreachable")

    def renew(self) -> None:
        """Let go of the parent's file system: its connections, open files and event loop are in use there."""
        keep_unused(self._files)
        self._files = None

    @property
    def files(self) -> Any:  # Any: fsspec is untyped
        """The file system of this process.

        Raises:
            SourceError: It cannot be made anew in a forked child.
        """
        if self._files is None:
            self._found()
        return self._files
