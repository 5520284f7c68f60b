"""HTTP as sources and backends need it: pooled connections, verified TLS, time limits, capped answers, retries with jitter.

`urllib3` does the work; what is added here is what every caller would have to say again.
"""

from __future__ import annotations

import functools
import logging
import os
import queue
import random
import socket
import ssl
import threading
import time
import urllib.request
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote
from weakref import WeakMethod, WeakSet

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import (
    ConnectTimeoutError,
    HTTPError,
    LocationValueError,
    NameResolutionError,
    NewConnectionError,
    ProxyError,
    ReadTimeoutError,
)
from urllib3.util import parse_url
from urllib3.util.connection import allowed_gai_family

from activestore.errors import ConfigurationError, without_frames
from activestore.network.concurrency_limit import BUSY, Pace, Patience, current_limit, pace_of
from activestore.network.redaction import public_address
from activestore.process.descriptors import FULL, is_full, kept, let_go, released
from activestore.process.forking import Lock, keep_unused, renew_after_fork

__all__ = ["Answer", "AnswerTooLargeError", "Client", "HttpOptions", "NoAnswerError"]

_RETRIED = frozenset({429, 500, 502, 503, 504})
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 8.0
"""Seconds up to which the first and any later retry wait."""


class NoAnswerError(Exception):
    """A server did not answer, or not in full; callers translate it. The message holds no secrets."""


class AnswerTooLargeError(NoAnswerError):
    """An answer is larger than it may be."""


@dataclass(frozen=True, slots=True)
class HttpOptions:
    """How a server is talked to."""

    connections: int = 16
    """Connections that are open at once, at most, to one host."""
    verify: bool | str = True
    """Whether TLS certificates are verified; a path names a file of the authorities that are trusted."""
    connect_timeout: float = 10.0
    """Seconds to wait for a connection."""
    read_timeout: float = 60.0
    """Seconds to wait for the next bytes of an answer."""
    retries: int = 4
    """How many times a request is sent again after a lost connection or an answer of 429, 500, 502, 503 or 504."""
    proxies: bool = True
    """Whether requests go through the proxies that the environment names."""
    peer_allowed: Callable[[str], None] | None = None
    """Called with each IP address that a host's name leads to, before there is a connection to it; those for which this raises
    are left out, and if none is left the request raises what this raised."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server answered."""

    status: int
    """The HTTP status."""
    headers: Mapping[str, str]
    """The headers; names in any case."""
    body: bytes
    """The body, in full."""


class Client:
    """Sends requests over connections that are kept open; used from many threads at once."""

    def __init__(self, options: HttpOptions) -> None:
        """Prepare for requests; nothing is sent.

        Raises:
            ConfigurationError: The file of authorities cannot be read.
        """
        self._options = options
        if options.verify is False:
            message = "TLS certificates are not verified: anyone on the way can change the numbers"
            warnings.warn(message, UserWarning, stacklevel=2)
        self._context: ssl.SSLContext | None = _tls_context(options.verify)
        self._begin()
        renew_after_fork(self)

    def _begin(self) -> None:
        self._live = _Connections(self._close_idle)
        self._abandoned = threading.Event()
        self._lock = Lock()
        # Not urllib3's own limit: who waits there for a connection cannot be told to give up.
        self._slots = threading.BoundedSemaphore(self._options.connections)
        self._managers: dict[str | None, urllib3.PoolManager] = {}
        # They last as long as somebody has them.
        self._paces: dict[str, Pace] = {}

    def renew(self) -> None:
        """Begin anew in a forked child: with no connections, and nobody waiting for one."""
        # Of the context, too, another thread may have held the locks.
        self._context = None
        self._begin()

    def request(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        most: int,
        retries: int | None = None,
    ) -> Answer:
        """Return the answer to a request, sent again where that may help.

        Parameters:
            method: "GET", "HEAD", "POST".
            url: Where to. Redirects are not followed.
            headers: Headers of the request.
            body: Bytes to send.
            most: Bytes that the answer may have.
            retries: In place of what the options say.

        Raises:
            NoAnswerError: There is none, or not in full.
            AnswerTooLargeError: It is larger than `most`.
            ConfigurationError: The environment names a proxy of a kind that is not known.
        """
        abandoned, pace = self._abandoned, self._pace(url)
        patience = Patience(pace, self._options.retries if retries is None else retries)
        while True:
            try:
                answer = self._in_turn(pace, abandoned, lambda: self._once(method, url, headers or {}, body, most))
                if answer.status not in _RETRIED:
                    return answer
                wait = patience.again(answer.status, answer.headers)
                if wait is None:
                    return answer
            except ConfigurationError:
                raise
            except (TypeError, ValueError) as error:
                # Without its cause, which quotes the address or the header, secrets and all.
                raise NoAnswerError(f"{public_address(url)}: {_unsent(error)}") from None
            except (HTTPError, OSError) as error:
                wait = patience.again_unless_too_often()
                if wait is None or abandoned.is_set() or _hopeless(error):
                    raise NoAnswerError(_described(error, url)) from None
                if is_full(error):
                    let_go()
                without_frames(error)  # in which the part of the answer is that has come
            pause = min(_FIRST_PAUSE * 2 ** max(0, patience.attempts - 1), _LONGEST_PAUSE)
            abandoned.wait(wait + random.uniform(0, pause))  # noqa: S311  # spreads retries, keeps no secret

    def patience(self, url: str, retries: int) -> Patience:
        """Return how long a caller with retries of its own sends requests again that the server at an address refuses."""
        return Patience(self._pace(url), retries)

    def _pace(self, url: str) -> Pace:
        server = "/".join(url.split("/", 3)[:3])
        found = self._paces.get(server)
        return found if found is not None else self._paces.setdefault(server, pace_of(url))

    def _in_turn(self, pace: Pace, abandoned: threading.Event, send: Callable[[], Answer]) -> Answer:
        """Send a request when the user, this client and the server have room for it."""
        limit = current_limit()
        if limit is not None:
            limit.begin()
        try:
            with self._slots:
                pace.begin(broken_off=abandoned.is_set)
                sent = time.monotonic()
                try:
                    with _in_thread(abandoned):
                        answer = send()
                finally:
                    pace.end()
        finally:
            if limit is not None:
                limit.end()
        if answer.status in BUSY:
            pace.refused(sent, pace.under_way)
        elif answer.status < 400:
            pace.served()
        return answer

    def abandon(self) -> None:
        """Break off the requests that are under way, which then fail; later ones are sent as ever."""
        abandoned, self._abandoned = self._abandoned, threading.Event()
        abandoned.set()
        self._live.shut_down()
        for pace in list(self._paces.values()):
            pace.wake()

    def close(self) -> None:
        """Close all connections."""
        self._close_idle()
        with self._lock:
            self._managers = {}

    def _close_idle(self) -> None:
        """Close the connections over which no request is under way; the others when it has been answered."""
        with self._lock:
            managers = list(self._managers.values())
        for manager in managers:
            manager.clear()

    def _once(self, method: str, url: str, headers: Mapping[str, str], body: bytes | None, most: int) -> Answer:
        response = self._manager(url).urlopen(
            method,
            url,
            body=body,
            headers={"Accept-Encoding": "identity", "User-Agent": "activestore", **headers},
            preload_content=False,
            decode_content=False,
            redirect=False,
            retries=False,
            timeout=urllib3.Timeout(connect=self._options.connect_timeout, read=self._options.read_timeout),
        )
        try:
            data = _read(response, url, most)
        except BaseException:
            response.close()
            raise
        response.release_conn()
        return Answer(response.status, response.headers, data)

    def _manager(self, url: str) -> urllib3.PoolManager:
        proxy = _proxy_of(url) if self._options.proxies else None
        with self._lock:
            if proxy not in self._managers:
                self._managers[proxy] = self._new_manager(proxy)
            return self._managers[proxy]

    def _new_manager(self, proxy: str | None) -> urllib3.PoolManager:
        if self._context is None:
            self._context = _tls_context(self._options.verify)
        settings: dict[str, Any] = {"maxsize": self._options.connections, "block": True, "ssl_context": self._context}
        manager = urllib3.PoolManager(**settings) if proxy is None else _through_proxy(proxy, settings)
        manager.pool_classes_by_scheme = _pools_that_register(self._live, self._options.peer_allowed)
        return manager


class _Connections:
    """The connections that are open, of which none is kept alive by this."""

    def __init__(self, close_idle: Callable[[], None]) -> None:
        """Take what closes those that are not in use."""
        self._open: WeakSet[HTTPConnection] = WeakSet()
        self._lock = Lock()
        # Not the client itself, to which its connections lead: urllib3 keeps them until the pool that has them goes.
        self._close_idle = WeakMethod(close_idle)

    def add(self, connection: HTTPConnection) -> None:
        """Take a connection that was just made.

        Raises:
            ConnectionAbortedError: The request that it was made for has been broken off meanwhile.
        """
        with self._lock:
            self._open.add(connection)
        kept(self)
        if _THREAD.abandoned is not None and _THREAD.abandoned.is_set():
            raise ConnectionAbortedError

    def let_go(self) -> bool:
        """Close those that are not in use, which are made anew when they are needed."""
        close_idle = self._close_idle()
        if close_idle is not None:
            close_idle()
        return not any(connection.sock is not None for connection in self._listed())

    def _listed(self) -> list[HTTPConnection]:
        with self._lock:
            return list(self._open)

    def shut_down(self) -> None:
        """End them all: who waits for one has an error."""
        for connection in self._listed():
            # Looked up once: the thread that it belongs to may close it at any moment.
            connected = connection.sock
            if connected is not None:
                with suppress(OSError):  # it may be closed by now
                    connected.shutdown(socket.SHUT_RDWR)


class _Queue(queue.LifoQueue[Any]):  # Any: connections, and None for those that are not made yet
    """Where a pool keeps its connections; urllib3 closes those that are in it when the pool goes."""

    def __init__(self, maxsize: int = 0) -> None:
        super().__init__(maxsize)
        renew_after_fork(self)

    def renew(self) -> None:
        """Be empty, and free: the connections are the parent's."""
        keep_unused(self.queue)
        queue.LifoQueue.__init__(self, self.maxsize)


def _connected(
    connection: HTTPConnection, connect: Callable[[], socket.socket], peer_allowed: Callable[[str], None] | None
) -> socket.socket:
    """Return a connection to one of the addresses that a name leads to, each judged before it is connected to.

    Raises:
        NameResolutionError: It leads nowhere.
        NewConnectionError: Nothing answers there.
        Exception: What `peer_allowed` raised, if it allowed none.
    """
    if peer_allowed is None:
        return connect()
    name = connection._dns_host
    failed: Exception | None = None
    refused: Exception | None = None
    try:
        found = socket.getaddrinfo(name, connection.port, allowed_gai_family(), socket.SOCK_STREAM)
        for ip in dict.fromkeys(str(sockaddr[0]) for *_, sockaddr in found):
            try:
                peer_allowed(ip)
            except Exception as error:  # noqa: BLE001  # raised below, unless there is another address
                refused = error
                continue
            # Not the name again: by the next look-up it may lead elsewhere.
            connection._dns_host = ip
            try:
                return connect()
            except (ConnectTimeoutError, NewConnectionError) as error:
                failed = error
        raise failed or refused or socket.gaierror(socket.EAI_NONAME, "it leads nowhere")
    except socket.gaierror as error:
        raise NameResolutionError(name, connection, error) from None
    finally:
        connection._dns_host = name
        del failed, refused  # they have this frame


def _pools_that_register(live: _Connections, peer_allowed: Callable[[str], None] | None) -> dict[str, type[HTTPConnectionPool]]:
    """Return classes of pools whose connections are put into `live` when they are made, to peers that are allowed."""

    class Plain(HTTPConnection):
        def _new_conn(self) -> socket.socket:
            return _connected(self, super()._new_conn, peer_allowed)

        def connect(self) -> None:
            super().connect()
            live.add(self)

        def close(self) -> None:
            _closed(self)
            super().close()

    class Secure(HTTPSConnection):
        def _new_conn(self) -> socket.socket:
            return _connected(self, super()._new_conn, peer_allowed)

        def connect(self) -> None:
            super().connect()
            self.is_verified = True  # if it is not, that was warned of once: urllib3 warns at every request
            live.add(self)

        def close(self) -> None:
            _closed(self)
            super().close()

    class PlainPool(HTTPConnectionPool):
        QueueCls = _Queue
        ConnectionCls = Plain

    class SecurePool(HTTPSConnectionPool):
        QueueCls = _Queue
        ConnectionCls = Secure

    return {"http": PlainPool, "https": SecurePool}


def _closed(connection: HTTPConnection) -> None:
    """Take note that a connection is about to be closed, if it was open."""
    if connection.sock is not None:
        released()


def _read(response: urllib3.BaseHTTPResponse, url: str, most: int) -> bytes:
    """Return the body, in full; of an error no more than the beginning.

    Raises:
        AnswerTooLargeError: It is larger than it may be.
    """
    said, failed = response.length_remaining, response.status >= 400
    parts, left = [], most + 1
    if said is None or said <= most or failed:
        # Up to the empty part, which is an error if more was promised.
        while left and (part := response.read(left)):
            parts.append(part)
            left -= len(part)
        if left:
            return b"".join(parts)
        if failed:
            response.close()
            return b"".join(parts)[:most]
    raise AnswerTooLargeError(f"{public_address(url)}: answers with more than the {most:,} bytes that it may")


def _unsent(error: Exception) -> str:
    """Return why a request could not even be sent."""
    if isinstance(error, LocationValueError):
        return "is no address of a web server; check host and port"
    return "a header has something in it that HTTP does not allow; check the options"


def _hopeless(error: Exception) -> bool:
    """Return whether the same would happen again: a certificate is not trusted, a name is not known."""
    causes = [found for found in _causes(error) if not isinstance(found, _LOST)]
    return any(isinstance(found, (ssl.SSLError, NameResolutionError)) for found in causes)


_LOST = (ssl.SSLEOFError, ssl.SSLZeroReturnError)
"""What TLS makes of a connection that is lost."""


_ADVICE: tuple[tuple[type[BaseException], str], ...] = (
    (ProxyError, "its proxy does not answer; check HTTP_PROXY, HTTPS_PROXY and NO_PROXY in the environment"),
    (ssl.SSLCertVerificationError, "its TLS certificate is not trusted ({}); name the file of its authority"),
    (ssl.SSLError, "does not speak TLS ({}); is it a plain http:// server?"),
    (NameResolutionError, "there is no host of that name; check the address"),
    (ConnectionRefusedError, "nothing listens there; check the address and whether the server runs"),
    (ConnectTimeoutError, "no connection within the time limit; check the address, the network and the proxy"),
    (ReadTimeoutError, "no answer within the time limit"),
    (TimeoutError, "no answer within the time limit"),
    (ConnectionAbortedError, "the request was broken off"),
)


def _described(error: BaseException, url: str) -> str:
    """Return what went wrong and what to try, in one line without secrets."""
    chain = [found for found in _causes(error) if not isinstance(found, _LOST)] or [error]
    if is_full(error):
        return f"{public_address(url)}: {FULL}"
    for kind, advice in _ADVICE:
        for found in chain:
            if isinstance(found, kind):
                what = getattr(found, "verify_message", None) or getattr(found, "reason", "")
                return f"{public_address(url)}: {advice.format(what)}"
    return f"{public_address(url)}: the connection was lost ({type(chain[-1]).__name__})"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _proxy_of(url: str) -> str | None:
    """Return the proxy that the environment names for an address.

    Raises:
        LocationValueError: It is no address.
    """
    parts, proxies = parse_url(url), urllib.request.getproxies()
    if parts.scheme not in ("http", "https"):
        raise LocationValueError
    if not proxies or urllib.request.proxy_bypass(parts.netloc or ""):
        return None
    found = proxies.get(parts.scheme or "") or proxies.get("all")
    return found if found is None or "://" in found else f"http://{found}"


def _through_proxy(proxy: str, settings: Mapping[str, Any]) -> urllib3.ProxyManager:  # Any: settings of many types
    """Return what sends requests through a proxy; user and password may stand in its address.

    Raises:
        ConfigurationError: It is of a kind that is not known.
    """
    parts = parse_url(proxy)
    if parts.scheme not in ("http", "https"):
        raise ConfigurationError(f"{public_address(proxy)}: is no kind of proxy that is known; name an http:// one")
    login = urllib3.make_headers(proxy_basic_auth=unquote(parts.auth)) if parts.auth else None
    return urllib3.ProxyManager(parts._replace(auth=None).url, proxy_headers=login, **settings)


def _tls_context(verify: bool | str) -> ssl.SSLContext:
    """Return how TLS is spoken.

    Raises:
        ConfigurationError: The authorities cannot be read.
    """
    if verify is False:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return context
    named = verify if isinstance(verify, str) else os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE")
    try:
        return _trusting(named or None, os.getpid())
    except (OSError, ssl.SSLError) as error:
        raise ConfigurationError(f"{named}: no certificates of authorities can be read from it ({error})") from None


@functools.cache
def _trusting(named: str | None, process: int) -> ssl.SSLContext:  # each process has its own
    """Return the context that trusts the authorities in a file or folder, the system's for None; slow to make."""
    if named is not None and os.path.isdir(named):
        return ssl.create_default_context(capath=named)
    return ssl.create_default_context(cafile=named)


class _Thread(threading.local):
    abandoned: threading.Event | None = None
    """Of the request that this thread sends: set when it is broken off."""


_THREAD = _Thread()


@contextmanager
def _in_thread(abandoned: threading.Event) -> Iterator[None]:
    """Let this thread's connections and log records know of a request of ours for the length of a `with` block.

    Raises:
        ConnectionAbortedError: It has been broken off.
    """
    if abandoned.is_set():
        raise ConnectionAbortedError
    _THREAD.abandoned = abandoned
    try:
        yield
    finally:
        _THREAD.abandoned = None


def _without_queries(record: logging.LogRecord) -> bool:
    """Cut the queries, which can hold signatures, off the addresses that urllib3 logs of our requests."""
    if _THREAD.abandoned is not None and isinstance(record.args, tuple):
        record.args = tuple(arg.partition("?")[0] if isinstance(arg, str) else arg for arg in record.args)
    return True


logging.getLogger("urllib3.connectionpool").addFilter(_without_queries)
