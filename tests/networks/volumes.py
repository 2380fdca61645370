"""Networks over one and three spatial axes."""

import onnx

from tests.networks.builder import Builder, Size


def wavenet(size: Size) -> onnx.ModelProto:
    """van den Oord et al. 2016: causal dilated 1-D convolutions, tanh times sigmoid, skips summed."""
    b = Builder(name="wavenet")
    width = size.channels(32)
    x = b.conv(b.input(size.batch, 1, 16 * size.image), width, 1)
    skips = []
    for k in range(size.repeats(8)):
        dilation = 2**k
        padded = b.op("Pad", x, b.integers(0, 0, dilation, 0, 0, 0))
        gate = b.act(b.conv(padded, width, 2, dilation=dilation, pad=0), "Sigmoid")
        signal = b.act(b.conv(padded, width, 2, dilation=dilation, pad=0), "Tanh")
        gated = b.op("Mul", signal, gate)
        skips.append(b.conv(gated, 2 * width, 1))
        x = b.add(b.conv(gated, width, 1), x)
    y = b.act(b.add(*skips), "Relu")
    return b.finish(b.op("Softmax", b.conv(b.conv(y, 2 * width, 1, act="Relu"), 64, 1), axis=1))


def speech(size: Size) -> onnx.ModelProto:
    """Kriman et al. 2020 (QuartzNet's block): 1-D depthwise of 33 taps, pointwise, max pooling, strided."""
    b = Builder(name="speech")
    x = b.conv(b.input(size.batch, 64, 4 * size.image), size.channels(256), 33, stride=2, norm=True, act="Relu")
    for kernel in (33, 39, 51):
        y = x
        for k in range(size.repeats(3)):
            y = b.conv(y, y.channels, kernel, groups=y.channels, bias=False)
            y = b.conv(y, y.channels, 1, norm=True, act="Relu" if k + 1 < size.repeats(3) else "")
        x = b.act(b.add(y, b.conv(x, x.channels, 1, norm=True)), "Relu")
    x = b.pool("MaxPool", x, 3, stride=2)
    return b.finish(b.op("LogSoftmax", b.op("Transpose", b.conv(x, 29, 1), perm=[0, 2, 1]), axis=-1))


def video(size: Size) -> onnx.ModelProto:
    """Tran et al. 2018 (R(2+1)D and C3D): 1x3x3 then 3x1x1, full 3x3x3, 3-D pooling, a transposed convolution."""
    b = Builder(name="video")
    frames = max(4, size.image // 14)
    x = b.input(size.batch, 3, frames, size.image, size.image)
    x = b.conv(x, size.channels(45), (1, 7, 7), stride=2, norm=True, act="Relu")
    x = b.conv(x, size.channels(64, multiple=2), (3, 1, 1), norm=True, act="Relu")
    for _ in range(size.repeats(2)):
        x = b.act(b.add(b.conv(x, x.channels, 3, norm=True), x), "Relu")
    x = b.pool("MaxPool", x, 3, stride=2, pad=1)
    x = b.conv(x, size.channels(128), 3, groups=2, norm=True, act="Relu")
    x = b.act(b.upconv(x, size.channels(32), 2), "Relu")
    x = b.pool("AveragePool", x, 2, stride=2)
    return b.finish(b.classify(x, 100, softmax=True))
