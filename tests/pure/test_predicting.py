"""Predictions: what each algorithm costs and loses, and why it does not fit, one sentence a reason."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lowprec.convolution import Conv
from lowprec.predicting import (
    CHAIN,
    TILES,
    TRANSFORMS,
    UNIT,
    Prediction,
    filterings,
    predict_direct,
    predict_winograd,
    winograd_obstacle,
)
from lowprec.targets import parse_target
from lowprec.winograd import POINTS, Filtering
from tests.layers import conv, line, volume

TARGET = parse_target("x86-64-v3")


@pytest.mark.parametrize(
    ("layer", "outputs", "sentence"),
    [
        (conv(transposed=True), 4, "transposed: Winograd needs a plain convolution"),
        (conv(stride=(1, 2)), 4, "stride 2: Winograd needs stride 1"),
        (conv(dilation=(3, 1)), 4, "dilation 3: Winograd needs taps side by side"),
        (volume(), 2, "3 spatial axes: Winograd is built for one and two"),
        (conv(groups=64), 2, "depthwise: nothing is summed between the transforms"),
        (conv(kernel=(1, 1)), 2, "one tap: there are no products to save"),
        (conv(kernel=(3, 7)), 3, "F(3, 7) needs more points than keep its error small"),
        (conv(kernel=(11, 11), size=(224, 224)), 2, "F(2, 11) needs more points than keep its error small"),
        (conv(), 4, ""),
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


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 30), st.integers(1, 30), st.sampled_from(TILES))
def test_what_has_no_obstacle_has_its_matrices(high: int, wide: int, rows: int, columns: int, outputs: int) -> None:
    layer = conv(kernel=(high, wide), size=(rows + high - 1, columns + wide - 1), pads_begin=(0, 0), pads_end=(0, 0))
    if not winograd_obstacle(layer, outputs):
        axes = filterings(layer, outputs)
        assert all(axis.taps == 1 or axis.inputs - 1 in POINTS for axis in axes)
        assert predict_winograd(layer, outputs, TARGET).cycles > 0
    elif max(high, wide) > 1:
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


def test_wider_vectors_are_faster() -> None:
    narrow, wide = (parse_target(name) for name in ("x86-64", "x86-64-v4"))
    for outputs in TILES:
        assert predict_winograd(conv(), outputs, wide).cycles < predict_winograd(conv(), outputs, narrow).cycles
    assert predict_direct(conv(), wide).cycles < predict_direct(conv(), narrow).cycles


def test_milliseconds_are_cycles_of_the_clock() -> None:
    assert Prediction(cycles=2.55e6, error=0.0, weight_bytes=0).milliseconds == pytest.approx(1.0)
