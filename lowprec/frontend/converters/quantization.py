"""Quantized operators, exact: integers accumulate in int32, and one rounding makes the result.

y = saturate(round_half_even(x / scale) + zero point)          QuantizeLinear
x = (y - zero point) * scale                                   DequantizeLinear
"""

from dataclasses import replace
from typing import Any

import numpy as np
from tvm import relax

from lowprec.frontend.converters.convolution import convolve
from lowprec.frontend.converters.narrow_codes import decoded, float_codes, integer_codes, is_narrow_float
from lowprec.frontend.converters.site import Converter, Expr, Result, Shape, Site, constant
from lowprec.frontend.converters.windows import windows
from lowprec.frontend.randomness import WORDS_OF_QUANTIZE
from lowprec.manifest import NARROW_BITS
from lowprec.passes.drawing import drawn


def channel_shape(rank: int, axis: int, count: int) -> Shape:
    return tuple(count if k == axis else 1 for k in range(rank))


def parameter(site: Site, index: int, rank: int, axis: int, dtype: str, block: int = 0) -> Expr:
    """A scale or zero point, cast and shaped to broadcast over a tensor of this rank."""
    shape = site.shape(index)
    known = site.known(index)
    value = site.input(index) if known is None else None
    if np.prod(shape) == 1:
        target: Shape = ()
    elif len(shape) == 1:
        target = channel_shape(rank, axis, shape[0])
    else:
        target = shape
    if known is not None:
        cast = known.astype(np.float64 if dtype.startswith("float") else np.int64).reshape(target)
        return constant(spread_known(cast, axis, block, rank), dtype)
    value = value if site.dtype(index) == dtype else site.emit(decoded(site, index, dtype))
    value = value if shape == target else site.emit(relax.op.reshape(value, target))
    return site.emit(relax.op.repeat(value, block, axis)) if block and len(target) == rank else value


def spread_known(array: Any, axis: int, block: int, rank: int) -> Any:
    return np.repeat(array, block, axis) if block and array.ndim == rank else array


def zero_point(site: Site, index: int, rank: int, axis: int, dtype: str, block: int = 0) -> Expr | None:
    if not site.has(index):
        return None
    known = site.known(index)
    if known is not None and not known.any():
        return None
    return parameter(site, index, rank, axis, dtype, block)


def saturated(site: Site, value: Expr, dtype: str) -> Expr:
    """A whole-numbered float tensor as integers, held within their range."""
    limits = np.iinfo(dtype)
    kind = str(value.ty.dtype)
    low, high = constant(float(limits.min), kind), constant(float(limits.max), kind)
    held = site.emit(relax.op.minimum(site.emit(relax.op.maximum(value, low)), high))
    return relax.op.astype(held, dtype)


def rounded(site: Site, value: Expr, zero: Expr | None, dtype: str, words: Expr | None = None) -> Expr:
    """To nearest, or by words."""
    if is_narrow_float(dtype):
        return float_codes(site, value if zero is None else site.emit(relax.op.add(value, zero)), dtype)
    whole = site.emit(relax.op.round(value) if words is None else drawn(value, words))
    moved = whole if zero is None else site.emit(relax.op.add(whole, zero))
    return integer_codes(site, moved, dtype) if dtype in NARROW_BITS else saturated(site, moved, dtype)


def quantization_axis(site: Site) -> int:
    """The axis attribute; a vector over rank 1 has only one."""
    return site.axis("axis", 1) if site.rank() > 1 else 0


def convert_quantize(site: Site) -> Expr:
    axis, block = quantization_axis(site), site.integer("block_size", 0)
    if not site.out().dtype.startswith(("int", "uint")) and site.out().dtype not in NARROW_BITS:
        site.refuse(f"quantizing to {site.out().dtype} is not supported")
    if is_narrow_float(site.out().dtype) and not site.integer("saturate", 1):
        site.refuse("it has saturate=0; only numbers that saturate are supported")
    data = site.input(0) if site.dtype() == "float32" else site.emit(relax.op.astype(site.input(0), "float32"))
    scale = parameter(site, 1, site.rank(), axis, "float32", block)
    zero = zero_point(site, 2, site.rank(), axis, "float32", block)
    known = site.known(1)
    if known is None or (known != 1).any():
        data = site.emit(relax.op.divide(data, scale))
    words = site.input(WORDS_OF_QUANTIZE) if site.has(WORDS_OF_QUANTIZE) else None
    return rounded(site, data, zero, site.out().dtype, words)


def convert_dequantize(site: Site) -> Expr:
    axis, block = quantization_axis(site), site.integer("block_size", 0)
    kind = "float32" if is_narrow_float(site.dtype()) else "int32"
    wide = site.emit(decoded(site, 0, kind))
    zero = zero_point(site, 2, site.rank(), axis, kind, block)
    centred = wide if zero is None else site.emit(relax.op.subtract(wide, zero))
    real = site.emit(relax.op.astype(centred, "float32"))
    result = relax.op.multiply(real, parameter(site, 1, site.rank(), axis, "float32", block))
    return result if site.out().dtype == "float32" else relax.op.astype(site.emit(result), site.out().dtype)


def convert_dynamic_quantize(site: Site) -> Result:
    """The range always holds zero; 255 steps of it. Where all is zero, so is the scale, as ONNX's text divides it:
    ONNX Runtime gives 1 and onnx's evaluator 1 / 255, and in all three the codes stand for 0."""
    data, zero = site.input(0), constant(0, "float32")
    axes = list(range(site.rank()))
    low = site.emit(relax.op.minimum(site.emit(relax.op.min(data, axes)), zero))
    high = site.emit(relax.op.maximum(site.emit(relax.op.max(data, axes)), zero))
    scale = site.emit(relax.op.divide(site.emit(relax.op.subtract(high, low)), constant(255, "float32")))
    flat = site.emit(relax.op.equal(scale, zero))
    safe = site.emit(relax.op.where(flat, constant(1, "float32"), scale))
    start = site.emit(relax.op.divide(site.emit(relax.op.negative(low)), safe))
    point = site.emit(saturated(site, site.emit(relax.op.round(start)), "uint8"))
    real_point = site.emit(relax.op.astype(point, "float32"))
    return rounded(site, site.emit(relax.op.divide(data, safe)), real_point, "uint8"), scale, point


def sums_of(site: Site) -> str:
    """What products are summed in: those of 16 bits, which only the front end makes, in 64."""
    return site.out().dtype if site.out().dtype == "int64" else "int32"


def centred(site: Site, index: int, zero_index: int, axis: int) -> Expr:
    """An integer operand as wide as sums are, less its zero point."""
    kind = sums_of(site)
    known, zero = site.known(index), site.known(zero_index)
    rank = site.rank(index)
    if known is not None and (zero is not None or not site.has(zero_index)):
        offset = np.zeros((), np.int64) if zero is None else zero.astype(np.int64)
        shape = channel_shape(rank, axis % rank, offset.size) if offset.size > 1 else ()
        return constant(known.astype(np.int64) - offset.reshape(shape), kind)
    wide = site.emit(relax.op.astype(site.input(index), kind))
    point = zero_point(site, zero_index, rank, axis % rank, kind)
    return wide if point is None else site.emit(relax.op.subtract(wide, point))


def integer_convolution(site: Site, weight: int, zeros: tuple[int, int]) -> Expr:
    """Zero points leave before padding is laid, so that padding contributes nothing."""
    window = replace(windows(site, site.shape(weight)[2:]))
    data, kernel = centred(site, 0, zeros[0], 1), centred(site, weight, zeros[1], 0)
    return convolve(data, kernel, window, site.integer("group", 1))


def convert_conv_integer(site: Site) -> Expr:
    return integer_convolution(site, 1, (2, 3))


def requantized(site: Site, total: Expr, scales: tuple[int, int, int], zero: int, axis: int) -> Expr:
    """saturate(round(total * (x scale * w scale / y scale)) + zero point)."""
    rank = len(site.out().shape)
    factor = _known_factor(site, scales, rank, axis)
    if factor is None:
        first, second, last = (parameter(site, index, rank, axis, "float32") for index in scales)
        factor = site.emit(relax.op.divide(site.emit(relax.op.multiply(first, second)), last))
    real = site.emit(relax.op.multiply(site.emit(relax.op.astype(total, "float32")), factor))
    return rounded(site, real, zero_point(site, zero, rank, axis, "float32"), site.out().dtype)


def _known_factor(site: Site, scales: tuple[int, int, int], rank: int, axis: int) -> Expr | None:
    """The factor, if all three scales are constants."""
    known = [site.known(index) for index in scales]
    if any(scale is None for scale in known):
        return None
    x, w, y = (np.asarray(scale, np.float32).reshape(-1) for scale in known)
    factor = np.divide(x * w, y, dtype=np.float32)
    return constant(factor.reshape(channel_shape(rank, axis, factor.size) if factor.size > 1 else ()), "float32")


def convert_qlinear_conv(site: Site) -> Expr:
    total = site.emit(integer_convolution(site, 3, (2, 5)))
    if site.has(8):
        shape = channel_shape(site.rank(), 1, site.shape(8)[0])
        known = site.known(8)
        bias = site.emit(relax.op.reshape(site.input(8), shape)) if known is None else constant(known.reshape(shape))
        total = site.emit(relax.op.add(total, bias))
    return requantized(site, total, (1, 4, 6), 7, 1)


def integer_product(site: Site, right: int, zeros: tuple[int, int]) -> Expr:
    """Per-row zero points lie along A's rows, per-column ones along B's columns."""
    return relax.op.matmul(centred(site, 0, zeros[0], -2), centred(site, right, zeros[1], -1))


def convert_matmul_integer(site: Site) -> Expr:
    return integer_product(site, 1, (2, 3))


def convert_qlinear_matmul(site: Site) -> Expr:
    for index in (1, 2, 6, 7):
        if np.prod(site.shape(index)) != 1:
            site.refuse(f"input {site.node.inputs[index]!r} holds one number per row; only one per tensor is supported")
    total = site.emit(integer_product(site, 3, (2, 5)))
    return requantized(site, total, (1, 4, 6), 7, len(site.out().shape) - 1)


CONVERTERS: dict[str, Converter] = {
    "ConvInteger": convert_conv_integer,
    "DequantizeLinear": convert_dequantize,
    "DynamicQuantizeLinear": convert_dynamic_quantize,
    "MatMulInteger": convert_matmul_integer,
    "QLinearConv": convert_qlinear_conv,
    "QLinearMatMul": convert_qlinear_matmul,
    "QuantizeLinear": convert_quantize,
}
