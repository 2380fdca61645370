"""Small models quantized with the ranges of one run, and what was rounded in them."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, helper

from lowprec.frontend.graph import Graph, Node
from lowprec.frontend.quantization import QuantizationOptions, quantize_graph, tensors_to_observe
from lowprec.ranges import Range
from tests.corpus.case import model_of, tensor, value
from tests.graphs import evaluate, feeds_for, load, to_model

Float32 = NDArray[np.float32]


def random(*shape: int, seed: int = 0) -> Float32:
    return np.random.default_rng((seed, *shape)).standard_normal(shape).astype(np.float32)


def chain(nodes: list[Any], constants: Mapping[str, Any], shape: list[int], *outputs: str) -> ModelProto:
    stored = [tensor(name, array) for name, array in constants.items()]
    results = [value(name, None) for name in outputs or [nodes[-1].output[0]]]
    return model_of(nodes, [value("x", shape)], results, stored)


def seen(graph: Graph, feeds: Mapping[str, Any], options: QuantizationOptions | None = None) -> dict[str, Range]:
    """Least and greatest values of the float model's tensors."""
    names = tensors_to_observe(graph, options)
    inner = [graph.types[name] for name in names if name not in feeds]
    opset = max(node.version for node in graph.nodes)
    values = dict(feeds)
    if inner:
        probes = to_model(replace(graph, outputs=tuple(inner)), opset)
        values |= dict(zip([spec.name for spec in inner], evaluate(probes, dict(feeds)), strict=True))
    return {name: (float(values[name].min()), float(values[name].max())) for name in names}


def quantized(model: ModelProto, folder: Path, *skip: str) -> tuple[Graph, dict[str, str]]:
    options = QuantizationOptions(skip=frozenset(skip))
    graph = load(model, folder)
    return quantize_graph(graph, seen(graph, feeds_for(graph), options), options)


def constant(graph: Graph, name: str) -> Any:
    return graph.constants[name]


def producers(graph: Graph) -> dict[str, Node]:
    return {name: node for node in graph.nodes for name in node.outputs}


def rounded(graph: Graph) -> dict[str, tuple[float, int]]:
    """The scale and zero point of each rounded tensor, by the name it had."""
    made = producers(graph)
    found = {}
    for node in graph.nodes:
        if node.op == "DequantizeLinear" and node.inputs[0] in made:
            name = node.outputs[0].removesuffix("/rounded")
            assert made[node.inputs[0]].inputs[1:] == node.inputs[1:]
            scale, zero = (constant(graph, operand).item() for operand in node.inputs[1:])
            found[name] = scale, zero
    return found


def conv(source: str, result: str, *more: str, **attributes: Any) -> Any:
    return helper.make_node("Conv", [source, "w", *more], [result], **attributes)
