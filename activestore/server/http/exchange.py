"""One request and its answer: bodies that come and go in time, and in sizes that there is room for."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field

from starlette.types import Message, Receive, Scope, Send

from activestore.server.errors import RequestError
from activestore.server.limits import busy
from activestore.server.settings import ServerSettings

__all__ = ["ABORT", "EXCHANGE", "Bodies", "ClientGoneError", "Exchange", "exchange_of", "header"]

ABORT = "activestore.abort"
"""Name in a request's scope of what ends its connection at once."""
_PIECE = 256 << 10
"""Bytes of an answer that are given to the connection at once: what a slow client leaves there is memory."""
_SLOWEST = 32 << 10
"""Bytes of an answer that a client has to take per second, on the average: others wait for the memory that it has."""
_SMALL_BODY = 256 << 10
"""Bytes of a request up to which it has room that larger ones do not get."""
EXCHANGE = "activestore.exchange"
"""Name in a request's scope of its exchange."""


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
        except TimeoutError:
            raise RequestError(408, f"the request was not here in full after {self.limits.read_timeout:g} s") from None

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
        except TimeoutError:
            await self.cut_off()
            raise ClientGoneError from None

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
    found: Exchange = scope[EXCHANGE]
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


def header(scope: Scope, name: bytes) -> str | None:
    """Return a header of a request, None if it has none of that name."""
    return next((value.decode("latin-1") for key, value in scope["headers"] if key == name), None)


def _too_large(most: int) -> RequestError:
    return RequestError(413, f"the request has more than the {most} bytes that it may have here; ask for fewer chunks at once")
