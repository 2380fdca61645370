"""Stochastic rounding inside any kernel: the bits of `lowprec.rounding`, from a value and its word of random bits.

    below, rest = parts of |x|      below + (a step, if more than the draw of 2^32 shares are in the rest)      the sign

Words are in a tensor: `schedules.noise`. Whole numbers have steps of 1 and no end here: whoever asks for them holds
them between the ends of its words. NaN stays NaN, and infinity infinite.
"""

from collections.abc import Callable

from tvm import tirx
from tvm.ir import Expr, PrimType

from lowprec.schedules.vector_math import Bindings, constant, lanes_of
from lowprec.schedules.views import splat

SHARES = 2.0**32
"""In which the rest of a number below a step is counted."""
MANTISSA = {"float16": 10, "bfloat16": 7}
FLOAT_MANTISSA = 23
INFINITY, SIGN = 0x7F800000, 0x80000000
LEAST_HALF, HALF_STEP = 2.0**-14, 2.0**-24
"""Of float16: its least normal number, and the step of all below that."""
MOST_HALF = 0x47800000
"""The pattern of 2^16, the first number that float16 has not."""


Keep = Callable[[Expr], Expr]
"""Gives a value a name, by which it is read any number of times."""


def draw(x: Expr, word: Expr, keep: Keep | None = None) -> Expr:
    """float32 to a whole number."""
    return _named(_draw, x, word, keep)


def draw_digits(x: Expr, word: Expr, digits: int) -> Expr:
    """An int32, for a number with so many of its binary digits behind the point, to a whole one: up if there is a carry
    from those and as many of the word."""
    drawn = tirx.reinterpret(_typed("int32", x), word >> _uint(32 - digits, x))
    return (x + drawn) >> splat(tirx.const(digits, "int32"), lanes_of(x))


def draw_bfloat16(x: Expr, word: Expr, keep: Keep | None = None) -> Expr:
    """float32 to a bfloat16, as float32."""
    return _named(lambda x, word, keep: _cut(x, word, "bfloat16"), x, word, keep)


def draw_float16(x: Expr, word: Expr, keep: Keep | None = None) -> Expr:
    """float32 to a float16, as float32; what is rounded beyond its greatest number is infinite."""
    return _named(_draw_float16, x, word, keep)


def _named(function: Callable[[Expr, Expr, Keep], Expr], x: Expr, word: Expr, keep: Keep | None) -> Expr:
    """By `keep`, or with names inside of the expression: those LLVM sees through, but TVM not always."""
    if keep is not None:
        return function(keep(x), keep(word), keep)
    names = Bindings()
    return names.close(function(names(x), word, names))


def _draw(x: Expr, word: Expr, keep: Keep) -> Expr:
    magnitude = keep(_from_bits(_bits(x) & _uint(SIGN - 1, x)))
    below = keep(tirx.trunc(magnitude))
    grows = _share(keep(magnitude - below)) > _drawn(x, word)
    return _signed(keep(below + _one_if(grows, x)), x, magnitude)


def _draw_float16(x: Expr, word: Expr, keep: Keep) -> Expr:
    magnitude = keep(_from_bits(_bits(x) & _uint(SIGN - 1, x)))
    least, zero = constant(LEAST_HALF, x), constant(0.0, x)
    cut = keep(_cut(x, word, "float16"))
    size = _bits(cut) & _uint(SIGN - 1, x)
    beyond = tirx.And(size >= _uint(MOST_HALF, x), size < _uint(INFINITY, x))
    held = keep(_from_bits(tirx.Select(beyond, _bits(x) & _uint(SIGN, x) | _uint(INFINITY, x), _bits(cut))))
    # Below the least normal number all steps are alike.
    steps = keep(tirx.Select(magnitude < least, magnitude, zero) * constant(1 / HALF_STEP, x))
    below = keep(tirx.trunc(steps))
    grows = _share(keep(steps - below)) > _drawn(x, word)
    small = keep((below + _one_if(grows, x)) * constant(HALF_STEP, x))
    return tirx.Select(magnitude < least, _signed(small, x, magnitude), held)


def _cut(x: Expr, word: Expr, kind: str) -> Expr:
    """x without the last digits of its pattern, which may count as a share of one of those that are left."""
    dropped = FLOAT_MANTISSA - MANTISSA[kind]
    pattern = _bits(x)
    share = pattern << _uint(32 - dropped, x)
    step = tirx.Select(share > _drawn(x, word), _uint(1 << dropped, x), _uint(0, x))
    finite = (pattern & _uint(SIGN - 1, x)) < _uint(INFINITY, x)
    return tirx.Select(finite, _from_bits((pattern >> _uint(dropped, x) << _uint(dropped, x)) + step), x)


def _share(rest: Expr) -> Expr:
    """Of a step: how many of 2^32, to the nearest even."""
    return tirx.Cast(_typed("uint32", rest), tirx.nearbyint(rest * constant(SHARES, rest)))


def _drawn(x: Expr, word: Expr) -> Expr:
    """The word where x is negative, its complement where it is not: below the share, the magnitude grows."""
    return tirx.Select(_bits(x) >= _uint(SIGN, x), word, ~word)


def _signed(size: Expr, x: Expr, magnitude: Expr) -> Expr:
    """With the sign of x; what is no finite number stays as it is."""
    signed = _from_bits(_bits(size) | _bits(x) & _uint(SIGN, x))
    return tirx.Select(magnitude < constant(float("inf"), x), signed, x)


def _one_if(condition: Expr, x: Expr) -> Expr:
    return tirx.Select(condition, constant(1.0, x), constant(0.0, x))


def _typed(kind: str, x: Expr) -> PrimType:
    lanes = lanes_of(x)
    return PrimType(kind if lanes == 1 else f"{kind}x{lanes}")


def _uint(number: int, x: Expr) -> Expr:
    return splat(tirx.const(number, "uint32"), lanes_of(x))


def _bits(x: Expr) -> Expr:
    return tirx.reinterpret(_typed("uint32", x), x)


def _from_bits(pattern: Expr) -> Expr:
    return tirx.reinterpret(_typed("float32", pattern), pattern)
