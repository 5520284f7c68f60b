"""Whatever goes wrong between our client, our server and the store: the right number or a clear error in time, nothing else."""

import itertools
import signal
import socket
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import cbor2
import h5py
import numpy as np
import pytest
import urllib3

from activestore import Active
from activestore.errors import BackendError, BackendUnavailableError, FallbackWarning
from tests.real.line import STALLED, WRONG_TYPE, Line, answered
from tests.real.servers import EmbeddedServer, S3Store, run_embedded
from tests.real.test_faults import FAULTS, outcome, within

pytestmark = pytest.mark.real
NAME = "embedded-faults.nc"
DATA = np.random.default_rng(5).normal(280, 15, (240, 60, 50)).astype("f4")
CHUNKS = 240
RIGHT = {"mean": DATA.mean(dtype="f8"), "max": DATA.max(), "std": DATA.std(dtype="f8")}
PATIENT, SHORT = 30.0, 0.7
"""Seconds that a run may take however slow the machine is, and that a client waits for a server that says nothing."""
EXTENSION = "/activestore/v1/reduce"
TOLD = pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
BY_PROTOCOL = {"extension": False}


def right(name: str, value: Any) -> None:
    assert value == pytest.approx(RIGHT[name], rel=1e-6 if name != "max" else 0)


def run(active: Active, name: str, **options: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FallbackWarning)
        return active.with_options(**options).run(name)


@pytest.fixture(scope="module")
def stored(s3_store: S3Store) -> S3Store:
    with h5py.File(s3_store.folder / NAME, "w") as file:
        file.create_dataset("x", data=DATA, chunks=(1, 60, 50), shuffle=True, compression="gzip", compression_opts=1)
    return s3_store


@pytest.fixture
def opened(stored: S3Store) -> Callable[..., Active]:
    def opened(**options: Any) -> Active:
        return Active(
            f"s3://{stored.bucket}/{NAME}", "x", storage_options=stored.storage_options, backend="reductionist", **options
        )

    return opened


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Callable[..., EmbeddedServer]]:
    """Starts servers of the test's own."""
    with ExitStack() as stack:
        numbers = itertools.count()

        def start(*options: str) -> EmbeddedServer:
            folder = tmp_path / f"server-{next(numbers)}"
            folder.mkdir()
            return stack.enter_context(run_embedded(folder, *options))

        yield start


def idle(server: EmbeddedServer) -> bool:
    """Whether nothing is left of the requests that were, in time."""
    end = time.monotonic() + PATIENT
    while time.monotonic() < end:
        lines = urllib3.request("GET", server.url + "/metrics").data.decode().splitlines()
        if {"activestore_chunk_memory_bytes 0.0", "activestore_requests_under_way 1.0"} <= set(lines):
            return True
        time.sleep(0.05)
    return False


def no_error_logged(server: EmbeddedServer) -> bool:
    said = server.log_file.read_text()
    return " ERROR " not in said and "Traceback" not in said


class TestBeforeTheServer:
    """The line between our client and our server is bad; that between the server and the store is not."""

    @pytest.fixture
    def bad(self, line: Callable[..., Line], embedded: EmbeddedServer) -> Line:
        return line(embedded.url, round_trip=0)

    @pytest.fixture
    def active(self, opened: Callable[..., Active], bad: Line) -> Active:
        return opened(server=bad.url, workers=8, backend_options={"read_timeout": SHORT})

    @TOLD
    @pytest.mark.parametrize("name", RIGHT)
    def test_twice_and_then_no_more(self, active: Active, bad: Line, fault: Any, name: str, embedded: EmbeddedServer) -> None:
        bad.fail(fault, times=2, path=EXTENSION)
        result = within(PATIENT, run, active, name)
        right(name, result.value)
        # What is damaged, or does not come, is not asked for again.
        assert 1 <= bad.failed <= 2
        assert idle(embedded)
        assert no_error_logged(embedded)

    @TOLD
    @pytest.mark.parametrize("options", [{}, BY_PROTOCOL], ids=["extension", "protocol"])
    def test_always(self, active: Active, bad: Line, fault: Any, options: Any) -> None:
        bad.fail(fault, path=f"{EXTENSION}|/v2/(sum|min|max|count|select)")
        active = active.with_options(backend_options={"read_timeout": SHORT} | options)
        result = within(2 * PATIENT, run, active, "mean")
        right("mean", result.value)
        assert bad.failed
        if fault is not WRONG_TYPE:
            assert result.report.where == {"local fallback": CHUNKS}

    @TOLD
    def test_always_with_nothing_to_fall_back_on(self, active: Active, bad: Line, fault: Any) -> None:
        bad.fail(fault, path=EXTENSION)
        found = outcome(lambda: run(active, "mean", fallback="error").value)
        assert isinstance(found, BackendError)
        assert bad.address in str(found)

    @TOLD
    def test_when_it_is_asked_what_it_is(self, active: Active, bad: Line, fault: Any) -> None:
        bad.fail(fault, path="_probe|reductionist-schema")
        found = outcome(lambda: run(active, "mean").value)
        if isinstance(found, BackendUnavailableError):
            assert bad.address in str(found)
        else:
            right("mean", found)

    @TOLD
    def test_when_it_says_what_it_can_do(self, active: Active, bad: Line, fault: Any) -> None:
        # Without the extension it is still a server of the protocol.
        bad.fail(fault, path="reductionist-schema")
        right("mean", within(PATIENT, run, active, "mean").value)


class TestBetweenTheServerAndTheStore:
    """The line between our server and the store is bad; our client's own is not."""

    @pytest.fixture
    def bad(self, line: Callable[..., Line], stored: S3Store) -> Line:
        return line(stored.url, round_trip=0)

    @TOLD
    @pytest.mark.parametrize("times", [2, None], ids=["twice", "always"])
    @pytest.mark.parametrize("options", [{}, BY_PROTOCOL], ids=["extension", "protocol"])
    def test_it_goes_wrong_there(
        self, opened: Callable[..., Active], own: Callable[..., EmbeddedServer], bad: Line, fault: Any, times: Any, options: Any
    ) -> None:
        server = own("--allow-origin", bad.url)
        bad.fail(fault, times=times)
        options = {"read_timeout": 4, "endpoint_url": bad.url, "retries": 1} | options
        result = within(2 * PATIENT, run, opened(server=server.url, backend_options=options)[:60], "mean")
        assert result.value == pytest.approx(DATA[:60].mean(dtype="f8"), rel=1e-6)
        assert bad.failed
        if fault is not STALLED:
            assert idle(server)
        assert no_error_logged(server)

    @TOLD
    def test_it_always_goes_wrong_there_with_nothing_to_fall_back_on(
        self, opened: Callable[..., Active], own: Callable[..., EmbeddedServer], bad: Line, fault: Any
    ) -> None:
        server = own("--allow-origin", bad.url)
        bad.fail(fault)
        options = {"read_timeout": 4, "endpoint_url": bad.url, "retries": 1}
        found = outcome(lambda: run(opened(server=server.url, backend_options=options, fallback="error")[:60], "mean").value)
        if fault is WRONG_TYPE:
            assert found == pytest.approx(DATA[:60].mean(dtype="f8"), rel=1e-6)
        else:
            assert isinstance(found, BackendError), found
            assert server.url.removeprefix("http://") in str(found) or "bytes that the server finds damaged" in str(found)
            assert NAME in str(found)

    def test_a_store_that_says_nothing_is_given_up(
        self, stored: S3Store, own: Callable[..., EmbeddedServer], bad: Line
    ) -> None:
        server = own("--allow-origin", bad.url)
        bad.fail(STALLED)
        body = {"interface_type": "s3", "url": f"{bad.url}/{stored.bucket}/{NAME}", "dtype": "int32", "offset": 0, "size": 8}
        login = urllib3.make_headers(basic_auth=f"{stored.key}:{stored.secret}")
        with pytest.raises(urllib3.exceptions.ReadTimeoutError), urllib3.PoolManager(retries=False, timeout=1) as http:
            http.request("POST", server.url + "/v2/sum", json=body, headers=login)
        bad.heal()
        # Who waits is told nothing, but others are served meanwhile.
        answer = urllib3.request("POST", server.url + "/v2/count", json=body, headers=login, timeout=10)
        assert cbor2.loads(answer.data)["count"] == [2]


class Restartable:
    """A server that can be ended and started again on its port."""

    def __init__(self, folder: Path, *options: str) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._command = [sys.executable, "-m", "activestore", "serve", "--port", str(self.port), *options]
        self.log_file = folder / "restartable.log"
        self.process = self.start()

    def start(self) -> "subprocess.Popen[bytes]":
        with self.log_file.open("ab") as log:
            self.process = subprocess.Popen(self._command, stdout=log, stderr=log)
        end = time.monotonic() + PATIENT
        with urllib3.PoolManager(retries=False) as http:
            while time.monotonic() < end:
                try:
                    if http.request("GET", self.url + "/healthz").status == 200:
                        return self.process
                except urllib3.exceptions.HTTPError:
                    time.sleep(0.05)
        raise RuntimeError(self.log_file.read_text())

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


@pytest.fixture
def restartable(tmp_path: Path, stored: S3Store) -> Iterator[Restartable]:
    server = Restartable(tmp_path, "--allow-origin", stored.url)
    yield server
    server.kill()


@contextmanager
def meanwhile(slow: Line, requests: int, action: Callable[[], Any]) -> Iterator[None]:
    """Do something as soon as a number of requests has been seen on the line."""
    slow.reset_counters()

    def wait_and_act() -> None:
        end = time.monotonic() + PATIENT
        while slow.requests < requests and time.monotonic() < end:
            time.sleep(0.01)
        time.sleep(0.05)
        action()

    actor = threading.Thread(target=wait_and_act)
    actor.start()
    try:
        yield
    finally:
        actor.join()


class TestKilled:
    """Killed in mid-run: it waits for a slow store, with one request for many chunks or one for each."""

    @pytest.fixture
    def slow(self, line: Callable[..., Line], stored: S3Store) -> Line:
        return line(stored.url, round_trip=0.4)

    @pytest.fixture
    def server(self, tmp_path: Path, slow: Line) -> Iterator[Restartable]:
        server = Restartable(tmp_path, "--allow-origin", slow.url)
        yield server
        server.kill()

    @pytest.fixture
    def active(self, opened: Callable[..., Active], server: Restartable, slow: Line) -> Callable[..., Active]:
        def active(*, retries: int, **options: Any) -> Active:
            given = {"read_timeout": 20, "retries": retries, "endpoint_url": slow.url} | options
            return opened(server=server.url, workers=16, backend_options=given)

        return active

    @pytest.mark.parametrize("extension", [True, False])
    def test_the_rest_is_computed_here(self, active: Any, server: Restartable, slow: Line, extension: bool) -> None:
        with meanwhile(slow, 1 if extension else 40, server.kill):
            result = within(PATIENT, run, active(retries=2, extension=extension), "mean")
        right("mean", result.value)
        assert result.report.where["local fallback"] >= 4
        assert extension or result.report.where["reductionist"] >= 4

    @pytest.mark.parametrize("extension", [True, False])
    def test_a_clear_error_where_nothing_is_computed_here(
        self, active: Any, server: Restartable, slow: Line, extension: bool
    ) -> None:
        one = active(retries=2, extension=extension)
        with meanwhile(slow, 1 if extension else 40, server.kill), pytest.raises(BackendError) as lost:
            within(PATIENT, lambda: run(one, "mean", fallback="error"))
        assert server.url in str(lost.value)
        assert "\n" not in str(lost.value)

    @pytest.mark.parametrize("extension", [True, False])
    def test_it_goes_on_when_the_server_is_back(self, active: Any, server: Restartable, slow: Line, extension: bool) -> None:
        def restart() -> None:
            server.kill()
            time.sleep(0.5)
            server.start()

        one = active(retries=12, extension=extension)
        with meanwhile(slow, 1 if extension else 40, restart):
            result = within(2 * PATIENT, lambda: run(one, "mean", fallback="error"))
        right("mean", result.value)
        assert result.report.where == {"reductionist": CHUNKS}


def under_way(server: EmbeddedServer) -> float:
    """Return how many requests a server answers at the moment, this one apart."""
    lines = urllib3.request("GET", server.url + "/metrics", retries=False).data.decode().splitlines()
    (found,) = [line for line in lines if line.startswith("activestore_requests_under_way ")]
    return float(found.split()[1]) - 1


class TestToldToStop:
    def asked(self, stored: S3Store, url: str, i: int) -> dict[str, Any]:
        place = {"interface_type": "s3", "url": f"{url}/{stored.bucket}/{NAME}.raw"}
        return place | {"dtype": "float32", "offset": 12000 * i, "size": 12000}

    def test_what_is_under_way_is_answered(
        self, stored: S3Store, own: Callable[..., EmbeddedServer], line: Callable[..., Line]
    ) -> None:
        (stored.folder / f"{NAME}.raw").write_bytes(DATA.tobytes())
        slow = line(stored.url, round_trip=1.0)
        server = own("--allow-origin", slow.url, "--readers", "8")
        login = urllib3.make_headers(basic_auth=f"{stored.key}:{stored.secret}")

        def ask(i: int) -> float:
            with urllib3.PoolManager(retries=False, timeout=20) as http:
                answer = http.request("POST", server.url + "/v2/max", json=self.asked(stored, slow.url, i), headers=login)
            return np.frombuffer(cbor2.loads(answer.data)["bytes"], "f4").item()

        with ThreadPoolExecutor(24) as pool:
            # More than are read at once: some wait for their turn.
            answers = [pool.submit(ask, i) for i in range(24)]
            end = time.monotonic() + PATIENT
            # A request that is still on its way is none that the server has.
            while (slow.requests < 8 or under_way(server) < 24) and time.monotonic() < end:
                time.sleep(0.01)
            assert not any(answer.done() for answer in answers)
            server.process.send_signal(signal.SIGTERM)
            told = time.monotonic()
            found = [answer.result() for answer in answers]
            answered_at = time.monotonic()
            code = server.process.wait(PATIENT)
            ended = time.monotonic()
        assert found == [DATA[i].max() for i in range(24)]
        assert code == 0
        assert ended - answered_at < 2
        assert ended - told < 10
        with pytest.raises(urllib3.exceptions.HTTPError):
            urllib3.request("GET", server.url + "/healthz", retries=False)
        assert no_error_logged(server)

    def test_an_idle_server_ends_at_once(self, own: Callable[..., EmbeddedServer], stored: S3Store) -> None:
        server = own("--allow-origin", stored.url)
        with urllib3.PoolManager() as http:
            # A connection that is kept open for later is no request.
            http.request("GET", server.url + "/healthz")
            server.process.send_signal(signal.SIGTERM)
            began = time.monotonic()
            assert server.process.wait(PATIENT) == 0
            assert time.monotonic() - began < 2

    def test_our_client_goes_on_without_it(
        self, opened: Callable[..., Active], line: Callable[..., Line], restartable: Restartable
    ) -> None:
        slow = line(restartable.url, round_trip=0.1)
        active = opened(server=slow.url, workers=4, backend_options={"retries": 1} | BY_PROTOCOL)
        with meanwhile(slow, 12, lambda: restartable.process.send_signal(signal.SIGTERM)):
            result = within(PATIENT, run, active, "max")
        right("max", result.value)
        assert result.report.where["reductionist"] >= 12 - 4


def test_a_server_that_is_busy_is_asked_again_later(
    opened: Callable[..., Active], line: Callable[..., Line], embedded: EmbeddedServer
) -> None:
    busy = line(embedded.url, round_trip=0)
    busy.fail(answered(429, "too many requests wait already", headers="Retry-After: 1"), times=2, path=EXTENSION)
    result = within(PATIENT, run, opened(server=busy.url, fallback="error"), "mean")
    right("mean", result.value)


def test_more_clients_than_the_server_takes_are_all_answered(opened: Callable[..., Active], own: Any, stored: S3Store) -> None:
    server = own("--allow-origin", stored.url, "--readers", "1", "--workers", "1", "--queue", "4")

    def one(i: int) -> Any:
        part = opened(server=server.url, fallback="error", backend_options={"retries": 40}, workers=2)[8 * i : 8 * i + 8]
        return run(part, "max").value

    def all_at_once() -> list[Any]:
        with ThreadPoolExecutor(16) as pool:
            return list(pool.map(one, range(16)))

    assert within(4 * PATIENT, all_at_once) == [DATA[8 * i : 8 * i + 8].max() for i in range(16)]
    assert no_error_logged(server)
