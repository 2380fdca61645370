"""Depthwise convolution between Fourier transforms: nothing is summed over channels, so a tile of one vector of them
stays in cache through all of it.

    before:  Y[n, p, c] = f(sum over taps t of X[n, p + t, c] * W[t, c])
    after:   for each tile and vector of channels, in parallel:
                 spectra of the rows;  for each column:  DFT, times U, inverse DFT;  rows back, Y = f(.)

With strides there are phases, as `lowprec.phases` has them: each goes forward, and their sum comes back.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import prod

import numpy as np
from numpy.typing import NDArray
from tvm import ir, tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from lowprec.fourier import Segment, frequencies, transform_weights
from lowprec.phases import Phases
from lowprec.schedules.blocks import Share, Tiling, walk_phases
from lowprec.schedules.buffers import Buffers, Frame, begin_kernel, write_output
from lowprec.schedules.dft import Complex, times
from lowprec.schedules.fourier_tile import Rooms, Tile, Transforms
from lowprec.schedules.tasks import any_of, decode, start_of
from lowprec.schedules.tiling import ceil_div
from lowprec.schedules.views import Index, load, store, zeros


@dataclass(frozen=True, slots=True, kw_only=True)
class FourierDepthwise(Frame):
    """One kernel, whole."""

    batch: int
    channels: int
    size: tuple[int, int]
    axes: tuple[Segment, Segment]
    phases: Phases

    @property
    def width(self) -> int:
        """Channels of one vector."""
        return min(self.lanes, self.channels)

    @property
    def bias_width(self) -> int:
        """Elements of the bias."""
        return self.channels

    @property
    def vectors(self) -> int:
        return ceil_div(self.channels, self.width)

    @property
    def tiling(self) -> Tiling:
        high, wide = self.axes
        return Tiling(batch=self.batch, size=self.size, outputs=(high.outputs, wide.outputs))

    @property
    def spectrum(self) -> int:
        """Elements of one tile, phase and vector of channels."""
        return frequencies(*self.axes) * 2 * self.width

    @property
    def weights(self) -> int:
        """Elements of U: [vector][phase][frequency][re, im][channel]."""
        return self.vectors * self.phases.count * self.spectrum

    @property
    def transforms(self) -> Transforms:
        return Transforms(axes=self.axes, lanes=self.lanes, weights=self.weights)


def pack_fourier_depthwise(weights: NDArray[np.float32], kernel: FourierDepthwise) -> NDArray[np.float32]:
    """[C, 1, taps...] -> U, and the roots of unity; the last vector overlaps its neighbour."""
    split = kernel.phases.split(weights.reshape(kernel.channels, 1, *kernel.phases.kernel))
    planes = transform_weights(split, *kernel.axes).astype(np.complex64).reshape(kernel.channels, -1)
    starts = [min(index * kernel.width, kernel.channels - kernel.width) for index in range(kernel.vectors)]
    packed = np.stack([np.stack([planes.real, planes.imag])[:, first : first + kernel.width] for first in starts])
    return kernel.transforms.packed(packed.transpose(0, 3, 1, 2))


def build_fourier_depthwise(spec: FourierDepthwise) -> tirx.PrimFunc:
    """The kernel: arguments X, U, [bias], the epilogue's operands, Y."""
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        buffers = begin_kernel(spec, weights=(spec.transforms.elements,), bias=spec.bias)
        extents = (spec.vectors, spec.tiling.count)
        with T.parallel(0, prod(extents)) as task:
            vector, number = decode(task, extents)
            columns = 1 if spec.phases.count == 1 else spec.axes[1].size // 2 + 1
            room = T.alloc_buffer((columns * spec.axes[0].size * 2 * spec.lanes,), "float32", scope="global")
            rooms = spec.transforms.rooms()
            _Task(spec=spec, buffers=buffers, rooms=rooms, room=room, vector=vector, number=number).emit()
    return builder.get()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Task:
    """A tile of one vector of channels; `room` has place for one column of its spectrum, or with phases for all."""

    spec: FourierDepthwise
    buffers: Buffers
    rooms: Rooms
    room: tirx.Buffer
    vector: Index
    number: Index

    def emit(self) -> None:
        spec, width = self.spec, self.spec.width
        numbers, starts = spec.tiling.at(self.number)
        channel = start_of(self.vector, width, spec.channels)
        whole = spec.transforms.tile(self.rooms, width, self.buffers.w)
        alone = spec.phases.count == 1
        if not alone:
            with T.serial(0, whole.columns * spec.axes[0].size * 2) as place:
                store(self.room, place * spec.lanes, zeros(width), width)

        def forward(share: Share) -> None:
            tile = spec.transforms.tile(self.rooms, width, self.buffers.w, short=share.short)
            tile.transform_rows(
                lambda i, j: load(self.buffers.x, spec.input.address((numbers[0], 0, *share.at(i, j), channel)), width)
            )
            first = T.bind((self.vector * (spec.phases.count * width) + share.place) * (spec.spectrum // width))
            with T.serial(0, tile.columns) as k:
                self._times_weights(tile, k, first, add=not alone)
                if alone:
                    tile.restore_column(k, self._column(0))

        walk_phases(spec.phases, starts, width, spec.lanes, forward)
        if not alone:
            with T.serial(0, whole.columns) as k:
                whole.restore_column(k, self._column(k))
        bias = self.buffers.bias_at(channel, width)

        def write(i: Index, j: Index, value: ir.Expr, unless: ir.Expr | None) -> None:
            skipped = any_of(unless, spec.tiling.elsewhere(numbers, (i, j)))
            coordinates = (numbers[0], 0, starts[0] + i, starts[1] + j, channel)
            write_output(spec, self.buffers, value, coordinates, width, bias=bias, unless=skipped)

        whole.restore_rows(write)

    def _times_weights(self, tile: Tile, k: Index, first: Index, *, add: bool) -> None:
        """Column k of a spectrum, times its weights from `first` on: the only one of the room, or added to its k-th."""
        spec, width = self.spec, self.spec.width
        base = T.bind(first + k * (spec.axes[0].size * 2 * width))

        def multiplied(u: Index, value: Complex) -> None:
            re, im = (T.bind(load(self.buffers.w, base + u * (2 * width) + part * width, width)) for part in (0, 1))
            for part, result in enumerate(times(value, (re, im))):
                at = self._place(k if add else 0, u, part)
                store(self.room, at, load(self.room, at, width) + result if add else result, width)

        tile.transform_column(k, multiplied)

    def _column(self, k: Index) -> Callable[[Index], Complex]:
        """What lies in a column of the room."""

        def read(u: Index) -> Complex:
            re, im = (load(self.room, self._place(k, u, part), self.spec.width) for part in (0, 1))
            return re, im

        return read

    def _place(self, k: Index, u: Index, part: int) -> Index:
        return ((k * self.spec.axes[0].size + u) * 2 + part) * self.spec.lanes
