"""Model-local functions: well-formed, none in ONNX's own domain, no recursion, no explosion when expanded.

Expansion is counted before anything is expanded: forty functions that each call the next twice would make 2^40 nodes.
"""

from collections.abc import Iterator, Mapping, Sequence

from onnx import AttributeProto, FunctionProto, ModelProto, NodeProto

from lowprec.errors import InvalidModel, Unsupported
from lowprec.frontend.limits import Limits
from lowprec.frontend.naming import quote
from lowprec.frontend.scopes import FunctionKey, domain_of, key_of
from lowprec.frontend.topology import check_order


def check_functions(model: ModelProto, limits: Limits) -> None:
    """Refuses functions that cannot be inlined for what they are."""
    table: dict[FunctionKey, FunctionProto] = {}
    if len(model.functions) > limits.nodes:
        raise InvalidModel(f"the model has {len(model.functions)} functions; at most {limits.nodes} are accepted")
    for function in model.functions:
        _check_function(function)
        if key_of(function) in table:
            raise InvalidModel(f"function {shown(key_of(function))} is defined twice")
        table[key_of(function)] = function
    _check_expansion(model, table, limits)


def shown(key: FunctionKey) -> str:
    """'domain::name' of a function."""
    domain, name, overload = key
    return quote("::".join(part for part in (domain, name, overload) if part))


def _check_function(function: FunctionProto) -> None:
    key = key_of(function)
    if not function.name:
        raise InvalidModel(f"a function of domain {quote(function.domain)} has no name")
    if not domain_of(function.domain):
        raise Unsupported(f"function {shown(key)} redefines an operator of ONNX itself: give it a domain of its own")
    for kind, names in (("input", function.input), ("output", function.output), ("attribute", function.attribute)):
        if len(set(names)) != len(names):
            raise InvalidModel(f"function {shown(key)} names an {kind} twice")
    defined = set(function.input)
    for node in function.node:
        for name in node.output:
            if name and name in defined:
                raise InvalidModel(f"function {shown(key)}: value {quote(name)} is defined twice")
            defined.add(name)
    check_order(function.node, set(function.input), where=f" in function {shown(key)}")
    for name in function.output:
        if name not in defined:
            raise InvalidModel(f"function {shown(key)}: its output {quote(name)} is defined nowhere")


def nodes_within(nodes: Sequence[NodeProto], depth: int = 0) -> Iterator[tuple[NodeProto, int]]:
    """All nodes, those in branches and loops included, with their depth (bounded by protobuf's own limit)."""
    for node in nodes:
        yield node, depth
        for attribute in node.attribute:
            if attribute.type == AttributeProto.GRAPH or attribute.HasField("g"):
                yield from nodes_within(attribute.g.node, depth + 1)
            for graph in attribute.graphs:
                yield from nodes_within(graph.node, depth + 1)


def _check_expansion(model: ModelProto, table: Mapping[FunctionKey, FunctionProto], limits: Limits) -> None:
    """Counts the nodes of each function expanded, callees first; a function met again on the way is recursive."""
    sizes: dict[FunctionKey, int] = {}
    for key in table:
        _count(key, table, sizes, limits)
    total = 0
    for node, _ in nodes_within(model.graph.node):
        total += sizes.get(key_of(node), 1)
    if total > limits.nodes:
        raise InvalidModel(
            f"the graph has {total} nodes once its functions are expanded; at most {limits.nodes} are accepted"
        )


def _count(
    start: FunctionKey, table: Mapping[FunctionKey, FunctionProto], sizes: dict[FunctionKey, int], limits: Limits
) -> None:
    """Depth first, with a stack of our own: calls may be nested deeper than Python's."""
    open_now: set[FunctionKey] = set()
    stack = [(start, False)]
    while stack:
        key, done = stack.pop()
        if key in sizes:
            continue
        called = [key_of(node) for node, _ in nodes_within(table[key].node)]
        if done:
            open_now.discard(key)
            sizes[key] = sum(sizes.get(callee, 1) for callee in called) + 1
            if sizes[key] > limits.nodes:
                raise InvalidModel(
                    f"function {shown(key)} has {_about(sizes[key])} nodes once what it calls is expanded; "
                    f"at most {limits.nodes} are accepted"
                )
            continue
        open_now.add(key)
        stack.append((key, True))
        for callee in called:
            if callee in open_now:
                raise InvalidModel(
                    f"function {shown(key)} calls {shown(callee)}, which leads back to it: recursion is not allowed"
                )
            if callee in table and callee not in sizes:
                stack.append((callee, False))


def _about(count: int) -> str:
    return str(count) if count < 10**9 else "more than 10^9"
