"""`activestore serve`: what the operator says on the command line, and running the server."""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import errno
import gc
import ipaddress
import logging
import os
import re
import signal
import socket
import ssl
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import uvicorn
from prometheus_client import disable_created_metrics

import activestore
from activestore.errors import ConfigurationError
from activestore.server.engine import THREADS
from activestore.server.http.app import create_app
from activestore.server.http.connection import Connection, limited
from activestore.server.http.middleware import ACCESS_LOG
from activestore.server.settings import ServerSettings

__all__ = ["serve", "settings_of"]

_LOGGER = logging.getLogger("activestore.server")
_TOKEN = "ACTIVESTORE_SERVE_TOKEN"  # noqa: S105  # the name of a variable
_OBJECTS = 10_000
"""Objects that are made before Python looks for those that nobody uses any more."""
_CONNECTIONS = 4096
"""Connections of clients that may be open at once."""
_LARGEST_SHARE = 4
"""The part of them that one client address may have is one of so many."""
_OTHER_FILES = 512
"""Files, and connections to origins, that may be open at once."""
_KEEP_ALIVE = 75
"""Seconds for which an idle connection is kept."""
_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""What TLS 1.2 encrypts with; older versions are refused."""
_LEAST_SIZE = 64 << 10
"""What any size has to be at least: below it nothing would ever be answered."""
_SIZES = {"memory": "memory", "max_chunk": "largest_chunk", "max_request": "largest_request", "cache": "cache"}
"""Options that are sizes, and the settings that they are."""
_LEAST_NUMBERS = {"workers": 1, "readers": 1, "client_connections": 1, "queue": 0, "grace": 0}
_UNITS = {
    "": 1,
    "k": 1000,
    "m": 1000**2,
    "g": 1000**3,
    "t": 1000**4,
    "ki": 1 << 10,
    "mi": 1 << 20,
    "gi": 1 << 30,
    "ti": 1 << 40,
}


def serve(arguments: argparse.Namespace) -> int:
    """Run the server until it is told to stop, and return the exit code.

    Raises:
        ConfigurationError: Something on the command line is not understood, or the address is taken.
    """
    settings = settings_of(arguments)
    disable_created_metrics()  # type: ignore[no-untyped-call]  # when counters began would double what is shown
    app = create_app(settings, version=activestore.__version__)
    _take_memory_from_one_pool()
    # What is there now stays. Requests leave no garbage; looking for it in the parts of a large one would hold up all others.
    gc.freeze()
    gc.set_threshold(_OBJECTS)
    listening = _listening(arguments.host, arguments.port)
    _log_to_stderr(access=not arguments.no_access_log)
    scheme = "http" if arguments.tls_cert is None else "https"
    with listening:
        _warn(listening, settings, secure=scheme == "https")
        host, port = listening.getsockname()[:2]
        shown = f"[{host}]" if ":" in host else host
        server = _Server(_config(app, arguments, settings), grace=arguments.grace)
        # uvicorn takes them itself once it runs, and sends them again when it has ended: stopping it is no failure.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, server.handle_exit)
        print(f"activestore: serving on {scheme}://{shown}:{port}; Ctrl-C stops", file=sys.stderr, flush=True)
        server.run(sockets=[listening])
    if any(thread.name.startswith(THREADS) for thread in threading.enumerate()):
        # Python would wait for them, for ever if a file system does not answer.
        _LOGGER.warning("reads that do not end are left behind")
        logging.shutdown()
        os._exit(0)
    return 0


class _Server(uvicorn.Server):
    """uvicorn's server, which at the end breaks off what is under way: reads that nobody ends would go on."""

    def __init__(self, config: uvicorn.Config, *, grace: float) -> None:
        """Prepare to run; `grace` is how many seconds requests may take once it is told to stop."""
        super().__init__(config)
        self._grace = grace

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End, in time or, told twice, at once."""
        timer = asyncio.get_running_loop().call_later(self._grace, self._break_off)
        await super().shutdown(sockets)
        timer.cancel()
        if self.force_exit:
            await self.lifespan.shutdown()
            await self._end_connections()

    async def _end_connections(self) -> None:
        """Give those who ask the time to hear of it, and end the connections of those who do not listen."""
        await self._end_tasks()
        for connection in list(self.server_state.connections):
            if isinstance(connection, Connection):
                connection.transport.abort()
        await self._end_tasks()

    async def _end_tasks(self) -> None:
        if self.server_state.tasks:
            await asyncio.wait(self.server_state.tasks, timeout=1)

    def _break_off(self) -> None:
        _LOGGER.warning("what is still under way after %g s is broken off", self._grace)
        self.force_exit = True


def settings_of(arguments: argparse.Namespace) -> ServerSettings:
    """Return what the command line says.

    Raises:
        ConfigurationError: It is not understood, or nothing may be read.
    """
    if not arguments.root and not arguments.allow_origin:
        raise ConfigurationError("nothing could be read: name a folder with --root, or a store with --allow-origin https://…")
    for name, least in _LEAST_NUMBERS.items():
        number = getattr(arguments, name)
        if number is not None and number < least:
            raise ConfigurationError(f"--{name.replace('_', '-')} {number}: give a whole number from {least} up")
    _check_files(arguments)
    sizes = {setting: _size(option, getattr(arguments, option)) for option, setting in _SIZES.items()}
    given = sizes | {name: getattr(arguments, name) for name in ("workers", "readers", "client_connections", "queue")}
    return ServerSettings(
        roots=tuple(Path(root) for root in arguments.root),
        origins=tuple(arguments.allow_origin),
        v1=arguments.v1,
        token=_token(arguments.token_file),
        verify=True if arguments.ca_bundle is None else arguments.ca_bundle,
        **{name: value for name, value in given.items() if value is not None},
    )


def _check_files(arguments: argparse.Namespace) -> None:
    """Do nothing if the files of certificates are there and can be used.

    Raises:
        ConfigurationError: They cannot.
    """
    cert, key = arguments.tls_cert, arguments.tls_key
    if (cert is None) != (key is None):
        raise ConfigurationError("--tls-cert and --tls-key go together")
    for name, path in (("--tls-cert", cert), ("--tls-key", key), ("--ca-bundle", arguments.ca_bundle)):
        if path is not None and not Path(path).is_file():
            raise ConfigurationError(f"{name} {path}: there is no such file")
    if cert is None:
        return
    try:
        # With a password of no letters, OpenSSL does not ask the terminal for one.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cert, key, password="")
    except OSError as error:
        why = getattr(error, "reason", None) or error.strerror or type(error).__name__
        what = "are no certificate and its key in PEM, without a password"
        raise ConfigurationError(f"--tls-cert {cert}, --tls-key {key}: {what} ({why})") from None


def _size(option: str, text: str | None) -> int | None:
    """Return how many bytes a text such as "256MiB" stands for, None if there is no text.

    Raises:
        ConfigurationError: It stands for none, or for too few.
    """
    if text is None:
        return None
    said = f"--{option.replace('_', '-')} {text}"
    found = re.fullmatch(r"(\d{1,15})\s*([kmgt]?i?)b?", text.strip().lower(), re.ASCII)
    if found is None or found[2] not in _UNITS:
        raise ConfigurationError(f"{said}: is no size; write 256MiB, say")
    nbytes = int(found[1]) * _UNITS[found[2]]
    if nbytes < _LEAST_SIZE and not (option == "cache" and nbytes == 0):
        raise ConfigurationError(f"{said}: give 64KiB or more")
    return nbytes


def _token(path: str | None) -> str | None:
    """Return what clients have to show: the content of a file, or of the environment variable.

    Raises:
        ConfigurationError: There is a file or a variable, but nothing that can be a token in it.
    """
    try:
        token = os.environ.get(_TOKEN) if path is None else Path(path).read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"--token-file {path}: cannot be read ({type(error).__name__})") from None
    if token is not None and not re.fullmatch(r"[!-~]{16,1024}", token):
        where = _TOKEN if path is None else f"--token-file {path}"
        raise ConfigurationError(f"{where}: a token has 16 characters or more, and no spaces")
    return token


def _listening(host: str, port: int) -> socket.socket:
    """Return a socket that listens.

    Raises:
        ConfigurationError: The address is none of this machine's, or taken.
    """
    if not 0 <= port <= 65535:
        raise ConfigurationError(f"--port {port}: give a number from 0 to 65535")
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family, backlog=2048)
    except (OSError, UnicodeError) as error:
        # Python's own words repeat the address.
        why = (
            error.strerror if isinstance(error, socket.gaierror) else os.strerror(getattr(error, "errno", None) or errno.EINVAL)
        )
        raise ConfigurationError(f"cannot listen on {host!r}, port {port}: {why}; choose another") from None


def _warn(listening: socket.socket, settings: ServerSettings, *, secure: bool) -> None:
    """Say what is open to everybody."""
    host = listening.getsockname()[0]
    if ipaddress.ip_address(host.partition("%")[0]).is_loopback:
        return
    if settings.token is None:
        print(f"activestore: warning: who reaches {host} can use this server; --token-file closes it", file=sys.stderr)
    if not secure:
        print(
            f"activestore: warning: logins come to {host} unencrypted; --tls-cert and --tls-key encrypt them", file=sys.stderr
        )


def _config(app: Any, arguments: argparse.Namespace, settings: ServerSettings) -> uvicorn.Config:  # Any: an ASGI application
    connections = _connections()
    return uvicorn.Config(
        app,
        http=limited(settings.client_connections or max(1, connections // _LARGEST_SHARE)),
        ws="none",
        lifespan="on",
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        backlog=2048,
        limit_concurrency=connections,
        timeout_keep_alive=_KEEP_ALIVE,
        ssl_certfile=arguments.tls_cert,
        ssl_keyfile=arguments.tls_key,
        ssl_ciphers=_CIPHERS,
    )


def _connections() -> int:
    """Return how many connections of clients may be open: so many that files and origins can still be opened."""
    try:
        import resource  # noqa: PLC0415  # of Unix only
    except ImportError:
        return _CONNECTIONS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _CONNECTIONS + _OTHER_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(hard, wanted)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return _CONNECTIONS if soft == resource.RLIM_INFINITY else max(1, min(_CONNECTIONS, soft - _OTHER_FILES))


def _take_memory_from_one_pool() -> None:
    """Let freed memory be used again by whichever thread is next: glibc would keep a pool of it for each thread."""
    most_arenas = -8  # M_ARENA_MAX of malloc.h
    with suppress(OSError, AttributeError, TypeError):  # other C libraries have no such setting
        ctypes.CDLL(None).mallopt(most_arenas, 1)


def _log_to_stderr(*, access: bool) -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.getLogger().addHandler(handler)
    lines = logging.StreamHandler()
    lines.setFormatter(logging.Formatter("%(message)s"))
    log = logging.getLogger(ACCESS_LOG)
    log.propagate = False
    log.setLevel(logging.INFO if access else logging.CRITICAL)
    log.addHandler(lines)
