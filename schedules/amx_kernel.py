"""The code of a kernel on AMX, as `amx` describes it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import prod

from tvm import ir, tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from lowprec.schedules.amx import Amx
from lowprec.schedules.amx_parts import split_bytes, upper_halves
from lowprec.schedules.amx_tiles import PRODUCTS, TILES, address, call, configure, distance, release, tile
from lowprec.schedules.amx_words import Drawing, Words, words_of
from lowprec.schedules.arithmetic import BITS, doubles
from lowprec.schedules.buffers import Buffers, begin_kernel
from lowprec.schedules.direct import vector_starts
from lowprec.schedules.epilogue import Place
from lowprec.schedules.packs import Piece
from lowprec.schedules.prefetch import is_fetched_ahead, prefetch, soon
from lowprec.schedules.tasks import all_of, decode, only_if, start_of
from lowprec.schedules.tiling import ceil_div
from lowprec.schedules.views import FLOAT, Drawn, Index, View, load, splat, store
from lowprec.tiles import LANES, ROW_BYTES, WORD_BYTES

SUM_BYTES = 4
STAYING_BYTES = 40 << 10
"""Of weights that stay in the first-level cache beside pixels."""
OUTSIDE = -1


def build_amx(spec: Amx) -> tirx.PrimFunc:
    """The kernel: arguments X, W, [bias], the epilogue's operands, Y."""
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        buffers = begin_kernel(
            spec, weights=spec.packed_shape, bias=spec.bias, packed=spec.weights, sums=spec.sums, low=spec.split
        )
        if spec.halves and spec.input.dtype == FLOAT:
            buffers = replace(buffers, x=upper_halves(buffers.x, prod(spec.input.shape), twofold=spec.twofold))
        if spec.split:
            buffers = replace(buffers, x=split_bytes(buffers.x, prod(spec.input.shape)))
        extents = (spec.shares, spec.groups, spec.panels // spec.block, ceil_div(spec.tasks, spec.shares))
        with T.parallel(0, prod(extents)) as task:
            apart, group, block, index = decode(task, extents)
            part = apart * extents[-1] + index
            known = None if spec.tasks % spec.shares == 0 else part < spec.tasks
            only_if(known, partial(_emit, spec, buffers, task, (group, block), (part, index)))
    return builder.get()


def _emit(spec: Amx, buffers: Buffers, task: ir.Expr, columns: tuple[Index, Index], place: tuple[Index, Index]) -> None:
    """A task: its columns are a group's block, its place is that among all with these columns, and in its share."""
    (group, block), (part, index) = columns, place
    _configure(spec)
    kept = T.alloc_buffer((2 * spec.kept,), spec.sums, scope="global")
    first = start_of(part, spec.share, spec.grids)
    _Task(
        spec=spec,
        buffers=buffers,
        kept=kept,
        words=words_of(spec, buffers, task),
        offsets=_offsets(spec, part, first),
        group=group,
        block=block,
        first=first,
        visited=index * spec.share,
    ).emit()
    release()


def _configure(spec: Amx) -> None:
    """How large the tiles are: first those of C, then of B and of A."""
    grid, depth = spec.grid, spec.depth * spec.item
    c, b, a = (spec.line.rows, ROW_BYTES), (depth // WORD_BYTES, ROW_BYTES), (spec.line.rows, depth)
    sums, weights = grid.count * spec.parts**2, grid.wide * spec.parts
    configure([c] * sums + [b] * weights + [a] * (TILES - sums - weights))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tile:
    """Pixels: those of a line (n, d, h) from `start`, of which all before `first` are those of the tile before."""

    line: tuple[Index, Index, Index]
    start: Index
    first: Index

    @staticmethod
    def at(spec: Amx, number: Index) -> "_Tile":
        line = spec.line
        n, d, h, part = decode(number, (*spec.lines, line.tiles)) if prod(spec.lines) > 1 else (0, 0, 0, number)
        return _Tile(line=(n, d, h), start=start_of(part, line.rows, line.length), first=part * line.rows)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Offsets:
    """Where the pixels of each row of a share begin: `read` in each tensor that has pixels, and where they are written,
    `OUTSIDE` where a row is none of the result's pixels, or one of a tile before that is to be written once."""

    read: dict[View, tirx.Buffer]
    written: tirx.Buffer


def _offsets(spec: Amx, part: Index, first: Index) -> _Offsets:
    """Of share `part`, whose grids are from `first` on."""
    line, grid = spec.line, spec.grid
    views = [view for view in spec.epilogue.operands if any(view.strides[:4])]
    read = {view: T.alloc_buffer((spec.share * spec.pixels,), "int32", scope="global") for view in views}
    shared = None if spec.skips else read.get(spec.output)
    written = T.alloc_buffer((spec.share * spec.pixels,), "int32", scope="global") if shared is None else shared
    with T.serial(0, spec.share) as number:
        place = T.bind(first + number)
        tiles = T.bind(start_of(place, grid.high, spec.tiles))
        for index in range(grid.high):
            tile = _Tile.at(spec, tiles + index)
            begin = number * spec.pixels + index * line.rows
            first_time = all_of(
                place >= part * spec.share if spec.grids % spec.share else None,
                tiles + index >= place * grid.high if spec.tiles % grid.high else None,
            )
            with T.serial(0, line.rows) as row:
                n, d, h = tile.line
                at = T.bind(tile.start + row)
                inside = all_of(first_time, at >= tile.first if line.overlap else None) if spec.once else None
                if line.length > line.pitch:
                    h, at = T.bind(tirx.floordiv(at, line.pitch)), T.bind(tirx.floormod(at, line.pitch))
                if line.width < line.pitch:
                    inside, at = all_of(inside, at < line.width), T.bind(tirx.min(at, line.width - 1))
                for view, table in read.items():
                    store(table, begin + row, view.address((n, d, h, at, 0)), 1)
                offset = spec.output.address((n, d, h, at, 0))
                if inside is not None:
                    offset = tirx.Select(inside, offset, tirx.const(OUTSIDE, "int32"))
                if shared is None:
                    store(written, begin + row, offset, 1)
    return _Offsets(read=read, written=written)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """What is computed at once: a grid of the task, by its number, and a panel of its block."""

    number: Index
    inner: Index


@dataclass(frozen=True, slots=True, kw_only=True)
class _Task:
    """For each of a task's grids, from `first` on, all panels of a block: each is multiplied while the one before it is
    written. So many grids have `visited` the block before."""

    spec: Amx
    buffers: Buffers
    kept: tirx.Buffer
    words: "dict[int, Words]"
    offsets: _Offsets
    group: Index
    block: Index
    first: Index
    visited: Index

    def emit(self) -> None:
        spec, count = self.spec, self.spec.share * self.spec.block
        bundles = ceil_div(spec.pixels, spec.bundle)
        with T.serial(0, count + 1) as item:
            here, before = self._place(item), self._place(item - 1)
            sources = self._sources(here)
            with T.If(item < count), T.Then():
                self._start(here)
                for words in self.words.values():
                    words.begin(self.offsets.read[words.view], here.number * spec.pixels, item % 2)
            with T.serial(0, spec.steps) as step:
                with T.If(item < count), T.Then():
                    self._multiply(here, sources, step)
                    self._draw(here, item, step)
                begin, end = (T.bind(tirx.floordiv(s * bundles, spec.steps)) for s in (step, step + 1))
                end = tirx.Select(item > 0, end, begin)
                self._finish(before, item - 1, begin, T.bind(end))
            with T.If(item < count), T.Then():
                self._keep(item)

    def _place(self, item: Index) -> _Place:
        number, inner = decode(item, (self.spec.share, self.spec.block))
        return _Place(number=number, inner=inner)

    @property
    def _high(self) -> int:
        """Tiles of A for a grid."""
        return self.spec.grid.high * self.spec.parts

    @property
    def _wide(self) -> int:
        """Tiles of B."""
        return self.spec.grid.wide * self.spec.parts

    def _c(self, i: int, j: int) -> ir.Expr:
        return tile(i * self._wide + j)

    def _b(self, j: int) -> ir.Expr:
        return tile(self._high * self._wide + j)

    def _a(self, i: int) -> ir.Expr:
        """One of those that are left."""
        return tile(TILES - self._spare + i % self._spare)

    @property
    def _spare(self) -> int:
        return TILES - (self._high + 1) * self._wide

    def _tiles(self, place: _Place) -> Index:
        """The first tile of pixels of a grid."""
        return start_of(self.first + place.number, self.spec.grid.high, self.spec.tiles)

    def _kept_at(self, item: Index) -> Index:
        """Where sums are kept, beside those before and after."""
        return (item % 2) * self.spec.kept

    def _panel(self, place: _Place) -> Index:
        return self.block * self.spec.block + place.inner

    def _channels(self, place: _Place) -> tuple[Index, list[int]]:
        """The first output channel of the panel, and where its vectors begin."""
        spec = self.spec
        group = start_of(self.group, spec.out_channels, spec.all_channels[1])
        first = group + start_of(self._panel(place), spec.panel, spec.out_channels)
        return T.bind(first), vector_starts(spec.out_channels, spec.panel, LANES)

    def _sources(self, place: _Place) -> list[Index]:
        """Where the first pixel of each tile of a grid begins in X, for the first tap; of 16 bits, each byte."""
        spec, geometry = self.spec, self.spec.geometry
        channel = start_of(self.group, spec.in_channels, spec.all_channels[0])
        tiles, sources = self._tiles(place), []
        for i in range(spec.grid.high):
            tile = _Tile.at(spec, tiles + i)
            n, *line = tile.line
            d, h, w = geometry.seen((line[0], line[1], tile.start), (0, 0, 0))
            first = T.bind(spec.input.address((n, d, h, w, channel)))
            sources += [first + part * prod(spec.input.shape) for part in range(spec.parts)]
        return sources

    def _keep(self, item: Index) -> None:
        spec = self.spec
        for i in range(self._high):
            for j in range(self._wide):
                part, (row, column) = 0, (i, j)
                if spec.split:
                    part, (row, column) = i * spec.parts + j, (0, 0)
                place = self._kept_at(item) + self._of_part(part) + row * spec.line.rows * spec.panel + column * LANES
                to = address(self.kept, place * SUM_BYTES)
                call("tilestored64", self._c(i, j), to, distance(spec.panel * SUM_BYTES))

    def _of_part(self, part: int) -> int:
        """Where the sums of one product of parts begin."""
        return part * self.spec.pixels * self.spec.panel

    def _start(self, place: _Place) -> None:
        """Tiles of C, every row of which is the bias; that of split sums is added when they are joined."""
        first, vectors = self._channels(place)
        for i in range(self._high):
            for j in range(self._wide):
                if self.buffers.bias is None or self.spec.split:
                    call("tilezero", self._c(i, j))
                else:
                    row = address(self.buffers.bias, (first + vectors[j]) * SUM_BYTES)
                    call("tileloadd64", self._c(i, j), row, distance(0))

    def _multiply(self, place: _Place, sources: list[Index], step: Index) -> None:
        """A step's products."""
        spec, geometry = self.spec, self.spec.geometry
        self._prefetch(place, step)
        panel = self.group * spec.panels + self._panel(place)
        r, s, t, block = decode(step, (*spec.taps, spec.blocks))
        weights = T.bind((panel * spec.steps + step) * spec.grid.wide * spec.tile_bytes)
        d, h, w = geometry.seen((0, 0, 0), (r, s, t))
        seen = spec.input.address((0, d, h, w, start_of(block, spec.depth, spec.row))) - spec.input.offset
        pixels = [source + T.bind(seen) for source in sources]
        if spec.twofold:
            self._multiply_parts(pixels, weights)
            return
        for number in range(max(self._wide, len(pixels))):  # in turn, and all before the products: 0.96 of the time
            if number < self._wide:
                self._load_weights(number, weights)
            if number < min(len(pixels), self._spare):
                self._load_pixels(number, pixels[number])
        for i, first in enumerate(pixels):
            if i >= self._spare:
                self._load_pixels(i, first)
            self._add_products(i)

    def _multiply_parts(self, pixels: list[Index], weights: Index) -> None:
        """Of two parts of each: the lower and the higher one of pixels by the higher one of weights, which then makes
        room for the lower one."""
        spec = self.spec
        lower = prod(spec.input.shape), prod(spec.packed_shape[1:]) * spec.item
        for j in range(self._wide):
            self._load_weights(j, weights)
        for offset in (lower[0], 0):
            for i, first in enumerate(pixels):
                self._load_pixels(i, first + offset)
                self._add_products(i)
        for j in range(self._wide):
            self._load_weights(j, weights + lower[1])
        for i, first in enumerate(pixels):
            if len(pixels) > self._spare:
                self._load_pixels(i, first)
            self._add_products(i)

    def _load_weights(self, number: int, first: Index) -> None:
        """A tile of B; what does not stay in the first-level cache is not to displace pixels there."""
        spec = self.spec
        part, j = divmod(number, spec.grid.wide)
        far = spec.block_bytes * (2 if spec.split or spec.twofold else 1) > STAYING_BYTES
        place = address(self._weights[part], first + j * spec.tile_bytes)
        call("tileloaddt164" if far else "tileloadd64", self._b(number), place, distance(ROW_BYTES))

    def _load_pixels(self, i: int, first: Index) -> None:
        """A tile of A."""
        spec = self.spec
        pitch = distance(spec.input.strides[3] * spec.geometry.stride[2] * spec.item)
        call("tileloadd64", self._a(i), address(self.buffers.x, first * spec.item), pitch)

    def _add_products(self, i: int) -> None:
        """Of a tile of A with all of B."""
        for j in range(self._wide):
            factors = self.spec.factors[i * self._wide + j if self.spec.split else 0]
            call(PRODUCTS[factors], self._c(i, j), self._a(i), self._b(j))

    @property
    def _weights(self) -> list[tirx.Buffer]:
        """Those of each part."""
        return [self.buffers.w] if self.buffers.low is None else [self.buffers.w, self.buffers.low]

    def _prefetch(self, place: _Place, step: Index) -> None:
        """A step's share of the panels that follow those in use; where none do, what the first grid is to read soon."""
        spec = self.spec
        visits = ceil_div(spec.tasks, spec.shares) * spec.share * spec.block
        used = spec.block_bytes
        parts = [part * prod(spec.packed_shape[1:]) * spec.item for part in range(2 if spec.twofold else 1)]
        if spec.groups * spec.panels == spec.block:
            at = (place.inner * spec.steps + step) * spec.grid.wide * spec.tile_bytes
            with T.If(self.visited + place.number == 0), T.Then():
                for weights in self._weights:
                    for part in parts:
                        soon(weights, start=at + part, count=spec.grid.wide * spec.tile_bytes)
        elif is_fetched_ahead(used, visits):
            visit = (self.visited + place.number) * spec.block + place.inner
            following = self.group * (spec.panels // spec.block) + self.block + 1
            steps = visits * spec.steps
            for weights in self._weights:
                for part in parts:
                    start = following * used + part
                    prefetch(weights, start=start, count=used, step=visit * spec.steps + step, steps=steps)

    def _draw(self, place: _Place, item: Index, step: Index) -> None:
        """A step's share of the random words of a grid."""
        spec = self.spec
        if not self.words:
            return
        channel, vectors = self._channels(place)
        for words in self.words.values():
            count = spec.grid.high * words.draws
            share = ceil_div(count, spec.steps)
            at = Drawing(
                table=self.offsets.read[words.view],
                pixel=place.number * spec.pixels,
                channel=channel,
                vectors=vectors,
                width=min(LANES, spec.out_channels),
                half=T.bind(item % 2),
            )
            begin = T.bind(tirx.min(step * share, count))
            with T.serial(begin, T.bind(tirx.min(begin + share, count))) as number:
                words.draw(number, at)

    def _finish(self, place: _Place, item: Index, begin: Index, end: Index) -> None:
        """Bundles of rows of kept sums through the epilogue, to where they belong."""
        spec, buffers = self.spec, self.buffers
        width = min(LANES, spec.out_channels)
        kept = T.bind(self._kept_at(item))
        channel, vectors = self._channels(place)
        with T.serial(begin, end) as bundle:
            first = start_of(bundle, spec.bundle, spec.pixels)
            rows = [T.bind(first + index) for index in range(spec.bundle)]
            pixels = [place.number * spec.pixels + row for row in rows]
            totals = [
                self._total(kept + row * spec.panel + j * LANES, channel + vector, width)
                for row in rows
                for j, vector in enumerate(vectors)
            ]
            places = [
                self._in_tensors(pixel, channel + vector, (row, j, item % 2))
                for row, pixel in zip(rows, pixels, strict=True)
                for j, vector in enumerate(vectors)
            ]
            operands = [
                self.words[number].kept if number in self.words else buffer
                for number, buffer in enumerate(buffers.operands)
            ]
            overlap = spec.once and spec.pixels % spec.bundle > 0
            written = self._results(totals, operands, places, vectors)
            for row, pixel, results in zip(rows, pixels, written, strict=True):
                offset = T.bind(load(self.offsets.written, pixel, 1))

                def write(offset: Index = offset, results: Sequence[Piece] = results) -> None:
                    for piece in results:
                        place = offset + (channel + piece.first) * spec.output.strides[4]
                        store(buffers.y, place, piece.value, piece.width)

                first_time = row >= bundle * spec.bundle if overlap else None
                only_if(all_of(offset != OUTSIDE if spec.skips else None, first_time), write)

    def _results(
        self, totals: list[ir.Expr], operands: list[tirx.Buffer], places: list[Place], vectors: list[int]
    ) -> list[list[Piece]]:
        """What is written of each row: its sums' vectors, which begin at channels `vectors`, through the epilogue."""
        spec, width = self.spec, min(LANES, self.spec.out_channels)
        if spec.packs is not None:
            return spec.packs.rows(spec.packs.before.apply_together(totals, operands, places, width), vectors)
        values = iter(spec.epilogue.apply_together(totals, operands, places, width))
        rows = range(len(totals) // len(vectors))
        return [[Piece(first=first, value=next(values), width=width) for first in vectors] for _ in rows]

    def _total(self, place: Index, channel: Index, width: int) -> ir.Expr:
        """A vector of sums; of split ones as float32, rounded once."""
        if not self.spec.split:
            return load(self.kept, place, width)
        high, *middle, low = (load(self.kept, place + self._of_part(part), width) for part in range(4))
        byte = splat(tirx.const(float(1 << BITS), "float64"), width)
        exact = (doubles(high, width) * byte + doubles(middle[0] + middle[1], width)) * byte + doubles(low, width)
        bias = self.buffers.bias_at(channel, width)
        exact = exact if bias is None else exact + doubles(bias, width)
        return tirx.Cast(FLOAT if width == 1 else f"{FLOAT}x{width}", exact)

    def _in_tensors(self, pixel: Index, channel: Index, slot: tuple[Index, int, Index]) -> Place:
        """Where a pixel's channel lies in a tensor; random words have their `slot`: a row of the grid, a vector, and
        the half they are in."""
        row, vector, half = slot
        words = next(iter(self.words.values()), None)  # those of other operands lie alike

        def place(view: View) -> Index:
            if isinstance(view, Drawn) and words is not None:
                return words.at(row, vector, load(self.offsets.read[view], pixel, 1), half)
            if view not in self.offsets.read:
                return view.address((0, 0, 0, 0, channel))
            return load(self.offsets.read[view], pixel, 1) + channel * view.strides[4]

        return place
