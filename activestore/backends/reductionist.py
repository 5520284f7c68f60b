"""The Reductionist backend: a server beside the store reduces the chunks, and only its small answers come over the network.

This file registers it. What it needs is optional and slow to import, and is imported when it is opened.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping

from activestore.core.backend import Backend, BackendOptions, BackendRecord
from activestore.core.source import ReadableSource
from activestore.errors import BackendUnavailableError, to_install
from activestore.hookspecs import hookimpl

__all__ = ["activestore_backends"]


def _available() -> str | None:
    missing = [name for name in ("cbor2", "urllib3") if importlib.util.find_spec(name) is None]
    return f"{' and '.join(missing)} not installed: {to_install('reductionist')}" if missing else None


def _open(source: ReadableSource, options: BackendOptions) -> Backend:
    from activestore.reductionist.batch_backend import open_backend  # noqa: PLC0415  # optional, slow to import

    return open_backend(source, options)


def _check(address: str, options: Mapping[str, object]) -> str:
    """Return one line on the server at `address`.

    Raises:
        BackendUnavailableError: It does not answer, or is none.
        ConfigurationError: An option is not understood.
    """
    problem = _available()
    if problem is not None:
        raise BackendUnavailableError(f"the backend 'reductionist' cannot be used here: {problem}")
    from activestore.reductionist.client import Server, ServerOptions, server_address  # noqa: PLC0415
    from activestore.reductionist.probe import ask  # noqa: PLC0415

    server = Server(server_address(address), ServerOptions.parse(options), connections=2)
    try:
        version, extension = ask(server)
        if extension is not None and server.options.extension:
            return f"answers as an activestore server {extension.version} ({version}, extension)"
        return f"answers as a Reductionist server ({version})"
    finally:
        server.close()


@hookimpl
def activestore_backends() -> list[BackendRecord]:
    """Register the Reductionist backend."""
    return [
        BackendRecord(
            name="reductionist",
            open=_open,
            description="has a Reductionist server beside the store reduce each chunk, and moves only its answers",
            available=_available,
            check=_check,
        )
    ]
