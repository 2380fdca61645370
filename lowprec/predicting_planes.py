"""Depthwise convolutions from the model's input to its output, where channels lie one after the other: which can leave
them so, and what that takes. See `schedules.planes`.
"""

from dataclasses import replace
from math import ceil, hypot, prod

from lowprec.convolution import Conv
from lowprec.layers import Layer
from lowprec.predicting import FLOAT_BYTES, MEMORY_RATE, MULTIPLIERS, SCRATCH, Prediction, activations, predict_direct
from lowprec.targets import Target

SHARE, SHARE_ALONG_ROWS = 0.78, 0.9
"""Of the multipliers' peak, where images are turned, and where vectors go along rows."""

RATE = 9.0
"""Bytes a cycle that are read and written beside."""

REGISTERS_BESIDE = 5
"""Of vectors along rows, where those of sums and of pixels are: for a weight, and what is shifted in beside rows."""

MOST_WRITTEN_OUT = 5000
"""Multiply-adds of vectors along rows, each of which takes LLVM a millisecond and a half."""

WASTED = 0.35
"""Of the lanes: where more of them are computed twice, turning is faster."""

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


def lies_along_rows(conv: Conv, target: Target) -> bool:
    """Whether vectors go along its rows, instead of along channels that are turned: as sums of all rows that see one
    stay in registers, and most lanes are of use."""
    written_out = prod(conv.kernel) * min(
        _vectors(conv, target), (conv.pads_begin[1] + conv.pads_end[1]) // target.lanes + 3
    )
    fits = vectors_at_once(conv, target.vector_registers) > 0 and written_out <= MOST_WRITTEN_OUT
    return fits and set(conv.stride) == {1} and _filled(conv, target) > 1 - WASTED


def vectors_at_once(conv: Conv, registers: int) -> int:
    """Of a row, whose sums, for all rows of the result that see it, stay in registers beside their pixels."""
    rows = (conv.kernel[0] - 1) * conv.dilation[0] + 1
    return (registers - REGISTERS_BESIDE) // (rows + 1)


def predict_planes(conv: Conv, target: Target) -> Prediction:
    """That kernel. Reading ahead hides one of two parts behind the other along rows."""
    peak, moving = conv.macs / (MULTIPLIERS * target.lanes), sum(activations(conv)) / RATE
    if lies_along_rows(conv, target):
        work = hypot(peak / (_filled(conv, target) * SHARE_ALONG_ROWS), moving)
    else:
        work = peak / SHARE + moving
    direct = predict_direct(conv, target)
    return replace(direct, cycles=hypot(work, direct.weight_bytes / MEMORY_RATE))


def _filled(conv: Conv, target: Target) -> float:
    """The share of lanes along rows that are not computed twice."""
    return conv.output_size[1] / (_vectors(conv, target) * target.lanes)


def _vectors(conv: Conv, target: Target) -> int:
    """Of a row of the result."""
    return ceil(conv.output_size[1] / target.lanes)


def turning_cycles(conv: Conv) -> float:
    """What any other kernel needs besides: its input turned, and its result turned back."""
    return 2 * sum(activations(conv)) / TURNING_RATE
