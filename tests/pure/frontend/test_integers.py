"""Graphs on integers have the bits of the graphs they are made of, and nothing that could be integers is left."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from lowprec import quantized_reference
from lowprec.frontend.graph import Graph, Node
from lowprec.frontend.integers import to_integers
from lowprec.quantized_reference import evaluate
from tests.graphs import operators
from tests.integer_layers import Case, small_conv
from tests.quantized import Array, Network
from tests.quantized_graphs import quantized_graph

QUICK, ALL = 60, 2000
SHAPE = (1, 3, 4, 5)


def image(net: Network, dtype: str = "uint8") -> str:
    return net.input(np.random.default_rng(0).integers(0, 128, SHAPE, dtype))


def conv(net: Network, x: str, *bias: str, dtype: str = "int8", axis: int = 0) -> str:
    codes = net.constant(np.random.default_rng(1).integers(0, 128, (3, 3, 1, 1), dtype))
    w = net.dequantize(codes, np.linspace(0.01, 0.02, 3), np.zeros(3), axis=axis)
    return net.node("Conv", x, w, *bias, shape=SHAPE, kernel_shape=(1, 1))


def on_integers(net: Network, outputs: list[str]) -> Graph:
    """The graph rewritten, with the same bits."""
    graph = net.graph(*outputs)
    made = to_integers(graph)
    found = evaluate(made, net.feeds)
    for name, expected in evaluate(graph, net.feeds).items():
        assert found[name].dtype == expected.dtype
        assert np.array_equal(found[name], expected), name
    return made


@pytest.mark.parametrize(
    "seed", [*range(QUICK), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(QUICK, ALL))]
)
def test_a_random_network_keeps_its_bits(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    net, outputs = quantized_graph(seed)
    made = on_integers(net, outputs)
    left: list[Node] = []
    for name in ("integer_layer", "integer_pool"):
        monkeypatch.setattr(quantized_reference, name, noticed(getattr(quantized_reference, name), left))
    evaluate(made, net.feeds)
    assert not left, "the oracle sums integers where no operator on integers stands"


def noticed(rule: Callable[..., Any], left: list[Node]) -> Callable[..., Any]:
    def noticing(node: Node, *operands: Any) -> Any:
        left.append(node)
        return rule(node, *operands)

    return noticing


def test_a_layer_s_scale_and_the_next_one_s_are_one_factor() -> None:
    net, (numbers, y) = small_conv(Case(relu=True))
    made = on_integers(net, [net.quantize(y, numbers.sy, numbers.zy, "uint8")])
    assert operators(made) == ["ConvInteger", "Add", "Cast", "Mul", "Relu", "QuantizeLinear"]
    quantize = made.nodes[-1]
    assert made.constants[quantize.inputs[1]] == 1
    expected = np.divide(np.multiply(numbers.sx, numbers.sw, dtype=np.float32), numbers.sy)
    factor = next(node.inputs[1] for node in made.nodes if node.op == "Mul")
    assert np.array_equal(made.constants[factor].reshape(-1), expected)


def in_floats(net: Network) -> list[str]:
    """Two readers: the sum goes to floats first."""
    y = conv(net, net.dequantize(image(net), 0.1, 3))
    return [net.quantize(y, 0.7, 3, "uint8"), net.node("Abs", y, shape=SHAPE)]


def float_bias(net: Network) -> list[str]:
    bias = net.constant(np.array([0.3, -0.2, 7], np.float32))
    return [net.quantize(conv(net, net.dequantize(image(net), 0.1, 3), bias), 0.7, 3, "uint8")]


def bias_in_other_units(net: Network) -> list[str]:
    bias = net.dequantize(net.constant(np.array([30, -2, 7], np.int32)), 0.3)
    return [net.quantize(conv(net, net.dequantize(image(net), 0.1, 3), bias), 0.7, 3, "uint8")]


def bias_of_the_moment(net: Network) -> list[str]:
    bias = net.input(np.array([0.3, -0.2, 7], np.float32))
    return [net.quantize(conv(net, net.dequantize(image(net), 0.1, 3), bias), 0.7, 3, "uint8")]


def two_relus(net: Network) -> list[str]:
    y = conv(net, net.dequantize(image(net), 0.1, 3))
    y = net.node("Relu", net.node("Relu", y, shape=SHAPE), shape=SHAPE)
    return [net.quantize(y, 0.7, 3, "uint8")]


def moved(net: Network) -> list[str]:
    x = net.dequantize(image(net), 0.1, 3)
    turned = net.node("Transpose", x, shape=(5, 4, 3, 1), perm=(3, 2, 1, 0))
    return [net.quantize(turned, 0.1, 3, "uint8")]


def moved_to_another_scale(net: Network) -> list[str]:
    x = net.dequantize(image(net), 0.1, 3)
    turned = net.node("Transpose", x, shape=(5, 4, 3, 1), perm=(3, 2, 1, 0))
    return [net.quantize(turned, 0.2, 3, "uint8"), net.quantize(x, 0.1, 3, "uint8")]


def joined(net: Network) -> list[str]:
    parts = [net.dequantize(image(net), 0.1, 3) for _ in range(2)]
    return [net.quantize(net.node("Concat", *parts, shape=(1, 6, 4, 5), axis=1), 0.1, 3, "uint8")]


def joined_of_two_scales(net: Network) -> list[str]:
    parts = [net.dequantize(image(net), scale, 3) for scale in (0.1, 0.2)]
    return [net.quantize(net.node("Concat", *parts, shape=(1, 6, 4, 5), axis=1), 0.1, 3, "uint8")]


def joined_of_two_types(net: Network) -> list[str]:
    parts = [net.dequantize(image(net, dtype), 0.1, 3) for dtype in ("uint8", "int8")]
    return [net.quantize(net.node("Concat", *parts, shape=(1, 6, 4, 5), axis=1), 0.1, 3, "uint8")]


def average_to_floats(net: Network) -> list[str]:
    return [net.node("GlobalAveragePool", net.dequantize(image(net), 0.1, 3), shape=(1, 3, 1, 1))]


def average_rectified(net: Network) -> list[str]:
    pooled = net.node("GlobalAveragePool", net.dequantize(image(net), 0.1, 3), shape=(1, 3, 1, 1))
    return [net.quantize(net.node("Relu", pooled, shape=(1, 3, 1, 1)), 0.1, 3, "uint8")]


def average(net: Network) -> list[str]:
    pooled = net.node("GlobalAveragePool", net.dequantize(image(net), 0.1, 3), shape=(1, 3, 1, 1))
    return [net.quantize(pooled, 0.1, 3, "uint8")]


def scales_along_the_inputs(net: Network) -> list[str]:
    return [conv(net, net.dequantize(image(net), 0.1, 3), axis=1)]


def weights_of_the_moment(net: Network) -> list[str]:
    w = net.dequantize(net.input(np.ones((3, 3, 1, 1), np.int8)), 0.1)
    return [net.node("Conv", net.dequantize(image(net), 0.1, 3), w, shape=SHAPE, kernel_shape=(1, 1))]


def input_by_channel(net: Network) -> list[str]:
    return [conv(net, net.dequantize(image(net), np.full(3, 0.1), np.full(3, 3), axis=1))]


def gemm_with_a_factor(net: Network) -> list[str]:
    x = net.dequantize(net.input(np.arange(12, dtype=np.uint8).reshape(4, 3)), 0.1, 3)
    w = net.dequantize(net.constant(np.arange(6, dtype=np.int8).reshape(3, 2)), 0.1)
    return [net.node("Gemm", x, w, shape=(4, 2), alpha=0.5)]


def by_blocks(net: Network) -> list[str]:
    x = net.dequantize(net.input(np.arange(12, dtype=np.uint8).reshape(3, 4)), 0.1, 3)
    codes, scales = net.constant(np.arange(8, dtype=np.int8).reshape(4, 2)), np.full((2, 2), 0.1)
    w = net.dequantize(codes, scales, np.zeros((2, 2)), axis=0, block_size=2)
    return [net.node("MatMul", x, w, shape=(3, 2))]


SUM = ["ConvInteger", "Cast", "Mul"]
CASES: dict[Callable[[Network], list[str]], list[str]] = {
    in_floats: [*SUM, "QuantizeLinear", "Abs"],
    float_bias: [*SUM, "Add", "QuantizeLinear"],
    bias_in_other_units: [*SUM, "Add", "QuantizeLinear"],
    bias_of_the_moment: [*SUM, "Reshape", "Add", "QuantizeLinear"],
    two_relus: [*SUM, "Relu", "Relu", "QuantizeLinear"],
    moved: ["Transpose", "DequantizeLinear", "QuantizeLinear"],
    moved_to_another_scale: ["Transpose", *2 * ["DequantizeLinear", "QuantizeLinear"]],
    joined: ["Concat", "DequantizeLinear", "QuantizeLinear"],
    joined_of_two_scales: ["DequantizeLinear", "DequantizeLinear", "Concat", "QuantizeLinear"],
    joined_of_two_types: ["DequantizeLinear", "DequantizeLinear", "Concat", "QuantizeLinear"],
    average: ["Cast", "Sub", "ReduceSum", "Cast", "Mul", "QuantizeLinear"],
    average_to_floats: ["DequantizeLinear", "GlobalAveragePool"],
    average_rectified: ["DequantizeLinear", "GlobalAveragePool", "Relu", "QuantizeLinear"],
    scales_along_the_inputs: ["DequantizeLinear", "Conv"],
    weights_of_the_moment: ["DequantizeLinear", "DequantizeLinear", "Conv"],
    input_by_channel: ["DequantizeLinear", "Conv"],
    gemm_with_a_factor: ["DequantizeLinear", "Gemm"],
    by_blocks: ["DequantizeLinear", "DequantizeLinear", "MatMul"],
}


@pytest.mark.parametrize("draw", CASES, ids=lambda draw: draw.__name__)
def test_what_becomes_integers(draw: Callable[[Network], list[str]]) -> None:
    net = Network()
    outputs = draw(net)
    assert sorted(operators(on_integers(net, outputs))) == sorted(CASES[draw])


def test_a_second_rounding_to_the_same_scale_is_none() -> None:
    """Inside; what the caller sees is a tensor of its own."""
    net = Network()
    x = net.dequantize(image(net), 0.1, 3)
    again = net.dequantize(net.quantize(x, 0.1, 3, "uint8"), 0.1, 3)
    made = on_integers(net, [net.quantize(again, 0.3, 0, "int8")])
    assert operators(made) == ["DequantizeLinear", "QuantizeLinear"]


@pytest.mark.parametrize(("scale", "zero", "dtype"), [(0.2, 3, "uint8"), (0.1, 4, "uint8"), (0.1, 3, "int8")])
def test_any_other_rounding_stays(scale: float, zero: int, dtype: str) -> None:
    net = Network()
    x = net.dequantize(image(net), 0.1, 3)
    again = net.dequantize(net.quantize(x, scale, zero, dtype), scale, zero)
    made = on_integers(net, [net.quantize(again, 0.3, 0, "int8")])
    assert operators(made).count("QuantizeLinear") == 2


def test_inner_tensors_of_the_model_keep_their_names() -> None:
    net, (numbers, y) = small_conv(Case())
    q = net.quantize(net.node("Abs", y, shape=net.types[y].shape), numbers.sy, numbers.zy, "uint8")
    made = to_integers(net.graph(q))
    inner: Array = evaluate(made, net.feeds, wanted=[y])[y]
    assert np.array_equal(inner, net.evaluated(q, wanted=[y])[1])
