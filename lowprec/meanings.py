"""What the tensors inside a compiled network are in the network that was compiled, and what they should hold.

    r2/float/integers    of a kernel that moves bytes: (q - 3) * 0.1 is the quantized network's r2/float, the model's r2

The child's side of `exactness`: a graph in, plain data and the oracle's arrays out.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from lowprec.exactness import Meaning
from lowprec.frontend.graph import Array, Graph, Node
from lowprec.frontend.integer_moves import move_integers
from lowprec.frontend.integers import to_integers
from lowprec.frontend.uses import Uses, uses_of
from lowprec.oracle_promises import promised_tensors
from lowprec.precision import prepare
from lowprec.quantized_reference import evaluate
from lowprec.seen import Question, Seen


def oracle_values(
    model: Graph, options: Mapping[str, Any], inner: Sequence[str], inputs: Mapping[str, Array]
) -> tuple[dict[str, Array], dict[str, Any]]:
    """The oracle's values of the outputs and of all that the tensors `inner` mean, and those meanings."""
    network = prepare(model, options, _no_ranges).graph
    found = meanings_of(network, model, [*inner, *(spec.name for spec in network.outputs)])
    values = evaluate(network, inputs, wanted=sorted({meaning.tensor for meaning in found.values()}))
    return values, {name: asdict(meaning) for name, meaning in found.items()}


def _no_ranges(_graph: Graph, question: Question) -> Seen:
    if not question.tensors:
        return Seen()
    raise AssertionError("an artifact of integers has the ranges it was compiled with")


def meanings_of(network: Graph, model: Graph, names: Sequence[str]) -> dict[str, Meaning]:
    """The meaning of each tensor that has one; the network is the model, or the model quantized."""
    moved = move_integers(network)
    uses = uses_of(moved)
    made = {name: node for node in moved.nodes for name in node.outputs if name}
    read = {node.inputs[0]: node for node in reversed(moved.nodes) if _dequantizes_bytes(node, moved)}
    promised, scaled = promised_tensors(network), _scaled_otherwise(network)
    known = {*model.types} - {*model.constants}
    found = {}
    for name in names:
        source = read.get(name) or made.get(name)
        codes = source if source is not None and _dequantizes_bytes(source, moved) else None
        value = name if codes is None else codes.outputs[0]
        tensor = name if name in network.types else value
        if tensor not in network.types or name in scaled:
            continue
        original = next((other for other in _rounded(value, made, uses) if other in known), "")
        found[name] = Meaning(
            tensor=tensor, original=original, promised=tensor in promised, **_parameters(codes, moved)
        )
    return found


def _dequantizes_bytes(node: Node, graph: Graph) -> bool:
    """Whether a node gives numbers for 8- or 16-bit codes of one scale, all known."""
    if node.op != "DequantizeLinear" or node.domain or node.inputs[0] in graph.constants:
        return False
    known = all(name in graph.constants and graph.constants[name].size == 1 for name in node.inputs[1:] if name)
    codes, value = (graph.types[name].dtype for name in (node.inputs[0], node.outputs[0]))
    return known and codes in ("int8", "uint8", "int16", "uint16") and value == "float32"


def _parameters(node: Node | None, graph: Graph) -> dict[str, Any]:
    if node is None:
        return {}
    given = [*node.inputs[1:], ""][:2]
    scale, zero = (np.asarray(graph.constants[name]).item() if name else 0 for name in given)
    return {"scale": scale, "zero": zero, "dtype": graph.types[node.inputs[0]].dtype}


def _rounded(name: str, made: Mapping[str, Node], uses: Uses) -> Iterator[str]:
    """A value's names: its own, those of the values rounded from it, and what it was rounded from itself."""
    yield name
    for quantize in uses.readers.get(name, ()):
        if quantize.op == "QuantizeLinear":
            yield from (node.outputs[0] for node in uses.readers.get(quantize.outputs[0], ()))
    codes = made[name].inputs[0] if name in made and made[name].op == "DequantizeLinear" else ""
    if codes in made and made[codes].op == "QuantizeLinear":
        yield made[codes].inputs[0]


def _scaled_otherwise(network: Graph) -> frozenset[str]:
    """The names that mean another thing in kernels: a sum, in units of the QuantizeLinear that reads it."""
    before = {node.outputs[0]: node for node in network.nodes}
    work = to_integers(network)
    made = {node.outputs[0]: node for node in work.nodes}
    found = set()
    for node in work.nodes:
        if node.op == "QuantizeLinear" and node.inputs[1:] != before.get(node.outputs[0], node).inputs[1:]:
            found.add(node.inputs[0])
            above = made.get(node.inputs[0])
            found.update(above.inputs if above is not None and above.op == "Relu" else ())
    return frozenset(found)
