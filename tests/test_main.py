"""The command as a program: Ctrl-C, whenever it comes, ends it with the exit code 130 and no traceback."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import activestore

ROOT = Path(activestore.__file__).parent.parent
TAS = str(ROOT / "docs" / "tas.nc")

# Ctrl-C comes when a module is looked for, or when a function is called.
PRESSED = """
import os, runpy, sys
at = sys.argv.pop(1)

class Press:
    done = False
    @classmethod
    def find_spec(cls, name, *_):
        if name == at and not cls.done:
            cls.done = True
            os.kill(os.getpid(), 2)

sys.meta_path.insert(0, Press)
sys.argv[0] = "activestore"
runpy.run_module("activestore", run_name="__main__", alter_sys=True)
"""
# As the script that is installed does.
ENTRY = "import sys; from activestore.__main__ import main; sys.exit(main())"


def ended(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    # What is in the current folder goes before what PYTHONPATH names.
    return subprocess.run(
        [sys.executable, *command],
        env={**os.environ, **environment},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    "module",
    [
        "activestore.cli.main",
        "argparse",
        "numpy",
        "h5py",
        "h5py.h5py_warnings",
        "pluggy",
        "activestore.core.plan",
        "activestore.plugins",
    ],
)
def test_while_modules_are_imported(module: str) -> None:
    found = ended("-c", PRESSED, module, "reduce", TAS, "tas")
    assert (found.returncode, found.stdout, found.stderr) == (130, "", "activestore: error: interrupted\n")


@pytest.mark.parametrize(
    ("module", "command"),
    [
        ("activestore.server.command", ("serve", "--root", str(ROOT / "docs"), "--port", "0")),
        ("uvicorn", ("serve", "--root", str(ROOT / "docs"), "--port", "0")),
        ("h5netcdf", ("reduce", TAS, "tas", "--axis", "time", "-o", os.devnull, "--overwrite")),
        ("activestore.cli.demo", ("demo",)),
        ("fsspec.implementations.memory", ("inspect", "memory://tas.nc")),
    ],
)
def test_while_a_command_imports_what_it_needs(module: str, command: tuple[str, ...]) -> None:
    found = ended("-c", PRESSED, module, *command)
    assert (found.returncode, found.stderr) == (130, "activestore: error: interrupted\n")


@pytest.mark.parametrize(
    "command",
    [
        ("-m", "activestore", "reduce", TAS, "tas"),
        ("-c", ENTRY, "reduce", TAS, "tas"),
        ("-m", "activestore", "serve", "--root", str(ROOT / "docs"), "--port", "0"),
    ],
    ids=["reduce", "entry", "serve"],
)
def test_at_any_moment(command: tuple[str, ...]) -> None:
    outcomes = set()
    for tenths in range(0, 16, 2):
        with subprocess.Popen(
            [sys.executable, *command], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        ) as process:
            time.sleep(tenths / 10)
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=60)
        # Before a line of ours has run, it is Python that says what it likes.
        if "Traceback" in errors or process.returncode == -signal.SIGINT:
            assert str(Path("activestore", "cli/main.py")) not in errors
            assert "numpy" not in errors
        else:
            outcomes.add(process.returncode)
    # What is done is done, and the server ends as it was told to.
    assert outcomes <= {130, 0}
    assert outcomes


def test_a_program_that_ignores_ctrl_c_goes_on_doing_so() -> None:
    ignore = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
    found = ended("-c", ignore + PRESSED, "numpy", "reduce", TAS, "tas", "--op", "count", "--json")
    assert (found.returncode, found.stderr) == (0, "")


def test_an_interrupt_that_an_object_swallows_as_it_is_freed_is_not_lost() -> None:
    """Python only prints what is raised there."""
    swallow = """
import os
import activestore.cli.main

class Freed:
    def __del__(self):
        os.kill(os.getpid(), 2)
        for _ in range(1000):
            pass

def run(argv=None):
    Freed()
    return 0

activestore.cli.main.main = run
"""
    found = ended("-c", swallow + ENTRY)
    assert (found.returncode, found.stderr) == (130, "activestore: error: interrupted\n")


def test_a_run_ends_by_an_interrupt_that_an_object_swallowed() -> None:
    swallow = """
import os, time
import activestore.cli.main

class Freed:
    def __del__(self):
        os.kill(os.getpid(), 2)
        for _ in range(1000):
            pass

def run(argv=None):
    Freed()
    for _ in range(3000):
        time.sleep(0.01)
    print("has not ended")
    return 0

activestore.cli.main.main = run
"""
    found = ended("-c", swallow + ENTRY)
    assert (found.returncode, found.stdout, found.stderr) == (130, "", "activestore: error: interrupted\n")


def test_the_package_imports_nothing_until_it_is_asked_for() -> None:
    found = ended("-c", "import sys, activestore.__main__; print({'numpy', 'h5py', 'argparse'} & set(sys.modules))")
    assert (found.stdout, found.stderr) == ("set()\n", "")


def test_what_the_package_exports_is_there() -> None:
    assert set(activestore.__all__) <= set(dir(activestore))
    for name in activestore.__all__:
        assert getattr(activestore, name) is not None
    assert activestore.errors.ActivestoreError.__module__ == "activestore.errors"
    with pytest.raises(AttributeError, match="has no attribute 'Activ'"):
        activestore.Activ  # noqa: B018
