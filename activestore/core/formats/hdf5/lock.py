"""The turn in the HDF5 library, which a thread has from before it opens a file until after it has closed it.

h5py lets one thread at a time into the library, call by call. That is not enough: of a dataset that is open through two
handles of one file, the library keeps one description, and in it, where values are of varying length, the handle that
opened it first. Once that is closed, whoever asks the other for such values, or for how they are stored, reads memory that
was given back (cf. h5py/h5py#2920). So threads that each open one file and close it again have to do so one after the other.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from h5py import _objects

from activestore.core.formats.hdf5.gc_pause import held_back
from activestore.process.forking import renew_after_fork

__all__ = ["hdf5_turn"]


class _Turn:
    """A lock of ours, for which a signal ends the wait, and h5py's own behind it, for all else that uses h5py here."""

    def __init__(self) -> None:
        self.renew()
        renew_after_fork(self)

    def renew(self) -> None:
        """Make it free in a forked child; h5py sees to its own lock."""
        self.ours = threading.RLock()
        self.theirs: Any = getattr(_objects, "phil", None) or threading.RLock()  # Any: h5py is untyped


_turn = _Turn()


@contextmanager
def hdf5_turn(*, through_python: bool) -> Iterator[None]:
    """Have the HDF5 library for oneself for the length of a `with` block, in which every file that is opened is closed.

    Nothing may be waited for in it that another thread does before or after its own turn.

    Parameters:
        through_python: Whether the library reads through Python; garbage is then not collected meanwhile.

    Examples:
        >>> with hdf5_turn(through_python=False):
        ...     pass
    """
    # In a child that is forked in the block, these are not those that it has.
    ours, theirs = _turn.ours, _turn.theirs
    with held_back(needed=through_python), ours, theirs:
        yield
