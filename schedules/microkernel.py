"""The code of a `Direct` kernel: the loops over its tiles, and the tile."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import prod

from tvm import ir, tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from lowprec.schedules.arithmetic import Way, halve
from lowprec.schedules.buffers import Buffers, begin_kernel
from lowprec.schedules.direct import Direct, PackedWeights, StridedWeights, vector_starts
from lowprec.schedules.prefetch import is_fetched_ahead, prefetch, prefetch_stream
from lowprec.schedules.tasks import all_of, decode, only_if, start_of
from lowprec.schedules.tiling import ceil_div
from lowprec.schedules.views import Index, load, register, row_major, store, zeros
from lowprec.schedules.walkers import unknown_zeros, walk

READ_AHEAD = 1536
"""Bytes, where weights are read once."""
UNROLL = 4
"""Words of input channels of one step of the innermost loop."""


def build_direct(spec: Direct) -> tirx.PrimFunc:
    """The kernel: arguments X, W, [bias], the epilogue's operands, Y."""
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        match spec.weights:
            case PackedWeights(bias=bias):
                types = spec.arithmetic
                buffers = begin_kernel(
                    spec, weights=spec.packed_shape, bias=bias, packed=types.weights, sums=types.sums
                )
            case StridedWeights(view=view):
                buffers = begin_kernel(spec, weights=view, bias=False)
        if spec.arithmetic.way is Way.HALVES:
            buffers = replace(buffers, x=halve(buffers.x, prod(spec.input.shape), spec.lanes))
        _tasks(spec, buffers)
    return builder.get()


def _tasks(spec: Direct, buffers: Buffers) -> None:
    walk, runs = spec.walk, ceil_div(prod(spec.pixels), spec.walk.run)
    extents = (spec.shares, spec.groups, spec.panels // walk.block, spec.share, walk.block)
    with T.parallel(0, prod(extents)) as task:
        share, group, block, part, inner = decode(task, extents)
        number = share * spec.share + part
        columns = _Columns(group=group, panel=block * walk.block + inner, inner=inner)
        known = None if runs % spec.shares == 0 else number < runs
        only_if(known, partial(_run_of_tiles, spec, buffers, task, columns, (number, part)))


def _run_of_tiles(
    spec: Direct, buffers: Buffers, task: ir.Expr, columns: "_Columns", place: tuple[Index, Index]
) -> None:
    """One task; its place is that of the run among all, and in its share."""
    walk, (number, part) = spec.walk, place
    begin = start_of(number, walk.run, prod(spec.pixels))
    if walk.run == 1:
        _Tile(spec=spec, task=task, columns=columns, number=begin, chunk=0, passed=part).emit(buffers, None)
        return
    kept = T.alloc_buffer((walk.run * spec.kept,), spec.arithmetic.sums, scope="global")
    with T.serial(0, walk.chunks) as chunk, T.serial(0, walk.run) as index:
        tile = _Tile(spec=spec, task=task, columns=columns, number=begin + index, chunk=chunk, passed=index)
        tile.emit(buffers, kept)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Columns:
    """Which output channels: a panel of a group, the `inner`-th of its block."""

    group: Index
    panel: Index
    inner: Index


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tile:
    """One tile of pixels, by its number, times a panel of columns; `passed` tiles went before it in this chunk."""

    spec: Direct
    task: ir.Expr
    columns: _Columns
    number: Index
    chunk: Index
    passed: Index

    def emit(self, buffers: Buffers, kept: tirx.Buffer | None) -> None:
        """All of the tile; sums between chunks are `kept`."""
        spec = self.spec
        n, d, h, tile = decode(self.number, spec.pixels)
        group = start_of(self.columns.group, spec.out_channels, spec.all_channels[1])
        base = group + start_of(self.columns.panel, spec.panel, spec.out_channels)
        micro = _Micro(
            tile=self,
            at=(n, d, h, start_of(tile, spec.tile.rows, spec.geometry.size[2])),
            base=base,
            owned=(tile * spec.tile.rows, group + self.columns.panel * spec.panel),
            first_in=start_of(self.columns.group, spec.in_channels, spec.all_channels[0]),
            accumulators=[[_sums(spec) for _ in range(spec.tile.vectors)] for _ in range(spec.tile.rows)],
        )
        if kept is None:
            micro.start(buffers.bias)
            micro.accumulate(buffers)
            micro.finish(buffers)
            return
        place = T.bind(self.passed * spec.kept)
        with T.If(self.chunk == 0):
            with T.Then():
                micro.start(buffers.bias)
            with T.Else():
                micro.restore(kept, place)
        micro.accumulate(buffers)
        with T.If(self.chunk < spec.walk.chunks - 1):
            with T.Then():
                micro.keep(kept, place)
            with T.Else():
                micro.finish(buffers)


def _sums(spec: Direct) -> list[tirx.Buffer]:
    return [register(spec.lanes, spec.arithmetic.sums) for _ in range(spec.arithmetic.parts)]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Micro:
    """What happens in registers; `at` is the tile's first pixel, `base` its first channel, `first_in` the group's
    first input channel. Pixels and channels before those `owned` are those of other tiles."""

    tile: _Tile
    at: tuple[Index, Index, Index, Index]
    base: Index
    owned: tuple[Index, Index]
    first_in: Index
    accumulators: list[list[list[tirx.Buffer]]]

    @property
    def spec(self) -> Direct:
        return self.tile.spec

    @property
    def vectors(self) -> list[int]:
        return vector_starts(self.spec.out_channels, self.spec.panel, self.spec.lanes)

    @property
    def all_sums(self) -> list[tirx.Buffer]:
        return [part for row in self.accumulators for parts in row for part in parts]

    def start(self, bias: tirx.Buffer | None) -> None:
        """At the bias; of split sums the high one, whose bias stands behind the other."""
        lanes = self.spec.lanes
        zero = zeros(lanes, self.spec.arithmetic.sums)
        behind = self.spec.bias_width // 2 if self.spec.arithmetic.is_split else 0
        starts = [self.base + at + behind for at in self.vectors]
        first = [zero if bias is None else T.bind(load(bias, start, lanes)) for start in starts]
        for row in self.accumulators:
            for value, (*low, last) in zip(first, row, strict=True):
                store(last, 0, value, lanes)
                for part in low:
                    store(part, 0, zero, lanes)

    def restore(self, kept: tirx.Buffer, place: Index) -> None:
        lanes = self.spec.lanes
        for index, accumulator in enumerate(self.all_sums):
            store(accumulator, 0, load(kept, place + index * lanes, lanes), lanes)

    def keep(self, kept: tirx.Buffer, place: Index) -> None:
        lanes = self.spec.lanes
        for index, accumulator in enumerate(self.all_sums):
            store(kept, place + index * lanes, load(accumulator, 0, lanes), lanes)

    def accumulate(self, buffers: Buffers) -> None:
        spec, geometry = self.spec, self.spec.geometry
        step = min(UNROLL, spec.chunk)
        whole = spec.chunk // step
        _, d, h, first = self.at
        planes, lines = geometry.seeing(0, d), geometry.seeing(1, h)
        columns = geometry.seeing(2, first, count=spec.tile.rows)
        zeros = unknown_zeros(self.tile.task) if spec.tile.folded else []
        with T.serial(*planes) as r, T.serial(*lines) as s, T.serial(*columns) as t:
            taps = (r, s, t)
            with T.serial(0, whole) as block:
                self._prefetch(buffers.w, geometry.number(taps) * whole + block, geometry.taps * whole)
                begin = block * step
                self._read_ahead(buffers.w, taps, begin, step)
                walks = [walk(block, step, zero) for zero in zeros] or [begin] * spec.tile.vectors
                for u in range(step):
                    self._word(buffers, taps, begin + u, [place + u for place in walks])
            for word in range(whole * step, spec.chunk):
                self._word(buffers, taps, word, [word] * spec.tile.vectors)

    def _prefetch(self, w: tirx.Buffer, step: Index, steps: int) -> None:
        """Step `step` of `steps`: the tile's share of the weights that follow those in use.

        In use is one chunk of a panel, or a block of whole panels; so many `visits` are made to it, one a tile.
        """
        spec, columns, passed = self.spec, self.tile.columns, self.tile.passed
        if not isinstance(spec.weights, PackedWeights):
            return
        walk = spec.walk
        visits, visit = walk.run, passed
        if walk.run == 1:
            visits, visit = spec.share * walk.block, passed * walk.block + columns.inner
        used = walk.block * spec.geometry.taps * spec.chunk * spec.panel * spec.arithmetic.lane_bytes
        if not is_fetched_ahead(used, visits):
            return
        first = columns.group * spec.panels + columns.panel - columns.inner
        begin = (tirx.floordiv(first * walk.chunks, walk.block) + self.tile.chunk + 1) * used
        prefetch(w, start=begin, count=used, step=visit * steps + step, steps=visits * steps)

    def _read_ahead(self, w: tirx.Buffer, taps: tuple[Index, Index, Index], word: Index, count: int) -> None:
        """What `count` words will need later, where weights are read once, at several places."""
        spec = self.spec
        if not isinstance(spec.weights, PackedWeights) or spec.streams == 1:
            return
        each = spec.tile.vectors // spec.streams
        size = each * spec.lanes * spec.arithmetic.lane_bytes
        for stream in range(spec.streams):
            start = self._weight(taps, word, stream * each) * spec.arithmetic.lane_bytes
            prefetch_stream(w, start=start + READ_AHEAD, count=count * size, written=False)

    def _word(self, buffers: Buffers, taps: tuple[Index, Index, Index], word: Index, walks: Sequence[Index]) -> None:
        """One word of input channels, which each vector may reach by a walk of its own."""
        lanes, tile, arithmetic = self.spec.lanes, self.spec.tile, self.spec.arithmetic
        weights = [
            list(map(T.bind, arithmetic.vector(buffers.w, self._weight(taps, word, j), lanes)))
            for j in range(tile.vectors)
        ]
        for i, row in enumerate(self.accumulators):
            value = list(map(T.bind, self._factor(buffers.x, taps, walks[0], i)))
            for j, (parts, weight) in enumerate(zip(row, weights, strict=True)):
                again = j > 0 and i < tile.folded
                factor = self._factor(buffers.x, taps, walks[j], i) if again else value
                totals = arithmetic.multiply_add([load(part, 0, lanes) for part in parts], factor, weight, lanes)
                for part, total in zip(parts, totals, strict=True):
                    store(part, 0, total, lanes)

    def _factor(self, x: tirx.Buffer, taps: tuple[Index, Index, Index], word: Index, i: int) -> list[ir.Expr]:
        return self.spec.arithmetic.factor(x, self._pixel(taps, word, i), self.spec.lanes)

    def _pixel(self, taps: tuple[Index, Index, Index], word: Index, i: int) -> Index:
        spec = self.spec
        n, d, h, first = self.at
        seen = spec.geometry.seen((d, h, first + i), taps)
        return spec.input.address((n, *seen, self.first_in + spec.channel(self.tile.chunk * spec.chunk + word)))

    def _weight(self, taps: tuple[Index, Index, Index], word: Index, j: int) -> Index:
        """Lanes before those of a vector."""
        spec, columns = self.spec, self.tile.columns
        match spec.weights:
            case PackedWeights():
                stream, lane = divmod(j * spec.lanes, spec.panel // spec.streams)
                indices = (columns.group, columns.panel, stream, self.tile.chunk, *taps, word, lane)
                return sum(index * stride for index, stride in zip(indices, row_major(spec.lane_shape), strict=True))
            case StridedWeights(view=view, channel_stride=stride):
                return view.address((*self.at[:3], 0, self.base + self.vectors[j])) + word * stride

    def finish(self, buffers: Buffers) -> None:
        """Sums through the epilogue, to where they belong."""
        spec = self.spec
        pixels = spec.once and spec.geometry.size[2] % spec.tile.rows > 0
        channels = spec.once and spec.out_channels % spec.panel > 0
        for i, row in enumerate(self.accumulators):
            for parts, at in zip(row, self.vectors, strict=True):
                own = all_of(
                    self.at[3] + i >= self.owned[0] if pixels else None,
                    self.base + at >= self.owned[1] if channels else None,
                )
                only_if(own, partial(self._write, buffers, i, at, parts))

    def _write(self, buffers: Buffers, i: int, at: int, parts: list[tirx.Buffer]) -> None:
        """Those of a pixel, and of a vector of channels."""
        spec = self.spec
        width = min(spec.lanes, spec.out_channels)
        n, d, h, first = self.at
        coordinates = (n, d, h, first + i, self.base + at)
        split = spec.arithmetic.is_split and buffers.bias is not None
        bias = load(buffers.bias, self.base + at, width) if split else None
        total = spec.arithmetic.joined([load(part, 0, width) for part in parts], bias, width)
        value = spec.epilogue.apply(total, buffers.operands, coordinates, width)
        store(buffers.y, spec.output.address(coordinates), value, width)
