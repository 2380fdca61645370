"""A graph that is being written anew, node by node: new values with names that nobody has.

`Draft` is all of it; `RoundingDraft` puts roundings behind tensors, which keep their names for the rounded values:

    y = f(x)  -->  y/float = f(x);  y = round(y/float)

An input of the model, whose name is taken, becomes `x/rounded`.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from lowprec.frontend.graph import Array, Graph, Node, TensorSpec
from lowprec.frontend.quantized_tensors import Rounded
from lowprec.frontend.randomness import NO_DRAWS, Draws, random_words
from lowprec.frontend.scopes import unused

TO_STAY = "it is to stay in float"
"""Why a layer that somebody named is left alone."""


@dataclass(slots=True, kw_only=True)
class Draft:
    """The graph as it was, and the nodes, constants and types so far."""

    graph: Graph
    nodes: list[Node] = field(default_factory=list)
    constants: dict[str, Array] = field(init=False)
    types: dict[str, TensorSpec] = field(init=False)

    def __post_init__(self) -> None:
        self.constants, self.types = dict(self.graph.constants), dict(self.graph.types)

    def typed(self, name: str, spec: TensorSpec) -> str:
        """A new value near that name, of that type."""
        name = unused(name, self.types)
        self.types[name] = replace(spec, name=name)
        return name

    def constant(self, name: str, array: Array | np.generic) -> str:
        values = np.asarray(array)
        name = self.typed(name, TensorSpec(name="", dtype=values.dtype.name, shape=values.shape))
        self.constants[name] = values
        return name

    def finished(self) -> Graph:
        return replace(self.graph, nodes=tuple(self.nodes), constants=self.constants, types=self.types)


@dataclass(slots=True, kw_only=True)
class RoundingDraft(Draft, ABC):
    """A draft that rounds tensors, some of them by `draws`; `renamed` says what the model's inputs are called once
    rounded."""

    rounded: Rounded
    draws: Draws = NO_DRAWS
    renamed: dict[str, str] = field(default_factory=dict)

    @abstractmethod
    def round(self, tensor: str, source: str, result: str, *, layer: str) -> None:
        """The nodes that make `result` of `source`, for a tensor of the graph."""

    def words(self, tensor: str, layer: str) -> str:
        """The random words that a tensor is rounded by; none where it is rounded to nearest."""
        if layer not in self.draws.layers or tensor not in self.rounded.deciding:
            return ""  # what is only moved has been rounded
        shape = self.graph.types[tensor].shape
        name = self.typed(f"{tensor}/words", TensorSpec(name="", dtype="uint32", shape=shape))
        self.nodes.append(random_words(tensor, name, self.draws.seed, layer=layer))
        return name

    def copy_input(self, spec: TensorSpec) -> None:
        if spec.name in self.rounded.groups:
            result = self.renamed[spec.name] = self.typed(f"{spec.name}/rounded", spec)
            self.round(spec.name, spec.name, result, layer=spec.name)

    def read(self, node: Node) -> tuple[str, ...]:
        """What a node reads now."""
        return tuple(self.renamed.get(name, name) for name in node.inputs)

    def copy(self, node: Node, inputs: tuple[str, ...], rounded: Sequence[str]) -> None:
        """The node with those inputs, and a rounding behind each of those results."""
        floats = {name: self.typed(f"{name}/float", self.graph.types[name]) for name in rounded}
        outputs = tuple(floats.get(name, name) for name in node.outputs)
        self.nodes.append(replace(node, inputs=inputs, outputs=outputs))
        for name in rounded:
            self.round(name, floats[name], name, layer=node.layer)
