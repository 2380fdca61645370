"""Plans are data: one choice a layer, a reason for each, a sentence for each wish that was declined."""

import json
from dataclasses import replace
from typing import Any

import pytest

from lowprec.errors import Unsupported, UsageError
from lowprec.layers import Gemm
from lowprec.plan import Choice, Formats, Measured, Plan, describe, make_plan, table
from lowprec.recipe import Recipe, Rule
from lowprec.targets import parse_target
from tests.layers import conv, layer

TARGET = parse_target("x86-64-v3")


LAYERS = (
    layer("c1", "Conv", conv(stride=(2, 2), dilation=(2, 2))),
    layer("r1", "Relu", None),
    layer("fc", "Gemm", Gemm(batch=1, rows=1, cols=1000, depth=2048)),
    layer("r2", "Relu", None),
)


def test_a_choice_for_every_layer() -> None:
    plan = make_plan(LAYERS, recipe=Recipe(), target=TARGET)
    assert [choice.algorithm for choice in plan.choices] == ["direct", "generic", "gemm", "generic"]
    assert all(choice.reason and not choice.declined for choice in plan.choices)
    assert plan.choice("fc").reason == "1 x 2048 by 2048 x 1000: blocked product, 8 fp32 lanes"
    assert [choice.layer for choice in plan.choices if choice.error is not None] == ["c1"]
    assert [choice.layer for choice in plan.choices if choice.milliseconds is not None] == ["c1"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "epilogue fused"),
        ({"groups": 64}, "depthwise"),
        ({"groups": 4}, "4 groups"),
        ({"transposed": True}, "transposed"),
        ({"kernel": (1, 1), "pads_begin": (0, 0), "pads_end": (0, 0)}, "pointwise"),
    ],
)
def test_reasons_name_the_kind(changes: dict[str, Any], words: str) -> None:
    plan = make_plan([layer("c", "Conv", conv(**changes))], recipe=Recipe(), algorithm="direct", target=TARGET)
    assert words in plan.choices[0].reason
    assert plan.choices[0].algorithm == "direct"


ALONE = {"groups": 64, "kernel": (7, 7), "pads_begin": (3, 3), "pads_end": (3, 3)}
PLANES = "on images as they lie"


def choose_alone(algorithm: str = "auto", measured: Measured | None = None, **changes: Any) -> Choice:
    """For a depthwise layer between the model's input and its output."""
    alone = replace(layer("c", "Conv", conv(**ALONE | changes)), alone=True)
    plan = make_plan([alone], recipe=Recipe(), algorithm=algorithm, target=TARGET, measured=measured)
    return plan.choices[0]


def test_images_that_need_not_be_turned() -> None:
    assert PLANES in choose_alone().reason
    assert PLANES in choose_alone("direct").reason
    assert (
        PLANES not in make_plan([layer("c", "Conv", conv(**ALONE))], recipe=Recipe(), target=TARGET).choices[0].reason
    )


@pytest.mark.parametrize(
    "changes", [{"groups": 32}, {"size": (56, 7)}, {"transposed": True}, {"out_channels": 128}], ids=str
)
def test_images_that_no_kernel_leaves_as_they_lie(changes: dict[str, Any]) -> None:
    assert PLANES not in choose_alone("direct", **changes).reason


def test_turning_images_is_part_of_other_algorithms() -> None:
    turned, inside = (
        choose_alone("fft"),
        make_plan([layer("c", "Conv", conv(**ALONE))], recipe=Recipe(), algorithm="fft", target=TARGET).choices[0],
    )
    assert turned.algorithm == inside.algorithm == "fft"
    assert turned.milliseconds is not None
    assert inside.milliseconds is not None
    assert turned.milliseconds > inside.milliseconds


def test_measured_times_are_without_turning() -> None:
    geometry, sizes = conv(**ALONE), choose_alone("fft").sizes
    alike = {geometry: {("direct", ()): 1.001e-3, ("fft", sizes): 1e-3}}
    assert choose_alone(measured=alike).algorithm == "direct"
    far = {geometry: {("direct", ()): 9e-2, ("fft", sizes): 1e-3}}
    assert choose_alone(measured=far).algorithm == "fft"


def test_reasons_name_the_tile_and_what_it_saves() -> None:
    plan = make_plan([layer("c", "Conv", conv())], recipe=Recipe(), algorithm="winograd:4", target=TARGET)
    reason = plan.choices[0].reason
    assert reason.startswith("3x3, 64 -> 64 at 56x56: Winograd F(4x4, 3x3), predicted ")
    assert reason.endswith(" times as fast as direct")


def test_a_forced_algorithm_that_does_not_fit_is_declined_with_a_reason() -> None:
    plan = make_plan(LAYERS, recipe=Recipe(), algorithm="direct", target=TARGET)
    assert plan.choice("c1").declined == ()
    sentence = "direct: this layer is a matrix product, and direct needs a convolution"
    assert plan.choice("fc").declined == (sentence,)
    assert f"declined {sentence}" in str(plan)


def test_a_rule_wins_over_the_call() -> None:
    recipe = Recipe(rules=(Rule(layer="fc", algorithm="auto"),))
    assert make_plan(LAYERS, recipe=recipe, algorithm="direct", target=TARGET).choice("fc").declined == ()


def test_printed_plans_are_aligned_and_fold_what_offers_no_choice() -> None:
    lines = str(make_plan(LAYERS, recipe=Recipe(), target=TARGET)).splitlines()
    assert lines[0].split() == ["layer", "op", "algorithm", "formats", "error", "ms", "reason"]
    assert len({line.index("fp32") for line in lines[2:]}) == 1
    error, milliseconds = (lines[0].index(name) for name in ("error", "ms"))
    (convolution,) = (line for line in lines if line.startswith("c1"))
    assert convolution[error:].startswith("4.3e-07")
    assert float(convolution[milliseconds:].split()[0]) > 0
    (product,) = (line for line in lines if line.startswith("fc"))
    assert product[error : lines[0].index("reason")].isspace(), "where there is no choice nothing is predicted"
    assert lines[-1].startswith("(2 layers)")


def test_json_round_trip() -> None:
    layers = (*LAYERS, layer("c2", "Conv", conv()))
    plan = make_plan(layers, recipe=Recipe(), algorithm="winograd:4", target=TARGET)
    assert plan.choice("c2").algorithm == "winograd:4"
    assert plan.choice("c1").declined
    assert Plan.from_json(json.loads(json.dumps(plan.to_json()))) == plan


def test_names_not_built_are_refused() -> None:
    with pytest.raises(Unsupported, match="algorithm 'strassen' is not built yet"):
        make_plan(LAYERS, recipe=Recipe(), algorithm="strassen", target=TARGET)
    with pytest.raises(UsageError, match="unknown algorithm 'winograd:5'"):
        make_plan(LAYERS, recipe=Recipe(), algorithm="winograd:5", target=TARGET)
    with pytest.raises(UsageError, match=r"unknown precision 'fp31' \(did you mean 'fp32'\?\)"):
        make_plan(LAYERS, recipe=Recipe(), precision="fp31", target=TARGET)


def test_words() -> None:
    assert describe(conv(stride=(2, 1), dilation=(2, 2))) == "3x3 stride 2x1 dilation 2, 64 -> 64 at 56x56"
    assert str(Formats(weights="int8", activations="int8", sums="int32")) == "int8 x int8 in int32"
    assert table([("a", "b"), ("ccc", "d")]) == "a    b\n------\nccc  d"
    assert Choice(layer="x", op="Conv", algorithm="direct", formats=Formats(), reason="r").declined == ()


BFLOATS, HALVES = ("bf16", "bf16", "fp32"), ("fp16", "fp16", "fp32")


@pytest.mark.parametrize(
    ("changes", "words", "target", "on_tiles"),
    [
        ({}, BFLOATS, "sapphirerapids", True),
        ({}, BFLOATS, "x86-64-v4", False),
        ({}, HALVES, "sapphirerapids", True),
        ({}, HALVES, "cascadelake", False),
        ({"in_channels": 8}, HALVES, "sapphirerapids", False),
        ({"groups": 4}, HALVES, "sapphirerapids", False),
        ({"in_channels": 128, "kernel": (1, 1)}, HALVES, "sapphirerapids", True),
        ({"kernel": (1, 1)}, HALVES, "sapphirerapids", False),
        ({"in_channels": 1}, BFLOATS, "sapphirerapids", False),
        ({"groups": 64}, BFLOATS, "sapphirerapids", False),
    ],
)
def test_floats_are_multiplied_on_tiles_where_they_fill_them(
    changes: dict[str, Any], words: tuple[str, str, str], target: str, on_tiles: bool
) -> None:
    one = replace(layer("c", "Conv", conv(**changes)), words=words)
    (choice,) = make_plan([one], recipe=Recipe(), precision="bf16", target=parse_target(target)).choices
    assert ("on tiles" in choice.reason) == on_tiles
    assert choice.algorithm == "direct" or not on_tiles


@pytest.mark.parametrize(
    ("changes", "words", "target", "on_tiles"),
    [
        ({}, ("int8", "uint8", "int32"), "sapphirerapids", True),
        ({}, ("int8", "uint8", "int32"), "cascadelake", False),
        ({}, ("int16", "uint8", "int32"), "sapphirerapids", False),
        ({}, ("int16", "int16", "int64"), "sapphirerapids", True),
        ({"in_channels": 4096}, ("int16", "int16", "int64"), "sapphirerapids", False),
        ({"groups": 64}, ("int8", "uint8", "int32"), "sapphirerapids", False),
    ],
)
def test_integers_are_summed_on_tiles_where_they_fill_them(
    changes: dict[str, Any], words: tuple[str, str, str], target: str, on_tiles: bool
) -> None:
    one = replace(layer("c", "Conv", conv(**changes)), words=words)
    (choice,) = make_plan([one], recipe=Recipe(), precision="int8", target=parse_target(target)).choices
    assert ("exact sums on tiles" in choice.reason) == on_tiles


def test_a_wish_for_an_algorithm_is_met_beside_tiles() -> None:
    one = replace(layer("c", "Conv", conv()), words=BFLOATS)
    target = parse_target("sapphirerapids")
    plan = make_plan([one], recipe=Recipe(), algorithm="winograd:2", precision="bf16", target=target)
    assert plan.choices[0].algorithm == "winograd:2"
