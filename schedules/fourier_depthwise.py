"""Depthwise convolution between Fourier transforms: nothing is summed over channels, so a tile of one vector of them
stays in cache through all of it.

    before:  Y[n, p, c] = f(sum over taps t of X[n, p + t, c] * W[t, c])
    after:   for each tile and vector of channels, in parallel:
                 spectra of the rows;  for each column:  DFT, times U, inverse DFT;  rows back, Y = f(.)
"""

from dataclasses import dataclass
from math import prod

import numpy as np
from numpy.typing import NDArray
from tvm import ir, tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from lowprec.fourier import Segment, frequencies, transform_weights
from lowprec.schedules.blocks import Tiling
from lowprec.schedules.buffers import Buffers, Frame, begin_kernel, write_output
from lowprec.schedules.dft import Complex, times
from lowprec.schedules.fourier_tile import Transforms
from lowprec.schedules.tasks import any_of, decode, start_of
from lowprec.schedules.tiling import ceil_div
from lowprec.schedules.views import Index, load, store


@dataclass(frozen=True, slots=True, kw_only=True)
class FourierDepthwise(Frame):
    """One kernel, whole."""

    batch: int
    channels: int
    size: tuple[int, int]
    axes: tuple[Segment, Segment]

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
    def weights(self) -> int:
        """Elements of U: [vector][frequency][re, im][channel]."""
        return self.vectors * frequencies(*self.axes) * 2 * self.width

    @property
    def transforms(self) -> Transforms:
        return Transforms(axes=self.axes, lanes=self.lanes, weights=self.weights)


def pack_fourier_depthwise(weights: NDArray[np.float32], kernel: FourierDepthwise) -> NDArray[np.float32]:
    """[C, 1, taps...] -> U, and the roots of unity; the last vector overlaps its neighbour."""
    high, wide = kernel.axes
    spectrum = transform_weights(weights.reshape(kernel.channels, 1, high.taps, wide.taps), high, wide)
    planes = spectrum.astype(np.complex64).reshape(kernel.channels, -1)
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
            _tile(spec, buffers, vector, number)
    return builder.get()


def _tile(spec: FourierDepthwise, buffers: Buffers, vector: Index, number: Index) -> None:
    high, _ = spec.axes
    width = spec.width
    room = T.alloc_buffer((high.size * 2 * spec.lanes,), "float32", scope="global")
    tile = spec.transforms.tile(spec.transforms.rooms(), width, buffers.w)
    numbers, (h, w) = spec.tiling.at(number)
    channel = start_of(vector, width, spec.channels)
    tile.transform_rows(lambda i, j: load(buffers.x, spec.input.address((numbers[0], 0, h + i, w + j, channel)), width))
    with T.serial(0, tile.columns) as k:
        base = T.bind((vector * tile.columns + k) * (high.size * 2 * width))

        def multiplied(u: Index, value: Complex) -> None:
            factor = (load(buffers.w, base + u * (2 * width) + part * width, width) for part in (0, 1))
            re, im = factor
            for part, result in enumerate(times(value, (T.bind(re), T.bind(im)))):
                store(room, (u * 2 + part) * spec.lanes, result, width)

        tile.transform_column(k, multiplied)
        tile.restore_column(
            k, lambda u: (load(room, u * 2 * spec.lanes, width), load(room, (u * 2 + 1) * spec.lanes, width))
        )
    bias = buffers.bias_at(channel, width)

    def write(i: Index, j: Index, value: ir.Expr, unless: ir.Expr | None) -> None:
        skipped = any_of(unless, spec.tiling.elsewhere(numbers, (i, j)))
        coordinates = (numbers[0], 0, h + i, w + j, channel)
        write_output(spec, buffers, value, coordinates, width, bias=bias, unless=skipped)

    tile.restore_rows(write)
