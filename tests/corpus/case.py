"""One malformed model: how to write it, and what refusing it must look like; and small sound models to spoil."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

OPSET = 17
Spoil = Callable[[ModelProto], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """`write` makes the file in a folder; `mentions` is what the message must name (a node, a tensor or the file)."""

    kind: str
    name: str
    write: Callable[[Path], Path]
    exit_code: int = 3
    mentions: str = ""

    def __str__(self) -> str:
        return f"{self.kind}: {self.name}"


def from_bytes(kind: str, name: str, data: bytes, *, exit_code: int = 3, mentions: str = "model.onnx") -> Case:
    """A case whose whole file is known."""

    def write(folder: Path) -> Path:
        path = folder / "model.onnx"
        path.write_bytes(data)
        return path

    return Case(kind=kind, name=name, write=write, exit_code=exit_code, mentions=mentions)


def from_model(kind: str, name: str, model: ModelProto, *, exit_code: int = 3, mentions: str = "") -> Case:
    """A case whose file is that message."""
    return from_bytes(kind, name, model.SerializeToString(), exit_code=exit_code, mentions=mentions)


def spoiled(kind: str, name: str, spoil: Spoil, *, exit_code: int = 3, mentions: str = "") -> Case:
    """The small network after one change."""
    model = network()
    spoil(model)
    return from_model(kind, name, model, exit_code=exit_code, mentions=mentions)


def tensor(name: str, array: Any) -> TensorProto:
    return numpy_helper.from_array(np.asarray(array), name)


def value(name: str, shape: Sequence[int | str | None] | None, dtype: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, dtype, shape)


def model_of(
    nodes: Sequence[NodeProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    constants: Sequence[TensorProto] = (),
    *,
    opset: int = OPSET,
    functions: Sequence[onnx.FunctionProto] = (),
    domains: Sequence[str] = (),
) -> ModelProto:
    """A model around a graph."""
    graph = helper.make_graph(nodes, "graph", inputs, outputs, constants)
    imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in domains)]
    return helper.make_model(graph, opset_imports=imports, functions=list(functions), ir_version=9)


def single(
    op: str,
    shapes: Sequence[Sequence[int]],
    constants: Sequence[tuple[str, Any]] = (),
    *,
    order: Sequence[str] | None = None,
    opset: int = OPSET,
    dtype: int = TensorProto.FLOAT,
    output: Sequence[int | None] | None = None,
    output_dtype: int | None = None,
    **attributes: Any,
) -> ModelProto:
    """One node, `spoiled`, that reads inputs x0, x1... and then the constants."""
    inputs = [value(f"x{index}", shape, dtype) for index, shape in enumerate(shapes)]
    stored = [tensor(name, array) for name, array in constants]
    names = list(order or [*(info.name for info in inputs), *(item.name for item in stored)])
    node = helper.make_node(op, names, ["y"], name="spoiled", **attributes)
    return model_of([node], inputs, [value("y", output, output_dtype or dtype)], stored, opset=opset)


def network(seed: int = 0) -> ModelProto:
    """Conv, batch norm, ReLU, pool, flatten, Gemm: sound, and small enough to spoil in every part."""
    draw = np.random.default_rng(seed)

    def random(*shape: int) -> np.ndarray[Any, np.dtype[np.float32]]:
        return draw.standard_normal(shape).astype(np.float32)

    constants = [
        tensor("weight", random(8, 3, 3, 3)),
        tensor("bias", random(8)),
        tensor("gamma", random(8)),
        tensor("beta", random(8)),
        tensor("mean", random(8)),
        tensor("variance", np.abs(random(8)) + 0.5),
        tensor("matrix", random(10, 128)),
        tensor("offset", random(10)),
    ]
    nodes = [
        helper.make_node("Conv", ["x", "weight", "bias"], ["conv"], pads=[1, 1, 1, 1], kernel_shape=[3, 3]),
        helper.make_node("BatchNormalization", ["conv", "gamma", "beta", "mean", "variance"], ["norm"]),
        helper.make_node("Relu", ["norm"], ["relu"]),
        helper.make_node("MaxPool", ["relu"], ["pool"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Flatten", ["pool"], ["flat"]),
        helper.make_node("Gemm", ["flat", "matrix", "offset"], ["y"], transB=1),
    ]
    return model_of(nodes, [value("x", [1, 3, 8, 8])], [value("y", [1, 10])], constants)


def node_of(model: ModelProto, output: str) -> NodeProto:
    """The node that makes a value."""
    found: NodeProto = next(node for node in model.graph.node if output in node.output)
    return found


def constant_of(graph: GraphProto, name: str) -> TensorProto:
    found: TensorProto = next(item for item in graph.initializer if item.name == name)
    return found


def with_attribute(output: str, name: str, content: Any) -> Spoil:
    """`set_attribute` as a change to make later."""
    return lambda model: set_attribute(model, output, name, content)


def with_constant(name: str, array: Any) -> Spoil:
    """`set_constant` as a change to make later."""
    return lambda model: set_constant(model, name, array)


def set_attribute(model: ModelProto, output: str, name: str, content: Any) -> None:
    """Gives a node's attribute another value."""
    node = node_of(model, output)
    kept = [attribute for attribute in node.attribute if attribute.name != name]
    del node.attribute[:]
    node.attribute.extend([*kept, helper.make_attribute(name, content)])


def set_constant(model: ModelProto, name: str, array: Any) -> None:
    """Gives an initializer another value."""
    constant_of(model.graph, name).CopyFrom(tensor(name, array))


def varint(number: int) -> bytes:
    out = bytearray()
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)
