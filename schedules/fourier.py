"""Convolution between Fourier transforms: blocks of tiles, as in `winograd`, with complex products.

    before:  Y[n, p, k] = f(sum over taps t and channels c of X[n, p + t, c] * W[t, c, k])
    after:   for each block of tiles and part of the output channels, in parallel:
                 for each tile, vector of channels:      V[:, tile, c] = DFT(x)
                 for each frequency e, panel, few tiles: M[e, tile, k] = sum over c of V[e, tile, c] * U[e, c, k]
                 for each tile, vector of channels:      Y = f(inverse DFT(M))

U = conj(DFT(w)) is made when the kernel is packed. Real and imaginary parts lie side by side, vector by vector; a
product of complex numbers is four multiply-adds for two loads. With strides, c goes over the phases of all channels, as
`lowprec.phases` has them.
"""

from dataclasses import dataclass
from math import prod

import numpy as np
from numpy.typing import NDArray
from tvm import ir, tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from lowprec.fourier import Segment, frequencies, transform_weights
from lowprec.phases import Phases
from lowprec.schedules.blocks import Blocks, Share, Steps, Tiling, walk_block, walk_phases
from lowprec.schedules.buffers import Buffers, Frame, begin_kernel, write_output
from lowprec.schedules.dft import Complex
from lowprec.schedules.fourier_tile import Rooms, Transforms
from lowprec.schedules.panel_product import Operands, multiply
from lowprec.schedules.prefetch import panel_ahead
from lowprec.schedules.tasks import any_of, decode, start_of
from lowprec.schedules.tiling import ceil_div
from lowprec.schedules.views import FLOAT_BYTES, Index, load, store


@dataclass(frozen=True, slots=True, kw_only=True)
class Fourier(Frame):
    """One kernel, whole."""

    batch: int
    size: tuple[int, int]
    axes: tuple[Segment, Segment]
    phases: Phases
    blocks: Blocks

    @property
    def in_channels(self) -> int:
        """Of a group; a block's are those of all phases."""
        return self.blocks.channels[0] // self.phases.count

    @property
    def frequencies(self) -> int:
        """Complex products of a tile."""
        return frequencies(*self.axes)

    @property
    def tiling(self) -> Tiling:
        high, wide = self.axes
        return Tiling(batch=self.batch, size=self.size, outputs=(high.outputs, wide.outputs))

    @property
    def bias_width(self) -> int:
        return self.blocks.bias_width

    @property
    def weights(self) -> int:
        """Elements of U: [group][turn][frequency][panel][input channel][re, im][output channel of the panel]."""
        cut = self.blocks
        return prod((cut.groups, cut.panels, self.frequencies, cut.channels[0], 2, cut.panel))

    @property
    def transforms(self) -> Transforms:
        return Transforms(axes=self.axes, lanes=self.lanes, weights=self.weights)


def pack_fourier(weights: NDArray[np.float32], kernel: Fourier) -> NDArray[np.float32]:
    """[groups * K, C, taps...] -> U, and the roots of unity."""
    cut, (high, wide) = kernel.blocks, kernel.axes
    depth, columns = cut.channels
    split = kernel.phases.split(weights.reshape(len(weights), kernel.in_channels, *kernel.phases.kernel))
    spectrum = transform_weights(split, high, wide)
    planes = spectrum.astype(np.complex64).reshape(cut.groups, columns, depth, kernel.frequencies)
    parts = np.stack([planes.real, planes.imag], axis=-1)
    packed = cut.pack(parts.transpose(0, 3, 2, 1, 4))
    return kernel.transforms.packed(packed)


def build_fourier(spec: Fourier) -> tirx.PrimFunc:
    """The kernel: arguments X, U, [bias], the epilogue's operands, Y."""
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        buffers = begin_kernel(spec, weights=(spec.transforms.elements,), bias=spec.bias)
        cut, tiles = spec.blocks, spec.tiling.count
        extents = (cut.groups, cut.parts, ceil_div(tiles, cut.run))
        with T.parallel(0, prod(extents)) as task:
            group, part, run = decode(task, extents)
            rows = spec.frequencies * cut.run * 2
            v, m = (T.alloc_buffer((rows * width,), "float32", scope="global") for width in cut.widths)
            first = start_of(run, cut.run, tiles)
            rooms = spec.transforms.rooms()
            _Block(spec=spec, buffers=buffers, v=v, m=m, rooms=rooms, group=group, first=first).emit(part)
    return builder.get()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Block:
    """A task: tiles from `first` on, and some of the output channels of a group."""

    spec: Fourier
    buffers: Buffers
    v: tirx.Buffer
    m: tirx.Buffer
    rooms: Rooms
    group: Index
    first: Index

    def emit(self, part: Index) -> None:
        steps = Steps(into_v=self._into_v, products=self._products, out_of_m=self._out_of_m)
        walk_block(self.spec.blocks, self.spec.frequencies, part, steps)

    def _into_v(self, place: Index) -> None:
        """The spectrum of a tile, for every phase and vector of channels."""
        spec, cut = self.spec, self.spec.blocks
        (n, *_), starts = spec.tiling.at(self.first + place)
        width, row = min(spec.lanes, spec.in_channels), cut.widths[0]

        def transform(share: Share) -> None:
            tile = spec.transforms.tile(self.rooms, width, self.buffers.w, short=share.short)
            source = self.group * spec.in_channels + share.channel
            tile.transform_rows(
                lambda i, j: load(self.buffers.x, spec.input.address((n, 0, *share.at(i, j), source)), width)
            )
            with T.serial(0, tile.columns) as k:

                def keep(u: Index, value: Complex) -> None:
                    base = (((k * spec.axes[0].size + u) * cut.run + place) * 2) * row + share.place
                    store(self.v, base, value[0], width)
                    store(self.v, base + row, value[1], width)

                tile.transform_column(k, keep)

        walk_phases(spec.phases, starts, spec.in_channels, spec.lanes, transform)

    def _products(self, turn: Index, e: Index, panel: Index, rows: Index) -> None:
        """M of one frequency, for some tiles and a panel of channels."""
        cut, lanes = self.spec.blocks, self.spec.lanes
        depth, (v_row, m_row) = cut.channels[0], cut.widths
        first = start_of(rows, cut.tile.rows, cut.run)
        number = T.bind(((self.group * cut.turns + turn) * self.spec.frequencies + e) * cut.at_once + panel)
        base = T.bind(number * (depth * 2 * cut.panel))

        def left(i: int, c: Index) -> Complex:
            at = (e * cut.run + first + i) * 2 * v_row + c
            return load(self.v, at, 1), load(self.v, at + v_row, 1)

        def right(c: Index, j: int) -> Complex:
            at = base + c * (2 * cut.panel) + j * lanes
            return load(self.buffers.w, at, lanes), load(self.buffers.w, at + cut.panel, lanes)

        def result(i: int, j: int, re: ir.Expr, im: ir.Expr) -> None:
            at = (e * cut.run + first + i) * 2 * m_row + panel * cut.panel + j * lanes
            store(self.m, at, re, lanes)
            store(self.m, at + m_row, im, lanes)

        ahead = panel_ahead(self.buffers.w, number, depth * 2 * cut.panel * FLOAT_BYTES, rows, cut.visits)
        operands = Operands(left=left, right=right, result=result, before_step=ahead, parts=2)
        multiply(operands, cut.tile, depth=depth, lanes=lanes)

    def _out_of_m(self, turn: Index, place: Index) -> None:
        """The results of a tile, for every vector of a turn's channels."""
        spec, cut = self.spec, self.spec.blocks
        numbers, starts = spec.tiling.at(self.first + place)
        width = min(spec.lanes, cut.channels[1])
        tile = spec.transforms.tile(self.rooms, width, self.buffers.w)
        row = cut.widths[1]
        with T.serial(0, cut.at_once) as panel, T.serial(0, cut.tile.vectors) as vector:
            position = T.bind(place * (2 * row) + panel * cut.panel + vector * spec.lanes)
            channel = T.bind(cut.first_channel(self.group, turn * cut.at_once + panel, vector))
            with T.serial(0, tile.columns) as k:

                def spectrum(u: Index) -> Complex:
                    at = (k * spec.axes[0].size + u) * (cut.run * 2 * row) + position
                    return load(self.m, at, width), load(self.m, at + row, width)

                tile.restore_column(k, spectrum)
            bias = self.buffers.bias_at(channel, width)

            def write(i: Index, j: Index, value: ir.Expr, unless: ir.Expr | None) -> None:
                skipped = any_of(unless, spec.tiling.elsewhere(numbers, (i, j)))
                coordinates = (numbers[0], 0, starts[0] + i, starts[1] + j, channel)
                write_output(spec, self.buffers, value, coordinates, width, bias=bias, unless=skipped)

            tile.restore_rows(write)
