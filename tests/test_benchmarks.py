"""The benchmark harness runs, finds our numbers right, and tells what failed; no time is judged."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

pytestmark = pytest.mark.skipif(not (ROOT / "benchmarks").is_dir(), reason="only where the whole repository is")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return tmp_path_factory.mktemp("data")


def bench(files, *arguments, packages=""):
    """Return the JSON and the text of one run on tiny files."""
    found = files / "found.json"
    command = [sys.executable, "-m", "benchmarks", "--small", "--rounds", "1", "--data", files, "--json", found, *arguments]
    environment = os.environ | {"PYTHONPATH": str(packages)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(found.read_text())["results"], done.stdout


def test_every_case_of_ours_runs_and_is_right(files):
    cases = ("mean-deflate", "mean-raw", "std-deflate", "several-deflate", "map-deflate", "series-deflate")
    results, text = bench(
        files, *(word for case in cases for word in ("--only", case)), "--with", "activestore", "--with", "alone"
    )
    assert tuple(results) == cases
    for case in cases:
        (run,) = results[case]["activestore"]
        assert run["error"] < 1e-12, case
        assert all(math.isfinite(run[column]) for column in ("seconds", "processor", "peak"))
    assert "WRONG" not in text
    assert "failed" not in text


def test_small_chunks_are_reduced_right(files):
    cases = ("maps-uint8", "maps-float32", "gaps")
    results, text = bench(files, *(word for case in cases for word in ("--only", case)))
    assert tuple(results) == cases
    for case in cases:
        assert set(results[case]) == {"activestore", "h5py + NumPy"}
        assert all(run["error"] < 1e-12 for (run,) in results[case].values()), case
    assert text.count("target speed beside h5py + NumPy >= 1.5 x") == 3
    assert "WRONG" not in text
    assert "failed" not in text


DATASETS = ("grid-mean", "grid-climatology", "grid-weighted", "daily-mean", "daily-climatology", "daily-weighted", "open-200")


def test_everything_done_with_xarray_is_right_too(files):
    results, text = bench(
        files, *(word for case in DATASETS for word in ("--only", case)), "--with", "activestore", "--with", "alone"
    )
    assert tuple(results) == DATASETS
    for case in DATASETS:
        (run,) = results[case]["activestore"]
        # Means of single precision are in single precision, as xarray's are.
        assert run["error"] < (1e-7 if case.endswith(("mean", "climatology")) else 1e-12), case
        assert ("(inflate alone)" in results[case]) == (case != "open-200")
    assert "WRONG" not in text
    assert "failed" not in text


@pytest.mark.parametrize(("case", "peers"), [("daily-climatology", 8), ("open-200", 3)])
def test_peers_find_the_same_with_xarray(files, case, peers):
    for module in ("dask", "flox", "hidefix"):
        pytest.importorskip(module)
    results, text = bench(files, "--only", case, "--with", "xarray")
    assert len(results[case]) == peers
    assert all(run["error"] < 1e-6 for (run,) in results[case].values())
    assert "speed beside the fastest of xarray, Dask and flox >= 3 x: not measured" in text


def test_the_fastest_peer_is_judged_by_its_time_and_by_its_memory():
    code = """
from benchmarks.datasets import CASES, remarks, targets
from benchmarks.report import verdicts
run = lambda seconds, peak: [{"seconds": seconds, "peak": peak, "before": 30.0}]
runs = {"activestore": run(1.0, 100.0), "xarray": run(9.0, 900.0), "xarray + flox": run(4.0, 200.0)}
runs |= {"xarray + hidefix": run(3.0, 300.0), "(inflate alone)": run(0.5, 1.0), "(nothing read)": run(0.1, 60.0)}
print(*verdicts(targets(CASES["daily-climatology"], runs)), *remarks(CASES["daily-climatology"], runs), sep="\\n")
runs = {"activestore": run(1.0, 100.0), "xarray": run(9.0, 90.0), "xarray, tuned": run(1.5, 80.0)}
print(*verdicts(targets(CASES["open-200"], runs)), *remarks(CASES["open-200"], runs), sep="\\n")
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    speed, memory, beside, bound, floor, before, opening, tuned = done.stdout.splitlines()
    assert speed.endswith(": 4 x, met")
    assert memory.endswith(": 2 x, NOT MET")
    assert beside.startswith("  beside 'xarray + hidefix'")
    assert beside.endswith(": 3.00x, memory 3.00x")
    assert "2.00 times as long" in bound
    assert "holds 60 MB; besides: activestore 40 MB, xarray 840 MB" in floor
    assert "ours holds 30 MB before" in before
    assert before.endswith("a third of theirs is 67 MB")
    assert opening.endswith(": 9 x, met")
    assert tuned.endswith(": 1.50x")


def test_the_plan_of_many_chunks(files):
    results, _ = bench(files, "--only", "plan")
    for name in ("activestore, cold", "activestore, the same again", "activestore, variable open"):
        assert [run["chunks"] for run in results["plan"][name]] == [18 * 7]


def test_a_peer_that_fails_keeps_its_row(files):
    packages = files / "packages"
    packages.mkdir()
    (packages / "netCDF4.py").write_text("raise ImportError('not today')")
    # The files are made by netCDF4-python: first with it, then without.
    bench(files, "--only", "mean-raw", "--with", "activestore")
    results, text = bench(files, "--only", "mean-raw", "--with", "netCDF4 + NumPy", packages=packages)
    assert results["mean-raw"]["netCDF4 + NumPy"] == [{"failed": "ImportError: not today"}]
    assert "failed: ImportError: not today" in text


def test_a_wrong_number_is_marked_and_the_targets_are_judged():
    code = """
from benchmarks.report import Target, reduction_table, verdicts
run = {"seconds": 2.0, "processor": 3.0, "peak": 100.0, "value": 1.5, "error": 0.0, "version": "1.0"}
runs = {"ours": [run], "far": [run | {"error": 1e-3}], "holes": [run | {"error": None, "seconds": 1.0}]}
print(*reduction_table(runs, ours="ours", bounds=()), sep="\\n")
print(*verdicts([Target("a", 3, 2, "x", at_least=True), Target("b", 3, 2, "x"), Target("c", None, 2, "x")]), sep="\\n")
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    rows = {line.split()[0]: line for line in done.stdout.splitlines()}
    assert rows["ours"].split() == ["ours", "1.0", "2.000", "2.000", "3.000", "0.50x", "100", "1.5", "0.0e+00"]
    assert rows["far"].endswith("1.0e-03 WRONG")
    assert rows["holes"].endswith("WRONG: other values are missing")
    assert [line.split(", ")[-1] for line in done.stdout.splitlines() if "target" in line] == [
        "met",
        "NOT MET",
        "  target c <= 2 x: not measured",
    ]
