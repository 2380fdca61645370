"""Which layers AMX computes, and in which grids, blocks and shares."""

from dataclasses import replace
from math import prod

import numpy as np

from lowprec.schedules.amx import Amx, Grid, flat_line, plain_line
from lowprec.schedules.amx_tiles import TILES
from lowprec.schedules.arithmetic import HALF
from lowprec.schedules.direct import Grouped
from lowprec.schedules.geometry import Geometry
from lowprec.schedules.packs import packs_of
from lowprec.schedules.prefetch import LINE
from lowprec.schedules.tiling import ceil_div, divisors
from lowprec.schedules.views import FLOAT, UPPER_HALVES, View
from lowprec.schedules.walks import L2_BYTES, L2_SHARE, has_own_pixels
from lowprec.targets import Target
from lowprec.tiles import DEEPEST, LANES, Rows, joins_taps

PRODUCT_CYCLES, LATENCY, LOAD_CYCLES = 16, 52, 11
"""Of a product of tiles: from one to the next, and to the next of the same sums; of loading a tile."""

SHALLOW = 8
"""Steps up to which writing results takes longer than products: lines of them are to be written whole, then."""
LONGEST, SHORTEST = 32, 4
"""Grids of a task: its tiles are configured once, and its last panel is written while no other is multiplied."""
WIDE = "int16"
FLOATS = (FLOAT, UPPER_HALVES)
TASKS, SEVERAL = 4, 2
"""Tasks there should be for each of several threads; as many threads as those are, where nobody knows."""


def amx_kernel(
    layer: Grouped, target: Target, *, bias: bool, numbers: str, activations: int, threads: int = SEVERAL
) -> Amx | None:
    """The kernel, where the target has the instructions and tiles are filled well enough. All floats are `numbers` of a
    type; bytes of `activations` are read and written."""
    geometry, source = layer.geometry, layer.input
    flag = {"int8": "amx_int8", "uint8": "amx_int8", WIDE: "amx_int8", **dict.fromkeys(FLOATS, "amx_bf16")}.get(
        source.dtype
    )
    if flag is None or not target.has(flag) or target.lanes != LANES or (source.dtype in FLOATS and numbers == FLOAT):
        return None
    merged = joins_taps(layer.groups, geometry.dilation[2])
    rows = Rows(
        groups=layer.groups,
        channels=(layer.in_channels, layer.out_channels),
        taps=geometry.kernel[2] if merged else 1,
        pixels=layer.batch * prod(geometry.size),
    )
    halves, twofold = source.dtype in FLOATS, numbers == HALF
    depth = layer.in_channels * prod(geometry.kernel)
    split, item = source.dtype == WIDE, 2 if halves else 1
    if source.strides[4] != 1 or (split and depth > DEEPEST):
        return None
    filled = rows.fill_tiles_thrice(depth) if twofold else rows.fill_tiles(item)
    if not filled or not (twofold or split or rows.beat_vectors(item, depth)):
        return None
    kernel = Amx(
        **layer.given(),
        bias=bias,
        halves=halves,
        split=split,
        twofold=twofold,
        flat=_is_flat(geometry, source),
        merged=merged,
        grid=Grid(high=1, wide=1),
        block=1,
        share=1,
        packs=packs_of(layer.epilogue, target) if layer.out_channels >= LANES else None,
    )
    if not split:  # four sums take all the tiles there are
        kernel = replace(kernel, grid=choose_grid(kernel.tiles, ceil_div(kernel.out_channels, LANES)))
    kernel = replace(kernel, block=_block(kernel, activations))
    own = has_own_pixels(
        count=kernel.grids,
        weights=prod(kernel.packed_shape) * kernel.item,
        pixels=prod(source.shape) * np.dtype(source.dtype).itemsize,
        threads=threads,
    )
    if own:
        parts = threads * ceil_div(kernel.grids, threads * LONGEST)
        return replace(kernel, share=_even(kernel.grids, parts, threads), shares=threads)
    return replace(kernel, share=_share(kernel, threads))


def _is_flat(geometry: Geometry, source: View) -> bool:
    """Whether tiles may go on from line to line, and are fewer then."""
    if geometry.stride[1:] != (1, 1) or source.strides[3] == 0 or source.strides[2] % source.strides[3]:
        return False
    plain = plain_line(geometry, source)
    return flat_line(geometry, source).tiles <= geometry.size[1] * plain.tiles


def choose_grid(tiles: int, vectors: int) -> Grid:
    """The grid with the least predicted time for so many tiles of pixels by vectors of output channels."""
    fitting = (
        Grid(high=high, wide=wide)
        for high in range(1, min(tiles, TILES) + 1)
        for wide in range(1, min(vectors, TILES) + 1)
        if high * wide + wide < TILES
    )

    def cost(grid: Grid) -> tuple[float, int]:
        loads = LOAD_CYCLES * (grid.high + grid.wide)
        cycles = max(PRODUCT_CYCLES * grid.count, LATENCY, loads)
        return cycles * ceil_div(tiles, grid.high) * ceil_div(vectors, grid.wide), grid.high + grid.wide

    return min(fitting, key=cost)


def _block(kernel: Amx, activations: int) -> int:
    """Panels that stay in L2 together; where taps read pixels again, and activations stay there as well, one, whose
    results are whole lines of the cache unless these stay there long."""
    panel_bytes = kernel.stored * kernel.grid.wide * kernel.tile_bytes * kernel.parts
    fitting = max((count for count in divisors(kernel.panels) if count * panel_bytes <= L2_SHARE), default=1)
    if kernel.steps <= SHALLOW or (fitting == kernel.panels and kernel.steps == kernel.blocks):
        return fitting
    read = sum(any(view.strides[:4]) for view in kernel.epilogue.operands)
    lines = kernel.panel * np.dtype(kernel.output.dtype).itemsize >= LINE
    return 1 if activations * (1 + read) <= (L2_BYTES if lines else L2_BYTES // 2) else fitting


def _share(kernel: Amx, threads: int) -> int:
    """Grids of a task: panels of a block follow each other for each."""
    longest, shortest = LONGEST, max(1, SHORTEST // kernel.block)
    others = kernel.groups * kernel.panels // kernel.block
    wanted = TASKS * threads if threads > 1 else 1
    parts = max(ceil_div(kernel.grids, longest), min(ceil_div(wanted, others), ceil_div(kernel.grids, shortest)))
    return _even(kernel.grids, parts, 1)


def _even(grids: int, parts: int, threads: int) -> int:
    """Grids of a task, where there are `parts` or up to twice as many, for each of some threads as many: of all that
    are computed the fewest are computed again."""
    some = (count for count in range(parts, 2 * parts + 1) if count % threads == 0)
    return min((ceil_div(grids, count) for count in some), key=lambda share: (ceil_div(grids, share) * share, -share))
