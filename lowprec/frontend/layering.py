"""A graph's layers as plain data: what the plan decides on and what `inspect` shows.

What dequantizes constants is part of the layer that reads them; what rounds a layer's result, or takes the signs of its
operand, under the layer's own name, is part of that layer.
"""

import math
from collections.abc import Mapping

import ml_dtypes
import numpy as np

from lowprec.convolution import Conv
from lowprec.frontend.binarization import LAYERS as BINARY_LAYERS
from lowprec.frontend.binarization import is_binary
from lowprec.frontend.geometry import convolution_of
from lowprec.frontend.graph import Graph, Node, TensorSpec
from lowprec.frontend.integer_rewrite import BYTES
from lowprec.frontend.integers import to_integers
from lowprec.frontend.randomness import DOMAIN
from lowprec.layers import Gemm, Layer, Shape

# Where the two operands of each product stand among its node's inputs.
CONVOLUTIONS: dict[str, tuple[int, int]] = {
    "Conv": (0, 1),
    "ConvTranspose": (0, 1),
    "ConvInteger": (0, 1),
    "QLinearConv": (0, 3),
}
LINEAR = frozenset(("QuantizeLinear", "DequantizeLinear"))
TAKING_SIGNS = frozenset(("GreaterOrEqual", "Where"))
SIGNS = ("binary", "binary", "int32")
FOLLOWING = frozenset(("Add", "Clip", "Div", "Elu", "LeakyRelu", "Max", "Min", "Mul", "Neg", "Relu", "Sub"))
"""Operators of one element each."""
SUMS = frozenset(("ConvInteger", "MatMulInteger", "ReduceSum"))
"""What sums of integers become."""
PRODUCTS: dict[str, tuple[int, int]] = {"MatMul": (0, 1), "MatMulInteger": (0, 1), "QLinearMatMul": (0, 3)}


def layers_of(graph: Graph) -> tuple[Layer, ...]:
    """One layer per node, in the graph's order, but for those that are part of another."""
    words, dequantized = _words(graph) | _signs(graph), _dequantized(graph)
    products = {node.layer for node in graph.nodes if node.op in {*CONVOLUTIONS, *PRODUCTS, "Gemm"}}
    layers: list[Layer] = []
    known: set[str] = set()
    for node in graph.nodes:
        takes_signs = node.op in TAKING_SIGNS and node.layer in products
        if takes_signs or _is_rounding(node, graph, known):
            continue
        known.add(node.layer)
        layers.append(_layer(node, graph, words.get((node.layer, node.op)), dequantized))
    return tuple(layers)


def _is_rounding(node: Node, graph: Graph, known: set[str]) -> bool:
    """Whether a node dequantizes a constant, rounds (or holds within a format) what a known layer gives, or draws."""
    if node.domain == DOMAIN:
        return True
    constant = node.op in LINEAR and node.inputs[0] in graph.constants
    return not node.domain and (constant or (node.op in {*LINEAR, "Clip", "Cast"} and node.layer in known))


def _words(graph: Graph) -> dict[tuple[str, str], tuple[str, str, str]]:
    """Of each layer and operator that is computed on integers: the types of weights, activations and sums."""
    if not any(node.op == "DequantizeLinear" for node in graph.nodes):
        return {}
    work = to_integers(graph)
    operators: dict[str, str] = {}
    for node in graph.nodes:
        if node.op not in LINEAR and node.domain != DOMAIN:
            operators.setdefault(node.layer, node.op)
    found: dict[tuple[str, str], tuple[str, str, str]] = {}
    for node in work.nodes:
        op = operators.get(node.layer, node.op)
        types = [work.types[name].dtype for name in (*node.inputs, node.outputs[0]) if name]
        if node.op in SUMS and node.op != op:
            product = op in {*CONVOLUTIONS, *PRODUCTS, "Gemm"}
            found[node.layer, op] = (types[1], types[0], types[-1]) if product else (types[-1],) * 3
        elif node.op == op and op not in LINEAR and types[0] == types[-1] and types[0] in BYTES:
            found[node.layer, op] = (types[0],) * 3
    return found


def _signs(graph: Graph) -> dict[tuple[str, str], tuple[str, str, str]]:
    """The same of each layer that multiplies Where(x >= 0, 1, -1) by weights that are signs but for a factor."""
    made = {name: node for node in graph.nodes for name in node.outputs if name}
    layers = (node for node in graph.nodes if node.op in BINARY_LAYERS and node.attributes.get("group", 1) == 1)
    return {
        (node.layer, node.op): SIGNS
        for node in layers
        if _is_of_signs(made.get(node.inputs[0]), made, graph) and _has_signs(node, graph)
    }


def _is_of_signs(source: Node | None, made: Mapping[str, Node], graph: Graph) -> bool:
    asked = made.get(source.inputs[0]) if source is not None and source.op == "Where" else None
    if source is None or asked is None or asked.op != "GreaterOrEqual":
        return False
    known = ((asked.inputs[1], 0), (source.inputs[1], 1), (source.inputs[2], -1))
    return all(name in graph.constants and np.all(graph.constants[name] == number) for name, number in known)


def _has_signs(node: Node, graph: Graph) -> bool:
    weights = graph.constants.get(node.inputs[1])
    return weights is not None and weights.ndim > 1 and bool(weights.size) and is_binary(weights, node)


def _dequantized(graph: Graph) -> dict[str, TensorSpec]:
    """The integers that values are dequantized from."""
    nodes = (node for node in graph.nodes if node.op == "DequantizeLinear" and not node.domain)
    return {node.outputs[0]: graph.types[node.inputs[0]] for node in nodes}


def _layer(
    node: Node, graph: Graph, words: tuple[str, str, str] | None, dequantized: Mapping[str, TensorSpec]
) -> Layer:
    inputs = [graph.types[name] for name in node.inputs if name]
    outputs = [graph.types[name] for name in node.outputs if name]
    read = {spec.name: _read(spec, graph, words is not None, dequantized) for spec in inputs}.values()
    geometry = _geometry(node, graph)
    integers = geometry is not None and words is not None
    return Layer(
        name=node.layer,
        op=node.op,
        output=outputs[0].name,
        input_shapes=tuple(spec.shape for spec in inputs),
        output_shape=outputs[0].shape,
        parameters=sum(spec.elements for spec in read if spec.name in graph.constants),
        macs=0 if geometry is None else geometry.macs,
        bytes=sum(spec.elements * _item_size(spec.dtype) for spec in (*read, *outputs)),
        geometry=geometry,
        obstacle="" if geometry is None or integers else _obstacle(node, graph),
        words=words,
        alone=_stands_alone(node, graph),
    )


def _stands_alone(node: Node, graph: Graph) -> bool:
    """Whether it reads the model's input, and only element-wise operators come between what it makes and an output."""
    if not node.inputs or node.inputs[0] not in {spec.name for spec in graph.inputs}:
        return False
    made = set(node.outputs)
    for other in graph.nodes:
        if made.intersection(other.inputs):
            if other.op not in FOLLOWING:
                return False
            made.update(other.outputs)
    return True


def _read(spec: TensorSpec, graph: Graph, integers: bool, dequantized: Mapping[str, TensorSpec]) -> TensorSpec:
    """What is read for a value: integers that stand for it, where those are the model's, or are computed with."""
    source = dequantized.get(spec.name)
    return source if source is not None and (integers or source.name in graph.constants) else spec


def _geometry(node: Node, graph: Graph) -> Conv | Gemm | None:
    if node.op not in {*CONVOLUTIONS, *PRODUCTS, "Gemm"}:
        return None
    places = CONVOLUTIONS.get(node.op) or PRODUCTS.get(node.op) or (0, 1)
    a, b = (graph.types[node.inputs[place]].shape for place in places)
    if 0 in (*a, *b):
        return None
    if node.op in CONVOLUTIONS:
        return convolution_of(node, a, b)
    if node.op == "Gemm":
        return _gemm(node, a, b)
    return _product(a, b)


def _obstacle(node: Node, graph: Graph) -> str:
    """What keeps a convolution or product from the kernel templates."""
    dtype = graph.types[node.inputs[0]].dtype
    if node.op not in ("Conv", "ConvTranspose", "Gemm", "MatMul"):
        return f"{node.op} is computed step by step, as the standard defines it"
    if dtype != "float32":
        return f"its operands are {dtype}, and the kernel templates compute float32"
    if node.op in CONVOLUTIONS and node.inputs[1] not in graph.constants:
        return "its weights are computed at run time, and the direct kernel packs them when it is built"
    return ""


def _gemm(node: Node, a: Shape, b: Shape) -> Gemm:
    rows, depth = a[::-1] if node.attributes.get("transA", 0) else a
    cols = b[0] if node.attributes.get("transB", 0) else b[1]
    return Gemm(batch=1, rows=rows, cols=cols, depth=depth)


def _product(a: Shape, b: Shape) -> Gemm:
    """NumPy's matmul: a vector is a row on the left and a column on the right; leading axes broadcast."""
    a, b = (a if len(a) > 1 else (1, *a)), (b if len(b) > 1 else (*b, 1))
    batch = math.prod(np.broadcast_shapes(a[:-2], b[:-2]))
    if math.prod(b[:-2]) == 1:
        return Gemm(batch=1, rows=math.prod(a[:-1]), cols=b[-1], depth=a[-1])
    return Gemm(batch=batch, rows=a[-2], cols=b[-1], depth=a[-1])


def _item_size(dtype: str) -> int:
    """Bytes of one element; strings count as nothing."""
    known = getattr(ml_dtypes, dtype, dtype)
    return 0 if dtype in ("string", "str", "object") else np.dtype(known).itemsize
