"""One node under examination: its operands' types and constants by position."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NoReturn

from onnx import NodeProto

from lowprec.errors import InvalidModel
from lowprec.frontend.graph import Array, Attribute, TensorSpec
from lowprec.frontend.naming import label


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A node with what is known of its inputs; `refuse` names it."""

    node: NodeProto
    version: int
    attributes: Mapping[str, Attribute]
    types: Mapping[str, TensorSpec]
    constants: Mapping[str, Array]

    def refuse(self, text: str) -> NoReturn:
        raise InvalidModel(f"{label(self.node)}: {text}")

    def name(self, position: int) -> str:
        """The input's name, or "" when it is absent."""
        return self.node.input[position] if position < len(self.node.input) else ""

    def spec(self, position: int) -> TensorSpec | None:
        name = self.name(position)
        return self.types[name] if name else None

    def shape(self, position: int) -> tuple[int, ...]:
        """The shape of an input that must be there."""
        spec = self.spec(position)
        if spec is None:
            self.refuse(f"input {position} is missing")
        return spec.shape

    def constant(self, position: int) -> Array | None:
        name = self.name(position)
        return self.constants.get(name) if name else None

    def ints(self, name: str) -> tuple[int, ...] | None:
        """An attribute of integers; None when it is absent."""
        value = self.attributes.get(name)
        return tuple(int(item) for item in value) if isinstance(value, tuple) else None

    def int(self, name: str, default: int) -> int:
        value = self.attributes.get(name, default)
        return value if isinstance(value, int) else default
