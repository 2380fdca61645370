"""The range of a tensor's values that integers are spread over, from what was seen of it: `Method`.

- minmax: all of it;
- percentile: all but a share of the values, the outermost;
- mse: of the ranges that shrink from all of it, the one whose integers are nearest in the mean square;
- entropy: the one whose integers keep most of the distribution, by the Kullback-Leibler divergence of magnitudes
  (Migacz 2017).

A range holds zero, which padding and rectified values need exactly. Of low..high with integers from a to b,

    scale = (high - low) / (b - a)        zero_point = round(a - low / scale), within a..b                      (1)
"""

from enum import StrEnum
from math import inf

import numpy as np
from numpy.typing import NDArray

from lowprec.errors import UsageError
from lowprec.formats import Int
from lowprec.histograms import Histogram
from lowprec.quantizing import SMALLEST

Range = tuple[float, float]
Floats = NDArray[np.float64]

PERCENTILE = 99.99
"""Of the values, what is kept by default."""

SHRINKING = np.linspace(1.0, 0.2, 81)
"""What mse tries."""

WORDS = 128
"""Magnitudes that an 8-bit integer tells apart: what entropy groups bins into."""


class Method(StrEnum):
    """How a range is found."""

    MINMAX = "minmax"
    PERCENTILE = "percentile"
    MSE = "mse"
    ENTROPY = "entropy"


def find_range(seen: Histogram, method: Method, fmt: Int, *, percentile: float = PERCENTILE) -> Range:
    """The range that integers of a format should cover."""
    if not seen.count:
        raise UsageError("no values were seen: give at least one sample")
    if not 0 < percentile <= 100:
        raise UsageError(f"percentile is {percentile:g}: give more than 0, up to 100")
    whole = min(seen.low, 0.0), max(seen.high, 0.0)
    if not seen.width:
        return whole
    match method:
        case Method.MINMAX:
            return whole
        case Method.PERCENTILE:
            return _percentile(seen, whole, percentile)
        case Method.MSE:
            return min((_shrunk(whole, by) for by in SHRINKING), key=lambda tried: mean_square(seen, tried, fmt))
        case Method.ENTROPY:
            return _within(whole, _least_divergent(seen))


def scale_and_zero(found: Range, fmt: Int) -> tuple[np.float32, int]:
    """Equation 1; a range of zero width has scale 1."""
    (low, high), (bottom, top) = found, fmt.codes
    if low == high:
        return np.float32(1), int(np.clip(0, bottom, top))
    with np.errstate(over="ignore", under="ignore"):
        scale = max(np.float32((high - low) / (top - bottom)), SMALLEST)
    if not np.isfinite(scale):
        raise UsageError(f"the values reach from {low:g} to {high:g}: no float32 is a scale for them, divide first")
    return scale, int(np.clip(np.rint(bottom - low / float(scale)), bottom, top))


def mean_square(seen: Histogram, found: Range, fmt: Int) -> float:
    """Of the differences between the values, each in the middle of its bin, and their integers; zeros have none."""
    scale, zero = scale_and_zero(found, fmt)
    bottom, top = fmt.codes
    filled = seen.counts > 0
    centres = seen.centres[filled]
    codes = np.clip(np.rint(centres / float(scale)) + zero, bottom, top)
    off = (codes - zero) * float(scale) - centres
    return float(np.square(off) @ seen.counts[filled]) / seen.count


def _percentile(seen: Histogram, whole: Range, percentile: float) -> Range:
    """Where the share outside is at most what is given up, half of it on each side that has values."""
    allowed = seen.count * (1 - percentile / 100) / sum(end != 0 for end in whole)
    below, above = (_reach(counts, allowed) * seen.width for counts in seen.sides)
    return _within(whole, (-below, above))


def _reach(counts: NDArray[np.int64], allowed: float) -> int:
    """Bins from zero outwards beyond which no more than `allowed` values lie."""
    beyond = np.cumsum(counts[::-1])
    return len(counts) - int(np.searchsorted(beyond, allowed, side="right"))


def _least_divergent(seen: Histogram) -> Range:
    """Of magnitudes cut off at some bin, the cut that loses least; both sides of zero are cut there."""
    below, above = seen.sides
    magnitudes = (above + below).astype(np.float64)
    last = int(np.flatnonzero(magnitudes)[-1]) + 1
    tried = range(min(WORDS, last), last + 1, max(1, last // (4 * WORDS)))
    best = min(tried, key=lambda bins: _divergence(magnitudes, bins))
    return -best * seen.width, best * seen.width


def _divergence(magnitudes: Floats, bins: int) -> float:
    """Of the first bins, the rest put into the last of them, from the same in WORDS groups spread over bins that hold
    any."""
    kept = magnitudes[:bins]
    groups = np.arange(bins) * WORDS // bins
    filled = kept > 0
    sums, sizes = (np.bincount(groups, weights, WORDS) for weights in (kept, filled.astype(np.float64)))
    spread = np.where(filled, sums[groups] / np.maximum(sizes[groups], 1.0), 0.0)
    cut = kept.copy()
    cut[-1] += magnitudes[bins:].sum()
    if not spread.any():
        return inf
    p, q = cut / cut.sum(), np.maximum(spread / spread.sum(), np.finfo(np.float64).tiny)
    some = p > 0
    return float(np.sum(p[some] * np.log(p[some] / q[some])))


def _shrunk(whole: Range, by: float) -> Range:
    return whole[0] * by, whole[1] * by


def _within(whole: Range, found: Range) -> Range:
    return max(whole[0], found[0]), min(whole[1], found[1])
