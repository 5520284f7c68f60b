"""Ranges of bytes that are read together."""

from hypothesis import given
from hypothesis import strategies as st

from activestore.network import byte_ranges as ranges
from activestore.network.byte_ranges import clipped_ranges, cut_ranges, merged_ranges

GAP, LONGEST = 16 << 10, 8 << 20
OFFSETS = st.one_of(st.integers(0, 200), st.integers(0, 30 << 20).map(lambda at: at // 1000 * 1000))
SIZES = st.one_of(st.integers(0, 50), st.integers(0, 12 << 20).map(lambda n: n // 1000 * 1000))
RANGES = st.lists(st.tuples(OFFSETS, SIZES), max_size=30)


class Marked:
    """Bytes that are their own offsets, of any length: a slice of it is the range that it stands for."""

    def __init__(self, start, size):
        self.start, self.size = start, size

    def __getitem__(self, part):
        assert 0 <= part.start <= part.stop <= self.size, "behind the end of what was read"
        return (self.start + part.start, part.stop - part.start)


@given(RANGES)
def test_every_range_is_in_what_is_read(asked):
    merged = merged_ranges(asked)
    found = cut_ranges(asked, {start: Marked(start, size) for start, size in merged})
    assert found == [(offset, size) if size else b"" for offset, size in asked]


@given(RANGES)
def test_no_more_is_read_than_gaps_and_no_request_is_longer_than_one_may_be(asked):
    merged = merged_ranges(asked)
    assert merged == sorted(merged)
    for start, size in merged:
        own = sorted((offset, offset + n) for offset, n in asked if n and start <= offset and offset + n <= start + size)
        assert size <= LONGEST or (start, size) in asked
        assert own[0][0] == start
        reached = start
        for offset, end in own:
            assert offset <= reached + GAP
            reached = max(reached, end)
        assert reached == start + size


@given(st.lists(st.tuples(st.integers(0, 500), st.integers(1, 90)), max_size=20))
def test_bytes(asked):
    content = bytes(i % 251 for i in range(600))
    data = {start: content[start : start + size] for start, size in merged_ranges(asked)}
    assert len(data) <= 1
    assert cut_ranges(asked, data) == [content[offset : offset + size] for offset, size in asked]


def test_two_ranges_are_one_request_if_they_nearly_touch():
    assert merged_ranges([(0, 10), (10 + GAP, 5)]) == [(0, 15 + GAP)]
    assert merged_ranges([(0, 10), (11 + GAP, 5)]) == [(0, 10), (11 + GAP, 5)]
    assert merged_ranges([(0, LONGEST - 5), (LONGEST - 5, 5)]) == [(0, LONGEST)]
    assert merged_ranges([(0, LONGEST - 5), (LONGEST - 5, 6)]) == [(0, LONGEST - 5), (LONGEST - 5, 6)]


def test_a_long_range_is_read_as_it_is():
    assert merged_ranges([(7, 5 * LONGEST), (100, 3)]) == [(7, 5 * LONGEST)]


def test_nothing_is_asked_for_nothing():
    assert merged_ranges([]) == merged_ranges([(5, 0)]) == []
    assert cut_ranges([(5, 0), (9, 0)], {}) == [b"", b""]


@given(st.lists(st.tuples(st.integers(-(2**65), 2**65), st.integers(0, 2**65))), st.integers(0, 1000))
def test_what_lies_outside_is_not_asked_for(asked, size):
    for (offset, given_size), (start, length) in zip(asked, clipped_ranges(asked, size), strict=True):
        assert start == offset
        assert length == len(range(size)[offset : offset + given_size] if offset >= 0 else ())


def test_what_is_said_of_gaps_and_lengths_is_so():
    assert (ranges._GAP, ranges._LONGEST) == (GAP, LONGEST)
