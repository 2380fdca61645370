"""How far an array is from its reference: four numbers, NaN and infinities taken seriously.

    max_abs    the largest difference
    relative   that over the largest magnitude in the reference
    cosine     of the angle between the two as vectors
    sqnr_db    signal to noise: 10 log10(sum(reference^2) / sum(difference^2)); infinite when equal

NaN and infinities must stand at the same places, and are left out then; otherwise every number is at its worst.
"""

import dataclasses
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.generic]


@dataclass(frozen=True, slots=True, kw_only=True)
class Errors:
    """The distance of one array from its reference; the fields are explained above."""

    max_abs: float
    relative: float
    cosine: float
    sqnr_db: float

    def to_json(self) -> dict[str, float | None]:
        """JSON has no infinity: null stands for it."""
        return {name: number if math.isfinite(number) else None for name, number in dataclasses.asdict(self).items()}


WORST = Errors(max_abs=math.inf, relative=math.inf, cosine=-1.0, sqnr_db=-math.inf)


def compare(reference: Array, found: Array) -> Errors:
    """The distance of `found` from `reference`."""
    if reference.shape != found.shape:
        return WORST
    want, have = (array.astype(np.float64).reshape(-1) for array in (reference, found))
    finite = np.isfinite(want)
    if not finite.all() or not np.isfinite(have).all():
        if not np.array_equal(want[~finite], have[~finite], equal_nan=True) or not np.isfinite(have[finite]).all():
            return WORST
        want, have = want[finite], have[finite]
    return _compare_finite(want, have)


def _compare_finite(want: NDArray[np.float64], have: NDArray[np.float64]) -> Errors:
    if not want.size:
        return Errors(max_abs=0.0, relative=0.0, cosine=1.0, sqnr_db=math.inf)
    difference = have - want
    largest = float(np.abs(want).max())
    max_abs = float(np.abs(difference).max())
    # Scaled to the largest magnitude first, so that no square overflows or vanishes.
    signal, noise = _energy(want, largest), _energy(difference, largest)
    return Errors(
        max_abs=max_abs,
        relative=max_abs / largest if largest else max_abs,
        cosine=_cosine(want, have),
        sqnr_db=_decibels(signal, noise),
    )


def _energy(values: NDArray[np.float64], scale: float) -> float:
    scaled = values / (scale or 1.0)
    return float(np.dot(scaled, scaled))


def _decibels(signal: float, noise: float) -> float:
    if noise == 0:
        return math.inf
    return 10 * math.log10(signal / noise) if signal else -math.inf


def _cosine(want: NDArray[np.float64], have: NDArray[np.float64]) -> float:
    """Of two zero vectors, 1; of a zero vector and another, 0."""
    lengths = [float(np.abs(vector).max()) for vector in (want, have)]
    if 0.0 in lengths:
        return float(lengths[0] == lengths[1])
    one, other = want / lengths[0], have / lengths[1]
    return float(np.dot(one, other) / math.sqrt(np.dot(one, one) * np.dot(other, other)))
