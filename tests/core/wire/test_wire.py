"""Tasks and partial results that have travelled: the same numbers to the last bit, and nothing believed of what is odd."""

import copy
import dataclasses
import json
import math
import pickle
import random
import re
import tempfile
import time
import tracemalloc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from activestore import Active
from activestore.backends.posix import PosixBackend
from activestore.core.codecs.decode import Codec
from activestore.core.conditions import Condition
from activestore.core.kernel import fill_chunk, reduce_values
from activestore.core.missing import Missing
from activestore.core.packing import TRUTH, Packing
from activestore.core.reductions import COMPONENTS, REDUCTIONS, Reduction
from activestore.core.selection import Points, Slice
from activestore.core.task import ChunkPartial, ChunkTask, Component, Grouping, TaskTemplate
from activestore.core.wire.encode import (
    answer_bytes,
    failure_to_bytes,
    frames_from_bytes,
    numbers_bytes,
    obstacle,
    partial_to_bytes,
    tasks_from_json,
    tasks_to_json,
)
from activestore.errors import ActivestoreError, BackendError, BackendRefusedError, WireError
from activestore.sources.open import open_source
from tests import generated
from tests.core.test_groups import by_of, groupings
from tests.expected import requests
from tests.generated import NAME, Recipe, recipes

MANY = settings().max_examples * 3
LARGEST = 1 << 20


def travelled(tasks: Sequence[ChunkTask], *, largest: int = 1 << 28) -> list[ChunkTask]:
    """Return what arrives of tasks."""
    text = json.dumps(tasks_to_json(tasks), allow_nan=False)
    return tasks_from_json(json.loads(text), largest_chunk=largest, most_tasks=4096)


def framed(partial: ChunkPartial, task: ChunkTask) -> ChunkPartial:
    frame = partial_to_bytes(partial)
    assert len(frame) <= answer_bytes(task)
    (found,) = frames_from_bytes(frame, [task])
    assert isinstance(found, ChunkPartial)
    assert found.moved == len(frame)
    return found


def same(a: ChunkPartial, b: ChunkPartial) -> bool:
    """Whether two partial results are the same to the last bit, types and shapes included."""

    def arrays(partial: ChunkPartial) -> list[Any]:
        every = [partial.count, *(array for state in partial.states.values() for array in state)]
        return [(np.asarray(one).dtype, np.shape(one), np.asarray(one).tobytes()) for one in every]

    return (a.sequence, list(a.states), arrays(a)) == (b.sequence, list(b.states), arrays(b))


@pytest.fixture
def active(tmp_path: Path) -> Active:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        numbers = np.random.default_rng(0).normal(size=(12, 10, 8)).astype("f4")
        dataset = file.create_dataset("x", data=numbers, chunks=(4, 5, 8), compression="gzip", shuffle=True)
        dataset.attrs["valid_range"] = np.array([-2, 2], "f4")
        file.create_dataset("small", data=np.arange(300, dtype="i2"), chunks=(3,))
    return Active(tmp_path / "a.h5", "x")


def said_by(active: Active, names: Any = ("argmax", "std"), axis: Any = (0, 2), key: Any = np.s_[1:, [4, 2, 9], ::-2]) -> Any:
    return json.loads(json.dumps(tasks_to_json(list(active[key].plan(names, axis).tasks()))))


@settings(max_examples=MANY)
@given(recipe=recipes(), data=st.data())
def test_what_has_travelled_gives_the_same_to_the_last_bit(recipe: Recipe, data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "a.nc")
        generated.write(recipe, path)
        active = Active(path, NAME)
        request = data.draw(requests(active))
        for key in request.keys:
            active = active[key]
        names = tuple(data.draw(st.lists(st.sampled_from([*REDUCTIONS, "read"]), min_size=1, max_size=3, unique=True)))
        axes = () if "read" in names else request.axis
        reductions = tuple(READ_OR[name] for name in names)
        by, where = {}, data.draw(st.sampled_from([None, None, "> 0", "!= 3 and < 100.5"]))
        if not {"read", "argmin", "argmax"} & set(names) and data.draw(st.booleans()):
            by = data.draw(groupings(active.shape, request.axes))
        plan = active.plan(reductions, axes, skipna=request.skipna, by=by_of(by, active), where=where)
        tasks = [task for task in plan.tasks(joined=data.draw(st.sampled_from([0, 1 << 14]))) if obstacle(task) is None]
        if not tasks:
            return
        again = travelled(tasks)
        backend = PosixBackend(open_source(str(path)))
        for task, other in zip(tasks, again, strict=True):
            assert isinstance(hash(other.template), int)
            try:
                here = backend.reduce_chunk(task)
            except ActivestoreError as error:
                with pytest.raises(type(error)):
                    backend.reduce_chunk(other)
                continue
            there = backend.reduce_chunk(other)
            assert same(here, there)
            assert same(here, framed(there, task))


READ_OR: dict[str, Any] = {
    **{name: name for name in REDUCTIONS},
    "read": Reduction("read", (COMPONENTS["values"],), lambda *_: 0),
}


def test_tasks_arrive_as_they_were(active: Active) -> None:
    tasks = list(active[1:, [4, 2, 9], ::-2].plan(("argmax", "std"), (0, 1, 2)).tasks())
    for task, other in zip(tasks, travelled(tasks), strict=True):
        changed = {"origin": (0, 0, 0), "first": False, "template": dataclasses.replace(task.template, uri="object")}
        assert dataclasses.replace(task, **changed) == other


def test_small_chunks_that_are_read_together(active: Active) -> None:
    small = Active(active.variable.uri, "small")[10:260:2]
    tasks = list(small.plan("sum").tasks(joined=1 << 14))
    assert tasks[0].pieces
    (other,) = travelled(tasks)
    assert (other.pieces, other.size, other.offset, other.region) == (
        tasks[0].pieces,
        tasks[0].size,
        tasks[0].offset,
        tasks[0].region,
    )


def test_many_tasks_are_few_bytes_and_fast(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        numbers = np.random.default_rng(0).normal(size=(3400, 8, 10)).astype("f4")
        file.create_dataset("x", data=numbers, chunks=(1, 8, 10), compression="gzip", shuffle=True)
    active = Active(tmp_path / "a.h5", "x")
    tasks = list(active.plan("mean", (1, 2)).tasks())
    text = json.dumps(tasks_to_json(tasks), separators=(",", ":"))
    assert len(text) < 100_000
    partials = PosixBackend(open_source(active.variable.uri)).reduce_chunks(tasks)
    started = time.perf_counter()
    body = b"".join(map(partial_to_bytes, partials))
    frames_from_bytes(body, tasks)
    tasks_from_json(json.loads(text), largest_chunk=LARGEST, most_tasks=4096)
    # Measured: 20, 30 and 45 ms on one processor of two that are busy.
    assert time.perf_counter() - started < 2


class TestWhatCannotTravel:
    def test_a_component_of_ones_own(self, active: Active) -> None:
        own = Reduction.from_functions(
            "sum", chunk=lambda values, axis: values.sum(axis=axis, keepdims=True), combine=np.add, finalize=np.divide
        )
        tasks = list(active.plan(own).tasks())
        assert "the user's own" in str(obstacle(tasks[0]))
        with pytest.raises(BackendRefusedError, match="the user's own") as caught:
            tasks_to_json(tasks)
        assert "chunk (0, 0, 0)" in str(caught.value)

    def test_components_of_another_process_are_the_same(self, active: Active) -> None:
        tasks = list(active.plan(("argmin", "max")).tasks())
        assert all(obstacle(task) is None for task in pickle.loads(pickle.dumps(tasks)))

    @pytest.mark.parametrize(
        "changes", [{"through_hdf5": True}, {"offset": -1}, {"inline": b"1234"}, {"offset": None}, {"size": 0}]
    )
    def test_data_that_are_not_there(self, changes: Any, active: Active) -> None:
        task = dataclasses.replace(next(active.plan("sum").tasks()), **changes)
        with pytest.raises(BackendRefusedError):
            tasks_to_json([task])

    def test_two_runs(self, active: Active) -> None:
        with pytest.raises(WireError, match="one run"):
            tasks_to_json([next(active.plan("sum").tasks()), next(active.plan("min").tasks())])
        with pytest.raises(WireError, match="no tasks"):
            tasks_to_json([])

    def test_too_many_positions(self, active: Active) -> None:
        task = next(active.plan("sum").tasks())
        many = dataclasses.replace(task, region=(*task.region[:2], Points((0,) * (1 << 20) + (1,))))
        with pytest.raises(WireError, match="fewer at a time"):
            tasks_to_json([many])


def changed(said: Any, path: str, value: Any) -> Any:
    """Return JSON with one value in the place of another."""
    said = copy.deepcopy(said)
    *folders, last = [int(one) if one.isdecimal() else one for one in path.split(".")]
    place = said
    for one in folders:
        place = place[one]
    place[last] = value
    return said


class TestWhatIsOdd:
    @pytest.mark.parametrize(
        ("path", "value", "told"),
        [
            ("dtype", "f4", "dtype"),
            ("dtype", "|b1", "dtype"),
            ("dtype", "<f16", "dtype"),
            ("dtype", "O", "dtype"),
            ("dtype", 4, "dtype"),
            ("skipna", 1, "skipna"),
            ("skipna", None, "skipna"),
            ("axes", [2, 0], "ascending"),
            ("axes", [0, 0], "ascending"),
            ("axes", [0, 3], "axes"),
            ("axes", [False, True], "axes"),
            ("axes", "0", "axes"),
            ("components", ["argmax", "median"], "median"),
            ("components", ["argmax", "argmax"], "twice"),
            ("components", [["argmax"]], "component"),
            ("components", ["moments"], "placement"),
            ("components", ["argmax", "values"], "nothing is reduced"),
            ("accumulator", "i8", "accumulator"),
            ("accumulator", "O", "accumulator"),
            ("fill", "00", "fill"),
            ("fill", "zz", "fill"),
            ("fill", "0" * 10**6, "fill"),
            ("selected", [11, 3], "axes|selected|items"),
            ("selected", [11, 3, 0], "selected"),
            ("selected", [11, 3, -4], "selected"),
            ("selected", [2**62, 2**62, 2], "counted"),
            ("selected", [1] * 33, "33 items"),
            ("selected", [3, 3, 4], "placement|selection"),
            ("selected", [11, 3.0, 4], "selected"),
            ("variable", "x" * 5000, "variable"),
            ("missing", {"values": []}, "lacks"),
            ("missing.values", [0.1], "does not have"),
            ("missing.values", [1e300], "does not have"),
            ("missing.values", ["nan"], "does not have"),
            ("missing.values", [True], "does not have"),
            ("missing.values", [10**400], "does not have"),
            ("missing.values", [1.0] * 300, "300 items"),
            ("missing.valid_min", "x", "does not have"),
            ("packing", {"scale": 1.0, "scale_dtype": ">f8", "offset": None, "offset_dtype": "<f8"}, "scale_dtype"),
            ("packing", {"scale": 0.5, "scale_dtype": "<i2", "offset": None, "offset_dtype": "<f8"}, "scale"),
            ("packing", {"scale": 1, "scale_dtype": "<f8", "offset": None, "offset_dtype": "<f8"}, "scale"),
            ("packing", {"scale": None, "scale_dtype": "<f8", "offset": None, "offset_dtype": "<f8", "dtype": "<i4"}, "dtype"),
            ("packing", {"scale": None, "scale_dtype": "<f8", "offset": None, "offset_dtype": "<f8", "dtype": None}, "dtype"),
            ("packing", {}, "packing"),
            ("tasks", [], "tasks"),
            ("tasks.sequence", [], "no task"),
            ("tasks.sequence", [0] * 12, "twice"),
            ("tasks.sequence", 12, "list"),
            ("tasks.sequence", [1] * 5000, "too many"),
            ("tasks.sequence", [2**62] * 12, "sequence"),
            ("tasks.sequence", [1], "items"),
            ("tasks.sequence.1", -1, "sequence"),
            ("tasks.sequence.1", True, "sequence"),
            ("tasks.sequence.1", 1.0, "sequence"),
            ("tasks.chunk", 0, "chunk"),
            ("tasks.chunk", [0, 0], "chunk"),
            ("tasks.chunk", [0, 0, "0"], "chunk"),
            ("tasks.shape.of", [[4, 5]], "shape"),
            ("tasks.shape.of", [[4, 5, 0]], "shape"),
            ("tasks.shape.of", [[4, 5, 2**62]], "decode"),
            ("tasks.shape.of", [[2**20, 5, 8]], "decode"),
            ("tasks.shape.of", [[4, 5, 7]], "region"),
            ("tasks.shape.of", [], "shape"),
            ("tasks.shape.of", [[4, 5, 8]] * 99, "shape"),
            ("tasks.shape.at", [5] * 6, "shape.at"),
            ("tasks.shape.at", [0], "shape.at"),
            ("tasks.shape.more", 1, "more"),
            ("tasks.extent", {"of": [[4, 5, 9]]}, "extent"),
            ("tasks.extent", {"of": [[-1, 5, 8]]}, "extent"),
            ("tasks.pieces", 3, "gap"),
            ("tasks.pieces", 2**40, "pieces"),
            ("tasks.gap.0", -1, "negative"),
            ("tasks.gap.0", 2**63, "gap"),
            ("tasks.gap.1", 2**63 - 1, "too large"),
            ("tasks.gap", 0.5, "gap"),
            ("tasks.size", 0, "size"),
            ("tasks.size", LARGEST + 1, "as stored"),
            ("tasks.codecs.of", [[{"id": "rot13", "filter": 1, "values": []}]], "rot13"),
            ("tasks.codecs.of", [[{"id": "zlib", "filter": 2, "values": []}]], "filter"),
            ("tasks.codecs.of", [[{"id": "zlib", "filter": 1, "values": [-1]}]], "values"),
            ("tasks.codecs.of", [[{"id": "zlib", "filter": 1, "values": [1] * 99}]], "values"),
            ("tasks.codecs.of", [[{"id": "zlib", "filter": 1, "values": []}] * 99], "items"),
            ("tasks.codecs.of", [["zlib"]], "codec"),
            ("tasks.region.0", {"of": [[0, 5, 1]]}, "reaches out"),
            ("tasks.region.0", {"of": [[3, 3, 1]]}, "empty"),
            ("tasks.region.0", {"of": [[0, 4, 0]]}, "empty"),
            ("tasks.region.0", {"of": [[0, 4, -1]]}, "region"),
            ("tasks.region.0", {"of": [[0, 4]]}, "region"),
            ("tasks.region.0", {"of": [[0, 2, 1]]}, "placement"),
            ("tasks.region.0", {"of": [{"points": []}]}, "no positions"),
            ("tasks.region.0", {"of": [{"points": [4]}]}, "reaches out"),
            ("tasks.region.0", {"of": [{"points": [0] * 10**5}]}, "selection|answer"),
            ("tasks.region.0", {"of": [{"points": [0, 1], "more": 1}]}, "more"),
            ("tasks.region.0", {"of": ["all"]}, "region"),
            ("tasks.region", [], "region"),
            ("tasks.placement", [], "placement"),
            ("tasks.placement.0", {"of": [[0, 99, 1]]}, "placement"),
            ("tasks.placement.0", {"of": [[0, 1, 1]]}, "placement"),
            ("tasks.placement.0", {"of": [[0, 4, 0]]}, "step"),
            ("tasks.placement.0", {"of": [[0, None, 1]]}, "placement"),
            ("tasks.placement.0", {"of": [{"points": [11] * 4}]}, "outside"),
            ("odd", 1, "odd"),
            ("tasks.odd", 1, "odd"),
        ],
    )
    def test_it_is_told(self, path: str, value: Any, told: str, active: Active) -> None:
        said = said_by(active)
        assert len(tasks_from_json(said, largest_chunk=LARGEST, most_tasks=64)) == 6
        with pytest.raises(WireError, match=told):
            tasks_from_json(changed(said, path, value), largest_chunk=LARGEST, most_tasks=64)

    @pytest.mark.parametrize("given", [None, [], 1, "tasks", {}, {"tasks": {}}, [[[[]]]], math.nan])
    def test_what_is_something_else(self, given: Any) -> None:
        with pytest.raises(WireError):
            tasks_from_json(given, largest_chunk=LARGEST, most_tasks=64)

    def test_positions_belong_to_components_that_need_them(self, active: Active) -> None:
        said = said_by(active)
        del said["tasks"]["placement"]
        with pytest.raises(WireError, match="placement"):
            tasks_from_json(said, largest_chunk=LARGEST, most_tasks=64)

    def test_no_memory_is_taken_for_what_is_refused(self, active: Active) -> None:
        said = said_by(active)
        bombs = [
            changed(said, "tasks.shape.of", [[2**30, 2**30, 2**30]]),
            changed(said, "tasks.pieces", [2**18] * 6),
            changed(said, "tasks.region", [{"of": [{"points": [0, 1, 2, 3] * 10**4}]}] * 3),
            changed(said, "selected", [2**62, 2**62, 4]),
            changed(said, "tasks.placement.0", {"of": [[0, 2**50, 1]]}),
        ]
        for bomb in bombs:
            tracemalloc.start()
            with pytest.raises(WireError):
                tasks_from_json(bomb, largest_chunk=LARGEST, most_tasks=64)
            assert tracemalloc.get_traced_memory()[1] < 20 << 20
            tracemalloc.stop()


JUNK = st.one_of(
    st.sampled_from(
        [None, True, False, 0, 1, -1, 2, 3, 2**31, 2**63, 2**64, -(2**70), 10**50, 0.5, 1e300, "", "NaN", "x", [], {}]
    ),
    st.integers(-3, 20),
    st.lists(st.integers(0, 9), max_size=13),
    st.sampled_from(["<f4", "<i8", "|u1", ">f8", "sum", "argmin", "values", "zlib", "f8", "i8", "u8"]),
    st.builds(lambda points: {"points": points}, st.lists(st.integers(0, 9), max_size=6)),
    st.builds(lambda of: {"of": of}, st.lists(st.lists(st.integers(0, 9), min_size=3, max_size=3), max_size=3)),
)


def places(said: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The ways to everything in JSON."""
    items = said.items() if isinstance(said, dict) else enumerate(said) if isinstance(said, list) else ()
    found = [path] if path else []
    for key, value in items:
        found += places(value, (*path, key))
    return found


@settings(max_examples=MANY * 4)
@given(data=st.data())
def test_mutated_json_is_refused_or_makes_sense(data: st.DataObject) -> None:
    said = copy.deepcopy(data.draw(st.sampled_from(SAMPLES)))
    for _ in range(data.draw(st.integers(1, 3))):
        *folders, last = data.draw(st.sampled_from(places(said)))
        place = said
        for one in folders:
            place = place[one]
        if data.draw(st.integers(0, 4)) == 0:
            del place[last]
        else:
            place[last] = data.draw(JUNK)
        if not said:
            return
    try:
        tasks = tasks_from_json(said, largest_chunk=1 << 16, most_tasks=64)
    except WireError:
        return
    for task in tasks:
        assert numbers_bytes(task) <= 1 << 16
        partial = reduce_values(fill_chunk(task), task)
        assert same(partial, framed(partial, task))


def template(**changes: Any) -> TaskTemplate:
    fields: dict[str, Any] = {
        "uri": "a.nc",
        "variable": "x",
        "dtype": "<i2",
        "missing": Missing((-9, 3), None, 7),
        "skipna": True,
        "packing": None,
        "axes": (0, 1),
        "components": (COMPONENTS["sum"], COMPONENTS["argmin"], COMPONENTS["moments"]),
        "accumulator": "i8",
        "fill": b"\x01\x00",
        "selected": (9, 6),
    }
    return TaskTemplate(**fields | changes)


def tasks_of(shared: TaskTemplate) -> list[ChunkTask]:
    """Two tasks with something of everything, as hardly any file has it."""
    region = (Slice(0, 4, 2), Points((1, 3, 3)))
    common = {"origin": (0, 0), "codecs": (Codec("shuffle", 2, (2,)), Codec("zlib", 1, (4,))), "through_hdf5": False}
    common |= {"inline": None, "first": False, "template": shared, "shape": (4, 5), "region": region}
    first = {"sequence": 3, "chunk": (0, 0), "extent": (3, 5), "offset": 100, "size": 30, "pieces": ((100, 10), (50, 20))}
    second = {"sequence": 5, "chunk": (2, 0), "extent": None, "offset": 7, "size": 12, "pieces": None}
    where = (slice(1, None, -1), (5, 0, 1)), (slice(2, 6, 2), (2, 2, 4))
    return [ChunkTask(**common, **first, placement=where[0]), ChunkTask(**common, **second, placement=where[1])]


EVERY = template()
FLOATS = template(
    dtype=">f4",
    missing=Missing((math.nan, math.inf), -math.inf, 1.5),
    packing=Packing(0.5, "<f4", -3, "|i1"),
    accumulator="f8",
    axes=(),
    components=(COMPONENTS["values"], COMPONENTS["any"], COMPONENTS["max"]),
    fill=b"\x7f\xc0\x00\x00",
)
TYPED = template(
    packing=Packing(None, "<f8", 2.5, "<f4", "<f4"), accumulator="f8", components=(COMPONENTS["min"], COMPONENTS["argmin"])
)
TRUE_OR_FALSE = template(packing=TRUTH, components=(COMPONENTS["sum"], COMPONENTS["max"], COMPONENTS["argmin"]))
GROUPED = template(
    dtype="<f4",
    missing=Missing(),
    accumulator="f8",
    fill=bytes(4),
    components=(COMPONENTS["sum"], COMPONENTS["moments"], COMPONENTS["min"]),
    condition=Condition(((">", -1.5), ("<=", 2**64), ("<", math.inf))),
)


def tasks_with_groups() -> list[ChunkTask]:
    """The same tasks with groups along both dimensions; one of them has a single group along the second."""
    first, second = tasks_of(GROUPED)
    rows = Grouping(0, (1, 0), (1, 1), slice(3, 5)), Grouping(0, (0,), (2,), slice(4, 5))
    columns = Grouping(1, (0, 1, 0), (1, 1, 1), (1, 7)), Grouping(1, (0, 1), (1, 2), (0, 7))
    return [dataclasses.replace(first, groups=(rows[0], columns[0])), dataclasses.replace(second, groups=(rows[1], columns[1]))]


SAMPLES = [json.loads(json.dumps(tasks_to_json(tasks_of(shared)))) for shared in (EVERY, FLOATS, TYPED, TRUE_OR_FALSE)]
SAMPLES.append(json.loads(json.dumps(tasks_to_json(tasks_with_groups()))))


@pytest.mark.parametrize("shared", [EVERY, FLOATS, TYPED, TRUE_OR_FALSE])
def test_everything_that_a_task_can_have(shared: TaskTemplate) -> None:
    tasks = tasks_of(shared)
    for task, other in zip(tasks, travelled(tasks), strict=True):
        # NaN among the missing values is not equal to itself.
        assert repr(dataclasses.replace(task.template, uri="object")) == repr(other.template)
        where = task.placement if shared is not FLOATS else (slice(0, 2, 1), slice(0, 3, 1))
        assert dataclasses.replace(task, template=other.template, placement=where) == other
        partial = reduce_values(fill_chunk(task), task)
        assert same(partial, framed(reduce_values(fill_chunk(other), other), task))


def test_what_others_would_compute_otherwise_does_not_travel() -> None:
    made = {
        "NaN": template(dtype="<f4", packing=Packing(math.inf, "<f8", None, "<f8"), accumulator="f8", fill=bytes(4)),
        "of infinities": template(dtype="<f4", packing=Packing(0.0, "<f8", None, "<f8"), accumulator="f8", fill=bytes(4)),
        "256 missing": template(missing=Missing(tuple(range(257)))),
    }
    for shared in made.values():
        for task in tasks_of(shared):
            assert re.search(r"makes NaN of numbers|more than 256 missing values", str(obstacle(task)))
    assert "truth values" in str(obstacle(tasks_of(TRUE_OR_FALSE)[0], ("packing.dtype",)))


def test_groups_and_conditions() -> None:
    tasks = tasks_with_groups()
    said = tasks_to_json(tasks)
    assert said["grouped"] == [0, 1]
    assert said["condition"] == [[">", -1.5], ["<=", 2**64], ["<", "Infinity"]]
    for task, other in zip(tasks, travelled(tasks), strict=True):
        assert other.template.condition == task.template.condition
        for here, there in zip(task.groups, other.groups, strict=True):
            assert dataclasses.replace(here, at=there.at) == there
            assert there.at == slice(0, here.count)
        values = np.arange(6, dtype="f4").reshape(2, 3)
        partial = reduce_values(values.copy(), task)
        assert partial.count.shape == tuple(task.group_counts.values())
        assert same(partial, framed(reduce_values(values.copy(), other), task))


def test_one_group_alone_is_not_told() -> None:
    # So that a server which knows no groups can do the task.
    (task,) = tasks_of(GROUPED)[1:]
    task = dataclasses.replace(task, groups=(Grouping(0, (0,), (2,), slice(4, 5)),))
    said = tasks_to_json([task])
    assert "grouped" not in said
    assert travelled([task])[0].groups == ()
    values = np.arange(6, dtype="f4").reshape(2, 3)
    assert same(reduce_values(values.copy(), task), reduce_values(values.copy(), travelled([task])[0]))


def test_too_many_runs_for_one_request() -> None:
    (task,) = tasks_of(GROUPED)[1:]
    labels = (0, 1) * (1 << 19) + (0,)
    groups = (Grouping(0, labels, (1,) * len(labels), slice(0, 2)),)
    with pytest.raises(WireError, match="fewer at a time"):
        tasks_to_json([dataclasses.replace(task, groups=groups)])


@pytest.mark.parametrize(
    ("path", "value", "told"),
    [
        ("grouped", [1, 0], "ascending"),
        ("grouped", [0, 2], "grouped"),
        ("grouped", [0], "groups"),
        ("grouped", [], "groups"),
        ("grouped", 0, "grouped"),
        ("axes", [0], "not reduced"),
        ("components", ["argmin"], "groups have none of"),
        ("tasks.groups", [], "groups"),
        ("tasks.groups", {"of": []}, "groups"),
        ("tasks.groups.0.of", [], "groups"),
        ("tasks.groups.0.at", [0, 5], "groups.at"),
        ("tasks.groups.0.of.0", [0, 1], "groups"),
        ("tasks.groups.0.of.0.labels", [], "no labels"),
        ("tasks.groups.0.of.0.labels", [0, 2], "no positions"),
        ("tasks.groups.0.of.0.labels", [1, 1], "no positions"),
        ("tasks.groups.0.of.0.labels", [-1, 0], "labels"),
        ("tasks.groups.0.of.0.labels", [0, True], "labels"),
        ("tasks.groups.0.of.0.labels", [0, 2**62], "no positions"),
        ("tasks.groups.0.of.0.labels", [0, 1, 0], "positions for 2"),
        ("tasks.groups.0.of.0.lengths", [1], "1 lengths for 2"),
        ("tasks.groups.0.of.0.lengths", [1, 0], "lengths"),
        ("tasks.groups.0.of.0.lengths", 2, "positions for 2"),
        ("tasks.groups.0.of.0.lengths", 2**62, "positions for 2"),
        ("tasks.groups.0.of.0.lengths", "1", "lengths"),
        ("tasks.groups.0.of.0.more", 1, "more"),
        ("condition", [], "condition"),
        ("condition", "> 3", "condition"),
        ("condition", [[">", 0]] * 17, "condition"),
        ("condition", [[">"]], "term"),
        ("condition", [["=>", 1]], "operator"),
        ("condition", [[">", None]], "number"),
        ("condition", [[">", True]], "number"),
        ("condition", [[">", "NaN"]], "number"),
        ("condition", [[">", math.nan]], "number"),
        ("condition", [[">", 2**65]], "number"),
        ("condition", [[">", [1]]], "number"),
    ],
)
def test_odd_groups_and_conditions_are_told(path: str, value: Any, told: str) -> None:
    said = SAMPLES[-1]
    assert len(tasks_from_json(said, largest_chunk=LARGEST, most_tasks=64)) == 2
    with pytest.raises(WireError, match=told):
        tasks_from_json(changed(said, path, value), largest_chunk=LARGEST, most_tasks=64)


def test_groups_of_components_that_have_none() -> None:
    said = changed(SAMPLES[-1], "components", ["argmin"])
    said["tasks"]["placement"] = [{"of": [[0, 2, 1]]}, {"of": [[0, 3, 1]]}]
    with pytest.raises(WireError, match="groups have none of"):
        tasks_from_json(said, largest_chunk=LARGEST, most_tasks=64)


def some_frames() -> tuple[list[ChunkTask], list[bytes]]:
    tasks = tasks_of(template(axes=(0,)))
    numbers = np.arange(6, dtype="i2").reshape(2, 3)
    return tasks, [partial_to_bytes(reduce_values(numbers, task)) for task in tasks]


class TestFrames:
    def test_failures(self) -> None:
        tasks, frames = some_frames()
        body = frames[0] + failure_to_bytes(5, "chunk", "zlib cannot\ndecode it " + "x" * 9999)
        partial, failure = frames_from_bytes(body, tasks)
        assert isinstance(partial, ChunkPartial)
        assert isinstance(failure, BackendError)
        assert failure.reason == "bytes that the server finds damaged"
        assert "chunk (2, 0) (offset 7, 12 bytes)" in str(failure)
        assert "zlib cannot decode it" in str(failure)
        assert len(str(failure)) < 600
        odd = failure_to_bytes(3, "\U0001f600" * 99, "\x00\U0001f600" * 999)
        assert len(odd) <= min(map(answer_bytes, tasks))
        assert "not known here" in frames_from_bytes(odd, tasks[:1])[0].reason  # type: ignore[union-attr]

    def test_a_count_that_all_cells_have_is_sent_once(self) -> None:
        task = tasks_of(template(axes=(0,)))[0]
        whole = reduce_values(np.zeros((2, 3), "i2"), task)
        assert b'"count":["|u1",[]]' in partial_to_bytes(whole)
        assert same(whole, framed(whole, task))

    @pytest.mark.parametrize(
        "spoil",
        [
            lambda frames: frames[:1],
            lambda frames: frames[::-1],
            lambda frames: [frames[0], frames[0]],
            lambda frames: [*frames, b"\0"],
            lambda frames: [*frames, frames[1]],
            lambda frames: [frames[0], frames[1][:-1]],
            lambda frames: [frames[0], frames[1][:20]],
            lambda frames: [frames[0][:5]],
            lambda frames: [b"\xff" * 8, *frames],
            lambda _: [b""],
        ],
    )
    def test_frames_that_are_not_as_asked(self, spoil: Any) -> None:
        tasks, frames = some_frames()
        assert len(frames_from_bytes(b"".join(frames), tasks)) == 2
        with pytest.raises(WireError):
            frames_from_bytes(b"".join(spoil(frames)), tasks)

    @pytest.mark.parametrize(
        ("old", "new", "told"),
        [
            (b'"<i8"', b'"<u8"', "states"),
            (b'"<i8"', b'"<f8"', "states"),
            (b'"sum"', b'"min"', "states"),
            (b"[1,3]", b"[3,1]", "counts|states"),
            (b'"|u1"', b'"|i1"', "counts"),
            (b'"|u1"', b'"|O8"', "counts"),
            (b'"sequence":3', b'"sequence":4', "belongs"),
            (b'"sequence":3', b'"sequence": ', "belongs"),
            (b'"states"', b'"Ztates"', "lacks"),
            (b'"count"', b'"error"', "lacks"),
            (b'"count":[', b'"count":{', "JSON"),
            (b'{"sequence":3,', b'["sequence":3,', "belongs"),
        ],
    )
    def test_headers_that_are_not_as_asked(self, old: bytes, new: bytes, told: str) -> None:
        tasks, frames = some_frames()
        assert old in frames[0]
        with pytest.raises(WireError, match=told):
            frames_from_bytes(frames[0].replace(old, new, 1) + frames[1], tasks)

    def test_numbers_that_cannot_be(self) -> None:
        task = tasks_of(template(axes=(0, 1), components=(COMPONENTS["argmin"], COMPONENTS["any"])))[0]
        good = reduce_values(np.arange(6, dtype="i2").reshape(2, 3), task)
        assert same(good, framed(good, task))
        far = dataclasses.replace(good, states={**good.states, "argmin": (good.states["argmin"][0], np.full((1, 1), 54))})
        neither = dataclasses.replace(good, states={**good.states, "any": (np.full((1, 1), 2, "u1").view(bool),)})
        crowded = dataclasses.replace(good, count=np.full((1, 1), 7))
        for bad in (far, neither, crowded):
            with pytest.raises(WireError):
                framed(bad, task)

    @settings(max_examples=MANY * 4)
    @given(seed=st.integers(0, 2**32), failing=st.booleans())
    def test_mutated_frames_are_refused_or_make_sense(self, seed: int, failing: bool) -> None:
        tasks, frames = some_frames()
        if failing:
            frames[0] = failure_to_bytes(3, "chunk", "damaged")
        body, chance = bytearray(b"".join(frames)), random.Random(seed)  # noqa: S311  # no secret
        for _ in range(chance.choice([1, 1, 2, 5])):
            at, kind = chance.randrange(len(body)), chance.randrange(4)
            if kind == 0:
                body[at] = chance.randrange(256)
            elif kind == 1:
                del body[at : at + chance.choice([1, 1, 8, 40])]
            elif kind == 2:
                body[at:at] = chance.randbytes(chance.choice([1, 4, 30]))
            else:
                body[at] ^= 1 << chance.randrange(8)
            if not body:
                return
        try:
            found = frames_from_bytes(bytes(body), tasks)
        except WireError:
            return
        for task, one in zip(tasks, found, strict=True):
            assert isinstance(one, BackendError) or (one.sequence == task.sequence and one.count.max() <= 2)

    def test_deep_junk(self) -> None:
        tasks, _ = some_frames()
        header = b'{"sequence":3,"count":' + b"[" * 10_000
        with pytest.raises(WireError):
            frames_from_bytes(len(header).to_bytes(4, "little") + bytes(4) + header, tasks[:1])


def test_all_components_are_registered() -> None:
    used = {component.name: component for reduction in REDUCTIONS.values() for component in reduction.components}
    assert used.items() <= COMPONENTS.items()
    assert all(isinstance(component, Component) and component.name == name for name, component in COMPONENTS.items())
