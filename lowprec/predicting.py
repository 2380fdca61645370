"""What a convolution will cost and how exact it will be, by each algorithm, from its shape alone.

Time is the larger part of two: what the multipliers and the transforms take, and what the weights take on their way
from memory, which overlap in part:

    cycles = sqrt(work^2 + memory^2)                                                                    (1)

Error is relative, in the root mean square, for inputs and weights that are independent. With u = 2^-24, a chain of n
multiply-adds has u * sqrt(CHAIN * n); a transform before and after multiplies it by its growth (winograd, equation 3):

    direct      u * sqrt(CHAIN * taps * C)
    Winograd    u * growth * sqrt(TRANSFORMS + CHAIN * C)                                               (2)

Both constants were fitted to errors measured at 4 to 256 channels, which they give within 8 %.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from math import ceil, hypot, prod, sqrt

import numpy as np
from numpy.typing import NDArray

from lowprec.convolution import Conv
from lowprec.phases import Phases, phase_count, phases_of, taps_of
from lowprec.targets import Target
from lowprec.winograd import POINTS, Filtering

UNIT = 2.0**-24
CHAIN = 0.0917
TRANSFORMS = 0.9

BUDGET = 1e-5
"""Relative error that a layer in fp32 may have by default."""

MULTIPLIERS = 2
"""Vector multiply-adds a cycle."""

MEMORY_RATE = 6.5
"""Bytes a cycle of one core that come from memory."""

GIGAHERTZ = 2.55
"""The clock that turns cycles to time where none was measured."""

DIRECT_SHARE, PATCHES_SHARE, PRODUCTS_SHARE = 0.847, 0.756, 0.804
"""Of the multipliers' peak, in a direct kernel, in a product over patches, and between transforms. These and all cycles
below were fitted to the times of 193 layers that were drawn."""

DEPTHWISE_SHARE, DEPTHWISE_RATE = 0.5, 8.0
"""The same of depthwise kernels, which load for every product, and bytes a cycle that they read and write beside."""

INTO, OUT_OF = (5.4, 0.155), (3.4, 0.096)
"""Cycles for a vector of one of F frequencies into a transform, and out of it: the first, and F times the second."""

FAR = 3 << 20
"""Bytes of activations that do not stay in L2."""

ROW_READ, ROW_WRITTEN = 0.67, 3.1
"""Cycles for a vector and row of its tile that is read from beyond L2, or written there: all rows go at once."""

COPY_CYCLES, PATCHES = 4.0, 512 << 10
"""For a vector of a patch, and bytes of the patches that are multiplied together."""

SUMS = 17
"""Vectors of sums, of one line of pixels, from which on the multipliers are busy in a direct kernel."""

SCRATCH, MOST_LANES = 4 << 20, 16
"""Bytes between the transforms, and the widest vectors there are."""

SHORT, WHOLE = 42, 56
"""Tiles that pass over the transformed weights together while these come fast enough from L3, and so many that are one
block."""

CACHED_RATE, CACHED = 17.7, 64 << 20
"""Bytes a cycle of one core that come from L3, of weights of at most so many bytes."""

L2_SHARE = 1 << 20
"""Bytes of weights that stay in L2 from one block of tiles to the next."""

TILES = (2, 3, 4, 6)
"""Outputs of a Winograd tile along an axis."""

FLOAT_BYTES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """Of one algorithm: cycles on one core, the relative error, and bytes of packed weights. At the worst place of a
    tile the error is `peak` times as large."""

    cycles: float
    error: float
    weight_bytes: int
    peak: float = 1.0

    @property
    def milliseconds(self) -> float:
        return self.cycles / (GIGAHERTZ * 1e6)


def predict_direct(conv: Conv, target: Target) -> Prediction:
    """The direct kernel."""
    weight_bytes = FLOAT_BYTES * conv.parameters
    work = _depthwise_work(conv, target) if conv.depthwise else _direct_work(conv, target)
    return Prediction(
        cycles=hypot(work, weight_bytes / MEMORY_RATE),
        error=UNIT * sqrt(CHAIN * (prod(conv.kernel) * conv.in_channels // conv.groups)),
        weight_bytes=weight_bytes,
    )


def _direct_work(conv: Conv, target: Target) -> float:
    line = conv.batch * prod(conv.output_size) if conv.pointwise else conv.output_size[-1]
    sums = line * ceil(conv.out_channels // conv.groups / target.lanes)
    share = DIRECT_SHARE * min(1.0, sums / SUMS)
    return conv.macs * widening(conv, target) / (MULTIPLIERS * target.lanes * share)


def _depthwise_work(conv: Conv, target: Target) -> float:
    return conv.macs / (MULTIPLIERS * target.lanes * DEPTHWISE_SHARE) + sum(activations(conv)) / DEPTHWISE_RATE


def activations(conv: Conv) -> tuple[int, int]:
    """Bytes that are read, and written."""
    read, written = conv.in_channels * prod(conv.size), conv.out_channels * prod(conv.output_size)
    return FLOAT_BYTES * conv.batch * read, FLOAT_BYTES * conv.batch * written


def predict_im2col(conv: Conv, target: Target) -> Prediction:
    """The product over patches, and their copying."""
    depth = prod(conv.kernel) * conv.in_channels // conv.groups
    pixels = conv.batch * prod(conv.output_size)
    products = conv.macs * widening(conv, target) / (MULTIPLIERS * target.lanes * PATCHES_SHARE)
    whole = conv.groups == 1 and conv.dilation[-1] == 1
    run = conv.in_channels // conv.groups * (conv.kernel[-1] if whole else 1)
    copied = pixels * conv.groups * depth / run * ceil(run / target.lanes)
    weight_bytes = FLOAT_BYTES * conv.parameters
    blocks = ceil(pixels * FLOAT_BYTES * depth / PATCHES)
    again = (blocks - 1) * weight_bytes / rate_again(weight_bytes) if weight_bytes > L2_SHARE else 0.0
    return Prediction(
        cycles=hypot(products + COPY_CYCLES * copied, weight_bytes / MEMORY_RATE + again),
        error=UNIT * sqrt(CHAIN * depth),
        weight_bytes=weight_bytes,
    )


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


def far_cycles(conv: Conv, target: Target, *, rows: tuple[int, int], read: int) -> float:
    """What it takes that activations lie beyond L2: tiles of so many rows, in and out, `read` vectors in all."""
    source, result = activations(conv)
    written = conv.batch * prod(conv.output_size) * conv.groups * ceil(conv.out_channels // conv.groups / target.lanes)
    return ROW_READ * rows[0] * read * (source > FAR) + ROW_WRITTEN * rows[1] * written * (result > FAR)


def rate_again(weight_bytes: int) -> float:
    """Bytes a cycle of weights that are read once more."""
    return CACHED_RATE if weight_bytes <= CACHED else MEMORY_RATE


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


def scratch_width(conv: Conv) -> int:
    """Numbers of a frequency and tile between the transforms: the channels, and two vectors of output channels."""
    return phase_count(conv) * conv.in_channels // conv.groups + 4 * MOST_LANES


def _pointless(conv: Conv, outputs: int) -> bool:
    axes = zip(taps_of(conv), conv.output_size, strict=True)
    return any(taps > 1 and min(outputs, extent) + taps - 2 not in POINTS for taps, extent in axes)


def _named(conv: Conv, outputs: int) -> str:
    return f"F({outputs}, {max(taps_of(conv))})"


def _one_tap(conv: Conv) -> str:
    return "one tap" if max(conv.kernel) == 1 else "one tap a phase of its stride"


def widening(conv: Conv, target: Target) -> float:
    """How many products are made for one that is asked for: vectors run over output channels, and are full."""
    width = conv.out_channels // conv.groups
    return ceil(width / target.lanes) * target.lanes / width
