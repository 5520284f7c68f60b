import json

import cbor2
import numpy as np
import pytest
import s3fs
import urllib3

from tests.real.line import CORRUPT, RESET, STALLED, answered

pytestmark = pytest.mark.real

NUMBERS = np.arange(48, dtype="<f4").reshape(6, 8)
# The file begins with bytes that are not the chunk's.
STORED = bytes(100) + NUMBERS.tobytes()


def column_sums(*, server, url, interface_type, ca_file=None, login=None, timeout=20):
    """Ask Reductionist for the sums of the columns of NUMBERS; the answer with its CBOR decoded if all went well."""
    body = {
        "interface_type": interface_type,
        "url": url,
        "dtype": "float32",
        "byte_order": "little",
        "offset": 100,
        "size": NUMBERS.nbytes,
        "shape": list(NUMBERS.shape),
        "axis": [0],
    }
    headers = {"Content-Type": "application/json"} | (urllib3.make_headers(basic_auth=login) if login else {})
    with urllib3.PoolManager(ca_certs=str(ca_file) if ca_file else None, retries=False, timeout=timeout) as http:
        answer = http.request("POST", f"{server}/v2/sum", body=json.dumps(body), headers=headers)
        return answer.status, answer.headers["Content-Type"], answer.data


def check_column_sums(answer):
    status, _, data = answer
    assert status == 200, data
    decoded = cbor2.loads(data)
    assert decoded["dtype"] == "float32"
    assert decoded["shape"] == [8]
    assert decoded["count"] == [6] * 8
    assert np.array_equal(np.frombuffer(bytes(decoded["bytes"]), "<f4"), NUMBERS.sum(0))


def s3_address(s3_store, name):
    return {
        "url": f"{s3_store.url}/{s3_store.bucket}/{name}",
        "interface_type": "s3",
        "login": f"{s3_store.key}:{s3_store.secret}",
    }


@pytest.fixture
def in_s3(s3_store):
    """NUMBERS as an object: what `column_sums` takes to find them."""
    (s3_store.folder / "numbers.bin").write_bytes(STORED)
    return s3_address(s3_store, "numbers.bin")


def test_a_file_copied_into_the_bucket_is_an_object(s3_store):
    (s3_store.folder / "copied").mkdir(exist_ok=True)
    (s3_store.folder / "copied" / "object.bin").write_bytes(STORED)
    files = s3fs.S3FileSystem(**s3_store.storage_options, skip_instance_cache=True)
    path = f"{s3_store.bucket}/copied/object.bin"
    assert files.cat_file(path) == STORED
    assert files.cat_file(path, start=100, end=110) == STORED[100:110]
    assert files.ls(f"{s3_store.bucket}/copied") == [path]


def test_what_is_put_into_the_bucket_is_a_file_there(s3_store):
    files = s3fs.S3FileSystem(**s3_store.storage_options, skip_instance_cache=True)
    files.pipe_file(f"{s3_store.bucket}/put.bin", STORED)
    assert (s3_store.folder / "put.bin").read_bytes() == STORED
    assert files.info(f"{s3_store.bucket}/put.bin")["ETag"]


@pytest.mark.parametrize("name", ["web_server", "web_server_https"])
def test_web_servers_answer_ranges(request, name):
    server = request.getfixturevalue(name)
    (server.folder / "ranged.bin").write_bytes(STORED)
    with urllib3.PoolManager(ca_certs=str(server.ca_file) if server.ca_file else None, retries=False, timeout=20) as http:
        answer = http.request("GET", f"{server.url}/ranged.bin", headers={"Range": "bytes=100-109"})
        assert (answer.status, answer.data) == (206, STORED[100:110])
        assert answer.headers["ETag"]
        assert http.request("GET", f"{server.url}/absent.bin").status == 404


@pytest.mark.parametrize("name", ["reductionist", "reductionist_https"])
def test_reductionist_answers_the_probe_of_its_second_protocol(request, name):
    server = request.getfixturevalue(name)
    with urllib3.PoolManager(ca_certs=str(server.ca_file) if server.ca_file else None, retries=False, timeout=20) as http:
        answer = http.request("POST", f"{server.url}/v2/_probe", body=b"{}")
        assert answer.status == 404
        assert "_probe" in answer.json()["error"]["message"]
        old = http.request("POST", f"{server.url}/v1/_probe", body=b"{}")
        assert (old.status, old.data) == (404, b"")


@pytest.mark.parametrize("name", ["reductionist_https", "web_server_https"])
def test_https_servers_are_refused_by_who_does_not_know_their_authority(request, name):
    server = request.getfixturevalue(name)
    with urllib3.PoolManager(retries=False, timeout=20) as http, pytest.raises(urllib3.exceptions.SSLError, match="verify"):
        http.request("GET", server.url)


def test_reductionist_reduces_a_chunk_of_the_s3_store(reductionist, in_s3):
    check_column_sums(column_sums(server=reductionist.url, **in_s3))


def test_reductionist_over_https_reduces_a_chunk_of_the_s3_store(reductionist_https, in_s3):
    check_column_sums(column_sums(server=reductionist_https.url, ca_file=reductionist_https.ca_file, **in_s3))


def test_reductionist_tells_who_may_not_read(reductionist, in_s3):
    status, content_type, data = column_sums(server=reductionist.url, **(in_s3 | {"login": "activestore-key:wrong"}))
    assert (status, content_type) == (401, "application/json")
    assert json.loads(data)["error"]["message"]


@pytest.mark.parametrize("name", ["web_server", "web_server_https"])
def test_reductionist_reduces_a_chunk_of_a_web_server(request, reductionist, name):
    server = request.getfixturevalue(name)
    (server.folder / "numbers.bin").write_bytes(STORED)
    interface_type = "https" if server.ca_file else "http"
    check_column_sums(column_sums(server=reductionist.url, url=f"{server.url}/numbers.bin", interface_type=interface_type))


def test_reductionist_answers_over_a_line(reductionist, in_s3, line):
    slow = line(reductionist.url, round_trip=0.05)
    check_column_sums(column_sums(server=slow.url, **in_s3))
    assert (slow.request_lines, slow.rounds) == (["POST /v2/sum"], 1)


def test_https_servers_are_verified_over_a_line(reductionist_https, in_s3, line):
    slow = line(reductionist_https.url, round_trip=0.01)
    check_column_sums(column_sums(server=slow.url, ca_file=reductionist_https.ca_file, **in_s3))
    assert (slow.connections, slow.requests) == (1, 0)


def test_the_line_before_reductionist_fails_as_told(reductionist, in_s3, line):
    bad = line(reductionist.url, round_trip=0)
    bad.fail(answered(503), times=1)
    bad.fail(RESET, times=1)
    bad.fail(CORRUPT, times=1)
    bad.fail(STALLED, times=1)
    assert column_sums(server=bad.url, **in_s3)[0] == 503
    with pytest.raises(urllib3.exceptions.ProtocolError):
        column_sums(server=bad.url, **in_s3)
    assert not isinstance(_decoded(column_sums(server=bad.url, **in_s3)[2]), dict)
    with pytest.raises(urllib3.exceptions.ReadTimeoutError):
        column_sums(server=bad.url, timeout=0.5, **in_s3)
    check_column_sums(column_sums(server=bad.url, **in_s3))


def _decoded(data):
    try:
        return cbor2.loads(data)
    except cbor2.CBORDecodeError:
        return None


def test_s3_objects_are_read_over_a_line(s3_store, in_s3, line):
    slow = line(s3_store.url, round_trip=0.02)
    options = s3_store.storage_options | {"client_kwargs": {"endpoint_url": slow.url}}
    files = s3fs.S3FileSystem(**options, skip_instance_cache=True)
    for _ in range(3):
        assert files.cat_file(f"{s3_store.bucket}/numbers.bin", start=0, end=100) == STORED[:100]
    assert (slow.requests, slow.rounds, slow.connections) == (3, 3, 1)
