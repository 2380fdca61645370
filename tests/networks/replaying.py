"""A network evaluated again, piece by piece, from what an artifact found inside it.

    x -> a -> b -> y,  b found  -->  x -> a -> b  and  found b -> y

So a rounding that fell to the other side is seen once, where it happens, and not in all that is behind it.
"""

from collections.abc import Mapping
from dataclasses import replace

from lowprec.frontend.graph import Graph, TensorSpec
from lowprec.oracle_values import Array
from lowprec.quantized_reference import requantized_tensors

FOUND = "{}/found"


def cut(graph: Graph, found: Mapping[str, Array]) -> tuple[Graph, dict[str, Array]]:
    """The graph in which readers of `found` tensors read inputs of those values, and those inputs.

    What integer layers are known by stays whole: numbers dequantized, and sums on their way to being requantized.
    """
    kept = {name for node in graph.nodes if node.op == "DequantizeLinear" for name in node.outputs}
    kept |= {*requantized_tensors(graph), *(name for node in graph.nodes if node.op == "Relu" for name in node.inputs)}
    made = [name for node in graph.nodes for name in node.outputs if name in found and name not in kept]
    names = {name: FOUND.format(name) for name in made}
    inputs = tuple(replace(graph.types[name], name=given) for name, given in names.items())
    nodes = tuple(replace(node, inputs=tuple(names.get(name, name) for name in node.inputs)) for node in graph.nodes)
    whole = replace(
        graph,
        inputs=(*graph.inputs, *inputs),
        outputs=_outputs(graph, found),
        nodes=nodes,
        types={**graph.types, **{spec.name: spec for spec in inputs}},
    )
    return whole, {given: found[name] for name, given in names.items()}


def _outputs(graph: Graph, found: Mapping[str, Array]) -> tuple[TensorSpec, ...]:
    made = {name for node in graph.nodes for name in node.outputs}
    return tuple(graph.types[name] for name in found if name in made)
