"""xarray's doors to `activestore`: the engine "activestore" of `open_dataset`, and the accessor `.active`."""

from __future__ import annotations

from activestore.accessor.engine import ActivestoreEntrypoint

__all__ = ["ActivestoreEntrypoint"]
