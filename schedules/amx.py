"""Convolutions and matrix products of bytes or bfloat16 on AMX: products of tiles of 16 rows of 64 bytes each.

    before:  Y[n, p, k] = f(sum over taps t and channels c of X[n, p * stride + t * dilation, c] * W[t, c, k])
    after:   for each share of the pixels and block of panels of output channels, in parallel:
                 C[i, j] = bias                                           a grid of tiles
                 for tap, block of channels:  C[i, j] += A[i] * B[j]      A read where X lies, B packed
                     some rows of the grid before:  Y = f(row)

The rows of a tile of A are pixels at equal distances in memory. Without strides those follow each other through the
lines of an image, its border included: what the border gives is computed and not written. With strides they end with a
line. Rows of taps whose channels lie side by side are one long row of channels.

Extents that tiles do not divide are handled by overlap: the last tile begins earlier and computes some elements again,
to the same bits; weights of channels that a last block has again are zero.

Where numbers of bfloat16 lie in memory as float32, their upper halves are copied first, for all pixels that are read.

Numbers of 16 bits are x = 256 h + l, h signed and l not, and so are weights: h and l are taken apart first, and four
tiles of C sum the products of each with each. A sum is (256 hh + hl + lh) 256 + ll + bias, exact in float64.
"""

from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tvm import ir, tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from lowprec.philox import BLOCK
from lowprec.schedules.amx_tiles import PRODUCTS, ROWS, TILES, address, call, configure, distance, release, tile
from lowprec.schedules.arithmetic import BFLOAT, BITS, doubles
from lowprec.schedules.buffers import Buffers, begin_kernel
from lowprec.schedules.direct import Grouped, packed_columns, vector_starts
from lowprec.schedules.epilogue import Place
from lowprec.schedules.geometry import Geometry
from lowprec.schedules.noise import positions, quads, source_of
from lowprec.schedules.philox import Stream, element_word
from lowprec.schedules.prefetch import is_fetched_ahead, prefetch
from lowprec.schedules.tasks import decode, only_if, start_of
from lowprec.schedules.tiling import ceil_div
from lowprec.schedules.vector_math import upper_half
from lowprec.schedules.views import FLOAT, UPPER_HALVES, WORDS, Drawn, Index, View, load, named, splat, store
from lowprec.tiles import LANES, ROW_BYTES, WORD_BYTES, row_depth

CHAINS = 8
"""Vectors that go through the epilogue together: one's steps wait for each other."""

SUM_BYTES = 4
PIECE = 1 << 14
"""Numbers that a task halves."""
OUTSIDE = -1
BLOCKS = 2
"""Vectors of blocks of random words in flight."""
SPLIT = ("int8", "uint8")
"""The higher byte of a number of 16 bits, and the lower one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """Tiles of C that are summed at once: `high` of pixels, `wide` of 16 output channels."""

    high: int
    wide: int

    @property
    def count(self) -> int:
        return self.high * self.wide


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """Pixels that tiles are cut from: `length` of them, of which the first `width` of every `pitch` are written."""

    length: int
    width: int
    pitch: int

    @property
    def tiles(self) -> int:
        return ceil_div(self.length, ROWS)

    @property
    def rows(self) -> int:
        """Of each tile."""
        return ceil_div(self.length, self.tiles)


@dataclass(frozen=True, slots=True, kw_only=True)
class Amx(Grouped):
    """One kernel, whole. `flat`: tiles go on from line to line of an image; `merged`: a row of taps is one row of
    channels; `halves`: floats are bfloat16 numbers; `split`: numbers have 16 bits. A task computes `share` grids of
    pixels for each of a `block` of panels."""

    bias: bool
    flat: bool
    merged: bool
    halves: bool
    split: bool
    grid: Grid
    block: int
    share: int

    @property
    def lanes(self) -> int:
        return LANES

    @property
    def parts(self) -> int:
        """Numbers that take the place of one, of pixels and of weights."""
        return 2 if self.split else 1

    @property
    def factors(self) -> tuple[tuple[str, str], ...]:
        """What is multiplied, in the order of sums: types of pixels and of weights."""
        if self.split:
            return tuple((x, w) for x in SPLIT for w in SPLIT)
        return ((BFLOAT, BFLOAT),) if self.halves else ((self.input.dtype, "int8"),)

    @property
    def weights(self) -> str:
        """The type of packed weights."""
        return UPPER_HALVES if self.halves else "int8"

    @property
    def sums(self) -> str:
        """The type of sums."""
        return FLOAT if self.halves else "int32"

    @property
    def item(self) -> int:
        """Bytes of a number."""
        return np.dtype(self.weights).itemsize

    @property
    def panel(self) -> int:
        """Output channels computed at once."""
        return self.grid.wide * LANES

    @property
    def panels(self) -> int:
        return ceil_div(self.out_channels, self.panel)

    @property
    def bias_width(self) -> int:
        """Elements of the bias that are there to be read: narrow layers are read a whole vector at a time."""
        return self.all_channels[1] + max(0, LANES - self.out_channels)

    @property
    def taps(self) -> tuple[int, int, int]:
        """Those that are not part of a row of channels."""
        d, h, w = self.geometry.kernel
        return (d, h, 1 if self.merged else w)

    @property
    def row(self) -> int:
        """Channels that lie side by side."""
        return self.in_channels * (self.geometry.kernel[2] if self.merged else 1)

    @property
    def depth(self) -> int:
        """Channels of a tile's row."""
        return row_depth(self.row, self.item)

    @property
    def blocks(self) -> int:
        """Tiles that a row of channels takes."""
        return ceil_div(self.row, self.depth)

    @property
    def steps(self) -> int:
        """Products of tiles for one sum."""
        return prod(self.taps) * self.blocks

    @property
    def line(self) -> Line:
        """What tiles are cut from."""
        return (flat_line if self.flat else plain_line)(self.geometry, self.input)

    @property
    def lines(self) -> tuple[int, int, int]:
        """Images, planes, and lines of a plane."""
        d, h, _ = self.geometry.size
        return (self.batch, d, 1 if self.flat else h)

    @property
    def tiles(self) -> int:
        """Of pixels."""
        return prod(self.lines) * self.line.tiles

    @property
    def grids(self) -> int:
        """Of pixels."""
        return ceil_div(self.tiles, self.grid.high)

    @property
    def pixels(self) -> int:
        """Of a grid."""
        return self.grid.high * self.line.rows

    @property
    def bundle(self) -> int:
        """Rows that go through the epilogue together."""
        return min(self.pixels, CHAINS // self.grid.wide)

    @property
    def tile_bytes(self) -> int:
        """Of B."""
        return self.depth * self.item // WORD_BYTES * ROW_BYTES

    @property
    def packed_shape(self) -> tuple[int, ...]:
        """[group][panel][tap and block of channels][vector][a tile's bytes]."""
        return (self.groups, self.panels, self.steps, self.grid.wide, self.tile_bytes // self.item)

    @property
    def kept(self) -> int:
        """Sums of a grid."""
        return self.pixels * self.panel * self.parts**2


def flat_line(geometry: Geometry, source: View) -> Line:
    """A plane without strides, the borders between its lines included."""
    _, h, w = geometry.size
    pitch = source.strides[2] // source.strides[3] if h > 1 else w
    return Line(length=(h - 1) * pitch + w, width=w, pitch=pitch)


def plain_line(geometry: Geometry, _source: View) -> Line:
    """A line of an image."""
    width = geometry.size[2]
    return Line(length=width, width=width, pitch=width)


def pack_amx(weights: NDArray[Any], kernel: Amx) -> list[NDArray[Any]]:
    """[groups * K, C, taps...] -> the kernel's packed shape; of 16 bits the higher bytes, then the lower ones."""
    if not kernel.split:
        return [_packed(weights, kernel)]
    return [_packed((weights >> BITS).astype(np.int8), kernel), _packed(weights.astype(np.uint8), kernel)]


def _packed(weights: NDArray[Any], kernel: Amx) -> NDArray[Any]:
    """A tile has a row for each word of channels, a word for each output channel."""
    groups, per_group, depth = kernel.groups, kernel.out_channels, kernel.depth
    lined = weights.reshape(groups, per_group, kernel.in_channels, prod(kernel.taps), -1)
    lined = np.moveaxis(lined, 2, -1).reshape(groups, per_group, -1, kernel.row)  # [group][K][tap][channels in a row]
    begins = np.arange(kernel.blocks)[:, None] * depth
    places = np.minimum(begins, kernel.row - depth) + np.arange(depth)
    blocked = np.where(places < begins, 0, lined[..., places])
    blocked = blocked.astype(BFLOAT).view(np.uint16) if kernel.halves else blocked.astype(weights.dtype)
    if per_group < LANES:
        blocked = np.pad(blocked, ((0, 0), (0, LANES - per_group), *((0, 0),) * 3))
    columns = packed_columns(per_group, kernel.panel, LANES)
    word = WORD_BYTES // kernel.item
    split = blocked[:, columns].reshape(groups, kernel.panels, kernel.grid.wide, LANES, -1, depth // word, word)
    return np.ascontiguousarray(split.transpose(0, 1, 4, 2, 5, 3, 6)).reshape(kernel.packed_shape)


def build_amx(spec: Amx) -> tirx.PrimFunc:
    """The kernel: arguments X, W, [bias], the epilogue's operands, Y."""
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        buffers = begin_kernel(
            spec, weights=spec.packed_shape, bias=spec.bias, packed=spec.weights, sums=spec.sums, low=spec.split
        )
        if spec.halves and spec.input.dtype == FLOAT:
            buffers = replace(buffers, x=_upper_halves(buffers.x, prod(spec.input.shape)))
        if spec.split:
            buffers = replace(buffers, x=_bytes(buffers.x, prod(spec.input.shape)))
        extents = (spec.groups, spec.panels // spec.block, ceil_div(spec.grids, spec.share))
        with T.parallel(0, prod(extents)) as task:
            group, block, part = decode(task, extents)
            _configure(spec)
            kept = T.alloc_buffer((2 * spec.kept,), spec.sums, scope="global")
            first = start_of(part, spec.share, spec.grids)
            _Task(
                spec=spec,
                buffers=buffers,
                kept=kept,
                words=_words_of(spec, buffers, task),
                offsets=_offsets(spec, first),
                group=group,
                block=block,
                first=first,
            ).emit()
            release()
    return builder.get()


def _upper_halves(x: tirx.Buffer, count: int) -> tirx.Buffer:
    """A tensor of `count` bfloat16 numbers, without the zeros behind them."""
    halves = T.alloc_buffer((count,), UPPER_HALVES, scope="global")
    width = min(2 * LANES, count)
    piece = min(PIECE, count) // width * width
    with T.parallel(0, ceil_div(count, piece)) as task, T.serial(0, piece // width) as vector:
        place = start_of(task, piece, count) + vector * width
        store(halves, place, upper_half(load(x, place, width)), width)
    return halves


def _bytes(x: tirx.Buffer, count: int) -> tirx.Buffer:
    """A tensor of `count` numbers of 16 bits: their higher bytes, then the lower ones."""
    taken = T.alloc_buffer((2 * count,), "int8", scope="global")
    width = min(4 * LANES, count)
    piece = min(PIECE, count) // width * width
    eight = splat(tirx.const(BITS, "int16"), width)
    with T.parallel(0, ceil_div(count, piece)) as task, T.serial(0, piece // width) as vector:
        place = start_of(task, piece, count) + vector * width
        number = T.bind(load(x, place, width))
        kind = "int8" if width == 1 else f"int8x{width}"
        store(taken, place, tirx.Cast(kind, number >> eight), width)
        store(taken, place + count, tirx.Cast(kind, number), width)
    return taken


def _configure(spec: Amx) -> None:
    """How large the tiles are: first those of C, then of B and of A."""
    grid, depth = spec.grid, spec.depth * spec.item
    c, b, a = (spec.line.rows, ROW_BYTES), (depth // WORD_BYTES, ROW_BYTES), (spec.line.rows, depth)
    sums, weights = grid.count * spec.parts**2, grid.wide * spec.parts
    configure([c] * sums + [b] * weights + [a] * (TILES - sums - weights))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tile:
    """Pixels: those of a line (n, d, h) from `start`."""

    line: tuple[Index, Index, Index]
    start: Index

    @staticmethod
    def at(spec: Amx, number: Index) -> "_Tile":
        line = spec.line
        n, d, h, part = decode(number, (*spec.lines, line.tiles)) if prod(spec.lines) > 1 else (0, 0, 0, number)
        return _Tile(line=(n, d, h), start=start_of(part, line.rows, line.length))


def _offsets(spec: Amx, first: Index) -> dict[View, tirx.Buffer]:
    """For each tensor that has pixels, where those of each row of a share begin; in the output `OUTSIDE` where a row
    is none of its pixels."""
    line, grid = spec.line, spec.grid
    views = [spec.output, *(view for view in spec.epilogue.operands if any(view.strides[:4]))]
    tables = {view: T.alloc_buffer((spec.share * spec.pixels,), "int32", scope="global") for view in views}
    with T.serial(0, spec.share) as number:
        tiles = start_of(first + number, grid.high, spec.tiles)
        for index in range(grid.high):
            tile = _Tile.at(spec, tiles + index)
            begin = number * spec.pixels + index * line.rows
            with T.serial(0, line.rows) as row:
                n, d, h = tile.line
                at = T.bind(tile.start + row)
                inside = None
                if line.length > line.pitch:
                    h, at = T.bind(tirx.floordiv(at, line.pitch)), T.bind(tirx.floormod(at, line.pitch))
                if line.width < line.pitch:
                    inside, at = at < line.width, T.bind(tirx.min(at, line.width - 1))
                for view, table in tables.items():
                    offset = view.address((n, d, h, at, 0))
                    if inside is not None and view == spec.output:
                        offset = tirx.Select(inside, offset, tirx.const(OUTSIDE, "int32"))
                    store(table, begin + row, offset, 1)
    return tables


@dataclass(frozen=True, slots=True, kw_only=True)
class _Words:
    """Random words for a grid, vector by vector of each tile; `begins` are the places of the first of each tile's.

    A tile's pixels follow each other, as blocks do, which have the words of four pixels each if planes have whole ones:
    then all that a tile may touch are computed, several at once. Else each element has a block of its own.
    """

    spec: Amx
    view: Drawn
    source: Stream
    kept: tirx.Buffer
    begins: tirx.Buffer

    @staticmethod
    def rows(spec: Amx) -> int:
        """Of words that a tile has room for."""
        return BLOCK * (ceil_div(spec.line.rows - 1, BLOCK) + 1)

    @property
    def whole(self) -> bool:
        """Whether pixels follow each other in planes, and images, of whole blocks."""
        return self.view.strides[3] == 1 and all(self.view.strides[axis] % BLOCK == 0 for axis in (0, 4))

    def _place(self, tile: int, vector: int) -> int:
        return (tile * self.spec.grid.wide + vector) * self.rows(self.spec)

    def at(self, pixel: Index, vector: int, place: Index) -> Index:
        """Where the words of a pixel of the grid are, whose element is at `place`, for a vector of its tile."""
        tile = tirx.floordiv(pixel, self.spec.line.rows)
        row = place - load(self.begins, tile, 1) if self.whole else tirx.floormod(pixel, self.spec.line.rows)
        return ((tile * self.spec.grid.wide + vector) * self.rows(self.spec) + row) * LANES

    def draw(self, table: tirx.Buffer, pixel: Index, channel: Index, vectors: list[int], width: int) -> None:
        """For the grid whose first pixel is number `pixel` of the table."""
        stride, rows = self.view.strides[4], self.spec.line.rows
        channels = [tirx.Cast("int64", channel + vector) * stride for vector in vectors]
        for number in range(self.spec.grid.high):
            first = T.bind(load(table, pixel + number * rows, 1))
            if self.whole:
                begin = T.bind(tirx.bitwise_and(first, tirx.const(-BLOCK, "int32")))
                store(self.begins, number, begin, 1)
                self._draw_blocks(number, begin, channels, width)
                continue
            with T.serial(0, rows) as row:
                place = T.bind(load(table, pixel + number * rows + row, 1))
                for j, start in enumerate(channels):
                    element = positions(tirx.Cast("int64", place) + start, stride, width)
                    word = element_word(self.source, named(element))
                    store(self.kept, (self._place(number, j) + row) * LANES, word, width)

    def _draw_blocks(self, tile: int, begin: ir.Expr, channels: list[ir.Expr], width: int) -> None:
        stride, count = self.view.strides[4] // BLOCK, self.rows(self.spec) // BLOCK
        together = max(1, BLOCKS // len(channels))
        with T.serial(0, ceil_div(count, together)) as group:
            numbers = [start_of(group, together, count) + i for i in range(min(together, count))]
            starts = [
                tirx.Cast("int64", tirx.floordiv(begin, BLOCK) + number) + tirx.floordiv(start, BLOCK)
                for number in numbers
                for start in channels
            ]
            found = iter(quads(self.source, [positions(start, stride, width) for start in starts]))
            for number in numbers:
                for j in range(len(channels)):
                    for row, word in enumerate(next(found)):
                        store(self.kept, (self._place(tile, j) + number * BLOCK + row) * LANES, word, width)


def _words_of(spec: Amx, buffers: Buffers, task: ir.Expr) -> dict[int, _Words]:
    """Those of each operand that is drawn, by its number."""
    found: dict[int, _Words] = {}
    for number, (view, key) in enumerate(zip(spec.epilogue.operands, buffers.operands, strict=True)):
        if isinstance(view, Drawn) and buffers.step is not None:
            found[number] = _Words(
                spec=spec,
                view=view,
                source=source_of(key, buffers.step, task),
                kept=T.alloc_buffer((_Words.rows(spec) * spec.grid.high * spec.panel,), WORDS, scope="global"),
                begins=T.alloc_buffer((spec.grid.high,), "int32", scope="global"),
            )
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """What is computed at once: a grid of the task, by its number, and a panel of its block."""

    number: Index
    inner: Index


@dataclass(frozen=True, slots=True, kw_only=True)
class _Task:
    """For each grid of a share, all panels of a block: each is multiplied while the one before it is written."""

    spec: Amx
    buffers: Buffers
    kept: tirx.Buffer
    words: "dict[int, _Words]"
    offsets: dict[View, tirx.Buffer]
    group: Index
    block: Index
    first: Index

    def emit(self) -> None:
        spec, count = self.spec, self.spec.share * self.spec.block
        bundles = ceil_div(spec.pixels, spec.bundle)
        share = ceil_div(bundles, spec.steps)
        with T.serial(0, count + 1) as item:
            here, before = self._place(item), self._place(item - 1)
            sources = self._sources(here)
            with T.If(item < count), T.Then():
                self._start(here)
            with T.serial(0, spec.steps) as step:
                with T.If(item < count), T.Then():
                    self._multiply(here, sources, step)
                begin = T.bind(tirx.min(step * share, bundles))
                end = tirx.Select(item > 0, tirx.min(begin + share, bundles), begin)
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
        others = self._high * self._wide + self._wide
        return tile(others + i % (TILES - others))

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
        spec, grid, geometry = self.spec, self.spec.grid, self.spec.geometry
        self._prefetch(place, step)
        panel = self.group * spec.panels + self._panel(place)
        first = T.bind((panel * spec.steps + step) * grid.wide * spec.tile_bytes)
        for number, weights in enumerate(self._weights):
            for j in range(grid.wide):
                tile_of_b = self._b(number * grid.wide + j)
                call("tileloadd64", tile_of_b, address(weights, first + j * spec.tile_bytes), distance(ROW_BYTES))
        r, s, t, block = decode(step, (*spec.taps, spec.blocks))
        d, h, w = geometry.seen((0, 0, 0), (r, s, t))
        seen = spec.input.address((0, d, h, w, start_of(block, spec.depth, spec.row))) - spec.input.offset
        offset = T.bind(seen)
        pixel = distance(spec.input.strides[3] * geometry.stride[2] * spec.item)
        for i, source in enumerate(sources):
            call("tileloadd64", self._a(i), address(self.buffers.x, (source + offset) * spec.item), pixel)
            for j in range(self._wide):
                factors = spec.factors[i * self._wide + j if spec.split else 0]
                call(PRODUCTS[factors], self._c(i, j), self._a(i), self._b(j))

    @property
    def _weights(self) -> list[tirx.Buffer]:
        """Those of each part."""
        return [self.buffers.w] if self.buffers.low is None else [self.buffers.w, self.buffers.low]

    def _prefetch(self, place: _Place, step: Index) -> None:
        """A step's share of the panels that follow those in use."""
        spec = self.spec
        visits = ceil_div(spec.grids, spec.share) * spec.share * spec.block
        used = spec.block * spec.steps * spec.grid.wide * spec.tile_bytes
        last = spec.groups * spec.panels == spec.block
        if last or not is_fetched_ahead(used, visits):
            return
        visit = (self.first + place.number) * spec.block + place.inner
        following = self.group * (spec.panels // spec.block) + self.block + 1
        steps = visits * spec.steps
        for weights in self._weights:
            prefetch(weights, start=following * used, count=used, step=visit * spec.steps + step, steps=steps)

    def _finish(self, place: _Place, item: Index, begin: Index, end: Index) -> None:
        """Bundles of rows of kept sums through the epilogue, to where they belong."""
        spec, buffers = self.spec, self.buffers
        width = min(LANES, spec.out_channels)
        kept = T.bind(self._kept_at(item))
        channel, vectors = self._channels(place)
        for words in self.words.values():
            with T.If(tirx.And(begin == 0, end > begin)), T.Then():
                words.draw(self.offsets[words.view], place.number * spec.pixels, channel, vectors, width)
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
                self._in_tensors(pixel, channel + vector, (row, j))
                for row, pixel in zip(rows, pixels, strict=True)
                for j, vector in enumerate(vectors)
            ]
            operands = [
                self.words[number].kept if number in self.words else buffer
                for number, buffer in enumerate(buffers.operands)
            ]
            values = iter(spec.epilogue.apply_together(totals, operands, places, width))
            for pixel in pixels:
                offset = T.bind(load(self.offsets[spec.output], pixel, 1))
                results = [next(values) for _ in vectors]

                def write(offset: Index = offset, results: list[ir.Expr] = results) -> None:
                    for vector, value in zip(vectors, results, strict=True):
                        store(buffers.y, offset + (channel + vector) * spec.output.strides[4], value, width)

                only_if(offset != OUTSIDE if spec.line.width < spec.line.pitch else None, write)

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

    def _in_tensors(self, pixel: Index, channel: Index, slot: tuple[Index, int]) -> Place:
        """Where a pixel's channel lies in a tensor; random words have their `slot`, a row of the grid and a vector."""
        row, vector = slot
        words = next(iter(self.words.values()), None)  # those of other operands lie alike

        def place(view: View) -> Index:
            if isinstance(view, Drawn) and words is not None:
                return words.at(row, vector, load(self.offsets[view], pixel, 1))
            if view not in self.offsets:
                return view.address((0, 0, 0, 0, channel))
            return load(self.offsets[view], pixel, 1) + channel * view.strides[4]

        return place
