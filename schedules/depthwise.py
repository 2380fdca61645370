"""Depthwise convolution: nothing is summed over channels, so vectors run along them.

    before:  Y[n, p, c] = f(sum over taps t of X[n, p * stride + t * dilation, c] * W[t, c])
    after:   for each row or two of pixels, in parallel:  for a few neighbouring pixels at once, for each vector of
             channels:  for each row of taps:  each pixel and each weight is loaded once for all that use it

Channels that a vector does not divide are handled by overlap, as in `direct`. Integers are summed as floats that hold
every sum exactly: bytes in float32, numbers of 16 bits in float64.
"""

from dataclasses import dataclass
from functools import partial
from itertools import chain, product
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tvm import ir, tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from lowprec.schedules.buffers import Buffers, Frame, begin_kernel
from lowprec.schedules.epilogue import convert
from lowprec.schedules.geometry import Geometry
from lowprec.schedules.tasks import decode, only_if, start_of
from lowprec.schedules.tiling import ceil_div, equal_parts
from lowprec.schedules.vector_math import from_upper_half
from lowprec.schedules.views import FLOAT, FLOAT_BYTES, INTEGERS, UPPER_HALVES, Index, load, register, store, zeros

WIDE, DOUBLE = "int16", "float64"
ENOUGH_TASKS = 24
"""Tasks that keep the cores of most machines evenly busy."""

L1_SHARE = 24 << 10
"""Bytes of pixels that stay in L1 beside what is written and the weights."""

L2_SHARE = 3 << 20
"""Bytes read and written beyond which a pixel's line is gone from L2 when the next part of its channels is due."""

WINDOW = 512 << 10
"""Bytes of pixels that stay in L2 for the rows below, where the whole does not."""

MANY_REGISTERS = 32
MOST_STRIDE = 2
"""Where rows below each other share what they read: further apart, what they do not share is more."""

WASTE = 1.07
"""How much may be computed twice for the sake of four rows."""

LEAST_SHARE = 4
"""Rows of tiles of a thread, at least."""

LEAST_BLOCKS = 2
"""Vectors of channels that a task takes at least, if there are so many: caches fetch lines in pairs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Depthwise(Frame):
    """One depthwise kernel: geometry, views and epilogue."""

    batch: int
    channels: int
    geometry: Geometry
    registers: int
    threads: int = 1

    @property
    def width(self) -> int:
        """Channels of one vector."""
        return min(self.lanes, self.channels)

    @property
    def bias_width(self) -> int:
        """Elements of the bias."""
        return self.channels

    @property
    def exact(self) -> bool:
        """Whether pixels are integers: sums are whole numbers then, which the bias joins as an integer."""
        return self.input.dtype not in (FLOAT, UPPER_HALVES)

    @property
    def wide(self) -> bool:
        """Whether they have 16 bits."""
        return self.input.dtype == WIDE

    @property
    def sums(self) -> str:
        """What is summed in: float32 holds whole numbers up to 2^24, float64 up to 2^53."""
        return DOUBLE if self.wide else FLOAT

    @property
    def vectors(self) -> int:
        """Registers, each of a whole vector."""
        return self.registers // 2 if self.wide else self.registers

    @property
    def tile(self) -> tuple[int, int]:
        """Rows and pixels of a row computed at once: enough to hide latency, few enough for the registers.

        Rows below each other share much of what they read, which matters where it does not stay in L1: two of them, or
        four by four pixels under small kernels, if so many registers are there and the rows divide well.
        """
        geometry = self.geometry
        height, taps, stride = geometry.size[1], geometry.kernel[1], geometry.stride[1]
        shared = geometry.dilation[1] == 1 and stride <= MOST_STRIDE and taps >= 3 * stride - 1
        tall = 2 if self.spread and shared and height > 1 else 1
        small = stride == 1 and 3 <= taps <= 7 and self.vectors >= MANY_REGISTERS
        if tall == 2 and small and height >= 4 and 4 * ceil_div(height, 4) <= WASTE * height:
            tall = 4
        return tall, self.pixels(tall)

    def pixels(self, rows: int) -> int:
        """Of a row, where so many rows are computed at once."""
        most, width = max(1, min(self.vectors // (2 + rows), 8, 16 // rows)), self.geometry.size[2]
        return ceil_div(width, ceil_div(width, most))

    @property
    def spread(self) -> bool:
        """Whether more is read and written than stays in L2."""
        return FLOAT_BYTES * (prod(self.input.shape) + prod(self.output.shape)) > L2_SHARE

    @property
    def blocks(self) -> int:
        """Vectors of channels."""
        return ceil_div(self.channels, self.width)

    @property
    def weights(self) -> tuple[int, int, int]:
        """[vector][tap][channel]: a vector's taps are read one after the other."""
        return self.blocks, prod(self.geometry.kernel), self.width

    @property
    def parts(self) -> int:
        """Parts of the channels, each taken over all rows before the next: what a row reads stays in L1 for the rows
        below, if the whole stays in L2, else in L2; and enough parts for tasks to be many."""
        geometry = self.geometry
        *_, reach = geometry.seen((0, 0, geometry.size[2] - 1), (0, 0, geometry.kernel[2] - 1))
        seen = self.blocks * prod(geometry.kernel[:2]) * (reach + 1) * self.width * FLOAT_BYTES
        lines = self.batch * prod(geometry.size[:2])
        rows = ceil_div(seen, WINDOW if self.spread else L1_SHARE)
        return equal_parts(self.blocks, max(ceil_div(ENOUGH_TASKS, lines), rows), least=LEAST_BLOCKS)

    @property
    def shares(self) -> int:
        """Parts of the rows, for each thread its own, where channels come in parts: so a thread finds the rows that it
        has made itself in its own cache."""
        rows = ceil_div(self.geometry.size[1], self.tile[0])
        apart = self.parts > 1 and self.batch * self.geometry.size[0] == 1 and rows >= LEAST_SHARE * self.threads
        return self.threads if apart else 1


def pack_depthwise(weights: NDArray[Any], spec: Depthwise) -> NDArray[Any]:
    """[C, 1, taps...] -> [vector][tap][channel]; the last vector overlaps its neighbour."""
    taps = weights.astype(WIDE if spec.wide else FLOAT).reshape(spec.channels, -1).T
    starts = (min(index * spec.width, spec.channels - spec.width) for index in range(spec.blocks))
    return np.stack([taps[:, first : first + spec.width] for first in starts])


def build_depthwise(spec: Depthwise) -> tirx.PrimFunc:
    """The kernel: arguments X, W, [bias], the epilogue's operands, Y."""
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        packed, kind = WIDE if spec.wide else FLOAT, INTEGERS if spec.exact else FLOAT
        buffers = begin_kernel(spec, weights=spec.weights, bias=spec.bias, packed=packed, sums=kind)
        depth, height, _ = spec.geometry.size
        tall, _ = spec.tile
        rows = ceil_div(height, tall)
        extents = (spec.batch, depth, spec.shares, spec.parts, ceil_div(rows, spec.shares))
        with T.parallel(0, prod(extents)) as task:
            n, d, share, part, index = decode(task, extents)
            number = share * extents[-1] + index
            known = None if rows % spec.shares == 0 else number < rows
            only_if(known, partial(_row, spec, buffers, (n, d, start_of(number, tall, height)), part))
    return builder.get()


def _row(spec: Depthwise, buffers: Buffers, at: tuple[Index, Index, Index], part: Index) -> None:
    """A row of tiles, of a part of the channels."""
    width, wide, blocks = spec.geometry.size[2], spec.tile[1], spec.blocks // spec.parts
    with T.serial(0, ceil_div(width, wide)) as tile, T.serial(0, blocks) as block:
        vector = T.bind(part * blocks + block)
        sum_tile(spec, (*at, start_of(tile, wide, width), vector), buffers)


def sum_tile(spec: Depthwise, at: tuple[Index, Index, Index, Index, Index], buffers: Buffers) -> None:
    """The results of a tile of pixels, of one vector of channels: at n, d, h, first pixel, vector."""
    n, d, h, first, vector = at
    channel = start_of(vector, spec.width, spec.channels)
    width, geometry, (tall, wide) = spec.width, spec.geometry, spec.tile
    sums = [[register(width, spec.sums) for _ in range(wide)] for _ in range(tall)]
    bias = buffers.bias_at(channel, width)
    for total in chain(*sums):
        store(total, 0, zeros(width, spec.sums) if bias is None or spec.exact else bias, width)
    taps, stride = geometry.kernel[1], geometry.stride[1]
    alone = stride * (tall - 1)
    with T.serial(*geometry.seeing(0, d)) as r:
        for s in range(alone):
            _add(spec, at, buffers, (r, s), {row: sums[row] for row in range(tall) if row * stride <= s})
        with T.serial(*(geometry.seeing(1, h) if tall == 1 else (alone, taps))) as s:
            _add(spec, at, buffers, (r, s), dict(enumerate(sums)))
        for s in range(taps, taps + alone):
            _add(spec, at, buffers, (r, s), {row: sums[row] for row in range(tall) if s - row * stride < taps})
    for (row, i), total in zip(product(range(tall), range(wide)), chain(*sums), strict=True):
        coordinates = (n, d, h + row, first + i, channel)
        value = _joined(spec, load(total, 0, width), bias)
        value = spec.epilogue.apply(value, buffers.operands, coordinates, width)
        store(buffers.y, spec.output.address(coordinates), value, width)


def _joined(spec: Depthwise, total: ir.Expr, bias: ir.Expr | None) -> ir.Expr:
    """A sum with its bias, as the epilogue takes it."""
    if not spec.exact:
        return total
    if spec.wide:
        return convert(total if bias is None else total + convert(bias, DOUBLE), FLOAT)
    return convert(total, INTEGERS) if bias is None else convert(total, INTEGERS) + bias


def _add(
    spec: Depthwise,
    at: tuple[Index, Index, Index, Index, Index],
    buffers: Buffers,
    taps: tuple[Index, Index],
    sums: dict[int, list[tirx.Buffer]],
) -> None:
    """To some rows of sums, what row 0 sees by a row of taps, and each other row by one a stride before."""
    (n, d, h, first, vector), (r, s) = at, taps
    width, geometry = spec.width, spec.geometry
    channel, packed = start_of(vector, width, spec.channels), vector * prod(geometry.kernel)
    line = T.bind(spec.input.address((n, *geometry.seen((d, h, first), (r, s, 0)), channel)))
    pixels: dict[int, ir.Expr] = {}
    for t in range(geometry.kernel[2]):
        places = {row: (packed + geometry.number((r, s - row * geometry.stride[1], t))) * width for row in sums}
        weights = {row: T.bind(_number(spec, load(buffers.w, place, width))) for row, place in places.items()}
        for i in range(spec.tile[1]):
            place = i * geometry.stride[2] + t * geometry.dilation[2]
            if place not in pixels:
                pixel = load(buffers.x, line + place * spec.input.strides[3], width)
                pixels[place] = T.bind(_number(spec, pixel))
            for row, totals in sums.items():
                store(totals[i], 0, load(totals[i], 0, width) + pixels[place] * weights[row], width)


def _number(spec: Depthwise, value: ir.Expr) -> ir.Expr:
    """A factor, of the type of sums."""
    if value.ty.dtype.with_lanes(1) == UPPER_HALVES:
        return from_upper_half(value)
    return value if value.ty.dtype.with_lanes(1) == spec.sums else convert(value, spec.sums)
