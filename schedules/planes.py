"""Depthwise convolution of images whose channels lie one after the other, as ONNX has them.

    before:  Y[n, c, p] = f(sum over taps t of X[n, c, p * stride + t * dilation - pads] * W[c, t])
    after:   for each vector of channels, or band of its rows, in parallel:
                 its rows turned, so that its channels lie side by side, with their padding
                 for each few rows:  sums as in `depthwise`, into rows of their own;  these turned back, Y = f(.)

What is turned stays in cache: memory is read once and written once, where turning whole images moves them twice more.
"""

from dataclasses import dataclass
from math import prod
from typing import Any

from numpy.typing import NDArray
from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from lowprec.convolution import Conv
from lowprec.schedules.buffers import Buffers, Frame, begin_kernel
from lowprec.schedules.depthwise import ENOUGH_TASKS, Depthwise, pack_depthwise, sum_tile
from lowprec.schedules.epilogue import Epilogue
from lowprec.schedules.geometry import Geometry
from lowprec.schedules.prefetch import LINE, prefetch_stream
from lowprec.schedules.tasks import all_of, decode, only_if, start_of
from lowprec.schedules.tiling import ceil_div
from lowprec.schedules.turning import turned_vectors
from lowprec.schedules.views import FLOAT, FLOAT_BYTES, Index, View, load, named, store, zeros

BAND = 1 << 20
"""Bytes of rows that are turned at once, if there are so many more of them than taps."""

L1_SHARE = 32 << 10
"""Bytes of rows that taps see, beyond which several rows of results share them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lying(Frame):
    """A kernel for images as they lie: `conv` with its padding, and views whose coordinates are (n, 0, channel, row,
    column)."""

    conv: Conv
    registers: int

    @property
    def bias_width(self) -> int:
        """Elements of the bias, which is a step of the epilogue here."""
        return 0

    @property
    def size(self) -> tuple[int, int]:
        """Rows and columns of the result."""
        height, width = self.conv.output_size
        return height, width


@dataclass(frozen=True, slots=True, kw_only=True)
class Planes(Lying):
    """One kernel that turns them."""

    @property
    def blocks(self) -> int:
        """Vectors of channels."""
        return ceil_div(self.conv.groups, self.lanes)

    @property
    def band(self) -> int:
        """Rows of the result that one task makes."""
        height = self.size[0]
        fitting = max(1, BAND // (FLOAT_BYTES * self.pitch * self.lanes * self.conv.stride[0]))
        tasks = ceil_div(ENOUGH_TASKS, self.conv.batch * self.blocks)
        return min(height, max(ceil_div(2 * self.reach(1), self.conv.stride[0]), min(fitting, ceil_div(height, tasks))))

    def reach(self, rows: int) -> int:
        """Rows that so many of the result see."""
        return (rows - 1) * self.conv.stride[0] + (self.conv.kernel[0] - 1) * self.conv.dilation[0] + 1

    @property
    def pitch(self) -> int:
        """Pixels of a row with its padding."""
        return self.conv.pads_begin[1] + self.conv.size[1] + self.conv.pads_end[1]

    @property
    def scratch(self) -> int:
        """Bytes of what is turned, and of sums."""
        return FLOAT_BYTES * (prod(self.sums.input.shape) + self.sums.tile[0] * prod(self.sums.output.shape))

    @property
    def sums(self) -> "Sums":
        """The convolution of what is turned. A result's first row is its depth: results stand at the beginning."""
        width, line, reach = self.size[1], self.pitch * self.lanes, self.reach(self.band)
        taps, strides, dilations = (
            (high, wide) for high, wide in (self.conv.kernel, self.conv.stride, self.conv.dilation)
        )
        return Sums(
            batch=1,
            channels=self.conv.groups,
            geometry=Geometry(
                size=(1, self.band, width),
                kernel=(1, *taps),
                stride=(1, *strides),
                dilation=(1, *dilations),
                live=((0, 1), (0, reach), (0, self.pitch)),
            ),
            input=View(shape=(reach, line), strides=(0, line * strides[0], line, self.lanes, 0)),
            output=View(shape=(width, self.lanes), strides=(0, 0, width * self.lanes, self.lanes, 0)),
            halo=None,
            bias=False,
            epilogue=Epilogue(),
            lanes=self.lanes,
            registers=self.registers,
        )


class Sums(Depthwise):
    """Sums of pixels that have been turned."""

    @property
    def tile(self) -> tuple[int, int]:
        """Two rows where those that taps see leave L1, and pixels of a row."""
        geometry = self.geometry
        leave = geometry.kernel[1] * self.input.shape[1] * FLOAT_BYTES > L1_SHARE
        rows = 2 if leave and geometry.stride[1] == geometry.dilation[1] == 1 and geometry.size[1] > 1 else 1
        return rows, self.pixels(rows)


def pack_planes(weights: NDArray[Any], spec: Planes) -> NDArray[Any]:
    """As the sums take them."""
    return pack_depthwise(weights, spec.sums)


def build_planes(spec: Planes) -> tirx.PrimFunc:
    """The kernel: arguments X, W, the epilogue's operands, Y."""
    sums, height = spec.sums, spec.size[0]
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        buffers = begin_kernel(spec, weights=sums.weights, bias=False)
        extents = (spec.conv.batch, spec.blocks, ceil_div(height, spec.band))
        with T.parallel(0, prod(extents)) as number:
            n, block, band = decode(number, extents)
            task = _Task(
                spec=spec,
                sums=sums,
                buffers=buffers,
                pixels=T.alloc_buffer((prod(sums.input.shape),), FLOAT, scope="global"),
                rows=T.alloc_buffer((sums.tile[0] * prod(sums.output.shape),), FLOAT, scope="global"),
                n=n,
                block=block,
                channel=start_of(block, spec.lanes, spec.conv.groups),
                first=start_of(band, spec.band, height),
            )
            task.turn_in()
            task.make_rows()
    return builder.get()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Task:
    """A vector of channels from `channel` on, and the rows of its result from `first` on: what they see is turned into
    `pixels`, a few at a time are summed into `rows`."""

    spec: Planes
    sums: Sums
    buffers: Buffers
    pixels: tirx.Buffer
    rows: tirx.Buffer
    n: Index
    block: Index
    channel: Index
    first: Index

    def turn_in(self) -> None:
        """The rows that are seen, zeros where there are none."""
        spec, conv = self.spec, self.spec.conv
        (top, left), (bottom, right), width = conv.pads_begin, conv.pads_end, conv.size[1]
        with T.serial(0, spec.reach(spec.band)) as i:
            line = T.bind(i * (spec.pitch * spec.lanes))
            row = T.bind(self.first * conv.stride[0] + i - top)
            inside = all_of(row >= 0 if top else None, row < conv.size[0] if bottom else None)
            self._clear(line, left)
            self._clear(line + (left + width) * spec.lanes, right)
            if inside is not None:
                only_if(tirx.Not(inside), lambda: self._clear(line + left * spec.lanes, width))
            only_if(inside, lambda: self._turn_row_in(line + left * spec.lanes, row))

    def _turn_row_in(self, line: Index, row: Index) -> None:
        lanes, width, view = self.spec.lanes, self.spec.conv.size[1], self.spec.input
        with T.serial(0, ceil_div(width, lanes)) as square:
            column = start_of(square, lanes, width)
            start = T.bind(view.address((self.n, 0, self.channel, row, column)))
            vectors = [load(self.buffers.x, start + c * view.strides[2], lanes) for c in range(lanes)]
            for p, pixel in enumerate(turned_vectors(vectors, named)):
                store(self.pixels, line + (column + p) * lanes, pixel, lanes)

    def _clear(self, place: Index, pixels: int) -> None:
        """Zeros for pixels, from a place on."""
        lanes = self.spec.lanes
        if pixels:
            with T.serial(0, pixels) as pixel:
                store(self.pixels, place + pixel * lanes, zeros(lanes), lanes)

    def make_rows(self) -> None:
        """The results, a few rows at a time."""
        rows, width = self.spec.band, self.spec.size[1]
        tall, wide = self.sums.tile
        down, across = ceil_div(rows, tall), ceil_div(width, wide)
        with T.serial(0, down) as number:
            row = start_of(number, tall, rows)
            with T.serial(0, across) as tile:
                self._fetch(row, tile, number * across + tile, (down, across))
                at = (0, row, 0, start_of(tile, wide, width), self.block)
                buffers = Buffers(
                    x=self.pixels, w=self.buffers.w, low=None, bias=None, operands=[], step=None, y=self.rows
                )
                sum_tile(self.sums, at, buffers)
            with T.serial(0, tall) as r:
                self._turn_row_out(row, r)

    def _turn_row_out(self, row: Index, r: Index) -> None:
        """Row r of those that have been summed, through the epilogue."""
        spec, lanes, width = self.spec, self.spec.lanes, self.spec.size[1]
        with T.serial(0, ceil_div(width, lanes)) as square:
            column = start_of(square, lanes, width)
            start = T.bind((r * width + column) * lanes)
            vectors = [load(self.rows, start + p * lanes, lanes) for p in range(lanes)]
            for c, line in enumerate(turned_vectors(vectors, named)):
                coordinates = (self.n, 0, self.channel + c, self.first + row + r, column)
                value = spec.epilogue.apply(line, self.buffers.operands, coordinates, lanes)
                store(self.buffers.y, spec.output.address(coordinates), value, lanes)

    def _fetch(self, row: Index, tile: Index, step: Index, steps: tuple[int, int]) -> None:
        """At each step a share of what the next task reads, and of the lines that this row of tiles will write."""
        spec, lanes, (down, across) = self.spec, self.spec.lanes, steps
        plane = spec.input.strides[2] * FLOAT_BYTES
        if spec.band == spec.size[0]:
            start = spec.input.address((self.n, 0, self.channel + lanes, 0, 0)) * FLOAT_BYTES
            share = ceil_div(lanes * plane, down * across * LINE) * LINE
            prefetch_stream(self.buffers.x, start=start + step * share, count=share, written=False)
        each = ceil_div(lanes, across)
        for c in range(each):
            channel = self.channel + tile * each + c
            start = spec.output.address((self.n, 0, channel, self.first + row, 0)) * FLOAT_BYTES
            count = self.sums.tile[0] * spec.output.strides[3] * FLOAT_BYTES
            prefetch_stream(self.buffers.y, start=start, count=count, written=True)
