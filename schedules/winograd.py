"""Winograd convolution: blocks of tiles through transform, product and inverse while they stay in L2.

    before:  Y[n, p, k] = f(sum over taps t and channels c of X[n, p + t, c] * W[t, c, k])
    after:   for each block of tiles and part of the output channels, in parallel:
                 for each tile, vector of channels:      V[:, tile, c] = B^T x B
                 for each frequency e, panel, few tiles: M[e, tile, k] = sum over c of V[e, tile, c] * U[e, c, k]
                 for each tile, vector of channels:      Y = f(A^T M A)

U = G w G^T is made when the kernel is packed; equations are numbered in `lowprec.winograd`. A tile is `outputs` of each
axis, and the last one of an axis begins earlier where they do not divide it: it computes again what its neighbour has
written, to other bits, and so does not write that.
"""

from dataclasses import dataclass
from math import prod

import numpy as np
from numpy.typing import NDArray
from tvm import ir, tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from lowprec.schedules.buffers import Buffers, begin_kernel
from lowprec.schedules.direct import panel_starts, vector_starts
from lowprec.schedules.epilogue import Epilogue
from lowprec.schedules.halo import Halo
from lowprec.schedules.linear import apply
from lowprec.schedules.panel_product import Operands, multiply
from lowprec.schedules.prefetch import prefetch
from lowprec.schedules.tasks import decode, start_of
from lowprec.schedules.tiling import ceil_div
from lowprec.schedules.views import FLOAT_BYTES, Index, View, load, row_major, store
from lowprec.schedules.winograd_blocks import Blocks
from lowprec.winograd import Filtering, transform_weights

ALIASED = 256
"""Bytes of which a multiple, as the distance between rows, would put them all into a few sets of L1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Winograd:
    """One kernel, whole."""

    batch: int
    groups: int
    all_channels: tuple[int, int]
    in_channels: int
    out_channels: int
    axes: tuple[Filtering, Filtering]
    size: tuple[int, int]
    input: View
    output: View
    halo: Halo | None
    bias: bool
    epilogue: Epilogue
    lanes: int
    blocks: Blocks

    @property
    def panel(self) -> int:
        """Output channels computed at once."""
        return self.blocks.tile.vectors * self.lanes

    @property
    def panels(self) -> int:
        return ceil_div(self.out_channels, self.panel)

    @property
    def bias_width(self) -> int:
        """Elements of the bias that are there to be read: narrow groups are read a whole vector at a time."""
        return self.all_channels[1] + max(0, self.lanes - self.out_channels)

    @property
    def frequencies(self) -> int:
        """Products of a tile."""
        return prod(axis.inputs for axis in self.axes)

    @property
    def tiles(self) -> tuple[int, int, int]:
        """Images, rows of tiles, tiles of a row."""
        high, wide = (ceil_div(extent, axis.outputs) for extent, axis in zip(self.size, self.axes, strict=True))
        return self.batch, high, wide

    @property
    def turns(self) -> int:
        """How often a block's V is multiplied: each time with some panels of the output channels."""
        return self.panels // self.blocks.at_once

    @property
    def packed_shape(self) -> tuple[int, ...]:
        """U: [group][turn][frequency][panel][input channel][output channel of the panel]."""
        return (self.groups, self.turns, self.frequencies, self.blocks.at_once, self.in_channels, self.panel)

    @property
    def scratch_shapes(self) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
        """V and M of a block: [frequency][tile][channel]."""
        widths = _unaliased(self.in_channels, self.lanes), _unaliased(self.blocks.at_once * self.panel, self.lanes)
        first, second = ((self.frequencies, self.blocks.run, width) for width in widths)
        return first, second


def _unaliased(width: int, lanes: int) -> int:
    padded = ceil_div(width, lanes) * lanes
    return padded if padded * FLOAT_BYTES % ALIASED else padded + lanes


def pack_winograd(weights: NDArray[np.float32], kernel: Winograd) -> NDArray[np.float32]:
    """[groups * K, C, taps...] -> U, its columns in the order the kernel loads them."""
    per_group, lanes, panel = kernel.out_channels, kernel.lanes, kernel.panel
    taps = tuple(axis.taps for axis in kernel.axes)
    grouped = weights.reshape(kernel.groups * per_group, kernel.in_channels, *taps)
    transformed = transform_weights(grouped, kernel.axes).astype(np.float32)
    ordered = transformed.reshape(kernel.groups, per_group, kernel.in_channels, kernel.frequencies)
    ordered = ordered.transpose(0, 3, 2, 1)  # [group][frequency][channel][output channel]
    if per_group < lanes:
        ordered = np.pad(ordered, ((0, 0), (0, 0), (0, 0), (0, lanes - per_group)))
    columns = [
        np.arange(start + offset, start + offset + lanes)
        for start in panel_starts(per_group, panel)
        for offset in vector_starts(per_group, panel, lanes)
    ]
    packed = ordered[..., np.concatenate(columns)]
    packed = packed.reshape(*packed.shape[:3], kernel.turns, kernel.blocks.at_once, panel)
    return np.ascontiguousarray(packed.transpose(0, 3, 1, 4, 2, 5))


def build_winograd(spec: Winograd) -> tirx.PrimFunc:
    """The kernel: arguments X, U, [bias], the epilogue's operands, Y."""
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        buffers = begin_kernel(spec, weights=spec.packed_shape, bias=spec.bias)
        tiles = prod(spec.tiles)
        extents = (spec.groups, spec.blocks.parts, ceil_div(tiles, spec.blocks.run))
        with T.parallel(0, prod(extents)) as task:
            group, part, run = decode(task, extents)
            shapes = spec.scratch_shapes
            v, m = (T.alloc_buffer((prod(shape),), "float32", scope="global") for shape in shapes)
            half = T.alloc_buffer((spec.frequencies * spec.lanes,), "float32", scope="global")
            block = _Block(
                spec=spec,
                buffers=buffers,
                v=v,
                m=m,
                half=half,
                group=group,
                first=start_of(run, spec.blocks.run, tiles),
            )
            block.emit(part)
    return builder.get()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Block:
    """A task: tiles from `first` on, and some of the output channels of a group."""

    spec: Winograd
    buffers: Buffers
    v: tirx.Buffer
    m: tirx.Buffer
    half: tirx.Buffer
    group: Index
    first: Index

    def emit(self, part: Index) -> None:
        spec = self.spec
        with T.serial(0, spec.blocks.run) as place:
            self._into_v(place)
        with T.serial(0, spec.turns // spec.blocks.parts) as index:
            turn = part * (spec.turns // spec.blocks.parts) + index
            extents = (spec.frequencies, spec.blocks.at_once, ceil_div(spec.blocks.run, spec.blocks.tile.rows))
            with T.serial(0, extents[0]) as e, T.serial(0, extents[1]) as panel, T.serial(0, extents[2]) as rows:
                self._products(turn, e, panel, rows)
            with T.serial(0, spec.blocks.run) as place:
                self._out_of_m(turn, place)

    def _tile(self, place: Index) -> tuple[list[Index], list[Index]]:
        """The coordinates of the tile at a place of the block, and of its first output."""
        numbers = decode(self.first + place, self.spec.tiles)
        axes = zip(numbers[1:], self.spec.axes, self.spec.size, strict=True)
        return numbers, [start_of(number, axis.outputs, extent) for number, axis, extent in axes]

    def _into_v(self, place: Index) -> None:
        """B^T x B of a tile, for every vector of channels."""
        spec = self.spec
        (n, *_), (h, w) = self._tile(place)
        width = min(spec.lanes, spec.in_channels)
        high, wide = spec.axes
        planes = row_major(spec.scratch_shapes[0])
        first_in = start_of(self.group, spec.in_channels, spec.all_channels[0])
        with T.serial(0, ceil_div(spec.in_channels, width)) as vector:
            channel = start_of(vector, width, spec.in_channels)
            with T.serial(0, wide.inputs) as j:
                seen = [spec.input.address((n, 0, h + i, w + j, first_in + channel)) for i in range(high.inputs)]
                column = [T.bind(load(self.buffers.x, position, width)) for position in seen]
                self._keep(apply(high.matrices[2], column, width), j, width)
            with T.serial(0, high.inputs) as i:
                row = apply(wide.matrices[2], self._kept(i, width), width)
                for j, value in enumerate(row):
                    at = (i * wide.inputs + j) * planes[0] + place * planes[1] + channel
                    store(self.v, at, value, width)

    def _keep(self, column: list[ir.Expr], j: Index, width: int) -> None:
        """Column j of a tile, half transformed."""
        for i, value in enumerate(column):
            store(self.half, (i * self.spec.axes[1].inputs + j) * self.spec.lanes, value, width)

    def _kept(self, i: Index, width: int) -> list[ir.Expr]:
        """Row i of a tile, half transformed."""
        count, lanes = self.spec.axes[1].inputs, self.spec.lanes
        return [T.bind(load(self.half, (i * count + j) * lanes, width)) for j in range(count)]

    def _products(self, turn: Index, e: Index, panel: Index, rows: Index) -> None:
        """M of one frequency, for some tiles and a panel of channels."""
        spec = self.spec
        v, m = (row_major(shape) for shape in spec.scratch_shapes)
        first = start_of(rows, spec.blocks.tile.rows, spec.blocks.run)
        turns = self.group * spec.turns + turn
        number = T.bind((turns * spec.frequencies + e) * spec.blocks.at_once + panel)
        base = T.bind(number * (spec.in_channels * spec.panel))
        used = spec.in_channels * spec.panel * FLOAT_BYTES
        visits = ceil_div(spec.blocks.run, spec.blocks.tile.rows)

        def ahead(step: Index, steps: int) -> None:
            prefetch(
                self.buffers.w, start=(number + 1) * used, count=used, step=rows * steps + step, steps=visits * steps
            )

        def left(i: int, c: Index) -> ir.Expr:
            return load(self.v, e * v[0] + (first + i) * v[1] + c, 1)

        def right(c: Index, j: int) -> ir.Expr:
            return load(self.buffers.w, base + c * spec.panel + j * spec.lanes, spec.lanes)

        def result(i: int, j: int, value: ir.Expr) -> None:
            store(self.m, e * m[0] + (first + i) * m[1] + panel * spec.panel + j * spec.lanes, value, spec.lanes)

        operands = Operands(left=left, right=right, result=result, before_step=ahead)
        multiply(operands, spec.blocks.tile, depth=spec.in_channels, lanes=spec.lanes)

    def _out_of_m(self, turn: Index, place: Index) -> None:
        """f(A^T M A) of a tile, for every vector of a block of channels."""
        spec = self.spec
        (n, *numbers), starts = self._tile(place)
        planes = row_major(spec.scratch_shapes[1])
        width = min(spec.lanes, spec.out_channels)
        group = start_of(self.group, spec.out_channels, spec.all_channels[1])
        for offset, vector in enumerate(vector_starts(spec.out_channels, spec.panel, spec.lanes)):
            with T.serial(0, spec.blocks.at_once) as panel:
                column = panel * spec.panel + offset * spec.lanes
                number = turn * spec.blocks.at_once + panel
                base = group + start_of(number, spec.panel, spec.out_channels) + vector
                self._inverse(n, numbers, starts, T.bind(place * planes[1] + column), base, width)

    def _inverse(
        self, n: Index, numbers: list[Index], starts: list[Index], position: Index, base: Index, width: int
    ) -> None:
        spec, buffers = self.spec, self.buffers
        high, wide = spec.axes
        plane = row_major(spec.scratch_shapes[1])[0]
        with T.serial(0, wide.inputs) as j:
            places = [(i * wide.inputs + j) * plane + position for i in range(high.inputs)]
            column = [T.bind(load(self.m, at, width)) for at in places]
            self._keep(apply(high.matrices[0], column, width), j, width)
        bias = None if buffers.bias is None else T.bind(load(buffers.bias, base, width))
        with T.serial(0, high.outputs) as i:
            row = apply(wide.matrices[0], self._kept(i, width), width)
            for j, value in enumerate(row):
                total = value if bias is None else value + bias
                coordinates = (n, 0, starts[0] + i, starts[1] + j, base)
                self._write(numbers, (i, j), total, coordinates, width)

    def _write(
        self, numbers: list[Index], at: tuple[Index, int], value: ir.Expr, coordinates: tuple[Index, ...], width: int
    ) -> None:
        """One result, unless a neighbouring tile writes it."""
        spec = self.spec

        def finish() -> None:
            result = spec.epilogue.apply(value, self.buffers.operands, coordinates, width)
            store(self.buffers.y, spec.output.address(coordinates), result, width)

        theirs = None
        for number, count, place, axis, extent in zip(numbers, spec.tiles[1:], at, spec.axes, spec.size, strict=True):
            again = count * axis.outputs - extent  # outputs of the last tile that its neighbour has
            if again and not (isinstance(place, int) and place >= again):
                inside = tirx.And(number == count - 1, place < again)
                theirs = inside if theirs is None else tirx.Or(theirs, inside)
        if theirs is None:
            finish()
            return
        with T.If(tirx.Not(theirs)), T.Then():
            finish()
