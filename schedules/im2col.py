"""Convolution as a matrix product over patches, a bounded block of them at a time.

    before:  Y[n, p, k] = f(sum over taps t and channels c of X[n, p * stride + t * dilation, c] * W[t, c, k])
    after:   for each block of pixels and part of the output channels, in parallel:
                 for each pixel:             P[pixel, (t, c)] = X[n, p * stride + t * dilation, c]
                 for each panel, few pixels: Y = f(P W)

Taps that are neighbours in memory are copied as one run: with channels last, a row of taps is, unless it is dilated or
its group has other channels beside it. Wins where channels are few, so that the direct kernel's loops are short.
"""

from dataclasses import dataclass
from math import prod

import numpy as np
from numpy.typing import NDArray
from tvm import ir, tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from lowprec.schedules.blocks import Blocks, unaliased
from lowprec.schedules.buffers import Buffers, Frame, begin_kernel, write_output
from lowprec.schedules.geometry import Geometry
from lowprec.schedules.panel_product import Number, Operands, multiply
from lowprec.schedules.prefetch import panel_ahead
from lowprec.schedules.tasks import decode, start_of
from lowprec.schedules.tiling import ceil_div
from lowprec.schedules.views import FLOAT_BYTES, Index, load, store


@dataclass(frozen=True, slots=True, kw_only=True)
class Im2col(Frame):
    """One kernel, whole; the `blocks` are of pixels, their channels of the patches' length."""

    batch: int
    in_channels: int
    geometry: Geometry
    blocks: Blocks

    @property
    def bias_width(self) -> int:
        return self.blocks.bias_width

    @property
    def pixels(self) -> tuple[int, int, int, int]:
        return (self.batch, *self.geometry.size)

    @property
    def depth(self) -> int:
        """Elements of a patch."""
        return self.blocks.channels[0]

    @property
    def packed_shape(self) -> tuple[int, ...]:
        """W: [group][turn][panel][tap, input channel][output channel of the panel]."""
        cut = self.blocks
        return (cut.groups, cut.turns, cut.at_once, self.depth, cut.panel)

    @property
    def runs(self) -> tuple[int, int]:
        """How many runs a patch has, and their length."""
        *outer, wide = self.geometry.kernel
        together = self.geometry.dilation[2] == 1 and self.blocks.groups == 1
        return (prod(outer), wide * self.in_channels) if together else (prod(outer) * wide, self.in_channels)


def pack_im2col(weights: NDArray[np.float32], kernel: Im2col) -> NDArray[np.float32]:
    """[groups * K, C, taps...] -> W."""
    cut = kernel.blocks
    grouped = weights.reshape(cut.groups, cut.channels[1], kernel.in_channels, kernel.geometry.taps)
    planes = grouped.transpose(0, 3, 2, 1).reshape(cut.groups, 1, kernel.depth, cut.channels[1])
    return cut.pack(planes).reshape(kernel.packed_shape)


def build_im2col(spec: Im2col) -> tirx.PrimFunc:
    """The kernel: arguments X, W, [bias], the epilogue's operands, Y."""
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        buffers = begin_kernel(spec, weights=spec.packed_shape, bias=spec.bias)
        cut, pixels = spec.blocks, prod(spec.pixels)
        extents = (cut.groups, cut.parts, ceil_div(pixels, cut.run))
        row = unaliased(spec.depth, spec.lanes)
        with T.parallel(0, prod(extents)) as task:
            group, part, run = decode(task, extents)
            patches = T.alloc_buffer((cut.run * row,), "float32", scope="global")
            first = start_of(run, cut.run, pixels)
            with T.serial(0, cut.run) as place:
                _copy(spec, buffers.x, patches, group, first + place, place * row)
            turns = cut.turns // cut.parts
            with T.serial(0, turns * cut.at_once) as panel, T.serial(0, cut.visits) as rows:
                number = part * (turns * cut.at_once) + panel
                _products(spec, buffers, patches, group, first, number, rows)
    return builder.get()


def _copy(spec: Im2col, x: tirx.Buffer, patches: tirx.Buffer, group: Index, pixel: Index, place: Index) -> None:
    """The patch of a pixel."""
    n, *at = decode(pixel, spec.pixels)
    geometry = spec.geometry
    count, length = spec.runs
    width = min(spec.lanes, length)
    taps = geometry.kernel[:2] if count == prod(geometry.kernel[:2]) else geometry.kernel
    source = T.bind(spec.input.address((n, *(i * s for i, s in zip(at, geometry.stride, strict=True)), 0)))
    steps = spec.input.strides[1:4]
    with T.serial(0, count) as run:
        tap = decode(run, taps)
        ahead = sum(t * d * step for t, d, step in zip(tap, geometry.dilation, steps, strict=False))
        begin = T.bind(source + ahead + group * spec.in_channels)
        for first in range(0, length, width):
            offset = min(first, length - width)
            store(patches, place + run * length + offset, load(x, begin + offset, width), width)


def _products(
    spec: Im2col, buffers: Buffers, patches: tirx.Buffer, group: Index, first: Index, panel: Index, rows: Index
) -> None:
    cut, lanes = spec.blocks, spec.lanes
    row = unaliased(spec.depth, lanes)
    begin = start_of(rows, cut.tile.rows, cut.run)
    number = T.bind(group * cut.panels + panel)
    base = T.bind(number * (spec.depth * cut.panel))
    width = min(lanes, cut.channels[1])

    def left(i: int, k: Index) -> Number:
        return (load(patches, (begin + i) * row + k, 1),)

    def right(k: Index, j: int) -> Number:
        return (load(buffers.w, base + k * cut.panel + j * lanes, lanes),)

    def result(i: int, j: int, value: ir.Expr) -> None:
        channel = T.bind(cut.first_channel(group, panel, j))
        if width < lanes:
            kept = T.alloc_buffer((lanes,), "float32", scope="global")
            store(kept, 0, value, lanes)
            value = load(kept, 0, width)
        coordinates = (*decode(first + begin + i, spec.pixels), channel)
        write_output(spec, buffers, value, coordinates, width, bias=buffers.bias_at(channel, width))

    ahead = panel_ahead(buffers.w, number, spec.depth * cut.panel * FLOAT_BYTES, rows, cut.visits)
    operands = Operands(left=left, right=right, result=result, before_step=ahead)
    multiply(operands, cut.tile, depth=spec.depth, lanes=lanes)
