"""Connections that are only held shut nobody out: not others, nor who holds them."""

import json
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest

from activestore.server.http.connection import _client, limited
from activestore.server.settings import ServerSettings
from tests.server.running import Running, numbers, running
from tests.server.test_hostile import asked, sent, until

VALUES = np.arange(24, dtype="f4")
GET = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("root")
    (found / "x.bin").write_bytes(VALUES.tobytes())
    (found / "large.bin").write_bytes(bytes(8 << 20))
    return found


@pytest.fixture
def server(folder: Path) -> Iterator[Running]:
    with running(ServerSettings(roots=(folder,), client_connections=5, memory=512 << 20), connections=12) as found:
        yield found


def idle(server: Running, source: str = "127.0.0.1") -> socket.socket:
    """A connection from an address of this machine, on which nothing is asked."""
    address = urlsplit(server.url)
    return socket.create_connection((address.hostname, address.port), 10, source_address=(source, 0))


def is_open(connection: socket.socket) -> bool:
    """Whether the server answers on a connection."""
    try:
        connection.sendall(GET)
        return connection.recv(1000).startswith(b"HTTP/1.1 200")
    except ConnectionError:
        return False


def test_who_holds_many_connections_is_still_answered(server: Running) -> None:
    with ExitStack() as stack:
        held = [stack.enter_context(closing(idle(server))) for _ in range(40)]
        assert server.get("/healthz").status == 200
        assert [is_open(one) for one in held].count(True) <= 5


def test_those_that_were_used_last_are_kept(server: Running) -> None:
    with ExitStack() as stack:
        first, second, *_ = [stack.enter_context(closing(idle(server))) for _ in range(5)]
        assert is_open(first)
        assert is_open(stack.enter_context(closing(idle(server))))
        assert is_open(first)
        assert not is_open(second)


def test_others_are_not_shut_out(server: Running, folder: Path) -> None:
    """Four addresses may have more connections than there are."""
    with ExitStack() as stack:
        for host in range(2, 6):
            for _ in range(10):
                stack.enter_context(closing(idle(server, f"127.0.0.{host}")))
        good = stack.enter_context(closing(idle(server)))
        assert is_open(good)
        assert is_open(good)
        assert numbers(server.post("/v2/sum", asked(folder, "x.bin", 24))) == VALUES.sum()


def test_a_connection_with_a_request_under_way_is_not_ended(server: Running, folder: Path) -> None:
    """Its answer is more than the client takes."""
    fields = json.dumps(asked(folder, "large.bin", 2 << 20)).encode()
    with ExitStack() as stack:
        busy = [stack.enter_context(sent(server, "/v2/select", fields)) for _ in range(4)]
        until(lambda: server.metrics()["activestore_requests_under_way"] == 5)
        for _ in range(20):
            stack.enter_context(closing(idle(server)))
        server.http.clear()  # whose connection was idle, and may be ended just now
        assert server.get("/healthz").status == 200
        for one in busy:
            assert one.recv(20).startswith(b"HTTP/1.1 200")


def test_who_has_only_busy_ones_gets_no_more(server: Running, folder: Path) -> None:
    fields = json.dumps(asked(folder, "large.bin", 2 << 20)).encode()
    with ExitStack() as stack:
        for _ in range(4):
            stack.enter_context(sent(server, "/v2/select", fields))
        until(lambda: server.metrics()["activestore_requests_under_way"] == 5)
        server.http.clear()
        stack.enter_context(sent(server, "/v2/select", fields))
        time.sleep(0.2)
        assert not is_open(stack.enter_context(closing(idle(server))))
        assert is_open(stack.enter_context(closing(idle(server, "127.0.0.2"))))


def test_an_error_says_what_is_wrong_when_all_are_busy(folder: Path) -> None:
    fields = json.dumps(asked(folder, "large.bin", 2 << 20)).encode()
    with running(ServerSettings(roots=(folder,)), connections=3) as server, ExitStack() as stack:
        for _ in range(2):
            stack.enter_context(sent(server, "/v2/select", fields))
        time.sleep(0.3)
        assert server.get("/healthz").status == 503


def test_what_a_client_is_counted_by() -> None:
    assert _client(("192.0.2.7", 80)) == _client(("::ffff:192.0.2.7", 80)) == "192.0.2.7"
    assert _client(("2001:db8::1", 80)) == _client(("2001:db8::ffff:1", 81)) == "2001:db8::/64"
    assert _client(("2001:db8:0:1::1", 80)) != _client(("2001:db8::1", 80))
    assert _client(None) == _client(None)


def test_nothing_is_left_of_connections_that_are_gone(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = limited(5)
    monkeypatch.setattr("tests.server.running.limited", lambda _: made)
    with running(ServerSettings(roots=(folder,))) as server:
        with ExitStack() as stack:
            for host in range(2, 5):
                stack.enter_context(closing(idle(server, f"127.0.0.{host}")))
            until(lambda: len(made.clients._of) == 3)
        until(lambda: not made.clients._of)
