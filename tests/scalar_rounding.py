"""The scalar twin of `lowprec.rounding`: exact fractions, one value at a time, and no code shared with it.

A format is known by its name alone. Its values are numbered in order, so that neighbours are found by bisection; an
IEEE format has one step more at either end, which stands for what overflows. Rules are named as `Rounding` values.
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

ALIASES = {"fp64": "e11m52", "fp32": "e8m23", "fp16": "e5m10", "bf16": "e8m7", "tf32": "e8m10"}
RULES = ("nearest-even", "nearest-away", "toward-zero", "down", "up", "stochastic")
EXPONENTS = (-9, -1, 0, 3, 20)


@dataclass(frozen=True, slots=True)
class Ladder:
    """Values by number, in order; even numbers are the even values. `low` and `high` are those of the finite ends."""

    value: Callable[[int], Fraction]
    low: int
    high: int
    infinite: bool = False
    negative_zero: bool = False

    @property
    def ends(self) -> tuple[int, int]:
        """With the step that overflows, where infinity is."""
        return (self.low - 1, self.high + 1) if self.infinite else (self.low, self.high)

    def values(self) -> list[Fraction]:
        """All finite values of a small format."""
        return [self.value(i) for i in range(self.low, self.high + 1)]


def names(longest: int) -> list[str]:
    """Every format of up to `longest` bits, the dynamic ones with some exponents."""
    widths = range(1, longest + 1)
    fixed = [f"q{whole}.{bits - whole}" for bits in widths for whole in range(1, bits + 1)]
    integers = [f"{sign}int{bits}" for bits in widths for sign in ("", "u")]
    dynamic = [f"dynamic{bits}:{exponent}:0.0001" for bits in widths for exponent in EXPONENTS]
    pairs = [(bits - 1 - m, m) for bits in widths for m in range(1, bits - 2)]
    floats = [f"e{e}m{m}{suffix}" for e, m in pairs for suffix in ("", "fn", "fnuz", "f")]
    return [*fixed, *integers, *dynamic, *floats, "binary"]


def ladder(name: str) -> Ladder:
    """The values of a format."""
    name = ALIASES.get(name, name)
    if name == "binary":
        return Ladder(lambda i: Fraction(2 * i - 3), 1, 2)  # the sign of 0 is +, so that +1 is the even one
    if found := re.fullmatch(r"q(\d+)\.(\d+)", name):
        return _uniform(int(found[1]) + int(found[2]), -int(found[2]))
    if found := re.fullmatch(r"(u?)int(\d+)", name):
        return _uniform(int(found[2]), 0, signed=not found[1])
    if found := re.fullmatch(r"dynamic(\d+):(-?\d+):.*", name):
        return _uniform(int(found[1]), int(found[2]))
    found = re.fullmatch(r"e(\d+)m(\d+)(\w*)", name)
    assert found, name
    return _floating(int(found[1]), int(found[2]), found[3])


def _uniform(bits: int, exponent: int, signed: bool = True) -> Ladder:
    step = Fraction(2) ** exponent
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    return Ladder(lambda i: i * step, low, high)


def _floating(exponent: int, mantissa: int, suffix: str) -> Ladder:
    bias = 2 ** (exponent - 1) - (suffix != "fnuz")

    def value(i: int) -> Fraction:
        field, digits = divmod(abs(i), 1 << mantissa)
        significand = digits + (1 << mantissa if field else 0)
        step: Fraction = Fraction(2) ** (max(field, 1) - bias - mantissa)
        return (-significand if i < 0 else significand) * step

    codes = 2 ** (exponent + mantissa)
    high = {"": codes - 2**mantissa, "fn": codes - 1, "fnuz": codes, "f": codes}[suffix] - 1
    return Ladder(value, -high, high, infinite=suffix == "", negative_zero=suffix != "fnuz")


def below(steps: Ladder, x: Fraction) -> int:
    """The number of the largest value not above `x`, which lies between the ends."""
    first, last = steps.ends
    while first < last:
        middle = -(-(first + last) // 2)
        first, last = (middle, last) if steps.value(middle) <= x else (first, middle - 1)
    return first


def share_up(share: Fraction, bits_used: int) -> int:
    """How many of 2^k draws go up: the share of the step, in 2^-k, to nearest even."""
    return round(share * (1 << bits_used))


def round_scalar(x: float, name: str, rule: str, draw: int = 0, bits_used: int = 1, *, digits: int = 53) -> float:
    """`x` in the format `name`. `draw` has `bits_used` bits; a bound longer than `digits` is cut to them."""
    steps = ladder(name)
    if math.isinf(x) and steps.infinite:
        return x
    first, last = steps.ends
    ends = steps.value(first), steps.value(last)
    exact = ends[x > 0] if math.isinf(x) else min(max(Fraction(x), ends[0]), ends[1])
    number = below(steps, exact)
    if exact != steps.value(number):
        number += _goes_up(exact, steps, number, rule, draw, bits_used)
    if not steps.low <= number <= steps.high:
        toward_zero = {"toward-zero": True, "down": x > 0, "up": x < 0}.get(rule, False)
        if not toward_zero:
            return math.copysign(math.inf, x)
        number = min(max(number, steps.low), steps.high)
    result = cut(steps.value(number), digits)
    return math.copysign(0.0, x if steps.negative_zero else 1.0) if result == 0 else result


def _goes_up(x: Fraction, steps: Ladder, number: int, rule: str, draw: int, bits_used: int) -> bool:
    low, high = steps.value(number), steps.value(number + 1)
    share = (x - low) / (high - low)
    tie = share == Fraction(1, 2)
    match rule:
        case "nearest-even":
            return number % 2 == 1 if tie else share > Fraction(1, 2)
        case "nearest-away":
            return x >= 0 if tie else share > Fraction(1, 2)
        case "toward-zero":
            return x < 0
        case "down":
            return False
        case "up":
            return True
        case "stochastic":
            return share_up(share, bits_used) + draw >= 1 << bits_used
    raise AssertionError(rule)


def cut(value: Fraction, digits: int) -> float:
    """A binary fraction as a float of so many digits, toward zero."""
    surplus = max(0, abs(value.numerator).bit_length() - digits)
    magnitude = abs(value.numerator) >> surplus << surplus
    return math.copysign(float(Fraction(magnitude, value.denominator)), value)
