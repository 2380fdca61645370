"""Plans are data: one choice a layer, a reason for each, a sentence for each wish that was declined."""

import json
from typing import Any

import pytest

from lowprec.convolution import Conv
from lowprec.errors import Unsupported, UsageError
from lowprec.layers import Gemm, Layer
from lowprec.plan import Choice, Formats, Plan, describe, make_plan, table
from lowprec.recipe import Recipe, Rule
from lowprec.targets import parse_target

TARGET = parse_target("x86-64-v3")


def conv(**changes: Any) -> Conv:
    base: dict[str, Any] = {
        "batch": 1,
        "in_channels": 64,
        "out_channels": 64,
        "groups": 1,
        "size": (56, 56),
        "kernel": (3, 3),
        "stride": (1, 1),
        "dilation": (1, 1),
        "pads_begin": (1, 1),
        "pads_end": (1, 1),
    }
    return Conv(**base | changes)


def layer(name: str, op: str, geometry: Conv | Gemm | None) -> Layer:
    return Layer(
        name=name,
        op=op,
        output=name,
        input_shapes=(),
        output_shape=(),
        parameters=0,
        macs=0,
        bytes=0,
        geometry=geometry,
    )


LAYERS = (
    layer("c1", "Conv", conv(stride=(2, 2))),
    layer("r1", "Relu", None),
    layer("fc", "Gemm", Gemm(batch=1, rows=1, cols=1000, depth=2048)),
    layer("r2", "Relu", None),
)


def test_a_choice_for_every_layer() -> None:
    plan = make_plan(LAYERS, recipe=Recipe(), target=TARGET)
    assert [choice.algorithm for choice in plan.choices] == ["direct", "generic", "gemm", "generic"]
    assert all(choice.reason and not choice.declined for choice in plan.choices)
    assert plan.choice("fc").reason == "1 x 2048 by 2048 x 1000: blocked product, 8 fp32 lanes"


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
    plan = make_plan([layer("c", "Conv", conv(**changes))], recipe=Recipe(), target=TARGET)
    assert words in plan.choices[0].reason


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
    assert lines[0].split() == ["layer", "op", "algorithm", "formats", "reason"]
    assert len({line.index("fp32") for line in lines[2:]}) == 1
    assert lines[-1].startswith("(2 layers)")


def test_json_round_trip() -> None:
    plan = make_plan(LAYERS, recipe=Recipe(), algorithm="direct", target=TARGET)
    assert Plan.from_json(json.loads(json.dumps(plan.to_json()))) == plan


def test_names_not_built_are_refused() -> None:
    with pytest.raises(Unsupported, match="algorithm 'winograd' is not built yet"):
        make_plan(LAYERS, recipe=Recipe(), algorithm="winograd", target=TARGET)
    with pytest.raises(UsageError, match=r"unknown precision 'fp31' \(did you mean 'fp32'\?\)"):
        make_plan(LAYERS, recipe=Recipe(), precision="fp31", target=TARGET)


def test_words() -> None:
    assert describe(conv(stride=(2, 1), dilation=(2, 2))) == "3x3 stride 2x1 dilation 2, 64 -> 64 at 56x56"
    assert str(Formats(weights="int8", activations="int8", sums="int32")) == "int8 x int8 in int32"
    assert table([("a", "b"), ("ccc", "d")]) == "a    b\n------\nccc  d"
    assert Choice(layer="x", op="Conv", algorithm="direct", formats=Formats(), reason="r").declined == ()
