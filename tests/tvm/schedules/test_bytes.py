"""Kernels of bytes against sums in int64: every bit, on sizes around words, groups and tiles, for every instruction."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod

import numpy as np
import pytest
import tvm
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from lowprec.convolution import Conv
from lowprec.schedules import depthwise, direct_choices
from lowprec.schedules.arithmetic import Way, arithmetic_of
from lowprec.schedules.bounding import bounded
from lowprec.schedules.convolution import (
    ConvolutionRequest,
    Kernel,
    build_convolution,
    convolution_kernel,
    pack_convolution,
    shift_of,
)
from lowprec.schedules.depthwise import Depthwise
from lowprec.schedules.direct import Direct
from lowprec.schedules.epilogue import Constant, Epilogue, Operand, Value
from lowprec.schedules.product import ProductRequest, pack_product, product_kernel
from lowprec.schedules.simplifying import simplified
from lowprec.schedules.windows import Window, whole
from lowprec.targets import TARGETS, Target, native, parse_target
from tests.quantized import Array, limits
from tests.tvm.schedules.steps import step

CHANNELS = (1, 2, 3, 4, 5, 7, 8, 9, 12, 15, 16, 17, 31, 33, 40)
SIZES = (1, 2, 3, 5, 8, 13, 15, 29)
V3 = parse_target("x86-64-v3")
NARROW_VNNI = Target(name="avx-vnni", arch=V3.arch, features=V3.features | {"avx_vnni"})
HERE = [target for target in (native(), NARROW_VNNI, *TARGETS[:4]) if target.features <= native().features]
"""What runs here, of: VNNI of both widths, pairs of all three, and whatever else."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A layer of bytes, and what surrounds it: `ring` is a border of zeros that the source is known to have, `border`
    what the result is to have, of that number."""

    conv: Conv
    dtype: str = "uint8"
    wide: bool = False
    ring: int = 0
    border: int = 0
    number: int = 0
    bias: bool = True
    rounds: bool = True
    seed: int = 0

    @property
    def source(self) -> Window:
        conv, rank = self.conv, len(self.conv.size)
        shape = (conv.batch, *(n + 1 for n in conv.size), conv.in_channels)
        extents = (conv.batch, *conv.size, conv.in_channels)
        return Window(shape=shape, begin=(0, *(1,) * rank, 0), extents=extents, dtype=self.dtype)

    @property
    def extents(self) -> tuple[int, ...]:
        return (self.conv.batch, *self.conv.output_size, self.conv.out_channels)

    @property
    def result(self) -> Window:
        """What is rounded has a border; sums have none."""
        if not self.rounds:
            return whole(self.extents, "int32")
        n, *size, c = self.extents
        shape = (n, *(extent + self.border + self.border // 2 for extent in size), c)
        begin = (0, *(self.border for _ in size), 0)
        return Window(shape=shape, begin=begin, extents=self.extents, dtype=self.dtype, border=self.number)


@dataclass(frozen=True, slots=True, kw_only=True)
class Numbers:
    """A layer's numbers: `zero` is what a byte less than it is worth, in the epilogue `factor` of a channel's sum."""

    x: Array
    w: Array
    bias: Array
    residual: Array
    factor: Array


def numbers_of(case: Case) -> Numbers:
    """Bytes of the whole range, of which the ends are frequent."""
    conv, rng, (low, high) = case.conv, np.random.default_rng(case.seed), limits(case.dtype)
    x = np.clip(rng.integers(low - 40, high + 40, (conv.batch, conv.in_channels, *conv.size)), low, high)
    if case.ring:
        kept = (slice(None), slice(None), *(slice(case.ring, n - case.ring) for n in conv.size))
        x = np.where(_is_at(kept, x.shape), x, 0)
    reach = 255 if case.wide else 128
    w = np.clip(rng.integers(-reach - 20, reach + 20, conv.weight_shape), -reach, reach - (not case.wide))
    depth = conv.parameters // conv.out_channels
    return Numbers(
        x=x.astype(case.dtype),
        w=w.astype("int16" if case.wide else "int8"),
        bias=rng.integers(-(2**20), 2**20, conv.out_channels, "int32"),
        residual=rng.integers(low, high, case.extents, case.dtype, endpoint=True),
        factor=(rng.uniform(0.2, 2, conv.out_channels) / (100 * depth**0.5)).astype(np.float32),
    )


def _is_at(place: tuple[slice, ...], shape: tuple[int, ...]) -> NDArray[np.bool_]:
    found = np.zeros(shape, np.bool_)
    found[place] = True
    return found


def requantized(case: Case) -> Epilogue:
    """clamp(rint((float32(sum) * factor + residual * 0.3) / 0.7) + 5): what follows a layer of a residual network."""
    low, high = limits(case.dtype)
    operands = (whole((case.conv.out_channels,)).view(case.extents), whole(case.extents, case.dtype).view())
    steps = (
        step("float32", Value(0)),
        step("product", Value(1), Operand(0)),
        step("float32", Operand(1)),
        step("product", Value(3), Constant(0.3)),
        step("add", Value(2), Value(4)),
        step("divide", Value(5), Constant(0.7)),
        step("round", Value(6)),
        step("add", Value(7), Constant(5.0)),
        step("maximum", Value(8), Constant(float(low))),
        step("minimum", Value(9), Constant(float(high))),
        step(case.dtype, Value(10)),
    )
    return Epilogue(steps=bounded(simplified(steps), operands), operands=operands)


def expected(case: Case, numbers: Numbers) -> Array:
    """In int64, and then in float32, each operation by itself."""
    start = numbers.bias.astype(np.int64) if case.bias else np.zeros(case.conv.out_channels, np.int64)
    total = np.moveaxis(convolved(case.conv, numbers.x, numbers.w), 1, -1) + start
    if not case.rounds:
        return total
    scaled = total.astype(np.float32) * numbers.factor
    added = scaled + numbers.residual.astype(np.float32) * np.float32(0.3)
    whole_numbers = np.rint(added / np.float32(0.7)) + np.float32(5)
    return np.clip(whole_numbers, *limits(case.dtype)).astype(case.dtype)


def convolved(conv: Conv, x: Array, w: Array) -> Array:
    """Tap by tap, in int64."""
    groups, places = conv.groups, prod(conv.output_size)
    inputs = x.astype(np.int64).reshape(conv.batch, groups, -1, *conv.size)
    weights = w.astype(np.int64).reshape(groups, conv.out_channels // groups, -1, *conv.kernel)
    total = np.zeros((conv.batch, groups, conv.out_channels // groups, places), np.int64)
    for tap in np.ndindex(*conv.kernel):
        axes = zip(tap, conv.dilation, conv.stride, conv.output_size, strict=True)
        places_seen = [slice(t * d, t * d + (o - 1) * s + 1, s) for t, d, s, o in axes]
        seen = inputs[(slice(None), slice(None), slice(None), *places_seen)]
        total += weights[(..., *tap)] @ seen.reshape(conv.batch, groups, -1, places)
    return total.reshape(conv.batch, conv.out_channels, *conv.output_size)


def run(case: Case, numbers: Numbers, target: Target, threads: int = 1) -> Array:
    """The physical result, of a kernel that finds garbage wherever it has not written."""
    conv, rng = case.conv, np.random.default_rng(7)
    live = tuple((case.ring, n - case.ring) for n in conv.size) if case.ring else None
    request = ConvolutionRequest(
        conv=conv,
        source=case.source,
        result=case.result,
        epilogue=requantized(case) if case.rounds else Epilogue(),
        bias=True,
        live=live,
        wide=case.wide,
    )
    kernel = convolution_kernel(request, target)
    arguments = sources(case, numbers, kernel, rng)
    arguments += [numbers.factor, numbers.residual] if case.rounds else []
    result = rng.integers(*limits(case.result.dtype), case.result.shape, case.result.dtype, endpoint=True)
    return called(build_convolution(kernel), target, [*arguments, result], threads)


def sources(case: Case, numbers: Numbers, kernel: Kernel, rng: np.random.Generator) -> list[Array]:
    """What a kernel multiplies, with garbage around it, and starts from."""
    channels = case.conv.out_channels
    start = numbers.bias.astype(np.int64) if case.bias else np.zeros(channels, np.int64)
    shifted = start - shift_of(kernel) * numbers.w.reshape(channels, -1).sum(1, dtype=np.int64)
    physical = rng.integers(*limits(case.dtype), case.source.shape, case.dtype, endpoint=True)
    physical[inside(case.source)] = np.moveaxis(numbers.x, 1, -1)
    return [physical, *pack_convolution(kernel, case.conv, numbers.w, shifted.astype(np.int32))]


def called(function: tvm.tirx.PrimFunc, target: Target, arguments: Sequence[Array], threads: int = 1) -> Array:
    """What a kernel leaves in its last argument."""
    machine = tvm.target.Target(target.tvm_target(threads))
    tensors = [tvm.runtime.tensor(array) for array in arguments]
    tvm.compile(tvm.IRModule({"main": function}), target=machine)["main"](*tensors)
    return np.array(tensors[-1].numpy())


def inside(window: Window) -> tuple[slice, ...]:
    return tuple(slice(begin, begin + n) for begin, n in zip(window.begin, window.extents, strict=True))


def check(case: Case, target: Target, threads: int = 1) -> Array:
    numbers = numbers_of(case)
    got = run(case, numbers, target, threads)
    assert np.array_equal(got[inside(case.result)], expected(case, numbers))
    border = ~_is_at(inside(case.result), got.shape)
    assert (got[border] == case.number).all(), "the border is written, with its number"
    return got


def drawn_conv(
    draw: st.DrawFn,
    *,
    batches: Sequence[int],
    groups: int,
    channels: tuple[int, int],
    outputs: Sequence[Sequence[int]],
    kernels: Sequence[int],
    steps: Sequence[int],
) -> Conv:
    """Unpadded, with `channels` of a group, in and out. An axis has one of its `outputs`, one of the `kernels`, and two
    of the `steps` for stride and dilation."""
    axes = [[draw(st.sampled_from(numbers)) for numbers in (own, kernels, steps, steps)] for own in outputs]
    _, kernel, stride, dilation = zip(*axes, strict=True)
    return Conv(
        batch=draw(st.sampled_from(batches)),
        in_channels=groups * channels[0],
        out_channels=groups * channels[1],
        groups=groups,
        size=tuple((o - 1) * s + (k - 1) * d + 1 for o, k, s, d in axes),
        kernel=kernel,
        stride=stride,
        dilation=dilation,
        pads_begin=(0,) * len(axes),
        pads_end=(0,) * len(axes),
    )


def drawn_case(draw: st.DrawFn, conv: Conv, dtype: str, *, wide: bool = False, ring: int = 0) -> Case:
    """A layer with or without bias, rounded or not, in any surroundings."""
    bias, rounds = draw(st.booleans()), draw(st.booleans())
    border, number, seed = draw(st.integers(0, 2)), draw(st.integers(*limits(dtype))), draw(st.integers(0, 99))
    return Case(
        conv=conv, dtype=dtype, wide=wide, ring=ring, border=border, number=number, bias=bias, rounds=rounds, seed=seed
    )


@st.composite
def convs(draw: st.DrawFn) -> Conv:
    """Unpadded convolutions of one to three axes; grouped and depthwise ones among them."""
    rank = draw(st.sampled_from((1, 2, 2, 3)))
    kind = draw(st.sampled_from(("dense", "dense", "dense", "groups", "depthwise")))
    groups = 1 if kind == "dense" else draw(st.sampled_from((2, 3, 4, 5, 8, 17, 40)))
    most = {"dense": 15, "groups": 6 if groups < 17 else 2, "depthwise": 1}[kind]
    inner, outer = (1 if kind == "depthwise" else draw(st.sampled_from(CHANNELS[:most])) for _ in range(2))
    outputs = (*(SIZES[:4],) * (rank - 1), SIZES)
    return drawn_conv(
        draw,
        batches=(1, 2),
        groups=groups,
        channels=(inner, outer),
        outputs=outputs,
        kernels=(1, 1, 2, 3, 4),
        steps=(1, 2),
    )


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """What is signed has no border of zeros that could be passed over: 128 is added to every byte of it."""
    conv, dtype = draw(convs()), draw(st.sampled_from(("uint8", "int8")))
    ring = draw(st.integers(0, 2)) if dtype == "uint8" and min(conv.size) > 4 else 0
    return drawn_case(draw, conv, dtype, wide=draw(st.booleans()), ring=ring)


@settings(max_examples=12)
@given(cases(), st.sampled_from(HERE))
def test_kernels_of_bytes_sum_exactly(case: Case, target: Target) -> None:
    check(case, target)


@pytest.mark.slow
@settings(max_examples=1500)
@given(cases(), st.sampled_from(HERE))
def test_many_kernels_of_bytes_sum_exactly(case: Case, target: Target) -> None:
    check(case, target)


PLAIN = Conv(
    batch=2, in_channels=22, out_channels=21, groups=1, size=(5, 11), kernel=(3, 3), stride=(1, 1), dilation=(1, 1),
    pads_begin=(0, 0), pads_end=(0, 0),
)  # fmt: skip
LAYERS = {
    "words that overlap": PLAIN,
    "one channel": replace(PLAIN, in_channels=1),
    "three channels": replace(PLAIN, in_channels=3),
    "three channels of one tap": replace(PLAIN, in_channels=3, kernel=(3, 1)),
    "two channels, dilated": replace(PLAIN, in_channels=2, dilation=(1, 2)),
    "pointwise": replace(PLAIN, kernel=(1, 1), in_channels=6),
    "groups of two": replace(PLAIN, in_channels=10, out_channels=15, groups=5),
    "depthwise": replace(PLAIN, in_channels=21, out_channels=21, groups=21),
    "depthwise of many taps": replace(PLAIN, in_channels=5, out_channels=5, groups=5, size=(19, 18), kernel=(17, 16)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_sums_exactly(name: str) -> None:
    """Each layer with the instructions and threads of its turn."""
    turn = list(LAYERS).index(name)
    dtype, target = ("uint8", "int8")[turn % 2], HERE[turn % len(HERE)]
    check(Case(conv=LAYERS[name], dtype=dtype, border=1, number=17, wide=turn % 3 == 0, seed=3), target, 1 + turn % 3)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["uint8", "int8"])
@pytest.mark.parametrize("name", LAYERS)
def test_threads_and_instructions_do_not_change_bits(name: str, dtype: str) -> None:
    case = Case(conv=LAYERS[name], dtype=dtype, border=1, number=17, wide=dtype == "int8", seed=3)
    results = {check(case, target, threads).tobytes() for target in HERE for threads in (1, 2, 3)}
    assert len(results) == 1


def test_threads_do_not_change_bits() -> None:
    case = Case(conv=LAYERS["groups of two"])
    one, two, three = (check(case, native(), threads) for threads in (1, 2, 3))
    assert one.tobytes() == two.tobytes() == three.tobytes()


def test_two_rows_at_once_sum_exactly(monkeypatch: pytest.MonkeyPatch) -> None:
    """What depthwise layers do that are larger than L2."""
    monkeypatch.setattr(depthwise, "L2_SHARE", 0)
    for dtype in ("uint8", "int8"):
        check(Case(conv=LAYERS["depthwise"], dtype=dtype, wide=True, border=1, number=3), native(), threads=3)


@pytest.mark.parametrize("wide", [False, True])
def test_streams_of_weights_sum_exactly(monkeypatch: pytest.MonkeyPatch, wide: bool) -> None:
    """What layers of few pixels do whose weights come from memory."""
    monkeypatch.setattr(direct_choices, "LEAST_BYTES", 0)
    conv = replace(PLAIN, batch=1, in_channels=22, out_channels=150, size=(3, 4), kernel=(3, 3))
    for target in HERE:
        check(Case(conv=conv, dtype="uint8", wide=wide, border=1, number=3), target)


def test_a_depthwise_kernel_takes_no_more_taps_than_float32_can_sum() -> None:
    """255 * 255 * 256 is less than 2^24; the extreme sums are exact."""
    few, many = (replace(LAYERS["depthwise"], size=(17, 17), kernel=kernel) for kernel in ((16, 16), (17, 17)))
    for conv, family in ((few, Depthwise), (many, Direct)):
        case = Case(conv=conv, wide=True, rounds=False, bias=False)
        drawn = numbers_of(case)
        extreme = replace(drawn, x=np.full_like(drawn.x, 255), w=np.full_like(drawn.w, -255))
        extreme.w[:, :, 0, 0] = -254  # an odd sum
        assert np.array_equal(run(case, extreme, native()), expected(case, extreme))
        request = ConvolutionRequest(
            conv=conv, source=case.source, result=case.result, epilogue=Epilogue(), bias=True, wide=True
        )
        assert isinstance(convolution_kernel(request, native()), family)


@pytest.mark.parametrize("name", ["words that overlap", "depthwise", "three channels of one tap"])
def test_layers_build_for_aarch64(name: str) -> None:
    case, target = Case(conv=LAYERS[name], dtype="int8"), parse_target("aarch64")
    request = ConvolutionRequest(
        conv=case.conv, source=case.source, result=case.result, epilogue=requantized(case), bias=True
    )
    module = tvm.IRModule({"main": build_convolution(convolution_kernel(request, target))})
    tvm.compile(module, target=tvm.target.Target(target.tvm_target(1)))


def test_each_target_has_its_instructions() -> None:
    ways = {target.name: arithmetic_of("uint8", target).way for target in (*TARGETS, NARROW_VNNI)}
    assert ways["x86-64"] == ways["x86-64-v3"] == ways["x86-64-v4"] == Way.PAIRS
    assert ways["cascadelake"] == ways["sapphirerapids"] == ways["avx-vnni"] == Way.WORDS
    assert ways["aarch64"] == Way.SINGLE
    assert arithmetic_of("uint8", parse_target("cascadelake"), wide=True).way == Way.PAIRS, "VNNI takes 8 bits"


@settings(max_examples=12)
@given(
    st.lists(st.integers(1, 3), max_size=2),
    *(st.sampled_from((1, 2, 3, 4, 5, 7, 8, 15, 17, 33, 66)) for _ in range(3)),
    st.sampled_from(HERE),
    st.sampled_from(("uint8", "int8")),
    st.booleans(),
    st.integers(0, 99),
)
def test_products_of_bytes_sum_exactly(
    leading: list[int], rows: int, depth: int, columns: int, target: Target, dtype: str, wide: bool, seed: int
) -> None:
    rng, (low, high) = np.random.default_rng(seed), limits(dtype)
    left = rng.integers(low, high, (*leading, rows, depth), dtype, endpoint=True)
    reach = 255 if wide else 127
    right = rng.integers(-reach, reach, (depth, columns), "int16" if wide else "int8", endpoint=True)
    bias = rng.integers(-(2**20), 2**20, columns, "int32")
    request = ProductRequest(
        depth=depth,
        left=whole(left.shape, dtype),
        right=None,
        result=whole((*leading, rows, columns), "int32"),
        epilogue=Epilogue(),
        bias=True,
        wide=wide,
    )
    kernel = product_kernel(request, target)
    shifted = bias - shift_of(kernel) * right.sum(0, dtype=np.int64)
    packed = pack_product(kernel, right, shifted.astype(np.int32))
    got = called(build_convolution(kernel), target, [left, *packed, np.zeros((*leading, rows, columns), np.int32)])
    assert np.array_equal(got, left.astype(np.int64) @ right.astype(np.int64) + bias)
