"""Fourier kernels: transforms against NumPy's, and convolutions, dense and depthwise, against the oracle.

A result is held to what `fourier_spread` says of each element, and all of it, in the root mean square, to 8 times what
the plan predicts.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from math import ceil, log2, prod

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from tvm import ir, tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from lowprec import fourier
from lowprec.choosing import FFT
from lowprec.convolution import convolve
from lowprec.fourier import FACTORS, Segment, frequencies, roots
from lowprec.phases import Phases
from lowprec.predicting import UNIT
from lowprec.predicting_fourier import predict_fourier, segments_of
from lowprec.schedules import fourier as dense
from lowprec.schedules import fourier_depthwise as depthwise
from lowprec.schedules.blocks import Tiling
from lowprec.schedules.dft import Complex, Line, dft, transform_line
from lowprec.schedules.fourier import Fourier
from lowprec.schedules.fourier_depthwise import FourierDepthwise
from lowprec.schedules.fourier_tile import Tile
from lowprec.schedules.views import Index, load, splat, store
from lowprec.targets import parse_target
from tests.amounts import thinned
from tests.oracle import fourier_spread
from tests.tvm.kernels import Array, cut, run_kernel
from tests.tvm.schedules.cases import (
    CHANNELS,
    TARGETS,
    Case,
    Judged,
    conv_of,
    judged,
    kernel_of,
    never_short,
    numbers_of,
    run,
)

Spectrum = NDArray[np.complex128]
LANES = 4
STRIDES = (1, 1, 1, 1, 1, 2, 2, 3, 4)
LIMIT = 8  # times the predicted error, in the root mean square


def exchanged(value: Complex) -> Complex:
    return value[1], value[0]


def line_kernel(size: int, *, back: bool = False) -> tirx.PrimFunc:
    """Y = DFT(X), or its inverse without the factor; arguments X, roots, Y."""
    turn = exchanged if back else (lambda value: value)
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_name("main")
        x = T.arg("X", T.buffer((size, 2, LANES), "float32"))
        w = T.arg("W", T.buffer((size, 2), "float32"))
        y = T.arg("Y", T.buffer((size, 2, LANES), "float32"))
        T.func_attr({"tirx.noalias": True, "global_symbol": "main"})
        work = T.alloc_buffer((2 * size * LANES,), "float32", scope="global")

        def read(n: Index, _: int) -> Complex:
            re, im = turn((load(x, n * (2 * LANES), LANES), load(x, n * (2 * LANES) + LANES, LANES)))
            return T.bind(re), T.bind(im)

        def write(k: Index, value: Complex) -> None:
            for part, number in enumerate(turn(value)):
                store(y, (k * 2 + part) * LANES, number, LANES)

        def table(j: Index) -> Complex:
            return splat(load(w, j * 2, 1), LANES), splat(load(w, j * 2 + 1, 1), LANES)

        transform_line(Line(size=size, read=read, write=write, work=work, table=table, lanes=LANES, apart=LANES))
    return builder.get()


def short_kernel(count: int) -> tirx.PrimFunc:
    """Y = DFT(X), written out."""
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_name("main")
        x = T.arg("X", T.buffer((count, 2, LANES), "float32"))
        y = T.arg("Y", T.buffer((count, 2, LANES), "float32"))
        T.func_attr({"tirx.noalias": True, "global_symbol": "main"})
        places = [n * 2 * LANES for n in range(count)]
        values = [(T.bind(load(x, at, LANES)), T.bind(load(x, at + LANES, LANES))) for at in places]
        for at, (re, im) in zip(places, dft(values, LANES), strict=True):
            store(y, at, re, LANES)
            store(y, at + LANES, im, LANES)
    return builder.get()


def drawn_line(size: int) -> Array:
    """Every lane its own numbers."""
    return np.random.default_rng(size).standard_normal((size, 2, LANES), np.float32)


def as_complex(parts: Array) -> Spectrum:
    return np.asarray(parts[:, 0] + 1j * parts[:, 1].astype(np.float64), np.complex128)


def distance(got: Array, expected: Spectrum) -> float:
    """Of each lane the error's Euclidean length over the result's; the worst."""
    error = np.linalg.norm(as_complex(got) - expected, axis=0) / np.linalg.norm(expected, axis=0)
    return float(error.max())


def most(size: int) -> float:
    """Higham's bound of a Cooley-Tukey transform, whose passes round a number at most 8 times in each factor of 2."""
    return 4 * max(1.0, log2(size)) * UNIT


def run_line(size: int, *, back: bool = False, table: Array | None = None) -> Array:
    result = np.full((size, 2, LANES), np.nan, np.float32)
    table = roots(size) if table is None else table
    return run_kernel(line_kernel(size, back=back), parse_target("native"), [drawn_line(size), table], result)


@pytest.mark.parametrize("size", FACTORS)
def test_a_line_is_transformed_as_numpy_does(size: int) -> None:
    x = as_complex(drawn_line(size))
    assert distance(run_line(size), np.fft.fft(x, axis=0)) <= most(size)


@pytest.mark.parametrize("size", FACTORS)
def test_parts_exchanged_before_and_after_are_the_way_back(size: int) -> None:
    x = as_complex(drawn_line(size))
    assert distance(run_line(size, back=True), size * np.fft.ifft(x, axis=0)) <= most(size)


@pytest.mark.parametrize("size", [8, 30, 36, 120, 128])
def test_every_root_that_is_off_is_seen(size: int) -> None:
    first, second = FACTORS[size]
    expected = np.fft.fft(as_complex(drawn_line(size)), axis=0)
    for j in sorted({n2 * k1 for n2 in range(second) for k1 in range(1, first)})[:: max(1, size // 8)]:
        table = roots(size)
        table[j] = roots(size)[(j + 1) % size]
        assert distance(run_line(size, table=table), expected) > 100 * most(size), j


@pytest.mark.parametrize("count", [n for n in range(1, 17) if n not in (7, 11, 13, 14)])
def test_short_transforms_are_numpys(count: int) -> None:
    result = np.full((count, 2, LANES), np.nan, np.float32)
    got = run_kernel(short_kernel(count), parse_target("native"), [drawn_line(count)], result)
    assert distance(got, np.fft.fft(as_complex(drawn_line(count)), axis=0)) <= most(count)


@pytest.mark.parametrize("count", [7, 11, 14])
def test_a_length_with_another_factor_has_no_transform(count: int) -> None:
    with pytest.raises(StopIteration):
        short_kernel(count)


def problem(case: Case, got: Array) -> str:
    """What is wrong with a physical result, or nothing."""
    conv, numbers, found = case.conv, numbers_of(case), judged(case, got)
    assert len(case.sizes) == 2
    sizes = (case.sizes[0], case.sizes[1])
    extra = np.moveaxis(found.extra, -1, 1).astype(np.float32)
    bound = fourier_spread(conv, segments_of(conv, sizes), numbers.x, numbers.w, extra)
    if not (np.moveaxis(found.error, -1, 1) <= bound).all():
        return "an element is wrong"
    return inexact(case, found) or ("the border is not written with zeros" if found.border.any() else "")


def inexact(case: Case, found: Judged) -> str:
    conv, numbers = case.conv, numbers_of(case)
    size = np.mean(convolve(conv, np.square(numbers.x), np.square(numbers.w))) ** 0.5
    predicted = predict_fourier(conv, (case.sizes[0], case.sizes[1]), parse_target(case.target)).error * size
    allowed = LIMIT * predicted + UNIT * np.mean(np.square(found.extra + size)) ** 0.5
    return "" if np.mean(np.square(found.error)) ** 0.5 <= allowed else "the error is larger than predicted"


@st.composite
def cases(draw: st.DrawFn, *, alone: bool = False) -> Case:
    """Taps odd and even, and outputs around a tile's: one, one less, one more, twice; `alone` is depthwise."""
    sizes = tuple(draw(st.sampled_from([8, 12, 16, 20, 24, 30, 32, 36, 40, 48])) for _ in range(2))
    strides = tuple(draw(st.sampled_from(STRIDES)) for _ in sizes)
    kernel = tuple(draw(st.integers(1, min(33, s * (size - 1)))) for size, s in zip(sizes, strides, strict=True))
    output = []
    for size, taps, stride in zip(sizes, kernel, strides, strict=True):
        full = size - ceil(taps / stride) + 1
        near = {1, full - 1, full, full + 1, 2 * full + 1, full // 2} - {0}
        output.append(draw(st.sampled_from(sorted(n for n in near if n > 0 and n < 50))))
    if alone:
        channels = (draw(st.sampled_from((2, 3, 5, 15, 16, 17, 33))), 1, 1)
    else:
        groups = draw(st.sampled_from((1, 1, 1, 2, 3)))
        widths = CHANNELS if groups == 1 else CHANNELS[1:4]
        channels = (groups, draw(st.sampled_from(widths)), draw(st.sampled_from(widths)))
    return Case(
        conv=conv_of(kernel, tuple(output), channels, batch=draw(st.sampled_from((1, 1, 2))), stride=strides),
        algorithm=FFT,
        sizes=sizes,
        target=draw(st.sampled_from(TARGETS)),
        border=draw(st.integers(0, 2)),
        residual=draw(st.booleans()),
        bias=draw(st.booleans()),
        seed=draw(st.integers(0, 99)),
    )


@settings(max_examples=8, deadline=None, derandomize=True)
@given(cases())
def test_kernels_equal_the_oracle(case: Case) -> None:
    assert isinstance(kernel_of(case), Fourier)
    assert problem(case, run(case)) == ""


@settings(max_examples=8, deadline=None, derandomize=True)
@given(cases(alone=True))
def test_depthwise_kernels_equal_the_oracle(case: Case) -> None:
    assert isinstance(kernel_of(case), FourierDepthwise)
    assert problem(case, run(case)) == ""


@pytest.mark.parametrize("sizes", thinned([(60, 64), (72, 80), (96, 108), (120, 128)]), ids=str)
def test_large_tiles_equal_the_oracle(sizes: tuple[int, int]) -> None:
    """Whole, and most of one beside a ragged second."""
    kernel = (31, 33)
    output = (sizes[0] - 31, sizes[1] - 33 + 9)
    case = Case(conv=conv_of(kernel, output, (3, 1, 1)), algorithm=FFT, sizes=sizes, border=1)
    assert problem(case, run(case)) == ""


# Ragged along both axes, several panels of output channels, groups, a border, an epilogue.
RAGGED = Case(
    conv=conv_of((5, 4), (11, 19), (2, 17, 67)), algorithm=FFT, sizes=(12, 16), border=1, residual=True, bias=True
)
# Few tiles and many output channels, so that threads share the channels.
DEEP = replace(RAGGED, conv=conv_of((3, 5), (14, 13), (1, 20, 512)))
ALONE = replace(RAGGED, conv=conv_of((5, 4), (11, 19), (37, 1, 1)))
ALL = {"ragged": RAGGED, "deep": DEEP, "alone": ALONE}


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("case", ALL.values(), ids=ALL)
def test_several_panels_equal_the_oracle(case: Case, target: str) -> None:
    case = replace(case, target=target)
    assert problem(case, run(case, good_for=3)) == ""


STRIDED = replace(RAGGED, conv=conv_of((7, 7), (9, 11), (2, 17, 35), stride=(2, 2)))
NINE = replace(RAGGED, conv=conv_of((11, 11), (11, 19), (1, 3, 33), stride=(4, 4)))
MIXED = replace(RAGGED, conv=conv_of((5, 4), (11, 15), (1, 5, 18), batch=2, stride=(3, 1)))
ONE_TAP = replace(RAGGED, conv=conv_of((2, 5), (11, 19), (1, 8, 18), stride=(3, 2)))
ALONE_TOO = replace(ALONE, conv=conv_of((7, 5), (9, 11), (37, 1, 1), batch=2, stride=(2, 2)))
ALONE_MIXED = replace(ALONE, conv=conv_of((2, 7), (11, 15), (5, 1, 1), stride=(1, 3)))
STRIDED_ONES = {
    "strided": STRIDED,
    "nine": NINE,
    "mixed": MIXED,
    "one axis of one tap": ONE_TAP,
    "alone": ALONE_TOO,
    "alone, mixed": ALONE_MIXED,
}


@pytest.mark.parametrize("case", STRIDED_ONES.values(), ids=STRIDED_ONES)
def test_strided_kernels_equal_the_oracle(case: Case) -> None:
    assert problem(case, run(case, good_for=3)) == ""


@pytest.mark.parametrize("case", thinned([*ALL.values(), STRIDED, ALONE_TOO]), ids=[*ALL, "strided", "strided, alone"])
def test_threads_do_not_change_bits(case: Case) -> None:
    one, two, three = (run(case, threads=threads, good_for=2) for threads in (1, 2, 3))
    assert one.tobytes() == two.tobytes() == three.tobytes()


def test_the_share_of_each_thread_does_not_change_bits() -> None:
    kernel = kernel_of(DEEP)
    assert isinstance(kernel, Fourier)
    blocks = kernel.blocks
    parts = [parts for parts in range(1, blocks.turns + 1) if blocks.turns % parts == 0]
    assert len(parts) > 1, blocks
    cuts = [replace(blocks, parts=count) for count in parts]
    shorter = range(blocks.tile.rows, blocks.run)
    cuts += [replace(blocks, run=count) for count in shorter[:1]]
    found = {run(DEEP, kernel=replace(kernel, blocks=each), threads=2).tobytes() for each in cuts}
    assert len(found) == 1


def test_several_blocks_of_tiles_equal_the_oracle() -> None:
    case = replace(RAGGED, conv=conv_of((3, 3), (41, 67), (1, 5, 18), batch=2), sizes=(8, 8))
    kernel = kernel_of(case)
    assert isinstance(kernel, Fourier)
    assert kernel.blocks.run < kernel.tiling.count, "more tiles than one block takes"
    assert problem(case, run(case, threads=2)) == ""


@pytest.mark.parametrize("channels", [(1, 5, 18), (5, 1, 1)], ids=["dense", "depthwise"])
def test_an_output_is_its_own_tiles_though_another_computes_it_too(
    channels: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An input that the last tile alone sees is NaN, and so is what it writes; without its condition it writes more."""
    outputs = 8 - 3 + 1
    case = Case(conv=conv_of((3, 3), (outputs + 2,) * 2, channels), algorithm=FFT, sizes=(8, 8))
    numbers = numbers_of(case)
    numbers.x[..., -1, -1] = np.nan
    expected = np.zeros(case.extents, bool)
    expected[:, outputs:, outputs:] = True
    assert np.array_equal(np.isnan(run(case, numbers=numbers)), expected)
    monkeypatch.setattr(Tiling, "elsewhere", lambda *_: None)
    assert not np.array_equal(np.isnan(run(case, numbers=numbers)), expected)


@pytest.mark.parametrize("case", [STRIDED, ALONE_TOO], ids=["strided", "alone"])
@pytest.mark.parametrize("order", [(1, 0, 2, 3), (0, 1, 3, 2)], ids=str)
def test_phases_of_the_weights_in_another_order_are_seen(
    monkeypatch: pytest.MonkeyPatch, order: tuple[int, ...], case: Case
) -> None:
    split = Phases.split

    def wrong(self: Phases, weights: NDArray[np.floating]) -> NDArray[np.floating]:
        found = split(self, weights)
        return found.reshape(len(found), self.count, -1, *found.shape[2:])[:, order].reshape(found.shape)

    monkeypatch.setattr(Phases, "split", wrong)
    assert problem(case, run(case)) == "an element is wrong"


@pytest.mark.parametrize("axis", [0, 1])
def test_an_input_beyond_the_source_is_seen(monkeypatch: pytest.MonkeyPatch, axis: int) -> None:
    """That of a tap that short phases do not have; what is there is NaN."""
    monkeypatch.setattr(Phases, "regions", property(partial(never_short, axis)))
    assert np.isnan(run(replace(STRIDED, residual=False))).any()


def rows_of_a_pair_exchanged(self: Tile, write: Callable[[Index, Index, ir.Expr, ir.Expr | None], None]) -> None:
    """`restore_rows`, each row's results in the other's place."""
    held: list[tuple[Index, Index, ir.Expr, ir.Expr | None]] = []

    def wrong(i: Index, j: Index, value: ir.Expr, unless: ir.Expr | None) -> None:
        held.append((i, j, value, unless))
        if len(held) == 2:
            for (row, column, _, skipped), (_, _, other, _) in zip(held, held[::-1], strict=True):
                write(row, column, other, skipped)
            held.clear()

    restore_rows(self, wrong)


restore_rows = Tile.restore_rows


@pytest.mark.parametrize("case", ALL.values(), ids=ALL)
def test_rows_of_a_pair_exchanged_are_seen(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Tile, "restore_rows", rows_of_a_pair_exchanged)
    assert problem(case, run(case)) == "an element is wrong"


@pytest.mark.parametrize("case", ALL.values(), ids=ALL)
def test_a_spectrum_that_is_not_conjugated_is_seen(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(weights: Array, high: Segment, wide: Segment) -> Spectrum:
        return np.conj(fourier.transform_weights(weights, high, wide))

    for module in (dense, depthwise):
        monkeypatch.setattr(module, "transform_weights", wrong)
    assert problem(case, run(case)) == "an element is wrong"


@pytest.mark.parametrize("case", ALL.values(), ids=ALL)
@pytest.mark.parametrize("axis", [0, 1])
def test_one_wrong_root_is_seen(case: Case, axis: int) -> None:
    kernel = kernel_of(case)
    assert isinstance(kernel, (Fourier, FourierDepthwise))
    first = kernel.transforms.tables[axis]
    size = case.sizes[axis]

    def wrong(packed: Array) -> Array:
        assert np.array_equal(packed[first : first + 2 * size], roots(size).ravel())
        packed[first + 2] *= np.float32(1 + 2**-8)
        return packed

    assert problem(case, run(case, pack=wrong))


@pytest.mark.parametrize("case", ALL.values(), ids=ALL)
def test_one_wrong_frequency_of_the_weights_is_seen(case: Case) -> None:
    kernel = kernel_of(case)
    assert isinstance(kernel, (Fourier, FourierDepthwise))
    channels = kernel.weights // frequencies(*kernel.axes)

    def wrong(packed: Array) -> Array:
        """In the first panel or vector, whose frequencies follow each other."""
        inner = 2 * kernel.width if isinstance(kernel, FourierDepthwise) else 2 * prod(kernel.blocks.channels[:1])
        assert 0 < inner <= channels
        packed[17 : 17 + inner] *= np.float32(1 + 2**-4)
        return packed

    assert problem(case, run(case, pack=wrong))


def test_an_element_that_is_not_written_is_seen() -> None:
    got = run(RAGGED)
    for spoil in (np.nan, 1.0):
        wrong = got.copy()
        cut(RAGGED.result, wrong)[0, 10, 18, 66] = spoil
        assert problem(RAGGED, wrong) == "an element is wrong"
    wrong = got.copy()
    wrong[0, 0, 0, 0] = 1
    assert problem(RAGGED, wrong) == "the border is not written with zeros"
    assert problem(RAGGED, got) == ""
