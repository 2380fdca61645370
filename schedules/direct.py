"""Direct convolution and matrix product: one register-blocked kernel for both.

    before:  Y[n, p, k] = f(sum over taps t and channels c of X[n, p * stride + t * dilation, c] * W[t, c, k])
    after:   for each tile of `rows` neighbouring pixels and `vectors` vectors of output channels, in parallel:
                 accumulators = bias
                 for tap, channel:  weights = load;  for each pixel: accumulator += broadcast(X) * weights
                 Y = epilogue(accumulators)

A matrix product is the same with one tap and pixels for rows. Channels are innermost and contiguous in X (any stride
will do: they are broadcast) and in Y. Extents that the tile does not divide are handled by overlap: the last tile
starts earlier and computes some elements again, to the same bits.
"""

from dataclasses import dataclass
from math import prod

import numpy as np
from numpy.typing import NDArray
from tvm import ir, tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from lowprec.schedules.epilogue import Epilogue
from lowprec.schedules.halo import Halo, fill_halo
from lowprec.schedules.tiling import Tile, ceil_div
from lowprec.schedules.views import Index, View, load, register, row_major, splat, store

Triple = tuple[int, int, int]
UNROLL = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedWeights:
    """Weights as panels [group][panel][tap d][tap h][tap w][channel][vectors * lanes]."""

    bias: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class StridedWeights:
    """A row-major right-hand side of a matrix product, [n][channel][output channel], read where it lies."""

    view: View
    channel_stride: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Direct:
    """One kernel, whole: geometry per group, views, tile and epilogue."""

    batch: int
    groups: int
    in_channels: int
    out_channels: int
    size: Triple
    kernel: Triple
    stride: Triple
    dilation: Triple
    input: View
    output: View
    halo: Halo | None
    weights: PackedWeights | StridedWeights
    epilogue: Epilogue
    lanes: int
    tile: Tile

    @property
    def panel(self) -> int:
        """Output channels computed at once."""
        return self.tile.vectors * self.lanes

    @property
    def panels(self) -> int:
        return ceil_div(self.out_channels, self.panel)


def panel_starts(out_channels: int, panel: int) -> list[int]:
    """First output channel of each panel: the last one overlaps its neighbour rather than run past the end."""
    return [max(0, min(start, out_channels - panel)) for start in range(0, out_channels, panel)]


def vector_starts(out_channels: int, panel: int, lanes: int) -> list[int]:
    """First channel of each vector within a panel; within a panel wider than the layer the vectors overlap."""
    width = min(out_channels, panel)
    return [max(0, min(start, width - lanes)) for start in range(0, panel, lanes)]


def pack_weights(weights: NDArray[np.float32], *, groups: int, panel: int, lanes: int) -> NDArray[np.float32]:
    """[groups * K, C, taps...] -> [group][panel][taps...][C][panel], vectors in the order the kernel loads them.

    Panels that would run past the last channel repeat earlier ones, as `panel_starts` has it; a layer narrower than a
    vector is filled up with zeros.
    """
    total, channels, *taps = weights.shape
    per_group = total // groups
    grouped = weights.reshape(groups, per_group, channels, prod(taps)).transpose(0, 3, 2, 1)
    if per_group < lanes:
        grouped = np.pad(grouped, ((0, 0), (0, 0), (0, 0), (0, lanes - per_group)))
    columns = [
        np.arange(start + offset, start + offset + lanes)
        for start in panel_starts(per_group, panel)
        for offset in vector_starts(per_group, panel, lanes)
    ]
    packed = grouped[..., np.concatenate(columns)].reshape(groups, prod(taps), channels, -1, panel)
    packed = np.ascontiguousarray(packed.transpose(0, 3, 1, 2, 4))
    return packed.reshape(groups, -1, *taps, channels, panel)


def build_direct(spec: Direct) -> tirx.PrimFunc:
    """The kernel: arguments X, W, [bias], the epilogue's operands, Y."""
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_name("main")
        x = spec.input.buffer("X")
        w = _weights_buffer(spec)
        bias = _bias_buffer(spec)
        operands = [view.buffer(f"E{i}") for i, view in enumerate(spec.epilogue.operands)]
        y = spec.output.buffer("Y")
        T.func_attr({"tirx.noalias": True, "global_symbol": "main"})
        if spec.halo is not None:
            fill_halo(y, spec.halo, spec.lanes)
        _tiles(spec, x, w, bias, operands, y)
    return builder.get()


def _weights_buffer(spec: Direct) -> tirx.Buffer:
    match spec.weights:
        case PackedWeights():
            shape = (spec.groups, spec.panels, *spec.kernel, spec.in_channels, spec.panel)
            return T.arg("W", T.buffer(shape, "float32"))
        case StridedWeights(view=view):
            return view.buffer("W")


def _bias_buffer(spec: Direct) -> tirx.Buffer | None:
    if isinstance(spec.weights, PackedWeights) and spec.weights.bias:
        width = max(spec.lanes, spec.out_channels) if spec.groups == 1 else spec.groups * spec.out_channels
        return T.arg("B", T.buffer((width,), "float32"))
    return None


def _tiles(
    spec: Direct,
    x: tirx.Buffer,
    w: tirx.Buffer,
    bias: tirx.Buffer | None,
    operands: list[tirx.Buffer],
    y: tirx.Buffer,
) -> None:
    rows, pixels = spec.tile.rows, spec.size[2]
    extents = (spec.batch, spec.groups, spec.panels, spec.size[0], spec.size[1], ceil_div(pixels, rows))
    with T.parallel(0, prod(extents)) as task:
        n, group, panel, d, h, tile = decode(task, extents)
        first = start_of(tile, rows, pixels)
        base = group * spec.out_channels + start_of(panel, spec.panel, spec.out_channels)
        accumulators = [[register(spec.lanes) for _ in range(spec.tile.vectors)] for _ in range(rows)]
        kernel = _Micro(
            spec=spec, n=n, group=group, panel=panel, base=base, row=(d, h, first), accumulators=accumulators
        )
        kernel.start(bias)
        kernel.accumulate(x, w)
        kernel.finish(operands, y)


def decode(task: ir.Expr, extents: tuple[int, ...]) -> list[Index]:
    """Coordinates of a task; the last extent varies fastest. Extents of one cost nothing."""
    strides = row_major(extents)
    return [
        0 if extent == 1 else T.bind(tirx.floormod(tirx.floordiv(task, stride), extent))
        for extent, stride in zip(extents, strides, strict=True)
    ]


def start_of(index: Index, width: int, extent: int) -> Index:
    """Where block `index` begins, so that it ends inside `extent`."""
    if extent <= width:
        return 0
    return index * width if extent % width == 0 else T.bind(tirx.min(index * width, extent - width))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Micro:
    """The code of one tile, at symbolic coordinates."""

    spec: Direct
    n: Index
    group: Index
    panel: Index
    base: Index
    row: tuple[Index, Index, Index]
    accumulators: list[list[tirx.Buffer]]

    @property
    def vectors(self) -> list[int]:
        return vector_starts(self.spec.out_channels, self.spec.panel, self.spec.lanes)

    def start(self, bias: tirx.Buffer | None) -> None:
        lanes = self.spec.lanes
        zero = splat(tirx.const(0.0, "float32"), lanes)
        first = [zero if bias is None else T.bind(load(bias, self.base + at, lanes)) for at in self.vectors]
        for row in self.accumulators:
            for value, accumulator in zip(first, row, strict=True):
                store(accumulator, 0, value, lanes)

    def accumulate(self, x: tirx.Buffer, w: tirx.Buffer) -> None:
        spec = self.spec
        step = min(UNROLL, spec.in_channels)
        whole = spec.in_channels // step
        with T.serial(0, spec.kernel[0]) as r, T.serial(0, spec.kernel[1]) as s, T.serial(0, spec.kernel[2]) as t:
            with T.serial(0, whole) as block:
                for u in range(step):
                    self._channel(x, w, (r, s, t), block * step + u)
            for channel in range(whole * step, spec.in_channels):
                self._channel(x, w, (r, s, t), channel)

    def _channel(self, x: tirx.Buffer, w: tirx.Buffer, tap: tuple[Index, Index, Index], channel: Index) -> None:
        lanes = self.spec.lanes
        weights = [T.bind(load(w, self._weight(tap, channel, j), lanes)) for j in range(self.spec.tile.vectors)]
        for i, row in enumerate(self.accumulators):
            value = T.bind(splat(load(x, self._pixel(tap, channel, i), 1), lanes))
            for accumulator, weight in zip(row, weights, strict=True):
                store(accumulator, 0, load(accumulator, 0, lanes) + value * weight, lanes)

    def _pixel(self, tap: tuple[Index, Index, Index], channel: Index, i: int) -> Index:
        spec = self.spec
        d, h, w = (
            (position + offset) * stride + index * dilation
            for position, offset, stride, index, dilation in zip(
                self.row, (0, 0, i), spec.stride, tap, spec.dilation, strict=True
            )
        )
        return spec.input.address((self.n, d, h, w, self.group * spec.in_channels + channel))

    def _weight(self, tap: tuple[Index, Index, Index], channel: Index, j: int) -> Index:
        spec = self.spec
        match spec.weights:
            case PackedWeights():
                shape = (spec.groups, spec.panels, *spec.kernel, spec.in_channels, spec.panel)
                indices = (self.group, self.panel, *tap, channel, j * spec.lanes)
                return sum(index * stride for index, stride in zip(indices, row_major(shape), strict=True))
            case StridedWeights(view=view, channel_stride=stride):
                return view.address((self.n, *self.row[:2], 0, self.base + self.vectors[j])) + channel * stride

    def finish(self, operands: list[tirx.Buffer], y: tirx.Buffer) -> None:
        spec = self.spec
        width = min(spec.lanes, spec.out_channels)
        d, h, first = self.row
        for i, row in enumerate(self.accumulators):
            for accumulator, at in zip(row, self.vectors, strict=True):
                coordinates = (self.n, d, h, first + i, self.base + at)
                value = spec.epilogue.apply(load(accumulator, 0, width), operands, coordinates, width)
                store(y, spec.output.address(coordinates), value, width)
