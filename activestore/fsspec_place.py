"""A place that fsspec reaches: the file system, and the path on it."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from typing import Any

import fsspec.core
from fsspec import AbstractFileSystem

from activestore.forking import keep_unused, renew_after_fork
from activestore.fsspec_errors import named_errors

__all__ = ["FsspecPlace"]


class _Finalizers:
    """What fsspec's file systems have closed at their end: in a forked child, that would close the parent's connections."""

    def __init__(self) -> None:
        renew_after_fork(self)

    def renew(self) -> None:
        """Leave the file systems that were there at the fork to the parent, however they were made."""
        # An event loop's list of connections, in the kernel, is the parent's too: to close one takes it off there.
        for finalizer in list(getattr(weakref.finalize, "_registry", ())):
            alive = finalizer.peek()
            if alive is not None and isinstance(alive[0], AbstractFileSystem):
                finalizer.detach()
                keep_unused(alive[0])


_finalizers = _Finalizers()


class FsspecPlace:
    """A file system of fsspec and a path on it; a forked child has a file system of its own."""

    def __init__(self, uri: str, options: Mapping[str, Any]) -> None:  # Any: options of many types
        """Find the file system of `uri`.

        Raises:
            UnsupportedError: fsspec does not know such addresses, or lacks the package for them.
        """
        self._uri, self._options = uri, options
        self._files: Any = None  # Any: fsspec is untyped
        self.path: str = self._found()
        """The path on the file system."""
        renew_after_fork(self)

    def _found(self) -> str:
        with named_errors(self._uri):
            self._files, path = fsspec.core.url_to_fs(self._uri, **self._options)
            return str(path)
        raise AssertionError("unreachable")

    def renew(self) -> None:
        """Let go of the parent's file system: its connections, open files and event loop are in use there."""
        keep_unused(self._files)
        self._files = None

    @property
    def files(self) -> Any:  # Any: fsspec is untyped
        """The file system of this process.

        Raises:
            SourceError: It cannot be made anew in a forked child.
        """
        if self._files is None:
            self._found()
        return self._files
