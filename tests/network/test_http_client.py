"""HTTP as sources and backends have it: retries, limits, TLS, proxies, breaking off, and what is logged."""

import base64
import gc
import logging
import os
import shutil
import socket
import ssl
import subprocess
import threading
import time
import traceback
import warnings
from concurrent.futures import ThreadPoolExecutor

import pytest

from activestore.errors import ConfigurationError
from activestore.network import http_client as transport
from activestore.network.http_client import Answer, AnswerTooLargeError, Client, HttpOptions, NoAnswerError
from tests.real.servers import certificates
from tests.web_stand_in import RESET, Reply, WebStandIn

SECRET = "hunter2"  # noqa: S105


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    """No proxy, and no time between retries."""
    for name in list(os.environ):
        if name.lower().endswith("_proxy") or name in {"REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"}:
            monkeypatch.delenv(name)
    monkeypatch.setattr(transport, "_FIRST_PAUSE", 0.001)


@pytest.fixture
def web():
    with WebStandIn() as server:
        server.files["/a"] = b"0123456789"
        yield server


@pytest.fixture
def client():
    client = Client(HttpOptions(connections=4, connect_timeout=5, read_timeout=5))
    yield client
    client.close()


def get(client: Client, url: str, *, most: int = 100, **options) -> Answer:
    return client.request("GET", url, most=most, **options)


def in_turn(*replies):
    """Answer with each of these in turn, then with the file."""
    left = list(replies)
    return lambda _: left.pop(0) if left else None


def test_an_answer_is_status_headers_and_body(web, client):
    answer = get(client, f"{web.url}/a", headers={"Range": "bytes=2-4", "X-Mine": "here"})
    assert (answer.status, answer.body, answer.headers["content-range"]) == (206, b"234", "bytes 2-4/10")
    (request,) = web.requests
    assert (request.headers["X-Mine"], request.headers["Accept-Encoding"], request.headers["User-Agent"]) == (
        "here",
        "identity",
        "activestore",
    )
    assert client.request("HEAD", f"{web.url}/a", most=0).body == b""
    web.rule = lambda request: Reply(body=request.body[::-1])
    assert client.request("POST", f"{web.url}/a", body=b"abc", most=9).body == b"cba"


def test_redirects_are_the_caller_s(web, client):
    web.rule = lambda _: Reply(302, {"Location": "/elsewhere"})
    assert (get(client, f"{web.url}/a").status, len(web.requests)) == (302, 1)


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_what_may_pass_is_asked_for_again(web, client, status):
    web.rule = in_turn(Reply(status), Reply(status))
    assert get(client, f"{web.url}/a").body == b"0123456789"
    assert len(web.requests) == 3


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 409, 412, 416, 501, 505])
def test_what_will_not_pass_is_asked_for_once(web, client, status):
    web.rule = lambda _: Reply(status, body=b"no")
    assert (get(client, f"{web.url}/a").status, get(client, f"{web.url}/a").body, len(web.requests)) == (status, b"no", 2)


@pytest.mark.parametrize(
    "lost", [RESET, Reply(body=b"x" * 50, sent=20, ending="close"), Reply(body=b"x" * 50, sent=20, ending="reset")]
)
def test_a_lost_connection_is_made_anew(web, client, lost):
    web.rule = in_turn(lost, lost)
    assert get(client, f"{web.url}/a").body == b"0123456789"
    web.rule = lambda _: lost
    with pytest.raises(NoAnswerError, match=r"/a: the connection was lost"):
        get(client, f"{web.url}/a")
    assert len(web.requests) == 3 + 5


def test_retries_end(web, client):
    web.rule = lambda _: Reply(503)
    assert (get(client, f"{web.url}/a").status, len(web.requests)) == (503, 5)
    assert (get(client, f"{web.url}/a", retries=0).status, len(web.requests)) == (503, 6)


def test_pauses_between_retries_grow_and_have_an_end(web, client, monkeypatch):
    bounds = []
    monkeypatch.setattr(transport, "_FIRST_PAUSE", 1.0)
    monkeypatch.setattr(transport.random, "uniform", lambda low, high: bounds.append((low, high)) or 0.0)
    web.rule = lambda _: Reply(503)
    get(client, f"{web.url}/a", retries=6)
    assert bounds == [(0, 1), (0, 2), (0, 4), (0, 8), (0, 8), (0, 8)]


@pytest.mark.parametrize("length", [True, False])
def test_an_answer_larger_than_allowed(web, client, length):
    web.rule = lambda _: Reply(body=b"x" * 101, length=length)
    with pytest.raises(NoAnswerError, match="more than the 100 bytes"):
        get(client, f"{web.url}/a")
    assert len(web.requests) == 1
    assert len(get(client, f"{web.url}/a", most=101).body) == 101


@pytest.mark.parametrize("length", [True, False])
def test_of_an_error_the_beginning_is_enough(web, client, length):
    web.rule = lambda _: Reply(404, body=b"x" * 1_000_000, length=length)
    answer = get(client, f"{web.url}/a")
    assert (answer.status, answer.body) == (404, b"x" * 100)
    web.rule = lambda _: None
    assert get(client, f"{web.url}/a").body == b"0123456789"


def test_what_is_compressed_against_our_wish_comes_as_it_is(web, client):
    web.rule = lambda _: Reply(200, {"Content-Encoding": "gzip"}, b"\x1f\x8b not unpacked")
    assert get(client, f"{web.url}/a").body == b"\x1f\x8b not unpacked"


def test_a_slow_answer_is_not_waited_for(web):
    client = Client(HttpOptions(read_timeout=0.1, retries=1))
    web.rule = lambda _: Reply(after=0.6)
    started = time.perf_counter()
    with pytest.raises(NoAnswerError, match="no answer within the time limit"):
        get(client, f"{web.url}/a")
    assert time.perf_counter() - started < 0.6
    assert len(web.requests) == 2


def test_connections_are_kept_and_no_more_than_allowed(web, client):
    web.rule = lambda _: Reply(body=b"x", after=0.01)
    with ThreadPoolExecutor(12) as pool:
        assert {answer.body for answer in pool.map(lambda _: get(client, f"{web.url}/a"), range(60))} == {b"x"}
    assert web.connections <= 4
    assert 1 < web.most_under_way <= 4


def test_one_thread_needs_one_connection(web, client):
    for _ in range(5):
        get(client, f"{web.url}/a")
        get(client, f"{web.url}/missing")
    assert web.connections == 1


def test_a_connection_that_the_server_has_closed_meanwhile(web, client):
    web.rule = in_turn(Reply(body=b"last", ending="close"))
    assert get(client, f"{web.url}/a", retries=0).body == b"last"
    while web.open:
        time.sleep(0.01)
    assert get(client, f"{web.url}/a", retries=0).body == b"0123456789"


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://127.0.0.1:1/a", "127.0.0.1:1/a: nothing listens there"),
        ("http://no-such-host.invalid/a", "no host of that name"),
        ("http:///a", "is no address of a web server"),
        ("ftp://127.0.0.1/a", "is no address of a web server"),
        ("http://127.0.0.1:99999999/a", "is no address of a web server"),
        ("http://[::1/a", "is no address of a web server"),
        ("127.0.0.1:9000/a", "is no address of a web server"),
    ],
)
def test_where_there_is_no_server(client, url, message):
    with pytest.raises(NoAnswerError, match=message) as caught:
        get(client, f"{url}?sig={SECRET}" if "://" in url else url)
    assert "\n" not in str(caught.value)
    assert SECRET not in shown(caught.value)


def shown(error: BaseException) -> str:
    """Return a traceback as Python prints it, causes included, without the lines of source that hold the test's own secrets."""
    told = traceback.TracebackException.from_exception(error, lookup_lines=False)
    parts = []
    while told is not None:
        parts += list(told.format_exception_only())
        told = told.__cause__ or (None if told.__suppress_context__ else told.__context__)
    return "".join(parts)


@pytest.mark.parametrize("value", [f"Bearer {SECRET}\n", f"Bearer {SECRET}\N{SNOWMAN}", None])
def test_a_header_that_cannot_be_sent(web, client, value):
    with pytest.raises(NoAnswerError, match="a header has something in it") as caught:
        get(client, f"{web.url}/a", headers={"Authorization": value})
    assert SECRET not in shown(caught.value)
    assert web.requests == []
    assert get(client, f"{web.url}/a").status == 200


def test_breaking_off_ends_what_waits_and_nothing_else(web):
    """Requests that wait for an answer, for a connection to be free and for the next try; later ones are sent as ever."""
    client = Client(HttpOptions(connections=4, read_timeout=60))
    stalled, failing = threading.Event(), threading.Event()

    def rule(request):
        if request.path == "/stalled":
            stalled.wait(20)
        return Reply(503) if request.path == "/failing" else Reply(body=b"fine")

    web.rule = rule
    try:
        with ThreadPoolExecutor(12) as pool:
            waiting = [pool.submit(get, client, f"{web.url}/stalled") for _ in range(9)]
            other = Client(HttpOptions(retries=1000))
            transport_pause, transport._FIRST_PAUSE = transport._FIRST_PAUSE, 60.0
            pausing = pool.submit(get, other, f"{web.url}/failing")
            while web.most_under_way < 4 or "GET /failing" not in web.asked:
                time.sleep(0.01)
            time.sleep(0.05)
            started = time.perf_counter()
            client.abandon()
            other.abandon()
            for future in [*waiting, pausing]:
                assert isinstance(future.exception(5), NoAnswerError)
            assert time.perf_counter() - started < 2
            transport._FIRST_PAUSE = transport_pause
            assert web.asked.count("GET /stalled") == 4
            assert get(client, f"{web.url}/other").body == b"fine"
    finally:
        failing.set()
        stalled.set()


def test_breaking_off_again_and_again_while_connections_are_made(web):
    client = Client(HttpOptions(connections=16, retries=0))
    over = threading.Event()

    def breaking():
        while not over.is_set():
            client.abandon()

    thread = threading.Thread(target=breaking)
    thread.start()
    try:
        with ThreadPoolExecutor(8) as pool:
            for future in [pool.submit(get, client, f"{web.url}/a") for _ in range(300)]:
                error = future.exception()
                assert error is None or isinstance(error, NoAnswerError), error
    finally:
        over.set()
        thread.join()
    assert get(client, f"{web.url}/a", retries=1).body == b"0123456789"


def test_no_socket_and_no_thread_is_left_behind(web):
    before = threading.active_count()
    client = Client(HttpOptions())
    get(client, f"{web.url}/a")
    client.close()
    assert get(client, f"{web.url}/a").status == 200, "it may be used again"
    del client
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        gc.collect()
    assert [warning.message for warning in caught if warning.category is ResourceWarning] == []
    deadline = time.monotonic() + 5
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() <= before


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def secure(authority):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority.cert_file, authority.key_file)
    with WebStandIn(context=context) as server:
        server.files["/a"] = b"secure"
        yield server


def test_certificates_are_verified(secure, authority, monkeypatch):
    with pytest.raises(NoAnswerError, match=r"its TLS certificate is not trusted \(.+\); name the file of its authority"):
        get(Client(HttpOptions()), f"{secure.url}/a")
    assert get(Client(HttpOptions(verify=str(authority.ca_file))), f"{secure.url}/a").body == b"secure"
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.setenv(name, str(authority.ca_file))
        assert get(Client(HttpOptions()), f"{secure.url}/a").body == b"secure"
        monkeypatch.delenv(name)
    assert secure.asked == ["GET /a"] * 3


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl names the files in such a folder")
def test_a_folder_of_authorities(secure, authority, tmp_path):
    hashed = subprocess.run(
        [shutil.which("openssl"), "x509", "-hash", "-noout", "-in", authority.ca_file],
        capture_output=True,
        text=True,
        check=True,
    )
    (tmp_path / f"{hashed.stdout.strip()}.0").write_bytes(authority.ca_file.read_bytes())
    assert get(Client(HttpOptions(verify=str(tmp_path))), f"{secure.url}/a").body == b"secure"


def test_not_verifying_is_explicit_and_warned_of_once(secure):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        client = Client(HttpOptions(verify=False))
        for _ in range(3):
            assert get(client, f"{secure.url}/a").body == b"secure"
    assert [str(warning.message) for warning in caught] == [
        "TLS certificates are not verified: anyone on the way can change the numbers"
    ]


def test_a_plain_server_for_an_https_address(web, client):
    with pytest.raises(NoAnswerError, match=r"does not speak TLS \(.+\); is it a plain http:// server\?"):
        get(client, f"https://{web.address}/a")
    assert web.requests == []


def test_a_secure_server_that_resets_is_asked_again(secure, authority):
    client = Client(HttpOptions(verify=str(authority.ca_file)))
    secure.rule = in_turn(RESET, Reply(body=b"x" * 50, sent=20, ending="close"))
    assert get(client, f"{secure.url}/a").body == b"secure"


def test_breaking_off_a_secure_request(secure, authority):
    client = Client(HttpOptions(verify=str(authority.ca_file), read_timeout=60))
    secure.rule = lambda _: Reply(after=2)
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(get, client, f"{secure.url}/a")
        while not secure.requests:
            time.sleep(0.01)
        client.abandon()
        assert isinstance(future.exception(1), NoAnswerError)


@pytest.mark.parametrize("content", [None, b"", b"no certificate"])
def test_authorities_that_cannot_be_read(tmp_path, content):
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigurationError, match=r"ca\.pem: no certificates of authorities can be read"):
        Client(HttpOptions(verify=str(path)))


@pytest.fixture
def proxy():
    """A proxy that answers itself."""
    with WebStandIn() as server:
        server.rule = lambda request: Reply(body=f"{request.method} {request.path}".encode())
        yield server


@pytest.mark.parametrize("name", ["HTTP_PROXY", "http_proxy", "ALL_PROXY"])
def test_the_proxy_of_the_environment(web, proxy, client, monkeypatch, name):
    assert get(client, f"{web.url}/a").status == 200
    monkeypatch.setenv(name, proxy.url if name != "http_proxy" else proxy.address)
    assert get(client, f"{web.url}/a").body == f"GET {web.url}/a".encode()
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    assert get(client, f"{web.url}/a").body == b"0123456789"
    monkeypatch.setenv("NO_PROXY", f"elsewhere.example,{web.address}")
    assert get(client, f"{web.url}/a").body == b"0123456789"
    monkeypatch.setenv("NO_PROXY", "127.0.0.1:9")
    assert get(client, f"{web.url}/a").body == f"GET {web.url}/a".encode()


def test_user_and_password_of_a_proxy(web, proxy, client, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", f"http://me:hunter%402@{proxy.address}")
    assert get(client, f"{web.url}/a").status == 200
    login = proxy.requests[0].headers["Proxy-Authorization"].removeprefix("Basic ")
    assert base64.b64decode(login) == b"me:hunter@2"


def test_the_proxy_of_the_environment_is_not_used_where_that_is_not_wanted(web, proxy, monkeypatch):
    for name in ("HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, proxy.url)
    assert get(Client(HttpOptions(proxies=False)), f"{web.url}/a").body == b"0123456789"
    assert proxy.requests == []


def test_a_proxy_that_does_not_answer(web, client, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", f"http://me:{SECRET}@127.0.0.1:1")
    with pytest.raises(NoAnswerError, match="its proxy does not answer; check HTTP_PROXY") as caught:
        get(client, f"{web.url}/a")
    assert SECRET not in shown(caught.value)


def test_a_proxy_of_another_kind(web, client, monkeypatch):
    monkeypatch.setenv("ALL_PROXY", f"socks5h://me:{SECRET}@127.0.0.1:1080")
    with pytest.raises(ConfigurationError, match=r"socks5h://127\.0\.0\.1:1080: is no kind of proxy that is known") as caught:
        get(client, f"{web.url}/a")
    assert SECRET not in shown(caught.value)


def test_queries_are_not_logged_of_ours_but_of_others(web, client, caplog):
    import urllib3

    caplog.set_level(logging.DEBUG)
    address = f"{web.url}/a?X-Amz-Signature={SECRET}"
    get(client, address)
    web.rule = in_turn(Reply(503, ending="close"), Reply(302, {"Location": address}), RESET)
    get(client, address)
    get(client, address)
    assert "GET /a HTTP" in caplog.text
    assert SECRET not in caplog.text
    with urllib3.PoolManager() as theirs:
        theirs.request("GET", f"{web.url}/a?page=2")
    assert "GET /a?page=2" in caplog.text


# What a name leads to


class RefusedError(Exception):
    """Raised for a peer."""


@pytest.fixture
def peers():
    return []


@pytest.fixture
def wary(peers, authority):
    """A client that takes no peer."""

    def refuse(address):
        peers.append(address)
        raise RefusedError(address)

    return Client(HttpOptions(peer_allowed=refuse, verify=str(authority.ca_file)))


def test_peers_are_judged_once_a_connection(web, peers):
    client = Client(HttpOptions(peer_allowed=peers.append))
    for _ in range(3):
        assert get(client, f"http://localhost:{web.address.partition(':')[2]}/a").body == b"0123456789"
    assert peers in (["127.0.0.1"], ["::1", "127.0.0.1"])


def test_nothing_connects_to_a_peer_that_is_not_allowed(wary, peers):
    for scheme in ("http", "https"):
        with socket.create_server(("127.0.0.1", 0)) as listener:
            with pytest.raises(RefusedError):
                get(wary, f"{scheme}://127.0.0.1:{listener.getsockname()[1]}/a")
            listener.settimeout(0.1)
            with pytest.raises(TimeoutError):
                listener.accept()
    assert peers == ["127.0.0.1"] * 2


def test_a_name_is_looked_up_once_and_what_is_judged_is_connected_to(web, peers, monkeypatch):
    """The next look-up would lead elsewhere."""
    usual, asked = socket.getaddrinfo, []

    def led(host, port, *more, **options):
        asked.append(host)
        return usual("127.0.0.1" if asked.count(host) == 1 and host == "store.example" else host, port, *more, **options)

    monkeypatch.setattr(socket, "getaddrinfo", led)
    client = Client(HttpOptions(peer_allowed=peers.append))
    assert get(client, f"http://store.example:{web.address.partition(':')[2]}/a").body == b"0123456789"
    assert (peers, asked.count("store.example")) == (["127.0.0.1"], 1)


def test_of_several_addresses_those_that_are_not_allowed_are_left_out(web, peers, monkeypatch):
    usual = socket.getaddrinfo

    def several(host, *more, **_):
        ips = ("127.0.0.3", "127.0.0.2", "127.0.0.1") if host == "store.example" else (host,)
        return [found for ip in ips for found in usual(ip, *more)]

    def judge(ip):
        peers.append(ip)
        if ip == "127.0.0.3":
            raise RefusedError(ip)

    monkeypatch.setattr(socket, "getaddrinfo", several)
    port = web.address.partition(":")[2]
    # Nothing listens at the second one.
    assert get(Client(HttpOptions(peer_allowed=judge)), f"http://store.example:{port}/a").body == b"0123456789"
    assert peers == ["127.0.0.3", "127.0.0.2", "127.0.0.1"]


def test_a_peer_that_is_not_allowed_leaves_the_client_usable(web, peers):
    def once(address):
        peers.append(address)
        if len(peers) == 1:
            raise RefusedError(address)

    client = Client(HttpOptions(connections=1, peer_allowed=once))
    with pytest.raises(RefusedError):
        get(client, f"{web.url}/a")
    assert get(client, f"{web.url}/a").body == b"0123456789"


def test_an_answer_that_is_too_large_is_an_error_of_its_own(web, client):
    with pytest.raises(AnswerTooLargeError):
        get(client, f"{web.url}/a", most=9)
