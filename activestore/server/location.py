"""Where a request says that its bytes are."""

from __future__ import annotations

from dataclasses import dataclass, field

from activestore.network.redaction import public_address

__all__ = ["Login", "Place"]


@dataclass(frozen=True, slots=True)
class Login:
    """What a caller passes on to the origin; it lives as long as the request."""

    user: str = field(repr=False)
    """S3 access key, or the user of an HTTP server."""
    password: str = field(repr=False)
    """S3 secret key, or the password of an HTTP server."""
    session_token: str | None = field(default=None, repr=False)
    """Belongs to temporary S3 keys."""


@dataclass(frozen=True, slots=True)
class Place:
    """An object as the request names it: nothing of it has been checked but that it is an address.

    Examples:
        >>> Place("s3", "https://store.example/bucket/tas.nc?secret", Login("K", "S"))
        Place('s3', 'https://store.example/bucket/tas.nc')
    """

    interface_type: str
    """"s3", "http", "https" or "file"."""
    url: str
    """Its address; of an S3 object path-style: scheme://host[:port]/bucket/key; of a file: file:///path."""
    login: Login | None = field(default=None, repr=False)
    """None for what everybody may read."""
    region: str = "us-east-1"
    """S3's region, which signatures name."""

    def __repr__(self) -> str:
        return f"Place({self.interface_type!r}, {public_address(self.url)!r})"
