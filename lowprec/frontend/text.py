"""Names as text: protobuf hands out a string field that is not UTF-8 as bytes, and nothing else expects that."""

from collections.abc import Iterable, Sequence

from onnx import GraphProto, ModelProto, NodeProto

from lowprec.errors import InvalidModel


def check_text(model: ModelProto) -> None:
    """Every name in the model is UTF-8."""
    _check_graph(model.graph, "the graph")
    for index, entry in enumerate(model.opset_import):
        _check((entry.domain,), f"import number {index}")
    for index, function in enumerate(model.functions):
        where = f"function number {index}"
        _check((function.name, function.domain, *function.input, *function.output, *function.attribute), where)
        _check((entry.domain for entry in function.opset_import), where)
        _check_nodes(function.node, f" of {where}")


def _check_graph(graph: GraphProto, where: str) -> None:
    _check((graph.name,), where)
    _check_nodes(graph.node, "" if where == "the graph" else f" of {where}")
    for kind, named in (("initializer", graph.initializer), ("input", graph.input), ("output", graph.output)):
        for index, item in enumerate(named):
            _check((item.name,), f"{kind} number {index}")
    for index, info in enumerate(graph.value_info):
        _check((info.name,), f"value declaration number {index}")
    for info in (*graph.input, *graph.output, *graph.value_info):
        _check((dim.dim_param for dim in info.type.tensor_type.shape.dim), f"the shape of '{info.name:.80}'")


def _check_nodes(nodes: Sequence[NodeProto], where: str) -> None:
    for index, node in enumerate(nodes):
        place = f"node number {index}{where}"
        _check((node.name, node.op_type, node.domain, node.overload, *node.input, *node.output), place)
        for attribute in node.attribute:
            _check((attribute.name, attribute.ref_attr_name), place)
            inner = [attribute.g] if attribute.HasField("g") else []
            for graph in (*inner, *attribute.graphs):
                _check_graph(graph, f"a graph in {place}")


def _check(names: Iterable[object], where: str) -> None:
    for name in names:
        if not isinstance(name, str):
            raise InvalidModel(f"{where} has a name that is not UTF-8 text: {ascii(name)[:80]}")
