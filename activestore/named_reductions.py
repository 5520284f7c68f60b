"""The reductions that have a method of their own, `count`, `sum`, `mean` and so on."""

from __future__ import annotations

from typing import Any

from activestore.core.reductions import Reduction, variance

__all__ = ["Axis", "NamedReductions"]

Axis = int | str | tuple[int | str, ...] | list[int | str] | None
"""Which dimensions to reduce: numbers or names, one or several; None for all of them."""


class NamedReductions:
    """A method for each reduction, for what can `reduce`."""

    __slots__ = ()

    def reduce(
        self,
        reduction: str | Reduction | tuple[str | Reduction, ...],
        axis: Axis = None,
        *,
        keepdims: bool = False,
        skipna: bool = True,
    ) -> Any:  # Any: a number, an array, or a mapping of them
        """Return the value of a reduction."""
        raise NotImplementedError

    def count(self, axis: Axis = None, *, keepdims: bool = False, skipna: bool = True) -> Any:  # Any: number or array
        """Return how many values are valid along `axis` (int64); parameters as for `run`."""
        return self.reduce("count", axis, keepdims=keepdims, skipna=skipna)

    def sum(self, axis: Axis = None, *, keepdims: bool = False, skipna: bool = True) -> Any:  # Any: number or array
        """Return the sum along `axis`, in float64, int64 or uint64; parameters as for `run`."""
        return self.reduce("sum", axis, keepdims=keepdims, skipna=skipna)

    def mean(self, axis: Axis = None, *, keepdims: bool = False, skipna: bool = True) -> Any:  # Any: number or array
        """Return the mean along `axis` (float64), in the variable's units; parameters as for `run`."""
        return self.reduce("mean", axis, keepdims=keepdims, skipna=skipna)

    def min(self, axis: Axis = None, *, keepdims: bool = False, skipna: bool = True) -> Any:  # Any: number or array
        """Return the least value along `axis`, in the type of the values; parameters as for `run`."""
        return self.reduce("min", axis, keepdims=keepdims, skipna=skipna)

    def max(self, axis: Axis = None, *, keepdims: bool = False, skipna: bool = True) -> Any:  # Any: number or array
        """Return the greatest value along `axis`, in the type of the values; parameters as for `run`."""
        return self.reduce("max", axis, keepdims=keepdims, skipna=skipna)

    def ptp(self, axis: Axis = None, *, keepdims: bool = False, skipna: bool = True) -> Any:  # Any: number or array
        """Return the greatest value minus the least along `axis`; of signed integers as int64. Parameters as for `run`."""
        return self.reduce("ptp", axis, keepdims=keepdims, skipna=skipna)

    def var(
        self, axis: Axis = None, *, ddof: float = 0, keepdims: bool = False, skipna: bool = True
    ) -> Any:  # Any: number or array
        """Return the variance along `axis` (float64), with the count minus `ddof` as divisor; parameters as for `run`."""
        return self.reduce(variance(ddof), axis, keepdims=keepdims, skipna=skipna)

    def std(
        self, axis: Axis = None, *, ddof: float = 0, keepdims: bool = False, skipna: bool = True
    ) -> Any:  # Any: number or array
        """Return the standard deviation along `axis` (float64); `ddof` as for `var`, the rest as for `run`."""
        return self.reduce(variance(ddof, name="std"), axis, keepdims=keepdims, skipna=skipna)

    def any(self, axis: Axis = None, *, keepdims: bool = False, skipna: bool = True) -> Any:  # Any: number or array
        """Return whether any valid value along `axis` is not zero; parameters as for `run`."""
        return self.reduce("any", axis, keepdims=keepdims, skipna=skipna)

    def all(self, axis: Axis = None, *, keepdims: bool = False, skipna: bool = True) -> Any:  # Any: number or array
        """Return whether all valid values along `axis` are not zero; parameters as for `run`."""
        return self.reduce("all", axis, keepdims=keepdims, skipna=skipna)

    def argmin(self, axis: Axis = None, *, keepdims: bool = False, skipna: bool = True) -> Any:  # Any: number or array
        """Return where along `axis` the least value first is; over several axes, counted in C order. As for `run`."""
        return self.reduce("argmin", axis, keepdims=keepdims, skipna=skipna)

    def argmax(self, axis: Axis = None, *, keepdims: bool = False, skipna: bool = True) -> Any:  # Any: number or array
        """Return where along `axis` the greatest value first is; over several axes, counted in C order. As for `run`."""
        return self.reduce("argmax", axis, keepdims=keepdims, skipna=skipna)
