"""Direct convolution and matrix product: one register-blocked kernel for both, as data. Its code is in `microkernel`.

    before:  Y[n, p, k] = f(sum over taps t and channels c of X[n, p * stride + t * dilation, c] * W[t, c, k])
    after:   for each tile of `rows` neighbouring pixels and `vectors` vectors of output channels, in parallel:
                 accumulators = bias
                 for tap, channel:  weights = load;  for each pixel: accumulator += broadcast(X) * weights
                 Y = epilogue(accumulators)

A matrix product is the same with one tap and pixels for rows. Channels are innermost and contiguous in X (any stride
will do: they are broadcast) and in Y. Extents that the tile does not divide are handled by overlap: the last tile
starts earlier and computes some elements again, to the same bits.

In a network the weights come from memory, which is slower than the multipliers: while the tiles that share some weights
are computed, those that follow in memory are prefetched, a little at each step. The order of the tiles, and how many
share weights, is the kernel's `Walk`.
"""

from dataclasses import dataclass, fields
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lowprec.schedules.arithmetic import FLOATS, Arithmetic
from lowprec.schedules.epilogue import Epilogue
from lowprec.schedules.geometry import Geometry
from lowprec.schedules.halo import Halo
from lowprec.schedules.tasks import start_of
from lowprec.schedules.tiling import Tile, ceil_div
from lowprec.schedules.views import Index, View
from lowprec.schedules.walks import Walk


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedWeights:
    """Weights as panels [group][panel][stream][chunk][tap d][tap h][tap w][word of the chunk][vectors * lanes], vectors
    of a stream; those of a word lie as its arithmetic has them."""

    bias: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class StridedWeights:
    """A row-major right-hand side of a matrix product, [n][channel][output channel], read where it lies."""

    view: View
    channel_stride: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Grouped:
    """What is computed group by group, before it is known how: geometry per group, views and epilogue.

    Channels of `all_channels`, in and out, that the groups do not divide are handled by overlap of the last group.
    """

    batch: int
    groups: int
    all_channels: tuple[int, int]
    in_channels: int
    out_channels: int
    geometry: Geometry
    input: View
    output: View
    halo: Halo | None
    epilogue: Epilogue

    def given(self) -> dict[str, Any]:
        """All this, to be given to a kernel that is known by more."""
        return {field.name: getattr(self, field.name) for field in fields(Grouped)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Direct(Grouped):
    """One kernel, whole, with its tile."""

    weights: PackedWeights | StridedWeights
    lanes: int
    tile: Tile
    walk: Walk
    arithmetic: Arithmetic = FLOATS
    streams: int = 1
    """Parts of a panel, each of which lies together: memory is read faster at several places at once."""
    shares: int = 1
    """Parts of the pixels, for each thread its own: all else a thread does for one part before the next."""
    once: bool = False
    """What tiles and panels have again is not written again."""

    @property
    def may_overwrite(self) -> bool:
        """Whether it can write each element once, and read it no more: vectors of channels must come out even."""
        return self.out_channels % self.lanes == 0

    @property
    def panel(self) -> int:
        """Output channels computed at once."""
        return self.tile.vectors * self.lanes

    @property
    def panels(self) -> int:
        return ceil_div(self.out_channels, self.panel)

    @property
    def bias_width(self) -> int:
        """Elements of the bias that are there to be read: narrow groups are read a whole vector at a time. Split sums
        have where the high one begins behind it."""
        return (self.all_channels[1] + max(0, self.lanes - self.out_channels)) * self.arithmetic.parts

    @property
    def pixels(self) -> tuple[int, int, int, int]:
        """Extents of the tiles of pixels: images, planes, rows, tiles along a row."""
        return (self.batch, *self.geometry.size[:2], ceil_div(self.geometry.size[2], self.tile.rows))

    @property
    def share(self) -> int:
        """Runs of tiles of a share of the pixels; the last one may have fewer."""
        return ceil_div(ceil_div(prod(self.pixels), self.walk.run), self.shares)

    @property
    def words(self) -> int:
        """Words of the input channels."""
        return ceil_div(self.in_channels, self.arithmetic.word)

    @property
    def chunk(self) -> int:
        """Words of one pass."""
        return self.words // self.walk.chunks

    @property
    def kept(self) -> int:
        """Sums of a tile."""
        return self.tile.rows * self.panel * self.arithmetic.parts

    def channel(self, word: Index) -> Index:
        """The first input channel of a word: the last one overlaps its neighbour rather than run past the end."""
        count = self.arithmetic.word
        if isinstance(word, int):
            return min(word * count, self.in_channels - count)
        return start_of(word, count, self.in_channels)

    @property
    def packed_shape(self) -> tuple[int, ...]:
        """The extents of packed weights."""
        *outer, panel = self.lane_shape
        return (*outer, panel * (self.arithmetic.lane_bytes // np.dtype(self.arithmetic.weights).itemsize))

    @property
    def lane_shape(self) -> tuple[int, ...]:
        """Extents in lanes."""
        each = self.panel // self.streams
        return (self.groups, self.panels, self.streams, self.walk.chunks, *self.geometry.kernel, self.chunk, each)


def panel_starts(out_channels: int, panel: int) -> list[int]:
    """First output channel of each panel: the last one overlaps its neighbour rather than run past the end."""
    return [max(0, min(start, out_channels - panel)) for start in range(0, out_channels, panel)]


def vector_starts(out_channels: int, panel: int, lanes: int) -> list[int]:
    """First channel of each vector within a panel; within a panel wider than the layer the vectors overlap."""
    width = min(out_channels, panel)
    return [max(0, min(start, width - lanes)) for start in range(0, panel, lanes)]


def packed_columns(out_channels: int, panel: int, lanes: int) -> NDArray[np.int64]:
    """The output channels of all panels, vector by vector."""
    columns = [
        np.arange(start + offset, start + offset + lanes)
        for start in panel_starts(out_channels, panel)
        for offset in vector_starts(out_channels, panel, lanes)
    ]
    return np.concatenate(columns)


def pack_weights(weights: NDArray[np.generic], kernel: Direct) -> NDArray[np.generic]:
    """[groups * K, C, taps...] -> the kernel's packed shape, vectors in the order the kernel loads them.

    Panels that would run past the last channel repeat earlier ones, as `panel_starts` has it; a layer narrower than a
    vector is filled up with zeros.
    """
    groups, panel, lanes, per_group = kernel.groups, kernel.panel, kernel.lanes, kernel.out_channels
    taps, chunks, arithmetic = kernel.geometry.taps, kernel.walk.chunks, kernel.arithmetic
    split = _in_words(weights.reshape(groups, per_group, kernel.in_channels, taps), kernel)
    grouped = split.reshape(groups, per_group, chunks, kernel.chunk, arithmetic.word, taps).transpose(0, 2, 5, 3, 4, 1)
    if per_group < lanes:
        grouped = np.pad(grouped, ((0, 0),) * 5 + ((0, lanes - per_group),))
    columns = packed_columns(per_group, panel, lanes)
    panels = (kernel.panels, kernel.streams, panel // kernel.streams)
    packed = grouped[..., columns].reshape(groups, chunks, taps, kernel.chunk, arithmetic.word, *panels)
    return arithmetic.pack(packed.transpose(0, 5, 6, 1, 2, 3, 4, 7), lanes).reshape(kernel.packed_shape)


def _in_words(weights: NDArray[np.generic], kernel: Direct) -> NDArray[np.generic]:
    """[group][K][C][tap] -> [group][K][words * channels of a word][tap]: zero where the last word repeats a channel."""
    word = kernel.arithmetic.word
    places = [kernel.channel(index) for index in range(kernel.words)]
    repeated = word * kernel.words - kernel.in_channels
    columns = np.concatenate([np.arange(place, place + word) for place in places])
    split = weights[:, :, columns]
    if repeated:
        split[:, :, -word : repeated - word] = 0
    return split
