"""What a layer must give: every element's interval, from the oracles and what follows in float64."""

import numpy as np
from numpy.typing import NDArray

from lowprec.convolution import Conv, convolve
from lowprec.schedules.epilogue import Argument, Constant, Operand, Value
from tests.intervals import STEPS, Interval, exactly
from tests.oracle import sum_bound
from tests.tvm.sweep.layer import Data, Layer


def expected(layer: Layer, data: Data) -> Interval:
    """The interval of every element of the result, border apart."""
    values = [_accumulators(layer, data)]

    def evaluate(argument: Argument) -> Interval:
        match argument:
            case Value(index):
                return values[index]
            case Operand(index):
                return exactly(data.extras[index])
            case Constant(number):
                return exactly(number)

    for step in layer.steps:
        arguments = map(evaluate, step.arguments)
        values.append(STEPS[step.op](*arguments))
    return values[-1]


def _accumulators(layer: Layer, data: Data) -> Interval:
    """The operator with its bias, off by no more than a float32 sum in any order may be."""
    sums = _operator(layer, data.x, data.w, data.bias)
    magnitudes = _operator(layer, np.abs(data.x), np.abs(data.w), None if data.bias is None else np.abs(data.bias))
    bound = sum_bound(_terms(layer) + 2, magnitudes)
    return Interval(sums - bound, sums + bound)


def _terms(layer: Layer) -> int:
    operator = layer.operator
    return operator.parameters // operator.out_channels if isinstance(operator, Conv) else operator.depth


def _operator(
    layer: Layer, x: NDArray[np.float32], w: NDArray[np.float32], bias: NDArray[np.float32] | None
) -> NDArray[np.float64]:
    operator = layer.operator
    if isinstance(operator, Conv):
        return np.moveaxis(convolve(operator, x, w, bias), 1, -1)
    product = x.astype(np.float64) @ w.astype(np.float64)
    return product if bias is None else product + bias
