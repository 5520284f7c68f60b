"""What every request passes on its way in and out: who may ask, time limits, counting, the access log, errors as answers."""

from __future__ import annotations

import base64
import binascii
import hmac
import json
import logging
import time
from contextlib import suppress
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send

from activestore.errors import without_frames
from activestore.server.engine import REQUESTS
from activestore.server.errors import RequestError
from activestore.server.http.exchange import ABORT, EXCHANGE, Bodies, ClientGoneError, Exchange, header
from activestore.server.location import Login
from activestore.server.metrics import Metrics
from activestore.server.protocol.answer import encoded_error
from activestore.server.settings import ServerSettings

__all__ = ["ACCESS_LOG", "Front", "login_of"]

ACCESS_LOG = "activestore.server.access"
"""Name of the logger that has a line of JSON for each request."""
_LOGGER = logging.getLogger("activestore.server")
_GONE = 499
"""The status that logs and metrics show of a request whose client has gone."""
_OPEN = frozenset({"/healthz"})
"""Paths that need no token."""


class Front:
    """The outermost application."""

    def __init__(self, app: ASGIApp, settings: ServerSettings, metrics: Metrics) -> None:
        """Stand before `app`."""
        self._app, self._settings, self._metrics = app, settings, metrics
        self._bodies = Bodies(REQUESTS * settings.largest_request)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, whatever happens."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        scope["path"] = scope["path"].rstrip("/") or "/"
        exchange = Exchange(scope, receive, send, self._settings, self._bodies)
        scope[EXCHANGE] = exchange
        self._metrics.under_way.inc()
        try:
            await self._answered(exchange)
        finally:
            self._metrics.under_way.dec()
            self._bodies.drop(exchange)
            self._record(exchange)
            # Scope and exchange name each other: what they hold would wait for the garbage collector.
            for name in (EXCHANGE, ABORT):
                scope.pop(name, None)

    async def _answered(self, exchange: Exchange) -> None:
        failure = await self._failure(exchange)
        if failure is not None:
            await self._fail(exchange, failure)

    async def _failure(self, exchange: Exchange) -> RequestError | None:
        """Return what a request fails with, None if it is answered; nothing is left of the work on it."""
        try:
            self._check_token(exchange.scope)
            await self._app(exchange.scope, exchange.receive, exchange.send)
        except RequestError as error:
            without_frames(error)
            return error
        except ClientGoneError as error:
            without_frames(error)
            return RequestError(_GONE, "the client went away", kind="request")
        except Exception as error:
            # The one place where anything may happen: the server goes on, and the operator sees what it was.
            _LOGGER.exception("%s %s failed", exchange.scope["method"], _shown_path(exchange.scope))
            without_frames(error)
            return RequestError(500, "the server is at fault; its log says more", kind="internal")
        return None

    async def _fail(self, exchange: Exchange, error: RequestError) -> None:
        exchange.failure = error
        if error.status == _GONE:
            return
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
