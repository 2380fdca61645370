"""Operators that are integer by themselves, as ONNX defines them; requantizing is one multiplication by

    fp32(fp32(sx * sw) / sy).

DynamicQuantizeLinear divides a range by 255, and so has scale 0 where all is zero, which stays zero.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from lowprec.frontend.graph import Node
from lowprec.oracle_layers import sums_of
from lowprec.oracle_values import Array, Codes, Ints, Sums, along, held, requantized
from lowprec.oracle_windows import Extents

Arrays = Sequence[Array | None]


def _qlinear_conv(node: Node, arrays: Arrays, shape: Extents) -> Sequence[Array]:
    x, sx, zx, w, sw, zw, sy, zy = _all(arrays[:8])
    bias = arrays[8] if len(arrays) > 8 else None
    total = sums_of(node, _codes(x, zx).centred, _codes(w, along(zw, 0, w.shape)).centred, shape)
    channels = (-1, *(1,) * (len(shape) - 2))
    if bias is not None:
        total = total + bias.astype(np.int64).reshape(channels)
    scale = np.multiply(sx.reshape(()), sw, dtype=np.float32).reshape(channels)
    return [requantized(Sums(total=total, scale=scale), sy.reshape(()), zy.reshape(()), zy.dtype.name)]


def _qlinear_matmul(node: Node, arrays: Arrays, shape: Extents) -> Sequence[Array]:
    a, sa, za, b, sb, zb, sy, zy = _all(arrays)
    total = sums_of(node, _codes(a, _rows(za, a.ndim)).centred, _codes(b, _columns(zb)).centred, shape)
    scale = np.multiply(_rows(sa, len(shape)), _columns(sb), dtype=np.float32)
    zero = _rows(zy, len(shape))
    return [requantized(Sums(total=total, scale=scale), _rows(sy, len(shape)), zero, zy.dtype.name)]


def _conv_integer(node: Node, arrays: Arrays, shape: Extents) -> Sequence[Array]:
    x, w, zx, zw = _with_zeros(arrays)
    return [sums_of(node, _codes(x, zx).centred, _codes(w, along(zw, 0, w.shape)).centred, shape).astype(np.int32)]


def _matmul_integer(node: Node, arrays: Arrays, shape: Extents) -> Sequence[Array]:
    a, b, za, zb = _with_zeros(arrays)
    total = sums_of(node, _codes(a, _rows(za, a.ndim)).centred, _codes(b, _columns(zb)).centred, shape)
    return [total.astype(np.int32)]


def _dynamic_quantize(_node: Node, arrays: Arrays, _shape: Extents) -> Sequence[Array]:
    (x,) = _all(arrays)
    low, high = np.float32(min(x.min(), 0)), np.float32(max(x.max(), 0))
    scale = np.float32(high - low) / np.float32(255)
    step = scale or np.float32(1)
    zero = held(np.rint(-low / step), np.zeros((), np.uint8), "uint8")
    return [held(np.rint(x / step), zero, "uint8"), np.asarray(scale), zero]


def _codes(codes: Array, zero: Ints) -> Codes:
    return Codes(codes=codes, scale=np.ones(1, np.float32), zero=zero if zero.size > 1 else zero.reshape(()))


def _rows(parameter: Ints, rank: int) -> Ints:
    """One for all, one for each row, or what broadcasts already."""
    if parameter.size == 1:
        return parameter.reshape(())
    return parameter[:, np.newaxis] if parameter.ndim == 1 and rank > 1 else parameter


def _columns(parameter: Ints) -> Ints:
    """One for all, one for each column, or what broadcasts already."""
    return parameter.reshape(()) if parameter.size == 1 else parameter


def _all(arrays: Arrays) -> list[Ints]:
    return [array for array in arrays if array is not None]


def _with_zeros(arrays: Arrays) -> list[Ints]:
    """Both operands and both zero points, which are 0 where absent."""
    given = [*arrays, None, None][:4]
    return [np.zeros((), np.int8) if array is None else array for array in given]


OPERATORS: Mapping[str, Callable[[Node, Arrays, Extents], Sequence[Array]]] = {
    "ConvInteger": _conv_integer,
    "DynamicQuantizeLinear": _dynamic_quantize,
    "MatMulInteger": _matmul_integer,
    "QLinearConv": _qlinear_conv,
    "QLinearMatMul": _qlinear_matmul,
}
