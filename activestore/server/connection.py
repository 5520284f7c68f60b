"""Connections of clients: their requests' headers have to come in time, and to be of a sensible size."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from activestore.server.front import ABORT

__all__ = ["Connection"]

_SECONDS = 30.0
"""Time that the headers of a request may take, and a new connection to begin with them."""
_BYTES = 64 << 10
"""Bytes that they may have, together with the path."""


class Connection(HttpToolsProtocol):
    """uvicorn's connection, which waits for headers for ever and takes any number of them, with limits."""

    def __init__(self, *arguments: Any, **named: Any) -> None:  # Any: uvicorn's own
        """Take what uvicorn gives."""
        super().__init__(*arguments, **named)
        self._timer: asyncio.TimerHandle | None = None
        self._header_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """Begin to wait for the first request."""
        super().connection_made(transport)
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """End."""
        self._stop_waiting()
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        """Begin with a request."""
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
        self.transport.close()
