"""Steps on images and volumes: convolutions of every kind, pools, gates, resizing.

Weights are drawn for the scale of what they meet, so that values stay near 1."""

import math
from typing import Any

from tests.networks.drawing import Drawing, Refused, Tensor
from tests.networks.steps.elements import activate, normalize

CHANNELS = (1, 2, 3, 5, 8, 16, 17, 34, 40)


def window(draw: Drawing, x: Tensor, *, dilated: bool = True) -> dict[str, Any]:
    """Kernel, strides, dilations and uneven pads that fit."""
    sizes = x.shape[2:]
    kernel = [draw.one_of(1, 1, 2, 3, 3, 3, 4, 5) for _ in sizes]
    if draw.chance(0.6):
        kernel = [kernel[0]] * len(sizes)
    stride = [draw.one_of(1, 1, 1, 2, 3)] * len(sizes) if draw.chance(0.7) else [draw.between(1, 3) for _ in sizes]
    dilation = [draw.one_of(1, 1, 1, 2, 3) if dilated else 1 for _ in sizes]
    spans = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
    if draw.chance(0.5):
        pads = [span // 2 for span in spans] + [span - span // 2 for span in spans]
    else:
        pads = [draw.between(0, min(2, k - 1)) for k in kernel * 2]
    if any(n + b + a <= span for n, b, a, span in zip(sizes, pads, pads[len(sizes) :], spans, strict=False)):
        raise Refused
    found: dict[str, Any] = {"kernel_shape": kernel, "strides": stride, "pads": pads}
    return found | ({"dilations": dilation} if dilated else {})


def convolve(draw: Drawing, x: Tensor, channels: int = 0, **given: Any) -> Tensor:
    """A convolution: plain, grouped, depthwise, or depthwise with two outputs a channel."""
    inside = x.shape[1]
    groups = draw.one_of(1, 1, 1, inside, *(g for g in (2, 3, 4, 5, 17) if inside % g == 0))
    outside = channels or (inside * draw.between(1, 2) if groups == inside else draw.one_of(*CHANNELS))
    if outside % groups:
        groups = 1
    attributes = given or window(draw, x)
    if draw.chance(0.1) and not given:
        attributes = {k: v for k, v in attributes.items() if k != "pads"} | {
            "auto_pad": draw.one_of("SAME_UPPER", "SAME_LOWER", "VALID")
        }
        attributes["dilations"] = [1] * (x.rank - 2)
    kernel = attributes["kernel_shape"]
    fan_in = inside // groups * math.prod(kernel)
    weight = draw.normal(outside, inside // groups, *kernel, scale=1 / (math.sqrt(fan_in) * x.scale))
    bias = [draw.normal(outside, scale=0.3)] if draw.chance(0.6) else []
    return draw.op("Conv", x, weight, *bias, group=groups, **attributes)


def conv(draw: Drawing) -> Tensor:
    y = convolve(draw, draw.image())
    if draw.chance(0.3):
        y = normalize(draw, y)
    return activate(draw, y) if draw.chance(0.6) else y


def same(draw: Drawing, x: Tensor, channels: int = 0) -> Tensor:
    """A convolution that keeps the size."""
    kernel = [draw.one_of(1, 3, 3, 5)] * (x.rank - 2)
    pads = [extent // 2 for extent in kernel]
    return convolve(draw, x, channels, kernel_shape=kernel, pads=pads + pads)


def residual(draw: Drawing) -> Tensor:
    x = draw.image()
    for _ in range(draw.between(1, 3)):
        y = activate(draw, same(draw, x)) if draw.chance(0.5) else x
        y = same(draw, y, x.shape[1])
        x = draw.op("Add", *((x, y) if draw.chance(0.5) else (y, x)))
        x = activate(draw, x) if draw.chance(0.7) else x
    return x


def fan(draw: Drawing) -> Tensor:
    """One tensor, read by everything."""
    x = activate(draw, draw.image())
    convs = [convolve(draw, x) for _ in range(draw.between(2, 3))]
    own = same(draw, x, x.shape[1])
    pools(draw, x)
    draw.op("GlobalAveragePool", x)
    draw.op("Add", x, own)
    draw.op("Concat", own, x, x, axis=1)
    return convs[0]


def transposed(draw: Drawing) -> Tensor:
    x = draw.image()
    rank = x.rank - 2
    groups = draw.one_of(1, 1, *(g for g in (x.shape[1], 2) if x.shape[1] % g == 0))
    outside = draw.one_of(1, 2, 3, 8, 17)
    kernel, stride = [draw.between(1, 4) for _ in range(rank)], [draw.between(1, 3) for _ in range(rank)]
    dilation = [draw.one_of(1, 1, 2) for _ in range(rank)]
    pads = [draw.between(0, k // 2) for k in kernel * 2]
    extra = [draw.between(0, s - 1) for s in stride]
    taps = x.shape[1] // groups * math.prod(kernel) / math.prod(stride)
    weight = draw.normal(x.shape[1], outside, *kernel, scale=1 / (math.sqrt(max(1, taps)) * x.scale))
    bias = [draw.normal(outside * groups, scale=0.3)] if draw.chance(0.6) else []
    attributes = {"strides": stride, "pads": pads, "output_padding": extra, "dilations": dilation, "group": groups}
    return draw.op("ConvTranspose", x, weight, *bias, kernel_shape=kernel, **attributes)


def computed_weights(draw: Drawing) -> Tensor:
    x = draw.image()
    kernel = [draw.one_of(1, 3)] * (x.rank - 2)
    mean = draw.op("ReduceMean", draw.pick(lambda value: True), keepdims=0)
    scale = 1 / (math.sqrt(x.shape[1] * math.prod(kernel)) * x.scale)
    weight = draw.op("Mul", draw.normal(draw.one_of(2, 5, 16), x.shape[1], *kernel, scale=scale), draw.op("Exp", mean))
    return draw.op("Conv", x, weight, kernel_shape=kernel, pads=[k // 2 for k in kernel * 2])


def pools(draw: Drawing, x: Tensor | None = None) -> Tensor:
    x = x or draw.image()
    kind = draw.one_of("MaxPool", "AveragePool", "LpPool")
    attributes = window(draw, x, dilated=kind == "MaxPool" or (kind == "AveragePool" and draw.opset >= 19))
    kernel = attributes["kernel_shape"]
    if any(pad >= extent for pad, extent in zip(attributes["pads"], kernel * 2, strict=True)):
        raise Refused  # a window of padding alone
    if kind != "LpPool":
        attributes["ceil_mode"] = draw.between(0, 1)
    if kind == "AveragePool":
        attributes["count_include_pad"] = draw.between(0, 1)
    return draw.op(kind, x, **attributes)


def global_pools(draw: Drawing) -> Tensor:
    return draw.op(draw.one_of("GlobalAveragePool", "GlobalMaxPool"), draw.image())


def gate(draw: Drawing) -> Tensor:
    """Squeeze and excite."""
    x = draw.image()
    inner = activate(draw, same(draw, draw.op("GlobalAveragePool", x), draw.one_of(1, 2, 5)))
    y = draw.op(draw.one_of("Sigmoid", "HardSigmoid"), same(draw, inner, x.shape[1]))
    return draw.op("Mul", *((x, y) if draw.chance(0.5) else (y, x)))


def resize(draw: Drawing) -> Tensor:
    x = draw.image()
    mode = draw.one_of("nearest", "linear")
    scales = [1.0, 1.0] + [draw.one_of(0.5, 1.0, 2.0, 2.0, 3.0, 1.5) for _ in x.shape[2:]]
    where = draw.one_of("half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel")
    rounds = {"nearest_mode": draw.one_of("floor", "round_prefer_floor", "ceil")} if mode == "nearest" else {}
    if where == "align_corners" or draw.chance(
        0.5
    ):  # with broken scales, ONNX and its runtimes disagree on the corners
        sizes = draw.integers(*(max(1, int(n * s)) for n, s in zip(x.shape, scales, strict=True)))
        return draw.op("Resize", x, None, None, sizes, mode=mode, coordinate_transformation_mode=where, **rounds)
    return draw.op("Resize", x, None, draw.constant(scales), mode=mode, coordinate_transformation_mode=where, **rounds)
