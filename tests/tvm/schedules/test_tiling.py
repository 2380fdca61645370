"""Tiles fit the registers, and blocks cover every element without leaving the extent."""

from hypothesis import given
from hypothesis import strategies as st

from lowprec.schedules.direct import panel_starts, vector_starts
from lowprec.schedules.tiling import choose_tile

LANES = st.sampled_from((4, 8, 16))


@given(st.integers(1, 300), st.integers(1, 600), LANES, st.sampled_from((16, 32)))
def test_tiles_fit_the_registers(pixels: int, channels: int, lanes: int, registers: int) -> None:
    tile = choose_tile(pixels=pixels, channels=channels, lanes=lanes, registers=registers)
    assert 1 <= tile.rows <= pixels
    assert tile.rows * tile.vectors + 1 <= registers


@given(st.integers(1, 600), st.integers(1, 8), LANES)
def test_panels_and_vectors_cover_every_channel(channels: int, vectors: int, lanes: int) -> None:
    panel = vectors * lanes
    covered: set[int] = set()
    for start in panel_starts(channels, panel):
        for offset in vector_starts(channels, panel, lanes):
            block = range(start + offset, start + offset + min(lanes, channels))
            assert block[-1] < channels
            covered.update(block)
    assert covered == set(range(channels))


def test_large_layers_get_the_tile_that_reaches_the_peak() -> None:
    tile = choose_tile(pixels=56, channels=64, lanes=16, registers=32)
    assert (tile.rows, tile.vectors) == (14, 2)
