"""How the values of a tensor are distributed, over any number of batches in bounded memory.

Bins are 2^e wide, from zero to both sides, with the least e for which they hold all values seen. A value that needs a
larger e joins bins in pairs, which is exact: floor(x / 2^(e + 1)) = floor(floor(x / 2^e) / 2). So the histogram depends
on the values alone, not on their order, nor on how they came in batches. Zeros are counted apart: rectified tensors are
full of them, and every format has a zero.
"""

from math import frexp, isfinite

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lowprec.errors import UsageError

HALF = 2048
"""Bins on each side of zero."""

AT_ONCE = 1 << 15
"""Values counted at once, which stay in the cache meanwhile."""

SMALL = 2.0**-60
"""Widths below which, or above whose inverse, float32 might not hold quotients."""

LEAST = -1000
"""The least e there is: of numbers that are smaller than 2^-1000 no bin tells more."""


class Histogram:
    """What was seen of a tensor: the least and the greatest value, how many, and `counts` of bins."""

    __slots__ = ("_exponent", "count", "counts", "high", "low", "zeros")

    def __init__(self) -> None:
        self.counts: NDArray[np.int64] = np.zeros(2 * HALF, np.int64)
        self.count = self.zeros = 0
        self.low = self.high = 0.0
        self._exponent: int | None = None

    def add(self, values: ArrayLike) -> None:
        """Values of another batch, all finite."""
        found = np.asarray(values)
        found = found.ravel() if found.dtype == np.float32 else found.astype(np.float64).ravel()
        if not found.size:
            return
        low, high = float(found.min()), float(found.max())
        if not isfinite(low) or not isfinite(high):  # what is NaN is the least, too
            raise UsageError("the values hold a NaN or an infinity: they have no range, give finite ones")
        zeros = found.size - int(np.count_nonzero(found))
        self._include(low, high, found.size, zeros)
        if zeros < found.size:
            self._widen(max(LEAST, frexp(max(-low, high))[1]))
            self._count(found)
            self.counts[HALF] -= zeros

    def _count(self, found: NDArray[np.floating]) -> None:
        """Each value in its bin. Times a power of two is exact in float32 too, unless it leaves its range."""
        per_width = 1 / self.width
        if not SMALL < self.width < 1 / SMALL:
            found = found.astype(np.float64)
        factor = found.dtype.type(per_width)
        for begin in range(0, found.size, AT_ONCE):
            places = np.floor(found[begin : begin + AT_ONCE] * factor).astype(np.intp)
            self.counts += np.bincount(places + HALF, minlength=2 * HALF)

    def join(self, other: "Histogram") -> None:
        """What another has seen, too."""
        if not other.count:
            return
        self._include(other.low, other.high, other.count, other.zeros)
        if other._exponent is not None:
            self._widen(other._exponent)
            assert self._exponent is not None
            self.counts += _joined(other.counts, self._exponent - other._exponent)

    @property
    def width(self) -> float:
        """Of a bin; 0 while there is none."""
        return 0.0 if self._exponent is None else float(np.ldexp(1.0 / HALF, self._exponent))

    @property
    def centres(self) -> NDArray[np.float64]:
        """The middle of each bin."""
        return np.asarray((np.arange(-HALF, HALF) + 0.5) * self.width, np.float64)

    @property
    def sides(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The bins below zero and those above, from zero outwards."""
        return self.counts[:HALF][::-1], self.counts[HALF:]

    def _include(self, low: float, high: float, count: int, zeros: int) -> None:
        self.low, self.high = (min(self.low, low), max(self.high, high)) if self.count else (low, high)
        self.count, self.zeros = self.count + count, self.zeros + zeros

    def _widen(self, exponent: int) -> None:
        """Bins that hold what is smaller than 2^exponent, or -2^exponent itself."""
        if self._exponent is None:
            self._exponent = exponent
        elif exponent > self._exponent:
            self.counts = _joined(self.counts, exponent - self._exponent)
            self._exponent = exponent


def _joined(counts: NDArray[np.int64], times: int) -> NDArray[np.int64]:
    """Each bin with its neighbour, as often as that."""
    for _ in range(min(times, HALF.bit_length())):
        pairs = counts.reshape(-1, 2).sum(axis=1)
        counts = np.zeros_like(counts)
        counts[HALF // 2 : HALF // 2 + HALF] = pairs
    return counts
