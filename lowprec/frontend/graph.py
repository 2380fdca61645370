"""A model after the front end: static, checked, folded ONNX as plain data.

Invariants, held by whoever makes a `Graph` and relied on by whoever reads one:

1. Nodes stand in topological order; every input is "" (absent), a graph input, a constant or an earlier node's output.
2. No local functions, no subgraphs, no symbolic dimensions: `types` has the dtype and shape of every value.
3. Whatever depends on constants alone is a constant.
4. Names are those of the file; `Node.layer` is the name users know the layer by: the node's first output as written.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from lowprec.tensors import TensorSpec

__all__ = ["Array", "Attribute", "Graph", "Node", "TensorSpec"]

Array = NDArray[np.generic]
Attribute = int | float | str | Array | tuple[int, ...] | tuple[float, ...] | tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One operator; `version` is the opset version in force for its domain ("" is ai.onnx)."""

    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    layer: str
    domain: str = ""
    version: int = 0
    attributes: Mapping[str, Attribute] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Graph:
    """A whole model: `types` covers inputs, constants and every node's outputs."""

    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    nodes: tuple[Node, ...]
    constants: Mapping[str, Array]
    types: Mapping[str, TensorSpec]
    dequantized: Mapping[str, Node] = field(default_factory=dict)
    """The DequantizeLinear of constants that each of these constants was folded from; none once `restore` has run."""
