"""A graph as standard ONNX, which onnx's checker passes and ONNX Runtime runs.

One file has one version of the standard: the greatest that a node of the graph carries. A node of an earlier version
stays as it is where its operator has not changed since; else onnx's own converter rewrites it, or it is refused.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from onnx import (
    AttributeProto,
    ModelProto,
    NodeProto,
    TensorProto,
    ValueInfoProto,
    checker,
    defs,
    helper,
    numpy_helper,
    version_converter,
)

from lowprec.errors import Unsupported
from lowprec.frontend.bodies import describe
from lowprec.frontend.graph import Array, Attribute, Graph, Node, TensorSpec
from lowprec.frontend.naming import one_line
from lowprec.frontend.scopes import unused
from lowprec.frontend.tensors import element_type

LEAST = 8
"""The least version of the file format: initializers need not be inputs, and 8-bit floats are not there yet."""
SMALL = 4096
"""Constants of at most so many elements are shown to onnx's converter (shapes, axes, bounds)."""
MOST_BYTES = 2**31 - 2**20
"""Of constants: protobuf holds no message of 2 GiB."""
PRODUCER = "lowprec"

RESIZED = frozenset(("Resize", "Upsample"))
ASYMMETRIC = 11
"""The opset from which resizing means another thing, unless attributes say what it meant before; onnx's converter does
not set these."""
LOST: Mapping[str, int] = {"GroupNormalization": 21, "Hardmax": 13}
"""Operators that mean another thing from that opset on, of which onnx's converter takes no notice."""


def to_onnx(graph: Graph) -> ModelProto:
    """The graph as a model that has passed onnx's checker."""
    _refuse_too_large(graph)
    versions = _versions(graph.nodes)
    state = _Export(graph=graph, versions=versions, taken={*graph.types, *graph.constants})
    for node in graph.nodes:
        state.add(node)
    made = helper.make_graph(
        state.nodes,
        graph.name or "graph",
        [_value(spec) for spec in graph.inputs],
        [_value(spec) for spec in graph.outputs],
        [*(_tensor(name, array) for name, array in graph.constants.items()), *state.constants],
    )
    imports = [helper.make_opsetid(domain, version) for domain, version in versions.items()]
    version = max(LEAST, helper.find_min_ir_version_for(imports, True))
    model = helper.make_model(made, opset_imports=imports, ir_version=version, producer_name=PRODUCER)
    checker.check_model(model)
    return model


def _refuse_too_large(graph: Graph) -> None:
    total = sum(array.nbytes for array in graph.constants.values())
    if total > MOST_BYTES:
        raise Unsupported(f"the model's constants are {total} bytes: at most {MOST_BYTES} go into one file of ONNX")


def _versions(nodes: Iterable[Node]) -> dict[str, int]:
    """Of each domain."""
    versions = {"": 1}
    for node in nodes:
        versions[node.domain] = max(node.version, versions.get(node.domain, 1))
    return versions


@dataclass(slots=True, kw_only=True)
class _Export:
    """The file under way."""

    graph: Graph
    versions: Mapping[str, int]
    taken: set[str]
    nodes: list[NodeProto] = field(default_factory=list)
    constants: list[TensorProto] = field(default_factory=list)

    def add(self, node: Node) -> None:
        version = self.versions[node.domain]
        if _same(node, version):
            self.nodes.append(_node(node))
        else:
            self._add_converted(node, version)

    def _add_converted(self, node: Node, version: int) -> None:
        """What onnx's converter makes of the node alone, inner names made new."""
        graph = _converted(node, self.graph, version).graph
        inner = {name for made in graph.node for name in made.output} - {*node.outputs}
        own = {tensor.name for tensor in graph.initializer} - {*node.inputs}
        names = {name: self._unused(f"{node.outputs[0]}/{name}") for name in sorted(inner | own) if name}
        for tensor in graph.initializer:
            if tensor.name in own:
                tensor.name = names[tensor.name]
                self.constants.append(tensor)
        for made in graph.node:
            made.input[:] = [names.get(name, name) for name in made.input]
            made.output[:] = [names.get(name, name) for name in made.output]
            made.attribute.extend(_former(node, made, version))
            self.nodes.append(made)

    def _unused(self, name: str) -> str:
        name = unused(name, self.taken)
        self.taken.add(name)
        return name


def _same(node: Node, version: int) -> bool:
    """Whether the operator means at that version what it means at the node's."""
    if node.version == version or node.domain:
        return node.version == version
    return _since(node, node.version) == _since(node, version)


def _since(node: Node, version: int) -> int:
    """When the operator was last changed; 0 where that version has none."""
    try:
        return int(defs.get_schema(node.op, version, node.domain).since_version)
    except defs.SchemaError:
        return 0


def _former(node: Node, made: NodeProto, version: int) -> list[AttributeProto]:
    """The attributes with which the node's successor means what the node did."""
    if node.op not in RESIZED or made.op_type != "Resize" or not node.version < ASYMMETRIC <= version:
        return []
    former = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    return [helper.make_attribute(name, value) for name, value in former.items()]


def _converted(node: Node, graph: Graph, version: int) -> ModelProto:
    refusal = f"{describe(node)} is of opset {node.version}, the file of {version}, and it cannot be converted"
    if node.domain or node.version < LOST.get(node.op, 0) <= version:
        raise Unsupported(refusal)
    names = [name for name in dict.fromkeys(node.inputs) if name]
    stored = [name for name in names if name in graph.constants and graph.constants[name].size <= SMALL]
    alone = helper.make_graph(
        [_node(node)],
        "node",
        [_value(graph.types[name]) for name in names if name not in stored],
        [_value(graph.types[name]) for name in node.outputs if name],
        [_tensor(name, graph.constants[name]) for name in stored],
    )
    model = helper.make_model(alone, opset_imports=[helper.make_opsetid("", node.version)], ir_version=LEAST)
    try:
        return version_converter.convert_version(model, version)
    except (RuntimeError, version_converter.ConvertError) as error:
        raise Unsupported(f"{refusal}: {one_line(str(error))}") from error


def _node(node: Node) -> NodeProto:
    """Named by its first output, which is unique."""
    name = next((output for output in node.outputs if output), node.op)
    made = helper.make_node(node.op, node.inputs, node.outputs, name=name, domain=node.domain)
    made.attribute.extend(_attribute(node, name, value) for name, value in node.attributes.items() if _told(node, name))
    return made


def _told(node: Node, name: str) -> bool:
    """ONNX Runtime 1.31 fuses a quantized AveragePool to an operator that knows no dilations, not even of 1."""
    value = node.attributes[name]
    return node.op != "AveragePool" or name != "dilations" or not isinstance(value, tuple) or set(value) != {1}


def _attribute(node: Node, name: str, value: Attribute) -> AttributeProto:
    """Of the type that the operator's definition has: an empty list does not tell."""
    if isinstance(value, np.ndarray):
        return helper.make_attribute(name, _tensor("", value))
    if value == ():
        schema: Any = defs.get_schema(node.op, node.version, node.domain)  # onnx's stubs do not know its types' numbers
        return helper.make_attribute(name, [], attr_type=schema.attributes[name].type.value)
    return helper.make_attribute(name, value)


def _tensor(name: str, array: Array) -> TensorProto:
    return numpy_helper.from_array(np.array(array, order="C", copy=None), name)


def _value(spec: TensorSpec) -> ValueInfoProto:
    return helper.make_tensor_value_info(spec.name, element_type(spec.dtype), spec.shape)
