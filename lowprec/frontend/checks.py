"""What ONNX demands of a node beyond what shape inference notices; each check raises with the node's name."""

from collections.abc import Mapping

from onnx import NodeProto

from lowprec.frontend.graph import Array, Attribute, TensorSpec


def check_node(
    node: NodeProto,
    version: int,
    attributes: Mapping[str, Attribute],
    types: Mapping[str, TensorSpec],
    constants: Mapping[str, Array],
) -> None:
    """Refuses a node whose operands or attributes contradict its operator."""
