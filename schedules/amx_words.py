"""Random words for the results of tiles, drawn by the kernel that rounds them."""

from dataclasses import dataclass

from tvm import ir, tirx
from tvm.script.ir_builder import tirx as T

from lowprec.philox import BLOCK
from lowprec.schedules.amx import Amx
from lowprec.schedules.buffers import Buffers
from lowprec.schedules.noise import positions, quads, source_of
from lowprec.schedules.philox import Stream, element_word
from lowprec.schedules.tasks import decode
from lowprec.schedules.tiling import ceil_div
from lowprec.schedules.views import WORDS, Drawn, Index, load, named, splat, store
from lowprec.tiles import LANES

BLOCKS = 2
"""Vectors of blocks of random words in flight."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Words:
    """Random words for a grid, vector by vector of each tile; `begins` are the places of the first of each tile's.

    They are drawn bit by bit while the grid's products are computed, by units that otherwise wait for these: `kept` and
    `begins` have two halves, one for the grid before.

    A tile's pixels follow each other, as blocks do, which have the words of four pixels each if planes have whole ones:
    then all that a tile touches are computed, several at once. If planes have a part of a block besides, blocks of
    neighbouring channels begin at different pixels: a row is put together from a block and the next, by the channel.
    Else each element has a block of its own. `counts` says how many blocks a tile takes, where not all are `steady`.
    """

    spec: Amx
    view: Drawn
    source: Stream
    kept: tirx.Buffer
    begins: tirx.Buffer
    counts: tirx.Buffer
    last: tirx.Buffer

    @staticmethod
    def aligned(spec: Amx) -> bool:
        """Whether each tile begins with a block."""
        line = spec.line
        return line.pitch == line.width and line.length % BLOCK == 0 and line.rows % BLOCK == 0

    @staticmethod
    def rows(spec: Amx) -> int:
        """Of words that a tile has room for: one block more than its pixels fill where it may begin inside of one."""
        return spec.line.rows if Words.aligned(spec) else BLOCK * (ceil_div(spec.line.rows - 1, BLOCK) + 1)

    @staticmethod
    def room(spec: Amx) -> int:
        """Rows of a tile in memory: before those that are read, one block, and behind, what is drawn besides."""
        return Words.rows(spec) + (BLOCKS + 1) * BLOCK

    @staticmethod
    def size(spec: Amx) -> int:
        """Of a half."""
        return Words.room(spec) * spec.grid.high * spec.panel

    @property
    def whole(self) -> bool:
        """Whether pixels follow each other in planes, and images, of whole blocks."""
        return self.view.strides[3] == 1 and all(self.view.strides[axis] % BLOCK == 0 for axis in (0, 4))

    @property
    def shifted(self) -> bool:
        """Whether images have whole blocks, and so have the planes of a vector of channels together."""
        even = self.view.strides[0] % BLOCK == 0 and self.spec.out_channels % LANES == 0
        return self.view.strides[3] == 1 and even and not self.whole

    @property
    def in_blocks(self) -> bool:
        """Whether a block serves four pixels."""
        return self.whole or self.shifted

    @property
    def together(self) -> int:
        """Blocks of a channel, or elements, that are drawn at once."""
        return max(1, BLOCKS // self.spec.grid.wide) if self.in_blocks else 1

    @property
    def most(self) -> int:
        """Blocks that a tile may take; a row needs the next one, too, if they are shifted."""
        return self.rows(self.spec) // BLOCK + (1 if self.shifted else 0)

    @property
    def steady(self) -> bool:
        """Whether all tiles take the same blocks, and none is left over where some are drawn together."""
        return self.aligned(self.spec) and self.most % self.together == 0

    @property
    def draws(self) -> int:
        """Of a tile."""
        return ceil_div(self.most, self.together) if self.in_blocks else self.spec.line.rows

    def _place(self, tile: Index, vector: int, half: Index) -> Index:
        return half * self.size(self.spec) + (tile * self.spec.grid.wide + vector) * self.room(self.spec) * LANES

    def at(self, pixel: Index, vector: int, place: Index, half: Index) -> Index:
        """Where the words of a pixel of the grid are, whose element is at `place`, for a vector of its tile."""
        tile = tirx.floordiv(pixel, self.spec.line.rows)
        row = tirx.floormod(pixel, self.spec.line.rows)
        if self.in_blocks:
            row = place - load(self.begins, half * self.spec.grid.high + tile, 1) + (BLOCK if self.shifted else 0)
        return self._place(tile, vector, half) + row * LANES

    def begin(self, table: tirx.Buffer, pixel: Index, half: Index) -> None:
        """Before the draws of the grid whose first pixel is number `pixel` of the table."""
        high, rows = self.spec.grid.high, self.spec.line.rows
        for tile in range(high) if self.in_blocks else ():
            first, last = (load(table, pixel + tile * rows + row, 1) for row in (0, rows - 1))
            begin = T.bind(tirx.bitwise_and(first, tirx.const(-BLOCK, "int32")))
            store(self.begins, half * high + tile, begin, 1)
            if not self.steady:
                store(self.counts, tile, tirx.floordiv(last - begin, BLOCK) + (2 if self.shifted else 1), 1)

    def draw(self, number: Index, at: "Drawing") -> None:
        """One of all draws of a grid."""
        tile, part = decode(number, (self.spec.grid.high, self.draws))
        channels = [tirx.Cast("int64", at.channel + vector) * self.view.strides[4] for vector in at.vectors]
        if self.in_blocks:
            self._draw_some(tile, part * self.together, channels, at)
            return
        place = T.bind(load(at.table, at.pixel + tile * self.spec.line.rows + part, 1))
        for j, start in enumerate(channels):
            element = positions(tirx.Cast("int64", place) + start, self.view.strides[4], at.width)
            word = element_word(self.source, named(element))
            store(self.kept, self._place(tile, j, at.half) + part * LANES, word, at.width)

    def _draw_some(self, tile: Index, first: Index, channels: list[ir.Expr], at: "Drawing") -> None:
        """As many blocks as are drawn together, or those of them that the tile takes."""
        draw = self._draw_shifted if self.shifted else self._draw_blocks
        if self.steady:
            draw(tile, first, self.together, channels, at)
            return
        left = T.bind(load(self.counts, tile, 1) - first)
        with T.If(left >= self.together):
            with T.Then():
                draw(tile, first, self.together, channels, at)
            if self.together > 1:
                with T.Else(), T.If(left > 0), T.Then():
                    draw(tile, first, 1, channels, at)

    def _draw_blocks(self, tile: Index, first: Index, count: int, channels: list[ir.Expr], at: "Drawing") -> None:
        begin = load(self.begins, at.half * self.spec.grid.high + tile, 1)
        numbers = [first + i for i in range(count)]
        starts = [tirx.Cast("int64", begin + number * BLOCK) + start for number in numbers for start in channels]
        found = iter(quads(self.source, starts, self.view.strides[4], at.width, aligned=True))
        for number in numbers:
            for j in range(len(channels)):
                for row, word in enumerate(next(found)):
                    store(self.kept, self._place(tile, j, at.half) + (number * BLOCK + row) * LANES, word, at.width)

    def _draw_shifted(self, tile: Index, first: Index, count: int, channels: list[ir.Expr], at: "Drawing") -> None:
        """Blocks, and with the last one of the draw before the rows of all but the last."""
        stride = self.view.strides[4]
        begin = load(self.begins, at.half * self.spec.grid.high + tile, 1)
        numbers = [first + i for i in range(count)]
        starts = [tirx.Cast("int64", begin + number * BLOCK) + start for number in numbers for start in channels]
        found = quads(self.source, starts, stride, LANES, aligned=False)
        ahead = [lane * stride % BLOCK for lane in range(LANES)]
        for j in range(len(channels)):
            kept = j * BLOCK * LANES
            before = [named(load(self.last, kept + row * LANES, LANES)) for row in range(BLOCK)]
            for i, number in enumerate(numbers):
                after = list(found[i * len(channels) + j])
                words = [*before, *after]
                for row in range(BLOCK):
                    word = words[row]
                    for shift in range(1, BLOCK):
                        if shift in ahead:
                            word = tirx.Select(self._lanes_ahead(ahead, shift), words[row + shift], word)
                    place = self._place(tile, j, at.half) + (number * BLOCK + row) * LANES
                    store(self.kept, place, word, LANES)
                before = after
            for row, word in enumerate(before):
                store(self.last, kept + row * LANES, word, LANES)

    @staticmethod
    def _lanes_ahead(ahead: list[int], shift: int) -> ir.Expr:
        """Those lanes whose blocks begin so many pixels before the first one's."""
        bits = sum(1 << lane for lane, by in enumerate(ahead) if by == shift)
        order = tirx.Cast(f"int32x{LANES}", tirx.Ramp(tirx.const(0, "int32"), tirx.const(1, "int32"), LANES))
        ones = splat(tirx.const(1, "int32"), LANES)
        return ((splat(tirx.const(bits, "int32"), LANES) >> order) & ones) == ones


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawing:
    """For what a grid's words are drawn: its first pixel is number `pixel` of the table, its vectors of channels begin
    at `channel`; and the half that they go to."""

    table: tirx.Buffer
    pixel: Index
    channel: Index
    vectors: list[int]
    width: int
    half: Index


def words_of(spec: Amx, buffers: Buffers, task: ir.Expr) -> dict[int, Words]:
    """Those of each operand that is drawn, by its number."""
    found: dict[int, Words] = {}
    for number, (view, key) in enumerate(zip(spec.epilogue.operands, buffers.operands, strict=True)):
        if isinstance(view, Drawn) and buffers.step is not None:
            found[number] = Words(
                spec=spec,
                view=view,
                source=source_of(key, buffers.step, task),
                kept=T.alloc_buffer((2 * Words.size(spec),), WORDS, scope="global"),
                begins=T.alloc_buffer((2 * spec.grid.high,), "int32", scope="global"),
                counts=T.alloc_buffer((spec.grid.high,), "int32", scope="global"),
                last=T.alloc_buffer((BLOCK * spec.panel,), WORDS, scope="global"),
            )
    return found
