"""Talking to a Reductionist server: what it is asked with, what its answers must be, and what becomes of failures.

Imported when the backend is opened, as it needs packages that are optional.
"""

from __future__ import annotations

import base64
import difflib
import itertools
import math
import os
import random
import ssl
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Any
from urllib.parse import urlsplit

from urllib3.exceptions import ConnectTimeoutError, NameResolutionError, NewConnectionError, ReadTimeoutError

from activestore.backends.reductionist.answer import (
    FOR_ERRORS,
    Expected,
    Reply,
    decoded_v1,
    decoded_v2,
    failure_of,
    is_final,
    server_error,
)
from activestore.backends.reductionist.request import is_about_a_field
from activestore.errors import BackendError, BackendUnavailableError, ConfigurationError, ReductionistError
from activestore.origin import Origin
from activestore.redaction import public_address
from activestore.transport import Answer, Client, HttpOptions, NoAnswerError

__all__ = ["Server", "ServerLostError", "ServerOptions", "server_address"]

_RETRIED = frozenset({500, 502, 503, 504})
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 8.0
"""Seconds up to which the first and any later retry wait."""
_PATIENCE = 8
"""Requests that fail in a row before the others are not sent any more."""
_GRUDGE = 30.0
"""Seconds after which a server that failed so is asked again."""
_REMEMBERED = 10.0
"""Seconds for which a server that answered a probe is not probed again."""
_GONE = "the server does not answer any more"


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
    """How many times a request is sent again after a lost connection or an answer of 500, 502, 503 or 504."""
    endpoint_url: str | None = None
    """Address of the store as the server sees it, where that is not the client's."""
    disable_chunk_cache: bool = False
    """Whether the server is told not to answer from the chunks that it has kept."""
    version: str | None = None
    """"v1" or "v2", the protocol that is spoken; None to find out."""

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
        if not isinstance(self.disable_chunk_cache, bool):
            raise ConfigurationError(f"disable_chunk_cache={self.disable_chunk_cache!r}: give True or False")
        if self.version not in (None, "v1", "v2"):
            raise ConfigurationError(f"version={self.version!r}: give 'v1' or 'v2', or leave it out")
        if self.endpoint_url is not None:
            _address("endpoint_url", self.endpoint_url)


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


def _address(name: str, given: object) -> str:
    parts = urlsplit(given) if isinstance(given, str) else urlsplit("")
    if not isinstance(given, str) or parts.scheme not in ("http", "https") or not parts.hostname:
        shown = public_address(given) if isinstance(given, str) else given
        raise ConfigurationError(f"{name}={shown!r}: give an address that begins with http:// or https://")
    if parts.username is not None or parts.query:
        raise ConfigurationError(f"{name}={public_address(given)!r}: give it without a login; that of the store is sent")
    return given


class ServerLostError(BackendError):
    """A connection was lost while a request was under way."""


_NOWHERE = Origin("", "")


class Server:
    """One server; used from many threads at once."""

    def __init__(self, address: str, options: ServerOptions, *, connections: int, origin: Origin = _NOWHERE) -> None:
        """Prepare for requests about the object at `origin`; nothing is sent.

        Raises:
            ConfigurationError: The file of authorities cannot be read.
        """
        self._origin, self._login = origin, _authorization(origin)
        self.address, self.options = address, options
        self._shown = public_address(address)
        self._client = Client(
            HttpOptions(
                connections=connections,
                verify=options.verify,
                connect_timeout=options.connect_timeout,
                read_timeout=options.read_timeout,
                retries=0,
            )
        )
        self._patience = _Patience()
        self._waiting = threading.Condition()
        self._generation = 0

    def __repr__(self) -> str:
        return f"<Server {self._shown}>"

    def version(self) -> str:
        """Return which protocol the server speaks, "v1" or "v2"; it is asked if that is not known already.

        Raises:
            BackendUnavailableError: It does not answer, or is no Reductionist server.
        """
        if self.options.version is not None:
            return self.options.version
        key = (self.address, self.options.verify)
        known = _PROBED.get(key)
        if known is None or known[1] < time.monotonic():
            known = _PROBED[key] = self.probe(), time.monotonic() + _REMEMBERED
        return known[0]

    def probe(self) -> str:
        """Ask the server which protocol it speaks, and return it: an operation that does not exist is a JSON error in both.

        Raises:
            BackendUnavailableError: It does not answer, or is no Reductionist server.
        """
        for version in ("v2", "v1"):
            retries = min(2, self.options.retries)
            try:
                answer = self._sent(f"/{version}/_probe", b"{}", {}, most=FOR_ERRORS, retries=retries, of_lost=retries)
            except NoAnswerError as error:
                raise BackendUnavailableError(self._advised(error)) from error
            if answer.status == 404 and server_error(answer.body)[0]:
                return version
            if answer.status != 404:
                raise BackendUnavailableError(_not_reductionist(self._shown, answer))
        raise BackendUnavailableError(f"{self._shown}: answers, but is not a Reductionist server; check the address")

    def ask(self, path: str, body: bytes, expected: Expected, *, of_lost: int | None = None, where: str) -> Reply:
        """Return the server's answer to a request.

        Parameters:
            path: "/v2/sum".
            body: The request.
            expected: What the answer must be.
            of_lost: How many times it is sent again after a lost connection, in place of what the options say.
            where: The chunk, for messages.

        Raises:
            ReductionistError: The answer is an error, or none that makes sense.
            ServerLostError: The connection was lost.
            BackendError: There is no answer.
        """
        self._patience.check(where)
        retries = self.options.retries
        try:
            answer = self._sent(
                path,
                body,
                self._login,
                most=expected.nbytes,
                retries=retries,
                of_lost=retries if of_lost is None else of_lost,
            )
        except NoAnswerError as error:
            raise self._no_answer(error, where, counts=of_lost is None) from error
        if answer.status != 200:
            failure = failure_of(answer, self._origin, f"{where}: {self._shown}")
            if not is_about_a_field(failure) and (answer.status != 502 or of_lost is None):
                self._patience.failed(failure.reason, at_once=is_final(failure))
            raise failure
        self._patience.succeeded()
        try:
            decode = decoded_v1 if path.startswith("/v1") else decoded_v2
            return decode(answer, expected)
        except ValueError as error:
            text = f"{where}: {self._shown} gives an answer that is damaged, or not Reductionist's: {error}"
            raise ReductionistError(text, reason="a damaged answer", status=answer.status) from error

    def abandon(self) -> None:
        """Break off the requests that are under way."""
        with self._waiting:
            self._generation += 1
            self._waiting.notify_all()
        self._client.abandon()

    def close(self) -> None:
        """Close all connections."""
        self._client.close()

    def _sent(self, path: str, body: bytes, headers: Mapping[str, str], *, most: int, retries: int, of_lost: int) -> Answer:
        """Return the answer to a request that is sent again where that may help.

        Raises:
            NoAnswerError: There is none.
        """
        generation = self._generation
        headers = {"Content-Type": "application/json", **headers}
        for attempt in itertools.count():
            try:
                answer = self._client.request("POST", self.address + path, headers=headers, body=body, most=most, retries=0)
                # A server whose handler dies is seen as 502 behind a proxy.
                again = of_lost if answer.status == 502 else retries
                if answer.status not in _RETRIED or attempt >= again:
                    return answer
            except NoAnswerError as error:
                kind = _kind(error)
                again = {"lost": of_lost, "unreachable": retries}.get(kind, 0)
                if attempt >= again or generation != self._generation:
                    raise
            with self._waiting:
                pause = random.uniform(0, min(_FIRST_PAUSE * 2**attempt, _LONGEST_PAUSE))  # noqa: S311  # no secret
                if self._waiting.wait_for(lambda: generation != self._generation, pause):
                    raise NoAnswerError(f"{self._shown}: the request was broken off") from InterruptedError()
        raise AssertionError("unreachable")

    def _no_answer(self, error: NoAnswerError, where: str, *, counts: bool) -> BackendError:
        kind = _kind(error)
        if kind == "too large":
            return ReductionistError(f"{where}: {error}", reason="an answer larger than it may be")
        if kind == "lost" and not counts:
            return ServerLostError(f"{where}: {error}", reason=_GONE)
        reason = f"no answer within {self.options.read_timeout:g} s" if kind == "slow" else _GONE
        self._patience.failed(reason)
        return (ServerLostError if kind == "lost" else BackendError)(f"{where}: {self._advised(error)}", reason=reason)

    def _advised(self, error: NoAnswerError) -> str:
        if _kind(error) == "lost" and self.address.startswith("http://"):
            return f"{error}; is it an https:// server?"
        if any(isinstance(found, ssl.SSLCertVerificationError) for found in _causes(error)):
            return f"{error} in backend_options={{'verify': …}}"
        return str(error)


_PROBED: dict[tuple[str, bool | str], tuple[str, float]] = {}
"""The protocol of each server that answered, and until when that is taken for granted."""


@dataclass(slots=True)
class _Patience:
    """Ends when requests fail one after the other: what is still to be sent is then refused at once."""

    _failures: int = 0
    _reason: str = ""
    _until: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def check(self, where: str) -> None:
        """Raise what the others failed with, if it is over."""
        if self._failures >= _PATIENCE and time.monotonic() < self._until:
            raise BackendError(f"{where}: not sent, after many that failed: {self._reason}", reason=self._reason)

    def failed(self, reason: str, *, at_once: bool = False) -> None:
        """Count a failure; `at_once` where no other request would fare better."""
        with self._lock:
            self._failures = _PATIENCE if at_once else self._failures + 1
            self._reason, self._until = reason, time.monotonic() + _GRUDGE

    def succeeded(self) -> None:
        """Begin to count anew."""
        self._failures = 0


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _kind(error: NoAnswerError) -> str:
    """Return what became of a request: "hopeless", "slow", "unreachable", "lost" on the way, or its answer "too large"."""
    kinds: tuple[tuple[str, tuple[type[BaseException], ...]], ...] = (
        ("hopeless", (ssl.SSLError, NameResolutionError)),
        ("slow", (ReadTimeoutError,)),
        ("unreachable", (ConnectTimeoutError, NewConnectionError, ConnectionRefusedError)),
    )
    causes = list(_causes(error.__cause__))
    for kind, types in kinds:
        if any(isinstance(cause, types) for cause in causes):
            return kind
    return "lost" if causes else "too large"


def _not_reductionist(shown: str, answer: Answer) -> str:
    """Return what a probe's answer says of the server, in one line."""
    status = answer.status
    if 300 <= status < 400:
        return f"{shown}: redirects to {public_address(answer.headers.get('location', 'elsewhere'))}; give that address"
    if status in (401, 403, 407):
        return f"{shown}: refuses this client ({status}); is it the right address, and does a login stand before it?"
    if status >= 500:
        return f"{shown}: answers {status}; the server, or a proxy before it, is in trouble: try again later"
    if status == 400 and shown.startswith("http://"):
        return f"{shown}: answers 400; is it an https:// server?"
    return f"{shown}: answers, but is not a Reductionist server ({status}); check the address"


def _authorization(origin: Origin) -> dict[str, str]:
    if origin.user is None:
        return {}
    login = base64.b64encode(f"{origin.user}:{origin.password or ''}".encode()).decode()
    return {"Authorization": f"Basic {login}"}
