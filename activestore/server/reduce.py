"""What a request of the protocol comes to, given the stored bytes: the protocol's order and identities, our kernel's numbers.

Source: Reductionist's API, release 0.13 (https://github.com/stackhpc/reductionist-rs, docs/api.md).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from activestore.core.codecs import Buffer, Codec, decodable
from activestore.core.kernel import decode_chunk, reduce_values
from activestore.core.reductions import find_reduction
from activestore.core.selection import Slice
from activestore.core.task import Array, ChunkTask, TaskTemplate
from activestore.errors import CorruptChunkError, SumOverflowError, UnsupportedError
from activestore.server.failures import RequestError
from activestore.server.request import COMPRESSIONS, ReduceRequest

__all__ = ["Answer", "memory", "reduced"]


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """What a request comes to."""

    values: Array
    """The numbers in native byte order, of the protocol's type: their bytes are those to be sent."""
    shape: tuple[int, ...]
    """Lengths of the dimensions that are left."""
    count: npt.NDArray[np.int64]
    """How many numbers are valid under each; flat. Of "select" one number, for all."""


def memory(request: ReduceRequest, *, largest_chunk: int) -> int:
    raise NotImplementedError


def reduced(request: ReduceRequest, raw: bytes, *, largest_chunk: int) -> Answer:
    raise NotImplementedError
