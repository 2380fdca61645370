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
from math import ceil, hypot, inf, prod, sqrt

from lowprec.convolution import Conv
from lowprec.targets import Target
from lowprec.winograd import POINTS, Filtering

UNIT = 2.0**-24
CHAIN = 0.0917
TRANSFORMS = 0.9

BUDGET = 1e-5
"""Relative error that a layer in fp32 may have by default."""

MULTIPLIERS = 2
"""Vector multiply-adds a cycle."""

MEMORY_RATE = 5.0
"""Bytes a cycle of one core that come from memory."""

GIGAHERTZ = 2.55
"""The clock that turns cycles to time where none was measured."""

DIRECT_SHARE, PATCHES_SHARE, PRODUCTS_SHARE = 0.88, 0.80, 0.92
"""Of the multipliers' peak, in a direct kernel, in a product over patches, and between transforms. With the cycles of
transforms, fitted to the times of 40 layers."""

DEPTHWISE_SHARES = ((9, 0.5), (15, 0.38), (inf, 0.22))
"""The same of depthwise kernels, which load for every product: up to so many taps along an axis."""

TRANSFORM, TRANSFORM_SLOPE = 5.0, 0.1
"""Cycles for a vector of one of F frequencies, into the transform or out of it: the first, and F times the second."""

COPY_CYCLES, PATCHES = 4.0, 512 << 10
"""For a vector of a patch, and bytes of the patches that are multiplied together."""

TALL = 4.5
"""Rows of a tile from which on the multipliers are busy."""

SCRATCH, MOST_LANES = 4 << 20, 16
"""Bytes between the transforms, and the widest vectors there are."""

SHORT, WHOLE = 42, 56
"""Tiles that pass over the transformed weights together while these come fast enough from L3, and so many that are one
block."""

CACHED_RATE = 10.6
"""Bytes a cycle of one core that come from L3."""

L2_SHARE = 1 << 20
"""Bytes of weights that stay in L2 from one block of tiles to the next."""

TILES = (2, 3, 4, 6)
"""Outputs of a Winograd tile along an axis."""

FLOAT_BYTES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """Of one algorithm: cycles on one core, the relative error, and bytes of packed weights."""

    cycles: float
    error: float
    weight_bytes: int

    @property
    def milliseconds(self) -> float:
        return self.cycles / (GIGAHERTZ * 1e6)


def predict_direct(conv: Conv, target: Target) -> Prediction:
    """The direct kernel."""
    share = DIRECT_SHARE
    if conv.depthwise:
        share = next(share for taps, share in DEPTHWISE_SHARES if max(conv.kernel) <= taps)
    taps = prod(conv.kernel) * conv.in_channels // conv.groups
    used = conv.macs * (1.0 if conv.depthwise else widening(conv, target))
    pixels = conv.batch * prod(conv.output_size)
    work = used / (MULTIPLIERS * target.lanes * share * min(1.0, pixels / TALL))
    weight_bytes = FLOAT_BYTES * conv.parameters
    return Prediction(
        cycles=hypot(work, weight_bytes / MEMORY_RATE), error=UNIT * sqrt(CHAIN * taps), weight_bytes=weight_bytes
    )


def predict_im2col(conv: Conv, target: Target) -> Prediction:
    """The product over patches, and their copying."""
    depth = prod(conv.kernel) * conv.in_channels // conv.groups
    pixels = conv.batch * prod(conv.output_size)
    share = PATCHES_SHARE * min(1.0, pixels / TALL)
    products = conv.macs * widening(conv, target) / (MULTIPLIERS * target.lanes * share)
    whole = conv.groups == 1 and conv.dilation[-1] == 1
    run = conv.in_channels // conv.groups * (conv.kernel[-1] if whole else 1)
    copied = pixels * conv.groups * depth / run * ceil(run / target.lanes)
    weight_bytes = FLOAT_BYTES * conv.parameters
    blocks = ceil(pixels * FLOAT_BYTES * depth / PATCHES)
    again = (blocks - 1) * weight_bytes / CACHED_RATE if weight_bytes > L2_SHARE else 0.0
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
    channels = conv.in_channels // conv.groups
    products = tiles * frequencies * channels * conv.out_channels * widening(conv, target)
    work = products / (MULTIPLIERS * target.lanes * PRODUCTS_SHARE * min(1.0, tiles / TALL))
    widths = (channels, conv.out_channels // conv.groups)
    vectors = tiles * frequencies * conv.groups * sum(ceil(width / target.lanes) for width in widths)
    work += (TRANSFORM + TRANSFORM_SLOPE * frequencies) * vectors
    weight_bytes = FLOAT_BYTES * frequencies * channels * conv.out_channels
    growth = prod(axis.growth for axis in axes)
    again = ceil(tiles / SHORT) - 1 if tiles > WHOLE and weight_bytes / conv.groups > L2_SHARE else 0
    memory = weight_bytes / MEMORY_RATE + again * weight_bytes / CACHED_RATE
    return Prediction(
        cycles=hypot(work, memory),
        error=UNIT * growth * sqrt(TRANSFORMS + CHAIN * channels),
        weight_bytes=weight_bytes,
    )


def filterings(conv: Conv, outputs: int) -> tuple[Filtering, ...]:
    """F(outputs, taps) of each axis: no more outputs than there are, and one at a time where there is one tap."""
    extents = zip(conv.kernel, conv.output_size, strict=True)
    return tuple(Filtering(outputs=1 if taps == 1 else min(outputs, extent), taps=taps) for taps, extent in extents)


def winograd_obstacle(conv: Conv, outputs: int) -> str:
    """Why Winograd with tiles of `outputs` does not compute this layer; nothing where it does."""
    checks: tuple[tuple[bool, Callable[[], str]], ...] = (
        (conv.transposed, lambda: "transposed: Winograd needs a plain convolution"),
        (max(conv.stride) > 1, lambda: f"stride {max(conv.stride)}: Winograd needs stride 1"),
        (max(conv.dilation) > 1, lambda: f"dilation {max(conv.dilation)}: Winograd needs taps side by side"),
        (len(conv.size) > 2, lambda: f"{len(conv.size)} spatial axes: Winograd is built for one and two"),
        (conv.depthwise, lambda: "depthwise: nothing is summed between the transforms"),
        (max(conv.kernel) == 1, lambda: "one tap: there are no products to save"),
        (_bulky(conv, outputs), lambda: "its transforms would take more than 4 MiB of scratch"),
        (_pointless(conv, outputs), lambda: f"{_named(conv, outputs)} needs more points than keep its error small"),
    )
    return next((sentence() for holds, sentence in checks if holds), "")


def _bulky(conv: Conv, outputs: int) -> bool:
    """Whether one tile of all channels is too much, at the widest vectors there are."""
    frequencies = prod(
        min(outputs, extent) + taps - 1 for extent, taps in zip(conv.output_size, conv.kernel, strict=True)
    )
    return FLOAT_BYTES * frequencies * scratch_width(conv) > SCRATCH


def scratch_width(conv: Conv) -> int:
    """Numbers of a frequency and tile between the transforms: the channels, and two vectors of output channels."""
    return conv.in_channels // conv.groups + 4 * MOST_LANES


def _pointless(conv: Conv, outputs: int) -> bool:
    axes = zip(conv.kernel, conv.output_size, strict=True)
    return any(taps > 1 and min(outputs, extent) + taps - 2 not in POINTS for taps, extent in axes)


def _named(conv: Conv, outputs: int) -> str:
    return f"F({outputs}, {max(conv.kernel)})"


def widening(conv: Conv, target: Target) -> float:
    """How many products are made for one that is asked for: vectors run over output channels, and are full."""
    width = conv.out_channels // conv.groups
    return ceil(width / target.lanes) * target.lanes / width
