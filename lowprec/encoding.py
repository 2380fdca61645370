"""Values and the integers that stand for them: two's complement, sign-exponent-mantissa, one bit for a sign.

`encode` takes values that are in the format already (`lowprec.rounding` brings them there); `decode` is its inverse.
A code is a signed integer for signed words and the bit pattern, unsigned, for everything else. Codes come in the
smallest NumPy integers that hold them.
"""

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from lowprec.formats import Binary, DynamicFixed, Fixed, Float, Format, Int, Specials
from lowprec.rounding import scaled

Codes: TypeAlias = NDArray[np.integer]
Doubles: TypeAlias = NDArray[np.float64]


def code_range(fmt: Format) -> tuple[int, int]:
    """The lowest and the highest code."""
    match fmt:
        case Fixed() | DynamicFixed() | Int():
            return fmt.codes
        case Float() | Binary():
            return 0, (1 << fmt.bits) - 1


def code_dtype(fmt: Format) -> np.dtype[np.integer]:
    """The smallest integers that hold the codes of `fmt`."""
    kind = "int" if code_range(fmt)[0] < 0 else "uint"
    width = next(width for width in (8, 16, 32, 64) if fmt.bits <= width)
    return np.dtype(f"{kind}{width}")


def encode(values: NDArray[np.floating], fmt: Format) -> Codes:
    """The codes of values of `fmt`."""
    match fmt:
        case Fixed() | DynamicFixed() | Int():
            return as_codes(scaled(values, -fmt.exponent), fmt)
        case Float():
            return _encode_float(values.astype(np.float64), fmt).astype(code_dtype(fmt))
        case Binary():
            return (values > 0).astype(np.uint8)


def as_codes(steps: Doubles, fmt: Fixed | DynamicFixed | Int) -> Codes:
    """Integers as floats, brought into the range of `fmt`, as its codes."""
    low, high = fmt.codes
    dtype = code_dtype(fmt)
    inside = np.where((steps > low) & (steps < high), steps, 0.0).astype(dtype)
    return np.where(steps >= high, dtype.type(high), np.where(steps <= low, dtype.type(low), inside))


def decode(codes: Codes, fmt: Format) -> Doubles:
    """The values of codes, in float64."""
    match fmt:
        case Fixed() | DynamicFixed() | Int():
            return np.asarray(np.ldexp(codes.astype(np.float64), fmt.exponent))
        case Float():
            return _decode_float(codes.astype(np.uint64), fmt)
        case Binary():
            return np.where(codes > 0, 1.0, -1.0)


def _encode_float(x: Doubles, fmt: Float) -> NDArray[np.uint64]:
    magnitude = np.where(np.isfinite(x), np.abs(x), 0.0)
    _, exponents = np.frexp(magnitude)
    exponents = np.where(magnitude > 0, np.maximum(exponents - 1, fmt.lowest_exponent), fmt.lowest_exponent)
    significand = scaled(magnitude, fmt.mantissa - exponents).astype(np.uint64)
    # A normal number's hidden one carries into the field, which counts from one; a subnormal number has neither.
    field = (exponents - fmt.lowest_exponent).astype(np.uint64) << np.uint64(fmt.mantissa)
    sign = np.signbit(x).astype(np.uint64) << np.uint64(fmt.bits - 1)
    numbers = (field + significand) | np.where(fmt.has_negative_zero | (magnitude != 0), sign, np.uint64(0))
    infinite = np.uint64(fmt.highest_code + 1) | sign
    codes = np.where(np.isinf(x), infinite, numbers)
    return np.where(np.isnan(x), np.uint64(nan_code(fmt)), codes)


def nan_code(fmt: Float) -> int:
    """The code that NaN is written as; 0 where the format has none."""
    match fmt.specials:
        case Specials.IEEE:
            return fmt.highest_code + 1 + (1 << (fmt.mantissa - 1))
        case Specials.NAN:
            return fmt.highest_code + 1
        case Specials.NEGATIVE_ZERO:
            return 1 << (fmt.bits - 1)
        case Specials.NONE:
            return 0


def _decode_float(codes: NDArray[np.uint64], fmt: Float) -> Doubles:
    magnitude = codes & np.uint64((1 << (fmt.bits - 1)) - 1)
    field = (magnitude >> np.uint64(fmt.mantissa)).astype(np.int64)
    digits = magnitude & np.uint64((1 << fmt.mantissa) - 1)
    hidden = np.where(field > 0, np.uint64(1 << fmt.mantissa), np.uint64(0))
    exponents = np.maximum(field, 1) - fmt.bias - fmt.mantissa
    with np.errstate(over="ignore"):  # the codes of infinity and NaN
        numbers = np.ldexp((hidden + digits).astype(np.float64), exponents)
    beyond = magnitude > np.uint64(fmt.highest_code)
    if fmt.has_infinity:
        numbers = np.where(beyond, np.where(digits == 0, np.inf, np.nan), numbers)
    else:
        numbers = np.where(beyond, np.nan, numbers)
    negative = (codes >> np.uint64(fmt.bits - 1)) > 0
    if fmt.specials is Specials.NEGATIVE_ZERO:
        numbers = np.where(negative & (magnitude == 0), np.nan, numbers)
    return np.where(negative, -numbers, numbers)
