"""What is promised bit for bit: integers and what moves or rounds once, until a sum of floats is met."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from lowprec.frontend.graph import Graph
from lowprec.oracle_promises import promised_tensors
from tests.quantized import Network

BYTES = np.arange(16, dtype=np.uint8)


def product(net: Network, x: str, *, per_channel: bool = True, bias: str = "") -> str:
    weights = net.constant(np.ones((16, 4), np.int8))
    scale: Any
    scale, zero = (np.array([0.1, 0.2, 0.3, 0.4], np.float32), [0] * 4) if per_channel else (np.float32(0.1), 0)
    w = net.dequantize(weights, scale, zero, **({"axis": 1} if per_channel else {}))
    return net.node("Gemm", x, w, *([bias] if bias else []), shape=(1, 4))


def promised(net: Network, *outputs: str) -> frozenset[str]:
    graph: Graph = net.graph(*outputs)
    return promised_tensors(graph)


def start() -> tuple[Network, str]:
    net = Network()
    return net, net.dequantize(net.input(BYTES.reshape(1, 16)), np.float32(0.1), 3)


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_a_layer_of_integers_and_its_rounding(per_channel: bool, bias: bool) -> None:
    net, x = start()
    y = product(net, x, per_channel=per_channel, bias=net.constant(np.ones(4, np.float32)) if bias else "")
    q = net.quantize(net.node("Relu", y, shape=(1, 4)), np.float32(0.1), 0, "uint8")
    assert {x, y, q} <= promised(net, q)


def test_a_layer_of_floats_and_all_behind_it_are_not() -> None:
    net, x = start()
    y = net.node("Gemm", x, net.constant(np.ones((16, 4), np.float32)), shape=(1, 4))
    q = net.quantize(y, np.float32(0.1), 0, "uint8")
    z = product(net, net.dequantize(net.node("Concat", q, q, q, q, shape=(1, 16), dtype="uint8", axis=1), 0.1))
    assert not {y, q, z} & promised(net, z)


OPERATORS: list[tuple[str, dict[str, Any], bool]] = [
    ("Relu", {}, True),
    ("Neg", {}, True),
    ("LeakyRelu", {"alpha": 0.1}, True),
    ("Transpose", {"perm": (0, 1)}, True),
    ("Softmax", {}, False),
    ("Sigmoid", {}, False),
    ("Sqrt", {}, False),
]


@pytest.mark.parametrize(("op", "attributes", "expected"), OPERATORS, ids=[op for op, *_ in OPERATORS])
def test_operators_on_floats(op: str, attributes: dict[str, Any], expected: bool) -> None:
    net, x = start()
    y = net.node(op, x, shape=(1, 16), **attributes)
    assert (y in promised(net, y)) is expected


@pytest.mark.parametrize(("count", "expected"), [(2, True), (3, False)])
def test_a_sum_of_two_has_one_order(count: int, expected: bool) -> None:
    net, x = start()
    y = net.node("Sum", *[x] * count, shape=(1, 16))
    assert (y in promised(net, y)) is expected


@pytest.mark.parametrize(("outputs", "expected"), [(["q"], True), (["q", "y"], False)])
def test_an_average_is_exact_if_it_is_rounded_alone(outputs: Sequence[str], expected: bool) -> None:
    net = Network()
    x = net.dequantize(net.input(BYTES.reshape(1, 1, 4, 4)), np.float32(0.1), 3)
    y = net.node("GlobalAveragePool", x, shape=(1, 1, 1, 1))
    q = net.quantize(y, np.float32(0.1), 0, "uint8")
    assert (q in promised(net, *[{"q": q, "y": y}[name] for name in outputs])) is expected


def test_integers_are_exact_whatever_is_done_with_them() -> None:
    net = Network()
    y = net.node("ReduceSum", net.input(np.arange(4)), shape=(1,), dtype="int64")
    assert y in promised(net, y)


def test_an_input_is_promised_and_the_absent_one_is_no_name() -> None:
    net, x = start()
    y = net.node("Clip", x, "", net.constant(np.float32(1)), shape=(1, 16))
    found = promised(net, y)
    assert {net.inputs[0], y} <= found
    assert "" not in found
