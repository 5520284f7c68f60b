"""A stand-in for a server of this package: it computes with the kernel what arrives in the form that tasks travel in.

It answers in threads of this process; what it says can be spoilt, and every request is kept.
"""

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

from activestore.backends.posix import PosixBackend
from activestore.core.codecs.decode import decoder_names
from activestore.core.reductions import COMPONENTS
from activestore.core.task import ChunkTask
from activestore.core.wire.encode import FEATURES, failure_to_bytes, partial_to_bytes, tasks_from_json
from activestore.core.wire.template import DTYPES
from activestore.errors import CorruptChunkError, UnsupportedError, WireError
from activestore.sources.open import LocalSource

Answer = tuple[int, Mapping[str, str], bytes] | None
"""Status, headers and body; None drops the connection."""
SCHEMA = "/.well-known/reductionist-schema"
REDUCE = "/activestore/v1/reduce"
LARGEST = 1 << 24


def schema(**changes: Any) -> dict[str, Any]:
    """What the server says of itself; `changes` go into "extension" or "limits", where they belong."""
    extension = {
        "path": REDUCE,
        "components": sorted(COMPONENTS),
        "dtypes": list(DTYPES),
        "codecs": [name for name, here in decoder_names().items() if here],
        "interface_types": ["s3", "http", "https", "file"],
        "most_tasks": 4096,
        "features": list(FEATURES),
    }
    limits = {"request_bytes": 8 << 20, "chunk_bytes": LARGEST, "workers": 2}
    return {
        "server": "activestore",
        "version": "0.1.0",
        "protocols": ["v2"],
        "extension": {name: changes.get(name, value) for name, value in extension.items()},
        "limits": {name: changes.get(name, value) for name, value in limits.items()},
    }


def error(status: int, message: str, *causes: str, **headers: str) -> Answer:
    """An error as the server writes it."""
    body = {"error": {"message": message} | ({"caused_by": list(causes)} if causes else {})}
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return status, {"Content-Type": "application/json", **named}, json.dumps(body).encode()


def frames_of(given: Any, path: str) -> list[bytes]:
    """One frame for each task, computed from the file at `path`."""
    tasks = tasks_from_json(given, largest_chunk=LARGEST, most_tasks=4096)
    backend = PosixBackend(LocalSource(path))
    return [_frame(backend, task) for task in tasks]


def _frame(backend: PosixBackend, task: ChunkTask) -> bytes:
    try:
        return partial_to_bytes(backend.reduce_chunk(task))
    except CorruptChunkError as failure:
        return failure_to_bytes(task.sequence, "corrupt", str(failure))
    except UnsupportedError as failure:
        return failure_to_bytes(task.sequence, "unsupported", str(failure))


@dataclass
class ExtensionStandIn:
    """The server; faults are put in by changing its fields."""

    files: Mapping[str, str] = field(default_factory=dict)
    """Where the files of addresses outside of this machine's are."""
    says: Any = field(default_factory=schema)
    """What it says of itself: JSON, or a whole answer."""
    refuse: Callable[[Any, Mapping[str, str]], Answer | bool] = lambda *_: False
    """Given a request and its headers, an answer in the place of the numbers; False for those."""
    spoil: Callable[[list[bytes]], bytes] = b"".join
    """Makes the body of the frames."""
    kind: str = "application/vnd.activestore.partials"
    probed: Answer = field(default_factory=lambda: error(404, "unsupported operation _probe"))
    url: str = ""
    requests: list[tuple[str, Any, Mapping[str, str]]] = field(default_factory=list)

    @property
    def batches(self) -> list[Any]:
        """What was asked for, request by request."""
        return [body for path, body, _ in self.requests if path == REDUCE]

    @property
    def paths(self) -> list[str]:
        return [path for path, _, _ in self.requests]

    def answer(self, path: str, body: bytes, headers: Mapping[str, str]) -> Answer:
        """Answer one request."""
        fields = json.loads(body) if body else None
        self.requests.append((path, fields, headers))
        if path == SCHEMA:
            return self.says if isinstance(self.says, tuple) else (200, {}, json.dumps(self.says).encode())
        if path == "/v2/_probe":
            return self.probed
        if path != REDUCE:
            return 404, {}, b""
        refused = self.refuse(fields, headers)
        if refused is not False:
            return refused  # type: ignore[return-value]
        url = fields["source"]["url"]
        try:
            frames = frames_of(fields["tasks"], self.files.get(url) or unquote(urlsplit(url).path))
        except WireError as failure:
            return error(400, "request data is not valid", str(failure))
        return 200, {"Content-Type": self.kind}, self.spoil(frames)

    @contextmanager
    def running(self) -> Iterator["ExtensionStandIn"]:
        """Answer requests while the context lasts."""
        stand_in = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                self._reply(self.rfile.read(int(self.headers["Content-Length"])))

            def do_GET(self) -> None:
                self._reply(b"")

            def _reply(self, body: bytes) -> None:
                answer = stand_in.answer(self.path, body, dict(self.headers))
                if answer is None:
                    self.close_connection = True
                    return
                status, headers, data = answer
                self.send_response(status)
                for name, value in ({"Content-Length": str(len(data))} | dict(headers)).items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            def process_request(self, request: Any, client_address: Any) -> None:
                # Under one name: the suite for backends looks for threads that are left behind.
                job = (request, client_address)
                threading.Thread(target=self.process_request_thread, args=job, name="stand-in", daemon=True).start()

        server = Server(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=lambda: server.serve_forever(0.01), name="stand-in", daemon=True)
        thread.start()
        self.url = f"http://127.0.0.1:{server.server_port}"
        try:
            yield self
        finally:
            server.shutdown()
            thread.join()
            server.server_close()
