"""Integer layers of quantized networks: their geometries and numbers drawn, their nodes made."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from lowprec.convolution import Conv
from tests.quantized import Network, limits

Array = NDArray[Any]
FUSED = (("uint8", "int8"), ("int8", "int8"), ("uint8", "uint8"))
"""What ONNX Runtime convolves in integers: activations, weights."""

WORDS = ("int8", "uint8", "int16", "uint16")


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """An integer layer, everything about it but its numbers."""

    x: str = "uint8"
    w: str = "int8"
    per_channel: bool = True
    zeros: bool = True
    bias: bool = True
    relu: bool = False
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Numbers:
    """The integers of a layer, their scales and zero points; each weight's scale along the output channels."""

    x: Array
    w: Array
    bias: Array
    sx: np.float32
    sw: NDArray[np.float32]
    sy: np.float32
    zx: int
    zw: Array
    zy: int


@st.composite
def cases(draw: st.DrawFn, kinds: Sequence[tuple[str, str]] = FUSED) -> Case:
    x, w = draw(st.sampled_from(kinds))
    flags = {name: draw(st.booleans()) for name in ("per_channel", "zeros", "bias", "relu")}
    return Case(x=x, w=w, seed=draw(st.integers(0, 2**16)), **flags)


@st.composite
def axes(draw: st.DrawFn, rank: int, stride: int = 2) -> dict[str, Any]:
    """Each spatial axis with its own size, kernel, stride, dilation and padding; none is without output."""
    extents: dict[str, list[int]] = {}
    for _ in range(rank):
        kernel, dilation = draw(st.integers(1, 3)), draw(st.integers(1, 2))
        begin, end = draw(st.integers(0, kernel - 1)), draw(st.integers(0, kernel - 1))
        least = max(1, (kernel - 1) * dilation + 1 - begin - end)
        axis = {"size": draw(st.integers(least, least + 3)), "kernel": kernel, "dilation": dilation}
        axis |= {"stride": draw(st.integers(1, stride)), "pads_begin": begin, "pads_end": end}
        for name, extent in axis.items():
            extents.setdefault(name, []).append(extent)
    return {name: tuple(values) for name, values in extents.items()}


@st.composite
def convs(draw: st.DrawFn) -> Conv:
    """Small geometries, of one to three axes."""
    rank, groups = draw(st.integers(1, 3)), draw(st.sampled_from([1, 1, 2, 3]))
    channels = [groups * draw(st.integers(1, 3)) for _ in range(2)]
    batch = draw(st.integers(1, 2))
    return Conv(batch=batch, in_channels=channels[0], out_channels=channels[1], groups=groups, **draw(axes(rank)))


def drawn(case: Case, x_shape: Sequence[int], w_shape: Sequence[int], channels: int, depth: int) -> Numbers:
    """Activations of the whole range, results of which some saturate.

    Weights stay within a quarter of theirs: without VNNI, ONNX Runtime adds two products in saturating 16 bits.
    """
    rng = np.random.default_rng(case.seed)
    (low, high), (w_low, w_high) = limits(case.x), limits(case.w)
    reach = (w_high - w_low + 1) // 4
    middle = (w_low + w_high + 1) // 2
    sx, sw = np.float32(rng.uniform(0.001, 0.1)), rng.uniform(0.001, 0.1, channels if case.per_channel else 1)
    spread = float(sx) * sw.mean() * (high - low) * reach * depth**0.5
    zero = int(rng.integers(low, high, endpoint=True)) if case.zeros else (low + high) // 2
    return Numbers(
        x=rng.integers(low, high, x_shape, case.x, endpoint=True),
        w=rng.integers(middle - reach, middle + reach - 1, w_shape, case.w, endpoint=True),
        bias=rng.integers(-(2**12), 2**12, channels, "int32"),
        sx=sx,
        sw=sw.astype(np.float32),
        sy=np.float32(spread / (high - low) / 3),
        zx=zero,
        zw=np.full(sw.size, middle + (3 if case.zeros else 0), case.w),
        zy=low if case.relu else zero,
    )


def layer(net: Network, case: Case, numbers: Numbers, op: str, shape: Sequence[int], axis: int, **options: Any) -> str:
    """DequantizeLinear -> op -> Relu, the float result."""
    x = net.dequantize(net.input(numbers.x), numbers.sx, numbers.zx)
    vector: Callable[[Array], Any] = (lambda values: values) if case.per_channel else (lambda values: values[0])
    w = net.dequantize(net.constant(numbers.w), vector(numbers.sw), vector(numbers.zw), axis=axis)
    operands = [x, w]
    if case.bias:
        scale = np.multiply(numbers.sx, numbers.sw, dtype=np.float32)
        operands.append(net.dequantize(net.constant(numbers.bias), vector(scale), vector(0 * numbers.zw), axis=0))
    y = net.node(op, *operands, shape=shape, **options)
    return net.node("Relu", y, shape=shape) if case.relu else y


def conv_layer(net: Network, case: Case, conv: Conv) -> tuple[Numbers, str]:
    x_shape = (conv.batch, conv.in_channels, *conv.size)
    depth = conv.parameters // conv.out_channels
    numbers = drawn(case, x_shape, conv.weight_shape, conv.out_channels, depth)
    shape = (conv.batch, conv.out_channels, *conv.output_size)
    y = layer(
        net, case, numbers, "Conv", shape, 0, group=conv.groups, kernel_shape=conv.kernel, strides=conv.stride,
        dilations=conv.dilation, pads=(*conv.pads_begin, *conv.pads_end),
    )  # fmt: skip
    return numbers, y


def small_conv(case: Case) -> tuple[Network, tuple[Numbers, str]]:
    net, conv = Network(), Conv(
        batch=1, in_channels=4, out_channels=5, groups=1, size=(6, 7), kernel=(3, 3), stride=(1, 2), dilation=(1, 1),
        pads_begin=(1, 0), pads_end=(0, 1),
    )  # fmt: skip
    return net, conv_layer(net, case, conv)
