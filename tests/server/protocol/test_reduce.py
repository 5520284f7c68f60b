"""What requests come to, compared with NumPy on whole arrays."""

import itertools
import json
import tracemalloc
import zlib
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from activestore.core.codecs import decode as codecs
from activestore.server.errors import RequestError
from activestore.server.protocol.answer import encoded_v2
from activestore.server.protocol.reduce import Answer, memory, reduced
from activestore.server.protocol.request import ReduceRequest, parse_v2
from tests.server.asking import COMPRESS, DTYPES, LARGEST, OPERATIONS, Asked, asked, expected, written

RNG = np.random.default_rng(11)


def parsed(one: Asked, largest_chunk: int = LARGEST) -> ReduceRequest:
    return parse_v2(one.operation, json.dumps(one.body()).encode(), None, largest_chunk=largest_chunk)


def check(one: Asked) -> Answer:
    """Check that the answer is NumPy's, and return it."""
    found, right = reduced(parsed(one), one.raw, largest_chunk=LARGEST), expected(one)
    assert (found.values.dtype.name, found.shape) == (right.dtype, right.shape)
    assert found.values.dtype.isnative
    assert found.values.size == np.prod(right.shape)
    assert found.count.dtype == np.int64
    assert found.count.tolist() == right.count
    values, numbers = found.values.ravel(), np.frombuffer(right.raw, right.dtype)
    if right.sums is None or numbers.dtype.kind != "f":
        # By value: NaN comes in many bits, and the sign of a zero depends on the order of the numbers.
        np.testing.assert_array_equal(values, numbers)
        return found
    bound = right.sizes * float(np.finfo(right.dtype).eps) + np.finfo(right.dtype).tiny
    with np.errstate(invalid="ignore", over="ignore"):
        near = abs(found.values.astype(np.longdouble) - right.sums) <= bound
    assert np.all(near.ravel() | (values == numbers) | np.isnan(numbers))
    assert np.array_equal(np.isnan(values), np.isnan(numbers))
    return found


def ask(operation: str, numbers: np.ndarray, **fields: Any) -> Asked:
    fields = {"dtype": numbers.dtype.name, "shape": list(numbers.shape)} | fields
    return Asked(operation, fields, numbers, written(numbers, fields))


@settings(max_examples=250)
@given(asked(odd=True))
def test_any_request(one: Asked) -> None:
    check(one)


NUMBERS = RNG.integers(0, 50, (4, 3, 5))


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_all_combinations(operation: str, dtype: str) -> None:
    numbers = (NUMBERS / 7 if dtype[0] == "f" else NUMBERS).astype(dtype)
    axes = [None, 0, 1, 2, [], [0], [0, 1], [0, 2], [1, 2], [0, 1, 2]]
    selections = [None, [[0, 4, 1], [2, None, -1], [1, 5, 2]], [[-1, -5, -1]] * 3, [[1, 1, 1], [0, 3, 1], [0, 5, 1]]]
    selections[1][1] = [2, -4, -1]
    missing = [None, {"missing_value": numbers[0, 0, 0].item()}, {"valid_range": [5, 9 if dtype[0] != "f" else 9.5]}]
    for swap, order, axis, selection, lost in itertools.product(["little", "big"], "CF", axes, selections, missing):
        check(ask(operation, numbers, byte_order=swap, order=order, axis=axis, selection=selection, missing=lost))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("compression", list(COMPRESS))
@pytest.mark.parametrize("filters", [[], [4], [8], [2, 4], [3], [7], [1000]])
def test_codecs(dtype: str, compression: str | None, filters: list[int]) -> None:
    fields: dict[str, Any] = {"filters": [{"id": "shuffle", "element_size": size} for size in filters]}
    fields["compression"] = compression and {"id": compression}
    for order in "CF":
        one = ask("sum", NUMBERS.astype(dtype), axis=[1], order=order, **fields)
        check(one)
        # What follows the compressed bytes is not looked at, as where the size is not said.
        if compression:
            assert reduced(parsed(one), one.raw + b"what follows", largest_chunk=LARGEST).shape == (4, 5)
        del one.fields["shape"], one.fields["axis"]
        assert reduced(parsed(one), one.raw, largest_chunk=LARGEST).values.item() == NUMBERS.sum()


class TestIdentities:
    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("why", ["all missing", "empty selection", "empty object"])
    def test_nothing_valid(self, dtype: str, why: str) -> None:
        numbers = np.full((2, 3), 7, dtype)
        limits = np.finfo(dtype) if dtype[0] == "f" else np.iinfo(dtype)
        for operation, identity in {"sum": 0, "min": limits.max, "max": limits.min}.items():
            one = ask(operation, numbers, missing={"missing_value": 7})
            if why == "empty selection":
                one = ask(operation, numbers, selection=[[2, 2, 1], [0, 3, 1]])
            if why == "empty object":
                one = Asked(operation, {"dtype": dtype}, numbers.ravel()[:0], b"")
            found = reduced(parsed(one), one.raw, largest_chunk=LARGEST)
            assert (found.values.item(), found.shape, found.count.tolist()) == (identity, (), [0])

    def test_some_cells_only(self) -> None:
        numbers = np.array([[1, 9, 3], [4, 9, 6]], "float64")
        found = check(ask("max", numbers, axis=[0], missing={"missing_value": 9}))
        assert found.values.tolist() == [4, np.finfo("f8").min, 6]
        assert found.count.tolist() == [2, 0, 2]

    def test_an_empty_selection_keeps_its_shape(self) -> None:
        numbers = np.arange(6, dtype="int32").reshape(2, 3)
        empty = {"selection": [[1, 1, 1], [0, 3, 1]]}
        assert check(ask("sum", numbers, axis=0, **empty)).shape == (3,)
        assert check(ask("sum", numbers, axis=1, **empty)).shape == (0,)
        assert check(ask("min", numbers, axis=[], **empty)).shape == (0, 3)
        assert check(ask("select", numbers, **empty)).shape == (0, 3)
        assert check(ask("count", numbers, axis=0, **empty)).count.tolist() == [0, 0, 0]


class TestOrderOfMemory:
    numbers = np.arange(6, dtype="int32").reshape(2, 3)

    def test_select_is_sent_in_the_order_of_memory(self) -> None:
        found = check(ask("select", self.numbers, order="F"))
        assert found.shape == (2, 3)
        assert found.values.tobytes() == self.numbers.tobytes("F")

    def test_so_is_what_is_not_reduced_and_its_counts(self) -> None:
        found = check(ask("max", self.numbers, order="F", axis=[], missing={"missing_value": 1}))
        assert found.values.ravel().tolist() == [0, 3, 1, 4, 2, 5]
        assert found.count.tolist() == [1, 1, 0, 1, 1, 1]

    def test_but_not_the_counts_of_count(self) -> None:
        found = check(ask("count", self.numbers, order="F", axis=[], missing={"missing_value": 1}))
        assert found.count.tolist() == found.values.ravel().tolist() == [1, 0, 1, 1, 1, 1]


class TestNaN:
    numbers = np.array([[1, np.nan], [3, 4]], "float32")

    def test_is_not_missing(self) -> None:
        for missing in (None, {"missing_value": 1.0}, {"valid_min": 0.0}, {"valid_range": [0.0, 10.0]}):
            found = check(ask("count", self.numbers, missing=missing))
            assert found.count.item() == 4 - (missing == {"missing_value": 1.0})

    @pytest.mark.parametrize("operation", ["min", "max", "sum"])
    def test_goes_through(self, operation: str) -> None:
        assert np.isnan(check(ask(operation, self.numbers)).values)
        assert np.isnan(check(ask(operation, self.numbers, axis=[0])).values).tolist() == [False, True]

    def test_infinities_are_numbers(self) -> None:
        numbers = np.array([-np.inf, -np.inf], "float64")
        assert check(ask("max", numbers)).values == -np.inf
        assert check(ask("sum", numbers)).values == -np.inf


class TestSums:
    def test_float32_is_added_up_in_float64(self) -> None:
        numbers = np.full(1 << 17, 288.15, "float32")
        found = check(ask("sum", numbers))
        assert found.values == np.float32(numbers.astype("f8").sum())
        assert found.values != np.add.accumulate(numbers)[-1]

    def test_a_sum_beyond_float32_is_infinite(self) -> None:
        assert check(ask("sum", np.array([3e38, 3e38], "float32"))).values == np.inf

    @pytest.mark.parametrize("dtype", [name for name in DTYPES if name[0] != "f"])
    def test_a_sum_of_integers_that_does_not_fit_is_refused(self, dtype: str) -> None:
        most, least = np.iinfo(dtype).max, np.iinfo(dtype).min
        for pair in ([most, 1], [least, -1])[: 1 if dtype[0] == "u" else 2]:
            numbers = np.array([pair, [0, 0]], dtype)
            with pytest.raises(RequestError, match=f"does not fit {dtype}: reduce fewer axes") as caught:
                reduced(parsed(ask("sum", numbers)), numbers.tobytes(), largest_chunk=LARGEST)
            assert (caught.value.status, caught.value.kind) == (400, "chunk")
            assert check(ask("sum", numbers, axis=[0])).values.shape == (2,)
        assert check(ask("sum", np.array([most, 0], dtype))).values == most


class TestWrongBytes:
    numbers = np.arange(6, dtype="float64")

    def refused(self, raw: bytes, largest_chunk: int = LARGEST, **fields: Any) -> str:
        one = Asked("sum", {"dtype": "float64"} | fields, self.numbers, raw)
        with pytest.raises(RequestError) as caught:
            reduced(parsed(one, largest_chunk), raw, largest_chunk=largest_chunk)
        assert (caught.value.status, caught.value.kind) == (400, "chunk")
        return str(caught.value)

    def test_the_object_ends_too_early(self) -> None:
        raw = self.numbers.tobytes()[:-8]
        assert "ends after 40 of the 48 bytes" in self.refused(raw, size=48)
        assert "40 bytes where the chunk has 48" in self.refused(raw, shape=[6])
        assert "39 is not a multiple of the 8 bytes" in self.refused(raw[:-1])

    @pytest.mark.parametrize("compression", ["zlib", "gzip", "blosc2"])
    def test_damaged(self, compression: str) -> None:
        raw = COMPRESS[compression](self.numbers.tobytes())
        named = {"compression": {"id": compression}}
        for damaged in (raw[:-1], b"", b"x" * 50):
            for shape in ({}, {"shape": [6]}):
                assert compression in self.refused(damaged, **named, **shape)
        for shape in ([5], [7], [2, 4]):
            assert compression in self.refused(raw, **named, shape=shape)

    @pytest.mark.parametrize("compression", ["zlib", "gzip", "blosc2"])
    @pytest.mark.parametrize("shape", [None, [1024]])
    def test_a_bomb(self, compression: str, shape: list[int] | None) -> None:
        raw, largest = COMPRESS[compression](bytes(32 << 20)), 1 << 19
        self.refused(raw, largest, compression={"id": compression}, shape=shape)
        tracemalloc.start()
        self.refused(raw, largest, compression={"id": compression}, shape=shape)
        taken = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert taken < 4 * (largest + len(raw))

    def test_a_compressor_that_is_not_there(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(codecs, "_installed", {"blosc2": False}.get)
        codecs.decodable.cache_clear()
        one = ask("sum", self.numbers, compression={"id": "blosc2"})
        try:
            with pytest.raises(RequestError, match=r"compression: .* blosc2; .*\[codecs\]"):
                reduced(parsed(one), one.raw, largest_chunk=LARGEST)
        finally:
            codecs.decodable.cache_clear()

    @given(st.binary(max_size=300), st.sampled_from(["zlib", "gzip", "blosc2", None]), st.sampled_from([None, [2], [4, 5]]))
    def test_any_bytes(self, raw: bytes, compression: str | None, shape: list[int] | None) -> None:
        fields = {"dtype": "int32", "shape": shape, "compression": compression and {"id": compression}}
        with suppress(RequestError):
            assert reduced(parsed(Asked("sum", fields, self.numbers, raw)), raw, largest_chunk=LARGEST).count.item() >= 0


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("axis", [None, [], [0], [1]])
@pytest.mark.parametrize("dtype", ["float32", "int64"])
@pytest.mark.parametrize("how", ["plain", "swapped", "compressed", "unsized"])
def test_memory_is_what_it_takes_at_most(operation: str, axis: list[int] | None, dtype: str, how: str) -> None:
    numbers = (RNG.integers(0, 100, (150, 200)) << (57 if dtype == "int64" else 0)).astype(dtype)
    numbers = np.where(numbers % 2, 0, numbers).astype(dtype) if dtype == "int64" else numbers
    fields: dict[str, Any] = {"axis": axis, "missing": {"missing_value": 0}}
    if how != "plain":
        fields["byte_order"] = "big"
    if how in ("compressed", "unsized"):
        fields |= {"compression": {"id": "zlib"}, "filters": [{"id": "shuffle", "element_size": 4}] * 2}
    one = ask(operation, numbers, **fields)
    largest = numbers.nbytes
    if how == "unsized":
        one.fields.pop("shape"), one.fields.pop("axis")
    else:
        one.fields["size"] = len(one.raw)
    request = parsed(one, largest)
    raw = one.raw

    def answer() -> None:
        # Sums that do not fit take as much.
        with suppress(RequestError):
            encoded_v2(reduced(request, raw, largest_chunk=largest), request)

    answer()
    tracemalloc.start()
    answer()
    taken = tracemalloc.get_traced_memory()[1] + len(raw)
    tracemalloc.stop()
    assert taken <= memory(request, largest_chunk=largest)


def test_memory_of_a_selection_is_less_than_that_of_everything() -> None:
    numbers = np.zeros((1000, 100), "float64")
    few, all_of_them = (
        memory(parsed(ask("min", numbers, axis=[], selection=selection)), largest_chunk=LARGEST)
        for selection in ([[0, 2, 1], [0, 100, 1]], None)
    )
    assert few < all_of_them
    assert LARGEST < memory(parsed(Asked("min", {"dtype": "int32"}, numbers, b"")), largest_chunk=LARGEST) < 100 * LARGEST


def test_a_stream_of_zlib_that_goes_on() -> None:
    one = ask("sum", np.arange(6, dtype="int32"), compression={"id": "zlib"})
    packed = zlib.compress(bytes(24)) * 2
    assert reduced(parsed(one), packed, largest_chunk=LARGEST).values == 0
