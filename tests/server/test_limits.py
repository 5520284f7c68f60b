"""What is done at once: turns and memory, and threads that end before what they use is given back."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from activestore.server.errors import RequestError
from activestore.server.limits import Memory, Turns, in_thread


def test_turns_are_given_in_the_order_of_arrival():
    order = []

    async def main():
        turns = Turns(1, queue=10)

        async def one(i):
            async with turns.turn():
                order.append(i)
                await asyncio.sleep(0)

        await asyncio.gather(*(one(i) for i in range(5)))
        assert turns.waiting == 0

    asyncio.run(main())
    assert order == list(range(5))


def test_who_comes_past_the_queue_is_told_when_to_come_back():
    async def main():
        turns = Turns(1, queue=1)
        async with turns.turn():
            waiting = asyncio.create_task(_have_a(turns))
            await asyncio.sleep(0)
            with pytest.raises(RequestError, match="too many requests wait") as caught:
                async with turns.turn():
                    pass
            assert (caught.value.status, caught.value.kind, caught.value.headers["Retry-After"]) == (429, "busy", "1")
        await waiting
        async with turns.turn():
            pass

    asyncio.run(main())


async def _have_a(turns):
    async with turns.turn():
        pass


def test_a_queue_of_none_still_has_turns():
    async def main():
        turns = Turns(2, queue=0)
        async with turns.turn(), turns.turn():
            with pytest.raises(RequestError):
                turns.check()
        turns.check()

    asyncio.run(main())


def test_who_gives_up_waiting_for_a_turn_leaves_no_trace():
    async def main():
        turns = Turns(1, queue=5)
        async with turns.turn():
            waiting = asyncio.create_task(_have_a(turns))
            await asyncio.sleep(0)
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
            assert turns.waiting == 0
        async with asyncio.timeout(1), turns.turn():
            pass

    asyncio.run(main())


def test_memory_is_never_given_twice():
    async def main():
        memory, most = Memory(100), 0

        async def one(nbytes):
            nonlocal most
            async with memory.of(nbytes):
                most = max(most, memory.held)
                await asyncio.sleep(0.001)

        await asyncio.gather(*(one(1 + 37 * i % 90) for i in range(60)))
        assert most <= 100
        assert memory.held == 0

    asyncio.run(main())


def test_a_large_piece_is_not_overtaken_for_ever():
    order = []

    async def main():
        memory = Memory(10)

        async def one(name, nbytes):
            async with memory.of(nbytes):
                order.append(name)
                await asyncio.sleep(0.001)

        await asyncio.gather(one("first", 6), one("large", 10), *(one(f"small {i}", 1) for i in range(5)))

    asyncio.run(main())
    assert order[:2] == ["first", "large"]


def test_more_than_there_is_waits_to_be_alone():
    async def main():
        memory = Memory(10)
        async with asyncio.timeout(1), memory.of(1000) as held:
            assert memory.held == 10
            held.shrink(4)
            assert memory.held == 4
            held.shrink(7)
            assert memory.held == 4
        assert memory.held == 0

    asyncio.run(main())


@pytest.mark.parametrize("granted", [True, False])
def test_who_gives_up_waiting_for_memory_gives_it_back(granted):
    async def main():
        memory = Memory(10)

        async def one():
            async with memory.of(5):
                await asyncio.sleep(10)

        async with memory.of(8):
            waiting = asyncio.create_task(one())
            behind = asyncio.create_task(_hold(memory, 2))
            await asyncio.sleep(0)
            assert not behind.done()
            if not granted:
                waiting.cancel()
                await asyncio.gather(waiting, return_exceptions=True)
                # Who waited behind has room now.
                await asyncio.wait_for(behind, 1)
        if granted:
            # It was granted when the block ended, and is cancelled before it can take it.
            waiting.cancel()
            await asyncio.gather(waiting, behind, return_exceptions=True)
        assert memory.held == 0

    asyncio.run(main())


async def _hold(memory, nbytes):
    async with memory.of(nbytes):
        pass


def test_who_is_cancelled_waits_for_the_thread_to_end():
    begun, end, ended = threading.Event(), threading.Event(), []

    def work():
        begun.set()
        end.wait(5)
        ended.append(True)

    async def main():
        with ThreadPoolExecutor(1) as executor:
            task = asyncio.create_task(in_thread(executor, work))
            while not begun.is_set():
                await asyncio.sleep(0.001)
            task.cancel()
            await asyncio.sleep(0.01)
            assert not task.done()
            end.set()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert ended

    asyncio.run(main())


def test_work_that_has_not_begun_is_dropped():
    ran = []

    async def main():
        gate = threading.Event()
        with ThreadPoolExecutor(1) as executor:
            first = asyncio.create_task(in_thread(executor, gate.wait, 5))
            second = asyncio.create_task(in_thread(executor, ran.append, 1))
            await asyncio.sleep(0.01)
            second.cancel()
            with pytest.raises(asyncio.CancelledError):
                await second
            gate.set()
            await first

    asyncio.run(main())
    assert not ran


def test_errors_of_threads_are_raised():
    async def main():
        with ThreadPoolExecutor(1) as executor, pytest.raises(ZeroDivisionError):
            await in_thread(executor, divmod, 1, 0)

    asyncio.run(main())
