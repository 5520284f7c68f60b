"""Where a server that computes has to fetch an object from."""

from __future__ import annotations

from dataclasses import dataclass, field

from activestore.network.redaction import public_address

__all__ = ["Origin"]


@dataclass(frozen=True, slots=True)
class Origin:
    """An object as a server elsewhere is told of it.

    Examples:
        >>> Origin("s3", "https://store.example/bucket/tas.nc", user="K", password="S")
        Origin('s3', 'https://store.example/bucket/tas.nc', obstacle=None)
    """

    interface_type: str
    """"s3", "http" or "https"; "file" for a server that sees the same files."""
    url: str
    """Address; of an S3 object path-style: scheme://host[:port]/bucket/key; of a file: file:///path."""
    user: str | None = field(default=None, repr=False)
    """S3 access key, or the user of an HTTP server."""
    password: str | None = field(default=None, repr=False)
    """S3 secret key, or the password of an HTTP server."""
    obstacle: str | None = None
    """What a Reductionist server could not be told, so that it could not reach the object; None if there is nothing."""
    token: str | None = field(default=None, repr=False)
    """Session token of temporary S3 keys: only a server that takes one can use them."""
    region: str | None = None
    """S3's region, which signatures name; None where it is not known, or there is none."""

    def __repr__(self) -> str:
        return f"Origin({self.interface_type!r}, {public_address(self.url)!r}, obstacle={self.obstacle!r})"
