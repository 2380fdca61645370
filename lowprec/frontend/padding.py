"""A Pad with zeros goes into the window that reads it.

    x -> Pad(0) -> Conv(pads=p) --> x -> Conv(pads=p + pad)
    x -> Pad(0) -> AveragePool(counts its pads) --> x -> AveragePool(pads=p + pad, counts its pads)

Declines when: the mode is not constant, the value is not zero or unknown, a pad is negative, or batch or channels are
padded; the pool has pads it does not count, or rounds its size up (then windows reach past the pads, and count less),
or would see windows of pads alone.
"""

from dataclasses import replace

from lowprec.frontend.autopad import ints
from lowprec.frontend.graph import Attribute, Graph, Node


def absorb_padding(graph: Graph) -> Graph:
    """The graph with every Pad read past where that means the same; Pads nobody reads any more are pruned later."""
    producers = {node.outputs[0]: node for node in graph.nodes if node.op == "Pad" and not node.domain}
    if not producers:
        return graph
    return replace(graph, nodes=tuple(_absorbed(node, producers, graph) for node in graph.nodes))


def _absorbed(node: Node, producers: dict[str, Node], graph: Graph) -> Node:
    pad = producers.get(node.inputs[0]) if node.inputs else None
    if pad is None or node.domain or node.op not in ("Conv", "AveragePool"):
        return node
    extra = zero_pads(pad, graph)
    if extra is None or (node.op == "AveragePool" and not _counts(node)):
        return node
    own = ints(node, "pads", (0,) * len(extra))
    pads = tuple(a + b for a, b in zip(own, extra, strict=True))
    attributes: dict[str, Attribute] = {**node.attributes, "pads": pads}
    if node.op == "AveragePool":
        if any(total >= size for total, size in zip(pads, ints(node, "kernel_shape", ()) * 2, strict=True)):
            return node
        attributes["count_include_pad"] = 1
    return replace(node, inputs=(pad.inputs[0], *node.inputs[1:]), attributes=attributes)


def _counts(pool: Node) -> bool:
    """Whether zeros that stood in the data may become pads that are counted."""
    if pool.attributes.get("ceil_mode", 0):
        return False
    return bool(pool.attributes.get("count_include_pad", 0)) or not any(ints(pool, "pads", ()))


def zero_pads(pad: Node, graph: Graph) -> tuple[int, ...] | None:
    """The spatial pads (begins, then ends) of a Pad with zeros, or None when it is anything else."""
    rank = len(graph.types[pad.inputs[0]].shape)
    pads = _pads(pad, graph, rank)
    if pads is None or rank < 3 or not _is_zero(pad, graph) or pad.attributes.get("mode", "constant") != "constant":
        return None
    outside = (*pads[:2], *pads[rank : rank + 2])
    if any(outside) or min(pads) < 0:
        return None
    return (*pads[2:rank], *pads[rank + 2 :])


def _pads(pad: Node, graph: Graph, rank: int) -> tuple[int, ...] | None:
    """Pads of every axis: an attribute before opset 11, an input (for some axes only, since 18) after."""
    given = pad.attributes.get("pads", pad.attributes.get("paddings"))
    if isinstance(given, tuple):
        return tuple(int(value) for value in given)
    values = graph.constants.get(pad.inputs[1]) if len(pad.inputs) > 1 else None
    if values is None:
        return None
    flat = [int(value) for value in values.ravel()]
    axes = list(range(rank))
    if len(pad.inputs) > 3 and pad.inputs[3]:
        chosen = graph.constants.get(pad.inputs[3])
        if chosen is None:
            return None
        axes = [int(axis) % rank for axis in chosen.ravel()]
    pads = [0] * (2 * rank)
    for position, axis in enumerate(axes):
        pads[axis], pads[axis + rank] = flat[position], flat[position + len(axes)]
    return tuple(pads)


def _is_zero(pad: Node, graph: Graph) -> bool:
    if len(pad.inputs) > 2 and pad.inputs[2]:
        value = graph.constants.get(pad.inputs[2])
        return value is not None and not value.any()
    return not pad.attributes.get("value", 0.0)
