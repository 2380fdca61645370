"""Quantized graphs as a whole: names, refusals; ONNX Runtime's answer to them is near the float model's."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import ModelProto, helper

from lowprec.comparison import compare
from lowprec.exporting import to_onnx
from lowprec.formats import Fixed
from lowprec.frontend import quantization
from lowprec.frontend.graph import Graph
from lowprec.frontend.quantization import QuantizationOptions, quantize_graph
from lowprec.frontend.schemes import BYTES, FixedPoint, Scheme
from lowprec.quantized_reference import evaluate as oracle
from lowprec.ranges import Range
from tests.corpus.case import network
from tests.graphs import evaluate, feeds_for, load, operators
from tests.networks.builder import Builder, Value
from tests.networks.random_graphs import random_graph
from tests.refusals import refused
from tests.rounded import chain, conv, quantized, random, rounded, seen

BOUND = 15.0
"""What `verify` asks of int8, in dB."""


FEW = settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])


def noise(model: ModelProto, graph: Graph, feeds: Mapping[str, Any]) -> list[float]:
    """The SQNR of each float output, ONNX Runtime's for the exported graph; names and types are the model's."""
    exported = to_onnx(graph)
    assert [info.name for info in exported.graph.output] == [info.name for info in model.graph.output]
    assert list(exported.graph.input) == list(model.graph.input)
    expected, found = evaluate(model, dict(feeds)), evaluate(exported, dict(feeds))
    pairs = list(zip(expected, found, strict=True))
    assert all(wanted.dtype == got.dtype and wanted.shape == got.shape for wanted, got in pairs)
    return [compare(wanted, got).sqnr_db for wanted, got in pairs if wanted.dtype == np.float32]


def test_a_layer_reads_and_gives_rounded_tensors(tmp_path: Path) -> None:
    constants = {"w": random(4, 3, 3, 3), "b": random(4)}
    graph, reasons = quantized(chain([conv("x", "y", "b", pads=[1] * 4)], constants, [1, 3, 8, 8]), tmp_path)
    assert not reasons
    assert operators(graph) == [
        *("QuantizeLinear", "DequantizeLinear"),
        *("DequantizeLinear", "DequantizeLinear", "Conv"),
        *("QuantizeLinear", "DequantizeLinear"),
    ]
    assert [node.layer for node in graph.nodes] == ["x", "x", *["y"] * 5]
    layer = graph.nodes[4]
    assert (layer.inputs, layer.outputs) == (("x/rounded", "w/rounded", "b/rounded"), ("y/float",))
    assert graph.nodes[-1].outputs == ("y",)
    assert graph.outputs[0].name == "y"
    assert graph.constants.keys() == {
        *(f"{name}/{part}" for name in "wb" for part in ("codes", "scale", "zero_point")),
        *(f"{name}/{part}" for name in "xy" for part in ("scale", "zero_point")),
    }
    assert {name for node in graph.nodes for name in (*node.inputs, *node.outputs)} == graph.types.keys()


def test_a_tensor_of_zeros_has_a_small_scale(tmp_path: Path) -> None:
    """A bias behind it is counted in units of that scale."""
    graph = load(chain([conv("x", "y", "b")], {"w": random(4, 3, 3, 3), "b": random(4)}, [1, 3, 6, 6]), tmp_path)
    for zeros in ((0.0, 0.0), (-1e-40, 1e-40)):
        found = rounded(quantize_graph(graph, {"x": zeros, "y": (0.0, 1.0)})[0])
        assert found["x"] == (float(np.float32(1 / 255)), 0)


@pytest.mark.parametrize(
    ("ranges", "message"),
    [
        ({"x": (0, 1)}, "tensor 'y' has no range: give those of tensors_to_observe"),
        ({"x": (0, np.nan), "y": (0, 1)}, "tensor 'x' ranges from 0 to nan: give finite numbers in order"),
        ({"x": (0, 1), "y": (1, 0)}, "tensor 'y' ranges from 1 to 0: give finite numbers in order"),
    ],
)
def test_ranges_that_are_missing_or_none_are_refused(tmp_path: Path, ranges: dict[str, Range], message: str) -> None:
    graph = load(chain([conv("x", "y")], {"w": random(4, 3, 3, 3)}, [1, 3, 6, 6]), tmp_path)
    assert refused(lambda: quantize_graph(graph, ranges)) == message


def test_zero_is_in_every_range(tmp_path: Path) -> None:
    graph = load(chain([conv("x", "y")], {"w": random(4, 3, 3, 3)}, [1, 3, 6, 6]), tmp_path)
    found = rounded(quantize_graph(graph, {"x": (1, 2), "y": (-2, -1)})[0])
    assert found == {"x": (float(np.float32(2 / 255)), 0), "y": (float(np.float32(2 / 255)), 255)}


def test_names_that_are_taken(tmp_path: Path) -> None:
    nodes = [conv("x", "y"), helper.make_node("Relu", ["y"], ["y/float"]), conv("y", "x/rounded")]
    graph, _ = quantized(chain(nodes, {"w": random(3, 3, 3, 3)}, [1, 3, 7, 7], "y/float", "x/rounded"), tmp_path)
    names = [name for node in graph.nodes for name in node.outputs]
    assert len(set(names)) == len(names)
    assert {"y/float", "x/rounded", "y", "y/float_2", "x/rounded_2"} <= set(names)


def residual(b: Builder) -> Value:
    x = b.conv(b.input(1, 4, 12, 12), 8, 3, act="Relu")
    y = b.op("Relu", b.op("Add", b.conv(b.conv(x, 8, 3, act="Relu"), 8, 3), x))
    return b.op("Softmax", b.gemm(b.op("Flatten", b.op("GlobalAveragePool", y)), 10), axis=1)


def fires(b: Builder) -> Value:
    x = b.op("MaxPool", b.conv(b.input(1, 4, 16, 16), 8, 3, act="Relu"), kernel_shape=[3, 3], strides=[2, 2])
    for _ in range(2):
        squeezed = b.conv(x, 4, 1, act="Relu")
        x = b.op("Concat", b.conv(squeezed, 8, 1, act="Relu"), b.conv(squeezed, 8, 3, act="Relu"), axis=1)
    pooled = b.op("AveragePool", b.conv(x, 10, 1), kernel_shape=[2, 2], strides=[2, 2])
    return b.op("Flatten", b.op("GlobalAveragePool", pooled))


def separable(b: Builder) -> Value:
    x = b.conv(b.input(1, 4, 12, 12), 8, 3, stride=2, norm=True, act="relu6")
    x = b.conv(b.conv(x, 8, 3, groups=8, norm=True, act="relu6"), 12, 1, norm=True)
    return b.conv(x, 6, 3, groups=2, dilation=2, act="silu")


def dense(b: Builder) -> Value:
    x = b.conv(b.input(1, 4, 10, 10), 8, 3)
    for _ in range(3):
        x = b.op("Concat", x, b.conv(b.act(b.norm(x), "Relu"), 4, 3), axis=1)
    return b.op("GlobalAveragePool", x)


@pytest.mark.parametrize("make", [residual, fires, separable, dense])
def test_networks_stay_near_the_float_model(tmp_path: Path, make: Callable[[Builder], Value]) -> None:
    b = Builder(name="toy")
    model = b.finish(make(b))
    graph, reasons = quantized(model, tmp_path)
    assert not reasons
    (found,) = noise(model, graph, feeds_for(graph))
    assert found >= 2 * BOUND


def test_a_plain_network_stays_near_the_float_model(tmp_path: Path) -> None:
    graph, _ = quantized(network(), tmp_path)
    assert min(noise(network(), graph, feeds_for(graph))) >= 2 * BOUND


def step(kind: str, b: Builder, values: list[Value]) -> Value:
    """One more operator on the last value, or on the last two."""
    x = values[-1]
    match kind:
        case "add":
            return b.op("Add", x, values[0])
        case "concat":
            return b.conv(b.op("Concat", *values[-2:], axis=1), 6, 1)
        case "max":
            return b.op("MaxPool", x, kernel_shape=[3, 3], pads=[1] * 4)
        case "average":
            return b.op("AveragePool", x, kernel_shape=[3, 3], pads=[1] * 4)
        case "shuffle":
            split = b.op("Reshape", x, b.integers(0, 2, 3, 8, 8))
            return b.op("Reshape", b.op("Transpose", split, perm=[0, 2, 1, 3, 4]), b.integers(0, 6, 8, 8))
        case "matmul":
            return b.unit("MatMul", x, b.normal(8, 8, scale=1 / np.sqrt(8 * x.square)))
        case _:
            return b.conv(x, 6, 3, act=kind)


STEPS = ("", "Relu", "relu6", "silu", "add", "concat", "max", "average", "shuffle", "matmul")


@FEW
@given(kinds=st.lists(st.sampled_from(STEPS), min_size=1, max_size=6), seed=st.integers(0, 99))
def test_random_chains_stay_near_the_float_model(tmp_path: Path, kinds: list[str], seed: int) -> None:
    """Of values spread over 2 * 4 deviations, 8 bits keep 10 log10(12 * 255^2 / 8^2) = 41 dB; twenty roundings, and as
    many of weights, leave 25 dB of that."""
    b = Builder(name="chain", seed=seed)
    values = [b.input(1, 6, 8, 8)]
    for kind in kinds:
        values.append(step(kind, b, values))
    model = b.finish(values[-1])
    graph, reasons = quantized(model, tmp_path)
    assert not reasons
    (found,) = noise(model, graph, feeds_for(graph))
    assert found >= BOUND


@pytest.mark.parametrize("seed", range(12))
def test_random_networks_keep_names_and_run(tmp_path: Path, seed: int) -> None:
    """Any operators: the graph is sound, and what it gives has the model's names, types and shapes."""
    model, feeds = random_graph(seed)
    graph = load(model, tmp_path)
    found, _ = quantize_graph(graph, seen(graph, feeds))
    assert found.inputs == graph.inputs
    assert found.outputs == graph.outputs
    noise(model, found, feeds)
    known = {spec.name for spec in found.inputs} | found.constants.keys()
    for node in found.nodes:
        assert all(not name or name in known for name in node.inputs)
        known.update(node.outputs)
    sizes = {name: spec.shape for name, spec in found.types.items() if name in found.constants}
    assert sizes == {name: array.shape for name, array in found.constants.items()}


@pytest.mark.parametrize(
    ("seen", "scheme", "op"),
    [
        (6.0, BYTES, "Relu"),
        (4.5, BYTES, "Relu"),
        (6.01, BYTES, "Relu"),
        (6.02, BYTES, "Clip"),
        (8.0, BYTES, "Clip"),
        (6.0, FixedPoint(format=Fixed(2, 14), literal=True), "Relu"),
        (6.0, FixedPoint(format=Fixed(4, 12), literal=True), "Clip"),
    ],
)
@pytest.mark.parametrize("older", [False, True])
def test_a_clip_up_to_the_last_code_is_a_relu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seen: float, scheme: Scheme, op: str, older: bool
) -> None:
    """And has the codes of the Clip."""
    bounds: list[str] = [] if older else ["low", "high"]
    old: dict[str, Any] = {"min": 0.0, "max": 6.0} if older else {}
    nodes = [conv("x", "c"), helper.make_node("Clip", ["c", *bounds], ["y"], **old)]
    constants = {"w": np.ones((1, 1, 1, 1), np.float32), "low": np.float32(0), "high": np.float32(6)}
    model = chain(nodes, {name: constants[name] for name in ["w", *bounds]}, [1, 1, 4001, 1])
    model.opset_import[0].version = 6 if older else 13
    graph, x = load(model, tmp_path), np.linspace(-20, 20, 4001, dtype=np.float32).reshape(1, 1, -1, 1)

    def codes() -> tuple[list[str], Any]:
        ranges, options = {"x": (-20.0, 20.0), "y": (0.0, seen)}, QuantizationOptions(scheme=scheme)
        network, _ = quantize_graph(graph, ranges, options)
        return operators(network), oracle(network, {"x": x}, wanted=["y/codes"])["y/codes"]

    ops, found = codes()
    monkeypatch.setattr(quantization, "upper_bound", lambda *_: None)
    others, expected = codes()
    assert op in ops
    assert ops.count("Relu") == (op == "Relu")
    assert "Relu" not in others
    assert np.array_equal(found, expected)


def test_a_clip_without_upper_bound_stays(tmp_path: Path) -> None:
    nodes = [conv("x", "c"), helper.make_node("Clip", ["c", "low"], ["y"])]
    graph = load(chain(nodes, {"w": random(4, 3, 3, 3), "low": np.float32(0)}, [1, 3, 6, 6]), tmp_path)
    assert "Clip" in operators(quantize_graph(graph, {"x": (0.0, 1.0), "y": (0.0, 1.0)})[0])
