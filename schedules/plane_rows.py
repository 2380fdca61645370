"""Depthwise convolution of images whose channels lie one after the other, by vectors along rows.

    before:  Y[n, c, p] = f(sum over taps t of X[n, c, p + t * dilation - pads] * W[c, t])
    after:   for some channels, or a band of rows, in parallel, for each channel:
                 its rows copied, with their padding
                 for a few vectors of every row, from the top down:
                     sums of all results that see this row += its pixels * W;  Y = f(the sums that are done)

Nothing is turned, and a row is read once for all results that see it: their sums stay in registers, and move up by one
as the next row comes. A tap reads a vector that begins elsewhere, mostly in two lines of the cache; a weight is read
once for all vectors of the row.
"""

from dataclasses import dataclass
from itertools import chain, pairwise
from math import prod
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from lowprec.predicting_planes import REGISTERS_BESIDE
from lowprec.schedules.buffers import Buffers, begin_kernel
from lowprec.schedules.depthwise import ENOUGH_TASKS
from lowprec.schedules.planes import Lying
from lowprec.schedules.prefetch import LINE, prefetch_stream
from lowprec.schedules.tasks import all_of, decode, only_if, start_of
from lowprec.schedules.tiling import ceil_div
from lowprec.schedules.views import FLOAT, FLOAT_BYTES, Index, load, named, register, splat, store, zeros

BAND_BYTES = 128 << 10
"""Of copied rows."""

Sums: TypeAlias = list[list[tirx.Buffer]]


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
        fitting = max(self.reach + 1, BAND_BYTES // (FLOAT_BYTES * self.pitch) - self.reach)
        return ceil_div(self.size[0], ceil_div(self.size[0], fitting))

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
    def wide(self) -> int:
        """Vectors of a row whose sums are made at once."""
        vectors = ceil_div(self.size[1], self.lanes)
        return ceil_div(vectors, ceil_div(vectors, (self.registers - REGISTERS_BESIDE) // (self.reach + 1)))


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
        vectors = ceil_div(self.spec.size[1], self.spec.lanes)
        with T.serial(0, self.parts) as part:
            vector = start_of(part, self.spec.wide, vectors)
            columns = [start_of(vector + j, self.spec.lanes, self.spec.size[1]) for j in range(self.spec.wide)]
            self._sum_columns(part, columns)

    @property
    def parts(self) -> int:
        """Of every row: each takes its way from the top down."""
        return ceil_div(ceil_div(self.spec.size[1], self.spec.lanes), self.spec.wide)

    def _sum_columns(self, part: Index, columns: list[Index]) -> None:
        """Sums are of a result's row, counted from the one that sees this row with its last tap, and of a column."""
        spec, conv, lanes = self.spec, self.spec.conv, self.spec.lanes
        top, bottom = conv.pads_begin[0], conv.pads_end[0]
        sums = [[register(lanes) for _ in columns] for _ in range(spec.reach + 1)]
        for total in chain(*sums):
            store(total, 0, zeros(lanes), lanes)
        with T.serial(0, spec.rows) as seen:
            self._fetch(part * spec.rows + seen)
            row = T.bind(self.first + seen - top)
            inside = all_of(row >= 0 if top else None, row < conv.size[0] if bottom else None)
            only_if(inside, lambda: self._add(seen, columns, sums))
            only_if(seen >= spec.reach if spec.reach else None, lambda: self._finish(seen, columns, sums[0]))
            for old, new in pairwise(sums):
                for total, next_total in zip(old, new, strict=True):
                    store(total, 0, load(next_total, 0, lanes), lanes)
            for total in sums[-1]:
                store(total, 0, zeros(lanes), lanes)

    def _add(self, seen: Index, columns: list[Index], sums: Sums) -> None:
        """The pixels of a row, for all results that see it."""
        spec, conv, lanes = self.spec, self.spec.conv, self.spec.lanes
        left = T.bind(seen * spec.pitch + spec.begin - conv.pads_begin[1])
        for t in range(conv.kernel[1]):
            start = left + t * conv.dilation[1]
            pixels = [named(load(self.pixels, start + column, lanes)) for column in columns]
            for tap in range(conv.kernel[0]):
                place = self.channel * prod(conv.kernel) + tap * conv.kernel[1] + t
                weight = named(splat(load(self.buffers.w, place, 1), lanes))
                for total, pixel in zip(sums[spec.reach - tap * conv.dilation[0]], pixels, strict=True):
                    store(total, 0, load(total, 0, lanes) + pixel * weight, lanes)

    def _finish(self, seen: Index, columns: list[Index], sums: list[tirx.Buffer]) -> None:
        """The row of results that has seen all it sees."""
        spec, lanes = self.spec, self.spec.lanes
        for column, total in zip(columns, sums, strict=True):
            coordinates = (self.n, 0, self.channel, self.first + seen - spec.reach, column)
            value = spec.epilogue.apply(load(total, 0, lanes), self.buffers.operands, coordinates, lanes)
            store(self.buffers.y, spec.output.address(coordinates), value, lanes)

    def _fetch(self, step: Index) -> None:
        """At each step a share of what the next channel reads, and writes."""
        spec = self.spec
        for buffer, view, first, rows in (
            (self.buffers.x, spec.input, self.first - spec.conv.pads_begin[0], spec.rows),
            (self.buffers.y, spec.output, self.first, spec.band),
        ):
            start = view.address((self.n, 0, self.channel + 1, first, 0)) * FLOAT_BYTES
            share = ceil_div(rows * view.strides[3] * FLOAT_BYTES, self.parts * spec.rows * LINE) * LINE
            prefetch_stream(buffer, start=start + step * share, count=share, written=view is spec.output)
