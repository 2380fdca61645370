"""A checked, static graph -> one Relax function of standard operators, every ONNX value under its own name.

    Graph --> IRModule { main(inputs) -> output, or a tuple of several }

NCHW as in the file; no dynamic shapes. The attribute `lowprec.layers` of main maps each value's name to the layer that
users know it by. An operator without a converter is refused, never guessed at.
"""

from collections.abc import Iterator
from collections.abc import Set as AbstractSet

import tvm
from tvm import relax, topi
from tvm.ir import GenericConst

from lowprec.errors import Unsupported
from lowprec.frontend.converters import CONVERTERS
from lowprec.frontend.converters.drawing import CONVERTERS as DRAWING
from lowprec.frontend.converters.drawing import STEP
from lowprec.frontend.converters.narrow_codes import carried, carrier
from lowprec.frontend.converters.site import Expr, Result, Site, constant, describe
from lowprec.frontend.converters.widening import converted
from lowprec.frontend.graph import Graph, Node, TensorSpec
from lowprec.frontend.randomness import DOMAIN, draws
from lowprec.manifest import NARROW_BITS
from lowprec.passes.editing import OPERATOR, UNNAMED, Emitter, attributes_of, bindings, replace_tensors, result_of
from lowprec.schedules.noise import STEP_SHAPE, STEP_TYPE

LAYERS = "lowprec.layers"
DTYPE_NAMES = "float16 bfloat16 float32 float64 int8 int16 int32 int64 uint8 uint16 uint32 uint64 bool"
EXPONENT = "float8_e8m0fnu"  # a scale's exponent: it can be cast from
DTYPES = frozenset(DTYPE_NAMES.split())
CODING = frozenset(("DequantizeLinear", "QuantizeLinear"))
"""The operators on types of few bits."""


class Values(dict[str, Expr]):
    """What each name stands for. A constant becomes Relax when it is first asked for, and once."""

    def __init__(self, graph: Graph) -> None:
        super().__init__()
        self.constants = graph.constants

    def __missing__(self, name: str) -> Expr:
        self[name] = constant(carried(self.constants[name]))
        return self[name]


def tensor_type(spec: TensorSpec) -> relax.TensorType:
    return relax.TensorType(spec.shape, carrier(spec.dtype))


def check_types(graph: Graph) -> None:
    """Every value a node reads or makes has a type that compiled code can hold."""
    for node in graph.nodes:
        for name in (*node.inputs, *node.outputs):
            if name and not _is_held(node, name, graph.types[name].dtype):
                raise Unsupported(f"{describe(node)}: tensor {name!r} is {graph.types[name].dtype}, not supported yet")


def _is_held(node: Node, name: str, dtype: str) -> bool:
    if dtype == EXPONENT:
        return node.op == "Cast" and name in node.inputs
    return dtype in DTYPES or (node.op in CODING and not node.domain and dtype in NARROW_BITS)


def bind(builder: relax.BlockBuilder, name: str, expression: Expr, *, is_output: bool) -> Expr:
    """A variable with exactly this name; `BlockBuilder.emit` would make names unique by changing them."""
    value = builder.normalize(expression)
    kind = relax.Var if is_output else relax.DataflowVar
    variable = kind(name, value.ty)
    builder.emit_normalized(relax.VarBinding(variable, value))
    return variable


def convert_node(builder: relax.BlockBuilder, graph: Graph, values: Values, node: Node) -> Result:
    converter = {"": CONVERTERS, DOMAIN: DRAWING}.get(node.domain, {}).get(node.op)
    if converter is None:
        domain = f" of domain {node.domain!r}" if node.domain else ""
        raise Unsupported(f"{describe(node)}: the operator{domain} is not supported")
    return converted(Site(builder=builder, node=node, graph=graph, values=values), converter)


def named_results(node: Node, result: Result) -> Iterator[tuple[str, Expr]]:
    parts = result if isinstance(result, tuple) else (result,)
    if len(node.outputs) > len(parts) and any(node.outputs[len(parts) :]):
        raise Unsupported(f"{describe(node)}: output {node.outputs[len(parts)]!r} is not supported")
    yield from ((name, part) for name, part in zip(node.outputs, parts, strict=False) if name)


def check_shape(node: Node, spec: TensorSpec, variable: Expr) -> None:
    """What was built must be what the front end inferred: a difference is a bug of ours, caught before it is run."""
    shape, dtype = tuple(int(n) for n in variable.ty.shape), str(variable.ty.dtype)
    if shape != spec.shape or dtype != carrier(spec.dtype):
        raise Unsupported(
            f"{describe(node)}: converted to {dtype}{list(shape)} where {spec.dtype}{list(spec.shape)} is expected"
        )


def settle(builder: relax.BlockBuilder, name: str, expression: Expr, values: Values, *, is_output: bool) -> Expr:
    """The value a name stands for. What changes nothing (Identity) needs no binding; an output needs its own memory."""
    if not isinstance(expression, relax.Var | GenericConst):
        return bind(builder, name, expression, is_output=is_output)
    if isinstance(expression, relax.Var) and not any(expression.same_as(known) for known in values.values()):
        return bind(builder, name, builder.lookup_binding(expression), is_output=is_output)  # a helper's binding dies
    return bind(builder, name, copied(builder, expression), is_output=True) if is_output else expression


def copied(builder: relax.BlockBuilder, expression: Expr) -> Expr:
    return builder.call_te(topi.identity, expression, primfunc_attrs={OPERATOR: "Identity"})


def convert_nodes(builder: relax.BlockBuilder, graph: Graph, values: Values) -> None:
    outputs = {spec.name for spec in graph.outputs}
    for node in graph.nodes:
        for name, expression in named_results(node, convert_node(builder, graph, values, node)):
            values[name] = settle(builder, name, expression, values, is_output=name in outputs)
            check_shape(node, graph.types[name], values[name])


def output_values(builder: relax.BlockBuilder, graph: Graph, values: Values) -> list[Expr]:
    """Results belong to the caller: an output that is an input or a constant is copied."""
    made = {name for node in graph.nodes for name in node.outputs}
    return [
        values[spec.name]
        if spec.name in made
        else bind(builder, spec.name, copied(builder, values[spec.name]), is_output=True)
        for spec in graph.outputs
    ]


def to_relax(graph: Graph) -> tvm.IRModule:
    """The whole graph as one Relax function named "main"; if it draws, the step is its last argument."""
    check_types(graph)
    builder, values = relax.BlockBuilder(), Values(graph)
    parameters = [relax.Var(spec.name, tensor_type(spec)) for spec in graph.inputs]
    values.update(zip((spec.name for spec in graph.inputs), parameters, strict=True))
    if draws(graph):
        values[STEP] = relax.Var(STEP, relax.TensorType(STEP_SHAPE, STEP_TYPE))
        parameters.append(values[STEP])
    with builder.function("main", params=parameters):
        with builder.dataflow():
            convert_nodes(builder, graph, values)
            outputs = output_values(builder, graph, values)
        builder.emit_func_output(outputs[0] if len(outputs) == 1 else relax.Tuple(outputs))
    layers = {name: node.layer for node in graph.nodes for name in node.outputs if name}
    module = relax.transform.DeadCodeElimination(["main"])(builder.get())
    named = {value for value in (*values.values(), *outputs) if isinstance(value, relax.Var)}
    module["main"] = helpers_unnamed(module["main"], named).with_attr(LAYERS, layers)
    return module


def helpers_unnamed(main: relax.Function, named: AbstractSet[Expr]) -> relax.Function:
    """Helpers without the names that the builder gave them ("lv2"): a tensor of the model may be called so."""
    emitter, new = Emitter(), dict[Expr, Expr]()
    for var, value in bindings(main):
        new[var] = emitter.emit(replace_tensors(value, new), var.name if var in named else UNNAMED)
    return emitter.function(list(main.params), replace_tensors(result_of(main), new), attributes_of(main))
