"""Averages of dequantized values as sums of integers.

    QuantizeLinear(average of dequantized x, sy)
    -->  QuantizeLinear(Cast(sum of x over the window) * (sx / (sy * n)), 1)

A window's sum is a depthwise convolution with ones. Declines when: the result is not quantized right away.
"""

from dataclasses import dataclass
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
    behind = scale_behind(work, result, settled)
    if behind is None:
        return False
    sums, counts = _window_sums(work, node, x)
    scaled(work, node, sums, np.asarray(x.scale.reshape(()) / (behind * counts), np.float32))
    return True


def _window_sums(work: Rewrite, node: Node, x: Quantized) -> tuple[str, Floats]:
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
    window = _window(node, size, shape[2:])
    ones = work.constant(f"{result}/ones", np.ones((channels, 1, *window.kernel), np.int8))
    zero = work.constant(f"{result}/zero", x.zero.reshape(()).astype(spec.dtype))
    attributes: dict[str, Attribute] = {
        "kernel_shape": window.kernel,
        "pads": window.begin + window.reached,
        "strides": window.strides,
        "dilations": window.dilations,
        "group": channels,
    }
    total = work.emit(
        "ConvInteger", (x.codes, ones, zero), f"{result}/sum", ("int32", shape), layer=node.layer, attributes=attributes
    )
    counts = window.counts(padding=bool(node.attributes.get("count_include_pad", 0)))
    return total, counts


@dataclass(frozen=True, slots=True, kw_only=True)
class _Window:
    """A pool's windows along the spatial axes: `end` is the padding, `reached` what a convolution needs there to have
    as many results, which `ceil_mode` makes more."""

    size: Shape
    results: Shape
    kernel: Shape
    strides: Shape
    dilations: Shape
    begin: Shape
    end: Shape

    @property
    def reached(self) -> Shape:
        axes = zip(self.size, self.results, self.kernel, self.strides, self.dilations, self.begin, strict=True)
        return tuple(max(0, (count - 1) * s + (k - 1) * d + 1 - n - before) for n, count, k, s, d, before in axes)

    def counts(self, *, padding: bool) -> Floats:
        """How many numbers each window holds, or all hold; what is beyond the padding never counts. Of none the average
        is 0, as of one zero."""
        counts = np.ones((), np.float32)
        axes = zip(
            self.size, self.results, self.kernel, self.strides, self.dilations, self.begin, self.end, strict=True
        )
        for n, count, k, s, d, before, after in axes:
            places = np.arange(count)[:, None] * s + np.arange(k) * d - before
            low, high = (-before, n + after) if padding else (0, n)
            held = ((places >= low) & (places < high)).sum(axis=1)
            counts = counts[..., None] * held.astype(np.float32)
        counts = np.maximum(counts, np.float32(1))
        return counts.reshape(-1)[:1].reshape(()) if (counts == counts.flat[0]).all() else counts[None, None]


def _window(node: Node, size: Shape, results: Shape) -> _Window:
    kernel = ints(node, "kernel_shape", ())
    ones, pads = (1,) * len(kernel), ints(node, "pads", (0,) * (2 * len(kernel)))
    return _Window(
        size=size,
        results=results,
        kernel=kernel,
        strides=ints(node, "strides", ones),
        dilations=ints(node, "dilations", ones),
        begin=pads[: len(kernel)],
        end=pads[len(kernel) :],
    )
