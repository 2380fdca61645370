"""One convolution's geometry, and what it computes: the oracle that every fast kernel is held against.

Equation (1), per batch n and group g, with o the output position, t the tap and all vectors per spatial axis:

    y[n, k, o] = b[k] + sum over c in group, t of  x[n, c, o * stride + t * dilation - pads_begin] * w[k, c, t]

and (2), transposed, is (1)'s adjoint: every x[n, c, i] is added, times w[c, k, t], at

    o = i * stride + t * dilation - pads_begin.

Outside its extent x is zero. Weights lie as in ONNX: (out, in / groups, *kernel), for a transposed convolution
(in, out / groups, *kernel).
"""

import itertools
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lowprec.errors import InvalidModel

Extents = tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Conv:
    """A convolution of one to three spatial axes; `output_padding` (transposed only) extends the output's end."""

    batch: int
    in_channels: int
    out_channels: int
    groups: int
    size: Extents
    kernel: Extents
    stride: Extents
    dilation: Extents
    pads_begin: Extents
    pads_end: Extents
    transposed: bool = False
    output_padding: Extents = ()

    def __post_init__(self) -> None:
        rank = len(self.size)
        if not 1 <= rank <= 3:
            raise InvalidModel(f"a convolution has {rank} spatial axes; allowed are 1 to 3")
        if not self.output_padding:
            object.__setattr__(self, "output_padding", (0,) * rank)
        _check_extents(self, ("size", "kernel", "stride", "dilation"), rank=rank, least=1)
        _check_extents(self, ("pads_begin", "pads_end", "output_padding"), rank=rank, least=0)
        if min(self.batch, self.in_channels, self.out_channels, self.groups) < 1:
            raise InvalidModel("a convolution's batch, channels and groups must each be at least 1")
        if self.in_channels % self.groups or self.out_channels % self.groups:
            channels = f"{self.in_channels} -> {self.out_channels}"
            raise InvalidModel(
                f"{self.groups} groups do not divide the channels {channels}; each side must be a multiple"
            )
        if any(self.output_padding) and not self.transposed:
            raise InvalidModel("output_padding is for transposed convolutions alone")
        if min(self.output_size) < 1:
            raise InvalidModel(
                f"kernel {self.kernel} is larger than the padded input {self.size}: the output would be empty"
            )

    @property
    def reach(self) -> Extents:
        """How far one window spans, its dilation included."""
        return tuple((k - 1) * d + 1 for k, d in zip(self.kernel, self.dilation, strict=True))

    @property
    def output_size(self) -> Extents:
        pads = [begin + end for begin, end in zip(self.pads_begin, self.pads_end, strict=True)]
        axes = zip(self.size, self.stride, self.reach, pads, self.output_padding, strict=True)
        if self.transposed:
            return tuple((n - 1) * s + reach - pad + extra for n, s, reach, pad, extra in axes)
        return tuple((n + pad - reach) // s + 1 for n, s, reach, pad, _ in axes)

    @property
    def weight_shape(self) -> Extents:
        if self.transposed:
            return (self.in_channels, self.out_channels // self.groups, *self.kernel)
        return (self.out_channels, self.in_channels // self.groups, *self.kernel)

    @property
    def parameters(self) -> int:
        """Weights alone: a bias is the epilogue's."""
        return math.prod(self.weight_shape)

    @property
    def macs(self) -> int:
        """Multiplications of the direct algorithm, those with padding included."""
        windows = self.size if self.transposed else self.output_size
        return self.batch * self.parameters * math.prod(windows)

    @property
    def depthwise(self) -> bool:
        """One input channel a group: nothing to sum over channels."""
        return self.groups > 1 and self.groups == self.in_channels

    @property
    def pointwise(self) -> bool:
        """A matrix product: one tap, no stride, no padding, one group."""
        plain = (*self.kernel, *self.stride) == (1,) * (2 * len(self.size))
        return plain and self.groups == 1 and not self.transposed and not any((*self.pads_begin, *self.pads_end))


def convolve(
    conv: Conv, x: NDArray[np.generic], w: NDArray[np.generic], b: NDArray[np.generic] | None = None
) -> NDArray[np.float64]:
    """Equations (1) and (2) tap by tap in float64; exact wherever every sum fits in 53 bits."""
    rank = len(conv.size)
    if x.shape != (conv.batch, conv.in_channels, *conv.size) or w.shape != conv.weight_shape:
        raise ValueError(f"x is {x.shape} and w is {w.shape}; {conv} needs w {conv.weight_shape}")
    grouped_x = x.astype(np.float64).reshape(conv.batch, conv.groups, conv.in_channels // conv.groups, *conv.size)
    grouped_w = w.astype(np.float64).reshape(conv.groups, -1, *w.shape[1:])
    compute = _transposed if conv.transposed else _direct
    y = compute(conv, grouped_x, grouped_w).reshape(conv.batch, conv.out_channels, *conv.output_size)
    return y if b is None else y + b.astype(np.float64).reshape(-1, *(1,) * rank)


def _direct(conv: Conv, x: NDArray[np.float64], w: NDArray[np.float64]) -> NDArray[np.float64]:
    """x (n, g, c, *size), w (g, k, c, *kernel) -> (n, g, k, *output)."""
    padded = np.pad(x, [(0, 0)] * 3 + list(zip(conv.pads_begin, conv.pads_end, strict=True)))
    y = np.zeros((conv.batch, conv.groups, w.shape[1], *conv.output_size))
    for tap in itertools.product(*map(range, conv.kernel)):
        window = tuple(
            slice(t * d, t * d + (o - 1) * s + 1, s)
            for t, d, s, o in zip(tap, conv.dilation, conv.stride, conv.output_size, strict=True)
        )
        y += np.einsum("ngc...,gkc->ngk...", padded[(slice(None),) * 3 + window], w[(slice(None),) * 3 + tap])
    return y


def _transposed(conv: Conv, x: NDArray[np.float64], w: NDArray[np.float64]) -> NDArray[np.float64]:
    """x (n, g, c, *size), w (g, c, k, *kernel) -> (n, g, k, *output), cropped out of everything the taps reach."""
    output = conv.output_size
    full = [begin + o + end for begin, o, end in zip(conv.pads_begin, output, conv.pads_end, strict=True)]
    y = np.zeros((conv.batch, conv.groups, w.shape[2], *full))
    for tap in itertools.product(*map(range, conv.kernel)):
        window = tuple(
            slice(t * d, t * d + (n - 1) * s + 1, s)
            for t, d, s, n in zip(tap, conv.dilation, conv.stride, conv.size, strict=True)
        )
        y[(slice(None),) * 3 + window] += np.einsum("ngc...,gck->ngk...", x, w[(slice(None),) * 3 + tap])
    crop = tuple(slice(begin, begin + o) for begin, o in zip(conv.pads_begin, output, strict=True))
    return y[(slice(None),) * 3 + crop]


def _check_extents(conv: Conv, names: tuple[str, ...], *, rank: int, least: int) -> None:
    for name in names:
        value: Extents = getattr(conv, name)
        if len(value) != rank or min(value) < least:
            raise InvalidModel(f"a convolution's {name} is {value}; it needs {rank} values of at least {least}")
