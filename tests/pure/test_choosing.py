"""The choice of an algorithm: what a user asks for if it fits, else the fastest within the error budget."""

import pytest

from lowprec.choosing import ABOUT, Candidate, best_of, candidates, winograd_outputs
from lowprec.convolution import Conv
from lowprec.plan import Choice, Plan, make_plan
from lowprec.predicting import BUDGET, Prediction
from lowprec.predicting_winograd import TILES
from lowprec.recipe import Recipe, Rule
from lowprec.targets import parse_target
from lowprec.vocabulary import ALGORITHMS
from tests.layers import conv, layer, line, volume

TARGET = parse_target("x86-64-v3")
MANY = 1024  # channels at which F(6, 3) alone is not within the budget


def plan_of(geometry: Conv, algorithm: str = "auto") -> Plan:
    return make_plan([layer("c", "Conv", geometry)], recipe=Recipe(), algorithm=algorithm, target=TARGET)


def choice_of(geometry: Conv, algorithm: str = "auto") -> Choice:
    return plan_of(geometry, algorithm).choices[0]


def made(algorithm: str, cycles: float, error: float) -> Candidate:
    return Candidate(algorithm=algorithm, prediction=Prediction(cycles=cycles, error=error, weight_bytes=0))


def test_every_algorithm_is_a_candidate_and_direct_fits_always() -> None:
    names = [name for name in ALGORITHMS.built if name not in ("auto", "winograd")]
    assert set(names) >= {"direct", *(f"winograd:{outputs}" for outputs in TILES)}
    strided = conv(stride=(2, 2)), conv(stride=(3, 3)), conv(stride=(2, 2), groups=64), conv(dilation=(2, 2))
    for geometry in (conv(), volume(), line(), *strided, conv(groups=64), conv(transposed=True)):
        offered = candidates(geometry, TARGET)
        assert [candidate.algorithm for candidate in offered] == names
        assert offered[0].prediction is not None
        assert all(bool(candidate.obstacle) == (candidate.prediction is None) for candidate in offered)


def test_candidates_say_what_they_compute() -> None:
    flat = conv(kernel=(1, 7), pads_begin=(0, 3), pads_end=(0, 3))
    details = {candidate.algorithm: candidate.detail for candidate in candidates(flat, TARGET)}
    assert details["winograd:4"] == "Winograd F(1x4, 1x7)"


@pytest.mark.parametrize(
    ("wish", "fits"), [("winograd", True), ("winograd:4", True), ("winograd:2", False), ("direct", False)]
)
def test_a_wish_for_winograd_is_any_of_its_tiles(wish: str, fits: bool) -> None:
    assert made("winograd:4", 1.0, 0.0).is_a(wish) == fits


def test_the_tile_is_in_the_name() -> None:
    assert [winograd_outputs(f"winograd:{outputs}") for outputs in TILES] == list(TILES)
    assert winograd_outputs("direct") is None


def test_the_more_exact_of_those_about_as_fast() -> None:
    fast, exact, slow = made("a", 100.0, 3e-6), made("b", 100.0 * ABOUT, 1e-6), made("c", 100.0 * ABOUT + 1, 1e-7)
    assert best_of([fast, exact, slow]) is exact
    assert best_of([slow, fast]) is fast
    assert best_of([made("d", 100.0, 3e-6), made("e", 99.0, 3e-6)]).algorithm == "e"


@pytest.mark.parametrize("size", [28, 56])
@pytest.mark.parametrize("target", ["x86-64", "x86-64-v3", "x86-64-v4"])
def test_a_wide_layer_of_nine_taps_takes_winograd(target: str, size: int) -> None:
    plan = make_plan([layer("c", "Conv", conv(size=(size, size)))], recipe=Recipe(), target=parse_target(target))
    assert winograd_outputs(plan.choices[0].algorithm)
    assert "times as fast as direct" in plan.choices[0].reason


@pytest.mark.parametrize("target", ["x86-64", "x86-64-v3", "x86-64-v4"])
@pytest.mark.parametrize(
    "geometry",
    [conv(stride=(2, 2)), conv(stride=(1, 2)), conv(kernel=(11, 11), stride=(4, 4))],
    ids=["3x3 stride 2", "3x3 stride 1x2", "11x11 stride 4"],
)
def test_so_does_a_wide_layer_with_strides(geometry: Conv, target: str) -> None:
    plan = make_plan([layer("c", "Conv", geometry)], recipe=Recipe(), target=parse_target(target))
    assert winograd_outputs(plan.choices[0].algorithm)
    assert "times as fast as direct" in plan.choices[0].reason


@pytest.mark.parametrize(
    "geometry",
    [
        conv(in_channels=3),
        conv(stride=(3, 3)),
        conv(in_channels=3, stride=(2, 2)),
        conv(groups=64, stride=(2, 2)),
        conv(dilation=(2, 2)),
        conv(kernel=(1, 1), pads_begin=(0, 0), pads_end=(0, 0)),
        conv(groups=64),
        volume(),
        conv(in_channels=4, out_channels=4),
    ],
    ids=[
        "stem",
        "stride",
        "strided stem",
        "strided depthwise",
        "dilation",
        "pointwise",
        "depthwise",
        "volume",
        "narrow",
    ],
)
def test_other_layers_stay_direct(geometry: Conv) -> None:
    choice = choice_of(geometry)
    assert (choice.algorithm, choice.declined) == ("direct", ())


@pytest.mark.parametrize("geometry", [conv(), conv(stride=(2, 2))], ids=["plain", "strided"])
@pytest.mark.parametrize("algorithm", ["direct", "fft", *(f"winograd:{outputs}" for outputs in TILES)])
def test_a_forced_algorithm_that_fits_is_taken(algorithm: str, geometry: Conv) -> None:
    choice = choice_of(geometry, algorithm)
    assert (choice.algorithm, choice.declined) == (algorithm, ())
    predicted = next(candidate for candidate in candidates(geometry, TARGET) if candidate.algorithm == algorithm)
    assert (choice.error, choice.milliseconds) == (predicted.error, predicted.milliseconds)


def test_a_forced_algorithm_is_taken_though_it_is_slower() -> None:
    few = conv(in_channels=4, out_channels=4)
    assert choice_of(few, "winograd").algorithm.startswith("winograd:")
    assert choice_of(conv(), "winograd").algorithm == choice_of(conv()).algorithm


def test_a_forced_algorithm_that_does_not_fit_leaves_its_sentence() -> None:
    choice = choice_of(conv(dilation=(2, 2)), "winograd:4")
    assert choice.algorithm == "direct"
    assert choice.declined == ("winograd:4: dilation 2: Winograd needs taps side by side",)


def test_one_sentence_for_all_tiles_that_do_not_fit() -> None:
    assert choice_of(volume(), "winograd").declined == ("winograd: 3 spatial axes: Winograd is built for one and two",)


def test_the_layer_then_takes_the_best_that_does_fit() -> None:
    """F(6, 7) has no points, F(4, 7) has."""
    wide = conv(kernel=(7, 7), pads_begin=(3, 3), pads_end=(3, 3))
    choice = choice_of(wide, "winograd:6")
    assert choice.algorithm == choice_of(wide).algorithm != "winograd:6"
    assert choice.declined == ("winograd:6: F(6, 7) needs more points than keep its error small",)


def test_the_budget_rules_out_what_is_too_inexact() -> None:
    many = conv(in_channels=MANY, out_channels=MANY)
    plan = plan_of(many)
    (choice,) = plan.choices
    assert choice.error is not None
    assert choice.error <= BUDGET
    (sentence,) = choice.declined
    assert sentence.startswith("winograd:6: its predicted error 1.2e-05 is more than the layer's budget 1e-05")
    assert f"declined {sentence}" in str(plan)


def test_a_forced_algorithm_is_taken_though_it_is_too_inexact() -> None:
    choice = choice_of(conv(in_channels=MANY, out_channels=MANY), "winograd:6")
    assert (choice.algorithm, choice.declined) == ("winograd:6", ())
    assert choice.error is not None
    assert choice.error > BUDGET


def test_a_rule_forces_one_layer_alone() -> None:
    recipe = Recipe(rules=(Rule(layer="b", algorithm="winograd:2"),))
    layers = [layer("a", "Conv", conv()), layer("b", "Conv", conv())]
    plan = make_plan(layers, recipe=recipe, algorithm="direct", target=TARGET)
    assert [choice.algorithm for choice in plan.choices] == ["direct", "winograd:2"]


def test_a_layer_left_to_the_rule_has_no_prediction() -> None:
    choice = plan_of(conv(), "fft").declining({"c": "the convolution is empty"}).choices[0]
    assert (choice.algorithm, choice.error, choice.milliseconds, choice.sizes) == ("generic", None, None, ())
    assert choice.declined[-1].endswith(": the convolution is empty")
