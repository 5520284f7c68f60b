"""Real servers on loopback: Reductionist, our own, an S3 store over a folder, and nginx."""

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trustme
import urllib3

INSTALL = "run tests/real/install, which installs what is missing"
START_SECONDS = 30
STOP_SECONDS = 10
S3_KEY, S3_SECRET, S3_BUCKET = "activestore-key", "activestore-secret", "bucket"


class ServerMissingError(Exception):
    """A server's program is not on this machine; the message says how to get it."""


@dataclass(frozen=True, slots=True)
class Authority:
    """A certificate authority of the tests' own, and a certificate of it for 127.0.0.1 and localhost."""

    ca_file: Path
    cert_file: Path
    key_file: Path


@dataclass(frozen=True, slots=True)
class Reductionist:
    """A Reductionist that answers `POST {url}/v2/{operation}`."""

    url: str
    # What verifies the server's certificate; None over http.
    ca_file: Path | None
    # What the server wrote so far.
    log_file: Path


@dataclass(frozen=True, slots=True)
class EmbeddedServer:
    """Our own server, in a process of its own."""

    url: str
    # What verifies the server's certificate; None over http.
    ca_file: Path | None
    # What the server wrote so far: errors, and a line of JSON for each request.
    log_file: Path
    process: subprocess.Popen[bytes]


@dataclass(frozen=True, slots=True)
class S3Store:
    """An S3 store over a folder: a file copied into `folder` is an object of `bucket`."""

    url: str
    key: str
    secret: str
    bucket: str
    folder: Path

    @property
    def storage_options(self) -> dict[str, Any]:
        """What fsspec's "s3" file system takes."""
        return {"key": self.key, "secret": self.secret, "client_kwargs": {"endpoint_url": self.url}}


@dataclass(frozen=True, slots=True)
class WebServer:
    """A web server that answers Range: a file copied into `folder` is `{url}/{name}`."""

    url: str
    folder: Path
    # What verifies the server's certificate; None over http.
    ca_file: Path | None


def certificates(folder: Path) -> Authority:
    """Make an authority and a certificate for this machine's loopback names, as files in a folder."""
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1", "localhost")
    made = Authority(ca_file=folder / "ca.pem", cert_file=folder / "cert.pem", key_file=folder / "key.pem")
    authority.cert_pem.write_to_path(str(made.ca_file))
    certificate.private_key_pem.write_to_path(str(made.key_file))
    for pem in certificate.cert_chain_pems:
        pem.write_to_path(str(made.cert_file), append=True)
    return made


@contextmanager
def run_reductionist(
    folder: Path, authority: Authority, *, https: bool = False, environment: Mapping[str, str] | None = None
) -> Iterator[Reductionist]:
    """Run Reductionist, which trusts this authority's https origins, while the context lasts.

    `environment` adds to the server's environment; there it takes any of its options, as REDUCTIONIST_USE_CHUNK_CACHE.
    """
    program = _program("reductionist", Path(os.environ.get("CARGO_HOME", "~/.cargo"), "bin"))
    settings = {"REDUCTIONIST_THREAD_LIMIT": "4", "RUST_LOG": "warn", "SSL_CERT_FILE": str(authority.ca_file)}
    tls = ["--https", "--cert-file", str(authority.cert_file), "--key-file", str(authority.key_file)] if https else []
    ca_file = authority.ca_file if https else None
    with _running(
        lambda port: [program, "--host", "127.0.0.1", "--port", str(port), *tls],
        folder=folder,
        ca_file=ca_file,
        environment=settings | dict(environment or {}),
    ) as (url, log_file, _):
        yield Reductionist(url, ca_file, log_file)


@contextmanager
def run_embedded(
    folder: Path, *options: str, authority: Authority | None = None, environment: Mapping[str, str] | None = None
) -> Iterator[EmbeddedServer]:
    """Run `activestore serve` with these options while the context lasts: with TLS where an authority is given."""
    program = [sys.executable, "-m", "activestore", "serve"]
    tls = ["--tls-cert", str(authority.cert_file), "--tls-key", str(authority.key_file)] if authority else []
    ca_file = authority.ca_file if authority else None
    with _running(
        lambda port: [*program, "--port", str(port), *tls, *options], folder=folder, ca_file=ca_file, environment=environment
    ) as (url, log_file, process):
        yield EmbeddedServer(url, ca_file, log_file, process)


@contextmanager
def run_s3_store(folder: Path) -> Iterator[S3Store]:
    """Run versitygw over a new bucket below this folder while the context lasts."""
    program = _program("versitygw", Path(os.environ.get("GOBIN", "~/go/bin")), Path(os.environ.get("GOPATH", "~/go"), "bin"))
    objects = folder / "buckets" / S3_BUCKET
    objects.mkdir(parents=True)

    def command(port: int) -> list[str]:
        # Stores that people run keep connections open; this one does when it is told to.
        options = ["--access", S3_KEY, "--secret", S3_SECRET, "--port", f"127.0.0.1:{port}", "--quiet", "--keep-alive"]
        return [program, *options, "posix", str(objects.parent)]

    with _running(command, folder=folder) as (url, _, _):
        yield S3Store(url, S3_KEY, S3_SECRET, S3_BUCKET, objects)


@contextmanager
def run_web_server(folder: Path, authority: Authority | None = None) -> Iterator[WebServer]:
    """Run nginx over a new folder below this one while the context lasts: with TLS where an authority is given."""
    program = _program("nginx", Path("/usr/sbin"), Path("/usr/local/sbin"), Path("/opt/homebrew/bin"))
    served, settings = folder / "served", folder / "nginx.conf"
    served.mkdir()

    def command(port: int) -> list[str]:
        settings.write_text(_nginx_settings(folder, served, port=port, authority=authority))
        return [program, "-p", str(folder), "-c", str(settings), "-e", "stderr"]

    ca_file = authority.ca_file if authority else None
    with _running(command, folder=folder, ca_file=ca_file) as (url, _, _):
        yield WebServer(url, served, ca_file)


def _nginx_settings(folder: Path, served: Path, *, port: int, authority: Authority | None) -> str:
    temporary = "".join(f"{kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    tls = f"ssl_certificate {authority.cert_file}; ssl_certificate_key {authority.key_file};" if authority else ""
    # One process only: it is ended by its id, and a worker of root's would have no right to read the tests' folders.
    return f"""
        daemon off; master_process off; pid {folder}/nginx.pid;
        events {{ worker_connections 1024; }}
        http {{
            access_log off; default_type application/octet-stream; {temporary}
            server {{ listen 127.0.0.1:{port} {"ssl" if authority else ""}; {tls} root {served}; }}
        }}
    """


def _program(name: str, *folders: Path) -> str:
    path = os.pathsep.join([os.environ.get("PATH", ""), *(str(folder.expanduser()) for folder in folders)])
    found = shutil.which(name, path=path)
    if found is None:
        raise ServerMissingError(f"{name} is not installed: {INSTALL}")
    return found


@contextmanager
def _running(
    command: Callable[[int], Sequence[str]],
    *,
    folder: Path,
    ca_file: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> Iterator[tuple[str, Path, subprocess.Popen[bytes]]]:
    """Run a server on a free port until the context ends: its URL, the file with its output, and the process."""
    log_file = folder / "output.log"
    with ExitStack() as stack:
        for attempt in range(3):
            port = _free_port()
            with log_file.open("wb") as log:
                process = subprocess.Popen(
                    command(port), stdout=log, stderr=subprocess.STDOUT, env={**os.environ, **(environment or {})}
                )
            stack.callback(_end, process)
            url = f"{'https' if ca_file else 'http'}://127.0.0.1:{port}"
            if _answers(process, url, ca_file):
                break
            # Between looking for a free port and the server's taking it, another program may have taken it.
            taken = process.poll() is not None and "in use" in log_file.read_text(errors="replace")
            if attempt == 2 or not taken:
                raise RuntimeError(f"{process.args} does not answer at {url}:\n{log_file.read_text(errors='replace')}")
        yield url, log_file, process


def _answers(process: subprocess.Popen[bytes], url: str, ca_file: Path | None) -> bool:
    """Whether the server answers anything at all, before the time is up or it ends."""
    end = time.monotonic() + START_SECONDS
    with urllib3.PoolManager(ca_certs=str(ca_file) if ca_file else None, timeout=START_SECONDS, retries=False) as http:
        while time.monotonic() < end and process.poll() is None:
            try:
                http.request("GET", url)
            except urllib3.exceptions.HTTPError:
                time.sleep(0.05)
            else:
                return process.poll() is None
    return False


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
