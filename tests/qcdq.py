"""Networks as Brevitas exports them: QuantizeLinear, a Clip where there are fewer than 8 bits, DequantizeLinear.

Weights are floats that the model quantizes itself, or integers; biases are int32 at the scale of the sums. Nothing is
quantized again behind what only moves values.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

SHAPE = (2, 3, 12, 14)
Float32 = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bits:
    """Of activations and weights; weights have a scale for each channel or one, and are `stored` as integers or not."""

    activations: int = 8
    weights: int = 8
    per_channel: bool = True
    stored: bool = False


@dataclass(slots=True, kw_only=True)
class Exported:
    """A model under way, whose weights are drawn."""

    bits: Bits
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: list[onnx.TensorProto] = field(default_factory=list)

    def constant(self, array: Any, dtype: Any = np.float32) -> str:
        name = f"constant{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(array, dtype), name))
        return name

    def op(self, op: str, *inputs: str, **attributes: Any) -> str:
        name = f"{op}{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [name], name=name, **attributes))
        return name

    def act(self, x: str, scale: float, *, signed: bool = True) -> str:
        """Quantized and dequantized activations."""
        bits, dtype = self.bits.activations, np.int8 if signed else np.uint8
        parameters = self.constant(scale), self.constant(0, dtype)
        codes = self.op("QuantizeLinear", x, *parameters)
        if bits < 8:
            low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)
            codes = self.op("Clip", codes, self.constant(low, dtype), self.constant(high, dtype))
        return self.op("DequantizeLinear", codes, *parameters)

    def weights(self, *shape: int) -> tuple[str, Float32]:
        """Dequantized weights of a narrow range, output channels first, and their scales."""
        values = self.rng.standard_normal(shape).astype(np.float32) / np.float32(np.prod(shape[1:]) ** 0.5)
        inner = tuple(range(1, len(shape))) if self.bits.per_channel else None
        most = (1 << self.bits.weights - 1) - 1
        scale = np.asarray(np.abs(values).max(inner) / np.float32(most), np.float32)
        axis = {"axis": 0} if self.bits.per_channel else {}
        parameters = self.constant(scale), self.constant(np.zeros(scale.shape), np.int8)
        if self.bits.stored:
            codes = self.constant(np.rint(values / scale.reshape(-1, *(1,) * (len(shape) - 1))), np.int8)
        else:
            codes = self.op("QuantizeLinear", self.constant(values), *parameters, **axis)
        codes = self.op("Clip", codes, self.constant(-most, np.int8), self.constant(most, np.int8))
        return self.op("DequantizeLinear", codes, *parameters, **axis), scale

    def layer(self, op: str, x: str, scale: float, shape: tuple[int, ...], **attributes: Any) -> str:
        """A product whose input has that scale, with its bias."""
        w, each = self.weights(*shape)
        units = np.asarray(np.float32(scale) * each, np.float32)
        codes = self.constant(np.rint(self.rng.standard_normal(shape[0]) / 5 / units), np.int32)
        axis = {"axis": 0} if units.ndim else {}
        zeros = self.constant(np.zeros(units.shape), np.int32)
        b = self.op("DequantizeLinear", codes, self.constant(units), zeros, **axis)
        return self.op(op, x, w, b, **attributes)

    def finish(self, y: str, shape: tuple[int, ...]) -> onnx.ModelProto:
        inputs, outputs = (
            [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, extents)]
            for name, extents in (("x", SHAPE), (y, shape))
        )
        graph = helper.make_graph(self.nodes, "exported", inputs, outputs, self.constants)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def exported(bits: Bits) -> onnx.ModelProto:
    """A plain layer, a depthwise one behind a pool, a residual, a classifier."""
    net = Exported(bits=bits)
    signed, unsigned = 3 / ((1 << bits.activations - 1) - 1), 3 / ((1 << bits.activations) - 1)
    x = net.act("x", signed)
    x = net.op("Relu", net.layer("Conv", x, signed, (8, 3, 3, 3), kernel_shape=[3, 3], pads=[1, 1, 1, 1]))
    pooled = net.op("MaxPool", net.act(x, unsigned, signed=False), kernel_shape=[2, 2], strides=[2, 2])
    taps = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "group": 8}
    y = net.act(net.layer("Conv", pooled, unsigned, (8, 1, 3, 3), **taps), signed)
    y = net.act(net.layer("Conv", y, signed, (12, 8, 1, 1), kernel_shape=[1, 1]), signed)
    beside = net.act(net.layer("Conv", pooled, unsigned, (12, 8, 1, 1), kernel_shape=[1, 1]), signed)
    y = net.act(net.op("Relu", net.op("Add", y, beside)), unsigned, signed=False)
    y = net.act(net.op("GlobalAveragePool", y), unsigned, signed=False)
    y = net.layer("Gemm", net.op("Flatten", y, axis=1), unsigned, (10, 12), alpha=1.0, beta=1.0, transB=1)
    return net.finish(y, (SHAPE[0], 10))
