"""Depthwise convolutions from the model's input to its output, where channels lie one after the other: which can leave
them so, and what that takes. See `schedules.planes`.
"""

from dataclasses import replace
from math import hypot

from lowprec.convolution import Conv
from lowprec.layers import Layer
from lowprec.predicting import FLOAT_BYTES, MEMORY_RATE, MULTIPLIERS, SCRATCH, Prediction, activations, predict_direct
from lowprec.targets import Target

SHARE, RATE = 0.78, 9.0
"""Of the multipliers' peak, and bytes a cycle that are read and written beside."""

TURNING_RATE = 4.3
"""Bytes a cycle, read and written, where images are turned so that channels lie side by side."""


def may_lie_as_planes(layer: Layer, target: Target) -> bool:
    """Whether a layer can be computed so: alone, in float32, with rows that fill a vector."""
    match layer.geometry:
        case Conv() as conv if layer.alone and layer.words is None and not layer.obstacle:
            return _has_kernel(conv, target)
    return False


def _has_kernel(conv: Conv, target: Target) -> bool:
    """What it turns are squares, as wide as a vector, of rows that stay in L2."""
    plain = conv.depthwise and conv.out_channels == conv.groups and not conv.transposed and len(conv.size) == 2
    if not plain or target.lanes > min(conv.groups, conv.size[1], conv.output_size[1]):
        return False
    pitch = conv.pads_begin[1] + conv.size[1] + conv.pads_end[1]
    return FLOAT_BYTES * target.lanes * pitch * 3 * conv.reach[0] <= SCRATCH


def predict_planes(conv: Conv, target: Target) -> Prediction:
    """That kernel."""
    work = conv.macs / (MULTIPLIERS * target.lanes * SHARE) + sum(activations(conv)) / RATE
    direct = predict_direct(conv, target)
    return replace(direct, cycles=hypot(work, direct.weight_bytes / MEMORY_RATE))


def turning_cycles(conv: Conv) -> float:
    """What any other kernel needs besides: its input turned, and its result turned back."""
    return 2 * sum(activations(conv)) / TURNING_RATE
