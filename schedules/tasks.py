"""A kernel's loops made one: tasks for the threads to share, and blocks that overlap at the end of an extent.

A condition may be None: it does not arise.
"""

from collections.abc import Callable
from functools import reduce

from tvm import ir, tirx
from tvm.script.ir_builder import tirx as T

from lowprec.schedules.views import Index, row_major


def decode(task: ir.Expr, extents: tuple[int, ...]) -> list[Index]:
    """Coordinates of a task; the last extent varies fastest. Extents of one cost nothing."""
    strides = row_major(extents)
    return [
        0 if extent == 1 else T.bind(tirx.floormod(tirx.floordiv(task, stride), extent))
        for extent, stride in zip(extents, strides, strict=True)
    ]


def start_of(index: Index, width: int, extent: int) -> Index:
    """Where block `index` begins, so that it ends inside `extent`."""
    if extent <= width:
        return 0
    return index * width if extent % width == 0 else T.bind(tirx.min(index * width, extent - width))


def any_of(*conditions: ir.Expr | None) -> ir.Expr | None:
    """Whether one of those that arise holds."""
    return _joined(tirx.Or, conditions)


def all_of(*conditions: ir.Expr | None) -> ir.Expr | None:
    """Whether all of those that arise hold."""
    return _joined(tirx.And, conditions)


def only_if(condition: ir.Expr | None, work: Callable[[], None]) -> None:
    """Do the work where a condition holds; everywhere if it does not arise."""
    if condition is None:
        work()
        return
    with T.If(condition), T.Then():
        work()


def _joined(join: Callable[[ir.Expr, ir.Expr], ir.Expr], conditions: tuple[ir.Expr | None, ...]) -> ir.Expr | None:
    arising = [condition for condition in conditions if condition is not None]
    return reduce(join, arising) if arising else None
