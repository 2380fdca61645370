"""Predictions: what each algorithm costs and loses, and why it does not fit, one sentence a reason."""

from collections.abc import Callable
from dataclasses import replace
from math import prod

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lowprec.convolution import Conv
from lowprec.phases import phase_count, taps_of
from lowprec.predicting import CHAIN, UNIT, Prediction, predict_direct
from lowprec.predicting_winograd import TILES, TRANSFORMS, filterings, predict_winograd, winograd_obstacle
from lowprec.targets import parse_target
from lowprec.winograd import POINTS, Filtering
from tests.layers import conv, line, volume
from tests.oracle import transformed, unstrided

TARGET = parse_target("x86-64-v3")


@pytest.mark.parametrize(
    ("layer", "outputs", "sentence"),
    [
        (conv(transposed=True), 4, "transposed: Winograd needs a plain convolution"),
        (conv(dilation=(3, 1)), 4, "dilation 3: Winograd needs taps side by side"),
        (volume(), 2, "3 spatial axes: Winograd is built for one and two"),
        (conv(groups=64), 2, "depthwise: nothing is summed between the transforms"),
        (conv(groups=64, stride=(2, 2)), 2, "depthwise: nothing is summed between the transforms"),
        (conv(kernel=(1, 1)), 2, "one tap: there are no products to save"),
        (conv(kernel=(1, 1), stride=(2, 2)), 2, "one tap: there are no products to save"),
        (conv(stride=(3, 4)), 2, "one tap a phase of its stride: there are no products to save"),
        (conv(kernel=(7, 7), stride=(2, 2)), 6, "F(6, 4) needs more points than keep its error small"),
        (conv(kernel=(3, 7)), 3, "F(3, 7) needs more points than keep its error small"),
        (conv(kernel=(11, 11), size=(224, 224)), 2, "F(2, 11) needs more points than keep its error small"),
        (conv(), 4, ""),
        (conv(stride=(1, 2)), 4, ""),
        (conv(stride=(2, 3)), 6, ""),
        (conv(kernel=(11, 11), size=(224, 224), stride=(4, 4)), 6, ""),
        (line(kernel=(11,), stride=(3,)), 4, ""),
        (conv(groups=2), 6, ""),
        (conv(kernel=(1, 7)), 4, ""),
        (line(kernel=(2,)), 6, ""),
    ],
)
def test_every_obstacle_is_a_sentence(layer: Conv, outputs: int, sentence: str) -> None:
    assert winograd_obstacle(layer, outputs) == sentence


def test_an_axis_with_few_outputs_needs_few_points() -> None:
    """F(6, 5) needs 9 points and F(6, 7) 11; of three outputs both are smaller, of which F(3, 7) has no points."""
    small = conv(kernel=(5, 5), size=(3, 3), pads_begin=(2, 2), pads_end=(2, 2))
    assert winograd_obstacle(small, 6) == ""
    assert filterings(small, 6) == (Filtering(outputs=3, taps=5),) * 2
    assert winograd_obstacle(replace(small, kernel=(7, 7), pads_begin=(3, 3), pads_end=(3, 3)), 6)


def test_an_axis_of_one_tap_is_not_transformed() -> None:
    flat = conv(kernel=(1, 3), pads_begin=(0, 1), pads_end=(0, 1))
    assert filterings(flat, 4) == (Filtering(outputs=1, taps=1), Filtering(outputs=4, taps=3))
    assert filterings(conv(stride=(3, 2)), 4) == (Filtering(outputs=1, taps=1), Filtering(outputs=4, taps=2))


STRIDES = st.tuples(st.integers(1, 3), st.integers(1, 3))


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 30), st.integers(1, 30), st.sampled_from(TILES), STRIDES)
def test_what_has_no_obstacle_has_its_matrices(
    high: int, wide: int, rows: int, columns: int, outputs: int, stride: tuple[int, int]
) -> None:
    size = (rows + high - 1, columns + wide - 1)
    layer = conv(kernel=(high, wide), size=size, stride=stride, pads_begin=(0, 0), pads_end=(0, 0))
    if not winograd_obstacle(layer, outputs):
        axes = filterings(layer, outputs)
        assert all(axis.taps == 1 or axis.inputs - 1 in POINTS for axis in axes)
        assert predict_winograd(layer, outputs, TARGET).cycles > 0
    elif max(taps_of(layer)) > 1:
        with pytest.raises(ValueError, match="has no points"):
            filterings(layer, outputs)


PREDICTORS: dict[str, Callable[[Conv], Prediction]] = {
    "direct": lambda layer: predict_direct(layer, TARGET),
    "winograd:2": lambda layer: predict_winograd(layer, 2, TARGET),
    "winograd:3": lambda layer: predict_winograd(layer, 3, TARGET),
    "winograd:4": lambda layer: predict_winograd(layer, 4, TARGET),
    "winograd:6": lambda layer: predict_winograd(layer, 6, TARGET),
}


@pytest.mark.parametrize("predict", PREDICTORS.values(), ids=PREDICTORS)
def test_more_work_costs_more(predict: Callable[[Conv], Prediction]) -> None:
    for small, large in (
        (conv(), conv(in_channels=96)),
        (conv(), conv(out_channels=96)),
        (conv(), conv(batch=2)),
        (conv(), conv(size=(56, 84))),
        (conv(groups=2), conv()),
    ):
        assert predict(small).cycles < predict(large).cycles


@pytest.mark.parametrize("predict", PREDICTORS.values(), ids=PREDICTORS)
def test_longer_sums_lose_more(predict: Callable[[Conv], Prediction]) -> None:
    few, many = predict(conv(in_channels=16)), predict(conv(in_channels=256))
    assert few.error < many.error < 4 * few.error * (1 + 1e-12)
    assert predict(conv(out_channels=256)).error == predict(conv()).error
    assert few.weight_bytes * 16 == many.weight_bytes


def test_larger_tiles_lose_more_and_keep_more_weights() -> None:
    found = [predict_winograd(conv(), outputs, TARGET) for outputs in TILES]
    assert [each.error for each in found] == sorted({each.error for each in found})
    assert [each.weight_bytes for each in found] == [4 * 64 * 64 * (outputs + 2) ** 2 for outputs in TILES]


def test_errors_are_equation_two() -> None:
    assert predict_direct(conv(), TARGET).error == pytest.approx(UNIT * (CHAIN * 9 * 64) ** 0.5)
    growth = Filtering(outputs=2, taps=3).growth ** 2
    assert predict_winograd(conv(), 2, TARGET).error == pytest.approx(UNIT * growth * (TRANSFORMS + CHAIN * 64) ** 0.5)
    assert predict_winograd(conv(groups=4), 2, TARGET).error < predict_winograd(conv(), 2, TARGET).error


@pytest.mark.parametrize(
    ("layer", "outputs"),
    [
        (conv(), 4),
        (conv(stride=(2, 2)), 2),
        (conv(stride=(2, 1)), 6),
        (conv(stride=(3, 2), groups=2), 3),
        (conv(kernel=(7, 7), stride=(2, 2)), 4),
        (conv(kernel=(11, 11), stride=(4, 4)), 4),
        (conv(kernel=(5, 2), stride=(3, 4)), 4),
        (line(kernel=(5,), stride=(2,)), 6),
    ],
)
def test_errors_are_those_of_the_middle_at_each_place_of_a_tile(layer: Conv, outputs: int) -> None:
    """Of ones, and of one tap at a time, by the oracle of kernels: what is squared everywhere adds up as variances."""
    axes, count = filterings(layer, outputs), prod(layer.kernel)
    extents = zip(axes, layer.kernel, layer.stride, strict=True)
    size, none = tuple((axis.outputs - 1) * s + k for axis, k, s in extents), (0,) * len(axes)
    tile = replace(layer, in_channels=1, out_channels=count, groups=1, size=size, pads_begin=none, pads_end=none)
    taps = np.eye(count, dtype=np.float32).reshape(tile.weight_shape)
    plain, x, w = unstrided(tile, np.ones((1, 1, *size), np.float32), taps)
    of_places = transformed(plain, axes, x, w, np.square).sum(1) / count
    channels = layer.in_channels // layer.groups * phase_count(layer)
    found = predict_winograd(layer, outputs, TARGET)
    assert found.error == pytest.approx(UNIT * (of_places.mean() * (TRANSFORMS + CHAIN * channels)) ** 0.5)
    assert found.peak == pytest.approx((of_places.max() / of_places.mean()) ** 0.5)
    assert found.peak >= 1


def test_strided_weights_are_those_of_every_phase() -> None:
    for outputs in TILES:
        assert (
            predict_winograd(conv(stride=(2, 2)), outputs, TARGET).weight_bytes == 4 * 64 * 64 * 4 * (outputs + 1) ** 2
        )


def test_strides_save_less_than_they_leave_out() -> None:
    """Of F(4x4, 3x3) a tile of stride 2 has 81 products, and the four of stride 1 in its place 144."""
    wide = conv(in_channels=256, out_channels=256)
    plain, strided = (predict_winograd(layer, 4, TARGET) for layer in (wide, replace(wide, stride=(2, 2))))
    assert 0.45 < strided.cycles / plain.cycles < 0.75


def test_wider_vectors_are_faster() -> None:
    narrow, wide = (parse_target(name) for name in ("x86-64", "x86-64-v4"))
    for outputs in TILES:
        assert predict_winograd(conv(), outputs, wide).cycles < predict_winograd(conv(), outputs, narrow).cycles
    assert predict_direct(conv(), wide).cycles < predict_direct(conv(), narrow).cycles


def test_milliseconds_are_cycles_of_the_clock() -> None:
    assert Prediction(cycles=2.55e6, error=0.0, weight_bytes=0).milliseconds == pytest.approx(1.0)
