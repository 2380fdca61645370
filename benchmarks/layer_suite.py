"""The single layers that benchmarks/layers.py times: real shapes, each of a kind that some network spends its time in.

A layer is measured as a bank: one model with several copies, different weights and inputs for each, so that a copy's
weights and activations have left the second-level cache before it is met again.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from lowprec.convolution import Conv
from lowprec.layers import Gemm

Float32 = NDArray[np.float32]
FLOAT_BYTES = 4
MOST_COPIES = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchLayer:
    """A named layer, with a bias."""

    name: str
    geometry: Conv | Gemm

    @property
    def input_shape(self) -> tuple[int, ...]:
        match self.geometry:
            case Conv() as conv:
                return (conv.batch, conv.in_channels, *conv.size)
            case Gemm() as gemm:
                return (gemm.rows, gemm.depth)

    @property
    def output_shape(self) -> tuple[int, ...]:
        match self.geometry:
            case Conv() as conv:
                return (conv.batch, conv.out_channels, *conv.output_size)
            case Gemm() as gemm:
                return (gemm.rows, gemm.cols)

    @property
    def weight_shape(self) -> tuple[int, ...]:
        match self.geometry:
            case Conv() as conv:
                return conv.weight_shape
            case Gemm() as gemm:
                return (gemm.cols, gemm.depth)

    @property
    def channels(self) -> int:
        return self.geometry.out_channels if isinstance(self.geometry, Conv) else self.geometry.cols

    @property
    def macs(self) -> int:
        return self.geometry.macs

    @property
    def bytes(self) -> int:
        """All that one copy reads and writes, once."""
        elements = math.prod(self.input_shape) + math.prod(self.output_shape) + math.prod(self.weight_shape)
        return FLOAT_BYTES * (elements + self.channels)


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameters:
    """One copy's weights and bias."""

    weight: Float32
    bias: Float32


def copies_past(cache_bytes: int, layer: BenchLayer) -> int:
    """How many copies fill four times the cache (one, if the layer does so alone), at most sixteen."""
    return min(MOST_COPIES, math.ceil(4 * cache_bytes / layer.bytes))


def parameters(layer: BenchLayer, copy: int, *, seed: int) -> Parameters:
    """The values of one copy: outputs near N(0, 1) for inputs near N(0, 1)."""
    rng = np.random.default_rng([seed, copy])
    fan_in = layer.macs // math.prod(layer.output_shape)
    weight = rng.standard_normal(layer.weight_shape, dtype=np.float32) / np.float32(math.sqrt(max(1, fan_in)))
    return Parameters(weight=weight, bias=np.float32(0.1) * rng.standard_normal(layer.channels, dtype=np.float32))


def inputs(layer: BenchLayer, copies: int, *, seed: int) -> dict[str, Float32]:
    """An input for every copy, by name."""
    rng = np.random.default_rng([seed, MOST_COPIES])
    return {f"x{copy}": rng.standard_normal(layer.input_shape, dtype=np.float32) for copy in range(copies)}


def bank(layer: BenchLayer, copies: int, *, seed: int) -> onnx.ModelProto:
    """The model: copy k computes y{k} from x{k}."""
    nodes = [_node(layer.geometry, copy) for copy in range(copies)]
    ends = [[f"{end}{copy}" for copy in range(copies)] for end in "xy"]
    return _model(layer, nodes, ends, _weights(layer, copies, seed=seed))


def chain(layer: BenchLayer, copies: int, *, seed: int, rectified: bool) -> onnx.ModelProto:
    """The model: copy k reads what copy k - 1 gives, rectified or as it is; for layers that give what they can read."""
    assert layer.input_shape == layer.output_shape, layer.name
    between = "Relu" if rectified else "Identity"
    nodes = []
    for copy in range(copies):
        nodes += [_node(layer.geometry, copy), helper.make_node(between, [f"y{copy}"], [f"x{copy + 1}"])]
    gain = math.sqrt(2) if rectified else 1.0
    return _model(layer, nodes, [["x0"], [f"x{copies}"]], _weights(layer, copies, seed=seed, gain=gain))


def _weights(layer: BenchLayer, copies: int, *, seed: int, gain: float = 1.0) -> list[TensorProto]:
    """Of all copies."""
    found = []
    for copy in range(copies):
        values = parameters(layer, copy, seed=seed)
        found.append(numpy_helper.from_array(np.float32(gain) * values.weight, f"w{copy}"))
        found.append(numpy_helper.from_array(values.bias, f"b{copy}"))
    return found


def _model(
    layer: BenchLayer, nodes: list[onnx.NodeProto], ends: list[list[str]], weights: list[TensorProto]
) -> onnx.ModelProto:
    """With the names of its inputs and of its outputs."""
    inputs, outputs = (
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in names]
        for names, shape in zip(ends, (layer.input_shape, layer.output_shape), strict=True)
    )
    graph = helper.make_graph(nodes, layer.name, inputs, outputs, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return model


def _node(geometry: Conv | Gemm, copy: int) -> onnx.NodeProto:
    names = [f"x{copy}", f"w{copy}", f"b{copy}"]
    if isinstance(geometry, Gemm):
        return helper.make_node("Gemm", names, [f"y{copy}"], name=f"y{copy}", transB=1)
    extra: dict[str, Any] = {"output_padding": geometry.output_padding} if geometry.transposed else {}
    return helper.make_node(
        "ConvTranspose" if geometry.transposed else "Conv",
        names,
        [f"y{copy}"],
        name=f"y{copy}",
        kernel_shape=geometry.kernel,
        strides=geometry.stride,
        dilations=geometry.dilation,
        pads=(*geometry.pads_begin, *geometry.pads_end),
        group=geometry.groups,
        **extra,
    )


def conv_layer(
    name: str,
    channels: tuple[int, int],
    size: int | tuple[int, ...],
    kernel: int | tuple[int, ...],
    *,
    stride: int = 1,
    dilation: int = 1,
    groups: int = 1,
    pads: int | None = None,
    batch: int = 1,
    transposed: bool = False,
) -> BenchLayer:
    """Two axes unless `size` says otherwise; padded to keep the size at stride 1 unless `pads` says otherwise."""
    sizes = (size, size) if isinstance(size, int) else size
    rank = len(sizes)
    kernels = (kernel,) * rank if isinstance(kernel, int) else kernel
    around = tuple(dilation * (extent - 1) // 2 if pads is None else pads for extent in kernels)
    geometry = Conv(
        batch=batch,
        in_channels=channels[0],
        out_channels=channels[1],
        groups=groups,
        size=sizes,
        kernel=kernels,
        stride=(stride,) * rank,
        dilation=(dilation,) * rank,
        pads_begin=around,
        pads_end=around,
        transposed=transposed,
    )
    return BenchLayer(name=name, geometry=geometry)


def _gemm(name: str, rows: int, depth: int, cols: int) -> BenchLayer:
    return BenchLayer(name=name, geometry=Gemm(batch=1, rows=rows, cols=cols, depth=depth))


LAYERS: tuple[BenchLayer, ...] = (
    conv_layer("vgg_1_1", (3, 64), 224, 3),
    conv_layer("vgg_1_2", (64, 64), 224, 3),
    conv_layer("vgg_2_1", (64, 128), 112, 3),
    conv_layer("vgg_2_2", (128, 128), 112, 3),
    conv_layer("vgg_3_1", (128, 256), 56, 3),
    conv_layer("vgg_3_2", (256, 256), 56, 3),
    conv_layer("vgg_4_1", (256, 512), 28, 3),
    conv_layer("vgg_4_2", (512, 512), 28, 3),
    conv_layer("vgg_5", (512, 512), 14, 3),
    conv_layer("resnet_stem", (3, 64), 224, 7, stride=2),
    conv_layer("resnet_2_reduce", (256, 64), 56, 1),
    conv_layer("resnet_2_3x3", (64, 64), 56, 3),
    conv_layer("resnet_2_expand", (64, 256), 56, 1),
    conv_layer("resnet_3_3x3", (128, 128), 28, 3),
    conv_layer("resnet_3_3x3_stride", (128, 128), 56, 3, stride=2),
    conv_layer("resnet_3_expand", (128, 512), 28, 1),
    conv_layer("resnet_4_shortcut", (512, 1024), 28, 1, stride=2),
    conv_layer("resnet_4_3x3", (256, 256), 14, 3),
    conv_layer("resnet_4_expand", (256, 1024), 14, 1),
    conv_layer("resnet_5_reduce", (2048, 512), 7, 1),
    conv_layer("resnet_5_3x3", (512, 512), 7, 3),
    conv_layer("resnet_5_expand", (512, 2048), 7, 1),
    conv_layer("resnet_4_3x3_batch8", (256, 256), 14, 3, batch=8),
    conv_layer("alexnet_conv1", (3, 96), 224, 11, stride=4, pads=0),
    conv_layer("alexnet_conv2", (96, 256), 26, 5, groups=2),
    conv_layer("inception_5x5", (32, 96), 28, 5),
    conv_layer("inception_1x7", (192, 192), 17, (1, 7)),
    conv_layer("inception_7x1", (192, 192), 17, (7, 1)),
    conv_layer("mobilenet_dw_112", (32, 32), 112, 3, groups=32),
    conv_layer("mobilenet_dw_56_stride", (144, 144), 56, 3, groups=144, stride=2),
    conv_layer("mobilenet_dw_14", (576, 576), 14, 3, groups=576),
    conv_layer("efficientnet_dw_5x5", (672, 672), 14, 5, groups=672),
    conv_layer("convnext_dw_7x7", (192, 192), 28, 7, groups=192),
    conv_layer("mobilenet_expand", (24, 144), 56, 1),
    conv_layer("mobilenet_project", (144, 24), 56, 1),
    conv_layer("resnext_2_grouped", (128, 128), 56, 3, groups=32),
    conv_layer("resnext_5_grouped", (1024, 1024), 7, 3, groups=32),
    conv_layer("shufflenet_grouped_1x1", (272, 272), 14, 1, groups=4),
    conv_layer("deeplab_dilated_2", (256, 256), 33, 3, dilation=2),
    conv_layer("deeplab_dilated_12", (512, 256), 33, 3, dilation=12),
    conv_layer("unet_up_2x2", (256, 128), 28, 2, stride=2, pads=0, transposed=True),
    conv_layer("generator_up_4x4", (256, 128), 16, 4, stride=2, pads=1, transposed=True),
    conv_layer("wavenet_1d", (64, 64), (4096,), 3, dilation=8),
    conv_layer("video_3d", (64, 64), (8, 28, 28), 3),
    _gemm("resnet_fc", 1, 2048, 1000),
    _gemm("vgg_fc6", 1, 25088, 4096),
    _gemm("vgg_fc7", 1, 4096, 4096),
    _gemm("vgg_fc7_batch8", 8, 4096, 4096),
    _gemm("vit_mlp", 197, 192, 768),
)
