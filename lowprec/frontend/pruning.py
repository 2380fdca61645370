"""What nothing needs: nodes without a reader, optional outputs, constants without a user, types of what is gone."""

from dataclasses import replace

from lowprec.frontend.graph import Graph, Node

OPTIONAL_OUTPUTS = frozenset(
    ("BatchNormalization", "Dropout", "GroupNormalization", "LayerNormalization", "MaxPool", "Attention")
)


def prune(graph: Graph) -> Graph:
    """x -> [dead] ; x -> [live] -> output  -->  x -> [live] -> output"""
    needed = {spec.name for spec in graph.outputs}
    kept = []
    for node in reversed(graph.nodes):
        if any(name in needed for name in node.outputs if name):
            kept.append(_without_unread(node, needed))
            needed.update(name for name in node.inputs if name)
    live = needed | {spec.name for spec in graph.inputs}
    live |= {name for node in kept for name in node.outputs if name}
    return replace(
        graph,
        nodes=tuple(reversed(kept)),
        constants={name: array for name, array in graph.constants.items() if name in needed},
        types={name: spec for name, spec in graph.types.items() if name in live},
    )


def _without_unread(node: Node, needed: set[str]) -> Node:
    """Optional outputs nobody reads become absent; trailing absent ones go."""
    if node.op not in OPTIONAL_OUTPUTS or len(node.outputs) == 1:
        return node
    outputs = [name if name in needed or position == 0 else "" for position, name in enumerate(node.outputs)]
    while not outputs[-1]:
        outputs.pop()
    return replace(node, outputs=tuple(outputs))
