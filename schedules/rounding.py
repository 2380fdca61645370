"""Rounding of float32 vectors as TIR: the bits of `lowprec.rounding`, for the end of any kernel.

    sign, below, rest = parts of x      below + (a step, if the rounding says so)      the sign again, saturation

The magnitude is split into `below`, in the format, and `rest` under a step; both are exact. To nearest and stochastic
rounding differ only in when a step is added. NaN stays NaN, for the caller to see: a kernel cannot refuse it.

What float32 is not enough for is declined: `lowprec.formats.why_not_in_float32`.
"""

from dataclasses import dataclass
from typing import assert_never

import numpy as np
from tvm import tirx
from tvm.ir import Expr, PrimType
from tvm.script.ir_builder import tirx as T

from lowprec.errors import Unsupported
from lowprec.formats import Binary, DynamicFixed, Fixed, Float, Format, Grid, Int, limits, why_not_in_float32
from lowprec.rounding import DRAWN, NOWHERE, Rounding
from lowprec.schedules.vector_math import lanes_of
from lowprec.schedules.views import named, splat
from lowprec.targets import Target

MANTISSA = 23
MAGIC, MAGIC_WORD = 1.5 * 2**MANTISSA, 22
"""Added to integers of such words, it leaves them no room for a fraction."""

SIGN, MAGNITUDE, INFINITY = 0x80000000, 0x7FFFFFFF, 0x7F800000


@dataclass(frozen=True, slots=True, kw_only=True)
class Rounder:
    """Rounds to `format`; `native` instructions where the target has them."""

    format: Format
    rounding: Rounding
    bits_used: int = DRAWN
    target: Target | None = None

    def __post_init__(self) -> None:
        refusal = why_not(self.format, self.rounding)
        if refusal is not None:
            raise Unsupported(refusal)

    def round(self, x: Expr, complements: Expr | None) -> Expr:
        """`x`, float32 of any lanes, in the format; stochastic rounding takes the complement of each draw, a uint32."""
        match self.format:
            case Binary():
                return self._binary(x, complements)
            case Float():
                return self._floating(x, self.format, complements)
            case Fixed() | DynamicFixed() | Int():
                return self._on_grid(x, self.format, complements)
            case _:
                assert_never(self.format)

    def _on_grid(self, x: Expr, fmt: Grid, complements: Expr | None) -> Expr:
        low, high = limits(fmt)
        step = 2.0**fmt.exponent
        if self.rounding is Rounding.NEAREST_EVEN and fmt.bits <= MAGIC_WORD:
            return _unless_nan(x, _to_nearest(_clamped(x, low, high), step))
        if self.rounding is Rounding.STOCHASTIC and self._native("avx512dq", x) and -15 <= fmt.exponent <= 0:
            return _clamped_or_nan(self._drawn_natively(x, fmt.exponent, complements), low, high)
        # Beyond these bounds everything saturates, and inside them an integer has room.
        near = _clamped(x, low - step, high + step)
        whole = _integer(near * _float(1 / step, x))
        below = named(_real(whole) * _float(step, x))
        rest = named(_absolute(near - below))
        grows = self._grows(x, rest, fmt.exponent, _as("uint32", whole) & _uint(1, x), complements)
        further = below + _signed(step, x)
        return _unless_nan(x, _clamped(named(tirx.Select(grows, further, below)), low, high))

    def _drawn_natively(self, x: Expr, exponent: int, complements: Expr | None) -> Expr:
        """Without saturation, in ten instructions of AVX-512; NaN stays NaN, and infinity infinite."""
        left = named(_reduce(x, -exponent))
        below = named(x - left)
        # One factor with the sign of x makes the share positive, and, times a power of two, is the signed step.
        factor = _signed(2.0 ** (self.bits_used - exponent), x)
        share = named(_to_nearest_uint32(left * factor))
        grows = self._drawn(x, complements) < share
        added = named(tirx.Select(grows, factor, _float(0.0, x)))
        # A sum even where nothing is added: it makes 0 of -0, which two's complement does not have.
        return named(below + added * _float(2.0 ** (2 * exponent - self.bits_used), x))

    def _grows(self, x: Expr, rest: Expr, exponent: int, odd: Expr, complements: Expr | None) -> Expr:
        """Whether a step of 2^exponent is added to the magnitude."""
        half, zero = _float(2.0 ** (exponent - 1), x), _float(0.0, x)
        match self.rounding:
            case Rounding.NEAREST_EVEN:
                return tirx.Or(rest > half, tirx.And(rest == half, odd == _uint(1, x)))
            case Rounding.NEAREST_AWAY:
                return rest >= half
            case Rounding.TOWARD_ZERO:
                return rest < zero
            case Rounding.DOWN:
                return tirx.And(rest > zero, _negative(x))
            case Rounding.UP:
                return tirx.And(rest > zero, tirx.Not(_negative(x)))
            case Rounding.STOCHASTIC:
                return self._drawn(x, complements) < self._share(rest, self.bits_used - exponent)
            case _:
                assert_never(self.rounding)

    def _drawn(self, x: Expr, complements: Expr | None) -> Expr:
        """The draw where x is negative, its complement where it is not: below the share, the magnitude grows."""
        assert complements is not None
        signs = _as("uint32", _as("int32", x) >> _int(31, x))
        drawn = complements ^ signs
        if self.bits_used < DRAWN:
            drawn = drawn >> _uint(DRAWN - self.bits_used, x)
        return named(drawn)

    def _share(self, rest: Expr, exponent: int) -> Expr:
        """rest * 2^exponent to the nearest even uint32."""
        scaled = _scaled(rest, exponent)
        if self._native("avx512f", rest):
            return named(_to_nearest_uint32(scaled))
        scaled = named(scaled)
        # Under 2^23 the sum with 2^23 rounds to an integer, and from there on a float32 is one.
        magic = _float(2.0**MANTISSA, rest)
        shifted = named(scaled + magic)
        nearest = tirx.Select(scaled < magic, shifted - magic, scaled)
        return named(tirx.Cast(_kind("uint32", rest), named(nearest)))

    def _binary(self, x: Expr, complements: Expr | None) -> Expr:
        one, zero = _float(1.0, x), _float(0.0, x)
        match self.rounding:
            case Rounding.NEAREST_EVEN | Rounding.NEAREST_AWAY:
                high = x >= zero
            case Rounding.DOWN:
                high = x >= one
            case Rounding.UP:
                high = x > _float(-1.0, x)
            case Rounding.STOCHASTIC:
                crosses = self._crosses_zero(x, complements)
                high = tirx.Select(_negative(x), crosses, tirx.Not(crosses))
            case _:
                raise AssertionError(self.rounding)
        return _unless_nan(x, tirx.Select(high, one, _float(-1.0, x)))

    def _crosses_zero(self, x: Expr, complements: Expr | None) -> Expr:
        """Whether a draw takes x to the other sign: one of the upper half, and as far up as x is from zero."""
        drawn = self._drawn(x, complements)
        half = 1 << (self.bits_used - 1)
        near = named(_lesser(_absolute(x), _float(1.0, x)))
        if self.bits_used == 1:  # half of 2^k is odd, so that ties would go the other way
            share = tirx.Select(near >= _float(0.5, x), _uint(1, x), _uint(0, x))
        else:
            share = self._share(near, self.bits_used - 1)
        upper = (drawn & _uint(half, x)) != _uint(0, x)
        return tirx.And(upper, (drawn & _uint(half - 1, x)) >= share)

    def _floating(self, x: Expr, fmt: Float, complements: Expr | None) -> Expr:
        magnitude = named(_absolute(x))
        pattern = named(_as("uint32", magnitude))
        dropped = MANTISSA - fmt.mantissa
        # Numbers with float32's spacing: the pattern's highest bits, and the others as a share of a step.
        kept = named(pattern >> _uint(dropped, x))
        tail = named(_real(_as("int32", pattern & _uint((1 << dropped) - 1, x))) * _float(2.0**-dropped, x))
        grows = named(_as_uint(self._grows(x, tail, 0, kept & _uint(1, x), complements)))
        result = _as("float32", named((kept + grows) << _uint(dropped, x)))
        if fmt.exponent < 8:
            result = self._with_subnormals(x, magnitude, result, fmt, complements)
        result = named(result)
        over = self._overflow(x, magnitude, fmt)
        result = named(tirx.Select(result > _float(fmt.highest, x), over, result))
        signed = _with_sign_of(x, result)
        if not fmt.has_negative_zero:
            signed = tirx.Select(result == _float(0.0, x), result, signed)
        return _unless_nan(x, signed)

    def _with_subnormals(self, x: Expr, magnitude: Expr, normal: Expr, fmt: Float, complements: Expr | None) -> Expr:
        """Below the smallest normal number the format's steps are all alike: a grid."""
        least = 2.0**fmt.lowest_exponent
        exponent = fmt.lowest_exponent - fmt.mantissa
        near = named(_lesser(magnitude, _float(least, x)))
        steps = named(near * _float(2.0**-exponent, x))
        whole = named(_integer(steps))
        rest = named(steps - _real(whole))
        grows = named(_as_uint(self._grows(x, rest, 0, _as("uint32", whole) & _uint(1, x), complements)))
        subnormal = named(_real(whole + _as("int32", grows)) * _float(2.0**exponent, x))
        return tirx.Select(magnitude < _float(least, x), subnormal, named(normal))

    def _overflow(self, x: Expr, magnitude: Expr, fmt: Float) -> Expr:
        """What stands for magnitudes beyond the largest number: IEEE 754, 7.4."""
        highest, infinity = _float(fmt.highest, x), _float(float("inf"), x)
        if not fmt.has_infinity:
            return highest
        match self.rounding:
            case Rounding.TOWARD_ZERO:
                finite = highest
            case Rounding.DOWN:
                finite = tirx.Select(_negative(x), infinity, highest)
            case Rounding.UP:
                finite = tirx.Select(_negative(x), highest, infinity)
            case Rounding.NEAREST_EVEN | Rounding.NEAREST_AWAY | Rounding.STOCHASTIC:
                return infinity
            case _:
                assert_never(self.rounding)
        return tirx.Select(magnitude == infinity, infinity, finite)

    def _native(self, feature: str, x: Expr) -> bool:
        """Whether whole vectors of x may use instructions of `feature`."""
        return self.target is not None and self.target.has(feature) and lanes_of(x) == self.target.lanes


def why_not(fmt: Format, rounding: Rounding) -> str | None:
    """Why no kernel rounds so, or None."""
    if isinstance(fmt, Binary) and rounding is Rounding.TOWARD_ZERO:
        return NOWHERE
    return why_not_in_float32(fmt)


def _kind(kind: str, x: Expr) -> PrimType:
    lanes = lanes_of(x)
    return PrimType(kind if lanes == 1 else f"{kind}x{lanes}")


def _float(value: float, x: Expr) -> Expr:
    return splat(tirx.const(value, "float32"), lanes_of(x))


def _uint(value: int, x: Expr) -> Expr:
    return splat(tirx.const(value, "uint32"), lanes_of(x))


def _int(value: int, x: Expr) -> Expr:
    return splat(tirx.const(value, "int32"), lanes_of(x))


def _as(kind: str, x: Expr) -> Expr:
    """The same bits."""
    return tirx.reinterpret(_kind(kind, x), x)


def _as_uint(condition: Expr) -> Expr:
    return tirx.Cast(_kind("uint32", condition), condition)


def _real(number: Expr) -> Expr:
    return tirx.Cast(_kind("float32", number), number)


def _integer(x: Expr) -> Expr:
    """x, below 2^31 and no NaN, without its fraction, as int32."""
    return named(tirx.Cast(_kind("int32", x), x))


def _absolute(x: Expr) -> Expr:
    return _as("float32", _as("uint32", x) & _uint(MAGNITUDE, x))


def _negative(x: Expr) -> Expr:
    return _as("int32", x) < _int(0, x)


def _with_sign_of(x: Expr, magnitude: Expr) -> Expr:
    return named(_as("float32", _as("uint32", magnitude) | (_as("uint32", x) & _uint(SIGN, x))))


def _signed(magnitude: float, x: Expr) -> Expr:
    """A constant with the sign of x. Its pattern is written as an integer: CUDA cannot reinterpret a literal."""
    pattern = int(np.float32(magnitude).view(np.uint32))
    return named(_as("float32", named(_uint(pattern, x) | (_as("uint32", x) & _uint(SIGN, x)))))


def _lesser(x: Expr, bound: Expr) -> Expr:
    """The lesser of both; `bound` for NaN, which no integer can stand for."""
    return tirx.Select(x < bound, x, bound)


def _unless_nan(x: Expr, result: Expr) -> Expr:
    is_nan = _as("uint32", _absolute(x)) > _uint(INFINITY, x)
    return named(tirx.Select(is_nan, x, result))


def _to_nearest(x: Expr, step: float) -> Expr:
    """The nearest multiple of `step`, ties to even, of up to 2^22 steps: the sum has float32's spacing there."""
    shifted = named(x * _float(1 / step, x) + _float(MAGIC, x))
    return named((shifted - _float(MAGIC, x)) * _float(step, x))


def _clamped(x: Expr, low: float, high: float) -> Expr:
    """x between the bounds; `high` for NaN."""
    under = named(_lesser(x, _float(high, x)))
    return named(tirx.Select(under > _float(low, x), under, _float(low, x)))


def _clamped_or_nan(x: Expr, low: float, high: float) -> Expr:
    """x between the bounds; NaN for NaN."""
    under = named(tirx.Select(x > _float(high, x), _float(high, x), x))
    return named(tirx.Select(under < _float(low, x), _float(low, x), under))


def _scaled(x: Expr, exponent: int) -> Expr:
    """x * 2^exponent, in two steps where float32 has no such factor."""
    first = max(-120, min(120, exponent))
    result = x * _float(2.0**first, x)
    return result if first == exponent else result * _float(2.0 ** (exponent - first), x)


_TOWARD_ZERO_QUIETLY = 3 | 8
_CURRENT_DIRECTION = 4


def _reduce(x: Expr, fraction: int) -> Expr:
    """AVX512DQ: what is left of x >= 0 after `fraction` bits behind the point; 0 for infinity."""
    lanes = lanes_of(x)
    selector = tirx.const(fraction << 4 | _TOWARD_ZERO_QUIETLY, "int32")
    name = f"llvm.x86.avx512.mask.reduce.ps.{32 * lanes}"
    every = tirx.const((1 << lanes) - 1, f"uint{lanes}")
    return T.call_llvm_pure_intrin(
        f"float32x{lanes}", name, x, selector, x, every, tirx.const(_CURRENT_DIRECTION, "int32")
    )


def _to_nearest_uint32(x: Expr) -> Expr:
    """AVX512F: x >= 0 to the nearest even integer."""
    lanes = lanes_of(x)
    every = tirx.const((1 << lanes) - 1, f"uint{lanes}")
    name = f"llvm.x86.avx512.mask.cvtps2udq.{32 * lanes}"
    zeros = splat(tirx.const(0, "uint32"), lanes)
    return T.call_llvm_pure_intrin(f"uint32x{lanes}", name, x, zeros, every, tirx.const(_CURRENT_DIRECTION, "int32"))
