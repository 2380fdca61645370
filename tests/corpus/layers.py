"""Layers that contradict themselves: weights, windows, statistics, scales."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from onnx import ModelProto, TensorProto

from tests.corpus.case import Case, Spoil, from_model, single, spoiled, with_attribute, with_constant

ONES = np.ones
F32 = np.float32


def cases() -> Iterator[Case]:
    yield from convolutions()
    yield from transposed()
    yield from pools()
    yield from statistics()
    yield from scales()


def convolutions() -> Iterator[Case]:
    def weight(*shape: int) -> Spoil:
        return with_constant("weight", ONES(shape, F32))

    ranks: tuple[tuple[int, ...], ...] = ((8, 3, 3), (8, 3, 3, 3, 3), (24, 9), (8,), ())
    for shape in ranks:
        yield spoiled("convolution weights of the wrong rank", f"{shape}", weight(*shape), mentions="conv")
    for shape in ((8, 4, 3, 3), (8, 1, 3, 3), (8, 0, 3, 3), (0, 3, 3, 3), (8, 3, 0, 3)):
        yield spoiled("convolution weights of the wrong shape", f"{shape}", weight(*shape), mentions="conv")
    for length in (0, 1, 7, 9):
        change = with_constant("bias", ONES(length, F32))
        yield spoiled("bias of the wrong length", f"{length}", change, mentions="conv")

    def attribute(name: str, content: Any) -> Spoil:
        return with_attribute("conv", name, content)

    kinds: Mapping[str, tuple[Any, ...]] = {
        "kernel_shape": ([5, 5], [3], [3, 3, 3], [0, 0], [-3, -3]),
        "strides": ([0, 1], [-1, -1], [2], [1 << 40, 1]),
        "dilations": ([0, 0], [-2, 1], [1], [1 << 40, 1 << 40]),
        "pads": ([1, 1], [-1, 0, 0, 0], [1 << 40] * 4, [-9] * 4),
        "group": (0, -1, 2, 3, 1 << 60),
        "auto_pad": ("SAME", "\x00", "valid"),
    }
    for name, contents in kinds.items():
        for content in contents:
            yield spoiled(f"convolution {name}", f"{content!r}", attribute(name, content), mentions="conv")
    for size in ([1, 3, 2, 2], [1, 3, 1, 8]):
        model = single("Conv", [size], [("w", ONES((8, 3, 3, 3), F32))])
        yield from_model("window larger than its input", f"{size}", model, mentions="spoiled")


def transposed() -> Iterator[Case]:
    def conv(**attributes: Any) -> ModelProto:
        return single("ConvTranspose", [[1, 4, 5, 5]], [("w", ONES((4, 2, 3, 3), F32))], **attributes)

    for attributes in (
        {"output_padding": [-1, 0]},
        {"output_padding": [1]},
        {"output_shape": [0, 0]},
        {"group": 3},
        {"strides": [0, 0]},
        {"kernel_shape": [2, 2]},
        {"pads": [9, 9, 9, 9]},
    ):
        yield from_model("transposed convolution", f"{attributes}", conv(**attributes), mentions="spoiled")
    wrong = single("ConvTranspose", [[1, 4, 5, 5]], [("w", ONES((3, 2, 3, 3), F32))])
    yield from_model("transposed convolution", "channels", wrong, mentions="spoiled")


def pools() -> Iterator[Case]:
    def attribute(name: str, content: Any) -> Spoil:
        return with_attribute("pool", name, content)

    for name, content in (
        ("kernel_shape", [0, 2]),
        ("kernel_shape", [-2, 2]),
        ("kernel_shape", [2]),
        ("kernel_shape", [9, 9]),
        ("strides", [0, 0]),
        ("strides", [2]),
        ("pads", [2, 2, 2, 2]),
        ("pads", [1, 1]),
        ("dilations", [0, 1]),
        ("auto_pad", "NONE"),
    ):
        yield spoiled("pooling window", f"{name} {content!r}", attribute(name, content), mentions="pool")
    yield from_model("pooling window", "none", single("AveragePool", [[1, 3, 8, 8]]), mentions="spoiled")
    yield from_model("pooling of a matrix", "rank 2", single("GlobalMaxPool", [[3]]), mentions="spoiled", exit_code=3)


def statistics() -> Iterator[Case]:
    for name in ("gamma", "beta", "mean", "variance"):
        for array in (ONES(7, F32), ONES((8, 1), F32)):
            change = with_constant(name, array)
            yield spoiled("batch norm of the wrong shape", f"{name} {array.shape}", change, mentions="norm")
    for value_ in (-1.0, np.nan, -np.inf):
        bad = ONES(8, F32)
        bad[3] = value_
        yield spoiled("batch norm variance", f"{value_}", with_constant("variance", bad), mentions="norm")
    signalling = np.full(8, 0x7FA00000, np.uint32).view(F32)
    yield spoiled("batch norm variance", "signalling NaN", with_constant("variance", signalling), mentions="norm")
    yield spoiled("NaN attribute", "epsilon", with_attribute("norm", "epsilon", float("nan")), mentions="norm")
    leaky = single("LeakyRelu", [[1, 3]], alpha=float("nan"))
    yield from_model("NaN attribute", "alpha", leaky, mentions="spoiled")
    yield from_model(
        "group count",
        "3 of 8",
        single("GroupNormalization", [[1, 8, 4]], [("s", ONES(8, F32)), ("b", ONES(8, F32))], opset=21, num_groups=3),
        mentions="spoiled",
    )
    yield from_model("LRN size", "0", single("LRN", [[1, 3, 4, 4]], size=0), mentions="spoiled")


def scales() -> Iterator[Case]:
    for bad in (0.0, -0.1, np.nan, np.inf):
        scale = ("scale", F32(bad))
        yield from_model(
            "quantization scale",
            f"QuantizeLinear {bad}",
            single("QuantizeLinear", [[4]], [scale], output_dtype=TensorProto.UINT8),
            mentions="spoiled",
        )
        constants = [("q", np.zeros(4, np.int8)), scale]
        yield from_model(
            "quantization scale",
            f"DequantizeLinear {bad}",
            single("DequantizeLinear", [], constants),
            mentions="spoiled",
        )
    perchannel = [("scale", ONES(3, F32))]
    yield from_model(
        "quantization axis",
        "length",
        single("QuantizeLinear", [[2, 4]], perchannel, output_dtype=TensorProto.UINT8, axis=1),
        mentions="spoiled",
    )
    yield from_model(
        "quantization axis",
        "range",
        single("QuantizeLinear", [[2, 3]], perchannel, output_dtype=TensorProto.UINT8, axis=5),
        mentions="spoiled",
    )
    points = [("scale", ONES(4, F32)), ("zero", np.zeros(3, np.uint8))]
    yield from_model(
        "zero point",
        "shape",
        single("QuantizeLinear", [[2, 4]], points, output_dtype=TensorProto.UINT8),
        mentions="spoiled",
    )
    points = [("scale", F32(1)), ("zero", np.zeros((), np.int64))]
    yield from_model(
        "zero point",
        "type",
        single("QuantizeLinear", [[2, 4]], points, output_dtype=TensorProto.INT64),
        mentions="spoiled",
    )
