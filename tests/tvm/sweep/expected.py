"""What a layer must give: every element's interval, from the oracles and what follows in float64."""

import numpy as np
from numpy.typing import NDArray

from lowprec.choosing import FFT, winograd_outputs
from lowprec.convolution import Conv, convolve
from lowprec.predicting_fourier import segments_of
from lowprec.predicting_winograd import filterings
from lowprec.schedules.epilogue import Argument, Constant, Operand, Value
from tests.intervals import STEPS, Interval, exactly
from tests.oracle import fourier_spread, sum_bound, winograd_spread
from tests.tvm.sweep.layer import Array, Copied, Data, Layer, Product


def expected(layer: Layer, data: Data) -> Interval:
    """The interval of every element of the result, border apart."""
    if isinstance(layer.operator, Copied):
        return exactly(data.x)
    values = [_accumulators(layer, layer.operator, data)]

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


def _accumulators(layer: Layer, operator: Conv | Product, data: Data) -> Interval:
    """The operator with its bias, off by no more than a float32 sum in any order may be, or than is predicted."""
    terms = operator.depth if isinstance(operator, Product) else operator.parameters // operator.out_channels
    bias = np.float32(0) if data.bias is None else data.bias
    sums = _exact(operator, data.x, data.w) + bias
    added = np.abs(bias) + np.abs(_start(layer, data))
    outputs, nothing = winograd_outputs(layer.algorithm), np.zeros(1, np.float32)
    if isinstance(operator, Conv) and outputs is not None:
        spread = winograd_spread(operator, filterings(operator, outputs), data.x, data.w, nothing)
        bound = np.moveaxis(spread, 1, -1) + sum_bound(2, added)
    elif isinstance(operator, Conv) and layer.algorithm == FFT:
        spread = fourier_spread(operator, segments_of(operator, layer.sizes), data.x, data.w, nothing)
        bound = np.moveaxis(spread, 1, -1) + sum_bound(2, added)
    else:
        bound = sum_bound(terms + 2, _exact(operator, np.abs(data.x), np.abs(data.w)) + added)
    return Interval(sums - bound, sums + bound)


def _exact(operator: Conv | Product, x: Array, w: Array) -> NDArray[np.float64]:
    if isinstance(operator, Conv):
        return np.moveaxis(convolve(operator, x, w), 1, -1)
    return x.astype(np.float64) @ w.astype(np.float64)


def _start(layer: Layer, data: Data) -> Array | np.float32:
    """The constant of a first addition: a kernel may begin its sums with it, as with a bias."""
    first = layer.steps[0] if layer.steps else None
    adds = first is not None and first.op == "add" and Operand(0) in first.arguments
    return data.extras[0] if adds and layer.extras[0].constant else np.float32(0)
