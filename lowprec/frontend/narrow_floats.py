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

from lowprec.formats import BF16, FP16, Float
from lowprec.frontend.drafts import TO_STAY, RoundingDraft
from lowprec.frontend.graph import Array, Graph, Node
from lowprec.frontend.integer_layers import LAYERS
from lowprec.frontend.pruning import prune
from lowprec.frontend.quantized_tensors import rounded_tensors
from lowprec.frontend.randomness import NO_DRAWS, Draws, drawn, round_by_words
from lowprec.frontend.tensors import element_type

CASTS_SINCE = 13
"""The first opset whose Cast knows bfloat16."""
KEEPING = frozenset(("Concat", "Relu"))
"""Operators that give rounded numbers where they read no others; those that move values do, too."""


@dataclass(frozen=True, slots=True)
class NarrowFloat:
    """A format: as users call it, and as ONNX and NumPy do."""

    name: str
    dtype: str
    format: Float

    @property
    def greatest(self) -> float:
        """The greatest finite number."""
        return self.format.highest

    def rounded(self, array: Array) -> Array:
        """The nearest numbers of the format, as float32; ties go to even."""
        with np.errstate(over="ignore"):
            narrow = array.astype(self.dtype)
        return np.ascontiguousarray(narrow, dtype=np.float32)

    def drawn(self, array: Array, tensor: str, seed: int) -> Array:
        """The same of numbers of the format next to them, by random words; none becomes infinite."""
        return drawn(np.clip(array, -self.greatest, self.greatest), self.format, tensor, seed)


FORMATS: Mapping[str, NarrowFloat] = {
    narrow.name: narrow for narrow in (NarrowFloat("bf16", "bfloat16", BF16), NarrowFloat("fp16", "float16", FP16))
}


def narrow_floats(
    graph: Graph, fmt: NarrowFloat, skip: Collection[str] = (), draws: Draws = NO_DRAWS
) -> tuple[Graph, dict[str, str]]:
    """The rounded graph, and why each layer that stays float32 does; those of `skip` are to."""
    layers = [node for node in graph.nodes if node.op in LAYERS and not node.domain]
    found = {node.layer: _obstacle(node, graph, fmt, skip) for node in layers}
    reasons = {layer: reason for layer, reason in found.items() if reason}
    narrow = {node.layer for node in layers if node.layer not in reasons}
    work = _Work(
        graph=graph,
        fmt=fmt,
        rounded=rounded_tensors(graph, narrow, skip, operands=2),
        draws=draws,
        skip=skip,
        version=max([CASTS_SINCE, *(node.version for node in graph.nodes if not node.domain)]),
    )
    for spec in graph.inputs:
        work.copy_input(spec)
    for node in graph.nodes:
        inputs = work.read(node)
        if node.op in LAYERS and node.layer in narrow:
            inputs = (*(work.weights_of(name, node.layer) for name in inputs[:2]), *inputs[2:])
        work.copy(node, inputs, [name for name in node.outputs if work.needs_rounding(name, node)])
    return prune(work.finished()), reasons


def _obstacle(node: Node, graph: Graph, fmt: NarrowFloat, skip: Collection[str]) -> str:
    """Why a layer stays float32; nothing if it need not."""
    if node.layer in skip:
        return TO_STAY
    if graph.types[node.inputs[0]].dtype != "float32":
        return f"it is of {graph.types[node.inputs[0]].dtype}, not of float32"
    largest = max((_largest(graph.constants[name]) for name in node.inputs[:2] if name in graph.constants), default=0.0)
    if largest < np.inf and not np.isfinite(fmt.rounded(np.array([largest], np.float32))).all():
        return f"its weights reach {largest:g}, and {fmt.name} ends at {fmt.greatest:g}"
    return ""


def _largest(weights: Array) -> float:
    return float(np.abs(weights).max(initial=0))


@dataclass(slots=True, kw_only=True)
class _Work(RoundingDraft):
    """The graph under way; `weights` are rounded constants by the names of the model's, and by the seed of those that
    are drawn."""

    fmt: NarrowFloat
    skip: Collection[str]
    version: int
    weights: dict[tuple[str, int | None], str] = field(default_factory=dict)

    def needs_rounding(self, name: str, node: Node) -> bool:
        """Whether a result that is to be rounded is not so already."""
        if name not in self.rounded.deciding:
            return False
        keeps = node.op in KEEPING and not node.domain and node.layer not in self.skip
        return not keeps or any(source not in self.rounded.groups for source in node.inputs)

    def weights_of(self, name: str, layer: str) -> str:
        """The name of the rounded constant; of what is no constant, its own."""
        if name not in self.graph.constants:
            return name
        seed = self.draws.seed_of(layer)
        if (name, seed) not in self.weights:
            array = self.graph.constants[name]
            values = self.fmt.rounded(array) if seed is None else self.fmt.drawn(array, name, seed)
            self.weights[name, seed] = self.constant(f"{name}/rounded", values)
        return self.weights[name, seed]

    def round(self, tensor: str, source: str, result: str, *, layer: str) -> None:
        spec = self.graph.types[tensor]
        if words := self.words(tensor, layer):
            self.nodes.append(round_by_words(source, words, result, kind=self.fmt.name, layer=layer))
            return
        narrow = self.typed(f"{tensor}/{self.fmt.name}", replace(spec, dtype=self.fmt.dtype))
        self.nodes += [self._cast(source, narrow, layer), self._cast(narrow, result, layer)]

    def _cast(self, source: str, result: str, layer: str) -> Node:
        attributes = {"to": element_type(self.types[result].dtype)}
        version = self.version
        return Node(op="Cast", inputs=(source,), outputs=(result,), layer=layer, version=version, attributes=attributes)
