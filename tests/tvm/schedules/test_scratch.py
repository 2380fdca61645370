"""What kernels of floats allocate beside weights and activations: at most 4 MiB a task, of which a thread has one."""

from dataclasses import replace
from math import prod

import pytest
import tvm_ffi
from tvm import tirx

from benchmarks.choices import draw
from lowprec.choosing import FFT, candidates
from lowprec.convolution import Conv
from lowprec.predicting import SCRATCH
from lowprec.predicting_fourier import tile_sizes
from lowprec.schedules.convolution import ConvolutionRequest, build_convolution, convolution_kernel
from lowprec.schedules.epilogue import Epilogue
from lowprec.schedules.windows import whole
from lowprec.targets import parse_target

TABLES = 64 << 10
"""Bytes of registers, and of what a transform keeps beside its tile."""
LARGE = [
    Conv(
        batch=batch,
        in_channels=channels,
        out_channels=channels,
        groups=groups,
        size=(size, size),
        kernel=(taps, taps),
        stride=(stride, stride),
        dilation=(1, 1),
        pads_begin=(0, 0),
        pads_end=(0, 0),
    )
    for batch, channels, groups, size, taps, stride in [
        (64, 512, 1, 16, 3, 1),
        (1, 64, 1, 226, 3, 1),
        (1, 2048, 1, 9, 3, 1),
        (1, 64, 1, 118, 63, 1),
        (1, 384, 384, 118, 63, 1),
        (1, 64, 64, 286, 63, 2),
        (1, 2048, 2048, 300, 61, 3),
    ]
]


def without_padding(conv: Conv) -> Conv:
    """The same convolution of an input with a border."""
    size = tuple(map(sum, zip(conv.size, conv.pads_begin, conv.pads_end, strict=True)))
    return replace(conv, size=size, pads_begin=(0, 0), pads_end=(0, 0))


def scratch(function: tirx.PrimFunc) -> int:
    """Bytes of all that is allocated."""
    found: list[int] = []

    def visit(node: tirx.AllocBuffer) -> None:
        found.append(prod(map(int, node.buffer.shape)) * node.buffer.dtype.itemsize)

    tvm_ffi.structural_walk(function.body, (tirx.AllocBuffer, visit))
    return sum(found)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("target", ["native", "x86-64"])
def test_scratch_is_bounded(target: str, threads: int) -> None:
    machine, seen = parse_target(target), 0
    for conv in [*LARGE, *map(without_padding, draw(40, 1))]:
        for candidate in candidates(conv, machine):
            sizes = tile_sizes(conv) if candidate.algorithm == FFT and not candidate.obstacle else [()]
            for each in [] if candidate.obstacle else sizes:
                request = ConvolutionRequest(
                    conv=conv,
                    source=whole((conv.batch, *conv.size, conv.in_channels)),
                    result=whole((conv.batch, *conv.output_size, conv.out_channels)),
                    epilogue=Epilogue(),
                    bias=True,
                    algorithm=candidate.algorithm,
                    sizes=each,
                    threads=threads,
                )
                bytes_of_it = scratch(build_convolution(convolution_kernel(request, machine)))
                assert bytes_of_it <= SCRATCH + TABLES, (candidate.algorithm, each, conv)
                seen = max(seen, bytes_of_it)
    assert seen > SCRATCH // 4
