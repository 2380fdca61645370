"""A convolution for a kernel other than the direct one: how it is computed, what surrounds it, and how it is run.

The result is full of NaN before; so is what lies around the source and the residual.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray
from tvm import tirx

from lowprec.convolution import Conv, convolve
from lowprec.phases import Phases, Region
from lowprec.schedules.convolution import (
    ConvolutionRequest,
    Kernel,
    build_convolution,
    convolution_kernel,
    pack_convolution,
)
from lowprec.schedules.epilogue import Epilogue, Operand, Step, Value
from lowprec.schedules.windows import Window
from lowprec.targets import parse_target
from tests.tvm.kernels import Array, cut, padded, place, run_kernel

TARGETS = ("x86-64", "x86-64-v3", "native")
CHANNELS = (1, 3, 5, 15, 16, 17, 33)
RESIDUAL = Step(op="add", arguments=(Value(0), Operand(0)))
RELU = Step(op="relu", arguments=(Value(1),))


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A layer, its algorithm and the sizes of its Fourier tile, and what surrounds it."""

    conv: Conv
    algorithm: str
    sizes: tuple[int, ...] = ()
    target: str = "native"
    border: int = 0
    residual: bool = False
    bias: bool = False
    seed: int = field(default=0)

    @property
    def extents(self) -> tuple[int, ...]:
        return (self.conv.batch, *self.conv.output_size, self.conv.out_channels)

    @property
    def source(self) -> Window:
        conv, rank = self.conv, len(self.conv.size)
        return padded((conv.batch, *conv.size, conv.in_channels), (0, *(1,) * rank, 0), (0, *(2,) * rank, 0))

    @property
    def result(self) -> Window:
        rank = len(self.conv.size)
        return padded(self.extents, (0, *(self.border,) * rank, 0), (0, *(self.border // 2,) * rank, 0))

    @property
    def other(self) -> Window:
        """Where the residual lies."""
        rank = len(self.conv.size)
        return padded(self.extents, (0, *(0,) * rank, 0), (0, *(1,) * rank, 0))


@dataclass(frozen=True, slots=True, kw_only=True)
class Numbers:
    x: Array
    w: Array
    bias: Array
    residual: Array


def conv_of(
    kernel: tuple[int, ...],
    output: tuple[int, ...],
    channels: tuple[int, int, int],
    batch: int = 1,
    stride: tuple[int, ...] = (),
    dilation: tuple[int, ...] = (),
) -> Conv:
    """An unpadded convolution with so many outputs; `channels` are groups, and in and out of each."""
    groups, inner, outer = channels
    ones = (1,) * len(kernel)
    stride, dilation = stride or ones, dilation or ones
    axes = zip(output, kernel, stride, dilation, strict=True)
    return Conv(
        batch=batch,
        in_channels=groups * inner,
        out_channels=groups * outer,
        groups=groups,
        size=tuple((o - 1) * s + (k - 1) * d + 1 for o, k, s, d in axes),
        kernel=kernel,
        stride=stride,
        dilation=dilation,
        pads_begin=(0,) * len(kernel),
        pads_end=(0,) * len(kernel),
    )


def kernel_of(case: Case, *, good_for: int = 1) -> Kernel:
    """The kernel, made for that many threads."""
    epilogue = Epilogue(steps=(RESIDUAL, RELU), operands=(case.other.view(),)) if case.residual else Epilogue()
    request = ConvolutionRequest(
        conv=case.conv,
        source=case.source,
        result=case.result,
        epilogue=epilogue,
        bias=case.bias,
        algorithm=case.algorithm,
        sizes=case.sizes,
        threads=good_for,
    )
    return convolution_kernel(request, parse_target(case.target))


def numbers_of(case: Case) -> Numbers:
    conv, rng = case.conv, np.random.default_rng(case.seed)
    return Numbers(
        x=rng.standard_normal((conv.batch, conv.in_channels, *conv.size), np.float32),
        w=rng.standard_normal(conv.weight_shape, np.float32),
        bias=rng.standard_normal(conv.out_channels, np.float32),
        residual=rng.standard_normal(case.extents, np.float32),
    )


def last(array: Array) -> Array:
    """Channels last."""
    return np.moveaxis(array, 1, -1)


def nothing(array: Array) -> Array:
    return array


def unchanged(function: tirx.PrimFunc) -> tirx.PrimFunc:
    return function


def run(
    case: Case,
    *,
    kernel: Kernel | None = None,
    numbers: Numbers | None = None,
    threads: int = 1,
    good_for: int = 1,
    pack: Callable[[Array], Array] = nothing,
    build: Callable[[tirx.PrimFunc], tirx.PrimFunc] = unchanged,
) -> Array:
    """The physical result."""
    kernel, numbers = kernel or kernel_of(case, good_for=good_for), numbers or numbers_of(case)
    packed, *bias = pack_convolution(kernel, case.conv, numbers.w, numbers.bias if case.bias else None)
    arguments = [place(case.source, last(numbers.x), outside=np.nan), pack(packed), *bias]
    arguments += [place(case.other, numbers.residual, outside=np.nan)] if case.residual else []
    result = np.full(case.result.shape, np.nan, np.float32)
    return run_kernel(build(build_convolution(kernel)), parse_target(case.target), arguments, result, threads)


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """A result beside what it should be, channels last: `extra` is the size of what is added to a sum."""

    error: NDArray[np.float64]
    extra: NDArray[np.float64]
    border: Array


def judged(case: Case, got: Array) -> Judged:
    conv, numbers = case.conv, numbers_of(case)
    added = numbers.bias if case.bias else np.zeros(conv.out_channels, np.float32)
    expected = np.moveaxis(convolve(conv, numbers.x, numbers.w, added), 1, -1)
    extra = np.broadcast_to(np.abs(added), case.extents).astype(np.float64)
    if case.residual:
        expected, extra = np.maximum(expected + numbers.residual, 0), extra + np.abs(numbers.residual)
    rest = got.copy()
    cut(case.result, rest)[...] = 0
    return Judged(error=np.abs(cut(case.result, got) - expected), extra=extra, border=rest)


regions = vars(Phases)["regions"].fget


def never_short(axis: int, phases: Phases) -> tuple[Region, ...]:
    """`Phases.regions`, not short along an axis: a mistake by which a kernel reads too far."""
    found = []
    for region in regions(phases):
        high, wide = (short and at != axis for at, short in enumerate(region.short))
        found.append(replace(region, short=(high, wide)))
    return tuple(found)
