"""The embedded server's protocol beside the real Reductionist's: the same requests for the same bytes, the same answers.

What differs is in `TestDifferences`, case by case, and in docs/protocol-differences.md.
"""

import gzip
import itertools
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import blosc2
import cbor2
import numpy as np
import pytest
import urllib3
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from activestore.reductionist.request import json_number
from activestore.server.errors import RequestError
from activestore.server.protocol.answer import encoded_error, encoded_v2
from activestore.server.protocol.reduce import reduced
from activestore.server.protocol.request import parse_v2
from tests.real.servers import Reductionist, S3Store, WebServer
from tests.server.asking import Asked, asked, expected, shuffled, written

pytestmark = pytest.mark.real
LARGEST = 1 << 26
DROPPED = 0
"""The status of an answer that does not come: the real server's handler has panicked."""


@dataclass(frozen=True)
class Reply:
    """A status, and what the body says."""

    status: int
    said: dict[str, Any]

    @property
    def values(self) -> np.ndarray:
        """The numbers, as a flat array."""
        return np.frombuffer(self.said["bytes"], self.said["dtype"])

    @property
    def shape(self) -> list[int]:
        """The shape, in whatever form it was sent."""
        return self.said["shape"] or np.frombuffer(self.said["shape_as_bytes"], "u8").tolist()

    @property
    def count(self) -> list[int]:
        """The counts, in whatever form they were sent."""
        return self.said["count"] or np.frombuffer(self.said["count_as_bytes"], "i8").tolist()


class Both:
    """The two servers, and a store with one object at a time that both are asked about."""

    def __init__(self, store: S3Store, server: Reductionist, http: urllib3.PoolManager) -> None:
        self.store, self.server, self.http, self.numbers = store, server, http, itertools.count()

    def ask(self, operation: str, body: dict[str, Any] | bytes, stored: bytes) -> tuple[Reply, Reply]:
        """Return what the real server answers, and what ours does."""
        # The store may keep an object's size for a moment: each has a name of its own.
        name = f"equal-{next(self.numbers)}"
        path = self.store.folder / name
        path.write_bytes(stored)
        url = f"{self.store.url}/{self.store.bucket}/{name}"
        text = body.replace(b"{URL}", url.encode()) if isinstance(body, bytes) else json.dumps(body | {"url": url}).encode()
        try:
            return self.there(operation, text), here(operation, text, stored)
        finally:
            path.unlink()

    def there(self, operation: str, body: bytes) -> Reply:
        """Return what the real server answers."""
        headers = {"content-type": "application/json"}
        headers |= urllib3.make_headers(basic_auth=f"{self.store.key}:{self.store.secret}")
        try:
            answer = self.http.request("POST", f"{self.server.url}/v2/{operation}", body=body, headers=headers)
        except urllib3.exceptions.ProtocolError:
            return Reply(DROPPED, {})
        return _reply(answer.status, answer.data, answer.headers.get("content-type", ""))


def here(operation: str, body: bytes, stored: bytes) -> Reply:
    """Return what our server answers, but for the reading and the HTTP."""
    try:
        request = parse_v2(operation, body, None, largest_chunk=LARGEST)
        end = None if request.size is None else request.offset + request.size
        answer, headers = encoded_v2(reduced(request, stored[request.offset : end], largest_chunk=LARGEST), request)
    except RequestError as error:
        status, answer, headers = encoded_error(error)
        return _reply(status, answer, headers["content-type"])
    return _reply(200, answer, headers["content-type"])


def _reply(status: int, body: bytes, kind: str) -> Reply:
    if status == 200:
        assert kind == "application/cbor"
        return Reply(status, cbor2.loads(body))
    return Reply(status, json.loads(body)["error"] if kind == "application/json" else {"message": body.decode()})


@pytest.fixture(scope="module")
def both(s3_store: S3Store, reductionist: Reductionist) -> Iterator[Both]:
    with urllib3.PoolManager(retries=False, timeout=30) as http:
        yield Both(s3_store, reductionist, http)


def ask(both: Both, operation: str, numbers: np.ndarray, **fields: Any) -> tuple[Reply, Reply]:
    """Ask both about these numbers, whole and as they are, with further fields."""
    fields = {"interface_type": "s3", "dtype": numbers.dtype.name, "shape": list(numbers.shape)} | fields
    return both.ask(operation, fields, written(numbers, fields))


def same(one: Asked, there: Reply, ours: Reply) -> None:
    """Check that two answers are equal: sums within what rounding may do to them, anything else bit by bit."""
    if there.status == 400 and one.fields.get("compression") == {"id": "blosc2"} and not one.numbers.any():
        # It refuses what Blosc2 makes of zeros, which has a test of its own.
        assert ours.status == 200
        return
    assert there.status == ours.status == 200, (there.said, ours.said)
    assert list(there.said) == list(ours.said)
    for name in ("dtype", "shape", "shape_as_bytes", "count", "count_as_bytes", "byte_order"):
        assert there.said[name] == ours.said[name], name
    if one.operation != "sum" or one.numbers.dtype.kind != "f" or one.fields.get("axis") == []:
        # Which of two zeros is the greater one depends on the order in which they come.
        unsigned = one.operation in ("min", "max") and one.numbers.dtype.kind == "f"
        assert (there.values + 0 if unsigned else there.values).tobytes() == (
            ours.values + 0 if unsigned else ours.values
        ).tobytes()
        return
    right = expected(one)
    # Numbers added up one by one are rounded each time, ours in float64.
    info = np.finfo(right.dtype)
    bound = right.sizes.ravel() * float(info.eps) + float(info.tiny)
    assert np.all(abs(ours.values - right.sums.ravel()) <= bound)
    assert np.all(abs(there.values - right.sums.ravel()) <= bound * (np.array(right.count) + 1))


def read_alike(missing: dict[str, Any] | None) -> bool:
    """Whether the real server reads the usual digits of these numbers as these numbers."""
    values = [one for given in (missing or {}).values() for one in (given if isinstance(given, list) else [given])]
    return all(json_number(value) == repr(value) for value in values)


@settings(max_examples=400, suppress_health_check=list(HealthCheck))
@given(one=asked())
def test_valid_requests(both: Both, one: Asked) -> None:
    assume(read_alike(one.fields.get("missing")))
    same(one, *both.ask(one.operation, one.body(), one.stored))


# Values of fields that are wrong whatever the other fields are, or make them wrong.
WRONG: list[dict[str, Any]] = [
    *({"dtype": one} for one in (None, "float16", "int8", "Float32", 4, "")),
    *({"byte_order": one} for one in ("native", "<", 3, "")),
    *({"offset": one} for one in (-1, 1.0, "3", True, 1 << 64)),
    *({"size": one} for one in (0, -1, 8.0, "8", True, 7, 4, 1 << 64)),
    *({"shape": one} for one in ([], [0], [2, 0], [3], [-2], [2.0], 2, "2", [None], [1 << 62], [1 << 33, 1 << 33], {})),
    *({"axis": one} for one in (-1, 2, [2], [1, 0], [0, 0], [0, 1, 2], 0.0, "0", [0.0], [None], True, {})),
    *({"order": one} for one in ("c", "K", 3, "")),
    *({"selection": one} for one in ([], [[0, 1, 1]], [[0, 1, 0], [0, 1, 1]], [[0, 1], [0, 1, 1]], [[0, 1, 1, 1]] * 2, 3)),
    *(
        {"selection": [one, [0, 1, 1]]}
        for one in ([0, 1.0, 1], [0, None, 1], [0, True, 1], [0, 1 << 63, 1], "0:1", {"start": 0})
    ),
    {"selection": [{"start": 0, "end": 1, "stride": 1, "step": 1}] * 2},
    *({"compression": one} for one in ("zlib", {}, {"id": "zstd"}, {"id": 3}, {"name": "zlib"}, 3)),
    *({"compression": {"id": one}} for one in ("zlib", "gzip", "blosc2")),  # what is not compressed
    *({"filters": one} for one in ({}, ["shuffle"], [{"id": "shuffle"}], [{"id": "lzf", "element_size": 4}], 3)),
    *({"filters": [{"id": "shuffle", "element_size": one}]} for one in (-1, 4.0, "4", None)),
    *({"missing": one} for one in ({}, [], "missing_value", 3, {"fill": 3}, {"missing_value": 3, "valid_min": 2})),
    *({"missing": {"missing_value": one}} for one in ("3", None, True, [3], {})),
    *({"missing": {"missing_values": one}} for one in (3, None, [None], ["3"], {})),
    *({"missing": {"valid_range": one}} for one in (3, [1], [1, 2, 3], [2, 1], [1, 1], [None, 1], {"min": 1, "max": 2})),
    *({option: one} for option in ("option_shape_as_bytes", "option_count_as_bytes") for one in (0, 1, "true", [])),
    {"option_disable_chunk_cache": "no"},
    {"sise": 8},
    {"url": None},
    {"interface_type": None},
    {"interface_type": ""},
    {"interface_type": "gopher"},
    {"dtype": "int32", "missing": {"missing_value": 1.0}},
    {"dtype": "int32", "missing": {"missing_value": 1 << 31}},
    {"dtype": "uint32", "missing": {"missing_value": -1}},
    {"dtype": "int64", "size": 16, "missing": {"missing_value": 1 << 63}},
    {"dtype": "float32", "missing": {"missing_value": 1e39}},
    {"dtype": "float32", "missing": {"valid_range": [16777216, 16777217]}},
    {"shape": None, "axis": 0},
    {"shape": None, "axis": []},
    {"shape": None, "selection": [[0, 1, 1]]},
]


@pytest.mark.parametrize("change", WRONG, ids=repr)
def test_invalid_requests(both: Both, change: dict[str, Any]) -> None:
    fields = {"interface_type": "s3", "dtype": "float32", "shape": [2, 2], "size": 16} | change
    for name in ("dtype", "interface_type"):
        if name in change and change[name] is None:
            del fields[name]
    body = json.dumps(fields | ({} if "url" in change else {"url": "{URL}"})).encode()
    there, ours = both.ask("sum", body, bytes(16))
    assert there.status == ours.status == 400, (there.said, ours.said)
    assert ours.said["message"]


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"null", b'"text"', b"{} {}", b"\xef\xbb\xbf{}", b'{"url": "\xff"}', b"[" * 200, b"[" * 10000,
        b'{"interface_type": "s3", "url": "{URL}", "dtype": "int32", "offset": NaN}',
        b'{"interface_type": "s3", "url": "{URL}", "dtype": "int32", "offset": -0}',
        b'{"interface_type": "s3", "url": "{URL}", "dtype": "int32", "offset": 01}',
        b'{"interface_type": "s3", "url": "{URL}", "dtype": "int32", "dtype": "int32"}',
        b'{"interface_type": "s3", "url": "{URL}", "dtype": "int32", "missing": {"missing_value": -0}}',
        b'{"interface_type": "s3", "url": "{URL}", "dtype": "float32", "missing": {"missing_value": 1e400}}',
        b'{"interface_type": "s3", "url": "{URL}", "dtype": "float64", "missing": {"missing_value": Infinity}}',
        b'{"interface_type": "s3", "url": "{URL}", "dtype": "float64", "missing": {"missing_value": 1, "missing_value": 1}}',
    ],
)  # fmt: skip
def test_what_is_no_request(both: Both, body: bytes) -> None:
    there, ours = both.ask("sum", body, bytes(16))
    assert there.status == ours.status == 400, (there.said, ours.said)


@pytest.mark.parametrize("operation", ["median", "SUM", "x" * 100])
def test_unknown_operations(both: Both, operation: str) -> None:
    there, ours = both.ask(operation, b"whatever", b"")
    assert there.status == ours.status == 404
    assert ours.said["message"] == f"unsupported operation {operation[:40]}"


ODD = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=4)
ODD |= st.lists(ODD, max_size=3) | st.dictionaries(st.sampled_from(["id", "start", "missing_value", "x"]), ODD, max_size=2)
FIELDS = ["dtype", "byte_order", "offset", "size", "shape", "axis", "order", "selection", "compression", "filters", "missing"]


@settings(max_examples=200, suppress_health_check=list(HealthCheck))
@given(one=asked(), name=st.sampled_from(FIELDS), value=ODD)
def test_requests_with_any_field_changed(both: Both, one: Asked, name: str, value: Any) -> None:
    # An offset that is right in itself is another request, and what origins say of it is theirs.
    assume(name != "offset" or not isinstance(value, int) or not 0 <= value < 1 << 64)
    body = one.body() | {name: value}
    there, ours = both.ask(one.operation, body, one.stored)
    assert (there.status == 200) == (ours.status == 200), (there, ours)
    assert 400 <= ours.status < 500 or ours.status == 200


@settings(max_examples=150, suppress_health_check=list(HealthCheck))
@given(
    one=asked(),
    compression=st.sampled_from(["zlib", "gzip", "blosc2"]),
    damage=st.sampled_from(["cut", "more", "less", "other"]),
    where=st.integers(1, 1000),
)
def test_damaged_chunks(both: Both, one: Asked, compression: str, damage: str, where: int) -> None:
    fields = one.fields | {"compression": {"id": compression}, "offset": 0, "size": None, "shape": list(one.numbers.shape)}
    fields["filters"] = []
    numbers = one.numbers.ravel()
    numbers = {"more": np.append(numbers, numbers[:1]), "less": numbers[1:]}.get(damage, numbers)
    stored = written(numbers, fields) if numbers.size else b""
    if damage == "cut":
        stored = stored[: -1 - where % len(stored)]
    if damage == "other":
        stored = bytes(where % 256 for _ in range(40))
    there, ours = both.ask(one.operation, replace(one, fields=fields).body(), stored)
    # An empty object is 500 there.
    assert there.status in (400, DROPPED if compression == "blosc2" else 400, 400 if stored else 500), there
    assert ours.status == 400, (there, ours)


BLOSC2: dict[str, Any] = {"interface_type": "s3", "dtype": "float64", "shape": [3000], "compression": {"id": "blosc2"}}
NUMBERS = np.arange(12, dtype="float64").reshape(3, 4)


class TestEdges:
    """What is rare, and answered alike all the same."""

    @pytest.mark.parametrize("dtype", ["int32", "int64", "uint32", "uint64", "float32", "float64"])
    @pytest.mark.parametrize("operation", ["sum", "min", "max", "count", "select"])
    @pytest.mark.parametrize("axis", [None, [0], [], [0, 1]])
    def test_nothing_valid(self, both: Both, dtype: str, operation: str, axis: list[int] | None) -> None:
        numbers = np.full((2, 3), 7, dtype)
        for fields in (
            {"missing": {"missing_value": 7}},
            {"selection": [[2, 2, 1], [0, 3, 1]]},
            {"selection": [[0, 2, 1], [3, 0, 1]]},
        ):
            there, ours = ask(both, operation, numbers, axis=axis, **fields)
            assert there == ours

    @pytest.mark.parametrize("dtype", ["int32", "int64", "uint32", "uint64", "float32", "float64"])
    def test_extreme_numbers(self, both: Both, dtype: str) -> None:
        limits = np.finfo(dtype) if dtype[0] == "f" else np.iinfo(dtype)
        numbers = np.array([[limits.min, limits.max, 0], [1, limits.max, limits.min]], dtype)
        for operation, axis in itertools.product(["min", "max", "count", "select"], [None, [0], [1], []]):
            there, ours = ask(
                both,
                operation,
                numbers,
                axis=axis,
                missing={"missing_value": limits.max.item() if dtype[0] == "f" else limits.max},
            )
            assert there == ours

    @pytest.mark.parametrize("compression", ["zlib", "gzip", "blosc2"])
    def test_what_follows_the_compressed_bytes(self, both: Both, compression: str) -> None:
        fields = {"interface_type": "s3", "dtype": "float64", "shape": [3, 4], "compression": {"id": compression}}
        stored = written(NUMBERS, fields)
        for more in (b"what follows", stored):
            there, ours = both.ask("sum", fields, stored + more)
            assert there == ours
            assert ours.values.item() == 66

    def test_codecs_say_more_than_is_needed(self, both: Both) -> None:
        filters = [{"id": "shuffle", "element_size": 8, "level": 3}]
        there, ours = ask(both, "sum", NUMBERS, compression={"id": "zlib", "level": 4}, filters=filters)
        assert there == ours
        assert ours.status == 200

    @pytest.mark.parametrize(
        "one",
        [
            [-1, -5, -1],
            [3, -5, -1],
            [-4, 4, 1],
            [10, -10, -3],
            [0, 0, -1],
            [2, 1, 5],
            [-9, 9, 2],
            [1, 3, -1],
            [2, -5, -(2**63)],
        ],
    )
    def test_slices(self, both: Both, one: list[int]) -> None:
        for operation, order in itertools.product(["select", "max"], "CF"):
            there, ours = ask(both, operation, NUMBERS, selection=[[0, 3, 1], one], order=order, axis=[0])
            assert there == ours

    @pytest.mark.parametrize("level", [0, 9])
    @pytest.mark.parametrize("codec", ["blosclz", "lz4", "lz4hc", "zlib", "zstd"])
    def test_blosc2_of_every_kind(self, both: Both, codec: str, level: int) -> None:
        numbers = (np.arange(3000) % 89).astype("float64")
        for kept in ("NOFILTER", "SHUFFLE", "BITSHUFFLE"):
            cparams = {"codec": blosc2.Codec[codec.upper()], "clevel": level, "filters": [blosc2.Filter[kept]], "typesize": 8}
            there, ours = both.ask("sum", BLOSC2, blosc2.compress2(numbers, **cparams))
            assert ours.values.item() == numbers.sum()
            assert there == ours

    def test_32_dimensions(self, both: Both) -> None:
        numbers = np.arange(4, dtype="int32").reshape([2, 2] + [1] * 30)
        there, ours = ask(both, "sum", numbers, axis=list(range(1, 32)))
        assert there == ours
        assert ours.shape == [2]


class TestDifferences:
    """Where our answers are others, and what the real server's are; each is in docs/protocol-differences.md."""

    def test_float32_sums_are_kept_in_float64(self, both: Both) -> None:
        numbers = np.full(1 << 16, 288.15, "float32")
        there, ours = ask(both, "sum", numbers)
        exact = numbers.sum(dtype="f8")
        assert abs(ours.values - exact) <= exact * 2**-24
        assert abs(there.values - exact) > exact * 1e-6

    def test_float64_sums_are_pairwise(self, both: Both) -> None:
        numbers = np.full(1 << 18, 0.1)
        there, ours = ask(both, "sum", numbers)
        exact = 0.1 * numbers.size
        assert abs(ours.values - exact) < 1e-13 * exact < abs(there.values - exact)

    @pytest.mark.parametrize(("dtype", "wrapped"), [("int32", -(2**31)), ("int64", -(2**63)), ("uint32", 0), ("uint64", 0)])
    def test_integer_sums_do_not_wrap(self, both: Both, dtype: str, wrapped: int) -> None:
        there, ours = ask(both, "sum", np.array([np.iinfo(dtype).max, 1], dtype))
        assert there.values.item() == wrapped
        assert ours.status == 400
        assert f"does not fit {dtype}" in ours.said["message"]

    @pytest.mark.parametrize("operation", ["min", "max"])
    def test_nan_is_the_answer_of_min_and_max(self, both: Both, operation: str) -> None:
        there, ours = ask(both, operation, np.array([1, np.nan, 3]))
        assert there.status == DROPPED
        assert np.isnan(ours.values).all()
        assert ours.count == [3]

    def test_infinities_are_numbers_to_min_and_max(self, both: Both) -> None:
        there, ours = ask(both, "max", np.array([-np.inf, -np.inf], "float32"))
        assert there.values.item() == np.finfo("f4").min
        assert ours.values.item() == -np.inf

    @pytest.mark.parametrize("missing", [{"valid_min": 0.0}, {"valid_max": 9.0}, {"valid_range": [0.0, 9.0]}])
    def test_nan_is_counted_within_a_valid_range_wherever_it_is_added_up(self, both: Both, missing: dict[str, Any]) -> None:
        numbers = np.array([1, np.nan, 3])
        there, ours = ask(both, "count", numbers, missing=missing)
        assert (there.count, ours.count) == ([2], [3])
        assert ask(both, "select", numbers, missing=missing)[1].count == [3]
        there, ours = ask(both, "sum", numbers, missing=missing)
        assert there.count == ours.count == [3]
        assert np.isnan([there.values, ours.values]).all()

    def test_numbers_in_json_are_read_as_the_nearest(self, both: Both) -> None:
        number = 3916657335.3688693
        body = {"interface_type": "s3", "dtype": "float64", "missing": {"missing_value": number}}
        there, ours = both.ask("count", body, np.array([number]).tobytes())
        assert json_number(number) != repr(number)
        assert (there.count, ours.count) == ([1], [0])

    def test_an_object_that_ends_too_early_is_an_error(self, both: Both) -> None:
        body = {"interface_type": "s3", "dtype": "int32", "size": 16}
        there, ours = both.ask("count", body, bytes(12))
        assert there.count == [3]
        assert ours.status == 400
        assert "the object ends after 12 of the 16 bytes" in ours.said["caused_by"][0]

    def test_a_compressed_chunk_that_is_shorter_than_asked_for_is_one_too(self, both: Both) -> None:
        stored = zlib.compress(bytes(16))
        body = {"interface_type": "s3", "dtype": "int32", "shape": [4], "size": len(stored) + 1, "compression": {"id": "zlib"}}
        there, ours = both.ask("count", body, stored)
        assert (there.status, ours.status) == (200, 400)

    def test_a_shuffle_of_nothing_is_refused(self, both: Both) -> None:
        there, ours = ask(both, "sum", NUMBERS, filters=[{"id": "shuffle", "element_size": 8}])
        assert there.status == ours.status == 200
        fields = {"interface_type": "s3", "dtype": "float64", "filters": [{"id": "shuffle", "element_size": 0}]}
        there, ours = both.ask("sum", fields, NUMBERS.tobytes())
        assert (there.status, ours.status) == (DROPPED, 400)

    @pytest.mark.parametrize("size", [5, 7, 64])
    def test_what_shuffles_leave_over_is_left_as_hdf5_leaves_it(self, both: Both, size: int) -> None:
        fields = {"interface_type": "s3", "dtype": "float64", "filters": [{"id": "shuffle", "element_size": size}]}
        there, ours = both.ask("select", fields, shuffled(NUMBERS.tobytes(), size))
        assert there.status == DROPPED
        assert ours.values.tolist() == NUMBERS.ravel().tolist()

    def test_the_largest_start_of_a_slice_is_numpy_s(self, both: Both) -> None:
        there, ours = ask(both, "select", np.arange(4, dtype="int32"), selection=[[2**63 - 1, 0, -1]])
        assert ours.values.tolist() == [3, 2, 1]
        assert there.status == DROPPED

    @pytest.mark.parametrize("operation", ["sum", "min", "max", "count", "select"])
    def test_an_empty_object_is_an_empty_selection(self, both: Both, operation: str) -> None:
        there, ours = both.ask(operation, {"interface_type": "s3", "dtype": "int32"}, b"")
        assert (there.status, ours.status) == (500, 200)
        assert ours.count == [0]

    def test_blosc2_chunks_of_zeros(self, both: Both) -> None:
        there, ours = both.ask("sum", BLOSC2, blosc2.compress2(np.zeros(3000), typesize=8))
        assert (there.status, ours.status) == (400, 200)
        assert ours.values.item() == 0

    def test_blosc2_s_delta_filter(self, both: Both) -> None:
        numbers = (np.arange(3000) % 89).astype("float64")
        stored = blosc2.compress2(numbers, filters=[blosc2.Filter.DELTA], codec=blosc2.Codec.BLOSCLZ, typesize=8)
        there, ours = both.ask("sum", BLOSC2, stored)
        assert there.status == 200
        assert there.values.item() != ours.values.item() == numbers.sum()

    OTHER_SPELLINGS = (
        b'["s3", "{URL}", "int32", null, null, null, null, null, null, null, null, null, null, null, null, null]',
        b'{"interface_type": "s3", "url": "{URL}", "dtype": {"int32": null}}',
        b'{"interface_type": "s3", "url": "{URL}", "dtype": "int32", "byte_order": {"little": null}}',
        b'{"interface_type": "s3", "url": "{URL}", "dtype": "int32", "filters": [["shuffle", 4]]}',
        b'{"interface_type": "s3", "url": "{URL}", "dtype": "int32", "compression": {"id": "zlib", "x": 1, "x": 2}}',
    )

    @pytest.mark.parametrize("body", OTHER_SPELLINGS)
    def test_spellings_that_no_document_has(self, both: Both, body: bytes) -> None:
        there, ours = both.ask("count", body, zlib.compress(bytes(16)) if b"zlib" in body else bytes(16))
        assert (there.status, ours.status) == (200, 400)

    LIMITS: tuple[tuple[str, dict[str, Any]], ...] = (
        ("shape", {"shape": [2] + [1] * 32}),
        ("filters", {"filters": [{"id": "shuffle", "element_size": 1}] * 17}),
        ("missing", {"missing": {"missing_values": [0] * 1001}}),
    )

    @pytest.mark.parametrize(("field", "change"), LIMITS)
    def test_limits(self, both: Both, field: str, change: dict[str, Any]) -> None:
        there, ours = both.ask("count", {"interface_type": "s3", "dtype": "float64"} | change, bytes(16))
        assert (there.status, ours.status) == (200, 400)
        assert ours.said["caused_by"][0].startswith(field)

    def test_a_chunk_may_have_so_many_bytes(self, both: Both) -> None:
        body = {"interface_type": "s3", "dtype": "float64", "compression": {"id": "gzip"}}
        there, ours = both.ask("count", body, gzip.compress(bytes(LARGEST + 8), 1))
        assert there.count == [(LARGEST >> 3) + 1]
        assert ours.status == 400

    def test_an_address_has_no_login_in_it(self, both: Both) -> None:
        url = both.store.url.replace("://", "://user:secret@").encode()
        body = b'{"interface_type": "s3", "url": "%s/b/k", "dtype": "int32"}' % url
        _, ours = both.ask("count", body, bytes(16))
        assert ours.status == 400
        assert "secret" not in str(ours.said)

    def test_an_offset_alone_counts_over_http(self, both: Both, web_server: WebServer) -> None:
        path = web_server.folder / "offset"
        path.write_bytes(NUMBERS.tobytes())
        body = {"interface_type": "http", "url": f"{web_server.url}/offset", "dtype": "float64", "offset": 16}
        there, ours = (
            both.there("count", json.dumps(body).encode()),
            here("count", json.dumps(body).encode(), path.read_bytes()),
        )
        assert (there.count, ours.count) == ([12], [10])
