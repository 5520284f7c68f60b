"""Errors of fsspec's file systems as ours, without the secrets of addresses."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from activestore.errors import ActivestoreError, SourceError, SourceNotFoundError, UnsupportedError, map_errors
from activestore.redaction import public_address, secret_parts

__all__ = ["named_errors"]


@contextmanager
def named_errors(uri: str) -> Iterator[None]:
    """Translate whatever a file system of fsspec raises; if the address has secrets in it, without the cause, which quotes it.

    Raises:
        SourceNotFoundError: There is nothing there.
        UnsupportedError: No installed package knows such addresses.
        SourceError: In place of anything else.
    """
    shown = public_address(uri)
    failed, cause = None, None
    try:
        with map_errors(shown):
            yield
    except ActivestoreError as error:
        failed, cause = error, error.__cause__
    except (ImportError, ValueError) as error:
        failed, cause = UnsupportedError(f"{shown}: cannot be opened: {error}"), error
    except Exception as error:  # noqa: BLE001  # each of fsspec's file systems raises errors of its own
        what = f"cannot be read ({type(error).__name__})"
        failed, cause = SourceError(f"{shown}: {what}; check the address and storage_options"), error
    if failed is None:
        return
    if not secret_parts(uri):
        raise failed from cause
    quoting = not isinstance(failed, SourceNotFoundError)
    message = f"{shown}: cannot be read; check the address and storage_options" if quoting else str(failed)
    raise type(failed)(message) from None
