"""What a convolution by Winograd's filtering will cost: the counterpart of `predicting`.

A transform before the products and one after multiply their error by their growth (winograd, equation 3), and add some
of their own:

    u * growth * sqrt(TRANSFORMS + CHAIN * C)                                                           (1)
"""

from collections.abc import Callable
from functools import reduce
from math import ceil, hypot, prod, sqrt

import numpy as np
from numpy.typing import NDArray

from lowprec.convolution import Conv
from lowprec.phases import Phases, phases_of, taps_of
from lowprec.predicting import (
    CHAIN,
    FLOAT_BYTES,
    L2_SHARE,
    MEMORY_RATE,
    MULTIPLIERS,
    SCRATCH,
    UNIT,
    Prediction,
    far_cycles,
    rate_again,
    scratch_width,
    widening,
)
from lowprec.targets import Target
from lowprec.winograd import POINTS, Filtering

TRANSFORMS = 0.9

PRODUCTS_SHARE = 0.804
"""Of the multipliers' peak, between transforms."""

INTO, OUT_OF = (5.4, 0.155), (3.4, 0.096)
"""Cycles for a vector of one of F frequencies into a transform, and out of it: the first, and F times the second."""

TILES = (2, 3, 4, 6)
"""Outputs of a Winograd tile along an axis."""

SHORT, WHOLE = 42, 56
"""Tiles that pass over the transformed weights together while these come fast enough from L3, and so many that are one
block."""


def predict_winograd(conv: Conv, outputs: int, target: Target) -> Prediction:
    """Winograd with tiles of `outputs`; the layer must be one that it fits."""
    axes = filterings(conv, outputs)
    tiles = conv.batch * prod(ceil(extent / axis.outputs) for extent, axis in zip(conv.output_size, axes, strict=True))
    frequencies = prod(axis.inputs for axis in axes)
    phases, channels = phases_of(conv), conv.in_channels // conv.groups
    high, wide = (1, *(axis.inputs for axis in axes))[-2:]
    products = tiles * phases.products(high, wide) * channels * conv.out_channels * widening(conv, target)
    work = products / (MULTIPLIERS * target.lanes * PRODUCTS_SHARE)
    inward, outward = (ceil(width / target.lanes) for width in (channels, conv.out_channels // conv.groups))
    into, out_of = (first + slope * frequencies for first, slope in (INTO, OUT_OF))
    seen = phases.count * inward * tiles * conv.groups
    work += frequencies * (into * seen + out_of * outward * tiles * conv.groups)
    work += far_cycles(conv, target, rows=(axes[0].inputs, axes[0].outputs), read=frequencies * seen)
    weight_bytes = FLOAT_BYTES * frequencies * phases.count * channels * conv.out_channels
    growth = _growth(phases, axes)
    again = ceil(tiles / SHORT) - 1 if tiles > WHOLE and weight_bytes / conv.groups > L2_SHARE else 0
    memory = weight_bytes / MEMORY_RATE + again * weight_bytes / rate_again(weight_bytes)
    return Prediction(
        cycles=hypot(work, memory),
        error=UNIT * sqrt(growth.mean() * (TRANSFORMS + CHAIN * channels * phases.count)),
        weight_bytes=weight_bytes,
        peak=sqrt(growth.max() / growth.mean()),
    )


def _growth(phases: Phases, axes: tuple[Filtering, ...]) -> NDArray[np.float64]:
    """The square of Winograd's equation 3 for each output of a tile, over all axes and phases."""
    total = np.zeros([axis.outputs for axis in axes])
    for region in phases.regions:
        short = region.short[-len(axes) :]
        spreads = (axis.spread(axis.taps - less) for axis, less in zip(axes, short, strict=True))
        total += region.size * reduce(np.multiply.outer, spreads)
    return total / prod(phases.kernel)


def filterings(conv: Conv, outputs: int) -> tuple[Filtering, ...]:
    """F(outputs, taps) of each axis: no more outputs than there are, and one at a time where there is one tap."""
    extents = zip(taps_of(conv), conv.output_size, strict=True)
    return tuple(Filtering(outputs=1 if taps == 1 else min(outputs, extent), taps=taps) for taps, extent in extents)


def winograd_obstacle(conv: Conv, outputs: int) -> str:
    """Why Winograd with tiles of `outputs` does not compute this layer; nothing where it does."""
    checks: tuple[tuple[bool, Callable[[], str]], ...] = (
        (conv.transposed, lambda: "transposed: Winograd needs a plain convolution"),
        (max(conv.dilation) > 1, lambda: f"dilation {max(conv.dilation)}: Winograd needs taps side by side"),
        (len(conv.size) > 2, lambda: f"{len(conv.size)} spatial axes: Winograd is built for one and two"),
        (conv.depthwise, lambda: "depthwise: nothing is summed between the transforms"),
        (max(taps_of(conv)) == 1, lambda: f"{_one_tap(conv)}: there are no products to save"),
        (_bulky(conv, outputs), lambda: "its transforms would take more than 4 MiB of scratch"),
        (_pointless(conv, outputs), lambda: f"{_named(conv, outputs)} needs more points than keep its error small"),
    )
    return next((sentence() for holds, sentence in checks if holds), "")


def _bulky(conv: Conv, outputs: int) -> bool:
    """Whether one tile of all channels is too much, at the widest vectors there are."""
    frequencies = prod(
        min(outputs, extent) + taps - 1 for extent, taps in zip(conv.output_size, taps_of(conv), strict=True)
    )
    return FLOAT_BYTES * frequencies * scratch_width(conv) > SCRATCH


def _pointless(conv: Conv, outputs: int) -> bool:
    axes = zip(taps_of(conv), conv.output_size, strict=True)
    return any(taps > 1 and min(outputs, extent) + taps - 2 not in POINTS for taps, extent in axes)


def _named(conv: Conv, outputs: int) -> str:
    return f"F({outputs}, {max(taps_of(conv))})"


def _one_tap(conv: Conv) -> str:
    return "one tap" if max(conv.kernel) == 1 else "one tap a phase of its stride"
