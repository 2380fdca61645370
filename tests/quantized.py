"""Quantized networks made node by node, as our graph and as ONNX, and what ONNX Runtime makes of them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from lowprec.frontend.graph import Graph, Node, TensorSpec
from lowprec.quantized_reference import evaluate
from tests.graphs import to_model

Array = NDArray[Any]
OPSET = 21


@dataclass(slots=True, kw_only=True)
class Network:
    """A graph that grows, with the arrays it is to be fed with."""

    version: int = OPSET
    nodes: list[Node] = field(default_factory=list)
    inputs: list[str] = field(default_factory=list)
    feeds: dict[str, Array] = field(default_factory=dict)
    constants: dict[str, Array] = field(default_factory=dict)
    types: dict[str, TensorSpec] = field(default_factory=dict)

    def input(self, array: Array) -> str:
        name = self._typed("x", array.dtype.name, array.shape)
        self.inputs.append(name)
        self.feeds[name] = array
        return name

    def constant(self, value: Any, dtype: str | None = None) -> str:
        array = np.asarray(value, dtype)
        name = self._typed("c", array.dtype.name, array.shape)
        self.constants[name] = array
        return name

    def node(self, op: str, *inputs: str, shape: Sequence[int], dtype: str = "float32", **attributes: Any) -> str:
        """Its one output."""
        name = self._typed(op, dtype, tuple(shape))
        made = Node(
            op=op, inputs=inputs, outputs=(name,), layer=name, version=self.version, attributes=dict(attributes)
        )
        self.nodes.append(made)
        return name

    def output(self, name: str, dtype: str, shape: Sequence[int]) -> str:
        """One more output of the node made last."""
        self.types[name] = TensorSpec(name=name, dtype=dtype, shape=tuple(shape))
        self.nodes[-1] = replace(self.nodes[-1], outputs=(*self.nodes[-1].outputs, name))
        return name

    def quantize(self, x: str, scale: Any, zero: Any, dtype: str, **attributes: Any) -> str:
        parameters = self.constant(scale, "float32"), self.constant(zero, dtype)
        return self.node("QuantizeLinear", x, *parameters, shape=self.types[x].shape, dtype=dtype, **attributes)

    def dequantize(self, codes: str, scale: Any, zero: Any = 0, **attributes: Any) -> str:
        spec = self.types[codes]
        parameters = self.constant(scale, "float32"), self.constant(zero, spec.dtype)
        return self.node("DequantizeLinear", codes, *parameters, shape=spec.shape, **attributes)

    def graph(self, *outputs: str) -> Graph:
        return Graph(
            name="network",
            inputs=tuple(self.types[name] for name in self.inputs),
            outputs=tuple(self.types[name] for name in outputs),
            nodes=tuple(self.nodes),
            constants=self.constants,
            types=self.types,
        )

    def evaluated(self, *outputs: str, wanted: Sequence[str] = ()) -> list[Array]:
        """What the oracle says."""
        return list(evaluate(self.graph(*outputs), self.feeds, wanted=wanted).values())

    def model(self, *outputs: str) -> onnx.ModelProto:
        return to_model(self.graph(*outputs), self.version)

    def by_onnxruntime(self, *outputs: str) -> list[Array]:
        return run_onnxruntime(self.model(*outputs), self.feeds)

    def _typed(self, kind: str, dtype: str, shape: tuple[int, ...]) -> str:
        name = f"{kind}{len(self.types)}"
        self.types[name] = TensorSpec(name=name, dtype=dtype, shape=shape)
        return name


def run_onnxruntime(model: onnx.ModelProto, feeds: dict[str, Array], saved: str = "") -> list[Array]:
    """With all optimizations: operators between DequantizeLinear and QuantizeLinear become operators on integers."""
    runtime = pytest.importorskip("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.qdqisint8allowed", "1")
    if saved:
        options.optimized_model_filepath = saved
    session = runtime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return list(session.run(None, feeds))


def fp32(x: Fraction | float) -> Fraction:
    """The float32 nearest to a number, ties to even: Python rounds fractions so."""
    exact = Fraction(x)
    if not exact:
        return exact
    exponent = math.frexp(float(abs(exact)))[1]
    step = Fraction(2) ** max(exponent - 24, -149)
    return round(exact / step) * step


def limits(dtype: str) -> tuple[int, int]:
    info = np.iinfo(dtype)
    return int(info.min), int(info.max)
