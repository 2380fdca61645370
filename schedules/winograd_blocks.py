"""How a Winograd kernel cuts its work: tiles of a block, channels at once, parts for the threads.

A block's transforms, V and M, should stay in L2 beside the weights in use; but every block reads all weights once, and
those that do not stay in L2 come from L3 or memory each time. So blocks are short where weights are few, and as long as
the scratch allows where they are many.
"""

from dataclasses import dataclass
from math import prod

from lowprec.schedules.tiling import Pace, Tile, Workload, ceil_div, choose_tile, divisors
from lowprec.schedules.views import FLOAT_BYTES

SCRATCH = 4 << 20
"""The most bytes of V and M together."""

SHORT = 42
"""Tiles of a block while weights come fast enough from L3."""

WHOLE = 56
"""So many tiles are one block."""

MANY_WEIGHTS = 16 << 20
"""Bytes of weights from which on one more pass over them takes longer than scratch that leaves L2."""

CROWDED = Pace(l2_rate=14.0, issue=3.0)
"""Of the products, whose left and right sides and results all come from L2 and go there."""

REPEATED = 0.045
"""What one more part costs, over the whole: the tiles are transformed again for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Blocks:
    """`run` tiles a block, in register tiles of `tile`; panels of channels `at_once`, shared out in `parts`."""

    run: int
    tile: Tile
    at_once: int
    parts: int


def choose_blocks(
    *, tiles: int, frequencies: int, groups: int, channels: tuple[int, int], lanes: int, registers: int, threads: int
) -> Blocks:
    """The cut for `tiles` tiles of a group's `channels`, in and out."""
    depth, columns = channels
    run = _run(tiles, frequencies, depth, columns, lanes)
    work = Workload(lines=1, pixels=run, columns=columns, taps=1, channels=depth, activations=0)
    tile = choose_tile(work, lanes=lanes, registers=registers, pace=CROWDED)
    panel = tile.vectors * lanes
    panels = ceil_div(columns, panel)
    pair = panels % 2 == 0 and _scratch(frequencies, run, depth, 2 * panel) <= SCRATCH
    blocks = panels // 2 if pair else panels
    parts = _parts(blocks, groups * ceil_div(tiles, run), threads)
    return Blocks(run=run, tile=tile, at_once=2 if pair else 1, parts=parts)


def _scratch(frequencies: int, run: int, depth: int, columns: int) -> int:
    return FLOAT_BYTES * frequencies * run * (depth + columns)


def _run(tiles: int, frequencies: int, depth: int, columns: int, lanes: int) -> int:
    """Blocks of about equal length."""
    longest = max(1, SCRATCH // _scratch(frequencies, 1, depth + lanes, 2 * lanes + lanes))
    weights = prod((FLOAT_BYTES, frequencies, depth, columns))
    wanted = min(longest, SHORT if tiles > WHOLE and weights < MANY_WEIGHTS else tiles)
    return ceil_div(tiles, ceil_div(tiles, wanted))


def _parts(blocks: int, tasks: int, threads: int) -> int:
    """Parts that share the tasks out evenly, unless that repeats too much."""

    def cost(parts: int) -> float:
        turns = ceil_div(parts * tasks, threads)
        return turns / parts * (1 + REPEATED * (parts - 1))

    return min(divisors(blocks), key=cost)
