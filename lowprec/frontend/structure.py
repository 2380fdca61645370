"""The whole file, before any node is evaluated: versions, names, order, functions, tensors, onnx's checker."""

import math
from collections.abc import Mapping

from onnx import IR_VERSION, ModelProto, NodeProto, checker, defs

from lowprec.errors import InvalidModel, Unsupported
from lowprec.frontend.external import refuse_external
from lowprec.frontend.functions import check_functions, nodes_within
from lowprec.frontend.naming import label, one_line, quote
from lowprec.frontend.reading import Source
from lowprec.frontend.scopes import FunctionKey, domain_of, key_of
from lowprec.frontend.tensors import check_tensor, stored_bytes
from lowprec.frontend.text import check_text
from lowprec.frontend.topology import check_names, check_order

OLDEST_IR = 3


def check_structure(source: Source) -> None:
    """Refuses what is not a well-formed model; the more telling checks come first."""
    model = source.proto
    check_text(model)
    versions = _check_versions(model)
    _check_graph(source)
    check_names(model.graph)
    _check_initializers(source)
    check_functions(model, source.limits)
    known = {info.name for info in model.graph.input} | {tensor.name for tensor in model.graph.initializer}
    check_order(model.graph.node, known)
    _check_operators(source, versions)
    run_checker(source)


def _check_versions(model: ModelProto) -> dict[str, int]:
    """The opset versions of the model, by domain."""
    if model.ir_version > IR_VERSION:
        raise Unsupported(f"the model has IR version {model.ir_version}; {OLDEST_IR} to {IR_VERSION} are supported")
    if model.ir_version < OLDEST_IR:
        kind = InvalidModel if model.ir_version < 1 else Unsupported
        raise kind(f"the model has IR version {model.ir_version}; {OLDEST_IR} to {IR_VERSION} are supported")
    versions: dict[str, int] = {}
    for entry in model.opset_import:
        domain = domain_of(entry.domain)
        if domain in versions:
            raise InvalidModel(f"the model imports domain {quote(domain or 'ai.onnx')} twice")
        versions[domain] = entry.version
    newest = defs.onnx_opset_version()
    if not versions:
        raise InvalidModel("the model imports no version of ONNX's operators (opset_import is missing)")
    if versions.get("", 1) < 1:
        raise InvalidModel(f"the model imports opset {versions['']}; opset versions start at 1")
    if versions.get("", 1) > newest:
        raise Unsupported(f"the model uses opset {versions['']}; up to {newest} is supported: export it for that")
    return versions


def _check_graph(source: Source) -> None:
    graph = source.proto.graph
    if not graph.output:
        raise InvalidModel(f"graph {quote(graph.name)} has no outputs: there is nothing to compute")
    if graph.sparse_initializer:
        name = graph.sparse_initializer[0].values.name
        raise Unsupported(f"initializer {quote(name)} is sparse; only dense tensors are supported")


def _check_initializers(source: Source) -> None:
    """Each stored tensor for itself, and all of them together."""
    total = 0
    for tensor in source.proto.graph.initializer:
        check_tensor(tensor, source.payloads.get(tensor.name), f"initializer {quote(tensor.name)}", source.limits)
        total += stored_bytes(math.prod(tensor.dims), tensor.data_type)
        if total > source.limits.constant_bytes:
            raise InvalidModel(
                f"initializer {quote(tensor.name)}: with it, weights exceed {source.limits.constant_bytes} bytes"
            )


def _check_operators(source: Source, versions: Mapping[str, int]) -> None:
    """Every node calls an operator of ONNX's that exists, or a function of the model; names no attribute twice."""
    model = source.proto
    functions = {key_of(function) for function in model.functions}
    for node, depth in nodes_within(model.graph.node):
        _check_operator(node, depth, versions, functions, source)
    for function in model.functions:
        imported = {domain_of(entry.domain): entry.version for entry in function.opset_import}
        for node, depth in nodes_within(function.node):
            _check_operator(node, depth, imported, functions, source)


def _check_operator(
    node: NodeProto, depth: int, versions: Mapping[str, int], functions: set[FunctionKey], source: Source
) -> None:
    if depth > source.limits.nesting:
        raise InvalidModel(f"{label(node)} is nested {depth} graphs deep; at most {source.limits.nesting} are accepted")
    if not node.op_type:
        raise InvalidModel(f"{label(node)} has no operator")
    _check_attributes(node)
    if key_of(node) in functions:
        return
    domain = domain_of(node.domain)
    if domain:
        raise Unsupported(
            f"{label(node)}: operators of domain {quote(domain)} are not supported, nor is it a function here"
        )
    if "" not in versions:
        raise InvalidModel(f"{label(node)}: no version of ONNX's operators is imported where it stands")
    if not 1 <= versions[""] <= defs.onnx_opset_version():
        raise Unsupported(f"{label(node)}: opset {versions['']} is not supported; 1 to {defs.onnx_opset_version()} are")
    if not defs.has(node.op_type, versions[""], ""):
        raise Unsupported(f"{label(node)}: opset {versions['']} of ONNX has no operator {quote(node.op_type)}")


def _check_attributes(node: NodeProto) -> None:
    names: set[str] = set()
    for attribute in node.attribute:
        what = f"{label(node)}: attribute {quote(attribute.name)}"
        if attribute.name in names:
            raise InvalidModel(f"{what} is given twice")
        names.add(attribute.name)
        for inner in (attribute.t, *attribute.tensors):
            refuse_external(inner, what)


def run_checker(source: Source) -> None:
    """onnx's own check of the model, where each large weight is an input of the same type.

    Its full check would also infer shapes through every function body, which takes exponential time on a hostile model
    and fails on some valid ones (MeanVarianceNormalization without axes); `walking` infers node by node instead.
    """
    try:
        checker.check_model(checkable(source))
    except (checker.ValidationError, RuntimeError, ValueError) as error:
        raise InvalidModel(f"onnx's checker refuses the model: {one_line(str(error))}") from error


def checkable(source: Source) -> ModelProto:
    """`source.proto` with its payload-less initializers turned into inputs, and every node named by its output."""
    model = ModelProto()
    model.CopyFrom(source.proto)
    graph = model.graph
    inputs = {info.name for info in graph.input}
    kept = [tensor for tensor in graph.initializer if tensor.name not in source.payloads]
    for tensor in graph.initializer:
        if tensor.name in source.payloads and tensor.name not in inputs:
            info = graph.input.add(name=tensor.name)
            info.type.tensor_type.elem_type = tensor.data_type
            info.type.tensor_type.shape.SetInParent()
            for extent in tensor.dims:
                info.type.tensor_type.shape.dim.add().dim_value = extent
    del graph.initializer[:]
    graph.initializer.extend(kept)
    for info in (*graph.input, *graph.output):
        if info.type.WhichOneof("value") == "tensor_type":
            info.type.tensor_type.shape.SetInParent()  # the checker wants a shape; inference finds the missing ones
    for node in graph.node:
        node.name = node.name or next(iter(node.output), "")
    return model
