"""Products of 16-bit numbers: exact sums in two halves, rounded to float32 once."""

from dataclasses import replace

import numpy as np
import pytest
import tvm
from hypothesis import given, settings
from hypothesis import strategies as st

from lowprec.building import quick_passes
from lowprec.convolution import Conv, convolve
from lowprec.schedules.amx import Amx
from lowprec.schedules.arithmetic import Way, arithmetic_of
from lowprec.schedules.convolution import (
    ConvolutionRequest,
    build_convolution,
    convolution_kernel,
    pack_convolution,
    shift_of,
)
from lowprec.schedules.depthwise import Depthwise
from lowprec.schedules.direct import Direct
from lowprec.schedules.epilogue import Constant, Epilogue, Step, Value
from lowprec.schedules.windows import whole
from lowprec.targets import native, parse_target

NAMES = ("native", "cascadelake", "x86-64-v4", "x86-64-v3", "x86-64")
TARGETS = [name for name in NAMES if parse_target(name).features <= native().features]
CHANNELS = (2, 3, 4, 7, 16, 17, 33, 80)
UNIT = 2.0**-14


def conv_of(size: int, channels: tuple[int, int], kernel: int, *, groups: int = 1, stride: int = 1) -> Conv:
    return Conv(
        batch=2,
        in_channels=channels[0] * groups,
        out_channels=channels[1] * groups,
        groups=groups,
        size=(size, size + 1),
        kernel=(kernel, kernel),
        stride=(stride, stride),
        dilation=(1, 1),
        pads_begin=(0, 0),
        pads_end=(0, 0),
    )


def check(conv: Conv, target: str, *, way: Way | None = None, seed: int = 0) -> None:
    rng, machine = np.random.default_rng(seed), parse_target(target)
    x = rng.integers(-(2**15), 2**15, (conv.batch, *conv.size, conv.in_channels)).astype(np.int16)
    x.flat[:2] = (-(2**15), 2**15 - 1)
    bias = rng.integers(-(2**31), 2**31, conv.out_channels).astype(np.int32)
    epilogue = Epilogue(steps=(Step(op="product", arguments=(Value(0), Constant(UNIT))),))
    extents = (conv.batch, *conv.output_size, conv.out_channels)
    request = ConvolutionRequest(
        conv=conv, source=whole(x.shape, "int16"), result=whole(extents), epilogue=epilogue, bias=True
    )
    kernel = convolution_kernel(request, machine)
    if way is not None:
        assert isinstance(kernel, Direct)
        kernel = replace(kernel, arithmetic=replace(kernel.arithmetic, way=way, dots=False))
    whole_range = isinstance(kernel, Amx | Depthwise)
    largest = 2**15 - 1 if whole_range else min(2**15 - 1, (2**31 - 1) // (255 * conv.parameters // conv.out_channels))
    w = rng.integers(-largest, largest, conv.weight_shape, endpoint=True).astype(np.int16)
    w[0] = largest  # half-sums near their end
    w[-1] = -largest - whole_range
    high = -(shift_of(kernel) >> 8) * w.reshape(len(w), -1).astype(np.int64).sum(axis=1)
    packed = pack_convolution(kernel, conv, w, bias if whole_range else np.stack([bias, high.astype(np.int32)]))
    with quick_passes():
        module = tvm.IRModule({"main": build_convolution(kernel)})
        function = tvm.compile(module, target=tvm.target.Target(machine.tvm_target(1)))["main"]
    y = tvm.runtime.tensor(np.full(extents, np.nan, np.float32))
    function(*map(tvm.runtime.tensor, (x, *packed)), y)
    exact = convolve(conv, np.moveaxis(x, -1, 1), w).astype(np.int64) + bias.reshape(-1, 1, 1)
    np.testing.assert_array_equal(y.numpy(), np.moveaxis(exact.astype(np.float32) * np.float32(UNIT), 1, -1))


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(
    "conv",
    [
        conv_of(9, (64, 40), 3),
        conv_of(12, (3, 20), 5, stride=2),
        conv_of(7, (1, 1), 3, groups=20),
        conv_of(9, (1, 1), 5, groups=5, stride=2),
        conv_of(40, (1, 1), 3, groups=64),
        conv_of(7, (9, 6), 1, groups=3),
        conv_of(5, (300, 18), 1),
    ],
    ids=str,
)
def test_sums_are_exact(conv: Conv, target: str) -> None:
    check(conv, target)


def test_so_they_are_without_instructions_for_pairs() -> None:
    assert arithmetic_of("int16", parse_target("aarch64")).way is Way.SINGLE_HALVES
    check(conv_of(6, (6, 9), 3), "x86-64", way=Way.SINGLE_HALVES)


@given(
    size=st.integers(3, 14),
    channels=st.tuples(st.sampled_from(CHANNELS), st.sampled_from(CHANNELS)),
    kernel=st.integers(1, 3),
    groups=st.integers(1, 3),
    stride=st.integers(1, 2),
    target=st.sampled_from(TARGETS),
    seed=st.integers(0, 99),
)
@settings(max_examples=20, deadline=None)
def test_any_geometry(
    size: int, channels: tuple[int, int], kernel: int, groups: int, stride: int, target: str, seed: int
) -> None:
    check(conv_of(size, channels, kernel, groups=groups, stride=stride), target, seed=seed)
