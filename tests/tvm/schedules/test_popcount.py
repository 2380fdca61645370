"""Products of signs against sums of -1 and +1 in float64, where padding is 0."""

import numpy as np
import pytest
import tvm
from hypothesis import given, settings
from hypothesis import strategies as st

from lowprec.building import quick_passes
from lowprec.convolution import Conv, convolve
from lowprec.schedules.convolution import popcount_kernel
from lowprec.schedules.epilogue import Epilogue, Operand, Step, Value
from lowprec.schedules.popcount import build_popcount, pack_popcount
from lowprec.schedules.windows import Window, coordinates, whole
from lowprec.targets import native, parse_target

CHANNELS = (1, 3, 16, 31, 32, 33, 64, 65, 100)
TARGETS = [name for name in ("native", "x86-64-v3", "x86-64") if parse_target(name).features <= native().features]


def conv_of(
    size: tuple[int, ...], channels: tuple[int, int], kernel: int, *, pad: int = 0, stride: int = 1, dilation: int = 1
) -> Conv:
    rank = len(size)
    return Conv(
        batch=2,
        in_channels=channels[0],
        out_channels=channels[1],
        groups=1,
        size=size,
        kernel=(kernel,) * rank,
        stride=(stride,) * rank,
        dilation=(dilation,) * rank,
        pads_begin=(pad,) * rank,
        pads_end=(pad // 2,) * rank,
    )


def check(conv: Conv, target: str, *, border: int = 0, seed: int = 0) -> None:
    """A kernel's results, times a factor of each channel, and the border around them."""
    rng = np.random.default_rng(seed)
    machine = parse_target(target)
    x = rng.standard_normal((conv.batch, *conv.size, conv.in_channels)).astype(np.float32)
    x.flat[:4] = (0.0, -0.0, np.nan, -np.inf)[: x.size]
    w = rng.standard_normal(conv.weight_shape).astype(np.float32)
    factor = rng.uniform(0.5, 2, conv.out_channels).astype(np.float32)
    extents = (conv.batch, *conv.output_size, conv.out_channels)
    shape = (extents[0], *(n + 2 * border for n in extents[1:-1]), extents[-1])
    result = Window(shape=shape, begin=(0, *(border for _ in conv.size), 0), extents=extents)
    steps = (Step(op="float32", arguments=(Value(0),)), Step(op="product", arguments=(Value(1), Operand(0))))
    epilogue = Epilogue(steps=steps, operands=(whole((conv.out_channels,)).view(extents),))
    kernel = popcount_kernel(conv, coordinates(extents), whole(x.shape), result, epilogue, machine)
    with quick_passes():
        module = tvm.IRModule({"main": build_popcount(kernel)})
        function = tvm.compile(module, target=tvm.target.Target(machine.tvm_target(1)))["main"]
    y = tvm.runtime.tensor(np.full(shape, np.nan, np.float32))
    function(*map(tvm.runtime.tensor, (x, pack_popcount(w, kernel), factor)), y)
    signs = np.where(np.moveaxis(x, -1, 1) >= 0, 1.0, -1.0)
    counted = convolve(conv, signs, np.where(w < 0, -1.0, 1.0))
    expected = np.zeros(shape, np.float32)
    inside = tuple(slice(begin, begin + extent) for begin, extent in zip(result.begin, extents, strict=True))
    expected[inside] = np.moveaxis(counted, 1, -1).astype(np.float32) * factor
    np.testing.assert_array_equal(y.numpy(), expected)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(
    "conv",
    [
        conv_of((9, 9), (64, 40), 3, pad=1),
        conv_of((8, 11), (33, 17), 3, pad=2, stride=2),
        conv_of((7, 7), (100, 70), 3, pad=2, dilation=2),
        conv_of((6, 6), (256, 5), 1),
        conv_of((13,), (16, 16), 5, pad=2),
        conv_of((4, 5, 6), (3, 20), 3, pad=1),
        conv_of((1, 1), (70, 130), 1),
    ],
    ids=str,
)
def test_signs_are_counted(conv: Conv, target: str) -> None:
    check(conv, target)


def test_a_border_is_written_around_the_result() -> None:
    check(conv_of((7, 9), (32, 24), 3, pad=1), "native", border=2)


@given(
    size=st.lists(st.integers(1, 17), min_size=1, max_size=2).map(tuple),
    channels=st.tuples(st.sampled_from(CHANNELS), st.sampled_from(CHANNELS)),
    kernel=st.integers(1, 4),
    pad=st.integers(0, 3),
    stride=st.integers(1, 3),
    dilation=st.integers(1, 2),
    target=st.sampled_from(TARGETS),
    seed=st.integers(0, 99),
)
@settings(max_examples=25, deadline=None)
def test_any_geometry(
    size: tuple[int, ...],
    channels: tuple[int, int],
    kernel: int,
    pad: int,
    stride: int,
    dilation: int,
    target: str,
    seed: int,
) -> None:
    reach = (kernel - 1) * dilation + 1
    size = tuple(max(extent, reach - pad - pad // 2) for extent in size)
    check(conv_of(size, channels, kernel, pad=pad, stride=stride, dilation=dilation), target, seed=seed)
