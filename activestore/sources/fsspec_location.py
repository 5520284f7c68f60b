"""A place that fsspec reaches: the file system, and the path on it."""

from __future__ import annotations

import errno
import logging
import random
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from urllib.parse import unquote

import fsspec.core
from fsspec import AbstractFileSystem

from activestore.network.concurrency_limit import BUSY, Pace, Patience, current_limit, pace_of
from activestore.network.redaction import secret_parts
from activestore.process.forking import keep_unused, renew_after_fork
from activestore.sources.fsspec_errors import named_errors
from activestore.sources.fsspec_options import check_options

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
            ConfigurationError: An option is misspelt.
        """
        self._uri, self._options = uri, options
        self._files: Any = None  # Any: fsspec is untyped
        self.path: str = self._found()
        """The path on the file system."""
        _hide_in_logs(self, secret_parts(uri))
        self._pace = pace_of(uri.rpartition("::")[2])
        renew_after_fork(self)

    def _found(self) -> str:
        check_options(self._uri, self._options)
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

    def info(self, path: str) -> Mapping[str, Any]:  # Any: what file systems tell is of many types
        """Return what the file system tells of a file.

        Raises:
            FileNotFoundError: It is not there; not merely that nobody could tell.
        """
        (found,) = self._asked(1, lambda _, __: [_result(lambda: self.files.info(path))])
        if isinstance(found, Exception):
            raise found
        known: Mapping[str, Any] = found
        return known

    def cat_ranges(self, paths: Sequence[str], starts: Sequence[int], ends: Sequence[int]) -> list[bytes | Exception]:
        """Return the bytes from each start to its end, or why they cannot be had; many are asked for at once."""

        def ask(numbers: Sequence[int], at_once: int) -> list[Any]:  # Any: bytes or errors
            chosen = [[given[i] for i in numbers] for given in (paths, starts, ends)]
            more = {"batch_size": at_once} if self.files.async_impl else {}
            answers: list[Any] = self.files.cat_ranges(*chosen, on_error="return", **more)
            return answers

        return self._asked(len(paths), ask)

    def _asked(self, count: int, ask: Callable[[Sequence[int], int], list[Any]]) -> list[Any]:  # Any: results or errors
        """Return the answers to questions by number; what a server that is busy refuses is asked again, and fewer at once."""
        found: list[Any] = [None] * count
        left, pause, patience = list(range(count)), _FIRST_PAUSE, Patience(self._pace, _RETRIES)
        while True:
            with _turns(self._pace, len(left)) as at_once:
                sent = time.monotonic()
                answers = ask(left, at_once)
            for number, answer in zip(left, answers, strict=True):
                found[number] = answer
            refused = [number for number, answer in zip(left, answers, strict=True) if _is_busy(answer)]
            served = sum(not isinstance(answer, Exception) for answer in answers)
            if served:
                self._pace.served(served)
            if not refused:
                return found
            self._pace.refused(sent, max(served, self._pace.under_way))
            wait = patience.again(503, getattr(found[refused[0]], "headers", None) or {})
            if wait is None:
                return found
            time.sleep(wait + random.uniform(0, pause))  # noqa: S311  # spreads retries, keeps no secret
            left, pause = refused, min(2 * pause, _LONGEST_PAUSE)


_RETRIES = 4
"""How many times what is refused by a server that serves nobody meanwhile is asked again."""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 1.0
"""Seconds up to which the first and any later retry wait."""


@contextmanager
def _turns(pace: Pace, wanted: int) -> Iterator[int]:
    """Give how many of the requests `wanted` may be under way at once, for the length of a `with` block."""
    limit = current_limit()
    allowed = wanted if limit is None else limit.begin(wanted)
    try:
        taken = pace.begin(allowed)
        try:
            yield taken
        finally:
            pace.end(taken)
    finally:
        if limit is not None:
            limit.end(allowed)


def _result(function: Callable[[], Any]) -> Any:  # Any: whatever it gives, or the error
    try:
        return function()
    except FileNotFoundError as error:
        # HTTP's file system says so of whatever goes wrong.
        cause = error.__cause__
        return cause if isinstance(cause, Exception) and _is_failure(cause) else error
    except Exception as error:  # noqa: BLE001  # each file system raises errors of its own
        return error


_ABSENT = frozenset({403, 404, 410})
"""What a web server answers where there is nothing; some stores say 403 to who may not list what there is."""


def _is_failure(cause: Exception) -> bool:
    """Return whether an error is one of a web server, or of the way to it, that does not say whether there is something."""
    if isinstance(cause, FileNotFoundError) or _status(cause) in _ABSENT:
        return False
    return isinstance(cause, OSError) or type(cause).__module__.partition(".")[0] == "aiohttp"


def _status(error: BaseException) -> object:
    return getattr(error, "status", None)


def _is_busy(answer: object) -> bool:
    if not isinstance(answer, Exception):
        return False
    return _status(answer) in BUSY or (isinstance(answer, OSError) and answer.errno == errno.EBUSY)
