"""A tile of one vector of channels through the two-dimensional real transform, and back: see `lowprec.fourier`."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from tvm import ir, tirx
from tvm.script.ir_builder import tirx as T

from lowprec.fourier import FACTORS, Segment, roots
from lowprec.schedules.dft import Complex, Line, transform_line
from lowprec.schedules.tasks import all_of, any_of
from lowprec.schedules.tiling import ceil_div
from lowprec.schedules.views import Index, load, splat, store, zeros

Read = Callable[[Index, Index], ir.Expr]
"""Of a row and a column of the tile."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rooms:
    """Scratch of a task: `half` holds the spectra of rows, [row][column][re, im][lane]; the others one line each."""

    half: tirx.Buffer
    line: tirx.Buffer
    work: tirx.Buffer


@dataclass(frozen=True, slots=True, kw_only=True)
class Transforms:
    """Those of both axes; their roots of unity lie behind the `weights` elements of U."""

    axes: tuple[Segment, Segment]
    lanes: int
    weights: int

    @property
    def tables(self) -> tuple[int, int]:
        """Where the roots of each axis begin."""
        return self.weights, self.weights + 2 * self.axes[0].size

    @property
    def elements(self) -> int:
        """Of U and the roots together."""
        return self.tables[1] + 2 * self.axes[1].size

    def packed(self, spectrum: NDArray[np.float32]) -> NDArray[np.float32]:
        """U and the roots."""
        return np.concatenate([spectrum.ravel(), *(roots(axis.size).ravel() for axis in self.axes)])

    def rooms(self) -> Rooms:
        high, wide = self.axes
        longest = max(high.size, wide.size)
        sizes = (2 * ceil_div(high.reach, 2) * (wide.size // 2 + 1), longest, longest)
        half, line, work = (T.alloc_buffer((size * 2 * self.lanes,), "float32", scope="global") for size in sizes)
        return Rooms(half=half, line=line, work=work)

    def tile(self, rooms: Rooms, width: int, w: tirx.Buffer, *, short: tuple[bool, bool] = (False, False)) -> "Tile":
        """Of vectors of that width; `short` where there is one tap less."""
        high, wide = (replace(axis, taps=axis.taps - less) for axis, less in zip(self.axes, short, strict=True))
        return Tile(high=high, wide=wide, lanes=self.lanes, width=width, rooms=rooms, w=w, tables=self.tables)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tile:
    """One tile's transforms; vectors are `width` wide, `lanes` apart. `tables` are places in `w`."""

    high: Segment
    wide: Segment
    lanes: int
    width: int
    rooms: Rooms
    w: tirx.Buffer
    tables: tuple[int, int]

    @property
    def columns(self) -> int:
        return self.wide.size // 2 + 1

    def transform_rows(self, read: Read) -> None:
        """The spectra of all rows into `half`: two rows at once, equation 2."""
        wide = self.wide
        with T.serial(0, ceil_div(self.high.reach, 2)) as pair:
            row = pair * 2

            def pixels(n: Index, _: int) -> Complex:
                known = None if wide.reach == wide.size else n < wide.reach
                second = None if self.high.reach % 2 == 0 else row + 1 < self.high.reach
                both = all_of(known, second)
                return self._or_zero(known, read(row, n)), self._or_zero(both, read(row + 1, n))

            self._transform(1, pixels, lambda k, value: self._put(self.rooms.line, k, value))
            with T.serial(0, self.columns) as k:
                mirrored = tirx.floormod(wide.size - k, wide.size)
                (a, b), (c, d) = (self._get(self.rooms.line, place) for place in (k, mirrored))
                self._put(self.rooms.half, row * self.columns + k, (a + c, b - d))
                self._put(self.rooms.half, (row + 1) * self.columns + k, (b + d, c - a))

    def transform_column(self, k: Index, write: Callable[[Index, Complex], None]) -> None:
        """Column k of the tile's spectrum: write(row, value)."""
        high = self.high

        def spectrum(n: Index, _: int) -> Complex:
            known = None if high.reach == high.size else n < high.reach
            re, im = (self._at(self.rooms.half, n * self.columns + k, part) for part in (0, 1))
            return self._or_zero(known, re), self._or_zero(known, im)

        self._transform(0, spectrum, write)

    def restore_column(self, k: Index, read: Callable[[Index], Complex]) -> None:
        """From column k of a spectrum, read(row), the rows that are kept, into `half`."""
        rows = 2 * ceil_div(self.high.outputs, 2)

        def keep(row: Index, value: Complex) -> None:
            with T.If(row < rows), T.Then():
                self._put(self.rooms.half, row * self.columns + k, (value[1], value[0]))

        def swapped(n: Index, _: int) -> Complex:
            re, im = read(n)
            return im, re

        self._transform(0, swapped, keep)

    def restore_rows(self, write: Callable[[Index, Index, ir.Expr, ir.Expr | None], None]) -> None:
        """The results, from `half`: write(row, column, value, unless)."""
        wide = self.wide
        before_middle = FACTORS[wide.size][0] // 2
        with T.serial(0, ceil_div(self.high.outputs, 2)) as pair:
            row = pair * 2

            def together(n: Index, n1: int) -> Complex:
                k = n if n1 < before_middle else wide.size - n
                (a, b), (c, d) = (self._get(self.rooms.half, (row + i) * self.columns + k) for i in (0, 1))
                return (b + c, a - d) if n1 < before_middle else (c - b, a + d)  # exchanged: the way back

            def keep(n: Index, value: Complex) -> None:
                beyond = None if wide.outputs == wide.size else n >= wide.outputs
                below = None if self.high.outputs % 2 == 0 else row + 1 >= self.high.outputs
                both = any_of(beyond, below)
                write(row, n, value[1], beyond)
                write(row + 1, n, value[0], both)

            self._transform(1, together, keep)

    def _transform(
        self, axis: int, read: Callable[[Index, int], Complex], write: Callable[[Index, Complex], None]
    ) -> None:
        first, width = self.tables[axis], self.width

        def root(j: Index) -> Complex:
            re, im = (splat(load(self.w, first + j * 2 + part, 1), width) for part in (0, 1))
            return re, im

        size = (self.high, self.wide)[axis].size

        def named(n: Index, n1: int) -> Complex:
            re, im = read(n, n1)
            return T.bind(re), T.bind(im)

        transform_line(
            Line(size=size, read=named, write=write, work=self.rooms.work, table=root, lanes=width, apart=self.lanes)
        )

    def _or_zero(self, known: ir.Expr | None, value: ir.Expr) -> ir.Expr:
        return value if known is None else tirx.if_then_else(known, value, zeros(self.width))

    def _at(self, buffer: tirx.Buffer, place: Index, part: int) -> ir.Expr:
        return load(buffer, (place * 2 + part) * self.lanes, self.width)

    def _get(self, buffer: tirx.Buffer, place: Index) -> Complex:
        return T.bind(self._at(buffer, place, 0)), T.bind(self._at(buffer, place, 1))

    def _put(self, buffer: tirx.Buffer, place: Index, value: Complex) -> None:
        for part, number in enumerate(value):
            store(buffer, (place * 2 + part) * self.lanes, number, self.width)
