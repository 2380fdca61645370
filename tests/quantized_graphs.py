"""Random small networks of QuantizeLinear and DequantizeLinear nodes: seed in, network out.

Each is evaluated while it is drawn, so that every scale suits what it meets. They hold what hand-written tests forget:
one tensor read by everything, layers of one channel and of seventeen, zero points at the ends of their range, borders
on which two readers disagree, integers and floats given back from the middle.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from lowprec.frontend.tensors import element_type
from tests.quantized import OPSET, Array, Network, limits

SIZES = {1: ((9,), (1,)), 2: ((5, 7), (8, 8), (1, 6), (6, 1), (1, 1)), 3: ((3, 4, 5), (2, 1, 3))}
CHANNELS = (1, 2, 3, 4, 5, 8, 12, 16, 17, 20, 34)
BYTES = ("uint8", "int8")
MOST = 8000
"""Elements of a tensor."""


class Refused(ValueError):
    """A step that does not suit what is drawn so far."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rounded:
    """A tensor of integers, and what they stand for."""

    codes: str
    scale: np.float32
    zero: int


@dataclass(slots=True, kw_only=True)
class Drawing:
    """What is drawn so far: tensors of integers, and floats that nobody rounded yet."""

    rng: np.random.Generator
    net: Network = field(default_factory=Network)
    rounded: list[Rounded] = field(default_factory=list)
    floats: list[str] = field(default_factory=list)
    values: dict[str, Array] = field(default_factory=dict)

    def chance(self, probability: float) -> bool:
        return bool(self.rng.random() < probability)

    def one_of(self, *choices: Any) -> Any:
        return choices[int(self.rng.integers(len(choices)))]

    def between(self, least: int, most: int) -> int:
        return int(self.rng.integers(least, most + 1))

    def shape(self, name: str) -> tuple[int, ...]:
        return self.net.types[name].shape

    def integers(self, dtype: str, *shape: int) -> Array:
        low, high = limits(dtype)
        return self.rng.integers(low, high, shape, dtype, endpoint=True)

    def zero(self, dtype: str) -> int:
        low, high = limits(dtype)
        return int(self.one_of(low, high, 0, 3, 0 if dtype == "int8" else 128, self.between(low, high)))

    def input(self, *shape: int) -> None:
        """Integers, or floats that are rounded at once."""
        dtype = self.one_of(*BYTES)
        if self.chance(0.5):
            self.quantize(self.net.input(self.rng.standard_normal(shape).astype(np.float32)))
            return
        name = self.net.input(self.integers(dtype, *shape))
        self.rounded.append(Rounded(codes=name, scale=np.float32(self.rng.uniform(0.005, 0.02)), zero=self.zero(dtype)))

    def pick(self, suits: Callable[[tuple[int, ...]], bool]) -> Rounded:
        """Integers drawn so far: mostly late ones, at times any."""
        found = [each for each in self.rounded if suits(self.shape(each.codes))]
        if not found:
            raise Refused
        chosen: Rounded = self.one_of(*(found[-3:] if self.chance(0.6) else found))
        return chosen

    def image(self) -> Rounded:
        return self.pick(lambda shape: len(shape) > 2)

    def real(self, each: Rounded) -> str:
        """Dequantized, by a node of its own or by one that others read too."""
        known = [node.outputs[0] for node in self.net.nodes if node.op == "DequantizeLinear"]
        same = [name for name in known if self._reads(name, each.codes)]
        return same[0] if same and self.chance(0.5) else self.net.dequantize(each.codes, each.scale, each.zero)

    def quantize(self, name: str, like: Rounded | None = None) -> Rounded:
        """Integers of a float, at a scale that suits it, or at that of another."""
        dtype = self.net.types[like.codes].dtype if like else self.one_of(*BYTES)
        spread = float(np.abs(self.value(name)).max(initial=0)) or 1.0
        if not np.isfinite(spread):
            raise Refused
        scale = like.scale if like else np.float32(spread / self.one_of(40, 110, 200))
        zero = like.zero if like else self.zero(dtype)
        made = Rounded(codes=self.net.quantize(name, scale, zero, dtype), scale=scale, zero=zero)
        self.rounded.append(made)
        return made

    def value(self, name: str) -> Array:
        """What the oracle makes of a tensor."""
        if name not in self.values:
            self.values[name] = self.net.evaluated(name)[0]
        return self.values[name]

    def op(self, op: str, *inputs: str, **attributes: Any) -> str:
        """A node whose shape onnx infers; Refused where it is too large or empty."""
        attributes = {name: tuple(value) if isinstance(value, list) else value for name, value in attributes.items()}
        shape, dtype = inferred(self.net, op, inputs, attributes)
        if not 0 < np.prod(shape) <= MOST:
            raise Refused
        return self.net.node(op, *inputs, shape=shape, dtype=dtype, **attributes)

    def attempt(self, step: Callable[["Drawing"], object]) -> bool:
        """Take a step, or leave everything as it was."""
        before = len(self.net.nodes), len(self.rounded), len(self.floats)
        try:
            step(self)
        except Refused:
            del self.net.nodes[before[0] :], self.rounded[before[1] :], self.floats[before[2] :]
            return False
        return True

    def _reads(self, name: str, codes: str) -> bool:
        return any(name in node.outputs and node.inputs[0] == codes for node in self.net.nodes)


def inferred(net: Network, op: str, inputs: tuple[str, ...], attributes: dict[str, Any]) -> tuple[tuple[int, ...], str]:
    """The shape and type of a node's first output."""
    node = helper.make_node(op, inputs, ["y"], **attributes)
    types = {name: net.types[name] for name in inputs if name}
    protos = {n: helper.make_tensor_type_proto(element_type(t.dtype), t.shape) for n, t in types.items()}
    known = {name: numpy_helper.from_array(net.constants[name], name) for name in inputs if name in net.constants}
    schema = onnx.defs.get_schema(op, OPSET)
    try:
        found = onnx.shape_inference.infer_node_outputs(
            schema, node, protos, known, opset_imports=[helper.make_opsetid("", OPSET)]
        )["y"].tensor_type
    except onnx.shape_inference.InferenceError as error:
        raise Refused(str(error)) from error
    shape = tuple(dim.dim_value for dim in found.shape.dim)
    return shape, helper.tensor_dtype_to_np_dtype(found.elem_type).name


def leave(draw: Drawing, name: str) -> None:
    """What becomes of a float: mostly it is rectified or not, and rounded; at times others read it as it is."""
    if draw.chance(0.4):
        name = draw.op("Relu", name)
    if draw.chance(0.15):
        draw.floats.append(name)
    if draw.chance(0.9):
        draw.quantize(name)
    else:
        draw.floats.append(name)


def window(draw: Drawing, sizes: tuple[int, ...], *, dilated: bool = True) -> dict[str, Any]:
    """Kernel, strides, dilations and uneven pads that fit."""
    kernel = [draw.one_of(1, 1, 2, 3, 3, 4) for _ in sizes]
    dilation = [draw.one_of(1, 1, 1, 2) if dilated else 1 for _ in sizes]
    pads = [draw.between(0, k - 1) for k in kernel * 2]
    reach = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
    if any(n + pads[i] + pads[i + len(sizes)] < reach[i] for i, n in enumerate(sizes)):
        raise Refused
    found = {"kernel_shape": kernel, "strides": [draw.one_of(1, 1, 2, 3) for _ in sizes], "pads": pads}
    return found | ({"dilations": dilation} if dilated else {})


def weights(draw: Drawing, x: Rounded, shape: tuple[int, ...], axis: int, depth: int) -> tuple[str, Array]:
    """Dequantized weights, and the scale of each output channel's sums."""
    dtype = draw.one_of("int8", "int8", "uint8")
    codes = draw.net.constant(draw.integers(dtype, *shape))
    each = draw.chance(0.5) and shape[axis] > 1
    sw = draw.rng.uniform(0.3, 1, shape[axis] if each else 1).astype(np.float32) / np.float32(90 * depth**0.5)
    zero = np.full(sw.shape, draw.zero(dtype) if dtype == "uint8" or draw.chance(0.2) else 0, dtype)
    w = draw.net.dequantize(codes, sw if each else sw[0], zero if each else zero[0], axis=axis)
    return w, np.multiply(x.scale, np.broadcast_to(sw, shape[axis]), dtype=np.float32)


def bias(draw: Drawing, scale: Array) -> list[str]:
    """None, integers in units of the sums, or floats."""
    kind = draw.one_of("none", "integers", "integers", "integers", "floats", "other units")
    if kind == "none":
        return []
    if kind == "floats":
        return [draw.net.constant(draw.rng.standard_normal(scale.size).astype(np.float32))]
    if kind == "other units":
        scale = scale * np.float32(1.5)
    codes = draw.net.constant(draw.rng.integers(-3000, 3000, scale.size, "int32"))
    one = bool((scale == scale[0]).all())
    return [
        draw.net.dequantize(codes, scale[0] if one else scale, 0 if one else np.zeros(scale.size, np.int32), axis=0)
    ]


def conv(draw: Drawing, x: Rounded | None = None, channels: int = 0, *, same: bool = False) -> str:
    """Of integers: plain, grouped or depthwise. The float result."""
    x = x or draw.image()
    _, inside, *sizes = draw.shape(x.codes)
    groups = 1 if channels else draw.one_of(1, 1, 1, inside, *(g for g in (2, 3, 4, 5, 17) if inside % g == 0))
    outside = channels or (inside * draw.between(1, 2) if groups == inside else draw.one_of(*CHANNELS))
    groups = groups if outside % groups == 0 else 1
    taps = window(draw, tuple(sizes))
    if same:
        kernel = [draw.one_of(1, 3) for _ in sizes]
        taps = {"kernel_shape": kernel, "pads": [k // 2 for k in kernel * 2]}
    shape = (outside, inside // groups, *taps["kernel_shape"])
    w, scale = weights(draw, x, shape, 0, int(np.prod(shape[1:])))
    return draw.op("Conv", draw.real(x), w, *bias(draw, scale), group=groups, **taps)


def layer(draw: Drawing) -> None:
    leave(draw, conv(draw))


def residual(draw: Drawing) -> None:
    """A convolution, and what it read added to it: before rounding, or after."""
    x = draw.image()
    y = conv(draw, x, draw.shape(x.codes)[1], same=True)
    y = y if draw.chance(0.5) else draw.real(draw.quantize(y))
    leave(draw, draw.op("Add", *draw.one_of((y, draw.real(x)), (draw.real(x), y))))


def combine(draw: Drawing) -> None:
    """Two tensors of one shape, or one with itself."""
    x = draw.pick(lambda shape: len(shape) > 0)
    y = draw.pick(lambda shape: shape == draw.shape(x.codes))
    leave(draw, draw.op(draw.one_of("Add", "Add", "Mul", "Sub"), draw.real(x), draw.real(y)))


def arithmetic(draw: Drawing) -> None:
    """A product, behind which something is added: two roundings."""
    x = draw.pick(lambda shape: len(shape) > 0)
    y, z = (draw.pick(lambda shape: shape == draw.shape(x.codes)) for _ in range(2))
    first = conv(draw, x, draw.shape(x.codes)[1], same=True) if len(draw.shape(x.codes)) > 2 else draw.real(x)
    scaled = draw.op("Mul", first, draw.real(y) if draw.chance(0.7) else draw.net.constant(np.float32(0.7)))
    leave(draw, draw.op(draw.one_of("Add", "Sub"), scaled, draw.real(z)))


def concat(draw: Drawing) -> None:
    """Tensors that differ along one axis at most, of one scale or of several; at times made by layers for it."""
    x = draw.pick(lambda shape: len(shape) > 1)
    shape = draw.shape(x.codes)
    axis = 1 if draw.chance(0.7) else draw.between(0, len(shape) - 1)
    parts = [x]
    for _ in range(draw.between(1, 2)):
        if len(shape) > 2 and axis == 1 and draw.chance(0.6):
            made = conv(draw, x, draw.one_of(*CHANNELS), same=True)
            parts.append(draw.quantize(made, like=x if draw.chance(0.7) else None))
        else:
            parts.append(
                draw.pick(
                    lambda other: (
                        len(other) == len(shape)
                        and other[:axis] == shape[:axis]
                        and other[axis + 1 :] == shape[axis + 1 :]
                    )
                )
            )
    y = draw.op("Concat", *map(draw.real, parts), axis=axis)
    draw.quantize(y, like=x if draw.chance(0.7) else None)


def pooled(draw: Drawing, op: str, x: Rounded, taps: dict[str, Any]) -> str:
    """A pool, at times with windows that reach beyond the padding, but never with one that begins there."""
    y = draw.op(op, draw.real(x), ceil_mode=draw.one_of(0, 0, 1), **taps)
    axes = zip(draw.shape(x.codes)[2:], draw.shape(y)[2:], taps["strides"], taps["pads"], strict=False)
    if any((count - 1) * stride >= extent + begin for extent, count, stride, begin in axes):
        raise Refused
    return y


def max_pool(draw: Drawing) -> None:
    x = draw.image()
    y = pooled(draw, "MaxPool", x, window(draw, draw.shape(x.codes)[2:]))
    draw.quantize(y, like=x if draw.chance(0.7) else None)


def average(draw: Drawing) -> None:
    """Of integers, to integers: a sum in floats has no one answer."""
    x = draw.image()
    if draw.chance(0.4):
        draw.quantize(draw.op("GlobalAveragePool", draw.real(x)))
        return
    taps = window(draw, draw.shape(x.codes)[2:], dilated=draw.chance(0.2))
    y = pooled(draw, "AveragePool", x, taps | {"count_include_pad": draw.one_of(0, 1)})
    draw.quantize(y)


def product(draw: Drawing) -> None:
    """Gemm or MatMul over the last axis, or over a flattened image."""
    x = draw.pick(lambda shape: len(shape) >= 1)
    if len(draw.shape(x.codes)) > 2 and draw.chance(0.7):
        flat = draw.op("Flatten", draw.real(x))
        x = draw.quantize(flat, like=x)
    depth, columns = draw.shape(x.codes)[-1], draw.one_of(*CHANNELS)
    if len(draw.shape(x.codes)) == 2 and draw.chance(0.6):
        turned = draw.one_of(0, 1)
        w, scale = weights(draw, x, (columns, depth) if turned else (depth, columns), 1 - turned, depth)
        leave(draw, draw.op("Gemm", draw.real(x), w, *bias(draw, scale), transB=turned))
        return
    w, _ = weights(draw, x, (depth, columns), 1, depth)
    leave(draw, draw.op("MatMul", draw.real(x), w))


def move(draw: Drawing) -> None:
    """Transpose, Reshape or Slice: of integers, or between a DequantizeLinear and a QuantizeLinear."""
    x = draw.pick(lambda shape: len(shape) > 1)
    shape = draw.shape(x.codes)
    match draw.one_of("Transpose", "Reshape", "Slice"):
        case "Transpose":
            y = draw.op("Transpose", draw.real(x), perm=[int(axis) for axis in draw.rng.permutation(len(shape))])
        case "Reshape":
            target = (shape[0], shape[1] * shape[2], *shape[3:]) if len(shape) > 3 else (shape[1], shape[0], *shape[2:])
            y = draw.op("Reshape", draw.real(x), draw.net.constant(target, "int64"))
        case _:
            axis = draw.between(0, len(shape) - 1)
            begin = draw.between(0, shape[axis] - 1)
            bounds = ([begin], [draw.between(begin + 1, shape[axis])], [axis])
            y = draw.op("Slice", draw.real(x), *(draw.net.constant(bound, "int64") for bound in bounds))
    draw.quantize(y, like=x if draw.chance(0.7) else None)


def again(draw: Drawing) -> None:
    """Rounded a second time, to another scale."""
    draw.quantize(draw.real(draw.pick(lambda shape: True)))


def float_reader(draw: Drawing) -> None:
    """A float that was left is rounded later, next to whoever reads it otherwise."""
    if not draw.floats:
        raise Refused
    draw.quantize(draw.one_of(*draw.floats))


Step = Callable[[Drawing], None]
# fmt: off
STEPS: tuple[Step, ...] = (
    *(3 * (layer,)), residual, residual, combine, arithmetic, concat, concat, max_pool, average, product, move, again,
    float_reader,
)
# fmt: on


def quantized_graph(seed: int, steps: tuple[Step, ...] = STEPS) -> tuple[Network, list[str]]:
    """A network, and the names of its outputs."""
    draw = Drawing(rng=np.random.default_rng(seed))
    rank = draw.one_of(1, 2, 2, 2, 2, 3)
    for _ in range(draw.one_of(1, 1, 2)):
        draw.input(draw.one_of(1, 1, 2), draw.one_of(*CHANNELS), *draw.one_of(*SIZES[rank]))
    taken, wanted = 0, draw.between(2, 8)
    for _ in range(10 * wanted):
        taken += draw.attempt(draw.one_of(*steps))
        if taken == wanted:
            break
    return draw.net, _outputs(draw)


def _outputs(draw: Drawing) -> list[str]:
    """Ends, and at times something from the middle."""
    read = {name for node in draw.net.nodes for name in node.inputs}
    made = [node.outputs[0] for node in draw.net.nodes]
    ends = [name for name in made if name not in read]
    inner = [each.codes for each in draw.rounded if each.codes in made] + draw.floats
    return list(dict.fromkeys([*ends[-5:], *(draw.one_of(*inner) for _ in range(draw.between(0, 2)) if inner)]))
