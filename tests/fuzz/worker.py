"""A process that runs cases within limits of memory and time, and another one when it has died."""

import multiprocessing
import os
import resource
import shutil
import subprocess
import sys
import traceback
from collections import Counter
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
START = 300.0
"""Seconds that a process may take to begin."""
_READ_BY_H5PY = "import h5py, sys; h5py.File(sys.argv[1]).visititems(lambda name, one: print(one.attrs.items(), one[()]))"


def _work(connection: Connection, folder: Path, server: str) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # Codecs in C write there what they refuse.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    connection.send(None)
    while True:
        case, name = connection.recv()
        try:
            verdict = judged(case, folder / name, server, connection.send)
        except Exception:  # noqa: BLE001  # the next case is run all the same
            verdict = Verdict((f"fuzz: {traceback.format_exc(limit=-2)}",))
        shutil.rmtree(folder / name, ignore_errors=True)
        connection.send(verdict)
        connection.send(None)


class Worker:
    """Runs one case after the other; a context."""

    def __init__(self, folder: Path, server: str) -> None:
        """Let the process write into a folder, and ask a server that reads from there."""
        self._folder, self._server, self._number = folder, server, 0
        self._start()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self.process = context.Process(target=_work, args=(theirs, self._folder, self._server), daemon=True)
        self.process.start()
        theirs.close()
        if not self._connection.poll(START) or self._connection.recv() is not None:
            raise RuntimeError("the process that runs cases does not start")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._end()

    def _end(self) -> None:
        self.process.kill()
        self.process.join()

    def run(self, case: Case, *, patience: float = PATIENCE) -> Verdict:
        """Return what came of a case; a crash or a hang is a fault."""
        # A folder of its own: nothing that is kept by path is that of another case. All names are of one length.
        self._number += 1
        name, verdict = f"{self._number:07}", None
        try:
            self._connection.send((case, name))
            while self._connection.poll(patience):
                said = self._connection.recv()
                if said is None:
                    return verdict or Verdict()
                verdict = said
            what = f"hang: no answer after {patience:.0f} s"
        except (EOFError, OSError):
            self.process.join()
            what = f"crash: the process ended with {self.process.exitcode}"
        self._end()
        self._start()
        if verdict is None and case.damage and what.startswith("crash") and self._crashes_hdf5(name):
            return Verdict(counts=Counter({"damage: the HDF5 library itself crashes": 1}))
        return verdict or Verdict((what,))

    def _crashes_hdf5(self, name: str) -> bool:
        """Return whether nobody can read what was damaged in that folder: h5py alone crashes as well."""
        for path in (self._folder / name).glob("0/a.*"):
            done = subprocess.run([sys.executable, "-c", _READ_BY_H5PY, path], capture_output=True, timeout=60, check=False)
            if done.returncode < 0:
                return True
        return False
