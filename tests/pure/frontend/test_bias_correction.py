"""Biases give back what the rounding of weights takes from sums on average."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper

from lowprec.errors import UsageError
from lowprec.formats import Fixed
from lowprec.frontend.bias_correction import shift
from lowprec.frontend.quantization import QuantizationOptions, inputs_to_average, quantize_graph
from lowprec.frontend.schemes import FixedPoint
from lowprec.seen import Seen, rounded_means
from tests.graphs import evaluate, load, operators, to_model
from tests.refusals import refused
from tests.rounded import chain, constant, conv, random

GEOMETRIES: list[dict[str, Any]] = [
    {},
    {"pads": (1, 1, 1, 1)},
    {"pads": (2, 0, 1, 3), "strides": (2, 3)},
    {"pads": (2, 2, 2, 2), "dilations": (2, 1), "group": 2},
    {"auto_pad": "SAME_LOWER", "strides": (2, 2), "group": 4},
]


@pytest.mark.parametrize("attributes", GEOMETRIES)
def test_of_a_convolution_it_is_the_mean_over_places(tmp_path: Path, attributes: dict[str, Any]) -> None:
    """An input that is one number in each channel: what errors make of it, pads being zero."""
    groups = attributes.get("group", 1)
    errors = random(8, 4 // groups, 3, 2).astype(np.float64)
    mean = rounded_means(random(4, seed=1).astype(np.float64))
    graph = load(chain([conv("x", "y", **attributes)], {"w": errors.astype(np.float32)}, [1, 4, 9, 7]), tmp_path)
    (node,) = graph.nodes
    x = np.broadcast_to(mean.reshape(1, 4, 1, 1), (1, 4, 9, 7)).astype(np.float32)
    expected = evaluate(to_model(graph, 13), {"x": x})[0].mean(axis=(0, 2, 3))
    assert np.allclose(shift(node, graph, errors, mean), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("transposed", [0, 1])
def test_of_a_gemm_it_is_a_product(tmp_path: Path, transposed: int) -> None:
    errors, mean = random(5, 3) if transposed else random(3, 5), rounded_means(random(3, seed=1).astype(np.float64))
    node = helper.make_node("Gemm", ["x", "w"], ["y"], transB=transposed)
    graph = load(chain([node], {"w": errors}, [2, 3]), tmp_path)
    expected = (errors if transposed else errors.T).astype(np.float64) @ mean
    assert np.allclose(shift(graph.nodes[0], graph, errors.astype(np.float64), mean), expected)


@pytest.mark.parametrize("biased", [True, False])
def test_a_layer_is_right_on_average(tmp_path: Path, biased: bool) -> None:
    """Inputs are whole steps of their scale, so that all that is off comes from the weights."""
    more = ["b"] if biased else []
    weights = {"w": random(8, 16, 3, 3), **({"b": random(8)} if biased else {})}
    graph = load(chain([conv("x", "y", *more, pads=[1, 1, 1, 1])], weights, [1, 16, 6, 6]), tmp_path)
    layer = graph.nodes[0].layer
    assert inputs_to_average(graph) == {layer: ("x", 1)}
    x = np.random.default_rng(2).integers(0, 256, (64, 16, 6, 6)).astype(np.float32) * np.float32(1 / 64)
    ranges = {"x": (0.0, 255 / 64), "y": (-50.0, 50.0)}
    means = {layer: rounded_means(x.mean(axis=(0, 2, 3), dtype=np.float64))}
    off = {}
    for name, given in (("plain", None), ("corrected", means)):
        network, _ = quantize_graph(graph, ranges, means=given)
        assert operators(network).count("Conv") == 1
        assert len(next(node for node in network.nodes if node.op == "Conv").inputs) == 2 + (biased or bool(given))
        sums = to_model(replace(network, outputs=(network.types["y/float"],)), 13)
        floats = to_model(graph, 13)
        found = [np.stack([evaluate(net, {"x": row[None]})[0] for row in x]) for net in (sums, floats)]
        given_by, wanted = (np.asarray(values, np.float64).mean(axis=(0, 1, 3, 4)) for values in found)
        off[name] = np.abs(given_by - wanted)
    unit = constant(network, "b/scale" if biased else "w/correction/scale")
    assert (off["corrected"] <= 0.1 * off["plain"].max() + unit).all()
    assert off["plain"].max() > 5 * off["corrected"].max()


def test_what_has_no_bias_or_no_bytes_is_left_alone(tmp_path: Path) -> None:
    product = helper.make_node("MatMul", ["x", "w"], ["y"])
    assert inputs_to_average(load(chain([product], {"w": random(3, 5)}, [2, 3]), tmp_path)) == {}
    graph = load(chain([conv("x", "y")], {"w": random(4, 3, 3, 3)}, [1, 3, 6, 6]), tmp_path)
    fixed = QuantizationOptions(scheme=FixedPoint(format=Fixed(2, 14)))
    assert inputs_to_average(graph, fixed) == {}


def test_a_correction_beyond_float32_is_left_out(tmp_path: Path) -> None:
    weights = {"w": random(4, 3, 3, 3) * np.float32(1e36), "b": random(4)}
    graph = load(chain([conv("x", "y", "b")], weights, [1, 3, 6, 6]), tmp_path)
    means = {graph.nodes[0].layer: np.full(3, 3e38, np.float32)}
    ranges = {"x": (0.0, 1e-30), "y": (0.0, 1.0)}
    one, other = (quantize_graph(graph, ranges, means=given)[0] for given in (None, means))
    assert np.array_equal(constant(one, "b/codes"), constant(other, "b/codes"))


def test_what_was_seen_travels_as_text() -> None:
    seen = Seen(ranges={"x": (-1.0, 2.0)}, means={"a": rounded_means(np.array([0.1, -3e39, 0, 1e-42, 2.5]))})
    again = Seen.from_json(seen.to_json())
    assert again is not None
    assert again.ranges == seen.ranges
    assert np.array_equal(again.means["a"], seen.means["a"])
    assert np.allclose(again.means["a"][[0, 4]], [0.1, 2.5], rtol=1 / 256)
    assert np.isfinite(again.means["a"]).all()
    assert Seen.from_json({"ranges": None}) is None


def test_means_that_are_none_are_refused(tmp_path: Path) -> None:
    graph = load(chain([conv("x", "y")], {"w": random(4, 3, 3, 3)}, [1, 3, 6, 6]), tmp_path)
    layer, ranges = graph.nodes[0].layer, {"x": (0.0, 1.0), "y": (0.0, 1.0)}
    for values, found in ((np.ones(2), "2 numbers"), (np.array([1, np.nan, 0]), "a NaN or an infinity")):
        means = {layer: values.astype(np.float32)}
        message = refused(lambda means=means: quantize_graph(graph, ranges, means=means))  # type: ignore[misc]
        assert message == f"layer {layer!r}: the mean of its input is {found}: give 3 finite numbers"
    with pytest.raises(UsageError, match="the means of 'a' are no text of bfloat16"):
        Seen.from_json({"ranges": {}, "means": {"a": "%%"}})
