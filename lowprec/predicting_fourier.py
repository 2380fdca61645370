"""What a convolution between Fourier transforms will cost: the counterpart of `predicting` for `fourier`.

A tile of one vector of channels has half of its rows and its columns to go forward, its columns and half of the kept
rows to come back.
"""

from math import ceil, hypot, prod, sqrt
from operator import gt

from lowprec.convolution import Conv
from lowprec.fourier import FACTORS, Segment, frequencies, operations
from lowprec.phases import phase_count, taps_of
from lowprec.predicting import (
    CHAIN,
    FAR,
    FLOAT_BYTES,
    LONGEST_HOP,
    MEMORY_RATE,
    MULTIPLIERS,
    SCRATCH,
    UNIT,
    Prediction,
    activations,
    far_cycles,
    rate_again,
    scratch_width,
    widening,
)
from lowprec.targets import Target

OPERATION, POINT = 1.35, 7.3
"""Cycles of a line: for each operation of its transform, and for each point on its way through the caches."""

BUTTERFLIES = 4.5
"""What the transforms add to the error, as TRANSFORMS does for Winograd's; a complex sum has two terms a channel."""

ALONE = 0.9
"""So much of that a depthwise tile takes, which meets no other."""

HOP = 0.035
"""Cycles that a depthwise tile, which takes one vector of a pixel, waits for each pixel beyond L2, for each byte from
one pixel to the next."""

PRODUCTS_SHARE, SHARE_OF_ROW = 0.81, 0.71
"""Of the multipliers' peak in complex products: of high tiles, and for each row of lower ones."""


def fourier_obstacle(conv: Conv) -> str:
    """Why no Fourier kernel computes this layer; nothing where one does."""
    if conv.transposed:
        return "transposed: FFT needs a plain convolution"
    if max(conv.dilation) > 1:
        return f"dilation {max(conv.dilation)}: FFT needs taps side by side"
    if len(conv.size) != 2:
        return f"{len(conv.size)} spatial axes: FFT is built for two"
    if max(taps_of(conv)) >= max(FACTORS):
        return f"{max(taps_of(conv))} taps: the longest transform has {max(FACTORS)} points"
    if not tile_sizes(conv):
        return "its transforms would take more than 4 MiB of scratch"
    return ""


def segments_of(conv: Conv, sizes: tuple[int, ...]) -> tuple[Segment, Segment]:
    """The tile of those sizes: as many outputs as it gives, and as there are."""
    axes = zip(sizes, taps_of(conv), conv.output_size, strict=True)
    high, wide = (Segment(size=size, taps=taps, outputs=min(size - taps + 1, extent)) for size, taps, extent in axes)
    return high, wide


def sizes_by_time(conv: Conv, target: Target) -> list[tuple[tuple[int, int], Prediction]]:
    """The sizes a tile may have, the fastest first."""
    found = [(sizes, predict_fourier(conv, sizes, target)) for sizes in tile_sizes(conv)]
    return sorted(found, key=lambda entry: entry[1].cycles)


def tile_sizes(conv: Conv) -> list[tuple[int, int]]:
    """Square tiles, but no longer than covers an axis, nor larger than scratch."""
    reaches = (extent + taps - 1 for extent, taps in zip(conv.output_size, taps_of(conv), strict=True))
    covers = [min((size for size in FACTORS if size >= reach), default=max(FACTORS)) for reach in reaches]
    tried = {(min(n, covers[0]), min(n, covers[1])) for n in FACTORS if n > max(taps_of(conv))}
    return sorted(sizes for sizes in tried if fits_scratch(conv, sizes))


def is_tile(conv: Conv, sizes: tuple[int, ...]) -> bool:
    """Whether a layer that FFT fits can be computed in tiles of these sizes."""
    known = len(sizes) == 2 and all(size in FACTORS for size in sizes)
    return known and all(map(gt, sizes, taps_of(conv))) and fits_scratch(conv, sizes)


def fits_scratch(conv: Conv, sizes: tuple[int, ...]) -> bool:
    return _run(conv, frequencies(*segments_of(conv, sizes))) >= 1


def _is_plain_depthwise(conv: Conv) -> bool:
    """One channel in and one out a group: no products over channels."""
    return conv.depthwise and conv.out_channels == conv.in_channels


def _run(conv: Conv, count: int) -> int:
    """Tiles of a block that scratch has room for."""
    if _is_plain_depthwise(conv):
        return 1
    return SCRATCH // (2 * FLOAT_BYTES * count * scratch_width(conv))


def _hops(conv: Conv, target: Target) -> float:
    """What a depthwise kernel waits for activations beyond L2."""
    pixels = zip(activations(conv), (prod(conv.size), prod(conv.output_size)), strict=True)
    far = conv.batch * sum(count for size, count in pixels if size > FAR)
    return HOP * min(FLOAT_BYTES * conv.in_channels, LONGEST_HOP) * far * ceil(conv.in_channels / target.lanes)


def predict_fourier(conv: Conv, sizes: tuple[int, int], target: Target) -> Prediction:
    """A kernel of tiles of those sizes."""
    high, wide = segments_of(conv, sizes)
    axes = zip(conv.output_size, (high, wide), strict=True)
    tiles = conv.batch * prod(ceil(extent / axis.outputs) for extent, axis in axes)
    count = frequencies(high, wide)
    channels = conv.in_channels // conv.groups
    columns = wide.size // 2 + 1
    column, row = (OPERATION * operations(axis.size) + POINT * axis.size for axis in (high, wide))
    forward = ceil(high.reach / 2) * row + columns * column
    back = ceil(high.outputs / 2) * row + columns * column
    phases = phase_count(conv)
    weight_bytes = 2 * FLOAT_BYTES * count * phases * channels * conv.out_channels
    if _is_plain_depthwise(conv):
        work = ALONE * tiles * ceil(conv.out_channels / target.lanes) * (phases * forward + back)
        work += _hops(conv, target)
        memory = weight_bytes / MEMORY_RATE
    else:
        widths = (channels, conv.out_channels // conv.groups)
        inward, outward = (ceil(width / target.lanes) for width in widths)
        run = max(1, min(tiles, _run(conv, count)))
        share = min(PRODUCTS_SHARE, SHARE_OF_ROW * run)
        products = 4 * tiles * count * phases * channels * conv.out_channels * widening(conv, target)
        work = products / (MULTIPLIERS * target.lanes * share)
        work += tiles * conv.groups * (phases * inward * forward + outward * back)
        read = tiles * high.reach * wide.reach * conv.groups * phases * inward
        work += far_cycles(conv, target, rows=(high.size, high.outputs), read=read)
        memory = weight_bytes / MEMORY_RATE + (ceil(tiles / run) - 1) * weight_bytes / rate_again(weight_bytes)
    error = UNIT * sqrt(BUTTERFLIES + 2 * CHAIN * phases * channels)
    return Prediction(cycles=hypot(work, memory), error=error, weight_bytes=weight_bytes)
