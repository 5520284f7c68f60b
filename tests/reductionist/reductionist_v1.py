"""A stand-in for a Reductionist server that speaks v1, written from its API's description; nothing builds the real one now.

It computes with NumPy, naively and in the type of the variable as the real one does, on files of a folder in place of a store.
The last release with v1 is 0.11; the ones up to 0.9 know no axes.
"""

import json
import threading
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np

Answer = tuple[int, Mapping[str, str], bytes] | None
"""Status, headers and body; None drops the connection."""
FIELDS = {
    "source",
    "bucket",
    "object",
    "dtype",
    "byte_order",
    "offset",
    "size",
    "shape",
    "order",
    "selection",
    "compression",
    "filters",
    "missing",
}


@dataclass
class StandIn:
    """A server in a thread: every request goes to `answer(path, fields, headers)`, and is kept."""

    answer: Callable[[str, Any, Mapping[str, str]], Answer]
    url: str = ""
    requests: list[tuple[str, Any, Mapping[str, str]]] = field(default_factory=list)

    @contextmanager
    def running(self) -> Iterator["StandIn"]:
        """Answer requests while the context lasts."""
        stand_in = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                fields = json.loads(body)
                stand_in.requests.append((self.path, fields, dict(self.headers)))
                answer = stand_in.answer(self.path, fields, dict(self.headers))
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

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        thread = threading.Thread(target=lambda: server.serve_forever(0.01), daemon=True)
        thread.start()
        self.url = f"http://127.0.0.1:{server.server_port}"
        try:
            yield self
        finally:
            server.shutdown()
            thread.join()
            server.server_close()


def error(status: int, message: str, *causes: str) -> Answer:
    """An error as Reductionist writes it."""
    body = {"error": {"message": message} | ({"caused_by": list(causes)} if causes else {})}
    return status, {"Content-Type": "application/json"}, json.dumps(body).encode()


def v1(folder: Path, *, axes: bool = True) -> StandIn:
    """A v1 server whose buckets are the folders in `folder`; of release 0.11, or without axes of an earlier one."""

    def answer(path: str, fields: Any, headers: Mapping[str, str]) -> Answer:
        operation = path.removeprefix("/v1/")
        if not path.startswith("/v1/"):
            return 404, {}, b""
        if operation not in ("count", "min", "max", "sum", "select"):
            return error(404, f"unsupported operation {operation}")
        for name in fields:
            if name not in FIELDS | ({"axis"} if axes else set()):
                return error(400, "request data is not valid", f"unknown field `{name}`, expected one of `source`, …")
        if axes and isinstance(fields.get("axis"), list) and len(fields["axis"]) >= len(fields["shape"]):
            return error(400, "request data is not valid", "Number of reduction axes must be less than length of shape")
        stored = folder / fields["bucket"] / unquote(fields["object"])
        if not stored.exists():
            return error(400, "error retrieving object from S3 storage", "service error", "NoSuchKey")
        values, count = computed(operation, fields, stored.read_bytes())
        said = {
            "dtype": "int64" if operation == "count" else fields["dtype"],
            "byte-order": "little",
            "shape": json.dumps(values.shape),
            "count": json.dumps(count.ravel().tolist()) if axes else str(int(count.sum())),
        }
        found = {f"x-activestorage-{name}": value for name, value in said.items()}
        return 200, {"Content-Type": "application/octet-stream"} | found, values.tobytes()

    return StandIn(answer)


def computed(operation: str, fields: Any, stored: bytes) -> tuple[np.ndarray, np.ndarray]:
    """The numbers that a server finds, and the counts."""
    raw = stored[fields["offset"] :][: fields["size"]]
    if fields.get("compression"):
        raw = zlib.decompress(raw)
    for one in reversed(fields.get("filters", [])):
        raw = np.frombuffer(raw, "u1").reshape(one["element_size"], -1).T.tobytes()
    dtype = np.dtype(fields["dtype"])
    cells = np.frombuffer(raw, dtype.newbyteorder({"big": ">", "little": "<"}[fields["byte_order"]])).astype(dtype)
    cells = cells.reshape(fields["shape"])
    if "selection" in fields:
        cells = cells[tuple(slice(*one) for one in fields["selection"])]
    valid = found_valid(cells, fields.get("missing", {}))
    if operation == "select":
        return cells, np.array(valid.sum())
    axes = tuple(fields["axis"]) if "axis" in fields else None
    count = np.asarray(valid.sum(axis=axes))
    if operation == "count":
        return count.astype("i8"), count
    with np.errstate(all="ignore"):
        if operation == "sum":
            return np.asarray(np.add.reduce(cells, axis=axes, dtype=dtype, where=valid)), count
        limits = np.finfo(dtype) if dtype.kind == "f" else np.iinfo(dtype)
        function, initial = {"min": (np.minimum, limits.max), "max": (np.maximum, limits.min)}[operation]
        return np.asarray(function.reduce(cells, axis=axes, where=valid, initial=initial)), count


def found_valid(cells: np.ndarray, missing: Any) -> np.ndarray:
    """Where the numbers are valid, by the one form of missing values."""
    if not missing:
        return np.ones(cells.shape, bool)
    ((form, given),) = missing.items()
    kind = cells.dtype.type
    if form in ("missing_value", "missing_values"):
        return ~np.isin(cells, [kind(one) for one in np.atleast_1d(np.array(given, object))])
    if form == "valid_range":
        return ~((cells < kind(given[0])) | (cells > kind(given[1])))
    return ~(cells < kind(given)) if form == "valid_min" else ~(cells > kind(given))
