"""Opset 6 and before: broadcasting stated by attributes becomes today's.

    Add(a, b, broadcast=1, axis=1) --> Add(a, Unsqueeze(b))
    Gemm(a, b, c, broadcast=1)     --> Gemm(a, b, c)

Reference: the operators' pages at opset 6. `axis` says where b's first dimension stands in a; by default b's dimensions
are a's last.
"""

from collections.abc import Mapping, Sequence

from onnx import NodeProto, helper

from lowprec.errors import InvalidModel
from lowprec.frontend.graph import TensorSpec
from lowprec.frontend.naming import label
from lowprec.frontend.scopes import unused

BINARY = frozenset(("Add", "And", "Div", "Equal", "Gemm", "Greater", "Less", "Mul", "Or", "Pow", "PRelu", "Sub", "Xor"))
MODERN = 7


def is_legacy(node: NodeProto, version: int) -> bool:
    """Whether the node's operands broadcast in the old way."""
    return version < MODERN and not node.domain and node.op_type in BINARY


def modernized(node: NodeProto, types: Mapping[str, TensorSpec], taken: set[str]) -> Sequence[NodeProto]:
    """The node as opset 7 has it, after an Unsqueeze of its second operand where that is needed."""
    axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), None)
    copy = NodeProto()
    copy.CopyFrom(node)
    kept = [attribute for attribute in node.attribute if attribute.name not in ("axis", "broadcast", "consumed_inputs")]
    del copy.attribute[:]
    copy.attribute.extend(kept)
    if axis is None or node.op_type == "Gemm" or any(name not in types for name in node.input[:2]):
        return [copy]
    ranks = [len(types[name].shape) for name in node.input[:2]]
    start = axis + ranks[0] if axis < 0 else axis
    missing = ranks[0] - start - ranks[1]
    if not 0 <= start <= ranks[0] or missing < 0:
        raise InvalidModel(
            f"{label(node)}: axis {axis} puts an operand of rank {ranks[1]} outside one of rank {ranks[0]}"
        )
    if not missing:
        return [copy]
    name = unused(f"{node.output[0]}/operand", taken)
    taken.add(name)
    copy.input[1] = name
    axes = list(range(ranks[1], ranks[1] + missing))
    return [helper.make_node("Unsqueeze", [node.input[1]], [name], axes=axes), copy]
