"""Error bounds derived from the arithmetic, never from trial."""

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from lowprec.convolution import Conv, convolve
from lowprec.fourier import Segment
from lowprec.predicting import CHAIN
from lowprec.predicting_fourier import BUTTERFLIES
from lowprec.predicting_winograd import TRANSFORMS
from lowprec.winograd import Filtering

Array = NDArray[np.float32]
Axes = tuple[Filtering, ...]

UNIT = 2.0**-24  # half the distance of float32 neighbours, relative
EPILOGUE = 8  # roundings that a short epilogue of Lipschitz-1 operators adds, vector math's ulps included

FAR = 16  # standard deviations: what no element of a sweep reaches by chance


def sum_bound(terms: int, magnitudes: NDArray[np.float64]) -> NDArray[np.float64]:
    """How far a float32 sum of `terms` products may be off, in any order: n u / (1 - n u) times the magnitudes' sum."""
    gamma = (terms + EPILOGUE) * UNIT
    return gamma / (1 - gamma) * magnitudes


def convolution_bound(
    conv: Conv, x: NDArray[np.float32], w: NDArray[np.float32], extra: NDArray[np.float32]
) -> NDArray[np.float64]:
    """`sum_bound` of a convolution to which `extra` (bias, residual) is added."""
    terms = w[0].size + 2
    return sum_bound(terms, convolve(conv, np.abs(x), np.abs(w)) + np.abs(extra.astype(np.float64)))


def winograd_bound(conv: Conv, axes: Axes, x: Array, w: Array, extra: Array) -> NDArray[np.float64]:
    """`sum_bound` of a convolution by tiles of `axes`: |A^T| (|G w| o |B^T| |x|), every rounding on the way counted.

    A transform of n inputs rounds each at most n + 2 times, pairs included; weights are transformed in float64 and
    rounded once.
    """
    conv, x, w = unstrided(conv, x, w)
    through = sum(2 * (axis.inputs + 2) for axis in axes if axis.taps > 1)
    magnitudes = transformed(conv, axes, x, w, np.abs) + np.abs(extra.astype(np.float64))
    return sum_bound(w.shape[1] + 3 + through, magnitudes)


def winograd_spread(conv: Conv, axes: Axes, x: Array, w: Array, extra: Array) -> NDArray[np.float64]:
    """What `lowprec.predicting` says of the error's size, `FAR` times, of each element and with the numbers at hand."""
    conv, x, w = unstrided(conv, x, w)
    sizes = np.sqrt(transformed(conv, axes, x, w, np.square))
    far = FAR * UNIT * math.sqrt(TRANSFORMS + CHAIN * w.shape[1])
    return far * sizes + sum_bound(2, sizes + np.abs(extra))


def fourier_spread(conv: Conv, axes: tuple[Segment, ...], x: Array, w: Array, extra: Array) -> NDArray[np.float64]:
    """The same of a convolution by Fourier tiles of `axes`.

    Errors of a transform are about equal at all places, so those of a result follow its tile's size, not its window's.
    """
    conv, x, w = unstrided(conv, x, w)
    sizes = np.sqrt(_of_tiles(conv, axes, x, w))
    far = FAR * UNIT * math.sqrt(BUTTERFLIES + 2 * CHAIN * w.shape[1])
    return far * sizes + sum_bound(2, sizes + np.abs(extra))


def unstrided(conv: Conv, x: Array, w: Array) -> tuple[Conv, Array, Array]:
    """The same results without padding and strides: a channel for each place of a tap in a stride, zero where no tap of
    its own is."""
    assert max(conv.dilation) == 1
    pads = list(zip(conv.pads_begin, conv.pads_end, strict=True))
    padded = np.pad(x, [(0, 0), (0, 0), *pads])
    inputs = padded.reshape(conv.batch, conv.groups, -1, *padded.shape[2:])
    for axis, (k, s, o) in enumerate(zip(conv.kernel, conv.stride, conv.output_size, strict=True)):
        most, phases = -(-k // s), range(min(k, s))
        seen = [range(f, (o - 1) * s + k, s) for f in phases]
        inputs = np.concatenate([_taken(inputs, axis + 3, at, o + most - 1) for at in seen], axis=2)
        w = np.concatenate([_taken(w, axis + 2, range(f, k, s), most) for f in phases], axis=1)
    size, ones, none = inputs.shape[3:], (1,) * len(conv.size), (0,) * len(conv.size)
    x = inputs.reshape(conv.batch, -1, *size)
    plain = replace(conv, in_channels=x.shape[1], size=size, kernel=w.shape[2:], stride=ones)
    return replace(plain, pads_begin=none, pads_end=none), x, w


def _taken(array: Array, axis: int, places: range, extent: int) -> Array:
    """What lies at those places, and zeros up to an extent."""
    widths = [(0, 0)] * array.ndim
    widths[axis] = (0, extent - len(places))
    return np.pad(array.take(places, axis), widths)


def _of_tiles(conv: Conv, axes: tuple[Segment, ...], x: Array, w: Array) -> NDArray[np.float64]:
    """Of each output the sum over channels of |x|^2 |w|^2, the mean square of its tile's results times their number."""
    squares = np.square(x.astype(np.float64))
    for axis, segment in enumerate(axes, 2):
        extent = conv.output_size[axis - 2]
        starts = [min(o // segment.outputs * segment.outputs, extent - segment.outputs) for o in range(extent)]
        parts = (squares.take(range(start, start + segment.reach), axis).sum(axis, keepdims=True) for start in starts)
        squares = np.concatenate(list(parts), axis)
    inputs = squares.reshape(conv.batch, conv.groups, -1, *conv.output_size)
    taps = np.square(w.astype(np.float64)).sum((-2, -1)).reshape(conv.groups, -1, w.shape[1])
    sums: NDArray[np.float64] = np.einsum("ngcij,gkc->ngkij", inputs, taps) / math.prod(a.size for a in axes)
    return sums.reshape(conv.batch, conv.out_channels, *conv.output_size)


def transformed(
    conv: Conv, axes: Axes, x: Array, w: Array, size: Callable[[NDArray[np.float64]], NDArray[np.float64]]
) -> NDArray[np.float64]:
    """The sizes of what the inverse of an `unstrided` convolution adds up, if everything before had the sizes given."""
    high, wide = (Filtering(outputs=1, taps=1),) * (2 - len(axes)) + axes
    rows, columns = (1,) * (2 - len(axes)) + conv.size
    inside = size(x.astype(np.float64)).reshape(conv.batch, conv.groups, -1, rows, columns)
    taps = w.astype(np.float64).reshape(conv.groups, -1, w.shape[1], high.taps, wide.taps)
    (b_high, a_high), (b_wide, a_wide) = (_along(axis, n, size) for axis, n in ((high, rows), (wide, columns)))
    v = np.einsum("aei,bfj,ngcij->ngcaebf", b_high, b_wide, inside, optimize=True)
    u = size(np.einsum("ei,fj,gkcij->gkcef", *map(_taps, (high, wide)), taps, optimize=True))
    m = np.einsum("ngcaebf,gkcef->ngkaebf", v, u, optimize=True)
    y: NDArray[np.float64] = np.einsum("iae,jbf,ngkaebf->ngkij", a_high, a_wide, m, optimize=True)
    return y.reshape(conv.batch, conv.out_channels, *conv.output_size)


def _along(
    axis: Filtering, extent: int, size: Callable[[NDArray[np.float64]], NDArray[np.float64]]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """B^T from positions to each tile's inputs, and A^T from those to outputs; the last tile begins earlier."""
    outward, _, inward = (size(np.array(matrix, np.float64)) for matrix in axis.matrices)
    outputs = extent - axis.taps + 1
    starts = [min(start, outputs - axis.outputs) for start in range(0, outputs, axis.outputs)]
    reads, writes = np.zeros((len(starts), axis.inputs, extent)), np.zeros((outputs, len(starts), axis.inputs))
    for tile, start in enumerate(starts):
        reads[tile, :, start : start + axis.inputs] = inward
    for place in range(outputs):
        tile = place // axis.outputs
        writes[place, tile] = outward[place - starts[tile]]
    return reads, writes


def _taps(axis: Filtering) -> NDArray[np.float64]:
    return np.array(axis.matrices[1], np.float64)
