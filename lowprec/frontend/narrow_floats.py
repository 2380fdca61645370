"""A float32 model whose weights and activations are numbers of a narrower float format, summed in float32.

    y = Conv(x, w, b)  -->  y/float = Conv(x, round(w), b);   y = Cast(Cast(y/float, bfloat16), float32)

So a tensor keeps its name for its rounded value. Rounded are the tensors that `quantized_tensors` rounds for integers,
but for those that only hold rounded numbers already: what is moved, joined or rectified. Bias, softmax, normalization
and what else is not read by a product stay float32.
Declines when: weights would become infinite.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from lowprec.formats import BF16, FP16
from lowprec.frontend.graph import Array, Graph, Node, TensorSpec
from lowprec.frontend.integer_layers import LAYERS
from lowprec.frontend.pruning import prune
from lowprec.frontend.quantized_tensors import Rounded, rounded_tensors
from lowprec.frontend.scopes import unused
from lowprec.frontend.tensors import element_type

CASTS_SINCE = 13
"""The first opset whose Cast knows bfloat16."""
KEEPING = frozenset(("Concat", "Relu"))
"""Operators that give rounded numbers where they read no others; those that move values do, too."""


@dataclass(frozen=True, slots=True)
class NarrowFloat:
    """A format: as users call it, as ONNX and NumPy do, and its greatest finite number."""

    name: str
    dtype: str
    greatest: float

    def rounded(self, array: Array) -> Array:
        """The nearest numbers of the format, as float32; ties go to even."""
        with np.errstate(over="ignore"):
            narrow = array.astype(self.dtype)
        return np.ascontiguousarray(narrow, dtype=np.float32)


FORMATS: Mapping[str, NarrowFloat] = {
    narrow.name: narrow
    for narrow in (NarrowFloat("bf16", "bfloat16", BF16.highest), NarrowFloat("fp16", "float16", FP16.highest))
}


def narrow_floats(graph: Graph, fmt: NarrowFloat, skip: Collection[str] = ()) -> tuple[Graph, dict[str, str]]:
    """The rounded graph, and why each layer that stays float32 does; those of `skip` are to."""
    layers = [node for node in graph.nodes if node.op in LAYERS and not node.domain]
    found = {node.layer: _obstacle(node, graph, fmt, skip) for node in layers}
    reasons = {layer: reason for layer, reason in found.items() if reason}
    narrow = {node.layer for node in layers if node.layer not in reasons}
    work = _Work(
        graph=graph,
        fmt=fmt,
        rounded=rounded_tensors(graph, narrow, skip, operands=2),
        skip=skip,
        version=max([CASTS_SINCE, *(node.version for node in graph.nodes if not node.domain)]),
        taken={*graph.types, *graph.constants},
    )
    for spec in graph.inputs:
        work.copy_input(spec)
    for node in graph.nodes:
        work.copy(node, narrow=node.op in LAYERS and node.layer in narrow)
    rewritten = replace(
        graph,
        nodes=tuple(work.nodes),
        constants={**graph.constants, **work.constants},
        types={**graph.types, **work.types},
    )
    return prune(rewritten), reasons


def _obstacle(node: Node, graph: Graph, fmt: NarrowFloat, skip: Collection[str]) -> str:
    """Why a layer stays float32; nothing if it need not."""
    if node.layer in skip:
        return "it is to stay in float"
    if graph.types[node.inputs[0]].dtype != "float32":
        return f"it is of {graph.types[node.inputs[0]].dtype}, not of float32"
    largest = max((_largest(graph.constants[name]) for name in node.inputs[:2] if name in graph.constants), default=0.0)
    if largest < np.inf and not np.isfinite(fmt.rounded(np.array([largest], np.float32))).all():
        return f"its weights reach {largest:g}, and {fmt.name} ends at {fmt.greatest:g}"
    return ""


def _largest(weights: Array) -> float:
    return float(np.abs(weights).max(initial=0))


@dataclass(slots=True, kw_only=True)
class _Work:
    """The graph under way: new nodes, constants and types, and what the model's inputs are called once rounded."""

    graph: Graph
    fmt: NarrowFloat
    rounded: Rounded
    skip: Collection[str]
    version: int
    taken: set[str]
    nodes: list[Node] = field(default_factory=list)
    constants: dict[str, Array] = field(default_factory=dict)
    types: dict[str, TensorSpec] = field(default_factory=dict)
    renamed: dict[str, str] = field(default_factory=dict)
    weights: dict[str, str] = field(default_factory=dict)

    def copy_input(self, spec: TensorSpec) -> None:
        if spec.name in self.rounded.groups:
            result = self.renamed[spec.name] = self._typed(f"{spec.name}/rounded", spec)
            self._round(spec.name, spec.name, result, layer=spec.name)

    def copy(self, node: Node, *, narrow: bool) -> None:
        """The node, its weights rounded, and roundings behind it."""
        inputs = tuple(self.renamed.get(name, name) for name in node.inputs)
        if narrow:
            inputs = (*(self._weights(name) for name in inputs[:2]), *inputs[2:])
        rounded = [name for name in node.outputs if self._needs_rounding(name, node)]
        floats = {name: self._typed(f"{name}/float", self.graph.types[name]) for name in rounded}
        outputs = tuple(floats.get(name, name) for name in node.outputs)
        self.nodes.append(replace(node, inputs=inputs, outputs=outputs))
        for name in rounded:
            self._round(name, floats[name], name, layer=node.layer)

    def _needs_rounding(self, name: str, node: Node) -> bool:
        """Whether a result that is to be rounded is not so already."""
        if name not in self.rounded.deciding:
            return False
        keeps = node.op in KEEPING and not node.domain and node.layer not in self.skip
        return not keeps or any(source not in self.rounded.groups for source in node.inputs)

    def _weights(self, name: str) -> str:
        """The name of the rounded constant; of what is no constant, its own."""
        if name not in self.graph.constants:
            return name
        if name not in self.weights:
            values = self.fmt.rounded(self.graph.constants[name])
            spec = TensorSpec(name="", dtype="float32", shape=values.shape)
            self.weights[name] = self._typed(f"{name}/rounded", spec)
            self.constants[self.weights[name]] = values
        return self.weights[name]

    def _round(self, tensor: str, source: str, result: str, *, layer: str) -> None:
        spec = self.graph.types[tensor]
        narrow = self._typed(f"{tensor}/{self.fmt.name}", replace(spec, dtype=self.fmt.dtype))
        self.nodes += [self._cast(source, narrow, layer), self._cast(narrow, result, layer)]

    def _cast(self, source: str, result: str, layer: str) -> Node:
        spec = self.types[result] if result in self.types else self.graph.types[result]
        attributes = {"to": element_type(spec.dtype)}
        version = self.version
        return Node(op="Cast", inputs=(source,), outputs=(result,), layer=layer, version=version, attributes=attributes)

    def _typed(self, name: str, spec: TensorSpec) -> str:
        """A new value near that name, of that type."""
        name = unused(name, self.taken)
        self.taken.add(name)
        self.types[name] = replace(spec, name=name)
        return name
