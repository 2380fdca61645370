"""Rounding to a format: the NumPy oracle, exact and slow, that everything else must equal bit for bit.

A value is divided by the step of its format, which is exact, and its magnitude is split into a whole part and a rest,
which is exact too; the rounding decides whether the whole part grows by one. Invariants, each of them a test:

- The result is in the format, and is the value's lower or upper neighbour there (or a bound, or an infinity).
- A value in the format never moves. Rounding is monotone in the value, and stochastic rounding in the bits.
- Stochastic rounding goes up for exactly the share of draws that equations 5 and 6 of docs/numerics.md say.
"""

from enum import Enum
from typing import Any, TypeAlias, assert_never

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lowprec.errors import UsageError, is_integer, shown
from lowprec.formats import Binary, DynamicFixed, Fixed, Float, Format, Grid, Int, has_nan, limits, within_float32

DRAWN = 32
"""Bits of a draw."""

BEYOND = 2.0**100
"""More steps than any word counts: what is here saturates, infinity among it."""

Reals: TypeAlias = NDArray[np.floating]
Doubles: TypeAlias = NDArray[np.float64]
Draws: TypeAlias = NDArray[np.uint32]


class Rounding(Enum):
    """How a value between two neighbours finds its place."""

    NEAREST_EVEN = "nearest-even"
    NEAREST_AWAY = "nearest-away"
    TOWARD_ZERO = "toward-zero"
    DOWN = "down"
    UP = "up"
    STOCHASTIC = "stochastic"


def round_to(
    x: ArrayLike,
    fmt: Format,
    rounding: Rounding = Rounding.NEAREST_EVEN,
    *,
    bits: ArrayLike | None = None,
    bits_used: int = DRAWN,
) -> Reals:
    """The values of `x` in `fmt`: float64 for float64, for integers wider than 16 bits and for a `Float` that float32
    cannot hold; else float32.

    Stochastic rounding takes `bits`, a uint32 for each element, and uses the highest `bits_used` of each. Every other
    rounding ignores them. NaN stays NaN where the format has one and is refused where it has none.
    """
    values = as_reals(x)
    require_rounding(fmt, rounding)
    if isinstance(fmt, Float) and not within_float32(fmt):
        values = values.astype(np.float64)
    draws = as_draws(bits, values, rounding, bits_used)
    refuse_nan(values, fmt)
    with np.errstate(invalid="ignore"):  # a signalling NaN is cast
        return rounded(values, fmt, rounding, draws, int(bits_used)).astype(values.dtype)


def rounded(values: Reals, fmt: Format, rounding: Rounding, draws: Draws | None, bits_used: int) -> Doubles:
    """`round_to` without its checks, in float64."""
    match fmt:
        case Binary():
            return _binary(values.astype(np.float64), rounding, draws, bits_used)
        case Float():
            return _floating(values.astype(np.float64), fmt, rounding, draws, bits_used)
        case Fixed() | DynamicFixed() | Int():
            return _on_grid(values, fmt, rounding, draws, bits_used)
        case _:
            assert_never(fmt)


def _on_grid(values: Reals, fmt: Grid, rounding: Rounding, draws: Draws | None, bits_used: int) -> Doubles:
    low, high = limits(fmt, values.dtype.type)
    steps = whole(scaled(values, -fmt.exponent), rounding, draws, bits_used)
    return np.clip(np.ldexp(steps, fmt.exponent), low, high) + 0.0  # two's complement has no -0


def _floating(x: Doubles, fmt: Float, rounding: Rounding, draws: Draws | None, bits_used: int) -> Doubles:
    finite = np.isfinite(x)
    values = np.where(finite, x, 0.0)
    _, exponents = np.frexp(values)
    steps = np.maximum(exponents - 1, fmt.lowest_exponent) - fmt.mantissa
    with np.errstate(over="ignore"):  # to infinity, which is beyond the largest number
        result = np.ldexp(whole(scaled(values, -steps), rounding, draws, bits_used), steps)
    overflown = np.abs(result) > fmt.highest
    result = np.where(overflown, _beyond(result, fmt, rounding), result)
    infinite = np.copysign(np.inf if fmt.has_infinity else fmt.highest, x)
    result = np.where(finite, result, np.where(np.isnan(x), np.nan, infinite))
    return result if fmt.has_negative_zero else np.where(result == 0, 0.0, result)


def _beyond(result: Doubles, fmt: Float, rounding: Rounding) -> Doubles:
    """What a finite value becomes that is beyond the largest number after rounding (IEEE 754, 7.4)."""
    match rounding:
        case Rounding.TOWARD_ZERO:
            stays = np.ones(result.shape, bool)
        case Rounding.DOWN:
            stays = result > 0
        case Rounding.UP:
            stays = result < 0
        case Rounding.NEAREST_EVEN | Rounding.NEAREST_AWAY | Rounding.STOCHASTIC:
            stays = np.zeros(result.shape, bool)
    return np.copysign(np.where(stays | (not fmt.has_infinity), fmt.highest, np.inf), result)


def _binary(x: Doubles, rounding: Rounding, draws: Draws | None, bits_used: int) -> Doubles:
    match rounding:
        case Rounding.NEAREST_EVEN | Rounding.NEAREST_AWAY:
            high = x >= 0
        case Rounding.DOWN:
            high = x >= 1
        case Rounding.UP:
            high = x > -1
        case Rounding.TOWARD_ZERO:
            raise UsageError(NOWHERE)
        case Rounding.STOCHASTIC:
            assert draws is not None
            high = _up(_share_of_two(np.clip(x, -1.0, 1.0), bits_used), draws, bits_used)
    return np.where(high, 1.0, -1.0)


def _share_of_two(x: Doubles, bits_used: int) -> NDArray[np.uint64]:
    """Equation 5 for the step from -1 to 1: (x + 1) / 2 * 2^k to nearest even, without the sum that would round."""
    if bits_used == 1:  # half of 2^k is odd, so that ties would go the other way
        return np.where(x >= 0.5, 2, np.where(x > -0.5, 1, 0)).astype(np.uint64)
    half = 1 << (bits_used - 1)
    return (np.rint(x * half) + half).astype(np.uint64)


def whole(steps: Doubles, rounding: Rounding, draws: Draws | None, bits_used: int) -> Doubles:
    """Integers next to `steps`, which may not be NaN; the sign of zero is kept."""
    magnitude = np.minimum(np.abs(steps), BEYOND)
    below = np.floor(magnitude)
    rest = magnitude - below
    negative = np.signbit(steps)
    match rounding:
        case Rounding.NEAREST_EVEN:
            grows = (rest > 0.5) | ((rest == 0.5) & (np.fmod(below, 2) == 1))
        case Rounding.NEAREST_AWAY:
            grows = rest >= 0.5
        case Rounding.TOWARD_ZERO:
            grows = np.zeros(steps.shape, bool)
        case Rounding.DOWN:
            grows = negative & (rest > 0)
        case Rounding.UP:
            grows = ~negative & (rest > 0)
        case Rounding.STOCHASTIC:
            assert draws is not None
            grows = _grows(rest, negative, draws, bits_used)
        case _:
            assert_never(rounding)
    result: Doubles = np.copysign(below + grows, steps)
    return result


def _grows(rest: Doubles, negative: NDArray[np.bool_], draws: Draws, bits_used: int) -> NDArray[np.bool_]:
    """Whether the magnitude grows: where x is positive it goes up then, where x is negative it goes down."""
    share = np.rint(np.ldexp(rest, bits_used)).astype(np.uint64)
    mirrored = np.where(negative, np.uint64(1 << bits_used) - share, share)
    up = _up(mirrored, draws, bits_used)
    return (rest > 0) & np.where(negative, ~up, up)


def _up(share: NDArray[np.uint64], draws: Draws, bits_used: int) -> NDArray[np.bool_]:
    """Equation 6: up iff f + r >= 2^k, where r is the highest k bits drawn."""
    top = draws.astype(np.uint64) >> np.uint64(DRAWN - bits_used)
    result: NDArray[np.bool_] = share + top >= np.uint64(1 << bits_used)
    return result


def scaled(values: Reals, exponents: NDArray[np.intc] | int) -> Doubles:
    """values * 2^exponents without underflow: what would underflow stays tiny and keeps its sign."""
    fractions, own = np.frexp(values.astype(np.float64))
    result: Doubles = np.ldexp(fractions, np.clip(own + exponents, -1000, 1000))
    return result


def as_reals(x: ArrayLike) -> Reals:
    """`x` as the float32 or float64 array that holds it exactly."""
    values = as_array(x, "values")
    kind = values.dtype
    if kind in (np.float32, np.float64):
        return values
    if kind.kind == "f" and kind.newbyteorder("=") in (np.float32, np.float64):
        return values.astype(kind.newbyteorder("="))
    # ml_dtypes' small floats: NumPy takes some of them for raw bytes.
    small = kind.type.__module__ == "ml_dtypes" and not kind.name.startswith("complex")
    if not small and (kind.kind not in "fiub" or kind.itemsize > 8):
        raise UsageError(f"values are of dtype {kind}: give real numbers of at most 64 bits")
    reals: Reals = values.astype(np.float32 if kind.itemsize <= 2 else np.float64)
    if kind.itemsize == 8 and not _equal(reals, values):
        raise UsageError("values are integers that float64 cannot hold: give integers up to 2^53")
    return reals


def as_array(x: ArrayLike, name: str) -> NDArray[Any]:
    """`x` as an array; what NumPy makes none of is refused."""
    if isinstance(x, np.ma.MaskedArray):
        raise UsageError(f"{name} are a masked array: fill it first, `.filled(...)`")
    try:
        return np.asarray(x)
    except (TypeError, ValueError, RuntimeError) as error:
        reason = str(error).partition("\n")[0]
        raise UsageError(f"{name} are {shown(x)}: give an array of numbers ({shown(reason)})") from error


def _equal(reals: Reals, integers: NDArray[np.integer]) -> bool:
    """Whether the integers came through, which numbers of up to 2^53 do."""
    if (np.abs(reals) < 2.0**53).all():
        return True
    return all(int(a) == int(b) for a, b in zip(reals.flat, integers.flat, strict=True))


def as_draws(bits: ArrayLike | None, values: Reals, rounding: Rounding, bits_used: int) -> Draws | None:
    """The draw of each element, or None where the rounding needs none."""
    if rounding is not Rounding.STOCHASTIC:
        return None
    if not is_integer(bits_used) or not 1 <= bits_used <= DRAWN:
        raise UsageError(f"bits_used is {shown(bits_used)}: give an integer from 1 to {DRAWN}")
    if bits is None:
        raise UsageError(
            "stochastic rounding got no bits: give a uint32 for each element, as lowprec.random_bits(seed, name, count)"
        )
    draws = as_array(bits, "bits")
    if draws.dtype.newbyteorder("=") == np.uint32:
        draws = draws.astype(np.uint32, copy=False)
    if draws.dtype != np.uint32:
        raise UsageError(f"bits are of dtype {draws.dtype}: give uint32")
    if draws.shape != values.shape and (draws.ndim != 1 or draws.size != values.size):
        raise UsageError(f"bits are of shape {draws.shape}, the values of {values.shape}: give one for each element")
    return draws.reshape(values.shape)


def refuse_nan(values: Reals, fmt: Format) -> None:
    """NaN is refused by name where `fmt` cannot hold it."""
    if has_nan(fmt):
        return
    found = np.isnan(values)
    if found.any():
        place = np.unravel_index(int(np.argmax(found)), values.shape)
        where = f" at {tuple(int(i) for i in place)}" if place else ""
        raise UsageError(f"{int(found.sum())} of {values.size} values are NaN (the first{where}): {fmt} has no NaN")


NOWHERE = "binary has nothing between -1 and 1 to round toward: use NEAREST_EVEN, DOWN or UP"


def require_rounding(fmt: object, rounding: object) -> None:
    """Refuse what is no format or no rounding, and the one that a format does not have."""
    require_format(fmt)
    if not isinstance(rounding, Rounding):
        raise UsageError(f"rounding is {shown(rounding)}: give a lowprec.Rounding")
    if isinstance(fmt, Binary) and rounding is Rounding.TOWARD_ZERO:
        raise UsageError(NOWHERE)


def require_format(fmt: object) -> None:
    if not isinstance(fmt, Fixed | DynamicFixed | Int | Float | Binary):
        raise UsageError(f"the format is {shown(fmt)}: give a Float, Fixed, DynamicFixed, Int or Binary of lowprec")
