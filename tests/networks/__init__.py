"""Our own builders of the architectures that the nine models lack: depthwise, squeeze-excite, groups, attention, 3-D,
signs.

`NETWORKS` names them all. Each builds at full size or, for tests, small: the same operators, few and odd channels.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import onnx

from tests.networks import binary, classifiers, dense, transformers, volumes
from tests.networks.builder import Size

SMALL = Size(image=33, width=0.25, depth=0.34)
FULL = Size()


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """A named architecture; `small` is where tests run it, `full` where it is as published."""

    name: str
    build: Callable[[Size], onnx.ModelProto]
    small: Size = SMALL
    full: Size = FULL

    def model(self, size: Size, *, batch: int = 1) -> onnx.ModelProto:
        return self.build(replace(size, batch=batch))


NETWORKS = (
    Network(name="lenet5", build=classifiers.lenet5),
    Network(name="mobilenet_v2", build=classifiers.mobilenet_v2),
    Network(name="mobilenet_v3", build=classifiers.mobilenet_v3),
    Network(name="efficientnet_b0", build=classifiers.efficientnet_b0),
    Network(name="resnext50", build=classifiers.resnext50),
    Network(name="regnet_y", build=classifiers.regnet_y),
    Network(name="shufflenet_v2", build=classifiers.shufflenet_v2),
    Network(
        name="inception_v3",
        build=classifiers.inception_v3,
        small=Size(image=75, width=0.1, depth=0.25),
        full=Size(image=299),
    ),
    Network(name="resnet_v2", build=classifiers.resnet_v2),
    Network(name="binarynet", build=binary.binarynet),
    Network(name="binary_layer", build=binary.binary_layer, full=Size(image=56)),
    Network(name="darknet", build=classifiers.darknet),
    Network(name="deeplab", build=dense.deeplab, small=replace(SMALL, width=0.1), full=Size(image=257)),
    Network(name="unet", build=dense.unet, small=Size(image=40, width=0.1), full=Size(image=256)),
    Network(name="yolo", build=dense.yolo, small=Size(image=64, width=0.25, depth=0.34), full=Size(image=320)),
    Network(name="style", build=dense.style, small=Size(image=36, width=0.25, depth=0.2)),
    Network(name="super_resolution", build=dense.super_resolution),
    Network(name="generator", build=dense.generator, small=Size(width=0.1)),
    Network(name="convnext", build=transformers.convnext, small=Size(image=37, width=0.2, depth=0.2)),
    Network(name="convnext_v2", build=transformers.convnext_v2, small=Size(image=65, width=0.25, depth=0.2)),
    Network(name="vit", build=transformers.vit, small=Size(image=48, width=0.2, depth=0.1)),
    Network(name="group_norm", build=transformers.group_norm),
    Network(name="wavenet", build=volumes.wavenet, small=Size(image=13, width=0.5, depth=0.5)),
    Network(name="speech", build=volumes.speech, small=Size(image=33, width=0.1, depth=0.5)),
    Network(name="video", build=volumes.video, small=Size(image=33, width=0.2, depth=0.5), full=Size(image=112)),
)
