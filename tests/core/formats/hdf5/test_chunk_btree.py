"""Where chunks lie: every kind of index that HDF5 has, against the library's own list; and B-trees that are damaged."""

import contextlib
import io
import struct

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from activestore import Active
from activestore.core.formats.hdf5 import chunk_btree as hdf5_index
from activestore.core.formats.read import locate, read_variable
from activestore.core.plan import touched_chunks
from activestore.core.selection import Selection
from activestore.errors import ActivestoreError, SourceError
from activestore.sources.open import LocalSource, open_source


@pytest.fixture
def path(tmp_path):
    return tmp_path / "a.h5"


def btree(root, extent, *, shape=None, base=0, limit=2**64 - 1):
    """Return the tree at `root` of a dataset of one dimension, in chunks of one number of two bytes."""
    return hdf5_index.BTree(root, base, (extent,), (limit,), (shape or extent,), (1,), 2)


def library_table(path, name="x"):
    """Return position, offset, size and filter mask of each chunk as the HDF5 library tells them."""
    found = []
    with h5py.File(path) as file:
        dataset = file[name]
        dataset.id.chunk_iter(
            lambda chunk: found.append((chunk.chunk_offset, chunk.byte_offset, chunk.size, chunk.filter_mask))
        )
        return sorted((tuple(np.floor_divide(start, dataset.chunks).tolist()), *rest) for start, *rest in found)


def our_table(path, name="x"):
    table = Active(path, name).variable.table
    cells = zip(*(axis.tolist() for axis in np.unravel_index(table.index, table.grid)), strict=True)
    return sorted(zip(cells, table.offset.tolist(), table.size.tolist(), table.filter_mask.tolist(), strict=True))


def uses_btree(path, name="x"):
    """Return whether the variable has the old B-tree, which we read ourselves."""
    with h5py.File(path) as file:
        base, header = file.id.get_create_plist().get_userblock(), h5py.h5g.get_objinfo(file[name].id, b".").objno[0]
    return hdf5_index.read_layout(open_source(path), header, base=base).root is not None


INDEXES = {
    "B-tree": ("earliest", {"maxshape": (None, 20)}),
    "B-tree under a new header": (("earliest", "v108"), {"maxshape": (None, 20)}),
    "B-tree, 1.8": ("v108", {"maxshape": (None, 20)}),
    "fixed array": ("latest", {}),
    "fixed array, compressed": ("latest", {"compression": "gzip"}),
    "fixed array with room": ("latest", {"maxshape": (90, 27)}),
    "extensible array": ("latest", {"maxshape": (None, 20)}),
    "extensible array with room": ("latest", {"maxshape": (None, 33)}),
    "extensible array, compressed": ("v110", {"maxshape": (None, 20), "compression": "gzip"}),
    "B-tree of version 2": ("latest", {"maxshape": (None, None)}),
    "B-tree of version 2, compressed": ("v112", {"maxshape": (None, None), "compression": "gzip"}),
}


@pytest.mark.parametrize("userblock", [0, 1024])
@pytest.mark.parametrize("kind", INDEXES)
def test_every_index_gives_the_library_s_table(path, kind, userblock):
    libver, options = INDEXES[kind]
    numbers = np.arange(70 * 20, dtype="i4").reshape(70, 20)
    with h5py.File(path, "w", libver=libver, userblock_size=userblock) as file:
        file.create_dataset("x", data=numbers, chunks=(3, 2), **options)
        sparse = file.create_dataset("sparse", (70, 20), "i4", chunks=(3, 2), **options)
        sparse[::9, 5:7] = 1
        sparse[67] = 2
        wanted = sparse[...]
    assert uses_btree(path) == (kind.startswith("B-tree") and "version 2" not in kind)
    assert len(our_table(path)) == 240
    assert 0 < len(our_table(path, "sparse")) < 240
    for name, expected in (("x", numbers), ("sparse", wanted)):
        assert our_table(path, name) == library_table(path, name)
        assert np.array_equal(Active(path, name).read(), expected)


@pytest.mark.parametrize("maxshape", [(None, 20), (70, None)])
def test_an_index_whose_unlimited_dimension_is_any(path, maxshape):
    numbers = np.arange(70 * 20, dtype="i4").reshape(70, 20)
    with h5py.File(path, "w", libver="latest") as file:
        file.create_dataset("x", data=numbers, chunks=(3, 2), maxshape=maxshape)
    assert np.array_equal(Active(path, "x").read(), numbers)
    assert Active(path, "x")[4:6, ::3].sum() == numbers[4:6, ::3].sum()


def test_implicit_index_and_single_chunk(path):
    numbers = np.arange(77, dtype="f4").reshape(7, 11)
    with h5py.File(path, "w", libver="latest") as file:
        plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plist.set_chunk((2, 3))
        plist.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
        space = h5py.h5s.create_simple(numbers.shape)
        implicit = h5py.h5d.create(file.id, b"implicit", h5py.h5t.IEEE_F32LE, space, dcpl=plist)
        implicit.write(h5py.h5s.ALL, h5py.h5s.ALL, numbers)
        file.create_dataset("single", data=numbers, chunks=(7, 11))
        file.create_dataset("single compressed", data=numbers, chunks=(7, 11), compression="gzip")
        file.create_dataset("no chunk", (7, 11), "f4", chunks=(7, 11))
    for name in ("implicit", "single", "single compressed"):
        assert our_table(path, name) == library_table(path, name)
        assert np.array_equal(Active(path, name).read(), numbers)
    assert our_table(path, "no chunk") == []


@pytest.mark.parametrize("options", [{}, {"maxshape": (None,)}], ids=["fixed array in pages", "extensible array in blocks"])
def test_arrays_of_many_chunks(path, options):
    with h5py.File(path, "w", libver="latest") as file:
        file.create_dataset("x", data=np.arange(5000, dtype="i4"), chunks=(1,), **options)
        sparse = file.create_dataset("sparse", (5000,), "i4", chunks=(1,), **options)
        sparse[::7] = np.arange(5000)[::7]
        wanted = sparse[...]
    assert our_table(path) == library_table(path)
    assert our_table(path, "sparse") == library_table(path, "sparse")
    assert np.array_equal(Active(path, "sparse").read(), wanted)


def test_filter_masks_are_read(path):
    with h5py.File(path, "w") as file:
        x = file.create_dataset("x", (4, 4), "i4", chunks=(2, 4), compression="gzip", shuffle=True)
        x[:2] = 1
        x.id.write_direct_chunk((2, 0), np.full((2, 4), 5, "i4").tobytes(), filter_mask=0b11)
    assert [mask for *_, mask in our_table(path)] == [0, 0b11]
    assert Active(path, "x").sum() == 48


def root_of(path, name="x"):
    with h5py.File(path) as file:
        header = h5py.h5g.get_objinfo(file[name].id, b".").objno[0]
    return hdf5_index.read_layout(open_source(path), header, base=0).root


def test_a_deep_tree(path):
    with h5py.File(path, "w") as file:
        x = file.create_dataset("x", (40_000, 2), "i2", chunks=(1, 2), maxshape=(None, 2))
        for row in range(40_000):
            x.id.write_direct_chunk((row, 0), struct.pack("<hh", row % 30_000, 1))
    with path.open("rb") as file:
        file.seek(root_of(path))
        assert file.read(6)[5] >= 2, "the tree has less than three levels"
    assert our_table(path) == library_table(path)
    assert np.array_equal(Active(path, "x")[:, 0].read(), np.arange(40_000) % 30_000)
    source = Remote(path)
    variable, source.nodes = read_variable(source, "x"), 0
    assert locate(variable, source, np.array([0, 20_000])).table.lookup(np.array([20_000])) >= 0
    assert source.nodes == 5


def test_a_node_larger_than_usual(path):
    """A file may set how many children a node has; h5py cannot, so here is such a node."""
    node = b"TREE\x01\x00" + struct.pack("<HQQ", 600, 2**64 - 1, 2**64 - 1)
    node += b"".join(struct.pack("<IIQQQ", 8, i % 4, i, 0, 50_000 + 8 * i) for i in range(600))
    node += struct.pack("<IIQQ", 0, 0, 600, 0)
    path.write_bytes(bytes(100) + node + bytes(60_000))
    table = btree(60, 600, base=40).read(open_source(path), None)
    assert table.index.tolist() == list(range(600))
    assert table.offset.tolist() == [50_040 + 8 * i for i in range(600)]
    assert table.filter_mask.tolist() == [i % 4 for i in range(600)]


@pytest.mark.parametrize("sizes", [(4, 4), (2, 4), (8, 4)])
def test_addresses_of_other_widths(path, sizes):
    plist = h5py.h5p.create(h5py.h5p.FILE_CREATE)
    plist.set_sizes(*sizes)
    with h5py.File(h5py.h5f.create(str(path).encode(), fcpl=plist)) as file:
        file.create_dataset("x", data=np.arange(60).reshape(6, 10), chunks=(2, 3))
        file["y"] = np.arange(60)
    assert our_table(path) == library_table(path)
    assert Active(path, "x").sum() == Active(path, "y").sum() == 1770


@pytest.mark.parametrize("libver", ["earliest", ("earliest", "v108"), "latest"])
@pytest.mark.parametrize("tracked", [False, True])
def test_headers_of_many_attributes(path, libver, tracked):
    """Continuation blocks in the old headers and the new ones, and attributes in a heap of their own."""
    with h5py.File(path, "w", libver=libver, track_order=tracked) as file:
        x = file.create_dataset("x", data=np.arange(20.0), chunks=(3,), maxshape=(None,))
        few = file.create_dataset("few", data=np.arange(20.0), chunks=(3,), maxshape=(None,))
        for i in range(200):
            x.attrs[f"attribute {i}"] = np.bytes_("v" * (i + 1))
        for i in range(7):
            few.attrs[f"attribute {i}"] = np.arange(700 + i)
    for name in ("x", "few"):
        assert uses_btree(path, name) == (libver != "latest")
        assert our_table(path, name) == library_table(path, name)
    assert len(Active(path, "x").attrs) == 200
    assert Active(path, "x").attrs["attribute 199"] == "v" * 200
    assert len(Active(path, "few").attrs["attribute 6"]) == 706


def messages(content, header):
    """Return offset, type and size of the messages in the first block of an old object header."""
    (total,) = struct.unpack_from("<I", content, header + 8)
    at, found = header + 16, []
    while at < header + 16 + total:
        kind, size = struct.unpack_from("<HH", content, at)
        found.append((at, kind, size))
        at += 8 + size
    return found


@pytest.mark.parametrize("version", [1, 2])
def test_layout_messages_of_the_oldest_files(path, version):
    """The library no longer writes them: the message is rewritten, with room taken from the free space behind it."""
    numbers = np.arange(60, dtype="i4").reshape(6, 10)
    with h5py.File(path, "w", libver="earliest") as file:
        x = file.create_dataset("x", data=numbers, chunks=(2, 5))
        x.attrs["will be free space"] = np.arange(8)
        del x.attrs["will be free space"]
        header = h5py.h5g.get_objinfo(x.id, b".").objno[0]
    content = bytearray(path.read_bytes())
    wanted = library_table(path)
    at, _, size = next(message for message in messages(content, header) if message[1] == 8)
    tree = content[at + 8 + 3 : at + 8 + 11]
    layout = struct.pack("<BBB5x8s3I4x", version, 3, 2, tree, 2, 5, 4)
    rest = [content[start : start + 8 + length] for start, kind, length in messages(content, header) if start > at and kind]
    after = struct.pack("<HHB3x", 8, len(layout), 0) + layout + b"".join(rest)
    end = header + 16 + struct.unpack_from("<I", content, header + 8)[0]
    free = end - at - len(after) - 8
    assert free >= 0, f"{size} bytes of layout leave no room"
    content[at:end] = after + struct.pack("<HHB3x", 0, free, 0) + bytes(free)
    before = sum(start < at for start, _, _ in messages(path.read_bytes(), header))
    struct.pack_into("<H", content, header + 2, before + 1 + len(rest) + 1)
    path.write_bytes(content)
    assert uses_btree(path)
    assert our_table(path) == wanted
    assert np.array_equal(Active(path, "x").read(), numbers)


@pytest.fixture
def tree(path):
    """A file with a B-tree of two levels, the address of its root and those of the leaves."""
    with h5py.File(path, "w") as file:
        file.create_dataset("x", data=np.arange(200, dtype="i2"), chunks=(1,))
    root = root_of(path)
    content = path.read_bytes()
    assert content[root + 5] == 1
    used = struct.unpack_from("<H", content, root + 6)[0]
    leaves = [struct.unpack_from("<Q", content, root + 24 + i * 32 + 24)[0] for i in range(used)]
    return path, root, leaves


def patch(path, at, data):
    with path.open("r+b") as file:
        file.seek(at)
        file.write(data)


def read_directly(path, root):
    """Read the tree without the library in between, which may find the damage first."""
    return btree(root, 200).read(open_source(path), None)


CHILD = 24 + 24
"""Where the address of a node's first child is, in a tree of one dimension."""


@pytest.mark.parametrize(
    ("node", "at", "damage", "message"),
    [
        ("root", 0, b"EERT", "no chunk node at offset"),
        ("root", 4, b"\x00", "no chunk node at offset"),
        ("root", 5, b"\xff", "no chunk node at offset"),
        ("root", CHILD, "root", "no chunk node at offset"),
        ("root", CHILD, "leaf", "does not look for it"),
        ("root", CHILD, struct.pack("<Q", 2**64 - 1), "behind the end"),
        ("root", CHILD, struct.pack("<Q", 2**62), "behind the end"),
        ("leaf", 0, b"SNOD", "no chunk node at offset"),
        ("leaf", 5, b"\x01", "no chunk node at offset"),
        ("leaf", 6, b"\xff\xff", "cut off|not in order"),
        ("leaf", 6, b"\x00\x00", "without children"),
        ("leaf", 6, b"\x05\x00", "more children than it counts"),
        ("leaf", 24 + 8, struct.pack("<Q", 1), "does not look for it"),
        ("leaf", 24 + 32 + 8, struct.pack("<Q", 1), "not in order"),
        ("leaf", 24 + 8 + 7, b"\xff", "not in order"),
        ("leaf", 24 + 8 + 2, b"\xff", "not in order"),
        ("leaf", 24 + 16, b"\x01", "starts where none can"),
        ("leaf", 24 + 16, b"\x02", "not in order|does not look for it|cannot have one"),
        ("leaf", 24, b"\x00\x00\x00\xff", "behind the end"),
        ("leaf", CHILD, struct.pack("<Q", 2**63), "behind the end"),
        ("leaf", CHILD + 32, "same", "same bytes"),
    ],
)
def test_a_damaged_tree_is_an_error(tree, node, at, damage, message):
    path, root, leaves = tree
    places = {"root": root, "leaf": leaves[1]}
    with path.open("rb") as file:
        file.seek(leaves[1] + CHILD)
        same = file.read(8)
    damage = same if damage == "same" else damage
    patch(path, places[node] + at, struct.pack("<Q", places[damage]) if damage in places else damage)
    with pytest.raises(SourceError, match=message):
        read_directly(path, root)
    with pytest.raises(SourceError):
        Active(path, "x")


def test_a_tree_that_names_more_nodes_than_the_file_can_hold(path):
    """Every child is the node itself, one level lower, again and again: without a limit that would be 64**9 nodes."""
    node = b"TREE\x01\x09" + struct.pack("<HQQ", 64, 2**64 - 1, 2**64 - 1)
    node += b"".join(struct.pack("<IIQQQ", 8, 0, 2 * i, 0, 0) for i in range(64)) + struct.pack("<IIQQ", 0, 0, 128, 0)
    path.write_bytes(node)
    with pytest.raises(SourceError, match=r"more nodes than the file can hold|no chunk node"):
        read_directly(path, 0)
    levels = [bytearray(node) for _ in range(9)]
    for depth, level in enumerate(levels):
        level[5] = 9 - depth
        for i in range(64):
            struct.pack_into("<Q", level, 24 + 32 * i + 24, (depth + 1) * len(node))
    path.write_bytes(b"".join(levels))
    with pytest.raises(SourceError, match=r"more nodes than the file can hold"):
        read_directly(path, 0)


def test_chunks_outside_the_dataset_are_left_out(tree):
    path, root, _ = tree
    table = btree(root, 150, shape=180).read(open_source(path), None)
    assert table.index.tolist() == list(range(150))
    assert table.grid == (180,)


def test_nothing_was_ever_written(path):
    with h5py.File(path, "w") as file:
        file.create_dataset("x", (10,), "f4", chunks=(3,))
    assert uses_btree(path)
    assert len(read_variable(open_source(path), "x").table) == 0


def test_chunks_where_the_dataset_cannot_grow_to_are_damage(tree):
    path, root, _ = tree
    with pytest.raises(SourceError, match="cannot have one"):
        btree(root, 150, limit=180).read(open_source(path), None)


# Only what a selection needs


class Remote(LocalSource):
    """A local file that is read as if it were elsewhere, and counts what is read of its metadata."""

    is_remote = True

    def __init__(self, path):
        super().__init__(str(path))
        self.rounds = self.nodes = 0

    def for_hdf5(self):
        return io.BytesIO(self.read_ranges([(0, self.size)])[0])

    def read_ranges(self, ranges):
        found = super().read_ranges(ranges)
        self.rounds += 1
        self.nodes += sum(data[:4] == b"TREE" for data in found)
        return found


GRIDS = {"1": (3000,), "2": (70, 45), "3": (14, 15, 16)}
STATES = ("whole", "sparse", "shrunken", "shrunken and grown")


@pytest.fixture(scope="module")
def many_chunks(tmp_path_factory):
    """A file of variables of thousands of chunks, written in any order: whole, with chunks missing, shrunken, grown again."""
    path = tmp_path_factory.mktemp("chunks") / "many.h5"
    numbers = np.random.default_rng(7)
    with h5py.File(path, "w") as file:
        for name, grid in GRIDS.items():
            for state in STATES:
                chunk = (2,) * len(grid)
                shape = tuple(2 * n for n in grid)
                x = file.create_dataset(f"{state} {name}", shape, "u1", chunks=chunk, maxshape=(None,) * len(grid))
                cells = numbers.permutation(np.prod(grid))
                for cell in cells if state != "sparse" else cells[::5]:
                    start = tuple(2 * int(at) for at in np.unravel_index(cell, grid))
                    x.id.write_direct_chunk(start, bytes([cell % 251]) * 2 ** len(grid))
                if state.startswith("shrunken"):
                    x.resize(tuple(n * 3 // 4 - 1 for n in shape))
                if state.endswith("grown"):
                    x.resize(shape)
    return path


def tables(path, name, key):
    """Return the variable's index, the complete table, and the chunks that an index touches."""
    source = Remote(path)
    variable = read_variable(source, name)
    assert variable.table.unread is not None
    wanted = touched_chunks(variable, Selection.whole(variable.shape)[key])
    return source, variable, read_variable(LocalSource(str(path)), name).table, wanted


def rows(table, wanted):
    """Return what a table says of chunks: where each is, or that it is not."""
    at = table.lookup(wanted)
    columns = (table.offset, table.size, table.filter_mask)
    return [tuple(int(column[row]) for column in columns) if row >= 0 else None for row in at.tolist()]


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("name", GRIDS)
@given(data=st.data())
@settings(max_examples=25)
def test_the_rows_of_a_selection_are_those_of_the_complete_table(many_chunks, name, state, data):
    with h5py.File(many_chunks) as file:
        shape = file[f"{state} {name}"].shape
    key = []
    for length in shape:
        first, last = sorted(data.draw(st.tuples(st.integers(0, length), st.integers(0, length))))
        step = data.draw(st.sampled_from([1, 1, 7, -1, -30]))
        points = st.lists(st.integers(0, length - 1), max_size=4)
        key.append(
            data.draw(
                st.one_of(
                    st.just(slice(None)), st.just(slice(first, last, step) if step > 0 else slice(last, first, step)), points
                )
            )
        )
    source, variable, complete, wanted = tables(many_chunks, f"{state} {name}", tuple(key))
    source.nodes = source.rounds = 0
    found = locate(variable, source, wanted).table
    every = np.arange(np.prod(complete.grid, dtype=int))
    assert rows(found, every if wanted is None else wanted) == rows(complete, every if wanted is None else wanted)
    assert found.partial == (wanted is not None)
    assert set(found.index.tolist()) <= set(complete.index.tolist())
    assert source.rounds <= 3, "one for each level"
    if wanted is not None:
        assert source.nodes <= 3 + 2 * len(wanted)


@pytest.mark.parametrize("name", GRIDS)
def test_a_few_chunks_need_a_few_nodes(many_chunks, name):
    for state in ("whole", "sparse"):
        source, variable, complete, _ = tables(many_chunks, f"{state} {name}", ...)
        source.nodes = 0
        assert locate(variable, source).table.index.tolist() == complete.index.tolist()
        everything = source.nodes
        for first in range(0, len(complete.index), 331):
            source.nodes = 0
            table = locate(variable, source, complete.index[first : first + 3]).table
            assert rows(table, complete.index[first : first + 3]) == rows(complete, complete.index[first : first + 3])
            assert source.nodes <= 4 < everything // 2


def test_nothing_that_is_wanted_needs_the_root_only(many_chunks):
    source, variable, _, wanted = tables(many_chunks, "whole 2", (slice(5, 5), slice(None)))
    source.nodes = 0
    assert len(wanted) == len(locate(variable, source, wanted).table) == 0
    assert source.nodes == 1


@pytest.mark.parametrize("state", STATES)
def test_reductions_of_a_part(many_chunks, state, monkeypatch):
    monkeypatch.setattr("activestore.inputs.open.open_source", lambda path, _: Remote(path))
    with h5py.File(many_chunks) as file:
        for name, grid in GRIDS.items():
            values, remote = file[f"{state} {name}"][...], Active(many_chunks, f"{state} {name}")
            for key in (np.s_[...], np.s_[3], np.s_[-1:], np.s_[5:20:3], np.s_[[1, 2, 9]], np.s_[..., 4:6]):
                assert remote[key].sum() == values[key].sum(dtype="i8")
                assert remote[key].explain("sum").chunks <= np.prod(grid)
            assert remote[5:5].count() == 0


@pytest.mark.parametrize(
    ("node", "at", "damage"),
    [
        (node, at, damage)
        for node in ("root", "leaf")
        for at in (0, 4, 5, 6, 7, 24, 28, 32, 39, 40, 48, 55, 56, 64, 71)
        for damage in (b"\x00", b"\x01", b"\x7f", b"\xff")
    ],
)
def test_a_damaged_tree_of_a_remote_file_is_an_error_of_ours(tree, node, at, damage):
    path, root, leaves = tree
    patch(path, {"root": root, "leaf": leaves[1]}[node] + at, damage)
    source = Remote(path)
    try:
        variable = read_variable(source, "x")
    except ActivestoreError:
        return
    for wanted in (None, np.array([3, 60, 61, 150])):
        with contextlib.suppress(ActivestoreError):
            locate(variable, source, wanted)
