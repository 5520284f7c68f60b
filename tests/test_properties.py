"""Whatever the file, the selection, the axes and the reduction: the numbers are those of netCDF4-python and NumPy."""

import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from hypothesis import given, reject, settings
from hypothesis import strategies as st

from activestore import Active, Capabilities
from activestore.backends.posix import PosixBackend
from activestore.core.reductions import REDUCTIONS, Reduction, variance
from activestore.errors import SumOverflowError
from activestore.sources.open import open_source
from tests import generated
from tests.expected import Request, cells_of, check, fits, magnitude, outer, requests, same
from tests.generated import NAME, Recipe, recipes

NAMED: dict[str, str | Reduction] = {
    **{name: name for name in REDUCTIONS},
    "var1": variance(1),
    "std1": variance(1, name="std"),
}
MANY = settings().max_examples * 6
FEW = settings().max_examples // 2


class OneByOne(PosixBackend):
    """The local backend without the means to compute small chunks together."""

    capabilities = Capabilities(through_hdf5=True)


@contextmanager
def opened(recipe: Recipe) -> Iterator[tuple[Active, np.ma.MaskedArray]]:
    """Write the file of `recipe`, and give our view of its variable and netCDF4-python's values."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "a.nc")
        generated.write(recipe, path)
        try:
            values = generated.reference(path, Path(folder))
        except (OverflowError, TypeError):
            if recipe.attrs.get("_Unsigned", "false") == "false":
                raise
            # netCDF4-python fails where `_Unsigned` makes its default fill value one that the type does not have.
            reject()
        yield Active(path, NAME), values


def cut(active: Active, values: np.ma.MaskedArray, request: Request) -> tuple[Active, np.ma.MaskedArray]:
    """Return the part of both that the request selects."""
    for key in request.keys:
        active, values = active[key], outer(values, key)
    return active, values


def reduced(active: Active, reduction: Any, request: Request) -> Any:
    return active.reduce(reduction, request.axis, keepdims=request.keepdims, skipna=request.skipna)


def as_bytes(result: Any) -> tuple[bytes, bytes]:
    return np.ma.getdata(result).tobytes(), np.ma.getmaskarray(result).tobytes()


@settings(max_examples=MANY)
@given(recipe=recipes(), data=st.data())
def test_every_reduction_is_that_of_netcdf4_and_numpy(recipe: Recipe, data: st.DataObject) -> None:
    with opened(recipe) as (active, values):
        assert active.shape == values.shape
        assert active.dtype == values.dtype
        request = data.draw(requests(active))
        part, wanted = cut(active, values, request)
        with closing(OneByOne(open_source(active.variable.uri))) as one_by_one:
            for name, reduction in NAMED.items():
                try:
                    # Small chunks are computed together if the backend takes them so.
                    found = reduced(
                        part if data.draw(st.booleans()) else part.with_options(backend=one_by_one), reduction, request
                    )
                except SumOverflowError:
                    assert not fits(wanted, request, name), f"{name} fits into 64 bits"
                    continue
                check(name, found, wanted, request, magnitude(recipe, active))


@settings(max_examples=FEW)
@given(recipe=recipes(), data=st.data())
def test_several_reductions_in_one_pass(recipe: Recipe, data: st.DataObject) -> None:
    with opened(recipe) as (active, values):
        request = data.draw(requests(active))
        part, wanted = cut(active, values, request)
        names = data.draw(st.lists(st.sampled_from(sorted(REDUCTIONS)), min_size=2, unique=True))
        try:
            found = reduced(part, tuple(names), request)
        except SumOverflowError:
            assert not all(fits(wanted, request, name) for name in names)
            return
        assert list(found) == names
        for name in names:
            check(name, found[name], wanted, request, magnitude(recipe, active))


@given(recipe=recipes(), data=st.data())
def test_read_gives_what_netcdf4_gives(recipe: Recipe, data: st.DataObject) -> None:
    with opened(recipe) as (active, values):
        part, wanted = cut(active, values, data.draw(requests(active)))
        found, plain = part.read(), np.asarray(part)
    assert isinstance(found, np.ma.MaskedArray)
    assert (found.shape, found.dtype) == (wanted.shape, wanted.dtype)
    mask = np.ma.getmaskarray(wanted)
    np.testing.assert_array_equal(np.ma.getmaskarray(found), mask)
    np.testing.assert_array_equal(found.data[~mask], wanted.data[~mask])
    assert plain.shape == wanted.shape
    np.testing.assert_array_equal(plain[~mask], wanted.data[~mask].astype(plain.dtype))
    assert np.isnan(plain[mask]).all()
    assert plain.dtype.kind == "f" if mask.any() else plain.dtype == wanted.dtype


@settings(max_examples=FEW)
@given(recipe=recipes(), data=st.data())
def test_results_are_the_same_to_the_last_bit_for_any_number_of_workers(recipe: Recipe, data: st.DataObject) -> None:
    with opened(recipe) as (active, values):
        request = data.draw(requests(active))
        part, _ = cut(active, values, request)
        for reduction in ("mean", "std", "argmax", "count"):
            one, five = (reduced(part.with_options(workers=workers), reduction, request) for workers in (1, 5))
            assert as_bytes(one) == as_bytes(five)


@settings(max_examples=FEW // 5)
@given(recipe=recipes(), data=st.data())
def test_other_processes_give_the_same_to_the_last_bit(
    process_pool: ProcessPoolExecutor, recipe: Recipe, data: st.DataObject
) -> None:
    with opened(recipe) as (active, values):
        request = data.draw(requests(active))
        part, _ = cut(active, values, request)
        for reduction in ("mean", "std", "argmax", "count"):
            here, there = (reduced(one, reduction, request) for one in (part, part.with_options(executor=process_pool)))
            assert as_bytes(here) == as_bytes(there)


def squares(values: np.ma.MaskedArray, axis: tuple[int, ...]) -> np.ma.MaskedArray:
    # Not `values**2`: numpy.ma masks a power that is not finite.
    return np.square(values.astype("f8")).sum(axis=axis, keepdims=True)


def ends(values: np.ma.MaskedArray, axis: tuple[int, ...]) -> tuple[np.ma.MaskedArray, np.ma.MaskedArray]:
    wide = values.astype("f8")
    return wide.min(axis=axis, keepdims=True), wide.max(axis=axis, keepdims=True)


MEAN_SQUARE = Reduction.from_functions("mean_square", chunk=squares, combine=np.add, finalize=np.divide)


def wider(a: tuple[np.ndarray, np.ndarray], b: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    return np.minimum(a[0], b[0]), np.maximum(a[1], b[1])


def middle(state: tuple[np.ndarray, np.ndarray], count: np.ndarray) -> np.ndarray:
    return (state[0] + state[1]) / 2


MIDDLE = Reduction.from_functions("middle", chunk=ends, combine=wider, finalize=middle)


@settings(max_examples=FEW)
@given(recipe=recipes(), data=st.data())
def test_reductions_of_ones_own(recipe: Recipe, data: st.DataObject) -> None:
    with opened(recipe) as (active, values):
        request = data.draw(requests(active))
        part, wanted = cut(active, values, request)
        found = reduced(part, (MEAN_SQUARE, MIDDLE), request)
    cells = cells_of(wanted, request)
    for at, (row, valid) in enumerate(zip(cells.values.astype("f8"), cells.valid, strict=True)):
        with np.errstate(all="ignore"):
            square = np.mean(row[valid] ** 2) if valid.any() else None
            half = (row[valid].min() + row[valid].max()) / 2 if valid.any() else None
        assert same(np.ma.asanyarray(found["mean_square"]).reshape(-1)[at], square, 1e-12 * (square or 0))
        assert same(np.ma.asanyarray(found["middle"]).reshape(-1)[at], half, 0)


@given(recipe=recipes(containers=("HDF5 earliest", "HDF5 latest", "netCDF-4")))
def test_chunk_tables_are_those_of_the_hdf5_library(recipe: Recipe) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "a.nc")
        generated.write(recipe, path)
        variable = Active(path, NAME).variable
        with h5py.File(path) as file:
            dataset, chunks = file[NAME], []
            if not variable.table.placed:
                # The HDF5 library itself misplaces these chunks: see core/test_layouts.py.
                assert dataset.maxshape.count(None) == 1
                assert dataset.maxshape[0] is not None
                return
            if dataset.chunks is None or not dataset.id.get_num_chunks():
                assert variable.layout != "chunked" or len(variable.table) == 0
                return
            dataset.id.chunk_iter(chunks.append)
    table = variable.table
    cells = np.array([chunk.chunk_offset for chunk in chunks]) // variable.chunk_shape
    wanted = sorted(
        (int(index), chunk.byte_offset, chunk.size, chunk.filter_mask)
        for index, chunk in zip(np.ravel_multi_index(tuple(cells.T), table.grid), chunks, strict=True)
    )
    assert wanted == list(zip(*(c.tolist() for c in (table.index, table.offset, table.size, table.filter_mask)), strict=True))
