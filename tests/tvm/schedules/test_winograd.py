"""Winograd kernels against the oracle: every tile, sizes around it, ragged edges, borders, groups and epilogues.

A result is held to what `winograd_bound` and `winograd_spread` say of each element, and all of it, in the root mean
square, to 8 times what the plan predicts.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np
import pytest
import tvm_ffi
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from tvm import ir, tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from lowprec.convolution import Conv, convolve
from lowprec.predicting import TILES, UNIT, filterings, predict_winograd, winograd_obstacle
from lowprec.schedules import linear
from lowprec.schedules import winograd as schedule
from lowprec.schedules.convolution import (
    ConvolutionRequest,
    build_convolution,
    convolution_kernel,
    pack_convolution,
)
from lowprec.schedules.epilogue import Epilogue, Operand, Step, Value
from lowprec.schedules.views import load, store
from lowprec.schedules.windows import Window
from lowprec.schedules.winograd import Winograd
from lowprec.targets import parse_target
from tests.oracle import winograd_bound, winograd_spread
from tests.tvm.kernels import Array, cut, padded, place, run_kernel

Mask = NDArray[np.bool_]
TARGETS = ("x86-64", "x86-64-v3", "native")
KERNELS = ((3, 3), (3, 3), (5, 5), (2, 2), (7, 7), (1, 3), (3, 1), (1, 7), (3, 2), (3,), (2,), (5,), (7,))
CHANNELS = (1, 3, 5, 15, 16, 17, 33)
PRIMES = (5, 7, 11, 13)
RESIDUAL = Step(op="add", arguments=(Value(0), Operand(0)))
RELU = Step(op="relu", arguments=(Value(1),))
LIMIT = 8  # times the predicted error, in the root mean square


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A layer, how it is computed, and what surrounds it."""

    conv: Conv
    outputs: int
    target: str = "native"
    border: int = 0
    residual: bool = False
    bias: bool = False
    seed: int = 0

    @property
    def extents(self) -> tuple[int, ...]:
        return (self.conv.batch, *self.conv.output_size, self.conv.out_channels)

    @property
    def source(self) -> Window:
        conv, rank = self.conv, len(self.conv.size)
        return padded((conv.batch, *conv.size, conv.in_channels), (0, *(1,) * rank, 0), (0, *(0,) * rank, 0))

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


def conv_of(kernel: tuple[int, ...], output: tuple[int, ...], channels: tuple[int, int, int], batch: int = 1) -> Conv:
    """A plain convolution with so many outputs; `channels` are groups, and in and out of each."""
    groups, inner, outer = channels
    ones = (1,) * len(kernel)
    return Conv(
        batch=batch,
        in_channels=groups * inner,
        out_channels=groups * outer,
        groups=groups,
        size=tuple(o + k - 1 for o, k in zip(output, kernel, strict=True)),
        kernel=kernel,
        stride=ones,
        dilation=ones,
        pads_begin=(0,) * len(kernel),
        pads_end=(0,) * len(kernel),
    )


def kernel_of(case: Case, *, good_for: int = 1) -> Winograd:
    """The kernel, made for that many threads."""
    epilogue = Epilogue(steps=(RESIDUAL, RELU), operands=(case.other.view(),)) if case.residual else Epilogue()
    request = ConvolutionRequest(
        conv=case.conv,
        source=case.source,
        result=case.result,
        epilogue=epilogue,
        bias=case.bias,
        transforms=filterings(case.conv, case.outputs),
        threads=good_for,
    )
    kernel = convolution_kernel(request, parse_target(case.target))
    assert isinstance(kernel, Winograd)
    return kernel


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
    numbers: Numbers | None = None,
    threads: int = 1,
    good_for: int = 1,
    pack: Callable[[Array], Array] = nothing,
    build: Callable[[tirx.PrimFunc], tirx.PrimFunc] = unchanged,
) -> Array:
    """The physical result, which was full of NaN; so is what lies around the source and the residual."""
    kernel, numbers = kernel_of(case, good_for=good_for), numbers or numbers_of(case)
    packed, *bias = pack_convolution(kernel, case.conv, numbers.w, numbers.bias if case.bias else None)
    arguments = [place(case.source, last(numbers.x), outside=np.nan), pack(packed), *bias]
    arguments += [place(case.other, numbers.residual, outside=np.nan)] if case.residual else []
    result = np.full(case.result.shape, np.nan, np.float32)
    return run_kernel(build(build_convolution(kernel)), parse_target(case.target), arguments, result, threads)


def problem(case: Case, got: Array) -> str:
    """What is wrong with a physical result, or nothing."""
    conv, numbers = case.conv, numbers_of(case)
    added = numbers.bias if case.bias else np.zeros(conv.out_channels, np.float32)
    expected = last(convolve(conv, numbers.x, numbers.w, added))  # type: ignore[arg-type]
    extra = np.broadcast_to(np.abs(added), case.extents)
    if case.residual:
        expected, extra = np.maximum(expected + numbers.residual, 0), extra + np.abs(numbers.residual)
    error = np.abs(cut(case.result, got) - expected)
    axes = filterings(conv, case.outputs)
    for bound in (winograd_bound, winograd_spread):
        if not (np.moveaxis(error, -1, 1) <= bound(conv, axes, numbers.x, numbers.w, np.moveaxis(extra, -1, 1))).all():
            return "an element is wrong"
    sizes = np.mean(convolve(conv, np.square(numbers.x), np.square(numbers.w))) ** 0.5
    predicted = predict_winograd(conv, case.outputs, parse_target(case.target)).error * sizes
    if not np.mean(np.square(error)) ** 0.5 <= LIMIT * predicted + UNIT * np.mean(np.square(extra + sizes)) ** 0.5:
        return "the error is larger than predicted"
    rest = got.copy()
    cut(case.result, rest)[...] = 0
    return "the border is not written with zeros" if rest.any() else ""


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Kernels for which the tile has points, and outputs around it: one, one less, one more, twice, primes."""
    outputs = draw(st.sampled_from(TILES))
    kernel = draw(st.sampled_from(KERNELS))
    sizes = (1, outputs - 1, outputs, outputs + 1, 2 * outputs + 1, draw(st.sampled_from(PRIMES)))
    output = tuple(draw(st.sampled_from(sizes)) for _ in kernel)
    groups = draw(st.sampled_from((1, 1, 1, 2, 3)))
    inner = draw(st.sampled_from(CHANNELS if groups == 1 else CHANNELS[1:5]))
    outer = draw(st.sampled_from(CHANNELS if groups == 1 else CHANNELS[:5]))
    conv = conv_of(kernel, output, (groups, inner, outer), batch=draw(st.sampled_from((1, 1, 2))))
    fitting = [tile for tile in (outputs, *TILES) if not winograd_obstacle(conv, tile)]
    return Case(
        conv=conv,
        outputs=(fitting or [2])[0],
        target=draw(st.sampled_from(TARGETS)),
        border=draw(st.integers(0, 2)),
        residual=draw(st.booleans()),
        bias=draw(st.booleans()),
        seed=draw(st.integers(0, 99)),
    )


@settings(max_examples=40, deadline=None, derandomize=True)
@given(cases())
def test_kernels_equal_the_oracle(case: Case) -> None:
    assert problem(case, run(case)) == ""


# Ragged along both axes, several panels of output channels, groups, a border, an epilogue.
RAGGED = Case(conv=conv_of((3, 3), (6, 13), (2, 17, 67)), outputs=4, border=1, residual=True, bias=True)
# Few tiles and many output channels, so that threads share the channels.
DEEP = replace(RAGGED, conv=conv_of((3, 3), (8, 7), (1, 20, 768)))


@pytest.mark.parametrize("outputs", TILES)
@pytest.mark.parametrize("case", [RAGGED, DEEP], ids=["ragged", "deep"])
def test_several_panels_equal_the_oracle(case: Case, outputs: int) -> None:
    case = replace(case, outputs=outputs)
    assert problem(case, run(case, good_for=3)) == ""


@pytest.mark.parametrize("case", [RAGGED, DEEP, replace(RAGGED, conv=conv_of((5,), (101,), (1, 16, 33)))])
def test_threads_do_not_change_bits(case: Case) -> None:
    one, two, three = (run(case, threads=threads, good_for=2) for threads in (1, 2, 3))
    assert one.tobytes() == two.tobytes() == three.tobytes()


def test_the_share_of_each_thread_does_not_change_bits() -> None:
    wanted = (1, 2, 3, 6)
    assert len({kernel_of(DEEP, good_for=threads).blocks.parts for threads in wanted}) > 2
    assert len({run(DEEP, threads=2, good_for=threads).tobytes() for threads in wanted}) == 1


def test_several_blocks_of_tiles_equal_the_oracle() -> None:
    case = replace(RAGGED, conv=conv_of((3, 3), (23, 37), (1, 5, 18), batch=2))
    assert kernel_of(case).blocks.run < 2 * 6 * 10, "more tiles than one block takes"
    assert problem(case, run(case, threads=2)) == ""


def poisoned(outputs: int, build: Callable[[tirx.PrimFunc], tirx.PrimFunc] = unchanged) -> Mask:
    """Which outputs are NaN, of 2 more along each axis than a tile, where an input is that the last tiles alone see.

    It is not the last that they see, which has no part but in their last output.
    """
    case = Case(conv=conv_of((3, 3), (outputs + 2,) * 2, (1, 5, 18)), outputs=outputs)
    numbers = numbers_of(case)
    numbers.x[:, :, outputs + 2, outputs + 2] = np.nan
    found: Mask = np.isnan(run(case, numbers=numbers, build=build))
    return found


def outputs_from(first: int, outputs: int) -> Mask:
    """Those outputs from the first on, along both axes."""
    expected = np.zeros((1, outputs + 2, outputs + 2, 18), bool)
    expected[:, first:, first:] = True
    return expected


@pytest.mark.parametrize("outputs", [3, 4, 6])
def test_an_output_is_its_own_tiles_though_another_computes_it_too(outputs: int) -> None:
    """The last two along each axis have that input under a tap."""
    assert np.array_equal(poisoned(outputs), outputs_from(outputs, outputs))


def always(function: tirx.PrimFunc) -> tirx.PrimFunc:
    """The kernel with no condition."""
    body = tvm_ffi.structural_map(function.body, (tirx.IfThenElse, lambda choice: choice.then_case), order="post")
    return function.with_body(body)


def test_a_tile_that_writes_its_neighbours_outputs_is_seen() -> None:
    """The last tile, which begins at the third output."""
    assert np.array_equal(poisoned(4, always), outputs_from(2, 4))


Apply = Callable[[Sequence[linear.Row], Sequence[ir.Expr], int], list[ir.Expr]]


def spoilt(rows: int, i: int, j: int) -> Apply:
    """`apply` with another constant at [i, j] of every matrix of that many rows."""

    def wrong(matrix: Sequence[linear.Row], values: Sequence[ir.Expr], lanes: int) -> list[ir.Expr]:
        entries = [list(row) for row in matrix]
        if len(entries) == rows:
            entries[i][j] += Fraction(1, 256)
        return linear.apply(entries, values, lanes)

    return wrong


@pytest.mark.parametrize(
    ("rows", "i", "j"), [(4, 0, 0), (4, 3, 5), (4, 2, 4), (6, 0, 0), (6, 5, 5), (6, 2, 3)], ids=lambda n: str(n)
)
def test_one_wrong_constant_is_seen(monkeypatch: pytest.MonkeyPatch, rows: int, i: int, j: int) -> None:
    """F(4, 3): A^T has 4 rows and B^T has 6."""
    monkeypatch.setattr(schedule, "apply", spoilt(rows, i, j))
    assert problem(RAGGED, run(RAGGED))


@pytest.mark.parametrize("frequency", [0, 17, 35])
def test_one_wrong_frequency_of_the_weights_is_seen(frequency: int) -> None:
    def wrong(packed: Array) -> Array:
        packed[:, :, frequency] *= np.float32(1 + 2**-8)
        return packed

    assert problem(RAGGED, run(RAGGED, pack=wrong))


@pytest.mark.parametrize("axis", [0, 1, 2, 3, -2, -1], ids=["group", "turn", "frequency", "panel", "inner", "outer"])
def test_weights_in_another_order_are_seen(axis: int) -> None:
    case = RAGGED if axis == 0 else DEEP

    def turned(packed: Array) -> Array:
        assert packed.shape[axis] > 1, packed.shape
        return np.ascontiguousarray(np.roll(packed, 1, axis))

    assert problem(case, run(case, pack=turned))


def test_an_element_that_is_not_written_is_seen() -> None:
    got = run(RAGGED)
    for spoil in (np.nan, 0.0):
        wrong = got.copy()
        cut(RAGGED.result, wrong)[0, 5, 12, 66] = spoil + (spoil == 0)
        assert problem(RAGGED, wrong) == "an element is wrong"
    wrong = got.copy()
    wrong[0, 0, 0, 0] = 1
    assert problem(RAGGED, wrong) == "the border is not written with zeros"


LANES = 4
ENTRIES = st.integers(-16, 16).map(lambda eighths: Fraction(eighths, 8))


@st.composite
def matrices(draw: st.DrawFn) -> list[list[Fraction]]:
    """Rows and columns some of which differ from the one before in signs alone."""
    height, width = draw(st.integers(1, 6)), draw(st.integers(1, 7))
    signs = st.sampled_from((1, -1))
    rows = [[draw(st.one_of(st.just(Fraction(0)), ENTRIES)) for _ in range(width)]]
    while len(rows) < height:
        mirrored = draw(st.booleans())
        rows.append([draw(signs) * entry if mirrored else draw(ENTRIES) for entry in rows[-1]])
    for column in range(1, width):
        if draw(st.booleans()):
            for row in rows:
                row[column] = draw(signs) * row[column - 1]
    return rows


def transform(matrix: Sequence[linear.Row], columns: int) -> tirx.PrimFunc:
    """Y = matrix @ X, `columns` being the vectors of X."""
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_name("main")
        x = T.arg("X", T.buffer((columns, LANES), "float32"))
        y = T.arg("Y", T.buffer((len(matrix), LANES), "float32"))
        T.func_attr({"tirx.noalias": True, "global_symbol": "main"})
        values = [T.bind(load(x, column * LANES, LANES)) for column in range(columns)]
        for row, value in enumerate(linear.apply(matrix, values, LANES)):
            store(y, row * LANES, value, LANES)
    return builder.get()


@settings(max_examples=60, deadline=None, derandomize=True)
@given(matrices())
def test_a_matrix_is_applied_as_it_is(matrix: list[list[Fraction]]) -> None:
    """Eighths times small whole numbers: float32 loses nothing, in any order."""
    columns = len(matrix[0])
    x = np.random.default_rng(columns).integers(-64, 65, (columns, LANES)).astype(np.float32)
    got = run_kernel(
        transform(matrix, columns), parse_target("native"), [x], np.full((len(matrix), LANES), np.nan, np.float32)
    )
    assert np.array_equal(got, np.array(matrix, np.float64) @ x)


def operations(matrix: Sequence[linear.Row]) -> int:
    """Additions and multiplications of a transform, those of addresses being none."""
    found: list[ir.Expr] = []
    kinds = (tirx.Add, tirx.Sub, tirx.Mul)
    body = transform(matrix, len(matrix[0])).body
    tvm_ffi.structural_walk(body, (kinds, lambda e: found.append(e) if "x4" in str(e.ty) else None), order="post")
    return len(found)


def test_pairs_are_computed_once() -> None:
    half, third = Fraction(1, 2), Fraction(3, 4)
    alone = [[third, half, 3 * half, third], [half, 5 * half, -third, 2 * third]]
    rows = [[third, half, 3 * half, third], [third, -half, 3 * half, -third]]
    columns = [[half, half, third, -third], [2 * half, -2 * half, third, third]]
    assert operations(rows) < operations(alone)
    assert operations(columns) < operations(alone)
