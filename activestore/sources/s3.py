"""S3 objects: their address, and requests for them signed by botocore with the credentials that s3fs would use."""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any
from urllib.parse import quote, urlsplit

import botocore.session
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from botocore.exceptions import BotoCoreError
from fsspec.config import conf

from activestore.errors import ConfigurationError
from activestore.network.location import Origin
from activestore.network.redaction import public_address, secret_parts
from activestore.process.forking import Lock, renew_after_fork

__all__ = ["S3Object", "find_object", "signed_headers"]

_KNOWN = frozenset({"anon", "client_kwargs", "endpoint_url", "key", "profile", "secret", "token", "use_ssl"})
_KNOWN_OF_CLIENT = frozenset(
    {"aws_access_key_id", "aws_secret_access_key", "aws_session_token", "endpoint_url", "region_name", "use_ssl", "verify"}
)
_WITHOUT_EFFECT = frozenset(
    {
        "asynchronous",
        "default_block_size",
        "default_cache_type",
        "default_fill_cache",
        "listings_expiry_time",
        "max_concurrency",
        "skip_instance_cache",
        "use_listings_cache",
    }
)
"""Options of s3fs that say how it works, not what it reads."""
_HOST_NAME = re.compile(r"[a-z0-9-]+")
"""Buckets that have a host of their own: the certificates of Amazon's hosts do not fit names with dots."""
_SIGNED_FOR = 300.0
"""Seconds for which a signature is used again; stores take one for 15 minutes."""


class S3Object:
    """One object: where it is, and the headers that let it be read."""

    def __init__(self, uri: str, options: Mapping[str, Any]) -> None:  # Any: options of many types
        """Find the object at `uri`; nothing is sent.

        Raises:
            ConfigurationError: The address names no object, or there are no credentials.
        """
        self._bucket, self._key = _place(uri)
        self.uri = uri
        client = dict(options.get("client_kwargs") or {})
        with _settings_of_aws(uri):
            session = botocore.session.Session(profile=options.get("profile"))
            endpoint = options.get("endpoint_url") or client.get("endpoint_url") or _configured_endpoint(session)
            self.region = client.get("region_name") or session.get_config_variable("region") or "us-east-1"
            self._found = None if options.get("anon") else _credentials(session, options, client)
        self._endpoint = None if endpoint is None else _checked_endpoint(uri, endpoint)
        self.verify: bool | str = client.get("verify", os.environ.get("AWS_CA_BUNDLE") or True)
        self._scheme = "http" if options.get("use_ssl", client.get("use_ssl", True)) is False else "https"
        if self._found is None and not options.get("anon"):
            raise ConfigurationError(
                f"{uri}: there are no credentials for it; give storage_options={{'key': …, 'secret': …}}, set "
                "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or read a public bucket with storage_options={'anon': True}"
            )
        self._options = options
        self._lock = Lock()
        renew_after_fork(self)
        self._signed: dict[str, tuple[float, dict[str, str]]] = {}

    def renew(self) -> None:
        """Look for credentials anew in a forked child: botocore renews those of a role behind a lock of its own."""
        if type(self._found) not in (type(None), Credentials):
            self._found = None

    @property
    def _credentials(self) -> Any:  # Any: of botocore
        """The credentials; None for an anonymous object."""
        if self._found is None and not self._options.get("anon"):
            session = botocore.session.Session(profile=self._options.get("profile"))
            self._found = _credentials(session, self._options, self._options.get("client_kwargs") or {})
        return self._found

    def __repr__(self) -> str:
        return f"S3Object({self.url!r})"

    @property
    def url(self) -> str:
        """The address for HTTP requests."""
        if self._endpoint is not None or not _HOST_NAME.fullmatch(self._bucket):
            return self._path_style
        return f"{self._scheme}://{self._bucket}.{self._host}/{quote(self._key, safe='/~')}"

    @property
    def _path_style(self) -> str:
        store = self._endpoint or f"{self._scheme}://{self._host}"
        return f"{store}/{self._bucket}/{quote(self._key, safe='/~')}"

    @property
    def _host(self) -> str:
        return f"s3.{self.region}.amazonaws.com{'.cn' if self.region.startswith('cn-') else ''}"

    @property
    def origin(self) -> Origin:
        """The object as a server that computes is told of it."""
        url = self._path_style
        if self._credentials is None:
            return Origin("s3", url, region=self.region)
        with _settings_of_aws(self.uri):
            frozen = self._credentials.get_frozen_credentials()
        obstacle = "temporary credentials with a session token" if frozen.token else None
        return Origin("s3", url, frozen.access_key, frozen.secret_key, obstacle, frozen.token, self.region)

    def headers(self, method: str) -> dict[str, str]:
        """Return the headers that sign a request; none for an anonymous one.

        Raises:
            ConfigurationError: The credentials have expired, and there are no new ones.
        """
        if self._credentials is None:
            return {}
        with self._lock:
            # By the clock that signatures are dated by: the monotonic one stops while a computer sleeps.
            now, (made, headers) = time.time(), self._signed.get(method, (0.0, {}))
            if not 0 <= now - made <= _SIGNED_FOR:
                with _settings_of_aws(self.uri):
                    frozen = self._credentials.get_frozen_credentials()
                headers = signed_headers(method, self.url, credentials=frozen, region=self.region)
                self._signed[method] = now, headers
            return headers

    def move_to(self, region: str) -> None:
        """Take the bucket to be in another region than was thought."""
        with self._lock:
            self.region = region
            self._signed.clear()


def signed_headers(method: str, url: str, *, credentials: Any, region: str) -> dict[str, str]:  # Any: of botocore
    """Return the headers that sign a request to S3; the path is signed as it stands in `url`, and has to be sent so."""
    request = AWSRequest(method, url)
    signing = _SIGNING.set(True)
    try:
        S3SigV4Auth(credentials, "s3", region).add_auth(request)
    finally:
        _SIGNING.reset(signing)
    return dict(request.headers.items())


_SIGNING: ContextVar[bool] = ContextVar("activestore_signing", default=False)
"""Whether a request of ours is being signed: botocore logs the signature, and session tokens with it."""

logging.getLogger("botocore.auth").addFilter(lambda _: not _SIGNING.get())


def find_object(uri: str, storage_options: Mapping[str, Any]) -> S3Object | None:  # Any: options of many types
    """Return the S3 object at `uri`, None if there are options that only s3fs understands.

    Parameters:
        uri: "s3://bucket/key".
        storage_options: Options as s3fs takes them; what fsspec's configuration has for S3 is added.

    Raises:
        ConfigurationError: The address names no object, or there are no credentials.
    """
    options = {**conf.get("s3", {}), **storage_options}
    client = options.get("client_kwargs") or {}
    if set(options) - _KNOWN - _WITHOUT_EFFECT or set(client) - _KNOWN_OF_CLIENT:
        return None
    # HTTP clients take dots out of paths, and the names of access points say where they are.
    if {".", ".."} & set(uri.split("/")) or uri.partition("://")[2].startswith("arn:"):
        return None
    return S3Object(uri, options)


def _place(uri: str) -> tuple[str, str]:
    """Return bucket and key.

    Raises:
        ConfigurationError: The address names no object.
    """
    bucket, _, key = uri.partition("://")[2].partition("/")
    if not bucket or not key or "@" in bucket or secret_parts(uri):
        shown = public_address(uri)
        raise ConfigurationError(f"{shown}: names no object; write s3://bucket/key, and keys to the store in storage_options")
    return bucket, key


def _checked_endpoint(uri: str, endpoint: object) -> str:
    """Return the address of a store.

    Raises:
        ConfigurationError: It is none.
    """
    try:
        parts = urlsplit(str(endpoint))
        if parts.scheme in ("http", "https") and parts.hostname and parts.port != 0 and not secret_parts(str(endpoint)):
            return str(endpoint).rstrip("/")
    except ValueError:
        pass  # brackets without an end, or a port that is no number
    raise ConfigurationError(f"{uri}: its endpoint_url is no address; write https://host:port")


@contextmanager
def _settings_of_aws(uri: str) -> Iterator[None]:
    """Translate what botocore has against configuration files and credentials.

    Raises:
        ConfigurationError: In place of its errors.
    """
    try:
        yield
    except BotoCoreError as error:
        raise ConfigurationError(f"{uri}: the credentials cannot be had: {error}") from None


def _credentials(session: botocore.session.Session, options: Mapping[str, Any], client: Mapping[str, Any]) -> Any:
    """Return botocore's credentials, given or found as the AWS tools find them; None if there are none.

    Raises:
        ConfigurationError: One of key and secret is given.
    """
    key = options.get("key") or client.get("aws_access_key_id")
    secret = options.get("secret") or client.get("aws_secret_access_key")
    token = options.get("token") or client.get("aws_session_token")
    if bool(key) != bool(secret):
        raise ConfigurationError("storage_options has one of 'key' and 'secret'; give both, or neither")
    return Credentials(key, secret, token) if key else session.get_credentials()


def _configured_endpoint(session: botocore.session.Session) -> str | None:
    found = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    return found or session.get_scoped_config().get("endpoint_url")
