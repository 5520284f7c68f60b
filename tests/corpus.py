"""The real files that two packages of sample data install, found without importing the packages."""

import importlib.util
from functools import cache
from pathlib import Path

__all__ = ["corpus_files", "file_id"]

_PACKAGES = ("esmvaltool_sample_data", "iris_sample_data")


@cache
def corpus_files() -> tuple[Path, ...]:
    """Return the paths of all netCDF files of the sample packages, in a fixed order."""
    # The packages import iris, which is slow and may be absent; their files are all that is needed.
    specs = (importlib.util.find_spec(package) for package in _PACKAGES)
    folders = [Path(folder) for spec in specs if spec is not None for folder in spec.submodule_search_locations or ()]
    return tuple(path for folder in folders for path in sorted(folder.rglob("*.nc")))


def file_id(path: Path) -> str:
    """Return a short name of a file of the corpus: its package and what is needed below it to tell it from the others."""
    below = path.parts[next(i for i, part in enumerate(path.parts) if part in _PACKAGES) + 1 :]
    return "/".join(below)
