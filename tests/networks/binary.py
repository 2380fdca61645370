"""Networks of signs: weights and activations are -1 and +1, but for a factor of each output channel."""

import math

import numpy as np
import onnx

from tests.networks.builder import Builder, Size, Value


def binarynet(size: Size) -> onnx.ModelProto:
    """Courbariaux et al. 2016, the network for CIFAR-10: real numbers in front, signs between, pools before them."""
    b = Builder(name="binarynet")
    x = b.input(size.batch, 3, 32, 32)
    for channels in (128, 256, 512):
        for pooled in (False, True):
            x = _convolved(b, x, size.channels(channels), signs=x.channels > 3)
            x = b.norm(b.pool("MaxPool", x, 2, stride=2) if pooled else x)
    x = b.op("Flatten", x)
    for units in (1024, 1024):
        x = b.norm(_product(b, x, size.channels(units)))
    return b.finish(b.norm(_product(b, x, 10)))


def binary_layer(size: Size) -> onnx.ModelProto:
    """One 3x3 layer of 256 channels, from numbers to numbers, with a border of zeros."""
    b = Builder(name="binary_layer")
    x = b.input(size.batch, size.channels(256), size.image, size.image)
    return b.finish(_convolved(b, x, size.channels(256), signs=True))


def _convolved(b: Builder, x: Value, channels: int, *, signs: bool) -> Value:
    weights = _weights(b, (channels, x.channels, 3, 3))
    return b.unit("Conv", b.signs(x) if signs else x, weights, kernel_shape=[3, 3], pads=[1] * 4)


def _product(b: Builder, x: Value, units: int) -> Value:
    return b.unit("Gemm", b.signs(x), _weights(b, (units, x.channels)), transB=1)


def _weights(b: Builder, shape: tuple[int, ...]) -> Value:
    """Signs, and for each output channel a factor that keeps results near 1."""
    factors = b.rng.uniform(0.8, 1.2, (shape[0], *(1,) * (len(shape) - 1))) / math.sqrt(math.prod(shape[1:]))
    return b.constant(np.where(b.rng.random(shape) < 0.5, -1.0, 1.0) * factors)
