"""Rounding, which is exact: every draw of stochastic rounding, a scalar twin in fractions, gfloat and ml_dtypes."""

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from gfloat import Domain, FormatInfo, RoundMode, round_float, round_ndarray
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from lowprec.formats import (
    BF16,
    FP16,
    FP32,
    TF32,
    Binary,
    DynamicFixed,
    Fixed,
    Float,
    Format,
    Int,
    Specials,
    limits,
    parse_format,
    within_float32,
)
from lowprec.rounding import DRAWN, Rounding, round_to
from tests.amounts import thinned
from tests.others import OTHERS, assert_same
from tests.refusals import outcome, refused
from tests.scalar_rounding import RULES, Ladder, ladder, names, round_scalar, share_up

pytestmark = pytest.mark.filterwarnings("error::RuntimeWarning")

Doubles = NDArray[np.float64]
Draws = NDArray[np.uint32]

SMALL = names(8)
NEAREST = (Rounding.NEAREST_EVEN, Rounding.NEAREST_AWAY)
CARRIERS = [(np.float32, 24), (np.float64, 53)]
UNIT = 2**200
"""Everything that the tests of stochastic rounding touch is an integer of 2^-200."""


def shares(bits_used: int) -> list[float]:
    """Where in a step to look: ends, ties of the rounding to 2^-k and their neighbours, and places between."""
    tie = 2.0 ** -(bits_used + 1)
    near = 2.0**-30
    low = [0.0, near, tie - near, tie, tie + near, 3 * tie, 0.3125]
    return [*low, 0.5, *(1 - share for share in reversed(low[1:]))]


def stairs(steps: Ladder) -> Doubles:
    """The values of a format, and where it has infinity what overflows, in order."""
    first, last = steps.ends
    return np.array([float(steps.value(i)) for i in range(first, last + 1)])


def between(values: Doubles, bits_used: int, dtype: type[np.floating]) -> NDArray[np.floating]:
    """Places in every step, a row for each: `shares` of it, and the float32 neighbours of its ends."""
    low, high = values[:-1, None], values[1:, None]
    inside = low + (high - low) * np.array(shares(bits_used))
    after = np.nextafter(low.astype(np.float32), np.float32(np.inf)).astype(np.float64)
    before = np.nextafter(high.astype(np.float32), np.float32(-np.inf)).astype(np.float64)
    return np.concatenate((inside, after, before), axis=1).astype(dtype)


def every_draw(bits_used: int) -> Draws:
    """All 2^k draws in order; the bits below are not looked at, and are random."""
    unused = np.random.default_rng(bits_used).integers(0, 1 << (DRAWN - bits_used), 1 << bits_used, np.uint32)
    tops: Draws = np.arange(1 << bits_used, dtype=np.uint32) << np.uint32(DRAWN - bits_used)
    result: Draws = tops | unused
    return result


def in_units(x: float) -> int:
    numerator, denominator = x.as_integer_ratio()
    return numerator * (UNIT // denominator)


def parts_up(distance: int, step: int, bits_used: int) -> int:
    """distance / step * 2^k to nearest even, in integers."""
    whole, rest = divmod(distance << bits_used, step)
    return whole + (2 * rest > step or (2 * rest == step and whole % 2 == 1))


def check_every_draw(name: str, bits_used: int, few: int, dtype: type[np.floating]) -> None:
    """Equation 6 over all draws, for `few` places in each step of the format, other ones for each."""
    steps, fmt = ladder(name), parse_format(name)
    values = stairs(steps)
    places = between(values, bits_used, dtype)
    rows = np.arange(len(places))
    chosen = (5 * rows[:, None] + bits_used + np.arange(few) * (places.shape[1] // few)) % places.shape[1]
    x = places[rows[:, None], chosen].reshape(-1)
    row = np.repeat(rows, few)
    order = np.argsort(x, kind="stable")
    x, row = x[order], row[order]
    ends = values.copy()
    if steps.infinite:
        ends[[0, -1]] = -np.inf, np.inf
    size = 1 << bits_used
    shape = (x.size, size)
    draws = np.broadcast_to(every_draw(bits_used), shape)
    found = round_to(np.broadcast_to(x[:, None], shape), fmt, Rounding.STOCHASTIC, bits=draws, bits_used=bits_used)
    assert found.dtype == dtype
    up = np.count_nonzero(found == ends[row + 1, None].astype(dtype), axis=1)
    down = np.count_nonzero(found == ends[row, None].astype(dtype), axis=1)
    units = [in_units(value) for value in values.tolist()]
    distances = [in_units(float(at)) - units[i] for at, i in zip(x, row, strict=True)]
    widths = [units[i + 1] - units[i] for i in row]
    expected = np.array([parts_up(d, w, bits_used) for d, w in zip(distances, widths, strict=True)])
    at_end = np.array([d == w for d, w in zip(distances, widths, strict=True)])
    np.testing.assert_array_equal(up, expected)
    np.testing.assert_array_equal(down, size - expected)
    assert not (at_end & (up != size)).any(), "a value of the format moved"
    assert (found[:, 1:] >= found[:, :-1]).all(), "not monotone in the draw"
    assert (found[1:] >= found[:-1]).all(), "not monotone in the value"
    for count, distance, width in zip(up.tolist(), distances, widths, strict=True):
        assert 2 * abs(count * width - (distance << bits_used)) <= width, "the bias is more than 2^-(k+1)"


@pytest.mark.parametrize("name", thinned(SMALL))
def test_every_draw_of_stochastic_rounding(name: str) -> None:
    """Every format of up to 8 bits, every k up to 12, every step, every draw; fewer places in a step for larger k."""
    for bits_used in range(1, 13):
        few = 16 if bits_used <= 5 else 4 if bits_used <= 8 else 1
        check_every_draw(name, bits_used, few, np.float32 if bits_used % 2 else np.float64)


@pytest.mark.slow
@pytest.mark.parametrize("bits_used", range(6, 13))
@pytest.mark.parametrize("name", SMALL)
def test_every_draw_at_every_place(name: str, bits_used: int) -> None:
    for dtype in (np.float32, np.float64):
        check_every_draw(name, bits_used, len(shares(bits_used)) + 2, dtype)


@pytest.mark.parametrize("name", SMALL)
def test_values_beyond_the_ends_go_to_them_with_every_draw(name: str) -> None:
    """A grid or a float without infinity saturates; an IEEE format overflows from the next step on."""
    steps, fmt = ladder(name), parse_format(name)
    values = stairs(steps)
    step = values[1] - values[0], values[-1] - values[-2]
    low = [values[0] - step[0] * share for share in (0, 2.0**-30, 0.25, 0.5, 0.75, 1, 7)]
    high = [values[-1] + step[1] * share for share in (0, 2.0**-30, 0.25, 0.5, 0.75, 1, 7)]
    x = np.array([*low, -1e30, -1e308, -np.inf, *high, 1e30, 1e308, np.inf])
    ends = (-np.inf, np.inf) if steps.infinite else (values[0], values[-1])
    expected = np.repeat(ends, x.size // 2)
    for bits_used in range(1, 13):
        shape = (x.size, 1 << bits_used)
        draws = np.broadcast_to(every_draw(bits_used), shape)
        wide = np.broadcast_to(x[:, None], shape)
        found = round_to(wide, fmt, Rounding.STOCHASTIC, bits=draws, bits_used=bits_used)
        np.testing.assert_array_equal(found, np.broadcast_to(expected[:, None], shape))


@given(st.data())
def test_stochastic_rounding_uses_all_32_bits(data: st.DataObject) -> None:
    """The threshold itself, for k that cannot be enumerated: f + r just below 2^k stays, and 2^k goes."""
    bits_used = data.draw(st.integers(13, 32))
    name = data.draw(st.sampled_from(["q2.14", "int8", "e4m3fn", "bf16", "binary", "uint5", "fp16"]))
    steps = ladder(name)
    number = data.draw(st.integers(steps.low, steps.high - 1))
    low, high = steps.value(number), steps.value(number + 1)
    x = float(low + (high - low) * Fraction(data.draw(st.integers(0, 2**40 - 1)), 2**40))
    up = share_up((Fraction(x) - low) / (high - low), bits_used)
    draws = [r for r in (2**bits_used - up - 1, 2**bits_used - up) if 0 <= r < 2**bits_used]
    bits = np.array([r << (DRAWN - bits_used) for r in draws], np.uint32)
    found = round_to([x] * len(draws), parse_format(name), Rounding.STOCHASTIC, bits=bits, bits_used=bits_used)
    assert found.tolist() == [float(high if up + r >= 2**bits_used else low) for r in draws]


def rules_of(name: str) -> list[str]:
    return [rule for rule in RULES if name != "binary" or rule != "toward-zero"]


def check_twin(name: str, x: NDArray[np.floating], digits: int, seed: int = 0) -> None:
    """Every rule, bit by bit."""
    rng = np.random.default_rng(seed)
    fmt = parse_format(name)
    carrier = x.dtype
    if isinstance(fmt, Float) and not within_float32(fmt):
        carrier, digits = np.dtype(np.float64), 53
    for rule in rules_of(name):
        bits_used = int(rng.integers(1, 33))
        bits = rng.integers(0, 1 << 32, x.size, np.uint32)
        tops = [draw >> (DRAWN - bits_used) for draw in bits.tolist()]
        found = round_to(x, fmt, Rounding(rule), bits=bits, bits_used=bits_used)
        assert found.dtype == carrier
        pairs = zip(x.tolist(), tops, strict=True)
        expected = [round_scalar(at, name, rule, top, bits_used, digits=digits) for at, top in pairs]
        assert_same(found, np.array(expected, carrier))


@pytest.mark.parametrize(("dtype", "digits"), CARRIERS)
@pytest.mark.parametrize("name", thinned(names(6)))
def test_the_scalar_twin_in_every_step(name: str, dtype: type[np.floating], digits: int) -> None:
    values = stairs(ladder(name))
    outside = np.array([-1e30, -1e3, -0.0, 1e3, 1e30, -np.inf, np.inf])
    width = values[-1] - values[0]
    edges = np.array([values[0] - width, values[0] - width / 64, values[-1] + width / 64, values[-1] + width])
    places = between(values, 3, np.float64)[:, [0, 1, 3, 6, 7, 8, 13, 14, 15]]
    check_twin(name, np.concatenate((places.reshape(-1), outside, edges)).astype(dtype), digits)


HARD = [5e-324, 1e-310, 2.0**-80, 2.0**-149, 1e-30, 0.0, 0.5, 1.0, 1.5, 2.5, 1e10, 2.0**62, 2.0**63, 2.0**64, 1e38]
LONG = [
    *("q1.63", "q16.16", "q32.32", "q64.0", "int24", "int32", "int53", "int54", "int63", "int64"),
    *("uint24", "uint32", "uint53", "uint54", "uint63", "uint64"),
    *("dynamic64:-100:0.0", "dynamic40:50:0.0", "dynamic54:-53:0.0", "fp16", "bf16", "tf32", "fp32"),
    *("e7m16", "e8m30", "e5m40fn", "e6m23fnuz", "e3m44f", "e7m52fn"),
]


@pytest.mark.parametrize(("dtype", "digits"), CARRIERS)
@pytest.mark.parametrize("name", [*LONG, *names(6)])
def test_the_scalar_twin_at_extremes(name: str, dtype: type[np.floating], digits: int) -> None:
    largest = float(np.finfo(dtype).max)
    x = np.array([*HARD, largest, np.inf], np.float64).astype(dtype)
    bounds = np.clip(limits(parse_format(name), dtype), -largest, largest).astype(dtype)
    with np.errstate(over="ignore"):
        around = [np.nextafter(bounds, dtype(0)), bounds, np.nextafter(bounds, np.copysign(dtype(np.inf), bounds))]
    check_twin(name, np.concatenate((x, -x, *around)), digits)


@pytest.mark.parametrize("name", ["fp64", "e10m52fn", "e11m51", "e9m52fnuz"])
def test_the_scalar_twin_of_what_only_float64_holds(name: str) -> None:
    x = np.array([*HARD, 1e300, 2.0**1000, 2.0**-1022, 2.0**-1022 - 5e-324, 1 + 2.0**-52, np.inf])
    check_twin(name, np.concatenate((x, -x)), 53)


@st.composite
def long_names(draw: st.DrawFn) -> str:
    """Formats that both carriers hold."""
    bits = draw(st.integers(7, 64))
    kind = draw(st.sampled_from(["fixed", "int", "uint", "dynamic", "float"]))
    if kind == "fixed":
        whole = draw(st.integers(1, bits))
        return f"q{whole}.{bits - whole}"
    if kind == "dynamic":
        return f"dynamic{bits}:{draw(st.integers(-80, 60))}:0.0"
    if kind == "float":
        suffix = draw(st.sampled_from(["", "fn", "fnuz", "f"]))
        return f"e{draw(st.integers(2, 7 if suffix else 8))}m{draw(st.integers(1, 52))}{suffix}"
    return f"{kind}{bits}"


@settings(max_examples=300)
@given(st.data(), long_names(), st.sampled_from(CARRIERS))
def test_the_scalar_twin_of_longer_formats(
    data: st.DataObject, name: str, carrier: tuple[type[np.floating], int]
) -> None:
    dtype, digits = carrier
    anything = st.floats(allow_nan=False, width=64 if digits == 53 else 32)
    steps = ladder(name)
    numbers = st.integers(max(steps.low, -(2**60)), min(steps.high, 2**60) - 1)

    def near(number: int, share: float) -> float:
        low, high = steps.value(number), steps.value(number + 1)
        return float(low + (high - low) * Fraction(share))

    inside = st.builds(near, numbers, st.sampled_from(shares(4)))
    x = np.array(data.draw(st.lists(anything | inside, min_size=1, max_size=12)), dtype)
    check_twin(name, x, digits, data.draw(st.integers(0, 1000)))


# gfloat rounds magnitudes, so that a negative value takes the complement of the bits.

MODES = {
    Rounding.NEAREST_EVEN: RoundMode.TiesToEven,
    Rounding.NEAREST_AWAY: RoundMode.TiesToAway,
    Rounding.TOWARD_ZERO: RoundMode.TowardZero,
    Rounding.DOWN: RoundMode.TowardNegative,
    Rounding.UP: RoundMode.TowardPositive,
}


def known_to_gfloat(fmt: Format) -> FormatInfo:
    """The same format in gfloat's words; a word of a grid is a float without exponent there."""
    if isinstance(fmt, Float):
        high_nans = {Specials.IEEE: 2**fmt.mantissa - 1, Specials.NAN: 1}.get(fmt.specials, 0)
        return FormatInfo(
            str(fmt),
            k=fmt.bits,
            precision=fmt.mantissa + 1,
            bias=2 ** (fmt.exponent - 1) - (fmt.specials is not Specials.NEGATIVE_ZERO),
            has_nz=fmt.specials is not Specials.NEGATIVE_ZERO,
            domain=Domain.Extended if fmt.specials is Specials.IEEE else Domain.Finite,
            num_high_nans=high_nans,
            has_subnormals=True,
            is_signed=True,
            is_twos_complement=False,
        )
    assert not isinstance(fmt, Binary)
    signed = not isinstance(fmt, Int) or fmt.signed
    precision = fmt.bits if signed else fmt.bits + 1
    return FormatInfo(
        str(fmt),
        k=fmt.bits,
        precision=precision,
        bias=2 - precision - fmt.exponent,
        has_nz=False,
        domain=Domain.Finite,
        num_high_nans=0,
        has_subnormals=True,
        is_signed=signed,
        is_twos_complement=signed,
    )


def is_known_to_gfloat(name: str) -> bool:
    return name not in {"binary", "int1", "q1.0"} and not name.startswith("dynamic1:")


def check_gfloat(fmt: Format, x: Doubles, bits_used: int) -> None:
    info = known_to_gfloat(fmt)
    saturates = not (isinstance(fmt, Float) and fmt.has_infinity)
    for rounding, mode in MODES.items():
        assert_same(round_to(x, fmt, rounding), round_ndarray(info, x, mode, sat=saturates))
    drawn = np.random.default_rng(bits_used).integers(0, 1 << 32, x.size, np.uint32)
    top = drawn.astype(np.int64) >> (DRAWN - bits_used)
    magnitudes = np.where(x < 0, (1 << bits_used) - 1 - top, top)
    found = round_to(x, fmt, Rounding.STOCHASTIC, bits=drawn, bits_used=bits_used)
    mode = RoundMode.Stochastic
    assert_same(found, round_ndarray(info, x, mode, sat=saturates, srbits=magnitudes, srnumbits=bits_used))


@pytest.mark.parametrize("name", [name for name in SMALL if is_known_to_gfloat(name)])
def test_gfloat_rounds_to_the_same_bits(name: str) -> None:
    fmt = parse_format(name)
    values = stairs(ladder(name))
    # A smaller value than 1e-300 gfloat would scale to zero before it looks at it.
    beyond = np.array([-np.inf, -1e20, 2 * values[0], -1e-300, -0.0, 0.0, 1e-300, 2 * values[-1], 1e20, np.inf])
    for bits_used in range(1, 13):
        x = np.concatenate((between(values, bits_used, np.float64).reshape(-1), beyond))
        if isinstance(fmt, Int) and not fmt.signed:
            x = x[~np.signbit(x)]  # gfloat's unsigned formats know nothing below zero
        check_gfloat(fmt, x, bits_used)


@pytest.mark.parametrize(
    "fmt", [FP16, BF16, TF32, FP32, Float(6, 9), Float(4, 11, Specials.NAN), Fixed(2, 14)], ids=str
)
def test_gfloat_rounds_longer_words_to_the_same_bits(fmt: Format) -> None:
    rng = np.random.default_rng(0)
    spread = rng.standard_normal(20000) * 2.0 ** rng.integers(-45, 45, 20000)
    for bits_used in (1, 3, 8, 11, 20):
        check_gfloat(fmt, np.concatenate((spread, rng.standard_normal(5000))), bits_used)


@pytest.mark.parametrize("name", ["e4m3fn", "e5m2", "e2m1f", "e3m2fnuz", "q2.3", "int5"])
def test_gfloat_one_value_at_a_time(name: str) -> None:
    """Its scalar function, which is not the vectorized one."""
    fmt = parse_format(name)
    info = known_to_gfloat(fmt)
    saturates = not (isinstance(fmt, Float) and fmt.has_infinity)
    x = between(stairs(ladder(name)), 3, np.float64)[:, ::3].reshape(-1)
    for rounding, mode in MODES.items():
        expected = [round_float(info, at, mode, sat=saturates) for at in x.tolist()]
        assert_same(round_to(x, fmt, rounding), np.array(expected))
    for r in range(8):
        found = round_to(x, fmt, Rounding.STOCHASTIC, bits=np.full(x.size, r << 29, np.uint32), bits_used=3)
        flipped = [r if at >= 0 else 7 - r for at in x.tolist()]
        pairs = zip(x.tolist(), flipped, strict=True)
        expected = [round_float(info, at, RoundMode.Stochastic, saturates, draw, 3) for at, draw in pairs]
        assert_same(found, np.array(expected))


@pytest.mark.parametrize(
    ("fmt", "dtype"),
    OTHERS,
    ids=str,
)
def test_casts_of_ml_dtypes_are_to_nearest_even(fmt: Float, dtype: Any) -> None:
    rng = np.random.default_rng(0)
    spread = (rng.standard_normal(20000) * 2.0 ** rng.integers(-30, 20, 20000)).astype(np.float32)
    ties = between(stairs(ladder(str(fmt))), 3, np.float32).reshape(-1) if fmt.bits <= 8 else spread[:0]
    x = np.concatenate((spread, ties, np.array([0.0, -0.0], np.float32)))
    x = x[np.abs(x) <= fmt.highest]
    assert_same(round_to(x, fmt), x.astype(dtype).astype(np.float32))
    assert_same(round_to(x.astype(dtype), fmt), x.astype(dtype).astype(np.float32))


@pytest.mark.parametrize("name", [*SMALL, *LONG])
def test_values_of_a_format_never_move(name: str) -> None:
    fmt, steps = parse_format(name), ladder(name)
    numbers = {*range(max(steps.low, -130), min(steps.high, 130) + 1), steps.low, steps.high, (steps.high + 1) // 2}
    x = np.array([float(steps.value(i)) for i in sorted(numbers) if Fraction(float(steps.value(i))) == steps.value(i)])
    bits = np.random.default_rng(0).integers(0, 1 << 32, x.size, np.uint32)
    for rule in rules_of(name):
        np.testing.assert_array_equal(round_to(x, fmt, Rounding(rule), bits=bits), x)


# What is said in words.


def one(x: float, fmt: Format, rounding: Rounding, draw: int = 0) -> float:
    return float(round_to([x], fmt, rounding, bits=np.array([draw], np.uint32))[0])


@pytest.mark.parametrize(
    ("rounding", "ties"),
    [
        (Rounding.NEAREST_EVEN, [-2, -2, 0, 0, 2, 2]),
        (Rounding.NEAREST_AWAY, [-3, -2, -1, 1, 2, 3]),
        (Rounding.TOWARD_ZERO, [-2, -1, 0, 0, 1, 2]),
        (Rounding.DOWN, [-3, -2, -1, 0, 1, 2]),
        (Rounding.UP, [-2, -1, 0, 1, 2, 3]),
    ],
)
def test_ties(rounding: Rounding, ties: list[int]) -> None:
    x = np.array([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5])
    assert round_to(x, Int(8), rounding).tolist() == ties
    assert round_to(x / 16, Fixed(2, 4), rounding).tolist() == (np.array(ties) / 16).tolist()
    assert round_to(x * 8, DynamicFixed(8, 3), rounding).tolist() == (np.array(ties) * 8).tolist()
    smallest = 2.0**-24  # subnormals of fp16
    assert round_to(x * smallest, FP16, rounding).tolist() == (np.array(ties) * smallest).tolist()


@pytest.mark.parametrize("rounding", Rounding)
def test_zeros(rounding: Rounding) -> None:
    for fmt in (FP32, FP16, Float(4, 3, Specials.NAN), Float(2, 1, Specials.NONE)):
        assert math.copysign(1, one(-0.0, fmt, rounding)) == -1
        assert math.copysign(1, one(0.0, fmt, rounding)) == 1
    for other in (Float(4, 3, Specials.NEGATIVE_ZERO), Fixed(2, 3), Int(8), Int(8, signed=False), DynamicFixed(8, 2)):
        assert one(-0.0, other, rounding) == 0
        assert math.copysign(1, one(-0.0, other, rounding)) == 1


def test_what_rounds_to_zero_keeps_its_sign_in_a_float_alone() -> None:
    for rounding in (*NEAREST, Rounding.TOWARD_ZERO, Rounding.UP):
        assert math.copysign(1, one(-1e-30, FP16, rounding)) == -1
        assert math.copysign(1, one(-1e-30, Float(4, 3, Specials.NEGATIVE_ZERO), rounding)) == 1
        assert math.copysign(1, one(-1e-30, Fixed(2, 3), rounding)) == 1
    assert one(-1e-30, FP16, Rounding.STOCHASTIC, 0) == 0, "nothing is left of the share after rounding to 2^-32"


@pytest.mark.parametrize("x", [5e-324, 1e-310, 2.0**-80, 2.0**-1022])
@pytest.mark.parametrize("name", ["q2.3", "int8", "e4m3fn", "fp16", "dynamic8:9:0.0"])
def test_the_tiniest_values_go_one_step_or_none(name: str, x: float) -> None:
    fmt, step = parse_format(name), float(ladder(name).value(1))
    assert one(x, fmt, Rounding.UP) == step
    assert one(-x, fmt, Rounding.DOWN) == -step
    for rounding in (*NEAREST, Rounding.TOWARD_ZERO, Rounding.DOWN):
        assert one(x, fmt, rounding) == 0
    for rounding in (*NEAREST, Rounding.TOWARD_ZERO, Rounding.UP):
        assert one(-x, fmt, rounding) == 0


def test_binary() -> None:
    x = [-np.inf, -2.0, -1.0, -0.5, -0.0, 0.0, 5e-324, 0.5, 1.0, 2.0, np.inf]
    for rounding in NEAREST:
        assert round_to(x, Binary(), rounding).tolist() == [-1, -1, -1, -1, 1, 1, 1, 1, 1, 1, 1]
    assert round_to(x, Binary(), Rounding.DOWN).tolist() == [-1, -1, -1, -1, -1, -1, -1, -1, 1, 1, 1]
    assert round_to(x, Binary(), Rounding.UP).tolist() == [-1, -1, -1, 1, 1, 1, 1, 1, 1, 1, 1]
    assert "nothing between -1 and 1" in refused(lambda: round_to(x, Binary(), Rounding.TOWARD_ZERO))


@pytest.mark.parametrize("rounding", Rounding)
@pytest.mark.parametrize(
    "fmt",
    [
        *(Fixed(2, 3), Int(8), Int(8, signed=False), DynamicFixed(8, 4)),
        *(Float(4, 3, Specials.NAN), Float(4, 3, Specials.NEGATIVE_ZERO), Float(2, 1, Specials.NONE)),
    ],
    ids=str,
)
def test_formats_without_infinity_saturate(fmt: Format, rounding: Rounding) -> None:
    low, high = limits(fmt)
    for x in (high * 1.01, high + 0.001, 1e300, np.inf):
        assert one(x, fmt, rounding, 2**32 - 1) == high
        assert one(x, fmt, rounding, 0) == high
    for x in (min(low * 1.01, -0.001), 1.5 * low - 0.001, -1e300, -np.inf):
        assert one(x, fmt, Rounding.DOWN) == low
        assert low <= one(x, fmt, rounding, 2**32 - 1) <= low + (high - low) / 64


@pytest.mark.parametrize("fmt", [FP16, BF16, FP32, Float(5, 2), Float(4, 3), Float(2, 1)], ids=str)
def test_ieee_formats_overflow_as_ieee_says(fmt: Float) -> None:
    high = fmt.highest
    step = 2.0 ** (math.frexp(high)[1] - 1 - fmt.mantissa)
    below, tie, beyond = high + step / 4, high + step / 2, high + 3 * step
    for x in (below, tie, beyond):
        assert one(x, fmt, Rounding.TOWARD_ZERO) == high == -one(-x, fmt, Rounding.TOWARD_ZERO)
        assert one(x, fmt, Rounding.DOWN) == high == -one(-x, fmt, Rounding.UP)
        assert one(x, fmt, Rounding.UP) == np.inf == -one(-x, fmt, Rounding.DOWN)
    for rounding in NEAREST:
        assert one(below, fmt, rounding) == high
        assert one(tie, fmt, rounding) == np.inf == -one(-tie, fmt, rounding)
        assert one(beyond, fmt, rounding) == np.inf
    assert one(tie, fmt, Rounding.STOCHASTIC, 2**31 - 1) == high
    assert one(tie, fmt, Rounding.STOCHASTIC, 2**31) == np.inf
    assert one(beyond, fmt, Rounding.STOCHASTIC, 0) == np.inf
    for rounding in Rounding:
        assert one(np.inf, fmt, rounding) == np.inf == -one(-np.inf, fmt, rounding)


def test_nan_stays_where_the_format_has_it() -> None:
    x = np.array([[np.nan, 1.0], [-np.nan, np.inf]])
    for fmt in (FP16, FP32, Float(4, 3, Specials.NAN), Float(4, 3, Specials.NEGATIVE_ZERO), Float(11, 52)):
        for rounding in Rounding:
            found = round_to(x, fmt, rounding, bits=np.zeros((2, 2), np.uint32))
            assert np.isnan(found).tolist() == [[True, False], [True, False]]
            assert found[0, 1] == 1


@pytest.mark.parametrize("fmt", [Fixed(2, 3), Int(8), DynamicFixed(8), Binary(), Float(2, 1, Specials.NONE)], ids=str)
def test_nan_is_refused_where_the_format_has_none(fmt: Format) -> None:
    x = np.array([[0.0, np.nan, 1.0], [np.nan, 0.0, 0.0]])
    message = refused(lambda: round_to(x, fmt))
    assert message == f"2 of 6 values are NaN (the first at (0, 1)): {fmt} has no NaN"
    assert refused(lambda: round_to(math.nan, fmt)) == f"1 of 1 values are NaN (the first): {fmt} has no NaN"


def test_a_signalling_nan_stays_a_nan_in_silence() -> None:
    signalling = np.array([0x7F800001, 0xFF800001], np.uint32).view(np.float32)
    assert np.isnan(round_to(signalling, FP16)).all()
    assert "2 of 2 values are NaN" in refused(lambda: round_to(signalling, Int(8)))


@pytest.mark.parametrize(("dtype", "digits"), CARRIERS)
@pytest.mark.parametrize("bits", [25, 32, 53, 54, 55, 63, 64])
def test_a_bound_that_the_carrier_cannot_hold_is_rounded_inwards(
    bits: int, dtype: type[np.floating], digits: int
) -> None:
    largest = 2.0 ** (bits - 1) - 2.0 ** max(0, bits - 1 - digits)
    for x in (2.0 ** (bits - 1), 1e30, np.inf):
        for rounding in Rounding:
            found = round_to(np.array([x, -x], dtype), Int(bits), rounding, bits=np.full(2, 2**32 - 1, np.uint32))
            assert found.tolist() == [largest, -(2.0 ** (bits - 1))]


def test_q16_16_never_gives_32768_in_float32() -> None:
    x = np.array([2.0**15 - 2.0**-9, 2.0**15, 1e9, np.inf], np.float32)
    for rounding in Rounding:
        found = round_to(x, Fixed(16, 16), rounding, bits=np.full(4, 2**32 - 1, np.uint32))
        assert found.tolist() == [2.0**15 - 2.0**-9] * 4
    assert one(1e9, Fixed(16, 16), Rounding.UP) == 2.0**15 - 2.0**-16


def test_float32_that_a_dynamic_format_exceeds_stays_as_it_is() -> None:
    x = np.array([3e38, -3e38, 1.0], np.float32)
    found = round_to(x, DynamicFixed(32, 100))
    assert np.isfinite(found).all()
    assert_same(found, round_to(x.astype(np.float64), DynamicFixed(32, 100)).astype(np.float32))


@pytest.mark.parametrize(
    "fmt", [Float(8, 7, Specials.NAN), Float(8, 3, Specials.NONE), Float(9, 4), Float(11, 4)], ids=str
)
@pytest.mark.parametrize("rounding", Rounding)
def test_floats_that_float32_cannot_hold(fmt: Float, rounding: Rounding) -> None:
    """What is given back is in the format."""
    x = np.array([np.finfo(np.float32).max, np.finfo(np.float32).min, np.inf, 1e38], np.float32)
    found = round_to(x, fmt, rounding, bits=np.full(4, 2**32 - 1, np.uint32))
    assert fmt.has_infinity or np.isfinite(found).all()
    assert_same(round_to(found.astype(np.float64), fmt), found.astype(np.float64))


@pytest.mark.parametrize("rounding", Rounding)
def test_the_largest_float64_overflows_in_silence(rounding: Rounding) -> None:
    expected = 2.0**1023 * (2 - 2.0**-4) if rounding in (Rounding.TOWARD_ZERO, Rounding.DOWN) else np.inf
    assert one(float(np.finfo(np.float64).max), Float(11, 4), rounding, 2**32 - 1) == expected


# What is given and taken.


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        *((np.float16, "f4"), (np.float32, "f4"), (np.float64, "f8"), (np.bool_, "f4"), (np.int8, "f4")),
        *((np.uint16, "f4"), (np.int32, "f8"), (np.uint32, "f8"), (np.int64, "f8")),
        *((ml_dtypes.bfloat16, "f4"), (ml_dtypes.int4, "f4"), (ml_dtypes.float8_e4m3fn, "f4")),
    ],
)
def test_dtypes(dtype: Any, expected: str) -> None:
    found = round_to(np.array([[1, 0], [0, 1]]).astype(dtype), Fixed(2, 3))
    assert found.dtype == np.dtype(expected)
    assert found.tolist() == [[1, 0], [0, 1]]


@pytest.mark.parametrize("x", [2**53 + 1, -(2**62) - 1])
def test_integers_that_float64_cannot_hold_are_never_changed_in_silence(x: int) -> None:
    found = outcome(lambda: round_to(np.array([x]), Int(64)))
    assert isinstance(found, str) or int(found[0]) == x


def test_long_doubles_are_never_rounded_twice() -> None:
    x = np.array([0.5], np.longdouble) + np.longdouble(2) ** -60
    found = outcome(lambda: round_to(x, Int(8)))
    assert "longdouble" in found or "float128" in found if isinstance(found, str) else found.tolist() == [1]


@pytest.mark.parametrize(
    "x",
    [[1j], ["1"], [None], np.array(["2020-01-01"], "M8[D]"), np.array([1.0]).astype(ml_dtypes.complex32)],
    ids=["complex", "text", "object", "date", "complex32"],
)
def test_what_is_no_real_number_is_refused(x: Any) -> None:
    assert "give real numbers" in refused(lambda: round_to(x, Int(8)))


@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 0, 3), (2, 3, 2)])
@pytest.mark.parametrize("fmt", [Fixed(2, 3), Float(4, 3, Specials.NAN), Binary(), Int(8)], ids=str)
def test_shapes(shape: tuple[int, ...], fmt: Format) -> None:
    x = np.random.default_rng(0).standard_normal(shape)
    bits = np.random.default_rng(1).integers(0, 1 << 32, shape, np.uint32)
    found = round_to(x, fmt, Rounding.STOCHASTIC, bits=bits)
    assert np.shape(found) == shape
    flat = round_to(np.ravel(x), fmt, Rounding.STOCHASTIC, bits=np.ravel(bits))
    np.testing.assert_array_equal(np.ravel(found), flat)
    np.testing.assert_array_equal(found, round_to(x, fmt, Rounding.STOCHASTIC, bits=np.ravel(bits)))


def test_the_given_stays_as_it_was() -> None:
    x, bits = np.array([0.3, -0.0, 5.0]), np.zeros(3, np.uint32)
    kept = x.copy()
    found = round_to(x, Fixed(2, 3), Rounding.STOCHASTIC, bits=bits)
    found[:] = 7
    assert_same(x, kept)
    assert not bits.any()
    same = round_to(x, FP32)
    same[:] = 7
    assert_same(x, kept)


def test_the_layout_in_memory_does_not_count() -> None:
    x = np.random.default_rng(0).standard_normal((4, 6))
    bits = np.random.default_rng(1).integers(0, 1 << 32, (4, 6), np.uint32)
    plain = round_to(x, Fixed(2, 3), Rounding.STOCHASTIC, bits=bits)
    np.testing.assert_array_equal(round_to(x.T, Fixed(2, 3), Rounding.STOCHASTIC, bits=bits.T), plain.T)
    swapped = x.astype(x.dtype.newbyteorder())
    np.testing.assert_array_equal(round_to(swapped, Fixed(2, 3), Rounding.STOCHASTIC, bits=bits), plain)


def test_only_stochastic_rounding_looks_at_bits() -> None:
    assert round_to([0.5], Int(8), Rounding.UP, bits="anything", bits_used=99).tolist() == [1]


DRAW = np.zeros(2, np.uint32)


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ({"bits": None}, "lowprec.random_bits(seed, name, count)"),
        ({"bits": np.zeros(2)}, "bits are of dtype float64: give uint32"),
        ({"bits": [1, 2]}, "bits are of dtype int64: give uint32"),
        ({"bits": np.zeros(3, np.uint32)}, "bits are of shape (3,), the values of (2,)"),
        ({"bits": np.zeros((2, 1), np.uint32)}, "bits are of shape (2, 1), the values of (2,)"),
        ({"bits": np.uint32(0)}, "bits are of shape (), the values of (2,)"),
        ({"bits_used": 0}, "bits_used is 0: give an integer from 1 to 32"),
        ({"bits_used": 33}, "bits_used is 33: give an integer from 1 to 32"),
        ({"bits_used": True}, "bits_used is True"),
        ({"bits_used": 8.0}, "bits_used is 8.0"),
        ({"bits_used": np.zeros((2, 2))}, "bits_used is"),
        ({"rounding": "stochastic"}, "rounding is 'stochastic': give a lowprec.Rounding"),
        ({"rounding": None}, "rounding is None"),
        ({"rounding": np.zeros((2, 2))}, "rounding is"),
        ({"fmt": "int8"}, "the format is 'int8'"),
        ({"fmt": None}, "the format is None"),
        ({"fmt": Int}, "the format is <class"),
        ({"fmt": np.zeros((2, 2))}, "the format is"),
    ],
)
def test_refusals(arguments: dict[str, Any], part: str) -> None:
    base: dict[str, Any] = {"fmt": Int(8), "rounding": Rounding.STOCHASTIC, "bits": DRAW}
    assert part in refused(lambda: round_to(np.zeros(2), **base | arguments))


@pytest.mark.parametrize(
    ("call", "part"),
    [
        (lambda: round_to([[1.0, 2.0], [3.0]], Fixed(2, 3)), "give an array of numbers"),
        (lambda: round_to(np.ma.masked_array([1.0], [True]), Fixed(2, 3)), "masked array"),
        (lambda: round_to([1.0], Fixed(2, 3), Rounding.STOCHASTIC, bits=[[1], [2, 3]]), "give an array"),
        (lambda: Fixed(10**5000, 1), "give an integer up to 9999"),
        (lambda: DynamicFixed(8).moved("ab"), "give an array of real numbers"),
    ],
)
def test_what_no_array_can_be_made_of_is_refused(call: Callable[[], object], part: str) -> None:
    message = outcome(call)
    assert isinstance(message, str)
    assert part in message
    assert len(message) < 300


def test_arrays_of_the_other_byte_order_are_read() -> None:
    x, bits = np.array([0.3, -0.3], np.float32), np.array([1, 2**31], np.uint32)
    found = round_to(x.astype(">f4"), Fixed(2, 2), Rounding.STOCHASTIC, bits=bits.astype(">u4"))
    assert found.dtype == np.float32
    assert_same(found, round_to(x, Fixed(2, 2), Rounding.STOCHASTIC, bits=bits))


def test_parameters_may_be_numpys_integers() -> None:
    assert Fixed(np.int64(2), np.uint8(14)) == Fixed(2, 14)  # type: ignore[arg-type]
    assert str(Float(np.int32(5), np.int8(10))) == "fp16"  # type: ignore[arg-type]


def test_a_dynamic_format_counts_overflow_exactly() -> None:
    """2^31 is beyond 32 bits, though float32 takes their end for it; NaN overflows."""
    assert DynamicFixed(32, 0, 0.0).moved(np.array([2.0**31], np.float32)).exponent == 1
    assert DynamicFixed(8, 0, 0.0).moved([np.nan]).exponent == 1
