"""What is checked, and what is said of it."""

from collections.abc import Callable
from dataclasses import dataclass
from operator import index
from typing import Any, SupportsIndex, TypeAlias

import numpy as np
from numpy.typing import NDArray

from lowprec.errors import UsageError, is_integer, shown
from lowprec.formats import Format
from lowprec.rounding import Rounding

Values: TypeAlias = NDArray[np.float32]
Words: TypeAlias = NDArray[np.uint32]
Doubles: TypeAlias = NDArray[np.float64]

Quantizer: TypeAlias = Callable[[Values, Words], Any]
"""Values and a word for each --> values, in anything that NumPy makes an array of."""


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
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
                returned = self.quantizer(x.copy(), bits.copy())
        except Exception as error:  # whatever another's code raises is a finding, not an accident of ours
            raise Failed(f"raises {type(error).__name__}: {shown(str(error))}") from error
        result = _as_numbers(returned)
        if result.shape != x.shape:
            raise Failed(f"returns an array of shape {result.shape} for one of shape {x.shape}")
        return result


def _as_numbers(returned: Any) -> Doubles:
    if type(returned).__module__.partition(".")[0] == "torch":
        returned = returned.detach().cpu().double().numpy()
    try:
        found = np.asarray(returned)
    except (TypeError, ValueError) as error:
        raise Failed(f"returns {shown(returned)}, which is no array of numbers") from error
    if found.dtype.kind not in "fiub" and found.dtype.type.__module__ != "ml_dtypes":
        raise Failed(f"returns an array of {found.dtype}, which are no real numbers")
    with np.errstate(all="ignore"):
        return found.astype(np.float64)


def generator(seed: SupportsIndex, *more: int) -> np.random.Generator:
    """Random numbers for any integer."""
    if not is_integer(seed):
        raise UsageError(f"seed is {shown(seed)}: give an integer")
    return np.random.default_rng((index(seed) % (1 << 64), *more))


def random_words(rng: np.random.Generator, count: int) -> Words:
    return rng.integers(0, 1 << 32, count, dtype=np.uint32)


def as_chance(p_value: float) -> str:
    """How small a p-value is, in powers of ten."""
    if p_value < 1e-300:
        return "p < 1e-300"
    power = int(np.ceil(np.log10(p_value)))
    return f"p < 1e{power}" if power < -2 else f"p = {p_value:.3f}"
