"""The front of mixes: nothing on it is worse than what any choice of formats could be."""

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lowprec.tradeoff import Cost, Mix, decibels, front, noise_of

Options = dict[str, dict[str, Cost]]

COSTS = st.builds(Cost, ms=st.integers(1, 9).map(float), noise=st.integers(0, 9).map(lambda n: n / 16))
OPTIONS = st.dictionaries(
    st.sampled_from("abcd"),
    st.dictionaries(st.sampled_from(("fp32", "bf16", "int8")), COSTS, min_size=1),
    min_size=1,
)


def every(options: Options) -> list[Mix]:
    """All choices of formats."""
    found = []
    for formats in itertools.product(*(costs for costs in options.values())):
        mix = dict(zip(options, formats, strict=True))
        costs = [options[layer][fmt] for layer, fmt in mix.items()]
        found.append(Mix(formats=mix, ms=sum(c.ms for c in costs), noise=sum(c.noise for c in costs)))
    return found


@given(OPTIONS)
def test_the_ends_are_the_fastest_and_the_most_exact(options: Options) -> None:
    mixes, all_mixes = front(options), every(options)
    assert math.isclose(mixes[0].ms, min(mix.ms for mix in all_mixes))
    assert math.isclose(mixes[-1].noise, min(mix.noise for mix in all_mixes), abs_tol=1e-12)


@given(OPTIONS, st.floats(0, 100))
def test_no_choice_is_better_than_the_front_for_any_price_of_noise(options: Options, price: float) -> None:
    best = min(mix.ms + price * mix.noise for mix in every(options))
    assert min(mix.ms + price * mix.noise for mix in front(options)) <= best + 1e-9


@given(OPTIONS)
def test_mixes_grow_slower_and_more_exact(options: Options) -> None:
    mixes = front(options)
    for one, other in itertools.pairwise(mixes):
        assert other.ms >= one.ms
        assert other.noise <= one.noise
    for mix in mixes:
        costs = [options[layer][fmt] for layer, fmt in mix.formats.items()]
        assert mix.formats.keys() == options.keys()
        assert math.isclose(mix.ms, sum(c.ms for c in costs))
        assert math.isclose(mix.noise, sum(c.noise for c in costs), abs_tol=1e-12)


def test_what_takes_its_time_anyway_is_counted_once() -> None:
    options = {"a": {"fp32": Cost(ms=2.0, noise=0.0)}, "b": {"fp32": Cost(ms=3.0, noise=0.0)}}
    assert [mix.ms for mix in front(options, rest_ms=10.0)] == [15.0]


@pytest.mark.parametrize(("noise", "db"), [(1.0, 0.0), (0.01, 20.0), (1e-3, 30.0), (0.0, math.inf)])
def test_decibels(noise: float, db: float) -> None:
    assert decibels(noise) == pytest.approx(db)
    assert noise_of(db) == pytest.approx(noise)
