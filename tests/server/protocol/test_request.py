"""What the server takes for a request, and what it says of the others."""

import json
import sys
import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from activestore.core.missing import Missing
from activestore.server.errors import RequestError
from activestore.server.location import Login, Place
from activestore.server.protocol.request import ReduceRequest, parse_v1, parse_v2
from tests.server.asking import DTYPES, LARGEST, OPERATIONS, Asked, asked

URL = "http://store.example:9000/bucket/a/key.nc"
LEAST: dict[str, Any] = {"interface_type": "s3", "url": URL, "dtype": "float32"}


def parse(operation: str = "sum", largest_chunk: int = LARGEST, **fields: Any) -> ReduceRequest:
    return parse_v2(operation, json.dumps(LEAST | fields).encode(), None, largest_chunk=largest_chunk)


def refusal(body: bytes, operation: str = "sum") -> RequestError:
    with pytest.raises(RequestError) as caught:
        parse_v2(operation, body, None, largest_chunk=LARGEST)
    assert caught.value.kind == "request"
    return caught.value


def refused(**fields: Any) -> str:
    """Return what is said of a request that has these fields beside the required ones."""
    error = refusal(json.dumps(LEAST | fields).encode())
    assert (error.status, error.message) == (400, "request data is not valid")
    (cause,) = error.caused_by
    return cause


def test_the_least_there_is() -> None:
    assert parse() == ReduceRequest(
        operation="sum",
        place=Place("s3", URL),
        dtype="float32",
        byte_order=sys.byteorder,
        offset=0,
        size=None,
        shape=None,
        axis=None,
        order="C",
        selection=None,
        compression=None,
        filters=(),
        missing=Missing(),
        uncached=False,
        shape_as_bytes=False,
        count_as_bytes=False,
    )


def test_everything() -> None:
    filters = [{"id": "shuffle", "element_size": 4}, {"id": "shuffle_simd", "element_size": 2}]
    request = parse(
        "min",
        byte_order="big",
        offset=7,
        size=9,
        shape=[2, 5, 3],
        axis=[0, 2],
        order="F",
        selection=[[1, 2, 3], {"start": -4, "end": 5, "stride": -6}, [0, 3, 1]],
        compression={"id": "zlib"},
        filters=filters,
        missing={"valid_range": [-1, 1.5]},
        option_disable_chunk_cache=True,
        option_shape_as_bytes=True,
        option_count_as_bytes=True,
    )
    assert (request.operation, request.byte_order, request.offset, request.size) == ("min", "big", 7, 9)
    assert (request.shape, request.axis, request.order) == ((2, 5, 3), (0, 2), "F")
    assert request.selection == ((1, 2, 3), (-4, 5, -6), (0, 3, 1))
    assert (request.compression, request.filters) == ("zlib", (4, 2))
    assert request.missing == Missing(valid_min=-1, valid_max=1.5)
    assert (request.uncached, request.shape_as_bytes, request.count_as_bytes) == (True, True, True)
    assert (request.itemsize, request.nbytes) == (4, 120)


@given(asked())
def test_whatever_is_valid_is_taken(one: Asked) -> None:
    request = parse_v2(one.operation, json.dumps(one.body()).encode(), None, largest_chunk=LARGEST)
    assert request.dtype == one.fields["dtype"]


class TestFields:
    @pytest.mark.parametrize("field", ["interface_type", "url", "dtype"])
    def test_required(self, field: str) -> None:
        assert refused(**{field: None}) == f"{field}: missing field"
        without = {name: value for name, value in LEAST.items() if name != field}
        assert refusal(json.dumps(without).encode()).caused_by == (f"{field}: missing field",)

    OPTIONAL = (
        "byte_order", "offset", "size", "shape", "axis", "order", "selection", "compression", "filters", "missing",
        "option_disable_chunk_cache", "option_shape_as_bytes", "option_count_as_bytes",
    )  # fmt: skip

    def test_null_is_as_left_out(self) -> None:
        assert parse(**dict.fromkeys(self.OPTIONAL)) == parse()

    @pytest.mark.parametrize("field", ["interface_type", "url", "dtype", *OPTIONAL])
    @pytest.mark.parametrize("wrong", [1.0, -1, 1.5, "x", {}, {"id": 3}, [None], [[]], [1.0], [True], [-1], True, 1 << 64])
    def test_wrong_types(self, field: str, wrong: Any) -> None:
        if field.startswith("option_") and wrong is True:
            pytest.skip("right")
        assert refused(shape=[2, 2], **{field: wrong}).startswith(field) if field != "shape" else refused(shape=wrong)

    @pytest.mark.parametrize("field", ["interface_type", "dtype", "byte_order", "order"])
    @pytest.mark.parametrize("wrong", ["", "Float32", "float16", "int8", "S3", "c", "native", "x" * 1000])
    def test_other_names(self, field: str, wrong: str) -> None:
        said = refused(**{field: wrong})
        assert said.startswith(f"{field}: it must be one of")
        assert len(said) < 200

    def test_unknown_fields(self) -> None:
        assert refused(sise=3).startswith("body: unknown field 'sise', expected one of axis, byte_order,")
        assert len(refused(**{"x\n" * 1000: 3})) < 400

    @pytest.mark.parametrize("more", [', "size": 4', ', "dtype": "int32"', ', "axis": null, "axis": null'])
    def test_a_field_twice(self, more: str) -> None:
        body = json.dumps(LEAST | {"size": 4}).encode()[:-1] + more.encode() + b"}"
        assert "duplicate field" in str(refusal(body))

    def test_a_field_of_a_field_twice(self) -> None:
        body = json.dumps(LEAST).encode()[:-1] + b', "missing": {"missing_value": 3, "missing_value": 4}}'
        assert "duplicate field 'missing_value'" in str(refusal(body))

    def test_login_and_place(self) -> None:
        login = Login("K", "S", "T")
        request = parse_v2("sum", json.dumps(LEAST).encode(), login, largest_chunk=LARGEST)
        assert request.place.login is login
        assert "K" not in repr(request)

    def test_v1_has_no_options(self) -> None:
        body = {"source": "http://h", "bucket": "b", "object": "o", "dtype": "int32", "option_shape_as_bytes": True}
        with pytest.raises(RequestError, match="unknown field 'option_shape_as_bytes'"):
            parse_v1("sum", json.dumps(body).encode(), None, largest_chunk=LARGEST)


class TestOperation:
    @pytest.mark.parametrize("operation", OPERATIONS)
    def test_known(self, operation: str) -> None:
        assert parse(operation).operation == operation

    @pytest.mark.parametrize(
        ("operation", "shown"), [("median", "median"), ("", ""), ("SUM", "SUM"), ("a\nb\0é", "a?b??"), ("x" * 99, "x" * 40)]
    )
    def test_unknown(self, operation: str, shown: str) -> None:
        error = refusal(b"whatever", operation)
        assert (error.status, error.message) == (404, f"unsupported operation {shown}")


class TestAddress:
    @pytest.mark.parametrize(
        ("interface", "url", "found"),
        [
            ("s3", "https://h/b/k", None),
            ("s3", "http://h:9000/b//k?versionId=3", None),
            ("http", "http://127.0.0.1:80/a", None),
            ("https", "https://[::1]:443/a", None),
            ("s3", "http://h/b/a key [1, 2].nc", "http://h/b/a%20key%20[1,%202].nc"),
            ("s3", "http://h/b/é%20%2F", "http://h/b/%C3%A9%20%2F"),
            ("http", "http://h/a#part", "http://h/a"),
            ("file", "file:///tmp/a.nc", None),
        ],
    )
    def test_taken(self, interface: str, url: str, found: str | None) -> None:
        assert parse(interface_type=interface, url=url).place == Place(interface, found or url)

    @pytest.mark.parametrize(
        "url",
        [
            "", "h/b/k", "/b/k", "ftp://h/b/k", "http:///b/k", "http:b/k", "http://h:port/b", "http://h:0/b", "http://h:99999/b",
            "http://[::1/b", "http://user:secret@h/b", "http://h\\@other/b", "http://h/b\n", "http://h\t/b", "http://h /b", " ",
            "http://é.example/b", "file:///tmp/a", "http://h%2e/b", "http://h/\ud800", "javascript:alert(1)",
        ],
    )  # fmt: skip
    def test_refused(self, url: str) -> None:
        said = refused(url=url)
        assert said.startswith("url: ")
        assert "secret" not in said

    @pytest.mark.parametrize("url", ["http://h/b", "file:relative", "file://host/data/a", "/data/a"])
    def test_of_a_file(self, url: str) -> None:
        assert refused(interface_type="file", url=url) == "url: it must be file:///path"

    @pytest.mark.parametrize(
        ("source", "bucket", "key", "found"),
        [
            ("http://h:9000", "b", "k", "http://h:9000/b/k"),
            ("http://h/", "b", "a/b c?d#e%f", "http://h/b/a/b%20c%3Fd%23e%25f"),
            ("https://h", "b/c", "/k", "https://h/b%2Fc//k"),
            ("https://h", "é", "é", "https://h/%C3%A9/%C3%A9"),
        ],
    )
    def test_of_v1(self, source: str, bucket: str, key: str, found: str) -> None:
        body = json.dumps({"source": source, "bucket": bucket, "object": key, "dtype": "int32"}).encode()
        assert parse_v1("sum", body, None, largest_chunk=LARGEST).place == Place("s3", found)

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("source", "h"),
            ("source", "http://h?x=1"),
            ("source", ""),
            ("bucket", ""),
            ("object", ""),
            ("object", "\ud800"),
            ("bucket", 3),
        ],
    )
    def test_of_v1_refused(self, field: str, value: Any) -> None:
        body = {"source": "http://h", "bucket": "b", "object": "o", "dtype": "int32"} | {field: value}
        with pytest.raises(RequestError, match=field):
            parse_v1("sum", json.dumps(body).encode(), None, largest_chunk=LARGEST)


class TestSizes:
    def test_shape(self) -> None:
        assert refused(shape=[]) == "shape: it is empty; leave it out for numbers without dimensions"
        assert refused(shape=[2, 0]) == "shape: a length must be 1 or more, not 0"
        assert refused(shape=[1] * 33) == "shape: it has 33 items, and may have 32"
        assert parse(shape=[1] * 32).shape == (1,) * 32

    def test_size(self) -> None:
        assert "size: it must be an integer from 1" in refused(size=0)
        assert "size: it is 12, where shape and dtype make 16 bytes" in refused(size=12, shape=[2, 2])
        assert "size: 13 is not a multiple of the 4 bytes of the dtype float32" in refused(size=13)
        assert parse(size=13, compression={"id": "gzip"}).size == 13
        assert parse(size=16, shape=[2, 2]).nbytes == 16

    @pytest.mark.parametrize("shape", [[1 << 62], [1 << 62] * 32, [(1 << 64) - 1] * 3, [(LARGEST >> 2) + 1]])
    def test_a_chunk_above_the_limit(self, shape: list[int]) -> None:
        tracemalloc.start()
        said = refused(shape=shape)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
        tracemalloc.stop()
        assert said == f"shape: the chunk has more bytes than the {LARGEST} that this server takes"

    def test_at_the_limit(self) -> None:
        assert parse(shape=[LARGEST >> 2], size=LARGEST).nbytes == LARGEST
        assert parse(size=LARGEST).size == LARGEST
        assert "size: 1048580 bytes are more than the 1048576" in refused(size=LARGEST + 4)
        assert "size" in refused(size=LARGEST + 1, compression={"id": "zlib"})

    def test_offset(self) -> None:
        assert parse(offset=(1 << 63) - 5, size=4).offset == (1 << 63) - 5
        for offset in ((1 << 63) - 4, (1 << 64) - 1):
            assert "offset" in refused(offset=offset, size=4)
        assert "offset" in refused(offset=1 << 63)

    def test_selection(self) -> None:
        assert refused(selection=[[0, 1, 1]]) == "selection: it needs shape to be given"
        assert refused(shape=[3], selection=[]) == "selection: it is empty; leave it out for everything"
        assert refused(shape=[3], selection=[[0, 1, 1]] * 2) == "selection: it has 2 slices where shape has 1 lengths"
        assert refused(shape=[3], selection=[[0, 1, 0]]) == "selection: a stride of 0 suits no dimension of the shape"
        most = [-(1 << 63), (1 << 63) - 1, -(1 << 63)]
        assert parse(shape=[3], selection=[most]).selection == (tuple(most),)
        wrong = [
            [0, 1],
            [0, 1, 1, 1],
            [0, 1, None],
            [0, 1.0, 1],
            [0, True, 1],
            [1 << 63, 1, 1],
            "0:1",
            {"start": 0, "end": 1},
            None,
        ]
        wrong += [{"start": 0, "end": 1, "stride": 1, "step": 1}]
        for one in wrong:
            assert refused(shape=[3], selection=[one]).startswith("selection: ")

    def test_axis(self) -> None:
        assert parse(shape=[2, 2], axis=1).axis == (1,)
        assert parse(shape=[2, 2], axis=[]).axis == ()
        assert parse(shape=[2, 2], axis=[0, 1]).axis == (0, 1)
        assert parse("select", shape=[2, 2], axis=[0]).axis == (0,)
        for axis in (0, [0], []):
            assert refused(axis=axis) == "axis: it needs shape to be given"
        for axis in (2, [2], [0, 1, 2], (1 << 64) - 1):
            assert "axis: an axis must be less than 2" in refused(shape=[2, 2], axis=axis)
        for axis in ([1, 0], [0, 0]):
            assert refused(shape=[2, 2], axis=axis) == "axis: axes must be ascending, each given once"


class TestCodecs:
    @pytest.mark.parametrize("name", ["blosc2", "gzip", "zlib"])
    def test_compression(self, name: str) -> None:
        assert parse(compression={"id": name, "level": 4}).compression == name

    def test_others(self) -> None:
        for wrong in ({"id": "zstd"}, {"id": None}, {"name": "zlib"}, "zlib", [], {"id": ["zlib"]}):
            assert refused(compression=wrong).startswith("compression: ")

    def test_filters(self) -> None:
        assert parse(filters=[]).filters == ()
        assert parse(filters=[{"id": "shuffle", "element_size": 3}] * 16).filters == (3,) * 16
        assert refused(filters=[{"id": "shuffle", "element_size": 3}] * 17) == "filters: it has 17 items, and may have 16"
        for size in (0, -1, 1.0, None, True, "4"):
            assert "filters: element_size: it must be an integer from 1" in refused(
                filters=[{"id": "shuffle", "element_size": size}]
            )
        for wrong in ({"id": "shuffle"}, {"id": "bitshuffle", "element_size": 4}, {"element_size": 4}, "shuffle", None):
            assert refused(filters=[wrong]).startswith("filters: ")


class TestMissing:
    @pytest.mark.parametrize(
        ("dtype", "missing", "found"),
        [
            ("float32", {"missing_value": 1e20}, Missing(values=(float(np.float32(1e20)),))),
            ("float32", {"missing_value": 16777217}, Missing(values=(16777216.0,))),
            ("float64", {"missing_value": (1 << 64) - 1}, Missing(values=(2.0**64,))),
            ("float64", {"missing_value": 1 << 70}, Missing(values=(2.0**70,))),
            ("float64", {"missing_value": 0}, Missing(values=(0.0,))),
            ("int64", {"missing_value": -(1 << 63)}, Missing(values=(-(1 << 63),))),
            ("uint64", {"missing_value": (1 << 64) - 1}, Missing(values=((1 << 64) - 1,))),
            ("int32", {"missing_values": []}, Missing()),
            ("int32", {"missing_values": [3, 4, 3]}, Missing(values=(3, 4))),
            ("int32", {"valid_min": 0}, Missing(valid_min=0)),
            ("uint32", {"valid_max": 0}, Missing(valid_max=0)),
            ("float64", {"valid_range": [-0.5, 0]}, Missing(valid_min=-0.5, valid_max=0.0)),
        ],
    )
    def test_forms(self, dtype: str, missing: dict[str, Any], found: Missing) -> None:
        assert parse(dtype=dtype, missing=missing).missing == found

    @pytest.mark.parametrize("missing", [{}, [], "missing_value", 3, {"fill": 3}, {"missing_value": 3, "valid_min": 2}])
    def test_exactly_one_form(self, missing: Any) -> None:
        assert "missing: it must be an object with exactly one of missing_value," in refused(missing=missing)

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_numbers_that_the_type_does_not_have(self, dtype: str) -> None:
        wrong: list[Any] = ["3", None, True, [3], {}]
        if dtype[0] == "f":
            wrong += [1e39] if dtype == "float32" else []
        else:
            wrong += [1.0, 0.5, 1e30, np.iinfo(dtype).max + 1, np.iinfo(dtype).min - 1, 1 << 70]
        for one in wrong:
            for form in ("missing_value", "valid_min", "valid_max"):
                assert f"missing: {form}: " in refused(dtype=dtype, missing={form: one})
            assert "missing: missing_values: " in refused(dtype=dtype, missing={"missing_values": [1, one]})
            assert "missing: valid_range: " in refused(dtype=dtype, missing={"valid_range": [one, one]})

    def test_a_range_needs_two_numbers_in_order(self) -> None:
        for wrong in ([1], [1, 2, 3], 1, [2, 1], [1, 1], [16777216, 16777217], None):
            assert "missing: valid_range: " in refused(missing={"valid_range": wrong})

    def test_very_many_values(self) -> None:
        assert len(parse(missing={"missing_values": list(range(1000))}).missing.values) == 1000
        assert "missing_values: it has 1001 items, and may have 1000" in refused(missing={"missing_values": [0] * 1001})

    def test_a_negative_zero_is_a_float(self) -> None:
        body = json.dumps(LEAST).replace("float32", "int32")[:-1] + ', "missing": {"missing_value": -0}}'
        assert "missing: missing_value: -0.0 is not a number of the type int32" in str(refusal(body.encode()))


class TestJSON:
    @pytest.mark.parametrize(
        "body",
        [
            b"", b"{", b"null", b"[]", b'"text"', b"3", b"\xff\xfe{\0}\0", b'{"a": "\xff"}', b"\xef\xbb\xbf{}", b"{} {}",
            b"{'a': 1}",
            b'{"offset": NaN}', b'{"offset": Infinity}', b'{"offset": -Infinity}', b'{"offset": 1e400}', b'{"offset": 01}',
            b'{"offset": ' + b"1" * 5000 + b"}", b'{"offset": -' + b"9" * 400 + b"e9}", b'{"a": "\n"}',
            b"[" * 100_000, b'{"a":' * 100_000, b'{"offset": 1,}', b'{"\\ud800": 1}', "{}".encode("utf-16"),
        ],
    )  # fmt: skip
    def test_what_is_not_a_json_object(self, body: bytes) -> None:
        error = refusal(body)
        assert error.status == 400
        assert error.caused_by[0].startswith("body: ")
        assert str(error).encode().isascii()

    @pytest.mark.parametrize("number", ["1" * 300, "-" + "9" * 300, "1e300", "0.5", "-0", "18446744073709551616"])
    def test_numbers_that_are_no_integers(self, number: str) -> None:
        for field in ("offset", "size", "axis"):
            assert field in str(refusal(json.dumps(LEAST)[:-1].encode() + f', "shape": [2], "{field}": {number}}}'.encode()))

    def test_white_space_and_escapes(self) -> None:
        body = b' \t\r\n{"interface_type" : "s3", "\\u0075rl": "http:\\/\\/h/b/k","dtype":"int32" }\n'
        assert parse_v2("sum", body, None, largest_chunk=LARGEST).place == Place("s3", "http://h/b/k")


SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(["s3", URL, "float32", "C"])
)
ANYTHING = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6) | st.sampled_from(["id", "start"]), inner, max_size=4)
    ),
    max_leaves=12,
)
NAMES = ["interface_type", "url", "source", "bucket", "object", "dtype", *TestFields.OPTIONAL]


def never_more_than_a_request_error(parse: Any, body: bytes) -> None:
    try:
        request = parse("sum", body, None, largest_chunk=LARGEST)
    except RequestError as error:
        found = (error.status, str(error))
        assert found[0] == 400
        assert found[1].isascii() or "…" in found[1]
    else:
        assert request.nbytes is None or request.nbytes <= LARGEST


@settings(max_examples=150)
@given(st.dictionaries(st.sampled_from(NAMES), ANYTHING) | ANYTHING, st.booleans())
def test_any_json(value: Any, complete: bool) -> None:
    value = LEAST | value if complete and isinstance(value, dict) else value
    for parse in (parse_v1, parse_v2):
        never_more_than_a_request_error(parse, json.dumps(value).encode())


@settings(max_examples=150)
@given(asked(), st.sampled_from(NAMES), ANYTHING)
def test_any_field_of_a_valid_request_changed(one: Asked, name: str, value: Any) -> None:
    never_more_than_a_request_error(parse_v2, json.dumps(one.body() | {name: value}).encode())


@given(st.binary(max_size=200))
@example(json.dumps(LEAST).encode()[:-1])
def test_any_bytes(body: bytes) -> None:
    never_more_than_a_request_error(parse_v2, body)
