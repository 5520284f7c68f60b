"""Near-data reductions of netCDF and HDF5 variables: one interface, the same numbers everywhere."""

from __future__ import annotations

from activestore.active import Active
from activestore.core.backend import Backend, BackendRecord, Capabilities
from activestore.core.conditions import Condition
from activestore.core.groups import Groups
from activestore.core.reductions import REDUCTIONS, Reduction
from activestore.explanation import Explanation
from activestore.hookspecs import hookimpl
from activestore.result import Report, Result

__all__ = [
    "REDUCTIONS",
    "Active",
    "Backend",
    "BackendRecord",
    "Capabilities",
    "Condition",
    "Explanation",
    "Groups",
    "Reduction",
    "Report",
    "Result",
    "__version__",
    "hookimpl",
]

__version__ = "0.1.0"
