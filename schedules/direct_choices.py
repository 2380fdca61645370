"""In which tiles, and in which order, a direct kernel computes a layer."""

from dataclasses import replace
from math import prod

import numpy as np

from lowprec.schedules.arithmetic import Arithmetic
from lowprec.schedules.direct import Direct, Grouped, PackedWeights, StridedWeights
from lowprec.schedules.tiling import Workload, ceil_div, choose_tile, divisors
from lowprec.schedules.walks import Walk, choose_walk, has_own_pixels
from lowprec.targets import Target

MOST_STREAMS = 8
"""Of weights, at whose places memory is read: one alone came to 0.65 of the rate of eight, four to 0.91."""

LEAST_BYTES = 1 << 20
"""Of weights that come from memory."""


def direct_kernel(
    layer: Grouped,
    weights: PackedWeights | StridedWeights,
    arithmetic: Arithmetic,
    target: Target,
    *,
    activations: int,
    threads: int = 1,
) -> Direct:
    """The kernel's parameters for a target; bytes of `activations` are read and written."""
    packed = isinstance(weights, PackedWeights)
    lanes = target.lanes if packed else min(target.lanes, layer.out_channels)
    d, h, w = layer.geometry.size
    work = Workload(
        lines=layer.batch * d * h,
        pixels=w,
        columns=layer.out_channels,
        taps=layer.geometry.taps,
        channels=ceil_div(layer.in_channels, arithmetic.word),
        activations=activations,
    )
    folding = target.folds_broadcasts and arithmetic.folds
    tile = choose_tile(work, lanes=lanes, registers=arithmetic.registers(target), folding=folding)
    kernel = Direct(
        **layer.given(),
        weights=weights,
        lanes=lanes,
        tile=tile,
        walk=choose_walk(work, tile, lanes=lanes) if packed else Walk(),
        arithmetic=arithmetic,
    )
    return replace(kernel, streams=_streams(kernel), shares=_shares(kernel, threads)) if packed else kernel


def _shares(kernel: Direct, threads: int) -> int:
    """One for each thread, where each has pixels of its own."""
    own = has_own_pixels(
        count=prod(kernel.pixels) // kernel.walk.run,
        weights=prod(kernel.lane_shape) * kernel.arithmetic.lane_bytes,
        pixels=prod(kernel.input.shape) * np.dtype(kernel.input.dtype).itemsize,
        threads=threads,
    )
    return threads if own else 1


def _streams(kernel: Direct) -> int:
    """As many as there may be, where weights are read once, and from memory."""
    if prod(kernel.pixels) > 1 or prod(kernel.lane_shape) * kernel.arithmetic.lane_bytes < LEAST_BYTES:
        return 1
    return max(count for count in divisors(kernel.tile.vectors) if count <= MOST_STREAMS)
