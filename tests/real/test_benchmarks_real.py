"""The benchmark over a slow line runs with the real servers and finds our numbers right; no time is judged."""

import pytest

from tests.test_benchmarks import bench

pytestmark = pytest.mark.real

CASES = ("line-64", "line-3400", "line-chunk", "line-index")


def test_every_case_over_the_line_is_right(tmp_path, reductionist, s3_store):
    results, text = bench(tmp_path, *(word for case in CASES for word in ("--only", case)))
    assert tuple(results) == CASES
    for case in CASES:
        (run,) = results[case]["activestore"]
        assert run["error"] < 1e-6, case
        assert run["moved"] > 0
        assert run["requests"] > 0
    assert "WRONG" not in text
    assert "not measured:" not in text
