"""What a group of a netCDF-4 file has, in one pass: its variables, dimensions and attributes.

It treats what nearly all files are made of, and says of the rest that it cannot: records, enumerations, lists,
references, links, dimensions without a scale.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
from h5py import h5, h5d, h5ds, h5g, h5p, h5r, h5s, h5t

from activestore.core.formats.hdf5.attributes import (
    HIDDEN,
    Text,
    Value,
    attribute_sizes,
    number_dtype,
    plain_value,
    read_attribute,
)
from activestore.core.formats.hdf5.dataset import Storage, chunk_layout, read_storage, read_user_block, tree_table, variable_of
from activestore.core.formats.hdf5.dimension_scales import DIMENSION_ONLY, NOT_COORDINATE, attached_scales, longest_attached
from activestore.core.formats.hdf5.file import DAMAGE, damage_named, read_hdf5
from activestore.core.source import ReadableSource
from activestore.core.variable import Variable

__all__ = ["Group", "Outline", "outlined_variable", "read_group"]
_POINTER = 16
"""Bytes that a text of varying length takes among the attributes."""

_MOST_EAGER = 1 << 20
"""Bytes of a coordinate that is read together with the metadata."""
_WIDEST = 8
"""Bytes of the widest numbers that are reduced."""
_PLUGINS = 256
"""Filters from this number on are not HDF5's own."""


@dataclass(frozen=True, slots=True)
class Outline:
    """A variable without its chunk table."""

    dims: tuple[str, ...]
    """Names of the dimensions."""
    shape: tuple[int, ...]
    """Their lengths; of an unlimited dimension, what the longest variable along it has."""
    dtype: np.dtype[Any]
    """Stored type, as h5py gives it: numbers of 1 to 16 bytes, fixed text "S", or varying text "O"."""
    attrs: Mapping[str, Value]
    """Attributes as they are stored, without those by which HDF5 and netCDF-4 keep their books."""
    chunks: tuple[int, ...] | None
    """Shape of a chunk, None if it is not stored in chunks."""
    filters: tuple[tuple[int, tuple[int, ...]], ...]
    """Number and settings of each filter of its chunks."""
    values: npt.NDArray[Any] | None
    """The stored numbers of the coordinate of a dimension, which are always asked for; None of all others, of large ones, and
    where every read waits for a network."""
    storage: Storage | None
    """How its numbers are stored, where they are in chunks and not among `values`."""


@dataclass(frozen=True, slots=True)
class Group:
    """What a group has, subgroups apart."""

    attrs: Mapping[str, Value]
    """Attributes as they are stored."""
    variables: Mapping[str, Outline]
    """Variables in the order of the file."""
    dims: Mapping[str, int]
    """Lengths of the dimensions that the group defines."""
    unlimited: frozenset[str]
    """Which of them can grow."""


def outlined_variable(outline: Outline, source: ReadableSource, name: str) -> Variable | None:
    """Return the variable that was outlined, read without the HDF5 library; None where only that finds its numbers.

    Of attributes it has those that the outline has.

    Parameters:
        outline: What `read_group` found of it.
        source: The file that it was found in.
        name: Its full name.

    Raises:
        SourceError: Its chunk index is damaged, or the file has changed.
        UnsupportedError: Its chunks are larger than any reader accepts.
    """
    if outline.storage is None:
        return None
    with source.metadata() as kept, damage_named(source.uri, f"the metadata of {name!r}"):
        layout = chunk_layout(outline.storage, kept)
        if layout is None or layout.root is None:
            return None
        table = tree_table(outline.storage, layout.root, kept, outline.shape)
        attrs = {key: plain_value(value) for key, value in outline.attrs.items()}
        return variable_of(outline.storage, kept, name, dims=outline.dims, shape=outline.shape, attrs=attrs, table=table)


class _UncertainError(Exception):
    """Something that only a thorough reader treats for certain."""


def read_group(
    source: ReadableSource, group: str = "", *, only: Collection[str] | None = None, unnamed: bool = False
) -> Group | None:
    """Return what a group has; None if there is none, or something in it is not as in nearly all netCDF-4 files.

    Parameters:
        source: An HDF5 file.
        group: Its path: "outer/inner".
        only: Names of the attributes of variables that are read, which takes most of the time; None for all, the group's too.
        unnamed: Whether dimensions may lack a scale; they are called by their lengths then: "phony_dim_of_3".

    Raises:
        SourceError: The file is damaged, or not HDF5.
    """
    path = group.strip("/")
    wanted = None if only is None else frozenset(name.encode() for name in only)

    def work(file: Any) -> Group | None:  # Any: h5py is untyped
        try:
            place = path.encode().split(b"/") if path else []
            return _group(file.id, place, eager=not source.is_remote, wanted=wanted, unnamed=unnamed)
        except (_UncertainError, *DAMAGE):
            return None

    return read_hdf5(source, work)


_Place = tuple[int, int]
"""The address of an object in its file, in the HDF5 library's two parts."""


@dataclass(frozen=True, slots=True)
class _Node:
    """A dataset that was opened."""

    name: str
    id: Any  # Any: h5py's low level is untyped
    creation: Any  # Any: h5py's low level is untyped
    sizes: Mapping[bytes, int]
    """Names and sizes of all its attributes."""
    shape: tuple[int, ...]
    grows: bool
    """Whether it is one-dimensional and unlimited."""
    is_scale: bool
    is_variable: bool

    def numbers(self, name: bytes) -> list[int]:
        """Return an attribute of netCDF's own."""
        value = read_attribute(self.id, name, self.sizes[name]) if name in self.sizes else None
        if value is None or isinstance(value, Text):
            raise _UncertainError
        return [int(number) for number in np.ravel(value)]


def _group(
    file: Any,  # Any: h5py's low level is untyped
    path: list[bytes],
    *,
    eager: bool,
    wanted: frozenset[bytes] | None,
    unnamed: bool,
) -> Group:
    at = h5g.open(file, b"/")
    above: list[dict[_Place, str]] = []
    for part in path:
        if part in (b"", b".", b".."):
            raise _UncertainError
        above.append({place: name.decode() for place, name, _ in _members(at, at.get_create_plist())})
        at = h5g.open(at, part)
    creation = at.get_create_plist()
    nodes = {
        place: _node(h5d.open(at, name), name.decode()) for place, name, kind in _members(at, creation) if kind == h5g.DATASET
    }
    dims = _Dimensions(file, nodes, above, unnamed=unnamed)
    variables: dict[str, Outline] = {}
    user_block = read_user_block(file)
    for place, node in nodes.items():
        name = node.name.replace(NOT_COORDINATE, "")
        if node.is_scale and name != node.name:
            raise _UncertainError
        if node.is_variable:
            if name in variables:
                raise _UncertainError
            along = [(dims.scale(scale), dims.lengths[scale]) for scale in dims.along[place]]
            variables[name] = _outline(node, along, user_block, eager=eager, wanted=wanted)
    scales = {place: node for place, node in nodes.items() if node.is_scale}
    return Group(
        attrs=_attrs(at, attribute_sizes(at, creation), None) if wanted is None else {},
        variables=variables,
        dims={node.name: dims.lengths[place] for place, node in scales.items()},
        unlimited=frozenset(node.name for node in scales.values() if node.grows),
    )


def _members(group: Any, creation: Any) -> Iterator[tuple[_Place, bytes, int]]:  # Any: h5py's low level is untyped
    """Yield address, name and kind of each member, in the order that h5py lists them in."""
    names: list[bytes] = []
    tracked = creation.get_link_creation_order() & h5p.CRT_ORDER_TRACKED
    group.links.iterate(names.append, idx_type=h5.INDEX_CRT_ORDER if tracked else h5.INDEX_NAME)
    for name in names:
        info = h5g.get_objinfo(group, name, follow_link=False)
        # Of an object with several names nobody knows which one it goes by.
        if info.type not in (h5g.DATASET, h5g.GROUP) or info.nlink != 1:
            raise _UncertainError
        yield info.objno, name, info.type


def _node(dataset: Any, name: str) -> _Node:  # Any: h5py's low level is untyped
    creation, space = dataset.get_create_plist(), dataset.get_space()
    if space.get_simple_extent_type() == h5s.NULL:
        raise _UncertainError
    shape = space.get_simple_extent_dims()
    grows = len(shape) == 1 and space.get_simple_extent_dims(True)[0] == h5s.UNLIMITED
    sizes = attribute_sizes(dataset, creation)
    is_scale = b"CLASS" in sizes and h5ds.is_scale(dataset)
    if b"CLASS" in sizes and not is_scale:
        raise _UncertainError
    return _Node(name, dataset, creation, sizes, shape, grows, is_scale, not _is_dimension_only(dataset, sizes))


def _is_dimension_only(dataset: Any, sizes: Mapping[bytes, int]) -> bool:  # Any: h5py's low level is untyped
    size = sizes.get(b"NAME", 0)
    if size != _POINTER and size < len(DIMENSION_ONLY):
        return False
    text = read_attribute(dataset, b"NAME", size)
    if not isinstance(text, Text) or text.length is None or text.shape != ():
        raise _UncertainError
    return text.items[0].startswith(DIMENSION_ONLY)


def _attrs(
    owner: Any, sizes: Mapping[bytes, int], wanted: frozenset[bytes] | None
) -> dict[str, Value]:  # Any: h5py's low level is untyped
    found: dict[str, Value] = {}
    for name, size in sizes.items():
        if name in HIDDEN or (wanted is not None and name not in wanted):
            continue
        value = read_attribute(owner, name, size)
        if value is None:
            raise _UncertainError
        found[name.decode()] = value
    return found


def _outline(
    node: _Node, scales: list[tuple[_Node, int]], user_block: int | None, *, eager: bool, wanted: frozenset[bytes] | None
) -> Outline:
    """Return a variable whose dimensions have these scales and lengths, in a file with this user block."""
    if len(scales) != len(node.shape):
        raise _UncertainError
    for stored, (scale, length) in zip(node.shape, scales, strict=True):
        if stored != length and not (scale.grows and stored < length):
            raise _UncertainError
    stored_type = node.id.get_type()
    dtype = node.id.dtype if isinstance(stored_type, h5t.TypeStringID) else number_dtype(stored_type)
    if dtype is None:
        raise _UncertainError
    creation = node.creation
    filters = [creation.get_filter(i) for i in range(creation.get_nfilters())]
    is_coordinate = len(scales) == 1 and scales[0][0] is node and node.shape == (scales[0][1],)
    plain = dtype.kind in "iuf" and all(code < _PLUGINS for code, *_ in filters)
    values = _values(node, dtype) if eager and is_coordinate and plain else None
    is_chunked = creation.get_layout() == h5d.CHUNKED
    numbers = is_chunked and values is None and dtype.kind in "iuf" and dtype.itemsize <= _WIDEST
    return Outline(
        dims=tuple(scale.name for scale, _ in scales),
        shape=tuple(length for _, length in scales),
        dtype=dtype,
        attrs=_attrs(node.id, node.sizes, wanted),
        chunks=creation.get_chunk() if is_chunked else None,
        filters=tuple((code, tuple(settings)) for code, _, settings, _ in filters),
        values=values,
        storage=read_storage(node.id, creation, np.dtype(dtype.str), user_block) if numbers else None,
    )


def _values(node: _Node, dtype: np.dtype[Any]) -> npt.NDArray[Any] | None:
    """Return the stored numbers of a dataset, None if they are many."""
    if node.shape[0] * dtype.itemsize > _MOST_EAGER:
        return None
    values = np.empty(node.shape, dtype)
    node.id.read(h5s.ALL, h5s.ALL, values)
    return values


class _Dimensions:
    """The dimensions of a group and of those above it, each known by the address of its scale."""

    def __init__(
        self,
        file: Any,  # Any: see _Node
        nodes: Mapping[_Place, _Node],
        above: list[dict[_Place, str]],
        *,
        unnamed: bool,
    ) -> None:
        """Find the dimensions of the datasets of a group; `above` has the names in the groups above, the root first."""
        self._file, self._nodes, self._above, self._unnamed = file, nodes, above, unnamed
        self._outer: dict[_Place, _Node] = {}
        self.along = {place: self._along(place, node) for place, node in nodes.items()}
        """The addresses of the scales of each dataset's dimensions."""
        self.lengths = self._lengths()
        """The length of the dimension of each scale."""

    def scale(self, place: _Place) -> _Node:
        """Return a scale by its address."""
        return self._nodes[place] if place in self._nodes else self._outer[place]

    def _along(self, place: _Place, node: _Node) -> tuple[_Place, ...]:
        if node.is_scale and b"_Netcdf4Coordinates" in node.sizes:
            return tuple(self._numbered[number] for number in node.numbers(b"_Netcdf4Coordinates"))
        if b"DIMENSION_LIST" in node.sizes:
            # Of several scales, netCDF-C takes the last.
            found = attached_scales(node.id)
            return tuple(
                self._attached(references[-1]) if references or not self._unnamed else self._without_scale(node.shape, axis)
                for axis, references in enumerate(found)
            )
        if node.is_scale and len(node.shape) == 1:
            return (place,)
        if self._unnamed and not node.is_scale:
            return tuple(self._without_scale(node.shape, axis) for axis in range(len(node.shape)))
        if node.shape or node.is_scale or any(node.name in names.values() for names in self._above):
            raise _UncertainError
        return ()

    @cached_property
    def _numbered(self) -> dict[int, _Place]:
        """The scales of the group by netCDF's numbers of dimensions."""
        scales = {place: node for place, node in self._nodes.items() if node.is_scale}
        numbered = {number: place for place, node in scales.items() for number in node.numbers(b"_Netcdf4Dimid")}
        if len(numbered) != len(scales):
            raise _UncertainError
        return numbered

    def _attached(self, reference: Any) -> _Place:  # Any: h5py's references
        scale = h5r.dereference(reference, self._file)
        place: _Place = h5g.get_objinfo(scale).objno
        node = self._nodes.get(place) or self._outer.get(place)
        if node is None:
            node = self._outer[place] = _node(scale, self._name_above(place))
        if not node.is_scale:
            raise _UncertainError
        return place

    def _without_scale(self, shape: tuple[int, ...], axis: int) -> _Place:
        """Return the place, which no object has, of a dimension that is known by its length only."""
        length = shape[axis]
        number = shape[: axis + 1].count(length)
        place = (-number, length)
        name = f"phony_dim_of_{length}" + ("" if number == 1 else f"_{number}")
        self._outer[place] = _Node(name, None, None, {}, (length,), grows=False, is_scale=True, is_variable=False)
        return place

    def _name_above(self, place: _Place) -> str:
        """Return the name of a dataset of a group above; of equal names, only the nearest can be meant."""
        hidden = {node.name for node in self._nodes.values()}
        for names in reversed(self._above):
            if place in names and names[place] not in hidden:
                return names[place]
            hidden.update(names.values())
        raise _UncertainError

    def _lengths(self) -> dict[_Place, int]:
        seen: dict[_Place, list[int]] = {}
        attached: Counter[_Place] = Counter()
        for place, node in self._nodes.items():
            for scale, length in zip(self.along[place], node.shape, strict=True):
                seen.setdefault(scale, []).append(length)
            if b"DIMENSION_LIST" in node.sizes:
                attached.update(self.along[place])
        found = {}
        for place, node in {**self._nodes, **self._outer}.items():
            if node.is_scale:
                others = longest_attached(self._file, node.id, known=attached[place]) if node.grows else 0
                found[place] = max(node.shape[0], others, *(seen.get(place, ()) if node.grows else ()))
        return found
