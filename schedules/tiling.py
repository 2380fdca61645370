"""The register tile of a kernel: how many pixels by how many vectors are accumulated at once.

The innermost loop of a direct convolution or matrix product multiplies `rows` broadcast scalars with `vectors` weight
vectors into rows x vectors accumulators. Its cost per input channel is the largest of what the multipliers, the load
ports and the latency of a chain of multiply-adds take, and what the weights' way from L2 takes; the best tile is the
one with the least total over the layer, waste included.
"""

import math
from dataclasses import dataclass, replace

from lowprec.schedules.views import FLOAT_BYTES
from lowprec.schedules.walkers import WALKERS

MULTIPLIERS = 2  # fused multiply-adds a cycle, of full vectors
LOADS = 2  # loads a cycle
LATENCY = 4  # cycles from one multiply-add to the next on the same accumulator


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """What a core keeps up beside the multipliers: bytes a cycle from L2, and instructions a cycle."""

    l2_rate: float
    issue: float


ALONE = Pace(l2_rate=32.0, issue=math.inf)
"""While nothing but L1 is busy otherwise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tile:
    """`rows` pixels by `vectors` vectors of output channels; the broadcasts of the first `folded` pixels are part of
    the multiply-adds, see `walkers`."""

    rows: int
    vectors: int
    folded: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """What a kernel computes, of one group: `lines` rows of `pixels` outputs with `columns` channels each, every one a
    sum over `taps` times `channels` products; `activations` bytes are read and written beside the weights."""

    lines: int
    pixels: int
    columns: int
    taps: int
    channels: int
    activations: int


def choose_tile(work: Workload, *, lanes: int, registers: int, folding: bool = False, pace: Pace = ALONE) -> Tile:
    """The tile with the least predicted time; with `folding`, where instructions take broadcasts as operands."""
    pixels, widest = work.pixels, ceil_div(work.columns, lanes)
    candidates = (
        Tile(rows=rows, vectors=vectors)
        for vectors in range(1, min(widest, 8) + 1)
        for rows in range(1, min(pixels, registers) + 1)
        if _fits(rows, vectors, registers)
    )

    def cost(tile: Tile) -> tuple[float, int, int]:
        return _cost(tile, pixels, widest, lanes, pace), -tile.rows * tile.vectors, tile.rows

    tile = min(candidates, key=cost)
    return replace(tile, folded=tile.rows // 2) if folding and tile.vectors == WALKERS else tile


def _fits(rows: int, vectors: int, registers: int) -> bool:
    # Accumulators, one row of weight vectors and one broadcast; a broadcast used once is folded into its instruction.
    return rows * vectors + (vectors + 1 if rows > 1 else 1) <= registers


def _cost(tile: Tile, pixels: int, widest: int, lanes: int, pace: Pace) -> float:
    multiplies = tile.rows * tile.vectors / MULTIPLIERS
    loads = (tile.rows + tile.vectors) / LOADS
    weights = tile.vectors * lanes * FLOAT_BYTES / pace.l2_rate
    instructions = tile.rows * tile.vectors + tile.rows + tile.vectors
    per_channel = max(multiplies, loads, weights, LATENCY, instructions / pace.issue)
    return ceil_div(pixels, tile.rows) * ceil_div(widest, tile.vectors) * per_channel


def ceil_div(value: int, divisor: int) -> int:
    return -(-value // divisor)


def divisors(value: int) -> list[int]:
    return [count for count in range(1, value + 1) if value % count == 0]


def equal_parts(value: int, wanted: int, *, least: int) -> int:
    """Into how many equal parts to cut: as many as wanted or the next possible number, but none less than `least`."""
    possible = [count for count in divisors(value) if value // count >= least or count == 1]
    return next((count for count in possible if count >= wanted), possible[-1])
