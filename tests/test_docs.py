"""Every code block of README.md and of docs/ runs as it is printed, from a folder that looks like the repository."""

import doctest
import importlib.util
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from activestore.plugins import default_plugins

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
NAMES = [page.relative_to(ROOT).as_posix() for page in PAGES]
LANGUAGES = {"python", "console", "toml", "text", "bash"}

NOT_RUN = {
    ("README.md", "make demo\nmake test\n"),
    ("README.md", "make bench\n"),
    ("docs/quickstart.md", "make demo\n"),
    ("docs/backends.md", "pip install --editable .\n"),
}
"""The only blocks that do not run: they install things, or take minutes."""

FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE | doctest.IGNORE_EXCEPTION_DETAIL
FENCE = re.compile(r"^( *)```([^`\n]*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
MARK = re.compile(r"^ *```", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """One fenced block of a page."""

    page: str
    line: int
    language: str
    title: str | None
    text: str


def blocks_of(name: str) -> list[Block]:
    page = (ROOT / name).read_text(encoding="utf-8")
    found = []
    for match in FENCE.finditer(page):
        indent, info, body = match.groups()
        title = re.search(r'title="([^"]+)"', info)
        lines = [line.removeprefix(indent) for line in body.splitlines(keepends=True)]
        start = page.count("\n", 0, match.start()) + 1
        found.append(Block(name, start, info.split()[0] if info else "", title and title[1], "".join(lines)))
    return found


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with what the pages read, where Python finds the modules and plugins that they write."""
    (tmp_path / "docs").mkdir()
    shutil.copy(ROOT / "docs" / "tas.nc", tmp_path / "docs")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "100")
    default_plugins.cache_clear()
    yield tmp_path
    default_plugins.cache_clear()


@pytest.mark.parametrize("name", NAMES)
def test_every_block_of_a_page_runs(name: str, folder: Path) -> None:
    names: dict[str, object] = {"__name__": "__main__"}
    for block in blocks_of(name):
        if block.title is not None:
            write(block, folder)
        if block.language == "python":
            run_python(block, names)
        elif block.language == "console":
            run_console(block)
        elif block.language == "toml":
            tomllib.loads(block.text)
        elif block.language == "bash":
            assert (name, block.text) in NOT_RUN, f"{name}:{block.line}: a bash block that NOT_RUN does not list"


@pytest.mark.parametrize("name", NAMES)
def test_no_block_of_a_page_is_overlooked(name: str) -> None:
    blocks = blocks_of(name)
    assert 2 * len(blocks) == len(MARK.findall((ROOT / name).read_text(encoding="utf-8")))
    assert {block.language for block in blocks} <= LANGUAGES


def test_there_are_blocks_and_each_exception_is_one_of_them() -> None:
    blocks = [block for name in NAMES for block in blocks_of(name)]
    assert sum(block.language == "python" for block in blocks) > 20
    assert sum(block.language == "console" for block in blocks) > 5
    assert {(block.page, block.text) for block in blocks} >= NOT_RUN


def test_the_command_line_page_names_every_command_and_option() -> None:
    page = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    helps = [printed_by(command, "--help") for command in ("inspect", "reduce", "backends", "cache", "serve", "demo")]
    overview = printed_by("--help")
    for command in re.findall(
        r"^    ([a-z]+) ", overview.partition("\ncommands:")[2].partition("\nexamples:")[0], re.MULTILINE
    ):
        assert f"| `{command}` |" in page, command
    for option in set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", "".join(helps))) - {"--help"}:
        assert f"`{option}" in page, option


def printed_by(*arguments: str) -> str:
    """What the command prints, errors included."""
    command = [sys.executable, "-m", "activestore", *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8", timeout=120, check=False)
    assert (done.returncode != 0) == done.stdout.startswith("activestore: error: "), done.stdout
    return done.stdout


def test_the_site_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    for module in ("material", "mkdocstrings_handlers.python"):
        if importlib.util.find_spec(module.partition(".")[0]) is None:
            pytest.skip("the documentation's requirements are not installed")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=300)
    tags = re.compile(r"<(?:script|link|img|iframe|source)\b[^>]*?(?:src|href)=[\"']?((?:https?:)?//[^\"' >]+)")
    pages = list(tmp_path.rglob("*.html"))
    assert len(pages) > 10
    for page in pages:
        text = page.read_text(encoding="utf-8")
        assert not tags.findall(text), page.name
        assert "@import" not in text, page.name
        assert 'class="mermaid"' not in text, "a mermaid diagram is drawn by a script from elsewhere"


def write(block: Block, folder: Path) -> None:
    """Write a block that has a title to the file of that name; a project's entry points count as installed."""
    assert block.title is not None
    (folder / block.title).write_text(block.text, encoding="utf-8")
    if block.title != "pyproject.toml":
        return
    project = tomllib.loads(block.text)["project"]
    installed = folder / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n", encoding="utf-8"
    )
    lines = []
    for group, entries in project["entry-points"].items():
        lines += [f"[{group}]", *(f"{name} = {target}" for name, target in entries.items())]
    (installed / "entry_points.txt").write_text("\n".join(lines), encoding="utf-8")
    default_plugins.cache_clear()


def run_python(block: Block, names: dict[str, object]) -> None:
    """Run a block in the namespace of its page: a session if it has prompts, statements otherwise."""
    where = f"{block.page}:{block.line}"
    if ">>> " not in block.text:
        code = compile("\n" * block.line + block.text, str(ROOT / block.page), "exec")
        exec(code, names)  # noqa: S102  # the pages are ours
        return
    session = doctest.DocTestParser().get_doctest(block.text, {}, where, str(ROOT / block.page), block.line)
    session.globs = names
    report: list[str] = []
    runner = doctest.DocTestRunner(optionflags=FLAGS)
    runner.run(session, out=report.append, clear_globs=False)
    assert not runner.failures, "".join(report)


def run_console(block: Block) -> None:
    """Run each command of a block and compare what it prints, errors included, with what the page says."""
    for part in re.split(r"^\$ ", block.text, flags=re.MULTILINE)[1:]:
        command, _, expected = part.partition("\n")
        program, *arguments = shlex.split(command, comments=True)
        assert program == "activestore", f"{block.page}:{block.line}: only activestore runs here, not {program}"
        printed = printed_by(*arguments)
        same = doctest.OutputChecker().check_output(expected.replace("…", "..."), printed, FLAGS)
        assert same, f"{block.page}:{block.line}: $ {command}\nprints\n{printed}\nand not\n{expected}"
