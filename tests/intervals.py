"""What an epilogue's steps make of an uncertain number: interval arithmetic in float64, widened by float32's rounding.

An interval holds every value that a correct kernel may have at that point. Whatever a step gives for any of its
arguments' values, rounded as float32 rounds it, is in the step's interval: so bounds follow a whole epilogue, however
steep its steps.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import scipy.special
from numpy.typing import NDArray

Array: TypeAlias = NDArray[np.float64]

ULP = 2.0**-23 * (1 + 2.0**-20)  # of a number not yet rounded itself
TINY = 2.0**-126  # below it vector math may lose bits
ROUNDED = 0.5  # ulps that one addition, product, quotient or square root is off
EXP, ERF, SIGMOID, TANH = 2, 2, 3, 4  # ulps: what `lowprec.schedules.vector_math` promises


@dataclass(frozen=True, slots=True)
class Interval:
    """From `low` to `high`, element by element."""

    low: Array
    high: Array

    def holds(self, values: NDArray[np.float32]) -> NDArray[np.bool_]:
        """Which values are inside; NaN is in no interval."""
        inside: NDArray[np.bool_] = (self.low <= values) & (values <= self.high)
        return inside


def exactly(values: NDArray[np.float32] | float) -> Interval:
    """Numbers that are known, as float32 has them."""
    known = np.asarray(values, np.float32).astype(np.float64)
    return Interval(known, known)


def widened(low: Array, high: Array, ulps: float) -> Interval:
    return Interval(low - ulps * ULP * np.abs(low) - TINY, high + ulps * ULP * np.abs(high) + TINY)


def _increasing(function: Callable[[Any], Any], ulps: float) -> Callable[[Interval], Interval]:
    return lambda x: widened(function(x.low), function(x.high), ulps)


def _extremes(candidates: list[Array]) -> Interval:
    """The hull of a monotone function's values at the corners."""
    return widened(np.minimum.reduce(candidates), np.maximum.reduce(candidates), ROUNDED)


def negative(x: Interval) -> Interval:
    return Interval(-x.high, -x.low)


def absolute(x: Interval) -> Interval:
    high = np.maximum(np.abs(x.low), np.abs(x.high))
    return Interval(np.where(x.low * x.high > 0, np.minimum(np.abs(x.low), np.abs(x.high)), 0.0), high)


def square(x: Interval) -> Interval:
    size = absolute(x)
    return widened(size.low**2, size.high**2, ROUNDED)


def square_root(x: Interval) -> Interval:
    """Of what is known not to be negative."""
    return widened(np.sqrt(np.maximum(x.low, 0)), np.sqrt(x.high), ROUNDED)


def add(x: Interval, y: Interval) -> Interval:
    return widened(x.low + y.low, x.high + y.high, ROUNDED)


def subtract(x: Interval, y: Interval) -> Interval:
    return add(x, negative(y))


def multiply(x: Interval, y: Interval) -> Interval:
    return _extremes([a * b for a in (x.low, x.high) for b in (y.low, y.high)])


def divide(x: Interval, y: Interval) -> Interval:
    assert (y.low * y.high > 0).all(), "a divisor that may be zero has no bound"
    return _extremes([a / b for a in (x.low, x.high) for b in (y.low, y.high)])


def maximum(x: Interval, y: Interval) -> Interval:
    return Interval(np.maximum(x.low, y.low), np.maximum(x.high, y.high))


def minimum(x: Interval, y: Interval) -> Interval:
    return Interval(np.minimum(x.low, y.low), np.minimum(x.high, y.high))


def clip(x: Interval, low: Interval, high: Interval) -> Interval:
    return minimum(maximum(x, low), high)


def leaky_relu(x: Interval, slope: Interval) -> Interval:
    """For slopes of at least 0, where it increases."""
    below = multiply(x, slope)
    return Interval(np.where(x.low > 0, x.low, below.low), np.where(x.high > 0, x.high, below.high))


exp = _increasing(np.exp, EXP)
error_function = _increasing(scipy.special.erf, ERF)
sigmoid = _increasing(scipy.special.expit, SIGMOID)
tanh = _increasing(np.tanh, TANH)


def silu(x: Interval) -> Interval:
    return multiply(x, sigmoid(x))


def gelu(x: Interval) -> Interval:
    """x / 2 (1 + erf(x / sqrt 2)): the sum cancels for negative x, which widens the interval as it should."""
    half = multiply(x, exactly(0.5))
    return multiply(half, add(exactly(1.0), error_function(multiply(x, exactly(0.5**0.5)))))


STEPS: dict[str, Callable[..., Interval]] = {
    "abs": absolute,
    "add": add,
    "clip": clip,
    "divide": divide,
    "erf": error_function,
    "exp": exp,
    "gelu": gelu,
    "leakyrelu": leaky_relu,
    "maximum": maximum,
    "minimum": minimum,
    "multiply": multiply,
    "negative": negative,
    "relu": lambda x: maximum(x, exactly(0.0)),
    "round": lambda x: Interval(np.rint(x.low), np.rint(x.high)),
    "sigmoid": sigmoid,
    "silu": silu,
    "sqrt": square_root,
    "square": square,
    "subtract": subtract,
    "tanh": tanh,
}
