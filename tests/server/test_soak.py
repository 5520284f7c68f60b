"""Memory stays bounded, whatever is asked, again and again; a longer run is among the tests beside real servers."""

from pathlib import Path

from tests.server.soaking import EXPECTED, MARGIN, MOST, soak


def test_good_and_bad_requests_take_no_more_memory_the_longer_they_go_on(tmp_path: Path) -> None:
    found = soak(tmp_path, rounds=3)
    assert {answer for answer in found.answers if not answer.endswith(": 429")} == EXPECTED
    assert found.most < MOST + MARGIN
    # One kind of request alone would have kept 192 MB, if it kept a chunk each time.
    assert found.left < found.warm + MARGIN
