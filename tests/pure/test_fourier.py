"""Fourier tiles in float64: the factors, the weights' spectra, equation 1; and what is predicted of their kernels."""

from fractions import Fraction
from itertools import product
from math import ceil, cos, pi, sin, sqrt

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy.typing import NDArray

from lowprec.choosing import FFT, IM2COL, NEAR_SIZES, Candidate, candidate_of, candidates, tunable
from lowprec.convolution import Conv, convolve
from lowprec.fourier import FACTORS, Segment, frequencies, roots, transform_weights
from lowprec.predicting import CHAIN, UNIT, predict_im2col
from lowprec.predicting_fourier import BUTTERFLIES, fourier_obstacle, predict_fourier, segments_of, sizes_by_time
from lowprec.targets import parse_target
from tests.layers import conv, line, volume

Numbers = NDArray[np.float64]
TARGET = parse_target("x86-64-v3")
AXES = [((8, 3), (8, 3)), ((12, 5), (16, 4)), ((20, 1), (8, 8)), ((30, 31 - 2), (24, 2)), ((36, 33), (40, 7))]


def segment(size: int, taps: int, outputs: int | None = None) -> Segment:
    return Segment(size=size, taps=taps, outputs=size - taps + 1 if outputs is None else outputs)


@pytest.mark.parametrize(("size", "factors"), FACTORS.items())
def test_factors_are_the_sizes(size: int, factors: tuple[int, int]) -> None:
    """The first is even, so that the middle of a line lies between two steps; both have a transform written out."""
    first, second = factors
    assert first * second == size
    assert first % 2 == 0
    for factor in factors:
        for prime in (2, 3, 5):
            while factor % prime == 0:
                factor //= prime
        assert factor == 1
    assert list(FACTORS) == sorted(FACTORS)


@pytest.mark.parametrize(
    ("size", "taps", "outputs"),
    [(7, 3, 1), (10, 3, 1), (8, 9, 1), (8, 3, 0), (8, 3, 7), (8, 3, -1), (0, 1, 1), (256, 3, 1)],
)
def test_what_is_no_segment(size: int, taps: int, outputs: int) -> None:
    with pytest.raises(ValueError, match="is no segment"):
        Segment(size=size, taps=taps, outputs=outputs)


def test_a_segments_reach() -> None:
    assert segment(8, 3).reach == 8
    assert segment(8, 3, 2).reach == 4
    assert frequencies(segment(12, 3), segment(16, 3)) == 9 * 12


@pytest.mark.parametrize(("high", "wide"), AXES, ids=str)
def test_weights_are_transformed_as_the_sum_says(high: tuple[int, int], wide: tuple[int, int]) -> None:
    rows, columns = segment(*high), segment(*wide)
    weights = np.random.default_rng(1).standard_normal((2, 3, rows.taps, columns.taps))
    found = transform_weights(weights, rows, columns)
    assert found.shape == (2, 3, columns.size // 2 + 1, rows.size)
    u, i = np.arange(rows.size), np.arange(rows.taps)
    v, j = np.arange(columns.size // 2 + 1), np.arange(columns.taps)
    along = np.exp(-2j * np.pi * np.outer(u, i) / rows.size)
    across = np.exp(-2j * np.pi * np.outer(v, j) / columns.size)
    expected = np.conj(np.einsum("ui,vj,kcij->kcvu", along, across, weights)) / (2 * rows.size * columns.size)
    assert np.abs(found - expected).max() <= 1e-13 * np.abs(expected).max()


def naive(size: int, j: int) -> tuple[Fraction, Fraction]:
    """cos and -sin in float64, whose own error is far below half a float32 step."""
    return Fraction(cos(2 * pi * j / size)), Fraction(-sin(2 * pi * j / size))


@pytest.mark.parametrize("size", FACTORS)
def test_roots_are_rounded_once(size: int) -> None:
    table = roots(size)
    assert table.dtype == np.float32
    assert table.shape == (size, 2)
    for j, row in enumerate(table):
        for got, exact in zip(row, naive(size, j), strict=True):
            step = max(abs(np.spacing(got)), np.float32(2.0**-40))
            assert abs(Fraction(float(got)) - exact) <= Fraction(float(step)) * Fraction(501, 1000), j
    exactly = np.exp(-2j * np.pi * np.arange(size) / size)
    assert np.abs(table[:, 0] + 1j * table[:, 1] - exactly).max() < 2.0**-24 * sqrt(2)


def overlap_save(layer: Conv, x: Numbers, w: Numbers, high: Segment, wide: Segment) -> Numbers:
    """Equation 1, tile by tile; the factor 1 / 2 that pairs of rows need is taken out again."""
    spectra = 2 * high.size * wide.size * transform_weights(w, high, wide).swapaxes(-1, -2)
    y = np.full((layer.batch, layer.out_channels, *layer.output_size), np.nan)
    starts = [
        [min(t * axis.outputs, extent - axis.outputs) for t in range(ceil(extent / axis.outputs))]
        for axis, extent in zip((high, wide), layer.output_size, strict=True)
    ]
    for h, v in product(*starts):
        tile = x[:, :, h : h + high.reach, v : v + wide.reach]
        sums = np.einsum("ncuv,kcuv->nkuv", np.fft.rfft2(tile, (high.size, wide.size)), spectra)
        kept = np.fft.irfft2(sums, (high.size, wide.size))[:, :, : high.outputs, : wide.outputs]
        y[:, :, h : h + high.outputs, v : v + wide.outputs] = kept
    return y


@given(
    st.sampled_from([8, 12, 16, 20]),
    st.sampled_from([8, 12, 24, 30]),
    st.integers(1, 19),
    st.integers(1, 24),
    st.integers(1, 25),
    st.integers(1, 25),
)
def test_equation_one_is_the_convolution(
    high: int, wide: int, rows: int, columns: int, outputs_high: int, outputs_wide: int
) -> None:
    assume(rows < high and columns < wide)
    layer = conv(
        batch=2,
        in_channels=2,
        out_channels=3,
        kernel=(rows, columns),
        size=(outputs_high + rows - 1, outputs_wide + columns - 1),
        pads_begin=(0, 0),
        pads_end=(0, 0),
    )
    axes = segments_of(layer, (high, wide))
    assert [axis.outputs for axis in axes] == [
        min(high - rows + 1, outputs_high),
        min(wide - columns + 1, outputs_wide),
    ]
    rng = np.random.default_rng(rows)
    x, w = rng.standard_normal((2, 2, *layer.size)), rng.standard_normal(layer.weight_shape)
    expected = convolve(layer, x, w)
    assert np.abs(overlap_save(layer, x, w, *axes) - expected).max() <= 1e-12 * sqrt(rows * columns) * 10


@pytest.mark.parametrize(
    ("layer", "sentence"),
    [
        (conv(transposed=True), "transposed: FFT needs a plain convolution"),
        (conv(groups=64, stride=(1, 2)), ""),
        (conv(dilation=(3, 1)), "dilation 3: FFT needs taps side by side"),
        (line(), "1 spatial axes: FFT is built for two"),
        (volume(), "3 spatial axes: FFT is built for two"),
        (conv(kernel=(1, 128), size=(5, 200)), "128 taps: the longest transform has 128 points"),
        (conv(kernel=(1, 255), size=(5, 400), stride=(1, 2)), "128 taps: the longest transform has 128 points"),
        (conv(kernel=(127, 1), size=(200, 5)), ""),
        (conv(kernel=(1, 254), size=(5, 400), stride=(1, 2)), ""),
        (conv(stride=(1, 2)), ""),
        (conv(groups=2, stride=(3, 4)), ""),
        (conv(), ""),
        (conv(kernel=(1, 1)), ""),
        (conv(groups=64), ""),
        (conv(groups=2, kernel=(4, 31)), ""),
    ],
)
def test_every_obstacle_is_a_sentence(layer: Conv, sentence: str) -> None:
    assert fourier_obstacle(layer) == sentence
    found = next(candidate for candidate in candidates(layer, TARGET) if candidate.algorithm == FFT)
    assert found.obstacle == sentence
    assert (found.prediction is None) == bool(sentence)


def named(layer: Conv, algorithm: str) -> Candidate:
    return next(candidate for candidate in candidates(layer, TARGET) if candidate.algorithm == algorithm)


def test_im2col_has_one_obstacle() -> None:
    for layer in (conv(), line(), volume(), conv(stride=(2, 3), dilation=(2, 1)), conv(groups=64), conv(groups=2)):
        assert candidate_of(layer, IM2COL, (), TARGET) is not None
    found = named(conv(transposed=True), IM2COL)
    assert found.obstacle == "transposed: im2col needs a plain convolution"


@pytest.mark.parametrize("sizes", [(8, 8), (16, 24), (32, 32)], ids=str)
@pytest.mark.parametrize("groups", [1, 64], ids=["dense", "depthwise"])
def test_more_work_costs_more(sizes: tuple[int, int], groups: int) -> None:
    base = conv(groups=groups)
    more = [replaced for replaced in (conv(groups=groups, batch=2), conv(groups=groups, size=(84, 84)))]
    more += (
        [conv(in_channels=96), conv(out_channels=96)]
        if groups == 1
        else [conv(in_channels=96, out_channels=96, groups=96)]
    )
    for large in more:
        assert predict_fourier(base, sizes, TARGET).cycles < predict_fourier(large, sizes, TARGET).cycles


def test_more_work_costs_im2col_more() -> None:
    for large in (conv(in_channels=96), conv(out_channels=96), conv(batch=2), conv(size=(84, 84)), conv(kernel=(5, 5))):
        assert predict_im2col(conv(), TARGET).cycles < predict_im2col(large, TARGET).cycles


def test_wider_vectors_are_faster() -> None:
    narrow, wide = (parse_target(name) for name in ("x86-64", "x86-64-v4"))
    for layer in (conv(), conv(groups=64)):
        assert predict_fourier(layer, (16, 16), wide).cycles < predict_fourier(layer, (16, 16), narrow).cycles
    assert predict_im2col(conv(), wide).cycles < predict_im2col(conv(), narrow).cycles


def test_errors_are_of_the_channels_that_are_summed() -> None:
    assert predict_fourier(conv(), (16, 16), TARGET).error == pytest.approx(UNIT * sqrt(BUTTERFLIES + 2 * CHAIN * 64))
    strided = predict_fourier(conv(stride=(2, 4)), (16, 16), TARGET)
    assert strided.error == pytest.approx(UNIT * sqrt(BUTTERFLIES + 2 * CHAIN * 64 * 2 * 3))
    few = predict_fourier(conv(groups=4), (16, 16), TARGET)
    assert few.error == pytest.approx(UNIT * sqrt(BUTTERFLIES + 2 * CHAIN * 16))
    assert (
        predict_fourier(conv(kernel=(5, 5)), (16, 16), TARGET).error == predict_fourier(conv(), (16, 16), TARGET).error
    )
    assert predict_im2col(conv(), TARGET).error == pytest.approx(UNIT * sqrt(CHAIN * 9 * 64))


def test_weights_are_half_a_spectrum() -> None:
    assert predict_fourier(conv(), (12, 16), TARGET).weight_bytes == 8 * 64 * 64 * 12 * 9
    assert predict_fourier(conv(groups=64), (12, 16), TARGET).weight_bytes == 8 * 64 * 12 * 9
    assert predict_fourier(conv(stride=(2, 4)), (12, 16), TARGET).weight_bytes == 8 * 64 * 64 * 12 * 9 * 2 * 3


@given(st.integers(1, 127), st.integers(1, 127), st.integers(1, 300), st.integers(1, 300), st.sampled_from([1, 2, 64]))
def test_every_size_that_is_offered_fits(high: int, wide: int, rows: int, columns: int, groups: int) -> None:
    layer = conv(
        kernel=(high, wide),
        size=(rows + high - 1, columns + wide - 1),
        groups=groups,
        pads_begin=(0, 0),
        pads_end=(0, 0),
    )
    obstacle = fourier_obstacle(layer)
    if obstacle:
        assert "scratch" in obstacle
        return
    found = sizes_by_time(layer, TARGET)
    assert found
    cycles = [prediction.cycles for _, prediction in found]
    assert cycles == sorted(cycles)
    assert cycles[0] > 0
    for sizes, prediction in found:
        axes = segments_of(layer, sizes)
        assert [axis.size for axis in axes] == list(sizes)
        assert prediction == predict_fourier(layer, sizes, TARGET)
        for axis, extent in zip(axes, layer.output_size, strict=True):
            smaller = [size for size in FACTORS if size < axis.size and size >= extent + axis.taps - 1]
            assert not smaller, "no longer than covers an axis"
    best = named(layer, FFT)
    assert (best.sizes, best.cycles) == (found[0][0], cycles[0])


def test_several_sizes_are_measured() -> None:
    layer = conv(kernel=(15, 15), size=(40, 40), pads_begin=(7, 7), pads_end=(7, 7))
    worth = [c for c in tunable(layer, TARGET) if c.algorithm == FFT]
    assert [c.sizes for c in worth] == [sizes for sizes, _ in sizes_by_time(layer, TARGET)[:NEAR_SIZES]]
    assert len({c.detail for c in worth}) == NEAR_SIZES
