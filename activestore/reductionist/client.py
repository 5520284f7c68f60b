"""Talking to a Reductionist server: what it is asked with, what its answers must be, and what becomes of failures.

Imported when the backend is opened, as it needs packages that are optional.
"""

from __future__ import annotations

import base64
import itertools
import random
import ssl
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from urllib3.exceptions import ConnectTimeoutError, NameResolutionError, NewConnectionError, ReadTimeoutError

from activestore.errors import BackendError, BackendUnavailableError, ReductionistError
from activestore.network.http_client import Answer, AnswerTooLargeError, Client, HttpOptions, NoAnswerError
from activestore.network.location import Origin
from activestore.network.redaction import public_address
from activestore.process.forking import Lock, renew_after_fork
from activestore.reductionist.answer import (
    FOR_ERRORS,
    Expected,
    Reply,
    decoded_v1,
    decoded_v2,
    failure_of,
    is_final,
    is_too_much,
    server_error,
)
from activestore.reductionist.options import ServerOptions, server_address
from activestore.reductionist.request import is_about_a_field

__all__ = ["Known", "Server", "ServerLostError", "ServerOptions", "server_address"]

_RETRIED = frozenset({429, 500, 502, 503, 504})
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 8.0
"""Seconds up to which the first and any later retry wait."""
_PATIENCE = 8
"""Requests that fail in a row before the others are not sent any more."""
_GRUDGE = 30.0
"""Seconds after which a server that failed so is asked again."""
_REMEMBERED = 10.0
"""Seconds for which a server that answered a probe is not probed again."""
_GONE = "the server does not answer any more"


class ServerLostError(BackendError):
    """A connection was lost while a request was under way."""


_NOWHERE = Origin("", "")
_SCHEMA = "/.well-known/reductionist-schema"
_FOR_SCHEMA = 64 << 10
"""Bytes that a server may say of itself."""


class Server:
    """One server; used from many threads at once."""

    def __init__(self, address: str, options: ServerOptions, *, connections: int, origin: Origin = _NOWHERE) -> None:
        """Prepare for requests about the object at `origin`; nothing is sent.

        Raises:
            ConfigurationError: The file of authorities cannot be read.
        """
        self._origin, self._login = origin, _authorization(origin)
        self._shows = {} if options.token is None else {"X-Activestore-Token": options.token}
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
        self._generation = 0
        self.renew()
        renew_after_fork(self)

    def renew(self) -> None:
        """Begin anew in a forked child, where nobody waits."""
        self._waiting = threading.Condition()

    def __repr__(self) -> str:
        return f"<Server {self._shown}>"

    def version(self) -> str:
        """Return which protocol the server speaks, "v1" or "v2"; it is asked if that is not known already.

        Raises:
            BackendUnavailableError: It does not answer, or is no Reductionist server.
        """
        if self.options.version is not None:
            return self.options.version
        known = self.known()
        if known is None:
            known = self.remember(self.probe(), None)
        return known.version

    def known(self) -> Known | None:
        """Return what was found out of the server a moment ago, None if that is nothing."""
        known = _PROBED.get(self._key)
        return known if known is not None and time.monotonic() <= known.until else None

    def remember(self, version: str, schema: str | None) -> Known:
        """Keep what was found out for a while, and return it."""
        known = _PROBED[self._key] = Known(version, schema, time.monotonic() + _REMEMBERED)
        return known

    @property
    def _key(self) -> tuple[str, bool | str, str | None]:
        return self.address, self.options.verify, self.options.token

    def schema(self) -> str:
        """Ask the server what it is, and return what it says; nothing where it says nothing."""
        retries = min(2, self.options.retries)
        try:
            answer = self._sent(_SCHEMA, None, {}, most=_FOR_SCHEMA, retries=retries, of_lost=retries)
        except NoAnswerError:
            return ""
        return answer.body.decode(errors="replace") if answer.status == 200 else ""

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
                raise BackendUnavailableError(self._advised(error)) from None
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
        answer = self.answer(path, body, most=expected.nbytes, of_lost=of_lost, where=where)
        try:
            decode = decoded_v1 if path.startswith("/v1") else decoded_v2
            return decode(answer, expected)
        except ValueError as error:
            text = f"{where}: {self._shown} gives an answer that is damaged, or not Reductionist's: {error}"
            raise ReductionistError(text, reason="a damaged answer", status=answer.status) from None

    def answer(self, path: str, body: bytes, *, most: int, of_lost: int | None = None, where: str) -> Answer:
        """Return the server's answer to a request, of `most` bytes at most and not an error; parameters as for `ask`.

        Raises:
            ReductionistError: The answer is an error, or too large.
            ServerLostError: The connection was lost.
            BackendError: There is no answer.
        """
        self._patience.check(where)
        retries = self.options.retries
        lost = retries if of_lost is None else of_lost
        try:
            answer = self._sent(path, body, self._login, most=most, retries=retries, of_lost=lost)
        except NoAnswerError as error:
            raise self._no_answer(error, where, counts=of_lost is None) from None
        if answer.status != 200:
            failure = failure_of(answer, self._origin, f"{where}: {self._shown}", self.options.token)
            harmless = is_about_a_field(failure) or is_too_much(failure)
            if not harmless and (answer.status != 502 or of_lost is None):
                self._patience.failed(failure.reason, at_once=is_final(failure))
            raise failure
        self._patience.succeeded()
        return answer

    def abandon(self) -> None:
        """Break off the requests that are under way."""
        with self._waiting:
            self._generation += 1
            self._waiting.notify_all()
        self._client.abandon()

    def close(self) -> None:
        """Close all connections."""
        self._client.close()

    def _sent(
        self, path: str, body: bytes | None, headers: Mapping[str, str], *, most: int, retries: int, of_lost: int
    ) -> Answer:
        """Return the answer to a request, a POST if it has a body, that is sent again where that may help.

        Raises:
            NoAnswerError: There is none.
        """
        generation = self._generation
        method, kind = ("GET", {}) if body is None else ("POST", {"Content-Type": "application/json"})
        headers = {**kind, **self._shows, **headers}
        patience = self._client.patience(self.address, retries)
        for attempt in itertools.count():
            wait: float | None = 0.0
            try:
                answer = self._client.request(method, self.address + path, headers=headers, body=body, most=most, retries=0)
                if answer.status not in _RETRIED:
                    return answer
                wait = patience.again(answer.status, answer.headers)
                # A server whose handler dies is seen as 502 behind a proxy.
                if wait is None or (answer.status == 502 and attempt >= of_lost):
                    return answer
            except NoAnswerError as error:
                again = {"lost": of_lost, "unreachable": retries}.get(_kind(error), 0)
                if attempt >= again or generation != self._generation:
                    raise
            with self._waiting:
                longest = min(_FIRST_PAUSE * 2 ** min(attempt, 16), _LONGEST_PAUSE)
                pause = (wait or 0.0) + random.uniform(0, longest)  # noqa: S311  # spreads retries, keeps no secret
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


@dataclass(frozen=True, slots=True)
class Known:
    """What was found out of a server."""

    version: str
    """"v1" or "v2"."""
    schema: str | None
    """What it says of itself; None where it was not asked."""
    until: float
    """When that is not taken for granted any more."""


_PROBED: dict[tuple[str, bool | str, str | None], Known] = {}
"""What was found out of each server that answered."""


@dataclass(slots=True)
class _Patience:
    """Ends when requests fail one after the other: what is still to be sent is then refused at once."""

    _failures: int = 0
    _reason: str = ""
    _until: float = 0.0
    _lock: Lock = field(default_factory=Lock)

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
    if isinstance(error, AnswerTooLargeError):
        return "too large"
    causes = list(_causes(error.__context__))
    for kind, types in kinds:
        if any(isinstance(cause, types) for cause in causes):
            return kind
    return "lost"


def _not_reductionist(shown: str, answer: Answer) -> str:
    """Return what a probe's answer says of the server, in one line."""
    status = answer.status
    if 300 <= status < 400:
        return f"{shown}: redirects to {public_address(answer.headers.get('location', 'elsewhere'))}; give that address"
    if status in (401, 403, 407):
        return (
            f"{shown}: refuses this client ({status}); is it the right address, and does a login stand before it? A token that "
            "the server itself wants goes into backend_options"
        )
    if status >= 500:
        return f"{shown}: answers {status}; the server, or a proxy before it, is in trouble: try again later"
    if status == 400 and shown.startswith("http://"):
        return f"{shown}: answers 400; is it an https:// server?"
    return f"{shown}: answers, but is not a Reductionist server ({status}); check the address"


def _authorization(origin: Origin) -> dict[str, str]:
    if origin.user is None:
        return {}
    login = base64.b64encode(f"{origin.user}:{origin.password or ''}".encode()).decode()
    temporary = {} if origin.token is None else {"X-Activestore-Session-Token": origin.token}
    return {"Authorization": f"Basic {login}", **temporary}
