"""Phases: strided convolutions are sums over them, and what is said of their taps and products is so."""

import itertools
from collections.abc import Iterator
from dataclasses import replace
from math import prod

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy.typing import NDArray

from lowprec.convolution import Conv, convolve
from lowprec.phases import Phases, phase_count, phases_of, taps_of
from lowprec.winograd import POINTS, Filtering, transform_weights
from tests.layers import conv, line
from tests.oracle import unstrided

Floats = NDArray[np.float64]
Pair = tuple[int, int]
LASTS = list(itertools.product((False, True), repeat=2))
PAIRS = st.tuples(st.integers(1, 7), st.integers(1, 7))
STRIDES = st.tuples(st.integers(1, 4), st.integers(1, 4))


def walked(phases: Phases) -> Iterator[tuple[Pair, tuple[bool, bool]]]:
    """The phases in their order, and along which axes they are short."""
    for region in phases.regions:
        for high, wide in itertools.product(*map(range, region.counts)):
            yield (region.first[0] + high, region.first[1] + wide), region.short


def own_taps(phases: Phases, phase: Pair) -> Pair:
    """Of one phase, counted."""
    high, wide = (len(range(*each)) for each in zip(phase, phases.kernel, phases.strides, strict=True))
    return high, wide


def by_phases(layer: Conv, x: Floats, w: Floats) -> Floats:
    """Equation 1 of an unpadded layer of one group; of inputs that no tap of a phase sees it takes none."""
    phases = phases_of(layer)
    ones = (1,) * (2 - len(layer.size))
    y = np.zeros((layer.batch, layer.out_channels, *ones, *layer.output_size))
    parts = np.split(phases.split(w.reshape(*w.shape[:2], *phases.kernel)), phases.count, axis=1)
    x = x.reshape(*x.shape[:2], *ones, *layer.size)
    for part, (phase, _) in zip(parts, walked(phases), strict=True):
        taps = own_taps(phases, phase)
        for u, v in np.ndindex(*phases.taps):
            if u < taps[0] and v < taps[1]:
                axes = zip(phase, (u, v), phases.strides, y.shape[2:], strict=True)
                seen = x[:, :, *(slice(f + s * t, f + s * (t + o - 1) + 1, s) for f, t, s, o in axes)]
                y += np.einsum("kc,ncij->nkij", part[:, :, u, v], seen)
            else:
                assert not part[:, :, u, v].any()
    return y.reshape(layer.batch, layer.out_channels, *layer.output_size)


def whole_numbers(*shape: int, seed: int) -> Floats:
    return np.random.default_rng(seed).integers(-8, 9, shape).astype(np.float64)


def strided(kernel: tuple[int, ...], stride: tuple[int, ...], size: tuple[int, ...]) -> Conv:
    """An unpadded layer, with inputs to spare that no tap sees."""
    ones, none = (1,) * len(kernel), (0,) * len(kernel)
    axes = {"size": size, "kernel": kernel, "stride": stride, "dilation": ones, "pads_begin": none, "pads_end": none}
    return conv(batch=2, in_channels=2, out_channels=3, **axes)


@given(PAIRS, STRIDES, st.tuples(st.integers(0, 9), st.integers(0, 9)))
def test_equation_one_is_the_strided_convolution(kernel: Pair, stride: Pair, more: Pair) -> None:
    size = (kernel[0] + more[0], kernel[1] + more[1])
    layer = strided(kernel, stride, size)
    x, w = whole_numbers(2, 2, *size, seed=0), whole_numbers(3, 2, *kernel, seed=1)
    assert np.array_equal(by_phases(layer, x, w), convolve(layer, x, w))


@given(st.integers(1, 11), st.integers(1, 5), st.integers(0, 9))
def test_it_is_of_one_axis_too(taps: int, stride: int, more: int) -> None:
    layer = strided((taps,), (stride,), (taps + more,))
    x, w = whole_numbers(2, 2, taps + more, seed=0), whole_numbers(3, 2, taps, seed=1)
    assert np.array_equal(by_phases(layer, x, w), convolve(layer, x, w))


@given(PAIRS, STRIDES, st.tuples(st.integers(0, 9), st.integers(0, 9)), st.integers(1, 2))
def test_the_oracle_of_kernels_has_a_way_of_its_own(kernel: Pair, stride: Pair, more: Pair, groups: int) -> None:
    """With groups and with padding, as the sweep has it."""
    size = (kernel[0] + more[0], kernel[1] + more[1])
    layer = replace(strided(kernel, stride, size), groups=groups, in_channels=2 * groups, out_channels=4)
    layer = replace(layer, pads_begin=(1, 0), pads_end=(0, 2))
    x = whole_numbers(2, 2 * groups, *size, seed=0).astype(np.float32)
    w = whole_numbers(*layer.weight_shape, seed=1).astype(np.float32)
    plain, inputs, weights = unstrided(layer, x, w)
    assert (plain.stride, plain.kernel, plain.in_channels) == ((1, 1), taps_of(layer), 2 * groups * phase_count(layer))
    assert np.array_equal(convolve(plain, inputs, weights), convolve(layer, x, w))


@given(PAIRS, STRIDES)
def test_regions_are_every_phase_once_and_tell_the_short(kernel: Pair, strides: Pair) -> None:
    phases = Phases(kernel=kernel, strides=strides)
    found = list(walked(phases))
    everything = itertools.product(*(range(min(k, s)) for k, s in zip(kernel, strides, strict=True)))
    assert sorted(phase for phase, _ in found) == sorted(everything)
    assert len(found) == phases.count
    taps = {phase: own_taps(phases, phase) for phase, _ in found}
    assert phases.taps == tuple(map(max, zip(*taps.values(), strict=True)))
    for phase, short in found:
        assert tuple(most - less for most, less in zip(phases.taps, short, strict=True)) == taps[phase]


@given(PAIRS, STRIDES)
def test_a_span_is_of_the_phases_that_have_the_last_taps(kernel: Pair, strides: Pair) -> None:
    phases = Phases(kernel=kernel, strides=strides)
    shorts = [short for _, short in walked(phases)]
    for last in LASTS:
        having = [number for number, short in enumerate(shorts) if not (np.array(last) & np.array(short)).any()]
        assert having == list(range(*phases.span((last[0], last[1]))))


@given(PAIRS, STRIDES, st.tuples(st.sampled_from((1, 2, 3, 4)), st.sampled_from((1, 2, 3, 4))))
def test_products_are_those_of_weights_that_are_not_zero(kernel: Pair, strides: Pair, outputs: Pair) -> None:
    phases = Phases(kernel=kernel, strides=strides)
    axes = transforms(phases, outputs)
    weights = 1 + np.random.default_rng(0).random((1, 1, *kernel))
    transformed = transform_weights(phases.split(weights), axes)[0]
    high, wide = (axis.inputs for axis in axes)
    assert phases.products(high, wide) == np.count_nonzero(transformed)
    for i, j in np.ndindex(high, wide):
        begin, end = phases.span((i == high - 1, j == wide - 1))
        assert list(range(begin, end)) == np.flatnonzero(transformed[:, i, j]).tolist()


def transforms(phases: Phases, outputs: Pair) -> tuple[Filtering, Filtering]:
    """Tiles of as many outputs, and one where there is one tap."""
    pairs = [(1 if taps == 1 else number, taps) for number, taps in zip(outputs, phases.taps, strict=True)]
    assume(all(number + taps - 2 in POINTS for number, taps in pairs))
    high, wide = (Filtering(outputs=number, taps=taps) for number, taps in pairs)
    return high, wide


@pytest.mark.parametrize(
    ("layer", "count", "taps"),
    [
        (conv(), 1, (3, 3)),
        (conv(stride=(2, 2)), 4, (2, 2)),
        (conv(stride=(1, 2)), 2, (3, 2)),
        (conv(kernel=(7, 7), stride=(2, 2)), 4, (4, 4)),
        (conv(kernel=(11, 11), stride=(4, 4)), 16, (3, 3)),
        (conv(kernel=(3, 1), stride=(4, 4)), 3, (1, 1)),
        (conv(kernel=(8, 2), stride=(4, 3)), 8, (2, 1)),
        (line(), 1, (3,)),
        (line(kernel=(5,), stride=(3,)), 3, (2,)),
        (line(kernel=(2,), stride=(3,)), 2, (1,)),
    ],
    ids=lambda value: "" if isinstance(value, Conv) else str(value),
)
def test_phases_and_taps_of_layers(layer: Conv, count: int, taps: tuple[int, ...]) -> None:
    assert (phase_count(layer), taps_of(layer)) == (count, taps)
    phases = phases_of(layer)
    assert (phases.count, phases.taps) == (count, (*(1,) * (2 - len(taps)), *taps))
    axes = zip(layer.kernel, layer.stride, strict=True)
    assert count == prod(len({tap % stride for tap in range(kernel)}) for kernel, stride in axes)


def test_products_of_a_tile_by_hand() -> None:
    """F(4x4, 3x3) of stride 2 has phases of 2 and of 1 tap: 5 and 4 products along an axis, 81 in all of 144."""
    assert Phases(kernel=(3, 3), strides=(2, 2)).products(5, 5) == 81
    assert Phases(kernel=(3, 3), strides=(1, 1)).products(6, 6) == 36
    assert Phases(kernel=(1, 5), strides=(1, 3)).products(1, 5) == 5 + 5 + 4
    assert Phases(kernel=(2, 2), strides=(3, 3)).products(1, 1) == 4
