"""From what arrays, and what parts of them, a Dask array has its numbers: its graph is read, and nothing in it is run.

Only what is known to index, to name and to join is followed; whatever else is in the graph computes, and is refused. So what
is found is certain, even where a function of a user's own would do the same.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from activestore.accessor.obstacles import InMemoryError
from activestore.accessor.tracing.pieces import Pieces, indexed, joined, joined_grid, whole
from activestore.errors import UntraceableError

if TYPE_CHECKING:
    from dask.array import Array

__all__ = ["trace"]


def trace(array: Array) -> Pieces:
    """Return the arrays, and the parts of them, that hold the numbers of a Dask array; nothing is read.

    Parameters:
        array: As xarray makes them from files, with `chunks=` or `open_mfdataset`; indexed, joined along one dimension and
            cut into other chunks since.

    Raises:
        UntraceableError: Something is computed, or arrays are joined along more than one dimension; the message says what.

    Examples:
        >>> import xarray as xr
        >>> with xr.open_dataset("docs/tas.nc", engine="h5netcdf", chunks={"time": 12}) as file:
        ...     traced = trace(file["tas"][3:, ::-1, 5].data)
        >>> traced.dim, [piece.key for piece in traced.pieces]
        (None, [(slice(3, 24, 1), slice(17, None, -1), 5)])
    """
    if any(math.isnan(length) for length in array.shape):
        raise UntraceableError("the chunks of the Dask array are of unknown lengths; call compute_chunk_sizes() on it")
    reader = _Reader(dict(array.__dask_graph__()))
    try:
        traced = _joined_blocks(array, reader, ())
    except RecursionError:
        raise UntraceableError("the Dask graph has too many layers") from None
    for piece in traced.pieces:
        if piece.leaf.dtype != array.dtype:
            raise UntraceableError(f"the Dask array is of {array.dtype}, what it reads is of {piece.leaf.dtype}")
    if traced.shape != array.shape:
        raise UntraceableError(f"the Dask array has the shape {array.shape}, what it reads has {traced.shape}")
    return traced


def _joined_blocks(array: Array, reader: _Reader, place: tuple[int, ...]) -> Pieces:
    axis = len(place)
    if axis == array.ndim:
        return reader.array((array.name, *place))
    return joined([_joined_blocks(array, reader, (*place, i)) for i in range(array.numblocks[axis])], axis)


class _Reader:
    """Finds what the nodes of a graph stand for: parts of arrays, or what they are indexed with."""

    def __init__(self, graph: Mapping[Any, Any], known: Mapping[Any, Any] | None = None) -> None:  # Any: Dask's own types
        self._graph = graph
        self._known = dict(known or {})

    def array(self, key: object) -> Pieces:
        """Return the block of that key."""
        return _as_array(self.value(key))

    def value(self, key: Any) -> Any:  # Any: a part of an array, or an index
        """Return what the node of that key stands for."""
        if key not in self._known:
            if key not in self._graph:
                raise UntraceableError("the Dask graph refers to results that were computed before")
            node = self._graph[key]
            self._known[key] = self._of_node(node) if _kind_of(node) else self._of_tuple(node, key)
        return self._known[key]

    def _of_node(self, node: Any) -> Any:  # Any: of Dask's private types, or an argument
        match _kind_of(node):
            case "Task":
                return self._computed(node.func, node.args, node.kwargs, self._of_node, node.key)
            case "TaskRef":
                return self.value(node.key)
            case "DataNode":
                return node.value
            case "Alias":
                return self.value(node.target)
        return node

    def _of_tuple(self, node: Any, key: Any = None) -> Any:  # Any: a task in the older form, or an argument
        if isinstance(node, list):
            return [self._of_tuple(one) for one in node]
        if isinstance(node, tuple) and node and callable(node[0]):
            return self._computed(node[0], node[1:], {}, self._of_tuple, key)
        if isinstance(node, (str, tuple)) and (_is_key(node, self._graph) or _is_key(node, self._known)):
            return self.value(node)
        return node

    def _computed(  # Any: Dask's own types
        self, function: Any, args: Any, kwargs: Any, argument: Callable[[Any], Any], key: Any = None
    ) -> Any:
        name = (getattr(function, "__module__", ""), getattr(function, "__qualname__", type(function).__qualname__))
        if name == ("dask.optimization", "SubgraphCallable"):
            return _Reader(function.dsk, dict(zip(function.inkeys, map(argument, args), strict=True))).value(function.outkey)
        if name == ("dask._task_spec", "_execute_subgraph"):
            return _Reader(args[0], dict(zip(args[2], map(argument, args[3:]), strict=True))).value(args[1])
        rule = _RULES.get(name)
        if rule is None:
            raise UntraceableError(f"the Dask graph computes: {_described(function, key)}")
        return rule(*map(argument, args), **{name: argument(one) for name, one in kwargs.items()})


def _kind_of(node: object) -> str:
    return _kind(type(node))  # type: ignore[arg-type]  # mypy does not know that types are hashable


@functools.cache
def _kind(of: type) -> str:
    """Return which of Dask's private types a type is or derives from; "" for others, as are all before 2024.12."""
    names = (one.__name__ for one in of.__mro__ if one.__module__ == "dask._task_spec")
    return next((name for name in names if name in ("Task", "TaskRef", "DataNode", "Alias")), "")


def _is_key(node: str | tuple[Any, ...], graph: Mapping[Any, Any]) -> bool:
    try:
        return node in graph
    except TypeError:
        return False


def _described(function: Any, key: Any) -> str:  # Any: some callable, and the key of the task that calls it
    from dask.utils import funcname, key_split  # noqa: PLC0415  # optional

    called, named = str(funcname(function)), str(key_split(key))
    return called if key is None or called == named else f"{named} ({called})"


def _as_array(value: Any) -> Pieces:  # Any: what a node stands for
    if isinstance(value, Pieces):
        return value
    if type(value).__name__ == "Future":
        raise InMemoryError
    if not hasattr(value, "shape") or not hasattr(value, "dtype"):
        raise UntraceableError(f"the Dask graph holds {type(value).__name__}")
    return whole(value)


def _gotten(array: Any, key: Any, asarray: bool = True, lock: object = None) -> Pieces:
    return indexed(_as_array(array), key)


def _taken(array: Any, taker: tuple[int, Any]) -> Pieces:  # Any: what a node stands for
    return indexed(_as_array(array), taker[1])


def _grid(blocks: Any) -> Pieces:  # Any: lists of lists of … of arrays
    return joined_grid(_arrays_in(blocks))


def _arrays_in(blocks: Any) -> Any:  # Any: lists of lists of … of arrays
    return [_arrays_in(one) for one in blocks] if isinstance(blocks, list) else _as_array(blocks)


def _shaped_grid(blocks: list[Any], shape: list[int]) -> Pieces:  # Any: arrays, in C order
    for length in shape[:0:-1]:
        blocks = [blocks[i : i + length] for i in range(0, len(blocks), length)]
    return _grid(blocks)


def _shuffled(blocks: list[Any], sorter: Any, axis: int) -> Pieces:  # Any: what nodes stand for
    order = np.argsort(sorter[1] if isinstance(sorter, tuple) else sorter)
    return indexed(joined([_as_array(one) for one in blocks], axis), (*[slice(None)] * axis, order))


def _contained(*args: Any, constructor: Callable[[Any], Any]) -> Any:  # Any: what nodes stand for
    return constructor(args)


_RULES: dict[tuple[str, str], Callable[..., Any]] = {
    ("dask.array.core", "getter"): _gotten,
    ("dask.array.core", "getter_nofancy"): _gotten,
    ("dask.array.core", "getter_inline"): _gotten,
    ("dask.array.chunk", "getitem"): _gotten,
    ("_operator", "getitem"): _gotten,
    ("dask.array._shuffle", "_getitem"): _taken,
    ("dask.array._shuffle", "concatenate_arrays"): _shuffled,
    ("dask.array.core", "concatenate3"): _grid,
    ("dask.array.core", "concatenate_shaped"): _shaped_grid,
    ("dask._task_spec", "NestedContainer.to_container"): _contained,
    ("builtins", "list"): list,
    ("builtins", "tuple"): tuple,
    ("builtins", "slice"): slice,
}
"""What is followed, by module and name, for the functions are Dask's private ones and not all there in all versions."""
