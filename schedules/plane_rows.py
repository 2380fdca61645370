"""Depthwise convolution of images whose channels lie one after the other, by vectors along rows.

    before:  Y[n, c, p] = f(sum over taps t of X[n, c, p + t * dilation - pads] * W[c, t])
    after:   for some channels, or a band of rows, in parallel, for each channel:
                 for a few vectors of every row, from the top down:
                     sums of all results that see this row += its pixels * W;  Y = f(the sums that are done)

Nothing is turned or copied, and a row is read once for all results of a band that see it: their sums stay in registers,
and move up by one as the next row comes. A tap reads a vector that begins elsewhere, mostly in two lines of the cache;
beside a row it is shifted in a register. A weight is read once a row for the vectors of a part.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, groupby, pairwise
from math import prod
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from tvm import ir, tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from lowprec.predicting_planes import vectors_at_once
from lowprec.schedules.buffers import Buffers, begin_kernel
from lowprec.schedules.depthwise import ENOUGH_TASKS
from lowprec.schedules.planes import Lying
from lowprec.schedules.prefetch import LINE, prefetch_stream
from lowprec.schedules.tasks import all_of, decode, only_if, start_of
from lowprec.schedules.tiling import ceil_div
from lowprec.schedules.views import FLOAT, FLOAT_BYTES, Index, load, named, register, splat, store, zeros

BAND_BYTES = 128 << 10
"""Of a channel's rows that one task reads."""

Sums: TypeAlias = list[list[tirx.Buffer]]


@dataclass(frozen=True, slots=True, kw_only=True)
class PlaneRows(Lying):
    """One kernel that turns nothing."""

    @property
    def reach(self) -> int:
        """Rows that are seen beside the one in hand."""
        return (self.conv.kernel[0] - 1) * self.conv.dilation[0]

    @property
    def band(self) -> int:
        """Rows of the result that one task makes: many more than it sees beside, which are multiplied twice."""
        fitting = max(4 * self.reach + 1, BAND_BYTES // (FLOAT_BYTES * self.conv.size[1]) - self.reach)
        return ceil_div(self.size[0], ceil_div(self.size[0], fitting))

    @property
    def rows(self) -> int:
        """That a task sees."""
        return self.band + self.reach

    @property
    def scratch(self) -> int:
        """Bytes: none."""
        return 0

    @property
    def channels(self) -> int:
        """Of a task."""
        others = self.conv.batch * ceil_div(self.size[0], self.band)
        return ceil_div(self.conv.groups, ceil_div(ENOUGH_TASKS, others))

    @property
    def wide(self) -> int:
        """Vectors of a row whose sums are made at once."""
        vectors = ceil_div(self.size[1], self.lanes)
        return ceil_div(vectors, ceil_div(vectors, vectors_at_once(self.conv, self.registers)))

    @property
    def parts(self) -> list[list[int]]:
        """Of every row: where the vectors of each begin. The last ones may overlap those before."""
        width, vectors = self.size[1], ceil_div(self.size[1], self.lanes)
        firsts = [min(part * self.wide, vectors - self.wide) for part in range(ceil_div(vectors, self.wide))]
        return [[min((first + j) * self.lanes, width - self.lanes) for j in range(self.wide)] for first in firsts]

    def usual(self, part: Index) -> list[Index]:
        """Where the vectors of a part begin if none overlaps those before."""
        return [(part * self.wide + j) * self.lanes for j in range(self.wide)]

    def is_inner(self, part: int) -> bool:
        """Whether all that a part sees is inside of the row, and no vector of it overlaps those before."""
        columns, left = self.parts[part], self.conv.pads_begin[1]
        seen = (self.conv.kernel[1] - 1) * self.conv.dilation[1] - left + self.lanes
        return columns == self.usual(part) and left <= columns[0] and columns[-1] + seen <= self.conv.size[1]


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
            first, row = start_of(part, spec.channels, conv.groups), start_of(band, spec.band, height)
            with T.serial(0, spec.channels) as index:
                _Task(spec=spec, buffers=buffers, n=n, channel=T.bind(first + index), first=row).sum()
    return builder.get()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Task:
    """A channel, and the rows of its result from `first` on."""

    spec: PlaneRows
    buffers: Buffers
    n: Index
    channel: Index
    first: Index

    def sum(self) -> None:
        """The results of the band. Parts inside of the row have one code."""
        parts = self.spec.parts
        for inner, numbers in groupby(range(len(parts)), self.spec.is_inner):
            some = list(numbers)
            if not inner or len(some) == 1:
                for part in some:
                    self._sum_columns(part, parts[part])
                continue
            with T.serial(0, len(some)) as index:
                part = T.bind(some[0] + index)
                self._sum_columns(part, self.spec.usual(part))

    def _sum_columns(self, part: Index, columns: Sequence[Index]) -> None:
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
            only_if(inside, lambda: self._add(row, columns, sums))
            only_if(seen >= spec.reach if spec.reach else None, lambda: self._finish(seen, columns, sums[0]))
            for old, new in pairwise(sums):
                for total, next_total in zip(old, new, strict=True):
                    store(total, 0, load(next_total, 0, lanes), lanes)
            for total in sums[-1]:
                store(total, 0, zeros(lanes), lanes)

    def _add(self, row: Index, columns: Sequence[Index], sums: Sums) -> None:
        """The pixels of a row, for all results that see it."""
        spec, conv, lanes = self.spec, self.spec.conv, self.spec.lanes
        start = T.bind(spec.input.address((self.n, 0, self.channel, row, 0)))
        for t in range(conv.kernel[1]):
            offset = t * conv.dilation[1] - conv.pads_begin[1]
            pixels = [named(self._pixels(start, column, offset)) for column in columns]
            for tap in range(conv.kernel[0]):
                place = self.channel * prod(conv.kernel) + tap * conv.kernel[1] + t
                weight = named(splat(load(self.buffers.w, place, 1), lanes))
                for total, pixel in zip(sums[spec.reach - tap * conv.dilation[0]], pixels, strict=True):
                    store(total, 0, load(total, 0, lanes) + pixel * weight, lanes)

    def _pixels(self, start: Index, column: Index, offset: int) -> ir.Expr:
        """A vector of the row that begins at `start`; zeros beside it, which only columns of known number reach."""
        lanes, width = self.spec.lanes, self.spec.conv.size[1]
        last = width - lanes
        if not isinstance(column, int) or 0 <= column + offset <= last:
            return load(self.buffers.x, start + column + offset, lanes)
        first = column + offset
        if not -lanes < first < width:
            return zeros(lanes)
        nearest = named(load(self.buffers.x, start + min(max(first, 0), last), lanes))
        pair = [zeros(lanes), nearest] if first < 0 else [nearest, zeros(lanes)]
        begin = lanes + first if first < 0 else first - last
        return tirx.Shuffle(pair, list(range(begin, begin + lanes)))

    def _finish(self, seen: Index, columns: Sequence[Index], sums: list[tirx.Buffer]) -> None:
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
            share = ceil_div(rows * view.strides[3] * FLOAT_BYTES, len(spec.parts) * spec.rows * LINE) * LINE
            prefetch_stream(buffer, start=start + step * share, count=share, written=view is spec.output)
