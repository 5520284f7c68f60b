"""Errors of fsspec's file systems as ours, without the secrets of addresses."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from contextlib import contextmanager

from activestore.errors import ActivestoreError, SourceError, SourceNotFoundError, UnsupportedError, map_errors
from activestore.network.redaction import public_address, secret_parts

__all__ = ["named_errors"]

_LONGEST = 200
"""Characters of what a file system says that are passed on."""


@contextmanager
def named_errors(uri: str) -> Iterator[None]:
    """Translate whatever a file system of fsspec raises; of an address that has secrets in it, nothing that may quote it.

    Raises:
        SourceNotFoundError: There is nothing there.
        UnsupportedError: No installed package knows such addresses.
        SourceError: In place of anything else.
    """
    shown, quoting = public_address(uri), not secret_parts(uri)
    failed: ActivestoreError
    try:
        with map_errors(shown):
            try:
                yield
            except ActivestoreError:
                raise
            except Exception as error:
                untrusted = _untrusted(error)
                if untrusted is not None:
                    raise SourceError(f"{shown}: its TLS certificate is not trusted ({untrusted})") from None
                raise
    except ActivestoreError as error:
        failed = error
    except (ImportError, ValueError) as error:
        failed = UnsupportedError(f"{shown}: cannot be opened: {error}")
    except Exception as error:  # noqa: BLE001  # each of fsspec's file systems raises errors of its own
        what = " ".join(str(error).split())[:_LONGEST]
        told = f"({type(error).__name__}{f': {what}' if what and quoting else ''})"
        failed = SourceError(f"{shown}: cannot be read {told}; check the address and storage_options")
    else:
        return
    if quoting:
        raise failed from None
    said = f"{shown}: cannot be read; check the address and storage_options"
    # Another one: what the first came from quotes the address.
    raise type(failed)(str(failed) if isinstance(failed, SourceNotFoundError) else said) from None


def _untrusted(error: BaseException | None) -> str | None:
    """Return why a certificate is not trusted, if that is what an error comes from: some say there is no such file."""
    while error is not None:
        found = getattr(error, "certificate_error", error)
        if isinstance(found, ssl.SSLCertVerificationError):
            return found.verify_message or str(found)
        error = error.__cause__ or error.__context__
    return None
