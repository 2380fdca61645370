"""Numbers of 2, 4 and 8 bits that compiled code does not know: each is a byte, its lowest bits those of the number.

Every such type has at most 256 codes, so a table says what each of them stands for, exactly. A float goes to the code
of the nearest number, of two that are equally near to the even one; what lies beyond the largest goes to that.
"""

from typing import Any

import numpy as np
from tvm import relax, te, tirx

from lowprec.frontend.converters.site import Expr, Site, constant
from lowprec.frontend.graph import Array
from lowprec.manifest import NARROW_BITS

BYTE = "uint8"
INFINITY_BITS = 0x7F800000


def carrier(dtype: str) -> str:
    """The type that compiled code has for a type of the model."""
    return BYTE if dtype in NARROW_BITS else dtype


def carried(array: Array) -> Array:
    """A constant as compiled code holds it."""
    return array.view(np.uint8) if array.dtype.name in NARROW_BITS else array


def is_narrow_float(dtype: str) -> bool:
    return dtype in NARROW_BITS and "float" in dtype


def numbers(dtype: str) -> Array:
    """What each code stands for, in the order of codes."""
    return np.arange(2 ** NARROW_BITS[dtype], dtype=np.uint8).view(dtype).astype(np.float32)


def decoded(site: Site, index: int, dtype: str) -> Expr:
    """An input as numbers of a wider type."""
    kind = site.dtype(index)
    if kind not in NARROW_BITS:
        return relax.op.astype(site.input(index), dtype)
    mask = constant(2 ** NARROW_BITS[kind] - 1, BYTE)
    codes = site.emit(relax.op.bitwise_and(site.input(index), mask))
    return relax.op.take(constant(numbers(kind), dtype), site.emit(relax.op.astype(codes, "int32")), mode="clip")


def integer_codes(site: Site, whole: Expr, dtype: str) -> Expr:
    """Whole numbers as codes, held within the range of their type."""
    ends = numbers(dtype)
    low, high = constant(float(ends.min()), "float32"), constant(float(ends.max()), "float32")
    held = site.emit(relax.op.minimum(site.emit(relax.op.maximum(whole, low)), high))
    signed = site.emit(relax.op.astype(held, "int32"))
    mask = constant(2 ** NARROW_BITS[dtype] - 1, "int32")
    return relax.op.astype(site.emit(relax.op.bitwise_and(signed, mask)), BYTE)


def float_codes(site: Site, value: Expr, dtype: str) -> Expr:
    """Numbers as the nearest codes: a code is how many of the `steps` a magnitude has reached, and its sign's bit."""
    sign = 2 ** (NARROW_BITS[dtype] - 1)
    reached, nan = steps(dtype), nan_code(dtype)

    def compute(x: te.Tensor, thresholds: te.Tensor) -> te.Tensor:
        k = te.reduce_axis((0, reached.size), name="k")

        def counted(*at: Any) -> Any:
            return te.sum((te.abs(x(*at)) >= thresholds[k]).astype("int32"), axis=k)

        counts = te.compute(x.shape, counted, name="counts")

        def coded(*at: Any) -> Any:
            word = tirx.reinterpret("int32", x(*at))
            is_nan = (word & 0x7FFFFFFF) > INFINITY_BITS  # TVM takes x != x to be false
            magnitude = tirx.Select(is_nan, tirx.const(nan, "int32"), counts(*at))
            return tirx.Select(word < 0, magnitude + sign, magnitude).astype(BYTE)

        return te.compute(x.shape, coded, name="codes")

    return site.te(compute, value, constant(reached, "float32"))


def steps(dtype: str) -> Array:
    """From which float32 on a magnitude has each code but the first; from the middle itself where that code is even."""
    ends = _magnitudes(dtype).astype(np.float64)
    middles = ((ends[1:] + ends[:-1]) / 2).astype(np.float32)
    even = np.arange(1, ends.size) % 2 == 0
    return np.where(even, middles, np.nextafter(middles, np.float32(np.inf)))


def nan_code(dtype: str) -> int:
    """The first code that is no number; 0 of a type that has none."""
    half = numbers(dtype)[: 2 ** (NARROW_BITS[dtype] - 1)]
    return int(np.argmax(np.isnan(half)))


def _magnitudes(dtype: str) -> Array:
    """The finite numbers from 0 on, which lie in the order of their codes."""
    half = numbers(dtype)[: 2 ** (NARROW_BITS[dtype] - 1)]
    return half[np.isfinite(half)]
