"""Tensors as the oracle of quantized networks holds them: integers stay integers until somebody asks for numbers.

A DequantizeLinear's result is `Codes`, an integer layer's `Sums`; every other tensor is an array. `real` gives what
each stands for, where every step but the last is exact and each float32 operation rounds once:

    Codes:  fp32(q - zero) * scale
    Sums:   fp32(total) * fp32(scale / count), negative ones replaced by 0 if rectified
"""

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from lowprec.formats import Fixed
from lowprec.rounding import Rounding, round_to

Array = NDArray[np.generic]
Floats = NDArray[np.float32]
Ints = NDArray[Any]
"""Exact whole numbers: int64 or narrower, or float64 below 2^53."""

ONE = np.float32(1)
EXACT_FROM, WHOLE = np.float32(1 << 23), Fixed(25, 0)

WORDS = frozenset(("int8", "uint8", "int16", "uint16"))
"""What integer layers compute with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Codes:
    """Integers with scales and zero points that broadcast against them; `constant` if they are the model's own."""

    codes: Ints
    scale: Floats
    zero: Ints
    constant: bool = False

    @property
    def centred(self) -> Ints:
        """q - zero, exactly."""
        wide = np.int32 if self.codes.dtype.name in WORDS else np.int64
        return np.subtract(self.codes, self.zero, dtype=wide)

    @property
    def per_tensor(self) -> bool:
        return self.scale.size == self.zero.size == 1

    def per_index(self, axis: int) -> bool:
        """Whether scales and zero points are one for all, or one for each index of this axis."""
        return all(each.size in (1, each.shape[axis]) for each in (self.scale, self.zero))


@dataclass(frozen=True, slots=True, kw_only=True)
class Sums:
    """Exact int64 totals with a scale that broadcasts against them, each of `count` numbers if it is for an average."""

    total: NDArray[np.int64]
    scale: Floats
    count: Floats | np.float32 = ONE
    rectified: bool = False


Words: TypeAlias = NDArray[np.uint32]

Value: TypeAlias = Array | Codes | Sums


def real(value: Value) -> Array:
    """The numbers that a tensor stands for."""
    if isinstance(value, Codes):
        return np.asarray(value.centred.astype(np.float32) * value.scale, np.float32)
    if isinstance(value, Sums):
        scaled = np.asarray(value.total.astype(np.float32) * np.divide(value.scale, value.count), np.float32)
        return np.maximum(scaled, np.float32(0)) if value.rectified else scaled
    return value


def requantized(sums: Sums, scale: Floats, zero: Ints, dtype: str, words: Words | None = None) -> Ints:
    """clamp(rint(fp32(total) * fp32(its scale / fp32(scale * count))) + zero), and at least zero's own if rectified."""
    factor = np.divide(sums.scale, np.multiply(scale, sums.count, dtype=np.float32), dtype=np.float32)
    found = held(whole(sums.total.astype(np.float32) * factor, words), zero, dtype)
    return np.maximum(found, zero.astype(dtype)) if sums.rectified else found


def quantized(x: Floats, scale: Floats, zero: Ints, dtype: str, words: Words | None = None) -> Ints:
    """clamp(rint(x / scale) + zero)"""
    return held(whole(np.divide(x, scale, dtype=np.float32), words), zero, dtype)


def whole(steps: Floats, words: Words | None) -> Floats:
    """rint, or stochastic rounding by a word for each; beyond 2^23 a float32 is a whole number."""
    if words is None:
        return np.rint(steps)
    near = np.abs(steps) < EXACT_FROM
    drawn = round_to(np.where(near, steps, np.float32(0)), WHOLE, Rounding.STOCHASTIC, bits=words)
    return np.where(near, drawn, steps).astype(np.float32)


def held(whole: Floats, zero: Ints, dtype: str) -> Ints:
    """Whole numbers moved by the zero point and held within what the type has; a NaN becomes anything."""
    limits = np.iinfo(dtype)
    return np.clip(np.add(whole, zero, dtype=np.float64), limits.min, limits.max).astype(dtype)


def along(parameter: Array, axis: int, shape: tuple[int, ...], block: int = 0) -> Ints:
    """A scale or zero point shaped to broadcast: one for all, one for each index of an axis, or one for each block."""
    if block:
        return np.repeat(parameter, block, axis).take(np.arange(shape[axis]), axis)
    ones = [1] * len(shape)
    if parameter.size > 1:
        ones[axis] = parameter.size
    return parameter.reshape(ones)
