"""What the schedules read off addresses: coefficients, merged and split loops, the parts of an axis, tails."""

import operator
from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tvm import sym, tirx
from tvm.tirx import Var

from lowprec.schedules.affine import (
    Axis,
    Nest,
    coefficient,
    int64,
    is_contiguous,
    linear_load,
    merged,
    offset_of,
    segments,
    split_by_divisors,
    substitute,
)
from lowprec.schedules.loops import pieces

ROWS, COLUMNS = 5, 12
i, j = Var("i", "int64"), Var("j", "int64")
AXES = (Axis(var=i, extent=ROWS), Axis(var=j, extent=COLUMNS))
SOURCE = tirx.decl_buffer((ROWS, COLUMNS), "float32", "source")
RESULT = tirx.decl_buffer((ROWS, COLUMNS), "float32", "result")
LINEAR = i * int64(COLUMNS) + j


def nest(offset: tirx.Expr) -> Nest:
    return Nest(output=RESULT, index=LINEAR, value=linear_load(SOURCE, offset), spatial=AXES)


def extents(found: Nest) -> list[int]:
    return [axis.extent for axis in found.spatial]


def test_coefficient() -> None:
    assert coefficient(LINEAR, i) == COLUMNS
    assert coefficient(LINEAR, j) == 1
    assert coefficient(j * int64(3), i) == 0
    assert coefficient(i // int64(2), i) is None


def test_loops_merge_when_all_offsets_move_through_them_as_one() -> None:
    assert extents(merged(nest(LINEAR))) == [ROWS * COLUMNS]
    assert extents(merged(nest(j))) == [ROWS, COLUMNS], "a broadcast over rows"
    assert extents(merged(nest(j * int64(ROWS) + i))) == [ROWS, COLUMNS], "a transpose"


def test_loops_do_not_merge_when_their_variables_are_computed_with() -> None:
    padded = tirx.if_then_else(j < int64(3), linear_load(SOURCE, LINEAR), tirx.const(0, "float32"))
    assert extents(merged(Nest(output=RESULT, index=LINEAR, value=padded, spatial=AXES))) == [ROWS, COLUMNS]


def test_a_loop_is_split_by_its_divisors() -> None:
    shuffled = split_by_divisors(nest(i * int64(COLUMNS) + (j % int64(4)) * int64(3) + j // int64(4)))
    assert extents(shuffled) == [ROWS, 3, 4]
    offset = offset_of(shuffled.value)
    assert [coefficient(offset, axis.var) for axis in shuffled.spatial] == [COLUMNS, 1, 3]


def test_segments_end_where_a_comparison_changes() -> None:
    zero = tirx.const(0, "float32")
    value = tirx.if_then_else(tirx.all(j >= int64(2), j < int64(9)), linear_load(SOURCE, LINEAR), zero)
    assert segments(value, AXES[1]) == ((0, 2), (2, 9), (9, 12))
    assert segments(value, AXES[0]) == ((0, ROWS),)


@pytest.mark.parametrize("compare", [operator.lt, operator.le, operator.gt, operator.ge, tirx.EQ, tirx.NE])
@given(slope=st.sampled_from([-3, -2, -1, 1, 2, 3]), base=st.integers(-20, 20))
def test_a_comparison_is_constant_in_each_segment(
    compare: Callable[[tirx.Expr, tirx.Expr], tirx.Expr], slope: int, base: int
) -> None:
    condition = compare(j * int64(slope) + int64(base), int64(0))
    value = tirx.if_then_else(condition, linear_load(SOURCE, LINEAR), tirx.const(0, "float32"))
    analyzer = sym.Analyzer()

    def answer(place: int) -> bool:
        return bool(analyzer.simplify(substitute(condition, {j: int64(place)})).value)

    found = segments(value, AXES[1])
    for start, stop in found:
        assert len({answer(place) for place in range(start, stop)}) == 1
    answers = [answer(start) for start, _ in found]
    assert all(one != other for one, other in pairwise(answers)), "no segment too many"


def test_lanes_with_branches_of_their_own_are_not_contiguous() -> None:
    zero = tirx.const(0, "float32")
    load = linear_load(SOURCE, LINEAR)
    for condition, contiguous in ((i < int64(2), True), (j < int64(2), False)):
        value = tirx.if_then_else(condition, load, zero)
        assert is_contiguous(Nest(output=RESULT, index=LINEAR, value=value, spatial=AXES), AXES[1]) == contiguous


@given(st.integers(1, 300), st.sampled_from([1, 2, 4, 8, 16]))
def test_pieces_cover_an_axis_once_in_order(extent: int, lanes: int) -> None:
    found = [p.start + k for p in pieces(extent, lanes) for k in range(p.count * p.width)]
    assert found == list(range(extent))
    assert all(piece.width <= lanes for piece in pieces(extent, lanes))
