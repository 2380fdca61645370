"""Scales of fixed point: powers of two, the least that hold what was seen."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lowprec.errors import Unsupported
from lowprec.formats import Fixed
from lowprec.frontend.schemes import FixedPoint
from lowprec.ranges import Range
from tests.refusals import refused

FORMATS = st.integers(2, 16).flatmap(lambda bits: st.integers(1, bits).map(lambda whole: Fixed(whole, bits - whole)))
NUMBERS = st.floats(-1e6, 1e6, width=32) | st.integers(-20, 20).map(lambda e: 2.0**e) | st.floats(width=32).filter(abs)


def holds(fmt: Fixed, exponent: int, seen: Range) -> bool:
    reach = Fraction(2) ** (fmt.integer - 1 + exponent)
    return -reach <= Fraction(seen[0]) and Fraction(seen[1]) < reach


def exponent_of(scheme: FixedPoint, seen: Range) -> int:
    """The e of a scale, which is a power of two."""
    scale, zero = scheme.unit(seen)
    exponent = int(np.log2(scale)) + scheme.format.fraction
    assert Fraction(float(scale)) == Fraction(2) ** (exponent - scheme.format.fraction)
    assert zero == 0
    return exponent


@given(fmt=FORMATS, ends=st.tuples(NUMBERS, NUMBERS).filter(lambda ends: bool(np.isfinite(ends).all())))
def test_the_exponent_is_the_least_that_holds_a_range(fmt: Fixed, ends: Range) -> None:
    seen = min(*ends, 0.0), max(*ends, 0.0)
    exponent = exponent_of(FixedPoint(format=fmt), seen)
    assert exponent >= 0
    assert holds(fmt, exponent, seen)
    assert exponent == 0 or not holds(fmt, exponent - 1, seen)
    assert exponent_of(FixedPoint(format=fmt, literal=True), seen) == 0


@pytest.mark.parametrize(
    ("seen", "exponent"),
    [
        ((0.0, 0.0), 0),
        ((-2.0, 0.0), 0),
        ((0.0, 2.0), 1),
        ((0.0, float(np.nextafter(np.float32(2), np.float32(0)))), 0),
        ((-2.0000002, 0.0), 1),
        ((-1e-30, 1e-30), 0),
        ((-4.0, 3.9), 1),
    ],
)
def test_the_lower_end_is_in_the_range_and_the_upper_is_not(seen: Range, exponent: int) -> None:
    assert exponent_of(FixedPoint(format=Fixed(2, 14)), seen) == exponent


@given(fmt=FORMATS, weights=st.lists(NUMBERS.filter(lambda x: bool(np.isfinite(x))), min_size=1, max_size=5))
def test_all_weights_have_one_scale(fmt: Fixed, weights: list[float]) -> None:
    array = np.array([weights, weights], np.float32)
    scheme = FixedPoint(format=fmt)
    scale = scheme.weight_scale(array, 0)
    assert scale.shape == ()
    assert scale.dtype == np.float32
    assert scale == scheme.unit((min(*weights, 0.0), max(*weights, 0.0)))[0]


@pytest.mark.parametrize(
    ("name", "word", "opset", "ends"),
    [
        (Fixed(2, 14), "int16", 21, None),
        (Fixed(1, 15), "int16", 21, None),
        (Fixed(16, 0), "int16", 21, None),
        (Fixed(3, 7), "int16", 21, (-4.0, 3.9921875)),
        (Fixed(9, 0), "int16", 21, (-256.0, 255.0)),
        (Fixed(4, 4), "int8", 13, None),
        (Fixed(1, 6), "int8", 13, (-1.0, 0.984375)),
        (Fixed(1, 1), "int8", 13, (-1.0, 0.5)),
    ],
    ids=str,
)
def test_words_and_their_ends(name: Fixed, word: str, opset: int, ends: Range | None) -> None:
    scheme = FixedPoint(format=name, literal=True)
    assert (scheme.word, scheme.weight_word, scheme.opset) == (word, word, opset)
    assert scheme.ends(scheme.unit((0.0, 0.0))[0]) == ends


def test_ends_move_with_the_scale() -> None:
    assert FixedPoint(format=Fixed(3, 7)).ends(np.float32(2**-4)) == (-32.0, 31.9375)


def test_the_largest_numbers_have_finite_ends() -> None:
    largest = float(np.finfo(np.float32).max)
    scheme = FixedPoint(format=Fixed(2, 1))
    scale, _ = scheme.unit((-largest, largest))
    low, high = scheme.ends(scale) or (0.0, 0.0)
    assert (float(scale), low, high) == (2.0**126, -largest, 3 * 2.0**126)
    assert np.rint(np.float32(low) / scale) == -4
    message = refused(lambda: scheme.unit((-1e39, 0.0)))
    assert message == "the values reach from -1e+39 to 0: no float32 does, divide first"


@pytest.mark.parametrize("fmt", [Fixed(1, 0), Fixed(2, 15), Fixed(17, 0)], ids=str)
def test_words_too_short_or_too_long(fmt: Fixed) -> None:
    with pytest.raises(Unsupported) as caught:
        FixedPoint(format=fmt)
    assert str(caught.value) == f"{fmt} is a word of {fmt.bits} bits: layers are computed with 2 to 16"
