"""One node on its way into Relax: what a converter may ask about it, and how it says no.

A converter is a function Site -> expression, or a tuple of expressions for the node's outputs in order. It may emit
helper bindings; the walk binds the result itself to a Var with the ONNX name.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, TypeAlias

import numpy as np
import tvm
from tvm import relax, te

from lowprec.errors import Unsupported
from lowprec.frontend.graph import Array, Attribute, Graph, Node, TensorSpec
from lowprec.passes.editing import OPERATOR

Expr: TypeAlias = relax.Expr
Result: TypeAlias = Expr | tuple[Expr | None, ...]
Shape = tuple[int, ...]


def describe(node: Node) -> str:
    """How errors name a node."""
    return f"{node.op} node {node.layer!r}"


def constant(array: Array | Sequence[Any] | float, dtype: str | None = None) -> Expr:
    """A Relax constant. The cast, if any, is the last step, so that constants are exact until then.

    Through a TVM tensor, because `relax.const` narrows 64-bit NumPy scalars.
    """
    return relax.const(tvm.runtime.tensor(np.require(np.asarray(array, dtype=dtype), requirements="C")))


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """The node, the model around it, and the builder of the module."""

    builder: relax.BlockBuilder
    node: Node
    graph: Graph
    values: Mapping[str, Expr]

    def refuse(self, why: str) -> NoReturn:
        raise Unsupported(f"{describe(self.node)}: {why}")

    # What goes in.

    def has(self, index: int) -> bool:
        return index < len(self.node.inputs) and self.node.inputs[index] != ""

    def input(self, index: int) -> Expr:
        return self.values[self.node.inputs[index]]

    def spec(self, index: int) -> TensorSpec:
        return self.graph.types[self.node.inputs[index]]

    def shape(self, index: int = 0) -> Shape:
        return self.spec(index).shape

    def dtype(self, index: int = 0) -> str:
        return self.spec(index).dtype

    def rank(self, index: int = 0) -> int:
        return len(self.shape(index))

    def known(self, index: int) -> Array | None:
        """The input's value where the front end has folded it to a constant."""
        return self.graph.constants.get(self.node.inputs[index]) if self.has(index) else None

    def constant(self, index: int, what: str) -> Array:
        value = self.known(index)
        if value is None:
            self.refuse(f"{what} {self.node.inputs[index]!r} is computed at run time; only a constant is supported")
        return value

    def scalar(self, index: int, what: str) -> Any:
        return self.constant(index, what).reshape(-1)[0].item()

    # What comes out.

    def wants(self, index: int) -> bool:
        return index < len(self.node.outputs) and self.node.outputs[index] != ""

    def out(self, index: int = 0) -> TensorSpec:
        return self.graph.types[self.node.outputs[index]]

    # Attributes.

    def attribute(self, name: str, default: Attribute | None = None) -> Any:
        return self.node.attributes.get(name, default)

    def integer(self, name: str, default: int) -> int:
        return int(self.attribute(name, default))

    def number(self, name: str, default: float) -> float:
        return float(self.attribute(name, default))

    def text(self, name: str, default: str) -> str:
        return str(self.attribute(name, default))

    def integers(self, name: str, default: Sequence[int]) -> Shape:
        return tuple(int(value) for value in self.attribute(name, tuple(default)))

    def axis(self, name: str, default: int, rank: int | None = None) -> int:
        """An axis attribute, counted from the front."""
        rank = self.rank() if rank is None else rank
        axis = self.integer(name, default)
        return axis + rank if axis < 0 else axis

    # Building.

    def emit(self, expression: Expr) -> Expr:
        return self.builder.emit(expression)

    def te(self, compute: Callable[..., te.Tensor], *arguments: Any, op: str | None = None, **parameters: Any) -> Expr:
        """A call of a PrimFunc of our own, not bound yet.

        `op` and the numbers beside it stay on the function, for passes that know a better one.
        """
        attributes = {OPERATOR: op, **parameters} if op else None
        return self.builder.call_te(
            compute, *arguments, primfunc_name_hint=(op or self.node.op).lower(), primfunc_attrs=attributes
        )


Converter = Callable[[Site], Result]
