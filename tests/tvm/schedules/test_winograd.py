"""Winograd kernels against the oracle: every tile, sizes around it, ragged edges, borders, groups and epilogues.

A result is held to what `winograd_bound` and `winograd_spread` say of each element, and all of it, in the root mean
square, to 8 times what the plan predicts.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from fractions import Fraction
from functools import partial

import numpy as np
import pytest
import tvm_ffi
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from tvm import ir, tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from lowprec.choosing import winograd_outputs
from lowprec.convolution import Conv, convolve
from lowprec.phases import Phases
from lowprec.predicting import UNIT
from lowprec.predicting_winograd import TILES, filterings, predict_winograd, winograd_obstacle
from lowprec.schedules import linear
from lowprec.schedules import winograd as schedule
from lowprec.schedules.views import load, store
from lowprec.schedules.winograd import Winograd
from lowprec.targets import parse_target
from tests.amounts import thinned
from tests.oracle import winograd_bound, winograd_spread
from tests.tvm.kernels import Array, cut, run_kernel
from tests.tvm.schedules.cases import (
    CHANNELS,
    TARGETS,
    Case,
    conv_of,
    judged,
    kernel_of,
    never_short,
    numbers_of,
    run,
    unchanged,
)

Mask = NDArray[np.bool_]
Floats = NDArray[np.floating]
TAPS = ((3, 3), (3, 3), (5, 5), (2, 2), (7, 7), (1, 3), (3, 1), (1, 7), (3, 2), (3,), (2,), (5,), (7,))
STRIDES = (1, 1, 1, 1, 1, 2, 2, 3, 4)
INNER = (1, 3, 4, 15, 16, 5, 17, 20, 33)
PRIMES = (5, 7, 11, 13)
LIMIT = 8  # times the predicted error, in the root mean square


def winograd_of(case: Case, *, good_for: int = 1) -> Winograd:
    kernel = kernel_of(case, good_for=good_for)
    assert isinstance(kernel, Winograd)
    return kernel


def tile(outputs: int) -> str:
    return f"winograd:{outputs}"


def problem(case: Case, got: Array) -> str:
    """What is wrong with a physical result, or nothing."""
    conv, numbers, found = case.conv, numbers_of(case), judged(case, got)
    outputs = winograd_outputs(case.algorithm)
    assert outputs is not None
    axes = filterings(conv, outputs)
    extra = np.moveaxis(found.extra, -1, 1).astype(np.float32)
    for bound in (winograd_bound, winograd_spread):
        if not (np.moveaxis(found.error, -1, 1) <= bound(conv, axes, numbers.x, numbers.w, extra)).all():
            return "an element is wrong"
    sizes = np.mean(convolve(conv, np.square(numbers.x), np.square(numbers.w))) ** 0.5
    predicted = predict_winograd(conv, outputs, parse_target(case.target)).error * sizes
    own = UNIT * np.mean(np.square(extra + sizes)) ** 0.5
    if not np.mean(np.square(found.error)) ** 0.5 <= LIMIT * predicted + own:
        return "the error is larger than predicted"
    return "the border is not written with zeros" if found.border.any() else ""


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Phases for which the tile has points, and outputs around it: one, one less, one more, twice, primes."""
    outputs = draw(st.sampled_from(TILES))
    taps = draw(st.sampled_from(TAPS))
    stride = tuple(draw(st.sampled_from(STRIDES)) for _ in taps)
    kernel = tuple(most * s - draw(st.integers(0, s - 1)) for most, s in zip(taps, stride, strict=True))
    sizes = (1, outputs - 1, outputs, outputs + 1, 2 * outputs + 1, draw(st.sampled_from(PRIMES)))
    output = tuple(draw(st.sampled_from(sizes)) for _ in kernel)
    groups = draw(st.sampled_from((1, 1, 1, 2, 3)))
    inner = draw(st.sampled_from(INNER if groups == 1 else INNER[1:5]))
    outer = draw(st.sampled_from(CHANNELS if groups == 1 else CHANNELS[:5]))
    conv = conv_of(kernel, output, (groups, inner, outer), batch=draw(st.sampled_from((1, 1, 2))), stride=stride)
    fitting = [width for width in (outputs, *TILES) if not winograd_obstacle(conv, width)]
    return Case(
        conv=conv,
        algorithm=tile((fitting or [2])[0]),
        target=draw(st.sampled_from(TARGETS)),
        border=draw(st.integers(0, 2)),
        residual=draw(st.booleans()),
        bias=draw(st.booleans()),
        seed=draw(st.integers(0, 99)),
    )


@settings(max_examples=20, deadline=None, derandomize=True)
@given(cases())
def test_kernels_equal_the_oracle(case: Case) -> None:
    assert problem(case, run(case)) == ""


# Ragged along both axes, several panels of output channels, groups, a border, an epilogue.
RAGGED = Case(conv=conv_of((3, 3), (6, 13), (2, 17, 67)), algorithm=tile(4), border=1, residual=True, bias=True)
# Few tiles and many output channels, so that threads share the channels.
DEEP = replace(RAGGED, conv=conv_of((3, 3), (8, 7), (1, 20, 768)))


@pytest.mark.parametrize("outputs", TILES)
@pytest.mark.parametrize("case", [RAGGED, DEEP], ids=["ragged", "deep"])
def test_several_panels_equal_the_oracle(case: Case, outputs: int) -> None:
    case = replace(case, algorithm=tile(outputs))
    assert problem(case, run(case, good_for=3)) == ""


# At infinity a product is summed over some of the phases, or over every one where steps do not divide the channels.
SOME = replace(RAGGED, conv=conv_of((3, 3), (6, 13), (2, 20, 35), stride=(2, 2)))
EVERY = replace(RAGGED, conv=conv_of((3, 3), (6, 13), (2, 17, 35), stride=(2, 2)))
NINE = replace(RAGGED, conv=conv_of((11, 11), (6, 9), (1, 3, 33), stride=(4, 4)))
STRIDED = {
    "some": SOME,
    "every": EVERY,
    "nine": NINE,
    "stem": replace(RAGGED, conv=conv_of((7, 7), (6, 13), (1, 3, 35), stride=(2, 2))),
    "mixed": replace(RAGGED, conv=conv_of((5, 4), (6, 13), (1, 8, 33), batch=2, stride=(3, 1))),
    "one axis of one tap": replace(RAGGED, conv=conv_of((2, 5), (6, 13), (1, 8, 33), batch=2, stride=(3, 2))),
    "line": replace(RAGGED, conv=conv_of((7,), (101,), (1, 16, 33), stride=(2,))),
}


@pytest.mark.parametrize("case", STRIDED.values(), ids=STRIDED)
def test_strided_kernels_equal_the_oracle(case: Case) -> None:
    assert problem(case, run(case, good_for=3)) == ""


@pytest.mark.parametrize("outputs", [2, 6])
def test_strided_kernels_of_other_tiles_equal_the_oracle(outputs: int) -> None:
    case = replace(SOME, algorithm=tile(outputs), target="x86-64-v3")
    assert problem(case, run(case)) == ""


ONE_AXIS = replace(RAGGED, conv=conv_of((5,), (101,), (1, 16, 33)))


@pytest.mark.parametrize("case", thinned([RAGGED, DEEP, ONE_AXIS, SOME]), ids=["ragged", "deep", "line", "strided"])
def test_threads_do_not_change_bits(case: Case) -> None:
    one, two, three = (run(case, threads=threads, good_for=2) for threads in (1, 2, 3))
    assert one.tobytes() == two.tobytes() == three.tobytes()


def test_the_share_of_each_thread_does_not_change_bits() -> None:
    wanted = (1, 2, 3, 6)
    assert len({(cut.run, cut.parts) for cut in (winograd_of(DEEP, good_for=threads).blocks for threads in wanted)}) > 2
    assert len({run(DEEP, threads=2, good_for=threads).tobytes() for threads in wanted}) == 1


def test_several_blocks_of_tiles_equal_the_oracle() -> None:
    case = replace(RAGGED, conv=conv_of((3, 3), (23, 37), (1, 5, 18), batch=2))
    assert winograd_of(case).blocks.run < 2 * 6 * 10, "more tiles than one block takes"
    assert problem(case, run(case, threads=2)) == ""


def poisoned(outputs: int, build: Callable[[tirx.PrimFunc], tirx.PrimFunc] = unchanged) -> Mask:
    """Which outputs are NaN, of 2 more along each axis than a tile, where an input is that the last tiles alone see.

    It is not the last that they see, which has no part but in their last output.
    """
    case = Case(conv=conv_of((3, 3), (outputs + 2,) * 2, (1, 5, 18)), algorithm=tile(outputs))
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


def moved(last: tuple[bool, bool], by: tuple[int, int]) -> Callable[[Phases, tuple[bool, bool]], tuple[int, int]]:
    """`Phases.span` with other ends for products of those last taps."""

    def wrong(self: Phases, of: tuple[bool, bool]) -> tuple[int, int]:
        begin, end = span(self, of)
        return (begin + by[0], end + by[1]) if of == last else (begin, end)

    return wrong


span = Phases.span


@pytest.mark.parametrize(
    ("high", "wide", "by"),
    [
        (False, False, (1, 0)),
        (False, False, (0, -1)),
        (True, False, (0, -1)),
        (False, True, (-1, -1)),
        (True, True, (1, 1)),
    ],
)
def test_a_phase_that_is_not_summed_is_seen(
    monkeypatch: pytest.MonkeyPatch, high: bool, wide: bool, by: tuple[int, int]
) -> None:
    monkeypatch.setattr(Phases, "span", moved((high, wide), by))
    assert problem(SOME, run(SOME)) == "an element is wrong"


def test_spans_that_steps_of_the_product_do_not_divide_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schedule, "UNROLL", 1)
    assert problem(EVERY, run(EVERY)) == "an element is wrong"


@pytest.mark.parametrize(
    ("case", "order"),
    [(SOME, (1, 0, 2, 3)), (SOME, (0, 2, 1, 3)), (SOME, (0, 1, 3, 2)), (NINE, (1, 2, 3, 0))],
    ids=["first two", "middle two", "last two", "nine"],
)
def test_phases_of_the_weights_in_another_order_are_seen(
    monkeypatch: pytest.MonkeyPatch, case: Case, order: tuple[int, ...]
) -> None:
    """The first four."""
    split = Phases.split

    def wrong(self: Phases, weights: Floats) -> Floats:
        found = split(self, weights)
        phases = found.reshape(len(found), self.count, -1, *found.shape[2:])
        return phases[:, [*order, *range(4, self.count)]].reshape(found.shape)

    monkeypatch.setattr(Phases, "split", wrong)
    assert problem(case, run(case)) == "an element is wrong"


@pytest.mark.parametrize(
    ("case", "axis"), [(SOME, 0), (SOME, 1), (EVERY, 0), (NINE, 1)], ids=["some", "some", "every", "nine"]
)
def test_an_input_beyond_the_source_is_seen(monkeypatch: pytest.MonkeyPatch, case: Case, axis: int) -> None:
    """That of a tap that short phases do not have; what is there is NaN."""
    monkeypatch.setattr(Phases, "regions", property(partial(never_short, axis)))
    assert np.isnan(run(replace(case, residual=False))).any()


# Of whole tiles, and nothing added.
MEASURED = {
    "3x3 stride 2, F(2)": (conv_of((3, 3), (24, 24), (1, 32, 32), stride=(2, 2)), 2),
    "3x3 stride 2, F(6)": (conv_of((3, 3), (24, 24), (1, 32, 32), stride=(2, 2)), 6),
    "11x11 stride 4, F(4)": (conv_of((11, 11), (24, 24), (1, 3, 64), stride=(4, 4)), 4),
    "7 stride 2, F(4)": (conv_of((7,), (96,), (1, 16, 64), stride=(2,)), 4),
}


@pytest.mark.parametrize(("conv", "outputs"), MEASURED.values(), ids=MEASURED)
def test_errors_are_as_predicted_and_so_is_the_worst_place(conv: Conv, outputs: int) -> None:
    case = Case(conv=conv, algorithm=tile(outputs))
    numbers, predicted = numbers_of(case), predict_winograd(conv, outputs, parse_target(case.target))
    squares = np.square(judged(case, run(case)).error)
    error = np.sqrt(squares.mean() / np.mean(convolve(conv, np.square(numbers.x), np.square(numbers.w))))
    assert error == pytest.approx(predicted.error, rel=0.25)
    peak = np.sqrt(of_places(squares, outputs).max() / squares.mean())
    assert peak == pytest.approx(predicted.peak, rel=0.25)


def of_places(squares: NDArray[np.float64], outputs: int) -> NDArray[np.float64]:
    """The mean at each place of a tile."""
    found: NDArray[np.float64] = squares.mean((0, -1))
    for axis, extent in enumerate(found.shape):
        parts = (found.take(range(first, extent, outputs), axis).mean(axis) for first in range(outputs))
        found = np.stack(list(parts), axis)
    return found


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


@settings(max_examples=25, deadline=None, derandomize=True)
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
