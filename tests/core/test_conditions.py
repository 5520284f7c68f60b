"""Conditions on the values: those that do not satisfy them count as missing, by the comparisons of NumPy."""

import operator
from pathlib import Path
from typing import Any

import netCDF4
import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from activestore import Active, Condition
from activestore.core.conditions import MOST_TERMS, OPERATORS, parse_condition, unsatisfied
from activestore.errors import SelectionError, SumOverflowError
from tests.expected import check, fits, magnitude, requests
from tests.generated import Recipe, recipes
from tests.test_properties import NAMED, cut, opened

MANY = settings().max_examples * 4
EXACT = {
    ">": operator.gt,
    ">=": operator.ge,
    "<": operator.lt,
    "<=": operator.le,
    "==": operator.eq,
    "!=": operator.ne,
}


def satisfied(values: np.ndarray, condition: Condition) -> np.ndarray:
    """Where values satisfy a condition: integers by Python's exact comparisons, floats by NumPy's."""
    found = values == values
    for name, number in condition.terms:
        if values.dtype.kind == "f":
            with np.errstate(all="ignore"):
                found &= EXACT[name](values, number)
        else:
            found &= np.array([EXACT[name](one, number) for one in values.reshape(-1).tolist()], bool).reshape(values.shape)
    return found


class TestText:
    @pytest.mark.parametrize(
        ("text", "terms"),
        [
            ("> 298.15", ((">", 298.15),)),
            (">298", ((">", 298),)),
            (" >= 273.15 and < 300 ", ((">=", 273.15), ("<", 300))),
            ("!= 0", (("!=", 0),)),
            ("== -1e-3", (("==", -0.001),)),
            ("<= +.5", (("<=", 0.5),)),
            ("< 1.", (("<", 1.0),)),
            ("> -inf and < inf", ((">", -np.inf), ("<", np.inf))),
            ("== 18446744073709551615", (("==", 2**64 - 1),)),
        ],
    )
    def test_what_it_means(self, text: str, terms: Any) -> None:
        condition = parse_condition(text)
        assert condition == Condition(terms)
        assert [type(number) for _, number in condition.terms] == [type(number) for _, number in terms]
        assert parse_condition(str(condition)) == condition

    @pytest.mark.parametrize(
        "text",
        ["", "298", "> ", "> nan", "=> 3", "> 3 or < 2", "> 3 and", "and > 3", "x > 3", "> 0x10", "> 1 2", "= 3", "> 3and",
         "<> 3", "> 1_000", "> \u0661", "> 1" + " and > 1" * MOST_TERMS, "> " + "1" * 2000, None, 3, (">", 3), np.array(True)],
    )  # fmt: skip
    def test_what_it_cannot_be(self, text: Any) -> None:
        with pytest.raises(SelectionError, match=r'is no condition: write "> 298\.15", ">= 273\.15 and < 300" or "!= 0"'):
            parse_condition(text)

    @pytest.mark.parametrize("term", [("=", 1), (">", np.nan), (">", "1"), (">", True), (">", None)])
    def test_records_are_looked_at_as_well(self, term: Any) -> None:
        with pytest.raises(SelectionError, match="is no condition"):
            parse_condition(Condition((term,)))

    def test_numbers_of_numpy(self) -> None:
        assert parse_condition(Condition(((">", np.float32(0.5)), ("<", np.int16(3))))) == Condition(((">", 0.5), ("<", 3)))
        assert parse_condition("> 1" + "0" * 400) == Condition(((">", np.inf),))


THRESHOLDS = st.one_of(
    st.integers(-(2**65), 2**65),
    st.integers(-3, 260),
    st.floats(allow_nan=False),
    st.sampled_from([0.5, -0.5, 2.5, 255.5, 127.0, 256, 2.0**63, 2.0**64, 2.0**53 + 1, 16777217, 65520, 0.1]),
)


@settings(max_examples=MANY)
@given(data=st.data())
def test_comparisons(data: st.DataObject) -> None:
    dtype = np.dtype(data.draw(st.sampled_from(["i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f2", "f4", "f8"])))
    condition = Condition(
        tuple(data.draw(st.lists(st.tuples(st.sampled_from(list(OPERATORS)), THRESHOLDS), min_size=1, max_size=3)))
    )
    condition = parse_condition(condition)
    numbers = [number for _, number in condition.terms]
    if dtype.kind == "f":
        known = [np.nan, np.inf, -np.inf, 0.0, -0.0, 1.5]
        with np.errstate(all="ignore"):
            values = np.array(known + [float(number) for number in numbers]).astype(dtype)
            values = np.concatenate([values, np.nextafter(values, dtype.type(np.inf))])
    else:
        limits = np.iinfo(dtype)
        near = [
            int(np.clip(int(number) + step, limits.min, limits.max)) if abs(number) < 2**66 else 0
            for number in numbers
            for step in (-1, 0, 1)
        ]
        values = np.array([limits.min, limits.min + 1, 0, 1, limits.max - 1, limits.max, *near], dtype)
    found = unsatisfied(values, condition)
    wanted = satisfied(values, condition)
    assert found is None or found.any()
    np.testing.assert_array_equal(np.zeros(values.shape, bool) if found is None else found, ~wanted)


def test_arrays_without_dimensions() -> None:
    assert unsatisfied(np.array(3.5), parse_condition("> 3 and != 4 and < 5")) is None
    assert unsatisfied(np.array(3), parse_condition("> 3.5")).tolist() is True  # type: ignore[union-attr]
    assert unsatisfied(np.array(3, "u1"), parse_condition("> 300")).shape == ()  # type: ignore[union-attr]


@settings(max_examples=MANY)
@given(recipe=recipes(), data=st.data())
def test_values_that_do_not_satisfy_it_are_missing(recipe: Recipe, data: st.DataObject) -> None:
    with opened(recipe) as (active, whole):
        request = data.draw(requests(active))
        part, values = cut(active, whole, request)
        chosen = sorted(set(np.ma.filled(values, 0).reshape(-1).tolist()))
        finite = [one for one in chosen if np.isfinite(one)]
        numbers = st.sampled_from([0, 0.5, 300, -1e300, *finite, *[one + 0.5 for one in finite if abs(one) < 2**50]])
        terms = data.draw(st.lists(st.tuples(st.sampled_from(list(OPERATORS)), numbers), min_size=1, max_size=2))
        condition = parse_condition(Condition(tuple(terms)))
        wanted = np.ma.MaskedArray(values.data, mask=np.ma.getmaskarray(values) | ~satisfied(values.data, condition))
        where = str(condition) if data.draw(st.booleans()) else condition
        for name, reduction in NAMED.items():
            options = {"keepdims": request.keepdims, "skipna": request.skipna, "where": where}
            try:
                found = part.reduce(reduction, request.axis, **options)
            except SumOverflowError:
                assert not fits(wanted, request, name)
                continue
            check(name, found, wanted, request, magnitude(recipe, active))


@pytest.mark.parametrize("where", ["> 298.15", "<= 280 and > 260", "!= 0"])
def test_it_is_what_xarray_does(where: str) -> None:
    tas = Active("docs/tas.nc", "tas")
    values = tas.read()
    array = xr.DataArray(values.filled(np.nan), dims=tas.dims)
    keep = array == array
    for name, number in parse_condition(where).terms:
        keep &= OPERATORS[name](array, number)
    wanted = array.astype("f8").where(keep)
    np.testing.assert_allclose(tas.reduce("mean", "time", where=where).filled(np.nan), wanted.mean("time"), rtol=1e-12)
    np.testing.assert_array_equal(tas.reduce("count", "time", where=where), wanted.count("time"))


def test_conditions_and_groups_together() -> None:
    tas = Active("docs/tas.nc", "tas")
    months = np.arange(24) % 12
    found = tas.run(("mean", "count"), ("time", "lat"), by={"time": months}, where="> 290")
    values = tas.read()
    warm = np.ma.masked_where(values <= 290, values.astype("f8"))
    for month in range(12):
        np.testing.assert_array_equal(found.values["count"][month], warm[months == month].count(axis=(0, 1)))
        wanted = warm[months == month].mean(axis=(0, 1))
        np.testing.assert_array_equal(np.ma.getmaskarray(found.values["mean"][month]), np.ma.getmaskarray(wanted))
        np.testing.assert_allclose(found.values["mean"][month].compressed(), wanted.compressed(), rtol=1e-12)


def test_packed_values_are_compared_unpacked(tmp_path: Path) -> None:
    with netCDF4.Dataset(tmp_path / "a.nc", "w") as file:
        file.createDimension("d", 4)
        variable = file.createVariable("x", "i2", ("d",), fill_value=-1)
        variable.set_auto_maskandscale(False)
        variable.scale_factor, variable.add_offset = np.float64(0.01), np.float64(273.15)
        variable[...] = np.array([0, 100, 2500, -1], "i2")
    active = Active(tmp_path / "a.nc", "x")
    assert active.plan("mean").template.packing is None
    assert active.plan("mean", where="> 274").template.packing is not None
    assert active.plan("count", where="> 274").template.packing is not None
    assert active.reduce(("count", "min", "max"), where="> 273.15") == {"count": 2, "min": 274.15, "max": 298.15}
    assert active.reduce("max", where="> 1000") is np.ma.masked
    assert active.reduce("count", where="> 1000") == 0
