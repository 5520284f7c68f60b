"""Reading objects that an operator allowed: of S3 stores, of web servers, and files."""

from __future__ import annotations

import base64
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime

from botocore.credentials import ReadOnlyCredentials

from activestore.network.http_client import Answer, AnswerTooLargeError, Client, HttpOptions, NoAnswerError
from activestore.server.errors import RequestError
from activestore.server.location import Login, Place
from activestore.server.reading.addresses import AllowedOrigins, WebAddress, forbidden_address
from activestore.server.reading.errors import refusal
from activestore.server.reading.files import AllowedFolders
from activestore.server.settings import ServerSettings
from activestore.sources.s3 import signed_headers

__all__ = ["Origins", "Stored"]

_RETRIES = 2
_WHOLE = 1 << 20
"""Bytes of an object that may be taken in full, from servers that know no ranges."""
_LONGEST_RANGE = 16 << 20
"""Bytes that may be read at once however small the largest chunk is: chunks that nearly touch are read together."""
_GIVEN = frozenset({200, 206, 416})
"""What answers to ranges are: all of the object, a part, or that it has no such part."""
_UNSETTLED = 2.0
"""Seconds after a change in which another may leave the version as it is."""
_NUMBER = r"([0-9]{1,19})"
_PART = re.compile(rf"bytes {_NUMBER}-{_NUMBER}/(?:{_NUMBER}|\*)")
_END = re.compile(rf"bytes \*/{_NUMBER}")


@dataclass(frozen=True, slots=True)
class Stored:
    """What is there."""

    size: int
    """Bytes of the object."""
    version: str
    """ETag, or time of modification and size; "" if the origin gives none."""
    settled: bool = True
    """Whether the version would be another if the object changed now: many are made of times in whole seconds."""


@dataclass(frozen=True, slots=True)
class _Part:
    """What an origin gave of an object."""

    data: bytes
    version: str


class Origins:
    """Reads objects and files, those that are allowed and no other; used from many threads at once."""

    def __init__(self, settings: ServerSettings) -> None:
        """Prepare to read; nothing is sent.

        Raises:
            ConfigurationError: An address, a folder or the file of authorities is none.
        """
        self._allowed = AllowedOrigins(settings.origins)
        self._folders = AllowedFolders(settings.roots)
        self._largest = max(settings.largest_chunk, _LONGEST_RANGE)
        self._client = Client(
            HttpOptions(
                connections=settings.readers,
                verify=settings.verify,
                connect_timeout=settings.connect_timeout,
                read_timeout=settings.read_timeout,
                retries=_RETRIES,
                # A proxy connects to what it likes: the check of addresses would be in vain.
                proxies=False,
                peer_allowed=_check_peer,
            )
        )

    @property
    def interface_types(self) -> tuple[str, ...]:
        """The interface types for which there is something that may be read."""
        return (*self._allowed.interface_types, *(("file",) if self._folders else ()))

    def check(self, place: Place) -> None:
        """Do nothing if an object may be read; nothing is sent, nor the file system asked.

        Raises:
            RequestError: It may not, or its address is none.
        """
        if place.interface_type == "file":
            self._folders.check(place)
        else:
            self._allowed.check(place)

    def find(self, place: Place) -> Stored:
        """Return size and version of an object.

        Raises:
            RequestError: There is none, it may not be read, or the origin does not answer or does not tell.
        """
        if place.interface_type == "file":
            size, version, modified = self._folders.find(place)
            return Stored(size, version, settled=time.time() - modified >= _UNSETTLED)
        address = self._allowed.permitted(place)
        answer = self._send("HEAD", place, address, {}, most=0)
        length = re.fullmatch(_NUMBER, answer.headers.get("Content-Length", ""))
        if answer.status == 200 and length is not None and (size := int(length[1])):
            return Stored(size, _version(answer.headers, size), settled=_settled(answer.headers))
        if answer.status >= 500 and answer.status != 501:
            raise refusal(answer, place, address)
        # An error has no words in answer to HEAD, some servers say 0 of any object, and some know no HEAD at all.
        answer = self._send("GET", place, address, {"Range": "bytes=0-0"}, most=_WHOLE)
        if answer.status not in _GIVEN:
            raise refusal(answer, place, address)
        told = _size(answer)
        if told is None:
            raise _nonsense(address, "does not tell how large the object is")
        return Stored(told, _version(answer.headers, told), settled=_settled(answer.headers))

    def read(self, place: Place, ranges: Sequence[tuple[int, int]], *, version: str | None = None) -> list[bytes]:
        """Return the bytes of each (offset, size) of one version of an object, fewer only at the end; read one after the other.

        Parameters:
            place: The object.
            ranges: What of it.
            version: The version that it has to be of, as `find` tells it; None for any.

        Raises:
            RequestError: They cannot be read, or the object is of another version.
        """
        if any(offset < 0 or not 0 <= size <= self._largest for offset, size in ranges):
            raise RequestError(400, f"a range of bytes begins before the object, or is longer than {self._largest:,} bytes")
        if place.interface_type == "file":
            return self._folders.read(place, ranges, version=version)
        address, found = self._allowed.permitted(place), []
        for offset, size in ranges:
            part = self._part(place, address, offset, size, version or "") if size else _Part(b"", version or "")
            # Parts of two versions would make numbers that never were.
            version = version or part.version
            found.append(part.data)
        return found

    def read_to_end(self, place: Place, offset: int, most: int) -> bytes:
        """Return the bytes from `offset` to the end.

        Raises:
            RequestError: They cannot be read, or there are more than `most`.
        """
        stored = self.find(place)
        size = max(0, stored.size - offset)
        if size > most:
            raise RequestError(400, f"the object has {size:,} bytes from {offset} on, more than {most:,}; say how many to read")
        return self.read(place, [(offset, size)], version=stored.version)[0]

    def abandon(self) -> None:
        """Break off the reads from stores and servers that are under way, which then fail."""
        self._client.abandon()

    def close(self) -> None:
        """Close all connections."""
        self._client.close()

    def _part(self, place: Place, address: WebAddress, offset: int, size: int, version: str) -> _Part:
        headers = {"Range": f"bytes={offset}-{offset + size - 1}"}
        # Only strong tags match anything.
        matching = {"If-Match": version} if version.startswith('"') else {}
        answer = self._send("GET", place, address, headers | matching, most=max(size, _WHOLE))
        if answer.status not in _GIVEN:
            raise refusal(answer, place, address)
        part = _Part(_wanted(answer, address, offset, size), _version(answer.headers, _size(answer)))
        # An answer of 416 need not tell the version, and has nothing of it.
        if version and part.version != version and (part.data or part.version):
            raise RequestError(409, f"{address.public}: has changed", kind="origin")
        return part

    def _send(self, method: str, place: Place, address: WebAddress, headers: Mapping[str, str], *, most: int) -> Answer:
        signed = {} if place.login is None else _credentials(method, place, address, place.login)
        try:
            return self._client.request(method, address.url, headers={**signed, **headers}, most=most)
        except AnswerTooLargeError:
            raise _nonsense(address, "answers with more than was asked for, so it does not know byte ranges") from None
        except NoAnswerError as error:
            # Not as its cause, which may quote the address with its query.
            raise RequestError(502, str(error), kind="origin") from None


def _check_peer(ip: str) -> None:
    """Do nothing if a connection may be used.

    Raises:
        RequestError: It leads where none may lead.
    """
    reason = forbidden_address(ip)
    if reason is not None:
        raise RequestError(403, f"the origin's host name leads to {reason}, which is never connected to", kind="forbidden")


def _credentials(method: str, place: Place, address: WebAddress, login: Login) -> dict[str, str]:
    """Return the headers that say who asks.

    Raises:
        RequestError: It cannot be said in headers.
    """
    if place.interface_type != "s3":
        pair = f"{login.user}:{login.password}".encode(errors="replace")
        return {"Authorization": "Basic " + base64.b64encode(pair).decode()}
    named = login.user + (login.session_token or "")
    if not (named.isascii() and named.isprintable() and login.password.isprintable()):
        raise RequestError(401, "the login has characters that no login has", ("InvalidAccessKeyId",), kind="unauthorized")
    credentials = ReadOnlyCredentials(login.user, login.password, login.session_token)
    return signed_headers(method, address.url, credentials=credentials, region=place.region)


def _wanted(answer: Answer, address: WebAddress, offset: int, size: int) -> bytes:
    """Return the bytes that were asked for, fewer only at the end of the object.

    Raises:
        RequestError: They are others.
    """
    if answer.status == 200:
        return answer.body[offset : offset + size]
    if answer.status == 416:
        end = _size(answer)
        if end is not None and end > offset:
            raise _nonsense(address, "refuses a range of bytes that the object has")
        return b""
    found = _PART.fullmatch(answer.headers.get("Content-Range", ""))
    if found is not None and int(found[1]) == offset and int(found[2]) - offset + 1 == len(answer.body) <= size:
        at_end = found[3] == str(offset + len(answer.body))
        if at_end or len(answer.body) == size:
            return answer.body
    raise _nonsense(address, "does not answer with the bytes that were asked for")


def _size(answer: Answer) -> int | None:
    """Return the size of an object as an answer to a range tells it, None if it does not."""
    told = answer.headers.get("Content-Range", "")
    if answer.status == 200:
        return len(answer.body)
    if answer.status == 416:
        end = _END.fullmatch(told)
        # A store need not say it, but the first byte is not missing from any other.
        return int(end[1]) if end is not None else 0
    part = _PART.fullmatch(told)
    return int(part[3]) if part is not None and part[3] is not None else None


def _version(headers: Mapping[str, str], size: int | None) -> str:
    """Return the ETag, or time and size where it is empty, as some stores have it, or missing."""
    tag, modified = headers.get("ETag", ""), headers.get("Last-Modified", "")
    if tag.strip('W/"') and tag.isascii() and tag.isprintable():
        return tag
    return f"{modified} {size}" if modified and size is not None else ""


def _settled(headers: Mapping[str, str]) -> bool:
    """Whether an object was modified long enough ago, by the clock of its origin; those that say no time have better tags."""
    if "Last-Modified" not in headers:
        return True
    try:
        modified, now = (parsedate_to_datetime(headers[name]).timestamp() for name in ("Last-Modified", "Date"))
    except (KeyError, ValueError, OverflowError):
        return False
    return now - modified >= _UNSETTLED


def _nonsense(address: WebAddress, what: str) -> RequestError:
    return RequestError(400, f"{address.public}: the origin {what}", kind="origin")
