"""The Reductionist backend where the server is one of this package: many chunks in one request, and any reduction.

The server runs the same kernel as the local backend: what it answers is the same to the last bit.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from activestore.core.backend import Backend, BackendOptions, Capabilities, refusal_of
from activestore.core.kernel import fill_chunk, reduce_values
from activestore.core.source import ReadableSource
from activestore.core.task import ChunkPartial, ChunkTask
from activestore.core.wire.encode import (
    answer_bytes,
    frames_from_bytes,
    numbers_bytes,
    obstacle,
    tasks_to_json,
)
from activestore.errors import (
    BackendError,
    BackendRefusedError,
    BackendUnavailableError,
    ReductionistError,
    WireError,
)
from activestore.network.http_client import Answer
from activestore.network.redaction import public_address
from activestore.reductionist.answer import FOR_ERRORS, cleaned, is_too_much
from activestore.reductionist.backend import ReductionistBackend, seen_origin
from activestore.reductionist.client import Server
from activestore.reductionist.options import ServerOptions, server_address, without_token
from activestore.reductionist.probe import Extension, discover

__all__ = ["ExtensionBackend", "open_backend"]

_MOST_TASKS = 1024
"""Tasks of one request, whatever the server takes: so many are computed before the first answer can be used."""
_BATCH_BYTES = 16 << 20
_SMALL_CHUNK = 16 << 10
_SMALL_ANSWER = 16 << 10
"""Bytes that an answer may have even where the chunk has fewer: to read the chunk apart would take longer."""
_CONNECTIONS = 64
_LEAST_REQUEST = 4 << 10
_ANSWERS = "application/vnd.activestore.partials"


def open_backend(source: ReadableSource, options: BackendOptions) -> Backend:
    """Return the backend for the kind of server that answers.

    Raises:
        BackendUnavailableError: The server does not answer or is none, or cannot reach the source.
        ConfigurationError: An option is not understood.
    """
    address, parsed = server_address(options.server), ServerOptions.parse(options.options)
    if parsed.version is not None or not parsed.extension:
        return ReductionistBackend(source, options)
    origin = seen_origin(source, parsed)
    server = Server(address, parsed, connections=options.workers or _CONNECTIONS, origin=origin)
    try:
        version, extension = discover(server)
    except BackendUnavailableError as error:
        server.close()
        if origin.interface_type != "file":
            raise
        raise BackendUnavailableError(
            f"{source.uri}: a server cannot reach it; copy it to a store that the server reaches, or use backend='posix' "
            f"(an activestore server that sees the file can reduce it, but {error})"
        ) from None
    if extension is not None:
        return ExtensionBackend(source, options, extension, server=server)
    server.close()
    return ReductionistBackend(source, options, version=version)


class _TooMuchError(Exception):
    """The tasks have to be sent in smaller portions."""


class ExtensionBackend:
    """Has the chunks of one source reduced by a server of this package, many in one request."""

    name = "reductionist"

    def __init__(
        self, source: ReadableSource, options: BackendOptions, extension: Extension, *, server: Server | None = None
    ) -> None:
        """Prepare to reduce chunks of `source`; nothing is sent.

        Parameters:
            source: Where the chunks are.
            options: Address of the server, and how it is talked to.
            extension: What the server can do.
            server: The server, if there are connections to it already.

        Raises:
            BackendUnavailableError: A server cannot reach the source.
            ConfigurationError: An option is not understood.
        """
        parsed = ServerOptions.parse(options.options)
        self._source, self._options, self._extension = source, options, extension
        self._origin, self._token = seen_origin(source, parsed), parsed.token
        if server is None:
            connections = options.workers or _CONNECTIONS
            server = Server(server_address(options.server), parsed, connections=connections, origin=self._origin)
        self._server = server
        self._place = {"interface_type": self._origin.interface_type, "url": self._origin.url}
        if self._origin.region is not None:
            self._place["region"] = self._origin.region
        self._most_bytes = extension.request_bytes
        self._capabilities = Capabilities(
            components=extension.components,
            dtypes=extension.dtypes,
            codecs=extension.codecs,
            groups="groups" in extension.features,
            conditions="conditions" in extension.features,
            small_chunk=_SMALL_CHUNK,
            joins=True,
            workers=min(_CONNECTIONS, max(4, 2 * extension.workers)),
            # A backend that takes one task only would not be asked for several.
            batch=max(2, min(extension.most_tasks, _MOST_TASKS)),
            batch_bytes=_BATCH_BYTES,
        )

    def __repr__(self) -> str:
        return f"<ExtensionBackend of activestore {self._extension.version} at {self._server!r}>"

    def __reduce__(self) -> tuple[Any, ...]:  # Any: pickle's own contract
        # The credentials stay with the source, which knows how to do without them.
        return ExtensionBackend, (self._source, without_token(self._options), self._extension)

    @property
    def capabilities(self) -> Capabilities:
        """What the server says that it can do; `refusal` knows more."""
        return self._capabilities

    def refusal(self, task: ChunkTask) -> str | None:
        """Return why the server cannot do `task`, or not with fewer bytes than the chunk has; None if it can."""
        origin, extension = self._origin, self._extension
        # A session token, which is all that stands in the way of S3's temporary keys, is sent to this server.
        if origin.obstacle is not None and origin.token is None:
            return origin.obstacle
        if origin.interface_type not in extension.interface_types:
            return f"an object that is reached by {origin.interface_type!r}, which the server does not read"
        if max(task.size, task.nbytes) > extension.chunk_bytes:
            return "a chunk larger than the server takes"
        reason = obstacle(task, extension.features)
        if reason is not None:
            return reason
        if numbers_bytes(task) > min(extension.chunk_bytes, max(task.size, _SMALL_ANSWER)):
            return "an answer larger than the chunk"
        return None

    def reduce_chunk(self, task: ChunkTask) -> ChunkPartial:
        """Return the partial result of one chunk.

        Raises:
            BackendRefusedError: It has to be computed here.
            BackendError: The server does not answer, or cannot do it.
        """
        reason = None if task.offset is None else refusal_of(self)(task)
        if reason is not None:
            raise BackendRefusedError(f"{task.describe()}: cannot be done by the server: {reason}", reason=reason)
        (found,) = self.reduce_chunks((task,))
        if isinstance(found, BackendError):
            raise found
        return found

    def reduce_chunks(self, tasks: Sequence[ChunkTask]) -> list[ChunkPartial | BackendError]:
        """Return, for each of several tasks, its partial result, or why the server could not do it.

        Raises:
            BackendError: It could do none of them.
        """
        written = [task for task in tasks if task.offset is not None]
        found = iter(self._done(written) if written else ())
        return [reduce_values(fill_chunk(task), task) if task.offset is None else next(found) for task in tasks]

    def _done(self, tasks: list[ChunkTask]) -> list[ChunkPartial | BackendError]:
        """Return what the server makes of tasks, asked in portions that it takes.

        Raises:
            BackendError: It could do none of them.
        """
        try:
            return self._asked(tasks)
        except _TooMuchError:
            if len(tasks) == 1:
                what = "a request larger than the server takes"
                raise BackendRefusedError(f"{tasks[0].describe()}: needs {what}", reason=what) from None
        found: list[ChunkPartial | BackendError] = []
        for half in (tasks[: len(tasks) // 2], tasks[len(tasks) // 2 :]):
            try:
                found += self._done(half)
            except BackendError as error:
                found += [error] * len(half)
        return found

    def _asked(self, tasks: list[ChunkTask]) -> list[ChunkPartial | BackendError]:
        """Return what the server makes of tasks that are sent in one request.

        Raises:
            BackendError: It could do none of them.
            _TooMuchError: They are too many.
        """
        try:
            said = {"source": self._place, "tasks": tasks_to_json(tasks)}
        except WireError:
            raise _TooMuchError from None
        body = json.dumps(said, separators=(",", ":"), allow_nan=False).encode()
        if len(body) > self._most_bytes:
            raise _TooMuchError
        where = tasks[0].describe() + (f" and {len(tasks) - 1} more" if len(tasks) > 1 else "")
        most = sum(map(answer_bytes, tasks)) + FOR_ERRORS
        try:
            answer = self._server.answer(self._extension.path, body, most=most, where=where)
        except ReductionistError as failure:
            if not is_too_much(failure):
                raise
            if len(tasks) > 1:
                self._most_bytes = min(self._most_bytes, max(len(body) // 2, _LEAST_REQUEST))
            raise _TooMuchError from failure
        return self._read(answer, tasks, where)

    def _read(self, answer: Answer, tasks: Sequence[ChunkTask], where: str) -> list[ChunkPartial | BackendError]:
        """Return what an answer says.

        Raises:
            ReductionistError: Nothing that makes sense.
        """
        kind = answer.headers.get("content-type", "").partition(";")[0]
        try:
            if kind != _ANSWERS:
                raise WireError(f"its type is {kind[:80]!r}")  # noqa: TRY301  # one way to say what is wrong with it
            found = frames_from_bytes(answer.body, tasks)
        except WireError as error:
            text = f"{where}: {public_address(self._server.address)} gives an answer that is damaged: {error}"
            raise ReductionistError(text, reason="a damaged answer", status=answer.status) from None
        return [self._cleaned(one) if isinstance(one, BackendError) else one for one in found]

    def _cleaned(self, error: BackendError) -> ReductionistError:
        return ReductionistError(cleaned(str(error), self._origin, self._token), reason=error.reason)

    def abandon(self) -> None:
        """Break off the requests that are under way."""
        self._server.abandon()

    def close(self) -> None:
        """Close all connections."""
        self._server.close()
