"""Float operators in NumPy, those that networks spend their time in, and what moves values; the rest is onnx's.

Sums are float32 in an order of NumPy's own, so these results are near those of other engines, not equal to them. What
moves or compares values has one answer. `operator_of` knows no variant that is rare: more outputs than one, training.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from lowprec.frontend.graph import Node
from lowprec.oracle_layers import product
from lowprec.oracle_values import Array, Ints
from lowprec.oracle_windows import Extents, counts, extents, scattered, window_of, windows

Operator = Callable[[Node, Sequence[Ints], Extents], Array]


def operator_of(node: Node) -> Operator | None:
    """The operator's function here, if there is one for this node's outputs, version and attributes."""
    if any(node.outputs[1:]):
        return None
    if node.op == "BatchNormalization" and (node.version < 9 or node.attributes.get("training_mode", 0)):
        return None
    return OPERATORS.get(node.op)


def _conv(node: Node, arrays: Sequence[Ints], shape: Extents) -> Array:
    x, w, *bias = arrays
    return _biased(product(node, _wide(x), _wide(w), shape), bias).astype(x.dtype)


def _conv_transpose(node: Node, arrays: Sequence[Ints], shape: Extents) -> Array:
    x, w, *bias = arrays
    groups = int(_number(node, "group", 1))
    y = scattered(_wide(x), _wide(w), window_of(node, w.shape[2:], shape[2:]), groups)
    return _biased(y, bias).astype(x.dtype)


def _biased(y: Ints, bias: Sequence[Ints]) -> Ints:
    """Images of channels, with the number of its channel added to each, if there are any."""
    for each in bias:
        y = y + each.reshape(-1, *(1,) * (y.ndim - 2))
    return y


def _gemm(node: Node, arrays: Sequence[Ints], shape: Extents) -> Array:
    a, b, *bias = arrays
    alpha, beta = (_number(node, name, 1.0) for name in ("alpha", "beta"))
    y = _scaled(product(node, _wide(a), _wide(b), shape), alpha)
    for each in bias:
        y = y + _scaled(_wide(each), beta)
    return y.astype(a.dtype)


def _matmul(node: Node, arrays: Sequence[Ints], shape: Extents) -> Array:
    a, b = arrays
    return product(node, _wide(a), _wide(b), shape).astype(a.dtype)


def _scaled(x: Ints, factor: float) -> Ints:
    return x if factor == 1 else np.asarray(x * factor, x.dtype)


def _max_pool(node: Node, arrays: Sequence[Ints], shape: Extents) -> Array:
    (x,) = arrays
    lowest = np.iinfo(x.dtype).min if x.dtype.kind in "iu" else -np.inf
    window = window_of(node, extents(node, "kernel_shape", ()), shape[2:])
    return np.asarray(windows(x, window, lowest).max(window.taps))


def _average_pool(node: Node, arrays: Sequence[Ints], shape: Extents) -> Array:
    """Of nothing, where dilated taps step over all of a small input, it is 0."""
    (x,) = arrays
    window = window_of(node, extents(node, "kernel_shape", ()), shape[2:])
    elements = counts(x.shape[2:], window, include_pad=bool(node.attributes.get("count_include_pad", 0)))
    wide = _wide(x)
    return np.asarray(windows(wide, window).sum(window.taps) / np.maximum(elements, 1).astype(wide.dtype), x.dtype)


def _global_average(_node: Node, arrays: Sequence[Ints], _shape: Extents) -> Array:
    (x,) = arrays
    return np.asarray(_wide(x).mean(tuple(range(2, x.ndim)), keepdims=True), x.dtype)


def _global_max(_node: Node, arrays: Sequence[Ints], _shape: Extents) -> Array:
    """Over every spatial axis; onnx's evaluator knows two of them."""
    (x,) = arrays
    return np.asarray(x.max(tuple(range(2, x.ndim)), keepdims=True))


def _relu(_node: Node, arrays: Sequence[Ints], _shape: Extents) -> Array:
    (x,) = arrays
    return np.asarray(np.maximum(x, x.dtype.type(0)))


def _clip(node: Node, arrays: Sequence[Ints], _shape: Extents) -> Array:
    """Bounds are attributes up to opset 6, and inputs since 11, either of which may be absent."""
    x, *given = arrays
    if node.version < 11:
        low, high = (np.asarray(_number(node, *default)) for default in (("min", -np.inf), ("max", np.inf)))
        return np.asarray(np.minimum(np.maximum(x, low), high), x.dtype)
    for name, hold in zip(node.inputs[1:], (np.maximum, np.minimum), strict=False):
        x = hold(x, given.pop(0)) if name else x
    return x


def _add(_node: Node, arrays: Sequence[Ints], _shape: Extents) -> Array:
    return np.asarray(arrays[0] + arrays[1])


def _mul(_node: Node, arrays: Sequence[Ints], _shape: Extents) -> Array:
    return np.asarray(arrays[0] * arrays[1])


def _concat(node: Node, arrays: Sequence[Ints], _shape: Extents) -> Array:
    return np.concatenate(arrays, _axis(node, 1))


def _shaped(_node: Node, arrays: Sequence[Ints], shape: Extents) -> Array:
    """The graph's types say what a Reshape's operand means."""
    return arrays[0].reshape(shape)


def _transpose(node: Node, arrays: Sequence[Ints], shape: Extents) -> Array:
    return arrays[0].transpose(extents(node, "perm", tuple(reversed(range(len(shape))))))


def _pad(node: Node, arrays: Sequence[Ints], _shape: Extents) -> Array:
    """What is negative cuts off, before the rest is added."""
    given = dict(zip((place for place, name in enumerate(node.inputs) if name), arrays, strict=True))
    x, rank = given[0], given[0].ndim
    pads = given[1].tolist() if 1 in given else list(extents(node, "pads", ()))
    value = given[2].reshape(()) if 2 in given else np.asarray(_number(node, "value", 0.0))
    axes = [int(axis) % rank for axis in given[3]] if 3 in given else list(range(rank))
    widths = [(0, 0)] * rank
    for place, axis in enumerate(axes):
        widths[axis] = (int(pads[place]), int(pads[place + len(axes)]))
    kept = tuple(slice(max(0, -before), n - max(0, -after)) for n, (before, after) in zip(x.shape, widths, strict=True))
    added = [(max(0, before), max(0, after)) for before, after in widths]
    mode = str(node.attributes.get("mode", "constant"))
    options = {"constant_values": value.astype(x.dtype)} if mode == "constant" else {}
    return np.pad(x[kept], added, mode, **options)  # type: ignore[call-overload,no-any-return]


def _softmax(node: Node, arrays: Sequence[Ints], shape: Extents) -> Array:
    """Over one axis; before opset 13 over all from it onwards."""
    (x,) = arrays
    if node.version < 13:
        axis = _axis(node, 1) % x.ndim
        x = x.reshape(int(np.prod(shape[:axis])), -1)
        return _exponentials(x, -1).reshape(shape)
    return _exponentials(x, _axis(node, -1))


def _exponentials(x: Ints, axis: int) -> Ints:
    wide = _wide(x)
    powers = np.exp(wide - wide.max(axis, keepdims=True))
    return np.asarray(powers / powers.sum(axis, keepdims=True), x.dtype)


def _lrn(node: Node, arrays: Sequence[Ints], _shape: Extents) -> Array:
    """x / (bias + alpha / size * sum of squares over `size` channels) ^ beta"""
    (x,) = arrays
    size = int(_number(node, "size", 1))
    alpha, beta, bias = (_number(node, name, by) for name, by in (("alpha", 1e-4), ("beta", 0.75), ("bias", 1.0)))
    before = (size - 1) // 2
    squares = np.pad(np.square(_wide(x)), [(0, 0), (before, size - 1 - before)] + [(0, 0)] * (x.ndim - 2))
    sums = np.lib.stride_tricks.sliding_window_view(squares, size, 1).sum(-1)
    return np.asarray(x / np.power(bias + alpha / size * sums, beta), x.dtype)


def _lp_normalization(node: Node, arrays: Sequence[Ints], _shape: Extents) -> Array:
    """x over the sum of magnitudes, or the root of that of squares; onnx's evaluator takes no magnitudes."""
    (x,), axis = arrays, _axis(node, -1)
    wide = _wide(x)
    norm = np.abs(wide) if _number(node, "p", 2) == 1 else np.square(wide)
    norm = norm.sum(axis, keepdims=True) if _number(node, "p", 2) == 1 else np.sqrt(norm.sum(axis, keepdims=True))
    return np.asarray(wide / np.where(norm == 0, np.ones_like(norm), norm), x.dtype)


def _batch_normalization(node: Node, arrays: Sequence[Ints], shape: Extents) -> Array:
    x, *parameters = arrays
    scale, shift, mean, variance = (each.reshape(-1, *(1,) * (len(shape) - 2)) for each in parameters)
    deviation = np.sqrt(variance + _number(node, "epsilon", 1e-5))
    return np.asarray((x - mean) / deviation * scale + shift, x.dtype)


def _wide(x: Ints) -> Ints:
    """Halves are summed in float32."""
    return x.astype(np.float32) if x.dtype.itemsize < 4 and x.dtype.kind not in "iu" else x


def _axis(node: Node, default: int) -> int:
    return int(_number(node, "axis", default))


def _number(node: Node, name: str, default: float) -> float:
    value = node.attributes.get(name, default)
    assert isinstance(value, (int, float)), (node.layer, name)
    return value


OPERATORS: Mapping[str, Operator] = {
    "Add": _add,
    "AveragePool": _average_pool,
    "BatchNormalization": _batch_normalization,
    "Clip": _clip,
    "Concat": _concat,
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Flatten": _shaped,
    "Gemm": _gemm,
    "GlobalAveragePool": _global_average,
    "GlobalMaxPool": _global_max,
    "Identity": _shaped,
    "LRN": _lrn,
    "LpNormalization": _lp_normalization,
    "MatMul": _matmul,
    "MaxPool": _max_pool,
    "Mul": _mul,
    "Pad": _pad,
    "Relu": _relu,
    "Reshape": _shaped,
    "Softmax": _softmax,
    "Squeeze": _shaped,
    "Transpose": _transpose,
    "Unsqueeze": _shaped,
}
