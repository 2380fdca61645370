"""Activations, comparisons and sums: steps that keep a shape, or take axes away from it."""

import math
from collections.abc import Sequence

import numpy as np

from tests.networks.drawing import Drawing, Refused, Tensor


def activate(draw: Drawing, x: Tensor) -> Tensor:
    op = draw.one_of(
        *("Relu", "Relu", "Sigmoid", "Tanh", "PRelu", "LeakyRelu", "HardSwish", "Clip", "Silu", "HardSigmoid"),
        *("Selu", "Elu", "Softplus", "Celu", "Softsign", "ThresholdedRelu", "Erf", "Mish", "Gelu", "Abs", "Neg"),
    )
    match op:
        case "PRelu":
            return draw.op(
                op, x, draw.normal(*((x.shape[1],) + (1,) * (x.rank - 2) if x.rank > 1 else (1,)), scale=0.2)
            )
        case "Clip":
            low, high = draw.constant(-0.5), draw.constant(1.0)
            return draw.op(op, x, *draw.one_of((low,), (None, high), (low, high)))
        case "Silu":
            return draw.op("Mul", x, draw.op("Sigmoid", x))
        case "HardSwish" if draw.opset < 14:
            raise Refused
        case "Mish" if draw.opset < 18:
            raise Refused
        case "Gelu" if draw.opset < 20:
            half = draw.op("Erf", draw.op("Div", x, draw.constant(math.sqrt(2))))
            return draw.op("Mul", draw.op("Mul", x, draw.op("Add", half, draw.constant(1.0))), draw.constant(0.5))
    return draw.op(op, x)


def activation(draw: Drawing) -> Tensor:
    return activate(draw, draw.pick(lambda value: True))


def combine(draw: Drawing) -> Tensor:
    x = draw.pick(lambda value: True)
    others = [draw.pick(lambda value: value.shape == x.shape) for _ in range(2)]
    op = draw.one_of("Add", "Mul", "Sub", "Sum", "Max", "Mean", "Min")
    y = draw.op(op, x, *(others if op in ("Sum", "Max", "Mean", "Min") else others[:1]))
    return activate(draw, y) if draw.chance(0.5) else y


def broadcast(draw: Drawing) -> Tensor:
    """With a constant, or a computed value, of a shape that spreads."""
    x = draw.pick(lambda value: value.rank > 0)
    keep = [draw.chance(0.5) for _ in x.shape]
    shape = tuple(n if kept else 1 for n, kept in zip(x.shape, keep, strict=True))
    shape = shape[draw.between(0, x.rank) :] if draw.chance(0.5) else shape
    op = draw.one_of("Add", "Mul", "Sub", "Max", "Min", "Add")
    if draw.chance(0.3):
        axes = [axis for axis, kept in enumerate(keep) if not kept]
        other = reduce_over(draw, x, "ReduceMean", axes, keep=1) if axes else x
    else:
        other = draw.normal(*shape, scale=0.7)
    return draw.op(op, *((x, other) if draw.chance(0.6) else (other, x)))


def where(draw: Drawing) -> Tensor:
    x = draw.pick(lambda value: True)
    other = draw.pick(lambda value: value.shape == x.shape)
    op = draw.one_of("Greater", "Less", "GreaterOrEqual", "LessOrEqual")
    chosen = draw.op(op, x, draw.one_of(other, draw.constant(0.31)))
    if draw.chance(0.3):
        chosen = draw.op("Not", chosen)
    return draw.op("Where", chosen, x, draw.one_of(other, draw.constant(-0.5), draw.normal(*x.shape[-1:])))


def casts(draw: Drawing) -> Tensor:
    x = draw.op("Mul", draw.pick(lambda value: True), draw.constant(3.3))
    whole = draw.op("Cast", x, to=draw.one_of(6, 7))
    return draw.op("Cast", whole, to=1)


def softmax(draw: Drawing) -> Tensor:
    x = draw.pick(lambda value: value.rank > 0)
    return draw.op(draw.one_of("Softmax", "Softmax", "LogSoftmax"), x, axis=draw.between(-x.rank, x.rank - 1))


def normalize(draw: Drawing, x: Tensor) -> Tensor:
    channels = x.shape[1]
    scale, offset = draw.normal(channels, scale=0.2, mean=1), draw.normal(channels, scale=0.3)
    mean = draw.normal(channels, scale=0.2)
    variance = draw.constant(x.scale**2 * draw.rng.uniform(0.7, 1.3, channels))
    return draw.op("BatchNormalization", x, scale, offset, mean, variance)


def norms(draw: Drawing) -> Tensor:
    x = draw.pick(lambda value: value.rank >= 2 and value.shape[1] > 0)
    kind = draw.one_of("batch", "batch", "instance", "lrn", "mean", "l2")
    if kind == "batch":
        return normalize(draw, x)
    if x.rank < 3 or math.prod(x.shape[2:]) < 6 or x.array.std() < 0.1:
        raise Refused
    match kind:
        case "lrn":
            return draw.op("LRN", x, size=draw.one_of(1, 3, 5))
        case "mean" if x.rank == 4:
            return draw.op("MeanVarianceNormalization", x)
        case "l2":
            return draw.op("LpNormalization", x, axis=draw.between(0, x.rank - 1), p=draw.between(1, 2))
    scale, offset = draw.normal(x.shape[1], mean=1, scale=0.2), draw.normal(x.shape[1])
    return draw.op("InstanceNormalization", x, scale, offset, epsilon=1e-2)


def reduce_over(draw: Drawing, x: Tensor, op: str, axes: Sequence[int], *, keep: int) -> Tensor:
    """The axes are an attribute before opset 18, but of ReduceSum."""
    if draw.opset >= 18 or op == "ReduceSum":
        return draw.op(op, x, draw.integers(*axes), keepdims=keep)
    return draw.op(op, x, axes=list(axes), keepdims=keep)


def reduce(draw: Drawing) -> Tensor:
    x = draw.pick(lambda value: value.rank > 0)
    axes = sorted(draw.rng.choice(x.rank, draw.between(1, x.rank), replace=False).tolist())
    axes = [axis - draw.between(0, 1) * x.rank for axis in axes]
    op = draw.one_of("ReduceMean", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceSum", "ReduceL2", "ReduceLogSumExp")
    return reduce_over(draw, x, op, axes, keep=draw.between(0, 1))


def largest(draw: Drawing) -> Tensor:
    x = draw.pick(lambda value: value.rank > 0)
    op, axis = draw.one_of("ArgMax", "ArgMin"), draw.between(0, x.rank - 1)
    ordered = np.sort(x.array if op == "ArgMin" else -x.array, axis)
    first, second = ordered.take(0, axis), ordered.take(min(1, x.shape[axis] - 1), axis)
    if x.shape[axis] > 1 and (second - first < 1e-3)[first != 0].any():
        raise Refused  # the last bit would decide
    index = draw.op(op, x, axis=axis, keepdims=draw.between(0, 1), select_last_index=0)
    return draw.op("Mul", draw.op("Cast", index, to=1), draw.constant(0.1))


def top(draw: Drawing) -> Tensor:
    x = draw.pick(lambda value: value.rank > 0)
    axis = draw.between(0, x.rank - 1)
    return draw.many("TopK", x, draw.integers(draw.between(1, x.shape[axis])), axis=axis, outputs=2)[0]


def running(draw: Drawing) -> Tensor:
    x = draw.pick(lambda value: value.rank > 0)
    axis = draw.constant(draw.between(0, x.rank - 1), np.int64)
    return draw.op("CumSum", x, axis, exclusive=draw.between(0, 1), reverse=draw.between(0, 1))
