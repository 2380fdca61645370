"""Random words for the results of tiles, drawn by the kernel that rounds them."""

from dataclasses import dataclass

from tvm import ir, tirx
from tvm.script.ir_builder import tirx as T

from lowprec.philox import BLOCK
from lowprec.schedules.amx import Amx
from lowprec.schedules.buffers import Buffers
from lowprec.schedules.noise import positions, quads, source_of
from lowprec.schedules.philox import Stream, element_word
from lowprec.schedules.tasks import start_of
from lowprec.schedules.tiling import ceil_div
from lowprec.schedules.views import WORDS, Drawn, Index, load, named, store
from lowprec.tiles import LANES

BLOCKS = 2
"""Vectors of blocks of random words in flight."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Words:
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


def words_of(spec: Amx, buffers: Buffers, task: ir.Expr) -> dict[int, Words]:
    """Those of each operand that is drawn, by its number."""
    found: dict[int, Words] = {}
    for number, (view, key) in enumerate(zip(spec.epilogue.operands, buffers.operands, strict=True)):
        if isinstance(view, Drawn) and buffers.step is not None:
            found[number] = Words(
                spec=spec,
                view=view,
                source=source_of(key, buffers.step, task),
                kept=T.alloc_buffer((Words.rows(spec) * spec.grid.high * spec.panel,), WORDS, scope="global"),
                begins=T.alloc_buffer((spec.grid.high,), "int32", scope="global"),
            )
    return found
