"""Products between dequantized operands as products of integers.

    y = Conv(dequantized x, dequantized w, dequantized b)
    -->  y = Cast(ConvInteger(x, w) + b) * (sx * sw)

Gemm and MatMul are as Conv. Declines when: an operand is not of bytes, weights are not constant, or have scales along
another axis than the output channels; a bias is neither constant nor at the sums' scale; Gemm's alpha or beta is not 1.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lowprec.frontend.graph import Array, Attribute, Node
from lowprec.frontend.integer_rewrite import BYTES, Floats, Quantized, Rewrite
from lowprec.frontend.integer_scaling import Settled, scaled_sum


@dataclass(frozen=True, slots=True, kw_only=True)
class _Operands:
    """Of an integer product: both sides, and the bias as integers or as floats, along the channel axis."""

    x: Quantized
    w: Quantized
    codes: Array
    bias: NDArray[np.int64] | None
    floats: Floats | None

    @property
    def factor(self) -> Floats:
        return (self.x.scale.reshape(()) * self.w.scale.reshape(-1)).astype(np.float32)


def _operands(work: Rewrite, node: Node, channel_axis: int) -> _Operands | None:
    """None where it is no product of bytes."""
    x, w = (work.quantized(name, per_tensor=first) for name, first in ((node.inputs[0], True), (node.inputs[1], False)))
    if x is None or w is None or w.codes not in work.constants:
        return None
    codes = work.constants[w.codes]
    if work.types[x.codes].dtype not in BYTES or codes.dtype.name not in BYTES:
        return None
    axis = work.made[node.inputs[1]].attributes.get("axis", 1)
    assert isinstance(axis, int)
    if w.scale.size > 1 and axis % codes.ndim != channel_axis % codes.ndim:
        return None
    columns = codes.shape[channel_axis]
    bias, floats = _bias(work, node, (x.scale.reshape(()) * w.scale.reshape(-1)).astype(np.float32), columns)
    if bias is None and floats is None and len(node.inputs) > 2 and node.inputs[2]:
        return None
    return _Operands(x=x, w=w, codes=codes, bias=bias, floats=floats)


def _bias(work: Rewrite, node: Node, factor: Floats, columns: int) -> tuple[NDArray[np.int64] | None, Floats | None]:
    """A bias in integers at the sums' scale, or one in floats."""
    name = node.inputs[2] if len(node.inputs) > 2 else ""
    if not name:
        return None, None
    given = work.constants.get(name)
    if given is not None:
        return (None, given.astype(np.float32).reshape(-1)) if given.size == columns else (None, None)
    b = work.quantized(name, per_tensor=False)
    if b is None or b.codes not in work.constants or b.zero.any():
        return None, None
    codes = work.constants[b.codes]
    same = codes.size == columns and np.array_equal(
        np.broadcast_to(b.scale.reshape(-1), columns), np.broadcast_to(factor, columns)
    )
    return (codes.astype(np.int64).reshape(-1), None) if same else (None, None)


def convolution(work: Rewrite, node: Node, settled: Settled) -> bool:
    operands = _operands(work, node, 0)
    if operands is None:
        return False
    rank = len(work.types[node.outputs[0]].shape)
    zeros = _zero_points(work, node, operands, operands.w.zero.reshape(-1))
    total = _sum(work, node, "ConvInteger", (operands.x.codes, operands.w.codes, *zeros), node.attributes)
    _finish(work, node, operands, total, (-1, *(1,) * (rank - 2)), settled)
    return True


def gemm(work: Rewrite, node: Node, settled: Settled) -> bool:
    attributes = node.attributes
    if attributes.get("transA", 0) or attributes.get("alpha", 1.0) != 1 or attributes.get("beta", 1.0) != 1:
        return False
    turned = bool(attributes.get("transB", 0))
    operands = _operands(work, node, 0 if turned else 1)
    if operands is None:
        return False
    codes = operands.w.codes
    if turned:
        codes = work.constant(f"{codes}/turned", np.ascontiguousarray(operands.codes.T))
    zeros = _zero_points(work, node, operands, operands.w.zero.reshape(-1))
    total = _sum(work, node, "MatMulInteger", (operands.x.codes, codes, *zeros), {})
    _finish(work, node, operands, total, (-1,), settled)
    return True


def matmul(work: Rewrite, node: Node, settled: Settled) -> bool:
    if len(work.types[node.inputs[1]].shape) != 2 or len(work.types[node.inputs[0]].shape) < 2:
        return False
    operands = _operands(work, node, 1)
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
    spec = ("int32", work.types[result].shape)
    return work.emit(op, inputs, f"{result}/sum", spec, layer=node.layer, attributes=attributes)


def _finish(
    work: Rewrite, node: Node, operands: _Operands, total: str, shape: tuple[int, ...], settled: Settled
) -> None:
    """Bias and scale; `shape` is that of what there is one of for each channel."""
    result = node.outputs[0]
    if operands.bias is not None:
        name = work.constant(f"{result}/bias", operands.bias.astype(np.int32).reshape(shape))
        spec = ("int32", work.types[result].shape)
        total = work.emit("Add", (total, name), f"{result}/biased", spec, layer=node.layer)
    factor = operands.factor
    factor = factor.reshape(()) if factor.size == 1 else factor.reshape(shape)
    floats = "" if operands.floats is None else work.constant(f"{result}/floats", operands.floats.reshape(shape))
    scaled_sum(work, node, total, factor, settled, floats=floats)
