"""What happens to a request once it is understood: its chunks are read, computed, and given back in order."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass

from activestore.server.errors import RequestError
from activestore.server.limits import Held, Memory, Turns, in_thread, nothing_held
from activestore.server.location import Login, Place
from activestore.server.metrics import Metrics
from activestore.server.protocol.batch import Batch, Group, computed, failed, parse_batch
from activestore.server.protocol.json_slices import memory as memory_of_json
from activestore.server.protocol.reduce import Answer, answered_bytes, memory, reduced
from activestore.server.protocol.request import ReduceRequest
from activestore.server.reading.reader import Reader
from activestore.server.settings import ServerSettings

__all__ = ["REQUESTS", "THREADS", "Encoded", "Engine"]

Encoded = tuple[bytes, dict[str, str]]
"""Body and headers of an answer."""
THREADS = "activestore-serve-"
"""What the names of the threads that read and compute begin with."""
_ENDING, _PAUSE = 10.0, 0.05
"""Seconds that threads have to end, and between two looks whether they have."""
_SMALL_ANSWER = 128 << 10
"""Bytes of an answer that the connection takes at once: whether the client reads them makes no difference here."""
_SMALL_REQUEST = 1 << 20
"""Bytes that a request may come to for which nobody waits."""
REQUESTS = 8
"""Requests of the largest size whose bytes, and again as many bytes of what is made of them, may be held at once."""


@dataclass(slots=True)
class _Frames:
    """Frames that wait to be sent, and the memory that they take."""

    data: bytes
    _held: Held

    def drop(self) -> None:
        """Forget them."""
        self.data = b""
        self._held.shrink(0)


class Engine:
    """Reads and computes, off the event loop; memory is taken before it is needed."""

    def __init__(self, settings: ServerSettings, metrics: Metrics) -> None:
        """Prepare to work.

        Raises:
            ConfigurationError: What may be read is not understood.
        """
        self._settings, self._metrics = settings, metrics
        self._reader = Reader(settings, metrics)
        self.turns = Turns(settings.readers + settings.workers, queue=settings.queue)
        # Memory is taken for the answer, for what is read, and for work on it, in this order, so that nobody waits in a circle;
        # for answers in the order in which they are sent. Who reads an answer slowly keeps nobody but those from working whose
        # answers are large too.
        whole = settings.chunk_memory
        self._answers, self._stored, self._working = Memory(whole // 8), Memory(whole * 3 // 8), Memory(whole // 2)
        self._requests = Memory(REQUESTS * settings.largest_request)
        self._readers = ThreadPoolExecutor(settings.readers, f"{THREADS}read")
        self.workers = ThreadPoolExecutor(settings.workers, f"{THREADS}work")
        self._ahead = 2 * settings.workers
        metrics.waiting.set_function(lambda: self.turns.waiting)
        metrics.memory.set_function(lambda: self._answers.held + self._stored.held + self._working.held)

    @property
    def interface_types(self) -> tuple[str, ...]:
        """The kinds of origins that may be read."""
        return self._reader.origins.interface_types

    def check(self, place: Place) -> None:
        """Refuse what the operator has not allowed, before anything is sent.

        Raises:
            RequestError: It is not allowed.
        """
        self._reader.origins.check(place)

    @asynccontextmanager
    async def batch(self, body: bytes, login: Login | None) -> AsyncIterator[Batch]:
        """Give what the body of a request asks for, and a turn to do it, for the length of the `async with` block.

        Raises:
            RequestError: It is not understood, or there is too much to do.
        """
        async with self.turns.turn():
            nbytes = memory_of_json(body)
            async with self._requests.of(nbytes) if nbytes > _SMALL_REQUEST else nullcontext():
                yield await in_thread(self.workers, parse_batch, body, login, self._settings)

    @asynccontextmanager
    async def answer(
        self, request: ReduceRequest, encode: Callable[[Answer, ReduceRequest], Encoded]
    ) -> AsyncIterator[Encoded]:
        """Give the answer to a plain request; its memory is held for the length of the `async with` block.

        Raises:
            RequestError: There is none, or there is too much to do.
        """
        held = await self._room_for(answered_bytes(request, largest_chunk=self._settings.largest_chunk))
        try:
            async with self.turns.turn():
                body, headers = await self._answered(request, encode)
            held.shrink(len(body))
            yield body, headers
        finally:
            held.shrink(0)

    async def _room_for(self, nbytes: int) -> Held:
        """Return memory for an answer; a small one needs none, and waits for nobody."""
        return nothing_held() if nbytes <= _SMALL_ANSWER else await self._answers.take(nbytes)

    async def _answered(self, request: ReduceRequest, encode: Callable[[Answer, ReduceRequest], Encoded]) -> Encoded:
        largest = self._settings.largest_chunk

        def work(raw: bytes) -> Encoded:
            return encode(reduced(request, raw, largest_chunk=largest), request)

        size = request.size
        if size is None:
            size = await self._size_from(request)
        async with self._stored.of(size):
            raw = await in_thread(self._readers, self._read_one, request)
            async with self._working.of(memory(request, largest_chunk=largest)):
                answered: Encoded = await in_thread(self.workers, work, raw)
        self._metrics.chunks.inc()
        return answered

    async def _size_from(self, request: ReduceRequest) -> int:
        """Return how many bytes there are from a request's offset on.

        Raises:
            RequestError: There are none, or too many.
        """
        found = await in_thread(self._readers, self._reader.origins.find, request.place)
        size = found.size - request.offset
        if size > self._settings.largest_chunk:
            raise RequestError(400, f"{size} bytes are more than the {self._settings.largest_chunk} that a chunk may have here")
        return max(0, size)

    def _read_one(self, request: ReduceRequest) -> bytes:
        if request.size is None:
            return self._reader.read_to_end(request.place, request.offset, self._settings.largest_chunk)
        (raw,) = self._reader.read(request.place, [(request.offset, request.size)], uncached=request.uncached)
        return raw

    async def frames(self, batch: Batch) -> AsyncGenerator[bytes, None]:
        """Yield the frames of a batch, in its order; several groups of chunks are at work at once.

        The memory of what is yielded is given back when the next is asked for.

        Raises:
            RequestError: The first group cannot be read; a later one has frames that say so.
        """
        left = iter(batch.groups)
        under_way: deque[asyncio.Task[_Frames]] = deque()
        try:
            while True:
                for group in itertools.islice(left, self._ahead + 1 - len(under_way)):
                    first = group is batch.groups[0]
                    under_way.append(asyncio.create_task(self._group(batch.place, group, first=first)))
                if not under_way:
                    return
                frames = await under_way[0]
                under_way.popleft()
                try:
                    yield frames.data
                finally:
                    frames.drop()
        finally:
            for task in under_way:
                task.cancel()
                task.add_done_callback(_forget)
            await asyncio.gather(*under_way, return_exceptions=True)
            under_way.clear()  # their errors have this frame

    async def _group(self, place: Place, group: Group, *, first: bool) -> _Frames:
        held = await self._room_for(group.answered)
        try:
            data = await self._computed(place, group, first=first)
        except BaseException:
            held.shrink(0)
            raise
        held.shrink(len(data))
        return _Frames(data, held)

    async def _computed(self, place: Place, group: Group, *, first: bool) -> bytes:
        async with self._stored.of(group.read):
            try:
                raw = await in_thread(self._readers, self._reader.read, place, group.ranges)
            except RequestError as error:
                if first:
                    raise
                self._metrics.errors.labels(error.kind).inc()
                return failed(group.tasks, error)
            async with self._working.of(group.working):
                data = await in_thread(self.workers, computed, group.tasks, raw)
        self._metrics.chunks.inc(sum(task.chunks for task in group.tasks))
        return data

    def close(self) -> None:
        """End the threads, or give up on those that do not end, and close the connections."""
        for pool in (self._readers, self.workers):
            pool.shutdown(wait=False, cancel_futures=True)
        ending = [threading.Thread(target=pool.shutdown, daemon=True) for pool in (self._readers, self.workers)]
        for thread in ending:
            thread.start()
        end = time.monotonic() + _ENDING
        while any(thread.is_alive() for thread in ending) and time.monotonic() < end:
            # Again and again: between two reads of a thread there is none that could be broken off.
            self._reader.origins.abandon()
            for thread in ending:
                thread.join(_PAUSE)
        self._reader.close()


def _forget(done: asyncio.Task[_Frames]) -> None:
    """Drop what nobody will send."""
    if not done.cancelled() and done.exception() is None:
        done.result().drop()
