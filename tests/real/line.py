"""A line between a client and a server on one machine: it takes time, has a bandwidth, counts, and goes wrong when told to.

`Line` is a TCP proxy in a thread of its own. What is sent arrives half a round trip later and keeps flowing meanwhile; all
connections share the bandwidth of each direction; opening a connection costs one round trip. It follows HTTP/1.1 without
pipelining: requests over TLS pass, but are neither counted nor spoilt.
"""

import asyncio
import re
import selectors
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Literal, Self

PIECE = 64 * 1024
QUEUED_SECONDS = 0.01
"""How far senders run ahead of the bandwidth: less than a sleep's precision, and the line would stand idle in between."""


@dataclass(frozen=True, slots=True)
class Fault:
    """What becomes of an answer. The server has answered; the client sees this instead."""

    spoil: Callable[[bytes], bytes]
    """From the server's answer, head and body, to the bytes that are sent."""
    ending: Literal["keep", "close", "reset", "stall"] = "keep"
    """What becomes of the connection after them."""


def answered(status: int, message: str = "made to fail", *, headers: str = "") -> Fault:
    """An answer of this status, with an error in JSON as Reductionist writes it; `headers` as "Name: value" lines."""
    body = f'{{"error": {{"message": "{message}"}}}}'.encode()
    lines = [f"HTTP/1.1 {status} Made to fail", *headers.splitlines(), "Content-Type: application/json"]
    return Fault(lambda _: "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""]).encode() + body)


def _half(answer: bytes) -> bytes:
    head, blank, body = answer.partition(b"\r\n\r\n")
    return head + blank + body[: len(body) // 2]


def _truncated(answer: bytes) -> bytes:
    head, blank, body = _half(answer).partition(b"\r\n\r\n")
    return _with_header(head, b"Content-Length", str(len(body)).encode()) + blank + body


def _corrupt(answer: bytes) -> bytes:
    head, blank, body = answer.partition(b"\r\n\r\n")
    return head + blank + bytes(byte ^ 0xFF for byte in body)


def _as_html(answer: bytes) -> bytes:
    head, blank, body = answer.partition(b"\r\n\r\n")
    return _with_header(head, b"Content-Type", b"text/html") + blank + body


def _with_header(head: bytes, name: bytes, value: bytes) -> bytes:
    others = [line for line in head.split(b"\r\n") if not line.lower().startswith(name.lower() + b":")]
    return b"\r\n".join([*others, name + b": " + value])


RESET = Fault(lambda _: b"", "reset")
"""The connection is reset before the answer begins."""
RESET_HALFWAY = Fault(_half, "reset")
CLOSED_HALFWAY = Fault(_half, "close")
"""Half of the body that the head promises, then an orderly end."""
STALLED = Fault(lambda _: b"", "stall")
"""No answer, and no end, until the client gives up."""
TRUNCATED = Fault(_truncated)
"""Half of the body, and a Content-Length that agrees with it."""
CORRUPT = Fault(_corrupt)
"""Every bit of the body inverted."""
WRONG_TYPE = Fault(_as_html)
"""The true body under the content type of a web page."""


@dataclass(slots=True)
class _Rule:
    fault: Fault
    times: float
    path: re.Pattern[str]


class Line:
    """A slow and faulty line to a server; clients connect to `url` (or `address`) in the server's place.

    Counters, from the start or the last `reset_counters()`:

    - `sent`, `received`: bytes to the server, and from it;
    - `connections`: opened; `most_open`: open at once;
    - `request_lines`: each request as "GET /path"; `requests`: their number;
    - `rounds`: how often a request was seen while no other was waiting for the end of its answer. Requests one after the
      other are as many rounds; requests that overlap, in chains too, are one;
    - `failed`: answers that a fault was done to.

    Example:
        with Line("127.0.0.1", 8080, round_trip=0.025, bits_per_second=100e6) as line:
            line.fail(answered(503), times=2, path="/v2/")
            assert urllib3.request("POST", f"{line.url}/v2/sum").status == 503
    """

    def __init__(
        self,
        target_host: str,
        target_port: int,
        *,
        round_trip: float = 0.025,
        bits_per_second: float = 100e6,
        scheme: str = "http",
    ) -> None:
        self.round_trip = round_trip
        self.up, self.down = _Lane(bits_per_second), _Lane(bits_per_second)
        self.target = (target_host, target_port)
        self.open = self.outstanding = self.port = 0
        self._scheme = scheme
        self._rules: list[_Rule] = []
        self._carried: set[asyncio.Task[None]] = set()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="line", daemon=True)
        self._zero_counters()

    def __enter__(self) -> Self:
        self._thread.start()
        if not self._ready.wait(10):
            raise RuntimeError("the line did not start")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    @property
    def address(self) -> str:
        """Host and port to connect to."""
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        """The same as a URL."""
        return f"{self._scheme}://{self.address}"

    @property
    def requests(self) -> int:
        """How many requests were seen."""
        return len(self.request_lines)

    def fail(self, fault: Fault, *, times: int | None = None, path: str = "") -> None:
        """Do `fault` to the answers of the next `times` requests (None: of all) whose path matches a regular expression.

        Of several faults that fit a request, the first told is done.
        """
        self._rules.append(_Rule(fault, float("inf") if times is None else times, re.compile(path)))

    def heal(self) -> None:
        """Do no more faults."""
        self._rules.clear()

    def reset_counters(self) -> None:
        """Count from zero; to be called while no request is on the line."""
        done = threading.Event()
        self._loop.call_soon_threadsafe(lambda: (self._zero_counters(), done.set()))
        done.wait(10)

    def _zero_counters(self) -> None:
        self.sent = self.received = self.connections = self.rounds = self.failed = 0
        self.most_open = self.open
        self.request_lines: list[str] = []

    def asked(self, method: str, path: str) -> Fault | None:
        """Count a request, and return what is to become of its answer."""
        self.request_lines.append(f"{method} {path}")
        self.rounds += self.outstanding == 0
        self.outstanding += 1
        rule = next((rule for rule in self._rules if rule.times > 0 and rule.path.search(path)), None)
        if rule is None:
            return None
        rule.times -= 1
        self.failed += 1
        return rule.fault

    def _run(self) -> None:
        # epoll sleeps whole milliseconds, and one or two more: much beside a line's delay. (select: 500 connections.)
        with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selectors.SelectSelector())) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        server = await asyncio.start_server(self._accepted, "127.0.0.1", 0, limit=PIECE, backlog=512)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._stop.wait()
        server.close()
        # What was accepted just now becomes a connection first: else its socket would be left open.
        await asyncio.sleep(0.01)
        for task in list(self._carried):
            task.cancel()
        await asyncio.gather(*self._carried, return_exceptions=True)
        await asyncio.sleep(0)

    def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(_Connection(self, reader, writer).carry())
        self._carried.add(task)
        task.add_done_callback(self._carried.discard)


class _Lane:
    """One direction of the line, which all connections share: each piece goes on it when the one before has."""

    def __init__(self, bits_per_second: float) -> None:
        self._seconds_per_byte = 8 / bits_per_second
        self._free_at = 0.0

    async def send(self, size: int) -> float:
        """Wait for room on the lane, and return when the last of these bytes goes onto it."""
        now = time.monotonic()
        gone = self._free_at = max(now, self._free_at) + size * self._seconds_per_byte
        await asyncio.sleep(max(0, gone - now - QUEUED_SECONDS))
        return gone


class _Messages:
    """Where the HTTP/1.1 messages of a stream begin and end; what is not HTTP, as TLS, has none."""

    def __init__(self) -> None:
        self.head_only = False
        self._pending = b""
        # Bytes of the body to come; None before a head, -1 in a chunked body, infinite up to the connection's end.
        self._left: float | None = None

    def feed(self, data: bytes) -> Iterator[str]:
        """Yield the head of every message that these bytes begin, and "" where one ends."""
        self._pending += data
        while self._pending or self._left == 0:
            if self._left is None:
                if not self._pending[:1].isalpha():
                    self._left = float("inf")
                    continue
                head, blank, rest = self._pending.partition(b"\r\n\r\n")
                if not blank:
                    return
                self._pending = rest
                yield head.decode("latin-1")
                if not head.startswith(b"HTTP/1.1 1"):
                    self._left = _body_length(head, head_only=self.head_only)
            elif self._left == -1:
                ended = self._pending.endswith(b"0\r\n\r\n")
                self._pending = self._pending[-4:]
                self._left = 0 if ended else -1
                if not ended:
                    return
                self._pending = b""
            elif self._left > 0:
                taken = min(len(self._pending), self._left)
                self._left -= taken
                self._pending = self._pending[int(taken) :]
            else:
                self._left = None
                yield ""


def _body_length(head: bytes, *, head_only: bool) -> float:
    if head_only or re.match(rb"HTTP/1\.\d (204|304)", head):
        return 0
    if re.search(rb"(?im)^transfer-encoding:.*chunked", head):
        return -1
    length = re.search(rb"(?im)^content-length:\s*(\d+)", head)
    if length:
        return int(length[1])
    return float("inf") if head.startswith(b"HTTP/") else 0


@dataclass(frozen=True, slots=True)
class _Piece:
    due: float
    data: bytes
    # Answers that end with this piece.
    ends: int = 0
    ending: str = "keep"


class _Over(Exception):  # noqa: N818  # nothing is wrong
    """The client's side of a connection is done with."""


@dataclass(slots=True, eq=False)
class _Connection:
    """One connection of a client, and the one to the server that it is carried to."""

    line: Line
    client: asyncio.StreamReader
    to_client: asyncio.StreamWriter
    opened: float = field(default_factory=time.monotonic)
    requests: _Messages = field(default_factory=_Messages)
    answers: _Messages = field(default_factory=_Messages)
    upward: asyncio.Queue[_Piece] = field(default_factory=lambda: asyncio.Queue(1024))
    downward: asyncio.Queue[_Piece] = field(default_factory=lambda: asyncio.Queue(1024))
    client_gone: asyncio.Event = field(default_factory=asyncio.Event)
    outstanding: int = 0
    fault: Fault | None = None
    held: bytes = b""

    async def carry(self) -> None:
        """Carry bytes both ways until one side is done or lost."""
        self.line.connections += 1
        self.line.open += 1
        self.line.most_open = max(self.line.most_open, self.line.open)
        writers = [self.to_client]
        try:
            server, to_server = await asyncio.open_connection(*self.line.target, limit=PIECE)
            writers.append(to_server)
            async with asyncio.TaskGroup() as both_ways:
                both_ways.create_task(self._from_client())
                both_ways.create_task(self._deliver_up(to_server))
                both_ways.create_task(self._from_server(server))
                both_ways.create_task(self._deliver_down())
        except* (OSError, _Over):
            pass
        finally:
            self._answered(self.outstanding)
            self.line.open -= 1
            for writer in writers:
                writer.transport.abort()

    async def _from_client(self) -> None:
        while data := await self.client.read(PIECE):
            for head in filter(None, self.requests.feed(data)):
                method, path = head.split(" ", 2)[:2]
                self.fault = self.line.asked(method, path)
                self.outstanding += 1
                self.answers.head_only = method == "HEAD"
            self.line.sent += len(data)
            # A client that is told at once that it is connected is kept waiting here for what that takes.
            gone = max(await self.line.up.send(len(data)), self.opened + self.line.round_trip)
            await self.upward.put(_Piece(gone + self.line.round_trip / 2, data))
        self.client_gone.set()
        await self.upward.put(_Piece(time.monotonic() + self.line.round_trip / 2, b"", ending="close"))

    async def _deliver_up(self, to_server: asyncio.StreamWriter) -> None:
        while True:
            piece = await _due(self.upward)
            if piece.ending == "close":
                to_server.write_eof()
                return
            to_server.write(piece.data)
            # A server that is gone is reported the other way, after what it still answered.
            with suppress(OSError):
                await to_server.drain()

    async def _from_server(self, server: asyncio.StreamReader) -> None:
        try:
            await self._answers_from(server)
        except ConnectionError:
            await self._send_down(b"", ending="reset")
        else:
            await self._send_down(b"", ending="close")

    async def _answers_from(self, server: asyncio.StreamReader) -> None:
        while data := await server.read(PIECE):
            ends = sum(not head for head in self.answers.feed(data))
            if self.fault is None:
                await self._send_down(data, ends)
                continue
            self.held += data
            if ends:
                await self._send_spoilt(self.fault)
        if self.fault is not None and self.held:
            await self._send_spoilt(self.fault)

    async def _send_spoilt(self, fault: Fault) -> None:
        if fault.ending == "stall":
            await self.client_gone.wait()
            raise _Over
        answer, self.held, self.fault = self.held, b"", None
        await self._send_down(fault.spoil(answer), 1, fault.ending)

    async def _send_down(self, data: bytes, ends: int = 0, ending: str = "keep") -> None:
        self.line.received += len(data)
        gone = await self.line.down.send(len(data))
        await self.downward.put(_Piece(gone + self.line.round_trip / 2, data, ends, ending))

    async def _deliver_down(self) -> None:
        while True:
            piece = await _due(self.downward)
            # Before it is written: what the client asks next is seen after that.
            self._answered(piece.ends if piece.ending == "keep" else self.outstanding)
            self.to_client.write(piece.data)
            await self.to_client.drain()
            if piece.ending == "close":
                self.to_client.close()
                await self.to_client.wait_closed()
            elif piece.ending == "reset":
                # Closed without lingering, a connection ends with RST in place of FIN.
                socket_of_client = self.to_client.get_extra_info("socket")
                socket_of_client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            if piece.ending != "keep":
                raise _Over

    def _answered(self, count: int) -> None:
        self.outstanding -= count
        self.line.outstanding -= count


async def _due(pieces: asyncio.Queue[_Piece]) -> _Piece:
    piece = await pieces.get()
    await asyncio.sleep(max(0, piece.due - time.monotonic()))
    return piece
