"""No secret stays in what is shown or pickled, and nothing else is lost."""

import pickle

import pytest

from activestore.network.redaction import (
    Secret,
    kept_address,
    public_address,
    secret_name,
    secret_parts,
    secrets_hidden,
    split_login,
    without_secrets,
)

PUBLIC = {"anon": False, "endpoint_url": "https://store.example", "client_kwargs": {"region_name": "r"}, "retries": [1, 2]}


@pytest.mark.parametrize(
    "name",
    [
        *("key", "secret", "token", "password", "passwd", "pass", "passphrase", "pwd", "username", "user", "auth", "headers"),
        *(
            "aws_session_token",
            "AWS_SECRET_ACCESS_KEY",
            "account_key",
            "sas_token",
            "credential",
            "cookies",
            "signature",
            "sig",
        ),
        *("connection_string", "connstr", "bearer", "login", "jwt", "signature", "sig"),
    ],
)
def test_a_name_that_says_secret(name):
    options = {**PUBLIC, name: "hunter2"}
    assert without_secrets(options) == PUBLIC
    assert secrets_hidden(options) == {**PUBLIC, name: "***"}
    nested = {"client_kwargs": {"deep": [{name: "hunter2", "a": 1}], "pair": ({name: {"x": "hunter2"}},)}}
    assert without_secrets(nested) == {"client_kwargs": {"deep": [{"a": 1}], "pair": ({},)}}
    assert "hunter2" not in repr(secrets_hidden(nested))


def test_what_is_public_stays_as_it_was():
    assert without_secrets(PUBLIC) == secrets_hidden(PUBLIC) == PUBLIC
    assert without_secrets({}) == {}
    assert without_secrets({"a": None, "b": 0, "c": "", "d": (1, "x"), "e": b"raw"}) == {
        "a": None,
        "b": 0,
        "c": "",
        "d": (1, "x"),
        "e": b"raw",
    }


def test_a_secret_is_one_under_any_name():
    options = {"colour": Secret("hunter2"), "many": [Secret("hunter2"), "x"]}
    assert without_secrets(options) == {"many": ["x"]}
    assert secrets_hidden(options) == {"colour": "***", "many": ["x"]}
    assert b"hunter2" not in pickle.dumps(without_secrets(options))
    assert Secret("a") == "a"


def test_the_name_of_a_secret_is_none():
    options = {"secret": {"env": "STORE_SECRET"}, "colour": {"env": "COLOUR"}}
    assert without_secrets(options) == secrets_hidden(options) == options


@pytest.mark.parametrize(
    "value", [None, "env", {}, {"env": 5}, {"env": ""}, {"env": ["A"]}, {"env": "A", "b": 1}, {"name": "A"}, [("env", "A")]]
)
def test_what_names_no_secret(value):
    assert secret_name(value) is None


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("https://me:hunter2@store.example/a.nc", "https://store.example/a.nc"),
        ("https://hunter2@store.example:8080", "https://store.example:8080"),
        ("https://me:hun#ter2@store.example/a.nc", "https://store.example/a.nc"),
        ("https://me:hun@ter2@store.example/a.nc", "https://store.example/a.nc"),
        ("https://store.example/a.nc?X-Amz-Signature=hunter2&x=1#f", "https://store.example/a.nc"),
        ("simplecache::https://me:hunter2@store.example/a.nc?sig=hunter2", "simplecache::https://store.example/a.nc"),
        ("zip://a.nc::ftp://me:hunter2@store.example/b.zip", "zip://a.nc::ftp://store.example/b.zip"),
        ("http://[not an address", "http://[not an address"),
        ("s3://bucket/year=2001/a@b.nc", "s3://bucket/year=2001/a@b.nc"),
        ("/data/me:x@y/a?b#c.nc", "/data/me:x@y/a?b#c.nc"),
        ("", ""),
    ],
)
def test_addresses(address, shown):
    assert public_address(address) == shown
    assert without_secrets({"endpoint_url": address, "all": [address]}) == {"endpoint_url": shown, "all": [shown]}


PASSWORDS = (
    *("hun ter", "hun\nter", "hun/ter", "hun@ter", "hun?ter", "hun#ter", "hun%ter", "hun'ter", 'hun"ter', "hun\u00fcter"),
    *("hun::ter", "hun[ter", "hun]ter", "hun\\ter", "hun:ter/hunter", ":hunter", "@hunter", "/hunter", "hunter/", "\thunter"),
    *("hunter\u2100", "hun%2Fter"),
)
"""Passwords written into an address as they are; HTTP's own form has percent signs for most of what is in them."""
DOUBTFUL = ("hun@ter/hunter", "hun/ter@hunter", "hun?ter@hunter", "hun#@/?ter", "/@hunter", "hunter://hun@ter/a")
"""Of these it cannot be told where they end."""


def check(password: str, address: str, shown: str) -> None:
    given = address.format(password)
    found = [public_address(given), kept_address(given), *without_secrets({"a": [given]})["a"]]
    # What is cut out of logs, wherever the address stands in them.
    logged = f"fetch {given} again"
    for part in secret_parts(given):
        logged = logged.replace(part, "")
    for one in (*found, logged):
        assert "hun" not in one
        assert "ter" not in one
    assert public_address(given).replace("***@", "") == shown


@pytest.mark.parametrize("password", [*PASSWORDS, *DOUBTFUL])
def test_passwords_as_they_are(password):
    check(password, "http://me:{}@127.0.0.1:80/a.h5", "http://127.0.0.1:80/a.h5")
    check(password, "HTTPS://me:{}@store.example/a/b.nc?code=hunt#ter", "HTTPS://store.example/a/b.nc")
    check(password, "https://me%40site:{}@[::1]:8080/a.nc", "https://[::1]:8080/a.nc")
    check(password, "simplecache::https://me:{}@store.example/a/b.nc", "simplecache::https://store.example/a/b.nc")
    check(password, "zip://a.nc::ftp://me:{}@store.example/b.zip", "zip://a.nc::ftp://store.example/b.zip")
    check(password, "s3://KEY:{}@bucket/a/b.nc", "s3://bucket/a/b.nc")


@pytest.mark.parametrize("password", ["12/hunter", "12?hunter", "12#hunter"])
def test_a_password_that_begins_as_a_port_does(password):
    shown = public_address(f"https://me:{password}@store.example/a.nc")
    assert shown == "https://***@store.example/a.nc"
    assert kept_address(f"s3://KEY:{password}@bucket/a.nc") == "s3://bucket/a.nc"


@pytest.mark.parametrize("password", PASSWORDS)
def test_a_login_is_read_as_it_stands(password):
    assert split_login(f"https://me:{password}@store.example/a.nc") == (f"me:{password}", "https://store.example/a.nc")


@pytest.mark.parametrize("password", DOUBTFUL)
def test_no_login_is_sent_to_what_may_not_be_the_host(password):
    assert split_login(f"https://me:{password}@store.example/a.nc")[0] is None


@pytest.mark.parametrize(
    "address",
    [
        *("https://store.example/a@b.nc", "https://store.example:8080/a@b/c.nc", "http://localhost:80/a@b/c.nc"),
        *("s3://bucket/year=2001/a:b@c/d.nc", "memory://folder/a b@c.nc", "/data/me:x@y/a::b.nc", "https://[::1]:80/a@b/c.nc"),
        *("simplecache::s3://bucket/a@b.nc", "s3://arn:aws:s3:us-east-1:1:accesspoint/a/b@c.nc"),
    ],
)
def test_signs_of_logins_where_there_is_none(address):
    assert kept_address(address) == public_address(address) == address
    assert split_login(address) == (None, address)
    assert secret_parts(address) == []


@pytest.mark.parametrize(
    "name", ["code", "sig", "t", "X-Amz-Credential", "access", "ticket", "p", "apikey", "k%65y", "Signature"]
)
@pytest.mark.parametrize("mark", ["&", ";"])
def test_of_a_query_only_what_says_what_is_read_is_kept(name, mark):
    address = f"https://store.example/get?file=a.nc{mark}{name}=hunter2{mark}versionId=3#{name}=hunter2"
    assert kept_address(address) == "https://store.example/get?file=a.nc&versionId=3"
    assert public_address(address) == "https://store.example/get"
    assert without_secrets({"url": address, "params": {name: "hunter2"}}) == {"url": "https://store.example/get"}
