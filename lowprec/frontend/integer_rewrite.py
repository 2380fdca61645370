"""A graph that is being written anew, and what of it is made of integers."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from lowprec.frontend.drafts import Draft
from lowprec.frontend.graph import Attribute, Node, TensorSpec
from lowprec.frontend.scopes import unused
from lowprec.frontend.uses import Uses, uses_of

BYTES = frozenset(("int8", "uint8"))
WORDS = BYTES | {"int16", "uint16"}
"""What a sum may be rounded to."""
VERSION = 21
"""Of the operators that are put in."""

Floats = NDArray[np.float32]
Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantized:
    """Integers, and what one of them stands for: (codes - zero) * scale."""

    codes: str
    scale: Floats
    zero: NDArray[np.int64]

    @property
    def parameters(self) -> tuple[bytes, ...]:
        return self.scale.tobytes(), self.zero.tobytes()


@dataclass(slots=True, kw_only=True)
class Rewrite(Draft):
    """A graph that is being written anew; who reads its values, and the nodes that made them."""

    uses: Uses = field(init=False)
    made: dict[str, Node] = field(init=False)

    def __post_init__(self) -> None:
        Draft.__post_init__(self)  # no super(): the class with slots is another one
        self.uses = uses_of(self.graph)
        self.made = {name: node for node in self.graph.nodes for name in node.outputs if name}

    def emit(
        self,
        op: str,
        inputs: tuple[str, ...],
        near: str,
        spec: tuple[str, tuple[int, ...]],
        *,
        layer: str,
        attributes: Mapping[str, Attribute] | None = None,
        exactly: bool = False,
    ) -> str:
        """A node whose result is named `near`, or something like it."""
        name = near if exactly else unused(near, self.types)
        self.types[name] = TensorSpec(name=name, dtype=spec[0], shape=spec[1])
        self.nodes.append(
            Node(op=op, inputs=inputs, outputs=(name,), layer=layer, version=VERSION, attributes=attributes or {})
        )
        return name

    def quantized(self, name: str, *, per_tensor: bool) -> Quantized | None:
        """What a name is made of, if it is dequantized bytes."""
        node = self.made.get(name)
        if node is None or node.op != "DequantizeLinear" or node.domain or node.attributes.get("block_size", 0):
            return None
        return self.parameters(node, node.inputs[0], per_tensor=per_tensor)

    def parameters(self, node: Node, codes: str, *, per_tensor: bool) -> Quantized | None:
        """The constant scale and zero point of a node's integers."""
        scale = self.constants.get(node.inputs[1])
        given = node.inputs[2] if len(node.inputs) > 2 else ""
        zero = self.constants.get(given) if given else np.zeros((), np.int64)
        if scale is None or zero is None or scale.dtype != np.float32 or (per_tensor and scale.size * zero.size != 1):
            return None
        return Quantized(codes=codes, scale=scale.astype(np.float32), zero=zero.astype(np.int64))
