"""Networks whose output is an image: segmentation, detection, style, super-resolution, generation."""

from typing import Any

import onnx

from tests.networks.builder import Builder, Size, Value


def deeplab(size: Size) -> onnx.ModelProto:
    """Chen et al. 2017: dilated residual blocks, atrous pyramid, bilinear resize back to the image."""
    b = Builder(name="deeplab")
    image = b.input(size.batch, 3, size.image, size.image)
    x = b.conv(image, size.channels(64), 7, stride=2, norm=True, act="Relu")
    x = b.pool("MaxPool", x, 3, stride=2, pad=1)
    for channels, dilation in ((256, 1), (512, 2), (1024, 4)):
        for _ in range(size.repeats(3)):
            x = _dilated(b, x, size.channels(channels), dilation)
    width = size.channels(256)
    branches = [b.conv(x, width, 1, norm=True, act="Relu")]
    branches += [b.conv(x, width, 3, dilation=rate, norm=True, act="Relu") for rate in (6, 12, 18)]
    pooled = b.conv(b.op("GlobalAveragePool", x), width, 1, norm=True, act="Relu")
    branches.append(_resize(b, pooled, x.shape[2], x.shape[3], mode="nearest"))
    x = b.conv(b.conv(b.concat(*branches), width, 1, norm=True, act="Relu"), 21, 1)
    return b.finish(_resize(b, x, size.image, size.image, mode="linear", coordinate_transformation_mode="half_pixel"))


def unet(size: Size) -> onnx.ModelProto:
    """Ronneberger et al. 2015: skips; up again by transposed convolutions, and by a resize at the last step."""
    b = Builder(name="unet")

    def double(x: Value, channels: int) -> Value:
        return b.conv(b.conv(x, channels, 3, norm=True, act="Relu"), channels, 3, norm=True, act="Relu")

    x = double(b.input(size.batch, 3, size.image, size.image), size.channels(64))
    skips = []
    for stage in range(3):
        skips.append(x)
        x = double(b.pool("MaxPool", x, 2, stride=2), size.channels(128 * 2**stage))
    for skip in reversed(skips):
        if skip is skips[0]:
            x = b.conv(_resize(b, x, *skip.shape[2:], mode="nearest"), skip.channels, 3, act="Relu")
        else:
            x = b.upconv(x, skip.channels, 2)
        x = double(b.concat(skip, x), skip.channels)
    return b.finish(b.act(b.conv(x, 1, 1), "Sigmoid"))


def yolo(size: Size) -> onnx.ModelProto:
    """Jocher 2020 (v5s): SiLU, split and concat, pooling pyramid, nearest resize, three outputs."""
    b = Builder(name="yolo")
    x = b.conv(b.input(size.batch, 3, size.image, size.image), size.channels(32), 6, stride=2, pad=2, act="silu")
    levels = []
    for channels, repeats in ((64, 1), (128, 2), (256, 3), (512, 1)):
        x = b.conv(x, size.channels(channels, multiple=4), 3, stride=2, act="silu")
        x = _csp(b, x, size.repeats(repeats), residual=True)
        levels.append(x)
    pyramid = [b.conv(x, x.channels // 2, 1, act="silu")]
    for _ in range(3):
        pyramid.append(b.pool("MaxPool", pyramid[-1], 5, stride=1, pad=2))
    x = b.conv(b.concat(*pyramid), x.channels, 1, act="silu")
    laterals = []
    for skip in (levels[2], levels[1]):
        x = b.conv(x, skip.channels, 1, act="silu")
        laterals.append(x)
        x = _csp(b, b.concat(_resize(b, x, *skip.shape[2:], mode="nearest"), skip), 1, residual=False)
    heads = [x]
    for lateral in reversed(laterals):
        x = b.concat(b.conv(x, x.channels, 3, stride=2, act="silu"), lateral)
        x = _csp(b, x, 1, residual=False)
        heads.append(x)
    return b.finish(*(_detect(b, head, classes=7) for head in heads))


def style(size: Size) -> onnx.ModelProto:
    """Johnson et al. 2016: reflect padding, instance norm, 9x9 ends, transposed convolutions of stride 2."""
    b = Builder(name="style")

    def conv(x: Value, channels: int, kernel: int, stride: int = 1) -> Value:
        around = kernel // 2
        padded = b.op("Pad", x, b.integers(0, 0, around, around, 0, 0, around, around), mode="reflect")
        return b.conv(padded, channels, kernel, stride=stride, pad=0)

    def norm(x: Value, act: str = "Relu") -> Value:
        scale, offset = b.normal(x.channels, scale=0.1, mean=1.0), b.normal(x.channels, scale=0.1)
        return b.act(b.unit("InstanceNormalization", x, scale, offset), act)

    image = b.input(size.batch, 3, size.image, size.image)
    x = norm(conv(image, size.channels(32), 9))
    x = norm(conv(norm(conv(x, size.channels(64), 3, 2)), size.channels(128), 3, 2))
    for _ in range(size.repeats(5)):
        x = b.add(norm(conv(norm(conv(x, x.channels, 3)), x.channels, 3), act=""), x)
    x = norm(b.upconv(x, size.channels(64), 3, pad=1, extra=1))
    x = norm(b.upconv(x, size.channels(32), 3, pad=1, extra=1))
    return b.finish(b.act(conv(x, 3, 9), "Tanh"))


def super_resolution(size: Size) -> onnx.ModelProto:
    """Shi et al. 2016: 5x5 and 3x3 with tanh, then depth to space."""
    b = Builder(name="super_resolution")
    x = b.conv(b.input(size.batch, 1, size.image, size.image), size.channels(64), 5, act="Tanh")
    x = b.conv(b.conv(x, size.channels(64), 3, act="Tanh"), size.channels(32), 3, act="Tanh")
    return b.finish(b.op("DepthToSpace", b.conv(x, 9, 3), blocksize=3, mode="CRD"))


def generator(size: Size) -> onnx.ModelProto:
    """Radford et al. 2016 (DCGAN): a linear layer, then 4x4 transposed convolutions of stride 2."""
    b = Builder(name="generator")
    width = size.channels(512)
    x = b.gemm(b.input(size.batch, 100), width * 16)
    x = b.act(b.norm(b.op("Reshape", x, b.integers(size.batch, width, 4, 4))), "Relu")
    for stage in range(3):
        x = b.act(b.norm(b.upconv(x, max(2, width // 2 ** (stage + 1)), 4, pad=1)), "Relu")
    return b.finish(b.act(b.upconv(x, 3, 4, pad=1), "Tanh"))


def _dilated(b: Builder, x: Value, channels: int, dilation: int) -> Value:
    width = max(2, channels // 4)
    y = b.conv(x, width, 1, norm=True, act="Relu")
    y = b.conv(b.conv(y, width, 3, dilation=dilation, norm=True, act="Relu"), channels, 1, norm=True)
    shortcut = x if x.channels == channels else b.conv(x, channels, 1, norm=True)
    return b.act(b.add(y, shortcut), "Relu")


def _csp(b: Builder, x: Value, repeats: int, *, residual: bool) -> Value:
    """Two halves, one through bottlenecks (v8's form: one convolution, then a split)."""
    half = x.channels // 4
    left, right = b.many("Split", b.conv(x, 2 * half, 1, act="silu"), b.integers(half, half), outputs=2, axis=1)
    parts = [left, right]
    for _ in range(repeats):
        y = b.conv(b.conv(parts[-1], half, 3, act="silu"), half, 3, act="silu")
        parts.append(b.add(y, parts[-1]) if residual else y)
    return b.conv(b.concat(*parts), 4 * half, 1, act="silu")


def _detect(b: Builder, x: Value, *, classes: int) -> Value:
    """Per anchor: box centre, extent, scores, as v5 decodes them."""
    batch, _, rows, columns = x.shape
    y = b.op("Reshape", b.conv(x, 3 * (5 + classes), 1), b.integers(batch, 3, 5 + classes, rows, columns))
    y = b.op("Sigmoid", b.op("Transpose", y, perm=[0, 1, 3, 4, 2]))
    centre, extent, scores = b.many("Split", y, b.integers(2, 2, 1 + classes), outputs=3, axis=-1)
    centre = b.op("Sub", b.op("Mul", centre, b.constant(2.0)), b.constant(0.5))
    extent = b.op("Pow", b.op("Mul", extent, b.constant(2.0)), b.constant(2.0))
    joined = b.op("Concat", centre, extent, scores, axis=-1)
    return b.op("Reshape", joined, b.integers(batch, -1, 5 + classes))


def _resize(b: Builder, x: Value, rows: int, columns: int, **attributes: Any) -> Value:
    extents = b.integers(*x.shape[:2], rows, columns)
    defaults: dict[str, Any] = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    return b.op("Resize", x, None, None, extents, **(defaults | attributes))
