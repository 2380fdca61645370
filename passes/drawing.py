"""Relax operators of stochastic rounding: a tensor of random words, and roundings that read one.

words = lowprec.words(step)          of a tensor's key, shape and axes in memory, see `schedules.noise`
y = lowprec.draw(x, words)           to whole numbers; draw_bfloat16 and draw_float16: to those, as float32
"""

from collections.abc import Callable, Sequence

from tvm import ir, relax, tirx
from tvm.ir import Expr

from lowprec.passes.registering import register
from lowprec.schedules import drawing
from lowprec.schedules.views import WORDS

WORDS_OP = "lowprec.words"
DRAWS: dict[str, Callable[[Expr, Expr], Expr]] = {
    "lowprec.draw": drawing.draw,
    "lowprec.draw_bfloat16": drawing.draw_bfloat16,
    "lowprec.draw_float16": drawing.draw_float16,
}


def words(step: relax.Expr, key: Sequence[int], shape: Sequence[int], order: Sequence[int]) -> relax.Expr:
    """The words of a tensor of physical `shape`, whose axis i is the logical axis `order[i]`."""
    lists = (relax.ShapeExpr([tirx.const(int(n), "int64") for n in numbers]) for numbers in (key, shape, order))
    return relax.Call(ir.Op.get(WORDS_OP), [step, *lists])


def parameters(call: relax.Call) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """The key, shape and order of words."""
    key, shape, order = (tuple(int(n) for n in numbers.values) for numbers in call.args[1:])
    return key, shape, order


def drawn(x: relax.Expr, random: relax.Expr, kind: str = "") -> relax.Expr:
    """x rounded by words, to whole numbers or to a `kind` of float."""
    return relax.Call(ir.Op.get(f"lowprec.draw_{kind}" if kind else "lowprec.draw"), [x, random])


register(WORDS_OP, lambda call: relax.TensorType(parameters(call)[1], WORDS))
for _name, _function in DRAWS.items():
    register(_name, lambda call: call.args[0].ty, _function)
