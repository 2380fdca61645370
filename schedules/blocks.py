"""How a convolution between transforms is cut: images into tiles, tiles into blocks, channels into panels and turns.

A block's transforms, V before the products and M after them, should stay in L2 beside the weights in use; but every
block reads all weights once, and those that do not stay in L2 come from L3 or memory each time. So blocks are short
where weights are few, and as long as the scratch allows where they are many. Threads share blocks, or the output
channels of each: the first reads more weights, the second transforms more tiles.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from math import hypot, prod

import numpy as np
from numpy.typing import NDArray
from tvm import ir, tirx
from tvm.script.ir_builder import tirx as T

from lowprec.phases import Phases
from lowprec.predicting import MEMORY_RATE, MULTIPLIERS, PATCHES, SCRATCH, rate_again
from lowprec.predicting_winograd import PRODUCTS_SHARE, SHORT, WHOLE
from lowprec.schedules.direct import packed_columns
from lowprec.schedules.tasks import any_of, decode, start_of
from lowprec.schedules.tiling import Pace, Tile, Workload, ceil_div, choose_tile, divisors
from lowprec.schedules.views import FLOAT_BYTES, Index

MANY_WEIGHTS = 16 << 20
"""Bytes of weights from which on one more pass over them takes longer than scratch that leaves L2."""

CROWDED = Pace(l2_rate=14.0, issue=3.0)
"""Of the products, whose left and right sides and results all come from L2 and go there."""

WIDEST = 2
"""Vectors of a panel: wider ones would want more scratch for M."""

INTO, OUT_OF = 11.0, 7.0
"""Cycles for a vector of one frequency into the transforms, and out of them, where threads are weighed."""

ALIASED = 256
"""Bytes of which a multiple, as the distance between rows, would put them all into a few sets of L1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tiling:
    """`outputs` of each axis make a tile, the last of which begins earlier where they do not divide `size`: it computes
    again what its neighbour has written, to other bits, and so does not write that."""

    batch: int
    size: tuple[int, int]
    outputs: tuple[int, int]

    @property
    def counts(self) -> tuple[int, int, int]:
        """Images, rows of tiles, tiles of a row."""
        high, wide = (ceil_div(extent, width) for extent, width in zip(self.size, self.outputs, strict=True))
        return self.batch, high, wide

    @property
    def count(self) -> int:
        return prod(self.counts)

    def at(self, number: Index) -> tuple[list[Index], tuple[Index, Index]]:
        """The coordinates of a tile, and its first output."""
        numbers = decode(number, self.counts)
        high, wide = (start_of(*axis) for axis in zip(numbers[1:], self.outputs, self.size, strict=True))
        return numbers, (high, wide)

    def elsewhere(self, numbers: list[Index], place: tuple[Index, Index]) -> ir.Expr | None:
        """Whether another tile writes the output at a place of this one; None where it never does."""
        found: ir.Expr | None = None
        for number, count, at, width, extent in zip(
            numbers[1:], self.counts[1:], place, self.outputs, self.size, strict=True
        ):
            again = count * width - extent
            if again and not (isinstance(at, int) and at >= again):
                inside = tirx.And(number == count - 1, at < again)
                found = any_of(found, inside)
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Blocks:
    """Of each group's `channels`, in and out: `run` tiles a block, in register tiles of `tile`; panels of output
    channels `at_once`, shared out in `parts`."""

    groups: int
    channels: tuple[int, int]
    lanes: int
    run: int
    tile: Tile
    at_once: int
    parts: int

    @property
    def panel(self) -> int:
        """Output channels computed at once."""
        return self.tile.vectors * self.lanes

    @property
    def panels(self) -> int:
        return ceil_div(self.channels[1], self.panel)

    @property
    def visits(self) -> int:
        """Register tiles of a block's rows: how often it comes to each panel."""
        return ceil_div(self.run, self.tile.rows)

    @property
    def turns(self) -> int:
        """How often a block's V is multiplied: each time with some panels."""
        return self.panels // self.at_once

    @property
    def widths(self) -> tuple[int, int]:
        """Elements from a row of V, and of M, to the next."""
        return unaliased(self.channels[0], self.lanes), unaliased(self.at_once * self.panel, self.lanes)

    @property
    def bias_width(self) -> int:
        """Elements of the bias that are there to be read: narrow groups are read a whole vector at a time."""
        return self.groups * self.channels[1] + max(0, self.lanes - self.channels[1])

    def first_channel(self, group: Index, panel: Index, vector: Index) -> Index:
        """The first output channel of a panel's vector."""
        out = self.channels[1]
        inside = start_of(vector, self.lanes, min(out, self.panel))
        return group * out + start_of(panel, self.panel, out) + inside

    def pack(self, planes: NDArray[np.float32]) -> NDArray[np.float32]:
        """[group][frequency][channel][output channel, other axes] -> [group][turn][frequency][panel][channel][other
        axes][channel of the panel], in the order the kernel loads them."""
        out = self.channels[1]
        planes = np.moveaxis(planes, 3, -1)
        if out < self.lanes:
            planes = np.pad(planes, [(0, 0)] * (planes.ndim - 1) + [(0, self.lanes - out)])
        packed = planes[..., packed_columns(out, self.panel, self.lanes)]
        packed = packed.reshape(*packed.shape[:-1], self.turns, self.at_once, self.panel)
        packed = np.moveaxis(packed, (-3, -2), (1, 3))
        return np.ascontiguousarray(packed)


@dataclass(frozen=True, slots=True, kw_only=True)
class Steps:
    """What a task does with a block: `into_v(place)` for each tile; then, turn after turn, `products(turn, frequency,
    panel, rows)` and `out_of_m(turn, place)` for each tile."""

    into_v: Callable[[Index], None]
    products: Callable[[Index, Index, Index, Index], None]
    out_of_m: Callable[[Index, Index], None]


def walk_block(cut: Blocks, frequencies: int, part: Index, steps: Steps) -> None:
    """A block, for one part of the output channels."""
    with T.serial(0, cut.run) as place:
        steps.into_v(place)
    with T.serial(0, cut.turns // cut.parts) as index:
        turn = part * (cut.turns // cut.parts) + index
        extents = (frequencies, cut.at_once, cut.visits)
        with T.serial(0, extents[0]) as e, T.serial(0, extents[1]) as panel, T.serial(0, extents[2]) as rows:
            steps.products(turn, e, panel, rows)
        with T.serial(0, cut.run) as place:
            steps.out_of_m(turn, place)


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """A vector of channels of one phase of a tile: `channel` of its group in X, `place` in V; `short` along which axes
    there is one tap less."""

    first: tuple[Index, Index]
    strides: tuple[int, int]
    channel: Index
    place: Index
    short: tuple[bool, bool]

    def at(self, i: Index, j: Index) -> tuple[Index, Index]:
        """Where the input at a row and column of the tile lies."""
        return self.first[0] + i * self.strides[0], self.first[1] + j * self.strides[1]


def walk_phases(
    phases: Phases, starts: tuple[Index, Index], channels: int, lanes: int, visit: Callable[[Share], None]
) -> None:
    """The shares of a tile whose outputs begin at `starts`."""
    high, wide = (start * stride for start, stride in zip(starts, phases.strides, strict=True))
    width = min(lanes, channels)
    before = 0
    for region in phases.regions:
        extents = (*region.counts, ceil_div(channels, width))
        with T.serial(0, prod(extents)) as number:
            i, j, vector = decode(number, extents)
            channel = start_of(vector, width, channels)
            share = Share(
                first=(high + region.first[0] + i, wide + region.first[1] + j),
                strides=phases.strides,
                channel=channel,
                place=T.bind((before + i * region.counts[1] + j) * channels + channel),
                short=region.short,
            )
            visit(share)
        before += region.size


def unaliased(width: int, lanes: int) -> int:
    """A distance between rows, of at least `width`."""
    padded = ceil_div(width, lanes) * lanes
    return padded if padded * FLOAT_BYTES % ALIASED else padded + lanes


@dataclass(frozen=True, slots=True, kw_only=True)
class Products:
    """What happens between the transforms: `tiles` times `frequencies` rows of a group's `channels`, in and out, whose
    numbers are `parts` floats each."""

    tiles: int
    frequencies: int
    groups: int
    channels: tuple[int, int]
    parts: int = 1

    @property
    def floats(self) -> int:
        """Of a tile and channel, between the transforms."""
        return self.parts * self.frequencies


def choose_patches(work: Products, *, lanes: int, registers: int, threads: int) -> Blocks:
    """The cut where rows are patches of pixels, which are multiplied once."""
    longest = max(1, PATCHES // (FLOAT_BYTES * work.channels[0]))
    run = ceil_div(work.tiles, ceil_div(work.tiles, min(longest, work.tiles)))
    return _least(work, _cuts(work, run, lanes=lanes, registers=registers), threads)


def choose_blocks(work: Products, *, lanes: int, registers: int, threads: int) -> Blocks:
    """The cut for a target and a number of threads, which share tiles or output channels, whichever takes less time:
    whoever has all channels reads all weights, and whoever has all tiles transforms them all."""
    fewest = ceil_div(work.tiles, _run(work, lanes))
    runs = {ceil_div(work.tiles, blocks) for blocks in range(fewest, fewest + threads)}
    cuts = (_cuts(work, run, lanes=lanes, registers=registers) for run in sorted(runs, reverse=True))
    return _least(work, chain.from_iterable(cuts), threads)


def _cuts(work: Products, run: int, *, lanes: int, registers: int) -> Iterator[Blocks]:
    """All ways to share out the channels of blocks of so many tiles, those of wide turns first."""
    depth, columns = work.channels
    load = Workload(lines=1, pixels=run, columns=min(columns, WIDEST * lanes), taps=1, channels=depth, activations=0)
    tile = choose_tile(load, lanes=lanes, registers=registers // work.parts, pace=CROWDED)
    panel = tile.vectors * lanes
    panels = ceil_div(columns, panel)
    pair = panels % 2 == 0 and _scratch(work, 2 * panel, lanes) * run <= SCRATCH
    for at_once in (2, 1) if pair else (1,):
        for parts in divisors(panels // at_once):
            yield Blocks(
                groups=work.groups,
                channels=work.channels,
                lanes=lanes,
                run=run,
                tile=tile,
                at_once=at_once,
                parts=parts,
            )


def _least(work: Products, cuts: Iterable[Blocks], threads: int) -> Blocks:
    """The first of those that take the least time; one thread shares nothing out."""
    some = cuts if threads > 1 else (cut for cut in cuts if cut.parts == 1)
    return min(some, key=lambda cut: _cycles(work, cut, threads))


def _scratch(work: Products, columns: int, lanes: int) -> int:
    """Bytes of V and M for one tile."""
    widths = unaliased(work.channels[0], lanes) + unaliased(columns, lanes)
    return FLOAT_BYTES * work.floats * widths


def _run(work: Products, lanes: int) -> int:
    """Blocks of about equal length."""
    depth, columns = work.channels
    longest = max(1, SCRATCH // _scratch(work, WIDEST * lanes, lanes))
    weights = FLOAT_BYTES * work.floats * depth * columns
    wanted = min(longest, SHORT if work.tiles > WHOLE and weights < MANY_WEIGHTS else work.tiles)
    return ceil_div(work.tiles, ceil_div(work.tiles, wanted))


def _cycles(work: Products, cut: Blocks, threads: int) -> float:
    """What the thread with most to do will take."""
    blocks = ceil_div(work.tiles, cut.run)
    tasks = ceil_div(blocks * cut.groups * cut.parts, threads)
    inward, outward = ceil_div(work.channels[0], cut.lanes), cut.panels // cut.parts * cut.tile.vectors
    transforms = cut.run * work.floats * (INTO * inward + OUT_OF * outward)
    products = cut.visits * cut.tile.rows * work.floats * work.parts * work.channels[0] * outward
    weights = FLOAT_BYTES * work.floats * work.channels[0] * outward * cut.lanes
    first = ceil_div(tasks, blocks)
    memory = weights * (first / MEMORY_RATE + (tasks - first) / rate_again(weights))
    return hypot(tasks * (transforms + products / (MULTIPLIERS * PRODUCTS_SHARE)), memory)
