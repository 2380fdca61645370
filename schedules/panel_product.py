"""A register tile of a matrix product whose operands lie anywhere: `rows` scalars times `vectors` vectors, summed.

Numbers are real, or complex as a pair of real and imaginary part.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from tvm import ir, tirx
from tvm.script.ir_builder import tirx as T

from lowprec.schedules.tiling import Tile
from lowprec.schedules.views import Index, load, register, splat, store, zeros

UNROLL = 4
"""Products of one step of the innermost loop."""

Number: TypeAlias = tuple[ir.Expr] | tuple[ir.Expr, ir.Expr]
Sum = list[tirx.Buffer]


@dataclass(frozen=True, slots=True, kw_only=True)
class Operands:
    """`left(i, k)` is a scalar, `right(k, j)` a vector, each of `parts` floats; `result(i, j, *sum)` stores;
    `before_step(step, steps)` may fetch ahead."""

    left: Callable[[int, Index], Number]
    right: Callable[[Index, int], Number]
    result: Callable[..., None]
    before_step: Callable[[Index, int], None]
    parts: int = 1


def multiply(
    operands: Operands, tile: Tile, *, depth: int, lanes: int, summed: tuple[Index, Index] | None = None
) -> None:
    """For row i and vector j: result(i, j, sum over k < depth of left(i, k) * right(k, j)).

    With `summed` over its k alone, from the first on and before the second; all three divide by UNROLL.
    """
    sums = [[[register(lanes) for _ in range(operands.parts)] for _ in range(tile.vectors)] for _ in range(tile.rows)]
    for row in sums:
        for total in row:
            for part in total:
                store(part, 0, zeros(lanes), lanes)
    steps, rest = divmod(depth, UNROLL)
    if steps:
        first, end = (0, steps) if summed is None else (tirx.floordiv(bound, UNROLL) for bound in summed)
        with T.serial(first, end) as step:
            operands.before_step(step, steps)
            for u in range(UNROLL):
                _add(operands, sums, step * UNROLL + u, lanes)
    for u in range(rest):
        _add(operands, sums, steps * UNROLL + u, lanes)
    for i, row in enumerate(sums):
        for j, total in enumerate(row):
            operands.result(i, j, *(load(part, 0, lanes) for part in total))


def _add(operands: Operands, sums: list[list[Sum]], k: Index, lanes: int) -> None:
    """The products of one k."""
    factors = [[T.bind(part) for part in operands.right(k, j)] for j in range(len(sums[0]))]
    for i, row in enumerate(sums):
        value = [T.bind(splat(part, lanes)) for part in operands.left(i, k)]
        for total, factor in zip(row, factors, strict=True):
            _accumulate(total, value, factor, lanes)


def _accumulate(total: Sum, left: list[ir.Expr], right: list[ir.Expr], lanes: int) -> None:
    if len(total) == 1:
        store(total[0], 0, load(total[0], 0, lanes) + left[0] * right[0], lanes)
        return
    (re, im), (a, b), (c, d) = total, left, right
    store(re, 0, load(re, 0, lanes) + a * c - b * d, lanes)
    store(im, 0, load(im, 0, lanes) + a * d + b * c, lanes)
