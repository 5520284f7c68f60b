"""Our server beside the real Reductionist: the same requests, for chunks in the same S3 store, on the same processors.

The clients are threads of a process of their own that send prepared requests and look at no number while the clock runs.
"""

import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["CASES", "OURS", "PEER", "Case", "Servers", "measured", "servers"]

OURS, PEER = "activestore serve", "Reductionist"
MANY = "activestore serve, many at once"
_CHUNKS = {"8 MiB": ((32, 256, 256), 24), "64 KiB": ((16, 32, 32), 3000)}
"""Shape of a chunk and number of chunks, by their size."""
_TINY = {"8 MiB": ((2, 4, 4), 8), "64 KiB": ((1, 4, 4), 40)}


@dataclass(frozen=True, slots=True)
class Case:
    """What is asked of a server."""

    title: str
    chunk: str
    clients: int
    requests: int
    """How many chunks are asked for in a round."""
    contenders: tuple[str, ...]
    target: tuple[str, float] | None
    """Who should be how many times as fast as Reductionist; None where that is not the question."""
    most_memory: float | None = None
    """Megabytes that our server may have at its peak."""


CASES = {
    "serve-1": Case("chunks of 8 MiB, one client", "8 MiB", 1, 48, (OURS, PEER), (OURS, 1.0)),
    "serve-16": Case("chunks of 8 MiB, 16 clients", "8 MiB", 16, 144, (OURS, PEER), (OURS, 1.0)),
    "serve-many": Case("chunks of 64 KiB, 16 clients", "64 KiB", 16, 3000, (MANY, OURS, PEER), (MANY, 3.0)),
    "serve-memory": Case("chunks of 8 MiB, 64 requests under way", "8 MiB", 64, 192, (OURS, PEER), None, 300.0),
}


@dataclass(frozen=True, slots=True)
class Servers:
    """Where things are; plain values, for a process of its own."""

    ours: str
    theirs: str
    endpoint: str
    bucket: str
    user: str
    secret: str
    local: str
    """Folder with the files."""
    tiny: bool
    """Whether they are those that try the harness."""


def make(folder: Path, *, tiny: bool) -> None:
    """Write a file for each size of chunk, if it is not there: noise on a smooth field, shuffle and deflate 1."""
    import h5py
    import numpy as np

    folder.mkdir(exist_ok=True)
    for name, (shape, number) in (_TINY if tiny else _CHUNKS).items():
        path = _path(folder, name, tiny=tiny)
        if path.exists():
            continue
        unfinished, random = path.with_suffix(".unfinished"), np.random.default_rng(0)
        with h5py.File(unfinished, "w") as file:
            size = (number * shape[0], *shape[1:])
            x = file.create_dataset("x", size, "f4", chunks=shape, compression=1, shuffle=True)
            field = 280 + 20 * np.sin(np.linspace(0, 6, shape[2], dtype="f4"))
            for i in range(number):
                x[i * shape[0] : (i + 1) * shape[0]] = field + random.normal(0, 1, shape).astype("f4")
        unfinished.rename(path)


def _path(folder: Path, chunk: str, *, tiny: bool) -> Path:
    return folder / f"v1-serve-{'small-' if tiny else ''}{chunk.replace(' ', '').lower()}.h5"


@contextmanager
def servers(folder: Path, *, tiny: bool) -> Iterator[tuple[Servers, Callable[[], float]]]:
    """Run both servers and a store for the length of a `with` block; give where, and our server's peak memory in megabytes."""
    from tests.real.servers import certificates, run_embedded, run_reductionist, run_s3_store

    with ExitStack() as stack:
        work = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=folder, prefix="servers-")))
        folders = {name: work / name for name in ("s3", "reductionist", "embedded", "certificates")}
        for one in folders.values():
            one.mkdir()
        store = stack.enter_context(run_s3_store(folders["s3"]))
        theirs = stack.enter_context(run_reductionist(folders["reductionist"], certificates(folders["certificates"])))
        ours = stack.enter_context(run_embedded(folders["embedded"], "--allow-origin", store.url, "--no-access-log"))
        for name in _CHUNKS:
            path = _path(folder, name, tiny=tiny)
            os.link(path, store.folder / path.name)
        status = Path(f"/proc/{ours.process.pid}/status")

        def peak() -> float:
            line = next(one for one in status.read_text().splitlines() if one.startswith("VmHWM"))
            return int(line.split()[1]) / 1024

        yield Servers(ours.url, theirs.url, store.url, store.bucket, store.key, store.secret, str(folder), tiny), peak


def measured(name: str, who: str, place: str) -> dict[str, Any]:
    """Return how long one contender takes for the chunks of a case, and how wrong the mean of them is."""
    case, where = CASES[name], Servers(**json.loads(place))
    path = _path(Path(where.local), case.chunk, tiny=where.tiny)
    found, expected = _chunks(path)
    wanted = [found[i % len(found)] for i in range(case.requests)]
    url = f"{where.endpoint}/{where.bucket}/{path.name}"
    prepared = _many(wanted, path, url) if who == MANY else _single(wanted, path, url)
    address = (where.theirs if who == PEER else where.ours) + ("/activestore/v1/reduce" if who == MANY else "/v2/sum")
    seconds, processor, answers = _sent(address, prepared, where, case.clients)
    total = _sum_of_frames(answers, wanted, path) if who == MANY else _sum_of_cbor(answers)
    cells = expected["cells"] * len(wanted)
    times = sorted(one for one, _ in answers)
    return {
        "seconds": seconds,
        "processor": processor,
        "chunks": len(wanted),
        "median": statistics.median(times),
        "worst": times[-1],
        "error": abs(total / cells / expected["mean"](wanted) - 1),
    }


def _chunks(path: Path) -> tuple[list[Any], dict[str, Any]]:
    """Return the chunks of a file, and what their mean is by NumPy."""
    import h5py
    import numpy as np

    found: list[Any] = []
    with h5py.File(path) as file:
        x = file["x"]
        x.id.chunk_iter(found.append)
        found.sort(key=lambda chunk: chunk.chunk_offset)
        n = x.chunks[0]
        sums = {i: x[i * n : (i + 1) * n].sum(dtype="f8") for i in range(len(found))}
        cells = int(np.prod(x.chunks))

    def mean(wanted: list[Any]) -> float:
        return float(sum(sums[chunk.chunk_offset[0] // n] for chunk in wanted) / (cells * len(wanted)))

    return found, {"cells": cells, "mean": mean}


def _single(wanted: list[Any], path: Path, url: str) -> list[bytes]:
    """Return a request of the protocol for each chunk."""
    import h5py

    with h5py.File(path) as file:
        shape = file["x"].chunks
    shared = {
        "interface_type": "s3",
        "url": url,
        "dtype": "float32",
        "byte_order": "little",
        "shape": list(shape),
        "axis": [0, 1, 2],
        "compression": {"id": "zlib"},
        "filters": [{"id": "shuffle", "element_size": 4}],
    }
    return [json.dumps(shared | {"offset": chunk.byte_offset, "size": chunk.size}).encode() for chunk in wanted]


def _tasks(wanted: list[Any], path: Path) -> list[Any]:
    from activestore import Active

    by_offset = {task.offset: task for task in Active(path, "x").plan("sum").tasks()}
    return [by_offset[chunk.byte_offset] for chunk in wanted]


_AT_ONCE = 256
"""Chunks of one request where there are many in it: 16 MiB of them."""


def _many(wanted: list[Any], path: Path, url: str) -> list[bytes]:
    """Return requests of the extension for many chunks each."""
    from activestore.core.wire.encode import tasks_to_json

    tasks = _tasks(wanted, path)
    source = {"interface_type": "s3", "url": url}
    runs = [tasks[i : i + _AT_ONCE] for i in range(0, len(tasks), _AT_ONCE)]
    return [json.dumps({"source": source, "tasks": tasks_to_json(run)}).encode() for run in runs]


def _sent(address: str, prepared: list[bytes], where: Servers, clients: int) -> tuple[float, float, list[tuple[float, bytes]]]:
    """Return how long all requests take together, the processor time of the clients, and time and body of each answer."""
    import urllib3

    pool = urllib3.PoolManager(maxsize=clients, block=True, retries=False)
    headers = urllib3.make_headers(basic_auth=f"{where.user}:{where.secret}") | {"Content-Type": "application/json"}

    def asked(body: bytes) -> tuple[float, bytes]:
        started = time.perf_counter()
        answer = pool.request("POST", address, body=body, headers=headers, timeout=60)
        if answer.status != 200:
            raise RuntimeError(f"{answer.status}: {answer.data[:300]!r}")
        return time.perf_counter() - started, answer.data

    with ThreadPoolExecutor(clients) as threads:
        # Connections are open, and threads there, before the clock runs.
        list(threads.map(asked, prepared[: 2 * clients]))
        processor, started = time.process_time(), time.perf_counter()
        answers = list(threads.map(asked, prepared))
        return time.perf_counter() - started, time.process_time() - processor, answers


def _sum_of_cbor(answers: list[tuple[float, bytes]]) -> float:
    import cbor2
    import numpy as np

    read = [cbor2.loads(body) for _, body in answers]
    return float(sum(float(np.frombuffer(one["bytes"], one["dtype"])[0]) for one in read))


def _sum_of_frames(answers: list[tuple[float, bytes]], wanted: list[Any], path: Path) -> float:
    from activestore.core.wire.encode import frames_from_bytes

    tasks, total = _tasks(wanted, path), 0.0
    for i, (_, body) in enumerate(answers):
        for partial in frames_from_bytes(body, tasks[i * _AT_ONCE : (i + 1) * _AT_ONCE]):
            total += float(partial.states["sum"][0].sum())
    return total
