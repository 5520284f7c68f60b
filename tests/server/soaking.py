"""Good and bad requests mixed, on a server in a process of its own whose memory is watched."""

import json
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import urllib3

from tests.real.servers import EmbeddedServer, run_embedded
from tests.server.running import Running, numbers
from tests.server.test_hostile import said, sent

MIB = 1 << 20
CHUNK = 16 * MIB
OPTIONS = (
    "--memory",
    "128MiB",
    "--max-request",
    "2MiB",
    "--no-access-log",
    "--workers",
    "2",
    "--allow-origin",
    "http://127.0.0.1:9",
)
MOST = (70 + 128 + 16 * 2) * MIB
"""What the documentation says that a server takes with these options: the process, the chunks, and the requests."""
MARGIN = 70 * MIB
"""What the memory of a process has beside what is in use: pools of the allocator, sockets; less than five chunks."""
CLIENTS = 4


@dataclass
class Soak:
    """What was asked, and how much memory the server had."""

    answers: Counter[str] = field(default_factory=Counter)
    warm: int = 0
    """Bytes after each kind of request was there once."""
    most: int = 0
    left: int = 0
    """Bytes when nothing is asked any more."""


def soak(folder: Path, *, rounds: int = 10**9, seconds: float = 1e9) -> Soak:
    """Ask for `rounds` times every kind of request from each of several clients, or for as long."""
    if not Path("/proc/self/statm").exists():
        pytest.skip("the system does not tell how much memory a process has")
    root = folder / "root"
    root.mkdir()
    (root / "x.bin").write_bytes(np.arange(CHUNK // 4, dtype="<i4").tobytes())
    found = Soak()
    with run_embedded(folder, "--root", str(root), *OPTIONS) as process, urllib3.PoolManager(CLIENTS, timeout=60) as http:
        kinds, done = _kinds(Running(process.url, http), root), threading.Event()
        _client(kinds, found, 1, 1e9, 0)
        found.warm = _resident(process)

        def watch() -> None:
            while not done.wait(0.01):
                found.most = max(found.most, _resident(process))

        watching, until = threading.Thread(target=watch), time.monotonic() + seconds
        watching.start()
        try:
            with ThreadPoolExecutor(CLIENTS) as clients:
                for one in [clients.submit(_client, kinds, found, rounds, until, seed) for seed in range(CLIENTS)]:
                    one.result()
        finally:
            done.set()
            watching.join()
        found.left = _resident(process)
        assert process.process.poll() is None
    return found


def _client(kinds: dict[str, Callable[[], object]], found: Soak, rounds: int, until: float, seed: int) -> None:
    order = random.Random(seed)  # noqa: S311  # an order, no secret
    for _ in range(rounds):
        for name in order.sample(sorted(kinds), len(kinds)):
            if time.monotonic() > until:
                return
            found.answers[f"{name}: {kinds[name]()}"] += 1


def _resident(server: EmbeddedServer) -> int:
    return int(Path(f"/proc/{server.process.pid}/statm").read_text().split()[1]) * 4096


def _kinds(server: Running, root: Path) -> dict[str, Callable[[], object]]:
    url = f"file://{root}/x.bin"
    plain = {"interface_type": "file", "url": url, "dtype": "int32", "size": CHUNK, "shape": [CHUNK // 4]}
    zlib = [{"id": "zlib", "filter": 1, "values": [4]}]

    def batch(**own: object) -> dict[str, object]:
        tasks = said(1, (CHUNK,), [[0, CHUNK, 1]], selected=[CHUNK], own={"size": CHUNK} | own)
        return {"source": {"interface_type": "file", "url": url}, "tasks": tasks}

    def answered(path: str, fields: object) -> Callable[[], object]:
        return lambda: server.post(path, fields).status

    def right() -> bool:
        return int(numbers(server.post("/v2/max", plain))) == CHUNK // 4 - 1

    def gone(path: str, fields: object, *, length: int | None = None) -> Callable[[], object]:
        body = fields if isinstance(fields, bytes) else json.dumps(fields).encode()

        def leave() -> None:
            with suppress(ConnectionError), sent(server, path, body, length=length):
                time.sleep(0.01)

        return leave

    v2, v1 = "/v2/sum", "/activestore/v1/reduce"
    return {
        "right": right,
        "right, in a batch": answered(v1, batch()),
        "healthz": lambda: server.get("/healthz").status,
        "cannot be decoded": answered(v2, plain | {"compression": {"id": "zlib"}}),
        "cannot be decoded, in a batch": answered(v1, batch(codecs={"of": [zlib]})),
        "cut off": answered(v2, plain | {"offset": 400}),
        "cut off, in a batch": answered(v1, batch(gap=[400])),
        "origin away": answered(v2, plain | {"interface_type": "http", "url": "http://127.0.0.1:9/x"}),
        "not allowed": answered(v2, plain | {"url": "file:///etc/passwd"}),
        "no JSON": answered(v1, b"[" * (2 * MIB)),
        "JSON that ends": answered(v1, b'{"tasks": [' + b"1.5," * (MIB // 2 - 10)),
        "JSON of many parts": answered(v1, b"[" + b"[]," * 80_000 + b"1]"),
        "tasks that are none": answered(v1, {"source": {}, "tasks": [1000] * 300_000}),
        "too large": answered(v2, b" " * (300 << 10)),
        "client gone": gone(v2, plain),
        "client gone from a batch": gone(v1, batch()),
        "answer not taken": gone("/v2/select", plain),
        "body not sent": gone(v1, b" " * MIB, length=2 * MIB),
    }


EXPECTED = {
    "right: True",
    "right, in a batch: 200",
    "healthz: 200",
    "cannot be decoded: 400",
    "cannot be decoded, in a batch: 200",
    "cut off: 400",
    "cut off, in a batch: 400",
    "origin away: 502",
    "not allowed: 403",
    "no JSON: 400",
    "JSON that ends: 400",
    "JSON of many parts: 400",
    "tasks that are none: 400",
    "too large: 413",
    "client gone: None",
    "client gone from a batch: None",
    "answer not taken: None",
    "body not sent: None",
}
"""What each of them is answered with; besides, that there is too much to do."""
