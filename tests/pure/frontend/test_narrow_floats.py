"""Where a graph of bf16 or fp16 is rounded, and where it is not."""

from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import helper

from lowprec.frontend import load_graph
from lowprec.frontend.graph import Graph
from lowprec.frontend.narrow_floats import FORMATS, narrow_floats
from tests.rounded import chain, random

BF16, FP16 = FORMATS["bf16"], FORMATS["fp16"]


def graph(tmp_path: Path, factor: float = 0.1) -> Graph:
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("MaxPool", ["r"], ["p"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Concat", ["p", "p"], ["j"], axis=1),
        helper.make_node("Relu", ["j"], ["again"]),
        helper.make_node("Conv", ["again", "v"], ["y"]),
    ]
    constants = {
        "w": random(8, 3, 3, 3, seed=1) * np.float32(factor),
        "b": random(8, seed=2),
        "v": random(4, 16, 1, 1, seed=3),
    }
    path = tmp_path / "model.onnx"
    onnx.save(chain(nodes, constants, [1, 3, 8, 8], "y"), path)
    return load_graph(path)


def rounded(found: Graph) -> list[str]:
    """The tensors that a pair of casts makes."""
    narrow = {
        node.outputs[0] for node in found.nodes if node.op == "Cast" and found.types[node.outputs[0]].dtype != "float32"
    }
    return [node.outputs[0] for node in found.nodes if node.op == "Cast" and node.inputs[0] in narrow]


@pytest.mark.parametrize("fmt", FORMATS.values(), ids=FORMATS)
def test_each_number_is_rounded_once(tmp_path: Path, fmt: object) -> None:
    """The input, the rectified sum and the result; what is moved, joined or rectified is rounded already."""
    found, declined = narrow_floats(graph(tmp_path), fmt)  # type: ignore[arg-type]
    assert not declined
    assert rounded(found) == ["x/rounded", "r", "y"]


@pytest.mark.parametrize("fmt", FORMATS.values(), ids=FORMATS)
def test_weights_are_of_the_format_and_a_bias_is_not(tmp_path: Path, fmt: object) -> None:
    before = graph(tmp_path)
    found, _ = narrow_floats(before, fmt)  # type: ignore[arg-type]
    convs = [node for node in found.nodes if node.op == "Conv"]
    for node, name in zip(convs, ("w", "v"), strict=True):
        values = found.constants[node.inputs[1]]
        exact = before.constants[name].astype(fmt.dtype)  # type: ignore[attr-defined]
        assert values.dtype == np.float32
        assert np.array_equal(values, exact.astype(np.float32))
    assert np.array_equal(found.constants[convs[0].inputs[2]], before.constants["b"])


def test_a_layer_that_is_skipped_reads_and_gives_float32(tmp_path: Path) -> None:
    found, declined = narrow_floats(graph(tmp_path), BF16, {"c"})
    assert declined == {"c": "it is to stay in float"}
    assert rounded(found) == ["again", "y"]
    first = next(node for node in found.nodes if node.op == "Conv")
    assert first.inputs[:2] == ("x", "w")


def test_weights_beyond_the_format_stay(tmp_path: Path) -> None:
    _, declined = narrow_floats(graph(tmp_path, factor=1e5), FP16)
    assert declined.keys() == {"c"}
    assert "fp16 ends at 65504" in declined["c"]
    assert not narrow_floats(graph(tmp_path, factor=1e5), BF16)[1]


def test_ties_go_to_even() -> None:
    ties = np.array([1 + 2.0**-8, 1 + 3 * 2.0**-8, -1 - 2.0**-8, 3.4e38, np.inf, -0.0], np.float32)
    assert np.array_equal(BF16.rounded(ties), ties.astype(ml_dtypes.bfloat16).astype(np.float32))
    assert FP16.rounded(np.array([65519.0, 65520.0], np.float32)).tolist() == [65504.0, np.inf]
