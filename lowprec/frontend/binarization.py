"""A float32 model with binary layers: every Conv and Gemm but the first and the last multiplies signs.

    y = Conv(x, w, b)  -->  y = Conv(Where(x >= 0, 1, -1), a * sign(w), b)      a: the mean of |w| of an output channel

Padding contributes nothing. Everything else stays float32.
Declines when: weights are not constant, or hold a zero's channel; there are groups; Gemm has transA, alpha or beta.
"""

from collections.abc import Collection
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from lowprec.frontend.drafts import TO_STAY, Draft
from lowprec.frontend.graph import Array, Graph, Node
from lowprec.frontend.pruning import prune

LAYERS = frozenset(("Conv", "Gemm", "MatMul"))
NEARLY = 1e-3
VERSION = 16
"""Of the operators that are put in."""

Floats = NDArray[np.float32]


@dataclass(slots=True, kw_only=True)
class _Work(Draft):
    """The graph under way; `signs` are those of tensors that have been asked for."""

    signs: dict[str, str] = field(default_factory=dict)
    numbers: dict[float, str] = field(default_factory=dict)

    def number(self, value: float) -> str:
        if value not in self.numbers:
            self.numbers[value] = self.constant(f"number {value:g}", np.full((), value, np.float32))
        return self.numbers[value]

    def signs_of(self, name: str, layer: str) -> str:
        """Where(x >= 0, 1, -1)"""
        if name not in self.signs:
            spec = self.graph.types[name]
            condition = self.typed(f"{name}/positive", replace(spec, dtype="bool"))
            result = self.typed(f"{name}/signs", spec)
            made = (
                ("GreaterOrEqual", (name, self.number(0.0)), condition),
                ("Where", (condition, self.number(1.0), self.number(-1.0)), result),
            )
            self.nodes += [
                Node(op=op, inputs=inputs, outputs=(output,), layer=layer, version=VERSION)
                for op, inputs, output in made
            ]
            self.signs[name] = result
        return self.signs[name]


def binarize(graph: Graph, skip: Collection[str] = (), *, ends: bool = False) -> tuple[Graph, dict[str, str]]:
    """The binary graph, and why each layer that stays in float does; those of `skip` are to, and so are the first and
    the last unless `ends` are binary, too."""
    layers = [node for node in graph.nodes if node.op in LAYERS and not node.domain]
    outer = {node.layer for node in (*layers[:1], *layers[-1:]) if not ends}
    reasons = {node.layer: "it is the first or the last layer" if node.layer in outer else "" for node in layers}
    reasons |= {layer: TO_STAY for layer in skip if layer in reasons}
    work = _Work(graph=graph)
    for node in graph.nodes:
        if node.layer not in reasons or node.op not in LAYERS:
            work.nodes.append(node)
            continue
        reasons[node.layer] = reasons[node.layer] or obstacle(node, graph)
        work.nodes.append(node if reasons[node.layer] else _binary(work, node))
    return prune(work.finished()), {layer: reason for layer, reason in reasons.items() if reason}


def binarize_weights(graph: Graph, layers: Collection[str]) -> tuple[Graph, dict[str, str]]:
    """The graph with a * sign(w) for the weights of those layers, and why some keep theirs."""
    work = _Work(graph=graph)
    reasons: dict[str, str] = {}
    for node in graph.nodes:
        if node.layer in layers:
            reasons[node.layer] = (obstacle(node, graph) if node.op in LAYERS else "") or reasons.get(node.layer, "")
        if node.layer not in layers or node.op not in LAYERS or reasons[node.layer]:
            work.nodes.append(node)
            continue
        work.nodes.append(replace(node, inputs=(node.inputs[0], _signed_weights(work, node), *node.inputs[2:])))
    return prune(work.finished()), {layer: reason for layer, reason in reasons.items() if reason}


def obstacle(node: Node, graph: Graph) -> str:
    """Why a layer cannot multiply signs; nothing if it can."""
    weights = graph.constants.get(node.inputs[1])
    if weights is None or graph.types[node.inputs[0]].dtype != "float32":
        return "its weights are not constant, or it is not of float32"
    if node.op == "MatMul" and weights.ndim != 2:
        return "its weights have more than two axes"
    if node.attributes.get("group", 1) != 1:
        return "it has groups, whose channels do not fill words of signs"
    if node.attributes.get("transA", 0) or any(node.attributes.get(name, 1.0) != 1 for name in ("alpha", "beta")):
        return "its transA, alpha or beta is not the usual one"
    rows = np.abs(_by_output(weights, node))
    if not weights.size or not np.isfinite(rows).all() or not rows.mean(axis=1, dtype=np.float64).all():
        return "some weights are not finite, or all of an output channel are zero"
    return ""


def binary_weights(weights: Floats, node: Node) -> Floats:
    """a * sign(w), with sign(0) = 1."""
    rows = np.asarray(_by_output(weights, node), np.float32)
    factor = np.abs(rows).mean(axis=1, dtype=np.float64).astype(np.float32)
    signs = np.where(rows >= 0, np.float32(1), np.float32(-1)) * factor[:, None]
    if _outputs_first(node):
        return np.ascontiguousarray(signs.reshape(weights.shape))
    return np.ascontiguousarray(signs.T.reshape(weights.shape))


def is_binary(weights: Array, node: Node) -> bool:
    """Whether they are signs but for a factor, one for each output channel."""
    rows = np.abs(_by_output(weights, node))
    return bool((rows == rows[:, :1]).all() and (rows > 0).all() and np.isfinite(rows).all())


def is_nearly_binary(weights: Array, node: Node) -> bool:
    """Whether they are so but for rounding."""
    rows = np.abs(np.asarray(_by_output(weights, node), np.float64))
    return bool((np.abs(rows - rows.mean(axis=1, keepdims=True)) <= NEARLY * rows.mean()).all())


def _binary(work: _Work, node: Node) -> Node:
    x, _, *bias = node.inputs
    return replace(node, inputs=(work.signs_of(x, node.layer), _signed_weights(work, node), *bias))


def _signed_weights(work: _Work, node: Node) -> str:
    """The name of a * sign(w)."""
    name = node.inputs[1]
    weights = np.asarray(work.graph.constants[name], np.float32)
    return work.constant(f"{name}/signs", binary_weights(weights, node))


def _outputs_first(node: Node) -> bool:
    return node.op == "Conv" or bool(node.attributes.get("transB", 0))


def _by_output(weights: Array, node: Node) -> Array:
    """[output channel, all else]"""
    return weights.reshape(len(weights), -1) if _outputs_first(node) else weights.reshape(-1, weights.shape[-1]).T
