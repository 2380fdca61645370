"""Building ONNX networks op by op, with weights that keep every activation near 1.

Each value carries an estimate of its elements' mean and variance. A convolution's or product's weights are drawn with
variance 1 / (fan-in x mean square of the input), so its output is near N(0, 1) whatever came before; activations, sums
and products move the estimate. Without that, thirty random layers end in zeros or infinities, and comparing them proves
nothing.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

Float64 = NDArray[np.float64]

ACTIVATIONS: dict[str, Callable[[Float64], Float64]] = {
    "Relu": lambda x: np.maximum(x, 0),
    "Clip": lambda x: np.clip(x, 0, 6),
    "LeakyRelu": lambda x: np.where(x > 0, x, 0.1 * x),
    "PRelu": lambda x: np.where(x > 0, x, 0.2 * x),
    "Sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "HardSigmoid": lambda x: np.clip(x / 6 + 0.5, 0, 1),
    "HardSwish": lambda x: x * np.clip(x / 6 + 0.5, 0, 1),
    "Tanh": np.tanh,
    "Gelu": lambda x: x / (1 + np.exp(-1.702 * x)),
    "Silu": lambda x: x / (1 + np.exp(-x)),
}
"""What the activations do to a normal variable, for the estimates alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How large to build: `width` scales channels, `depth` scales repeats; both 1 as published."""

    batch: int = 1
    image: int = 224
    width: float = 1.0
    depth: float = 1.0

    def channels(self, published: int, *, multiple: int = 1) -> int:
        return max(2, round(published * self.width / multiple)) * multiple

    def repeats(self, published: int) -> int:
        return max(1, round(published * self.depth))


@dataclass(frozen=True, slots=True, kw_only=True)
class Value:
    """A tensor of the network being built."""

    name: str
    shape: tuple[int, ...]
    mean: float = 0.0
    variance: float = 1.0

    @property
    def channels(self) -> int:
        return self.shape[1]

    @property
    def square(self) -> float:
        return self.mean**2 + self.variance

    def through(self, activation: str) -> "Value":
        """With the moments of f(x), x normal, by Gauss-Hermite quadrature."""
        nodes, weights = np.polynomial.hermite_e.hermegauss(40)
        weights = weights / weights.sum()
        values = ACTIVATIONS[activation](self.mean + math.sqrt(self.variance) * nodes)
        mean = float(weights @ values)
        return replace(self, mean=mean, variance=float(weights @ (values - mean) ** 2))


@dataclass(slots=True, kw_only=True)
class Builder:
    """Collects nodes and weights; every method returns the value it made."""

    name: str
    seed: int = 0
    opset: int = 17
    inputs: list[Value] = field(default_factory=list)
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    weights: dict[str, onnx.TensorProto] = field(default_factory=dict)
    rng: np.random.Generator = field(init=False)

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)

    def input(self, *shape: int, name: str = "input") -> Value:
        value = Value(name=name, shape=shape)
        self.inputs.append(value)
        return value

    def constant(self, array: object, dtype: type = np.float32) -> Value:
        values: NDArray[Any] = np.asarray(array, dtype=dtype)
        name = f"const_{len(self.weights)}"
        self.weights[name] = numpy_helper.from_array(values, name)
        return Value(name=name, shape=values.shape, mean=float(values.mean()), variance=float(values.var()))

    def integers(self, *values: int) -> Value:
        return self.constant(values, np.int64)

    def normal(self, *shape: int, scale: float = 1.0, mean: float = 0.0) -> Value:
        return self.constant(mean + scale * self.rng.standard_normal(shape, dtype=np.float32))

    def many(self, op: str, *inputs: Value | None, outputs: int, **attributes: Any) -> tuple[Value, ...]:
        """Any operator; shapes by onnx's own inference."""
        names = [f"{op.lower()}_{len(self.nodes)}" + (f"_{k}" if outputs > 1 else "") for k in range(outputs)]
        read = [value.name if value else "" for value in inputs]
        node = helper.make_node(op, read, names, name=names[0], **attributes)
        present = [value for value in inputs if value]
        types = {value.name: _type(value, self.weights) for value in present}
        data = {value.name: self.weights[value.name] for value in present if value.name in self.weights}
        inferred = onnx.shape_inference.infer_node_outputs(
            onnx.defs.get_schema(op, self.opset), node, types, data, opset_imports=[helper.make_opsetid("", self.opset)]
        )
        self.nodes.append(node)
        estimate = _estimate(op, present)
        return tuple(replace(estimate, name=name, shape=_shape(inferred[name])) for name in names)

    def op(self, op: str, *inputs: Value | None, **attributes: Any) -> Value:
        (value,) = self.many(op, *inputs, outputs=1, **attributes)
        return value

    def unit(self, op: str, *inputs: Value | None, **attributes: Any) -> Value:
        """An operator whose result is near N(0, 1): a normalization, or a product with weights drawn for it."""
        return replace(self.op(op, *inputs, **attributes), mean=0.0, variance=1.0)

    def conv(
        self,
        x: Value,
        channels: int,
        kernel: int | Sequence[int],
        *,
        stride: int = 1,
        dilation: int = 1,
        groups: int = 1,
        pad: int | None = None,
        bias: bool = True,
        norm: bool = False,
        act: str = "",
    ) -> Value:
        """A convolution, then batch norm, then an activation; padding keeps the size at stride 1 unless given."""
        assert x.channels % groups == 0, (x.shape, groups)
        assert channels % groups == 0, (channels, groups)
        rank = len(x.shape) - 2
        extents = [kernel] * rank if isinstance(kernel, int) else list(kernel)
        pads = [dilation * (extent - 1) // 2 if pad is None else pad for extent in extents]
        fan_in = x.channels // groups * math.prod(extents)
        weight = self.normal(channels, x.channels // groups, *extents, scale=1 / math.sqrt(fan_in * x.square))
        offset = self.normal(channels, scale=0.1) if bias and not norm else None
        y = self.unit(
            "Conv",
            x,
            weight,
            *([offset] if offset else []),
            kernel_shape=extents,
            strides=[stride] * rank,
            dilations=[dilation] * rank,
            pads=pads + pads,
            group=groups,
        )
        return self.act(self.norm(y) if norm else y, act)

    def upconv(self, x: Value, channels: int, kernel: int, *, stride: int = 2, pad: int = 0, extra: int = 0) -> Value:
        """A transposed convolution; each output sees kernel^rank / stride^rank taps."""
        rank = len(x.shape) - 2
        taps = x.channels * (kernel / stride) ** rank
        weight = self.normal(x.channels, channels, *[kernel] * rank, scale=1 / math.sqrt(taps * x.square))
        return self.unit(
            "ConvTranspose",
            x,
            weight,
            self.normal(channels, scale=0.1),
            kernel_shape=[kernel] * rank,
            strides=[stride] * rank,
            pads=[pad] * (2 * rank),
            output_padding=[extra] * rank,
        )

    def norm(self, x: Value) -> Value:
        """Batch normalization whose statistics are near, and not exactly, those of its input."""
        scale = self.constant(self.rng.uniform(0.8, 1.2, x.channels))
        variance = self.constant(x.variance * self.rng.uniform(0.8, 1.25, x.channels))
        offset, mean = self.normal(x.channels, scale=0.1), self.normal(x.channels, scale=0.1, mean=x.mean)
        return self.unit("BatchNormalization", x, scale, offset, mean, variance)

    def act(self, x: Value, kind: str) -> Value:
        """An activation as exporters write it."""
        match kind:
            case "":
                return x
            case "relu6":
                return self.op("Clip", x, self.constant(0.0), self.constant(6.0))
            case "silu":
                return _as(self.op("Mul", x, self.op("Sigmoid", x)), x.through("Silu"))
            case "hardswish-parts":
                gate = self.op("HardSigmoid", x, alpha=1 / 6, beta=0.5)
                return _as(self.op("Mul", x, gate), x.through("HardSwish"))
            case "gelu-erf":
                half = self.op("Erf", self.op("Div", x, self.constant(math.sqrt(2))))
                shifted = self.op("Mul", x, self.op("Add", half, self.constant(1.0)))
                return _as(self.op("Mul", shifted, self.constant(0.5)), x.through("Gelu"))
            case "prelu":
                slope = self.constant(self.rng.uniform(0.1, 0.3, (x.channels,) + (1,) * (len(x.shape) - 2)))
                return self.op("PRelu", x, slope)
            case "LeakyRelu":
                return self.op(kind, x, alpha=0.1)
            case _:
                return self.op(kind, x)

    def add(self, *terms: Value) -> Value:
        return self.op("Add" if len(terms) == 2 else "Sum", *terms)

    def concat(self, *parts: Value, axis: int = 1) -> Value:
        return self.op("Concat", *parts, axis=axis)

    def pool(self, kind: str, x: Value, kernel: int, *, stride: int = 1, pad: int = 0, **attributes: Any) -> Value:
        rank = len(x.shape) - 2
        window: dict[str, Any] = {
            "kernel_shape": [kernel] * rank,
            "strides": [stride] * rank,
            "pads": [pad] * (2 * rank),
        }
        return self.op(kind, x, **window, **attributes)

    def dense(self, x: Value, width: int, *, bias: bool = True) -> Value:
        """A product over the last axis, as MatMul and Add."""
        depth = x.shape[-1]
        weight = self.normal(depth, width, scale=1 / math.sqrt(depth * x.square))
        y = self.unit("MatMul", x, weight)
        return self.op("Add", y, self.normal(width, scale=0.1)) if bias else y

    def signs(self, x: Value) -> Value:
        """-1 and +1, which zero becomes."""
        condition, result = f"greaterorequal_{len(self.nodes)}", f"where_{len(self.nodes) + 1}"
        zero, one, other = (self.constant(number).name for number in (0.0, 1.0, -1.0))
        self.nodes += [
            helper.make_node("GreaterOrEqual", [x.name, zero], [condition], name=condition),
            helper.make_node("Where", [condition, one, other], [result], name=result),
        ]
        return Value(name=result, shape=x.shape)

    def gemm(self, x: Value, width: int) -> Value:
        depth = x.shape[-1]
        weight = self.normal(width, depth, scale=1 / math.sqrt(depth * x.square))
        return self.unit("Gemm", x, weight, self.normal(width, scale=0.1), transB=1)

    def classify(self, x: Value, classes: int, *, softmax: bool = False) -> Value:
        """Global pooling, a linear layer, and perhaps the softmax."""
        pooled = self.op("GlobalAveragePool", x)
        scores = self.gemm(self.op("Flatten", pooled, axis=1), classes)
        return self.op("Softmax", scores, axis=1) if softmax else scores

    def finish(self, *outputs: Value) -> onnx.ModelProto:
        graph = helper.make_graph(
            self.nodes,
            self.name,
            [helper.make_tensor_value_info(x.name, TensorProto.FLOAT, x.shape) for x in self.inputs],
            [helper.make_tensor_value_info(y.name, TensorProto.FLOAT, y.shape) for y in outputs],
            list(self.weights.values()),
        )
        imports = [helper.make_opsetid("", self.opset)]
        model = helper.make_model(graph, opset_imports=imports, ir_version=helper.find_min_ir_version_for(imports))
        onnx.checker.check_model(model)
        return model


def _estimate(op: str, inputs: Sequence[Value]) -> Value:
    """The moments of an operator's result, inputs taken as independent."""
    first = inputs[0]
    if op in ACTIVATIONS:
        return first.through(op)
    match op:
        case "Add" | "Sum":
            return replace(first, mean=sum(x.mean for x in inputs), variance=sum(x.variance for x in inputs))
        case "Mul":
            mean = math.prod(x.mean for x in inputs)
            return replace(first, mean=mean, variance=math.prod(x.square for x in inputs) - mean**2)
        case "Concat":
            mean = float(np.mean([x.mean for x in inputs]))
            return replace(first, mean=mean, variance=float(np.mean([x.square for x in inputs])) - mean**2)
        case "MaxPool":  # the largest of nine neighbours, which are alike
            return replace(first, mean=first.mean + math.sqrt(first.variance), variance=first.variance / 2)
        case "GlobalAveragePool":  # channels keep different means
            return replace(first, variance=first.variance / 2)
        case _:
            return first


def _as(value: Value, moments: Value) -> Value:
    return replace(value, mean=moments.mean, variance=moments.variance)


def _type(value: Value, weights: dict[str, onnx.TensorProto]) -> onnx.TypeProto:
    stored = weights.get(value.name)
    return helper.make_tensor_type_proto(stored.data_type if stored else TensorProto.FLOAT, value.shape)


def _shape(inferred: onnx.TypeProto) -> tuple[int, ...]:
    return tuple(extent.dim_value for extent in inferred.tensor_type.shape.dim)
