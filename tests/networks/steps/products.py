"""Matrix products: with constants on either side, of every rank, in attention and behind layer norms."""

import math

from tests.networks.drawing import Drawing, Refused, Tensor
from tests.networks.steps.elements import activate


def dense(draw: Drawing, x: Tensor, width: int = 0) -> Tensor:
    width = width or draw.one_of(1, 3, 8, 17, 40)
    y = draw.op("MatMul", x, draw.normal(x.shape[-1], width, scale=1 / (math.sqrt(x.shape[-1]) * x.scale)))
    return draw.op("Add", y, draw.normal(width, scale=0.3)) if draw.chance(0.6) else y


def matmul(draw: Drawing) -> Tensor:
    """Constant on either side, with or without leading axes; vectors too."""
    x = draw.pick(lambda value: value.rank >= 1)
    scale = 1 / (math.sqrt(x.shape[-1]) * x.scale)
    kind = draw.one_of("right", "batched", "left", "vector", "self", "leading")
    match kind:
        case "right":
            y = dense(draw, x)
            return activate(draw, y) if draw.chance(0.5) else y
        case "batched" if x.rank > 2:
            return draw.op("MatMul", x, draw.normal(*x.shape[:-2], x.shape[-1], draw.one_of(1, 5, 16), scale=scale))
        case "leading" if x.rank > 1:
            return draw.op("MatMul", x, draw.normal(2, *(1,) * (x.rank - 2), x.shape[-1], 5, scale=scale))
        case "vector":
            return draw.op("MatMul", x, draw.normal(x.shape[-1], scale=scale))
        case "left" if x.rank > 1:
            scale = 1 / (math.sqrt(x.shape[-2]) * x.scale)
            rows = draw.one_of((3,), (17,), ())
            return draw.op("MatMul", draw.normal(*rows, x.shape[-2], scale=scale), x)
    if x.rank < 2:
        raise Refused
    other = draw.op("Transpose", x, perm=[*range(x.rank - 2), x.rank - 1, x.rank - 2])
    y = draw.op("MatMul", draw.op("Mul", x, draw.constant(scale)), draw.op("Mul", other, draw.constant(1 / x.scale)))
    return draw.op("Softmax", y, axis=-1) if draw.chance(0.5) else y


def attention(draw: Drawing) -> Tensor:
    """Over the pixels, in one or two heads."""
    x = draw.image(3, 4)
    heads, depth = draw.between(1, 2), draw.one_of(3, 8)
    x = draw.op("Reshape", x, draw.integers(x.shape[0], x.shape[1], -1))
    tokens = draw.op("Transpose", x, perm=[0, 2, 1])
    parts = []
    for order in ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3]):
        y = draw.op("Reshape", dense(draw, tokens, heads * depth), draw.integers(0, 0, heads, depth))
        parts.append(draw.op("Transpose", y, perm=order))
    scores = draw.op("Div", draw.op("MatMul", parts[0], parts[1]), draw.constant(math.sqrt(depth)))
    mixed = draw.op("MatMul", draw.op("Softmax", scores, axis=-1), parts[2])
    y = draw.op("Reshape", draw.op("Transpose", mixed, perm=[0, 2, 1, 3]), draw.integers(0, 0, heads * depth))
    return draw.op("Add", tokens, dense(draw, y, tokens.shape[-1]))


def gemm(draw: Drawing) -> Tensor:
    x = draw.pick(lambda value: value.rank >= 2)
    if x.rank > 2:
        x = draw.op("Flatten", x, axis=draw.between(0, x.rank))
    flip, turn = draw.between(0, 1), draw.between(0, 1)
    rows, depth = x.shape[::-1] if flip else x.shape
    width = draw.one_of(1, 5, 10, 16)
    if rows > 100:
        raise Refused
    weight = draw.normal(*((width, depth) if turn else (depth, width)), scale=1 / (math.sqrt(depth) * x.scale))
    bias = draw.one_of((width,), (1, width), (rows, 1), (rows, width), (), (1,), None)
    extra = [] if bias is None else [draw.normal(*bias)]
    return draw.op(
        "Gemm",
        x,
        weight,
        *extra,
        transA=flip,
        transB=turn,
        alpha=draw.one_of(1.0, 0.5),
        beta=draw.one_of(1.0, 0.5, 2.0),
    )


def layer_norm(draw: Drawing) -> Tensor:
    """Over the channels of a transposed tensor, and back."""
    x = draw.image()
    if draw.opset < 17 or x.shape[1] < 3:
        raise Refused
    order = [0, *range(2, x.rank), 1]
    moved = draw.op("Transpose", x, perm=order)
    weights = draw.normal(x.shape[1], mean=1, scale=0.2), draw.normal(x.shape[1], scale=0.2)
    y = draw.op("LayerNormalization", moved, *weights, epsilon=1e-2, axis=-1)
    if draw.chance(0.5):
        y = activate(draw, dense(draw, y))
    return draw.op("Transpose", y, perm=[0, x.rank - 1, *range(1, x.rank - 1)]) if draw.chance(0.7) else y
