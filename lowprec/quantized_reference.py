"""What a quantized network means, in NumPy: the answer that compiled artifacts equal bit for bit.

A network is quantized by QuantizeLinear and DequantizeLinear nodes. All arithmetic is float32, each operation rounded
once to nearest even, nothing fused, except where the graph says that integers are meant:

1. A Conv, Gemm (alpha = beta = 1) or MatMul whose input is dequantized per tensor and whose weights are dequantized
   constants, per tensor or output channel, sums integers exactly. A bias that is an int32 constant at scale
   fp32(sx * sw) belongs to the sum. Then, with acc the sum,
   a. if the result goes to one QuantizeLinear (sy, zy) and nowhere else, through one Relu at most,
      q = clamp(rint(fp32(acc) * fp32(fp32(sx * sw) / sy)) + zy), with the Relu max(q, zy);
   b. otherwise it is fp32(acc) * fp32(sx * sw), to which any other bias is added.
2. Any other QuantizeLinear is clamp(rint(x / s) + z), any DequantizeLinear fp32(q - z) * s.
3. An AveragePool or GlobalAveragePool from one 8-bit DequantizeLinear to one QuantizeLinear alone sums its windows of
   n elements exactly: clamp(rint(fp32(acc) * fp32(sx / fp32(sy * n))) + zy).
4. Every other operator is ONNX's in float32; where it sums (softmax, normalization), in an order that is not promised.

A QuantizeLinear with random words rounds by them (4 to 6 of docs/numerics.md) where rint stands above.

An output of the model goes to its caller, too. Integers have 8 or 16 bits. This module and those named `oracle_` share
no code with the passes, the kernels or the conversion.
"""

from collections import Counter
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace

import numpy as np

from lowprec.arguments import bind
from lowprec.errors import Unsupported, UsageError
from lowprec.formats import BF16, FP16
from lowprec.frontend.graph import Graph, Node, TensorSpec
from lowprec.frontend.randomness import DOMAIN, RANDOM_WORDS, WORDS_OF_QUANTIZE, key_in
from lowprec.manifest import dtype_of
from lowprec.oracle_integers import OPERATORS
from lowprec.oracle_layers import Operands, integer_layer, integer_pool, is_integer_layer, is_integer_pool
from lowprec.oracle_nodes import by_onnx
from lowprec.oracle_operators import operator_of
from lowprec.oracle_values import WORDS, Array, Codes, Ints, Sums, Value, along, quantized, real, requantized
from lowprec.philox import BLOCK, philox4x32
from lowprec.rounding import Rounding, round_to

DIVISIONS = (0, 1)
"""What a QuantizeLinear's `precision` is where it divides in float32: not given, or ONNX's number of that type."""


def evaluate(
    graph: Graph, inputs: Mapping[str, Array], *, wanted: Sequence[str] = (), step: int = 0
) -> dict[str, Array]:
    """The model's outputs by name, then the tensors `wanted`; inside a fused layer those are what (1b) makes them."""
    names, made = [spec.name for spec in graph.inputs], {name for node in graph.nodes for name in node.outputs}
    for name in wanted:
        if name not in {*names, *made, *graph.constants}:
            raise UsageError(f"the model has no tensor {name!r}: ask for inputs, constants or outputs of its nodes")
    values: dict[str, Value] = {**graph.constants, **dict(zip(names, bind(graph.inputs, [inputs]), strict=True))}
    kept = [*(spec.name for spec in graph.outputs), *wanted]
    with np.errstate(all="ignore"):
        _run(graph, values, {*kept, ""}, step)
        return {name: _settled(values[name], graph.types[name]) for name in kept}


def _run(graph: Graph, values: dict[str, Value], kept: Set[str], step: int) -> None:
    """Every node in turn; what nobody reads any more is let go."""
    facts, last = _facts(graph, step), {name: node for node in graph.nodes for name in node.inputs}
    for node in graph.nodes:
        operands = [values[name] if name else None for name in node.inputs]
        values.update(zip(node.outputs, _computed(node, operands, facts), strict=False))
        for name in {*node.inputs} - kept:
            if last[name] is node:
                del values[name]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Facts:
    """What a node must know of the graph around it: `requantized` are the tensors that rule 1a or 3 may apply to.
    By the `step` words are drawn."""

    graph: Graph
    readings: Mapping[str, int]
    requantized: frozenset[str]
    step: int


def _facts(graph: Graph, step: int) -> _Facts:
    return _Facts(graph=graph, readings=_readings(graph), requantized=requantized_tensors(graph), step=step)


def requantized_tensors(graph: Graph) -> frozenset[str]:
    """The tensors that one QuantizeLinear reads, and nobody else."""
    readings = _readings(graph)
    read = {node.inputs[0] for node in graph.nodes if is_plain(node, graph) and _is_per_tensor(node, graph)}
    return frozenset(name for name in read if readings[name] == 1)


def _readings(graph: Graph) -> Counter[str]:
    """Reading twice counts twice, and an output of the model is read by its caller."""
    readings = Counter(name for node in graph.nodes for name in node.inputs)
    readings.update(spec.name for spec in graph.outputs)
    return readings


def _computed(node: Node, operands: Operands, facts: _Facts) -> Sequence[Value]:
    """The node's outputs, as integers where the rules say so."""
    if node.domain == DOMAIN:
        return [_drawing(node, operands, facts)]
    if node.domain:
        raise Unsupported(f"{node.op} node {node.layer!r} is of domain {node.domain!r}: only ONNX's own is known here")
    first = operands[0] if operands else None
    shape = facts.graph.types[next(filter(None, node.outputs))].shape
    if is_plain(node, facts.graph):
        return [_linear(node, operands, facts)]
    if is_integer_layer(node, operands):
        return [integer_layer(node, operands, shape)]
    if isinstance(first, Codes) and is_integer_pool(node, first) and node.outputs[0] in facts.requantized:
        return [integer_pool(node, first, shape)]
    if node.op == "Relu" and isinstance(first, Sums) and not first.rectified and facts.readings[node.inputs[0]] == 1:
        return [replace(first, rectified=True)]
    return _in_numbers(node, [None if value is None else real(value) for value in operands], facts)


def _in_numbers(node: Node, arrays: Sequence[Array | None], facts: _Facts) -> Sequence[Array]:
    """The node's outputs by its own definition."""
    specs = [facts.graph.types[name] if name else None for name in node.outputs]
    shape = next(filter(None, specs)).shape
    if node.op in OPERATORS:
        return OPERATORS[node.op](node, arrays, shape)
    if (operator := operator_of(node)) is not None:
        return [operator(node, [array for array in arrays if array is not None], shape)]
    found = zip(by_onnx(node, arrays), specs, strict=True)
    return [array.astype(dtype_of(spec.dtype), copy=False) if spec else array for array, spec in found]


def is_plain(node: Node, graph: Graph) -> bool:
    """Whether a node quantizes float32 to integers that layers compute with, or back; int32 is a bias."""
    if node.op not in ("QuantizeLinear", "DequantizeLinear"):
        return False
    x, scale, y = (graph.types[name].dtype for name in (*node.inputs[:2], node.outputs[0]))
    if node.op == "DequantizeLinear":
        return scale == y == "float32" and x in {*WORDS, "int32"}
    return x == scale == "float32" and y in WORDS and node.attributes.get("precision", 0) in DIVISIONS


def _is_per_tensor(node: Node, graph: Graph) -> bool:
    """Whether a QuantizeLinear has one scale and at most one zero point."""
    return node.op == "QuantizeLinear" and all(graph.types[name].elements == 1 for name in node.inputs[1:3] if name)


def _drawing(node: Node, operands: Operands, facts: _Facts) -> Array:
    """Random words, or a rounding by them."""
    if node.op == RANDOM_WORDS:
        spec = facts.graph.types[node.outputs[0]]
        counter = np.zeros((-(-spec.elements // BLOCK), 4), np.uint32)
        counter[:, 0], counter[:, 2] = np.arange(len(counter)), facts.step
        return philox4x32(counter, key_in(node.attributes)).reshape(-1)[: spec.elements].reshape(spec.shape)
    x, words = (real(operand) for operand in operands if operand is not None)
    fmt = {"bf16": BF16, "fp16": FP16}[str(node.attributes["to"])]
    held = np.where(np.isfinite(x), x, np.float32(0))
    return np.where(np.isfinite(x), round_to(held, fmt, Rounding.STOCHASTIC, bits=words).astype(np.float32), x)


def _linear(node: Node, operands: Operands, facts: _Facts) -> Value:
    """A QuantizeLinear or DequantizeLinear."""
    x = operands[0]
    assert x is not None
    shape, dtype = facts.graph.types[node.inputs[0]].shape, facts.graph.types[node.outputs[0]].dtype
    scale, zero = (parameter_of(node, value, shape) for value in [*operands[1:], None][:2])
    if node.op == "DequantizeLinear":
        return Codes(codes=real(x), scale=scale, zero=zero, constant=node.inputs[0] in facts.graph.constants)
    words = np.asarray(operands[WORDS_OF_QUANTIZE], np.uint32) if len(operands) > WORDS_OF_QUANTIZE else None
    if isinstance(x, Sums) and node.inputs[0] in facts.requantized:
        return requantized(x, scale.reshape(()), zero.reshape(()), dtype, words)
    return quantized(real(x).astype(np.float32, copy=False), scale, zero, dtype, words)


def parameter_of(node: Node, value: Value | None, shape: tuple[int, ...]) -> Ints:
    """A scale, or a zero point, which is 0 where absent."""
    axis, block = (node.attributes.get(name, default) for name, default in (("axis", 1), ("block_size", 0)))
    assert isinstance(axis, int)
    assert isinstance(block, int)
    array = np.zeros((), np.int8) if value is None else real(value)
    return along(array, axis if len(shape) > 1 else 0, shape, block)


def _settled(value: Value, spec: TensorSpec) -> Array:
    """An array of the model's type, the caller's own."""
    array = np.array(real(value), dtype_of(spec.dtype))
    assert array.shape == spec.shape, (spec, array.shape)
    return array
