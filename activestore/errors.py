"""Every error that activestore raises on purpose, in one tree.

```
ActivestoreError
├── SourceError                (OSError)              the source cannot be opened or read
│   └── SourceNotFoundError    (FileNotFoundError)    there is nothing at that address
├── VariableNotFoundError      (KeyError)             the source has no variable of that name
│   └── GroupNotFoundError     (OSError)              nor a group of that name, which xarray's engines open as files
├── ArgumentError              (TypeError)            an argument of a type that it cannot be of
├── NotNumericError            (TypeError)            the variable holds text or records, not numbers
├── SelectionError             (IndexError)           a selection or an axis outside the variable
├── ReductionError             (ValueError)           no such reduction, or options that it does not take
├── UntraceableError           (ValueError)           an xarray object whose values are not known to be those of a file
├── UnsupportedError           (NotImplementedError)  a codec or a storage layout that nothing here can read
├── CorruptChunkError          (ValueError)           stored bytes that are damaged, cut off or not what was promised
├── WireError                  (ValueError)           a task or a partial result that is not in the form that travels
├── SumOverflowError           (OverflowError)        an integer sum that 64 bits cannot hold
├── BackendError               (RuntimeError)         a backend failed
│   ├── BackendUnavailableError (ConnectionError)     it is not installed, or does not answer
│   ├── BackendRefusedError                           it will not do what was asked
│   └── ReductionistError                             a Reductionist server answered with an error, or with nonsense
├── ChunkTimeoutError          (TimeoutError)         a chunk took longer than its time limit
└── ConfigurationError         (ValueError)           a setting that is not understood
```

`FallbackWarning` (UserWarning) says that chunks were computed locally because the backend could not.

Each derives from the builtin that a caller would expect as well, so `except FileNotFoundError` works.
A message says what went wrong, where (source, variable, chunk), and what to try, in the words of Python; `command_words` has
those of the command line. It is all that is shown: what it came from is kept as its `__context__`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from activestore.process.descriptors import FULL, is_full

__all__ = [
    "ActivestoreError",
    "ArgumentError",
    "BackendError",
    "BackendRefusedError",
    "BackendUnavailableError",
    "ChunkTimeoutError",
    "ConfigurationError",
    "CorruptChunkError",
    "FallbackWarning",
    "GroupNotFoundError",
    "JoinError",
    "NotNumericError",
    "ReductionError",
    "ReductionistError",
    "SelectionError",
    "SourceError",
    "SourceNotFoundError",
    "SumOverflowError",
    "UnsupportedError",
    "UntraceableError",
    "VariableNotFoundError",
    "WireError",
    "map_errors",
    "map_errors_of_writing",
    "to_install",
    "without_frames",
]


class ActivestoreError(Exception):
    """The root of the tree: catches everything that activestore raises on purpose."""

    def __str__(self) -> str:
        """Return the message as it was written (`KeyError` would quote it)."""
        return " ".join(str(part) for part in self.args)


class SourceError(ActivestoreError, OSError):
    """The source cannot be opened or read."""


class SourceNotFoundError(SourceError, FileNotFoundError):
    """There is nothing at that address."""


class VariableNotFoundError(ActivestoreError, KeyError):
    """The source has no variable of that name."""


class GroupNotFoundError(VariableNotFoundError, SourceError):
    """The source has no group of that name."""


class ArgumentError(ActivestoreError, TypeError):
    """An argument is of a type that it cannot be of."""


class NotNumericError(ActivestoreError, TypeError):
    """The variable holds text or records, which have no mean."""


class SelectionError(ActivestoreError, IndexError):
    """A selection or an axis lies outside the variable."""


class JoinError(ActivestoreError, ValueError):
    """Files, or parts of them, do not fit one behind the other."""


class ReductionError(ActivestoreError, ValueError):
    """There is no such reduction, or it does not take those options."""


class UntraceableError(ActivestoreError, ValueError):
    """It is not certain of which file, variable and selection the values of an xarray object are."""


class UnsupportedError(ActivestoreError, NotImplementedError):
    """A codec or a storage layout that nothing installed here can read."""


class CorruptChunkError(ActivestoreError, ValueError):
    """Stored bytes are damaged, cut off or not what the metadata promise."""


class WireError(ActivestoreError, ValueError):
    """A task or a partial result that came from elsewhere is not in the form in which they travel."""


class SumOverflowError(ActivestoreError, OverflowError):
    """An integer sum does not fit into 64 bits."""


class BackendError(ActivestoreError, RuntimeError):
    """A backend failed.

    `reason` is what reports say of the chunks that were computed locally for it, without naming one of them: those with the
    same reason are counted together. It is the message where nothing else is given.
    """

    def __init__(self, message: str, *, reason: str | None = None) -> None:
        """Take the message, and the reason if that is shorter."""
        super().__init__(message)
        self.reason = message if reason is None else reason

    def __reduce__(self) -> tuple[object, ...]:
        return _restored, (type(self), str(self), self.__dict__)


def _restored(kind: type[BackendError], message: str, fields: dict[str, object]) -> BackendError:
    error = kind.__new__(kind, message)
    error.args = (message,)
    error.__dict__.update(fields)
    return error


class BackendUnavailableError(BackendError, ConnectionError):
    """A backend is not installed, or does not answer."""


class BackendRefusedError(BackendError):
    """A backend will not do what was asked of it."""


class ReductionistError(BackendError):
    """A Reductionist server answered with an error, or with something that is no answer.

    `status` is the HTTP status, `message` what the server says, `caused_by` the causes that it names, outermost first.
    """

    def __init__(
        self, text: str, *, reason: str | None = None, status: int = 0, message: str = "", caused_by: tuple[str, ...] = ()
    ) -> None:
        """Take the text of the error, and what the server said."""
        super().__init__(text, reason=reason)
        self.status, self.message, self.caused_by = status, message, caused_by


class ChunkTimeoutError(ActivestoreError, TimeoutError):
    """A chunk took longer than its time limit."""


class ConfigurationError(ActivestoreError, ValueError):
    """A setting is not understood."""


class FallbackWarning(UserWarning):
    """Chunks were computed locally, because the backend that was asked could not; the report says how many and why."""


@contextmanager
def map_errors(uri: str) -> Iterator[None]:
    """Translate the operating system's errors while `uri` is being opened or read.

    Parameters:
        uri: What the message names as the place of the error.

    Raises:
        SourceNotFoundError: In place of `FileNotFoundError`.
        SourceError: In place of any other `OSError`.

    Examples:
        >>> with map_errors("tas.nc"):
        ...     open("no/such/tas.nc")
        Traceback (most recent call last):
        ...
        activestore.errors.SourceNotFoundError: tas.nc: no such file; check the path
    """
    try:
        yield
    except ActivestoreError:
        raise
    except FileNotFoundError as error:
        raise SourceNotFoundError(f"{uri}: {_missing(error)}") from None
    except IsADirectoryError:
        raise SourceError(f"{uri}: is a folder; name a file in it") from None
    except PermissionError:
        raise SourceError(f"{uri}: permission denied; ask for read access to it") from None
    except OSError as error:
        what = FULL if is_full(error) else error
        raise SourceError(f"{uri}: {what}") from None


def _missing(error: FileNotFoundError) -> str:
    """Return what is not there: a file, or what a link leads to."""
    path = error.filename
    if isinstance(path, str) and os.path.islink(path):
        return f"is a link to {os.readlink(path)}, which is not there; check where it leads"
    return "no such file; check the path"


@contextmanager
def map_errors_of_writing(path: str) -> Iterator[None]:
    """Translate the operating system's errors while `path` is being written.

    Raises:
        SourceError: In place of any `OSError`.
    """
    try:
        yield
    except ActivestoreError:
        raise
    except (FileNotFoundError, NotADirectoryError):
        raise SourceError(f"{path}: cannot be written: there is no such folder, or no file can be made in it") from None
    except PermissionError:
        raise SourceError(f"{path}: cannot be written: permission denied; choose a folder that you may write to") from None
    except OSError as error:
        what = FULL if is_full(error) else error.strerror or error
        raise SourceError(f"{path}: cannot be written: {what}") from None


def without_frames(error: BaseException) -> None:
    """Forget where an error came from: what it was raised from, and the frames, in which a chunk may still be."""
    left, seen = [error], {id(error)}
    while left:
        one = left.pop()
        for cause in (one.__cause__, one.__context__):
            if cause is not None and id(cause) not in seen:
                seen.add(id(cause))
                left.append(cause)
        one.__traceback__ = one.__cause__ = one.__context__ = None


def to_install(extra: str) -> str:
    """Return what installs the packages of one of this package's extras; there is no release yet that pip would find.

    Examples:
        >>> to_install("s3")
        "pip install '.[s3]' in a clone of activestore"
    """
    return f"pip install '.[{extra}]' in a clone of activestore"
