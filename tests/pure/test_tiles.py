"""Layers are computed on tiles where that was measured to be faster than vectors are."""

import pytest

from lowprec.convolution import Conv
from lowprec.targets import parse_target
from lowprec.tiles import multiplies_halves, multiplies_integers, rows_of

TARGET = parse_target("sapphirerapids")


def conv(channels: tuple[int, int], *, groups: int = 1, kernel: int = 1) -> Conv:
    return Conv(
        batch=1,
        in_channels=channels[0],
        out_channels=channels[1],
        groups=groups,
        size=(28, 28),
        kernel=(kernel, kernel),
        stride=(1, 1),
        dilation=(1, 1),
        pads_begin=(kernel // 2, kernel // 2),
        pads_end=(kernel // 2, kernel // 2),
    )


LAYERS = {  # in bytes, and in bf16: what was faster on a Xeon with AMX
    "dense": (conv((256, 256)), True, True),
    "dense, and few channels": (conv((24, 96)), False, True),
    "3x3 of few channels": (conv((16, 64), kernel=3), True, True),
    "a first layer of 3x3": (conv((3, 64), kernel=3), False, False),
    "a first layer of 7x7": (conv((3, 64), kernel=7), True, True),
    "groups of whole tiles": (conv((512, 512), groups=4), True, True),
    "groups of 6 channels": (conv((24, 112), groups=4), False, False),
    "groups of 34 channels": (conv((136, 136), groups=4), False, False),
    "groups of 68 channels": (conv((272, 272), groups=4), False, True),
    "3x3 in groups of 32": (conv((1024, 1024), groups=32, kernel=3), True, True),
}


@pytest.mark.parametrize(("layer", "in_bytes", "in_halves"), LAYERS.values(), ids=LAYERS)
def test_tiles_are_for_layers_that_are_faster_on_them(layer: Conv, in_bytes: bool, in_halves: bool) -> None:
    depth = layer.in_channels // layer.groups * layer.kernel[0] * layer.kernel[1]
    assert multiplies_integers(rows_of(layer), depth, ("int8", "uint8"), TARGET) == in_bytes
    assert multiplies_halves(rows_of(layer), depth, "bf16", TARGET) == in_halves
