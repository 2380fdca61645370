"""Graphs back to ONNX: the checker passes them, ONNX Runtime runs them, and they mean what they meant."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import AttributeProto, helper, numpy_helper

from lowprec.errors import Unsupported
from lowprec.exporting import to_onnx
from lowprec.frontend.graph import Graph, Node
from lowprec.frontend.quantization import quantize_graph
from lowprec.tensors import TensorSpec
from tests.corpus.case import model_of, network, tensor, value
from tests.graphs import evaluate, feeds_for, load
from tests.networks.random_graphs import random_graph


def random(*shape: int) -> NDArray[np.float32]:
    return np.random.default_rng(shape).standard_normal(shape).astype(np.float32)


def graph_of(*nodes: Node, constants: dict[str, Any] | None = None, shape: tuple[int, ...] = (2, 6)) -> Graph:
    """From x to y, all of that shape."""
    stored = {name: np.asarray(array) for name, array in (constants or {}).items()}
    types = {
        name: TensorSpec(name=name, dtype="float32", shape=shape)
        for name in ("x", *(output for node in nodes for output in node.outputs))
    }
    types |= {name: TensorSpec(name=name, dtype=a.dtype.name, shape=a.shape) for name, a in stored.items()}
    return Graph(name="", inputs=(types["x"],), outputs=(types["y"],), nodes=nodes, constants=stored, types=types)


def node(op: str, *inputs: str, version: int, output: str = "y", **attributes: Any) -> Node:
    return Node(op=op, inputs=inputs, outputs=(output,), layer=output, version=version, attributes=attributes)


def resized(graph: Graph, shape: tuple[int, ...]) -> Graph:
    """With results of another shape."""
    made = {name for item in graph.nodes for name in item.outputs}
    types = {name: replace(spec, shape=shape if name in made else spec.shape) for name, spec in graph.types.items()}
    return replace(graph, types=types, outputs=(types["y"],))


def run(graph: Graph) -> NDArray[np.generic]:
    (found,) = evaluate(to_onnx(graph), feeds_for(graph))
    return found


def opset_of(model: onnx.ModelProto) -> int:
    (entry,) = model.opset_import
    return int(entry.version)


def test_a_network_means_what_it_meant(tmp_path: Path) -> None:
    graph = load(network(), tmp_path)
    model = to_onnx(graph)
    assert (opset_of(model), model.ir_version, model.producer_name) == (17, 8, "lowprec")
    assert [item.name for item in model.graph.node] == [item.outputs[0] for item in graph.nodes]
    feeds = feeds_for(graph)
    (expected,), (found,) = evaluate(network(), feeds), evaluate(model, feeds)
    assert np.allclose(found.astype(np.float64), expected.astype(np.float64), atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("seed", range(8))
def test_random_networks_come_back(tmp_path: Path, seed: int) -> None:
    """What is exported is read again, and as it was: the front end has nothing left to do."""
    graph = load(random_graph(seed)[0], tmp_path)
    again = load(to_onnx(graph), tmp_path)
    assert again.inputs == graph.inputs
    assert again.outputs == graph.outputs
    assert [(item.op, item.inputs, item.outputs) for item in again.nodes] == [
        (item.op, item.inputs, item.outputs) for item in graph.nodes
    ]
    for name, array in graph.constants.items():
        assert again.constants[name].dtype == array.dtype
        assert np.array_equal(again.constants[name], array)


@pytest.mark.parametrize("op", ["AveragePool", "LpPool", "MaxPool"])
def test_a_pool_in_ceiling_mode_is_of_the_size_that_it_had(tmp_path: Path, op: str) -> None:
    """ONNX Runtime would infer (1, 2, 3, 3) before opset 22, and refuse the product behind it."""
    nodes = [
        helper.make_node(op, ["x"], ["p"], kernel_shape=[1, 2], strides=[3, 3], pads=[0, 0, 0, 1], ceil_mode=1),
        helper.make_node("Reshape", ["p", "shape"], ["r"]),
        helper.make_node("MatMul", ["r", "w"], ["y"]),
    ]
    stored = [tensor("shape", np.array([0, 0, -1])), tensor("w", random(6, 4))]
    graph = load(model_of(nodes, [value("x", [1, 2, 5, 7])], [value("y", None)], stored, opset=19), tmp_path)
    assert run(graph).shape == (1, 2, 4)


@pytest.mark.parametrize(("opset", "exported"), [(7, 13), (12, 13), (13, 13), (17, 17), (21, 21)])
def test_a_quantized_model_has_an_opset_that_knows_its_operators(tmp_path: Path, opset: int, exported: int) -> None:
    layer = helper.make_node("Conv", ["x", "w"], ["y"])
    model = model_of(
        [layer], [value("x", [1, 3, 6, 6])], [value("y", None)], [tensor("w", random(4, 3, 3, 3))], opset=opset
    )
    graph, _ = quantize_graph(load(model, tmp_path), {"x": (-3.0, 3.0), "y": (-9.0, 9.0)})
    assert opset_of(to_onnx(graph)) == exported
    run(graph)


OLD = [
    (node("Clip", "x", version=6, min=-0.5, max=0.5), {}, lambda x: np.clip(x, -0.5, 0.5)),
    (node("Softmax", "x", version=12, axis=0), {}, lambda x: np.exp(x) / np.exp(x).sum()),
    (node("Dropout", "x", version=7, ratio=0.5), {}, lambda x: x),
    (node("Pad", "x", version=2, pads=(0, 0, 0, 0), mode="constant", value=1.0), {}, lambda x: x),
    (node("ReduceSum", "x", version=11, axes=(0,), keepdims=1), {}, lambda x: x.sum(axis=0, keepdims=True)),
    (node("Reshape", "x", "s", version=5), {"s": np.array([2, 6])}, lambda x: x),
    (node("Relu", "x", version=6), {}, lambda x: np.maximum(x, 0)),
]


@pytest.mark.parametrize(("first", "constants", "expected"), OLD, ids=lambda item: getattr(item, "op", ""))
def test_nodes_of_earlier_opsets_are_converted(first: Node, constants: dict[str, Any], expected: Any) -> None:
    """The file is of opset 13, for the sake of its other node."""
    second = node("Identity", "inner", version=13)
    graph = graph_of(replace(first, outputs=("inner",)), second, constants=constants)
    wanted = expected(feeds_for(graph)["x"].astype(np.float64))
    graph = resized(graph, wanted.shape)
    model = to_onnx(graph)
    assert opset_of(model) == 13
    assert np.allclose(run(graph).astype(np.float64), wanted, atol=1e-6)


def test_what_a_conversion_adds_has_names_of_its_own() -> None:
    nodes = [
        node("Clip", "x", version=6, min=-1.0, max=1.0, output="a"),
        node("Clip", "a", version=6, max=0.5, output="b"),
    ]
    graph = graph_of(*nodes, node("Add", "a", "b", version=14))
    x = feeds_for(graph)["x"]
    expected = np.clip(x, -1, 1) + np.minimum(np.clip(x, -1, 1), np.float32(0.5))
    assert np.array_equal(run(graph), expected)
    model = to_onnx(graph)
    names = [name for item in model.graph.node for name in item.output] + [
        item.name for item in model.graph.initializer
    ]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("mode", ["nearest", "linear"])
@pytest.mark.parametrize("factor", [1.5, 2.0, 3.0])
@pytest.mark.parametrize(("op", "version"), [("Resize", 10), ("Upsample", 9), ("Upsample", 7)])
def test_old_resizings_keep_their_coordinates(op: str, version: int, factor: float, mode: str) -> None:
    scales, size = (1.0, 1.0, factor, factor), int(4 * factor)
    first = node(op, "x", "s", version=version, mode=mode)
    constants = {"s": np.array(scales, np.float32)}
    if version == 7:
        first, constants = node(op, "x", version=7, mode=mode, scales=scales), {}
    alone = resized(graph_of(first, constants=constants, shape=(1, 2, 4, 4)), (1, 2, size, size))
    second = node("Identity", "inner", version=16)
    pair = graph_of(replace(first, outputs=("inner",)), second, constants=constants, shape=(1, 2, 4, 4))
    pair = resized(pair, (1, 2, size, size))
    assert opset_of(to_onnx(pair)) == 16
    assert np.allclose(run(pair).astype(np.float64), run(alone).astype(np.float64), atol=1e-6)


def test_an_old_region_keeps_its_coordinates() -> None:
    constants = {"r": np.array([[0.3, 0.2, 2.7, 3.1]], np.float32), "i": np.zeros(1, np.int64)}
    first = node("RoiAlign", "x", "r", "i", version=10, output_height=2, output_width=2)
    alone = resized(graph_of(first, constants=constants, shape=(1, 2, 4, 4)), (1, 2, 2, 2))
    second = node("Identity", "inner", version=16)
    pair = graph_of(replace(first, outputs=("inner",)), second, constants=constants, shape=(1, 2, 4, 4))
    assert np.allclose(run(resized(pair, (1, 2, 2, 2))).astype(np.float64), run(alone).astype(np.float64), atol=1e-6)


@pytest.mark.parametrize(
    ("first", "reason"),
    [
        (
            node("Hardmax", "x", version=12, output="a"),
            "Hardmax node 'a' is of opset 12, the file of 22, and it cannot",
        ),
        (node("Cast", "x", version=1, output="a", to="FLOAT"), "be converted: /"),
    ],
)
def test_what_cannot_be_converted_is_refused(first: Node, reason: str) -> None:
    with pytest.raises(Unsupported) as caught:
        to_onnx(graph_of(first, node("Relu", "a", version=22)))
    message = str(caught.value)
    assert reason in message
    assert "\n" not in message


def test_a_model_beyond_protobuf_is_refused() -> None:
    large = np.broadcast_to(np.float32(0), (2**20, 2**9))
    graph = graph_of(node("Identity", "w", version=17), constants={"w": large})
    with pytest.raises(Unsupported, match="the model's constants are 2147483648 bytes: at most 2146435072 go into one"):
        to_onnx(graph)


def test_a_domain_of_its_own_has_one_version() -> None:
    own = [Node(op="Gelu", inputs=("x",), outputs=("a",), layer="a", domain="com.microsoft", version=1)]
    graph = graph_of(*own, node("Relu", "a", version=17))
    assert {(entry.domain, entry.version) for entry in to_onnx(graph).opset_import} == {("", 17), ("com.microsoft", 1)}
    run(graph)
    other = replace(own[0], inputs=("a",), outputs=("b",), version=2)
    with pytest.raises(Unsupported, match=r"Gelu node 'a' is of opset 1, the file of 2, and it cannot be converted$"):
        to_onnx(graph_of(*own, other, node("Relu", "b", version=17)))


def test_attributes_keep_their_types() -> None:
    given = node("Constant", version=17, value=random(2, 3))
    (made,) = to_onnx(graph_of(given, shape=(2, 3))).graph.node
    assert np.array_equal(numpy_helper.to_array(made.attribute[0].t), random(2, 3))
    upsample = node("Upsample", "x", version=7, scales=(), mode="nearest")
    (made,) = to_onnx(graph_of(upsample)).graph.node
    assert [(item.name, item.type) for item in made.attribute] == [
        ("scales", AttributeProto.FLOATS),
        ("mode", AttributeProto.STRING),
    ]


@pytest.mark.parametrize("dtype", ["bfloat16", "int8", "bool", "float64", "int64"])
def test_constants_keep_their_types(dtype: str) -> None:
    numpy_dtype = ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype
    stored = np.asarray(np.arange(6).reshape(2, 3).T.astype(numpy_dtype))
    graph = graph_of(node("Relu", "x", version=17), constants={"c": stored, "zero": np.zeros((), numpy_dtype)})
    found = {item.name: numpy_helper.to_array(item) for item in to_onnx(graph).graph.initializer}
    assert found["c"].dtype == stored.dtype
    assert found["zero"].shape == ()
    assert np.array_equal(found["c"], stored)
