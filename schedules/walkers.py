"""Several ways to walk over the same elements that LLVM cannot prove equal.

AVX-512 folds a broadcast into the multiply-add that uses it, `vfmadd231ps 64(%rax){1to16}, %zmm0, %zmm1`: one
instruction where there were two, for one more load if the scalar has a second use. While another hardware thread keeps
the same core busy, fewer instructions are worth more than fewer loads: tiles that fold half of their broadcasts ran 4
to 11 % faster then, and as fast otherwise.

LLVM makes one load of equal ones, though, and folds none that is used twice; and a folded address with two registers is
taken apart again by the CPU. So each use walks with a pointer of its own, whose step holds a zero unknown to LLVM.
"""

from tvm import ir, tirx
from tvm.script.ir_builder import tirx as T

TASK_BITS = 29
"""A task's number has fewer: its bits from here on are zero."""

WALKERS = 2
"""So many different shifts leave nothing of a task's number, which is an int32."""


def unknown_zeros(task: ir.Expr) -> list[ir.Expr]:
    """Zeros, each known to nobody before the task runs."""
    highs = (tirx.shift_right(task, tirx.const(TASK_BITS + place, "int32")) for place in range(WALKERS))
    return [T.bind(tirx.Cast("int64", T.bind(high))) for high in highs]


def walk(block: ir.Expr, step: int, zero: ir.Expr) -> ir.Expr:
    """`block * step`, as a walk of its own."""
    return tirx.Cast("int64", block) * (zero + step)
