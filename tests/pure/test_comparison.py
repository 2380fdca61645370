"""The four error measures, against their definitions, and at the places where the definitions break."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from lowprec.comparison import WORST, Errors, compare

Floats = NDArray[np.float64]
finite = st.floats(-1e6, 1e6).map(lambda value: 0.0 if abs(value) < 1e-6 else value)


@given(hnp.arrays(np.float64, st.integers(1, 20), elements=finite), st.data())
def test_definitions(want: Floats, data: st.DataObject) -> None:
    have = data.draw(hnp.arrays(np.float64, want.shape, elements=finite))
    errors = compare(want, have)
    assert errors.max_abs == np.abs(have - want).max()
    if np.abs(want).max() == 0:
        assert errors.relative == errors.max_abs
        return
    assert errors.relative == pytest.approx(errors.max_abs / np.abs(want).max())
    assert -1 - 1e-9 <= errors.cosine <= 1 + 1e-9
    noise = ((have - want) ** 2).sum()
    if noise > 0:
        assert errors.sqnr_db == pytest.approx(10 * math.log10((want**2).sum() / noise), abs=1e-6)
        assert errors.cosine == pytest.approx(
            want @ have / np.sqrt((want @ want) * (have @ have)) if have.any() else 0.0, abs=1e-6
        )


@given(hnp.arrays(np.float32, st.integers(0, 20)))
def test_an_array_equals_itself(array: NDArray[np.float32]) -> None:
    """NaN and infinities too."""
    errors = compare(array, array.copy())
    assert (errors.max_abs, errors.relative, errors.sqnr_db) == (0, 0, math.inf)


NAN, INF = np.nan, np.inf


@pytest.mark.parametrize(
    ("want", "have"),
    [
        ([1.0, 2.0], [1.0, NAN]),
        ([1.0, NAN], [1.0, 2.0]),
        ([1.0, INF], [1.0, 3e38]),
        ([1.0, INF], [1.0, -INF]),
        ([1.0, NAN], [1.0, INF]),
        ([1.0, NAN], [NAN, 1.0]),
        ([1.0, 2.0], [1.0]),
    ],
)
def test_not_a_number_at_another_place_is_the_worst(want: list[float], have: list[float]) -> None:
    assert compare(np.array(want), np.array(have)) == WORST


def test_the_rest_counts_beside_equal_infinities() -> None:
    errors = compare(np.array([INF, NAN, 4.0, -INF]), np.array([INF, NAN, 5.0, -INF]))
    assert errors.max_abs == 1
    assert errors.relative == 0.25


def test_zeros() -> None:
    zero, one = np.zeros(3), np.ones(3)
    assert compare(zero, zero) == Errors(max_abs=0, relative=0, cosine=1, sqnr_db=math.inf)
    assert compare(zero, one) == Errors(max_abs=1, relative=1, cosine=0, sqnr_db=-math.inf)
    assert compare(one, zero).sqnr_db == 0


def test_no_square_overflows_or_vanishes() -> None:
    for scale in (1e-300, 1e300):
        errors = compare(np.array([scale, -scale]), np.array([scale, -scale * 0.9]))
        assert errors.sqnr_db == pytest.approx(10 * math.log10(2 / 0.01))
        assert errors.cosine == pytest.approx(1.9 / math.sqrt(2 * 1.81))


def test_integers_and_bools() -> None:
    assert compare(np.array([True, False]), np.array([True, True])).max_abs == 1
    assert compare(np.array([200], np.uint8), np.array([100], np.uint8)).relative == 0.5


def test_json_has_no_infinity() -> None:
    assert compare(np.ones(2), np.ones(2)).to_json() == {"max_abs": 0, "relative": 0, "cosine": 1, "sqnr_db": None}
