"""Which tensors of a quantized network have one value, bit for bit, and which are only near it.

Promised is what depends on nothing but integer layers and averages (rules 1 and 3 of `quantized_reference`), any
QuantizeLinear and DequantizeLinear (rule 2), arithmetic on integers, and EXACT operators, which move values or round
each of them once. What a float sum, a softmax or a root has touched depends on an order or a library.
"""

from collections.abc import Mapping

import numpy as np

from lowprec.frontend.graph import Graph, Node
from lowprec.frontend.randomness import DOMAIN
from lowprec.manifest import dtype_of
from lowprec.oracle_integers import OPERATORS
from lowprec.oracle_layers import is_integer_layer, is_integer_pool
from lowprec.oracle_values import Codes, Ints, Value
from lowprec.quantized_reference import is_plain, parameter_of, requantized_tensors

MOVING = """
Concat DepthToSpace Expand Flatten Gather GatherElements GatherND GlobalMaxPool Identity MaxPool Pad Reshape Slice
SpaceToDepth Split Squeeze Tile Transpose Unsqueeze Where
"""
ROUNDING_ONCE = "Abs Add Ceil Clip Div Floor LeakyRelu Max Min Mul Neg PRelu Relu Round Sub"
EXACT = frozenset([*MOVING.split(), *ROUNDING_ONCE.split(), *OPERATORS])
INTEGERS = "biu"
"""Kinds of dtypes whose arithmetic is exact."""


def promised_tensors(graph: Graph) -> frozenset[str]:
    """The names of all that is promised, the model's inputs and constants included."""
    promised = {*graph.constants, *(spec.name for spec in graph.inputs), ""}
    made = {name: node for node in graph.nodes for name in node.outputs}
    requantized = requantized_tensors(graph)
    for node in graph.nodes:
        if promised.issuperset(node.inputs) and _is_exact(node, graph, made, requantized):
            promised.update(node.outputs)
    return frozenset(promised - {""})


def _is_exact(node: Node, graph: Graph, made: Mapping[str, Node], requantized: frozenset[str]) -> bool:
    """Whether operands leave no choice of a result."""
    if node.domain:
        return node.domain == DOMAIN
    if node.op in EXACT or is_plain(node, graph) or _computes_integers(node, graph):
        return True
    if node.op == "Sum":
        return len(node.inputs) <= 2
    operands = [_operand(name, graph, made.get(name)) if name else None for name in node.inputs]
    if is_integer_layer(node, operands):
        return True
    first = operands[0] if operands else None
    return isinstance(first, Codes) and is_integer_pool(node, first) and node.outputs[0] in requantized


def _computes_integers(node: Node, graph: Graph) -> bool:
    types = [graph.types[name].dtype for name in (*node.inputs, *node.outputs) if name]
    return all(dtype_of(dtype).kind in INTEGERS for dtype in types)


def _operand(name: str, graph: Graph, source: Node | None) -> Value:
    """An operand as the oracle will see it, but for its values."""
    if source is None or source.op != "DequantizeLinear" or not is_plain(source, graph):
        return np.empty(0)
    shape = graph.types[name].shape
    scale, zero = [*(_blank(given, graph) if given else None for given in source.inputs[1:]), None][:2]
    return Codes(
        codes=_blank(source.inputs[0], graph),
        scale=parameter_of(source, scale, shape),
        zero=parameter_of(source, zero, shape),
        constant=source.inputs[0] in graph.constants,
    )


def _blank(name: str, graph: Graph) -> Ints:
    """An array of a value's type and shape that takes no memory."""
    spec = graph.types[name]
    return np.broadcast_to(np.zeros((), dtype_of(spec.dtype)), spec.shape)
