"""What a result looks like: masked numbers are shown as masked."""

from pathlib import Path

import h5py
import numpy as np
import pytest

from activestore import Active

EVERY = ("min", "max", "argmin", "argmax", "mean", "sum", "std", "any", "ptp", "count")


def shown(path: Path, name: str, axis: int | None = 0) -> dict[str, str]:
    """Return what the lines of a result say of each reduction; their HTML says the same."""
    result = Active(path, name).run(EVERY, axis)
    text = repr(result)
    for line in text.splitlines():
        assert line in result._repr_html_()
    return dict(line.split(maxsplit=1) for line in text.splitlines()[1:] if line.split()[0] in EVERY)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    values = np.arange(28.0).reshape(4, 7)
    values[:, 2] = np.nan
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["floats"] = values
        file["single"] = values.astype("f4")
        file["few"] = values[:, 1:5]
        file["integers"] = np.arange(24).reshape(4, 6)
        file["integers"].attrs["missing_value"] = np.array([2, 8, 14, 20])
        file["nothing"] = np.full((3, 300, 40), np.nan)
        file["one"] = np.nan
        file["infinite"] = np.array([[np.inf, np.nan, 1], [np.inf, np.nan, 2]])
    return tmp_path / "a.h5"


def test_masked_numbers_are_shown_as_masked(path: Path) -> None:
    floats = shown(path, "floats")
    assert floats["min"] == "(7,) float64 [0., 1., ..., 5., 6.]"
    assert floats["argmin"] == "(7,) int64 [0, 0, ..., 0, 0]"
    few = shown(path, "few")
    assert few["min"] == "(4,) float64 [1., --, 3., 4.]"
    assert few["argmax"] == "(4,) int64 [3, --, 3, 3]"
    assert few["any"] == "(4,) bool [True, --, True, True]"
    assert few["count"] == "(4,) int64 [4, 0, 4, 4]"
    assert shown(path, "integers")["max"] == "(6,) int64 [18, 19, --, 21, 22, 23]"
    assert shown(path, "single")["std"] == "(7,) float64 [7.82623792, 7.82623792, ..., 7.82623792, 7.82623792]"


def test_nothing_but_masked_numbers(path: Path) -> None:
    nothing = shown(path, "nothing")
    row = "[--, --, ..., --, --]"
    for name in ("min", "max", "argmin", "argmax", "mean", "sum", "std", "any", "ptp"):
        assert nothing[name].endswith(f" [{row},  {row},  ...,  {row},  {row}]")
    one = shown(path, "one", None)
    assert {one.pop("count"), *one.values()} == {"0", "--"}


def test_infinities_that_are_values_are_shown(path: Path) -> None:
    assert shown(path, "infinite")["max"] == "(3,) float64 [inf, --, 2.]"
