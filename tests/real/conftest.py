"""The real servers as fixtures, one of each a session, and a line to put before them."""

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from typing import Any, TypeVar
from urllib.parse import urlsplit

import pytest

from tests.real.line import Line
from tests.real.servers import (
    Authority,
    EmbeddedServer,
    Reductionist,
    S3Store,
    ServerMissingError,
    WebServer,
    certificates,
    run_embedded,
    run_reductionist,
    run_s3_store,
    run_web_server,
)

Server = TypeVar("Server")


def _served(server: AbstractContextManager[Server]) -> Iterator[Server]:
    """Run a server. One that is missing fails the test where all have to be there, and skips it elsewhere."""
    with ExitStack() as stack:
        missing = ""
        try:
            running = stack.enter_context(server)
        except ServerMissingError as error:
            missing = str(error)
        if missing and os.environ.get("ACTIVESTORE_REAL") == "require":
            pytest.fail(missing, pytrace=False)
        if missing:
            pytest.skip(missing)
        yield running


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """The authority (`.ca_file`) that every https server of these tests has its certificate from."""
    return certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="session")
def reductionist(tmp_path_factory: pytest.TempPathFactory, authority: Authority) -> Iterator[Reductionist]:
    """Reductionist 0.13.1 over http (`.url`): four requests at a time, no chunk cache; it trusts `web_server_https`."""
    yield from _served(run_reductionist(tmp_path_factory.mktemp("reductionist"), authority))


@pytest.fixture(scope="session")
def reductionist_https(tmp_path_factory: pytest.TempPathFactory, authority: Authority) -> Iterator[Reductionist]:
    """The same over https: `.url`, and `.ca_file` to verify it."""
    yield from _served(run_reductionist(tmp_path_factory.mktemp("reductionist-https"), authority, https=True))


@pytest.fixture(scope="session")
def s3_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Store]:
    """An S3 store: a file copied into `.folder` is an object of `.bucket`; `.storage_options` are for fsspec's s3.

    Every test sees the same bucket, so give files names of your own. A file copied in has an empty ETag; one
    that was put through S3 has one.
    """
    yield from _served(run_s3_store(tmp_path_factory.mktemp("s3")))


@pytest.fixture(scope="session")
def web_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebServer]:
    """A web server (nginx) over http that answers Range: a file copied into `.folder` is `{url}/{name}`."""
    yield from _served(run_web_server(tmp_path_factory.mktemp("web")))


@pytest.fixture(scope="session")
def web_server_https(tmp_path_factory: pytest.TempPathFactory, authority: Authority) -> Iterator[WebServer]:
    """The same over https, with a folder of its own: `.ca_file` verifies it."""
    yield from _served(run_web_server(tmp_path_factory.mktemp("web-https"), authority))


@pytest.fixture(scope="session")
def embedded(tmp_path_factory: pytest.TempPathFactory, s3_store: S3Store, web_server: WebServer) -> Iterator[EmbeddedServer]:
    """Our own server over http (`.url`), which reads `s3_store`, `web_server` and the folders of both: what is an object is
    a file as well.
    """
    origins = [option for server in (s3_store, web_server) for option in ("--allow-origin", server.url)]
    roots = [option for server in (s3_store, web_server) for option in ("--root", str(server.folder))]
    yield from _served(run_embedded(tmp_path_factory.mktemp("embedded"), *origins, *roots))


@pytest.fixture
def line() -> Iterator[Callable[..., Line]]:
    """A line to a server's URL until the test ends: `line(reductionist.url, round_trip=0.025, bits_per_second=100e6)`.

    Clients use `.url` of what comes back in the server's place.
    """
    with ExitStack() as stack:

        def to(url: str, **options: Any) -> Line:
            target = urlsplit(url)
            return stack.enter_context(Line(target.hostname, target.port, scheme=target.scheme, **options))

        yield to
