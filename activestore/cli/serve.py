"""The command `activestore serve`: its arguments, and a clear word where what it needs is not installed."""

from __future__ import annotations

import argparse
import importlib.util

from activestore.errors import UnsupportedError, to_install

__all__ = ["SERVE_EPILOG", "add_serve", "serve"]

_NEEDED = ("botocore", "cbor2", "httptools", "prometheus_client", "starlette", "urllib3", "uvicorn")

SERVE_EPILOG = """\
examples:
  activestore serve --root /data                              files below /data, for this machine
  activestore serve --allow-origin https://store.example      objects of a store, with the caller's login
  activestore serve --allow-origin https://store.example/cmip6 --cache 2GiB
                                                              one bucket of it, keeping what is read often
  activestore serve --root /data --host 0.0.0.0 --tls-cert cert.pem --tls-key key.pem --token-file token
                                                              for other machines: encrypted, and not for everybody

clients:
  Active("s3://cmip6/tas.nc", "tas", backend="reductionist", server="http://127.0.0.1:8080")
  and every other client of Reductionist's protocol: PyActiveStorage, cf-python

Nothing can be read but what --root and --allow-origin name. Callers' logins go to the origin, and are neither kept nor logged.
GET /healthz tells whether it runs, GET /metrics what it does (Prometheus); every request has a line of JSON on stderr.
Ctrl-C or SIGTERM stops it, once what is under way is done.
"""


def add_serve(command: argparse.ArgumentParser) -> None:
    """Add the arguments of `activestore serve`."""
    what = command.add_argument_group("what may be read")
    what.add_argument("--root", metavar="FOLDER", action="append", default=[], help="files below this folder; again for more")
    what.add_argument(
        "--allow-origin",
        metavar="URL",
        action="append",
        default=[],
        help="objects below this address: https://host[:port][/bucket]; again for more",
    )
    what.add_argument("--ca-bundle", metavar="FILE", help="authorities that certificates of origins are verified by")
    who = command.add_argument_group("who may ask")
    who.add_argument("--host", default="127.0.0.1", help="address to listen on (127.0.0.1: this machine only)")
    who.add_argument("--port", type=int, default=8080, help="port to listen on; 0 for any that is free (8080)")
    who.add_argument("--tls-cert", metavar="FILE", help="certificate, and those of its authorities (PEM)")
    who.add_argument("--tls-key", metavar="FILE", help="its key (PEM)")
    who.add_argument(
        "--token-file", metavar="FILE", help="what clients have to show (else ACTIVESTORE_SERVE_TOKEN; without either: nothing)"
    )
    how = command.add_argument_group("how much at once")
    how.add_argument("--workers", metavar="N", type=int, help="chunks computed at once (one for each processor)")
    how.add_argument("--readers", metavar="N", type=int, help="reads from origins at once (32)")
    how.add_argument(
        "--client-connections", metavar="N", type=int, help="connections of one client address (a quarter of all that are open)"
    )
    how.add_argument("--queue", metavar="N", type=int, help="requests that may wait; the next one is told to come back (1000)")
    how.add_argument("--memory", metavar="SIZE", help="memory of all chunks at work (64MiB for each worker, 128MiB at least)")
    how.add_argument("--max-chunk", metavar="SIZE", help="size of a chunk, stored or decoded (256MiB)")
    how.add_argument("--max-request", metavar="SIZE", help="size of a request (8MiB)")
    how.add_argument("--cache", metavar="SIZE", help="memory for stored chunks that are kept (none)")
    other = command.add_argument_group("other")
    other.add_argument("--v1", action="store_true", help="speak the protocol's first version as well, for old clients")
    other.add_argument("--grace", metavar="SECONDS", type=int, default=60, help="time for what runs when it is stopped (60)")
    other.add_argument("--no-access-log", action="store_true", help="no line for each request")


def serve(arguments: argparse.Namespace) -> int:
    """Run the server until it is told to stop, and return the exit code.

    Raises:
        UnsupportedError: What it needs is not installed.
        ConfigurationError: Something on the command line is not understood.
    """
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise UnsupportedError(f"serve needs {', '.join(missing)}: {to_install('server')}")
    from activestore.server.command import serve as run  # noqa: PLC0415  # needs optional packages

    return run(arguments)
