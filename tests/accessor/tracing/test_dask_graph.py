"""What is found in a Dask graph is what the graph computes; what computes anything is refused."""

import operator
from functools import partial

import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

from activestore.accessor.tracing.dask_graph import trace
from activestore.errors import UntraceableError

pytestmark = pytest.mark.filterwarnings("ignore:The specified chunks separate the stored chunks:UserWarning")

SHAPE = (12, 6, 8)
DIMS = ("time", "lat", "lon")


class Unread:
    """An array that is not to be read: only its graph is looked at."""

    def __init__(self, shape, dtype="f4"):
        self.shape, self.dtype, self.ndim = shape, np.dtype(dtype), len(shape)

    def __getitem__(self, key):
        raise AssertionError(f"read at {key}")

    def __array__(self, *args, **kwargs):
        raise AssertionError("read")


class Stored:
    """An array that Dask does not know, and so puts into the graph whole, as it does xarray's."""

    def __init__(self, numbers):
        self.numbers, self.shape, self.dtype, self.ndim = numbers, numbers.shape, numbers.dtype, numbers.ndim

    def __getitem__(self, key):
        return self.numbers[key]


def stored(*shape, start=0):
    return Stored(np.arange(start, start + np.prod(shape, dtype=int), dtype="i4").reshape(shape))


def lazy(leaf, chunks, **options):
    return da.from_array(leaf, chunks=chunks, name=False, meta=np.empty((0,) * leaf.ndim, leaf.dtype), **options)


def read(leaf, key):
    """Return what a leaf has at an outer index, dimension by dimension, as the last does not move the others."""
    found = np.asarray(leaf[(slice(None),) * leaf.ndim])
    for dim in reversed(range(len(key))):
        found = found[(slice(None),) * dim + (key[dim],)]
    return found


def check(array, pieces=None):
    """Compare what is traced with what is computed; return it."""
    traced = trace(array)
    parts = [read(piece.leaf, piece.key) for piece in traced.pieces]
    found = parts[0] if traced.dim is None else np.concatenate(parts, traced.dim)
    expected = array.compute(scheduler="synchronous")
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)
    assert pieces is None or len(traced.pieces) == pieces
    return traced


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Three files with four months each, numbers that are all different."""
    folder = tmp_path_factory.mktemp("files")
    numbers = np.arange(np.prod(SHAPE), dtype="f4").reshape(SHAPE)
    coords = {"time": np.arange(12), "lat": np.linspace(-50, 50, 6), "lon": np.arange(8) * 45.0}
    whole = xr.Dataset({"tas": (DIMS, numbers)}, coords)
    for i in range(3):
        encoding = {"tas": {"chunksizes": (2, 3, 4)}}
        whole.isel(time=slice(4 * i, 4 * i + 4)).to_netcdf(folder / f"{i}.nc", engine="h5netcdf", encoding=encoding)
    return [str(folder / f"{i}.nc") for i in range(3)]


SELECTIONS = {
    "all": lambda tas: tas,
    "integer": lambda tas: tas.isel(time=2),
    "negative integer": lambda tas: tas.isel(lon=-1, lat=0),
    "point": lambda tas: tas.isel(time=3, lat=2, lon=1),
    "slice": lambda tas: tas.isel(time=slice(1, 3), lon=slice(2, None)),
    "step": lambda tas: tas.isel(lat=slice(1, None, 2), lon=slice(None, None, 3)),
    "negative step": lambda tas: tas.isel(time=slice(None, None, -1), lon=slice(6, 1, -2)),
    "list": lambda tas: tas.isel(lon=[5, 1, 1, 7]),
    "lists": lambda tas: tas.isel(lon=[5, 1, 7], lat=[3, 0], time=[1, 0, 3]),
    "list and integer": lambda tas: tas.isel(lon=[5, 1, 7], time=2),
    "mask": lambda tas: tas.isel(lon=np.arange(8) % 3 == 1),
    "nothing": lambda tas: tas.isel(lon=slice(3, 3)),
    "nearest": lambda tas: tas.sel(lat=12, lon=100, method="nearest"),
    "label slice": lambda tas: tas.sel(lat=slice(-30, 30), lon=slice(45, 200)),
    "labels": lambda tas: tas.sel(lon=[315.0, 0.0]),
    "where the coordinate": lambda tas: tas.isel(lat=np.flatnonzero(tas.lat.values > 0)),
    "squeezed": lambda tas: tas.isel(time=[1], lon=slice(3, 4)).squeeze(),
    "rechunked": lambda tas: tas.chunk({"time": 3, "lat": 4, "lon": 5}),
    "selected, rechunked, selected": lambda tas: tas.isel(lon=slice(1, None)).chunk(lon=5)[::-1, 1::2].chunk(-1)[1:, :, [4, 0]],
    "head and tail": lambda tas: tas.head(time=3).tail(lon=2),
    "thinned": lambda tas: tas.thin(lon=3),
    "copied": lambda tas: tas.copy(deep=True),
    "renamed": lambda tas: tas.rename(lon="x").drop_vars("x"),
    "one dimension after the other": lambda tas: tas[1][2:][:, [1, 5]],
    "ordered": lambda tas: tas.sortby("lat", ascending=False),
}


@pytest.mark.parametrize("selection", SELECTIONS)
@pytest.mark.parametrize(
    ("engine", "chunks"),
    [("h5netcdf", {}), ("h5netcdf", {"time": 3, "lon": 3}), ("netcdf4", 2), ("netcdf4", -1), ("h5netcdf", "auto")],
)
def test_selections_of_a_file(files, engine, chunks, selection):
    with xr.open_dataset(files[0], engine=engine, chunks=chunks) as file:
        check(SELECTIONS[selection](file["tas"]).data, pieces=1)


@pytest.mark.parametrize("selection", SELECTIONS)
@pytest.mark.parametrize(
    ("engine", "how"), [("h5netcdf", {"combine": "by_coords"}), ("netcdf4", {"combine": "nested", "concat_dim": "time"})]
)
def test_selections_of_several_files(files, engine, how, selection):
    with xr.open_mfdataset(files, engine=engine, chunks={"time": 3, "lat": 2}, **how) as joined:
        selected = SELECTIONS[selection](joined["tas"])
        traced = check(selected.data)
        assert 1 <= len(traced.pieces) <= 3
        if "time" in selected.dims and selected.sizes["time"] == 12 and selected.size:
            assert traced.dim == selected.dims.index("time")
            assert len(traced.pieces) == 3


def test_files_one_after_the_other_along_the_last_dimension(files):
    with xr.open_dataset(files[0], chunks={"lon": 3}) as one, xr.open_dataset(files[1], chunks={"lon": 3}) as other:
        joined = xr.concat([one["tas"].drop_vars("time"), other["tas"].drop_vars("time")], "lon")
        traced = check(joined[1:, :, ::-3].chunk(lon=4).data, pieces=2)
        assert traced.dim == 2


def test_the_order_of_files_is_that_of_the_array(files):
    with xr.open_mfdataset(files, engine="h5netcdf", combine="nested", concat_dim="time") as joined:
        check(joined["tas"].isel(time=[11, 0, 5, 6, 1]).data, pieces=4)
        check(joined["tas"].isel(time=slice(None, None, -1)).data, pieces=3)


def test_the_leaf_is_the_array_of_xarray(files):
    with xr.open_dataset(files[0], engine="h5netcdf", chunks={}) as file:
        (piece,) = trace(file["tas"][1:, 2].data).pieces
        assert type(piece.leaf).__name__ == "ImplicitToExplicitIndexingAdapter"
        assert piece.key == (slice(1, 4, 1), 2, slice(0, 8, 1))


def test_what_is_selected_before_it_is_chunked_is_in_the_leaf(files):
    with xr.open_dataset(files[0], engine="h5netcdf") as file:
        assert check(file["tas"][1:, ::2].chunk(time=2)[:, 1].data, pieces=1).shape == (3, 8)


@pytest.mark.parametrize(
    "options", [{"inline_array": True}, {"getitem": da.core.getter_nofancy}, {"lock": True}, {"asarray": False}]
)
def test_ways_of_making_dask_arrays(options):
    check(lazy(stored(9, 8), (2, 3), **options)[::2, [5, 1]].rechunk((3, 1)), pieces=1)


@pytest.mark.filterwarnings("ignore:.*inline_array:UserWarning")
def test_optimised_and_fused_graphs():
    array = lazy(stored(9, 8), (2, 3))[::2][:, 3:].rechunk((3, 2))
    check(dask.optimize(array)[0], pieces=1)
    both = da.concatenate([array, lazy(stored(9, 8, start=500), (2, 3))[::2][:, 3:]])
    check(dask.optimize(both)[0], pieces=2)


@st.composite
def indices(draw, shape):
    bound = st.integers(-12, 12)
    slices = st.builds(slice, st.none() | bound, st.none() | bound, st.none() | st.integers(-3, 3).filter(bool))
    key = [draw(slices | st.integers(-n, n - 1)) if n else draw(slices) for n in shape]
    at = draw(st.integers(-1, len(shape) - 1))
    if at >= 0 and shape[at]:
        positions = st.lists(st.integers(0, shape[at] - 1), min_size=1, max_size=6)
        key[at] = draw(positions | st.lists(st.booleans(), min_size=shape[at], max_size=shape[at]).filter(any))
    return tuple(key)


@given(st.data())
def test_chains_of_indices_joins_and_chunks(data):
    shape = tuple(data.draw(st.lists(st.integers(1, 7), min_size=1, max_size=3)))
    chunks = st.tuples(*(st.integers(1, n) for n in shape))
    array = lazy(stored(*shape), data.draw(chunks))
    if data.draw(st.booleans()):
        others = [lazy(stored(*shape, start=1000 * i), data.draw(chunks)) for i in range(1, data.draw(st.integers(2, 4)))]
        array = da.concatenate([array, *others], data.draw(st.integers(0, len(shape) - 1)))
    for _ in range(data.draw(st.integers(1, 4))):
        if not array.ndim:
            break
        if data.draw(st.booleans()):
            array = array[data.draw(indices(array.shape))]
        elif array.size:
            array = array.rechunk(tuple(data.draw(st.integers(1, n)) for n in array.shape))
    check(array)


def test_nothing_is_read():
    leaves = [Unread((30, 20, 10)) for _ in range(3)]
    array = da.concatenate([lazy(leaf, (7, 6, 5)) for leaf in leaves], 1)
    traced = trace(array[::2, 5:50:3, [1, 7]].rechunk((4, 4, 2)))
    assert traced.dim == 1
    assert [piece.leaf for piece in traced.pieces] == leaves
    with pytest.raises(AssertionError, match="read"):
        array.compute(scheduler="synchronous")


COMPUTED = {
    "add": lambda x: x + 1,
    "astype": lambda x: x.astype("f8"),
    "neg": lambda x: -x,
    "_where|where": lambda x: da.where(x > 3, x, 0),
    "plus_one": lambda x: x.map_blocks(plus_one),
    "the_same": lambda x: x.map_blocks(the_same),
    "lambda": lambda x: x.map_blocks(lambda block: block),
    "transpose": lambda x: x.T,
    "sum": lambda x: x.sum(axis=0),
    "dimension is added": lambda x: da.stack([x, x]),
    "a dimension is added": lambda x: x[None],
    "flip_twice": lambda x: x.map_blocks(partial(partial(flip_twice), times=2)),
    "vindex": lambda x: x.vindex[[0, 1], [1, 2]],
    "reshape": lambda x: x.reshape(-1),
    "broadcast_to": lambda x: da.broadcast_to(x, (2, *x.shape)),
    "negative": lambda x: da.overlap.overlap(x, 1, "none").map_blocks(np.negative),
}


def plus_one(block):
    return block + 1


def the_same(block):
    return block


def flip_twice(block, times):
    return block


@pytest.mark.parametrize("named", COMPUTED)
def test_what_computes_is_refused_and_named(named):
    array = COMPUTED[named](lazy(Unread((6, 8)), (2, 3)))
    with pytest.raises(UntraceableError, match=named):
        trace(array)
    with pytest.raises(UntraceableError):
        trace(array[1:].rechunk(2))
    with pytest.raises(UntraceableError):
        trace(da.concatenate([array, array])[::2])


@pytest.mark.parametrize(
    "computed",
    [
        lambda tas: tas * 2,
        lambda tas: tas.where(tas > 3),
        lambda tas: tas.fillna(0),
        lambda tas: tas.astype("i4"),
        lambda tas: tas.transpose("lon", "lat", "time"),
        lambda tas: tas.rolling(time=2).mean(),
        lambda tas: tas.shift(time=1),
        lambda tas: tas.diff("time"),
        lambda tas: tas.coarsen(lon=2).max(),
        lambda tas: tas.expand_dims("member"),
        lambda tas: tas.pad(lon=1),
        lambda tas: tas.interp(lon=[10.0]),
        lambda tas: tas.stack(place=("lat", "lon")),
        lambda tas: tas.isel(lat=xr.DataArray([0, 1], dims="place"), lon=xr.DataArray([0, 1], dims="place")),
        lambda tas: xr.concat([tas, tas], "member"),
        lambda tas: tas.cumsum("time"),
        lambda tas: tas.compute().chunk(lon=2, lat=2),
        lambda tas: tas.persist(scheduler="synchronous"),
    ],
)
def test_computations_of_xarray_are_refused(files, computed):
    with xr.open_dataset(files[0], engine="h5netcdf", chunks={"time": 2, "lat": 3, "lon": 4}) as file:
        array = computed(file["tas"])
        with pytest.raises(UntraceableError):
            trace(array.data)


def test_files_along_two_dimensions_are_refused():
    rows = [da.concatenate([lazy(Unread((4, 4)), 2), lazy(Unread((4, 4)), 2)], 1) for _ in range(2)]
    with pytest.raises(UntraceableError, match="more than one dimension"):
        trace(da.concatenate(rows, 0))


def test_a_function_that_swallows_errors_is_not_run():
    """It would find that it was not given numbers, and might do something else then."""
    ran = []

    def careful(block):
        ran.append(type(block))
        return block

    array = lazy(Unread((4, 4)), 2).map_blocks(careful, meta=np.empty((0, 0), "f4"))
    ran.clear()
    with pytest.raises(UntraceableError, match="careful"):
        trace(array)
    assert ran == []


def test_types_and_shapes_that_do_not_fit_are_refused():
    leaf = Unread((6, 8), "i2")
    with pytest.raises(UntraceableError, match="of float32, what it reads is of int16"):
        trace(mislabelled(leaf))
    array = lazy(Unread((6, 8)), 3)
    with pytest.raises(UntraceableError, match="unknown lengths"):
        trace(array[da.ones(6, chunks=3) > 0])


def mislabelled(leaf):
    array = lazy(leaf, 3)
    return da.Array(array.dask, array.name, array.chunks, dtype="f4")


def test_wrong_chunks_are_refused():
    array = lazy(Unread((6, 8)), 3)
    with pytest.raises(UntraceableError, match="has the shape"):
        trace(da.Array(array.dask, array.name, ((3, 2), (3, 3, 2)), dtype="f4"))


def test_graphs_of_tuples():
    """As they were before 2024.12, and may still be given."""
    leaf = stored(6, 8)
    getter = da.core.getter
    graph = {
        "leaf": leaf,
        ("x", 0, 0): (getter, "leaf", (slice(0, 4), slice(0, 8))),
        ("x", 1, 0): (getter, "leaf", (slice(4, 6), slice(0, 8)), True, False),
        ("y", 0, 0): (operator.getitem, ("x", 0, 0), (slice(1, 4), [7, 0, 1])),
        ("y", 1, 0): (operator.getitem, ("x", 1, 0), (tuple, [(slice, 0, 1, None), [7, 0, 1]])),
        ("z", 0, 0): (da.core.concatenate3, [[("y", 0, 0)], [("y", 1, 0)]]),
        ("alias", 0, 0): ("z", 0, 0),
    }
    (piece,) = trace(da.Array(graph, "alias", ((4,), (3,)), dtype="i4")).pieces
    assert piece.leaf is leaf
    assert piece.key == (slice(1, 5, 1), [7, 0, 1])
    graph["alias", 0, 0] = (operator.add, ("z", 0, 0), 1)
    with pytest.raises(UntraceableError, match="add"):
        trace(da.Array(graph, "alias", ((4,), (3,)), dtype="i4"))


def test_long_chains_end_in_an_answer():
    array = lazy(stored(2000), 1000)
    for _ in range(150):
        array = array[1:]
    (piece,) = trace(array).pieces
    assert piece.key == (slice(150, 2000, 1),)
    for _ in range(1000):
        array = array[1:]
    with pytest.raises(UntraceableError, match="too many layers"):
        trace(array)


@pytest.mark.parametrize("chunk", [1, 3, 10])
def test_lists_across_chunks_keep_their_order(chunk):
    """Dask takes them from each chunk in ascending order, joins those, and puts them into the wanted order."""
    order = np.random.default_rng(chunk).permutation(20)
    check(lazy(stored(20, 4), (chunk, 3))[order], pieces=1)
    check(lazy(stored(20, 4), (chunk, 3))[:, 1:][[13, 2, 19, 0, 7, 2, 5]], pieces=1)
    joined = da.concatenate([lazy(stored(10, 4), (chunk, 3)), lazy(stored(10, 4, start=100), (chunk, 3))])
    check(joined[order])
