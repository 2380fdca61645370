"""The register tile of a kernel: how many pixels by how many vectors are accumulated at once.

The innermost loop of a direct convolution or matrix product multiplies `rows` broadcast scalars with `vectors` weight
vectors into rows x vectors accumulators. Its cost per input channel is the largest of what the multipliers, the load
ports and the latency of a chain of multiply-adds take, and what the weights' way from L2 takes; the best tile is the
one with the least total over the layer, waste included.
"""

from dataclasses import dataclass

from lowprec.schedules.views import FLOAT_BYTES

MULTIPLIERS = 2  # fused multiply-adds a cycle, of full vectors
LOADS = 2  # loads a cycle
LATENCY = 4  # cycles from one multiply-add to the next on the same accumulator
L2_RATE = 32  # bytes a cycle that L2 really gives while L1 is busy

CHUNK_BYTES = 40 << 10
KEPT_BYTES = 32 << 10
L2_BYTES = 2 << 20
L2_SHARE = 640 << 10
FEW_ROWS = 8
SHALLOW = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class Tile:
    """`rows` pixels by `vectors` vectors of output channels."""

    rows: int
    vectors: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Walk:
    """The order in which a kernel computes its tiles.

    Many pixels: `block` panels are computed for each tile of pixels before the next, their weights staying in L2.
    Few pixels, many weights: input channels are taken in `chunks`, each one passed over a `run` of tiles of pixels
    while it stays in L1.
    """

    block: int = 1
    chunks: int = 1
    run: int = 1


def choose_tile(*, pixels: int, channels: int, lanes: int, registers: int) -> Tile:
    """The tile with the least predicted time for rows of `pixels` outputs with `channels` channels."""
    widest = ceil_div(channels, lanes)
    candidates = (
        Tile(rows=rows, vectors=vectors)
        for vectors in range(1, min(widest, 8) + 1)
        for rows in range(1, min(pixels, registers) + 1)
        if _fits(rows, vectors, registers)
    )
    return min(candidates, key=lambda tile: (_cost(tile, pixels, widest, lanes), -tile.rows * tile.vectors, tile.rows))


def choose_walk(
    *, tile: Tile, lanes: int, channels: int, columns: int, taps: int, tiles: int, activations: int
) -> Walk:
    """The order for `tiles` tiles of pixels, `channels` input channels, `columns` output channels and `taps` taps."""
    panel = tile.vectors * lanes * FLOAT_BYTES
    panels = ceil_div(columns, tile.vectors * lanes)
    weights = panel * taps * channels
    kept = tiles * tile.rows * panel
    limit = CHUNK_BYTES if tile.rows <= FEW_ROWS else L2_SHARE
    if tiles > 1 and kept <= KEPT_BYTES and weights > limit:
        return Walk(chunks=_least_divisor(channels, ceil_div(weights, limit)), run=tiles)
    if taps * channels <= SHALLOW or activations > L2_BYTES:
        return Walk(
            block=max(
                count
                for count in range(1, panels + 1)
                if panels % count == 0 and (count == 1 or count * weights <= L2_SHARE)
            )
        )
    return Walk()


def _least_divisor(value: int, least: int) -> int:
    """The least divisor of `value` from `least` on."""
    return next(count for count in range(min(least, value), value + 1) if value % count == 0)


def _fits(rows: int, vectors: int, registers: int) -> bool:
    # Accumulators, one row of weight vectors and one broadcast; a broadcast used once is folded into its instruction.
    return rows * vectors + (vectors + 1 if rows > 1 else 1) <= registers


def _cost(tile: Tile, pixels: int, widest: int, lanes: int) -> float:
    multiplies = tile.rows * tile.vectors / MULTIPLIERS
    loads = (tile.rows + tile.vectors) / LOADS
    weights = tile.vectors * lanes * FLOAT_BYTES / L2_RATE
    per_channel = max(multiplies, loads, weights, LATENCY)
    return ceil_div(pixels, tile.rows) * ceil_div(widest, tile.vectors) * per_channel


def ceil_div(value: int, divisor: int) -> int:
    return -(-value // divisor)
