"""A slow line: the client far from the store and from the server that computes, who are beside each other.

Needs the real servers of `tests/real`; the line is the tests' proxy.
"""

import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

__all__ = [
    "BOUND",
    "CASES",
    "CONTENDERS",
    "INDEXERS",
    "OWN",
    "Place",
    "files_missing",
    "lines",
    "make",
    "missing_server",
    "run",
]

ROUND_TRIP, BITS_PER_SECOND = 0.025, 100e6
SHAPE = (40, 1920, 2560)
CHUNKS = {"64": (10, 480, 640), "3400": (1, 384, 151)}
"""Chunk shapes by the name of the file."""
ONE_CHUNK = (slice(0, 1), slice(0, 384), slice(0, 151))
_TINY = {"64": ((4, 8, 10), (2, 4, 5)), "3400": ((4, 8, 10), (1, 4, 5))}
"""Shapes and chunks of the files that try the harness."""
BOUND = "(the requests alone)"
XARRAY = "xarray + h5netcdf + s3fs"
OWN = "activestore with its own server"
_AT_ONCE = 100
_BLOCKS = {"default_cache_type": "blockcache", "default_block_size": 2**22}
"""How s3fs reads for xarray: its own read-ahead of 50 MB is thrown away at each look into an index that lies among the data."""
_SMALL_BLOCKS = {"default_cache_type": "blockcache", "default_block_size": 2**18}


@dataclass(frozen=True, slots=True)
class Case:
    """What is asked over the line."""

    title: str
    file: str
    one_chunk: bool
    targets: Mapping[str, float]
    """How many times as fast as a peer it should be."""
    own_targets: Mapping[str, float]
    """The same for our client with our own server."""
    share: float | None
    """Share of the file's bytes that may come over the line."""
    only_index: bool = False
    """Whether the chunks are only to be found."""


CASES = {
    "line-64": Case("mean of 64 chunks over a slow line", "64", False, {XARRAY: 10, "PyActiveStorage": 9}, {XARRAY: 20}, 0.01),
    "line-3400": Case(
        "mean of 3,400 chunks over a slow line", "3400", False, {XARRAY: 4, "PyActiveStorage": 6}, {XARRAY: 15}, 0.025
    ),
    "line-index": Case("find the 3,400 chunks over a slow line", "3400", False, {}, {}, None, only_index=True),
    "line-chunk": Case("mean of one chunk of 3,400 over a slow line", "3400", True, {"PyActiveStorage": 30}, {}, None),
}


@dataclass(frozen=True, slots=True)
class Place:
    """Where a contender finds things; plain values, for a process of its own."""

    bucket: str
    key: str
    one_chunk: bool
    only_index: bool
    endpoint: str
    """The store, over the line."""
    server: str
    """Reductionist, over the line."""
    own_server: str
    """Ours, over the line."""
    endpoint_beside: str
    """The store as the server reaches it."""
    user: str
    secret: str
    local: str
    """The file itself, for those whose index is said to be known."""

    @property
    def storage_options(self) -> dict[str, Any]:
        return {"key": self.user, "secret": self.secret, "endpoint_url": self.endpoint}

    @property
    def index(self) -> Any:
        return ONE_CHUNK if self.one_chunk else slice(None)


def _ours(place: Place) -> float:
    return _through(place.server, place)


def _ours_with_own_server(place: Place) -> float:
    return _through(place.own_server, place)


def _through(server: str, place: Place) -> float:
    from activestore import Active

    tas = Active(
        f"s3://{place.bucket}/{place.key}",
        "tas",
        backend="reductionist",
        server=server,
        storage_options=place.storage_options,
        backend_options={"endpoint_url": place.endpoint_beside},
    )
    return tas[place.index].mean()


def _xarray(place: Place) -> float:
    import s3fs
    import xarray as xr

    store = s3fs.S3FileSystem(**place.storage_options, **_BLOCKS)
    with store.open(f"{place.bucket}/{place.key}") as file, xr.open_dataset(file, engine="h5netcdf") as dataset:
        return float(dataset.tas[place.index].mean(dtype="f8"))


def _pyactivestorage_corrected(place: Place) -> float:
    """Help it as its users could: small blocks for the index, and requests that name the store as the server reaches it.

    For the second it has no option of its own.
    """
    from activestorage import reductionist

    build = reductionist.build_request_data
    reductionist.build_request_data = lambda url, *rest, **named: build(
        url.replace(place.endpoint, place.endpoint_beside), *rest, **named
    )
    return _pyactivestorage(place, **_SMALL_BLOCKS)


def _pyactivestorage(place: Place, **reading: Any) -> float:
    """Use it as it is: the server is told the client's address of the store, and so reads over the line."""
    import contextlib
    import io

    from activestorage.active import Active

    with contextlib.redirect_stdout(io.StringIO()):
        active = Active(
            f"{place.bucket}/{place.key}",
            "tas",
            interface_type="s3",
            storage_options={"key": place.user, "secret": place.secret, "client_kwargs": {"endpoint_url": place.endpoint}}
            | reading,
            active_storage_url=place.server,
            max_threads=_AT_ONCE,
        )
        active._version = 2
        active.method = "mean"
        return float(active[place.index].squeeze())


def _requests_alone(place: Place) -> float:
    """Send what has to be asked, by the plainest means, with the index known: no client can be faster than that."""
    import cbor2
    import h5py
    import numpy as np
    import urllib3

    requests = []
    with h5py.File(place.local) as file:
        tas = file["tas"]
        found: list[Any] = []
        if place.one_chunk:
            found = [tas.id.get_chunk_info_by_coord((0,) * tas.ndim)]
        else:
            tas.id.chunk_iter(found.append)
        for chunk in found:
            bounds = zip(chunk.chunk_offset, tas.chunks, tas.shape, strict=True)
            selection = [[0, min(length, end - start), 1] for start, length, end in bounds]
            requests.append((chunk.byte_offset, chunk.size, selection))
        shared = {
            "interface_type": "s3",
            "url": f"{place.endpoint_beside}/{place.bucket}/{place.key}",
            "dtype": "float32",
            "byte_order": "little",
            "shape": list(tas.chunks),
            "axis": list(range(tas.ndim)),
            "compression": {"id": "zlib"},
            "filters": [{"id": "shuffle", "element_size": 4}],
        }
    pool = urllib3.PoolManager(maxsize=_AT_ONCE, block=True)
    headers = urllib3.make_headers(basic_auth=f"{place.user}:{place.secret}") | {"Content-Type": "application/json"}

    def asked(request: tuple[int, int, Any]) -> tuple[float, int]:
        offset, size, selection = request
        body = json.dumps(shared | {"offset": offset, "size": size, "selection": selection})
        answer = cbor2.loads(pool.request("POST", f"{place.server}/v2/sum", body=body, headers=headers).data)
        return float(np.frombuffer(answer["bytes"], answer["dtype"])[0]), answer["count"][0]

    with ThreadPoolExecutor(_AT_ONCE) as threads:
        sums, counts = zip(*threads.map(asked, requests), strict=True)
    return sum(sums) / sum(counts)


def _our_index(place: Place) -> float:
    from activestore import Active

    tas = Active(f"s3://{place.bucket}/{place.key}", "tas", storage_options=place.storage_options)
    return float(tas.explain("mean").chunks)


def _h5py_index(place: Place) -> float:
    import h5py
    import s3fs

    found: list[int] = []
    store = s3fs.S3FileSystem(**place.storage_options)
    with store.open(f"{place.bucket}/{place.key}") as remote, h5py.File(remote) as file:
        file["tas"].id.chunk_iter(lambda chunk: found.append(chunk.byte_offset))
    return float(len(found))


def _pyfive_index(place: Place) -> float:
    import pyfive
    import s3fs

    store = s3fs.S3FileSystem(**place.storage_options)
    with store.open(f"{place.bucket}/{place.key}") as remote, pyfive.File(remote) as file:
        return float(file["tas"].id.get_num_chunks())


_OURS = ("activestore", "activestore.sources.s3", "activestore.sources.http")
INDEXERS: Mapping[str, tuple[str, tuple[str, ...], Callable[[Place], float]]] = {
    "activestore": ("activestore", _OURS, _our_index),
    "h5py over s3fs": ("h5py", ("h5py", "s3fs"), _h5py_index),
    "pyfive over s3fs": ("pyfive", ("pyfive", "s3fs"), _pyfive_index),
}
"""As `CONTENDERS`, for finding the chunks alone; what they give is how many there are."""

CONTENDERS: Mapping[str, tuple[str, tuple[str, ...], Callable[[Place], float]]] = {
    "activestore": ("activestore", (*_OURS, "cbor2"), _ours),
    OWN: ("activestore", (*_OURS, "cbor2"), _ours_with_own_server),
    XARRAY: ("xarray", ("xarray", "h5netcdf", "s3fs"), _xarray),
    "PyActiveStorage": ("PyActiveStorage", ("activestorage.active", "s3fs"), _pyactivestorage),
    "PyActiveStorage, address and blocks corrected": (
        "PyActiveStorage",
        ("activestorage.active", "s3fs"),
        _pyactivestorage_corrected,
    ),
    BOUND: ("activestore", ("urllib3", "cbor2", "h5py"), _requests_alone),
}
"""Package, modules imported before the time is taken, and the work."""


def run(name: str, place: str) -> tuple[Any, float, float]:
    """Return what a contender gives, and its seconds by the clock and of the processor."""
    import importlib

    given = Place(**json.loads(place))
    _, modules, work = (INDEXERS if given.only_index else CONTENDERS)[name]
    os.environ["ACTIVESTORE_CACHE"] = "off"
    for module in modules:
        importlib.import_module(module)
    processor, started = time.process_time(), time.perf_counter()
    value = work(given)
    seconds = time.perf_counter() - started
    return value, seconds, time.process_time() - processor


def expected(place: Place) -> float:
    """Return the mean by NumPy in 64 bits."""
    import h5py

    with h5py.File(place.local) as file:
        tas = file["tas"]
        if place.only_index:
            return float(tas.id.get_num_chunks())
        if place.one_chunk:
            return float(tas[ONE_CHUNK].mean(dtype="f8"))
        steps = [tas[step].mean(dtype="f8") for step in range(tas.shape[0])]
        return float(sum(steps) / len(steps))


def _path(folder: Path, name: str, *, tiny: bool) -> Path:
    return folder / f"v1-line-{'small-' if tiny else ''}{name}.nc"


def files_missing(folder: Path, *, tiny: bool) -> bool:
    """Return whether a file has yet to be made."""
    return not all(_path(folder, name, tiny=tiny).exists() for name in CHUNKS)


def make(folder: Path, *, tiny: bool) -> None:
    """Write the files that are not there: noise on a smooth field, shuffle and deflate 1."""
    import netCDF4
    import numpy as np

    folder.mkdir(exist_ok=True)
    for name, large_chunks in CHUNKS.items():
        path = _path(folder, name, tiny=tiny)
        shape, chunks = _TINY[name] if tiny else (SHAPE, large_chunks)
        unfinished = path.with_suffix(".unfinished")
        random = np.random.default_rng(0)
        lat = np.linspace(-np.pi / 2, np.pi / 2, shape[1])[:, None]
        lon = np.linspace(0, 2 * np.pi, shape[2])
        field = (288 - 40 * np.sin(lat) ** 2 + 3 * np.cos(3 * lon)).astype("f4")
        with netCDF4.Dataset(unfinished, "w") as file:
            for dim, length in zip(("time", "lat", "lon"), shape, strict=True):
                file.createDimension(dim, length)
                file.createVariable(dim, "f8", (dim,))[:] = np.arange(length)
            tas = file.createVariable(
                "tas", "f4", ("time", "lat", "lon"), chunksizes=chunks, compression="zlib", complevel=1, shuffle=True
            )
            for step in range(0, shape[0], chunks[0]):
                tas[step : step + chunks[0]] = field + random.normal(0, 1, (chunks[0], *shape[1:])).astype("f4")
        unfinished.rename(path)


@contextmanager
def lines(folder: Path, case: Case, *, tiny: bool) -> Iterator[tuple[Place, list[Any]]]:
    """Start the servers and a line to each for the length of a `with` block; give the place, and the lines to be read."""
    from tests.real.line import Line
    from tests.real.servers import certificates, run_embedded, run_reductionist, run_s3_store

    with ExitStack() as stack:
        work = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=folder, prefix="servers-")))
        folders = [work / name for name in ("s3", "reductionist", "certificates", "own")]
        for one in folders:
            one.mkdir()
        store = stack.enter_context(run_s3_store(folders[0]))
        server = stack.enter_context(run_reductionist(folders[1], certificates(folders[2])))
        own = stack.enter_context(run_embedded(folders[3], "--allow-origin", store.url, "--no-access-log"))
        path = _path(folder, case.file, tiny=tiny)
        os.link(path, store.folder / path.name)
        found = []
        for url in (store.url, server.url, own.url):
            parts = urlsplit(url)
            found.append(
                stack.enter_context(Line(parts.hostname, parts.port, round_trip=ROUND_TRIP, bits_per_second=BITS_PER_SECOND))
            )
        place = Place(
            bucket=store.bucket,
            key=path.name,
            one_chunk=case.one_chunk,
            only_index=case.only_index,
            endpoint=found[0].url,
            server=found[1].url,
            own_server=found[2].url,
            endpoint_beside=store.url,
            user=store.key,
            secret=store.secret,
            local=str(path),
        )
        yield place, found


def missing_server() -> str | None:
    """Return which server is missing and how to get it, None if all are there."""
    from tests.real.servers import ServerMissingError, certificates, run_reductionist, run_s3_store

    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        try:
            stack.enter_context(run_s3_store(Path(folder)))
            stack.enter_context(run_reductionist(Path(folder), certificates(Path(folder))))
        except ServerMissingError as error:
            return str(error)
    return None


def as_json(place: Place) -> str:
    """Return a place as text for another process."""
    return json.dumps(asdict(place))
