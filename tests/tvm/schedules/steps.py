"""An epilogue's steps, read by NumPy."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lowprec.formats import Fixed
from lowprec.rounding import Rounding, round_to
from lowprec.schedules.epilogue import DRAWN_DIGITS, Argument, Constant, Operand, Step, Value, drawn_by

Numbers = NDArray[Any]


def evaluate(steps: tuple[Step, ...], sums: Numbers, operands: tuple[Numbers, ...]) -> Numbers:
    """Each step in float32 or as integers, rounded once."""
    values: list[Numbers] = [sums]

    def read(argument: Argument, like: np.dtype[np.generic]) -> Numbers:
        match argument:
            case Value(index):
                return values[index]
            case Operand(index):
                return operands[index]
            case Constant(number):
                return np.asarray(number, like)

    for step in steps:
        x = read(step.arguments[0], np.dtype(np.float32))
        values.append(_value(step.op, x, *(read(other, x.dtype) for other in step.arguments[1:])))
        assert values[-1].dtype == np.float32 or values[-1].dtype.kind in "iu"
    return values[-1]


def draw(x: Numbers, words: Numbers) -> Numbers:
    """To a whole number, which all floats from 2^23 on are."""
    near = np.abs(x) < 2.0**23
    drawn = round_to(np.where(near, x, 0).astype(np.float32), Fixed(25, 0), Rounding.STOCHASTIC, bits=words)
    return np.where(near, drawn, x).astype(np.float32)


def draw_digits(digits: int, x: Numbers, words: Numbers) -> Numbers:
    """The same of x / 2^digits: the carry of a sum with 32 binary digits behind the point."""
    assert np.array_equal(x, np.rint(x))
    assert np.abs(x).max(initial=0) <= 2.0**30
    return (((x.astype(np.int64) << (32 - digits)) + words) >> 32).astype(np.int32)


_MEANINGS: dict[str, Callable[..., Numbers]] = {
    "nearest": lambda x: np.rint(x).astype(np.int32),
    "round": np.rint,
    "relu": lambda x: np.maximum(x, x.dtype.type(0)),
    "fma": lambda x, y, z: (x.astype(np.float64) * y.astype(np.float64) + z.astype(np.float64)).astype(np.float32),
    "quotient": np.divide,
    "near quotient": np.divide,
    "product": np.multiply,
    "add": np.add,
    "subtract": np.subtract,
    "maximum": np.maximum,
    "minimum": np.minimum,
    "draw": draw,
    **{drawn_by(digits): partial(draw_digits, digits) for digits in DRAWN_DIGITS},
}


def _value(op: str, *arguments: Numbers) -> Numbers:
    return np.asarray(_MEANINGS[op](*arguments)) if op in _MEANINGS else arguments[0].astype(op)


class Writer:
    """Steps one after the other."""

    def __init__(self) -> None:
        self.steps: list[Step] = []

    @property
    def last(self) -> Value:
        """The value of the last one, or the sum."""
        return Value(len(self.steps))

    def then(self, op: str, *others: Argument, of: Argument | None = None) -> Value:
        """One more, of the last value if not `of` another."""
        self.steps.append(step(op, self.last if of is None else of, *others))
        return self.last


def step(op: str, *arguments: Argument) -> Step:
    return Step(op=op, arguments=arguments)
