"""Convolutions for tests of what is decided about them: 3x3, 64 to 64 channels, unless said otherwise."""

from typing import Any

from lowprec.convolution import Conv
from lowprec.layers import Gemm, Layer


def conv(**changes: Any) -> Conv:
    base: dict[str, Any] = {
        "batch": 1,
        "in_channels": 64,
        "out_channels": 64,
        "groups": 1,
        "size": (56, 56),
        "kernel": (3, 3),
        "stride": (1, 1),
        "dilation": (1, 1),
        "pads_begin": (1, 1),
        "pads_end": (1, 1),
    }
    return Conv(**base | changes)


def line(**changes: Any) -> Conv:
    """The same with one spatial axis."""
    names = ("size", "kernel", "stride", "dilation", "pads_begin", "pads_end")
    one_axis = dict(zip(names, ((56,), (3,), (1,), (1,), (1,), (1,)), strict=True))
    return conv(**one_axis | changes)


def volume(**changes: Any) -> Conv:
    """The same with three."""
    names = ("size", "kernel", "stride", "dilation", "pads_begin", "pads_end")
    three = dict(zip(names, ((9,) * 3, (3,) * 3, (1,) * 3, (1,) * 3, (1,) * 3, (1,) * 3), strict=True))
    return conv(**three | changes)


def layer(name: str, op: str, geometry: Conv | Gemm | None) -> Layer:
    return Layer(
        name=name,
        op=op,
        output=name,
        input_shapes=(),
        output_shape=(),
        parameters=0,
        macs=0,
        bytes=0,
        geometry=geometry,
    )
