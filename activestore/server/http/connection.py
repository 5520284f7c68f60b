"""Connections of clients: no more than the server has room for, none for ever, and requests with headers of a sensible size."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Iterable
from ipaddress import IPv6Address, ip_address, ip_network
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from activestore.server.http.exchange import ABORT

__all__ = ["Connection", "limited"]

_SECONDS = 30.0
"""Time for the headers of a request, for a new connection to begin with them, and for a client to take the end of an answer."""
_BYTES = 64 << 10
"""Bytes that they may have, together with the path."""
_AHEAD = 8
"""Requests that may be sent before the answer to the one before them; each takes memory, and few clients do so."""


class Clients:
    """The connections that are open, by the addresses that they come from: those that do nothing make way for new ones."""

    def __init__(self, most: int) -> None:
        """Let each address have `most` of them."""
        self._most = most
        self._of: dict[str, OrderedDict[Connection, None]] = {}

    def admit(self, connection: Connection) -> bool:
        """Count a new connection, and return whether there is room for it, or for the answer that there is none.

        Others may be ended for it.
        """
        client = _client(connection.client)
        own = self._of.get(client, OrderedDict())
        if len(own) >= self._most and not _end_idle(own):
            return False
        together, most = connection.connections, connection.limit_concurrency
        if most is not None and len(together) >= most:
            # First of who has most of them.
            any(map(_end_idle, sorted(self._of.values(), key=len, reverse=True)))
            if len(together) > most:
                return False
        self._of.setdefault(client, OrderedDict())[connection] = None
        return True

    def used(self, connection: Connection) -> None:
        """Note that a connection was used just now."""
        own = self._of.get(_client(connection.client), OrderedDict())
        if connection in own:
            own.move_to_end(connection)

    def forget(self, connection: Connection) -> None:
        """Count a connection as gone."""
        client = _client(connection.client)
        own = self._of.get(client, OrderedDict())
        own.pop(connection, None)
        if not own:
            self._of.pop(client, None)


def _end_idle(connections: Iterable[Connection]) -> bool:
    """End the connection that has done nothing for longest, and return whether there was one."""
    idle = next((one for one in connections if one.is_idle), None)
    if idle is not None:
        idle.end()
    return idle is not None


def _client(address: tuple[str, int] | None) -> str:
    """Return what a client is counted by: of IPv6 addresses, of which everybody has very many, the network."""
    if address is None:
        return ""
    try:
        found = ip_address(address[0].partition("%")[0])
    except ValueError:
        return address[0]
    if not isinstance(found, IPv6Address):
        return str(found)
    return str(found.ipv4_mapped or ip_network((found.packed, 64), strict=False))


class Connection(HttpToolsProtocol):
    """uvicorn's connection, which waits for ever, and takes any number of headers, requests and connections, with limits."""

    clients: Clients
    """All that are open; see `limited`."""

    def __init__(self, *arguments: Any, **named: Any) -> None:  # Any: uvicorn's own
        """Take what uvicorn gives."""
        super().__init__(*arguments, **named)
        self._timer: asyncio.TimerHandle | None = None
        self._header_bytes = 0
        self._cycles: list[RequestResponseCycle] = []

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """Begin to wait for the first request, if there is room for it."""
        super().connection_made(transport)
        if self.clients.admit(self):
            self._wait()
        else:
            self.end()

    @property
    def is_idle(self) -> bool:
        """Whether nothing is asked for on it, and what was asked for has been taken."""
        return self.transport.is_closing() or not (self._is_busy or self.transport.get_write_buffer_size())

    def end(self) -> None:
        """Close it at once."""
        self.clients.forget(self)
        # Before it is lost, which is when the event loop gets to it: there is room from now on.
        self.connections.discard(self)
        self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """End."""
        self._stop_waiting()
        self.clients.forget(self)
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
        self.clients.used(self)
        for cycle in self._cycles:
            if cycle.response_complete:
                cycle.body = bytearray()  # of a request that was refused before it was read
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


def limited(per_client: int) -> type[Connection]:
    """Return the class of the connections of one server, of which each client address may have `per_client`."""

    class Limited(Connection):
        clients = Clients(per_client)

    return Limited
