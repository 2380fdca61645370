"""Codes: the tables of ml_dtypes and NumPy, and there and back for every format."""

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from lowprec.encoding import code_dtype, code_range, decode, encode, nan_code
from lowprec.formats import (
    FP16,
    FP32,
    Binary,
    DynamicFixed,
    Fixed,
    Float,
    Format,
    Int,
    Specials,
    has_nan,
    parse_format,
)
from tests.others import OTHERS, assert_same
from tests.scalar_rounding import ladder, names

pytestmark = pytest.mark.filterwarnings("error::RuntimeWarning")

SMALL = names(8)
FP64 = Float(11, 52)


def every_code(fmt: Format) -> NDArray[np.integer]:
    low, high = code_range(fmt)
    return np.arange(low, high + 1).astype(code_dtype(fmt))


def nan_sign(fmt: Float) -> int:
    """The sign's place, where a NaN may have one of either sign."""
    return 0 if fmt.specials is Specials.NEGATIVE_ZERO else 1 << (fmt.bits - 1)


@pytest.mark.parametrize(("fmt", "dtype"), OTHERS, ids=[str(fmt) for fmt, _ in OTHERS])
def test_tables_of_ml_dtypes(fmt: Float, dtype: Any) -> None:
    codes = every_code(fmt)
    with np.errstate(invalid="ignore"):  # signalling NaNs are in the table too
        values = codes.view(dtype).astype(np.float64)
    assert_same(decode(codes, fmt), values)
    numbers = ~np.isnan(values)
    np.testing.assert_array_equal(encode(values, fmt)[numbers], codes[numbers])
    if has_nan(fmt):
        written = encode(np.array([np.nan, -np.nan]), fmt)
        assert written.tolist() == [nan_code(fmt)] * 2
        theirs = int(np.array([np.nan]).astype(dtype).view(codes.dtype)[0])
        assert nan_code(fmt) == theirs & ~nan_sign(fmt)
        assert np.isnan(decode(written, fmt)).all()


@pytest.mark.parametrize(
    ("fmt", "dtype", "word"), [(FP32, np.float32, np.uint32), (FP64, np.float64, np.uint64)], ids=str
)
def test_tables_of_numpy(fmt: Float, dtype: Any, word: Any) -> None:
    """A spread of all bit patterns, and those at every border."""
    rng = np.random.default_rng(0)
    digits = fmt.mantissa
    fields = np.arange(1 << fmt.exponent, dtype=np.uint64) << np.uint64(digits)
    borders = [fields, fields + np.uint64(1), fields + np.uint64((1 << digits) - 1)]
    magnitudes = np.concatenate((*borders, rng.integers(0, 1 << (fmt.bits - 1), 20000, np.uint64)))
    codes = np.concatenate((magnitudes, magnitudes | np.uint64(1 << (fmt.bits - 1)))).astype(word)
    values = codes.view(dtype)
    finite = np.isfinite(values)
    assert_same(decode(codes[finite], fmt), values[finite].astype(np.float64))
    np.testing.assert_array_equal(encode(values[finite], fmt), codes[finite])
    infinities = np.array([np.inf, -np.inf], dtype)
    assert encode(infinities, fmt).tolist() == infinities.view(word).tolist()
    assert encode(np.array([np.nan], dtype), fmt).tolist() == np.array([np.nan], dtype).view(word).tolist()


@pytest.mark.parametrize("fmt", [FP32, FP64], ids=str)
def test_infinities_and_nan_are_decoded_in_silence(fmt: Float) -> None:
    found = decode(encode(np.array([np.inf, -np.inf, np.nan]), fmt), fmt)
    assert found[:2].tolist() == [np.inf, -np.inf]
    assert np.isnan(found[2])


@pytest.mark.parametrize("name", SMALL)
def test_values_are_the_scalar_twins(name: str) -> None:
    """In order of their codes, and there and back."""
    fmt, steps = parse_format(name), ladder(name)
    values = np.array([float(value) for value in steps.values()])
    codes = encode(values, fmt)
    assert codes.dtype == code_dtype(fmt)
    np.testing.assert_array_equal(decode(codes, fmt), values)
    assert len(np.unique(codes)) == len(values)
    if isinstance(fmt, Float):
        assert codes[values >= 0].tolist() == list(range(steps.high + 1)), "numbers count up from 0"
        sign = 1 << (fmt.bits - 1)
        assert codes[values < 0].tolist() == [sign + i for i in range(steps.high, 0, -1)]
    else:
        low, high = code_range(fmt)
        assert codes.tolist() == list(range(low, high + 1))


@pytest.mark.parametrize("name", SMALL)
def test_every_code_is_a_value_or_says_nothing(name: str) -> None:
    fmt = parse_format(name)
    codes = every_code(fmt)
    assert len(codes) == 2**fmt.bits
    values = decode(codes, fmt)
    numbers = ~np.isnan(values)
    np.testing.assert_array_equal(encode(values[numbers], fmt), codes[numbers])
    if isinstance(fmt, Float):
        nans = {Specials.IEEE: 2 * (2**fmt.mantissa - 1), Specials.NAN: 2, Specials.NEGATIVE_ZERO: 1, Specials.NONE: 0}
        assert (~numbers).sum() == nans[fmt.specials]
        assert np.isinf(values).sum() == 2 * fmt.has_infinity
        assert (np.signbit(values) & (values == 0)).sum() == fmt.has_negative_zero
    else:
        assert numbers.all()


@pytest.mark.parametrize("name", [name for name in SMALL if name != "binary"])
def test_zeros(name: str) -> None:
    fmt = parse_format(name)
    found = decode(encode(np.array([0.0, -0.0]), fmt), fmt)
    assert found.tolist() == [0, 0]
    kept = isinstance(fmt, Float) and fmt.has_negative_zero
    assert np.signbit(found).tolist() == [False, kept]


@pytest.mark.parametrize(
    ("fmt", "dtype"),
    [
        *((Fixed(2, 14), "i2"), (Fixed(2, 15), "i4"), (Int(8), "i1"), (Int(8, signed=False), "u1"), (Int(9), "i2")),
        *((Int(33, signed=False), "u8"), (Int(64, signed=False), "u8"), (Int(64), "i8"), (Binary(), "u1")),
        *((Float(4, 3), "u1"), (Float(8, 10), "u4"), (FP64, "u8"), (DynamicFixed(12, 3), "i2"), (Int(1), "i1")),
    ],
    ids=str,
)
def test_codes_come_in_the_smallest_integers(fmt: Format, dtype: str) -> None:
    assert code_dtype(fmt) == np.dtype(dtype)
    assert encode(np.ones(2) if fmt != Int(1) else np.zeros(2), fmt).dtype == np.dtype(dtype)
    low, high = code_range(fmt)
    assert np.iinfo(dtype).min <= low < high <= np.iinfo(dtype).max


LONG: list[Fixed | Int | DynamicFixed] = [
    *(Int(bits, signed=signed) for bits in (9, 16, 24, 32, 33, 53, 54, 63, 64) for signed in (True, False)),
    *(Fixed(1, 63), Fixed(16, 16), Fixed(33, 7), DynamicFixed(64, -100), DynamicFixed(20, 200)),
]


@given(st.data(), st.sampled_from(LONG))
def test_long_words_there_and_back(data: st.DataObject, fmt: Fixed | Int | DynamicFixed) -> None:
    """For every code that a float64 holds, which are those of up to 53 digits."""
    low, high = code_range(fmt)
    code = data.draw(st.integers(low, high))
    surplus = max(0, abs(code).bit_length() - 53)
    code = (abs(code) >> surplus << surplus) * (1 if code > 0 else -1)
    value = decode(np.array([code], code_dtype(fmt)), fmt)
    assert Fraction(float(value[0])) == code * Fraction(2) ** fmt.exponent
    assert int(encode(value, fmt)[0]) == code


@pytest.mark.parametrize("fmt", LONG, ids=str)
def test_values_at_and_beyond_the_bounds_become_the_bounds(fmt: Fixed | Int | DynamicFixed) -> None:
    low, high = code_range(fmt)
    step = 2.0**fmt.exponent
    below, above = (low * step, high * step)
    assert [int(code) for code in encode(np.array([below, 4 * below - step, -1e300, -np.inf]), fmt)] == [low] * 4
    assert [int(code) for code in encode(np.array([above, 4 * above, 1e300, np.inf]), fmt)] == [high] * 4


@given(st.integers(2, 10), st.integers(1, 30), st.sampled_from(Specials), st.data())
def test_any_float_there_and_back(e: int, m: int, specials: Specials, data: st.DataObject) -> None:
    fmt = Float(e, m, specials)
    steps = ladder(str(fmt))
    number = data.draw(st.integers(-steps.high, steps.high))
    value = np.array([float(steps.value(number))])
    code = int(encode(value, fmt)[0])
    assert code == (number if number >= 0 else (1 << (fmt.bits - 1)) - number)
    assert_same(decode(np.array([code], code_dtype(fmt)), fmt), value)


@pytest.mark.parametrize("fmt", [FP16, Float(4, 3, Specials.NAN), Fixed(2, 3), Int(8), Binary(), FP64], ids=str)
@pytest.mark.parametrize("shape", [(), (0,), (2, 3)])
def test_shapes(fmt: Format, shape: tuple[int, ...]) -> None:
    codes = encode(np.ones(shape), fmt)
    assert codes.shape == shape
    assert decode(codes, fmt).tolist() == np.ones(shape).tolist()
