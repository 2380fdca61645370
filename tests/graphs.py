"""Graphs back to ONNX, so that ONNX Runtime can say whether a rewrite kept their meaning."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from lowprec.frontend import load_graph
from lowprec.frontend.graph import Graph, Node, TensorSpec
from lowprec.frontend.tensors import element_type

Array = NDArray[np.generic]


def load(model: onnx.ModelProto, folder: Path, **arguments: Any) -> Graph:
    """The model through the front end."""
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return load_graph(path, **arguments)


def to_model(graph: Graph, opset: int) -> onnx.ModelProto:
    """The graph as ONNX."""
    made = helper.make_graph(
        [to_node(node) for node in graph.nodes],
        "graph",
        [to_value(spec) for spec in graph.inputs],
        [to_value(spec) for spec in graph.outputs],
        [numpy_helper.from_array(np.array(array, order="C"), name) for name, array in graph.constants.items()],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)


def to_node(node: Node) -> onnx.NodeProto:
    attributes: dict[str, Any] = {
        name: numpy_helper.from_array(value) if isinstance(value, np.ndarray) else value
        for name, value in node.attributes.items()
    }
    return helper.make_node(node.op, node.inputs, node.outputs, **attributes)


def to_value(spec: TensorSpec) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(spec.name, element_type(spec.dtype), spec.shape)


def evaluate(model: onnx.ModelProto, feeds: dict[str, Array]) -> list[Array]:
    """ONNX Runtime's answer, unoptimized: onnx's reference evaluator errs on SAME pads and grouped transposition."""
    runtime = pytest.importorskip("onnxruntime")
    options = runtime.SessionOptions()
    options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    session = runtime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return list(session.run(None, feeds))


def feeds_for(graph: Graph, seed: int = 0) -> dict[str, Array]:
    """Seeded N(0, 1) inputs."""
    draw = np.random.default_rng(seed)
    return {spec.name: draw.standard_normal(spec.shape).astype(spec.dtype) for spec in graph.inputs}


def same_meaning(model: onnx.ModelProto, graph: Graph, *, opset: int = 17, seed: int = 0) -> None:
    """The graph gives what the model gives, but for rounding: float32 weights are folded once, sums are short."""
    feeds = feeds_for(graph, seed)
    expected, found = evaluate(model, feeds), evaluate(to_model(graph, opset), feeds)
    for wanted, got in zip(expected, found, strict=True):
        assert wanted.dtype == got.dtype
        assert wanted.shape == got.shape
        scale = np.abs(wanted).max(initial=1e-30)
        assert np.allclose(got.astype(np.float64), wanted.astype(np.float64), atol=float(scale) * 1e-5, rtol=0)


def operators(graph: Graph) -> list[str]:
    return [node.op for node in graph.nodes]
