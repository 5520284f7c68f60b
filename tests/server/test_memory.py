"""What a server keeps of requests that are done, whatever became of them: nothing, without Python's garbage collector."""

import gc
import json
import time
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from activestore.server.http.exchange import Exchange
from activestore.server.settings import ServerSettings
from tests.server.running import Running, running
from tests.server.test_hostile import said, sent, until

MIB = 1 << 20
NUMBERS = MIB // 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("root")
    (found / "x.bin").write_bytes(bytes(MIB))
    return found


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Running]:
    settings = ServerSettings(roots=(folder,), origins=("http://127.0.0.1:9",), read_timeout=1.0)
    with running(settings) as found:
        # What is made once is there.
        found.post("/v2/sum", {})
        found.get("/metrics")
        yield found


def plain(folder: Path, **more: Any) -> dict[str, Any]:
    """A request for the sum of the file."""
    url = f"file://{folder}/x.bin"
    return {"interface_type": "file", "url": url, "dtype": "int32", "size": MIB, "shape": [NUMBERS]} | more


def batch(folder: Path, source: dict[str, str] | None = None, **own: Any) -> dict[str, Any]:
    """The same in the extension's words."""
    tasks = said(1, (MIB,), [[0, MIB, 1]], selected=[MIB], own={"size": MIB} | own)
    return {"source": source or {"interface_type": "file", "url": f"file://{folder}/x.bin"}, "tasks": tasks}


DEAD = {"interface_type": "http", "url": "http://127.0.0.1:9/x"}
ZLIB = [{"id": "zlib", "filter": 1, "values": [4]}]

ANSWERED: dict[str, tuple[int, str, Callable[[Path], Any]]] = {
    "done": (200, "/v2/sum", plain),
    "done, in a batch": (200, "/activestore/v1/reduce", batch),
    "nothing there": (404, "/nothing", plain),
    "cannot be decoded": (400, "/v2/sum", lambda folder: plain(folder, compression={"id": "zlib"})),
    "cannot be decoded, in a batch": (200, "/activestore/v1/reduce", lambda folder: batch(folder, codecs={"of": [ZLIB]})),
    "cut off": (400, "/v2/sum", lambda folder: plain(folder, offset=400)),
    "cut off, in a batch": (400, "/activestore/v1/reduce", lambda folder: batch(folder, gap=[400])),
    "no such file": (400, "/v2/sum", lambda folder: plain(folder, url=f"file://{folder}/y")),
    "not allowed": (403, "/v2/sum", lambda folder: plain(folder, url="file:///etc/passwd")),
    "origin away": (502, "/v2/sum", lambda folder: plain(folder, **DEAD)),
    "origin away, in a batch": (502, "/activestore/v1/reduce", lambda folder: batch(folder, DEAD)),
    "no JSON": (400, "/v2/sum", lambda _: b"{" * 100_000),
    "no JSON, in a batch": (400, "/activestore/v1/reduce", lambda _: b"[" * MIB),
    "cut off JSON": (400, "/activestore/v1/reduce", lambda _: b'{"tasks": [' + b"1," * MIB),
    "blanks": (400, "/activestore/v1/reduce", lambda _: b" " * MIB),
    "tasks that are none": (400, "/activestore/v1/reduce", lambda folder: batch(folder, codecs={"of": [[{"id": "nix"}]]})),
    "too many positions": (400, "/activestore/v1/reduce", lambda folder: batch(folder, gap=[1] * 300_000)),
    "an unknown field": (400, "/v2/sum", lambda folder: plain(folder, sise=3)),
    "too large": (413, "/v2/sum", lambda _: b" " * (300 << 10)),
}


@contextmanager
def uncollected() -> Iterator[list[object]]:
    """What only the garbage collector would have freed in the block: the list is filled at its end."""
    found: list[object] = []
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        yield found
        gc.collect()
        found += gc.garbage
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()


def check_small(kept: list[object]) -> None:
    """No frame, in which anything may be, nor a request is kept, nor more than a few kilobytes."""
    assert [one.f_code.co_qualname for one in kept if isinstance(one, types.FrameType)] == []
    assert [one for one in kept if isinstance(one, Exchange | BaseException)] == []
    held = {id(one): one for holder in kept for one in gc.get_referents(holder) if isinstance(one, bytes | bytearray | str)}
    assert sum(map(len, held.values())) < 64 << 10


@pytest.mark.parametrize("name", ANSWERED)
def test_nothing_is_kept_of_a_request_that_was_answered(folder: Path, server: Running, name: str) -> None:
    status, path, fields = ANSWERED[name]
    body = fields(folder)
    body = body if isinstance(body, bytes) else json.dumps(body).encode()
    with uncollected() as kept:
        assert [server.post(path, body).status for _ in range(2)] == [status] * 2
    check_small(kept)


@pytest.mark.parametrize("path", ["/v2/sum", "/v2/select", "/activestore/v1/reduce"])
def test_nothing_is_kept_of_a_request_whose_client_has_gone(folder: Path, server: Running, path: str) -> None:
    body = json.dumps(batch(folder) if "reduce" in path else plain(folder)).encode()
    with uncollected() as kept:
        for seconds in (0, 0.002, 0.01):
            with sent(server, path, body):
                time.sleep(seconds)
        until(lambda: server.metrics()["activestore_requests_under_way"] == 1)
    check_small(kept)


def test_nothing_is_kept_of_a_body_that_never_comes_in_full(server: Running) -> None:
    with uncollected() as kept:
        with sent(server, "/activestore/v1/reduce", b" " * MIB, length=2 * MIB):
            time.sleep(0.05)
        with sent(server, "/activestore/v1/reduce", b" " * MIB, length=2 * MIB) as connection:
            assert connection.recv(20).startswith(b"HTTP/1.1 408")
        until(lambda: server.metrics()["activestore_requests_under_way"] == 1)
    check_small(kept)


def test_nothing_is_kept_of_an_answer_that_nobody_takes(folder: Path, server: Running) -> None:
    # More than the system takes for a client that does not read.
    fields = plain(folder, shape=[NUMBERS], option_disable_chunk_cache=True)
    (folder / "large.bin").write_bytes(bytes(16 * MIB))
    fields |= {"url": f"file://{folder}/large.bin", "size": 16 * MIB, "shape": [4 * MIB]}
    with uncollected() as kept, sent(server, "/v2/select", json.dumps(fields).encode()):
        until(lambda: server.metrics()['activestore_requests_total{endpoint="v2/select",status="200"}'] >= 1)
        until(lambda: server.metrics()["activestore_requests_under_way"] == 1)
    check_small(kept)


def test_nothing_is_kept_of_an_error_of_the_server_itself(
    folder: Path, server: Running, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("activestore.server.engine.reduced", lambda *_, **__: 1 / 0)
    with uncollected() as kept:
        assert [server.post("/v2/sum", plain(folder)).status for _ in range(2)] == [500] * 2
        assert "ZeroDivisionError" in caplog.text
        caplog.clear()
    check_small(kept)
