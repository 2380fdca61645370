"""Layers that integers can compute, their weights and biases as integers.

    w[k] ~ scale[k] * codes[k], codes of the scheme               b[k] ~ (input scale * scale[k]) * bias[k]        (1)
    255 * sum(|codes[k]|) + |bias[k]| < 2^31, so that no sum of products with bytes overflows, in any order        (2)

A channel of nearly no weights has a scale by which its bias is at most 2^30 units, if that is small beside the others'.
An input of 16 bits is two bytes, each with a sum of its own. A bias that does not keep (2) stays in float, and is added
to the product of the sum and its scale.

Declines when: weights or bias are computed at run time, hold a NaN or an infinity, or are not of float32; the layer is
a transposed convolution; a Gemm transposes its first operand, has factors, or a bias that is not one number per column;
a MatMul's second operand is no matrix; the weights alone break (2).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lowprec.errors import UsageError
from lowprec.formats import Fixed
from lowprec.frontend.bias_correction import shift
from lowprec.frontend.graph import Array, Graph, Node
from lowprec.frontend.naming import quote
from lowprec.frontend.randomness import drawn
from lowprec.frontend.schemes import NORMAL, Scheme
from lowprec.seen import Means

LAYERS = frozenset(("Conv", "ConvTranspose", "Gemm", "MatMul"))
"""Operators that multiply by weights."""
REACH = 255
"""The magnitude of a word of 8 bits less its zero point, or of a byte of a longer one."""
LIMIT = 1 << 31
WHOLE = Fixed(24, 0)
"""Numbers of steps: more than codes have."""
MOST_UNITS, SMALL = 1 << 30, 2.0**-10

Words = NDArray[np.int8] | NDArray[np.int16]


@dataclass(frozen=True, slots=True, kw_only=True)
class Integers:
    """A layer's constants: codes with a scale for each index of `axis`, or one; `bias` is int32, or float32 where that
    would not do; `scale * the input's scale` is what a sum's unit is worth."""

    codes: Words
    scale: NDArray[np.float32]
    axis: int
    bias: NDArray[np.int32] | NDArray[np.float32] | None


def obstacle(node: Node, graph: Graph, scheme: Scheme, *, seed: int | None = None) -> str:
    """What keeps a layer in float, as a sentence; nothing for one that integers can compute."""
    found = next((reason for check in CHECKS if (reason := check(node, graph))), "")
    return found or _overflow(node, graph, scheme, seed)


def integers_of(
    node: Node,
    graph: Graph,
    scheme: Scheme,
    input_scale: np.float32,
    *,
    seed: int | None = None,
    mean: Means | None = None,
) -> Integers:
    """Equation 1 for a layer without an obstacle; by a seed weights are rounded stochastically. With its input's mean
    a layer's bias takes off what the rounding of weights adds on average."""
    weights, axis = graph.constants[node.inputs[1]], output_axis(node)
    scale = _normal(scheme.weight_scale(weights, axis), input_scale)
    if scale.ndim and bias_of(node):
        scale = _wide_enough(scale, graph.constants[bias_of(node)], input_scale)
    with np.errstate(over="ignore"):
        units = input_scale * scale
    if not np.isfinite(units).all():
        raise UsageError(
            f"layer {quote(node.layer)}: its input's scale {input_scale:g} times its weights' {scale.max():g} is "
            f"beyond float32: divide the weights, or keep the layer in float"
        )
    codes = _codes(node, graph, scale, scheme, seed)
    values = _bias_values(node, graph, codes, scale, mean)
    bias = None if values is None else _bias(values, units, _sums(codes, axis))
    return Integers(codes=codes, scale=scale, axis=axis, bias=bias)


def saturated_share(node: Node, graph: Graph, scheme: Scheme) -> float:
    """Of a layer's weights, those whose nearest whole number of steps is no code."""
    weights, axis = graph.constants[node.inputs[1]], output_axis(node)
    steps = _steps(weights, scheme.weight_scale(weights, axis), axis)
    np.rint(steps, out=steps)
    low, high = scheme.weight_codes
    return (np.count_nonzero(steps < low) + np.count_nonzero(steps > high)) / steps.size


def output_axis(node: Node) -> int:
    """Of the weights: the axis that counts output channels."""
    return 0 if node.op == "Conv" or node.attributes.get("transB", 0) else 1


def bias_of(node: Node) -> str:
    """The bias's name, or "" where there is none."""
    return node.inputs[2] if node.op != "MatMul" and len(node.inputs) > 2 else ""


def _normal(scale: NDArray[np.float32], input_scale: np.float32) -> NDArray[np.float32]:
    """Scales whose products with the input's are normal numbers; what is smaller is rounded to zero."""
    with np.errstate(over="ignore", under="ignore"):
        while (small := input_scale * scale < NORMAL).any():
            scale = np.where(small, np.maximum(scale * np.float32(2), NORMAL), scale)
    return scale


def _wide_enough(scale: NDArray[np.float32], bias: Array, input_scale: np.float32) -> NDArray[np.float32]:
    """Scales by which no bias has more than MOST_UNITS, where they stay SMALL beside the largest: one channel of nearly
    no weights would make the biases of all floats."""
    least = np.abs(bias.reshape(-1).astype(np.float64)) / (float(input_scale) * MOST_UNITS)
    return np.where(least <= SMALL * scale.max(), np.maximum(scale, least.astype(np.float32)), scale)


def _codes(node: Node, graph: Graph, scale: NDArray[np.float32], scheme: Scheme, seed: int | None) -> Words:
    """Whole numbers of the scale, to nearest even or by random words."""
    name = node.inputs[1]
    steps = _steps(graph.constants[name], scale, output_axis(node))
    if seed is None:
        np.rint(steps, out=steps)
    else:
        steps = drawn(steps, WHOLE, name, seed)
    codes: Words = np.clip(steps, *scheme.weight_codes, out=steps).astype(scheme.weight_word)
    return codes


def _steps(weights: Array, scale: NDArray[np.float32], axis: int) -> NDArray[np.float32]:
    """Weights in steps of the scale; one float32 division, as QuantizeLinear has it."""
    with np.errstate(over="ignore", under="ignore"):
        steps: NDArray[np.float32] = np.divide(weights, _along(scale, axis, weights.ndim), dtype=np.float32)
    return steps


def _along(scale: NDArray[np.float32], axis: int, rank: int) -> NDArray[np.float32]:
    return scale.reshape([-1 if index == axis else 1 for index in range(rank)])


def _sums(codes: Words, axis: int) -> NDArray[np.int64]:
    """Of each output channel's magnitudes."""
    others = tuple(index for index in range(codes.ndim) if index != axis)
    return np.asarray(np.abs(codes, dtype=np.int32).sum(axis=others, dtype=np.int64))


def _bias_values(
    node: Node, graph: Graph, codes: Words, scale: NDArray[np.float32], mean: Means | None
) -> NDArray[np.float32] | None:
    """One number for each output channel; None for zeros that nobody gave."""
    axis = output_axis(node)
    given = np.zeros(1, np.float32) if not bias_of(node) else graph.constants[bias_of(node)].reshape(-1)
    values: NDArray[np.float32] = np.broadcast_to(given, codes.shape[axis])
    if mean is not None:
        weights = graph.constants[node.inputs[1]].astype(np.float64)
        errors = weights - codes * _along(scale, axis, codes.ndim).astype(np.float64)
        with np.errstate(over="ignore"):
            corrected = (values + shift(node, graph, errors, mean)).astype(np.float32)
        values = corrected if np.isfinite(corrected).all() else values
    return values if bias_of(node) or values.any() else None


def _bias(
    values: NDArray[np.float32], units: NDArray[np.float32], sums: NDArray[np.int64]
) -> NDArray[np.int32] | NDArray[np.float32]:
    """In units of the sum, if it keeps equation 2."""
    steps = np.rint(values.astype(np.float64) / units)
    return values if (np.abs(steps) + REACH * sums >= LIMIT).any() else steps.astype(np.int32)


def _operator(node: Node, graph: Graph) -> str:
    if node.op == "ConvTranspose":
        return "a transposed convolution is computed in float"
    if graph.types[node.inputs[0]].dtype != "float32":
        return f"its input is {graph.types[node.inputs[0]].dtype}, and integers are made of float32"
    if node.inputs[0] in graph.constants:
        return "its input is a constant"
    return ""


def _gemm(node: Node, graph: Graph) -> str:
    if node.op != "Gemm":
        return ""
    if node.attributes.get("transA", 0):
        return "its first operand is transposed"
    factors = {name: node.attributes.get(name, 1.0) for name in ("alpha", "beta")}
    found = next((name for name, factor in factors.items() if factor != 1), None)
    return f"{found} is {factors[found]:g}, and sums of integers have no factor" if found is not None else ""


def _weights(node: Node, graph: Graph) -> str:
    weights = graph.constants.get(node.inputs[1])
    if weights is None:
        return "its weights are computed at run time, and integers are made of constants"
    if node.op == "MatMul" and weights.ndim != 2:
        return f"its second operand has {weights.ndim} dimensions, and one scale per column needs 2"
    if not weights.size:
        return "its weights have no elements"
    return "" if np.isfinite(weights).all() else "its weights hold a NaN or an infinity"


def _bias_kept(node: Node, graph: Graph) -> str:
    name = bias_of(node)
    if not name:
        return ""
    bias = graph.constants.get(name)
    if bias is None:
        return "its bias is computed at run time, and integers are made of constants"
    channels = graph.constants[node.inputs[1]].shape[output_axis(node)]
    if bias.size not in (1, channels) or (bias.ndim and bias.shape[-1] != bias.size):
        return f"its bias is {list(bias.shape)}, not one number for each of {channels} channels"
    return "" if np.isfinite(bias).all() else "its bias holds a NaN or an infinity"


def _overflow(node: Node, graph: Graph, scheme: Scheme, seed: int | None) -> str:
    """Codes of 8 bits have to be looked at only where a channel has more than 66,311 weights, of 16 bits than 257."""
    weights, axis = graph.constants[node.inputs[1]], output_axis(node)
    largest = max(map(abs, scheme.weight_codes))
    if weights.size // weights.shape[axis] * largest * REACH < LIMIT:
        return ""
    sums = _sums(_codes(node, graph, scheme.weight_scale(weights, axis), scheme, None), axis)
    further = 0 if seed is None else weights.size // weights.shape[axis]  # each may be drawn a step away
    most = REACH * (int(sums.max()) + further)
    products = "" if np.iinfo(scheme.word).bits == 8 else " of products with bytes"
    return "" if most < LIMIT else f"its sums{products} may reach {most}, and 32 bits hold less than {LIMIT}"


CHECKS: tuple[Callable[[Node, Graph], str], ...] = (_operator, _gemm, _weights, _bias_kept)
