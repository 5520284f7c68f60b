"""Minutes of good and bad requests: what grows slowly shows."""

from pathlib import Path

import pytest

from tests.server.soaking import EXPECTED, MARGIN, MOST, soak

pytestmark = pytest.mark.real


def test_memory_stays_bounded_for_long(tmp_path: Path) -> None:
    found = soak(tmp_path, seconds=100)
    assert {answer for answer in found.answers if not answer.endswith(": 429")} == EXPECTED
    assert found.answers.total() > 500
    assert found.most < MOST + MARGIN
    assert found.left < found.warm + MARGIN
