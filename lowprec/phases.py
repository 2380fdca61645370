"""A convolution with a stride as one without, of more channels: what fast algorithms need, which know no stride.

Along an axis of k taps with stride s, tap t = u * s + f is number u of phase f. With T = ceil(k / s),

    y[o] = sum over t of x[o * s + t] * w[t] = sum over phases f, and u < T, of x_f[o + u] * w_f[u]         (1)
    x_f[i] = x[i * s + f]        w_f[u] = w[u * s + f], zero beyond the last tap

The first k - s * (T - 1) phases of an axis are full, the others short: they have one tap less. Winograd's product at
infinity is of the last taps alone, so it has nothing to sum over short phases. Phases lie as channels in an order in
which those that are full along an axis are neighbours:

    high full, wide short  |  both full  |  high short, wide full  |  both short                           (2)
"""

from dataclasses import dataclass
from itertools import product
from math import ceil, prod

import numpy as np
from numpy.typing import NDArray

from lowprec.convolution import Conv

Pair = tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Region:
    """Phases of two axes, from `first` on, `counts` of each; `short` along which axes."""

    first: Pair
    counts: Pair
    short: tuple[bool, bool]

    @property
    def size(self) -> int:
        """How many phases."""
        return prod(self.counts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Phases:
    """Those of the last two axes, a missing one having one tap."""

    kernel: Pair
    strides: Pair

    @property
    def taps(self) -> Pair:
        """The most that a phase has."""
        high, wide = (ceil(k / s) for k, s in zip(self.kernel, self.strides, strict=True))
        return high, wide

    @property
    def regions(self) -> tuple[Region, ...]:
        """In the order of (2), those that there are."""
        high, wide = (self._parts(axis) for axis in (0, 1))
        order = ((False, True), (False, False), (True, False), (True, True))
        found = (
            Region(first=(high[i][0], wide[j][0]), counts=(high[i][1], wide[j][1]), short=(i, j)) for i, j in order
        )
        return tuple(region for region in found if region.size)

    def _parts(self, axis: int) -> tuple[Pair, Pair]:
        """The first phase and the number of those that are full, and of those that are short."""
        taps, stride = self.kernel[axis], self.strides[axis]
        full = taps - stride * (self.taps[axis] - 1)
        return (0, full), (full, min(taps, stride) - full)

    @property
    def count(self) -> int:
        return prod(map(min, self.kernel, self.strides))

    def span(self, last: tuple[bool, ...]) -> Pair:
        """From which phase to which a product is summed, that is of the `last` taps alone along some axes."""
        sizes = [(region.short, region.size) for region in self.regions]
        summed = [not any(a and b for a, b in zip(last, short, strict=True)) for short, _ in sizes]
        begin = sum(size for (_, size), kept in zip(sizes[: summed.index(True)], summed, strict=False))
        return begin, begin + sum(size for (_, size), kept in zip(sizes, summed, strict=True) if kept)

    def products(self, high: int, wide: int) -> int:
        """Products of a tile and an input channel in Winograd transforms of so many points, all phases together."""
        found = 0
        for last in product((False, True), repeat=2):
            begin, end = self.span(last)
            found += (1 if last[0] else high - 1) * (1 if last[1] else wide - 1) * (end - begin)
        return found

    def split(self, weights: NDArray[np.floating]) -> NDArray[np.floating]:
        """Weights (K, C, high, wide) of (1): (K, phases * C, taps, taps)."""
        padding = [t * s - k for k, s, t in zip(self.kernel, self.strides, self.taps, strict=True)]
        padded = np.pad(weights, [(0, 0), (0, 0), *((0, extent) for extent in padding)])
        parts = []
        for region in self.regions:
            for steps in product(*map(range, region.counts)):
                axes = zip(region.first, steps, self.strides, strict=True)
                parts.append(padded[:, :, *(slice(first + step, None, stride) for first, step, stride in axes)])
        return np.concatenate(parts, axis=1)


def phases_of(conv: Conv) -> Phases:
    """Of a convolution of one or two spatial axes."""
    return Phases(kernel=_pair(conv.kernel), strides=_pair(conv.stride))


def taps_of(conv: Conv) -> tuple[int, ...]:
    """The most taps that a phase has along each axis of a convolution."""
    return tuple(ceil(k / s) for k, s in zip(conv.kernel, conv.stride, strict=True))


def phase_count(conv: Conv) -> int:
    """How many phases a convolution has; those without taps do not count."""
    return prod(map(min, conv.kernel, conv.stride))


def _pair(values: tuple[int, ...]) -> Pair:
    high, wide = ((1,) * (2 - len(values))) + values
    return high, wide
