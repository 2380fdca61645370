"""Products between dequantized operands as products of integers.

    y = Conv(dequantized x, dequantized w, dequantized b)
    -->  y = Cast(ConvInteger(x, w) + b) * (sx * sw)

Gemm and MatMul are as Conv; any other bias is added to the product, in float32. Declines when: an operand is not of
bytes or int16, weights are not constant, or have scales along another axis than the output channels; Gemm's alpha or
beta is not 1.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lowprec.frontend.graph import Array, Attribute, Node
from lowprec.frontend.integer_rewrite import BYTES, Floats, Quantized, Rewrite, Shape
from lowprec.frontend.integer_scaling import Settled, scaled_sum

MULTIPLIED = BYTES | {"int16"}
"""Sums of 16-bit products have 64 bits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Operands:
    """Both sides of an integer product."""

    x: Quantized
    w: Quantized
    codes: Array

    @property
    def factor(self) -> Floats:
        return (self.x.scale.reshape(()) * self.w.scale.reshape(-1)).astype(np.float32)


def _operands(work: Rewrite, node: Node, channel_axis: int) -> _Operands | None:
    """None where it is no product of bytes."""
    x, w = (work.quantized(name, per_tensor=first) for name, first in ((node.inputs[0], True), (node.inputs[1], False)))
    if x is None or w is None or w.codes not in work.constants:
        return None
    codes = work.constants[w.codes]
    if work.types[x.codes].dtype not in MULTIPLIED or codes.dtype.name not in MULTIPLIED:
        return None
    axis = work.made[node.inputs[1]].attributes.get("axis", 1)
    assert isinstance(axis, int)
    if w.scale.size > 1 and (codes.ndim < 2 or axis % codes.ndim != channel_axis % codes.ndim):
        return None
    return _Operands(x=x, w=w, codes=codes)


def convolution(work: Rewrite, node: Node, settled: Settled) -> bool:
    operands = _operands(work, node, 0)
    if operands is None:
        return False
    channels = (-1, *(1,) * (len(work.types[node.outputs[0]].shape) - 2))
    zeros = _zero_points(work, node, operands, operands.w.zero.reshape(-1))
    total = _sum(work, node, "ConvInteger", (operands.x.codes, operands.w.codes, *zeros), node.attributes)
    _finish(work, node, operands, total, channels, settled)
    return True


def gemm(work: Rewrite, node: Node, settled: Settled) -> bool:
    attributes = node.attributes
    if attributes.get("alpha", 1.0) != 1 or attributes.get("beta", 1.0) != 1:
        return False
    turned = bool(attributes.get("transB", 0))
    operands = _operands(work, node, 0 if turned else 1)
    if operands is None:
        return False
    codes = operands.w.codes
    if turned:
        codes = work.constant(f"{codes}/turned", np.ascontiguousarray(operands.codes.T))
    x = operands.x.codes
    if attributes.get("transA", 0):
        spec = work.types[x]
        kind, order = (spec.dtype, spec.shape[::-1]), {"perm": (1, 0)}
        x = work.emit("Transpose", (x,), f"{x}/turned", kind, layer=node.layer, attributes=order)
    zeros = _zero_points(work, node, operands, operands.w.zero.reshape(-1))
    total = _sum(work, node, "MatMulInteger", (x, codes, *zeros), {})
    _finish(work, node, operands, total, (-1,), settled)
    return True


def matmul(work: Rewrite, node: Node, settled: Settled) -> bool:
    operands = _operands(work, node, -1)
    if operands is None:
        return False
    zeros = _zero_points(work, node, operands, operands.w.zero.reshape(-1))
    total = _sum(work, node, "MatMulInteger", (operands.x.codes, operands.w.codes, *zeros), {})
    _finish(work, node, operands, total, (-1,), settled)
    return True


def _zero_points(work: Rewrite, node: Node, operands: _Operands, zero: NDArray[np.int64]) -> tuple[str, str]:
    result = node.outputs[0]
    kind = work.types[operands.x.codes].dtype
    first = work.constant(f"{result}/zero", operands.x.zero.reshape(()).astype(kind))
    second = zero.reshape(()) if zero.size == 1 else zero
    return first, work.constant(f"{result}/zeros", second.astype(operands.codes.dtype))


def _sum(work: Rewrite, node: Node, op: str, inputs: tuple[str, ...], attributes: Mapping[str, Attribute]) -> str:
    result = node.outputs[0]
    kinds = {work.types[name].dtype for name in inputs[:2]}
    spec = ("int32" if kinds <= BYTES else "int64", work.types[result].shape)
    return work.emit(op, inputs, f"{result}/sum", spec, layer=node.layer, attributes=attributes)


def _finish(work: Rewrite, node: Node, operands: _Operands, total: str, shape: Shape, settled: Settled) -> None:
    """Bias and scale; `shape` is that of what there is one of for each channel."""
    result, factor = node.outputs[0], operands.factor
    integers, floats = _bias(work, node, factor)
    if integers is not None:
        kind = work.types[total].dtype
        name = work.constant(f"{result}/bias", _placed(integers, shape).astype(kind))
        spec = (kind, work.types[result].shape)
        total = work.emit("Add", (total, name), f"{result}/biased", spec, layer=node.layer)
    elif floats is not None:
        floats = _placed_floats(work, node, floats, shape)
    factor = factor.reshape(()) if factor.size == 1 else factor.reshape(shape)
    scaled_sum(work, node, total, factor, settled, floats=floats or "")


def _bias(work: Rewrite, node: Node, factor: Floats) -> tuple[NDArray[np.int32] | None, str | None]:
    """A bias in integers at the sums' scale, or the name of one in floats."""
    name = node.inputs[2] if len(node.inputs) > 2 else ""
    if not name:
        return None, None
    b = work.quantized(name, per_tensor=False)
    codes = None if b is None else work.constants.get(b.codes)
    if b is None or codes is None:
        return None, name
    axis = work.made[name].attributes.get("axis", 1)
    assert isinstance(axis, int)
    if b.scale.size > 1 and codes.ndim > 1 and axis % codes.ndim < codes.ndim - 1:
        return None, name
    scale, zero = b.scale.reshape(-1), b.zero.reshape(-1)
    if codes.dtype == np.int32 and not zero.any() and (scale == factor).all():
        return codes.astype(np.int32), None
    real = (codes.astype(np.int64) - zero).astype(np.float32) * scale
    return None, work.constant(f"{name}/known", real.reshape(codes.shape))


def _placed(bias: Array, shape: Shape) -> Array:
    """One number a channel in its place; what a Gemm adds has the result's axes already."""
    return bias.reshape(shape) if bias.ndim == 1 else bias


def _placed_floats(work: Rewrite, node: Node, name: str, shape: Shape) -> str:
    known, extents = work.constants.get(name), work.types[name].shape
    if known is not None:
        return work.constant(f"{node.outputs[0]}/floats", _placed(known, shape))
    if shape == (-1,):
        return name
    target = work.constant(f"{node.outputs[0]}/channels", np.array(shape, np.int64))
    spec = ("float32", (*extents, *shape[1:]))
    return work.emit("Reshape", (name, target), f"{node.outputs[0]}/placed", spec, layer=node.layer)
