"""Addresses that a server reads from: those that its operator allowed, and none that nobody may."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from urllib.parse import quote, unquote_to_bytes

from activestore.errors import ConfigurationError
from activestore.server.errors import RequestError
from activestore.server.location import Place

__all__ = ["AllowedOrigins", "WebAddress", "check_text", "forbidden_address"]

_PORTS = {"http": 80, "https": 443}
_SCHEMES = {"s3": ("http", "https"), "http": ("http",), "https": ("https",)}
"""With which schemes the interface types go."""
_LONGEST = 8192
_FORM = re.compile(
    r"(?P<scheme>https?)://"
    r"(?:\[(?P<six>[0-9a-f:.]+)\]|(?P<name>[^\[\]:@/?#]+))(?::(?P<port>[0-9]{0,5}))?"
    r"(?P<path>/[^?#]*)?(?:\?(?P<query>[^#]*))?",
    re.IGNORECASE | re.ASCII,
)
"""The only form that is read: parsers that forgive take one address for different hosts."""
_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_NAME = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
_NOT_ENCODED = re.compile(r"%(?![0-9a-f]{2})", re.IGNORECASE)
_REGION = re.compile(r"[A-Za-z0-9-]{1,64}")
_IN_PATHS = "/!$&'()*+,;=:@~%"
"""Characters that stay as they are in the path of an HTTP request."""


@dataclass(frozen=True, slots=True)
class WebAddress:
    """An address in the one form in which it is compared, signed and sent.

    Examples:
        >>> address = WebAddress("https", "store.example", 443, "/bucket/a.nc", "sig=x")
        >>> address.url, address.public
        ('https://store.example/bucket/a.nc?sig=x', 'https://store.example/bucket/a.nc')
    """

    scheme: str
    """"http" or "https"."""
    host: str
    """Name or IP address, in lower case and ASCII, an IPv6 address without brackets."""
    port: int
    """The port, given or the scheme's."""
    path: str
    """Begins with a slash; percent-encoded."""
    query: str = field(default="", repr=False)
    """What follows the question mark, which can hold a signature."""

    @property
    def origin(self) -> str:
        """Scheme, host, and the port if it is not the scheme's."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}" + (f":{self.port}" if self.port != _PORTS[self.scheme] else "")

    @property
    def public(self) -> str:
        """The address to be shown, without its query."""
        return self.origin + self.path

    @property
    def url(self) -> str:
        """The address that requests are sent to."""
        return self.public + (f"?{self.query}" if self.query else "")

    @property
    def segments(self) -> list[bytes]:
        """The parts of the path, decoded one by one: an encoded slash divides nothing."""
        return [unquote_to_bytes(segment) for segment in self.path.split("/")[1:]]


class AllowedOrigins:
    """The addresses below which an operator lets objects be read."""

    def __init__(self, origins: Sequence[str]) -> None:
        """Take the addresses.

        Parameters:
            origins: "https://store.example:9000", or "https://store.example/bucket" for what lies below a path.

        Raises:
            ConfigurationError: One is no such address, or is never connected to.
        """
        self._allowed = [(address, _folder(address)) for address in map(_allowed_address, origins)]

    @property
    def interface_types(self) -> tuple[str, ...]:
        """The interface types for which there is an address that may be read."""
        allowed = {address.scheme for address, _ in self._allowed}
        return tuple(name for name, schemes in _SCHEMES.items() if allowed & set(schemes))

    def check(self, place: Place) -> None:
        """Do nothing if an object may be read.

        Raises:
            RequestError: It may not, or its address is none.
        """
        self.permitted(place)

    def permitted(self, place: Place) -> WebAddress:
        """Return the address of an object that may be read; nothing is sent, and no name looked up.

        Raises:
            RequestError: It may not, or its address is none.
        """
        address = _requested(place)
        for allowed, folder in self._allowed:
            same = (allowed.scheme, allowed.host, allowed.port) == (address.scheme, address.host, address.port)
            if same and address.segments[: len(folder)] == folder:
                return address
        raise RequestError(
            403,
            f"{address.public}: this server may not read from there; its operator can allow it with "
            f"--allow-origin {address.origin}",
            kind="forbidden",
        )


def _allowed_address(origin: str) -> WebAddress:
    """Return what an operator allows.

    Raises:
        ConfigurationError: It is no address, or one that is never connected to.
    """
    try:
        address = _without_query(_parsed(origin))
    except ValueError as error:
        # Nothing of it is repeated: it may be a password that is wrong with it.
        said = f"an origin is no address: {error}; write https://host:port, or https://host/bucket"
        raise ConfigurationError(said) from None
    try:
        reason = forbidden_address(str(ip_address(address.host)))
    except ValueError:
        return address  # a name
    if reason is not None:
        raise ConfigurationError(f"{address.origin}: is {reason}, which is never connected to")
    return address


def _folder(address: WebAddress) -> list[bytes]:
    """Return the parts of the path below which objects may be read."""
    return [] if address.path.strip("/") == "" else replace(address, path=address.path.rstrip("/")).segments


def _requested(place: Place) -> WebAddress:
    """Return the address of an object in the form in which it is sent.

    Raises:
        RequestError: It is none, or does not go with the interface type.
    """
    if place.interface_type not in _SCHEMES:
        raise RequestError(400, "interface_type has to be s3, http, https or file")
    try:
        address = _fitting(_parsed(place.url), place.interface_type)
        return _of_s3(address, place.region) if place.interface_type == "s3" else address
    except ValueError as error:
        # Nothing of the address is repeated: where its parts begin and end is what is in doubt.
        raise RequestError(400, f"url cannot be read: {error}") from None


def _without_query(address: WebAddress) -> WebAddress:
    if address.query:
        raise ValueError("it has a query")
    return address


def _fitting(address: WebAddress, interface_type: str) -> WebAddress:
    if address.scheme not in _SCHEMES[interface_type]:
        wanted = " or ".join(f"{scheme}://" for scheme in _SCHEMES[interface_type])
        raise ValueError(f"with interface_type {interface_type} it has to begin with {wanted}")
    return address


def _of_s3(address: WebAddress, region: str) -> WebAddress:
    """Return the address with the path in the form in which S3 signs it.

    Raises:
        ValueError: It names no object.
    """
    bucket, _, key = address.path[1:].partition("/")
    if not bucket or not key:
        raise ValueError("it names no object; write https://host:port/bucket/key")
    if address.query:
        raise ValueError("it has a query; signed addresses go with interface_type http or https")
    if not _REGION.fullmatch(region):
        raise ValueError("its region is none; write us-east-1, say")
    # Stores work out the signature from the decoded key, encoded anew.
    return replace(address, path=quote(unquote_to_bytes(address.path), safe="/~"))


def _parsed(url: str) -> WebAddress:
    """Return an address in the form in which it is compared and sent.

    Raises:
        ValueError: It is none; the message holds nothing of it.
    """
    check_text(url)
    if not _is_utf8(unquote_to_bytes(url)):
        raise ValueError("its percent signs do not encode UTF-8")
    found = _FORM.fullmatch(url)
    if found is None:
        raise ValueError("it has to be http(s)://host[:port]/path, with no user, password or fragment in it")
    scheme, path = found["scheme"].lower(), found["path"] or "/"
    port = int(found["port"] or _PORTS[scheme])
    if not 0 < port < 65536:
        raise ValueError("there is no such port")
    host = _host_name(found["name"]) if found["six"] is None else _host_address(found["six"])
    path = re.sub("%..", lambda code: code[0].upper(), quote(path, safe=_IN_PATHS))
    return WebAddress(scheme, host, port, path, found["query"] or "")


def check_text(url: str) -> None:
    """Do nothing if an address is made of what addresses are made of, and leads down only.

    Raises:
        ValueError: It is not; the message holds nothing of it.
    """
    if len(url) > _LONGEST:
        raise ValueError(f"it is longer than {_LONGEST} characters")
    if not url.isprintable() or "\\" in url:
        raise ValueError("it has control characters, blanks other than spaces, or backslashes in it")
    if _NOT_ENCODED.search(url):
        raise ValueError("it has a percent sign without two hexadecimal digits; write %25")
    path = url.partition("?")[0].partition("://")[2].partition("/")[2]
    once = unquote_to_bytes(path)
    if any(byte < 0x20 or byte == 0x7F for byte in once):
        raise ValueError("it has encoded control characters in it")
    # Some servers decode twice, some take a backslash for a slash, some cut off what follows a semicolon.
    for decoded in (once, unquote_to_bytes(once)):
        if any(part.partition(b";")[0] in (b".", b"..") for part in re.split(rb"[/\\]", decoded)):
            raise ValueError("it has '.' or '..' as a part of its path")


def _is_utf8(text: bytes) -> bool:
    try:
        return text.decode() is not None
    except UnicodeDecodeError:
        return False


def _host_name(name: str) -> str:
    """Return a name in lower case and ASCII.

    Raises:
        ValueError: It is none.
    """
    try:
        found = name if name.isascii() else name[:254].encode("idna").decode("ascii")
    except UnicodeError:
        found = ""
    found = found.lower().removesuffix(".")
    if len(found) > 253 or not _NAME.fullmatch(found):
        raise ValueError("there is no such host name")
    return found


def _host_address(text: str) -> str:
    try:
        return IPv6Address(text).compressed
    except ValueError:
        raise ValueError("there is no such IPv6 address") from None


_METADATA = tuple(
    ip_network(one)
    for one in (
        "100.100.100.200",
        "168.63.129.16",
        "192.0.0.192",
        "fd00:ec2::/32",
        "fd20:ce::254",
        "fd00:c1::a9fe:a9fe",
        "fd00:42::42",
    )
)
"""Where clouds tell a machine its secrets, beside 169.254.169.254: Alibaba, Azure, Oracle; Amazon, Google, Oracle, Scaleway."""
_NAT64 = ip_network("64:ff9b::/96"), ip_network("64:ff9b:1::/48")
_COMPATIBLE = ip_network("::/96")


def forbidden_address(ip: str) -> str | None:
    """Return what is wrong with an IP address that is never connected to, whatever is allowed; None for any other.

    Examples:
        >>> forbidden_address("169.254.169.254"), forbidden_address("::ffff:169.254.1.1"), forbidden_address("192.0.2.7")
        ('a link-local address', 'a link-local address', None)
    """
    try:
        address = ip_address(ip.partition("%")[0])
    except ValueError:
        return "no IP address"
    return next((reason for one in (address, *_embedded(address)) if (reason := _forbidden(one)) is not None), None)


def _forbidden(address: IPv4Address | IPv6Address) -> str | None:
    if address.is_link_local:
        return "a link-local address"
    if any(address in network for network in _METADATA):
        return "the address of a cloud's metadata"
    if address.is_unspecified or (address.version == 4 and address.packed[0] == 0):
        return "an unspecified address"
    if address.is_multicast:
        return "a multicast address"
    return "a broadcast address" if address == IPv4Address("255.255.255.255") else None


def _embedded(address: IPv4Address | IPv6Address) -> list[IPv4Address]:
    """Return the IPv4 addresses that an IPv6 address stands for."""
    if isinstance(address, IPv4Address):
        return []
    last = IPv4Address(address.packed[-4:])
    found = [address.ipv4_mapped, address.sixtofour, *(address.teredo or ())]
    if any(address in network for network in _NAT64):
        found.append(last)
    # ::1 is this machine, not an IPv4 address.
    if address in _COMPATIBLE and int(address) > 1:
        found.append(last)
    return [one for one in found if one is not None]
