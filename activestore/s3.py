"""S3 objects: their address, and requests for them signed by botocore with the credentials that s3fs would use."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import botocore.session
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from fsspec.config import conf

from activestore.errors import ConfigurationError
from activestore.origin import Origin

__all__ = ["S3Object", "find_object"]

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
_SIGNED_FOR = 300.0
"""Seconds for which a signature is used again; stores take one for 15 minutes."""


class S3Object:
    """One object: where it is, and the headers that let it be read."""

    def __init__(self, uri: str, options: Mapping[str, Any]) -> None:  # Any: options of many types
        """Find the object at `uri`; nothing is sent.

        Raises:
            ConfigurationError: The address names no object, or there are no credentials.
        """
        client = dict(options.get("client_kwargs") or {})
        self._bucket, _, self._key = uri.partition("://")[2].partition("/")
        if not self._bucket or not self._key:
            raise ConfigurationError(f"{uri}: names no object; write s3://bucket/key")
        session = botocore.session.Session(profile=options.get("profile"))
        self._endpoint = options.get("endpoint_url") or client.get("endpoint_url") or _configured_endpoint(session)
        self.region = client.get("region_name") or session.get_config_variable("region") or "us-east-1"
        self.verify: bool | str = client.get("verify", os.environ.get("AWS_CA_BUNDLE") or True)
        self._scheme = "http" if options.get("use_ssl", client.get("use_ssl", True)) is False else "https"
        self._credentials = None if options.get("anon") else _credentials(session, options, client)
        if self._credentials is None and not options.get("anon"):
            raise ConfigurationError(
                f"{uri}: there are no credentials for it; give storage_options={{'key': …, 'secret': …}}, set "
                "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or read a public bucket with storage_options={'anon': True}"
            )
        self._lock = threading.Lock()
        self._signed: dict[str, tuple[float, dict[str, str]]] = {}

    def __repr__(self) -> str:
        return f"S3Object({self.url!r})"

    @property
    def url(self) -> str:
        """The address for HTTP requests."""
        path = quote(self._key, safe="/~")
        if self._endpoint is not None:
            return f"{self._endpoint.rstrip('/')}/{self._bucket}/{path}"
        if "." in self._bucket:  # the certificates of Amazon's hosts do not fit such names
            return f"{self._scheme}://s3.{self.region}.amazonaws.com/{self._bucket}/{path}"
        return f"{self._scheme}://{self._bucket}.s3.{self.region}.amazonaws.com/{path}"

    @property
    def origin(self) -> Origin:
        """The object as a server that computes is told of it."""
        url = self.url
        if self._endpoint is None and "." not in self._bucket:
            url = f"{self._scheme}://s3.{self.region}.amazonaws.com/{self._bucket}/{quote(self._key, safe='/~')}"
        if self._credentials is None:
            return Origin("s3", url)
        frozen = self._credentials.get_frozen_credentials()
        obstacle = "temporary credentials with a session token" if frozen.token else None
        return Origin("s3", url, frozen.access_key, frozen.secret_key, obstacle)

    def headers(self, method: str) -> dict[str, str]:
        """Return the headers that sign a request; none for an anonymous one."""
        if self._credentials is None:
            return {}
        with self._lock:
            made, headers = self._signed.get(method, (-_SIGNED_FOR, {}))
            if time.monotonic() - made > _SIGNED_FOR:
                request = AWSRequest(method, self.url)
                S3SigV4Auth(self._credentials.get_frozen_credentials(), "s3", self.region).add_auth(request)
                headers = dict(request.headers.items())
                self._signed[method] = time.monotonic(), headers
            return headers

    def move_to(self, region: str) -> None:
        """Take the bucket to be in another region than was thought."""
        with self._lock:
            self.region = region
            self._signed.clear()


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
    return S3Object(uri, options)


def _credentials(session: botocore.session.Session, options: Mapping[str, Any], client: Mapping[str, Any]) -> Any:
    """Return botocore's credentials, given or found as the AWS tools find them; None if there are none."""
    key = options.get("key") or client.get("aws_access_key_id")
    secret = options.get("secret") or client.get("aws_secret_access_key")
    token = options.get("token") or client.get("aws_session_token")
    return Credentials(key, secret, token) if key and secret else session.get_credentials()


def _configured_endpoint(session: botocore.session.Session) -> str | None:
    found = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    return found or session.get_scoped_config().get("endpoint_url")
