"""The order in which a kernel computes its tiles, chosen so that weights are waited for as little as possible.

A tile reads the weights of its panel from wherever they are. Three orders:

- plain: panel after panel, for each one all pixels. The panel stays in L2, the next one is prefetched meanwhile.
- in blocks: several panels for each tile of pixels before the next tile. Wins where the pixels are the larger part and
  would not stay in cache between two panels: they are read once, and results leave in long runs.
- in chunks: few pixels and many weights. The tile is then low, so that it wants weights faster than L2 gives them; a
  chunk of the input channels is passed over a run of tiles while it stays in L1, sums being kept in between.
"""

from dataclasses import dataclass

from lowprec.schedules.tiling import Tile, Workload, ceil_div, divisors, equal_parts
from lowprec.schedules.views import FLOAT_BYTES

LOW_TILE = 8
"""Rows up to which a tile wants weights faster than L2 gives them."""

L1_SHARE = 40 << 10
"""Bytes of a chunk for low tiles: what of L1 the weights may take."""

L2_SHARE = 640 << 10
"""Bytes of weights that stay in L2 together with the next ones and the pixels."""

KEPT_BYTES = 32 << 10
"""The most sums kept between chunks."""

L2_BYTES = 2 << 20
"""Activations beyond this do not stay in L2."""

SHALLOW = 128
"""Products a result up to which writing results is the larger part of the work."""

FOREIGN = 4
"""Bytes of weights, which are fetched ahead, that take about as long as one of pixels from another core's cache."""

LEAST_SHARE = 4
"""Tiles, or grids of them, that a thread has at least where each has pixels of its own: shares are about equal then."""

LEAST_CHUNK = 16
"""Input channels a chunk has at least: fewer do not pay for keeping the sums."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Walk:
    """`block` panels for each tile of pixels; or input channels in `chunks`, each over a `run` of tiles."""

    block: int = 1
    chunks: int = 1
    run: int = 1


def has_own_pixels(*, count: int, weights: int, pixels: int, threads: int) -> bool:
    """Whether each thread is better off with pixels of its own, of `count` tiles, and all weights: it finds the pixels
    that it has made itself in its own cache. Of both so many bytes are read."""
    return threads > 1 and count >= LEAST_SHARE * threads and weights <= FOREIGN * pixels


def choose_walk(work: Workload, tile: Tile, *, lanes: int) -> Walk:
    """The order for a kernel with packed weights."""
    width = tile.vectors * lanes
    panels, tiles = ceil_div(work.columns, width), work.lines * ceil_div(work.pixels, tile.rows)
    panel_bytes = width * work.taps * work.channels * FLOAT_BYTES
    if tiles > 1 and tiles * tile.rows * width * FLOAT_BYTES <= KEPT_BYTES:
        share = L1_SHARE if tile.rows <= LOW_TILE else L2_SHARE
        chunks = equal_parts(work.channels, ceil_div(panel_bytes, share), least=LEAST_CHUNK)
        if chunks > 1:
            return Walk(chunks=chunks, run=tiles)
    if work.taps * work.channels <= SHALLOW or work.activations > L2_BYTES:
        fitting = (count for count in divisors(panels) if count * panel_bytes <= L2_SHARE)
        return Walk(block=max(fitting, default=1))
    return Walk()
