"""Whatever goes wrong on the way, a run ends in time: with the right number or a clear error, and no thread left behind."""

import faulthandler
import functools
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path

import h5py
import numpy as np
import pytest

from activestore import Active
from activestore.errors import (
    ActivestoreError,
    BackendError,
    BackendUnavailableError,
    CorruptChunkError,
    FallbackWarning,
    SourceError,
)
from activestore.network.http_client import HttpOptions
from tests.real.line import (
    CLOSED_HALFWAY,
    CORRUPT,
    RESET,
    RESET_HALFWAY,
    STALLED,
    TRUNCATED,
    WRONG_TYPE,
    answered,
)
from tests.real.servers import run_reductionist, run_s3_store

pytestmark = pytest.mark.real

DATA = np.random.default_rng(3).normal(280, 15, (40, 60, 50)).astype("f4")
CHUNKS = 24
RIGHT = {"mean": DATA.mean(dtype="f8"), "max": DATA.max()}
PATIENT, SHORT = 30.0, 0.7
"""Seconds that a run may take however slow the machine is, and that it waits for a server that says nothing."""
OPERATIONS = "/v2/(sum|min|max|count|select)"

FAULTS = {
    "connection reset": RESET,
    "connection reset in mid-answer": RESET_HALFWAY,
    "half an answer": CLOSED_HALFWAY,
    "half an answer that says it is whole": TRUNCATED,
    "every bit inverted": CORRUPT,
    "500": answered(500),
    "503": answered(503),
    "wrong content type": WRONG_TYPE,
    "stalled": STALLED,
}
TOLD = pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)


def within(seconds, function, *args):
    """Call a function in a thread; fail if it takes longer, or if it leaves a thread behind."""
    before, ended = set(threading.enumerate()), []

    def call():
        try:
            ended.append((function(*args), None))
        except BaseException as error:  # noqa: BLE001  # raised again, where the test sees it
            ended.append((None, error))

    caller = threading.Thread(target=call, daemon=True)
    caller.start()
    caller.join(seconds)
    if caller.is_alive():
        faulthandler.dump_traceback()
        pytest.fail(f"has not ended after {seconds} s", pytrace=False)
    no_thread_left(before)
    result, error = ended[0]
    if error is not None:
        raise error
    return result


def no_thread_left(before):
    """Fail if there are more threads than before; those that have just been told to end get a moment."""
    end = time.monotonic() + 2
    while (left := set(threading.enumerate()) - before) and time.monotonic() < end:
        time.sleep(0.02)
    assert not left


def outcome(function):
    """Return what a call ends with in time: its result, or an error of ours, which has to be one line."""
    try:
        return within(PATIENT, function)
    except ActivestoreError as error:
        if "\n" in str(error):
            raise
        return error


def is_right(name, value):
    assert value == pytest.approx(RIGHT[name], rel=1e-6 if name == "mean" else 0)


def write(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file.create_dataset("x", data=DATA, chunks=(10, 20, 25), shuffle=True, compression="gzip", compression_opts=1)


@pytest.fixture(scope="module")
def stored(s3_store):
    """The store, with the file in it."""
    write(s3_store.folder / "faults.nc")
    return s3_store


@pytest.fixture
def opened(stored):
    """Opens the file, the store being at `endpoint`."""

    def opened(endpoint=stored.url, *, secret=stored.secret, **options):
        login = {"key": stored.key, "secret": secret, "endpoint_url": endpoint}
        return Active(f"s3://{stored.bucket}/faults.nc", "x", storage_options=login, **options)

    return opened


@pytest.fixture
def impatient(monkeypatch):
    """Reads from stores that do not wait long for a server that says nothing."""
    options = functools.partial(HttpOptions, read_timeout=SHORT)
    for module in ("sources.http", "network.http_client"):
        monkeypatch.setattr(f"activestore.{module}.HttpOptions", options, raising=False)


def run(active, name, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FallbackWarning)
        return active.with_options(**options).run(name)


class TestBeforeReductionist:
    """The line to the server that computes is bad; that to the store is not."""

    @pytest.fixture
    def bad(self, line, reductionist):
        return line(reductionist.url, round_trip=0)

    @pytest.fixture
    def active(self, opened, bad):
        return opened(server=bad.url, backend_options={"read_timeout": SHORT})

    @TOLD
    @pytest.mark.parametrize("name", RIGHT)
    def test_twice_and_then_no_more(self, active, bad, fault, name):
        bad.fail(fault, times=2, path=OPERATIONS)
        result = within(PATIENT, run, active, name)
        is_right(name, result.value)
        assert bad.failed == 2
        assert result.report.where.get("reductionist", 0) >= CHUNKS - 2, result.report

    @TOLD
    @pytest.mark.parametrize("name", RIGHT)
    def test_always(self, active, bad, fault, name):
        bad.fail(fault, path=OPERATIONS)
        result = within(PATIENT, run, active, name)
        is_right(name, result.value)
        assert bad.failed
        if fault is not WRONG_TYPE:
            assert result.report.where == {"local fallback": CHUNKS}

    @TOLD
    def test_always_with_nothing_to_fall_back_on(self, active, bad, fault):
        bad.fail(fault, path=OPERATIONS)
        found = outcome(lambda: run(active, "mean", fallback="error").value)
        if fault is WRONG_TYPE and not isinstance(found, BackendError):
            is_right("mean", found)
        else:
            assert isinstance(found, BackendError)
            assert bad.address in str(found)

    @TOLD
    def test_when_it_is_asked_what_it_is(self, active, bad, fault):
        bad.fail(fault, path="_probe")
        found = outcome(lambda: run(active, "mean").value)
        if isinstance(found, BackendUnavailableError):
            assert bad.address in str(found)
        else:
            is_right("mean", found)

    @pytest.mark.parametrize("status", [401, 403])
    def test_credentials_that_it_refuses(self, active, bad, status):
        bad.fail(answered(status, "access denied"), path=OPERATIONS)
        with pytest.raises(BackendError, match=r"storage_options"):
            within(PATIENT, lambda: run(active, "mean", fallback="error", workers=1))
        # Two to learn what it is, and one that is refused.
        assert bad.requests <= 3

    def test_credentials_that_it_refuses_are_not_tried_for_every_chunk(self, active, bad):
        bad.fail(answered(403, "access denied"), path=OPERATIONS)
        result = within(PATIENT, run, active, "mean")
        is_right("mean", result.value)
        assert bad.requests <= 2 + CHUNKS, "no request is sent again"

    def test_it_is_killed_in_mid_run(self, opened, line, tmp_path, authority):
        with run_reductionist(tmp_path, authority) as own:
            slow = line(own.url, round_trip=0.2)
            active = opened(server=slow.url, workers=2)
            result = within(PATIENT, run_and_kill, active, slow, own.url)
        is_right("mean", result.value)
        assert result.report.where["reductionist"] >= 4
        assert result.report.where["local fallback"] >= 4

    def test_it_is_killed_in_mid_run_with_nothing_to_fall_back_on(self, opened, line, tmp_path, authority):
        with run_reductionist(tmp_path, authority) as own:
            slow = line(own.url, round_trip=0.2)
            active = opened(server=slow.url, workers=2, fallback="error")
            with pytest.raises(BackendError, match=slow.address):
                within(PATIENT, run_and_kill, active, slow, own.url)


class TestBetweenReductionistAndTheStore:
    """The server that computes reads from the store over a bad line; ours is good."""

    @pytest.fixture
    def bad(self, line, stored):
        return line(stored.url, round_trip=0)

    @TOLD
    @pytest.mark.parametrize("times", [2, None], ids=["twice", "always"])
    def test_it_goes_wrong_there(self, opened, reductionist, bad, fault, times):
        # The server asks its store again and again: that takes its time.
        options = {"read_timeout": 4, "endpoint_url": bad.url, "retries": 1}
        bad.fail(fault, times=times)
        result = within(2 * PATIENT, run, opened(server=reductionist.url, backend_options=options), "mean")
        is_right("mean", result.value)
        assert bad.failed

    def test_nothing_listens_there(self, opened, reductionist):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            url = f"http://127.0.0.1:{free.getsockname()[1]}"
        options = {"read_timeout": 4, "endpoint_url": url, "retries": 1}
        result = within(2 * PATIENT, run, opened(server=reductionist.url, backend_options=options), "mean")
        is_right("mean", result.value)


@pytest.mark.usefixtures("impatient")
class TestBeforeTheStore:
    """The line to the store is bad, and what is computed is computed here."""

    @pytest.fixture
    def bad(self, line, stored):
        return line(stored.url, round_trip=0)

    @pytest.fixture
    def active(self, opened, bad):
        active = opened(bad.url, backend="posix")
        assert len(active.variable.table) == CHUNKS
        return active

    @TOLD
    @pytest.mark.parametrize("name", RIGHT)
    def test_once_among_the_data(self, active, bad, fault, name):
        bad.fail(fault, times=1)
        found = outcome(lambda: run(active, name).value)
        if fault in (TRUNCATED, CORRUPT) and isinstance(found, (SourceError, CorruptChunkError)):
            assert "faults.nc" in str(found)
        else:
            is_right(name, found)
        assert bad.failed == 1

    @TOLD
    def test_always_among_the_data(self, active, bad, fault):
        bad.fail(fault, path="faults.nc")
        if fault is WRONG_TYPE:
            is_right("mean", within(PATIENT, lambda: run(active, "mean").value))
            return
        with pytest.raises((SourceError, CorruptChunkError), match=r"faults\.nc"):
            within(PATIENT, lambda: run(active, "mean"))

    @TOLD
    @pytest.mark.parametrize("times", [1, None], ids=["once", "always"])
    def test_when_it_is_opened(self, opened, bad, fault, times):
        bad.fail(fault, times=times)
        found = outcome(lambda: run(opened(bad.url, backend="posix"), "mean").value)
        if isinstance(found, SourceError):
            assert "faults.nc" in str(found)
        else:
            is_right("mean", found)
        assert bad.failed

    def test_a_wrong_secret(self, opened, bad):
        wrong = "not-the-secret"
        with pytest.raises(SourceError, match=r"storage_options.*expired") as refused:
            within(PATIENT, lambda: opened(bad.url, secret=wrong, backend="posix"))
        assert wrong not in str(refused.value)
        assert bad.requests == 1, "it is not tried again"

    @pytest.mark.parametrize("status", [401, 403])
    def test_credentials_that_expire_in_mid_run(self, active, bad, status):
        bad.reset_counters()
        bad.fail(answered(status, "expired token"), path="faults.nc")
        with pytest.raises(SourceError, match=r"storage_options.*expired"):
            within(PATIENT, lambda: run(active, "mean", workers=1))
        assert bad.requests <= CHUNKS, "no request is sent again"

    def test_it_is_killed_in_mid_run(self, line, tmp_path):
        with run_s3_store(tmp_path) as own:
            write(own.folder / "faults.nc")
            slow = line(own.url, round_trip=0.2, bits_per_second=2e6)
            login = {"key": own.key, "secret": own.secret, "endpoint_url": slow.url}
            active = Active(f"s3://{own.bucket}/faults.nc", "x", storage_options=login, backend="posix", workers=1)
            with pytest.raises(SourceError, match=r"faults\.nc"):
                within(PATIENT, run_and_kill, active, slow, own.url)


def run_and_kill(active, slow, url):
    """Run a mean, and end the server at `url` when a few requests have been sent."""
    slow.reset_counters()

    def kill():
        while slow.received < 1500:
            time.sleep(0.01)
        os.kill(process_at(url), signal.SIGKILL)

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    try:
        return run(active, "mean")
    finally:
        killer.join(PATIENT)


def process_at(url):
    """Return the id of the process that this one has started to listen at the URL."""
    port = url.rpartition(":")[2]
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = (folder / "stat").read_text().rpartition(")")[2].split()[1]
            command = (folder / "cmdline").read_text()
        except OSError:
            continue
        if parent == str(os.getpid()) and port in command:
            return int(folder.name)
    raise LookupError(f"no process of ours listens at {url}")


INTERRUPTED = """
import sys, threading, time
from activestore import Active
address, login, options = {address!r}, {login!r}, {options!r}
active = Active(address, "x", storage_options=login, **options)
active.plan("mean")
active[:10, :20, :25].mean()  # whatever is kept for later is there
print("ready", flush=True)
sys.stdin.readline()
try:
    print(active.mean())
except KeyboardInterrupt:
    print("interrupted", sorted(thread.name for thread in threading.enumerate()), flush=True)
"""


@pytest.mark.parametrize("through", ["reductionist", "the store"])
def test_ctrl_c_while_a_server_says_nothing(stored, reductionist, line, through):
    bad = line(reductionist.url if through == "reductionist" else stored.url, round_trip=0)
    options = {"server": bad.url} if through == "reductionist" else {"backend": "posix"}
    endpoint = stored.url if through == "reductionist" else bad.url
    login = {"key": stored.key, "secret": stored.secret, "endpoint_url": endpoint}
    program = INTERRUPTED.format(address=f"s3://{stored.bucket}/faults.nc", login=login, options=options)
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout.readline() == "ready\n", process.stderr.read()
            bad.fail(STALLED)
            process.stdin.write("\n")
            process.stdin.flush()
            waiting_since = time.monotonic()
            while not bad.failed and time.monotonic() < waiting_since + PATIENT:
                time.sleep(0.02)
            time.sleep(0.3)
            process.send_signal(signal.SIGINT)
            interrupted = time.monotonic()
            out, err = process.communicate(timeout=PATIENT)
            took = time.monotonic() - interrupted
        finally:
            process.kill()
    assert out == "interrupted ['MainThread']\n", err
    assert took < 3
