"""Constants that nobody took as integers are floats again.

    y = Conv(x, DequantizeLinear(codes))  -->  y = Conv(x, constant)

Declines when: scales are by blocks, or not of float32.
"""

import numpy as np

from lowprec.frontend.graph import Array, Graph, Node
from lowprec.frontend.integer_rewrite import Rewrite


def refold(graph: Graph) -> Graph:
    """The graph without DequantizeLinear of constants, but for what the caller sees."""
    work = Rewrite(graph=graph)
    for node in graph.nodes:
        known = _known(work, node) if node.op == "DequantizeLinear" and not node.domain else None
        if known is None or node.outputs[0] in work.uses.outputs:
            work.nodes.append(node)
        else:
            work.constants[node.outputs[0]] = known
    return work.finished()


def _known(work: Rewrite, node: Node) -> Array | None:
    """fp32(q - zero) * scale, if all three are constants."""
    one, codes = work.quantized(node.outputs[0], per_tensor=False), work.constants.get(node.inputs[0])
    if one is None or codes is None or work.types[node.outputs[0]].dtype != "float32":
        return None
    axis = node.attributes.get("axis", 1)
    assert isinstance(axis, int)
    place = [1] * codes.ndim
    if one.scale.size > 1:
        place[axis if codes.ndim > 1 else 0] = one.scale.size
    scale, zero = (each.reshape(place if each.size > 1 else ()) for each in (one.scale, one.zero))
    return np.asarray((codes.astype(np.int64) - zero).astype(np.float32) * scale, np.float32)
