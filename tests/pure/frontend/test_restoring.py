"""Constants that folding dequantized are integers again where a product of integers reads them, and nowhere else."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from lowprec.exporting import to_onnx
from lowprec.frontend.graph import Graph
from lowprec.quantized_reference import evaluate
from tests.graphs import load
from tests.integer_layers import Case, small_conv
from tests.networks.drawing import session_of
from tests.quantized import Network

SHAPE = (1, 3, 4, 5)


def image(net: Network) -> str:
    return net.input(np.random.default_rng(0).integers(0, 256, SHAPE, "uint8"))


def weights(net: Network, *shape: int) -> str:
    codes = np.random.default_rng(1).integers(-128, 128, shape, "int8")
    return net.dequantize(net.constant(codes), np.linspace(0.01, 0.02, shape[0]), np.zeros(shape[0]), axis=0)


def conv(net: Network, x: str, w: str, *bias: str) -> str:
    return net.node("Conv", x, w, *bias, shape=SHAPE, kernel_shape=(1, 1))


def of_floats(net: Network) -> list[str]:
    """Nothing is gained by integer weights where the input is none."""
    x = net.node("Relu", net.dequantize(image(net), 0.1, 3), shape=SHAPE)
    return [conv(net, x, weights(net, 3, 3, 1, 1))]


def read_elsewhere(net: Network) -> list[str]:
    """By a convolution of floats."""
    x, w = net.dequantize(image(net), 0.1, 3), weights(net, 3, 3, 1, 1)
    return [conv(net, x, w), conv(net, net.node("Relu", x, shape=SHAPE), w)]


def returned(net: Network) -> list[str]:
    w = weights(net, 3, 3, 1, 1)
    return [conv(net, net.dequantize(image(net), 0.1, 3), w), w]


def first_operand(net: Network) -> list[str]:
    """Constant on the left, what comes in on the right."""
    w = net.dequantize(net.constant(np.arange(12, dtype=np.int8).reshape(4, 3)), 0.1)
    x = net.dequantize(net.input(np.arange(6, dtype=np.uint8).reshape(3, 2)), 0.1, 3)
    return [net.node("MatMul", w, x, shape=(4, 2))]


def turned(net: Network) -> list[str]:
    """What is folded behind the DequantizeLinear has no integers of its own."""
    w = net.node("Neg", weights(net, 3, 3, 1, 1), shape=(3, 3, 1, 1))
    return [conv(net, net.dequantize(image(net), 0.1, 3), w)]


def loaded(net: Network, outputs: list[str], folder: Path) -> Graph:
    return load(net.model(*outputs), folder)


def restored(graph: Graph) -> list[str]:
    """The constants that are dequantized by nodes."""
    return [n.outputs[0] for n in graph.nodes if n.op == "DequantizeLinear" and n.inputs[0] in graph.constants]


def test_weights_and_bias_are_integers_again(tmp_path: Path) -> None:
    net, (_, y) = small_conv(Case())
    graph = loaded(net, [y], tmp_path)
    layer = next(node for node in graph.nodes if node.op == "Conv")
    assert restored(graph) == list(layer.inputs[1:])
    assert not graph.constants.keys() & set(layer.inputs)
    assert graph.dequantized == {}
    assert np.array_equal(evaluate(graph, net.feeds)[y], net.evaluated(y)[0])


def test_one_node_serves_every_product(tmp_path: Path) -> None:
    net = Network()
    x, w = net.dequantize(image(net), 0.1, 3), weights(net, 3, 3, 1, 1)
    y = conv(net, net.dequantize(net.quantize(conv(net, x, w), 0.5, 0, "int8"), 0.5), w)
    graph = loaded(net, [y], tmp_path)
    assert restored(graph) == [w]
    assert np.array_equal(evaluate(graph, net.feeds)[y], net.evaluated(y)[0])


def pooled(net: Network, dtype: str = "uint8") -> list[str]:
    """Behind a pool and a concatenation, whose float result is read as well."""
    x = net.dequantize(net.input(np.random.default_rng(0).integers(0, 99, SHAPE, dtype)), 0.1, 3)
    small = net.node("MaxPool", x, shape=SHAPE, kernel_shape=(1, 1))
    wide = net.node("Concat", small, x, shape=(1, 6, 4, 5), axis=1)
    return [conv(net, wide, weights(net, 3, 6, 1, 1)), net.node("Relu", wide, shape=(1, 6, 4, 5))]


def moved_by_float(net: Network) -> list[str]:
    """Of two parts one is no integer."""
    x = net.dequantize(image(net), 0.1, 3)
    wide = net.node("Concat", x, net.node("Relu", x, shape=SHAPE), shape=(1, 6, 4, 5), axis=1)
    return [conv(net, wide, weights(net, 3, 6, 1, 1))]


def test_integers_move_to_the_product(tmp_path: Path) -> None:
    net = Network()
    outputs = pooled(net)
    graph = loaded(net, outputs, tmp_path)
    made = {name: node for node in graph.nodes for name in node.outputs}
    layer = made[outputs[0]]
    source = made[layer.inputs[0]]
    assert [source.op, made[source.inputs[0]].op, restored(graph)] == ["DequantizeLinear", "Concat", [layer.inputs[1]]]
    for name, found in evaluate(graph, net.feeds).items():
        assert np.allclose(found, net.evaluated(name)[0], rtol=1e-5, atol=1e-5)
    session_of(to_onnx(graph)).run(None, dict(net.feeds))


def test_words_are_not_pooled_as_integers(tmp_path: Path) -> None:
    """ONNX's MaxPool takes none of 16 bits."""
    net = Network()
    graph = loaded(net, pooled(net, "int16"), tmp_path)
    assert restored(graph) == []
    assert all(graph.types[node.inputs[0]].dtype == "float32" for node in graph.nodes if node.op == "MaxPool")


@pytest.mark.parametrize(
    "draw", [moved_by_float, of_floats, read_elsewhere, returned, first_operand, turned], ids=lambda draw: draw.__name__
)
def test_what_stays_folded(draw: Callable[[Network], list[str]], tmp_path: Path) -> None:
    net = Network()
    outputs = draw(net)
    graph = loaded(net, outputs, tmp_path)
    assert restored(graph) == []
    for name, found in evaluate(graph, net.feeds).items():
        assert np.allclose(found.astype(np.float64), net.evaluated(name)[0].astype(np.float64), rtol=1e-5, atol=1e-5)
