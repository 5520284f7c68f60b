"""The server as its clients see it: paths, errors, limits, metrics, the access log."""

import base64
import json
import logging
import socket
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest

from activestore import Active
from activestore.core.kernel import reduce_chunk
from activestore.core.wire.encode import frames_from_bytes, tasks_to_json
from activestore.errors import BackendError
from activestore.server.http.middleware import ACCESS_LOG
from activestore.server.settings import ServerSettings
from tests.server.running import message, numbers, running

VALUES = np.arange(24, dtype="f4").reshape(4, 6)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    found = tmp_path_factory.mktemp("root")
    (found / "x.bin").write_bytes(VALUES.tobytes())
    (found / "tas.nc").write_bytes(Path("docs/tas.nc").read_bytes())
    return found


@pytest.fixture(scope="module")
def server(folder):
    with running(ServerSettings(roots=(folder,), v1=True)) as found:
        yield found


def asked(folder, **fields):
    return {"interface_type": "file", "url": f"file://{folder}/x.bin", "dtype": "float32", "shape": [4, 6]} | fields


@pytest.mark.parametrize("slash", ["", "/"])
def test_an_operation_is_answered_with_or_without_a_slash_at_the_end(server, folder, slash):
    assert numbers(server.post(f"/v2/sum{slash}", asked(folder, axis=[0]))).tolist() == VALUES.sum(axis=0).tolist()


@pytest.mark.parametrize("operation", ["min", "max", "select"])
def test_the_other_operations(server, folder, operation):
    expected = VALUES if operation == "select" else getattr(VALUES, operation)()
    assert np.array_equal(numbers(server.post(f"/v2/{operation}", asked(folder))), expected)


def test_v1_is_spoken_where_the_operator_wants_it(server, folder):
    request = {"source": "http://127.0.0.1:1", "bucket": "b", "object": "o", "dtype": "float32"}
    assert server.post("/v1/sum", request).status == 403
    with running(ServerSettings(roots=(folder,))) as other:
        assert (other.post("/v1/sum", request).status, other.post("/v1/sum", request).data) == (404, b"")


def test_what_tells_the_versions_apart(server):
    unknown = server.post("/v2/_probe", {})
    assert (unknown.status, unknown.headers["content-type"]) == (404, "application/json")
    assert "operation" in message(unknown)
    nothing = server.post("/v3/_probe", {})
    assert (nothing.status, nothing.data) == (404, b"")
    assert server.get("/v2/sum").status == 405


def test_the_schema_says_what_there_is(server):
    said = json.loads(server.get("/.well-known/reductionist-schema").data)
    assert (said["server"], said["version"], said["protocols"]) == ("activestore", "1.2.3", ["v1", "v2"])
    assert said["extension"]["interface_types"] == ["file"]
    assert {"sum", "moments", "argmax"} <= set(said["extension"]["components"])


def test_health(server):
    assert (server.get("/healthz").status, server.get("/healthz").data) == (200, b"ok\n")


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "body"),
        (b"{", "body"),
        (b"\xff", "body"),
        (b"[]", "body"),
        (b"[" * 100_000, "body"),
        (b'{"offset": ' + b"9" * 10_000 + b"}", "body"),
        (b"{}", "interface_type"),
        (b'{"nonsense": 1}', "nonsense"),
    ],
)
def test_what_is_no_request_is_refused_with_a_reason(server, body, said):
    answer = server.post("/v2/sum", body)
    assert answer.status == 400
    assert said in message(answer)


def test_a_request_that_is_not_called_json_is_refused(server, folder):
    answer = server.post("/v2/sum", asked(folder), headers={"Content-Type": "text/plain"})
    assert answer.status == 400
    assert "Content-Type" in message(answer)


@pytest.mark.parametrize("url", ["file:///etc/passwd", "http://169.254.169.254/latest/meta-data", "http://127.0.0.1:1/b/k"])
def test_what_the_operator_has_not_allowed_is_not_read(server, folder, url):
    kind = "file" if url.startswith("file") else "s3"
    answer = server.post("/v2/sum", asked(folder, url=url, interface_type=kind))
    assert answer.status == 403
    assert str(folder) not in message(answer)


def test_a_request_that_is_too_large_is_refused_before_it_is_read(folder):
    with running(ServerSettings(roots=(folder,), largest_request=1000)) as server:
        answer = server.post("/v2/sum", b" " * 1001)
        assert answer.status == 413
        assert "1000" in message(answer)
        # Without saying how large it will be.
        chunked = server.http.request("POST", server.url + "/v2/sum", body=iter([b" " * 600] * 3), chunked=True)
        assert chunked.status == 413


def test_a_chunk_that_is_too_large_is_refused(folder):
    with running(ServerSettings(roots=(folder,), largest_chunk=64)) as server:
        assert server.post("/v2/sum", asked(folder)).status == 400
        whole = {"interface_type": "file", "url": f"file://{folder}/x.bin", "dtype": "float32"}
        answer = server.post("/v2/sum", whole)
        assert answer.status == 400
        assert "96" in message(answer)


class TestToken:
    TOKEN = "correct-horse-battery"  # noqa: S105  # of the tests

    @pytest.fixture
    def server(self, folder):
        with running(ServerSettings(roots=(folder,), token=self.TOKEN)) as found:
            yield found

    @pytest.mark.parametrize(
        "headers",
        [
            {},
            {"X-Activestore-Token": "wrong"},
            {"Authorization": "Bearer wrong"},
            {"Authorization": "Basic eDp5"},
            {"X-Activestore-Token": "\xe9"},
        ],
    )
    @pytest.mark.parametrize("path", ["/v2/sum", "/activestore/v1/reduce", "/metrics", "/nothing"])
    def test_nobody_gets_in_without_it(self, server, headers, path):
        answer = server.post(path, b"{}", headers=headers)
        assert (answer.status, answer.headers["www-authenticate"]) == (401, "Bearer")
        assert self.TOKEN not in message(answer)

    @pytest.mark.parametrize("name", ["X-Activestore-Token", "Authorization"])
    def test_with_it_one_gets_in(self, server, folder, name):
        value = self.TOKEN if name.startswith("X") else f"Bearer {self.TOKEN}"
        assert numbers(server.post("/v2/sum", asked(folder), headers={name: value})) == VALUES.sum()

    def test_health_is_for_everybody(self, server):
        assert server.get("/healthz").status == 200

    def test_a_login_of_the_store_goes_with_it(self, server, folder):
        login = "Basic " + base64.b64encode(b"key:secret").decode()
        headers = {"X-Activestore-Token": self.TOKEN, "Authorization": login}
        assert server.post("/v2/sum", asked(folder), headers=headers).status == 200


@pytest.mark.parametrize("login", ["Basic", "Basic !!!", "Basic eA==", "Basic Og=="])
def test_a_login_that_is_none_is_refused(server, folder, login):
    answer = server.post("/v2/sum", asked(folder), headers={"Authorization": login})
    assert answer.status == 400
    assert "Basic login" in message(answer)


class TestManyAtOnce:
    @pytest.fixture(params=["all", "groups", "condition"])
    def tasks(self, folder, request):
        tas = Active(folder / "tas.nc", "tas")
        months = np.arange(len(tas.read())) % 5
        options = {"all": {}, "groups": {"by": {"time": months}}, "condition": {"where": "> 280"}}
        return list(tas.plan("std", "time", **options[request.param]).tasks())

    def ask(self, server, folder, tasks, **source):
        at = {"interface_type": "file", "url": f"file://{folder}/tas.nc"} | source
        return server.post("/activestore/v1/reduce", {"source": at, "tasks": tasks_to_json(tasks)})

    def test_the_answers_are_those_of_the_kernel(self, server, folder, tasks):
        answer = self.ask(server, folder, tasks)
        assert (answer.status, answer.headers["content-type"]) == (200, "application/vnd.activestore.partials")
        raw = (folder / "tas.nc").read_bytes()
        for task, partial in zip(tasks, frames_from_bytes(answer.data, tasks), strict=True):
            expected = reduce_chunk(raw[task.offset : task.offset + task.size], task)
            assert np.array_equal(partial.count, expected.count)
            for name, state in expected.states.items():
                for ours, theirs in zip(partial.states[name], state, strict=True):
                    assert ours.tobytes() == theirs.tobytes()

    def test_a_damaged_chunk_spoils_no_other(self, folder, tasks, tmp_path):
        raw = bytearray((folder / "tas.nc").read_bytes())
        raw[tasks[0].offset : tasks[0].offset + 8] = b"nonsense"
        (tmp_path / "tas.nc").write_bytes(raw)
        with running(ServerSettings(roots=(tmp_path,))) as server:
            found = frames_from_bytes(self.ask(server, tmp_path, tasks).data, tasks)
        assert isinstance(found[0], BackendError)
        assert "chunk (0" in str(found[0])
        assert not any(isinstance(one, BackendError) for one in found[1:])

    def test_an_object_that_is_not_there_is_an_error_of_all(self, server, folder, tasks):
        answer = self.ask(server, folder, tasks, url=f"file://{folder}/missing.nc")
        assert answer.status == 400
        assert "no such file" in message(answer).lower()

    @pytest.mark.parametrize(
        "body",
        [
            b"",
            b"[]",
            b"{}",
            b'{"source": {}, "tasks": {}}',
            b'{"source": 1, "tasks": 1}',
            b"[" * 100_000,
            b'{"source": NaN, "tasks": {}}',
        ],
    )
    def test_what_is_no_request_is_refused(self, server, body):
        answer = server.post("/activestore/v1/reduce", body)
        assert answer.status == 400
        assert "not valid" in message(answer)

    def test_too_many_at_once_are_refused(self, folder, tasks):
        with running(ServerSettings(roots=(folder,), most_tasks=1)) as server:
            assert self.ask(server, folder, tasks).status == 400


def test_past_the_queue_clients_are_told_to_come_back(folder, monkeypatch):
    from activestore.server.reading.reader import Reader

    go_on, read = threading.Event(), Reader.read
    monkeypatch.setattr(Reader, "read", lambda *given, **named: go_on.wait(10) and read(*given, **named))
    statuses = []
    with running(ServerSettings(roots=(folder,), workers=1, readers=1, queue=1)) as server:
        request = asked(folder, size=96, offset=0)
        threads = [threading.Thread(target=lambda: statuses.append(server.post("/v2/sum", request))) for _ in range(6)]
        for thread in threads:
            thread.start()
        while len(statuses) < 3:
            time.sleep(0.01)
        assert {answer.status for answer in statuses} == {429}
        assert {answer.headers["retry-after"] for answer in statuses} == {"1"}
        assert server.metrics()["activestore_requests_waiting"] == 1
        go_on.set()
        for thread in threads:
            thread.join(10)
    assert sorted(answer.status for answer in statuses) == [200, 200, 200, 429, 429, 429]


def test_the_metrics_count(folder):
    with running(ServerSettings(roots=(folder,))) as server:
        server.post("/v2/sum", asked(folder, size=96))
        server.post("/v2/sum", b"{}")
        server.post("/v2/whatever", b"{}")
        found = server.metrics()
    assert found['activestore_requests_total{endpoint="v2/sum",status="200"}'] == 1
    assert found['activestore_requests_total{endpoint="v2/sum",status="400"}'] == 1
    assert found['activestore_requests_total{endpoint="v2/unknown",status="404"}'] == 1
    assert found['activestore_request_seconds_count{endpoint="v2/sum"}'] == 2
    assert found['activestore_errors_total{kind="request"}'] == 2
    assert found["activestore_chunks_total"] == 1
    assert found["activestore_origin_read_bytes_total"] == 96
    assert found["activestore_chunk_memory_bytes"] == 0
    assert found["activestore_requests_under_way"] == 1


def test_the_access_log_has_a_line_of_json_and_no_login(folder, caplog):
    login = "Basic " + base64.b64encode(b"my-key:my-secret").decode()
    # A server of its own: others may still write about requests of other tests.
    with running(ServerSettings(roots=(folder,))) as server, caplog.at_level(logging.INFO, ACCESS_LOG):
        server.post("/v2/sum?token=abc", asked(folder), headers={"Authorization": login})
        server.post("/v2/sum", asked(folder, url="http://evil.example/b/k?X-Amz-Signature=abc", interface_type="http"))
        deadline = time.monotonic() + 5
        while len(caplog.records) < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
    # The second one can be recorded first: a line is written once its answer is on the way.
    good, bad = sorted((json.loads(record.getMessage()) for record in caplog.records), key=lambda line: line["status"])
    assert (good["status"], good["method"], good["path"], good["chunks"]) == (200, "POST", "/v2/sum", 1)
    assert good["object"] == f"file://{folder}/x.bin"
    assert good["milliseconds"] > 0
    assert (bad["status"], bad["error"]) == (403, "forbidden")
    for secret in ("my-key", "my-secret", login.split()[1], "abc"):
        assert secret not in caplog.text


def test_an_error_of_ours_is_a_500_that_says_nothing_and_is_logged(server, folder, monkeypatch, caplog):
    monkeypatch.setattr("activestore.server.engine.memory", lambda *_, **__: 1 / 0)
    answer = server.post("/v2/sum", asked(folder))
    assert answer.status == 500
    assert "division" not in message(answer)
    assert "ZeroDivisionError" in caplog.text


def test_a_client_that_goes_away_leaves_nothing_behind(folder, monkeypatch):
    from activestore.server.reading.reader import Reader

    began, go_on, read = threading.Event(), threading.Event(), Reader.read

    def slow(*given, **named):
        began.set()
        go_on.wait(10)
        return read(*given, **named)

    monkeypatch.setattr(Reader, "read", slow)
    with running(ServerSettings(roots=(folder,))) as server:
        parts = urlsplit(server.url)
        body = json.dumps(asked(folder, offset=0, size=96)).encode()
        with socket.create_connection((parts.hostname, parts.port)) as connection:
            head = f"POST /v2/sum HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
            connection.sendall(head.encode() + body)
            assert began.wait(5)
        # What the thread uses is held until it has ended.
        time.sleep(0.05)
        assert server.metrics()["activestore_chunk_memory_bytes"] == 96
        go_on.set()
        deadline = time.monotonic() + 5
        while server.metrics()["activestore_chunk_memory_bytes"] and time.monotonic() < deadline:
            time.sleep(0.01)
        found = server.metrics()
        assert found["activestore_chunk_memory_bytes"] == 0
        assert found["activestore_requests_under_way"] == 1
        assert found['activestore_requests_total{endpoint="v2/sum",status="499"}'] == 1


def test_headers_that_never_end_are_cut_off(server):
    parts = urlsplit(server.url)
    with socket.create_connection((parts.hostname, parts.port), timeout=10) as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\n")
        try:
            for _ in range(100):
                connection.sendall(b"X-Long: " + b"x" * 4000 + b"\r\n")
            said = connection.recv(100)
        except OSError:
            said = b""
        assert said.startswith(b"HTTP/1.1 400") or not said


def test_headers_that_do_not_come_close_the_connection(server, monkeypatch):
    monkeypatch.setattr("activestore.server.http.connection._SECONDS", 0.05)
    parts = urlsplit(server.url)
    for begun in (b"", b"GET /healthz HT"):
        with socket.create_connection((parts.hostname, parts.port), timeout=10) as connection:
            connection.sendall(begun)
            assert connection.recv(10) == b""


def test_a_body_that_does_not_come_ends_in_an_error(folder):
    with running(ServerSettings(roots=(folder,), read_timeout=0.1)) as server:
        parts = urlsplit(server.url)
        with socket.create_connection((parts.hostname, parts.port), timeout=10) as connection:
            connection.sendall(b"POST /v2/sum HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n{")
            assert connection.recv(100).startswith(b"HTTP/1.1 408")


def test_a_running_request_is_finished_when_the_server_stops(folder, monkeypatch):
    from activestore.server.reading.reader import Reader

    began, read = threading.Event(), Reader.read

    def slow(*given, **named):
        began.set()
        time.sleep(0.3)
        return read(*given, **named)

    monkeypatch.setattr(Reader, "read", slow)
    answers = []
    with running(ServerSettings(roots=(folder,))) as server:
        thread = threading.Thread(target=lambda: answers.append(server.post("/v2/sum", asked(folder, offset=0, size=96))))
        thread.start()
        assert began.wait(5)
    thread.join(5)
    assert numbers(answers[0]) == VALUES.sum()
