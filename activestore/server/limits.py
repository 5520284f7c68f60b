"""How much is done at once: turns, memory and the bytes of requests, shared fairly by all that are under way."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Executor, Future
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TypeVar

from activestore.server.errors import RequestError

__all__ = ["Held", "Memory", "Turns", "busy", "in_thread", "nothing_held"]

_Found = TypeVar("_Found")


class Turns:
    """Who waits gets a turn in the order of arrival; past a number of waiting ones nobody else may wait."""

    def __init__(self, at_once: int, *, queue: int) -> None:
        """Give `at_once` turns at a time, and let `queue` wait."""
        self._free = asyncio.Semaphore(at_once)
        self._queue = queue
        self.waiting = 0

    def check(self) -> None:
        """Refuse who would have to wait behind too many.

        Raises:
            RequestError: 429, with the time after which to come back.
        """
        if self.waiting >= self._queue and self._free.locked():
            raise busy("too many requests wait already")

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait for a turn, and have it for the length of an `async with` block.

        Raises:
            RequestError: 429: too many wait already.
        """
        self.check()
        self.waiting += 1
        try:
            await self._free.acquire()
        finally:
            self.waiting -= 1
        try:
            yield
        finally:
            self._free.release()


@dataclass(slots=True)
class Held:
    """Memory that somebody holds."""

    nbytes: int
    _release: Callable[[int], None]

    def shrink(self, nbytes: int) -> None:
        """Give back all but `nbytes`."""
        if nbytes < self.nbytes:
            self._release(self.nbytes - nbytes)
            self.nbytes = nbytes


def nothing_held() -> Held:
    """Return what somebody holds who needs no memory."""
    return Held(0, lambda _: None)


class Memory:
    """An amount of memory: who needs more than is left waits, in the order of arrival."""

    def __init__(self, nbytes: int) -> None:
        """Share `nbytes`."""
        self.total = self._left = nbytes
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    @property
    def held(self) -> int:
        """Bytes that are in use."""
        return self.total - self._left

    async def take(self, nbytes: int) -> Held:
        """Hold `nbytes` until `shrink(0)` gives them back; what is more than there is altogether waits to be alone."""
        nbytes = min(nbytes, self.total)
        if self._waiting or self._left < nbytes:
            await self._granted(nbytes)
        else:
            self._left -= nbytes
        return Held(nbytes, self._release)

    @asynccontextmanager
    async def of(self, nbytes: int) -> AsyncIterator[Held]:
        """Hold the same for the length of an `async with` block."""
        held = await self.take(nbytes)
        try:
            yield held
        finally:
            held.shrink(0)

    async def _granted(self, nbytes: int) -> None:
        granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((nbytes, granted))
        try:
            await granted
        except asyncio.CancelledError:
            if granted.done() and not granted.cancelled():
                self._release(nbytes)
            else:
                self._waiting.remove((nbytes, granted))
                self._release(0)
            raise

    def _release(self, nbytes: int) -> None:
        self._left += nbytes
        while self._waiting and self._waiting[0][0] <= self._left:
            wanted, granted = self._waiting.popleft()
            if not granted.cancelled():
                self._left -= wanted
                granted.set_result(None)


async def in_thread(executor: Executor, function: Callable[..., _Found], *arguments: object) -> _Found:
    """Return what `function` makes of the arguments in a thread; who is cancelled still waits for it to end.

    What the function uses is therefore in use until this returns.

    Raises:
        RequestError: 503: the executor takes no more work.
    """
    try:
        running: Future[_Found] = executor.submit(function, *arguments)
    except RuntimeError:
        raise _stopping() from None
    try:
        return await asyncio.shield(asyncio.wrap_future(running))
    except asyncio.CancelledError:
        if running.cancelled() and not _is_cancelled():
            raise _stopping() from None
        if not running.cancel():
            await _end_of(running)
        raise
    finally:
        del running, arguments  # an error has this frame, and the future the error


def _is_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _stopping() -> RequestError:
    return RequestError(503, "this server is being stopped; try again later", kind="busy", headers={"Retry-After": "5"})


async def _end_of(running: Future[_Found]) -> None:
    ended = asyncio.wrap_future(running)
    while not ended.done():
        try:
            await asyncio.wait({ended})
        except asyncio.CancelledError:
            continue  # the second one changes nothing
    if not ended.cancelled():
        ended.exception()  # it is nobody's any more


def busy(why: str) -> RequestError:
    """Return the error for who comes when there is too much to do."""
    return RequestError(429, f"{why}; try again later", kind="busy", headers={"Retry-After": "1"})
