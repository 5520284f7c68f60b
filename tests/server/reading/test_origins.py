"""Reading from origins: what is asked, what is taken, what errors become, and what is never reached or said."""

import base64
import logging
import os
import re
import socket
import ssl
import time
import traceback
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from activestore.errors import ConfigurationError
from activestore.network import http_client as transport
from activestore.server.errors import RequestError
from activestore.server.location import Login, Place
from activestore.server.reading.files import AllowedFolders
from activestore.server.reading.origins import Origins, Stored
from activestore.server.settings import ServerSettings
from tests.real.servers import certificates
from tests.web_stand_in import RESET, Reply, WebStandIn

SECRET = "hunter2-secret"  # noqa: S105
LOGIN = Login("hunter2-user", SECRET, "hunter2-token")
CONTENT = bytes(range(256)) * 40


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    """No proxy, no authorities, and no time between retries."""
    for name in list(os.environ):
        if name.lower().endswith("_proxy") or name in {"REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"}:
            monkeypatch.delenv(name)
    monkeypatch.setattr(transport, "_FIRST_PAUSE", 0.001)


@pytest.fixture
def web():
    with WebStandIn() as server:
        server.files["/bucket/a.nc"] = CONTENT
        yield server


@pytest.fixture
def make():
    """Makes origins that are closed when the test ends."""
    made = []

    def origins(*allowed, **settings):
        defaults = {"connect_timeout": 5, "read_timeout": 5}
        made.append(Origins(ServerSettings(origins=allowed, **{**defaults, **settings})))
        return made[-1]

    yield origins
    for one in made:
        one.close()


@pytest.fixture
def origins(make, web):
    return make(web.url)


def at(web: WebStandIn, interface_type: str = "http", path: str = "/bucket/a.nc", login: Login | None = None) -> Place:
    return Place(interface_type, f"{web.url}{path}", login)


def refused(call, *arguments, **options) -> RequestError:
    with pytest.raises(RequestError) as caught:
        call(*arguments, **options)
    assert "hunter2" not in everything(caught.value)
    return caught.value


def everything(error: RequestError) -> str:
    """Return all that an error could be shown as."""
    return "".join(traceback.format_exception(error)) + repr(error) + repr(vars(error)) + str(error)


def in_turn(*replies):
    left = list(replies)
    return lambda _: left.pop(0) if left else None


# Reading


@pytest.mark.parametrize("interface_type", ["s3", "http"])
@pytest.mark.parametrize("login", [None, LOGIN])
def test_size_version_and_ranges(web, origins, interface_type, login):
    place = at(web, interface_type, login=login)
    found = origins.find(place)
    assert found == Stored(len(CONTENT), web.usual(web.requests[0]).headers["ETag"])
    ranges = [(5, 10), (0, 0), (10_000, 240), (10_230, 100), (99_999, 5), (0, len(CONTENT))]
    for version in (None, found.version):
        assert origins.read(place, ranges, version=version) == [CONTENT[offset : offset + size] for offset, size in ranges]
    assert origins.read_to_end(place, 10_000, 240) == CONTENT[10_000:]
    assert origins.read_to_end(place, len(CONTENT) + 5, 10) == b""
    assert origins.read(place, []) == []
    assert [request.method for request in web.requests].count("HEAD") == 3
    assert all("Range" in request.headers for request in web.requests if request.method == "GET")


def test_one_range_after_the_other_over_one_connection(web, origins):
    origins.read(at(web), [(9, 1), (3, 1), (5, 1)])
    assert [request.range for request in web.requests] == [(9, 9), (3, 3), (5, 5)]
    assert web.connections == 1


def test_many_threads_and_no_more_connections_than_allowed(web, make):
    origins = make(web.url, readers=3)
    web.rule = lambda _: time.sleep(0.01)
    with ThreadPoolExecutor(8) as pool:
        found = pool.map(lambda offset: origins.read(at(web), [(offset, 3)])[0], range(40))
        assert list(found) == [CONTENT[offset : offset + 3] for offset in range(40)]
    assert web.most_open <= 3


def test_https_with_an_authority_of_its_own(tmp_path, make):
    authority = certificates(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority.cert_file, authority.key_file)
    with WebStandIn(context=context) as server:
        server.files["/a"] = b"secure"
        place = at(server, "https", "/a")
        assert make(server.url, verify=str(authority.ca_file)).read(place, [(0, 6)]) == [b"secure"]
        error = refused(make(server.url).read, place, [(0, 6)])
        assert (error.status, error.kind) == (502, "origin")
        assert "certificate is not trusted" in error.message
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            unverified = make(server.url, verify=False)
        assert unverified.find(place).size == 6


@pytest.mark.parametrize(
    "rule", [Reply(403), Reply(405), Reply(501), Reply(200, {"Content-Length": "0"}), Reply(200, length=False)]
)
def test_servers_that_do_not_answer_head_as_they_should(web, origins, rule):
    web.rule = lambda request: rule if request.method == "HEAD" else None
    assert origins.find(at(web)).size == len(CONTENT)


def test_an_object_without_bytes(web, origins):
    web.files["/bucket/a.nc"] = b""
    assert origins.find(at(web)).size == 0
    assert origins.read(at(web), [(0, 10)]) == [b""]
    assert origins.read_to_end(at(web), 0, 10) == b""


@pytest.mark.parametrize(
    ("headers", "version"),
    [
        ({"ETag": '"abc"'}, '"abc"'),
        ({"ETag": 'W/"abc"'}, 'W/"abc"'),
        ({"ETag": '""'}, f"Wed, 01 Jan 2020 00:00:00 GMT {len(CONTENT)}"),
        ({"ETag": ""}, f"Wed, 01 Jan 2020 00:00:00 GMT {len(CONTENT)}"),
        ({"ETag": "", "Last-Modified": ""}, ""),
    ],
)
def test_versions(web, origins, headers, version):
    web.headers = headers
    assert origins.find(at(web)).version == version
    assert origins.read(at(web), [(3, 4)], version=version) == [CONTENT[3:7]]
    assert web.requests[-1].headers.get("If-Match") == ('"abc"' if version == '"abc"' else None)


def test_servers_that_know_no_ranges(web, origins):
    web.rule = lambda _: Reply(200, {"ETag": '"v"'}, CONTENT)
    assert origins.read(at(web), [(5, 3), (10_230, 100)]) == [CONTENT[5:8], CONTENT[10_230:]]
    web.rule = lambda _: Reply(200, {"ETag": '"v"'}, bytes(2 << 20))
    error = refused(origins.read, at(web), [(5, 3)])
    assert (error.status, error.kind) == (400, "origin")
    assert "does not know byte ranges" in error.message


def test_more_than_may_be_read_to_the_end(web, origins):
    error = refused(origins.read_to_end, at(web), 40, 10_199)
    assert error.status == 400
    assert error.message == "the object has 10,200 bytes from 40 on, more than 10,199; say how many to read"
    assert web.asked == ["HEAD /bucket/a.nc"]


@pytest.mark.parametrize("one", [(-1, 5), (0, -1), (0, (256 << 20) + 1)])
def test_ranges_that_are_none(web, origins, tmp_path, make, one):
    assert refused(origins.read, at(web), [(0, 1), one]).status == 400
    assert web.requests == []
    (tmp_path / "a").write_bytes(b"x")
    assert refused(make(roots=(tmp_path,)).read, Place("file", f"file://{tmp_path}/a"), [one]).status == 400


# What origins answer


@pytest.mark.parametrize(
    "reply",
    [
        Reply(206, {}, b"abcd"),
        Reply(206, {"Content-Range": "bytes 4-7/100"}, b"abcd"),
        Reply(206, {"Content-Range": "bytes 5-9/100"}, b"abcd"),
        Reply(206, {"Content-Range": "bytes 3-8/100"}, b"abcd"),
        Reply(206, {"Content-Range": "bytes 5-8/100"}, b"abcde"),
        Reply(206, {"Content-Range": "bytes 5-9/100"}, b"abcde"),
        Reply(206, {"Content-Range": "bytes 5-6/100"}, b"ab"),
        Reply(206, {"Content-Range": "bytes 5-6/*"}, b"ab"),
        Reply(206, {"Content-Range": "bytes 5-4/100"}, b""),
        Reply(206, {"Content-Range": "items 5-8/100"}, b"abcd"),
        Reply(206, {"Content-Range": "bytes 5-8"}, b"abcd"),
        Reply(206, {"Content-Range": f"bytes {'5' * 5000}-8/100"}, b"abcd"),
        Reply(206, {"Content-Type": "multipart/byteranges; boundary=x"}, b"--x"),
        Reply(416, {"Content-Range": "bytes */100"}),
    ],
)
def test_bytes_that_were_not_asked_for_are_not_taken(web, origins, reply):
    web.rule = lambda _: reply
    error = refused(origins.read, at(web), [(5, 4)])
    assert (error.status, error.kind) == (400, "origin")


def test_the_size_has_to_be_told(web, origins):
    web.rule = lambda request: Reply(405) if request.method == "HEAD" else Reply(206, {"Content-Range": "bytes 0-0/*"}, b"a")
    assert "does not tell how large" in refused(origins.find, at(web)).message


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308, 304])
def test_redirects_are_not_followed(web, make, status):
    with WebStandIn() as elsewhere:
        origins = make(web.url, elsewhere.url)
        web.rule = lambda _: Reply(status, {"Location": f"{elsewhere.url}/bucket/a.nc?hunter2"})
        for call, more in ((origins.find, ()), (origins.read, ([(0, 1)],))):
            for interface_type in ("http", "s3"):
                error = refused(call, at(web, interface_type, login=LOGIN), *more)
                assert (error.status, error.kind) == (400, "origin")
                assert str(status) in error.message
                assert "redirects are not followed" in error.message
        assert elsewhere.connections == 0


def test_the_region_of_a_bucket_is_passed_on(web, origins):
    web.rule = lambda _: Reply(301, {"x-amz-bucket-region": "eu-west-2"}, xml("PermanentRedirect", "Use another endpoint."))
    assert "its bucket is in the region eu-west-2" in refused(origins.read, at(web, "s3"), [(0, 1)]).message


def xml(code: str, message: str = "") -> bytes:
    return f'<?xml version="1.0"?>\n<Error><Code>{code}</Code><Message>{message}</Message><Key>x</Key></Error>'.encode()


@pytest.mark.parametrize(
    ("answer", "status", "kind", "said"),
    [
        (Reply(404, body=xml("NoSuchKey", "The key is not there.")), 400, "origin", ("NoSuchKey", "The key is not there.")),
        (Reply(404, body=xml("NoSuchBucket", "No.")), 400, "origin", ("NoSuchBucket", "No.")),
        (Reply(404), 400, "origin", ("NoSuchKey", "The specified key does not exist.")),
        (Reply(404, body=b"<h1>Not found</h1>"), 400, "origin", ("NoSuchKey", "The specified key does not exist.")),
        (Reply(403, body=xml("AccessDenied", "Access Denied.")), 401, "unauthorized", ("AccessDenied", "Access Denied.")),
        (Reply(403), 401, "unauthorized", ("AccessDenied", "Access Denied")),
        (Reply(401), 401, "unauthorized", ("AccessDenied", "Access Denied")),
        (
            Reply(403, body=xml("SignatureDoesNotMatch", "It &amp; does")),
            401,
            "unauthorized",
            ("SignatureDoesNotMatch", "It & does"),
        ),
        (Reply(403, body=xml("InvalidAccessKeyId", "No")), 401, "unauthorized", ("InvalidAccessKeyId", "No")),
        (Reply(404, body=xml("InvalidAccessKeyId", "No")), 401, "unauthorized", ("InvalidAccessKeyId", "No")),
        (Reply(403, body=xml("AllAccessDisabled")), 401, "unauthorized", ("AllAccessDisabled",)),
        (Reply(400, body=xml("ExpiredToken", "Expired")), 401, "unauthorized", ("ExpiredToken", "Expired")),
        (Reply(403, body=xml("InvalidObjectState", "Archived")), 400, "origin", ("InvalidObjectState", "Archived")),
        (Reply(400, body=xml("InvalidRequest", "No")), 400, "origin", ("InvalidRequest", "No")),
        (Reply(500, body=xml("InternalError", "Oh")), 502, "origin", ("InternalError", "Oh")),
        (Reply(503, body=xml("SlowDown", "Oh")), 502, "origin", ("SlowDown", "Oh")),
        (Reply(429), 502, "origin", ()),
        (Reply(418), 400, "origin", ()),
        (Reply(599), 502, "origin", ()),
        (Reply(400, body=xml("A" * 65, "a\nb\x1bc")), 400, "origin", ("abc",)),
        (Reply(400, body=xml("A", "x" * 600)), 400, "origin", ("A", "x" * 500)),
        (Reply(400, body=b"x" * (1 << 20) + xml("A", "B")), 400, "origin", ()),
        (Reply(400, body=xml("A", f"{SECRET} hunter2-token of hunter2-user")), 400, "origin", ("A", "*** *** of ***")),
        (Reply(400, body=xml("A", "hunter2\x00-secret")), 400, "origin", ("A", "***")),
        (Reply(400, body=xml(SECRET, "B")), 400, "origin", ("B",)),
    ],
)
def test_errors_of_a_store(web, origins, answer, status, kind, said):
    web.rule = lambda _: answer
    for call, more in ((origins.find, ()), (origins.read, ([(0, 1)],))):
        error = refused(call, at(web, "s3", login=LOGIN), *more)
        assert (error.status, error.kind) == (status, kind)
        assert f"{web.url}/bucket/a.nc: the origin answers {answer.status}" in error.message
        if call == origins.read or answer.status < 500:
            assert error.caused_by == said


@pytest.mark.parametrize(
    ("answer", "status"), [(401, 400), (403, 400), (404, 400), (410, 400), (418, 400), (500, 502), (503, 502)]
)
def test_errors_of_a_web_server(web, origins, answer, status):
    web.rule = lambda _: Reply(answer, body=xml("Code", SECRET))
    for call, more in ((origins.find, ()), (origins.read, ([(0, 1)],))):
        error = refused(call, at(web, path="/bucket/a.nc?sig=hunter2", login=LOGIN), *more)
        assert (error.status, error.kind, error.caused_by) == (status, "origin", ())
        assert f"HTTP request error: {web.url}/bucket/a.nc: the origin answers {answer} " in error.message


@pytest.mark.parametrize(
    "reply", [Reply(503), RESET, Reply(206, {"Content-Range": "bytes 0-0/9"}, b"a", sent=0, ending="close")]
)
def test_what_may_pass_is_tried_again_twice(web, origins, reply):
    web.rule = in_turn(reply, reply)
    assert origins.read(at(web), [(0, 1)]) == [CONTENT[:1]]
    web.rule = in_turn(*[reply] * 3)
    error = refused(origins.read, at(web, login=LOGIN), [(0, 1)])
    assert (error.status, error.kind) == (502, "origin")
    assert len(web.requests) == 6


def test_an_origin_that_is_silent(web, make):
    web.rule = lambda _: Reply(after=1)
    error = refused(make(web.url, read_timeout=0.05).read, at(web, "s3", login=LOGIN), [(0, 1)])
    assert (error.status, error.kind) == (502, "origin")
    assert "no answer within the time limit" in error.message


def test_an_origin_that_is_not_there(make):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    place = Place("http", f"http://127.0.0.1:{port}/a?hunter2", LOGIN)
    error = refused(make(f"http://127.0.0.1:{port}").find, place)
    assert (error.status, error.message) == (
        502,
        f"http://127.0.0.1:{port}/a: nothing listens there; check the address and whether the server runs",
    )


def test_a_name_that_nobody_has(make):
    error = refused(make("http://store.invalid").find, Place("http", "http://store.invalid/a", LOGIN))
    assert (error.status, error.kind) == (502, "origin")


# Versions


def test_another_version_is_an_error(web, origins):
    old = origins.find(at(web)).version
    web.files["/bucket/a.nc"] = b"new"
    error = refused(origins.read, at(web), [(0, 1)], version=old)
    assert (error.status, error.kind) == (409, "origin")
    assert "has changed" in error.message


@pytest.mark.parametrize("etag", ["weak", "none"])
def test_another_version_where_the_origin_does_not_compare(web, origins, etag):
    web.headers = {"ETag": 'W/"1"'} if etag == "weak" else {"ETag": ""}
    old = origins.find(at(web)).version
    web.headers = {"ETag": 'W/"2"'} if etag == "weak" else {"ETag": "", "Last-Modified": "Thu, 02 Jan 2020 00:00:00 GMT"}
    assert refused(origins.read, at(web), [(0, 1)], version=old).status == 409


def test_an_origin_that_ignores_what_it_should_match(web, origins):
    web.rule = lambda _: Reply(206, {"ETag": '"2"', "Content-Range": "bytes 0-0/9"}, b"a")
    assert refused(origins.read, at(web), [(0, 1)], version='"1"').status == 409


def test_parts_of_two_versions_are_never_mixed(web, origins):
    def replace(request):
        if len(web.requests) == 2:
            web.files["/bucket/a.nc"] = b"new" * 5000

    web.rule = replace
    assert refused(origins.read, at(web), [(0, 4), (4, 4)]).status == 409


def test_an_object_that_is_removed_while_it_is_read(web, origins):
    version = origins.find(at(web, "s3")).version
    del web.files["/bucket/a.nc"]
    error = refused(origins.read, at(web, "s3"), [(0, 4)], version=version)
    assert (error.status, error.caused_by[0]) == (400, "NoSuchKey")


# Logins


def test_the_login_of_an_s3_store_signs_and_is_not_kept(web, origins, caplog):
    caplog.set_level(logging.DEBUG)
    place = Place("s3", f"{web.url}/bucket/a.nc", LOGIN, region="eu-west-2")
    origins.read(place, [(0, 1)])
    headers = web.requests[0].headers
    assert re.match(
        r"AWS4-HMAC-SHA256 Credential=hunter2-user/\d{8}/eu-west-2/s3/aws4_request, "
        r"SignedHeaders=host;x-amz-content-sha256;x-amz-date;x-amz-security-token, Signature=[0-9a-f]{64}$",
        headers["Authorization"],
    )
    assert headers["X-Amz-Security-Token"] == "hunter2-token"
    assert "hunter2" not in caplog.text
    assert headers["Authorization"].rpartition("=")[2] not in caplog.text
    origins.read(at(web, "s3"), [(0, 1)])
    assert "Authorization" not in web.requests[1].headers
    assert SECRET not in repr(vars(origins)) + repr(vars(origins._client))


def test_the_host_is_signed_as_it_is_sent(make, web, monkeypatch):
    monkeypatch.setattr(socket, "getaddrinfo", led_to("127.0.0.1", socket.getaddrinfo))
    port = web.url.rpartition(":")[2]
    origins = make(f"http://store.example:{port}")
    origins.read(Place("s3", f"HTTP://STORE.example.:{port}/bucket/a%2enc", LOGIN), [(0, 1)])
    assert web.requests[0].headers["Host"] == f"store.example:{port}"
    assert web.requests[0].path == "/bucket/a.nc"


def test_the_login_of_a_web_server(web, origins):
    for password in ("hunter2", "é:€", ""):
        origins.read(at(web, login=Login("me", password)), [(0, 1)])
        said = web.requests[-1].headers["Authorization"].removeprefix("Basic ")
        assert base64.b64decode(said).decode() == f"me:{password}"
    origins.read(at(web), [(0, 1)])
    assert "Authorization" not in web.requests[-1].headers


@pytest.mark.parametrize(
    "login",
    [
        Login("hunter2\r\nX-Evil: 1", "p"),
        Login("hunter2é", "p"),
        Login("u", "hunter2\n"),
        Login("u", "hunter2\ud800"),
        Login("u", "p", "hunter2\nX-Evil: 1"),
        Login("u", "p", "hunter2€"),
    ],
)
def test_logins_that_no_header_holds(web, origins, login):
    error = refused(origins.find, at(web, "s3", login=login))
    assert (error.status, error.kind) == (401, "unauthorized")
    assert web.requests == []
    origins.find(at(web, login=login))  # as Basic authentication it is encoded
    assert "X-Evil" not in web.requests[0].headers


# What may not be reached


def led_to(ip: str, usual):
    """Return a look-up of names that finds this address for store.example."""

    def look_up(host, port, *more, **options):
        return usual(ip if host == "store.example" else host, port, *more, **options)

    return look_up


@pytest.mark.parametrize("ip", ["169.254.169.254", "fe80::1", "100.100.100.200", "::ffff:169.254.169.254", "0.0.0.0"])  # noqa: S104
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_name_that_leads_to_a_forbidden_address_is_not_connected_to(make, monkeypatch, ip, scheme):
    """The name is allowed, and by the time it is looked up it leads elsewhere."""
    connected = []
    family = socket.AF_INET6 if ":" in ip else socket.AF_INET
    found = [(family, socket.SOCK_STREAM, 6, "", (ip, 80))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    monkeypatch.setattr(socket.socket, "connect", lambda _, address: connected.append(address))
    origins = make(f"{scheme}://store.example")
    for interface_type in (scheme, "s3"):
        error = refused(origins.find, Place(interface_type, f"{scheme}://store.example/bucket/a", LOGIN))
        assert (error.status, error.kind) == (403, "forbidden")
        assert "which is never connected to" in error.message
        assert ip not in error.message
    assert connected == []


def test_rebinding_between_two_requests(make, web, monkeypatch):
    """The first look-up leads to a good address, the next to one that is unspecified, which is this machine."""
    port = web.url.rpartition(":")[2]
    usual, origins = socket.getaddrinfo, make(f"http://store.example:{port}")
    place = Place("http", f"http://store.example:{port}/bucket/a.nc")
    monkeypatch.setattr(socket, "getaddrinfo", led_to("127.0.0.1", usual))
    assert origins.read(place, [(0, 1)]) == [CONTENT[:1]]
    asked = len(web.requests)
    origins.close()
    monkeypatch.setattr(
        "activestore.server.reading.origins.forbidden_address", lambda ip: "moved" if ip == "127.0.0.1" else None
    )
    error = refused(origins.read, place, [(0, 1)])
    assert (error.status, len(web.requests)) == (403, asked)


@pytest.mark.parametrize("name", ["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "ALL_PROXY"])
def test_proxies_of_the_environment_are_not_used(web, origins, monkeypatch, name):
    with WebStandIn() as proxy:
        monkeypatch.setenv(name, proxy.url)
        assert origins.read(at(web), [(0, 1)]) == [CONTENT[:1]]
        assert proxy.connections == 0


def test_what_is_not_allowed_is_not_asked(web, make):
    origins = make("http://127.0.0.1:1", f"{web.url}/public")
    for call, more in ((origins.find, ()), (origins.read, ([(0, 1)],)), (origins.read_to_end, (0, 9)), (origins.check, ())):
        for interface_type in ("http", "s3"):
            error = refused(call, at(web, interface_type, login=LOGIN), *more)
            assert (error.status, error.kind) == (403, "forbidden")
    assert web.connections == 0


def test_interface_types(make, tmp_path):
    assert make().interface_types == ()
    assert make("https://a.example").interface_types == ("s3", "https")
    assert make("http://a.example", roots=(tmp_path,)).interface_types == ("s3", "http", "file")
    assert make(roots=(tmp_path,)).interface_types == ("file",)


def test_reads_that_are_broken_off(web, origins):
    web.rule = lambda _: Reply(after=2)
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(origins.read, at(web), [(0, 1)])
        while not web.requests:
            time.sleep(0.01)
        origins.abandon()
        error = future.exception(1)
    assert isinstance(error, RequestError)
    assert error.status == 502


@pytest.mark.parametrize("allowed", ["http://127.0.0.1:9000", "https://store.example"])
def test_settings_that_are_wrong(tmp_path, allowed):
    for wrong in ({"origins": (allowed, "store.example")}, {"origins": (allowed,), "roots": (tmp_path / "none",)}):
        with pytest.raises(ConfigurationError):
            Origins(ServerSettings(**wrong))
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ConfigurationError, match="is no folder"):
        Origins(ServerSettings(roots=(tmp_path / "file",)))


# Files


def planted(folder: Path) -> Path:
    """Return a root with files, folders and links, made in a folder with what lies beside it."""
    root, beside = folder / "root", folder / "root-beside"
    (root / "folder" / "inner").mkdir(parents=True)
    beside.mkdir()
    (beside / "secret.nc").write_bytes(b"OUTSIDE")
    (root / "a.nc").write_bytes(CONTENT)
    (root / "folder" / "b c+%é.nc").write_bytes(b"INSIDE")
    (root / "link.nc").symlink_to(root / "a.nc")
    (root / "inner").symlink_to("folder/inner")
    (root / "up").symlink_to("..")
    (root / "out").symlink_to(beside)
    (root / "out.nc").symlink_to(beside / "secret.nc")
    (root / "dangling").symlink_to(root / "nothing")
    (root / "dangling-out").symlink_to(beside / "nothing")
    (root / "loop").symlink_to("loop")
    (folder / "named").symlink_to(root)
    return root


@pytest.fixture
def tree(tmp_path):
    return planted(tmp_path)


@pytest.fixture(scope="module")
def lasting_tree(tmp_path_factory):
    return planted(tmp_path_factory.mktemp("tree"))


@pytest.fixture
def files(make, tree):
    return make(roots=(tree,))


def of(path: object) -> Place:
    return Place("file", f"file://{path}")


def test_size_version_and_ranges_of_a_file(tree, files):
    found = files.find(of(tree / "a.nc"))
    assert found.size == len(CONTENT)
    ranges = [(5, 10), (0, 0), (10_230, 100), (99_999, 5), (0, 1 << 24)]
    expected = [CONTENT[offset : offset + size] for offset, size in ranges]
    assert files.read(of(tree / "a.nc"), ranges) == files.read(of(tree / "a.nc"), ranges, version=found.version) == expected
    assert files.read_to_end(of(tree / "a.nc"), 10_000, 240) == CONTENT[10_000:]
    assert files.read(of(tree / "a.nc"), []) == []


@pytest.mark.parametrize("path", ["a.nc", "link.nc", "folder/b c+%é.nc", "folder//b c+%é.nc"])
def test_files_inside(tree, files, path):
    for url in (f"file://{quote(f'{tree}/{path}')}", f"FILE://{quote(f'{tree}/{path}', safe='').replace('%2F', '/', 1)}"):
        assert files.find(Place("file", url)).size in (6, len(CONTENT))


def test_a_root_that_is_reached_by_a_link(tree, make):
    for root, path in ((tree.parent / "named", tree), (tree, tree), (tree.parent / "named", tree.parent / "named")):
        assert make(roots=(root,)).find(of(path / "a.nc")).size == len(CONTENT)


def test_several_roots(tree, make):
    beside = tree.parent / "root-beside"
    files = make(roots=(tree, beside))
    assert files.read(of(tree / "out.nc"), [(0, 9)]) == files.read(of(beside / "secret.nc"), [(0, 9)]) == [b"OUTSIDE"]


@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd",
        "/etc/nothing-there",
        "/",
        "",
        "//etc/passwd",
        "{root}-beside/secret.nc",
        "{root}-beside/nothing",
        "{root}-beside",
        "{root}/out/secret.nc",
        "{root}/out/nothing",
        "{root}/out",
        "{root}/out.nc",
        "{root}/dangling-out",
        "{root}/up/root-beside/secret.nc",
        "{root}/up/nothing",
        "{root}/up",
        "{parent}",
        "/proc/self/environ",
        "/proc/self/root{root}/a.nc",
        "{root}x/a.nc",
    ],
)
def test_what_lies_outside_is_forbidden_whether_it_is_there_or_not(tree, files, path):
    url = path.format(root=tree, parent=tree.parent)
    if not url:
        return
    for call, more in ((files.find, ()), (files.read, ([(0, 1)],)), (files.read_to_end, (0, 9))):
        error = refused(call, of(url), *more)
        assert (error.status, error.kind, error.caused_by) == (403, "forbidden", ())
        assert error.message == (
            f"file://{url}: this server may not read files from there; its operator can allow a folder with --root FOLDER"
        )


@pytest.mark.parametrize(
    "url",
    [
        "file://localhost{root}/a.nc",
        "file://evil.example{root}/a.nc",
        "file:{root}/a.nc",
        "{root}/a.nc",
        "file://{root}/a.nc?x",
        "file://{root}/a.nc#x",
        "file://{root}/../root-beside/secret.nc",
        "file://{root}/%2e%2e/root-beside/secret.nc",
        "file://{root}/%2e%2E%2froot-beside/secret.nc",
        "file://{root}/..%2froot-beside/secret.nc",
        "file://{root}/%252e%252e/root-beside/secret.nc",
        "file://{root}/./a.nc",
        "file://{root}/folder\\..\\a.nc",
        "file://{root}/a.nc%00.txt",
        "file://{root}/a.nc\x00",
        "file://{root}/a%0a",
        "file://{root}/100%",
        "http://store.example{root}/a.nc",
        "",
    ],
)
def test_what_is_no_address_of_a_file(tree, files, url):
    error = refused(files.find, Place("file", url.format(root=tree)))
    assert (error.status, error.kind) == (400, "request")


@pytest.mark.parametrize("path", ["nothing", "folder/nothing", "a.nc/x", "dangling", "loop/x", "x" * 300])
def test_what_is_not_there_inside(tree, files, path):
    error = refused(files.find, of(tree / path))
    assert (error.status, error.kind) == (400, "origin")
    assert "there is no such file" in error.message
    assert "NoSuchKey" in error.caused_by[0]


def test_a_file_that_has_no_readers(tree, files, monkeypatch):
    def denied(*_, **__):
        raise PermissionError(13, "hunter2")

    monkeypatch.setattr(os, "open", denied)
    error = refused(files.find, of(tree / "a.nc"))
    assert (error.status, error.kind) == (403, "forbidden")


def test_a_disk_that_fails(tree, files, monkeypatch):
    def fails(*_):
        raise OSError(5, "hunter2")

    monkeypatch.setattr(os, "pread", fails)
    error = refused(files.read, of(tree / "a.nc"), [(0, 1)])
    assert (error.status, error.kind) == (502, "origin")


@pytest.mark.parametrize("kind", ["pipe", "socket", "folder", "root", "device"])
def test_what_is_no_regular_file_is_refused_at_once(tree, make, kind):
    path, roots = tree / kind, (tree,)
    server = socket.socket(socket.AF_UNIX)
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        here = os.open(tree, os.O_RDONLY)
        server.bind(f"/proc/self/fd/{here}/socket")
        os.close(here)
    elif kind == "root":
        path = tree
    elif kind == "device":
        path, roots = "/dev/zero", ("/dev",)
    files = make(roots=roots)
    began = time.monotonic()
    for call, more in ((files.find, ()), (files.read, ([(0, 1)],))):
        error = refused(call, of(path), *more)
        assert (error.status, error.kind) == (400, "origin")
        assert "is no regular file" in error.message
    assert time.monotonic() - began < 1
    server.close()


def test_pread_may_give_less_than_was_asked_for(tree, files, monkeypatch):
    usual = os.pread
    monkeypatch.setattr(os, "pread", lambda descriptor, size, offset: usual(descriptor, min(size, 7), offset))
    assert files.read(of(tree / "a.nc"), [(3, 100)]) == [CONTENT[3:103]]


def test_a_file_that_is_replaced_between_two_reads(tree, files):
    version = files.find(of(tree / "a.nc")).version
    (tree / "new").write_bytes(CONTENT)
    (tree / "new").rename(tree / "a.nc")
    assert refused(files.read, of(tree / "a.nc"), [(0, 1)], version=version).status == 409


@pytest.mark.parametrize("change", ["written", "cut", "replaced"])
def test_a_file_that_changes_while_it_is_read(tree, files, monkeypatch, change):
    usual, path = os.pread, tree / "a.nc"

    def reads(descriptor, size, offset):
        if offset == 4 and change == "written":
            os.utime(path, ns=(1, 1))
        elif offset == 4 and change == "cut":
            os.truncate(path, 2)
        elif offset == 4:
            (tree / "new").write_bytes(b"NEW" * 5000)
            (tree / "new").rename(path)
        return usual(descriptor, size, offset)

    monkeypatch.setattr(os, "pread", reads)
    if change == "replaced":  # what was opened is still the old one
        assert files.read(of(path), [(0, 4), (4, 4)]) == [CONTENT[:4], CONTENT[4:8]]
    else:
        assert refused(files.read, of(path), [(0, 4), (4, 4)]).status == 409


@pytest.mark.parametrize("part", ["folder", "file"])
def test_a_link_that_is_put_in_after_the_path_was_resolved(tree, files, monkeypatch, part):
    """What was found to be inside is swapped for a link that leads out before it is opened."""
    usual, beside = os.path.realpath, tree.parent / "root-beside"
    (tree / "folder" / "secret.nc").write_bytes(b"INSIDE")

    def resolved(path, **options):
        found = usual(path, **options)
        if found.endswith("/folder/secret.nc"):
            if part == "folder":
                (tree / "folder").rename(tree / "moved")
                (tree / "folder").symlink_to(beside)
            else:
                (tree / "folder" / "secret.nc").unlink()
                (tree / "folder" / "secret.nc").symlink_to(beside / "secret.nc")
        return found

    monkeypatch.setattr(os.path, "realpath", resolved)
    error = refused(files.read, of(tree / "folder" / "secret.nc"), [(0, 9)])
    assert error.status == 400


def test_a_link_that_is_put_in_after_the_file_was_looked_at(tree, files, monkeypatch):
    usual, path = os.stat, tree / "a.nc"

    def looked_at(name, **options):
        found = usual(name, **options)
        if name == "a.nc" and "dir_fd" in options:
            path.unlink()
            path.symlink_to(tree.parent / "root-beside" / "secret.nc")
        return found

    monkeypatch.setattr(os, "stat", looked_at)
    assert refused(files.read, of(path), [(0, 9)]).status == 400


def test_no_descriptor_is_left_open(tree, files):
    def left():
        return len(os.listdir("/proc/self/fd"))

    before = left()
    for path in ("a.nc", "nothing", "folder", "out.nc", "folder/nothing", "a.nc/x"):
        for _ in range(3):
            try:
                files.read(of(tree / path), [(0, 1)])
            except RequestError:
                continue
    assert left() == before


_NAMES = ["a.nc", "folder", "inner", "up", "out", "out.nc", "link.nc", "root", "root-beside", "secret.nc", "loop", "named"]
_STEPS = st.sampled_from(
    [*_NAMES, "dangling-out", "b%20c%2B%25%C3%A9.nc", "..", ".", "", "%2e%2e", "%2E.", "..%2f", "%2f", "\\", "..;"]
)


@given(steps=st.lists(_STEPS, max_size=7), begin=st.sampled_from(["/root/", "/", "/named/", "/../", "/root"]))
def test_no_path_leads_out_of_a_root(lasting_tree, steps, begin):
    place = of(f"{lasting_tree.parent}{begin}{'/'.join(steps)}")
    try:
        read = AllowedFolders([lasting_tree]).read(place, [(0, 1 << 20)])
    except RequestError:
        return
    assert read[0] in (CONTENT, b"INSIDE")
