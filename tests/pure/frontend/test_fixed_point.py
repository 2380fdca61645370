"""Fixed-point graphs: which words they hold, and what the oracle and ONNX Runtime make of them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper

from lowprec.comparison import compare
from lowprec.exporting import to_onnx
from lowprec.formats import Fixed
from lowprec.frontend import quantization
from lowprec.frontend.graph import Graph
from lowprec.frontend.quantization import QuantizationOptions, quantize_graph, saturated_weights, tensors_to_observe
from lowprec.frontend.randomness import RANDOM_WORDS, Draws, is_drawing
from lowprec.frontend.schemes import FixedPoint
from lowprec.quantized_reference import evaluate
from lowprec.quantizing import quantize
from lowprec.ranges import Range
from tests.corpus.case import model_of, tensor, value
from tests.graphs import evaluate as run
from tests.graphs import feeds_for, load, operators
from tests.networks.builder import Builder, Value
from tests.networks.random_graphs import random_graph
from tests.pure.frontend.test_quantization import dense, fires, residual, separable
from tests.pure.frontend.test_schemes import FORMATS
from tests.quantized import Array, run_onnxruntime
from tests.refusals import refused
from tests.rounded import chain, constant, conv, producers, random, rounded, seen

OPTIONS = st.builds(FixedPoint, format=FORMATS, literal=st.booleans())
FEEDS = {"x": random(1, 3, 6, 6, seed=1) * np.float32(1.5)}


def options_of(integer: int, fraction: int, *, literal: bool = True) -> QuantizationOptions:
    return QuantizationOptions(scheme=FixedPoint(format=Fixed(integer, fraction), literal=literal))


def layers(folder: Path) -> Graph:
    """conv -> Relu -> MaxPool -> conv, with biases."""
    nodes = [
        conv("x", "a", "b", pads=[1] * 4),
        helper.make_node("Relu", ["a"], ["r"]),
        helper.make_node("MaxPool", ["r"], ["p"], kernel_shape=[2, 2]),
        conv("p", "y", "b"),
    ]
    return load(chain(nodes, {"w": random(3, 3, 3, 3), "b": random(3)}, [1, 3, 6, 6]), folder)


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Graph:
    return layers(tmp_path_factory.mktemp("layers"))


@pytest.fixture(scope="module")
def ranges(graph: Graph) -> dict[str, Range]:
    return seen(graph, FEEDS)


def codes_of(values: Array, scheme: FixedPoint, scale: np.float32) -> Array:
    """By the exact oracle of formats."""
    return quantize(values, scheme.format, scale=np.ldexp(np.float32(scale), scheme.format.fraction)).codes


@given(scheme=OPTIONS)
def test_words_are_those_of_the_format(graph: Graph, ranges: dict[str, Range], scheme: FixedPoint) -> None:
    found, reasons = quantize_graph(graph, ranges, QuantizationOptions(scheme=scheme))
    assert not reasons
    units = rounded(found)
    assert units.keys() == {"x", "r", "p", "y"}
    assert units["r"] == units["p"]
    assert all(zero == 0 for _, zero in units.values())
    low, high = scheme.format.codes
    made, before = producers(found), {"x": "x", "r": "r/float", "y": "y/float"}
    names = {
        name: found.nodes[0].inputs[0] if name == "x" else made[source].outputs[0] for name, source in before.items()
    }
    codes = [f"{name}/codes" for name in names]
    values = evaluate(found, FEEDS, wanted=[*names.values(), *codes])
    for name, source in names.items():
        assert values[f"{name}/codes"].dtype == scheme.word
        assert np.array_equal(values[f"{name}/codes"], codes_of(values[source], scheme, np.float32(units[name][0])))
    weights = constant(found, "w/codes")
    assert weights.dtype == scheme.word
    assert low <= weights.min() <= weights.max() <= high
    assert np.array_equal(weights, codes_of(constant(graph, "w"), scheme, constant(found, "w/scale")))


def test_literal_fixed_point_needs_no_ranges(graph: Graph) -> None:
    options = options_of(2, 14)
    assert tensors_to_observe(graph, options) == ()
    found, _ = quantize_graph(graph, None, options)
    assert set(rounded(found).values()) == {(2.0**-14, 0)}
    assert constant(found, "w/scale") == 2.0**-14
    assert tensors_to_observe(graph, options_of(2, 14, literal=False)) == tensors_to_observe(graph) == ("x", "r", "y")
    message = refused(lambda: quantize_graph(graph, None, options_of(2, 14, literal=False)))
    assert message == "tensor 'x' has no range: give those of tensors_to_observe"


def test_each_tensor_has_its_own_exponent(graph: Graph) -> None:
    known: dict[str, Range] = {"x": (-2.0, 1.0), "r": (0.0, 2.0), "y": (-9.0, 3.0)}
    found, _ = quantize_graph(graph, known, options_of(2, 14, literal=False))
    assert {name: scale for name, (scale, _) in rounded(found).items()} == {
        "x": 2.0**-14,
        "r": 2.0**-13,
        "p": 2.0**-13,
        "y": 2.0**-11,
    }
    assert 2 <= np.abs(constant(graph, "w")).max() < 4
    assert constant(found, "w/scale") == 2.0**-13


def test_a_full_word_has_no_clip(graph: Graph) -> None:
    for options, opset in ((options_of(2, 14), 21), (options_of(4, 4), 17)):
        found, _ = quantize_graph(graph, None, options)
        assert "Clip" not in operators(found)
        assert {node.version for node in found.nodes if node.op == "QuantizeLinear"} == {opset}


def test_a_shorter_word_is_clipped_before_it_is_rounded(graph: Graph) -> None:
    """What is moved is within the ends already."""
    found, _ = quantize_graph(graph, {"x": (-4, 3), "r": (0, 9), "y": (0, 1)}, options_of(3, 7, literal=False))
    clips = [node for node in found.nodes if node.op == "Clip"]
    bounds = {node.inputs[0]: tuple(constant(found, name).item() for name in node.inputs[1:]) for node in clips}
    assert bounds == {
        "x": (-4.0, 4 - 2.0**-7),
        "r/float": (-16.0, 16 - 2.0**-5),
        "y/float": (-4.0, 4 - 2.0**-7),
    }
    assert [node.op for node in found.nodes if node.layer == "p"] == ["MaxPool", "QuantizeLinear", "DequantizeLinear"]
    assert [node.op for node in found.nodes if node.layer == "r"] == [
        *("Relu", "Clip", "QuantizeLinear", "DequantizeLinear")
    ]


def test_what_lies_outside_saturates(graph: Graph) -> None:
    options = options_of(1, 6)
    found, _ = quantize_graph(graph, None, options)
    codes = evaluate(found, {"x": FEEDS["x"] * 100}, wanted=["x/codes"])["x/codes"]
    assert (codes.min(), codes.max()) == (-64, 63)
    weights = constant(graph, "w")
    outside = np.mean((np.rint(weights * 64) < -64) | (np.rint(weights * 64) > 63))
    assert 0.1 < outside < 0.5
    assert saturated_weights(graph, options) == {"a": outside, "y": outside}
    assert saturated_weights(graph, options_of(1, 6, literal=False)) == {"a": 0.0, "y": 0.0}
    assert saturated_weights(graph, QuantizationOptions(skip=frozenset("a"))) == {"y": 0.0}


def test_a_bias_is_counted_in_units_of_the_sum(graph: Graph) -> None:
    found, _ = quantize_graph(graph, None, options_of(4, 12))
    layer = next(node for node in found.nodes if node.op == "Conv")
    codes, scale, _ = (constant(found, name) for name in producers(found)[layer.inputs[2]].inputs)
    assert (codes.dtype, scale.shape, scale) == (np.int32, (), 2.0**-24)
    assert np.array_equal(codes, np.rint(constant(graph, "b") * 2.0**24))


def test_a_bias_beyond_the_integers_stays_in_float(tmp_path: Path) -> None:
    bias = np.array([0, 8, 0, 0], np.float32)
    model = chain([helper.make_node("Gemm", ["x", "w", "b"], ["y"])], {"w": random(6, 4), "b": bias}, [2, 6])
    found, _ = quantize_graph(load(model, tmp_path), None, options_of(2, 14))
    (layer,) = (node for node in found.nodes if node.op == "Gemm")
    assert layer.inputs[2] == "b"
    one = chain([helper.make_node("Gemm", ["x", "w", "b"], ["y"])], {"w": random(6, 4), "b": np.float32(8)}, [2, 6])
    found, _ = quantize_graph(load(one, tmp_path), None, options_of(2, 14))
    (layer,) = (node for node in found.nodes if node.op == "Gemm")
    assert np.array_equal(constant(found, layer.inputs[2]), np.full(4, 8, np.float32))


@pytest.mark.parametrize(("rows", "reason"), [(514, ""), (515, "products with bytes may reach 2151628800")])
def test_sums_of_half_words_that_just_fit_32_bits(tmp_path: Path, rows: int, reason: str) -> None:
    """255 * 2^14 * 514 is below 2^31, with one weight more it is not."""
    layer = helper.make_node("MatMul", ["x", "w"], ["y"])
    graph = load(chain([layer], {"w": np.ones((rows, 1), np.float32)}, [1, rows]), tmp_path)
    _, reasons = quantize_graph(graph, None, options_of(2, 14))
    assert reasons == ({"y": f"its sums of {reason}, and 32 bits hold less than 2147483648"} if reason else {})
    assert quantize_graph(graph, None, options_of(3, 5))[1] == {}


@pytest.mark.parametrize("literal", [True, False])
@pytest.mark.parametrize("fmt", [Fixed(2, 14), Fixed(4, 12), Fixed(3, 7), Fixed(4, 4), Fixed(2, 3)], ids=str)
def test_a_layer_is_one_rounding_of_its_sum(graph: Graph, ranges: dict[str, Range], fmt: Fixed, literal: bool) -> None:
    """Scales are powers of two, so that nothing but fp32(sum) and the codes rounds, with a Clip or without."""
    scheme = FixedPoint(format=fmt, literal=literal)
    found, _ = quantize_graph(graph, ranges, QuantizationOptions(scheme=scheme))
    values = evaluate(found, FEEDS, wanted=["p/codes", "y/codes"])
    windows = np.lib.stride_tricks.sliding_window_view(values["p/codes"].astype(np.int64), (3, 3), (2, 3))
    sums = np.einsum("nchwij,kcij->nkhw", windows, constant(found, "w/codes").astype(np.int64))
    units = rounded(found)
    unit = np.float64(units["p"][0]) * constant(found, "w/scale").astype(np.float64)
    sums = sums + np.rint(constant(graph, "b") / unit).astype(np.int64).reshape(-1, 1, 1)
    expected = np.clip(np.rint(sums.astype(np.float32) * (unit / units["y"][0])), *fmt.codes)
    assert np.array_equal(values["y/codes"], expected)


@pytest.mark.parametrize("literal", [True, False])
@pytest.mark.parametrize("fmt", [Fixed(2, 14), Fixed(8, 8), Fixed(3, 7), Fixed(4, 4), Fixed(1, 5)], ids=str)
@pytest.mark.parametrize("engine", [run, run_onnxruntime], ids=["plain", "optimized"])
def test_onnx_runtime_is_within_a_step(
    tmp_path: Path, fmt: Fixed, literal: bool, engine: Callable[..., list[Array]]
) -> None:
    """Of a layer: its float32 sums are off by less than a step."""
    nodes = [conv("x", "a", "b", pads=[1] * 4), helper.make_node("Relu", ["a"], ["y"])]
    graph = load(chain(nodes, {"w": random(3, 3, 3, 3), "b": random(3)}, [1, 3, 6, 6]), tmp_path)
    options = QuantizationOptions(scheme=FixedPoint(format=fmt, literal=literal))
    found, _ = quantize_graph(graph, seen(graph, FEEDS), options)
    expected = evaluate(found, FEEDS)["y"]
    (got,) = engine(to_onnx(found), dict(FEEDS))
    assert np.abs(got - expected).max() <= rounded(found)["y"][0]
    assert np.mean(got != expected) < 0.05


@pytest.mark.parametrize("make", [residual, fires, separable, dense])
@pytest.mark.parametrize(("fmt", "bound"), [(Fixed(2, 14), 60.0), (Fixed(3, 9), 35.0), (Fixed(2, 6), 12.0)], ids=str)
def test_networks_stay_near_the_float_model(
    tmp_path: Path, make: Callable[[Builder], Value], fmt: Fixed, bound: float
) -> None:
    b = Builder(name="toy")
    model = b.finish(make(b))
    graph = load(model, tmp_path)
    feeds = feeds_for(graph)
    options = QuantizationOptions(scheme=FixedPoint(format=fmt))
    found, reasons = quantize_graph(graph, seen(graph, feeds, options), options)
    assert not reasons
    (wanted,) = run(model, feeds)
    (got,) = evaluate(found, feeds).values()
    assert compare(wanted, got).sqnr_db >= bound
    (exported,) = run(to_onnx(found), feeds)
    assert compare(got, exported).sqnr_db >= bound


@pytest.mark.parametrize("fmt", [Fixed(2, 14), Fixed(5, 4)], ids=str)
def test_an_exported_file_is_the_graph(graph: Graph, tmp_path: Path, fmt: Fixed) -> None:
    found, _ = quantize_graph(graph, None, QuantizationOptions(scheme=FixedPoint(format=fmt, literal=True)))
    again = load(to_onnx(found), tmp_path)
    assert np.array_equal(evaluate(again, FEEDS)["y"], evaluate(found, FEEDS)["y"])


@pytest.mark.parametrize(("opset", "wide", "narrow"), [(7, 21, 13), (13, 21, 13), (17, 21, 17), (22, 22, 22)])
def test_words_of_16_bits_need_opset_21(tmp_path: Path, opset: int, wide: int, narrow: int) -> None:
    """Nodes of earlier opsets are raised for their sake."""
    nodes = [conv("x", "a"), helper.make_node("AveragePool", ["a"], ["p"], kernel_shape=[2, 2])]
    nodes += [helper.make_node("Flatten", ["p"], ["y"])]
    stored = [tensor("w", random(4, 3, 3, 3))]
    graph = load(model_of(nodes, [value("x", [1, 3, 6, 6])], [value("y", None)], stored, opset=opset), tmp_path)
    for options, version in ((options_of(2, 14), wide), (options_of(3, 3), narrow)):
        found, _ = quantize_graph(graph, None, options)
        exported = to_onnx(found)
        assert [entry.version for entry in exported.opset_import] == [version]
        (got,) = run(exported, dict(FEEDS))
        assert compare(evaluate(found, FEEDS)["y"], got).max_abs <= rounded(found)["y"][0]


@pytest.mark.parametrize("seed", range(6))
def test_random_networks_keep_names_and_run(tmp_path: Path, seed: int) -> None:
    model, feeds = random_graph(seed)
    graph = load(model, tmp_path)
    for options in (options_of(2, 14), options_of(3, 7, literal=False)):
        found, _ = quantize_graph(graph, seen(graph, feeds, options), options)
        assert (found.inputs, found.outputs) == (graph.inputs, graph.outputs)
        results: list[Any] = run(to_onnx(found), dict(feeds))
        assert [array.shape for array in results] == [spec.shape for spec in graph.outputs]


SUMS = {
    "of one scale": ({}, {"one", "other"}),
    "of coarser numbers": ({"one": (-7.0, 7.0), "other": (-3.0, 3.0), "y": (-1.5, 1.5)}, {"one", "other"}),
    "of finer numbers": ({"one": (-7.0, 7.0), "other": (-1.0, 1.0), "y": (-7.0, 7.0)}, {"one", "other", "y"}),
}


@pytest.mark.parametrize("case", SUMS)
@pytest.mark.parametrize("rectified", [False, True])
def test_a_sum_of_whole_steps_draws_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str, rectified: bool
) -> None:
    """And has the same codes as if it did."""
    ranges, drawn = SUMS[case]
    nodes = [helper.make_node("Conv", ["x", name], [result]) for name, result in (("v", "one"), ("w", "other"))]
    nodes.append(helper.make_node("Sum", ["one", "other"], ["s" if rectified else "y"]))
    nodes += [helper.make_node("Relu", ["s"], ["y"])] if rectified else []
    weights = {name: random(5, 3, 1, 1, seed=seed) for seed, name in enumerate("vw")}
    graph = load(chain(nodes, weights, [1, 3, 6, 6], "y"), tmp_path)
    layers = frozenset(node.layer for node in graph.nodes)
    scheme = FixedPoint(format=Fixed(2, 6), literal=not ranges)
    options = QuantizationOptions(scheme=scheme, draws=Draws(seed=3, layers=layers))

    def network() -> Graph:
        return quantize_graph(graph, {"x": (-2.0, 1.9)} | ranges, options)[0]

    found = network()
    words = [node.outputs[0] for node in found.nodes if is_drawing(node, RANDOM_WORDS)]
    assert {name.removesuffix("/words") for name in words} == drawn
    monkeypatch.setattr(quantization._Rewrite, "_lies_on", lambda *_, **__: False)
    expected = network()
    assert sum(is_drawing(node, RANDOM_WORDS) for node in expected.nodes) == 3
    x = {"x": random(1, 3, 6, 6, seed=9)}
    for step in range(3):
        given, wanted = (evaluate(net, x, wanted=["y/codes"], step=step)["y/codes"] for net in (found, expected))
        assert np.array_equal(given, wanted)
