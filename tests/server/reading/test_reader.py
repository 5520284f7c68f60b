"""What is kept of stored bytes is never older than the object, though its version be made of a time in whole seconds."""

import os
import time

import numpy as np
import pytest

from activestore.server.reading.origins import _settled
from activestore.server.settings import ServerSettings
from tests.server.running import numbers, running


@pytest.fixture
def path(tmp_path):
    return tmp_path / "x.bin"


@pytest.fixture
def server(tmp_path):
    with running(ServerSettings(roots=(tmp_path,), cache=1 << 20)) as found:
        yield found


def written(path, value, *, at):
    """Write an object whose version does not depend on what is in it."""
    path.write_bytes(np.full(100, value, "f4").tobytes())
    os.utime(path, ns=(at, at))


def highest(server, path):
    fields = {"interface_type": "file", "url": f"file://{path}", "dtype": "float32", "offset": 0, "size": 400}
    return numbers(server.post("/v2/max", fields)).item()


def test_what_was_just_written_is_not_kept(server, path):
    now = time.time_ns()
    for value in (1, 2, 3):
        written(path, value, at=now)
        assert highest(server, path) == value
    assert server.metrics()["activestore_cache_hits_total"] == 0


def test_what_was_written_some_time_ago_is(server, path, monkeypatch):
    monkeypatch.setattr("activestore.server.reading.origins._UNSETTLED", -1)
    written(path, 1, at=time.time_ns() - 10**10)
    assert [highest(server, path) for _ in range(3)] == [1, 1, 1]
    assert server.metrics()["activestore_cache_hits_total"] == 2


NOW = "Tue, 15 Nov 1994 12:45:26 GMT"


@pytest.mark.parametrize(
    ("headers", "settled"),
    [
        ({"Last-Modified": "Tue, 15 Nov 1994 12:45:20 GMT", "Date": NOW}, True),
        ({"Last-Modified": "Tue, 15 Nov 1994 12:45:25 GMT", "Date": NOW}, False),
        ({"Last-Modified": "Tue, 15 Nov 1994 12:46:00 GMT", "Date": NOW}, False),
        ({"Last-Modified": "Tue, 15 Nov 1994 12:45:20 GMT"}, False),
        ({"Last-Modified": "yesterday", "Date": NOW}, False),
        ({"Last-Modified": "Tue, 15 Nov 99999 12:45:20 GMT", "Date": NOW}, False),
        ({"Date": NOW}, True),
        ({}, True),
    ],
)
def test_times_of_origins(headers, settled):
    assert _settled(headers) is settled
