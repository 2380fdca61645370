"""Depthwise convolution of images whose channels lie one after the other, by vectors along rows: for few taps.

    before:  Y[n, c, p] = f(sum over taps t of X[n, c, p + t * dilation - pads] * W[c, t])
    after:   for some channels, or a band of rows, in parallel, for each channel:
                 its rows copied, with their padding
                 for a few rows, a few vectors of each:  Y = f(sums), each vector that is read used for all its rows

Each tap reads a vector that begins elsewhere, most of them in two lines of the cache: up to nine taps that is cheaper
than turning squares, as `planes` does.
"""

from dataclasses import dataclass
from itertools import product
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tvm import ir, tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from lowprec.convolution import Conv
from lowprec.schedules.buffers import Buffers, begin_kernel
from lowprec.schedules.depthwise import ENOUGH_TASKS
from lowprec.schedules.planes import Lying
from lowprec.schedules.prefetch import LINE, prefetch_stream
from lowprec.schedules.tasks import all_of, decode, only_if, start_of
from lowprec.schedules.tiling import ceil_div
from lowprec.schedules.views import FLOAT, FLOAT_BYTES, Index, load, named, register, splat, store, zeros

MOST_TAPS = 9
"""Whose weights stay in registers."""

TALL, SUMS = 4, 16
"""Rows, and vectors of all of them, that are summed at once."""

FEW_REGISTERS = 16
BAND_BYTES = 24 << 10
"""Of copied rows, which stay in L1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlaneRows(Lying):
    """One kernel that turns nothing."""

    @property
    def begin(self) -> int:
        """Where a copied row begins, behind its padding: where vectors are aligned."""
        return ceil_div(self.conv.pads_begin[1], self.lanes) * self.lanes

    @property
    def pitch(self) -> int:
        """From one copied row to the next."""
        return ceil_div(self.begin + self.conv.size[1] + self.conv.pads_end[1], self.lanes) * self.lanes

    @property
    def rows(self) -> int:
        """Of a copy."""
        return self.band + self.reach

    @property
    def reach(self) -> int:
        """Rows that are seen beside the one in hand."""
        return (self.conv.kernel[0] - 1) * self.conv.dilation[0]

    @property
    def band(self) -> int:
        """Rows of the result that are made of one copy."""
        return min(self.size[0], max(TALL, BAND_BYTES // (FLOAT_BYTES * self.pitch) - self.reach))

    @property
    def scratch(self) -> int:
        """Bytes of a copy."""
        return FLOAT_BYTES * self.rows * self.pitch

    @property
    def channels(self) -> int:
        """Of a task."""
        others = self.conv.batch * ceil_div(self.size[0], self.band)
        return ceil_div(self.conv.groups, ceil_div(ENOUGH_TASKS, others))

    @property
    def tile(self) -> tuple[int, int]:
        """Rows, and vectors of each, summed at once."""
        sums = SUMS if self.registers > FEW_REGISTERS else SUMS // 2
        tall = min(TALL, self.band)
        return tall, min(sums // tall, ceil_div(self.size[1], self.lanes))


def fits_rows(conv: Conv) -> bool:
    """Whether taps are few, and results as near to each other as pixels."""
    return prod(conv.kernel) <= MOST_TAPS and set(conv.stride) == {1}


def pack_plane_rows(weights: NDArray[Any]) -> NDArray[Any]:
    """[C, 1, taps...] -> [C, taps]."""
    return np.ascontiguousarray(weights.reshape(len(weights), -1).astype(FLOAT))


def build_plane_rows(spec: PlaneRows) -> tirx.PrimFunc:
    """The kernel: arguments X, W, the epilogue's operands, Y."""
    conv, height = spec.conv, spec.size[0]
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        buffers = begin_kernel(spec, weights=(conv.groups, prod(conv.kernel)), bias=False)
        extents = (conv.batch, ceil_div(conv.groups, spec.channels), ceil_div(height, spec.band))
        with T.parallel(0, prod(extents)) as number:
            n, part, band = decode(number, extents)
            pixels = T.alloc_buffer((spec.rows * spec.pitch,), FLOAT, scope="global")
            with T.serial(0, spec.rows * spec.pitch // spec.lanes) as vector:
                store(pixels, vector * spec.lanes, zeros(spec.lanes), spec.lanes)
            first, row = start_of(part, spec.channels, conv.groups), start_of(band, spec.band, height)
            with T.serial(0, spec.channels) as index:
                task = _Task(spec=spec, buffers=buffers, pixels=pixels, n=n, channel=T.bind(first + index), first=row)
                task.copy()
                task.sum()
    return builder.get()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Task:
    """A channel, and the rows of its result from `first` on; `pixels` are those that they see."""

    spec: PlaneRows
    buffers: Buffers
    pixels: tirx.Buffer
    n: Index
    channel: Index
    first: Index

    def copy(self) -> None:
        """The rows that are seen; where there are none, zeros stand already, as they do beside rows."""
        spec, conv = self.spec, self.spec.conv
        top, bottom, lanes = conv.pads_begin[0], conv.pads_end[0], spec.lanes
        with T.serial(0, spec.rows) as i:
            row = T.bind(self.first + i - top)
            inside = all_of(row >= 0 if top else None, row < conv.size[0] if bottom else None)

            def copy() -> None:
                start = T.bind(spec.input.address((self.n, 0, self.channel, row, 0)))
                with T.serial(0, ceil_div(conv.size[1], lanes)) as number:
                    column = start_of(number, lanes, conv.size[1])
                    store(self.pixels, place + column, load(self.buffers.x, start + column, lanes), lanes)

            place = T.bind(i * spec.pitch + spec.begin)
            only_if(inside, copy)

    def sum(self) -> None:
        """The results of the band."""
        spec = self.spec
        (tall, wide), taps = spec.tile, prod(spec.conv.kernel)
        vectors = ceil_div(spec.size[1], spec.lanes)
        weights = [named(splat(load(self.buffers.w, self.channel * taps + tap, 1), spec.lanes)) for tap in range(taps)]
        with T.serial(0, ceil_div(spec.band, tall)) as group, T.serial(0, ceil_div(vectors, wide)) as part:
            self._fetch(group * ceil_div(vectors, wide) + part, ceil_div(spec.band, tall) * ceil_div(vectors, wide))
            row, vector = start_of(group, tall, spec.band), start_of(part, wide, vectors)
            columns = [start_of(vector + j, spec.lanes, spec.size[1]) for j in range(wide)]
            self._sum_tile(weights, row, columns)

    def _fetch(self, step: Index, steps: int) -> None:
        """At each step a share of what the next channel reads, and writes."""
        spec = self.spec
        for buffer, view, rows in (
            (self.buffers.x, spec.input, spec.rows),
            (self.buffers.y, spec.output, spec.band),
        ):
            row = self.first - spec.conv.pads_begin[0] if view is spec.input else self.first
            start = view.address((self.n, 0, self.channel + 1, row, 0)) * FLOAT_BYTES
            share = ceil_div(rows * view.strides[3] * FLOAT_BYTES, steps * LINE) * LINE
            prefetch_stream(buffer, start=start + step * share, count=share, written=view is spec.output)

    def _sum_tile(self, weights: list[ir.Expr], row: Index, columns: list[Index]) -> None:
        spec, conv, lanes = self.spec, self.spec.conv, self.spec.lanes
        tall = spec.tile[0]
        sums = {place: register(lanes) for place in product(range(tall), range(len(columns)))}
        for total in sums.values():
            store(total, 0, zeros(lanes), lanes)
        users: dict[int, list[tuple[int, int]]] = {}
        for r, tap in product(range(tall), range(conv.kernel[0])):
            users.setdefault(r + tap * conv.dilation[0], []).append((r, tap))
        for seen in sorted(users):
            left = T.bind((row + seen) * spec.pitch + spec.begin - conv.pads_begin[1])
            for t, (j, column) in product(range(conv.kernel[1]), enumerate(columns)):
                pixel = named(load(self.pixels, left + column + t * conv.dilation[1], lanes))
                for r, tap in users[seen]:
                    total = sums[r, j]
                    store(total, 0, load(total, 0, lanes) + pixel * weights[tap * conv.kernel[1] + t], lanes)
        for (r, j), total in sums.items():
            coordinates = (self.n, 0, self.channel, self.first + row + r, columns[j])
            value = spec.epilogue.apply(load(total, 0, lanes), self.buffers.operands, coordinates, lanes)
            store(self.buffers.y, spec.output.address(coordinates), value, lanes)
