"""Nodes that change nothing are taken out.

    x -> Identity | Dropout | Reshape to the same shape | Cast to the same type ... -> y --> x

Declines when: the result is an output of the model and the operand is an input, a constant or an output too (an
Identity remains, so that the output keeps its name); a Dropout trains.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace

from lowprec.frontend.graph import Graph, Node, TensorSpec

SAME_TYPE = frozenset(("Cast", "CastLike", "Expand", "Flatten", "Reshape", "Squeeze", "Tile", "Unsqueeze"))
"""Operators that are the identity whenever shape and dtype stay."""
SINGLE = frozenset(("Concat", "Max", "Mean", "Min", "Sum"))
"""Operators that are the identity on one operand."""


def bypass(graph: Graph) -> Graph:
    """The graph without nodes that do nothing."""
    producers = {name: node for node in graph.nodes for name in node.outputs if name}
    outputs = {spec.name for spec in graph.outputs}
    same: dict[str, str] = {}
    renamed: dict[str, str] = {}
    kept: list[Node] = []
    for node in graph.nodes:
        if not is_identity(node, graph):
            kept.append(node)
            continue
        source, result = _final(node.inputs[0], same), node.outputs[0]
        if result not in outputs:
            same[result] = source
        elif source in producers and source not in outputs and source not in renamed:
            renamed[source] = result
        else:
            kept.append(_as_identity(node))
    if not same and not renamed:
        return graph
    nodes = tuple(_renamed(node, same, renamed) for node in kept)
    return replace(graph, nodes=nodes, types=_types(nodes, graph))


def _final(name: str, same: Mapping[str, str]) -> str:
    """Where a chain of identities starts; the map is kept flat, so one step suffices."""
    return same.get(name, name)


def _as_identity(node: Node) -> Node:
    return replace(node, op="Identity", inputs=node.inputs[:1], outputs=node.outputs[:1], attributes={})


def _renamed(node: Node, same: Mapping[str, str], renamed: Mapping[str, str]) -> Node:
    def current(name: str) -> str:
        source = same.get(name, name)
        return renamed.get(source, source)

    inputs = tuple(map(current, node.inputs))
    outputs = tuple(renamed.get(name, name) for name in node.outputs)
    return node if (inputs, outputs) == (node.inputs, node.outputs) else replace(node, inputs=inputs, outputs=outputs)


def _types(nodes: tuple[Node, ...], graph: Graph) -> dict[str, TensorSpec]:
    """Types of what is left; a renamed value has the type its new name had."""
    live = {name for node in nodes for name in (*node.inputs, *node.outputs) if name}
    live |= {spec.name for spec in (*graph.inputs, *graph.outputs)} | graph.constants.keys()
    return {name: spec for name, spec in graph.types.items() if name in live}


def is_identity(node: Node, graph: Graph) -> bool:
    """Whether the node's first output always equals its first input, and nobody reads another output."""
    if node.domain or not node.inputs or not node.inputs[0] or not node.outputs[0] or any(node.outputs[1:]):
        return False
    before, after = graph.types[node.inputs[0]], graph.types[node.outputs[0]]
    if (before.dtype, before.shape) != (after.dtype, after.shape):
        return False
    if node.op in SAME_TYPE or node.op == "Identity" or (node.op in SINGLE and len(node.inputs) == 1):
        return True
    special = SPECIAL.get(node.op)
    return special is not None and special(node, graph)


def _dropout(node: Node, graph: Graph) -> bool:
    if node.version < 7:
        return bool(node.attributes.get("is_test", 0))
    if len(node.inputs) < 3 or not node.inputs[2]:
        return True
    training = graph.constants.get(node.inputs[2])
    return training is not None and not training.any()


def _transpose(node: Node, graph: Graph) -> bool:
    rank = len(graph.types[node.inputs[0]].shape)
    return node.attributes.get("perm", tuple(reversed(range(rank)))) == tuple(range(rank))


def _pad(node: Node, graph: Graph) -> bool:
    pads = node.attributes.get("pads", node.attributes.get("paddings"))
    if isinstance(pads, tuple):
        return not any(pads)
    given = graph.constants.get(node.inputs[1]) if len(node.inputs) > 1 else None
    return given is not None and not given.any()


SPECIAL: Mapping[str, Callable[[Node, Graph], bool]] = {"Dropout": _dropout, "Pad": _pad, "Transpose": _transpose}
