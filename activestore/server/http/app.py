"""The application: which path is answered by what."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import aclosing, asynccontextmanager
from functools import partial
from typing import Any

from starlette.routing import Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from activestore.network.redaction import public_address
from activestore.server.engine import Encoded, Engine
from activestore.server.errors import RequestError
from activestore.server.http.exchange import ClientGoneError, Exchange, exchange_of, header
from activestore.server.http.middleware import Front, login_of
from activestore.server.limits import in_thread
from activestore.server.location import Login, Place
from activestore.server.metrics import Metrics
from activestore.server.protocol.answer import encoded_v1, encoded_v2
from activestore.server.protocol.reduce import Answer
from activestore.server.protocol.request import OPERATIONS, ReduceRequest, parse_v1, parse_v2
from activestore.server.protocol.schema import EXTENSION_PATH, SCHEMA_PATH, schema
from activestore.server.settings import ServerSettings

__all__ = ["create_app"]

_JSON = {"Content-Type": "application/json"}
_FRAMES = [(b"content-type", b"application/vnd.activestore.partials")]
_LARGEST_PLAIN = 256 << 10
"""Bytes of a request for one operation: all that it may say has far fewer."""
_READ_HERE = 8 << 10
"""Bytes up to which it is read on the event loop."""

Encode = Callable[[Answer, ReduceRequest], Encoded]


def create_app(settings: ServerSettings, *, version: str) -> ASGIApp:
    """Return the server's application, for any ASGI server.

    Parameters:
        settings: What the operator decided.
        version: The version of this package, as it is shown.

    Raises:
        ConfigurationError: An allowed address or folder is none.
    """
    metrics = Metrics()
    engine = Engine(settings, metrics)
    said = json.dumps(schema(settings, version=version, interface_types=engine.interface_types)).encode()
    routes = [
        Route("/v2/{operation}", _Plain(engine, settings, "v2"), methods=["POST"]),
        Route(EXTENSION_PATH, _Batches(engine, settings), methods=["POST"]),
        Route(SCHEMA_PATH, _Text("schema", lambda: said, _JSON), methods=["GET"]),
        Route("/healthz", _Text("healthz", lambda: b"ok\n", {"Content-Type": "text/plain"}), methods=["GET"]),
        Route("/metrics", _Text("metrics", metrics.text, {"Content-Type": "text/plain; version=0.0.4"}), methods=["GET"]),
    ]
    if settings.v1:
        routes.append(Route("/v1/{operation}", _Plain(engine, settings, "v1"), methods=["POST"]))

    @asynccontextmanager
    async def lifespan(_: Any) -> AsyncIterator[None]:  # Any: the router hands itself over
        try:
            yield
        finally:
            await asyncio.get_running_loop().run_in_executor(None, engine.close)

    return Front(Router(routes, redirect_slashes=False, default=_nothing_here, lifespan=lifespan), settings, metrics)


async def _nothing_here(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer that there is nothing, without a body: that is how clients tell the protocol's versions apart."""
    await exchange_of(scope).answer(404, b"", {})


class _Text:
    """Answers with a text."""

    def __init__(self, endpoint: str, text: Callable[[], bytes], headers: dict[str, str]) -> None:
        self._endpoint, self._text, self._headers = endpoint, text, headers

    async def __call__(self, scope: Scope, *_: object) -> None:
        exchange = exchange_of(scope)
        exchange.endpoint = self._endpoint
        await exchange.answer(200, self._text(), self._headers)


class _Plain:
    """Answers one operation of Reductionist's protocol."""

    def __init__(self, engine: Engine, settings: ServerSettings, version: str) -> None:
        self._engine, self._settings, self._version = engine, settings, version
        self._parse, encode = (parse_v2, encoded_v2) if version == "v2" else (parse_v1, encoded_v1)
        self._encode: Encode = encode

    async def __call__(self, scope: Scope, *_: object) -> None:
        exchange = exchange_of(scope)
        operation = scope["path_params"]["operation"]
        exchange.endpoint = f"{self._version}/{operation if operation in OPERATIONS else 'unknown'}"
        request = await self._understood(exchange, operation)
        self._engine.check(request.place)
        _name(exchange, request.place, 1)
        await _while_connected(exchange, self._answered(exchange, request))

    async def _understood(self, exchange: Exchange, operation: str) -> ReduceRequest:
        """Return what is asked.

        Raises:
            RequestError: It is not understood, or there is too much to do.
        """
        self._engine.turns.check()
        body = await exchange.body(min(_LARGEST_PLAIN, self._settings.largest_request))
        login = login_of(exchange.scope)
        kind = (header(exchange.scope, b"content-type") or "").partition(";")[0].strip().lower()
        if kind != "application/json" and operation in OPERATIONS:
            raise RequestError(400, "request data is not valid", ("the Content-Type has to be application/json",))
        parse = partial(self._parse, operation, body, login, largest_chunk=self._settings.largest_chunk)
        return parse() if len(body) <= _READ_HERE else await in_thread(self._engine.workers, parse)

    async def _answered(self, exchange: Exchange, request: ReduceRequest) -> None:
        async with self._engine.answer(request, self._encode) as (body, headers):
            await exchange.answer(200, body, headers)


class _Batches:
    """Answers many chunks at once."""

    def __init__(self, engine: Engine, settings: ServerSettings) -> None:
        self._engine, self._settings = engine, settings

    async def __call__(self, scope: Scope, *_: object) -> None:
        exchange = exchange_of(scope)
        exchange.endpoint = "extension"
        self._engine.turns.check()
        body, login = await exchange.body(self._settings.largest_request), login_of(scope)
        await _while_connected(exchange, self._answered(exchange, body, login))

    async def _answered(self, exchange: Exchange, body: bytes, login: Login | None) -> None:
        async with self._engine.batch(body, login) as batch:
            self._engine.check(batch.place)
            _name(exchange, batch.place, sum(task.chunks for task in batch.tasks))
            async with aclosing(self._engine.frames(batch)) as frames:
                async for some in frames:
                    # What the first frames fail with is the answer's status.
                    if not exchange.status:
                        await exchange.send({"type": "http.response.start", "status": 200, "headers": _FRAMES})
                    await exchange.send({"type": "http.response.body", "body": some, "more_body": True})
                    # They are not kept while the next ones are waited for: their memory has been given back then.
                    del some
                await exchange.send({"type": "http.response.body", "body": b""})


def _name(exchange: Exchange, place: Place, chunks: int) -> None:
    """Say in the log what is read: an address that has been checked, as nobody knows where the secrets of others are."""
    exchange.place, exchange.chunks = public_address(place.url), chunks


async def _while_connected(exchange: Exchange, work: Coroutine[Any, Any, None]) -> None:
    """Do the work, unless the client goes away before it is done.

    Raises:
        ClientGoneError: It did.
    """
    job, gone = asyncio.ensure_future(work), asyncio.ensure_future(exchange.gone())
    try:
        await asyncio.wait({job, gone}, return_when=asyncio.FIRST_COMPLETED)
        if job.done():
            return await job
        job.cancel()
        await asyncio.gather(job, return_exceptions=True)
        raise ClientGoneError
    finally:
        gone.cancel()
        job.cancel()
        del job  # its error has this frame
