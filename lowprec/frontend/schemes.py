"""How numbers become words: the scales of tensors and of weights.

Bytes: tensors are uint8 with a scale and a zero point, weights int8 with a scale for each output channel. FixedPoint:
both are two's complement words of I + F bits, and a tensor (with those tied to it) has one whole number e >= 0,

    value = code * 2^(e - F),   -2^(I+F-1) <= code < 2^(I+F-1)                                                      (1)

If literal, e = 0 and what lies outside saturates; else e is the smallest with -2^(I-1+e) <= value < 2^(I-1+e) for all
values. Words stand in int8, or in int16 if they are longer; if they are shorter than that, a Clip holds tensors within
equation 1.
"""

import math
from dataclasses import dataclass
from typing import ClassVar, TypeAlias

import numpy as np
from numpy.typing import NDArray

from lowprec.encoding import code_dtype
from lowprec.errors import Unsupported, UsageError
from lowprec.formats import LONGEST_WORD, SHORTEST_WORD, Fixed, Int
from lowprec.frontend.graph import Array
from lowprec.quantizing import fitted_scale
from lowprec.ranges import Range, scale_and_zero

UINT8, INT8 = Int(8, signed=False), Int(8)
NORMAL = np.finfo(np.float32).tiny
"""The smallest float32 of full precision: a scale below it is not one."""
ZEROS = (0.0, 1.0)
"""The range of a tensor that was only seen as zeros: a bias behind it is counted in units of its scale."""
LARGEST = float(np.finfo(np.float32).max)
HIGHEST = 128
"""The power of two that float32 ends before."""

Unit: TypeAlias = tuple[np.float32, int]
"""A scale and a zero point."""


@dataclass(frozen=True, slots=True)
class Bytes:
    """8 bits."""

    literal: ClassVar[bool] = False
    word: ClassVar[str] = "uint8"
    opset: ClassVar[int] = 13
    """The first in which QuantizeLinear and DequantizeLinear have an axis."""
    weight_word: ClassVar[str] = "int8"
    weight_codes: ClassVar[tuple[int, int]] = (-127, 127)
    """-128 is not used, so that codes are symmetric."""
    highest: ClassVar[int] = UINT8.codes[1]
    """Of a tensor's codes."""

    def unit(self, seen: Range) -> Unit:
        """Values too small for a scale of full precision count as zeros."""
        scale, zero = scale_and_zero(seen, UINT8)
        return (scale, zero) if scale >= NORMAL and seen != (0.0, 0.0) else scale_and_zero(ZEROS, UINT8)

    def weight_scale(self, weights: Array, axis: int) -> NDArray[np.float32]:
        """One for each index of the axis that counts output channels."""
        return fitted_scale(weights, INT8, axis=axis)

    def ends(self, scale: np.float32) -> Range | None:
        """All codes of a byte are used."""
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class FixedPoint:
    """Words of `format`; scales are known without ranges if `literal`."""

    format: Fixed
    literal: bool = False

    def __post_init__(self) -> None:
        if not SHORTEST_WORD <= self.format.bits <= LONGEST_WORD:
            allowed = f"{SHORTEST_WORD} to {LONGEST_WORD}"
            raise Unsupported(f"{self.format} is a word of {self.format.bits} bits: layers are computed with {allowed}")

    @property
    def word(self) -> str:
        return code_dtype(self.format).name

    @property
    def opset(self) -> int:
        """The first in which QuantizeLinear and DequantizeLinear have words of 16 bits, or an axis."""
        return 21 if self.word == "int16" else 13

    @property
    def highest(self) -> int:
        """Of a tensor's codes."""
        return self.format.codes[1]

    @property
    def weight_word(self) -> str:
        return self.word

    @property
    def weight_codes(self) -> tuple[int, int]:
        return self.format.codes

    def unit(self, seen: Range) -> Unit:
        """Equation 1; there are no zero points."""
        return self._scale(seen), 0

    def weight_scale(self, weights: Array, axis: int) -> NDArray[np.float32]:
        """One for all output channels."""
        return np.array(self._scale((float(np.min(weights)), float(np.max(weights)))))

    def ends(self, scale: np.float32) -> Range | None:
        """What the lowest and the highest code stand for, where the word has others; float32 holds both."""
        if self.format.bits == np.iinfo(self.word).bits:
            return None
        low, high = (code * float(scale) for code in self.format.codes)
        return max(low, -LARGEST), high

    def _scale(self, seen: Range) -> np.float32:
        exponent = 0 if self.literal else _exponent(seen, self.format)
        return np.float32(2.0 ** (exponent - self.format.fraction))


Scheme: TypeAlias = Bytes | FixedPoint

BYTES = Bytes()


def _exponent(seen: Range, fmt: Fixed) -> int:
    """The smallest e >= 0 of equation 1 that holds a range."""
    power = max(_power(-seen[0], inclusive=True), _power(seen[1], inclusive=False), fmt.integer - 1)
    if power > HIGHEST:
        raise UsageError(f"the values reach from {seen[0]:g} to {seen[1]:g}: no float32 does, divide first")
    return power - (fmt.integer - 1)


def _power(magnitude: float, *, inclusive: bool) -> int:
    """The smallest p with magnitude < 2^p, or <= 2^p; 0 for what is not above zero."""
    if magnitude <= 0:
        return 0
    share, power = math.frexp(magnitude)
    return power - 1 if inclusive and share == 0.5 else power
