"""Remote bytes in blocks: what was read once is not asked for again, whatever asks."""

import io
import threading
from concurrent.futures import ThreadPoolExecutor

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from activestore.errors import SourceError
from activestore.sources import metadata_view as blocks
from activestore.sources.metadata_view import METADATA_BLOCK, MetadataView, data_file


class Recorded:
    """A source in memory that keeps what it was asked for."""

    uri, version, is_remote = "memory", "1", True

    def __init__(self, content):
        self.content, self.asked, self.abandoned = content, [], 0

    @property
    def size(self):
        return len(self.content)

    def current_version(self):
        return "2"

    def read_ranges(self, ranges):
        self.asked.append(list(ranges))
        return [self.content[offset : offset + size] for offset, size in ranges]

    def abandon(self):
        self.abandoned += 1


CONTENT = np.random.default_rng(0).bytes(5 * METADATA_BLOCK + 1234)


@pytest.fixture
def source():
    return Recorded(CONTENT)


def test_a_view_reads_what_it_does_not_know_in_one_go(source):
    view = MetadataView(source, {0: CONTENT[:METADATA_BLOCK]})
    wanted = [(100, 50), (70_000, 10), (METADATA_BLOCK - 5, 5), (METADATA_BLOCK - 5, 6), (70_000, 10), (3, 0)]
    expected = [CONTENT[offset : offset + size] for offset, size in wanted]
    assert view.read_ranges(wanted) == expected
    assert source.asked == [[(70_000, 10), (METADATA_BLOCK - 5, 6)]]
    assert view.changed
    view.changed = False
    assert view.read_ranges(wanted) == expected
    assert (len(source.asked), view.changed) == (1, False)


def test_a_longer_read_from_the_same_place_takes_the_place_of_the_shorter(source):
    view = MetadataView(source, {})
    view.read_ranges([(200, 10)])
    assert view.read_ranges([(200, 1000)]) == [CONTENT[200:1200]]
    assert view.read_ranges([(200, 10)]) == [CONTENT[200:210]]
    assert view.segments == {200: CONTENT[200:1200]}
    assert len(source.asked) == 2


@pytest.mark.parametrize(
    ("offset", "size"), [(len(CONTENT) - 3, 100), (len(CONTENT), 5), (1 << 62, 5), (5 * METADATA_BLOCK, METADATA_BLOCK)]
)
def test_the_end_of_the_source(source, offset, size):
    view = MetadataView(source, {})
    for _ in range(2):
        assert view.read_ranges([(offset, size)]) == [CONTENT[offset : offset + size]]
    assert len(source.asked) <= 1


def test_a_view_says_what_its_source_says(source):
    view = MetadataView(source, {})
    view.abandon()
    assert (view.uri, view.size, view.version, view.current_version(), source.abandoned) == (
        "memory",
        len(CONTENT),
        "1",
        "2",
        1,
    )
    with view.metadata() as same:
        assert same is view


@given(st.lists(st.tuples(st.integers(0, len(CONTENT) + 10), st.integers(0, 150_000), st.sampled_from([0, 1, 2])), max_size=12))
def test_a_block_file_reads_as_a_file(steps):
    source = Recorded(CONTENT)
    for file in (MetadataView(source, {}).for_hdf5(), data_file(source.size, source.read_ranges)):
        plain = io.BytesIO(CONTENT)
        assert file.readable()
        assert file.seekable()
        for offset, size, whence in steps:
            place = offset if whence == 0 else -min(offset, plain.tell() if whence == 1 else len(CONTENT))
            assert file.seek(place, whence) == plain.seek(place, whence)
            assert file.read(size) == plain.read(size)
            assert file.tell() == plain.tell()


def test_blocks_of_metadata_are_read_once_and_whole(source):
    file = MetadataView(source, {}).for_hdf5()
    for at in (10, 500, METADATA_BLOCK - 2):
        file.seek(at)
        assert file.read(1) == CONTENT[at : at + 1]
    assert source.asked == [[(0, METADATA_BLOCK)]]
    file.seek(METADATA_BLOCK - 10)
    file.read(20)
    assert source.asked[1:] == [[(METADATA_BLOCK, METADATA_BLOCK)]]


def test_of_data_the_last_blocks_used_are_kept(monkeypatch):
    monkeypatch.setattr(blocks, "_DATA_BLOCK", 100)
    monkeypatch.setattr(blocks, "_DATA_BLOCKS", 3)
    source = Recorded(CONTENT[:1000])
    file = data_file(source.size, source.read_ranges)

    def blocks_for(at):
        source.asked.clear()
        file.seek(at)
        assert file.read(10) == CONTENT[at : at + 10]
        return [offset for ranges in source.asked for offset, _ in ranges]

    assert [blocks_for(at) for at in (0, 100, 200)] == [[0], [100], [200]]
    assert [blocks_for(at) for at in (50, 250)] == [[], []]
    assert blocks_for(300) == [300]
    assert blocks_for(10) == [], "it was used after the block that went"
    assert blocks_for(110) == [100]


def test_many_threads_share_a_view(source):
    view = MetadataView(source, {})
    barrier = threading.Barrier(8)

    def read(seed):
        numbers = np.random.default_rng(seed)
        barrier.wait(10)
        for _ in range(100):
            wanted = [(int(numbers.integers(0, len(CONTENT))), int(numbers.integers(0, 3000))) for _ in range(4)]
            assert view.read_ranges(wanted) == [CONTENT[at : at + n] for at, n in wanted]

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(read, range(8)))


def test_the_hdf5_library_reads_through_it_and_its_errors_stay_ours(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w", libver="latest") as file:
        file.create_dataset("x", data=np.arange(100_000), chunks=(1000,))
    source = Recorded((tmp_path / "a.h5").read_bytes())
    with h5py.File(MetadataView(source, {}).for_hdf5(), "r") as file:
        assert file["x"][...].sum() == 100_000 * 99_999 // 2

    class Broken(Recorded):
        def read_ranges(self, ranges):
            if len(self.asked) > 1:
                raise SourceError("memory: is gone")
            return super().read_ranges(ranges)

    with (
        h5py.File(MetadataView(Broken(source.content), {}).for_hdf5(), "r") as file,
        pytest.raises(SourceError, match="is gone"),
    ):
        file["x"][...]
