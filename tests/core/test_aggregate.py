"""Parts put together: sums that leave 64 bits on their way, and variances of many small chunks far from zero."""

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from activestore import Active
from activestore.errors import FallbackWarning, SumOverflowError
from activestore.reductionist import client as reductionist_client
from tests.reductionist.extension_stand_in import ExtensionStandIn, schema

LARGEST = 2**63 - 1
ROWS = [
    [LARGEST, 1, -1, -20],
    [LARGEST, LARGEST, -LARGEST, 5 - LARGEST],
    [-(2**63), -(2**63), LARGEST, LARGEST],
    [1, 2, 3, 4],
]
"""Four numbers each, whose sum fits whatever the sums on the way to it do."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ExtensionStandIn]:
    monkeypatch.setattr(reductionist_client, "_PROBED", {})
    with ExtensionStandIn().running() as running:
        yield running


def written(path: Path, numbers: np.ndarray, chunks: tuple[int, ...], **attrs: Any) -> Path:
    with h5py.File(path, "w") as file:
        file.create_dataset("v", data=numbers, chunks=chunks).attrs.update(attrs)
    return path


@pytest.mark.parametrize("chunks", [(1, 1), (1, 2), (2, 1), (3, 2), (4, 4)])
@pytest.mark.parametrize("order", [[0, 1, 2, 3], [3, 2, 1, 0], [2, 0, 3, 1]])
def test_sums_of_integers_that_fit_whatever_the_chunks(chunks: tuple[int, int], order: list[int], tmp_path: Path) -> None:
    numbers = np.array(ROWS)[:, order]
    active, exact = Active(written(tmp_path / "a.h5", numbers, chunks), "v"), numbers.astype(object)
    assert active.sum() == exact.sum()
    assert active.sum().dtype == np.int64
    assert active.sum(1).tolist() == exact.sum(1).tolist()
    assert active.reduce("sum", 1, by={1: [0, 0, 0, 0]}).tolist() == exact.sum(1, keepdims=True).tolist()
    # Groups whose positions do not lie side by side, each of several chunks.
    assert active.reduce("sum", (0, 1), by={0: [1, 0, 0, 1]}).tolist() == [exact[1:3].sum(), exact[[0, 3]].sum()]
    assert active.mean(1).tolist() == pytest.approx((exact.sum(1) / 4).tolist(), rel=1e-15, abs=2.0**12)
    both = active.reduce(("sum", "mean"), 1)
    assert both["mean"].tolist() == pytest.approx((exact.sum(1) / 4).tolist(), rel=1e-15, abs=0)


def test_only_a_sum_that_does_not_fit_is_an_error(tmp_path: Path) -> None:
    active = Active(written(tmp_path / "a.h5", np.array([[LARGEST, 1, 0], [1, 2, 3]]), (1, 1)), "v")
    for axis in (None, 0, 1):
        with pytest.raises(SumOverflowError, match="ask for the mean"):
            active.sum(axis)
    assert active[1].sum() == 6
    assert active[:, 1:].sum(1).tolist() == [1, 5]
    assert active.reduce("sum", 1, by={1: [-1, 0, 0]}).tolist() == [[1], [5]]
    assert active.reduce("sum", where=f"< {2**62}") == 7
    assert active.mean() == pytest.approx((LARGEST + 7) / 6, rel=1e-15, abs=0)


def test_sums_of_unsigned_integers(tmp_path: Path) -> None:
    active = Active(written(tmp_path / "a.h5", np.array([2**64 - 3, 1, 1, 1], "u8"), (1,)), "v")
    assert active[:3].sum() == np.uint64(2**64 - 1)
    with pytest.raises(SumOverflowError):
        active.sum()


@pytest.mark.parametrize("chunks", [(1, 1), (2, 3), (4, 4)])
def test_sums_that_leave_64_bits_travel(chunks: tuple[int, int], tmp_path: Path, server: ExtensionStandIn) -> None:
    numbers = np.array(ROWS)
    path = written(tmp_path / "a.h5", numbers, chunks)
    away = Active(path, "v", backend="reductionist", server=server.url, fallback="error")
    assert away.sum() == numbers.astype(object).sum()
    assert away.sum(1).tolist() == numbers.astype(object).sum(1).tolist()
    assert (
        away.reduce("sum", (0, 1), by={0: [1, 0, 0, 1]}).tolist()
        == Active(path, "v").reduce("sum", (0, 1), by={0: [1, 0, 0, 1]}).tolist()
    )
    assert len(server.batches) >= 3
    with pytest.raises(SumOverflowError):
        away[:2, :1].sum()


def test_sums_over_files_of_different_integers(tmp_path: Path) -> None:
    parts = [np.array(ROWS[1][:2]), np.array([7, -9], "i4"), np.array(ROWS[1][2:]), np.array([3, 4], "u2")]
    paths = [written(tmp_path / f"{i}.h5", part, (1,)) for i, part in enumerate(parts)]
    active = Active(paths, "v", dim=0)
    assert active.dtype == np.int64
    assert active.sum() == 5 + 5
    assert active[::-1].sum() == 5 + 5
    with pytest.raises(SumOverflowError):
        active[:3].sum()
    halves = [written(tmp_path / f"half {i}.h5", part, (1,)) for i, part in enumerate((np.array([2**62] * 3), np.array([0.5])))]
    assert Active(halves, "v", dim=0).sum() == 3 * 2.0**62


CLOSE = [(1e9, 1e-3), (273.15, 1e-6), (-1e6, 1e-3), (0, 1)]
"""Means, and how far values are from them."""


def spread(values: np.ndarray, ddof: int = 0) -> float:
    """Return the variance, computed with more digits."""
    wide = values.astype(np.longdouble) - np.longdouble(values.flat[0])
    return float(((wide - wide.mean()) ** 2).sum() / (wide.size - ddof))


def around(mean: float, std: float, shape: tuple[int, ...]) -> np.ndarray:
    return mean + np.random.default_rng(1).standard_normal(shape) * std


@pytest.mark.parametrize(("mean", "std"), CLOSE)
@pytest.mark.parametrize("chunks", [(1, 7), (4, 100), (3, 1)])
def test_variances_of_small_chunks_far_from_zero(
    mean: float, std: float, chunks: tuple[int, int], tmp_path: Path, server: ExtensionStandIn
) -> None:
    values = around(mean, std, (8, 300))
    path = written(tmp_path / "a.h5", values, chunks)
    active, labels = Active(path, "v"), np.arange(300) % 3
    assert active.var() == pytest.approx(spread(values), rel=1e-13, abs=0)
    assert active.var(ddof=1) == pytest.approx(spread(values, 1), rel=1e-13, abs=0)
    assert active.std() == pytest.approx(spread(values) ** 0.5, rel=1e-13, abs=0)
    assert active.var(1).tolist() == pytest.approx([spread(row) for row in values], rel=1e-13, abs=0)
    groups = active.reduce("var", (0, 1), by={1: labels})
    assert groups.tolist() == pytest.approx([spread(values[:, labels == label]) for label in range(3)], rel=1e-13, abs=0)
    some = active.reduce("var", where=f"> {mean}")
    assert some == pytest.approx(spread(values[values > mean]), rel=1e-13, abs=0)
    away = Active(path, "v", backend="reductionist", server=server.url)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FallbackWarning)  # of answers that are larger than the chunk
        for axis in (None, 0, 1):
            assert np.asarray(away.std(axis)).tobytes() == np.asarray(active.std(axis)).tobytes()
    assert server.batches


def test_variances_over_files_and_of_other_types(tmp_path: Path) -> None:
    values = around(273.15, 1e-6, (900,))
    paths = [written(tmp_path / f"{i}.h5", part, (7,)) for i, part in enumerate(np.split(values, 3))]
    assert Active(paths, "v", dim=0).var() == pytest.approx(spread(values), rel=1e-13, abs=0)
    single = around(273.15, 1e-3, (900,)).astype("f4")
    assert Active(written(tmp_path / "f4.h5", single, (7,)), "v").var() == pytest.approx(spread(single), rel=1e-13, abs=0)
    # One file of doubles among those of single precision, and one that is packed.
    packed = (np.arange(300) % 11).astype("i2")
    others = [
        written(tmp_path / "single.h5", single, (7,)),
        paths[1],
        written(tmp_path / "packed.h5", packed, (7,), scale_factor=1e-7, add_offset=273.15),
    ]
    together = np.concatenate([single.astype("f8"), values[300:600], packed * 1e-7 + 273.15])
    assert Active(others, "v", dim=0).var() == pytest.approx(spread(together), rel=1e-13, abs=0)
    whole = (10**9 + np.arange(900) % 7).astype("i8")
    assert Active(written(tmp_path / "i8.h5", whole, (7,)), "v").var() == pytest.approx(spread(whole), rel=1e-13, abs=0)


@pytest.mark.parametrize("stored", ["i2", "i4", "f4", "f8"])
def test_variances_of_packed_numbers_are_those_of_the_values(stored: str, tmp_path: Path) -> None:
    numbers = np.random.default_rng(2).integers(-3000, 3000, 2000).astype(stored)
    active = Active(written(tmp_path / "a.h5", numbers, (7,), scale_factor=1e-9, add_offset=273.15), "v")
    assert active.var() == pytest.approx(spread(numbers * np.float64(1e-9) + 273.15), rel=1e-13, abs=0)


def test_an_older_server_that_rounds_means_is_not_asked(tmp_path: Path, server: ExtensionStandIn) -> None:
    features = [feature for feature in server.says["extension"]["features"] if feature != "moments.rest"]
    server.says = schema(features=features)
    path = written(tmp_path / "a.h5", around(1e9, 1e-3, (4, 300)), (2, 30))
    with pytest.warns(FallbackWarning, match="whose mean the server rounds"):
        found = Active(path, "v", backend="reductionist", server=server.url).var()
    assert found == Active(path, "v").var()
    assert not server.batches
