"""Which tensors of a model are rounded to words, and which of them share a scale.

Rounded is what a layer of integers reads, what it gives, and what ROUNDED operators and those that move values make of
rounded tensors. A product or a sum that only a Relu reads (or a Clip from zero) is rounded behind that, once.

    conv -> Relu -> MaxPool    --> conv -> Relu -> [round] -> MaxPool -> [the same]

Moving operators give their input's values, zeros, or the greatest of some, so their result has their input's scale. So
have the inputs of a Concat and its result: tensors tied in this way are one group, and nothing is rounded twice.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from lowprec.frontend.graph import Graph, Node
from lowprec.frontend.uses import Uses, uses_of

ROUNDED = frozenset(("Add", "AveragePool", "Clip", "Concat", "GlobalAveragePool", "Relu", "Sum"))
"""Operators whose results are rounded where an operand is; results that are moved are, too."""
RECTIFIED = frozenset(("Add", "Conv", "Gemm", "MatMul", "Sum"))
"""Operators that wait for a Relu behind them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rounded:
    """The rounded tensors in the order they are made, the group of each (named by its first tensor), and those whose
    values decide a group's range."""

    groups: Mapping[str, str]
    deciding: tuple[str, ...]


def rounded_tensors(graph: Graph, integers: Collection[str], skip: Collection[str], *, operands: int = 1) -> Rounded:
    """The tensors to round when the layers `integers` multiply rounded numbers, and those of `skip` float32; of a
    layer's inputs the first `operands` are multiplied, but for constants."""
    layers = (node for node in graph.nodes if node.layer in integers)
    read = {name for node in layers for name in node.inputs[:operands] if name not in graph.constants}
    state = _Marking(graph=graph, uses=uses_of(graph), integers=integers, skip=skip)
    for spec in graph.inputs:
        if spec.name in read:
            state.add(spec.name)
    for node in graph.nodes:
        rounds = state.rounds(node)
        if rounds and state.waits(node):
            state.waiting.add(node.outputs[0])
            continue
        for name in node.outputs:
            if name and (rounds or name in read) and graph.types[name].dtype == "float32":
                state.add(name)
                state.tie(name, node)
    groups = {name: state.root(name) for name in state.parents}
    return Rounded(groups=groups, deciding=tuple(name for name in groups if name not in state.moved))


def moves(node: Node, graph: Graph) -> bool:
    """Whether the results hold nothing but the first input's values and zeros."""
    return not node.domain and node.op in MOVING and MOVING[node.op](node, graph)


@dataclass(slots=True, kw_only=True)
class _Marking:
    """Rounded tensors so far, each with one it is tied to (itself, for the first of a group)."""

    graph: Graph
    uses: Uses
    integers: Collection[str]
    skip: Collection[str]
    parents: dict[str, str] = field(default_factory=dict)
    waiting: set[str] = field(default_factory=set)
    moved: set[str] = field(default_factory=set)

    def add(self, name: str) -> None:
        self.parents[name] = name

    def rounds(self, node: Node) -> bool:
        """Whether the node's results are rounded whoever reads them."""
        if node.layer in self.skip or node.domain:
            return False
        if node.layer in self.integers:
            return True
        if node.op == "Clip" and not clips_from_zero(node, self.graph):
            return False
        known = node.op in ROUNDED or moves(node, self.graph)
        return known and any(name in self.parents or name in self.waiting for name in node.inputs)

    def waits(self, node: Node) -> bool:
        """Whether a Relu, or a Clip from zero, is all that follows."""
        if node.op not in RECTIFIED:
            return False
        reader = self.uses.only_reader(node.outputs[0])
        if reader is None or reader.layer in self.skip:
            return False
        return reader.op == "Relu" or (reader.op == "Clip" and clips_from_zero(reader, self.graph))

    def tie(self, name: str, node: Node) -> None:
        """A result to the inputs whose scale it has."""
        if node.layer in self.skip:
            return
        if moves(node, self.graph) and node.inputs[0] in self.parents:
            self.moved.add(name)
            self._join(node.inputs[0], name)
        elif node.op == "Concat":
            for other in self._rounded_inputs(node):
                self._join(other, name)

    def root(self, name: str) -> str:
        while self.parents[name] != name:
            self.parents[name] = name = self.parents[self.parents[name]]
        return name

    def _rounded_inputs(self, node: Node) -> Iterator[str]:
        return (name for name in node.inputs if name in self.parents)

    def _join(self, one: str, other: str) -> None:
        self.parents[self.root(other)] = self.root(one)


def clips_from_zero(node: Node, graph: Graph) -> bool:
    """Whether a Clip's lower bound is known to be 0."""
    return _bound(node, graph, 1, "min") == 0


def upper_bound(node: Node, graph: Graph) -> float | None:
    """A Clip's, where it is known."""
    return _bound(node, graph, 2, "max")


def _bound(node: Node, graph: Graph, place: int, attribute: str) -> float | None:
    """An operand, or the attribute that older Clips have."""
    given = node.inputs[place] if len(node.inputs) > place else ""
    bound = graph.constants.get(given) if given else node.attributes.get(attribute)
    return None if bound is None or np.size(bound) != 1 else float(np.asarray(bound).reshape(()))


def _always(node: Node, graph: Graph) -> bool:
    return True


def _pads_nothing_else(node: Node, graph: Graph) -> bool:
    """Zeros, or values of the input."""
    if node.attributes.get("mode", "constant") != "constant":
        return True
    given = node.inputs[2] if len(node.inputs) > 2 else ""
    value = graph.constants.get(given) if given else node.attributes.get("value", 0.0)
    return value is not None and not np.any(np.asarray(value))


def _takes_nearest(node: Node, graph: Graph) -> bool:
    """tf_crop_and_resize puts a value of its own outside."""
    outside = node.attributes.get("coordinate_transformation_mode") == "tf_crop_and_resize"
    return node.attributes.get("mode", "nearest") == "nearest" and not outside


MOVING: Mapping[str, Callable[[Node, Graph], bool]] = {
    "DepthToSpace": _always,
    "Flatten": _always,
    "GlobalMaxPool": _always,
    "MaxPool": _always,
    "Pad": _pads_nothing_else,
    "Reshape": _always,
    "Resize": _takes_nearest,
    "Slice": _always,
    "SpaceToDepth": _always,
    "Split": _always,
    "Squeeze": _always,
    "Transpose": _always,
    "Unsqueeze": _always,
    "Upsample": _takes_nearest,
}
