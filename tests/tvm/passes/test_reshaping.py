"""A regrouped reshape gives the elements that NumPy's reshape gives."""

from itertools import pairwise
from math import prod

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from lowprec.passes.reshaping import groups_of, regroup


@st.composite
def reshapes(draw: st.DrawFn) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """A source shape, a target of the same size, and a physical order of the source."""
    factors = draw(st.lists(st.sampled_from((1, 2, 3)), min_size=1, max_size=6))

    def shape() -> tuple[int, ...]:
        cuts = sorted(draw(st.lists(st.integers(0, len(factors)), max_size=4)))
        bounds = [0, *cuts, len(factors)]
        return tuple(prod(factors[a:b]) for a, b in pairwise(bounds))

    source = shape()
    return source, shape(), tuple(draw(st.permutations(range(len(source)))))


@settings(max_examples=300)
@given(reshapes())
def test_regroup_moves_what_it_says(case: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]) -> None:
    source, target, axes = case
    logical = np.arange(prod(source)).reshape(source)
    moved = regroup(source, target, axes)
    assert moved is not None
    physical = logical.transpose(moved.arrange).reshape([target[axis] for axis in moved.axes])
    assert np.array_equal(physical, logical.reshape(target).transpose(moved.axes))


def test_channels_last_survives_joining_pixels_and_splitting_channels() -> None:
    joined = regroup((1, 64, 7, 7), (1, 64, 49), (0, 2, 3, 1))
    assert joined is not None
    assert (joined.arrange, joined.axes) == ((0, 2, 3, 1), (0, 2, 1))
    split = regroup((1, 64, 7, 7), (1, 4, 16, 7, 7), (0, 2, 3, 1))
    assert split is not None
    assert (split.arrange, split.axes) == ((0, 2, 3, 1), (0, 3, 4, 1, 2))


def test_empty_tensors_are_left_alone() -> None:
    assert groups_of((0, 3), (3, 0)) is None
