"""What is kept of stored bytes, for whom, and how much."""

import gc
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from activestore.server.location import Login, Place
from activestore.server.reading.chunk_cache import ChunkCache

SECRET = "hunter2-secret"  # noqa: S105
PLACE = Place("s3", "https://store.example/bucket/a.nc?sig=hunter2-query", Login("hunter2-user", SECRET, "hunter2-token"))


def test_what_was_kept_is_found():
    cache = ChunkCache(1 << 20)
    assert cache.get(PLACE, '"v"', 0, 4) is None
    cache.put(PLACE, '"v"', 0, 4, b"data")
    assert cache.get(PLACE, '"v"', 0, 4) == b"data"
    assert (cache.hits, cache.misses, len(cache)) == (1, 1, 1)
    assert cache.nbytes >= 4


@pytest.mark.parametrize(
    "other",
    [
        (replace(PLACE, url="https://store.example/bucket/a.nc?sig=other"), '"v"', 0, 4),
        (replace(PLACE, url="https://store.example/bucket/b.nc"), '"v"', 0, 4),
        (replace(PLACE, interface_type="https"), '"v"', 0, 4),
        (replace(PLACE, region="eu-west-2"), '"v"', 0, 4),
        (replace(PLACE, login=None), '"v"', 0, 4),
        (replace(PLACE, login=Login("hunter2-user", "other", "hunter2-token")), '"v"', 0, 4),
        (replace(PLACE, login=Login("other", SECRET, "hunter2-token")), '"v"', 0, 4),
        (replace(PLACE, login=Login("hunter2-user", SECRET)), '"v"', 0, 4),
        # Where one value ends and the next begins counts.
        (replace(PLACE, login=Login("hunter2-userh", SECRET[1:], "hunter2-token")), '"v"', 0, 4),
        (PLACE, '"w"', 0, 4),
        (PLACE, '"v"', 1, 4),
        (PLACE, '"v"', 0, 5),
    ],
)
def test_nothing_is_found_for_another_object_version_login_or_range(other):
    cache = ChunkCache(1 << 20)
    cache.put(PLACE, '"v"', 0, 4, b"data")
    assert cache.get(*other) is None


def test_what_has_no_version_is_not_kept():
    cache = ChunkCache(1 << 20)
    cache.put(PLACE, "", 0, 4, b"data")
    assert (cache.get(PLACE, "", 0, 4), len(cache), cache.nbytes) == (None, 0, 0)


def test_what_would_drive_out_all_else_is_not_kept():
    cache = ChunkCache(4000)
    cache.put(PLACE, '"v"', 0, 1001, bytes(1001))
    assert len(cache) == 0
    cache.put(PLACE, '"v"', 0, 700, bytes(700))
    assert len(cache) == 1


def test_the_bytes_that_were_used_longest_ago_go_first():
    cache = ChunkCache(10_000)
    for number in range(4):
        cache.put(PLACE, '"v"', number, 2000, bytes(2000))
    assert cache.get(PLACE, '"v"', 0, 2000) is not None
    cache.put(PLACE, '"v"', 4, 2000, bytes(2000))
    kept = [number for number in range(5) if cache.get(PLACE, '"v"', number, 2000) is not None]
    assert kept == [0, 2, 3, 4]
    assert cache.nbytes <= 10_000


def test_the_same_again_takes_its_place():
    cache = ChunkCache(10_000)
    for _ in range(50):
        cache.put(PLACE, '"v"', 0, 2000, bytes(2000))
    assert len(cache) == 1
    assert cache.nbytes < 2500


def test_many_small_entries_are_counted_with_what_they_cost():
    cache = ChunkCache(100_000)
    for number in range(10_000):
        cache.put(PLACE, '"v"', number, 1, b"x")
    assert len(cache) < 500


def test_a_cache_of_nothing():
    cache = ChunkCache(0)
    cache.put(PLACE, '"v"', 0, 0, b"")
    assert (cache.get(PLACE, '"v"', 0, 0), len(cache)) == (None, 0)


def test_no_secret_is_kept():
    cache = ChunkCache(1 << 20)
    cache.put(PLACE, '"v"', 0, 4, b"data")
    cache.get(PLACE, '"v"', 0, 4)
    everything = b"".join(
        pickle.dumps(value) for value in vars(cache).values() if not isinstance(value, type(threading.Lock()))
    )
    assert b"data" in everything
    assert b"hunter2" not in everything
    assert b"store.example" not in everything
    assert "hunter2" not in repr(cache)
    gc.collect()
    assert not any(isinstance(one, (Login, Place)) for one in gc.get_referents(cache, *gc.get_referents(cache)))


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 8), st.integers(0, 600)), max_size=60))
def test_never_more_than_allowed_and_never_something_else(steps):
    cache = ChunkCache(3000)
    for put, offset, size in steps:
        data = f"{offset} {size} ".encode().ljust(size, b"x")
        if put:
            cache.put(PLACE, '"v"', offset, size, data)
        else:
            assert cache.get(PLACE, '"v"', offset, size) in (None, data)
        assert cache.nbytes <= 3000
        assert (cache.nbytes == 0) == (len(cache) == 0)


def test_many_threads():
    cache = ChunkCache(20_000)

    def work(seed: int) -> None:
        for step in range(400):
            offset = (seed * 7 + step) % 50
            found = cache.get(PLACE, '"v"', offset, 500)
            assert found in (None, bytes([offset]) * 500)
            cache.put(PLACE, '"v"', offset, 500, bytes([offset]) * 500)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    assert cache.hits + cache.misses == 8 * 400
    assert cache.nbytes <= 20_000
