"""What was pickled and is made again when it is first used, not where it is unpickled.

A scheduler unpickles what it passes on to workers. It need not reach the files, nor have a login for them. And an error in
unpickling is nobody's: it ends a worker, or is lost, where one in computing comes back to who waits for the result.
"""

from __future__ import annotations

import copy
import os
import platform
from typing import Any, Generic, TypeVar

from activestore.core.source import ReadableSource
from activestore.errors import ActivestoreError
from activestore.process.forking import Lock

__all__ = ["Later", "LaterSource", "source_later"]

T = TypeVar("T")


class Later(Generic[T]):
    """An object that is still to be made, of the parts that its pickle consists of; it is pickled as these again."""

    def __init__(self, parts: tuple[Any, ...]) -> None:  # Any: pickle's own contract
        """Take what `__reduce__` returns: a function, what it is called with, and a state, if there is one."""
        self._parts, self._lock = parts, Lock()
        self._made: T | None = None

    @classmethod
    def of(cls, given: T) -> Later[T]:
        """Return what stands for an object in a pickle."""
        return cls(given.__reduce_ex__(4))  # type: ignore[arg-type]  # a string only for what has a name in its module

    def __reduce__(self) -> tuple[Any, ...]:  # Any: pickle's own contract
        return type(self), (self._parts,)

    @property
    def made(self) -> T | None:
        """The object, None if it has not been made yet."""
        return self._made

    def get(self) -> T:
        """Return the object; it is made once."""
        with self._lock:
            if self._made is None:
                made: Any = copy.copy(_Pickled(self._parts))  # Any: what the parts are of
                self._made = made
            return self._made


class _Pickled:
    """What is copied as pickle makes an object of its parts: state, slots and all."""

    def __init__(self, parts: tuple[Any, ...]) -> None:  # Any: pickle's own contract
        self._parts = parts

    def __reduce__(self) -> tuple[Any, ...]:  # Any: pickle's own contract
        return self._parts


class LaterSource:
    """A source that was pickled: it is opened when more is asked of it than is known of it, and then asked instead."""

    def __init__(self, uri: str, source: Later[ReadableSource], is_remote: bool) -> None:
        """Stand for the source at an address; neither that nor whether it is remote needs it open."""
        self.uri, self.is_remote, self._source = uri, is_remote, source

    def __reduce__(self) -> str | tuple[Any, ...]:  # Any: pickle's own contract
        opened = self._source.made
        return (type(self), (self.uri, self._source, self.is_remote)) if opened is None else opened.__reduce_ex__(4)

    def __repr__(self) -> str:
        return f"LaterSource({self.uri!r})"

    def __getattr__(self, name: str) -> Any:  # Any: whatever sources have
        # Who asks for those wants to know what kind of object this is.
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.opened, name)

    @property
    def opened(self) -> ReadableSource:
        """The source itself.

        Raises:
            SourceError: It cannot be opened, or has changed since it was pickled.
            ConfigurationError: No credentials for it are to be found.
        """
        try:
            return self._source.get()
        except ActivestoreError as error:
            secrets = "; secrets are not sent, it needs its own" if self.is_remote else ""
            here = f"opened again by process {os.getpid()} on {platform.node()}{secrets}"
            raise type(error)(f"{error} ({here})") from None


def source_later(uri: str, make: tuple[Any, ...], *, is_remote: bool) -> tuple[Any, ...]:  # Any: pickle's own contract
    """Return what the pickle of a source consists of, so that it is opened only when it is used.

    Parameters:
        uri: Its address.
        make: What opens it: a function, and what that is called with.
        is_remote: Whether its reads wait for a network.
    """
    return LaterSource, (uri, Later[ReadableSource](make), is_remote)
