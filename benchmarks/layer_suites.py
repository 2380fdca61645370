"""Layers by what they are looked at for: `--suite NAME` of benchmarks/layers.py.

- usual: one of each kind that some network spends its time in;
- vgg-e: the 3x3 layers of VGG-E behind the first, as in Lavin & Gray 2015, table 5, at any batch;
- kernels: 56 x 56 pixels, kernels of 3 to 63, 64 channels dense and 384 depthwise: where Winograd and FFT take over;
- caffe-era: AlexNet, OverFeat, GoogLeNet and VGG-A, as in the benchmarks of convnets of 2014.
"""

from benchmarks.layer_suite import LAYERS, BenchLayer, conv_layer

USUAL = "usual"
KERNELS = (3, 5, 7, 9, 11, 15, 21, 31, 63)
BATCHES = (1, 2, 4, 8, 16, 32, 64)

LAVIN_GRAY = {1: 2.26, 2: 2.06, 4: 5.91, 8: 7.28, 16: 3.09, 32: 1.79, 64: 1.48}
"""Their speed-up of F(2x2, 3x3) over the vendor's library on a GPU, fp32, all of VGG-E, by batch."""

_VGG_E = (
    ("1_2", (64, 64), 224),
    ("2_1", (64, 128), 112),
    ("2_2", (128, 128), 112),
    ("3_1", (128, 256), 56),
    ("3_2", (256, 256), 56),
    ("4_1", (256, 512), 28),
    ("4_2", (512, 512), 28),
    ("5", (512, 512), 14),
)

CAFFE_ERA = (
    conv_layer("alexnet_1", (3, 96), 227, 11, stride=4, pads=0),
    conv_layer("alexnet_2", (96, 256), 27, 5, groups=2),
    conv_layer("alexnet_3", (256, 384), 13, 3),
    conv_layer("alexnet_4", (384, 384), 13, 3, groups=2),
    conv_layer("alexnet_5", (384, 256), 13, 3, groups=2),
    conv_layer("overfeat_1", (3, 96), 231, 11, stride=4, pads=0),
    conv_layer("overfeat_2", (96, 256), 28, 5, pads=0),
    conv_layer("overfeat_3", (256, 512), 12, 3),
    conv_layer("overfeat_4", (512, 1024), 12, 3),
    conv_layer("overfeat_5", (1024, 1024), 12, 3),
    conv_layer("googlenet_1", (3, 64), 224, 7, stride=2),
    conv_layer("googlenet_2", (64, 192), 56, 3),
    conv_layer("googlenet_3a_1x1", (192, 64), 28, 1),
    conv_layer("googlenet_3a_3x3", (96, 128), 28, 3),
    conv_layer("googlenet_3a_5x5", (16, 32), 28, 5),
    conv_layer("googlenet_3b_5x5", (32, 96), 28, 5),
    conv_layer("googlenet_4a_3x3", (96, 208), 14, 3),
    conv_layer("googlenet_4e_3x3", (160, 320), 14, 3),
    conv_layer("googlenet_4e_5x5", (32, 128), 14, 5),
    conv_layer("googlenet_5b_3x3", (192, 384), 7, 3),
    conv_layer("googlenet_5b_5x5", (48, 128), 7, 5),
    conv_layer("vgg_a_1", (3, 64), 224, 3),
    conv_layer("vgg_a_2", (64, 128), 112, 3),
    conv_layer("vgg_a_3_1", (128, 256), 56, 3),
    conv_layer("vgg_a_3_2", (256, 256), 56, 3),
    conv_layer("vgg_a_4_1", (256, 512), 28, 3),
    conv_layer("vgg_a_4_2", (512, 512), 28, 3),
    conv_layer("vgg_a_5", (512, 512), 14, 3),
)


FORMATS = (
    conv_layer("conv3_256_56", (256, 256), 56, 3),
    conv_layer("conv3_256_28", (256, 256), 28, 3),
    conv_layer("conv3_512_28", (512, 512), 28, 3),
    conv_layer("conv1_256_56", (256, 256), 56, 1),
    conv_layer("conv1_256_28", (256, 256), 28, 1),
    conv_layer("conv1_512_28", (512, 512), 28, 1),
)


def vgg_e(batch: int) -> tuple[BenchLayer, ...]:
    """The suite at a batch."""
    suffix = "" if batch == 1 else f"_batch{batch}"
    return tuple(conv_layer(f"vgg_e_{name}{suffix}", channels, size, 3, batch=batch) for name, channels, size in _VGG_E)


def _kernels() -> tuple[BenchLayer, ...]:
    dense = (conv_layer(f"dense_{k}", (64, 64), 56, k) for k in KERNELS)
    depthwise = (conv_layer(f"depthwise_{k}", (384, 384), 56, k, groups=384) for k in KERNELS)
    return (*dense, *depthwise)


SUITES: dict[str, tuple[BenchLayer, ...]] = {
    USUAL: LAYERS,
    "vgg-e": tuple(layer for batch in BATCHES for layer in vgg_e(batch)),
    "kernels": _kernels(),
    "caffe-era": CAFFE_ERA,
    "formats": FORMATS,
}


def suite(name: str, batch: int) -> tuple[BenchLayer, ...]:
    """The layers of a suite; `batch` chooses among those of vgg-e."""
    return vgg_e(batch) if name == "vgg-e" else SUITES[name]


def find(name: str) -> BenchLayer:
    """The layer of that name, of any suite."""
    return next(layer for layers in SUITES.values() for layer in layers if layer.name == name)
