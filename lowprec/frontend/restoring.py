"""Integer weights are integers again: a DequantizeLinear that was folded returns where a product needs what it read.

    y = Conv(DequantizeLinear(x), constant)  -->  y = Conv(DequantizeLinear(x), DequantizeLinear(codes))

Declines when: something else reads the constant too, which then stays folded for all.
"""

from dataclasses import replace

from lowprec.frontend.graph import Graph, Node
from lowprec.frontend.uses import uses_of

PRODUCTS = frozenset(("Conv", "Gemm", "MatMul"))


def restore(graph: Graph) -> Graph:
    """The graph with the weights and biases of integer products dequantized by nodes."""
    made = {name: node for node in graph.nodes for name in node.outputs if name}
    uses = uses_of(graph)

    def is_restored(name: str) -> bool:
        return (
            name in graph.dequantized
            and name in graph.constants
            and name not in uses.outputs
            and all(_is_product(reader, made) and reader.inputs[0] != name for reader in uses.readers[name])
        )

    nodes: list[Node] = []
    restored: set[str] = set()
    for node in graph.nodes:
        for name in node.inputs[1:]:
            if name not in restored and is_restored(name):
                restored.add(name)
                nodes.append(graph.dequantized[name])
        nodes.append(node)
    constants = {name: array for name, array in graph.constants.items() if name not in restored}
    return replace(graph, nodes=tuple(nodes), constants=constants, dequantized={})


def _is_product(node: Node, made: dict[str, Node]) -> bool:
    """Whether it multiplies what a DequantizeLinear made."""
    source = made.get(node.inputs[0]) if node.op in PRODUCTS and not node.domain else None
    return source is not None and source.op == "DequantizeLinear"
