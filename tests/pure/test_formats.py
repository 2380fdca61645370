"""Formats: what is in each, how it is called, and which cannot exist."""

import dataclasses
import itertools
import re
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lowprec.formats import (
    BF16,
    FP16,
    FP32,
    NAMED,
    TF32,
    Binary,
    DynamicFixed,
    Fixed,
    Float,
    Format,
    Int,
    Specials,
    has_nan,
    limits,
    parse_format,
)
from tests.others import OTHERS
from tests.refusals import outcome, refused
from tests.scalar_rounding import cut, ladder, names

pytestmark = pytest.mark.filterwarnings("error::RuntimeWarning")

FLOATS = [
    Float(e, m, s)
    for e, m, s in itertools.product(range(2, 12), (1, 2, 3, 7, 10, 23, 52), Specials)
    if e < 11 or s is Specials.IEEE  # float64 holds no others with so many exponents
]
FIXED = [Fixed(whole, bits - whole) for bits in range(1, 65) for whole in range(1, bits + 1)]
INTEGERS = [Int(bits, signed=signed) for bits in range(1, 65) for signed in (True, False)]
DYNAMIC = [
    DynamicFixed(bits, exponent, overflow)
    for bits in (1, 2, 8, 16, 63, 64)
    for exponent in (-256, -17, -1, 0, 5, 256)
    for overflow in (0, 0.0, 5e-324, 1.2345678901234567e-300, 1e-4, 0.5, 1 - 2**-53)
]
ALL: list[Format] = [*FLOATS, *FIXED, *INTEGERS, *DYNAMIC, Binary()]


def test_names_are_read_back() -> None:
    for fmt in ALL:
        assert parse_format(str(fmt)) == fmt, fmt


def test_equal_formats_have_one_name() -> None:
    called: dict[Format, str] = {}
    for fmt in ALL:
        assert called.setdefault(fmt, str(fmt)) == str(fmt)
    assert len(set(called.values())) == len(called), "two formats of one name"


def test_every_small_name_is_its_own() -> None:
    for name in names(8):
        assert str(parse_format(name)) == name


@pytest.mark.parametrize(
    ("fmt", "name"),
    [
        (Fixed(2, 14), "q2.14"),
        (Int(8), "int8"),
        (Int(4, signed=False), "uint4"),
        (Binary(), "binary"),
        (DynamicFixed(10, -3), "dynamic10:-3:0.0001"),
        (Float(4, 3, Specials.NAN), "e4m3fn"),
        (Float(4, 3, Specials.NEGATIVE_ZERO), "e4m3fnuz"),
        (Float(2, 1, Specials.NONE), "e2m1f"),
        (Float(5, 2), "e5m2"),
        (FP32, "fp32"),
        (FP16, "fp16"),
        (BF16, "bf16"),
        (TF32, "tf32"),
        (Float(11, 52), "fp64"),
    ],
)
def test_names(fmt: Format, name: str) -> None:
    assert str(fmt) == name
    assert parse_format(name) == fmt
    assert hash(parse_format(name)) == hash(fmt)


def test_long_names_of_common_floats_are_read_too() -> None:
    for name, fmt in NAMED.items():
        assert parse_format(f"e{fmt.exponent}m{fmt.mantissa}") == fmt
        assert str(fmt) == name


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("fp33", "did you mean 'fp32'?"),
        ("int", "did you mean 'int8'?"),
        ("binaryy", "did you mean 'binary'?"),
        ("q2,14", "did you mean 'q2.14'?"),
        ("", "unknown format ''"),
        ("int8\n", r"unknown format 'int8\n'"),
        (" int8", "unknown format ' int8'"),
        ("int٨", "unknown format"),
        ("int-8", "unknown format 'int-8'"),
        ("E5M2", "unknown format 'E5M2'"),
        ("e4m3b11", "unknown format"),
        ("dynamic8:0:nan", "unknown format"),
        ("dynamic8:0:1..2", "number that cannot be read"),
        ("dynamic8:0:--", "number that cannot be read"),
        ("dynamic8:0:1", "from 0 to less than 1"),
        ("dynamic8:257:0", "-256 to 256"),
        ("int0", "1 to 64"),
        ("int65", "1 to 64"),
        ("uint" + "9" * 50, "up to 9999"),
        ("q0.8", "at least one integer bit"),
        ("e1m2", "2 to 11"),
        ("e5m0", "1 to 52"),
        ("int" + "9" * 10000, "unknown format 'int999"),
    ],
)
def test_unknown_names_are_refused(name: str, part: str) -> None:
    message = refused(lambda: parse_format(name))
    assert part in message
    assert len(message) < 400


LIKELY = r"(q\d{1,3}\.\d{1,3}|u?int\d{1,3}|e\d{1,3}m\d{1,3}(fn|fnuz|f)?|dynamic\d{1,3}:-?\d{1,4}:[-+.e\d]+)"


@settings(max_examples=300)
@given(st.text(max_size=70) | st.from_regex(LIKELY) | st.from_regex(LIKELY, fullmatch=True))
def test_any_text_is_a_format_or_refused(text: str) -> None:
    found = outcome(lambda: parse_format(text))
    assert isinstance(found, str) or parse_format(str(found)) == found


@pytest.mark.parametrize(
    ("make", "found", "allowed"),
    [
        (lambda: Fixed(0, 0), "word of 0 bits", "1 to 64 bits"),
        (lambda: Fixed(-2, 8), "fraction longer than its word", "at least one integer bit"),
        (lambda: Fixed(0, 8), "fraction longer than its word", "at least one integer bit"),
        (lambda: Fixed(8, -2), "Fixed(8, -2)", "0 bits or more"),
        (lambda: Fixed(1, 64), "word of 65 bits", "1 to 64 bits"),
        (lambda: Fixed(65, 0), "word of 65 bits", "1 to 64 bits"),
        (lambda: Fixed(2.0, 3), "integer is 2.0", "give an integer"),  # type: ignore[arg-type]
        (lambda: Fixed(2, "3"), "fraction is '3'", "give an integer"),  # type: ignore[arg-type]
        (lambda: Fixed(True, 3), "integer is True", "give an integer"),
        (lambda: Fixed(2, False), "fraction is False", "give an integer"),
        (lambda: Fixed(np.zeros((2, 2)), 3), "integer is", "give an integer"),  # type: ignore[arg-type]
        (lambda: Int(0), "word of 0 bits", "1 to 64"),
        (lambda: Int(-1), "word of -1 bits", "1 to 64"),
        (lambda: Int(65), "word of 65 bits", "1 to 64"),
        (lambda: Int(True), "bits is True", "give an integer"),
        (lambda: Int(8.0), "bits is 8.0", "give an integer"),  # type: ignore[arg-type]
        (lambda: Int(None), "bits is None", "give an integer"),  # type: ignore[arg-type]
        (lambda: Int(8, signed=1), "signed is 1", "True or False"),  # type: ignore[arg-type]
        (lambda: DynamicFixed(0), "DynamicFixed(0, 0)", "1 to 64 bits"),
        (lambda: DynamicFixed(65), "DynamicFixed(65, 0)", "1 to 64 bits"),
        (lambda: DynamicFixed(8, 257), "DynamicFixed(8, 257)", "-256 to 256"),
        (lambda: DynamicFixed(8, -257), "DynamicFixed(8, -257)", "-256 to 256"),
        (lambda: DynamicFixed(8, 0.5), "exponent is 0.5", "give an integer"),  # type: ignore[arg-type]
        (lambda: DynamicFixed(True), "bits is True", "give an integer"),
        (lambda: DynamicFixed(8, 0, 1.0), "max_overflow is 1.0", "0 to less than 1"),
        (lambda: DynamicFixed(8, 0, -0.1), "max_overflow is -0.1", "0 to less than 1"),
        (lambda: DynamicFixed(8, 0, float("nan")), "max_overflow is nan", "0 to less than 1"),
        (lambda: DynamicFixed(8, 0, "0"), "max_overflow is '0'", "0 to less than 1"),  # type: ignore[arg-type]
        (lambda: Float(1, 2), "1 exponent bits", "2 to 11"),
        (lambda: Float(12, 2), "12 exponent bits", "2 to 11"),
        (lambda: Float(-5, 2), "-5 exponent bits", "2 to 11"),
        (lambda: Float(5, 0), "0 mantissa bits", "1 to 52"),
        (lambda: Float(5, 53), "53 mantissa bits", "1 to 52"),
        (lambda: Float(5, True), "mantissa is True", "give an integer"),
        (lambda: Float(5.0, 2), "exponent is 5.0", "give an integer"),  # type: ignore[arg-type]
        (lambda: Float(5, 2, "fn"), "specials is 'fn'", "lowprec.formats.Specials"),  # type: ignore[arg-type]
    ],
)
def test_formats_that_cannot_exist(make: Callable[[], object], found: str, allowed: str) -> None:
    message = refused(make)
    assert found in message
    assert allowed in message


@pytest.mark.parametrize("overflow", [False, np.float64(0.1), np.float64(0.0)])
def test_what_may_overflow_is_read_back_or_refused(overflow: Any) -> None:
    found = outcome(lambda: DynamicFixed(8, 0, overflow))
    if isinstance(found, str):
        assert "max_overflow" in found
    else:
        assert parse_format(str(found)) == found


@pytest.mark.parametrize("fmt", [Fixed(2, 3), Int(4), DynamicFixed(8), Float(4, 3), Binary()], ids=str)
def test_formats_are_frozen_values(fmt: Format) -> None:
    assert fmt == dataclasses.replace(fmt)
    assert {fmt: 1}[dataclasses.replace(fmt)] == 1
    with pytest.raises((dataclasses.FrozenInstanceError, TypeError)):
        fmt.bits = 3  # type: ignore[misc]


def test_bits() -> None:
    assert [fmt.bits for fmt in (Fixed(2, 14), Int(4), DynamicFixed(10), Float(4, 3), FP32, BF16, Binary())] == [
        16, 4, 10, 8, 32, 16, 1
    ]  # fmt: skip


@pytest.mark.parametrize("name", names(8))
def test_limits_of_small_formats(name: str) -> None:
    values = ladder(name).values()
    fmt = parse_format(name)
    assert limits(fmt) == limits(fmt, np.float32) == (float(values[0]), float(values[-1]))


@pytest.mark.parametrize(("dtype", "digits"), [(np.float32, 24), (np.float64, 53)])
def test_limits_of_long_words_are_rounded_inwards(dtype: type[np.floating], digits: int) -> None:
    words: list[Fixed | Int | DynamicFixed] = [*INTEGERS, *FIXED, *DYNAMIC]
    for fmt in words:
        if fmt.bits > 20 and -60 < fmt.exponent < 60:
            exact = [Fraction(code) * Fraction(2) ** fmt.exponent for code in fmt.codes]
            found = limits(fmt, dtype)
            assert found == tuple(cut(value, digits) for value in exact), fmt
            assert exact[0] <= Fraction(found[0]) <= Fraction(found[1]) <= exact[1], fmt


@pytest.mark.parametrize("fmt", [DynamicFixed(8, 256), DynamicFixed(8, 121), DynamicFixed(64, 65)], ids=str)
def test_limits_beyond_float32_are_its_own(fmt: DynamicFixed) -> None:
    top = float(np.finfo(np.float32).max)
    low, high = (Fraction(code) * Fraction(2) ** fmt.exponent for code in fmt.codes)
    assert limits(fmt, np.float32) == (float(max(low, Fraction(-top))), float(min(high, Fraction(top))))


@pytest.mark.parametrize(
    ("fmt", "dtype"),
    [
        (FP32, np.float32),
        (Float(11, 52), np.float64),
        *OTHERS,
    ],
    ids=str,
)
def test_floats_that_others_know(fmt: Float, dtype: Any) -> None:
    info: Any = ml_dtypes.finfo(dtype)  # type: ignore[no-untyped-call]
    assert fmt.highest == float(info.max)
    assert limits(fmt) == (float(info.min), float(info.max))
    assert 2.0**fmt.lowest_exponent == float(info.smallest_normal)
    assert 2.0 ** (fmt.lowest_exponent - fmt.mantissa) == float(info.smallest_subnormal)


@pytest.mark.parametrize("fmt", FLOATS, ids=str)
def test_the_highest_number_is_finite(fmt: Float) -> None:
    """Every value of a format that may exist is a float64."""
    steps = ladder(str(fmt))
    assert steps.high == fmt.highest_code
    assert Fraction(fmt.highest) == steps.value(steps.high)
    smallest = steps.value(1)
    assert Fraction(float(smallest)) == smallest


def test_special_values() -> None:
    table = [(s, Float(4, 3, s)) for s in Specials]
    assert [s for s, fmt in table if fmt.has_infinity] == [Specials.IEEE]
    assert [s for s, fmt in table if not fmt.has_nan] == [Specials.NONE]
    assert [s for s, fmt in table if not fmt.has_negative_zero] == [Specials.NEGATIVE_ZERO]
    assert not any(has_nan(fmt) for fmt in (Fixed(2, 3), Int(8), DynamicFixed(8), Binary(), Float(2, 1, Specials.NONE)))
    assert has_nan(FP32)
    assert has_nan(Float(4, 3, Specials.NEGATIVE_ZERO))


def test_a_dynamic_step_follows_its_data() -> None:
    fmt = DynamicFixed(8, 0, max_overflow=0.25)
    values = np.array([1.0, 2.0, 3.0, 127.0], np.float32)
    inside = np.array([1.0, 2.0, 100.0, 254.0], np.float32)
    assert fmt.moved(inside) == fmt, "a quarter overflows, which is allowed; with half the step more would"
    assert fmt.moved(values).exponent == -1, "one of four overflows with half the step"
    assert fmt.moved(values * 100).exponent == 1, "half of them overflow"
    assert fmt.moved(np.array([-128.0] * 4)).exponent == 0, "the lowest value is inside, and not with half the step"
    assert fmt.moved(np.array([-128.5] * 4)).exponent == 1
    assert (fmt.bits, fmt.max_overflow) == (fmt.moved(values).bits, fmt.moved(values).max_overflow)


def test_a_dynamic_step_stays_within_bounds() -> None:
    assert DynamicFixed(8, 256).moved(np.array([np.inf])).exponent == 256
    assert DynamicFixed(8, -256).moved(np.zeros(3)).exponent == -256


@given(st.lists(st.integers(-(10**9), 10**9), min_size=1, max_size=20), st.integers(2, 16), st.floats(0, 0.9))
def test_a_dynamic_step_comes_to_rest(thousandths: list[int], bits: int, overflow: float) -> None:
    """It rests where too much would overflow with half the step, and not with this one; zeros drive it down."""
    values = np.array(thousandths) / 1000
    fmt = DynamicFixed(bits, 0, overflow)
    for _ in range(300):
        before, fmt = fmt, fmt.moved(values)
    if abs(fmt.exponent) == 256:
        assert np.mean(values != 0) <= overflow
        return
    assert fmt == before, "it swings"
    low, high = limits(fmt)
    assert np.mean((values < low) | (values > high)) <= overflow
    assert np.mean((values < low / 2) | (values > high / 2)) > overflow


def test_messages_say_the_name_as_typed() -> None:
    assert re.search(r"Fixed\(-2, 8\)", refused(lambda: Fixed(-2, 8)))
