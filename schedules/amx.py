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

Numbers of float16 are x = h + l, both of bfloat16: h the nearest, l the rest, exactly; and so are weights. They are
taken apart first, and a sum is of hh, lh and hl; ll, at most 2^-16 of a product, is left out.

Numbers of 16 bits are x = 256 h + l, h signed and l not, and so are weights: h and l are taken apart first, and four
tiles of C sum the products of each with each. A sum is (256 hh + hl + lh) 256 + ll + bias, exact in float64.
"""

from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lowprec.schedules.amx_tiles import ROWS
from lowprec.schedules.arithmetic import BFLOAT, BITS
from lowprec.schedules.direct import Grouped, packed_columns
from lowprec.schedules.geometry import Geometry
from lowprec.schedules.packs import Packs
from lowprec.schedules.tiling import ceil_div
from lowprec.schedules.views import FLOAT, UPPER_HALVES, View
from lowprec.tiles import LANES, ROW_BYTES, WORD_BYTES, row_depth

CHAINS = 8
"""Vectors that go through the epilogue together, half as many where each is made of several sums, and half of that
where random words are drawn besides: one's steps wait for each other. More would keep tiles waiting: the processor
looks only so many instructions ahead."""

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

    @property
    def overlap(self) -> bool:
        """Whether the last tile has rows of the one before."""
        return self.tiles * self.rows > self.length


@dataclass(frozen=True, slots=True, kw_only=True)
class Amx(Grouped):
    """One kernel, whole. `flat`: tiles go on from line to line of an image; `merged`: a row of taps is one row of
    channels; `halves`: floats are bfloat16 numbers, or `twofold`, those of float16; `split`: numbers have 16 bits. A
    task computes `share` grids of pixels for each of a `block` of panels; each of as many threads as there are `shares`
    does so for all panels of its own pixels. `once`: what tiles have again is not written again. `packs`: the
    epilogue's end, where codes are made of several vectors at once."""

    bias: bool
    flat: bool
    merged: bool
    halves: bool
    split: bool
    twofold: bool
    grid: Grid
    block: int
    share: int
    shares: int = 1
    once: bool = False
    packs: Packs | None = None

    @property
    def may_overwrite(self) -> bool:
        """Whether it can write each element once, and read it no more: channels must come out even."""
        return self.out_channels % self.panel == 0

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
        """Of taps and blocks of channels: each multiplies tiles of pixels by tiles of weights, or parts of both."""
        return prod(self.taps) * self.blocks

    @property
    def stored(self) -> int:
        """Tiles of weights for one sum."""
        return self.steps * (2 if self.twofold else 1)

    @property
    def block_bytes(self) -> int:
        """Of a block's weights, or of one part of those."""
        return self.block * self.steps * self.grid.wide * self.tile_bytes

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
    def tasks(self) -> int:
        """Those that have all grids, for one block of panels."""
        return ceil_div(self.grids, self.share)

    @property
    def skips(self) -> bool:
        """Whether there are rows that are not written."""
        again = self.grids % self.share or self.tiles % self.grid.high or self.line.overlap
        return self.line.width < self.line.pitch or (self.once and again > 0)

    @property
    def pixels(self) -> int:
        """Of a grid."""
        return self.grid.high * self.line.rows

    @property
    def bundle(self) -> int:
        """Rows that go through the epilogue together."""
        apart = 2 if self.epilogue.draws else 1
        return min(self.pixels, max(1, CHAINS // (self.grid.wide * self.parts * apart)))

    @property
    def tile_bytes(self) -> int:
        """Of B."""
        return self.depth * self.item // WORD_BYTES * ROW_BYTES

    @property
    def packed_shape(self) -> tuple[int, ...]:
        """[part][group][panel][tap and block of channels][vector][a tile's bytes], parts only where they are two."""
        shape = (self.groups, self.panels, self.steps, self.grid.wide, self.tile_bytes // self.item)
        return (2, *shape) if self.twofold else shape

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
    if kernel.twofold:
        weights = weights + np.float32(0)  # no zeros with a minus, which parts do not add up to
        high = weights.astype(BFLOAT).astype(np.float32)
        return [np.stack([_packed(high, kernel), _packed(weights - high, kernel)])]
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
    return np.ascontiguousarray(split.transpose(0, 1, 4, 2, 5, 3, 6)).reshape(kernel.packed_shape[-5:])
