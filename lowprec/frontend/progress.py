"""What a walk over the model knows so far: types, constants, nodes, and how much it has spent."""

from collections.abc import Callable
from dataclasses import dataclass, field

from onnx import FunctionProto

from lowprec.frontend.graph import Array, Node, TensorSpec
from lowprec.frontend.limits import Limits
from lowprec.frontend.scopes import FunctionKey
from lowprec.frontend.shapes import Declared


@dataclass(slots=True, kw_only=True)
class Walk:
    """What is known so far; grows as the nodes pass by."""

    limits: Limits
    functions: dict[FunctionKey, FunctionProto]
    declared: dict[str, Declared]
    taken: set[str]
    types: dict[str, TensorSpec] = field(default_factory=dict)
    constants: dict[str, Array] = field(default_factory=dict)
    nodes: list[Node] = field(default_factory=list)
    on_node: Callable[[str], None] | None = None
    dequantized: dict[str, Node] = field(default_factory=dict)
    untyped: set[str] = field(default_factory=set)
    visited: int = 0
    folded_bytes: int = 0
    effort: int = 0

    def add_constant(self, name: str, array: Array) -> None:
        """A value that is known."""
        dtype = "string" if array.dtype == object else array.dtype.name
        self.constants[name] = array
        self.types[name] = TensorSpec(name=name, dtype=dtype, shape=array.shape)
