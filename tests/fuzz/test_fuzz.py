"""The fuzz finds what is wrong, says how to see it again, and leaves out what a fault does not need."""

import math
from dataclasses import replace

import pytest

from activestore.core import kernel
from activestore.errors import CorruptChunkError, SumOverflowError
from tests.fuzz import __main__ as program
from tests.fuzz.case import Ask, Case, Damage, File, script
from tests.fuzz.drawing import drawn
from tests.fuzz.judging import judged_alone
from tests.fuzz.refusals import refusal
from tests.fuzz.shrinking import kind_of, shrunk
from tests.fuzz.worker import Worker

MASKED = File("h5py", "<f4", (5, 3), options={"layout": "chunked", "chunks": (2, 3)}, attrs={"missing_value": ("f4", 2.0)})
SUM = Ask("active", ("sum",), axis=(0,))


def test_a_seed_gives_the_same_cases_always():
    cases = [drawn(7, number) for number in range(50)]
    assert repr(cases) == repr([drawn(7, number) for number in range(50)])
    assert len({repr(case) for case in cases}) == 50
    assert repr(cases) != repr([drawn(8, number) for number in range(50)])


def test_a_script_has_the_case():
    for number in range(30):
        case, found = drawn(3, number), {"__name__": "script"}
        exec(script(case, ('a """fault"""\\',), "seed 3"), found)  # noqa: S102  # it is ours
        assert repr(found["CASE"]) == repr(case)


def test_what_is_right_is_no_fault():
    verdict = judged_alone(Case((MASKED,), (SUM, replace(SUM, door="server"))))
    assert verdict.faults == ()
    assert verdict.counts["door active"] == verdict.counts["door server"] == 1


def test_missing_values_that_are_counted_are_found(monkeypatch):
    monkeypatch.setattr(kernel, "mask", lambda *_, **__: None)
    faults = judged_alone(Case((MASKED,), (SUM,))).faults
    assert [kind_of(fault) for fault in faults] == ["active: sum", "active: the count"]


def test_errors_that_must_not_be_are_found(monkeypatch):
    def fail(*given, **options):
        raise CorruptChunkError("it is not")

    monkeypatch.setattr(kernel, "mask", fail)
    assert judged_alone(Case((MASKED,), (SUM,))).faults == ("active: CorruptChunkError: it is not",)
    assert refusal(SumOverflowError("a sum"), overflows=False) is None
    assert refusal(SumOverflowError("a sum"), overflows=True) is not None
    assert refusal(ValueError("cannot be reduced"), overflows=False) is None


@pytest.mark.parametrize("number", [0.5, math.nan, math.inf, 2**63])
def test_cases_are_the_same_for_odd_values(number):
    case = Case((replace(MASKED, attrs={"missing_value": ("f8", number)}),), (SUM,))
    assert judged_alone(case).faults == ()


def test_damage_is_an_error_or_a_number_that_others_have_too():
    seen = set()
    for at in range(12):
        case = Case((replace(MASKED, values="tens"),), (SUM,), (Damage("flip", 0.0, at / 12),))
        verdict = judged_alone(case)
        assert verdict.faults == ()
        seen.update(kind.rpartition(": ")[2] for kind in verdict.counts)
    assert len(seen) > 1


def test_a_fault_is_shrunk():
    case = next(case for case in (drawn(1, number) for number in range(500)) if "scale_factor" in case.files[0].attrs)
    small = shrunk(case, lambda one: "packed" if "scale_factor" in one.files[0].attrs else None, seconds=60)
    assert list(small.files[0].attrs) == ["scale_factor"]
    assert math.prod(small.files[0].shape) == 1
    assert (small.files[0].options, len(small.asks), small.asks[0].keys) == ({}, 1, ())
    assert len(small.asks[0].names) <= 1


def test_a_worker_that_crashes_or_hangs_is_a_fault_and_another_goes_on(tmp_path):
    case = Case((MASKED,), (SUM,))
    with Worker(tmp_path, "") as worker:
        assert worker.run(case).faults == ()
        worker.process.kill()
        assert worker.run(case).faults[0].startswith("crash: ")
        assert worker.run(case, patience=0.0).faults[0].startswith("hang: ")
        assert worker.run(case).faults == ()


class Alone:
    """Stands for a worker: runs cases in this process."""

    def run(self, case):
        return judged_alone(case)


def test_a_fault_is_printed_with_the_way_to_see_it_again(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(kernel, "mask", lambda *_, **__: None)
    monkeypatch.setattr(program, "drawn", lambda *_: Case((MASKED,), (SUM,)))
    run = program.Run(Alone(), 5, tmp_path)
    run.one(17)
    run.one(17)
    said = capsys.readouterr().out
    assert said.count("again: python -m tests.fuzz --seed 5 --case 17") == 1
    assert "shrunk" in said
    assert (tmp_path / "test_seed_5_case_17.py").read_text().startswith('"""python -m tests.fuzz --seed 5 --case 17')
    assert "4 faults of 2 kinds" in run.summary()
    assert "writer zarr 3" in run.lacking()
    assert "writer h5py" not in run.lacking()
    assert run.cases == 2
