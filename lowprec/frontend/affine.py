"""What a node does to each channel: y = scale * x + shift, in float64.

Batch normalization at inference (Ioffe and Szegedy 2015, section 3.1), and Mul, Add, Sub and Div by constants that are
one number, or one number per channel (axis 1).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lowprec.frontend.graph import Array, Graph, Node

Vector = NDArray[np.float64]
FLOATS = frozenset(("float16", "bfloat16", "float32", "float64"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Affine:
    """scale and shift of every channel; `data` is the operand's name."""

    data: str
    scale: Vector
    shift: Vector

    def after(self, first: "Affine") -> "Affine":
        """This one applied to the result of `first`, as one."""
        return Affine(data=first.data, scale=self.scale * first.scale, shift=self.scale * first.shift + self.shift)


def affine_of(node: Node, graph: Graph) -> Affine | None:
    """The node as scale and shift per channel, or None when it is no such thing."""
    if node.domain or not node.outputs[0] or any(node.outputs[1:]):
        return None
    spec = graph.types[node.outputs[0]]
    if spec.dtype not in FLOATS or len(spec.shape) < 2:
        return None
    if node.op == "BatchNormalization":
        return _batch_norm(node, graph)
    if node.op in ("Mul", "Add", "Sub", "Div") and node.version >= 7:
        return _arithmetic(node, graph)
    return None


def _batch_norm(node: Node, graph: Graph) -> Affine | None:
    if not is_inference(node) or any(name not in graph.constants for name in node.inputs[1:5]):
        return None
    gamma, beta, mean, variance = (_wide(graph.constants[name]) for name in node.inputs[1:5])
    if gamma.ndim != 1:
        return None
    epsilon = node.attributes.get("epsilon", 1e-5)
    if not isinstance(epsilon, float):
        return None
    with np.errstate(all="ignore"):
        scale = gamma / np.sqrt(variance + epsilon)
        affine = Affine(data=node.inputs[0], scale=scale, shift=beta - mean * scale)
    return affine if _finite(affine) else None


def is_inference(node: Node) -> bool:
    """Whether a BatchNormalization uses the stored statistics, per channel."""
    if node.version < 7:
        return bool(node.attributes.get("is_test", 0)) and node.attributes.get("spatial", 1) == 1
    return node.attributes.get("training_mode", 0) == 0 and node.attributes.get("spatial", 1) == 1


def _arithmetic(node: Node, graph: Graph) -> Affine | None:
    left, right = node.inputs
    if (left in graph.constants) == (right in graph.constants):
        return None
    reverse = left in graph.constants
    data, constant = (right, left) if reverse else (left, right)
    spec = graph.types[node.outputs[0]]
    value = per_channel(graph.constants[constant], spec.shape)
    if graph.types[data].shape != spec.shape or value is None:
        return None
    affine = _as_affine(node.op, data, value, reverse)
    return affine if affine is not None and _finite(affine) else None


def _as_affine(op: str, data: str, value: Vector, reverse: bool) -> Affine | None:
    one, zero = np.ones_like(value), np.zeros_like(value)
    match op, reverse:
        case "Mul", _:
            return Affine(data=data, scale=value, shift=zero)
        case "Add", _:
            return Affine(data=data, scale=one, shift=value)
        case "Sub", False:
            return Affine(data=data, scale=one, shift=-value)
        case "Sub", True:
            return Affine(data=data, scale=-one, shift=value)
        case "Div", False if value.all():
            return Affine(data=data, scale=one / value, shift=zero)
        case _:
            return None


def per_channel(constant: Array, shape: tuple[int, ...]) -> Vector | None:
    """The constant as one float64 per channel (axis 1 of `shape`), if it varies along no other axis."""
    if constant.size == 1:
        return np.full(shape[1], _wide(constant.reshape(())))
    padded = (1,) * (len(shape) - constant.ndim) + constant.shape
    if len(padded) != len(shape) or padded != tuple(n if axis == 1 else 1 for axis, n in enumerate(shape)):
        return None
    return _wide(constant.reshape(-1))


def _wide(array: Array) -> Vector:
    return np.ascontiguousarray(array).astype(np.float64)


def _finite(affine: Affine) -> bool:
    return bool(np.isfinite(affine.scale).all() and np.isfinite(affine.shift).all())


def narrowed(values: Mapping[str, Vector], dtype: np.dtype[np.generic]) -> dict[str, Array] | None:
    """Each array cast once to `dtype`; None when one of them overflows there."""
    with np.errstate(all="ignore"):
        cast: dict[str, Array] = {name: value.astype(dtype) for name, value in values.items()}
    return cast if all(np.isfinite(array.astype(np.float32)).all() for array in cast.values()) else None
