import http.client
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import urllib3

from tests.real.line import (
    CLOSED_HALFWAY,
    CORRUPT,
    RESET,
    RESET_HALFWAY,
    STALLED,
    TRUNCATED,
    WRONG_TYPE,
    Line,
    answered,
)

BODY = bytes(range(256)) * 4
FAST = {"round_trip": 0.0, "bits_per_second": 1e9}


class Pages(BaseHTTPRequestHandler):
    """GET /n answers n bytes, GET /chunked a chunked body, GET /endless one up to the connection's end, POST its own body."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        if self.path == "/chunked":
            self._head(("Transfer-Encoding", "chunked"))
            for piece in (BODY[:100], BODY[100:]):
                self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            self.wfile.write(b"0\r\n\r\n")
        elif self.path == "/endless":
            self.close_connection = True
            self._head(("Connection", "close"))
            self.wfile.write(BODY)
        else:
            size = int(self.path[1:])
            self._head(("Content-Length", str(size)))
            if self.command == "GET":
                self.wfile.write(bytes(size))

    do_HEAD = do_GET  # noqa: N815  # the name that http.server looks for

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self._head(("Content-Length", str(len(body))), ("Content-Type", "text/plain"))
        self.wfile.write(body)

    def _head(self, *headers):
        self.send_response(200)
        for header in headers:
            self.send_header(*header)
        self.end_headers()

    def log_message(self, *_):
        """Write nothing."""


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Pages) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


@pytest.fixture
def http() -> Iterator[urllib3.PoolManager]:
    with urllib3.PoolManager(retries=False, timeout=10, maxsize=8) as pool:
        yield pool


def test_a_line_carries_bytes_both_ways_and_counts_them(port, http):
    with Line("127.0.0.1", port, **FAST) as line:
        answer = http.request("POST", f"{line.url}/v2/sum", body=BODY)
        assert answer.data == BODY
        assert line.sent > len(BODY)
        assert line.received > len(BODY)
        assert line.request_lines == ["POST /v2/sum"]
        assert (line.requests, line.rounds, line.connections, line.most_open, line.failed) == (1, 1, 1, 1, 0)
        line.reset_counters()
        assert (line.sent, line.received, line.requests, line.rounds, line.connections) == (0, 0, 0, 0, 0)
        assert http.request("GET", f"{line.url}/5").data == bytes(5)
        assert (line.requests, line.rounds, line.connections, line.most_open) == (1, 1, 0, 1)


def test_requests_are_counted_whatever_ends_their_answers(port, http):
    with Line("127.0.0.1", port, **FAST) as line:
        for method, path in [("HEAD", "/70000"), ("GET", "/0"), ("GET", "/chunked"), ("GET", "/70000"), ("GET", "/endless")]:
            assert http.request(method, line.url + path).status == 200
        assert http.request("GET", f"{line.url}/1").data == b"\0"
        assert line.requests == line.rounds == 6
        assert line.connections == 2


def test_requests_that_overlap_are_one_round(port, http):
    with Line("127.0.0.1", port, round_trip=0.5) as line, ThreadPoolExecutor(8) as pool:
        for _ in range(2):
            list(pool.map(lambda size: http.request("GET", f"{line.url}/{size}"), range(8)))
        assert (line.requests, line.rounds) == (16, 2)
        assert 1 < line.most_open <= 8


def test_what_is_not_http_passes_uncounted(port):
    with socket.create_server(("127.0.0.1", 0)) as server, Line("127.0.0.1", server.getsockname()[1], **FAST) as line:
        with socket.create_connection(("127.0.0.1", line.port), 10) as client:
            there, _ = server.accept()
            with there:
                there.settimeout(10)
                client.sendall(b"\x16\x03\x01")
                assert there.recv(3) == b"\x16\x03\x01"
                client.shutdown(socket.SHUT_WR)
                assert there.recv(1) == b""
                there.sendall(b"\x16 bye")
            assert client.recv(9) == b"\x16 bye"
            assert client.recv(9) == b""
        assert (line.requests, line.sent, line.received) == (0, 3, 5)


def test_a_connection_costs_a_round_trip_and_so_does_each_request(port, http):
    with Line("127.0.0.1", port, round_trip=0.1) as line:
        began = time.monotonic()
        http.request("GET", f"{line.url}/1")
        assert time.monotonic() - began >= 0.2
        began = time.monotonic()
        http.request("GET", f"{line.url}/1")
        assert time.monotonic() - began >= 0.1


def test_all_connections_share_the_bandwidth(port, http):
    with Line("127.0.0.1", port, round_trip=0, bits_per_second=4e6) as line, ThreadPoolExecutor(4) as pool:
        began = time.monotonic()
        answers = list(pool.map(lambda _: http.request("GET", f"{line.url}/50000"), range(4)))
        assert time.monotonic() - began >= 200_000 * 8 / 4e6
        assert all(answer.data == bytes(50_000) for answer in answers)


@pytest.mark.parametrize("fault", [RESET, RESET_HALFWAY])
def test_a_connection_is_reset_before_or_within_an_answer(port, http, fault):
    with Line("127.0.0.1", port, **FAST) as line:
        line.fail(fault, times=1)
        with pytest.raises(urllib3.exceptions.ProtocolError) as caught:
            http.request("POST", f"{line.url}/v2/sum", body=BODY)
        assert isinstance(caught.value.args[1], ConnectionResetError)
        assert http.request("POST", f"{line.url}/v2/sum", body=BODY).data == BODY
        assert line.failed == 1


def test_an_answer_stops_halfway(port, http):
    with Line("127.0.0.1", port, **FAST) as line:
        line.fail(CLOSED_HALFWAY)
        with pytest.raises(urllib3.exceptions.ProtocolError, match=r"IncompleteRead\(512 bytes read"):
            http.request("POST", f"{line.url}/v2/sum", body=BODY)


def test_answers_are_replaced_by_errors(port, http):
    with Line("127.0.0.1", port, **FAST) as line:
        line.fail(answered(503, "busy", headers="Retry-After: 1"), times=2)
        line.fail(answered(401))
        answers = [http.request("POST", f"{line.url}/v2/sum", body=BODY) for _ in range(3)]
        assert [answer.status for answer in answers] == [503, 503, 401]
        assert answers[0].json() == {"error": {"message": "busy"}}
        assert answers[0].headers["Retry-After"] == "1"
        assert answers[0].headers["Content-Type"] == "application/json"
        line.heal()
        assert http.request("POST", f"{line.url}/v2/sum", body=BODY).data == BODY
        assert (line.connections, line.failed) == (1, 3)


def test_an_answer_never_comes(port, http):
    with Line("127.0.0.1", port, **FAST) as line:
        line.fail(STALLED, times=1)
        with pytest.raises(urllib3.exceptions.ReadTimeoutError):
            http.request("GET", f"{line.url}/1", timeout=0.2)
        assert http.request("GET", f"{line.url}/1").data == b"\0"


@pytest.mark.parametrize(
    ("fault", "body", "content_type"),
    [
        (TRUNCATED, BODY[:512], "text/plain"),
        (CORRUPT, bytes(255 - byte for byte in BODY), "text/plain"),
        (WRONG_TYPE, BODY, "text/html"),
    ],
)
def test_an_answer_is_spoilt_and_the_connection_goes_on(port, http, fault, body, content_type):
    with Line("127.0.0.1", port, **FAST) as line:
        line.fail(fault, times=1)
        answer = http.request("POST", f"{line.url}/v2/sum", body=BODY)
        assert (answer.status, answer.data) == (200, body)
        assert answer.headers["Content-Type"] == content_type
        assert http.request("POST", f"{line.url}/v2/sum", body=BODY).data == BODY
        assert line.connections == 1


def test_faults_are_done_to_the_paths_told(port, http):
    with Line("127.0.0.1", port, **FAST) as line:
        line.fail(answered(500), path="^/v2/(sum|max)")
        statuses = [http.request("POST", f"{line.url}/v2/{name}", body=b"").status for name in ("min", "sum", "max")]
        assert statuses == [200, 500, 500]


def test_a_line_to_nowhere_ends_connections(http):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        with Line("127.0.0.1", unused.getsockname()[1], **FAST) as line, pytest.raises(urllib3.exceptions.ProtocolError):
            http.request("GET", f"{line.url}/1")


def test_a_line_ends_with_connections_open(port):
    with Line("127.0.0.1", port, **FAST) as line:
        client = socket.create_connection(("127.0.0.1", line.port), 10)
        client.sendall(b"GET /5 HTTP/1.1\r\nHost: here\r\n\r\n")
        assert client.recv(4) == b"HTTP"
    with client, pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", line.port), 10)
