"""Which products fill the tiles of AMX well enough to be computed on them; see `schedules.amx`.

A tile's row holds 64 bytes of one pixel's channels, in words of four. A row of taps whose channels lie side by side is
one row of channels.
"""

from dataclasses import dataclass
from math import ceil, prod

from lowprec.convolution import Conv
from lowprec.targets import Target

ROW_BYTES = 64
WORD_BYTES = 4
"""Of channels that one product takes: a row of a tile of weights has as many for each of its columns."""
LANES = 16
"""Columns of a tile of sums."""
TERMS = 3
"""Products of bfloat16 in one of float16: of higher and lower parts, but for lower ones with each other."""
LEAST_SHARE = {1: 0.16, 2: 0.3}
"""Of the bytes of tiles, that are to be channels, for numbers of so many bytes: below it others are as fast."""
STEP, REST, CROSSING = 24.0, 100.0, 130.0
"""Cycles that a tile of sums takes: a product of tiles, with tiles loaded; all around them; and what there is more if
rows of a group, of several tiles, begin anywhere in a line of memory."""
ON_VECTORS = {1: 2.0, 2: 8.0}
"""Cycles that as many sums take on vectors for each product, of numbers of so many bytes."""
LEAST_PIXELS = 4
LEAST_PRODUCTS = 8192
"""Of a pixel in float16: fewer do not make up for taking numbers apart."""
DEEPEST = (1 << 31) // (2 * 128 * 255)
"""Products of a signed byte and an unsigned one, twice as many, that 32 bits sum."""
LEFT_OUT = {"bf16": 0.0, "fp16": 2.8e-6}
"""Of a sum, in the root mean square: the products that are not summed, for numbers that know nothing of each other."""
TIMES_FASTER = {"bf16": 8.0, "fp16": 3.0}
"""Than multiply-adds of float32, for products of a format, with everything around them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """A product's shape: `channels` of a group, in and out, a row of `taps` of which is taken at once, for `pixels`."""

    groups: int
    channels: tuple[int, int]
    taps: int
    pixels: int

    @property
    def row(self) -> int:
        """Channels that lie side by side."""
        return self.channels[0] * self.taps

    def fill_tiles(self, item: int) -> bool:
        """Whether they do, of numbers of `item` bytes."""
        if self.row * item < WORD_BYTES or (self.groups > 1 and self.channels[1] < LANES) or self.pixels < LEAST_PIXELS:
            return False
        blocks = ceil(self.row / row_depth(self.row, item))
        return self.row * item >= LEAST_SHARE[item] * blocks * ROW_BYTES

    def beat_vectors(self, item: int, depth: int) -> bool:
        """Whether tiles that are filled are faster than vectors, with `depth` products in a sum."""
        size = self.row * item
        steps = ceil(size / ROW_BYTES) * depth // self.row
        crossing = self.groups > 1 and size > ROW_BYTES and size % ROW_BYTES > 0
        return STEP * steps + REST + CROSSING * crossing <= ON_VECTORS[item] * depth

    def fill_tiles_thrice(self, depth: int) -> bool:
        """Whether numbers of float16 do, with `depth` products in a sum: so well that three for one are as fast as
        products of float32."""
        whole = self.groups == 1 and 2 * self.row >= ROW_BYTES
        return whole and self.fill_tiles(2) and depth * self.channels[1] >= LEAST_PRODUCTS


def row_depth(row: int, item: int) -> int:
    """How many of a row of channels one row of a tile takes: whole words."""
    word = WORD_BYTES // item
    return min(row, ROW_BYTES // item) // word * word


def joins_taps(groups: int, dilation: int) -> bool:
    """Whether the channels of a row of taps lie side by side."""
    return groups == 1 and dilation == 1


def rows_of(conv: Conv) -> Rows:
    """Those of a convolution."""
    return Rows(
        groups=conv.groups,
        channels=(conv.in_channels // conv.groups, conv.out_channels // conv.groups),
        taps=conv.kernel[-1] if joins_taps(conv.groups, conv.dilation[-1]) else 1,
        pixels=conv.batch * prod(conv.output_size),
    )


def multiplies_halves(rows: Rows, depth: int, name: str, target: Target) -> bool:
    """Whether a product of bf16 or fp16 is computed on tiles; `depth` are the products of one sum."""
    if name not in TIMES_FASTER or not target.has("amx_bf16") or target.lanes != LANES:
        return False
    return rows.fill_tiles_thrice(depth) if name == "fp16" else rows.fill_tiles(2) and rows.beat_vectors(2, depth)


def multiplies_integers(rows: Rows, depth: int, words: tuple[str, str], target: Target) -> bool:
    """Whether a product of integers, `words` being its weights' type and its pixels', is computed on tiles; `depth` are
    the products of one sum."""
    if not target.has("amx_int8") or target.lanes != LANES or not rows.fill_tiles(1):
        return False
    weights, pixels = words
    if pixels == "int16":
        return depth <= DEEPEST
    return pixels in ("int8", "uint8") and weights == "int8" and rows.beat_vectors(1, depth)
