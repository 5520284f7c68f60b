"""Imports go one way: from the doors through the engine to the errors, never back."""

import ast
from pathlib import Path

import activestore

ROOT = Path(activestore.__file__).parent
RANKS = {
    "errors": 0,
    "forking": -2,
    "pace": -1,
    "descriptors": -1,
    "core": 1,
    "redaction": 1,
    "hookspecs": 2,
    "transport": 2,
    "index_cache": 2,
    "cell_methods": 2,
    "combine": 1,
    "config": 2,
    "display": 2,
    "blocks": 2,
    "origin": 2,
    "ranges": 1,
    "s3": 3,
    "cookies": 2,
    "web_version": 3,
    "http_source": 4,
    "fsspec_source": 4,
    "fsspec_errors": 2,
    "fsspec_options": 2,
    "command_words": 0,
    "fsspec_place": 3,
    "object_sources": 4,
    "source": 5,
    "backends": 5,
    "result": 5,
    "parts": 6,
    "series": 6,
    "arrangement": 7,
    "explanation": 5,
    "plugins": 6,
    "named_reductions": 2,
    "neighbours": 9,
    "occupied": 6,
    "opening": 7,
    "active": 8,
    "compat": 9,
    "accessor": 9,
    "testing": 9,
    "server": 9,
    "export": 10,
    "listing": 10,
    "demo": 11,
    "arguments": 11,
    "site_commands": 11,
    "serving": 11,
    "command_secrets": 12,
    "cli": 13,
    "__main__": 14,
    "__init__": 14,
}
"""A module imports from lower ranks, or from its own package."""
CORE_MAY_IMPORT = {"numpy", "h5py", "numcodecs", "deflate", "blosc2"}


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


def top(path: Path) -> str:
    """Return the part of the package that a file belongs to."""
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def test_every_module_has_a_rank():
    assert {top(path) for path in ROOT.rglob("*.py")} <= set(RANKS)


def test_imports_point_one_way():
    seen = 0
    for path in ROOT.rglob("*.py"):
        for name in imported(path):
            parts = name.split(".")
            if parts[0] == "activestore" and len(parts) > 1 and parts[1] in RANKS and parts[1] != top(path):
                seen += 1
                assert RANKS[parts[1]] < RANKS[top(path)], f"{path} imports {name}"
    assert seen > 50


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
