"""A register tile of a matrix product whose operands lie anywhere: `rows` scalars times `vectors` vectors, summed."""

from collections.abc import Callable
from dataclasses import dataclass

from tvm import ir, tirx
from tvm.script.ir_builder import tirx as T

from lowprec.schedules.dft import Complex
from lowprec.schedules.tiling import Tile
from lowprec.schedules.views import Index, load, register, splat, store, zeros

UNROLL = 4
"""Products of one step of the innermost loop."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Operands:
    """`left(i, k)` is a scalar, `right(k, j)` a vector; `result(i, j, sum)` stores; `before_step(step, steps)` may
    fetch ahead."""

    left: Callable[[int, Index], ir.Expr]
    right: Callable[[Index, int], ir.Expr]
    result: Callable[[int, int, ir.Expr], None]
    before_step: Callable[[Index, int], None]


def multiply(operands: Operands, tile: Tile, *, depth: int, lanes: int) -> None:
    """For row i and vector j: result(i, j, sum over k < depth of left(i, k) * right(k, j))."""
    sums = [[register(lanes) for _ in range(tile.vectors)] for _ in range(tile.rows)]
    for row in sums:
        for total in row:
            store(total, 0, zeros(lanes), lanes)
    steps, rest = divmod(depth, UNROLL)
    if steps:
        with T.serial(0, steps) as step:
            operands.before_step(step, steps)
            for u in range(UNROLL):
                _add(operands, sums, step * UNROLL + u, lanes)
    for u in range(rest):
        _add(operands, sums, steps * UNROLL + u, lanes)
    for i, row in enumerate(sums):
        for j, total in enumerate(row):
            operands.result(i, j, load(total, 0, lanes))


def _add(operands: Operands, sums: list[list[tirx.Buffer]], k: Index, lanes: int) -> None:
    """The products of one k."""
    factors = [T.bind(operands.right(k, j)) for j in range(len(sums[0]))]
    for i, row in enumerate(sums):
        value = T.bind(splat(operands.left(i, k), lanes))
        for total, factor in zip(row, factors, strict=True):
            store(total, 0, load(total, 0, lanes) + value * factor, lanes)


@dataclass(frozen=True, slots=True, kw_only=True)
class ComplexOperands:
    """The same with complex numbers, each a pair of real and imaginary part."""

    left: Callable[[int, Index], Complex]
    right: Callable[[Index, int], Complex]
    result: Callable[[int, int, Complex], None]
    before_step: Callable[[Index, int], None]


def multiply_complex(operands: ComplexOperands, tile: Tile, *, depth: int, lanes: int) -> None:
    """`multiply` of complex numbers: two accumulators a result."""
    sums = [[(register(lanes), register(lanes)) for _ in range(tile.vectors)] for _ in range(tile.rows)]
    for row in sums:
        for total in row:
            for part in total:
                store(part, 0, zeros(lanes), lanes)
    steps, rest = divmod(depth, UNROLL)
    if steps:
        with T.serial(0, steps) as step:
            operands.before_step(step, steps)
            for u in range(UNROLL):
                _add_complex(operands, sums, step * UNROLL + u, lanes)
    for u in range(rest):
        _add_complex(operands, sums, steps * UNROLL + u, lanes)
    for i, row in enumerate(sums):
        for j, (re, im) in enumerate(row):
            operands.result(i, j, (load(re, 0, lanes), load(im, 0, lanes)))


def _add_complex(
    operands: ComplexOperands, sums: list[list[tuple[tirx.Buffer, tirx.Buffer]]], k: Index, lanes: int
) -> None:
    pairs = [operands.right(k, j) for j in range(len(sums[0]))]
    factors = [(T.bind(re), T.bind(im)) for re, im in pairs]
    for i, row in enumerate(sums):
        a, b = (T.bind(splat(part, lanes)) for part in operands.left(i, k))
        for (re, im), (c, d) in zip(row, factors, strict=True):
            store(re, 0, load(re, 0, lanes) + a * c - b * d, lanes)
            store(im, 0, load(im, 0, lanes) + a * d + b * c, lanes)
