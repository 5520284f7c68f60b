"""The Reductionist backend, for one source and one server.

What a request cannot express is declared (`capabilities`, `refusal`); what a server gets wrong is found in its answer. Such
chunks are computed locally.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from activestore.core.backend import BackendOptions, Capabilities
from activestore.core.group_kernel import assembled, group_tasks
from activestore.core.kernel import fill_chunk, reduce_values
from activestore.core.selection import region_shape
from activestore.core.source import ReadableSource
from activestore.core.task import ChunkPartial, ChunkTask
from activestore.errors import BackendRefusedError, BackendUnavailableError
from activestore.network.location import Origin
from activestore.reductionist.chunk_request import ChunkWork, Dialect
from activestore.reductionist.client import Server
from activestore.reductionist.options import ServerOptions, server_address, without_token
from activestore.reductionist.request import DTYPES, MOST_GROUPS, chunk_fields, way

__all__ = ["ReductionistBackend", "seen_origin"]

_WORKERS = 64
"""Requests under way at once: they wait for the network and the store, not for this process."""
_CAPABILITIES = Capabilities(
    dtypes=frozenset(DTYPES),
    codecs=frozenset({"zlib", "shuffle", "fletcher32"}),
    points=False,
    unpacks=False,
    extents=False,
    conditions=False,
    workers=_WORKERS,
)


class ReductionistBackend:
    """Has the chunks of one source reduced by a server."""

    name = "reductionist"

    def __init__(self, source: ReadableSource, options: BackendOptions, *, version: str | None = None) -> None:
        """Prepare to reduce chunks of `source`; the server is asked for its version, unless that is given.

        Raises:
            BackendUnavailableError: The server does not answer or is none, or cannot reach the source.
            ConfigurationError: An option is not understood.
        """
        address, parsed = server_address(options.server), ServerOptions.parse(options.options)
        self._source, self._options = source, options
        self._origin = seen_origin(source, parsed)
        # A path of this machine means nothing to a server elsewhere.
        if "file" in (self._origin.interface_type, getattr(source, "origin", self._origin).interface_type):
            raise _out_of_reach(source)
        self._server = Server(address, parsed, connections=options.workers or _WORKERS, origin=self._origin)
        try:
            self._dialect = Dialect(version or self._server.version(), uncached=parsed.disable_chunk_cache)
        except BackendUnavailableError:
            self._server.close()
            raise

    def __repr__(self) -> str:
        return f"<ReductionistBackend {self._dialect.version} at {self._server!r}>"

    def __reduce__(self) -> tuple[Any, ...]:  # Any: pickle's own contract
        # The credentials stay with the source, which knows how to do without them.
        return _reopened, (self._source, without_token(self._options), self._dialect.version)

    @property
    def capabilities(self) -> Capabilities:
        """What the protocol can express; `refusal` knows more."""
        return _CAPABILITIES

    def refusal(self, task: ChunkTask) -> str | None:
        """Return why the server cannot do `task`, or not with fewer bytes than the chunk has; None if it can."""
        if self._origin.obstacle is not None:
            return self._origin.obstacle
        if self._dialect.version == "v1" and self._origin.interface_type != "s3":
            return "an object outside S3 on a server that speaks v1"
        try:
            chunk_fields(task)
            way(task)
        except BackendRefusedError as error:
            return error.reason
        return None

    def reduce_chunk(self, task: ChunkTask) -> ChunkPartial:
        """Return the partial result of one chunk.

        Raises:
            BackendRefusedError: It has to be computed here.
            BackendError: The server does not answer, or what it answers cannot be relied on.
            SumOverflowError: The sum does not fit into 64 bits.
        """
        if task.offset is None:
            return reduce_values(fill_chunk(task), task)
        reason = self.refusal(task)
        if reason is not None:
            raise BackendRefusedError(f"{task.describe()}: cannot be done by the server: {reason}", reason=reason)
        if way(task) == "groups":
            return self._by_groups(task)
        chunk = self._work(task)
        partial = chunk.selected() if way(task) == "select" else chunk.reduced()
        return replace(partial, moved=chunk.moved)

    def _work(self, task: ChunkTask) -> ChunkWork:
        return ChunkWork(task, self._server, self._dialect, self._dialect.place(self._origin) | chunk_fields(task))

    def _by_groups(self, task: ChunkTask) -> ChunkPartial:
        """Return the partial result of a chunk whose groups are asked for one by one."""
        work = [(where, self._work(one)) for where, one in group_tasks(task, MOST_GROUPS) or ()]
        parts = [(where, chunk.reduced()) for where, chunk in work]
        counts = task.group_counts
        lengths = enumerate(region_shape(task.region))
        shape = tuple(counts.get(axis, 1) if axis in task.template.axes else length for axis, length in lengths)
        states, count = assembled(shape, [(where, (dict(one.states), one.count)) for where, one in parts])
        return ChunkPartial(task.sequence, states, count, sum(chunk.moved for _, chunk in work))

    def abandon(self) -> None:
        """Break off the requests that are under way."""
        self._server.abandon()

    def close(self) -> None:
        """Close all connections."""
        self._server.close()


def _reopened(source: ReadableSource, options: BackendOptions, version: str) -> ReductionistBackend:
    return ReductionistBackend(source, options, version=version)


def seen_origin(source: ReadableSource, options: ServerOptions) -> Origin:
    """Return where the server finds the source.

    Raises:
        BackendUnavailableError: It cannot be told.
    """
    origin: Origin | None = getattr(source, "origin", None)
    if origin is None:
        raise _out_of_reach(source)
    return origin if options.endpoint_url is None else _seen_from_there(origin, options.endpoint_url)


def _out_of_reach(source: ReadableSource) -> BackendUnavailableError:
    return BackendUnavailableError(
        f"{source.uri}: a server cannot reach it; copy it to a store that the server reaches, or use backend='posix'"
    )


def _seen_from_there(origin: Origin, endpoint: str) -> Origin:
    """Return the origin with the store at another address, or in a folder."""
    there, path = urlsplit(endpoint), urlsplit(origin.url)
    if there.scheme == "file":
        return Origin("file", f"file://{there.path.rstrip('/')}{path.path}")
    url = urlunsplit((there.scheme, there.netloc, path.path, path.query, ""))
    return replace(origin, url=url, interface_type="s3" if origin.interface_type == "s3" else there.scheme)
