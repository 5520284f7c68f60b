"""A stand-in for web servers: it answers Range and ETag as they do, remembers what it was asked, and errs when told to."""

import hashlib
import re
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Literal, Self
from urllib.parse import unquote


@dataclass(frozen=True)
class Request:
    """What a client asked."""

    method: str
    path: str
    """Path and query as they were sent; of a proxy, the whole address."""
    headers: Mapping[str, str]
    body: bytes = b""

    @property
    def range(self) -> tuple[int, int] | None:
        """First and last byte that are asked for."""
        found = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        return None if found is None else (int(found[1]), int(found[2]))


@dataclass(frozen=True)
class Reply:
    """What it answers."""

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    after: float = 0
    """Seconds until it answers."""
    sent: int | None = None
    """Bytes of the body that are sent before the connection ends; None for all."""
    ending: Literal["keep", "close", "reset"] = "keep"
    length: bool = True
    """Whether it says how long the body is; if not, the connection's end is the body's."""


RESET = Reply(sent=-1, ending="reset")
"""The connection is reset in place of an answer."""


def ranged(request: Request, content: bytes, headers: Mapping[str, str]) -> Reply:
    """Return the part of a file that is asked for, if it is of the version that is asked for."""
    if request.headers.get("If-Match", headers.get("ETag")) != headers.get("ETag"):
        return Reply(412)
    if request.range is None:
        return Reply(200, headers, content)
    first, last = request.range[0], min(request.range[1], len(content) - 1)
    if first >= len(content):
        return Reply(416, {"Content-Range": f"bytes */{len(content)}"}, b"there is no such range")
    return Reply(206, {**headers, "Content-Range": f"bytes {first}-{last}/{len(content)}"}, content[first : last + 1])


class WebStandIn:
    """A server on a free port of this machine, in threads of its own, for the length of a `with` block."""

    def __init__(self, *, context: ssl.SSLContext | None = None) -> None:
        self.files: dict[str, bytes] = {}
        """Contents by path, without percent signs."""
        self.headers: dict[str, str] = {}
        """More headers of every file; `ETag` in place of its own, "" for none."""
        self.rule: Callable[[Request], Reply | None] = lambda _: None
        """What it answers instead of a file, None for the file."""
        self.requests: list[Request] = []
        self.connections = self.open = self.most_open = self.under_way = self.most_under_way = 0
        self._lock = threading.Lock()
        self._server = _Server(self, context)
        self._scheme = "http" if context is None else "https"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._server.shutdown()
        for connection in self._server.accepted:
            connection.close()
        self._server.server_close()
        self._thread.join()

    @property
    def address(self) -> str:
        """Host and port."""
        return f"127.0.0.1:{self._server.server_address[1]}"

    @property
    def url(self) -> str:
        """The same as a URL."""
        return f"{self._scheme}://{self.address}"

    @property
    def asked(self) -> list[str]:
        """Each request as "GET /path"."""
        return [f"{request.method} {request.path}" for request in self.requests]

    def reply(self, request: Request) -> Reply:
        """Return the answer to a request."""
        return self.rule(request) or self.usual(request)

    def usual(self, request: Request) -> Reply:
        """Return the answer of a server that does all that it should."""
        content = self.files.get(unquote(request.path.partition("?")[0]))
        if content is None:
            return Reply(404, {"Content-Type": "text/html"}, b"<h1>Not found</h1>")
        etag = f'"{hashlib.blake2b(content, digest_size=8).hexdigest()}"'
        headers = {"ETag": etag, "Last-Modified": "Wed, 01 Jan 2020 00:00:00 GMT", **self.headers}
        return ranged(request, content, {name: value for name, value in headers.items() if value})

    def count(self, name: str, change: int) -> None:
        """Count what is open, or under way."""
        with self._lock:
            now = getattr(self, name) + change
            setattr(self, name, now)
            setattr(self, f"most_{name}", max(getattr(self, f"most_{name}"), now))
            if name == "open" and change > 0:
                self.connections += 1


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: "_Server"

    def setup(self) -> None:
        if self.server.context is not None:
            plain = self.request
            self.request = self.server.context.wrap_socket(plain, server_side=True, do_handshake_on_connect=False)
            self.server.accepted.append(self.request)
            self.request.do_handshake()
        super().setup()
        self.server.stand_in.count("open", 1)

    def finish(self) -> None:
        super().finish()
        self.request.close()
        self.server.stand_in.count("open", -1)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""

    def answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        request, stand_in = Request(self.command, self.path, self.headers, body), self.server.stand_in
        stand_in.requests.append(request)
        stand_in.count("under_way", 1)
        try:
            reply = stand_in.reply(request)
            time.sleep(reply.after)
        finally:
            stand_in.count("under_way", -1)
        self.send(reply)

    do_GET = do_HEAD = do_POST = answer  # noqa: N815  # the names that the standard library looks for

    def send(self, reply: Reply) -> None:
        if reply.sent != -1:
            self.send_response(reply.status)
            length = {"Content-Length": str(len(reply.body))} if reply.length else {}
            for name, value in {**length, **reply.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(reply.body[: reply.sent])
        self.close_connection = reply.ending != "keep" or not reply.length
        if reply.ending == "reset":
            # Closed without lingering, a connection ends with RST in place of FIN.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 512

    def __init__(self, stand_in: WebStandIn, context: ssl.SSLContext | None) -> None:
        self.stand_in, self.context = stand_in, context
        self.accepted: list[socket.socket] = []
        super().__init__(("127.0.0.1", 0), _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        self.accepted.append(request)
        super().process_request(request, client_address)

    def handle_error(self, *_: Any) -> None:
        """Say nothing: clients go away as they like."""
