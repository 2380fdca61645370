"""Averages of dequantized values as sums of integers.

    QuantizeLinear(average of dequantized x, sy)
    -->  QuantizeLinear(Cast(sum of x over the window) * (sx / (sy * n)), 1)

A window's sum is a depthwise convolution with ones. Declines when: the result is not quantized right away; windows are
dilated, or reach beyond the padding (`ceil_mode`).
"""

from math import prod

import numpy as np

from lowprec.frontend.autopad import ints
from lowprec.frontend.graph import Attribute, Node
from lowprec.frontend.integer_rewrite import BYTES, Floats, Quantized, Rewrite, Shape
from lowprec.frontend.integer_scaling import Settled, scale_behind, scaled


def average(work: Rewrite, node: Node, settled: Settled) -> bool:
    """AveragePool or GlobalAveragePool of bytes that is quantized again: sums over windows, times one factor."""
    x, result = work.quantized(node.inputs[0], per_tensor=True), node.outputs[0]
    reader = work.uses.only_reader(result)
    if x is None or work.types[x.codes].dtype not in BYTES or reader is None or reader.op != "QuantizeLinear":
        return False
    total = _window_sums(work, node, x)
    behind = None if total is None else scale_behind(work, result, settled)
    if total is None or behind is None:
        return False
    sums, counts = total
    scaled(work, node, sums, np.asarray(x.scale.reshape(()) / (behind * counts), np.float32))
    return True


def _window_sums(work: Rewrite, node: Node, x: Quantized) -> tuple[str, Floats] | None:
    """The sums of a pool's windows, and how many numbers each holds: of all, or along the spatial axes."""
    result, spec = node.outputs[0], work.types[x.codes]
    shape, channels, size = work.types[result].shape, spec.shape[1], spec.shape[2:]
    if node.op == "GlobalAveragePool":
        wide = work.emit(
            "Cast", (x.codes,), f"{result}/wide", ("int32", spec.shape), layer=node.layer, attributes={"to": 6}
        )
        zero = work.constant(f"{result}/zero", x.zero.reshape(()).astype(np.int32))
        centred = work.emit("Sub", (wide, zero), f"{result}/centred", ("int32", spec.shape), layer=node.layer)
        axes = work.constant(f"{result}/axes", np.arange(2, len(spec.shape), dtype=np.int64))
        total = work.emit("ReduceSum", (centred, axes), f"{result}/sum", ("int32", shape), layer=node.layer)
        return total, np.asarray(prod(size), np.float32)
    kernel = ints(node, "kernel_shape", ())
    if node.attributes.get("ceil_mode", 0) or any(step != 1 for step in ints(node, "dilations", ())):
        return None
    pads, strides = ints(node, "pads", (0,) * (2 * len(kernel))), ints(node, "strides", (1,) * len(kernel))
    ones = work.constant(f"{result}/ones", np.ones((channels, 1, *kernel), np.int8))
    zero = work.constant(f"{result}/zero", x.zero.reshape(()).astype(spec.dtype))
    attributes: dict[str, Attribute] = {"kernel_shape": kernel, "pads": pads, "strides": strides, "group": channels}
    total = work.emit(
        "ConvInteger", (x.codes, ones, zero), f"{result}/sum", ("int32", shape), layer=node.layer, attributes=attributes
    )
    counts = np.full((), prod(kernel), np.float32)
    if any(pads) and not node.attributes.get("count_include_pad", 0):
        counts = _counts(size, shape[2:], kernel, strides, pads[: len(kernel)])[None, None]
    return total, counts


def _counts(size: Shape, results: Shape, kernel: Shape, strides: Shape, begin: Shape) -> Floats:
    """How many elements each window holds, padding apart."""
    counts = np.ones((), np.float32)
    for extent, count, taps, stride, before in zip(size, results, kernel, strides, begin, strict=True):
        first = np.arange(count) * stride - before
        held = np.minimum(first + taps, extent) - np.maximum(first, 0)
        counts = counts[..., None] * held.astype(np.float32)
    return counts
