"""Layer norm, GELU and attention around convolutions."""

import math

import numpy as np
import onnx

from tests.networks.builder import Builder, Size, Value


def convnext(size: Size) -> onnx.ModelProto:
    """Liu et al. 2022 (tiny): 7x7 depthwise, layer norm over channels, GELU by erf, a scale per channel."""
    b = Builder(name="convnext")
    x = b.conv(b.input(size.batch, 3, size.image, size.image), size.channels(96), 4, stride=4, pad=0)
    x = _channel_norm(b, x)
    for stage, repeats in enumerate((3, 3, 9, 3)):
        if stage:
            x = b.conv(_channel_norm(b, x), size.channels(96) * 2**stage, 2, stride=2, pad=0)
        for _ in range(size.repeats(repeats)):
            y = _last_norm(b, _channels_last(b, b.conv(x, x.channels, 7, groups=x.channels)))
            y = b.dense(b.act(b.dense(y, 4 * x.channels), "gelu-erf"), x.channels)
            y = b.op("Mul", y, b.constant(b.rng.uniform(0.2, 0.6, x.channels)))
            x = b.add(_channels_first(b, y), x)
    pooled = _reduce(b, "ReduceMean", x, 2, 3, keep=False)
    return b.finish(b.gemm(_last_norm(b, pooled), 100))


def convnext_v2(size: Size) -> onnx.ModelProto:
    """Woo et al. 2023 (atto): global response norm, 1x1 convolutions where v1 has products, the Gelu operator."""
    b = Builder(name="convnext_v2", opset=20)
    x = b.conv(b.input(size.batch, 3, size.image, size.image), size.channels(40), 4, stride=4, pad=0)
    for stage, repeats in enumerate((2, 2, 6, 2)):
        if stage:
            x = b.conv(_channel_norm(b, x), size.channels(40) * 2**stage, 2, stride=2, pad=0)
        for _ in range(size.repeats(repeats)):
            y = _channel_norm(b, b.conv(x, x.channels, 7, groups=x.channels))
            y = _response_norm(b, b.act(b.conv(y, 4 * x.channels, 1), "Gelu"))
            x = b.add(b.conv(y, x.channels, 1), x)
    return b.finish(b.classify(x, 100))


def vit(size: Size) -> onnx.ModelProto:
    """Dosovitskiy et al. 2021 (tiny): patches, class token, positions, attention, as exporters write them."""
    b = Builder(name="vit")
    heads = 3
    width = size.channels(192, multiple=heads * 4)
    patches = b.conv(b.input(size.batch, 3, size.image, size.image), width, 16, stride=16, pad=0)
    count = patches.shape[2] * patches.shape[3]
    x = b.op("Transpose", b.op("Reshape", patches, b.integers(size.batch, width, count)), perm=[0, 2, 1])
    token = b.op("Expand", b.normal(1, 1, width), b.integers(size.batch, 1, width))
    x = b.op("Add", b.concat(token, x, axis=1), b.normal(1, count + 1, width, scale=0.3))
    for _ in range(size.repeats(12)):
        x = b.add(_attention(b, _last_norm(b, x), heads), x)
        x = b.add(b.dense(b.act(b.dense(_last_norm(b, x), 4 * width), "gelu-erf"), width), x)
    first = b.op("Gather", _last_norm(b, x), b.constant(0, np.int64), axis=1)
    return b.finish(b.op("Softmax", b.gemm(first, 100), axis=-1))


def group_norm(size: Size) -> onnx.ModelProto:
    """Wu and He 2018: group norm as torch exports it, by an instance norm over regrouped channels."""
    b = Builder(name="group_norm")
    x = b.conv(b.input(size.batch, 3, size.image, size.image), size.channels(64, multiple=8), 7, stride=2, bias=False)
    x = b.pool("MaxPool", b.act(_group_norm(b, x, 8), "Relu"), 3, stride=2, pad=1)
    for stage in range(3):
        channels = size.channels(64, multiple=8) * 2**stage
        stride = 2 if stage else 1
        y = b.act(_group_norm(b, b.conv(x, channels, 3, stride=stride, bias=False), 8), "Relu")
        y = _group_norm(b, b.conv(y, channels, 3, bias=False), 8)
        shortcut = x if x.shape == y.shape else b.conv(x, channels, 1, stride=stride, bias=False)
        x = b.act(b.add(y, shortcut), "Relu")
    return b.finish(b.classify(x, 100))


def _attention(b: Builder, x: Value, heads: int) -> Value:
    batch, count, width = x.shape
    depth = width // heads
    joined = b.op("Reshape", b.dense(x, 3 * width), b.integers(batch, count, 3, heads, depth))
    turned = b.op("Transpose", joined, perm=[2, 0, 3, 1, 4])
    query, key, value = (b.op("Gather", turned, b.constant(k, np.int64), axis=0) for k in range(3))
    scores = b.op("MatMul", query, b.op("Transpose", key, perm=[0, 1, 3, 2]))
    weights = b.op("Softmax", b.op("Mul", scores, b.constant(1 / math.sqrt(depth))), axis=-1)
    mixed = b.op("Transpose", b.unit("MatMul", weights, value), perm=[0, 2, 1, 3])
    return b.dense(b.op("Reshape", mixed, b.integers(batch, count, width)), width)


def _last_norm(b: Builder, x: Value) -> Value:
    scale, offset = b.normal(x.shape[-1], scale=0.1, mean=1.0), b.normal(x.shape[-1], scale=0.1)
    return b.unit("LayerNormalization", x, scale, offset, axis=-1, epsilon=1e-6)


def _channel_norm(b: Builder, x: Value) -> Value:
    """Layer norm over channels as its parts, axis 1."""
    centred = b.op("Sub", x, _reduce(b, "ReduceMean", x, 1))
    variance = _reduce(b, "ReduceMean", b.op("Pow", centred, b.constant(2.0)), 1)
    y = b.unit("Div", centred, b.op("Sqrt", b.op("Add", variance, b.constant(1e-6))))
    y = b.op("Mul", y, b.normal(x.channels, 1, 1, scale=0.1, mean=1.0))
    return b.op("Add", y, b.normal(x.channels, 1, 1, scale=0.1))


def _response_norm(b: Builder, x: Value) -> Value:
    """Global response norm: x scaled by each channel's energy over the mean of all."""
    energy = _reduce(b, "ReduceL2", x, 2, 3)
    relative = b.op("Div", energy, b.op("Add", _reduce(b, "ReduceMean", energy, 1), b.constant(1e-6)))
    scaled = b.op("Mul", b.op("Mul", x, relative), b.normal(1, x.channels, 1, 1, scale=0.3))
    return b.op("Add", scaled, x)


def _group_norm(b: Builder, x: Value, groups: int) -> Value:
    batch, channels, rows, columns = x.shape
    flat = b.op("Reshape", x, b.integers(batch, groups, -1))
    ones, zeros = b.constant(np.ones(groups)), b.constant(np.zeros(groups))
    normal = b.unit("InstanceNormalization", flat, ones, zeros)
    y = b.op("Reshape", normal, b.integers(batch, channels, rows, columns))
    y = b.op("Mul", y, b.normal(channels, 1, 1, scale=0.1, mean=1.0))
    return b.op("Add", y, b.normal(channels, 1, 1, scale=0.1))


def _reduce(b: Builder, op: str, x: Value, *axes: int, keep: bool = True) -> Value:
    """A reduction; from opset 18 on its axes are an input."""
    if b.opset >= 18:
        return b.op(op, x, b.integers(*axes), keepdims=int(keep))
    return b.op(op, x, axes=axes, keepdims=int(keep))


def _channels_last(b: Builder, x: Value) -> Value:
    return b.op("Transpose", x, perm=[0, 2, 3, 1])


def _channels_first(b: Builder, x: Value) -> Value:
    return b.op("Transpose", x, perm=[0, 3, 1, 2])
