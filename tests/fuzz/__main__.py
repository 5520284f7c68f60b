"""`python -m tests.fuzz --seconds 120 --seed 1`: runs cases, and says what was found."""

import argparse
import itertools
import os
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.fuzz.case import Case, script
from tests.fuzz.drawing import drawn
from tests.fuzz.judging import KINDS, own_server
from tests.fuzz.shrinking import kind_of, shrunk
from tests.fuzz.worker import Worker

LONG_ENOUGH = 60.0
"""Seconds after which every kind has to have been exercised."""
SHRINKING = 30.0
"""Seconds that one fault may take to be shrunk."""


def main() -> int:
    """Run the fuzz; return how many kinds of faults it found."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__, allow_abbrev=False)
    parser.add_argument("--seconds", type=float, default=60.0, help="how long (60)")
    parser.add_argument("--seed", type=int, help="what cases are made of (a new one, which is printed)")
    parser.add_argument("--case", type=int, help="run this case only")
    parser.add_argument("--faults", type=Path, default=Path("fuzz-faults"), help="folder for programs that show faults")
    given = parser.parse_args()
    seed = random.randrange(1 << 32) if given.seed is None else given.seed  # noqa: S311  # any will do
    print(f"seed {seed}")
    os.environ["ACTIVESTORE_CACHE"] = "off"
    os.environ["ACTIVESTORE_CONFIG"] = os.devnull
    numbers = itertools.count() if given.case is None else [given.case]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        with own_server(folder) as server, Worker(folder, server) as worker:
            run = Run(worker, seed, given.faults)
            started = time.monotonic()
            for number in numbers:
                if time.monotonic() - started - run.shrinking > given.seconds and given.case is None:
                    break
                run.one(number)
    lacking = run.lacking() if given.seconds >= LONG_ENOUGH and given.case is None else []
    print(run.summary(), *(f"never exercised: {kind}" for kind in lacking), sep="\n")
    return min(100, len(run.faults) + len(lacking))


class Run:
    """What has been found so far."""

    def __init__(self, worker: Worker, seed: int, folder: Path) -> None:
        self.worker, self.seed, self.folder = worker, seed, folder
        self.cases, self.counts, self.faults = 0, Counter[str](), Counter[str]()
        self.shrinking = 0.0
        """Seconds that went into it."""

    def one(self, number: int) -> None:
        """Run one case; shrink and write down what is new."""
        case = drawn(self.seed, number)
        verdict = self.worker.run(case)
        self.cases += 1
        self.counts += verdict.counts
        kinds = dict.fromkeys(map(kind_of, verdict.faults))
        new = [kind for kind in kinds if not self.faults[kind]]
        self.faults.update(kinds.keys())
        if new:
            self._write_down(case, number)

    def _write_down(self, case: Case, number: int) -> None:
        again = f"python -m tests.fuzz --seed {self.seed} --case {number}"
        started = time.monotonic()
        small = shrunk(case, self._kind, seconds=SHRINKING)
        self.shrinking += time.monotonic() - started
        faults = self.worker.run(small).faults
        self.folder.mkdir(exist_ok=True)
        path = self.folder / f"test_seed_{self.seed}_case_{number}.py"
        path.write_text(script(small, faults, again))
        print("FAULT", *faults, f"  again: {again}", f"  shrunk: {path}", sep="\n  ", flush=True)

    def _kind(self, case: Case) -> str | None:
        return next(map(kind_of, self.worker.run(case).faults), None)

    def summary(self) -> str:
        """Return how many cases there were of each kind, what was refused, and what was wrong."""
        lines = [f"{count:7,}  {kind}" for kind, count in sorted(self.counts.items())]
        found = [f"{count:7,}  FAULT {kind}" for kind, count in self.faults.most_common()]
        return "\n".join(
            [f"{self.cases:,} cases", *lines, *found, f"{sum(self.faults.values())} faults of {len(self.faults)} kinds"]
        )

    def lacking(self) -> list[str]:
        """Return the kinds that were never exercised."""
        return [kind for kind in KINDS if not self.counts[kind]]


if __name__ == "__main__":
    sys.exit(main())
