"""Image classifiers: convolutions of every kind, down to one row of scores."""

import onnx

from tests.networks.builder import Builder, Size, Value


def lenet5(size: Size) -> onnx.ModelProto:
    """LeCun et al. 1998: tanh, average pooling, 5x5 kernels, one channel."""
    b = Builder(name="lenet5")
    x = b.input(size.batch, 1, 28, 28)
    x = b.pool("AveragePool", b.conv(x, 6, 5, act="Tanh"), 2, stride=2)
    x = b.pool("AveragePool", b.conv(x, 16, 5, pad=0, act="Tanh"), 2, stride=2)
    x = b.op("Flatten", x)
    x = b.act(b.dense(x, 120), "Tanh")
    x = b.act(b.gemm(x, 84), "Tanh")
    return b.finish(b.op("Softmax", b.gemm(x, 10), axis=1))


def mobilenet_v2(size: Size) -> onnx.ModelProto:
    """Sandler et al. 2018: depthwise 3x3, ReLU6, linear bottlenecks."""
    b = Builder(name="mobilenet_v2")
    x = b.conv(_image(b, size), size.channels(32), 3, stride=2, norm=True, act="relu6")
    stages = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
    for expand, channels, repeats, stride in stages:
        for k in range(size.repeats(repeats)):
            x = _inverted(b, x, expand, size.channels(channels), 3, stride if k == 0 else 1, act="relu6")
    return b.finish(b.classify(b.conv(x, size.channels(1280), 1, norm=True, act="relu6"), 100, softmax=True))


def mobilenet_v3(size: Size) -> onnx.ModelProto:
    """Howard et al. 2019 (small): squeeze-excite with hard sigmoid, hard-swish, 5x5 depthwise."""
    b = Builder(name="mobilenet_v3")
    x = b.conv(_image(b, size), size.channels(16), 3, stride=2, norm=True, act="HardSwish")
    stages = (
        (3, 16, 16, True, "Relu", 2),
        (3, 72, 24, False, "Relu", 2),
        (3, 88, 24, False, "Relu", 1),
        (5, 96, 40, True, "HardSwish", 2),
        (5, 240, 40, True, "hardswish-parts", 1),
        (5, 120, 48, True, "HardSwish", 1),
        (5, 288, 96, True, "HardSwish", 2),
        (5, 576, 96, True, "HardSwish", 1),
    )
    for kernel, hidden, channels, excite, act, stride in stages:
        expand = size.channels(hidden) / x.channels
        squeeze = 4 if excite else 0
        x = _inverted(
            b, x, expand, size.channels(channels), kernel, stride, act=act, squeeze=squeeze, gate="HardSigmoid"
        )
    x = b.conv(x, size.channels(576), 1, norm=True, act="HardSwish")
    pooled = b.op("Flatten", b.op("GlobalAveragePool", x))
    return b.finish(b.gemm(b.act(b.gemm(pooled, size.channels(1024)), "HardSwish"), 100))


def efficientnet_b0(size: Size) -> onnx.ModelProto:
    """Tan and Le 2019: SiLU, squeeze-excite of the block's input width / 4."""
    b = Builder(name="efficientnet_b0")
    x = b.conv(_image(b, size), size.channels(32), 3, stride=2, norm=True, act="silu")
    stages = (
        (1, 3, 1, 16, 1),
        (6, 3, 2, 24, 2),
        (6, 5, 2, 40, 2),
        (6, 3, 3, 80, 2),
        (6, 5, 3, 112, 1),
        (6, 5, 4, 192, 2),
        (6, 3, 1, 320, 1),
    )
    for expand, kernel, repeats, channels, stride in stages:
        for k in range(size.repeats(repeats)):
            step = stride if k == 0 else 1
            x = _inverted(
                b, x, expand, size.channels(channels), kernel, step, act="silu", squeeze=4 * expand, gate="Sigmoid"
            )
    return b.finish(b.classify(b.conv(x, size.channels(1280), 1, norm=True, act="silu"), 100))


def resnext50(size: Size) -> onnx.ModelProto:
    """Xie et al. 2017, 32x4d: 3x3 convolutions in 32 groups."""
    b = Builder(name="resnext50")
    groups = size.channels(32)
    x = b.conv(_image(b, size), size.channels(64), 7, stride=2, norm=True, act="Relu")
    x = b.pool("MaxPool", x, 3, stride=2, pad=1)
    for stage, repeats in enumerate((3, 4, 6, 3)):
        for k in range(size.repeats(repeats)):
            stride = 2 if stage and k == 0 else 1
            x = _bottleneck(b, x, groups * 4 * 2**stage, size.channels(256) * 2**stage, stride, groups)
    return b.finish(b.classify(x, 100, softmax=True))


def regnet_y(size: Size) -> onnx.ModelProto:
    """Radosavovic et al. 2020 (400MF): groups of 8 channels, squeeze-excite inside the bottleneck."""
    b = Builder(name="regnet_y")
    x = b.conv(_image(b, size), size.channels(32), 3, stride=2, norm=True, act="Relu")
    for channels, repeats in ((48, 1), (104, 3), (208, 6), (440, 6)):
        width = size.channels(channels, multiple=8)
        for k in range(size.repeats(repeats)):
            x = _bottleneck(b, x, width, width, 2 if k == 0 else 1, width // 8, squeeze=4)
    return b.finish(b.classify(x, 100))


def shufflenet_v2(size: Size) -> onnx.ModelProto:
    """Ma et al. 2018: channel split, depthwise without activation, channel shuffle."""
    b = Builder(name="shufflenet_v2")
    x = b.conv(_image(b, size), size.channels(24), 3, stride=2, norm=True, act="Relu")
    x = b.pool("MaxPool", x, 3, stride=2, pad=1)
    for channels, repeats in ((116, 3), (232, 7), (464, 3)):
        half = size.channels(channels // 2)
        left = b.conv(b.conv(x, x.channels, 3, stride=2, groups=x.channels, norm=True), half, 1, norm=True, act="Relu")
        x = _shuffle(b, b.concat(left, _shuffle_branch(b, x, half, 2)))
        for _ in range(size.repeats(repeats)):
            left, right = b.many("Split", x, b.integers(half, half), outputs=2, axis=1)
            x = _shuffle(b, b.concat(left, _shuffle_branch(b, right, half, 1)))
    return b.finish(b.classify(b.conv(x, size.channels(1024), 1, norm=True, act="Relu"), 100))


def inception_v3(size: Size) -> onnx.ModelProto:
    """Szegedy et al. 2016: 1x7 and 7x1, 1x3 and 3x1, branches of every depth, no padding in the stem."""
    b = Builder(name="inception_v3")

    def conv(x: Value, channels: int, *kernel: int, stride: int = 1, pad: int | None = None) -> Value:
        extents = kernel if len(kernel) == 2 else kernel * 2
        return b.conv(x, size.channels(channels), extents, stride=stride, pad=pad, norm=True, act="Relu")

    x = conv(conv(_image(b, size), 32, 3, stride=2, pad=0), 32, 3, pad=0)
    x = b.pool("MaxPool", conv(x, 64, 3), 3, stride=2)
    x = b.pool("MaxPool", conv(conv(x, 80, 1), 192, 3, pad=0), 3, stride=2)
    for _ in range(size.repeats(3)):
        averaged = b.pool("AveragePool", x, 3, pad=1, count_include_pad=1)
        five, three = conv(conv(x, 48, 1), 64, 5), conv(conv(conv(x, 64, 1), 96, 3), 96, 3)
        x = b.concat(conv(x, 64, 1), five, three, conv(averaged, 64, 1))
    three = conv(conv(conv(x, 64, 1), 96, 3), 96, 3, stride=2, pad=0)
    x = b.concat(conv(x, 384, 3, stride=2, pad=0), three, b.pool("MaxPool", x, 3, stride=2))
    for _ in range(size.repeats(4)):
        averaged = b.pool("AveragePool", x, 3, pad=1, count_include_pad=0)
        once = conv(conv(conv(x, 128, 1), 128, 1, 7), 192, 7, 1)
        twice = conv(conv(conv(conv(conv(x, 128, 1), 128, 7, 1), 128, 1, 7), 128, 7, 1), 192, 1, 7)
        x = b.concat(conv(x, 192, 1), once, twice, conv(averaged, 192, 1))
    seven = conv(conv(conv(conv(x, 192, 1), 192, 1, 7), 192, 7, 1), 192, 3, stride=2, pad=0)
    x = b.concat(conv(conv(x, 192, 1), 320, 3, stride=2, pad=0), seven, b.pool("MaxPool", x, 3, stride=2))
    for _ in range(size.repeats(2)):
        fork, deep = conv(x, 384, 1), conv(conv(x, 448, 1), 384, 3)
        averaged = conv(b.pool("AveragePool", x, 3, pad=1, count_include_pad=1), 192, 1)
        forked = (conv(fork, 384, 1, 3), conv(fork, 384, 3, 1), conv(deep, 384, 1, 3), conv(deep, 384, 3, 1))
        x = b.concat(conv(x, 320, 1), *forked, averaged)
    return b.finish(b.classify(x, 100, softmax=True))


def resnet_v2(size: Size) -> onnx.ModelProto:
    """He et al. 2016, pre-activation: batch norms stand before convolutions and cannot all fold into the one before."""
    b = Builder(name="resnet_v2")
    x = b.conv(_image(b, size), size.channels(64), 7, stride=2, bias=False)
    x = b.pool("MaxPool", x, 3, stride=2, pad=1)
    for stage in range(4):
        channels = size.channels(64) * 2**stage
        for k in range(size.repeats(2)):
            stride = 2 if stage and k == 0 else 1
            y = b.act(b.norm(x), "Relu")
            shortcut = (
                x if stride == 1 and x.channels == channels else b.conv(y, channels, 1, stride=stride, bias=False)
            )
            y = b.conv(b.conv(y, channels, 3, stride=stride, norm=True, act="Relu"), channels, 3, bias=False)
            x = b.add(y, shortcut)
    return b.finish(b.classify(b.act(b.norm(x), "Relu"), 100))


def darknet(size: Size) -> onnx.ModelProto:
    """Redmon and Farhadi 2018, shortened: leaky ReLU, PReLU, 3x3 of stride 2, residuals after the activation."""
    b = Builder(name="darknet")
    x = b.conv(_image(b, size), size.channels(32), 3, norm=True, act="LeakyRelu")
    for stage, repeats in enumerate((1, 2, 4)):
        x = b.conv(x, size.channels(64 * 2**stage), 3, stride=2, norm=True, act="prelu")
        for _ in range(size.repeats(repeats)):
            y = b.conv(x, max(1, x.channels // 2), 1, norm=True, act="LeakyRelu")
            x = b.add(x, b.conv(y, x.channels, 3, norm=True, act="LeakyRelu"))
    return b.finish(b.classify(x, 100, softmax=True))


def _image(b: Builder, size: Size) -> Value:
    return b.input(size.batch, 3, size.image, size.image)


def _excite(b: Builder, x: Value, hidden: int, gate: str, act: str = "Relu") -> Value:
    """Squeeze-excite (Hu et al. 2018) in 1x1 convolutions."""
    pooled = b.op("GlobalAveragePool", x)
    weights = b.act(b.conv(b.conv(pooled, hidden, 1, act=act), x.channels, 1), gate)
    return b.op("Mul", x, weights)


def _inverted(
    b: Builder,
    x: Value,
    expand: float,
    channels: int,
    kernel: int,
    stride: int,
    *,
    act: str,
    squeeze: int = 0,
    gate: str = "",
) -> Value:
    hidden = round(x.channels * expand)
    y = b.conv(x, hidden, 1, norm=True, act=act) if hidden != x.channels else x
    y = b.conv(y, hidden, kernel, stride=stride, groups=hidden, norm=True, act=act)
    if squeeze:
        y = _excite(b, y, max(2, hidden // squeeze), gate, "silu" if act == "silu" else "Relu")
    y = b.conv(y, channels, 1, norm=True)
    return b.add(x, y) if stride == 1 and x.channels == channels else y


def _bottleneck(b: Builder, x: Value, width: int, channels: int, stride: int, groups: int, squeeze: int = 0) -> Value:
    y = b.conv(x, width, 1, norm=True, act="Relu")
    y = b.conv(y, width, 3, stride=stride, groups=groups, norm=True, act="Relu")
    if squeeze:
        y = _excite(b, y, max(2, width // squeeze), "Sigmoid")
    y = b.conv(y, channels, 1, norm=True)
    shortcut = x if x.shape == y.shape else b.conv(x, channels, 1, stride=stride, norm=True)
    return b.act(b.add(y, shortcut), "Relu")


def _shuffle_branch(b: Builder, x: Value, channels: int, stride: int) -> Value:
    y = b.conv(x, channels, 1, norm=True, act="Relu")
    y = b.conv(y, channels, 3, stride=stride, groups=channels, norm=True)
    return b.conv(y, channels, 1, norm=True, act="Relu")


def _shuffle(b: Builder, x: Value) -> Value:
    batch, channels, rows, columns = x.shape
    split = b.op("Reshape", x, b.integers(batch, 2, channels // 2, rows, columns))
    turned = b.op("Transpose", split, perm=[0, 2, 1, 3, 4])
    return b.op("Reshape", turned, b.integers(batch, channels, rows, columns))
