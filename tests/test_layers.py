"""Imports go one way: from the doors through the engine to the errors, never back; and no folder has a circle in it."""

import ast
from collections import defaultdict
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest

import activestore

ROOT = Path(activestore.__file__).parent
LAYERS = (
    {"process"},
    {"errors"},
    {"network"},
    {"core"},
    {"config", "hookspecs", "named_reductions", "results", "sources"},
    {"reductionist"},
    {"backends"},
    {"plugins"},
    {"inputs"},
    {"active"},
    {"accessor", "compat", "export", "former", "server", "testing"},
    {"cli"},
    {"__init__", "__main__"},
)
"""The rooms of the package, from the ground up: a module imports from layers below its own, or from its own room."""
LAYER = {room: height for height, rooms in enumerate(LAYERS) for room in rooms}
CORE_MAY_IMPORT = {"numpy", "h5py", "numcodecs", "deflate", "blosc2"}


def module_of(path: Path) -> str:
    """Return the name of the module in a file."""
    return ".".join(path.relative_to(ROOT.parent).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_of(path): path for path in ROOT.rglob("*.py")}
FOLDERS = sorted({name.rpartition(".")[0] for name in MODULES} - {""})


def imported(path: Path) -> set[str]:
    """Return the full names of the modules that a file imports."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            names |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module or ""}
    return names


@cache
def arrows() -> list[tuple[str, str]]:
    """Return which module imports which, by name."""
    found = []
    for name, path in MODULES.items():
        for target in imported(path):
            # What is imported from a module is no module.
            known = target if target in MODULES else target.rpartition(".")[0]
            if known in MODULES and known != name and not (known == "activestore" and target != known and target in MODULES):
                found.append((name, known))
    return found


def room(module: str) -> str:
    """Return the part of the package that a module belongs to."""
    return ([*module.split("."), "__init__"])[1]


def circle(neighbours: dict[str, set[str]]) -> list[str]:
    """Return the way round a circle, if there is one."""
    done: set[str] = set()

    def walked(node: str, way: list[str]) -> list[str]:
        if node in way:
            return [*way[way.index(node) :], node]
        if node not in done:
            for after in sorted(neighbours.get(node, ())):
                if found := walked(after, [*way, node]):
                    return found
            done.add(node)
        return []

    return next((found for node in sorted(neighbours) if (found := walked(node, []))), [])


def test_every_room_has_a_layer():
    assert {room(name) for name in MODULES} == set(LAYER)


def test_imports_point_one_way():
    between = [(a, b) for a, b in arrows() if room(a) != room(b) and room(b) != "__init__"]
    assert len(between) > 300
    assert [(a, b) for a, b in between if LAYER[room(b)] >= LAYER[room(a)]] == []


@pytest.mark.parametrize("folder", FOLDERS)
def test_no_folder_has_a_circle(folder):
    """Neither among its modules nor among the folders in it, whichever of their modules need each other."""
    depth = folder.count(".") + 1
    neighbours = defaultdict(set)
    for a, b in arrows():
        if a.startswith(f"{folder}.") and b.startswith(f"{folder}."):
            here, there = a.split(".")[depth], b.split(".")[depth]
            if here != there:
                neighbours[here].add(there)
    found = circle(neighbours)
    steps = [(f"{folder}.{here}.", f"{folder}.{there}.") for here, there in pairwise(found)]
    assert found == [], [(a, b) for a, b in arrows() for x, y in steps if f"{a}.".startswith(x) and f"{b}.".startswith(y)]


def test_circles_are_found():
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b", "d"}}) == ["b", "c", "b"]
    assert circle({"a": {"b", "c"}, "b": {"c"}}) == []


def test_core_knows_no_service_and_no_display():
    import sys

    foreign = {
        name.split(".")[0]
        for path in (ROOT / "core").rglob("*.py")
        for name in imported(path)
        if name.split(".")[0] not in sys.stdlib_module_names and name.split(".")[0] != "activestore"
    }
    assert {"numpy", "h5py"} <= foreign <= CORE_MAY_IMPORT


def test_kernel_needs_numpy_and_the_standard_library_only(tmp_path):
    """The files that ship to a store run where nothing else is installed."""
    import subprocess
    import sys

    program = (
        "import sys, importlib.abc\n"
        "class Refuse(importlib.abc.MetaPathFinder):\n"
        "    def find_spec(self, name, path, target=None):\n"
        "        if name.split('.')[0] in {'h5py','pluggy','numcodecs','deflate','blosc2','fsspec','h5netcdf'}:\n"
        "            raise ImportError(name)\n"
        "sys.meta_path.insert(0, Refuse())\n"
        "import types, zlib\n"
        f"package = types.ModuleType('activestore'); package.__path__ = [{str(ROOT)!r}]\n"
        "sys.modules['activestore'] = package\n"
        "from activestore.core import kernel\n"
        "print(kernel.reduce_chunk.__name__)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.stdout == "reduce_chunk\n", done.stderr
