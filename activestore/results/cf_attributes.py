"""What a reduction makes of a variable's attributes: its units and its cell methods.

Source: CF conventions 1.11: 3.1 (units), 3.5 (flags), 7.3 and appendix E (cell methods).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from activestore.core.plan import ReductionRequest

__all__ = ["CELL_METHODS", "lasting_attributes", "reduced_attributes", "result_units"]

CELL_METHODS = {
    "mean": "mean",
    "min": "minimum",
    "max": "maximum",
    "ptp": "range",
    "var": "variance",
    "std": "standard_deviation",
    "sum": "sum",
}
"""The reductions that CF has a word for; the others give numbers that are no longer the variable's quantity."""

_WITHOUT_UNITS = frozenset({"count", "any", "all", "argmin", "argmax"})
_DIFFERENCES = frozenset({"ptp", "std", "var"})
_CELSIUS = frozenset({"degC", "deg_C", "degreeC", "degree_C", "degree_Celsius", "degrees_Celsius", "celsius", "Celsius", "°C"})
_STORAGE = frozenset(
    {
        "_ChunkSizes",
        "_FillValue",
        "_Unsigned",
        "actual_range",
        "add_offset",
        "missing_value",
        "scale_factor",
        "valid_max",
        "valid_min",
        "valid_range",
    }
)
"""Attributes that tell how the source stores its numbers; the result is stored otherwise."""
_REFERENCES = frozenset({"ancillary_variables", "cell_measures", "climatology", "coordinates", "formula_terms", "grid_mapping"})
"""Attributes that name other variables, which the result does not have unless they are written with it."""


def result_units(reduction: str, units: str | None) -> str | None:
    """Return the units that `reduction` of a variable in `units` has; None where they are not known.

    Examples:
        >>> result_units("mean", "K"), result_units("var", "K"), result_units("var", "kg m-2 s-1")
        ('K', 'K2', '(kg m-2 s-1)^2')
        >>> result_units("count", "K"), result_units("ptp", "days since 2001-01-01")
        ('1', 'days')
    """
    if reduction in _WITHOUT_UNITS:
        return "1"
    if units is None or reduction not in CELL_METHODS:
        return None
    if reduction in _DIFFERENCES:
        units = units.partition(" since ")[0]
    if reduction != "var" or units in ("", "1"):
        return units
    if units in _CELSIUS:
        return "K2"
    return f"{units}2" if units.isalpha() else f"({units})^2"


def lasting_attributes(attrs: Mapping[str, object]) -> dict[str, object]:
    """Return the attributes that hold for values however they are stored, and that name no other variable.

    Examples:
        >>> lasting_attributes({"units": "K", "scale_factor": 0.1, "coordinates": "lat lon"})
        {'units': 'K'}
    """
    return {key: value for key, value in attrs.items() if key not in _STORAGE and key not in _REFERENCES}


def reduced_attributes(request: ReductionRequest, reduction: str) -> dict[str, object]:
    """Return the attributes of what `reduction` gives: the variable's own ones that still hold, units and cell methods."""
    source = request.variable.attrs
    attrs = lasting_attributes(source)
    if reduction not in ("min", "max"):
        attrs = {key: value for key, value in attrs.items() if not key.startswith("flag_")}
    attrs.pop("units", None)
    units = str(source["units"]) if "units" in source else None
    reduced_units = result_units(reduction, units)
    if reduced_units is not None:
        attrs["units"] = reduced_units
    axes = [request.variable.dims[axis] for axis in request.axes]
    method = CELL_METHODS.get(reduction)
    of = "" if request.condition is None else f"values {request.condition}"
    if method is None:
        attrs.pop("standard_name", None)
        attrs.pop("cell_methods", None)
        attrs["long_name"] = (
            f"{reduction} of {source.get('long_name', request.variable.name)} along {', '.join([*axes, *([of] if of else [])])}"
        )
    elif axes:
        steps = (str(source.get("cell_methods", "")), *(f"{axis}:" for axis in axes), method, f"(comment: {of})" if of else "")
        attrs["cell_methods"] = " ".join(step for step in steps if step)
    if reduction == "count":
        attrs["standard_name"] = "number_of_observations"
    if reduction in ("any", "all"):
        attrs |= {"flag_values": np.array([0, 1], np.int8), "flag_meanings": "false true"}
    if reduction in _DIFFERENCES and units in _CELSIUS | {"K"}:
        attrs["units_metadata"] = "temperature: difference"
    return attrs
