"""S3 objects: addresses, signatures, regions, credentials and errors; beside a stand-in where a store's answers matter."""

import logging
import os
import pickle
import re
import subprocess
import sys

import fsspec.config
import h5py
import numpy as np
import pytest
from botocore.exceptions import BotoCoreError

from activestore import Active
from activestore.errors import ConfigurationError, SourceError, SourceNotFoundError
from activestore.network import http_client as transport
from activestore.sources import s3
from activestore.sources.open import open_source
from activestore.sources.s3 import S3Object, find_object
from tests.web_stand_in import Reply, WebStandIn

SECRET, TOKEN = "hunter2-secret", "hunter2-token"
OPTIONS = {"key": "KEYID", "secret": SECRET}


@pytest.fixture(autouse=True)
def environment(monkeypatch, tmp_path):
    """No settings of AWS, nor of fsspec, nor a proxy."""
    for name in list(os.environ):
        if name.startswith(("AWS_", "FSSPEC_")) or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setattr(fsspec.config, "conf", {})
    monkeypatch.setattr(s3, "conf", {})
    monkeypatch.setattr(transport, "_FIRST_PAUSE", 0.001)


@pytest.fixture
def store():
    """A stand-in for an S3 store, with one object."""
    with WebStandIn() as server:
        server.files["/bucket/a.nc"] = b"0123456789" * 100
        yield server


def found(uri: str = "s3://bucket/a.nc", **options) -> S3Object:
    given = find_object(uri, {**OPTIONS, **options})
    assert given is not None
    return given


# Addresses


@pytest.mark.parametrize(
    ("bucket", "options", "host"),
    [
        ("bucket", {}, "https://bucket.s3.us-east-1.amazonaws.com/"),
        ("bucket", {"client_kwargs": {"region_name": "eu-west-2"}}, "https://bucket.s3.eu-west-2.amazonaws.com/"),
        ("bucket", {"use_ssl": False}, "http://bucket.s3.us-east-1.amazonaws.com/"),
        ("bucket", {"client_kwargs": {"region_name": "cn-north-1"}}, "https://bucket.s3.cn-north-1.amazonaws.com.cn/"),
        ("with.dots", {}, "https://s3.us-east-1.amazonaws.com/with.dots/"),
        ("Old_Bucket", {}, "https://s3.us-east-1.amazonaws.com/Old_Bucket/"),
        ("bucket", {"endpoint_url": "https://store.example"}, "https://store.example/bucket/"),
        ("bucket", {"endpoint_url": "http://127.0.0.1:9000/"}, "http://127.0.0.1:9000/bucket/"),
        (
            "bucket",
            {"client_kwargs": {"endpoint_url": "https://store.example/prefix/"}},
            "https://store.example/prefix/bucket/",
        ),
        ("bucket", {"endpoint_url": "http://[::1]:9000"}, "http://[::1]:9000/bucket/"),
    ],
)
def test_where_requests_go(bucket, options, host):
    assert found(f"s3://{bucket}/folder/a.nc", **options).url == f"{host}folder/a.nc"
    assert found(f"s3a://{bucket}/folder/a.nc", **options).url == f"{host}folder/a.nc"


def test_what_a_server_that_computes_is_told():
    for options in ({}, {"endpoint_url": "https://store.example"}):
        origin = found("s3://bucket/a b.nc", **options).origin
        host = options.get("endpoint_url", "https://s3.us-east-1.amazonaws.com")
        assert (origin.interface_type, origin.url, origin.user, origin.password, origin.obstacle) == (
            "s3",
            f"{host}/bucket/a%20b.nc",
            "KEYID",
            SECRET,
            None,
        )
    assert "session token" in str(found(token=TOKEN).origin.obstacle)
    public = S3Object("s3://bucket/a.nc", {"anon": True}).origin
    assert (public.user, public.password, public.obstacle) == (None, None, None)


@pytest.mark.parametrize(
    ("key", "path"),
    [
        ("a b.nc", "a%20b.nc"),
        ("a+b.nc", "a%2Bb.nc"),
        ("100%.nc", "100%25.nc"),
        ("a%20b.nc", "a%2520b.nc"),
        ("é€.nc", "%C3%A9%E2%82%AC.nc"),
        ("a#b.nc", "a%23b.nc"),
        ("a?b=c&d.nc", "a%3Fb%3Dc%26d.nc"),
        ("a//b/", "a//b/"),
        ("~a_b-c.nc", "~a_b-c.nc"),
        ("a@b:c.nc", "a%40b%3Ac.nc"),
    ],
)
def test_keys_are_encoded_once_and_arrive(store, key, path):
    assert found(f"s3://bucket/{key}").url == f"https://bucket.s3.us-east-1.amazonaws.com/{path}"
    store.files[f"/bucket/{key}"] = b"there"
    source = open_source(f"s3://bucket/{key}", {**OPTIONS, "endpoint_url": store.url})
    assert store.asked == [f"GET /bucket/{path}"]
    assert (source.uri, source.size, repr(source)) == (f"s3://bucket/{key}", 5, f"HttpSource({f's3://bucket/{key}'!r})")


@pytest.mark.parametrize("uri", ["s3://", "s3://bucket", "s3://bucket/", "s3:///key"])
def test_an_address_that_names_no_object(uri):
    with pytest.raises(ConfigurationError, match=r"names no object; write s3://bucket/key"):
        open_source(uri, OPTIONS)


def test_keys_in_the_address_are_refused_and_not_repeated():
    with pytest.raises(ConfigurationError, match="and keys to the store in storage_options") as caught:
        open_source(f"s3://KEYID:{SECRET}@bucket/a.nc", OPTIONS)
    assert SECRET not in str(caught.value)
    for secret in ("hunt/er", "hunt@er", "hunt?er/er", "1/er"):
        with pytest.raises(ConfigurationError, match="names no object") as caught:
            open_source(f"s3://KEYID:{secret}@bucket/a.nc", OPTIONS)
        assert "KEYID" not in str(caught.value)
        assert "er@" not in str(caught.value)


@pytest.mark.parametrize(
    "endpoint", ["127.0.0.1:9000", "store.example", "https://", "http://[::1", "ftp://host", "http://h:port", ""]
)
def test_an_endpoint_that_is_no_address(endpoint):
    if not endpoint:
        assert found(endpoint_url=endpoint).url.startswith("https://bucket.s3.")
        return
    with pytest.raises(ConfigurationError, match=r"s3://bucket/a\.nc: its endpoint_url is no address; write https://host:port"):
        found(endpoint_url=endpoint)


def test_an_endpoint_with_a_password_is_refused_and_not_repeated():
    with pytest.raises(ConfigurationError) as caught:
        found(endpoint_url=f"https://me:{SECRET}@store.example")
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    "options",
    [
        {"config_kwargs": {"s3": {"addressing_style": "path"}}},
        {"requester_pays": True},
        {"version_aware": True},
        {"s3_additional_kwargs": {}},
        {"client_kwargs": {"use_dualstack": True}},
    ],
)
def test_options_that_only_s3fs_understands_are_left_to_it(options):
    assert find_object("s3://bucket/a.nc", {**OPTIONS, **options}) is None


@pytest.mark.parametrize(
    "uri", ["s3://bucket/a/../b.nc", "s3://bucket/./b.nc", "s3://arn:aws:s3:eu-west-2:1:accesspoint/a/b.nc"]
)
def test_addresses_that_only_s3fs_understands_are_left_to_it(uri):
    assert find_object(uri, OPTIONS) is None


def test_options_without_effect_here():
    assert found(default_block_size=5, skip_instance_cache=True, use_listings_cache=False).url == found().url


# Credentials


def credentials_of(**options):
    frozen = S3Object("s3://bucket/a.nc", options)._credentials.get_frozen_credentials()
    return tuple(frozen)


def test_credentials_from_everywhere(monkeypatch, tmp_path):
    with pytest.raises(ConfigurationError, match=r"there are no credentials for it; give storage_options=\{'key'"):
        credentials_of()
    (tmp_path / "credentials").write_text(
        "[default]\naws_access_key_id = D\naws_secret_access_key = d\n"
        "[mine]\naws_access_key_id = M\naws_secret_access_key = m\naws_session_token = t\n"
    )
    (tmp_path / "config").write_text("[profile mine]\nregion = eu-west-2\nendpoint_url = https://mine.example\n")
    assert credentials_of()[:3] == ("D", "d", None)
    assert credentials_of(profile="mine")[:3] == ("M", "m", "t")
    assert S3Object("s3://bucket/a.nc", {"profile": "mine"}).url == "https://mine.example/bucket/a.nc"
    monkeypatch.setenv("AWS_PROFILE", "mine")
    assert credentials_of()[:3] == ("M", "m", "t")
    monkeypatch.delenv("AWS_PROFILE")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "E")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "e")
    assert credentials_of()[:3] == ("E", "e", None)
    monkeypatch.setenv("AWS_SESSION_TOKEN", "et")
    assert credentials_of()[:3] == ("E", "e", "et")
    assert credentials_of(**OPTIONS)[:3] == ("KEYID", SECRET, None)
    assert credentials_of(**OPTIONS, token=TOKEN)[2] == TOKEN
    client = {"aws_access_key_id": "C", "aws_secret_access_key": "c", "aws_session_token": "ct"}
    assert credentials_of(client_kwargs=client)[:3] == ("C", "c", "ct")


def test_the_endpoint_and_region_of_the_environment(monkeypatch):
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-2")
    assert found().url.startswith("https://bucket.s3.eu-west-2.")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "https://any.example")
    assert found().url.startswith("https://any.example/bucket/")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "https://s3.example")
    assert found().url.startswith("https://s3.example/bucket/")
    assert found(endpoint_url="https://given.example").url.startswith("https://given.example/")


def test_the_configuration_of_fsspec(monkeypatch):
    monkeypatch.setattr(s3, "conf", {"s3": {"key": "F", "secret": "f", "endpoint_url": "https://conf.example"}})
    given = find_object("s3://bucket/a.nc", {})
    assert (given.url, given._credentials.access_key) == ("https://conf.example/bucket/a.nc", "F")
    assert find_object("s3://bucket/a.nc", OPTIONS)._credentials.access_key == "KEYID"


def test_fsspec_s_variables_are_read_when_the_process_starts():
    program = (
        "from activestore.sources.s3 import find_object\n"
        "found = find_object('s3://bucket/a.nc', {})\n"
        "print(found.url, found._credentials.access_key, found._credentials.secret_key)\n"
    )
    environment = {**os.environ, "FSSPEC_S3_KEY": "F", "FSSPEC_S3_SECRET": "f", "FSSPEC_S3_ENDPOINT_URL": "https://env.example"}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, env=environment)
    assert done.stdout == "https://env.example/bucket/a.nc F f\n", done.stderr


def test_half_of_the_credentials():
    for options in ({"key": "K"}, {"secret": SECRET}, {"client_kwargs": {"aws_access_key_id": "K"}}):
        with pytest.raises(ConfigurationError, match="one of 'key' and 'secret'") as caught:
            find_object("s3://bucket/a.nc", options)
        assert SECRET not in str(caught.value)


def test_settings_that_botocore_refuses(monkeypatch, tmp_path):
    with pytest.raises(ConfigurationError, match=r"s3://bucket/a\.nc: the credentials cannot be had: .*absent"):
        find_object("s3://bucket/a.nc", {"profile": "absent"})
    monkeypatch.setenv("AWS_PROFILE", "absent")
    with pytest.raises(ConfigurationError, match="absent"):
        open_source("s3://bucket/a.nc", OPTIONS)
    monkeypatch.delenv("AWS_PROFILE")
    (tmp_path / "config").write_text("no [ini file\n")
    with pytest.raises(ConfigurationError, match="the credentials cannot be had"):
        open_source("s3://bucket/a.nc")
    (tmp_path / "config").unlink()
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "E")
    with pytest.raises(ConfigurationError, match="AWS_SECRET_ACCESS_KEY"):
        open_source("s3://bucket/a.nc")


def test_credentials_that_cannot_be_renewed():
    class Lapsed:
        def get_frozen_credentials(self):
            raise BotoCoreError

    given = found()
    given._found = Lapsed()
    for use in (lambda: given.headers("GET"), lambda: given.origin):
        with pytest.raises(ConfigurationError, match="the credentials cannot be had"):
            use()


# Signatures


def test_requests_are_signed_as_botocore_signs_them(store):
    source = open_source("s3://bucket/a.nc", {**OPTIONS, "endpoint_url": store.url, "token": TOKEN})
    source.current_version()
    for request in store.requests:
        authorization = request.headers["Authorization"]
        assert authorization.startswith("AWS4-HMAC-SHA256 Credential=KEYID/")
        assert "/us-east-1/s3/aws4_request" in authorization
        assert SECRET not in str(dict(request.headers.items()))
        assert request.headers["X-Amz-Security-Token"] == TOKEN
        assert request.headers["Host"] == store.address
    get, head = store.requests[0].headers["Authorization"], store.requests[-1].headers["Authorization"]
    assert get != head


def test_anonymous_requests_are_not_signed(store):
    open_source("s3://bucket/a.nc", {"anon": True, "endpoint_url": store.url})
    assert "Authorization" not in store.requests[0].headers
    assert found().headers("GET")
    assert S3Object("s3://bucket/a.nc", {"anon": True}).headers("GET") == {}


def test_signatures_are_used_for_five_minutes_and_then_made_anew(monkeypatch):
    signed, clock = [], [1_000_000.0]
    original = s3.S3SigV4Auth.add_auth
    monkeypatch.setattr(
        s3.S3SigV4Auth, "add_auth", lambda self, request: signed.append(request.method) or original(self, request)
    )
    monkeypatch.setattr(s3.time, "time", lambda: clock[0])
    given = found()
    for seconds, made in ((0, 1), (299, 1), (300, 1), (301, 2), (600, 2), (602, 3), (-9000, 4), (-9000, 4)):
        clock[0] = 1_000_000.0 + seconds
        assert "Authorization" in given.headers("GET")
        assert len(signed) == made, seconds
    given.headers("HEAD")
    assert signed[-1] == "HEAD"
    given.move_to("eu-west-2")
    assert "/eu-west-2/s3/" in given.headers("GET")["Authorization"]


# What stores answer


def error(status: int, code: str, **headers: str) -> Reply:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return Reply(status, names, f"<?xml version='1.0'?><Error><Code>{code}</Code><Key>{SECRET}</Key></Error>".encode())


@pytest.mark.parametrize(
    ("reply", "kind", "message"),
    [
        (error(404, "NoSuchKey"), SourceNotFoundError, "there is no such key in the bucket; check the address"),
        (error(404, "NoSuchBucket"), SourceNotFoundError, "there is no such bucket; check the address"),
        (error(403, "AccessDenied"), SourceError, "access is denied (403 AccessDenied); check the credentials"),
        (error(403, "SignatureDoesNotMatch"), SourceError, "access is denied (403 SignatureDoesNotMatch)"),
        (error(403, "InvalidAccessKeyId"), SourceError, "access is denied (403 InvalidAccessKeyId)"),
        (error(403, "RequestTimeTooSkewed"), SourceError, "access is denied (403 RequestTimeTooSkewed)"),
        (error(400, "ExpiredToken"), SourceError, "access is denied (400 ExpiredToken); check the credentials"),
        (error(400, "InvalidToken"), SourceError, "access is denied (400 InvalidToken)"),
        (error(503, "SlowDown"), SourceError, "the server answers 503 SlowDown; try again later"),
        (error(400, "AuthorizationHeaderMalformed"), SourceError, "the server answers 400 AuthorizationHeaderMalformed; check"),
        (error(301, "PermanentRedirect"), SourceError, "the server answers 301 PermanentRedirect; check"),
    ],
)
def test_errors_of_stores(store, reply, kind, message):
    store.rule = lambda _: reply
    with pytest.raises(kind, match=re.escape(f"s3://bucket/a.nc: {message}")) as caught:
        Active("s3://bucket/a.nc", "x", storage_options={**OPTIONS, "endpoint_url": store.url})
    assert "\n" not in str(caught.value)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("status", [301, 307, 400])
def test_a_bucket_in_another_region_is_asked_for_there(store, status):
    def rule(request):
        if "/eu-west-2/" in request.headers["Authorization"]:
            return None
        return error(status, "PermanentRedirect", x_amz_bucket_region="eu-west-2")

    store.rule = rule
    source = open_source("s3://bucket/a.nc", {**OPTIONS, "endpoint_url": store.url})
    assert source.read_ranges([(15, 5)]) == [b"56789"]
    assert source.current_version() == source.version
    assert len(store.requests) == 4
    store.rule = lambda _: error(status, "PermanentRedirect", x_amz_bucket_region=f"region-{len(store.requests)}")
    with pytest.raises(SourceError, match="is redirected again and again"):
        open_source("s3://bucket/a.nc", {**OPTIONS, "endpoint_url": store.url})


def test_a_bucket_of_amazon_s_in_another_region():
    given = found()
    given.move_to("ap-south-1")
    assert given.url == "https://bucket.s3.ap-south-1.amazonaws.com/a.nc"


# Secrets


def test_secrets_appear_nowhere(store, caplog, tmp_path, own_index_cache):
    caplog.set_level(logging.DEBUG)
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_dataset("x", data=np.arange(48.0), chunks=(8,))
    store.files["/bucket/x.h5"] = (tmp_path / "x.h5").read_bytes()
    options = {**OPTIONS, "endpoint_url": store.url, "client_kwargs": {"aws_session_token": TOKEN}}
    active = Active("s3://bucket/x.h5", "x", storage_options=options)
    assert active.mean() == 23.5
    source = active._source
    told = [repr(active), active._repr_html_(), str(active.explain()), str(active.run("mean").report), repr(source), source.uri]
    told += [repr(source._target), repr(source.origin), str(source.origin)]
    told += [pickle.dumps(one).decode("latin-1") for one in (active, active[:3], source)]
    with pytest.raises(ConfigurationError) as caught:
        pickle.loads(pickle.dumps(active)).sum()
    told.append(str(caught.value))
    store.rule = lambda _: error(403, "AccessDenied")
    with pytest.raises(SourceError) as caught:
        active.mean()
    told.append(str(caught.value))
    # botocore logs what it signs, the token among it, for whoever asks for its log at this level: that is its own.
    told += [record.getMessage() for record in caplog.records if not record.name.startswith("botocore")]
    told += [file.read_bytes().decode("latin-1") for file in own_index_cache.rglob("*") if file.is_file()]
    assert len(told) > 20
    for text in told:
        for secret in (SECRET, TOKEN, "AWS4-HMAC"):
            assert secret not in text
    told.clear()


def test_a_pickle_takes_credentials_from_where_it_is_opened(store, monkeypatch):
    source = open_source("s3://bucket/a.nc", {**OPTIONS, "endpoint_url": store.url})
    packed = pickle.dumps(source)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "THERE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "there")
    assert pickle.loads(packed).read_ranges([(0, 3)]) == [b"012"]
    assert "Credential=THERE/" in store.requests[-1].headers["Authorization"]


def test_no_signature_is_logged_of_ours_but_of_others(caplog):
    from botocore.auth import S3SigV4Auth
    from botocore.awsrequest import AWSRequest
    from botocore.credentials import Credentials

    caplog.set_level(logging.DEBUG)
    signature = found(token=TOKEN).headers("GET")["Authorization"].rpartition("=")[2]
    assert signature not in caplog.text
    assert TOKEN not in caplog.text
    S3SigV4Auth(Credentials("K", "S"), "s3", "us-east-1").add_auth(AWSRequest("GET", "https://theirs.example/a"))
    assert "theirs.example" in caplog.text
