"""What a file holds, in the form in which xarray takes it from any of its engines."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Any

import xarray as xr
from xarray.backends.common import AbstractDataStore

__all__ = ["Contents"]


class Contents(AbstractDataStore):
    """Variables, attributes and unlimited dimensions that were read from a file, which is closed again."""

    def __init__(
        self,
        variables: Mapping[str, xr.Variable],
        attrs: Mapping[str, Any],
        encoding: Mapping[str, Any],
        *,
        left_out: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """Hold what was read; the variables' values are as they are stored, and lazy.

        What is left out, by its full name, has a reason.
        """
        self.left_out = left_out
        self.variables, self.attributes, self.encoding = dict(variables), dict(attrs), dict(encoding)

    def only(self, names: Collection[str]) -> Contents:
        """Return the same with those variables only whose names are given."""
        kept = {name: variable for name, variable in self.variables.items() if name in names}
        return Contents(kept, self.attributes, self.encoding)

    def without(self, names: Collection[str]) -> Contents:
        """Return the same without those variables whose names are given."""
        return self.only(self.variables.keys() - set(names))

    def get_variables(self) -> dict[str, xr.Variable]:
        """Return the variables, shallow copies that xarray may decode."""
        return {name: variable.copy(deep=False) for name, variable in self.variables.items()}

    def get_attrs(self) -> dict[str, Any]:
        """Return the attributes of the file or group."""
        return dict(self.attributes)

    def get_dimensions(self) -> dict[str, int]:
        """Return the lengths of the variables' dimensions."""
        return {str(dim): size for variable in self.variables.values() for dim, size in variable.sizes.items()}

    def get_encoding(self) -> dict[str, Any]:
        """Return which dimensions are unlimited."""
        return dict(self.encoding)

    def close(self) -> None:
        """Do nothing: no file is open."""
