"""Large JSON is read as Python's own reader does, in slices, and in bounded memory."""

import json
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from activestore.server.protocol import json_slices
from activestore.server.protocol.json_slices import loads, memory

MIB = 1 << 20


@pytest.fixture(autouse=True, scope="module")
def sliced():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_slices, "_AT_ONCE", 0)
        yield


def theirs(text: str) -> Any:
    """What Python's reader makes of a text; an error is one of ours."""

    def no_constant(name: str) -> None:
        raise ValueError(name)

    try:
        return json.loads(text, parse_constant=no_constant)
    except ValueError:
        return ValueError


def ours(text: str) -> Any:
    try:
        return loads(text.encode())
    except ValueError:
        return ValueError


SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.text(max_size=3), inner, max_size=4)
)
SIGNS = st.sampled_from(list('[]{}",:0 1-.e\\\n\tNtn'))


@given(value=VALUES, indent=st.sampled_from([None, 0, 1]), ascii_only=st.booleans())
def test_what_was_written_is_read(value, indent, ascii_only):
    text = json.dumps(value, indent=indent, ensure_ascii=ascii_only)
    if any("\ud800" <= one <= "\udfff" for one in text):
        return  # what UTF-8 cannot hold
    assert repr(ours(text)) == repr(theirs(text))


@given(value=VALUES, changes=st.lists(st.tuples(st.integers(0, 200), SIGNS, st.booleans()), min_size=1, max_size=4))
def test_what_is_changed_is_read_or_refused_alike(value, changes):
    text = json.dumps(value)
    for place, sign, instead in changes:
        at = place % (len(text) + 1)
        text = text[:at] + sign + text[at + instead :]
    assert repr(ours(text)) == repr(theirs(text))


@given(text=st.text(SIGNS, max_size=12))
def test_any_text_is_read_or_refused_alike(text):
    assert repr(ours(text)) == repr(theirs(text))


@pytest.mark.parametrize(
    "value",
    [
        list(range(5000)),
        [[0, i, 1] for i in range(5000)],
        [{"points": [i] * 300} for i in range(20)],
        ["a,b]"] * 50,
        [[[1]], 2],
    ],
)
def test_long_lists_are_read_in_runs(value):
    for text in (json.dumps(value), json.dumps(value, indent=1), json.dumps(value, separators=(",", ":"))):
        assert ours(text) == value


@pytest.mark.parametrize(
    "body",
    [
        b"[" * MIB,
        b'{"a":' * MIB,
        b"[" + b"[]," * 300_000 + b"1]",
        b"[" + b"1," * 3_000_000 + b"1]",
        b"[" + b'"",' * 600_000 + b"1]",
        b"[" + b"9" * 5000 + b"]",
        b"1." + b"1" * MIB,
        b" " * MIB,
        b"[" + b"1," * 1000,
        b"[NaN, " + b"1," * 1000 + b"1]",
        b"\xff" * MIB,
        b'["' + b"a" * MIB,
    ],
    ids=lambda body: repr(body[:6]),
)
def test_what_no_request_has_is_refused_in_a_word(body):
    with pytest.raises(ValueError, match=r"it is no JSON|more parts than any request") as caught:
        loads(body)
    assert len(str(caught.value)) < 80
    assert caught.value.__cause__ is None


ITEMS = ["1", "1.5", "1000000", "[]", "{}", '""', '"ab"', "[1]", '{"a":1}', "null", "[[]]", "-1e5"]


@pytest.mark.parametrize("item", ITEMS)
def test_what_is_read_takes_no_more_memory_than_was_taken_for_it(item):
    body = f"[{','.join([item] * ((64 << 10) // (len(item) + 1)))}]".encode()
    tracemalloc.start()
    found = loads(body)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(found) > 1000
    assert most < memory(body)


@pytest.mark.parametrize("item", ITEMS)
def test_python_reads_no_more_than_a_slice_at_a_time(item, monkeypatch):
    body = f"[{','.join([item] * ((64 << 10) // (len(item) + 1)))}]".encode()
    lengths, usual = [], json_slices._read
    monkeypatch.setattr(json_slices, "_read", lambda text: lengths.append(len(text)) or usual(text))
    assert loads(body) == json.loads(body)
    assert max(lengths, default=0) < 16 << 10
