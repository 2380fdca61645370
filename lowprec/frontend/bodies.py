"""Operators that ONNX itself defines by others: their bodies stand in where there is no converter.

ReduceL2(x) --> Sqrt(ReduceSum(x * x)), and so on, as the operator's schema says at that version and for those types.
"""

from collections.abc import Mapping
from typing import Any

from onnx import AttributeProto, FunctionProto, NodeProto, defs

from lowprec.errors import InvalidModel, Unsupported
from lowprec.frontend.graph import Graph, Node, TensorSpec
from lowprec.frontend.naming import one_line, quote
from lowprec.frontend.operators import SUPPORTED_OPS
from lowprec.frontend.shapes import type_proto


def standard_body(
    node: NodeProto, schema: defs.OpSchema, version: int, types: Mapping[str, TensorSpec]
) -> FunctionProto | None:
    """The body of an operator we have no converter for, if ONNX gives one without loops or branches."""
    if node.domain or node.op_type in SUPPORTED_OPS:
        return None
    serialized = _serialized_body(node, schema, version, types)
    if not serialized:
        return None
    body: FunctionProto = FunctionProto.FromString(serialized)
    if any(attribute.type == AttributeProto.GRAPH for inner in body.node for attribute in inner.attribute):
        return None
    return body


def _serialized_body(
    node: NodeProto, schema: defs.OpSchema, version: int, types: Mapping[str, TensorSpec]
) -> bytes | None:
    bodies: Any = schema  # onnx's stubs do not know these members
    if any(known <= version for known in bodies.function_opset_versions):
        return bytes(bodies.get_function_with_opset_version(version))
    if any(known <= version for known in bodies.context_dependent_function_opset_versions):
        inputs = [type_proto(types[name]).SerializeToString() if name else b"" for name in node.input]
        serialized = node.SerializeToString()
        return bytes(bodies.get_context_dependent_function_with_opset_version(version, serialized, inputs))
    return None


def default_attributes(schema: defs.OpSchema) -> dict[str, AttributeProto]:
    """What the body's attribute references mean where the node is silent."""
    return {
        name: attribute.default_value
        for name, attribute in schema.attributes.items()
        if attribute.default_value.type != AttributeProto.UNDEFINED
    }


NEVER = frozenset(("string", "complex64", "complex128"))
"""Element types that compiled code never holds; the converters decide on the rare small floats and integers."""


def refuse_unsupported(graph: Graph) -> None:
    """Names the first node that no converter knows, or the first value of a type that cannot be compiled."""
    for spec in (*graph.inputs, *graph.outputs):
        if spec.dtype in NEVER:
            raise Unsupported(f"value {quote(spec.name)} is {spec.dtype}, which is not supported")
    for node in graph.nodes:
        if node.domain or node.op not in SUPPORTED_OPS:
            raise Unsupported(f"{describe(node)}: the operator {operator_name(node)} is not supported")
        for name in (*node.inputs, *node.outputs):
            if name and graph.types[name].dtype in NEVER:
                raise Unsupported(
                    f"{describe(node)}: {quote(name)} is {graph.types[name].dtype}, which is not supported"
                )


def refuse_too_large(graph: Graph, most: int) -> None:
    """Constants that took no memory so far (broadcast fills) will take it when compiled."""
    total = 0
    for name, array in graph.constants.items():
        total += array.nbytes
        if total > most:
            raise InvalidModel(f"constant {quote(name)}: with it, constants take more than {most} bytes")


def operator_name(node: Node) -> str:
    """`Loop (opset 17)`, or `com.example.Op (opset 1)`."""
    return f"{one_line(f'{node.domain}.' if node.domain else '')}{one_line(node.op, 60)} (opset {node.version})"


def describe(node: Node) -> str:
    """`Conv node 'conv1_1'`: by the layer's name."""
    return f"{one_line(node.op, 60)} node {quote(node.layer)}"
