"""Callers who mean harm: few bytes that ask for very much, answers that nobody reads, connections that are only held."""

import json
import logging
import math
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import tracemalloc
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
import urllib3

from activestore.core.selection import region_shape
from activestore.server.engine import Engine
from activestore.server.errors import RequestError
from activestore.server.http.connection import Connection
from activestore.server.http.middleware import ACCESS_LOG
from activestore.server.metrics import Metrics
from activestore.server.protocol import batch
from activestore.server.protocol import fields as json_fields
from activestore.server.protocol.batch import computed, parse_batch
from activestore.server.settings import ServerSettings
from tests.real.servers import EmbeddedServer, run_embedded
from tests.server.running import Running, message, numbers, running

MIB = 1 << 20
VALUES = np.arange(24, dtype="f4")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("root")
    (found / "x.bin").write_bytes(VALUES.tobytes())
    (found / "large.bin").write_bytes(bytes(8 * MIB))
    return found


def said(count: int, shape: tuple[int, ...], region: list[Any], **more: Any) -> dict[str, Any]:
    """Tasks as they travel, all alike: the sum of bytes."""
    own = {"gap": [0] * count, "size": 1, "codecs": {"of": [[]]}} | more.pop("own", {})
    template = {
        "variable": "x",
        "dtype": "|u1",
        "skipna": True,
        "axes": list(range(len(shape))),
        "components": ["sum"],
        "accumulator": "u8",
        "fill": "00",
        "selected": [1 << 20] * len(shape),
    }
    own |= {
        "sequence": [0] + [1] * (count - 1),
        "chunk": [0] * len(shape),
        "shape": {"of": [list(shape)]},
        "region": [{"of": [part]} for part in region],
    }
    return template | more | {"tasks": own}


def parsed(tasks: dict[str, Any], settings: ServerSettings = ServerSettings()) -> batch.Batch:  # noqa: B008  # it is frozen
    source = {"interface_type": "file", "url": "file:///x"}
    return parse_batch(json.dumps({"source": source, "tasks": tasks}).encode(), None, settings)


def asked(folder: Path, name: str, count: int) -> dict[str, Any]:
    return {
        "interface_type": "file",
        "url": f"file://{folder}/{name}",
        "dtype": "float32",
        "shape": [count],
        "offset": 0,
        "size": 4 * count,
    }


def sent(server: Running, path: str, body: bytes, *, length: int | None = None, more: str = "") -> socket.socket:
    """A connection with little room, on which a request was sent."""
    address = urlsplit(server.url)
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.settimeout(20)
    connection.connect((address.hostname, address.port))
    said = len(body) if length is None else length
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {said}\r\n{more}\r\n"
    connection.sendall(head.encode() + body)
    return connection


def until(condition: Any, seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


class TestMuchOfFewBytes:
    """Requests of a few kilobytes, whose chunks are read, selected or answered in far more bytes than they have decoded."""

    def test_stored_bytes_count(self):
        found = parsed(said(8, (1,), [[0, 1, 1]], own={"size": 100 * MIB}))
        assert [len(group.tasks) for group in found.groups] == [1] * 8

    def test_positions_that_repeat_count(self):
        many = {"points": [0] * 4000}
        of_values = {"axes": [], "components": ["values"]}
        for more in ({}, of_values):
            found = parsed(said(8, (1, 1), [many, many], **more))
            assert [len(group.tasks) for group in found.groups] == [1] * 8

    def test_small_chunks_still_go_together(self):
        found = parsed(said(300, (1000,), [[0, 1000, 1]], own={"size": 100}))
        assert [len(group.tasks) for group in found.groups] == [256, 44]

    def test_pieces_that_lie_far_apart_are_refused(self):
        pieces = 20_000
        own = {"gap": [0] + [16_000] * (pieces - 1), "pieces": pieces}
        with pytest.raises(RequestError, match="further apart"):
            parsed(said(1, (pieces,), [[0, pieces, 1]], own=own))
        near = {"gap": [0] + [500] * (pieces - 1), "pieces": pieces}
        assert parsed(said(1, (pieces,), [[0, pieces, 1]], own=near)).tasks[0].chunks == pieces

    def test_more_than_can_be_done_in_a_while_is_refused(self):
        with pytest.raises(RequestError, match="ask for fewer") as caught:
            parsed(said(4096, (1,), [[0, 1, 1]], own={"size": MIB}))
        assert caught.value.status == 413
        assert len(parsed(said(1000, (1,), [[0, 1, 1]], own={"size": MIB})).tasks) == 1000

    def test_the_largest_chunk_is_not_too_much(self):
        settings = ServerSettings(largest_chunk=4096 * MIB)
        assert parsed(said(1, (2048 * MIB,), [[0, 2048 * MIB, 1]], selected=[2048 * MIB]), settings).tasks


@pytest.mark.parametrize("path", ["/v2/sum", "/activestore/v1/reduce"])
def test_large_requests_are_read_off_the_event_loop(folder: Path, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    threads = []

    def noted(usual: Any, given: Any) -> Any:
        threads.append(threading.current_thread().name)
        return usual(given)

    monkeypatch.setattr(json_fields, "_object", partial(noted, json_fields._object))
    monkeypatch.setattr(batch, "loads", partial(noted, batch.loads))
    with running(ServerSettings(roots=(folder,))) as server:
        assert server.post(path, json.dumps({"of": ["x"] * 10_000}).encode()).status == 400
    assert threads
    assert all(name.startswith("activestore-serve-work") for name in threads)


SHUFFLED = [{"id": "shuffle", "filter": 2, "values": [2]}, {"id": "zlib", "filter": 1, "values": [4]}]
LISTED = {"values": list(range(0, 40, 2)), "valid_min": None, "valid_max": 90}
PACKING = {"scale": 0.5, "scale_dtype": "<f8", "offset": 3.0, "offset_dtype": "<f8"}


@pytest.mark.parametrize("dtype", ["|u1", "<i2", ">i8"])
@pytest.mark.parametrize("component", ["sum", "moments", "argmax", "values"])
@pytest.mark.parametrize("more", [{}, {"missing": LISTED}, {"packing": PACKING}, {"packing": PACKING, "missing": LISTED}])
@pytest.mark.parametrize("form", ["stored", "deflated", "points"])
def test_work_takes_no_more_memory_than_it_is_given(dtype: str, component: str, more: dict[str, Any], form: str) -> None:
    kind = np.dtype(dtype)
    shape = (64, 512)
    stored = np.arange(math.prod(shape)).astype(kind).tobytes()
    own: dict[str, Any] = {}
    if form == "deflated":
        stored = zlib.compress(np.frombuffer(stored, "u1").reshape(-1, 2).T.tobytes())
        own["codecs"] = {"of": [SHUFFLED]}
    # Four times as many numbers as there are.
    rows = {"points": list(range(64)) * 4} if form == "points" else [0, 64, 1]
    if component == "argmax":
        own["placement"] = [{"of": [[0, 256 if form == "points" else 64, 1]]}, {"of": [[0, 512, 1]]}]
    template = {"axes": [] if component == "values" else [0, 1], "components": [component], "dtype": dtype}
    template |= {"accumulator": "f8", "fill": "00" * kind.itemsize}
    asked_for = said(1, shape, [rows, [0, 512, 1]], own=own | {"size": len(stored)}, **template, **more)
    (group,) = parsed(asked_for, ServerSettings(largest_chunk=16 * MIB)).groups
    tasks = group.tasks
    assert math.prod(region_shape(tasks[0].region)) == math.prod(shape) * (4 if form == "points" else 1)
    computed(tasks, [stored])
    tracemalloc.start()
    frames = computed(tasks, [stored])
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert b"error" not in frames[:40]
    assert most <= group.working + (64 << 10)


class TestSlowClients:
    def test_one_that_reads_nothing_stops_nobody_else(self, folder: Path) -> None:
        fields = json.dumps(asked(folder, "large.bin", 2 * MIB)).encode()
        settings = ServerSettings(roots=(folder,), memory=16 * MIB, workers=1, readers=1)
        with running(settings) as server, ExitStack() as stack:
            # More of them than there are turns.
            for _ in range(6):
                stack.enter_context(sent(server, "/v2/select", fields))
            until(lambda: server.metrics()["activestore_requests_under_way"] == 7)
            time.sleep(0.2)
            assert numbers(server.post("/v2/sum", asked(folder, "x.bin", 24))) == VALUES.sum()

    def test_one_that_reads_a_little_at_a_time_is_cut_off(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("activestore.server.http.exchange._SLOWEST", 100 * MIB)
        fields = json.dumps(asked(folder, "large.bin", 2 * MIB)).encode()
        with (
            running(ServerSettings(roots=(folder,), read_timeout=0.5)) as server,
            sent(server, "/v2/select", fields) as connection,
        ):
            nbytes = 0
            try:
                # Often enough for each piece to be taken in time.
                while part := connection.recv(128 << 10):
                    nbytes += len(part)
                    time.sleep(0.02)
            except ConnectionError:
                pass
            assert nbytes < 8 * MIB
            until(lambda: server.metrics()["activestore_chunk_memory_bytes"] == 0)

    def test_large_requests_that_do_not_come_leave_room_for_small_ones(self, folder: Path) -> None:
        settings = ServerSettings(roots=(folder,), largest_request=MIB)
        with running(settings) as server, ExitStack() as stack:
            for _ in range(8):
                stack.enter_context(sent(server, "/activestore/v1/reduce", b" " * (MIB - 1), length=MIB))
            # Half of the room is for four of them.
            refused = 'activestore_requests_total{endpoint="extension",status="429"}'
            until(lambda: server.metrics().get(refused) == 4)
            time.sleep(0.2)
            answer = server.post("/activestore/v1/reduce", b" " * (MIB - 1))
            assert (answer.status, "too many large requests" in message(answer)) == (429, True)
            assert numbers(server.post("/v2/sum", asked(folder, "x.bin", 24))) == VALUES.sum()


class TestConnections:
    """Sockets that are only held."""

    @pytest.fixture
    def server(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Running]:
        monkeypatch.setattr("activestore.server.http.connection._SECONDS", 0.3)
        with running(ServerSettings(roots=(folder,))) as found:
            yield found

    def held(self, server: Running, *, after: bytes, length: int = 0) -> float:
        """How long a connection lasts on which, after an answer, these bytes come and nothing else."""
        with sent(server, "/v2/sum" if length else "/v2/_probe", b"{}", length=length or None) as connection:
            assert connection.recv(4096).startswith(b"HTTP/1.1 4")
            connection.sendall(after)
            began = time.monotonic()
            connection.settimeout(3)
            with suppress(ConnectionError):
                assert connection.recv(4096) == b""
            return time.monotonic() - began

    def test_empty_lines_keep_no_connection(self, server: Running) -> None:
        assert self.held(server, after=b"\r\n") < 2

    def test_the_rest_of_a_request_that_was_refused_keeps_no_connection(self, server: Running) -> None:
        assert self.held(server, after=b" " * 100, length=1 << 40) < 2

    def test_who_does_not_take_the_last_of_an_answer_is_cut_off(
        self, folder: Path, server: Running, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        made = Connection.connection_made

        def with_little_room(self: Connection, transport: Any) -> None:
            transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
            made(self, transport)

        monkeypatch.setattr(Connection, "connection_made", with_little_room)
        fields = json.dumps(asked(folder, "large.bin", 50_000)).encode()
        with sent(server, "/v2/select", fields, more="Connection: close\r\n") as connection:
            time.sleep(1)
            nbytes = 0
            with suppress(ConnectionError):
                while part := connection.recv(1 << 20):
                    nbytes += len(part)
            assert nbytes < 200_000

    def test_a_flood_of_requests_on_one_connection_ends_it_and_what_it_asked_for(
        self, folder: Path, server: Running, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        go_on = threading.Event()
        monkeypatch.setattr("activestore.server.engine.reduced", lambda *_, **__: go_on.wait(10) and 1 / 0)
        fields = json.dumps(asked(folder, "x.bin", 24)).encode()
        with sent(server, "/v2/sum", fields) as connection, suppress(ConnectionError):
            connection.sendall(b"GET /healthz HTTP/1.1\r\n\r\n" * 10_000)
            assert connection.recv(100) == b""
        go_on.set()
        until(lambda: server.metrics()["activestore_requests_under_way"] == 1)
        found = server.metrics()
        assert found['activestore_requests_total{endpoint="v2/sum",status="499"}'] == 1
        assert 'activestore_requests_total{endpoint="healthz",status="200"}' not in found

    def test_a_few_requests_ahead_are_answered_in_order(self, folder: Path, server: Running) -> None:
        fields = json.dumps(asked(folder, "large.bin", MIB)).encode()
        with sent(server, "/v2/select", fields) as connection:
            connection.sendall(b"GET /healthz HTTP/1.1\r\n\r\n" * 3 + b"GET /heal")
            time.sleep(0.5)
            connection.sendall(b"thz HTTP/1.1\r\n\r\n")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
            data = b""
            while data.count(b"ok\n") < 4:
                data += connection.recv(1 << 20)
            assert data.count(b"HTTP/1.1 200") == 5


FEW_FILES = """
import resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (540, 540))
from activestore.cli.main import main
sys.exit(main(["serve", "--port", "0", "--no-access-log", "--root", sys.argv[1]]))
"""


def test_connections_leave_room_for_files(folder: Path) -> None:
    pytest.importorskip("resource")
    with subprocess.Popen([sys.executable, "-c", FEW_FILES, str(folder)], stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            url = next(line for line in process.stderr if "serving on" in line).split()[3].rstrip(";")
            with ExitStack() as stack, urllib3.PoolManager(retries=False, timeout=10) as http:
                server = Running(url, http)
                assert server.get("/healthz").status == 200
                for _ in range(600):
                    with suppress(ConnectionError):
                        stack.enter_context(sent(server, "/healthz", b"", length=0))
                answer = server.post("/v2/sum", asked(folder, "x.bin", 24))
                assert numbers(answer) == VALUES.sum()
                assert len(list(Path(f"/proc/{process.pid}/fd").iterdir())) < 100
        finally:
            process.kill()


@pytest.mark.parametrize(
    "url", ["http://me:pass/word@h/x", "//me:password@h/x?word", "http:/me:password@h/x", "s3://me:pass/word@h/b", "file:word"]
)
@pytest.mark.parametrize("path", ["/v2/sum", "/activestore/v1/reduce"])
def test_an_address_that_is_none_is_not_logged(folder: Path, url: str, path: str, caplog: pytest.LogCaptureFixture) -> None:
    source = {"interface_type": "http", "url": url}
    plain = path == "/v2/sum"
    with running(ServerSettings(roots=(folder,))) as server, caplog.at_level(logging.INFO, ACCESS_LOG):
        body = source | {"dtype": "int32"} if plain else {"source": source, "tasks": said(1, (1,), [[0, 1, 1]])}
        answer = server.post(path, body)
    assert answer.status == 400
    assert "word" not in message(answer).replace("no user, password or fragment", "")
    assert "word" not in caplog.text.replace("no user, password or fragment", "")


def test_a_file_that_is_written_over_and_dated_back_is_read_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # As of a file that nobody has touched for long.
    monkeypatch.setattr("activestore.server.reading.origins._UNSETTLED", -1)
    path, dates = tmp_path / "x.bin", (10**9, 10**9)
    path.write_bytes(VALUES.tobytes())
    os.utime(path, dates)
    with running(ServerSettings(roots=(tmp_path,), cache=MIB)) as server:
        for _ in range(2):
            assert numbers(server.post("/v2/sum", asked(tmp_path, "x.bin", 24))) == VALUES.sum()
        assert server.metrics()["activestore_cache_hits_total"] == 1
        with path.open("r+b") as file:
            file.write((VALUES + 1).tobytes())
        os.utime(path, dates)
        assert numbers(server.post("/v2/sum", asked(tmp_path, "x.bin", 24))) == VALUES.sum() + 24


class TestStopping:
    """What is under way, or waits, when the server is told to stop."""

    def stopped(self, server: EmbeddedServer) -> str:
        """What a server had to say, which ends in time."""
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(15) == 0
        return server.log_file.read_text()

    def test_requests_that_wait_for_a_stalled_origin_begin_no_new_read(self, folder: Path, tmp_path: Path) -> None:
        with socket.create_server(("127.0.0.1", 0), backlog=50) as stalled, ExitStack() as stack:
            origin = f"http://127.0.0.1:{stalled.getsockname()[1]}"
            options = ("--root", str(folder), "--allow-origin", origin, "--readers", "1", "--workers", "1", "--grace", "1")
            with run_embedded(tmp_path, *options) as process, urllib3.PoolManager() as http:
                fields = asked(folder, "x.bin", 24) | {"interface_type": "http", "url": f"{origin}/x"}
                server = Running(process.url, http)
                asking = [stack.enter_context(sent(server, "/v2/sum", json.dumps(fields).encode())) for _ in range(20)]
                until(lambda: server.metrics()["activestore_requests_under_way"] == 21)
                assert "Traceback" not in self.stopped(process)
            statuses = {connection.recv(12) for connection in asking}
        assert statuses == {b"HTTP/1.1 502", b"HTTP/1.1 503"}

    def test_clients_that_read_nothing_are_cut_off(self, folder: Path, tmp_path: Path) -> None:
        fields = json.dumps(asked(folder, "large.bin", 2 * MIB)).encode()
        with (
            run_embedded(tmp_path, "--root", str(folder), "--grace", "1") as process,
            urllib3.PoolManager() as http,
            sent(Running(process.url, http), "/v2/select", fields),
        ):
            until(lambda: Running(process.url, http).metrics()["activestore_chunks_total"] == 1)
            assert "Traceback" not in self.stopped(process)

    def test_a_thread_that_never_ends_is_left_behind(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("activestore.server.engine._ENDING", 0.2)
        engine, never = Engine(ServerSettings(roots=(folder,)), Metrics()), threading.Event()
        engine.workers.submit(never.wait, 20)
        began = time.monotonic()
        engine.close()
        assert time.monotonic() - began < 5
        never.set()
