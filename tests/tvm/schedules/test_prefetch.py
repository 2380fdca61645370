"""Every share of what is to come is fetched, from one place or from several."""

from hypothesis import given
from hypothesis import strategies as st

from lowprec.schedules.prefetch import share_of


@given(st.integers(1, 500), st.integers(1, 8))
def test_every_share_is_fetched_once(steps: int, streams: int) -> None:
    shares = [share_of(step, steps, streams) for step in range(steps + -steps % streams)]
    assert sorted(map(int, shares)) == list(range(len(shares)))


def test_runs_take_turns() -> None:
    assert [share_of(step, 12, 4) for step in range(12)] == [0, 3, 6, 9, 1, 4, 7, 10, 2, 5, 8, 11]
    assert [share_of(step, 12, 1) for step in range(12)] == list(range(12))
