"""No secret stays in what is shown or pickled, and nothing else is lost."""

import pickle

import pytest

from activestore.redaction import Secret, public_address, secret_name, secrets_hidden, without_secrets

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
