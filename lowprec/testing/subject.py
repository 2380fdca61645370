"""What is checked, and what is said of it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from lowprec.errors import shown
from lowprec.formats import Format
from lowprec.rounding import Rounding

Values: TypeAlias = NDArray[np.float32]
Words: TypeAlias = NDArray[np.uint32]
Doubles: TypeAlias = NDArray[np.float64]

Quantizer: TypeAlias = Callable[[Values, Words], Any]
"""Values and a word for each --> values, in anything that NumPy makes an array of."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One law that does not hold. Without a `p_value` it is certain."""

    law: str
    message: str
    p_value: float | None = None

    def __str__(self) -> str:
        chance = "" if self.p_value is None else f", {as_chance(self.p_value)}"
        return f"{self.law}: {self.message}{chance}"


class Failed(Exception):
    """The quantizer raised, or what it returned is no array of as many numbers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A quantizer and what it says of itself."""

    quantizer: Quantizer
    format: Format
    rounding: Rounding

    def __call__(self, x: Values, bits: Words) -> Doubles:
        """What the quantizer makes of copies, as float64."""
        try:
            with np.errstate(all="ignore"):
                result = np.asarray(self.quantizer(x.copy(), bits.copy())).astype(np.float64)
        except Exception as error:  # whatever another's code raises is a finding, not an accident of ours
            raise Failed(f"raises {type(error).__name__}: {shown(str(error))}") from error
        if result.shape != x.shape:
            raise Failed(f"returns an array of shape {result.shape} for one of shape {x.shape}")
        return result


def random_words(rng: np.random.Generator, count: int) -> Words:
    return rng.integers(0, 1 << 32, count, dtype=np.uint32)


def as_chance(p_value: float) -> str:
    """How small a p-value is, in powers of ten."""
    if p_value < 1e-300:
        return "p < 1e-300"
    power = int(np.ceil(np.log10(p_value)))
    return f"p < 1e{power}" if power < -2 else f"p = {p_value:.3f}"
