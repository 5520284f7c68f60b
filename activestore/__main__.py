"""The command, as a program: Ctrl-C ends it with one word and the exit code 130, from its first moment to its last."""

from __future__ import annotations

import _signal as signal  # type: ignore[import-not-found]  # the module signal is slow to import: before, Ctrl-C shows a traceback
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sys import UnraisableHookArgs
    from types import FrameType

__all__ = ["main"]

_INTERRUPTED = 130
_MOMENT = 0.01
"""Seconds until Ctrl-C is pressed again: until the object has been freed."""


class _Interrupts:
    """What Ctrl-C does: it ends the program at once where there is nothing to tidy up, and is an exception elsewhere."""

    def __init__(self) -> None:
        self.came = False
        self._usual = sys.unraisablehook

    def end(self, *_: object) -> None:
        """End the program: an exception in the middle of an import is often made into another, or lost."""
        self.came = True
        self.said()
        os._exit(_INTERRUPTED)

    def tell(self, _number: int, _frame: FrameType | None) -> None:
        """Raise the exception, once: a second one would break off the tidying up, and ends the program."""
        if self.came:
            self.end()
        self.came = True
        raise KeyboardInterrupt

    def again(self, lost: UnraisableHookArgs) -> None:
        """Press Ctrl-C once more where Python drops the exception: in the middle of an object being freed."""
        if not isinstance(lost.exc_value, KeyboardInterrupt):
            self._usual(lost)
            return
        from threading import Timer  # noqa: PLC0415  # slow

        self.came = False
        Timer(_MOMENT, signal.raise_signal, (signal.SIGINT,)).start()

    def said(self) -> None:
        """Say so, without Python's own files, which may be in the middle of something."""
        os.write(2, b"activestore: error: interrupted\n")


def main() -> int:
    """Run the command that the process was started with, and return its exit code."""
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        return _run()  # somebody else decides what Ctrl-C does: `nohup`, or a program of which this is a part
    interrupts = _Interrupts()
    signal.signal(signal.SIGINT, interrupts.end)
    from activestore.cli.main import main as run  # noqa: PLC0415  # slow

    sys.unraisablehook = interrupts.again
    try:
        signal.signal(signal.SIGINT, interrupts.tell)
        code = run()
    except BaseException as error:
        if not interrupts.came or isinstance(error, SystemExit):
            raise
        code = 1  # of an exception that it was made into
    finally:
        if signal.getsignal(signal.SIGINT) == interrupts.tell:
            signal.signal(signal.SIGINT, interrupts.end)
    if interrupts.came and code != _INTERRUPTED:
        interrupts.said()
    return _INTERRUPTED if interrupts.came else code


def _run() -> int:
    from activestore.cli.main import main as run  # noqa: PLC0415  # slow

    return run()


if __name__ == "__main__":
    sys.exit(main())
