"""Many small chunks, read as few tasks whatever is missing among them: the right numbers, and each chunk counted once."""

import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from activestore import Active
from activestore.errors import CorruptChunkError, FallbackWarning
from activestore.reductionist import client as reductionist_client
from tests.reductionist.extension_stand_in import ExtensionStandIn, schema

CHUNKS, LENGTH = 60, 5
NUMBERS = np.random.default_rng(0).integers(1, 100, (CHUNKS * LENGTH - 2, 3))
EVERY = ("sum", "mean", "min", "max", "std", "argmin", "any", "count")
GAPS: dict[str, list[int]] = {
    "none": [],
    "the first": [0],
    "the last": [CHUNKS - 1],
    "one inside": [17],
    "several": [0, 1, 2, 17, 18, 40, CHUNKS - 1],
    "every other": list(range(0, CHUNKS, 2)),
    "all but one": [*range(30), *range(31, CHUNKS)],
    "all": list(range(CHUNKS)),
}
KEYS = [(), np.s_[7:], np.s_[3:290:4], np.s_[::-1], np.s_[86:93], np.s_[[250, 3, 88, 88, 4]], np.s_[100:200, 1]]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ExtensionStandIn]:
    monkeypatch.setattr(reductionist_client, "_PROBED", {})
    with ExtensionStandIn().running() as running:
        yield running


def written(path: Path, gaps: list[int], *, dtype: str = "<i4", fill: float = 7, **options: Any) -> np.ma.MaskedArray:
    """Write a file without some of the chunks, and return its values: where nothing was written there is the fill value."""
    values = NUMBERS.astype(dtype)
    with h5py.File(path, "w") as file:
        dataset = file.create_dataset("v", NUMBERS.shape, dtype, chunks=(LENGTH, 3), fillvalue=fill, **options)
        for at in range(CHUNKS):
            part = slice(at * LENGTH, (at + 1) * LENGTH)
            if at in gaps:
                values[part] = fill
            else:
                dataset[part] = values[part]
    return np.ma.masked_array(values, False)


def same(found: Any, wanted: Any) -> bool:
    one, other = (np.ma.filled(np.ma.asanyarray(array).astype("f8"), -1.0) for array in (found, wanted))
    return np.allclose(one, other, rtol=1e-12)


def compare(active: Active, values: np.ma.MaskedArray, key: Any, axis: int | None) -> None:
    """Compare a part's reductions with NumPy's, and see that each chunk is counted once."""
    part, wanted = active[key], values[key]
    found = part.run(EVERY, axis)
    valid = wanted.count(axis=axis)
    assert np.array_equal(found.count, valid)
    for name in EVERY[:-2]:
        if name == "argmin":
            least = np.ma.argmin(wanted, axis=axis, fill_value=254)
            right = np.ma.masked_array(least, valid == 0)
        else:
            right = getattr(wanted.astype("f8"), name)(axis=axis)
        assert same(found.values[name], right), name
    report, foreseen = found.report, part.explain(EVERY, axis)
    assert sum(report.where.values()) == report.chunks == len(found.plan)
    assert dict(foreseen.where) == report.where
    assert foreseen.stored_bytes == report.bytes_read


@pytest.mark.parametrize("gap", GAPS)
@pytest.mark.parametrize("axis", [None, 0, 1])
def test_gaps(gap: str, axis: int | None, tmp_path: Path) -> None:
    values = written(tmp_path / "a.h5", GAPS[gap], compression="gzip")
    active = Active(tmp_path / "a.h5", "v")
    for key in KEYS:
        if axis != 1 or len(active[key].shape) == 2:
            compare(active, values, key, axis)
    where = {"posix": CHUNKS - len(GAPS[gap]), "fill value": len(GAPS[gap])}
    assert active.run("sum").report.where == {name: chunks for name, chunks in where.items() if chunks}
    assert len(list(active.plan("sum").tasks(joined=1 << 18))) == 1


@pytest.mark.parametrize(("dtype", "fill"), [(">i4", -9), ("<f8", np.nan), (">f4", 1e20), ("u1", 255)])
def test_missing_fill_values(dtype: str, fill: float, tmp_path: Path) -> None:
    values = written(tmp_path / "a.h5", GAPS["several"], dtype=dtype, fill=fill)
    with h5py.File(tmp_path / "a.h5", "r+") as file:
        file["v"].attrs["_FillValue"] = np.array(fill, dtype)
    missing = np.isnan(values.data) if np.isnan(fill) else values.data == np.array(fill, dtype)
    active = Active(tmp_path / "a.h5", "v")
    for axis in (None, 0, 1):
        compare(active, np.ma.masked_array(values.data, missing), (), axis)
    groups = active.reduce("sum", 0, by={0: np.arange(len(NUMBERS)) % 7})
    for group in range(7):
        assert same(groups[group], np.ma.masked_array(values.data, missing)[group::7].astype("f8").sum(axis=0))


@pytest.mark.parametrize("odd", [[0], [CHUNKS - 1], [20, 21, 40]])
@pytest.mark.parametrize("gap", ["none", "several", "every other"])
def test_chunks_that_were_not_filtered(odd: list[int], gap: str, tmp_path: Path) -> None:
    values = written(tmp_path / "a.h5", GAPS[gap], compression="gzip")
    with h5py.File(tmp_path / "a.h5", "r+") as file:
        for at in odd:
            whole = np.zeros((LENGTH, 3), "<i4")
            part = values.data[at * LENGTH : (at + 1) * LENGTH]
            whole[: len(part)] = part
            file["v"].id.write_direct_chunk((at * LENGTH, 0), whole.tobytes(), filter_mask=1)
    active = Active(tmp_path / "a.h5", "v")
    for key in KEYS[:-1]:
        compare(active, values, key, 0)


def test_only_tasks_with_chunks_that_were_not_filtered_are_not_joined(tmp_path: Path) -> None:
    data = np.arange(20_000, dtype="f4")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        dataset = file.create_dataset("v", data=data, chunks=(2,), compression="gzip")
        dataset.id.write_direct_chunk((19_998,), data[-2:].tobytes(), filter_mask=1)
    active = Active(tmp_path / "a.h5", "v")
    tasks = list(active.plan("sum").tasks(joined=1 << 18))
    assert sum(task.chunks for task in tasks) == 10_000
    assert [task.chunks for task in tasks[:2]] == [4096, 4096]
    assert active.sum() == data.sum(dtype="f8")


def test_a_damaged_chunk_behind_a_gap_is_named(tmp_path: Path) -> None:
    written(tmp_path / "a.h5", [0, 3], compression="gzip")
    with h5py.File(tmp_path / "a.h5", "r+") as file:
        file["v"].id.write_direct_chunk((5 * LENGTH, 0), zlib.compress(bytes(8)))
    with pytest.raises(CorruptChunkError, match=r"chunk \(5, 0\)"):
        Active(tmp_path / "a.h5", "v").sum()


@pytest.mark.parametrize("gap", GAPS)
def test_gaps_travel(gap: str, tmp_path: Path, server: ExtensionStandIn) -> None:
    written(tmp_path / "a.h5", GAPS[gap], compression="gzip", dtype=">f8", fill=3.5)
    here = Active(tmp_path / "a.h5", "v")
    away = Active(tmp_path / "a.h5", "v", backend="reductionist", server=server.url, fallback="error")
    for key in KEYS:
        one, other = here[key].run(EVERY), away[key].run(EVERY)
        assert {name: value.tobytes() for name, value in one.values.items()} == {
            name: value.tobytes() for name, value in other.values.items()
        }
        assert dict(away[key].explain(EVERY).where) == other.report.where
    assert away.run("sum").report.where.get("fill value", 0) == len(GAPS[gap])
    assert all(batch["tasks"]["tasks"]["pieces"] == CHUNKS for batch in server.batches[:1])


def test_an_older_server_is_not_asked_for_chunks_that_are_missing(tmp_path: Path, server: ExtensionStandIn) -> None:
    features = [feature for feature in server.says["extension"]["features"] if feature != "pieces.unwritten"]
    server.says = schema(features=features)
    values = written(tmp_path / "a.h5", GAPS["several"])
    with pytest.warns(FallbackWarning, match="53 of 60 .* some were never written"):
        found = Active(tmp_path / "a.h5", "v", backend="reductionist", server=server.url).run("sum")
    assert found.value == values.sum()
    assert found.report.where == {"local fallback": 53, "fill value": 7}
    assert not server.batches
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        part = Active(tmp_path / "a.h5", "v", backend="reductionist", server=server.url)[95:180]
        assert part.sum() == values[95:180].sum()
