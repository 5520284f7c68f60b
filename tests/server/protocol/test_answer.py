"""Answers as bytes."""

import json
import sys
import time
from typing import Any

import cbor2
import numpy as np
import pytest
from hypothesis import given

from activestore.server.errors import RequestError
from activestore.server.protocol.answer import encoded_error, encoded_v1, encoded_v2
from activestore.server.protocol.reduce import Answer, reduced
from activestore.server.protocol.request import ReduceRequest, parse_v2
from tests.server.asking import LARGEST, Asked, asked, expected

ANSWER = Answer(np.array([[1.5, 2], [3, 4]], "f4"), (2, 2), np.array([3, 300, 0, 1]))


def request(**fields: Any) -> ReduceRequest:
    body = {"interface_type": "s3", "url": "http://h/b/k", "dtype": "float32"} | fields
    return parse_v2("max", json.dumps(body).encode(), None, largest_chunk=LARGEST)


def test_v2() -> None:
    body, headers = encoded_v2(ANSWER, request())
    assert headers == {"content-type": "application/cbor"}
    found = cbor2.loads(body)
    assert found == {
        "bytes": np.array([1.5, 2, 3, 4], "f4").tobytes(),
        "dtype": "float32",
        "shape": [2, 2],
        "shape_as_bytes": b"",
        "count": [3, 300, 0, 1],
        "count_as_bytes": b"",
        "byte_order": sys.byteorder,
    }
    assert list(found) == ["bytes", "dtype", "shape", "shape_as_bytes", "count", "count_as_bytes", "byte_order"]


def test_v2_in_bytes() -> None:
    found = cbor2.loads(encoded_v2(ANSWER, request(option_shape_as_bytes=True, option_count_as_bytes=True))[0])
    assert (found["shape"], found["count"]) == ([], [])
    assert np.frombuffer(found["shape_as_bytes"], "u8").tolist() == [2, 2]
    assert np.frombuffer(found["count_as_bytes"], "i8").tolist() == [3, 300, 0, 1]


def test_v1() -> None:
    body, headers = encoded_v1(ANSWER, request())
    assert body == np.array([1.5, 2, 3, 4], "f4").tobytes()
    assert headers == {
        "content-type": "application/octet-stream",
        "x-activestorage-dtype": "float32",
        "x-activestorage-byte-order": sys.byteorder,
        "x-activestorage-shape": "[2,2]",
        "x-activestorage-count": "[3,300,0,1]",
    }


def test_a_scalar() -> None:
    scalar = Answer(np.array(5, "i8"), (), np.array([5]))
    assert cbor2.loads(encoded_v2(scalar, request())[0]) | {} == {
        "bytes": np.int64(5).tobytes(),
        "dtype": "int64",
        "shape": [],
        "shape_as_bytes": b"",
        "count": [5],
        "count_as_bytes": b"",
        "byte_order": sys.byteorder,
    }
    assert encoded_v1(scalar, request())[1]["x-activestorage-shape"] == "[]"


@given(asked())
def test_any_answer(one: Asked) -> None:
    asked_for = parse_v2(one.operation, json.dumps(one.body()).encode(), None, largest_chunk=LARGEST)
    answer, right = reduced(asked_for, one.raw, largest_chunk=LARGEST), expected(one)
    found = cbor2.loads(encoded_v2(answer, asked_for)[0])
    shape = np.frombuffer(found["shape_as_bytes"], "u8").tolist() if asked_for.shape_as_bytes else found["shape"]
    count = np.frombuffer(found["count_as_bytes"], "i8").tolist() if asked_for.count_as_bytes else found["count"]
    assert (tuple(shape), count, found["dtype"]) == (right.shape, right.count, right.dtype)
    assert len(found["bytes"]) == len(right.raw)
    body, headers = encoded_v1(answer, asked_for)
    assert body == found["bytes"]
    assert json.loads(headers["x-activestorage-count"]) == right.count


def test_a_large_answer_does_not_take_long() -> None:
    answer = Answer(np.zeros((1000, 1000), "f8"), (1000, 1000), np.arange(10**6))
    start = time.perf_counter()
    body, _ = encoded_v2(answer, request())
    assert time.perf_counter() - start < 2
    assert cbor2.loads(body)["count"][-1] == 10**6 - 1


class TestErrors:
    def test_message_and_causes(self) -> None:
        status, body, headers = encoded_error(RequestError(400, "request data is not valid", ("size: é", "more")))
        assert (status, headers) == (400, {"content-type": "application/json"})
        assert json.loads(body) == {"error": {"message": "request data is not valid", "caused_by": ["size: é", "more"]}}
        assert body.decode().splitlines()[1:3] == ['  "error": {', '    "message": "request data is not valid",']

    def test_no_causes(self) -> None:
        _, body, _ = encoded_error(RequestError(404, "unsupported operation x"))
        assert json.loads(body) == {"error": {"message": "unsupported operation x"}}

    def test_headers_go_along(self) -> None:
        _, _, headers = encoded_error(RequestError(429, "busy", headers={"retry-after": "1"}))
        assert headers == {"content-type": "application/json", "retry-after": "1"}

    @pytest.mark.parametrize("text", ["\ud800", "\0", '"', "é"])
    def test_any_text(self, text: str) -> None:
        assert json.loads(encoded_error(RequestError(400, text))[1])["error"]["message"] == text
