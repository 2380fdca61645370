"""Per-channel arithmetic behind a convolution goes into its weights; other batch norms become Mul and Add.

    Conv(w, b) -> BatchNormalization -> Mul -> Add --> Conv(w * scale, b * scale + shift)
    BatchNormalization -> Mul -> Add               --> Mul(scale) -> Add(shift)

A whole chain is composed in float64 and cast once. The convolution keeps its layer name and takes the chain's last
value name. Declines when: weights or bias are no constants, the value between is read elsewhere or is an output of the
model, or a folded weight would overflow its type.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from lowprec.errors import InvalidModel
from lowprec.frontend.affine import Affine, Vector, affine_of, narrowed
from lowprec.frontend.bodies import describe
from lowprec.frontend.graph import Array, Graph, Node, TensorSpec
from lowprec.frontend.uses import Uses, fresh, uses_of

Operands = Mapping[str, Vector]


@dataclass(slots=True, kw_only=True)
class _Rewrite:
    """The graph under way: what replaces or removes each node, and new constants."""

    graph: Graph
    uses: Uses
    affines: dict[str, Affine]
    constants: dict[str, Array] = field(default_factory=dict)
    types: dict[str, TensorSpec] = field(default_factory=dict)
    gone: set[str] = field(default_factory=set)


def absorb_affines(graph: Graph) -> Graph:
    """The graph with chains of per-channel arithmetic folded into weights, or collapsed to one Mul and one Add."""
    affines = {node.outputs[0]: found for node in graph.nodes if (found := affine_of(node, graph)) is not None}
    if not affines:
        return graph
    state = _Rewrite(graph=graph, uses=uses_of(graph), affines=affines)
    nodes: list[Node] = []
    for node in graph.nodes:
        if not node.outputs or node.outputs[0] not in state.gone:
            nodes += _rewritten(node, state)
    return replace(
        graph,
        nodes=tuple(nodes),
        constants={**graph.constants, **state.constants},
        types={name: spec for name, spec in graph.types.items() if name not in state.gone} | state.types,
    )


def _rewritten(node: Node, state: _Rewrite) -> list[Node]:
    if node.outputs[0] in state.affines:
        return _collapsed(node, state)
    if node.domain or node.op not in FOLDERS:
        return [node]
    chain = _chain(node.outputs[0], state)
    if not chain:
        return [node]
    total = _composed(chain, state)
    operands = _folded(node, state.graph, total)
    dtype = np.dtype(state.graph.constants[node.inputs[1]].dtype) if operands is not None else None
    cast = narrowed(operands, dtype) if operands is not None and dtype is not None else None
    if cast is None:
        return [node]
    return [_with_operands(node, chain[-1], cast, state)]


def _folded(node: Node, graph: Graph, total: Affine) -> Operands | None:
    try:
        return FOLDERS[node.op](node, graph, total)
    except MemoryError as error:
        raise InvalidModel(f"{describe(node)}: folding its weights needs more memory than is allowed") from error


def _chain(name: str, state: _Rewrite) -> list[Node]:
    """The affine nodes that follow `name`, each the only reader of the one before."""
    chain: list[Node] = []
    while (reader := state.uses.only_reader(name)) is not None and reader.outputs[0] in state.affines:
        if state.affines[reader.outputs[0]].data != name:
            break
        chain.append(reader)
        name = reader.outputs[0]
    return chain


def _composed(chain: list[Node], state: _Rewrite) -> Affine:
    total = state.affines[chain[0].outputs[0]]
    for node in chain[1:]:
        total = state.affines[node.outputs[0]].after(total)
    return total


def _with_operands(node: Node, last: Node, operands: Mapping[str, Array], state: _Rewrite) -> Node:
    """The node with new constant weights and bias, giving what the chain's last node gave."""
    result = last.outputs[0]
    weight = node.inputs[1]
    if "weight" in operands:
        weight = _constant(f"{node.layer}/weight", operands["weight"], state)
    bias = _constant(f"{node.layer}/bias", operands["bias"], state)
    old = node.outputs[0]
    state.gone |= {old, *_between(old, last, state)}
    attributes = dict(node.attributes)
    if node.op == "Gemm":
        attributes |= {"alpha": 1.0, "beta": 1.0}
    return replace(node, inputs=(node.inputs[0], weight, bias), outputs=(result,), attributes=attributes)


def _between(name: str, last: Node, state: _Rewrite) -> list[str]:
    """Values of the chain; the last keeps its type, and its node is gone all the same."""
    names = [node.outputs[0] for node in _chain(name, state)]
    state.types[last.outputs[0]] = state.graph.types[last.outputs[0]]
    return names


def _constant(name: str, array: Array, state: _Rewrite) -> str:
    name = fresh(name, state.graph, state.constants)
    array.flags.writeable = False
    state.constants[name] = array
    state.types[name] = TensorSpec(name=name, dtype=array.dtype.name, shape=array.shape)
    return name


def _collapsed(node: Node, state: _Rewrite) -> list[Node]:
    """A chain that no weights took: at most one Mul and one Add, unless it is a single Mul, Add, Sub or Div already."""
    chain = [node, *_chain(node.outputs[0], state)]
    if len(chain) == 1 and node.op != "BatchNormalization":
        return [node]
    total, last = _composed(chain, state), chain[-1]
    spec = state.graph.types[last.outputs[0]]
    dtype = np.dtype(state.graph.constants[_constant_operand(node, state)].dtype)
    cast = narrowed({"scale": total.scale, "shift": total.shift}, dtype)
    if cast is None:
        return [node]
    state.gone |= {item.outputs[0] for item in chain}
    state.types[spec.name] = spec
    return _mul_add(total, cast, last, spec, state)


def _mul_add(total: Affine, cast: Mapping[str, Array], last: Node, spec: TensorSpec, state: _Rewrite) -> list[Node]:
    """Mul and Add by constants shaped for axis 1, the one or the other left out where it does nothing."""
    shape = (total.scale.size, *(1,) * (len(spec.shape) - 2))
    shifts, scales = bool(cast["shift"].any()), bool((cast["scale"] != 1).any())
    middle = fresh(f"{spec.name}/scaled", state.graph, state.constants) if shifts else spec.name
    nodes: list[Node] = []
    if scales or not shifts:
        scale = _constant(f"{spec.name}/scale", cast["scale"].reshape(shape), state)
        nodes.append(Node(op="Mul", inputs=(total.data, scale), outputs=(middle,), layer=middle, version=14))
        state.types[middle] = replace(spec, name=middle)
    if shifts:
        shift = _constant(f"{spec.name}/shift", cast["shift"].reshape(shape), state)
        data = middle if nodes else total.data
        nodes.append(Node(op="Add", inputs=(data, shift), outputs=(spec.name,), layer=spec.name, version=14))
    return nodes


def _constant_operand(node: Node, state: _Rewrite) -> str:
    return next(name for name in node.inputs if name in state.graph.constants)


def _conv(node: Node, graph: Graph, total: Affine) -> Operands | None:
    """w[k, c, ...] * scale[k]"""
    operands = _bias(node, graph, total)
    if operands is None or _keeps_weight(total):
        return operands
    weight = graph.constants[node.inputs[1]].astype(np.float64, order="C")
    weight *= total.scale.reshape(-1, *(1,) * (weight.ndim - 1))
    return operands | {"weight": weight}


def _conv_transpose(node: Node, graph: Graph, total: Affine) -> Operands | None:
    """w[g * c, k / g, ...]: the channels of group g are scaled by the g-th part of scale"""
    operands, groups = _bias(node, graph, total), node.attributes.get("group", 1)
    if operands is None or not isinstance(groups, int) or _keeps_weight(total):
        return operands
    weight = graph.constants[node.inputs[1]].astype(np.float64, order="C")
    grouped = weight.reshape(groups, -1, *weight.shape[1:])
    grouped *= total.scale.reshape(groups, 1, -1, *(1,) * (weight.ndim - 2))
    return operands | {"weight": weight}


def _gemm(node: Node, graph: Graph, total: Affine) -> Operands | None:
    """alpha * A B + beta * C, columns scaled"""
    alpha, beta = (np.float64(node.attributes.get(name, 1.0)) for name in ("alpha", "beta"))  # type: ignore[arg-type]
    operands = _bias(node, graph, total, beta)
    if operands is None or (_keeps_weight(total) and alpha == 1.0):
        return operands
    weight = graph.constants[node.inputs[1]].astype(np.float64, order="C") * alpha
    weight *= total.scale[:, None] if node.attributes.get("transB", 0) else total.scale
    return operands | {"weight": weight}


def _bias(node: Node, graph: Graph, total: Affine, factor: float = 1.0) -> dict[str, Vector] | None:
    """The new bias, if weights and bias are constants."""
    third = node.inputs[2] if len(node.inputs) > 2 else ""
    if node.inputs[1] not in graph.constants or (third and third not in graph.constants):
        return None
    bias = graph.constants[third].astype(np.float64) * factor if third else np.zeros(1)
    return {"bias": bias * total.scale + total.shift}


def _keeps_weight(total: Affine) -> bool:
    return bool((total.scale == 1).all())


FOLDERS = {"Conv": _conv, "ConvTranspose": _conv_transpose, "Gemm": _gemm}
