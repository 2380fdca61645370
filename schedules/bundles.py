"""Groups of a convolution, bundled: neighbours computed together as one dense group with zeros between them.

    before:  groups of 8 channels each                          13 groups
    after:   bundles of 2 groups, block-diagonal weights        7 bundles, the last one overlaps its neighbour

A group narrower than a vector would leave lanes idle; a bundle multiplies zeros instead, but reads and writes whole
vectors.
"""

import numpy as np
from numpy.typing import NDArray

from lowprec.convolution import Conv
from lowprec.schedules.tiling import ceil_div

Weights = NDArray[np.float32]

NARROW = 1.1
"""What a multiply-add costs when the results leave as part of a vector, over one of a whole vector: measured."""


def choose_bundle(conv: Conv, lanes: int) -> int:
    """How many groups to bundle: the least multiply-adds, zeros and idle lanes included, and then whole vectors."""
    channels_in, channels_out = conv.in_channels // conv.groups, conv.out_channels // conv.groups

    def cost(bundle: int) -> tuple[float, int, int]:
        vectors = ceil_div(conv.groups, bundle) * ceil_div(bundle * channels_out, lanes)
        used = min(bundle * channels_out, lanes)
        return vectors * bundle * channels_in * (1.0 if used == lanes else NARROW), -used, bundle

    return min(range(1, min(conv.groups, lanes) + 1), key=cost)


def bundle_starts(groups: int, bundle: int) -> list[int]:
    """The first group of each bundle; the last bundle overlaps its neighbour rather than run past the end."""
    return [min(start, groups - bundle) for start in range(0, groups, bundle)]


def bundle_weights(weights: Weights, *, groups: int, bundle: int) -> Weights:
    """[groups * K, C, ...] -> [bundles * bundle * K, bundle * C, ...], zero where a group does not see a channel."""
    if bundle == 1:
        return weights
    total, channels, *taps = weights.shape
    split = weights.reshape(groups, total // groups, channels, *taps)
    starts = bundle_starts(groups, bundle)
    dense = np.zeros((len(starts), bundle, total // groups, bundle, channels, *taps), weights.dtype)
    for index in range(bundle):
        dense[:, index, :, index] = split[[start + index for start in starts]]
    return dense.reshape(len(starts) * bundle * (total // groups), bundle * channels, *taps)
