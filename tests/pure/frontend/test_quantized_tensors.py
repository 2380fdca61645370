"""What is rounded, and which tensors share a scale."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper

from lowprec.errors import UsageError
from lowprec.frontend.graph import Graph
from lowprec.frontend.quantization import QuantizationOptions, quantize_graph, tensors_to_observe
from lowprec.ranges import Range
from tests.corpus.case import model_of, tensor, value
from tests.graphs import load, operators
from tests.rounded import chain, conv, quantized, random, rounded


def test_a_layer_to_be_skipped_stays_in_float(tmp_path: Path) -> None:
    nodes = [conv("x", "a", pads=[1] * 4), helper.make_node("Relu", ["a"], ["r"]), conv("r", "y", pads=[1] * 4)]
    model = chain(nodes, {"w": random(3, 3, 3, 3)}, [1, 3, 6, 6])
    graph, reasons = quantized(model, tmp_path, "y")
    assert reasons == {"y": "it is to stay in float"}
    assert rounded(graph).keys() == {"x", "r"}
    assert "w" in graph.constants
    graph, _ = quantized(model, tmp_path, "a")
    assert rounded(graph).keys() == {"r", "y"}
    graph, _ = quantized(model, tmp_path, "r")
    assert rounded(graph).keys() == {"x", "a", "r", "y"}, "what a layer of integers reads is rounded, whoever made it"
    with pytest.raises(UsageError, match=r"no layer is named 'yy' \(did you mean 'y'\?\): only layers can be skipped"):
        quantize_graph(load(model, tmp_path), {}, QuantizationOptions(skip=frozenset(("yy",))))


def clip(source: str, result: str, low: str) -> Any:
    return helper.make_node("Clip", [source, low, "six"], [result])


BOUNDS = {"zero": np.float32(0), "six": np.float32(6), "minus": np.float32(-6)}


WEIGHTS = {"w": random(3, 3, 3, 3), "m": random(6, 6), **BOUNDS}


RELU = helper.make_node("Relu", ["a"], ["y"])


@pytest.mark.parametrize(
    ("nodes", "expected"),
    [
        ([conv("x", "a"), RELU], {"x", "y"}),
        ([conv("x", "a"), clip("a", "y", "zero")], {"x", "y"}),  # up to where codes end: a Relu from now on
        ([conv("x", "a"), clip("a", "y", "minus")], {"x", "a"}),
        ([conv("x", "a"), helper.make_node("Sigmoid", ["a"], ["y"])], {"x", "a"}),
        ([conv("x", "a"), RELU, helper.make_node("Add", ["a", "y"], ["z"])], {"x", "a", "y", "z"}),
        ([helper.make_node("MatMul", ["x", "m"], ["a"]), RELU], {"x", "y"}),
        ([conv("x", "c", pads=[1] * 4), helper.make_node("Add", ["c", "x"], ["a"]), RELU], {"x", "c", "y"}),
        ([conv("x", "a"), RELU, helper.make_node("Relu", ["y"], ["z"])], {"x", "y", "z"}),
    ],
)
def test_what_is_rectified_alone_is_rounded_behind(tmp_path: Path, nodes: list[Any], expected: set[str]) -> None:
    graph, _ = quantized(chain(nodes, WEIGHTS, [1, 3, 6, 6]), tmp_path)
    assert rounded(graph).keys() == expected
    kept = {"Relu" if node.op_type == "Clip" and "zero" in node.input else node.op_type for node in nodes}
    assert kept <= set(operators(graph)), "no operator is dropped"


def test_an_output_of_the_model_is_rounded_before_its_relu(tmp_path: Path) -> None:
    graph, _ = quantized(chain([conv("x", "a"), RELU], WEIGHTS, [1, 3, 6, 6], "a", "y"), tmp_path)
    assert rounded(graph).keys() == {"x", "a", "y"}


def moved(op: str, *more: str, **attributes: Any) -> Any:
    return helper.make_node(op, ["r", *more], ["y"], **attributes)


SHAPES = {
    "flat": np.array([1, -1]),
    "ends": np.array([0, 0, 1, 1, 0, 0, 1, 1]),
    "one": np.array([1]),
    "two": np.array([2]),
    "axes": np.array([0]),
    "twice": np.array([1, 1, 2, 2], np.float32),
    "half": np.float32(0.5),
    "plain": np.float32(0),
}


@pytest.mark.parametrize(
    ("node", "tied"),
    [
        (moved("MaxPool", kernel_shape=[2, 2]), True),
        (moved("GlobalMaxPool"), True),
        (moved("Reshape", "flat"), True),
        (moved("Flatten"), True),
        (moved("Transpose", perm=[0, 2, 3, 1]), True),
        (moved("Slice", "one", "two", "one"), True),
        (moved("Split", num_outputs=1, axis=1), True),
        (moved("Squeeze", "axes"), True),
        (moved("Unsqueeze", "axes"), True),
        (moved("DepthToSpace", blocksize=2), True),
        (moved("SpaceToDepth", blocksize=2), True),
        (moved("Pad", "ends"), True),
        (moved("Pad", "ends", "plain"), True),
        (moved("Pad", "ends", mode="reflect"), True),
        (moved("Pad", "ends", "half"), False),
        (moved("Resize", "", "twice"), True),
        (moved("Resize", "", "twice", mode="linear"), False),
        (moved("Resize", "twice", "twice", coordinate_transformation_mode="tf_crop_and_resize"), False),
    ],
    ids=lambda item: item.op_type if hasattr(item, "op_type") else str(item),
)
def test_moved_values_keep_their_scale(tmp_path: Path, node: Any, tied: bool) -> None:
    nodes = [conv("x", "a", pads=[1] * 4), helper.make_node("Relu", ["a"], ["r"]), node]
    opset = 18 if node.op_type == "Split" else 17
    stored = [tensor(name, array) for name, array in ({"w": random(4, 3, 3, 3)} | SHAPES).items()]
    graph = load(model_of(nodes, [value("x", [1, 3, 6, 6])], [value("y", None)], stored, opset=opset), tmp_path)
    ranges = {"x": (-1.0, 1.0), "r": (0.0, 4.0), "y": (0.0, 1.0)}
    found = rounded(quantize_graph(graph, ranges)[0])
    assert ("y" in found) == tied
    assert tensors_to_observe(graph) == ("x", "r")
    if tied:
        assert found["y"] == found["r"]


def fire(folder: Path) -> Graph:
    """x -> a, b -> Concat -> MaxPool -> c -> Add with the Concat's other half."""
    nodes = [
        conv("x", "a", pads=[1] * 4),
        conv("x", "b", pads=[1] * 4),
        helper.make_node("MaxPool", ["b"], ["p"], kernel_shape=[1, 1]),
        helper.make_node("Concat", ["a", "p"], ["y"], axis=1),
        helper.make_node("Transpose", ["y"], ["z"], perm=[0, 2, 3, 1]),
    ]
    return load(chain(nodes, {"w": random(3, 3, 3, 3)}, [1, 3, 6, 6], "z", "y"), folder)


def test_concatenated_tensors_share_the_union_of_their_ranges(tmp_path: Path) -> None:
    graph = fire(tmp_path)
    assert tensors_to_observe(graph) == ("x", "a", "b", "y")
    found = rounded(quantize_graph(graph, {"x": (-1, 1), "a": (0, 1), "b": (-2, 0.5), "y": (-1, 3)})[0])
    assert {found[name] for name in "abpyz"} == {(float(np.float32(5 / 255)), 102)}
    assert found["x"] != found["a"]


def test_two_concats_of_one_tensor_are_one_group(tmp_path: Path) -> None:
    nodes = [
        *(conv("x", name, pads=[1] * 4) for name in "abc"),
        helper.make_node("Concat", ["a", "b"], ["d"], axis=1),
        helper.make_node("Concat", ["b", "c"], ["e"], axis=1),
    ]
    graph = load(chain(nodes, {"w": random(3, 3, 3, 3)}, [1, 3, 6, 6], "d", "e"), tmp_path)
    ranges: dict[str, Range] = {"x": (-1, 1), "a": (0, 4), "b": (0, 1), "c": (0, 2), "d": (0, 4), "e": (0, 2)}
    found = rounded(quantize_graph(graph, ranges)[0])
    assert {found[name] for name in "abcde"} == {(float(np.float32(4 / 255)), 0)}
