"""The server in a thread of the tests' process, on a free port of the loopback address."""

import json
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import cbor2
import numpy as np
import urllib3
import uvicorn

from activestore.server.http.app import create_app
from activestore.server.http.connection import limited
from activestore.server.settings import ServerSettings


@dataclass
class Running:
    """A server, and a client of it."""

    url: str
    http: urllib3.PoolManager

    def get(self, path: str, **headers: str) -> urllib3.BaseHTTPResponse:
        return self.http.request("GET", self.url + path, headers=headers)

    def post(self, path: str, fields: Any, *, headers: Mapping[str, str] | None = None) -> urllib3.BaseHTTPResponse:
        body = fields if isinstance(fields, bytes) else json.dumps(fields).encode()
        return self.http.request(
            "POST", self.url + path, body=body, headers={"Content-Type": "application/json", **(headers or {})}
        )

    def metrics(self) -> dict[str, float]:
        lines = [line for line in self.get("/metrics").data.decode().splitlines() if not line.startswith("#")]
        return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


@contextmanager
def running(settings: ServerSettings, *, grace: int = 5, connections: int | None = None) -> Iterator[Running]:
    """Run a server while the context lasts."""
    app = create_app(settings, version="1.2.3")
    config = uvicorn.Config(
        app,
        port=0,
        http=limited(settings.client_connections or 1000),
        ws="none",
        lifespan="on",
        log_config=None,
        log_level="warning",
        access_log=False,
        limit_concurrency=connections,
        timeout_graceful_shutdown=grace,
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started and thread.is_alive():
        time.sleep(0.002)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        with urllib3.PoolManager(retries=False, timeout=30) as http:
            yield Running(f"http://127.0.0.1:{port}", http)
    finally:
        server.should_exit = True
        thread.join(30)
        assert not thread.is_alive()


def numbers(answer: urllib3.BaseHTTPResponse) -> np.ndarray:
    """The array of an answer in CBOR."""
    assert answer.status == 200, answer.data
    said = cbor2.loads(answer.data)
    return np.frombuffer(said["bytes"], said["dtype"]).reshape(said["shape"])


def message(answer: urllib3.BaseHTTPResponse) -> str:
    """What an error says, all of it."""
    error = json.loads(answer.data)["error"]
    return " ".join([error["message"], *error.get("caused_by", [])])
