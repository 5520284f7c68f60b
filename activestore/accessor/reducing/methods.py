"""The reductions that all doors to xarray have, with xarray's names and parameters."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from types import EllipsisType
from typing import Any, Generic, TypeVar

from activestore.accessor.reducing.rules import Method
from activestore.errors import SelectionError

__all__ = ["Dims", "Reduced", "Reductions", "named"]

Dims = Hashable | Iterable[Hashable] | EllipsisType | None
"""Which dimensions to reduce: one, several, or None for all of them."""

Reduced = TypeVar("Reduced")
"""What a reduction gives: an array, or a dataset."""


def named(dim: Dims, dims: Iterable[Hashable]) -> tuple[Hashable, ...]:
    """Return those of `dims` that `dim` names, in their order.

    Raises:
        SelectionError: One of the names is none of them.
    """
    there = tuple(dims)
    if dim is None or isinstance(dim, EllipsisType):
        return there
    given: list[Any] = list(dim) if isinstance(dim, Iterable) and not isinstance(dim, (str, bytes)) else [dim]
    strange = [one for one in given if one not in there]
    if strange:
        raise SelectionError(f"no dimension {strange[0]!r}; the dimensions are {', '.join(map(repr, there)) or 'none'}")
    return tuple(one for one in there if one in given)


class Reductions(Generic[Reduced]):
    """Reductions near the data, which give what xarray's methods of the same names give.

    The values, types, names, attributes and coordinates of results are xarray's; only the sums are kept in 64 bits, so that
    means of 32-bit numbers are closer to the truth than xarray's own.
    """

    def _reduced(self, method: Method, dim: Dims, keep_attrs: bool | None) -> Reduced:
        raise NotImplementedError

    def count(self, dim: Dims = None, *, keep_attrs: bool | None = None) -> Reduced:
        """Return how many values are valid along `dim`; `keep_attrs` as in xarray, here as below."""
        return self._reduced(Method("count"), dim, keep_attrs)

    def sum(
        self, dim: Dims = None, *, skipna: bool | None = None, min_count: int | None = None, keep_attrs: bool | None = None
    ) -> Reduced:
        """Return the sum along `dim`; missing where fewer than `min_count` values are valid."""
        return self._reduced(Method("sum", skipna, min_count), dim, keep_attrs)

    def mean(self, dim: Dims = None, *, skipna: bool | None = None, keep_attrs: bool | None = None) -> Reduced:
        """Return the mean along `dim`."""
        return self._reduced(Method("mean", skipna), dim, keep_attrs)

    def min(self, dim: Dims = None, *, skipna: bool | None = None, keep_attrs: bool | None = None) -> Reduced:
        """Return the least value along `dim`."""
        return self._reduced(Method("min", skipna), dim, keep_attrs)

    def max(self, dim: Dims = None, *, skipna: bool | None = None, keep_attrs: bool | None = None) -> Reduced:
        """Return the greatest value along `dim`."""
        return self._reduced(Method("max", skipna), dim, keep_attrs)

    def var(self, dim: Dims = None, *, skipna: bool | None = None, ddof: int = 0, keep_attrs: bool | None = None) -> Reduced:
        """Return the variance along `dim`, with the count less `ddof` as divisor."""
        return self._reduced(Method("var", skipna, ddof=ddof), dim, keep_attrs)

    def std(self, dim: Dims = None, *, skipna: bool | None = None, ddof: int = 0, keep_attrs: bool | None = None) -> Reduced:
        """Return the standard deviation along `dim`, with the count less `ddof` as divisor."""
        return self._reduced(Method("std", skipna, ddof=ddof), dim, keep_attrs)

    def any(self, dim: Dims = None, *, keep_attrs: bool | None = None) -> Reduced:
        """Return whether any value along `dim` is true; as in xarray, NaN is."""
        return self._reduced(Method("any"), dim, keep_attrs)

    def all(self, dim: Dims = None, *, keep_attrs: bool | None = None) -> Reduced:
        """Return whether all values along `dim` are true; as in xarray, NaN is."""
        return self._reduced(Method("all"), dim, keep_attrs)

    def __getattr__(self, name: str) -> Any:  # Any: it raises
        if name in _NOT_HERE:
            raise AttributeError(
                f"{name!r} cannot be put together from the chunks' answers, so .active does not have it; "
                f"leave out .active to have xarray read the values and compute it"
            )
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")


_NOT_HERE = frozenset({"cumprod", "cumsum", "first", "idxmax", "idxmin", "last", "map", "median", "prod", "quantile", "rank"})
