"""The answers of Reductionist's protocol as bytes: v2, v1, and errors.

Source: Reductionist's API, releases 0.11 and 0.13 (https://github.com/stackhpc/reductionist-rs, docs/api.md).
"""

from __future__ import annotations

import json
import sys

import cbor2
import numpy as np

from activestore.server.errors import RequestError
from activestore.server.protocol.reduce import Answer
from activestore.server.protocol.request import ReduceRequest

__all__ = ["encoded_error", "encoded_v1", "encoded_v2"]


def encoded_v2(answer: Answer, request: ReduceRequest) -> tuple[bytes, dict[str, str]]:
    """Return body and headers of an answer in v2: a CBOR map.

    Parameters:
        answer: What was found.
        request: What was asked; it says whether shape and counts are wanted as bytes.
    """
    shape, count = np.array(answer.shape, np.uint64), answer.count
    body = cbor2.dumps(
        {
            "bytes": answer.values.tobytes(),
            "dtype": answer.values.dtype.name,
            "shape": [] if request.shape_as_bytes else list(answer.shape),
            "shape_as_bytes": shape.tobytes() if request.shape_as_bytes else b"",
            "count": [] if request.count_as_bytes else count.tolist(),
            "count_as_bytes": count.tobytes() if request.count_as_bytes else b"",
            "byte_order": sys.byteorder,
        }
    )
    return body, {"content-type": "application/cbor"}


def encoded_v1(answer: Answer, request: ReduceRequest) -> tuple[bytes, dict[str, str]]:
    """Return body and headers of an answer in v1: the numbers as they are, and headers that say what they are.

    Parameters:
        answer: What was found.
        request: What was asked.
    """
    return answer.values.tobytes(), {
        "content-type": "application/octet-stream",
        "x-activestorage-dtype": answer.values.dtype.name,
        "x-activestorage-byte-order": sys.byteorder,
        "x-activestorage-shape": json.dumps(list(answer.shape), separators=(",", ":")),
        "x-activestorage-count": json.dumps(answer.count.tolist(), separators=(",", ":")),
    }


def encoded_error(error: RequestError) -> tuple[int, bytes, dict[str, str]]:
    """Return status, body and headers of the answer that an error is, in both versions.

    Examples:
        >>> status, body, headers = encoded_error(RequestError(404, "unsupported operation median"))
        >>> status, headers
        (404, {'content-type': 'application/json'})
        >>> print(body.decode())
        {
          "error": {
            "message": "unsupported operation median"
          }
        }
    """
    said: dict[str, object] = {"message": error.message}
    if error.caused_by:
        said["caused_by"] = list(error.caused_by)
    return error.status, json.dumps({"error": said}, indent=2).encode(), {"content-type": "application/json", **error.headers}
