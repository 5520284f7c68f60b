"""A process that runs cases within limits of memory and time, and another one when it has died."""

import multiprocessing
import os
import resource
import shutil
import traceback
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Self

from tests.fuzz.case import Case
from tests.fuzz.judging import Verdict, judged

__all__ = ["Worker"]

MEMORY = 6 << 30
"""Bytes of address space."""
PATIENCE = 60.0
"""Seconds after which a case hangs."""


def _work(connection: Connection, folder: Path, server: str) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # Codecs in C write there what they refuse.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    number = 0
    while True:
        case, number = connection.recv(), number + 1
        # A folder of its own: nothing that is kept by path is that of another case.
        own = folder / f"{os.getpid()}-{number}"
        try:
            verdict = judged(case, own, server, connection.send)
        except Exception:  # noqa: BLE001  # the next case is run all the same
            verdict = Verdict((f"fuzz: {traceback.format_exc(limit=-2)}",))
        shutil.rmtree(own, ignore_errors=True)
        connection.send(verdict)
        connection.send(None)


class Worker:
    """Runs one case after the other; a context."""

    def __init__(self, folder: Path, server: str) -> None:
        self._folder, self._server = folder, server
        self._start()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_work, args=(theirs, self._folder, self._server), daemon=True)
        self._process.start()
        theirs.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._process.kill()
        self._process.join()

    def run(self, case: Case) -> Verdict:
        """Return what came of a case; a crash or a hang is a fault."""
        verdict: Verdict | None = None
        try:
            self._connection.send(case)
            while self._connection.poll(PATIENCE):
                said = self._connection.recv()
                if said is None:
                    return verdict or Verdict()
                verdict = said
            what = f"hang: no answer after {PATIENCE:.0f} s"
        except (EOFError, OSError):
            self._process.join()
            what = f"crash: the process ended with {self._process.exitcode}"
        self._process.kill()
        self._process.join()
        self._start()
        return verdict or Verdict((what,))
