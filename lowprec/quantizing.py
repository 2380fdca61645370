"""Values into a `QTensor`: divided by a scale, rounded, moved by a zero point.

    code = round(x / scale) + zero_point, brought into the format's range                 (equation 11)

The quotient is one division in the type of the values, as ONNX's QuantizeLinear has it.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lowprec.encoding import as_codes, encode
from lowprec.errors import UsageError, is_integer, shown
from lowprec.formats import Format, Int, limits
from lowprec.qtensor import QTensor, along, require_scales, require_zeros
from lowprec.rounding import (
    DRAWN,
    Reals,
    Rounding,
    as_array,
    as_draws,
    as_reals,
    refuse_nan,
    require_format,
    require_rounding,
    rounded,
    whole,
)

SMALLEST = np.float32(2.0**-149)
"""The smallest scale there is."""


def quantize(
    x: ArrayLike,
    fmt: Format,
    rounding: Rounding = Rounding.NEAREST_EVEN,
    *,
    scale: ArrayLike | None = None,
    zero_point: ArrayLike | None = None,
    axis: int | None = None,
    bits: ArrayLike | None = None,
    bits_used: int = DRAWN,
) -> QTensor:
    """`x / scale`, rounded to `fmt`, plus the zero point; without a scale `x` is taken as it is.

    With a scale for each index of an axis, give `axis`. A zero point is for `Int` alone. `fitted_scale` finds a scale.
    """
    values = as_reals(x)
    require_rounding(fmt, rounding)
    axis = None if axis is None else _axis(axis, values.ndim)
    scales, zeros = _scales(scale, values, axis), _zeros(zero_point, values, fmt, axis)
    draws = as_draws(bits, values, rounding, bits_used)
    bits_used = int(bits_used)
    refuse_nan(values, fmt)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        parts = np.asarray(values / along(scales, axis, values.ndim).astype(values.dtype), values.dtype)
    if isinstance(fmt, Int):
        steps = whole(parts.astype(np.float64), rounding, draws, bits_used)
        codes = as_codes(steps + along(zeros, axis, values.ndim), fmt)
    else:
        codes = encode(rounded(parts, fmt, rounding, draws, bits_used), fmt)
    count = max(scales.size, zeros.size)
    scales, zeros = np.broadcast_to(scales, count).copy(), np.broadcast_to(zeros, count).copy()
    return QTensor(codes=codes, format=fmt, scale=scales, zero_point=zeros, axis=axis)


def fitted_scale(x: ArrayLike, fmt: Format, *, axis: int | None = None) -> NDArray[np.float32]:
    """The smallest scale with which nothing in `x` saturates, of the tensor or of each index of `axis`; 1 for zeros."""
    values = as_reals(x)
    require_format(fmt)
    refuse_nan(values, fmt)
    low, top = limits(fmt, values.dtype.type)
    if top <= 0:
        raise UsageError(f"{fmt} has no number above zero: no scale makes one fit")
    if low >= 0 and (values < 0).any():
        raise UsageError(f"the values go below zero and {fmt} does not: give a zero point, or use signed words")
    largest = _largest(np.abs(values), axis)
    if not np.isfinite(largest).all():
        raise UsageError("the values hold an infinity: no scale makes it finite, clip them first")
    with np.errstate(over="ignore"):
        scales = np.maximum((largest / top).astype(np.float32), SMALLEST)
        while (beyond := largest / scales.astype(values.dtype) > top).any():
            scales = np.where(beyond, np.nextafter(scales, np.float32(np.inf)), scales)
    if not np.isfinite(scales).all():
        raise UsageError(f"the values reach {float(largest.max()):g}: no float32 is a scale for them, divide first")
    return np.asarray(np.where(largest > 0, scales, np.float32(1)), np.float32)


def _largest(magnitudes: Reals, axis: int | None) -> Reals:
    if axis is None:
        return np.atleast_1d(magnitudes.max(initial=0.0))
    kept = _axis(axis, magnitudes.ndim)
    return np.asarray(magnitudes.max(axis=tuple(i for i in range(magnitudes.ndim) if i != kept), initial=0.0))


def _scales(scale: ArrayLike | None, values: Reals, axis: int | None) -> NDArray[np.float32]:
    given = np.atleast_1d(as_array(1.0 if scale is None else scale, "scale"))
    if given.dtype.kind not in "fiu" and given.dtype.type.__module__ != "ml_dtypes":
        raise UsageError(f"a scale is {shown(scale)}: give finite numbers above zero")
    with np.errstate(over="ignore", under="ignore"):
        scales = given.astype(np.float32)
    require_scales(scales)
    _require_fit("scale", scales.shape, values, axis)
    return scales


def _zeros(zero_point: ArrayLike | None, values: Reals, fmt: Format, axis: int | None) -> NDArray[np.int32]:
    if zero_point is None:
        return np.zeros(1, np.int32)
    given = np.atleast_1d(as_array(zero_point, "zero_point"))
    if not isinstance(fmt, Int):
        raise UsageError(f"{fmt} has no zero point: leave it out, or quantize to Int")
    require_zeros(given, fmt)
    _require_fit("zero_point", given.shape, values, axis)
    return given.astype(np.int32)


def _require_fit(name: str, shape: tuple[int, ...], values: Reals, axis: int | None) -> None:
    length = 1 if axis is None else values.shape[axis]
    if shape not in {(1,), (length,)} or shape == (0,):
        allowed = "one number, or `axis` and as many as it is long" if axis is None else f"1 or {length} numbers"
        raise UsageError(f"{name} is of shape {shape} for values of shape {values.shape}: give {allowed}")


def _axis(axis: int, rank: int) -> int:
    if not is_integer(axis) or not -rank <= axis < rank:
        allowed = f"give an integer from {-rank} to {rank - 1}" if rank else "leave it out"
        raise UsageError(f"axis is {shown(axis)} for {rank} dimensions: {allowed}")
    return int(axis) % rank
