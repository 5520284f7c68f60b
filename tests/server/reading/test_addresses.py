"""Which addresses may be read: the allowed ones however they are written, no other, and some never."""

import ipaddress
import re
import string
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from activestore.errors import ConfigurationError
from activestore.server.errors import RequestError
from activestore.server.location import Place
from activestore.server.reading.addresses import AllowedOrigins, WebAddress, forbidden_address

ALLOWED = AllowedOrigins(
    ["https://store.example", "http://127.0.0.1:9000", "http://data.example/public", "http://[2001:db8::1]"]
)


def permitted(url: str, interface_type: str | None = None, allowed: AllowedOrigins = ALLOWED) -> WebAddress:
    return allowed.permitted(Place(url.lower().partition(":")[0] if interface_type is None else interface_type, url))


def refused(url: str, interface_type: str | None = None, allowed: AllowedOrigins = ALLOWED) -> RequestError:
    with pytest.raises(RequestError) as caught:
        permitted(url, interface_type, allowed)
    return caught.value


# What is allowed


@pytest.mark.parametrize(
    ("url", "sent"),
    [
        ("https://store.example/a.nc", "https://store.example/a.nc"),
        ("HTTPS://Store.EXAMPLE/a.nc", "https://store.example/a.nc"),
        ("https://store.example./a.nc", "https://store.example/a.nc"),
        ("https://store.example:443/a.nc", "https://store.example/a.nc"),
        ("https://store.example:/a.nc", "https://store.example/a.nc"),
        ("https://store.example:00443/a.nc", "https://store.example/a.nc"),
        ("https://store.example", "https://store.example/"),
        ("https://store.example?q", "https://store.example/?q"),
        ("https://store.example/a.nc?sig=%2f+x&b", "https://store.example/a.nc?sig=%2f+x&b"),
        ("https://\uff53tore.example/a.nc", "https://store.example/a.nc"),
        ("https://store。example/a.nc", "https://store.example/a.nc"),
        ("http://127.0.0.1:9000/a//b", "http://127.0.0.1:9000/a//b"),
        ("http://data.example/public/a.nc", "http://data.example/public/a.nc"),
        ("http://data.example/%70ublic/a.nc", "http://data.example/%70ublic/a.nc"),
        ("http://data.example/public", "http://data.example/public"),
        ("http://[2001:DB8:0::1]:80/a.nc", "http://[2001:db8::1]/a.nc"),
        ("https://store.example/a b[1].nc", "https://store.example/a%20b%5B1%5D.nc"),
        ("https://store.example/a%20b%c3%a9.nc", "https://store.example/a%20b%C3%A9.nc"),
        ("https://store.example/é.nc", "https://store.example/%C3%A9.nc"),
        ("https://store.example/...nc/..a/a..", "https://store.example/...nc/..a/a.."),
    ],
)
def test_an_allowed_address_is_sent_in_one_form(url, sent):
    assert permitted(url).url == sent


@pytest.mark.parametrize(
    ("url", "sent"),
    [
        ("https://store.example/bucket/a b+c.nc", "/bucket/a%20b%2Bc.nc"),
        ("https://store.example/bucket/a%20b%2bc.nc", "/bucket/a%20b%2Bc.nc"),
        ("https://store.example/bucket/100%25.nc", "/bucket/100%25.nc"),
        ("https://store.example/bucket/%C3%A9€", "/bucket/%C3%A9%E2%82%AC"),
        ("https://store.example/bucket//a//", "/bucket//a//"),
        ("https://store.example/bucket/a!b(c)'*~=&:@,;$_.-", "/bucket/a%21b%28c%29%27%2A~%3D%26%3A%40%2C%3B%24_.-"),
        ("https://store.example/bucket/a%2Fb", "/bucket/a/b"),
        ("https://store.example/bucket/test--shape-[10, 5, 2]-etc.bin", "/bucket/test--shape-%5B10%2C%205%2C%202%5D-etc.bin"),
    ],
)
def test_the_key_of_an_s3_object_is_encoded_as_it_is_signed(url, sent):
    assert permitted(url, "s3").path == sent


def test_interface_types():
    assert AllowedOrigins([]).interface_types == ()
    assert AllowedOrigins(["http://a.example"]).interface_types == ("s3", "http")
    assert AllowedOrigins(["https://a.example"]).interface_types == ("s3", "https")
    assert ALLOWED.interface_types == ("s3", "http", "https")


def test_names_in_other_scripts():
    allowed = AllowedOrigins(["https://bücher.example"])
    for host in ("bücher.example", "BÜCHER.example.", "xn--bcher-kva.example", "XN--BCHER-KVA.EXAMPLE"):
        assert permitted(f"https://{host}/a", allowed=allowed).host == "xn--bcher-kva.example"
    assert refused("https://bucher.example/a", allowed=allowed).status == 403


# What is not


@pytest.mark.parametrize(
    "url",
    [
        "https://evil.example/a.nc",
        "http://store.example/a.nc",  # another scheme
        "https://store.example:8443/a.nc",
        "https://store.example.evil.example/a.nc",
        "https://evilstore.example/a.nc",
        "https://sub.store.example/a.nc",
        "https://store.examplee/a.nc",
        "https://example/a.nc",
        "https://st\u03bfre.example/a.nc",  # a Greek letter
        "http://127.0.0.1/a.nc",
        "http://127.0.0.1:9001/a.nc",
        "http://localhost:9000/a.nc",
        "http://2130706433:9000/a.nc",
        "http://0x7f000001:9000/a.nc",
        "http://0x7f.0.0.1:9000/a.nc",
        "http://0177.0.0.1:9000/a.nc",
        "http://017700000001:9000/a.nc",
        "http://127.1:9000/a.nc",
        "http://127.0.1:9000/a.nc",
        "http://127.000.000.001:9000/a.nc",
        "http://[::ffff:127.0.0.1]:9000/a.nc",
        "http://[::ffff:7f00:1]:9000/a.nc",
        "http://[::127.0.0.1]:9000/a.nc",
        "http://[::1]:9000/a.nc",
        "http://[::]:9000/a.nc",
        "http://0:9000/a.nc",
        "http://0.0.0.0:9000/a.nc",
        "http://169.254.169.254/latest/meta-data",
        "http://2852039166/latest/meta-data",
        "http://0xa9fea9fe/",
        "http://[fd00:ec2::254]/latest",
        "http://metadata.google.internal/computeMetadata/v1/",
        "http://data.example/",
        "http://data.example/private/a.nc",
        "http://data.example/publicity/a.nc",
        "http://data.example/public%2Fa.nc",
        "http://data.example/public;x/a.nc",
        "http://data.example//public/a.nc",
        "http://data.example/PUBLIC/a.nc",
        "http://data.example/a?/public/a.nc",
    ],
)
def test_what_is_not_allowed_is_forbidden(url):
    error = refused(url)
    assert (error.status, error.kind) == (403, "forbidden")
    assert re.search(r"--allow-origin https?://\S+$", str(error))
    # Nothing of what is allowed, but what was asked for itself.
    said = str(error).replace(url.partition("?")[0], "")
    assert not any(host in said and host not in url for host in ("store.example", "9000", "data.example", "2001:db8"))


def test_the_message_says_what_the_operator_would_have_to_give():
    assert refused("HTTPS://Evil.example.:8443/a.nc?sig=x").message == (
        "https://evil.example:8443/a.nc: this server may not read from there; its operator can allow it with "
        "--allow-origin https://evil.example:8443"
    )
    assert refused("http://[::FFFF:7f00:1]/a").message.endswith("--allow-origin http://[::ffff:7f00:1]")


@pytest.mark.parametrize(
    "url",
    [
        "https://store.example@evil.example/a.nc",
        "https://user:password@store.example/a.nc",
        "https://@store.example/a.nc",
        "https://evil.example#@store.example/a.nc",
        "https://store.example/a.nc#fragment",
        "https://store.example/a.nc#",
        "https://store.example\\@evil.example/a.nc",
        "https://store.example/a\\b",
        "https:\\\\store.example\\a.nc",
        "https:///store.example/a.nc",
        "https:/store.example/a.nc",
        "https:store.example/a.nc",
        "//store.example/a.nc",
        "store.example/a.nc",
        "",
        "https://",
        " https://store.example/a.nc",
        "\thttps://store.example/a.nc",
        "ht\ntps://store.example/a.nc",
        "https://store.exa\tmple/a.nc",
        "https://store.example/a\r\nHost: evil.example",
        "https://store.example/a\x00.nc",
        "https://store.example/a\u202e.nc",
        "https://store.example/a\u00a0.nc",
        "https://store.example/\ud800.nc",
        "https://store.example/a%00.nc",
        "https://store.example/a%0d%0aHost:%20evil.example",
        "https://store.example/%7f",
        "https://store.example/%c0%ae%c0%ae/a.nc",
        "https://store.example/%ff",
        "https://store.example/100%",
        "https://store.example/100%zz",
        "https://store.example/a?b=%q",
        "https://store.example/./a.nc",
        "https://store.example/../a.nc",
        "https://store.example/a/..",
        "https://store.example/..",
        "https://store.example/%2e%2e/a.nc",
        "https://store.example/%2e%2E/a.nc",
        "https://store.example/.%2E/a.nc",
        "https://store.example/%2E/a.nc",
        "https://store.example/a%2f..%2Fb",
        "https://store.example/a%2F%2e%2e%2fb",
        "https://store.example/%252e%252E/a.nc",
        "https://store.example/a/..%5cb",
        "https://store.example/..%255cb",
        "https://store.example/..;/a.nc",
        "https://store.example/..%3bx/a.nc",
        "https://store.example:0/a.nc",
        "https://store.example:65536/a.nc",
        "https://store.example:99999/a.nc",
        "https://store.example:-1/a.nc",
        "https://store.example:+443/a.nc",
        "https://store.example: 443/a.nc",
        "https://store.example:443443443/a.nc",
        "https://store.example:٤٤٣/a.nc",
        "https://store.example:80:443/a.nc",
        "https://store.example:https/a.nc",
        "https://store..example/a.nc",
        "https://.store.example/a.nc",
        "https://store.example../a.nc",
        "https://store example/a.nc",
        "https://store%2eexample/a.nc",
        "https://store.example%00.evil.example/a.nc",
        "https://store.example℀evil.example/a.nc",
        "https://store.example\uff0fevil.example/a.nc",
        "https://-store.example/a.nc",
        f"https://{'a' * 64}.example/a.nc",
        f"https://{'a.' * 130}example/a.nc",
        f"https://{'é' * 5000}/a.nc",
        "https://store.example/" + "a" * 8192,
        "https://[::1/a.nc",
        "https://::1/a.nc",
        "https://[::1]evil.example/a.nc",
        "https://evil[::1]/a.nc",
        "https://[fe80::1%25eth0]/a.nc",
        "https://[store.example]/a.nc",
        "https://[127.0.0.1]/a.nc",
        "https://[:::]/a.nc",
    ],
)
def test_what_is_no_address_is_refused_and_not_repeated(url):
    error = refused(url, "https")
    assert (error.status, error.kind) == (400, "request")
    assert "url cannot be read" in error.message
    assert "evil" not in str(error)
    assert "password" not in str(error).replace("no user, password", "")
    assert str(error).isascii()


@pytest.mark.parametrize(
    ("interface_type", "url"),
    [
        ("http", "https://store.example/a"),
        ("https", "http://127.0.0.1:9000/a"),
        ("s3", "s3://bucket/key"),
        ("s3", "ftp://store.example/bucket/key"),
        ("http", "file:///etc/passwd"),
        ("https", "gopher://store.example/"),
        ("S3", "https://store.example/bucket/key"),
        ("", "https://store.example/a"),
        ("file", "https://store.example/a"),
        ("ftp", "ftp://store.example/a"),
        ("s3", "https://store.example"),
        ("s3", "https://store.example/"),
        ("s3", "https://store.example/bucket"),
        ("s3", "https://store.example/bucket/"),
        ("s3", "https://store.example//key"),
        ("s3", "https://store.example/bucket%2Fkey"),
        ("s3", "https://store.example/bucket/key?acl"),
        ("s3", "https://store.example/bucket/key?X-Amz-Signature=hunter2"),
    ],
)
def test_an_address_that_does_not_go_with_the_interface_type(interface_type, url):
    error = refused(url, interface_type)
    assert (error.status, error.kind) == (400, "request")
    assert "hunter2" not in str(error)


@pytest.mark.parametrize("region", ["", "us east", "us-east-1/s3", "a\nb", "x" * 65, "é"])
def test_a_region_that_is_none(region):
    with pytest.raises(RequestError, match="region") as caught:
        ALLOWED.check(Place("s3", "https://store.example/bucket/key", region=region))
    assert caught.value.status == 400


def test_a_bucket_of_a_store():
    allowed = AllowedOrigins(["https://store.example/bucket/"])
    allowed.check(Place("s3", "https://store.example/bucket/key"))
    for url in ("https://store.example/bucket2/key", "https://store.example/Bucket/key", "https://store.example//bucket/key"):
        assert refused(url, "s3", allowed).status in (400, 403)


def test_nothing_is_allowed_by_default():
    assert refused("https://store.example/a", allowed=AllowedOrigins([])).status == 403


def test_queries_are_not_shown():
    error = refused("https://evil.example/a?X-Amz-Signature=hunter2")
    assert "hunter2" not in str(error) + repr(error)
    assert "hunter2" not in repr(permitted("https://store.example/a?sig=hunter2"))


@pytest.mark.parametrize(
    "origin",
    [
        "",
        "store.example",
        "store.example:9000",
        "//store.example",
        "s3://bucket",
        "file:///data",
        "ftp://store.example",
        "https://",
        "https://user:hunter2@store.example",
        "https://store.example?hunter2",
        "https://store.example/#hunter2",
        "https://store.example/../hunter2",
        "https://store.example:0",
        "https://store.example:http",
        "https://*.example",
        "*",
        "https://store.example\n",
    ],
)
def test_a_setting_that_is_no_address(origin):
    with pytest.raises(ConfigurationError, match="write https://host:port") as caught:
        AllowedOrigins(["https://good.example", origin])
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "host", ["169.254.169.254", "[fe80::1]", "[::ffff:169.254.169.254]", "0.0.0.1", "[fd00:ec2::254]", "[::]"]
)
def test_what_is_never_connected_to_cannot_be_allowed(host):
    with pytest.raises(ConfigurationError, match="never connected to"):
        AllowedOrigins([f"http://{host}"])


# Addresses that are never connected to


@pytest.mark.parametrize(
    "ip",
    [
        "169.254.169.254",
        "169.254.0.1",
        "169.254.170.2",
        "fe80::1",
        "fe80::1%eth0",
        "febf::1",
        "100.100.100.200",
        "168.63.129.16",
        "192.0.0.192",
        "fd00:ec2::254",
        "fd00:ec2::23",
        "fd20:ce::254",
        "0.0.0.0",  # noqa: S104
        "0.1.2.3",
        "::",
        "224.0.0.1",
        "239.255.255.255",
        "ff02::1",
        "255.255.255.255",
        "::ffff:169.254.169.254",
        "::ffff:a9fe:a9fe",
        "::ffff:100.100.100.200",
        "::ffff:0.0.0.0",
        "::169.254.169.254",
        "64:ff9b::169.254.169.254",
        "64:ff9b::a9fe:a9fe",
        "64:ff9b:1::a9fe:a9fe",
        "2002:a9fe:a9fe::1",
        "2002:a83f:8110::",
        "2001:0:a9fe:a9fe::",
        "2001::5601:5601",  # Teredo's client, of which every bit is turned
        "",
        "store.example",
    ],
)
def test_forbidden_addresses(ip):
    assert forbidden_address(ip) is not None


@pytest.mark.parametrize(
    "ip",
    [
        "127.0.0.1",
        "::1",
        "10.0.0.1",
        "192.168.1.1",
        "192.0.2.7",
        "169.253.255.255",
        "169.255.0.0",
        "100.100.100.201",
        "8.8.8.8",
        "fd00::1",
        "2001:db8::1",
        "::ffff:127.0.0.1",
        "64:ff9b::8.8.8.8",
        "2002:808:808::1",
        "::ffff:10.0.0.1",
    ],
)
def test_other_addresses(ip):
    assert forbidden_address(ip) is None


@given(st.ip_addresses(v=4))
def test_an_address_within_another_is_judged_alike(ip):
    packed = int(ip)
    within = [0xFFFF << 32 | packed, 0x0064FF9B << 96 | packed, 0x2002 << 112 | packed << 80]
    for one in map(ipaddress.IPv6Address, within):
        assert (forbidden_address(str(one)) is None) == (forbidden_address(str(ip)) is None)


# Paths

_PIECES = st.sampled_from([*"/abp.;%\\?# é", "..", "%2e", "%2E", "%2f", "%5c", "%25", "%252e", "public", "/public/", "//"])


@given(st.lists(_PIECES, max_size=12).map("".join))
def test_no_spelling_of_a_path_leads_out_of_what_is_allowed(path):
    allowed = AllowedOrigins(["https://store.example/public"])
    url = f"https://store.example/{path}"
    for interface_type in ("https", "s3"):
        try:
            sent = allowed.permitted(Place(interface_type, url))
        except RequestError:
            continue
        read = sent.path
        for _ in range(3):
            # However often a server decodes it, and whatever it takes for a slash.
            parts = read.replace("\\", "/").split("/")
            assert parts[1] in ("public", "%70ublic")
            assert not {".", ".."} & {part.partition(";")[0] for part in parts}
            read = unquote(read)


@given(st.text(alphabet=string.printable + "éß。\uff0e\uff0f\uff20℀\u0130", max_size=30))
def test_whatever_is_allowed_is_the_host_that_is_asked(text):
    try:
        address = permitted(f"https://{text}", "https")
    except RequestError:
        return
    assert (address.host, address.port) == ("store.example", 443)
    assert address.url.startswith("https://store.example/")
