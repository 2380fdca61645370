"""Error bounds derived from the arithmetic, never from trial."""

import numpy as np
from numpy.typing import NDArray

from lowprec.convolution import Conv, convolve

UNIT = 2.0**-24  # half the distance of float32 neighbours, relative
EPILOGUE = 8  # roundings that a short epilogue of Lipschitz-1 operators adds, vector math's ulps included


def sum_bound(terms: int, magnitudes: NDArray[np.float64]) -> NDArray[np.float64]:
    """How far a float32 sum of `terms` products may be off, in any order: n u / (1 - n u) times the magnitudes' sum."""
    gamma = (terms + EPILOGUE) * UNIT
    return gamma / (1 - gamma) * magnitudes


def convolution_bound(
    conv: Conv, x: NDArray[np.float32], w: NDArray[np.float32], extra: NDArray[np.float32]
) -> NDArray[np.float64]:
    """`sum_bound` of a convolution to which `extra` (bias, residual) is added."""
    terms = w[0].size + 2
    return sum_bound(terms, convolve(conv, np.abs(x), np.abs(w)) + np.abs(extra.astype(np.float64)))
