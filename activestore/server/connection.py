"""Connections of clients: no more than the server has room for, none for ever, and requests with headers of a sensible size."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from activestore.server.exchange import ABORT

__all__ = ["Connection"]

_SECONDS = 30.0
"""Time for the headers of a request, for a new connection to begin with them, and for a client to take the end of an answer."""
_BYTES = 64 << 10
"""Bytes that they may have, together with the path."""
_AHEAD = 8
"""Requests that may be sent before the answer to the one before them; each takes memory, and few clients do so."""


class Connection(HttpToolsProtocol):
    """uvicorn's connection, which waits for ever, and takes any number of headers, requests and connections, with limits."""

    def __init__(self, *arguments: Any, **named: Any) -> None:  # Any: uvicorn's own
        """Take what uvicorn gives."""
        super().__init__(*arguments, **named)
        self._timer: asyncio.TimerHandle | None = None
        self._header_bytes = 0
        self._cycles: list[RequestResponseCycle] = []

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """Begin to wait for the first request, if there is room for it."""
        super().connection_made(transport)
        if self.limit_concurrency is not None and len(self.connections) > self.limit_concurrency:
            transport.abort()
        else:
            self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """End."""
        self._stop_waiting()
        super().connection_lost(exc)
        # uvicorn tells the last one only.
        for cycle in self._cycles:
            cycle.disconnected = cycle.disconnected or not cycle.response_complete
            cycle.message_event.set()

    def data_received(self, data: bytes) -> None:
        """Take bytes; what is neither a request nor part of one that is still to be answered keeps nothing open."""
        super().data_received(data)
        if self._timer is None and not self._is_busy and not self.transport.is_closing():
            self._wait()

    @property
    def _is_busy(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def on_message_begin(self) -> None:
        """Begin with a request."""
        self._cycles = [cycle for cycle in self._cycles if not cycle.response_complete]
        if len(self._cycles) > _AHEAD:
            self.transport.abort()
            raise ValueError("too many requests at once")
        super().on_message_begin()
        self.scope[ABORT] = self.transport.abort  # type: ignore[literal-required]  # one of ours
        self._header_bytes = 0
        if self._timer is None:
            self._wait()

    def on_url(self, url: bytes) -> None:
        """Take a part of the path."""
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header."""
        self._count(len(name) + len(value))
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Hand the request on."""
        self._stop_waiting()
        super().on_headers_complete()
        self._cycles.append(self.cycle)

    def on_response_complete(self) -> None:
        """Go on with the next request, if the connection is kept."""
        super().on_response_complete()
        if self.transport.is_closing():
            self._end_soon()

    def timeout_keep_alive_handler(self) -> None:
        """Close a connection that is not used."""
        super().timeout_keep_alive_handler()
        self._end_soon()

    def _count(self, nbytes: int) -> None:
        self._header_bytes += nbytes
        if self._header_bytes > _BYTES:
            raise ValueError("the headers are too large")  # what the parser makes a 400 of

    def _wait(self) -> None:
        self._timer = self.loop.call_later(_SECONDS, self._too_late)

    def _stop_waiting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _too_late(self) -> None:
        self._timer = None
        if self._is_busy:
            # What comes too late is the next request, which is not read while this one is answered.
            self._wait()
        else:
            self.transport.close()
            self._end_soon()

    def _end_soon(self) -> None:
        """See to it that closing ends, even if the client never takes what is left for it."""
        self.loop.call_later(_SECONDS, self.transport.abort)
