"""Tiles fit the registers, and blocks cover every element without leaving the extent."""

from hypothesis import given
from hypothesis import strategies as st

from lowprec.schedules.direct import panel_starts, vector_starts
from lowprec.schedules.tiling import ALONE, Pace, Tile, Workload, choose_tile
from lowprec.schedules.walks import choose_walk

LANES = st.sampled_from((4, 8, 16))
PACES = (ALONE, Pace(l2_rate=14.0, issue=3.0))


def work(*, lines: int = 1, pixels: int, columns: int, taps: int = 1, channels: int = 64) -> Workload:
    activations = 4 * lines * pixels * (channels + columns)
    return Workload(lines=lines, pixels=pixels, columns=columns, taps=taps, channels=channels, activations=activations)


@given(st.integers(1, 300), st.integers(1, 600), LANES, st.sampled_from((16, 32)), st.sampled_from(PACES))
def test_tiles_fit_the_registers(pixels: int, channels: int, lanes: int, registers: int, pace: Pace) -> None:
    tile = choose_tile(work(pixels=pixels, columns=channels), lanes=lanes, registers=registers, pace=pace)
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
    tile = choose_tile(work(pixels=56, columns=64), lanes=16, registers=32)
    assert (tile.rows, tile.vectors) == (14, 2)


def test_weights_that_come_slowly_are_used_by_more_rows() -> None:
    wide = work(pixels=56, columns=256)
    fast, slow = (choose_tile(wide, lanes=16, registers=32, pace=pace) for pace in (ALONE, Pace(l2_rate=4, issue=9)))
    assert slow.rows > fast.rows


@given(
    st.builds(
        work,
        lines=st.integers(1, 60),
        pixels=st.integers(1, 60),
        columns=st.integers(1, 2000),
        taps=st.sampled_from((1, 3, 9, 25)),
        channels=st.integers(1, 2100),
    ),
    LANES,
    st.sampled_from((16, 32)),
)
def test_walks_visit_every_panel_and_channel_once(work: Workload, lanes: int, registers: int) -> None:
    tile = choose_tile(work, lanes=lanes, registers=registers)
    walk = choose_walk(work, tile, lanes=lanes)
    panels = -(-work.columns // (tile.vectors * lanes))
    assert panels % walk.block == 0
    assert work.channels % walk.chunks == 0
    assert 1 <= walk.run <= work.lines * -(-work.pixels // tile.rows)
    assert walk.chunks == 1 or (walk.run > 1 and walk.block == 1)


def test_layers_of_few_pixels_take_their_weights_in_chunks_that_stay_in_l1() -> None:
    few = work(lines=7, pixels=7, columns=512, taps=9, channels=512)
    walk = choose_walk(few, Tile(rows=7, vectors=2), lanes=16)
    assert walk.run == few.lines
    assert 9 * 512 // walk.chunks * 32 * 4 <= 40 << 10
