"""Number formats as values: what is in each, and nothing about how a number gets there (`lowprec.rounding`).

A `Fixed`, `DynamicFixed` or `Int` holds the integers of a range times one step. A `Float` holds sign, exponent and
mantissa. A `Binary` holds -1 and +1. A format is hashable, its `str` is its name, and `parse_format` reads the name
back, so that a recipe, a manifest or a packed tensor can hold it. Equations are numbered in docs/numerics.md.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum
from fractions import Fraction
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lowprec.errors import UsageError, is_integer, shown
from lowprec.vocabulary import suggestion

WORD = 64
"""The longest word a format may have, in bits."""

EXACT_WORD = 24
"""Bits of the longest integers that float32 holds exactly."""

LONGEST = 9999

FURTHEST = 256
"""The largest power of two, up or down, that a dynamic format's step may be: far outside what a float32 needs."""


class Specials(Enum):
    """Which codes of a `Float` are no numbers; the value is the suffix of the format's name."""

    IEEE = ""
    """The highest exponent holds the infinities and NaN: fp16, bf16, e5m2."""
    NAN = "fn"
    """No infinity; all ones is NaN: the e4m3 of the Open Compute Project."""
    NEGATIVE_ZERO = "fnuz"
    """No infinity and no -0, whose code is NaN; the bias is larger by one."""
    NONE = "f"
    """Every code is a number: the six- and four-bit formats e2m3, e3m2 and e2m1."""


def _require(condition: bool, found: str, allowed: str) -> None:
    if not condition:
        raise UsageError(f"{found}: {allowed}")


def _set_integers(fmt: object, *names: str) -> None:
    """NumPy's integers become Python's; what is none, or longer than any word could need, is refused."""
    for name in names:
        value = getattr(fmt, name)
        _require(
            is_integer(value) and abs(int(value)) <= LONGEST,
            f"{name} is {shown(value)}",
            f"give an integer up to {LONGEST}",
        )
        object.__setattr__(fmt, name, int(value))


def _signed_codes(bits: int) -> tuple[int, int]:
    return -(1 << (bits - 1)), (1 << (bits - 1)) - 1


SHORTEST_WORD, LONGEST_WORD = 2, 16
"""Bits of the fixed-point words that layers are computed with."""


@dataclass(frozen=True, slots=True)
class Fixed:
    """Two's complement with `integer` bits before the point, the sign among them, and `fraction` bits behind it.

    Gupta's <IL, FL>. Holds k * 2^-fraction for -2^(bits-1) <= k < 2^(bits-1); what lies outside saturates.
    """

    integer: int
    fraction: int

    def __post_init__(self) -> None:
        _set_integers(self, "integer", "fraction")
        found = f"Fixed({self.integer}, {self.fraction}) is a word of {self.integer + self.fraction} bits"
        _require(self.integer + self.fraction >= 1, found, f"give it 1 to {WORD} bits, the sign among them")
        _require(
            self.integer >= 1,
            f"Fixed({self.integer}, {self.fraction}) has a fraction longer than its word without the sign",
            "give it at least one integer bit, the sign",
        )
        _require(self.fraction >= 0, found + " whose fraction is negative", "give a fraction of 0 bits or more")
        _require(self.integer + self.fraction <= WORD, found, f"give it 1 to {WORD} bits, the sign among them")

    @property
    def bits(self) -> int:
        return self.integer + self.fraction

    @property
    def exponent(self) -> int:
        """The step is 2^exponent."""
        return -self.fraction

    @property
    def codes(self) -> tuple[int, int]:
        """The lowest and the highest integer."""
        return _signed_codes(self.bits)

    def __str__(self) -> str:
        return f"q{self.integer}.{self.fraction}"


@dataclass(frozen=True, slots=True)
class DynamicFixed:
    """Two's complement words of `bits` whose common step is 2^exponent, and moves with the data (Courbariaux 2014).

    A format stays a value: `moved` gives the next one. `max_overflow` is the share of values that may saturate.
    """

    bits: int
    exponent: int = 0
    max_overflow: float = 1e-4

    def __post_init__(self) -> None:
        _set_integers(self, "bits", "exponent")
        found = f"DynamicFixed({self.bits}, {self.exponent})"
        _require(1 <= self.bits <= WORD, found, f"give it 1 to {WORD} bits, the sign among them")
        _require(abs(self.exponent) <= FURTHEST, found, f"give an exponent from -{FURTHEST} to {FURTHEST}")
        allowed = "give the share of values that may saturate, from 0 to less than 1"
        known = type(self.max_overflow) in (int, float) and 0 <= self.max_overflow < 1
        _require(known, f"max_overflow is {shown(self.max_overflow)}", allowed)
        object.__setattr__(self, "max_overflow", abs(float(self.max_overflow)))  # equal formats have one name

    @property
    def codes(self) -> tuple[int, int]:
        """The lowest and the highest integer."""
        return _signed_codes(self.bits)

    def moved(self, values: ArrayLike) -> "DynamicFixed":
        """The format for what comes next: twice the step when too many of `values` overflow, half the step when not
        too many would overflow even then, else this one. NaN overflows."""
        try:
            values = np.asarray(values).astype(np.float64)
        except (TypeError, ValueError) as error:
            raise UsageError(f"the values are {shown(values)}: give an array of real numbers") from error
        if self._overflow(values, self.exponent) > self.max_overflow:
            return replace(self, exponent=min(self.exponent + 1, FURTHEST))
        if self._overflow(values, self.exponent - 1) <= self.max_overflow:
            return replace(self, exponent=max(self.exponent - 1, -FURTHEST))
        return self

    def _overflow(self, values: NDArray[np.float64], exponent: int) -> float:
        low, high = (float(Fraction(code) * Fraction(2) ** exponent) for code in self.codes)
        outside = ~((values >= low) & (values <= high))
        return float(np.mean(outside)) if outside.size else 0.0

    def __str__(self) -> str:
        return f"dynamic{self.bits}:{self.exponent}:{self.max_overflow!r}"


@dataclass(frozen=True, slots=True)
class Int:
    """Integers of `bits`; scale and zero point belong to the tensor (`lowprec.quantize`), not to the format."""

    bits: int
    signed: bool = True

    def __post_init__(self) -> None:
        _set_integers(self, "bits")
        _require(1 <= self.bits <= WORD, f"Int({self.bits}) is a word of {self.bits} bits", f"give it 1 to {WORD}")
        _require(isinstance(self.signed, bool), f"signed is {shown(self.signed)}", "give True or False")

    @property
    def exponent(self) -> int:
        """The step is 2^exponent."""
        return 0

    @property
    def codes(self) -> tuple[int, int]:
        """The lowest and the highest integer."""
        return _signed_codes(self.bits) if self.signed else (0, (1 << self.bits) - 1)

    def __str__(self) -> str:
        return f"int{self.bits}" if self.signed else f"uint{self.bits}"


@dataclass(frozen=True, slots=True)
class Float:
    """Sign, `exponent` bits, `mantissa` bits, subnormals: IEEE 754's binary formats and the smaller ones like them.

    Formats with infinities overflow as IEEE 754 says for the rounding at hand; those without saturate.
    """

    exponent: int
    mantissa: int
    specials: Specials = Specials.IEEE

    def __post_init__(self) -> None:
        _set_integers(self, "exponent", "mantissa")
        found = f"Float({self.exponent}, {self.mantissa})"
        _require(2 <= self.exponent <= 11, f"{found} has {self.exponent} exponent bits", "give it 2 to 11")
        _require(1 <= self.mantissa <= 52, f"{found} has {self.mantissa} mantissa bits", "give it 1 to 52")
        known = isinstance(self.specials, Specials)
        _require(known, f"specials is {shown(self.specials)}", "give a lowprec.formats.Specials")
        held = bool(np.isfinite(self.highest)) and self.lowest_exponent - self.mantissa >= -1074
        _require(held, f"{found}, {self.specials}, has numbers that float64 cannot hold", "give fewer exponent bits")

    @property
    def bits(self) -> int:
        return 1 + self.exponent + self.mantissa

    @property
    def bias(self) -> int:
        half: int = 1 << (self.exponent - 1)
        return half if self.specials is Specials.NEGATIVE_ZERO else half - 1

    @property
    def lowest_exponent(self) -> int:
        """The exponent of the smallest normal number, and of the subnormals."""
        return 1 - self.bias

    @property
    def highest_code(self) -> int:
        """The code of the largest finite number."""
        every = (1 << (self.bits - 1)) - 1
        match self.specials:
            case Specials.IEEE:
                return every - (1 << self.mantissa)
            case Specials.NAN:
                return every - 1
            case Specials.NEGATIVE_ZERO | Specials.NONE:
                return every

    @property
    def highest(self) -> float:
        """The largest finite number."""
        field, digits = divmod(self.highest_code, 1 << self.mantissa)
        with np.errstate(over="ignore"):
            return float(np.ldexp(float((1 << self.mantissa) + digits), field - self.bias - self.mantissa))

    @property
    def has_infinity(self) -> bool:
        return self.specials is Specials.IEEE

    @property
    def has_nan(self) -> bool:
        return self.specials is not Specials.NONE

    @property
    def has_negative_zero(self) -> bool:
        return self.specials is not Specials.NEGATIVE_ZERO

    def __str__(self) -> str:
        named = {fmt: name for name, fmt in NAMED.items()}
        return named.get(self, f"e{self.exponent}m{self.mantissa}{self.specials.value}")


@dataclass(frozen=True, slots=True)
class Binary:
    """-1 and +1. To nearest is the sign, and the sign of 0 and of -0 is +1."""

    @property
    def bits(self) -> int:
        return 1

    def __str__(self) -> str:
        return "binary"


Grid: TypeAlias = Fixed | DynamicFixed | Int
"""The formats that hold the integers of a range times one step."""

Format: TypeAlias = Grid | Float | Binary

FP32 = Float(8, 23)
FP16 = Float(5, 10)
BF16 = Float(8, 7)
TF32 = Float(8, 10)

NAMED: dict[str, Float] = {"fp64": Float(11, 52), "fp32": FP32, "fp16": FP16, "bf16": BF16, "tf32": TF32}
"""Formats better known by a name of their own."""


def limits(fmt: Format, dtype: type[np.floating] = np.float64) -> tuple[float, float]:
    """The lowest and the highest finite value, rounded inwards where a `dtype` cannot hold them."""
    match fmt:
        case Fixed() | DynamicFixed() | Int():
            step = Fraction(2) ** fmt.exponent
            return _inwards(fmt.codes[0] * step, dtype), _inwards(fmt.codes[1] * step, dtype)
        case Float():
            return -fmt.highest, fmt.highest
        case Binary():
            return -1.0, 1.0


def within_float32(fmt: Float) -> bool:
    """Whether float32 holds every number of the format."""
    smallest = fmt.lowest_exponent - fmt.mantissa
    return fmt.mantissa <= 23 and smallest >= -149 and fmt.highest <= float(np.finfo(np.float32).max)


def why_not_in_float32(fmt: Format) -> str | None:
    """Why arithmetic in float32 cannot round to the format, or None: what kernels decline."""
    match fmt:
        case Fixed() | DynamicFixed() | Int():
            if fmt.bits > EXACT_WORD:
                return (
                    f"{fmt} has {fmt.bits} bits: kernels round to words of at most {EXACT_WORD}, as float32 holds them"
                )
            if not -100 <= fmt.exponent <= 100:
                return f"{fmt} has a step of 2^{fmt.exponent}: kernels round to steps from 2^-100 to 2^100"
        case Float():
            if fmt.mantissa >= 23 or not (fmt.exponent < 8 or shares_exponents(fmt)):
                return f"{fmt} is not within float32: kernels round to at most 22 mantissa bits and float32's exponents"
        case Binary():
            pass
    return None


def shares_exponents(fmt: Float) -> bool:
    """Whether the format has float32's exponents and specials, so that its numbers are float32's without low digits."""
    return fmt.exponent == 8 and fmt.specials is Specials.IEEE


def has_nan(fmt: Format) -> bool:
    """Whether the format can say NaN."""
    return isinstance(fmt, Float) and fmt.has_nan


def _inwards(value: Fraction, dtype: type[np.floating]) -> float:
    largest = Fraction(float(np.finfo(dtype).max))
    near = dtype(float(max(-largest, min(largest, value))))
    return float(near if abs(Fraction(float(near))) <= abs(value) else np.nextafter(near, dtype(0)))


_PATTERNS: tuple[tuple[str, Callable[[re.Match[str]], Format]], ...] = (
    (r"q(\d+)\.(\d+)", lambda found: Fixed(int(found[1]), int(found[2]))),
    (r"int(\d+)", lambda found: Int(int(found[1]))),
    (r"uint(\d+)", lambda found: Int(int(found[1]), signed=False)),
    (r"e(\d+)m(\d+)(fnuz|fn|f|)", lambda found: Float(int(found[1]), int(found[2]), Specials(found[3]))),
    (r"dynamic(\d+):(-?\d+):([-+.e\d]+)", lambda found: DynamicFixed(int(found[1]), int(found[2]), float(found[3]))),
    (r"binary", lambda found: Binary()),
)


def parse_format(name: str) -> Format:
    """The format that `str` calls so."""
    if not isinstance(name, str):
        raise UsageError(f"a format's name is {shown(name)}: give a string, such as 'q2.14'")
    if name in NAMED:
        return NAMED[name]
    # Digits are ASCII's, and few: a name is read from files too.
    for pattern, make in _PATTERNS:
        found = re.fullmatch(pattern, name, re.ASCII) if len(name) <= WORD else None
        if found is not None:
            return _made(make, found)
    hint = suggestion(name, (*NAMED, "int8", "uint8", "binary", "q2.14")) if len(name) <= WORD else ""
    raise UsageError(
        f"unknown format {name[:WORD]!r}{hint}: allowed are {', '.join(NAMED)}, binary, intN, uintN, qI.F, "
        "eEmM with fn, fnuz or f behind it, and dynamicN:EXPONENT:MAX_OVERFLOW"
    )


def _made(make: Callable[[re.Match[str]], Format], found: re.Match[str]) -> Format:
    try:
        return make(found)
    except ValueError:
        raise UsageError(f"format {found[0]!r} has a number that cannot be read: write it in digits") from None
