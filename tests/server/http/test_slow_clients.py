"""Clients that ask for much and read little: the server's memory stays bounded, and nobody waits for them for ever."""

import http.client
import json
import logging
import re
import socket
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import h5py
import pytest
import urllib3

from activestore import Active
from activestore.core.task import ChunkTask
from activestore.core.wire.encode import frames_from_bytes, tasks_from_json, tasks_to_json
from activestore.server.settings import ServerSettings
from tests.real.servers import EmbeddedServer, run_embedded
from tests.server.running import Running, message, running

CHUNKS, SHAPE = 8, (1, 1024, 1024)
NBYTES = CHUNKS * 4 << 20


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of chunks of 4 MiB, deflated to next to nothing."""
    found = tmp_path_factory.mktemp("root") / "x.h5"
    with h5py.File(found, "w") as file:
        data = file.create_dataset("x", (CHUNKS, *SHAPE[1:]), "<f4", chunks=SHAPE, compression="gzip", compression_opts=1)
        for i in range(CHUNKS):
            data[i] = i
    return found


def asked(path: Path) -> dict[str, Any]:
    """A request for every number of the file, undecoded ones being few."""
    said = tasks_to_json(list(Active(path, "x").plan("sum", ()).tasks()))
    return {"source": {"interface_type": "file", "url": f"file://{path}"}, "tasks": said | {"components": ["values"]}}


def connected(url: str, path: str, fields: Any) -> socket.socket:
    """A connection on which a request was sent, by a client that has hardly any room for the answer."""
    server, body = urlsplit(url), json.dumps(fields).encode()
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.settimeout(30)
    connection.connect((server.hostname, server.port))
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    connection.sendall(head.encode() + body)
    return connection


def held(server: Running) -> float:
    return server.metrics()["activestore_chunk_memory_bytes"]


def until(condition: Any, seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.parametrize("kind", ["plain", "extension"])
def test_who_reads_nothing_is_cut_off(path: Path, kind: str, caplog: pytest.LogCaptureFixture) -> None:
    plain = {"interface_type": "file", "url": f"file://{path.with_name('zeros')}", "dtype": "float32", "size": 8 << 20}
    path.with_name("zeros").write_bytes(bytes(8 << 20))
    target, fields = ("/v2/select", plain) if kind == "plain" else ("/activestore/v1/reduce", asked(path))
    with running(ServerSettings(roots=(path.parent,), read_timeout=0.5)) as server, caplog.at_level(logging.ERROR):
        with connected(server.url, target, fields) as connection:
            until(lambda: held(server) >= 8 << 20)
            until(lambda: held(server) == 0)
            assert read_to_end(connection) < 8 << 20
        assert server.metrics()["activestore_requests_under_way"] == 1
    assert not caplog.records


def test_a_failure_in_mid_answer_cuts_the_answer_off(path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    from activestore.server import engine

    computed = engine.computed

    def broken(tasks: Sequence[ChunkTask], raw: Any) -> bytes:
        # By their place in the answer: groups are read at once, and any of them may be computed first.
        if tasks[0].sequence == CHUNKS - 1:
            raise ZeroDivisionError
        return computed(tasks, raw)

    monkeypatch.setattr(engine, "computed", broken)
    with running(ServerSettings(roots=(path.parent,), workers=1)) as server:
        with pytest.raises(urllib3.exceptions.ProtocolError):
            server.post("/activestore/v1/reduce", asked(path))
        until(lambda: held(server) == 0)
    (record,) = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert record.name == "activestore.server"


def most_memory(server: EmbeddedServer) -> int:
    """Bytes of the most memory that a server has ever had."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{server.process.pid}/status").read_text())
    return int(found[1]) << 10


def test_answers_that_wait_are_within_the_memory_that_there_is(path: Path, tmp_path: Path) -> None:
    fields = asked(path)
    tasks = tasks_from_json(fields["tasks"], largest_chunk=1 << 24, most_tasks=CHUNKS)
    options = ("--root", str(path.parent), "--memory", "32MiB", "--workers", "2")
    with run_embedded(tmp_path, *options) as server, ExitStack() as stack:
        before = most_memory(server)
        slow = [stack.enter_context(connected(server.url, "/activestore/v1/reduce", fields)) for _ in range(16)]
        time.sleep(1.5)
        assert most_memory(server) - before < 100 << 20
        with ThreadPoolExecutor(len(slow)) as pool:
            assert min(pool.map(read_to_end, slow)) > NBYTES
        assert most_memory(server) - before < 100 << 20
        found = urllib3.request("POST", server.url + "/activestore/v1/reduce", json=fields, timeout=30)
        frames = frames_from_bytes(found.data, tasks)
        assert [int(frame.states["values"][0].flat[0]) for frame in frames] == list(range(CHUNKS))


def read_to_end(connection: socket.socket) -> int:
    """Return how many bytes the body of an answer has, or what there is of it."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    answer, nbytes = http.client.HTTPResponse(connection), 0
    answer.begin()
    with suppress(http.client.IncompleteRead):
        while part := answer.read(1 << 20):
            nbytes += len(part)
    return nbytes


@pytest.mark.parametrize("body", [b'{"missing": {"missing_values": [' + b"1, " * 1_000_000 + b"1]}}", b" " * (1 << 20)])
def test_a_long_request_for_one_operation_is_refused_unread(path: Path, body: bytes) -> None:
    with running(ServerSettings(roots=(path.parent,))) as server:
        answer = server.post("/v2/sum", body)
    assert answer.status == 413
    assert str(256 << 10) in message(answer)
