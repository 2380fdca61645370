"""Layers of a graph: geometry, parameters, MACs and bytes of each node."""

import numpy as np
import pytest

from lowprec.convolution import Conv
from lowprec.frontend.graph import Array, Attribute, Graph, Node, TensorSpec
from lowprec.frontend.layering import layers_of
from lowprec.frontend.quantization import quantize_graph
from lowprec.layers import Gemm, Layer, Shape


def one(
    op: str, shapes: list[Shape], output: Shape, attributes: dict[str, Attribute], constants: tuple[int, ...] = (1,)
) -> Layer:
    """The layer of a graph of one node whose inputs have these shapes; `constants` are the places of the weights."""
    specs = [TensorSpec(name=f"i{place}", dtype="float32", shape=shape) for place, shape in enumerate(shapes)]
    y = TensorSpec(name="y", dtype="float32", shape=output)
    weights: dict[str, Array] = {specs[place].name: np.zeros(shapes[place], np.float32) for place in constants}
    node = Node(op=op, inputs=tuple(s.name for s in specs), outputs=("y",), layer="the_layer", attributes=attributes)
    graph = Graph(
        name="g",
        inputs=tuple(spec for spec in specs if spec.name not in weights),
        outputs=(y,),
        nodes=(node,),
        constants=weights,
        types={spec.name: spec for spec in (*specs, y)},
    )
    return layers_of(graph)[0]


def test_convolution() -> None:
    shapes: list[Shape] = [(1, 3, 224, 224), (64, 3, 7, 7), (64,)]
    layer = one("Conv", shapes, (1, 64, 112, 112), {"strides": (2, 2), "pads": (3, 3, 3, 3)}, (1, 2))
    assert isinstance(layer.geometry, Conv)
    assert layer.geometry.output_size == (112, 112)
    assert (layer.name, layer.output, layer.op) == ("the_layer", "y", "Conv")
    assert layer.parameters == 64 * 3 * 49 + 64
    assert layer.macs == 64 * 112 * 112 * 3 * 49
    assert layer.bytes == 4 * (3 * 224 * 224 + layer.parameters + 64 * 112 * 112)
    assert layer.intensity == 2 * layer.macs / layer.bytes


STANDING = {
    "alone": ((), True),
    "followed": (("Relu", "Clip"), True),
    "pooled": (("Relu", "MaxPool"), False),
    "in front of another": (("Relu", "Conv"), False),
}


@pytest.mark.parametrize(("following", "alone"), STANDING.values(), ids=STANDING)
def test_which_layer_stands_between_input_and_output(following: tuple[str, ...], alone: bool) -> None:
    names = ["x", *(f"v{place}" for place in range(len(following) + 1))]
    specs = {name: TensorSpec(name=name, dtype="float32", shape=(1, 4, 8, 8)) for name in names}
    weights = TensorSpec(name="w", dtype="float32", shape=(4, 1, 1, 1))
    nodes = [
        Node(op=op, inputs=(a, "w") if op == "Conv" else (a,), outputs=(b,), layer=b, attributes={"group": 4})
        for op, a, b in zip(("Conv", *following), names, names[1:], strict=False)
    ]
    graph = Graph(
        name="g",
        inputs=(specs["x"],),
        outputs=(specs[names[-1]],),
        nodes=tuple(nodes),
        constants={"w": np.zeros((4, 1, 1, 1), np.float32)},
        types={**specs, "w": weights},
    )
    first, *others = layers_of(graph)
    assert first.alone is alone
    assert not any(layer.alone for layer in others)


@pytest.mark.parametrize(("mode", "pads"), [("SAME_UPPER", ((0,), (1,))), ("SAME_LOWER", ((1,), (0,)))])
def test_auto_pad(mode: str, pads: tuple[Shape, Shape]) -> None:
    layer = one("Conv", [(1, 2, 8), (2, 2, 2)], (1, 2, 8), {"auto_pad": mode})
    assert isinstance(layer.geometry, Conv)
    assert (layer.geometry.pads_begin, layer.geometry.pads_end) == pads
    assert layer.geometry.output_size == (8,)


def test_valid_padding_and_groups() -> None:
    layer = one("Conv", [(2, 4, 9, 9), (8, 1, 3, 3)], (2, 8, 7, 7), {"auto_pad": "VALID", "group": 4})
    assert isinstance(layer.geometry, Conv)
    assert (layer.geometry.output_size, layer.geometry.groups) == ((7, 7), 4)


@pytest.mark.parametrize(
    ("attributes", "output"),
    [
        ({"strides": (2, 2)}, (7, 7)),
        ({"strides": (2, 2), "pads": (1, 1, 1, 1), "output_padding": (1, 1)}, (6, 6)),
        ({"strides": (2, 2), "auto_pad": "SAME_UPPER"}, (6, 6)),
        ({"strides": (2, 2), "output_shape": (6, 5)}, (6, 5)),
    ],
)
def test_transposed(attributes: dict[str, Attribute], output: Shape) -> None:
    layer = one("ConvTranspose", [(1, 4, 3, 3), (4, 2, 3, 3)], (1, 2, *output), attributes)
    assert isinstance(layer.geometry, Conv)
    assert layer.geometry.transposed
    assert layer.geometry.out_channels == 2
    assert layer.geometry.output_size == output


@pytest.mark.parametrize(
    ("a", "b", "attributes", "expected"),
    [
        ((1, 2048), (2048, 1000), {}, Gemm(batch=1, rows=1, cols=1000, depth=2048)),
        ((1, 2048), (1000, 2048), {"transB": 1}, Gemm(batch=1, rows=1, cols=1000, depth=2048)),
        ((5, 2), (5, 7), {"transA": 1}, Gemm(batch=1, rows=2, cols=7, depth=5)),
    ],
)
def test_gemm(a: Shape, b: Shape, attributes: dict[str, Attribute], expected: Gemm) -> None:
    assert one("Gemm", [a, b], (expected.rows, expected.cols), attributes).geometry == expected


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ((4,), (4,), Gemm(batch=1, rows=1, cols=1, depth=4)),
        ((2, 3, 4), (4, 5), Gemm(batch=1, rows=6, cols=5, depth=4)),
        ((2, 3, 4), (2, 4, 5), Gemm(batch=2, rows=3, cols=5, depth=4)),
        ((7, 1, 3, 4), (2, 4, 5), Gemm(batch=14, rows=3, cols=5, depth=4)),
    ],
)
def test_matmul(a: Shape, b: Shape, expected: Gemm) -> None:
    output = np.matmul(np.zeros(a), np.zeros(b)).shape
    layer = one("MatMul", [a, b], output, {}, ())
    assert layer.geometry == expected
    assert layer.macs == max(1, int(np.prod(output))) * a[-1]
    assert layer.parameters == 0


def test_other_operators_have_no_geometry() -> None:
    layer = one("Relu", [(1, 8)], (1, 8), {}, ())
    assert (layer.geometry, layer.macs, layer.bytes) == (None, 0, 64)
    assert one("Conv", [(0, 3, 8, 8), (4, 3, 3, 3)], (0, 4, 6, 6), {}).geometry is None


def quantized_chain() -> tuple[Layer, ...]:
    """x -> codes -> Conv -> rounded, MaxPool on bytes, all rounded; names as quantize_graph gives them."""
    weights, pooled = np.ones((4, 3, 3, 3), np.float32), TensorSpec(name="p", dtype="float32", shape=(1, 4, 3, 3))
    x = TensorSpec(name="x", dtype="float32", shape=(1, 3, 8, 8))
    y = TensorSpec(name="y", dtype="float32", shape=(1, 4, 6, 6))
    w = TensorSpec(name="w", dtype="float32", shape=weights.shape)
    nodes = (
        Node(op="Conv", inputs=("x", "w"), outputs=("y",), layer="y", version=17),
        Node(
            op="MaxPool",
            inputs=("y",),
            outputs=("p",),
            layer="p",
            version=17,
            attributes={"kernel_shape": (2, 2), "strides": (2, 2)},
        ),
    )
    types = {spec.name: spec for spec in (x, w, y, pooled)}
    graph = Graph(name="g", inputs=(x,), outputs=(pooled,), nodes=nodes, constants={"w": weights}, types=types)
    rounded, _ = quantize_graph(graph, {"x": (-1.0, 1.0), "y": (-9.0, 9.0)})
    return layers_of(rounded)


def test_rounding_is_part_of_the_layer_whose_result_it_is() -> None:
    assert [(layer.name, layer.op) for layer in quantized_chain()] == [
        ("x", "QuantizeLinear"),
        ("y", "Conv"),
        ("p", "MaxPool"),
    ]


def test_layers_of_integers_say_their_words_and_count_their_bytes() -> None:
    first, conv, pool = quantized_chain()
    assert (first.words, conv.words, pool.words) == (None, ("int8", "uint8", "int32"), ("uint8",) * 3)
    assert (conv.integers, pool.integers) == (True, False)
    assert conv.parameters == 4 * 3 * 9
    assert conv.bytes == 3 * 8 * 8 + conv.parameters + 4 * (4 * 6 * 6)
