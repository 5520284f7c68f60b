"""What every request passes on its way in and out: who may ask, time limits, counting, the access log, errors as answers."""

from __future__ import annotations

import asyncio
import base64
import binascii
import hmac
import json
import logging
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from activestore.server.answer import encoded_error
from activestore.server.failures import RequestError
from activestore.server.limits import busy
from activestore.server.metrics import Metrics
from activestore.server.place import Login
from activestore.server.settings import ServerSettings

__all__ = ["ABORT", "ACCESS_LOG", "ClientGoneError", "Exchange", "Front", "exchange_of", "login_of"]

ACCESS_LOG = "activestore.server.access"
"""Name of the logger that has a line of JSON for each request."""
ABORT = "activestore.abort"
"""Name in a request's scope of what ends its connection at once."""
_LOGGER = logging.getLogger("activestore.server")
_PIECE = 256 << 10
"""Bytes of an answer that are given to the connection at once: what a slow client leaves there is memory."""
_SLOWEST = 32 << 10
"""Bytes of an answer that a client has to take per second, on the average: others wait for the memory that it has."""
_BODIES = 8
"""Requests of the largest size whose bodies may be held at once."""
_SMALL_BODY = 256 << 10
"""Bytes of a request up to which it has room that larger ones do not get."""
_OPEN = frozenset({"/healthz"})
"""Paths that need no token."""
_KEY = "activestore.exchange"


class ClientGoneError(Exception):
    """The client has closed its connection; nobody waits for the answer."""


@dataclass(slots=True)
class Exchange:
    """One request and its answer, as the log and the metrics see them."""

    scope: Scope
    receive: Receive
    _send: Send
    limits: ServerSettings
    bodies: Bodies
    started: float = field(default_factory=time.perf_counter)
    status: int = 0
    received: int = 0
    sent: int = 0
    endpoint: str = "other"
    """What metrics call the place that answers."""
    place: str | None = None
    """Public address of the object."""
    chunks: int = 0
    failure: RequestError | None = None
    waited: float = 0.0
    """Seconds for which the client let us wait to send."""

    async def body(self, most: int) -> bytes:
        """Return the body of the request, in full: no more than `most` bytes.

        Raises:
            RequestError: It is too large, or too slow, or no room is left for it.
            ClientGoneError: The client went away.
        """
        said = header(self.scope, b"content-length")
        if said is not None and said.isdigit() and int(said) > most:
            raise _too_large(most)
        try:
            async with asyncio.timeout(self.limits.read_timeout):
                return await self._whole_body(most)
        except TimeoutError as error:
            raise RequestError(408, f"the request was not here in full after {self.limits.read_timeout:g} s") from error

    async def _whole_body(self, most: int) -> bytes:
        parts: list[bytes] = []
        while True:
            message = await self.receive()
            if message["type"] == "http.disconnect":
                raise ClientGoneError
            part = message.get("body", b"")
            self.received += len(part)
            if self.received > most:
                raise _too_large(most)
            self.bodies.take(self, len(part))
            parts.append(part)
            if not message.get("more_body", False):
                return b"".join(parts)

    async def gone(self) -> None:
        """Return when the client has closed its connection."""
        while (await self.receive())["type"] != "http.disconnect":
            pass

    async def send(self, message: Message) -> None:
        """Send a part of the answer, large bodies in pieces.

        Raises:
            ClientGoneError: The client reads no more.
        """
        if message["type"] == "http.response.start":
            self.status = message["status"]
        body = memoryview(message.get("body", b""))
        try:
            while len(body) > _PIECE:
                await self._one({"type": "http.response.body", "body": bytes(body[:_PIECE]), "more_body": True})
                body = body[_PIECE:]
            await self._one({**message, "body": bytes(body)} if "body" in message else message)
        except TimeoutError as error:
            await self.cut_off()
            raise ClientGoneError from error

    async def cut_off(self) -> None:
        """End the connection, with what the client has not read yet.

        Raises:
            ConnectionAbortedError: This server ends it only for an error.
        """
        abort = self.scope.get(ABORT)
        if abort is None:
            raise ConnectionAbortedError
        abort()
        await self.gone()

    async def _one(self, message: Message) -> None:
        began, patience = time.monotonic(), self.limits.read_timeout
        async with asyncio.timeout(min(patience, patience + self.sent / _SLOWEST - self.waited)):
            await self._send(message)
        self.waited += time.monotonic() - began
        self.sent += len(message.get("body", b""))

    async def answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        """Send a whole answer."""
        pairs = [(name.lower().encode(), value.encode("latin-1")) for name, value in headers.items()]
        pairs.append((b"content-length", str(len(body)).encode()))
        await self.send({"type": "http.response.start", "status": status, "headers": pairs})
        await self.send({"type": "http.response.body", "body": body})


def exchange_of(scope: Scope) -> Exchange:
    """Return the exchange that a scope is of."""
    found: Exchange = scope[_KEY]
    return found


class Bodies:
    """The bytes of requests that are held, of all together."""

    def __init__(self, most: int) -> None:
        """Hold no more than `most`."""
        self._most, self._held = most, 0
        self._of: dict[int, int] = {}

    def take(self, holder: object, nbytes: int) -> None:
        """Count bytes that `holder` has received.

        Raises:
            RequestError: 429: there is no room for them.
        """
        own = self._of.get(id(holder), 0) + nbytes
        # A few large requests that come slowly would otherwise shut everybody out.
        if self._held + nbytes > (self._most if own <= _SMALL_BODY else self._most // 2):
            raise busy("too many large requests wait already")
        self._held += nbytes
        self._of[id(holder)] = own

    def drop(self, holder: object) -> None:
        """Count what `holder` had as gone."""
        self._held -= self._of.pop(id(holder), 0)


class Front:
    """The outermost application."""

    def __init__(self, app: ASGIApp, settings: ServerSettings, metrics: Metrics) -> None:
        """Stand before `app`."""
        self._app, self._settings, self._metrics = app, settings, metrics
        self._bodies = Bodies(_BODIES * settings.largest_request)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, whatever happens."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        scope["path"] = scope["path"].rstrip("/") or "/"
        exchange = Exchange(scope, receive, send, self._settings, self._bodies)
        scope[_KEY] = exchange
        self._metrics.under_way.inc()
        try:
            await self._answered(exchange)
        finally:
            self._metrics.under_way.dec()
            self._bodies.drop(exchange)
            self._record(exchange)

    async def _answered(self, exchange: Exchange) -> None:
        try:
            self._check_token(exchange.scope)
            await self._app(exchange.scope, exchange.receive, exchange.send)
        except RequestError as error:
            await self._fail(exchange, error)
        except ClientGoneError:
            exchange.failure = RequestError(499, "the client went away", kind="request")
        except Exception:
            # The one place where anything may happen: the server goes on, and the operator sees what it was.
            _LOGGER.exception("%s %s failed", exchange.scope["method"], _shown_path(exchange.scope))
            await self._fail(exchange, RequestError(500, "the server is at fault; its log says more", kind="internal"))

    async def _fail(self, exchange: Exchange, error: RequestError) -> None:
        exchange.failure = error
        if exchange.status:
            # The answer has begun; cutting it off is what tells the client.
            await exchange.cut_off()
            return
        status, body, headers = encoded_error(error)
        with suppress(ClientGoneError):
            await exchange.answer(status, body, headers)

    def _check_token(self, scope: Scope) -> None:
        """Refuse who does not show the token.

        Raises:
            RequestError: 401.
        """
        token = self._settings.token
        if token is None or scope["path"] in _OPEN:
            return
        shown = header(scope, b"x-activestore-token")
        kind, _, credentials = (header(scope, b"authorization") or "").partition(" ")
        if shown is None and kind.lower() == "bearer":
            shown = credentials.strip()
        if shown is None or not hmac.compare_digest(shown.encode(), token.encode()):
            raise RequestError(
                401,
                "this server wants a token: send it as X-Activestore-Token, or as Authorization: Bearer",
                kind="unauthorized",
                headers={"WWW-Authenticate": "Bearer"},
            )

    def _record(self, exchange: Exchange) -> None:
        seconds = time.perf_counter() - exchange.started
        status = exchange.failure.status if exchange.failure is not None and not exchange.status else exchange.status
        metrics = self._metrics
        metrics.requests.labels(exchange.endpoint, str(status)).inc()
        metrics.seconds.labels(exchange.endpoint).observe(seconds)
        metrics.received.inc(exchange.received)
        metrics.sent.inc(exchange.sent)
        if exchange.failure is not None:
            metrics.errors.labels(exchange.failure.kind).inc()
        logger = logging.getLogger(ACCESS_LOG)
        if logger.isEnabledFor(logging.INFO):
            logger.info("%s", json.dumps(_line(exchange, status, seconds)))


def _line(exchange: Exchange, status: int, seconds: float) -> dict[str, Any]:
    """Return what the access log says of a request: no login, no query."""
    client = exchange.scope.get("client")
    line: dict[str, Any] = {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "client": client[0] if client else None,
        "method": exchange.scope["method"],
        "path": _shown_path(exchange.scope),
        "status": status,
        "milliseconds": round(1000 * seconds, 1),
        "received": exchange.received,
        "sent": exchange.sent,
    }
    if exchange.place is not None:
        line |= {"object": exchange.place, "chunks": exchange.chunks}
    if exchange.failure is not None:
        line |= {"error": exchange.failure.kind, "message": str(exchange.failure)[:300]}
    return line


def _shown_path(scope: Scope) -> str:
    return "".join(one if one.isprintable() else "?" for one in scope["path"][:200])


def header(scope: Scope, name: bytes) -> str | None:
    """Return a header of a request, None if it has none of that name."""
    return next((value.decode("latin-1") for key, value in scope["headers"] if key == name), None)


def login_of(scope: Scope) -> Login | None:
    """Return the login that a request passes on to the origin, None if there is none.

    Raises:
        RequestError: It is not one.
    """
    kind, _, credentials = (header(scope, b"authorization") or "").partition(" ")
    if kind.lower() != "basic":
        return None
    try:
        user, colon, password = base64.b64decode(credentials.strip(), validate=True).decode().partition(":")
    except (binascii.Error, ValueError):
        user = colon = password = ""
    if not colon or not user:
        raise RequestError(400, "the Authorization header is no Basic login of user and password", kind="request")
    return Login(user, password, header(scope, b"x-activestore-session-token"))


def _too_large(most: int) -> RequestError:
    return RequestError(413, f"the request has more than the {most} bytes that it may have here; ask for fewer chunks at once")
