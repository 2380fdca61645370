"""Depthwise convolution: nothing is summed over channels, so vectors run along them.

    before:  Y[n, p, c] = f(sum over taps t of X[n, p * stride + t * dilation, c] * W[t, c])
    after:   for each row of pixels, in parallel:  for a few neighbouring pixels at once, for each vector of channels:
                 for each row of taps:  each pixel and each weight is loaded once for all that use it

Channels that a vector does not divide are handled by overlap, as in `direct`.
"""

from dataclasses import dataclass
from math import prod

import numpy as np
from numpy.typing import NDArray
from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from lowprec.schedules.buffers import Buffers, begin_kernel
from lowprec.schedules.epilogue import Epilogue
from lowprec.schedules.geometry import Geometry, Triple
from lowprec.schedules.halo import Halo
from lowprec.schedules.tasks import decode, start_of
from lowprec.schedules.tiling import ceil_div, equal_parts
from lowprec.schedules.views import FLOAT_BYTES, Index, View, load, register, store, zeros

ENOUGH_TASKS = 24
"""Tasks that keep the cores of most machines evenly busy."""

L1_SHARE = 24 << 10
"""Bytes of pixels that stay in L1 beside what is written and the weights."""

L2_SHARE = 3 << 20
"""Bytes read and written beyond which a pixel's line is gone from L2 when the next part of its channels is due."""

LEAST_BLOCKS = 2
"""Vectors of channels that a task takes at least, if there are so many: caches fetch lines in pairs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Depthwise:
    """One depthwise kernel: geometry, views and epilogue."""

    batch: int
    channels: int
    geometry: Geometry
    input: View
    output: View
    halo: Halo | None
    bias: bool
    epilogue: Epilogue
    lanes: int
    registers: int

    @property
    def width(self) -> int:
        """Channels of one vector."""
        return min(self.lanes, self.channels)

    @property
    def bias_width(self) -> int:
        """Elements of the bias."""
        return self.channels

    @property
    def rows(self) -> int:
        """Pixels computed at once: enough to hide latency, few enough for the registers."""
        most = max(1, min(self.registers // 3, 8))
        tiles = ceil_div(self.geometry.size[2], most)
        return ceil_div(self.geometry.size[2], tiles)

    @property
    def blocks(self) -> int:
        """Vectors of channels."""
        return ceil_div(self.channels, self.width)

    @property
    def parts(self) -> int:
        """Parts of the channels, each taken over all rows before the next: what a row reads stays in L1 for the rows
        below, if the whole stays in L2; and enough parts for tasks to be many."""
        geometry = self.geometry
        *_, reach = geometry.seen((0, 0, geometry.size[2] - 1), (0, 0, geometry.kernel[2] - 1))
        block_bytes = prod(geometry.kernel[:2]) * (reach + 1) * self.width * FLOAT_BYTES
        lines = self.batch * prod(geometry.size[:2])
        moved = FLOAT_BYTES * (prod(self.input.shape) + prod(self.output.shape))
        rows = ceil_div(self.blocks * block_bytes, L1_SHARE) if moved <= L2_SHARE else 1
        return equal_parts(self.blocks, max(ceil_div(ENOUGH_TASKS, lines), rows), least=LEAST_BLOCKS)


def pack_depthwise(weights: NDArray[np.float32], kernel: Triple) -> NDArray[np.float32]:
    """[C, 1, taps...] -> [taps..., C]."""
    return np.ascontiguousarray(weights.reshape(len(weights), prod(kernel)).T).reshape(*kernel, len(weights))


def build_depthwise(spec: Depthwise) -> tirx.PrimFunc:
    """The kernel: arguments X, W, [bias], the epilogue's operands, Y."""
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        weights = (*spec.geometry.kernel, spec.channels)
        buffers = begin_kernel(spec, weights=weights, bias=spec.bias)
        depth, height, width = spec.geometry.size
        extents = (spec.batch, depth, spec.parts, height)
        with T.parallel(0, prod(extents)) as task:
            n, d, part, h = decode(task, extents)
            blocks = spec.blocks // spec.parts
            with T.serial(0, ceil_div(width, spec.rows)) as tile, T.serial(0, blocks) as block:
                first = start_of(tile, spec.rows, width)
                channel = start_of(part * blocks + block, spec.width, spec.channels)
                _tile(spec, (n, d, h, first, channel), buffers)
    return builder.get()


def _tile(spec: Depthwise, at: tuple[Index, Index, Index, Index, Index], buffers: Buffers) -> None:
    n, d, h, first, channel = at
    width = spec.width
    accumulators = [register(width) for _ in range(spec.rows)]
    zero = zeros(width)
    begin = zero if buffers.bias is None else T.bind(load(buffers.bias, channel, width))
    for accumulator in accumulators:
        store(accumulator, 0, begin, width)
    geometry = spec.geometry
    planes, lines = geometry.seeing(0, d), geometry.seeing(1, h)
    with T.serial(*planes) as r, T.serial(*lines) as s:
        for t in range(geometry.kernel[2]):
            weight = T.bind(load(buffers.w, geometry.number((r, s, t)) * spec.channels + channel, width))
            for i, accumulator in enumerate(accumulators):
                seen = geometry.seen((d, h, first + i), (r, s, t))
                value = load(buffers.x, spec.input.address((n, *seen, channel)), width)
                store(accumulator, 0, load(accumulator, 0, width) + value * weight, width)
    for i, accumulator in enumerate(accumulators):
        coordinates = (n, d, h, first + i, channel)
        value = spec.epilogue.apply(load(accumulator, 0, width), buffers.operands, coordinates, width)
        store(buffers.y, spec.output.address(coordinates), value, width)
