"""Whatever is sent to the server, it answers with 200 or a 4xx, in time, and has nothing left of it afterwards."""

import bz2
import copy
import gzip
import http.client
import itertools
import json
import logging
import random
import re
import resource
import socket
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import blosc2
import h5py
import numcodecs.blosc
import numcodecs.fletcher32
import numcodecs.lz4
import numcodecs.zstd
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from activestore import Active
from activestore.core.codecs.decode import Codec, decode, hdf5_codec
from activestore.core.task import ChunkTask
from activestore.core.wire.encode import frames_from_bytes, obstacle, tasks_from_json, tasks_to_json
from activestore.errors import BackendError, CorruptChunkError
from activestore.server.settings import ServerSettings
from tests.real.servers import EmbeddedServer, run_embedded
from tests.server.asking import Asked, asked
from tests.server.running import running

EXAMPLES = settings().max_examples
PATIENCE = 10.0
"""Seconds without a byte after which the server is said to hang."""
LARGEST = 1 << 20
MOST_TASKS = 64
EXTENSION = "/activestore/v1/reduce"
JSON = ("Content-Type", "application/json")

Headers = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer."""

    status: int
    body: bytes


def sent(url: str, method: str, target: str, headers: Headers = (), body: bytes = b"") -> Reply:
    """Send one request as it is, and return the answer; the connection then has to be good for another one, or closed."""
    server = urlsplit(url)
    lines = [f"{method} {target} HTTP/1.1", "Host: server", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers]
    with socket.create_connection((server.hostname, server.port), timeout=PATIENCE) as connection:
        connection.sendall("\r\n".join([*lines, "", ""]).encode("latin-1") + body)
        answer = _answer(connection, method)
        reply = Reply(answer.status, answer.read())
        assert answer.length in (0, None)
        if not answer.will_close:
            connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: server\r\n\r\n")
            again = _answer(connection, "GET")
            assert (again.status, again.read()) == (200, b"ok\n")
    return reply


def _answer(connection: socket.socket, method: str) -> http.client.HTTPResponse:
    answer = http.client.HTTPResponse(connection, method=method)
    answer.begin()
    return answer


def is_fine(reply: Reply) -> bool:
    return reply.status == 200 or 400 <= reply.status < 500


def says_why(reply: Reply) -> bool:
    """Whether an error has a message; where not even the headers are HTTP's, it is a plain text."""
    return bool(reply.body == b"Invalid HTTP request received." or json.loads(reply.body)["error"]["message"])


@dataclass(frozen=True, slots=True)
class Watched:
    """A server in this process, the folder that it reads, and the errors that it has logged."""

    url: str
    folder: Path
    errors: list[str]

    def metrics(self) -> dict[str, float]:
        """What it counts."""
        lines = sent(self.url, "GET", "/metrics").body.decode().splitlines()
        found = (line.rpartition(" ") for line in lines if not line.startswith("#"))
        return {name: float(value) for name, _, value in found}


class _Errors(logging.Handler):
    def __init__(self, found: list[str]) -> None:
        super().__init__(logging.ERROR)
        self._found = found

    def emit(self, record: logging.LogRecord) -> None:
        self._found.append(self.format(record))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    folder, before, errors = tmp_path_factory.mktemp("root"), set(threading.enumerate()), []
    handler = _Errors(errors)
    logging.getLogger().addHandler(handler)
    limits = {"largest_chunk": LARGEST, "largest_request": LARGEST, "most_tasks": MOST_TASKS, "memory": 8 << 20}
    try:
        with running(ServerSettings(roots=(folder,), v1=True, workers=2, readers=4, **limits)) as found:
            yield Watched(found.url, folder, errors)
    finally:
        logging.getLogger().removeHandler(handler)
    assert set(threading.enumerate()) <= before
    assert not errors


@pytest.fixture(autouse=True)
def nothing_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """After each test the server holds nothing, and has had no error of its own."""
    yield
    if "server" in request.fixturenames:
        server: Watched = request.getfixturevalue("server")
        holds_nothing(server.metrics)
        assert sent(server.url, "GET", "/healthz").body == b"ok\n"
        assert not server.errors


def holds_nothing(metrics: Callable[[], dict[str, float]]) -> None:
    """Fail if a server that nobody asks for anything goes on holding memory, or answering."""
    names = ("activestore_chunk_memory_bytes", "activestore_requests_under_way", "activestore_requests_waiting")
    end = time.monotonic() + PATIENCE
    while (left := [metrics()[name] for name in names]) != [0, 1, 0] and time.monotonic() < end:
        time.sleep(0.01)
    # The request for the metrics is under way itself.
    assert left == [0, 1, 0]


# ---- (a) requests of the protocol, and what looks like them ----

NUMBERS = [0, 1, -1, 2, 3, 4, 6, 8, 255, 2**31, 2**32, 2**53 + 1, 2**63 - 1, 2**63, -(2**63), 2**64 - 1, 2**64, 10**40, 10**400]
NUMBERS += [0.5, -0.0, 1e308, 5e-324, float("nan"), float("inf"), -float("inf")]
TEXTS = [
    "", " ", "\x00", "\ud800", "\u00e9\u20ac\U0001f600", "x" * 9000, "a\r\nX-Injected: y", "%s%n", "${jndi:x}", "-1", "null",
]  # fmt: skip
TEXTS += ["file:///etc/passwd", "file:///proc/self/environ", "file://host/x", "file:relative", "http://169.254.169.254/x"]
TEXTS += ["http://[::1/x", "http://127.0.0.1:99999/", "https://user:secret@host/b/k", "//x", "s3://bucket/key", "../../x"]
PLAIN = st.none() | st.booleans() | st.sampled_from(NUMBERS) | st.sampled_from(TEXTS) | st.integers() | st.text(max_size=5)
NAMES = [
    "id", "element_size", "start", "end", "stride", "missing_value", "missing_values", "valid_min", "valid_max", "valid_range",
]  # fmt: skip
JUNK = st.recursive(
    PLAIN, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=3)
)
SLICES = st.lists(st.lists(st.sampled_from(NUMBERS), min_size=2, max_size=4), max_size=4)
LIKELY: dict[str, st.SearchStrategy[Any]] = {
    "interface_type": st.sampled_from(["s3", "http", "https", "file", "ftp", "S3"]),
    "url": st.sampled_from(TEXTS),
    "source": st.sampled_from(TEXTS),
    "bucket": st.sampled_from(TEXTS),
    "object": st.sampled_from(TEXTS),
    "dtype": st.sampled_from(["int32", "int64", "uint32", "uint64", "float32", "float64", "float16", "object", "<f4", "U9"]),
    "byte_order": st.sampled_from(["little", "big", "native"]),
    "offset": st.sampled_from(NUMBERS),
    "size": st.sampled_from(NUMBERS),
    "shape": st.lists(st.sampled_from(NUMBERS), max_size=4) | st.integers(30, 34).map(lambda n: [1] * n),
    "axis": st.lists(st.integers(-1, 4), max_size=5) | st.integers(-1, 5),
    "order": st.sampled_from(["C", "F", "A"]),
    "selection": SLICES | SLICES.map(lambda found: [dict(zip(NAMES[2:5], one, strict=False)) for one in found]),
    "compression": st.sampled_from(["zlib", "gzip", "blosc2", "zstd", "none"]).map(lambda name: {"id": name}),
    "filters": st.lists(st.sampled_from(NUMBERS).map(lambda n: {"id": "shuffle", "element_size": n}), max_size=3)
    | st.just([{"id": "shuffle", "element_size": 1}] * 20),
    "missing": st.dictionaries(
        st.sampled_from(NAMES[5:]), st.sampled_from(NUMBERS) | st.lists(st.sampled_from(NUMBERS)), max_size=2
    )
    | st.sampled_from(NUMBERS).map(lambda n: {"missing_values": [n] * 1001}),
    "option_shape_as_bytes": st.booleans(),
    "option_count_as_bytes": st.booleans(),
    "option_disable_chunk_cache": st.booleans(),
}


@st.composite
def changed_fields(draw: st.DrawFn, fields: dict[str, Any]) -> list[tuple[str, Any]]:
    """Fields of a request with some left out, others, unknown ones, or twice."""
    found = dict(fields)
    for _ in range(draw(st.sampled_from([0, 1, 1, 1, 2, 3]))):
        name = draw(st.sampled_from(sorted(LIKELY)))
        how = draw(st.sampled_from(["likely", "likely", "junk", "left out", "unknown"]))
        if how == "left out":
            found.pop(name, None)
        else:
            found[name if how != "unknown" else draw(st.text(max_size=5))] = draw(LIKELY[name] if how == "likely" else JUNK)
    pairs = draw(st.permutations(list(found.items())))
    return pairs + ([draw(st.sampled_from(pairs))] if pairs and not draw(st.integers(0, 9)) else [])


def as_json(pairs: list[tuple[str, Any]]) -> bytes:
    return ("{" + ", ".join(f"{json.dumps(name)}: {json.dumps(value)}" for name, value in pairs) + "}").encode()


SPELLINGS: list[Callable[[bytes], bytes]] = [
    *[lambda text: text] * 12,
    lambda text: text.decode().encode("utf-16"),
    lambda text: b"\xef\xbb\xbf" + text,
    gzip.compress,
    lambda text: text + b" ,",
    lambda text: text + b"\xff",
    lambda text: text[: len(text) // 2],
    lambda text: b"[" * 20_000 + text,
    lambda text: b'{"shape":' * 20_000 + text,
    lambda text: text[:-1] + b', "offset": ' + b"9" * 5000 + b"}",
    lambda text: text[:-1] + b', "offset": -' + b"1" * 5000 + b".5e-99999}",
    lambda text: b" " * 300_000 + text,
    lambda text: text[:0],
    lambda text: text * 2,
]
LOGINS = [
    "Basic eDp5", "basic eDp5", "Basic", "Basic \xff\xfe", "Basic " + "A" * 9000, "Bearer x", "Digest x", "", "Basic Og==",
]  # fmt: skip
FURTHER: list[tuple[str, str]] = [
    ("Content-Encoding", "gzip"), ("Expect", "100-continue"), ("Expect", "nonsense"), ("Connection", "close"),
    ("Cookie", "\xe9"),
    ("Upgrade", "websocket"), ("Connection", "Upgrade"), ("Accept", "text/html"), ("Range", "bytes=0-0"), ("If-Match", "*"),
    ("X-Activestore-Session-Token", "\xff"), ("X-Activestore-Session-Token", "t" * 9000), ("X-Activestore-Token", "\xe9"),
    ("X-Forwarded-For", "1.2.3.4, \xe9"), ("Host", "other"), ("TE", "trailers"), ("X-Long", "x" * 80_000),
    ("X-Http-Method-Override", "GET"),
    *[("Authorization", login) for login in LOGINS],
]  # fmt: skip
KINDS = [
    "application/json", "application/json; charset=utf-16", "text/plain", "", "\xe9", "application/cbor", "APPLICATION/JSON",
]  # fmt: skip
HEADERS = st.tuples(
    st.sampled_from(KINDS[:1] * 12 + KINDS).map(lambda kind: ("Content-Type", kind)),
    st.lists(st.sampled_from(FURTHER), max_size=2) | st.just([]),
).map(lambda found: (found[0], *found[1]))


def test_requests_of_the_protocol(server: Watched) -> None:
    seen = Counter[int]()

    @settings(max_examples=4 * EXAMPLES)
    @given(one=asked(odd=True), data=st.data())
    def whatever_they_say(one: Asked, data: st.DataObject) -> None:
        (server.folder / "object").write_bytes(one.stored)
        url = f"file://{server.folder}/object"
        fields = data.draw(changed_fields({"interface_type": "file", "url": url, **one.fields}))
        body = data.draw(st.sampled_from(SPELLINGS))(as_json(fields))
        reply = sent(server.url, "POST", f"/v2/{one.operation}", data.draw(HEADERS), body)
        assert is_fine(reply), reply
        assert reply.status == 200 or says_why(reply), reply
        seen[reply.status] += 1

    whatever_they_say()
    assert seen[200] > EXAMPLES / 4 < seen[400], seen


@settings(max_examples=EXAMPLES)
@given(one=asked(), data=st.data())
def test_requests_of_v1(server: Watched, one: Asked, data: st.DataObject) -> None:
    place = {"source": "http://127.0.0.1:9", "bucket": "b", "object": "o"}
    body = as_json(data.draw(changed_fields({**place, **one.fields})))
    reply = sent(server.url, "POST", f"/v1/{one.operation}", data.draw(HEADERS), body)
    assert 400 <= reply.status < 500, reply


METHODS = [
    "GET",
    "POST",
    "HEAD",
    "PUT",
    "DELETE",
    "OPTIONS",
    "PATCH",
    "TRACE",
    "CONNECT",
    "PROPFIND",
    "get",
    "X" * 40,
    "P\xd6ST",
]
PATHS = [
    "/",
    "",
    "*",
    "/v2",
    "/v2/",
    "/v2//sum",
    "/v2/sum",
    "/v2/sum/",
    "/v2/sum///",
    "/v2/sum/x",
    "/v2/%73um",
    "/v2/s%75m?x=%ff",
    "/v1/sum",
]
PATHS += [
    "/v2/%00",
    "/v2/%ff%fe",
    "/v2/..%2f..",
    "/../v2/sum",
    "/v2/\xff",
    "/healthz",
    "/metrics",
    "/healthz?x#y",
    EXTENSION,
    "http://x/v2/sum",
]
PATHS += [
    "x:80",
    "//evil/v2/sum",
    "/v2/" + "a" * 9000,
    "/" + "a" * 70_000,
    "/docs",
    "/v2/sum;x",
    "/v2/sum\t",
    "/.well-known/reductionist-schema",
]


@settings(max_examples=2 * EXAMPLES)
@given(
    method=st.sampled_from(METHODS),
    path=st.sampled_from(PATHS) | st.text(st.characters(min_codepoint=33, max_codepoint=255), max_size=9).map("/".__add__),
    headers=HEADERS,
    body=st.sampled_from([b"", b"{}", b"[]", b"null", b"\x00" * 3000]),
)
def test_methods_and_paths(server: Watched, method: str, path: str, headers: Headers, body: bytes) -> None:
    reply = sent(server.url, method, path, headers, body)
    assert is_fine(reply), reply


# ---- (b) requests of the extension ----


def _bases(folder: Path) -> list[dict[str, Any]]:
    """Valid requests of every form that tasks have."""
    rng = np.random.default_rng(3)
    path = folder / "bases.h5"
    with h5py.File(path, "w") as file:
        numbers = rng.normal(280, 15, (12, 10, 8)).astype(">f4")
        wide = file.create_dataset("x", data=numbers, chunks=(5, 5, 8), compression="gzip", shuffle=True, fletcher32=True)
        wide.attrs["valid_range"] = np.array([250, 300], "f4")
        packed = file.create_dataset("packed", data=rng.integers(-9, 9, (20, 30), "i2"), chunks=(7, 30))
        packed.attrs.update({"scale_factor": 0.5, "add_offset": 3.0, "_FillValue": np.int16(4)})
        file.create_dataset("small", data=np.arange(300, dtype="i8"), chunks=(3,))
        file.create_dataset("plain", data=np.arange(6000, dtype="u4").reshape(60, 100))

    def base(name: str, reductions: Any, axis: Any, key: Any = ..., joined: int = 0, **options: Any) -> dict[str, Any]:
        found = Active(path, name)[key].plan(reductions, axis, **options).tasks(joined=joined)
        tasks = [task for task in found if obstacle(task) is None][:MOST_TASKS]
        return json.loads(
            json.dumps({"source": {"interface_type": "file", "url": f"file://{path}"}, "tasks": tasks_to_json(tasks)})
        )

    found = [
        base("x", ("argmax", "std"), (0, 2), np.s_[1:, [4, 2, 9], ::-2]),
        base("x", ("mean", "min", "max", "any", "all"), None),
        base("x", "sum", 1, np.s_[3:9]),
        base("packed", ("mean", "argmin"), 0),
        base("small", ("sum", "max"), None, joined=1 << 14),
        base("plain", ("mean", "ptp"), 1, np.s_[::7, 5:90:3]),
        base("x", ("mean", "max"), (0, 1), by={0: np.arange(12) // 2, 1: np.arange(10) % 3}, where="> 270 and != 280.5"),
        base("packed", ("std", "count"), 0, by={0: np.arange(20) * 7 % 5}, where="<= 6"),
    ]
    values = base("x", "sum", ())
    values["tasks"] |= {"components": ["values"]}
    return [*found, values]


def _paths(found: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield where there is something to be changed."""
    if path:
        yield path
    for name, value in found.items() if isinstance(found, dict) else enumerate(found) if isinstance(found, list) else ():
        yield from _paths(value, (*path, name))


def _at(found: Any, path: tuple[Any, ...]) -> Any:
    for name in path:
        found = found[name]
    return found


def _changed(draw: Callable[[st.SearchStrategy[Any]], Any], said: Any) -> None:
    """Change one value of a request, in place."""
    if not said:
        return
    path = draw(st.sampled_from(list(_paths(said))))
    holder, name = _at(said, path[:-1]), path[-1]
    old = holder[name]
    how = draw(st.sampled_from(["near", "near", "near", "junk", "other", "left out", "twice", "order", "unknown"]))
    if how == "near" and type(old) is int:
        holder[name] = draw(
            st.sampled_from([old + 1, old - 1, -old, old * 2, 0, 1, 2**31, 2**62, 2**63 - 1, 2**63, float(old)])
        )
    elif how == "other":
        holder[name] = copy.deepcopy(_at(said, draw(st.sampled_from(list(_paths(said))))))
    elif how == "left out":
        del holder[name]
    elif how == "twice" and isinstance(old, list):
        holder[name] = old + old
    elif how == "order" and isinstance(old, list):
        holder[name] = draw(st.permutations(old)) if len(old) < 50 else old[::-1]
    elif how == "unknown" and isinstance(holder, dict):
        holder[draw(st.text(max_size=4))] = old
    else:
        holder[name] = draw(JUNK)


def test_requests_of_the_extension(server: Watched) -> None:
    seen, bases = Counter[int](), [json.dumps(one) for one in _bases(server.folder)]

    @settings(max_examples=6 * EXAMPLES)
    @given(base=st.sampled_from(bases), data=st.data())
    def whatever_they_say(base: str, data: st.DataObject) -> None:
        said = json.loads(base)
        for _ in range(data.draw(st.sampled_from([0, 1, 1, 1, 2, 4]))):
            _changed(data.draw, said)
        reply = sent(server.url, "POST", EXTENSION, (JSON,), json.dumps(said).encode())
        seen[reply.status] += 1
        assert is_fine(reply), reply
        if reply.status == 200:
            tasks = tasks_from_json(said["tasks"], largest_chunk=LARGEST, most_tasks=MOST_TASKS)
            assert len(frames_from_bytes(reply.body, tasks)) == len(tasks)
        else:
            assert says_why(reply), reply

    whatever_they_say()
    assert seen[200] > EXAMPLES / 4 < seen[400], seen


@settings(max_examples=EXAMPLES)
@given(data=st.data(), spelling=st.sampled_from(SPELLINGS), headers=HEADERS)
def test_how_requests_of_the_extension_are_written(
    server: Watched, data: st.DataObject, spelling: Any, headers: Headers
) -> None:
    if not (server.folder / "bases.h5").exists():
        _bases(server.folder)
    junk = data.draw(JUNK | st.fixed_dictionaries({"source": JUNK, "tasks": JUNK}))
    reply = sent(server.url, "POST", EXTENSION, headers, spelling(json.dumps(junk).encode()))
    assert 400 <= reply.status < 500, reply


# ---- (c) stored bytes that are damaged, or decode to more than they should ----

CELLS = 2000
SHAPE = (40, 50)
REPEATING = (np.arange(CELLS) % 97).astype("<i4").tobytes()
PILOTS = [REPEATING, np.random.default_rng(1).integers(0, 50, CELLS).astype("<i4").tobytes()]
BOMB = 48 << 20
"""Bytes that a bomb decodes to, where its chunk has 8000."""
DAMAGED = "bytes that the server finds damaged"
ROOM = 40 << 20
"""By how much the server's memory may grow: less than one bomb."""


def _lz4(data: bytes, block: int = 1024) -> bytes:
    """Return what HDF5's LZ4 filter writes."""
    parts = [len(data).to_bytes(8, "big"), block.to_bytes(4, "big")]
    for at in range(0, len(data), block):
        piece = numcodecs.lz4.compress(data[at : at + block])[4:]
        parts += [len(piece).to_bytes(4, "big"), piece]
    return b"".join(parts)


def _blosc2_frame(data: bytes) -> bytes:
    return blosc2.SChunk(chunksize=len(data), data=data, cparams={"typesize": 4}, contiguous=True).to_cframe()


WRITERS: dict[str, tuple[int, tuple[int, ...], list[Callable[[bytes], bytes]]]] = {
    "zlib": (1, (4,), [zlib.compress]),
    "bzip2": (307, (9,), [bz2.compress]),
    "zstd": (32015, (3,), [lambda data: bytes(numcodecs.zstd.compress(data, 3))]),
    "lz4": (32004, (1024,), [_lz4]),
    "blosc": (32001, (2, 2, 4, 8000), [
        lambda data, codec=codec, shuffle=shuffle: numcodecs.blosc.compress(data, codec, 5, shuffle, 512)
        for codec, shuffle in itertools.product((b"lz4", b"blosclz", b"zstd", b"zlib"), (0, 1, 2))
    ]),
    "blosc2": (32026, (2, 0, 4, 8000), [_blosc2_frame]),
    "fletcher32": (3, (), [lambda data: bytes(numcodecs.fletcher32.Fletcher32().encode(data))]),
}  # fmt: skip
"""HDF5's number of each filter, its parameters, and what writes it."""
PROTOCOL: dict[str, list[Callable[[bytes], bytes]]] = {
    "zlib": [zlib.compress],
    "gzip": [gzip.compress],
    "blosc2": [
        lambda data, codec=codec, kept=kept: blosc2.compress2(data, codec=codec, filters=[kept], typesize=4, blocksize=512)
        for codec, kept in itertools.product(
            (blosc2.Codec.LZ4, blosc2.Codec.BLOSCLZ, blosc2.Codec.ZSTD),
            (blosc2.Filter.NOFILTER, blosc2.Filter.SHUFFLE, blosc2.Filter.BITSHUFFLE),
        )
    ],
}
"""What writes chunks that requests of the protocol name."""


def damaged(rng: random.Random, data: bytes) -> bytes:
    """Return bytes that are changed, cut off or longer, often where they say how many they are."""
    found = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 5])):
        at = rng.randrange(min(len(found), rng.choice([20, 40, 100, 1 << 30])))
        how = rng.randrange(6)
        if how < 2:
            found[at] ^= 1 << rng.randrange(8)
        elif how < 4:
            number = rng.choice([0, 1, 31, 7999, 8001, len(found) - 1, len(found) + 1, 2**31 - 1, 2**31, 2**32 - 1, 1 << 24])
            found[at : at + 4] = number.to_bytes(4, rng.choice(["little", "big"]))
        elif how == 4:
            del found[1 + at :]
        else:
            found[at:at] = rng.randbytes(rng.randrange(1, 9))
    return bytes(found)


@dataclass(frozen=True, slots=True)
class Process:
    """A server in a process of its own."""

    server: EmbeddedServer
    folder: Path

    @property
    def grown(self) -> int:
        """Bytes of the most memory that it has ever had."""
        found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{self.server.process.pid}/status").read_text())
        return int(found[1]) << 10

    def metrics(self) -> dict[str, float]:
        return Watched(self.server.url, self.folder, []).metrics()

    def asked_about(self, chunks: list[bytes], codec: Codec) -> list[Any]:
        """Return the frames of many chunks of one object."""
        (self.folder / "object").write_bytes(b"".join(chunks))
        with h5py.File(self.folder / "template.h5", "w") as file:
            file.create_dataset("x", data=np.zeros(SHAPE, "<i4"), chunks=SHAPE)
        (template,) = Active(self.folder / "template.h5", "x").plan(("sum", "max"), None).tasks()
        ends = list(itertools.accumulate(map(len, chunks)))
        tasks: list[ChunkTask] = [
            replace(template, sequence=i, offset=end - len(chunk), size=len(chunk), codecs=(codec,))
            for i, (end, chunk) in enumerate(zip(ends, chunks, strict=True))
        ]
        place = {"interface_type": "file", "url": f"file://{self.folder}/object"}
        body = json.dumps({"source": place, "tasks": tasks_to_json(tasks)}).encode()
        reply = sent(self.server.url, "POST", EXTENSION, (JSON,), body)
        assert reply.status == 200, reply
        return frames_from_bytes(reply.body, tasks)

    def asked(self, chunk: bytes, compression: str, *, shape: bool) -> Reply:
        (self.folder / "object").write_bytes(chunk)
        fields = {"interface_type": "file", "url": f"file://{self.folder}/object", "dtype": "int32"}
        fields |= {"compression": {"id": compression}} | ({"shape": list(SHAPE)} if shape else {})
        return sent(self.server.url, "POST", "/v2/sum", (JSON,), json.dumps(fields).encode())


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    folder = tmp_path_factory.mktemp("stored")
    limits = ("--max-chunk", "1MiB", "--max-request", "1MiB", "--memory", "16MiB", "--workers", "2", "--readers", "4")
    with run_embedded(tmp_path_factory.mktemp("process"), "--root", str(folder), *limits) as server:
        # What takes memory in earnest dies of it.
        resource.prlimit(server.process.pid, resource.RLIMIT_AS, (2 << 30, 2 << 30))
        found = Process(server, folder)
        yield found
        holds_nothing(found.metrics)
        said = server.log_file.read_text()
    assert " ERROR " not in said
    assert "Traceback" not in said


@pytest.mark.parametrize("codec", WRITERS)
def test_damaged_chunks_are_failures_of_their_own(process: Process, codec: str) -> None:
    number, values, writers = WRITERS[codec]
    rng = random.Random(codec)  # noqa: S311  # the same damage at every run
    whole = [write(data) for write in writers for data in PILOTS]
    chunks = whole + [damaged(rng, rng.choice(whole)) for _ in range(min(10 * EXAMPLES, 4000))]
    before, found = process.grown, process.asked_about(chunks, hdf5_codec(number, values))
    for frame in found:
        assert not isinstance(frame, BackendError) or frame.reason == DAMAGED, frame
    assert not any(isinstance(frame, BackendError) for frame in found[: len(whole)])
    assert sum(isinstance(frame, BackendError) for frame in found) > len(found) / 4
    assert process.grown - before < ROOM


@pytest.mark.parametrize("spoilt", [b"<i0", b"<i\x7f", b"(((", b"\0\0\0"])
def test_damaged_arrays_of_blosc2(spoilt: bytes) -> None:
    numbers = np.frombuffer(REPEATING, "i4").reshape(SHAPE)
    whole = blosc2.asarray(numbers, chunks=SHAPE, blocks=(10, 10), cparams={"typesize": 4}).to_cframe()
    assert decode(whole, (hdf5_codec(32026, (2, 0, 4, 8000)),), numbers.nbytes) == REPEATING
    with pytest.raises(CorruptChunkError):
        decode(whole.replace(b"<i4", spoilt), (hdf5_codec(32026, (2, 0, 4, 8000)),), numbers.nbytes)


@pytest.mark.parametrize("shape", [True, False], ids=["with a shape", "without"])
@pytest.mark.parametrize("compression", PROTOCOL)
def test_damaged_chunks_of_the_protocol(process: Process, compression: str, shape: bool) -> None:
    rng = random.Random(compression)  # noqa: S311  # the same damage at every run
    seen, before = Counter[int](), process.grown
    for _ in range(EXAMPLES):
        chunk = rng.choice(PROTOCOL[compression])(rng.choice(PILOTS))
        reply = process.asked(damaged(rng, chunk), compression, shape=shape)
        seen[reply.status] += 1
    assert set(seen) <= {200, 400}, seen
    assert seen[400] > EXAMPLES / 4
    assert process.grown - before < ROOM


@pytest.mark.parametrize("codec", sorted(set(WRITERS) - {"fletcher32"}))
def test_bombs_of_the_extension(process: Process, codec: str) -> None:
    number, values, writers = WRITERS[codec]
    bomb = _lz4(bytes(BOMB), BOMB) if codec == "lz4" else writers[0](bytes(BOMB))
    assert len(bomb) < LARGEST
    chunks = [bomb]
    if codec == "lz4":
        # Of the right size, with a block that is larger.
        chunks.append((4 * CELLS).to_bytes(8, "big") + (4 * CELLS).to_bytes(4, "big") + bomb[12:])
    if codec == "blosc":
        chunks.append(bomb[:4] + (4 * CELLS).to_bytes(4, "little") + bomb[8:])
    before, found = process.grown, process.asked_about(chunks, hdf5_codec(number, values))
    assert [frame.reason for frame in found] == [DAMAGED] * len(chunks)
    assert process.grown - before < ROOM


@pytest.mark.parametrize("shape", [True, False], ids=["with a shape", "without"])
@pytest.mark.parametrize("compression", PROTOCOL)
def test_bombs_of_the_protocol(process: Process, compression: str, shape: bool) -> None:
    bomb, before = PROTOCOL[compression][0](bytes(BOMB)), process.grown
    assert len(bomb) < LARGEST
    assert process.asked(bomb, compression, shape=shape).status == 400
    assert process.grown - before < ROOM
