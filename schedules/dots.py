"""Convolutions with few output channels, as dot products: vectors run along the input channels.

    before:  Y[n, p, k] = f(sum over taps t and channels c of X[n, p * stride + t * dilation, c] * W[t, c, k]), k few
    after:   for each tile of `rows` neighbouring pixels, in parallel:
                 for tap, vector of channels:  weights = load, one vector for each k
                     for each pixel:  X = load;  for each k: accumulator += X * weights
                 Y = epilogue(bias + the sum of each accumulator's lanes)

The direct kernel has a vector of output channels, of which three colours fill three lanes; here every lane has work.
Declines when: the channels do not fill vectors of some width, or summing the lanes would cost more than it saves.
"""

from dataclasses import dataclass
from math import prod

import numpy as np
from numpy.typing import NDArray
from tvm import ir, tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from lowprec.schedules.buffers import Buffers, Frame, begin_kernel
from lowprec.schedules.geometry import Geometry
from lowprec.schedules.tasks import decode, start_of
from lowprec.schedules.tiling import ceil_div
from lowprec.schedules.views import Index, load, register, store, zeros

SUM_COST = 16
"""What the sum of an accumulator's lanes costs, in multiply-adds of vectors."""

WORTH = 4 / 3
"""How many times fewer multiply-adds make up for smaller tiles: at 1.31 the two forms were level, from 1.45 on this one
was at least 1.6 times faster."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dots(Frame):
    """One kernel: geometry, views and epilogue; `lanes` input channels at once."""

    batch: int
    in_channels: int
    out_channels: int
    geometry: Geometry
    registers: int

    @property
    def bias_width(self) -> int:
        """Elements of the bias."""
        return self.out_channels

    @property
    def rows(self) -> int:
        """Pixels computed at once: as many as have room beside the weights and one of X, in equal tiles."""
        most = max(1, (self.registers - self.out_channels - 1) // self.out_channels)
        pixels = self.geometry.size[2]
        return ceil_div(pixels, ceil_div(pixels, most))


def dot_lanes(*, in_channels: int, out_channels: int, taps: int, lanes: int) -> int | None:
    """The width of vectors that makes dot products the better form; None where the direct kernel is."""
    width = next((width for width in (16, 8, 4) if width <= lanes and in_channels % width == 0), None)
    if width is None:
        return None
    dots = out_channels * (taps * in_channels // width + SUM_COST)
    return width if WORTH * dots <= taps * in_channels else None


def pack_dots(weights: NDArray[np.float32], kernel: Dots) -> NDArray[np.float32]:
    """[K, C, taps...] -> [taps][vector of channels][K][lanes]."""
    taps = kernel.geometry.taps
    split = weights.reshape(kernel.out_channels, -1, kernel.lanes, taps)
    return np.ascontiguousarray(split.transpose(3, 1, 0, 2))


def build_dots(spec: Dots) -> tirx.PrimFunc:
    """The kernel: arguments X, W, [bias], the epilogue's operands, Y."""
    vectors = spec.in_channels // spec.lanes
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        weights = (spec.geometry.taps, vectors, spec.out_channels, spec.lanes)
        buffers = begin_kernel(spec, weights=weights, bias=spec.bias)
        depth, height, width = spec.geometry.size
        extents = (spec.batch, depth, height, ceil_div(width, spec.rows))
        with T.parallel(0, prod(extents)) as task:
            n, d, h, tile = decode(task, extents)
            at = (n, d, h, start_of(tile, spec.rows, width))
            _finish(spec, at, _sums(spec, at, buffers), buffers)
    return builder.get()


def _sums(spec: Dots, at: tuple[Index, ...], buffers: Buffers) -> list[list[tirx.Buffer]]:
    """The accumulators of each pixel, one for each output channel."""
    n, d, h, first = at
    geometry, lanes, vectors = spec.geometry, spec.lanes, spec.in_channels // spec.lanes
    accumulators = [[register(lanes) for _ in range(spec.out_channels)] for _ in range(spec.rows)]
    for accumulator in (accumulator for row in accumulators for accumulator in row):
        store(accumulator, 0, zeros(lanes), lanes)
    planes, lines = geometry.seeing(0, d), geometry.seeing(1, h)
    columns = geometry.seeing(2, first, count=spec.rows)
    with T.serial(*planes) as r, T.serial(*lines) as s, T.serial(*columns) as t, T.serial(0, vectors) as vector:
        taps = (r, s, t)
        place = (geometry.number(taps) * vectors + vector) * (spec.out_channels * lanes)
        weights = [T.bind(load(buffers.w, place + k * lanes, lanes)) for k in range(spec.out_channels)]
        for i, row in enumerate(accumulators):
            seen = geometry.seen((d, h, first + i), taps)
            value = T.bind(load(buffers.x, spec.input.address((n, *seen, vector * lanes)), lanes))
            for accumulator, weight in zip(row, weights, strict=True):
                store(accumulator, 0, load(accumulator, 0, lanes) + value * weight, lanes)
    return accumulators


def _finish(spec: Dots, at: tuple[Index, ...], sums: list[list[tirx.Buffer]], buffers: Buffers) -> None:
    n, d, h, first = at
    channels = spec.out_channels
    for i, row in enumerate(sums):
        pixel = register(channels)
        for k, accumulator in enumerate(row):
            store(pixel, k, _sum_of_lanes(accumulator, spec.lanes), 1)
        coordinates = (n, d, h, first + i, 0)
        total = load(pixel, 0, channels)
        total = total if buffers.bias is None else total + load(buffers.bias, 0, channels)
        value = spec.epilogue.apply(total, buffers.operands, coordinates, channels)
        store(buffers.y, spec.output.address(coordinates), value, channels)


def _sum_of_lanes(accumulator: tirx.Buffer, lanes: int) -> ir.Expr:
    """Halves are added to each other until one lane is left."""
    while lanes > 1:
        lanes //= 2
        half = register(lanes)
        store(half, 0, load(accumulator, 0, lanes) + load(accumulator, lanes, lanes), lanes)
        accumulator = half
    return load(accumulator, 0, 1)
