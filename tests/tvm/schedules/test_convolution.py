"""Every convolution kernel against the oracle, on sizes around every tile, with borders, groups and epilogues."""

import re
from dataclasses import replace

import numpy as np
import pytest
import tvm
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from lowprec.convolution import Conv, convolve
from lowprec.passes.overwriting import written_over
from lowprec.schedules import depthwise
from lowprec.schedules.bundles import bundle_starts, bundle_weights, choose_bundle
from lowprec.schedules.convolution import (
    ConvolutionRequest,
    Kernel,
    build_convolution,
    convolution_kernel,
    pack_convolution,
)
from lowprec.schedules.depthwise import Depthwise
from lowprec.schedules.direct import Direct
from lowprec.schedules.dots import Dots
from lowprec.schedules.epilogue import Epilogue, Operand, Step, Value
from lowprec.schedules.tiling import Tile
from lowprec.schedules.windows import whole
from lowprec.targets import Target, parse_target
from tests.oracle import convolution_bound
from tests.tvm.kernels import Array, cut, padded, place, run_kernel

TARGETS = ("x86-64", "x86-64-v3", "native")
SIZES = (1, 2, 3, 5, 7, 8, 13, 14, 15, 17, 29)
CHANNELS = (1, 2, 3, 4, 7, 8, 15, 16, 17, 31, 33, 48)
RESIDUAL = Step(op="add", arguments=(Value(0), Operand(0)))
RELU = Step(op="relu", arguments=(Value(1),))


@st.composite
def convolutions(draw: st.DrawFn) -> Conv:
    """Plain, unpadded convolutions of one to three axes; grouped and depthwise ones among them."""
    rank = draw(st.sampled_from((1, 2, 2, 2, 3)))
    kind = draw(st.sampled_from(("dense", "dense", "groups", "depthwise")))
    groups = 1 if kind == "dense" else draw(st.sampled_from((2, 3, 5, 8, 17)))
    per_group = 1 if kind == "depthwise" else draw(st.sampled_from(CHANNELS[: 12 if groups == 1 else 5]))
    out_per_group = 1 if kind == "depthwise" else draw(st.sampled_from(CHANNELS[: 12 if groups == 1 else 9]))
    kernel = tuple(draw(st.integers(1, 3)) for _ in range(rank))
    dilation = tuple(draw(st.integers(1, 2)) for _ in range(rank))
    output = [draw(st.sampled_from(SIZES if axis == rank - 1 else SIZES[:4])) for axis in range(rank)]
    stride = tuple(draw(st.integers(1, 2)) for _ in range(rank))
    size = tuple((o - 1) * s + (k - 1) * d + 1 for o, s, k, d in zip(output, stride, kernel, dilation, strict=True))
    return Conv(
        batch=draw(st.integers(1, 2)),
        in_channels=groups * per_group,
        out_channels=groups * out_per_group,
        groups=groups,
        size=size,
        kernel=kernel,
        stride=stride,
        dilation=dilation,
        pads_begin=(0,) * rank,
        pads_end=(0,) * rank,
    )


def last(array: Array) -> Array:
    """Channels last."""
    return np.moveaxis(array, 1, -1)


def check(
    conv: Conv,
    target: Target,
    *,
    border: int,
    residual: bool,
    bias: bool,
    seed: int,
    threads: int = 1,
    good_for: int = 1,
) -> Array:
    """Runs the kernel on a NaN-filled result and holds it against the oracle; returns the physical result."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((conv.batch, conv.in_channels, *conv.size), np.float32)
    w = rng.standard_normal(conv.weight_shape, np.float32)
    b = rng.standard_normal(conv.out_channels, np.float32) if bias else np.zeros(conv.out_channels, np.float32)
    rank = len(conv.size)
    extents = (conv.batch, *conv.output_size, conv.out_channels)
    source = padded((conv.batch, *conv.size, conv.in_channels), (0, *(1,) * rank, 0), (0, *(0,) * rank, 0))
    result = padded(extents, (0, *(border,) * rank, 0), (0, *(border // 2,) * rank, 0))
    other = padded(extents, (0, *(0,) * rank, 0), (0, *(1,) * rank, 0))
    operand = rng.standard_normal(extents, np.float32)
    epilogue = Epilogue(steps=(RESIDUAL, RELU), operands=(other.view(),)) if residual else Epilogue()
    request = ConvolutionRequest(
        conv=conv, source=source, result=result, epilogue=epilogue, bias=bias, threads=good_for
    )
    kernel = convolution_kernel(request, target)
    arguments = [place(source, last(x), outside=np.nan), *pack_convolution(kernel, conv, w, b if bias else None)]
    arguments += [place(other, operand, outside=np.nan)] if residual else []
    got = run_kernel(build_convolution(kernel), target, arguments, np.full(result.shape, np.nan, np.float32), threads)

    expected = last(convolve(conv, x, w, b))  # type: ignore[arg-type]
    extra = np.broadcast_to(b, extents) + (np.abs(operand) if residual else 0)
    if residual:
        expected = np.maximum(expected + operand, 0)
    bound = last(convolution_bound(conv, x, w, np.moveaxis(np.abs(extra), -1, 1)))  # type: ignore[arg-type]
    assert (np.abs(cut(result, got) - expected) <= bound).all()
    rest = got.copy()
    rest[tuple(slice(i, i + n) for i, n in zip(result.begin, result.extents, strict=True))] = 0
    assert not rest.any(), "the border is written, with zeros"
    return got


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    convolutions(),
    st.sampled_from(TARGETS),
    st.integers(0, 2),
    st.booleans(),
    st.booleans(),
    st.integers(0, 99),
    st.integers(1, 3),
)
def test_kernels_equal_the_oracle(
    conv: Conv, target: str, border: int, residual: bool, bias: bool, seed: int, threads: int
) -> None:
    check(conv, parse_target(target), border=border, residual=residual, bias=bias, seed=seed, good_for=threads)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(convolutions(), st.sampled_from(TARGETS), st.integers(0, 2), st.integers(0, 99), st.integers(1, 3))
def test_a_residual_may_be_overwritten(conv: Conv, target: str, border: int, seed: int, threads: int) -> None:
    """Whatever tiles and panels have again is added to what was there before."""
    machine, rng, rank = parse_target(target), np.random.default_rng(seed), len(conv.size)
    conv = replace(conv, out_channels=conv.groups * machine.lanes * (1 + seed % 3))
    extents = (conv.batch, *conv.output_size, conv.out_channels)
    source, result = (
        whole((conv.batch, *conv.size, conv.in_channels)),
        padded(extents, (0, *(border,) * rank, 0), (0, *(border // 2,) * rank, 0)),
    )
    epilogue = Epilogue(steps=(RESIDUAL, RELU), operands=(result.view(),))
    kernel = convolution_kernel(
        ConvolutionRequest(conv=conv, source=source, result=result, epilogue=epilogue, bias=False, threads=threads),
        machine,
    )
    assume(isinstance(kernel, Direct))
    assert isinstance(kernel, Direct)
    assert kernel.may_overwrite
    x = last(rng.standard_normal((conv.batch, conv.in_channels, *conv.size), np.float32))
    residual = place(result, rng.standard_normal(extents, np.float32), outside=0)
    arguments = [x, *pack_convolution(kernel, conv, rng.standard_normal(conv.weight_shape, np.float32), None)]
    expected = run_kernel(build_convolution(kernel), machine, [*arguments, residual], np.empty_like(residual), 1)
    over = written_over(build_convolution(replace(kernel, once=True)), len(arguments))
    got = run_kernel(over, machine, arguments, residual, threads)
    assert got.tobytes() == expected.tobytes()


PLAIN = Conv(
    batch=1,
    in_channels=20,
    out_channels=40,
    groups=1,
    size=(9, 19),
    kernel=(3, 3),
    stride=(1, 1),
    dilation=(1, 1),
    pads_begin=(0, 0),
    pads_end=(0, 0),
)


@pytest.mark.parametrize("conv", [PLAIN, replace(PLAIN, out_channels=20, groups=20)], ids=["direct", "depthwise"])
def test_threads_do_not_change_bits(conv: Conv) -> None:
    target = parse_target("native")
    one, two, three = (
        check(conv, target, border=1, residual=True, bias=True, seed=3, threads=threads) for threads in (1, 2, 3)
    )
    assert one.tobytes() == two.tobytes() == three.tobytes()


@pytest.mark.parametrize(
    "conv",
    [
        replace(PLAIN, in_channels=48, groups=4, size=(20, 19)),
        replace(PLAIN, in_channels=190, out_channels=190, groups=190),
    ],
    ids=["direct", "depthwise"],
)
@pytest.mark.parametrize("threads", [2, 3])
def test_each_thread_has_its_share_of_the_pixels_and_bits_stay(
    monkeypatch: pytest.MonkeyPatch, conv: Conv, threads: int
) -> None:
    target = parse_target("native")
    monkeypatch.setattr(depthwise, "L1_SHARE", 1)
    monkeypatch.setattr(depthwise, "LEAST_SHARE", 1)
    window = whole((1, *conv.size, conv.in_channels))
    result = whole((1, *conv.output_size, conv.out_channels))
    request = ConvolutionRequest(
        conv=conv, source=window, result=result, epilogue=Epilogue(), bias=False, threads=threads
    )
    kernel = convolution_kernel(request, target)
    assert isinstance(kernel, Direct | Depthwise)
    assert kernel.shares == threads
    alone, shared = (
        check(conv, target, border=1, residual=True, bias=True, seed=4, threads=threads, good_for=good_for)
        for good_for in (1, threads)
    )
    assert alone.tobytes() == shared.tobytes()


LARGE = replace(PLAIN, in_channels=20, out_channels=20, groups=20, batch=2)
SOLID = replace(
    LARGE,
    size=(4, 8, 11),
    kernel=(2, 3, 3),
    stride=(1, 1, 1),
    dilation=(1, 1, 1),
    pads_begin=(0, 0, 0),
    pads_end=(0, 0, 0),
    output_padding=(0, 0, 0),
)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(
    "conv",
    [
        LARGE,
        replace(LARGE, size=(6, 19), kernel=(5, 2), stride=(1, 2), dilation=(1, 3)),
        replace(LARGE, size=(8, 9), kernel=(2, 7)),
        replace(LARGE, size=(9, 19), kernel=(9, 3)),
        replace(LARGE, size=(13, 13), dilation=(2, 1)),
        replace(LARGE, size=(13, 13), stride=(2, 1)),
        replace(LARGE, size=(18, 13), kernel=(3, 3)),
        replace(LARGE, size=(11, 7), kernel=(4, 3)),
        replace(LARGE, size=(19, 13), kernel=(5, 5)),
        replace(LARGE, size=(22, 9), kernel=(7, 3)),
        replace(LARGE, size=(15, 9), kernel=(6, 3), stride=(2, 1)),
        replace(LARGE, size=(15, 13), kernel=(5, 5), stride=(2, 2)),
        SOLID,
    ],
    ids=[
        *("odd rows", "even rows", "wide", "one row", "dilated", "strided"),
        *("four rows", "four rows of four taps", "four rows that overlap", "four rows of seven taps"),
        *("strided, odd rows", "strided, even rows", "three axes"),
    ],
)
def test_rows_at_once_equal_the_oracle(monkeypatch: pytest.MonkeyPatch, conv: Conv, target: str) -> None:
    """What depthwise layers do that are larger than L2; with one row the bits are the same."""
    alone = check(conv, parse_target(target), border=1, residual=True, bias=True, seed=5)
    monkeypatch.setattr(depthwise, "L2_SHARE", 0)
    monkeypatch.setattr(depthwise, "WINDOW", 1)
    both = check(conv, parse_target(target), border=1, residual=True, bias=True, seed=5, threads=3)
    assert alone.tobytes() == both.tobytes()


@pytest.mark.parametrize(
    ("groups", "out_channels", "lanes", "expected"),
    [(1, 3, 16, 1), (32, 128, 16, 4), (2, 64, 16, 1), (8, 8, 16, 8), (4, 136, 16, 1), (3, 12, 8, 1), (13, 104, 16, 2)],
)
def test_narrow_groups_are_bundled(groups: int, out_channels: int, lanes: int, expected: int) -> None:
    conv = replace(PLAIN, in_channels=groups * 4, groups=groups, out_channels=out_channels)
    assert choose_bundle(conv, lanes) == expected


def test_bundled_weights_see_their_own_group_alone() -> None:
    weights = np.arange(1.0, 21.0, dtype=np.float32).reshape(10, 2, 1)
    dense = bundle_weights(weights, groups=5, bundle=2).reshape(3, 4, 4, 1)
    for bundle, start in enumerate(bundle_starts(5, 2)):
        for index in range(2):
            rows = slice(2 * index, 2 * index + 2)
            assert np.array_equal(dense[bundle, rows, rows], weights[2 * (start + index) : 2 * (start + index) + 2])
    assert np.count_nonzero(dense) == 3 * 2 * weights[:2].size


def test_a_padded_convolution_is_a_bug_of_the_caller() -> None:
    conv = replace(PLAIN, pads_begin=(1, 1))
    window = padded((1, 9, 19, 20), (0,) * 4, (0,) * 4)
    with pytest.raises(ValueError, match="unpadded"):
        ConvolutionRequest(conv=conv, source=window, result=window, epilogue=Epilogue(), bias=False)


@pytest.mark.parametrize(
    ("target", "outputs"), [("x86-64", 1), ("x86-64", 2), ("x86-64-v3", 3), ("native", 1), ("native", 3), ("native", 5)]
)
@pytest.mark.parametrize("around", [-1, 0, 1])
def test_few_output_channels_are_summed_along_the_input_channels(target: str, outputs: int, around: int) -> None:
    def layer(width: int) -> Conv:
        return replace(PLAIN, in_channels=128, out_channels=outputs, size=(4, width + 2))

    rows = _dots(layer(211), parse_target(target)).rows
    conv = layer(max(1, rows + around))
    _dots(conv, parse_target(target))
    check(conv, parse_target(target), border=1, residual=True, bias=True, seed=outputs, threads=2)


def _dots(conv: Conv, target: Target) -> Dots:
    kernel = _bare_kernel(conv, target)
    assert isinstance(kernel, Dots)
    return kernel


def _bare_kernel(conv: Conv, target: Target) -> Kernel:
    """The kernel without borders or epilogue."""
    source, result = whole((1, *conv.size, conv.in_channels)), whole((1, *conv.output_size, conv.out_channels))
    request = ConvolutionRequest(conv=conv, source=source, result=result, epilogue=Epilogue(), bias=True)
    return convolution_kernel(request, target)


@pytest.mark.parametrize("channels", [64, 256, 30])
@pytest.mark.parametrize("taps", [3, 1])
def test_avx512_folds_half_of_its_broadcasts(channels: int, taps: int) -> None:
    conv = replace(PLAIN, in_channels=channels, out_channels=64, size=(13 + taps, 27 + taps), kernel=(taps, taps))
    target = parse_target("x86-64-v4")
    kernel = _bare_kernel(conv, target)
    assert isinstance(kernel, Direct)
    assert kernel.tile == Tile(rows=14, vectors=2, folded=7)
    module = tvm.IRModule({"main": build_convolution(kernel)})
    code = tvm.compile(module, target=tvm.target.Target(target.tvm_target(1))).mod.inspect_source("asm")
    folded = re.findall(r"vfmadd231ps\t(\S+?)\{1to16\}", code)
    assert len(folded) >= 4 * 2 * 7
    assert not [address for address in folded if "," in address], "an index register undoes the folding"
    assert "Spill" not in code
