"""Near-data reductions of netCDF and HDF5 variables: one interface, the same numbers everywhere."""

from __future__ import annotations

TYPE_CHECKING = False  # what type checkers take for true; the module typing is slow to import
if TYPE_CHECKING:
    from activestore.active import Active
    from activestore.core.backend import Backend, BackendRecord, Capabilities
    from activestore.core.conditions import Condition
    from activestore.core.groups import Groups
    from activestore.core.reductions import REDUCTIONS, Reduction
    from activestore.hookspecs import hookimpl
    from activestore.results.explanation import Explanation
    from activestore.results.result import Report, Result

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

# Modules that have moved are still found by the names that documents gave them.
__path__ = [*__path__, f"{__path__[0]}/former"]

if not TYPE_CHECKING:
    _MODULES = {
        "REDUCTIONS": "core.reductions",
        "Active": "active",
        "Backend": "core.backend",
        "BackendRecord": "core.backend",
        "Capabilities": "core.backend",
        "Condition": "core.conditions",
        "Explanation": "results.explanation",
        "Groups": "core.groups",
        "Reduction": "core.reductions",
        "Report": "results.result",
        "Result": "results.result",
        "hookimpl": "hookspecs",
    }

    def __getattr__(name):
        """Import what is asked for: the command is ready to be interrupted before anything slow is imported."""
        import importlib.util  # noqa: PLC0415  # slow as well

        if name in _MODULES:
            found = getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
            globals()[name] = found
            return found
        if not name.startswith("_") and importlib.util.find_spec(f"{__name__}.{name}") is not None:
            return importlib.import_module(f"{__name__}.{name}")
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__():
        return sorted({*globals(), *_MODULES})
