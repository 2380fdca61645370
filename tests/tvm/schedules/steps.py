"""An epilogue's steps, read by NumPy."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lowprec.schedules.epilogue import Argument, Constant, Operand, Step, Value

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


_MEANINGS: dict[str, Callable[..., Numbers]] = {
    "nearest": lambda x: np.rint(x).astype(np.int32),
    "round": np.rint,
    "relu": lambda x: np.maximum(x, np.float32(0)),
    "fma": lambda x, y, z: (x.astype(np.float64) * y.astype(np.float64) + z.astype(np.float64)).astype(np.float32),
    "quotient": np.divide,
    "near quotient": np.divide,
    "product": np.multiply,
    "add": np.add,
    "subtract": np.subtract,
    "maximum": np.maximum,
    "minimum": np.minimum,
}


def _value(op: str, *arguments: Numbers) -> Numbers:
    return np.asarray(_MEANINGS[op](*arguments)) if op in _MEANINGS else arguments[0].astype(op)


def step(op: str, *arguments: Argument) -> Step:
    return Step(op=op, arguments=arguments)
