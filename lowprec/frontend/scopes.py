"""Where a name leads: each function call and each inlined branch maps its own names to names of the flat graph."""

from collections.abc import Container, Mapping
from dataclasses import dataclass, field

from onnx import AttributeProto, FunctionProto, NodeProto

from lowprec.errors import InvalidModel
from lowprec.frontend.naming import label, quote

FunctionKey = tuple[str, str, str]
STANDARD = ("", "ai.onnx")


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """The surroundings of a node: the meaning of names, of versions and of function attributes.

    `flat` is true for the model's own graph, whose names are final already. `results` are the names a caller has for
    what the body defines.
    """

    versions: Mapping[str, int]
    flat: bool = True
    prefix: str = ""
    depth: int = 0
    names: dict[str, str] = field(default_factory=dict)
    results: dict[str, str] = field(default_factory=dict)
    bound: Mapping[str, AttributeProto] = field(default_factory=dict)


def domain_of(name: str) -> str:
    """ "ai.onnx" and "" are one domain."""
    return "" if name == "ai.onnx" else name


def key_of(node: NodeProto | FunctionProto) -> FunctionKey:
    """What identifies the operator a node calls, or the function that a definition defines."""
    name = node.op_type if isinstance(node, NodeProto) else node.name
    return domain_of(node.domain), name, node.overload


def resolved(node: NodeProto, scope: Scope, taken: set[str]) -> NodeProto:
    """The node in flat names, its attribute references replaced by what the call gave (or dropped, if nothing)."""
    if scope.flat and not any(attribute.ref_attr_name for attribute in node.attribute) and node.domain != "ai.onnx":
        taken.update(node.output)
        return node
    copy = NodeProto()
    copy.CopyFrom(node)
    copy.domain = domain_of(node.domain)
    del copy.input[:], copy.output[:], copy.attribute[:]
    for name in node.input:
        copy.input.append(_lookup(name, node, scope))
    for name in node.output:
        copy.output.append(define(name, scope, taken))
    for attribute in node.attribute:
        if not attribute.ref_attr_name:
            copy.attribute.append(attribute)
        elif attribute.ref_attr_name in scope.bound:
            bound = copy.attribute.add()
            bound.CopyFrom(scope.bound[attribute.ref_attr_name])
            bound.name = attribute.name
        elif scope.flat:
            raise InvalidModel(
                f"{label(node)}: attribute {quote(attribute.name)} refers to a function's attribute, outside one"
            )
    return copy


def _lookup(name: str, node: NodeProto, scope: Scope) -> str:
    if not name or (scope.flat and name not in scope.names):
        return name
    if name not in scope.names:
        raise InvalidModel(f"{label(node)}: input {quote(name)} is defined nowhere before it")
    return scope.names[name]


def define(name: str, scope: Scope, taken: set[str]) -> str:
    """The flat name of a value that this scope defines: the caller's where it has one, else a new one."""
    if not name:
        return name
    if scope.flat:
        taken.add(name)
        return name
    flat = scope.results.pop(name, "") or unused(f"{scope.prefix}/{name}", taken)
    scope.names[name] = flat
    taken.add(flat)
    return flat


def unused(name: str, taken: Container[str]) -> str:
    """`name`, or `name_2`, `name_3`... whichever is free."""
    candidate, count = name, 1
    while candidate in taken:
        count += 1
        candidate = f"{name}_{count}"
    return candidate
