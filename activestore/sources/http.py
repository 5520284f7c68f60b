"""Objects and files behind HTTP, read in ranges."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, BinaryIO, Protocol
from urllib.parse import SplitResult, unquote, urljoin, urlsplit, urlunsplit

from activestore.core.lazy_pickle import source_later
from activestore.core.threads import concurrently
from activestore.errors import ConfigurationError, SourceError, SourceNotFoundError
from activestore.network.byte_ranges import clipped_ranges, cut_ranges, merged_ranges
from activestore.network.cookies import Cookies
from activestore.network.http_client import Answer, AnswerTooLargeError, Client, HttpOptions, NoAnswerError
from activestore.network.location import Origin
from activestore.network.redaction import public_address, secret_parts, split_login
from activestore.sources.http_version import WebVersion, size_of
from activestore.sources.metadata_cache import usable_cache
from activestore.sources.metadata_view import METADATA_BLOCK, MetadataView, data_file

__all__ = ["HttpSource", "WebFile"]

_AT_ONCE = 64
"""Requests under way at once for one call, and connections."""
_MOST_OF_AN_ERROR = 64 << 10
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_MOST_REDIRECTS = 5
_PART, _EVEN_EMPTY, _OR_OTHER = frozenset({206}), frozenset({206, 416}), frozenset({206, 412})
_REFUSALS = frozenset({400, 401, 403, 404, 410})
_LAPSED = frozenset({"ExpiredToken", "InvalidToken", "TokenRefreshRequired"})
"""What S3 says of temporary credentials that are none any more, with the status 400."""


class Target(Protocol):
    """Where requests go, and the headers that let them."""

    verify: bool | str

    @property
    def uri(self) -> str: ...
    @property
    def url(self) -> str: ...
    @property
    def origin(self) -> Origin: ...
    def headers(self, method: str) -> dict[str, str]: ...


class WebFile:
    """A file behind HTTP: its address, and the headers that let it be read."""

    def __init__(self, uri: str, options: Mapping[str, Any]) -> None:  # Any: options of many types
        """Take user and password out of the address, and headers out of `options`.

        Raises:
            ConfigurationError: The address names no host, or it cannot be told where its password ends.
        """
        self.uri = public_address(uri)
        login, address = split_login(uri)
        parts = _web_address(address)
        # What may be the rest of a password is sent to nobody.
        if login is None and any("@" in part for part in secret_parts(uri)):
            raise _no_address(uri)
        client = dict(options.get("client_kwargs") or {})
        self._headers: dict[str, str] = {**client.get("headers", {}), **options.get("headers", {})}
        user, colon, password = (login or "").partition(":")
        self._user, self._password = None if login is None else unquote(user), unquote(password) if colon else None
        if self._user is not None:
            pair = f"{self._user}:{self._password or ''}".encode()
            self._headers.setdefault("Authorization", "Basic " + base64.b64encode(pair).decode())
        self.url = urlunsplit(parts._replace(fragment=""))
        self.verify: bool | str = options.get("verify", True)
        self.version = options.get("version")
        self._given = bool(client.get("headers") or options.get("headers"))

    def headers(self, method: str) -> dict[str, str]:  # noqa: ARG002  # the same for all
        """Return the headers of a request."""
        return self._headers

    @property
    def origin(self) -> Origin:
        """The file as a server that computes is told of it."""
        obstacle = "headers of your own" if self._given else None
        return Origin(urlsplit(self.url).scheme, self.url, self._user, self._password, obstacle)


class HttpSource:
    """An object or file behind HTTP(S), read in ranges from many threads at once; it is picklable, without secrets."""

    is_remote = True

    def __init__(self, target: Target, reopen: tuple[Any, ...]) -> None:  # Any: pickle's own contract
        """Open it with one request: for its first bytes, or for its version if those are in the index cache.

        Parameters:
            target: Where requests go.
            reopen: What a pickle of it calls, and with what.

        Raises:
            SourceNotFoundError: There is nothing there.
            SourceError: It cannot be reached or read.
        """
        self._uri, self._target, self._reopen = target.uri, target, reopen
        self._url = target.url
        self._client = Client(HttpOptions(connections=_AT_ONCE, verify=target.verify))
        self._cache = usable_cache()
        self._key = target.url
        self._cookies = Cookies()
        self._version = WebVersion(getattr(target, "version", None), self._uri)
        known = self._known()
        segments = {0: self._first_bytes()} if known is None else known
        self._view = MetadataView(self, segments)
        self._view.changed = known is None

    def __repr__(self) -> str:
        return f"HttpSource({self._uri!r})"

    def __reduce__(self) -> tuple[Any, ...]:  # Any: pickle's own contract
        return source_later(self.uri, (_reopened, (self._reopen, self._version.state)), is_remote=True)

    @property
    def uri(self) -> str:
        """The address, without user and password."""
        return self._uri

    @property
    def size(self) -> int:
        """Bytes in the object when it was opened."""
        return self._size

    @property
    def version(self) -> str:
        """Its ETag when it was opened; time of modification and size where the server gives none."""
        return self._version.first

    @property
    def origin(self) -> Origin:
        """The object as a server that computes is told of it."""
        return self._target.origin

    @contextmanager
    def metadata(self) -> Iterator[MetadataView]:
        """Give a view of it that keeps what is read; kept for the next opening when the `with` block ends."""
        yield self._view
        if self._view.changed and self._cache is not None:
            self._view.changed = False
            if self._version.is_kept:
                self._cache.save(self._key, size=self._size, version=self.version, segments=dict(self._view.segments))

    def current_version(self) -> str:
        """Return the version that the object has now.

        Raises:
            SourceError: It cannot be reached.
        """
        head = self._head()
        if head is not None and self._version.of(head) == self.version:
            return self.version
        # A server may say something else to a HEAD than to a GET.
        answer = self._get({"Range": "bytes=0-0"}, most=METADATA_BLOCK, accepted=_EVEN_EMPTY)
        return self.version if self._version.is_same(answer, self._ask_another) else self._version.of(answer)

    def go_back_to(self, state: tuple[Any, ...]) -> None:  # Any: what a pickle has of a version
        """Take the version that was pickled for the one that was opened.

        Raises:
            SourceError: It is another.
        """
        before = self._version.first
        self._version.restore(state)
        if self.version == before:
            return
        answer = self._get({"Range": "bytes=0-0"}, most=METADATA_BLOCK, accepted=_EVEN_EMPTY)
        if not self._version.is_same(answer, self._ask_another):
            raise SourceError(f"{self._uri}: has changed since it was opened; make a new Active of it")

    def _ask_another(self) -> Answer:
        """Ask the server of any byte, over a connection that is not kept: the next may lead to another server."""
        return self._get({"Range": "bytes=0-0", "Connection": "close"}, most=METADATA_BLOCK, accepted=_EVEN_EMPTY)

    def read_ranges(self, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """Return the bytes of each (offset, size), fewer only at the end; ranges that nearly touch are asked for together.

        Raises:
            SourceError: It cannot be reached, or has changed since it was opened.
        """
        clipped = clipped_ranges(ranges, self._size)
        merged = merged_ranges(clipped)
        found = concurrently(self._read, merged, _AT_ONCE, abandon=self.abandon)
        return cut_ranges(clipped, {start: data for (start, _), data in zip(merged, found, strict=True)})

    def _read(self, place: tuple[int, int]) -> bytes:
        offset, size = place
        wanted, most = {"Range": f"bytes={offset}-{offset + size - 1}"}, max(size, _MOST_OF_AN_ERROR)
        answer = self._get(wanted | self._version.matching, most=most, accepted=_OR_OTHER)
        if answer.status == 412:
            answer = self._get(wanted, most=most)
        if not self._version.is_same(answer, self._ask_another):
            raise SourceError(f"{self._uri}: has changed since it was opened; make a new Active of it")
        if answer.status == 200 and len(answer.body) == self._size:
            return answer.body[offset : offset + size]
        if answer.status != 206 or len(answer.body) != size or _start_of(answer) not in (offset, None):
            raise SourceError(
                f"{self._uri}: the server does not answer with the bytes that were asked for (status {answer.status})"
            )
        return answer.body

    def for_hdf5(self) -> BinaryIO:
        """Return a file object for the HDF5 library."""
        return data_file(self._size, self.read_ranges)

    def abandon(self) -> None:
        """Break off the requests that are under way."""
        self._client.abandon()

    def _known(self) -> dict[int, bytes] | None:
        """Return what the index cache has of it, None if nothing that is of its version."""
        if self._cache is None or not self._cache.has(self._key):
            return None
        head = self._head()
        size = None if head is None else size_of(head)
        if head is None or size is None:
            return None
        found = self._cache.load(self._key, size=size, version=self._version.of(head))
        if found:
            self._version.open(head)
            self._size = size
        return found or None

    def _first_bytes(self) -> bytes:
        answer = self._get({"Range": f"bytes=0-{METADATA_BLOCK - 1}"}, most=2 * METADATA_BLOCK, accepted=_EVEN_EMPTY)
        self._version.open(answer)
        size = size_of(answer)
        if size is None and (head := self._head()) is not None:
            size = size_of(head)
        if size is None:
            raise SourceError(f"{self._uri}: the server does not tell how large the file is; copy the file here")
        self._size = size
        if len(answer.body) < min(self._size, METADATA_BLOCK):
            raise SourceError(
                f"{self._uri}: the server gives {len(answer.body)} bytes where {min(self._size, METADATA_BLOCK)} belong"
            )
        return answer.body[:METADATA_BLOCK]

    def _head(self) -> Answer | None:
        """Return what the server says of the object without giving it, None if it does not: some know no HEAD, and say 404."""
        answer = self._send("HEAD", {}, most=0)
        # Some that make their answers up as they go say 0 of any.
        return answer if answer.status == 200 and size_of(answer) else None

    def _get(self, headers: Mapping[str, str], *, most: int, accepted: frozenset[int] = _PART) -> Answer:
        answer = self._send("GET", headers, most=most)
        if answer.status not in accepted and (answer.status != 200 or len(answer.body) > METADATA_BLOCK):
            self._refuse(answer)
        return answer

    def _send(self, method: str, headers: Mapping[str, str], *, most: int) -> Answer:
        """Return the answer; redirects are followed, without the credentials if they lead elsewhere."""
        url = began = self._url
        try:
            for _ in range(_MOST_REDIRECTS + 1):
                own = self._target.headers(method) if _may_have_credentials(url, self._target.url) else {}
                sent = self._cookies.added_to({**own, **headers}, url)
                answer = self._client.request(method, url, headers=sent, most=most)
                self._cookies.keep(url, answer.headers)
                place = self._place(answer, url)
                if place is None and answer.status in _REFUSALS and url == began != self._target.url:
                    # Where a redirect led to earlier is often good for some minutes only.
                    place = began = self._target.url
                if place is None:
                    self._url = url
                    return answer
                url = place
        except NoAnswerError as error:
            said = str(error).removeprefix(f"{public_address(url)}: ")
            too_large = isinstance(error, AnswerTooLargeError)
            ignored = "; does it ignore byte ranges, which reductions need?" if too_large else ""
            raise SourceError(f"{self._uri}: cannot be read: {said}{ignored}") from None
        raise SourceError(f"{self._uri}: is redirected again and again")

    def _place(self, answer: Answer, url: str) -> str | None:
        """Return where to ask instead, as an answer from `url` says; None if it does not."""
        region = answer.headers.get("x-amz-bucket-region")
        if answer.status in (301, 307, 400) and region and region != getattr(self._target, "region", region):
            self._target.move_to(region)  # type: ignore[attr-defined]  # only S3 objects have regions
            return self._target.url
        place = answer.headers.get("Location")
        if answer.status not in _REDIRECTS or not place:
            return None
        try:
            return _web_address(urljoin(url, place)).geturl()
        except (ConfigurationError, ValueError):
            raise SourceError(f"{self._uri}: is redirected to what is no address of a web server") from None

    def _refuse(self, answer: Answer) -> None:
        """Raise the error that an answer stands for."""
        code = _code(answer)
        if answer.status in (404, 410):
            what = {"NoSuchBucket": "there is no such bucket", "NoSuchKey": "there is no such key in the bucket"}
            nothing = "there is nothing at this address" + (f" ({code})" if code else "")
            raise SourceNotFoundError(f"{self._uri}: {what.get(code, nothing)}; check the address")
        if answer.status in (401, 403) or code in _LAPSED:
            raise SourceError(
                f"{self._uri}: access is denied ({answer.status} {code}); check the credentials in storage_options ('key' and "
                "'secret', 'token', or 'anon'; 'headers' for HTTP) or in the environment, and whether they have expired"
            )
        if answer.status == 412:
            raise SourceError(f"{self._uri}: has changed since it was opened; make a new Active of it")
        if answer.status == 200:
            raise SourceError(f"{self._uri}: the server does not answer byte ranges, which reductions need; copy the file here")
        advice = "try again later" if answer.status in (429, 500, 502, 503, 504) else "check the address and storage_options"
        raise SourceError(f"{self._uri}: the server answers {answer.status}{' ' + code if code else ''}; {advice}")


def _reopened(reopen: tuple[Any, ...], version: tuple[Any, ...]) -> Any:  # Any: pickle's own contract
    """Open an object again.

    Raises:
        SourceError: It cannot be opened, or has changed.
    """
    function, arguments = reopen
    source = function(*arguments)
    if isinstance(source, HttpSource):
        source.go_back_to(version)
    return source


def _web_address(url: str) -> SplitResult:
    """Return the parts of an address.

    Raises:
        ConfigurationError: It names no host.
    """
    try:
        parts = urlsplit(url)
        if parts.scheme in ("http", "https") and parts.hostname and parts.port != 0:
            return parts
    except ValueError:
        pass  # brackets without an end, or a port that is no number
    raise _no_address(url)


def _no_address(url: str) -> ConfigurationError:
    advice = "; of a password, write @ as %40, / as %2F, ? as %3F, # as %23" if "@" in url else ""
    return ConfigurationError(f"{public_address(url)}: is no address of a web server; write https://host/path{advice}")


def _may_have_credentials(url: str, own: str) -> bool:
    """Return whether `url` is on the server that the credentials are for, or the same one over TLS."""
    one, other = urlsplit(url), urlsplit(own)
    upgraded = one.hostname == other.hostname and (one.scheme, one.port, other.port) == ("https", None, None)
    return upgraded or one[:2] == other[:2]


def _start_of(answer: Answer) -> int | None:
    found = re.match(r"bytes (\d+)-", answer.headers.get("Content-Range", ""))
    return None if found is None else int(found[1])


def _code(answer: Answer) -> str:
    """Return the code of an S3 error, empty if there is none."""
    found = re.search(rb"<Code>([A-Za-z]{1,64})</Code>", answer.body)
    return "" if found is None else found[1].decode()
