"""What a server reads from a real S3 store and a real web server: with which login, of which keys, and what it hears else."""

import os
from urllib.parse import quote

import botocore.config
import botocore.session
import pytest

from activestore.network import http_client as transport
from activestore.server.errors import RequestError
from activestore.server.location import Login, Place
from activestore.server.reading.origins import Origins
from activestore.server.settings import ServerSettings
from tests.real.servers import S3Store

pytestmark = pytest.mark.real

CONTENT = bytes(range(256)) * 1000
KEYS = [
    "plain.nc",
    "a b.nc",
    "a+b.nc",
    "a%b.nc",
    "100%.nc",
    "a%20b.nc",
    "a%2Fb.nc",
    "\u00e9\u20ac\u8a9e.nc",
    "folder/a!b(c)'d*~e=f&g:h@i,j;k$l.nc",
    "a#b.nc",
    "a?b=c.nc",
    "[10, 5, 2].nc",
    'a"b<c>d^e`f{g}h|i.nc',
    "...nc",
]


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    """No proxy, and no time between retries."""
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setattr(transport, "_FIRST_PAUSE", 0.001)


@pytest.fixture
def origins(s3_store):
    origins = Origins(ServerSettings(origins=(f"{s3_store.url}/{s3_store.bucket}",), read_timeout=10))
    yield origins
    origins.close()


@pytest.fixture(scope="module")
def client(s3_store):
    """Amazon's own client of the store."""
    client = botocore.session.Session().create_client(
        "s3",
        "us-east-1",
        endpoint_url=s3_store.url,
        aws_access_key_id=s3_store.key,
        aws_secret_access_key=s3_store.secret,
        config=botocore.config.Config(s3={"addressing_style": "path"}),
    )
    yield client
    client.close()


def place(store: S3Store, key: str, login: Login | None, *, safe: str = "/~") -> Place:
    return Place("s3", f"{store.url}/{store.bucket}/{quote(key, safe=safe)}", login)


def right(store: S3Store) -> Login:
    return Login(store.key, store.secret)


def refused(call, *arguments) -> RequestError:
    with pytest.raises(RequestError) as caught:
        call(*arguments)
    assert "secret" not in str(caught.value)
    return caught.value


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("safe", ["/~", "/", "/!$&'()*+,;=:@~[] <>^`{}|\""])
def test_keys_of_all_kinds_however_they_are_written(s3_store, client, origins, key, safe):
    client.put_object(Bucket=s3_store.bucket, Key=key, Body=CONTENT)
    one = place(s3_store, key, right(s3_store), safe=safe)
    found = origins.find(one)
    assert found.size == len(CONTENT)
    assert found.version == client.head_object(Bucket=s3_store.bucket, Key=key)["ETag"]
    for version in (None, found.version):
        assert origins.read(one, [(5, 1000), (len(CONTENT) - 3, 10)], version=version) == [CONTENT[5:1005], CONTENT[-3:]]
    assert origins.read_to_end(one, 250_000, 6000) == CONTENT[250_000:]
    assert origins.read(one, [(len(CONTENT), 1)]) == [b""]


@pytest.mark.parametrize("key", ["double//slash.nc", "/leading.nc", "a/"])
def test_slashes_are_signed_as_they_are_sent(s3_store, origins, key):
    """This store has folders for slashes, others have keys: either way the signature is right."""
    error = refused(origins.read, place(s3_store, key, right(s3_store)), [(0, 1)])
    assert (error.status, error.caused_by[0]) == (400, "NoSuchKey")


def test_a_double_slash(s3_store, origins):
    (s3_store.folder / "twice").mkdir(exist_ok=True)
    (s3_store.folder / "twice" / "a.nc").write_bytes(CONTENT)
    assert origins.read(place(s3_store, "twice//a.nc", right(s3_store)), [(1, 2)]) == [CONTENT[1:3]]


def test_an_object_that_has_no_etag(s3_store, origins):
    (s3_store.folder / "copied.nc").write_bytes(CONTENT)
    one = place(s3_store, "copied.nc", right(s3_store))
    found = origins.find(one)
    assert found.version.endswith(f" GMT {len(CONTENT)}")
    assert origins.read(one, [(7, 3)], version=found.version) == [CONTENT[7:10]]
    (s3_store.folder / "copied.nc").write_bytes(CONTENT + b"more")
    assert refused(lambda: origins.read(one, [(7, 3)], version=found.version)).status == 409


def test_an_object_that_is_put_anew(s3_store, client, origins):
    client.put_object(Bucket=s3_store.bucket, Key="anew.nc", Body=CONTENT)
    one = place(s3_store, "anew.nc", right(s3_store))
    version = origins.find(one).version
    client.put_object(Bucket=s3_store.bucket, Key="anew.nc", Body=CONTENT[::-1])
    assert refused(lambda: origins.read(one, [(7, 3)], version=version)).status == 409


def test_an_object_without_bytes(s3_store, client, origins):
    client.put_object(Bucket=s3_store.bucket, Key="empty.nc", Body=b"")
    one = place(s3_store, "empty.nc", right(s3_store))
    assert origins.find(one).size == 0
    assert origins.read_to_end(one, 0, 10) == origins.read(one, [(0, 5)])[0] == b""


@pytest.mark.parametrize(
    ("login", "said"),
    [
        (None, "Access Denied"),
        (Login("activestore-key", "wrong-secret"), "SignatureDoesNotMatch"),
        (Login("wrong-key", "wrong-secret"), "UserNotFound"),
    ],
)
def test_logins_that_are_not_right(s3_store, client, origins, login, said):
    client.put_object(Bucket=s3_store.bucket, Key="private.nc", Body=CONTENT)
    for call, more in ((origins.find, ()), (origins.read, ([(0, 1)],)), (origins.read_to_end, (0, 1 << 20))):
        error = refused(call, place(s3_store, "private.nc", login), *more)
        assert (error.status, error.kind) == (401, "unauthorized")
        assert said in " ".join(error.caused_by)


@pytest.mark.parametrize("login", ["", "a/b", " ", "a" * 500, "x=y,z"])
def test_logins_that_are_none(s3_store, origins, login):
    error = refused(origins.find, place(s3_store, "plain.nc", Login(login, "wrong-secret")))
    assert error.status in (400, 401)


def test_what_is_not_there(s3_store, origins):
    for call, more in ((origins.find, ()), (origins.read, ([(0, 1)],))):
        error = refused(call, place(s3_store, "no such key.nc", right(s3_store)), *more)
        assert (error.status, error.caused_by[0]) == (400, "NoSuchKey")
    anywhere = Origins(ServerSettings(origins=(s3_store.url,)))
    error = refused(anywhere.find, Place("s3", f"{s3_store.url}/no-such-bucket/a.nc", right(s3_store)))
    assert (error.status, error.caused_by[0]) == (400, "NoSuchBucket")
    anywhere.close()


def test_another_bucket_than_the_allowed_one(s3_store, origins):
    assert refused(origins.find, Place("s3", f"{s3_store.url}/other/a.nc", right(s3_store))).status == 403


def test_a_web_server(web_server, web_server_https):
    for server in (web_server, web_server_https):
        origins = Origins(ServerSettings(origins=(server.url,), verify=str(server.ca_file) if server.ca_file else True))
        (server.folder / "a b+c%.nc").write_bytes(CONTENT)
        one = Place(server.url.partition(":")[0], f"{server.url}/a%20b+c%25.nc")
        found = origins.find(one)
        assert found.size == len(CONTENT)
        assert found.version.startswith('"')
        assert origins.read(one, [(5, 1000), (len(CONTENT) - 3, 10)], version=found.version) == [CONTENT[5:1005], CONTENT[-3:]]
        assert origins.read_to_end(one, len(CONTENT) - 3, 10) == CONTENT[-3:]
        missing = refused(origins.find, Place(one.interface_type, f"{server.url}/none.nc"))
        assert (missing.status, missing.kind) == (400, "origin")
        assert "the origin answers 404 Not Found" in missing.message
        origins.close()
