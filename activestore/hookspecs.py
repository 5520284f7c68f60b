"""The markers and the one hook by which backends join in."""

from __future__ import annotations

from collections.abc import Iterable

import pluggy

from activestore.core.backend import BackendRecord

__all__ = ["activestore_backends", "hookimpl", "hookspec"]

hookspec = pluggy.HookspecMarker("activestore")
hookimpl = pluggy.HookimplMarker("activestore")
"""Marks a plugin's `activestore_backends`."""


@hookspec
def activestore_backends() -> Iterable[BackendRecord]:  # type: ignore[empty-body]  # pluggy calls the implementations
    """Return (or yield) a record of every backend that the plugin offers.

    A plugin is a module with this function, named by an entry point of the group "activestore":

    ```toml
    [project.entry-points.activestore]
    mystore = "activestore_mystore"
    ```

    ```python
    from activestore import BackendRecord, hookimpl

    @hookimpl
    def activestore_backends():
        yield BackendRecord(name="mystore", open=MyBackend, description="reduces chunks in my store")
    ```

    `MyBackend(source, options)` gives an object with `name`, `capabilities`, `reduce_chunk(task)` and `close()`: see
    `activestore.core.backend`.
    """
