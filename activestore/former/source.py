"""The former name of `activestore.sources.open`."""

from __future__ import annotations

import warnings
from typing import Any

from activestore.sources import open as successor


def __getattr__(name: str) -> Any:  # Any: whatever the module has
    if name.startswith("_") or not hasattr(successor, name):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    warnings.warn(f"{__name__} is now {successor.__name__}", DeprecationWarning, stacklevel=2)
    return getattr(successor, name)
