"""Kernels on AMX: every bit of layers around tiles, grids, blocks and lines, and what they are chosen for."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import tvm
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from lowprec.convolution import Conv, convolve
from lowprec.passes.overwriting import written_over
from lowprec.schedules.amx import Amx, pack_amx
from lowprec.schedules.amx_choices import choose_grid
from lowprec.schedules.amx_kernel import build_amx
from lowprec.schedules.convolution import (
    ConvolutionRequest,
    Kernel,
    convolution_kernel,
    pack_convolution,
)
from lowprec.schedules.direct import Direct
from lowprec.schedules.epilogue import Epilogue, Operand, Step, Value
from lowprec.schedules.product import ProductRequest, pack_product, product_kernel
from lowprec.schedules.windows import whole
from lowprec.targets import native, parse_target
from lowprec.tiles import DEEPEST, LEFT_OUT, Rows, rows_of
from tests.amounts import thinned
from tests.tvm.schedules.test_bytes import (
    Case,
    called,
    check,
    convolved,
    drawn_case,
    drawn_conv,
    expected,
    inside,
    numbers_of,
    sources,
)

AMX = parse_target("sapphirerapids")
CHANNELS = (5, 21, 32, 33, 48, 63, 64, 65, 72, 96, 100, 128, 130)
OUTPUTS = (1, 5, 16, 17, 31, 32, 33, 48, 64, 80)
needs_amx = pytest.mark.skipif(not native().has("amx_int8"), reason="this CPU has no AMX")
needs_bfloats = pytest.mark.skipif(not native().has("amx_bf16"), reason="this CPU has no AMX for bfloat16")


def kernel_of(case: Case) -> Kernel:
    request = ConvolutionRequest(
        conv=case.conv, source=case.source, result=case.result, epilogue=Epilogue(), bias=True, wide=case.wide
    )
    return convolution_kernel(request, AMX)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Layers that tiles compute: of one to three axes, strided, dilated, in groups, on lines that go on and that
    end."""
    rank, groups = draw(st.sampled_from((1, 2, 2, 2, 3))), draw(st.sampled_from((1, 1, 1, 2, 3)))
    inner = draw(st.sampled_from(CHANNELS))
    outer = draw(st.sampled_from(OUTPUTS if groups == 1 else OUTPUTS[2:]))
    conv = drawn_conv(
        draw,
        batches=(1, 1, 2),
        groups=groups,
        channels=(inner, outer),
        outputs=(*((1, 2, 3, 7, 14),) * (rank - 1), (4, 5, 8, 13, 17, 29, 40)),
        kernels=(1, 1, 2, 3, 5),
        steps=(1, 1, 1, 2),
    )
    return drawn_case(draw, conv, draw(st.sampled_from(("uint8", "int8"))))


def on_tiles() -> st.SearchStrategy[Case]:
    """Those whose rows of channels are words; the others are not for tiles."""
    return cases().filter(lambda case: isinstance(kernel_of(case), Amx))


@pytest.fixture(scope="module", autouse=True)
def whether_worth_it_or_not() -> Iterator[None]:
    """Small layers are computed on tiles here, which vectors are faster with."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Rows, "beat_vectors", lambda self, item, depth: True)
        yield


@needs_amx
@settings(max_examples=15)
@given(on_tiles(), st.integers(1, 3))
def test_layers_on_tiles_sum_exactly(case: Case, threads: int) -> None:
    check(case, native(), threads)


@needs_amx
@pytest.mark.slow
@settings(max_examples=1000)
@given(on_tiles(), st.integers(1, 3))
def test_many_layers_on_tiles_sum_exactly(case: Case, threads: int) -> None:
    check(case, native(), threads)


@needs_amx
@settings(max_examples=15)
@given(on_tiles(), st.integers(1, 40), st.integers(1, 3))
def test_a_residual_that_is_overwritten_is_added_once(case: Case, share: int, threads: int) -> None:
    """Whatever tiles, grids, shares and bundles of rows have again."""
    case = replace(case, rounds=False)
    view, result = case.result.view(), case.result
    add = Epilogue(steps=(Step(op="add", arguments=(Value(0), Operand(0))),), operands=(view,))
    kernel = convolution_kernel(
        ConvolutionRequest(conv=case.conv, source=case.source, result=result, epilogue=add, bias=True), AMX
    )
    assert isinstance(kernel, Amx)
    assume(kernel.may_overwrite)
    kernel = replace(kernel, once=True, share=min(share, kernel.grids))
    rng, numbers = np.random.default_rng(case.seed), numbers_of(case)
    residual = rng.integers(-(2**31), 2**31, result.shape, "int32")
    arguments = [*sources(case, numbers, kernel, rng), residual]
    got = called(written_over(build_amx(kernel), len(arguments) - 1), native(), arguments, threads)
    total = expected(case, numbers) + residual[inside(result)]
    assert np.array_equal(got[inside(result)], total.astype(np.int32))


LAYER = Conv(
    batch=1, in_channels=64, out_channels=64, groups=1, size=(16, 16), kernel=(3, 3), stride=(1, 1), dilation=(1, 1),
    pads_begin=(0, 0), pads_end=(0, 0),
)  # fmt: skip
POINTWISE = replace(LAYER, kernel=(1, 1))
ON_TILES = {
    "lines that go on": LAYER,
    "lines that end": replace(LAYER, stride=(2, 2)),
    "one pixel too many for a tile": replace(POINTWISE, size=(1, 17)),
    "few pixels": replace(POINTWISE, size=(1, 4)),
    "one output channel": replace(LAYER, out_channels=1),
    "rows of taps that fill half of a tile": replace(LAYER, in_channels=12, kernel=(2, 3)),
    "a last block that overlaps": replace(POINTWISE, in_channels=80),
    "groups": replace(LAYER, groups=2),
    "rows that are no words": replace(LAYER, in_channels=13),
    "a stem": replace(LAYER, in_channels=3, kernel=(7, 7), size=(29, 29), stride=(2, 2)),
}
ELSEWHERE = {
    "three channels": replace(LAYER, in_channels=3),
    "three pixels": replace(POINTWISE, size=(1, 3)),
    "narrow groups": replace(LAYER, groups=8),
}


@needs_amx
@pytest.mark.parametrize("name", thinned(ON_TILES))
def test_a_layer_on_tiles_has_the_bits_of_every_other_way(name: str) -> None:
    case = Case(conv=ON_TILES[name], border=1, number=7, seed=5)
    others = (native(), parse_target("cascadelake"), parse_target("x86-64-v3"))
    results = {check(case, target, threads).tobytes() for target, threads in zip(others, (2, 1, 1), strict=True)}
    assert len(results) == 1


@pytest.mark.parametrize("name", [*ON_TILES, *ELSEWHERE])
def test_tiles_are_chosen_where_they_are_filled(name: str) -> None:
    layer = (ON_TILES | ELSEWHERE)[name]
    assert isinstance(kernel_of(Case(conv=layer)), Amx if name in ON_TILES else Direct)
    assert isinstance(kernel_of(Case(conv=layer, wide=True)), Direct), "weights of a tile have 8 bits"


@pytest.mark.parametrize("name", ON_TILES)
def test_layers_on_tiles_build_anywhere(name: str) -> None:
    kernel = kernel_of(Case(conv=ON_TILES[name]))
    assert isinstance(kernel, Amx)
    machine = tvm.target.Target(AMX.tvm_target(1))
    code = tvm.compile(tvm.IRModule({"main": build_amx(kernel)}), target=machine).mod.inspect_source("asm")
    assert "tdpbusd" in code


def of_16_bits(conv: Conv) -> Kernel:
    conv_shape = (conv.batch, *conv.size, conv.in_channels)
    extents = (conv.batch, *conv.output_size, conv.out_channels)
    request = ConvolutionRequest(
        conv=conv, source=whole(conv_shape, "int16"), result=whole(extents), epilogue=Epilogue(), bias=True
    )
    return convolution_kernel(request, AMX)


@pytest.mark.parametrize("name", ON_TILES)
def test_numbers_of_16_bits_are_multiplied_byte_by_byte(name: str) -> None:
    """Exactness is seen in `test_halves`, where this machine has tiles."""
    kernel = of_16_bits(ON_TILES[name])
    assert isinstance(kernel, Amx)
    assert (kernel.split, kernel.grid.count) == (True, 1)
    machine = tvm.target.Target(AMX.tvm_target(1))
    code = tvm.compile(tvm.IRModule({"main": build_amx(kernel)}), target=machine).mod.inspect_source("asm")
    assert all(name in code for name in ("tdpbssd", "tdpbsud", "tdpbusd", "tdpbuud"))


def test_sums_of_16_bits_that_bytes_cannot_hold_are_not_for_tiles() -> None:
    deepest = replace(POINTWISE, in_channels=DEEPEST)
    assert isinstance(of_16_bits(deepest), Amx)
    assert isinstance(of_16_bits(replace(deepest, in_channels=DEEPEST + 1)), Direct)
    assert DEEPEST * 2 * 128 * 255 < 2**31 <= (DEEPEST + 1) * 2 * 128 * 255
    assert DEEPEST * 255 * 255 < 2**31


def test_weights_of_16_bits_are_packed_as_two_bytes() -> None:
    kernel = of_16_bits(POINTWISE)
    assert isinstance(kernel, Amx)
    weights = np.random.default_rng(1).integers(-(2**15), 2**15, (64, 64, 1, 1)).astype(np.int16)
    high, low = pack_amx(weights, kernel)
    assert [array.dtype.name for array in (high, low)] == ["int8", "uint8"]
    assert np.array_equal(np.sort((256 * high.astype(np.int32) + low).ravel()), np.sort(weights.ravel()))


def test_packed_weights_hold_each_weight_once() -> None:
    """Of 80 channels the second block has 16 that the first has too: those are zero there."""
    kernel = kernel_of(Case(conv=replace(POINTWISE, in_channels=80)))
    assert isinstance(kernel, Amx)
    weights = np.arange(1, 64 * 80 + 1, dtype=np.int64).reshape(64, 80, 1, 1)
    (packed,) = pack_amx((weights % 127 + 1).astype(np.int8), kernel)
    assert packed.shape == kernel.packed_shape
    assert np.count_nonzero(packed) == weights.size
    assert np.array_equal(np.sort(packed[packed != 0]), np.sort((weights % 127 + 1).astype(np.int8).ravel()))


@pytest.mark.parametrize("tiles", range(1, 12))
@pytest.mark.parametrize("vectors", range(1, 9))
def test_grids_fit_into_the_registers(tiles: int, vectors: int) -> None:
    grid = choose_grid(tiles, vectors)
    assert grid.count + grid.wide + 1 <= 8
    assert grid.high <= tiles
    assert grid.wide <= vectors


@needs_amx
@pytest.mark.parametrize(("rows", "depth", "columns"), [(4, 64, 16), (17, 100, 33), (49, 512, 48), (128, 36, 10)])
def test_products_on_tiles_sum_exactly(rows: int, depth: int, columns: int) -> None:
    rng = np.random.default_rng(rows)
    left = rng.integers(0, 255, (rows, depth), "uint8", endpoint=True)
    right, bias = rng.integers(-128, 127, (depth, columns), "int8"), rng.integers(-(2**20), 2**20, columns, "int32")
    request = ProductRequest(
        depth=depth,
        left=whole(left.shape, "uint8"),
        right=None,
        result=whole((rows, columns), "int32"),
        epilogue=Epilogue(),
        bias=True,
    )
    kernel = product_kernel(request, native())
    assert isinstance(kernel, Amx)
    arguments = [left, *pack_product(kernel, right, bias), np.zeros((rows, columns), np.int32)]
    got = called(build_amx(kernel), native(), arguments)
    assert np.array_equal(got, left.astype(np.int64) @ right.astype(np.int64) + bias)


def whole_numbers(conv: Conv, seed: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Small ones, whose products and sums float32 has: any order gives the same bits."""
    rng = np.random.default_rng(seed)
    x = rng.integers(-15, 16, (conv.batch, conv.in_channels, *conv.size))
    w = rng.integers(-15, 16, conv.weight_shape)
    return x.astype(np.float32), w.astype(np.float32)


def run_halves(
    case: Case, x: NDArray[np.float32], w: NDArray[np.float32], threads: int, numbers: str
) -> NDArray[np.float32]:
    """Inside of what is not zero around the source, into what is NaN."""
    conv = case.conv
    source, result = replace(case.source, dtype="float32"), replace(case.result, dtype="float32", border=0)
    relu = Epilogue(steps=(Step(op="relu", arguments=(Value(0),)),))
    request = ConvolutionRequest(conv=conv, source=source, result=result, epilogue=relu, bias=True, numbers=numbers)
    with pytest.MonkeyPatch.context() as patched:  # whatever is worth it
        patched.setattr(Rows, "fill_tiles_thrice", lambda self, _: self.fill_tiles(2))
        kernel = convolution_kernel(request, native())
    assert isinstance(kernel, Amx)
    physical = np.full(source.shape, 7, np.float32)
    physical[inside(source)] = np.moveaxis(x, 1, -1)
    bias = np.arange(conv.out_channels, dtype=np.float32)
    packed = pack_convolution(kernel, conv, w, bias)
    got = called(build_amx(kernel), native(), [physical, *packed, np.full(result.shape, np.nan, np.float32)], threads)
    outside = np.ones(result.shape, bool)
    outside[inside(result)] = False
    assert (got[outside] == 0).all()
    return np.asarray(got[inside(result)])


@needs_bfloats
@settings(max_examples=8)
@given(cases().filter(lambda case: rows_of(case.conv).fill_tiles(2)), st.integers(1, 2))
@pytest.mark.parametrize("numbers", ["bfloat16", "float16"])
def test_floats_on_tiles_sum_exactly(numbers: str, case: Case, threads: int) -> None:
    x, w = whole_numbers(case.conv, case.seed)
    expected = np.moveaxis(convolved(case.conv, x, w), 1, -1) + np.arange(case.conv.out_channels)
    got = run_halves(replace(case, rounds=True), x, w, threads, numbers)
    assert np.array_equal(got, np.maximum(expected, 0))


@needs_bfloats
@settings(max_examples=6)
@given(cases().filter(lambda case: rows_of(case.conv).fill_tiles(2)), st.booleans(), st.integers(1, 2))
def test_each_part_of_a_float16_is_multiplied_where_it_belongs(case: Case, swapped: bool, threads: int) -> None:
    """Pixels, or weights, of eleven bits take two numbers of bfloat16; the other factor takes one."""
    x, w = whole_numbers(case.conv, case.seed)
    rng = np.random.default_rng(case.seed)
    long, short = (w, x) if swapped else (x, w)
    long += (rng.integers(-7, 8, long.shape) * 256).astype(np.float32)
    short[:] = np.clip(short, -3, 3)
    expected = np.moveaxis(convolved(case.conv, x, w), 1, -1) + np.arange(case.conv.out_channels)
    got = run_halves(replace(case, rounds=True), x, w, threads, "float16")
    assert np.array_equal(got, np.maximum(expected, 0))


@needs_bfloats
@pytest.mark.parametrize(("numbers", "far"), [("bfloat16", 8e-6), ("float16", 3e-5)])
def test_sums_of_floats_are_near(numbers: str, far: float) -> None:
    case = Case(conv=replace(LAYER, in_channels=96), rounds=True)
    rng = np.random.default_rng(0)
    shapes = ((1, 96, 16, 16), case.conv.weight_shape)
    x, w = (rng.standard_normal(shape).astype(numbers).astype(np.float32) for shape in shapes)
    exact = np.moveaxis(convolve(case.conv, x, w), 1, -1) + np.arange(64)
    got = run_halves(case, x, w, 1, numbers)
    assert np.abs(got - np.maximum(exact, 0)).max() < far * np.abs(exact).max()
    if numbers == "float16":
        error = (got - exact)[exact > 0].std() / (exact - np.arange(64)).std()
        assert error == pytest.approx(LEFT_OUT["fp16"], rel=0.1)
