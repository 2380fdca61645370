"""Integer layers: Conv, Gemm, MatMul and average pools over dequantized operands, summed exactly.

    total[k] = sum of (qx - zx) * (qw - zw[k]) + qbias[k]        scale[k] = fp32(sx * sw[k])
    total = sum of (qx - zx) over a window                       scale = fp32(sx / n)

A bias that is no integer at the layer's own scale is added to fp32(total) * scale in float32.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lowprec.frontend.graph import Node
from lowprec.oracle_values import WORDS, Codes, Floats, Ints, Sums, Value, real
from lowprec.oracle_windows import Extents, convolved, counts, extents, window_of, windows

LAYERS = frozenset(("Conv", "Gemm", "MatMul"))
POOLS = frozenset(("AveragePool", "GlobalAveragePool"))
CONVOLUTIONS = frozenset(("Conv", "ConvInteger", "QLinearConv"))
EXACT = 2**53
"""Below it float64 holds every whole number, and so every partial sum, in any order."""

Operands = Sequence[Value | None]


def is_integer_layer(node: Node, operands: Operands) -> bool:
    """Whether both operands of a Conv, Gemm or MatMul are integers with scales that leave the sum."""
    if node.op not in LAYERS:
        return False
    x, w = operands[:2]
    if not isinstance(x, Codes) or not isinstance(w, Codes) or not w.constant or not x.per_tensor:
        return False
    if {x.codes.dtype.name, w.codes.dtype.name} - WORDS:
        return False
    if node.op == "Gemm" and not node.attributes.get("alpha", 1.0) == node.attributes.get("beta", 1.0) == 1.0:
        return False
    return w.per_index(_output_axis(node)) if w.codes.ndim > 1 else w.per_tensor


def integer_layer(node: Node, operands: Operands, shape: Extents) -> Value:
    """Its sums, or an array where a bias is added in float32."""
    x, w, bias = operands[0], operands[1], operands[2] if len(operands) > 2 else None
    assert isinstance(x, Codes)
    assert isinstance(w, Codes)
    total = sums_of(node, x.centred, w.centred, shape)
    scale = _placed(np.multiply(x.scale.reshape(()), w.scale.reshape(-1), dtype=np.float32), node, shape)
    if isinstance(bias, Codes) and _is_at(scale, bias, node, shape):
        total, bias = total + _placed(bias.codes.astype(np.int64), node, shape), None
    sums = Sums(total=total, scale=scale)
    return sums if bias is None else real(sums) + _placed(real(bias), node, shape)


def is_integer_pool(node: Node, x: Codes) -> bool:
    """Whether an average is one of integers of 8 bits."""
    return node.op in POOLS and x.per_tensor and x.codes.dtype.name in ("int8", "uint8")


def integer_pool(node: Node, x: Codes, shape: Extents) -> Sums:
    """The sums of its windows, and how many elements each holds."""
    size = x.codes.shape[2:]
    if node.op == "GlobalAveragePool":
        total = x.centred.sum(tuple(range(2, x.codes.ndim)), dtype=np.int64, keepdims=True)
        elements: Ints = np.array(np.prod(size))
    else:
        window = window_of(node, extents(node, "kernel_shape", ()), shape[2:])
        total = windows(x.centred, window).sum(window.taps, dtype=np.int64)
        elements = counts(size, window, include_pad=bool(node.attributes.get("count_include_pad", 0)))
    return Sums(
        total=total, scale=np.asarray(x.scale.reshape(()), np.float32), count=np.maximum(elements, 1).astype(np.float32)
    )


def sums_of(node: Node, x: Ints, w: Ints, shape: Extents) -> NDArray[np.int64]:
    """The exact sums of products of a Conv, Gemm or MatMul, or of their integer namesakes."""
    depth = w[0].size if node.op in CONVOLUTIONS else max(x.shape)
    kind = carrier(x, w, depth)
    return product(node, x.astype(kind), w.astype(kind), shape).astype(np.int64)


def carrier(x: Ints, w: Ints, depth: int) -> type[np.float64 | np.int64]:
    """float64, which BLAS is fast in, if it is exact: if no sum of `depth` products reaches 2^53."""
    largest = [max(int(each.max(initial=0)), -int(each.min(initial=0))) for each in (x, w)]
    return np.float64 if largest[0] * largest[1] * depth < EXACT else np.int64


def product(node: Node, x: Ints, w: Ints, shape: Extents) -> Ints:
    """A Conv, Gemm or MatMul in the operands' own type, without bias."""
    if node.op in CONVOLUTIONS:
        groups = node.attributes.get("group", 1)
        assert isinstance(groups, int)
        return convolved(x, w, window_of(node, w.shape[2:], shape[2:]), groups)
    x = x.T if node.attributes.get("transA", 0) else x
    w = w.T if node.attributes.get("transB", 0) else w
    return np.asarray(np.matmul(x, w))


def _output_axis(node: Node) -> int:
    """The axis of the weights that counts output channels."""
    if node.op == "Gemm":
        return 0 if node.attributes.get("transB", 0) else 1
    return 0 if node.op == "Conv" else -1


def _placed(parameter: Ints, node: Node, shape: Extents) -> Ints:
    """What is one for each output channel, or one for all, shaped to broadcast over the result."""
    if parameter.size == 1:
        return parameter.reshape(())
    return parameter.reshape(-1, *(1,) * (len(shape) - 2)) if node.op in CONVOLUTIONS else parameter


def _is_at(scale: Floats, bias: Codes, node: Node, shape: Extents) -> bool:
    """Whether a bias is int32 at the layer's scale, so that it goes into the sum."""
    if bias.codes.dtype != np.int32 or not bias.constant or bias.zero.any():
        return False
    return bool((_placed(bias.scale, node, shape) == scale).all())
