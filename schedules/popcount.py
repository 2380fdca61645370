"""Convolution of signs: activations and weights are -1 or +1, 32 of them a word.

    before:  Y[n, p, k] = f(sum over taps t and channels c of s(X[n, p * stride + t * dilation, c]) * S[t, c, k])
             s(x) = 1 if x >= 0, else -1; outside of the image 0
    after:   for each row of pixels, in parallel:   B[n, h, w, word] = bits, 1 for -1
             for each tile of pixels and panel of output channels, in parallel:
                 count = sum over t and words of popcount((B ^ W) & M)            M: all ones inside the image, else 0
                 Y = f(N - 2 * count)                                             N: products that are inside

A word that channels do not fill has zeros on both sides, which count nothing.
"""

from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tvm import ir, tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from lowprec.schedules.buffers import Buffers, Frame, begin_kernel
from lowprec.schedules.direct import packed_columns, vector_starts
from lowprec.schedules.geometry import Geometry, Triple
from lowprec.schedules.tasks import decode, start_of
from lowprec.schedules.tiling import Tile, ceil_div
from lowprec.schedules.views import INTEGERS, Index, load, named, register, splat, store, zeros

WORD = 32
"""Signs of a word."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Popcount(Frame):
    """One kernel, whole; the source has no border: `begin` are the pixels of padding before it along each axis, and
    `padded` the extents with padding."""

    batch: int
    in_channels: int
    out_channels: int
    geometry: Geometry
    size: Triple
    begin: Triple
    padded: Triple
    tile: Tile

    @property
    def words(self) -> int:
        """Of a pixel."""
        return ceil_div(self.in_channels, WORD)

    @property
    def panel(self) -> int:
        """Output channels computed at once."""
        return self.tile.vectors * self.lanes

    @property
    def panels(self) -> int:
        return ceil_div(self.out_channels, self.panel)

    @property
    def bias_width(self) -> int:
        return self.out_channels

    @property
    def is_padded(self) -> bool:
        return self.size != self.padded

    @property
    def weights(self) -> int:
        """Words of packed weights: [panel][tap][word][vectors * lanes]."""
        return self.panels * self.geometry.taps * self.words * self.panel

    @property
    def tables(self) -> tuple[int, int]:
        """Where M of every padded pixel begins, behind the weights, and N of every result."""
        return self.weights, self.weights + prod(self.padded)

    @property
    def elements(self) -> int:
        """Of W, with its tables."""
        return self.tables[1] + prod(self.geometry.size) if self.is_padded else self.weights


def pack_popcount(weights: NDArray[Any], kernel: Popcount) -> NDArray[np.int32]:
    """[K, C, taps...] of any numbers but zeros -> W: their signs, and the tables."""
    out, taps, lanes = kernel.out_channels, kernel.geometry.taps, kernel.lanes
    bits = (weights.reshape(out, kernel.in_channels, taps) < 0).transpose(2, 1, 0)
    bits = np.pad(bits, ((0, 0), (0, kernel.words * WORD - kernel.in_channels), (0, max(0, lanes - out))))
    split = bits.reshape(taps, kernel.words, WORD, -1).astype(np.uint32)
    words = (split << np.arange(WORD, dtype=np.uint32)[:, None]).sum(axis=2, dtype=np.uint32)
    panels = words[..., packed_columns(out, kernel.panel, lanes)].reshape(taps, kernel.words, -1, kernel.panel)
    packed = panels.transpose(2, 0, 1, 3).reshape(-1).view(np.int32)
    return np.concatenate([packed, *_tables(kernel)]) if kernel.is_padded else np.ascontiguousarray(packed)


def _tables(kernel: Popcount) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """M and N."""
    geometry = kernel.geometry
    inside = np.zeros(kernel.padded, np.int32)
    inside[tuple(slice(b, b + n) for b, n in zip(kernel.begin, kernel.size, strict=True))] = 1
    seen = np.zeros(geometry.size, np.int64)
    for tap in np.ndindex(*geometry.kernel):
        axes = zip(tap, geometry.dilation, geometry.stride, geometry.size, strict=True)
        places = [t * dilation + np.arange(count) * stride for t, dilation, stride, count in axes]
        seen += inside[np.ix_(*places)]
    return -inside.reshape(-1), (seen * kernel.in_channels).astype(np.int32).reshape(-1)


def build_popcount(spec: Popcount) -> tirx.PrimFunc:
    """The kernel: arguments X, W, the epilogue's operands, Y."""
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        buffers = begin_kernel(spec, weights=(spec.elements,), bias=False, packed=INTEGERS)
        bits = T.alloc_buffer((spec.batch * prod(spec.padded) * spec.words,), INTEGERS, scope="global")
        _pack_rows(spec, buffers, bits)
        _tiles(spec, buffers, bits)
    return builder.get()


def _pack_rows(spec: Popcount, buffers: Buffers, bits: tirx.Buffer) -> None:
    """B, row by row."""
    depth, height, width = spec.size
    extents = (spec.batch, depth, height)
    with T.parallel(0, prod(extents)) as task:
        n, d, h = decode(task, extents)
        row = T.bind(_pixel(spec, n, d, h, 0) * spec.words)
        with T.serial(0, width) as w:
            for word in range(spec.words):
                first, last = word * WORD, min((word + 1) * WORD, spec.in_channels)
                value = _word(spec, buffers.x, (n, d, h, w), first, last)
                store(bits, row + w * spec.words + word, value, 1)


def _pixel(spec: Popcount, n: Index, d: Index, h: Index, w: Index) -> Index:
    """The number of a pixel of the image among the padded ones."""
    _, height, width = spec.padded
    (d0, h0, w0), depth = spec.begin, spec.padded[0]
    return ((n * depth + d + d0) * height + h + h0) * width + w + w0


def _word(spec: Popcount, x: tirx.Buffer, at: tuple[Index, ...], first: int, last: int) -> ir.Expr:
    """The signs of some channels as bits, the first one lowest: vectors of lanes, each folded in halves."""
    total: ir.Expr = tirx.const(0, INTEGERS)
    channel = first
    while channel < last:
        lanes = 1 << (min(spec.lanes, last - channel).bit_length() - 1)
        value = load(x, spec.input.address((*at, channel)), lanes)
        positive = value >= splat(tirx.const(0.0, "float32"), lanes)
        places = [1 << (channel - first + lane) for lane in range(lanes)]
        total = total | _gathered(positive, places)
        channel += lanes
    return total


def _gathered(positive: ir.Expr, places: list[int]) -> ir.Expr:
    """The sum of the places of all other lanes: a NaN is not positive."""
    lanes = len(places)
    powers = [place - (1 << WORD) if place >> (WORD - 1) else place for place in places]
    if lanes == 1:
        return tirx.Select(positive, tirx.const(0, INTEGERS), tirx.const(powers[0], INTEGERS))
    ramp = tirx.Shuffle([tirx.const(power, INTEGERS) for power in powers], list(range(lanes)))
    chosen = tirx.Select(positive, splat(tirx.const(0, INTEGERS), lanes), ramp)
    return tirx.call_llvm_pure_intrin(INTEGERS, f"llvm.vector.reduce.or.v{lanes}i32", chosen)


def _tiles(spec: Popcount, buffers: Buffers, bits: tirx.Buffer) -> None:
    depth, height, width = spec.geometry.size
    rows = spec.tile.rows
    extents = (spec.panels, spec.batch, depth, height, ceil_div(width, rows))
    with T.parallel(0, prod(extents)) as task:
        panel, n, d, h, tile = decode(task, extents)
        first = start_of(tile, rows, width)
        counts = [[register(spec.lanes, INTEGERS) for _ in range(spec.tile.vectors)] for _ in range(rows)]
        for count in (count for row in counts for count in row):
            store(count, 0, zeros(spec.lanes, INTEGERS), spec.lanes)
        _count(spec, (buffers.w, bits), (panel, n, d, h, first), counts)
        _finish(spec, buffers, (panel, n, d, h, first), counts)


def _count(
    spec: Popcount, sources: tuple[tirx.Buffer, tirx.Buffer], at: tuple[Index, ...], counts: list[list[tirx.Buffer]]
) -> None:
    """Words that differ, of all taps."""
    (w, bits), (panel, n, d, h, first), geometry = sources, at, spec.geometry
    _, height, width = spec.padded
    lanes, words = spec.lanes, spec.words
    with T.grid(*geometry.kernel) as (r, s, t):
        z, y, x = geometry.seen((d, h, first), (r, s, t))
        line = T.bind(((z * height) + y) * width + x)
        place = T.bind((n * prod(spec.padded) + line) * words)
        base = T.bind((panel * geometry.taps + geometry.number((r, s, t))) * (words * spec.panel))
        step = geometry.stride[2]
        inside = [
            named(splat(load(w, spec.tables[0] + line + i * step, 1), lanes)) if spec.is_padded else None
            for i in range(spec.tile.rows)
        ]
        with T.serial(0, words) as word:
            vectors = [T.bind(load(w, base + word * spec.panel + j * lanes, lanes)) for j in range(spec.tile.vectors)]
            for i, row in enumerate(counts):
                pixel = T.bind(splat(load(bits, place + i * step * words + word, 1), lanes))
                for count, vector in zip(row, vectors, strict=True):
                    differ = pixel ^ vector
                    if inside[i] is not None:
                        differ = differ & inside[i]
                    store(count, 0, load(count, 0, lanes) + tirx.popcount(differ), lanes)


def _finish(spec: Popcount, buffers: Buffers, at: tuple[Index, ...], counts: list[list[tirx.Buffer]]) -> None:
    """N - 2 * count, through the epilogue."""
    panel, n, d, h, first = at
    _, height, width = spec.geometry.size
    wide = min(spec.lanes, spec.out_channels)
    base = start_of(panel, spec.panel, spec.out_channels)
    starts = vector_starts(spec.out_channels, spec.panel, spec.lanes)
    for i, row in enumerate(counts):
        total: ir.Expr = tirx.const(spec.in_channels * spec.geometry.taps, INTEGERS)
        if spec.is_padded:
            total = T.bind(load(buffers.w, spec.tables[1] + (d * height + h) * width + first + i, 1))
        for count, start in zip(row, starts, strict=True):
            coordinates = (n, d, h, first + i, base + start)
            value = splat(total, wide) - load(count, 0, wide) * splat(tirx.const(2, INTEGERS), wide)
            result = spec.epilogue.apply(value, buffers.operands, coordinates, wide)
            store(buffers.y, spec.output.address(coordinates), result, wide)
