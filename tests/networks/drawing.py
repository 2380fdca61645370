"""A random graph while it is drawn: ONNX Runtime runs every node as it is added, so that shapes and sizes are known.

What has no shape to suit it, or would leave the range in which comparing means something, is refused and drawn again.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from onnxruntime.capi import onnxruntime_pybind11_state as state

Array = NDArray[Any]
LARGEST = 30.0  # magnitude of any value
MOST = 12_000  # elements of any value
FAILURES = (state.Fail, state.InvalidArgument, state.InvalidGraph, state.NotImplemented, state.RuntimeException)
NAMES = (
    "{op}_{n}",
    "/block/{op}:{n}",
    "a b/{op} {n}",
    "x_{n}",
    "lv{n}",
    "main{n}",
    "unit{n}",
    "x" + "_1" * 3 + "{n}:0",
)


class Refused(ValueError):
    """This step does not suit the values drawn so far."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """A value of the graph, as it came out for the inputs it was drawn with."""

    name: str
    array: Array

    @property
    def shape(self) -> tuple[int, ...]:
        return self.array.shape

    @property
    def rank(self) -> int:
        return self.array.ndim

    @property
    def scale(self) -> float:
        """The root of the mean square, never 0."""
        return float(np.sqrt(np.mean(np.square(self.array, dtype=np.float64)))) + 1e-2


@dataclass(slots=True, kw_only=True)
class Drawing:
    """What has been drawn: `values` are float32, of at least one element; whatever is not listed is not drawn from."""

    rng: np.random.Generator
    opset: int
    inputs: list[Tensor] = field(default_factory=list)
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    weights: list[onnx.TensorProto] = field(default_factory=list)
    values: list[Tensor] = field(default_factory=list)
    names: set[str] = field(default_factory=set)

    def chance(self, probability: float) -> bool:
        return bool(self.rng.random() < probability)

    def one_of(self, *choices: Any) -> Any:
        return choices[int(self.rng.integers(len(choices)))]

    def between(self, least: int, most: int) -> int:
        return int(self.rng.integers(least, most + 1))

    def pick(self, suits: Callable[[Tensor], bool]) -> Tensor:
        """A value drawn so far: mostly a late one, at times any."""
        found = [value for value in self.values if suits(value)]
        if not found:
            raise Refused
        chosen: Tensor = self.one_of(*(found[-4:] if self.chance(0.6) else found))
        return chosen

    def image(self, *ranks: int) -> Tensor:
        return self.pick(lambda value: value.rank in (ranks or (3, 4, 5)))

    def name(self, op: str) -> str:
        """A name as some exporter would write it, and not taken."""
        name = str(self.one_of(*NAMES)).format(op=op, n=self.between(0, 9))
        while name in self.names:
            name += self.one_of("_1", ":0", "/", " ")
        self.names.add(name)
        return name

    def input(self, name: str, array: Array) -> Tensor:
        self.names.add(name)
        value = Tensor(name, array)
        self.inputs.append(value)
        if array.dtype == np.float32:
            self.values.append(value)
        return value

    def constant(self, array: object, dtype: type = np.float32) -> Tensor:
        values: Array = np.asarray(array, dtype=dtype)
        name = self.name("const")
        self.weights.append(numpy_helper.from_array(values, name))
        return Tensor(name, values)

    def normal(self, *shape: int, scale: float = 1.0, mean: float = 0.0) -> Tensor:
        return self.constant(mean + scale * self.rng.standard_normal(shape))

    def integers(self, *values: int) -> Tensor:
        return self.constant(np.array(values, np.int64), np.int64)

    def many(self, op: str, *inputs: Tensor | None, outputs: int = 1, **attributes: Any) -> list[Tensor]:
        """Add a node; what it gives is drawn from when it is made of floats."""
        read = [value.name if value else "" for value in inputs]
        names = [self.name(op) for _ in range(outputs)]
        node = helper.make_node(op, read, names, name=self.name(op), **attributes)
        arrays = run_node(node, [value for value in inputs if value], self.opset)
        if any(array.size > MOST or array.size == 0 for array in arrays) or not all(map(_calm, arrays)):
            raise Refused(op)
        self.nodes.append(node)
        made = [Tensor(name, array) for name, array in zip(names, arrays, strict=True)]
        self.values += [value for value in made if value.array.dtype == np.float32]
        return made

    def op(self, op: str, *inputs: Tensor | None, **attributes: Any) -> Tensor:
        return self.many(op, *inputs, **attributes)[0]

    def attempt(self, step: Callable[["Drawing"], object]) -> bool:
        """Take a step, or leave everything as it was."""
        before = len(self.nodes), len(self.weights), len(self.values)
        try:
            step(self)
        except Refused:
            del self.nodes[before[0] :], self.weights[before[1] :], self.values[before[2] :]
            return False
        return True

    def finish(self, outputs: list[Tensor]) -> onnx.ModelProto:
        used = {name for node in self.nodes for name in node.input}
        graph = helper.make_graph(
            self.nodes,
            "random",
            list(map(_declared, self.inputs)),
            list(map(_declared, outputs)),
            [weight for weight in self.weights if weight.name in used],
        )
        return _model(graph, self.opset)


def run_node(node: onnx.NodeProto, inputs: list[Tensor], opset: int) -> list[Array]:
    """One node's results; Refused where ONNX Runtime cannot."""
    given = {value.name: value.array for value in inputs}
    outputs = [helper.make_empty_tensor_value_info(name) for name in node.output]
    graph = helper.make_graph([node], "node", [], outputs, [numpy_helper.from_array(a, n) for n, a in given.items()])
    try:
        return list(session_of(_model(graph, opset)).run(None, {}))
    except FAILURES as error:
        raise Refused(str(error)) from error


def session_of(model: onnx.ModelProto) -> Any:
    """ONNX Runtime, unoptimized: its fusions are not to be what answers are compared with."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _model(graph: onnx.GraphProto, opset: int) -> onnx.ModelProto:
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def _declared(value: Tensor) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(value.name, helper.np_dtype_to_tensor_dtype(value.array.dtype), value.shape)


def _calm(array: Array) -> bool:
    return array.dtype != np.float32 or bool(np.isfinite(array).all() and np.abs(array).max() <= LARGEST)
