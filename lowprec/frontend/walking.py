"""The model's nodes, one after the other: calls and branches inlined, types inferred, constants folded."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from onnx import AttributeProto, FunctionProto, GraphProto, NodeProto

from lowprec.confinement import OutOfTime
from lowprec.errors import InvalidModel, LowprecError, Unsupported
from lowprec.frontend import folding
from lowprec.frontend.attributes import attributes_of
from lowprec.frontend.bodies import default_attributes, standard_body
from lowprec.frontend.checks import check_node, check_result
from lowprec.frontend.external import refuse_external
from lowprec.frontend.finishing import finish
from lowprec.frontend.graph import Array, Attribute, Graph, Node, TensorSpec
from lowprec.frontend.inference import infer, schema_of
from lowprec.frontend.legacy import MODERN, is_legacy, modernized
from lowprec.frontend.naming import label, quote
from lowprec.frontend.progress import Walk
from lowprec.frontend.reading import Source
from lowprec.frontend.scopes import Scope, domain_of, key_of, resolved, unused
from lowprec.frontend.shapes import Shapes, declared_before, declared_type, input_specs
from lowprec.frontend.subject import Subject
from lowprec.frontend.tensors import check_tensor, to_array


def walk(source: Source, input_shapes: Shapes, on_node: Callable[[str], None] | None = None) -> Graph:
    """The model as a flat, static, folded graph; `on_node` hears of each node before it is looked at."""
    graph = source.proto.graph
    stored = {tensor.name for tensor in graph.initializer}
    inputs = input_specs([info for info in graph.input if info.name not in stored], input_shapes, source.limits)
    declared = {
        info.name: declared_type(info.type, f"value {quote(info.name)}")
        for info in (*graph.value_info, *graph.output)
        if info.type.WhichOneof("value") is not None
    }
    functions = {key_of(function): function for function in source.proto.functions}
    plain = [node for node in graph.node if key_of(node) not in functions]
    state = Walk(
        limits=source.limits,
        functions=functions,
        declared=declared_before(plain, declared),
        taken=_names(graph),
        on_node=on_node,
    )
    state.types.update((spec.name, spec) for spec in inputs)
    _add_initializers(graph, source, state)
    versions = {domain_of(entry.domain): entry.version for entry in source.proto.opset_import}
    _run_block(graph.node, Scope(versions=versions), state)
    return finish(graph, inputs, state)


def _names(graph: GraphProto) -> set[str]:
    names = {info.name for info in graph.input}
    names.update(tensor.name for tensor in graph.initializer)
    for node in graph.node:
        names.update(node.output)
    return names


def _add_initializers(graph: GraphProto, source: Source, state: Walk) -> None:
    for tensor in graph.initializer:
        array = to_array(tensor, source.payloads.get(tensor.name), f"initializer {quote(tensor.name)}")
        state.add_constant(tensor.name, array)


def _run_block(nodes: Sequence[NodeProto], scope: Scope, state: Walk) -> None:
    """Every node of a graph, a function body or a branch, in order."""
    if scope.depth > state.limits.nesting:
        raise InvalidModel(
            f"{quote(scope.prefix)}: calls and branches are nested more than {state.limits.nesting} deep"
        )
    for node in nodes:
        state.visited += 1
        if state.visited > state.limits.nodes:
            raise InvalidModel(f"{label(node)}: more than {state.limits.nodes} nodes once functions are expanded")
        node = resolved(node, scope, state.taken)
        function = state.functions.get(key_of(node))
        if function is not None:
            _run_function(node, function, _bound(node, function), scope, state)
        elif node.domain == "" and node.op_type == "If":
            _run_branch(node, scope, state)
        else:
            _visit_within(node, scope, state)


def _visit_within(node: NodeProto, scope: Scope, state: Walk) -> None:
    """`_visit`, blaming the node where the process's limits end it."""
    if state.on_node is not None:
        state.on_node(label(node))
    try:
        _visit(node, scope, state)
    except MemoryError as error:
        raise InvalidModel(f"{label(node)}: checking it needs more memory than a file of this size may") from error
    except OutOfTime as error:
        raise InvalidModel(f"{label(node)}: the model takes longer to check than a file of its size may") from error


def _run_function(
    node: NodeProto, function: FunctionProto, bound: Mapping[str, AttributeProto], scope: Scope, state: Walk
) -> None:
    """The body in place of the call."""
    if len(node.input) > len(function.input) or len(node.output) > len(function.output):
        raise InvalidModel(
            f"{label(node)}: {len(node.input)} inputs and {len(node.output)} outputs; the function "
            f"{quote(function.name)} takes {len(function.input)} and gives {len(function.output)}"
        )
    actual = [*node.input, *[""] * (len(function.input) - len(node.input))]
    wanted = [*node.output, *[""] * (len(function.output) - len(node.output))]
    names = dict(zip(function.input, actual, strict=True))
    inner = Scope(
        versions={domain_of(entry.domain): entry.version for entry in function.opset_import},
        flat=False,
        prefix=_first_output(node),
        depth=scope.depth + 1,
        names=names,
        results={
            formal: name for formal, name in zip(function.output, wanted, strict=True) if name and formal not in names
        },
        bound=bound,
    )
    _run_block(function.node, inner, state)
    for formal, name in zip(function.output, wanted, strict=True):
        if name:
            _deliver(formal, name, node, inner, state)


def _deliver(formal: str, name: str, node: NodeProto, inner: Scope, state: Walk) -> None:
    """Makes the caller's name mean the body's result, by an Identity where the body did not define it itself."""
    found = inner.names.get(formal)
    if not found:
        raise InvalidModel(f"{label(node)}: its body never defines its output {quote(formal)}")
    if found != name:
        identity = NodeProto(op_type="Identity", input=[found], output=[name])
        _visit(identity, Scope(versions={"": max(inner.versions.get("", 1), 1)}), state)


def _bound(node: NodeProto, function: FunctionProto) -> dict[str, AttributeProto]:
    """The function's attributes at this call: given, or by default."""
    given = {attribute.name: attribute for attribute in node.attribute}
    known = {*function.attribute, *(attribute.name for attribute in function.attribute_proto)}
    for name in given:
        if name not in known:
            raise InvalidModel(
                f"{label(node)}: attribute {quote(name)} is not one of the function {quote(function.name)}"
            )
    bound = {attribute.name: attribute for attribute in function.attribute_proto}
    return bound | given


def _run_branch(node: NodeProto, scope: Scope, state: Walk) -> None:
    """If with a constant condition: the branch taken, in place. Else both; the condition chooses between results."""
    condition = state.constants.get(node.input[0]) if node.input else None
    if condition is None:
        _run_both_branches(node, scope, state)
        return
    if condition.size != 1 or condition.dtype.name != "bool":
        raise InvalidModel(
            f"{label(node)}: its condition must be one bool, found {condition.dtype} {list(condition.shape)}"
        )
    wanted = "then_branch" if condition.item() else "else_branch"
    branch = _branch(node, wanted)
    inner = _run_inner(branch, _first_output(node), list(node.output), scope, state)
    for info, name in zip(branch.output, node.output, strict=True):
        if name:
            _deliver(info.name, name, node, inner, state)


def _run_both_branches(node: NodeProto, scope: Scope, state: Walk) -> None:
    """Operators have no side effects, so computing what is not chosen is only work."""
    spec = state.types.get(node.input[0]) if node.input else None
    if spec is None or spec.dtype != "bool" or spec.shape:
        raise Unsupported(f"{label(node)}: its condition must be a constant or a bool scalar")
    found = []
    for wanted in ("then_branch", "else_branch"):
        branch = _branch(node, wanted)
        prefix = f"{_first_output(node)}/{wanted}"
        inner = _run_inner(branch, prefix, [""] * len(branch.output), scope, state)
        found.append([inner.names.get(info.name, "") for info in branch.output])
    for name, first, second in zip(node.output, *found, strict=True):
        if not name:
            continue
        types = [state.types.get(choice) for choice in (first, second)]
        kinds = {(kind.dtype, kind.shape) for kind in types if kind is not None}
        if None in types or len(kinds) != 1:
            raise Unsupported(
                f"{label(node)}: its condition is known only when the model runs, so both branches must give "
                f"{quote(name)} the same type and shape"
            )
        where = NodeProto(op_type="Where", input=[node.input[0], first, second], output=[name])
        _visit(where, Scope(versions={"": max(scope.versions.get("", 16), 16)}), state)


def _branch(node: NodeProto, wanted: str) -> GraphProto:
    branches = (attribute.g for attribute in node.attribute if attribute.name == wanted)
    branch: GraphProto | None = next(branches, None)
    if branch is None or len(branch.output) != len(node.output):
        raise InvalidModel(f"{label(node)}: its {wanted} must exist and give {len(node.output)} outputs")
    return branch


def _run_inner(branch: GraphProto, prefix: str, wanted: Sequence[str], scope: Scope, state: Walk) -> Scope:
    """A branch's nodes, in place; `wanted` are the flat names for its outputs, "" where any name will do."""
    inner = Scope(
        versions=scope.versions,
        flat=False,
        prefix=prefix,
        depth=scope.depth + 1,
        names={name: name for name in state.types} if scope.flat else dict(scope.names),
        results={info.name: name for info, name in zip(branch.output, wanted, strict=True) if name},
        bound=scope.bound,
    )
    for tensor in branch.initializer:
        _add_inner_initializer(tensor.name, branch, inner, state)
    _run_block(branch.node, inner, state)
    return inner


def _add_inner_initializer(name: str, branch: GraphProto, inner: Scope, state: Walk) -> None:
    tensor = next(tensor for tensor in branch.initializer if tensor.name == name)
    what = f"initializer {quote(name)} of a branch of {quote(inner.prefix)}"
    refuse_external(tensor, what)
    check_tensor(tensor, None, what, state.limits)
    flat = unused(f"{inner.prefix}/{name}", state.taken)
    state.taken.add(flat)
    inner.names[name] = flat
    inner.results.pop(name, None)
    state.add_constant(flat, to_array(tensor, None, what))


def _first_output(node: NodeProto) -> str:
    return next((name for name in node.output if name), node.op_type)


def _visit(node: NodeProto, scope: Scope, state: Walk) -> None:
    """One plain operator: typed, then folded or kept."""
    version = scope.versions.get(node.domain)
    if version is None:
        raise InvalidModel(
            f"{label(node)}: domain {quote(node.domain)} is not imported by the model or the function around it"
        )
    if is_legacy(node, version):
        for modern in modernized(node, state.types, state.taken):
            _visit(modern, replace(scope, versions={**scope.versions, "": MODERN}), state)
        return
    schema = schema_of(node, version)
    for name in node.input:
        if name and name not in state.types:
            raise _missing(name, node, state)
    attributes = attributes_of(node, state.limits)
    subject = Subject(node=node, version=version, attributes=attributes, types=state.types, constants=state.constants)
    check_node(subject, schema)
    if _folded_by_values(node, version, attributes, state):
        return
    outputs = infer(node, schema, version, state.types, state.constants, state.declared, state.limits)
    check_result(subject, outputs)
    state.types.update((spec.name, spec) for spec in outputs)
    state.untyped.update(name for name in node.output if name and name not in state.types)
    if _folded(subject, outputs, state):
        return
    body = standard_body(node, schema, version, state.types)
    if body is None:
        state.nodes.append(_plain(node, version, attributes))
        return
    given = {attribute.name: attribute for attribute in node.attribute}
    for spec in outputs:
        del state.types[spec.name]
    _run_function(node, body, default_attributes(schema) | given, scope, state)


def _is_constant(node: NodeProto, state: Walk) -> bool:
    return all(not name or name in state.constants for name in node.input)


def _operands(node: NodeProto, state: Walk) -> list[Array | None]:
    return [state.constants.get(name) if name else None for name in node.input]


def _folded_by_values(node: NodeProto, version: int, attributes: Mapping[str, Attribute], state: Walk) -> bool:
    """Whether the node was one whose very shape depends on values, and those were known."""
    if not node.domain and node.op_type == "Constant":
        state.add_constant(node.output[0], folding.constant_value(node, attributes))
        return True
    if node.domain or node.op_type not in folding.DATA_SHAPED or not _is_constant(node, state):
        return False
    inputs = _operands(node, state)
    if not _affordable(node, inputs, (), state):
        return False
    for name, array in folding.fold_data_shaped(node, version, inputs).items():
        state.add_constant(name, array)
    return True


def _folded(subject: Subject, outputs: Sequence[TensorSpec], state: Walk) -> bool:
    """Whether the node's values are known now."""
    node, inputs = subject.node, _operands(subject.node, state)
    known = _is_constant(node, state) or folding.depends_on_types_alone(node)
    if not known or not folding.can_fold(node) or not _affordable(node, inputs, outputs, state):
        return False
    types = [state.types.get(name) for name in node.input]
    values = folding.fold(node, subject.version, subject.attributes, inputs, types, outputs)
    state.constants.update((spec.name, value) for spec, value in zip(outputs, values, strict=True))
    if node.op_type == "DequantizeLinear":
        state.dequantized[node.output[0]] = _plain(node, subject.version, subject.attributes)
    return True


def _plain(node: NodeProto, version: int, attributes: Mapping[str, Attribute]) -> Node:
    return Node(
        op=node.op_type,
        inputs=tuple(node.input),
        outputs=tuple(node.output),
        layer=_first_output(node),
        domain=node.domain,
        version=version,
        attributes=attributes,
    )


def _missing(name: str, node: NodeProto, state: Walk) -> LowprecError:
    if name in state.untyped:
        return Unsupported(f"{label(node)}: the shape of input {quote(name)} is known only when the model runs")
    return InvalidModel(f"{label(node)}: input {quote(name)} is defined nowhere before it")


def _affordable(node: NodeProto, inputs: Sequence[Array | None], outputs: Sequence[TensorSpec], state: Walk) -> bool:
    """Whether folding fits the budget of memory (else refused) and of work (else it stays a node)."""
    state.folded_bytes += folding.materialized_bytes(node, outputs)
    if state.folded_bytes > state.limits.folded_bytes:
        raise InvalidModel(f"{label(node)}: constants computed so far take more than {state.limits.folded_bytes} bytes")
    effort = folding.effort(node, inputs, outputs)
    if state.effort + effort > state.limits.evaluation:
        return False
    state.effort += effort
    return True
