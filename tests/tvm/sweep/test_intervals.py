"""Intervals hold what they should, and little more."""

import numpy as np
import pytest
import scipy.special

from lowprec.schedules.epilogue import ELEMENTWISE
from tests.intervals import STEPS, Interval, exactly

RNG = np.random.default_rng(0)
# What a step is, in float64 and on points alone.
EXACT = {
    "abs": np.abs,
    "add": np.add,
    "clip": lambda x, low, high: np.minimum(np.maximum(x, low), high),
    "divide": np.divide,
    "erf": scipy.special.erf,
    "exp": np.exp,
    "gelu": lambda x: x * scipy.special.ndtr(x),
    "leakyrelu": lambda x, slope: np.where(x > 0, x, x * slope),
    "maximum": np.maximum,
    "minimum": np.minimum,
    "multiply": np.multiply,
    "negative": np.negative,
    "relu": lambda x: np.maximum(x, 0),
    "round": np.rint,
    "sigmoid": scipy.special.expit,
    "silu": lambda x: x * scipy.special.expit(x),
    "sqrt": np.sqrt,
    "square": np.square,
    "subtract": np.subtract,
    "tanh": np.tanh,
}


def arguments(op: str) -> list[np.ndarray[tuple[int], np.dtype[np.float32]]]:
    """Points for a step: its first argument's, and second and third ones that it takes."""
    first = RNG.uniform(-4, 4, 1000)
    second = RNG.uniform(0.5, 1.5, 1000)
    taken = {"clip": (first, -second, second), "leakyrelu": (first, second)}.get(op, (first, second, second))
    unary = op not in ("add", "clip", "divide", "leakyrelu", "maximum", "minimum", "multiply", "subtract")
    chosen = taken[:1] if unary else taken if op == "clip" else taken[:2]
    return [np.abs(each).astype(np.float32) if op == "sqrt" else each.astype(np.float32) for each in chosen]


def test_every_step_of_an_epilogue_has_its_interval() -> None:
    assert STEPS.keys() == ELEMENTWISE.keys() == EXACT.keys()


@pytest.mark.parametrize("op", STEPS)
def test_intervals_hold_every_point_of_their_arguments(op: str) -> None:
    points = arguments(op)
    widths = [RNG.uniform(0, 0.25, (2, 1000)) for _ in points]
    result = STEPS[op](*(Interval(x - low, x + high) for x, (low, high) in zip(points, widths, strict=True)))
    assert result.holds(EXACT[op](*(x.astype(np.float64) for x in points)).astype(np.float32)).all()


@pytest.mark.parametrize("op", STEPS)
def test_intervals_of_points_are_a_few_ulps_wide(op: str) -> None:
    points = arguments(op)
    result = STEPS[op](*map(exactly, points))
    assert (result.high - result.low <= 2.0**-19 * (1 + np.abs(points[0])) * (1 + np.abs(result.high))).all()


def test_no_interval_holds_nan() -> None:
    everything = Interval(np.array([-np.inf]), np.array([np.inf]))
    assert not everything.holds(np.array([np.nan], np.float32)).any()
