"""Loops around a statement: vectors with their tails, parallel outer loops, branches taken out of inner loops.

A vectorized loop with a predicate becomes scalar code, so a tail is never predicated: what is left over after whole
vectors is done in vectors of half the width, a quarter, and so on down to one.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import prod

import tvm_ffi
from tvm import tirx
from tvm.ir import Call, Expr
from tvm.tirx import For, ForKind, Stmt, Var

from lowprec.schedules.affine import Axis, choices_in, int64, is_choice, substitute, uses

# A parallel loop of at least this many iterations divides well among any number of threads.
PARALLEL_TASKS = 64
MOST_BRANCHES = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """`count` vectors of `width` elements each, from `start`."""

    start: int
    count: int
    width: int


def pieces(extent: int, lanes: int) -> Iterator[Piece]:
    """An axis as whole vectors and ever narrower ones: 29 by 8 lanes is 3 x 8, 4 and 1."""
    start, width = 0, lanes
    while start < extent:
        count = (extent - start) // width
        if count:
            yield Piece(start=start, count=count, width=width)
            start += count * width
        width //= 2


def sequence(statements: list[Stmt]) -> Stmt:
    return statements[0] if len(statements) == 1 else tirx.SeqStmt(statements)


def serial(axis: Axis, body: Stmt, kind: ForKind = ForKind.SERIAL) -> Stmt:
    if axis.extent == 1:
        return substitute(body, {axis.var: int64(0)})
    return For(axis.var, int64(0), int64(axis.extent), kind, body)


def nested(axes: tuple[Axis, ...], body: Stmt, kind: ForKind = ForKind.SERIAL) -> Stmt:
    for axis in reversed(axes):
        body = serial(axis, body, kind)
    return body


def parallel(axes: tuple[Axis, ...], body: Stmt) -> Stmt:
    """The outermost axes as one parallel loop, as few of them as make enough tasks."""
    count = next((n for n in range(1, len(axes)) if tasks_in(axes[:n]) >= PARALLEL_TASKS), len(axes))
    outer, inner = axes[:count], axes[count:]
    task = Var("task", "int64")
    mapping: dict[Var, Expr] = {}
    stride = 1
    for axis in reversed(outer):
        position = task // int64(stride) if stride > 1 else task
        mapping[axis.var] = position % int64(axis.extent) if axis is not outer[0] else position
        stride *= axis.extent
    if stride == 1:
        return substitute(nested(inner, body), {axis.var: int64(0) for axis in outer})
    return For(task, int64(0), int64(stride), ForKind.PARALLEL, substitute(nested(inner, body), mapping))


def tasks_in(axes: tuple[Axis, ...]) -> int:
    return prod(axis.extent for axis in axes)


def lanes_at(position: Expr, width: int, statement: Callable[[Expr], Stmt]) -> Stmt:
    """One vector's worth of `statement`, whose argument is the element's place."""
    if width == 1:
        return statement(position)
    lane = Var("lane", "int64")
    return For(lane, int64(0), int64(width), ForKind.VECTORIZED, statement(position + lane))


def vector_loop(axis: Axis, lanes: int, statement: Stmt) -> Stmt:
    """`statement` for all of `axis`, in vectors."""
    parts = []
    for piece in pieces(axis.extent, lanes):
        block = Axis(var=Var("block", "int64"), extent=piece.count)
        position = block.var * int64(piece.width) + int64(piece.start)
        vector = lanes_at(position, piece.width, lambda place: substitute(statement, {axis.var: place}))
        parts.append(serial(block, vector))
    return sequence(parts)


def branched(value: Expr, inner: set[Var], statement: Callable[[Expr], Stmt | None]) -> Stmt | None:
    """A choice that the inner loops do not influence is made outside them; a statement of None is none at all."""
    return _branched(value, inner, statement, MOST_BRANCHES)


def _branched(value: Expr, inner: set[Var], statement: Callable[[Expr], Stmt | None], depth: int) -> Stmt | None:
    choice = next((choice for choice in choices_in(value) if not uses(choice.args[0], inner)), None)
    if choice is None or not depth:
        return statement(value)
    condition = choice.args[0]
    then, otherwise = (
        _branched(_decided(value, condition, taken), inner, statement, depth - 1) for taken in (True, False)
    )
    if then is None and otherwise is None:
        return None
    if then is None:
        return tirx.IfThenElse(tirx.Not(condition), otherwise, None)
    return tirx.IfThenElse(condition, then, otherwise)


def _decided(value: Expr, condition: Expr, taken: bool) -> Expr:
    def decide(call: Call) -> Expr:
        same = is_choice(call) and tvm_ffi.structural_equal(call.args[0], condition)
        return call.args[1 if taken else 2] if same else call

    result: Expr = tvm_ffi.structural_map(value, (Call, decide), order="post")
    return result
