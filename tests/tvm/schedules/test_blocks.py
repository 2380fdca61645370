"""Threads share a transformed convolution evenly, by tiles or by output channels, and one thread repeats nothing."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lowprec.schedules.blocks import Blocks, Products, choose_blocks
from lowprec.schedules.tiling import ceil_div

REGISTERS = {4: 16, 8: 16, 16: 32}


def cut(tiles: int, channels: tuple[int, int], threads: int, *, frequencies: int = 36, lanes: int = 16) -> Blocks:
    work = Products(tiles=tiles, frequencies=frequencies, groups=1, channels=channels)
    return choose_blocks(work, lanes=lanes, registers=REGISTERS[lanes], threads=threads)


def share(blocks: Blocks, tiles: int, threads: int) -> float:
    """The part of all products that the thread with most of them computes."""
    counts = ceil_div(tiles, blocks.run), blocks.parts
    return ceil_div(counts[0] * counts[1], threads) * min(blocks.run / tiles, 1) / blocks.parts


@given(
    st.integers(1, 4000),
    st.integers(1, 600),
    st.integers(1, 600),
    st.sampled_from((16, 25, 64)),
    st.sampled_from((4, 8, 16)),
)
def test_one_thread_transforms_a_tile_once(tiles: int, inward: int, outward: int, frequencies: int, lanes: int) -> None:
    assert cut(tiles, (inward, outward), 1, frequencies=frequencies, lanes=lanes).parts == 1


@given(st.integers(1, 4000), st.integers(1, 600), st.integers(1, 600), st.integers(1, 64))
def test_parts_are_whole_turns(tiles: int, inward: int, outward: int, threads: int) -> None:
    blocks = cut(tiles, (inward, outward), threads)
    assert 1 <= blocks.run <= tiles
    assert blocks.turns % blocks.parts == 0
    assert blocks.turns * blocks.at_once == blocks.panels


@pytest.mark.parametrize("channels", [(128, 32), (64, 96), (96, 96), (160, 160)])
@pytest.mark.parametrize("tiles", [25, 49, 196])
def test_two_threads_have_about_half_each(tiles: int, channels: tuple[int, int]) -> None:
    """Three panels of output channels are not for two threads, nor are five blocks of tiles."""
    assert share(cut(tiles, channels, 2), tiles, 2) < 0.53


def test_many_weights_are_read_once() -> None:
    """512 x 512 channels are 37 MB: each thread reads its own half of them, and transforms all tiles."""
    blocks = cut(49, (512, 512), 2)
    assert (blocks.run, blocks.parts) == (49, 2)
