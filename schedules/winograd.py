"""Winograd convolution: blocks of tiles through transform, product and inverse while they stay in L2.

    before:  Y[n, p, k] = f(sum over taps t and channels c of X[n, p + t, c] * W[t, c, k])
    after:   for each block of tiles and part of the output channels, in parallel:
                 for each tile, vector of channels:      V[:, tile, c] = B^T x B
                 for each frequency e, panel, few tiles: M[e, tile, k] = sum over c of V[e, tile, c] * U[e, c, k]
                 for each tile, vector of channels:      Y = f(A^T M A)

U = G w G^T is made when the kernel is packed; equations are numbered in `lowprec.winograd`, the cut is that of
`blocks`. With strides, c goes over the phases of all channels, as `lowprec.phases` has them.
"""

from dataclasses import dataclass
from itertools import product
from math import prod

import numpy as np
from numpy.typing import NDArray
from tvm import ir, tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from lowprec.phases import Phases
from lowprec.schedules.blocks import Blocks, Share, Steps, Tiling, walk_block, walk_phases
from lowprec.schedules.buffers import Buffers, Frame, begin_kernel, write_output
from lowprec.schedules.linear import apply
from lowprec.schedules.panel_product import UNROLL, Number, Operands, multiply
from lowprec.schedules.prefetch import panel_ahead
from lowprec.schedules.tasks import decode, start_of
from lowprec.schedules.tiling import ceil_div
from lowprec.schedules.views import FLOAT_BYTES, Index, load, store
from lowprec.winograd import Filtering, transform_weights


@dataclass(frozen=True, slots=True, kw_only=True)
class Winograd(Frame):
    """One kernel, whole."""

    batch: int
    size: tuple[int, int]
    axes: tuple[Filtering, Filtering]
    phases: Phases
    blocks: Blocks

    @property
    def in_channels(self) -> int:
        """Of a group; a block's are those of all phases."""
        return self.blocks.channels[0] // self.phases.count

    @property
    def frequencies(self) -> int:
        """Products of a tile."""
        return prod(axis.inputs for axis in self.axes)

    @property
    def tiling(self) -> Tiling:
        high, wide = self.axes
        return Tiling(batch=self.batch, size=self.size, outputs=(high.outputs, wide.outputs))

    @property
    def bias_width(self) -> int:
        return self.blocks.bias_width

    @property
    def packed_shape(self) -> tuple[int, ...]:
        """U: [group][turn][frequency][panel][input channel][output channel of the panel]."""
        cut = self.blocks
        return (cut.groups, cut.turns, self.frequencies, cut.at_once, cut.channels[0], cut.panel)


def pack_winograd(weights: NDArray[np.float32], kernel: Winograd) -> NDArray[np.float32]:
    """[groups * K, C, taps...] -> U."""
    depth, columns = kernel.blocks.channels
    split = kernel.phases.split(weights.reshape(len(weights), kernel.in_channels, *kernel.phases.kernel))
    transformed = transform_weights(split, kernel.axes).astype(np.float32)
    planes = transformed.reshape(kernel.blocks.groups, columns, depth, kernel.frequencies)
    return kernel.blocks.pack(planes.transpose(0, 3, 2, 1))


def build_winograd(spec: Winograd) -> tirx.PrimFunc:
    """The kernel: arguments X, U, [bias], the epilogue's operands, Y."""
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        buffers = begin_kernel(spec, weights=spec.packed_shape, bias=spec.bias)
        cut, tiles = spec.blocks, spec.tiling.count
        extents = (cut.groups, cut.parts, ceil_div(tiles, cut.run))
        with T.parallel(0, prod(extents)) as task:
            group, part, run = decode(task, extents)
            rows = spec.frequencies * cut.run
            v, m = (T.alloc_buffer((rows * width,), "float32", scope="global") for width in cut.widths)
            half = T.alloc_buffer((spec.frequencies * spec.lanes,), "float32", scope="global")
            first = start_of(run, cut.run, tiles)
            _Block(spec=spec, buffers=buffers, v=v, m=m, half=half, group=group, first=first).emit(part)
    return builder.get()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Block:
    """A task: tiles from `first` on, and some of the output channels of a group. `half` holds a tile between its two
    axes."""

    spec: Winograd
    buffers: Buffers
    v: tirx.Buffer
    m: tirx.Buffer
    half: tirx.Buffer
    group: Index
    first: Index

    def emit(self, part: Index) -> None:
        steps = Steps(into_v=self._into_v, products=self._products, out_of_m=self._out_of_m)
        walk_block(self.spec.blocks, self.spec.frequencies, part, steps)

    def _into_v(self, place: Index) -> None:
        """B^T x B of a tile, for every phase and vector of channels."""
        spec, cut = self.spec, self.spec.blocks
        (n, *_), starts = spec.tiling.at(self.first + place)
        width = min(spec.lanes, spec.in_channels)
        high, wide = spec.axes

        def transform(share: Share) -> None:
            source = self.group * spec.in_channels + share.channel
            rows, columns = (axis.inputs - less for axis, less in zip(spec.axes, share.short, strict=True))
            with T.serial(0, columns) as j:
                seen = [(n, 0, *share.at(i, j), source) for i in range(rows)]
                column = [T.bind(load(self.buffers.x, spec.input.address(at), width)) for at in seen]
                self._keep(apply([row[:rows] for row in high.matrices[2]], column, width), j, width)
            matrix = [row[:columns] for row in wide.matrices[2]]
            with T.serial(0, high.inputs) as i:
                for j, value in enumerate(apply(matrix, self._kept(i, columns, width), width)):
                    plane = (i * wide.inputs + j) * (cut.run * cut.widths[0])
                    store(self.v, plane + place * cut.widths[0] + share.place, value, width)

        walk_phases(spec.phases, starts, spec.in_channels, spec.lanes, transform)

    def _keep(self, column: list[ir.Expr], j: Index, width: int) -> None:
        """Column j of a tile, half transformed."""
        for i, value in enumerate(column):
            store(self.half, (i * self.spec.axes[1].inputs + j) * self.spec.lanes, value, width)

    def _kept(self, i: Index, count: int, width: int) -> list[ir.Expr]:
        """The first numbers of row i of a tile, half transformed."""
        row, lanes = self.spec.axes[1].inputs, self.spec.lanes
        return [T.bind(load(self.half, (i * row + j) * lanes, width)) for j in range(count)]

    def _products(self, turn: Index, e: Index, panel: Index, rows: Index) -> None:
        """M of one frequency, for some tiles and a panel of channels."""
        cut, lanes = self.spec.blocks, self.spec.lanes
        depth, (v_row, m_row) = cut.channels[0], cut.widths
        first = start_of(rows, cut.tile.rows, cut.run)
        number = T.bind(((self.group * cut.turns + turn) * self.spec.frequencies + e) * cut.at_once + panel)
        base = T.bind(number * (depth * cut.panel))

        def left(i: int, c: Index) -> Number:
            return (load(self.v, (e * cut.run + first + i) * v_row + c, 1),)

        def right(c: Index, j: int) -> Number:
            return (load(self.buffers.w, base + c * cut.panel + j * lanes, lanes),)

        def result(i: int, j: int, value: ir.Expr) -> None:
            store(self.m, (e * cut.run + first + i) * m_row + panel * cut.panel + j * lanes, value, lanes)

        ahead = panel_ahead(self.buffers.w, number, depth * cut.panel * FLOAT_BYTES, rows, cut.visits)
        operands = Operands(left=left, right=right, result=result, before_step=ahead)
        multiply(operands, cut.tile, depth=depth, lanes=lanes, summed=self._summed(e))

    def _summed(self, e: Index) -> tuple[Index, Index] | None:
        """The channels that have a product of a frequency: of short phases there is none at infinity."""
        phases, channels = self.spec.phases, self.spec.in_channels
        if phases.span((True, True)) == (0, phases.count) or channels % UNROLL:
            return None
        high, wide = self.spec.axes
        low, right = tirx.floordiv(e, wide.inputs) == high.inputs - 1, tirx.floormod(e, wide.inputs) == wide.inputs - 1

        def bound(side: int) -> ir.Expr:
            values = {last: phases.span(last)[side] * channels for last in product((False, True), repeat=2)}
            above, below = (tirx.Select(right, values[at, True], values[at, False]) for at in (False, True))
            return T.bind(tirx.Select(low, below, above))

        return bound(0), bound(1)

    def _out_of_m(self, turn: Index, place: Index) -> None:
        """f(A^T M A) of a tile, for every vector of a turn's channels."""
        cut = self.spec.blocks
        numbers, starts = self.spec.tiling.at(self.first + place)
        with T.serial(0, cut.at_once) as panel, T.serial(0, cut.tile.vectors) as vector:
            position = place * cut.widths[1] + panel * cut.panel + vector * self.spec.lanes
            channel = cut.first_channel(self.group, turn * cut.at_once + panel, vector)
            self._inverse(numbers, starts, T.bind(position), T.bind(channel))

    def _inverse(self, numbers: list[Index], starts: tuple[Index, Index], position: Index, channel: Index) -> None:
        spec, buffers = self.spec, self.buffers
        high, wide = spec.axes
        width = min(spec.lanes, spec.blocks.channels[1])
        plane = spec.blocks.run * spec.blocks.widths[1]
        with T.serial(0, wide.inputs) as j:
            places = [(i * wide.inputs + j) * plane + position for i in range(high.inputs)]
            column = [T.bind(load(self.m, at, width)) for at in places]
            self._keep(apply(high.matrices[0], column, width), j, width)
        bias = buffers.bias_at(channel, width)
        with T.serial(0, high.outputs) as i:
            for j, value in enumerate(apply(wide.matrices[0], self._kept(i, wide.inputs, width), width)):
                coordinates = (numbers[0], 0, starts[0] + i, starts[1] + j, channel)
                unless = spec.tiling.elsewhere(numbers, (i, j))
                write_output(spec, buffers, value, coordinates, width, bias=bias, unless=unless)
