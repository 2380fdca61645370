"""Histograms: what they count is a function of the values alone, and no value is lost or moved."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lowprec.errors import UsageError
from lowprec.histograms import HALF, Histogram

VALUES = st.lists(
    st.one_of(
        st.floats(-(2.0**99), 2.0**99, width=32),
        st.floats(-4.0, 4.0, width=32),
        st.sampled_from((0.0, -0.0, 1.0, -1.0, 2.0**-149, 2.0**40, -(2.0**40))),
    ),
    max_size=40,
)


def state(seen: Histogram) -> tuple[object, ...]:
    return seen.count, seen.zeros, seen.low, seen.high, seen.width, seen.counts.tolist()


def of(*batches: Sequence[float]) -> Histogram:
    seen = Histogram()
    for batch in batches:
        seen.add(batch)
    return seen


@settings(max_examples=200, deadline=None, derandomize=True)
@given(VALUES, VALUES, st.randoms(use_true_random=False))
def test_neither_order_nor_batches_matter(first: list[float], second: list[float], random: object) -> None:
    together = [*first, *second]
    shuffled = list(together)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    apart = of(first)
    apart.join(of(second))
    one_by_one = of(*([value] for value in shuffled))
    assert state(of(together)) == state(of(second, first)) == state(one_by_one) == state(apart)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(VALUES)
def test_every_value_is_in_its_bin(values: list[float]) -> None:
    seen = of(values)
    nonzero = [value for value in values if value]
    assert seen.count == len(values)
    assert seen.zeros == len(values) - len(nonzero)
    assert seen.counts.sum() == len(nonzero)
    if values:
        assert (seen.low, seen.high) == (min(values), max(values))
    if not nonzero:
        assert seen.width == 0
        return
    edges = (np.arange(-HALF, HALF + 1)) * seen.width
    expected = [np.sum((edges[i] <= nonzero) & (nonzero < edges[i + 1])) for i in np.flatnonzero(seen.counts)]
    assert expected == seen.counts[seen.counts > 0].tolist()
    assert max(map(abs, values)) >= HALF * seen.width / 2, "no coarser than need be"


@pytest.mark.parametrize("spoilt", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused_and_changes_nothing(spoilt: float) -> None:
    seen = of([1.0, -2.0])
    before = state(seen)
    with pytest.raises(UsageError, match="NaN or an infinity"):
        seen.add([0.5, spoilt])
    assert state(seen) == before


def test_tiny_numbers_have_bins() -> None:
    seen = of([5e-324, -5e-324])
    assert seen.counts.sum() == 2
    assert seen.width > 0
