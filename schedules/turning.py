"""A square of elements turned in registers: as many vectors as a vector has elements.

before:  Y[.., a + r, .., i + c] = f(X[.., i + c, .., a + r])        r, c = 0 .. n - 1
after:   n vectors of X, each along a; log2 n times: of each vector of the first half and the one as far into the
         second half, their elements in turns; n vectors along i

Sixteen loads, 64 shuffles and sixteen stores turn 256 numbers, where element by element they are loaded one by one.
"""

from collections.abc import Callable, Mapping
from math import prod

import tvm_ffi
from tvm import tirx
from tvm.ir import Call, Expr, TensorLoad
from tvm.tirx import For, ForKind, Stmt, Var

from lowprec.schedules.affine import (
    Axis,
    Nest,
    choices_in,
    coefficient,
    int64,
    linear_indices,
    linear_load,
    loads_in,
    offset_of,
    substitute,
    uses,
)
from lowprec.schedules.loops import sequence, serial
from lowprec.schedules.prefetch import fetch
from lowprec.schedules.tiling import ceil_div
from lowprec.schedules.views import FLOAT_BYTES

MOST_SOURCES = 2
"""Tensors turned at once: each needs a register for every element of a vector."""

MOST_CHOICES = 2
"""Conditions of a whole square, each of which doubles the code."""

LENGTHS = (4, 5, 3, 6, 2)
"""Squares of a run: the first of these that least is computed twice with."""

L2_SHARE = 1 << 20
"""Bytes of a tensor beyond which it is not taken for granted that it is in L2."""


def is_turned(nest: Nest, along: Axis, lanes: int) -> bool:
    """Whether squares of `lanes` elements cover the axis `along` and the innermost one, which all loads follow."""
    inner = nest.spatial[-1]
    if lanes == 1 or min(along.extent, inner.extent) < lanes:
        return False
    loads = loads_in(nest.value)
    if any("bool" in str(load.ty) for load in loads) or str(nest.output.dtype) == "bool":
        return False
    followed = all(coefficient(offset_of(load), inner.var) is not None for load in loads)
    choices = choices_in(nest.value)
    decided = len(choices) <= MOST_CHOICES and not any(
        uses(choice.args[0], {along.var, inner.var}) for choice in choices
    )
    return followed and decided and len(_strided(nest)) <= MOST_SOURCES


def turn(nest: Nest, along: Axis, lanes: int) -> tuple[tuple[Axis, ...], Stmt]:
    """Loops over runs of squares and what they do; the last square of an axis overlaps the one before.

    Run after run along the innermost axis, each from the first to the last of its neighbours along `along`: so many
    lines are read and written at once that the CPU does not foresee them. Each square asks for those of the next run.
    """
    inner = nest.spatial[-1]
    squares = ceil_div(inner.extent, lanes)
    length = min(LENGTHS, key=lambda length: ceil_div(squares, length) * length)
    run = Axis(var=Var("run", "int64"), extent=ceil_div(squares, length))
    tile = Axis(var=Var("tile", "int64"), extent=ceil_div(along.extent, lanes))
    block = Axis(var=Var("block", "int64"), extent=min(length, squares))
    number = run.var * int64(length) + block.var
    place = {
        along.var: _start(tile.var, tile.extent, along, lanes),
        inner.var: _start(number, run.extent * block.extent, inner, lanes),
    }
    body = _square(nest, along, place, lanes)
    if prod(axis.extent for axis in nest.spatial) * FLOAT_BYTES > L2_SHARE:
        body = sequence([*_fetches(nest, along, place, lanes), body])
    return (run, tile), serial(block, body)


def _start(number: Expr, count: int, axis: Axis, lanes: int) -> Expr:
    start = number * int64(lanes)
    return start if count * lanes == axis.extent else tirx.min(start, int64(axis.extent - lanes))


def _fetches(nest: Nest, along: Axis, place: Mapping[Var, Expr], lanes: int) -> list[Stmt]:
    """The lines of the square after this one along `along`, which may run past the tensors."""
    inner, next_along = nest.spatial[-1], place[along.var] + int64(lanes)
    loads = _strided(nest)
    statements = []
    for i in range(lanes):
        column = {along.var: next_along, inner.var: place[inner.var] + int64(i)}
        row = {along.var: next_along + int64(i), inner.var: place[inner.var]}
        statements += [fetch(load.source, substitute(offset_of(load), column), written=False) for load in loads]
        statements.append(fetch(nest.output, substitute(nest.index, row), written=True))
    return statements


def _square(nest: Nest, along: Axis, place: Mapping[Var, Expr], lanes: int) -> Stmt:
    """A square is chosen as a whole: what is not chosen may lie outside of its tensor, and is not loaded."""
    if choices := choices_in(nest.value):
        condition, *chosen = choices[0].args
        parts = [_square(_with(nest, choices[0], value), along, place, lanes) for value in chosen]
        return tirx.IfThenElse(condition, *parts)
    inner = nest.spatial[-1]
    statements: list[Stmt] = []
    turned = []
    for load in _strided(nest):
        columns = ({**place, inner.var: place[inner.var] + int64(c)} for c in range(lanes))
        starts = [substitute(offset_of(load), column) for column in columns]
        vectors = [linear_load(load.source, tirx.Ramp(start, int64(1), lanes)) for start in starts]
        turned.append((load, turned_vectors(vectors, lambda vector: _kept(vector, statements))))
    for r in range(lanes):
        column = Var("column", "int64")
        at = {along.var: place[along.var] + int64(r), inner.var: place[inner.var] + column}
        value = _taking(nest.value, [(load, rows[r]) for load, rows in turned], column)
        store = tirx.BufferStore(nest.output, value, linear_indices(nest.output, nest.index))
        statements.append(For(column, int64(0), int64(lanes), ForKind.VECTORIZED, substitute(store, at)))
    return sequence(statements)


def _with(nest: Nest, choice: Call, chosen: Expr) -> Nest:
    """The nest with a choice made."""

    def make(call: Call) -> Expr:
        return chosen if tvm_ffi.structural_equal(call, choice) else call

    return nest.map(lambda value: tvm_ffi.structural_map(value, (Call, make), order="post"))


def _strided(nest: Nest) -> list[TensorLoad]:
    """The loads that stride over the innermost axis, each once."""
    inner = nest.spatial[-1]
    found: list[TensorLoad] = []
    for load in loads_in(nest.value):
        strides = coefficient(offset_of(load), inner.var) not in (0, 1)
        if strides and not any(tvm_ffi.structural_equal(load, other) for other in found):
            found.append(load)
    return found


def turned_vectors(vectors: list[Expr], keep: Callable[[Expr], Expr]) -> list[Expr]:
    """Vectors --> their first elements, their second ones and so on, each a vector; `keep` puts one into a register."""
    lanes = len(vectors)
    half = lanes // 2
    current = [keep(vector) for vector in vectors]
    for _ in range(lanes.bit_length() - 1):
        pairs = [[current[i], current[i + half]] for i in range(half)]
        orders = [
            [place for lane in lanes_of for place in (lane, lanes + lane)]
            for lanes_of in (range(half), range(half, lanes))
        ]
        current = [keep(tirx.Shuffle(pair, order)) for pair in pairs for order in orders]
    return current


def _kept(vector: Expr, statements: list[Stmt]) -> TensorLoad:
    """The vector from a buffer of its own, which LLVM keeps in a register."""
    dtype = vector.ty.dtype
    buffer = tirx.decl_buffer((dtype.lanes,), dtype.with_lanes(1), "turned", scope="global")
    statements.append(tirx.AllocBuffer(buffer))
    whole = [tirx.Ramp(int64(0), int64(1), dtype.lanes)]
    statements.append(tirx.BufferStore(buffer, vector, whole))
    return tirx.BufferLoad(buffer, whole)


def _taking(value: Expr, turned: list[tuple[TensorLoad, TensorLoad]], column: Var) -> Expr:
    """The value with each turned load's element `column` in its place."""

    def take(load: TensorLoad) -> Expr:
        found = (row for other, row in turned if tvm_ffi.structural_equal(load, other))
        row = next(found, None)
        return load if row is None else tirx.BufferLoad(row.source, [column])

    result: Expr = tvm_ffi.structural_map(value, (TensorLoad, take), order="post")
    return result
